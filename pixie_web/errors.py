"""Errors, and the reasons of HTTP's statuses.

One tree, so that a program can catch all of it:

    PixieError
    |-- HTTPError            an answer with a status; abort() and redirect() raise it
    |   |-- ProtocolError    the bytes are not HTTP, or over a limit: answer and close
    |   |-- AnswerLost       a handler ran too long, or its worker died: 504, 502
    |   |-- MissingValue     env.form["x"] without an x: 400 (it is a KeyError too)
    |   `-- BadValue         env.form.get("x", type=int) of "y": 400 (and ValueError)
    |-- ClientDisconnected   the client left before its request had arrived
    |-- RouteError           a route, filter or trigger is declared wrongly
    |-- TemplateError        a template is missing, or wrong; names its line
    `-- MissingExtra         a feature needs a package that is not installed

Only RequestTimeout, the soft deadline that is raised inside a handler, stands
outside: it is a BaseException, so that `except Exception` in a handler does not
swallow it.
"""

from __future__ import annotations

import os
import types
from typing import Any, Dict, List, Mapping, Optional, Union, cast

from .about import LONE, ROOT, log

REASONS = {
    100: "Continue",
    101: "Switching Protocols",
    200: "OK",
    201: "Created",
    202: "Accepted",
    203: "Non-Authoritative Information",
    204: "No Content",
    205: "Reset Content",
    206: "Partial Content",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Found",
    303: "See Other",
    304: "Not Modified",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    418: "I'm a teapot",  # RFC 2324 section 2.3.2
    421: "Misdirected Request",
    422: "Unprocessable Content",
    423: "Locked",  # RFC 4918
    424: "Failed Dependency",  # RFC 4918
    425: "Too Early",  # RFC 8470
    426: "Upgrade Required",
    428: "Precondition Required",  # RFC 6585
    429: "Too Many Requests",  # RFC 6585
    431: "Request Header Fields Too Large",  # RFC 6585
    451: "Unavailable For Legal Reasons",  # RFC 7725
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",  # RFC 4918
    511: "Network Authentication Required",  # RFC 6585
}  # RFC 9110 section 15, and the RFCs named beside the others


class PixieError(Exception):
    """The root of every error that pixie_web defines."""


def check_status(status: object) -> int:
    """Return a status as a plain int; raise ValueError if it is no final one."""
    if type(status) is int and 200 <= status <= 999:
        return status
    is_number = isinstance(status, int) and not isinstance(status, bool)
    if not is_number or not 200 <= cast(int, status) <= 999:
        raise ValueError(f"a status is a number from 200 to 999, got {status!r}")
    return int(cast(int, status))


class HTTPError(PixieError):
    """An answer with a status, raised instead of returned.

    Args:
        status: the status code, 200 to 999 (int).
        text: the message to the client (str); the reason phrase when empty. A dict or a
            list is sent as JSON: it is the attribute `json` then, and else None.
        headers: further response headers (mapping of str to str).

    Raised in a handler, it becomes the response. An error handler for its status may
    make another one.

    Raises:
        ValueError: the status is not from 200 to 999.
    """

    def __init__(
        self,
        status: int = 500,
        text: Union[str, Dict[Any, Any], List[Any]] = "",
        headers: Optional[Mapping[str, str]] = None,
    ) -> None:
        self.status = check_status(status)
        super().__init__(self.status, text)
        self.json = text if isinstance(text, (dict, list)) else None
        reason = REASONS.get(self.status, "Error")
        self.text = reason if isinstance(text, (dict, list)) else text or reason
        self.headers = dict(headers or {})

    def __str__(self) -> str:
        return f"{self.status} {self.text}"


def no_descriptor(what: object, error: OSError) -> HTTPError:
    """Return the 503 of an answer whose file can't be opened at the moment."""
    log.error("can't open a file for %s: %s", what, error.strerror)
    return HTTPError(503, headers={"Retry-After": "1"})


class ProtocolError(HTTPError):
    """The bytes of a client are not HTTP, or exceed a limit: answered, then closed."""


