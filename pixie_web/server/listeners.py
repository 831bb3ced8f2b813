"""Sockets to listen on, TLS, and the accepted clients."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Set, Tuple

from ..about import log
from ..errors import PixieError, ProtocolError
from .http1 import HTTP1Connection
from .options import UNIX_SOCKET_MODE
from .transport import Connection

if TYPE_CHECKING:
    from .server import Server

BACKLOG_CONNECTIONS = 4096  # that wait in the kernel; it takes no more than somaxconn
MAX_ACCEPTED = 16  # connections in one turn of the loop
ACCEPT_PAUSE_SECONDS = 1.0  # when descriptors have run out; asyncio does the same


class Listener:
    """Accepts the connections of one socket, and starts TLS on those that ask for it.

    It looks at a TLS client's first byte without taking it: plain HTTP is answered in
    plain HTTP, instead of by an alert that its client can't read. Where there are too
    many connections, or descriptors run out, one that is idle or slow gives way to each
    new one; if there is none, it waits a second, or until one has ended or has nothing
    to do. What comes meanwhile queues in the kernel.
    """

    def __init__(
        self, server: Server, listening: socket.socket, tls: Any, is_kept: bool = False
    ) -> None:
        self._server = server
        self._is_kept = is_kept
        self._socket = listening
        self._tls = tls
        self._loop = server.loop
        self._timer: Optional[asyncio.TimerHandle] = None  # set while it waits
        self._peeking: Dict[socket.socket, Tuple[Connection, asyncio.TimerHandle]] = {}
        self._tasks: Set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to accept."""
        self._socket.listen(BACKLOG_CONNECTIONS)
        self._watch()

    def close(self) -> None:
        """Stop accepting.

        What queues in the kernel would be reset, so it is accepted now; on a socket
        that is kept it stays, for whoever serves there next.
        """
        if not self._is_kept:
            for _ in range(BACKLOG_CONNECTIONS // MAX_ACCEPTED):
                if not self._accept():
                    break
        self._pause()
        self._socket.close()

    def sockets(self) -> List[socket.socket]:
        """Return its own, and those of clients that are not connected yet."""
        return [self._socket, *self._peeking]

    def cut_off(self) -> None:
        """Drop the clients that were accepted and are not connected yet."""
        for one in list(self._peeking):
            self._drop(one)
        for task in self._tasks:
            task.cancel()

    def resume(self) -> None:
        """A connection has ended, or has nothing to do: there may be room again."""
        if self._timer is not None:
            self._watch()

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _pause(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        self._pause()
        self._timer = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._watch)

    def _accept(self) -> bool:
        """Take who waits, MAX_ACCEPTED at most; return whether there may be more."""
        yielding: Optional[List[Connection]] = None
        for _ in range(MAX_ACCEPTED):
            if self._server.room() <= 0:
                if yielding is None:
                    yielding = self._server.yielding(MAX_ACCEPTED)
                # Who gives way needs a moment: so many may be beyond the limit.
                if not yielding or self._server.leaving >= MAX_ACCEPTED:
                    self._server.is_full = True
                    self._wait()
                    return False
            try:
                one, address = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return False
            except OSError as error:  # EMFILE, ENFILE, ENOBUFS, ENOMEM
                self._make_room(error)
                return False
            self._begin(one, address)
            while yielding and self._server.room() < 0:
                yielding.pop(0).give_way()
        return True

    def _make_room(self, error: OSError) -> None:
        """Pause; and, for want of a descriptor, have a connection give way."""
        yielding = self._server.yielding(1)
        if yielding:
            yielding[0].give_way()
        else:
            log.error("can't accept connections for a while: %s", error.strerror)
        self._wait()

    def _begin(self, one: socket.socket, address: Any) -> None:
        one.setblocking(False)
        network = self._server.network_of(address)
        connection = HTTP1Connection(self._server, one, network)
        if not self._server.admit(connection):
            one.close()
        elif self._tls is None:
            self._start(one, connection)
        else:
            seconds = self._server.options.head_seconds
            timer = self._loop.call_later(seconds, self._drop, one)
            self._peeking[one] = connection, timer
            self._loop.add_reader(one.fileno(), self._look, one)

    def _forget(self, one: socket.socket) -> Connection:
        connection, timer = self._peeking.pop(one)
        timer.cancel()
        self._loop.remove_reader(one.fileno())
        return connection

    def _drop(self, one: socket.socket) -> None:
        connection = self._forget(one)
        one.close()
        self._server.forget(connection)

    def _look(self, one: socket.socket) -> None:
        try:
            first = one.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        if not first:
            self._drop(one)
            return
        connection = self._forget(one)
        if first == b"\x16":  # RFC 8446 section 5.1: a handshake record
            self._start(one, connection, self._tls)
        else:
            text = "This port speaks HTTPS: use https://."
            connection.refusal = ProtocolError(400, text)
            self._start(one, connection)

    def _start(
        self, one: socket.socket, connection: Connection, tls: Any = None
    ) -> None:
        task = self._loop.create_task(self._connect(one, connection, tls))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(
        self, one: socket.socket, connection: Connection, tls: Any
    ) -> None:
        options: Dict[str, Any] = {}
        if tls is not None:
            seconds = self._server.options.tls_handshake_seconds
            options = {"ssl": tls, "ssl_handshake_timeout": seconds}
        try:
            await self._loop.connect_accepted_socket(lambda: connection, one, **options)
        except (OSError, asyncio.TimeoutError):
            one.close()  # a handshake that fails is the client's affair
        finally:
            if connection in self._server.arriving:
                self._server.forget(connection)


def _bind_one(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one


def bind(host: str, port: int) -> List[socket.socket]:
    """Return sockets bound to an address; "localhost" and "" bind both IP families.

    Raises:
        OSError: the address is taken, or not this machine's; for "localhost" one family
            is enough.
    """
    found = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: List[socket.socket] = []
    errors: List[OSError] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        if sockets and port == 0:
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            sockets.append(_bind_one(family, kind, protocol, address))
        except OSError as error:
            errors.append(error)
    taken = [error for error in errors if error.errno == errno.EADDRINUSE]
    if taken or not sockets:
        for one in sockets:
            one.close()
        raise (taken or errors)[0]
    return sockets


def inherit(descriptor: int) -> socket.socket:
    """Return the socket behind a descriptor that this process was started with.

    Raises:
        OSError: there is none, or it is no stream socket.
    """
    one = socket.socket(fileno=descriptor)
    one.setblocking(False)
    one.listen(BACKLOG_CONNECTIONS)
    return one


def load_certificate(context: Any, certfile: str, keyfile: Optional[str]) -> None:
    """Load a certificate into a context, also into one in use: new connections get it.

    Raises:
        PixieError: a file can't be read, or they do not belong together.
    """
    try:
        context.load_cert_chain(certfile, keyfile)
    except OSError as error:  # SSLError is one
        reason = error.strerror or str(error)
        names = certfile if keyfile is None else f"{certfile} and {keyfile}"
        raise PixieError(f"can't use the certificate {names}: {reason}") from None


def tls_context(
    certfile: str, keyfile: Optional[str] = None, http2: bool = False
) -> Any:
    """Return a server context: TLS 1.2 and later, what the standard library advises.

    Args:
        certfile: the path of the certificate chain, PEM.
        keyfile: the path of its key; None when `certfile` holds it too.
        http2: whether clients may choose HTTP/2 (RFC 7301).

    Raises:
        PixieError: a file can't be read, or they do not belong together.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # SECURITY: a renegotiation costs the server ten times what it costs the client.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2"] * http2 + ["http/1.1"])
    load_certificate(context, certfile, keyfile)
    return context


def bind_unix(path: str, mode: int = UNIX_SOCKET_MODE) -> socket.socket:
    """Return a socket bound to a path; one that nobody listens on any more is replaced.

    Raises:
        PixieError: another server listens there, or there is another kind of file.
        OSError: the directory is missing, or can't be written.
    """
    import stat

    if os.path.exists(path):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise PixieError(f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except OSError:
                os.unlink(path)
            else:
                raise PixieError(f"another server listens on {path}")
    one = socket.socket(socket.AF_UNIX)
    try:
        one.bind(path)
        os.chmod(path, mode)
    except (OSError, ValueError):
        one.close()
        raise
    one.setblocking(False)
    return one


def identity(path: str) -> Tuple[int, ...]:
    """Return what tells a socket's file from another one that has its name.

    The number of an inode is given out again, so the time is part of it.
    """
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns


def remove_unix(path: str, own: Tuple[int, ...]) -> None:
    """Remove a socket's file at the end, unless a successor's has taken its place."""
    try:
        if identity(path) == own:
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("can't remove %s: %s", path, error.strerror)
