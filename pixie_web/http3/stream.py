"""One request and its answer on a connection of HTTP/3: where an exchange sends to."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from aioquic.h3.connection import ErrorCode

from ..errors import ClientDisconnected
from ..http2.frames import Code
from ..http2.heads import HTTP2Heads
from ..http2.stream import Stream, StreamBody
from ..http2.tables import Field
from ..protocol.http11 import has_body
from ..requests import Request

if TYPE_CHECKING:
    from .connection import HTTP3Connection
    from .wire import DatagramConnection

FEED_BYTES = 32 * 1024  # of an answer that the library has, and has not sent
JOINED_BYTES = 16 * 1024  # small pieces of a body are kept as one

# RFC 9114 section 8.1, for what HTTP/2 calls it.
_CODES = {
    Code.NO_ERROR: ErrorCode.H3_NO_ERROR,
    Code.PROTOCOL_ERROR: ErrorCode.H3_MESSAGE_ERROR,
    Code.INTERNAL_ERROR: ErrorCode.H3_INTERNAL_ERROR,
    Code.REFUSED_STREAM: ErrorCode.H3_REQUEST_REJECTED,
    Code.CANCEL: ErrorCode.H3_REQUEST_CANCELLED,
}


class HTTP3Heads(HTTP2Heads):
    """Heads that were proved before, of requests that came over HTTP/3."""

    version = "3"


@lru_cache(maxsize=256)
def _read_lines(block: bytes) -> Tuple[Field, ...]:
    fields = []
    for line in block.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name:
            fields.append((name.lower(), value.strip(b" \t")))
    return tuple(fields)


def response_fields(status: int, block: bytes, length: Optional[int]) -> List[Field]:
    """Return the fields of an answer's head.

    Args:
        status: the status.
        block: header lines that `is_header_block` accepts.
        length: of the body in bytes; None: not known beforehand.
    """
    if status == 205:  # RFC 9110 section 15.3.6
        length = 0
    fields = [(b":status", b"%d" % status), *_read_lines(block)]
    if not (length is None or status == 204 or (status == 304 and not length)):
        fields.append((b"content-length", b"%d" % length))
    return fields


class HTTP3Body(StreamBody):
    """The body of a request, which comes in smaller pieces than over TCP."""

    def _keep(self, data: bytes) -> None:
        # SECURITY: bytes that come one by one would take 60 times their memory.
        pieces: Any = self._pieces
        if pieces and len(pieces[-1]) + len(data) <= JOINED_BYTES:
            pieces[-1] += data
        else:
            pieces.append(bytearray(data))


class HTTP3Stream(Stream):
    """The sink of one exchange over HTTP/3.

    QUIC has the windows, and sends again what was lost; here waits what it shall not
    have yet.
    """

    connection: HTTP3Connection  # type: ignore[assignment]

    def send_head(
        self,
        request: Request,
        status: int,
        block: bytes,
        length: Optional[int],
        body: bytes = b"",
    ) -> bool:
        """Send the head, and the body with it where that is at hand; see Sink."""
        if self.is_closing:
            raise ClientDisconnected("the client left before its answer")
        with_body = has_body(request.head.method, status)
        ends = not with_body or length == 0
        lines = self.server.date_line() + block
        fields = response_fields(status, lines, length)
        self.connection.send_fields(self.number, fields, ends)
        self.end_sent = ends
        if body and not ends:
            self.connection.sender.send(self, body, True)
        return with_body

    def send_continue(self) -> None:
        """Say that the body is wanted (RFC 9114 section 4.1)."""
        if not self.is_closing and not self.remote_closed:
            self.connection.send_fields(self.number, [(b":status", b"100")], False)

    def unsent(self) -> int:
        """Return how many bytes the client has not acknowledged."""
        return self.queued_bytes + self.connection.quic.unacknowledged(self.number)

    def end_by(self, code: Code) -> None:
        """Reset the stream, unless it has ended."""
        if not self.is_closing:
            self.is_reset = True
            self.drop_queue()
            self.connection.reset_stream(self.number, _CODES[code])
            self.connection.count_reset(code)

    def _refuse_rest(self) -> None:
        """Want no more of the request (RFC 9114 section 4.1); the answer goes on."""
        if not self.is_closing:
            self.is_reset = True
            self.connection.stop_request(self.number)

    def pass_over(self, size: int) -> None:
        """Let the client send as much again, but not of this body."""
        self.connection.give_back(self.number, size, False)

    def give_back(self, size: int) -> None:
        """Let the client send as much again as was read."""
        widens = not (self.remote_closed or self.is_closing)
        self.connection.give_back(self.number, size, widens)


class Feeder:
    """Gives the library of each answer as much as it is about to send."""

    initial_window = 0  # QUIC has the windows

    def __init__(self, connection: DatagramConnection) -> None:
        self._connection = connection
        self._waiting: Dict[Stream, None] = {}

    def takes(self, stream: Stream, size: int) -> bool:
        """Return whether a piece would be on its way at once."""
        left = FEED_BYTES - self._connection.quic.unsent(stream.number)
        return size <= left and not stream.has_queued

    def send(self, stream: Stream, data: bytes, end: bool) -> None:
        """Send a piece of a body, or queue it until the client takes it."""
        connection, number = self._connection, stream.number
        if self.takes(stream, len(data)):
            # PERF: no future and no queue for most answers; 6 us.
            connection.h3.send_data(number, data, end)
            stream.end_sent = end
        else:
            stream.enqueue(data, end)
            self._waiting[stream] = None
            self._feed(stream)
        connection.send_soon()

    def feed_all(self) -> bool:
        """Give more of all that wait; return whether there was any to be given."""
        found = [self._feed(stream) for stream in list(self._waiting)]
        return any(found)

    def _feed(self, stream: Stream) -> bool:
        quic, h3 = self._connection.quic, self._connection.h3
        has_moved, number = False, stream.number
        while stream.has_queued and not stream.is_closing:
            room = FEED_BYTES - quic.unsent(number)
            if room <= 0:
                return has_moved
            data = stream.dequeue(min(room, stream.queued_bytes))
            end = stream.end_queued and not stream.queued_bytes
            if end:
                stream.end_queued, stream.end_sent = False, True
            h3.send_data(number, data, end)
            has_moved = True
        del self._waiting[stream]
        stream.let_go()
        return has_moved
