"""Header fields to the canonical head of a request, and of an answer to a block.

A request of HTTP/2 travels on as all others do: its head is written as HTTP/1.1 would
have it, and proved by the same rules.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..errors import ProtocolError
from ..protocol.canonical import canonical_head
from ..protocol.http11 import Head, RequestReader
from ..server.heads import ProvedHeads
from ..text import is_token
from .hpack import encode_field, encode_integer
from .tables import Field

_ORDINARY, _PSEUDO, _COOKIE, _HOST, _LENGTH, _TE, _WRONG, _PRIORITY = range(8)
_KINDS = {
    **dict.fromkeys((b":method", b":scheme", b":authority", b":path"), _PSEUDO),
    b"cookie": _COOKIE,
    b"host": _HOST,
    b"content-length": _LENGTH,
    b"te": _TE,
    b"priority": _PRIORITY,
    # RFC 9113 section 8.2.2: what is the connection's alone.
    **dict.fromkeys((b"connection", b"keep-alive", b"proxy-connection"), _WRONG),
    **dict.fromkeys((b"transfer-encoding", b"upgrade"), _WRONG),
}
_BLANKS = b" \t"
MAX_PRIORITY_BYTES = 64  # of the header, which has no more than "u=3, i" to say
DEFAULT_URGENCY = 3  # RFC 9218 section 4.1


class MalformedRequest(Exception):
    """A request's fields break a rule of RFC 9113 section 8: its stream is reset."""


@lru_cache(maxsize=1024)
def _kind_of(name: bytes) -> int:
    """Return what a field's name means here (RFC 9113 section 8.2.1)."""
    kind = _KINDS.get(name)
    if kind is not None:
        return kind
    is_name = name == name.lower() and is_token(name.decode("latin-1"))
    return _ORDINARY if is_name else _WRONG


class RequestFields(NamedTuple):
    """The fields of a request, sorted."""

    pseudo: Dict[bytes, bytes]
    lines: List[Field]  # without cookies and Host
    cookies: List[bytes]
    hosts: List[bytes]
    has_length: bool
    priority: bytes


def sort_fields(fields: List[Field]) -> RequestFields:
    """Sort a request's fields by what they mean.

    Raises:
        MalformedRequest: one of them may not be there, or not there.
    """
    pseudo: Dict[bytes, bytes] = {}
    lines: List[Field] = []
    cookies: List[bytes] = []
    hosts: List[bytes] = []
    has_length, priority = False, b""
    for field in fields:
        name, value = field
        kind = _kind_of(name)
        if value and (value[0] in _BLANKS or value[-1] in _BLANKS):
            raise MalformedRequest("a value begins or ends with a blank")
        if kind == _ORDINARY:
            lines.append(field)
        elif kind == _PSEUDO:
            # Section 8.3: each once, and ahead of all others.
            if name in pseudo or lines or cookies or hosts:
                raise MalformedRequest("a pseudo-header is out of its place")
            pseudo[name] = value
        elif kind == _COOKIE:
            cookies.append(value)
        elif kind == _HOST:
            hosts.append(value)
        elif kind == _WRONG or (kind == _TE and value.lower() != b"trailers"):
            raise MalformedRequest("a field has a name that none may have here")
        else:
            has_length = has_length or kind == _LENGTH
            priority = value if kind == _PRIORITY else priority
            lines.append(field)
    return RequestFields(pseudo, lines, cookies, hosts, has_length, priority)


def check_trailers(fields: List[Field]) -> None:
    """Raise MalformedRequest unless fields may be trailers (RFC 9113 section 8.1)."""
    if sort_fields(fields).pseudo:
        raise MalformedRequest("trailers have no pseudo-headers")


def _target_of(found: RequestFields) -> Tuple[bytes, bytes, bytes]:
    """Return (method, target, host) (RFC 9113 section 8.3.1)."""
    pseudo, hosts = found.pseudo, found.hosts
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    authority = pseudo.get(b":authority", b"")
    if len(hosts) > 1 or (hosts and authority and hosts[0] != authority):
        # SECURITY: a proxy that goes by the other one sees another site.
        raise MalformedRequest("host and :authority differ")
    host = authority or (hosts[0] if hosts else b"")
    if method == b"CONNECT":
        if path or b":scheme" in pseudo or not authority:
            raise MalformedRequest("CONNECT has an authority, and no path")
        return method, authority, host
    is_path = path[:1] == b"/" or (path == b"*" and method == b"OPTIONS")
    # SECURITY: a URL in place of a path would name a host of its own.
    if not is_path or pseudo.get(b":scheme") not in (b"http", b"https") or not method:
        raise MalformedRequest("a request has :method, :scheme and a :path from /")
    return method, path, host


