"""The loop guard: it names handlers that hold the event loop.

While a handler holds the loop, no other client is served. The loop gives a sign of
life fifty times a second. If none comes for 100 ms, a thread looks at the stack of
the loop's thread; this costs a request nothing. A call that holds the interpreter's
lock (a long regular expression) holds this thread too. It wakes at the end of that
call, and looks at once, while the loop is still at the same place.
"""

from __future__ import annotations

import asyncio
import linecache
import sys
import threading
import time
import types
from collections import Counter
from typing import (
    Any,
    Awaitable,
    Dict,
    Generator,
    List,
    NamedTuple,
    Optional,
    Set,
    Tuple,
)

from .about import log
from .datastructures import T
from .errors import PixieError, is_own_code
from .executors.base import Route, RouteType
from .executors.streams import Answer, AsyncAnswer, Chunks
from .handling import failure, seal
from .requests import Request
from .responses import Response

HELD_SECONDS = 0.1
BEAT_SECONDS = 0.02  # from one sign of life, or look at the stack, to the next
MAX_TOLD = 1_000  # places


class LoopHeld(PixieError):
    """A handler has held the event loop: raised with `loop_guard="strict"`."""


class Place(NamedTuple):
    """Where the loop's thread was, in the program's own code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        code = linecache.getline(self.file, self.line).strip()
        return f"{self.file}:{self.line}, in {self.function}: {code}"


class Seen(NamedTuple):
    """One look at the stack; what it can't tell is None."""

    place: Optional[Place]
    route: Optional[Route]
    request: Optional[Request]


def look_at(frame: Optional[types.FrameType]) -> Seen:
    """Return which place of the program a stack is at, and at whose request."""
    place: Optional[Place] = None
    route: Optional[Route] = None
    request: Optional[Request] = None
    while frame is not None and route is None:
        code = frame.f_code
        if not is_own_code(code.co_filename):
            is_library = "site-packages" in code.co_filename or is_standard(frame)
            if place is None and not is_library:
                place = Place(code.co_filename, frame.f_lineno, code.co_name)
        else:
            found = frame.f_locals
            if isinstance(found.get("route"), Route):
                route, request = found["route"], found.get("request")
        frame = frame.f_back
    return Seen(place, route, request)


def is_standard(frame: types.FrameType) -> bool:
    """Return whether a frame is of Python's own library."""
    return frame.f_code.co_filename.startswith((_STANDARD, "<frozen"))


_STANDARD = threading.__file__.rpartition("threading")[0]


