"""What a client of HTTP/3 may do, and what it gets for more."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Coroutine, Iterator, List, Tuple, Type

import pytest
from support import PATIENCE_SECONDS, Server, serve

if find_spec("aioquic") is None:
    pytest.skip("aioquic is not installed", allow_module_level=True)

from aioquic.buffer import encode_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from http3_client import Client, connect

from pixie_web.http3.port import MAX_OPEN_HANDSHAKES, configuration
from pixie_web.http3.quic import CarefulQuic

CERTIFICATE = Path(__file__).parents[1] / "programs" / "localhost.pem"
EXCESSIVE_LOAD, CLOSED_CRITICAL, CANCELLED = 0x107, 0x104, 0x10C
STREAM_WINDOW, CONNECTION_WINDOW = 256 * 1024, 1024 * 1024
PROGRAM = """
import asyncio
from pixie_web import RouteType, get, post, run

@get("/", RouteType.sync)
def index(env):
    return "hello"

@get("/large", RouteType.sync)
def large(env):
    return bytes(1_000_000)

@get("/wait", RouteType.asnc, on_disconnect="stop")
async def wait(env):
    await asyncio.Event().wait()

@post("/hold", RouteType.asnc, stream_body=True, on_disconnect="stop")
async def hold(env):
    await asyncio.Event().wait()

run()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    settings = {"certfile": CERTIFICATE, "http3": True, "send_idle_seconds": 1.0}
    settings["tls_handshake_seconds"] = 60.0  # so long they stay, on any machine
    with serve(PROGRAM, workers=0, **settings) as running:
        yield running


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_SECONDS))


# Windows ------------------------------------------------------------------------------


class Pair:
    """A client and a server of QUIC, without a network between them."""

    def __init__(self, kind: Type[Any]) -> None:
        self.now = 0.0
        secret = QuicConfiguration(alpn_protocols=["h3"], verify_mode=0)
        self.client = QuicConnection(configuration=secret)
        self.client.connect(("127.0.0.1", 1), now=0.0)
        first = self.client._peer_cid.cid
        self.server = kind(
            configuration=configuration(str(CERTIFICATE), None),
            original_destination_connection_id=first,
        )
        for _ in range(10):
            self.turn()
        assert self.server._handshake_complete

    def turn(self) -> None:
        """Let both say what they have to say."""
        self.now += 0.1
        for one, other in (self.client, self.server), (self.server, self.client):
            if one._network_paths:
                for data, _ in one.datagrams_to_send(self.now):
                    other.receive_datagram(data, ("127.0.0.1", 1), self.now)
            if one.get_timer() is not None and one.get_timer() <= self.now:
                one.handle_timer(self.now)

    def touch_end(self, number: int) -> None:
        """Send the last byte that the window of a stream lets through, and no other."""
        quic = self.client
        if number not in quic._streams:
            quic.send_stream_data(number, b"")
        stream = quic._streams[number]
        left = quic._remote_max_data - quic._remote_max_data_used
        sender = stream.sender
        size = min(stream.max_stream_data_remote - sender.highest_offset, left) - 1
        if size >= 0:
            sender._buffer_start = sender._buffer_stop = sender.highest_offset + size
            sender.highest_offset = sender._buffer_stop
            quic._remote_max_data_used += size
            quic.send_stream_data(number, b"x")
        self.turn()
        self.turn()

    def held_bytes(self) -> int:
        """Return how much the server keeps of what has come."""
        streams = self.server._streams.values()
        return sum(len(one.receiver._buffer) for one in streams)


@pytest.mark.parametrize("kind", [QuicConnection, CarefulQuic])
def test_a_few_bytes_make_no_window_grow(kind: Type[Any]) -> None:
    pair = Pair(kind)
    for _ in range(7):
        pair.touch_end(0)
    if kind is QuicConnection:
        assert pair.held_bytes() == 16 * CONNECTION_WINDOW  # of seven bytes
    else:
        assert pair.held_bytes() <= STREAM_WINDOW


