"""All connections of a process: how many there may be, and their end."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any, Awaitable, Callable, Dict, List, Optional, Sequence

from ..requests import Request
from ..responses import Response
from ..text import format_date
from .connection import Connection
from .insistence import Waiting
from .listeners import Listener
from .options import ServerOptions
from .proxies import TrustedProxies

MAX_CONNECTIONS = 10_000  # where descriptors allow it
SPARE_DESCRIPTORS = 64  # for files and workers, of those that a process may have
SWEEP_SECONDS = 0.5


def connections_allowed() -> int:
    """Return how many connections the descriptors of this process allow.

    SPARE_DESCRIPTORS, or half of them where they are few, are left for other things.
    """
    try:
        import resource
    except ImportError:
        return MAX_CONNECTIONS
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, limit - min(SPARE_DESCRIPTORS, limit // 2)))


class Server:
    """What all connections share: the application, the bounds, the clock.

    Args:
        handle: the application's `handle`.
        options: the bounds.

    Raises:
        PixieError: there is no such parser.
    """

    def __init__(
        self, handle: Callable[[Request], Awaitable[Response]], options: ServerOptions
    ) -> None:
        self.handle = handle
        self.options = options
        self.make_reader = options.reader()
        proxies = options.trusted_proxies
        self.proxies = TrustedProxies(proxies) if proxies else None
        self.max_connections = options.max_connections or connections_allowed()
        self.connections: Dict[Connection, None] = {}  # in the order they came
        self.is_full = False  # somebody waits for a connection's place
        self.closing = False
        self.loop: asyncio.AbstractEventLoop
        self.now = 0.0  # the loop's time, as of the last sweep
        self._listeners: List[Listener] = []
        self._sweeper: Optional[asyncio.TimerHandle] = None
        self._empty: Optional[asyncio.Future[None]] = None
        self.waiting = Waiting()  # who keeps asking, though we are too busy
        self._date_second = 0
        self._date_line = b""

    async def listen(
        self,
        sockets: Sequence[socket.socket],
        tls: Any = None,
    ) -> None:
        """Accept connections on bound sockets, over TLS where a context is given."""
        self.loop = asyncio.get_running_loop()
        for one in sockets:
            listener = Listener(self, one, tls)
            listener.open()
            self._listeners.append(listener)
        self._sweep()

    async def close(self) -> None:
        """Stop accepting, let what runs end within `drain_seconds`, then cut it off."""
        self.closing = True
        self.waiting.let_all_go()
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.drain()
        if self.connections:
            self._empty = self.loop.create_future()
            timer = self.loop.call_later(self.options.drain_seconds, self.cut_off)
            await self._empty
            timer.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def has_room(self) -> bool:
        """Return whether one more connection may be accepted."""
        arriving = sum(listener.arriving for listener in self._listeners)
        return len(self.connections) + arriving < self.max_connections

    def longest_idle(self) -> Optional[Connection]:
        """Return the connection that may end to make room for a new one, if any."""
        idle = [one for one in self.connections if one.is_kept_alive]
        return min(idle, key=lambda one: one.deadline, default=None)

    def resume(self) -> None:
        """Have those listeners accept again that wait for a connection's place."""
        self.is_full = False
        if not self.closing:
            for listener in self._listeners:
                listener.resume()

    @property
    def running(self) -> int:
        """How many requests are being answered."""
        return sum(one.is_busy for one in self.connections)

    def cut_off(self) -> None:
        """Abort every connection."""
        for connection in list(self.connections):
            connection._outcome = "stopped"
            connection.transport.abort()

    def forget(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        self.connections.pop(connection, None)
        if not self.connections and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)
        self.resume()

    def date_line(self) -> bytes:
        """Return the Date header, rendered once a second."""
        second = int(time.time())
        if second != self._date_second:
            self._date_second = second
            self._date_line = f"Date: {format_date(second)}\r\n".encode()
        return self._date_line

    def _sweep(self) -> None:
        self.now = self.loop.time()
        for connection in list(self.connections):
            if connection.deadline < self.now:
                connection.out_of_time()
        self._sweeper = self.loop.call_later(SWEEP_SECONDS, self._sweep)
