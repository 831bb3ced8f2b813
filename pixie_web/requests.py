"""A request, its body, and the client's leaving.

A request has one form in all processes: the raw bytes of its head, its body (bytes,
or the path of a file) and a small record of values that are not in them. All other
parts (headers, query, cookies, form) are parsed from these at their first use, where
the handler runs. A part that no handler uses costs nothing, and little data is sent.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from contextvars import ContextVar
from functools import lru_cache
from typing import (
    Any,
    AsyncIterator,
    BinaryIO,
    Callable,
    ClassVar,
    Dict,
    Iterable,
    List,
    Literal,
    Optional,
    Tuple,
    Union,
    cast,
    overload,
)

from .about import log
from .cookies import UNSET, MaybeSecrets, parse_cookies, secret_keys, unsign
from .datastructures import Default, Headers, MultiDict, T
from .errors import HTTPError, PixieError, ends_worker, fold
from .forms import BodyFile, FileUpload, parse_form
from .protocol.http11 import Head
from .protocol.multipart import FORM_LIMITS, FormLimits, codec_of
from .sessions import Session, open_session
from .text import expression, parse_urlencoded, percent_encode, read_json

MAX_BODY_BYTES = 16 * 1024 * 1024  # a route may ask for more or less; nginx 1 MiB
MAX_CHUNK_BYTES = 256 * 1024  # a larger piece of a response is sent in several
NEVER = float("inf")  # a deadline that is not set

JSON = "application/json"


class Disconnect:
    """Tells whether the client has gone, and calls back once when it goes."""

    # PERF: defaults of the class, and no __init__: 0.2 us for each request.
    gone = False
    _callbacks: Tuple[Callable[[], object], ...] = ()

    def add(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when the client goes; at once if it has gone."""
        if self.gone:
            callback()
        else:
            self._callbacks += (callback,)

    def remove(self, callback: Callable[[], object]) -> None:
        """Take a callback back; one that is not there does not matter."""
        if self._callbacks == (callback,):
            self._callbacks = ()  # PERF: as almost always; 0.4 us
        else:
            self._callbacks = tuple(one for one in self._callbacks if one != callback)

    def set(self) -> None:
        """Note that the client has gone, and call back."""
        self.gone = True
        callbacks, self._callbacks = self._callbacks, ()
        for callback in callbacks:
            callback()


async def off_the_loop(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread of the loop's own.

    A cancel waits for its end: what it works on may be closed right after.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, function, *args)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


class BodySource:
    """Where a request's body comes from: what a server implements for `handle`.

    The first `read` is what sends `100 Continue` to a client that waits for it.
    """

    content_length: Optional[int]  # bytes; None when only the end will tell
    max_body_bytes = MAX_BODY_BYTES  # a route may set another
    received_bytes = 0
    has_ended = False  # it has been read to its end

    async def read(self) -> bytes:
        """Return the next bytes of the body, or b"" at its end.

        Raises:
            ClientDisconnected: the connection ended before the body did.
            ProtocolError: what came is no body (400) or came too slowly (408).
        """
        raise NotImplementedError

    def take_whole(self) -> Optional[bytes]:
        """Return the body, if all of it is there and nothing of it was read; or None.

        Its length has been checked, and it is held: see `hold`.
        """
        return None

    def hold(self, size: int) -> bool:
        """Say how many bytes of memory the body takes now; return whether it may.

        Whoever is told that it may not puts the body into a file, and says 0.
        """
        return True

    def check(self, size: int) -> None:
        """Raise HTTPError 413 if `size` bytes are more than may come."""
        most = self.max_body_bytes
        if size > most:
            raise HTTPError(413, f"The body is larger than {most} bytes.")

    async def pull(self) -> bytes:
        """The same as `read`, within `max_body_bytes`."""
        chunk = await self.read()
        self.received_bytes += len(chunk)
        self.check(self.received_bytes)
        return chunk


# That of the request at hand, for `url_for`; "" outside of one.
ROOT_PATH: ContextVar[str] = ContextVar("root_path", default="")


