"""One client against the others: bodies in crumbs, bodies in memory, every place taken.

bench/attacks.py measures the same; here stands what holds however fast the machine is.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
import tracemalloc
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Awaitable, Callable, Iterator, List

import pytest
from shapes import module_of
from support import LOOPS, Server, drip, read_all, read_until, serve, wait_for

from pixie_web import HTTPError, Request, Response
from pixie_web.handling import SPOOL_BODY_BYTES, read_body
from pixie_web.protocol.http11 import MAX_JOINED_CHUNKS, parse_head
from pixie_web.requests import NEVER, BodySource
from pixie_web.server.connection import Connection
from pixie_web.server.options import MAX_MEMORY_BODY_BYTES, ServerOptions
from pixie_web.server.server import Server as CoreServer

CERTIFICATE = Path(__file__).parents[1] / "programs" / "localhost.pem"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /text HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
KEPT = GET.replace(b"close", b"keep-alive")
# Half a second is long enough for what behaves, on a busy machine.
HASTE = f"""
import {module_of("server.connection")} as connection
import {module_of("server.listeners")} as listeners
connection.GRACE_SECONDS = 0.5
listeners.ACCEPT_PAUSE_SECONDS = 0.05
"""
PROGRAM = (
    HASTE
    + r"""
import asyncio, os, re
from pixie_web import route, run

@route("/text", "sync")
def text(env):
    return "text"

@route("/client", "sync")
def client(env):
    return env.client[0]

@route("/body", "asnc", "POST")
async def body(env):
    return [env.body_file is not None, len(env.body)]

@route("/spools", "sync")
def spools(env):
    paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    links = [os.readlink(path) for path in paths if os.path.islink(path)]
    return [link for link in links if re.search(r"^(?!/memfd).*\(deleted\)$", link)]

@route("/told/<name>", "asnc", "POST", stream_body=True)
async def told(env, name):
    size = 0
    async for chunk in env.stream():
        size += len(chunk)
        open(f"{name}-{size}", "w").close()
    return str(size)

@route("/deaf/<name>", "asnc", "POST", stream_body=True)
async def deaf(env, name):
    try:
        async for chunk in env.stream():
            open(name, "w").close()
    except Exception:
        pass
    while True:
        await asyncio.sleep(3600)

@route("/wait/<name>", "asnc")
async def wait(env, name):
    open(f"in-{name}", "w").close()
    while not os.path.exists(name):
        await asyncio.sleep(0.005)
    return "done"

run()
"""
)


def head(target: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def directory_of(server: Server) -> Path:
    return Path(os.readlink(f"/proc/{server.pid}/cwd"))


def ask(server: Server, data: bytes, address: str = "127.0.0.1") -> bytes:
    """Send a request from an address, and return all that comes until the end."""
    where = ("127.0.0.1", server.port)
    with socket.create_connection(where, 30, (address, 0)) as one:
        one.sendall(data)
        return read_all(one)


# A connection without a process -------------------------------------------------------

Handle = Callable[[Request], Awaitable[Response]]


class Crowd:
    """A server in this loop, and connections to it that are fed by hand."""

    def __init__(self, handle: Handle, **options: Any) -> None:
        self.server = CoreServer(handle, ServerOptions(access_log=False, **options))
        self.connections: List[Connection] = []
        self._sockets: List[socket.socket] = []

    async def enter(self, count: int = 1) -> Connection:
        """Connect some clients; return the last connection."""
        if not self.connections:
            await self.server.listen([])
        for _ in range(count):
            ours, theirs = socket.socketpair()
            connection = Connection(self.server)
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(
                lambda connection=connection: connection,  # type: ignore[misc]
                ours,
            )
            self.connections.append(connection)
            self._sockets.append(theirs)
        return self.connections[-1]

    @property
    def chunks(self) -> int:
        return sum(one._reader.chunks for one in self.connections)

    async def leave(self) -> None:
        for one in self._sockets:
            one.close()
        self.server.cut_off()
        await self.server.close()


async def turns(condition: Callable[[], Any]) -> None:
    """Let the loop turn until a condition holds."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never held")


