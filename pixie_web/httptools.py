"""Requests read with the help of httptools, which wraps llhttp, the parser of Node.js.

Used with `run(parser="httptools")`. For the same bytes it gives the same events and
refusals as `RequestReader`, because each result of llhttp is checked. llhttp cuts the
chunks of a body out of the bytes that have arrived. They are encoded again, and only
if the result is equal to these bytes, several chunks are taken at once. All other
input is read without httptools: heads, bodies with a length, trailers, chunks with
extensions, incomplete and wrong input. So the same code as always finds and names
each fault.

Heads are not read by llhttp, on purpose. Of 302 heads that are refused in
tests/protocol/test_wire.py, llhttp accepts 80. So all heads that it accepts would
need a second check.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, List

import httptools

from .protocol.http11 import (
    MAX_JOINED_BYTES,
    MAX_JOINED_CHUNKS,
    MAX_SMALL_CHUNKS,
    MIN_CHUNK_BYTES,
    WIRE_LIMITS,
    RequestReader,
    WireLimits,
)

MIN_CHUNKS = 8  # that seem to wait; for fewer, starting llhttp costs more than it saves
FRAME_BYTES = 6  # around a small chunk: its size, and CR LF twice

# What llhttp must have seen before chunks. After `close` it refuses what follows them:
# the next request is not its business.
_HEAD = b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
_CHUNKS = b"%x\r\n%b\r\n", b"%X\r\n%b\r\n"  # a client keeps to one of the two


class HttptoolsReader(RequestReader):
    """A `RequestReader` that reads many small chunks at once.

    Args:
        limits: those of `RequestReader`.
    """

    def __init__(self, limits: WireLimits = WIRE_LIMITS) -> None:
        super().__init__(limits)
        # What to expect of the next chunks: they are as long as the last ones were, and
        # if no other chunk of their body was unusual, nor are they.
        self._chunk_bytes = sys.maxsize
        self._is_plain = True
        self._failed = False  # since the last bytes came

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection."""
        super().feed(data)
        self._failed = False

    def _take_chunks(self) -> bytes:
        before, chunks = self._body_bytes, self.chunks
        if before == 0:
            self._is_plain = self._chunk_line[1] >= 16  # as long as a size may be
        data = b""
        expected = self._chunk_bytes + FRAME_BYTES
        worth_trying = self._is_plain and not self._failed
        if worth_trying and self.buffered >= MIN_CHUNKS * expected:
            most = min(MAX_JOINED_CHUNKS * expected, MAX_JOINED_BYTES)
            data = self._read_chunks(most)
            # SECURITY: what llhttp is given costs time by its length. What has come is
            # given once, or, where it took none of it, not at all.
            self._failed = not data
        data = data or super()._take_chunks()
        if data:
            self._chunk_bytes = len(data) // (self.chunks - chunks)
        return data

    def _read_chunks(self, most: int) -> bytes:
        """Return the content of whole chunks in the next `most` bytes, or b""."""
        waiting = self._buffer[self._position : self._position + most]
        pieces: List[bytes] = []
        parser = httptools.HttpRequestParser(SimpleNamespace(on_body=pieces.append))
        parser.feed_data(_HEAD)
        try:
            parser.feed_data(waiting)
        except httptools.HttpParserError:
            pass  # for RequestReader to find, when it comes there
        del pieces[-1:]  # its end may be missing
        body_bytes = self._body_bytes + sum(map(len, pieces))
        chunks = self._body_chunks + len(pieces)
        # What may be over a limit is for RequestReader to find, to the chunk.
        if chunks > MAX_SMALL_CHUNKS + self._body_bytes // MIN_CHUNK_BYTES:
            return b""
        if self.max_body_bytes is not None and body_bytes > self.max_body_bytes:
            return b""
        fields: List[Any] = [None] * (2 * len(pieces))
        fields[::2] = map(len, pieces)
        fields[1::2] = pieces
        for form in _CHUNKS:
            # SECURITY: this proves that llhttp saw what RequestReader would see,
            # whatever it lets pass in this version or the next. (An empty chunk would
            # be the end of the body.)
            encoded = form * len(pieces) % tuple(fields)
            if waiting.startswith(encoded) and all(pieces):
                return self._count_chunks(pieces, self._position + len(encoded))
        self._is_plain = False
        return b""