_REQUEST_ID = expression(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # RFC 9110: a token
_numbers = itertools.count(1)


def next_number() -> int:
    """Return a number that no other request of this run has, in 32 bits."""
    return next(_numbers) & 0xFFFFFFFF


def _read_cookie(
    name: str,
    value: Optional[str],
    default: Any,
    secret: Union[MaybeSecrets, Literal[False]],
    max_age: Optional[float],
) -> Any:
    if secret is False or secret is UNSET:
        return default if value is None else value
    keys = secret_keys(secret)
    try:
        return (
            default
            if value is None
            else unsign(name, value, keys, max_age, time.time())
        )
    except ValueError:
        return default


@lru_cache(maxsize=64)  # PERF: a program asks for few headers; 0.15 us
def _start_of_line(name: str) -> bytes:
    """Return where a header's lines begin in a head of lower case.

    The request line has no line break ahead of it, and a proved line its colon; so a
    name that holds one is not found.
    """
    name = "\0" if ":" in name else name.lower()
    return b"\r\n%b:" % name.encode("ascii", "replace")


def _spool_file() -> BodyFile:
    import tempfile

    has_proc = os.path.isdir("/proc/self/fd")
    make = tempfile.TemporaryFile if has_proc else tempfile.NamedTemporaryFile
    file = cast(BinaryIO, make(buffering=0))
    path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
    return BodyFile(file, path if has_proc else file.name)


class Request:
    """The request of a client; handlers get it as `env`.

    Attributes:
        head: the parsed head; `raw_head` are its bytes as received.
        client: the address of the client after proxy rules: (host, port).
        scheme: "http" or "https", after proxy rules.
        host: the host the client addressed, with the port if it sent one.
        app: the application that answers, or None outside of one.
        prefix: the path under which the application is mounted, "" at the root.
        root_path: the path that a proxy has taken off in front, percent-encoded.
        route: the matched route, or None where nothing matched.
        params: the path's arguments by name, converted by their filters.
        context: a dict for triggers and handlers; travels to the pool as JSON. The
            request takes no attributes but its own.
        debug: whether error pages show tracebacks.
        held_session: what there is of its session: None until somebody asks for it,
            what another process has handed over, or False when the head is made.
        known: where the application has found its route; it takes that back with the
            same head (see `Application.begin`).
    """

    run: ClassVar[str] = os.urandom(4).hex()  # of main, in workers too

    __slots__ = (
        "_after",
        "_body",
        "_cookies",
        "_form",
        "_headers",
        "_id",
        "_query",
        "app",
        "body_file",
        "client",
        "context",
        "debug",
        "disconnect",
        "fatal",
        "head",
        "held_session",
        "host",
        "known",
        "number",
        "params",
        "prefix",
        "queue_seconds",
        "root_path",
        "route",
        "run_seconds",
        "scheme",
        "source",
    )

    def __init__(
        self,
        head: Head,
        client: Tuple[str, int] = ("", 0),
        scheme: str = "http",
        source: Optional[BodySource] = None,
        disconnect: Optional[Disconnect] = None,
        debug: bool = False,
    ) -> None:
        # Of the wire.
        self.head = head
        self.client = client
        self.scheme = scheme
        self.host = head.host
        self.source = source
        self.disconnect: Any = disconnect
        # Of the application.
        self.app: Any = None
        self.known: Any = None
        self.prefix = ""
        self.root_path = ""
        self.route: Any = None
        self.params: Dict[str, Any] = {}
        self.context: Dict[str, Any] = {}
        self.debug = debug
        self.queue_seconds = 0.0
        self.run_seconds: Optional[float] = None  # None: it has not come to a handler
        self.fatal = False  # the handler tried to end its process
        self.number = 0  # in this run; 0: nobody has asked
        self.held_session: Any = None
        # Filled in when first asked for.
        self.body_file: Optional[BodyFile] = None  # of a large one
        self._body: Optional[bytes] = b"" if source is None else None
        self._headers: Optional[Headers] = None
        self._query: Optional[MultiDict[str]] = None
        self._cookies: Optional[Dict[str, str]] = None
        self._form: Optional[Tuple[MultiDict[str], MultiDict[FileUpload]]] = None
        self._id: Optional[str] = None
        self._after: Tuple[Callable[[], object], ...] = ()

    # The head.

    @property
    def request_id(self) -> str:
        """The name of this request in logs: its X-Request-ID, or a new one.

        The client's own is taken if it is a token (RFC 9110 section 5.6.2) of at most
        64 characters. A new one is made at the first use, from the run of the program
        and a number. Main and its workers know both, so it is the same in all of them.
        """
        if self._id is None:
            self._id = self.header("x-request-id") or ""
            if not _REQUEST_ID.fullmatch(self._id):
                self.number = self.number or next_number()
                self._id = f"{Request.run}-{self.number:x}"
        return self._id

    @property
    def raw_head(self) -> bytes:
        """The request line and header lines as received, through the blank line."""
        return self.head.raw

    @property
    def method(self) -> str:
        """The verb, as sent: "GET"."""
        return self.head.method

    @property
    def path(self) -> str:
        """The decoded path below `prefix`, starting with "/"."""
        return self.head.path[len(self.prefix) :] or "/"

    @property
    def query_string(self) -> str:
        """The part of the target behind "?", still encoded; "" without one."""
        return self.head.query_string

    @property
    def protocol(self) -> str:
        """The version the client spoke: "HTTP/1.1"."""
        return f"HTTP/{self.head.version}"

    @property
    def url(self) -> str:
        """The whole address, with the path that a proxy has taken off."""
        target = percent_encode(self.head.path, b"/:@!$&'()*+,;=")
        query = f"?{self.query_string}" if self.query_string else ""
        return f"{self.scheme}://{self.host}{self.root_path}{target}{query}"

    @property
    def headers(self) -> Headers:
        """The header lines; names compare without regard to case."""
        if self._headers is None:
            self._headers = Headers.from_wire(self.head.lines())
        return self._headers

    def header(self, name: str, default: Optional[str] = None) -> Optional[str]:
        """Return a header's value, or `default`."""
        values = self._values(name)
        return ", ".join(values) if values else default

    def _values(self, name: str) -> List[str]:
        """Return the values of all header lines of a name.

        PERF: most handlers want one of ten: 0.9 us, and 5.2 to parse them all.
        """
        if self._headers is not None:
            return self._headers.getall(name)
        raw, start, values = self.head.raw, _start_of_line(name), []
        text = raw.lower()
        at = text.find(start)
        while at >= 0:
            at += len(start)
            end = raw.index(b"\r", at)
            values.append(raw[at:end].decode("latin-1").strip("\t "))
            at = text.find(start, end)
        return values

    @property
    def query(self) -> MultiDict[str]:
        """The fields of the query string.

        Raises:
            HTTPError: 413, for more fields than a form may have.
        """
        if self._query is None:
            raw = self.head.query_string.encode("latin-1")
            self._query = MultiDict(parse_urlencoded(raw, self._form_limits.max_fields))
        return self._query

    @property
    def cookies(self) -> Dict[str, str]:
        """The cookies by name."""
        if self._cookies is None:
            self._cookies = parse_cookies("; ".join(self._values("cookie")))
        return self._cookies

    @overload
    def cookie(self, name: str, default: None = None) -> Optional[str]: ...

    @overload
    def cookie(self, name: str, default: Default) -> Union[str, Default]: ...

    @overload
    def cookie(
        self,
        name: str,
        default: Any = None,
        *,
        secret: Union[MaybeSecrets, Literal[False]] = UNSET,
        max_age: Optional[float] = None,
    ) -> Any: ...

    def cookie(
        self,
        name: str,
        default: Any = None,
        *,
        secret: Union[MaybeSecrets, Literal[False]] = UNSET,
        max_age: Optional[float] = None,
    ) -> Any:
        """Return a cookie's value, or `default`.

        Args:
            secret: the secret that signed the cookie (str or bytes), or several; False
                if it is not signed. Left out, the application's secrets, if it has any.
                Type checkers then take the value for a str, although JSON has other
                values too.
            max_age: how old the signature may be, in seconds.

        A signed cookie that is forged, too old or moved here from another name counts
        as missing.

        Raises:
            PixieError: the secret is empty or too short, whatever the client sent.
        """
        if secret is UNSET:
            secret = cast(MaybeSecrets, getattr(self.app, "secrets", UNSET))
        return _read_cookie(name, self.cookies.get(name), default, secret, max_age)

    @property
    def session(self) -> Session:
        """The session of this client, a dict; docs/sessions.md.

        It is read from the request when it is first asked for, and saved with the head
        of the answer.

        Raises:
            PixieError: the application has no secrets.
        """
        if type(self.held_session) is not Session:
            home, held = self.app.session_home(), self.held_session
            self.held_session = open_session(home, self._values("cookie"), held)
        return cast(Session, self.held_session)

    # The body.

    @property
    def body(self) -> bytes:
        """The body as it was sent; read from its file where it was spooled to one."""
        if self._body is None:
            if self.body_file is None:
                raise PixieError(
                    "the body has not arrived yet: a trigger that is an `async def` "
                    "runs ahead of it, so read it in the handler; a route with "
                    "stream_body=True reads it by env.stream()"
                )
            self._body = self.body_file.read_at(0)
        return self._body

    @body.setter
    def body(self, body: bytes) -> None:
        self._body = body

    @property
    def held_bytes(self) -> int:
        """How much of the body is in memory."""
        return len(self._body or b"")

    async def stream(self) -> AsyncIterator[bytes]:
        """Iterate over the body in pieces; for `asnc` handlers.

        With `stream_body=True` on the route they arrive now, no faster than they are
        read. Otherwise the whole body has arrived, and is cut into pieces.

        Raises:
            HTTPError: 413 over the limit, 408 when it comes too slowly, 400 when it is
                cut short or malformed. All end the connection.
            ClientDisconnected: the client left; nobody waits for an answer.
        """
        if self._body is not None:
            if self._body:
                yield self._body
        elif self.body_file is not None:
            for piece in self.body_file.pieces():
                yield piece
        else:
            source = cast(BodySource, self.source)
            while True:
                chunk = await source.pull()
                if not chunk:
                    return
                yield chunk

    def spool(self, chunks: Iterable[bytes]) -> None:
        """Append to the file that holds the body; it blocks, so not on the loop.

        The file has no name: it is gone when its last descriptor is closed, however
        this process ends. Linux lets a worker open it again all the same; elsewhere it
        has a name until it is closed.

        Raises:
            OSError: the disk is full, or there is no directory for such files.
        """
        if self.body_file is None:
            self.body_file = _spool_file()
            self.body_file.hold(self)
        self.body_file.write(chunks)

    def open_body(self, path: str) -> None:
        """Take the file that holds the body, in a worker.

        Raises:
            OSError: it can't be opened.
        """
        file = cast(BinaryIO, open(path, "rb", buffering=0))  # noqa: SIM115
        self.body_file = BodyFile(file, path)
        self.body_file.hold(self)
        self._body = None

    @property
    def text(self) -> str:
        """The body as text, in the charset of its Content-Type, or in UTF-8.

        Raises:
            HTTPError: 400, when the body is not in that charset; 415, when the charset
                is not utf-8, us-ascii, iso-8859-1 or windows-1252.
        """
        codec = codec_of(self._content_type)
        try:
            return self.body.decode(codec)
        except UnicodeDecodeError as error:
            text = f"The body is not {codec.upper()}: {error.reason}."
            raise HTTPError(400, text) from None

    @property
    def json(self) -> Any:
        """The value of the JSON body.

        Raises:
            HTTPError: 415 when the Content-Type is not JSON, 400 with the reason when
                the body is not.
        """
        media_type = self._content_type.partition(";")[0].strip().lower()
        if media_type != JSON and not media_type.endswith("+json"):
            text = "Send JSON, with Content-Type: application/json."
            raise HTTPError(415, text, {"Accept": JSON})
        return read_json(self.body)

    @property
    def form(self) -> MultiDict[str]:
        """The text fields of the form in the body; empty for any other body.

        Raises:
            HTTPError: 400 when it is malformed, 413 over a limit, 415 for a charset.
        """
        return self._parse_form()[0]

    @property
    def files(self) -> MultiDict[FileUpload]:
        """The uploaded files of the form in the body, by field name.

        Raises:
            HTTPError: as `form`.
        """
        return self._parse_form()[1]

    @property
    def _content_type(self) -> str:
        return ", ".join(self._values("content-type"))

    @property
    def _form_limits(self) -> FormLimits:
        limits: FormLimits = getattr(self.app, "form_limits", FORM_LIMITS)
        return limits

    def _parse_form(self) -> Tuple[MultiDict[str], MultiDict[FileUpload]]:
        if self._form is None:
            body = (self.body_file if self._body is None else None) or self.body
            self._form = parse_form(self._content_type, body, self._form_limits)
        return self._form

    # The exchange.

    @property
    def disconnected(self) -> bool:
        """Whether the client has left: a long handler may check this, and stop."""
        return self.disconnect is not None and self.disconnect.gone

    def after_response(self, function: Callable[[], object]) -> None:
        """Call `function` after the answer, where the handler runs."""
        self._after += (function,)

    def close(self) -> None:
        """Run what `after_response` collected, and let the body's file go; once."""
        after, self._after = self._after, ()
        try:
            for function in after:
                try:
                    function()
                except BaseException as error:
                    if ends_worker(error):
                        raise
                    log.exception("%r failed after its response", self)
        finally:
            if self.body_file is not None:
                self.body_file.release(self)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.head.target}>"


def log_failure(request: Request, error: BaseException, midway: bool = False) -> None:
    """Log that a handler failed: its request, route, placement, and the traceback.

    Args:
        midway: a part of its answer has been sent.
    """
    if isinstance(error, AttributeError) and "'Request' object has no" in str(error):
        # PERF: said here, and not by a __setattr__, which would cost each request 8 us.
        error.args = (f"{error}; values of your own go into env.context, a dict",)
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        hint = "worker_memory_limit_bytes counts stacks, see threading.stack_size"
        error.args = (f"{error}; {hint}",)
    fold(error)
    route = request.route
    where = f" in {route.path} ({route.placement.name})" if route is not None else ""
    where += ", in the middle of its answer" if midway else ""
    log.error(
        "%s %s failed%s, request %s",
        request.method,
        request.head.target,
        where,
        request.request_id,
        exc_info=error,
    )
