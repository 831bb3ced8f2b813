"""One request and its answer on a connection of HTTP/2: where an exchange sends to."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, AsyncIterator, Deque, Optional, cast

from ..errors import ClientDisconnected, ProtocolError
from ..protocol.http11 import Head, has_body
from ..requests import Request
from ..responses import error_page
from ..server.http1 import PatientBody
from .budgets import STREAM_WINDOW_BYTES
from .frames import Code, StreamFault, encode_headers, encode_reset
from .heads import CONTINUE_BLOCK, DEFAULT_URGENCY, read_priority, response_block

if TYPE_CHECKING:
    from ..server.exchange import Exchange
    from .connection import HTTP2Connection


class StreamBody(PatientBody):
    """The body of a request; what is not read holds the client back."""

    def __init__(self, stream: Stream, head: Head) -> None:
        self._stream = stream
        self._server = stream.server
        options = self._server.options
        self.content_length = head.content_length
        self.max_body_bytes = options.max_body_bytes
        self.patience_seconds = options.body_idle_seconds
        self._expects_continue = head.expects_continue
        self._held_bytes = 0
        self._was_dropped = False  # in part, since the answer had begun
        self._pieces: Deque[bytes] = deque()
        self._waiter: Optional[asyncio.Future[None]] = None
        self._awaited_by = 0.0  # until then somebody waits
        self._came_bytes = 0
        self._error: Optional[Exception] = None

    async def read(self) -> bytes:
        """Return the next bytes, waiting for them if need be; see BodySource."""
        if self._was_dropped:  # the rest, or its end, would pass for the whole
            raise ClientDisconnected("the answer has begun, and its body was dropped")
        if self.has_ended:
            return b""
        if self._expects_continue:
            # RFC 9110 section 10.1.1: not before somebody wants the body.
            self._expects_continue = False
            self._stream.send_continue()
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._stream.remote_closed:
                self.has_ended = True
                return b""
            await self._wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._stream.give_back(len(data))
        self.earn(len(data))
        return data

    async def _wait(self) -> None:
        loop = self._server.loop
        began = loop.time()
        self._awaited_by = began + self.patience_seconds
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        self.spend(loop.time() - began)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for its bytes."""
        return self._waiter is not None

    def is_late(self, now: float) -> bool:
        """Return whether somebody has waited for longer than may be."""
        return self._waiter is not None and now > self._awaited_by

    def feed(self, data: bytes, is_last: bool) -> None:
        """Take bytes of the client's.

        Raises:
            StreamFault: they are not as many as were announced (RFC 9113 8.1.1).
        """
        self._came_bytes += len(data)
        length = self.content_length
        is_short = is_last and length is not None and self._came_bytes < length
        if is_short or (length is not None and self._came_bytes > length):
            text = "the body is not as long as Content-Length says"
            raise StreamFault(self._stream.number, Code.PROTOCOL_ERROR, text)
        if self._was_dropped:
            self._stream.pass_over(len(data))
        elif data:
            self._keep(data)
        self._wake()

    def _keep(self, data: bytes) -> None:
        self._pieces.append(data)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """Have whoever reads on get an error."""
        self._error = error
        self._wake()

    def drop(self) -> None:
        """Drop what has come and was not read, and what will come."""
        if self.has_ended:
            return
        if self._stream.remote_closed and not self._pieces:
            self.has_ended = True
            return
        self._was_dropped = True
        size = sum(map(len, self._pieces))
        self._pieces.clear()
        self._stream.pass_over(size)


