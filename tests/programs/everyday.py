"""Cookies, limits of forms and the triggers that come along, in every placement.

`/sync/login`, `/thread/login`, `/asnc/login`, `/pool/login` run one handler.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import Any, Callable, Dict, List, Tuple, Union

from pixie_web import (
    Pixie,
    Response,
    RouteType,
    app,
    check_preconditions,
    compress,
    etag,
    same_origin,
    static_file,
)

PLACES = {
    "sync": RouteType.sync,
    "thread": RouteType.thread,
    "asnc": RouteType.asnc,
    "pool": RouteType.pool,
}
Verbs = Union[str, List[str]]
CASES: List[Tuple[str, Verbs, Callable[..., Any], Dict[str, Any]]] = []


def case(
    path: str, method: Verbs = "GET", **options: Any
) -> Callable[[Callable[..., Any]], Any]:
    """Declare a handler for all placements."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        CASES.append((path, method, function, options))
        return function

    return declare


# Cookies.


@case("/login")
def login(env):
    response = Response("hello")
    response.set_cookie("user", {"id": 7})
    response.set_cookie("theme", "dark", secret=False)
    response.delete_cookie("old")
    return response


@case("/who")
def who(env):
    return {
        "user": env.cookie("user"),
        "theme": env.cookie("theme", secret=False),
        "signed theme": env.cookie("theme", "none"),
    }


@case("/unsigned")
def unsigned(env):
    response = Response("hello")
    response.set_cookie("user", {"id": 7}, secret=False)
    return response


@case("/too-large")
def too_large(env):
    response = Response("hello")
    response.set_cookie("user", "x" * 3500)
    return response


# Forms.


@case("/form", "POST")
def form(env):
    return {"fields": len(list(env.form.items())), "files": len(env.files)}


@case("/query")
def query(env):
    return {"fields": len(env.query)}


@case("/told", "POST")
def told(env):
    return {"said": env.json}


# Triggers that come along.


TEXT = "größer " * 500


@case("/change", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def change(env):
    return f"{env.method} done"


@case("/tagged", after=[etag])
def tagged(env):
    return Response("tagged", headers={"X-Kept": "1", "Content-Language": "en"})


@case("/own-tag", ["GET", "POST"], after=[etag])
def own_tag(env):
    response = Response({"version": 7}, cookies={"a": "1"})
    response.etag("v7", weak=True)
    return response


@case("/untagged", after=[etag])
def untagged(env):
    return "an error is not tagged", 404


@case("/document", ["GET", "PUT", "DELETE"])
def document(env):
    version = env.query.get("version")
    check_preconditions(env, version, modified=1_000_000_000.5)
    response = Response(f"{env.method} went on")
    if version is not None:
        response.etag(version)
    return response


@case("/long", after=[etag, compress])
def long(env):
    response = Response(TEXT)
    for name in ("vary", "cache-control", "content-type", "content-encoding"):
        if name in env.query:
            response.headers[name] = env.query[name]
    response.status = env.query.get("status", 200, type=int)
    return response


@case("/short", after=[compress])
def short(env):
    return "x" * env.query.get("size", 499, type=int)


@case("/json", after=[compress])
def json(env):
    return {"text": TEXT}


@case("/file", after=[etag, compress])
def file(env):
    return static_file("everyday.py", env.app.import_name)


# Streams: an iterator, or an async one, in the placements that take them.


def pieces(env):
    yield Response("first\n", content_type="text/plain")
    for number in range(env.query.get("to", 3, type=int)):
        yield f"{number}\n"
    if "fail" in env.query:
        raise ValueError("in the middle")
    yield "last\n"


async def pieces_async(env):
    for piece in pieces(env):
        yield piece


def endless(env):
    """Yield for ever, and note how far that came."""
    number = 0
    try:
        while True:
            number += 1
            yield os.urandom(50_000).hex()
    finally:
        with open(env.query["note"], "w") as note:
            note.write(str(number))


async def endless_async(env):
    generator = endless(env)
    try:
        for piece in generator:
            yield piece
    finally:
        generator.close()


def tagged_pieces(env):
    """Yield a tagged response, and note that it was closed there."""
    response = Response("first\n")
    response.etag("v1")
    try:
        yield response
        yield "last\n"
    finally:
        with open(env.query["note"], "a") as note:
            note.write("closed")


async def tagged_pieces_async(env):
    response = Response("first\n")
    response.etag("v1")
    try:
        yield response
        yield "last\n"
    finally:
        with open(env.query["note"], "a") as note:
            note.write("closed")


def waiting(env):
    """Yield a piece for each file that appears."""
    yield "ready\n"
    for name in ("one", "two"):
        while not os.path.exists(env.query["directory"] + "/" + name):
            time.sleep(0.005)
        yield name + "\n"


async def waiting_async(env):
    yield "ready\n"
    for name in ("one", "two"):
        while not os.path.exists(env.query["directory"] + "/" + name):
            await asyncio.sleep(0.005)
        yield name + "\n"


# All of it, everywhere.


def as_coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
    async def handler(env):
        return function(env)

    return handler


app.secrets = ("the new one, of today", "the old one, of before")
app.before(partial(same_origin, trusted=["https://pay.example"]))
for prefix, place in PLACES.items():
    part = Pixie(os.path.dirname(__file__))
    part.before(partial(same_origin, trusted=["https://pay.example"]))
    for path, method, function, options in CASES:
        handler = as_coroutine(function) if place is RouteType.asnc else function
        part.route(path, place, method, **options)(handler)
    for function in (pieces, endless, tagged_pieces, waiting):
        if place is RouteType.asnc:
            function = globals()[f"{function.__name__}_async"]
        path = "/" + function.__name__.replace("_async", "")
        kind = RouteType.stream if place is RouteType.pool else place
        part.route(path, kind, after=[etag, compress])(function)
    app.mount(f"/{prefix}", part)


@app.error(404)
def not_found(env, error):
    response = Response(f"{env.cookie('user')} is lost", 404, "text/plain")
    response.set_cookie("lost", [1])
    return response


if __name__ == "__main__":
    app.run()
