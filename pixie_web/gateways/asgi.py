"""ASGI (version 3): `app.asgi`, for uvicorn, hypercorn, granian and others.

It runs in the server's own loop. The application starts at `lifespan.startup`, or at
the first request if a server does not send that. It stops with the loop.
"""

from __future__ import annotations

import asyncio
from typing import Any, Awaitable, Callable, Dict, List, Optional, cast

from ..about import log
from ..errors import ClientDisconnected, PixieError, ProtocolError
from ..protocol.canonical import PATH_SAFE, HeaderLine, canonical_head, encode_target
from ..protocol.http11 import Head
from ..requests import Disconnect, Request
from ..responses import Response, error_page
from ..server.access import NO_HEAD
from ..text import percent_encode
from .base import (
    Gateway,
    GatewayBody,
    Pieces,
    fields_of,
)

Message = Dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ASGIBody(GatewayBody):
    """A body that comes in messages; behind its end comes the client's leaving."""

    def __init__(self, gateway: Gateway, head: Head, exchange: ASGIExchange) -> None:
        super().__init__(gateway, head)
        self._exchange = exchange

    async def fetch(self, size: int) -> bytes:
        """Return the next bytes, as many as the server has put into a message."""
        while not self._exchange.has_all:
            message = await self._exchange.next_message()
            if message["type"] == "http.disconnect":
                self._exchange.request.disconnect.set()
                raise ClientDisconnected("the client left in the middle of its request")
            chunk = bytes(message.get("body") or b"")
            if chunk:
                return chunk
        return b""

    def ended(self) -> None:
        """Look out for the client's leaving."""
        self._exchange.watch()


def asgi_head(scope: Message, lines: List[HeaderLine], gateway: Gateway) -> Head:
    """Return the head that a server has taken apart.

    Raises:
        ProtocolError: it is none.
    """
    path = scope.get("raw_path") or encode_target(scope["path"].encode("utf-8"), b"")
    path = path.partition(b"?")[0]  # some leave the query in it
    # It holds root_path or not: servers differ, and so did versions of ASGI.
    prefix = percent_encode(scope.get("root_path") or "", PATH_SAFE).encode()
    if prefix and (path == prefix or path.startswith(prefix + b"/")):
        path = path[len(prefix) :]
    query = scope.get("query_string") or b""
    target = (path or b"/") + (b"?" + query if query else b"")
    return canonical_head(
        scope["method"].encode("latin-1"),
        target,
        "1.0" if scope.get("http_version") == "1.0" else "1.1",
        lines,
        gateway.make_reader(),
    )


