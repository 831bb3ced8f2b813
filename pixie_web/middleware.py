"""Triggers to use: same_origin, cors, etag, compress."""

from __future__ import annotations

from typing import Any, Callable, Iterable, List, Optional, Tuple, Union, cast

from .conditional import accepted_codings, conditional_response, deciding_headers
from .datastructures import Headers
from .errors import HTTPError, RouteError
from .executors.base import handler_kind
from .executors.streams import Chunks, run_to_end
from .requests import Request
from .responses import Response, StaticFile
from .text import expression, is_token

MIN_COMPRESSED_BYTES = 500  # Starlette; less fits into one packet in any case
Z_SYNC_FLUSH = 2  # of zlib, which is not imported before it is used
COMPRESSION_LEVEL = 3  # nginx 1, Django 6; 6 takes twice as long for 6 % less
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")  # RFC 9110 section 9.2.1
_COMPRESSIBLE = expression(
    r"(?i)text/|application/(?:[\w.-]+\+)?(?:json|xml)\b|image/svg\+xml"
    r"|application/(?:javascript|wasm|x-ndjson)\b"
)
_DEFAULT_PORT = {"http": ":80", "https": ":443"}
PREFLIGHT_MAX_AGE_SECONDS = 600  # Starlette; Fetch 5, Chromium takes at most 7,200
_ORIGIN = expression(  # RFC 6454 section 6.2, as browsers write it
    r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)


async def same_origin(env: Request, trusted: Iterable[str] = ()) -> None:
    """Refuse requests that another site makes a browser send (CSRF); a before trigger.

    `app.before(same_origin)` guards all verbs but GET, HEAD, OPTIONS and TRACE, which
    must not change anything. No token is needed: browsers say where a request comes
    from, and a client that does not is no browser. It runs ahead of the body and of the
    handler.

    Args:
        trusted: other origins that may send ("https://accounts.example.com"):
            `app.before(functools.partial(same_origin, trusted=[...]))`.

    Raises:
        HTTPError: 403.
    """
    if env.method in _SAFE_METHODS:
        return
    site, origin = env.header("sec-fetch-site"), env.header("origin")
    if site in ("same-origin", "none"):
        return
    port = _DEFAULT_PORT.get(env.scheme, "")
    host = env.host[: -len(port)] if port and env.host.endswith(port) else env.host
    # Browsers of before 2023 send no Sec-Fetch-Site, nor do others over plain http.
    is_own = origin is None or origin.lower() == f"{env.scheme}://{host}".lower()
    if origin not in tuple(trusted) and (site or not is_own):
        raise HTTPError(403, "The request comes from another site.")


# Requests from pages of other origins: WHATWG Fetch, section 3.3 ----------------------

Names = Union[str, Iterable[str]]
Origins = Union[str, Iterable[str], Callable[[str], object]]


def _names(names: Names, what: str) -> List[str]:
    """Return method or header names; raise RouteError for what is none."""
    found = [names] if isinstance(names, str) else list(names)
    for name in found:
        if not isinstance(name, str) or not is_token(name):
            raise RouteError(f"cors: {what} are names such as 'X-Total', got {name!r}")
    if "*" in found and found != ["*"]:
        raise RouteError(f"cors: {what} are '*' or names, got both")
    return found


def _exact_origins(origins: Union[str, Iterable[str]]) -> List[str]:
    """Return origins that a browser could send; raise RouteError for any other."""
    is_one = isinstance(origins, (str, bytes)) or not hasattr(origins, "__iter__")
    found: List[Any] = [origins] if is_one else list(origins)
    for origin in found if found != ["*"] else ():
        scheme = origin.partition(":")[0] if isinstance(origin, str) else ""
        is_sent = isinstance(origin, str) and _ORIGIN.fullmatch(origin)
        if not is_sent or origin.endswith(_DEFAULT_PORT.get(scheme, " ")):
            # SECURITY: "null" is the origin of every sandboxed frame, of any site.
            raise RouteError(
                "cors: write an origin as browsers send it, such as "
                "'https://www.example.com': scheme, host, and the port if it is not "
                "the usual one, in lower case, beyond ASCII as xn--...; got "
                f"{origin!r}. For others write a function: cors(lambda origin: ...)"
            )
    return found


