"""A client for tests: `app.test()`, in the style of httpx, without a socket.

    with app.test() as client:
        response = client.post("/sum", json=[1, 2])
        assert (response.status_code, response.json()) == (200, 3)

It asks `handle` as a server does, from a loop in a thread of its own. Its pool is a
real one, or with `pool="inline"` its routes run in threads. `with` runs the functions
of `on_start` and `on_stop`.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from email.message import Message
from http.cookiejar import Cookie, CookieJar
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    MutableMapping,
    Optional,
    Tuple,
    Union,
    cast,
)
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import Request as CookieRequest
from weakref import WeakSet

from .application import Application
from .datastructures import Headers
from .errors import REASONS, PixieError, ProtocolError
from .gateways.base import Pieces, fields_of
from .lifespan import Lifespan
from .loops import LoopThread
from .protocol.canonical import PATH_SAFE, canonical_head
from .requests import BodySource, Disconnect, Request
from .responses import Response, error_page
from .settings import read_settings
from .text import dump_json, load_json, percent_encode

MAX_REDIRECTS = 20
QUERY_SAFE = PATH_SAFE + b"%?"  # RFC 3986 section 3.4, and what is encoded already
Content = Union[str, bytes, Iterable[bytes], None]
FileValue = Union[bytes, str, Tuple[Any, ...], Any]
_at_work: WeakSet[Application] = WeakSet()  # those that a client has started


class MemoryBody(BodySource):
    """A request's body that is here already, in one piece or several."""

    def __init__(self, pieces: Iterable[bytes], length: Optional[int]) -> None:
        self.content_length = length
        self._pieces = iter(pieces)

    async def read(self) -> bytes:
        """Return the next piece."""
        return next((piece for piece in self._pieces if piece), b"")


class Cookies(MutableMapping[str, str]):
    """The cookies that a client keeps, by name.

    Args:
        host: that a cookie belongs to which is set here.
    """

    def __init__(self, host: str) -> None:
        self.jar = CookieJar()
        self._domain = host if "." in host else f"{host}.local"  # as the jar has it

    def __getitem__(self, name: str) -> str:
        for cookie in self.jar:
            if cookie.name == name:
                return cookie.value or ""
        raise KeyError(name)

    def __setitem__(self, name: str, value: str) -> None:
        domain = self._domain
        place: Tuple[Any, ...] = None, False, domain, False, False, "/", True
        rest: Tuple[Any, ...] = False, None, True, None, None, {}
        self.jar.set_cookie(Cookie(0, name, value, *place, *rest))

    def __delitem__(self, name: str) -> None:
        found = [cookie for cookie in self.jar if cookie.name == name]
        if not found:
            raise KeyError(name)
        for one in found:
            self.jar.clear(one.domain, one.path, one.name)

    def __iter__(self) -> Iterator[str]:
        return iter([cookie.name for cookie in self.jar])

    def __len__(self) -> int:
        return len(self.jar)


