"""The server against the RFCs, byte for byte over sockets, on both event loops.

Every case is sent whole and byte by byte. Whatever comes back is read by a strict
parser, which holds each answer to what RFC 9110 and 9112 ask of any answer. What is
refused has a request behind it that must never be answered; what is not has one that
must.

The tables of `test_wire` are sent as well. The numbers are the rows of the table of
faults in docs/conformance.md.
"""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Union

import pytest
from support import LOOPS, Server, read_all, serve, server_fixture
from test_wire import (
    ACCEPTED,
    AT_THE_LIMIT,
    CHUNKED,
    GET,
    REFUSED_CHUNKS,
    REFUSED_HEADERS,
    REFUSED_REQUEST_LINES,
    table,
    with_coding,
    with_host,
    with_length,
    with_line,
)

from pixie_web.text import parse_date

PROGRAM = r"""
import os
from pixie_web import RouteType, app, redirect, route, run

@route("/", RouteType.sync)
def home(env):
    return "home"

@route(["/", "/echo"], RouteType.sync, ["POST", "PUT"])
def echo(env):
    return env.body

@route("/seen/<rest:path>", RouteType.sync)
def seen(env, rest):
    return {
        "path": env.path, "query": env.query_string, "host": env.host,
        "scheme": env.scheme, "cookies": dict(env.cookies), "x": env.header("x"),
    }

@route("/json", RouteType.sync, "POST")
def json(env):
    return env.json

@route("/none", RouteType.sync, ["GET", "DELETE"])
def none(env):
    return None

@route("/moved", RouteType.sync)
def moved(env):
    redirect("//evil.example/x")

@route("/raises", RouteType.sync)
def raises(env):
    return 1 / 0

@route("/wrong", RouteType.sync)
def wrong(env):
    return object()

@route("/stream", RouteType.sync)
def stream(env):
    yield "one "
    yield "two"

@route("/small", RouteType.sync, "POST", max_body_bytes=10)
def small(env):
    return env.body

@route("/unread", RouteType.asnc, "POST", stream_body=True)
async def unread(env):
    return "unread"

@route("/last", RouteType.sync)
def last(env):
    return "last"

os.mkdir("files")
for name, text in {
    "a.txt": "0123456789", "b.css": "body {}" * 99, "b.css.gz": "packed", "empty": "",
}.items():
    with open(f"files/{name}", "w") as file:
        file.write(text)
    os.utime(f"files/{name}", (1_000_000_000, 1_000_000_000))
app.static("/files", "files")

if __name__ == "__main__":
    run()
"""
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
# Modified at 1 000 000 000 seconds.
DATE = "Sun, 09 Sep 2001 01:46:40 GMT"
RFC_850, ASCTIME = "Sunday, 09-Sep-01 01:46:40 GMT", "Sun Sep  9 01:46:40 2001"
OLD = "Sun, 09 Sep 2001 01:46:39 GMT"


# Reading answers ----------------------------------------------------------------------

STATUS_LINE = re.compile(r"HTTP/1\.1 ([1-9][0-9]{2}) [\t -~]*")
HEADER_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([!-~](?:[\t -~]*[!-~])?)")
IMF_FIXDATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-3][0-9] [A-Z][a-z]{2} [0-9]{4} "
    r"[0-2][0-9]:[0-5][0-9]:[0-6][0-9] GMT"
)


class Reply(NamedTuple):
    """One answer, as its bytes say it."""

    status: int
    headers: Dict[str, str]  # names in lower case
    body: bytes


def read_chunks(rest: bytes) -> Tuple[bytes, bytes]:
    """Return a chunked body and what follows it; no extensions, no trailers."""
    body = b""
    while True:
        size, end, rest = rest.partition(b"\r\n")
        assert end and re.fullmatch(b"[0-9a-f]+", size)
        count = int(size, 16)
        assert rest[count : count + 2] == b"\r\n"
        body, rest = body + rest[:count], rest[count + 2 :]
        if not count:
            return body, rest


def read_reply(data: bytes, method: str, version: str) -> Tuple[Reply, bytes]:
    """Return the first answer in some bytes, and what follows it."""
    head, end, rest = data.partition(b"\r\n\r\n")
    assert end, f"no end of a head: {head!r}"
    first, *lines = head.decode("ascii").split("\r\n")
    found = STATUS_LINE.fullmatch(first)
    assert found, first
    status, headers = int(found.group(1)), {}
    for line in lines:
        field = HEADER_LINE.fullmatch(line)
        assert field, line
        name = field.group(1).lower()
        assert name not in headers, f"{name} twice"  # no cookies are set here
        headers[name] = field.group(2)
    if status < 200 or status in (204, 304) or method == "HEAD":
        body = b""
    elif "transfer-encoding" in headers:
        body, rest = read_chunks(rest)
    elif "content-length" in headers:
        length = int(headers["content-length"])
        body, rest = rest[:length], rest[length:]
        assert len(body) == length
    else:
        body, rest = rest, b""
    reply = Reply(status, headers, body)
    check_reply(reply, method, version)
    return reply, rest


def check_reply(reply: Reply, method: str, version: str) -> None:
    """Hold an answer to what RFC 9110 and RFC 9112 ask of every answer."""
    status, headers, body = reply
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if status < 200:  # RFC 9110 section 15.2
        assert (version, headers) == ("1.1", {})
        return
    date = headers["date"]  # RFC 9110 section 6.6.1
    assert IMF_FIXDATE.fullmatch(date) and parse_date(date) is not None
    assert length is None or coding is None  # RFC 9112 section 6.2
    assert coding is None or (version == "1.1" and coding == "chunked")
    if status == 204:  # RFC 9110 section 8.6
        assert (length, coding, headers.get("content-type")) == (None, None, None)
    elif status == 304:  # RFC 9110 section 15.4.5
        assert coding is None and not {"content-type", "last-modified"} & set(headers)
    elif version == "1.1":
        assert length or coding
    assert not body or "content-type" in headers  # RFC 9110 section 8.3
    needed = {
        405: "allow",  # RFC 9110 section 15.5.6
        416: "content-range",  # section 15.5.17
    }
    assert needed.get(status, "date") in headers
    if status in (301, 302, 303, 307, 308):
        assert "location" in headers
    if status == 416:
        assert headers["content-range"] == "bytes */10"


