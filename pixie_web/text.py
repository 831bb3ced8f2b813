"""Text between the wire and the program.

Small pure functions between bytes and text: tokens, dates, percent-encoding, forms,
cookies, escaping, JSON. A header is latin-1 on the wire (RFC 9110 section 5.5); all
text that a person types is UTF-8.
"""

from __future__ import annotations

import codecs
import logging
import re
import time
from contextlib import nullcontext
from contextvars import ContextVar
from enum import Enum
from functools import lru_cache, partial
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Union,
    cast,
)

from .about import log
from .errors import HTTPError, PixieError


class LazyExpression:
    """A regular expression that is compiled when one of its methods is first used.

    PERF: compiling all of them at once is 5 of the 11 ms that importing takes.
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

TOKEN_BYTES = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"  # RFC 9110 section 5.6.2, for a [...]
_TOKEN = expression(rf"[{TOKEN_BYTES.decode()}]+")
UNSAFE_IN_HEADER = expression(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")
_PERCENT = expression(rb"%([0-9A-Fa-f]{2})")
# PERF: to find b"%" with `in`, Python first tries it as a number, and an exception ends
# that: 0.25 us. A number is found at once; `find` does not try either.
_PERCENT_SIGN = 0x25
decode_escapes = codecs.unicode_escape_decode
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
    bad = UNSAFE_IN_HEADER.search(value)
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
    if _PERCENT_SIGN not in data:
        return data
    try:
        # PERF: %41 as \x41, in C: text of many escapes in 0.2 of the time below.
        escaped = data.replace(b"\\", b"\\\\").replace(b"%", b"\\x")
        return decode_escapes(escaped)[0].encode("latin-1")
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


def _has_escaped_separator(data: bytes) -> bool:
    """Return whether a field holds a `&` or `=` that separates nothing."""
    find = data.find
    return find(b"%3D") >= 0 or find(b"%26") >= 0 or find(b"%3d") >= 0


def _parse_each(data: bytes) -> List[Tuple[str, str]]:
    pairs = []
    for field in filter(None, data.split(b"&")):
        raw_name, _, raw_value = field.partition(b"=")
        name = percent_decode(raw_name).decode("utf-8", "replace")
        pairs.append((name, percent_decode(raw_value).decode("utf-8", "replace")))
    return pairs


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
    data = data.replace(b"+", b" ")
    if _PERCENT_SIGN in data:
        if _has_escaped_separator(data):
            return _parse_each(data)
        # PERF: all at once, and then each field: 100 with escapes in 0.3 of the time.
        data = percent_decode(data)
    pairs = []
    for field in data.decode("utf-8", "replace").split("&"):
        if field:
            name, _, value = field.partition("=")
            pairs.append((name, value))
    return pairs


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


class JSONLibrary(NamedTuple):
    """A library for JSON in place of `json` and orjson, with its own rules."""

    dumps: Callable[[Any], Any]
    loads: Callable[[bytes], Any]


def json_library(choice: Any) -> JSONLibrary:
    """Return the library that a program has chosen: a module, or a pair of functions.

    Raises:
        PixieError: it has not what it takes, or can't read what it writes.
    """
    pair = tuple(choice) if isinstance(choice, (tuple, list)) else ()
    try:
        dumps, loads = pair or (choice.dumps, choice.loads)
        data = dumps({"a": [1, "\xe4"]})
        data = data.encode("utf-8") if isinstance(data, str) else bytes(data)
        if loads(data) != {"a": [1, "\xe4"]}:
            raise ValueError("it does not read its own output")
    except Exception as error:
        raise PixieError(
            "json= is a module with dumps and loads, or these two functions; loads "
            f"takes bytes, dumps returns bytes or str; got {choice!r}: {error}"
        ) from error
    return JSONLibrary(dumps, loads)


# Set while a request is answered: its application's word on what none of this knows, or
# the library that it has chosen in place of this.
json_default_hook: ContextVar[Union[Callable[[Any], object], JSONLibrary, None]] = (
    ContextVar("json_default_hook", default=None)
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
    if hook is not None and not isinstance(hook, JSONLibrary):
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
    from json import JSONDecoder, JSONEncoder, encoder

    decoder = JSONDecoder(parse_float=parse_float, parse_constant=_refuse_constant)
    make = getattr(encoder, "c_make_encoder", None)
    if make is None:  # PyPy
        rules: Any = {"default": _json_default, "separators": (",", ":")}
        slow = JSONEncoder(ensure_ascii=False, allow_nan=False, **rules)
        return slow.encode, decoder.decode

    # PERF: all that JSONEncoder.encode comes to with these rules: 1.9 us in place of
    # 4.7 for a small dict, 2.0 of 2.6 on 3.13. One for each call: an encoder notes what
    # it is inside of, and two threads would see each other's.
    quote = encoder.encode_basestring
    rules = _json_default, quote, None, ":", ",", False, False, False

    def encode(value: object) -> str:
        return "".join(make({}, *rules)(value, 0))

    return encode, decoder.decode


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
            # PERF: `find`, see _PERCENT_SIGN: 0.5 in place of 0.8 us for a small dict.
            # orjson writes NaN as null, which is not equal to it when read back.
            if data.find(b"null") < 0 or loads(data) == value:
                return data
        except Exception:  # of values that do not compare, too
            pass  # json may know better, or says why
    # Half a surrogate pair can't be UTF-8, but its \\udXXX is JSON.
    return _json()[0](value).encode("utf-8", "backslashreplace")


def write_json(value: object) -> bytes:
    """Return an answer's JSON: by the library that its application has chosen, if any.

    Raises:
        Exception: the value can't be written; for what `dump_json` refuses, as it does.
    """
    library = json_default_hook.get()
    if not isinstance(library, JSONLibrary):
        return dump_json(value)
    data = library.dumps(value)
    if isinstance(data, str):
        return data.encode("utf-8", "backslashreplace")
    return bytes(data)


_LONG = b"0" * 20
_LONG_NEGATIVE = b"-" + b"0" * 19


def _has_long_integer(data: bytes) -> bool:
    """Return whether there may be an integer of more than 64 bits."""
    # PERF: 19 digits hold two that are nine bytes apart: 6 of 48 us for 10 KB of JSON.
    if data[::9].translate(_ONE_DIGIT).find(b"00") < 0:
        return False
    digits = data.translate(_ONE_DIGIT)
    return digits.find(_LONG) >= 0 or digits.find(_LONG_NEGATIVE) >= 0


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


def read_json(data: bytes) -> object:
    """Return what a client's JSON says: by the library that its application has chosen.

    Raises:
        HTTPError: 400, for whatever the library raises; else as `load_json`.
    """
    library = json_default_hook.get()
    if not isinstance(library, JSONLibrary):
        return load_json(data)
    try:
        return library.loads(data)
    except Exception as error:  # it has read what it wrote: this is the client's
        if isinstance(error, MemoryError):
            raise
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


class OwnHandler(logging.StreamHandler):  # type: ignore[type-arg] # not before 3.11
    """The handler of this framework's log if the program has not set up logging."""

    def __init__(self) -> None:
        super().__init__()
        self._own = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
        self.setFormatter(self._own)
        self._second, self._clock = 0, ""  # as of the last line

    def is_all_of(self, logger: logging.Logger) -> bool:
        """Return whether one line, of this, is all that comes of `logger.info(...)`.

        It is no longer when the program sets up logging while it runs.
        """
        return (
            log.handlers == [self]
            and self.formatter is self._own
            and self.level <= logging.INFO
            and logger.propagate
            and not (logger.handlers or logger.filters or self.filters)
            and not (log.propagate and log.parent is not None and log.parent.handlers)
            and logging.getLogRecordFactory() is logging.LogRecord
        )

    def write_line(self, level: str, text: str) -> None:
        """Write what a record would come to, without one.

        Raises:
            OSError, ValueError: the stream can't be written to.
        """
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            shown = self._own.converter(now)
            self._clock = time.strftime(self._own.default_time_format, shown)
        clock, form = self._clock, self._own.default_msec_format
        if form:
            clock = form % (clock, now % 1 * 1000)
        with self.lock or nullcontext():
            self.stream.write(f"{clock} {level} {text}{self.terminator}")
            self.flush()
