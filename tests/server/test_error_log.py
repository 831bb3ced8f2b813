"""The error log: no text of a client's, and no exception, makes a record of its own."""

from __future__ import annotations

import io
import logging
import re
from typing import Any, Dict, List, Tuple
from urllib.parse import quote

import pytest
from support import serve

from pixie_web import about
from pixie_web.text import check_record, log_lines

PROGRAM = """
import logging, sys
from pixie_web import RouteType, error, route, run

if "own" in sys.argv:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")

def fail(env):
    raise ValueError(env.query["text"])

async def fail_async(env):
    fail(env)

for placement in (RouteType.sync, RouteType.thread, RouteType.pool):
    route(f"/fail/{placement.name}", placement)(fail)
route("/fail/asnc", "asnc")(fail_async)

def afterwards(env):
    env.after_response(lambda: fail(env))
    return "said"

for placement in (RouteType.sync, RouteType.thread, RouteType.pool):
    route(f"/afterwards/{placement.name}", placement)(afterwards)

@route("/fail/stream", "stream")
def pieces(env):
    yield "one"
    fail(env)

@route("/fail/pieces", "asnc")
async def pieces_async(env):
    yield "one"
    fail(env)

@route("/fail/cause", "pool")
def cause(env):
    try:
        fail(env)
    except ValueError as error:
        raise KeyError(env.query["text"]) from error

@route("/says/<placement>", "pool")
def says(env, placement):
    logging.getLogger("pixie_web").warning("said: %s", env.query["text"])
    return "said"

class Odd(Exception):
    pass

@error(Odd)
def explain(env, error):
    fail(env)

@route("/fail/handler", "sync")
def odd(env):
    raise Odd

run()
"""
FORGED = '2024-11-28 01:10:00,000 INFO 127.0.0.1 "GET /admin HTTP/1.1" 200 5'
TEXTS = [
    f"a\n{FORGED}",
    f"a\r\n{FORGED}\r\n{FORGED}",
    f"\n\n{FORGED}\n",
    f"a\r{FORGED}",
    f"a\x85{FORGED}\u2028{FORGED}\u2029\x0b\x0c{FORGED}",
    f"\x1b[2K\x1b[1G{FORGED}\x1b[8m",
    f"a\n \n{FORGED}",
]
PATHS = [
    *(f"/fail/{name}" for name in ("sync", "thread", "pool", "asnc")),
    *(f"/fail/{name}" for name in ("stream", "pieces", "cause", "handler")),
    *(f"/afterwards/{name}" for name in ("sync", "thread", "pool")),
    "/says/pool",
]
BEGINS = re.compile(
    r"(?!2024)\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ |pixie_web |main "
)


@pytest.mark.parametrize(
    "arguments", [[], ["own"]], ids=["own handler", "the program's"]
)
def test_nobody_forges_a_record(arguments: List[str]) -> None:
    with serve(PROGRAM, arguments=arguments, expects=".") as server:
        for path in PATHS:
            for number, text in enumerate(TEXTS):
                since = server.mark()
                target = f"{path}?n={number}&text={quote(text)}"
                head = f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                server.raw(f"{head}\r\n".encode())  # a stream breaks off
                # What is said of it is there, not lost.
                server.wait_for_log(FORGED, since)
        log = server.log
    assert not set(log) & set(map(chr, [*range(9), *range(11, 32), 127]))
    assert not set(log) & set("\x85\u2028\u2029")
    lines = log.split("\n")
    assert [
        line for line in lines if line and line[0] != " " and not BEGINS.match(line)
    ] == []
    assert sum(FORGED in line for line in lines) >= len(PATHS) * len(TEXTS)


TABLE: List[Tuple[str, str]] = [
    ("", ""),
    ("plain \u00e4 \u65e5 \t tab", "plain \u00e4 \u65e5 \t tab"),
    ("a\nb", "a\n  b"),
    ("a\n\nb\n", "a\n  \n  b\n  "),
    ("a\n b\n\tc", "a\n b\n\tc"),
    ("a\n b\nc", "a\n   b\n  c"),
    ("a\n", "a\n"),
    ("a\n\n", "a\n\n"),
    ("a\r\nb", "a\\x0d\n  b"),
    ("a\rb", "a\\x0db"),
    ("\x00\x1b[0m\x7f\x9f", "\\x00\\x1b[0m\\x7f\\x9f"),
    (
        "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g",
        "a\\x0bb\\x0cc\\x1cd\\x85e\\x2028f\\x2029g",
    ),
]


@pytest.mark.parametrize("text, lines", TABLE)
def test_what_could_begin_a_record_is_indented_or_escaped(
    text: str, lines: str
) -> None:
    assert log_lines(text) == lines
    assert log_lines(lines) == lines  # a worker's come through here a second time
    assert all(line[:1] in ("", " ", "\t") for line in lines.splitlines()[1:])


def logged(method: str, *arguments: Any, **options: Any) -> str:
    """Return what a plain handler of the program writes of a record."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    about.log.addHandler(handler)
    try:
        getattr(about.log, method)(*arguments, **options)
    finally:
        about.log.removeHandler(handler)
    return stream.getvalue()


def test_a_traceback_is_whole_and_goes_on_with_its_record() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        lines = logged("exception", "it %s", "failed").split("\n")
    assert lines[:2] == ["ERROR it failed", "  Traceback (most recent call last):"]
    assert lines[2].startswith("    File ")
    assert lines[-3:] == ["  ValueError: a", "  b", ""]


def test_the_arguments_of_an_ordinary_record_are_left_alone() -> None:
    seen: Dict[str, Any] = {}

    class Seeing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.update(vars(record))

    handler = Seeing()
    about.log.addHandler(handler)
    try:
        about.log.warning("%s of %d", "one", 2)
        assert (seen["msg"], seen["args"]) == ("%s of %d", ("one", 2))
        about.log.warning("%s of %d", "one\n%s", 2)
        assert (seen["msg"], seen["args"]) == ("one\n  %s of 2", ())
    finally:
        about.log.removeHandler(handler)


def test_a_record_that_is_wrong_is_for_its_handler_to_complain_of() -> None:
    record = logging.LogRecord("pixie_web", 30, "", 0, "%d", ("no number",), None)
    assert check_record(record)
    assert (record.msg, record.args) == ("%d", ("no number",))
