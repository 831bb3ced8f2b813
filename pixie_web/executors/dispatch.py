"""The executors: the placement of each, and one object for all of them.

A placement is a word of a route, a `RouteType`: "pool". An executor is the object
that runs the routes of a placement. A new one is a class, and an entry in
`EXECUTORS`.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, Callable, Dict, Optional, Sequence, Type, Union

from ..errors import ClientDisconnected, HTTPError, RouteError
from ..requests import Request
from ..responses import Response
from .base import (
    QUEUE_TIMEOUT_SECONDS,
    TIME_BUCKETS,
    Executor,
    Gate,
    Handler,
    Outcome,
    Resources,
    Route,
    RouteType,
    handler_kind,
)
from .local import LoopExecutor, TaskExecutor, ThreadExecutor
from .pool.pool import PoolExecutor, StreamExecutor
from .pool.recycling import resident_bytes
from .streams import Answer, AsyncAnswer

EXECUTORS: Dict[RouteType, Type[Executor]] = {
    RouteType.sync: LoopExecutor,
    RouteType.thread: ThreadExecutor,
    RouteType.asnc: TaskExecutor,
    RouteType.pool: PoolExecutor,
    RouteType.stream: StreamExecutor,
}


def default_placement(handler: Handler) -> RouteType:
    """Return the placement of a handler whose route does not name one."""
    kind = handler_kind(handler)
    return next(where for where, one in EXECUTORS.items() if kind in one.default_for)


def check_kind(handler: Handler, placement: RouteType) -> None:
    """Raise RouteError where a handler can't run in a placement; say what to write."""
    kind, kinds = handler_kind(handler), EXECUTORS[placement].kinds
    if kind in kinds:
        return
    name = getattr(handler, "__name__", repr(handler))
    other = ""
    if "def" in kinds or "generator" in kinds:
        other = f", or make it a plain def{'' if 'def' in kinds else ' that yields'}"
    raise RouteError(
        f"{name} is {'an' if kind[0] == 'a' else 'a'} {kind}, which can't run in "
        f"RouteType.{placement.name}; write "
        f"RouteType.{default_placement(handler).name}{other}"
    )


def placed(route_type: Union[RouteType, str, None], handler: Handler) -> RouteType:
    """Return where a handler is to run; raise RouteError, saying what to write."""
    if not callable(handler):
        raise RouteError(f"a handler is a function, not {type(handler).__name__}")
    if route_type is None:
        return default_placement(handler)
    try:
        placement = RouteType(route_type)
    except ValueError:
        names = ", ".join(kind.name for kind in RouteType)
        raise RouteError(
            f"a route type is one of {names}, not {route_type!r}"
        ) from None
    check_kind(handler, placement)
    return placement


def _check_bounds(
    timeout: Optional[float],
    limit: Optional[int],
    queue_timeout: Optional[float],
    max_waiting: Optional[int],
) -> None:
    for name, value in (("timeout", timeout), ("queue_timeout", queue_timeout)):
        if value is not None and not (type(value) in (int, float) and value > 0):
            raise RouteError(f"{name} is in seconds, more than 0, got {value!r}")
    for name, number, least in ("limit", limit, 1), ("max_waiting", max_waiting, 0):
        if number is not None and (type(number) is not int or number < least):
            raise RouteError(f"{name} is a whole number from {least}, got {number!r}")


def set_bounds(
    route: Route,
    timeout: Optional[float],
    limit: Optional[int],
    queue_timeout: Optional[float],
    max_waiting: Optional[int],
    on_disconnect: Optional[str],
) -> None:
    """Set a route's bounds, or their defaults; raise RouteError for what can't be."""
    placement, executor = route.placement, EXECUTORS[route.placement]
    if route.pool and not executor.in_worker:
        raise RouteError(f"{route.path} is {placement.name}: leave pool= out")
    bounds = timeout, limit, queue_timeout, max_waiting
    if not executor.has_line and bounds != (None,) * 4:
        raise RouteError(
            f"{route.path} is {placement.name}: nothing can stop it or make it wait, "
            "so it takes no timeout, limit, queue_timeout or max_waiting; "
            "write RouteType.thread or RouteType.pool"
        )
    _check_bounds(*bounds)
    if timeout is None:
        timeout = executor.default_timeout
    route.timeout = None if timeout == float("inf") else timeout
    route.limit = limit
    route.queue_timeout = queue_timeout or QUEUE_TIMEOUT_SECONDS
    route.max_waiting = max_waiting
    allowed = executor.on_disconnect
    if route.kind == "async generator":
        allowed = ("stop",)
    if on_disconnect is not None and on_disconnect not in allowed:
        words = " or ".join(f'"{word}"' for word in allowed)
        raise RouteError(
            f"on_disconnect of {route.path}, a {placement.name} route, is {words}, "
            f"not {on_disconnect!r}"
        )
    route.on_disconnect = on_disconnect or allowed[0]
    if limit is not None and not executor.in_worker:
        route.gate = Gate(limit)


