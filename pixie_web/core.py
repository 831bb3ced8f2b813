"""pixie_web: a small web framework in which each route says where it runs.

    from pixie_web import Response, RouteType, proc_env, route, run

    @route("/", RouteType.sync)          # in the main process, on the event loop
    def index(env):
        return Response(f"Hello from {proc_env.proc_type}")

    @route("/async", RouteType.asnc)     # a coroutine on the event loop
    async def index_async(env):
        return Response(f"Hello from {proc_env.proc_type}")

    @route("/cpu")                       # in the process pool, the default
    def cpu_bound(env):
        return Response(f"Hello from {proc_env.proc_type}")

    if __name__ == "__main__":
        run()                            # http://localhost:8000

One file, nothing but the standard library, Python 3.8 and later. Copied into a project
as `pixie_web.py` it works alone, and `python pixie_web.py app:app` serves.

The file is a book: each section uses only what stands above it.

     1. Imports, limits, tables
     2. Errors
     3. Text
     4. Headers and MultiDict
     5. HTTP/1.1 on the wire
     6. Bodies
     7. Request and Response
     8. Files
     9. Templates
    10. Routes
    11. Placement
    12. The application
    13. The server
    14. The default application, run() and the command line
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = [
    "BadValue",
    "ClientDisconnected",
    "FileUpload",
    "HTTPError",
    "Headers",
    "MissingExtra",
    "MissingValue",
    "MultiDict",
    "Pixie",
    "PixieError",
    "ProcessType",
    "ProtocolError",
    "Request",
    "RequestTimeout",
    "Response",
    "RouteError",
    "RouteType",
    "Template",
    "TemplateError",
    "abort",
    "after",
    "app",
    "before",
    "cached_file",
    "check_preconditions",
    "compress",
    "delete",
    "error",
    "etag",
    "get",
    "head",
    "mount",
    "options",
    "patch",
    "post",
    "proc_env",
    "put",
    "redirect",
    "route",
    "run",
    "same_origin",
    "static",
    "static_file",
    "template",
]

# ======================================================================================
# 1. Imports, limits, tables
# ======================================================================================
# Everything a client controls has a bound, and each bound carries its unit in its name.
# The numbers follow the servers that have met the open internet longest; the precedent
# stands beside each. `run()` takes most of them as arguments of the same name in lower
# case. What only some programs need (tempfile, mimetypes, inspect, ssl ...) is imported
# where it is first used, so that importing this file stays cheap.

import array
import ast
import asyncio
import binascii
import builtins
import codecs
import errno
import inspect
import io
import linecache
import logging
import os
import re
import select
import signal
import socket
import stat
import struct
import sys
import threading
import time
import types
from bisect import bisect_left
from collections import Counter, deque
from contextlib import ExitStack
from contextvars import Context, ContextVar, copy_context
from enum import Enum
from functools import lru_cache, partial
from heapq import nsmallest
from operator import itemgetter
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Awaitable,
    BinaryIO,
    Callable,
    ClassVar,
    Coroutine,
    Deque,
    Dict,
    Generator,
    Generic,
    Iterable,
    Iterator,
    List,
    Literal,
    Mapping,
    NamedTuple,
    NoReturn,
    Optional,
    Protocol,
    Sequence,
    Set,
    Tuple,
    Type,
    TypeVar,
    Union,
    cast,
)

if TYPE_CHECKING:
    from datetime import date, timedelta
    from queue import SimpleQueue

MAX_REQUEST_LINE_BYTES = 8190  # gunicorn 4094, Apache and aiohttp 8190; RFC asks 8000
MAX_HEADER_LINE_BYTES = 8190  # Apache, aiohttp, gunicorn
MAX_HEADERS = 100  # Apache, gunicorn
MAX_HEAD_BYTES = 65_536  # tornado; Go allows 1 MiB, nginx 32 KiB
MAX_BODY_BYTES = 16 * 1024 * 1024  # a route may ask for more or less; nginx 1 MiB
MAX_CHUNK_BYTES = 256 * 1024  # a larger piece of a response is sent in several
SPOOL_BODY_BYTES = 256 * 1024  # larger bodies go to a file; waitress 512 KiB
NEVER = float("inf")  # a deadline that is not set

log = logging.getLogger("pixie_web")


class LazyExpression:
    """A regular expression that is compiled when one of its methods is first used.

    PERF: compiling all of them at once is 5 of the 11 ms that this file needs to start.
    """

    def __init__(self, pattern: Any, flags: int = 0) -> None:
        self._source = pattern, flags

    def __getattr__(self, name: str) -> Any:
        # Called only for what is not there yet; from now on it is.
        method = getattr(re.compile(*self._source), name)
        setattr(self, name, method)
        return method


if TYPE_CHECKING:
    expression = re.compile
else:
    expression = LazyExpression

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


# ======================================================================================
# 2. Errors
# ======================================================================================
# One tree, so that a program can catch all of it:
#
#     PixieError
#     |-- HTTPError            an answer with a status; abort() and redirect() raise it
#     |   |-- ProtocolError    the bytes are not HTTP, or over a limit: answer and close
#     |   |-- AnswerLost       a handler ran too long, or its worker died: 504, 502
#     |   |-- MissingValue     env.form["x"] without an x: 400 (it is a KeyError too)
#     |   `-- BadValue         env.form.get("x", type=int) of "y": 400 (and ValueError)
#     |-- ClientDisconnected   the client left before its request had arrived
#     |-- RouteError           a route, filter or trigger is declared wrongly
#     |-- TemplateError        a template is missing, or wrong; names its line
#     `-- MissingExtra         a feature needs a package that is not installed
#
# Only RequestTimeout, the soft deadline that is raised inside a handler, stands
# outside: it is a BaseException, so that `except Exception` in a handler does not
# swallow it.


class PixieError(Exception):
    """The root of every error that pixie_web defines."""


def check_status(status: object) -> int:
    """Return a status as a plain int; raise ValueError if it is no final one."""
    is_number = isinstance(status, int) and not isinstance(status, bool)
    if not is_number or not 200 <= cast(int, status) <= 999:
        raise ValueError(f"a status is a number from 200 to 999, got {status!r}")
    return int(cast(int, status))


class HTTPError(PixieError):
    """An answer with a status, raised instead of returned.

    Args:
        status: the status code, 200 to 999 (int).
        text: what to tell the client (str); the reason phrase when empty. A dict or a
            list is sent as JSON: it is the attribute `json` then, and else None.
        headers: further response headers (mapping of str to str).

    Raised in a handler, it becomes the response, or what the error handler for its
    status makes of it.

    Raises:
        ValueError: no such status can be.
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


class ProtocolError(HTTPError):
    """What a client sent is not HTTP, or exceeds a limit: answered, then closed."""


class AnswerLost(HTTPError):
    """A handler will not answer, or not go on: its deadline passed, its worker died.

    Why has been logged where it was seen: whoever meets it has nothing to add.
    """


class MissingValue(HTTPError, KeyError):
    """A query, form or file value that was asked for is not there: status 400."""

    def __init__(self, name: str) -> None:
        super().__init__(400, f"The request lacks the value {name!r}.")


class BadValue(HTTPError, ValueError):
    """A query or form value is not of the type it was asked for as: status 400.

    Its cause is what the type said to it.
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
    handler that catches this and goes on is killed after the grace period. One that
    a program raises by itself is a failure like any other.
    """

    of_deadline = False  # set where a worker raises it: nothing answers it then


def ends_worker(error: BaseException) -> bool:
    """Return whether an error is the deadline of a worker: no failure to answer."""
    return isinstance(error, RequestTimeout) and error.of_deadline


def companion(name: str, feature: str, extra: str = "") -> types.ModuleType:
    """Return the module `name` that stands beside this file in the package.

    Args:
        name: of the module, without its package.
        feature: what the program asked for, to begin the message with.
        extra: of the distribution, which installs what the module needs; "" for none.

    Raises:
        MissingExtra: what it needs is not installed, or this file was copied alone.
    """
    from importlib import import_module

    remedy = f"pip install 'pixie-web[{extra}]'" if extra else "pip install pixie-web"
    if not __name__.endswith(".core"):
        raise MissingExtra(f"{feature} comes with the installed package: {remedy}")
    try:
        return import_module(f"{__package__}.{name}")
    except ImportError as error:
        raise MissingExtra(f"{feature} needs: {remedy}") from error


# ======================================================================================
# 3. Text
# ======================================================================================
# Small pure functions between bytes and text: tokens, dates, percent-encoding, forms,
# cookies, escaping, JSON. A header is latin-1 on the wire (RFC 9110 section 5.5);
# everything that a person types is UTF-8.

TOKEN_BYTES = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"  # RFC 9110 section 5.6.2, for a [...]
_TOKEN = expression(rf"[{TOKEN_BYTES.decode()}]+")
_UNSAFE_IN_HEADER = expression(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")
_PERCENT = expression(rb"%([0-9A-Fa-f]{2})")
_unescape = codecs.unicode_escape_decode
_URL_SAFE = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)
# Of Windows, in every directory; also with blanks behind it, or an extension.
WINDOWS_DEVICE = r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\xb9\xb2\xb3])"


def is_token(text: str) -> bool:
    """Return whether `text` is a token (RFC 9110 5.6.2), such as a header's name."""
    return _TOKEN.fullmatch(text) is not None


def check_header(name: str, value: str) -> None:
    """Raise ValueError unless the pair is fit to be sent as a header.

    SECURITY: with CR or LF, who controls the text adds headers or a response (CWE-113).
    """
    if not is_token(name):
        raise ValueError(f"a header's name is a token (RFC 9110 5.6.2), got {name!r}")
    bad = _UNSAFE_IN_HEADER.search(value)
    if bad:
        raise ValueError(
            f"the value of {name} holds {bad.group()!r}; headers are latin-1 text "
            "without control characters, so encode or remove it"
        )


# Dates --------------------------------------------------------------------------------

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_HTTP_DATE = expression(  # RFC 9110 section 5.6.7: IMF-fixdate, RFC 850, asctime
    r"(?a)([A-Z][a-z]{2}, (?P<d1>\d\d) (?P<m1>\w{3}) (?P<y1>\d{4}) (?P<t1>[\d:]{8}) GMT"
    r"|[A-Z][a-z]{5,8}, (?P<d2>\d\d)-(?P<m2>\w{3})-(?P<y2>\d\d) (?P<t2>[\d:]{8}) GMT"
    r"|[A-Z][a-z]{2} (?P<m3>\w{3}) (?P<d3>[ \d]\d) (?P<t3>[\d:]{8}) (?P<y3>\d{4}))"
)


def format_date(seconds: float) -> str:
    """Return a time (seconds since 1970) as HTTP writes it (RFC 9110 section 5.6.7).

    784111777 -> "Sun, 06 Nov 1994 08:49:37 GMT"
    """
    t = time.gmtime(seconds)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04} "
        f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
    )


def parse_date(text: str) -> Optional[int]:
    """Return an HTTP date, in any of its forms, as seconds since 1970, or None."""
    match = _HTTP_DATE.fullmatch(text)
    if match is None:
        return None
    found = {key[0]: value for key, value in match.groupdict().items() if value}
    year = int(found["y"])
    if len(found["y"]) == 2:
        # RFC 9110 5.6.7: over 50 years in the future means the past century.
        this_year = time.gmtime().tm_year
        year += this_year - this_year % 100
        year -= 100 if year > this_year + 50 else 0
    from datetime import datetime, timezone

    try:
        month = _MONTHS.index(found["m"]) + 1
        hour, minute, second = map(int, found["t"].split(":"))
        time_of_day = hour, minute, second - (second == 60), 0, timezone.utc
        return int(datetime(year, month, int(found["d"]), *time_of_day).timestamp())
    except ValueError:
        return None


# Percent-encoding and forms -----------------------------------------------------------


def percent_decode(data: bytes) -> bytes:
    """Return `data` with each %XX replaced; what is no valid escape stays as it is."""
    if b"%" not in data:
        return data
    try:
        # PERF: %41 as \x41, in C: text of many escapes in 0.2 of the time below.
        escaped = data.replace(b"\\", b"\\\\").replace(b"%", b"\\x")
        return _unescape(escaped)[0].encode("latin-1")
    except UnicodeDecodeError:  # some % begins no escape
        return _PERCENT.sub(lambda found: bytes([int(found.group(1), 16)]), data)


def percent_encode(text: str, safe: bytes = b"") -> str:
    """Return `text` in UTF-8 with all but unreserved and `safe` bytes as %XX.

    "a b/ä" -> "a%20b%2F%C3%A4"
    """
    return "".join(
        chr(byte) if byte in _URL_SAFE or byte in safe else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogatepass")
    )


def parse_urlencoded(data: bytes, max_fields: int) -> List[Tuple[str, str]]:
    """Return the pairs of a query string or an urlencoded form, in order.

    Only `&` separates (WHATWG URL section 5.1). Bad escapes stay as they are, and bytes
    that are no UTF-8 become U+FFFD.

    Raises:
        HTTPError: 413, for more than `max_fields` fields.
    """
    if not data:
        return []
    if data.count(b"&") >= max_fields:
        raise HTTPError(413, f"More than {max_fields} form fields.")
    pairs = []
    data = data.replace(b"+", b" ")
    texts = data.decode("utf-8", "replace").split("&")
    # PERF: decoding all at once, and again only what has escapes: 0.3 of the time.
    for field, text in zip(data.split(b"&"), texts):
        if "%" in text:
            raw_name, _, raw_value = field.partition(b"=")
            name = percent_decode(raw_name).decode("utf-8", "replace")
            value = percent_decode(raw_value).decode("utf-8", "replace")
        elif text:
            name, _, value = text.partition("=")
        else:
            continue
        pairs.append((name, value))
    return pairs


# Cookies ------------------------------------------------------------------------------

MAX_COOKIE_CHARS = 4096  # RFC 6265bis 5.7: browsers drop longer cookies, name included
MAX_COOKIE_ATTRIBUTE_CHARS = 1024  # RFC 6265bis 5.6
_COOKIE_VALUE_SAFE = rb"!#$&'()*+-./:<=>?@[]^_`{|}~"  # RFC 6265 cookie-octet, less %


def _utf8_or_latin1(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _cookie_text(value: str) -> str:
    if value[:1] == '"' == value[-1:] and len(value) > 1:
        value = value[1:-1]
    if value.isascii():
        if "%" not in value:
            return value
        try:
            # PERF: as percent_decode, without bytes: 0.4 of the time for what is ASCII.
            escaped = value.replace("\\", "\\\\").replace("%", "\\x")
            text = _unescape(escaped)[0]
            if text.isascii():
                return text
        except UnicodeDecodeError:  # some % begins no escape
            pass
    return _utf8_or_latin1(percent_decode(value.encode("latin-1", "replace")))


def parse_cookies(header: str) -> Dict[str, str]:
    """Return the cookies of a Cookie header (RFC 6265bis section 5.6).

    The first of two with one name wins: browsers send the more specific path first.
    SECURITY: a nameless cookie is dropped, or `=__Host-x=1` could pass for another.
    """
    cookies: Dict[str, str] = {}
    plain = "%" not in header and '"' not in header and header.isascii()
    for pair in header.split(";"):
        name, equals, value = pair.partition("=")
        name = name.strip(" \t")
        if not plain and not name.isascii():
            name = _utf8_or_latin1(name.encode("latin-1", "replace"))
        if equals and name and name not in cookies:
            value = value.strip(" \t")
            cookies[name] = value if plain else _cookie_text(value)
    return cookies


def format_cookie(name: str, value: object, attributes: Mapping[str, object]) -> str:
    """Return the value of a Set-Cookie header; `parse_cookies` reads it back.

    The value is percent-encoded where a cookie could not carry it otherwise. An
    attribute that is True stands alone (Secure); one that is None or False is left out.

    Raises:
        ValueError: the name is no token, an attribute holds `;` or a control, or name
            and value, or an attribute, are too long (`MAX_COOKIE_CHARS`).
        TypeError: the value is no text.
    """
    if not is_token(name):
        raise ValueError(f"a cookie's name is a token (RFC 6265 4.1.1), got {name!r}")
    if not isinstance(value, str):
        kind = type(value).__name__
        raise TypeError(f"the cookie {name} is text, unless it is signed; got {kind}")
    parts = [f"{name}={percent_encode(value, _COOKIE_VALUE_SAFE)}"]
    size = len(parts[0]) - 1
    if size > MAX_COOKIE_CHARS:
        raise ValueError(
            f"the cookie {name} has {size} characters, and browsers drop it over "
            f"{MAX_COOKIE_CHARS}; keep the data on the server and sign its key"
        )
    for key, attribute in attributes.items():
        if attribute is None or attribute is False:
            continue
        text = str(attribute)
        if ";" in text or _UNSAFE_IN_HEADER.search(text):
            raise ValueError(f"the cookie attribute {key} can't hold {text!r}")
        if len(text) > MAX_COOKIE_ATTRIBUTE_CHARS:
            most = MAX_COOKIE_ATTRIBUTE_CHARS
            raise ValueError(f"browsers ignore a {key} of over {most} characters")
        parts.append(key if attribute is True else f"{key}={text}")
    return "; ".join(parts)


# Escaping and JSON --------------------------------------------------------------------


def escape(value: object) -> str:
    """Return `str(value)` safe inside HTML text and quoted attributes.

    An object with an `__html__` method (markupsafe.Markup) says its own HTML.
    """
    if hasattr(value, "__html__"):
        return str(value.__html__())
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace('"', "&quot;").replace("'", "&#39;")


_ONE_DIGIT = bytes.maketrans(b"123456789", b"0" * 9)


# Set while a request is answered: its application's word on what none of this knows.
json_default_hook: ContextVar[Optional[Callable[[Any], object]]] = ContextVar(
    "json_default_hook", default=None
)


def _moment_text(moment: Any) -> str:
    """Return a datetime as RFC 3339 has it; without an offset, if it says none."""
    offset = moment.utcoffset()
    if offset is not None and offset.total_seconds() % 60:  # RFC 3339 5.6: hh:mm
        from datetime import timezone

        moment = moment.astimezone(timezone.utc)
    return str(moment.isoformat())


def _decimal_text(number: Any) -> str:
    # Not a number: whoever reads one makes a float of it, which has 15 digits.
    if not number.is_finite():
        raise ValueError(f"Decimal {number} is not JSON")
    return str(number)


@lru_cache(maxsize=1)
def _json_rules() -> Tuple[Tuple[Any, Callable[[Any], object]], ...]:
    from datetime import date, datetime, time
    from decimal import Decimal
    from uuid import UUID

    return (
        (Enum, lambda member: member.value),
        (UUID, str),
        (datetime, _moment_text),
        ((date, time), lambda moment: moment.isoformat()),
        (Decimal, _decimal_text),
    )


def _json_default(value: object) -> object:
    """Return what to write for a value that is none of JSON's own.

    Enum and UUID orjson writes by itself, and has no option against it.
    """
    kind = type(value)
    if issubclass(kind, (str, int, float, list, tuple, dict)):
        raise TypeError("orjson asks for subclasses; json writes them by itself")
    for known, rule in _json_rules():
        if isinstance(value, known):
            return rule(value)
    if hasattr(kind, "__dataclass_fields__"):
        from dataclasses import fields

        return {one.name: getattr(value, one.name) for one in fields(cast(Any, value))}
    hook = json_default_hook.get()
    if hook is not None:
        return hook(value)
    raise TypeError(
        f"Object of type {kind.__name__} is not JSON serializable; make it text, a "
        "number, a list or a dict, or let app.json_default do so"
    )


@lru_cache(maxsize=1)
def _fast_json() -> Optional[Tuple[Callable[[object], bytes], Callable[..., object]]]:
    """Return orjson's `dumps` and `loads`; None where it is not installed.

    ujson takes what `json` refuses (`[01]`, NaN, a line feed in a string; on the way
    out tuples as keys), and checking for that costs more than it gains.
    """
    try:
        import orjson
    except ImportError:
        return None
    option = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
    option |= orjson.OPT_PASSTHROUGH_SUBCLASS
    dumps = partial(orjson.dumps, default=_json_default, option=option)
    return dumps, orjson.loads


def parse_float(text: str) -> float:
    """Return a float that is finite; raise ValueError for any other text."""
    number = float(text)
    if number - number != 0:
        raise ValueError(f"{text[:30]} is too large a number")
    return number


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


@lru_cache(maxsize=1)
def _json() -> Tuple[Callable[[object], str], Callable[[str], object]]:
    """Return how `json` writes and reads, by this framework's rules."""
    import json

    encoder = json.JSONEncoder(
        ensure_ascii=False,
        separators=(",", ":"),
        allow_nan=False,
        default=_json_default,
    )
    decoder = json.JSONDecoder(parse_float=parse_float, parse_constant=_refuse_constant)
    return encoder.encode, decoder.decode


def dump_json(value: object) -> bytes:
    """Return `value` as compact JSON in UTF-8.

    A datetime, date or time is its RFC 3339 text, a Decimal and a UUID their text, a
    member of an Enum its value, a dataclass the object of its fields, a tuple a list.
    For anything else `Application.json_default` is asked, while a request is answered.
    What is written means the same whether orjson is installed or not.

    Raises:
        TypeError: a value that JSON can't say.
        ValueError: NaN, an infinity, or a circular reference.
    """
    fast = _fast_json()
    if fast is not None:
        dumps, loads = fast
        try:
            # PERF: 100 kB take a sixth of json's time, two thirds with a null in them.
            data = dumps(value)
            # orjson writes NaN as null, which is not equal to it when read back.
            if b"null" not in data or loads(data) == value:
                return data
        except Exception:  # of values that do not compare, too
            pass  # json may know better, or says why
    # Half a surrogate pair can't be UTF-8, but its \\udXXX is JSON.
    return _json()[0](value).encode("utf-8", "backslashreplace")


def _has_long_integer(data: bytes) -> bool:
    """Return whether there may be an integer of more than 64 bits."""
    digits = data.translate(_ONE_DIGIT)
    return b"0" * 20 in digits or b"-" + b"0" * 19 in digits


def load_json(data: bytes) -> object:
    """Return what a JSON text says, the same whether orjson is installed or not.

    Raises:
        HTTPError: 400, with the reason: bad syntax, bad UTF-8, NaN, nested too deeply,
            or a number that is too large for a float or too long to convert.
    """
    fast = _fast_json()
    if fast is not None and not _has_long_integer(data):  # orjson would round it
        try:
            return fast[1](data)
        except ValueError:
            pass  # json may know better, or says why
    try:
        return _json()[1](data.decode("utf-8"))
    except RecursionError:
        raise HTTPError(400, "The JSON body is nested too deeply.") from None
    except ValueError as error:
        raise HTTPError(400, f"The body is not JSON: {error}.") from None


# Lines of the log ---------------------------------------------------------------------

# All that ends a line somewhere or moves a terminal's cursor, but LF and the tab.
_CONTROL = expression(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_NEXT_RECORD = expression(r"\n(?![ \t\n]|\Z)")


def log_lines(text: str) -> str:
    """Return a text for the log in which no line but the first can begin a record.

    A record begins with its time: a line that begins with a blank goes on with the one
    above it, to people and to what collects logs. 'a\\r\\nb' -> 'a\\x0d\\n  b'
    """
    text = _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)
    return text.replace("\n", "\n  ") if _NEXT_RECORD.search(text) else text


def check_record(record: logging.LogRecord) -> bool:
    """Take out of a record what could pass for another one; a filter of `log`.

    SECURITY: the text of an exception is often a client's, and comes after the line
    feeds of a traceback: one of its own would forge a record (CWE-117). Here, and not
    in a formatter, as that may be the program's.
    """
    try:
        message = record.getMessage()
    except (TypeError, ValueError):
        return True  # a program's own; its handlers tell what is wrong with it
    lines = log_lines(message)
    if lines != message:
        record.msg, record.args = lines, ()
    if record.exc_info:
        text = logging.Formatter().formatException(record.exc_info)
        record.exc_text = log_lines(f"\n{text}")[1:]
    return True


log.addFilter(check_record)


# Signed values ------------------------------------------------------------------------
#
# payload "." signature, both in base64url without padding. The payload is JSON, [time
# of issue in seconds, value]: all can read it, none can forge it. The signature covers
# its purpose, the cookie's name and the payload, so that none of the three can be
# swapped. SECURITY: never pickle, which turns a leaked key into running code.

CLOCK_SKEW_SECONDS = 60  # between the machines of one site
_SIGNING_PURPOSE = b"pixie_web signed cookie 1"

MIN_SECRET_BYTES = 16  # 128 bits, if each is random; RFC 2104 section 3 asks for 32

Secrets = Union[str, bytes, Sequence[Union[str, bytes]]]


class _Unset(Enum):
    """The type of UNSET, for type checkers."""

    UNSET = "left out"


# SECURITY: what stands for "no secrets were given" is nothing that a program can come
# by in another way: os.environ.get("KEY") is None, "".split() is empty, and either
# would have cookies unsigned.
UNSET = _Unset.UNSET
MaybeSecrets = Union[Secrets, _Unset]


def secret_keys(secrets: Secrets) -> List[bytes]:
    """Return one secret or several as bytes.

    Raises:
        PixieError: there is none, or one is empty or too short. None is shown.
    """
    is_one = isinstance(secrets, (str, bytes)) or not hasattr(secrets, "__iter__")
    several = [secrets] if is_one else list(cast(Sequence[Union[str, bytes]], secrets))
    keys = [key.encode("utf-8") if isinstance(key, str) else key for key in several]
    sizes = [len(key) if isinstance(key, bytes) else 0 for key in keys]
    if not all(sizes) or not sizes:
        raise PixieError(
            "a secret is empty, or there is none: is a variable of the environment not "
            "set? For cookies that are not signed, leave secrets= out, or say "
            "secret=False"
        )
    if min(sizes) < MIN_SECRET_BYTES:
        raise PixieError(
            f"a secret has at least {MIN_SECRET_BYTES} bytes, got one of {min(sizes)}; "
            'python -c "import secrets; print(secrets.token_hex(32))" prints a good one'
        )
    return cast(List[bytes], keys)


def _signatures(name: str, payload: bytes, secrets: Secrets) -> List[bytes]:
    """Return the signature by each secret, in base64url without padding."""
    import hmac
    from base64 import urlsafe_b64encode

    keys = secret_keys(secrets)
    message = b"\0".join((_SIGNING_PURPOSE, name.encode("utf-8"), payload))
    digests = [hmac.digest(key, message, "sha256") for key in keys]
    return [urlsafe_b64encode(digest).rstrip(b"=") for digest in digests]


def sign(name: str, value: object, secrets: Secrets, now: float) -> str:
    """Return a cookie's value that `unsign` turns back into `value`.

    Args:
        name: the cookie's name; the signature is good for no other.
        value: what JSON can say; a tuple comes back as a list.
        secrets: one secret, or several, of which the first signs.
        now: the time of issue, in seconds since 1970.

    Raises:
        TypeError: a value that JSON can't say.
        PixieError: no secret, or one that is too short.
    """
    from base64 import urlsafe_b64encode

    payload = urlsafe_b64encode(dump_json([int(now), value])).rstrip(b"=")
    return (payload + b"." + _signatures(name, payload, secrets)[0]).decode("ascii")


def unsign(
    name: str, text: str, secrets: Secrets, max_age: Optional[float], now: float
) -> Any:
    """Return the value that `sign` put into `text`.

    Args:
        name: the cookie's name.
        text: the cookie's value, as the client sent it.
        secrets: one secret, or several, any of which may have signed.
        max_age: how old it may be, in seconds; None: any age.
        now: the time, in seconds since 1970.

    Raises:
        ValueError: it is forged, too old, from the future, or no signed value at all.
        PixieError: no secret, or one that is too short.
    """
    if len(text) > MAX_COOKIE_CHARS or not text.isascii():
        raise ValueError("not a signed value")
    import hmac
    import json
    from base64 import urlsafe_b64decode

    payload, _, signature = text.encode("ascii").rpartition(b".")
    # SECURITY: in constant time, with every secret. Comparing the encoded text refuses
    # other encodings of the same bytes too.
    expected = _signatures(name, payload, secrets)
    if not sum([hmac.compare_digest(each, signature) for each in expected]):
        raise ValueError("the signature is wrong")
    issued, value = json.loads(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    if issued > now + CLOCK_SKEW_SECONDS:
        raise ValueError("signed in the future")
    if max_age is not None and now - issued > max_age:
        raise ValueError("signed too long ago")
    return value


# ======================================================================================
# 4. Headers and MultiDict
# ======================================================================================
# Two dictionaries in which a name may have several values. Both keep the order of first
# appearance. They differ in the reading of `d[name]`: a header that is sent in several
# lines means one list, so `Headers` joins them with ", " (RFC 9110 section 5.3), while
# of a form field sent twice the last one counts, as in bottle.

T = TypeVar("T")


class Headers:
    """Header names and values; names compare without regard to case.

    Args:
        items: pairs, or a mapping, of str to str.

    Raises:
        ValueError: a name is no token, or a value holds a control character or a
            character outside latin-1. Nothing of it is ever sent.
    """

    __slots__ = ("_lines",)

    def __init__(
        self, items: Union[Mapping[str, str], Iterable[Tuple[str, str]], None] = None
    ) -> None:
        self._lines: Dict[str, List[Tuple[str, str]]] = {}
        if items is not None:
            pairs = items.items() if isinstance(items, (Mapping, Headers)) else items
            for name, value in pairs:
                self.add(name, value)

    @classmethod
    def from_wire(cls, lines: Iterable[Tuple[str, str]]) -> Headers:
        """Return Headers of lines that the parser has proved well-formed."""
        headers = cls()
        for name, value in lines:
            headers._lines.setdefault(name.lower(), []).append((name, value))
        return headers

    def add(self, name: str, value: str) -> None:
        """Add a line, beside those that have this name already."""
        value = str(value)
        check_header(name, value)
        self._lines.setdefault(name.lower(), []).append((name, value))

    def get(self, name: str, default: Optional[str] = None) -> Optional[str]:
        """Return the value, several joined with ", ", or `default`."""
        lines = self._lines.get(name.lower())
        if lines is None:
            return default
        return lines[0][1] if len(lines) == 1 else ", ".join(v for _, v in lines)

    def getall(self, name: str) -> List[str]:
        """Return the values of all lines with this name, in order."""
        return [value for _, value in self._lines.get(name.lower(), ())]

    def setdefault(self, name: str, value: str) -> None:
        """Set a header that is not there yet."""
        if name.lower() not in self._lines:
            self[name] = value

    def update(self, items: Mapping[str, str]) -> None:
        """Set each header of a mapping."""
        for name, value in items.items():
            self[name] = value

    def items(self) -> Iterator[Tuple[str, str]]:
        """Iterate over all lines as (name, value)."""
        for lines in self._lines.values():
            yield from lines

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        value = str(value)
        check_header(name, value)
        self._lines[name.lower()] = [(name, value)]

    def __delitem__(self, name: str) -> None:
        del self._lines[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._lines

    def __iter__(self) -> Iterator[str]:
        return (lines[0][0] for lines in self._lines.values())

    def __len__(self) -> int:
        return len(self._lines)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return self._by_name() == other._by_name()

    def __repr__(self) -> str:
        return f"Headers({list(self.items())!r})"

    def _by_name(self) -> Dict[str, List[str]]:
        return {name: self.getall(name) for name in self._lines}


class MultiDict(Generic[T]):
    """Names with one or several values each: a query, a form, the uploaded files.

    `d["a"]` is the last value sent under that name; a missing one is a `MissingValue`,
    which answers 400 when the handler does not catch it.
    """

    __slots__ = ("_values",)

    def __init__(self, pairs: Iterable[Tuple[str, T]] = ()) -> None:
        self._values: Dict[str, List[T]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def get(
        self,
        name: str,
        default: Any = None,
        type: Optional[Callable[[Any], Any]] = None,
    ) -> Any:
        """Return the last value, converted by `type`; without one, `default`.

        Raises:
            BadValue: `type` has refused the value, by ValueError, TypeError or
                ArithmeticError (Decimal); it answers 400 unless the handler catches it.
        """
        values = self._values.get(name)
        if not values:
            return default
        if type is None:
            return values[-1]
        try:
            return type(values[-1])
        except HTTPError:
            raise
        except (ValueError, TypeError, ArithmeticError) as error:
            kind = type.__name__ if isinstance(type, builtins.type) else "value"
            raise BadValue(name, values[-1], kind) from error

    def getall(self, name: str) -> List[T]:
        """Return all values sent under `name`, in order; a list that may be empty."""
        return list(self._values.get(name, ()))

    def keys(self) -> Iterable[str]:
        """Return the names, in order of first appearance."""
        return self._values.keys()

    def items(self) -> Iterator[Tuple[str, T]]:
        """Iterate over (name, value), each value of a name in turn."""
        for name, values in self._values.items():
            for value in values:
                yield name, value

    def __getitem__(self, name: str) -> T:
        try:
            return self._values[name][-1]
        except KeyError:
            raise MissingValue(name) from None

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MultiDict):
            return NotImplemented
        return self._values == other._values

    def __repr__(self) -> str:
        return f"MultiDict({list(self.items())!r})"


# ======================================================================================
# 5. HTTP/1.1 on the wire
# ======================================================================================
# Bytes in, events out, and the way back. Nothing here waits, and nothing here knows a
# socket or a loop: the server feeds what came and asks for the next event, so any input
# can be replayed, cut anywhere, and must give the same events.
#
# Framing is strict: what two parsers could read differently (a bare LF, two lengths, a
# space before a colon) is refused with a ProtocolError, and the connection ends there.
# A lenient parser behind or before a strict one is how requests are smuggled.
#
# A whole head takes one search for its end, one expression that proves all its lines
# well-formed, and one that picks out the five headers that rule the connection; the
# others become text when somebody reads them. Heads that are refused, that come in
# pieces or are long go line by line: the first line at fault decides, however the
# input was cut.
#
# Expressions that see a client's bytes are linear: in each, the next byte alone says
# whether a repetition goes on. For each one, tests/test_expressions.py counts the steps
# that the worst texts take.

MAX_METHOD_BYTES = 32  # the longest registered one has 17
MAX_EMPTY_LINES = 16  # before a request line; RFC 9112 section 2.2 asks for one
MAX_CHUNK_LINE_BYTES = 4096  # Go
MAX_EXTENSION_BYTES = 16_384  # per body, beyond its own size; Go since CVE-2023-39326
MAX_TRAILER_BYTES = 8190  # all trailer lines together
MAX_SMALL_CHUNKS = 65_536  # of a body, beyond one for each MIN_CHUNK_BYTES of it
MIN_CHUNK_BYTES = 16  # that chunks have on average, beyond MAX_SMALL_CHUNKS
MAX_JOINED_CHUNKS = 256  # that make one event; some 0.2 ms
MAX_JOINED_BYTES = 65_536  # of the buffer, for one event of several chunks

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_T = TOKEN_BYTES.decode()
_HEAD = expression(  # a header's value: RFC 9110 section 5.5, obs-text allowed
    rf"([{_T}]{{1,{MAX_METHOD_BYTES}}}) ([!-~]+) HTTP/1\.([0-9])\r\n"
    rf"(?:[{_T}]+:[\t -~\x80-\xff]*\r\n)*\r\n"
)
# PERF: the look-ahead saves a fifth of the search.
_RULING_HEADER = expression(
    r"(?ai)\n(?=[CEHT])(connection|content-length|expect|host|transfer-encoding)"
    r":([^\r]*)"
)
_BAD_IN_REQUEST_LINE = expression(rb"[^ -~]")
_BAD_IN_LINE = expression(rb"[\x00-\x08\n-\x1f\x7f]")
_REQUEST_LINE = expression(rb"([%b]+) ([!-~]+) HTTP/([0-9])\.[0-9]" % TOKEN_BYTES)
_HEADER_NAME = expression(rb"[%b]+:" % TOKEN_BYTES)
_ABSOLUTE_FORM = expression(r"(?ai)(https?)://([^/?]+)([^?]*)(?:\?(.*))?")
# RFC 3986 section 3.2.2, less the comma (two hosts merged) and the apostrophe, and
# never empty (RFC 9110 section 4.2.1).
_REG_NAME = r"(?:[\w.~!$&()*+;=-]|%[0-9A-Fa-f]{2})+"
_HOST = expression(rf"(?a)(?:\[([0-9A-Fa-f:.]+)\]|{_REG_NAME})(?::([0-9]{{0,5}}))?")
# SECURITY: 20 digits wrap round elsewhere; thousands make int() slow (CVE-2020-10735).
_CONTENT_LENGTH = expression("[0-9]{1,19}")
_CHUNK = (  # RFC 9112 section 7.1.1
    rb"([0-9A-Fa-f]{1,16})((?:[\t ]*;[\t ]*[%b]+(?:[\t ]*=[\t ]*(?:[%b]+|"
    rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"))?)*)'
    % (TOKEN_BYTES, TOKEN_BYTES)
)
_CHUNK_LINE = expression(_CHUNK)
_CHUNK_START = expression(_CHUNK + rb"\r\n")


class Head:
    """The head of a request that is fit to be answered; made by `parse_head`."""

    __slots__ = (
        "raw method target path query_string version scheme host keep_alive "
        "expects_continue content_length"
    ).split()

    raw: bytes  # from the request line through the empty line, as received
    method: str  # as sent, unknown and lower-case ones too
    target: str  # as sent
    path: str  # percent-decoded; "*" for OPTIONS of the whole server
    query_string: str  # as sent, without its "?"
    version: str  # "1.0" or "1.1"
    scheme: Optional[str]  # of a target in absolute form, else None
    host: str  # with its port; of the target, else of Host; "" when 1.0 sent none
    keep_alive: bool
    expects_continue: bool
    content_length: Optional[int]  # 0: no body; None: chunked

    def lines(self) -> Iterator[Tuple[str, str]]:
        """Iterate over the header lines as (name, value), for `Headers.from_wire`."""
        for line in self.raw.decode("latin-1").split("\r\n")[1:-2]:
            name, _, value = line.partition(":")
            yield name, value.strip("\t ")


# What a head means --------------------------------------------------------------------


@lru_cache(maxsize=64)  # PERF: a server has few names
def _is_host(text: str) -> bool:
    """Return whether `text` is a host with an optional port (RFC 9110 section 7.2)."""
    match = _HOST.fullmatch(text)
    if match is None or int(match.group(2) or 0) > 65535:
        return False
    if match.group(1) is None:
        return True
    from ipaddress import IPv6Address

    try:
        IPv6Address(match.group(1))
    except ValueError:
        return False
    return True


def _split_target(method: str, target: str) -> Tuple[Optional[str], str, str, str]:
    """Return (scheme, authority, path, query) of a request target (RFC 9112 3.2)."""
    if "#" in target:
        raise ProtocolError(400, "The request target must not have a fragment (#).")
    if method == "CONNECT":
        is_valid = _is_host(target) and target.rpartition(":")[2].isdigit()
        raise ProtocolError(
            501 if is_valid else 400, "CONNECT takes host:port, and a proxy to ask."
        )
    if target[0] == "/":
        path, _, query = target.partition("?")
        return None, "", path, query
    if target == "*" and method == "OPTIONS":
        return None, "", "*", ""
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None or not _is_host(match.group(2)):
        raise ProtocolError(400, "The request target is neither a /path nor a URL.")
    scheme, authority, path, query = match.groups("")
    if not path:
        # RFC 9112 section 3.2.4: this is how OPTIONS * passes through proxies.
        path = "*" if method == "OPTIONS" and not query else "/"
    return scheme.lower(), authority, path, query


def _list_of(value: str) -> List[str]:
    return [option.strip("\t ") for option in value.lower().split(",")]


def _body_length(fields: Dict[str, str], version: str) -> Optional[int]:
    """Return the length of the body, None for chunked (RFC 9112 section 6.3)."""
    length = fields.get("content-length")
    if "transfer-encoding" not in fields:
        if length is None:
            return 0
        if _CONTENT_LENGTH.fullmatch(length) is None:
            raise ProtocolError(400, "Content-Length must be one number, in 19 digits.")
        return int(length)
    if length is not None:
        # SECURITY: a proxy that goes by the other one sees another request behind.
        raise ProtocolError(400, "Content-Length with Transfer-Encoding is ambiguous.")
    if version == "1.0":
        raise ProtocolError(400, "HTTP/1.0 has no Transfer-Encoding.")
    codings = _list_of(fields["transfer-encoding"])
    if codings == ["chunked"]:
        return None
    is_valid = "chunked" not in codings[:-1] and all(map(is_token, codings))
    raise ProtocolError(
        501 if is_valid else 400, "The only Transfer-Encoding here is chunked, once."
    )


def _check_request_line(line: bytes) -> None:
    """Raise ProtocolError unless a request line can be answered (RFC 9112 3)."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise ProtocolError(400, "A request line must be: method, target, HTTP/1.1.")
    method, target, major_version = match.groups()
    if len(method) > MAX_METHOD_BYTES:
        raise ProtocolError(501, f"No method is over {MAX_METHOD_BYTES} bytes.")
    _split_target(method.decode(), target.decode())
    if major_version != b"1":
        raise ProtocolError(505, "This connection speaks HTTP/1.1 and HTTP/1.0 only.")


def parse_head(raw: bytes) -> Head:
    """Return the Head that `raw`, request line through empty line, says.

    Limits are not checked here but by `RequestReader`, which also finds out which line
    is at fault.

    Raises:
        ProtocolError: 400; 417 for Expect; 501 for CONNECT and Transfer-Encoding.
    """
    text = raw.decode("latin-1")
    match = _HEAD.fullmatch(text)
    if match is None:
        raise ProtocolError(400, "The request head is not well-formed.")
    head = Head()
    head.raw = raw
    head.method, head.target, minor = match.groups()
    # RFC 9110 section 2.5: a higher minor version is answered as the highest known one.
    head.version = version = "1.0" if minor == "0" else "1.1"
    head.scheme, authority, path, head.query_string = _split_target(
        head.method, head.target
    )
    if "%" in path:
        path = percent_decode(path.encode("ascii")).decode("utf-8", "replace")
    head.path = path
    # RFC 9110 section 5.3: lines of one name are one list. So a second Host or length
    # yields "a, b", which their own grammar refuses.
    fields: Dict[str, str] = {}
    for name, value in _RULING_HEADER.findall(text):
        name, value = name.lower(), value.strip("\t ")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    host = fields.get("host", "")
    if not _is_host(host) and (version == "1.1" or "host" in fields):
        raise ProtocolError(400, "A request needs a Host header: host or host:port.")
    head.host = authority or host
    head.content_length = _body_length(fields, version)
    options = _list_of(fields["connection"]) if "connection" in fields else []
    persists = version == "1.1" or "keep-alive" in options
    head.keep_alive = persists and "close" not in options
    head.expects_continue = False
    # RFC 9110 section 10.1.1: HTTP/1.0 has no expectations.
    if "expect" in fields and version == "1.1":
        expected = set(_list_of(fields["expect"])) - {""}
        if not expected <= {"100-continue"}:
            raise ProtocolError(417, "The only expectation here is 100-continue.")
        head.expects_continue = bool(expected)
    return head


# Requests from a connection -----------------------------------------------------------


class Signal(Enum):
    """What `RequestReader.next_event` returns beside heads and body bytes."""

    NEED_DATA = "need data"  # feed more
    END = "end"  # the body of the request has come whole
    CLOSED = "closed"  # no further request will come on this connection


NEED_DATA, END, CLOSED = Signal.NEED_DATA, Signal.END, Signal.CLOSED
WireEvent = Union[Head, bytes, Signal]


class RequestReader:
    """Turns the bytes of a connection into events: Head, bytes ..., END, Head ...

    A request without a body is a Head alone. After a request that does not keep the
    connection alive everything is discarded and the event is CLOSED for ever. So it is
    at the end of input between two requests; inside one that is a ProtocolError. An
    error is final: each further call raises it again.

    Chunks that have come whole are one event, of MAX_JOINED_CHUNKS at most. A companion
    may read them in another way: its class has `_take_chunks` anew.

    `max_body_bytes` may be set after each Head, which resets it to None: a chunked body
    that grows beyond it, by the size that a chunk announces, is a ProtocolError 413.
    `chunks` counts those of all bodies: who reads them can tell what they have cost.
    """

    def __init__(
        self,
        *,
        max_request_line_bytes: int = MAX_REQUEST_LINE_BYTES,
        max_header_line_bytes: int = MAX_HEADER_LINE_BYTES,
        max_headers: int = MAX_HEADERS,
        max_head_bytes: int = MAX_HEAD_BYTES,
        max_chunk_line_bytes: int = MAX_CHUNK_LINE_BYTES,
        max_extension_bytes: int = MAX_EXTENSION_BYTES,
        max_trailer_bytes: int = MAX_TRAILER_BYTES,
    ) -> None:
        # What a line must not hold, its length, and the status if it is longer.
        self._request_line = _BAD_IN_REQUEST_LINE, max_request_line_bytes, 414
        self._header_line = _BAD_IN_LINE, max_header_line_bytes, 431
        self._chunk_line = _BAD_IN_LINE, max_chunk_line_bytes, 400
        self._max_headers = max_headers
        self._max_head_bytes = max_head_bytes
        self._max_extension_bytes = max_extension_bytes
        self._max_trailer_bytes = max_trailer_bytes
        # A line not longer than this keeps the limits, whichever it is.
        self._short_line_bytes = min(max_request_line_bytes, max_header_line_bytes)
        # For the life of the connection. The step is a plain function: a bound method
        # would make a cycle of the reader, to be freed by the garbage collector only.
        self._buffer = b""
        self._position = 0  # what stands before it is consumed
        self._step: Callable[[RequestReader], WireEvent] = RequestReader._read_head
        self._eof = False
        self._error: Optional[Tuple[int, str]] = None
        self.chunks = 0
        # For one request.
        self._keep_alive = True
        self._after_data = RequestReader._end_message  # the next step
        self._empty_lines = 0
        self._remaining = 0  # bytes of the body, or of the chunk, still to come
        self._body_bytes = 0
        self._extension_bytes = 0
        self._body_chunks = 0
        self.max_body_bytes: Optional[int] = None
        # For one head, trailer section or chunk line; offsets count from _position.
        self._line_start = 0
        self._searched = 0  # no CR LF, and no bad byte, begins between the two
        self._lines = 0

    @property
    def buffered(self) -> int:
        """The number of bytes that were fed and are not yet part of an event."""
        return len(self._buffer) - self._position

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection."""
        if self._step is not RequestReader._read_closed:
            # PERF: in most cases nothing is left, and Python copies nothing.
            self._buffer = self._buffer[self._position :] + data
            self._position = 0

    def feed_eof(self) -> None:
        """Say that no more bytes will come."""
        self._eof = True

    def next_event(self) -> WireEvent:
        """Return the next Head, body bytes, END, NEED_DATA or CLOSED.

        Raises:
            ProtocolError: answer with its status, then close the connection.
        """
        try:
            event = self._step(self)
            if event is NEED_DATA and self._eof:
                if self._step is RequestReader._read_head and not self.buffered:
                    return CLOSED
                raise RequestCutShort(400, "The connection ended inside a request.")
        except ProtocolError as error:
            self._error = error.status, error.text
            self._close()
            raise
        return event

    # Steps: each returns an event, or names the next step and returns its event.

    def _read_head(self) -> WireEvent:
        # RFC 9112 section 2.2: some clients send an empty line after a body.
        while self._buffer.startswith(b"\r\n", self._position):
            self._position += 2
            self._empty_lines += 1
            if self._empty_lines > MAX_EMPTY_LINES:
                raise ProtocolError(400, "Too many empty lines before a request line.")
        if not self.buffered:
            return NEED_DATA
        buffer, start = self._buffer, self._position
        stop = start + self._max_head_bytes
        # The last line's CR LF is part of the end, hence the two bytes back.
        end = buffer.find(b"\r\n\r\n", max(start, start + self._searched - 2), stop)
        if end < 0:
            self._read_lines(stop)
            if len(buffer) > stop:
                raise ProtocolError(431, "The request's head is too large.")
            return NEED_DATA
        end += 4
        raw = buffer[start:end]
        is_usual = raw.count(b"\r\n") <= self._max_headers + 2
        if is_usual and len(raw) > self._short_line_bytes:
            # PERF: a large head of ordinary lines, 40 % of the time.
            is_usual = max(map(len, raw.split(b"\r\n"))) <= self._short_line_bytes
        if not is_usual:
            self._read_lines(end)
        try:
            head = parse_head(raw)
        except ProtocolError:
            self._read_lines(end)  # raises the error of the first line at fault
            raise
        self._begin_message(head, end)
        return head

    def _begin_message(self, head: Head, end: int) -> None:
        self._move_to(end)
        self.max_body_bytes = None
        self._empty_lines = self._body_bytes = self._extension_bytes = 0
        self._body_chunks = 0
        self._keep_alive = head.keep_alive
        self._remaining = head.content_length or 0
        self._step = RequestReader._read_body
        self._after_data = RequestReader._end_message
        if head.content_length is None:
            self._step = type(self)._read_chunk_line
            self._after_data = RequestReader._read_chunk_end
        elif head.content_length == 0:
            self._end_message()

    def _read_body(self) -> WireEvent:
        """Return what has come of the body, or of one chunk."""
        # PERF: the very object that was fed, when it is all of it.
        data = self._buffer[self._position : self._position + self._remaining]
        if not data:
            return NEED_DATA
        self._position += len(data)
        self._remaining -= len(data)
        if not self._remaining:
            self._step = self._after_data
        return data

    def _read_chunk_line(self) -> WireEvent:
        """Return whole chunks as one; else read the line of the next one alone."""
        content = b"" if self._searched else self._take_chunks()
        if content:
            return content
        line = self._next_line(self._chunk_line, len(self._buffer))
        if line is None:
            return NEED_DATA
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise ProtocolError(400, "A chunk must begin with its size in hexadecimal.")
        self._remaining = int(match.group(1), 16)
        self._extension_bytes += len(match.group(2))
        # SECURITY: or tiny chunks with long extensions cost far more than they carry.
        if self._extension_bytes > self._max_extension_bytes + self._body_bytes:
            raise ProtocolError(400, "The body has more chunk extensions than content.")
        self._body_bytes += self._remaining
        if self.max_body_bytes is not None and self._body_bytes > self.max_body_bytes:
            raise ProtocolError(413, "The body is larger than this resource takes.")
        self.chunks += 1
        self._body_chunks += self._remaining > 0
        most_chunks = MAX_SMALL_CHUNKS + self._body_bytes // MIN_CHUNK_BYTES
        if self._body_chunks > most_chunks:
            raise ProtocolError(400, "The body has too many small chunks: join them.")
        self._move_to(self._position + self._line_start)
        self._step = RequestReader._read_body
        if not self._remaining:
            self._step = RequestReader._read_trailers
        return self._step(self)

    def _take_chunks(self) -> bytes:
        """Return the content of the whole chunks that wait, MAX_JOINED_CHUNKS at most.

        SECURITY: each as an event of its own costs 6 us and an object; in chunks of a
        byte, that is a second for each 200 kB that a client sends.

        It ends, or returns b"", at what is to be refused or has not come whole.
        """
        buffer, position = self._buffer, self._position
        stop = min(len(buffer), position + MAX_JOINED_BYTES)
        match, most_extra_bytes = _CHUNK_START.match, self._max_extension_bytes
        most_bytes = sys.maxsize if self.max_body_bytes is None else self.max_body_bytes
        most_chunks = MAX_SMALL_CHUNKS - self._body_chunks
        body_bytes, extension_bytes = self._body_bytes, self._extension_bytes
        pieces: List[bytes] = []
        for count in range(MAX_JOINED_CHUNKS):
            found = match(buffer, position, stop)
            if found is None:
                break
            digits, extension = found.groups()
            start = found.end()
            end = start + int(digits, 16)
            if end == start or end > stop or buffer[end : end + 2] != b"\r\n":
                break
            extra_bytes = extension_bytes + len(extension)
            size = body_bytes + end - start
            if (
                start - 2 - position > self._chunk_line[1]
                or extra_bytes > most_extra_bytes + body_bytes
                or size > most_bytes
                or count >= most_chunks + size // MIN_CHUNK_BYTES
            ):
                break
            pieces.append(buffer[start:end])
            body_bytes, extension_bytes, position = size, extra_bytes, end + 2
        self._extension_bytes = extension_bytes
        return self._count_chunks(pieces, position)

    def _count_chunks(self, pieces: List[bytes], position: int) -> bytes:
        """Note that chunks have been taken, and the buffer up to `position`."""
        content = b"".join(pieces)
        if content:
            self.chunks += len(pieces)
            self._body_chunks += len(pieces)
            self._body_bytes += len(content)
            self._move_to(position)
        return content

    def _read_chunk_end(self) -> WireEvent:
        ending = self._buffer[self._position : self._position + 2]
        if not b"\r\n".startswith(ending):
            raise ProtocolError(400, "A chunk must end with CR LF after its last byte.")
        if len(ending) < 2:
            return NEED_DATA
        self._position += 2
        self._step = type(self)._read_chunk_line
        return self._step(self)

    def _read_trailers(self) -> WireEvent:
        # RFC 9110 section 6.5.1: trailers may be discarded. They are proved well-formed
        # all the same, and nothing in them rules anything.
        stop = self._position + self._max_trailer_bytes + 2
        if self._read_lines(stop):
            self._move_to(self._position + self._line_start)
            return self._end_message()
        if len(self._buffer) >= stop:
            raise ProtocolError(431, "The request's trailers are too large.")
        return NEED_DATA

    def _end_message(self) -> WireEvent:
        self._step = RequestReader._read_head
        if not self._keep_alive:
            self._close()
        return END

    def _read_closed(self) -> WireEvent:
        if self._error is not None:
            raise ProtocolError(*self._error)
        return CLOSED

    # What the steps share.

    def _read_lines(self, stop: int) -> bool:
        """Check the lines of a head or trailer section up to `stop`, each byte once.

        Returns whether the empty line that ends the section was among them.
        """
        in_head = self._step is RequestReader._read_head
        while True:
            is_first = in_head and self._lines == 0
            rule = self._request_line if is_first else self._header_line
            line = self._next_line(rule, stop)
            if not line:
                return line is not None
            if is_first:
                _check_request_line(line)
            elif self._lines >= self._max_headers + in_head:
                raise ProtocolError(431, f"More than {self._max_headers} header lines.")
            elif _HEADER_NAME.match(line) is None:
                # SECURITY: others drop a space before the colon, or take a line that
                # begins with one as the value's second, and see another header.
                raise ProtocolError(400, "A header line must be name, colon, value.")
            self._lines += 1

    def _next_line(
        self, rule: Tuple[re.Pattern[bytes], int, int], stop: int
    ) -> Optional[bytes]:
        """Go behind the next line and return it without its CR LF; None: it has no end.

        It is refused for its first bad byte within its limit, else for its length,
        whether it is complete or not.
        """
        bad, limit, status = rule
        buffer, start = self._buffer, self._position + self._line_start
        searched = self._position + self._searched
        line_end = end = buffer.find(b"\r\n", searched, stop)
        if line_end < 0:
            end = min(len(buffer), stop)
            end -= buffer.endswith(b"\r", start, end)  # its LF may follow
        found = bad.search(buffer, searched, min(end, start + limit))
        if found:
            if found.group() in b"\r\n":
                # RFC 9112 section 2.2 lets a bare LF pass; so requests are split.
                raise ProtocolError(400, "A line must end with CR LF, together.")
            raise ProtocolError(400, "The request holds a control or non-ASCII byte.")
        if end - start > limit:
            if status == 414:
                method = buffer[start : start + limit].partition(b" ")[0]
                # Not HTTP, rather than a long target.
                if len(method) == limit:
                    status = 400
                elif len(method) > MAX_METHOD_BYTES:
                    status = 501
            raise ProtocolError(status, f"A line has more than {limit} bytes.")
        if line_end < 0:
            self._searched = end - self._position
            return None
        self._line_start = self._searched = line_end + 2 - self._position
        return buffer[start:line_end]

    def _move_to(self, position: int) -> None:
        self._position = position
        self._line_start = self._searched = self._lines = 0

    def _close(self) -> None:
        self._step = RequestReader._read_closed
        self._buffer, self._position = b"", 0


# The way out --------------------------------------------------------------------------

_STATUS_LINES = {
    status: f"HTTP/1.1 {status} {reason}\r\n".encode()
    for status, reason in REASONS.items()
}
# The four names are for `response_head` and the server to write.
_HEADER_BLOCK = expression(
    rb"(?:(?!(?i:connection|content-length|date|transfer-encoding):)"
    rb"[%b]+:[\t -~\x80-\xff]*\r\n)*" % TOKEN_BYTES
)


class ResponseHead(NamedTuple):
    """The bytes that begin a response, and what follows from them."""

    data: bytes
    has_body: bool  # False: send nothing after the head
    chunked: bool  # send the body by `encode_chunk` and LAST_CHUNK
    keep_alive: bool  # False: close when the response is sent


def is_header_block(block: bytes) -> bool:
    """Return whether `block` is lines `Name: value` CR LF that a response may carry.

    SECURITY: main checks by it what a worker rendered. Connection, Content-Length, Date
    and Transfer-Encoding are refused: they are the server's own.
    """
    return _HEADER_BLOCK.fullmatch(block) is not None


def response_head(
    status: int,
    header_block: bytes,
    *,
    version: str,
    method: str,
    keep_alive: bool,
    content_length: Optional[int],
    date_line: bytes = b"",
) -> ResponseHead:
    """Return the head of a response, and how its body is framed (RFC 9112 section 6).

    Args:
        status: the status code, 100 to 999.
        header_block: lines that `is_header_block` accepts.
        version: of the request, "1.0" or "1.1".
        method: of the request. HEAD gets the head that GET would get.
        keep_alive: whether the connection may be kept. A body of unknown length for a
            1.0 client ends it in any case.
        content_length: of the body in bytes; None when it is not known beforehand. For
            status 304 the length that status 200 would have, or None.
        date_line: `Date: ...` CR LF.
    """
    has_body = method != "HEAD" and status >= 200 and status not in (204, 205, 304)
    chunked = False
    framing = b""
    if status == 205:  # RFC 9110 section 15.3.6
        content_length = 0
    if status < 200 or status == 204 or (status == 304 and not content_length):
        pass
    elif content_length is not None:
        framing = b"Content-Length: %d\r\n" % content_length
    elif version == "1.0":
        keep_alive = keep_alive and not has_body
    else:
        chunked = has_body
        framing = b"Transfer-Encoding: chunked\r\n"
    if status < 200:
        pass  # the final response will say what becomes of the connection
    elif not keep_alive:
        framing += b"Connection: close\r\n"
    elif version == "1.0":
        framing += b"Connection: keep-alive\r\n"
    status_line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    data = b"%b%b%b%b\r\n" % (status_line, date_line, header_block, framing)
    return ResponseHead(data, has_body, chunked, keep_alive)


def encode_chunk(data: bytes) -> bytes:
    """Return `data` as a chunk; nothing for no data, as an empty chunk ends a body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


# ======================================================================================
# 6. Bodies
# ======================================================================================
# Forms and uploads: application/x-www-form-urlencoded and multipart/form-data, by RFC
# 7578 and as browsers write it (WHATWG HTML section 4.10.21.8).
#
#     piece of body -> MultipartParser.feed -> Part, bytes, bytes ..., None, Part ...
#
# The parser is pushed: it does no I/O, and keeps nothing but an unfinished part head or
# what may begin a delimiter. It searches each byte once, for CRLF "--" boundary, or
# twice, behind a line that only begins like one. An upload is not copied: a large body
# lies in a file already, and `FileUpload.file` is a window on that part of it.
#
# SECURITY: what is ambiguous is refused (bare LF, folded or repeated headers, text
# ahead of the first boundary, no end): a filter in front may read it otherwise.
# `filename*` is ignored (RFC 7578 section 4.2 forbids it).

MAX_FORM_FIELDS = 1000  # urlencoded; Django, PHP, aiohttp, qs
MAX_PADDING_BYTES = 64  # blanks after a boundary; no HTTP client sends any
MAX_FALSE_LINES = 1000  # in a body, that begin like a boundary; clients send none
MAX_PREAMBLE_BYTES = 64  # line ends ahead of the first boundary: some clients send one
MAX_FILENAME_BYTES = 200  # file systems allow 255; leaves room for a prefix
BODY_PIECE_BYTES = 256 * 1024  # read from a file at once; larger is not faster


class FormLimits(NamedTuple):
    """What a form may cost; over any of these the answer is 413."""

    max_fields: int = MAX_FORM_FIELDS
    max_form_bytes: int = 500_000  # all text, names too; Werkzeug; bottle 100 KiB
    max_field_bytes: int = 64 * 1024  # one text field of a multipart; multipart
    max_file_bytes: int = sys.maxsize  # each file; the whole body has its own limit
    max_parts: int = 128  # of a multipart; Starlette and Werkzeug 1000
    max_part_headers: int = 8  # multipart, python-multipart; RFC 7578 knows three
    max_part_head_bytes: int = 4096  # multipart, python-multipart

    def check(self, name: str, count: int) -> None:
        """Raise HTTPError(413) if `count` is over the limit of that name."""
        limit = getattr(self, name)
        if count > limit:
            raise HTTPError(413, f"The form is over a limit: {name} is {limit}.")


FORM_LIMITS = FormLimits()


# Header parameters --------------------------------------------------------------------

# A quote ends a value unless a backslash stands before it and no `;` or end after it:
# browsers send backslashes as they are ("C:\"), older clients write \" for a quote.
_PARAMETER = expression(
    rf"""[ \t]*;[ \t]*(?:([{TOKEN_BYTES.decode()}]+)=
    (?:"([^"]*(?:(?<=\\)"(?![ \t]*(?:;|\Z))[^"]*)*)"|([^ \t";]+)))?[ \t]*""",
    re.VERBOSE,
)


def parse_parameters(value: str) -> Tuple[str, Dict[str, str]]:
    """Return a header's first word and its parameters, both names in lower case.

    'Form-Data; name="a b"' -> ("form-data", {"name": "a b"})

    Raises:
        HTTPError: 400, for bad syntax or a parameter that comes twice.
    """
    word = value.partition(";")[0]
    position = len(word)
    parameters: Dict[str, str] = {}
    while position < len(value):
        match = _PARAMETER.match(value, position)
        key = (match.group(1) or "").lower() if match else ""
        if match is None or key in parameters:
            raise HTTPError(400, "Malformed parameters in a header.")
        if key:
            parameters[key] = match.group(2) or match.group(3) or ""
        position = match.end()
    return word.strip(" \t").lower(), parameters


_CODECS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "ascii",
    "ascii": "ascii",
    "iso-8859-1": "latin-1",
    "latin1": "latin-1",
    "windows-1252": "cp1252",
    "cp1252": "cp1252",
}


def codec_of(content_type: str) -> str:
    """Return the codec of the text that has this Content-Type: its charset's, or utf-8.

    SECURITY: never codecs.lookup, which imports and keeps whatever a client names.

    Raises:
        HTTPError: 415, for a charset that is none of those above.
    """
    if "charset" not in content_type.lower():
        return "utf-8"
    charset = parse_parameters(content_type)[1].get("charset", "utf-8")
    codec = _CODECS.get(charset.lower())
    if codec is None:
        text = f"Send text in UTF-8; the charset {charset[:40]!r} is not known here."
        raise HTTPError(415, text)
    return codec


# The parser ---------------------------------------------------------------------------

_BOUNDARY = expression(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
# RFC 2046 5.1.1: blanks after a boundary are those of gateways, and are to be taken.
_AFTER_BOUNDARY = expression(
    rb"([ \t]{%d})|[ \t]*(?:\r(?:(\n)|\Z)|\Z)|-(?:(-)|\Z)" % (MAX_PADDING_BYTES + 1)
)
_PART_HEAD = expression(  # RFC 9112 section 5, without folded lines
    rf"(?:[{TOKEN_BYTES.decode()}]+:[^\x00-\x08\x0a-\x1f\x7f]*(?:\r\n|\Z))+"
)
_COMMON_HEAD = expression(
    r'Content-Disposition: form-data; name="([^"%\\\x00-\x1f\x7f]*)"'
    r'(?:; filename="([^"%\\\x00-\x1f\x7f]*)")?'
    r"(?:\r\nContent-Type: ([^ \t\x00-\x1f\x7f]*))?"
)


def _unquote(text: str) -> str:
    """Return a part's name as its sender meant it (WHATWG HTML 4.10.21.8)."""
    text = text.replace('\\"', '"').replace("%22", '"')
    return text.replace("%0D", "\r").replace("%0A", "\n")


_BASE64 = expression(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}[A-Za-z0-9+/=]=)?")
_QUOTED = expression(rb"[\t -<>-~]*(?:(?:\r\n|=(?:[0-9A-Fa-f]{2}|\r\n))[\t -<>-~]*)*")


def decode_transfer(encoding: str, data: bytes) -> bytes:
    """Return the data of a part that is in "base64" or "quoted-printable".

    Raises:
        HTTPError: 400, it is not in that encoding (RFC 2045 section 6).
    """
    if encoding == "base64":
        data = data.translate(None, b"\r\n\t ")
        if _BASE64.fullmatch(data):
            return binascii.a2b_base64(data)
    else:
        # Blanks at the end of a line were put there on the way.
        data = b"\r\n".join(line.rstrip(b" \t") for line in data.split(b"\r\n"))
        if _QUOTED.fullmatch(data):
            return binascii.a2b_qp(data)
    raise HTTPError(400, f"A part is not in its transfer encoding, {encoding}.")


class Part:
    """The head of one part of a multipart body.

    `filename` is None for a text field; `offset` is where in the body its data begins;
    `size` (bytes) is final when the part has ended; `encoding` is "" or what its data
    is to be decoded from, by `decode_transfer`.
    """

    def __init__(self, head: bytes) -> None:
        self.head = head.decode("utf-8", "replace")
        self.encoding = ""
        self.filename: Optional[str] = None
        self.offset = self.size = 0
        # PERF: what browsers send, in one match: small parts take 0.5 of the time.
        common = _COMMON_HEAD.fullmatch(self.head)
        if common:
            self.name, self.filename, content_type = common.groups()
            self.content_type: str = content_type or ""
        else:
            self._read()
        # What is encoded is decoded in memory, where the limits of text hold.
        self.is_text = self.filename is None or self.encoding != ""

    def lines(self) -> List[Tuple[str, str]]:
        """Return the header lines as (name, value)."""
        pairs = [line.partition(":") for line in self.head.split("\r\n")]
        return [(name, value.strip(" \t")) for name, _, value in pairs]

    def _read(self) -> None:
        lines = self.lines()
        found = {name.lower(): value for name, value in lines}
        if not _PART_HEAD.fullmatch(self.head) or len(found) < len(lines):
            raise HTTPError(400, "Malformed or repeated headers of a part.")
        word, parameters = parse_parameters(found.get("content-disposition", ""))
        if word != "form-data" or "name" not in parameters:
            raise HTTPError(400, "A part's Content-Disposition is form-data; name=...")
        self.name = _unquote(parameters["name"])
        if "filename" in parameters:
            self.filename = _unquote(parameters["filename"])
        self.content_type = found.get("content-type", "")
        # RFC 7578 section 4.7: deprecated, and no browser ever encoded anything.
        encoding = found.get("content-transfer-encoding", "binary").lower()
        if encoding in ("base64", "quoted-printable"):
            self.encoding = encoding
        elif encoding not in ("7bit", "8bit", "binary"):
            raise HTTPError(400, "A part has an unknown Content-Transfer-Encoding.")


class MultipartParser:
    """A push parser of multipart/form-data; see the head of this section.

    Args:
        boundary: the boundary, without the leading `--` (str, 1 to 70 characters).
        limits: the bounds; `max_fields` is not used.

    Raises:
        HTTPError: 400, if the boundary is none (RFC 2046 section 5.1.1).
    """

    def __init__(self, boundary: str, limits: FormLimits = FORM_LIMITS) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise HTTPError(400, "A multipart form needs a boundary (RFC 2046 5.1.1).")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._false_lines = 0  # that only begin like a delimiter
        self._limits = limits
        # The first delimiter may stand at the very beginning, without its CRLF.
        self._rest = b"\r\n"
        self._offset = -2  # of _rest in the body
        self._part: Optional[Part] = None  # the one whose data comes
        self._in_head = False
        self._ended = False
        self._form_bytes = 0
        self._parts = 0

    def feed(self, data: bytes) -> Iterator[Union[Part, bytes, None]]:
        """Iterate over what `data` adds: a `Part`, pieces of its data, None at its end.

        To be exhausted before the next call. What follows the last boundary is ignored.

        Raises:
            HTTPError: 400 where it is malformed, 413 over a limit; the parser is of no
                use afterwards.
        """
        buffer = self._rest + data if self._rest else data
        position = 0
        while not self._ended:
            if self._in_head:
                part = self._take_head(buffer, position)
                if part is None:
                    break
                self._part, self._in_head = part, False
                position = part.offset - self._offset
                yield part
            end, stop, is_last = self._find_delimiter(buffer, position)
            if end > position:
                piece = buffer[position:end]
                self._check_data(piece, self._offset + end)
                if self._part is not None:
                    yield piece
                position = end
            if not stop:
                break
            if self._part is not None:
                yield None
            position, self._part = stop, None
            self._ended, self._in_head = is_last, not is_last
        self._offset += position
        self._rest = b"" if self._ended else buffer[position:]

    def close(self) -> None:
        """Raise HTTPError(400) unless the last boundary came, or nothing at all."""
        if not self._ended and self._offset + len(self._rest):
            raise HTTPError(400, "The multipart body ends before its last boundary.")

    def _find_delimiter(self, buffer: bytes, position: int) -> Tuple[int, int, bool]:
        """Return where the data ends, where its delimiter does, and if it is the last.

        The second is 0 while the delimiter is not here to its end.
        """
        delimiter, length = self._delimiter, len(self._delimiter)
        end, found = buffer.find(delimiter, position), None
        while end >= 0:
            found = _AFTER_BOUNDARY.match(buffer, end + length)
            if found is not None:
                break
            # RFC 2046 5.1.1: no line of the data may begin like a delimiter.
            # SECURITY: each is a turn of Python; 16 MiB of them took 0.7 s.
            self._false_lines += 1
            if self._false_lines > MAX_FALSE_LINES:
                raise HTTPError(400, "Too many lines begin like a multipart boundary.")
            end = buffer.find(delimiter, end + length)
        if found is None:
            # It may begin in the tail, and then at the last CR: it has no other.
            end = buffer.rfind(b"\r", max(position, len(buffer) - length + 1))
            if end < 0 or not delimiter.startswith(buffer[end:]):
                end = len(buffer)
            return end, 0, False
        if found.group(1):
            raise HTTPError(400, "Too many blanks after a multipart boundary.")
        is_whole = found.group(2) or found.group(3)
        return end, found.end() if is_whole else 0, bool(found.group(3))

    def _take_head(self, buffer: bytes, position: int) -> Optional[Part]:
        """Return the part that begins at a position; None while its head goes on."""
        limits = self._limits
        longest = limits.max_part_head_bytes + 4
        end = buffer.find(b"\r\n\r\n", position, position + longest)
        if end < 0:
            limits.check("max_part_head_bytes", len(buffer) - position - 3)
            return None
        head = buffer[position:end]
        self._parts += 1
        limits.check("max_parts", self._parts)
        limits.check("max_part_headers", head.count(b"\r\n") + 1)
        part = Part(head)
        part.offset = self._offset + end + 4
        if part.is_text:
            self._form_bytes += len(part.name)
        return part

    def _check_data(self, piece: bytes, end: int) -> None:
        """Check a piece of data, ending at `end` in the body, against the limits."""
        part = self._part
        if part is None:
            if piece.strip(b"\r\n") or end > MAX_PREAMBLE_BYTES:
                raise HTTPError(400, "The multipart body begins with no boundary.")
            return
        part.size += len(piece)
        if not part.is_text:
            self._limits.check("max_file_bytes", part.size)
            return
        self._form_bytes += len(piece)
        limits, form_bytes = self._limits, self._form_bytes
        over_field = part.size - limits.max_field_bytes
        # Of two limits passed in one piece the first one counts, however it was cut.
        if form_bytes - limits.max_form_bytes > max(0, over_field):
            limits.check("max_form_bytes", form_bytes)
        elif over_field > 0:
            limits.check("max_field_bytes", part.size)


# Uploads ------------------------------------------------------------------------------

_RESERVED_ON_WINDOWS = expression(rf"(?i){WINDOWS_DEVICE} *(?:\..*)?")
_UNSAFE_IN_FILENAME = expression(
    # Control characters, what Windows forbids, and what turns or hides text on screen.
    '[\x00-\x1f\x7f-\x9f<>:"|?*\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]'
)


def safe_filename(raw: str) -> str:
    """Return the last component of a client's path, fit to be a file's name everywhere.

    "C:\\docs\\a?b.txt" -> "a_b.txt", "../.profile" -> "profile", "nul" -> "_nul"

    Never empty, and without control characters, separators, leading dots or dashes.
    Letters of any script stay. Of a long name the end is kept, with what it says of the
    type: `MAX_FILENAME_BYTES` of UTF-8.
    """
    name = _UNSAFE_IN_FILENAME.sub("_", re.split(r"[/\\]", raw)[-1]).rstrip(" .")
    name = name.encode("utf-8")[-MAX_FILENAME_BYTES:].decode("utf-8", "ignore")
    name = name.lstrip(" .-~") or "upload"
    return "_" + name if _RESERVED_ON_WINDOWS.fullmatch(name) else name


class BodyFile:
    """A body that lies in a file, for all who read it, in whatever thread.

    SECURITY: a descriptor's number, and a path that names it, belong to the next file
    as soon as it is closed. Then a handler that outlives its request would read the
    body of another client. So whoever reads goes through this object, which knows
    whether the file is still its own, and whoever may still read holds it open.

    Args:
        file: open for reading, unbuffered.
        path: by which another process opens it, while it is held open here.
    """

    __slots__ = ("_ended", "_file", "_holders", "_lock", "path")

    def __init__(self, file: BinaryIO, path: str = "") -> None:
        self._file = file
        self.path = path
        self._lock = threading.Lock()  # of the file's position
        self._ended = False
        self._holders: Set[object] = set()

    def write(self, chunks: Iterable[bytes]) -> None:
        """Append; nobody reads yet."""
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._file.write(rest) :]

    def read_at(self, offset: int, size: int = -1) -> bytes:
        """Return up to `size` bytes from `offset` on, or all; b"" at the end.

        Raises:
            ValueError: the request has ended, and its body is gone.
        """
        try:
            with self._lock:
                if self._ended:
                    raise ValueError(
                        "the body is gone: its request has ended; "
                        "read or save it before the handler returns"
                    )
                self._file.seek(offset)
                return self._file.read(size)
        finally:
            if self._ended:
                self._close()

    def pieces(self) -> Iterator[bytes]:
        """Iterate over all of it, in pieces of BODY_PIECE_BYTES."""
        offset = 0
        while True:
            piece = self.read_at(offset, BODY_PIECE_BYTES)
            if not piece:
                return
            yield piece
            offset += len(piece)

    def hold(self, holder: object) -> None:
        """Keep it open until the holder releases it; on the loop, as `release`."""
        self._holders.add(holder)

    def release(self, holder: object) -> None:
        """Let a holder go; the last one closes the file."""
        self._holders.discard(holder)
        if not self._holders:
            self._ended = True
            self._close()

    def _close(self) -> None:
        # The loop does not wait for the read of a thread, which closes after it.
        if self._lock.acquire(blocking=False):
            try:
                self._file.close()
            finally:
                self._lock.release()


class _Window(io.RawIOBase):
    """A stretch of a body's file, as a read-only file of its own."""

    def __init__(self, source: BodyFile, start: int, size: int) -> None:
        self._source = source
        self._start, self._size, self._position = start, size, 0

    def readable(self) -> bool:
        return True

    seekable = readable

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + (0, self._position, self._size)[whence]
        if position < 0:
            raise ValueError("can't seek to before the beginning of the file")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        data = self._source.read_at(self._start + self._position, count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class FileUpload:
    """A file that came with a form: an item of `env.files`.

    Attributes:
        name: the form field's name (str).
        raw_filename: what the client called it (str). SECURITY: never use it as a path.
        content_type: what the client says it is (str); not to be trusted either.
        size: its length (int, bytes).
    """

    def __init__(self, part: Part, body: Union[bytes, BodyFile]) -> None:
        self.name = part.name
        self.raw_filename = part.filename or ""
        # RFC 7578 section 4.4 has text/plain here, but nobody has said that it is text.
        self.content_type = part.content_type or "application/octet-stream"
        self.size = part.size
        self._part = part
        self._body = body
        self._file: Optional[BinaryIO] = None

    @property
    def filename(self) -> str:
        """A name that is safe to store under, on every system: see `safe_filename`."""
        return safe_filename(self.raw_filename)

    @property
    def headers(self) -> Headers:
        """The headers of the part."""
        return Headers.from_wire(self._part.lines())

    @property
    def file(self) -> BinaryIO:
        """The contents: a read-only binary file, to be read while the handler runs.

        It has no `fileno`: it may be a window on the body of the request. Read later
        than that it may raise ValueError.
        """
        if self._file is None:
            self._file = self._open()
        return self._file

    def save(
        self,
        destination: Union[str, os.PathLike[str], BinaryIO],
        overwrite: bool = False,
    ) -> Optional[str]:
        """Copy the whole file, in chunks, and return the path it has now.

        Args:
            destination: a directory (the name is `filename` then), the path of a file,
                or a binary file that is open for writing (None is returned then).
            overwrite: whether a file that exists already is replaced.

        Raises:
            FileExistsError: the file exists, and `overwrite` is False.
            OSError: it can't be written; what was written of it is removed.
        """
        if hasattr(destination, "write"):
            self._copy(cast(BinaryIO, destination))
            return None
        path = os.fspath(cast(str, destination))
        if os.path.isdir(path):
            path = os.path.join(path, self.filename)
        # SECURITY: "x" fails on whatever is there, a dangling link too, without a race.
        with open(path, "wb" if overwrite else "xb") as target:
            try:
                self._copy(target)
            except BaseException:
                target.close()
                os.unlink(path)
                raise
        return path

    def _open(self) -> BinaryIO:
        start = self._part.offset
        if isinstance(self._body, bytes):
            return io.BytesIO(self._body[start : start + self.size])
        window = _Window(self._body, start, self.size)
        return cast(BinaryIO, io.BufferedReader(window, 64 * 1024))

    def _copy(self, target: BinaryIO) -> None:
        with self._open() as source:
            for chunk in iter(lambda: source.read(BODY_PIECE_BYTES), b""):
                target.write(chunk)

    def __repr__(self) -> str:
        return f"<FileUpload {self.name!r} {self.filename!r} {self.size} bytes>"


# Forms --------------------------------------------------------------------------------

Form = Tuple[MultiDict[str], MultiDict[FileUpload]]


def _pieces(body: Union[bytes, BodyFile]) -> Iterator[bytes]:
    if isinstance(body, BodyFile):
        return body.pieces()
    stream = io.BytesIO(body)
    return iter(lambda: stream.read(BODY_PIECE_BYTES), b"")


def _parse_multipart(parser: MultipartParser, body: Union[bytes, BodyFile]) -> Form:
    fields: List[Tuple[str, str]] = []
    files: List[Tuple[str, FileUpload]] = []
    chunks: List[bytes] = []
    for piece in _pieces(body):
        for event in parser.feed(piece):
            if isinstance(event, Part):
                part, chunks = event, []
            elif event is not None:
                if part.is_text:
                    chunks.append(event)
            elif part.is_text:
                data = b"".join(chunks)
                if part.encoding:
                    data = decode_transfer(part.encoding, data)
                if part.filename is None:
                    text = data.decode(codec_of(part.content_type), "replace")
                    fields.append((part.name, text))
                elif part.filename or data:
                    part.offset, part.size = 0, len(data)
                    files.append((part.name, FileUpload(part, data)))
            elif part.filename or part.size:
                files.append((part.name, FileUpload(part, body)))
    parser.close()
    return MultiDict(fields), MultiDict(files)


def parse_form(
    content_type: str,
    body: Union[bytes, BodyFile, BinaryIO],
    limits: FormLimits = FORM_LIMITS,
) -> Form:
    """Return the text fields and the files of a form; none if the body is no form.

    Text is UTF-8, unless a part has a charset of its own (RFC 7578 5.1.2; `_charset_`
    is ignored), and bytes that are not become U+FFFD. A file input in which nothing was
    chosen (no filename, no data) is left out.

    Args:
        content_type: the value of the Content-Type header.
        body: the whole body, or a binary file that holds it, open for as long as the
            uploads are used.
        limits: see `FormLimits`.

    Raises:
        HTTPError: 400 for a malformed form, 413 for one over a limit, 415 for a charset
            that is not known.
    """
    if not isinstance(body, (bytes, BodyFile)):
        body = BodyFile(body)
    word = content_type.partition(";")[0].strip(" \t").lower()
    if word == "application/x-www-form-urlencoded":
        most = limits.max_form_bytes + 1
        data = body[:most] if isinstance(body, bytes) else body.read_at(0, most)
        limits.check("max_form_bytes", len(data))
        return MultiDict(parse_urlencoded(data, limits.max_fields)), MultiDict()
    if word == "multipart/form-data":
        boundary = parse_parameters(content_type)[1].get("boundary", "")
        return _parse_multipart(MultipartParser(boundary, limits), body)
    return MultiDict(), MultiDict()


# ======================================================================================
# 7. Request and Response
# ======================================================================================
# One form of a request travels everywhere, in and out of processes: the raw bytes of
# its head, its body (bytes, or the path of a spooled file) and a small record that
# can't be read from them. All else (headers, query, cookies, form) is parsed from that
# on first use, where the handler runs: what no handler asks for costs nothing, and
# little travels.
#
# A response is finished in the same place. Its header block is rendered once, to bytes,
# by whichever process ran the handler; the server adds only what belongs to the
# connection: Date, Connection, and the framing of the body.

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
JSON = "application/json"
_ETAG = expression(r'(?:W/)?"[!#-~\x80-\xff]*"')  # RFC 9110 section 8.8.3


def quote_etag(value: str, weak: bool = False) -> str:
    """Return an entity tag as a header has it: "v7" -> '"v7"', or 'W/"v7"' if weak.

    Raises:
        ValueError: it holds a quote, a blank or a control character.
    """
    tag = f'W/"{value}"' if weak else f'"{value}"'
    if not _ETAG.fullmatch(tag):
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


class Disconnect:
    """Tells whether the client has gone, and calls back once when it goes."""

    __slots__ = ("_callbacks", "gone")

    def __init__(self) -> None:
        self.gone = False
        self._callbacks: List[Callable[[], object]] = []

    def add(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when the client goes; at once if it has gone."""
        if self.gone:
            callback()
        else:
            self._callbacks.append(callback)

    def remove(self, callback: Callable[[], object]) -> None:
        """Take a callback back; one that is not there does not matter."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def set(self) -> None:
        """Note that the client has gone, and call back."""
        self.gone = True
        callbacks, self._callbacks = self._callbacks, []
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

    async def read(self) -> bytes:
        """Return the next bytes of the body, or b"" at its end.

        Raises:
            ClientDisconnected: the connection ended before the body did.
            ProtocolError: what came is no body (400) or came too slowly (408).
        """
        raise NotImplementedError

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


class Request:
    """What a client asked for; handlers get it as `env`.

    Attributes:
        head: the parsed head; `raw_head` are its bytes as received.
        client: the address of the client after proxy rules: (host, port).
        scheme: "http" or "https", after proxy rules.
        host: the host the client addressed, with the port if it sent one.
        app: the application that answers, or None outside of one.
        prefix: the path under which the application is mounted, "" at the root.
        root_path: what a proxy has taken off in front of that, percent-encoded.
        route: the matched route, or None where nothing matched.
        params: the path's arguments by name, converted by their filters.
        context: a dict for triggers and handlers; travels to the pool as JSON. The
            request takes no attributes but its own.
        debug: whether error pages show tracebacks.
    """

    __slots__ = (
        "_after",
        "_body",
        "_cookies",
        "_form",
        "_headers",
        "_query",
        "app",
        "body_file",
        "client",
        "context",
        "debug",
        "disconnect",
        "fatal",
        "head",
        "host",
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
        self.prefix = ""
        self.root_path = ""
        self.route: Any = None
        self.params: Dict[str, Any] = {}
        self.context: Dict[str, Any] = {}
        self.debug = debug
        self.queue_seconds = 0.0
        self.run_seconds: Optional[float] = None  # None: it has not come to a handler
        self.fatal = False  # the handler tried to end its process
        # Filled in when first asked for.
        self.body_file: Optional[BodyFile] = None  # of a large one
        self._body: Optional[bytes] = b"" if source is None else None
        self._headers: Optional[Headers] = None
        self._query: Optional[MultiDict[str]] = None
        self._cookies: Optional[Dict[str, str]] = None
        self._form: Optional[Tuple[MultiDict[str], MultiDict[FileUpload]]] = None
        self._after: List[Callable[[], object]] = []

    # The head.

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
        """What follows "?" in the target, still encoded; "" if there is none."""
        return self.head.query_string

    @property
    def protocol(self) -> str:
        """The version the client spoke: "HTTP/1.1"."""
        return f"HTTP/{self.head.version}"

    @property
    def url(self) -> str:
        """The whole address that was asked for, with what a proxy has taken off."""
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
        return self.headers.get(name, default)

    @property
    def query(self) -> MultiDict[str]:
        """The fields of the query string.

        Raises:
            HTTPError: 413, for more fields than a form may have.
        """
        if self._query is None:
            raw = self.query_string.encode("latin-1")
            pairs = parse_urlencoded(raw, self._form_limits.max_fields)
            self._query = MultiDict(pairs)
        return self._query

    @property
    def cookies(self) -> Dict[str, str]:
        """The cookies by name."""
        if self._cookies is None:
            header = "; ".join(self.headers.getall("cookie"))
            self._cookies = parse_cookies(header)
        return self._cookies

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
            secret: what signed the cookie (str or bytes), or several; False for one
                that is not signed. Left out, the application's secrets, if it has any.
            max_age: how old the signature may be, in seconds.

        A signed cookie that is forged, too old or moved here from another name counts
        as not there.

        Raises:
            PixieError: the secret is empty or too short, whatever the client sent.
        """
        value = self.cookies.get(name)
        if secret is UNSET:
            secret = cast(MaybeSecrets, getattr(self.app, "secrets", UNSET))
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

    async def stream(self) -> AsyncIterator[bytes]:
        """Iterate over the body in pieces; for `asnc` handlers.

        With `stream_body=True` on the route they are what the client sends, as it comes
        and no faster than they are read; else the body has come, and is cut up.

        Raises:
            HTTPError: 413 over the limit, 408 when it comes too slowly, 400 when it is
                cut short or no proper body. All end the connection.
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
            import tempfile

            has_proc = os.path.isdir("/proc/self/fd")
            make = tempfile.TemporaryFile if has_proc else tempfile.NamedTemporaryFile
            file = cast(BinaryIO, make(buffering=0))
            path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
            self.body_file = BodyFile(file, path if has_proc else file.name)
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
            HTTPError: 400, when it is not in that; 415, when it is none of utf-8,
                us-ascii, iso-8859-1 and windows-1252.
        """
        codec = codec_of(self.headers.get("content-type") or "")
        try:
            return self.body.decode(codec)
        except UnicodeDecodeError as error:
            text = f"The body is not {codec.upper()}: {error.reason}."
            raise HTTPError(400, text) from None

    @property
    def json(self) -> Any:
        """What the JSON body says.

        Raises:
            HTTPError: 415 when the Content-Type is not JSON, 400 with the reason when
                the body is not.
        """
        content_type = self.headers.get("content-type") or ""
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type != JSON and not media_type.endswith("+json"):
            text = "Send JSON, with Content-Type: application/json."
            raise HTTPError(415, text, {"Accept": JSON})
        return load_json(self.body)

    @property
    def form(self) -> MultiDict[str]:
        """The text fields of the form in the body; empty for any other body.

        Raises:
            HTTPError: 400 when it is malformed, 413 over a limit, 415 for a charset.
        """
        return self._parse_form()[0]

    @property
    def files(self) -> MultiDict[FileUpload]:
        """The uploaded files of the form in the body, by field name; else as `form`."""
        return self._parse_form()[1]

    @property
    def _form_limits(self) -> FormLimits:
        return cast(FormLimits, getattr(self.app, "form_limits", FORM_LIMITS))

    def _parse_form(self) -> Tuple[MultiDict[str], MultiDict[FileUpload]]:
        if self._form is None:
            content_type = self.headers.get("content-type") or ""
            body = self.body_file if self._body is None else None
            self._form = parse_form(content_type, body or self.body, self._form_limits)
        return self._form

    # The exchange.

    @property
    def disconnected(self) -> bool:
        """Whether the client has gone: a long handler may look, and stop."""
        return self.disconnect is not None and self.disconnect.gone

    def after_response(self, function: Callable[[], object]) -> None:
        """Have `function` called, where the handler runs, after the answer."""
        self._after.append(function)

    def close(self) -> None:
        """Run what `after_response` collected, and let the body's file go; once."""
        after, self._after = self._after, []
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
    route = request.route
    where = f" in {route.path} ({route.placement.name})" if route is not None else ""
    where += ", in the middle of its answer" if midway else ""
    log.error(
        "%s %s failed%s", request.method, request.head.target, where, exc_info=error
    )


def no_descriptor(request: Request, error: OSError) -> HTTPError:
    """Return the 503 of an answer whose file can't be opened at the moment."""
    log.error("no descriptor for %r: %s", request, error.strerror)
    return HTTPError(503, headers={"Retry-After": "1"})


Body = Union[
    str, bytes, bytearray, memoryview, Dict[Any, Any], List[Any], FileSlice, StaticFile
]
AnyBody = Union[Body, Iterator[Any], AsyncIterator[Any], None]


@lru_cache(maxsize=256)
def _content_type_line(content_type: str) -> bytes:
    check_header("Content-Type", content_type)
    return f"Content-Type: {content_type}\r\n".encode("latin-1")


def _header_lines(headers: Headers) -> bytes:
    lines = []
    for name, value in headers.items():
        lower = name.lower()
        if lower in _HOP_BY_HOP:
            raise ValueError(
                f"{name} belongs to the server; take it out of the response"
            )
        if lower not in _OWNED_BY_SERVER:
            lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")


# What a browser ignores in a cookie, or drops it for, it never tells: so it is refused
# where it is set.

_COOKIE_TIMES = -11_644_473_600, 253_402_300_799  # RFC 6265 5.1.1: 1601 to 9999
_COOKIE_PATH_SAFE = bytes(range(128)).replace(b" ", b"")  # check_header sees the rest
_DOMAIN = expression(r"(?a)\.?[\w-]+(?:\.[\w-]+)*")


def _secure_or_not(
    name: str, secure: Optional[bool], samesite: Optional[str], partitioned: bool
) -> Optional[bool]:
    """Return whether a cookie is Secure; None: if its request came over https."""
    if samesite is not None and samesite.lower() not in ("lax", "strict", "none"):
        raise ValueError(f"samesite is Lax, Strict or None, got {samesite!r}")
    prefixed = name.lower().startswith(("__secure-", "__host-"))
    if not (prefixed or partitioned or (samesite or "").lower() == "none"):
        return secure
    if secure is False:
        raise ValueError(
            f"the cookie {name} must be secure, for its prefix, SameSite=None or "
            "Partitioned; leave secure out"
        )
    return True


def _cookie_date(moment: Union[float, date, str, None]) -> Optional[str]:
    if moment is None:
        return None
    seconds: Any = parse_date(moment) if isinstance(moment, str) else moment
    if not isinstance(moment, (int, float, str)):
        import calendar

        seconds = calendar.timegm(getattr(moment, "utctimetuple", moment.timetuple)())
    first, last = _COOKIE_TIMES
    if seconds is None or not first <= seconds <= last:
        raise ValueError(
            "expires is seconds since 1970, a datetime, a date, or text as HTTP writes "
            f"a date; from 1601 to 9999, or browsers drop it; got {moment!r}"
        )
    return format_date(seconds)


def _cookie_path(path: Optional[str]) -> Optional[str]:
    if path is None:
        return None
    if not path.startswith("/"):
        raise ValueError(f'the path of a cookie begins with "/", got {path!r}')
    return percent_encode(path, _COOKIE_PATH_SAFE)  # as browsers ask for it


def _cookie_domain(domain: Optional[str]) -> Optional[str]:
    if domain is None:
        return None
    text = domain
    if not domain.isascii():
        try:
            text = domain.lstrip(".").encode("idna").decode("ascii")
        except UnicodeError:
            text = ""
        # This codec is of 2003: it takes "ß" for "ss", which is another host today.
        if text.encode().decode("idna") != domain.lstrip(".").lower():
            text = ""
    if not _DOMAIN.fullmatch(text):
        raise ValueError(
            "the domain of a cookie is the name of a host, without scheme and port, "
            f"beyond ASCII perhaps to be written as xn--..., got {domain!r}"
        )
    return text


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
        ValueError: the status is none, or a header holds what a header can't.
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
        self._status = check_status(status)
        self._content_type = content_type
        self._headers = Headers(headers) if headers else None
        self._cookies: List[Tuple[str, Any, Dict[str, Any], bool]] = []
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
        response._cookies = []
        response._block = block
        response.stream_bytes = None
        return response

    @property
    def status(self) -> int:
        """The status; setting what is none raises ValueError."""
        return self._status

    @status.setter
    def status(self, status: int) -> None:
        self._status = check_status(status)

    @property
    def headers(self) -> Headers:
        """The headers; what is set here wins over `content_type`."""
        if self._headers is None:
            self._headers = Headers()
            if self._block is not None:
                lines = self._block.decode("latin-1").split("\r\n")[:-1]
                pairs = (line.partition(": ")[::2] for line in lines)
                self._headers = Headers.from_wire(pairs)
                self._block = None
        return self._headers

    @property
    def content_type(self) -> Optional[str]:
        """The Content-Type; a header of that name wins, until this is set anew."""
        if self._headers is None and self._block is None:
            return self._content_type
        return self.headers.get("content-type", self._content_type)

    @content_type.setter
    def content_type(self, content_type: Optional[str]) -> None:
        self._content_type = content_type
        if (
            self._block is not None or self._headers
        ) and "content-type" in self.headers:
            del self.headers["content-type"]

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
            name: a token; `__Host-` and `__Secure-` names demand what browsers demand.
            value: any text; what a cookie can't carry is percent-encoded. With a
                secret, whatever JSON can say.
            secret: sign the cookie with this (str or bytes; of several, the first): the
                client can read it but not change it. `env.cookie` takes the same. Left
                out, the application's first secret signs it, if there is one; False
                leaves it unsigned.
            max_age: seconds to live, or a timedelta; the session when neither this nor
                `expires`.
            expires: seconds since 1970, a datetime (UTC if it does not say), a date, or
                text as HTTP writes a date.
            path: begins with "/"; beyond ASCII it is percent-encoded.
            domain: this host and all below; beyond ASCII it is written in IDNA.
            secure: send over https only; None means: if the request came over https.
            samesite: "Lax", "Strict", "None", or None to leave it out.
            partitioned: inside of another site's page, one for each such site (CHIPS).

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
            "Expires": _cookie_date(expires),
            "Path": _cookie_path(path),
            "Domain": _cookie_domain(domain),
            "Secure": _secure_or_not(name, secure, samesite, partitioned),
            "HttpOnly": httponly,
            "SameSite": samesite,
            "Partitioned": partitioned,
        }
        if signs and not isinstance(value, str):
            dump_json(value)
        else:
            format_cookie(name, value, attributes)  # refuses here what can't be sent
        self._cookies.append((name, value, attributes, signs))
        return self

    def delete_cookie(
        self,
        name: str,
        *,
        path: Optional[str] = "/",
        domain: Optional[str] = None,
        partitioned: bool = False,
    ) -> Response:
        """Have the client drop a cookie, and return this response.

        `path`, `domain` and `partitioned` are those with which it was set.
        """
        options: Any = {"path": path, "domain": domain, "partitioned": partitioned}
        return self.set_cookie(name, "", secret=False, max_age=0, expires=0, **options)

    def etag(self, value: Optional[str] = None, weak: bool = False) -> Response:
        """Set the entity tag: what tells this state of the resource from any other.

        It returns this response.

        Args:
            value: any text without quotes and blanks, such as a version (str); by
                default it is made of the body, which is text, bytes or JSON then.
            weak: it stands for all that mean the same, not for the very bytes.

        Raises:
            TypeError: the body is a stream or a file, and there is no value.
            ValueError: the value can't be one.
        """
        if value is None:
            body = self.body if isinstance(self.body, bytes) else self.settle().body
            if not isinstance(body, bytes):
                raise TypeError(f"the tag of a {type(body).__name__} has to be given")
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
        if self._block is not None and not self._cookies:
            return self._block
        block = b""
        if self._content_type is not None and not self._has("content-type"):
            block = _content_type_line(self._content_type)
        if self.headers if self._block is not None else self._headers:
            block += _header_lines(self.headers)
        for name, value, attributes, signs in self._cookies:
            if signs and secrets is not UNSET:
                value = sign(name, value, secrets, time.time())
            if attributes["Secure"] is None:
                attributes = {**attributes, "Secure": secure}
            line = format_cookie(name, value, attributes)
            block += f"Set-Cookie: {line}\r\n".encode("latin-1")
        return block

    def _has(self, name: str) -> bool:
        return self._headers is not None and name in self._headers

    @property
    def is_sealed(self) -> bool:
        """Whether its header block is rendered: nothing is left to be done but send."""
        return self._block is not None and not self._cookies

    def seal(self, secure: bool = False, secrets: MaybeSecrets = UNSET) -> Response:
        """Return the response with its header block rendered; see `header_block`."""
        if self.is_sealed:
            return self
        block = self.header_block(secure, secrets)
        sealed = Response.from_block(self.status, block, self.body)
        sealed.stream_bytes = self.stream_bytes
        return sealed

    def settle(self) -> Response:
        """Turn str, dict, list and None bodies to bytes, with their content type.

        Raises:
            TypeError: the body is nothing that can be sent, or JSON can't say it.
            ValueError: JSON or UTF-8 can't say it.
        """
        body = self.body
        if isinstance(body, str):
            self.body = body.encode("utf-8")
            default: Optional[str] = HTML
        elif isinstance(body, (bytes, bytearray, memoryview)):
            self.body = bytes(body)
            default = OCTETS
        elif isinstance(body, (dict, list)):
            self.body = dump_json(body)
            default = JSON
        elif body is None:
            self.body, default = b"", None
        elif isinstance(body, (StaticFile, FileSlice)) or is_stream(body):
            default = None
        else:
            raise TypeError(f"{_RETURNS}, not {type(body).__name__}")
        if default is not None and self.content_type is None:
            self.content_type = default if self.status not in (204, 304) else None
        return self

    def __repr__(self) -> str:
        return f"<Response {self.status} {type(self.body).__name__}>"


# What a handler may return ------------------------------------------------------------


def _from_tuple(value: Tuple[Any, ...]) -> Response:
    has_status = len(value) in (2, 3) and isinstance(value[1], int)
    if not has_status or value[1] is True or value[1] is False:
        shape = ", ".join(type(part).__name__ for part in value)
        raise TypeError(f"a tuple is (body, status[, headers]), not ({shape})")
    response = value[0] if isinstance(value[0], Response) else Response(value[0])
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
        response, chunk = first.settle(), first.body
        if not isinstance(chunk, bytes):
            raise TypeError("a first yielded Response has a body of str or bytes")
        response.body = body
        return response, chunk
    if response.content_type is None and first is not None:
        response.content_type = HTML if isinstance(first, str) else OCTETS
    return response, b"" if first is None else to_chunk(first)


def abort(
    status: int = 500, text: Union[str, Dict[Any, Any], List[Any]] = ""
) -> NoReturn:
    """Leave the handler with an error answer.

    Args:
        status: the status code (int).
        text: what to tell the client, on a page; the reason phrase when empty. A dict
            or a list is sent as JSON.

    Raises:
        HTTPError: always; the error handler for the status makes the page.
    """
    raise HTTPError(status, text)


def redirect(url: str, status: int = 303) -> NoReturn:
    """Leave the handler and send the client elsewhere.

    Args:
        url: where to; a path, or a whole address. Text outside ASCII is
            percent-encoded.
        status: 303 (default: fetch with GET), 301, 302, 307 or 308.

    Raises:
        HTTPError: always, with that status and a Location.
        ValueError: the url holds a control character, or the status is another.
    """
    if status not in (301, 302, 303, 307, 308):
        raise ValueError(
            f"a redirect's status is 301 to 303, 307 or 308, got {status!r}"
        )
    if _UNSAFE_IN_HEADER.search(url.encode("ascii", "ignore").decode()):
        raise ValueError(f"a redirect's url holds a control character: {url!r}")
    # SECURITY: browsers read "//host" and "/\\host" as another host (CWE-601); a path
    # that a client chose must stay on this one.
    if url[:1] == "/" and url[1:2] in ("/", "\\"):
        url = "/" + url.lstrip("/\\")
    location = percent_encode(url, b"!#$%&'()*+,/:;=?@[]")
    raise HTTPError(status, headers={"Location": location})


def error_page(error: HTTPError, traceback_text: str = "") -> Response:
    """Return the page for an error: its status and text, and a traceback if given.

    Of an error that has JSON to say, it is that.
    """
    if error.status in (204, 304):
        return Response("", error.status, headers=error.headers).settle()
    if error.json is not None:
        return Response(error.json, error.status, headers=error.headers).settle()
    reason = REASONS.get(error.status, "Error")
    title = f"{error.status} {reason}"
    text = f"<p>{escape(error.text)}</p>\n" if error.text != reason else ""
    trace = f"<pre>{escape(traceback_text)}</pre>\n" if traceback_text else ""
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<h1>{escape(title)}</h1>\n"
        f"{text}{trace}</html>\n"
    )
    return Response(page, error.status, HTML, error.headers).settle()


# ======================================================================================
# 8. Files
# ======================================================================================
# A handler says which file it wants sent (`static_file`). What is sent depends on the
# request, and is decided as the last step in the main process (`resolve_file`): no
# request has to be passed around, and from a worker only the path travels.
#
#     static_file     name -> path inside the root, or 404      where the handler runs
#     resolve_file    path -> 200, 206, 304, 412 or 416         in main
#       _choose         file, file.br, file.zst or file.gz; from memory or from disk
#       _meet_request   conditions and ranges, RFC 9110 sections 13 and 14
#
# A state of a file is its device, inode, mtime, ctime and size. It is the key of all we
# remember, so one os.stat proves that current; and proves it confined as well, for
# these are the bytes of the very file that was found inside the root. With cache=True
# a file and its compressed siblings are read once, whole, and kept for good.

MAX_RANGES = 10  # in one request; Apache takes 200, after CVE-2011-3192
MAX_CACHED_FILE_BYTES = 131_072  # larger files are sent from disk, by sendfile
MAX_CACHED_FILES = 512  # that many of that size are 64 MiB
MAX_KNOWN_FILES = 4096  # whose names and states are remembered
UNSETTLED_NANOSECONDS = 50_000_000  # a file system's clock ticks every 10 ms at worst
FILE_CHUNK_BYTES = 65_536
CODINGS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}  # what is preferred comes first

# Conditions and ranges: pure functions ------------------------------------------------

_RANGE = expression(r"([0-9]{0,20})-([0-9]{0,20})")
_QUALITY = expression(r"q=([01](?:\.[0-9]{0,3})?)")


def parse_etags(header: str) -> List[str]:
    """Return the entity tags of If-Match or If-None-Match, or ["*"].

    'W/"a", "b,c"' -> ['W/"a"', '"b,c"']; what is no tag is passed over.
    """
    return ["*"] if header.strip() == "*" else _ETAG.findall(header)


def _opaque(tag: str) -> str:
    """Return a tag without its weakness, to compare (RFC 9110 section 8.8.3.2)."""
    return tag[2:] if tag.startswith("W/") else tag


def evaluate_preconditions(
    method: str, headers: Headers, etag: Optional[str], modified: Optional[int]
) -> Optional[int]:
    """Return 304 or 412 if the request's conditions say so, else None.

    In the order of RFC 9110 section 13.2.2; only for what would be a 2xx answer.

    Args:
        etag: the quoted entity tag of what would be sent, `W/"..."` if weak; or None.
        modified: when that changed last, in whole seconds since 1970; or None.
    """
    reading = method in ("GET", "HEAD")
    if_match = headers.get("if-match")
    if if_match is not None:
        tags = parse_etags(if_match)
        if tags != ["*"] and (not etag or etag[:2] == "W/" or etag not in tags):
            return 412
    elif modified is not None:
        limit = parse_date(headers.get("if-unmodified-since") or "")
        if limit is not None and modified > limit:
            return 412
    if_none_match = headers.get("if-none-match")
    if if_none_match is not None:
        tags = [_opaque(tag) for tag in parse_etags(if_none_match)]
        if tags == ["*"] or (etag and _opaque(etag) in tags):
            return 304 if reading else 412
    elif reading and modified is not None:
        since = parse_date(headers.get("if-modified-since") or "")
        if since is not None and modified <= since:
            return 304
    return None


def is_range_current(if_range: str, etag: str, modified: Optional[int]) -> bool:
    """Return whether If-Range lets a Range stand (RFC 9110 section 13.1.5).

    A tag must be the same, and strong. So must a date: a file that changed within the
    last second may change again and keep it.
    """
    if '"' in if_range:
        return if_range == etag
    return modified is not None and parse_date(if_range) == modified < time.time() - 1


def parse_ranges(header: str, size: int) -> Optional[List[Tuple[int, int]]]:
    """Return what a Range header asks for as (start, stop) pairs, in its order.

    "bytes=-2,0-1" of 10 -> [(8, 10), (0, 2)]

    Returns:
        An empty list if no range can be satisfied (416). None if the header is to be
        ignored, as RFC 9110 section 14.2 allows: malformed, of another unit, of more
        than MAX_RANGES, or for a file without content.
    """
    unit, _, ranges = header.partition("=")
    # SECURITY: counted before anything is built (CVE-2011-3192).
    if unit.strip().lower() != "bytes" or ranges.count(",") >= MAX_RANGES or not size:
        return None
    found = []
    for text in ranges.split(","):
        match = _RANGE.fullmatch(text.strip(" \t"))
        if match is None or match.group() == "-":
            return None
        first, last = match.groups()
        if first and last and int(last) < int(first):
            return None
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start < stop:
            found.append((start, stop))
    return found


@lru_cache(maxsize=256)
def accepted_codings(header: str, available: Tuple[str, ...]) -> Tuple[str, ...]:
    """Return what Accept-Encoding takes of `available` and "identity", best first.

    Of equal quality, the order is that of `available`, then "identity", which is good
    enough unless the header says no (RFC 9110 section 12.5.3).

    "gzip;q=0.5, br" with ("br", "gzip") -> ("br", "gzip", "identity")
    """
    qualities: Dict[str, float] = {}
    for member in header.lower().split(","):
        name, semicolon, parameter = member.partition(";")
        quality = _QUALITY.fullmatch(parameter.strip(" \t"))
        if quality or not semicolon:
            name = name.strip(" \t").replace("x-gzip", "gzip")  # section 8.4.1.3
            qualities[name] = float(quality.group(1)) if quality else 1.0
    others = qualities.get("*", 0.0)
    weights = {name: qualities.get(name, others) for name in available}
    weights["identity"] = qualities.get("identity", qualities.get("*", 0.0001))
    accepted = [name for name in weights if weights[name] > 0]
    return tuple(sorted(accepted, key=weights.__getitem__, reverse=True))


# Names, and what they say -------------------------------------------------------------

_TYPES = {  # what mimetypes does not know, or not the same on every Python
    "application/gzip": "gz tgz",
    "application/json": "map",
    "application/octet-stream": "br",
    "application/zstd": "zst",
    "font/woff": "woff",
    "font/woff2": "woff2",
    "image/avif": "avif",
    "image/webp": "webp",
    "text/javascript": "js mjs",  # RFC 9239
    "text/markdown": "md",
}
_TYPE_OF = {end: name for name, ends in _TYPES.items() for end in ends.split()}
# SECURITY: empty, "." and ".." segments, NUL and "\" never reach the file system; on
# Windows neither do drives, streams, devices, and names that it would change.
_UNSAFE_NAME = r"[\0\\]|(?:^|/)\.{0,2}(?:/|$)"
_UNSAFE_ON_WINDOWS = (
    _UNSAFE_NAME + r'|[\x00-\x1f<>:"|?*]|[. ](?:/|$)'
    rf"|(?i:(?:^|/){WINDOWS_DEVICE} *(?:[./]|$))"
)

# SECURITY: .git, .env and .htpasswd are put beside what is served, and not for it. What
# lies in .well-known is for everybody (RFC 8615), as certbot's challenges are.
_DOT_FILE = expression(r"^\.(?!well-known(?:/|$))|/\.")


def is_safe_name(filename: str, windows: bool = os.name == "nt") -> bool:
    """Return whether a name of segments joined by "/" stays below where it is put."""
    return not re.search(_UNSAFE_ON_WINDOWS if windows else _UNSAFE_NAME, filename)


def _with_charset(content_type: str) -> str:
    bare = content_type.startswith("text/") and "charset" not in content_type
    return f"{content_type}; charset=utf-8" if bare else content_type


def content_type_of(filename: str) -> str:
    """Return the content type that a file's name says; text comes with its charset."""
    _, dot, extension = filename.lower().rpartition("/")[2].rpartition(".")
    content_type = _TYPE_OF.get(extension) if dot else OCTETS
    if content_type is None:
        import mimetypes

        # A database of its own: the shared one depends on the machine's files.
        database = mimetypes.MimeTypes(filenames=())
        guess, coding = database.guess_type(f"x.{extension}")
        content_type = guess if guess and not coding else OCTETS
    return _with_charset(content_type)


def content_disposition(filename: str) -> str:
    """Return an `attachment` that is saved as `filename` (RFC 6266, RFC 8187).

    "a/naïve.txt" -> `attachment; filename="na_ve.txt"; filename*=UTF-8''na%C3%AFve.txt`
    """
    name = re.split(r"[/\\]", filename)[-1] or "download"
    # RFC 6266 appendix D: no quotes, backslashes or escapes; clients differ on them.
    fallback = re.sub(r'[^ -~]|["%]', "_", name)
    if fallback == name:
        return f'attachment; filename="{name}"'
    encoded = percent_encode(name.encode("utf-8", "replace").decode("utf-8"))
    return f"attachment; filename=\"{fallback}\"; filename*=UTF-8''{encoded}"


@lru_cache(maxsize=512)
def _describe(
    filename: str,
    mimetype: Optional[str],
    download: Union[bool, str, None],
    max_age: Optional[int],
    dotfiles: bool,
) -> Tuple[str, Tuple[Tuple[str, str], ...]]:
    """Return the content type and further headers of a file that has a safe name."""
    if not is_safe_name(filename) or not (dotfiles or not _DOT_FILE.search(filename)):
        raise HTTPError(404)
    headers = []
    if download:
        name = filename if download is True else download
        headers.append(("Content-Disposition", content_disposition(name)))
    if max_age is not None:
        if max_age < 0:
            raise ValueError(f"max_age is a number of seconds from 0, got {max_age!r}")
        headers.append(("Cache-Control", f"max-age={max_age:d}"))
    named = download if isinstance(download, str) else filename
    content_type = _with_charset(mimetype) if mimetype else content_type_of(named)
    check_header("Content-Type", content_type)
    return content_type, tuple(headers)


# Finding a file -----------------------------------------------------------------------

FileState = Tuple[int, int, int, int, int]  # device, inode, mtime, ctime (ns), size
_OUT_OF_ORDER = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


def _file_error(error: Exception) -> Exception:
    """Return the 404 for an error of the file system, but keep the server's own."""
    failed = isinstance(error, OSError) and error.errno in _OUT_OF_ORDER
    return error if failed else HTTPError(404)


def _file_state(found: os.stat_result) -> FileState:
    """Return what tells one state of a file from any other, of that file or another.

    Raises:
        FileNotFoundError: a directory, device, pipe or link.
    """
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
    mtime_ns, ctime_ns = found.st_mtime_ns, found.st_ctime_ns
    return found.st_dev, found.st_ino, mtime_ns, ctime_ns, found.st_size


def _look(path: str) -> FileState:
    # SECURITY: lstat: the directory is real, but a link could lead out of it.
    return _file_state(os.lstat(path))


def _open_real(path: str, flags: int) -> int:
    """Open what realpath gave: no link is its last step, and no pipe blocks."""
    extra = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    return os.open(path, flags | extra)


@lru_cache(maxsize=MAX_KNOWN_FILES)
def _look_inside(root: str, filename: str, state: FileState, second: int) -> str:
    """Return the real path of a file inside `root` that can be read.

    `state` and `second` are but keys: what changes, or is old, is looked at again.
    """
    real_root = os.path.realpath(root)
    real = os.path.realpath(os.path.join(root, filename))
    # SECURITY: commonpath compares segments: /static is no prefix of /static-secret.
    if os.path.commonpath((real_root, real)) != real_root:
        raise FileNotFoundError(errno.ENOENT, "outside of the root")
    with open(real, "rb", buffering=0, opener=_open_real):
        return real


class _FoundFile(StaticFile):
    """A StaticFile of this process, with the state it had a moment ago."""

    state: Optional[FileState] = None

    def take_state(self) -> Optional[FileState]:
        """Return the state, once: for a response used again it is looked at again."""
        state, self.state = self.state, None
        return state


def _find(root: str, filename: str) -> Tuple[str, FileState]:
    state = _file_state(os.stat(f"{root}{os.sep}{filename}"))
    return _look_inside(root, filename, state, int(time.monotonic())), state


# Of what is asked for with cache=True as much is kept as there are files.
# SECURITY: but not each name of a file. A link to a directory above it makes as many as
# a client likes: a/link/a/link/a ... The first one is kept; the others are bounded.
_first_names: Dict[Tuple[str, str], str] = {}  # by root and name, the real path
_named_files: Set[Tuple[str, int, int]] = set()  # root, device, inode


@lru_cache(maxsize=MAX_KNOWN_FILES)
def _find_again(root: str, filename: str) -> str:
    path, state = _find(root, filename)
    if (root, *state[:2]) not in _named_files:
        _named_files.add((root, *state[:2]))
        _first_names[root, filename] = path
    return path


def _find_once(root: str, filename: str) -> str:
    """Return the real path, without a look at the disk when the name is known."""
    return _first_names.get((root, filename)) or _find_again(root, filename)


def static_file(
    filename: str,
    root: Union[str, os.PathLike[str]],
    *,
    mimetype: Optional[str] = None,
    download: Union[bool, str, None] = None,
    max_age: Optional[int] = None,
    cache: Optional[bool] = None,
    delete_after: bool = False,
    dotfiles: bool = False,
) -> Response:
    """Return a Response that sends a file.

    Conditions, ranges and precompressed siblings (`.br`, `.zst`, `.gz`) are seen to
    when it is sent, in every placement alike.

    Args:
        filename: path below `root`, segments joined by "/"; may come from a client.
        root: the directory that is never left, not through links either.
        mimetype: the content type; by default what the name says that it gets.
        download: True, or the name to save as: the browser stores instead of shows.
        max_age: seconds (int) a client may use its copy without asking again.
        cache: None: kept in memory up to 128 KiB and checked by one os.stat; True: kept
            whatever its size, and never looked at again; False: read each time.
        delete_after: send the file whole, then remove it.
        dotfiles: send it even if its name, or a directory in `filename`, begins with a
            dot. `.well-known/` may always be sent.

    Raises:
        HTTPError: 404 for all that can't be sent: missing, unreadable, no regular file,
            outside of the root, a dot file. The client can't tell which.
        ValueError: max_age is negative, or mimetype holds what a header can't.
    """
    content_type, headers = _describe(filename, mimetype, download, max_age, dotfiles)
    directory, state = os.fspath(root) or ".", None
    try:
        if cache:
            path = _find_once(directory, filename)
        else:
            path, state = _find(directory, filename)
    except (OSError, ValueError) as error:
        raise _file_error(error) from None
    found = _FoundFile(path, cache, delete_after)
    found.state = state
    response = Response(found, content_type=content_type)
    if headers:
        response._headers = Headers.from_wire(headers)
    return response


def cached_file(
    filename: str, root: Union[str, os.PathLike[str]], **options: Any
) -> Response:
    """Return a Response that sends a file from memory: `static_file` with `cache=True`.

    After the first time no disk is touched and no change is seen: for what belongs to
    the program, and fits into its memory.

    Args:
        options: mimetype, download, max_age and dotfiles, as for `static_file`.
    """
    return static_file(filename, root, cache=True, **options)


def directory_file(
    root: Union[str, os.PathLike[str]],
    filename: str,
    *,
    index: Optional[str] = None,
    max_age: Optional[int] = None,
    cache: Optional[bool] = None,
    dotfiles: bool = False,
    query: str = "",
) -> Response:
    """Return the Response for a path below a directory that is served as it is.

    Args:
        index: the file that stands for a directory ("index.html"); by default a
            directory is a 404 like every name that is not there.
        dotfiles: serve `.git/config`, `.env` and their like too.
        query: `env.query_string`, to be kept where a directory without its last slash
            is redirected.

    Raises:
        HTTPError: 404, as `static_file`.
    """
    if index and (not filename or filename.endswith("/")):
        filename += index
    try:
        options: Any = {"max_age": max_age, "cache": cache, "dotfiles": dotfiles}
        return static_file(filename, root, **options)
    except HTTPError:
        if not index:
            raise
    # A 404 unless the index is there.
    static_file(f"{filename}/{index}", root, dotfiles=dotfiles)
    # Relative, so that it holds wherever the directory is served.
    last = percent_encode(filename.rpartition("/")[2])
    location = f"./{last}/?{query}" if query else f"./{last}/"
    return Response("", 302, headers={"Location": location})


# Representations, and the memory that keeps them --------------------------------------


class Representation(NamedTuple):
    """One file in one state, ready to be sent."""

    size: int
    etag: str
    modified: Optional[int]  # whole seconds since 1970; None if that is yet to come
    block: bytes  # its header lines
    body: Union[bytes, FileSlice]


def _represent(
    path: str, state: FileState, coding: str, content: Optional[bytes] = None
) -> Representation:
    _, _, mtime_ns, _, size = state
    modified = mtime_ns // 10**9
    etag = f'"{mtime_ns:x}-{size:x}{coding and "-" + coding}"'
    lines = f"ETag: {etag}\r\nAccept-Ranges: bytes\r\n"
    # RFC 9110 section 8.8.2.1: never a date later than now.
    is_past = 0 <= modified <= time.time()
    lines += f"Last-Modified: {format_date(modified)}\r\n" if is_past else ""
    lines += f"Content-Encoding: {coding}\r\n" if coding else ""
    body = FileSlice(path, 0, size) if content is None else content
    date = modified if is_past else None
    return Representation(size, etag, date, lines.encode("latin-1"), body)


def _read(path: str, state: FileState, coding: str) -> Representation:
    """Return a representation with its content.

    Raises:
        OSError: the file is not in that state any more.
    """
    with open(path, "rb", opener=_open_real) as file:
        content = file.read(state[-1] + 1)
        if _file_state(os.fstat(file.fileno())) != state:
            raise OSError(errno.EAGAIN, "the file changed while it was read", path)
    return _represent(path, state, coding, content)


@lru_cache(maxsize=MAX_CACHED_FILES)
def _keep(path: str, state: FileState, coding: str) -> Representation:
    """The same, for a file that is asked about each time.

    Raises:
        OSError: also for one that changed just now, and may change again and keep its
            times and size: to git, that is "racily clean".
    """
    if time.time_ns() - state[3] < UNSETTLED_NANOSECONDS:
        raise OSError(errno.EAGAIN, "the file has just changed", path)
    return _read(path, state, coding)


_on_disk = lru_cache(maxsize=MAX_KNOWN_FILES)(_represent)


def _recall(
    path: str, state: FileState, coding: str, cache: Optional[bool]
) -> Representation:
    """Return a representation from memory if it may and can be, else from disk."""
    if cache is not False and state[-1] <= MAX_CACHED_FILE_BYTES:
        try:
            return _keep(path, state, coding)
        except OSError:
            pass
    return _on_disk(path, _look(path), coding)


@lru_cache(maxsize=MAX_KNOWN_FILES)
def _siblings(path: str, state: FileState, second: int) -> Tuple[str, ...]:
    """Return the codings in which a file lies beside itself, none older than it is.

    `second` is but a key: a new sibling is seen within that time.
    """
    found = []
    for coding, suffix in CODINGS.items():
        try:
            if _look(path + suffix)[2] >= state[2]:
                found.append(coding)
        except OSError:
            continue
    return tuple(found)


def _preferred(accept_encoding: Optional[str], available: Tuple[str, ...]) -> str:
    if not available or accept_encoding is None:
        return ""
    best = accepted_codings(accept_encoding, available)[:1]
    return best[0] if best and best[0] in CODINGS else ""


_required_files: Dict[Tuple[int, int], str] = {}  # by device and inode, the path


@lru_cache(maxsize=None)
def _require(path: str) -> Dict[str, Representation]:
    """Return a file, as "", and its siblings by their codings; for cache=True.

    Raises:
        OSError: it can't be read, changes while it is, or is kept by another name.
    """
    state = _look(path)
    # SECURITY: where upper and lower case are one, a name has as many as two to the
    # power of its letters.
    if _required_files.setdefault(state[:2], path) != path:
        raise OSError(errno.EEXIST, "kept by another name", path)
    found = {"": _read(path, state, "")}
    for coding in _siblings(path, state, 0):
        sibling = path + CODINGS[coding]
        found[coding] = _read(sibling, _look(sibling), coding)
    return found


def _choose(
    file: StaticFile, accept_encoding: Optional[str]
) -> Tuple[Representation, bool]:
    """Return what to send for a path, and whether that varies (RFC 9110 12.5.3).

    A client that takes none of what there is gets the file as it is: RFC 9110 section
    12.4.1 allows to disregard the header, and an answer is of more use than a 406.

    Raises:
        OSError: there is no such file any more.
    """
    path, cache, _ = file
    if cache:
        try:
            kept = _require(path)
            return kept[_preferred(accept_encoding, tuple(kept)[1:])], len(kept) > 1
        except OSError:
            pass  # somebody writes to it, or it has a second name: as it is now
    state = file.take_state() if isinstance(file, _FoundFile) else None
    state = state or _look(path)
    available = _siblings(path, state, int(time.monotonic()))
    coding = _preferred(accept_encoding, available)
    if coding:
        sibling = path + CODINGS[coding]
        try:
            return _recall(sibling, _look(sibling), coding, cache), True
        except OSError:
            pass  # it went away within the second
    return _recall(path, state, "", cache), bool(available)


# The answer ---------------------------------------------------------------------------

NO_HEADERS = Headers()
_DECIDING_LINE = expression(rb"\n(?:accept-encoding|if-|range)", re.IGNORECASE)
_CODED = expression(rb"^content-encoding:", re.IGNORECASE | re.MULTILINE)
_REPLACED = expression(
    rb"^(?:accept-ranges|content-range|etag|last-modified):[^\r\n]*\r\n",
    re.IGNORECASE | re.MULTILINE,
)
_OF_CONTENT = frozenset(  # not in a 304 (RFC 9110 section 15.4.5), nor without content
    ("accept-ranges", "content-disposition", "content-encoding", "content-language")
    + ("content-length", "content-range", "content-type", "last-modified")
)


def deciding_headers(request: Request) -> Headers:
    """Return the request's headers, or none if no line of them concerns a file.

    PERF: parsing them costs as much as all else that sends a cached file.
    """
    return request.headers if _DECIDING_LINE.search(request.raw_head) else NO_HEADERS


def _without_content(response: Response, status: int) -> Response:
    """Return a response like it, but without its body and what describes that."""
    lines = response.headers.items()
    kept = [(name, value) for name, value in lines if name.lower() not in _OF_CONTENT]
    bare = Response(b"", status)
    bare._headers, bare._cookies = Headers.from_wire(kept), response._cookies[:]
    return bare


async def _read_parts(
    path: str, parts: List[Tuple[bytes, int, int]]
) -> AsyncIterator[bytes]:
    with open(path, "rb", buffering=0, opener=_open_real) as file:
        for head, start, stop in parts:
            yield head
            file.seek(start)
            while start < stop:
                chunk = file.read(min(FILE_CHUNK_BYTES, stop - start))
                if not chunk:
                    raise OSError(errno.EIO, "the file became shorter while sent", path)
                start += len(chunk)
                yield chunk


async def _slices(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), FILE_CHUNK_BYTES):
        yield content[at : at + FILE_CHUNK_BYTES]


def _send_parts(
    whole: Response, chosen: Representation, ranges: List[Tuple[int, int]]
) -> Response:
    """Return a multipart/byteranges answer, or the whole if that is no longer."""
    boundary = os.urandom(12).hex()
    content_type = whole.headers.get("content-type", OCTETS)
    parts = []
    for start, stop in ranges:
        head = (
            f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\n"
            f"Content-Range: bytes {start}-{stop - 1}/{chosen.size}\r\n\r\n"
        )
        parts.append((head.encode("latin-1"), start, stop))
    parts.append((f"\r\n--{boundary}--\r\n".encode(), 0, 0))
    # SECURITY: many small parts may be longer than the file (RFC 9110 section 17.15).
    length = sum(len(head) + stop - start for head, start, stop in parts)
    if length >= chosen.size:
        return whole
    whole.status = 206
    whole.headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    body = chosen.body
    if isinstance(body, bytes):
        whole.body = b"".join(head + body[start:stop] for head, start, stop in parts)
    else:
        whole.body, whole.stream_bytes = _read_parts(body.path, parts), length
    return whole


def _meet_request(
    method: str, headers: Headers, whole: Response, chosen: Representation
) -> Response:
    """Return the whole answer, a part of it, or a 304, 412 or 416."""
    size, etag, modified, _, body = chosen
    status = evaluate_preconditions(method, headers, etag, modified)
    if status is not None:
        return _without_content(whole, status)
    if_range = headers.get("if-range")
    if if_range is not None and not is_range_current(if_range, etag, modified):
        return whole
    ranges = parse_ranges(headers.get("range") or "", size)
    if ranges is None or method != "GET":  # RFC 9110 section 14.2: no other method
        return whole
    if not ranges:
        refused = _without_content(whole, 416)
        refused.headers["Content-Range"] = f"bytes */{size}"
        return refused
    if len(ranges) > 1:
        return _send_parts(whole, chosen, ranges)
    start, stop = ranges[0]
    whole.status = 206
    whole.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    if isinstance(body, bytes):
        whole.body = body[start:stop]
    else:
        whole.body = FileSlice(body.path, start, stop - start)
    return whole


def _answer(
    method: str, headers: Headers, response: Response, file: StaticFile
) -> Response:
    # Cookies are rendered by the server, which knows whether they go over https.
    cookies, response._cookies = response._cookies, []
    block, status = response.header_block(), response.status
    response._cookies = cookies
    if file.delete_after:
        size = _file_state(os.lstat(file.path))[-1]
        whole = FileSlice(file.path, 0, size, delete_after=True)
        return Response.from_block(status, block, whole)
    if status != 200 or method not in ("GET", "HEAD"):
        return Response.from_block(status, block, _choose(file, None)[0].body)
    accept_encoding = headers.get("accept-encoding")
    if block.count(b"\n") > 1 or not block.startswith(b"Content-Type: "):
        # PERF: not where there is but a content type: a fifth of a file's time.
        block = _REPLACED.sub(b"", block)
        accept_encoding = None if _CODED.search(block) else accept_encoding
    chosen, varies = _choose(file, accept_encoding)
    block += chosen.block + (b"Vary: Accept-Encoding\r\n" if varies else b"")
    finished = Response.from_block(200, block, chosen.body)
    return _meet_request(method, headers, finished, chosen) if headers else finished


def resolve_file(method: str, headers: Headers, response: Response) -> Response:
    """Return the finished answer for a response whose body is a StaticFile.

    It is a new Response, its body bytes, a FileSlice, or an async iterator (several
    ranges of a file on disk). Any other response is returned as it came.

    Args:
        headers: the request's headers, see `deciding_headers`.
        response: what `static_file` returned, perhaps changed by its handler.
            Conditions and ranges count only for GET and HEAD, and for status 200.

    Raises:
        HTTPError: 404, the file has gone since the handler found it.
    """
    file = response.body
    if not isinstance(file, StaticFile):
        return response
    try:
        finished = _answer(method, headers, response, file)
    except OSError as error:
        raise _file_error(error) from None
    finished._cookies = response._cookies[:]
    body = finished.body
    if isinstance(body, bytes) and len(body) > MAX_CACHED_FILE_BYTES:
        # Only as fast as the client reads: no copy of it waits for each slow one.
        finished.body, finished.stream_bytes = _slices(body), len(body)
    return finished


def conditional_response(method: str, headers: Headers, response: Response) -> Response:
    """Return the response, or in its place the 304 or 412 that its ETag calls for.

    For answers that are made, not read from a file: those with a 2xx status and a
    header ETag or Last-Modified.
    """
    etag = response.headers.get("etag")
    modified = parse_date(response.headers.get("last-modified") or "")
    if not 200 <= response.status < 300 or (etag is None and modified is None):
        return response
    status = evaluate_preconditions(method, headers, etag, modified)
    return response if status is None else _without_content(response, status)


def check_preconditions(
    env: Request,
    etag: Optional[str] = None,
    *,
    weak: bool = False,
    modified: Optional[float] = None,
) -> None:
    """Leave the handler if the request is not meant for the state that there is.

    To be called before anything is made or changed: a GET is spared the work when the
    client has that state (304); a PUT, PATCH or DELETE with If-Match changes nothing
    that its client has not seen (412).

    Args:
        etag: the state, as `Response.etag` takes it.
        weak: as `Response.etag` takes it.
        modified: when it changed last, in seconds since 1970. Without this and without
            a tag, there is no such resource yet.

    Raises:
        HTTPError: 304 or 412 (RFC 9110 section 13.2.2).
    """
    tag = None if etag is None else quote_etag(etag, weak)
    seconds = None if modified is None else int(modified)
    status = evaluate_preconditions(env.method, env.headers, tag, seconds)
    if tag is None and seconds is None:  # what is not there meets but one condition
        status = 412 if "if-match" in env.headers else None
    if status is not None:
        raise HTTPError(status, headers={"ETag": tag} if tag else None)


# ======================================================================================
# 9. Templates
# ======================================================================================
# The language is that of bottle's SimpleTemplate. A template takes three steps:
#
#     text --_Translator--> Python source, and where each line of it stands in the text
#          --_localise----> a syntax tree with the text's own lines and columns: one
#                           function whose local variables are the template's names
#          --compile------> that function; it appends strings to a list
#
# Between two lines of code all text is one f-string, and its values are checked for the
# five characters of HTML together, joined with NULs: one check for a row of a table.
# What needs the dictionary of exec() (`global`, `eval`, `include` in a `def` ...) is
# run by exec(): slower, the same output.
#
# SECURITY: a template is a program, and there is no sandbox. Values are never parsed,
# and a name only ever finds a regular file inside one of the template directories.

MAX_CACHED_TEMPLATES = 1024  # Jinja2 keeps 400, bottle and Mako all of them
TEMPLATE_SYNTAX = "<% %> % {{ }}"  # as bottle writes it: block, line, expression
TEMPLATE_EXTENSIONS = (".tpl", ".html")

_Directory = Union[str, "os.PathLike[str]"]
_Directories = Tuple[_Directory, ...]
_TemplateCode = Callable[
    ["_Execution", Dict[str, object], Callable[[str], None]], Dict[str, object]
]
_COMPILE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
_BUILTINS: Dict[str, object] = vars(builtins)
_HELPERS = frozenset(("include", "rebase", "get", "defined"))
_DYNAMIC = _HELPERS | set("setdefault globals locals vars dir eval exec *".split())
# No alternative below can match in two ways, so a failing match takes linear time.
_PYTHON_STRING = (
    r'"""(?:[^\\"]|\\[\s\S]|"(?!""))*"""|'
    r"'''(?:[^\\']|\\[\s\S]|'(?!''))*'''|"
    r'"(?!"")(?:[^\\"\n]|\\[\s\S])*"|'
    r"'(?!'')(?:[^\\'\n]|\\[\s\S])*'"
)
# Python ends a line there, and a template does not: a blank in code, kept in text.
_LONE_RETURN = expression(r"\r(?!\n)")


class Renderable(Protocol):
    """What `Template.load` returns: a Template, or the template of another engine."""

    def render(self, **variables: Any) -> str:
        """Return the text."""


class _Safe(str):
    """HTML that an object's own `__html__` made."""


def _text(value: object) -> str:
    """Return what `{{!value}}` shows."""
    if value is None:
        return ""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _html(value: object) -> str:
    """Return what `{{value}}` shows: text to be escaped, or `_Safe` HTML."""
    return _Safe(escape(value)) if hasattr(value, "__html__") else _text(value)


def _escape_values(joined: str, *values: str) -> Sequence[str]:
    """Return the values escaped; `joined` are the same values with NULs between."""
    if not any(type(value) is _Safe for value in values):
        parts = escape(joined).split("\0")
        if len(parts) == len(values):  # SECURITY: else a value holds a NUL of its own.
            return parts
    return [value if type(value) is _Safe else escape(value) for value in values]


_RUNTIME = {
    "__name__": "template",
    "_px_type": type,
    "_px_str": str,
    "_px_numbers": frozenset((int, float, bool)),
    "_px_text": _text,
    "_px_html": _html,
    "_px_escape": _escape_values,
}


# From the text to Python source -------------------------------------------------------


@lru_cache(maxsize=16)
def _template_patterns(syntax: str) -> Tuple[re.Pattern[str], ...]:
    """Return patterns for the start of code, for Python's tokens, and for {{...}}."""
    block, close, line, opening, closing = (re.escape(mark) for mark in syntax.split())
    starts = rf"(?m)^[ \t]*(\\?)({line}|({block}))"
    tokens = rf"""(?mx)
        (?P<string>{_PYTHON_STRING})
        |(?P<comment>\#.*)
        |(?P<open>[\[{{(]) |(?P<close>[\]}})])
        |(?P<block>(?<![ \t])[ \t]*(?:if|for|while|with|try|def|class)\b)
        |(?P<middle>(?<![ \t])[ \t]*(?:elif|else|except|finally)\b)
        |(?P<end>(?:;[ \t]*|(?<![ \t])[ \t]*)end[ \t]*(?=(?:{close}[ \t]*)?\r?$|;|\#))
        |(?P<stop>{close}[ \t]*(?=\r?$))
        |(?P<newline>\r?\n)"""
    inline = (
        rf"{opening}((?:{_PYTHON_STRING}|(?!{opening}|{closing})[^'\"\n])*){closing}"
    )
    return re.compile(starts), re.compile(tokens), re.compile(inline)


def _template_error(
    filename: str, source: str, first_line: int, error: BaseException
) -> TemplateError:
    """Return a TemplateError for code whose first line is `first_line` of `source`."""
    why = str(error) or "nested too deeply"
    if isinstance(error, SyntaxError):
        why, first_line = error.msg, first_line + (error.lineno or 1) - 1
    shown = source.split("\n")[first_line - 1 : first_line] or [""]
    return TemplateError(
        f"{filename}:{first_line}: {why}\n    {shown[0].strip()[:100]}"
    )


class _Translator:
    """Translate one template; afterwards `code[i]` comes from line `origin[i][0]`.

    `origin[i][1]` is what to add to a column of that line, in bytes, as Python counts.
    """

    def __init__(self, source: str, filename: str, syntax: str) -> None:
        self.source = source
        self.filename = filename
        self.starts, self.tokens, self.inline = _template_patterns(syntax)
        self.block_close = syntax.split()[1]
        self.code: List[str] = []
        self.origin: List[Tuple[int, int]] = []
        self.line, self.position = 1, 0  # how far emit() has counted lines
        # Open blocks (where each begins), and the number of open brackets.
        self.blocks: List[int] = []
        self.brackets = 0
        # Text and expressions since the last code: (is an expression, text, position).
        self.pieces: List[Tuple[bool, str, int]] = []

    def translate(self) -> None:
        offset, source = 0, self.source
        while True:
            found = self.starts.search(source, offset)
            self.read_text(offset, found.start() if found else len(source))
            if found is None:
                break
            if found.group(1):  # A backslash: the line is text.
                offset = source.find("\n", found.end()) + 1 or len(source)
                self.read_text(found.start(), found.start(1))
                self.read_text(found.start(2), offset)
            else:
                self.write_text()
                offset = self.read_code(found.end(), found.group(3) is not None)
        self.write_text()
        if self.blocks:
            raise self.error(self.blocks[-1], "this block has no 'end'")

    def error(self, position: int, why: Union[str, BaseException]) -> TemplateError:
        line = self.source.count("\n", 0, position) + 1
        error = why if isinstance(why, BaseException) else ValueError(why)
        return _template_error(self.filename, self.source, line, error)

    def emit(self, before: str, python: str = "", position: int = 0) -> None:
        """Add code, of which `python` stands in the template at `position`."""
        source, position = self.source, max(position, self.position)
        self.line += source.count("\n", self.position, position)
        self.position = position
        left = source[source.rfind("\n", 0, position) + 1 : position]
        shift = len(left.encode("utf-8", "surrogatepass")) - len(before)
        python = _LONE_RETURN.sub(" ", python)
        for number, text in enumerate(re.split(r"\r?\n", before + python)):
            self.code.append(text)
            self.origin.append((self.line + number, 0 if number else shift))

    def read_code(self, offset: int, in_block: bool) -> int:
        """Translate a line of code, or a <% block %>; return where the text goes on."""
        opened = start = offset
        level, statement = len(self.blocks), ""
        while True:
            found = self.tokens.search(self.source, offset)
            kind, text = (found.lastgroup, found.group()) if found else ("newline", "")
            stop = found.start() if found else len(self.source)
            statement += self.source[offset:stop]
            offset = stop + len(text)
            first = stop == start and not self.brackets
            if kind == "newline":
                code = statement.lstrip()
                if code:
                    start += len(statement) - len(code)
                    self.emit(" " * level, code.rstrip(), start)
                if not (in_block and text):
                    break
                start, level, statement = offset, len(self.blocks), ""
            elif kind == "comment" or (kind == "stop" and in_block):
                in_block = in_block and not text.rstrip().endswith(self.block_close)
            elif kind == "end" and (first or (text[0] == ";" and not self.brackets)):
                if not self.blocks:
                    raise self.error(stop, "'end' without a block to end")
                self.blocks.pop()
            else:
                statement += text
                step = {"open": 1, "close": -1}.get(kind or "", 0)
                self.brackets = max(self.brackets + step, 0)
                level -= first and kind == "middle"
                if first and kind == "block":
                    self.blocks.append(start)
        if in_block:
            raise self.error(opened, f"this block has no {self.block_close!r}")
        return offset

    def read_text(self, start: int, stop: int) -> None:
        """Cut text into plain text and {{expressions}}."""
        for found in self.inline.finditer(self.source, start, stop):
            if start < found.start():
                self.pieces.append((False, self.source[start : found.start()], start))
            code = _LONE_RETURN.sub(" ", found.group(1))
            self.pieces.append((True, code, found.start(1)))
            start = found.end()
        if start < stop:
            self.pieces.append((False, self.source[start:stop], start))

    def write_text(self) -> None:
        """Write one append() of all text and values since the last code."""
        if not self.pieces:
            return
        is_expression, text, position = self.pieces[-1]
        if self.brackets:
            raise self.error(position, "text inside a bracket that code has opened")
        if not is_expression:  # Two backslashes swallow the newline in front of code.
            text = re.sub(r"\\\\\r?\n\Z", "", text)
            self.pieces[-1] = False, text, position
        indent, chunks, escaped = " " * len(self.blocks), [], []
        for number, (is_expression, text, position) in enumerate(self.pieces):
            chunks.append(f"f'{{_px_{number}}}'" if is_expression else repr(text))
            if is_expression and self.write_value(indent, number, text, position):
                escaped.append(f"_px_{number}")
        if escaped:
            joined = escaped[0]
            if len(escaped) > 1:
                joined = "_px_joined"
                values = "\\0".join(f"{{{name}}}" for name in escaped)
                self.emit(f"{indent}{joined} = f'{values}'")
            # PERF: five `in` take about half the time of one search for a pattern.
            test = " or ".join(f"{special!r} in {joined}" for special in "&<>\"'")
            names = ", ".join(escaped)
            self.emit(f"{indent}if {test}: {names}, = _px_escape({joined}, {names})")
        self.emit(f"{indent}_px_append({' '.join(chunks)})")
        self.pieces = []

    def write_value(self, indent: str, number: int, text: str, position: int) -> bool:
        """Write the string of an expression; return whether it is to be escaped."""
        expression = text.strip()
        raw = expression.startswith("!")
        expression = expression[raw:].strip()
        position += text.index(expression)
        try:
            ast.parse(expression, mode="eval")
        except _COMPILE_ERRORS as error:
            raise self.error(position, error) from None
        name, convert = f"_px_{number}", "_px_text" if raw else "_px_html"
        self.emit(f"{indent}{name} = ", expression, position)
        # PERF: numbers inline: a row of five is 1.2 times faster.
        self.emit(
            f"{indent}if _px_type({name}) is not _px_str: {name} = _px_str({name}) "
            f"if _px_type({name}) in _px_numbers else {convert}({name})"
        )
        return not raw


# From Python source to a function -----------------------------------------------------


def _walk(tree: ast.AST, *leaves: type) -> Iterator[Any]:
    """Yield the nodes that have a place in the source, without what is in `leaves`."""
    # PERF: ast.walk takes three times as long; it goes into operators and contexts too.
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if hasattr(node, "lineno"):
            yield node
        if not isinstance(node, leaves):
            for value in vars(node).values():
                if isinstance(value, list):
                    nodes += [item for item in value if isinstance(item, ast.AST)]
                elif isinstance(value, ast.AST) and value._fields:
                    nodes.append(value)


def _relocate(nodes: Iterable[Any], origin: Sequence[Tuple[int, int]]) -> None:
    """Give the nodes of generated code the lines and columns of the template."""
    for node in nodes:
        line, shift = origin[node.lineno - 1]
        end_line, end_shift = origin[node.end_lineno - 1]
        start, end = node.col_offset + shift, node.end_col_offset + end_shift
        node.lineno, node.end_lineno = line, max(line, end_line)
        node.col_offset = max(start, 0)
        node.end_col_offset = max(end, node.col_offset if end_line == line else 0)


def _helper_calls(tree: ast.Module, nodes: List[Any]) -> Optional[List[ast.Call]]:
    """Return the calls of include(), get() ..., or None if it takes exec()."""
    mentions = 0
    for node in nodes:
        if isinstance(node, ast.Name):
            mentions += node.id in _DYNAMIC
        elif isinstance(node, (ast.Global, ast.AsyncFunctionDef)):
            return None
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler)):
            mentions += node.name in _DYNAMIC
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound = {alias.asname or alias.name for alias in node.names}
            mentions += not _DYNAMIC.isdisjoint(bound)
    calls: List[ast.Call] = []
    scopes = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.GeneratorExp)
    for node in _walk(tree, *scopes, ast.ListComp, ast.SetComp, ast.DictComp):
        if isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom, ast.Await)):
            return None  # exec() has the right error message.
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in _HELPERS:
            calls.append(node)
    return calls if mentions == len(calls) else None


def _localise(tree: ast.Module, nodes: List[Any]) -> bool:
    """Put the statements into a function template(), or return False.

    Each name is a local variable, set at the top from the variables that are given. One
    that is not given stays unbound, and so is a NameError on the line that uses it; one
    that is built into Python has that as its default.
    """
    calls = _helper_calls(tree, nodes)
    if calls is None:
        return False
    found = {node.id for node in nodes if isinstance(node, ast.Name)}
    names = {n for n in found - _HELPERS if n[:3] != "_px" and n != "__debug__"}
    for call in calls:  # get(...) becomes _px.get(locals(), ...)
        helper = cast(ast.Name, call.func).id
        call.func = ast.Attribute(ast.Name("_px", ast.Load()), helper, ast.Load())
        call.args.insert(0, ast.Call(ast.Name("locals", ast.Load()), [], []))
        ast.fix_missing_locations(call)
    defaults = "".join(f", {name}={name}" for name in names & _BUILTINS.keys())
    lines = [f"def template(_px, _px_given, _px_append{defaults}):"]
    lines += [f" if {n!r} in _px_given: {n} = _px_given[{n!r}]" for n in names]
    frame = ast.parse("\n".join(lines) + "\n return locals()")
    _relocate(_walk(frame), [(1, 0)] * (len(lines) + 1))
    cast(ast.FunctionDef, frame.body[0]).body[-1:-1] = tree.body
    tree.body = frame.body
    return True


class _TemplateSource:
    """Shows `linecache`, and so tracebacks, a template that is not in a file."""

    def __init__(self, source: str) -> None:
        self.source = source

    def get_source(self, name: str) -> str:
        return self.source


def _execute_module(
    code: types.CodeType,
    namespace: Dict[str, object],
    execution: _Execution,
    given: Dict[str, object],
    append: Callable[[str], None],
) -> Dict[str, object]:
    """Run a template that can't be a function; its names are keys of a dictionary."""
    names = {**given, **namespace, "_px_append": append}
    names["include"] = partial(execution.include, names)
    names["rebase"] = partial(execution.rebase, names)
    names["get"], names["setdefault"] = names.get, names.setdefault
    names["defined"] = names.__contains__
    exec(code, names)
    return names


@lru_cache(maxsize=MAX_CACHED_TEMPLATES)
def _compile_template(source: str, filename: str, syntax: str) -> _TemplateCode:
    """Return what renders a template: it appends the text, and returns the names."""
    linecache.cache.pop(filename, None)  # another text may have had this name
    translator = _Translator(source, filename, syntax)
    translator.translate()
    origin = translator.origin + [(translator.line, 0)]
    try:
        tree = ast.parse("\n".join(translator.code))
    except _COMPILE_ERRORS as error:
        if isinstance(error, SyntaxError):
            error.lineno = origin[min(error.lineno or 1, len(origin)) - 1][0]
            # "expected an indented block after 'if' statement on line 8"
            error.msg = re.sub(
                r"(?<= on line )[0-9]{1,9}\Z",
                lambda found: str(origin[min(int(found.group()), len(origin)) - 1][0]),
                error.msg,
            )
        raise _template_error(filename, source, 1, error) from None
    nodes = list(_walk(tree))
    _relocate(nodes, origin)
    namespace: Dict[str, Any] = {**_RUNTIME, "__loader__": _TemplateSource(source)}
    try:
        is_function = _localise(tree, nodes)
        code = compile(tree, filename, "exec")
    except _COMPILE_ERRORS as error:
        raise _template_error(filename, source, 1, error) from None
    if not is_function:
        return partial(_execute_module, code, namespace)
    exec(code, namespace)
    return cast(_TemplateCode, namespace["template"])


# Finding and rendering ----------------------------------------------------------------


def _own(names: Dict[str, object]) -> Dict[str, object]:
    """Return the names without those of the machinery and of Python itself."""
    return {
        name: value
        for name, value in names.items()
        if name[:3] != "_px" and _BUILTINS.get(name, names) is not value
    }


def _unbound_name(error: NameError) -> Optional[str]:
    """Return the name that a template used, but that it was not given."""
    traceback = error.__traceback__
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    loader = traceback and traceback.tb_frame.f_globals.get("__loader__")
    found = re.search(r"(?:local|free) variable '(\w+)'", str(error))
    return found.group(1) if found and isinstance(loader, _TemplateSource) else None


def _directories(path: Union[_Directory, Sequence[_Directory]]) -> _Directories:
    return (path,) if isinstance(path, (str, os.PathLike)) else tuple(path)


class _TemplateFile(NamedTuple):
    real: str
    name: str
    directory: str
    state: Tuple[int, ...]


@lru_cache(maxsize=MAX_CACHED_TEMPLATES)
def _real_template(directory: str, name: str, state: Tuple[int, ...]) -> str:
    """Return the file's real path; `state` is but a key, so that a new file is seen."""
    root = os.path.realpath(directory)
    real = os.path.realpath(os.path.join(directory, name))
    # SECURITY: links are resolved first, and whole segments are compared (CWE-22).
    if os.path.commonpath((root, real)) != root or not stat.S_ISREG(state[0]):
        raise FileNotFoundError
    return real


def _locate_template(
    cls: Type[Template], name: str, path: _Directories
) -> _TemplateFile:
    """Return the first regular file that `name` means and that `path` contains.

    SECURITY: the error is the same for what is outside and for what does not exist.
    """
    added = (*TEMPLATE_EXTENSIONS, *cls.engines)
    directories = [os.fspath(directory) for directory in path]
    for directory in directories:
        for extension in ("", *added) if "." in name else (*added, ""):
            file = name + extension
            try:
                found = os.stat(f"{directory}{os.sep}{file}")
                state = found.st_mode, found.st_ino, found.st_mtime_ns, found.st_size
                real = _real_template(directory, file, state)
                return _TemplateFile(real, file, directory, state)
            except (OSError, ValueError):
                continue
    places = ", ".join(map(os.path.abspath, directories)) or "an empty path"
    hint = "; a text is rendered by Template(text).render(...)"
    hint = "" if {"\n", "{", "%"}.isdisjoint(name) else hint
    raise TemplateError(f"template {name[:200]!r} not found in {places}{hint}")


def _open_template(
    cls: Type[Template],
    file: _TemplateFile,
    path: _Directories,
    cache: Optional[bool],
) -> Renderable:
    engine = cls.engines.get(os.path.splitext(file.name)[1])
    if engine is not None:
        return engine(file.name, file.directory)
    with open(file.real, "rb") as opened:
        template = cls(opened.read(), filename=file.real, path=path)
    template.cache = cache
    return template


# Keyed on the file's time and size, among others.
_kept_template = lru_cache(maxsize=MAX_CACHED_TEMPLATES)(_open_template)


@lru_cache(maxsize=MAX_CACHED_TEMPLATES)
def _required_template(
    cls: Type[Template], name: str, path: _Directories
) -> Renderable:
    return _open_template(cls, _locate_template(cls, name, path), path, True)


def _find_template(
    cls: Type[Template], name: str, path: _Directories, cache: Optional[bool]
) -> Renderable:
    if cache:
        return _required_template(cls, name, path)  # type: ignore[arg-type]
    file = _locate_template(cls, name, path)
    if cache is False:
        return _open_template(cls, file, path, cache)
    # mypy does not see that a class is hashable.
    return _kept_template(cls, file, path, cache)  # type: ignore[arg-type]


class _Execution:
    """One template on its way into the output, with what its helpers need."""

    __slots__ = ("given", "layout", "output", "template")

    def __init__(
        self, template: Template, given: Dict[str, object], output: List[str]
    ) -> None:
        self.template = template
        self.given = given
        self.output = output
        self.layout: Optional[Tuple[str, Dict[str, object]]] = None

    def run(self) -> Dict[str, object]:
        """Render, then the layout around it; return the names and values at the end."""
        start = len(self.output)
        names = self.template._code(self, self.given, self.output.append)
        if self.layout is None:
            return names
        layout, variables = self.layout
        variables["base"] = "".join(self.output[start:])
        del self.output[start:]
        return self.include(names, layout, **variables)

    def include(
        self, names: Dict[str, object], name: str, /, **variables: object
    ) -> Dict[str, object]:
        """Render the template `name` here; it sees all variables of this one."""
        given = {**self.given, **_own(names), **variables}
        cls, path = type(self.template), _directories(self.template.path)
        template = _find_template(cls, name, path, self.template.cache)
        if isinstance(template, cls):
            return _own(_Execution(template, given, self.output).run())
        self.output.append(template.render(**given))
        return given

    def rebase(self, names: object, name: str, /, **variables: object) -> None:
        """Have the template `name` rendered around this one, which is its `base`."""
        self.layout = name, variables

    def get(
        self, names: Dict[str, object], name: str, default: object = None, /
    ) -> object:
        """Return a variable, given or assigned, or the default."""
        return _own(names).get(name, self.given.get(name, default))

    def defined(self, names: Dict[str, object], name: str, /) -> bool:
        """Return whether there is a variable of this name."""
        return name in self.given or name in _own(names)


class Template:
    """A template in the language of bottle's SimpleTemplate, compiled.

    Args:
        source: the text, or bytes in `encoding`. A program: never a client's text.
        filename: without `source`, the template to look up in `path`; else the name
            that errors show.
        path: directories (one or several, str or path) in which this template and those
            it includes are looked up; `Template.path` when None.
        syntax: the five marks, separated by spaces; `"<% %> % {{ }}"` when None.

    Raises:
        TemplateError: not found, not decoded, or wrong; names the template's line.
    """

    #: Where templates are looked up; relative ones start at the working directory.
    path: Union[_Directory, Sequence[_Directory]] = ("views", "templates")
    #: None: kept in memory, and checked against the file's state at each use.
    #: True: kept, and the file never looked at again. False: read at each use.
    cache: Optional[bool] = None
    #: What files and bytes are decoded from; a byte order mark is dropped.
    encoding: str = "utf-8-sig"
    #: Variables that every template has.
    defaults: ClassVar[Dict[str, object]] = {}
    #: Other engines: extension to a function of (name, directory) -> Renderable.
    engines: ClassVar[Dict[str, Callable[[str, str], Renderable]]] = {}

    def __init__(
        self,
        source: Union[str, bytes, None] = None,
        *,
        filename: Optional[str] = None,
        path: Union[_Directory, Sequence[_Directory], None] = None,
        syntax: Optional[str] = None,
    ) -> None:
        self.path = _directories(self.path if path is None else path)
        if source is None:
            if filename is None:
                raise TypeError("Template() takes the source, or filename=")
            filename = _locate_template(type(self), filename, self.path).real
            with open(filename, "rb") as file:
                source = file.read()
        if isinstance(source, bytes):
            try:
                source = source.decode(self.encoding)
            except UnicodeDecodeError as error:
                name = self.encoding.upper().replace("-SIG", "")
                raise TemplateError(f"{filename}: not {name}: {error}") from None
        self.filename = filename or f"template {hash(source) & 0xFFFFFFFF:08x}"
        self._code = _compile_template(source, self.filename, syntax or TEMPLATE_SYNTAX)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        path: Union[_Directory, Sequence[_Directory], None] = None,
        cache: Optional[bool] = None,
    ) -> Renderable:
        """Return the template `name`, with or without .tpl or .html at its end.

        `path` and `cache` stand for `Template.path` and `Template.cache` when None.

        Raises:
            TemplateError: no regular file of that name there, or a wrong template.
        """
        directories = _directories(cls.path if path is None else path)
        cache = cls.cache if cache is None else cache
        return _find_template(cls, name, directories, cache)

    def render(self, /, *mappings: Mapping[str, object], **variables: object) -> str:
        """Return the text, rendered with the variables; keywords win over mappings.

        What the template's code raises passes through, with the template's file and
        line in its traceback.
        """
        given = dict(self.defaults)
        for mapping in (*mappings, variables):
            given.update(mapping)
        output: List[str] = []
        try:
            _Execution(self, given, output).run()
        except NameError as error:
            name = _unbound_name(error)
            if name is None:
                raise
            missing = NameError(f"name {name!r} is not defined")
            raise missing.with_traceback(error.__traceback__) from None
        return "".join(output)


def template(
    name: Union[str, Template], /, *mappings: Mapping[str, object], **variables: object
) -> str:
    """Return the template `name` of `Template.path`, rendered with the variables.

    SECURITY: this takes a name and never a text, unlike bottle's: a text that came from
    a client would be run as a program. `Template(text).render(...)` is for texts.

    Raises:
        TemplateError: as `Template.load`.
    """
    found = Template.load(name) if isinstance(name, str) else name
    for mapping in mappings:
        variables = {**mapping, **variables}
    return found.render(**variables)


# ======================================================================================
# 10. Routes
# ======================================================================================
# From the pattern "/user/<id:int>" to the target of a request for "/user/7", and back.
# A target is anything: nothing here knows of handlers or placements.
#
# Precedence: a path without wildcards wins, then whatever was declared first. GET
# answers HEAD, unless HEAD is declared for that path. A pattern that has the method
# wins over an earlier one that lacks it; only when none has it is the answer 405.
#
# A static path is one lookup in a dictionary. Each of the others is kept under one of
# the literals around its wildcards, the one that the fewest patterns share: "/user/" of
# "/user/<id>", "/files/" of "/<tenant>/files/<rest:path>". A path is cut where those
# literals may stand in it: at its beginning, at its end, from each slash on. So only
# patterns that share their rarest literal are tried one after the other.
#
# SECURITY: wildcards that may share a text out in many ways ("<a>-<b>-<n:int>") make an
# expression try them all: half a second for a path of 8,000 dashes. Such patterns are
# refused. What an application brings along (<name:re:...>, filters) is run as it is.

MAX_NUMBER_DIGITS = 40  # 2**128 has 39; int() of thousands is slow (CVE-2020-10735)

_WILDCARD = expression(r"<([^<>:]*)(?::([^<>:]*)(?::((?:\\.|[^\\>])*))?)?>")
_NOT_LITERAL = expression(r"[<>?]|%[0-9A-Fa-f]{2}")
_BACKREFERENCE = expression(r"(?<!\\)(?:\\\\)*\\[1-9]|\(\?\(")
_SAFE_IN_PATH = b"/:@!$*,;=+()"  # RFC 3986 section 3.3, less & and ' for HTML's sake
# "s": a wildcard without a filter, "p": of kind path, ".": anything else. The last of a
# pattern has no choice.
_AMBIGUOUS = expression(r"[sp][^/]*[sp].|p[^/]*s|p.*p.")

Target = TypeVar("Target")


class Filter:
    """What may stand in a wildcard: its expression, and how it is read and written."""

    def __init__(
        self,
        expression: str,
        to_python: Callable[[str], Any] = str,
        to_url: Callable[[Any], str] = str,
    ) -> None:
        self.expression = expression
        self.to_python = to_python
        self.to_url = to_url


Filters = Mapping[str, Filter]
# A literal, and where a path must hold it: cheaper to look for first.
Key = Tuple[int, str]
_FIRST, _LAST, _SLASH, _INNER = range(4)  # at a slash; anywhere between the wildcards


_DIGITS = f"[0-9]{{1,{MAX_NUMBER_DIGITS}}}"
_FLOAT = (
    rf"[-+]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][-+]?[0-9]{{1,3}})?"
)
_SEGMENT = Filter("[^/]+")
_PATH = Filter("(?s:.+?)")
_FILTERS = {
    "float": Filter(_FLOAT, parse_float),
    "int": Filter(f"[-+]?{_DIGITS}", int),
    "path": _PATH,
}


def _join(literals: Sequence[str], between: Sequence[str]) -> str:
    pairs = zip(between, literals[1:])
    return literals[0] + "".join(text + literal for text, literal in pairs)


def _check_expression(expression: str, where: str) -> None:
    """Raise RouteError unless the expression can become part of another."""
    try:
        compiled = re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise RouteError(
            f"bad expression {expression!r} in {where!r}: {error}"
        ) from None
    refers = compiled.groupindex or _BACKREFERENCE.search(expression)
    if refers or compiled.flags != re.UNICODE:
        raise RouteError(
            f"{expression!r} in {where!r} can't have named groups, references or "
            "global flags: write (...) and (?i:...)"
        )


def _find_filter(
    kind: Optional[str], argument: Optional[str], text: str, filters: Filters
) -> Filter:
    if kind is None:
        return _SEGMENT
    if kind == "re":
        if not argument:
            raise RouteError(f"write an expression in {text!r}, as in <name:re:[a-z]+>")
        _check_expression(argument, text)
        return Filter(argument)
    if kind not in filters:
        known = ", ".join(sorted([*filters, "re"]))
        raise RouteError(
            f"unknown filter {kind!r} in {text!r}: filters are {known}; "
            f"add one with app.filter({kind!r}, ...)"
        )
    if argument is not None:
        raise RouteError(f"the filter {kind} in {text!r} takes no {argument!r}")
    return filters[kind]


def _check_literal(literal: str, text: str) -> None:
    bad = _NOT_LITERAL.search(literal)
    if bad is None:
        return
    hint = {
        "?": "the query is not part of a path, read it from env.query",
        "%": "paths are compared decoded, so write the character itself",
    }.get(bad.group()[0], r"write <name>, <name:int> or <name:re:[a-z]+>, and \> for >")
    raise RouteError(f"{bad.group()!r} in {text!r}: {hint}")


def _split_pattern(
    text: str, filters: Filters
) -> Tuple[List[str], List[str], List[Filter]]:
    """Return what stands around the wildcards, their names, and their filters."""
    if not text.startswith("/"):
        raise RouteError(f"a path starts with a slash: write {'/' + text!r}")
    parts = _WILDCARD.split(text)
    literals, names = parts[::4], parts[1::4]
    for name in names:
        if not name.isidentifier():
            raise RouteError(f"{name!r} in {text!r} can't name a Python argument")
        if names.count(name) > 1:
            raise RouteError(f"the wildcard <{name}> stands twice in {text!r}")
    found_filters = [
        _find_filter(kind, argument, text, filters)
        for kind, argument in zip(parts[2::4], parts[3::4])
    ]
    for literal in literals:
        _check_literal(literal, text)
    return literals, names, found_filters


def _expressions(text: str, literals: List[str], filters: List[Filter]) -> List[str]:
    """Return those of the wildcards; RouteError if they take more than linear time."""
    around = [re.sub("[^/]", ".", literal) for literal in literals]
    marks = ["s" if f is _SEGMENT else "p" if f is _PATH else "." for f in filters]
    outline = _join(around, marks)
    if _AMBIGUOUS.search(outline):
        raise RouteError(
            f"too many ways to read {text!r}: a wildcard without a filter, or of kind "
            "path, may follow such a one only at the end; write <name:int> or "
            "<name:re:[a-z]+>"
        )
    expressions = [f.expression for f in filters]
    if re.search("s[^/]*s$", outline):
        # SECURITY: or the two share out a long segment in vain, for a slash behind it.
        first = [i for i, mark in enumerate(marks) if mark == "s"][-2]
        expressions[first] = r"(?=[^/]*\Z)" + expressions[first]
    return expressions


class Pattern:
    """A compiled path such as "/user/<id:int>/<rest:path>".

    Args:
        text: the path, decoded, with wildcards in angle brackets.
        filters: name to filter, save `re`.

    Raises:
        RouteError: the path is not well-formed; says what to write.
    """

    def __init__(self, text: str, filters: Filters) -> None:
        self.text = text
        self._literals, names, self._filters = _split_pattern(text, filters)
        self.names = tuple(names)
        self.is_static = not names
        self._readers = [(n, f.to_python) for n, f in zip(names, self._filters)]
        # What two patterns have in common that differ in the names of wildcards only.
        self.shape = _join(self._literals, [f"<{f.expression}>" for f in self._filters])
        expressions = _expressions(text, self._literals, self._filters)
        named = [f"(?P<{n}>{e})" for n, e in zip(names, expressions)]
        # PERF: compiled when it is first tried; 10,000 routes start in half the time.
        source = _join([re.escape(literal) for literal in self._literals], named)
        self._expression = expression(source)

    @property
    def keys(self) -> List[Key]:
        """What each path that matches must hold, and where: one is enough to look."""
        first, *inner, last = self._literals
        keys: List[Key] = [(_FIRST, first), (_LAST, last)]
        keys += [(_SLASH if text[:1] == "/" else _INNER, text) for text in inner]
        return [key for key in keys if key[1]]

    def match(self, path: str) -> Optional[Tuple[str, ...]]:
        """Return the texts that stand for the wildcards, or None."""
        found = self._expression.fullmatch(path)
        return tuple(found.groupdict().values()) if found else None

    def convert(self, raw: Tuple[str, ...]) -> Dict[str, Any]:
        """Return the arguments of a handler, from the texts that `match` returned.

        Raises:
            ValueError: a filter refuses its text.
        """
        parts = zip(self._readers, raw)
        return {name: to_python(text) for (name, to_python), text in parts}

    def build(self, /, **args: Any) -> str:
        """Return the path, percent-encoded, that this pattern matches with `args`.

        "/user/<name>" with name="a b" -> "/user/a%20b"

        Raises:
            RouteError: an argument is missing, or there is no such wildcard.
            ValueError: a value does not fit its filter, or could not be read back.
        """
        if set(args) != set(self.names):
            wanted, got = ", ".join(self.names), ", ".join(args)
            raise RouteError(f"{self.text!r} takes {wanted or 'nothing'}, got {got}")
        texts = []
        for name, filter_ in zip(self.names, self._filters):
            texts.append(filter_.to_url(args[name]))
            if not re.fullmatch(filter_.expression, texts[-1]):
                raise ValueError(
                    f"{texts[-1]!r} does not fit <{name}> of {self.text!r}"
                )
        path = _join(self._literals, texts)
        if self.match(path) != tuple(texts):
            raise ValueError(f"{path!r} would be read differently by {self.text!r}")
        if not {".", ".."}.isdisjoint(path.split("/")):
            raise ValueError(f"clients resolve the dots of {path!r} before they ask")
        url = percent_encode(path, _SAFE_IN_PATH)
        # SECURITY: a URL that starts with two slashes names another host.
        return f"/%2F{url[2:]}" if url.startswith("//") else url


class Match(Generic[Target]):
    """The target of a request, and the arguments that its path holds.

    `args` may be shared between requests and is not to be changed.
    """

    __slots__ = ("args", "target")

    def __init__(self, target: Target, args: Mapping[str, Any]) -> None:
        self.target = target
        self.args = args


class _Entry(NamedTuple):
    order: int
    pattern: Pattern
    target: Any


_Table = Dict[str, _Entry]  # by method


def _look_up(
    index: Dict[int, Dict[str, List[_Table]]], path: str, starts: Iterable[int]
) -> List[_Table]:
    """Return what is kept under the literals that begin at one of these places."""
    found: List[_Table] = []
    for length, tables in index.items():
        # SECURITY: each literal once, however often a client repeats it.
        pieces = {path[at : at + length] for at in starts}
        for piece in pieces & tables.keys():
            found += tables[piece]
    return found


def _enter(table: Dict[str, Target], methods: Iterable[str], entry: Target) -> None:
    """Put `entry` under each method; GET answers HEAD, unless HEAD is declared."""
    table.update(dict.fromkeys(methods, entry))
    if "GET" in methods:
        table.setdefault("HEAD", entry)


def _check_methods(methods: Iterable[str], path: str) -> List[str]:
    names = [methods] if isinstance(methods, str) else list(methods)
    for name in names or [""]:
        if not is_token(name) or name != name.upper():
            raise RouteError(f"no method {name!r} for {path!r}: write 'GET' or 'POST'")
    return names


class Router(Generic[Target]):
    """Finds the target of a method and a path. Safe in several threads once frozen."""

    def __init__(self) -> None:
        self._filters: Dict[str, Filter] = dict(_FILTERS)
        self._declared: Dict[Tuple[str, str], str] = {}  # (shape, method) to text
        self._static: Dict[str, Dict[str, Match[Target]]] = {}
        self._wild: Dict[str, _Table] = {}  # by shape
        # By the kind of the key, by the length of its literal, by the literal.
        self._index: Optional[List[Dict[int, Dict[str, List[_Table]]]]] = None
        self._frozen = False

    def add_filter(
        self,
        name: str,
        pattern: str,
        to_python: Callable[[str], Any] = str,
        to_url: Callable[[Any], str] = str,
    ) -> None:
        """Let `<x:name>` stand for what the expression `pattern` matches.

        Args:
            name: the word to write in a path.
            pattern: a regular expression, without global flags and references.
            to_python: from text to what the handler gets; a ValueError means no match.
            to_url: from such a value to text, for `Pattern.build`.
        """
        self._check_open(f"the filter {name!r}")
        if not name.isidentifier() or name == "re" or name in self._filters:
            raise RouteError(f"a filter's name is a new word, got {name!r}")
        _check_expression(pattern, f"the filter {name}")
        self._filters[name] = Filter(pattern, to_python, to_url)

    def compile(self, path: str) -> Pattern:
        """Return the pattern of a path, or raise RouteError; it is not declared yet."""
        return Pattern(path, self._filters)

    def add(self, path: str, methods: Iterable[str], target: Target) -> Pattern:
        """Declare the target of a path for some methods (case-sensitive, RFC 9110 9.1).

        Raises:
            RouteError: a wrong path or method, the same twice, or routes are frozen.
        """
        self._check_open(repr(path))
        pattern = self.compile(path)
        methods = _check_methods(methods, path)
        for method in methods:
            earlier = self._declared.get((pattern.shape, method))
            if earlier is not None:
                raise RouteError(f"{method} {path!r} is declared already: {earlier!r}")
        order = len(self._declared)
        self._declared.update({(pattern.shape, method): path for method in methods})
        if pattern.is_static:
            match: Match[Target] = Match(target, {})
            _enter(self._static.setdefault(path, {}), methods, match)
        else:
            entry = _Entry(order, pattern, target)
            _enter(self._wild.setdefault(pattern.shape, {}), methods, entry)
            self._index = None
        return pattern

    def match(self, method: str, path: str) -> Match[Target]:
        """Return the match of a request, of a method as sent and a path as decoded.

        Raises:
            HTTPError: 404; or 405 with Allow, when only other methods are declared.
        """
        methods = self._static.get(path)
        if methods is not None:
            match = methods.get(method)
            if match is not None:
                return match
        tables = self._candidates(path)
        match = self._match_wildcards(tables, method, path)
        if match is not None:
            return match
        allowed = self._allowed(tables, path)
        if not allowed:
            raise HTTPError(404)
        raise HTTPError(405, headers={"Allow": ", ".join(allowed)})

    def allowed(self, path: str) -> List[str]:
        """Return the methods of a path, sorted, OPTIONS too; [] if it has no route."""
        return self._allowed(self._candidates(path), path)

    def freeze(self) -> None:
        """Refuse routes from now on: other threads and processes rely on these."""
        self._frozen = True
        self._index = self._make_index()

    def _check_open(self, what: str) -> None:
        if self._frozen:
            raise RouteError(
                f"routes are frozen when the server starts: declare {what} before run()"
            )

    def _allowed(self, tables: List[_Table], path: str) -> List[str]:
        methods = set(self._static.get(path, ()))
        for method in {method for table in tables for method in table}:
            if self._match_wildcards(tables, method, path) is not None:
                methods.add(method)
        return sorted(methods | {"OPTIONS"}) if methods else []

    def _match_wildcards(
        self, tables: List[_Table], method: str, path: str
    ) -> Optional[Match[Target]]:
        entries = [table[method] for table in tables if method in table]
        if len(entries) > 1:
            entries.sort(key=lambda entry: entry.order)
        for _, pattern, target in entries:
            raw = pattern.match(path)
            if raw is not None:
                try:
                    return Match(target, pattern.convert(raw))
                except ValueError:
                    continue
        return None

    def _make_index(self) -> List[Dict[int, Dict[str, List[_Table]]]]:
        """Return all tables, each under the literal that the fewest of them share."""
        keys = [next(iter(one.values())).pattern.keys for one in self._wild.values()]
        shared = Counter(key for own in keys for key in own)
        index: List[Dict[int, Dict[str, List[_Table]]]] = [{}, {}, {}, {}]
        for own, table in zip(keys, self._wild.values()):
            _, (kind, text) = min((shared[key], key) for key in own)
            index[kind].setdefault(len(text), {}).setdefault(text, []).append(table)
        return index

    def _candidates(self, path: str) -> List[_Table]:
        """Return the tables of the patterns whose rarest literal stands in the path."""
        if self._index is None:
            self._index = self._make_index()
        first, last, slash, inner = self._index
        found: List[_Table] = []
        for length, tables in first.items():
            found += tables.get(path[:length], ())
        for length, tables in last.items():
            found += tables.get(path[-length:], ())
        if slash:
            starts = [at for at, letter in enumerate(path) if letter == "/"]
            found += _look_up(slash, path, starts)
        if inner:
            found += _look_up(inner, path, range(len(path)))
        return found


# ======================================================================================
# 11. Placement
# ======================================================================================
# Where a handler runs. Every placement is one function (route, request) -> Response,
# and in each the same `answer` runs triggers, handler and error handlers: so a handler
# gives the same bytes wherever it stands. `sync` calls it on the event loop, `thread`
# in a thread, `asnc` in a Task, and `pool` and `stream` in a worker process:
#
#     main                                          zygote               worker 1..n
#     +------------------------+   START, SIGNAL   +----------+  fork   +-----------+
#     | loop, sockets, TLS     |------------------>| one      |-------->| one job   |
#     | Pool: idle workers,    |<------------------| thread,  |         | at a time |
#     |       waiting jobs     |  STARTED, EXITED  | no loop  |         +-----------+
#     |                        |                   +----------+            ^     |
#     |                        |--- BOOT, RUN, CANCEL ---------------------+     |
#     |                        |<-- READY, RESPONSE | HEAD DATA* END | FILE -----+
#     +------------------------+     two pipes for each worker, its own alone
#
# The zygote is forked before main has a loop, TLS or threads, so its own forks are
# clean, take a millisecond, and give workers the application as it was then. It alone
# kills and reaps. If it dies, its workers die with it, and main starts another one that
# imports the application again; so it starts at once where a fork is not clean, and
# where even that one can't fork, each worker imports for itself ("exec" and "spawn",
# below). The frames and states are the same. Nothing is shared between workers, and
# nothing is pickled: requests travel as the bytes that came, answers as the bytes that
# go. A worker's life, seen from main:
#
#     starting --READY--> idle --RUN--> busy --RESPONSE, FILE, END--> idle
#         \                |             |  deadline, crash, exit()
#          `---------------+-------------+--> dying --exit seen--> (gone, replaced)
#            can't boot,      too old, too large, has done enough: when another
#            other routes     worker is ready, and it has no job; or one too many
#
# A dying worker is asked to end (its pipes are closed; SIGUSR2 raises RequestTimeout),
# after the grace to write where it hangs (SIGUSR1), and then killed. Main trusts no
# byte of a worker, and never uses the pipes of a dying one again: an answer can't
# reach the wrong client. A slow client stops its stream's worker by nothing but the
# kernel's buffers: main stops reading, and the worker's send blocks.

WORKER_TIMEOUT_SECONDS = 30.0  # gunicorn and PHP-FPM: 30 s
QUEUE_TIMEOUT_SECONDS = 30.0
TIMEOUT_GRACE_SECONDS = 0.5  # from the soft exception to SIGKILL
TRACE_SECONDS = 1.0  # at most, for writing where a worker hangs, before it is killed
TRACE_LOOK_SECONDS = 0.02  # from one look at that to the next
STOP_SECONDS = 5.0  # for a worker that ends in good order: on_worker_stop
ORDER_SECONDS = 5.0  # a zygote that takes no order for so long is killed
WORKER_NICENESS = 5  # below main, which has to answer everybody in the meantime
WORKER_IDLE_SECONDS = 30.0  # then a worker that is one too many ends; PHP-FPM 10 s
MAX_CRASHES = 3  # of a route, within the window: it is switched off for a while
CRASH_WINDOW_SECONDS = 60.0
CRASH_REST_SECONDS = 30.0
POOL_SWEEP_SECONDS = 1.0  # how often a pool looks for workers that are old or too many
BOOT_LOOK_SECONDS = 0.02  # from one look at whether a worker has booted to the next
BOOT_SECONDS = 60.0  # a worker that is not ready by then is replaced
MAX_FRAME_BYTES = 256 * 1024 * 1024  # a worker that announces more has gone mad
RECEIVE_BYTES = 65_536  # at once, from a worker or from main
ANSWER_TOKEN_BYTES = 16  # at random, behind an answer that lies in a worker's file
STREAM_BUFFER_BYTES = 256 * 1024  # held for a slow client before its worker is paused
WAITING_PER_SLOT = 16  # jobs that may wait for each worker, or thread, or place
MAX_THREADS = 40  # as anyio and Starlette
STREAMS_PER_WORKER = 4
HEARTBEAT_SECONDS = 15.0  # WHATWG HTML section 9.2.7; nginx gives up after 60 s
# Upper bounds of the histograms, in seconds: Prometheus' own, and longer ones, since a
# pool route may take its time.
_BOUNDS_TEXT = "0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30 60"
TIME_BUCKETS = tuple(float(text) for text in _BOUNDS_TEXT.split())


class RouteType(Enum):
    """Where a route's handler runs."""

    sync = "sync"
    thread = "thread"
    asnc = "asnc"
    pool = "pool"
    stream = "stream"


class ProcessType(Enum):
    """What a process is: the main one, or a worker of the pool."""

    main = "main"
    pool = "pool"


class ProcessEnvironment:
    """What a handler may ask of the process it runs in.

    Attributes:
        proc_type: ProcessType.main or ProcessType.pool.
        worker: the worker's number in the pool, from 1; None in main.
        pool: the running Pool in main; None before it runs, and in workers.
        is_copy: a handler, or what main runs besides, has forked this process.
    """

    def __init__(self) -> None:
        self.proc_type = ProcessType.main
        self.worker: Optional[int] = None
        self.pool: Optional[Pool] = None
        self.is_copy = False


proc_env = ProcessEnvironment()

Handler = Callable[..., Any]
HandlerType = TypeVar("HandlerType", bound=Handler)


def handler_kind(handler: Handler) -> str:
    """Return "def", "generator", "async def" or "async generator".

    Of decorators that use `functools.wraps` the outermost counts that is not a plain
    def.
    """
    function = handler
    if not inspect.isroutine(function) and not hasattr(function, "func"):
        function = getattr(function, "__call__", function)  # noqa: B004
    if inspect.isasyncgenfunction(function):
        return "async generator"
    if inspect.iscoroutinefunction(function):
        return "async def"
    if inspect.isgeneratorfunction(function):
        return "generator"
    inner = getattr(handler, "__wrapped__", None)
    return "def" if inner is None else handler_kind(inner)


class Histogram:
    """How many times of each length there were, all counted since the start."""

    def __init__(self) -> None:
        self.counts = [0] * (len(TIME_BUCKETS) + 1)  # the last is for longer ones
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(TIME_BUCKETS, seconds)] += 1
        self.seconds += seconds

    def stats(self) -> Dict[str, Any]:
        """Return what was counted."""
        counts = self.counts[:]
        return {"count": sum(counts), "seconds": self.seconds, "counts": counts}


class RouteCounts:
    """What became of the requests of one route, in main since the start.

    Attributes:
        active: how many wait or run now; of streams, until their first chunk.
        failures: answers with a status of 500 or more that the handler is to blame for.
        timeouts, crashes: how often the deadline passed, or the worker died.
        rejections: requests that were turned away, or waited too long: 503.
        disconnects: clients that left before the answer, and were worth no more work.
        wait, run: seconds before the handler, and in it.
    """

    def __init__(self) -> None:
        self.active = self.failures = self.timeouts = self.crashes = 0
        self.rejections = self.disconnects = 0
        self.wait = Histogram()
        self.run = Histogram()

    def stats(self) -> Dict[str, Any]:
        """Return what was counted, for `Application.stats`."""
        wait, run = self.wait.stats(), self.run.stats()
        # Who did not wait was not counted there; a thread may ask in mid-count.
        ended = run["count"] + self.rejections + self.disconnects
        missing = max(0, ended - wait["count"])
        wait["counts"][0] += missing
        wait["count"] += missing
        return {**vars(self), "wait": wait, "run": run}


class Route:
    """A handler, where it runs, and the bounds it runs under.

    Attributes:
        path: the pattern it was declared with.
        methods: the verbs it answers.
        placement: a RouteType.
        kind: "def", "generator", "async def" or "async generator".
        timeout: seconds it may run, None without a bound; for streams, seconds between
            two chunks.
        limit: how many may run at once, or None.
        queue_timeout: seconds a request may wait for its turn.
        on_disconnect: "finish", "stop" or "kill": what becomes of it without a client.
        max_body_bytes: the largest body it takes; None: what the server takes.
        stream_body: whether it is called before the body has come.
        pool: the name of the pool it runs in; "" is the one that run() makes.
        heartbeat: what main sends while its stream is silent; b"": nothing.
        heartbeat_seconds: for how long that has to be.
    """

    def __init__(
        self,
        path: str,
        methods: Tuple[str, ...],
        handler: Handler,
        placement: RouteType,
    ) -> None:
        self.path = path
        self.methods = methods
        self.handler = handler
        self.placement = placement
        self.kind = handler_kind(handler)
        self.name: Optional[str] = None
        self.before: Tuple[Handler, ...] = ()
        self.after: Tuple[Handler, ...] = ()
        self.timeout: Optional[float] = None
        self.limit: Optional[int] = None
        self.queue_timeout = QUEUE_TIMEOUT_SECONDS
        self.on_disconnect = "finish"
        self.max_body_bytes: Optional[int] = None
        self.stream_body = False
        self.pool = ""
        self.heartbeat, self.heartbeat_seconds = b"", HEARTBEAT_SECONDS
        self.index = -1  # its place in the table of routes, the same in every process
        self.app: Any = None  # the application it was declared on
        self.pattern: Pattern  # its compiled path
        self.triggers: Tuple[Sequence[Handler], ...] = ((), (), (), ())
        self.gate: Optional[Gate] = None
        self.counts = RouteCounts()
        self.was_warned_of = False  # that what it changes is lost

    def __repr__(self) -> str:
        return f"<Route {self.path} {self.placement.name}>"


# What may stand where -----------------------------------------------------------------

DEFAULT_PLACEMENT = {
    "def": RouteType.pool,
    "generator": RouteType.stream,
    "async def": RouteType.asnc,
    "async generator": RouteType.asnc,
}
ALLOWED_KINDS = {
    RouteType.sync: ("def", "generator"),
    RouteType.thread: ("def", "generator"),
    RouteType.asnc: ("async def", "async generator"),
    RouteType.pool: ("def",),
    RouteType.stream: ("generator",),
}
# What a client's leaving may do: the first is the default for a handler that returns.
# Nothing can stop a function of main: there "stop" is `env.disconnected`, and the end
# of a stream at its next `yield`.
ALLOWED_ON_DISCONNECT = {
    RouteType.sync: ("finish", "stop"),
    RouteType.thread: ("finish", "stop"),
    RouteType.asnc: ("finish", "stop"),
    RouteType.pool: ("finish", "stop", "kill"),
    RouteType.stream: ("stop", "kill"),
}


def check_kind(handler: Handler, placement: RouteType) -> None:
    """Raise RouteError where a handler can't run in a placement; say what to write."""
    kind = handler_kind(handler)
    if kind in ALLOWED_KINDS[placement]:
        return
    name = getattr(handler, "__name__", repr(handler))
    better = DEFAULT_PLACEMENT[kind]
    raise RouteError(
        f"{name} is {'an' if kind[0] == 'a' else 'a'} {kind}, which can't run in "
        f"RouteType.{placement.name}; write RouteType.{better.name}"
        + (", or make it a plain def" if kind != "def" else "")
        + (" that yields" if placement is RouteType.stream and kind == "def" else "")
    )


def leave_gate(route: Route) -> None:
    """Let the next request of a route in, if it has a limit: a handler has ended."""
    if route.gate is not None:
        route.gate.leave()


def busy_error(retry_seconds: int) -> HTTPError:
    """Return the 503 of a full queue."""
    return HTTPError(503, "Too busy; try again.", {"Retry-After": str(retry_seconds)})


class Gate:
    """At most `limit` at once; the others wait in line, up to a bound.

    Args:
        limit: how many may be inside (int).
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.inside = 0
        self._line: Deque[asyncio.Future[None]] = deque()

    async def enter(self, route: Route, request: Request) -> None:
        """Go in, or wait in line, for at most the route's `queue_timeout`.

        Raises:
            HTTPError: 503 when the line is full, or when it has waited too long.
            ClientDisconnected: the client left while it waited.
        """
        if self.inside < self.limit:
            self.inside += 1
            return
        if len(self._line) >= WAITING_PER_SLOT * self.limit:
            raise busy_error(1)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(route.queue_timeout, self._give_up, turn, busy_error(1))
        left = ClientDisconnected("the client left while its request waited")
        give_up = partial(self._give_up, turn, left)
        self._line.append(turn)
        arrived = time.monotonic()
        if request.disconnect is not None:
            request.disconnect.add(give_up)  # or it would keep others out of the line
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self.leave()  # the turn came together with the cancellation
            raise
        finally:
            timer.cancel()
            if request.disconnect is not None:
                request.disconnect.remove(give_up)
            request.queue_seconds += time.monotonic() - arrived
        if request.disconnected:
            self.leave()
            raise left

    def leave(self) -> None:
        """Go out, and let the next one in."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.inside -= 1

    def _give_up(self, turn: asyncio.Future[None], why: Exception) -> None:
        if not turn.done():
            self._line.remove(turn)
            turn.set_exception(why)


def set_bounds(
    route: Route,
    timeout: Optional[float],
    limit: Optional[int],
    queue_timeout: Optional[float],
    on_disconnect: Optional[str],
) -> None:
    """Set a route's bounds, or their defaults; raise RouteError for what can't be."""
    placement = route.placement
    in_worker = placement in (RouteType.pool, RouteType.stream)
    if route.pool and not in_worker:
        raise RouteError(f"{route.path} is {placement.name}: it runs in no pool")
    if placement is RouteType.sync and (timeout, limit, queue_timeout) != (None,) * 3:
        raise RouteError(
            f"{route.path} is sync: nothing can stop it or make it wait, so it takes "
            "no timeout, limit or queue_timeout; "
            "write RouteType.thread or RouteType.pool"
        )
    for name, value in (("timeout", timeout), ("queue_timeout", queue_timeout)):
        if value is not None and not (type(value) in (int, float) and value > 0):
            raise RouteError(f"{name} is in seconds, more than 0, got {value!r}")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise RouteError(f"limit is a whole number from 1, got {limit!r}")
    if timeout is None and in_worker:
        timeout = WORKER_TIMEOUT_SECONDS
    route.timeout = None if timeout == float("inf") else timeout
    route.limit = limit
    route.queue_timeout = queue_timeout or QUEUE_TIMEOUT_SECONDS
    allowed = ALLOWED_ON_DISCONNECT[placement]
    if route.kind == "async generator":
        allowed = ("stop",)
    if on_disconnect is not None and on_disconnect not in allowed:
        words = " or ".join(f'"{word}"' for word in allowed)
        raise RouteError(
            f"on_disconnect of {route.path}, a {placement.name} route, is {words}, "
            f"not {on_disconnect!r}"
        )
    route.on_disconnect = on_disconnect or allowed[0]
    if limit is not None and not in_worker:
        route.gate = Gate(limit)


def deadline_error(route: Route) -> HTTPError:
    """Return the 504 of a handler that outlived its timeout."""
    route.counts.timeouts += 1
    log.warning("%s ran longer than its timeout of %g s", route.path, route.timeout)
    return AnswerLost(504, "The request took too long.")


Answer = Callable[[Route, Request], Response]
AsyncAnswer = Callable[[Route, Request], Awaitable[Response]]


class HandlerLeft(PixieError):
    """A handler left its stream by what is no Exception: sys.exit(), a cancellation.

    As such it would pass for something else on its way through the event loop.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"the handler left by {error!r}")
        self.__cause__ = error


class Chunks:
    """A stream's pieces as bytes: the first one, which is here, and then the others.

    Whoever primes a stream (runs it to its first `yield`) hands it on in this form.
    """

    def __init__(self, first: bytes, rest: Iterator[Any]) -> None:
        self._first: Optional[bytes] = first or None
        self._rest = rest

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> bytes:
        first, self._first = self._first, None
        try:
            return to_chunk(next(self._rest)) if first is None else first
        except StopAsyncIteration as error:
            # It would pass for the end. Of StopIteration, Python says the same.
            raise RuntimeError("the stream raised StopAsyncIteration") from error
        except Exception:
            raise
        except BaseException as error:
            if ends_worker(error):
                raise
            raise HandlerLeft(error) from error

    def close(self) -> None:
        """Close the generator, so that its `finally` runs; log what that raises."""
        close = getattr(self._rest, "close", None)
        try:
            if close is not None:
                close()
        except BaseException as error:
            if ends_worker(error):
                raise
            log.exception("a stream failed while it was closed")


class AsyncChunks:
    """The same as Chunks, for an async iterator."""

    def __init__(self, first: bytes, rest: AsyncIterator[Any]) -> None:
        self._first: Optional[bytes] = first or None
        self._rest = rest

    def __aiter__(self) -> AsyncChunks:
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, None
        return await self._step(self._rest.__anext__) if first is None else first

    async def throw(self, error: BaseException) -> None:
        """Raise an error at the `yield` where the async generator stands, and go on.

        The next piece is what it yields then, behind what nobody has taken yet.
        """
        if not hasattr(self._rest, "athrow"):
            raise error
        try:
            piece = await self._step(self._rest.athrow, error)
        except StopAsyncIteration:
            return  # the next step says so once more
        self._first = (self._first or b"") + piece or None

    async def _step(self, step: Callable[..., Awaitable[Any]], *args: Any) -> bytes:
        try:
            return to_chunk(await step(*args))
        except (Exception, asyncio.CancelledError, GeneratorExit):
            raise  # of the last two, how the Task ends tells more
        except BaseException as error:
            raise HandlerLeft(error) from error

    async def aclose(self) -> None:
        """Close the async generator, so that its `finally` runs; log what it raises."""
        aclose = getattr(self._rest, "aclose", None)
        try:
            if aclose is not None:
                await aclose()
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException:
            log.exception("a stream failed while it was closed")


# What a program forks -----------------------------------------------------------------
# os.fork() and multiprocessing copy all of main, or of a worker: signal handlers, the
# descriptor that wakes the loop, the connections of clients. A copy that is told to end
# would stop the server (bpo-43064) or nothing, and one that returns from its handler
# would answer as well. So each copy undoes what makes it main, or a worker.

OUR_SIGNALS = [  # Windows has no SIGHUP
    one for one in signal.Signals if one.name in ("SIGINT", "SIGTERM", "SIGHUP")
]
_in_copies: List[Callable[[], object]] = []
_masks: Dict[int, Any] = {}  # of threads that fork at the moment


def _block_signals() -> None:
    # One that comes to a copy before it has undone this must wait until then.
    if _in_copies:
        blocked = {*OUR_SIGNALS, signal.SIGUSR2}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        _masks[threading.get_ident()] = mask


def _unblock_signals() -> None:
    mask = _masks.pop(threading.get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _become_a_copy() -> None:
    proc_env.is_copy = proc_env.is_copy or bool(_in_copies)
    while _in_copies:
        _in_copies.pop()()
    _unblock_signals()


@lru_cache(maxsize=None)
def _watch_forks() -> None:  # once: what is registered stays, in copies too
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_block_signals,
            after_in_parent=_unblock_signals,
            after_in_child=_become_a_copy,
        )


def undo_in_copies(undo: Callable[[], object]) -> None:
    """Have each process that is forked from now on begin with `undo`."""
    _watch_forks()
    _in_copies.append(undo)


def default_signals(*numbers: int) -> None:
    """Handle signals as Python does by itself."""
    signal.set_wakeup_fd(-1)
    for number in numbers:
        is_int = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_int else signal.SIG_DFL)


def flush_output() -> None:
    """Write out what print() has buffered, or a fork would have it come twice."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # closed, or replaced by None: nothing to lose


def end_copy() -> None:
    """End this process if it is a copy, back from the handler that forked it."""
    if proc_env.is_copy:
        flush_output()
        os._exit(0)


# sync: on the event loop --------------------------------------------------------------


class LoopStream:
    """The stream of a `sync` route: each step runs on the loop, in its context."""

    def __init__(self, chunks: Iterator[bytes], context: Context) -> None:
        self._chunks = chunks
        self._context = context

    def __aiter__(self) -> LoopStream:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)  # the other connections' turn
        try:
            return self._context.run(next, self._chunks)
        except StopIteration:
            raise StopAsyncIteration from None
        finally:
            end_copy()

    async def aclose(self) -> None:
        """Close the generator."""
        self._context.run(self._chunks.close)  # type: ignore[attr-defined]


def run_on_loop(answer: Answer, route: Route, request: Request) -> Response:
    """Run a `sync` route, here and now, in a context of its own."""
    context = copy_context()
    response = context.run(answer, route, request)
    end_copy()
    if is_stream(response.body):
        response.body = LoopStream(cast("Iterator[bytes]", response.body), context)
    return response


# thread: in a thread of main ----------------------------------------------------------


def _expire(future: asyncio.Future[Any], route: Route) -> None:
    if not future.done():
        future.set_exception(deadline_error(route))


async def within_timeout(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], route: Route
) -> T:
    """Return what a thread or a Task makes, or fail with 504 when it is too late."""
    if route.timeout is None:
        return await future
    timer = loop.call_later(route.timeout, _expire, future, route)
    try:
        return await future
    finally:
        timer.cancel()


class ThreadStream:
    """The stream of a `thread` route: its thread makes a chunk when asked to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, route: Route) -> None:
        self._loop = loop
        self._route = route
        from queue import SimpleQueue

        self._asked: SimpleQueue[Optional[asyncio.Future[bytes]]] = SimpleQueue()

    def serve(self, chunks: Chunks) -> None:
        """Make chunks until the end, or until closed; runs in the thread."""
        try:
            for future in iter(self._asked.get, None):
                try:
                    settle_from_thread(self._loop, future, next(chunks), None)
                except BaseException as error:  # the loop's side logs it
                    is_end = isinstance(error, StopIteration)
                    end = StopAsyncIteration() if is_end else error
                    settle_from_thread(self._loop, future, None, end)
                    return
        finally:
            chunks.close()

    def __aiter__(self) -> ThreadStream:
        return self

    async def __anext__(self) -> bytes:
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._asked.put(future)
        return await within_timeout(self._loop, future, self._route)

    async def aclose(self) -> None:
        """Have the thread close the generator, after the chunk it is at."""
        self.end()

    def end(self) -> None:
        """The same for who can't wait."""
        self._asked.put(None)


def call_from_thread(
    loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any
) -> None:
    """Have a loop call a function, unless it has closed: then nobody waits any more."""
    end_copy()
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        pass


def settle_from_thread(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Any],
    result: object,
    error: Optional[BaseException],
) -> None:
    """Settle a future of `loop` from another thread, unless the loop has closed."""

    def settle() -> None:
        if future.done():
            if isinstance(result, Response) and isinstance(result.body, ThreadStream):
                result.body.end()  # nobody will ask it for a chunk
            if error is not None and not isinstance(error, StopAsyncIteration):
                log.error("a thread failed after its request had ended", exc_info=error)
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    call_from_thread(loop, settle)


class Threads:
    """The threads that run `thread` routes: started on demand, up to `size` at once.

    Streams do not count: a thread that turns out to make a stream gives its place back,
    so that slow readers never starve the other routes.
    """

    def __init__(self, size: int) -> None:
        self.gate = Gate(size)
        self._work: Optional[SimpleQueue[Optional[Callable[[], None]]]] = None
        self._alive = 0
        self._busy = 0

    async def run(self, answer: Answer, route: Route, request: Request) -> Response:
        """Run a route in a thread.

        A deadline answers 504 and lets the thread run on; its place stays taken until
        it has ended, and what it then returns is dropped.
        """
        try:
            await self.gate.enter(route, request)
        except BaseException:
            leave_gate(route)
            raise
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Response] = loop.create_future()
        if request.body_file is not None:
            request.body_file.hold(self)
        self._start(self._job(loop, ready, answer, route, request))
        return await within_timeout(loop, ready, route)

    def _start(self, job: Callable[[], None]) -> None:
        self._busy += 1
        self._queue.put(job)
        if self._busy > self._alive:
            self._alive += 1
            threading.Thread(target=self._live, name="pixie_web", daemon=True).start()

    @property
    def _queue(self) -> SimpleQueue[Optional[Callable[[], None]]]:
        if self._work is None:
            from queue import SimpleQueue

            self._work = SimpleQueue()
        return self._work

    def _live(self) -> None:
        for job in iter(self._queue.get, None):
            job()

    def _job(
        self,
        loop: asyncio.AbstractEventLoop,
        ready: asyncio.Future[Response],
        answer: Answer,
        route: Route,
        request: Request,
    ) -> Callable[[], None]:
        context = copy_context()

        def job() -> None:
            stream = None
            try:
                response = context.run(answer, route, request)
                if is_stream(response.body):
                    chunks = cast(Chunks, response.body)
                    stream = response.body = ThreadStream(loop, route)
                settle_from_thread(loop, ready, response, None)
            except BaseException as error:
                settle_from_thread(loop, ready, None, error)
            if stream is not None:
                call_from_thread(loop, self.gate.leave)
                context.run(stream.serve, chunks)
            call_from_thread(loop, self._ended, route, request, stream is None)

        return job

    def _ended(self, route: Route, request: Request, held_place: bool) -> None:
        self._busy -= 1
        leave_gate(route)
        if request.body_file is not None:
            request.body_file.release(self)
        if held_place:
            self.gate.leave()
        if self._alive > self.gate.limit and self._busy < self._alive:
            self._alive -= 1
            self._queue.put(None)

    def stats(self) -> Dict[str, int]:
        """Return how many threads may be busy, how many are, and how many wait."""
        line = len(self.gate._line)
        return {"size": self.gate.limit, "busy": self._busy, "waiting": line}

    def stop(self) -> None:
        """Let the idle threads end; those at work end with the process."""
        for _ in range(self._alive):
            self._queue.put(None)


# asnc: in a Task on the loop ----------------------------------------------------------


def start_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]
) -> asyncio.Task[T]:
    """Return a new Task, with a context of its own, for what a program wrote."""
    if sys.version_info >= (3, 12):
        # PERF: what never waits is done at once, without a turn of the loop: 1.3 times
        # the requests of a plain Task.
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    else:  # noqa: RET505 - mypy knows the version, and one branch for each
        return loop.create_task(coroutine)


class TaskRun:
    """One request of an `asnc` route: the Task in which all of its handler runs.

    The Task has a context of its own, and a stream is pulled from inside it, so
    `asyncio.timeout`, task groups, anyio and ContextVars work across a `yield` too.
    When it is cancelled (deadline; client gone, with "stop") it gets CancelledError.
    """

    def __init__(self, answer: AsyncAnswer, route: Route, request: Request) -> None:
        self._answer = answer
        self._route = route
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._response: Optional[Response] = None
        self._ready: Optional[asyncio.Future[Response]] = None
        self._asked: Optional[asyncio.Future[bool]] = None  # the task waits for this
        self._given: Optional[asyncio.Future[bytes]] = None  # the server waits for this
        self._end: Optional[Exception] = None  # why no more chunks will come
        self._closed = False
        self._task: Optional[asyncio.Task[None]] = None

    async def run(self) -> Response:
        """Return the response, of a stream as soon as its first chunk is there."""
        self._task = start_task(self._loop, self._main())
        body_file = self._request.body_file
        if body_file is not None:
            body_file.hold(self)
            self._task.add_done_callback(lambda _: body_file.release(self))
        if self._route.gate is not None:
            self._task.add_done_callback(lambda _: leave_gate(self._route))
        if self._response is not None:
            if self._response.body is self:
                self._task.add_done_callback(self._ended)
            return self._response
        self._ready = self._loop.create_future()
        self._task.add_done_callback(self._ended)
        stops = self._route.on_disconnect == "stop" and self._request.disconnect
        if stops:
            stops.add(self._task.cancel)
        try:
            return await within_timeout(self._loop, self._ready, self._route)
        except AnswerLost:
            self._task.cancel()
            raise
        finally:
            if stops:
                stops.remove(self._task.cancel)

    async def _main(self) -> None:
        response = await self._answer(self._route, self._request)
        end_copy()
        chunks = response.body
        if is_stream(chunks):
            response.body = self
        self._response = response
        if self._ready is not None:
            if self._ready.done():
                self._closed = True  # its deadline has passed: nobody takes it any more
            else:
                self._ready.set_result(response)
        if response.body is self:
            await self._serve(cast(AsyncChunks, chunks))

    def _ended(self, task: asyncio.Task[None]) -> None:
        try:
            task.result()
            return
        except Exception as error:
            end = error
        except BaseException as error:
            gone = self._request.disconnected
            end = ClientDisconnected("the client left") if gone else HandlerLeft(error)
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(end)
        self._stop(end)

    # The stream.

    async def _serve(self, chunks: AsyncChunks) -> None:
        try:
            while True:
                try:
                    if not await self._next_asked():
                        return
                except asyncio.CancelledError as error:
                    # Cancelled at its `yield`, by an asyncio.timeout around it perhaps.
                    await chunks.throw(error)
                    continue
                chunk = await chunks.__anext__()
                if self._given is not None and not self._given.done():
                    self._given.set_result(chunk)
        except Exception as error:  # the end, or what the server logs
            if self._closed and type(error) is not StopAsyncIteration:
                log.error("a stream failed while it was closed", exc_info=error)
            self._stop(error)
        finally:
            await chunks.aclose()

    async def _next_asked(self) -> bool:
        if not self._closed and (self._given is None or self._given.done()):
            self._asked = self._loop.create_future()
            await self._asked
        return not self._closed

    def _stop(self, end: Exception) -> None:
        """Note why no more chunks will come; the first reason counts."""
        if self._end is None:
            self._end = end
        if self._given is not None and not self._given.done():
            self._given.set_exception(self._end)

    def __aiter__(self) -> TaskRun:
        return self

    async def __anext__(self) -> bytes:
        if self._end is not None:
            raise self._end
        self._given = self._loop.create_future()
        self._wake()
        return await within_timeout(self._loop, self._given, self._route)

    def _wake(self) -> bool:
        if self._asked is None or self._asked.done():
            return False
        self._asked.set_result(True)
        return True

    async def aclose(self) -> None:
        """End the stream: at its `yield` if it stands there, else by cancelling it."""
        self._closed = True
        assert self._task is not None
        if not self._task.done() and not self._wake():
            self._task.cancel()


# The pool: frames ---------------------------------------------------------------------
# A frame is twelve bytes of header and a payload. The header: payload bytes, type,
# flags, index of the route, number of the request.

_FRAME = struct.Struct("!IBBHI")
_RUN = struct.Struct("!IBBHIII")  # the same, then of RUN: record bytes, head bytes
_RESULT = struct.Struct("!HqI")  # status, body bytes or -1, header block bytes


class Frame:
    """The types of frames, and their flags."""

    RUN, CANCEL, BOOT = 1, 2, 3  # main to worker
    READY, RESPONSE, HEAD, DATA, END, FILE, LOG = 16, 17, 18, 19, 20, 21, 22  # and back
    LOST = 23  # back, with debug: the names of globals that a handler has changed

    DEBUG, HTTPS, SPOOLED = 1, 2, 4  # flags of RUN; the last one also of FILE
    RETIRE = 1  # flag of RESPONSE, FILE and END: the worker will take no more
    BROKEN = 2  # flag of END: the stream did not come to its end
    MORE = 4  # flag of DATA: the chunk goes on in the next frame


def encode_run(route: Route, number: int, request: Request) -> Tuple[bytes, bytes]:
    """Return the frame that sends a request to a worker: the least that can travel.

    It is the head as received, what main alone knows, as lines of text, and the body
    or the path of its file. The path's arguments are found once more in the worker.
    """
    context = dump_json(request.context).decode() if request.context else ""
    host, port = request.client
    paths = f"{request.prefix}\n{request.root_path}"
    text = f"{host}\n{port}\n{request.host}\n{paths}\n{context}"
    record = text.encode("utf-8", "surrogatepass")
    if record.count(b"\n") != 5:
        raise PixieError(f"no line break can be in a host, a prefix, a client: {text}")
    flags = Frame.DEBUG if request.debug else 0
    if request.scheme == "https":
        flags |= Frame.HTTPS
    body = request._body
    if body is None:
        assert request.body_file is not None
        body = os.fsencode(request.body_file.path)
        flags |= Frame.SPOOLED
    head = request.head.raw
    texts = len(record), len(head)
    size = _RUN.size - _FRAME.size + sum(texts) + len(body)
    header = _RUN.pack(size, Frame.RUN, flags, route.index, number, *texts)
    return header + record + head, body


def decode_run(frame: bytes, flags: int) -> Request:
    """Return the request of a RUN frame, as `encode_run` wrote it.

    A body in a file is opened here and now: main keeps its own open until the job has
    ended, and not a moment longer.

    Raises:
        OSError: the body's file can't be opened.
    """
    record_size, head_size = _RUN.unpack_from(frame)[-2:]
    head_start = _RUN.size + record_size
    body_start = head_start + head_size
    record = frame[_RUN.size : head_start].decode("utf-8", "surrogatepass")
    host, port, authority, prefix, root_path, context = record.split("\n")
    request = Request(
        parse_head(frame[head_start:body_start]),
        (host, int(port)),
        "https" if flags & Frame.HTTPS else "http",
        debug=bool(flags & Frame.DEBUG),
    )
    request.host = authority
    request.prefix, request.root_path = prefix, root_path
    if context:
        request.context = cast(Dict[str, Any], load_json(context.encode()))
    body = frame[body_start:]
    if flags & Frame.SPOOLED:
        request.open_body(os.fsdecode(body))
    else:
        request._body = body
    return request


class FrameBuffer:
    """Turns what arrives from a worker into frames: (header, payload) pairs."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterable[Tuple[Tuple[int, ...], bytes]]:
        """Take bytes and iterate over the frames that are complete now.

        Raises:
            PixieError: a frame announces more than MAX_FRAME_BYTES.
        """
        if not self._data and len(data) >= _FRAME.size:
            header = _FRAME.unpack_from(data)
            if len(data) == _FRAME.size + header[0]:
                # PERF: one whole frame, as almost always: a third of the time.
                return ((header, data[_FRAME.size :]),)
        return self._split(data)

    def _split(self, data: bytes) -> Iterator[Tuple[Tuple[int, ...], bytes]]:
        self._data += data
        at = 0
        while len(self._data) - at >= _FRAME.size:
            header = _FRAME.unpack_from(self._data, at)
            if header[0] > MAX_FRAME_BYTES:
                raise PixieError(f"a worker announced a frame of {header[0]} bytes")
            end = at + _FRAME.size + header[0]
            if len(self._data) < end:
                break
            yield header, bytes(memoryview(self._data)[at + _FRAME.size : end])
            at = end
        del self._data[:at]


LOST_WARNING = (
    "%s: %s changed in a worker, and is lost there: no other process sees it. Keep it "
    "in main (RouteType.sync, thread, asnc), or in a file or database"
)


# The pool: inside a worker ------------------------------------------------------------


class PoolOptions(NamedTuple):
    """How a pool is run; arguments of run(), and of app.pool() for one more."""

    workers: int = -1  # as many as CPUs; 0: its routes run in threads of main
    min_workers: int = -1  # kept while there is nothing to do; -1: all of them
    max_streams: int = -1  # at once; -1: STREAMS_PER_WORKER for each worker
    worker_idle_seconds: float = WORKER_IDLE_SECONDS
    nice: int = WORKER_NICENESS
    timeout_grace_seconds: float = TIMEOUT_GRACE_SECONDS
    max_crashes: int = MAX_CRASHES  # 0: a route may crash as often as it likes
    # A worker is replaced when it has done so much, is so old, has so much memory after
    # a request; 0: never.
    max_tasks_per_worker: int = 0
    max_worker_age_seconds: float = 0.0
    max_worker_bytes: int = 0
    worker_memory_limit_bytes: int = 0  # who asks for more gets a MemoryError


class Program:
    """What a worker needs to know of the application.

    Forked workers inherit it; the others import it afresh, and tell main what they
    have found, so that none runs another handler than the one that was asked for.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        answer: Answer,
        on_worker_start: Sequence[Callable[[], object]],
        on_worker_stop: Sequence[Callable[[], object]],
        pool_starts: Mapping[str, Callable[[], object]],
    ) -> None:
        self.routes = routes
        self.answer = answer
        self.on_worker_start = on_worker_start
        self.on_worker_stop = on_worker_stop
        self.pool_starts = pool_starts  # the same, for the workers of one named pool
        self.fresh = False  # imported by this process, not inherited from main

    @property
    def table(self) -> bytes:
        """The routes as lines of text, the same in each process of a program."""
        lines = []
        for route in self.routes:
            handler = route.handler
            module = getattr(handler, "__module__", "")
            # The main program has another name where it is imported, and so has this
            # file, where it is one.
            module = {"__mp_main__": "__main__", __name__: "pixie_web"}.get(
                module, module
            )
            name = getattr(handler, "__qualname__", type(handler).__qualname__)
            verbs = ",".join(route.methods)
            lines.append(f"{verbs} {route.path} {route.placement.name} {module}.{name}")
        return "\n".join(lines).encode("utf-8", "surrogatepass")


Load = Callable[[Dict[str, Any]], Program]


class MainGone:
    """In a worker: whether main says that the client has gone, or is gone itself."""

    def __init__(self, worker: WorkerProcess, incoming: int) -> None:
        self._worker = worker
        self._poll = select.poll()
        self._poll.register(incoming, select.POLLIN)

    @property
    def gone(self) -> bool:
        """Look, without waiting: during a job only a CANCEL or the end can come."""
        return bool(self._worker.unread or self._poll.poll(0))


class FrameHandler(logging.Handler):
    """Sends a worker's log records of this framework to main, as text."""

    def __init__(self, worker: WorkerProcess) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; in main it goes where main's records go."""
        text = self.format(record).encode("utf-8", "replace")
        try:
            self._worker.send(Frame.LOG, min(record.levelno, 255), text)
        except OSError:
            pass  # main is gone, or this is a process that a handler forked


def _do_nothing(*_: object) -> None:
    pass


def fill_standard_descriptors() -> None:
    """Open /dev/null as 0, 1 and 2 where these are closed (`<&- >&-`).

    Or the next socket gets the number: print() of what is started would write there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # the lowest that is free is given out
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def keep_log() -> None:
    """Undo for this log what logging.config does by default to all that exist.

    `disable_existing_loggers` would silence every traceback and the access log. Who
    wants that sets a level, or `access_log=False`.
    """
    log.disabled = logging.getLogger("pixie_web.access").disabled = False


def reopen_log_files() -> int:
    """Open the files of all loggers again, as after logrotate; return how many."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    handlers = {one for logger in loggers for one in getattr(logger, "handlers", ())}
    count = 0
    for one in handlers:
        if isinstance(one, logging.FileHandler) and one.stream is not None:
            errors = getattr(one, "errors", None)  # Python 3.9
            try:
                # Never by its own mode: "w" would empty what nobody has moved away.
                new = open(  # noqa: SIM115
                    one.baseFilename, "a", encoding=one.encoding, errors=errors
                )
            except OSError as error:
                log.error("%s; the log file that is open stays", error)
                continue
            old = one.setStream(new)
            if old is not None:
                old.close()
            count += 1
    return count


def _prctl(option: int, argument: Any) -> None:
    """Ask something of the Linux kernel for this process; elsewhere, or refused: no."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass


def name_process(name: str) -> None:
    """Set the name that `ps` and `top` show (Linux: 15 bytes)."""
    _prctl(15, name.encode()[:15])  # PR_SET_NAME


def die_with_parent(pid: int) -> None:
    """Be killed when the zygote is killed (Linux); a belt beside the closed sockets."""
    _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != pid:
        os._exit(1)  # it died in between


def make_first_victim() -> None:
    """Have the kernel's out-of-memory killer take a worker before it takes main."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("300")
    except OSError:
        pass


# PERF: what signal.getsignal calls, without making enums: 12 us for six.
_get_handler = getattr(sys.modules.get("_signal"), "getsignal", signal.getsignal)


def _is_closed(file: Any) -> bool:
    return getattr(file, "closed", False)  # there may be none


class Surroundings:
    """What a handler may change of its process, so that the next one would find it.

    The directory, the time zone, signal handlers, and print()'s way out. What a program
    sets before its worker's first job, in on_worker_start, is as it should be.
    """

    def __init__(self) -> None:
        names = ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGINT", "SIGTERM", "SIGUSR2")
        self._numbers = [int(getattr(signal, name)) for name in names]
        # PERF: the same by os.environ itself, which raises and catches: 1 us.
        self._variables: Mapping[bytes, bytes] = getattr(
            os.environ, "_data", os.environb
        )
        self._found = self._look()

    def _look(self) -> Tuple[Any, ...]:
        try:
            directory = os.getcwd()
        except OSError:
            directory = ""  # it has been removed
        zone = self._variables.get(b"TZ"), time.tzname
        handlers = list(map(_get_handler, self._numbers))
        out, err = sys.stdout, sys.stderr
        return directory, zone, handlers, (out, err), _is_closed(out), _is_closed(err)

    def restore(self) -> None:
        """Put back what differs from what was found at first."""
        found = self._look()
        if found == self._found:
            return
        directory, zone, handlers, files = self._found[:4]
        try:
            os.chdir(directory)
        except OSError as error:
            log.warning("a worker can't return to its directory: %s", error)
        if found[1] != zone:
            os.environ.pop("TZ", None)
            os.environb.update({} if zone[0] is None else {b"TZ": zone[0]})
            time.tzset()
        for number, handler in zip(self._numbers, handlers):
            if handler is not None:  # one of C code can't be put back
                signal.signal(number, handler)
        if found[2][0] != handlers[0]:
            signal.alarm(0)  # or it would come to the next one
        sys.stdout, sys.stderr = (
            open(number, "w", 1, one.encoding, one.errors, closefd=False)  # noqa: SIM115
            if _is_closed(one)
            else one
            for number, one in enumerate(files, 1)
        )
        self._found = self._look()


def _stored_globals(code: types.CodeType) -> Set[str]:
    import dis

    stores = ("STORE_GLOBAL", "DELETE_GLOBAL")
    names = {one.argval for one in dis.get_instructions(code) if one.opname in stores}
    inner = [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return names.union(*map(_stored_globals, inner))


def module_state(handler: Handler) -> Dict[str, Tuple[object, int]]:
    """Return, by name, what a handler may change of its module: (value, length).

    That are the globals that its code stores, and all dicts, lists and sets.
    """
    function = inspect.unwrap(getattr(handler, "__func__", handler))
    scope = getattr(function, "__globals__", {})
    code = getattr(function, "__code__", None)
    stored = () if code is None else _stored_globals(code)
    state = {name: (scope.get(name), 0) for name in stored}
    for name, value in scope.items():
        if isinstance(value, (dict, list, set)) and not name.startswith("__"):
            state[name] = value, len(value)
    return state


class WorkerProcess:
    """A worker: takes one request after another from its pipe, and answers it.

    It ends when main closes the pipe, when a handler leaves by `sys.exit()`, or when
    the zygote kills it.

    Args:
        incoming, outgoing: the descriptors of its pipes.
        trace: of the file that takes tracebacks when it is killed.
        load: returns the program, given what the frame BOOT says.
    """

    def __init__(self, incoming: int, outgoing: int, trace: int, load: Load) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.unread = b""  # what came behind the last frame
        self._main_gone = MainGone(self, incoming)
        self._trace = trace
        self._load = load
        self._program: Program
        self._request_number = 0
        self._interruptible = False
        self._calls: Dict[Route, int] = {}  # with debug
        self._logs_moved = False  # they are opened again before the next job
        self._answer: Optional[BinaryIO] = None  # a large one, until main has opened it
        self._answer_name = b""  # its token and its path, for main to open it

    def serve(self) -> None:
        """Boot, then answer until main closes the pipe."""
        frame = self._next_frame()
        if frame is None:
            return
        self._boot(cast(Dict[str, Any], load_json(frame[_FRAME.size :])))
        program, surroundings = self._program, Surroundings()
        self.send(Frame.READY, 0, program.table if program.fresh else b"")
        for frame in iter(self._next_frame, None):
            _, kind, flags, index, number = _FRAME.unpack_from(frame)
            # A CANCEL read here came too late: its job has ended. Or main says by it
            # that it has opened the answer's file.
            if self._answer is not None:
                self._answer.close()
                self._answer = None
            if kind == Frame.RUN:
                if self._logs_moved:
                    self._logs_moved = False
                    reopen_log_files()
                self._request_number = number
                route = program.routes[index]
                request = decode_run(frame, flags)
                request.route = route
                if not route.pattern.is_static:
                    texts = route.pattern.match(request.path) or ()
                    request.params = route.pattern.convert(texts)
                if not self._run(route, request):
                    break
                surroundings.restore()
        for function in program.on_worker_stop:
            function()

    def _next_frame(self) -> Optional[bytes]:
        """Wait for the next frame, and return it whole; None: main has gone."""
        data = self.unread
        while len(data) < _FRAME.size:
            # PERF: header and payload at once: 3 us.
            part = os.read(self._incoming, RECEIVE_BYTES)
            if not part:
                return None
            data += part
        end = _FRAME.size + int(_FRAME.unpack_from(data)[0])
        if len(data) < end:
            rest = self._receive(end - len(data))
            if rest is None:
                return None
            data += rest
        self.unread = data[end:]
        return data if len(data) == end else data[:end]

    def _boot(self, setup: Dict[str, Any]) -> None:
        proc_env.proc_type = ProcessType.pool
        proc_env.worker = setup["number"]
        proc_env.pool = None
        name_process(f"pixie:worker {setup['number']}")
        self._send_log(setup)
        self._bound(setup)
        # Only main decides when to stop; a Ctrl-C or a supervisor's SIGTERM to the
        # whole group must not end a running request. Handlers, not SIG_IGN: programs
        # that a handler starts would inherit the latter.
        for ignored in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ignored, _do_nothing)
        signal.signal(signal.SIGHUP, self._on_hangup)
        signal.signal(signal.SIGUSR2, self._on_deadline)
        undo_in_copies(self._undo_in_copy)
        try:
            numpy = sys.modules.get("numpy")
            if numpy is not None:
                numpy.random.seed()  # or all workers would draw the same numbers
            self._program = self._load(setup)
            for function in self._program.on_worker_start:
                function()
            self._program.pool_starts.get(setup["pool"], _do_nothing)()
        except OSError as error:  # not main's end of a pipe: a model without a file
            raise PixieError("the worker can't boot") from error
        finally:
            self._send_log(setup)  # whatever the program has made of logging

    def _send_log(self, setup: Dict[str, Any]) -> None:
        log.handlers[:] = [FrameHandler(self)]
        log.propagate = False
        log.setLevel(setup["log_level"])
        keep_log()

    def _undo_in_copy(self) -> None:
        """Neither answer in the worker's name, nor take its next request or signals."""
        import faulthandler

        faulthandler.unregister(signal.SIGUSR1)
        default_signals(*OUR_SIGNALS, signal.SIGUSR2)
        for descriptor in (self._incoming, self._outgoing):
            try:
                os.close(descriptor)
            except OSError:
                pass  # a handler has closed it
        self._incoming = self._outgoing = -1  # their numbers will be those of others

    def _bound(self, setup: Dict[str, Any]) -> None:
        """Put this process below main, in its turn on a CPU and in a lack of memory."""
        import faulthandler

        # Written by C code, whatever else this process is at; main reads it.
        faulthandler.enable(self._trace)
        faulthandler.register(signal.SIGUSR1, self._trace)
        make_first_victim()
        try:
            os.nice(setup["nice"])
        except OSError as error:
            log.warning("a niceness of %d: %s", setup["nice"], error)
        limit = setup["worker_memory_limit_bytes"]
        if limit:
            import resource

            # RLIMIT_DATA and not RLIMIT_AS, which counts what is shared or only
            # reserved too: libraries reserve gigabytes.
            hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))

    def _on_hangup(self, *_: object) -> None:
        self._logs_moved = True

    def _on_deadline(self, *_: object) -> None:
        if self._interruptible:
            self._interruptible = False
            import faulthandler

            faulthandler.dump_traceback(self._trace, all_threads=False)
            timeout = RequestTimeout()
            timeout.of_deadline = True
            raise timeout

    def _run(self, route: Route, request: Request) -> bool:
        """Answer one request; return whether this worker may take another."""
        request.disconnect = self._main_gone
        context = copy_context()
        context.run(json_default_hook.set, route.app.json_default)
        if request.root_path:
            context.run(ROOT_PATH.set, request.root_path)
        try:
            self._interruptible = True
            before = self._watch(route, request)
            response = context.run(self._program.answer, route, request)
            if before is not None:
                self._tell_changes(route, before)
            if is_stream(response.body):
                self._send_stream(response, request, context)
            else:
                self._interruptible = False
                self._send_response(response, request)
            self._interruptible = True
            request.close()
        except RequestTimeout:
            return False  # main has answered, and waits for the end of this process
        finally:
            self._interruptible = False
        return not request.fatal

    def _watch(
        self, route: Route, request: Request
    ) -> Optional[Dict[str, Tuple[object, int]]]:
        """Return its module's state at the first calls of a handler, with debug."""
        if not request.debug or route.kind != "def":
            return None
        self._calls[route] = self._calls.get(route, 0) + 1
        return module_state(route.handler) if self._calls[route] <= 10 else None

    def _tell_changes(
        self, route: Route, before: Dict[str, Tuple[object, int]]
    ) -> None:
        after = module_state(route.handler)
        changed = [
            name
            for name in sorted({*before, *after})
            if before.get(name, (0, 0))[0] is not after.get(name, (0, 0))[0]
            or before[name][1] != after[name][1]
        ]
        if changed:
            self.send(Frame.LOST, 0, ", ".join(changed).encode())

    # Sending.

    def _send_response(self, response: Response, request: Request) -> None:
        flags = Frame.RETIRE if request.fatal else 0
        block = response.header_block(request.scheme == "https")
        body = response.body
        if isinstance(body, StaticFile):
            data = _RESULT.pack(response.status, -1, len(block)) + block
            data += dump_json([body.cache, body.delete_after]) + b"\0"
            self.send(Frame.FILE, flags, data + os.fsencode(body.path))
            return
        assert isinstance(body, bytes)
        result = _RESULT.pack(response.status, len(body), len(block)) + block
        if len(body) <= MAX_CHUNK_BYTES:
            self.send(Frame.RESPONSE, flags, result + body)
        elif not flags and self._spool(body, request.method == "HEAD"):
            self.send(Frame.FILE, Frame.SPOOLED, result + self._answer_name)
        else:
            self.send(Frame.HEAD, 0, result)
            if request.method != "HEAD":
                self._send_data(body)
            self.send(Frame.END, flags)

    def _spool(self, body: bytes, only_size: bool) -> bool:
        """Put a large answer into a file, so that no slow client holds this worker.

        SECURITY: when main opens the file by its name, this process may have died, and
        its number and the descriptor's belong to another worker with another answer.
        So a token stands behind the answer, and in the frame.
        """
        if not os.path.isdir("/proc/self/fd"):
            return False
        import tempfile

        try:
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            self._answer = cast(BinaryIO, file)
            token = os.urandom(ANSWER_TOKEN_BYTES)
            if only_size:
                file.seek(len(body))
            for data in (token,) if only_size else (body, token):
                rest = memoryview(data)
                while rest:
                    rest = rest[self._answer.write(rest) :]
            path = b"/proc/%d/fd/%d" % (os.getpid(), file.fileno())
            self._answer_name = token + path
        except OSError as error:
            log.warning("no room for a file with an answer: %s", error)
            if self._answer is not None:
                self._answer.close()  # now: what is in it keeps the disk full
                self._answer = None
            return False
        return True

    def _send_stream(
        self, response: Response, request: Request, context: Context
    ) -> None:
        """Send each chunk as it comes; a CANCEL is seen at the next `yield`."""
        chunks = cast(Chunks, response.body)
        block = response.header_block(request.scheme == "https")
        self.send(Frame.HEAD, 0, _RESULT.pack(response.status, -1, len(block)) + block)
        flags = 0
        try:
            while request.method != "HEAD" and not request.disconnected:
                self._send_data(context.run(next, chunks))
        except StopIteration:
            pass
        except Exception as error:
            log_failure(request, error, midway=True)
            flags, request.fatal = Frame.BROKEN, isinstance(error, HandlerLeft)
        context.run(chunks.close)
        self.send(Frame.END, flags | (Frame.RETIRE if request.fatal else 0))

    def _send_data(self, data: bytes) -> None:
        for at in range(0, len(data), MAX_CHUNK_BYTES):
            more = Frame.MORE if at + MAX_CHUNK_BYTES < len(data) else 0
            self.send(Frame.DATA, more, data[at : at + MAX_CHUNK_BYTES])

    def send(self, kind: int, flags: int = 0, payload: bytes = b"") -> None:
        """Send one frame, whole: a deadline's signal must not cut it in two."""
        interruptible, self._interruptible = self._interruptible, False
        data = _FRAME.pack(len(payload), kind, flags, 0, self._request_number) + payload
        while data:
            data = data[os.write(self._outgoing, data) :]
        self._interruptible = interruptible

    def _receive(self, size: int) -> Optional[bytes]:
        data = bytearray()
        while len(data) < size:
            part = os.read(self._incoming, size - len(data))
            if not part:
                return None
            data += part
        return bytes(data)


# The pool: the zygote -----------------------------------------------------------------
# It speaks with main over one socketpair in messages of fixed size. From main: START
# (with three descriptors: the worker's ends of two new pipes, and the file for its
# tracebacks) and SIGNAL; back: STARTED and EXITED.
#
# There are three ways to start, which differ in nothing but this:
#
#     "zygote"   forked from main, with its program;          forks workers
#     "exec"     a new interpreter that imports the program;  forks workers
#     "spawn"    a new interpreter that imports nothing;      workers are new
#                                                             interpreters that do
#
# A new interpreter is told what to import by the frame BOOT.

_ORDER = struct.Struct("!BII")  # what, the worker's number, a signal
# What, the worker's number, its pid; its wait status, or how many threads were forked.
_REPORT = struct.Struct("!BIIi")
START, SIGNAL, STARTED, EXITED = 1, 2, 3, 4
THREADS_FORKED = (
    "the pool is forked while %d threads run, and a lock that one of them holds stays "
    'locked in each worker; use pool_start="spawn", or start threads in on_worker_start'
)


class Launch(NamedTuple):
    """What a new interpreter needs to become a zygote or a worker.

    Attributes:
        command: what to execute; descriptors are its last arguments.
        origin: where it finds the application, for the `load` that it calls (JSON).
    """

    command: Sequence[str]
    origin: Dict[str, Any]


def start_interpreter(command: Sequence[str], *arguments: int) -> int:
    """Start a program in a process group of its own, and return its pid.

    All that it inherits are the descriptors that are among its arguments.
    """
    texts = [*command, *map(str, arguments)]
    return os.posix_spawn(texts[0], texts, os.environ, setpgroup=0)


def live_as_worker(descriptors: Sequence[int], zygote_pid: int, load: Load) -> NoReturn:
    """Be a worker until the end of the process; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        die_with_parent(zygote_pid)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # by what C code may start
        incoming, outgoing, trace = descriptors
        WorkerProcess(incoming, outgoing, trace, load).serve()
        code = 0
    except (OSError, RequestTimeout):
        pass  # main is gone, or has done with this worker
    except BaseException:
        log.exception("worker %s ended", proc_env.worker)
    finally:
        # Not sys.exit(): that would run the clean-up of main's objects in this copy.
        flush_output()
        os._exit(code)


def temporary_directory() -> Optional[str]:
    """Return where temporary files go; None: nowhere that can be written to.

    Looking for it makes and removes a file there, which a worker that is killed
    meanwhile would leave. So it is looked for where nobody kills.
    """
    import tempfile

    try:
        return tempfile.gettempdir()
    except OSError:
        return None


class Zygote:
    """The process that starts, signals and reaps workers, and ends them with main.

    Args:
        control: its end of the socket to main.
        program: what the workers it forks run; None: it has none, or can't fork, since
            it has threads. Then each worker is a new interpreter.
        command: what starts such an interpreter.
        threads: how many ran when this was forked, or run now.
    """

    def __init__(
        self,
        control: socket.socket,
        program: Optional[Program],
        command: Sequence[str] = (),
        threads: int = 1,
    ) -> None:
        self._control = control
        self._program = program
        self._command = command
        self._threads = threads
        self._pids: Dict[int, int] = {}  # worker's number to pid, alive ones only

    def serve(self) -> None:
        """Do as main says until it hangs up or dies; then end all workers."""
        name_process("pixie:zygote")
        temporary_directory()
        # PR_SET_CHILD_SUBREAPER: orphans of handlers come here to be reaped
        _prctl(36, 1)
        for ignored in OUR_SIGNALS:
            signal.signal(ignored, _do_nothing)
        woken, wakeup = socket.socketpair()
        woken.setblocking(False)
        wakeup.setblocking(False)
        signal.signal(signal.SIGCHLD, _do_nothing)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(woken, select.POLLIN)
        running = True
        try:
            while running:
                ready = [descriptor for descriptor, _ in poll.poll()]
                if woken.fileno() in ready:
                    woken.recv(4096)
                    self._reap()
                if self._control.fileno() in ready:
                    running = self._obey(woken, wakeup)
        finally:
            signal.set_wakeup_fd(-1)  # its socket ends before the last of them does
            for number in list(self._pids):
                self._kill(number, signal.SIGKILL)
        for one in (self._control, woken, wakeup):
            one.close()

    def _obey(self, *inherited: socket.socket) -> bool:
        size = _ORDER.size
        try:
            data, ancillary, _, _ = self._control.recvmsg(size, socket.CMSG_SPACE(12))
        except ConnectionResetError:
            return False  # main is gone, and had not read all reports
        if len(data) < size:
            return False
        what, number, value = _ORDER.unpack(data)
        if what == SIGNAL:
            if number:
                self._kill(number, value)
            else:  # to itself, but in the order of orders
                reopen_log_files()
            return True
        descriptors = array.array("i")
        descriptors.frombytes(ancillary[0][2][:12])
        try:
            self._start(number, descriptors, inherited)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _start(
        self,
        number: int,
        descriptors: Sequence[int],
        inherited: Tuple[socket.socket, ...],
    ) -> None:
        try:
            if self._program is None:
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, True)
                pid = start_interpreter(self._command, *descriptors, os.getpid())
            else:
                pid = self._fork(descriptors, inherited)
        except OSError as error:
            self._report(EXITED, number, 0, -(error.errno or errno.EAGAIN))
            return
        try:
            os.setpgid(pid, pid)  # also done by the worker: whoever comes first
        except OSError:
            pass
        self._pids[number] = pid
        self._report(STARTED, number, pid, self._threads)

    def _fork(
        self, descriptors: Sequence[int], inherited: Tuple[socket.socket, ...]
    ) -> int:
        program, parent = self._program, os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for one in (self._control, *inherited):
                one.close()
            live_as_worker(descriptors, parent, lambda _: cast(Program, program))
        return pid

    def _kill(self, number: int, value: int) -> None:
        # Only the parent signals, and only what it has not reaped: a pid can't have
        # been given to another process. SIGKILL goes to the group, so to what the
        # handler started too, and to the worker, which may have left its group; a soft
        # signal is for the worker alone.
        pid = self._pids.get(number)
        if pid is None:
            return
        for kill in (os.killpg, os.kill) if value == signal.SIGKILL else (os.kill,):
            try:
                kill(pid, value)
            except (ProcessLookupError, PermissionError):
                pass

    def _reap(self) -> None:
        numbers = {pid: number for number, pid in self._pids.items()}
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            number = numbers.get(dead.si_pid)
            if number is not None:
                # What its handler left running goes too; before the pid is free again.
                self._kill(number, signal.SIGKILL)
            pid, status = os.waitpid(dead.si_pid, 0)
            if number is not None:  # else an orphan of a handler, adopted
                del self._pids[number]
                self._report(EXITED, number, pid, status)

    def _report(self, what: int, number: int, pid: int, status: int) -> None:
        try:
            self._control.sendall(_REPORT.pack(what, number, pid, status))
        except OSError:
            pass  # main is gone; the next receive says so


def unnamed_file() -> int:
    """Return a descriptor of an empty file without a name, in memory on Linux."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pixie_web")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def count_threads() -> int:
    """Return how many threads this process has, those of C libraries too (Linux)."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def count_lasting_threads() -> int:
    """Return how many threads a fork would lose, this one included: 1 is safe.

    Those that their library ends ahead of a fork, and starts again when it needs them,
    do no harm: OpenBLAS does so, and an `import numpy` starts one for each CPU. To know
    them, a process is forked that ends at once.
    """
    if count_threads() > 1:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12: a fork with threads
            pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        for _ in range(10):  # one that has ended is listed for a moment
            if count_threads() == 1:
                break
            time.sleep(0.002)
    return count_threads()


def warn_of_connections() -> None:
    """Name the connections that this process is about to share with all it forks.

    Two workers that speak on one read each other's answers (Linux tells which there
    are).
    """
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode) or int(name) < 3:
                continue  # journald has the first three
            with socket.socket(fileno=os.dup(int(name))) as one:
                peer, kind = one.getpeername(), one.type
        except OSError:
            continue  # it has no peer, or was what listed
        if kind == socket.SOCK_STREAM and peer:  # those of a socket pair have no name
            log.warning(
                "descriptor %s is connected to %s, and all workers would share it: "
                "one would read another's answers; open connections in "
                "@app.on_worker_start",
                name,
                peer if isinstance(peer, str) else f"{peer[0]}:{peer[1]}",
            )


def settle_memory() -> None:
    """Take all objects that exist now out of the garbage collector's sight.

    What it never touches stays shared between this process and those that it forks:
    measured, a worker's own memory falls from 25 MB to 13 MB.
    """
    import faulthandler  # noqa: F401 - PERF: or each worker would: half of its start
    import gc

    load_json(b"0")  # the same for json
    gc.collect()
    gc.freeze()


def live_without_program(control: socket.socket, told: Dict[str, Any]) -> NoReturn:
    """Go on as a zygote that starts interpreters: the program's memory is given back.

    Raises:
        OSError: the interpreter can't be executed.
    """
    setup = unnamed_file()
    os.write(setup, dump_json({**told, "start": "spawn"}))
    os.lseek(setup, 0, os.SEEK_SET)
    descriptors = control.fileno(), setup
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    flush_output()
    command = [*told["command"], *map(str, descriptors)]
    os.execv(command[0], command)


def live_as_zygote(control: socket.socket, setup: bytes, load: Load) -> NoReturn:
    """Be an executed zygote until the end of the process; never returns."""
    code = 1
    try:
        told = load_json(setup)
        assert isinstance(told, dict)
        program = load(told) if told["start"] != "spawn" else None
        keep_log()
        threads = count_lasting_threads() if program else 1
        if threads > 1 and told["start"] == "auto":
            log.warning(
                "the program starts threads when it is imported, so each worker "
                'imports it, as with pool_start="spawn"'
            )
            live_without_program(control, told)
        if threads > 1:
            log.warning(THREADS_FORKED, threads)
        if program is not None:
            warn_of_connections()
        settle_memory()
        flush_output()  # what importing printed, or each fork would print it too
        Zygote(control, program, told["command"], threads).serve()
        code = 0
    except BaseException:
        keep_log()
        log.exception("the program can't be imported")
    finally:
        flush_output()
        os._exit(code)


def live_apart(load: Load) -> NoReturn:
    """Be what this new interpreter was started for: a zygote or a worker.

    Args:
        load: imports the application as the frame BOOT says, and returns its program.
    """
    fill_standard_descriptors()
    numbers = list(map(int, sys.argv[1:]))
    # Of a zygote its socket, and perhaps a file with what main has told it.
    descriptors = numbers[:3]
    listing = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    for name in os.listdir(listing):
        if int(name) not in (0, 1, 2, *descriptors):
            try:
                os.close(int(name))  # a listener, which could be inherited
            except OSError:
                pass  # it was the one that listed
    if len(numbers) > 2:
        live_as_worker(descriptors, numbers[3], load)
    control = socket.socket(fileno=descriptors[0])
    if len(numbers) == 2:
        with open(descriptors[1], "rb") as file:
            setup = file.read()
    else:
        header = _FRAME.unpack(control.recv(_FRAME.size, socket.MSG_WAITALL))
        setup = control.recv(header[0], socket.MSG_WAITALL)
    live_as_zygote(control, setup, load)


class ZygoteLink:
    """Main's end of the socket to a zygote, which is a child of main.

    Attributes:
        origin: what the workers are to import; None where they are forked with it.
        proven: a worker of it has been ready.
    """

    all: ClassVar[Set[ZygoteLink]] = set()  # that have not ended

    def __init__(
        self, control: socket.socket, pid: int, origin: Optional[Dict[str, Any]] = None
    ) -> None:
        self.pid = pid
        self.origin = origin
        self.proven = False
        self._ended = False
        self._control = control
        self.all.add(self)
        self._reports = bytearray()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._control.fileno()

    def order(
        self, what: int, number: int, value: int = 0, descriptors: Sequence[int] = ()
    ) -> None:
        """Send an order; a zygote that does not take it is killed."""
        end_copy()
        if self._ended:
            return
        rights = []
        if descriptors:
            numbers = array.array("i", descriptors)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
        try:
            # Blocking: the zygote empties its end in no time, and no order may be lost.
            self._control.settimeout(ORDER_SECONDS)
            self._control.sendmsg([_ORDER.pack(what, number, value)], rights)
            self._control.setblocking(False)
            os.kill(self.pid, signal.SIGCONT)  # somebody may have stopped it
        except OSError as error:
            log.critical("the zygote does not take orders: %s", error)
            self.kill()

    def reports(self) -> Optional[List[Tuple[int, int, int, int]]]:
        """Return (what, number, pid, status) of all that has come; None at the end."""
        try:
            data = self._control.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            return None
        self._reports += data
        whole = len(self._reports) // _REPORT.size * _REPORT.size
        found = list(_REPORT.iter_unpack(self._reports[:whole]))
        del self._reports[:whole]
        return cast(List[Tuple[int, int, int, int]], found)

    def kill(self) -> None:
        """Have it die at once; main then reads the end of its socket."""
        os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so the pid is its own

    def end(self) -> None:
        """Hang up, which ends it with all of its workers, and reap it."""
        self._ended = True
        self.all.discard(self)
        self._control.close()
        os.kill(self.pid, signal.SIGCONT)  # stopped, it would not see that
        os.waitpid(self.pid, 0)


def fork_zygote(program: Program, unwanted: Sequence[int] = ()) -> ZygoteLink:
    """Fork the zygote, while this process has one thread and no event loop.

    It closes the descriptors in `unwanted`: a listener would outlive main in it.
    """
    settle_memory()
    threads = count_lasting_threads()
    control, remote = socket.socketpair()
    flush_output()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            control.close()
            for descriptor in unwanted:
                os.close(descriptor)
            for other in ZygoteLink.all:
                other._control.close()  # of the other pools: their ends must be seen
            Zygote(remote, program, threads=threads).serve()
            code = 0
        finally:
            flush_output()
            os._exit(code)
    remote.close()
    return ZygoteLink(control, pid)


def exec_zygote(launch: Launch, start: str) -> ZygoteLink:
    """Start a zygote as a new interpreter.

    Args:
        start: "exec", "spawn", or "auto": the first, unless the program has threads.
    """
    setup = dump_json({**launch.origin, "start": start, "command": launch.command})
    control, remote = socket.socketpair()
    with remote:
        remote.set_inheritable(True)
        pid = start_interpreter(launch.command, remote.fileno())
    control.sendall(_FRAME.pack(len(setup), Frame.BOOT, 0, 0, 0) + setup)
    return ZygoteLink(control, pid, launch.origin)


# The pool: in main --------------------------------------------------------------------


class Job:
    """One request for the pool, from its arrival to its answer.

    Args:
        number: its own among all (int).
        future: takes the answer.
    """

    def __init__(
        self,
        number: int,
        route: Route,
        request: Request,
        future: asyncio.Future[Response],
    ) -> None:
        self.number = number
        self.route = route
        self.request = request
        # Written here, so that what can't travel (env.context) fails its own request.
        self.frame = encode_run(route, number, request)
        if request.body_file is not None:
            request.body_file.hold(self)
        self.arrived = time.monotonic()
        self.started = 0.0
        self.deadline = NEVER  # of what it is at: waiting, running, its next chunk
        self.future = future
        self.worker: Optional[Worker] = None
        self.stream: Optional[WorkerStream] = None
        # Which kind of slot it has.
        self.is_stream = route.placement is RouteType.stream

    def end(self) -> None:
        """Note that no worker has it, or will have it: its body is not needed."""
        if self.request.body_file is not None:
            self.request.body_file.release(self)

    def answer(self, response: Response) -> None:
        """Give the answer to whoever waits; nobody, if the client has gone."""
        self.deadline = NEVER
        if not self.future.done():
            self.future.set_result(response)

    def fail(self, error: Exception) -> None:
        """End with an error: of the request, or of the stream that is under way."""
        self.deadline = NEVER
        if self.stream is not None:
            self.stream.end(error)
        elif not self.future.done():
            self.future.set_exception(error)


class WorkerStream:
    """The chunks that a worker sends, for whoever sends them on.

    Not pulling is the backpressure: main stops reading from the worker, whose next send
    then blocks. The deadline between two chunks runs only while somebody waits.

    Attributes:
        inside_chunk: the last piece that was given is not the last one of its chunk.
    """

    def __init__(self, pool: Pool, worker: Worker, job: Job) -> None:
        self._pool = pool
        self._worker = worker
        self._job = job
        self.inside_chunk = False
        self._chunks: Deque[Tuple[bytes, bool]] = deque()
        self._held_bytes = 0
        self._waiter: Optional[asyncio.Future[None]] = None
        self._ended = False
        self._error: Optional[Exception] = None
        self._discarding = False
        self._paused = False

    def put(self, chunk: bytes, has_more: bool) -> None:
        """Take a chunk from the worker, or a piece of one."""
        if self._discarding:
            return
        self._chunks.append((chunk, has_more))
        self._held_bytes += len(chunk)
        self._wake()
        if self._held_bytes > STREAM_BUFFER_BYTES and not self._paused:
            self._paused = True
            self._worker.pause()

    def end(self, error: Optional[Exception] = None) -> None:
        """Note that no more will come: an orderly end, or an error."""
        if not self._ended:
            self._ended, self._error = True, error
            self._wake()
            self._resume()  # its next job must be heard, however slow this client is

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._worker.resume()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> WorkerStream:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            await self._wait()
        chunk, self.inside_chunk = self._chunks.popleft()
        self._held_bytes -= len(chunk)
        if self._held_bytes <= STREAM_BUFFER_BYTES // 2:
            self._resume()
        return chunk

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._pool.watch(self._job)
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._job.deadline = NEVER

    async def aclose(self) -> None:
        """Stop the worker's generator at its next `yield`, or at once with "kill".

        What it still sends is read and dropped: it may be blocked in a send, and would
        not see the Frame.CANCEL otherwise.
        """
        if self._ended or self._discarding:
            return
        self._discarding = True
        self._chunks.clear()
        if self._job.route.on_disconnect == "kill":
            self._pool.retire(self._worker, hard=True)
            return
        self._worker.send(Frame.CANCEL, self._job)
        self._resume()
        self._pool.watch(self._job)


def open_worker_files() -> List[int]:
    """Return descriptors: main's ends of two pipes, the worker's, its trace.

    Raises:
        OSError: there are too many; none is left open.
    """
    opened: List[int] = []
    try:
        opened += os.pipe()
        opened += os.pipe()
        opened.append(unnamed_file())
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    from_worker, its_outgoing, its_incoming, to_worker, trace = opened
    for descriptor in (from_worker, to_worker):
        os.set_blocking(descriptor, False)
    return [from_worker, to_worker, its_incoming, its_outgoing, trace]


class Worker:
    """Main's view of one worker process: its state, its pipes, its job."""

    # PERF: pipes that the loop only watches, in place of a socket with a transport: 3
    # of 55 us in main. Each way has its own, since the reader of a socket is woken for
    # nothing whenever the other side reads, too.

    def __init__(self, pool: Pool, number: int, zygote: ZygoteLink) -> None:
        self.pool = pool
        self.number = number
        self.zygote = zygote
        files = open_worker_files()
        self._incoming, self._outgoing = files[:2]
        self.its_files = files[2:]  # for the zygote to hand on
        self.trace = files[-1]  # where it writes what it was at when it is killed
        self.pid = 0
        self.forked_threads = (
            1  # that ran in its zygote; what more than one held, hangs
        )
        self.state = "starting"
        self.job: Optional[Job] = None
        self.slot_is_stream: Optional[bool] = None  # which kind of slot it takes up
        self.tasks = 0
        self.born = self.idle_since = time.monotonic()
        # How much of its bounds it may use up: workers that started together must not
        # end together. Multiples of the golden ratio lie apart.
        self.share = 0.9 + 0.1 * (number * 0.618034 % 1)
        self.last_job = False  # its replacement is there: it ends after this one
        self.booted = False
        self.crashed = False  # it ended without being asked to
        self.late = False  # the deadline of its job has passed
        self.hung = False  # it did not end when it was asked to
        self.ended = False  # the process is gone; what it sent may still be unread
        self.timer: Optional[asyncio.TimerHandle] = None
        self._frames = FrameBuffer()
        self._unsent = bytearray()  # what its pipe has no room for

    def open(self) -> None:
        """Have it started, and send what it boots with."""
        try:
            self.zygote.order(START, self.number, descriptors=self.its_files)
        finally:
            for descriptor in self.its_files[:2]:
                os.close(descriptor)
        self.pool.loop.add_reader(self._incoming, self._readable)
        setup = {**(self.zygote.origin or {}), "number": self.number}
        setup.update(self.pool.options._asdict(), pool=self.pool.name)
        setup["log_level"] = log.getEffectiveLevel()
        data = dump_json(setup)
        self._write(_FRAME.pack(len(data), Frame.BOOT, 0, 0, 0) + data)

    def close(self) -> None:
        """Close its pipes, which it takes as the order to end; once."""
        if self._incoming < 0:
            return
        self.pool.loop.remove_reader(self._incoming)
        self.pool.loop.remove_writer(self._outgoing)
        os.close(self._incoming)
        os.close(self._outgoing)
        self._incoming = self._outgoing = -1

    def _readable(self) -> None:
        try:
            data = os.read(self._incoming, RECEIVE_BYTES)
        except BlockingIOError:
            return
        if data:
            self.take(data)
        else:
            self.pool.lost(self)  # it has died, or closed its pipe

    def take(self, data: bytes) -> None:
        """Take frames; a worker that sends what can't be is retired."""
        try:
            for header, payload in self._frames.feed(data):
                if self.state == "dying":
                    return
                self._take(header, payload)
        except (PixieError, TypeError, ValueError, struct.error) as error:
            log.error("worker %d sent no proper frame: %s", self.number, error)
            self.pool.lost(self)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH):
                log.error("an answer's file can't be opened: %s", error)
            self.pool.lost(self)  # else it was killed before we could open it

    def take_rest(self) -> None:
        """Take what the process sent before it ended: its end may be known sooner."""
        self.ended = True
        try:
            while self.state != "dying":
                data = os.read(self._incoming, RECEIVE_BYTES)
                if not data:
                    return
                self.take(data)
        except OSError:
            pass  # nothing is left: something it started has the pipe open

    def order(self, value: int) -> None:
        """Have the worker signalled."""
        self.zygote.order(SIGNAL, self.number, value)

    def take_trace(self) -> str:
        """Return what the worker wrote when it was killed, and close the file."""
        text = os.pread(self.trace, 65_536, 0).decode("utf-8", "replace").rstrip()
        os.close(self.trace)
        return f"; it was at:\n{text}" if text else ""

    def send(self, kind: int, job: Job) -> None:
        """Send a frame without payload that is about a job."""
        self._write(_FRAME.pack(0, kind, 0, job.route.index, job.number))

    def _write(self, data: bytes) -> None:
        if self.state == "dying":
            return
        if not self._unsent:
            try:
                data = data[os.write(self._outgoing, data) :]
            except BlockingIOError:
                pass
            except OSError:
                return  # it has died: reading says so
            if not data:
                return
            self.pool.loop.add_writer(self._outgoing, self._write_rest)
        self._unsent += data

    def _write_rest(self) -> None:
        try:
            del self._unsent[: os.write(self._outgoing, self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        if not self._unsent:
            self.pool.loop.remove_writer(self._outgoing)

    def pause(self) -> None:
        """Stop reading, so that the worker's next send blocks."""
        if self.state != "dying":
            self.pool.loop.remove_reader(self._incoming)

    def resume(self) -> None:
        """Read on."""
        if self.state != "dying":
            self.pool.loop.add_reader(self._incoming, self._readable)

    def start(self, job: Job) -> None:
        """Send a job to the worker."""
        self.state = "busy"
        self.job = job
        self.tasks += 1
        job.worker = self
        head, body = job.frame
        if len(body) <= MAX_HEAD_BYTES:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)

    def _take(self, header: Tuple[int, ...], payload: bytes) -> None:
        _, kind, flags, _, number = header
        if kind == Frame.LOG:
            log.log(flags, "%s", payload.decode("utf-8", "replace"))
            return
        if kind == Frame.READY and self.state == "starting":
            self.pool.ready(self, payload)
            return
        job = self.job
        if job is None or number != job.number:
            raise PixieError(f"frame {kind} for a request that it does not have")
        if kind == Frame.LOST:
            if not job.route.was_warned_of:
                job.route.was_warned_of = True
                names = payload.decode("utf-8", "replace")
                log.warning(LOST_WARNING, job.route.path, names)
            return
        if kind in (Frame.RESPONSE, Frame.FILE, Frame.HEAD) and job.stream is None:
            self._take_result(job, kind, flags, payload)
            if kind != Frame.HEAD:
                self.pool.release(self, bool(flags & Frame.RETIRE))
        elif kind == Frame.DATA and job.stream is not None:
            job.stream.put(payload, bool(flags & Frame.MORE))
        elif kind == Frame.END and job.stream is not None:
            broken = AnswerLost(500) if flags & Frame.BROKEN else None
            job.stream.end(broken)
            self.pool.release(self, bool(flags & Frame.RETIRE))
        else:
            raise PixieError(f"frame {kind} out of turn")

    def _take_result(self, job: Job, kind: int, flags: int, payload: bytes) -> None:
        status, size, block_size = _RESULT.unpack_from(payload)
        at = _RESULT.size + block_size
        block = payload[_RESULT.size : at]
        # SECURITY: a worker runs code we do not know; what it sends is checked before
        # it is put on the wire.
        if not 200 <= status <= 999 or not is_header_block(block):
            raise PixieError("a malformed response")
        body: AnyBody
        if kind == Frame.FILE and flags & Frame.SPOOLED:
            try:
                body = self._open_answer(job, payload[at:], size)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                self.send(Frame.CANCEL, job)  # the worker is not to blame, and goes on
                job.fail(no_descriptor(job.request, error))
                return
        elif kind == Frame.FILE:
            options, _, path = payload[at:].partition(b"\0")
            body = StaticFile(os.fsdecode(path), *cast(List[Any], load_json(options)))
        elif kind == Frame.HEAD:
            body = job.stream = WorkerStream(self.pool, self, job)
        else:
            body = payload[at:]
        response = Response.from_block(status, block, body)
        if kind == Frame.HEAD:
            response.stream_bytes = size if size >= 0 else None
            self.pool.streams(job)
        job.answer(response)

    def _open_answer(self, job: Job, name: bytes, size: int) -> FileSlice:
        """Open the file that the worker has put a large answer into, and tell it so."""
        if job.future.done():
            return FileSlice("", 0, 0)  # nobody waits for it
        token, path = name[:ANSWER_TOKEN_BYTES], name[ANSWER_TOKEN_BYTES:]
        # SECURITY: should it name a pipe, main must not wait for what is written there.
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        job.request.after_response(partial(os.close, opened))
        if os.pread(opened, ANSWER_TOKEN_BYTES, size) != token:
            raise PixieError("a large answer is not in the file that it is said to be")
        self.send(Frame.CANCEL, job)
        return FileSlice("", 0, size, descriptor=opened)


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds, shared pages too (Linux; else 0)."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def exit_cause(status: int) -> str:
    """Return how a process ended: "SIGSEGV", "exit code 1", or "fork" if it never ran.

    Args:
        status: as `os.waitpid` gives it, or less than 0.
    """
    if status < 0:
        return "fork"
    if not os.WIFSIGNALED(status):
        return f"exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    known = number in set(signal.Signals)
    return signal.Signals(number).name if known else f"signal {number}"


def worker_stats(worker: Worker) -> Dict[str, Any]:
    """Return what can be told of a worker, for `Application.stats`."""
    now, job = time.monotonic(), worker.job
    return {
        "number": worker.number,
        "pid": worker.pid,
        "state": worker.state,
        "route": job and job.route.path,
        "run_seconds": job and now - job.started,
        "age_seconds": now - worker.born,
        "tasks": worker.tasks,
        "memory_bytes": resident_bytes(worker.pid),
    }


def boot_delay_seconds(failures: int) -> float:
    """Return how long to wait before the next try to boot a worker: 0, 0.2 ... 10."""
    return min(10.0, 0.1 * 2**failures) if failures else 0.0


def log_exit(worker: Worker, job: Optional[Job], status: int) -> None:
    """Log the end of a worker that main did not ask for, why it ended, and where."""
    cause = exit_cause(status)
    how = f"{'was killed by' if os.WIFSIGNALED(status) else 'ended with'} {cause}"
    if status < 0:
        how = f"could not be started: {os.strerror(-status)}"
    what = "while it was idle" if worker.booted else "while it booted"
    if job is not None:
        what = f"while it ran {job.route.path}"
    where = worker.take_trace()
    if worker.hung:
        how = "did not end when it was told to, and was killed"
    elif worker.late:
        how = "was stopped"
    elif not worker.crashed:
        return
    if worker.forked_threads > 1 and (worker.hung or worker.late):
        how += f" (forked while {worker.forked_threads} threads ran: see pool_start)"
    log.error("worker %d (pid %d) %s %s%s", worker.number, worker.pid, how, what, where)


def difference(expected: bytes, found: bytes) -> str:
    """Return the first difference between two tables of routes, as text."""
    from itertools import zip_longest

    texts = (table.decode("utf-8", "replace") for table in (expected, found))
    lines = zip_longest(*(text.split("\n") for text in texts), fillvalue="none")
    return next(
        (f"{new} in place of {old}" for old, new in lines if old != new), "none"
    )


class Breaker:
    """Switches a route off for a while when workers keep dying of it.

    Args:
        limit: deaths within CRASH_WINDOW_SECONDS that are too many (int); 0: none are.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._deaths: Dict[Route, Deque[float]] = {}

    def note(self, route: Route) -> bool:
        """Count a death; return whether the route is switched off by it."""
        if not self._limit:
            return False
        deaths = self._deaths.setdefault(route, deque(maxlen=self._limit))
        deaths.append(time.monotonic())
        return self.seconds_left(route) > 0

    def seconds_left(self, route: Route) -> float:
        """Return for how long the route stays switched off; 0 if it is not."""
        deaths = self._deaths.get(route, ())
        if len(deaths) < self._limit or not deaths:
            return 0.0
        if deaths[-1] - deaths[0] > CRASH_WINDOW_SECONDS:
            return 0.0
        return max(0.0, deaths[-1] + CRASH_REST_SECONDS - time.monotonic())


class Pool:
    """The worker processes, and the jobs that wait for them.

    Args:
        program: what the workers run.
        options: `workers` is how many handlers run at once (int, from 1).
        start_by: "zygote", "exec", "spawn", or "auto" for one of the last two.
        launch: says how a new interpreter finds the program.
        name: of a pool beside the first.

    Jobs that return run on `size` slots; streams run on `max_streams` slots of their
    own, so slow readers do not starve the rest. Idle workers are taken last in, first
    out: the caches of the last one are warm.
    """

    def __init__(
        self,
        program: Program,
        options: PoolOptions,
        start_by: str = "zygote",
        launch: Optional[Callable[[], Launch]] = None,
        name: str = "",
    ) -> None:
        self.options = options
        self.name = name
        self.size = size = options.workers
        self.max_streams = options.max_streams
        if self.max_streams < 0:
            self.max_streams = STREAMS_PER_WORKER * size
        self._least = options.min_workers if 0 <= options.min_workers < size else size
        self.start_by = start_by
        self._breaker = Breaker(options.max_crashes)
        self._outgoing: Optional[Worker] = None  # the one that is being replaced
        self._sweeper: Optional[asyncio.TimerHandle] = None
        self._program = program
        self._launch = launch
        self._zygote: Optional[ZygoteLink] = None
        self.loop: asyncio.AbstractEventLoop
        self._workers: Dict[int, Worker] = {}
        self._idle: List[Worker] = []
        self._admitted: Deque[Job] = deque()  # have a slot, wait for a worker to boot
        self._queues: Dict[Route, Deque[Job]] = {}
        self._running: Dict[Route, int] = {}
        self._waiting = self._jobs = self._streams = 0
        self._numbers = self._requests = 0  # of the last ones
        self._mean_seconds = 0.1
        self.deaths: Dict[str, int] = {}  # of workers, by cause; "" is main's order
        self._starting = 0  # workers about to be asked for
        self._boot_failures = 0
        self._boot_after = 0.0  # when the next try may be, after a failure
        self._closing = False
        self._all_gone: Optional[asyncio.Future[None]] = None
        # PERF: one timer for all jobs, set when it would ring too late: 4 us for each.
        self._alarm: Optional[asyncio.TimerHandle] = None
        self._alarm_at = NEVER

    # Life.

    def prepare(self, unwanted: Sequence[int] = ()) -> None:
        """Start the zygote; a fork, before there is a loop or a thread.

        Raises:
            PixieError: a new interpreter would not find the application.
        """
        if self.start_by == "zygote":
            self._zygote = fork_zygote(self._program, unwanted)
        else:
            self._zygote = self._exec_zygote()

    def _exec_zygote(self) -> ZygoteLink:
        if self._launch is None:
            raise PixieError("this pool can't be started anew")
        start = "exec" if self.start_by == "zygote" else self.start_by
        return exec_zygote(self._launch(), start)

    async def start(self) -> None:
        """Start the workers; jobs that come before they are ready wait for them."""
        self.loop = asyncio.get_running_loop()
        assert self._zygote is not None
        self._listen(self._zygote)
        proc_env.pool = proc_env.pool or self
        for _ in range(self._least):
            self._spawn()
        self._sweep()

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Let the workers end, kill the late ones after `seconds`, end the zygote."""
        self.loop = asyncio.get_running_loop()  # it may not have come to `start`
        self._closing = True
        for timer in (self._sweeper, self._alarm):
            if timer is not None:
                timer.cancel()
        for worker in list(self._workers.values()):
            self.retire(worker)
        if self._workers:
            self._all_gone = self.loop.create_future()
            timer = self.loop.call_later(seconds, self._kill_all)
            give_up = self.loop.call_later(seconds + 2, self._stop_waiting)
            await self._all_gone
            timer.cancel()
            give_up.cancel()
        if self._zygote is not None:
            self.loop.remove_reader(self._zygote.fileno())
        proc_env.pool = None
        self.end_zygote()

    def end_zygote(self) -> None:
        """End the zygote; all there is to do for a pool that was never started."""
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.end()

    def descriptors(self) -> Set[int]:
        """Return the descriptors of its processes that this one holds."""
        found = {self._zygote.fileno()} if self._zygote is not None else set()
        for worker in self._workers.values():
            found.update((worker._incoming, worker._outgoing))
        return found - {-1}

    def reopen_logs(self) -> None:
        """Have the workers, and what starts them, open their log files again."""
        if self._zygote is not None:
            self._zygote.order(SIGNAL, 0, signal.SIGHUP)
        for worker in self._workers.values():
            if worker.booted:
                worker.order(signal.SIGHUP)

    async def check_boot(self) -> None:
        """Wait for a worker that is ready.

        Raises:
            PixieError: the first one to boot, or what starts it, has failed.
        """
        if not self._workers:
            self._spawn()
        while self._zygote is None or not self._zygote.proven:
            if self._boot_failures:
                where = f" of the pool {self.name}" if self.name else ""
                raise PixieError(f"no worker{where} can boot: the log says why")
            await asyncio.sleep(BOOT_LOOK_SECONDS)

    def hurry(self) -> None:
        """Kill the workers that `stop` waits for."""
        if self._closing:
            self._kill_all()

    def _kill_all(self) -> None:
        for worker in list(self._workers.values()):
            worker.order(signal.SIGKILL)

    def _stop_waiting(self) -> None:
        if self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)

    # The zygote.

    def _listen(self, zygote: ZygoteLink) -> None:
        self.loop.add_reader(zygote.fileno(), self._read_reports, zygote)

    def _read_reports(self, zygote: ZygoteLink) -> None:
        reports = zygote.reports()
        if reports is None:
            self._zygote_died(zygote)
            return
        for what, number, pid, status in reports:
            if what == EXITED:
                self._exited(number, status)
            elif number in self._workers:
                self._workers[number].pid = pid
                self._workers[number].forked_threads = status

    def _zygote_died(self, zygote: ZygoteLink) -> None:
        """Start another: what runs is lost, what waits goes on waiting."""
        zygote.kill()  # it may have done no more than close its socket
        self.loop.remove_reader(zygote.fileno())
        self.end_zygote()
        log.critical("the zygote (pid %d), which starts workers, died", zygote.pid)
        if not zygote.proven:
            self._boot_failed()
        for worker in list(self._workers.values()):
            self._lose_to_zygote(worker)
        if not self._closing:
            self.loop.call_later(self._boot_delay(), self._renew_zygote)

    def _lose_to_zygote(self, worker: Worker) -> None:
        try:
            if worker.pid:
                os.killpg(worker.pid, signal.SIGKILL)
        except OSError:
            pass  # the kernel was faster: die_with_parent
        self.lost(worker)
        worker.crashed = False  # by no fault of what it ran
        self._exited(worker.number, signal.SIGKILL)

    def _renew_zygote(self) -> None:
        if self._closing:
            return
        try:
            self._zygote = self._exec_zygote()
        except (PixieError, OSError) as error:
            log.critical("no worker can be started, restart the server: %s", error)
            self._closing = True
            self._reject_waiting()
            return
        self._listen(self._zygote)
        self._ensure_workers()

    # Workers.

    def _spawn(self) -> None:
        assert self._zygote is not None
        worker = Worker(self, self._numbers + 1, self._zygote)
        self._numbers += 1
        self._workers[worker.number] = worker
        worker.timer = self.loop.call_later(BOOT_SECONDS, self._boot_late, worker)
        worker.open()

    def _missing(self) -> int:
        """Return how many workers to start: one for each slot taken, and at least some.

        While one is being replaced, it is one more.
        """
        if self._closing or self._zygote is None:
            return 0
        wanted = max(self._least, self._jobs + self._streams) - self._starting
        if self._outgoing is not None:
            wanted += self._outgoing.state != "dying"
        for worker in self._workers.values():
            leaves = worker.state == "dying" and worker.slot_is_stream is None
            wanted -= not (leaves or worker.last_job)
        return wanted

    def _ensure_workers(self) -> None:
        for _ in range(self._missing()):
            self._starting += 1
            self.loop.call_later(self._boot_delay(), self._start_one)

    def _start_one(self) -> None:
        self._starting -= 1
        if self._missing() <= 0:
            return
        try:
            self._spawn()
        except OSError as error:
            log.error("a worker can't be started: %s", error)
            self._boot_failed()
            self._ensure_workers()

    def _boot_failed(self) -> None:
        """Wait longer before the next try; workers that fail together count once."""
        now = time.monotonic()
        if now >= self._boot_after:
            self._boot_failures += 1
            self._boot_after = now + boot_delay_seconds(self._boot_failures)

    def _boot_delay(self) -> float:
        return max(0.0, self._boot_after - time.monotonic())

    def _boot_late(self, worker: Worker) -> None:
        log.error("worker %d was not ready within %g s", worker.number, BOOT_SECONDS)
        self.retire(worker, hard=True)

    def ready(self, worker: Worker, table: bytes) -> None:
        """Take a worker that has booted, unless it would run other handlers.

        Args:
            table: the routes that it has found; empty if it was forked with main's.
        """
        if table and table != self._program.table:
            what = difference(self._program.table, table)
            log.error("worker %d has other routes: %s", worker.number, what)
            self.retire(worker, hard=True)
            return
        self._boot_failures, self._boot_after = 0, 0.0
        worker.booted = worker.zygote.proven = True
        assert worker.timer is not None
        worker.timer.cancel()
        self._put_to_work(worker)
        old = self._outgoing
        if old is not None and old is not worker and old.state == "idle":
            self.retire(old)
        elif old is not None and old is not worker:
            old.last_job = True
            self._outgoing = None  # it may take long: the next one need not wait

    # Replacing workers: the new one is ready first, and one goes at a time.

    def _is_due(self, worker: Worker) -> bool:
        """Return whether a worker has used up what it may."""
        options, share = self.options, worker.share
        tasks, age = options.max_tasks_per_worker, options.max_worker_age_seconds
        if tasks and worker.tasks >= tasks * share:
            return True
        if age and time.monotonic() - worker.born >= age * share:
            return True
        return self._is_larger(worker, share)

    def _is_larger(self, worker: Worker, share: float) -> bool:
        most = self.options.max_worker_bytes
        return bool(most) and resident_bytes(worker.pid) >= most * share

    def _recycle(self, worker: Worker) -> None:
        """Have a worker replaced if it is due, and no other is being replaced."""
        if self._outgoing is not None or worker.last_job:
            return
        if self._zygote is not None and self._is_due(worker):
            self._outgoing = worker
            self._ensure_workers()

    def _recycle_next(self) -> None:
        for worker in list(self._workers.values()):
            if worker.state in ("idle", "busy"):
                self._recycle(worker)

    def _sweep(self) -> None:
        """Find workers that have grown old, and end those that nobody needs."""
        self._sweeper = self.loop.call_later(POOL_SWEEP_SECONDS, self._sweep)
        self._recycle_next()
        alive = [one for one in self._workers.values() if one.state != "dying"]
        until = time.monotonic() - self.options.worker_idle_seconds
        for worker in self._idle[: max(0, len(alive) - self._least)]:
            if worker.idle_since <= until:
                self.retire(worker)

    def release(self, worker: Worker, retire: bool) -> None:
        """Take back a worker whose job is done."""
        job, worker.job = worker.job, None
        assert job is not None
        job.end()
        seconds = time.monotonic() - job.started
        if not job.is_stream:
            self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
        self._running[job.route] -= 1
        # Its replacement may take long to boot; beyond its bound it does not wait.
        if retire or worker.last_job or self._is_larger(worker, 1.0):
            self.retire(worker)
            return
        self._free_slot(worker)
        self._put_to_work(worker)
        self._dispatch()
        self._recycle(worker)

    def _free_slot(self, worker: Worker) -> None:
        if worker.slot_is_stream is not None:
            if worker.slot_is_stream:
                self._streams -= 1
            else:
                self._jobs -= 1
            worker.slot_is_stream = None

    def _put_to_work(self, worker: Worker) -> None:
        if worker.ended or self._closing:
            self.retire(worker)
        elif self._admitted:
            self._start(worker, self._admitted.popleft())
        else:
            worker.state = "idle"
            worker.idle_since = time.monotonic()
            self._idle.append(worker)

    def retire(self, worker: Worker, hard: bool = False, soft: bool = False) -> None:
        """End a worker; its pipes are never used again, its slot free when it is gone.

        Args:
            hard: kill at once.
            soft: raise RequestTimeout in its handler first.
        Otherwise it may end by itself. In each case it is killed after the grace.
        """
        if worker.state == "dying":
            return
        if worker in self._idle:
            self._idle.remove(worker)
        # What is killed must not see its pipes end first, and clean up by half.
        (worker.pause if hard else worker.close)()
        worker.state = "dying"
        if worker.timer is not None:
            worker.timer.cancel()
        if hard or soft:
            worker.order(signal.SIGKILL if hard else signal.SIGUSR2)
        grace = self.options.timeout_grace_seconds if soft else STOP_SECONDS
        worker.timer = self.loop.call_later(grace, self._grace_over, worker)

    def _grace_over(self, worker: Worker) -> None:
        """Have a worker write where it hangs, and kill it a moment later."""
        worker.hung = True
        size = os.fstat(worker.trace).st_size  # of where it was at its deadline
        worker.order(signal.SIGUSR1)
        self._await_trace(worker, size, size, TRACE_SECONDS)

    def _await_trace(self, worker: Worker, first: int, size: int, left: float) -> None:
        found = os.fstat(worker.trace).st_size
        if first < found == size or left <= 0:
            worker.order(signal.SIGKILL)
            return
        left -= TRACE_LOOK_SECONDS
        look = partial(self._await_trace, worker, first, found, left)
        worker.timer = self.loop.call_later(TRACE_LOOK_SECONDS, look)

    def lost(self, worker: Worker) -> None:
        """Note that a worker's connection has ended; its job has failed."""
        if worker.state == "dying":
            return
        worker.crashed = True
        self.retire(worker, hard=True)
        if worker.job is not None:
            worker.job.fail(AnswerLost(502, "The worker that ran this request died."))

    def _count_exit(self, worker: Worker, job: Optional[Job], status: int) -> None:
        cause = exit_cause(status)
        if worker.crashed or cause == "SIGKILL":
            key = cause if worker.crashed else ""
            self.deaths[key] = self.deaths.get(key, 0) + 1
        if worker.crashed and job is not None:
            job.route.counts.crashes += 1

    def _exited(self, number: int, status: int) -> None:
        worker = self._workers.pop(number, None)
        if worker is None:
            return
        worker.take_rest()
        self.lost(worker)
        if worker.timer is not None:
            worker.timer.cancel()
        worker.close()
        job, worker.job = worker.job, None
        self._count_exit(worker, job, status)
        self._free_slot(worker)
        if job is not None:
            job.end()
            self._running[job.route] -= 1
            # Nobody waits any more, but where the server has ended its connection.
            job.fail(AnswerLost(502, "The worker that ran this request was ended."))
        log_exit(worker, job, status)
        if worker is self._outgoing:
            self._outgoing = None
        if self._closing:
            if not self._workers:
                self._stop_waiting()
            return
        if worker.crashed and job is not None and self._breaker.note(job.route):
            seconds = CRASH_REST_SECONDS
            log.error("%s is off for %g s: workers die of it", job.route.path, seconds)
            self._reject_waiting(job.route)
        if not worker.booted and worker.zygote is self._zygote:
            self._boot_failed()
        self._ensure_workers()
        self._recycle_next()
        self._dispatch()

    def stats(self) -> Dict[str, Any]:
        """Return its bounds, counts and workers, for `Application.stats`."""
        crashes = dict(self.deaths)
        return {
            "size": self.size,
            "busy": self._jobs,
            "max_streams": self.max_streams,
            "streams": self._streams,
            "max_waiting": WAITING_PER_SLOT * self.size,
            "waiting": self._waiting + len(self._admitted),
            "started": self._numbers,
            "kills": crashes.pop("", 0),
            "crashes": crashes,
            "workers": [worker_stats(one) for one in list(self._workers.values())],
        }

    # Jobs.

    async def run(self, route: Route, request: Request) -> Response:
        """Run a route in a worker, now or when its turn has come.

        Raises:
            HTTPError: 503 when too much waits, it waited too long, or workers keep
                dying of it, 504 at the deadline, 502 when the worker died.
        """
        self._requests = (self._requests + 1) & 0xFFFFFFFF
        job = Job(self._requests, route, request, self.loop.create_future())
        try:
            if self._closing or self._breaker.seconds_left(route):
                raise self._rejection(route)
            if self._may_start(route) and not self._queues.get(route):
                self._admit(job)
            else:
                self._enqueue(job)
            return await self._answer_of(job)
        finally:
            if job.worker is None:
                self._drop(job)  # nobody waits for it any more, where this is cancelled
                job.end()

    async def _answer_of(self, job: Job) -> Response:
        request = job.request
        disconnect = request.disconnect or Disconnect()
        left = partial(self._client_left, job)
        disconnect.add(left)
        try:
            return await job.future
        finally:
            disconnect.remove(left)
            request.queue_seconds = (job.started or time.monotonic()) - job.arrived

    def _may_start(self, route: Route) -> bool:
        if route.limit is not None and self._running.get(route, 0) >= route.limit:
            return False
        if route.placement is RouteType.stream:
            return self._streams < self.max_streams
        return self._jobs < self.size

    def _admit(self, job: Job) -> None:
        """Give a job its slot, and a worker: an idle one, or the next that is ready."""
        self._running[job.route] = self._running.get(job.route, 0) + 1
        if job.is_stream:
            self._streams += 1
        else:
            self._jobs += 1
        if self._idle:
            self._start(self._idle.pop(), job)
            return
        self._admitted.append(job)
        self._limit_wait(job)
        self._ensure_workers()

    def _start(self, worker: Worker, job: Job) -> None:
        worker.slot_is_stream = job.is_stream
        job.started = time.monotonic()
        worker.start(job)
        self.watch(job)

    def _enqueue(self, job: Job) -> None:
        queue = self._queues.get(job.route)
        if queue is None:
            queue = self._queues[job.route] = deque()
        room = own_room = WAITING_PER_SLOT * self.size
        if job.is_stream:
            own_room = room // 2  # streams last: leave room for the others
        if job.route.limit is not None:
            own_room = min(own_room, WAITING_PER_SLOT * job.route.limit)
        if self._waiting >= room or len(queue) >= own_room:
            raise self._rejection(job.route)
        self._waiting += 1
        queue.append(job)
        self._limit_wait(job)

    def _limit_wait(self, job: Job) -> None:
        self._set_deadline(job, job.arrived + job.route.queue_timeout)

    def _rejection(self, route: Route) -> HTTPError:
        """Return the 503 of a request that will not be run, whatever the reason."""
        seconds = self._breaker.seconds_left(route)
        if not seconds:
            seconds = self._waiting * self._mean_seconds / self.size
        return busy_error(max(1, int(seconds + 0.999)))

    def _waited_too_long(self, job: Job) -> None:
        if self._drop(job):
            job.fail(self._rejection(job.route))

    def _reject_waiting(self, route: Optional[Route] = None) -> None:
        """Reject all that waits, or all of a route."""
        for line in (self._admitted, *self._queues.values()):
            for job in list(line):
                if route in (None, job.route):
                    self._waited_too_long(job)

    def _drop(self, job: Job) -> bool:
        """Take a job out, if it has not been started yet; return whether that is so."""
        if job in self._admitted:
            self._admitted.remove(job)
            self._running[job.route] -= 1
            if job.is_stream:
                self._streams -= 1
            else:
                self._jobs -= 1
            self._dispatch()
            return True
        waiting = self._queues.get(job.route)
        if not waiting or job not in waiting:
            return False
        waiting.remove(job)
        self._waiting -= 1
        return True

    def _dispatch(self) -> None:
        """Start what may start now: the oldest first, but no route above its limit."""
        while self._waiting:
            first: Optional[Job] = None
            for route, queue in self._queues.items():
                if queue and (first is None or queue[0].arrived < first.arrived):
                    first = queue[0] if self._may_start(route) else first
            if first is None:
                return
            self._queues[first.route].popleft()
            self._waiting -= 1
            self._admit(first)

    def streams(self, job: Job) -> None:
        """Note that a job on an ordinary slot turned out to be a stream."""
        if not job.is_stream and job.worker is not None:
            job.is_stream = job.worker.slot_is_stream = True
            self._jobs -= 1
            self._streams += 1
            self._dispatch()

    def watch(self, job: Job) -> None:
        """Start the deadline of a job: of all of it, or of a stream's next chunk."""
        seconds = job.route.timeout
        self._set_deadline(
            job, NEVER if seconds is None else time.monotonic() + seconds
        )

    def _set_deadline(self, job: Job, moment: float) -> None:
        job.deadline = moment
        if moment < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_at = moment
            seconds = max(0.0, moment - time.monotonic())
            self._alarm = self.loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        """End what is too late, and set the alarm for what is next."""
        self._alarm, self._alarm_at = None, NEVER
        jobs = [one.job for one in self._workers.values() if one.job is not None]
        for line in (self._admitted, *self._queues.values()):
            jobs += line
        now = time.monotonic()
        for job in jobs:
            if job.deadline <= now:
                self._too_late(job)
        nearest = min(jobs, key=lambda job: job.deadline, default=None)
        if nearest is not None:
            self._set_deadline(nearest, nearest.deadline)

    def _too_late(self, job: Job) -> None:
        if job.worker is None:
            self._waited_too_long(job)
            return
        # The client is told now; the worker is given a moment to run its `finally`.
        job.fail(deadline_error(job.route))
        job.worker.late = True
        self.retire(job.worker, soft=True)

    def _client_left(self, job: Job) -> None:
        gone = ClientDisconnected("the client left")
        if self._drop(job):
            job.fail(gone)
        elif job.stream is None and job.worker is not None and not job.future.done():
            kill = job.route.on_disconnect == "kill"
            if job.route.on_disconnect == "finish" or (job.is_stream and not kill):
                job.worker.send(Frame.CANCEL, job)  # for env.disconnected
                return
            self.retire(job.worker, hard=kill, soft=not kill)
            job.fail(gone)


# All placements -----------------------------------------------------------------------


class Placements:
    """Runs a route where it says; the application's only door to this section.

    Args:
        answer: runs triggers, handler and error handlers, where it is called.
        answer_async: the same for `asnc` routes.
    """

    def __init__(self, answer: Answer, answer_async: AsyncAnswer) -> None:
        self._began = time.monotonic()
        self._answer = answer
        self._answer_async = answer_async
        self.threads = Threads(MAX_THREADS)
        self.pools: Dict[str, Pool] = {}  # by name; without one: in threads of main

    async def run(self, route: Route, request: Request) -> Response:
        """Run a route where it says and return its response.

        Raises:
            HTTPError: 502, 503 or 504, as the placement's table says.
        """
        if route.placement is RouteType.sync:
            return run_on_loop(self._answer, route, request)
        if route.gate is not None:
            # Who leaves it is the end of the handler: a stream's end, or what comes of
            # it after its deadline.
            await route.gate.enter(route, request)
        if route.placement is RouteType.asnc:
            return await TaskRun(self._answer_async, route, request).run()
        pool = self.pools.get(route.pool)
        if route.placement is RouteType.thread or pool is None:
            return await self.threads.run(self._answer, route, request)
        return await pool.run(route, request)

    async def run_counted(self, route: Route, request: Request) -> Response:
        """Run a route where it says, and count what became of the request."""
        counts, ran = route.counts, True
        counts.active += 1
        began = time.monotonic()
        try:
            response = await self.run(route, request)
            counts.failures += response.status >= 500
            return response
        except HTTPError as error:
            ran = error.status != 503
            counts.rejections += not ran
            raise
        except ClientDisconnected:
            ran = False
            counts.disconnects += 1
            raise
        finally:
            # PERF: all counting together is 0.6 us of the 55 us that a pool route costs
            # main, and of the 25 us of a sync one.
            counts.active -= 1
            if request.queue_seconds:
                counts.wait.add(request.queue_seconds)
            request.run_seconds = time.monotonic() - began - request.queue_seconds
            if ran:
                counts.run.add(request.run_seconds)

    def stats(self) -> Dict[str, Any]:
        """Return the part of `Application.stats` that routes have in common."""
        return {
            "pid": os.getpid(),
            "uptime_seconds": time.monotonic() - self._began,
            "memory_bytes": resident_bytes(os.getpid()),
            "threads": self.threads.stats(),
            "pools": [
                {"name": name or "default", **pool.stats()}
                for name, pool in self.pools.items()
            ],
            "bounds_seconds": list(TIME_BUCKETS),
        }


# ======================================================================================
# 12. The application
# ======================================================================================
# Routes, triggers and error handlers, and the narrow waist that everything goes
# through: `await handle(request) -> Response`. It is called when a request's head is
# complete, and refuses what needs no body (404, 405, 413, an `async def` trigger that
# answers) before it pulls one. The server, the gateways, HTTP/2 and the tests know
# nothing else of it.
#
#     handle -+- match, async before triggers, body            in main, on the loop
#             +- placement: before triggers, handler,
#             |             error handler, after triggers       where the route says
#             `- async after triggers, file conditions          in main, on the loop

Trigger = TypeVar("Trigger", bound=Callable[..., Any])
Paths = Union[str, Iterable[str]]
Where = Union[RouteType, str, None]
PIECE_BYTES = 4096  # of a body in memory: smaller pieces are joined
PIECE_COST_BYTES = 64  # of memory, for each: an object, its place in a list, rounding


class Declare(Protocol):
    """A decorator that returns the handler unchanged."""

    def __call__(self, handler: HandlerType, /) -> HandlerType: ...


class Triggers:
    """The before and after triggers of an application or a route, by where they run."""

    def __init__(self) -> None:
        self.before: List[Handler] = []
        self.after: List[Handler] = []

    def sorted(
        self,
    ) -> Tuple[List[Handler], List[Handler], List[Handler], List[Handler]]:
        """Return (before def, before async def, after def, after async def)."""

        def split(triggers: List[Handler]) -> Tuple[List[Handler], List[Handler]]:
            asynchronous = [t for t in triggers if handler_kind(t) == "async def"]
            return [t for t in triggers if t not in asynchronous], asynchronous

        return (*split(self.before), *split(self.after))


def _paths(path: Any) -> List[str]:
    if callable(path):  # the handler itself
        name = getattr(path, "__name__", "handler")
        raise RouteError(f'write a path above def {name}: @app.get("/{name}")')
    paths = [path] if isinstance(path, str) else list(path)
    if not all(isinstance(one, str) for one in paths):
        raise RouteError(f'a path is text, such as "/page", got {path!r}')
    return paths


def _placement(route_type: Where, handler: Handler) -> RouteType:
    if not callable(handler):
        raise RouteError(f"a handler is a function, not {type(handler).__name__}")
    if route_type is None:
        return DEFAULT_PLACEMENT[handler_kind(handler)]
    try:
        placement = RouteType(route_type)
    except ValueError:
        names = ", ".join(kind.name for kind in RouteType)
        raise RouteError(
            f"a route type is one of {names}, not {route_type!r}"
        ) from None
    check_kind(handler, placement)
    return placement


def check_takes(function: Handler, what: str, /, *names: str, **by_name: None) -> None:
    """Raise RouteError unless a function can be called so; say what to write.

    Args:
        what: it is for, such as "before".
        names: of what it is given by position; `by_name` of what it is given by name.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin that does not tell
    try:
        signature.bind(*names, **by_name)
    except TypeError as error:
        takes = ", ".join((*names, *by_name))
        name = getattr(function, "__name__", repr(function))
        raise RouteError(f"{what}: write def {name}({takes}): {error}") from None


def _set_body(route: Route, most: Optional[int], stream_body: bool) -> None:
    """Raise RouteError unless the route can take its body like this."""
    if most is not None and (type(most) is not int or most < 0):
        raise RouteError(f"max_body_bytes is a whole number from 0, got {most!r}")
    if stream_body and route.placement is not RouteType.asnc:
        raise RouteError("stream_body=True is for an async def: RouteType.asnc")
    route.max_body_bytes, route.stream_body = most, stream_body


def _set_heartbeat(route: Route, beat: Union[str, bytes, None], seconds: float) -> None:
    """Raise RouteError unless this can be sent while the route's stream is silent."""
    if beat is None:
        return
    if route.placement is RouteType.sync:
        raise RouteError(
            f"{route.path} is sync: it holds up the loop; write RouteType.stream"
        )
    is_time = type(seconds) in (int, float) and 0 < seconds < float("inf")
    if not beat or not isinstance(beat, (str, bytes)) or not is_time:
        raise RouteError(
            "a heartbeat is str or bytes to send, and heartbeat_seconds more than 0, "
            f"got {beat!r} and {seconds!r}"
        )
    route.heartbeat, route.heartbeat_seconds = to_chunk(beat), seconds


def _check_trigger(trigger: Trigger, kind: str) -> Trigger:
    if not callable(trigger) or handler_kind(trigger) not in ("def", "async def"):
        raise RouteError(f"a trigger is a def or an async def, got {trigger!r}: {kind}")
    check_takes(trigger, kind, "env", *["response"] * (kind == "after"))
    return trigger


def _check_hook(function: HandlerType, kind: str) -> HandlerType:
    if not callable(function):
        raise RouteError(f"{kind} takes a function, got {function!r}")
    check_takes(function, kind)
    return function


def _check_triggers(triggers: Iterable[Handler], kind: str) -> Tuple[Handler, ...]:
    if callable(triggers):
        raise RouteError(f"{kind} is a list of triggers: write {kind}=[...]")
    return tuple(_check_trigger(trigger, kind) for trigger in triggers)


def join_triggers(route: Route) -> Tuple[Sequence[Handler], ...]:
    """Return a route's triggers with its application's: outside in, then inside out."""
    joined = Triggers()
    joined.before = [*route.app._triggers.before, *route.before]
    joined.after = [*route.after, *route.app._triggers.after]
    return joined.sorted()


async def _call_all(functions: Iterable[Callable[[], Any]]) -> None:
    for function in functions:
        result = function()
        if inspect.isawaitable(result):
            await result


async def _spool(request: Request, pieces: List[bytes]) -> None:
    try:
        await off_the_loop(request.spool, pieces)
    except OSError as error:
        log.error("there is no room for the body of %r: %s", request, error.strerror)
        raise HTTPError(507, "There is no room for the body at the moment.") from None


async def read_body(request: Request) -> None:
    """Pull a request's body: into memory, or into a file.

    A file gets what is larger than SPOOL_BODY_BYTES; and from its first byte that for
    which there is no room in the memory of all bodies.

    Raises:
        HTTPError: 413 when it is over the limit, 507 when the disk is full.
    """
    source = cast(BodySource, request.source)
    pieces: List[bytes] = []
    size = 0
    while True:
        chunk = await source.pull()
        if not chunk:
            break
        size += len(chunk)
        # SECURITY: small ones are joined as they come. Kept as they are, pieces of two
        # bytes take 17 times what they hold.
        if pieces and len(chunk) < PIECE_BYTES > len(pieces[-1]):
            chunk = pieces.pop() + chunk
        pieces.append(chunk)
        fits = source.hold(size + PIECE_COST_BYTES * len(pieces))
        if size > SPOOL_BODY_BYTES or not fits:
            await _spool(request, pieces)
            pieces, size = [], 0
            source.hold(0)
    if request.body_file is None:
        request.body = b"".join(pieces)
    elif pieces:
        await _spool(request, pieces)
        source.hold(0)


def failure(
    application: Application, request: Request, error: BaseException
) -> Response:
    """Return the answer to what a handler or trigger raised.

    Raises:
        RequestTimeout: main has sent an answer when it has a worker raise this.
    """
    if ends_worker(error):
        raise error
    request.fatal = request.fatal or not isinstance(error, Exception)
    return application.error_response(request, error)


def is_cut_off(request: Request, error: BaseException) -> bool:
    """Return whether an error is the end of a trigger's Task, and not its own doing.

    While its client is there, nobody but the program itself cancels it.
    """
    return isinstance(error, asyncio.CancelledError) and request.disconnected


def prime(response: Response) -> Response:
    """Run a stream to its first `yield`, which may be a Response for the head."""
    if isinstance(response.body, (Chunks, AsyncChunks)):
        return response  # the same response once more, from a trigger
    if not hasattr(response.body, "__next__"):
        raise TypeError("an async iterator needs an async def, and RouteType.asnc")
    iterator = cast("Iterator[Any]", response.body)
    response, first = open_stream(response, next(iterator, None))
    response.body = cast("Iterator[Any]", Chunks(first, iterator))
    return response


def finish(value: object) -> Response:
    """Return a handler's result as a Response, a stream run to its first `yield`."""
    response = to_response(value)
    return prime(response) if is_stream(response.body) else response


def ask_first(
    application: Application, triggers: Sequence[Handler], request: Request
) -> Optional[Response]:
    """Return what the first before trigger that answers made, or None."""
    try:
        for trigger in triggers:
            value = trigger(request)
            if value is not None:
                return finish(value)
    except BaseException as error:
        return failure(application, request, error)
    return None


async def ask_first_async(
    application: Application, triggers: Sequence[Handler], request: Request
) -> Optional[Response]:
    """The same for `async def` triggers."""
    try:
        for trigger in triggers:
            value = await trigger(request)
            if value is not None:
                return finish(value)
    except BaseException as error:
        if is_cut_off(request, error):
            raise
        return failure(application, request, error)
    return None


def follow(response: Response, body: AnyBody, value: object) -> Response:
    """Return the response after a trigger that was given it and has returned `value`.

    Args:
        body: the response's own before; what the trigger put in its place is settled.
    """
    value = response if value is None else value
    if isinstance(value, Response) and value.body is body:
        return value
    return finish(value)


def run_after(
    application: Application,
    triggers: Sequence[Handler],
    request: Request,
    response: Response,
) -> Response:
    """Run after triggers, each on what the one before made of the response."""
    for trigger in triggers:
        body = response.body
        try:
            response = follow(response, body, trigger(request, response))
        except BaseException as error:
            response = failure(application, request, error)
        if isinstance(body, Chunks) and not is_stream(response.body):
            # Who yields its Response holds itself: it would wait for the collector.
            body.close()
    return response


async def run_after_async(
    application: Application,
    triggers: Sequence[Handler],
    request: Request,
    response: Response,
) -> Response:
    """The same for `async def` triggers."""
    for trigger in triggers:
        try:
            body = response.body
            response = follow(response, body, await trigger(request, response))
        except BaseException as error:
            if is_cut_off(request, error):
                raise
            response = failure(application, request, error)
    return response


def handle_error(handler: Handler, request: Request, error: BaseException) -> Response:
    """Return what an error handler makes of an error; it may abort() or redirect()."""
    try:
        response = finish(handler(request, error))
    except HTTPError as other:
        return error_page(other)
    if response.status == 200:
        response.status = error.status if isinstance(error, HTTPError) else 500
    if isinstance(error, HTTPError):
        for name, value in error.headers.items():  # Allow, Retry-After, Location ...
            response.headers.setdefault(name, value)
    return response


def seal(application: Application, request: Request, response: Response) -> Response:
    """Return the response with its header block rendered, or an error's answer."""
    secure = request.scheme == "https"
    try:
        return response.seal(secure, application.secrets)
    except BaseException as error:
        failed = failure(application, request, error)
        return failed.seal(secure, application.secrets)


def answer(route: Route, request: Request) -> Response:
    """Run triggers, handler and error handlers; in a worker, a thread or on the loop.

    Returns a response whose body is bytes, a StaticFile, or Chunks. Only RequestTimeout
    leaves it: a handler's `sys.exit()` is a 500, and `request.fatal` tells a worker to
        end.
    """
    before, _, after, _ = route.triggers
    request.app = route.app
    response = ask_first(route.app, before, request) if before else None
    if response is None:
        try:
            response = finish(route.handler(request, **request.params))
        except BaseException as error:
            response = failure(route.app, request, error)
    if after:
        response = run_after(route.app, after, request, response)
    return seal(route.app, request, response)


async def _as_async(iterator: Iterator[Any]) -> AsyncIterator[Any]:
    try:
        for chunk in iterator:
            yield chunk
            await asyncio.sleep(0)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


async def prime_async(response: Response) -> Response:
    """The same for an async iterator; a plain one is taken as well."""
    iterator: Any = response.body
    if not hasattr(iterator, "__anext__"):
        iterator = _as_async(iterator)
    try:
        value = await iterator.__anext__()
    except StopAsyncIteration:
        value = None
    response, first = open_stream(response, value)
    response.body = cast("AsyncIterator[Any]", AsyncChunks(first, iterator))
    return response


async def answer_async(route: Route, request: Request) -> Response:
    """The same for `asnc` routes, in the request's Task, with AsyncChunks."""
    before, _, after, _ = route.triggers
    response = ask_first(route.app, before, request) if before else None
    if response is None:
        try:
            value = route.handler(request, **request.params)
            if route.kind == "async def":
                value = await value
            response = to_response(value)
            if is_stream(response.body):
                response = await prime_async(response)
        except (asyncio.CancelledError, GeneratorExit, ClientDisconnected):
            raise
        except BaseException as error:
            response = failure(route.app, request, error)
    body = response.body
    if after:
        response = run_after(route.app, after, request, response)
    if isinstance(body, AsyncChunks) and not is_stream(response.body):
        await body.aclose()
    response = seal(route.app, request, response)
    if isinstance(response.body, Chunks):
        response.body = AsyncChunks(b"", _as_async(response.body))
    return response


# Triggers to use ----------------------------------------------------------------------

MIN_COMPRESSED_BYTES = 500  # Starlette; less fits into one packet in any case
COMPRESSION_LEVEL = 3  # nginx 1, Django 6; 6 takes twice as long for 6 % less
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")  # RFC 9110 section 9.2.1
_COMPRESSIBLE = expression(
    r"(?i)text/|application/(?:[\w.-]+\+)?(?:json|xml)\b|image/svg\+xml"
    r"|application/(?:javascript|wasm|x-ndjson)\b"
)
_DEFAULT_PORT = {"http": ":80", "https": ":443"}


async def same_origin(env: Request, trusted: Iterable[str] = ()) -> None:
    """Refuse what another site makes a browser send (CSRF); a before trigger.

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
    """Tag answers, and send 304 for what the client has already; an after trigger.

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


def _flushed(coder: Any, chunk: bytes) -> bytes:
    import zlib

    return coder.compress(chunk) + coder.flush(zlib.Z_SYNC_FLUSH)  # type: ignore[no-any-return]


class CompressedChunks(Chunks):
    """A stream compressed, each piece so that it can be read when it arrives."""

    def __init__(self, chunks: Chunks) -> None:
        super().__init__(chunks._first or b"", chunks._rest)
        self._coder = _gzip()

    def __next__(self) -> bytes:
        if self._coder is None:
            raise StopIteration
        try:
            return _flushed(self._coder, super().__next__())
        except StopIteration:
            coder, self._coder = self._coder, None
            return cast(bytes, coder.flush())


class CompressedAsyncChunks(AsyncChunks):
    """The same for AsyncChunks."""

    def __init__(self, chunks: AsyncChunks) -> None:
        super().__init__(chunks._first or b"", chunks._rest)
        self._coder = _gzip()

    async def __anext__(self) -> bytes:
        if self._coder is None:
            raise StopAsyncIteration
        try:
            return _flushed(self._coder, await super().__anext__())
        except StopAsyncIteration:
            coder, self._coder = self._coder, None
            return cast(bytes, coder.flush())


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
    elif isinstance(body, Chunks):
        response.body = CompressedChunks(body)
    else:
        response.body = CompressedAsyncChunks(cast(AsyncChunks, body))


def trace(error: BaseException) -> str:
    """Return an error's traceback as text."""
    import traceback

    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join(lines)


class Application:
    """What `Pixie` does apart from serving: routes, triggers, errors, `handle`."""

    form_limits: FormLimits  # set by run(); the defaults without it
    root_path = ""  # the same

    def __init__(
        self, import_name: Optional[str] = None, *, secrets: MaybeSecrets = UNSET
    ) -> None:
        self.import_name = import_name
        self.secrets = secrets
        self.debug = False
        self._router: Router[Route] = Router()
        self._routes: List[Route] = []
        self._mounts: List[Tuple[str, Application]] = []
        self._above: Optional[Tuple[Application, str]] = None  # where it is mounted
        self._triggers = Triggers()
        self._json_default: Optional[Callable[[Any], object]] = None
        self._status_handlers: Dict[int, Handler] = {}
        self._error_handlers: Dict[Type[BaseException], Handler] = {}
        self._on_start: List[Callable[[], Any]] = []
        self._on_stop: List[Callable[[], Any]] = []
        self._on_worker_start: List[Callable[[], object]] = []
        self._on_worker_stop: List[Callable[[], object]] = []
        self._pools: Dict[str, Dict[str, Any]] = {}
        self._pool_starts: Dict[str, Callable[[], object]] = {}
        self._frozen = False
        self.imported_from = ""  # the module that the command line named
        self.placements = Placements(answer, answer_async)

    @property
    def secrets(self) -> MaybeSecrets:
        """What signs the cookies that name no secret of their own, as bytes.

        Raises:
            PixieError: when it is set: to nothing, or to what is too short.
        """
        return self._secrets

    @secrets.setter
    def secrets(self, secrets: MaybeSecrets) -> None:
        # Refuses here what can't sign later, and keeps a copy: a list may change.
        is_unset = secrets is UNSET
        self._secrets = (
            UNSET if is_unset else tuple(secret_keys(cast(Secrets, secrets)))
        )

    # Declaring routes.

    def route(
        self,
        path: Paths,
        route_type: Where = None,
        method: Union[str, Iterable[str]] = "GET",
        *,
        name: Optional[str] = None,
        before: Iterable[Handler] = (),
        after: Iterable[Handler] = (),
        timeout: Optional[float] = None,
        limit: Optional[int] = None,
        queue_timeout: Optional[float] = None,
        pool: Optional[str] = None,
        on_disconnect: Optional[str] = None,
        max_body_bytes: Optional[int] = None,
        stream_body: bool = False,
        heartbeat: Union[str, bytes, None] = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        methods: None = None,
    ) -> Declare:
        """Declare a route; a decorator that returns the handler unchanged.

        Args:
            path: a pattern such as "/user/<id:int>", or several.
            route_type: where the handler runs. None: a `def` in the pool, a generator
                as a stream out of the pool, a coroutine function on the event loop.
            method: a verb, or several. GET answers HEAD too.
            name: for `url_for`; the handler's name when left out.
            before, after: triggers of this route alone.
            timeout: seconds it may run (of a stream: seconds between two chunks); then
                504. Default 30 in the pool, none elsewhere; inf for none. A worker is
                killed, a coroutine cancelled; a thread runs on, its place taken.
            limit: how many may run at once; not for `sync`.
            queue_timeout: seconds to wait for a turn, then 503; default 30.
            pool: the name of the pool it runs in, which `app.pool` declares.
            on_disconnect: what becomes of it when its client leaves: "finish", "stop"
                or "kill", as the placement allows.
            max_body_bytes: the largest body it takes; above that 413. As in `run()`,
                16 MiB, when left out.
            stream_body: call the handler when the head has come; it reads the body by
                `env.stream()`. For `asnc`.
            heartbeat: what is sent while its stream is silent between two chunks, so
                that no proxy gives up, and a client that has vanished is noticed:
                ":\\n\\n" for server-sent events, "\\n" for lines. Each chunk has to be
                whole for the reader. Not in what is compressed; not for `sync`.
            heartbeat_seconds: how long that silence has to be, and between two of them.
            methods: is called `method` here.

        Raises:
            RouteError: what can't be, where it is written, saying what to write.
        """
        paths = _paths(path)
        verbs = (method,) if isinstance(method, str) else tuple(method)
        if methods is not None:
            raise RouteError(f"write method={methods!r}: one verb, or several")
        if not paths or not verbs:
            raise RouteError("a route needs a path and a method")

        def declare(handler: HandlerType) -> HandlerType:
            placement = _placement(route_type, handler)
            for pattern in paths:
                route = Route(pattern, verbs, handler, placement)
                route.pool = pool or ""
                set_bounds(route, timeout, limit, queue_timeout, on_disconnect)
                _set_body(route, max_body_bytes, stream_body)
                _set_heartbeat(route, heartbeat, heartbeat_seconds)
                route.name = name or getattr(handler, "__name__", None)
                route.before = _check_triggers(before, "before")
                route.after = _check_triggers(after, "after")
                self._add(route)
            return handler

        return declare

    def _add(self, route: Route) -> None:
        self._check_open(route.path)
        route.app = self
        route.pattern = self._router.compile(route.path)
        check_takes(
            route.handler, route.path, "env", **dict.fromkeys(route.pattern.names)
        )
        self._router.add(route.path, route.methods, route)
        self._routes.append(route)

    def _check_open(self, what: str) -> None:
        if self._frozen:
            raise RouteError(f"{what}: nothing is declared once the server has started")

    def get(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for GET (and HEAD); arguments as for `route`."""
        return self.route(path, route_type, "GET", **options)

    def post(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for POST; arguments as for `route`."""
        return self.route(path, route_type, "POST", **options)

    def put(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for PUT; arguments as for `route`."""
        return self.route(path, route_type, "PUT", **options)

    def delete(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for DELETE; arguments as for `route`."""
        return self.route(path, route_type, "DELETE", **options)

    def patch(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for PATCH; arguments as for `route`."""
        return self.route(path, route_type, "PATCH", **options)

    def head(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for HEAD alone; arguments as for `route`."""
        return self.route(path, route_type, "HEAD", **options)

    def options(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for OPTIONS, in place of the automatic answer."""
        return self.route(path, route_type, "OPTIONS", **options)

    def filter(
        self,
        name: str,
        pattern: str,
        to_python: Callable[[str], Any] = str,
        to_url: Callable[[Any], str] = str,
    ) -> None:
        """Let `<x:name>` in later paths stand for what `pattern` matches.

        Args:
            name: the word to write in a path.
            pattern: a regular expression (str).
            to_python: text to value; a ValueError means that the path does not match.
            to_url: value to text, for `url_for`.
        """
        self._router.add_filter(name, pattern, to_python, to_url)

    def static(
        self, prefix: str, root: Union[str, os.PathLike[str]], **options: Any
    ) -> None:
        """Serve the files below a directory under a path.

        Args:
            prefix: the path, such as "/assets/".
            root: the directory.
            options: index, max_age, cache and dotfiles, as for `directory_file`. Files
                and directories whose names begin with a dot are a 404 by default.

        Raises:
            RouteError: there is no such directory.
        """
        prefix = prefix.rstrip("/") + "/"
        root = os.path.abspath(root)
        if not os.path.isdir(root):
            raise RouteError(f"static: there is no directory {root}")

        def serve_static(env: Request, filename: str = "") -> Response:
            return directory_file(root, filename, query=env.query_string, **options)

        index = [prefix] if options.get("index") else []
        paths = [f"{prefix}<filename:path>", *index]
        self.route(paths, RouteType.sync)(serve_static)

    def mount(self, prefix: str, application: Application) -> None:
        """Have another application answer for all paths below `prefix`.

        Its handlers see the path without the prefix, which is `env.prefix`.
        """
        prefix = prefix.rstrip("/")
        if not prefix.startswith("/") or "<" in prefix:
            raise RouteError(
                f'a mount\'s prefix is a path such as "/admin", got {prefix!r}'
            )
        if not isinstance(application, Application):
            raise RouteError(f"mount takes an application, got {application!r}")
        self._check_open(prefix)
        if prefix in dict(self._mounts):
            raise RouteError(f"{prefix} is mounted already")
        if self in application._family() or application in self._family():
            raise RouteError(
                f"{prefix}: an application is mounted once, not below itself"
            )
        application._above = self, prefix
        self._mounts.append((prefix, application))
        self._mounts.sort(key=lambda mount: -len(mount[0]))

    def _family(self) -> List[Application]:
        """Return this application and all that are mounted below it."""
        below = [one for _, mounted in self._mounts for one in mounted._family()]
        return [self, *below]

    @property
    def routes(self) -> Tuple[Route, ...]:
        """All routes, in order of declaration, those of mounted applications last."""
        return tuple(route for one in self._family() for route in one._routes)

    def _placed_routes(self, prefix: str = "") -> Iterator[Tuple[str, Route]]:
        """Iterate over all routes, each after its path with the mounts' prefixes."""
        for route in self._routes:
            yield prefix + route.path, route
        for mount, application in self._mounts:
            yield from application._placed_routes(prefix + mount)

    def stats(self) -> Dict[str, Any]:
        """Return what runs now and what has been counted; docs/status.md has the table.

        Raises:
            PixieError: called in a worker; what is counted is counted in main.
        """
        if proc_env.proc_type is ProcessType.pool:
            raise PixieError("app.stats() is for main: ask in a sync route")
        routes = [
            {
                "path": path,
                "methods": list(route.methods),
                "placement": route.placement.name,
                **route.counts.stats(),
            }
            for path, route in self._placed_routes()
        ]
        return {"version": __version__, **self.placements.stats(), "routes": routes}

    def status(self, path: str = "/status", **options: Any) -> None:
        """Serve what `stats` tells: a live page, as JSON, and to Prometheus.

        Args:
            path: of the page; the others are `path`.json and `path`/metrics.
            options: as for `route`; `before=[trigger]` keeps strangers out.

        Raises:
            MissingExtra: this is the lone file, and the page comes with the package.
        """
        companion("status", "app.status()").mount(self, path, options)

    def url_for(self, name: str, /, **args: Any) -> str:
        """Return the path of the route with this name, as clients have to ask for it.

        Where this application is mounted, and what a proxy takes off, stand in front:
        `root_path=` of run(), or X-Forwarded-Prefix of the request at hand.

        Raises:
            RouteError: there is none, or the arguments do not fit.
            ValueError: a value does not fit its wildcard.
        """
        root = ROOT_PATH.get() or self.root_path
        return root + self._mounted_at() + self._path_of(name, args)

    def _mounted_at(self) -> str:
        if self._above is None:
            return ""
        above, prefix = self._above
        return above._mounted_at() + Pattern(prefix, {}).build()

    def _path_of(self, name: str, args: Mapping[str, Any]) -> str:
        for route in self._routes:
            if route.name == name:
                url: str = route.pattern.build(**args)
                return url
        for prefix, mounted in self._mounts:
            if any(route.name == name for route in mounted.routes):
                return Pattern(prefix, {}).build() + mounted._path_of(name, args)
        raise RouteError(f"no route is named {name!r}")

    # Declaring triggers and error handlers.

    def before(self, trigger: Trigger) -> Trigger:
        """Have `trigger(env)` called ahead of each handler; what it returns answers.

        A `def` runs where the handler runs; an `async def` on the loop, ahead of the
        body.
        """
        self._check_open("a before trigger")
        self._triggers.before.append(_check_trigger(trigger, "before"))
        return trigger

    def after(self, trigger: Trigger) -> Trigger:
        """Have `trigger(env, response)` called after each handler.

        It may change the response, or return another.
        """
        self._check_open("an after trigger")
        self._triggers.after.append(_check_trigger(trigger, "after"))
        return trigger

    def error(self, what: Union[int, Type[BaseException]]) -> Declare:
        """Declare what makes the answer for a status or an exception; a decorator.

        Args:
            what: a status code, or an exception class: of several the closest one wins.

        The handler is a `def` that takes (env, error) and returns what any handler may;
        it runs where the error was.

        Raises:
            RouteError: neither a status nor an exception class, or no plain `def`.
        """
        self._check_open("an error handler")
        is_class = isinstance(what, type) and issubclass(what, BaseException)
        if not is_class and not (type(what) is int and 300 <= what <= 999):
            raise RouteError(
                f"write @app.error(404) or @app.error(SomeException), got {what!r}"
            )

        def declare(handler: HandlerType) -> HandlerType:
            if not callable(handler) or handler_kind(handler) != "def":
                raise RouteError("an error handler is a plain def: it runs anywhere")
            check_takes(handler, f"error({what!r})", "env", "error")
            if isinstance(what, int):
                self._status_handlers[what] = handler
            else:
                self._error_handlers[what] = handler
            return handler

        return declare

    @property
    def json_default(self) -> Optional[Callable[[Any], object]]:
        """A function that returns what JSON can say in place of a value, or None.

        It is asked, in main and in workers, for what `dump_json` has no rule for, and
        raises TypeError for what it does not know either. A mounted application that
        has none takes that of the one above it.

        Raises:
            RouteError: set to what is no plain `def`, or when the server has started.
        """
        return self._json_default

    @json_default.setter
    def json_default(self, function: Optional[Callable[[Any], object]]) -> None:
        self._check_open("app.json_default")
        if function is not None and (
            not callable(function) or handler_kind(function) != "def"
        ):
            raise RouteError(
                f"app.json_default is a plain def that takes a value, got {function!r}"
            )
        self._json_default = function

    def on_start(self, function: HandlerType) -> HandlerType:
        """Have `function()` called in main before it serves, after the pool exists."""
        self._on_start.append(_check_hook(function, "on_start"))
        return function

    def on_stop(self, function: HandlerType) -> HandlerType:
        """Have `function()` called in main when it has stopped serving."""
        self._on_stop.append(_check_hook(function, "on_stop"))
        return function

    def on_worker_start(self, function: HandlerType) -> HandlerType:
        """Have `function()` called in each worker before its first job: load models."""
        self._on_worker_start.append(_check_hook(function, "on_worker_start"))
        return function

    def on_worker_stop(self, function: HandlerType) -> HandlerType:
        """Have `function()` called in each worker that ends in good order."""
        self._on_worker_stop.append(_check_hook(function, "on_worker_stop"))
        return function

    def pool(
        self,
        name: str,
        *,
        on_worker_start: Optional[Callable[[], object]] = None,
        **options: Any,
    ) -> None:
        """Declare a pool of its own for the routes that name it with `pool=`.

        Args:
            name: what the routes call it.
            on_worker_start: called in each of its workers: load the large model here.
            options: what this pool has otherwise than the first one: workers,
                min_workers, max_streams, worker_idle_seconds, nice,
                timeout_grace_seconds, max_crashes, max_tasks_per_worker,
                max_worker_age_seconds, max_worker_bytes, worker_memory_limit_bytes.

        Raises:
            RouteError: no name, one that is taken, or an option that is none.
        """
        self._check_open(f"the pool {name}")
        unknown = set(options) - set(PoolOptions._fields)
        if unknown:
            raise RouteError(
                f"a pool has no option {min(unknown)!r}; it takes "
                + ", ".join(PoolOptions._fields)
            )
        if not name or name in self._pools:
            raise RouteError(f"a pool has a name of its own, got {name!r}")
        if on_worker_start is not None:
            self._pool_starts[name] = _check_hook(on_worker_start, "on_worker_start")
        self._pools[name] = options

    # Serving.

    def named_pools(self) -> Dict[str, Dict[str, Any]]:
        """Return the options of each pool that `pool` declared, here or below."""
        return {k: v for app in self._family() for k, v in app._pools.items()}

    def freeze(self) -> Program:
        """Fix the routes, and return what the workers need to know.

        Raises:
            RouteError: a route names a pool that nobody has declared.
        """
        applications = self._family()
        pools = self.named_pools()
        for route in self.routes:
            if route.pool and route.pool not in pools:
                raise RouteError(
                    f"{route.path}: there is no pool {route.pool!r}; declare it: "
                    f"app.pool({route.pool!r}, workers=1)"
                )
        for application in applications:
            application._frozen = True
            application.placements = self.placements
            application._router.freeze()
            for _, mounted in application._mounts:
                if mounted.secrets is UNSET:
                    mounted.secrets = application.secrets
                mounted._json_default = (
                    mounted._json_default or application._json_default
                )
        for index, route in enumerate(self.routes):
            route.index = index
            route.triggers = join_triggers(route)
        starts = [f for app in applications for f in app._on_worker_start]
        stops = [f for app in applications for f in app._on_worker_stop]
        own = {k: f for app in applications for k, f in app._pool_starts.items()}
        return Program(self.routes, answer, starts, stops, own)

    async def start(self) -> None:
        """Run what `on_start` declared."""
        for application in self._family():
            await _call_all(application._on_start)

    async def stop(self) -> None:
        """Run what `on_stop` declared."""
        for application in self._family():
            await _call_all(application._on_stop)

    async def handle(self, request: Request) -> Response:
        """Answer a request whose head is complete; the one way in.

        Returns:
            a response whose body is bytes, a FileSlice, or an async iterator that is to
            be closed by `aclose`; not pulling it holds its handler back.

        Raises:
            ClientDisconnected, ProtocolError: the body did not arrive; no answer is
                owed, or the one that the error says.
        """
        if not self._frozen:
            self.freeze()
        request.root_path = request.root_path or self.root_path
        if request.root_path != ROOT_PATH.get():  # of the last request here
            ROOT_PATH.set(request.root_path)
        owner = request.app = self._owner(request)
        json_default_hook.set(owner._json_default)
        response = await owner._respond(request)
        if isinstance(response.body, StaticFile):
            try:
                return resolve_file(request.method, deciding_headers(request), response)
            except HTTPError as error:
                return seal(owner, request, owner.error_response(request, error))
        return response

    def _owner(self, request: Request) -> Application:
        """Return the application that answers for the path; it may be a mounted one."""
        path = request.head.path[len(request.prefix) :]
        for prefix, application in self._mounts:
            if path == prefix or path.startswith(f"{prefix}/"):
                request.prefix += prefix
                return application._owner(request)
        return self

    async def _respond(self, request: Request) -> Response:
        try:
            match = self._router.match(request.method, request.path)
        except BaseException as error:  # HTTPError, or a filter's own
            return await self._unmatched(request, error)
        route = request.route = match.target
        request.params = dict(match.args)

        _, before, after, after_async = route.triggers
        response = None
        try:
            if before:
                response = await self._ask_first(before, request)
            if response is None:
                if request.source is not None:
                    await self._receive_body(route, request, request.source)
                response = await self.placements.run_counted(route, request)
                after = ()  # they have run where the handler has
        except (ClientDisconnected, ProtocolError):
            raise
        except Exception as error:
            response = self.error_response(request, error)
        if not after and not after_async and response.is_sealed:
            return response  # PERF: as most are; 1.5 us
        return await self._finish(request, response, after, after_async)

    async def _receive_body(
        self, route: Route, request: Request, source: BodySource
    ) -> None:
        """Refuse a body that is too long, and read it, unless the handler will."""
        if route.max_body_bytes is not None:
            source.max_body_bytes = route.max_body_bytes
        source.check(source.content_length or 0)
        if not route.stream_body:
            await read_body(request)

    async def _unmatched(self, request: Request, error: BaseException) -> Response:
        """Answer where no route matched; the application's triggers run as ever."""
        headers = error.headers if isinstance(error, HTTPError) else {}
        before, before_async, after, after_async = self._triggers.sorted()
        response = await self._ask_first(before_async, request)
        if response is None:
            response = ask_first(self, before, request)
        if response is None:
            of_server = request.head.path == "*"  # RFC 9110 section 9.3.7
            if request.method == "OPTIONS" and (of_server or "Allow" in headers):
                response = Response(None, 204, headers=headers).settle()
            else:
                response = self.error_response(request, error)
        return await self._finish(request, response, after, after_async)

    async def _ask_first(
        self, triggers: Sequence[Handler], request: Request
    ) -> Optional[Response]:
        """Return what the first `async def` trigger that answers made, or None."""
        if not triggers:
            return None
        loop = asyncio.get_running_loop()
        return await start_task(loop, ask_first_async(self, triggers, request))

    async def _finish(
        self,
        request: Request,
        response: Response,
        after: Sequence[Handler],
        after_async: Sequence[Handler],
    ) -> Response:
        """Run what is left of the after triggers in main, and seal the response."""
        body: Any = response.body
        if after:
            response = run_after(self, after, request, response)
        if after_async:
            loop = asyncio.get_running_loop()
            coroutine = run_after_async(self, after_async, request, response)
            response = await start_task(loop, coroutine)
        response = seal(self, request, response)
        if response.body is not body and hasattr(body, "aclose"):
            await body.aclose()  # a trigger has put something in the stream's place
        if isinstance(response.body, Chunks):
            response.body = LoopStream(response.body, copy_context())
        return response

    def error_response(self, request: Request, error: BaseException) -> Response:
        """Return the answer to an error: what an error handler makes of it, or a page.

        What no handler has declared is logged with its traceback; the client sees that
        with `debug` only.
        """
        handler = self._find_error_handler(request, error)
        try:
            if handler is not None:
                response = handle_error(handler, request, error)
            elif isinstance(error, HTTPError):
                response = error_page(error)
            else:
                text = trace(error) if request.debug else ""
                response = error_page(HTTPError(500), text)
            # Refuses here what can't be sent later.
            response.header_block(secrets=self.secrets)
        except BaseException as failure:
            if ends_worker(failure):
                raise
            log_failure(request, failure)
            return error_page(HTTPError(500))
        return response

    def _find_error_handler(
        self, request: Request, error: BaseException
    ) -> Optional[Handler]:
        """Return the handler, or None; logs what is declared by no class of its own.

        An HTTPError is an answer: no handler of a class above it, such as Exception,
        makes a failure of it.
        """
        for kind in type(error).__mro__:
            if kind in self._error_handlers:
                return self._error_handlers[kind]
            if isinstance(error, HTTPError) and kind is HTTPError:
                return self._status_handlers.get(error.status)
        log_failure(request, error)
        return self._status_handlers.get(500)


# ======================================================================================
# 13. The server
# ======================================================================================
# One Connection per client: an asyncio.Protocol that feeds section 5's reader, calls
# `handle` for each head and writes what comes back, one request after the other.
#
#     reading   nothing runs, so events are read: a head starts `handle`
#     handling  `handle` runs; what arrives meanwhile waits in the reader, and beyond
#               READ_AHEAD_BYTES in the kernel; body bytes go to whoever pulls them
#     sending   the body is pulled only as fast as the client reads
#
# A request is answered inside the call that delivered its bytes if nothing has to wait:
# no task, no turn of the loop. Time is watched by one sweep over all connections
# instead of a timer for each request.

KEEP_ALIVE_SECONDS = 75.0  # nginx
HEAD_SECONDS = 10.0  # from the first byte of a head to its last; hypercorn 5, nginx 60
BODY_IDLE_SECONDS = 10.0  # between two reads of a body; nginx 60
SEND_IDLE_SECONDS = 60.0  # without progress in sending; nginx
DRAIN_SECONDS = 30.0  # gunicorn
MIN_BYTES_PER_SECOND = 240.0  # of a body or an answer under way; Kestrel
LINGER_SECONDS = 2.0  # after a refusal, for the client to read it; nginx 5
GRACE_SECONDS = 2.0  # in which no connection gives way, however slow it begins
READ_AHEAD_BYTES = 65_536  # asyncio's own high-water mark
MAX_DISCARD_BYTES = 65_536  # of a body nobody wanted; more: the connection closes
MAX_PIPELINED_REQUESTS = 16  # answered in one turn of the loop, then the others' turn
MAX_CONNECTIONS = 10_000  # where descriptors allow it
MAX_MEMORY_BODY_BYTES = 64 * 1024 * 1024  # of all bodies together, then files
SPARE_DESCRIPTORS = 64  # for files, of those that a process may still open
DESCRIPTORS_PER_WORKER = 3  # in main: two pipes, and the file for tracebacks
SMALL_BODY_BYTES = 65_536  # goes out in one write with its head
SWEEP_SECONDS = 0.5
TLS_HANDSHAKE_SECONDS = 10.0  # asyncio 60, hypercorn 60; a head has 10
BACKLOG_CONNECTIONS = 1024  # that wait in the kernel; nginx 511
MAX_ACCEPTED = 16  # connections in one turn of the loop
ACCEPT_PAUSE_SECONDS = 1.0  # when descriptors have run out; asyncio does the same
UNIX_SOCKET_MODE = 0o660  # owner and group, as systemd's SocketMode for services
SENDFILE_BYTES = 1024 * 1024  # per call, so one fast client does not hold the loop

access_log = logging.getLogger("pixie_web.access")
ACCESS_LOG_FORMAT = (
    '%(client)s "%(request)s" %(status)d %(bytes)d %(milliseconds).1fms '
    "%(placement)s q=%(queue_milliseconds).1fms %(outcome)s"
)


def reader_class(parser: str) -> Type[RequestReader]:
    """Return what makes requests of a connection's bytes: the core's, or a companion's.

    Raises:
        PixieError: `parser` is neither "pixie" nor "httptools".
        MissingExtra: it is "httptools", which is not installed.
    """
    if parser == "pixie":
        return RequestReader
    if parser != "httptools":
        raise PixieError(f'parser is "pixie" or "httptools", got {parser!r}')
    module = companion("httptools", 'parser="httptools"', "fast")
    return cast(Type[RequestReader], module.HttptoolsReader)


class ServerOptions(NamedTuple):
    """The bounds of a server; arguments of `run()` under the same names."""

    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    head_seconds: float = HEAD_SECONDS
    body_idle_seconds: float = BODY_IDLE_SECONDS
    send_idle_seconds: float = SEND_IDLE_SECONDS
    min_bytes_per_second: float = MIN_BYTES_PER_SECOND
    linger_seconds: float = LINGER_SECONDS
    tls_handshake_seconds: float = TLS_HANDSHAKE_SECONDS
    drain_seconds: float = DRAIN_SECONDS
    max_connections: int = 0  # as many as descriptors allow
    max_connections_per_client: int = 0  # no limit: a proxy looks like one client
    max_pipelined_requests: int = MAX_PIPELINED_REQUESTS
    max_request_line_bytes: int = MAX_REQUEST_LINE_BYTES
    max_header_line_bytes: int = MAX_HEADER_LINE_BYTES
    max_headers: int = MAX_HEADERS
    max_head_bytes: int = MAX_HEAD_BYTES
    max_chunk_line_bytes: int = MAX_CHUNK_LINE_BYTES
    max_extension_bytes: int = MAX_EXTENSION_BYTES
    max_trailer_bytes: int = MAX_TRAILER_BYTES
    max_body_bytes: int = MAX_BODY_BYTES
    max_memory_body_bytes: int = MAX_MEMORY_BODY_BYTES
    access_log: bool = True
    access_log_format: str = ACCESS_LOG_FORMAT
    trusted_proxies: Tuple[str, ...] = ()
    allowed_hosts: Tuple[str, ...] = ("*",)
    server_timing: bool = False
    debug: bool = False
    parser: str = "pixie"

    def reader(self) -> Callable[[], RequestReader]:
        """Return what makes the reader of a connection, with the limits of this."""
        names = (
            "max_request_line_bytes max_header_line_bytes max_headers max_head_bytes "
            "max_chunk_line_bytes max_extension_bytes max_trailer_bytes"
        ).split()
        limits = {name: getattr(self, name) for name in names}
        return partial(reader_class(self.parser), **limits)


def timing_line(request: Request) -> bytes:
    """Return the Server-Timing header: milliseconds in line, and in the handler.

    W3C Server Timing section 2; of a stream, until its first chunk. Empty where no
    handler was to run.
    """
    if request.run_seconds is None:
        return b""
    queue, run = request.queue_seconds * 1000, request.run_seconds * 1000
    return b"Server-Timing: queue;dur=%.3f, run;dur=%.3f\r\n" % (queue, run)


class ConnectionBody(BodySource):
    """The body of the request that a connection is at."""

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._server = connection.server
        options = self._server.options
        self.content_length = head.content_length
        self.max_body_bytes = options.max_body_bytes
        self._expects_continue = head.expects_continue
        self._held_bytes = 0
        self.ended = False
        self.was_dropped = False  # in part, since the answer had begun
        self.patience_seconds = options.body_idle_seconds

    @property
    def asked_for(self) -> bool:
        """Whether the client sends the body without waiting, or was told to go on."""
        return not self._expects_continue

    async def read(self) -> bytes:
        """Return the next bytes, b"" at the end; see BodySource."""
        if self.was_dropped:  # the rest, or its end, would pass for the whole
            raise ClientDisconnected("the answer has begun, and its body was dropped")
        if self.ended:
            return b""
        if self._expects_continue:
            # RFC 9110 section 10.1.1: not before somebody wants the body.
            self._expects_continue = False
            self._connection.write(CONTINUE)
        return await self._connection.read_body(self)

    def hold(self, size: int) -> bool:
        """Count the body in memory; return whether there is room for all that are."""
        server = self._server
        server.held_bytes += size - self._held_bytes
        self._held_bytes = size
        return server.held_bytes <= server.options.max_memory_body_bytes

    def earn(self, size: int) -> None:
        """Have more patience, for bytes that have come.

        SECURITY: never more than `body_idle_seconds`. A client that has sent much at
        once could else stay for minutes with a byte now and then.
        """
        options = self._server.options
        if options.min_bytes_per_second:
            patience = self.patience_seconds + size / options.min_bytes_per_second
            self.patience_seconds = min(options.body_idle_seconds, patience)

    def spend(self, seconds: float) -> None:
        """Have less patience: that long the client was waited for.

        SECURITY: without the least rate, a byte now and then keeps a connection for
        years (R-U-Dead-Yet).
        """
        if self._server.options.min_bytes_per_second:
            self.patience_seconds -= seconds


# Proxies ------------------------------------------------------------------------------

MAX_FORWARDED = 1000  # pairs of Forwarded, or hops of X-Forwarded-For

# SECURITY: what may be missing begins with no blank, or a run of them could be shared
# out between those before and those behind it, in as many ways as it is long.
_FORWARDED_PAIR = expression(
    rf'[\t ]*(?:([{_T}]+)=("(?:[^"\\]|\\.)*"|[^",;\s]*)[\t ]*)?([,;]|$)'
)
Hop = Dict[str, str]  # what one proxy says of who asked it: for, proto, host


def _check_hops(count: int) -> None:
    """Raise ProtocolError(400) for a header that only a client can have made so long.

    SECURITY: a head of nothing but commas is 65,000 hops, and 50 ms of the loop.
    """
    if count > MAX_FORWARDED:
        raise ProtocolError(400, f"A request passes {MAX_FORWARDED} proxies at most.")


def _forwarded_hops(headers: Headers) -> List[Hop]:
    """Return the hops of Forwarded, the client's first (RFC 7239 section 4).

    Raises:
        ProtocolError: 400. SECURITY: a quote that a client leaves open would swallow
            what the proxy adds.
    """
    text = ",".join(headers.getall("forwarded"))
    _check_hops(text.count(",") + text.count(";"))
    hops: List[Hop] = [{}]
    position, end = 0, "" if not text else ","
    while end:
        found = _FORWARDED_PAIR.match(text, position)
        name = found and found.group(1) and found.group(1).lower()
        if found is None or name in hops[-1]:
            raise ProtocolError(400, "The Forwarded header is not well-formed.")
        if name:
            value = found.group(2)
            quoted = value[:1] == '"'
            hops[-1][name] = re.sub(r"\\(.)", r"\1", value[1:-1]) if quoted else value
        position, end = found.end(), found.group(3)
        if end != ";":
            hops.append({})
    return [hop for hop in hops if hop]


def _x_forwarded_hops(headers: Headers) -> List[Hop]:
    """The same for X-Forwarded-For, -Proto and -Host; the last two are of one hop."""
    texts: Dict[str, List[str]] = {}
    for key in ("for", "proto", "host"):
        text = ",".join(headers.getall(f"x-forwarded-{key}"))
        _check_hops(text.count(","))
        members = [member.strip("\t ") for member in text.split(",")]
        texts[key] = [member for member in members if member]
    if not any(texts.values()):
        return []
    hops = [{"for": text} for text in texts["for"]] or [{}]
    hops[-1].update((key, found[-1]) for key, found in texts.items() if found)
    return hops


def _hop_address(text: str) -> Optional[Tuple[str, int]]:
    """Return (address, port) of a hop's `for`; None where it is no address."""
    from ipaddress import ip_address

    host, port = text, ""
    if text[:1] == "[":
        host, _, port = text[1:].partition("]")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = str(ip_address(host))
    except ValueError:
        return None
    if "%" in address:  # SECURITY: the zone of an IPv6 address may be any text
        return None
    number = int(port) if port.isdecimal() and len(port) < 6 else 0
    return address, number if number < 65536 else 0


_ROOT_PATH = expression(  # RFC 3986 section 3.3: not empty, no dots alone
    r"(?:/(?!\.\.?(?:/|$))(?:[\w.~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2})+)*/?", re.A
)


def clean_root_path(text: str) -> Optional[str]:
    """Return "/app" of "/app/" or " /app", "" of "/"; None: it is no absolute path."""
    text = text.strip("\t ")
    return text.rstrip("/") if _ROOT_PATH.fullmatch(text) else None


class TrustedProxies:
    """The proxies whose word about the client, the scheme and the host counts.

    Args:
        names: addresses and networks ("10.0.0.0/8"), or "unix" for peers without one.

    Raises:
        PixieError: a name is neither.
    """

    def __init__(self, names: Iterable[str]) -> None:
        from ipaddress import ip_network

        names = tuple(names)
        try:
            self._networks = [
                ip_network(name, False) for name in names if name != "unix"
            ]
        except ValueError as error:
            raise PixieError(
                f'trusted_proxies are addresses, networks or "unix": {error}'
            ) from None
        self._unix = "unix" in names
        self._trusts = lru_cache(maxsize=1024)(self._look_up)

    def _look_up(self, address: str) -> bool:
        from ipaddress import ip_address

        if not address:
            return self._unix
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in network for network in self._networks)

    def trusts(self, address: str) -> bool:
        """Return whether an address, "" for a Unix socket, is one of the proxies."""
        return self._trusts(address)

    def apply(self, request: Request) -> None:
        """Set client, scheme, host and root path of what a trusted proxy has passed on.

        SECURITY: hops are read from the last one back, each as its own proxy wrote it:
        what a client puts in front is never reached (RFC 7239 section 8.1).

        Raises:
            ProtocolError: 400, the two ways to say it do not agree: the proxy writes
                one and lets the other pass, as the client made it up.
        """
        if not self._trusts(request.client[0]):
            return
        prefix = ",".join(request.headers.getall("x-forwarded-prefix"))
        # SECURITY: the nearest proxy's alone, and nothing that names another host.
        request.root_path = clean_root_path(prefix.rpartition(",")[2]) or ""
        hops = _forwarded_hops(request.headers)
        others = _x_forwarded_hops(request.headers)
        if hops and others and hops[-1] != others[-1]:
            raise ProtocolError(400, "Forwarded and X-Forwarded-* do not agree.")
        for hop in reversed(hops or others):
            scheme, host = hop.get("proto", "").lower(), hop.get("host", "")
            if scheme in ("http", "https"):
                request.scheme = scheme
            if _is_host(host):
                request.host = host
            address = _hop_address(hop.get("for", ""))
            if address is None:
                return
            request.client = address
            if not self._trusts(address[0]):
                return


# Hosts --------------------------------------------------------------------------------

_DNS_NAME = expression(r"(?a)[\w.-]+")
_ALLOWED_HOST = expression(
    r"(?a)(\*?\.)?([\w-]+(?:\.[\w-]+)*|\[[0-9A-Fa-f:.]+\])\.?(?::[0-9]{1,5})?"
)


def _without_port(host: str) -> str:
    """Return a host as it compares: "WWW.Example.com.:80" -> "www.example.com"."""
    if not host.endswith("]"):  # else it is an IPv6 address, and full of colons
        host = host.rpartition(":")[0] or host
    return host[: -1 if host.endswith(".") else None].lower()


class AllowedHosts:
    """The hosts that a request may be for, whatever its client says.

    Args:
        names: hosts; a port counts for nothing. "*.example.com" is all that are below
            it, ".example.com" (as in Django) itself too, and "*" every host.

    Raises:
        PixieError: there is none, or one is no host.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names: Set[str] = set()
        self._ends: Tuple[str, ...] = ()
        names = set(names)
        self._has_all = "*" in names
        if not names:
            # SECURITY: not every host instead, for want of a variable.
            raise PixieError('allowed_hosts is empty: leave it out, or say "*"')
        for name in names - {"*"}:
            found = _ALLOWED_HOST.fullmatch(name)
            if found is None:
                raise PixieError(
                    "allowed_hosts are names such as example.com, .example.com or "
                    f"*.example.com, in ASCII and without a scheme, got {name!r}"
                )
            below, host = found.groups()
            if below:
                self._ends += (f".{host.lower()}",)
            if below != "*.":
                self._names.add(host.lower())

    def allow(self, host: str) -> bool:
        """Return whether a request for this host, with or without port, is served."""
        if self._has_all:
            return True
        name = _without_port(host)
        if name in self._names:
            return True
        # SECURITY: "evil.example%2f.example.com" is a host, and to some clients a path.
        return name.endswith(self._ends) and _DNS_NAME.fullmatch(name) is not None


# The access log -----------------------------------------------------------------------

_UNPRINTABLE = expression(r"[^ !#-\[\]-~]")


def log_text(text: str) -> str:
    """Return a client's text for a line of the log: 'a"\\n' -> 'a\\x22\\x0a'."""
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


NO_HEAD = Head()  # of what is logged where the head was none
NO_HEAD.raw = b"\r\n\r\n"
NO_HEAD.method = NO_HEAD.target = NO_HEAD.version = NO_HEAD.host = ""


class AccessRecord(Mapping[str, Any]):
    """What the access log may say of an answer; `access_log_format` picks from it.

    Each item is made when it is asked for. It is the `args` of the log record, so that
    a handler of the program's own can write it as JSON, say.

    `outcome` tells a whole answer from one that was cut off after its status had been
    sent: "complete", or else "failed" (the handler, or its worker died), "timeout" (its
    deadline passed), "left" (the client left, or read too slowly), "stopped" (the
    server, before the answer had ended). Whole means handed to the kernel. "refused" is
    whole too: a 400 to a host that is none of `allowed_hosts`.
    """

    ITEMS: ClassVar[Dict[str, Callable[[Request, int, int, float, str], Any]]] = {
        "client": lambda request, *_: request.client[0] or "-",
        "request": lambda request, *_: (
            log_text(f"{request.method} {request.head.target} {request.protocol}")
            if request.method
            else "-"
        ),
        "method": lambda request, *_: request.method,
        "target": lambda request, *_: log_text(request.head.target),
        "protocol": lambda request, *_: request.protocol,
        "scheme": lambda request, *_: request.scheme,
        "host": lambda request, *_: log_text(request.host or "-"),
        "referer": lambda request, *_: log_text(request.header("referer") or "-"),
        "user_agent": lambda request, *_: log_text(request.header("user-agent") or "-"),
        "route": lambda request, *_: request.route.path if request.route else "-",
        "placement": lambda request, *_: (
            request.route.placement.name if request.route else "-"
        ),
        "status": lambda request, status, *_: status,
        "bytes": lambda request, status, count, *_: count,
        "milliseconds": lambda request, status, count, seconds, _: seconds * 1000,
        "queue_milliseconds": lambda request, *_: request.queue_seconds * 1000,
        "outcome": lambda *of: of[-1],
    }

    def __init__(
        self, request: Request, status: int, count: int, seconds: float, outcome: str
    ) -> None:
        self._of = request, status, count, seconds, outcome

    def __getitem__(self, name: str) -> Any:
        return self.ITEMS[name](*self._of)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ITEMS)

    def __len__(self) -> int:
        return len(self.ITEMS)


# Connections --------------------------------------------------------------------------


def _open_file(path: str, flags: int) -> int:
    # Not through a link, and not waiting for a pipe's other end, that took its place.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _open_slice(body: FileSlice) -> BinaryIO:
    source = body.path if body.descriptor is None else os.dup(body.descriptor)
    return open(source, "rb", opener=_open_file)


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """Run on, inside a Task, a coroutine that has been started outside of one.

    Args:
        coroutine: suspended at its first wait.
        awaited: the future it waits for.
    """
    while True:
        try:
            result = yield awaited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:
            failure: Optional[BaseException] = error
        else:
            failure = None
        try:
            if failure is None:
                awaited = coroutine.send(result)
            else:
                awaited = coroutine.throw(failure)
        except StopIteration as end:
            return cast(T, end.value)


async def _carry_on(coroutine: Coroutine[Any, Any, T], awaited: Any) -> T:
    return await _resume(coroutine, awaited)


# What a heartbeat would break: a declared length, a coding such as gzip.
_FIXED_BODY = expression(rb"(?i)\r\ncontent-(?:length|encoding):")


class Heartbeat:
    """A stream's chunks; while the next one is awaited, a sign of life now and then.

    The timer runs only while this waits for a chunk. So none comes before the head,
    inside a chunk or after the end, and neither the chunk nor its deadline is touched.
    None is sent either before the client has acknowledged all that was sent: it may not
    read, or have vanished, and is cut off after `send_idle_seconds` without progress.

    Args:
        connection: where they are sent.
        head: of the answer.
        chunks: the stream.
        route: says what to send, and after how many seconds.
    """

    def __init__(
        self, connection: Connection, head: ResponseHead, chunks: Any, route: Any
    ) -> None:
        self._connection = connection
        self._head = head
        self._chunks = chunks
        self._route = route
        self._unsent_bytes = self._progress = 0.0  # the fewest in this wait, and when

    def __aiter__(self) -> Heartbeat:
        return self

    async def __anext__(self) -> bytes:
        self._unsent_bytes = float("inf")
        self._wait()
        try:
            return cast(bytes, await self._chunks.__anext__())
        finally:
            self._timer.cancel()

    def _wait(self) -> None:
        loop = self._connection.server.loop
        self._timer = loop.call_later(self._route.heartbeat_seconds, self._beat)

    def _beat(self) -> None:
        connection = self._connection
        now, unsent = connection.server.loop.time(), connection._count_unsent()
        if unsent < self._unsent_bytes:
            self._unsent_bytes, self._progress = unsent or float("inf"), now
        elif now - self._progress > connection.server.options.send_idle_seconds:
            connection._reset()
        if connection.transport.is_closing():
            return
        if not unsent and not getattr(self._chunks, "inside_chunk", False):
            connection.write_piece(self._head, self._route.heartbeat)
        self._wait()


class Connection(asyncio.Protocol):
    """One client's connection, from its first byte to its last.

    Args:
        server: what it shares with the others.
        accepted: its socket, until it is connected to a transport.
        network: the client that it counts for; "" if it counts for none.
    """

    def __init__(
        self,
        server: Server,
        accepted: Optional[socket.socket] = None,
        network: str = "",
    ) -> None:
        # For the life of the connection.
        self.server = server
        self.network = network
        self.refusal: Optional[ProtocolError] = None  # to whatever the client will say
        self.transport: asyncio.Transport
        self.deadline = NEVER
        self.client = ("", 0)
        self.scheme = "http"
        self.disconnect = Disconnect()
        self._accepted = accepted
        self._began = server.loop.time()
        self._reader = server.make_reader()
        self._chunks_before = 0  # of the reader's, when others last had their turn
        self._reading_paused = False
        self._writable: Optional[asyncio.Future[None]] = None  # set while it is not
        self._eof = False
        self._lingering = False
        self.gives_way = False  # to a new one, as soon as it can
        self._answered = False  # at least once
        self._closed = False
        self._continuing = False  # more pipelined requests are read in the next turn
        self._unsent_bytes = 0  # when last looked at, for a client that reads slowly
        self._progress_by = 0.0  # when they have to be fewer
        # For the request at hand.
        self._request: Optional[Request] = None
        self._body: Optional[ConnectionBody] = None
        self._body_waiter: Optional[asyncio.Future[None]] = None
        self._task: Optional[asyncio.Task[None]] = None
        self._started = 0.0
        self._sent_bytes = 0
        self._streaming = False  # from here on it may have to be cancelled
        self._outcome = ""  # of an answer that was cut off: "failed", "left" ...

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: a head is awaited."""
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.client = (str(peer[0]), int(peer[1]))
        if transport.get_extra_info("ssl_object") is not None:
            self.scheme = "https"
        self._accepted = None
        self.server.arriving.pop(self, None)
        self.server.connections[self] = None
        self.deadline = self.server.loop.time() + self.server.options.head_seconds
        if self.server.closing:
            self.transport.abort()
        elif self.refusal is not None:
            self.refuse(self.refusal)

    def data_received(self, data: bytes) -> None:
        """Take bytes: of a head, of a body that is pulled, or of what comes later."""
        if self._lingering:
            return
        self._reader.feed(data)
        if self._request is None and not self._continuing:
            self._read_requests()
        elif self._body_waiter is not None:
            self._wake_body()
        elif self._reader.buffered > READ_AHEAD_BYTES:
            self._pause_reading()

    def eof_received(self) -> bool:
        """The client has sent all it will; it may still want its answer."""
        self._eof = True
        if self._lingering:
            return False
        self._reader.feed_eof()
        if self._request is None and not self._continuing:
            self._read_requests()
        elif self._body_waiter is not None:
            self._wake_body()
        elif self._request is not None:
            # Most clients that send this have gone; to what can stop it says so.
            self.disconnect.set()
        answering = self._request is not None or self._continuing
        return answering and self.scheme == "http"

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """The client has gone, or was sent away."""
        self.server.forget(self)
        self.transport.close()  # a TLS transport of 3.8 to 3.10 does not know it yet
        self.deadline = NEVER
        self.disconnect.set()
        if self._body_waiter is not None:
            self._wake_body()
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(ClientDisconnected("the client left"))
            self._writable.exception()  # for whoever waits; nobody may

    def pause_writing(self) -> None:
        """The client reads slower than we write: whoever sends has to wait."""
        self._writable = self.server.loop.create_future()
        self._expect_progress()

    def resume_writing(self) -> None:
        """The client has caught up."""
        writable, self._writable = self._writable, None
        if self._request is not None and self._body_waiter is None:
            self.deadline = NEVER
        if writable is not None and not writable.done():
            writable.set_result(None)

    # What the server calls.

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self._request is not None

    def rank(self, now: float) -> Optional[Tuple[int, float]]:
        """Return how soon this may end to make room for a new one; None: it may not.

        Ahead of all is what has been idle for longest. Then comes a client for whose
        head or body the server waits: the slowest, in bytes per second since it began.
        """
        if self.gives_way:
            return None
        if self._accepted is not None:
            size, began = 0, self._began
        elif self._ending or self._continuing:
            return None
        elif self._body is not None and self._body_waiter is not None:
            size, began = self._body.received_bytes, self._started
        elif self._request is not None:
            return None
        elif self._answered and not self._started:
            return 0, self.deadline
        else:
            size, began = self._reader.buffered, self._started or self._began
        seconds = now - began
        return None if seconds <= GRACE_SECONDS else (1, size / seconds)

    def give_way(self) -> None:
        """End for a new connection: at once, and with a 408 where something has come.

        It does not linger: the new one may need its descriptor.
        """
        if self.gives_way:
            return
        self.gives_way = True
        self.server.leaving += 1
        error = ProtocolError(408, "This came slowest, and the server is full.")
        if self._accepted is not None:
            try:
                self._accepted.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client has left
        elif self._body_waiter is not None:
            self._fail_body(error)
            # Or sooner: where its handler does not care.
            seconds = self.server.options.linger_seconds
            self.deadline = self.server.loop.time() + seconds
        elif self._reader.buffered:
            self._refuse_head(error)
        else:
            self._close()

    def drain(self) -> None:
        """End after the request at hand; at once, if there is none."""
        if self._request is None:
            self._close()

    def out_of_time(self) -> None:
        """The deadline has passed: of an idle connection, a head, a body, or a send."""
        self.deadline = NEVER
        closing = self._closed or self.transport.is_closing()  # 3.8 forgets, over TLS
        if closing or self._writable is not None:
            options = self.server.options
            least = options.min_bytes_per_second * options.send_idle_seconds
            unsent = self._count_unsent()
            if closing and not unsent:
                # A client need not answer the close_notify of TLS (RFC 8446 section
                # 6.1), and while a connection is idle browsers do not.
                self.transport.abort()
            elif self.server.loop.time() < self._progress_by:
                self._look_again()
            elif self._unsent_bytes - unsent >= max(1, least):
                self._expect_progress()
            else:
                self._reset()
        elif self._body_waiter is not None:
            self._fail_body(ProtocolError(408, "The body came too slowly."))
        elif self._request is not None or self._lingering or not self._reader.buffered:
            self._close()
        else:
            self._refuse_head(ProtocolError(408, "The request head came too slowly."))

    def _expect_progress(self) -> None:
        """Cut the connection off if the client takes too little of what waits."""
        self._unsent_bytes = self._count_unsent()
        seconds = self.server.options.send_idle_seconds
        self.deadline = self._progress_by = self.server.loop.time() + seconds

    def _count_unsent(self) -> int:
        """Return how many bytes the client has not acknowledged.

        The transport alone can't tell. The kernel takes more from it only when a third
        of its own buffer is free; that may be megabytes, and minutes of a slow client.
        """
        count = 0
        try:
            import fcntl
            import termios

            count = self.transport.get_write_buffer_size()
            one = self.transport.get_extra_info("socket")
            one.getpeername()  # after a reset nothing is acknowledged any more
            found = fcntl.ioctl(one.fileno(), termios.TIOCOUTQ, bytes(4))
        except (AttributeError, ImportError, OSError, ValueError):
            return count  # a system that does not tell, or a connection that is lost
        return count + int(struct.unpack("i", found)[0])

    def _close(self) -> None:
        """Close as soon as the client has taken all that waits for it."""
        if self._closed:
            return  # closed twice, a TLS transport of asyncio can't be aborted
        self._closed = True
        self.transport.close()
        if self.gives_way:
            # In the next turn: by then what was written has been sent.
            self.server.loop.call_soon(self.transport.abort)
        self._expect_progress()
        self._look_again()

    def _look_again(self) -> None:
        """Set a deadline for the client to say that it has taken all."""
        soon = self.server.loop.time() + self.server.options.linger_seconds
        self.deadline = min(soon, self._progress_by)

    @property
    def _ending(self) -> bool:
        return self._lingering or self._closed or self.transport.is_closing()

    # Reading requests.

    def _read_requests(self) -> None:
        """Start the next request, and pipelined ones while each ends at once."""
        self._continuing = False
        for _ in range(self.server.options.max_pipelined_requests):
            try:
                event = self._reader.next_event()
            except ProtocolError as error:
                self._refuse_head(error)
                return
            if not isinstance(event, Head):
                self._await_head(event)
                return
            self._start(event)
            if self._request is not None or self._ending:
                return
        self._continuing = True
        self.server.loop.call_soon(self._continue)

    def _continue(self) -> None:
        if self._continuing and not self._ending:
            self._read_requests()

    def _await_head(self, event: object) -> None:
        if event is CLOSED or self.server.closing:
            self._close()
            return
        self._resume_reading()
        if self._reader.buffered and not self._started:
            self._started = self.server.loop.time()
            self.deadline = self._started + self.server.options.head_seconds

    def _start(self, head: Head) -> None:
        self._started = time.monotonic()  # uvloop's own clock counts milliseconds
        self.deadline = NEVER
        self._sent_bytes, self._streaming = 0, False
        body = None if head.content_length == 0 else ConnectionBody(self, head)
        self._body = body
        request = Request(
            head,
            self.client,
            self.scheme,
            body,
            self.disconnect,
            self.server.options.debug,
        )
        self._request = request
        coroutine = self._answer(request)
        # PERF: the coroutine is run up to its first wait without a Task. Where nothing
        # waits (sync routes, cached files, eager coroutines) that is all of it: 1.5
        # times the requests per second.
        try:
            awaited = coroutine.send(None)
        except StopIteration:
            return
        if self._streaming or not isinstance(awaited, asyncio.Future):
            self._go_on_in_task(coroutine, awaited)
            return
        # PERF: nor does its first wait, for a handler elsewhere, need one: 7 of 75 us.
        awaited._asyncio_future_blocking = False  # what a Task does: it is taken up
        awaited.add_done_callback(partial(self._go_on, coroutine))

    def _go_on(
        self, coroutine: Coroutine[Any, Any, None], _: asyncio.Future[Any]
    ) -> None:
        """Run the coroutine on, from its first wait."""
        try:
            awaited = coroutine.send(None)
        except StopIteration:
            self._task_done()
        else:
            self._go_on_in_task(coroutine, awaited)

    def _go_on_in_task(
        self, coroutine: Coroutine[Any, Any, None], awaited: Any
    ) -> None:
        self._task = self.server.loop.create_task(_carry_on(coroutine, awaited))
        self._task.add_done_callback(self._task_done)

    def _task_done(self, _: Optional[asyncio.Task[None]] = None) -> None:
        self._task = None
        if self._request is None and not self._ending:
            self._read_requests()

    async def read_body(self, body: ConnectionBody) -> bytes:
        """Return the next bytes of the body, waiting for them if need be."""
        while True:
            if self._has_had_its_turn:
                await self._let_others()
            if body is not self._body:
                # SECURITY: a task that outlives its request must not take bytes of the
                # next one, which a proxy may send for another client.
                raise ClientDisconnected("the request has ended, and its body is gone")
            self._reader.max_body_bytes = body.max_body_bytes
            event = self._reader.next_event()
            if isinstance(event, bytes):
                body.earn(len(event))
                return event
            if event is END:
                body.ended = True
                self.deadline = NEVER
                self._resume_reading()  # or nobody would see the client leave
                return b""
            if self.disconnect.gone:
                raise ClientDisconnected("the client left in the middle of its request")
            self._resume_reading()
            began = self.server.loop.time()
            self.deadline = began + body.patience_seconds
            waiter = self._body_waiter = self.server.loop.create_future()
            await waiter
            self._chunks_before = self._reader.chunks
            body.spend(self.server.loop.time() - began)

    @property
    def _has_had_its_turn(self) -> bool:
        """Whether as many chunks as one event may have were read without a wait.

        SECURITY: all that reads a body looks here. Else the chunks that a client sends
        at once, tens of thousands, are read while everybody else waits.
        """
        return self._reader.chunks - self._chunks_before >= MAX_JOINED_CHUNKS

    async def _let_others(self) -> None:
        await self.server.next_turn()
        self._chunks_before = self._reader.chunks

    def _wake_body(self) -> None:
        waiter, self._body_waiter = self._body_waiter, None
        self.deadline = NEVER  # until whoever reads asks for more
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail_body(self, error: ProtocolError) -> None:
        waiter, self._body_waiter = self._body_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()

    # Answering.

    async def _answer(self, request: Request) -> None:
        """Have one request handled, and send its response."""
        status = 499  # nginx's code for a client that left without an answer
        try:
            if self.server.proxies is not None:
                self.server.proxies.apply(request)
            if not self.server.hosts.allow(request.host):
                self._outcome = "refused"
                raise ProtocolError(400, "No such host is served here.")
            response = await self.server.handle(request)
            status = response.status
            keep_alive = await self._send(request, response)
        except ProtocolError as error:
            self._request = None
            self.refuse(error, request.method)
            cut_short = isinstance(error, RequestCutShort)  # most of them have left
            self._log(request, 499 if cut_short else error.status)
            request.close()
            return
        except ClientDisconnected:
            keep_alive = False
        except (KeyboardInterrupt, SystemExit):
            raise  # of the process; those of a handler have become its failure
        except BaseException as error:
            if isinstance(error, GeneratorExit) and self.server.loop.is_closed():
                raise
            self._note_outcome(error)
            if self._outcome == "failed":
                log.error("the answer to %r broke off", request, exc_info=error)
            self.transport.abort()
            keep_alive = False
        finally:
            if self._body is not None:
                self._body.hold(0)
        has_ended = False
        try:
            self._log(request, status)
            request.close()
            has_ended = self._body is None or await self._discard_body()
        finally:
            self._end_request(keep_alive, has_ended)

    def _end_request(self, keep_alive: bool, has_ended: bool) -> None:
        self._request = None
        self._started = 0.0
        self._body = None
        if keep_alive and has_ended and not self.server.closing:
            self._answered = True
            loop = self.server.loop
            self.deadline = loop.time() + self.server.options.keep_alive_seconds
            if self.server.is_full:
                self.server.resume()  # one that waits may have the place of this one
        elif has_ended and (self.server.closing or self.scheme == "https"):
            self._close()
        else:
            # More requests may be on their way, for which TLS has no half-close.
            self._close_gently()

    async def _discard_body(self) -> bool:
        """Drop the rest of an unread body; return whether that reached its end."""
        body = self._body
        if body is None or body.ended:
            return True
        if not body.asked_for:
            return False  # it may come or not: what follows can't be told apart
        size = 0
        while size <= MAX_DISCARD_BYTES:
            if self._has_had_its_turn:
                await self._let_others()
            try:
                event = self._reader.next_event()
            except ProtocolError:
                return False
            if event is END:
                body.ended = True
                return True
            if not isinstance(event, bytes):
                return False
            size += len(event)
            body.was_dropped = True
        return False

    def refuse(self, error: ProtocolError, method: str = "GET") -> None:
        """Answer what is no request, or too much of one, and close."""
        response = error_page(error)
        body = cast(bytes, response.body)
        head = response_head(
            error.status,
            response.header_block(),
            version="1.1",
            method=method,
            keep_alive=False,
            content_length=len(body),
            date_line=self.server.date_line(),
        )
        body = body if head.has_body else b""
        self.transport.write(head.data + body)
        self._sent_bytes = len(body)
        self._close_gently()

    def _refuse_head(self, error: ProtocolError) -> None:
        self._started = self._started or time.monotonic()
        self.refuse(error)
        self._log(Request(NO_HEAD, self.client, self.scheme), error.status)

    def _close_gently(self) -> None:
        """Close so that the client can read the answer first (RFC 9112 section 9.6).

        Closing with unread input makes the kernel send a reset, which may destroy an
        answer on its way. So only our half is closed, and input is dropped for a while.
        """
        if self.transport.is_closing():
            return
        self._lingering = True
        if self._eof or self.gives_way:
            self._close()
            return
        self._resume_reading()
        try:
            if self.transport.can_write_eof():
                self.transport.write_eof()
        except OSError:
            pass  # reset by the client a moment ago: the next read says so
        self.deadline = self.server.loop.time() + self.server.options.linger_seconds

    # Sending.

    async def _send(self, request: Request, response: Response) -> bool:
        """Send a response; return whether the connection may go on."""
        body = response.body
        if isinstance(body, bytes):
            length: Optional[int] = len(body)
        elif isinstance(body, FileSlice):
            length = body.length
            try:
                file = _open_slice(body)
            except OSError as error:  # it went between the look at it and now
                return await self._send(request, self._page_instead(request, error))
        else:
            length = response.stream_bytes
        # RFC 9112 section 9.3: a body that was not read to its end can't be passed
        # over. A stream may read it while it answers.
        reads_on = (
            request.route is not None
            and request.route.stream_body
            and not isinstance(body, (bytes, FileSlice))
        )
        at_end = reads_on or self._body is None or await self._discard_body()
        block = response.header_block(request.scheme == "https")
        if self.server.options.server_timing:
            block += timing_line(request)
        head = response_head(
            response.status,
            block,
            version=request.head.version,
            method=request.method,
            keep_alive=request.head.keep_alive and at_end and not self.server.closing,
            content_length=length,
            date_line=self.server.date_line(),
        )
        if isinstance(body, bytes):
            self._send_bytes(head, body)
            if self._writable is not None:
                await self._drained()
        elif isinstance(body, FileSlice):
            await self._send_file(head, body, file)
        else:
            await self._send_stream(request, head, body, length)
        return head.keep_alive

    def _page_instead(self, request: Request, error: OSError) -> Response:
        """Return what is sent in place of a file that can't be opened."""
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            return error_page(HTTPError(404))
        return error_page(no_descriptor(request, error))

    def write(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            ClientDisconnected: the connection has ended.
        """
        if self.transport.is_closing():
            raise ClientDisconnected("the client left before the end of its answer")
        self.transport.write(data)

    def _send_bytes(self, head: ResponseHead, body: bytes) -> None:
        if not head.has_body:
            self.write(head.data)
        elif len(body) <= SMALL_BODY_BYTES:
            self.write(head.data + body)
        else:
            self.write(head.data)
            self.write(body)
        self._sent_bytes = len(body) if head.has_body else 0

    async def _drained(self) -> None:
        """Wait until the client has read enough for more to be sent."""
        if self._writable is not None:
            await self._writable
        if self.transport.is_closing():
            raise ClientDisconnected("the client left in the middle of its answer")

    async def _send_stream(
        self, request: Request, head: ResponseHead, chunks: Any, length: Optional[int]
    ) -> None:
        """Send chunks as they come, one by one, as fast as the client reads.

        A stream that fails is cut off without its last chunk: the client can tell.
        """
        self._streaming = True
        route = request.route
        stops = route is None or route.on_disconnect != "finish"
        if stops:
            self.disconnect.add(self._cancel_task)
        try:
            if stops and self.disconnect.gone:
                raise ClientDisconnected("the client left before its answer")
            self.write(head.data)
            if head.has_body:
                beats = route and route.heartbeat and not _FIXED_BODY.search(head.data)
                pieces = Heartbeat(self, head, chunks, route) if beats else chunks
                async for chunk in pieces:
                    for at in range(0, len(chunk), MAX_CHUNK_BYTES):
                        self.write_piece(head, chunk[at : at + MAX_CHUNK_BYTES])
                        await self._drained()
                if length is not None and self._sent_bytes != length:
                    raise PixieError(f"{self._sent_bytes} of {length} bytes were sent")
                if head.chunked:
                    self.write(LAST_CHUNK)
        except (Exception, asyncio.CancelledError) as error:
            self._note_outcome(error)
            if self._outcome == "failed" and not isinstance(error, AnswerLost):
                log_failure(request, error, midway=True)
            if length is None and not head.chunked:
                # RFC 9112 section 8: of a body that only the end of the connection
                # delimits, a client takes an orderly end for the whole.
                self._reset()
            self.transport.abort()
            raise ClientDisconnected("the answer was cut off") from None
        finally:
            self.disconnect.remove(self._cancel_task)
            await chunks.aclose()

    def _note_outcome(self, error: BaseException) -> None:
        """Note, for the access log, what has ended an answer before its end."""
        cancelled = isinstance(error, asyncio.CancelledError) and self.disconnect.gone
        left = cancelled or isinstance(error, (ClientDisconnected, ProtocolError))
        outcome = "left" if left else "failed"
        if isinstance(error, AnswerLost) and error.status == 504:
            outcome = "timeout"
        self._outcome = self._outcome or outcome

    def _reset(self) -> None:
        """End the connection by a reset: what waits in the kernel is dropped as well.

        SECURITY: after a mere abort() the kernel would keep it, megabytes, for as long
        as a client that does not read says that it lives.
        """
        one = self.transport.get_extra_info("socket")
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (AttributeError, OSError):
            pass  # it has ended by itself
        self.transport.abort()

    def _cancel_task(self) -> None:
        if self._task is not None:
            # Not at once: a Task that has not begun would end without its coroutine.
            self.server.loop.call_soon(self._task.cancel)

    def write_piece(self, head: ResponseHead, piece: bytes) -> None:
        """Send a piece of a stream, as its head says."""
        self._sent_bytes += len(piece)
        self.write(encode_chunk(piece) if head.chunked else piece)

    async def _send_file(
        self, head: ResponseHead, body: FileSlice, file: BinaryIO
    ) -> None:
        """Send part of a file, by the kernel where the connection is plain."""
        try:
            self.write(head.data)
            if head.has_body and body.length:
                if self.scheme == "http" and hasattr(os, "sendfile"):
                    await self._sendfile(file.fileno(), body.offset, body.length)
                else:
                    file.seek(body.offset)
                    await self._copy_file(file, body.length)
        except Exception as error:
            self._note_outcome(error)
            raise
        finally:
            file.close()
            if body.delete_after:
                os.unlink(body.path)

    async def _copy_file(self, file: Any, length: int) -> None:
        while length:
            data = await off_the_loop(file.read, min(length, MAX_CHUNK_BYTES))
            if not data:
                raise PixieError("a file became shorter while it was sent")
            length -= len(data)
            self._sent_bytes += len(data)
            self.write(data)
            await self._drained()

    async def _sendfile(self, source: int, offset: int, length: int) -> None:
        # uvloop has no loop.sendfile. The transport owns its descriptor, so a duplicate
        # is written to, once the transport has sent all that it holds.
        self.transport.set_write_buffer_limits(0)
        try:
            if self.transport.get_write_buffer_size():
                await self._drained()
            target = os.dup(self.transport.get_extra_info("socket").fileno())
            try:
                while length:
                    try:
                        sent = os.sendfile(
                            target, source, offset, min(length, SENDFILE_BYTES)
                        )
                    except BlockingIOError:
                        await self._writable_again(target)
                        continue
                    if not sent:
                        raise PixieError("a file became shorter while it was sent")
                    offset += sent
                    length -= sent
                    self._sent_bytes += sent
                    await asyncio.sleep(0)
                    await self._drained()
            except (ConnectionError, TimeoutError):
                raise ClientDisconnected("the client left during a file") from None
            finally:
                os.close(target)
        finally:
            if not self.transport.is_closing():
                self.transport.set_write_buffer_limits()

    async def _writable_again(self, descriptor: int) -> None:
        loop = self.server.loop
        self._writable = loop.create_future()
        self._expect_progress()
        loop.add_writer(descriptor, self.resume_writing)
        try:
            await self._drained()
        finally:
            loop.remove_writer(descriptor)

    def _log(self, request: Request, status: int) -> None:
        options = self.server.options
        if options.access_log:
            seconds = time.monotonic() - self._started
            gone = status == 499 or (self.transport.is_closing() and not self._closed)
            outcome = self._outcome or ("left" if gone else "complete")
            record = AccessRecord(request, status, self._sent_bytes, seconds, outcome)
            access_log.info(options.access_log_format, record)


class Listener:
    """Accepts the connections of one socket, and starts TLS on those that ask for it.

    It looks at a TLS client's first byte without taking it: plain HTTP is answered in
    plain HTTP, instead of by an alert that its client can't read. Where there are too
    many connections, or descriptors run out, one that is idle or slow gives way to each
    new one; if there is none, it waits a second, or until one has ended or has nothing
    to do. What comes meanwhile queues in the kernel.
    """

    def __init__(self, server: Server, listening: socket.socket, tls: Any) -> None:
        self._server = server
        self._socket = listening
        self._tls = tls
        self._loop = server.loop
        self._timer: Optional[asyncio.TimerHandle] = None  # set while it waits
        self._peeking: Dict[socket.socket, Tuple[Connection, asyncio.TimerHandle]] = {}
        self._tasks: Set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to accept."""
        self._socket.listen(BACKLOG_CONNECTIONS)
        self._watch()

    def close(self) -> None:
        """Stop accepting."""
        self._pause()
        self._socket.close()
        for one in list(self._peeking):
            self._drop(one)

    def resume(self) -> None:
        """A connection has ended, or has nothing to do: there may be room again."""
        if self._timer is not None:
            self._watch()

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _pause(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        self._pause()
        self._timer = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._watch)

    def _accept(self) -> None:
        yielding: Optional[List[Connection]] = None
        for _ in range(MAX_ACCEPTED):
            if self._server.room() <= 0:
                if yielding is None:
                    yielding = self._server.yielding(MAX_ACCEPTED)
                # Who gives way needs a moment: so many may be beyond the limit.
                if not yielding or self._server.leaving >= MAX_ACCEPTED:
                    self._server.is_full = True
                    self._wait()
                    return
            try:
                one, address = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # EMFILE, ENFILE, ENOBUFS, ENOMEM
                self._make_room(error)
                return
            self._begin(one, address)
            while yielding and self._server.room() < 0:
                yielding.pop(0).give_way()

    def _make_room(self, error: OSError) -> None:
        """Pause; and, for want of a descriptor, have a connection give way."""
        yielding = self._server.yielding(1)
        if yielding:
            yielding[0].give_way()
        else:
            log.error("can't accept connections for a while: %s", error.strerror)
        self._wait()

    def _begin(self, one: socket.socket, address: Any) -> None:
        one.setblocking(False)
        network = self._server.network_of(address)
        connection = Connection(self._server, one, network)
        if not self._server.admit(connection):
            one.close()
        elif self._tls is None:
            self._start(one, connection)
        else:
            seconds = self._server.options.head_seconds
            timer = self._loop.call_later(seconds, self._drop, one)
            self._peeking[one] = connection, timer
            self._loop.add_reader(one.fileno(), self._look, one)

    def _forget(self, one: socket.socket) -> Connection:
        connection, timer = self._peeking.pop(one)
        timer.cancel()
        self._loop.remove_reader(one.fileno())
        return connection

    def _drop(self, one: socket.socket) -> None:
        connection = self._forget(one)
        one.close()
        self._server.forget(connection)

    def _look(self, one: socket.socket) -> None:
        try:
            first = one.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        if not first:
            self._drop(one)
            return
        connection = self._forget(one)
        if first == b"\x16":  # RFC 8446 section 5.1: a handshake record
            self._start(one, connection, self._tls)
        else:
            text = "This port speaks HTTPS: use https://."
            connection.refusal = ProtocolError(400, text)
            self._start(one, connection)

    def _start(
        self, one: socket.socket, connection: Connection, tls: Any = None
    ) -> None:
        task = self._loop.create_task(self._connect(one, connection, tls))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(
        self, one: socket.socket, connection: Connection, tls: Any
    ) -> None:
        options: Dict[str, Any] = {}
        if tls is not None:
            seconds = self._server.options.tls_handshake_seconds
            options = {"ssl": tls, "ssl_handshake_timeout": seconds}
        try:
            await self._loop.connect_accepted_socket(lambda: connection, one, **options)
        except (OSError, asyncio.TimeoutError):
            one.close()  # a handshake that fails is the client's affair
        finally:
            if connection in self._server.arriving:
                self._server.forget(connection)


def descriptors_left() -> float:
    """Return how many files this process may still open."""
    try:
        import resource
    except ImportError:
        return float("inf")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    listing = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    taken = len(os.listdir(listing)) - 1 if os.path.isdir(listing) else 3
    return float("inf") if limit == resource.RLIM_INFINITY else limit - taken


class Server:
    """What all connections share: the application, the bounds, the clock.

    Args:
        handle: the application's `handle`.
        options: the bounds.

    Raises:
        PixieError: there is no such parser, or a proxy or a host that is none.
    """

    def __init__(
        self, handle: Callable[[Request], Awaitable[Response]], options: ServerOptions
    ) -> None:
        self.handle = handle
        self.options = options
        self.make_reader = options.reader()
        proxies = options.trusted_proxies
        self.proxies = TrustedProxies(proxies) if proxies else None
        self.hosts = AllowedHosts(options.allowed_hosts)
        self.max_connections = options.max_connections or MAX_CONNECTIONS
        self.arriving: Dict[Connection, None] = {}  # accepted, and not yet connected
        self.connections: Dict[Connection, None] = {}  # in the order they came
        self.clients: Dict[str, Dict[Connection, None]] = {}  # by network, if limited
        self.leaving = 0  # connections that give way, and are not gone yet
        self.held_bytes = 0  # of memory, by all bodies
        self.is_full = False  # somebody waits for a connection's place
        self.closing = False
        self.loop: asyncio.AbstractEventLoop
        self.thread = 0  # that of the loop; 0: it does not listen yet
        self.now = 0.0  # the loop's time, as of the last sweep
        self._listeners: List[Listener] = []
        self._sweeper: Optional[asyncio.TimerHandle] = None
        self._empty: Optional[asyncio.Future[None]] = None
        self._turns: Deque[asyncio.Future[None]] = deque()  # who waits for one
        self._date_second = 0
        self._date_line = b""

    async def listen(
        self,
        sockets: Sequence[socket.socket],
        tls: Any = None,
    ) -> None:
        """Accept connections on bound sockets, over TLS where a context is given."""
        self.loop, self.thread = asyncio.get_running_loop(), threading.get_ident()
        for one in sockets:
            listener = Listener(self, one, tls)
            listener.open()
            self._listeners.append(listener)
        self._sweep()

    async def close(self) -> None:
        """Stop accepting, let what runs end within `drain_seconds`, then cut it off."""
        self.closing = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.drain()
        if self.connections:
            self._empty = self.loop.create_future()
            timer = self.loop.call_later(self.options.drain_seconds, self.cut_off)
            await self._empty
            timer.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def descriptors(self) -> Set[int]:
        """Return the descriptors of all connections, and of what accepts them."""
        transports = [one.transport for one in self.connections]
        sockets = [one.get_extra_info("socket") for one in transports]
        for listener in self._listeners:
            sockets += [listener._socket, *listener._peeking]
        return {one.fileno() for one in sockets if one is not None} - {-1}

    def bound_connections(self, workers: int) -> None:
        """Take no more connections than there are descriptors for.

        Of those that are left, SPARE_DESCRIPTORS and three for each of so many workers
        stay for other things; half of them where they are few.
        """
        left = descriptors_left()
        reserve = SPARE_DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers
        allowed = max(1, left - min(reserve, left // 2))
        if self.options.max_connections > allowed:
            log.warning(
                "max_connections is %d and not %d: this process may open %d more "
                "files, some for workers and answers; raise ulimit -n, LimitNOFILE=",
                allowed,
                self.max_connections,
                left,
            )
        self.max_connections = int(min(self.max_connections, allowed))

    def room(self) -> int:
        """Return how many more connections there may be."""
        staying = len(self.connections) + len(self.arriving) - self.leaving
        return self.max_connections - staying

    def yielding(self, count: int, network: str = "") -> List[Connection]:
        """Return up to `count` connections that may end for new ones, in that order.

        Args:
            network: of which client; "": of all.
        """
        now = self.loop.time()
        candidates = self.clients[network] if network else self.connections
        arriving = {} if network else self.arriving
        ranks = ((one.rank(now), one) for one in (*candidates, *arriving))
        ranked = [(rank, one) for rank, one in ranks if rank is not None]
        return [one for _, one in nsmallest(count, ranked, key=itemgetter(0))]

    def network_of(self, address: Any) -> str:
        """Return what counts as one client: an IPv4 address, the /64 of an IPv6 one.

        "" is for what is not counted: Unix sockets, trusted proxies, all without limit.
        """
        is_limited = self.options.max_connections_per_client > 0
        if not is_limited or not isinstance(address, tuple):
            return ""
        host: str = address[0]
        if self.proxies is not None and self.proxies.trusts(host):
            return ""
        if ":" not in host:
            return host
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
        if packed.startswith(bytes(10) + b"\xff\xff"):  # RFC 4291 section 2.5.5.2
            return socket.inet_ntoa(packed[12:])
        return packed[:8].hex()

    def admit(self, connection: Connection) -> bool:
        """Count a new connection, unless its client has too many; return whether.

        One of that client's own gives way to it, if there is one that may.
        """
        network = connection.network
        if network:
            own = self.clients.setdefault(network, {})
            if len(own) >= self.options.max_connections_per_client:
                yielding = self.yielding(1, network)
                if not yielding:
                    return False
                yielding[0].give_way()
            own[connection] = None
        self.arriving[connection] = None
        return True

    async def next_turn(self) -> None:
        """Wait for a turn of the loop in which no other reads on in a long body."""
        waiter = self.loop.create_future()
        self._turns.append(waiter)
        if len(self._turns) == 1:
            self.loop.call_soon(self._give_turn)
        await waiter

    def _give_turn(self) -> None:
        while self._turns:
            waiter = self._turns.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break
        if self._turns:
            self.loop.call_soon(self._give_turn)

    def resume(self) -> None:
        """Have those listeners accept again that wait for a connection's place."""
        self.is_full = False
        if not self.closing:
            for listener in self._listeners:
                listener.resume()

    @property
    def running(self) -> int:
        """How many requests are being answered."""
        return sum(one.is_busy for one in self.connections)

    def cut_off(self) -> None:
        """Abort every connection."""
        for connection in list(self.connections):
            connection._outcome = "stopped"
            connection.transport.abort()

    def forget(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        self.arriving.pop(connection, None)
        self.connections.pop(connection, None)
        self.leaving -= connection.gives_way
        own = self.clients.get(connection.network, {})
        own.pop(connection, None)
        if connection.network and not own:
            self.clients.pop(connection.network, None)
        if not self.connections and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)
        self.resume()

    def date_line(self) -> bytes:
        """Return the Date header, rendered once a second."""
        second = int(time.time())
        if second != self._date_second:
            self._date_second = second
            self._date_line = f"Date: {format_date(second)}\r\n".encode()
        return self._date_line

    def _sweep(self) -> None:
        self.now = self.loop.time()
        for connection in list(self.connections):
            if connection.deadline < self.now:
                connection.out_of_time()
        self._sweeper = self.loop.call_later(SWEEP_SECONDS, self._sweep)


def _bind_one(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one


def bind(host: str, port: int) -> List[socket.socket]:
    """Return sockets bound to an address; "localhost" and "" bind both IP families.

    Raises:
        OSError: the address is taken, or not this machine's; for "localhost" one family
            is enough.
    """
    found = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: List[socket.socket] = []
    errors: List[OSError] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        if sockets and port == 0:
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            sockets.append(_bind_one(family, kind, protocol, address))
        except OSError as error:
            errors.append(error)
    taken = [error for error in errors if error.errno == errno.EADDRINUSE]
    if taken or not sockets:
        for one in sockets:
            one.close()
        raise (taken or errors)[0]
    return sockets


def inherit(descriptor: int) -> socket.socket:
    """Return the socket behind a descriptor that this process was started with.

    Raises:
        OSError: there is none, or it is no stream socket.
    """
    one = socket.socket(fileno=descriptor)
    one.setblocking(False)
    one.listen(BACKLOG_CONNECTIONS)
    return one


def load_certificate(context: Any, certfile: str, keyfile: Optional[str]) -> None:
    """Load a certificate into a context, also into one in use: new connections get it.

    Raises:
        PixieError: a file can't be read, or they do not belong together.
    """
    try:
        context.load_cert_chain(certfile, keyfile)
    except OSError as error:  # SSLError is one
        reason = error.strerror or str(error)
        names = certfile if keyfile is None else f"{certfile} and {keyfile}"
        raise PixieError(f"can't use the certificate {names}: {reason}") from None


def tls_context(certfile: str, keyfile: Optional[str] = None) -> Any:
    """Return a server context: TLS 1.2 and later, what the standard library advises.

    Args:
        certfile: the path of the certificate chain, PEM.
        keyfile: the path of its key; None when `certfile` holds it too.

    Raises:
        PixieError: a file can't be read, or they do not belong together.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # SECURITY: a renegotiation costs the server ten times what it costs the client.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, certfile, keyfile)
    return context


def bind_unix(path: str, mode: int = UNIX_SOCKET_MODE) -> socket.socket:
    """Return a socket bound to a path; one that nobody listens on any more is replaced.

    Raises:
        PixieError: another server listens there, or there is another kind of file.
        OSError: the directory is missing, or can't be written.
    """
    import stat

    if os.path.exists(path):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise PixieError(f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except OSError:
                os.unlink(path)
            else:
                raise PixieError(f"another server listens on {path}")
    one = socket.socket(socket.AF_UNIX)
    try:
        one.bind(path)
        os.chmod(path, mode)
    except (OSError, ValueError):
        one.close()
        raise
    one.setblocking(False)
    return one


def identity(path: str) -> Tuple[int, ...]:
    """Return what tells a socket's file from another one that has its name.

    The number of an inode is given out again, so the time is part of it.
    """
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns


def remove_unix(path: str, own: Tuple[int, ...]) -> None:
    """Remove a socket's file at the end, unless a successor's has taken its place."""
    try:
        if identity(path) == own:
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s is left: %s", path, error.strerror)


# ======================================================================================
# 14. The default application, run() and the command line
# ======================================================================================
# What a program touches first: an application that is there already, its methods as
# functions of this module, and `run()`. A setting is taken from the argument (or flag),
# else from the variable PIXIE_<NAME>, else from the default. The order of `run`
# matters: the zygote is forked before there is a socket, a loop or a thread for it to
# inherit.

DEFAULT_SETTINGS: Dict[str, Any] = {
    "host": "localhost",
    "port": 8000,
    "pool_start": "auto",
    "threads": MAX_THREADS,
    "loop": "auto",
    "uds": "",
    "uds_mode": UNIX_SOCKET_MODE,
    "fd": -1,  # none
    "root_path": "",
    "certfile": "",
    "keyfile": "",
    **PoolOptions()._asdict(),
    **ServerOptions()._asdict(),
    **FORM_LIMITS._asdict(),
}
_BOUNDS = {
    "port": (0, 65535),
    "threads": (1, 10_000),
    "workers": (0, 10_000),
    "min_workers": (0, 10_000),
    "max_streams": (0, 100_000),
    "nice": (-20, 19),
    "uds_mode": (0, 0o777),
    "fd": (-1, float("inf")),
    "max_pipelined_requests": (1, float("inf")),
}
_WORDS = {
    "loop": ("auto", "uvloop", "asyncio"),
    "pool_start": ("auto", "zygote", "exec", "spawn"),
}
_AUTO = ("workers", "max_streams")  # names that end so take "auto", inside -1
_BOOLEANS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off", ""), False),
}


def _convert(name: str, value: Any, kind: type) -> Any:
    if kind is str:
        return str(value)
    if kind is tuple:
        texts = value.replace(",", " ").split() if isinstance(value, str) else value
        return tuple(map(str, texts))
    may_be_auto = name.lower().endswith(_AUTO)
    if may_be_auto and value == "auto":
        return -1
    try:
        if name.lower().endswith("_mode") and isinstance(value, str):
            return int(value, 8)  # as chmod takes it
        converted = _BOOLEANS[str(value).lower()] if kind is bool else kind(value)
        is_exact = isinstance(value, str) or converted == value
        if is_exact and (not may_be_auto or converted >= 0):
            return converted
    except (ValueError, TypeError, KeyError, OverflowError):
        pass
    what = {bool: "yes or no", int: "a whole number"}.get(kind, "a number")
    what += ' from 0, or "auto"' if may_be_auto else ""
    raise PixieError(f"{name} is {what}, got {value!r}")


def read_settings(
    given: Mapping[str, Any], environment: Mapping[str, str]
) -> Dict[str, Any]:
    """Return all settings: given ones first, then PIXIE_* variables, then defaults.

    Raises:
        PixieError: a name that is no setting, or a value that is none.
    """
    settings = dict(DEFAULT_SETTINGS)
    for name, default in DEFAULT_SETTINGS.items():
        text = environment.get(f"PIXIE_{name.upper()}")
        if text is not None:
            settings[name] = _convert(f"PIXIE_{name.upper()}", text, type(default))
    for name, value in given.items():
        if name not in settings:
            known = ", ".join(DEFAULT_SETTINGS)
            raise PixieError(f"run() has no argument {name!r}; it takes {known}")
        settings[name] = _convert(name, value, type(DEFAULT_SETTINGS[name]))
    for name, value in settings.items():
        least, most = _BOUNDS.get(name, (0, float("inf")))
        if value == -1 and name.endswith(_AUTO):
            continue
        if isinstance(value, (int, float)) and not least <= value <= most:
            raise PixieError(f"{name} is from {least:g} to {most:g}, got {value!r}")
    root_path = clean_root_path(settings["root_path"])
    if root_path is None:
        got = settings["root_path"]
        raise PixieError(f'root_path is a path such as "/app", got {got!r}')
    settings["root_path"] = root_path
    for name, words in _WORDS.items():
        if settings[name] not in words:
            listed = " or ".join(f'"{word}"' for word in words[1:])
            raise PixieError(f"{name} is {listed}, got {settings[name]!r}")
    try:
        settings["access_log_format"] % AccessRecord(Request(NO_HEAD), 0, 0, 0.0, "")
    except (KeyError, TypeError, ValueError) as error:
        known = ", ".join(AccessRecord.ITEMS)
        raise PixieError(f"access_log_format has {error!r}; it knows {known}") from None
    return settings


def cpu_count() -> int:
    """Return how many CPUs this process may use: affinity and cgroup quota."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        count = min(count, max(1, int(int(quota) / int(period) + 0.5)))
    except (OSError, ValueError):
        pass  # no cgroup, or "max": no quota
    return count


def import_ahead() -> None:
    """Import what requests may need in main: later no descriptor may be left for it."""
    import importlib

    names = "calendar concurrent.futures.thread fcntl hmac ipaddress mimetypes queue "
    for name in (names + "tempfile termios traceback zlib").split():
        try:
            importlib.import_module(name)
        except ImportError:
            pass  # not on this system
    content_type_of("x.unknown")  # reads the machine's own types, once


def check_no_loop_runs() -> None:
    """Raise PixieError inside a running event loop, where no other one can run."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise PixieError(
        "run() can't serve inside an event loop that runs, as that of a notebook or a "
        "coroutine; write threading.Thread(target=app.run, daemon=True).start()"
    )


def say(text: str) -> None:
    """Print a line for people; where it can't be written, the server serves anyway."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # a full disk, a pipe that nobody reads, a file that has been closed


async def _cancel_tasks() -> None:
    """Cancel what is still running, and give it a moment for its `finally`."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_SECONDS)


def configure_logging() -> None:
    """Send this framework's log to stderr, unless the program has set up logging."""
    keep_log()
    if log.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def set_up(application: Application, limits: Sequence[int], root_path: str) -> None:
    """Tell an application and all below it what run() was told: limits of forms ..."""
    for one in application._family():
        one.form_limits = FormLimits(*limits)
        one.root_path = root_path


def hand_down(application: Application) -> Dict[str, Any]:
    """Return what a worker that imports the program is to know of main's settings.

    Forked workers have it already. JSON can say it; it holds the secrets, so it goes
    through a socket, never into arguments or variables.
    """
    family = [one.secrets for one in application._family()]
    return {
        "form_limits": getattr(application, "form_limits", FORM_LIMITS),
        "root_path": application.root_path,
        "secrets": [
            None
            if secrets is UNSET
            else [key.hex() for key in cast(List[bytes], secrets)]
            for secrets in family
        ],
    }


def take_over(application: Application, settings: Mapping[str, Any]) -> None:
    """Set in a worker what `hand_down` returned in main."""
    set_up(application, settings["form_limits"], settings["root_path"])
    for one, keys in zip(application._family(), settings["secrets"]):
        one.secrets = UNSET if keys is None else [bytes.fromhex(key) for key in keys]


# How a new interpreter finds the application: it gets sys.path, sys.argv and the names
# of modules, imports these, and takes the application from one. As under
# multiprocessing's "spawn", the main program is run again as `__mp_main__`; a run() in
# it does nothing. What is made inside a function (an application, a route) is not found
# that way, and the table of routes tells.


def find_application(application: Application) -> Tuple[str, str]:
    """Return the module and the name that an application is found under.

    Raises:
        PixieError: it is no module's global.
    """
    modules = {"__main__": sys.modules["__main__"], **sys.modules}
    for module_name, module in modules.items():
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is application:
                return module_name, name
    raise PixieError(
        "a new process would not find the application: make it a global of a module, "
        'or run with pool_start="zygote"'
    )


def describe_main() -> Optional[Tuple[str, str]]:
    """Return the main program's package, or "", and its file; None: it is no file."""
    main_module = sys.modules["__main__"]
    path = getattr(main_module, "__file__", None)
    package = getattr(main_module, "__package__", None) or ""
    return None if path is None else (package, os.path.abspath(path))


def describe_launch(application: Application) -> Launch:
    """Return what a new interpreter needs to find an application.

    Raises:
        PixieError: it could not.
    """
    import subprocess

    module, name = find_application(application)
    modules = [application.imported_from, module]
    modules += [route.handler.__module__ for route in application.routes]
    own = sys.modules[__name__]
    modules = [m for m in dict.fromkeys(modules) if sys.modules.get(m, own) is not own]
    main_program = describe_main() if "__main__" in modules else None
    if "__main__" in modules and main_program is None:
        raise PixieError("a new process can't import a program that is no file")
    path = os.path.abspath(__file__)
    core = __name__
    if core == "__main__":
        core = os.path.splitext(os.path.basename(path))[0]
    for _ in core.split("."):
        path = os.path.dirname(path)
    code = f"import sys; sys.path.insert(0, {path!r}); import {core} as c; c.boot()"
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    origin = {
        "argv": sys.argv,
        "path": sys.path,
        "main": main_program,
        "modules": [m for m in modules if m != "__main__"],
        "application": [None if sys.modules[module] is own else module, name],
        "settings": hand_down(application),
        "temporary": temporary_directory(),
    }
    return Launch([sys.executable, *flags, "-c", code], origin)


class _Runner:
    """One run of an application, from its settings to its end."""

    loading = False  # another runner imports the program: its own run() does nothing

    def __init__(
        self,
        application: Pixie,
        settings: Dict[str, Any],
        tls: Any = None,
        listens: bool = True,
    ) -> None:
        self._application = application
        self._settings = settings
        self._listens = listens  # or it starts all else, and stops
        names = ServerOptions._fields
        options = ServerOptions(**{name: settings[name] for name in names})
        self._server = Server(application.handle, options)
        self._stop: asyncio.Event
        self._signals = 0
        self._tls = tls
        self._pools: Dict[str, Pool] = {}
        # Signals come to the main thread alone, and `check` ends by itself.
        is_main = threading.current_thread() is threading.main_thread()
        self._takes_signals = is_main and listens

    def run(self) -> None:
        """Start, serve, stop; a start that fails leaves nothing behind."""
        check_no_loop_runs()
        proc_env.is_copy = False  # it may be one, of a server that it leaves
        fill_standard_descriptors()
        import_ahead()
        configure_logging()
        application = self._application
        application.debug = self._server.options.debug
        names = FormLimits._fields
        limits = FormLimits(**{name: self._settings[name] for name in names})
        set_up(application, limits, self._settings["root_path"])
        program = application.freeze()
        application.placements.threads = Threads(self._settings["threads"])
        with ExitStack() as undo:
            pools = self._pools = self._make_pools(program)
            undo.callback(self._end_zygotes, pools)
            workers = sum(pool.size + pool.max_streams for pool in pools.values())
            self._server.bound_connections(workers)
            if self._settings["certfile"]:
                self._tls = tls_context(*self._certificate())
            sockets = self._bind(undo) if self._listens else []
            loop = self._new_loop()
            undo.callback(self._close_loop, loop)
            asyncio.set_event_loop(loop)
            undo_in_copies(self._undo_in_copy)
            undo.callback(_in_copies.clear)
            loop.run_until_complete(self._serve(pools, sockets))

    def _close_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_until_complete(_cancel_tasks())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _undo_in_copy(self) -> None:
        """Be no server, in a process that was forked from this one.

        A copy of a client's connection would keep it open when main has closed it, and
        one of the zygote's would keep the pool when main has died. /dev/null takes the
        numbers, which objects here think to be theirs.
        """
        if self._takes_signals:
            default_signals(*OUR_SIGNALS)
        null = os.open(os.devnull, os.O_RDWR)
        own = self._server.descriptors()
        for pool in self._pools.values():
            own |= pool.descriptors()
        for descriptor in own:
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)
        if threading.get_ident() == self._server.thread:
            # A coroutine that goes on in the copy comes back to the loop.
            self._server.loop.call_soon(end_copy)

    def _certificate(self) -> Tuple[str, Optional[str]]:
        return self._settings["certfile"], self._settings["keyfile"] or None

    def _bind(self, undo: ExitStack) -> List[socket.socket]:
        settings = self._settings
        host, port, path, fd = (settings[key] for key in ("host", "port", "uds", "fd"))
        try:
            if fd >= 0:
                sockets = [inherit(fd)]
            elif path:
                sockets = [bind_unix(path, settings["uds_mode"])]
                undo.callback(remove_unix, os.path.abspath(path), identity(path))
            else:
                sockets = bind(host, port)
        except (OSError, ValueError) as error:  # UnicodeError: of a host
            where = f"descriptor {fd}" if fd >= 0 else path or f"{host}:{port}"
            reason = getattr(error, "strerror", None) or error  # "path too long"
            raise PixieError(f"can't listen on {where}: {reason}") from None
        for one in sockets:
            undo.callback(one.close)
        return sockets

    def _make_pools(self, program: Program) -> Dict[str, Pool]:
        """Return the pools that some route needs, by name, their zygotes started."""
        pools: Dict[str, Pool] = {}
        in_pool = (RouteType.pool, RouteType.stream)
        wanted = {r.pool for r in program.routes if r.placement in in_pool}
        start_by = self._choose_start() if wanted else ""
        launch = partial(describe_launch, self._application)
        for name in sorted(wanted):
            options = self._pool_options(name)
            if options.workers == 0 or not hasattr(os, "fork"):
                why = "this system has no fork" if options.workers else "workers=0"
                what = f"routes of the pool {name}" if name else "pool routes"
                log.warning("%s run in threads of the main process: %s", what, why)
                continue
            pools[name] = Pool(program, options, start_by, launch, name)
        try:
            if pools and start_by == "zygote":
                warn_of_connections()
            inherited = self._settings["fd"]
            for pool in pools.values():
                pool.prepare([inherited] if inherited >= 0 else [])
        except BaseException:
            self._end_zygotes(pools)
            raise
        return pools

    def _pool_options(self, name: str) -> PoolOptions:
        given = self._application.named_pools().get(name, {})
        own = read_settings(given, {})
        settings = {**self._settings, **{key: own[key] for key in given}}
        options = PoolOptions(**{key: settings[key] for key in PoolOptions._fields})
        if options.workers < 0:
            options = options._replace(workers=cpu_count())
        return options

    def _end_zygotes(self, pools: Mapping[str, Pool]) -> None:
        for pool in pools.values():
            pool.end_zygote()

    def _choose_start(self) -> str:
        chosen = cast(str, self._settings["pool_start"])
        if chosen == "auto" and sys.platform != "linux":
            return "spawn"  # a fork without exec aborts in Apple's libraries
        if chosen not in ("auto", "zygote"):
            return chosen
        threads = count_lasting_threads()
        if threads == 1:
            return "zygote"
        if chosen == "zygote":
            log.warning(THREADS_FORKED, threads)
            return chosen
        log.warning(
            "%d threads run already, so the pool can't be forked: it imports the "
            "program again; start threads in on_start and on_worker_start",
            threads,
        )
        return "auto"

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        wanted = self._settings["loop"]
        if wanted != "asyncio":
            try:
                import uvloop

                return cast(asyncio.AbstractEventLoop, uvloop.new_event_loop())
            except ImportError:
                if wanted == "uvloop":
                    raise MissingExtra(
                        "loop=\"uvloop\" needs: pip install 'pixie-web[fast]'"
                    ) from None
        return asyncio.new_event_loop()

    async def _serve(
        self, pools: Dict[str, Pool], sockets: Sequence[socket.socket]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self._takes_signals:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._on_signal)
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        application = self._application
        application.placements.pools = pools
        try:
            for pool in pools.values():
                await pool.start()
            await application.start()
            keep_log()
            if self._listens:
                await self._server.listen(sockets, self._tls)
                self._print_banner(sockets, loop)
                await self._stop.wait()
                await self._server.close()
            else:
                for pool in pools.values():
                    await pool.check_boot()
            await application.stop()
        finally:
            seconds = STOP_SECONDS if self._signals < 2 else 0.0
            await asyncio.gather(*(pool.stop(seconds) for pool in pools.values()))
            application.placements.threads.stop()

    def _on_hangup(self) -> None:
        """Read certificate and log files again; if they are no good, the old ones stay.

        The program stays as it is, in main and in the workers: they must not differ.
        """
        what = f"{reopen_log_files()} log files were opened again"
        for pool in self._application.placements.pools.values():
            pool.reopen_logs()
        if self._settings["certfile"]:
            try:
                load_certificate(self._tls, *self._certificate())
                what += " and the certificate was read again"
            except PixieError as error:
                log.error("%s; the one in use stays", error)
        log.info("SIGHUP: %s; new code needs a restart", what)

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._stop.set()
            running = self._server.running
            if running:
                log.info(
                    "waiting for %d requests; a second signal cuts them off", running
                )
            return
        self._server.cut_off()
        for pool in self._application.placements.pools.values():
            pool.hurry()

    def _print_banner(
        self,
        sockets: Sequence[socket.socket],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        host = self._settings["host"] or "localhost"
        name = sockets[0].getsockname()
        if self._settings["fd"] >= 0 and not isinstance(name, str):
            host = name[0]
        host = f"[{host}]" if ":" in host else host
        scheme = "http" if self._tls is None else "https"
        if isinstance(name, str):
            address = f"{scheme} over {name}"
        else:
            address = f"{scheme}://{host}:{name[1]}"
        kind = type(loop).__module__.partition(".")[0]
        pools = self._application.placements.pools.values()
        workers = f"{sum(pool.size for pool in pools) or 'no'} workers"
        python = ".".join(map(str, sys.version_info[:3]))
        ends = "Ctrl-C stops it" if self._takes_signals else "it ends with its process"
        say(
            f"pixie_web {__version__} on {address} ({ends})\n"
            f"main process {os.getpid()}, {workers}, {kind}, Python {python}"
        )


class Pixie(Application):
    """A web application: routes, triggers and error handlers, and `run`.

    Args:
        import_name: a name for people to read; `Pixie(__name__)` as elsewhere.
        secrets: sign cookies that name no secret of their own (str or bytes, or
            several, of which the first signs and each verifies). An application that is
            mounted and has none takes those of the one above it. Left out, cookies are
            not signed; at least 16 bytes each, else.

    Raises:
        PixieError: a secret is empty or too short, or there is none in what is given.
    """

    def __init__(
        self, import_name: Optional[str] = None, *, secrets: MaybeSecrets = UNSET
    ) -> None:
        super().__init__(import_name, secrets=secrets)
        self._kept: Dict[str, Any] = {}  # the arguments of a run() that did nothing

    def run(
        self,
        host: Optional[str] = None,
        port: Optional[int] = None,
        *,
        workers: Union[int, Literal["auto"], None] = None,
        threads: Optional[int] = None,
        pool_start: Optional[str] = None,
        debug: Optional[bool] = None,
        server_timing: Optional[bool] = None,
        loop: Optional[str] = None,
        parser: Optional[str] = None,
        uds: Optional[str] = None,
        uds_mode: Optional[int] = None,
        fd: Optional[int] = None,
        root_path: Optional[str] = None,
        certfile: Optional[str] = None,
        keyfile: Optional[str] = None,
        ssl_context: Any = None,
        trusted_proxies: Optional[Iterable[str]] = None,
        allowed_hosts: Optional[Iterable[str]] = None,
        access_log: Optional[bool] = None,
        access_log_format: Optional[str] = None,
        **limits: float,
    ) -> None:
        """Serve until SIGINT or SIGTERM; both let running requests end.

        Args:
            host: the address to bind; "localhost" (the default) binds both IP families.
            port: the port, 8000 by default; 0 takes a free one.
            workers: how many pool routes run at once, each in a process of its own;
                "auto", the default: as many as CPUs (affinity, cgroup quota). 0 runs
                them in threads of main, for debugging.
            threads: how many `thread` routes run at once; 40 by default.
            debug: show tracebacks in error pages.
            pool_start: how workers start: "zygote" (forked; the default on Linux),
                "exec" (forked from a process that imports the program again; when
                threads run already), or "spawn" (each imports it again; elsewhere).
            loop: "uvloop" or "asyncio"; uvloop by default, where it is installed.
            parser: "pixie", the default, or "httptools": the same requests, refused and
                accepted, and quicker where a body comes in many small chunks.
            server_timing: tell each client, in the Server-Timing header, how long its
                request waited and ran.
            uds, uds_mode: the path of a Unix socket to listen on, instead of host and
                port, and its permissions; 0o660 by default, "660" as text.
            fd: a bound socket to listen on that this process was started with.
            root_path: the path that a proxy takes off ("/app"), for `url_for` and
                `env.url`; X-Forwarded-Prefix of a trusted proxy goes first.
            certfile, keyfile: the certificate chain and its key, PEM: serve HTTPS. They
                are read again on SIGHUP.
            ssl_context: an ssl.SSLContext of your own instead.
            trusted_proxies: addresses and networks, or "unix", whose X-Forwarded-For,
                -Proto, -Host, -Prefix and Forwarded are believed.
            allowed_hosts: the hosts that are served, ".example.com" with all below it;
                a request for another one is 400. All of them, when left out: env.host
                and env.url are then what the client says.
            access_log: log each request.
            access_log_format: with %(name)s for the items of `AccessRecord`.
            limits: the other fields of `ServerOptions`, and those of `PoolOptions` and
                `FormLimits`.

        Raises:
            SystemExit: 1, after one line that says why, when it can't start.
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        given.update(given.pop("limits"))
        given = {key: value for key, value in given.items() if value is not None}
        if _Runner.loading:
            self._kept = given
            return
        self._run(given)

    def _run(self, given: Dict[str, Any], listens: bool = True) -> None:
        given = {**self._kept, **given}
        try:
            tls = given.pop("ssl_context", None)
            _Runner(self, read_settings(given, os.environ), tls, listens).run()
        except (PixieError, OSError) as error:
            say(f"pixie_web: {error}")
            raise SystemExit(1) from None


app = Pixie()  # the default application; its methods are functions of this module

route, run = app.route, app.run
get, post, put, delete = app.get, app.post, app.put, app.delete
patch, head, options = app.patch, app.head, app.options
error, before, after = app.error, app.before, app.after
static, mount = app.static, app.mount


# The command line ---------------------------------------------------------------------


def load_application(target: str) -> Pixie:
    """Import `module`, `module:name` or `file.py[:name]` and return its application.

    Without a name it is `app`, else `application`, else the default application, which
    `module:app` means too where the module has no `app` of its own.

    Raises:
        PixieError: there is no such module, or no application in it.
    """
    import importlib

    module_name, _, name = target.partition(":")
    if not module_name:
        raise PixieError(f"write module:name or file.py, got {target!r}")
    directory = os.getcwd()
    if module_name.endswith(".py"):
        directory = os.path.dirname(os.path.abspath(module_name))
        module_name = os.path.basename(module_name)[:-3]
    sys.path.insert(0, directory)
    _Runner.loading = True
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if not f"{module_name}.".startswith(f"{missing.name}."):
            raise
        raise PixieError(f"no module {module_name!r} in {directory}") from None
    finally:
        _Runner.loading = False
    for candidate in (name,) if name else ("app", "application"):
        found = getattr(module, candidate, None)
        if isinstance(found, Pixie):
            found.imported_from = module_name
            return found
    if name not in ("", "app", "application") or not app.routes:
        raise PixieError(f"{module_name} has no Pixie application {name or 'app'!r}")
    app.imported_from = module_name
    return app


def import_main(package: str, path: str) -> None:
    """Run the main program again, as `__mp_main__`, and let it be `__main__`."""
    module = types.ModuleType("__mp_main__")
    module.__file__, module.__package__ = path, package
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, vars(module))


def load_program(origin: Mapping[str, Any]) -> Program:
    """Import an application in a new interpreter, and return its program."""
    import importlib
    import tempfile

    sys.argv[:], sys.path[:] = origin["argv"], origin["path"]
    tempfile.tempdir = origin["temporary"]
    _Runner.loading = True
    if origin["main"] is not None:
        import_main(*origin["main"])
    for name in origin["modules"]:
        importlib.import_module(name)
    module, name = origin["application"]
    application = cast(Application, getattr(sys.modules[module or __name__], name))
    take_over(application, origin["settings"])
    program = application.freeze()
    program.fresh = True
    return program


def boot() -> NoReturn:
    """Be a process of the pool: what its zygote or main has a new interpreter do."""
    sys.modules.setdefault("pixie_web", sys.modules[__name__])
    live_apart(load_program)


def _flag(text: str) -> bool:
    return cast(bool, _convert("the value", text, bool))


def print_routes(application: Pixie) -> None:
    """Print a line for each route: verbs, path, placement, handler."""
    rows = [
        (
            ",".join(route.methods),
            route.path,
            route.placement.name,
            getattr(route.handler, "__name__", repr(route.handler)),
        )
        for route in application.routes
    ]
    widths = [max(map(len, column)) for column in zip(*rows)] if rows else []
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line and return its exit status.

    `app:app --port 8080` serves; `routes app:app` lists the routes; `check app:app`
    does all of a start but the listening, stops, and says whether that went well.
    """
    import argparse

    fill_standard_descriptors()  # ahead of what the program opens

    parser = argparse.ArgumentParser("pixie_web", description="Serve an application.")
    parser.add_argument("command", nargs="?", help="routes or check; else serve")
    parser.add_argument("target", help="module:name, module or file.py")
    for name, default in DEFAULT_SETTINGS.items():
        # Others are turned into their kind with the variables of the environment.
        kind = _flag if isinstance(default, bool) else type(default)
        kind = str if kind is tuple or name.endswith(("_mode", "workers")) else kind
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="VALUE")
    parser.add_argument("--version", action="version", version=__version__)
    parsed = vars(parser.parse_args(arguments))
    command, target = parsed.pop("command"), parsed.pop("target")
    if command not in (None, "routes", "check"):
        parser.error(f"a command is routes or check, not {command!r}")
    try:
        application = load_application(target)
    except PixieError as problem:
        say(f"pixie_web: {problem}")
        return 1
    if command is None:
        application.run(**parsed)
        return 0
    if command == "check":
        given = {name: value for name, value in parsed.items() if value is not None}
        application._run(given, listens=False)
    print_routes(application)
    return 0


if __name__ == "__main__":
    # The program imports `pixie_web`: that must be this module, not a second copy.
    sys.modules["pixie_web"] = sys.modules["__main__"]
    sys.exit(main())