class ASGIExchange:
    """One request and its answer.

    Args:
        gateway: bounds it, and answers.
        scope, receive, send: as ASGI has them.

    Attributes:
        request: what is answered.
        has_all: the last message of the request's body has come.
    """

    def __init__(
        self, gateway: Gateway, scope: Message, receive: Receive, send: Send
    ) -> None:
        self._gateway, self._scope = gateway, scope
        self._receive, self._send = receive, send
        self.request = Request(NO_HEAD)
        self.request.disconnect = Disconnect()
        self.has_all = False
        self._first: Optional[Message] = None  # a message that was looked at ahead
        self._watcher: Optional[asyncio.Task[None]] = None
        self._task: Optional[asyncio.Task[None]] = None
        self._was_cancelled = False

    async def run(self) -> None:
        """Answer it, in a task of its own, which may be cancelled."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self._task

    async def _run(self) -> None:
        try:
            try:
                response = await self._answer()
            except ProtocolError as error:
                response = error_page(error)
            await self._send_response(response)
        except asyncio.CancelledError:
            if not self._was_cancelled:
                raise
        except (ClientDisconnected, OSError) as error:  # OSError: of `send`, ASGI 2.4
            if not self.request.disconnected and isinstance(error, ClientDisconnected):
                raise
        finally:
            if self._watcher is not None:
                self._watcher.cancel()
            self._gateway.close(self.request)

    # The request.

    async def next_message(self) -> Message:
        """Return the server's next message; behind the body, watch for the end."""
        message, self._first = self._first, None
        if message is None:
            message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            self.has_all = True
            self.watch()
        return message

    def watch(self) -> None:
        """Learn of the client's leaving, now that nobody else takes messages."""
        loop = asyncio.get_running_loop()
        self._watcher = self._watcher or loop.create_task(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.request.disconnect.set()
                return

    async def _answer(self) -> Response:
        gateway, scope = self._gateway, self._scope
        lines = list(scope["headers"])
        names = {name.lower() for name, _ in lines}
        if b"host" not in names and scope.get("server"):
            host, port = scope["server"]
            name = f"{host}:{port}" if port else host
            lines.append((b"host", name.encode("latin-1")))
        if scope.get("http_version", "1.1")[0] not in "01":
            await self._complete(lines, names)
        head = asgi_head(scope, lines, gateway)
        body = None
        if head.content_length == 0:
            self.watch()
        else:
            body = ASGIBody(gateway, head, self)
        host, port = scope.get("client") or ("", 0)
        prefix = percent_encode(scope.get("root_path") or "", PATH_SAFE)
        client = host or "", port or 0
        scheme = scope.get("scheme", "http")
        disconnect = self.request.disconnect
        self.request = gateway.request(head, client, scheme, prefix, body)
        self.request.disconnect = disconnect
        return await gateway.answer(self.request)

    async def _complete(self, lines: List[HeaderLine], names: Any) -> None:
        """Say in the head whether a body follows, where another protocol need not.

        RFC 9113 section 8.1.1: HTTP/2 may leave out the length, and has no chunks.
        """
        if b"content-length" in names:
            return
        self._first = await self._receive()
        if self._first.get("body") or self._first.get("more_body"):
            lines.append((b"transfer-encoding", b"chunked"))

    # The answer.

    async def _send_response(self, response: Response) -> None:
        request = self.request
        pieces = Pieces(request, response)
        stops = request.route is None or request.route.on_disconnect != "finish"
        response = pieces.response
        try:
            lines, has_body = fields_of(request, response)
            pieces.begin(lines)
            headers = [(name.lower(), value) for name, value in lines]
            await self._send(
                {
                    "type": "http.response.start",
                    "status": response.status,
                    "headers": headers,
                }
            )
            body = response.body if isinstance(response.body, bytes) else None
            if body is not None or not has_body:
                await self._send_piece(body or b"" if has_body else b"", False)
                return
            self._drop_body()
            if stops:
                request.disconnect.add(self._cancel)
            await self._send_pieces(pieces)
        finally:
            request.disconnect.remove(self._cancel)
            await pieces.aclose()

    def _drop_body(self) -> None:
        """Drop what nobody has read, as our own server does, and watch for the end.

        SECURITY: the client's leaving comes behind its body. Whoever sent one that a
        stream does not read, and left, would have that stream run on for ever.
        """
        if isinstance(self.request.source, ASGIBody) and not self.has_all:
            self.request.source.was_dropped = True
            self.watch()

    async def _send_pieces(self, pieces: Pieces) -> None:
        while True:
            piece = await pieces.next()
            if self.request.disconnected:
                raise ClientDisconnected("the client left")
            await self._send_piece(piece, bool(piece))
            if not piece:
                return

    async def _send_piece(self, piece: bytes, more: bool) -> None:
        message = {"type": "http.response.body", "body": piece, "more_body": more}
        await self._send(message)

    def _cancel(self) -> None:
        self._was_cancelled = True
        cast(Any, self._task).cancel()


class ASGIGateway(Gateway):
    """An application as an ASGI callable."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or be started and stopped."""
        kind = scope["type"]
        if kind == "http":
            await ASGIExchange(self, scope, receive, send).run()
        elif kind == "lifespan":
            await self._live(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})  # the client: 403
        else:
            raise PixieError(f"app.asgi serves HTTP only, got {kind!r}")

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start and stop when the server says so."""
        await receive()
        try:
            await self.join()
        except Exception as error:
            log.error("the application can't start", exc_info=error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self.leave()
        except Exception as error:
            log.error("the application failed while it stopped", exc_info=error)
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})
