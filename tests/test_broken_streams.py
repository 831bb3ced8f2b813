"""Answers that break off: one record says why, and the access line says so too."""

from __future__ import annotations

import re
import signal
import socket
from typing import Callable, Iterator, List

import pytest
from pooling import (
    answer_on,
    asking,
    half_close,
    hang_up,
    head_of,
    make,
    reset,
    wait_for_note,
)
from support import LOOPS, Server, read_all, read_until, serve

PROGRAM = r"""
import asyncio, os, sys, time
from pixie_web import Response, RouteType, abort, route, run, static_file

def wait(name):
    while not os.path.exists(name):
        time.sleep(0.005)

def break_off(how):
    if how == "raise":
        raise ValueError("on purpose")
    if how == "exit":
        sys.exit("on purpose")
    if how == "abort":
        abort(404, "on purpose")
    if how == "deadline":
        raise TimeoutError("on purpose")  # no deadline of ours
    return 42  # which is no chunk

def declare(place):
    name = place.name

    @route(f"/{name}/break/<how>", place)
    def fails(env, how):
        yield "first"
        yield break_off(how)

    @route(f"/{name}/close", place)
    def fails_when_closed(env):
        try:
            yield "first"
            while True:
                if place is not RouteType.sync:
                    time.sleep(0.005)
                yield "more"
        finally:
            open(f"closed-{name}", "w").close()

    if place is not RouteType.sync:
        @route(f"/{name}/hang", place, timeout=0.2)
        def hangs(env):
            yield "first"
            time.sleep(1 if name == "thread" else 1000)

for place in (RouteType.sync, RouteType.thread, RouteType.stream):
    declare(place)

@route("/asnc/break/<how>")
async def fails(env, how):
    yield "first"
    yield break_off(how)

@route("/asnc/close")
async def is_closed(env):
    try:
        yield "first"
        while True:
            await asyncio.sleep(0.005)
            yield "more"
    finally:
        open("closed-asnc", "w").close()

@route("/asnc/hang", timeout=0.2)
async def hangs(env):
    yield "first"
    await asyncio.sleep(1000)

@route("/asnc/rude")
async def fails_when_cancelled(env):
    yield "first"
    try:
        open("in-rude", "w").close()
        await asyncio.sleep(1000)
    finally:
        raise ValueError("on purpose")

@route("/stream/die/<how>")
def dies(env, how):
    yield "first"
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), int(how))
    time.sleep(1000)

@route("/none/<name>", on_disconnect="stop")
def gives_no_answer(env, name):
    open(f"in-{name}", "w").close()
    wait("never")

@route("/shrinks", RouteType.sync)
def a_file_that_shrinks(env):
    return static_file("shrinks", os.getcwd(), cache=False)

@route("/whole/<size:int>")
def whole(env, size):
    return "x" * size

run(workers=1, max_crashes=0)
"""

PLACES = ["sync", "thread", "asnc", "stream"]


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve(PROGRAM, loop=request.param) as one:
        yield one


def records(server: Server, mark: int) -> List[str]:
    """Return what has been logged, without what is known to go well."""
    assert server.get("/whole/1").text == "x"  # all that came sooner has been written
    lines = "".join(server.log.splitlines(True)[mark:])
    _, *found = re.split(r"(?m)^(?=[-\d]+ [:,\d]+ [A-Z]+ )", lines)
    return [one for one in found if " INFO " not in one]


def access_line(server: Server, path: str, mark: int) -> List[str]:
    """Wait for a request's line; return its status, bytes and outcome."""
    pattern = re.compile(f'"GET {path} HTTP/1.[01]" ')
    words = server.wait_for_log(pattern, mark).rpartition('"')[2].split()
    assert len(words) == 6
    return [*words[:2], words[-1]]


def was_reset(one: socket.socket) -> bool:
    """Read to the end of a connection, and return whether that was a reset."""
    try:
        while one.recv(65_536):
            pass
    except ConnectionResetError:
        return True
    return False


def ask(server: Server, path: str) -> bytes:
    return server.raw(head_of(path))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "how, error",
    [
        ("raise", "ValueError: on purpose"),
        ("abort", "HTTPError: 404 on purpose"),
        ("exit", "HandlerLeft: the handler left by SystemExit('on purpose')"),
        ("deadline", "TimeoutError: on purpose"),
        ("type", "TypeError: a stream yields str or bytes, not int"),
    ],
)
def test_a_stream_that_fails_is_one_record_with_its_cause(
    server: Server, place: str, how: str, error: str
) -> None:
    mark = server.mark()
    path = f"/{place}/break/{how}"
    data = ask(server, path)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.endswith(b"\r\n5\r\nfirst\r\n")
    assert access_line(server, path, mark) == ["200", "5", "failed"]
    (record,) = records(server, mark)
    route = f"/{place}/break/<how>"
    where = f"GET {path} failed in {route} ({place}), in the middle of its answer\n"
    assert f" ERROR {where}  Traceback (most recent call last):" in record
    assert record.rstrip().endswith(error)
    assert ", in fails\n" in record or how == "type"


