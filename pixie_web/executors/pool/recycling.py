"""Replacing workers: the new one is ready first, and one goes at a time."""

from __future__ import annotations

import time
from typing import Callable, Mapping, Optional, Sequence

from .frames import PoolOptions
from .links import Retirement, WorkerLink, resident_bytes


class Recycler:
    """Replaces the workers of a pool that have done enough, or are too old or large.

    Args:
        workers, idle, zygotes: those of the pool, as they are at any time.
        ensure_workers: starts the workers that are missing.

    Attributes:
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
        return bool(most) and resident_bytes(worker.pid) >= most * share

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
