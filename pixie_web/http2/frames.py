"""Frames of HTTP/2 (RFC 9113 section 4 and 6): bytes to frames, and back.

Nothing here waits or knows a connection. `FrameReader` gives out frames whose form is
right: their length, their stream, their padding. A header block comes whole, whatever
pieces it was sent in. What a frame means for its stream is for others to say.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Dict, NamedTuple, Optional, Sequence, Tuple

from .budgets import MAX_BLOCK_BYTES, MAX_BLOCK_FRAMES, MAX_FRAME_BYTES

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # section 3.4
HEADER_BYTES = 9
MAX_WINDOW = 2**31 - 1  # section 6.9.1
DEFAULT_WINDOW = 65_535  # section 6.9.2

_HEADER = struct.Struct(">HBBBL")  # length in two parts, type, flags, stream
_NUMBER = struct.Struct(">L")
_SETTING = struct.Struct(">HL")


class Type(IntEnum):
    """The types of frames (section 6), and that of RFC 9218 section 7.1."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9
    PRIORITY_UPDATE = 16


class Code(IntEnum):
    """Error codes (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """Settings (section 6.5.2), and that of RFC 9218 section 2.1."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    NO_RFC7540_PRIORITIES = 9


# PERF: comparing plain numbers, and looking them up, costs a third.
DATA, HEADERS, CONTINUATION = int(Type.DATA), int(Type.HEADERS), int(Type.CONTINUATION)

END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8
PRIORITY_FLAG = 32
DEPENDS_ON_ITSELF = 256  # no flag of a frame: an error of RFC 7540 section 5.3.1


