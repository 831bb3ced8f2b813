"""A client of HTTP/3 on aioquic's own, for tests: requests, and what comes of each.

async with connect(port) as client:
    answer = await client.get("/")
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, Dict, List, Optional, Sequence, Tuple

from aioquic.asyncio.client import connect as connect_quic
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import Buffer
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    ProtocolNegotiated,
    StopSendingReceived,
    StreamReset,
)
from support import PATIENCE_SECONDS

Header = Tuple[bytes, bytes]


class Reply:
    """What has come of an answer, piece by piece."""

    def __init__(self) -> None:
        self.headers: Dict[bytes, bytes] = {}
        self.statuses: List[int] = []
        self.body = b""
        self.reset: Optional[int] = None  # the code
        self.stopped: Optional[int] = None
        self.ended = False
        self.news = asyncio.Event()

    @property
    def status(self) -> int:
        return self.statuses[-1] if self.statuses else 0

    async def until(self, condition: Any) -> None:
        """Wait until something holds of this."""
        while not condition(self):
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), PATIENCE_SECONDS)

    async def end(self) -> Reply:
        """Wait for its end, in whatever way."""
        await self.until(lambda one: one.ended or one.reset is not None)
        return self


class LenientH3(H3Connection):  # type: ignore[misc]
    """HTTP/3 that lets the answer to HEAD name the length of what does not come."""

    def _check_content_length(self, stream: Any) -> None:
        pass


class Client(QuicConnectionProtocol):  # type: ignore[misc]
    """One connection of a client.

    Attributes:
        replies: by the numbers of their streams.
        goaways: the numbers that the server's GOAWAYs named.
        terminated: how the connection ended.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.h3: Any = None
        self.replies: Dict[int, Reply] = {}
        self.goaways: List[int] = []
        self.terminated: Optional[ConnectionTerminated] = None
        self.news = asyncio.Event()

    @property
    def quic(self) -> Any:
        return self._quic

    def quic_event_received(self, event: Any) -> None:
        if isinstance(event, ProtocolNegotiated):
            self.h3 = LenientH3(self._quic)
        elif isinstance(event, ConnectionTerminated):
            self.terminated = event
            for reply in self.replies.values():
                if not reply.ended and reply.reset is None:
                    reply.reset = event.error_code
                reply.news.set()
        elif isinstance(event, (StreamReset, StopSendingReceived)):
            reply = self.replies.get(event.stream_id)
            if reply is not None:
                kind = "reset" if isinstance(event, StreamReset) else "stopped"
                setattr(reply, kind, event.error_code)
                reply.news.set()
        self._note_goaway(event)
        for one in self.h3.handle_event(event) if self.h3 is not None else []:
            self._take(one)
        self.news.set()

    def _note_goaway(self, event: Any) -> None:
        if self.h3 is None or event.__class__.__name__ != "StreamDataReceived":
            return
        if event.stream_id == self.h3._peer_control_stream_id:
            data = Buffer(data=event.data)
            while not data.eof():
                kind, size = data.pull_uint_var(), data.pull_uint_var()
                payload = data.pull_bytes(size)
                if kind == 7:
                    self.goaways.append(Buffer(data=payload).pull_uint_var())

    def _take(self, event: Any) -> None:
        reply = self.replies.get(getattr(event, "stream_id", -1))
        if reply is None:
            return
        if isinstance(event, HeadersReceived):
            fields = dict(event.headers)
            reply.statuses.append(int(fields[b":status"]))
            reply.headers = fields
        elif isinstance(event, DataReceived):
            reply.body += event.data
        reply.ended = reply.ended or event.stream_ended
        reply.news.set()

    async def until(self, condition: Any) -> None:
        """Wait until something holds of this connection."""
        while not condition(self):
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), PATIENCE_SECONDS)

    # Asking.

    def begin(
        self,
        method: str,
        path: str,
        headers: Sequence[Header] = (),
        end: bool = True,
    ) -> Tuple[int, Reply]:
        """Send a head; return the number of its stream, and what will come."""
        head = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path.encode()),
            *headers,
        ]
        return self.send_head(head, end)

    def send_head(self, head: Sequence[Header], end: bool = True) -> Tuple[int, Reply]:
        """Send a head of any fields."""
        number = self._quic.get_next_available_stream_id()
        reply = self.replies[number] = Reply()
        self.h3.send_headers(number, list(head), end)
        self.transmit()
        return number, reply

    def send(self, number: int, data: bytes, end: bool = False) -> None:
        """Send a piece of a body."""
        self.h3.send_data(number, data, end)
        self.transmit()

    def send_raw(self, number: int, data: bytes, end: bool = False) -> None:
        """Send bytes of a stream as they are."""
        self._quic.send_stream_data(number, data, end)
        self.transmit()

    async def get(self, path: str, headers: Sequence[Header] = ()) -> Reply:
        return await self.begin("GET", path, headers)[1].end()

    async def post(
        self, path: str, body: bytes, headers: Sequence[Header] = ()
    ) -> Reply:
        number, reply = self.begin("POST", path, headers, end=False)
        self.send(number, body, True)
        return await reply.end()


@asynccontextmanager
async def connect(
    port: int, protocol: Any = Client, **options: Any
) -> AsyncIterator[Any]:
    """Open a connection, for as long as the block lasts."""
    configuration = QuicConfiguration(
        alpn_protocols=["h3"],
        is_client=True,
        verify_mode=ssl.CERT_NONE,
        **{"idle_timeout": PATIENCE_SECONDS, **options},
    )
    async with connect_quic(
        "127.0.0.1", port, configuration=configuration, create_protocol=protocol
    ) as client:
        yield client
