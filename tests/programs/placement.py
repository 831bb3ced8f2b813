"""The same handlers in every placement that can hold them, each below its own prefix.

`/sync/text`, `/thread/text`, `/asnc/text`, `/eager/text`, `/pool/text` ... run one
handler: as it is, as a coroutine that waits (`asnc`) or does not (`eager`), as a
generator (`stream`) or as a plain def that returns one (`pool`, for generators).
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import sys
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from pixie_web import (
    Pixie,
    Response,
    RouteType,
    abort,
    app,
    cached_file,
    redirect,
    static_file,
)

PLACEMENTS = {
    "sync": RouteType.sync,
    "thread": RouteType.thread,
    "asnc": RouteType.asnc,
    "eager": RouteType.asnc,
    "pool": RouteType.pool,
    "stream": RouteType.stream,
}
DIRECTORY = os.environ["PLACEMENT_FILES"]


class Case(NamedTuple):
    path: str
    function: Callable[..., Any]
    asynchronous: Optional[Callable[..., Any]]
    options: Dict[str, Any]


CASES: List[Case] = []


def case(
    path: str = "", asynchronous: Optional[Callable[..., Any]] = None, **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a handler for all placements, by default under its own name."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        name = "/" + function.__name__
        CASES.append(Case(path or name, function, asynchronous, options))
        return function

    return declare


# What a handler may return.


@case(method=["GET", "POST"])
def text(env):
    return "<p>größer</p>"


@case()
def empty_text(env):
    return ""


@case()
def octets(env):
    return b"\x00\xff\r\n"


@case()
def octet_array(env):
    return bytearray(b"array")


@case()
def octet_view(env):
    return memoryview(b"view")


@case()
def mapping(env):
    return {"ü": [1, 2.5, None, True], 1: "</script>", "half": "\ud800"}


@case()
def sequence(env):
    return [1, "zwei"]


@case()
def nothing(env):
    return None


@case()
def pair(env):
    return "made", 201


@case()
def triple(env):
    return {"made": 1}, 201, {"Location": "/made/1", "X-One": "1"}


@case()
def triple_of_pairs(env):
    return "x", 200, [("X-Two", "1"), ("Content-Type", "text/plain")]


@case()
def pair_of_nothing(env):
    return None, 404


@case()
def pair_of_response(env):
    return Response("x", 200, "text/plain"), 202


@case()
def large(env):
    return b"0123456789abcdef" * 65_536


@case()
def whole_response(env):
    response = Response(
        "body", 203, "text/plain", headers=[("X-A", "1"), ("x-a", "2"), ("X-B", "ü")]
    )
    response.headers["X-C"] = "3"
    del response.headers["X-B"]
    return response


@case()
def servers_headers(env):
    headers = {"Content-Length": "7", "Date": "yesterday", "Server": "mine"}
    return Response("x", headers=headers)


@case()
def cookies(env):
    response = Response("x", cookies={"plain": "1"})
    response.set_cookie("text", 'ü; "a",b\r\n')
    response.set_cookie(
        "all", "2", max_age=60, expires=0, path="/a", domain="b.example"
    )
    response.set_cookie("bare", "3", path=None, httponly=False, samesite=None)
    response.set_cookie("strict", "4", samesite="Strict", secure=True)
    response.set_cookie("cross", "5", samesite="None")
    response.set_cookie("open", "6", secure=False)
    response.set_cookie("__Host-x", "7")
    return response.delete_cookie("old", path="/b")


SHARED = Response("shared")


@case()
def shared_response(env):
    return SHARED


@case()
def unknown_status(env):
    return Response("x", 299)


@case("/status/<status:int>", method=["GET", "POST"])
def status(env, status):
    return Response("body", status)


@case("/pair/<status:int>")
def pair_status(env, status):
    return "body", status


@case("/stream/<status:int>")
def stream_status(env, status):
    yield Response("one", status)
    yield "two"


@case()
def file(env):
    return static_file("page.html", DIRECTORY, max_age=60)


@case()
def file_download(env):
    return static_file("page.html", DIRECTORY, mimetype="text/plain", download="ü.txt")


@case()
def file_from_memory(env):
    return cached_file("page.html", DIRECTORY)


@case()
def file_uncached(env):
    return static_file("page.html", DIRECTORY, cache=False)


@case()
def file_with_status(env):
    response = static_file("page.html", DIRECTORY)
    response.status = 404
    response.headers["X-File"] = "yes"
    response.set_cookie("file", "1")
    return response


@case()
def file_missing(env):
    return static_file("none.html", DIRECTORY)


@case()
def file_outside(env):
    return static_file("../placement.py", DIRECTORY)


# Streams.


@case()
def chunks_of_text(env):
    yield "eins "
    yield ""
    yield "zwö"


@case()
def chunks_of_octets(env):
    yield b""
    yield b"\x00"
    yield bytearray(b"\x01")
    yield memoryview(b"\x02")


@case()
def chunks_after_response(env):
    response = Response("first ", 201, "text/plain", {"X-Stream": "1"})
    response.set_cookie("stream", "1")
    yield response
    yield "second"


@case()
def chunks_after_bare_response(env):
    yield Response(None, content_type="text/csv")
    yield "a,b\n"


@case()
def chunks_none(env):
    return
    yield


@case()
def chunks_large(env):
    for _ in range(3):
        yield b"0123456789abcdef" * 20_000


@case()
def chunks_fail_first(env):
    if env is not None:
        raise OSError("not yet")
    yield "never"


@case()
def chunks_abort_first(env):
    abort(409, "no stream")
    yield "never"


@case()
def chunks_redirect_first(env):
    redirect("/elsewhere")
    yield "never"


@case()
def chunks_fail_later(env):
    yield "one"
    raise OSError("broken")


@case()
def chunks_abort_later(env):
    yield "one"
    abort(404)


@case()
def chunks_exit_later(env):
    yield "one"
    sys.exit(3)


@case()
def chunks_of_numbers(env):
    yield 1


@case()
def chunks_number_later(env):
    yield "one"
    yield 2


@case()
def chunks_half_character(env):
    yield "one"
    yield "\ud800"


@case()
def chunks_response_of_chunks(env):
    yield Response(iter(["a"]))


@case()
def iterator_returned(env):
    return iter(["one", b"two"])


@case()
def iterator_in_response(env):
    return Response((c for c in "ab"), 202, "text/plain", {"X-Iterator": "1"})


@case()
def iterator_in_pair(env):
    return map(str, [1, 2]), 201


@case()
def iterator_of_response(env):
    return iter([Response("a", 418), "b"])


# Errors.


@case()
def aborted(env):
    abort(418, "no <coffee>")


@case()
def aborted_bare(env):
    abort(403)


@case()
def aborted_json(env):
    abort(422, {"problem": ["<größe>", None]})


@case()
def aborted_handled(env):
    abort(410, "it went")


@case()
def own_attribute(env):
    env.start = 1


@case()
def set_status(env):
    Response("x").status = "201 Created"


@case()
def redirected(env):
    redirect("/größe?a=b c&d=%20")


@case()
def redirected_for_good(env):
    redirect("https://example.com/", 308)


@case()
def redirected_badly(env):
    redirect("/a\r\nSet-Cookie: evil=1")


@case()
def raised(env):
    raise ZeroDivisionError("secret detail")


class Awkward(Exception):
    """What pickle can't bring back."""

    def __init__(self, one, two):
        super().__init__(one + two)