class Stream:
    """The sink of one exchange.

    Attributes:
        number: of the stream.
        remote_closed: the client has sent all of its request.
        end_sent: all of the answer is on its way.
        is_reset: either side has ended it before its end.
        window: what the client takes of the answer; below 0 where it has changed that.
        body_window: what may come of the request's body.
    """

    __slots__ = (
        *("connection", "server", "number", "request", "exchange", "body"),
        *("remote_closed", "end_sent", "is_reset", "was_left", "window", "body_window"),
        *("urgency", "urgency_of_turn", "is_incremental", "is_ready", "_unreturned"),
        *("_queue", "queued_bytes", "end_queued", "writable", "_sent_bytes"),
        *("_sent_before", "_progress_by"),
    )

    def __init__(
        self, connection: HTTP2Connection, number: int, is_whole: bool
    ) -> None:
        self.connection = connection
        self.server = connection.server
        self.number = number
        self.request: Request
        self.exchange: Exchange
        self.body: Optional[StreamBody] = None
        self.remote_closed = is_whole
        self.end_sent = self.is_reset = self.was_left = False
        self.window = connection.sender.initial_window
        self.body_window = STREAM_WINDOW_BYTES
        self._unreturned = 0
        self.urgency = self.urgency_of_turn = DEFAULT_URGENCY
        self.is_incremental = self.is_ready = self.end_queued = False
        self._queue: Optional[Deque[Any]] = None
        self.queued_bytes = self._sent_bytes = self._sent_before = 0
        self.writable: Optional[asyncio.Future[None]] = None
        self._progress_by = 0.0

    # What an exchange asks and calls; see Sink.

    can_sendfile = False  # frames stand between its pieces

    def sendfile(self, source: int, offset: int, length: int) -> AsyncIterator[int]:
        raise NotImplementedError("frames stand between the pieces of a file")

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.is_reset or self.connection.is_broken

    @property
    def was_lost(self) -> bool:
        """Whether it has ended, and not by an orderly end of ours."""
        return self.was_left or self.connection.was_lost

    async def drop_body(self) -> bool:
        """Drop the rest of an unread body; return whether it has come to its end."""
        if self.body is not None:
            self.body.drop()
        return self.remote_closed

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
        fields = response_block(status, self.server.date_line(), block, length)
        ends = not with_body or length == 0
        frames = encode_headers(self.number, self.connection.block(fields), ends)
        self.end_sent = ends
        if ends or not body:
            self.connection.send(frames)
        else:
            self.connection.sender.send(self, body, True, frames)
        return with_body

    def send_data(self, data: bytes, end: bool = False) -> None:
        """Send a piece of the body; the last one, which may be empty, says so."""
        if self.is_closing:
            raise ClientDisconnected("the client left in the middle of its answer")
        if not self.end_sent and not self.end_queued:
            self.connection.sender.send(self, data, end)

    def send_continue(self) -> None:
        """Say that the body is wanted (RFC 9113 section 8.1)."""
        if not self.is_closing and not self.remote_closed:
            block = self.connection.block(CONTINUE_BLOCK)
            self.connection.send(encode_headers(self.number, block, False))

    async def drained(self) -> None:
        """Wait until all that was queued is on its way."""
        if self.writable is not None:
            await self.writable
        if self.is_closing and not self.end_sent:
            raise ClientDisconnected("the client left in the middle of its answer")

    def unsent(self) -> int:
        """Return how many bytes the client has not acknowledged."""
        return self.queued_bytes + self.connection.unsent()

    def reset(self) -> None:
        """End it by a reset: what the client has not taken is dropped."""
        self.end_by(Code.CANCEL)

    def cut_off(self) -> None:
        """End before the end of the answer, so that the client can tell."""
        self.end_by(Code.INTERNAL_ERROR)

    def refuse(self, error: ProtocolError, method: str = "GET") -> int:
        """Send an error, and end; return the bytes of its body."""
        count = 0
        if not self.is_closing:
            response = error_page(error)
            body = cast(bytes, response.body)
            if not self.connection.sender.takes(self, len(body)):
                body = b""  # the status is enough: nobody waits until a page is sent
            block = response.header_block()
            if self.send_head(self.request, error.status, block, len(body), body):
                count = len(body)
        self.end(True, self.remote_closed)
        return count

    def end(self, is_whole: bool, at_end: bool) -> None:
        """The exchange is over: so is the stream."""
        if not is_whole:
            self.request.disconnect.set()
        if not self.end_sent:
            self.end_by(Code.INTERNAL_ERROR)
        elif not self.remote_closed:
            self._refuse_rest()
        if self.body is not None:
            self.body.drop()
        self.connection.forget_stream(self)
        # They know this stream, and would be a circle with it.
        self.body = None
        del self.exchange, self.request

    def _refuse_rest(self) -> None:
        """Want no more of the request (RFC 9113 section 8.1), and say so in a moment.

        curl and others drop an answer that a reset follows closely. Until then the
        window holds the client back.
        """
        if not self.is_closing:
            self.is_reset = True
            self.connection.reset_later(self.number)

    def go_on(self) -> None:
        """An exchange that had to wait is over."""

    # Ends.

    def end_by(self, code: Code) -> None:
        """Reset the stream, unless it has ended."""
        if not self.is_closing:
            self.is_reset = True
            self.drop_queue()
            self.connection.send(encode_reset(self.number, code))
            self.connection.count_reset(code)

    def abort(self, error: Exception) -> None:
        """Tell whoever works for the client, or waits for it, that it has gone."""
        self.is_reset = True
        self.drop_queue()
        if self.body is not None:
            self.body.fail(error)
        self.request.disconnect.set()

    def leave(self) -> None:
        """The client has reset the stream, or has gone."""
        self.was_left = True
        self.abort(ClientDisconnected("the client left in the middle of its request"))

    # The answer's queue.

    @property
    def has_queued(self) -> bool:
        """Whether something waits to be sent."""
        return self.queued_bytes > 0 or self.end_queued

    def enqueue(self, data: bytes, end: bool) -> None:
        """Keep a piece until the client takes it."""
        if self._queue is None:
            self._queue = deque()
        if data:
            self._queue.append(memoryview(data))
            self.queued_bytes += len(data)
        self.end_queued = end
        if self.writable is None and self.has_queued:
            self.writable = self.server.loop.create_future()
            self._expect_progress(self.server.loop.time())

    def dequeue(self, size: int) -> bytes:
        """Return the next bytes of what was kept."""
        pieces, left = [], size
        while left and self._queue:
            piece = self._queue[0]
            if len(piece) > left:
                self._queue[0] = piece[left:]
                piece = piece[:left]
            else:
                self._queue.popleft()
            pieces.append(piece)
            left -= len(piece)
        self.queued_bytes -= size
        self._sent_bytes += size
        return b"".join(pieces)

    def let_go(self) -> None:
        """Have whoever sends go on: nothing waits."""
        writable, self.writable = self.writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def drop_queue(self) -> None:
        """Drop what waits: nobody will take it."""
        self._queue, self.queued_bytes, self.end_queued = None, 0, False
        self.let_go()

    # Time.

    def _expect_progress(self, now: float) -> None:
        self._sent_before = self._sent_bytes
        self._progress_by = now + self.server.options.send_idle_seconds

    def look(self, now: float) -> None:
        """End what the client does too slowly."""
        if self.body is not None and self.body.is_late(now):
            self.body.fail(ProtocolError(408, "The body came too slowly."))
        if self.writable is None or now < self._progress_by:
            return
        options = self.server.options
        least = max(1, options.min_bytes_per_second * options.send_idle_seconds)
        sent = self._sent_bytes - self._sent_before
        if self.connection.writable is not None or sent >= least:
            self._expect_progress(now)
            return
        # SECURITY: windows of zero would keep answers for ever (CVE-2019-9517).
        self.end_by(Code.CANCEL)
        self.abort(ClientDisconnected("the client takes nothing of its answer"))

    # The request.

    def set_priority(self, value: bytes) -> None:
        """Take what RFC 9218 says of the answer's urgency."""
        self.urgency, self.is_incremental = read_priority(value)

    def give_back(self, size: int) -> None:
        """Let the client send as much again as was read."""
        self.pass_over(size)
        self._unreturned += size
        if self._unreturned >= STREAM_WINDOW_BYTES // 2 and not (
            self.remote_closed or self.is_closing
        ):
            self.body_window += self._unreturned
            self.connection.send_window(self.number, self._unreturned)
            self._unreturned = 0

    def pass_over(self, size: int) -> None:
        """Let the client send as much again, but not of this body."""
        self.connection.receiver.give_back(size)
