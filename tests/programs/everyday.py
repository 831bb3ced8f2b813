"""Cookies, limits of forms and the triggers that come along, in every placement.

`/sync/login`, `/thread/login`, `/asnc/login`, `/pool/login` run one handler.
"""

from __future__ import annotations

from typing import Any, Callable, List, Tuple

from pixie_web import Pixie, Response, RouteType, app

PLACES = {
    "sync": RouteType.sync,
    "thread": RouteType.thread,
    "asnc": RouteType.asnc,
    "pool": RouteType.pool,
}
CASES: List[Tuple[str, str, Callable[..., Any]]] = []


def case(path: str, method: str = "GET") -> Callable[[Callable[..., Any]], Any]:
    """Declare a handler for all placements."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        CASES.append((path, method, function))
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


# All of it, everywhere.


def as_coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
    async def handler(env):
        return function(env)

    return handler


app.secrets = ("new", "old")
for prefix, place in PLACES.items():
    part = Pixie(prefix)
    for path, method, function in CASES:
        handler = as_coroutine(function) if place is RouteType.asnc else function
        part.route(path, place, method)(handler)
    app.mount(f"/{prefix}", part)


@app.error(404)
def not_found(env, error):
    response = Response(f"{env.cookie('user')} is lost", 404, "text/plain")
    response.set_cookie("lost", [1])
    return response


if __name__ == "__main__":
    app.run()
