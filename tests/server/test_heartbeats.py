"""Heartbeats: what is sent while a stream is silent, and when nothing may be sent."""

from __future__ import annotations

import gzip
import os
import re
import select
import signal
import socket
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Callable, Iterator, List, Tuple

import pytest
from pages import python_blocks
from pooling import head_of, make, wait_for_note
from support import LOOPS, Server, read_until, serve, server_fixture

from pixie_web import Pixie, RouteError, RouteType
from pixie_web.server.exchange import Heartbeat

PROGRAM = r"""
import asyncio, os, time
from pixie_web import Response, RouteType, compress, route, run

BEAT = {"heartbeat": ":\n\n", "heartbeat_seconds": 0.01}
SSE = "text/event-stream"

def wait(name):
    while not os.path.exists(name):
        time.sleep(0.005)

async def wait_async(name):
    while not os.path.exists(name):
        await asyncio.sleep(0.005)

def note(name):
    with open(f"{name}.part", "w") as file:
        file.write(str(os.getpid()))
    os.replace(f"{name}.part", name)

def events(name):
    yield Response(content_type=SSE)
    yield "data: 1\n\n"
    wait(name)
    yield "data: 2\n\n"

async def async_events(env, name):
    yield Response(content_type=SSE)
    yield "data: 1\n\n"
    await wait_async(name)
    yield "data: 2\n\n"

def late(name):
    note(f"in-{name}")
    wait(name)
    yield "data: 1\n\n"

async def async_late(env, name):
    note(f"in-{name}")
    await wait_async(name)
    yield "data: 1\n\n"

route("/asnc/events/<name>", RouteType.asnc, **BEAT)(async_events)
route("/asnc/late/<name>", RouteType.asnc, **BEAT)(async_late)
route("/asnc/gzip/<name>", RouteType.asnc, after=[compress], **BEAT)(async_events)

for place in RouteType.thread, RouteType.stream:
    @route(f"/{place.name}/events/<name>", place, **BEAT)
    def in_events(env, name):
        yield from events(name)

    @route(f"/{place.name}/late/<name>", place, **BEAT)
    def is_late(env, name):
        yield from late(name)

    @route(f"/{place.name}/gzip/<name>", place, after=[compress], **BEAT)
    def in_gzip(env, name):
        yield from events(name)

    @route(f"/{place.name}/slow", place, timeout=1, **BEAT)
    def is_too_slow(env):
        yield "data: 1\n\n"
        time.sleep(2 if place is RouteType.thread else 1000)

@route("/asnc/slow", timeout=1, **BEAT)
async def is_too_slow(env):
    yield "data: 1\n\n"
    await asyncio.sleep(1000)

@route("/pool/events/<name>", **BEAT)
def returns_events(env, name):
    return events(name)

@route("/pool/late/<name>", **BEAT)
def returns_late(env, name):
    return late(name)

@route("/pool/gzip/<name>", after=[compress], **BEAT)
def returns_gzip(env, name):
    return events(name)

@route("/clock", timeout=float("inf"), **BEAT)
async def clock(env):
    yield "tick"
    await asyncio.Event().wait()

@route("/large/<size:int>/<name>", timeout=float("inf"), **BEAT)
def large(env, size, name):
    try:
        note(f"in-{name}")
        yield b"x" * size
        wait(name)
        note(f"woke-{name}")
        yield b"y"
    finally:
        note(f"out-{name}")

@route("/sized/<name>", RouteType.asnc, **BEAT)
async def has_a_length(env, name):
    async def body():
        yield "one"
        await wait_async(name)
        yield "two"
    response = Response(body())
    response.stream_bytes = 6
    return response

@route("/text", **BEAT)
def no_stream(env):
    return "text"

if __name__ == "__main__":
    run(workers=2, send_idle_seconds=float(os.environ.get("IDLE", "60")))
"""
PLACES = ["asnc", "thread", "stream", "pool"]
BEAT = b":\n\n"


server = server_fixture(PROGRAM, LOOPS)


@contextmanager
def started(server: Server, path: str, end: bytes) -> Iterator[socket.socket]:
    """Ask for a path on a connection of its own, and read through `end`."""
    with server.connect() as one:
        one.sendall(head_of(path))
        read_until(one, end)
        yield one


