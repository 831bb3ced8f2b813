"""Jobs, and main's end of each worker."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import struct
import time
from collections import deque
from enum import Enum
from typing import (
    Any,
    AsyncIterator,
    Callable,
    ClassVar,
    Deque,
    List,
    Mapping,
    Optional,
    Protocol,
    Set,
    Tuple,
    Union,
    cast,
)

from ...about import log
from ...errors import AnswerLost, HTTPError, PixieError, no_descriptor
from ...forms import BodyFile
from ...protocol.http11 import MAX_HEAD_BYTES
from ...requests import NEVER, Request
from ...responses import FileSlice, Response, StaticFile
from ...text import dump_json, load_json
from ..base import Route
from .frames import (
    ANSWER_TOKEN_BYTES,
    FRAME,
    LOST_WARNING,
    RECEIVE_BYTES,
    Flag,
    FrameBuffer,
    FrameType,
    PoolOptions,
    read_result,
)
from .traces import Trace
from .zygote import SIGNAL, START, ZygoteLink, unnamed_file

STREAM_BUFFER_BYTES = 256 * 1024  # held for a slow client before its worker is paused
STOP_SECONDS = 5.0  # for a worker that ends in good order: on_worker_stop
BOOT_SECONDS = 60.0  # a worker that is not ready by then is replaced
# Pieces this small that follow each other this fast gather in the pipe for as long:
# main is woken once for all of them, and not for each.
GATHERED_PIECE_BYTES = 512
GATHER_SECONDS = 0.001

Result = Union[Response, Exception]


class Retirement(Enum):
    """Why a worker is retired."""

    replaced = "replaced"  # or not needed: it ends by itself
    late = "late"  # the deadline of its job has passed
    unwanted = "unwanted"  # the client of its job has left
    killed = "killed"
    lost = "lost"  # it has ended by itself, or sent what can't be
    orphaned = "orphaned"  # its zygote has died


# RequestTimeout is raised in its handler; it is killed at once; else it ends by itself.
INTERRUPTED = {Retirement.late, Retirement.unwanted}
KILLED = {Retirement.killed, Retirement.lost, Retirement.orphaned}


class Job:
    """Work for one worker, from its arrival to its result; a client may wait for that.

    It is a frame, what it costs, a deadline, and a callback.

    Args:
        number: its own among all that run (int).
        frame: what the worker is sent: the head of the frame, and the body.
        take: is called once, with the response or the error. Whoever takes a response
            whose body is a FileSlice closes its descriptor.
        body_file: which the frame names.

    Attributes:
        take: None: nobody waits for the result any more.
        timeout: seconds that it may run; None: without a bound.
    """

    def __init__(
        self,
        number: int,
        route: Route,
        frame: Tuple[bytes, bytes],
        take: Callable[[Result], None],
        body_file: Optional[BodyFile] = None,
    ) -> None:
        self.number = number
        self.route = route
        self.timeout = route.timeout
        self.frame = frame
        self.take: Optional[Callable[[Result], None]] = take
        self._body_file = body_file
        if body_file is not None:
            body_file.hold(self)
        self.size = sum(map(len, frame))  # bytes
        self.cost: Optional[float] = None  # what its route was charged when it started
        self.arrived = time.monotonic()
        self.started = 0.0
        self.deadline = NEVER  # of what it is at: waiting, running, its next chunk
        self.worker: Optional[WorkerLink] = None
        self.stream: Optional[WorkerStream] = None
        # Which kind of slot it has.
        self.is_stream = route.kind == "generator"

    def end(self) -> None:
        """Note that no worker has it, or will have it: its body is not needed."""
        if self._body_file is not None:
            self._body_file.release(self)

    def settle(self, result: Result) -> None:
        """Give the result to the waiting code, unless the client has left."""
        self.deadline = NEVER
        take, self.take = self.take, None
        if take is not None:
            take(result)

    def fail(self, error: Exception) -> None:
        """End with an error: of the request, or of the stream that is under way."""
        if self.stream is not None:
            self.deadline = NEVER
            self.stream.end(error)
        else:
            self.settle(error)

    def died(self, cause: str) -> None:
        """Note how the process ended that had it: "SIGKILL", "exit code 3"."""


class WorkerStream(AsyncIterator[bytes]):
    """The chunks that a worker sends, for the code that sends them on.

    Not pulling is the backpressure: main stops reading from the worker, whose next send
    then blocks. The deadline between two chunks runs only while somebody waits.

    Attributes:
        inside_chunk: the last piece that was given is not the last one of its chunk.
    """

    def __init__(self, worker: WorkerLink, job: Job) -> None:
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
        self._last_read = 0.0  # from its worker

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

    def gather(self, piece_bytes: int) -> None:
        """Leave small pieces in the pipe for a moment, where one follows another.

        The first one has been sent on by then, and so is each that comes alone. Larger
        ones would fill the pipe, and their worker would have to wait.

        Args:
            piece_bytes: of the last one that has been read, just now.
        """
        # PERF: a generator that yields rows costs main 0.8 us for each in place of 8.7.
        now, before = time.monotonic(), self._last_read
        self._last_read = now
        is_small = piece_bytes <= GATHERED_PIECE_BYTES
        if is_small and now - before < GATHER_SECONDS and not self._paused:
            self._worker.pause()
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._gathered)

    def _gathered(self) -> None:
        self._last_read = time.monotonic()
        if not self._paused:
            self._worker.resume()

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

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._error is not None:
                try:
                    raise self._error
                finally:
                    self._error = None  # no circle with its traceback
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
        self._worker.owner.watch(self._job)
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._job.deadline = NEVER

    async def aclose(self) -> None:
        """Stop the worker's generator at its next `yield`, or at once with "kill".

        What it still sends is read and dropped: it may be blocked in a send, and would
        not see the CANCEL otherwise.
        """
        if self._ended or self._discarding:
            return
        self._discarding = True
        self._chunks.clear()
        if self._job.route.on_disconnect == "kill":
            self._worker.retire(Retirement.killed)
            return
        self._worker.send(FrameType.CANCEL, self._job)
        self._resume()
        self._worker.owner.watch(self._job)


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


def open_answer(route: Route, name: bytes, size: int) -> Union[FileSlice, HTTPError]:
    """Return the file that a worker has put a large answer into.

    Where main has no descriptor left it is a 503: the worker is not to blame.

    Args:
        name: the token that stands behind the answer, and the path of the file.

    Raises:
        PixieError: it is another file.
        OSError: it is not there: the worker has died.
    """
    token, path = name[:ANSWER_TOKEN_BYTES], name[ANSWER_TOKEN_BYTES:]
    try:
        # SECURITY: should it name a pipe, main must not wait for what is written there.
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return no_descriptor(route.path, error)
    try:
        if os.pread(opened, ANSWER_TOKEN_BYTES, size) != token:
            raise PixieError("the file of a large answer is another one than announced")
    except BaseException:
        os.close(opened)
        raise
    return FileSlice("", 0, size, descriptor=opened)


class Owner(Protocol):
    """The owner of a worker, which is told its events and those of its job."""

    name: str
    options: PoolOptions

    def ready(self, worker: WorkerLink, table: bytes) -> None:
        """Take a worker that has booted, with the routes that it has found."""

    def release(self, worker: WorkerLink, job: Job, is_last: bool) -> None:
        """Take back a worker whose job is done, and who may be able to do no more."""

    def take_order(self, payload: bytes) -> None:
        """Start the job that a worker has ordered."""

    def retired(self, worker: WorkerLink) -> None:
        """Give a worker no job from now on."""

    def became_stream(self, job: Job) -> None:
        """Note that the result of a job is a stream."""

    def watch(self, job: Job) -> None:
        """Start the deadline of a job: of all of it, or of a stream's next chunk."""


