"""HTTP/1.1 on the wire.

Bytes in, events out, and the way back. Nothing here waits, and there is no socket and
no loop. The server feeds the bytes that have arrived and asks for the next event. So
any input can be replayed, cut anywhere, and must give the same events.

Framing is strict: input that two parsers could read differently (a bare LF, two
lengths, a space before a colon) is refused with a ProtocolError, and the connection
ends. A lenient parser behind or before a strict one allows request smuggling.

A whole head needs one search for its end, one expression that checks all its lines,
and one that finds the five headers for the connection. The other headers become text
at their first use. Heads that are wrong, long or in pieces are read line by line: the
first wrong line decides, however the input was cut.

Expressions for bytes of a client take linear time: in each, the next byte alone
decides whether a repetition goes on. For each one, tests/house/test_expressions.py
counts the steps for the worst texts.
"""

from __future__ import annotations

import re
import sys
from enum import Enum
from functools import lru_cache
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

from ..errors import REASONS, ProtocolError, RequestCutShort
from ..text import TOKEN_BYTES, expression, is_token, percent_decode

MAX_REQUEST_LINE_BYTES = 8190  # gunicorn 4094, Apache and aiohttp 8190; RFC asks 8000
MAX_HEADER_LINE_BYTES = 8190  # Apache, aiohttp, gunicorn
MAX_HEADERS = 100  # Apache, gunicorn
MAX_HEAD_BYTES = 65_536  # tornado; Go allows 1 MiB, nginx 32 KiB

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

TOKEN_CLASS = TOKEN_BYTES.decode()
_HEAD = expression(  # a header's value: RFC 9110 section 5.5, obs-text allowed
    rf"([{TOKEN_CLASS}]{{1,{MAX_METHOD_BYTES}}}) ([!-~]+) HTTP/1\.([0-9])\r\n"
    rf"(?:[{TOKEN_CLASS}]+:[\t -~\x80-\xff]*\r\n)*\r\n"
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
    version: str  # "1.0" or "1.1"; "2" and "3" of a head that came over that
    scheme: Optional[str]  # of a target in absolute form, else None
    host: str  # with its port; of the target, else of Host; "" when 1.0 sent none
    keep_alive: bool
    expects_continue: bool
    content_length: Optional[int]  # 0: no body; None: chunked

    def lines(self) -> Iterator[Tuple[str, str]]:
        """Iterate over the header lines as (name, value), for `Headers.from_wire`."""
        lines = self.raw.decode("latin-1").split("\r\n")[1:-2]
        parts = [line.partition(":") for line in lines]
        return iter([(name, value.strip("\t ")) for name, _, value in parts])


# What a head means --------------------------------------------------------------------


@lru_cache(maxsize=64)  # PERF: a server has few names
def is_host(text: str) -> bool:
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
        is_valid = is_host(target) and target.rpartition(":")[2].isdigit()
        raise ProtocolError(
            501 if is_valid else 400, "CONNECT needs host:port, and is for proxies."
        )
    if target[0] == "/":
        path, _, query = target.partition("?")
        return None, "", path, query
    if target == "*" and method == "OPTIONS":
        return None, "", "*", ""
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None or not is_host(match.group(2)):
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
        raise ProtocolError(501, f"The method has over {MAX_METHOD_BYTES} bytes.")
    _split_target(method.decode(), target.decode())
    if major_version != b"1":
        raise ProtocolError(505, "This connection speaks HTTP/1.1 and HTTP/1.0 only.")


def _long_line_status(start: bytes) -> int:
    """Return the status of a request line over its limit, which begins so."""
    method = start.partition(b" ")[0]
    if len(method) == len(start):
        return 400  # not HTTP, rather than a long target
    return 501 if len(method) > MAX_METHOD_BYTES else 414


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
    if not is_host(host) and (version == "1.1" or "host" in fields):
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
    """The results of `RequestReader.next_event` beside heads and body bytes."""

    NEED_DATA = "need data"  # feed more
    END = "end"  # the body of the request has come whole
    CLOSED = "closed"  # no further request will come on this connection


NEED_DATA, END, CLOSED = Signal.NEED_DATA, Signal.END, Signal.CLOSED
WireEvent = Union[Head, bytes, Signal]


class WireLimits(NamedTuple):
    """Limits of a request without its body; arguments of `run()` by these names."""

    max_request_line_bytes: int = MAX_REQUEST_LINE_BYTES
    max_header_line_bytes: int = MAX_HEADER_LINE_BYTES
    max_headers: int = MAX_HEADERS
    max_head_bytes: int = MAX_HEAD_BYTES
    max_chunk_line_bytes: int = MAX_CHUNK_LINE_BYTES
    max_extension_bytes: int = MAX_EXTENSION_BYTES
    max_trailer_bytes: int = MAX_TRAILER_BYTES


WIRE_LIMITS = WireLimits()


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

    def __init__(self, limits: WireLimits = WIRE_LIMITS) -> None:
        # What a line must not hold, its length, and the status if it is longer.
        self._request_line = _BAD_IN_REQUEST_LINE, limits.max_request_line_bytes, 414
        self._header_line = _BAD_IN_LINE, limits.max_header_line_bytes, 431
        self._chunk_line = _BAD_IN_LINE, limits.max_chunk_line_bytes, 400
        self._max_headers = limits.max_headers
        self._max_head_bytes = limits.max_head_bytes
        self._max_extension_bytes = limits.max_extension_bytes
        self._max_trailer_bytes = limits.max_trailer_bytes
        # A line not longer than this keeps the limits, whichever it is.
        self._short_line_bytes = min(self._request_line[1], self._header_line[1])
        # For the life of the connection. The step is a plain function: a bound method
        # would make a cycle of the reader, to be freed by the garbage collector only.
        self._buffer = b""
        self._position = 0  # what stands before it is consumed
        self._step: Callable[[RequestReader], WireEvent] = RequestReader._read_head
        self._eof = False
        self._error: Optional[Tuple[int, str]] = None
        self.refused = b""  # what an error was found in: it may be another protocol
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

    @property
    def is_between(self) -> bool:
        """Whether the next byte will be the first of a request."""
        at_head = self._step is RequestReader._read_head and not self._eof
        return at_head and not self.buffered and not self._empty_lines

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
            self.refused = self._buffer[self._position :] or self.refused
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
                status = _long_line_status(buffer[start : start + limit])
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


def status_line(status: int) -> bytes:
    """Return the first line of a response."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def has_body(method: str, status: int) -> bool:
    """Return whether the answer to a request of this method may have a body."""
    return method != "HEAD" and status >= 200 and status not in (204, 205, 304)


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
    chunked, with_body = False, has_body(method, status)
    framing = b""
    if status == 205:  # RFC 9110 section 15.3.6
        content_length = 0
    if status < 200 or status == 204 or (status == 304 and not content_length):
        pass
    elif content_length is not None:
        framing = b"Content-Length: %d\r\n" % content_length
    elif version == "1.0":
        keep_alive = keep_alive and not with_body
    else:
        chunked = with_body
        framing = b"Transfer-Encoding: chunked\r\n"
    if status < 200:
        pass  # the final response will say what becomes of the connection
    elif not keep_alive:
        framing += b"Connection: close\r\n"
    elif version == "1.0":
        framing += b"Connection: keep-alive\r\n"
    data = b"%b%b%b%b\r\n" % (status_line(status), date_line, header_block, framing)
    return ResponseHead(data, with_body, chunked, keep_alive)


def encode_chunk(data: bytes) -> bytes:
    """Return `data` as a chunk; nothing for no data, as an empty chunk ends a body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