def let_beat(server: Server, times: int = 5) -> None:
    """Wait while another stream gets some heartbeats: so long is this one silent."""
    with started(server, "/clock", b"tick") as one:
        data = b""
        while data.count(BEAT) < times:
            data += one.recv(65_536)


def silence_or_data(server: Server, one: socket.socket) -> bytes:
    """Return what has come while another stream got some heartbeats."""
    let_beat(server)
    has_more = select.select([one], [], [], 0)[0]
    return one.recv(1 << 20) if has_more else b""


def chunks_of(data: bytes) -> List[bytes]:
    """Return the chunks of what a server has sent; it must be whole, and no more."""
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"Transfer-Encoding: chunked" in head
    found = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        chunk, end, rest = rest[:length], rest[length : length + 2], rest[length + 2 :]
        assert (len(chunk), end) == (length, b"\r\n")
        if not length:
            assert rest == b""
            return found
        found.append(chunk)


def from_handler(data: bytes) -> List[bytes]:
    """The same from the handler's first chunk to its last.

    A busy machine may hold up that first chunk or the end: then heartbeats come ahead
    of the one, as soon as the head has been sent, and behind the last.
    """
    chunks = chunks_of(data)
    while chunks[0] == BEAT:
        del chunks[0]
    while chunks[-1] == BEAT:
        del chunks[-1]
    return chunks


# When they come -----------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_silent_stream_has_a_heartbeat(server: Server, place: str) -> None:
    name = f"{place}-silent"
    with server.connect() as one:
        one.sendall(head_of(f"/{place}/events/{name}"))
        data = read_until(one, b"data: 1\n\n")
        # On a busy machine one may have come ahead of the first chunk.
        while data.partition(b"data: 1\n\n")[2].count(BEAT + b"\r\n") < 3:
            data += one.recv(65_536)
        make(server, name)
        data += read_until(one, b"\r\n0\r\n\r\n")
    first, *beats, last = from_handler(data)
    assert (first, last) == (b"data: 1\n\n", b"data: 2\n\n")
    assert set(beats) == {BEAT}
    assert len(beats) >= 3


@pytest.mark.parametrize("place", PLACES)
def test_none_comes_ahead_of_the_head(server: Server, place: str) -> None:
    name = f"{place}-late"
    with server.connect() as one:
        one.sendall(head_of(f"/{place}/late/{name}"))
        wait_for_note(server, f"in-{name}")
        let_beat(server)
        make(server, name)
        data = read_until(one, b"\r\n0\r\n\r\n")
    assert from_handler(data) == [b"data: 1\n\n"]


@pytest.mark.parametrize("place", PLACES)
def test_none_comes_after_the_end(server: Server, place: str) -> None:
    name = f"{place}-end"
    make(server, name)
    with server.connect() as one:
        one.sendall(head_of(f"/{place}/events/{name}"))
        chunks_of(read_until(one, b"\r\n0\r\n\r\n"))
        let_beat(server)
        one.sendall(head_of("/text"))
        assert read_until(one, b"\r\n\r\ntext").startswith(b"HTTP/1.1 200 OK\r\n")


def test_none_comes_inside_a_chunk(server: Server) -> None:
    size = 32 << 20
    with server.connect() as one:
        one.sendall(head_of(f"/large/{size}/inside"))
        pid = int(wait_for_note(server, "in-inside"))
        data = bytearray(read_until(one, b"x" * 1000))
        # It has sent a part of its chunk, and is stopped there; what main has is read.
        os.kill(pid, signal.SIGSTOP)
        try:
            for part in iter(lambda: silence_or_data(server, one), b""):
                assert BEAT not in part
                data += part
        finally:
            os.kill(pid, signal.SIGCONT)
        while len(data) < size:
            data += one.recv(1 << 20)
        make(server, "inside")
        data += read_until(one, b"\r\n0\r\n\r\n")
    chunks = from_handler(bytes(data))
    assert chunks.index(b"y") == len(chunks) - 1
    pieces = [chunk for chunk in chunks if chunk[:1] == b"x"]
    assert b"".join(pieces) == b"x" * size
    assert len(pieces) > 2
    assert chunks[: len(pieces)] == pieces


