"""All placements behind one function."""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, Optional

from ..errors import ClientDisconnected, HTTPError
from ..requests import Request
from ..responses import Refusal, Response
from .base import TIME_BUCKETS, Route, RouteType
from .local import MAX_THREADS, TaskRun, Threads, run_on_loop
from .pool.links import resident_bytes
from .pool.pool import Pool
from .streams import Answer, AsyncAnswer


class Placements:
    """Runs a route where it says; the application's only door to this section.

    Args:
        answer: runs triggers, handler and error handlers, where it is called.
        answer_async: the same for `asnc` routes.
    """

    def __init__(self, answer: Answer, answer_async: AsyncAnswer) -> None:
        self._began = time.monotonic()
        self._answer = answer
        self._answer_async = answer_async
        self.threads = Threads(MAX_THREADS)
        self.pools: Dict[str, Pool] = {}  # by name; without one: in threads of main

    async def run(self, route: Route, request: Request) -> Response:
        """Run a route where it says and return its response.

        Raises:
            HTTPError: 502, 503 or 504, as the placement's table says.
        """
        if route.placement is RouteType.sync:
            return run_on_loop(self._answer, route, request)
        if route.gate is not None:
            # Who leaves it is the end of the handler: a stream's end, or what comes of
            # it after its deadline.
            await route.gate.enter(route, request)
        if route.placement is RouteType.asnc:
            return await TaskRun(self._answer_async, route, request).run()
        pool = self.pools.get(route.pool)
        if route.placement is RouteType.thread or pool is None:
            return await self.threads.run(self._answer, route, request)
        return await pool.run(route, request)

    def check_room(self, route: Route) -> None:
        """Refuse a request before anything is spent on it.

        Raises:
            BusyError: the pool of its route is full, or the route is off.
        """
        if route.in_worker:
            pool = self.pools.get(route.pool)
            if pool is not None and not pool.scheduler.may_submit(route):
                route.counts.rejections += 1
                raise pool.scheduler.rejection(route)

    def refusals(self, route: Route) -> Optional[Callable[[bool], Optional[Refusal]]]:
        """Return what says how a route's requests are refused, where that is known.

        It returns None when they are not; its argument says whether to count it.
        """
        pool = self.pools.get(route.pool) if route.in_worker else None
        if pool is None:
            return None
        scheduler = pool.scheduler

        def refusal(counts: bool) -> Optional[Refusal]:
            if scheduler.may_submit(route):
                return None
            route.counts.rejections += counts
            return scheduler.rejection(route).page()

        return refusal

    async def run_counted(self, route: Route, request: Request) -> Response:
        """Run a route where it says, and count what became of the request."""
        counts, ran = route.counts, True
        counts.active += 1
        began = time.monotonic()
        try:
            response = await self.run(route, request)
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
            # PERF: all counting together is 0.6 us of the 55 us that a pool route costs
            # main, and of the 25 us of a sync one.
            counts.active -= 1
            if request.queue_seconds:
                counts.wait.add(request.queue_seconds)
            request.run_seconds = time.monotonic() - began - request.queue_seconds
            if ran:
                counts.run.add(request.run_seconds)

    def stats(self) -> Dict[str, Any]:
        """Return the part of `Application.stats` that routes have in common."""
        return {
            "pid": os.getpid(),
            "uptime_seconds": time.monotonic() - self._began,
            "memory_bytes": resident_bytes(os.getpid()),
            "threads": self.threads.stats(),
            "pools": [
                {"name": name or "default", **pool.stats()}
                for name, pool in self.pools.items()
            ],
            "bounds_seconds": list(TIME_BUCKETS),
        }
