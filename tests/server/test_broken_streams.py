"""Answers that break off or can't be given: one record says why, whatever was raised.

The access line says so too, and nothing of the request is left behind.
"""

from __future__ import annotations

import re
import signal
import socket
import sys
from typing import Callable, List, Optional

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
from support import LOOPS, Server, read_all, read_until, serve, server_fixture, wait_for

PROGRAM = r"""
import asyncio, gc, logging, os, sys, time
from pixie_web import RequestTimeout, Response, RouteType, abort, app, route, run
from pixie_web import static_file

class Timeout(BaseException):  # as gevent and eventlet have one
    pass

RAISED = {
    "cancelled": asyncio.CancelledError,
    "own": Timeout,
    "closed": GeneratorExit,
    "interrupt": KeyboardInterrupt,
    "late": RequestTimeout,
    "end": StopIteration,
    "async-end": StopAsyncIteration,
}

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
    if how in RAISED:
        raise RAISED[how]
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

    @route(f"/{name}/closing/<how>", place)
    def fails_while_closed(env, how):
        try:
            yield from fails_when_closed(env)
        finally:
            break_off(how)

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

# The same in each place of a request where a program is called.

def fails_there(env, *response, place="def"):
    when = "after" if response else "before"
    if env.params["where"] == f"{when} {place}":
        break_off(env.params["how"])

async def fails_there_too(env, *response):
    fails_there(env, *response, place="async")

@app.error(LookupError)
def fails_in_the_error_handler(env, error):
    break_off(env.params["how"])

def answers(env, where, how):
    if where == "handler":
        break_off(how)
    if where == "error handler":
        raise LookupError
    if where == "after response":
        env.after_response(lambda: break_off(how))
    return "whole"

triggers = [fails_there, fails_there_too]
for name in ("sync", "thread", "pool"):
    path = f"/{name}/at/<where>/<how>"
    route(path, name, before=triggers, after=triggers)(answers)

@route("/asnc/at/<where>/<how>", before=triggers, after=triggers)
async def answers_async(env, where, how):
    return answers(env, where, how)

app.filter("fails", "[a-z-]+", break_off)

@route("/filter/<how:fails>")
def is_not_called(env, how):
    return "never"

@route("/asnc/forgotten", "asnc")
async def forgotten(env):
    gc.disable()  # until /collect, or it is found sooner and told of
    print("is forgotten", file=sys.stderr, flush=True)
    await asyncio.get_running_loop().create_future()

@route("/collect", "sync")
def collect(env):
    logging.getLogger("asyncio").disabled = True  # it tells of the task as well
    gc.collect()
    gc.enable()
    logging.getLogger("asyncio").disabled = False

@route("/left", RouteType.sync)
def what_is_left(env):
    stats = app.stats()
    active = sum(one["active"] for one in stats["routes"]) - 1
    return [active, stats["threads"]["busy"], stats["pools"][0]["busy"]]

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

@route("/five/<sizes>", "thread")
def says_five(env, sizes):
    response = Response(b"x" * int(size) for size in sizes.split("-"))
    response.stream_bytes = 5
    return response

@route("/whole/<size:int>")
def whole(env, size):
    return "x" * size

run(workers=1, max_crashes=0)
"""

PLACES = ["sync", "thread", "asnc", "stream"]
LAST = b"GET /whole/1 HTTP/1.0\r\nHost: test\r\n\r\n"


server = server_fixture(PROGRAM, LOOPS)


def records(server: Server, mark: int) -> List[str]:
    """Return what has been logged, without what is known to go well."""
    assert server.get("/whole/1").text == "x"  # all that came sooner has been written
    lines = "".join(server.log.splitlines(True)[mark:])
    lines = re.sub(r", request [0-9a-f]+-[0-9a-f]+$", "", lines, flags=re.M)
    _, *found = re.split(r"(?m)^(?=[-\d]+ [:,\d]+ [A-Z]+ )", lines)
    return [one for one in found if " INFO " not in one]


def access_line(server: Server, path: str, mark: int) -> List[str]:
    """Wait for a request's line; return its status, bytes and outcome."""
    pattern = re.compile(f'"GET {path} HTTP/(1.[01]|2)" ')
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


