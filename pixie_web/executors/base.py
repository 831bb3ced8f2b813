"""The common parts of executors: routes, their counts, their lines."""

from __future__ import annotations

import asyncio
import inspect
import time
from bisect import bisect_left
from collections import deque
from enum import Enum
from functools import lru_cache, partial
from typing import (
    TYPE_CHECKING,
    Any,
    Awaitable,
    Callable,
    Deque,
    Dict,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
    cast,
)

from ..about import log
from ..errors import AnswerLost, ClientDisconnected, HTTPError
from ..requests import Request
from ..responses import Refusal, Response, error_page
from ..routing import Pattern

if TYPE_CHECKING:
    from .pool.pool import Pool
    from .streams import Answer, AsyncAnswer

WORKER_TIMEOUT_SECONDS = 30.0  # gunicorn and PHP-FPM: 30 s
QUEUE_TIMEOUT_SECONDS = 30.0
MAX_THREADS = 40  # as anyio and Starlette
MAX_WAITING = 1_000  # for a worker, a thread, or a place of a limit
MAX_WAITING_BYTES = 64 * 1024 * 1024  # of their bodies in memory
HEARTBEAT_SECONDS = 15.0  # WHATWG HTML section 9.2.7; nginx gives up after 60 s
# Upper bounds of the histograms, in seconds: Prometheus' own, and longer ones, since a
# pool route may take its time.
_BOUNDS_TEXT = "0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30 60"
TIME_BUCKETS = tuple(float(text) for text in _BOUNDS_TEXT.split())


class RouteType(Enum):
    """A route's placement: where its handler runs."""

    sync = "sync"
    thread = "thread"
    asnc = "asnc"
    pool = "pool"
    stream = "stream"


class ProcessType(Enum):
    """The kind of a process: the main one, or a worker of the pool."""

    main = "main"
    pool = "pool"


class ProcessEnvironment:
    """The process in which a handler runs.

    Attributes:
        proc_type: ProcessType.main or ProcessType.pool.
        worker: the worker's number in the pool, from 1; None in main.
        pool: the running Pool in main; None before it runs, and in workers.
        send_order: in a worker, makes main start a job; see app.submit().
    """

    send_order: Callable[[bytes], None]

    def __init__(self) -> None:
        self.proc_type = ProcessType.main
        self.worker: Optional[int] = None
        self.pool: Optional[Pool] = None


proc_env = ProcessEnvironment()

Handler = Callable[..., Any]
HandlerType = TypeVar("HandlerType", bound=Handler)
Outcome = Union[Response, Awaitable[Response]]  # what there is, or what is waited for


def handler_kind(handler: Handler) -> str:
    """Return "def", "generator", "async def" or "async generator".

    Of decorators that use `functools.wraps` the outermost counts that is not a plain
    def.
    """
    function = handler
    if not inspect.isroutine(function) and not hasattr(function, "func"):
        function = getattr(function, "__call__", function)  # noqa: B004
    if inspect.isasyncgenfunction(function):
        return "async generator"
    if inspect.iscoroutinefunction(function):
        return "async def"
    if inspect.isgeneratorfunction(function):
        return "generator"
    inner = getattr(handler, "__wrapped__", None)
    return "def" if inner is None else handler_kind(inner)


class Histogram:
    """How many times of each length there were, all counted since the start."""

    def __init__(self) -> None:
        self.counts = [0] * (len(TIME_BUCKETS) + 1)  # the last is for longer ones
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        of = bisect_left(TIME_BUCKETS, seconds) if seconds > TIME_BUCKETS[0] else 0
        self.counts[of] += 1
        self.seconds += seconds

    def stats(self) -> Dict[str, Any]:
        """Return what was counted."""
        counts = self.counts[:]
        return {"count": sum(counts), "seconds": self.seconds, "counts": counts}


class RouteCounts:
    """The outcomes of the requests of one route, in main since the start.

    Attributes:
        active: how many wait or run now; of streams, until their first chunk.
        failures: answers with a status of 500 or more that the handler is to blame for.
        timeouts, crashes: how often the deadline passed, or the worker died.
        rejections: requests that were turned away, or waited too long: 503.
        disconnects: clients that left before the answer, and were worth no more work.
        wait, run: seconds before the handler, and in it.
    """

    def __init__(self) -> None:
        self.active = self.failures = self.timeouts = self.crashes = 0
        self.rejections = self.disconnects = 0
        self.wait = Histogram()
        self.run = Histogram()

    def stats(self) -> Dict[str, Any]:
        """Return what was counted, for `Application.stats`."""
        wait, run = self.wait.stats(), self.run.stats()
        # Who did not wait was not counted there; a thread may ask in mid-count.
        ended = run["count"] + self.rejections + self.disconnects
        missing = max(0, ended - wait["count"])
        wait["counts"][0] += missing
        wait["count"] += missing
        return {**vars(self), "wait": wait, "run": run}


