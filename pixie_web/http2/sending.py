"""Bodies on their way out: windows, and whose turn it is (RFC 9113 5.2, RFC 9218)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Deque, List, Optional

from .budgets import CONTROL_FRAMES_PER_DATA, EARNING_BYTES, MAX_FRAME_BYTES
from .frames import (
    DATA,
    DEFAULT_WINDOW,
    END_STREAM,
    MAX_WINDOW,
    Code,
    ConnectionFault,
    encode_frame,
)

if TYPE_CHECKING:
    from .connection import HTTP2Connection
    from .stream import Stream

URGENCIES = 8  # RFC 9218 section 4.1
TURN_BYTES = 4 * MAX_FRAME_BYTES  # of a body that is of use only as a whole


class Sender:
    """What the answers of a connection have to send, and may.

    The most urgent go first, and among those as urgent each has its turn: of one frame
    where pieces are of use, else of four.

    Attributes:
        window: what the client takes on this connection.
        initial_window: what it takes at first on a stream.
    """

    def __init__(self, connection: HTTP2Connection) -> None:
        self._connection = connection
        self.window = DEFAULT_WINDOW
        self.initial_window = DEFAULT_WINDOW
        self._ready: List[Deque[Stream]] = [deque() for _ in range(URGENCIES)]
        self._count = 0  # of those that are ready

    def takes(self, stream: Stream, size: int) -> bool:
        """Return whether a piece would be on its way at once."""
        fits = size <= MAX_FRAME_BYTES and size <= stream.window and size <= self.window
        free = not stream.has_queued and not self._count
        return fits and free and not self._connection.writable

    def send(self, stream: Stream, data: bytes, end: bool, ahead: bytes = b"") -> None:
        """Send a piece of a body, or queue it until the client takes it.

        Args:
            ahead: frames that go before it, whatever the windows are.
        """
        size, connection = len(data), self._connection
        if self.takes(stream, size):
            stream.window -= size
            self.window -= size
            if size or end:
                flags = END_STREAM if end else 0
                ahead += encode_frame(DATA, flags, stream.number, data)
            stream.end_sent = end
            if size >= EARNING_BYTES:
                connection.receiver.control.earn(CONTROL_FRAMES_PER_DATA)
            if ahead:
                connection.send(ahead)
            return
        if ahead:
            connection.send(ahead)
        stream.enqueue(data, end)
        self.make_ready(stream)
        self.flush()

    def make_ready(self, stream: Stream) -> None:
        """Have a stream get its turn, if it has something that may be sent."""
        may = stream.window > 0 or not stream.queued_bytes
        if stream.has_queued and may and not stream.is_ready and not stream.is_closing:
            stream.is_ready = True
            self._ready[stream.urgency].append(stream)
            self._count += 1

    def flush(self) -> None:
        """Send what may be sent, until the connection takes no more."""
        connection = self._connection
        while self._count and connection.writable is None and not connection.is_closing:
            stream = self._first()
            if stream is None or (stream.queued_bytes and self.window <= 0):
                return
            line = self._ready[stream.urgency_of_turn]
            line.popleft()
            self._count -= 1
            stream.is_ready = False
            if not stream.is_closing:
                self._give_turn(stream)
                self.make_ready(stream)

    def _first(self) -> Optional[Stream]:
        for urgency, line in enumerate(self._ready):
            if line:
                line[0].urgency_of_turn = urgency
                return line[0]
        return None

    def _give_turn(self, stream: Stream) -> None:
        left = MAX_FRAME_BYTES if stream.is_incremental else TURN_BYTES
        while left > 0 and stream.has_queued:
            size = min(MAX_FRAME_BYTES, stream.queued_bytes, stream.window, self.window)
            if stream.queued_bytes and size <= 0:
                break
            data = stream.dequeue(size)
            end = stream.end_queued and not stream.queued_bytes
            stream.window -= size
            self.window -= size
            left -= max(size, 1)
            if size >= EARNING_BYTES:
                self._connection.receiver.control.earn(CONTROL_FRAMES_PER_DATA)
            if end:
                stream.end_queued, stream.end_sent = False, True
            flags = END_STREAM if end else 0
            self._connection.send(encode_frame(DATA, flags, stream.number, data))
        if not stream.has_queued:
            stream.let_go()

    def widen(self, size: int) -> None:
        """The client takes so much more on the connection.

        Raises:
            ConnectionFault: that is too much.
        """
        self.window += size
        if self.window > MAX_WINDOW:
            text = "the window of the connection is too large"
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, text)
        self.flush()

    def change_windows(self, size: int) -> None:
        """The client has chosen another size for the windows of all streams.

        Raises:
            ConnectionFault: that makes one too large (RFC 9113 section 6.9.2).
        """
        difference = size - self.initial_window
        self.initial_window = size
        for stream in list(self._connection.streams.values()):
            stream.window += difference
            if stream.window > MAX_WINDOW:
                text = "the window of a stream is too large"
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, text)
            self.make_ready(stream)
        self.flush()
