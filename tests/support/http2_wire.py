"""One request over HTTP/2, on a blocking socket, as `http.client` asks over HTTP/1.1.

    answer = ask(port, "POST", "/upload", b"body", {"X-A": "b"})

It takes and gives what `http.client` does, so that a test need not know which of both
has asked. The frames are made here, and the library `hpack` decodes the fields of the
answer: nothing of the server has a part in it.
"""

from __future__ import annotations

import http.client
import io
import socket
from typing import List, Mapping, Sequence, Tuple, Union

import pytest
from http2_client import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENDS,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    RST,
    SETTINGS,
    WINDOW,
    Got,
    block,
    data,
    frame,
    hello,
    number,
    split,
)

STREAM = 1
LARGEST_WINDOW = 2**31 - 1
FRAME_BYTES = 16_384
# RFC 9113 section 8.2.2: what HTTP/1.1 says of its connection has no place here.
_OF_THE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "upgrade")
_LEFT_OUT = (*_OF_THE_CONNECTION, "host")
_WITH_BODY = ("PATCH", "POST", "PUT")  # of which http.client says that it is empty


class Response:
    """An answer, as `http.client.HTTPResponse` has it."""

    def __init__(self, fields: List[Tuple[str, str]], body: bytes) -> None:
        self.status = int(dict(fields)[":status"])
        self.reason = http.client.responses.get(self.status, "")
        self.headers = http.client.HTTPMessage()
        for name, value in fields:
            if not name.startswith(":"):
                self.headers.add_header(name, value)
        self.body = body

    def read(self) -> bytes:
        return self.body


class _Conversation:
    """One connection with one request."""

    def __init__(self, one: socket.socket, body: bytes) -> None:
        hpack = pytest.importorskip("hpack", reason="the library is not installed")
        self.decoder = hpack.Decoder()
        self.socket = one
        self.left = b""
        self.unsent = memoryview(body)
        self.windows = {0: 65_535, STREAM: 65_535}
        self.initial = 65_535
        self.block = b""
        self.answer: List[Tuple[str, str]] = []
        self.came: List[bytes] = []
        self.ended = False

    def run(self, fields: bytes) -> Response:
        """Ask, and return the answer."""
        flags = END_HEADERS if self.unsent else ENDS
        self.socket.sendall(
            hello((4, LARGEST_WINDOW))
            + frame(WINDOW, 0, 0, number(LARGEST_WINDOW - 65_535))
            + frame(HEADERS, flags, STREAM, fields)
        )
        while not self.ended:
            self.send_some()
            came = self.socket.recv(65_536)
            if not came:
                self.break_off("the server closed the connection")
            frames, self.left = split(self.left + came)
            for one in frames:
                if not self.ended:
                    self.take(one)
        return Response(self.answer, b"".join(self.came))

    def send_some(self) -> None:
        """Send what the windows allow of the body."""
        size = min(len(self.unsent), FRAME_BYTES, *self.windows.values())
        while size > 0:
            piece, self.unsent = self.unsent[:size], self.unsent[size:]
            for key in self.windows:
                self.windows[key] -= size
            flags = 0 if self.unsent else END_STREAM
            self.socket.sendall(data(STREAM, bytes(piece), flags))
            size = min(len(self.unsent), FRAME_BYTES, *self.windows.values())

    def take(self, one: Got) -> None:
        """Do what a frame says."""
        if one.kind == SETTINGS and not one.flags & ACK:
            for at in range(0, len(one.payload), 6):
                if one.payload[at : at + 2] == b"\0\4":
                    size = int.from_bytes(one.payload[at + 2 : at + 6], "big")
                    self.windows[STREAM] += size - self.initial
                    self.initial = size
            self.socket.sendall(frame(SETTINGS, ACK, 0))
        elif one.kind == PING and not one.flags & ACK:
            self.socket.sendall(frame(PING, ACK, 0, one.payload))
        elif one.kind == WINDOW:
            self.windows[one.stream] += int.from_bytes(one.payload, "big")
        elif one.kind in (HEADERS, CONTINUATION):
            self.block += one.payload
            self.take_headers(one)
        elif one.kind == DATA:
            assert not one.flags & PADDED
            self.came.append(one.payload)
            self.ended = bool(one.flags & END_STREAM)
        elif one.kind == RST or (one.kind == GOAWAY and one.code):
            self.break_off(f"code {one.code}: {one.payload[8:].decode()}")

    def take_headers(self, one: Got) -> None:
        """Take a header block when it is whole; END_STREAM is on its first frame."""
        if one.kind == HEADERS:
            self.is_last = bool(one.flags & END_STREAM)
        if one.flags & END_HEADERS:
            raw = self.decoder.decode(self.block, raw=True)
            fields = [(name.decode(), value.decode("latin-1")) for name, value in raw]
            self.block = b""
            if not dict(fields)[":status"].startswith("1"):
                assert not self.answer, "a second answer"
                self.answer = fields
                self.ended = self.is_last

    def break_off(self, text: str) -> None:
        """Raise what `http.client` raises where an answer ends before its end."""
        if self.answer:
            raise http.client.IncompleteRead(b"".join(self.came))
        raise http.client.RemoteDisconnected(text)


def ask(
    port: int,
    method: str,
    path: str,
    body: Union[bytes, str, None],
    headers: Union[Mapping[str, str], Sequence[Tuple[str, str]]],
    seconds: float,
) -> Response:
    """Ask on a connection of its own and return the answer, read to its end.

    Raises:
        http.client.IncompleteRead: it broke off.
        http.client.RemoteDisconnected: none came.
    """
    content = body.encode("latin-1") if isinstance(body, str) else bytes(body or b"")
    lines = list(headers.items() if isinstance(headers, Mapping) else headers)
    # Blanks around a value are no part of it (RFC 9110 section 5.5).
    given = [(name.lower(), value.strip(" \t")) for name, value in lines]
    named = {"host": f"127.0.0.1:{port}", **dict(given)}
    fields = [(":method", method), (":scheme", "http"), (":authority", named["host"])]
    fields += [(":path", path), *(one for one in given if one[0] not in _LEFT_OUT)]
    if "accept-encoding" not in named:
        fields.append(("accept-encoding", "identity"))
    if (body is not None or method in _WITH_BODY) and "content-length" not in named:
        fields.append(("content-length", str(len(content))))
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    with socket.create_connection(("127.0.0.1", port), seconds) as one:
        return _Conversation(one, content).run(block(pairs))


def from_http1(recorded: bytes, method: str) -> Response:
    """Return the answer that a connection of HTTP/1.1 has sent, to compare with."""

    class Tape:
        def makefile(self, mode: str) -> io.BytesIO:
            return io.BytesIO(recorded)

    response = http.client.HTTPResponse(Tape(), method=method)  # type: ignore[arg-type]
    response.begin()
    body = response.read()
    fields = [(":status", str(response.status))]
    for name, value in response.getheaders():
        if name.lower() not in _OF_THE_CONNECTION:
            fields.append((name.lower(), value))
    return Response(fields, body)