# Turns --------------------------------------------------------------------------------


async def read_all_of_it(request: Request) -> Response:
    assert request.source is not None
    while await request.source.read():
        pass
    return Response(b"read")


async def read_it_whole(request: Request) -> Response:
    await read_body(request)
    return Response(b"%d" % len(request.body))


async def read_by_stream(request: Request) -> Response:
    async for _ in request.stream():
        pass
    return Response(b"streamed")


async def refuse(request: Request) -> Response:
    return Response(b"not found", 404)


READERS = [read_all_of_it, read_it_whole, read_by_stream, refuse]


@pytest.mark.parametrize("parser", ["pixie", "httptools"])
@pytest.mark.parametrize("handle", READERS)
@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"01;a\r\nx\r\n", b"3\r\nxyz\r\n"])
def test_all_chunks_of_all_clients_leave_turns_to_others(
    handle: Handle, chunk: bytes, parser: str
) -> None:
    if parser == "httptools":
        pytest.importorskip("httptools")

    async def watch() -> None:
        crowd = Crowd(handle, parser=parser)
        await crowd.enter(5)
        for one in crowd.connections:
            before = crowd.chunks
            one.data_received(CHUNKED + chunk * 5000 + b"0\r\n\r\n")
            assert 0 < crowd.chunks - before <= 2 * MAX_JOINED_CHUNKS
        while any(one.is_busy for one in crowd.connections):
            before = crowd.chunks
            await asyncio.sleep(0)
            # In each turn of the loop, all connections together.
            assert crowd.chunks - before <= 2 * MAX_JOINED_CHUNKS
        assert crowd.chunks > 5 * 4999
        await crowd.leave()

    asyncio.run(watch())


def test_the_bodies_of_pipelined_requests_share_their_turns() -> None:
    async def watch() -> None:
        crowd = Crowd(refuse)
        one = await crowd.enter()
        data = CHUNKED + b"1\r\nx\r\n" * 200 + b"0\r\n\r\n"
        one.data_received(data * 10)
        most = 0
        while crowd.chunks < 10 * 201:
            before = crowd.chunks
            await asyncio.sleep(0)
            most = max(most, crowd.chunks - before)
        assert most <= 3 * MAX_JOINED_CHUNKS
        await crowd.leave()

    asyncio.run(watch())


def test_who_leaves_while_waiting_for_a_turn_costs_no_turn() -> None:
    async def watch() -> None:
        crowd = Crowd(read_it_whole)
        await crowd.enter()
        server = crowd.server
        tasks = [asyncio.ensure_future(server.next_turn()) for _ in range(10)]
        await asyncio.sleep(0)
        for task in tasks[:9]:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.wait_for(server.next_turn(), 30)
        assert not server._turns
        await crowd.leave()

    asyncio.run(watch())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_body_in_crumbs_is_answered_as_any_other(loop: str) -> None:
    with serve(PROGRAM, loop=loop) as server:
        for size, count in [(1, 65_536), (2, 30_000), (17, 80_000)]:
            body = (b"%x\r\n" % size + b"x" * size + b"\r\n") * count + b"0\r\n\r\n"
            for target in ("/body", "/told/x"):
                lines = "Transfer-Encoding: chunked", "Connection: close"
                answer = server.raw(head(target, *lines) + body)
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert str(size * count).encode() in answer
        crumbs = head("/body", *lines) + b"1\r\nx\r\n" * 70_000
        answer = server.raw(crumbs)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"too many small chunks" in answer


# Memory -------------------------------------------------------------------------------


