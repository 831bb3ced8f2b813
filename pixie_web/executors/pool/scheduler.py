"""The jobs of a pool: which one runs next, which one waits, and for how long.

The scheduler has jobs and slots. Of a worker it knows only how to give it a job. It
asks for a worker by `hire`, and is told when the slot is free again.

Each route has a line of its own. Lines take turns by the time that their jobs use:
the line that has used the least time is next. So a cheap route goes on beside an
expensive one, and the requests of a long line wait for each other only. Waiting
requests have limits of number, bytes and time. A request that would wait longer than
its `queue_timeout` is refused at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Callable, Deque, Dict, Optional, Set

from ...requests import NEVER
from ..base import BusyError, Route, deadline_error
from .frames import PoolOptions
from .links import Job, Retirement, WorkerLink

CRASH_WINDOW_SECONDS = 60.0
CRASH_REST_SECONDS = 30.0
STREAMS_PER_WORKER = 4
MEAN_WEIGHT = 0.1  # of the last job in the mean of its route
# A second of use is forgiven for ten of waiting. With more of it, a route whose line
# grows would take the turns of all others.
AGEING = 0.1
DEBT_SECONDS = 5.0  # what is above that is forgiven: one job that hung is no sentence


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
        deaths = self._deaths.get(route) if self._deaths else None
        if not deaths or len(deaths) < self._limit:
            return 0.0
        if deaths[-1] - deaths[0] > CRASH_WINDOW_SECONDS:
            return 0.0
        return max(0.0, deaths[-1] + CRASH_REST_SECONDS - time.monotonic())


class Line:
    """The jobs of one route: those that wait, the first one first, and how many run.

    Attributes:
        slots: what its jobs take up.
        used: when its next job is due, on the clock of `slots` (seconds).
        mean_seconds: what a job takes; 0.0: that is not known yet.
    """

    def __init__(self, route: Route, slots: Slots) -> None:
        self.route = route
        self.slots = slots
        self.waiting: Deque[Job] = deque()
        self.running = 0
        self.used = self.mean_seconds = 0.0
        self._ended = 0  # of those that are in the mean
        self._firsts = 0  # of as many workers, that ended one after the other

    @property
    def may_start(self) -> bool:
        """Whether its limit allows for one more."""
        limit = self.route.limit
        return limit is None or self.running < limit

    @property
    def work_seconds(self) -> float:
        """How long it would take one worker to do what waits."""
        return len(self.waiting) * self.mean_seconds

    def begin(self, job: Job) -> None:
        """Charge a job that starts with what one is expected to take."""
        self.running += 1
        job.cost = self.mean_seconds
        self.used += job.cost

    def account(self, job: Job) -> None:
        """Charge a job with what it has taken, once."""
        expected, job.cost = job.cost, None
        if expected is None:
            return
        taken = time.monotonic() - job.started
        if self._is_usual(job):
            self._ended += 1
            weight = max(MEAN_WEIGHT, 1 / self._ended)
            self.mean_seconds += weight * (taken - self.mean_seconds)
        debt = DEBT_SECONDS + self.running * self.mean_seconds
        self.used = min(self.used + taken - expected, self.slots.clock + debt)

    def _is_usual(self, job: Job) -> bool:
        """Return whether a job tells what those that wait will take.

        The first one of a worker may import, connect, load a model: by such a mean, who
        comes when much has queued up is refused, after each restart. Where more of them
        end in a row than there are workers, nothing else is to be expected.
        """
        assert job.worker is not None
        served = job.worker.served
        self._firsts = 0 if self.route in served else self._firsts + 1
        served.add(self.route)
        return not 0 < self._firsts <= self.slots.size


class Slots:
    """The places of jobs of one kind, and the lines of those that wait for one.

    Fair queueing by start times (Goyal, Vin, Cheng 1996): deficit round robin whose
    rounds are counted in seconds of use. It needs no quantum, and the cost of a job may
    be known when it has ended.

    Args:
        size: how many may run at once (int).

    Attributes:
        taken: how many do.
        lines: those in which jobs wait.
        clock: when the job that started last was due.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0
        self.lines: Dict[Line, None] = {}
        self.clock = 0.0

    def begin(self, line: Line) -> None:
        """Give a slot to a line."""
        self.taken += 1
        self.clock = max(self.clock, line.used)

    def next_line(self) -> Optional[Line]:
        """Return the line whose turn it is to take a free slot; None: nobody may."""
        found, least = None, 0.0
        now = time.monotonic()
        for line in self.lines:
            if line.may_start:
                turn = line.used - AGEING * (now - line.waiting[0].arrived)
                if found is None or turn < least:
                    found, least = line, turn
        return found

    def wait_seconds(self, line: Line) -> float:
        """Return how long who joins a line now will wait, as far as is known.

        The other lines get no more turns than it does, and no more than they need.
        """
        own = line.work_seconds
        if not own:
            return 0.0
        work = min(own * len(self.lines), sum(one.work_seconds for one in self.lines))
        at_once = min(self.size, line.route.limit or self.size)
        return max(work / max(1, self.size), own / max(1, at_once))


