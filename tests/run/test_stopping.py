"""Whoever has sent a request when the server is told to end gets an answer."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator, List, Optional

import pytest
from support import LOOPS, PATIENCE_SECONDS, Server, read_all, read_until, serve

PROGRAM = """
from pixie_web import route, run

@route("/", "sync")
def index(env):
    return "text"

@route("/pool")
def in_pool(env):
    return "text"

run(workers=2)
"""
CERTIFICATE = str(Path(__file__).parents[1] / "programs" / "localhost.pem")
CLIENTS = 20


@contextmanager
def held(server: Server) -> Iterator[None]:
    """Hold a server, tell it to end while it is held, and let it go on."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
        os.kill(server.pid, signal.SIGTERM)
    finally:
        os.kill(server.pid, signal.SIGCONT)


def context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CERTIFICATE)


class Clients:
    """Clients that each ask once, on a connection of their own, at the same time."""

    def __init__(self, port: int, over_tls: bool) -> None:
        self._port, self._over_tls = port, over_tls
        self._all_here = threading.Barrier(CLIENTS + 1)
        self._threads = ThreadPoolExecutor(CLIENTS)
        self._answers: List[Future[bytes]] = []

    def arrive(self) -> None:
        """Return when all have connected; each asks as soon as it can."""
        self._answers = [self._threads.submit(self._ask) for _ in range(CLIENTS)]
        self._all_here.wait(PATIENCE_SECONDS)

    def _ask(self) -> bytes:
        with ExitStack() as stack:
            one = socket.create_connection(("127.0.0.1", self._port), PATIENCE_SECONDS)
            stack.enter_context(one)
            self._all_here.wait(PATIENCE_SECONDS)
            if self._over_tls:
                one = context().wrap_socket(one, server_hostname="localhost")
                stack.enter_context(one)
            one.sendall(b"GET /pool HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return read_all(one)

    def answers(self) -> List[bytes]:
        with self._threads:
            return [one.result(PATIENCE_SECONDS) for one in self._answers]


def check(answers: List[bytes]) -> None:
    assert len(answers) == CLIENTS
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\ntext")


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", LOOPS)
def test_who_came_before_the_end_is_answered(loop: str, over_tls: bool) -> None:
    settings = {"certfile": CERTIFICATE} if over_tls else {}
    with serve(PROGRAM, loop=loop, **settings) as server:
        clients = Clients(server.port, over_tls)
        with held(server):
            clients.arrive()
        check(clients.answers())
        assert server.wait() == 0


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_request_that_is_unread_at_the_end_is_answered(
    loop: str, over_tls: bool
) -> None:
    settings = {"certfile": CERTIFICATE} if over_tls else {}
    with serve(PROGRAM, loop=loop, **settings) as server, ExitStack() as stack:
        connections: List[socket.socket] = []
        head = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for _ in range(CLIENTS):
            one = stack.enter_context(server.connect())
            if over_tls:
                one = context().wrap_socket(one, server_hostname="localhost")
                stack.enter_context(one)
            one.sendall(head)
            read_until(one, b"text")
            connections.append(one)
        with held(server):
            for one in connections:
                one.sendall(head)
        check([read_all(one) for one in connections])
        assert server.wait() == 0


def start_on(listening: socket.socket, path: Path, loop: str, over_tls: bool) -> Server:
    """Start the program on a socket that stays open here."""
    number = listening.fileno()
    settings = {"PIXIE_FD": str(number), "PIXIE_LOOP": loop}
    if over_tls:
        settings["PIXIE_CERTFILE"] = CERTIFICATE
    return Server([str(path)], path.parent, settings, [number])


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", LOOPS)
def test_on_a_kept_socket_they_are_answered_by_this_server_or_the_next(
    tmp_path: Path, loop: str, over_tls: bool
) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, "utf-8")
    server: Optional[Server] = None
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(2 * CLIENTS)
        try:
            for _ in range(3):
                server = start_on(listening, path, loop, over_tls)
                clients = Clients(listening.getsockname()[1], over_tls)
                with held(server):
                    clients.arrive()
                assert server.wait() == 0
                server = start_on(listening, path, loop, over_tls)
                answers = clients.answers()
                assert server.stop() == 0
                check(answers)
        finally:
            if server is not None:
                server.kill()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_has_come_and_says_nothing_holds_up_the_end_for_a_moment(
    loop: str,
) -> None:
    with serve(PROGRAM, loop=loop) as server, server.connect() as one:
        one.sendall(b"GET / HTTP/1.1\r\n")
        server.process.send_signal(signal.SIGTERM)
        assert read_all(one).startswith(b"HTTP/1.1 408 ")
        assert server.wait() == 0


def test_a_backlog_waits_for_workers_and_is_not_refused() -> None:
    # Of 200 that came while the server was held, 16 for each worker once had a place.
    with serve(PROGRAM, workers=2) as server, ExitStack() as stack:
        os.kill(server.pid, signal.SIGSTOP)
        connections = [stack.enter_context(server.connect()) for _ in range(200)]
        for one in connections:
            one.sendall(b"GET /pool HTTP/1.0\r\n\r\n")
        os.kill(server.pid, signal.SIGCONT)
        answers = {read_all(one)[:12] for one in connections}
    assert answers == {b"HTTP/1.1 200"}


HALF_WAY = """
import asyncio
from pixie_web import route, run

async def endless():
    try:
        yield 1
    finally:
        await asyncio.sleep(1000)

@route("/")
async def leaves_it_half_way(env):
    env.app.kept = endless()
    return str(await env.app.kept.__anext__())

run()
"""


def test_an_async_generator_that_does_not_end_holds_up_the_end_for_a_moment() -> None:
    with serve(HALF_WAY, workers=0) as server:
        assert server.get("/").text == "1"
        assert server.stop() == 0
        assert "async generators did not end" in server.log


KEPT = """
import subprocess
from pixie_web import proc_env, route, run

@route("/keep", "sync")
def keeps_a_copy_of_our_end(env):
    number = proc_env.pool._zygote.fileno()
    global heir
    heir = subprocess.Popen(["sleep", "60"], pass_fds=[number], stderr=-3)
    return str(heir.pid)

@route("/pool")
def in_pool(env):
    return "text"

run()
"""


def test_a_zygote_that_does_not_end_is_killed() -> None:
    warns = "subprocess .* is still running|Popen.__del__"
    with serve(KEPT, pool_start="zygote", workers=1, expects=warns) as server:
        assert server.get("/pool").text == "text"
        heir = int(server.get("/keep").text)
        try:
            assert server.stop() == 0
        finally:
            os.kill(heir, signal.SIGKILL)
        assert "the zygote did not end, and was killed" in server.log
