"""Sessions in every placement: /cookie/pool/login, /state/asnc/me and so on."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Tuple

from pixie_web import (
    Pixie,
    Response,
    Sessions,
    abort,
    app,
    etag,
    redirect,
    static_file,
)

CASES: List[Tuple[str, Callable[..., Any], Dict[str, Any]]] = []
HERE = os.path.dirname(os.path.abspath(__file__))


def case(path: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        CASES.append((path, function, options))
        return function

    return declare


@case("/plain")
def plain(env):
    return "no session here"


@case("/login")
def login(env):
    env.session.renew()
    env.session["user"] = env.query["user"]
    redirect("me")


@case("/me")
def me(env):
    return dict(env.session)


@case("/put")
def put(env):
    for name, value in env.query.items():
        env.session[name] = value
    return dict(env.session)


@case("/nested")
def nested(env):
    env.session.setdefault("cart", []).append(env.query["item"])
    return env.session["cart"]


@case("/drop")
def drop(env):
    del env.session[env.query["name"]]
    return "dropped"


@case("/logout")
def logout(env):
    env.session.clear()
    return "bye"


@case("/again")
def again(env):
    env.session.clear()
    env.session["after"] = "clear"
    return "again"


@case("/large")
def large(env):
    env.session["kept"] = 1
    try:
        env.session["x"] = "x" * env.query.get("size", type=int)
    except ValueError as error:
        return {"error": str(error), "names": list(env.session)}
    return {"names": list(env.session)}


@case("/large-inside")
def large_inside(env):
    env.session["list"] = inside = []
    inside.append("x" * 70_000)
    return "never sent"


@case("/fails")
def fails(env):
    env.session["user"] = "lost"
    raise ValueError("after the change")


@case("/unsendable")
def unsendable(env):
    env.session.renew()
    env.session["user"] = "lost"
    return Response("never sent", headers={"Connection": "close"})


@case("/missing")
def missing(env):
    env.session["seen"] = "404"
    abort(404)


@case("/public")
def public(env):
    if "put" in env.query:
        env.session["x"] = 1
    return Response(
        f"{len(env.session)}", headers={"Cache-Control": env.query["control"]}
    )


HELD = Response("the same for all")


@case("/held")
def held(env):
    env.session["user"] = env.query["user"]
    return HELD


@case("/file")
def file(env):
    env.session["file"] = env.session.get("file", 0) + 1
    return static_file("remembering.py", HERE)


@case("/tagged", after=[etag])
def tagged(env):
    env.session["tagged"] = env.session.get("tagged", 0) + 1
    return "the same text"


def put_by_def(env):
    env.session["def"] = 1


async def put_by_async(env):
    env.session["async"] = env.session.get("async", 0) + 1


async def look_by_async(env):
    return None if env.session.get("user") else "who are you?"


async def put_too_late(env, response):
    env.session["late"] = 1


async def look_late(env, response):
    response.headers["X-Late"] = env.session.get("user", "nobody")


@case("/triggered", before=[put_by_async, put_by_def])
def triggered(env):
    env.session["handler"] = env.session["async"] + env.session["def"]
    return dict(env.session)


@case("/guarded", before=[look_by_async])
def guarded(env):
    return "inside"


@case("/passed", before=[put_by_async])
def passed(env):
    return "the handler asks for no session"


@case("/late", after=[put_too_late])
def late(env):
    return "never sent"


@case("/late-look", after=[look_late])
def late_look(env):
    return "text"


def stream(env):
    env.session["stream"] = "first"
    yield "begun "
    try:
        env.session["stream"] = "second"
    except Exception as error:
        yield type(error).__name__ + " "
    yield env.session["stream"]


async def stream_async(env):
    for piece in stream(env):
        yield piece


def stream_late(env):
    yield "begun "
    try:
        env.session["stream"] = "late"
    except Exception as error:
        yield type(error).__name__


def as_coroutine(function):
    async def handler(env):
        return function(env)

    return handler


def not_found(env, error):
    return f"{env.session.get('user', 'nobody')} is lost", 404


def declare(store):
    whole = Pixie(__name__, secrets="a secret for sessions in tests")
    whole.sessions = store
    whole.error(404)(not_found)
    for place in ("sync", "thread", "asnc", "pool"):
        for path, function, options in CASES:
            handler = as_coroutine(function) if place == "asnc" else function
            whole.route(f"/{place}{path}", place, **options)(handler)
        kind = "stream" if place == "pool" else place
        function = stream_async if place == "asnc" else stream
        whole.route(f"/{place}/stream", kind)(function)
    whole.route("/pool/stream-late")(stream_late)
    return whole


app.secrets = "the secret of the application above"
app.mount("/cookie", declare("cookie"))
app.mount("/state", declare("state"))
shared = Pixie(__name__)
shared.get("/me")(me)
shared.get("/login")(login)
app.mount("/shared", shared)
app.get("/me")(me)
app.get("/login")(login)

if __name__ == "__main__":
    app.sessions = Sessions(cookie="own", idle_seconds=60)
    app.run()