class AnswerLost(HTTPError):
    """A handler will not answer, or not go on: its deadline passed, its worker died.

    Why has been logged where it was seen: whoever meets it has nothing to add.

    Attributes:
        worker: that had the request; "" where it was none, or without `debug`.
        trace: where the worker was, in the words of `faulthandler`; "" like that.
    """

    worker = trace = ""


class MissingValue(HTTPError, KeyError):
    """A query, form or file value that was asked for is not there: status 400."""

    def __init__(self, name: str) -> None:
        super().__init__(400, f"The request lacks the value {name!r}.")


class BadValue(HTTPError, ValueError):
    """A query or form value is not of the type that the handler wants: status 400.

    Its cause is the exception of the type.
    """

    def __init__(self, name: str, value: object, kind: str) -> None:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        super().__init__(400, f"The value {name!r} is {shown}, no valid {kind}.")


class ClientDisconnected(PixieError):
    """The client closed the connection before its request had arrived whole."""


class RequestCutShort(ProtocolError, ClientDisconnected):
    """The client ended the connection inside its request; it may still read: 400."""


class RouteError(PixieError):
    """A route, filter, trigger or mount is declared wrongly; says what to write."""


class TemplateError(PixieError):
    """A template can't be found, compiled or rendered; names its own line."""


class MissingExtra(PixieError, ImportError):
    """A feature needs a package that is not installed; says what to install."""


class RequestTimeout(BaseException):
    """Raised inside a pool handler when its deadline has passed, so `finally` runs.

    The client has had its 504 by then, and the worker is retired in every case; a
    handler that catches this and goes on is killed after the grace period. A
    RequestTimeout that a program raises by itself is a failure like any other.
    """

    of_deadline = False  # set where a worker raises it: nothing answers it then


def ends_worker(error: BaseException) -> bool:
    """Return whether an error is the deadline of a worker: no failure to answer."""
    return isinstance(error, RequestTimeout) and error.of_deadline


# Tracebacks ---------------------------------------------------------------------------

_OWN_CODE = (
    __file__ if LONE else os.path.join(os.path.dirname(__file__), ""),
    os.path.join(os.path.dirname(os.__file__), "importlib", ""),
    "<frozen importlib",
    "<frozen runpy",
    os.path.join(os.path.dirname(os.__file__), "runpy.py"),
)


def is_own_code(filename: str) -> bool:
    """Return whether code is this framework's, or that of Python which imports."""
    return filename.startswith(_OWN_CODE)


def fold(error: BaseException) -> None:
    """Take out of an error's traceback, and its causes', what is this framework's.

    What the program's own code has called last stays. Where nothing is the program's,
    all does; but a syntax error says by itself where it is.
    """
    seen: List[int] = []
    following: Optional[BaseException] = error
    while following is not None and id(following) not in seen:
        seen.append(id(following))
        steps = []
        step = following.__traceback__
        while step is not None:
            steps.append((step, is_own_code(step.tb_frame.f_code.co_filename)))
            step = step.tb_next
        own = [is_own for _, is_own in steps]
        last = len(own) - own[::-1].index(False) if False in own else 0
        kept = [
            one for at, (one, is_own) in enumerate(steps) if at >= last or not is_own
        ]
        if not last and isinstance(following, SyntaxError):
            kept = []
        rest: Optional[types.TracebackType] = None
        for one in reversed(kept):
            rest = types.TracebackType(rest, one.tb_frame, one.tb_lasti, one.tb_lineno)
        following.__traceback__ = rest
        following = following.__cause__ or following.__context__


def companion(name: str, feature: str, library: str = "") -> types.ModuleType:
    """Return the module `name` that stands beside the chapters in the package.

    Args:
        name: of the module, without its package.
        feature: what the program asked for, to begin the message with.
        library: that the module needs, as pip knows it; "" for none.

    Raises:
        MissingExtra: what it needs is not installed, or this is the single file.
    """
    from importlib import import_module

    if LONE:
        raise MissingExtra(f"{feature} is in the package, not in the single file")
    try:
        return import_module(f"{ROOT}.{name}")
    except ImportError as error:
        if not library:
            raise  # the package is not whole
        raise MissingExtra(f"{feature} needs: pip install {library}") from error
