"""All connections of a process: how many there may be, and their end."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections import deque
from heapq import nsmallest
from operator import itemgetter
from typing import (
    Any,
    Awaitable,
    Callable,
    Deque,
    Dict,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from ..about import log
from ..protocol.http11 import has_body, status_line
from ..requests import NEVER, Request
from ..responses import Response
from ..text import format_date
from .heads import ProvedHeads
from .insistence import Waiting
from .listeners import Listener
from .options import ServerOptions
from .proxies import AllowedHosts, TrustedProxies
from .transport import Connection

MAX_CONNECTIONS = 10_000  # where descriptors allow it
SPARE_DESCRIPTORS = 64  # for files, of those that a process may still open
DESCRIPTORS_PER_WORKER = 3  # in main: two pipes, and the file for tracebacks
SWEEP_SECONDS = 0.5
HELD_LOOP_SECONDS = 0.1
MAX_BEGINNINGS = 64  # of answers, in one second: more of them have headers of their own
CLOSING_SWEEP_SECONDS = 0.05  # its moments are short, and somebody waits for the end
LAST_MOMENT_SECONDS = 1.0  # for a request of who has just come, when the server ends


Begin = Callable[[Request, Any], Union[Response, Awaitable[Response]]]


def descriptors_left() -> float:
    """Return how many files this process may still open."""
    try:
        import resource
    except ImportError:
        return float("inf")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    listing = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    taken = len(os.listdir(listing)) - 1 if os.path.isdir(listing) else 3
    return float("inf") if limit == resource.RLIM_INFINITY else limit - taken


class HeldLoop:
    """How often, and for how long, the loop had no time for the sweep when it was due.

    Whatever holds the loop then is noticed, and nothing is done for a request. So of
    what holds it for less than SWEEP_SECONDS a part is seen.
    """

    def __init__(self) -> None:
        self.times, self.seconds, self.longest_seconds = 0, 0.0, 0.0

    def note(self, late_seconds: float) -> None:
        """Count a sweep that comes so late."""
        if late_seconds > HELD_LOOP_SECONDS:
            self.times += 1
            self.seconds += late_seconds
            self.longest_seconds = max(self.longest_seconds, late_seconds)

    def stats(self) -> Dict[str, float]:
        """Return what was counted."""
        return dict(vars(self))


class Server:
    """The parts that all connections share: the application, the limits, the clock.

    Args:
        handle: the application's `handle`.
        options: the bounds.
        begin: does of `handle` all that waits for nothing; beside the request it may be
            given the `known` of an earlier one with the same head. It returns the
            response, or what to wait for. None: `handle` is called each time.

    Raises:
        PixieError: there is no such parser, or a proxy or a host that is none.
    """

    def __init__(
        self,
        handle: Callable[[Request], Awaitable[Response]],
        options: ServerOptions,
        begin: Optional[Begin] = None,
    ) -> None:
        self.begin: Begin = begin or (lambda request, _: handle(request))
        self.options = options
        self.make_reader = options.reader()
        self.heads = ProvedHeads(options.limits())
        self.make_http2 = options.http2_factory()
        proxies = options.trusted_proxies
        self.proxies = TrustedProxies(proxies) if proxies else None
        hosts = AllowedHosts(options.allowed_hosts)
        self.hosts = None if hosts.has_all else hosts
        self.max_connections = options.max_connections or MAX_CONNECTIONS
        self.arriving: Dict[Connection, None] = {}  # accepted, and not yet connected
        self.connections: Dict[Connection, None] = {}  # in the order they came
        self.clients: Dict[str, Dict[Connection, None]] = {}  # by network, if limited
        self.leaving = 0  # connections that give way, and are not gone yet
        self.held_bytes = 0  # of memory, by all bodies
        self.is_full = False  # somebody waits for a connection's place
        self.closing = False
        self.last_moment = NEVER  # until then, at the end, requests are awaited
        self.loop: asyncio.AbstractEventLoop
        self.thread = 0  # that of the loop; 0: it does not listen yet
        self.now = 0.0  # the loop's time, as of the last sweep
        self._listeners: List[Listener] = []
        self._sweeper: Optional[asyncio.TimerHandle] = None
        self._sweep_due = NEVER
        self.held = HeldLoop()
        self._empty: Optional[asyncio.Future[None]] = None
        self._turns: Deque[asyncio.Future[None]] = deque()  # who waits for one
        self.waiting = Waiting()  # who keeps asking, though we are too busy
        self._date_second = 0
        self._date_line = b""
        self._alternatives = b""  # where else we are: a header line
        self._beginnings: Dict[Tuple[int, bytes], bytes] = {}  # of answers, this second

    async def listen(
        self,
        sockets: Sequence[socket.socket],
        tls: Any = None,
        are_kept: bool = False,
    ) -> None:
        """Accept connections on bound sockets.

        Args:
            sockets: the sockets.
            tls: a context, to speak TLS.
            are_kept: another process has them too, and somebody serves on them next.
        """
        self.loop, self.thread = asyncio.get_running_loop(), threading.get_ident()
        for one in sockets:
            listener = Listener(self, one, tls, are_kept)
            listener.open()
            self._listeners.append(listener)
        self._sweep()

    def add(self, listener: Any) -> None:
        """Close with all others what accepts clients in a way of its own."""
        self._listeners.append(listener)

    def advertise(self, services: str) -> None:
        """Have all answers say where else we are (RFC 7838 section 3)."""
        self._alternatives = f"Alt-Svc: {services}\r\n".encode()
        self._date_second = 0

    async def close(self) -> None:
        """Stop accepting, let what runs end within `drain_seconds`, then cut it off.

        Who has come, and has not been answered, has LAST_MOMENT_SECONDS for a request.
        """
        self.closing = True
        self._beginnings.clear()
        if self._alternatives:
            self.advertise("clear")
        seconds = min(LAST_MOMENT_SECONDS, self.options.drain_seconds)
        self.last_moment = self.loop.time() + seconds
        self.waiting.let_all_go()
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.drain()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep()
        if self.connections or self.arriving:
            self._empty = self.loop.create_future()
            timers = (
                self.loop.call_later(seconds, self._cut_off_arriving),
                self.loop.call_later(self.options.drain_seconds, self.cut_off),
            )
            await self._empty
            for timer in timers:
                timer.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def descriptors(self) -> Set[int]:
        """Return the descriptors of all connections, and of what accepts them."""
        transports = [one.transport for one in self.connections]
        sockets = [one.get_extra_info("socket") for one in transports]
        for listener in self._listeners:
            sockets += listener.sockets()
        return {one.fileno() for one in sockets if one is not None} - {-1}

    def bound_connections(self, workers: int) -> None:
        """Take no more connections than there are descriptors for.

        Of those that are left, SPARE_DESCRIPTORS and three for each of so many workers
        stay for other things; half of them where they are few.
        """
        left = descriptors_left()
        reserve = SPARE_DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers
        allowed = max(1, left - min(reserve, left // 2))
        if self.options.max_connections > allowed:
            log.warning(
                "max_connections is %d and not %d: this process may open only %d more "
                "files, and workers need some of them; raise ulimit -n, LimitNOFILE=",
                allowed,
                self.max_connections,
                left,
            )
        self.max_connections = int(min(self.max_connections, allowed))

    def room(self) -> int:
        """Return how many more connections there may be."""
        staying = len(self.connections) + len(self.arriving) - self.leaving
        return self.max_connections - staying

    def yielding(self, count: int, network: str = "") -> List[Connection]:
        """Return up to `count` connections that may end for new ones, in that order.

        Args:
            network: of which client; "": of all.
        """
        now = self.loop.time()
        candidates = self.clients[network] if network else self.connections
        arriving = {} if network else self.arriving
        ranks = ((one.rank(now), one) for one in (*candidates, *arriving))
        ranked = [(rank, one) for rank, one in ranks if rank is not None]
        return [one for _, one in nsmallest(count, ranked, key=itemgetter(0))]

    def network_of(self, address: Any) -> str:
        """Return what counts as one client: an IPv4 address, the /64 of an IPv6 one.

        "" is for what is not counted: Unix sockets, trusted proxies, all without limit.
        """
        is_limited = self.options.max_connections_per_client > 0
        if not is_limited or not isinstance(address, tuple):
            return ""
        host: str = address[0]
        if self.proxies is not None and self.proxies.trusts(host):
            return ""
        if ":" not in host:
            return host
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
        if packed.startswith(bytes(10) + b"\xff\xff"):  # RFC 4291 section 2.5.5.2
            return socket.inet_ntoa(packed[12:])
        return packed[:8].hex()

    def admit(self, connection: Connection) -> bool:
        """Count a new connection, unless its client has too many; return whether.

        One of that client's own gives way to it, if there is one that may.
        """
        network = connection.network
        if network:
            own = self.clients.setdefault(network, {})
            if len(own) >= self.options.max_connections_per_client:
                yielding = self.yielding(1, network)
                if not yielding:
                    return False
                yielding[0].give_way()
            own[connection] = None
        self.arriving[connection] = None
        return True

    async def next_turn(self) -> None:
        """Wait for a turn of the loop in which no other reads on in a long body."""
        waiter = self.loop.create_future()
        self._turns.append(waiter)
        if len(self._turns) == 1:
            self.loop.call_soon(self._give_turn)
        await waiter

    def _give_turn(self) -> None:
        while self._turns:
            waiter = self._turns.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break
        if self._turns:
            self.loop.call_soon(self._give_turn)

    def resume(self) -> None:
        """Have those listeners accept again that wait for a connection's place."""
        self.is_full = False
        if not self.closing:
            for listener in self._listeners:
                listener.resume()

    @property
    def running(self) -> int:
        """How many requests are being answered."""
        return sum(one.running for one in self.connections)

    def _cut_off_arriving(self) -> None:
        for listener in self._listeners:
            listener.cut_off()

    def cut_off(self) -> None:
        """Abort every connection."""
        self._cut_off_arriving()
        for connection in list(self.connections):
            connection.stop()

    def replace(self, connection: Connection, successor: Connection) -> None:
        """Have another connection stand for a client: it has changed its protocol."""
        self.connections.pop(connection, None)
        if connection.network:
            own = self.clients[connection.network]
            own.pop(connection, None)
            own[successor] = None

    def forget(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        self.arriving.pop(connection, None)
        self.connections.pop(connection, None)
        self.leaving -= connection.gives_way
        own = self.clients.get(connection.network, {})
        own.pop(connection, None)
        if connection.network and not own:
            self.clients.pop(connection.network, None)
        is_empty = not self.connections and not self.arriving
        if is_empty and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)
        self.resume()

    def date_line(self) -> bytes:
        """Return the Date header, rendered once a second, and Alt-Svc, if any."""
        second = int(time.time())
        if second != self._date_second:
            self._date_second = second
            self._date_line = f"Date: {format_date(second)}\r\n".encode()
            self._date_line += self._alternatives
            self._beginnings.clear()
        return self._date_line

    def beginning(self, status: int, block: bytes) -> bytes:
        """Return the head of an answer with a body, up to its length.

        It is that of HTTP/1.1, after which the connection is kept; see `response_head`.
        Where the status allows no body, or the server closes, it is empty.

        PERF: made once a second for each block; 1 us.
        """
        if int(time.time()) != self._date_second:
            self.date_line()
        return self._beginnings.get((status, block)) or self._begin(status, block)

    def _begin(self, status: int, block: bytes) -> bytes:
        if self.closing or not has_body("GET", status):
            return b""
        parts = status_line(status), self.date_line(), block
        beginning = b"%b%b%bContent-Length: " % parts
        if len(self._beginnings) >= MAX_BEGINNINGS:
            self._beginnings.clear()
        self._beginnings[status, block] = beginning
        return beginning

    def _sweep(self) -> None:
        self.now = self.loop.time()
        self.held.note(self.now - self._sweep_due)
        for connection in list(self.connections):
            if connection.deadline < self.now:
                connection.out_of_time()
        pause = CLOSING_SWEEP_SECONDS if self.closing else SWEEP_SECONDS
        self._sweep_due = self.now + pause
        self._sweeper = self.loop.call_at(self._sweep_due, self._sweep)
