"""Handlers in main: on the loop, in threads, in tasks."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextvars import Context, copy_context
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Coroutine,
    Dict,
    List,
    Optional,
    Sequence,
    cast,
)

from ..about import log
from ..datastructures import T
from ..errors import AnswerLost, ClientDisconnected
from ..forks import end_copy
from ..requests import Request
from ..responses import Response, is_stream
from .base import (
    Executor,
    Gate,
    Outcome,
    Resources,
    Route,
    deadline_error,
    leave_gate,
)
from .streams import AsyncAnswer, Chunks, HandlerLeft

if TYPE_CHECKING:
    from queue import SimpleQueue


# sync: on the event loop --------------------------------------------------------------


class LoopStream(AsyncIterator[bytes]):
    """The stream of a `sync` route: each step runs on the loop, in its context."""

    def __init__(self, chunks: Chunks, context: Context) -> None:
        self._chunks = chunks
        self._context = context

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)  # the other connections' turn
        try:
            return self._context.run(next, self._chunks)
        except StopIteration:
            raise StopAsyncIteration from None
        finally:
            end_copy()

    async def aclose(self) -> None:
        """Close the generator."""
        self._context.run(self._chunks.close)


class LoopExecutor(Executor):
    """Runs `sync` routes, here and now, each request in a context of its own."""

    has_line = False

    def __init__(self, resources: Resources) -> None:
        self._answer = resources.answer

    def begin(self, route: Route, request: Request) -> Response:
        """Run a route; nothing can stop it."""
        context = copy_context()
        response = context.run(self._answer, route, request)
        end_copy()
        if is_stream(response.body):
            response.body = LoopStream(cast(Chunks, response.body), context)
        return response


# thread: in a thread of main ----------------------------------------------------------


def _expire(future: asyncio.Future[Any], route: Route) -> None:
    if not future.done():
        future.set_exception(deadline_error(route, route.timeout))


async def within_timeout(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], route: Route
) -> T:
    """Return what a thread or a Task makes, or fail with 504 when it is too late."""
    timer = None
    if route.timeout is not None:
        timer = loop.call_later(route.timeout, _expire, future, route)
    try:
        return await future
    finally:
        if timer is not None:
            timer.cancel()
        del future  # or its error, the traceback and this frame are a circle


class ThreadStream(AsyncIterator[bytes]):
    """The stream of a `thread` route: its thread makes a chunk when asked to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, route: Route) -> None:
        self._loop = loop
        self._route = route
        from queue import SimpleQueue

        self._asked: SimpleQueue[Optional[asyncio.Future[bytes]]] = SimpleQueue()

    def serve(self, chunks: Chunks) -> None:
        """Make chunks until the end, or until closed; runs in the thread."""
        try:
            for future in iter(self._asked.get, None):
                try:
                    settle_from_thread(self._loop, future, next(chunks), None)
                except BaseException as error:  # the loop's side logs it
                    if isinstance(error, StopIteration):
                        error = StopAsyncIteration()
                    settle_from_thread(self._loop, future, None, error)
                    del future
                    return
        finally:
            chunks.close()

    async def __anext__(self) -> bytes:
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._asked.put(future)
        try:
            return await within_timeout(self._loop, future, self._route)
        finally:
            del future

    async def aclose(self) -> None:
        """Have the thread close the generator, after the chunk it is at."""
        self.end()

    def end(self) -> None:
        """The same for who can't wait."""
        self._asked.put(None)


def call_from_thread(
    loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any
) -> None:
    """Have a loop call a function, unless it has closed: then nobody waits any more."""
    end_copy()
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        pass


def settle_from_thread(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Any],
    result: object,
    error: Optional[BaseException],
) -> None:
    """Settle a future of `loop` from another thread, unless the loop has closed."""

    def settle() -> None:
        if future.done():
            if isinstance(result, Response) and isinstance(result.body, ThreadStream):
                result.body.end()  # nobody will ask it for a chunk
            if error is not None and not isinstance(error, StopAsyncIteration):
                log.error("a thread failed after its request had ended", exc_info=error)
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    call_from_thread(loop, settle)


