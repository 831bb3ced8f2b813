"""The coroutine test: in an `asnc` handler, coroutines do what they do elsewhere.

A handler runs in a Task of its own, in a context of its own, and a stream is pulled
from inside that Task: so timeouts, task groups, cancel scopes and ContextVars work,
across an `await` and across a `yield`.
"""

from __future__ import annotations

import gzip
import importlib.util
import re
import socket
import sys
from pathlib import Path

import pytest
from support import LOOPS, Server, read_all, read_until, server_fixture

PROGRAM = Path(__file__).parents[1] / "programs" / "coroutines.py"
REQUEST = "GET {} HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = "GET {} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

since_311 = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="asyncio.timeout and TaskGroup came with 3.11"
)


def needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


server = server_fixture(PROGRAM, LOOPS, workers=1)


# What a handler may use ---------------------------------------------------------------


@pytest.mark.parametrize(
    "path, expected",
    [
        pytest.param("/timeout", "timed out", marks=since_311),
        pytest.param("/timeout_unmet", "in time", marks=since_311),
        pytest.param("/task_group", "[0,1,2]", marks=since_311),
        pytest.param("/task_group_fails", '["ExceptionGroup",true]', marks=since_311),
        pytest.param("/yield_in_timeout", "one late", marks=since_311),
        pytest.param("/yield_in_task_group", "012", marks=since_311),
        ("/wait_for", "in time"),
        ("/wait_for_done", "done"),
        ("/gather", "[0,1,2]"),
        ("/executor", "5"),
        ("/task", "[1,true]"),
        ("/task_of_stream", "True True True True True"),
        ("/triggers", "triggered"),
        ("/reset", '["one","nobody"]'),
        ("/inherited", '["parent","parent"]'),
        pytest.param("/anyio_group", "[0,1,2]", marks=needs("anyio")),
        pytest.param("/anyio_move_on", '[true,"5"]', marks=needs("anyio")),
        pytest.param("/anyio_fail_after", "failed in time", marks=needs("anyio")),
        pytest.param("/anyio_yield", "one two", marks=needs("anyio")),
    ],
)
def test_a_handler_may_use(path: str, expected: str, server: Server) -> None:
    answer = server.get(path)
    assert (answer.status, answer.text) == (200, expected)


@needs("httpx")
def test_a_handler_may_ask_its_own_server_with_httpx(server: Server) -> None:
    assert server.get("/httpx").json == [
        [200, '["one","nobody"]'],
        [200, "nobody"],
        [200, "[1,true]"],
        [200, "nobody nobody"],
        "True True True True True",
    ]


def test_on_start_runs_in_a_task(server: Server) -> None:
    server.wait_for_log("note: on_start ran in a task")


def test_each_request_has_a_task_of_its_own(server: Server) -> None:
    data = (REQUEST * 3 + CLOSE).format(*["/tasks_differ"] * 4).encode()
    answers = server.raw(data)
    assert (answers.count(b"True"), answers.count(b"False")) == (4, 0)


# ContextVars --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["sync", "thread", "pool", "asnc", "eager", "triggers"]
    + ["sync_stream", "thread_stream", "stream", "asnc_stream"],
)
def test_nothing_leaks_to_the_next_request_of_a_connection(
    name: str, server: Server
) -> None:
    path = f"/var/{name}"
    pipelined = (REQUEST * 4 + CLOSE).format(*[path] * 5).encode()
    with server.connect() as one:
        for _ in range(3):
            one.sendall(REQUEST.format(path).encode())
            read_until(one, b"nobody\r\n0\r\n\r\n" if "stream" in name else b"nobody")
        one.sendall(pipelined)
        rest = read_all(one)
    assert rest.count(b"HTTP/1.1 200 OK") == 5
    assert rest.count(b"nobody") == (10 if "stream" in name else 5)


def test_nothing_leaks_between_connections(server: Server) -> None:
    for name in ("sync", "thread", "pool", "asnc", "eager", "asnc_stream", "stream"):
        assert "somebody" not in server.get(f"/var/{name}").text


# Eager tasks --------------------------------------------------------------------------


def test_what_never_waits_is_answered_without_a_turn_of_the_loop(
    server: Server,
) -> None:
    data = (REQUEST * 7 + CLOSE).format(*["/eager"] * 8).encode()
    turns = [int(found) for found in re.findall(rb"\r\n\r\n(\d+)", server.raw(data))]
    assert len(turns) == 8
    assert len(set(turns)) == (1 if sys.version_info >= (3, 12) else 8)


# Deadlines and cancellation -----------------------------------------------------------


@pytest.mark.parametrize("path", ["/too_slow", "/too_slow_first"])
def test_a_deadline_gives_504_and_runs_finally(path: str, server: Server) -> None:
    mark = server.mark()
    answer = server.get(path)
    assert answer.status == 504
    assert "The request took too long." in answer.text
    server.wait_for_log(f"note: {path[1:]} ended", mark)
    server.wait_for_log(f"{path} ran longer than its timeout of 0.1 s", mark)


def test_a_handler_that_ignores_its_cancellation_is_answered_for(
    server: Server,
) -> None:
    mark = server.mark()
    data = (REQUEST + CLOSE).format("/stubborn", "/gather").encode()
    answers = server.raw(data)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"504", b"200"]
    assert b"too late" not in answers
    server.wait_for_log("note: stubborn goes on", mark)


