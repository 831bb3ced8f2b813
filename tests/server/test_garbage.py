"""An answer leaves nothing to the garbage collector.

With thousands of connections, a collection of all generations holds main for 30 ms.
Reference counts free what has no circle, so it comes seldom; an error in a variable of
a function that its traceback names is the usual circle.
"""

from __future__ import annotations

from typing import List, Tuple

import pytest
from http2_client import (
    END_HEADERS,
    END_STREAM,
    ENDS,
    HEADERS,
    RST,
    asking,
    data,
    headers,
    hello,
    split,
)
from pooling import make
from shapes import IS_SINGLE
from support import LOOPS, Server, read_all, serve, server_fixture, wait_for

PROGRAM = """
import gc, os, time
from pixie_web import HTTPError, RouteType, app, route, run

def answers(env): return "text"
def fails(env): raise ValueError("on purpose")
def refuses(env): raise HTTPError(409)
def reads(env): return env.form.get("a", "none")
def streams(env):
    yield "one"
    yield "two"
def breaks(env):
    yield "one"
    raise ValueError("on purpose")

def asynchronous(function):
    async def handler(env): return function(env)
    return handler

for function in answers, fails, refuses, reads:
    path = function.__name__
    for place in RouteType.sync, RouteType.thread, RouteType.pool:
        options = {"method": ("GET", "POST"), "max_body_bytes": 99}
        route(f"/{place.name}/{path}", place, **options)(function)
    if function is not reads:
        route(f"/asnc/{path}", RouteType.asnc)(asynchronous(function))
for function in streams, breaks:
    for place in RouteType.stream, RouteType.thread, RouteType.sync:
        route(f"/{place.name}/{function.__name__}", place)(function)

app.pool("short", workers=1, max_waiting=1)

@route("/busy", pool="short", queue_timeout=30)
def busy(env):
    while not os.path.exists("enough"):
        time.sleep(0.005)
    return "text"

KNOWN = [[]]

@route("/objects", RouteType.sync)
def objects(env):
    sees = any(one is KNOWN for one in gc.get_objects())
    first = gc.get_threshold()[0]
    return {"frozen": gc.get_freeze_count(), "sees": sees, "first": first}

@route("/begin", RouteType.sync)
def begin(env):
    gc.disable()
    gc.collect()
    return "begun"

@route("/found", RouteType.sync)
def found(env):
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = []
    for one in gc.garbage:  # a transport of asyncio is a circle by itself
        name = f"{type(one).__module__}.{type(one).__name__}"
        if name.startswith("pixie_web") or "frame" in name or "traceback" in name:
            found.append(f"{name} {one}"[:200])
    gc.garbage.clear()
    return {"found": found}

if __name__ == "__main__":
    run(workers=2)
"""
server = server_fixture(PROGRAM, LOOPS)


PLACES = ["sync", "thread", "pool", "asnc"]
PATHS = [
    "/none",
    *(
        f"/{place}/{name}"
        for place in PLACES
        for name in ("answers", "fails", "refuses")
    ),
    *(f"/{place}/streams" for place in ("sync", "thread", "stream")),
    *(f"/{place}/breaks" for place in ("sync", "thread", "stream")),
]


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    kind = "Content-Type: application/x-www-form-urlencoded\r\nConnection: close"
    length = f"Content-Length: {len(body)}"
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\n{kind}\r\n{length}\r\n\r\n"
    return head.encode() + body


def found_after(server: Server, data: bytes) -> Tuple[bytes, List[str]]:
    """Return an answer, and what is left after three of them."""

    def answer() -> bytes:
        with server.connect() as one:
            one.sendall(data)
            return read_all(one)

    first = answer()  # what is made once is made now
    server.get("/begin")
    for _ in range(3):
        answer()
    return first, server.get("/found").json["found"]


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_leaves_no_circle(server: Server, path: str) -> None:
    answer, found = found_after(server, get(path))
    assert answer.startswith(b"HTTP/1.1 ")
    assert found == []


@pytest.mark.parametrize("place", PLACES[:3])
@pytest.mark.parametrize("size, status", [(3, b"200"), (3000, b"413")])
def test_nor_does_one_to_a_body(
    server: Server, place: str, size: int, status: bytes
) -> None:
    data = post(f"/{place}/reads", b"a=" + b"5" * (size - 2))
    answer, found = found_after(server, data)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert found == []


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\n\r\n", b"\0\r\n\r\n"])
def test_nor_does_one_to_no_request(server: Server, head: bytes) -> None:
    answer, found = found_after(server, head)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert found == []


def test_nor_does_a_pool_that_is_busy(server: Server) -> None:
    with server.connect() as first, server.connect() as second:
        first.sendall(get("/busy"))
        second.sendall(get("/busy"))
        wait_for(
            lambda: found_after(server, get("/busy"))[0].startswith(b"HTTP/1.1 503 "),
            "a refusal",
        )
        _, found = found_after(server, get("/busy"))
        make(server, "enough")
        assert read_all(first).endswith(b"text")
        assert read_all(second).endswith(b"text")
    assert found == []


def test_objects_of_the_program_are_looked_at_once(server: Server) -> None:
    answer = server.get("/objects").json
    assert answer["frozen"] > 10_000
    assert not answer["sees"]
    assert answer["first"] == 3000


@pytest.mark.parametrize(
    "own, first",
    [("gc.disable()", 3000), ("gc.set_threshold(0)", 0)]
    + [("gc.set_threshold(5000, 5)", 5000), ("gc.set_threshold(10)", 3000)],
)
def test_a_threshold_that_a_program_has_raised_stays(own: str, first: int) -> None:
    program = f"""
import gc
from pixie_web import RouteType, route, run

{own}

@route("/", RouteType.sync)
def index(env): return {{"first": gc.get_threshold()[0]}}

run()
"""
    with serve(program, workers=0) as server:
        assert server.get("/").json == {"first": first}


def over_http2(server: Server, path: str, body: bytes = b"") -> None:
    """Ask three times on one connection of HTTP/2, and wait for the ends."""
    numbers = {1, 3, 5}
    method, flags = ("POST", END_HEADERS) if body else ("GET", ENDS)
    kind = ("content-type", "application/x-www-form-urlencoded")
    parts = [hello()]
    for number in sorted(numbers):
        parts.append(headers(number, asking(path, kind, method=method), flags))
        parts += [data(number, body, END_STREAM)] * bool(body)
    with server.connect() as one:
        one.sendall(b"".join(parts))
        left = b""
        while numbers:
            part = one.recv(65_536)
            assert part
            frames, left = split(left + part)
            for got in frames:
                if got.kind == RST or (got.kind <= HEADERS and got.flags & END_STREAM):
                    numbers.discard(got.stream)


@pytest.mark.skipif(IS_SINGLE, reason="HTTP/2 is a companion")
@pytest.mark.parametrize(
    "path", [*PATHS, "/sync/reads", "/thread/reads", "/pool/reads"]
)
def test_nor_does_an_answer_over_http2(server: Server, path: str) -> None:
    body = b"a=5" if path.endswith("reads") else b""
    over_http2(server, path, body)
    server.get("/begin")
    over_http2(server, path, body)
    found = server.get("/found").json["found"]
    # The connection itself is one, with its sender and its receiver.
    names = "Request", "Stream", "Exchange", "frame ", "traceback"
    assert [
        one for one in found if any(name in one.split(" <")[0] for name in names)
    ] == []
