"""Bodies on their way in: spooled to files, streamed to handlers, and too slow."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import select
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any, AsyncIterator, List, Tuple

import pytest
from support import (
    LOOPS,
    Server,
    drip,
    read_all,
    read_until,
    serve,
    server_fixture,
    wait_for,
)

from pixie_web import ClientDisconnected, Request, Response
from pixie_web.handling import SPOOL_BODY_BYTES
from pixie_web.server.http1 import READ_AHEAD_BYTES, HTTP1Connection
from pixie_web.server.options import ServerOptions
from pixie_web.server.server import Server as CoreServer

PROGRAM = r"""
import asyncio, hashlib, os, re
from pixie_web import Response, RouteType, route, run

def declare(path, make, **options):
    def plain(env):
        return make(env)

    async def coroutine(env):
        return make(env)

    for placement in (RouteType.sync, RouteType.thread, RouteType.asnc, RouteType.pool):
        handler = coroutine if placement is RouteType.asnc else plain
        route(f"/{placement.name}{path}", placement, "POST", **options)(handler)

def digest(data):
    return hashlib.sha256(data).hexdigest()

declare("/body", lambda env: {"spooled": env.body_file is not None,
                              "size": len(env.body), "digest": digest(env.body)},
        max_body_bytes=200_000_000)
declare("/form", lambda env: [env.form["a"], env.files["f"].size,
                              digest(env.files["f"].file.read())])
declare("/twice", lambda env: [digest(env.body), digest(env.body)])
declare("/unread", lambda env: "unread")

@route("/spools", RouteType.sync)
def spools(env):
    # The open files that have no name, or lie where temporary files do.
    paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    links = [os.readlink(path) for path in paths if os.path.islink(path)]
    return [link for link in links if re.search(r"^(?!/memfd).*\(deleted\)$", link)]

@route("/stream", RouteType.asnc, "POST", stream_body=True, max_body_bytes=100_000_000)
async def stream(env):
    size, whole = 0, hashlib.sha256()
    async for chunk in env.stream():
        size += len(chunk)
        whole.update(chunk)
    return {"size": size, "digest": whole.hexdigest()}

@route("/small", RouteType.asnc, "POST", stream_body=True, max_body_bytes=10)
async def small(env):
    return b"".join([chunk async for chunk in env.stream()])

@route("/echo", RouteType.asnc, "POST", stream_body=True)
async def echo(env):
    yield Response("", 200, "text/plain")
    async for chunk in env.stream():
        yield chunk

@route("/first", RouteType.asnc, "POST", stream_body=True)
async def first(env):
    async for chunk in env.stream():
        return chunk[:1]

@route("/none", RouteType.asnc, "POST", stream_body=True)
async def none(env):
    return "none"

@route("/body-of-stream", RouteType.asnc, "POST", stream_body=True)
async def body_of_stream(env):
    return env.body

@route("/stopped", RouteType.asnc, "POST", stream_body=True, timeout=0.2)
async def stopped(env):
    async for chunk in env.stream():
        pass

@route("/parts", RouteType.asnc, "POST")
async def parts(env):
    return [len(chunk) async for chunk in env.stream()]

@route("/held", RouteType.asnc, "POST", stream_body=True)
async def held(env):
    while not os.path.exists("go"):
        await asyncio.sleep(0.005)
    size = 0
    async for chunk in env.stream():
        size += len(chunk)
    return str(size)

