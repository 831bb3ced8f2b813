"""One client's connection that speaks HTTP/3, from its handshake to its GOAWAY."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple, cast

from aioquic.h3.connection import ErrorCode
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    HandshakeCompleted,
    PingAcknowledged,
    ProtocolNegotiated,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from ..errors import ProtocolError
from ..http2 import budgets
from ..http2.budgets import Allowance
from ..http2.frames import Code, StreamFault
from ..http2.heads import MalformedRequest, request_head, sort_fields
from ..http2.tables import Field
from ..protocol.http11 import Head
from ..requests import NEVER, Disconnect, Request
from ..server.access import NO_HEAD
from ..server.exchange import Exchange
from .quic import MAX_STREAM_ID, CarefulH3, CarefulQuic, Malformed
from .stream import HTTP3Body, HTTP3Stream
from .wire import DatagramConnection, QuicTransport

if TYPE_CHECKING:
    from .port import Port

LOOK_SECONDS = 1.0  # between two looks at streams that wait for their client
PING_SECONDS = 10.0  # without a word of the client's, while it waits for an answer
KEEP_ALIVE_PING, DRAIN_PING = 1, 2  # numbers, by which their answers are told apart
FIELD_BYTES = 32  # that count for each field: RFC 9114 section 4.2.2


class HTTP3Connection(DatagramConnection):
    """A connection of QUIC on which many requests are answered at once.

    Args:
        port: where its datagrams come and go.
        quic: the library's part of it.
        network: the client that it counts for; "" if it counts for none.

    Attributes:
        is_established: the handshake has ended.
    """

    def __init__(self, port: Port, quic: CarefulQuic, network: str) -> None:
        super().__init__(port, quic, network)
        self.is_established = False
        self._resets = Allowance(budgets.MAX_RESETS, budgets.RESETS_PER_SECOND)
        self._idle_since = self._began
        self._next = 0  # the number behind that of the last request that was begun
        self._is_draining = self._is_drained = False

    def begin(self, address: Any) -> None:
        """Be one of the server's connections."""
        transport: Any = QuicTransport(self, address)
        self.connection_made(transport)
        self.scheme = "https"
        self._set_deadline()

    # What it is at.

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to answer."""
        return not self.streams and self.is_established

    # Events.

    def _take_event(self, event: Any) -> None:
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def _negotiated(self, event: Any) -> None:
        self.h3 = CarefulH3(self.quic)

    def _established(self, event: Any) -> None:
        self.is_established = True
        self._idle_since = self.server.loop.time()
        self.port.establish(self)
        self._set_deadline()

    def _pinged(self, event: Any) -> None:
        if event.uid == DRAIN_PING:
            self.finish_drain()

    def _issued(self, event: Any) -> None:
        self.port.add_name(event.connection_id, self)

    def _retired(self, event: Any) -> None:
        self.port.remove_name(event.connection_id)

    def _take_data(self, event: Any) -> None:
        number, h3 = event.stream_id, self.h3
        taken = len(event.data) + h3.held(number)
        for one in h3.handle_event(event):
            if isinstance(one, HeadersReceived):
                self._begin(number, one.stream_ended, one.headers)
            elif isinstance(one, DataReceived):
                taken -= self._take_body(number, one.data, one.stream_ended)
            elif isinstance(one, Malformed):
                self._end_request(number, one.text)
        taken -= h3.held(number)
        # What is no body has been read, but for the beginning of a frame.
        stream = self.streams.get(number)
        widens = number & 2 == 2 or (stream is not None and not stream.is_reset)
        self.quic.give_back(number, taken, widens)

    def _take_body(self, number: int, data: bytes, is_last: bool) -> int:
        """Give a body its bytes; return how many it has to account for."""
        stream = self.streams.get(number)
        if stream is None or stream.is_reset or stream.body is None:
            return 0
        stream.remote_closed = stream.remote_closed or is_last
        try:
            stream.body.feed(data, is_last)
        except StreamFault as fault:
            self._end_request(number, fault.text)
            return 0
        return len(data)

    def _end_request(self, number: int, text: str) -> None:
        """Reset a request that breaks a rule."""
        stream = self.streams.get(number)
        self.reset_stream(number, ErrorCode.H3_MESSAGE_ERROR)
        if stream is not None and not stream.is_reset:
            stream.abort(ProtocolError(400, f"The request broke off: {text}."))
        self.count_reset(Code.PROTOCOL_ERROR)

    def _was_reset(self, event: Any) -> None:
        """The client has left a request, in the middle of it or of its answer."""
        number = event.stream_id
        if isinstance(event, StreamReset):
            held = self.h3.held(number)
            self.quic.give_back(number, held + self.quic.drop_gap(number), False)
        self.h3.handle_event(event)
        stream = self.streams.get(number)
        has_ended = stream is not None and stream.is_reset
        if stream is not None and not has_ended:
            self.reset_stream(number, ErrorCode.H3_REQUEST_CANCELLED)
            stream.leave()
        if number % 4 == 0 and not has_ended:
            self.count_reset(Code.CANCEL)

    # Requests.

    def _begin(self, number: int, is_whole: bool, fields: List[Field]) -> None:
        has_room = len(self.streams) < budgets.MAX_STREAMS
        if self.is_ending or self._is_drained or not has_room:
            self.reset_stream(number, ErrorCode.H3_REQUEST_REJECTED)
            self.count_reset(Code.REFUSED_STREAM)
            return
        self._next = max(self._next, number + 4)
        stream = HTTP3Stream(cast(Any, self), number, is_whole)
        refusal: Optional[ProtocolError] = None
        head, known = NO_HEAD, None
        try:
            head, known = self._read_head(is_whole, fields)
        except MalformedRequest as error:
            refusal = ProtocolError(400, str(error))
            stream.is_reset = True  # no page is sent
        except ProtocolError as error:
            refusal = error
        stream.request = request = self._request(stream, head)
        stream.exchange = exchange = Exchange(stream, request)
        self.streams[number] = stream
        if refusal is not None:
            if stream.is_reset:
                self.reset_stream(number, ErrorCode.H3_MESSAGE_ERROR)
            exchange.refuse(refusal, refusal.status)
            self.count_reset(Code.PROTOCOL_ERROR)
            return
        exchange.start(known)
        if known is None and stream.body is None and not head.query_string:
            self.port.heads.keep(head, request.known)
        if self.streams and not self.is_ending:
            self._set_deadline()

    def _read_head(self, is_whole: bool, fields: List[Field]) -> Tuple[Head, Any]:
        size = sum(len(name) + len(value) + FIELD_BYTES for name, value in fields)
        if size > budgets.MAX_LIST_BYTES:
            raise ProtocolError(431, "The request's head is too large.")
        found = sort_fields(fields)
        make_reader = self.server.make_reader
        return request_head(found, is_whole, self.port.heads, make_reader)

    def _request(self, stream: HTTP3Stream, head: Head) -> Request:
        body = None
        if not stream.remote_closed and head is not NO_HEAD:
            body = stream.body = HTTP3Body(stream, head)
        disconnect = Disconnect()
        disconnect.gone = self.has_left
        debug = self.server.options.debug
        return Request(head, self.client, self.scheme, body, disconnect, debug)

    # What streams call.

    def send_fields(self, number: int, fields: List[Field], is_last: bool) -> None:
        """Send a block of headers."""
        self.h3.send_headers(number, fields, is_last)
        self.send_soon()

    def reset_stream(self, number: int, code: int) -> None:
        """End a stream in both directions."""
        self.quic.stop_both(number, code)
        self.h3.forget(number)
        self.send_soon()

    def stop_request(self, number: int) -> None:
        """Want no more of a request."""
        self.quic.stop_request(number, ErrorCode.H3_NO_ERROR)
        self.count_reset(Code.NO_ERROR)
        self.send_soon()

    def give_back(self, number: int, size: int, widens: bool) -> None:
        """Let the client send as much again as was read."""
        self.quic.give_back(number, size, widens)
        self.send_soon()

    def count_reset(self, code: Code) -> None:
        """Count a stream that ended before its answer; too many end the connection."""
        if code == Code.INTERNAL_ERROR:
            return  # that is none of the client's doing
        if not self._resets.spend(self.server.loop.time()):
            self.fail(ErrorCode.H3_EXCESSIVE_LOAD, "too many streams were reset")

    def forget_stream(self, stream: HTTP3Stream) -> None:
        """A stream has ended."""
        self.streams.pop(stream.number, None)
        if not self.streams:
            self._idle_since = self.server.loop.time()
            if self._is_drained and not self.is_ending:
                self._part()
            elif self.server.is_full:
                self.server.resume()  # one that waits may have the place of this one
        if not self.is_ending:
            self._set_deadline()

    # The end.

    def refuse(self, error: ProtocolError) -> int:
        """Send an error of the connection, and close."""
        self.fail(ErrorCode.H3_GENERAL_PROTOCOL_ERROR, error.text)
        return 0

    def fail(self, code: int, text: str) -> None:
        """End the connection for what the client did (RFC 9114 section 8)."""
        for stream in list(self.streams.values()):
            stream.leave()
        self.end_now(code, text)

    def drain(self) -> None:
        """End after the requests at hand, and those that are on their way.

        RFC 9114 section 5.2: the first GOAWAY leaves the last request open. When the
        client has answered the PING behind it, it begins no more.
        """
        if self._is_draining or self.is_ending:
            return
        self._is_draining = True
        if self.is_established:
            self.h3.send_goaway(MAX_STREAM_ID)
            self.quic.send_ping(DRAIN_PING)
            self.send_soon()
        self._set_deadline()

    def finish_drain(self) -> None:
        """Take no more requests; end when those at hand have been answered."""
        if self._is_draining and not self._is_drained:
            self._go_away()
            if not self.streams and not self.is_ending:
                self._part()

    def _go_away(self) -> None:
        if not self._is_drained and self.is_established:
            self.h3.send_goaway(self._next)
            self.send_soon()
        self._is_drained = True

    # Time.

    def _set_deadline(self) -> None:
        options, server = self.server.options, self.server
        if self._closed:
            return
        if self.streams or self._is_draining:
            # Not later than before: or whoever sends all the time is not looked at.
            self.deadline = min(self.deadline, server.loop.time() + LOOK_SECONDS)
            if self._is_draining and not self._is_drained:
                self.deadline = min(self.deadline, server.last_moment)
        elif self.is_established:
            self.deadline = self._idle_since + options.keep_alive_seconds
        else:
            self.deadline = self._began + options.tls_handshake_seconds

    def out_of_time(self) -> None:
        """Time to look: at an idle connection, its end, or streams that wait."""
        if self.is_ending:
            super().out_of_time()
            return
        now, self.deadline = self.server.loop.time(), NEVER
        for stream in list(self.streams.values()):
            stream.look(now)
        if self.streams and now - self._heard_at > PING_SECONDS:
            self.quic.send_ping(KEEP_ALIVE_PING)  # or both sides take it for idle
            self._heard_at = now
            self.send_soon()
        if self._is_draining and now >= self.server.last_moment:
            self.finish_drain()
        elif not self.streams and not self._is_draining:
            self._go_away()
            self._part()
        if not self.is_ending:
            self._set_deadline()


_HANDLERS: Dict[Any, Any] = {
    ProtocolNegotiated: HTTP3Connection._negotiated,
    HandshakeCompleted: HTTP3Connection._established,
    PingAcknowledged: HTTP3Connection._pinged,
    ConnectionIdIssued: HTTP3Connection._issued,
    ConnectionIdRetired: HTTP3Connection._retired,
    StreamDataReceived: HTTP3Connection._take_data,
    StreamReset: HTTP3Connection._was_reset,
    StopSendingReceived: HTTP3Connection._was_reset,
}
