"""The jobs of a pool: which one runs next, which one waits, and for how long.

The scheduler knows jobs and slots, and of workers only how to give them a job. It
asks for one by `hire`, and is told when its slot is free again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Callable, Deque, Dict, Optional, Set

from ...errors import HTTPError
from ...requests import NEVER
from ..base import WAITING_PER_SLOT, Route, RouteType, busy_error, deadline_error
from .frames import PoolOptions
from .links import Job, Retirement, WorkerLink

CRASH_WINDOW_SECONDS = 60.0
CRASH_REST_SECONDS = 30.0
STREAMS_PER_WORKER = 4


class Breaker:
    """Switches a route off for a while when workers keep dying of it.

    Args:
        limit: deaths within CRASH_WINDOW_SECONDS that are too many (int); 0: none are.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._deaths: Dict[Route, Deque[float]] = {}

    def note(self, route: Route) -> bool:
        """Count a death; return whether the route is switched off by it."""
        if not self._limit:
            return False
        deaths = self._deaths.setdefault(route, deque(maxlen=self._limit))
        deaths.append(time.monotonic())
        return self.seconds_left(route) > 0

    def seconds_left(self, route: Route) -> float:
        """Return for how long the route stays switched off; 0 if it is not."""
        deaths = self._deaths.get(route, ())
        if len(deaths) < self._limit or not deaths:
            return 0.0
        if deaths[-1] - deaths[0] > CRASH_WINDOW_SECONDS:
            return 0.0
        return max(0.0, deaths[-1] + CRASH_REST_SECONDS - time.monotonic())


class Line:
    """The jobs of one route: those that wait, the first one first, and how many run."""

    def __init__(self, route: Route) -> None:
        self.limit = route.limit
        self.is_stream = route.placement is RouteType.stream
        self.waiting: Deque[Job] = deque()
        self.running = 0