def test_all_streams_have_one_window_together() -> None:
    pair = Pair(CarefulQuic)
    for number in range(0, 400, 4):
        pair.touch_end(number)
    assert pair.held_bytes() <= CONNECTION_WINDOW
    assert pair.client._remote_max_data == CONNECTION_WINDOW
    assert pair.client._remote_max_streams_bidi == 100
    assert pair.client._remote_max_streams_uni == 8


def test_windows_grow_by_what_is_given_back() -> None:
    pair = Pair(CarefulQuic)
    pair.client.send_stream_data(0, bytes(200_000))
    for _ in range(30):
        pair.turn()
    stream = pair.client._streams[0]
    assert stream.max_stream_data_remote == STREAM_WINDOW
    pair.server.give_back(0, 200_000, True)
    pair.turn()
    assert stream.max_stream_data_remote == STREAM_WINDOW + 200_000
    pair.server.give_back(0, 400_000, False)
    pair.turn()
    assert stream.max_stream_data_remote == STREAM_WINDOW + 200_000
    assert pair.client._remote_max_data == CONNECTION_WINDOW + 600_000


def test_what_a_reset_leaves_out_is_given_back() -> None:
    pair = Pair(CarefulQuic)
    pair.touch_end(0)
    assert pair.held_bytes() == STREAM_WINDOW
    pair.client.reset_stream(0, CANCELLED)
    pair.turn()
    # In the turn, the reset is known, and the stream has not been forgotten.
    assert pair.server.drop_gap(0) == STREAM_WINDOW
    assert pair.held_bytes() == 0


def test_a_window_of_all_lasts_for_ever(server: Server) -> None:
    """Each stream takes part of the connection's, and all of it comes back."""

    async def ask() -> None:
        async with connect(server.port) as client:
            for _ in range(30):
                number, _ = client.begin("POST", "/hold", end=False)
                sent = client.quic._streams[number].sender
                client.send(number, bytes(100_000))
                for _ in range(1000):
                    if sent.highest_offset >= 100_000:
                        break
                    await client.get("/")
                assert sent.highest_offset >= 100_000
                client.quic.reset_stream(number, CANCELLED)
                client.transmit()
            assert (await client.get("/")).status == 200

    run(ask())


# Frames -------------------------------------------------------------------------------


def test_settings_without_an_end_are_held_to_a_window(server: Server) -> None:
    class Endless(Client):  # type: ignore[misc]
        def quic_event_received(self, event: Any) -> None:
            if type(event).__name__ == "ProtocolNegotiated":
                # The control stream, and SETTINGS of a gigabyte.
                head = b"\0" + encode_uint_var(4) + encode_uint_var(1 << 30)
                self._quic.send_stream_data(2, head + bytes(200_000))

    async def ask() -> int:
        async with connect(server.port, Endless) as client:
            stream = client.quic._streams[2]
            for _ in range(50):
                await client.ping()
            assert stream.sender.highest_offset == 64 * 1024
            return int(stream.max_stream_data_remote)

    assert run(ask()) == 64 * 1024


