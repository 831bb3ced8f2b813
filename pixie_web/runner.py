"""One run of an application, from its settings to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    cast,
)

from .about import __version__, log
from .errors import MissingExtra, PixieError
from .executors.base import RouteType, bound_lines
from .executors.local import Threads
from .executors.pool.frames import PoolOptions, Program, cpu_count
from .executors.pool.links import STOP_SECONDS
from .executors.pool.pool import Pool
from .executors.pool.worker import fill_standard_descriptors, keep_log, reopen_log_files
from .executors.pool.zygote import (
    THREADS_FORKED,
    count_lasting_threads,
    warn_of_connections,
)
from .forks import (
    OUR_SIGNALS,
    _in_copies,
    default_signals,
    end_copy,
    this_process,
    undo_in_copies,
)
from .launch import configure_logging, describe_launch, set_up
from .protocol.multipart import FormLimits
from .server.listeners import (
    bind,
    bind_unix,
    identity,
    inherit,
    load_certificate,
    remove_unix,
    tls_context,
)
from .server.options import ServerOptions
from .server.server import Server
from .settings import check_no_loop_runs, import_ahead, read_settings, say

if TYPE_CHECKING:
    from .pixie import Pixie


async def _cancel_tasks() -> None:
    """Cancel what is still running, and give it a moment for its `finally`."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_SECONDS)