def replies(data: bytes, asked: Tuple[str, ...] = ()) -> List[Reply]:
    """Return all answers that some bytes hold; an interim one is one of them.

    Args:
        asked: of the first requests, method and version, where not "GET 1.1".
    """
    found: List[Reply] = []
    while data:
        method, _, version = (asked or ("GET",))[0].partition(" ")
        reply, data = read_reply(data, method, version or "1.1")
        found.append(reply)
        asked = asked[reply.status >= 200 :]
    return found


# Sending ------------------------------------------------------------------------------


def exchange(server: Server, data: bytes, by_byte: bool, half_close: bool) -> bytes:
    """Send bytes and return all that comes until the server closes."""
    with server.connect() as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if by_byte:
            for at in range(len(data)):
                one.sendall(data[at : at + 1])
        else:
            one.sendall(data)
        if half_close:
            one.shutdown(socket.SHUT_WR)
        return read_all(one)


def outcomes(
    server: Server, data: bytes, *asked: str, half_close: bool = False
) -> Iterator[List[Reply]]:
    """Send bytes whole, and byte by byte; yield the answers of each time."""
    for by_byte in (False, True) if len(data) < 2000 else (False,):
        yield replies(exchange(server, data, by_byte, half_close), asked)


# Nothing here is about time, and the machine may be slow.
PATIENCE = dict.fromkeys(["head_seconds", "body_idle_seconds", "linger_seconds"], 99)

SETTINGS: Dict[str, Any] = {"workers": 0, "access_log": False, **PATIENCE}
server = server_fixture(PROGRAM, LOOPS, **SETTINGS)


def request(first: str, *lines: str, body: bytes = b"") -> bytes:
    """Return the bytes of a request; a length is added for a body."""
    if " " not in first:
        first = f"GET {first}"
    if " HTTP/" not in first:
        first += " HTTP/1.1"
    if body and not any(line.startswith("Transfer-Encoding") for line in lines):
        lines += (f"Content-Length: {len(body)}",)
    return "\r\n".join([first, "Host: a", *lines, "", ""]).encode() + body


# What is refused ----------------------------------------------------------------------

CODING = "Transfer-Encoding: chunked"


def conflict(length: bytes, coding: bytes, *more: bytes) -> bytes:
    """Return a request with both kinds of framing, and one hidden in its body."""
    lines = [b"POST /echo HTTP/1.1", b"Host: a", b"Content-Length:" + length]
    lines += [b"Transfer-Encoding:" + coding, *more, b"", b"0", b"", b""]
    return b"\r\n".join(lines)