class Scheduler:
    """Gives each job a slot and a worker, now or when its turn has come.

    Args:
        hire: returns an idle worker, or None and has another one started.

    Attributes:
        jobs, streams: the slots of what returns, and those of streams: slow readers do
            not starve the rest.
        waiting, waiting_bytes: what has no slot.
        closed: no more jobs are taken.
    """

    def __init__(
        self, options: PoolOptions, hire: Callable[[], Optional[WorkerLink]]
    ) -> None:
        size, max_streams = options.workers, options.max_streams
        if max_streams < 0:
            max_streams = STREAMS_PER_WORKER * size
        self.jobs, self.streams = Slots(size), Slots(max_streams)
        self.breaker = Breaker(options.max_crashes)
        self.waiting = self.waiting_bytes = 0
        self.closed = False
        self._options = options
        self._hire = hire
        self._lines: Dict[Route, Line] = {}
        self._admitted: Deque[Job] = deque()  # have a slot, wait for a worker to boot
        self._running: Set[Job] = set()
        # PERF: one timer for all jobs, set when it would ring too late: 4 us for each.
        self._alarm: Optional[asyncio.TimerHandle] = None
        self._alarm_at = NEVER

    @property
    def taken(self) -> int:
        """How many slots of both kinds are taken."""
        return self.jobs.taken + self.streams.taken

    @property
    def admitted_streams(self) -> int:
        """How many streams have a slot, and wait for a worker."""
        return sum(job.is_stream for job in self._admitted)

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
            raise self.rejection(job.route)
        slots = line.slots
        if not line.waiting:
            # Who has not been here for a while has no claim on the time of others.
            line.used = max(line.used, slots.clock)
            if slots.taken < slots.size and line.may_start:
                self._admit(line, job)
                return
        self._enqueue(line, job)

    def _line(self, route: Route) -> Line:
        line = self._lines.get(route)
        if line is None:
            slots = self.streams if route.kind == "generator" else self.jobs
            line = Line(route, slots)
            self._lines[route] = line
        return line

    def _admit(self, line: Line, job: Job) -> None:
        """Give a job its slot, and a worker: an idle one, or the next that is ready."""
        line.slots.begin(line)
        line.begin(job)
        worker = self._hire()
        if worker is not None:
            self._start(worker, job)
            return
        self._admitted.append(job)
        self._limit_wait(job)

    def _start(self, worker: WorkerLink, job: Job) -> None:
        job.started = time.monotonic()
        worker.begin(job)
        self._running.add(job)
        self.watch(job)

    def _enqueue(self, line: Line, job: Job) -> None:
        if not self._has_room(line) or (
            self.waiting
            and self.waiting_bytes + job.size > self._options.max_waiting_bytes
        ):
            raise self.rejection(job.route)
        if self.waiting >= self._options.max_waiting:
            self._reject(self._longest_line().waiting[-1])
        if not line.waiting:
            line.slots.lines[line] = None
        line.waiting.append(job)
        self.waiting += 1
        self.waiting_bytes += job.size
        self._limit_wait(job)

    def _has_room(self, line: Line) -> bool:
        """Return whether one more may wait in a line, perhaps in place of another.

        Where all lines together are full, the longest one gives a place to a shorter.
        """
        length, room = len(line.waiting), line.route.max_waiting
        if room is not None and length >= room:
            return False
        if self.waiting >= self._options.max_waiting and (
            not self.waiting or len(self._longest_line().waiting) <= length + 1
        ):
            return False
        bound, slots = line.route.queue_timeout, line.slots
        # PERF: what is not near its bound is not reckoned to the end: 2 of 60 us.
        is_far = line.work_seconds * max(1, len(slots.lines)) <= bound
        return is_far or slots.wait_seconds(line) <= bound

    def _longest_line(self) -> Line:
        lines = [*self.jobs.lines, *self.streams.lines]
        return max(lines, key=lambda line: len(line.waiting))

    def may_submit(self, route: Route) -> bool:
        """Return whether a job of a route would be taken now, of any size."""
        line = self._line(route)
        if self.closed or self.breaker.seconds_left(route):
            return False
        is_next = not line.waiting and line.slots.taken < line.slots.size
        return (is_next and line.may_start) or self._has_room(line)

    def dispatch(self) -> None:
        """Start what may start now, each line in its turn."""
        for slots in (self.jobs, self.streams) if self.waiting else ():
            while slots.lines and slots.taken < slots.size:
                line = slots.next_line()
                if line is None:
                    break
                job = line.waiting[0]
                self._take_out(line, job)
                self._admit(line, job)

    def employ(self, worker: WorkerLink, for_streams: bool) -> bool:
        """Give a free worker a job that waits for one, or else a stream that does.

        Args:
            for_streams: a stream may have it.

        Returns:
            bool: whether there was one.
        """
        if not self._admitted:
            return False
        job = min(self._admitted, key=lambda job: job.is_stream)  # the first such
        if job.is_stream and not for_streams:
            return False
        self._admitted.remove(job)
        self._start(worker, job)
        return True

    # What does not come to its start.

    def _take_out(self, line: Line, job: Job) -> None:
        line.waiting.remove(job)  # the first one, almost always
        if not line.waiting:
            del line.slots.lines[line]
        self.waiting -= 1
        self.waiting_bytes -= job.size

    def drop(self, job: Job) -> bool:
        """Take a job out, if it has not been started yet; return whether that is so."""
        line = self._line(job.route)
        if job in self._admitted:
            self._admitted.remove(job)
            line.running -= 1
            line.used -= job.cost or 0.0
            line.slots.taken -= 1
            self.dispatch()
            return True
        if job not in line.waiting:
            return False
        self._take_out(line, job)
        return True

    def rejection(self, route: Route) -> BusyError:
        """Return the 503 of a request that will not be run, for any reason."""
        seconds = self.breaker.seconds_left(route)
        if not seconds:
            line = self._line(route)
            seconds = line.slots.wait_seconds(line)
        return BusyError(max(1, int(seconds + 0.999)))

    def _reject(self, job: Job) -> None:
        if self.drop(job):
            job.fail(self.rejection(job.route))

    def reject_waiting(self, route: Optional[Route] = None) -> None:
        """Reject all that waits, or all of a route."""
        for queue in (self._admitted, *(line.waiting for line in self._lines.values())):
            for job in list(queue):
                if route in (None, job.route):
                    self._reject(job)

    # What runs, and its end.

    def became_stream(self, job: Job) -> None:
        """Note that a job on an ordinary slot turned out to be a stream."""
        self._line(job.route).account(job)
        self.jobs.taken -= 1
        self.streams.taken += 1
        self.dispatch()

    def ended(self, job: Job) -> None:
        """Note that a worker has done a job, or is gone; its slot may be kept."""
        line = self._line(job.route)
        line.running -= 1
        line.account(job)
        self._running.discard(job)

    def free(self, is_stream: Optional[bool]) -> None:
        """Take back a slot of this kind; None: there was none."""
        if is_stream is not None:
            (self.streams if is_stream else self.jobs).taken -= 1

    # Deadlines.

    def _limit_wait(self, job: Job) -> None:
        self._set_deadline(job, job.arrived + job.route.queue_timeout)

    def watch(self, job: Job) -> None:
        """Start the deadline of a job: of all of it, or of a stream's next chunk."""
        seconds = job.timeout
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
        now = time.monotonic()
        # Of those that wait in a line the first one is the first to be late.
        lines = [*self.jobs.lines, *self.streams.lines]
        for line in lines:
            while line.waiting and line.waiting[0].deadline <= now:
                self._reject(line.waiting[0])
        for job in [*self._running, *self._admitted]:
            if job.deadline <= now:
                self._too_late(job)
        jobs = [*self._running, *self._admitted]
        jobs += [line.waiting[0] for line in lines if line.waiting]
        nearest = min(jobs, key=lambda job: job.deadline, default=None)
        if nearest is not None:
            self._set_deadline(nearest, nearest.deadline)

    def _too_late(self, job: Job) -> None:
        if job.worker is None:
            self._reject(job)
            return
        # The client is told now; the worker is given a moment to run its `finally`.
        job.fail(deadline_error(job.route, job.timeout))
        job.worker.retire(Retirement.late)
