"""Requests read with the help of httptools, which wraps llhttp, the parser of Node.js.

Used when asked for: `run(parser="httptools")`. It gives the same events and refusals as
`RequestReader` for the same bytes, because nothing here takes llhttp's word. llhttp
cuts the chunks of a body out of what has arrived; they are encoded again, and only if
that yields the very bytes that came is a run of chunks taken at once. All else goes the
way it goes without httptools: heads, bodies with a length, trailers, chunks with
extensions, what is incomplete, and whatever is wrong, which is thereby found and named
by the code that always does.

Heads stay with the core on purpose. Of 302 heads that tests/protocol/test_wire.py has
refused, llhttp takes 80; so what it has passed would have to be proved once more.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, List

import httptools

from .protocol.http11 import RequestReader, WireEvent

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

    def __init__(self, **limits: int) -> None:
        super().__init__(**limits)
        # What to expect of the next chunks: they are as long as the last one that was
        # read alone, and, if no other chunk of their body was unusual, nor are they.
        self._chunk_bytes = sys.maxsize
        self._is_plain = True
        self._tried = False  # since the last bytes came

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection."""
        super().feed(data)
        self._tried = False

    def _read_chunk_line(self) -> WireEvent:
        before = self._body_bytes
        if before == 0:
            self._is_plain = self._chunk_line[1] >= 16  # as long as a size may be
        expected = MIN_CHUNKS * (self._chunk_bytes + FRAME_BYTES)
        # SECURITY: not for each chunk of those that waited, nor for each byte of a line
        # that comes slowly: what llhttp is given costs time by its length.
        worth_trying = self._is_plain and not self._tried and not self._searched
        if worth_trying and self.buffered >= expected:
            self._tried = True
            data = self._read_chunks()
            if data:
                return data
        event = super()._read_chunk_line()
        if self._body_bytes > before:
            self._chunk_bytes = self._body_bytes - before
        return event

    def _read_chunks(self) -> bytes:
        """Return the content of all whole chunks that wait, or b"" and leave them."""
        waiting = self._buffer[self._position :]
        pieces: List[bytes] = []
        parser = httptools.HttpRequestParser(SimpleNamespace(on_body=pieces.append))
        parser.feed_data(_HEAD)
        try:
            parser.feed_data(waiting)
        except httptools.HttpParserError:
            pass  # for RequestReader to find, when it comes there
        del pieces[-1:]  # its end may be missing
        data = b"".join(pieces)
        body_bytes = self._body_bytes + len(data)
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
                self._move_to(self._position + len(encoded))
                self._body_bytes = body_bytes
                return data
        self._is_plain = False
        return b""
