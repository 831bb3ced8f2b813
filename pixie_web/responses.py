"""A response, and the values that become one; its header block is rendered once.

The server adds the headers of the connection: Date, Connection, the framing of the
body.
"""

from __future__ import annotations

import copy
import time
from functools import lru_cache
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Literal,
    Mapping,
    NamedTuple,
    NoReturn,
    Optional,
    Tuple,
    Union,
    cast,
)

from .cookies import (
    UNSET,
    MaybeSecrets,
    cookie_date,
    cookie_domain,
    cookie_path,
    format_cookie,
    secure_or_not,
    sign,
)
from .datastructures import Headers
from .errors import REASONS, HTTPError, check_status
from .requests import JSON
from .text import (
    UNSAFE_IN_HEADER,
    check_header,
    dump_json,
    escape,
    expression,
    percent_encode,
    write_json,
)

if TYPE_CHECKING:
    from datetime import date, timedelta

_HOP_BY_HOP = frozenset(  # RFC 9110 section 7.6.1: these belong to the server
    ("connection", "keep-alive", "proxy-connection", "te", "trailer")
    + ("transfer-encoding", "upgrade")
)
_OWNED_BY_SERVER = frozenset(("content-length", "date"))  # dropped: the server knows
HTML = "text/html; charset=utf-8"
OCTETS = "application/octet-stream"
_RETURNS = (
    "a handler returns str, bytes, dict, list, None, (body, status[, headers]), "
    "a Response, a file or an iterator"
)
ENTITY_TAG = expression(r'(?:W/)?"[!#-~\x80-\xff]*"')  # RFC 9110 section 8.8.3


def quote_etag(value: str, weak: bool = False) -> str:
    """Return an entity tag as a header has it: "v7" -> '"v7"', or 'W/"v7"' if weak.

    Raises:
        ValueError: it holds a quote, a blank or a control character.
    """
    tag = f'W/"{value}"' if weak else f'"{value}"'
    if not ENTITY_TAG.fullmatch(tag):
        raise ValueError(f"an entity tag has no quotes or blanks inside: {value!r}")
    return tag


class FileSlice(NamedTuple):
    """A finished body that lies in a file: `length` bytes from `offset` on."""

    path: str
    offset: int
    length: int
    delete_after: bool = False
    descriptor: Optional[int] = None  # of a file that has no path


class StaticFile(NamedTuple):
    """A file that a handler wants sent; conditions and ranges still apply."""

    path: str
    cache: Optional[bool] = None
    delete_after: bool = False


Body = Union[
    str, bytes, bytearray, memoryview, Dict[Any, Any], List[Any], FileSlice, StaticFile
]
AnyBody = Union[Body, Iterator[Any], AsyncIterator[Any], None]


@lru_cache(maxsize=256)
def _content_type_line(content_type: str) -> bytes:
    check_header("Content-Type", content_type)
    return f"Content-Type: {content_type}\r\n".encode("latin-1")


_OK = 200  # PERF: the very number; 30 ns
_HTML_LINE = f"Content-Type: {HTML}\r\n".encode()
_OCTETS_LINE = f"Content-Type: {OCTETS}\r\n".encode()
_JSON_LINE = f"Content-Type: {JSON}\r\n".encode()


def _header_lines(headers: Headers) -> bytes:
    lines = []
    for name, value in headers.items():
        lower = name.lower()
        if lower in _HOP_BY_HOP:
            raise ValueError(f"the server sets {name}; take it out of the response")
        if lower not in _OWNED_BY_SERVER:
            lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")


def is_stream(body: object) -> bool:
    """Return whether a body comes in pieces: an iterator or an async iterator."""
    return hasattr(body, "__next__") or hasattr(body, "__anext__")