run(threads=4)
"""
PLACEMENTS = ["sync", "thread", "asnc", "pool"]
BODY = bytes(range(256)) * 8192  # 2 MiB
DIGEST = hashlib.sha256(BODY).hexdigest()


def head(target: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def chunked(data: bytes, size: int) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


server = server_fixture(PROGRAM, LOOPS)


# Bodies that lie in files -------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_large_body_is_spooled_and_is_the_same(
    placement: str, server: Server
) -> None:
    for size in (1, SPOOL_BODY_BYTES, SPOOL_BODY_BYTES + 1, len(BODY)):
        body = BODY[:size]
        told = server.request("POST", f"/{placement}/body", body).json
        assert told["size"] == size
        assert told["digest"] == hashlib.sha256(body).hexdigest()
        assert told["spooled"] == (size > SPOOL_BODY_BYTES)
    wait_for(lambda: server.get("/spools").json == [], "the file is closed")


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_chunked_body_is_spooled_as_well(placement: str, server: Server) -> None:
    lines = "Transfer-Encoding: chunked", "Connection: close"
    sent = head(f"/{placement}/twice", *lines) + chunked(BODY, 70_000)
    assert server.raw(sent).endswith(f'["{DIGEST}","{DIGEST}"]'.encode())


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_large_upload_reaches_its_handler(placement: str, server: Server) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    body = part % (b"a", b"", b"text") + part % (b"f", b'; filename="x"', BODY)
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    told = server.request("POST", f"/{placement}/form", body + b"--b--\r\n", kind).json
    assert told == ["text", len(BODY), DIGEST]
    wait_for(lambda: server.get("/spools").json == [], "the file is closed")


def test_many_large_bodies_cost_little_memory(server: Server) -> None:
    def peak_bytes() -> int:
        status = Path(f"/proc/{server.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found.group(1)) * 1024

    server.request("POST", "/pool/body", BODY)
    before = peak_bytes()
    assert server.request("POST", "/pool/body", BODY * 60).json["size"] == 60 * len(
        BODY
    )
    assert peak_bytes() - before < 16_000_000


def test_what_a_client_leaves_half_sent_is_gone(server: Server) -> None:
    with server.connect() as one:
        one.sendall(head("/pool/body", "Content-Length: 3000000") + BODY)
        wait_for(lambda: server.get("/spools").json, "it is spooled")
    wait_for(lambda: server.get("/spools").json == [], "its file is gone")


def test_a_kill_leaves_no_file(tmp_path: Path) -> None:
    settings = {"environment": {"TMPDIR": str(tmp_path)}}
    with serve(PROGRAM, **settings) as server, server.connect() as one:
        one.sendall(head("/sync/body", "Content-Length: 3000000") + BODY)
        wait_for(lambda: server.get("/spools").json, "it is spooled")
        server.process.kill()
        server.process.wait()
    # But the place of the state, which the next server removes.
    left = [one for one in tmp_path.iterdir() if "pixie_web-state" not in one.name]
    assert left == []


FULL = """
import os, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes fail with EFBIG instead
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_a_full_disk_is_507_and_nothing_stays(loop: str) -> None:
    with serve(FULL + PROGRAM, loop=loop) as server:
        for placement in PLACEMENTS:
            answer = server.request("POST", f"/{placement}/body", BODY)
            assert (answer.status, answer.headers["connection"]) == (507, "close")
            server.wait_for_log("there is no room for the body of <Request POST")
            assert server.request("POST", f"/{placement}/body", b"x").status == 200
        wait_for(lambda: server.get("/spools").json == [], "the file is closed")
    assert "Traceback" not in server.log


def test_without_a_place_for_temporary_files_large_bodies_are_507() -> None:
    program = "import tempfile\ntempfile.tempdir = '/nowhere'\n" + PROGRAM
    with serve(program) as server:
        assert server.request("POST", "/pool/body", BODY).status == 507
        assert server.request("POST", "/pool/body", b"x").status == 200
    assert "Traceback" not in server.log


# Bodies that handlers read as they come -----------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_536, len(BODY)])
def test_a_handler_reads_the_body_as_it_comes(size: int, server: Server) -> None:
    told = server.request("POST", "/stream", BODY[:size]).json
    assert told == {"size": size, "digest": hashlib.sha256(BODY[:size]).hexdigest()}
    lines = "Transfer-Encoding: chunked", "Connection: close"
    sent = head("/stream", *lines) + chunked(BODY[:size], 5000)
    assert f'"size":{size},'.encode() in server.raw(sent)


def test_the_handler_runs_before_the_body_has_come(server: Server) -> None:
    with server.connect() as one:
        one.sendall(head("/echo", "Transfer-Encoding: chunked"))
        assert b" 200 OK\r\n" in read_until(one, b"\r\n\r\n")
        for piece in (b"one", b"two"):
            one.sendall(b"3\r\n%b\r\n" % piece)
            assert read_until(one, piece + b"\r\n") == b"3\r\n%b\r\n" % piece
        one.sendall(b"0\r\n\r\n")
        assert read_until(one, b"0\r\n\r\n") == b"0\r\n\r\n"
        one.sendall(head("/none", "Content-Length: 0", "Connection: close"))
        assert read_all(one).endswith(b"none")


