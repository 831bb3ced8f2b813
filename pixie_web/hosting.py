"""WSGI applications below a path of ours: `app.mount("/old", flask_application)`.

So a program can move route by route. Each request runs in a thread, as a `thread`
route of a mounted application: triggers, counts and limits are the same.
"""

from __future__ import annotations

import io
import sys
from typing import Any, Callable, Dict, Iterator, List, Tuple

from .about import log
from .application import Application
from .errors import PixieError
from .executors.base import RouteType
from .forms import BodyWindow
from .requests import Request
from .responses import Response
from .text import percent_decode

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
HOP_BY_HOP = frozenset(  # PEP 3333: not for an application to say
    "connection keep-alive proxy-connection te trailer transfer-encoding "
    "upgrade".split()
)
# SECURITY: HTTP_PROXY would name the proxy of what the application asks ("httpoxy").
LEFT_OUT = "content-length", "transfer-encoding", "proxy"
WSGIApplication = Callable[..., Any]


def _native(text: str) -> str:
    """Return text as PEP 3333 has it: bytes, each as a character."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def environ_of(env: Request) -> Dict[str, Any]:
    """Return a request as a WSGI environment; its body has come."""
    host, colon, port = env.host.rpartition(":")
    if not colon or port.endswith("]"):  # of an IPv6 address
        host, port = env.host, ""
    root = percent_decode(env.root_path.encode("ascii")).decode("latin-1")
    size = env.source.received_bytes if env.source is not None else 0
    body: Any
    if env.body_file is None:
        body = io.BytesIO(env.body)
    else:
        body = io.BufferedReader(BodyWindow(env.body_file, 0, size))
    environ = {
        "REQUEST_METHOD": env.method,
        "SCRIPT_NAME": root + _native(env.prefix),
        "PATH_INFO": _native(env.path),
        "QUERY_STRING": env.query_string,
        "SERVER_NAME": host or "localhost",
        "SERVER_PORT": port or ("443" if env.scheme == "https" else "80"),
        "SERVER_PROTOCOL": env.protocol,
        "REMOTE_ADDR": env.client[0],
        "REMOTE_PORT": str(env.client[1]),
        "CONTENT_LENGTH": str(size) if size else "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": env.scheme,
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in env.headers.items():
        # SECURITY: X_Y would pass for X-Y, which a proxy may have set or removed.
        if "_" in name or name.lower() in LEFT_OUT:
            continue
        key = name.upper().replace("-", "_")
        key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
        joint = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{joint}{value}" if key in environ else value
    if env.scheme == "https":
        environ["HTTPS"] = "on"
    return environ


class HostedCall:
    """One call of a WSGI application, and what it answers.

    Args:
        application: the callable.
        env: what is asked.
    """

    def __init__(self, application: WSGIApplication, env: Request) -> None:
        self._env = env
        self._status = 0
        self._headers: List[Tuple[str, str]] = []
        self._written: List[bytes] = []  # by the callable that start_response returns
        self._has_answered = False
        self._iterable = application(environ_of(env), self._start_response)

    def _start_response(
        self, status: str, headers: List[Tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        if self._status and not exc_info:
            raise PixieError("start_response was called a second time")
        if self._has_answered:  # PEP 3333: its head has gone
            raise exc_info[1]
        self._status, self._headers = int(status[:3]), list(headers)
        return self._written.append

    def answer(self) -> Response:
        """Return the response, as soon as there is a first piece of its body."""
        pieces: Any = self._pieces()
        first = next(pieces, b"")  # whoever is a generator starts in here
        try:
            if not self._status:
                raise PixieError("the WSGI application did not call start_response")
            self._has_answered = True
            return self._response(first, pieces)
        except BaseException:
            pieces.close()
            raise

    def _response(self, first: bytes, pieces: Any) -> Response:
        kept = [one for one in self._headers if one[0].lower() not in HOP_BY_HOP]
        lengths = {v.strip() for name, v in kept if name.lower() == "content-length"}
        length = next(iter(lengths), "0")
        is_number = length.isascii() and length.isdecimal() and len(length) <= 19
        if len(lengths) > 1 or not is_number:
            # SECURITY: two readers could each believe another one.
            raise PixieError(f"Content-Length is one number, got {sorted(lengths)}")
        block = Response(None, self._status, headers=kept).settle().plain_block()
        is_whole = isinstance(self._iterable, (list, tuple)) and not lengths
        # RFC 9110 section 8.6: of a HEAD, the length is that of the answer to GET.
        if is_whole and (first or self._env.method != "HEAD"):
            body = first + b"".join(pieces)
            return Response.from_block(self._status, block, body)
        response = Response.from_block(self._status, block, _chain(first, pieces))
        response.stream_bytes = int(length) if lengths else None
        return response

    def _pieces(self) -> Iterator[bytes]:
        try:
            for piece in self._iterable:
                written, self._written = b"".join(self._written), []
                if written or piece:
                    yield written + piece
            if self._written:
                yield b"".join(self._written)
        finally:
            close = getattr(self._iterable, "close", None)
            if close is not None:
                close()


def _chain(first: bytes, pieces: Any) -> Iterator[bytes]:
    try:
        if first:
            yield first
        yield from pieces
    finally:
        pieces.close()


def mount(above: Application, prefix: str, hosted: WSGIApplication) -> None:
    """Have a WSGI application answer for all paths below a prefix; see `mount`."""
    made = Application()

    def call(env: Request, rest: str = "") -> Response:
        try:
            return HostedCall(hosted, env).answer()
        except Exception:
            log.error("the WSGI application mounted at %s failed", prefix)
            raise

    made.route(["/", "/<rest:path>"], RouteType.thread, method=METHODS)(call)
    above.mount(prefix, made)