class HTTP2Heads(ProvedHeads):
    """The same, of requests that came over HTTP/2."""

    version = "2"


def request_head(
    found: RequestFields,
    is_whole: bool,
    heads: ProvedHeads,
    make_reader: Callable[[], RequestReader],
) -> Tuple[Head, Any]:
    """Return the head of a request, and what the application knows of it.

    Args:
        found: its fields.
        is_whole: no body follows.
        heads: those that were proved before.
        make_reader: makes what proves a new one.

    Raises:
        MalformedRequest: the fields are no request.
        ProtocolError: they are one that is refused.
    """
    method, target, host = _target_of(found)
    lines: List[Field] = [(b"Host", host), *found.lines]
    if found.cookies:
        # RFC 9113 section 8.2.3: one line again, for whoever knows no other.
        lines.append((b"Cookie", b"; ".join(found.cookies)))
    if is_whole and not found.has_length:
        text = b"".join([b"%b: %b\r\n" % line for line in lines])
        raw = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, text)
        # SECURITY: a line break inside of a part would make two lines of it, and what
        # was proved before has as many lines as it seems to have here.
        known = heads.find(raw) if raw.count(b"\r\n") == len(lines) + 2 else None
        if known is not None:
            return known[:2]
    head = _prove(method, target, lines, make_reader())
    head.version = heads.version
    if is_whole and head.content_length:
        raise MalformedRequest("a body is announced, and none comes")
    if is_whole and not found.has_length:
        heads.learn(head)
    elif not is_whole and not found.has_length:
        head.content_length = None
    return head, None


def _prove(
    method: bytes, target: bytes, lines: List[Field], reader: RequestReader
) -> Head:
    try:
        return canonical_head(method, target, "1.1", lines, reader)
    except ProtocolError as error:
        if error.status == 400:
            raise MalformedRequest(error.text) from None
        raise


def read_priority(value: bytes) -> Tuple[int, bool]:
    """Return the urgency, 0 to 7, and whether pieces are of use (RFC 9218 section 4).

    What is none says nothing: it is advice.
    """
    urgency, is_incremental = DEFAULT_URGENCY, False
    for part in value[:MAX_PRIORITY_BYTES].split(b","):
        key, _, said = part.partition(b";")[0].strip(_BLANKS).partition(b"=")
        if key == b"u" and len(said) == 1 and b"0" <= said <= b"7":
            urgency = int(said)
        elif key == b"i":
            is_incremental = said in (b"", b"?1")
    return urgency, is_incremental


# The way out --------------------------------------------------------------------------

MAX_KEPT_BLOCK_BYTES = 2048  # of the header lines of an answer that are kept encoded


def _encode_lines(block: bytes) -> bytes:
    fields = []
    for line in block.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name:
            fields.append(encode_field(name.lower(), value.strip(_BLANKS)))
    return b"".join(fields)


# PERF: as most answers of a route have the same: 0.1 us in place of 5.
_kept_lines = lru_cache(maxsize=256)(_encode_lines)


@lru_cache(maxsize=128)
def _status_field(status: int) -> bytes:
    return encode_field(b":status", b"%d" % status)


def response_block(
    status: int, date_line: bytes, block: bytes, length: Optional[int]
) -> bytes:
    """Return the header block of an answer.

    Args:
        status: the status.
        date_line: `Date: ...` CR LF.
        block: header lines that `is_header_block` accepts.
        length: of the body in bytes; None: not known beforehand.
    """
    if status == 205:  # RFC 9110 section 15.3.6
        length = 0
    lines = date_line + block
    keeps = len(lines) <= MAX_KEPT_BLOCK_BYTES
    fields = _kept_lines(lines) if keeps else _encode_lines(lines)
    if length is None or status == 204 or (status == 304 and not length):
        return _status_field(status) + fields
    digits = b"%d" % length
    start = encode_integer(_CONTENT_LENGTH, 4, 0)
    return b"%b%b%b%c%b" % (_status_field(status), fields, start, len(digits), digits)


_CONTENT_LENGTH = 28  # in the static table
CONTINUE_BLOCK = encode_field(b":status", b"100")
