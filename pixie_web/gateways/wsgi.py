"""WSGI (PEP 3333): `app.wsgi`, for gunicorn, waitress, cheroot and others.

A server calls from its own threads, and the application runs in a loop, in a thread
of this gateway. During a request the server's thread works for the loop: it reads the
body, which no other thread may do, and passes on pieces of the answer. A piece is
made when the server asks for it, so the handler is as slow as the client.

When the client has left, the server can't write to it, and closes the answer. Only
then the gateway knows it. So a silent stream finds it out by its heartbeat only.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Coroutine,
    Dict,
    Iterator,
    List,
    Optional,
    cast,
)

from ..about import log
from ..datastructures import T
from ..errors import REASONS, ClientDisconnected, ProtocolError
from ..executors.local import call_from_thread
from ..loops import LoopThread
from ..protocol.canonical import HeaderLine, canonical_head, encode_target
from ..protocol.http11 import Head
from ..requests import Disconnect, Request
from ..responses import error_page
from ..server.access import NO_HEAD
from .base import (
    Gateway,
    GatewayBody,
    Pieces,
    fields_of,
)

if TYPE_CHECKING:
    from queue import SimpleQueue

Environ = Dict[str, Any]
StartResponse = Callable[..., Any]
END_SECONDS = 10.0  # that a process may take to stop its application when it exits


class Conversation:
    """The messages of a server's thread and the loop about one request.

    Args:
        loop: that runs in another thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        from queue import SimpleQueue

        self.loop = loop
        self._inbox: SimpleQueue[Any] = SimpleQueue()  # of the server's thread

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop; meanwhile do here what it asks for."""
        self.loop.call_soon_threadsafe(self._begin, coroutine)
        while True:
            item = self._inbox.get()
            if isinstance(item, asyncio.Task):
                break
            item()
        if item.cancelled():
            raise ClientDisconnected("the application has ended")
        return cast(T, item.result())

    def _begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.loop.create_task(coroutine).add_done_callback(self._inbox.put)

    async def ask(self, function: Callable[..., T], *args: Any) -> T:
        """Have the server's thread call a function, and return what that returns."""
        future: asyncio.Future[T] = self.loop.create_future()

        def settle(result: Any, error: Optional[BaseException]) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def call() -> None:
            result, failure = None, None
            try:
                result = function(*args)
            except Exception as error:
                failure = error
            call_from_thread(self.loop, settle, result, failure)

        self._inbox.put(call)
        return await future


class WSGIBody(GatewayBody):
    """A body that the server's thread reads."""

    def __init__(
        self, gateway: Gateway, head: Head, talk: Conversation, read: Callable[..., Any]
    ) -> None:
        super().__init__(gateway, head)
        self._talk = talk
        self._read = read

    async def fetch(self, size: int) -> bytes:
        """Return the next bytes."""
        try:
            return cast(bytes, await self._talk.ask(self._read, size))
        except Exception as error:  # each server has its own
            log.debug("can't read the rest of the body", exc_info=error)
            raise ClientDisconnected(
                f"can't read the rest of the body: {error!r}"
            ) from None


def _lines_of(environ: Environ) -> List[HeaderLine]:
    lines = [
        (key[5:].replace("_", "-").title().encode("latin-1"), value.encode("latin-1"))
        for key, value in environ.items()
        # RFC 3875 section 4.1.18: the two have variables of their own.
        if key[:5] == "HTTP_"
        and key not in ("HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE")
    ]
    if environ.get("CONTENT_TYPE"):
        lines.append((b"Content-Type", environ["CONTENT_TYPE"].encode("latin-1")))
    if environ.get("CONTENT_LENGTH"):
        lines.append((b"Content-Length", environ["CONTENT_LENGTH"].encode("latin-1")))
    if not environ.get("HTTP_HOST") and environ.get("SERVER_NAME"):
        host = f"{environ['SERVER_NAME']}:{environ.get('SERVER_PORT', '')}"
        lines = [line for line in lines if line[0] != b"Host"]
        lines.append((b"Host", host.encode("latin-1")))
    return lines


