"""Triggers to use: same_origin, etag, compress."""

from __future__ import annotations

from typing import Any, Iterable, cast

from .conditional import accepted_codings, conditional_response, deciding_headers
from .datastructures import Headers
from .errors import HTTPError
from .executors.streams import Chunks, run_to_end
from .requests import Request
from .responses import Response, StaticFile
from .text import expression

MIN_COMPRESSED_BYTES = 500  # Starlette; less fits into one packet in any case
Z_SYNC_FLUSH = 2  # of zlib, which is not imported before it is used
COMPRESSION_LEVEL = 3  # nginx 1, Django 6; 6 takes twice as long for 6 % less
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")  # RFC 9110 section 9.2.1
_COMPRESSIBLE = expression(
    r"(?i)text/|application/(?:[\w.-]+\+)?(?:json|xml)\b|image/svg\+xml"
    r"|application/(?:javascript|wasm|x-ndjson)\b"
)
_DEFAULT_PORT = {"http": ":80", "https": ":443"}


async def same_origin(env: Request, trusted: Iterable[str] = ()) -> None:
    """Refuse requests that another site makes a browser send (CSRF); a before trigger.

    `app.before(same_origin)` guards all verbs but GET, HEAD, OPTIONS and TRACE, which
    must not change anything. No token is needed: browsers say where a request comes
    from, and what does not say so is no browser. It runs ahead of body and dispatch.

    Args:
        trusted: origins that may send nevertheless ("https://accounts.example.com"):
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


def etag(env: Request, response: Response) -> Response:
    """Tag answers, and send 304 if the client has the answer already; an after trigger.

    The tag is made of the body, unless the handler has set one. It spares the way, not
    the work: for that, and for conditions on what changes something, there is
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
    vary, tag = headers.get("vary") or "", headers.get("etag") or ""
    if vary != "*" and "accept-encoding" not in vary.lower():
        headers["Vary"] = f"{vary}, Accept-Encoding" if vary else "Accept-Encoding"
    if is_coded and tag.startswith('"'):
        headers["ETag"] = f"W/{tag}"  # the same content, other bytes


def compress(env: Request, response: Response) -> None:
    """Send text and the like by gzip to clients that take it; an after trigger.

    It runs where the handler runs: out of the pool, the main process has no work with
    it. Each piece of a stream is sent as it comes. What is small, of a type that is
    compressed already, in part (206), or marked `no-transform` stays as it is; so do
    files, for which `static_file` looks for a compressed copy.

    SECURITY: the length of an answer that holds a secret beside a client's own words
    tells of the secret (BREACH): leave such routes out.
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