@pytest.mark.parametrize(
    "how, cause",
    [("exit", "ended with exit code 7"), ("9", "was killed by SIGKILL")],
)
def test_a_worker_that_dies_in_a_stream_is_one_record(
    server: Server, how: str, cause: str
) -> None:
    mark = server.mark()
    path = f"/stream/die/{how}"
    assert ask(server, path).endswith(b"\r\n5\r\nfirst\r\n")
    assert access_line(server, path, mark) == ["200", "5", "failed"]
    server.wait_for_log(cause, mark)
    (record,) = records(server, mark)
    assert f"{cause} while it ran /stream/die/<how>" in record
    assert "Traceback" not in record


@pytest.mark.parametrize("place", ["thread", "asnc", "stream"])
def test_a_stream_that_is_too_slow_is_one_record(server: Server, place: str) -> None:
    mark = server.mark()
    path = f"/{place}/hang"
    assert ask(server, path).endswith(b"\r\n5\r\nfirst\r\n")
    assert access_line(server, path, mark) == ["200", "5", "timeout"]
    if place == "stream":
        server.wait_for_log(f"was stopped while it ran {path}", mark)
    first, *others = records(server, mark)
    assert f" WARNING {path} ran longer than its timeout of 0.2 s\n" in first
    assert len(others) == (place == "stream")  # its worker's end, and where it was


# The others go on then: who says that no more will come may still read.
LEAVE_BY_HALF = ["asnc", "stream"]


@pytest.mark.parametrize(
    "place, leave",
    [(place, leave) for leave in (reset, hang_up) for place in PLACES]
    + [(place, half_close) for place in LEAVE_BY_HALF],
)
def test_a_client_that_leaves_a_stream_is_no_failure(
    server: Server, place: str, leave: Callable[[socket.socket], None]
) -> None:
    mark = server.mark()
    path = f"/{place}/close"
    with asking(server, path) as (one,):
        read_until(one, b"more")
        leave(one)
        wait_for_note(server, f"closed-{place}")
        status, size, outcome = access_line(server, path, mark)
    assert (status, outcome) == ("200", "left")
    assert int(size) >= len("firstmore")
    assert records(server, mark) == []


def test_what_fails_when_its_client_has_left_is_told(server: Server) -> None:
    mark = server.mark()
    with asking(server, "/asnc/rude") as (one,):
        read_until(one, b"first")
        wait_for_note(server, "in-rude")
    assert access_line(server, "/asnc/rude", mark) == ["200", "5", "left"]
    server.wait_for_log("ValueError: on purpose", mark)
    (record,) = records(server, mark)
    assert " ERROR a stream failed while it was closed\n" in record


def test_a_client_of_old_can_tell_a_stream_that_broke_off(server: Server) -> None:
    for path, outcome in ("/asnc/break/raise", "failed"), ("/asnc/close", "left"):
        mark = server.mark()
        with server.connect() as one:
            one.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            read_until(one, b"first")
            if outcome == "left":
                half_close(one)
            # Its end is the end of the connection: only a reset says that more is due.
            assert was_reset(one)
        assert access_line(server, path, mark)[::2] == ["200", outcome]


def test_who_leaves_before_the_answer_has_left(server: Server) -> None:
    mark = server.mark()
    with asking(server, "/none/early"):
        wait_for_note(server, "in-early")
    assert access_line(server, "/none/early", mark) == ["499", "0", "left"]


@pytest.mark.parametrize("size", [0, 10, 100_000, 3_000_000])
def test_a_whole_answer_is_complete(server: Server, size: int) -> None:
    mark = server.mark()
    assert len(server.get(f"/whole/{size}").text) == size
    line = access_line(server, f"/whole/{size}", mark)
    assert line == ["200", str(size), "complete"]


def test_a_refusal_is_complete_for_who_has_half_closed(server: Server) -> None:
    mark = server.mark()
    server.raw(b"x\r\n\r\n", half_close=True)
    assert server.wait_for_log(' "-" 400 ', mark).endswith(" complete\n")


@pytest.mark.parametrize("loop", LOOPS)
def test_what_the_end_of_the_server_cuts_off_was_stopped(loop: str) -> None:
    with serve(PROGRAM, loop=loop, drain_seconds=0.1) as server:
        with asking(server, "/stream/close") as (one,):
            read_until(one, b"more")
            server.process.send_signal(signal.SIGTERM)
            assert not read_all(one).endswith(b"0\r\n\r\n")
        assert server.wait() == 0
        assert access_line(server, "/stream/close", 0)[::2] == ["200", "stopped"]
        assert "Traceback" not in server.log


@pytest.mark.parametrize("loop", LOOPS)
def test_a_file_that_becomes_shorter_has_failed(loop: str) -> None:
    with serve(PROGRAM, loop=loop) as server:
        make(server, "shrinks")
        path = f"/proc/{server.pid}/cwd/shrinks"
        with open(path, "wb") as file:
            file.truncate(50_000_000)
        with server.connect(receive_buffer_bytes=4096) as one:
            one.sendall(head_of("/shrinks"))
            read_until(one, b"\0")
            with open(path, "wb") as file:
                file.truncate(1_000)
            read_all(one)
        assert access_line(server, "/shrinks", 0)[::2] == ["200", "failed"]
        with asking(server, "/whole/5") as (one,):
            assert answer_on(one).text == "xxxxx"
