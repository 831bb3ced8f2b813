"""A server on a loop whose clock jumps, and clients that do as the test says.

    @in_virtual_time
    async def test_a_silent_client_is_sent_away() -> None:
        async with serving(app, head_seconds=5) as site:
            client = site.connect()
            await asyncio.sleep(6)
            assert client.has_ended

The server is the real one. Its clients are unix sockets of this process, so what they
send is there at once; see virtual_time.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, Awaitable, Callable, List, Optional, Sequence

from virtual_time import quiet

from pixie_web import Request, Response
from pixie_web.application import Application
from pixie_web.server.options import ServerOptions
from pixie_web.server.server import Server

Handle = Callable[[Request], Awaitable[Response]]


class Client:
    """A client that reads when it is told to, and notes what it has got.

    Attributes:
        data: all that it has read.
        has_ended: the server has closed its side, or all of the connection.
    """

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.data = b""
        self.has_ended = False

    def send(self, data: bytes) -> None:
        """Send bytes, all at once."""
        self.socket.sendall(data)

    def read(self, most: int = 1 << 30) -> bytes:
        """Read what is there now, and return it."""
        found = b""
        while len(found) < most and not self.has_ended:
            try:
                part = self.socket.recv(min(65_536, most - len(found)))
            except BlockingIOError:
                break
            except ConnectionResetError:
                part = b""
            self.has_ended = not part
            found += part
        self.data += found
        return found

    async def get(self, head: bytes) -> bytes:
        """Send a request, and return what comes while no time passes."""
        self.send(head)
        await quiet()
        return self.read()

    async def read_all(self) -> bytes:
        """Read until there is no more at this moment; the server may wait for it."""
        start = len(self.data)
        await quiet()
        while self.read():
            await quiet()
        return self.data[start:]

    @property
    def is_gone(self) -> bool:
        """Whether the server has ended the connection, not its own side alone."""
        try:
            self.socket.send(b"x")
        except OSError:
            return True
        return False

    def close(self) -> None:
        """Leave."""
        self.socket.close()


class TLSClient(Client):
    """The same over TLS; it never answers a close_notify."""

    def __init__(self, path: str, context: ssl.SSLContext) -> None:
        super().__init__(path)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname="localhost"
        )

    def _exchange(self) -> None:
        self.socket.sendall(self._outgoing.read())
        self._incoming.write(super().read())

    @property
    def chosen(self) -> Optional[str]:
        """The protocol that the server has chosen."""
        return self._tls.selected_alpn_protocol()

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._exchange()
                await quiet()
            else:
                break
        self._exchange()
        await quiet()

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self._exchange()

    def read(self, most: int = 1 << 30) -> bytes:
        self._exchange()
        try:
            return self._tls.read(most)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            return b""


class Site:
    """A running server, and its clients."""

    def __init__(self, server: Server, path: str) -> None:
        self.server = server
        self.path = path
        self.clients: List[Client] = []

    def connect(self) -> Client:
        """Return a new client."""
        self.clients.append(Client(self.path))
        return self.clients[-1]

    async def connect_tls(
        self, certificate: str, protocols: Sequence[str] = ()
    ) -> TLSClient:
        """Return a new client over TLS that trusts a certificate.

        Args:
            certificate: the path of it.
            protocols: what the client offers to speak.
        """
        context = ssl.create_default_context(cafile=certificate)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        client = TLSClient(self.path, context)
        self.clients.append(client)
        await client.shake_hands()
        return client


@asynccontextmanager
async def serving(
    handle: Handle, tls: Optional[Any] = None, **options: Any
) -> AsyncIterator[Site]:
    """Serve for as long as the block lasts.

    Args:
        handle: answers requests.
        tls: a context.
        options: of the server.
    """
    application = getattr(handle, "__self__", None)
    begin = application.own_begin() if isinstance(application, Application) else None
    server = Server(handle, ServerOptions(**options), begin)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "socket")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.setblocking(False)
        await server.listen([listening], tls)
        site = Site(server, path)
        try:
            yield site
        finally:
            for client in site.clients:
                client.close()
            if not server.closing:
                await server.close()
            await asyncio.sleep(60)  # whatever lingers
