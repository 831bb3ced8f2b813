"""HTTP/3 through aioquic's own client: placements, bodies both ways, ends."""

from __future__ import annotations

import asyncio
import signal
import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Coroutine, Iterator, List, Tuple
from urllib.request import HTTPSHandler, build_opener

import pytest
from support import LOOPS, PATIENCE_SECONDS, Server, serve

if find_spec("aioquic") is None:
    pytest.skip("aioquic is not installed", allow_module_level=True)

from http3_client import Client, connect

CERTIFICATE = Path(__file__).parents[1] / "programs" / "localhost.pem"
MESSAGE_ERROR, CANCELLED, REJECTED = 0x10E, 0x10C, 0x10B
PROGRAM = """
import asyncio, time
from pixie_web import RouteType, get, post, run, static_file

left, made = [], [0]
gate, end = asyncio.Event(), asyncio.Event()

def told(env):
    return f"{env.protocol} {env.scheme} {env.host} {env.header('x-a')}"

@get("/sync", RouteType.sync)
def in_sync(env):
    return told(env)

@get("/thread", RouteType.thread)
def in_thread(env):
    return told(env)

@get("/asnc")
async def in_task(env):
    return told(env)

@get("/pool")
def in_pool(env):
    return told(env)

@get("/stream")
def in_stream(env):
    yield told(env)[:5]
    yield told(env)[5:]

@get("/large/<count:int>", RouteType.sync)
def large(env, count):
    return b"0123456789" * 1_000 * count

@get("/numbers/<count:int>")
def numbers(env, count):
    for _ in range(count):
        yield b"0123456789" * 1_000

@get("/endless", RouteType.asnc)
async def endless(env):
    while True:
        made[0] += 1
        yield bytes(10_000)

@get("/made", RouteType.sync)
def how_many(env):
    return str(made[0])

@post("/length", RouteType.pool)
def length(env):
    return str(len(env.body))

@post("/echo", RouteType.asnc, stream_body=True)
async def echo(env):
    async for chunk in env.stream():
        yield chunk

@post("/held", RouteType.asnc, stream_body=True)
async def held(env):
    await gate.wait()
    size = 0
    async for chunk in env.stream():
        size += len(chunk)
    return str(size)

@get("/open", RouteType.sync)
def open_gate(env):
    gate.set()
    return "open"

@post("/end", RouteType.asnc)
async def let_end(env):
    end.set()
    return "ended"

@get("/wait", RouteType.asnc, on_disconnect="stop")
async def wait(env):
    try:
        await end.wait()
        return "waited"
    finally:
        left.append(env.disconnected)

@get("/left", RouteType.sync)
def who_left(env):
    return str(left)

@get("/slow", timeout=0.2)
def slow(env):
    time.sleep(30)

@get("/file", RouteType.sync)
def file(env):
    return static_file("program.py", ".")

run()
"""


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    settings = {"certfile": CERTIFICATE, "http3": True, "loop": request.param}
    with serve(PROGRAM, **settings) as running:
        yield running


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_SECONDS))


def test_each_placement_gives_the_same(server: Server) -> None:
    async def ask() -> List[Tuple[int, bytes]]:
        async with connect(server.port) as client:
            paths = "/sync", "/thread", "/asnc", "/pool", "/stream", "/sync"
            begun = [client.begin("GET", one, [(b"x-a", b"b")])[1] for one in paths]
            return [((await one.end()).status, one.body) for one in begun]

    assert run(ask()) == [(200, b"HTTP/3 https localhost b")] * 6
    assert server.wait_for_log('"GET /pool HTTP/3" 200 24').endswith("complete\n")


def test_bodies_both_ways(server: Server) -> None:
    async def ask() -> None:
        async with connect(server.port) as client:
            sizes = [
                len((await client.get(path)).body)
                for path in ("/large/100", "/numbers/100")
            ]
            assert sizes == [1_000_000] * 2
            assert (await client.get("/file")).body == PROGRAM.encode()
            assert (await client.post("/length", bytes(600_000))).body == b"600000"
            body = b"0123456789" * 60_000
            assert (await client.post("/echo", body)).body == body
            length = (b"content-length", b"600000")
            assert (await client.post("/echo", body, [length])).body == body
            head = await client.begin("HEAD", "/large/7")[1].end()
            assert head.headers[b"content-length"] == b"70000" and not head.body
            assert (await client.get("/nowhere")).status == 404

    run(ask())