@case()
def raised_awkward(env):
    raise Awkward("a", "b")


class Shop(Exception):
    pass


class SoldOut(Shop):
    pass


class Unwell(Shop):
    pass


@case()
def raised_handled(env):
    raise Shop("closed")


@case()
def raised_handled_closer(env):
    raise SoldOut("bread")


@case()
def raised_handler_fails(env):
    raise Unwell("")


@case()
def raised_stop_iteration(env):
    raise StopIteration("odd")


@case()
def raised_cancelled(env):
    raise asyncio.CancelledError


@case()
def raised_generator_exit(env):
    raise GeneratorExit


@case()
def raised_keyboard_interrupt(env):
    raise KeyboardInterrupt


@case()
def left(env):
    sys.exit(0)


@case()
def left_with_text(env):
    sys.exit("bye")


@case()
def unusable(env):
    return {1, 2}


@case()
def unusable_number(env):
    return 5


@case()
def unusable_body(env):
    return Response(5)


@case()
def unusable_tuple(env):
    return "a", "b"


@case()
def unusable_status(env):
    return "a", 99


@case()
def unusable_list(env):
    return {"a": {1}}


@case()
def unusable_type(env):
    return Response


@case()
def not_a_number(env):
    return {"a": float("nan")}


@case()
def half_a_character(env):
    return "a\ud800"


