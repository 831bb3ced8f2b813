"""What the frames of a client mean: RFC 9113 sections 5, 6 and 8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from ..errors import ProtocolError
from ..protocol.http11 import Head
from ..requests import Disconnect, Request
from ..server.access import NO_HEAD
from ..server.exchange import Exchange
from . import budgets
from .accounts import ENDED, LEFT, Accounts
from .frames import (
    ACK,
    DEPENDS_ON_ITSELF,
    END_STREAM,
    MAX_WINDOW,
    Code,
    ConnectionFault,
    Frame,
    FrameReader,
    Setting,
    StreamFault,
    Type,
    encode_frame,
    encode_reset,
    read_number,
    read_settings_frame,
)
from .heads import (
    MalformedRequest,
    RequestFields,
    check_trailers,
    request_head,
    sort_fields,
)
from .hpack import Decoder, HeaderFlood, HpackError
from .stream import Stream, StreamBody
from .tables import Field

if TYPE_CHECKING:
    from .connection import HTTP2Connection

DRAIN_PING = b"draining"  # its answer says that the client knows of our end


class Receiver(Accounts):
    """Takes the frames of a connection, in their order.

    Attributes:
        reader: makes frames of bytes.
        last: the highest stream that was begun.
        started: how many requests were.
    """

    def __init__(self, connection: HTTP2Connection) -> None:
        super().__init__(connection)
        self.reader = FrameReader()
        self._decoder = Decoder(budgets.MAX_LIST_BYTES)
        self.last = self.started = 0

    def take(self, frame: Frame) -> None:
        """Do what a frame says.

        Raises:
            ConnectionFault, StreamFault: it must not say that.
        """
        handler = _HANDLERS.get(frame.type)
        if handler is None:
            self._count_control()
        else:
            handler(self, frame)

    def _is_idle(self, number: int) -> bool:
        return number > self.last or number % 2 == 0

    def _check_begun(self, frame: Frame) -> None:
        if self._is_idle(frame.stream) and not self._connection.is_past(frame.stream):
            text = f"{Type(frame.type).name} on stream {frame.stream}, which is idle"
            raise ConnectionFault(Code.PROTOCOL_ERROR, text)

    def end_stream(self, fault: StreamFault) -> None:
        """Reset a stream for what the client did.

        Raises:
            ConnectionFault: too many were, or it has not begun.
        """
        connection = self._connection
        stream = connection.streams.get(fault.stream)
        if stream is not None and not stream.is_reset:
            connection.send(encode_reset(fault.stream, fault.code))
            stream.abort(ProtocolError(400, f"The request broke off: {fault.text}."))
        elif not self._is_idle(fault.stream):
            connection.send(encode_reset(fault.stream, fault.code))
            if stream is None and fault.stream not in self._closed:
                self._remember(fault.stream, budgets.STREAM_WINDOW_BYTES)
        elif not connection.is_past(fault.stream):
            # Section 6.4: an idle stream can't be reset, and any fault of a stream may
            # count as one of the connection (section 5.4.1).
            raise ConnectionFault(fault.code, fault.text)
        self.count_reset()

    # Requests.

    def _take_headers(self, frame: Frame) -> None:
        number = frame.stream
        if number % 2 == 0:
            text = "clients begin streams of odd numbers"  # section 5.1.1
            raise ConnectionFault(Code.PROTOCOL_ERROR, text)
        try:
            # Also of a stream that nobody wants: the table goes on from it.
            fields = self._decoder.decode(frame.payload)
        except HeaderFlood as error:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, str(error)) from None
        except HpackError as error:
            raise ConnectionFault(Code.COMPRESSION_ERROR, str(error)) from None
        connection = self._connection
        stream = connection.streams.get(number)
        if stream is not None:
            self._take_trailers(stream, frame, fields)
        elif number <= self.last:
            self._take_late_headers(number)
        elif not connection.is_past(number):
            self.last = number
            if frame.flags & DEPENDS_ON_ITSELF:
                raise StreamFault(number, Code.PROTOCOL_ERROR, "it depends on itself")
            if len(connection.streams) >= budgets.MAX_STREAMS:
                text = f"at most {budgets.MAX_STREAMS} requests run at once"
                raise StreamFault(number, Code.REFUSED_STREAM, text)
            self.control.earn(budgets.CONTROL_FRAMES_PER_REQUEST)
            self.started += 1
            self._begin(number, bool(frame.flags & END_STREAM), fields)

    def _take_late_headers(self, number: int) -> None:
        how = self._closed.get(number)
        if how is None:
            text = "the number of a stream is lower than that of one before"
            raise ConnectionFault(Code.PROTOCOL_ERROR, text)  # section 5.1.1
        if how == ENDED:
            text = "HEADERS on a stream that has ended"  # section 5.1
            raise ConnectionFault(Code.STREAM_CLOSED, text)
        if how == LEFT:
            text = "HEADERS on a stream that the client has reset"
            raise StreamFault(number, Code.STREAM_CLOSED, text)

    def _take_trailers(
        self, stream: Stream, frame: Frame, fields: Optional[List[Field]]
    ) -> None:
        """Read past trailers: nobody wants them (RFC 9113 section 8.1)."""
        if stream.remote_closed or stream.was_left:
            text = "HEADERS behind the end of a request"
            raise StreamFault(frame.stream, Code.STREAM_CLOSED, text)
        try:
            if fields is None or not frame.flags & END_STREAM:
                raise MalformedRequest("trailers are short, and the end")
            check_trailers(fields)
        except MalformedRequest as error:
            raise StreamFault(frame.stream, Code.PROTOCOL_ERROR, str(error)) from None
        self._feed(stream, b"", True)

    def _begin(
        self, number: int, is_whole: bool, fields: Optional[List[Field]]
    ) -> None:
        connection = self._connection
        stream = Stream(connection, number, is_whole)
        head, known = NO_HEAD, None
        refusal: Optional[ProtocolError] = None
        found: Optional[RequestFields] = None
        try:
            if fields is None:
                raise ProtocolError(431, "The request's head is too large.")
            found = sort_fields(fields)
            head, known = request_head(
                found, is_whole, connection.heads, connection.server.make_reader
            )
        except MalformedRequest as error:
            refusal = ProtocolError(400, str(error))
            stream.is_reset = True  # no page is sent
        except ProtocolError as error:
            refusal = error
        stream.request = request = self._request(stream, head)
        stream.exchange = exchange = Exchange(stream, request)
        connection.streams[number] = stream
        if refusal is not None:
            if stream.is_reset:
                connection.send(encode_reset(number, Code.PROTOCOL_ERROR))
            exchange.refuse(refusal, refusal.status)
            self.count_reset()
            return
        if found is not None and found.priority:
            stream.set_priority(found.priority)
        exchange.start(known)
        if known is None and stream.body is None and not head.query_string:
            connection.heads.keep(head, request.known)

    def _request(self, stream: Stream, head: Head) -> Request:
        connection = self._connection
        body = None
        if not stream.remote_closed and head is not NO_HEAD:
            body = stream.body = StreamBody(stream, head)
        disconnect = Disconnect()
        disconnect.gone = connection.has_left
        debug = connection.server.options.debug
        return Request(
            head, connection.client, connection.scheme, body, disconnect, debug
        )

    # Bodies.

    def _take_data(self, frame: Frame) -> None:
        self._check_begun(frame)
        size, number = frame.size, frame.stream
        self._window -= size
        if self._window < 0:
            text = "more DATA than the connection's window"  # section 6.9.1
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, text)
        is_last = bool(frame.flags & END_STREAM)
        self._count_data(len(frame.payload), is_last)
        stream = self._connection.streams.get(number)
        if stream is None:
            self.give_back(size)
            self._take_late_data(number, size, is_last)
            return
        stream.body_window -= size
        if stream.is_reset:
            self.give_back(size)
            self._check_window(stream.body_window)
            if stream.was_left:
                text = "DATA on a stream that the client has reset"
                raise StreamFault(number, Code.STREAM_CLOSED, text)
            return
        if stream.remote_closed:
            self.give_back(size)
            text = "DATA behind the end of a request"
            raise StreamFault(number, Code.STREAM_CLOSED, text)
        if stream.body_window < 0:
            text = "more DATA than the stream's window"
            raise StreamFault(number, Code.FLOW_CONTROL_ERROR, text)
        if size > len(frame.payload):
            stream.give_back(size - len(frame.payload))  # the padding
        self._feed(stream, frame.payload, is_last)

    def _feed(self, stream: Stream, data: bytes, is_last: bool) -> None:
        stream.remote_closed = is_last
        if stream.body is not None:
            stream.body.feed(data, is_last)

    def _take_late_data(self, number: int, size: int, is_last: bool) -> None:
        if self._connection.is_past(number):
            return
        window = self._closed.get(number, ENDED)
        if window < 0:
            text = "DATA on a stream that has ended"
            raise StreamFault(number, Code.STREAM_CLOSED, text)
        # We have ended it, and what was on its way is passed over (section 5.1).
        self._check_window(window - size)
        self._closed[number] = ENDED if is_last else window - size

    # Everything else.

    def _take_priority(self, frame: Frame) -> None:
        """Check what RFC 7540 said of priorities, and pass it over."""
        self._count_control()
        if len(frame.payload) != 5:
            text = "PRIORITY has five bytes"
            raise StreamFault(frame.stream, Code.FRAME_SIZE_ERROR, text)
        if read_number(frame.payload) == frame.stream:
            text = "a stream depends on itself"
            raise StreamFault(frame.stream, Code.PROTOCOL_ERROR, text)

    def _take_priority_update(self, frame: Frame) -> None:
        """Take another urgency for a stream (RFC 9218 section 7.1)."""
        self._count_control()
        number = read_number(frame.payload)
        if number % 2 == 0:
            text = "PRIORITY_UPDATE names no stream of a client"
            raise ConnectionFault(Code.PROTOCOL_ERROR, text)
        stream = self._connection.streams.get(number)
        if stream is not None:
            stream.set_priority(frame.payload[4:])

    def _take_reset(self, frame: Frame) -> None:
        self._check_begun(frame)
        stream = self._connection.streams.get(frame.stream)
        if stream is not None and not stream.is_reset:
            stream.leave()
        elif self.goes_on(frame.stream):
            self._closed[frame.stream] = LEFT
        if not self._connection.is_past(frame.stream):
            self.count_reset()

    def _take_settings(self, frame: Frame) -> None:
        if frame.flags & ACK:
            self._count_control()
            if frame.payload:
                text = "an acknowledgment of SETTINGS is empty"
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, text)
            return
        settings = read_settings_frame(frame.payload)
        self._count_control(1 + len(settings) // budgets.SETTINGS_PER_FRAME)
        sizes = [size for name, size in settings if name == Setting.INITIAL_WINDOW_SIZE]
        if sizes:
            self._connection.sender.change_windows(sizes[-1])
        self._connection.send(encode_frame(Type.SETTINGS, ACK, 0))

    def _take_ping(self, frame: Frame) -> None:
        self._count_control()
        if not frame.flags & ACK:
            self._connection.send(encode_frame(Type.PING, ACK, 0, frame.payload))
        elif frame.payload == DRAIN_PING:
            self._connection.finish_drain()

    def _take_goaway(self, frame: Frame) -> None:
        self._count_control()
        self._connection.client_goes()

    def _take_window_update(self, frame: Frame) -> None:
        self._count_control()
        size, number = read_number(frame.payload), frame.stream
        sender = self._connection.sender
        if number == 0:
            if size == 0:
                text = "a window grows by more than nothing"
                raise ConnectionFault(Code.PROTOCOL_ERROR, text)
            sender.widen(size)
            return
        self._check_begun(frame)
        stream = self._connection.streams.get(number)
        if stream is None or stream.is_reset:
            return  # section 5.1: they may be on their way for a while
        if size == 0:
            text = "a window grows by more than nothing"
            raise StreamFault(number, Code.PROTOCOL_ERROR, text)
        stream.window += size
        if stream.window > MAX_WINDOW:
            text = "the window of a stream is too large"
            raise StreamFault(number, Code.FLOW_CONTROL_ERROR, text)
        sender.make_ready(stream)
        sender.flush()


_HANDLERS: Dict[int, Callable[[Receiver, Frame], Any]] = {
    int(Type.DATA): Receiver._take_data,
    int(Type.HEADERS): Receiver._take_headers,
    int(Type.PRIORITY): Receiver._take_priority,
    int(Type.RST_STREAM): Receiver._take_reset,
    int(Type.SETTINGS): Receiver._take_settings,
    int(Type.PING): Receiver._take_ping,
    int(Type.GOAWAY): Receiver._take_goaway,
    int(Type.WINDOW_UPDATE): Receiver._take_window_update,
    int(Type.PRIORITY_UPDATE): Receiver._take_priority_update,
}