class ThreadExecutor(Executor):
    """Runs `thread` routes, in threads that are started on demand.

    Streams do not count: a thread that turns out to make a stream gives its place back,
    so that slow readers never starve the other routes.
    """

    def __init__(self, resources: Resources) -> None:
        lines = resources.max_waiting, resources.max_waiting_bytes
        self.gate = Gate(resources.threads, *lines)
        self._answer = resources.answer
        self._work: Optional[SimpleQueue[Optional[Callable[[], None]]]] = None
        self._alive = 0
        self._busy = 0

    async def begin(self, route: Route, request: Request) -> Response:
        """Run a route in a thread.

        A deadline answers 504 and lets the thread run on; its place stays taken until
        it has ended, and what it then returns is dropped.
        """
        try:
            await self.gate.enter(route, request)
        except BaseException:
            leave_gate(route)
            raise
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Response] = loop.create_future()
        if request.body_file is not None:
            request.body_file.hold(self)
        self._start(self._job(loop, ready, route, request))
        return await within_timeout(loop, ready, route)

    def _start(self, job: Callable[[], None]) -> None:
        self._busy += 1
        self._queue.put(job)
        if self._busy > self._alive:
            self._alive += 1
            threading.Thread(target=self._live, name="pixie_web", daemon=True).start()

    @property
    def _queue(self) -> SimpleQueue[Optional[Callable[[], None]]]:
        if self._work is None:
            from queue import SimpleQueue

            self._work = SimpleQueue()
        return self._work

    def _live(self) -> None:
        for job in iter(self._queue.get, None):
            job()

    def _job(
        self,
        loop: asyncio.AbstractEventLoop,
        ready: asyncio.Future[Response],
        route: Route,
        request: Request,
    ) -> Callable[[], None]:
        context = copy_context()

        def job() -> None:
            stream = None
            try:
                response = context.run(self._answer, route, request)
                if is_stream(response.body):
                    chunks = cast(Chunks, response.body)
                    stream = response.body = ThreadStream(loop, route)
                settle_from_thread(loop, ready, response, None)
            except BaseException as error:
                settle_from_thread(loop, ready, None, error)
            if stream is not None:
                call_from_thread(loop, self.gate.leave)
                context.run(stream.serve, chunks)
            call_from_thread(loop, self._ended, route, request, stream is None)

        return job

    def _ended(self, route: Route, request: Request, held_place: bool) -> None:
        self._busy -= 1
        leave_gate(route)
        if request.body_file is not None:
            request.body_file.release(self)
        if held_place:
            self.gate.leave()
        if self._alive > self.gate.limit and self._busy < self._alive:
            self._alive -= 1
            self._queue.put(None)

    def stats(self) -> Dict[str, Any]:
        """Return how many threads may be busy, how many are, and how many wait."""
        size, waiting = self.gate.limit, self.gate.waiting
        return {"threads": {"size": size, "busy": self._busy, "waiting": waiting}}

    async def stop(self, seconds: float) -> None:
        """Let the idle threads end; those at work end with the process."""
        for _ in range(self._alive):
            self._queue.put(None)


# asnc: in a Task on the loop ----------------------------------------------------------

QUICK_SECONDS = 0.0001  # a chunk that is made in less may be made ahead
MAX_AHEAD = 64  # chunks
MAX_AHEAD_BYTES = 16_384  # and so much of them, but for the last one


if sys.version_info >= (3, 12):

    def start_task(
        loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]
    ) -> asyncio.Task[T]:
        """Return a new Task, with a context of its own, for what a program wrote.

        PERF: what never waits is done at once, without a turn of the loop: 1.3 times
        the requests of a plain Task.
        """
        return asyncio.Task(coroutine, loop=loop, eager_start=True)

else:

    def start_task(
        loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]
    ) -> asyncio.Task[T]:
        """Return a new Task, with a context of its own, for what a program wrote."""
        return loop.create_task(coroutine)