class Response:
    """An answer: a status, headers and a body.

    Args:
        body: str (sent in UTF-8), bytes, a dict or list (JSON), None (empty), or an
            iterator or async iterator of str or bytes, which is sent as it comes.
        status: 200 to 999 (int).
        content_type: the Content-Type; by default HTML for str, octets for bytes.
        headers: further headers (mapping or pairs of str).
        cookies: cookies to set with the default attributes (mapping of str to str).

    Raises:
        ValueError: no such status, or a header with a character that it can't hold.
    """

    __slots__ = (
        "_block",
        "_content_type",
        "_cookies",
        "_headers",
        "_status",
        "body",
        "stream_bytes",
    )

    def __init__(
        self,
        body: AnyBody = "",
        status: int = 200,
        content_type: Optional[str] = None,
        headers: Union[Mapping[str, str], Iterable[Tuple[str, str]], None] = None,
        cookies: Optional[Mapping[str, str]] = None,
    ) -> None:
        self.body: AnyBody = body
        self._status = _OK if status is _OK else check_status(status)
        self._content_type = content_type
        self._headers = Headers(headers) if headers else None
        self._cookies: Tuple[Tuple[str, Any, Dict[str, Any], bool], ...] = ()
        self._block: Optional[bytes] = None
        self.stream_bytes: Optional[int] = None  # of a stream, when known beforehand
        if cookies:
            for name, value in cookies.items():
                self.set_cookie(name, value)

    @classmethod
    def from_block(cls, status: int, block: bytes, body: AnyBody) -> Response:
        """Return a response whose header block is rendered, e.g. by a worker."""
        response = cls.__new__(cls)
        response._status = status
        response.body = body
        response._content_type = None
        response._headers = None
        response._cookies = ()
        response._block = block
        response.stream_bytes = None
        return response

    @property
    def status(self) -> int:
        """The status; setting a wrong one raises ValueError."""
        return self._status

    @status.setter
    def status(self, status: int) -> None:
        self._status = check_status(status)

    @property
    def headers(self) -> Headers:
        """The headers; a Content-Type set here wins over `content_type`."""
        if self._headers is None:
            self._headers = Headers()
            if self._block is not None:
                lines = self._block.decode("latin-1").split("\r\n")[:-1]
                pairs = (line.partition(": ")[::2] for line in lines)
                self._headers = Headers.from_wire(pairs)
                self._block = self._content_type = None
        return self._headers

    @property
    def content_type(self) -> Optional[str]:
        """The Content-Type; a header of that name wins, until this is set again."""
        if self._headers is None and (self._block is None or self._content_type):
            return self._content_type  # of which the block was rendered, if it was
        return self.headers.get("content-type", self._content_type)

    @content_type.setter
    def content_type(self, content_type: Optional[str]) -> None:
        if (
            self._block is not None or self._headers
        ) and "content-type" in self.headers:
            del self.headers["content-type"]
        self._content_type = content_type

    def set_cookie(
        self,
        name: str,
        value: Any,
        *,
        secret: Union[MaybeSecrets, Literal[False]] = UNSET,
        max_age: Union[float, timedelta, None] = None,
        expires: Union[float, date, str, None] = None,
        path: Optional[str] = "/",
        domain: Optional[str] = None,
        secure: Optional[bool] = None,
        httponly: bool = True,
        samesite: Optional[str] = "Lax",
        partitioned: bool = False,
    ) -> Response:
        """Set a cookie (RFC 6265bis section 4.1), and return this response.

        Args:
            name: a token; for `__Host-` and `__Secure-` the rules of browsers hold.
            value: any text; characters that a cookie can't carry are percent-encoded.
                With a secret, any JSON value.
            secret: sign the cookie with this (str or bytes; of several, the first): the
                client can read it but not change it. `env.cookie` takes the same. Left
                out, the application's first secret signs it, if there is one; False
                leaves it unsigned.
            max_age: seconds to live, or a timedelta; without this and `expires`, until
                the browser is closed.
            expires: seconds since 1970, a datetime (UTC if it does not say), a date, or
                the text of an HTTP date.
            path: begins with "/"; beyond ASCII it is percent-encoded.
            domain: this host and all below; beyond ASCII it is written in IDNA.
            secure: send over https only; None means: if the request came over https.
            samesite: "Lax", "Strict", "None", or None to leave it out.
            partitioned: one cookie for each site in whose pages it is embedded (CHIPS).

        Raises:
            ValueError: a browser would drop the cookie, or ignore a part of it.
            PixieError: the secret is empty or too short.
        """
        signs = secret is UNSET  # if the application that sends it has secrets
        if secret is not UNSET and secret is not False:
            value = sign(name, value, secret, time.time())
        if max_age is not None:
            whole: Any = getattr(max_age, "total_seconds", lambda: max_age)()
            max_age = int(whole)
        if name.lower().startswith("__host-") and (path != "/" or domain is not None):
            raise ValueError(f'a cookie named {name} needs path="/" and no domain')
        attributes: Dict[str, Any] = {
            "Max-Age": max_age,
            "Expires": cookie_date(expires),
            "Path": cookie_path(path),
            "Domain": cookie_domain(domain),
            "Secure": secure_or_not(name, secure, samesite, partitioned),
            "HttpOnly": httponly,
            "SameSite": samesite,
            "Partitioned": partitioned,
        }
        if signs and not isinstance(value, str):
            dump_json(value)
        else:
            format_cookie(name, value, attributes)  # refuses here what can't be sent
        self._cookies += ((name, value, attributes, signs),)
        return self

    def delete_cookie(
        self,
        name: str,
        *,
        path: Optional[str] = "/",
        domain: Optional[str] = None,
        partitioned: bool = False,
    ) -> Response:
        """Tell the client to drop a cookie, and return this response.

        `path`, `domain` and `partitioned` are those with which it was set.
        """
        options: Any = {"path": path, "domain": domain, "partitioned": partitioned}
        return self.set_cookie(name, "", secret=False, max_age=0, expires=0, **options)

    def etag(self, value: Optional[str] = None, weak: bool = False) -> Response:
        """Set the entity tag, which differs for each state of the resource.

        It returns this response.

        Args:
            value: any text without quotes and blanks, such as a version (str); by
                default it is made of the body, which is text, bytes or JSON then.
            weak: it stands for the meaning of the answer, not for its exact bytes.

        Raises:
            TypeError: the body is a stream or a file, and there is no value.
            ValueError: the value can't be a tag.
        """
        if value is None:
            body = self.body if isinstance(self.body, bytes) else self.settle().body
            if not isinstance(body, bytes):
                raise TypeError(f"a {type(body).__name__} has no tag: give one")
            import hashlib

            value = hashlib.blake2b(body, digest_size=16).hexdigest()
        self.headers["ETag"] = quote_etag(value, weak)
        return self

    def header_block(
        self, secure: bool = False, secrets: MaybeSecrets = UNSET
    ) -> bytes:
        """Return the header lines as bytes, each ended by CRLF.

        Args:
            secure: whether the request came over https, for cookies that ask.
            secrets: of the application, for cookies with no secret of their own.

        Raises:
            ValueError: a header was set that belongs to the server (Connection ...), or
                a cookie is too large when it is signed.
            TypeError: the value of an unsigned cookie is no text.
        """
        block = self.plain_block() if self._block is None else self._block
        if not self._cookies:
            return block
        for name, value, attributes, signs in self._cookies:
            if signs and secrets is not UNSET:
                value = sign(name, value, secrets, time.time())
            if attributes["Secure"] is None:
                attributes = {**attributes, "Secure": secure}
            line = format_cookie(name, value, attributes)
            block += f"Set-Cookie: {line}\r\n".encode("latin-1")
        return block

    def plain_block(self) -> bytes:
        """Return the header lines as `header_block` does, but none that set cookies.

        Raises:
            ValueError: a header was set that belongs to the server.
        """
        if self._block is not None:
            return self._block
        headers = self._headers or ()
        block = _header_lines(self._headers) if self._headers else b""
        if self._content_type is not None and "content-type" not in headers:
            block = _content_type_line(self._content_type) + block
        return block

    def copy_cookies(self, other: Response) -> None:
        """Set what cookies another response sets, instead of one's own."""
        self._cookies = other._cookies

    def copy_access(self, other: Response) -> None:
        """Let pages of other origins read this, if another response lets them."""
        for name, value in other.headers.items():
            if name.lower().startswith("access-control-"):
                self.headers[name] = value
            elif name.lower() == "vary":
                for one in value.split(","):
                    self.headers.vary(one.strip())

    @property
    def is_sealed(self) -> bool:
        """Whether its header block is rendered: nothing is left to be done but send."""
        return self._block is not None and not self._cookies

    @property
    def is_final(self) -> bool:
        """Whether it is sealed, and its body at hand."""
        is_sealed = self._block is not None and not self._cookies
        return is_sealed and type(self.body) is bytes

    def seal(self, secure: bool = False, secrets: MaybeSecrets = UNSET) -> Response:
        """Return the response with its header block rendered; see `header_block`.

        It is another one where the program may hold parts of this, and change them.
        """
        if self._headers is None and not self._cookies:
            # PERF: most have a content type and no more; 1.2 us.
            self._block = self.plain_block()
            return self
        block = self.header_block(secure, secrets)
        sealed = Response.from_block(self.status, block, self.body)
        sealed.stream_bytes = self.stream_bytes
        return sealed

    def own(self) -> Response:
        """Return one that is a request's own, for whoever changes it.

        SECURITY: a program may hold a Response, and return it again and again: what is
        set in it for one client, a session's cookie or a trigger's header, would be
        sent to all that come later.
        """
        # PERF: as copy.copy does, in a quarter of the time.
        kind = type(self)
        own = kind.__new__(kind) if kind is Response else copy.copy(self)
        own.body, own.stream_bytes = self.body, self.stream_bytes
        own._status, own._content_type = self._status, self._content_type
        own._block, own._cookies = self._block, self._cookies
        if own._content_type is not None:
            own._block = None  # of that alone, and what changes it renders it anew
        found = self._headers
        own._headers = Headers.from_wire(found.items()) if found else None
        return own

    def settle(self) -> Response:
        """Turn str, dict, list and None bodies to bytes, with their content type.

        Raises:
            TypeError: the body is nothing that can be sent, or JSON can't say it.
            ValueError: JSON, UTF-8 or the content type can't say it.
        """
        body = self.body
        default: Optional[str]
        if type(body) is str or isinstance(body, str):
            self.body, default = body.encode("utf-8"), HTML
        elif isinstance(body, (bytes, bytearray, memoryview)):
            self.body, default = bytes(body), OCTETS
        elif isinstance(body, (dict, list)):
            self.body, default = write_json(body), JSON
        elif body is None:
            self.body, default = b"", None
        elif isinstance(body, (StaticFile, FileSlice)) or is_stream(body):
            return self
        else:
            raise TypeError(f"{_RETURNS}, not {type(body).__name__}")
        default = None if self._status in (204, 304) else default
        if self._headers is None and self._block is None:
            kind = self._content_type
            if kind is None:
                kind = self._content_type = default
            if not self._cookies:
                # PERF: as `seal` would do it, in three calls less: 0.6 of 8.5 us.
                self._block = b"" if kind is None else _content_type_line(kind)
        elif default is not None and self.content_type is None:
            self._content_type = default
        return self

    def __repr__(self) -> str:
        return f"<Response {self.status} {type(self.body).__name__}>"