_JOB_ORDER = int(FrameType.ORDER)  # PERF: each name of an Enum costs 0.1 us


Taker = Callable[["WorkerLink", Job, int, bytes], None]


def take_lost_names(_: object, job: Job, flags: int, payload: bytes) -> None:
    """Warn, once for each route, of globals that its handler has changed in vain."""
    if not job.route.was_warned_of:
        job.route.was_warned_of = True
        log.warning(LOST_WARNING, job.route.path, payload.decode("utf-8", "replace"))


def take_data(_: object, job: Job, flags: int, payload: bytes) -> None:
    """Take a chunk of a stream."""
    assert job.stream is not None
    job.stream.put(payload, bool(flags & Flag.MORE))


class WorkerLink:
    """Main's end of one worker process: its state, its pipes, its job.

    The states follow each other as `executors` draws them, and nobody else sets them:
    `accept` and `rest` make it idle, `begin` busy, and `retire` dying, from any state.

    Attributes:
        state: "starting", "idle", "busy" or "dying".
        slot_is_stream: which kind of slot it takes up; None: none.
        served: the routes of which it has done a job.
        share: how much of its bounds it may use up.
        last_job: its replacement is there: it ends after this one.
        booted: it has been ready.
        why: it was retired.
        hung: it did not end when it was asked to.
        ended: the process is gone; what it sent may still be unread.
    """

    # PERF: pipes that the loop only watches, in place of a socket with a transport: 3
    # of 55 us in main. Each way has its own, since the reader of a socket is woken for
    # nothing whenever the other side reads, too.

    def __init__(self, owner: Owner, number: int, zygote: ZygoteLink) -> None:
        self.owner = owner
        self.number = number
        self.zygote = zygote
        self._loop = asyncio.get_running_loop()
        files = open_worker_files()
        self._incoming, self._outgoing = files[:2]
        self.its_files = files[2:]  # for the zygote to hand on
        self.trace = Trace(files[-1])
        self.pid = self.tasks = 0
        self.forked_threads = 1  # in its zygote; what more than one held, hangs
        self.state = "starting"
        self.job: Optional[Job] = None
        self.slot_is_stream: Optional[bool] = None
        self.served: Set[Route] = set()
        self.born = self.idle_since = time.monotonic()
        # Workers that started together must not end together. Multiples of the golden
        # ratio lie apart.
        self.share = 0.9 + 0.1 * (number * 0.618034 % 1)
        self.why: Optional[Retirement] = None
        self.last_job = self.booted = self.hung = self.ended = False
        self._timer: Optional[asyncio.TimerHandle] = None
        self._frames = FrameBuffer()
        self._unsent = bytearray()  # what its pipe has no room for

    # Its life.

    def open(self) -> None:
        """Have it started, and send what it boots with."""
        self._timer = self._loop.call_later(BOOT_SECONDS, self._boot_late)
        try:
            self.zygote.order(START, self.number, descriptors=self.its_files)
        finally:
            for descriptor in self.its_files[:2]:
                os.close(descriptor)
        self._loop.add_reader(self._incoming, self._readable)
        setup = dict(self.owner.options._asdict(), origin=self.zygote.origin)
        setup.update(number=self.number, pool=self.owner.name, run=Request.run)
        setup["log_level"] = log.getEffectiveLevel()
        data = dump_json(setup)
        self._write(FRAME.pack(len(data), FrameType.BOOT, 0, 0, 0) + data)

    def _boot_late(self) -> None:
        log.error("worker %d was not ready within %g s", self.number, BOOT_SECONDS)
        self.retire(Retirement.killed)

    def started(self, pid: int, forked_threads: int) -> None:
        """Note which process it is, forked among so many threads."""
        self.pid = pid
        self.forked_threads = forked_threads

    def accept(self) -> None:
        """Note that it has booted, and runs the right program."""
        self.booted = self.zygote.proven = True
        self._stop_timer()

    def rest(self) -> None:
        """Wait for a job."""
        self.state = "idle"
        self.idle_since = time.monotonic()

    def begin(self, job: Job) -> None:
        """Take a job, in the slot that this has."""
        self.state = "busy"
        self.job = job
        self.slot_is_stream = job.is_stream
        self.tasks += 1
        job.worker = self
        head, body = job.frame
        if len(body) <= MAX_HEAD_BYTES:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)

    def finish(self, is_last: bool) -> None:
        """Give back its job, which is done; `is_last`: it will take no more."""
        job, self.job = self.job, None
        assert job is not None
        job.end()
        self.owner.release(self, job, is_last or self.last_job)

    def leave_slot(self) -> Optional[bool]:
        """Return which kind of slot it took up, and does no more; None: none."""
        kind, self.slot_is_stream = self.slot_is_stream, None
        return kind

    def end_after_job(self) -> None:
        """Have it end as soon as its job is done."""
        self.last_job = True

    def retire(self, why: Retirement) -> None:
        """End it; its pipes are never used again, its slot is free when it is gone.

        Whatever it is told, it is killed after a grace.
        """
        if self.state == "dying":
            if self.why is Retirement.lost and why is Retirement.orphaned:
                self.why = why  # by no fault of what it ran
            return
        self.pause()
        self.state, self.why, grace = "dying", why, STOP_SECONDS
        if why in INTERRUPTED:
            self._read_on(dying=True)
            grace = self.owner.options.timeout_grace_seconds
        # What is killed must not see its pipes end first, and clean up by half.
        if why not in KILLED:
            self._close()
        self.owner.retired(self)
        self._stop_timer()
        if why in KILLED:
            self.order(signal.SIGKILL)
        elif why in INTERRUPTED:
            self.order(signal.SIGUSR2)
        self._timer = self._loop.call_later(grace, self._grace_over)

    def _grace_over(self) -> None:
        self.hung = True
        self.trace.ask_and_kill(self.order)

    def lose(self, why: Retirement = Retirement.lost) -> None:
        """Note that it will not answer; its job has failed."""
        was_dying = self.state == "dying"
        self.retire(why)
        if self.job is not None and not was_dying:
            self.job.fail(AnswerLost(502, "The worker that ran this request died."))

    def gone(self) -> Optional[Job]:
        """Note that the process has ended; return the job that it had."""
        self.ended = True
        self._read_on(dying=False)  # its end may be known sooner
        self.lose()
        self._stop_timer()
        self.trace.stop_waiting()
        self._read_on(dying=True)
        self._close()
        job, self.job = self.job, None
        if job is not None:
            job.end()
        return job

    def order(self, value: int) -> None:
        """Have it signalled."""
        self.zygote.order(SIGNAL, self.number, value)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # Its pipes.

    @property
    def descriptors(self) -> Set[int]:
        """Main's ends of its pipes, those that are open."""
        return {self._incoming, self._outgoing} - {-1}

    def _close(self) -> None:
        """Close them, which it takes as the order to end; once."""
        if self._incoming < 0:
            return
        self._loop.remove_reader(self._incoming)
        self._loop.remove_writer(self._outgoing)
        os.close(self._incoming)
        os.close(self._outgoing)
        self._incoming = self._outgoing = -1

    def pause(self) -> None:
        """Stop reading, so that the worker's next send blocks."""
        if self.state != "dying":
            self._loop.remove_reader(self._incoming)

    def resume(self) -> None:
        """Read on."""
        if self.state != "dying":
            self._loop.add_reader(self._incoming, self._readable)

    def send(self, kind: int, job: Job) -> None:
        """Send a frame without payload that is about a job."""
        self._write(FRAME.pack(0, kind, 0, job.route.index, job.number))

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
            self._loop.add_writer(self._outgoing, self._write_rest)
        self._unsent += data

    def _write_rest(self) -> None:
        try:
            del self._unsent[: os.write(self._outgoing, self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        if not self._unsent:
            self._loop.remove_writer(self._outgoing)

    def _readable(self) -> None:
        try:
            data = os.read(self._incoming, RECEIVE_BYTES)
        except BlockingIOError:
            return
        if data:
            self.feed(data)
        else:
            self.lose()  # it has died, or closed its pipe
        if self.job is not None and self.job.stream is not None:
            self.job.stream.gather(self._frames.last_bytes)

    def _read_on(self, dying: bool) -> None:
        """Take what the process has sent, as long as it is dying, or as it is not.

        Of a dying one jobs are taken, since it was told that they will run.
        """
        try:
            while (self.state == "dying") is dying:
                data = os.read(self._incoming, RECEIVE_BYTES)
                if not data:
                    return
                self.feed(data)
        except OSError:
            pass  # nothing is left: something it started has the pipe open

    # Its frames.

    def feed(self, data: bytes) -> None:
        """Take frames; a worker that sends what can't be is retired."""
        try:
            for header, payload in self._frames.feed(data):
                if header[1] == _JOB_ORDER:
                    self.owner.take_order(payload)
                elif self.state != "dying":
                    self._take(header, payload)
        except (PixieError, TypeError, ValueError, struct.error) as error:
            log.error("worker %d sent a malformed frame: %s", self.number, error)
            self.lose()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH):
                log.error("can't open the file of an answer: %s", error)
            self.lose()  # else it was killed before we could open it

    def _take(self, header: Tuple[int, ...], payload: bytes) -> None:
        _, kind, flags, _, number = header
        job = self.job
        is_of_job = job is not None and number == job.number
        if job is not None and is_of_job:
            # PERF: looked up, as each name of an Enum costs 0.1 us.
            table = self._OF_RESULTS if job.stream is None else self._OF_STREAMS
            take = table.get(kind)
            if take is not None:
                take(self, job, flags, payload)
                return
        if kind == FrameType.LOG:
            log.log(flags, "%s", payload.decode("utf-8", "replace"))
        elif kind == FrameType.READY and self.state == "starting":
            self.owner.ready(self, payload)
        else:
            why = "out of turn" if is_of_job else "for a request that it does not have"
            raise PixieError(f"frame {kind} {why}")

    def _take_response(self, job: Job, flags: int, payload: bytes) -> None:
        status, _, block, body = read_result(payload)
        job.settle(Response.from_block(status, block, body))
        self.finish(bool(flags & Flag.RETIRE))

    def _take_file(self, job: Job, flags: int, payload: bytes) -> None:
        status, size, block, rest = read_result(payload)
        body: Union[FileSlice, StaticFile, HTTPError] = FileSlice("", 0, 0)
        if flags & Flag.SPOOLED and job.take is not None:  # else nobody waits for it
            body = open_answer(job.route, rest, size)
            self.send(FrameType.CANCEL, job)  # it may close it now
        elif not flags & Flag.SPOOLED:
            options, _, path = rest.partition(b"\0")
            body = StaticFile(os.fsdecode(path), *cast(List[Any], load_json(options)))
        if isinstance(body, HTTPError):
            job.settle(body)
        else:
            job.settle(Response.from_block(status, block, body))
        self.finish(bool(flags & Flag.RETIRE))

    def _take_head(self, job: Job, flags: int, payload: bytes) -> None:
        status, size, block, _ = read_result(payload)
        job.stream = WorkerStream(self, job)
        response = Response.from_block(status, block, job.stream)
        response.stream_bytes = size if size >= 0 else None
        if not job.is_stream:
            job.is_stream = self.slot_is_stream = True
            self.owner.became_stream(job)
        job.settle(response)

    def _take_end(self, job: Job, flags: int, payload: bytes) -> None:
        assert job.stream is not None
        job.stream.end(AnswerLost(500) if flags & Flag.BROKEN else None)
        self.finish(bool(flags & Flag.RETIRE))
        job.stream = None  # they are no circle any more

    _OF_RESULTS: ClassVar[Mapping[int, Taker]] = {
        FrameType.RESPONSE: _take_response,
        FrameType.FILE: _take_file,
        FrameType.HEAD: _take_head,
        FrameType.LOST: take_lost_names,
    }
    _OF_STREAMS: ClassVar[Mapping[int, Taker]] = {
        FrameType.DATA: take_data,
        FrameType.END: _take_end,
        FrameType.LOST: take_lost_names,
    }