LONG = "x" * 100_000
ALSO_REFUSED = table(
    (1, "version alone", b"HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (1, "an answer", b"HTTP/1.1 200 OK\r\nHost: a\r\n\r\n", 400),
    (1, "version twice", request("GET / HTTP/1.1 HTTP/1.1"), 400),
    (1, "comma for space", request("GET,/,HTTP/1.1 HTTP/1.1"), 400),
    (2, "3.0", request("GET / HTTP/3.0"), 505),
    (2, "no digits", request("GET / HTTP/x.y"), 400),
    (2, "minus", request("GET / HTTP/-1.1"), 400),
    (2, "three numbers", request("GET / HTTP/1.1.1"), 400),
    (2, "HTTPS", request("GET / HTTPS/1.1"), 400),
    (4, "brackets", request("[GET] /"), 400),
    (4, "quotes", request('"GET" /'), 400),
    (4, "slash", request("G/T /"), 400),
    (4, "escape", request("GE\x1bT /"), 400),
    (4, "DEL", request("GE\x7fT /"), 400),
    (6, "CONNECT, URL", request("CONNECT http://a:80/"), 400),
    (6, "CONNECT, asterisk", request("CONNECT *"), 400),
    (6, "CONNECT, with body", request("CONNECT a:443", body=b"hello"), 501),
    (7, "asterisk of POST", request("POST *"), 400),
    (7, "asterisk of HEAD, in 1.0", request("GET * HTTP/1.0"), 400),
    (7, "scheme alone", request("http:"), 400),
    (7, "scheme of mail", request("mailto:a@b"), 400),
    (7, "scheme ws", request("ws://a/"), 400),
    (7, "two authorities", request("http://a,b/"), 400),
    (7, "space in authority", request("http://a%20b:x/"), 400),
    (7, "double colon", request("http://a::80/"), 400),
    (7, "zone", request("http://[fe80::1%25eth0]/"), 400),
    (10, "target of 100 kB", request("/" + LONG), 414),
    (10, "query of 100 kB", request("/?" + LONG), 414),
    (10, "2 MB without an end", b"GET /" + b"x" * 2_000_000, 414),
    (10, "URL of 100 kB", request("http://a/" + LONG), 414),
    (25, "value of 100 kB", request("/", f"X: {LONG}"), 431),
    (25, "name of 100 kB", request("/", f"{LONG}: x"), 431),
    (25, "cookie of 64 kB", request("/", f"Cookie: a={LONG[:65536]}"), 431),
    (25, "10 000 headers", request("/", *["X: y"] * 10_000), 431),
    (25, "2 MB of headers without an end", GET + b"X: y\r\n" * 300_000, 431),
    (27, "comma", with_length(b" ,5"), 400),
    (27, "currency", with_length(b" $5"), 400),
    (27, "thousands", with_length(b" 1,000"), 400),
    (27, "parentheses", with_length(b" (5)"), 400),
    (27, "infinity", with_length(b" inf"), 400),
    (27, "trailing NUL", with_length(b" 5\x00"), 400),
    (27, "full width", with_length(" \uff15".encode()), 400),
    (28, "three", with_length(b" 5\r\nContent-Length: 5\r\nContent-Length: 6"), 400),
    (30, "20 digits", with_length(b" 99999999999999999999"), 400),
    (30, "2^63", request("POST /echo", "Content-Length: 9223372036854775808"), 413),
    (30, "2^32 + 5", request("POST /echo", "Content-Length: 4294967301"), 413),
    (31, "over the route's", request("POST /small", "Content-Length: 99999"), 413),
    (31, "over the server's", request("POST /echo", "Content-Length: 16777217"), 413),
    (32, "CL.TE", conflict(b" 6", b" chunked"), 400),
    (32, "CL.TE, tab", conflict(b" 6", b"\tchunked"), 400),
    (32, "CL.TE, case", conflict(b" 6", b" cHuNkEd"), 400),
    (32, "CL.TE, space behind", conflict(b" 6", b" chunked "), 400),
    (32, "CL.TE, leading comma", conflict(b" 6", b" , chunked"), 400),
    (32, "CL.TE, folded", conflict(b" 6", b"\r\n chunked"), 400),
    (32, "CL.TE, space before colon", conflict(b" 6", b" x", b"X : y"), 400),
    (32, "CL.TE, plus", conflict(b" +6", b" chunked"), 400),
    (32, "CL.TE, letter", conflict(b" 6x", b" chunked"), 400),
    (32, "CL.TE, empty coding", conflict(b" 6", b""), 400),
    (32, "CL.TE, empty length", conflict(b"", b" chunked"), 400),
    (32, "CL.TE, zero", conflict(b" 0", b" chunked"), 400),
    (32, "CL.TE, identity", conflict(b" 6", b" identity"), 400),
    (32, "CL.TE.TE", conflict(b" 6", b" x", b"Transfer-Encoding: chunked"), 400),
    (32, "CL.TE in upper case", conflict(b" 6", b" x").replace(b"Tran", b"TRAN"), 400),
    (32, "GET", b"GET" + conflict(b" 6", b" chunked")[4:], 400),
    (33, "deflate, chunked", with_coding(b" deflate, chunked"), 501),
    (33, "compress", with_coding(b" compress"), 501),
    (33, "trailers", with_coding(b" trailers"), 501),
    (33, "chunked of a GET", GET + b"Transfer-Encoding: chunked x\r\n\r\n", 400),
    (33, "semicolon", with_coding(b" chunked;"), 400),
    (33, "no comma", with_coding(b" chunked chunked"), 400),
    (33, "BOM", with_coding(b" \xef\xbb\xbfchunked"), 400),
    (34, "chunked, identity", with_coding(b" chunked, identity"), 400),
    (34, "identity, chunked, identity", with_coding(b" a, chunked, b"), 400),
    (34, "twice, gzip first", with_coding(b" gzip\r\nTransfer-Encoding: chunked"), 501),
    (35, "1.0 with both", conflict(b" 6", b" chunked").replace(b"/1.1", b"/1.0"), 400),
    (35, "1.0 kept", request("POST / HTTP/1.0", "Connection: keep-alive", CODING), 400),
    (45, "unknown, with body", request("POST /echo", "Expect: x", body=b"hello"), 417),
)


def check_refusal(server: Server, data: bytes, status: int) -> None:
    for got in outcomes(server, data + LAST * 3):
        assert [reply.status for reply in got] == [status]
        assert got[0].headers["connection"] == "close"


# The preface of HTTP/2 is no HTTP/1.1, and is refused where that alone is spoken.
PREFACE = b"PRI * HTTP/2.0\r\n"


@pytest.mark.parametrize(
    "data, status",
    [
        *(row for row in REFUSED_REQUEST_LINES if row.values[0][:16] != PREFACE),
        *REFUSED_HEADERS,
        *ALSO_REFUSED,
    ],
)
def test_what_is_refused_ends_the_connection(
    server: Server, data: bytes, status: int
) -> None:
    check_refusal(server, data, status)


def test_the_preface_of_http2_is_refused_where_it_is_not_spoken() -> None:
    with serve(PROGRAM, http2=False, **SETTINGS) as server:
        check_refusal(server, PREFACE + b"\r\nSM\r\n\r\n", 400)


@pytest.mark.parametrize("body, status", REFUSED_CHUNKS)
@pytest.mark.parametrize("target", [b"/echo", b"/nowhere", b"/unread"])
def test_a_chunked_body_that_is_refused_ends_the_connection(
    server: Server, target: bytes, body: bytes, status: int
) -> None:
    data = CHUNKED.replace(b"/", target, 1) + body
    allowed = {b"/echo": [status], b"/nowhere": [404], b"/unread": [200]}[target]
    for got in outcomes(server, data + LAST * 3):
        assert [reply.status for reply in got] == allowed
        assert got[0].headers["connection"] == "close"


@pytest.mark.parametrize("data, expected", ACCEPTED)
def test_what_is_accepted_is_answered(
    server: Server, data: bytes, expected: List[Union[str, bytes, int]]
) -> None:
    heads = [one for one in expected if isinstance(one, str) and " " in one]
    bodies = [one for one in expected if isinstance(one, bytes)]
    ends = "closed" in expected or any(isinstance(one, int) for one in expected)
    for got in outcomes(server, data + LAST):
        statuses = [reply.status for reply in got]
        assert len(got) == len(heads) + (not ends) + (400 in expected)
        assert not {400, 413, 414, 417, 431, 501, 505} & set(statuses[: len(heads)])
        if bodies and heads[0].startswith("POST"):
            assert next(r.body for r in got if r.status == 200) == bodies[0]
        assert ends or got[-1].body == b"last"


# What is answered, and how it goes on -------------------------------------------------

OK = (200, None)
LONG_TARGET = "/echo?" + "x" * 7975
TEN = b"0123456789"
H2C = "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAQAAP__"
WEBSOCKET = "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"
KEPT = table(
    # Each: the requests, and the status and body of every answer.
    (3, "1.2", request("GET / HTTP/1.2"), [(200, b"home")]),
    (3, "1.9", request("GET / HTTP/1.9"), [(200, b"home")]),
    (5, "unknown", request("BREW /"), [(405, None)]),
    (5, "lower case", request("get /"), [(405, None)]),
    (5, "of WebDAV", request("PROPFIND /"), [(405, None)]),
    (5, "DELETE where it is not", request("DELETE /"), [(405, None)]),
    (5, "unknown, nowhere", request("BREW /nowhere"), [(404, None)]),
    (6, "TRACE", request("TRACE /", "Cookie: secret=1"), [(405, None)]),
    (6, "TRACE, asterisk no", request("TRACE /nowhere"), [(404, None)]),
    (7, "OPTIONS *", request("OPTIONS *"), [(204, b"")]),
    (7, "OPTIONS", request("OPTIONS /"), [(204, b"")]),
    (7, "OPTIONS, nowhere", request("OPTIONS /nowhere"), [(404, None)]),
    (8, "URL", request("http://a/"), [(200, b"home")]),
    (8, "URL without a path", request("http://a"), [(200, b"home")]),
    (8, "URL with a query alone", request("http://a?x=y"), [(200, b"home")]),
    (8, "https URL on a plain port", request("https://a/"), [(200, b"home")]),
    (8, "URL with IPv6", request("http://[::1]:80/"), [(200, b"home")]),
    (8, "POST to a URL", request("POST http://b/echo", body=b"x"), [(200, b"x")]),
    (9, "escaped NUL", request("/nowhere%00"), [(404, None)]),
    (9, "escaped CR LF", request("/nowhere%0d%0aX:%20y"), [(404, None)]),
    (9, "escaped slash", request("/files%2fa.txt"), [(200, TEN)]),
    (9, "escaped dots", request("/files/%2e%2e/program.py"), [(404, None)]),
    (9, "dots", request("/files/../program.py"), [(404, None)]),
    (9, "escaped backslash", request("/files/..%5cprogram.py"), [(404, None)]),
    (9, "bad escape", request("/nowhere%zz"), [(404, None)]),
    (9, "half an escape", request("/nowhere%"), [(404, None)]),
    (9, "overlong UTF-8", request("/nowhere%c0%af"), [(404, None)]),
    (11, "8000 bytes", request(LONG_TARGET), [(405, None)]),
    (12, "CR LF in front", b"\r\n" + request("/"), [(200, b"home")]),
    (12, "CR LF twice", b"\r\n\r\n" + request("/"), [(200, b"home")]),
    (
        12,
        "CR LF after a body",
        request("POST /echo", body=b"x") + b"\r\n" + request("/"),
        [(200, b"x"), (200, b"home")],
    ),
    (15, "h2c", request("POST /echo", *H2C, body=b"hello"), [(200, b"hello")]),
    (15, "WebSocket", request("/", *WEBSOCKET), [(200, b"home")]),
    (15, "WebSocket by POST", request("POST /", *WEBSOCKET, body=b"x"), [(200, b"x")]),
    (15, "Upgrade alone", request("/", "Upgrade: websocket"), [(200, b"home")]),
    (17, "IPv6", with_host(b"[2001:db8::1]:8080"), [(200, b"home")]),
    (17, "port empty", with_host(b"a:"), [(200, b"home")]),
    (17, "white space around", with_host(b"\t a \t"), [(200, b"home")]),
    (22, "8-bit", request("/", "X: caf\u00e9"), [(200, b"home")]),
    (22, "white space around", with_line(b"X:\t y\t "), [(200, b"home")]),
    (26, "underscores", with_line(b"Content_Length: 9"), [(200, b"home")]),
    (26, "coding", with_line(b"Transfer_Encoding: chunked"), [(200, b"home")]),
    (26, "dots", with_line(b"Content.Length: 9"), [(200, b"home")]),
    (27, "zeros", request("POST /", "Content-Length: 000"), [(200, b"")]),
    (27, "nothing", request("POST /"), [(200, b"")]),
    (27, "of a GET", request("/", body=b"hello"), [(200, b"home")]),
    (27, "of a HEAD", request("HEAD /", body=b"hello"), [(200, b"")], "HEAD"),
    (27, "of a DELETE", request("DELETE /none", body=LAST), [(204, b"")]),
    (31, "of the route's size", request("POST /small", body=TEN), [(200, TEN)]),
    (33, "upper case", with_coding(b" CHUNKED"), [(200, b"hello")]),
    (33, "of a GET", GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [OK]),
    (33, "TE is not it", request("/", "TE: trailers, gzip"), [(200, b"home")]),
    (
        39,
        "extensions",
        CHUNKED + b'5 ; a = "b;\\"c" ;d\r\nhello\r\n0;e\r\n\r\n',
        [(200, b"hello")],
    ),
    (
        40,
        "trailers are no headers",
        CHUNKED + b"1\r\nx\r\n0\r\nHost: b\r\nContent-Length: 9\r\n"
        b"Connection: close\r\nTransfer-Encoding: gzip\r\nExpect: y\r\n\r\n",
        [(200, b"x")],
    ),
    (
        45,
        "body sent along",
        request("POST /echo", "Expect: 100-continue", body=b"x"),
        [(100, b""), (200, b"x")],
    ),
    (
        45,
        "chunked",
        request("POST /echo", "Expect: 100-Continue", CODING, body=b"0\r\n\r\n"),
        [(100, b""), (200, b"")],
    ),
    (45, "no body", request("/", "Expect: 100-continue"), [(200, b"home")]),
    (
        45,
        "body of nothing",
        request("POST /echo", "Expect: 100-continue", "Content-Length: 0"),
        [(200, b"")],
    ),
    (
        45,
        "twice",
        request("/", "Expect: 100-continue", "Expect: 100-continue"),
        [(200, b"home")],
    ),
    (45, "of nothing", request("/", "Expect:"), [(200, b"home")]),
    (46, "three", request("/") * 3, [(200, b"home")] * 3),
    (
        46,
        "of many kinds",
        request("POST /echo", body=b"x")
        + request("/nowhere")
        + request("/stream")
        + with_coding(b" chunked")
        + request("/none")
        + request("/files/a.txt"),
        [
            (200, b"x"),
            (404, None),
            (200, b"one two"),
            (200, b"hello"),
            (204, b""),
            (200, TEN),
        ],
    ),
    (47, "HEAD", request("HEAD /"), [(200, b"")], "HEAD"),
    (47, "HEAD of nothing there", request("HEAD /nowhere"), [(404, b"")], "HEAD"),
    (47, "HEAD where it is not", request("HEAD /echo"), [(405, b"")], "HEAD"),
    (47, "HEAD of an error", request("HEAD /raises"), [(500, b"")], "HEAD"),
    (47, "HEAD of a stream", request("HEAD /stream"), [(200, b"")], "HEAD"),
    (47, "HEAD of a redirect", request("HEAD /moved"), [(303, b"")], "HEAD"),
    (47, "HEAD of a file", request("HEAD /files/a.txt"), [(200, b"")], "HEAD"),
    (
        47,
        "HEAD with a range",
        request("HEAD /files/a.txt", "Range: bytes=0-1"),
        [(200, b"")],
        "HEAD",
    ),
    (47, "HEAD of 204", request("HEAD /none"), [(204, b"")], "HEAD"),
    (47, "204", request("/none"), [(204, b"")]),
    (47, "304", request("/files/a.txt", "If-None-Match: *"), [(304, b"")]),
    (82, "error", request("/raises"), [(500, None)]),
    (82, "wrong type", request("/wrong"), [(500, None)]),
    (84, "redirect", request("/moved"), [(303, None)]),
    (84, "two slashes", request("//evil.example/%2e%2e"), [(404, None)]),
    (84, "two slashes and a file", request("//evil.example/files"), [(404, None)]),
)


@pytest.mark.parametrize(
    "data, expected, asked",
    [pytest.param(*(*case.values, "GET")[:3], id=case.id) for case in KEPT],
)
def test_what_is_answered_leaves_the_connection_open(
    server: Server,
    data: bytes,
    expected: List[Tuple[int, Optional[bytes]]],
    asked: str,
) -> None:
    for got in outcomes(server, data + LAST, asked):
        *rest, last = got
        assert [reply.status for reply in rest] == [status for status, _ in expected]
        for reply, (_, body) in zip(rest, expected):
            assert body is None or reply.body == body
            assert "connection" not in reply.headers
        assert (last.body, last.headers["connection"]) == (b"last", "close")


UNREAD = table(
    (5, "unknown method", request("BREW /", body=LAST), 405),
    (6, "TRACE", request("TRACE /", body=LAST), 405),
    (7, "OPTIONS", request("OPTIONS /", body=LAST), 204),
    (43, "404", request("POST /nowhere", body=LAST), 404),
    (43, "405", request("PUT /last", body=LAST), 405),
    (
        43,
        "405, chunked",
        request("PUT /last", CODING, body=b"1\r\nx\r\n0\r\n\r\n"),
        405,
    ),
    (43, "500", request("/raises", body=LAST), 500),
    (43, "file", request("/files/a.txt", body=LAST), 200),
    (43, "not modified", request("/files/a.txt", "If-None-Match: *", body=LAST), 304),
    (43, "not read by its handler", request("POST /unread", body=LAST), 200),
)


@pytest.mark.parametrize("data, status", UNREAD)
def test_a_body_that_nobody_reads_is_no_request(
    server: Server, data: bytes, status: int
) -> None:
    whole, by_byte = outcomes(server, data + LAST)
    assert [reply.status for reply in whole] == [status, 200]
    # What has not come yet may never come: then the connection ends instead.
    assert [reply.status for reply in by_byte] in ([status, 200], [status])
    assert by_byte[-1].headers["connection"] == "close"


# What ends it -------------------------------------------------------------------------

ENDED = table(
    (35, "1.0", request("GET / HTTP/1.0"), "GET 1.0", 200),
    (35, "1.0 without Host", b"GET / HTTP/1.0\r\n\r\n", "GET 1.0", 200),
    (35, "stream to 1.0", request("GET /stream HTTP/1.0"), "GET 1.0", 200),
    (
        35,
        "stream to 1.0 that asks to be kept",
        request("GET /stream HTTP/1.0", "Connection: keep-alive"),
        "GET 1.0",
        200,
    ),
    (
        45,
        "1.0",
        request("POST /echo HTTP/1.0", "Expect: 100-continue", body=b"x"),
        "POST 1.0",
        200,
    ),
    (45, "unknown, 1.0", request("GET / HTTP/1.0", "Expect: x"), "GET 1.0", 200),
    (46, "close", request("/", "Connection: close"), "GET", 200),
    (46, "close among others", request("/", "Connection: x, CLOSE ,y"), "GET", 200),
    (
        46,
        "close in a second line",
        request("/", "Connection: x", "Connection: close"),
        "GET",
        200,
    ),
    (46, "close and keep", request("/", "Connection: keep-alive, close"), "GET", 200),
    (46, "close, 404", request("/nowhere", "Connection: close"), "GET", 404),
    (
        46,
        "close, with body",
        request("POST /", "Connection: close", body=b"x"),
        "POST",
        200,
    ),
    (47, "close of a HEAD", request("HEAD /", "Connection: close"), "HEAD", 200),
    (47, "close of a 204", request("/none", "Connection: close"), "GET", 204),
    (
        47,
        "close of a 304",
        request("/files/a.txt", "Connection: close", "If-None-Match: *"),
        "GET",
        304,
    ),
)


@pytest.mark.parametrize("data, asked, status", ENDED)
def test_nothing_is_answered_after_the_end(
    server: Server, data: bytes, asked: str, status: int
) -> None:
    for got in outcomes(server, data + LAST * 3, asked):
        assert [reply.status for reply in got] == [status]
        assert got[0].headers["connection"] == "close"


def test_a_1_0_client_may_keep_its_connection(server: Server) -> None:
    data = request("GET / HTTP/1.0", "Connection: Keep-Alive")
    for got in outcomes(server, data + LAST, "GET 1.0"):
        assert [reply.body for reply in got] == [b"home", b"last"]
        assert got[0].headers["connection"] == "keep-alive"


CUT_SHORT = table(
    (42, "method", b"GE", [400]),
    (42, "request line", b"GET / HTTP/1.1\r\n", [400]),
    (42, "header", GET[:-1], [400]),
    (42, "no empty line", GET, [400]),
    (42, "half of it", GET + b"\r", [400]),
    (42, "body", request("POST /echo", "Content-Length: 9") + b"hello", [400]),
    (42, "no body at all", request("POST /echo", "Content-Length: 9"), [400]),
    (42, "chunk size", CHUNKED + b"5", [400]),
    (42, "chunk", CHUNKED + b"5\r\nhel", [400]),
    (42, "chunk without its end", CHUNKED + b"5\r\nhello", [400]),
    (42, "no last chunk", CHUNKED + b"5\r\nhello\r\n", [400]),
    (42, "no end of trailers", CHUNKED + b"0\r\n", [400]),
    (42, "trailer", CHUNKED + b"0\r\nX: y\r\n", [400]),
    (42, "nobody wanted it", request("POST /x", "Content-Length: 9") + b"hello", [404]),
    (42, "second request", request("/") + GET, [200, 400]),
    (42, "nothing", b"", []),
    (42, "empty line", b"\r\n", []),
    (42, "between requests", request("/") * 2, [200, 200]),
)


@pytest.mark.parametrize("data, statuses", CUT_SHORT)
def test_what_is_cut_short_is_never_taken_for_the_whole(
    server: Server, data: bytes, statuses: List[int]
) -> None:
    for got in outcomes(server, data, half_close=True):
        assert [reply.status for reply in got] == statuses


# What is said of a file ---------------------------------------------------------------

CONDITIONS = table(
    # {tag} is the file's entity tag; it has ten bytes.
    (0, "none", "GET", "X: y", 200),
    (0, "its tag", "GET", "If-None-Match: {tag}", 304),
    (0, "its tag, HEAD", "HEAD", "If-None-Match: {tag}", 304),
    (0, "its tag, weak", "GET", "If-None-Match: W/{tag}", 304),
    (0, "its tag in a list", "GET", 'If-None-Match: "x", {tag} , "y"', 304),
    (0, "any", "GET", "If-None-Match: *", 304),
    (0, "another tag", "GET", 'If-None-Match: "x"', 200),
    (0, "no tag", "GET", "If-None-Match: x", 200),
    (0, "tag before date", "GET", f'If-None-Match: "x"|If-Modified-Since: {DATE}', 200),
    (
        0,
        "tag, old date",
        "GET",
        f"If-None-Match: {{tag}}|If-Modified-Since: {OLD}",
        304,
    ),
    (0, "its date", "GET", f"If-Modified-Since: {DATE}", 304),
    (0, "its date, RFC 850", "GET", "If-Modified-Since: " + RFC_850, 304),
    (0, "its date, asctime", "GET", "If-Modified-Since: " + ASCTIME, 304),
    (0, "older date", "GET", f"If-Modified-Since: {OLD}", 200),
    (0, "no date", "GET", "If-Modified-Since: yesterday", 200),
    (
        0,
        "two dates",
        "GET",
        f"If-Modified-Since: {DATE}|If-Modified-Since: {DATE}",
        200,
    ),
    (0, "match", "GET", "If-Match: {tag}", 200),
    (0, "match any", "GET", "If-Match: *", 200),
    (0, "match weak", "GET", "If-Match: W/{tag}", 412),
    (0, "match another", "GET", 'If-Match: "x"', 412),
    (0, "match another, HEAD", "HEAD", 'If-Match: "x"', 412),
    (
        0,
        "match before date",
        "GET",
        f"If-Match: {{tag}}|If-Unmodified-Since: {OLD}",
        200,
    ),
    (0, "unmodified", "GET", f"If-Unmodified-Since: {DATE}", 200),
    (0, "modified", "GET", f"If-Unmodified-Since: {OLD}", 412),
    (0, "unmodified, no date", "GET", "If-Unmodified-Since: x", 200),
    (0, "condition before range", "GET", "If-None-Match: *|Range: bytes=0-1", 304),
    (0, "412 before 416", "GET", 'If-Match: "x"|Range: bytes=99-', 412),
    (65, "first", "GET", "Range: bytes=0-0", b"0"),
    (65, "middle", "GET", "Range: bytes=2-4", b"234"),
    (65, "to the end", "GET", "Range: bytes=7-", b"789"),
    (65, "beyond the end", "GET", "Range: bytes=7-99", b"789"),
    (65, "of 20 digits", "GET", "Range: bytes=7-99999999999999999999", b"789"),
    (65, "last", "GET", "Range: bytes=-3", b"789"),
    (65, "more than all", "GET", "Range: bytes=-99", TEN),
    (65, "unit in upper case", "GET", "Range: BYTES=0-1", b"01"),
    (65, "one can be satisfied", "GET", "Range: bytes=99-,0-1", b"01"),
    (65, "behind the end", "GET", "Range: bytes=10-", 416),
    (65, "far behind", "GET", "Range: bytes=99999999999999999999-", 416),
    (65, "last none", "GET", "Range: bytes=-0", 416),
    (65, "none can be satisfied", "GET", "Range: bytes=10-,11-12", 416),
    (65, "backwards", "GET", "Range: bytes=5-2", 200),
    (65, "letters", "GET", "Range: bytes=a-b", 200),
    (65, "empty", "GET", "Range: bytes=", 200),
    (65, "dash", "GET", "Range: bytes=-", 200),
    (65, "no unit", "GET", "Range: 0-1", 200),
    (65, "other unit", "GET", "Range: lines=0-1", 200),
    (65, "sign", "GET", "Range: bytes=+0-1", 200),
    (65, "8-bit digits", "GET", "Range: bytes=\u0660-\u0661", 200),
    (65, "two numbers", "GET", "Range: bytes=0-1-2", 200),
    (65, "1200", "GET", "Range: bytes=" + ",".join(["0-"] * 1200), 200),
    (65, "overlapping", "GET", "Range: bytes=0-,0-,0-", 200),
    (65, "parts longer than the whole", "GET", "Range: bytes=0-0,2-2", 200),
    (65, "HEAD", "HEAD", "Range: bytes=0-1", 200),
    (65, "if its tag", "GET", "If-Range: {tag}|Range: bytes=0-1", b"01"),
    (65, "if its date", "GET", f"If-Range: {DATE}|Range: bytes=0-1", b"01"),
    (65, "if another tag", "GET", 'If-Range: "x"|Range: bytes=0-1', 200),
    (65, "if its tag, weak", "GET", "If-Range: W/{tag}|Range: bytes=0-1", 200),
    (65, "if an older date", "GET", f"If-Range: {OLD}|Range: bytes=0-1", 200),
    (65, "if nothing", "GET", "If-Range: x|Range: bytes=0-1", 200),
)


@pytest.mark.parametrize("method, lines, expected", CONDITIONS)
def test_conditions_and_ranges_of_a_file(
    server: Server, method: str, lines: str, expected: Union[int, bytes]
) -> None:
    tag = server.get("/files/a.txt").headers["etag"]
    sent = request(f"{method} /files/a.txt", *lines.replace("{tag}", tag).split("|"))
    status = expected if isinstance(expected, int) else 206
    for reply, last in outcomes(server, sent + LAST, method):
        assert (reply.status, last.body) == (status, b"last")
        if status in (200, 206, 304):
            assert reply.headers["etag"] == tag
        if status in (200, 206):
            assert reply.headers["last-modified"] == DATE
            assert reply.headers["accept-ranges"] == "bytes"
        if isinstance(expected, bytes):
            assert reply.body == expected
            start = TEN.index(expected)
            covers = f"bytes {start}-{start + len(expected) - 1}/10"
            assert reply.headers["content-range"] == covers
        elif status == 200:
            assert reply.headers["content-length"] == "10"
            assert "content-range" not in reply.headers


@pytest.mark.parametrize("line", ["X: y", "Range: bytes=0-", "Range: bytes=-1"])
def test_an_empty_file_is_sent_whole(server: Server, line: str) -> None:
    for reply, _ in outcomes(server, request("/files/empty", line) + LAST):
        assert (reply.status, reply.headers["content-length"]) == (200, "0")


@pytest.mark.parametrize(
    "accepted, body", [("gzip", b"packed"), ("x-gzip", b"packed"), ("br", None)]
)
def test_what_is_chosen_by_a_header_says_so(
    server: Server, accepted: str, body: Optional[bytes]
) -> None:
    lines = f"Accept-Encoding: {accepted}"
    (reply, _), _ = outcomes(server, request("/files/b.css", lines) + LAST)
    assert reply.headers["vary"] == "Accept-Encoding"
    assert reply.headers.get("content-encoding") == ("gzip" if body else None)
    assert body is None or reply.body == body
    again = request("/files/b.css", lines, f"If-None-Match: {reply.headers['etag']}")
    (unchanged, _), _ = outcomes(server, again + LAST)
    assert unchanged.status == 304
    for name in ("etag", "vary"):  # RFC 9110 section 15.4.5
        assert unchanged.headers[name] == reply.headers[name]


# What is said of every answer ---------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    "/ /echo /none /moved /raises /stream /nowhere /files/a.txt /files/b.css "
    "/files/empty /files /seen/x".split(),
)
def test_head_is_get_without_its_content(server: Server, target: str) -> None:
    both = request(f"HEAD {target}") + request(target)
    for head, get, _ in outcomes(server, both + LAST, "HEAD"):
        assert (head.status, head.body) == (get.status, b"")
        for one in (head, get):
            del one.headers["date"]
        assert head.headers == get.headers