@case()
def bad_header(env):
    return Response("x", headers={"X-Bad": "a\r\nX-Evil: 1"})


@case()
def bad_header_name(env):
    return Response("x", headers={"X Bad": "a"})


@case()
def bad_content_type(env):
    return Response("x", content_type="text/html\r\nX-Evil: 1")


@case()
def bad_content_type_later(env):
    response = Response("x")
    response.content_type = "text/html\nX-Evil: 1"
    return response


@case()
def bad_hop_by_hop(env):
    return Response("x", headers={"Transfer-Encoding": "chunked"})


@case()
def bad_hop_by_hop_stream(env):
    yield Response("x", headers={"Connection": "close"})


@case()
def bad_cookie(env):
    return Response("x", cookies={"a b": "1"})


# What a request brings.


@case(method=["GET", "POST", "PUT"])
def request_line(env):
    url = env.url.replace(env.prefix, "", 1)
    line = [env.method, env.path, env.query_string, env.protocol, env.scheme, env.host]
    return [*line, url, env.client[0], env.route.path, env.disconnected]


@case()
def request_headers(env):
    lines = [pair for pair in env.headers.items() if pair[0].startswith("X-")]
    return [lines, env.header("x-ONE"), env.header("none"), env.headers.getall("x-two")]


@case()
def request_query(env):
    query = env.query
    number = query.get("n", 0, type=int)
    return [list(query.items()), query.getall("a"), query.get("z", "none"), number]


@case()
def request_missing(env):
    return env.query["missing"]


@case()
def request_cookies(env):
    return [env.cookies, env.cookie("a"), env.cookie("none", "default")]


@case(method="POST")
def request_json(env):
    return [env.json]


@case(method="POST")
def request_text(env):
    return env.text


@case(method="POST")
def request_body(env):
    return hashlib.sha256(env.body).hexdigest() + f" {len(env.body)}"


@case(method="POST")
def request_form(env):
    return [list(env.form.items()), env.form.get("n", type=int), len(env.files)]


@case(method="POST")
def request_files(env):
    files = []
    for name, upload in env.files.items():
        content = upload.file.read()
        digest = hashlib.sha256(content).hexdigest()
        files.append([name, upload.filename, upload.content_type, len(content), digest])
    return [list(env.form.items()), files]


@case(method="POST", max_body_bytes=10)
def request_limited(env):
    return env.body


@case("/wild/<a>/<n:int>/<x:float>/<r:re:[a-z]{2}>/<e:even>/<p:path>")
def wildcards(env, a, n, x, r, e, p):
    return [a, n, x, r, e, p, list(env.params)]


# Triggers.


def guard(env):
    if env.header("x-key") == "none":
        return "no key", 401, {"WWW-Authenticate": "Key"}
    if env.header("x-key") == "wrong":
        abort(403, "wrong key")
    if env.header("x-key") == "broken":
        raise Shop("trigger")
    env.context["key"] = env.header("x-key")
    return None


async def guard_on_loop(env):
    await asyncio.sleep(0)
    if env.header("x-token") == "none":
        return {"token": None}, 401
    if env.header("x-token") == "wrong":
        abort(403, "wrong token")
    if env.header("x-token") == "broken":
        raise Shop("async trigger")
    env.context["token"] = [env.header("x-token"), "größe", None]
    return None


def stamp(env, response):
    kind = "bytes" if isinstance(response.body, bytes) else "other"
    response.headers["X-Stamp"] = f"{response.status} {kind}"
    response.set_cookie("stamp", "1")