def test_the_go_ahead_is_sent_at_the_first_read(server: Server) -> None:
    lines = "Content-Length: 3", "Expect: 100-continue"
    with server.connect() as one:
        one.sendall(head("/small", *lines))
        assert read_until(one, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        one.sendall(b"abc")
        assert read_until(one, b"abc").startswith(b"HTTP/1.1 200 ")
    with server.connect() as one:
        one.sendall(head("/none", *lines))
        assert read_all(one).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "lines, body, status",
    [
        (["Content-Length: 10"], b"0123456789", 200),
        (["Content-Length: 11"], b"0123456789a", 413),
        (["Transfer-Encoding: chunked"], chunked(b"0123456789", 3), 200),
        (["Transfer-Encoding: chunked"], chunked(b"0123456789a", 3), 413),
        (["Transfer-Encoding: chunked"], b"3\r\nabc\r\nx\r\n", 400),
        (["Transfer-Encoding: chunked"], b"3\r\nabcd\r\n", 400),
    ],
)
def test_its_limits_and_framing_hold(
    lines: List[str], body: bytes, status: int, server: Server
) -> None:
    sent = head("/small", "Connection: close", *lines) + body
    assert server.raw(sent).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_body_that_breaks_off_ends_the_handler_quietly(server: Server) -> None:
    mark = server.mark()
    with server.connect() as one:
        one.sendall(head("/stream", "Content-Length: 9") + b"abc")
        one.shutdown(socket.SHUT_WR)
        assert read_all(one).startswith(b"HTTP/1.1 400 ")
    with server.connect() as one:
        one.sendall(head("/stream", "Content-Length: 9") + b"abc")
    with server.connect() as one:
        one.sendall(head("/echo", "Transfer-Encoding: chunked") + b"3\r\nabc\r\nx\r\n")
        got = read_all(one)
        assert got.count(b"HTTP/1.1") == 1
        assert not got.endswith(b"0\r\n\r\n")
    server.wait_for_log('"POST /echo', since=mark)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("target", ["/first", "/none"])
def test_what_a_handler_leaves_of_the_body_is_not_taken_for_a_request(
    target: str, server: Server
) -> None:
    smuggled = head("/none", "Content-Length: 0")
    for filling in (b"", b"x" * 200_000):
        body = b"x" + filling + smuggled
        sent = head(target, f"Content-Length: {len(body)}") + body
        with server.connect() as one:
            one.sendall(sent + head("/small", "Content-Length: 0", "Connection: close"))
            assert read_all(one).count(b"none") <= (target == "/none")


def test_the_whole_body_is_not_there_for_it(server: Server) -> None:
    assert server.request("POST", "/body-of-stream", b"x").status == 500
    server.wait_for_log("a route with stream_body=True reads it by env.stream()")


def test_a_timeout_ends_a_read(server: Server) -> None:
    with server.connect() as one:
        one.sendall(head("/stopped", "Content-Length: 9") + b"abc")
        assert read_all(one).startswith(b"HTTP/1.1 504 ")


def test_a_body_that_has_come_is_cut_up(server: Server) -> None:
    assert server.request("POST", "/parts", b"abc").json == [3]
    assert server.request("POST", "/parts", b"").json == []
    parts = server.request("POST", "/parts", BODY).json
    assert (sum(parts), max(parts) < len(BODY)) == (len(BODY), True)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_handler_that_does_not_read_holds_the_client_back(loop: str) -> None:
    with serve(PROGRAM, loop=loop) as server, server.connect() as one:
        one.settimeout(0.3)
        one.sendall(head("/held", "Content-Length: 16000000"))
        sent = 0
        try:
            while sent < 16_000_000:
                sent += one.send(b"x" * min(65_536, 16_000_000 - sent))
        except socket.timeout:
            pass
        assert sent < 12_000_000  # what the buffers of two sockets hold
        Path(os.readlink(f"/proc/{server.pid}/cwd"), "go").touch()
        one.settimeout(30)
        one.sendall(b"x" * (16_000_000 - sent))
        assert read_until(one, b"16000000").startswith(b"HTTP/1.1 200 ")


# The least rate -----------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("target", ["/pool/body", "/stream"])
def test_a_body_that_drips_in_is_cut_off(loop: str, target: str) -> None:
    limits = {"body_idle_seconds": 0.6, "min_bytes_per_second": 1000}
    with serve(PROGRAM, loop=loop, **limits) as server, server.connect() as one:
        one.sendall(head(target, "Content-Length: 1000000"))
        assert drip(one).startswith(b"HTTP/1.1 408 ")  # it was never idle for long