def test_none_comes_while_the_client_does_not_read(server: Server) -> None:
    size = 100_000
    with server.connect(receive_buffer_bytes=4096) as one:
        one.sendall(head_of(f"/large/{size}/unread"))
        wait_for_note(server, "in-unread")
        let_beat(server, 20)
        make(server, "unread")
        # The end is in the queue behind what has not been read. Where the first chunk
        # was slow to come, beats came ahead of it.
        server.wait_for_log(
            re.compile(r'"GET /large/100000/unread HTTP/1.1" 200 1\d{5} ')
        )
        data = read_until(one, b"\r\n0\r\n\r\n")
    assert from_handler(data) == [b"x" * size, b"y"]


@pytest.mark.parametrize("place", ["asnc", "thread", "stream"])
def test_they_are_no_sign_of_life_to_the_deadline(server: Server, place: str) -> None:
    mark = server.mark()
    data = server.raw(head_of(f"/{place}/slow"))
    assert data.count(BEAT) >= 2
    assert not data.endswith(b"0\r\n\r\n")
    line = server.wait_for_log(f'"GET /{place}/slow HTTP/1.1" 200 ', mark)
    assert line.endswith(" timeout\n")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_takes_nothing_is_cut_off(loop: str) -> None:
    with serve(PROGRAM, loop=loop, environment={"IDLE": "0.3"}) as server:
        with server.connect(receive_buffer_bytes=4096) as one:
            one.sendall(head_of("/large/100000/gone"))
            wait_for_note(server, "in-gone")
            wanted = re.compile(r'"GET /large/100000/gone HTTP/1.1" 200 1\d{5} ')
            line = server.wait_for_log(wanted)
        assert line.endswith(" left\n")
        make(server, "gone")  # its worker was waiting for this, not for the client
        wait_for_note(server, "out-gone")


# What must not have any ---------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_none_comes_in_what_is_compressed(server: Server, place: str) -> None:
    name = f"{place}-gzip"
    with server.connect() as one:
        head = head_of(f"/{place}/gzip/{name}")[:-2]
        one.sendall(head + b"Accept-Encoding: gzip\r\n\r\n")
        data = read_until(one, b"\r\n\r\n")
        let_beat(server)
        make(server, name)
        data += read_until(one, b"\r\n0\r\n\r\n")
    body = b"".join(chunks_of(data))
    assert gzip.decompress(body) == b"data: 1\n\ndata: 2\n\n"


def test_none_comes_in_what_has_a_length(server: Server) -> None:
    with server.connect() as one:
        one.sendall(head_of("/sized/length"))
        data = read_until(one, b"one")
        let_beat(server)
        make(server, "length")
        data += read_until(one, b"two")
    assert b"\r\nContent-Length: 6\r\n" in data
    assert data.endswith(b"\r\n\r\nonetwo")


@pytest.mark.parametrize("place", PLACES)
def test_none_comes_for_head(server: Server, place: str) -> None:
    name = f"{place}-head"
    with server.connect() as one:
        one.sendall(head_of(f"/{place}/events/{name}").replace(b"GET", b"HEAD"))
        assert read_until(one, b"\r\n\r\n").endswith(b"\r\n\r\n")
        let_beat(server)
        one.sendall(head_of("/text"))
        assert read_until(one, b"\r\n\r\ntext").startswith(b"HTTP/1.1 200 OK\r\n")
    make(server, name)


def test_a_client_of_old_gets_them_as_they_are(server: Server) -> None:
    with server.connect() as one:
        one.sendall(b"GET /stream/events/old HTTP/1.0\r\n\r\n")
        data = read_until(one, b"data: 1\n\n" + BEAT)
        make(server, "old")
        data += read_until(one, b"data: 2\n\n")
        assert one.recv(100) == b""
    body = data.partition(b"\r\n\r\n")[2]
    pattern = rb"(:\n\n)*data: 1\n\n(:\n\n)+data: 2\n\n"
    assert re.fullmatch(pattern, body)


def test_they_come_without_workers_too() -> None:
    with serve(PROGRAM, workers=0) as server, server.connect() as one:
        one.sendall(head_of("/stream/events/alone"))
        read_until(one, b"data: 1\n\n\r\n3\r\n" + BEAT)
        make(server, "alone")
        read_until(one, b"\r\n0\r\n\r\n")


