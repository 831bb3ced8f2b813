"""HTTP/1.1 on a connection: the events of its reader become exchanges, one by one.

    reading   nothing runs, so events are read: a head starts an exchange
    handling  `handle` runs; what arrives meanwhile waits in the reader, and beyond
              READ_AHEAD_BYTES in the kernel; body bytes go to whoever pulls them
    sending   the body is pulled only as fast as the client reads

A request is answered inside the call that delivered its bytes if nothing has to wait:
no task, no turn of the loop.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Optional, Tuple, cast

from ..errors import ClientDisconnected, ProtocolError
from ..protocol.http11 import (
    CLOSED,
    CONTINUE,
    END,
    LAST_CHUNK,
    MAX_JOINED_CHUNKS,
    NEED_DATA,
    Head,
    RequestReader,
    ResponseHead,
    encode_chunk,
    response_head,
)
from ..requests import NEVER, BodySource, Disconnect, Request
from ..responses import Refusal, error_page
from .access import NO_HEAD
from .exchange import Exchange
from .insistence import Insistence
from .transport import Connection

if TYPE_CHECKING:
    from .server import Server

READ_AHEAD_BYTES = 65_536  # asyncio's own high-water mark
MAX_DISCARD_BYTES = 65_536  # of a body nobody wanted; more: the connection closes
HTTP2_PREFACE_LINE = b"PRI * HTTP/2.0\r\n"  # RFC 9113 section 3.4: its first line
SMALL_BODY_BYTES = 65_536  # goes out in one write with its head

# What follows from the head of a usual answer: a body of known length, no end.
_USUAL = ResponseHead(b"", has_body=True, chunked=False, keep_alive=True)


class Turns:
    """How much of one client's chunks is read before the others have their turn.

    SECURITY: all that reads a body looks here. Else the chunks that a client sends at
    once, tens of thousands, are read while everybody else waits.
    """

    def __init__(self, server: Server, reader: RequestReader) -> None:
        self._server = server
        self._reader = reader
        self._chunks_before = 0  # when the others last had their turn

    @property
    def is_over(self) -> bool:
        """Whether as many chunks as one event may have were read without a wait."""
        return self._reader.chunks - self._chunks_before >= MAX_JOINED_CHUNKS

    def begin(self) -> None:
        """Count chunks anew: the others have had their turn."""
        self._chunks_before = self._reader.chunks

    async def let_others(self) -> None:
        """Wait for a turn."""
        await self._server.next_turn()
        self.begin()


class PatientBody(BodySource):
    """The body of a request, in any protocol: limits of time and of memory.

    PERF: a subclass sets all of it in one go: a call less for each body.
    """

    _server: Server
    _held_bytes: int
    patience_seconds: float

    def hold(self, size: int) -> bool:
        """Count the body in memory; return whether there is room for all that are."""
        server = self._server
        server.held_bytes += size - self._held_bytes
        self._held_bytes = size
        return server.held_bytes <= server.options.max_memory_body_bytes

    def earn(self, size: int) -> None:
        """Have more patience, for bytes that have come.

        SECURITY: never more than `body_idle_seconds`. A client that has sent much at
        once could else stay for minutes with a byte now and then.
        """
        options = self._server.options
        if options.min_bytes_per_second:
            patience = self.patience_seconds + size / options.min_bytes_per_second
            self.patience_seconds = min(options.body_idle_seconds, patience)

    def spend(self, seconds: float) -> None:
        """Have less patience: that long the client was waited for.

        SECURITY: without the least rate, a byte now and then keeps a connection for
        years (R-U-Dead-Yet).
        """
        if self._server.options.min_bytes_per_second:
            self.patience_seconds -= seconds


class ConnectionBody(PatientBody):
    """The body of the request that a connection is at."""

    def __init__(self, connection: HTTP1Connection, head: Head) -> None:
        self._connection = connection
        self._server = connection.server
        options = self._server.options
        self.content_length = head.content_length
        self.max_body_bytes = options.max_body_bytes
        self._expects_continue = head.expects_continue
        self._held_bytes = 0
        self._waiter: Optional[asyncio.Future[None]] = None
        self._was_dropped = False  # in part, since the answer had begun
        self.is_endless = False  # what follows it can't be told apart from it
        self.patience_seconds = options.body_idle_seconds

    async def read(self) -> bytes:
        """Return the next bytes, waiting for them if need be; see BodySource."""
        if self._was_dropped:  # the rest, or its end, would pass for the whole
            raise ClientDisconnected("the body was dropped when the answer began")
        if self.has_ended:
            return b""
        connection = self._connection
        if self._expects_continue:
            # RFC 9110 section 10.1.1: not before somebody wants the body.
            self._expects_continue = False
            connection.write(CONTINUE)
        while True:
            if connection.turns.is_over:
                await connection.turns.let_others()
            if connection.body is not self:
                # SECURITY: a task that outlives its request must not take bytes of the
                # next one, which a proxy may send for another client.
                raise ClientDisconnected("the request has ended, and its body is gone")
            connection.reader.max_body_bytes = self.max_body_bytes
            event = connection.reader.next_event()
            if isinstance(event, bytes):
                self.earn(len(event))
                return event
            if event is END:
                self.has_ended = True
                connection.deadline = NEVER
                connection.resume_reading()  # or nobody would see the client leave
                return b""
            if connection.has_left:
                raise ClientDisconnected("the client left in the middle of its request")
            await self._wait()

    def take_whole(self) -> Optional[bytes]:
        """Return the body, if all of it came with its head; see BodySource."""
        reader, length = self._connection.reader, self.content_length
        if not length or self._expects_continue or reader.buffered < length:
            return None
        if not self.hold(length):
            return None  # whoever reads it piece by piece puts it into a file
        content: Any = reader.next_event()
        self.has_ended = reader.next_event() is END
        whole: bytes = content
        return whole

    async def _wait(self) -> None:
        connection = self._connection
        connection.resume_reading()
        began = self._server.loop.time()
        connection.deadline = began + self.patience_seconds
        self._waiter = self._server.loop.create_future()
        await self._waiter
        connection.turns.begin()
        self.spend(self._server.loop.time() - began)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for its bytes."""
        return self._waiter is not None

    def wake(self) -> None:
        """Wake the waiting reader: bytes have come, or none will."""
        waiter, self._waiter = self._waiter, None
        self._connection.deadline = NEVER  # until whoever reads asks for more
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, error: ProtocolError) -> None:
        """Have the wait for its bytes end with an error."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    async def drop(self) -> bool:
        """Drop the rest, if it is unread; return whether that reached its end."""
        if self.has_ended:
            return True
        self.is_endless = True
        if self._expects_continue:
            return False  # it may come or not: what follows can't be told apart
        connection, size = self._connection, 0
        while size <= MAX_DISCARD_BYTES:
            if connection.turns.is_over:
                await connection.turns.let_others()
            try:
                event = connection.reader.next_event()
            except ProtocolError:
                return False
            if event is END:
                self.has_ended = True
                self.is_endless = False
                return True
            if not isinstance(event, bytes):
                return False
            size += len(event)
            self._was_dropped = True
        return False


class ReceivedBody(PatientBody):
    """The body of a request that has come whole, in one piece with its head."""

    def __init__(self, server: Server, content: bytes) -> None:
        self._server = server
        self._content = content
        self._held_bytes = 0
        self.content_length = len(content)
        self.max_body_bytes = server.options.max_body_bytes

    async def read(self) -> bytes:
        """Return the body, and after that its end."""
        content, self._content = self._content, b""
        self.has_ended = not content
        return content

    def take_whole(self) -> Optional[bytes]:
        """Return the body, if there is room for it; see BodySource."""
        if not self.hold(len(self._content)):
            return None
        content, self._content = self._content, b""
        self.has_ended = True
        return content


class ChoosingConnection(Connection):
    """A connection whose client may choose HTTP/2 in place of HTTP/1.1."""

    _answered = False  # at least once

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, in the protocol that the client has chosen."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._speak_http2(b"")

    def _is_http2(self, refused: bytes) -> bool:
        """Give way to HTTP/2 where its preface came first; return whether it did.

        RFC 9113 section 3.3: that is prior knowledge, which TLS has no need of.
        """
        is_first = not self._answered and self.scheme == "http"
        if not is_first or not refused.startswith(HTTP2_PREFACE_LINE):
            return False
        return self._speak_http2(refused)

    def _speak_http2(self, data: bytes) -> bool:
        if self.server.make_http2 is None or self.is_ending:
            return False
        successor = self.server.make_http2(self.server, None, self.network)
        self.server.replace(self, successor)
        self.transport.set_protocol(successor)
        successor.connection_made(self.transport)
        if data:
            successor.data_received(data)
        return True


class HTTP1Connection(ChoosingConnection):
    """A connection on which one request after the other is read and answered.

    It is the sink of the exchange at hand.

    Args:
        server: what it shares with the others.
        accepted: its socket, until it is connected to a transport.
        network: the client that it counts for; "" if it counts for none.

    Attributes:
        reader: makes heads and bodies of the bytes.
        turns: how long it may read on.
        body: of the request at hand, if it has one.
        has_left: the client has gone, or sends no more and has probably gone.
    """

    def __init__(
        self,
        server: Server,
        accepted: Optional[socket.socket] = None,
        network: str = "",
    ) -> None:
        super().__init__(server, accepted, network)
        # For the life of the connection.
        self.reader = server.make_reader()
        self.turns = Turns(server, self.reader)
        self.has_left = False
        self._answered = False  # at least once
        self._continuing = False  # more pipelined requests are read in the next turn
        self._head_began = 0.0  # when the first byte of the next one came
        self._insistence: Optional[Insistence] = None  # its last answer was a refusal
        self._lane_is_open = False  # between two requests, with nothing special at hand
        # For the request at hand.
        self.body: Optional[ConnectionBody] = None
        self._exchange: Optional[Exchange] = None
        self._head: Optional[ResponseHead] = None  # of the answer
        self._is_delimited = True  # the answer, but by the end of the connection

    # What comes from the client.

    def data_received(self, data: bytes) -> None:
        """Take bytes: of a head, of a body that is pulled, or of what comes later."""
        if self._lane_is_open and not self._lingering:
            # PERF: an ordinary request passes the reader by; 5 of 12 us.
            self._lane_is_open = False
            found = self.server.heads.find(data)
            if found is not None:
                self._start(*found)
                if self.server.closing or self._insistence is not None:
                    self.go_on()
                elif self._exchange is None:
                    self._lane_is_open = not self._lingering
                return
        if self._lingering or (self._insistence and self._insistence.keeps(data)):
            return
        self.take(data)

    def take(self, data: bytes) -> None:
        """The same, after a wait."""
        self.reader.feed(data)
        if self._exchange is None and not self._continuing:
            self._read_requests()
        elif self.body is not None and self.body.is_awaited:
            self.body.wake()
        elif self.reader.buffered > READ_AHEAD_BYTES:
            self.pause_reading()

    def eof_received(self) -> bool:
        """The client has sent all it will; it may still want its answer."""
        self._eof = True
        if self._lingering:
            return False
        if self._insistence is not None:
            self._insistence.let_go()
        self.reader.feed_eof()
        if self._exchange is None and not self._continuing:
            self._read_requests()
        elif self.body is not None and self.body.is_awaited:
            self.body.wake()
        elif self._exchange is not None:
            # Most clients that send this have gone; to what can stop it says so.
            self._say_it_left()
        is_at_work = self._exchange is not None or self._continuing
        return is_at_work and self.scheme == "http"

    def client_left(self) -> None:
        """Tell the handler, and the reader of the body."""
        self._say_it_left()
        self._insistence = None  # or the two are a circle
        if self.body is not None and self.body.is_awaited:
            self.body.wake()

    def _say_it_left(self) -> None:
        self.has_left = True
        if self._exchange is not None:
            self._exchange.request.disconnect.set()

    # What it is at.

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self._exchange is not None

    @property
    def is_idle(self) -> bool:
        """Whether it has answered, and nothing of another request has come."""
        at_hand = self._exchange is not None or self._continuing
        return self._answered and not at_hand and not self._head_began

    @property
    def may_go_on(self) -> bool:
        """Whether a next request would be its first concern."""
        is_between = self._exchange is None and not self._continuing
        begun = self._head_began or self.reader.buffered
        return is_between and not begun and not self.is_ending

    def awaited(self) -> Optional[Tuple[int, float]]:
        """Return how much has come of the head or body it waits for, and since when."""
        if self._continuing:
            return None
        if self._exchange is None:
            return self.reader.buffered, self._head_began or self._began
        if self.body is not None and self.body.is_awaited:
            return self.body.received_bytes, self._exchange.started
        return None

    def cut_short(self, text: str) -> bool:
        """Refuse the body that is awaited, or the head that has begun, with a 408."""
        if self.body is not None and self.body.is_awaited:
            self.body.fail(ProtocolError(408, text.format("body")))
        elif self._exchange is None and self.reader.buffered:
            self._refuse_head(ProtocolError(408, text.format("request head")))
        else:
            return False
        return True

    def stop(self) -> None:
        """End at once, whatever is at hand."""
        if self._exchange is not None:
            self._exchange.outcome = "stopped"
        super().stop()

    # Reading requests.

    def _read_requests(self) -> None:
        """Start the next request, and pipelined ones while each ends at once."""
        self._continuing = False
        if self.reader.is_between:  # PERF: as often behind a wait; 1 of 21 us
            self._await_head(NEED_DATA)
            return
        for _ in range(self.server.options.max_pipelined_requests):
            try:
                event = self.reader.next_event()
            except ProtocolError as error:
                if not self._is_http2(self.reader.refused):
                    self._refuse_head(error)
                return
            if not isinstance(event, Head):
                self._await_head(event)
                return
            self.server.heads.learn(event)
            self._start(event)
            if self._exchange is not None or self.is_ending:
                return
        self._continuing = True
        self.server.loop.call_soon(self._continue)

    def _continue(self) -> None:
        if self._continuing and not self.is_ending:
            self._read_requests()

    def _await_head(self, event: object) -> None:
        if event is CLOSED:
            self._close()
            return
        self.resume_reading()
        if self.reader.buffered and not self._head_began:
            self._head_began = self.server.loop.time()
            self.deadline = self._head_began + self.server.options.head_seconds
        if self.server.closing:
            self.drain()
        elif self._insistence is None:
            self._lane_is_open = self.reader.is_between

    def _start(self, head: Head, known: Any = None, content: bytes = b"") -> None:
        """Begin to answer a request.

        Args:
            known: what the application has said of the same head.
            content: the body, where that has come whole and passed the reader by.
        """
        self.deadline = NEVER
        self._head_began = 0.0
        self._is_delimited = True
        body: Optional[BodySource] = None
        if content:
            body = ReceivedBody(self.server, content)
        elif head.content_length != 0:
            body = self.body = ConnectionBody(self, head)
        disconnect = Disconnect()
        disconnect.gone = self.has_left
        debug = self.server.options.debug
        request = Request(head, self.client, self.scheme, body, disconnect, debug)
        exchange = self._exchange = Exchange(self, request)
        exchange.start(known)
        if known is None and body is None and not head.query_string:
            self.server.heads.keep(head, request.known)

    def go_on(self) -> None:
        """An exchange that had to wait is over: there may be more requests."""
        if self._exchange is None and not self.is_ending:
            self._read_requests()

    def refuse_again(self, request: Request, refusal: Refusal) -> None:
        """Answer a request that has come once more, as it was answered before."""
        self.deadline = NEVER
        self._is_delimited = True
        exchange = self._exchange = Exchange(self, request)
        exchange.answer_again(refusal)

    def _refuse_head(self, error: ProtocolError) -> None:
        exchange = Exchange(self, Request(NO_HEAD, self.client, self.scheme))
        exchange.started = self._head_began or exchange.started
        exchange.refuse(error, error.status)

    # What an exchange calls: this is its sink.

    async def drop_body(self) -> bool:
        """Drop the rest of an unread body; return whether that reached its end."""
        return self.body is None or await self.body.drop()

    def send_head(
        self,
        request: Request,
        status: int,
        block: bytes,
        length: Optional[int],
        body: bytes = b"",
    ) -> bool:
        """Send the head, and the body with it where that is at hand; see Sink."""
        asked = request.head
        goes_on = asked.keep_alive and (self.body is None or not self.body.is_endless)
        is_usual = goes_on and asked.version == "1.1" and asked.method != "HEAD"
        if is_usual and 0 < len(body) <= SMALL_BODY_BYTES:
            # PERF: as most answers are; 1.9 of 9 us.
            beginning = self.server.beginning(status, block)
            if beginning:
                self._head = _USUAL
                self.write(b"%b%d\r\n\r\n%b" % (beginning, len(body), body))
                return True
        self._head = head = response_head(
            status,
            block,
            version=asked.version,
            method=asked.method,
            keep_alive=goes_on and not self.server.closing,
            content_length=length,
            date_line=self.server.date_line(),
        )
        self._is_delimited = head.chunked or length is not None
        if not head.has_body:
            self.write(head.data)
        elif len(body) <= SMALL_BODY_BYTES:
            self.write(head.data + body)
        else:
            self.write(head.data)
            self.write(body)
        return head.has_body

    def send_data(self, data: bytes, end: bool = False) -> None:
        """Send a piece of the body, as its head says."""
        if self._head is not None and self._head.chunked:
            data = encode_chunk(data) + (LAST_CHUNK if end else b"")
        if data:
            self.write(data)

    def cut_off(self) -> None:
        """End before the end of the answer, so that the client can tell."""
        if not self._is_delimited:
            # RFC 9112 section 8: of a body that only the end of the connection
            # delimits, a client takes an orderly end for the whole.
            self.reset()
        self.transport.abort()

    def refuse(self, error: ProtocolError, method: str = "GET") -> int:
        """Answer what is no request, or too much of one, and close."""
        self._exchange = None
        response = error_page(error)
        body = cast(bytes, response.body)
        head = response_head(
            error.status,
            response.header_block(),
            version="1.1",
            method=method,
            keep_alive=False,
            content_length=len(body),
            date_line=self.server.date_line(),
        )
        body = body if head.has_body else b""
        if self.is_closing:
            return 0  # the client has gone; a TLS transport can't be written to then
        self.transport.write(head.data + body)
        self._close_gently()
        return len(body)

    def end(self, is_whole: bool, at_end: bool) -> None:
        """The exchange is over: the next request, or the end."""
        exchange, self._exchange = self._exchange, None
        body, self.body = self.body, None
        if body is not None and body.is_awaited:
            body.wake()  # whoever still waits: it is not the body at hand any more
        if exchange is not None and not is_whole:
            exchange.request.disconnect.set()
        if exchange is None or exchange.refusal is None:
            self._insistence = None
        else:
            self._insistence = self._insistence or Insistence(self)
            self._insistence.note(exchange.request, exchange.refusal)
        keep_alive = is_whole and self._head is not None and self._head.keep_alive
        if keep_alive and at_end:  # at the server's end as well: `drain` sees to it
            self._answered, server = True, self.server
            self.deadline = server.loop.time() + server.options.keep_alive_seconds
            if server.is_full:
                server.resume()  # one that waits may have the place of this one
        elif at_end and (self.scheme == "https" or self.server.closing):
            self._part()
        else:
            # More requests may be on their way, for which TLS has no half-close.
            self._close_gently()