class ConnectionFault(Exception):
    """The client broke a rule of the connection, which ends with a GOAWAY."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class StreamFault(Exception):
    """The client broke a rule of one stream, which ends with a RST_STREAM."""

    def __init__(self, stream: int, code: Code, text: str) -> None:
        super().__init__(text)
        self.stream = stream
        self.code = code
        self.text = text


class Frame(NamedTuple):
    """A frame: of HEADERS the whole block, of DATA the data, without padding.

    `size` is that of the payload as it came, which flow control counts.
    """

    type: int
    flags: int
    stream: int
    payload: bytes
    size: int


# Of each type: on a stream, on the connection or on both; the least and the most bytes.
_ON_STREAM, _ON_CONNECTION, _ON_BOTH = (True,), (False,), (True, False)
_RULES: Dict[int, Tuple[Sequence[bool], int, int]] = {
    Type.DATA: (_ON_STREAM, 0, MAX_FRAME_BYTES),
    Type.HEADERS: (_ON_STREAM, 0, MAX_FRAME_BYTES),
    Type.PRIORITY: (_ON_STREAM, 0, MAX_FRAME_BYTES),  # 6.3: its stream's fault alone
    Type.RST_STREAM: (_ON_STREAM, 4, 4),
    Type.SETTINGS: (_ON_CONNECTION, 0, MAX_FRAME_BYTES),
    Type.PUSH_PROMISE: ((), 0, MAX_FRAME_BYTES),  # 8.4: never from a client
    Type.PING: (_ON_CONNECTION, 8, 8),
    Type.GOAWAY: (_ON_CONNECTION, 8, MAX_FRAME_BYTES),
    Type.WINDOW_UPDATE: (_ON_BOTH, 4, 4),
    Type.CONTINUATION: (_ON_STREAM, 0, MAX_FRAME_BYTES),
    Type.PRIORITY_UPDATE: (_ON_CONNECTION, 4, MAX_FRAME_BYTES),
}


class FrameReader:
    """Turns the bytes of a client into frames; first comes its preface.

    A header block is one frame of HEADERS, with all flags of its first one but
    END_HEADERS. An error is final.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._position = 0
        self._has_preface = False
        self._is_first = True
        self._block: Optional[Frame] = None  # HEADERS whose block goes on
        self._block_frames = 0

    @property
    def is_within_block(self) -> bool:
        """Whether a header block has begun, and not ended."""
        return self._block is not None

    @property
    def has_begun(self) -> bool:
        """Whether the preface and the first frame have come."""
        return not self._is_first

    @property
    def buffered(self) -> int:
        """The number of bytes that were fed and are not yet part of a frame."""
        return len(self._buffer) - self._position

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection."""
        self._buffer = self._buffer[self._position :] + data
        self._position = 0

    def next_frame(self) -> Optional[Frame]:
        """Return the next frame; None if it has not come whole.

        Raises:
            ConnectionFault: the bytes are no frame, or it breaks a rule of its form.
            StreamFault: the same, where the next frame can be read all the same.
        """
        if not self._has_preface and not self._take_preface():
            return None
        while True:
            start = self._position + HEADER_BYTES
            if len(self._buffer) < start:
                return None
            high, low, kind, flags, stream = _HEADER.unpack_from(
                self._buffer, self._position
            )
            size, stream = high << 8 | low, stream & MAX_WINDOW
            self._check(kind, flags, stream, size)
            end = start + size
            if len(self._buffer) < end:
                return None
            payload = self._buffer[start:end]
            self._position = end
            self._is_first = False
            if kind == CONTINUATION:
                frame = self._go_on(flags, payload)
            elif kind == HEADERS:
                frame = self._begin_block(flags, stream, payload)
            elif flags & PADDED and kind == DATA:
                return Frame(kind, flags, stream, unpadded(payload), size)
            else:
                return Frame(kind, flags, stream, payload, size)
            if frame is not None:
                return frame

    def _take_preface(self) -> bool:
        preface = self._buffer[: len(PREFACE)]
        if not PREFACE.startswith(preface):
            text = "the connection does not begin with the preface of HTTP/2"
            raise ConnectionFault(Code.PROTOCOL_ERROR, text)
        if len(preface) == len(PREFACE):
            self._has_preface, self._position = True, len(PREFACE)
        return self._has_preface

    def _check(self, kind: int, flags: int, stream: int, size: int) -> None:
        """Refuse a frame by its header: nothing of it is held."""
        # SECURITY: `h2` buffers all 16 MiB of a frame before it refuses them.
        if size > MAX_FRAME_BYTES:
            text = f"a frame has at most {MAX_FRAME_BYTES} bytes, not {size}"
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, text)
        if self._is_first and (kind != Type.SETTINGS or flags & ACK):
            text = "the first frame is not SETTINGS"  # section 3.4
            raise ConnectionFault(Code.PROTOCOL_ERROR, text)
        expected = None if self._block is None else self._block.stream
        if (kind == CONTINUATION) != (expected is not None) or (
            expected is not None and stream != expected
        ):
            text = "a header block goes on with CONTINUATION alone"  # section 6.10
            raise ConnectionFault(Code.PROTOCOL_ERROR, text)
        rule = _RULES.get(kind)
        if rule is None:
            return  # section 4.1: unknown types are passed over
        places, least, most = rule
        if (stream != 0) not in places:
            text = f"{Type(kind).name} can't come on stream {stream}"
            raise ConnectionFault(Code.PROTOCOL_ERROR, text)
        if not least <= size <= most:
            text = f"{Type(kind).name} can't have {size} bytes"
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, text)

    def _begin_block(self, flags: int, stream: int, payload: bytes) -> Optional[Frame]:
        block = unpadded(payload) if flags & PADDED else payload
        if flags & PRIORITY_FLAG:
            if len(block) < 5:
                text = "HEADERS is too short for its priority"
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, text)
            # RFC 7540's priorities are read past (RFC 9113 section 5.3.2).
            if read_number(block) == stream:
                flags |= DEPENDS_ON_ITSELF
            block = block[5:]
        frame = Frame(HEADERS, flags, stream, block, len(block))
        if flags & END_HEADERS:
            return frame
        self._block, self._block_frames = frame, 1
        return None

    def _go_on(self, flags: int, payload: bytes) -> Optional[Frame]:
        assert self._block is not None
        self._block_frames += 1
        block = self._block.payload + payload
        # SECURITY: CVE-2024-27316 and others: CONTINUATION without end, empty or not.
        if self._block_frames > MAX_BLOCK_FRAMES or len(block) > MAX_BLOCK_BYTES:
            text = "a header block is too long"
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, text)
        frame = self._block._replace(payload=block, size=len(block))
        self._block = None if flags & END_HEADERS else frame
        return frame if flags & END_HEADERS else None


def unpadded(payload: bytes) -> bytes:
    """Return what is in a padded payload (section 6.1).

    Raises:
        ConnectionFault: the padding is longer than the payload.
    """
    if not payload:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a padded frame is empty")
    end = len(payload) - payload[0]
    if end < 1:
        text = "the padding is longer than its frame"
        raise ConnectionFault(Code.PROTOCOL_ERROR, text)
    return payload[1:end]


def read_number(payload: bytes) -> int:
    """Return the number of 31 bits that a payload begins with."""
    return int(_NUMBER.unpack_from(payload)[0]) & MAX_WINDOW


def read_code(payload: bytes) -> int:
    """Return the error code that a payload begins with."""
    return int(_NUMBER.unpack_from(payload)[0])


def read_settings_frame(payload: bytes) -> Sequence[Tuple[int, int]]:
    """Return the settings of a frame (section 6.5.1), each one checked.

    Raises:
        ConnectionFault: a value, or the frame, is none.
    """
    if len(payload) % _SETTING.size:
        text = "SETTINGS is not made of six bytes each"
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, text)
    settings = list(_SETTING.iter_unpack(payload))
    for name, value in settings:
        least, most, code = _SETTING_RULES.get(name, (0, 2**32, Code.NO_ERROR))
        if not least <= value <= most:
            text = f"the setting {Setting(name).name} can't be {value}"
            raise ConnectionFault(code, text)
    return settings


_SETTING_RULES = {  # the least and the most, and the error else
    Setting.ENABLE_PUSH: (0, 1, Code.PROTOCOL_ERROR),
    Setting.INITIAL_WINDOW_SIZE: (0, MAX_WINDOW, Code.FLOW_CONTROL_ERROR),
    Setting.MAX_FRAME_SIZE: (16_384, 16_777_215, Code.PROTOCOL_ERROR),
    Setting.NO_RFC7540_PRIORITIES: (0, 1, Code.PROTOCOL_ERROR),
}


# The way out --------------------------------------------------------------------------


def encode_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    size = len(payload)
    return _HEADER.pack(size >> 8, size & 255, kind, flags, stream) + payload


def encode_headers(stream: int, block: bytes, end_stream: bool) -> bytes:
    """Return the frames of a header block: of HEADERS, and of CONTINUATION if need be.

    MAX_FRAME_BYTES is what every client takes.
    """
    flags = END_STREAM if end_stream else 0
    if len(block) <= MAX_FRAME_BYTES:
        return encode_frame(HEADERS, flags | END_HEADERS, stream, block)
    starts = range(0, len(block), MAX_FRAME_BYTES)
    pieces = [block[at : at + MAX_FRAME_BYTES] for at in starts]
    frames = [encode_frame(HEADERS, flags, stream, pieces.pop(0))]
    last = pieces.pop()
    frames += [encode_frame(CONTINUATION, 0, stream, piece) for piece in pieces]
    frames.append(encode_frame(CONTINUATION, END_HEADERS, stream, last))
    return b"".join(frames)


def encode_settings(settings: Sequence[Tuple[int, int]]) -> bytes:
    """Return a frame of SETTINGS."""
    payload = b"".join([_SETTING.pack(name, value) for name, value in settings])
    return encode_frame(Type.SETTINGS, 0, 0, payload)


def encode_reset(stream: int, code: Code) -> bytes:
    """Return a frame of RST_STREAM."""
    return encode_frame(Type.RST_STREAM, 0, stream, _NUMBER.pack(code))


def encode_window_update(stream: int, size: int) -> bytes:
    """Return a frame of WINDOW_UPDATE."""
    return encode_frame(Type.WINDOW_UPDATE, 0, stream, _NUMBER.pack(size))


def encode_goaway(last: int, code: Code, text: str = "") -> bytes:
    """Return a frame of GOAWAY; the text is for people."""
    payload = struct.pack(">LL", last, code) + text.encode()
    return encode_frame(Type.GOAWAY, 0, 0, payload)