class Event(str):
    """A server-sent event (WHATWG HTML section 9.2), as text to be yielded.

    A stream whose first chunk is one is sent as `text/event-stream`, uncached. Without
    data a browser fires no event, but the head is sent, and `retry` counts.

    Args:
        data: text, or a JSON value; each line of it becomes a line of the event.
        event: its name (str); browsers call it "message" when left out.
        id: the text that a browser sends as `Last-Event-ID` when it connects again (str
            or int).
        retry: milliseconds (int) until it connects again when the connection breaks.

    Raises:
        ValueError: a name or an id has more than one line, or NUL.
    """

    def __new__(
        cls,
        data: Any = None,
        *,
        event: Optional[str] = None,
        id: Union[str, int, None] = None,
        retry: Optional[int] = None,
    ) -> Event:
        lines = []
        # SECURITY: a line feed in a name would begin a field, or an event, of its own.
        for name, value in ("event", event), ("id", id), ("retry", retry):
            text = "" if value is None else str(value)
            if not {"\r", "\n", "\0"}.isdisjoint(text):
                raise ValueError(f"the {name} of an event is one line, got {text!r}")
            lines += [] if value is None else [f"{name}: {text}"]
        if data is not None:
            text = data if isinstance(data, str) else write_json(data).decode()
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            lines += [f"data: {line}" for line in text.split("\n")]
        return super().__new__(cls, "\n".join(lines or [":"]) + "\n\n")