@pytest.mark.parametrize(
    "target, allowed",
    [
        ("/", "GET, HEAD, OPTIONS, POST, PUT"),
        ("/echo", "OPTIONS, POST, PUT"),
        ("/none", "DELETE, GET, HEAD, OPTIONS"),
        ("/files/a.txt", "GET, HEAD, OPTIONS"),
    ],
)
def test_the_methods_of_a_resource_are_told(
    server: Server, target: str, allowed: str
) -> None:
    both = request(f"OPTIONS {target}") + request(f"BREW {target}")
    for options, refused, _ in outcomes(server, both + LAST):
        assert (options.status, refused.status) == (204, 405)
        assert options.headers["allow"] == refused.headers["allow"] == allowed


def test_an_error_says_its_type_and_tells_nothing(server: Server) -> None:
    for target, secret in ("/raises", b"ZeroDivision"), ("/<b>%1b", b"<b>"):
        for reply, _ in outcomes(server, request(target) + LAST):
            assert reply.headers["content-type"] == "text/html; charset=utf-8"
            assert secret not in reply.body


def test_the_type_that_would_have_been_taken_is_told(server: Server) -> None:
    sent = request("POST /json", "Content-Type: text/plain", body=b"{}")
    for reply, _ in outcomes(server, sent + LAST):
        assert (reply.status, reply.headers["accept"]) == (415, "application/json")