class Clock:
    """The CPU time of a thread, and its time of waiting for a CPU (Linux)."""

    def __init__(self, thread: threading.Thread) -> None:
        ident = thread.ident or 0
        try:
            self._clock: Optional[int] = time.pthread_getcpuclockid(ident)
        except (AttributeError, OSError):
            self._clock = None
        self._path = f"/proc/self/task/{thread.native_id}/schedstat"

    def read(self) -> Tuple[float, float]:
        """Return both."""
        return self.cpu_seconds(), self.delay_seconds()

    def cpu_seconds(self) -> float:
        """Return how long it has run."""
        return 0.0 if self._clock is None else time.clock_gettime(self._clock)

    def delay_seconds(self) -> float:
        """Return for how long it could have run, but others did."""
        try:
            with open(self._path) as file:
                return int(file.read().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0


def advice(route: Route, computes: bool) -> str:
    """Return where such a handler belongs."""
    if computes:
        return "it computes: write RouteType.pool, with a plain def"
    if route.placement is RouteType.asnc:
        return "it waits: await it, or write RouteType.thread with a plain def"
    return "it waits: write RouteType.thread"


class LoopGuard:
    """Watches the loop that runs in the thread where it is started.

    Args:
        held_seconds: what is too long.
    """

    def __init__(self, held_seconds: float = HELD_SECONDS) -> None:
        self.held_seconds = held_seconds
        self.places: Dict[int, Place] = {}  # by the id of the request at hand
        self._stopped = threading.Event()
        self._told: Set[object] = set()
        self._loop: asyncio.AbstractEventLoop
        self._watched: threading.Thread

    def start(self) -> None:
        """Begin; the loop runs, in this thread."""
        self._loop = asyncio.get_running_loop()
        self._watched = threading.current_thread()
        self._clock = Clock(self._watched)
        self._beat()
        threading.Thread(target=self._watch, name="pixie_guard", daemon=True).start()

    def stop(self) -> None:
        """End."""
        self._stopped.set()

    def _beat(self) -> None:
        self._last_beat = time.monotonic()
        if not self._stopped.is_set():
            self._loop.call_later(BEAT_SECONDS, self._beat)

    def _watch(self) -> None:
        """Look whether the loop goes on; where it does not, at its stack."""
        looks: List[Seen] = []
        beat = 0.0  # the one before the loop was held
        ran, delayed = before = self._clock.read()
        while not self._stopped.wait(BEAT_SECONDS):
            now, last = time.monotonic(), self._last_beat
            if looks and last != beat:  # it has gone on; it may be held anew
                # What others had of the CPU meanwhile is no fault of the handler's.
                seconds = last - beat - BEAT_SECONDS - (delayed - before[1])
                if seconds > self.held_seconds:
                    self._note(looks, seconds, ran - before[0] > seconds / 2)
                looks, before = [], (ran, delayed)
                # It may have been held anew while that was written.
                now, last = time.monotonic(), self._last_beat
            if now - last - BEAT_SECONDS > self.held_seconds:
                beat = last
                looks.append(self._look())
                ran, delayed = self._clock.read()
            else:
                before = self._clock.read()

    def _look(self) -> Seen:
        seen = look_at(sys._current_frames().get(self._watched.ident or 0))
        if seen.request is not None and seen.place is not None:
            self.places.setdefault(id(seen.request), seen.place)
        return seen

    def _note(self, looks: List[Seen], seconds: float, computes: bool) -> None:
        """Log where the loop was held, once for a route, or for a place without one."""
        (most, _), *_ = Counter((one.place, one.route) for one in looks).most_common(1)
        place, route = most
        key = route or place
        if key is None or key in self._told or len(self._told) > MAX_TOLD:
            return
        self._told.add(key)
        what, then = "something", ""
        if route is not None:
            what = f"{route.path} ({route.placement.name})"
            then = f"; {advice(route, computes)}"
        where = f" at {place}" if place is not None else ""
        text = "%s held the event loop for %.2f s, and nobody else was served%s%s"
        log.warning(text, what, seconds, where, then)

    # With "strict".

    def judge(
        self, route: Route, request: Request, response: Response, seconds: float
    ) -> Response:
        """Return the response, or a 500 where its handler has held the loop."""
        held = self.held(route, request, seconds)
        if held is None:
            return response
        failed = failure(route.app, request, held)
        return seal(route.app, request, failed)

    def held(
        self, route: Route, request: Request, seconds: float
    ) -> Optional[LoopHeld]:
        """Return the error of a step that took so long, or None: it was no longer."""
        place = self.places.pop(id(request), None)
        if seconds <= self.held_seconds:
            return None
        where = f" at {place}" if place is not None else f", in {route.handler!r}"
        return LoopHeld(f"{route.path} held the event loop for {seconds:.2f} s{where}")

    def _watch_stream(
        self, route: Route, request: Request, response: Response
    ) -> Response:
        if isinstance(response.body, Chunks):
            chunks = response.body
            chunks.rest = GuardedPieces(self, route, request, chunks.rest)
        return response

    def now(self) -> Tuple[float, float]:
        """Return the time, and how long the loop's thread has waited for a CPU."""
        return time.monotonic(), self._clock.delay_seconds()

    def seconds_since(self, began: Tuple[float, float]) -> float:
        """Return for how long the loop was held, since `now` was asked."""
        seconds = time.monotonic() - began[0]
        if seconds > self.held_seconds:
            seconds -= self._clock.delay_seconds() - began[1]
        return seconds

    def guard(self, answer: Answer) -> Answer:
        """Return an `answer` that fails where a `sync` handler holds the loop."""

        def guarded(route: Route, request: Request) -> Response:
            if route.placement is not RouteType.sync:
                return answer(route, request)  # in a thread
            began = self.now()
            response = answer(route, request)
            seconds = self.seconds_since(began)
            response = self.judge(route, request, response, seconds)
            return self._watch_stream(route, request, response)

        return guarded

    def guard_async(self, answer: AsyncAnswer) -> AsyncAnswer:
        """Return the same for `asnc` handlers, of which each step is measured."""

        async def guarded(route: Route, request: Request) -> Response:
            longest = [0.0]
            response = await self.steps(answer(route, request), longest)
            response = self.judge(route, request, response, longest[0])
            return self._watch_stream(route, request, response)

        return guarded

    @types.coroutine
    def steps(
        self, awaitable: Awaitable[T], longest: List[float]
    ) -> Generator[Any, Any, T]:
        """Run a coroutine as `await` does, and note its longest step."""
        coroutine: Any = awaitable
        step, value = coroutine.send, None
        while True:
            began = self.now()
            try:
                awaited = step(value)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                longest[0] = max(longest[0], self.seconds_since(began))
            try:
                step, value = coroutine.send, (yield awaited)
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                step, value = coroutine.throw, error


class GuardedPieces:
    """The pieces of a stream behind its first one: if one holds the loop, it ends.

    Args:
        guard: measures, with "strict".
        route, request: whose stream it is.
        rest: its iterator or async iterator; what closes it is asked of that.
    """

    def __init__(
        self, guard: LoopGuard, route: Route, request: Request, rest: Any
    ) -> None:
        self._guard, self._rest = guard, rest
        self._route, self._request = route, request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rest, name)

    def _judge(self, seconds: float) -> None:
        held = self._guard.held(self._route, self._request, seconds)
        if held is not None:
            raise held

    def __next__(self) -> Any:
        route, request = self._route, self._request  # noqa: F841 - for look_at()
        began = self._guard.now()
        try:
            piece = next(self._rest)
        except StopIteration:
            self._judge(self._guard.seconds_since(began))
            raise
        self._judge(self._guard.seconds_since(began))
        return piece

    async def __anext__(self) -> Any:
        route, request = self._route, self._request  # noqa: F841 - for look_at()
        longest = [0.0]
        try:
            piece = await self._guard.steps(self._whole(), longest)
        except StopAsyncIteration:
            self._judge(longest[0])
            raise
        self._judge(longest[0])
        return piece

    async def _whole(self) -> Any:
        return await self._rest.__anext__()
