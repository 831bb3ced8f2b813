"""What handlers fork, in main and in workers, and how these copies end."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Iterator

import pytest
from pooling import head_of
from support import LOOPS, MATRIX, Server, children, process_is_alive, serve, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
PROGRAM = """
import asyncio, gc, multiprocessing, os, signal, time, warnings
from pixie_web import route, run

warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
processes = multiprocessing.get_context("fork")

def terminate():
    child = processes.Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join()
    return f"exit code {child.exitcode}"

def leave_a_pool():
    with processes.Pool(2) as pool:
        try:
            pool.apply_async(time.sleep, (60,)).get(timeout=0.1)
        except multiprocessing.TimeoutError:
            return "gave up"

def signals():
    reading, writing = os.pipe()
    if os.fork() == 0:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
        found = map(signal.getsignal, numbers)
        text = " ".join(getattr(one, "__name__", None) or one.name for one in found)
        os.write(writing, f"{text} {signal.set_wakeup_fd(-1)}".encode())
        os._exit(0)
    os.wait()
    return os.read(reading, 1000).decode()

def hold():
    gc.collect()  # the pipes of pools that are left
    reading, writing = os.pipe()
    if os.fork() == 0:
        links, heirs = [], 0
        for one in os.listdir("/proc/self/fd"):
            try:
                link = os.readlink(f"/proc/self/fd/{one}")
                heirs += int(one) > 2 and os.get_inheritable(int(one))
            except OSError:  # that of the list itself
                link = ""
            if int(one) > 2 and int(one) not in (reading, writing):
                links.append(link)
        sockets = sum(link[:7] == "socket:" for link in links)
        # Both ends of a pipe of its own are here.
        pipes = sum(link[:5] == "pipe:" and links.count(link) == 1 for link in links)
        text = f"{sockets} sockets, {pipes} pipes to others, {heirs} inheritable"
        os.write(writing, text.encode())
        os._exit(0)
    os.wait()
    return os.read(reading, 1000).decode()

def fork():
    return f"child of {os.getppid()}" if os.fork() == 0 else "parent"

def keep_a_copy():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return str(pid)

for function in (terminate, leave_a_pool, signals, hold, fork, keep_a_copy):
    def handler(env, function=function):
        return function()
    async def in_a_task(env, function=function):
        result = function()
        await asyncio.sleep(0)
        return result
    def piece_by_piece(env, function=function):
        yield "one "
        yield function()
    name = function.__name__
    for where in ("sync", "thread", "pool"):
        route(f"/{where}/{name}", where)(handler)
    route(f"/asnc/{name}", "asnc")(in_a_task)
    for where in ("sync", "thread", "stream"):
        route(f"/{where}/pieces/{name}", where)(piece_by_piece)

@route("/close", "sync")
def close(env):
    return "closed"

run()
"""
PLACES = ["sync", "thread", "asnc", "pool"]


@pytest.fixture(scope="module", params=MATRIX, ids="-".join)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    loop, start = request.param
    with serve(PROGRAM, loop=loop, pool_start=start, workers=1) as running:
        yield running


def ask(server: Server, path: str) -> str:
    answer = server.get(path)
    assert answer.status == 200, server.log
    return answer.text


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(
    "name, says",
    [
        ("terminate", f"exit code {-signal.SIGTERM}"),
        ("leave_a_pool", "gave up"),
        ("signals", "default_int_handler SIG_DFL SIG_DFL SIG_DFL -1"),
    ],
)
def test_what_is_forked_has_the_default_signals(
    server: Server, where: str, name: str, says: str
) -> None:
    mark = server.mark()
    assert ask(server, f"/{where}/{name}") == says
    assert ask(server, "/close") == "closed"
    assert "waiting for" not in "".join(server.log.splitlines(True)[mark:])


@pytest.mark.parametrize("where", PLACES)
def test_a_copy_holds_nothing_but_what_its_loop_wakes_itself_with(
    server: Server, where: str
) -> None:
    own = 0 if where == "pool" else 2
    expected = f"{own} sockets, 0 pipes to others, 0 inheritable"
    assert ask(server, f"/{where}/hold") == expected


@pytest.mark.parametrize(
    "path",
    [*PLACES, "sync/pieces", "thread/pieces", "stream/pieces"],
)
def test_a_copy_that_returns_from_its_handler_answers_nothing(
    server: Server, path: str
) -> None:
    before = set(children(server.pid))
    with server.connect() as one:
        one.sendall(head_of(f"/{path}/fork"))
        one.sendall(b"GET /close HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answers = b"".join(iter(lambda: one.recv(65_536), b""))
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert b"parent" in answers
    assert b"child" not in answers
    wait_for(
        lambda: not any(map(process_is_alive, set(children(server.pid)) - before)),
        "the copy's end",
    )


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("where", ["sync", "thread", "asnc"])
def test_a_copy_that_stays_keeps_no_connection_and_no_pool(
    where: str, loop: str
) -> None:
    with serve(PROGRAM, loop=loop, workers=1) as server:
        assert ask(server, "/pool/signals")
        below = children(server.pid)
        with socket.create_connection(("127.0.0.1", server.port), 30) as other:
            other.sendall(b"GET /close HTTP/1.1\r\nHost: a\r\n\r\n")
            assert other.recv(1000).endswith(b"closed")
            copy = int(ask(server, f"/{where}/keep_a_copy"))
            try:
                other.sendall(b"GET /close HTTP/1.0\r\n\r\n")
                # To its end, which the client has to see.
                assert b"".join(iter(lambda: other.recv(1000), b"")).endswith(b"closed")
                os.kill(server.pid, signal.SIGKILL)
                server.process.wait()
                wait_for(lambda: not any(map(process_is_alive, below)), "all are gone")
                assert process_is_alive(copy)
            finally:
                os.kill(copy, signal.SIGTERM)