def test_a_head_is_refused_without_content_as_well(server: Server) -> None:
    sent = request("HEAD /", CODING, body=b"no chunk\r\n")
    for got in outcomes(server, sent + LAST, "HEAD"):
        assert [(reply.status, reply.body) for reply in got] == [(400, b"")]


def test_a_redirect_stays_on_its_host(server: Server) -> None:
    for target in ("/moved", "//evil.example//moved"):
        for reply, _ in outcomes(server, request(target) + LAST):
            assert reply.headers.get("location") in ("/evil.example/x", None)


# What a handler sees ------------------------------------------------------------------

SEEN = table(
    (7, "query", "/seen/x?a=%20?&b", [], {"path": "/seen/x", "query": "a=%20?&b"}),
    (7, "empty query", "/seen/x?", [], {"path": "/seen/x", "query": ""}),
    (8, "URL", "http://b:99/seen/x?y", [], {"host": "b:99", "query": "y"}),
    (8, "https URL", "HTTPS://B/seen/x", [], {"host": "B", "scheme": "http"}),
    (9, "escapes", "/seen/%C3%A9%2F%25", [], {"path": "/seen/\u00e9/%"}),
    (9, "CR LF", "/seen/a%0D%0AX:%20y", [], {"path": "/seen/a\r\nX: y", "x": None}),
    (9, "NUL", "/seen/a%00b", [], {"path": "/seen/a\0b"}),
    (9, "odd ones", '/seen/\\"<>^`{|}', [], {"path": '/seen/\\"<>^`{|}'}),
    (9, "slashes and dots", "/seen//a/../b/.", [], {"path": "/seen//a/../b/."}),
    (9, "plus", "/seen/a+b", [], {"path": "/seen/a+b"}),
    (16, "host", "/seen/x", [], {"host": "a", "scheme": "http"}),
    (22, "white space", "/seen/x", ["X: \t y z\t "], {"x": "y z"}),
    (22, "two lines", "/seen/x", ["X: y", "x: z"], {"x": "y, z"}),
    (22, "empty", "/seen/x", ["X:"], {"x": ""}),
    (22, "colons", "/seen/x", ["X:::y"], {"x": "::y"}),
    (22, "8-bit", "/seen/x", ["X: \u00e9"], {"x": "\u00c3\u00a9"}),
    (61, "cookies", "/seen/x", ["Cookie: a=1; b=2"], {"cookies": {"a": "1", "b": "2"}}),
    (
        61,
        "lines",
        "/seen/x",
        ["Cookie: a=1", "Cookie: b=2"],
        {"cookies": {"a": "1", "b": "2"}},
    ),
    (
        61,
        "equals",
        "/seen/x",
        ["Cookie: a=b=c; d="],
        {"cookies": {"a": "b=c", "d": ""}},
    ),
    (61, "nothing", "/seen/x", ["Cookie: ===;;;"], {"cookies": {}}),
    (61, "empty", "/seen/x", ["Cookie:"], {"cookies": {}}),
)


