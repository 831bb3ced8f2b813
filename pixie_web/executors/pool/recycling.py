"""Replacing workers: the new one is ready first, and one goes at a time."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Callable, Dict, Mapping, Optional, Sequence

from ...requests import NEVER
from .frames import PoolOptions
from .links import Retirement, WorkerLink

MEMORY_WANTED_SECONDS = 60.0  # how long they are looked at after somebody has asked
# PERF: the kernel walks through all pages, 16 ms for 1 GB: a twentieth of one CPU.
MEMORY_PAUSE = 20.0


def private_bytes(pid: int) -> int:
    """Return the memory that a process shares with no other (Linux; else 0).

    Before Linux 4.14, or where the kernel tells main no more, it is what no file backs.
    """
    folder = f"/proc/{pid}"
    try:
        with open(f"{folder}/smaps_rollup") as file:
            lines = [line.split() for line in file]
        private = ("Private_Clean:", "Private_Dirty:")
        return 1024 * sum(int(line[1]) for line in lines if line[0] in private)
    except OSError:
        pass
    try:
        with open(f"{folder}/statm") as file:
            resident, shared = map(int, file.read().split()[1:3])
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds, shared pages too (Linux; else 0)."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


class MemoryWatch:
    """The memory of a pool's workers, as the last look found it.

    It is read in a thread: the kernel has a reader wait while the process maps memory.

    Args:
        workers: those of the pool, as they are at any time.
        changed: is called when it was read.
    """

    def __init__(
        self, workers: Mapping[int, WorkerLink], changed: Callable[[], None]
    ) -> None:
        self._workers = workers
        self._changed = changed
        self._known: Dict[int, int] = {}
        self._not_before = self._asked = -NEVER

    def bytes_of(self, worker: WorkerLink) -> int:
        """Return what a worker shares with no other; 0: it was not looked at yet."""
        return self._known.get(worker.number, 0)

    def ask(self) -> None:
        """Have all workers looked at for a while; from any thread."""
        self._asked = time.monotonic()

    def look(self, always: bool) -> None:
        """Read it, if it is time: of workers that are new, or of all that are wanted.

        Args:
            always: all are, though nobody has asked.
        """
        now = time.monotonic()
        wanted = always or now < self._asked + MEMORY_WANTED_SECONDS
        pids = {
            number: worker.pid
            for number, worker in self._workers.items()
            if worker.booted and worker.pid and (wanted or number not in self._known)
        }
        if not pids or now < self._not_before:
            return
        arguments = (asyncio.get_running_loop(), pids)
        try:
            # Not in the loop's executor: handlers may have taken all of its threads.
            threading.Thread(target=self._read, args=arguments, daemon=True).start()
        except RuntimeError:
            return  # no thread is left for it
        self._not_before = NEVER

    def _read(self, loop: asyncio.AbstractEventLoop, pids: Dict[int, int]) -> None:
        found = {number: private_bytes(pid) for number, pid in pids.items()}
        try:
            loop.call_soon_threadsafe(self.note, found, time.thread_time())
        except RuntimeError:
            pass  # the loop has been closed

    def note(self, found: Mapping[int, int], seconds: float) -> None:
        """Take what was read, by numbers of workers, and what CPU time that took."""
        self._not_before = time.monotonic() + MEMORY_PAUSE * seconds
        known = {**self._known, **found}
        self._known = {one: known[one] for one in self._workers if one in known}
        self._changed()


class Recycler:
    """Replaces the workers of a pool that have done enough, or are too old or large.

    Args:
        workers, idle: those of the pool, as they are at any time.
        ensure_workers: starts the workers that are missing.

    Attributes:
        memory: of the workers.
        outgoing: the worker that is being replaced, or None.
        least: how many workers there are, though there may be nothing to do.
    """

    def __init__(
        self,
        options: PoolOptions,
        workers: Mapping[int, WorkerLink],
        idle: Sequence[WorkerLink],
        ensure_workers: Callable[[], None],
    ) -> None:
        size, self.least = options.workers, options.min_workers
        if not 0 <= self.least < size:
            self.least = size
        self.memory = MemoryWatch(workers, self.consider_all)
        self.outgoing: Optional[WorkerLink] = None
        self._options = options
        self._workers = workers
        self._idle = idle
        self._ensure_workers = ensure_workers

    @property
    def extra(self) -> int:
        """How many workers more there are while one is being replaced."""
        return int(self.outgoing is not None and self.outgoing.state != "dying")

    def _is_due(self, worker: WorkerLink) -> bool:
        """Return whether a worker has used up what it may."""
        options, share = self._options, worker.share
        tasks, age = options.max_tasks_per_worker, options.max_worker_age_seconds
        if tasks and worker.tasks >= tasks * share:
            return True
        if age and time.monotonic() - worker.born >= age * share:
            return True
        return self.is_larger(worker, share)

    def is_larger(self, worker: WorkerLink, share: float = 1.0) -> bool:
        """Return whether a worker has this share of the memory that it may have."""
        most = self._options.max_worker_bytes
        return bool(most) and self.memory.bytes_of(worker) >= most * share

    def consider(self, worker: WorkerLink) -> None:
        """Have a worker replaced if it is due, and no other is being replaced."""
        if self.outgoing is not None or worker.last_job:
            return
        if self._is_due(worker):
            self.outgoing = worker
            self._ensure_workers()

    def consider_all(self) -> None:
        """Have the first worker replaced that is due."""
        for worker in list(self._workers.values()):
            if worker.state in ("idle", "busy"):
                self.consider(worker)

    def sweep(self) -> None:
        """Find workers that have grown old, and end those that nobody needs."""
        self.consider_all()
        self.memory.look(self._options.max_worker_bytes > 0)
        alive = [one for one in self._workers.values() if one.state != "dying"]
        until = time.monotonic() - self._options.worker_idle_seconds
        for worker in self._idle[: max(0, len(alive) - self.least)]:
            if worker.idle_since <= until:
                worker.retire(Retirement.replaced)

    def take_over(self, worker: WorkerLink) -> None:
        """Let the one that is being replaced go: another worker is ready."""
        old = self.outgoing
        if old is None or old is worker:
            return
        if old.state == "idle":
            old.retire(Retirement.replaced)
        else:
            old.end_after_job()
            self.outgoing = None  # it may take long: the next one need not wait

    def forget(self, worker: WorkerLink) -> None:
        """Note that a worker is gone."""
        if worker is self.outgoing:
            self.outgoing = None
