"""The server in a loop of its own: sockets, signals, TLS, until it ends."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from .about import __version__, log
from .application import Application
from .errors import PixieError, companion
from .executors.pool.worker import reopen_log_files
from .forks import (
    OUR_SIGNALS,
    default_signals,
    end_copy,
    undo_in_copies,
    undo_nothing_in_copies,
)
from .lifespan import Lifespan
from .loops import cancel_tasks, new_loop
from .refreshing import FreshPages
from .reloading import tether
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
from .settings import check_no_loop_runs, say

LEAST_GC_THRESHOLD = 3_000  # more objects than a full line of requests comes to


def rest_collector() -> None:
    """Have the garbage collector run seldom, and not look at what exists now.

    A program's own threshold stays, if it is higher, or 0 for no collector at all.
    """
    # PERF: a full collection looks at all objects: 31 ms where pandas is imported.
    # Those of the program are looked at once, now.
    gc.collect()
    gc.freeze()
    # PERF: with 700, the objects of requests that wait had it run all the time. Beside
    # 3,000 clients of a busy pool the p99 of an `asnc` route falls from 10 to 1.3 ms.
    first, *others = gc.get_threshold()
    if 0 < first < LEAST_GC_THRESHOLD:
        gc.set_threshold(LEAST_GC_THRESHOLD, *others)


class Runner:
    """Serves an application in a loop of its own, until a signal ends it.

    Args:
        application: what is served.
        settings: all of them, as `read_settings` returns them.
        tls: an ssl.SSLContext in place of the certificate of the settings.

    Attributes:
        loading: a program is imported to be run by another runner: `run()` in it does
            nothing.
    """

    loading = False

    def __init__(
        self, application: Application, settings: Mapping[str, Any], tls: Any = None
    ) -> None:
        self._settings = settings
        self._lifespan = Lifespan(application, settings)
        names = ServerOptions._fields
        options = ServerOptions(**{name: settings[name] for name in names})
        handle: Any = application.handle
        self._pages: Optional[FreshPages] = None
        if tether.is_tied and (settings["debug"] or tether.has_failed):
            self._pages = FreshPages(handle)
            handle = self._pages.handle
        begin = None if self._pages else application.own_begin()
        self._server = Server(handle, options, begin)
        application.executors.loop_stats = self._server.held.stats
        self._http3: Any = None
        if settings["http3"]:
            module = companion("http3.starting", "http3=True")
            self._http3 = module.HTTP3(self._server, settings)
        self._stop: asyncio.Event
        self._signals = 0
        self._stopped_by = ""
        self._takes_signals = False
        self._tls = tls

    def run(self) -> None:
        """Start, serve, stop; a start that fails leaves nothing behind."""
        with ExitStack() as undo:
            self._prepare(undo)
            sockets = self._bind(undo)
            began = time.monotonic()
            self._open_loop(undo).run_until_complete(self._serve(sockets))
        seconds = time.monotonic() - began
        if not tether.is_tied:  # it is its reloader that tells
            say(f"pixie_web: stopped by {self._stopped_by} after {seconds:.1f} s")

    def check(self) -> None:
        """Start all but the listening, and stop."""
        with ExitStack() as undo:
            self._prepare(undo)
            self._open_loop(undo).run_until_complete(self._lifespan.check())

    def _prepare(self, undo: ExitStack) -> None:
        check_no_loop_runs()
        inherited = self._settings["fd"]
        unwanted = [inherited] if inherited >= 0 else []
        self._lifespan.prepare([*unwanted, *tether.descriptors()])
        undo.callback(self._lifespan.abandon)
        pools = self._lifespan.pools.values()
        self._server.bound_connections(
            sum(pool.size + pool.scheduler.streams.size for pool in pools)
        )
        if self._settings["certfile"]:
            http2 = self._settings["http2"]
            self._tls = tls_context(*self._certificate(), http2)
        if self._http3 is not None:
            self._http3.load_certificate(*self._certificate())

    def _open_loop(self, undo: ExitStack) -> asyncio.AbstractEventLoop:
        loop = new_loop(self._settings["loop"])
        undo.callback(self._close_loop, loop)
        asyncio.set_event_loop(loop)
        undo_in_copies(self._undo_in_copy)
        undo.callback(undo_nothing_in_copies)
        return loop

    def _close_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_until_complete(cancel_tasks())
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
        own = self._server.descriptors() | {*tether.descriptors()}
        for pool in self._lifespan.pools.values():
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
        sockets = tether.take_sockets(settings)
        try:
            if sockets:
                pass  # those of the program before
            elif fd >= 0:
                sockets = [inherit(fd)]
            elif path:
                sockets = [bind_unix(path, settings["uds_mode"])]
                if not tether.is_tied:  # else it stays for the next program
                    undo.callback(remove_unix, os.path.abspath(path), identity(path))
            else:
                sockets = bind(host, port)
        except (OSError, ValueError) as error:  # UnicodeError: of a host
            where = f"descriptor {fd}" if fd >= 0 else path or f"{host}:{port}"
            reason = getattr(error, "strerror", None) or error  # "path too long"
            raise PixieError(f"can't listen on {where}: {reason}") from None
        for one in sockets:
            undo.callback(one.close)
        if self._http3 is not None:
            for one in self._http3.bind(sockets):
                undo.callback(one.close)
        return sockets

    async def _serve(self, sockets: Sequence[socket.socket]) -> None:
        self._stop = asyncio.Event()
        self._take_signals(asyncio.get_running_loop())
        await self._lifespan.start()
        rest_collector()
        try:
            are_kept = tether.is_tied or self._settings["fd"] >= 0
            await self._server.listen(sockets, self._tls, are_kept)
            if self._http3 is not None:
                self._http3.open()
            self._print_banner(sockets)
            if tether.is_tied:
                tether.listening(self._settings, sockets)
                end = partial(self._on_signal, signal.SIGTERM)
                tether.watch(self._server.loop, end)
            await self._stop.wait()
            if self._pages is not None:
                self._pages.end()
            await self._server.close()
        finally:
            await self._lifespan.stop()

    def _take_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # they come to that thread alone
        self._takes_signals = True
        for number in [signal.SIGTERM] + [signal.SIGINT] * (not tether.is_tied):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_hangup(self) -> None:
        """Read certificate and log files again; if they are no good, the old ones stay.

        The program stays as it is, in main and in the workers: they must not differ.
        """
        what = f"{reopen_log_files()} log files were opened again"
        for pool in self._lifespan.pools.values():
            pool.reopen_logs()
        if self._settings["certfile"]:
            try:
                load_certificate(self._tls, *self._certificate())
                if self._http3 is not None:
                    self._http3.load_certificate(*self._certificate())
                what += " and the certificate was read again"
            except PixieError as error:
                log.error("%s; the old certificate stays in use", error)
        log.info("SIGHUP: %s; new code needs a restart", what)

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            self._stopped_by = number.name
            self._stop.set()
            running = self._server.running
            if running:
                log.info(
                    "waiting for %d requests; a second signal cuts them off", running
                )
            return
        self._server.cut_off()
        self._lifespan.hurry()

    def _print_banner(self, sockets: Sequence[socket.socket]) -> None:
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
        kind = type(self._server.loop).__module__.partition(".")[0]
        pools = self._lifespan.pools.values()
        workers = f"{sum(pool.size for pool in pools) or 'no'} workers"
        python = ".".join(map(str, sys.version_info[:3]))
        ends = "Ctrl-C stops it" if self._takes_signals else "it ends with its process"
        say(
            f"pixie_web {__version__} on {address} ({ends}), "
            f"main process {os.getpid()}, {workers}, {kind}, Python {python}"
        )