def wsgi_head(environ: Environ, gateway: Gateway) -> Head:
    """Return the head that a server has taken apart.

    Raises:
        ProtocolError: it is none; 411 if nobody can tell where the body ends.
    """
    try:
        path = environ.get("PATH_INFO", "").encode("latin-1") or b"/"
        head = canonical_head(
            environ["REQUEST_METHOD"].encode("latin-1"),
            encode_target(path, environ.get("QUERY_STRING", "").encode("latin-1")),
            "1.0" if environ.get("SERVER_PROTOCOL") == "HTTP/1.0" else "1.1",
            _lines_of(environ),
            gateway.make_reader(),
        )
    except UnicodeEncodeError:
        raise ProtocolError(400, "The request holds a character over U+00FF.") from None
    if head.content_length is None and not environ.get("wsgi.input_terminated"):
        raise ProtocolError(411, "Send the body with a Content-Length.")
    return head


def _port_of(environ: Environ) -> int:
    port = str(environ.get("REMOTE_PORT") or "")
    return int(port) if port.isdecimal() else 0


class WSGIAnswer:
    """The body of an answer: what a server iterates over, and closes.

    Args:
        gateway: that has answered.
        talk: with its loop.
        request: what is answered.
        pieces: of the body.
        has_body: false for HEAD, 204 and others: there is nothing to be sent.
    """

    def __init__(
        self,
        gateway: Gateway,
        talk: Conversation,
        request: Request,
        pieces: Pieces,
        has_body: bool,
    ) -> None:
        self._gateway, self._talk = gateway, talk
        self._request, self._pieces = request, pieces
        body = pieces.response.body
        self._whole = body if isinstance(body, bytes) else None
        if not has_body:
            self._whole = b""  # hypercorn sends the head with a first piece only
        self._is_stream = not isinstance(body, bytes)
        self._ended = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        if self._whole is not None:
            self._ended = True
            return self._whole
        try:
            piece = self._talk.run(self._pieces.next())
        except BaseException:
            self._ended = True
            raise
        if not piece:
            self._ended = True
            raise StopIteration
        return piece

    def close(self) -> None:
        """End it; ahead of its end, that is because the client has left."""
        left = not self._ended
        self._ended = True
        if not self._is_stream:
            # PERF: nobody waits for what a handler does after its response.
            self._gateway.release(self._request)
            call_from_thread(self._talk.loop, self._gateway.close, self._request)
            return
        self._talk.run(self._end(left))

    async def _end(self, left: bool) -> None:
        if left:
            self._request.disconnect.set()
        try:
            await self._pieces.aclose()
        finally:
            self._gateway.close(self._request)


class WSGIGateway(Gateway):
    """An application as a WSGI callable; it runs in a thread, one in each process."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._thread: Optional[LoopThread] = None
        self._pid = 0
        self._starting = threading.Lock()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        """Answer a request; see PEP 3333."""
        talk = Conversation(self._loop())
        request = Request(NO_HEAD)
        try:
            request = self._request(environ, talk)
            response = talk.run(self.answer(request))
        except ProtocolError as error:
            response = error_page(error)
        except ClientDisconnected as error:
            response = error_page(ProtocolError(400, str(error)))
        pieces = Pieces(request, response)
        response = pieces.response
        lines, has_body = fields_of(request, response)
        pieces.begin(lines)
        answer = WSGIAnswer(self, talk, request, pieces, has_body)
        status = f"{response.status} {REASONS.get(response.status, 'Unknown')}"
        texts = [(n.decode("latin-1"), value.decode("latin-1")) for n, value in lines]
        try:
            start_response(status, texts)
        except BaseException:
            answer.close()  # nobody else has it: a worker would be at it for ever
            raise
        return answer

    def _request(self, environ: Environ, talk: Conversation) -> Request:
        head = wsgi_head(environ, self)
        body = None
        if head.content_length != 0:
            body = WSGIBody(self, head, talk, environ["wsgi.input"].read)
        client = environ.get("REMOTE_ADDR") or "", _port_of(environ)
        prefix = encode_target(environ.get("SCRIPT_NAME", "").encode("latin-1"), b"")
        scheme = environ.get("wsgi.url_scheme", "http")
        request = self.request(head, client, scheme, prefix.decode(), body)
        request.disconnect = Disconnect()
        return request

    def _loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop of this process; a fork has left the thread behind."""
        with self._starting:
            if self._thread is None or self._pid != os.getpid():
                self._thread = LoopThread(self.settings["loop"])
                self._pid = os.getpid()
                atexit.register(self._exit, self._pid)
            return self._thread.loop

    def _exit(self, pid: int) -> None:
        if self._thread is None or pid != os.getpid():
            return
        thread, self._thread = self._thread, None
        ending = asyncio.run_coroutine_threadsafe(self.leave(), thread.loop)
        try:
            ending.result(END_SECONDS)
        except Exception as error:
            log.error("the application did not stop", exc_info=error)
        thread.close()
