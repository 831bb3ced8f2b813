"""The rules of RFC 9113 and RFC 7541, each as bytes and the frame that answers them.

A row has the section, a name, what the client sends after its preface, and what comes
back: "200@1" is an answer on stream 1, "RST 1@3" a reset of stream 3 with that code,
"GOAWAY 6" the end of the connection. Each is sent whole and cut in two at every place.
"""

from __future__ import annotations

import asyncio
from typing import Any, List, NamedTuple, Sequence

import pytest
from http2_client import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENDS,
    GET,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_UPDATE,
    PUSH,
    RST,
    SETTINGS,
    WINDOW,
    WITH_PRIORITY,
    Got,
    asking,
    block,
    data,
    frame,
    headers,
    hello,
    number,
    settings,
    status_of,
)
from played_http2 import Played
from virtual_server import serving
from virtual_time import in_virtual_time

from pixie_web import Pixie, RouteType

app = Pixie()


@app.route("/", RouteType.sync, method=["GET", "HEAD", "OPTIONS"])
def index(env: Any) -> str:
    return "text"


@app.route("/empty", RouteType.sync)
def empty(env: Any) -> None:
    return None


@app.route("/post", RouteType.asnc, method="POST")
async def post(env: Any) -> bytes:
    return bytes(env.body)


@app.route("/wait", RouteType.asnc)
async def wait(env: Any) -> str:
    await asyncio.sleep(5)
    return "waited"


class Row(NamedTuple):
    section: str
    name: str
    sent: bytes
    answers: str  # in the order they come
    is_after_hello: bool = True

    @property
    def whole(self) -> bytes:
        return hello() + self.sent if self.is_after_hello else self.sent


OPEN = headers(1, asking("/post", method="POST"), END_HEADERS)  # its body follows
WAIT = headers(1, asking("/wait"))
DONE = headers(1, GET)
POST_3 = asking("/post", ("content-length", "3"), method="POST")
P8 = b"12345678"


def raw(fields: bytes) -> bytes:
    """Return a request whose header block is these bytes."""
    return frame(HEADERS, ENDS, 1, fields)


def with_field(name: str, value: str) -> bytes:
    return headers(1, asking("/", (name, value)))


def without(name: bytes) -> bytes:
    return headers(1, [one for one in GET if one[0] != name])


def instead(name: str, value: str) -> bytes:
    key = name.encode()
    changed = [(key, value.encode()) if one[0] == key else one for one in GET]
    return headers(1, changed)


