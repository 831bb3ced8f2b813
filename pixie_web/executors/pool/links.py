"""Jobs, and main's end of each worker."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Deque, List, Optional, Tuple, cast

from ...about import log
from ...errors import AnswerLost, PixieError
from ...protocol.http11 import MAX_HEAD_BYTES, is_header_block
from ...requests import NEVER, Request, no_descriptor
from ...responses import AnyBody, FileSlice, Response, StaticFile
from ...text import dump_json, load_json
from ..base import Route, RouteType
from .frames import (
    _FRAME,
    _RESULT,
    ANSWER_TOKEN_BYTES,
    LOST_WARNING,
    RECEIVE_BYTES,
    Frame,
    FrameBuffer,
    encode_run,
)
from .zygote import SIGNAL, START, ZygoteLink, unnamed_file

if TYPE_CHECKING:
    from .pool import Pool

STREAM_BUFFER_BYTES = 256 * 1024  # held for a slow client before its worker is paused


class Job:
    """One request for the pool, from its arrival to its answer.

    Args:
        number: its own among all (int).
        future: takes the answer.
    """

    def __init__(
        self,
        number: int,
        route: Route,
        request: Request,
        future: asyncio.Future[Response],
    ) -> None:
        self.number = number
        self.route = route
        self.request = request
        # Written here, so that what can't travel (env.context) fails its own request.
        self.frame = encode_run(route, number, request)
        if request.body_file is not None:
            request.body_file.hold(self)
        self.arrived = time.monotonic()
        self.started = 0.0
        self.deadline = NEVER  # of what it is at: waiting, running, its next chunk
        self.future = future
        self.worker: Optional[Worker] = None
        self.stream: Optional[WorkerStream] = None
        # Which kind of slot it has.
        self.is_stream = route.placement is RouteType.stream

    def end(self) -> None:
        """Note that no worker has it, or will have it: its body is not needed."""
        if self.request.body_file is not None:
            self.request.body_file.release(self)

    def answer(self, response: Response) -> None:
        """Give the answer to whoever waits; nobody, if the client has gone."""
        self.deadline = NEVER
        if not self.future.done():
            self.future.set_result(response)

    def fail(self, error: Exception) -> None:
        """End with an error: of the request, or of the stream that is under way."""
        self.deadline = NEVER
        if self.stream is not None:
            self.stream.end(error)
        elif not self.future.done():
            self.future.set_exception(error)


class WorkerStream:
    """The chunks that a worker sends, for whoever sends them on.

    Not pulling is the backpressure: main stops reading from the worker, whose next send
    then blocks. The deadline between two chunks runs only while somebody waits.

    Attributes:
        inside_chunk: the last piece that was given is not the last one of its chunk.
    """

    def __init__(self, pool: Pool, worker: Worker, job: Job) -> None:
        self._pool = pool
        self._worker = worker
        self._job = job
        self.inside_chunk = False
        self._chunks: Deque[Tuple[bytes, bool]] = deque()
        self._held_bytes = 0
        self._waiter: Optional[asyncio.Future[None]] = None
        self._ended = False
        self._error: Optional[Exception] = None
        self._discarding = False
        self._paused = False

    def put(self, chunk: bytes, has_more: bool) -> None:
        """Take a chunk from the worker, or a piece of one."""
        if self._discarding:
            return
        self._chunks.append((chunk, has_more))
        self._held_bytes += len(chunk)
        self._wake()
        if self._held_bytes > STREAM_BUFFER_BYTES and not self._paused:
            self._paused = True
            self._worker.pause()

    def end(self, error: Optional[Exception] = None) -> None:
        """Note that no more will come: an orderly end, or an error."""
        if not self._ended:
            self._ended, self._error = True, error
            self._wake()
            self._resume()  # its next job must be heard, however slow this client is

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._worker.resume()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> WorkerStream:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            await self._wait()
        chunk, self.inside_chunk = self._chunks.popleft()
        self._held_bytes -= len(chunk)
        if self._held_bytes <= STREAM_BUFFER_BYTES // 2:
            self._resume()
        return chunk

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._pool.watch(self._job)
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._job.deadline = NEVER

    async def aclose(self) -> None:
        """Stop the worker's generator at its next `yield`, or at once with "kill".

        What it still sends is read and dropped: it may be blocked in a send, and would
        not see the Frame.CANCEL otherwise.
        """
        if self._ended or self._discarding:
            return
        self._discarding = True
        self._chunks.clear()
        if self._job.route.on_disconnect == "kill":
            self._pool.retire(self._worker, hard=True)
            return
        self._worker.send(Frame.CANCEL, self._job)
        self._resume()
        self._pool.watch(self._job)


def open_worker_files() -> List[int]:
    """Return descriptors: main's ends of two pipes, the worker's, its trace.

    Raises:
        OSError: there are too many; none is left open.
    """
    opened: List[int] = []
    try:
        opened += os.pipe()
        opened += os.pipe()
        opened.append(unnamed_file())
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    from_worker, its_outgoing, its_incoming, to_worker, trace = opened
    for descriptor in (from_worker, to_worker):
        os.set_blocking(descriptor, False)
    return [from_worker, to_worker, its_incoming, its_outgoing, trace]


class Worker:
    """Main's view of one worker process: its state, its pipes, its job."""

    # PERF: pipes that the loop only watches, in place of a socket with a transport: 3
    # of 55 us in main. Each way has its own, since the reader of a socket is woken for
    # nothing whenever the other side reads, too.

    def __init__(self, pool: Pool, number: int, zygote: ZygoteLink) -> None:
        self.pool = pool
        self.number = number
        self.zygote = zygote
        files = open_worker_files()
        self._incoming, self._outgoing = files[:2]
        self.its_files = files[2:]  # for the zygote to hand on
        self.trace = files[-1]  # where it writes what it was at when it is killed
        self.pid = 0
        self.forked_threads = (
            1  # that ran in its zygote; what more than one held, hangs
        )
        self.state = "starting"
        self.job: Optional[Job] = None
        self.slot_is_stream: Optional[bool] = None  # which kind of slot it takes up
        self.tasks = 0
        self.born = self.idle_since = time.monotonic()
        # How much of its bounds it may use up: workers that started together must not
        # end together. Multiples of the golden ratio lie apart.
        self.share = 0.9 + 0.1 * (number * 0.618034 % 1)
        self.last_job = False  # its replacement is there: it ends after this one
        self.booted = False
        self.crashed = False  # it ended without being asked to
        self.late = False  # the deadline of its job has passed
        self.hung = False  # it did not end when it was asked to
        self.ended = False  # the process is gone; what it sent may still be unread
        self.timer: Optional[asyncio.TimerHandle] = None
        self._frames = FrameBuffer()
        self._unsent = bytearray()  # what its pipe has no room for

    def open(self) -> None:
        """Have it started, and send what it boots with."""
        try:
            self.zygote.order(START, self.number, descriptors=self.its_files)
        finally:
            for descriptor in self.its_files[:2]:
                os.close(descriptor)
        self.pool.loop.add_reader(self._incoming, self._readable)
        setup = {**(self.zygote.origin or {}), "number": self.number}
        setup.update(self.pool.options._asdict(), pool=self.pool.name)
        setup["log_level"] = log.getEffectiveLevel()
        data = dump_json(setup)
        self._write(_FRAME.pack(len(data), Frame.BOOT, 0, 0, 0) + data)

    def close(self) -> None:
        """Close its pipes, which it takes as the order to end; once."""
        if self._incoming < 0:
            return
        self.pool.loop.remove_reader(self._incoming)
        self.pool.loop.remove_writer(self._outgoing)
        os.close(self._incoming)
        os.close(self._outgoing)
        self._incoming = self._outgoing = -1

    def _readable(self) -> None:
        try:
            data = os.read(self._incoming, RECEIVE_BYTES)
        except BlockingIOError:
            return
        if data:
            self.take(data)
        else:
            self.pool.lost(self)  # it has died, or closed its pipe

    def take(self, data: bytes) -> None:
        """Take frames; a worker that sends what can't be is retired."""
        try:
            for header, payload in self._frames.feed(data):
                if self.state == "dying":
                    return
                self._take(header, payload)
        except (PixieError, TypeError, ValueError, struct.error) as error:
            log.error("worker %d sent no proper frame: %s", self.number, error)
            self.pool.lost(self)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH):
                log.error("an answer's file can't be opened: %s", error)
            self.pool.lost(self)  # else it was killed before we could open it

    def take_rest(self) -> None:
        """Take what the process sent before it ended: its end may be known sooner."""
        self.ended = True
        try:
            while self.state != "dying":
                data = os.read(self._incoming, RECEIVE_BYTES)
                if not data:
                    return
                self.take(data)
        except OSError:
            pass  # nothing is left: something it started has the pipe open

    def order(self, value: int) -> None:
        """Have the worker signalled."""
        self.zygote.order(SIGNAL, self.number, value)

    def take_trace(self) -> str:
        """Return what the worker wrote when it was killed, and close the file."""
        text = os.pread(self.trace, 65_536, 0).decode("utf-8", "replace").rstrip()
        os.close(self.trace)
        return f"; it was at:\n{text}" if text else ""

    def send(self, kind: int, job: Job) -> None:
        """Send a frame without payload that is about a job."""
        self._write(_FRAME.pack(0, kind, 0, job.route.index, job.number))

    def _write(self, data: bytes) -> None:
        if self.state == "dying":
            return
        if not self._unsent:
            try:
                data = data[os.write(self._outgoing, data) :]
            except BlockingIOError:
                pass
            except OSError:
                return  # it has died: reading says so
            if not data:
                return
            self.pool.loop.add_writer(self._outgoing, self._write_rest)
        self._unsent += data

    def _write_rest(self) -> None:
        try:
            del self._unsent[: os.write(self._outgoing, self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        if not self._unsent:
            self.pool.loop.remove_writer(self._outgoing)

    def pause(self) -> None:
        """Stop reading, so that the worker's next send blocks."""
        if self.state != "dying":
            self.pool.loop.remove_reader(self._incoming)

    def resume(self) -> None:
        """Read on."""
        if self.state != "dying":
            self.pool.loop.add_reader(self._incoming, self._readable)

    def start(self, job: Job) -> None:
        """Send a job to the worker."""
        self.state = "busy"
        self.job = job
        self.tasks += 1
        job.worker = self
        head, body = job.frame
        if len(body) <= MAX_HEAD_BYTES:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)

    def _take(self, header: Tuple[int, ...], payload: bytes) -> None:
        _, kind, flags, _, number = header
        if kind == Frame.LOG:
            log.log(flags, "%s", payload.decode("utf-8", "replace"))
            return
        if kind == Frame.READY and self.state == "starting":
            self.pool.ready(self, payload)
            return
        job = self.job
        if job is None or number != job.number:
            raise PixieError(f"frame {kind} for a request that it does not have")
        if kind == Frame.LOST:
            if not job.route.was_warned_of:
                job.route.was_warned_of = True
                names = payload.decode("utf-8", "replace")
                log.warning(LOST_WARNING, job.route.path, names)
            return
        if kind in (Frame.RESPONSE, Frame.FILE, Frame.HEAD) and job.stream is None:
            self._take_result(job, kind, flags, payload)
            if kind != Frame.HEAD:
                self.pool.release(self, bool(flags & Frame.RETIRE))
        elif kind == Frame.DATA and job.stream is not None:
            job.stream.put(payload, bool(flags & Frame.MORE))
        elif kind == Frame.END and job.stream is not None:
            broken = AnswerLost(500) if flags & Frame.BROKEN else None
            job.stream.end(broken)
            self.pool.release(self, bool(flags & Frame.RETIRE))
        else:
            raise PixieError(f"frame {kind} out of turn")

    def _take_result(self, job: Job, kind: int, flags: int, payload: bytes) -> None:
        status, size, block_size = _RESULT.unpack_from(payload)
        at = _RESULT.size + block_size
        block = payload[_RESULT.size : at]
        # SECURITY: a worker runs code we do not know; what it sends is checked before
        # it is put on the wire.
        if not 200 <= status <= 999 or not is_header_block(block):
            raise PixieError("a malformed response")
        body: AnyBody
        if kind == Frame.FILE and flags & Frame.SPOOLED:
            try:
                body = self._open_answer(job, payload[at:], size)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                self.send(Frame.CANCEL, job)  # the worker is not to blame, and goes on
                job.fail(no_descriptor(job.request, error))
                return
        elif kind == Frame.FILE:
            options, _, path = payload[at:].partition(b"\0")
            body = StaticFile(os.fsdecode(path), *cast(List[Any], load_json(options)))
        elif kind == Frame.HEAD:
            body = job.stream = WorkerStream(self.pool, self, job)
        else:
            body = payload[at:]
        response = Response.from_block(status, block, body)
        if kind == Frame.HEAD:
            response.stream_bytes = size if size >= 0 else None
            self.pool.streams(job)
        job.answer(response)

    def _open_answer(self, job: Job, name: bytes, size: int) -> FileSlice:
        """Open the file that the worker has put a large answer into, and tell it so."""
        if job.future.done():
            return FileSlice("", 0, 0)  # nobody waits for it
        token, path = name[:ANSWER_TOKEN_BYTES], name[ANSWER_TOKEN_BYTES:]
        # SECURITY: should it name a pipe, main must not wait for what is written there.
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        job.request.after_response(partial(os.close, opened))
        if os.pread(opened, ANSWER_TOKEN_BYTES, size) != token:
            raise PixieError("a large answer is not in the file that it is said to be")
        self.send(Frame.CANCEL, job)
        return FileSlice("", 0, size, descriptor=opened)


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds, shared pages too (Linux; else 0)."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