@pytest.mark.parametrize("target, lines, expected", SEEN)
def test_a_handler_sees_what_was_sent(
    server: Server, target: str, lines: List[str], expected: Dict[str, Any]
) -> None:
    for reply, _ in outcomes(server, request(target, *lines) + LAST):
        seen = json.loads(reply.body)
        assert {name: seen[name] for name in expected} == expected


# The page -----------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(
        r"`(tests/\w+/\w+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8")
    )
    known: Dict[str, Set[str]] = {}
    for path in PAGE.parents[1].glob("tests/*/test_*.py"):
        source = path.read_text(encoding="utf-8")
        known[path.relative_to(PAGE.parents[1]).as_posix()] = set(
            re.findall(r"^ *(?:async )?def (test_\w+)", source, re.M)
        )
    assert len(named) > 100
    assert {
        f"{file}::{name}" for file, name in named if name not in known.get(file, ())
    } == set()


def test_every_row_of_the_page_names_a_test() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("## Where we are stricter")[0]
    rows = re.findall(r"^\| (?!section|#|--).*$", text, re.M)
    assert [row for row in rows if "`tests/" not in row.split(" | ")[-1]] == []


TABLES = {
    "test_a_bad_head_is_refused_and_nothing_after_it_is_read": (
        REFUSED_REQUEST_LINES + REFUSED_HEADERS
    ),
    "test_a_bad_chunk_is_refused_and_ends_the_connection": REFUSED_CHUNKS,
    "test_a_good_request_is_read_however_it_is_cut": ACCEPTED,
    "test_limits_on_a_head_hold_to_the_byte": AT_THE_LIMIT,
    "test_what_is_refused_ends_the_connection": (
        REFUSED_REQUEST_LINES + REFUSED_HEADERS + ALSO_REFUSED
    ),
    "test_a_chunked_body_that_is_refused_ends_the_connection": REFUSED_CHUNKS,
    "test_what_is_answered_leaves_the_connection_open": KEPT,
    "test_a_body_that_nobody_reads_is_no_request": UNREAD,
    "test_nothing_is_answered_after_the_end": ENDED,
    "test_what_is_cut_short_is_never_taken_for_the_whole": CUT_SHORT,
    "test_a_handler_sees_what_was_sent": SEEN,
}


def test_every_fault_has_one_row_and_its_cases() -> None:
    faults = PAGE.read_text(encoding="utf-8").partition("## Faults")[2]
    rows = re.findall(r"^\| (\d+) \| .*$", faults, re.M)
    assert [int(row) for row in rows] == [*range(1, 52), *range(79, 85), 86]
    without = []
    for number, line in re.findall(r"^\| (\d+) \|(.*)$", faults, re.M):
        for name in re.findall(r"::(\w+)", line):
            cases = [str(case.id) for case in TABLES.get(name, ())]
            if cases and not any(case.startswith(f"row{number}-") for case in cases):
                without.append((number, name))
    assert without == []