def test_an_upload_waits_for_its_handler(server: Server) -> None:
    async def ask() -> bytes:
        async with connect(server.port) as client:
            number, reply = client.begin("POST", "/held", end=False)
            client.send(number, bytes(1_000_000), True)
            sender = client.quic._streams[number].sender
            other = await client.get("/sync")
            for _ in range(300):
                other = await client.get("/sync")
            assert other.status == 200
            assert 250_000 <= sender.highest_offset <= 256 * 1024
            await client.get("/open")
            return (await reply.end()).body

    assert run(ask()) == b"1000000"


class Lazy(Client):  # type: ignore[misc]
    """A client that takes 100 kB of an answer, and never more."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._quic._write_stream_limits = lambda **_: None


def test_a_stream_waits_for_its_client(server: Server) -> None:
    async def ask() -> Tuple[int, int]:
        async with connect(server.port, Lazy, max_stream_data=100_000) as client:
            before = int((await client.get("/made")).body)
            number, reply = client.begin("GET", "/endless")
            await reply.until(lambda one: len(one.body) > 99_000)
            made = [int((await client.get("/made")).body) for _ in range(5)]
            client.quic.stop_stream(number, CANCELLED)
            await reply.end()
            return before, made[-1]

    before, made = run(ask())
    assert 10 <= made - before <= 10 + 10  # what is on its way, and 64 KiB beside


@pytest.mark.parametrize("how", ["stop", "reset"])
def test_a_reset_is_the_end_of_that_request_alone(server: Server, how: str) -> None:
    async def ask() -> None:
        async with connect(server.port) as client:
            number, reply = client.begin("GET", "/wait", end=how == "stop")
            await client.get("/sync")
            if how == "stop":
                client.quic.stop_stream(number, CANCELLED)
            else:
                client.quic.reset_stream(number, CANCELLED)
            client.transmit()
            await reply.end()
            assert reply.reset == CANCELLED
            assert (await client.get("/sync")).status == 200

    before = server.mark()
    run(ask())
    line = server.wait_for_log('"GET /wait HTTP/3" 499 0', before)
    assert line.endswith("left\n")
    if how == "stop":  # else it waits for its body, and no handler has begun

        async def who_left() -> bytes:
            async with connect(server.port) as client:
                return (await client.get("/left")).body

        assert run(who_left()).endswith(b"True]")


BAD_HEADS = {
    "no method": [(b":path", b"/sync"), (b":scheme", b"https"), (b":authority", b"a")],
    "no path": [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a")],
    "an upper-case name": [..., (b"X-A", b"b")],
    "a line break in a value": [..., (b"x-a", b"b\r\nx-c: d")],
    "a NUL in a value": [..., (b"x-a", b"b\0")],
    "a blank in a name": [..., (b"x a", b"b")],
    "a blank behind a value": [..., (b"x-a", b"b ")],
    "a connection header": [..., (b"connection", b"close")],
    "transfer-encoding": [..., (b"transfer-encoding", b"chunked")],
    "te": [..., (b"te", b"gzip")],
    "another host": [..., (b"host", b"other")],
    "a pseudo-header behind others": [..., (b"x-a", b"b"), (b":path", b"/")],
    "a pseudo-header twice": [..., (b":path", b"/other")],
    "an unknown one": [..., (b":protocol", b"websocket")],
    "a length that is none": [..., (b"content-length", b"+1")],
    "a length, and no body": [..., (b"content-length", b"1")],
    "a path that is a URL": [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"a"),
        (b":path", b"https://b/sync"),
    ],
    "a line break in the path": [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"a"),
        (b":path", b"/sync HTTP/1.1\r\nx-a: b"),
    ],
    "a line break in the method": [
        (b":method", b"GET / HTTP/1.1\r\nx-a: b\r\n\r\nGET"),
        (b":scheme", b"https"),
        (b":authority", b"a"),
        (b":path", b"/sync"),
    ],
}
GOOD = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"a"),
    (b":path", b"/sync"),
]


def fields_of(bad: List[Any]) -> List[Tuple[bytes, bytes]]:
    return [*GOOD, *bad[1:]] if bad[0] is ... else bad


def test_a_bad_head_ends_its_stream_alone(server: Server) -> None:
    async def ask() -> None:
        async with connect(server.port) as client:
            for name, bad in BAD_HEADS.items():
                reply = await client.send_head(fields_of(bad))[1].end()
                assert (reply.reset, reply.statuses) == (MESSAGE_ERROR, []), name
            too_long = [*GOOD, *[(b"x-a", b"b" * 1_000)] * 33]
            assert (await client.send_head(too_long)[1].end()).status == 431
            host = [one for one in GOOD if one[0] != b":authority"]
            host += [(b"host", b"a")]
            assert (await client.send_head(host)[1].end()).status == 200
            cookies = [(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"host", b"a")]
            assert (await client.send_head([*GOOD, *cookies])[1].end()).status == 200

    run(ask())


BAD_BODIES = {
    "shorter than announced": (b"content-length", b"7"),
    "longer than announced": (b"content-length", b"3"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_of_another_length_ends_its_stream(server: Server, name: str) -> None:
    async def ask() -> None:
        async with connect(server.port) as client:
            reply = await client.post("/length", b"12345", [BAD_BODIES[name]])
            assert reply.reset == MESSAGE_ERROR or reply.status == 400
            assert (await client.get("/sync")).status == 200

    run(ask())


def test_trailers_are_passed_over(server: Server) -> None:
    async def ask() -> bytes:
        async with connect(server.port) as client:
            number, reply = client.begin("POST", "/length", end=False)
            client.send(number, b"12345")
            client.h3.send_headers(number, [(b"x-sum", b"1")], True)
            client.transmit()
            return (await reply.end()).body

    assert run(ask()) == b"5"


def test_deadlines() -> None:
    async def ask(port: int) -> List[int]:
        async with connect(port) as client:
            _, late = client.begin("POST", "/length", end=False)
            _, slow = client.begin("GET", "/slow")
            return [(await late.end()).status, (await slow.end()).status]

    settings = {"certfile": CERTIFICATE, "http3": True, "body_idle_seconds": 0.5}
    with serve(PROGRAM, **settings) as server:
        assert run(ask(server.port)) == [408, 504]


def test_a_client_goes_on_from_another_port(server: Server) -> None:
    async def ask() -> int:
        async with connect(server.port) as client:
            _, reply = client.begin("GET", "/numbers/100")
            await reply.until(lambda one: len(one.body) > 50_000)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                lambda: client, local_addr=("::", 0)
            )
            old, client._transport = client._transport, transport
            client.quic.change_connection_id()
            client.transmit()
            await reply.end()
            old.close()
            return len(reply.body)

    assert run(ask()) == 1_000_000


def test_other_answers_say_where_it_is(server: Server) -> None:
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    opener = build_opener(HTTPSHandler(context=context))
    url = f"https://localhost:{server.port}/sync"
    with opener.open(url, timeout=PATIENCE_SECONDS) as answer:
        assert answer.read().startswith(b"HTTP/1.1")
        assert answer.headers["Alt-Svc"] == f'h3=":{server.port}"; ma=86400'


def test_so_do_those_of_http_2(server: Server) -> None:
    import httpx

    if find_spec("h2") is None:
        pytest.skip("h2 is not installed")
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    with httpx.Client(http2=True, http1=False, verify=context) as client:
        answer = client.get(f"https://localhost:{server.port}/sync")
    assert answer.text.startswith("HTTP/2")
    assert answer.headers["alt-svc"] == f'h3=":{server.port}"; ma=86400'


def test_a_new_certificate_is_read_at_sighup(tmp_path: Path) -> None:
    async def serial(port: int) -> int:
        async with connect(port) as client:
            return int(client.quic.tls._peer_certificate.serial_number)

    path = tmp_path / "certificate.pem"
    path.write_bytes(CERTIFICATE.read_bytes())
    with serve(PROGRAM, certfile=path, http3=True, workers=0) as server:
        before = run(serial(server.port))
        path.write_bytes(CERTIFICATE.with_name("other.pem").read_bytes())
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("SIGHUP: ")
        assert run(serial(server.port)) != before


@pytest.mark.parametrize("loop", LOOPS[:1])
def test_what_runs_is_answered_at_the_end(loop: str) -> None:
    async def ask(server: Server) -> None:
        async with connect(server.port) as client:
            begun = [client.begin("GET", "/wait")[1] for _ in range(5)]
            last, upload = client.begin("POST", "/end", end=False)
            client.send(last, b"1")
            stream = client.begin("GET", "/numbers/50")[1]
            await stream.until(lambda one: one.body)
            server.process.send_signal(signal.SIGTERM)
            await client.until(lambda one: len(one.goaways) == 1)
            assert client.goaways[0] == 2**62 - 4
            late = await client.get("/sync")  # it crosses the word of the end, or not
            assert (late.status, late.reset) in ((200, None), (0, REJECTED))
            await client.until(lambda one: len(one.goaways) == 2)
            assert client.goaways[1] == (4 * 8 if late.status else 4 * 7)
            client.send(last, b"2", True)
            assert (await upload.end()).body == b"ended"
            for reply in begun:
                assert (await reply.end()).body == b"waited"
            assert len((await stream.end()).body) == 500_000
            await client.until(lambda one: one.terminated)
            assert client.terminated.error_code == 0x100

    settings = {"certfile": CERTIFICATE, "http3": True, "loop": loop}
    with serve(PROGRAM, **settings) as server:
        run(ask(server))
        assert server.wait() == 0