class CrossOrigin:
    """The trigger of `cors`: two halves, ahead of the handler and behind it.

    Called as a before trigger it answers preflights; `after` adds the headers.
    """

    # Of two the headers of both would be mixed: "*" of one, credentials of the other.
    only_one = "cors"

    def __init__(
        self,
        accepts: Callable[[str], object],
        is_open: bool,
        methods: Optional[List[str]],
        preflight: List[Tuple[str, str]],
        plain: List[Tuple[str, str]],
    ) -> None:
        self._accepts = accepts
        self._is_open = is_open  # to all
        self._methods = methods
        self._preflight = preflight
        self._plain = plain

    def _allowed(self, env: Request) -> Optional[str]:
        """Return what Access-Control-Allow-Origin is to say, or None: it is not."""
        origin = env.header("origin")
        if origin is None:
            return None
        if self._is_open:
            return "*"
        is_one = _ORIGIN.fullmatch(origin) is not None
        return origin if is_one and self._accepts(origin) else None

    async def __call__(self, env: Request) -> Optional[Response]:
        """Answer a preflight, ahead of body and worker; let all else pass."""
        asked = env.header("access-control-request-method")
        if env.method != "OPTIONS" or asked is None or env.header("origin") is None:
            return None
        response = Response(None, 204)
        if self._allowed(env) is None:
            return response  # `after` says the rest
        methods = self._methods
        if methods is None:
            methods = env.app.router.allowed(env.path)
            # Where nothing is, the page is to see its 404.
            methods = methods or [asked] * is_token(asked)
        if methods:
            response.headers["Access-Control-Allow-Methods"] = ", ".join(methods)
        for name, value in self._preflight:
            response.headers[name] = value
        return response

    def after(self, env: Request, response: Response) -> None:
        """Let a page of an origin that may read the answer do so."""
        headers = response.headers
        if not self._is_open:
            # Without an Origin, too: a cache would hand that answer to a page.
            headers.vary("Origin")
        allowed = self._allowed(env)
        if allowed is not None:
            headers["Access-Control-Allow-Origin"] = allowed
            for name, value in self._plain:
                headers[name] = value


def cors(
    origins: Origins,
    *,
    methods: Optional[Names] = None,
    headers: Names = "Content-Type",
    expose: Names = (),
    max_age: int = PREFLIGHT_MAX_AGE_SECONDS,
    credentials: bool = False,
) -> CrossOrigin:
    """Let pages of other origins read the answers; a before trigger.

    `app.before(cors("https://www.example.com"))` is for all routes of the application,
    `before=[cors(...)]` for one, in place of the other. Preflights are answered ahead
    of other triggers, of the body and of a worker. Errors can be read like other
    answers. Answers to other origins have none of these headers, and the browser hides
    them from the page. No request is refused; for that there is `same_origin`.

    Args:
        origins: one, or several, each as browsers send it; "*" for all; or a function
            of the origin (a plain `def`) that says whether it may.
        methods: the verbs that a page may send beside GET, HEAD and POST; those that
            the path has routes for, when left out.
        headers: the request headers that a page may set beside those that every page
            may set; "*" for all but Authorization.
        expose: the response headers that a page may read beside the ordinary ones.
        max_age: for how many seconds a browser may keep the answer to a preflight.
        credentials: whether pages may send cookies and read what these get. Not with
            "*" anywhere: any site could act for a user who is logged in.

    Raises:
        RouteError: an origin that no browser sends, a wrong name, or "*" with
            credentials.
    """
    exact = [] if callable(origins) else _exact_origins(origins)
    accepts = origins if callable(origins) else frozenset(exact).__contains__
    if handler_kind(accepts) != "def":
        raise RouteError("cors: the function that allows origins is a plain def")
    verbs = None if methods is None else _names(methods, "methods")
    asked = _names(headers, "request headers")
    exposed = _names(expose, "response headers")
    if type(max_age) is not int or max_age < 0:
        raise RouteError(f"cors: max_age is whole seconds from 0, got {max_age!r}")
    if credentials and "*" in (*exact, *(verbs or ()), *asked, *exposed):
        raise RouteError(
            "cors: credentials=True and '*' exclude each other: name the origins, "
            "methods and headers"
        )
    plain = [("Access-Control-Allow-Credentials", "true")] if credentials else []
    if exposed:
        plain.append(("Access-Control-Expose-Headers", ", ".join(exposed)))
    preflight = [("Access-Control-Max-Age", str(max_age))]
    if asked:
        preflight.append(("Access-Control-Allow-Headers", ", ".join(asked)))
    return CrossOrigin(accepts, exact == ["*"], verbs, preflight, plain)