FRAMES = {
    "headers of a megabyte": (b"\x01" + encode_uint_var(1 << 20), EXCESSIVE_LOAD),
    "WebTransport": (encode_uint_var(0x41) + b"\0", 0x105),
    "DATA ahead of headers": (b"\0\x01x", 0x105),
    "a frame of HTTP/2": (b"\x06\0", 0x105),
    "headers that can't be decoded": (b"\x01\x04\xff\xff\xff\xff", 0x200),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_wrong_frame_ends_its_connection_alone(server: Server, name: str) -> None:
    data, code = FRAMES[name]

    async def ask() -> Tuple[int, int]:
        async with connect(server.port) as client, connect(server.port) as other:
            client.send_raw(0, data)
            await client.until(lambda one: one.terminated)
            return client.terminated.error_code, (await other.get("/")).status

    assert run(ask()) == (code, 200)


# Resets, windows of zero --------------------------------------------------------------


def test_rapid_resets_end_their_connection(server: Server) -> None:
    async def ask() -> Tuple[int, int, int]:
        async with connect(server.port) as client, connect(server.port) as other:
            count = 0
            while client.terminated is None:
                number, _ = client.begin("GET", "/wait")
                client.quic.stop_stream(number, CANCELLED)
                client.transmit()
                await asyncio.sleep(0)
                count += 1
                if client.quic._streams_blocked_bidi:
                    with suppress(ConnectionError):
                        await client.ping()
            status = (await other.get("/")).status
            return count, client.terminated.error_code, status

    count, code, status = run(ask())
    assert (code, status) == (EXCESSIVE_LOAD, 200)
    assert count <= 400


def test_who_takes_nothing_of_an_answer_has_it_reset(server: Server) -> None:
    class Unwilling(Client):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._quic._write_stream_limits = lambda **_: None

    async def ask() -> Tuple[Any, int]:
        async with connect(server.port, Unwilling, max_stream_data=1000) as client:
            replies = [client.begin("GET", "/large")[1] for _ in range(3)]
            await asyncio.gather(*[one.end() for one in replies])
            return {one.reset for one in replies}, (await client.get("/")).status

    assert run(ask()) == ({CANCELLED}, 200)


# Handshakes ---------------------------------------------------------------------------


def initial() -> bytes:
    """Return the first datagram of a client that does not go on."""
    secret = QuicConfiguration(alpn_protocols=["h3"], verify_mode=0)
    client = QuicConnection(configuration=secret)
    client.connect(("127.0.0.1", 1), now=0.0)
    (data, _), *_ = client.datagrams_to_send(now=0.0)
    return bytes(data)


GARBAGE = {
    "nothing": b"",
    "a byte": b"\xc0",
    "a short header of nobody": b"\x40" + bytes(50),
    "noise": b"\xc3" + os.urandom(1300),
    "an Initial that can't be read": b"\xc3\0\0\0\1\x08" + bytes(9) + b"\0\x44\xd0",
    "an unknown version, too short": b"\xc3\x1a\x1a\x1a\x1a\x08" + bytes(40),
}


def test_garbage_has_no_answer(server: Server) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(PATIENCE_SECONDS)
        for data in GARBAGE.values():
            if data.startswith(b"\xc3\0"):
                data += bytes(1232)
            one.sendto(data, ("127.0.0.1", server.port))
        unknown = b"\xc3\x1a\x1a\x1a\x1a\x08" + b"12345678" + b"\x08" + b"abcdefgh"
        one.sendto(unknown + bytes(1200), ("127.0.0.1", server.port))
        answer = one.recv(65_536)  # the first that comes: a list of versions
    assert answer[1:23] == bytes(4) + b"\x08abcdefgh\x0812345678"


def test_many_open_handshakes_have_the_next_client_show_its_address(
    server: Server,
) -> None:
    async def ask() -> Tuple[int, int]:
        async with connect(server.port) as client:
            return client.quic._retry_count, (await client.get("/")).status

    assert run(ask()) == (0, 200)
    strangers: List[socket.socket] = []
    try:
        for _ in range(MAX_OPEN_HANDSHAKES):
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            strangers.append(one)
            one.settimeout(PATIENCE_SECONDS)
            one.sendto(initial(), ("127.0.0.1", server.port))
            one.recv(65_536)  # it has begun
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.settimeout(PATIENCE_SECONDS)
            last.sendto(initial(), ("127.0.0.1", server.port))
            answer = last.recv(65_536)
            assert answer[0] & 0xF0 == 0xF0 and len(answer) < 200  # RFC 9000 17.2.5
        assert run(ask()) == (1, 200)
    finally:
        for one in strangers:
            one.close()
