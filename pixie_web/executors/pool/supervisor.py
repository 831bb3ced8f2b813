"""The life of a pool's workers: their zygote, their starts, their ends."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Set

from ...about import log
from ...errors import AnswerLost, PixieError
from .frames import PoolOptions, Program, cpu_count
from .links import STOP_SECONDS, Job, Retirement, WorkerLink
from .recycling import Recycler
from .scheduler import CRASH_REST_SECONDS, Scheduler
from .zygote import EXITED, SIGNAL, Launch, ZygoteLink, exec_zygote, fork_zygote

BOOT_LOOK_SECONDS = 0.02  # from one look at whether a worker has booted to the next
POOL_SWEEP_SECONDS = 1.0  # how often a pool looks for workers that are old or too many


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


def worker_stats(worker: WorkerLink, memory_bytes: int) -> Dict[str, Any]:
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
        "memory_bytes": memory_bytes,
    }


def boot_delay_seconds(failures: int) -> float:
    """Return how long to wait before the next try to boot a worker: 0, 0.2 ... 10."""
    return min(10.0, 0.1 * 2**failures) if failures else 0.0


def log_exit(worker: WorkerLink, job: Optional[Job], status: int) -> None:
    """Log the end of a worker that main did not ask for, why it ended, and where."""
    cause = exit_cause(status)
    how = f"{'was killed by' if os.WIFSIGNALED(status) else 'ended with'} {cause}"
    if status < 0:
        how = f"could not be started: {os.strerror(-status)}"
    what = "while it was idle" if worker.booted else "while it booted"
    if job is not None:
        what = f"while it ran {job.route.path}"
    where = worker.trace.take()
    late = worker.why is Retirement.late
    if worker.hung:
        how = "did not end when it was told to, and was killed"
    elif late:
        how = "was stopped"
    elif worker.why is not Retirement.lost:
        return
    if worker.forked_threads > 1 and (worker.hung or late):
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


def kill_group(worker: WorkerLink) -> None:
    """Kill a worker whose zygote has died, with all that it has started."""
    try:
        if worker.pid:
            os.killpg(worker.pid, signal.SIGKILL)
    except OSError:
        pass  # the kernel was faster: die_with_parent


def has_place(worker: WorkerLink) -> bool:
    """Return whether no other is to be started in place of a worker."""
    leaves = worker.state == "dying" and worker.slot_is_stream is None
    return not (leaves or worker.last_job)


def _refuse_order(payload: bytes) -> None:
    log.error("a worker ordered a job, but this process runs no jobs")


class BootPace:
    """When the next worker may be started, after some that could not boot."""

    def __init__(self) -> None:
        self.failures = 0
        self._after = 0.0

    def failed(self) -> None:
        """Wait longer before the next try; workers that fail together count once."""
        now = time.monotonic()
        if now >= self._after:
            self.failures += 1
            self._after = now + boot_delay_seconds(self.failures)

    def succeeded(self) -> None:
        """Wait no more."""
        self.failures, self._after = 0, 0.0

    @property
    def delay_seconds(self) -> float:
        """How long to wait from now on."""
        return max(0.0, self._after - time.monotonic())


class Supervisor:
    """Starts the workers of a pool, watches them, and replaces those that end.

    Args:
        program: what the workers run.
        options: `workers` is how many handlers run at once (int, from 1).
        start_by: "zygote", "exec", "spawn", or "auto" for one of the last two.
        launch: says how a new interpreter finds the program.
        name: of a pool beside the first.

    Attributes:
        size: how many jobs run at once, each in a worker.
        workers: all that have not ended, by their number.
        idle: last in, first out: the caches of the last one are warm.
        deaths: of workers, by cause; "" is main's order.
        started: how many workers there have been.
        boots_at_once: how many workers may boot while one more would be for a stream.
    """

    def __init__(
        self,
        program: Program,
        options: PoolOptions,
        start_by: str = "zygote",
        launch: Optional[Callable[[], Launch]] = None,
        name: str = "",
    ) -> None:
        self.name, self.options = name, options
        self.size = options.workers
        self.scheduler = Scheduler(options, self._hire)
        self.take_order: Callable[[bytes], None] = _refuse_order
        self.watch = self.scheduler.watch
        self.became_stream = self.scheduler.became_stream
        self.workers: Dict[int, WorkerLink] = {}
        self.idle: List[WorkerLink] = []
        self.deaths: Dict[str, int] = {}
        self.started = self._starting = 0  # so far; and those about to be asked for
        self.boots_at_once = cpu_count()
        self._sweeper: Optional[asyncio.TimerHandle] = None
        self._program = program
        self._start_by = start_by
        self._launch = launch
        self._zygote: Optional[ZygoteLink] = None
        self._recycler = Recycler(
            options, self.workers, self.idle, self._ensure_workers
        )
        self._loop: asyncio.AbstractEventLoop
        self._pace = BootPace()
        self._closing = False
        self._all_gone: Optional[asyncio.Future[None]] = None

    # Life.

    def prepare(self, unwanted: Sequence[int] = ()) -> None:
        """Start the zygote; a fork, before there is a loop or a thread.

        Raises:
            PixieError: a new interpreter would not find the application.
        """
        if self._start_by == "zygote":
            self._zygote = fork_zygote(self._program, unwanted)
        else:
            self._zygote = self._exec_zygote()

    def _exec_zygote(self) -> ZygoteLink:
        if self._launch is None:
            raise PixieError("this pool can't be started again")
        start = "exec" if self._start_by == "zygote" else self._start_by
        return exec_zygote(self._launch(), start)

    async def start(self) -> None:
        """Start the workers; jobs that come before they are ready wait for them."""
        self._loop = asyncio.get_running_loop()
        assert self._zygote is not None
        self._listen(self._zygote)
        for _ in range(self._recycler.least):
            self._spawn()
        self._sweep()

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Let the workers end, kill the late ones after `seconds`, end the zygote."""
        self._loop = asyncio.get_running_loop()  # it may not have come to `start`
        self._close()
        self.scheduler.stop_alarm()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for worker in list(self.workers.values()):
            worker.retire(Retirement.replaced)
        if self.workers:
            self._all_gone = self._loop.create_future()
            timer = self._loop.call_later(seconds, self._kill_all)
            give_up = self._loop.call_later(seconds + 2, self._stop_waiting)
            await self._all_gone
            timer.cancel()
            give_up.cancel()
        if self._zygote is not None:
            self._loop.remove_reader(self._zygote.fileno())
        self.end_zygote()

    def _close(self) -> None:
        self._closing = self.scheduler.closed = True

    def end_zygote(self) -> None:
        """End the zygote; all there is to do for a pool that was never started."""
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.end()

    def descriptors(self) -> Set[int]:
        """Return the descriptors of its processes that this one holds."""
        found = {self._zygote.fileno()} if self._zygote is not None else set()
        for worker in self.workers.values():
            found |= worker.descriptors
        return found

    def reopen_logs(self) -> None:
        """Have the workers, and what starts them, open their log files again."""
        if self._zygote is not None:
            self._zygote.order(SIGNAL, 0, signal.SIGHUP)
        for worker in self.workers.values():
            if worker.booted:
                worker.order(signal.SIGHUP)

    async def check_boot(self) -> None:
        """Wait for a worker that is ready.

        Raises:
            PixieError: the first one to boot, or what starts it, has failed.
        """
        if not self.workers:
            self._spawn()
        while self._zygote is None or not self._zygote.proven:
            if self._pace.failures:
                where = f" of the pool {self.name}" if self.name else ""
                raise PixieError(f"no worker{where} can start: the log says why")
            await asyncio.sleep(BOOT_LOOK_SECONDS)

    def hurry(self) -> None:
        """Kill the workers that `stop` waits for."""
        if self._closing:
            self._kill_all()

    def _kill_all(self) -> None:
        for worker in list(self.workers.values()):
            worker.order(signal.SIGKILL)

    def _stop_waiting(self) -> None:
        if self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)

    # The zygote.

    def _listen(self, zygote: ZygoteLink) -> None:
        self._loop.add_reader(zygote.fileno(), self._read_reports, zygote)

    def _read_reports(self, zygote: ZygoteLink) -> None:
        reports = zygote.reports()
        if reports is None:
            self._zygote_died(zygote)
            return
        for what, number, pid, status in reports:
            if what == EXITED:
                self._exited(number, status)
            elif number in self.workers:
                self.workers[number].started(pid, status)

    def _zygote_died(self, zygote: ZygoteLink) -> None:
        """Start another: what runs is lost, what waits goes on waiting."""
        zygote.kill()  # it may have done no more than close its socket
        self._loop.remove_reader(zygote.fileno())
        self.end_zygote()
        log.critical("the zygote (pid %d), which starts workers, died", zygote.pid)
        if not zygote.proven:
            self._pace.failed()
        for worker in list(self.workers.values()):
            kill_group(worker)
            worker.lose(Retirement.orphaned)
        # Not before all of them are taken out of service: what waits would be given to
        # one that is about to be.
        for number in list(self.workers):
            self._exited(number, signal.SIGKILL)
        if not self._closing:
            self._loop.call_later(self._pace.delay_seconds, self._renew_zygote)

    def _renew_zygote(self) -> None:
        if self._closing:
            return
        try:
            self._zygote = self._exec_zygote()
        except (PixieError, OSError) as error:
            log.critical("no worker can be started, restart the server: %s", error)
            self._close()
            self.scheduler.reject_waiting()
            return
        self._listen(self._zygote)
        self._ensure_workers()

    # Workers that start.

    def _spawn(self) -> None:
        assert self._zygote is not None
        worker = WorkerLink(self, self.started + 1, self._zygote)
        self.started += 1
        self.workers[worker.number] = worker
        worker.open()

    def _missing(self) -> int:
        """Return how many workers to start: one for each slot taken, and at least some.

        While one is being replaced, it is one more. Those for streams boot behind the
        others and a few at a time: twenty at once would have a job wait for them all.
        """
        if self._closing or self._zygote is None:
            return 0
        recycler, scheduler = self._recycler, self.scheduler
        there = self._starting + sum(map(has_place, self.workers.values()))
        there -= recycler.extra
        urgent = max(recycler.least, scheduler.taken - scheduler.admitted_streams)
        wanted = max(recycler.least, scheduler.taken)
        rest = min(wanted - there, self.boots_at_once - self._booting())
        return max(urgent - there, rest)

    def _ensure_workers(self) -> None:
        for _ in range(self._missing()):
            self._starting += 1
            self._loop.call_later(self._pace.delay_seconds, self._start_one)

    def _start_one(self) -> None:
        self._starting -= 1
        try:
            if self._missing() > 0:
                self._spawn()
        except OSError as error:
            log.error("a worker can't be started: %s", error)
            self._pace.failed()
            self._ensure_workers()
        self._lend()  # to streams, if those that were busy are free again

    def ready(self, worker: WorkerLink, table: bytes) -> None:
        """Take a worker that has booted, unless it would run other handlers.

        Args:
            table: the routes that it has found; empty if it was forked with main's.
        """
        if table and table != self._program.table:
            what = difference(self._program.table, table)
            log.error("worker %d has other routes than main: %s", worker.number, what)
            worker.retire(Retirement.killed)
            return
        self._pace.succeeded()
        worker.accept()
        self._put_to_work(worker, True)
        self._recycler.take_over(worker)
        self._ensure_workers()  # of those for streams the next one may boot
        self._lend()

    # Workers that work.

    def _hire(self) -> Optional[WorkerLink]:
        """Return an idle worker, or None and have one started if that is missing."""
        if self.idle:
            return self.idle.pop()
        self._ensure_workers()
        return None

    def _put_to_work(self, worker: WorkerLink, for_streams: bool) -> None:
        if worker.ended or self._closing:
            worker.retire(Retirement.replaced)
        elif not self.scheduler.employ(worker, for_streams):
            worker.rest()
            self.idle.append(worker)

    def _lend(self) -> None:
        """Give idle workers to streams that no worker boots for.

        While one boots, those that have done a job stay for the next one: it would
        have to wait for a boot itself.
        """
        while self.idle and self.scheduler.admitted_streams and not self._booting():
            self._put_to_work(self.idle.pop(), True)

    def _booting(self) -> int:
        states = [worker.state for worker in self.workers.values()]
        return states.count("starting") + self._starting

    def release(self, worker: WorkerLink, job: Job, is_last: bool) -> None:
        """Take back a worker whose job is done."""
        self.scheduler.ended(job)
        # Its replacement may take long to boot; beyond its bound it does not wait.
        if is_last or self._recycler.is_larger(worker):
            worker.retire(Retirement.replaced)
            return
        self.scheduler.free(worker.leave_slot())
        self._put_to_work(worker, False)
        self.scheduler.dispatch()
        self._recycler.consider(worker)

    def retired(self, worker: WorkerLink) -> None:
        """Give a worker no job from now on."""
        if worker in self.idle:
            self.idle.remove(worker)

    # Workers that end.

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(POOL_SWEEP_SECONDS, self._sweep)
        self._recycler.sweep()

    def _exited(self, number: int, status: int) -> None:
        worker = self.workers.pop(number, None)
        if worker is None:
            return
        job = worker.gone()
        self._count_exit(worker, job, status)
        self.scheduler.free(worker.leave_slot())
        if job is not None:
            self.scheduler.ended(job)
            # Nobody waits any more, but where the server has ended its connection.
            job.fail(AnswerLost(502, "The worker that ran this request was ended."))
            job.died(exit_cause(status))
        log_exit(worker, job, status)
        self._recycler.forget(worker)
        if self._closing:
            if not self.workers:
                self._stop_waiting()
            return
        if worker.why is Retirement.lost and job is not None:
            self._note_crash(job)
        if not worker.booted and worker.zygote is self._zygote:
            self._pace.failed()
        self._lend()
        self._ensure_workers()
        self._recycler.consider_all()
        self.scheduler.dispatch()

    def _count_exit(self, worker: WorkerLink, job: Optional[Job], status: int) -> None:
        cause, crashed = exit_cause(status), worker.why is Retirement.lost
        if crashed or cause == "SIGKILL":
            key = cause if crashed else ""
            self.deaths[key] = self.deaths.get(key, 0) + 1
        if crashed and job is not None:
            job.route.counts.crashes += 1

    def _note_crash(self, job: Job) -> None:
        if self.scheduler.breaker.note(job.route):
            seconds = CRASH_REST_SECONDS
            log.error("%s is off for %g s: it kills workers", job.route.path, seconds)
            self.scheduler.reject_waiting(job.route)
