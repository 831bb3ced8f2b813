"""The life of an application, under any server: pools, threads, hooks."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any, Dict, Mapping, Sequence, cast

from .about import LONE, log
from .application import Application
from .errors import PixieError, companion
from .executors.dispatch import EXECUTORS
from .executors.pool.frames import PoolOptions, Program, cpu_count
from .executors.pool.links import STOP_SECONDS
from .executors.pool.pool import Pool
from .executors.pool.worker import fill_standard_descriptors, keep_log
from .executors.pool.zygote import (
    THREADS_FORKED,
    count_lasting_threads,
    warn_of_connections,
)
from .forks import this_process
from .handling import answer, answer_async
from .launch import apply_settings, configure_logging, describe_launch
from .protocol.multipart import FormLimits
from .settings import import_ahead, read_settings


class Lifespan:
    """The parts with which an application answers, from its start to its end.

    It knows no sockets and no signals, and has no loop of its own: first `prepare`,
    then `start`, requests, and `stop` in whatever loop runs.

    Args:
        application: the one that answers, and what is mounted below it.
        settings: all of them, as `read_settings` returns them.
        forks: this process is its own, so that what starts the workers may be forked.
        inline: pool routes run in threads, whatever the settings of their pools say.

    Attributes:
        pools: of worker processes, by their name; those that some route needs.
    """

    def __init__(
        self,
        application: Application,
        settings: Mapping[str, Any],
        forks: bool = True,
        inline: bool = False,
    ) -> None:
        self.pools: Dict[str, Pool] = {}
        self._forks, self._inline = forks, inline
        self._application = application
        self._settings = settings
        self._stop_seconds = STOP_SECONDS
        self._guard: Any = None
        self._has_job_pool = False

    def prepare(self, unwanted: Sequence[int] = ()) -> None:
        """Fix the routes, and fork what starts the workers.

        That is for a process without a loop, threads and connections: a fork would copy
        them. The descriptors in `unwanted` are closed in what is forked.

        Raises:
            PixieError: a pool has not been declared, or a setting of it is no good.
        """
        this_process.is_copy = False  # it may be one, of a server that it leaves
        fill_standard_descriptors()
        import_ahead()
        configure_logging()
        application, settings = self._application, self._settings
        application.debug = settings["debug"]
        limits = FormLimits(**{name: settings[name] for name in FormLimits._fields})
        apply_settings(application, limits, settings["root_path"])
        try:
            unwanted = [*unwanted, *self._place_state()]
            self._make_pools(application.freeze(), unwanted)
        except BaseException:
            self.abandon()
            raise
        bounds = ("threads", "max_waiting", "max_waiting_bytes")
        own = {name: settings[name] for name in bounds}
        application.executors.equip(pools=self.pools, **own, **self._make_guard())

    def _make_guard(self) -> Dict[str, Any]:
        """Make the guard of the loop, where it is wanted; return what it stands before.

        Raises:
            MissingExtra: it is asked for, and this is the single file.
        """
        kind = self._settings["loop_guard"]
        plain = {"answer": answer, "answer_async": answer_async}
        is_wanted = self._settings["debug"] and not LONE if kind == "auto" else True
        if kind == "off" or not is_wanted:
            return plain
        self._guard = companion("guard", f'loop_guard="{kind}"').LoopGuard()
        if kind != "strict":
            return plain
        asynchronous = self._guard.guard_async(answer_async)
        return {"answer": self._guard.guard(answer), "answer_async": asynchronous}

    def abandon(self) -> None:
        """End what `prepare` has forked: all there is to do if `start` never comes."""
        for pool in self.pools.values():
            pool.end_zygote()
        self._remove_state()

    async def start(self) -> None:
        """Start workers, and run what `on_start` declared; end them if it fails."""
        if self._guard is not None:
            self._guard.start()
        try:
            await self._application.executors.start()
            self._application.begin_jobs(self.pools, self._has_job_pool)
            await self._application.start()
        except BaseException:
            await self._application.executors.stop(self._stop_seconds)
            raise
        keep_log()

    async def stop(self) -> None:
        """Run what `on_stop` declared, and end workers and threads."""
        try:
            await self._application.stop()
        finally:
            if self._guard is not None:
                self._guard.stop()
            await self._application.end_jobs(self._stop_seconds)
            await self._application.executors.stop(self._stop_seconds)
            self._remove_state()

    def hurry(self) -> None:
        """Have `stop`, also one under way, kill what it would wait for."""
        self._stop_seconds = 0.0
        self._application.hurry_jobs()
        for pool in self.pools.values():
            pool.hurry()

    async def check(self) -> None:
        """Start, wait until each pool has a worker, and stop.

        Raises:
            PixieError: no worker can boot.
        """
        await self.start()
        try:
            for pool in self.pools.values():
                await pool.check_boot()
        finally:
            await self.stop()

    def _place_state(self) -> Sequence[int]:
        """Find a place for `app.state`, which nobody has to use.

        Returns:
            the descriptors that hold it, which are main's alone.
        """
        names = ("state", "state_max_bytes", "state_durable")
        where, *bounds = (self._settings[name] for name in names)
        try:
            module = companion("state", "app.state")
            self._application.state_place = module.server_place(where, *bounds)
        except PixieError:  # the single file, or no temporary directory
            if where != "memory":
                raise
            return ()
        descriptors: Sequence[int] = module.place_descriptors()
        return descriptors

    def _remove_state(self) -> None:
        place, self._application.state_place = self._application.state_place, None
        if place is not None:
            self._application.state.close()
            companion("state", "app.state").remove_place(place)

    def _make_pools(self, program: Program, unwanted: Sequence[int]) -> None:
        """Make the pools that some route needs, and start their zygotes."""
        routes, for_jobs = self._application.routes, self._application.job_pool
        wanted = {r.pool for r in routes if EXECUTORS[r.placement].in_worker}
        if for_jobs is not None:
            wanted.add(for_jobs)
        self._has_job_pool = (for_jobs or "") in wanted
        if self._inline:
            return
        start_by = self._choose_start() if wanted else ""
        launch = partial(describe_launch, self._application)
        for name in sorted(wanted):
            options = self._pool_options(name)
            if options.workers == 0 or not hasattr(os, "fork"):
                why = "this system has no fork" if options.workers else "workers=0"
                what = f"routes of the pool {name}" if name else "pool routes"
                log.warning("%s run in threads of the main process: %s", what, why)
                continue
            self.pools[name] = Pool(program, options, start_by, launch, name)
        if self.pools and start_by == "zygote":
            warn_of_connections()
        for pool in self.pools.values():
            pool.prepare(unwanted)

    def _pool_options(self, name: str) -> PoolOptions:
        given = self._application.named_pools().get(name, {})
        own = read_settings(given, {})
        settings = {**self._settings, **{key: own[key] for key in given}}
        options = PoolOptions(**{key: settings[key] for key in PoolOptions._fields})
        if options.workers < 0:
            options = options._replace(workers=cpu_count())
        return options

    def _choose_start(self) -> str:
        chosen = cast(str, self._settings["pool_start"])
        if chosen == "auto" and sys.platform != "linux":
            return "spawn"  # a fork without exec aborts in Apple's libraries
        if chosen not in ("auto", "zygote"):
            return chosen
        if not self._forks:
            return "auto"
        threads = count_lasting_threads()
        if threads == 1:
            return "zygote"
        if chosen == "zygote":
            log.warning(THREADS_FORKED, threads)
            return chosen
        log.warning(
            "%d threads run already, so the pool can't be forked: it imports the "
            "program again; start threads in on_start and on_worker_start",
            threads,
        )
        return "auto"
