"""One request and its answer, in any protocol.

An `Exchange` calls `handle`, sends the response to its `Sink`, notes how that ended,
and logs it. It knows no bytes on the wire and no other exchanges.

It runs inside the call that brought its request for as long as nothing has to wait:
no task, no turn of the loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
import types
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    BinaryIO,
    Coroutine,
    Generator,
    Optional,
    Protocol,
    cast,
)

from ..about import log
from ..conditional import prefers_json
from ..errors import (
    AnswerLost,
    ClientDisconnected,
    HTTPError,
    PixieError,
    ProtocolError,
    RequestCutShort,
    no_descriptor,
)
from ..requests import MAX_CHUNK_BYTES, Request, log_failure, off_the_loop
from ..responses import FileSlice, Refusal, Response, error_page
from ..staticfiles import open_slice
from ..text import expression
from .access import AccessRecord, log_answer

if TYPE_CHECKING:
    from .server import Server


class Sink(Protocol):
    """Where an exchange's answer goes: a connection, or one stream of several on it.

    `drained` need only be awaited while `writable` is set. All that sends raises
    ClientDisconnected where the client has left.
    """

    server: Server
    writable: Optional[asyncio.Future[None]]

    @property
    def can_sendfile(self) -> bool:
        """Whether `sendfile` may be used."""

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""

    @property
    def was_lost(self) -> bool:
        """Whether it has ended, and not by an orderly close of ours."""

    async def drop_body(self) -> bool:
        """Drop the rest of an unread body; return whether that reached its end."""

    def send_head(
        self,
        request: Request,
        status: int,
        block: bytes,
        length: Optional[int],
        body: bytes = b"",
    ) -> bool:
        """Send the head, and the body with it where that is at hand.

        Args:
            request: what is answered.
            status: the status.
            block: the header lines, but for those of the protocol's own.
            length: of the body in bytes; None when it is not known beforehand.
            body: all of it; else it follows by `send_data`.

        Returns:
            Whether the answer has a body; else none must follow.
        """

    def send_data(self, data: bytes, end: bool = False) -> None:
        """Send a piece of the body; the last one, which may be empty, says so."""

    def sendfile(self, source: int, offset: int, length: int) -> AsyncIterator[int]:
        """Send part of a file, and say of each piece how many bytes it had."""

    async def drained(self) -> None:
        """Wait until the client has read enough for more to be sent."""

    def unsent(self) -> int:
        """Return how many bytes the client has not acknowledged."""

    def reset(self) -> None:
        """End it by a reset: what the client has not taken is dropped."""

    def cut_off(self) -> None:
        """End before the end of the answer, so that the client can tell."""

    def refuse(self, error: ProtocolError, method: str) -> int:
        """Send an error and close; return the bytes of its body."""

    def end(self, is_whole: bool, at_end: bool) -> None:
        """The exchange is over.

        Args:
            is_whole: all of the answer was sent.
            at_end: the request's body has come to its end.
        """

    def go_on(self) -> None:
        """An exchange that had to wait is over: there may be more requests."""


@types.coroutine
def _resume(
    coroutine: Coroutine[Any, Any, None], awaited: Any
) -> Generator[Any, Any, None]:
    """Run on, inside a Task, a coroutine that has been started outside of one.

    Args:
        coroutine: suspended at its first wait.
        awaited: the future it waits for.
    """
    try:
        yield awaited
    except GeneratorExit:
        coroutine.close()
        raise
    except BaseException as error:
        try:
            awaited = coroutine.throw(error)
        except StopIteration:
            return
        yield from _resume(coroutine, awaited)
    else:
        yield from coroutine


async def _carry_on(coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
    await _resume(coroutine, awaited)


# With a declared length, what a heartbeat would break: a coding such as gzip.
_CODED_BODY = expression(rb"(?i)\r\ncontent-encoding:")


class Heartbeat(AsyncIterator[bytes]):
    """A stream's chunks; while the next one is awaited, a sign of life now and then.

    The timer runs only while this waits for a chunk. So none comes before the head,
    inside a chunk or after the end, and neither the chunk nor its deadline is touched.
    None is sent either before the client has acknowledged all that was sent: it may not
    read, or have vanished, and is cut off after `send_idle_seconds` without progress.

    Args:
        exchange: whose answer it is.
        chunks: the stream.
        route: says what to send, and after how many seconds.
    """

    def __init__(self, exchange: Exchange, chunks: Any, route: Any) -> None:
        self._exchange = exchange
        self._chunks = chunks
        self._route = route
        self._unsent_bytes = self._progress = 0.0  # the fewest in this wait, and when

    async def __anext__(self) -> bytes:
        self._unsent_bytes = float("inf")
        self._wait()
        try:
            return cast(bytes, await self._chunks.__anext__())
        finally:
            self._timer.cancel()

    def _wait(self) -> None:
        loop = self._exchange.sink.server.loop
        self._timer = loop.call_later(self._route.heartbeat_seconds, self._beat)

    def _beat(self) -> None:
        sink = self._exchange.sink
        now, unsent = sink.server.loop.time(), sink.unsent()
        if unsent < self._unsent_bytes:
            self._unsent_bytes, self._progress = unsent or float("inf"), now
        elif now - self._progress > sink.server.options.send_idle_seconds:
            sink.reset()
        if sink.is_closing:
            return
        if not unsent and not getattr(self._chunks, "inside_chunk", False):
            self._exchange.send_piece(self._route.heartbeat)
        self._wait()


async def _send_end(sink: Sink) -> None:
    """Send the end of a body, which over HTTP/2 may have to wait for other answers."""
    sink.send_data(b"", end=True)
    if sink.writable is not None:
        await sink.drained()


def timing_line(request: Request) -> bytes:
    """Return the header line that says how long a request waited, and ran.

    W3C Server Timing section 2; of a stream, until its first chunk. It is empty where
    no handler was asked.
    """
    if request.run_seconds is None:
        return b""
    times = request.queue_seconds * 1000, request.run_seconds * 1000
    return b"Server-Timing: queue;dur=%.3f, run;dur=%.3f\r\n" % times


class Exchange:
    """One request and its answer.

    Args:
        sink: where the answer goes.
        request: what is to be answered; its `disconnect` is told when its client goes.

    Attributes:
        started: when it began, on the clock of time.monotonic.
        status: of the answer.
        sent_bytes: of the body.
        outcome: of an answer that was cut off: "failed", "left" ...
        refusal: the answer, where it says that too much waits.
    """

    # PERF: defaults of the class, which most exchanges never set.
    status = 499  # nginx's code for a client that left before that
    sent_bytes = 0
    outcome = ""
    refusal: Optional[Refusal] = None
    _task: Optional[asyncio.Task[None]] = None
    _is_streaming = False  # from here on it may have to be cancelled

    def __init__(self, sink: Sink, request: Request) -> None:
        self.sink = sink
        self.request = request
        self.started = time.monotonic()  # uvloop's own clock counts milliseconds

    def start(self, known: Any = None) -> None:
        """Handle the request and answer it, up to the first wait or to the end.

        Args:
            known: as `Server` has it.
        """
        request, server = self.request, self.sink.server
        try:
            if server.proxies is not None or server.hosts is not None:
                self._screen()
            outcome: Any = server.begin(request, known)
            # PERF: no coroutine where nothing has to be waited for; 2.4 of 15 us.
            body = outcome.body if isinstance(outcome, Response) else None
            is_read = request.source is None or request.source.has_ended
            if is_read and isinstance(body, bytes):
                if self._send_now(outcome, body):
                    self._end()
                    return
                outcome = None
            coroutine = self._run(outcome)
        except BaseException as error:
            coroutine = self._run(error)
        self._run_on(coroutine)

    def _run_on(self, coroutine: Coroutine[Any, Any, None]) -> None:
        # PERF: the coroutine is run up to its first wait without a Task. Where nothing
        # waits (cached files, an error) that is all of it.
        try:
            awaited = coroutine.send(None)
        except StopIteration:
            return
        if self._is_streaming or not isinstance(awaited, asyncio.Future):
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
        self._task = self.sink.server.loop.create_task(_carry_on(coroutine, awaited))
        self._task.add_done_callback(self._task_done)

    def _task_done(self, _: Optional[asyncio.Task[None]] = None) -> None:
        self._task = None
        self.sink.go_on()

    def _cancel(self) -> None:
        if self._task is not None:
            # Not at once: a Task that has not begun would end without its coroutine.
            self.sink.server.loop.call_soon(self._task.cancel)

    # Answering.

    def _screen(self) -> None:
        """Take what a proxy says of the client, and refuse hosts of others."""
        request, server = self.request, self.sink.server
        if server.proxies is not None:
            server.proxies.apply(request)
        if server.hosts is not None and not server.hosts.allow(request.host):
            self.outcome = "refused"
            raise ProtocolError(400, "No such host is served here.")

    async def _run(self, outcome: Any) -> None:
        """Do what has to be waited for.

        Args:
            outcome: a response, what to wait for until it is there, or the error that
                has come instead; None: it has been sent, but for what waits below.
        """
        request, server = self.request, self.sink.server
        is_whole = False
        try:
            if outcome is None:
                await self.sink.drained()
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                is_there = isinstance(outcome, Response)
                await self._send(outcome if is_there else await outcome)
            is_whole = True
        except ProtocolError as error:
            cut_short = isinstance(error, RequestCutShort)  # most of them have left
            self.refuse(error, 499 if cut_short else error.status)
            request.close()
            return
        except ClientDisconnected:
            pass
        except (KeyboardInterrupt, SystemExit):
            raise  # of the process; those of a handler have become its failure
        except BaseException as error:
            if isinstance(error, GeneratorExit) and server.loop.is_closed():
                raise
            self._note_outcome(error)
            if self.outcome == "failed":
                log.error("the answer to %r broke off", request, exc_info=error)
            self.sink.cut_off()
        finally:
            outcome = None  # an error in it would be in a circle with its traceback
            self._let_body_go()
        at_end = False
        try:
            self._conclude()
            at_end = request.source is None or await self.sink.drop_body()
        finally:
            self.sink.end(is_whole, at_end)

    def _let_body_go(self) -> None:
        if self.request.source is not None:
            self.request.source.hold(0)

    def _end(self) -> None:
        """End where all has been sent, and all of the request was read."""
        self._let_body_go()
        try:
            self._conclude()
        finally:
            self.sink.end(True, True)

    def _conclude(self) -> None:
        if self.sink.server.options.access_log:
            self._log(self.status)
        self.request.close()

    def refuse(self, error: ProtocolError, logged_status: int) -> None:
        """Answer what is no request, or too much of one; it is the last answer."""
        self.sent_bytes = self.sink.refuse(error, self.request.method)
        self._log(logged_status)

    def answer_again(self, refusal: Refusal) -> None:
        """Answer with a refusal, at once; no handler is asked."""
        self.refusal = refusal
        body, block = cast(bytes, refusal.body), refusal.header_block()
        if self.sink.send_head(self.request, refusal.status, block, len(body), body):
            self.sent_bytes = len(body)
        self._log(refusal.status)
        self.sink.end(True, True)

    def _note_outcome(self, error: BaseException) -> None:
        """Note, for the access log, what has ended an answer before its end."""
        left = isinstance(error, (ClientDisconnected, ProtocolError))
        left |= isinstance(error, asyncio.CancelledError) and self.request.disconnected
        outcome = "left" if left else "failed"
        if isinstance(error, AnswerLost) and error.status == 504:
            outcome = "timeout"
        self.outcome = self.outcome or outcome

    def _log(self, status: int) -> None:
        options = self.sink.server.options
        if not options.access_log:
            return
        seconds = time.monotonic() - self.started
        gone = status == 499 or self.sink.was_lost
        outcome = self.outcome or ("left" if gone else "complete")
        sent_bytes = self.sent_bytes
        record = AccessRecord(self.request, status, sent_bytes, seconds, outcome)
        log_answer(options.access_log_format, record)

    # Sending.

    def _send_now(self, response: Response, body: bytes) -> bool:
        """Send an answer; return whether nothing of it has to be waited for."""
        request, sink = self.request, self.sink
        self.status = status = response.status
        if isinstance(response, Refusal):
            self.refusal = response
        block = response.header_block(request.scheme == "https")
        if sink.server.options.server_timing:
            block += timing_line(request)
        if sink.send_head(request, status, block, len(body), body):
            self.sent_bytes = len(body)
        return sink.writable is None

    def _header_block(self, response: Response) -> bytes:
        block = response.header_block(self.request.scheme == "https")
        is_timed = self.sink.server.options.server_timing
        return block + timing_line(self.request) if is_timed else block

    async def _send(self, response: Response) -> None:
        request, sink, body = self.request, self.sink, response.body
        self.status = response.status
        file: Any = None
        if isinstance(body, FileSlice):
            try:
                file = open_slice(body)
            except OSError as error:  # it went between the look at it and now
                await self._send(self._page_instead(error))
                return
        if request.source is not None and not (
            # RFC 9112 section 9.3: a body that was not read to its end can't be passed
            # over. A stream may read it while it answers.
            request.route is not None
            and request.route.stream_body
            and not isinstance(body, (bytes, FileSlice))
        ):
            await sink.drop_body()
        if isinstance(body, bytes):
            if not self._send_now(response, body):
                await sink.drained()
        elif isinstance(body, FileSlice):
            await self._send_file(self.status, self._header_block(response), body, file)
        else:
            await self._send_stream(response, body)

    def _page_instead(self, error: OSError) -> Response:
        """Return what is sent in place of a file that can't be opened."""
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            return error_page(HTTPError(404), "", prefers_json(self.request))
        return error_page(no_descriptor(self.request, error))

    def send_piece(self, piece: bytes) -> None:
        """Send a piece of the body."""
        self.sent_bytes += len(piece)
        self.sink.send_data(piece)

    async def _send_stream(self, response: Response, chunks: Any) -> None:
        """Send chunks as they come, one by one, as fast as the client reads.

        A stream that fails is cut off without its end: the client can tell.
        """
        self._is_streaming = True
        request, sink, route = self.request, self.sink, self.request.route
        block, length = self._header_block(response), response.stream_bytes
        stops = route is None or route.on_disconnect != "finish"
        if stops:
            request.disconnect.add(self._cancel)
        try:
            if stops and request.disconnected:
                raise ClientDisconnected("the client left before its answer")
            if sink.send_head(request, response.status, block, length):
                beats = route and route.heartbeat and length is None
                if beats and not _CODED_BODY.search(b"\r\n" + block):
                    pieces: Any = Heartbeat(self, chunks, route)
                else:
                    pieces = chunks
                async for chunk in pieces:
                    # SECURITY: the rest would pass for the next answer.
                    if length is not None and len(chunk) > length - self.sent_bytes:
                        raise PixieError(f"the body is longer than {length} bytes")
                    for at in range(0, len(chunk), MAX_CHUNK_BYTES):
                        self.send_piece(chunk[at : at + MAX_CHUNK_BYTES])
                        await sink.drained()
                if length is not None and self.sent_bytes != length:
                    raise PixieError(f"{self.sent_bytes} of {length} bytes were sent")
                await _send_end(sink)
        except (Exception, asyncio.CancelledError) as error:
            self._note_outcome(error)
            if self.outcome == "failed" and not isinstance(error, AnswerLost):
                log_failure(request, error, midway=True)
            sink.cut_off()
            raise ClientDisconnected("the answer was cut off") from None
        finally:
            request.disconnect.remove(self._cancel)
            await chunks.aclose()

    async def _send_file(
        self, status: int, block: bytes, body: FileSlice, file: BinaryIO
    ) -> None:
        """Send part of a file, by the kernel where that can be."""
        sink, length = self.sink, body.length
        try:
            if sink.send_head(self.request, status, block, length) and length:
                if sink.can_sendfile:
                    pieces = sink.sendfile(file.fileno(), body.offset, length)
                    async for sent in pieces:
                        self.sent_bytes += sent
                else:
                    file.seek(body.offset)
                    await self._copy_file(file, length)
                await _send_end(sink)
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
            self.send_piece(data)
            await self.sink.drained()
