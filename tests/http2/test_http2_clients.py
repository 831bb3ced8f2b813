"""HTTP/2 by clients of others: placements, uploads, files, an end under load."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from http2_client import (
    ACK,
    PING,
    Got,
    asking,
    frame,
    headers,
    hello,
    split,
    statuses,
)
from support import LOOPS, PATIENCE_SECONDS, Server, serve

CERTIFICATE = Path(__file__).parents[1] / "programs" / "localhost.pem"
PROGRAM = """
import asyncio, sys, time
from pixie_web import RouteType, get, post, run, static_file

@get("/sync", RouteType.sync)
def in_sync(env):
    return f"{env.protocol} {env.scheme} {env.header('x-a')}"

@get("/thread", RouteType.thread)
def in_thread(env):
    return f"{env.protocol} {env.scheme} {env.header('x-a')}"

@get("/asnc")
async def in_task(env):
    return f"{env.protocol} {env.scheme} {env.header('x-a')}"

@get("/pool")
def in_pool(env):
    return f"{env.protocol} {env.scheme} {env.header('x-a')}"

@get("/stream")
def in_stream(env):
    yield f"{env.protocol} "
    yield f"{env.scheme} {env.header('x-a')}"

@get("/numbers/<count:int>")
def numbers(env, count):
    for _ in range(count):
        yield b"0123456789" * 10_000

@post("/length", RouteType.pool)
def length(env):
    return str(len(env.body))

@post("/echo", RouteType.asnc, stream_body=True)
async def echo(env):
    async for chunk in env.stream():
        yield chunk

@get("/file", RouteType.sync)
def file(env):
    return static_file("program.py", ".")

@get("/slow", timeout=0.2)
def slow(env):
    time.sleep(10)

@get("/wait")
async def wait(env):
    await asyncio.sleep(0.3)
    return "waited"