class TestResponse:
    """The answer that a client has got.

    Attributes:
        status_code: the status (int).
        headers: the header lines; names compare without regard to case.
        url: the address of the last request, after redirects.
        history: the answers that sent it there.
    """

    __test__ = False  # for pytest: it is no test

    def __init__(
        self, client: TestClient, request: Request, pieces: Pieces, url: str
    ) -> None:
        self._client, self._request, self._pieces = client, request, pieces
        lines, self._has_body = fields_of(request, pieces.response)
        pieces.begin(lines)
        self.status_code = pieces.response.status
        self.headers = Headers.from_wire(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in lines
        )
        self.url = url
        self.history: List[TestResponse] = []
        self._content: Optional[bytes] = None
        self._has_begun = False  # its stream is being read, or was
        self._is_closed = False

    @property
    def reason_phrase(self) -> str:
        """The status in words."""
        return REASONS.get(self.status_code, "")

    @property
    def is_success(self) -> bool:
        """Whether the status is one of 200 to 299."""
        return 200 <= self.status_code <= 299

    @property
    def is_redirect(self) -> bool:
        """Whether it sends the client to another address."""
        return self.status_code in (301, 302, 303, 307, 308) and bool(self._location)

    @property
    def _location(self) -> Optional[str]:
        return self.headers.get("location")

    def iter_bytes(self) -> Iterator[bytes]:
        """Iterate over the body as it is made; a piece is made when it is asked for.

        Raises:
            ClientDisconnected: it broke off.
            PixieError: it was read before, piece by piece, or it has been closed.
        """
        if self._content is not None:
            yield from [self._content] if self._content else []
            return
        whole = self._pieces.response.body
        if not self._has_body or isinstance(whole, bytes):
            if self._has_body and whole:
                yield cast(bytes, whole)
            return
        if self._has_begun and not self._is_closed:
            raise PixieError(
                "this body was read already: use read() first, it keeps it"
            )
        self._has_begun = True
        while True:
            if self._is_closed:
                raise PixieError("this answer is closed: read it inside its `with`")
            piece = self._client.call(self._pieces.next())
            if not piece:
                return
            yield piece

    def iter_lines(self) -> Iterator[str]:
        """Iterate over the body's lines, without their ends."""
        rest = b""
        for piece in self.iter_bytes():
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.rstrip(b"\r").decode("utf-8") for line in lines)
        if rest:
            yield rest.decode("utf-8")

    def read(self) -> bytes:
        """Return the body, all of it."""
        if self._content is None:
            self._content = b"".join(self.iter_bytes())
        return self._content

    content = property(read)

    @property
    def text(self) -> str:
        """The body as text: in the charset of its Content-Type, or in UTF-8."""
        message = Message()
        message["Content-Type"] = self.headers.get("content-type") or "text/plain"
        return self.read().decode(message.get_content_charset() or "utf-8")

    def json(self) -> Any:
        """Return the value of the JSON body."""
        return load_json(self.read())

    @property
    def cookies(self) -> Dict[str, str]:
        """The cookies that this answer sets, by name."""
        values = self.headers.getall("set-cookie")
        pairs = [value.partition(";")[0].partition("=") for value in values]
        return {name: value for name, _, value in pairs}

    def raise_for_status(self) -> TestResponse:
        """Return this response.

        Raises:
            PixieError: its status is 400 or more; names it, and shows the body.
        """
        if self.status_code >= 400:
            raise PixieError(f"{self.url}: {self.status_code}: {self.text[:500]}")
        return self

    def close(self) -> None:
        """Close it; if it has not ended, the client leaves."""
        if not self._is_closed:
            self._is_closed = True
            self._client.call(self._end())

    async def _end(self) -> None:
        if self._content is None:
            self._request.disconnect.set()
        try:
            await self._pieces.aclose()
        finally:
            self._request.close()

    def __repr__(self) -> str:
        return f"<TestResponse {self.status_code} of {self.url}>"


def encode_files(
    data: Mapping[str, Any], files: Mapping[str, FileValue]
) -> Tuple[bytes, str]:
    """Return a multipart form and its Content-Type.

    A file is bytes, str, a file object, or (filename, content[, content type]).
    """
    boundary = f"pixie-{os.urandom(12).hex()}"
    parts: List[bytes] = []

    def add(disposition: str, more: str, content: bytes) -> None:
        head = f"Content-Disposition: form-data; {disposition}\r\n{more}\r\n"
        parts.append(b"--%b\r\n%b%b\r\n" % (boundary.encode(), head.encode(), content))

    def quoted(text: str) -> str:  # as browsers do (WHATWG HTML, multipart/form-data)
        text = text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        return f'"{text}"'

    for name, value in data.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            add(f"name={quoted(name)}", "", str(one).encode())
    for name, value in files.items():
        values = value if isinstance(value, tuple) else (name, value)
        filename, content, *kind = values
        content = content.read() if hasattr(content, "read") else content
        content = content.encode() if isinstance(content, str) else content
        media = kind[0] if kind else "application/octet-stream"
        disposition = f"name={quoted(name)}; filename={quoted(filename)}"
        add(disposition, f"Content-Type: {media}\r\n", content)
    body = b"%b--%b--\r\n" % (b"".join(parts), boundary.encode())
    return body, f"multipart/form-data; boundary={boundary}"


def encode_body(
    content: Content,
    data: Union[Mapping[str, Any], str, bytes, None],
    files: Optional[Mapping[str, FileValue]],
    json: Any,
) -> Tuple[Content, str]:
    """Return a body of what was given, and its Content-Type, or ""."""
    if files is not None:
        fields = data if isinstance(data, Mapping) else {}
        return encode_files(fields, files)
    if json is not None:
        return dump_json(json), "application/json"
    if isinstance(data, Mapping):
        body = urlencode(data, doseq=True).encode()
        return body, "application/x-www-form-urlencoded"
    return (content if data is None else data), ""


def changes_method(method: str, status: int) -> bool:
    """Return whether a redirect is followed by GET (RFC 9110 section 15.4)."""
    if status == 301:
        return method == "POST"
    return status in (302, 303) and method != "HEAD"