class _Runner:
    """One run of an application, from its settings to its end."""

    loading = False  # another runner imports the program: its own run() does nothing

    def __init__(
        self,
        application: Pixie,
        settings: Dict[str, Any],
        tls: Any = None,
        listens: bool = True,
    ) -> None:
        self._application = application
        self._settings = settings
        self._listens = listens  # or it starts all else, and stops
        names = ServerOptions._fields
        options = ServerOptions(**{name: settings[name] for name in names})
        self._server = Server(application.handle, options)
        self._stop: asyncio.Event
        self._signals = 0
        self._tls = tls
        self._pools: Dict[str, Pool] = {}
        # Signals come to the main thread alone, and `check` ends by itself.
        is_main = threading.current_thread() is threading.main_thread()
        self._takes_signals = is_main and listens

    def run(self) -> None:
        """Start, serve, stop; a start that fails leaves nothing behind."""
        check_no_loop_runs()
        this_process.is_copy = False  # it may be one, of a server that it leaves
        fill_standard_descriptors()
        import_ahead()
        configure_logging()
        application = self._application
        application.debug = self._server.options.debug
        names = FormLimits._fields
        limits = FormLimits(**{name: self._settings[name] for name in names})
        set_up(application, limits, self._settings["root_path"])
        program = application.freeze()
        lines = self._settings["max_waiting"], self._settings["max_waiting_bytes"]
        application.placements.threads = Threads(self._settings["threads"], *lines)
        bound_lines(program.routes, *lines)
        with ExitStack() as undo:
            pools = self._pools = self._make_pools(program)
            undo.callback(self._end_zygotes, pools)
            workers = sum(
                pool.size + pool.scheduler.streams.size for pool in pools.values()
            )
            self._server.bound_connections(workers)
            if self._settings["certfile"]:
                self._tls = tls_context(*self._certificate())
            sockets = self._bind(undo) if self._listens else []
            loop = self._new_loop()
            undo.callback(self._close_loop, loop)
            asyncio.set_event_loop(loop)
            undo_in_copies(self._undo_in_copy)
            undo.callback(_in_copies.clear)
            loop.run_until_complete(self._serve(pools, sockets))

    def _close_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_until_complete(_cancel_tasks())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _undo_in_copy(self) -> None:
        """Be no server, in a process that was forked from this one.

        A copy of a client's connection would keep it open when main has closed it, and
        one of the zygote's would keep the pool when main has died. /dev/null takes the
        numbers, which objects here think to be theirs.
        """
        if self._takes_signals:
            default_signals(*OUR_SIGNALS)
        null = os.open(os.devnull, os.O_RDWR)
        own = self._server.descriptors()
        for pool in self._pools.values():
            own |= pool.descriptors()
        for descriptor in own:
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)
        if threading.get_ident() == self._server.thread:
            # A coroutine that goes on in the copy comes back to the loop.
            self._server.loop.call_soon(end_copy)

    def _certificate(self) -> Tuple[str, Optional[str]]:
        return self._settings["certfile"], self._settings["keyfile"] or None

    def _bind(self, undo: ExitStack) -> List[socket.socket]:
        settings = self._settings
        host, port, path, fd = (settings[key] for key in ("host", "port", "uds", "fd"))
        try:
            if fd >= 0:
                sockets = [inherit(fd)]
            elif path:
                sockets = [bind_unix(path, settings["uds_mode"])]
                undo.callback(remove_unix, os.path.abspath(path), identity(path))
            else:
                sockets = bind(host, port)
        except (OSError, ValueError) as error:  # UnicodeError: of a host
            where = f"descriptor {fd}" if fd >= 0 else path or f"{host}:{port}"
            reason = getattr(error, "strerror", None) or error  # "path too long"
            raise PixieError(f"can't listen on {where}: {reason}") from None
        for one in sockets:
            undo.callback(one.close)
        return sockets

    def _make_pools(self, program: Program) -> Dict[str, Pool]:
        """Return the pools that some route needs, by name, their zygotes started."""
        pools: Dict[str, Pool] = {}
        in_pool = (RouteType.pool, RouteType.stream)
        wanted = {r.pool for r in program.routes if r.placement in in_pool}
        start_by = self._choose_start() if wanted else ""
        launch = partial(describe_launch, self._application)
        for name in sorted(wanted):
            options = self._pool_options(name)
            if options.workers == 0 or not hasattr(os, "fork"):
                why = "this system has no fork" if options.workers else "workers=0"
                what = f"routes of the pool {name}" if name else "pool routes"
                log.warning("%s run in threads of the main process: %s", what, why)
                continue
            pools[name] = Pool(program, options, start_by, launch, name)
        try:
            if pools and start_by == "zygote":
                warn_of_connections()
            inherited = self._settings["fd"]
            for pool in pools.values():
                pool.prepare([inherited] if inherited >= 0 else [])
        except BaseException:
            self._end_zygotes(pools)
            raise
        return pools

    def _pool_options(self, name: str) -> PoolOptions:
        given = self._application.named_pools().get(name, {})
        own = read_settings(given, {})
        settings = {**self._settings, **{key: own[key] for key in given}}
        options = PoolOptions(**{key: settings[key] for key in PoolOptions._fields})
        if options.workers < 0:
            options = options._replace(workers=cpu_count())
        return options

    def _end_zygotes(self, pools: Mapping[str, Pool]) -> None:
        for pool in pools.values():
            pool.end_zygote()

    def _choose_start(self) -> str:
        chosen = cast(str, self._settings["pool_start"])
        if chosen == "auto" and sys.platform != "linux":
            return "spawn"  # a fork without exec aborts in Apple's libraries
        if chosen not in ("auto", "zygote"):
            return chosen
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

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        wanted = self._settings["loop"]
        if wanted != "asyncio":
            try:
                import uvloop

                return cast(asyncio.AbstractEventLoop, uvloop.new_event_loop())
            except ImportError:
                if wanted == "uvloop":
                    raise MissingExtra(
                        "loop=\"uvloop\" needs: pip install 'pixie-web[fast]'"
                    ) from None
        return asyncio.new_event_loop()

    async def _serve(
        self, pools: Dict[str, Pool], sockets: Sequence[socket.socket]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self._takes_signals:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._on_signal)
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        application = self._application
        application.placements.pools = pools
        try:
            for pool in pools.values():
                await pool.start()
            await application.start()
            keep_log()
            if self._listens:
                await self._server.listen(sockets, self._tls)
                self._print_banner(sockets, loop)
                await self._stop.wait()
                await self._server.close()
            else:
                for pool in pools.values():
                    await pool.check_boot()
            await application.stop()
        finally:
            seconds = STOP_SECONDS if self._signals < 2 else 0.0
            await asyncio.gather(*(pool.stop(seconds) for pool in pools.values()))
            application.placements.threads.stop()

    def _on_hangup(self) -> None:
        """Read certificate and log files again; if they are no good, the old ones stay.

        The program stays as it is, in main and in the workers: they must not differ.
        """
        what = f"{reopen_log_files()} log files were opened again"
        for pool in self._application.placements.pools.values():
            pool.reopen_logs()
        if self._settings["certfile"]:
            try:
                load_certificate(self._tls, *self._certificate())
                what += " and the certificate was read again"
            except PixieError as error:
                log.error("%s; the one in use stays", error)
        log.info("SIGHUP: %s; new code needs a restart", what)

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._stop.set()
            running = self._server.running
            if running:
                log.info(
                    "waiting for %d requests; a second signal cuts them off", running
                )
            return
        self._server.cut_off()
        for pool in self._application.placements.pools.values():
            pool.hurry()

    def _print_banner(
        self,
        sockets: Sequence[socket.socket],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        host = self._settings["host"] or "localhost"
        name = sockets[0].getsockname()
        if self._settings["fd"] >= 0 and not isinstance(name, str):
            host = name[0]
        host = f"[{host}]" if ":" in host else host
        scheme = "http" if self._tls is None else "https"
        if isinstance(name, str):
            address = f"{scheme} over {name}"
        else:
            address = f"{scheme}://{host}:{name[1]}"
        kind = type(loop).__module__.partition(".")[0]
        pools = self._application.placements.pools.values()
        workers = f"{sum(pool.size for pool in pools) or 'no'} workers"
        python = ".".join(map(str, sys.version_info[:3]))
        ends = "Ctrl-C stops it" if self._takes_signals else "it ends with its process"
        say(
            f"pixie_web {__version__} on {address} ({ends})\n"
            f"main process {os.getpid()}, {workers}, {kind}, Python {python}"
        )