run()
"""
PLACEMENTS = ["sync", "thread", "asnc", "pool", "stream"]


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve(PROGRAM, loop=request.param) as running:
        yield running


@pytest.fixture(scope="module", params=LOOPS)
def tls_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve(PROGRAM, loop=request.param, certfile=CERTIFICATE) as running:
        yield running


class H2:
    """A client that leaves HTTP/2 to the library `h2`."""

    def __init__(self, port: int, tls: bool = False) -> None:
        connection = pytest.importorskip("h2.connection", reason="h2 is not installed")
        config = pytest.importorskip("h2.config")
        self.events = pytest.importorskip("h2.events")
        self.state = connection.H2Connection(
            config.H2Configuration(header_encoding="utf-8")
        )
        self.scheme = "https" if tls else "http"
        self.socket: Any = socket.create_connection(
            ("127.0.0.1", port), PATIENCE_SECONDS
        )
        if tls:
            context = ssl.create_default_context(cafile=str(CERTIFICATE))
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
            assert self.socket.selected_alpn_protocol() == "h2"
        self.state.initiate_connection()
        self.flush()
        self.status: Dict[int, int] = {}
        self.body: Dict[int, bytes] = {}
        self.ended: List[int] = []

    def flush(self) -> None:
        self.socket.sendall(self.state.data_to_send())

    def begin(self, path: str, method: str = "GET", *, ends: bool = True) -> int:
        number: int = self.state.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", self.scheme), (":path", path)]
        fields += [(":authority", "localhost"), ("x-a", "b")]
        self.state.send_headers(number, fields, end_stream=ends)
        self.flush()
        return number

    def read(self) -> bool:
        """Take what has come; return whether more may come."""
        data = self.socket.recv(65_536)
        if not data:
            return False
        for event in self.state.receive_data(data):
            self.take(event)
        self.flush()
        return True

    def take(self, event: Any) -> None:
        events = self.events
        if isinstance(event, events.ResponseReceived):
            self.status[event.stream_id] = int(dict(event.headers)[":status"])
        elif isinstance(event, events.DataReceived):
            before = self.body.get(event.stream_id, b"")
            self.body[event.stream_id] = before + event.data
            size = event.flow_controlled_length
            self.state.acknowledge_received_data(size, event.stream_id)
        elif isinstance(event, (events.StreamEnded, events.StreamReset)):
            self.ended.append(event.stream_id)

    def answer(self, number: int) -> Tuple[int, bytes]:
        while number not in self.ended:
            assert self.read()
        return self.status[number], self.body.get(number, b"")

    def post(self, path: str, body: bytes) -> Tuple[int, bytes]:
        number = self.begin(path, "POST", ends=False)
        while body:
            room = self.state.local_flow_control_window(number)
            size = min(room, 16_384, len(body))
            if not size:
                self.read()
                continue
            self.state.send_data(number, body[:size], end_stream=size == len(body))
            self.flush()
            body = body[size:]
        return self.answer(number)

    def close(self) -> None:
        self.socket.close()


def test_each_placement_gives_the_same(server: Server) -> None:
    client = H2(server.port)
    numbers = [client.begin(f"/{one}") for one in PLACEMENTS]
    found = [client.answer(number) for number in numbers]
    assert found == [(200, b"HTTP/2 http b")] * 5
    client.close()


def test_the_same_over_tls(tls_server: Server) -> None:
    client = H2(tls_server.port, tls=True)
    numbers = [client.begin(f"/{one}") for one in PLACEMENTS]
    found = [client.answer(number) for number in numbers]
    assert found == [(200, b"HTTP/2 https b")] * 5
    status, body = client.post("/echo", bytes(1_000_000))
    assert (status, len(body)) == (200, 1_000_000)
    client.close()


def test_large_bodies_both_ways(server: Server) -> None:
    client = H2(server.port)
    assert client.post("/length", bytes(3_000_000)) == (200, b"3000000")
    assert client.post("/echo", b"x" * 2_000_000) == (200, b"x" * 2_000_000)
    both = client.begin("/numbers/30"), client.begin("/file")
    assert client.answer(both[0]) == (200, b"0123456789" * 300_000)
    assert client.answer(both[1])[1] == PROGRAM.encode()
    client.close()


def test_a_deadline_ends_its_own_request_alone(server: Server) -> None:
    client = H2(server.port)
    slow, other = client.begin("/slow"), client.begin("/wait")
    assert client.answer(other) == (200, b"waited")
    assert client.answer(slow)[0] == 504
    client.close()


class Raw:
    """A client that goes on behind the first GOAWAY, which `h2` takes for the last."""

    def __init__(self, port: int) -> None:
        address = "127.0.0.1", port
        self.socket = socket.create_connection(address, PATIENCE_SECONDS)
        self.got: List[Got] = []
        self._left = b""

    def read(self) -> bool:
        """Take what has come, and answer PINGs; return whether more may come."""
        data = self.socket.recv(65_536)
        found, self._left = split(self._left + data)
        self.got += found
        for one in found:
            if one.kind == PING:
                self.socket.sendall(frame(PING, ACK, 0, one.payload))
        return bool(data)


@pytest.mark.parametrize("loop", LOOPS)
def test_no_request_is_lost_at_the_end(loop: str) -> None:
    with serve(PROGRAM, loop=loop) as server:
        clients = [Raw(server.port) for _ in range(10)]
        for one in clients:
            asked = [headers(number, asking("/wait")) for number in range(1, 181, 2)]
            one.socket.sendall(hello() + b"".join(asked))
        for one in clients:
            while not statuses(one.got):
                assert one.read()
        server.process.send_signal(signal.SIGTERM)
        for one in clients:
            asked = [headers(number, asking("/sync")) for number in range(181, 201, 2)]
            one.socket.sendall(b"".join(asked))
        for one in clients:
            while one.read():
                pass
            one.socket.close()
        found = [list(statuses(one.got).values()) for one in clients]
        assert found == [[200] * 100] * 10


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("path", ["/sync", "/pool", "/file"])
def test_curl(server: Server, tls_server: Server, path: str) -> None:
    features = subprocess.run(
        ["curl", "-V"], capture_output=True, text=True, check=True
    )
    if "HTTP2" not in features.stdout:
        pytest.skip("this curl has no HTTP/2")
    plain = ["--http2-prior-knowledge", f"http://127.0.0.1:{server.port}{path}"]
    secret = ["--http2", f"https://localhost:{tls_server.port}{path}"]
    for flags in (plain, ["--cacert", str(CERTIFICATE), *secret]):
        command = [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_version} %{http_code}",
        ]
        found = subprocess.run([*command, *flags], capture_output=True, text=True)
        assert found.stdout == "2 200", found.stderr


def test_a_client_of_http_1_is_served_on_the_same_port(server: Server) -> None:
    assert server.get("/asnc").text == "HTTP/1.1 http None"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_page_shows_what_curl_prints() -> None:
    page = Path(__file__).parents[2] / "docs" / "http2-http3.md"
    text = page.read_text(encoding="utf-8")
    program = text.partition("```python\n")[2].partition("```")[0]
    console = text.partition("```console\n")[2].partition("```")[0]
    with serve(program) as server:
        printed = ""
        for line in console.splitlines():
            if line.startswith("$ "):
                command = line[2:].replace("localhost:8000", f"127.0.0.1:{server.port}")
                found = subprocess.check_output([*command.split(), "-sS"], text=True)
                printed += f"{line}\n{found}"
        assert printed == console