@pytest.mark.parametrize("name", ["too_slow_stream", "stubborn_stream"])
def test_a_stream_that_pauses_too_long_is_cut(name: str, server: Server) -> None:
    mark = server.mark()
    answer = server.raw(CLOSE.format(f"/{name}").encode())
    assert answer.endswith(b"\r\n\r\n3\r\none\r\n")
    server.wait_for_log(f"note: {name} ended", mark)


@pytest.mark.parametrize("path", ["/cancelled_child", "/cancels_itself"])
def test_a_cancellation_of_its_own_is_an_error(path: str, server: Server) -> None:
    mark = server.mark()
    assert server.get(path).status == 500
    server.wait_for_log(f"failed in {path} (asnc)", mark)


@since_311
def test_a_timeout_that_nobody_catches_is_an_error(server: Server) -> None:
    assert server.get("/timeout_uncaught").status == 500


def test_a_stream_cancelled_at_its_yield_is_cut(server: Server) -> None:
    answer = server.raw(CLOSE.format("/cancels_itself_at_yield").encode())
    assert b"3\r\none\r\n" in answer
    assert not answer.endswith(b"0\r\n\r\n")


# A yield inside asyncio.timeout: PEP 789 ----------------------------------------------


def wait_for_a_full_buffer(server: Server, path: str) -> socket.socket:
    """Ask for a stream and read nothing, so that it soon stands at its `yield`."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(30)
    one.connect(("127.0.0.1", server.port))
    one.sendall(CLOSE.format(path).encode())
    return one


@since_311
def test_a_timeout_reaches_a_handler_that_stands_at_its_yield(server: Server) -> None:
    mark = server.mark()
    with wait_for_a_full_buffer(server, "/yield_in_timeout_slowly") as one:
        server.wait_for_log("note: it timed out at its yield", mark)
        answer = read_all(one)
    assert answer.endswith(b"\r\n7\r\n late 0\r\n0\r\n\r\n")


@since_311
def test_a_timeout_at_a_yield_that_nobody_catches_cuts_the_stream(
    server: Server,
) -> None:
    mark = server.mark()
    with wait_for_a_full_buffer(server, "/yield_in_timeout_uncaught") as one:
        assert b"HTTP/1.1 200 OK" in read_until(one, b"\r\n\r\n")
        assert not read_all(one).endswith(b"0\r\n\r\n")
    server.wait_for_log("TimeoutError", mark)


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize(
    "name, expected",
    [
        ("cancelled_at_its_first_yield", b"one late"),
        ("cancelled_twice", b"0 1 late"),
        ("ends_at_its_first_yield", b"one"),
    ],
)
def test_what_a_handler_yields_is_sent_though_it_is_cancelled_there(
    name: str, expected: bytes, coding: str, server: Server
) -> None:
    answer = server.get(f"/{name}", {"Accept-Encoding": coding})
    assert answer.status == 200
    is_coded = answer.headers["Content-Encoding"] == "gzip"
    body = gzip.decompress(answer.body) if is_coded else answer.body
    assert (body, is_coded) == (expected, coding == "gzip")


# Clients that leave -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["endless", "ticks", "waits"])
def test_finally_runs_when_the_client_of_a_stream_leaves(
    name: str, server: Server
) -> None:
    mark = server.mark()
    with server.connect(4096) as one:
        one.sendall(REQUEST.format(f"/{name}").encode())
        read_until(one, b"\r\n\r\n")
    server.wait_for_log(f"note: {name} ended", mark)


@pytest.mark.parametrize("name", ["endless", "ticks", "waits"])
def test_a_client_may_leave_while_its_stream_begins(name: str, server: Server) -> None:
    # The end of what it sends is read in the turn after its request, or the next.
    for _ in range(20):
        mark = server.mark()
        with server.connect() as one:
            one.sendall(REQUEST.format(f"/{name}").encode())
            one.shutdown(socket.SHUT_WR)
            server.wait_for_log(f"note: {name} ended", mark)


@pytest.mark.parametrize("name", ["fails_while_closed", "thread_fails_while_closed"])
def test_a_stream_that_fails_while_it_is_closed_is_logged(
    name: str, server: Server
) -> None:
    for _ in range(3):
        mark = server.mark()
        with server.connect(4096) as one:
            one.sendall(REQUEST.format(f"/{name}").encode())
            read_until(one, b"\r\n\r\n")
        server.wait_for_log(re.compile("OSError: .*while it was closed"), mark)
    assert server.get("/var/thread").text == "nobody"


@pytest.mark.parametrize("name", ["stops", "finishes"])
def test_what_a_clients_leaving_does_to_a_handler(name: str, server: Server) -> None:
    mark = server.mark()
    with server.connect() as one:
        one.sendall(REQUEST.format(f"/{name}").encode())
        server.wait_for_log(f"note: {name} began", mark)
    server.wait_for_log(f"note: {name} ended", mark)


def test_head_runs_a_stream_to_its_first_yield_and_closes_it(server: Server) -> None:
    for name in ("endless", "ticks", "waits"):
        mark = server.mark()
        assert server.request("HEAD", f"/{name}").status == 200
        server.wait_for_log(f"note: {name} ended", mark)


def test_nothing_is_left_to_complain_about(server: Server) -> None:
    assert server.get("/gather").status == 200
    assert server.complaints() == []