EVENT_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # of nginx, which would wait for more
}


class Refusal(Response):
    """The answer of who is too busy: ready to be sent.

    Attributes:
        again: returns the answer to the same request, should it come again, or None if
            it would be taken then; its argument says whether that is to be counted.
            None where somebody else has a say in the answer.
    """

    __slots__ = ("again",)

    def __init__(self, status: int, block: bytes, body: bytes) -> None:
        super().__init__(body, status)
        self._block = block
        self.again: Optional[Callable[[bool], Optional[Refusal]]] = None


# What a handler may return ------------------------------------------------------------


def _from_tuple(value: Tuple[Any, ...]) -> Response:
    has_status = len(value) in (2, 3) and isinstance(value[1], int)
    if not has_status or value[1] is True or value[1] is False:
        shape = ", ".join(type(part).__name__ for part in value)
        raise TypeError(f"a tuple is (body, status[, headers]), not ({shape})")
    body = value[0]
    response = body.own() if isinstance(body, Response) else Response(body)
    response.status = value[1]
    if len(value) == 3:
        for name, text in Headers(value[2]).items():
            response.headers[name] = text
    return response


def to_response(value: object) -> Response:
    """Return what a handler returned as a Response, its body settled.

    Raises:
        TypeError: nothing that can be sent; names the type.
        ValueError: JSON or a header can't say it.
    """
    if isinstance(value, Response):
        return value.settle()
    if type(value) is str:
        # PERF: sealed at once; settle() and seal() make the same of it in 1.5 us more.
        return Response.from_block(200, _HTML_LINE, value.encode())
    if type(value) is dict or type(value) is list:
        return Response.from_block(200, _JSON_LINE, write_json(value))
    if type(value) is bytes:
        return Response.from_block(200, _OCTETS_LINE, value)
    if value is None:
        return Response(None, 204).settle()
    if isinstance(value, (str, bytes, bytearray, memoryview, dict, list)):
        return Response(value).settle()
    if isinstance(value, tuple) and not isinstance(value, (StaticFile, FileSlice)):
        return _from_tuple(value).settle()
    if is_stream(value) and not isinstance(value, type):
        return Response(cast("Iterator[Any]", value))
    raise TypeError(f"{_RETURNS}, not {type(value).__name__}")