PREFACES = [
    Row("3.4", "no preface", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GOAWAY 1", False),
    Row("3.4", "a preface that ends otherwise", PREFACE[:-1] + b"x", "GOAWAY 1", False),
    Row("3.4", "no SETTINGS first", PREFACE + DONE, "GOAWAY 1", False),
    Row("3.4", "an ACK first", PREFACE + frame(SETTINGS, ACK, 0), "GOAWAY 1", False),
    Row("3.4", "the preface and SETTINGS", hello() + DONE, "200@1", False),
]
FRAMES = [
    Row("4.1", "an unknown type", frame(200, 255, 0, P8) + DONE, "200@1"),
    Row("4.1", "an unknown type on a stream", frame(99, 0, 7, P8) + DONE, "200@1"),
    Row("4.1", "unknown flags", frame(PING, 0xFE, 0, P8), "PING"),
    Row(
        "4.1", "the reserved bit", frame(HEADERS, ENDS, 1 + 2**31, block(GET)), "200@1"
    ),
    Row("4.2", "a frame of 16,385 bytes", frame(DATA, 0, 1, bytes(16_385)), "GOAWAY 6"),
    Row("4.2", "an unknown one so long", frame(99, 0, 1, bytes(16_385)), "GOAWAY 6"),
    Row("4.2", "PING of 16 MiB, its header", b"\xff\xff\xff\x06\0\0\0\0\0", "GOAWAY 6"),
    Row(
        "4.3",
        "a block in two",
        frame(HEADERS, END_STREAM, 1, block(GET)[:7])
        + frame(CONTINUATION, END_HEADERS, 1, block(GET)[7:]),
        "200@1",
    ),
    Row(
        "4.3",
        "an empty CONTINUATION",
        frame(HEADERS, END_STREAM, 1, block(GET)) + frame(CONTINUATION, END_HEADERS, 1),
        "200@1",
    ),
    Row(
        "4.3",
        "PING inside of a block",
        frame(HEADERS, END_STREAM, 1, block(GET)) + frame(PING, 0, 0, P8),
        "GOAWAY 1",
    ),
    Row(
        "4.3",
        "an unknown type inside of a block",
        frame(HEADERS, END_STREAM, 1, block(GET)) + frame(99, 0, 1),
        "GOAWAY 1",
    ),
    Row(
        "4.3",
        "CONTINUATION of another stream",
        frame(HEADERS, END_STREAM, 1, block(GET)) + frame(CONTINUATION, 4, 3),
        "GOAWAY 1",
    ),
    Row(
        "4.3",
        "HEADERS inside of a block",
        frame(HEADERS, END_STREAM, 1, block(GET)) + headers(3, GET),
        "GOAWAY 1",
    ),
]
STREAMS = [
    Row("5.1", "DATA on an idle stream", data(1, b"x"), "GOAWAY 1"),
    Row("5.1", "RST_STREAM on an idle stream", frame(RST, 0, 1, number(8)), "GOAWAY 1"),
    Row(
        "5.1",
        "WINDOW_UPDATE on an idle stream",
        frame(WINDOW, 0, 1, number(1)),
        "GOAWAY 1",
    ),
    Row(
        "5.1",
        "PRIORITY on an idle stream",
        frame(PRIORITY, 0, 3, bytes(5)) + DONE,
        "200@1",
    ),
    Row("5.1", "DATA behind END_STREAM", WAIT + data(1, b"x"), "RST 5@1"),
    Row("5.1", "HEADERS behind END_STREAM", WAIT + headers(1, GET), "RST 5@1"),
    Row(
        "5.1", "DATA on a stream that has ended", DONE + data(1, b"x"), "200@1 RST 5@1"
    ),
    Row(
        "5.1",
        "HEADERS on a stream that has ended",
        DONE + headers(1, GET),
        "200@1 GOAWAY 5",
    ),
    Row(
        "5.1",
        "WINDOW_UPDATE on a stream that has ended",
        DONE + frame(WINDOW, 0, 1, number(1)) + headers(3, GET),
        "200@1 200@3",
    ),
    Row(
        "5.1",
        "RST_STREAM on a stream that has ended",
        DONE + frame(RST, 0, 1, number(8)) + headers(3, GET),
        "200@1 200@3",
    ),
    Row(
        "5.1",
        "PRIORITY on a stream that has ended",
        DONE + frame(PRIORITY, 0, 1, bytes(5)) + headers(3, GET),
        "200@1 200@3",
    ),
    Row(
        "5.1",
        "DATA on a stream that the client has reset",
        WAIT + frame(RST, 0, 1, number(8)) + data(1, b"x"),
        "RST 5@1",
    ),
    Row(
        "5.1",
        "HEADERS on a stream that the client has reset",
        WAIT + frame(RST, 0, 1, number(8)) + headers(1, GET),
        "RST 5@1",
    ),
    Row(
        "5.1",
        "DATA on a stream that we have reset",
        instead(":path", "x") + data(1, b"x") + headers(3, GET),
        "RST 1@1 200@3",
    ),
    Row("5.1.1", "an even number", headers(2, GET), "GOAWAY 1"),
    Row("5.1.1", "DATA on an even one", data(2, b"x"), "GOAWAY 1"),
    Row(
        "5.1.1",
        "a number below that of one before",
        headers(5, GET) + headers(3, GET),
        "200@5 GOAWAY 1",
    ),
    Row("5.1.1", "numbers that were left out", DONE + headers(99, GET), "200@1 200@99"),
    Row("5.1.1", "HEADERS on stream 0", headers(0, GET), "GOAWAY 1"),
    Row(
        "5.1.2",
        "a 101st request",
        b"".join(headers(n, asking("/wait")) for n in range(1, 202, 2)),
        "RST 7@201",
    ),
    Row(
        "5.3.1",
        "HEADERS that depend on themselves",
        frame(HEADERS, ENDS | WITH_PRIORITY, 1, number(1) + b"\x0f" + block(GET))
        + headers(3, GET),
        "RST 1@1 200@3",
    ),
    Row(
        "5.3.1",
        "HEADERS with a priority",
        frame(
            HEADERS, ENDS | WITH_PRIORITY, 1, number(2**31 + 3) + b"\x0f" + block(GET)
        ),
        "200@1",
    ),
    Row(
        "5.3.1",
        "PRIORITY of a stream on itself",
        WAIT + frame(PRIORITY, 0, 1, number(1) + b"\x0f"),
        "RST 1@1",
    ),
    Row(
        "6.4",
        "the same on an idle stream, which can't be reset",
        frame(PRIORITY, 0, 3, number(3) + b"\x0f"),
        "GOAWAY 1",
    ),
    Row(
        "6.4",
        "PRIORITY of four bytes on an idle stream",
        frame(PRIORITY, 0, 3, bytes(4)),
        "GOAWAY 6",
    ),
]
TYPES = [
    Row("6.1", "DATA on stream 0", frame(DATA, 0, 0, b"x"), "GOAWAY 1"),
    Row(
        "6.1",
        "padding",
        OPEN + frame(DATA, PADDED | END_STREAM, 1, b"\2abc\0\0"),
        "200@1",
    ),
    Row(
        "6.1",
        "padding alone",
        OPEN + frame(DATA, PADDED | END_STREAM, 1, b"\2\0\0"),
        "200@1",
    ),
    Row(
        "6.1",
        "padding as long as the frame",
        OPEN + frame(DATA, PADDED, 1, b"\3\0\0"),
        "GOAWAY 1",
    ),
    Row("6.1", "no length of the padding", OPEN + frame(DATA, PADDED, 1), "GOAWAY 6"),
    Row(
        "6.2",
        "HEADERS with padding",
        frame(HEADERS, ENDS | PADDED, 1, b"\1" + block(GET) + b"\0"),
        "200@1",
    ),
    Row(
        "6.2",
        "HEADERS with too much padding",
        frame(HEADERS, ENDS | PADDED, 1, b"\xff" + block(GET)),
        "GOAWAY 1",
    ),
    Row(
        "6.2",
        "HEADERS without room for a priority",
        frame(HEADERS, ENDS | WITH_PRIORITY, 1, b"\0\0"),
        "GOAWAY 6",
    ),
    Row("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, bytes(5)), "GOAWAY 1"),
    Row(
        "6.3",
        "PRIORITY of four bytes",
        WAIT + frame(PRIORITY, 0, 1, bytes(4)),
        "RST 6@1",
    ),
    Row("6.4", "RST_STREAM on stream 0", frame(RST, 0, 0, number(8)), "GOAWAY 1"),
    Row(
        "6.4", "RST_STREAM of five bytes", WAIT + frame(RST, 0, 1, bytes(5)), "GOAWAY 6"
    ),
    Row("6.5", "SETTINGS on a stream", frame(SETTINGS, 0, 1), "GOAWAY 1"),
    Row("6.5", "SETTINGS of five bytes", frame(SETTINGS, 0, 0, bytes(5)), "GOAWAY 6"),
    Row("6.5", "an ACK with a payload", frame(SETTINGS, ACK, 0, bytes(6)), "GOAWAY 6"),
    Row("6.5.2", "ENABLE_PUSH 2", settings((2, 2)), "GOAWAY 1"),
    Row("6.5.2", "INITIAL_WINDOW_SIZE 2^31", settings((4, 2**31)), "GOAWAY 3"),
    Row("6.5.2", "MAX_FRAME_SIZE 16,383", settings((5, 16_383)), "GOAWAY 1"),
    Row("6.5.2", "MAX_FRAME_SIZE 2^24", settings((5, 2**24)), "GOAWAY 1"),
    Row(
        "6.5.2",
        "the least and the most",
        settings((2, 1), (4, 0), (5, 2**24 - 1), (4, 2**31 - 1)) + DONE,
        "200@1",
    ),
    Row("6.5.2", "an unknown setting", settings((99, 1)) + DONE, "200@1"),
    Row(
        "6.6",
        "PUSH_PROMISE",
        frame(PUSH, END_HEADERS, 1, number(2) + block(GET)),
        "GOAWAY 1",
    ),
    Row("6.7", "PING", frame(PING, 0, 0, P8), "PING"),
    Row("6.7", "the answer to a PING", frame(PING, ACK, 0, P8) + DONE, "200@1"),
    Row("6.7", "PING on a stream", frame(PING, 0, 1, P8), "GOAWAY 1"),
    Row("6.7", "PING of six bytes", frame(PING, 0, 0, bytes(6)), "GOAWAY 6"),
    Row("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), "GOAWAY 1"),
    Row("6.8", "GOAWAY of seven bytes", frame(GOAWAY, 0, 0, bytes(7)), "GOAWAY 6"),
    Row("6.8", "GOAWAY", frame(GOAWAY, 0, 0, bytes(8)), "GOAWAY 0"),
    Row("6.9", "WINDOW_UPDATE of nothing", frame(WINDOW, 0, 0, number(0)), "GOAWAY 1"),
    Row(
        "6.9", "the same on a stream", WAIT + frame(WINDOW, 0, 1, number(0)), "RST 1@1"
    ),
    Row(
        "6.9", "WINDOW_UPDATE of three bytes", frame(WINDOW, 0, 0, bytes(3)), "GOAWAY 6"
    ),
    Row(
        "6.9.1", "a window of 2^31", frame(WINDOW, 0, 0, number(2**31 - 1)), "GOAWAY 3"
    ),
    Row(
        "6.9.1",
        "the same on a stream",
        WAIT + frame(WINDOW, 0, 1, number(2**31 - 1)),
        "RST 3@1",
    ),
    Row(
        "6.9.2",
        "a stream's window grows too large",
        WAIT + frame(WINDOW, 0, 1, number(2**31 - 1 - 65_535)) + settings((4, 65_536)),
        "GOAWAY 3",
    ),
    Row(
        "6.10", "CONTINUATION alone", frame(CONTINUATION, 4, 1, block(GET)), "GOAWAY 1"
    ),
    Row(
        "6.10",
        "CONTINUATION behind END_HEADERS",
        WAIT + frame(CONTINUATION, END_HEADERS, 1, block(GET)),
        "GOAWAY 1",
    ),
    Row("6.10", "CONTINUATION on stream 0", frame(CONTINUATION, 4, 0), "GOAWAY 1"),
    Row(
        "9218 7.1",
        "PRIORITY_UPDATE",
        WAIT + frame(PRIORITY_UPDATE, 0, 0, number(1) + b"u=0") + headers(3, GET),
        "200@3",
    ),
    Row(
        "9218 7.1",
        "PRIORITY_UPDATE of stream 0",
        frame(PRIORITY_UPDATE, 0, 0, number(0) + b"u=0"),
        "GOAWAY 1",
    ),
    Row(
        "9218 7.1",
        "PRIORITY_UPDATE on a stream",
        frame(PRIORITY_UPDATE, 0, 1, number(1) + b"u=0"),
        "GOAWAY 1",
    ),
]
REQUESTS = [
    Row("8.1", "a body", OPEN + data(1, b"abc", END_STREAM), "200@1"),
    Row("8.1", "an empty body", OPEN + data(1, b"", END_STREAM), "200@1"),
    Row("8.1", "trailers", OPEN + headers(1, [(b"x", b"y")]), "200@1"),
    Row(
        "8.1",
        "trailers that do not end it",
        OPEN + headers(1, [(b"x", b"y")], 4),
        "RST 1@1",
    ),
    Row(
        "8.1",
        "trailers with a pseudo-header",
        OPEN + headers(1, [(b":path", b"/")]),
        "RST 1@1",
    ),
    Row(
        "8.1",
        "trailers with an upper-case name",
        OPEN + headers(1, [(b"X", b"y")]),
        "RST 1@1",
    ),
    Row(
        "8.1.1",
        "less than Content-Length",
        headers(1, POST_3, END_HEADERS) + data(1, b"ab", END_STREAM),
        "RST 1@1",
    ),
    Row(
        "8.1.1",
        "more than Content-Length",
        headers(1, POST_3, END_HEADERS) + data(1, b"abcd"),
        "RST 1@1",
    ),
    Row("8.1.1", "Content-Length, and no body", headers(1, POST_3), "RST 1@1"),
    Row(
        "8.1.1",
        "as much as Content-Length",
        headers(1, POST_3, END_HEADERS) + data(1, b"ab") + data(1, b"c", END_STREAM),
        "200@1",
    ),
    Row(
        "8.1.1",
        "less, and trailers",
        headers(1, POST_3, END_HEADERS) + data(1, b"ab") + headers(1, [(b"x", b"y")]),
        "RST 1@1",
    ),
    Row(
        "8.1.1",
        "two lengths",
        headers(1, (*POST_3, (b"content-length", b"4")), 4),
        "RST 1@1",
    ),
    Row("8.2.1", "an upper-case name", with_field("X-A", "1"), "RST 1@1"),
    Row("8.2.1", "a name with a blank", with_field("x a", "1"), "RST 1@1"),
    Row("8.2.1", "a name with a colon", with_field("x:a", "1"), "RST 1@1"),
    Row("8.2.1", "an empty name", with_field("", "1"), "RST 1@1"),
    Row("8.2.1", "CR LF in a value", with_field("x", "1\r\ny: 2"), "RST 1@1"),
    Row("8.2.1", "LF in a value", with_field("x", "1\n2"), "RST 1@1"),
    Row("8.2.1", "CR in a value", with_field("x", "1\r2"), "RST 1@1"),
    Row("8.2.1", "NUL in a value", with_field("x", "1\0002"), "RST 1@1"),
    Row("8.2.1", "a blank before a value", with_field("x", " 1"), "RST 1@1"),
    Row("8.2.1", "a tab behind a value", with_field("x", "1\t"), "RST 1@1"),
    Row("8.2.1", "CR LF in a name", with_field("x\r\ny", "1"), "RST 1@1"),
    Row("8.2.2", "Connection", with_field("connection", "close"), "RST 1@1"),
    Row("8.2.2", "Keep-Alive", with_field("keep-alive", "1"), "RST 1@1"),
    Row(
        "8.2.2", "Proxy-Connection", with_field("proxy-connection", "close"), "RST 1@1"
    ),
    Row(
        "8.2.2",
        "Transfer-Encoding",
        with_field("transfer-encoding", "chunked"),
        "RST 1@1",
    ),
    Row("8.2.2", "Upgrade", with_field("upgrade", "h2c"), "RST 1@1"),
    Row("8.2.2", "TE: gzip", with_field("te", "gzip"), "RST 1@1"),
    Row("8.2.2", "TE: trailers", with_field("te", "trailers"), "200@1"),
    Row("8.3", "an unknown pseudo-header", with_field(":x", "1"), "RST 1@1"),
    Row("8.3", ":status", with_field(":status", "200"), "RST 1@1"),
    Row(
        "8.3",
        "a pseudo-header behind others",
        headers(1, (*GET[:3], (b"x", b"1"), GET[3])),
        "RST 1@1",
    ),
    Row("8.3.1", "two of :path", with_field(":path", "/"), "RST 1@1"),
    Row("8.3.1", "no :method", without(b":method"), "RST 1@1"),
    Row("8.3.1", "no :scheme", without(b":scheme"), "RST 1@1"),
    Row("8.3.1", "no :path", without(b":path"), "RST 1@1"),
    Row("8.3.1", "no :authority and no Host", without(b":authority"), "RST 1@1"),
    Row(
        "8.3.1",
        "Host alone",
        headers(1, (GET[0], GET[1], GET[3], (b"host", b"a"))),
        "200@1",
    ),
    Row("8.3.1", "Host as :authority", with_field("host", "localhost"), "200@1"),
    Row("8.3.1", "Host and another :authority", with_field("host", "b"), "RST 1@1"),
    Row(
        "8.3.1",
        "two of Host",
        headers(1, (*GET, (b"host", b"localhost"), (b"host", b"localhost"))),
        "RST 1@1",
    ),
    Row("8.3.1", "userinfo", instead(":authority", "me@localhost"), "RST 1@1"),
    Row("8.3.1", "an empty :path", instead(":path", ""), "RST 1@1"),
    Row("8.3.1", "a :path without its slash", instead(":path", "x"), "RST 1@1"),
    Row("8.3.1", "a URL", instead(":path", "http://b/"), "RST 1@1"),
    Row("8.3.1", "a blank in :path", instead(":path", "/ HTTP/1.1"), "RST 1@1"),
    Row("8.3.1", "CR LF in :path", instead(":path", "/ HTTP/1.1\r\nx: y"), "RST 1@1"),
    Row("8.3.1", "a fragment", instead(":path", "/#x"), "RST 1@1"),
    Row("8.3.1", "* of GET", instead(":path", "*"), "RST 1@1"),
    Row("8.3.1", "* of OPTIONS", headers(1, asking("*", method="OPTIONS")), "204@1"),
    Row("8.3.1", "a request as :method", instead(":method", "GET /x"), "RST 1@1"),
    Row(
        "8.3.1",
        "CR LF in :method",
        instead(":method", "A / HTTP/1.1\r\nx: y"),
        "RST 1@1",
    ),
    Row("8.3.1", "CR LF in :authority", instead(":authority", "a\r\nx: y"), "RST 1@1"),
    Row("8.3.1", "another scheme", instead(":scheme", "ftp"), "RST 1@1"),
    Row(
        "8.5",
        "CONNECT",
        headers(1, ((b":method", b"CONNECT"), (b":authority", b"a:80"))),
        "501@1",
    ),
    Row("8.5", "CONNECT with a path", instead(":method", "CONNECT"), "RST 1@1"),
    Row(
        "8.2.3",
        "cookies in several fields",
        headers(1, (*GET, (b"cookie", b"a=1"), (b"cookie", b"b=2"))),
        "200@1",
    ),
    Row(
        "9110 10.1.1",
        "100-continue",
        headers(1, asking("/post", ("expect", "100-continue"), method="POST"), 4)
        + data(1, b"", END_STREAM),
        "*",
    ),
    Row("9110 10.1.1", "another expectation", with_field("expect", "x"), "417@1"),
    Row("9110 9.3.2", "HEAD", headers(1, asking("/", method="HEAD")), "200@1"),
    Row("9110 15.3.5", "204", headers(1, asking("/empty")), "204@1"),
]
LONG_INTEGER = b"\x40\x7f" + b"\x80" * 4 + b"\x01"
COMPRESSION = [
    Row("7541 2.3.3", "an index beyond both tables", raw(b"\xfe"), "GOAWAY 9"),
    Row("7541 4.2", "a table too large", raw(b"\x3f\xe2\x1f"), "GOAWAY 9"),
    Row(
        "7541 4.2", "the size inside of a block", raw(block(GET) + b"\x20"), "GOAWAY 9"
    ),
    Row("7541 4.2", "two sizes ahead", raw(b"\x20\x3f\xe1\x1f" + block(GET)), "200@1"),
    Row("7541 5.1", "a number without end", raw(b"\xff\xff"), "GOAWAY 9"),
    Row("7541 5.1", "a number of five octets", raw(LONG_INTEGER), "GOAWAY 9"),
    Row("7541 5.2", "a text longer than the block", raw(b"\x40\x05ab"), "GOAWAY 9"),
    Row("7541 5.2", "EOS in a text", raw(b"\x00\x84\xff\xff\xff\xff\x00"), "GOAWAY 9"),
    Row("7541 5.2", "padding of eight bits", raw(b"\x00\x82\x1f\xff\x00"), "GOAWAY 9"),
    Row("7541 5.2", "padding of zeros", raw(b"\x00\x81\x18\x00"), "GOAWAY 9"),
    Row("7541 6.1", "the index 0", raw(b"\x80"), "GOAWAY 9"),
    Row(
        "7541 6.2",
        "a field that is never indexed",
        raw(block(GET) + b"\x10\1x\1y"),
        "200@1",
    ),
    Row(
        "7541 6.2",
        "a field that goes into the table, and is used",
        raw(block(GET) + b"\x40\1x\1y") + frame(HEADERS, ENDS, 3, block(GET) + b"\xbe"),
        "200@1 200@3",
    ),
    Row(
        "7541 2.2",
        "the table is kept of a refused request",
        frame(HEADERS, ENDS, 1, b"\x40\1x\1y")
        + frame(HEADERS, ENDS, 3, block(GET) + b"\xbe"),
        "RST 1@1 200@3",
    ),
]
ROWS = [*PREFACES, *FRAMES, *STREAMS, *TYPES, *REQUESTS, *COMPRESSION]


def told(frames: Sequence[Got]) -> str:
    """Return what frames say, as a row has it."""
    words: List[str] = []
    for one in frames:
        if one.kind == HEADERS:
            words.append(f"{status_of(one.payload)}@{one.stream}")
        elif one.kind == RST:
            words.append(f"RST {one.code}@{one.stream}")
        elif one.kind == GOAWAY:
            words.append(f"GOAWAY {one.code}")
        elif one.kind == PING:
            words.append("PING")
    return " ".join(words)


@pytest.mark.parametrize("row", ROWS, ids=[f"{one.section} {one.name}" for one in ROWS])
@in_virtual_time
async def test_a_rule_is_kept_wherever_the_bytes_are_cut(row: Row) -> None:
    async with serving(app.handle, access_log=False) as site:
        expected = row.answers.replace("*", "100@1 200@1")
        size = len(row.whole)
        # All of the places but those inside of what is long and alike.
        places = [at for at in range(size) if at < 150 or size - at < 40]
        if size > 2000:
            places = [*range(24, 40), *range(size - 12, size)]
        for split_at in [None, *places]:
            played = Played(site.server)
            found = told(await played.say(row.whole, split_at=split_at))
            assert found == expected, split_at
            assert played.has_ended == ("GOAWAY" in expected), split_at
            if "GOAWAY" not in expected:
                more = await played.say(headers(1001, GET))
                assert ("200@1001" in told(more)) == (row.name != "a 101st request")
            played.leave()