def replace(env, response):
    if env.header("x-replace") == "yes":
        return "replaced", 299
    if env.header("x-replace") == "stream":
        return iter(["re", "placed"])
    if env.header("x-replace") == "broken":
        raise Shop("after")
    return None


async def stamp_on_loop(env, response):
    await asyncio.sleep(0)
    type_before = str(response.content_type)
    response.headers["X-Loop"] = type_before
    response.set_cookie("loop", "1")
    if env.header("x-type") == "new":
        response.content_type = "text/new"
    if env.header("x-type") == "replaced":
        return "replaced on the loop", 298
    if env.header("x-type") == "stream":
        return iter(["on ", "loop"])
    if env.header("x-type") == "broken":
        raise Shop("async after")
    return None


TRIGGERS = {
    "before": [guard, guard_on_loop],
    "after": [stamp, replace, stamp_on_loop],
}


@case(**TRIGGERS)
def triggered(env):
    return Response([env.context], 200, headers={"X-Handler": "1"}, cookies={"a": "b"})


@case(**TRIGGERS)
def triggered_stream(env):
    yield Response(str(env.context), 200, "text/plain", cookies={"a": "b"})
    yield "end"


@case(**TRIGGERS)
def triggered_file(env):
    return static_file("page.html", DIRECTORY)


@case(**TRIGGERS)
def triggered_error(env):
    raise SoldOut("all")


# Time.


async def sleep_on_loop(env):
    await asyncio.sleep(60)


def sleep_in_pieces():
    """Sleep so that a thread which is told to end can do so with the process."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        time.sleep(0.05)


@case(asynchronous=sleep_on_loop, timeout=0.2)
def too_slow(env):
    sleep_in_pieces()


# Each placement.


def as_coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
    async def handler(env, **args):
        await asyncio.sleep(0)
        return function(env, **args)

    return handler


def as_eager_coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
    async def handler(env, **args):
        return function(env, **args)

    return handler


def as_async_generator(function: Callable[..., Any]) -> Callable[..., Any]:
    async def handler(env, **args):
        for chunk in function(env, **args):
            await asyncio.sleep(0)
            yield chunk
            await asyncio.sleep(0)

    return handler


def as_eager_generator(function: Callable[..., Any]) -> Callable[..., Any]:
    async def handler(env, **args):
        for chunk in function(env, **args):
            yield chunk

    return handler


def as_function(function: Callable[..., Any]) -> Callable[..., Any]:
    def handler(env, **args):
        return function(env, **args)

    return handler


def adapt(one: Case, placement: str) -> Optional[Callable[..., Any]]:
    """Return the handler for a placement, or None where it can't stand."""
    if inspect.isgeneratorfunction(one.function):
        adapters = {
            "asnc": as_async_generator,
            "eager": as_eager_generator,
            "pool": as_function,
        }
    elif placement == "stream":
        return None
    else:
        adapters = {"asnc": as_coroutine, "eager": as_eager_coroutine}
    if placement == "sync" and "timeout" in one.options:
        return None
    if one.asynchronous is not None and placement in ("asnc", "eager"):
        return one.asynchronous
    return adapters.get(placement, lambda function: function)(one.function)


def even(text: str) -> int:
    if int(text) % 2:
        raise ValueError("odd")
    return int(text)


def declare(placement: str) -> None:
    """Mount an application that runs all cases in one placement."""
    application = Pixie(placement)
    application.filter("even", "[0-9]+", even, str)
    application.error(410)(lambda env, error: f"gone: {error.text}")
    application.error(Shop)(lambda env, error: ({"shop": str(error)}, 409))
    application.error(SoldOut)(lambda env, error: Response(f"sold out: {error}", 200))
    application.error(Unwell)(lambda env, error: 1 / 0)
    for one in CASES:
        handler = adapt(one, placement)
        if handler is not None:
            kind = PLACEMENTS[placement]
            application.route(one.path, kind, name=one.path, **one.options)(handler)
    app.mount("/" + placement, application)


for name in PLACEMENTS:
    declare(name)

if __name__ == "__main__":
    app.run()
