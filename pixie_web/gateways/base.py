"""The common part of gateways: an application in a loop of another server.

    server -> wsgi or asgi -> Gateway.answer -> application.handle

A `Gateway` starts the application at the first request in a loop, and again in the
next loop; a `Stay` is one such life. A gateway passes on the head, which it writes
again and checks, and the body as the server gives it. It sends `fields_of` the
response and its `Pieces`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import (
    Any,
    AsyncIterator,
    List,
    Mapping,
    MutableMapping,
    Optional,
    Set,
    Tuple,
    cast,
)
from weakref import WeakKeyDictionary

from ..about import log
from ..application import Application
from ..errors import (
    AnswerLost,
    ClientDisconnected,
    HTTPError,
    PixieError,
    ProtocolError,
    RequestCutShort,
    no_descriptor,
)
from ..forks import undo_in_copies, undo_nothing_in_copies
from ..lifespan import Lifespan
from ..protocol.canonical import HeaderLine
from ..protocol.http11 import Head
from ..requests import MAX_CHUNK_BYTES, BodySource, Request, log_failure, off_the_loop
from ..responses import FileSlice, Response, error_page
from ..server.options import ServerOptions
from ..server.proxies import AllowedHosts, TrustedProxies, clean_root_path
from ..settings import read_settings
from ..staticfiles import open_slice

_NO_BODY = (204, 205, 304)


class Stay:
    """One life of an application in a loop.

    It begins with the task `ready`, and ends with `end`: at the latest when the loop
    closes its async generators, as `asyncio.run` has it do. That is the only word of
    its end that a loop gives.

    Args:
        lifespan: what is started, and stopped.

    Attributes:
        requests: those that are being answered.
    """

    def __init__(self, lifespan: Lifespan) -> None:
        self.requests: Set[Request] = set()
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self._lifespan = lifespan
        self._guard: AsyncIterator[None] = self._last()
        self.ready = self.loop.create_task(self._begin())

    @property
    def is_here(self) -> bool:
        """Whether it is that of the running loop."""
        return self.loop is asyncio.get_running_loop() and self.pid == os.getpid()

    async def _begin(self) -> None:
        self._lifespan.prepare()
        try:
            await self._lifespan.start()
        except BaseException:
            self._lifespan.abandon()
            raise
        undo_in_copies(self._undo_in_copy)
        await self._guard.__anext__()

    async def _last(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            undo_nothing_in_copies()
            await self._lifespan.stop()

    async def end(self) -> None:
        """Stop the application, if it has started."""
        await cast(Any, self._guard).aclose()

    def end_from_outside(self) -> None:
        """The same for who is in another loop; it waits for that."""
        if self.loop.is_closed():
            self._give_up()
        elif self.loop.is_running():
            asyncio.run_coroutine_threadsafe(self.end(), self.loop).result()
        else:
            # Here a loop runs, and so no other one can.
            run = self.loop.run_until_complete
            thread = threading.Thread(target=lambda: run(self.end()))
            thread.start()
            thread.join()

    def _give_up(self) -> None:
        """End what can be ended when the loop has closed without `end`."""
        log.warning(
            "an event loop was closed without shutdown_asyncgens(): the functions "
            "of on_stop have not run"
        )
        for pool in self._lifespan.pools.values():
            pool.end_zygote()
            for descriptor in pool.descriptors():
                os.close(descriptor)

    def _undo_in_copy(self) -> None:
        """Have a process that a handler forks keep no worker of this one alive."""
        null = os.open(os.devnull, os.O_RDWR)
        for pool in self._lifespan.pools.values():
            for descriptor in pool.descriptors():
                os.dup2(null, descriptor, inheritable=False)
        os.close(null)


class GatewayBody(BodySource):
    """A request's body, as a server hands it out; a gateway says how in `fetch`.

    Args:
        gateway: bounds it.
        head: says how long it is.
    """

    def __init__(self, gateway: Gateway, head: Head) -> None:
        self._gateway = gateway
        self.content_length = head.content_length
        self.max_body_bytes = gateway.options.max_body_bytes
        self._held_bytes = 0
        self._came_bytes = 0
        self.has_ended = False
        self.is_over = False  # the request: nobody may read any more
        self.was_dropped = False  # what nobody had read when the answer began

    def hold(self, size: int) -> bool:
        """Count the body in memory; return whether there is room for all that are."""
        gateway = self._gateway
        gateway.held_bytes += size - self._held_bytes
        self._held_bytes = size
        return gateway.held_bytes <= gateway.options.max_memory_body_bytes

    async def fetch(self, size: int) -> bytes:
        """Return the next bytes, about `size` of them, or b"" at their end.

        Raises:
            ClientDisconnected: the client has left.
        """
        raise NotImplementedError

    async def read(self) -> bytes:
        """Return the next bytes of the body; see BodySource."""
        if self.is_over:
            raise ClientDisconnected("the request has ended, and its body is gone")
        self._refuse_what_was_dropped()
        length = self.content_length
        if self._came_bytes == length and not self.has_ended:
            self.has_ended = True
            self.ended()
        if self.has_ended:
            return b""
        left = MAX_CHUNK_BYTES if length is None else length - self._came_bytes
        chunk = await self.fetch(min(left, MAX_CHUNK_BYTES))
        self._refuse_what_was_dropped()
        self._came_bytes += len(chunk)
        if not chunk:
            self.has_ended = True
            if length is not None:
                raise RequestCutShort(400, "The connection ended inside a request.")
        if length is not None and self._came_bytes > length:
            raise ProtocolError(400, "The body is longer than its Content-Length.")
        if length is None and self._came_bytes > self.max_body_bytes:
            raise ProtocolError(413, "The body is larger than this resource takes.")
        return chunk

    def _refuse_what_was_dropped(self) -> None:
        if self.was_dropped:  # the rest, or its end, would pass for the whole
            raise ClientDisconnected("the body was dropped when the answer began")

    def ended(self) -> None:
        """All of it has come."""

    def close(self) -> None:
        """The request is over."""
        self.is_over = True
        self.hold(0)


# That of each application in this process, and who may change it: a program may be
# asked by several gateways, each from a loop of its own.
_stays: MutableMapping[Application, Stay] = WeakKeyDictionary()
_moving = threading.Lock()


class Gateway:
    """An application that runs in the loop of any server.

    Args:
        application: the one that answers.
        given: settings, as run() takes them; variables PIXIE_* stand behind them.
        forks: the pool may be forked from this process. It may not where a server has
            made it: the fork would have the clients' connections.
        inline: pool routes run in threads.

    Attributes:
        options: the bounds of requests.
        settings: all of them.
        held_bytes: of memory, by the bodies that are here.

    Raises:
        PixieError: a setting is none.
    """

    def __init__(
        self,
        application: Application,
        given: Mapping[str, Any],
        forks: bool = False,
        inline: bool = False,
    ) -> None:
        self.application = application
        self.settings = read_settings(given, os.environ)
        names = ServerOptions._fields
        self.options = ServerOptions(**{name: self.settings[name] for name in names})
        self.make_reader = self.options.reader()
        self.held_bytes = 0
        proxies = self.options.trusted_proxies
        self._proxies = TrustedProxies(proxies) if proxies else None
        self._hosts = AllowedHosts(self.options.allowed_hosts)
        self._forks, self._inline = forks, inline

    async def join(self) -> Stay:
        """Be ready to answer in the running loop.

        Raises:
            PixieError: the application is at work in another loop, or can't start.
        """
        stay = _stays.get(self.application)
        if stay is None or not stay.is_here:
            with _moving:
                stay = _stays[self.application] = self._move()
        try:
            await asyncio.shield(stay.ready)
        except BaseException:
            if stay.ready.done() and _stays.get(self.application) is stay:
                del _stays[self.application]  # the next request tries again
            raise
        return stay

    async def leave(self) -> None:
        """Stop the application in the running loop, where it has been ready."""
        stay = _stays.get(self.application)
        if stay is not None and stay.is_here:
            del _stays[self.application]
            await stay.end()

    def _move(self) -> Stay:
        """Begin in the running loop, and end in the one before."""
        old = _stays.get(self.application)
        if old is not None and old.pid == os.getpid():
            if old.is_here:
                return old  # another thread was faster
            if old.requests and old.loop.is_running():
                raise PixieError(
                    "the event loop of another thread serves this application, and "
                    "a process can serve it in one loop only"
                )
            old.end_from_outside()
        made = Lifespan(self.application, self.settings, self._forks, self._inline)
        return Stay(made)

    def request(
        self,
        head: Head,
        client: Tuple[str, int],
        scheme: str,
        root_path: str,
        body: Optional[GatewayBody],
    ) -> Request:
        """Return the request that a server has read.

        Args:
            root_path: what comes ahead of the path, percent-encoded.
            body: where it comes from; None: there is none.
        """
        scheme = scheme if scheme in ("http", "https") else "http"
        request = Request(head, client, scheme, body, debug=self.options.debug)
        request.root_path = clean_root_path(root_path) or ""
        return request

    async def answer(self, request: Request) -> Response:
        """Return the response to a request: of `handle`, or a page that says why not.

        Raises:
            ClientDisconnected: the client has left.
        """
        try:
            stay = await self.join()
            stay.requests.add(request)
            if self._proxies is not None:
                root_path = request.root_path
                self._proxies.apply(request)
                request.root_path = request.root_path or root_path
            if not self._hosts.allow(request.host):
                raise ProtocolError(400, "No such host is served here.")
            return await self.application.handle(request)
        except ProtocolError as error:
            return error_page(error)
        except ClientDisconnected:
            raise
        except Exception as error:
            log.error("%r could not be answered", request, exc_info=error)
            return error_page(HTTPError(500))

    def release(self, request: Request) -> None:
        """Note, in any thread, that a request has been answered."""
        stay = _stays.get(self.application)
        if stay is not None:
            stay.requests.discard(request)

    def close(self, request: Request) -> None:
        """End a request that has been answered, or whose client has left."""
        self.release(request)
        if request.source is not None:
            cast(GatewayBody, request.source).close()
        request.close()


def fields_of(request: Request, response: Response) -> Tuple[List[HeaderLine], bool]:
    """Return the header lines of a response, and whether its body is to be sent."""
    block = response.header_block(request.scheme == "https")
    pairs = [line.partition(b": ") for line in block.split(b"\r\n")[:-1]]
    lines = [(name, value) for name, _, value in pairs]
    status, body = response.status, response.body
    length = response.stream_bytes
    if isinstance(body, bytes):
        length = len(body)
    elif isinstance(body, FileSlice):
        length = body.length
    if status == 205:  # RFC 9110 section 15.3.6
        length = 0
    # A 304 may say its length, but servers look for as much of a body then.
    if length is not None and status not in (204, 304):
        lines.append((b"Content-Length", b"%d" % length))
    return lines, request.method != "HEAD" and status not in _NO_BODY


class Pieces:
    """The body of a response of any kind, piece by piece.

    Args:
        request: what is answered.
        response: the answer; that which it becomes if its file has gone is `response`.
    """

    def __init__(self, request: Request, response: Response) -> None:
        self._request = request
        self.response = response
        self._file: Any = None
        self._pending: Optional[asyncio.Future[bytes]] = None
        self._left: Optional[int] = response.stream_bytes
        self._beat_seconds: Optional[float] = None
        self._closed = False
        if isinstance(response.body, FileSlice):
            self._open_file(response.body)

    def _open_file(self, body: FileSlice) -> None:
        try:
            self._file = open_slice(body)
            self._file.seek(body.offset)
            self._left = body.length
        except FileNotFoundError:  # it went between the look at it and now
            self.response = error_page(HTTPError(404))
        except OSError as error:
            self.response = error_page(no_descriptor(self._request, error))

    def begin(self, lines: List[HeaderLine]) -> None:
        """Note the header lines: what a stream sends while it is silent obeys them."""
        route = self._request.route
        coded = any(name.lower() == b"content-encoding" for name, _ in lines)
        if route and route.heartbeat and self._left is None and not coded:
            self._beat_seconds = route.heartbeat_seconds

    async def next(self) -> bytes:
        """Return the next piece, or b"" at the end.

        Raises:
            ClientDisconnected: the answer breaks off: it failed, which is logged.
        """
        try:
            piece = await self._next()
            if self._left is not None:
                self._left -= len(piece)
                if self._left < 0 or (self._left and not piece):
                    raise PixieError(
                        "the body has another length than its Content-Length"
                    )
            return piece
        except Exception as error:
            is_known = isinstance(error, (AnswerLost, ClientDisconnected))
            if not is_known:
                log_failure(self._request, error, midway=True)
            raise ClientDisconnected("the answer was cut off") from None

    async def _next(self) -> bytes:
        body: Any = self.response.body
        if self._file is not None:
            size = min(self._left or 0, MAX_CHUNK_BYTES)
            return await off_the_loop(self._file.read, size) if size else b""
        piece = b""
        try:
            while not piece:  # an empty one would pass for the end
                if self._beat_seconds is None:
                    piece = await body.__anext__()
                else:
                    piece = await self._next_or_heartbeat(body, self._beat_seconds)
        except StopAsyncIteration:
            return b""
        return piece

    async def _next_or_heartbeat(self, chunks: Any, seconds: float) -> bytes:
        if self._pending is None:
            self._pending = asyncio.ensure_future(chunks.__anext__())
        done, _ = await asyncio.wait([self._pending], timeout=seconds)
        if not done:
            inside = getattr(chunks, "inside_chunk", False)
            return b"" if inside else cast(bytes, self._request.route.heartbeat)
        pending, self._pending = self._pending, None
        return pending.result()

    async def aclose(self) -> None:
        """End it, whether all of it was sent or not; once."""
        if self._closed:
            return
        self._closed = True
        body = self.response.body
        if self._file is not None:
            self._file.close()
            if isinstance(body, FileSlice) and body.delete_after:
                os.unlink(body.path)
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.wait([self._pending])
        if hasattr(body, "aclose"):
            await cast(Any, body).aclose()