_NEVER_HELD = {"times": 0, "seconds": 0.0, "longest_seconds": 0.0}


class Executors:
    """Runs each route by the executor of its placement, and counts what becomes of it.

    Args:
        answer: runs triggers, handler and error handlers, where it is called.
        answer_async: the same for what is awaited.
    """

    def __init__(self, answer: Answer, answer_async: AsyncAnswer) -> None:
        self._began = time.monotonic()
        self._resources = Resources(answer, answer_async)
        self._routes: Sequence[Route] = ()
        self.loop_stats: Callable[[], Dict[str, float]] = dict  # of who has the loop
        self._table: Dict[RouteType, Executor]
        self.equip()

    def equip(self, **resources: Any) -> None:
        """Make the executors, of other resources than before; none is at work yet."""
        self._resources = self._resources._replace(**resources)
        self._table = {name: one(self._resources) for name, one in EXECUTORS.items()}
        self.place(self._routes)

    def place(self, routes: Sequence[Route]) -> None:
        """Give each route its executor: without its pool, that of threads."""
        self._routes, made_of = routes, self._resources
        for route in routes:
            in_worker = EXECUTORS[route.placement].in_worker
            no_pool = in_worker and route.pool not in made_of.pools
            placement = RouteType.thread if no_pool else route.placement
            route.executor = self._table[placement]
            if route.gate is not None:
                route.gate.max_waiting = made_of.max_waiting
                route.gate.max_waiting_bytes = made_of.max_waiting_bytes

    def begin(self, route: Route, request: Request) -> Outcome:
        """Run a route, and count what becomes of the request.

        Returns:
            the response, or what to wait for until it is there.

        Raises:
            HTTPError: 502, 503 or 504, as the placement's table says; from the wait.
        """
        began, counts = time.monotonic(), route.counts
        counts.active += 1
        outcome: Optional[Outcome] = None
        if route.gate is None:
            try:
                outcome = route.executor.begin(route, request)
            except BaseException:
                self._count(route, request, began)
                raise
            if isinstance(outcome, Response):
                # PERF: no coroutine for what need not wait; 2 of 18 us.
                counts.active -= 1
                counts.failures += outcome.status >= 500
                request.run_seconds = seconds = time.monotonic() - began
                counts.run.add(seconds)
                return outcome
        return self._go_on(route, request, began, outcome)

    async def _go_on(
        self,
        route: Route,
        request: Request,
        began: float,
        outcome: Optional[Outcome],
    ) -> Response:
        """Wait for what has begun, or for its turn to begin."""
        counts, ran = route.counts, True
        try:
            if route.gate is not None:
                # Who leaves it is the end of the handler: a stream's end, or what comes
                # of it after its deadline.
                await route.gate.enter(route, request)
            outcome = outcome or route.executor.begin(route, request)
            response = outcome if isinstance(outcome, Response) else await outcome
            counts.failures += response.status >= 500
            return response
        except HTTPError as error:
            ran = error.status != 503
            counts.rejections += not ran
            raise
        except ClientDisconnected:
            ran = False
            counts.disconnects += 1
            raise
        finally:
            self._count(route, request, began, ran)

    def _count(
        self, route: Route, request: Request, began: float, ran: bool = True
    ) -> None:
        counts, waited = route.counts, request.queue_seconds
        counts.active -= 1
        if waited:
            counts.wait.add(waited)
        request.run_seconds = time.monotonic() - began - waited
        if ran:
            counts.run.add(request.run_seconds)

    async def start(self) -> None:
        """Start what the executors need to run handlers."""
        for executor in self._table.values():
            await executor.start()

    async def stop(self, seconds: float) -> None:
        """End them; what takes longer than `seconds` is killed, where that can be."""
        await asyncio.gather(*(one.stop(seconds) for one in self._table.values()))

    def stats(self) -> Dict[str, Any]:
        """Return the part of `Application.stats` that routes have in common."""
        stats: Dict[str, Any] = {
            "pid": os.getpid(),
            "uptime_seconds": time.monotonic() - self._began,
            "memory_bytes": resident_bytes(os.getpid()),
            "loop_held": {**_NEVER_HELD, **self.loop_stats()},
        }
        for executor in self._table.values():
            stats.update(executor.stats())
        return {**stats, "bounds_seconds": list(TIME_BUCKETS)}
