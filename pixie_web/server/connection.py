"""One client's connection.

One Connection per client: an asyncio.Protocol that feeds the reader of
`protocol.http11`, calls `handle` for each head and writes what comes back, one
request after the other.

    reading   nothing runs, so events are read: a head starts `handle`
    handling  `handle` runs; what arrives meanwhile waits in the reader, and beyond
              READ_AHEAD_BYTES in the kernel; body bytes go to whoever pulls them
    sending   the body is pulled only as fast as the client reads

A request is answered inside the call that delivered its bytes if nothing has to wait:
no task, no turn of the loop. Time is watched by one sweep over all connections
instead of a timer for each request.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
import types
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    BinaryIO,
    Coroutine,
    Generator,
    Optional,
    Tuple,
    cast,
)

from ..about import log
from ..datastructures import T
from ..errors import (
    AnswerLost,
    ClientDisconnected,
    HTTPError,
    PixieError,
    ProtocolError,
    RequestCutShort,
    no_descriptor,
)
from ..protocol.http11 import (
    CLOSED,
    CONTINUE,
    END,
    LAST_CHUNK,
    MAX_JOINED_CHUNKS,
    Head,
    ResponseHead,
    encode_chunk,
    response_head,
)
from ..requests import (
    MAX_CHUNK_BYTES,
    NEVER,
    BodySource,
    Disconnect,
    Request,
    log_failure,
    off_the_loop,
)
from ..responses import FileSlice, Refusal, Response, error_page
from ..text import expression
from .access import NO_HEAD, AccessRecord, access_log
from .insistence import Insistence
from .options import GRACE_SECONDS

if TYPE_CHECKING:
    from .server import Server

READ_AHEAD_BYTES = 65_536  # asyncio's own high-water mark
MAX_DISCARD_BYTES = 65_536  # of a body nobody wanted; more: the connection closes
SMALL_BODY_BYTES = 65_536  # goes out in one write with its head
SENDFILE_BYTES = 1024 * 1024  # per call, so one fast client does not hold the loop


def timing_line(request: Request) -> bytes:
    """Return the Server-Timing header: milliseconds in line, and in the handler.

    W3C Server Timing section 2; of a stream, until its first chunk. Empty where no
    handler was to run.
    """
    if request.run_seconds is None:
        return b""
    queue, run = request.queue_seconds * 1000, request.run_seconds * 1000
    return b"Server-Timing: queue;dur=%.3f, run;dur=%.3f\r\n" % (queue, run)


class ConnectionBody(BodySource):
    """The body of the request that a connection is at."""

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._server = connection.server
        options = self._server.options
        self.content_length = head.content_length
        self.max_body_bytes = options.max_body_bytes
        self._expects_continue = head.expects_continue
        self._held_bytes = 0
        self.ended = False
        self.was_dropped = False  # in part, since the answer had begun
        self.patience_seconds = options.body_idle_seconds

    @property
    def asked_for(self) -> bool:
        """Whether the client sends the body without waiting, or was told to go on."""
        return not self._expects_continue

    async def read(self) -> bytes:
        """Return the next bytes, b"" at the end; see BodySource."""
        if self.was_dropped:  # the rest, or its end, would pass for the whole
            raise ClientDisconnected("the answer has begun, and its body was dropped")
        if self.ended:
            return b""
        if self._expects_continue:
            # RFC 9110 section 10.1.1: not before somebody wants the body.
            self._expects_continue = False
            self._connection.write(CONTINUE)
        return await self._connection.read_body(self)

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


def _open_file(path: str, flags: int) -> int:
    # Not through a link, and not waiting for a pipe's other end, that took its place.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _open_slice(body: FileSlice) -> BinaryIO:
    source = body.path if body.descriptor is None else os.dup(body.descriptor)
    return open(source, "rb", opener=_open_file)


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """Run on, inside a Task, a coroutine that has been started outside of one.

    Args:
        coroutine: suspended at its first wait.
        awaited: the future it waits for.
    """
    while True:
        try:
            result = yield awaited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:
            failure: Optional[BaseException] = error
        else:
            failure = None
        try:
            if failure is None:
                awaited = coroutine.send(result)
            else:
                awaited = coroutine.throw(failure)
        except StopIteration as end:
            return cast(T, end.value)


async def _carry_on(coroutine: Coroutine[Any, Any, T], awaited: Any) -> T:
    return await _resume(coroutine, awaited)


# What a heartbeat would break: a declared length, a coding such as gzip.
_FIXED_BODY = expression(rb"(?i)\r\ncontent-(?:length|encoding):")


class Heartbeat:
    """A stream's chunks; while the next one is awaited, a sign of life now and then.

    The timer runs only while this waits for a chunk. So none comes before the head,
    inside a chunk or after the end, and neither the chunk nor its deadline is touched.
    None is sent either before the client has acknowledged all that was sent: it may not
    read, or have vanished, and is cut off after `send_idle_seconds` without progress.

    Args:
        connection: where they are sent.
        head: of the answer.
        chunks: the stream.
        route: says what to send, and after how many seconds.
    """

    def __init__(
        self, connection: Connection, head: ResponseHead, chunks: Any, route: Any
    ) -> None:
        self._connection = connection
        self._head = head
        self._chunks = chunks
        self._route = route
        self._unsent_bytes = self._progress = 0.0  # the fewest in this wait, and when

    def __aiter__(self) -> Heartbeat:
        return self

    async def __anext__(self) -> bytes:
        self._unsent_bytes = float("inf")
        self._wait()
        try:
            return cast(bytes, await self._chunks.__anext__())
        finally:
            self._timer.cancel()

    def _wait(self) -> None:
        loop = self._connection.server.loop
        self._timer = loop.call_later(self._route.heartbeat_seconds, self._beat)

    def _beat(self) -> None:
        connection = self._connection
        now, unsent = connection.server.loop.time(), connection._count_unsent()
        if unsent < self._unsent_bytes:
            self._unsent_bytes, self._progress = unsent or float("inf"), now
        elif now - self._progress > connection.server.options.send_idle_seconds:
            connection._reset()
        if connection.transport.is_closing():
            return
        if not unsent and not getattr(self._chunks, "inside_chunk", False):
            connection.write_piece(self._head, self._route.heartbeat)
        self._wait()


class Connection(asyncio.Protocol):
    """One client's connection, from its first byte to its last.

    Args:
        server: what it shares with the others.
        accepted: its socket, until it is connected to a transport.
        network: the client that it counts for; "" if it counts for none.
    """

    def __init__(
        self,
        server: Server,
        accepted: Optional[socket.socket] = None,
        network: str = "",
    ) -> None:
        # For the life of the connection.
        self.server = server
        self.network = network
        self.refusal: Optional[ProtocolError] = None  # to whatever the client will say
        self.transport: asyncio.Transport
        self.deadline = NEVER
        self.client = ("", 0)
        self.scheme = "http"
        self.disconnect = Disconnect()
        self._accepted = accepted
        self._began = server.loop.time()
        self._reader = server.make_reader()
        self._chunks_before = 0  # of the reader's, when others last had their turn
        self._reading_paused = False
        self._writable: Optional[asyncio.Future[None]] = None  # set while it is not
        self._eof = False
        self._lingering = False
        self.gives_way = False  # to a new one, as soon as it can
        self._answered = False  # at least once
        self._closed = False
        self._insistence: Optional[Insistence] = None  # its last answer was a refusal
        self._continuing = False  # more pipelined requests are read in the next turn
        self._unsent_bytes = 0  # when last looked at, for a client that reads slowly
        self._progress_by = 0.0  # when they have to be fewer
        # For the request at hand.
        self._request: Optional[Request] = None
        self._body: Optional[ConnectionBody] = None
        self._body_waiter: Optional[asyncio.Future[None]] = None
        self._task: Optional[asyncio.Task[None]] = None
        self._started = 0.0
        self._sent_bytes = 0
        self._streaming = False  # from here on it may have to be cancelled
        self._outcome = ""  # of an answer that was cut off: "failed", "left" ...

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: a head is awaited."""
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.client = (str(peer[0]), int(peer[1]))
        if transport.get_extra_info("ssl_object") is not None:
            self.scheme = "https"
        self._accepted = None
        self.server.arriving.pop(self, None)
        self.server.connections[self] = None
        self.deadline = self.server.loop.time() + self.server.options.head_seconds
        if self.server.closing:
            self.transport.abort()
        elif self.refusal is not None:
            self.refuse(self.refusal)

    def data_received(self, data: bytes) -> None:
        """Take bytes: of a head, of a body that is pulled, or of what comes later."""
        if self._lingering or (self._insistence and self._insistence.keeps(data)):
            return
        self.take(data)

    def take(self, data: bytes) -> None:
        """The same, after whatever it had to wait for."""
        self._reader.feed(data)
        if self._request is None and not self._continuing:
            self._read_requests()
        elif self._body_waiter is not None:
            self._wake_body()
        elif self._reader.buffered > READ_AHEAD_BYTES:
            self.pause_reading()

    def eof_received(self) -> bool:
        """The client has sent all it will; it may still want its answer."""
        self._eof = True
        if self._lingering:
            return False
        if self._insistence is not None:
            self._insistence.let_go()
        self._reader.feed_eof()
        if self._request is None and not self._continuing:
            self._read_requests()
        elif self._body_waiter is not None:
            self._wake_body()
        elif self._request is not None:
            # Most clients that send this have gone; to what can stop it says so.
            self.disconnect.set()
        answering = self._request is not None or self._continuing
        return answering and self.scheme == "http"

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """The client has gone, or was sent away."""
        self.server.forget(self)
        self.transport.close()  # a TLS transport of 3.8 to 3.10 does not know it yet
        self.deadline = NEVER
        self.disconnect.set()
        if self._body_waiter is not None:
            self._wake_body()
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(ClientDisconnected("the client left"))
            self._writable.exception()  # for whoever waits; nobody may

    def pause_writing(self) -> None:
        """The client reads slower than we write: whoever sends has to wait."""
        self._writable = self.server.loop.create_future()
        self._expect_progress()

    def resume_writing(self) -> None:
        """The client has caught up."""
        writable, self._writable = self._writable, None
        if self._request is not None and self._body_waiter is None:
            self.deadline = NEVER
        if writable is not None and not writable.done():
            writable.set_result(None)

    # What the server calls.

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self._request is not None

    def rank(self, now: float) -> Optional[Tuple[int, float]]:
        """Return how soon this may end to make room for a new one; None: it may not.

        Ahead of all is what has been idle for longest. Then comes a client for whose
        head or body the server waits: the slowest, in bytes per second since it began.
        """
        if self.gives_way:
            return None
        if self._accepted is not None:
            size, began = 0, self._began
        elif self._ending or self._continuing:
            return None
        elif self._body is not None and self._body_waiter is not None:
            size, began = self._body.received_bytes, self._started
        elif self._request is not None:
            return None
        elif self._answered and not self._started:
            return 0, self.deadline
        else:
            size, began = self._reader.buffered, self._started or self._began
        seconds = now - began
        return None if seconds <= GRACE_SECONDS else (1, size / seconds)

    def give_way(self) -> None:
        """End for a new connection: at once, and with a 408 where something has come.

        It does not linger: the new one may need its descriptor.
        """
        if self.gives_way:
            return
        self.gives_way = True
        self.server.leaving += 1
        error = ProtocolError(408, "This came slowest, and the server is full.")
        if self._accepted is not None:
            try:
                self._accepted.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client has left
        elif self._body_waiter is not None:
            self._fail_body(error)
            # Or sooner: where its handler does not care.
            seconds = self.server.options.linger_seconds
            self.deadline = self.server.loop.time() + seconds
        elif self._reader.buffered:
            self._refuse_head(error)
        else:
            self._close()

    def drain(self) -> None:
        """End after the request at hand; at once, if there is none."""
        if self._request is None:
            self._close()

    def out_of_time(self) -> None:
        """The deadline has passed: of an idle connection, a head, a body, or a send."""
        self.deadline = NEVER
        closing = self._closed or self.transport.is_closing()  # 3.8 forgets, over TLS
        if closing or self._writable is not None:
            options = self.server.options
            least = options.min_bytes_per_second * options.send_idle_seconds
            unsent = self._count_unsent()
            if closing and not unsent:
                # A client need not answer the close_notify of TLS (RFC 8446 section
                # 6.1), and while a connection is idle browsers do not.
                self.transport.abort()
            elif self.server.loop.time() < self._progress_by:
                self._look_again()
            elif self._unsent_bytes - unsent >= max(1, least):
                self._expect_progress()
            else:
                self._reset()
        elif self._body_waiter is not None:
            self._fail_body(ProtocolError(408, "The body came too slowly."))
        elif self._request is not None or self._lingering or not self._reader.buffered:
            self._close()
        else:
            self._refuse_head(ProtocolError(408, "The request head came too slowly."))

    def _expect_progress(self) -> None:
        """Cut the connection off if the client takes too little of what waits."""
        self._unsent_bytes = self._count_unsent()
        seconds = self.server.options.send_idle_seconds
        self.deadline = self._progress_by = self.server.loop.time() + seconds

    def _count_unsent(self) -> int:
        """Return how many bytes the client has not acknowledged.

        The transport alone can't tell. The kernel takes more from it only when a third
        of its own buffer is free; that may be megabytes, and minutes of a slow client.
        """
        count = 0
        try:
            import fcntl
            import termios

            count = self.transport.get_write_buffer_size()
            one = self.transport.get_extra_info("socket")
            one.getpeername()  # after a reset nothing is acknowledged any more
            found = fcntl.ioctl(one.fileno(), termios.TIOCOUTQ, bytes(4))
        except (AttributeError, ImportError, OSError, ValueError):
            return count  # a system that does not tell, or a connection that is lost
        return count + int(struct.unpack("i", found)[0])

    def _close(self) -> None:
        """Close as soon as the client has taken all that waits for it."""
        if self._closed:
            return  # closed twice, a TLS transport of asyncio can't be aborted
        self._closed = True
        self.transport.close()
        if self.gives_way:
            # In the next turn: by then what was written has been sent.
            self.server.loop.call_soon(self.transport.abort)
        self._expect_progress()
        self._look_again()

    def _look_again(self) -> None:
        """Set a deadline for the client to say that it has taken all."""
        soon = self.server.loop.time() + self.server.options.linger_seconds
        self.deadline = min(soon, self._progress_by)

    @property
    def may_go_on(self) -> bool:
        """Whether a next request would be its first concern."""
        is_between = self._request is None and not (self._continuing or self._started)
        return is_between and not (self._reader.buffered or self._ending)

    @property
    def _ending(self) -> bool:
        return self._lingering or self._closed or self.transport.is_closing()

    # Reading requests.

    def _read_requests(self) -> None:
        """Start the next request, and pipelined ones while each ends at once."""
        self._continuing = False
        for _ in range(self.server.options.max_pipelined_requests):
            try:
                event = self._reader.next_event()
            except ProtocolError as error:
                self._refuse_head(error)
                return
            if not isinstance(event, Head):
                self._await_head(event)
                return
            self._start(event)
            if self._request is not None or self._ending:
                return
        self._continuing = True
        self.server.loop.call_soon(self._continue)

    def _continue(self) -> None:
        if self._continuing and not self._ending:
            self._read_requests()

    def _await_head(self, event: object) -> None:
        if event is CLOSED or self.server.closing:
            self._close()
            return
        self.resume_reading()
        if self._reader.buffered and not self._started:
            self._started = self.server.loop.time()
            self.deadline = self._started + self.server.options.head_seconds

    def _start(self, head: Head) -> None:
        self._started = time.monotonic()  # uvloop's own clock counts milliseconds
        self.deadline = NEVER
        self._sent_bytes, self._streaming = 0, False
        body = None if head.content_length == 0 else ConnectionBody(self, head)
        self._body = body
        request = Request(
            head,
            self.client,
            self.scheme,
            body,
            self.disconnect,
            self.server.options.debug,
        )
        self._request = request
        coroutine = self._answer(request)
        # PERF: the coroutine is run up to its first wait without a Task. Where nothing
        # waits (sync routes, cached files, eager coroutines) that is all of it: 1.5
        # times the requests per second.
        try:
            awaited = coroutine.send(None)
        except StopIteration:
            return
        if self._streaming or not isinstance(awaited, asyncio.Future):
            self._go_on_in_task(coroutine, awaited)
            return
        # PERF: nor does its first wait, for a handler elsewhere, need one: 7 of 75 us.
        awaited._asyncio_future_blocking = False  # what a Task does: it is taken up
        awaited.add_done_callback(partial(self._go_on, coroutine))

    def _go_on(
        self, coroutine: Coroutine[Any, Any, None], _: asyncio.Future[Any]
    ) -> None:
        """Run the coroutine on, from its first wait."""
        try:
            awaited = coroutine.send(None)
        except StopIteration:
            self._task_done()
        else:
            self._go_on_in_task(coroutine, awaited)

    def _go_on_in_task(
        self, coroutine: Coroutine[Any, Any, None], awaited: Any
    ) -> None:
        self._task = self.server.loop.create_task(_carry_on(coroutine, awaited))
        self._task.add_done_callback(self._task_done)

    def _task_done(self, _: Optional[asyncio.Task[None]] = None) -> None:
        self._task = None
        if self._request is None and not self._ending:
            self._read_requests()

    async def read_body(self, body: ConnectionBody) -> bytes:
        """Return the next bytes of the body, waiting for them if need be."""
        while True:
            if self._has_had_its_turn:
                await self._let_others()
            if body is not self._body:
                # SECURITY: a task that outlives its request must not take bytes of the
                # next one, which a proxy may send for another client.
                raise ClientDisconnected("the request has ended, and its body is gone")
            self._reader.max_body_bytes = body.max_body_bytes
            event = self._reader.next_event()
            if isinstance(event, bytes):
                body.earn(len(event))
                return event
            if event is END:
                body.ended = True
                self.deadline = NEVER
                self.resume_reading()  # or nobody would see the client leave
                return b""
            if self.disconnect.gone:
                raise ClientDisconnected("the client left in the middle of its request")
            self.resume_reading()
            began = self.server.loop.time()
            self.deadline = began + body.patience_seconds
            waiter = self._body_waiter = self.server.loop.create_future()
            await waiter
            self._chunks_before = self._reader.chunks
            body.spend(self.server.loop.time() - began)

    @property
    def _has_had_its_turn(self) -> bool:
        """Whether as many chunks as one event may have were read without a wait.

        SECURITY: all that reads a body looks here. Else the chunks that a client sends
        at once, tens of thousands, are read while everybody else waits.
        """
        return self._reader.chunks - self._chunks_before >= MAX_JOINED_CHUNKS

    async def _let_others(self) -> None:
        await self.server.next_turn()
        self._chunks_before = self._reader.chunks

    def _wake_body(self) -> None:
        waiter, self._body_waiter = self._body_waiter, None
        self.deadline = NEVER  # until whoever reads asks for more
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail_body(self, error: ProtocolError) -> None:
        waiter, self._body_waiter = self._body_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def pause_reading(self) -> None:
        """Leave what comes to the kernel."""
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take what comes, unless the connection ends."""
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()

    # Answering.

    async def _answer(self, request: Request) -> None:
        """Have one request handled, and send its response."""
        status = 499  # nginx's code for a client that left without an answer
        response: Optional[Response] = None
        try:
            if self.server.proxies is not None:
                self.server.proxies.apply(request)
            if not self.server.hosts.allow(request.host):
                self._outcome = "refused"
                raise ProtocolError(400, "No such host is served here.")
            response = await self.server.handle(request)
            status = response.status
            keep_alive = await self._send(request, response)
        except ProtocolError as error:
            self._request = None
            self.refuse(error, request.method)
            cut_short = isinstance(error, RequestCutShort)  # most of them have left
            self._log(request, 499 if cut_short else error.status)
            request.close()
            return
        except ClientDisconnected:
            keep_alive = False
        except (KeyboardInterrupt, SystemExit):
            raise  # of the process; those of a handler have become its failure
        except BaseException as error:
            if isinstance(error, GeneratorExit) and self.server.loop.is_closed():
                raise
            self._break_off(request, error)
            keep_alive = False
        finally:
            if self._body is not None:
                self._body.hold(0)
        has_ended = False
        try:
            self._log(request, status)
            request.close()
            has_ended = self._body is None or await self._discard_body()
        finally:
            self._end_request(keep_alive, has_ended)
        self._note_refusal(request, response)

    def _break_off(self, request: Request, error: BaseException) -> None:
        self._note_outcome(error)
        if self._outcome == "failed":
            log.error("the answer to %r broke off", request, exc_info=error)
        self.transport.abort()

    def _note_refusal(self, request: Request, response: Optional[Response]) -> None:
        if isinstance(response, Refusal):
            self._insistence = self._insistence or Insistence(self)
            self._insistence.note(request, response)
        else:
            self._insistence = None

    def _end_request(self, keep_alive: bool, has_ended: bool) -> None:
        self._request = None
        self._started = 0.0
        self._body = None
        if keep_alive and has_ended and not self.server.closing:
            self._answered = True
            loop = self.server.loop
            self.deadline = loop.time() + self.server.options.keep_alive_seconds
            if self.server.is_full:
                self.server.resume()  # one that waits may have the place of this one
        elif has_ended and (self.server.closing or self.scheme == "https"):
            self._close()
        else:
            # More requests may be on their way, for which TLS has no half-close.
            self._close_gently()

    async def _discard_body(self) -> bool:
        """Drop the rest of an unread body; return whether that reached its end."""
        body = self._body
        if body is None or body.ended:
            return True
        if not body.asked_for:
            return False  # it may come or not: what follows can't be told apart
        size = 0
        while size <= MAX_DISCARD_BYTES:
            if self._has_had_its_turn:
                await self._let_others()
            try:
                event = self._reader.next_event()
            except ProtocolError:
                return False
            if event is END:
                body.ended = True
                return True
            if not isinstance(event, bytes):
                return False
            size += len(event)
            body.was_dropped = True
        return False

    def refuse(self, error: ProtocolError, method: str = "GET") -> None:
        """Answer what is no request, or too much of one, and close."""
        self._send_page(error_page(error), method, "1.1", False)
        self._close_gently()

    def refuse_again(self, request: Request, refusal: Refusal) -> None:
        """Answer a request that has come once more, as it was answered before."""
        self._started = time.monotonic()
        head = request.head
        keep_alive = head.keep_alive and not self.server.closing
        self._send_page(refusal, head.method, head.version, keep_alive)
        self._log(request, refusal.status)
        self._end_request(keep_alive, has_ended=True)

    def _send_page(
        self, page: Response, method: str, version: str, keep_alive: bool
    ) -> None:
        """Send an answer whose body is bytes."""
        body = cast(bytes, page.body)
        head = response_head(
            page.status,
            page.header_block(),
            version=version,
            method=method,
            keep_alive=keep_alive,
            content_length=len(body),
            date_line=self.server.date_line(),
        )
        body = body if head.has_body else b""
        if self.transport.is_closing():
            return  # the client has gone: a TLS transport can't be written to any more
        self.transport.write(head.data + body)
        self._sent_bytes = len(body)

    def _refuse_head(self, error: ProtocolError) -> None:
        self._started = self._started or time.monotonic()
        self.refuse(error)
        self._log(Request(NO_HEAD, self.client, self.scheme), error.status)

    def _close_gently(self) -> None:
        """Close so that the client can read the answer first (RFC 9112 section 9.6).

        Closing with unread input makes the kernel send a reset, which may destroy an
        answer on its way. So only our half is closed, and input is dropped for a while.
        """
        if self.transport.is_closing():
            return
        self._lingering = True
        if self._eof or self.gives_way:
            self._close()
            return
        self.resume_reading()
        try:
            if self.transport.can_write_eof():
                self.transport.write_eof()
        except OSError:
            pass  # reset by the client a moment ago: the next read says so
        self.deadline = self.server.loop.time() + self.server.options.linger_seconds

    # Sending.

    async def _send(self, request: Request, response: Response) -> bool:
        """Send a response; return whether the connection may go on."""
        body = response.body
        if isinstance(body, bytes):
            length: Optional[int] = len(body)
        elif isinstance(body, FileSlice):
            length = body.length
            try:
                file = _open_slice(body)
            except OSError as error:  # it went between the look at it and now
                return await self._send(request, self._page_instead(request, error))
        else:
            length = response.stream_bytes
        # RFC 9112 section 9.3: a body that was not read to its end can't be passed
        # over. A stream may read it while it answers.
        reads_on = (
            request.route is not None
            and request.route.stream_body
            and not isinstance(body, (bytes, FileSlice))
        )
        at_end = reads_on or self._body is None or await self._discard_body()
        block = response.header_block(request.scheme == "https")
        if self.server.options.server_timing:
            block += timing_line(request)
        head = response_head(
            response.status,
            block,
            version=request.head.version,
            method=request.method,
            keep_alive=request.head.keep_alive and at_end and not self.server.closing,
            content_length=length,
            date_line=self.server.date_line(),
        )
        if isinstance(body, bytes):
            self._send_bytes(head, body)
            if self._writable is not None:
                await self._drained()
        elif isinstance(body, FileSlice):
            await self._send_file(head, body, file)
        else:
            await self._send_stream(request, head, body, length)
        return head.keep_alive

    def _page_instead(self, request: Request, error: OSError) -> Response:
        """Return what is sent in place of a file that can't be opened."""
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            return error_page(HTTPError(404))
        return error_page(no_descriptor(request, error))

    def write(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            ClientDisconnected: the connection has ended.
        """
        if self.transport.is_closing():
            raise ClientDisconnected("the client left before the end of its answer")
        self.transport.write(data)

    def _send_bytes(self, head: ResponseHead, body: bytes) -> None:
        if not head.has_body:
            self.write(head.data)
        elif len(body) <= SMALL_BODY_BYTES:
            self.write(head.data + body)
        else:
            self.write(head.data)
            self.write(body)
        self._sent_bytes = len(body) if head.has_body else 0

    async def _drained(self) -> None:
        """Wait until the client has read enough for more to be sent."""
        if self._writable is not None:
            await self._writable
        if self.transport.is_closing():
            raise ClientDisconnected("the client left in the middle of its answer")

    async def _send_stream(
        self, request: Request, head: ResponseHead, chunks: Any, length: Optional[int]
    ) -> None:
        """Send chunks as they come, one by one, as fast as the client reads.

        A stream that fails is cut off without its last chunk: the client can tell.
        """
        self._streaming = True
        route = request.route
        stops = route is None or route.on_disconnect != "finish"
        if stops:
            self.disconnect.add(self._cancel_task)
        try:
            if stops and self.disconnect.gone:
                raise ClientDisconnected("the client left before its answer")
            self.write(head.data)
            if head.has_body:
                beats = route and route.heartbeat and not _FIXED_BODY.search(head.data)
                pieces = Heartbeat(self, head, chunks, route) if beats else chunks
                async for chunk in pieces:
                    for at in range(0, len(chunk), MAX_CHUNK_BYTES):
                        self.write_piece(head, chunk[at : at + MAX_CHUNK_BYTES])
                        await self._drained()
                if length is not None and self._sent_bytes != length:
                    raise PixieError(f"{self._sent_bytes} of {length} bytes were sent")
                if head.chunked:
                    self.write(LAST_CHUNK)
        except (Exception, asyncio.CancelledError) as error:
            self._note_outcome(error)
            if self._outcome == "failed" and not isinstance(error, AnswerLost):
                log_failure(request, error, midway=True)
            if length is None and not head.chunked:
                # RFC 9112 section 8: of a body that only the end of the connection
                # delimits, a client takes an orderly end for the whole.
                self._reset()
            self.transport.abort()
            raise ClientDisconnected("the answer was cut off") from None
        finally:
            self.disconnect.remove(self._cancel_task)
            await chunks.aclose()

    def _note_outcome(self, error: BaseException) -> None:
        """Note, for the access log, what has ended an answer before its end."""
        cancelled = isinstance(error, asyncio.CancelledError) and self.disconnect.gone
        left = cancelled or isinstance(error, (ClientDisconnected, ProtocolError))
        outcome = "left" if left else "failed"
        if isinstance(error, AnswerLost) and error.status == 504:
            outcome = "timeout"
        self._outcome = self._outcome or outcome

    def _reset(self) -> None:
        """End the connection by a reset: what waits in the kernel is dropped as well.

        SECURITY: after a mere abort() the kernel would keep it, megabytes, for as long
        as a client that does not read says that it lives.
        """
        one = self.transport.get_extra_info("socket")
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (AttributeError, OSError):
            pass  # it has ended by itself
        self.transport.abort()

    def _cancel_task(self) -> None:
        if self._task is not None:
            # Not at once: a Task that has not begun would end without its coroutine.
            self.server.loop.call_soon(self._task.cancel)

    def write_piece(self, head: ResponseHead, piece: bytes) -> None:
        """Send a piece of a stream, as its head says."""
        self._sent_bytes += len(piece)
        self.write(encode_chunk(piece) if head.chunked else piece)

    async def _send_file(
        self, head: ResponseHead, body: FileSlice, file: BinaryIO
    ) -> None:
        """Send part of a file, by the kernel where the connection is plain."""
        try:
            self.write(head.data)
            if head.has_body and body.length:
                if self.scheme == "http" and hasattr(os, "sendfile"):
                    await self._sendfile(file.fileno(), body.offset, body.length)
                else:
                    file.seek(body.offset)
                    await self._copy_file(file, body.length)
        except Exception as error:
            self._note_outcome(error)
            raise
        finally:
            file.close()
            if body.delete_after:
                os.unlink(body.path)

    async def _copy_file(self, file: Any, length: int) -> None:
        while length:
            data = await off_the_loop(file.read, min(length, MAX_CHUNK_BYTES))
            if not data:
                raise PixieError("a file became shorter while it was sent")
            length -= len(data)
            self._sent_bytes += len(data)
            self.write(data)
            await self._drained()

    async def _sendfile(self, source: int, offset: int, length: int) -> None:
        # uvloop has no loop.sendfile. The transport owns its descriptor, so a duplicate
        # is written to, once the transport has sent all that it holds.
        self.transport.set_write_buffer_limits(0)
        try:
            if self.transport.get_write_buffer_size():
                await self._drained()
            target = os.dup(self.transport.get_extra_info("socket").fileno())
            try:
                while length:
                    try:
                        sent = os.sendfile(
                            target, source, offset, min(length, SENDFILE_BYTES)
                        )
                    except BlockingIOError:
                        await self._writable_again(target)
                        continue
                    if not sent:
                        raise PixieError("a file became shorter while it was sent")
                    offset += sent
                    length -= sent
                    self._sent_bytes += sent
                    await asyncio.sleep(0)
                    await self._drained()
            except (ConnectionError, TimeoutError):
                raise ClientDisconnected("the client left during a file") from None
            finally:
                os.close(target)
        finally:
            if not self.transport.is_closing():
                self.transport.set_write_buffer_limits()

    async def _writable_again(self, descriptor: int) -> None:
        loop = self.server.loop
        self._writable = loop.create_future()
        self._expect_progress()
        loop.add_writer(descriptor, self.resume_writing)
        try:
            await self._drained()
        finally:
            loop.remove_writer(descriptor)

    def _log(self, request: Request, status: int) -> None:
        options = self.server.options
        if options.access_log:
            seconds = time.monotonic() - self._started
            gone = status == 499 or (self.transport.is_closing() and not self._closed)
            outcome = self._outcome or ("left" if gone else "complete")
            record = AccessRecord(request, status, self._sent_bytes, seconds, outcome)
            access_log.info(options.access_log_format, record)