def to_chunk(value: object) -> bytes:
    """Return what a generator yielded as bytes.

    Raises:
        TypeError: neither str nor bytes.
    """
    if isinstance(value, str):
        return value.encode("utf-8")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"a stream yields str or bytes, not {type(value).__name__}")


def open_stream(response: Response, first: object) -> Tuple[Response, bytes]:
    """Return the response of a stream, and its first bytes, from what came first.

    A first yielded Response gives status and headers; its body, if any, is sent first.

    Raises:
        TypeError: neither str, bytes nor Response.
    """
    if isinstance(first, Response):
        body = response.body
        response = first.own().settle()
        chunk = response.body
        if not isinstance(chunk, bytes):
            raise TypeError("a first yielded Response has a body of str or bytes")
        response.body = body
        return response, chunk
    if response.content_type is None and isinstance(first, Event):
        for name, value in EVENT_HEADERS.items():
            response.headers.setdefault(name, value)
    elif first is None:
        return response, b""
    # A 304 changes what a cache has stored (RFC 9111 section 3.2).
    elif response.content_type is None and response.status not in (204, 304):
        response.content_type = HTML if isinstance(first, str) else OCTETS
    return response, to_chunk(first)


def abort(
    status: int = 500, text: Union[str, Dict[Any, Any], List[Any]] = ""
) -> NoReturn:
    """Leave the handler with an error answer.

    Args:
        status: the status code (int).
        text: the message to the client, on a page; the reason phrase when empty. A dict
            or a list is sent as JSON.

    Raises:
        HTTPError: always; the error handler for the status makes the page.
    """
    raise HTTPError(status, text)


def redirect(url: str, status: int = 303) -> NoReturn:
    """Leave the handler and send the client to another address.

    Args:
        url: a path, or a whole URL. Text outside ASCII is percent-encoded.
        status: 303 (default: fetch with GET), 301, 302, 307 or 308.

    Raises:
        HTTPError: always, with that status and a Location.
        ValueError: the url holds a control character, or the status is another.
    """
    if status not in (301, 302, 303, 307, 308):
        raise ValueError(
            f"a redirect's status is 301 to 303, 307 or 308, got {status!r}"
        )
    if UNSAFE_IN_HEADER.search(url.encode("ascii", "ignore").decode()):
        raise ValueError(f"a redirect's url holds a control character: {url!r}")
    # SECURITY: browsers read "//host" and "/\\host" as another host (CWE-601); a path
    # that a client chose must stay on this one.
    if url[:1] == "/" and url[1:2] in ("/", "\\"):
        url = "/" + url.lstrip("/\\")
    location = percent_encode(url, b"!#$%&'()*+,/:;=?@[]")
    raise HTTPError(status, headers={"Location": location})


def error_page(error: HTTPError, trace: str = "", as_json: bool = False) -> Response:
    """Return the page for an error, or JSON: its status and text, or its own JSON."""
    status, reason = error.status, REASONS.get(error.status, "Error")
    page: AnyBody = error.json
    if page is None and as_json:
        more = {"traceback": trace.splitlines()} if trace else {}
        page = {"status": status, "title": reason, "detail": error.text, **more}
    if status in (204, 304) or page is not None:
        body: AnyBody = "" if status in (204, 304) else page
        return Response(body, status, headers=error.headers).settle()
    title = escape(f"{status} {reason}")
    text = f"<p>{escape(error.text)}</p>\n" if error.text != reason else ""
    text += f"<pre>{escape(trace)}</pre>\n" if trace else ""
    page = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}'
    page += f"</title>\n<h1>{title}</h1>\n{text}</html>\n"
    return Response(page, status, HTML, error.headers).settle()