def test_bytes_at_the_deadline_do_not_cost_the_answer() -> None:
    # The sweep comes after the bytes, and before the handler that they have woken.
    async def handle(request: Request) -> Response:
        assert request.source is not None
        while await request.source.read():
            pass
        return Response("never")

    async def drip() -> bytes:
        options = ServerOptions(body_idle_seconds=-1, linger_seconds=-1)
        server = CoreServer(handle, options)
        await server.listen([])
        ours, theirs = socket.socketpair()
        connection = HTTP1Connection(server)
        await server.loop.connect_accepted_socket(lambda: connection, ours)
        connection.data_received(head("/", "Content-Length: 9"))
        for _ in range(3):
            await asyncio.sleep(0)
            connection.data_received(b"x")
            server._sweep()
        await asyncio.sleep(0)
        server._sweep()
        await server.close()
        with theirs:
            return read_all(theirs)

    assert asyncio.run(drip()).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_is_noticed_where_its_body_came_ahead() -> None:
    # The body comes while nobody reads it, so that reading is paused.
    async def leave() -> None:
        body_came, client_left = asyncio.Event(), asyncio.Event()

        async def handle(request: Request) -> Response:
            assert request.source is not None
            request.disconnect.add(client_left.set)
            await body_came.wait()
            while await request.source.read():
                pass
            await client_left.wait()
            return Response("never")

        server = CoreServer(handle, ServerOptions())
        await server.listen([])
        ours, theirs = socket.socketpair()
        connection = HTTP1Connection(server)
        await server.loop.connect_accepted_socket(lambda: connection, ours)
        size = READ_AHEAD_BYTES + 1
        connection.data_received(head("/", f"Content-Length: {size}"))
        connection.data_received(b"x" * size)
        body_came.set()
        for _ in range(9):
            await asyncio.sleep(0)
        theirs.close()
        await asyncio.wait_for(client_left.wait(), 30)
        await server.close()

    asyncio.run(leave())


def test_a_client_that_leaves_is_told_to_the_request_at_hand_alone() -> None:
    async def leave() -> List[str]:
        told: List[str] = []
        client_left = asyncio.Event()

        async def handle(request: Request) -> Response:
            assert request.disconnect is not None
            request.disconnect.add(lambda: told.append(request.path))
            if request.path == "/last":
                request.disconnect.add(client_left.set)
                await client_left.wait()
                assert request.disconnected
            return Response(b"")

        server = CoreServer(handle, ServerOptions())
        await server.listen([])
        ours, theirs = socket.socketpair()
        connection = HTTP1Connection(server)
        await server.loop.connect_accepted_socket(lambda: connection, ours)
        lines = "Content-Length: 0"
        connection.data_received(head("/first", lines) + head("/last", lines))
        theirs.close()
        await asyncio.wait_for(client_left.wait(), 30)
        await server.close()
        return told

    assert asyncio.run(leave()) == ["/last"]


def test_a_request_after_the_client_has_sent_its_last_is_told_so() -> None:
    async def leave() -> List[Tuple[str, bool]]:
        seen: List[Tuple[str, bool]] = []
        go_on = asyncio.Event()

        async def handle(request: Request) -> Response:
            if request.path == "/first":
                await go_on.wait()
            seen.append((request.path, request.disconnected))
            return Response(b"")

        server = CoreServer(handle, ServerOptions())
        await server.listen([])
        ours, theirs = socket.socketpair()
        connection = HTTP1Connection(server)
        await server.loop.connect_accepted_socket(lambda: connection, ours)
        lines = "Content-Length: 0"
        connection.data_received(head("/first", lines) + head("/last", lines))
        connection.eof_received()
        go_on.set()
        while len(seen) < 2:
            await asyncio.sleep(0)
        theirs.close()
        await server.close()
        return seen

    assert asyncio.run(leave()) == [("/first", True), ("/last", True)]


