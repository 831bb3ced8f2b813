"""QUIC and HTTP/3 as aioquic has them, with its open ends closed.

What is overridden here is private to the library: so its version is pinned.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple

from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import (
    ErrorCode,
    FrameType,
    FrameUnexpected,
    H3Connection,
    HeadersState,
    MessageError,
    ProtocolError,
    Setting,
    encode_frame,
)
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.connection import END_STATES, QuicConnection
from pylsqpack import Decoder, Encoder

from ..http2.budgets import (
    CONNECTION_WINDOW_BYTES,
    MAX_BLOCK_BYTES,
    MAX_LIST_BYTES,
    MAX_STREAMS,
    STREAM_WINDOW_BYTES,
)

MAX_CONTROL_STREAMS = 8  # of one direction: three are needed, others mean nothing
CONTROL_WINDOW_BYTES = 64 * 1024  # of such a stream
MAX_FIELD_SECTION_SIZE = 6  # of SETTINGS: RFC 9114 section 7.2.4.1
MAX_STREAM_ID = 2**62 - 4  # the highest of a request


class CarefulQuic(QuicConnection):  # type: ignore[misc]
    """A connection of QUIC whose windows follow what was read, not what has come.

    SECURITY: the library doubles a window as soon as an offset beyond its half is seen,
    and keeps memory for what is missing in between: ten frames of a byte each make it
    take 513 MiB. And it would take all of an upload that no handler reads.

    Attributes:
        is_unborn: nothing has come that could be read.
        has_ended: nothing can be sent any more.
    """

    is_unborn, has_ended = True, False

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        bidi, uni = self._local_max_streams_bidi, self._local_max_streams_uni
        bidi.value = bidi.sent = MAX_STREAMS
        uni.value = uni.sent = MAX_CONTROL_STREAMS
        self._local_max_stream_data_uni = CONTROL_WINDOW_BYTES
        self._unreturned = 0

    def _set_state(self, state: Any) -> None:
        super()._set_state(state)
        self.is_unborn = False
        self.has_ended = state in END_STATES

    def give_back(self, number: int, size: int, widens: bool) -> None:
        """Let the client send as much again as was read.

        Args:
            number: of the stream.
            size: in bytes.
            widens: the stream's own window grows too, and not that of all alone.
        """
        self._unreturned += size
        if self._unreturned >= CONNECTION_WINDOW_BYTES // 2:
            self._local_max_data.value += self._unreturned
            self._unreturned = 0
        stream = self._streams.get(number)
        if widens and stream is not None and not stream.receiver.is_finished:
            window = CONTROL_WINDOW_BYTES if number & 2 else STREAM_WINDOW_BYTES
            stream.unreturned = getattr(stream, "unreturned", 0) + size
            if stream.unreturned >= window // 2:
                stream.max_stream_data_local += stream.unreturned
                stream.unreturned = 0

    def drop_gap(self, number: int) -> int:
        """Drop what has come of a stream that was reset, ahead of what is missing.

        Returns:
            How many bytes of its window will never be read.
        """
        stream = self._streams.get(number)
        if stream is None:
            return 0
        receiver = stream.receiver
        receiver._buffer.clear()
        gap: int = receiver.highest_offset - receiver.starting_offset()
        return gap

    def _write_connection_limits(self, builder: Any, space: Any) -> None:
        limit = self._local_max_data
        used, limit.used = limit.used, 0  # so that nothing is doubled
        try:
            super()._write_connection_limits(builder=builder, space=space)
        finally:
            limit.used = used

    def _write_stream_limits(self, builder: Any, space: Any, stream: Any) -> None:
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        receiver = stream.receiver
        highest, receiver.highest_offset = receiver.highest_offset, 0  # the same
        try:
            super()._write_stream_limits(builder=builder, space=space, stream=stream)
        finally:
            receiver.highest_offset = highest

    # What waits to be sent.

    def unsent(self, number: int) -> int:
        """Return how many bytes of an answer are not on their way."""
        stream = self._streams.get(number)
        if stream is None:
            return 0
        sender = stream.sender
        return int(sender._buffer_stop - sender.highest_offset)

    def unacknowledged(self, number: int) -> int:
        """Return how many bytes of an answer the client has not acknowledged."""
        stream = self._streams.get(number)
        if stream is None or stream.sender.is_finished:
            return 0
        sender = stream.sender
        if sender._reset_error_code is not None:
            return 0
        left = sender._buffer_stop - sender._buffer_start
        return int(left) or int(sender._buffer_fin is not None)  # or its mere end

    def all_unacknowledged(self) -> int:
        """Return how many bytes of all answers are not."""
        return sum(self.unacknowledged(one) for one in self._streams if one % 4 == 0)

    def stop_both(self, number: int, code: int) -> None:
        """End a request's stream in both directions."""
        self.reset_stream(number, code)
        self.stop_request(number, code)

    def stop_request(self, number: int, code: int) -> None:
        """Want no more of a request."""
        stream = self._streams.get(number)
        if stream is not None and not stream.receiver.is_finished:
            self.stop_stream(number, code)