class Route:
    """A handler, where it runs, and the bounds it runs under.

    Attributes:
        path: the pattern it was declared with.
        methods: the verbs it answers.
        placement: a RouteType.
        kind: "def", "generator", "async def" or "async generator".
        timeout: seconds it may run, None without a bound; for streams, seconds between
            two chunks.
        limit: how many may run at once, or None.
        queue_timeout: seconds a request may wait for its turn.
        max_waiting: how many may do so at once, or None: as many as the pool lets, or
            for a `limit` in main MAX_WAITING.
        on_disconnect: "finish", "stop" or "kill": what becomes of it without a client.
        max_body_bytes: the largest body it takes; None: what the server takes.
        stream_body: whether it is called before the body has come.
        pool: the name of the pool it runs in; "" is the one that run() makes.
        executor: what runs it: that of its placement, or another in its place.
        heartbeat: what main sends while its stream is silent; b"": nothing.
        heartbeat_seconds: for how long that has to be.
    """

    def __init__(
        self,
        path: str,
        methods: Tuple[str, ...],
        handler: Handler,
        placement: RouteType,
    ) -> None:
        self.path = path
        self.methods = methods
        self.handler = handler
        self.placement = placement
        self.kind = handler_kind(handler)
        self.name: Optional[str] = None
        self.before: Tuple[Handler, ...] = ()
        self.after: Tuple[Handler, ...] = ()
        self.timeout: Optional[float] = None
        self.limit: Optional[int] = None
        self.queue_timeout = QUEUE_TIMEOUT_SECONDS
        self.max_waiting: Optional[int] = None
        self.on_disconnect = "finish"
        self.max_body_bytes: Optional[int] = None
        self.stream_body = False
        self.pool = ""
        self.heartbeat, self.heartbeat_seconds = b"", HEARTBEAT_SECONDS
        self.index = -1  # its place in the table of routes, the same in every process
        self.app: Any = None  # the application it was declared on
        self.pattern: Pattern  # its compiled path
        self.executor: Executor  # from `freeze` on
        self.triggers: Tuple[Sequence[Handler], ...] = ((), (), (), ())
        self.waits_first = False  # a trigger of it may wait, ahead of its body
        self.gate: Optional[Gate] = None
        self.counts = RouteCounts()
        self.was_warned_of = False  # that what it changes is lost

    def __repr__(self) -> str:
        return f"<Route {self.path} {self.placement.name}>"


# What runs routes ---------------------------------------------------------------------


class Resources(NamedTuple):
    """The parts that executors get.

    Attributes:
        answer: runs triggers, handler and error handlers, where it is called.
        answer_async: the same for what is awaited.
        threads: how many of them may be busy at once.
        max_waiting, max_waiting_bytes: the bounds of each line in main.
        pools: of worker processes, by their name.
    """

    answer: Answer
    answer_async: AsyncAnswer
    threads: int = MAX_THREADS
    max_waiting: int = MAX_WAITING
    max_waiting_bytes: int = MAX_WAITING_BYTES
    pools: Mapping[str, Pool] = {}