# One by one ---------------------------------------------------------------------------


# What is not acknowledged at each beat, a second apart, and what becomes of it:
# "b" a heartbeat is sent, "." none is, "r" the connection is reset. 3.5 s are too long.
@pytest.mark.parametrize(
    "unsent, expected",
    [
        ([0, 0, 0], "bbb"),
        ([3, 0, 3, 0], ".b.b"),
        ([3, 3, 3, 3, 3], "....r"),
        ([0, 3, 3, 3, 3, 3], "b....r"),
        ([9000, 8000, 7000, 6000, 5000, 4000, 3000], "......."),  # slow, but reads
        ([9000, 9000, 9000, 8999, 8999, 8999, 8999, 8999], ".......r"),
        ([9, 9, 9, 0, 9, 9, 9, 0], "...b...b"),
    ],
)
def test_progress_is_what_the_client_acknowledges(
    unsent: List[int], expected: str
) -> None:
    done: List[str] = []
    now = iter(range(100))
    options = SimpleNamespace(send_idle_seconds=3.5)

    def call_later(seconds: float, function: Callable[[], None]) -> str:
        assert (seconds, function) == (15, heartbeat._beat)
        return "timer"

    loop = SimpleNamespace(time=lambda: next(now), call_later=call_later)
    sink = SimpleNamespace(
        server=SimpleNamespace(loop=loop, options=options),
        is_closing=False,
    )

    def reset() -> None:
        done.append("r")
        sink.is_closing = True

    sink.reset = reset
    exchange: Any = SimpleNamespace(sink=sink, send_piece=done.append)
    route = SimpleNamespace(heartbeat="b", heartbeat_seconds=15)
    heartbeat = Heartbeat(exchange, object(), route)
    heartbeat._unsent_bytes = float("inf")
    for count in unsent:
        sink.unsent = lambda count=count: count
        before = len(done)
        heartbeat._beat()
        if len(done) == before:
            done.append(".")
    assert "".join(done) == expected


def test_there_is_none_unless_it_is_asked_for() -> None:
    app = Pixie()
    app.route("/")(lambda env: "")
    app.route("/sse", heartbeat=":\n\n")(lambda env: "")
    app.route("/lines", heartbeat=b"\n", heartbeat_seconds=1)(lambda env: "")
    found: List[Tuple[bytes, float]] = [
        (route.heartbeat, route.heartbeat_seconds) for route in app.routes
    ]
    assert found == [(b"", 15), (b":\n\n", 15), (b"\n", 1)]


@pytest.mark.parametrize(
    "place, options, message",
    [
        ("sync", {"heartbeat": "x"}, "/here is sync: .* write RouteType.stream"),
        ("pool", {"heartbeat": ""}, "a heartbeat is str or bytes to send"),
        ("pool", {"heartbeat": 15}, "got 15 and 15.0"),
        ("pool", {"heartbeat": "x", "heartbeat_seconds": 0}, "more than 0"),
        ("pool", {"heartbeat": "x", "heartbeat_seconds": "1"}, "got 'x' and '1'"),
        ("pool", {"heartbeat": "x", "heartbeat_seconds": True}, "more than 0"),
        ("pool", {"heartbeat": "x", "heartbeat_seconds": float("inf")}, "got 'x'"),
    ],
)
def test_what_can_not_be_is_refused_where_it_is_written(
    place: str, options: Any, message: str
) -> None:
    with pytest.raises(RouteError, match=message):
        Pixie().route("/here", RouteType(place), **options)(lambda env: "")


def test_the_example_of_the_page_runs(root: Any) -> None:
    blocks = python_blocks(root / "docs" / "pool.md")
    (example,) = [block for block in blocks if "heartbeat" in block]
    example = example.replace("heartbeat=", "heartbeat_seconds=0.01, heartbeat=")
    program = f"{example}\nfrom pixie_web import run\nrun()\n"
    with serve(program) as server, server.connect() as one:
        one.sendall(head_of("/news"))
        data = read_until(one, BEAT)
        assert b"\r\nContent-Type: text/event-stream\r\n" in data