def redirected_fields(fields: Headers, old: str, new: str, has_body: bool) -> Headers:
    """Return the header lines that go on to where an answer sends a client.

    Args:
        fields: those of the request before.
        old, new: the URLs.
        has_body: the body is sent again.
    """
    left_behind = [] if has_body else ["content-type", "content-length"]
    if urlsplit(new)[:2] != urlsplit(old)[:2]:  # as browsers do: they are of the host
        left_behind += ["host", "authorization", "cookie"]
    kept = [pair for pair in fields.items() if pair[0].lower() not in left_behind]
    return Headers(kept)


class TestClient:
    """A client that asks an application; see `Pixie.test`.

    Args:
        application: the application that is asked.
        pool: "real", or "inline": pool routes run in threads of this process.
        base_url: the start of each address; its scheme and host are those of the
            request.
        headers: sent with each request.
        cookies: kept from the beginning.
        follow_redirects: whether it follows redirects.
        client: the address that requests come from.
        settings: settings of run().

    Attributes:
        cookies: those that are kept; a mapping of str to str.
        headers: those that are sent with each request.
    """

    __test__ = False

    def __init__(
        self,
        application: Application,
        *,
        pool: str = "real",
        base_url: str = "http://testserver",
        headers: Optional[Mapping[str, str]] = None,
        cookies: Optional[Mapping[str, str]] = None,
        follow_redirects: bool = False,
        client: Tuple[str, int] = ("127.0.0.1", 50_000),
        **settings: Any,
    ) -> None:
        if pool not in ("real", "inline"):
            raise PixieError(f'pool is "real" or "inline", got {pool!r}')
        self._application = application
        self._settings = read_settings(settings, os.environ)
        self._inline = pool == "inline"
        self._base = base_url
        self.headers = Headers({"User-Agent": "pixie-test", **(headers or {})})
        self.cookies = Cookies(urlsplit(base_url).hostname or "testserver")
        self.cookies.update(cookies or {})
        self._follow_redirects = follow_redirects
        self._client = client
        self._thread: Optional[LoopThread] = None
        self._lifespan: Lifespan
        self._has_ended = False

    # Its life.

    def __enter__(self) -> TestClient:
        """Start the application."""
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop it."""
        self.close()

    def _start(self) -> LoopThread:
        if self._has_ended:
            raise PixieError("this test client has ended; make another: app.test()")
        if self._thread is None:
            if self._application in _at_work:
                raise PixieError(
                    "another test client of this application is open: close it first, "
                    "or use that one"
                )
            inline = self._inline
            self._lifespan = Lifespan(self._application, self._settings, inline=inline)
            self._lifespan.prepare()  # a fork, ahead of the thread
            thread = LoopThread(self._settings["loop"])
            try:
                thread.call(self._lifespan.start())
            except BaseException:
                self._lifespan.abandon()
                thread.close()
                raise
            self._thread = thread
            _at_work.add(self._application)
        return self._thread

    def close(self) -> None:
        """Stop the application; once."""
        self._has_ended = True
        thread, self._thread = self._thread, None
        if thread is not None:
            _at_work.discard(self._application)
            try:
                thread.call(self._lifespan.stop())
            finally:
                thread.close()

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine in the application's loop, and return what it returns."""
        try:
            thread = self._start()
        except BaseException:
            coroutine.close()
            raise
        return thread.call(coroutine)

    # Asking.

    def request(self, method: str, url: str, **options: Any) -> TestResponse:
        """Ask, and return the whole answer.

        Args:
            url: a path, or a whole URL.
            options: `params` (of the query), `content` (bytes, str, or an iterable of
                bytes, sent in chunks), `data` (of a form), `files` (of a multipart
                form), `json`, `headers`, and `follow_redirects`.

        Raises:
            ClientDisconnected: the answer broke off.
            PixieError: this client has ended, or there are too many redirects.
        """
        with self.stream(method, url, **options) as response:
            response.read()
        return response

    def get(self, url: str, **options: Any) -> TestResponse:
        """Ask by GET; options as for `request`."""
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Any) -> TestResponse:
        """Ask by HEAD."""
        return self.request("HEAD", url, **options)

    def options(self, url: str, **options: Any) -> TestResponse:
        """Ask by OPTIONS."""
        return self.request("OPTIONS", url, **options)

    def post(self, url: str, **options: Any) -> TestResponse:
        """Ask by POST."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> TestResponse:
        """Ask by PUT."""
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Any) -> TestResponse:
        """Ask by PATCH."""
        return self.request("PATCH", url, **options)

    def delete(self, url: str, **options: Any) -> TestResponse:
        """Ask by DELETE."""
        return self.request("DELETE", url, **options)

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        params: Union[Mapping[str, Any], Iterable[Tuple[str, Any]], None] = None,
        content: Content = None,
        data: Union[Mapping[str, Any], str, bytes, None] = None,
        files: Optional[Mapping[str, FileValue]] = None,
        json: Any = None,
        headers: Optional[Mapping[str, str]] = None,
        follow_redirects: Optional[bool] = None,
    ) -> Iterator[TestResponse]:
        """Ask, and read the answer as it comes; at the end of `with` the client leaves.

        Options as for `request`.
        """
        if follow_redirects is None:
            follow_redirects = self._follow_redirects
        url = urljoin(self._base, url)
        if params is not None:
            pairs = params if isinstance(params, Mapping) else list(params)
            url += ("&" if "?" in url else "?") + urlencode(pairs, doseq=True)
        body, kind = encode_body(content, data, files, json)
        fields = Headers(self.headers.items())
        if kind:
            fields["Content-Type"] = kind
        fields.update(headers or {})
        method = method.upper()
        response = self._ask(method, url, fields, body)
        history: List[TestResponse] = []
        try:
            while follow_redirects and response.is_redirect:
                response.read()
                response.close()
                history.append(response)
                if len(history) > MAX_REDIRECTS:
                    raise PixieError(f"more than {MAX_REDIRECTS} redirects, to {url}")
                before, url = url, urljoin(url, response.headers["location"])
                if changes_method(method, response.status_code):
                    method, body = "GET", None
                elif not isinstance(body, (str, bytes, type(None))):
                    raise PixieError(f"to {url}: an iterable can't be sent again")
                fields = redirected_fields(fields, before, url, body is not None)
                response = self._ask(method, url, fields, body)
            response.history = history
            yield response
        finally:
            response.close()

    def _ask(
        self, method: str, url: str, fields: Headers, body: Content
    ) -> TestResponse:
        request = self._request(method, url, fields, body)
        response = self.call(self._answer(request))
        found = TestResponse(self, request, Pieces(request, response), url)
        message = Message()
        for value in found.headers.getall("set-cookie"):
            message["Set-Cookie"] = value
        self.cookies.jar.extract_cookies(_Info(message), CookieRequest(url))  # type: ignore[arg-type]
        return found

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._application.handle(request)
        except ProtocolError as error:
            return error_page(error)

    def _request(
        self, method: str, url: str, fields: Headers, body: Content
    ) -> Request:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise PixieError(f"the client takes http and https URLs, got {url!r}")
        lines = list(fields.items())
        if "host" not in fields:
            lines.insert(0, ("Host", parts.netloc.rpartition("@")[2]))
        carrier = CookieRequest(url)
        self.cookies.jar.add_cookie_header(carrier)
        if carrier.has_header("Cookie"):
            lines.append(("Cookie", cast(str, carrier.get_header("Cookie"))))
        body = body.encode() if isinstance(body, str) else body
        source: Optional[MemoryBody] = None
        if isinstance(body, bytes):
            lines.append(("Content-Length", str(len(body))))
            source = MemoryBody([body], len(body)) if body else None
        elif body is not None:
            lines.append(("Transfer-Encoding", "chunked"))
            source = MemoryBody(body, None)
        if source is not None:
            source.max_body_bytes = self._settings["max_body_bytes"]
        path = percent_encode(parts.path or "/", PATH_SAFE + b"%")
        query = percent_encode(parts.query, QUERY_SAFE)
        target = f"{path}?{query}" if query else path
        head = canonical_head(
            method.encode("latin-1"),
            target.encode("ascii"),
            "1.1",
            [(name.encode("latin-1"), v.encode("latin-1")) for name, v in lines],
        )
        debug = self._settings["debug"]
        return Request(head, self._client, parts.scheme, source, Disconnect(), debug)


class _Info:
    """An answer, as http.cookiejar asks for it."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def info(self) -> Message:
        """Return its headers."""
        return self._message


def client_fixture(application: Application, **options: Any) -> Any:
    """Return a pytest fixture: a client that lives for one test.

        client = client_fixture(app)

    Args:
        options: as for `Pixie.test`.
    """
    import pytest

    @pytest.fixture
    def client() -> Iterator[TestClient]:
        """Ask the application, which starts and stops around the test."""
        with TestClient(application, **options) as one:
            yield one

    return client