class Scheduler:
    """Gives each job a slot and a worker, now or when its turn has come.

    Args:
        hire: returns an idle worker, or None and has another one started.

    Attributes:
        size: how many jobs run at once (int).
        max_streams: the same of streams, which have slots of their own, so that slow
            readers do not starve the rest.
        busy, streaming: slots that are taken, of each kind.
        waiting: jobs that have no slot.
        closed: no more jobs are taken.
    """

    def __init__(
        self, options: PoolOptions, hire: Callable[[], Optional[WorkerLink]]
    ) -> None:
        self.size = options.workers
        self.max_streams = options.max_streams
        if self.max_streams < 0:
            self.max_streams = STREAMS_PER_WORKER * self.size
        self.breaker = Breaker(options.max_crashes)
        self.busy = self.streaming = self.waiting = 0
        self.closed = False
        self._hire = hire
        self._lines: Dict[Route, Line] = {}
        self._admitted: Deque[Job] = deque()  # have a slot, wait for a worker to boot
        self._running: Set[Job] = set()
        self._mean_seconds = 0.1
        # PERF: one timer for all jobs, set when it would ring too late: 4 us for each.
        self._alarm: Optional[asyncio.TimerHandle] = None
        self._alarm_at = NEVER

    @property
    def room(self) -> int:
        """How many jobs may wait."""
        return WAITING_PER_SLOT * self.size

    @property
    def all_waiting(self) -> int:
        """How many jobs have no worker."""
        return self.waiting + len(self._admitted)

    # From the arrival of a job to its start.

    def submit(self, job: Job) -> None:
        """Start a job, or have it wait for its turn.

        Raises:
            HTTPError: 503, too much waits, or workers keep dying of its route.
        """
        line = self._line(job.route)
        if self.closed or self.breaker.seconds_left(job.route):
            raise self._rejection(job.route)
        if not line.waiting and self._may_start(line):
            self._admit(line, job)
        else:
            self._enqueue(line, job)

    def _line(self, route: Route) -> Line:
        line = self._lines.get(route)
        if line is None:
            line = self._lines[route] = Line(route)
        return line

    def _may_start(self, line: Line) -> bool:
        if line.limit is not None and line.running >= line.limit:
            return False
        if line.is_stream:
            return self.streaming < self.max_streams
        return self.busy < self.size

    def _take_slot(self, is_stream: bool, count: int = 1) -> None:
        if is_stream:
            self.streaming += count
        else:
            self.busy += count

    def _admit(self, line: Line, job: Job) -> None:
        """Give a job its slot, and a worker: an idle one, or the next that is ready."""
        line.running += 1
        self._take_slot(job.is_stream)
        worker = self._hire()
        if worker is not None:
            self._begin(worker, job)
            return
        self._admitted.append(job)
        self._limit_wait(job)

    def _begin(self, worker: WorkerLink, job: Job) -> None:
        job.started = time.monotonic()
        worker.begin(job)
        self._running.add(job)
        self.watch(job)

    def _enqueue(self, line: Line, job: Job) -> None:
        own_room = self.room
        if job.is_stream:
            own_room //= 2  # streams last: leave room for the others
        if line.limit is not None:
            own_room = min(own_room, WAITING_PER_SLOT * line.limit)
        if self.waiting >= self.room or len(line.waiting) >= own_room:
            raise self._rejection(job.route)
        self.waiting += 1
        line.waiting.append(job)
        self._limit_wait(job)

    def dispatch(self) -> None:
        """Start what may start now: the oldest first, but no route above its limit."""
        while self.waiting:
            lines = self._lines.values()
            heads = [one.waiting[0] for one in lines if one.waiting]
            heads = [job for job in heads if self._may_start(self._lines[job.route])]
            if not heads:
                return
            first = min(heads, key=lambda job: (job.arrived, job.number))
            self.waiting -= 1
            line = self._lines[first.route]
            self._admit(line, line.waiting.popleft())

    def employ(self, worker: WorkerLink) -> bool:
        """Give a free worker a job that waits for one; return whether there was one."""
        if not self._admitted:
            return False
        self._begin(worker, self._admitted.popleft())
        return True

    # What does not come to its start.

    def drop(self, job: Job) -> bool:
        """Take a job out, if it has not been started yet; return whether that is so."""
        line = self._line(job.route)
        if job in self._admitted:
            self._admitted.remove(job)
            line.running -= 1
            self._take_slot(job.is_stream, -1)
            self.dispatch()
            return True
        if job not in line.waiting:
            return False
        line.waiting.remove(job)
        self.waiting -= 1
        return True

    def _rejection(self, route: Route) -> HTTPError:
        """Return the 503 of a request that will not be run, whatever the reason."""
        seconds = self.breaker.seconds_left(route)
        if not seconds:
            seconds = self.waiting * self._mean_seconds / self.size
        return busy_error(max(1, int(seconds + 0.999)))

    def _reject(self, job: Job) -> None:
        if self.drop(job):
            job.fail(self._rejection(job.route))

    def reject_waiting(self, route: Optional[Route] = None) -> None:
        """Reject all that waits, or all of a route."""
        for queue in (self._admitted, *(line.waiting for line in self._lines.values())):
            for job in list(queue):
                if route in (None, job.route):
                    self._reject(job)

    # What runs, and its end.

    def streams(self, job: Job) -> None:
        """Note that a job on an ordinary slot turned out to be a stream."""
        self.busy -= 1
        self.streaming += 1
        self.dispatch()

    def finished(self, job: Job) -> None:
        """Note that a worker has done a job; it may have kept its slot."""
        if not job.is_stream:
            seconds = time.monotonic() - job.started
            self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
        self.lost(job)

    def lost(self, job: Job) -> None:
        """Note that a job has ended with its worker."""
        self._running.discard(job)
        self._line(job.route).running -= 1

    def free(self, is_stream: Optional[bool]) -> None:
        """Take back a slot of this kind; None: there was none."""
        if is_stream is not None:
            self._take_slot(is_stream, -1)

    # Deadlines.

    def _limit_wait(self, job: Job) -> None:
        self._set_deadline(job, job.arrived + job.route.queue_timeout)

    def watch(self, job: Job) -> None:
        """Start the deadline of a job: of all of it, or of a stream's next chunk."""
        seconds = job.route.timeout
        self._set_deadline(
            job, NEVER if seconds is None else time.monotonic() + seconds
        )

    def _set_deadline(self, job: Job, moment: float) -> None:
        job.deadline = moment
        if moment < self._alarm_at:
            self.stop_alarm()
            self._alarm_at = moment
            seconds = max(0.0, moment - time.monotonic())
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(seconds, self._ring)

    def stop_alarm(self) -> None:
        """Watch no deadline any more."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _ring(self) -> None:
        """End what is too late, and set the alarm for what is next."""
        self._alarm, self._alarm_at = None, NEVER
        jobs = [*self._running, *self._admitted]
        for line in self._lines.values():
            jobs += line.waiting
        now = time.monotonic()
        for job in jobs:
            if job.deadline <= now:
                self._too_late(job)
        nearest = min(jobs, key=lambda job: job.deadline, default=None)
        if nearest is not None:
            self._set_deadline(nearest, nearest.deadline)

    def _too_late(self, job: Job) -> None:
        if job.worker is None:
            self._reject(job)
            return
        # The client is told now; the worker is given a moment to run its `finally`.
        job.fail(deadline_error(job.route))
        job.worker.retire(Retirement.late)