def etag(env: Request, response: Response) -> Response:
    """Tag answers, and send 304 if the client has the answer already; an after trigger.

    The tag is made of the body, unless the handler has set one. It saves the transfer,
    not the work. To save the work, and for requests that change something, use
    `check_preconditions`. Streams need a tag of their own; files have one.
    """
    if env.method not in ("GET", "HEAD") or isinstance(response.body, StaticFile):
        return response  # RFC 9110 section 13.1: too late for all that changes things
    has_tag = "etag" in response.headers
    if isinstance(response.body, bytes) and response.status == 200 and not has_tag:
        response.etag()
    return conditional_response(env.method, deciding_headers(env), response)


def _gzip() -> Any:
    import zlib

    return zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)


class CompressedChunks(Chunks):
    """A stream compressed, each piece so that it can be read when it arrives."""

    def __init__(self, chunks: Chunks) -> None:
        super().__init__(chunks.first, chunks.rest)
        self._coder = _gzip()

    async def __anext__(self) -> bytes:
        coder: Any = self._coder
        if coder is None:
            raise StopAsyncIteration
        try:
            piece: bytes = coder.compress(await super().__anext__())
            return piece + cast(bytes, coder.flush(Z_SYNC_FLUSH))
        except StopAsyncIteration:
            self._coder = None
            return cast(bytes, coder.flush())

    def __next__(self) -> bytes:
        try:
            return run_to_end(self.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None


def _mark_coded(headers: Headers, is_coded: bool = True) -> None:
    """Say that other clients get other bytes (RFC 9110 section 12.5.5)."""
    headers.vary("Accept-Encoding")
    tag = headers.get("etag") or ""
    if is_coded and tag.startswith('"'):
        headers["ETag"] = f"W/{tag}"  # the same content, other bytes


def compress(env: Request, response: Response) -> None:
    """Send text and the like by gzip to clients that take it; an after trigger.

    It runs where the handler runs: for a pool route in the worker, so the main process
    has no work with it. Each piece of a stream is sent as it comes. An answer stays as
    it is if it is small, of a compressed type, a part (206), or marked `no-transform`.
    So do files: for them `static_file` looks for a compressed copy.

    SECURITY: if an answer holds a secret beside text of the client, its length tells
    about the secret (BREACH): leave such routes out.
    """
    headers, body = response.headers, response.body
    if response.status == 304:
        _mark_coded(headers)  # as the answer that it stands for
    is_final = "no-transform" in (headers.get("cache-control") or "").lower()
    if is_final or body == b"" or response.status in (204, 205, 206, 304):
        return
    if "content-encoding" in headers or isinstance(body, StaticFile):
        return
    codings = accepted_codings(env.header("accept-encoding") or "", ("gzip",))
    is_small = isinstance(body, bytes) and len(body) < MIN_COMPRESSED_BYTES
    gains = _COMPRESSIBLE.match(response.content_type or "") and not is_small
    if "identity" in codings and not gains:
        return
    is_coded = codings[:1] == ("gzip",)
    _mark_coded(headers, is_coded)
    if not is_coded:
        return
    headers["Content-Encoding"] = "gzip"
    response.stream_bytes = None
    if isinstance(body, bytes):
        coder = _gzip()
        response.body = coder.compress(body) + coder.flush()
    else:
        response.body = CompressedChunks(cast(Chunks, body))
