"""For how long the server waits for a client, to the second."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import socket
from pathlib import Path
from typing import Any, AsyncIterator, List, Tuple

import pytest
from virtual_server import Client, serving
from virtual_time import in_virtual_time, quiet, seconds

from pixie_web import Pixie, ProtocolError, Request, Response, RouteType
from pixie_web.server.listeners import tls_context

CERTIFICATE = str(Path(__file__).parents[1] / "programs" / "localhost.pem")
SWEEP = 0.6  # the server looks twice a second; a little more
LARGE = 8_000_000  # more than the kernel holds for a client that does not read
OUTCOME = "%(status)d %(bytes)d %(outcome)s"
PIECE = 300_000  # what is read at once: the kernel counts whole buffers of 100,000

app = Pixie()


def head_of(path: str, *lines: str, method: str = "GET") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: a", *lines, "", ""]
    return "\r\n".join(head).encode()


def post(path: str, size: int) -> bytes:
    return head_of(path, f"Content-Length: {size}", method="POST")


@app.route("/", RouteType.sync)
def index(env: Any) -> str:
    return "text"


@app.route("/wait/<number:int>", RouteType.asnc)
async def wait(env: Any, number: int) -> str:
    await asyncio.sleep(number)
    return "waited"


@app.route("/stops", RouteType.asnc, on_disconnect="stop")
async def stops(env: Any) -> str:
    await asyncio.sleep(5)
    return "for nobody"


@app.route("/large", RouteType.sync)
def large(env: Any) -> str:
    return "x" * LARGE


@app.route("/slow/<number:int>", RouteType.asnc)
async def slow(env: Any, number: int) -> AsyncIterator[bytes]:
    """Send more than the kernel takes, wait, and say that this is the end."""
    yield b"x" * LARGE
    await asyncio.sleep(number)
    yield b"the end"


@app.route("/pieces", RouteType.asnc)
async def pieces(env: Any) -> AsyncIterator[bytes]:
    yield b"begun"
    await asyncio.sleep(4)
    yield b"ended"


@app.route("/echo", RouteType.asnc, "POST")
async def echo(env: Any) -> str:
    return str(len(env.body))


@app.route("/late/<number:int>", RouteType.asnc, "POST", stream_body=True)
async def late(env: Any, number: int) -> str:
    """Wait before each chunk of the body is read."""
    sizes = []
    await asyncio.sleep(number)
    async for chunk in env.stream():
        sizes.append(len(chunk))
        await asyncio.sleep(number)
    return str(sum(sizes))


async def end_of(client: Client, within: float = 1000.0) -> float:
    """Return after how many seconds the server ends its side."""
    began = seconds()
    while not client.has_ended:
        assert seconds() - began < within, "the server waits on"
        await asyncio.sleep(0.1)
        client.read()
    return seconds() - began


def soon_after(moment: float) -> Any:
    """Return what equals the moment of the sweep that follows another moment."""
    return pytest.approx(moment + 0.3, abs=0.4)


@in_virtual_time
async def test_the_end_of_a_slow_client_that_nobody_waits_for_is_no_news() -> None:
    said: List[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, about: said.append(about))
    async with serving(app.handle) as site:
        client = site.connect()
        client.send(head_of("/stops"))
        await quiet()
        (connection,) = site.server.connections
        connection.pause_writing()  # as the loop does, for a heartbeat or over HTTP/2
        client.close()
        await asyncio.sleep(4)
        assert not site.server.connections
        del connection
        gc.collect()
    assert said == []


# Requests -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces, ends, status",
    [
        ([], 10, b""),  # not a word
        ([(0, b"GET / HTTP/1.1\r\n")], 10, b"408"),
        ([(9, b"GET / HTTP/1.1\r\n")], 19, b"408"),  # its time begins with it
        ([(0, b"GET "), (5, b"/ HT"), (9, b"TP/1.1\r\n")], 10, b"408"),
        ([(9, b"\r\n")], 10, b""),  # an empty line is no beginning
        ([(0, b"GET / HTTP/1.1\r\n"), (9, b"Host: a\r\n\r\n")], 9 + 75, b"200"),
    ],
)
@in_virtual_time
async def test_a_head_has_ten_seconds(
    pieces: List[Tuple[int, bytes]], ends: int, status: bytes
) -> None:
    async with serving(app.handle) as site:
        client, began = site.connect(), seconds()
        for moment, piece in pieces:
            await asyncio.sleep(began + moment - seconds())
            client.send(piece)
        await end_of(client)
        assert seconds() - began == soon_after(ends)
        assert client.data[9:12] == status


@in_virtual_time
async def test_a_kept_connection_has_its_time_after_each_answer() -> None:
    async with serving(app.handle, keep_alive_seconds=20, head_seconds=5) as site:
        client = site.connect()
        for _ in range(3):
            await client.get(head_of("/"))
            await asyncio.sleep(19)
            assert not client.has_ended
        client.send(b"GET / HTTP/1.1\r\n")  # from here on it is a head's time
        await asyncio.sleep(4)
        assert (await client.get(b"Host: a\r\n\r\n")).endswith(b"text")
        assert await end_of(client) == soon_after(20)


@in_virtual_time
async def test_a_handler_has_all_its_time_and_the_client_has_it_too() -> None:
    async with serving(app.handle, keep_alive_seconds=5, head_seconds=5) as site:
        client = site.connect()
        assert await client.get(head_of("/wait/100")) == b""
        await asyncio.sleep(101)
        assert client.read().endswith(b"waited")
        assert await end_of(client) == soon_after(4)


@in_virtual_time
async def test_a_refused_client_may_read_for_as_long_as_the_server_lingers() -> None:
    async with serving(app.handle, linger_seconds=7) as site:
        client = site.connect()
        assert (await client.get(b"no request\r\n\r\n"))[9:12] == b"400"
        assert client.has_ended  # nothing more will come
        await asyncio.sleep(6)
        assert not client.is_gone
        await asyncio.sleep(2)
        assert client.is_gone


@in_virtual_time
async def test_a_client_is_told_how_long_it_took() -> None:
    async with serving(app.handle, server_timing=True) as site:
        client = site.connect()
        client.send(head_of("/wait/5") + head_of("/none"))
        await asyncio.sleep(6)
        first, second = client.read().split(b"waited")
    assert b"\r\nServer-Timing: queue;dur=0.000, run;dur=5000.0" in first
    assert b"Server-Timing" not in second  # no handler was to run


# Bodies -------------------------------------------------------------------------------


async def feed(client: Client, every: float, piece: bytes, times: int) -> None:
    """Send a piece every so many seconds, until the server has had enough."""
    try:
        for _ in range(times):
            await asyncio.sleep(every)
            client.send(piece)
    except BrokenPipeError:
        pass


@pytest.mark.parametrize(
    "rate, every, size, ends, status",
    [
        (0, 9, 1, 180, b"200"),  # without a rate it may be as slow as it likes
        (0, 11, 1, 10, b"408"),
        (100, 5, 1000, 100, b"200"),  # twice the rate
        # Each piece comes a second too late: of ten six are gone when the seventh,
        # within the other four, does not come.
        (100, 5, 400, 34, b"408"),
        (240, 1000, 1, 10, b"408"),
    ],
)
@in_virtual_time
async def test_a_body_keeps_up_a_rate(
    rate: int, every: int, size: int, ends: int, status: bytes
) -> None:
    async with serving(app.handle, min_bytes_per_second=rate) as site:
        client, began = site.connect(), seconds()
        lines = ("Connection: close", f"Content-Length: {20 * size}")
        client.send(head_of("/echo", *lines, method="POST"))
        feeding = asyncio.ensure_future(feed(client, every, b"x" * size, 20))
        await end_of(client)
        assert seconds() - began == soon_after(ends)
        assert client.data[9:12] == status
        feeding.cancel()


@in_virtual_time
async def test_time_in_which_nobody_reads_the_body_is_not_the_clients() -> None:
    async with serving(app.handle, min_bytes_per_second=1000) as site:
        client = site.connect()
        client.send(post("/late/100", 20))
        client.send(b"x" * 10)
        await asyncio.sleep(205)  # it is read after 100, the handler waits once more
        assert not client.has_ended
        client.send(b"x" * 10)
        await asyncio.sleep(100)
        assert (await client.get(b"")).endswith(b"20")


# Sending ------------------------------------------------------------------------------


@in_virtual_time
async def test_who_has_caught_up_may_wait_for_the_rest_of_its_answer() -> None:
    async with serving(app.handle, send_idle_seconds=5) as site:
        client = site.connect()
        client.send(head_of("/slow/100"))
        await asyncio.sleep(3)  # the server waits for it, for two more seconds
        assert len(await client.read_all()) > LARGE
        await asyncio.sleep(99)  # of the 100 that its stream now takes
        assert client.read() == b""
        assert not client.has_ended
        await asyncio.sleep(2)
        assert client.read() == b"7\r\nthe end\r\n0\r\n\r\n"


@pytest.mark.parametrize("path", ["/large", "/slow/0"])
@in_virtual_time
async def test_who_does_not_read_is_cut_off(path: str) -> None:
    async with serving(app.handle, send_idle_seconds=20) as site:
        client = site.connect()
        client.send(head_of(path))
        await asyncio.sleep(19)
        assert len(site.server.connections) == 1
        await asyncio.sleep(1 + SWEEP)
        assert not site.server.connections
        assert len(await client.read_all()) < LARGE


@pytest.mark.parametrize(
    "rate, is_served", [(20_000, True), (40_000, False), (0, True)]
)
@in_virtual_time
async def test_who_reads_keeps_up_a_rate(rate: int, is_served: bool) -> None:
    bounds = {"send_idle_seconds": 10, "min_bytes_per_second": rate}
    async with serving(app.handle, **bounds) as site:
        client = site.connect()
        client.send(head_of("/large"))
        for _ in range(20):
            await asyncio.sleep(10)
            client.read(PIECE)
        await client.read_all()
        assert (len(client.data) > LARGE) is is_served
        assert (len(site.server.connections) == 1) is is_served


@in_virtual_time
async def test_the_last_answer_may_be_read_until_the_client_stands_still() -> None:
    async with serving(app.handle, send_idle_seconds=20, linger_seconds=2) as site:
        client = site.connect()
        client.send(head_of("/large", "Connection: close"))
        for _ in range(20):
            await asyncio.sleep(10)
            assert client.read(PIECE)
        assert not client.has_ended
        await client.read_all()
        assert client.has_ended
        assert len(client.data) > LARGE
        await asyncio.sleep(2 + SWEEP)
        assert client.is_gone


# Leaving ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head, read, outcome",
    [
        (head_of("/"), True, "200 4 complete"),
        (head_of("/", method="HEAD"), True, "200 0 complete"),
        (b"no request\r\n\r\n", True, "400 0 complete"),
        (head_of("/large"), False, "200 8000000 left"),
        (head_of("/wait/5"), False, "200 6 left"),
        (head_of("/stops"), False, "499 0 left"),
    ],
)
@in_virtual_time
async def test_what_became_of_an_answer_is_logged(
    head: bytes, read: bool, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pixie_web.access")
    async with serving(app.handle, access_log_format=OUTCOME) as site:
        client = site.connect()
        client.send(head)
        await quiet()
        if read:
            client.read()
        client.close()
        await asyncio.sleep(10)
    (line,) = (one.getMessage() for one in caplog.records)
    if outcome.startswith("400"):  # with as many bytes as its page has
        line = line.replace(line.split()[1], "0")
    assert line == outcome


@in_virtual_time
async def test_a_refusal_is_complete_for_who_will_send_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refuse(request: Request) -> Response:
        await asyncio.sleep(5)
        raise ProtocolError(408, "too late")

    caplog.set_level(logging.INFO, "pixie_web.access")
    async with serving(refuse, access_log_format=OUTCOME) as site:
        client = site.connect()
        client.send(head_of("/"))
        client.socket.shutdown(socket.SHUT_WR)
        await asyncio.sleep(6)
        assert client.read().startswith(b"HTTP/1.1 408 ")
    (line,) = (one.getMessage() for one in caplog.records)
    assert line.startswith("408 ") and line.endswith(" complete")


@pytest.mark.parametrize("on_disconnect, went_on", [("finish", True), ("stop", False)])
@in_virtual_time
async def test_a_stream_that_is_to_finish_is_not_cancelled(
    on_disconnect: str, went_on: bool
) -> None:
    seen: List[str] = []

    async def chunks() -> AsyncIterator[str]:
        yield "one"
        await asyncio.sleep(5)
        seen.append("went on")
        yield "two"

    streaming = Pixie()

    @streaming.route("/", RouteType.asnc, on_disconnect=on_disconnect)
    async def streams(env: Any) -> Any:
        return chunks()

    async with serving(streaming.handle) as site:
        client = site.connect()
        assert (await client.get(head_of("/"))).endswith(b"3\r\none\r\n")
        client.close()
        await asyncio.sleep(6)
    assert bool(seen) is went_on


@in_virtual_time
async def test_what_no_route_answers_may_come_in_pieces() -> None:
    streaming = Pixie()

    @streaming.error(404)
    def nothing(env: Any, error: Exception) -> Any:
        return iter(["no", "thing"])

    async with serving(streaming.handle) as site:
        answer = await site.connect().get(head_of("/"))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"2\r\nno\r\n5\r\nthing\r\n0\r\n\r\n")


# Arriving -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first, ends",
    [(b"", 10), (b"\x16", 10 + 20), (b"\x16\x03\x01", 10 + 20)],
)
@in_virtual_time
async def test_who_does_not_come_to_a_handshake_is_let_go(
    first: bytes, ends: int
) -> None:
    bounds = {"head_seconds": 10, "tls_handshake_seconds": 20}
    async with serving(app.handle, tls_context(CERTIFICATE), **bounds) as site:
        client, began = site.connect(), seconds()
        await asyncio.sleep(9.9)
        client.send(first)
        await end_of(client)
        assert seconds() - began == pytest.approx(ends, abs=0.2)


@in_virtual_time
async def test_a_server_without_descriptors_waits_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(self: socket.socket) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with serving(app.handle, access_log=False) as site:
        with monkeypatch.context() as patched:
            patched.setattr(socket.socket, "accept", none_left)
            client = site.connect()
            assert await client.get(head_of("/")) == b""
            await asyncio.sleep(2.5)
        client.read()
        assert client.data == b""
        await asyncio.sleep(0.6)
        assert client.read().endswith(b"text")
    messages = [one.getMessage() for one in caplog.records]
    assert messages == ["can't accept connections for a while: Too many open files"] * 3


@pytest.mark.parametrize("turns", range(6))
@in_virtual_time
async def test_who_arrives_as_the_server_ends_has_a_moment(turns: int) -> None:
    async with serving(app.handle) as site:
        client = site.connect()
        for _ in range(turns):
            await asyncio.sleep(0)
        began = seconds()
        await site.server.close()
        await quiet()
        client.read()
        assert client.has_ended
        assert not site.server.connections
        assert 1 <= seconds() - began <= 1 + SWEEP


# The end ------------------------------------------------------------------------------


@in_virtual_time
async def test_what_an_idle_client_has_sent_as_the_server_ends_is_answered() -> None:
    async with serving(app.handle) as site:
        client = site.connect()
        await client.get(head_of("/"))
        client.send(head_of("/"))
        began = seconds()
        await site.server.close()
        answer = client.read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"Connection: close\r\n\r\ntext")
        assert (client.read(), client.has_ended) == (b"", True)
        assert seconds() - began < 0.4


@in_virtual_time
async def test_what_an_idle_client_sends_after_the_end_is_read_and_not_answered() -> (
    None
):
    # RFC 9112 section 9.6: a reset would tell it less, and may destroy an answer.
    async with serving(app.handle) as site:
        client = site.connect()
        await client.get(head_of("/"))
        began = seconds()
        closing = asyncio.ensure_future(site.server.close())
        await quiet()
        assert (client.read(), client.has_ended) == (b"", True)
        client.send(head_of("/"))
        await closing
        assert client.socket.recv(1) == b""
        assert 0.2 < seconds() - began < 0.4


@in_virtual_time
async def test_an_idle_client_that_leaves_at_the_end_holds_nothing_up() -> None:
    async with serving(app.handle) as site:
        client = site.connect()
        await client.get(head_of("/"))
        began = seconds()
        closing = asyncio.ensure_future(site.server.close())
        await quiet()
        client.close()
        await closing
        assert seconds() - began < 0.01


@pytest.mark.parametrize("sent_before", [0, 10, len(head_of("/"))])
@in_virtual_time
async def test_what_is_behind_an_answer_that_said_keep_alive_is_answered_at_the_end(
    sent_before: int,
) -> None:
    async with serving(app.handle) as site:
        client = site.connect()
        await client.get(head_of("/pieces") + head_of("/")[:sent_before])
        closing = asyncio.ensure_future(site.server.close())
        await asyncio.sleep(2)
        client.send(head_of("/")[sent_before:])
        await closing
        client.read()
        assert client.data.count(b"HTTP/1.1 200 ") == 2
        assert client.data.endswith(b"Connection: close\r\n\r\ntext")
        assert client.has_ended


@pytest.mark.parametrize("pieces", [[b"GET /", b" HTTP/1.1\r\nHost: a\r\n", b"\r\n"]])
@in_virtual_time
async def test_a_head_that_comes_in_pieces_as_the_server_ends_is_answered(
    pieces: List[bytes],
) -> None:
    async with serving(app.handle) as site:
        client = site.connect()
        closing = asyncio.ensure_future(site.server.close())
        for piece in pieces:
            await asyncio.sleep(0.3)
            client.send(piece)
        await closing
        assert client.read().endswith(b"Connection: close\r\n\r\ntext")


@in_virtual_time
async def test_a_handshake_that_does_not_end_holds_the_end_up_for_a_moment() -> None:
    async with serving(app.handle, tls_context(CERTIFICATE)) as site:
        silent, begun = site.connect(), site.connect()
        begun.send(b"\x16\x03\x01")
        await quiet()
        began = seconds()
        await site.server.close()
        assert seconds() - began == pytest.approx(1)
        await quiet()
        assert silent.is_gone and begun.is_gone


@in_virtual_time
async def test_an_unexpected_error_ends_the_connection_at_once() -> None:
    async def fail(request: Request) -> Response:
        raise ValueError("not what an application does")

    async with serving(fail, linger_seconds=30) as site:
        client = site.connect()
        assert await client.get(head_of("/")) == b""
        assert client.has_ended
        assert client.is_gone
        assert not site.server.connections


@in_virtual_time
async def test_a_tls_connection_that_is_closed_twice_ends_in_time() -> None:
    bounds = {"linger_seconds": 10, "keep_alive_seconds": 5, "drain_seconds": 60}
    async with serving(app.handle, tls_context(CERTIFICATE), **bounds) as site:
        client = await site.connect_tls(CERTIFICATE)
        assert (await client.get(head_of("/"))).endswith(b"\r\n\r\ntext")
        await asyncio.sleep(6)  # it is closed, but for the client's close_notify
        client.read()
        assert len(site.server.connections) == 1
        began = seconds()
        await asyncio.wait_for(site.server.close(), 600)
        assert seconds() - began < 11


@in_virtual_time
async def test_the_end_of_the_server_waits_for_what_runs_and_no_longer() -> None:
    async with serving(app.handle, drain_seconds=30) as site:
        idle, short, long = (site.connect() for _ in range(3))
        await idle.get(head_of("/"))
        await short.get(head_of("/wait/10"))
        await long.get(head_of("/wait/100"))
        assert site.server.running == 2
        closing = asyncio.ensure_future(site.server.close())
        began = seconds()
        await quiet()
        idle.read()
        assert idle.has_ended
        await asyncio.sleep(11)
        assert short.read().endswith(b"Connection: close\r\n\r\nwaited")
        assert short.has_ended
        await closing
        assert seconds() - began == pytest.approx(30)
        assert (long.read(), long.has_ended) == (b"", True)


@in_virtual_time
async def test_the_longest_idle_connection_makes_room() -> None:
    async with serving(app.handle, max_connections=2) as site:
        first, second = site.connect(), site.connect()
        await first.get(head_of("/"))
        await asyncio.sleep(1)
        await second.get(head_of("/"))
        await asyncio.sleep(1)
        await first.get(head_of("/"))
        third = site.connect()
        assert (await third.get(head_of("/"))).endswith(b"text")
        assert second.read() == b"" and second.has_ended
        assert not first.has_ended
        first.send(head_of("/wait/5"))
        third.send(head_of("/wait/9"))
        fourth = site.connect()
        assert await fourth.get(head_of("/")) == b""  # nobody is idle
        await asyncio.sleep(5.1)
        assert fourth.read().endswith(b"text")


@pytest.mark.parametrize("status", [400, 408, 413])
@in_virtual_time
async def test_a_protocol_error_of_the_application_is_answered(status: int) -> None:
    async def refuse(request: Request) -> Response:
        raise ProtocolError(status, "no more")

    async with serving(refuse) as site:
        client = site.connect()
        answer = await client.get(head_of("/"))
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"Connection: close" in answer
        assert client.has_ended
