"""The oracle of heads.py and chunks.py: what the bytes of a connection may become.

`check_connection` feeds `RequestReader` the same bytes whole, cut in two and in steps:

- each way gives the same events, and an error or a close is the last for ever;
- an error is a ProtocolError;
- there are at most two events for each byte, so nothing spins;
- what is kept between two pieces is never longer than the limits allow;
- where httptools is installed, the reader that uses it gives the same events;
- a simple second reading of the same bytes agrees with every head and every body: it
  takes each line as it stands and knows no limits, no cuts and no state.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple, Type, Union

from harness import (
    CHUNK_READERS,
    READERS,
    choose,
    cuts,
    events_from,
    joined,
    next_event,
)

from pixie_web import HTTPError, ProtocolError, Request
from pixie_web.protocol import http11
from pixie_web.protocol.http11 import (
    CLOSED,
    END,
    MAX_HEAD_BYTES,
    MAX_HEADER_LINE_BYTES,
    MAX_HEADERS,
    MAX_REQUEST_LINE_BYTES,
    MAX_TRAILER_BYTES,
    NEED_DATA,
    Head,
    RequestReader,
    Signal,
    WireLimits,
)
from pixie_web.text import check_header, is_token

Event = Union[Tuple[object, ...], bytes, Signal]

LIMITS: List[Dict[str, int]] = [
    {},
    {
        "max_request_line_bytes": 40,
        "max_header_line_bytes": 35,
        "max_headers": 3,
        "max_head_bytes": 120,
        "max_chunk_line_bytes": 20,
        "max_trailer_bytes": 40,
    },
]
MAX_SMALL_CHUNKS = [http11.MAX_SMALL_CHUNKS, 20]  # an input has no room for more
MOST_KEPT_BYTES = [  # in a head, and in a body: a chunk's line or the trailers
    (MAX_HEAD_BYTES, MAX_TRAILER_BYTES + 1),
    (120, 41),
]


def check_connection(data: bytes, prefix: bytes = b"") -> None:
    choices, data = choose(data)
    number = choices[0] % 2
    max_body_bytes = [None, 10][choices[0] // 2 % 2]
    data = prefix + data
    for module in CHUNK_READERS:
        module.MAX_SMALL_CHUNKS = MAX_SMALL_CHUNKS[number]
    whole = events_of(RequestReader, [data], number, max_body_bytes)
    for pieces in ([data], *cuts(data, choices)):
        for reader in READERS:
            assert events_of(reader, pieces, number, max_body_bytes) == whole
    read_again(data, whole)


def events_of(
    reader_class: Type[RequestReader],
    pieces: List[bytes],
    number: int,
    max_body_bytes: Optional[int],
) -> List[Event]:
    """Return all events of a connection; pieces of a body are joined."""
    reader = reader_class(WireLimits(**LIMITS[number]))
    events: List[Event] = []
    in_body = False
    left = 2 * sum(map(len, pieces)) + 2 * len(pieces) + 4
    rest = iter([*pieces, None])
    for event in events_from(reader, rest):
        left -= 1
        assert left >= 0, "more events than two for each byte"
        if event is NEED_DATA:
            assert reader.buffered <= MOST_KEPT_BYTES[number][in_body]
        if isinstance(event, Head):
            reader.max_body_bytes = max_body_bytes
            in_body = event.content_length != 0
        in_body = in_body and event is not END
        events.append(plain(event, LIMITS[number]))
    last = events[-1]
    assert last is CLOSED or is_error(last), "the end of input gave no end"
    if is_error(last) or list(rest):  # before the end of input
        reader.feed(b"more")
        assert plain(next_event(reader), {}) == last
        assert reader.buffered == 0
    return joined(events)


def is_error(event: Event) -> bool:
    return isinstance(event, tuple) and len(event) == 2


def plain(event: Any, limits: Dict[str, int]) -> Event:
    """Return an event in a form that can be compared."""
    if isinstance(event, ProtocolError):
        return event.status, event.text
    return look_at(event, limits) if isinstance(event, Head) else event


def look_at(head: Head, limits: Dict[str, int]) -> Tuple[object, ...]:
    """Return what a head says, after reading all that a handler may ask of it."""
    assert len(head.raw) <= limits.get("max_head_bytes", MAX_HEAD_BYTES)
    lines = head.raw.split(b"\r\n")
    first, longest = MAX_REQUEST_LINE_BYTES, MAX_HEADER_LINE_BYTES
    assert len(lines[0]) <= limits.get("max_request_line_bytes", first)
    assert max(map(len, lines[1:])) <= limits.get("max_header_line_bytes", longest)
    assert len(lines) - 3 <= limits.get("max_headers", MAX_HEADERS)
    request = Request(head)
    assert re.fullmatch(r"http://[!-~]+", request.url)
    for name, value in request.headers.items():
        check_header(name, value)
    assert all(request.cookies)
    try:
        request.query.getall("a")
    except HTTPError as error:
        if error.status != 413:
            raise
    return tuple(getattr(head, slot) for slot in Head.__slots__)


# The second reading -------------------------------------------------------------------


def read_again(data: bytes, events: List[Event]) -> None:
    """Walk through the bytes of a connection beside its events."""
    position = number = 0
    while isinstance(events[number], tuple) and len(events[number]) > 2:
        head = dict(zip(Head.__slots__, events[number]))
        while data.startswith(b"\r\n", position):
            position += 2
        raw = head["raw"]
        assert data.startswith(raw, position)
        assert raw.index(b"\r\n\r\n") == len(raw) - 4
        position += len(raw)
        number += 1
        length = read_head(raw, head)
        if length != 0:
            body = b""
            if isinstance(events[number], bytes):
                body = events[number]
                number += 1
            if events[number] is not END:
                assert number == len(events) - 1
                return  # refused, or at an end, inside a body
            number += 1
            if length is None:
                position = read_chunks(data, position, body)
            else:
                assert data[position : position + length] == body
                assert len(body) == length
                position += length
        if not head["keep_alive"]:
            assert events[number:] == [CLOSED]
            return
    assert number == len(events) - 1
    if events[number] is CLOSED:
        assert not data[position:].strip(b"\r\n")


def read_head(raw: bytes, head: Dict[str, object]) -> Optional[int]:
    """Check the head against its lines, and return the length of the body."""
    assert raw.count(b"\r") == raw.count(b"\n") == raw.count(b"\r\n")
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    assert (method, target) == (head["method"], head["target"])
    assert re.fullmatch(r"HTTP/1\.[0-9]", version)
    assert (version == "HTTP/1.0") == (head["version"] == "1.0")
    found: Dict[str, List[str]] = {}
    for line in lines:
        name, value = line.split(":", 1)
        assert is_token(name)
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value)
        found.setdefault(name.lower(), []).append(value.strip(" \t"))
    hosts = found.get("host", [])
    assert len(hosts) == 1 or (not hosts and version == "HTTP/1.0")
    assert not re.search(r"[\s,/?#@\\]", str(head["host"]))
    if "close" in ",".join(found.get("connection", [])).lower().split(","):
        assert head["keep_alive"] is False
    lengths, codings = found.get("content-length"), found.get("transfer-encoding")
    assert not (lengths and codings)
    if codings:
        assert [coding.lower() for coding in codings] == ["chunked"]
        assert version != "HTTP/1.0"
        assert head["content_length"] is None
        return None
    length = int(lengths[0]) if lengths else 0
    assert lengths is None or (len(lengths) == 1 and lengths[0].isdigit())
    assert head["content_length"] == length
    return length


def read_chunks(data: bytes, position: int, body: bytes) -> int:
    """Check a chunked body against its bytes, and return where it ends."""
    content = b""
    size = -1
    while size:
        end = data.index(b"\r\n", position)
        size = int(re.match(rb"[0-9A-Fa-f]+", data[position:end]).group(), 16)
        assert b"\n" not in data[position:end]
        position = end + 2
        content += data[position : position + size]
        position += size
        if size:
            assert data[position : position + 2] == b"\r\n"
            position += 2
    assert content == body
    while not data.startswith(b"\r\n", position):
        end = data.index(b"\r\n", position)
        assert is_token(data[position:end].decode("latin-1").split(":")[0])
        position = end + 2
    return position + 2