def test_a_stream_that_begins_as_another_answer_ends_is_stopped_all_the_same() -> None:
    # The next request comes when the task of the one before has ended, and before that
    # task calls back.
    async def leave() -> None:
        go_on, runs, stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            try:
                runs.set()
                yield b"x"
                await asyncio.Event().wait()
            finally:
                stopped.set()

        async def handle(request: Request) -> Response:
            response = Response(b"")
            if request.path == "/stream":
                response.body = endless()
            else:
                for _ in range(2):  # at the second wait it becomes a task
                    await go_on.wait()
                    go_on.clear()
            return response

        server = CoreServer(handle, ServerOptions())
        await server.listen([])
        ours, theirs = socket.socketpair()
        connection = HTTP1Connection(server)
        await server.loop.connect_accepted_socket(lambda: connection, ours)
        connection.data_received(head("/wait", "Content-Length: 0"))
        go_on.set()
        for _ in range(9):
            await asyncio.sleep(0)
        go_on.set()
        server.loop.call_soon(
            connection.data_received, head("/stream", "Content-Length: 0")
        )
        await asyncio.wait_for(runs.wait(), 30)
        for _ in range(9):
            await asyncio.sleep(0)
        theirs.close()
        await asyncio.wait_for(stopped.wait(), 5)
        await server.close()

    asyncio.run(leave())


def test_a_reader_that_outlives_its_request_gets_nothing_of_the_next_one() -> None:
    # A proxy sends requests of several clients on one connection.
    async def read_late() -> List[object]:
        go_on = asyncio.Event()
        seen: List[object] = []
        readers = []

        async def handle(request: Request) -> Response:
            assert request.source is not None
            if request.path == "/next":
                seen.append(await request.source.read())
            else:
                readers.append(asyncio.ensure_future(request.source.read()))
                await go_on.wait()
            return Response(request.path.encode())

        server = CoreServer(handle, ServerOptions())
        await server.listen([])
        ours, theirs = socket.socketpair()
        connection = HTTP1Connection(server)
        await server.loop.connect_accepted_socket(lambda: connection, ours)
        connection.data_received(head("/first", "Content-Length: 3"))
        for _ in range(9):
            await asyncio.sleep(0)
        go_on.set()  # its task goes on ahead of the reader
        connection.data_received(b"own" + head("/next", "Content-Length: 7"))
        for _ in range(9):
            await asyncio.sleep(0)
        connection.data_received(b"foreign")
        for _ in range(9):
            await asyncio.sleep(0)
        seen += await asyncio.gather(*readers, return_exceptions=True)
        theirs.close()
        await server.close()
        return seen

    next_one, late = asyncio.run(read_late())
    assert next_one == b"foreign"
    assert isinstance(late, ClientDisconnected)


def test_a_body_that_was_dropped_does_not_pass_for_a_whole_one() -> None:
    async def read_late() -> List[object]:
        seen: List[object] = []
        bodies: List[Any] = []

        async def handle(request: Request) -> Response:
            assert request.source is not None
            bodies.append(request.source)
            seen.append(await request.source.read())
            return Response(b"enough")

        server = CoreServer(handle, ServerOptions())
        await server.listen([])
        ours, theirs = socket.socketpair()
        connection = HTTP1Connection(server)
        await server.loop.connect_accepted_socket(lambda: connection, ours)
        parts = b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n"
        connection.data_received(head("/", "Transfer-Encoding: chunked") + parts[0])
        connection.data_received(parts[1])
        for _ in range(9):
            await asyncio.sleep(0)
        seen += await asyncio.gather(bodies[0].read(), return_exceptions=True)
        theirs.close()
        await server.close()
        return seen

    first, late = asyncio.run(read_late())
    assert first == b"one"
    assert isinstance(late, ClientDisconnected)


def test_without_a_least_rate_it_may_drip() -> None:
    limits = {"body_idle_seconds": 2, "min_bytes_per_second": 0}
    with ExitStack() as stack:
        connections = []
        for loop in LOOPS:  # beside each other: this takes longer than the limit
            server = stack.enter_context(serve(PROGRAM, loop=loop, **limits))
            connections.append(stack.enter_context(server.connect()))
        for one in connections:
            one.sendall(head("/pool/body", "Content-Length: 60", "Connection: close"))
        for _ in range(59):
            for one in connections:
                one.sendall(b"x")
            assert select.select(connections, [], [], 0.05)[0] == []
        for one in connections:
            one.sendall(b"x")
        got = [read_all(one)[:13] for one in connections]
        assert got == [b"HTTP/1.1 200 "] * len(LOOPS)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_servers_limit_holds_where_a_route_has_none(loop: str) -> None:
    with serve(PROGRAM, loop=loop, max_body_bytes=1000) as server:
        assert server.request("POST", "/sync/unread", b"x" * 1000).status == 200
        assert server.request("POST", "/sync/unread", b"x" * 1001).status == 413
        assert server.request("POST", "/sync/body", b"x" * 1001).status == 200
