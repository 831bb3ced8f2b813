"""The pool in main: workers, jobs that wait, deadlines."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from functools import partial
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, Set

from ...about import log
from ...errors import AnswerLost, ClientDisconnected, HTTPError, PixieError
from ...requests import NEVER, Disconnect, Request
from ...responses import Response
from ..base import (
    WAITING_PER_SLOT,
    Route,
    RouteType,
    busy_error,
    deadline_error,
    proc_env,
)
from .frames import Frame, PoolOptions, Program
from .links import Job, Worker, resident_bytes
from .zygote import EXITED, SIGNAL, Launch, ZygoteLink, exec_zygote, fork_zygote

TRACE_SECONDS = 1.0  # at most, for writing where a worker hangs, before it is killed
TRACE_LOOK_SECONDS = 0.02  # from one look at that to the next
STOP_SECONDS = 5.0  # for a worker that ends in good order: on_worker_stop
CRASH_WINDOW_SECONDS = 60.0
CRASH_REST_SECONDS = 30.0
POOL_SWEEP_SECONDS = 1.0  # how often a pool looks for workers that are old or too many
BOOT_LOOK_SECONDS = 0.02  # from one look at whether a worker has booted to the next
BOOT_SECONDS = 60.0  # a worker that is not ready by then is replaced
STREAMS_PER_WORKER = 4


def exit_cause(status: int) -> str:
    """Return how a process ended: "SIGSEGV", "exit code 1", or "fork" if it never ran.

    Args:
        status: as `os.waitpid` gives it, or less than 0.
    """
    if status < 0:
        return "fork"
    if not os.WIFSIGNALED(status):
        return f"exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    known = number in set(signal.Signals)
    return signal.Signals(number).name if known else f"signal {number}"


def worker_stats(worker: Worker) -> Dict[str, Any]:
    """Return what can be told of a worker, for `Application.stats`."""
    now, job = time.monotonic(), worker.job
    return {
        "number": worker.number,
        "pid": worker.pid,
        "state": worker.state,
        "route": job and job.route.path,
        "run_seconds": job and now - job.started,
        "age_seconds": now - worker.born,
        "tasks": worker.tasks,
        "memory_bytes": resident_bytes(worker.pid),
    }


def boot_delay_seconds(failures: int) -> float:
    """Return how long to wait before the next try to boot a worker: 0, 0.2 ... 10."""
    return min(10.0, 0.1 * 2**failures) if failures else 0.0


def log_exit(worker: Worker, job: Optional[Job], status: int) -> None:
    """Log the end of a worker that main did not ask for, why it ended, and where."""
    cause = exit_cause(status)
    how = f"{'was killed by' if os.WIFSIGNALED(status) else 'ended with'} {cause}"
    if status < 0:
        how = f"could not be started: {os.strerror(-status)}"
    what = "while it was idle" if worker.booted else "while it booted"
    if job is not None:
        what = f"while it ran {job.route.path}"
    where = worker.take_trace()
    if worker.hung:
        how = "did not end when it was told to, and was killed"
    elif worker.late:
        how = "was stopped"
    elif not worker.crashed:
        return
    if worker.forked_threads > 1 and (worker.hung or worker.late):
        how += f" (forked while {worker.forked_threads} threads ran: see pool_start)"
    log.error("worker %d (pid %d) %s %s%s", worker.number, worker.pid, how, what, where)


def difference(expected: bytes, found: bytes) -> str:
    """Return the first difference between two tables of routes, as text."""
    from itertools import zip_longest

    texts = (table.decode("utf-8", "replace") for table in (expected, found))
    lines = zip_longest(*(text.split("\n") for text in texts), fillvalue="none")
    return next(
        (f"{new} in place of {old}" for old, new in lines if old != new), "none"
    )


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


class Pool:
    """The worker processes, and the jobs that wait for them.

    Args:
        program: what the workers run.
        options: `workers` is how many handlers run at once (int, from 1).
        start_by: "zygote", "exec", "spawn", or "auto" for one of the last two.
        launch: says how a new interpreter finds the program.
        name: of a pool beside the first.

    Jobs that return run on `size` slots; streams run on `max_streams` slots of their
    own, so slow readers do not starve the rest. Idle workers are taken last in, first
    out: the caches of the last one are warm.
    """

    def __init__(
        self,
        program: Program,
        options: PoolOptions,
        start_by: str = "zygote",
        launch: Optional[Callable[[], Launch]] = None,
        name: str = "",
    ) -> None:
        self.options = options
        self.name = name
        self.size = size = options.workers
        self.max_streams = options.max_streams
        if self.max_streams < 0:
            self.max_streams = STREAMS_PER_WORKER * size
        self._least = options.min_workers if 0 <= options.min_workers < size else size
        self.start_by = start_by
        self._breaker = Breaker(options.max_crashes)
        self._outgoing: Optional[Worker] = None  # the one that is being replaced
        self._sweeper: Optional[asyncio.TimerHandle] = None
        self._program = program
        self._launch = launch
        self._zygote: Optional[ZygoteLink] = None
        self.loop: asyncio.AbstractEventLoop
        self._workers: Dict[int, Worker] = {}
        self._idle: List[Worker] = []
        self._admitted: Deque[Job] = deque()  # have a slot, wait for a worker to boot
        self._queues: Dict[Route, Deque[Job]] = {}
        self._running: Dict[Route, int] = {}
        self._waiting = self._jobs = self._streams = 0
        self._numbers = self._requests = 0  # of the last ones
        self._mean_seconds = 0.1
        self.deaths: Dict[str, int] = {}  # of workers, by cause; "" is main's order
        self._starting = 0  # workers about to be asked for
        self._boot_failures = 0
        self._boot_after = 0.0  # when the next try may be, after a failure
        self._closing = False
        self._all_gone: Optional[asyncio.Future[None]] = None
        # PERF: one timer for all jobs, set when it would ring too late: 4 us for each.
        self._alarm: Optional[asyncio.TimerHandle] = None
        self._alarm_at = NEVER

    # Life.

    def prepare(self, unwanted: Sequence[int] = ()) -> None:
        """Start the zygote; a fork, before there is a loop or a thread.

        Raises:
            PixieError: a new interpreter would not find the application.
        """
        if self.start_by == "zygote":
            self._zygote = fork_zygote(self._program, unwanted)
        else:
            self._zygote = self._exec_zygote()

    def _exec_zygote(self) -> ZygoteLink:
        if self._launch is None:
            raise PixieError("this pool can't be started anew")
        start = "exec" if self.start_by == "zygote" else self.start_by
        return exec_zygote(self._launch(), start)

    async def start(self) -> None:
        """Start the workers; jobs that come before they are ready wait for them."""
        self.loop = asyncio.get_running_loop()
        assert self._zygote is not None
        self._listen(self._zygote)
        proc_env.pool = proc_env.pool or self
        for _ in range(self._least):
            self._spawn()
        self._sweep()

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Let the workers end, kill the late ones after `seconds`, end the zygote."""
        self.loop = asyncio.get_running_loop()  # it may not have come to `start`
        self._closing = True
        for timer in (self._sweeper, self._alarm):
            if timer is not None:
                timer.cancel()
        for worker in list(self._workers.values()):
            self.retire(worker)
        if self._workers:
            self._all_gone = self.loop.create_future()
            timer = self.loop.call_later(seconds, self._kill_all)
            give_up = self.loop.call_later(seconds + 2, self._stop_waiting)
            await self._all_gone
            timer.cancel()
            give_up.cancel()
        if self._zygote is not None:
            self.loop.remove_reader(self._zygote.fileno())
        proc_env.pool = None
        self.end_zygote()

    def end_zygote(self) -> None:
        """End the zygote; all there is to do for a pool that was never started."""
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.end()

    def descriptors(self) -> Set[int]:
        """Return the descriptors of its processes that this one holds."""
        found = {self._zygote.fileno()} if self._zygote is not None else set()
        for worker in self._workers.values():
            found.update((worker._incoming, worker._outgoing))
        return found - {-1}

    def reopen_logs(self) -> None:
        """Have the workers, and what starts them, open their log files again."""
        if self._zygote is not None:
            self._zygote.order(SIGNAL, 0, signal.SIGHUP)
        for worker in self._workers.values():
            if worker.booted:
                worker.order(signal.SIGHUP)

    async def check_boot(self) -> None:
        """Wait for a worker that is ready.

        Raises:
            PixieError: the first one to boot, or what starts it, has failed.
        """
        if not self._workers:
            self._spawn()
        while self._zygote is None or not self._zygote.proven:
            if self._boot_failures:
                where = f" of the pool {self.name}" if self.name else ""
                raise PixieError(f"no worker{where} can boot: the log says why")
            await asyncio.sleep(BOOT_LOOK_SECONDS)

    def hurry(self) -> None:
        """Kill the workers that `stop` waits for."""
        if self._closing:
            self._kill_all()

    def _kill_all(self) -> None:
        for worker in list(self._workers.values()):
            worker.order(signal.SIGKILL)

    def _stop_waiting(self) -> None:
        if self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)

    # The zygote.

    def _listen(self, zygote: ZygoteLink) -> None:
        self.loop.add_reader(zygote.fileno(), self._read_reports, zygote)

    def _read_reports(self, zygote: ZygoteLink) -> None:
        reports = zygote.reports()
        if reports is None:
            self._zygote_died(zygote)
            return
        for what, number, pid, status in reports:
            if what == EXITED:
                self._exited(number, status)
            elif number in self._workers:
                self._workers[number].pid = pid
                self._workers[number].forked_threads = status

    def _zygote_died(self, zygote: ZygoteLink) -> None:
        """Start another: what runs is lost, what waits goes on waiting."""
        zygote.kill()  # it may have done no more than close its socket
        self.loop.remove_reader(zygote.fileno())
        self.end_zygote()
        log.critical("the zygote (pid %d), which starts workers, died", zygote.pid)
        if not zygote.proven:
            self._boot_failed()
        for worker in list(self._workers.values()):
            self._lose_to_zygote(worker)
        if not self._closing:
            self.loop.call_later(self._boot_delay(), self._renew_zygote)

    def _lose_to_zygote(self, worker: Worker) -> None:
        try:
            if worker.pid:
                os.killpg(worker.pid, signal.SIGKILL)
        except OSError:
            pass  # the kernel was faster: die_with_parent
        self.lost(worker)
        worker.crashed = False  # by no fault of what it ran
        self._exited(worker.number, signal.SIGKILL)

    def _renew_zygote(self) -> None:
        if self._closing:
            return
        try:
            self._zygote = self._exec_zygote()
        except (PixieError, OSError) as error:
            log.critical("no worker can be started, restart the server: %s", error)
            self._closing = True
            self._reject_waiting()
            return
        self._listen(self._zygote)
        self._ensure_workers()

    # Workers.

    def _spawn(self) -> None:
        assert self._zygote is not None
        worker = Worker(self, self._numbers + 1, self._zygote)
        self._numbers += 1
        self._workers[worker.number] = worker
        worker.timer = self.loop.call_later(BOOT_SECONDS, self._boot_late, worker)
        worker.open()

    def _missing(self) -> int:
        """Return how many workers to start: one for each slot taken, and at least some.

        While one is being replaced, it is one more.
        """
        if self._closing or self._zygote is None:
            return 0
        wanted = max(self._least, self._jobs + self._streams) - self._starting
        if self._outgoing is not None:
            wanted += self._outgoing.state != "dying"
        for worker in self._workers.values():
            leaves = worker.state == "dying" and worker.slot_is_stream is None
            wanted -= not (leaves or worker.last_job)
        return wanted

    def _ensure_workers(self) -> None:
        for _ in range(self._missing()):
            self._starting += 1
            self.loop.call_later(self._boot_delay(), self._start_one)

    def _start_one(self) -> None:
        self._starting -= 1
        if self._missing() <= 0:
            return
        try:
            self._spawn()
        except OSError as error:
            log.error("a worker can't be started: %s", error)
            self._boot_failed()
            self._ensure_workers()

    def _boot_failed(self) -> None:
        """Wait longer before the next try; workers that fail together count once."""
        now = time.monotonic()
        if now >= self._boot_after:
            self._boot_failures += 1
            self._boot_after = now + boot_delay_seconds(self._boot_failures)

    def _boot_delay(self) -> float:
        return max(0.0, self._boot_after - time.monotonic())

    def _boot_late(self, worker: Worker) -> None:
        log.error("worker %d was not ready within %g s", worker.number, BOOT_SECONDS)
        self.retire(worker, hard=True)

    def ready(self, worker: Worker, table: bytes) -> None:
        """Take a worker that has booted, unless it would run other handlers.

        Args:
            table: the routes that it has found; empty if it was forked with main's.
        """
        if table and table != self._program.table:
            what = difference(self._program.table, table)
            log.error("worker %d has other routes: %s", worker.number, what)
            self.retire(worker, hard=True)
            return
        self._boot_failures, self._boot_after = 0, 0.0
        worker.booted = worker.zygote.proven = True
        assert worker.timer is not None
        worker.timer.cancel()
        self._put_to_work(worker)
        old = self._outgoing
        if old is not None and old is not worker and old.state == "idle":
            self.retire(old)
        elif old is not None and old is not worker:
            old.last_job = True
            self._outgoing = None  # it may take long: the next one need not wait

    # Replacing workers: the new one is ready first, and one goes at a time.

    def _is_due(self, worker: Worker) -> bool:
        """Return whether a worker has used up what it may."""
        options, share = self.options, worker.share
        tasks, age = options.max_tasks_per_worker, options.max_worker_age_seconds
        if tasks and worker.tasks >= tasks * share:
            return True
        if age and time.monotonic() - worker.born >= age * share:
            return True
        return self._is_larger(worker, share)

    def _is_larger(self, worker: Worker, share: float) -> bool:
        most = self.options.max_worker_bytes
        return bool(most) and resident_bytes(worker.pid) >= most * share

    def _recycle(self, worker: Worker) -> None:
        """Have a worker replaced if it is due, and no other is being replaced."""
        if self._outgoing is not None or worker.last_job:
            return
        if self._zygote is not None and self._is_due(worker):
            self._outgoing = worker
            self._ensure_workers()

    def _recycle_next(self) -> None:
        for worker in list(self._workers.values()):
            if worker.state in ("idle", "busy"):
                self._recycle(worker)

    def _sweep(self) -> None:
        """Find workers that have grown old, and end those that nobody needs."""
        self._sweeper = self.loop.call_later(POOL_SWEEP_SECONDS, self._sweep)
        self._recycle_next()
        alive = [one for one in self._workers.values() if one.state != "dying"]
        until = time.monotonic() - self.options.worker_idle_seconds
        for worker in self._idle[: max(0, len(alive) - self._least)]:
            if worker.idle_since <= until:
                self.retire(worker)

    def release(self, worker: Worker, retire: bool) -> None:
        """Take back a worker whose job is done."""
        job, worker.job = worker.job, None
        assert job is not None
        job.end()
        seconds = time.monotonic() - job.started
        if not job.is_stream:
            self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
        self._running[job.route] -= 1
        # Its replacement may take long to boot; beyond its bound it does not wait.
        if retire or worker.last_job or self._is_larger(worker, 1.0):
            self.retire(worker)
            return
        self._free_slot(worker)
        self._put_to_work(worker)
        self._dispatch()
        self._recycle(worker)

    def _free_slot(self, worker: Worker) -> None:
        if worker.slot_is_stream is not None:
            if worker.slot_is_stream:
                self._streams -= 1
            else:
                self._jobs -= 1
            worker.slot_is_stream = None

    def _put_to_work(self, worker: Worker) -> None:
        if worker.ended or self._closing:
            self.retire(worker)
        elif self._admitted:
            self._start(worker, self._admitted.popleft())
        else:
            worker.state = "idle"
            worker.idle_since = time.monotonic()
            self._idle.append(worker)

    def retire(self, worker: Worker, hard: bool = False, soft: bool = False) -> None:
        """End a worker; its pipes are never used again, its slot free when it is gone.

        Args:
            hard: kill at once.
            soft: raise RequestTimeout in its handler first.
        Otherwise it may end by itself. In each case it is killed after the grace.
        """
        if worker.state == "dying":
            return
        if worker in self._idle:
            self._idle.remove(worker)
        # What is killed must not see its pipes end first, and clean up by half.
        (worker.pause if hard else worker.close)()
        worker.state = "dying"
        if worker.timer is not None:
            worker.timer.cancel()
        if hard or soft:
            worker.order(signal.SIGKILL if hard else signal.SIGUSR2)
        grace = self.options.timeout_grace_seconds if soft else STOP_SECONDS
        worker.timer = self.loop.call_later(grace, self._grace_over, worker)

    def _grace_over(self, worker: Worker) -> None:
        """Have a worker write where it hangs, and kill it a moment later."""
        worker.hung = True
        size = os.fstat(worker.trace).st_size  # of where it was at its deadline
        worker.order(signal.SIGUSR1)
        self._await_trace(worker, size, size, TRACE_SECONDS)

    def _await_trace(self, worker: Worker, first: int, size: int, left: float) -> None:
        found = os.fstat(worker.trace).st_size
        if first < found == size or left <= 0:
            worker.order(signal.SIGKILL)
            return
        left -= TRACE_LOOK_SECONDS
        look = partial(self._await_trace, worker, first, found, left)
        worker.timer = self.loop.call_later(TRACE_LOOK_SECONDS, look)

    def lost(self, worker: Worker) -> None:
        """Note that a worker's connection has ended; its job has failed."""
        if worker.state == "dying":
            return
        worker.crashed = True
        self.retire(worker, hard=True)
        if worker.job is not None:
            worker.job.fail(AnswerLost(502, "The worker that ran this request died."))

    def _count_exit(self, worker: Worker, job: Optional[Job], status: int) -> None:
        cause = exit_cause(status)
        if worker.crashed or cause == "SIGKILL":
            key = cause if worker.crashed else ""
            self.deaths[key] = self.deaths.get(key, 0) + 1
        if worker.crashed and job is not None:
            job.route.counts.crashes += 1

    def _exited(self, number: int, status: int) -> None:
        worker = self._workers.pop(number, None)
        if worker is None:
            return
        worker.take_rest()
        self.lost(worker)
        if worker.timer is not None:
            worker.timer.cancel()
        worker.close()
        job, worker.job = worker.job, None
        self._count_exit(worker, job, status)
        self._free_slot(worker)
        if job is not None:
            job.end()
            self._running[job.route] -= 1
            # Nobody waits any more, but where the server has ended its connection.
            job.fail(AnswerLost(502, "The worker that ran this request was ended."))
        log_exit(worker, job, status)
        if worker is self._outgoing:
            self._outgoing = None
        if self._closing:
            if not self._workers:
                self._stop_waiting()
            return
        if worker.crashed and job is not None and self._breaker.note(job.route):
            seconds = CRASH_REST_SECONDS
            log.error("%s is off for %g s: workers die of it", job.route.path, seconds)
            self._reject_waiting(job.route)
        if not worker.booted and worker.zygote is self._zygote:
            self._boot_failed()
        self._ensure_workers()
        self._recycle_next()
        self._dispatch()

    def stats(self) -> Dict[str, Any]:
        """Return its bounds, counts and workers, for `Application.stats`."""
        crashes = dict(self.deaths)
        return {
            "size": self.size,
            "busy": self._jobs,
            "max_streams": self.max_streams,
            "streams": self._streams,
            "max_waiting": WAITING_PER_SLOT * self.size,
            "waiting": self._waiting + len(self._admitted),
            "started": self._numbers,
            "kills": crashes.pop("", 0),
            "crashes": crashes,
            "workers": [worker_stats(one) for one in list(self._workers.values())],
        }

    # Jobs.

    async def run(self, route: Route, request: Request) -> Response:
        """Run a route in a worker, now or when its turn has come.

        Raises:
            HTTPError: 503 when too much waits, it waited too long, or workers keep
                dying of it, 504 at the deadline, 502 when the worker died.
        """
        self._requests = (self._requests + 1) & 0xFFFFFFFF
        job = Job(self._requests, route, request, self.loop.create_future())
        try:
            if self._closing or self._breaker.seconds_left(route):
                raise self._rejection(route)
            if self._may_start(route) and not self._queues.get(route):
                self._admit(job)
            else:
                self._enqueue(job)
            return await self._answer_of(job)
        finally:
            if job.worker is None:
                self._drop(job)  # nobody waits for it any more, where this is cancelled
                job.end()

    async def _answer_of(self, job: Job) -> Response:
        request = job.request
        disconnect = request.disconnect or Disconnect()
        left = partial(self._client_left, job)
        disconnect.add(left)
        try:
            return await job.future
        finally:
            disconnect.remove(left)
            request.queue_seconds = (job.started or time.monotonic()) - job.arrived

    def _may_start(self, route: Route) -> bool:
        if route.limit is not None and self._running.get(route, 0) >= route.limit:
            return False
        if route.placement is RouteType.stream:
            return self._streams < self.max_streams
        return self._jobs < self.size

    def _admit(self, job: Job) -> None:
        """Give a job its slot, and a worker: an idle one, or the next that is ready."""
        self._running[job.route] = self._running.get(job.route, 0) + 1
        if job.is_stream:
            self._streams += 1
        else:
            self._jobs += 1
        if self._idle:
            self._start(self._idle.pop(), job)
            return
        self._admitted.append(job)
        self._limit_wait(job)
        self._ensure_workers()

    def _start(self, worker: Worker, job: Job) -> None:
        worker.slot_is_stream = job.is_stream
        job.started = time.monotonic()
        worker.start(job)
        self.watch(job)

    def _enqueue(self, job: Job) -> None:
        queue = self._queues.get(job.route)
        if queue is None:
            queue = self._queues[job.route] = deque()
        room = own_room = WAITING_PER_SLOT * self.size
        if job.is_stream:
            own_room = room // 2  # streams last: leave room for the others
        if job.route.limit is not None:
            own_room = min(own_room, WAITING_PER_SLOT * job.route.limit)
        if self._waiting >= room or len(queue) >= own_room:
            raise self._rejection(job.route)
        self._waiting += 1
        queue.append(job)
        self._limit_wait(job)

    def _limit_wait(self, job: Job) -> None:
        self._set_deadline(job, job.arrived + job.route.queue_timeout)

    def _rejection(self, route: Route) -> HTTPError:
        """Return the 503 of a request that will not be run, whatever the reason."""
        seconds = self._breaker.seconds_left(route)
        if not seconds:
            seconds = self._waiting * self._mean_seconds / self.size
        return busy_error(max(1, int(seconds + 0.999)))

    def _waited_too_long(self, job: Job) -> None:
        if self._drop(job):
            job.fail(self._rejection(job.route))

    def _reject_waiting(self, route: Optional[Route] = None) -> None:
        """Reject all that waits, or all of a route."""
        for line in (self._admitted, *self._queues.values()):
            for job in list(line):
                if route in (None, job.route):
                    self._waited_too_long(job)

    def _drop(self, job: Job) -> bool:
        """Take a job out, if it has not been started yet; return whether that is so."""
        if job in self._admitted:
            self._admitted.remove(job)
            self._running[job.route] -= 1
            if job.is_stream:
                self._streams -= 1
            else:
                self._jobs -= 1
            self._dispatch()
            return True
        waiting = self._queues.get(job.route)
        if not waiting or job not in waiting:
            return False
        waiting.remove(job)
        self._waiting -= 1
        return True

    def _dispatch(self) -> None:
        """Start what may start now: the oldest first, but no route above its limit."""
        while self._waiting:
            first: Optional[Job] = None
            for route, queue in self._queues.items():
                if queue and (first is None or queue[0].arrived < first.arrived):
                    first = queue[0] if self._may_start(route) else first
            if first is None:
                return
            self._queues[first.route].popleft()
            self._waiting -= 1
            self._admit(first)

    def streams(self, job: Job) -> None:
        """Note that a job on an ordinary slot turned out to be a stream."""
        if not job.is_stream and job.worker is not None:
            job.is_stream = job.worker.slot_is_stream = True
            self._jobs -= 1
            self._streams += 1
            self._dispatch()

    def watch(self, job: Job) -> None:
        """Start the deadline of a job: of all of it, or of a stream's next chunk."""
        seconds = job.route.timeout
        self._set_deadline(
            job, NEVER if seconds is None else time.monotonic() + seconds
        )

    def _set_deadline(self, job: Job, moment: float) -> None:
        job.deadline = moment
        if moment < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_at = moment
            seconds = max(0.0, moment - time.monotonic())
            self._alarm = self.loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        """End what is too late, and set the alarm for what is next."""
        self._alarm, self._alarm_at = None, NEVER
        jobs = [one.job for one in self._workers.values() if one.job is not None]
        for line in (self._admitted, *self._queues.values()):
            jobs += line
        now = time.monotonic()
        for job in jobs:
            if job.deadline <= now:
                self._too_late(job)
        nearest = min(jobs, key=lambda job: job.deadline, default=None)
        if nearest is not None:
            self._set_deadline(nearest, nearest.deadline)

    def _too_late(self, job: Job) -> None:
        if job.worker is None:
            self._waited_too_long(job)
            return
        # The client is told now; the worker is given a moment to run its `finally`.
        job.fail(deadline_error(job.route))
        job.worker.late = True
        self.retire(job.worker, soft=True)

    def _client_left(self, job: Job) -> None:
        gone = ClientDisconnected("the client left")
        if self._drop(job):
            job.fail(gone)
        elif job.stream is None and job.worker is not None and not job.future.done():
            kill = job.route.on_disconnect == "kill"
            if job.route.on_disconnect == "finish" or (job.is_stream and not kill):
                job.worker.send(Frame.CANCEL, job)  # for env.disconnected
                return
            self.retire(job.worker, hard=kill, soft=not kill)
            job.fail(gone)