@pytest.mark.parametrize(
    "sizes, sent, error",
    [
        ("5", 5, None),
        ("2-3", 5, None),
        ("2-2", 4, "4 of 5 bytes were sent"),
        ("6", 0, "the body is longer than 5 bytes"),
        ("2-3-1", 5, "the body is longer than 5 bytes"),
        ("3-3", 3, "the body is longer than 5 bytes"),
    ],
)
def test_no_byte_is_sent_behind_the_length_that_was_said(
    server: Server, sizes: str, sent: int, error: Optional[str]
) -> None:
    mark = server.mark()
    # Whatever came behind would be the answer to the second request.
    answer = server.raw(head_of(f"/five/{sizes}") + LAST)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: 5\r\n" in head + b"\r\n"
    body, _, other = rest.partition(b"HTTP/1.1 ")
    assert body == b"x" * sent
    assert other.endswith(b"\r\n\r\nx") is (error is None)
    found = records(server, mark)
    assert len(found) == (error is not None)
    assert error is None or f"PixieError: {error}" in found[0]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "how, error",
    [
        ("raise", "ValueError: on purpose"),
        ("abort", "HTTPError: 404 on purpose"),
        ("exit", "HandlerLeft: the handler left by SystemExit('on purpose')"),
        ("interrupt", "HandlerLeft: the handler left by KeyboardInterrupt()"),
        ("cancelled", "HandlerLeft: the handler left by CancelledError()"),
        ("closed", "HandlerLeft: the handler left by GeneratorExit()"),
        ("own", "HandlerLeft: the handler left by Timeout()"),
        ("late", "HandlerLeft: the handler left by RequestTimeout()"),
        ("end", "RuntimeError: generator raised StopIteration"),
        ("async-end", "RuntimeError: the stream raised StopAsyncIteration"),
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
    if place == "asnc" and "end" in how:
        error = re.sub("(the stream|generator) raised", "async generator raised", error)
    assert record.rstrip().endswith(error)
    forgets = sys.version_info < (3, 9) and (place, how) == ("asnc", "cancelled")
    assert ", in fails\n" in record or how == "type" or forgets


HOWS = {
    "raise": "ValueError",
    "exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "cancelled": "CancelledError",
    "own": "Timeout",
    "late": "RequestTimeout",
    "end": "StopIteration",
    "async-end": "StopAsyncIteration",
    "closed": "GeneratorExit",
}
WHERES = ["handler", "error handler", "after response"]
WHERES += ["before def", "before async", "after def", "after async"]


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("place", ["sync", "thread", "asnc", "pool"])
def test_whatever_is_raised_wherever_is_one_answer_and_one_record(
    server: Server, place: str, where: str
) -> None:
    for how, error in HOWS.items():
        mark = server.mark()
        path = f"/{place}/at/{where}/{how}".replace(" ", "%20")
        answer = server.get(path)
        expected = (200, "whole") if where == "after response" else (500, None)
        assert (answer.status, expected[1] or answer.text) == (expected[0], answer.text)
        server.wait_for_log(re.compile(rf"^ *\S*\b{error}\b", re.M), mark)
        (record,) = records(server, mark)
        assert " ERROR " in record
    wait_for(lambda: server.get("/left").json == [0, 0, 0], "the end of all")


@pytest.mark.parametrize("how, error", HOWS.items())
def test_a_filter_of_a_path_that_fails_is_a_500(
    server: Server, how: str, error: str
) -> None:
    if how == "raise":
        assert server.get(f"/filter/{how}").status == 404  # a ValueError: no match
        return
    mark = server.mark()
    assert server.get(f"/filter/{how}").status == 500
    (record,) = records(server, mark)
    assert f"GET /filter/{how} failed\n" in record and error in record


def test_a_handler_that_nobody_can_wake_ends_its_connection(server: Server) -> None:
    mark = server.mark()
    with asking(server, "/asnc/forgotten") as (one,):
        server.wait_for_log("is forgotten", mark)
        server.get("/collect")
        assert read_all(one) == b""
    assert access_line(server, "/asnc/forgotten", mark) == ["499", "0", "failed"]
    assert server.get("/left").json == [0, 0, 0]


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


@pytest.mark.parametrize("how", ["raise", "exit", "cancelled", "own", "late"])
@pytest.mark.parametrize("place", ["sync", "thread", "stream"])
def test_what_fails_while_it_is_closed_is_one_record(
    server: Server, place: str, how: str
) -> None:
    mark = server.mark()
    path = f"/{place}/closing/{how}"
    with asking(server, path) as (one,):
        read_until(one, b"more")
    assert access_line(server, path, mark)[::2] == ["200", "left"]
    server.wait_for_log(re.compile(rf"^ *\S*\b{HOWS[how]}\b", re.M), mark)
    (record,) = records(server, mark)
    assert " ERROR a stream failed while it was closed\n" in record
    wait_for(lambda: server.get("/left").json == [0, 0, 0], "the end of its thread")


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
def test_nothing_that_failed_holds_up_the_end_of_the_server(loop: str) -> None:
    with serve(PROGRAM, loop=loop, drain_seconds=60) as server:
        for place in PLACES:
            for how in HOWS:
                ask(server, f"/{place}/break/{how}")
                for where in ("handler", "after%20response", "before%20def"):
                    server.get(f"/{place}/at/{where}/{how}")
        assert server.stop() == 0
        assert "waiting for" not in server.log
        assert server.complaints() == []


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