class Source(BodySource):
    """A body in pieces that are made when they are read."""

    content_length = None

    def __init__(self, pieces: Iterator[bytes], room: int = 10**9) -> None:
        self._pieces = pieces
        self.most = self.held = 0
        self._room = room

    async def read(self) -> bytes:
        return next(self._pieces, b"")

    def hold(self, size: int) -> bool:
        self.held = size
        self.most = max(self.most, size)
        return size <= self._room


def read_from(source: Source) -> Request:
    request = Request(parse_head(b"POST / HTTP/1.0\r\n\r\n"), source=source)
    asyncio.run(read_body(request))
    return request


@pytest.mark.parametrize("size", [1, 2, 100, 4095, 4096, 100_000])
def test_a_body_takes_what_it_holds_and_is_counted_so(size: int) -> None:
    count = 250_000 // size
    tracemalloc.start()
    source = Source(b"%0*d" % (size, n % 10) for n in range(count))
    request = read_from(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    expected = b"".join(b"%0*d" % (size, n % 10) for n in range(count))
    assert request.body == expected
    # Once in pieces, and once joined; the loop takes some, too.
    assert peak < 2 * len(expected) + 200_000
    assert len(expected) < source.most < 1.1 * len(expected)
    assert source.held == source.most  # until the request has ended


@pytest.mark.parametrize("room, most", [(0, 40), (100_000, 102_000)])
def test_a_body_without_room_lies_in_a_file_from_its_first_byte(
    room: int, most: int
) -> None:
    source = Source((b"%040d" % n for n in range(5000)), room)
    request = read_from(source)
    assert request.body_file is not None
    assert request.body == b"".join(b"%040d" % n for n in range(5000))
    assert source.most <= most + 200
    assert source.held == 0
    request.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_all_bodies_together_have_so_much_memory(loop: str) -> None:
    def send(size: int) -> Any:
        return server.request("POST", "/body", b"x" * size).json

    with serve(PROGRAM, loop=loop, max_memory_body_bytes=100_000) as server:
        assert send(90_000) == [False, 90_000]
        assert send(101_000) == [True, 101_000]
        with server.connect() as first, server.connect() as second:
            first.sendall(head("/body", "Content-Length: 60001") + b"x" * 60_000)
            wait_for(lambda: send(45_000)[0], "the first is counted")
            second.sendall(head("/body", "Content-Length: 60001") + b"x" * 60_000)
            wait_for(lambda: len(server.get("/spools").json) == 1, "it has no room")
            assert send(45_000) == [True, 45_000]
            assert send(20_000) == [False, 20_000]
            for one in (second, first):
                one.sendall(b"x")
                spooled = b"true" if one is second else b"false"
                assert read_until(one, b"]").endswith(b"[%b,60001]" % spooled)
        assert send(90_000) == [False, 90_000]
    with serve(PROGRAM, loop=loop, max_memory_body_bytes=0) as server:
        assert send(1) == [True, 1]


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("end", ["answered", "reset", "eof", "bad", "late"])
def test_memory_is_given_back_however_a_request_ends(end: str, failing: bool) -> None:
    async def handle(request: Request) -> Response:
        try:
            await read_body(request)
        except HTTPError:
            raise
        if failing:
            raise ValueError("on purpose")
        assert server.held_bytes > 100_000  # while the handler runs
        return Response(b"read")

    async def watch() -> None:
        nonlocal server
        crowd = Crowd(handle, body_idle_seconds=1000)
        server = crowd.server
        one = await crowd.enter()
        one.data_received(CHUNKED + b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
        await turns(lambda: server.held_bytes > 100_000)
        if end == "answered":
            one.data_received(b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n")
        elif end == "reset":
            one.transport.abort()
        elif end == "eof":
            one.eof_received()
        elif end == "bad":
            one.data_received(b"no chunk\r\n")
        else:
            one.out_of_time()
        await turns(lambda: not one.is_busy)
        assert server.held_bytes == 0
        await crowd.leave()

    server: Any = None
    asyncio.run(watch())


def test_the_bound_in_the_docs_is_the_default(root: Path) -> None:
    assert ServerOptions().max_memory_body_bytes == MAX_MEMORY_BODY_BYTES == 2**26
    assert SPOOL_BODY_BYTES == 256 * 1024
    text = (root / "docs" / "deployment.md").read_text("utf-8")
    assert f"| `max_memory_body_bytes` | {2**26} |" in text


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("target", ["/body", "/told/x"])
def test_much_at_first_is_no_leave_to_drip_later(loop: str, target: str) -> None:
    limits = {"body_idle_seconds": 0.6, "min_bytes_per_second": 1000}
    with serve(PROGRAM, loop=loop, **limits) as server, server.connect() as one:
        one.sendall(head(target, "Content-Length: 1000000") + b"x" * 200_000)
        assert drip(one).startswith(b"HTTP/1.1 408 ")


def test_patience_is_earned_by_bytes_and_spent_by_waiting() -> None:
    async def watch() -> None:
        crowd = Crowd(read_it_whole, body_idle_seconds=10, min_bytes_per_second=100)
        one = await crowd.enter()
        one.data_received(CHUNKED)
        body = one._body
        assert body is not None
        body.spend(7)
        assert body.patience_seconds == 3
        body.earn(200)
        assert body.patience_seconds == 5
        body.earn(10**9)
        assert body.patience_seconds == 10
        await crowd.leave()

    asyncio.run(watch())


# Places -------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_the_slowest_body_gives_way_to_a_new_connection(loop: str) -> None:
    with serve(PROGRAM, loop=loop, max_connections=3) as server, ExitStack() as stack:
        fast, slow, busy = (stack.enter_context(server.connect()) for _ in range(3))
        cwd = directory_of(server)
        for one, name, size in ((slow, "slow", 10), (fast, "fast", 50_000)):
            one.sendall(head(f"/told/{name}", "Content-Length: 60000") + b"x" * size)
            wait_for((cwd / f"{name}-{size}").exists, "it has come")
        busy.sendall(KEPT.replace(b"/text", b"/wait/go"))
        wait_for((cwd / "in-go").exists, "its handler runs")
        assert server.get("/text").text == "text"
        answer = read_all(slow)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"the server is full" in answer
        fast.sendall(b"x" * 10_000)
        assert read_until(fast, b"60000").startswith(b"HTTP/1.1 200 ")
        (cwd / "go").touch()
        assert read_until(busy, b"done").startswith(b"HTTP/1.1 200 ")
        server.wait_for_log('"POST /told/slow HTTP/1.1" 408 ')


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HT", KEPT + b"GET"])
def test_a_head_that_does_not_come_gives_way(loop: str, sent: bytes) -> None:
    settings = {"loop": loop, "max_connections": 1}
    with serve(PROGRAM, **settings) as server, server.connect() as slow:
        slow.sendall(sent)
        if sent.startswith(KEPT):
            assert b"text" in read_until(slow, b"text")
        assert server.get("/text").text == "text"
        answer = read_all(slow)
        assert answer[:13] == (b"HTTP/1.1 408 " if b"GET" in sent else b"")


@pytest.mark.parametrize("loop", LOOPS)
def test_idle_connections_give_way_before_slow_bodies(loop: str) -> None:
    settings = {"loop": loop, "max_connections": 2}
    with serve(PROGRAM, **settings) as server, ExitStack() as stack:
        slow, idle = (stack.enter_context(server.connect()) for _ in range(2))
        slow.sendall(head("/told/slow", "Content-Length: 2") + b"x")
        wait_for((directory_of(server) / "slow-1").exists, "it has come")
        idle.sendall(KEPT)
        read_until(idle, b"text")
        assert server.get("/text").text == "text"
        assert read_all(idle) == b""
        slow.sendall(b"x")
        assert read_until(slow, b"\r\n\r\n2").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_handler_that_does_not_care_gives_way_too(loop: str) -> None:
    settings = {"loop": loop, "max_connections": 1, "linger_seconds": 0.1}
    settings["drain_seconds"] = 0
    with serve(PROGRAM, **settings) as server, server.connect() as slow:
        slow.sendall(head("/deaf/came", "Content-Length: 9") + b"x")
        wait_for((directory_of(server) / "came").exists, "it has come")
        assert server.get("/text").text == "text"
        assert read_all(slow) == b""


@contextmanager
def over_tls(server: Server) -> Iterator[ssl.SSLSocket]:
    trust = ssl.create_default_context(cafile=str(CERTIFICATE))
    plain = socket.create_connection(("127.0.0.1", server.port), 30)
    with trust.wrap_socket(plain, server_hostname="localhost") as one:
        yield one


@pytest.mark.parametrize("loop", LOOPS)
def test_a_handshake_that_does_not_come_gives_way(loop: str) -> None:
    settings = {"loop": loop, "certfile": CERTIFICATE, "max_connections": 2}
    with serve(PROGRAM, **settings) as server, ExitStack() as stack:
        silent, begun = (stack.enter_context(server.connect()) for _ in range(2))
        begun.sendall(b"\x16\x03\x01")
        for _ in range(3):
            with over_tls(server) as one:
                one.sendall(GET)
                assert read_all(one).endswith(b"text")
        assert (read_all(silent), read_all(begun)) == (b"", b"")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_slow_body_over_tls_gives_way_at_once(loop: str) -> None:
    settings = {"loop": loop, "certfile": CERTIFICATE, "max_connections": 1}
    settings["linger_seconds"] = 3600
    with serve(PROGRAM, **settings) as server, over_tls(server) as slow:
        slow.sendall(head("/told/slow", "Content-Length: 2") + b"x")
        wait_for((directory_of(server) / "slow-1").exists, "it has come")
        with over_tls(server) as one:
            one.sendall(GET)
            assert read_all(one).endswith(b"text")
        assert read_all(slow).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("loop", LOOPS)
def test_slow_bodies_of_one_address_keep_nobody_out(loop: str) -> None:
    with serve(PROGRAM, loop=loop, max_connections=40) as server, ExitStack() as stack:
        crowd = [stack.enter_context(server.connect()) for _ in range(80)]
        for one in crowd:
            one.sendall(head("/body", "Content-Length: 9") + b"x")
        for _ in range(5):
            assert ask(server, GET, "127.0.0.2").endswith(b"text")
            body = head("/body", "Content-Length: 5", "Connection: close") + b"hello"
            assert ask(server, body, "127.0.0.2").endswith(b"[false,5]")
        answers = [one for one in crowd if select.select([one], [], [], 0)[0]]
        assert len(answers) >= 40  # there was no room for all, and then for others
        assert read_all(answers[0]).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("loop", LOOPS)
def test_for_want_of_descriptors_the_slowest_gives_way(loop: str) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
    settings = {"loop": loop, "max_connections": 1000}
    with serve(limit + PROGRAM, **settings) as server, ExitStack() as stack:
        for _ in range(60):
            one = stack.enter_context(server.connect())
            one.sendall(head("/body", "Content-Length: 9") + b"x")
        for _ in range(5):
            assert ask(server, GET, "127.0.0.2").endswith(b"text")
    assert "Traceback" not in server.log


def test_ranks() -> None:
    async def watch() -> None:
        crowd = Crowd(read_it_whole, body_idle_seconds=1000)
        one = await crowd.enter()
        now = one._began
        assert one.rank(now + 1.9) is None  # GRACE_SECONDS
        assert one.rank(now + 4) == (1, 0)
        one.data_received(CHUNKED[:10])
        assert one.rank(one._started + 4) == (1, 2.5)
        one.data_received(CHUNKED[10:] + b"8\r\n01234567\r\n")
        started = one._started
        assert one.rank(started + 1.9) is None
        await turns(lambda: one.rank(started + 4) == (1, 2))
        one.data_received(b"0\r\n\r\n")
        await turns(lambda: not one.is_busy)
        assert one.rank(now) == (0, one.deadline)
        assert one.deadline < NEVER
        one.give_way()
        assert one.rank(now + 1000) is None
        await turns(lambda: not crowd.server.connections)
        assert crowd.server.leaving == 0
        await crowd.leave()

    asyncio.run(watch())


# Clients ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address, network",
    [
        (("192.0.2.1", 1), "192.0.2.1"),
        (("::ffff:192.0.2.1", 1, 0, 0), "192.0.2.1"),
        (("2001:db8:0:1::2", 1, 0, 0), "20010db800000001"),
        (("2001:db8:0:1:ffff::3", 1, 0, 0), "20010db800000001"),
        (("2001:db8:0:2::2", 1, 0, 0), "20010db800000002"),
        (("fe80::1%lo", 1, 0, 1), "fe80000000000000"),
        (("10.0.0.9", 1), ""),
        (("::ffff:10.0.0.9", 1, 0, 0), ""),
        ("", ""),
        ("/run/socket", ""),
        (b"\0abstract", ""),
    ],
)
def test_who_counts_as_one_client(address: Any, network: str) -> None:
    limited = ServerOptions(max_connections_per_client=1, trusted_proxies=("10.0.0.9",))
    assert CoreServer(refuse, limited).network_of(address) == network
    assert CoreServer(refuse, ServerOptions()).network_of(address) == ""


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_has_so_many_connections_and_others_theirs(loop: str) -> None:
    with serve(PROGRAM, loop=loop, max_connections_per_client=2) as server:
        cwd = directory_of(server)
        with server.connect() as first, server.connect() as second:
            for one, name in ((first, "go-1"), (second, "go-2")):
                one.sendall(KEPT.replace(b"/text", b"/wait/" + name.encode()))
                wait_for((cwd / f"in-{name}").exists, "its handler runs")
            assert ask(server, GET) == b""  # closed without an answer
            assert ask(server, GET, "127.0.0.2").endswith(b"text")
            for one, name in ((first, "go-1"), (second, "go-2")):
                (cwd / name).touch()
                read_until(one, b"done")
            # Now they are idle, and the idlest gives way to one of the same client.
            assert ask(server, GET).endswith(b"text")
            assert read_all(first) == b""
            second.sendall(KEPT)
            read_until(second, b"text")
        for _ in range(20):  # places are given back
            assert ask(server, GET).endswith(b"text")


def test_trusted_proxies_are_not_counted() -> None:
    limits = {"max_connections_per_client": 1, "trusted_proxies": "127.0.0.1"}
    with serve(PROGRAM, **limits) as server, ExitStack() as stack:
        ones = [stack.enter_context(server.connect()) for _ in range(5)]
        for one in ones:
            one.sendall(KEPT)
            read_until(one, b"text")
        assert ask(server, GET).endswith(b"text")


@pytest.mark.parametrize("loop", LOOPS)
def test_who_has_too_many_takes_no_place_of_others(loop: str) -> None:
    limits = {"max_connections": 2, "max_connections_per_client": 1}
    with serve(PROGRAM, loop=loop, **limits) as server, server.connect() as busy:
        where = ("127.0.0.1", server.port)
        busy.sendall(KEPT.replace(b"/text", b"/wait/go"))
        wait_for((directory_of(server) / "in-go").exists, "its handler runs")
        with socket.create_connection(where, 30, ("127.0.0.2", 0)) as idle:
            idle.sendall(KEPT)
            read_until(idle, b"text")
            for _ in range(3):
                assert ask(server, GET) == b""
            idle.sendall(KEPT)
            read_until(idle, b"text")
        (directory_of(server) / "go").touch()
        read_until(busy, b"done")
