"""A client of HTTP/2 that says what the test says, right or wrong; no library.

client = HTTP2Client(site.connect())
client.send(hello(), headers(1, GET))
assert (await client.frames()) == [...]
"""

from __future__ import annotations

import struct
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from virtual_time import quiet

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = (
    range(10)
)
PRIORITY_UPDATE = 16
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8
WITH_PRIORITY = 32
ENDS = END_STREAM | END_HEADERS

Pairs = Sequence[Tuple[bytes, bytes]]
GET: Pairs = (
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"localhost"),
    (b":path", b"/"),
)


def asking(path: str, *more: Tuple[str, str], method: str = "GET") -> Pairs:
    """Return the fields of a request."""
    first = ((":method", method), (":scheme", "http"), (":authority", "localhost"))
    pairs = (*first, (":path", path), *more)
    return tuple((name.encode(), value.encode()) for name, value in pairs)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        struct.pack(">L", len(payload))[1:]
        + struct.pack(">BBL", kind, flags, stream)
        + payload
    )


def number(value: int) -> bytes:
    return struct.pack(">L", value)


def text(value: bytes) -> bytes:
    """Return a text of HPACK, not coded."""
    if len(value) < 127:
        return bytes((len(value),)) + value
    left, octets = len(value) - 127, [127]
    while left > 127:
        octets.append(left & 127 | 128)
        left >>= 7
    return bytes((*octets, left)) + value


def block(pairs: Pairs) -> bytes:
    """Return a header block of literals that touch no table."""
    return b"".join(b"\0" + text(name) + text(value) for name, value in pairs)


def headers(stream: int, pairs: Pairs, flags: int = ENDS) -> bytes:
    return frame(HEADERS, flags, stream, block(pairs))


def data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream, payload)


def settings(*pairs: Tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", *one) for one in pairs))


def hello(*pairs: Tuple[int, int]) -> bytes:
    """Return what a connection begins with."""
    return PREFACE + settings(*pairs)


class Got(NamedTuple):
    """A frame of the server's."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        at = 4 if self.kind == GOAWAY else 0
        return int(struct.unpack_from(">L", self.payload, at)[0])


def split(data: bytes) -> Tuple[List[Got], bytes]:
    """Return the frames that bytes are, and what is left of them."""
    found = []
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        kind, flags, stream = struct.unpack(">BBL", data[3:9])
        if len(data) < 9 + size:
            break
        found.append(Got(kind, flags, stream, data[9 : 9 + size]))
        data = data[9 + size :]
    return found, data


class HTTP2Client:
    """A client of `virtual_server` that speaks in frames.

    Attributes:
        got: all frames of the server's, but for its first SETTINGS and its windows.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.got: List[Got] = []
        self._left = b""

    def send(self, *parts: bytes) -> None:
        self.client.send(b"".join(parts))

    async def frames(self) -> List[Got]:
        """Return what the server says to what was sent."""
        await quiet()
        came = self.client.read()
        while came:
            self._left += came
            await quiet()
            came = self.client.read()
        found, self._left = split(self._left)
        self.got += found
        return [one for one in found if not _is_greeting(one)]

    async def say(self, *parts: bytes) -> List[Got]:
        """Send, and return what the server says."""
        self.send(*parts)
        return await self.frames()


def _is_greeting(one: Got) -> bool:
    return one.kind == SETTINGS or (one.kind == WINDOW and one.stream == 0)


def statuses(frames: Sequence[Got]) -> Dict[int, int]:
    """Return the status of each stream's answer, by its literal in the static table."""
    found = {}
    for one in frames:
        if one.kind == HEADERS:
            found[one.stream] = status_of(one.payload)
    return found


_INDEXED = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}


def status_of(payload: bytes) -> int:
    """Return the status that a header block begins with."""
    payload = payload[1:] if payload[:1] == b"\x20" else payload  # the table's size
    if payload[0] & 128:
        return _INDEXED[payload[0] & 127]
    assert payload[:2] == b"\x08\x03"
    return int(payload[2:5])


def bodies(frames: Sequence[Got]) -> Dict[int, bytes]:
    """Return what came of each stream's body."""
    found: Dict[int, bytes] = {}
    for one in frames:
        if one.kind == DATA:
            found[one.stream] = found.get(one.stream, b"") + one.payload
    return found


def ends(frames: Sequence[Got]) -> List[Tuple[int, int, int]]:
    """Return the (kind, stream, code) of what ended a stream or the connection."""
    return [
        (one.kind, one.stream, one.code) for one in frames if one.kind in (RST, GOAWAY)
    ]
