"""A message board in one file of Python: a form, a redirect, and messages that stay.

    python3 msgboard.py          and open http://localhost:8000

The messages are kept by `shelve`, in the file that MSGBOARD_FILE names, else in
`msgboard.shelf` where the program was started. A shelf must never be used by two
threads at once. So both routes are `RouteType.sync`: they run one after the other, on
the event loop of the main process.

The page itself (template, style) is in `examples/msgboard/`.
"""

from __future__ import annotations

import logging
import os
import shelve
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Tuple

from pixie_web import (
    HTTPError,
    Request,
    RouteType,
    Template,
    app,
    error,
    get,
    post,
    redirect,
    run,
    same_origin,
    static,
    template,
)

HERE = Path(__file__).resolve().parent / "examples" / "msgboard"
FILE = os.path.abspath(os.environ.get("MSGBOARD_FILE") or "msgboard.shelf")

MAX_NAME_CHARS = 60
MAX_TEXT_CHARS = 2000
MAX_BODY_BYTES = 64 * 1024  # of a form; a character may take 12 bytes in it
MAX_MESSAGES = 1000  # then the oldest go
MESSAGES_PER_PAGE = 20

log = logging.getLogger("msgboard")
Template.path = HERE
static("/assets/", str(HERE / "assets"))
app.before(same_origin)  # or any other site could post in the name of its visitors


# The routes ---------------------------------------------------------------------------


@get("/", RouteType.sync)
def index(env: Request) -> str:
    try:
        page = env.query.get("page", 1, type=int)
    except ValueError:
        page = 1
    return show_board(page=page)


@post("/", RouteType.sync, max_body_bytes=MAX_BODY_BYTES)
def add(env: Request) -> Tuple[str, int]:
    name = " ".join(env.form.get("name", "").split())
    text = env.form.get("message", "").replace("\r\n", "\n").strip()
    problem, status = check(name, text)
    if not problem:
        save_message(name, text)
        redirect("/")  # 303: the browser fetches the page; reloading it posts nothing
    return show_board(problem, name, text), status


def check(name: str, text: str) -> Tuple[str, int]:
    """Return what is wrong with a message, "" for nothing, and the status for that."""
    if not name or not text:
        missing = ["your name"] * (not name) + ["a message"] * (not text)
        return f"Please write {' and '.join(missing)}.", 400
    if len(name) > MAX_NAME_CHARS:
        return f"A name has at most {MAX_NAME_CHARS} characters, not {len(name)}.", 413
    if len(text) > MAX_TEXT_CHARS:
        most, length = MAX_TEXT_CHARS, len(text)
        return f"A message has at most {most} characters, not {length}.", 413
    return "", 200


@error(413)
def too_large(env: Request, error: HTTPError) -> str:
    """Answer a form that is over MAX_BODY_BYTES, which was not even read."""
    problem = f"That was far too long: {MAX_TEXT_CHARS} characters, please."
    return show_board(problem)


def show_board(problem: str = "", name: str = "", text: str = "", page: int = 1) -> str:
    """Return the page as HTML; the template escapes whatever people have typed."""
    messages, page, pages = load_page(page)
    return template(
        "board",
        problem=problem,
        name=name,
        text=text,
        messages=messages,
        page=page,
        pages=pages,
        max_name=MAX_NAME_CHARS,
        max_text=MAX_TEXT_CHARS,
    )


# The messages -------------------------------------------------------------------------


class Message(NamedTuple):
    """A message as the template shows it."""

    number: int
    name: str
    text: str
    time: datetime


@contextmanager
def open_shelf() -> Iterator[shelve.Shelf[Any]]:
    """Open the file for one access: what was written is safe when the block ends."""
    try:
        with shelve.open(FILE) as shelf:
            yield shelf
    except Exception as problem:  # Each kind of dbm, and of damage, raises its own.
        log.error("%s can't be used: %s", FILE, problem)
        text = "The messages can't be reached. Please try again in a moment."
        raise HTTPError(503, text) from problem


def load_page(page: int) -> Tuple[List[Message], int, int]:
    """Return the messages of a page, newest first, the page, and how many there are."""
    with open_shelf() as shelf:
        keys = sorted(shelf, reverse=True)
        pages = max(1, -(-len(keys) // MESSAGES_PER_PAGE))
        page = max(1, min(page, pages))
        shown = keys[(page - 1) * MESSAGES_PER_PAGE : page * MESSAGES_PER_PAGE]
        return [load_message(shelf, key) for key in shown], page, pages


def load_message(shelf: shelve.Shelf[Any], key: str) -> Message:
    name, text, seconds = shelf[key]
    return Message(int(key), name, text, datetime.fromtimestamp(seconds, timezone.utc))


def save_message(name: str, text: str) -> None:
    """Keep a message under the next number, so that sorted keys are in time's order."""
    with open_shelf() as shelf:
        keys = sorted(shelf)
        number = int(keys[-1]) + 1 if keys else 1
        shelf[f"{number:010}"] = (name, text, time.time())
        for key in keys[: len(keys) + 1 - MAX_MESSAGES]:
            del shelf[key]


@app.on_start
def check_file() -> None:
    """Refuse to start on a file that can't be used, or every request would fail."""
    load_page(1)


if __name__ == "__main__":
    run()