class Executor:
    """Runs the routes of one placement; its class says what these may be.

    Attributes:
        kinds: of the handlers that it takes.
        default_for: those that it takes where a route does not say its placement.
        on_disconnect: what a client's leaving may do; the first is the default.
        default_timeout: seconds that a handler may run; None: without a bound.
        has_line: a request may wait for its turn, and be stopped. Without it nothing of
            a route is bounded, and nothing is sent while its stream is silent.
        in_worker: it is that of a pool, which keeps the routes' limits.
        can_stream_body: a handler may be called before the body has come.
    """

    kinds: Tuple[str, ...] = ("def", "generator")
    default_for: Tuple[str, ...] = ()
    # Nothing can stop a function of main: there "stop" is `env.disconnected`, and the
    # end of a stream at its next `yield`.
    on_disconnect: Tuple[str, ...] = ("finish", "stop")
    default_timeout: Optional[float] = None
    has_line = True
    in_worker = False
    can_stream_body = False

    def __init__(self, resources: Resources) -> None:
        pass

    def begin(self, route: Route, request: Request) -> Outcome:
        """Run a route; return its response, or what to wait for until it is there.

        Raises:
            HTTPError: 502, 503 or 504; from the wait as well.
        """
        raise NotImplementedError

    def check_room(self, route: Route) -> None:
        """Refuse a request before anything is spent on it.

        Raises:
            BusyError: there is no room for it.
        """

    def refusals(self, route: Route) -> Optional[Callable[[bool], Optional[Refusal]]]:
        """Return what says how a route's requests are refused, where that is known.

        It returns None when they are not; its argument says whether to count it.
        """
        return None

    async def start(self) -> None:
        """Start what runs the handlers."""

    async def stop(self, seconds: float) -> None:
        """End it; what takes longer than `seconds` is killed, where that can be."""

    def stats(self) -> Dict[str, Any]:
        """Return its part of `Application.stats`."""
        return {}


def leave_gate(route: Route) -> None:
    """Let the next request of a route in, if it has a limit: a handler has ended."""
    if route.gate is not None:
        route.gate.leave()


class BusyError(HTTPError):
    """The 503 of a request that finds too much waiting.

    Args:
        retry_seconds: when to try again (int).
    """

    def __init__(self, retry_seconds: int) -> None:
        after = {"Retry-After": str(retry_seconds)}
        super().__init__(503, "Too busy; try again.", after)

    def page(self, as_json: bool = False) -> Refusal:
        """Return the answer, which is prepared once for each number of seconds."""
        return Refusal(503, *_busy_page(self.headers["Retry-After"], as_json))


@lru_cache(maxsize=256)
def _busy_page(retry_seconds: str, as_json: bool) -> Tuple[bytes, bytes]:
    page = error_page(BusyError(int(retry_seconds)), "", as_json)
    return page.header_block(), cast(bytes, page.body)


class Gate:
    """At most `limit` at once; the others wait in line, up to a bound.

    Args:
        limit: how many may be inside (int).
        max_waiting: how many may wait, where their route does not say it (int).
        max_waiting_bytes: how much of their bodies may be in memory (int).
    """

    def __init__(
        self,
        limit: int,
        max_waiting: int = MAX_WAITING,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self.limit = limit
        self.max_waiting = max_waiting
        self.max_waiting_bytes = max_waiting_bytes
        self.inside = 0
        self._line_bytes = 0
        self._line: Deque[asyncio.Future[None]] = deque()

    async def enter(self, route: Route, request: Request) -> None:
        """Go in, or wait in line, for at most the route's `queue_timeout`.

        Raises:
            HTTPError: 503 when the line is full, or when it has waited too long.
            ClientDisconnected: the client left while it waited.
        """
        if self.inside < self.limit:
            self.inside += 1
            return
        held = request.held_bytes
        room = self.max_waiting if route.max_waiting is None else route.max_waiting
        too_much = self._line and self._line_bytes + held > self.max_waiting_bytes
        if len(self._line) >= room or too_much:
            raise BusyError(1)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(route.queue_timeout, self._give_up, turn, BusyError(1))
        left = ClientDisconnected("the client left while its request waited")
        give_up = partial(self._give_up, turn, left)
        self._line.append(turn)
        self._line_bytes += held
        arrived = time.monotonic()
        if request.disconnect is not None:
            request.disconnect.add(give_up)  # or it would keep others out of the line
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self.leave()  # the turn came together with the cancellation
            raise
        finally:
            timer.cancel()
            if request.disconnect is not None:
                request.disconnect.remove(give_up)
            self._line_bytes -= held
            request.queue_seconds += time.monotonic() - arrived
        if request.disconnected:
            self.leave()
            raise left

    def leave(self) -> None:
        """Go out, and let the next one in."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.inside -= 1

    @property
    def waiting(self) -> int:
        """How many wait in line."""
        return len(self._line)

    def _give_up(self, turn: asyncio.Future[None], why: Exception) -> None:
        if not turn.done():
            self._line.remove(turn)
            turn.set_exception(why)


def deadline_error(route: Route, timeout: Optional[float]) -> HTTPError:
    """Return the 504 of a handler that outlived its timeout, in seconds."""
    route.counts.timeouts += 1
    log.warning("%s ran longer than its timeout of %g s", route.path, timeout)
    return AnswerLost(504, "The request took too long.")