class ExcessiveLoad(ProtocolError):  # type: ignore[misc]
    """A client asks for more than is good (RFC 9114 section 8.1)."""

    error_code = ErrorCode.H3_EXCESSIVE_LOAD


class Malformed(NamedTuple):
    """A request breaks a rule of RFC 9114 section 4: its stream is to be reset."""

    stream_id: int
    text: str


class PlainEncoder:
    """An encoder that refers to nothing it has sent before: no state to attack.

    A client's SETTINGS could else make it keep a table of any size.
    """

    def __init__(self) -> None:
        self._inner = Encoder()
        self.encode = self._inner.encode
        self.feed_decoder = self._inner.feed_decoder

    def apply_settings(self, **settings: int) -> bytes:
        """Take no notice of a client's table."""
        return b""


class CarefulH3(H3Connection):  # type: ignore[misc]
    """HTTP/3 in which a malformed request ends its stream alone."""

    def _init_connection(self) -> None:
        # Without a dynamic table no header block waits for another stream, and none
        # stands for more than its bytes and those of the static table (RFC 9204 3.1).
        self._max_table_capacity = self._blocked_streams = 0
        self._decoder = Decoder(0, 0)
        self._encoder = PlainEncoder()
        super()._init_connection()

    def _get_local_settings(self) -> Dict[int, int]:
        return {
            Setting.QPACK_MAX_TABLE_CAPACITY: 0,
            Setting.QPACK_BLOCKED_STREAMS: 0,
            MAX_FIELD_SECTION_SIZE: MAX_LIST_BYTES,
        }

    def _check_request_or_push_frame_type(self, frame_type: int, stream: Any) -> None:
        super()._check_request_or_push_frame_type(frame_type, stream)
        if frame_type == FrameType.WEBTRANSPORT_STREAM:
            raise FrameUnexpected("WebTransport is not spoken here")
        if frame_type == FrameType.HEADERS and stream.frame_size > MAX_BLOCK_BYTES:
            # SECURITY: the library keeps a frame of headers until its end has come.
            raise ExcessiveLoad("a block of headers is too large")

    def _handle_request_or_push_frame(
        self, frame_type: int, frame_data: Any, stream: Any, stream_ended: bool
    ) -> List[Any]:
        is_head = frame_type == FrameType.HEADERS
        if is_head and stream.headers_recv_state == HeadersState.INITIAL:
            # PERF: proved once, by whoever makes a request of it; 40 of 150 us.
            fields = self._decode_headers(stream.stream_id, frame_data)
            stream.headers_recv_state = HeadersState.AFTER_HEADERS
            return [HeadersReceived(fields, stream.stream_id, stream_ended)]
        try:
            found: List[Any] = super()._handle_request_or_push_frame(
                frame_type, frame_data, stream, stream_ended
            )
        except MessageError as error:
            return self._malformed(stream, error)
        if not is_head:
            return found
        # Trailers are proved, and passed over (RFC 9114 section 4.1).
        return [
            DataReceived(data=b"", stream_id=one.stream_id, stream_ended=stream_ended)
            for one in found
            if isinstance(one, HeadersReceived)
        ]

    def _malformed(self, stream: Any, error: Any) -> List[Any]:
        stream.headers_recv_state = HeadersState.AFTER_HEADERS
        return [Malformed(stream.stream_id, error.reason_phrase)]

    def held(self, number: int) -> int:
        """Return how many bytes of a stream wait for the rest of their frame."""
        stream = self._stream.get(number)
        return 0 if stream is None else len(stream.buffer)

    def forget(self, number: int) -> None:
        """Send no more on a stream that was reset."""
        stream = self._stream.get(number)
        if stream is not None:
            stream.sending_ended = True
            if stream.is_ended():
                self._stream.pop(number)

    def send_goaway(self, number: int) -> None:
        """Say which request is the first that is not answered (RFC 9114 5.2)."""
        frame = encode_frame(FrameType.GOAWAY, encode_uint_var(number))
        self._quic.send_stream_data(self._local_control_stream_id, frame)