class TaskRun(AsyncIterator[bytes]):
    """One request of an `asnc` route: the Task in which all of its handler runs.

    The Task has a context of its own, and a stream is pulled from inside it, so
    `asyncio.timeout`, task groups, anyio and ContextVars work across a `yield` too.
    When it is cancelled (deadline; client gone, with "stop") it gets CancelledError.
    """

    # PERF: defaults of the class, for what few requests ever set.
    response: Optional[Response] = None  # as soon as there is one
    _ready: Optional[asyncio.Future[Response]] = None
    _asked: Optional[asyncio.Future[bool]] = None  # the task waits for this
    _given: Optional[asyncio.Future[bytes]] = None  # the server waits for this
    _end: Optional[Exception] = None  # why no more chunks will come
    _closed = False
    _ahead: Sequence[bytes] = ()  # chunks that the server has not asked for yet
    _room = 0  # for so many bytes more
    _quick = 0  # how many chunks in a row took no time to speak of
    _loop: asyncio.AbstractEventLoop
    _task: asyncio.Task[None]
    _route: Route
    _request: Request

    def go_on(
        self,
        loop: asyncio.AbstractEventLoop,
        task: asyncio.Task[None],
        route: Route,
        request: Request,
    ) -> Outcome:
        """Return the response, or what to wait for, of what has begun in a Task."""
        self._loop, self._task, self._route, self._request = loop, task, route, request
        body_file = request.body_file
        if body_file is not None:
            body_file.hold(self)
            task.add_done_callback(lambda _: body_file.release(self))
        if route.gate is not None:
            task.add_done_callback(lambda _: leave_gate(route))
        if self.response is not None:
            if self.response.body is self:
                task.add_done_callback(self._ended)
            return self.response
        self._ready = loop.create_future()
        task.add_done_callback(self._ended)
        if route.timeout is None and route.on_disconnect != "stop":
            return self._ready  # PERF: nothing else ends it; 6 of 50 us
        return self._wait(self._ready)

    async def _wait(self, ready: asyncio.Future[Response]) -> Response:
        stops = self._route.on_disconnect == "stop" and self._request.disconnect
        if stops:
            stops.add(self._task.cancel)
        try:
            return await within_timeout(self._loop, ready, self._route)
        except AnswerLost:
            self._task.cancel()
            raise
        finally:
            if stops:
                stops.remove(self._task.cancel)

    async def main(self, answer: AsyncAnswer, route: Route, request: Request) -> None:
        """Run all of a request; of a stream, its first chunk makes the response."""
        response = await answer(route, request)
        end_copy()
        chunks = response.body
        if type(chunks) is not bytes and is_stream(chunks):
            response.body = self
        self.response = response
        if self._ready is not None:
            if self._ready.done():
                self._closed = True  # its deadline has passed: nobody takes it any more
            else:
                self._ready.set_result(response)
        if response.body is self:
            self._loop = asyncio.get_running_loop()
            await self._serve(cast(Chunks, chunks))

    def _ended(self, task: asyncio.Task[None]) -> None:
        try:
            task.result()
            return
        except Exception as error:
            end = error
        except BaseException as error:
            gone = self._request.disconnected
            end = ClientDisconnected("the client left") if gone else HandlerLeft(error)
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(end)
        self._stop(end)

    # The stream.

    async def _serve(self, chunks: Chunks) -> None:
        try:
            while True:
                try:
                    if not await self._next_asked():
                        return
                except asyncio.CancelledError as error:
                    # Cancelled at its `yield`, by an asyncio.timeout around it perhaps.
                    await chunks.throw(error)
                    continue
                began = time.monotonic()
                chunk = await chunks.__anext__()
                is_quick = time.monotonic() - began < QUICK_SECONDS
                self._quick = self._quick + 1 if is_quick else 0
                if self._given is not None and not self._given.done():
                    self._given.set_result(chunk)
                    self._ahead, self._room = [], MAX_AHEAD_BYTES
                else:
                    cast("List[bytes]", self._ahead).append(chunk)
                    self._room -= len(chunk)
        except Exception as error:  # the end, or what the server logs
            if self._closed and type(error) is not StopAsyncIteration:
                log.error("a stream failed while it was closed", exc_info=error)
            self._stop(error)
        finally:
            await chunks.aclose()

    async def _next_asked(self) -> bool:
        """Wait until a chunk is wanted; return False at the end.

        PERF: rows that take no time are made some ahead, and leave together: two turns
        of the loop for 64 of them, and 7.7 us of CPU for each have become 2.4. The
        first three are not, nor is what follows one that took its time: no chunk waits
        until a slow one is made.
        """
        is_asked = self._given is not None and not self._given.done()
        may_run = self._quick > 2 and len(self._ahead) < MAX_AHEAD and self._room > 0
        if not self._closed and not is_asked and not may_run:
            self._asked = self._loop.create_future()
            try:
                await self._asked
            finally:
                self._asked = None
        return not self._closed

    def _stop(self, end: Exception) -> None:
        """Note why no more chunks will come; the first reason counts."""
        if self._end is None:
            self._end = end
        if self._given is not None and not self._given.done():
            self._given.set_exception(self._end)

    async def __anext__(self) -> bytes:
        if self._ahead:
            ahead, self._ahead, self._room = self._ahead, [], MAX_AHEAD_BYTES
            self._wake()
            return b"".join(ahead)
        if self._end is not None:
            raise self._end
        self._given = self._loop.create_future()
        self._wake()
        return await within_timeout(self._loop, self._given, self._route)

    def _wake(self) -> bool:
        """Have the next chunk made; return False if the handler is not at a yield."""
        if self._asked is None:
            return False
        if not self._asked.done():
            self._asked.set_result(True)
        return True

    async def aclose(self) -> None:
        """End the stream: at its `yield` if it stands there, else by cancelling it."""
        self._closed = True
        if not self._task.done() and not self._wake():
            self._task.cancel()


class TaskExecutor(Executor):
    """Runs `asnc` routes, each request in a Task of its own."""

    kinds = default_for = ("async def", "async generator")
    can_stream_body = True

    def __init__(self, resources: Resources) -> None:
        self._answer = resources.answer_async

    def begin(self, route: Route, request: Request) -> Outcome:
        """Run a route up to its first wait; at its deadline it is cancelled."""
        run, loop = TaskRun(), asyncio.get_running_loop()
        task = start_task(loop, run.main(self._answer, route, request))
        response = run.response
        is_free = route.gate is None and request.body_file is None
        if response is not None and is_free and task.done():
            return response  # PERF: nothing of it goes on; 0.5 of 8.4 us
        return run.go_on(loop, task, route, request)
