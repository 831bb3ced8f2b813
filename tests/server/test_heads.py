"""Requests that are recognised by their bytes get what they would get otherwise.

The table of proved heads is compared with the parser, and whole connections with
others that got the same bytes cut in two, so that nothing of them could be recognised.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from typing import Any, List, Optional, Tuple

import pytest

from pixie_web import Pixie, ProtocolError, Request, Response
from pixie_web.protocol.http11 import Head, WireLimits, parse_head
from pixie_web.server.heads import MAX_PROVED_BYTES, MAX_PROVED_HEADS, ProvedHeads
from pixie_web.server.http1 import HTTP1Connection
from pixie_web.server.options import ServerOptions
from pixie_web.server.server import Server

HOST = b"Host: example.com:8000\r\n"
COOKIE = HOST + b"Cookie: a=b\r\nAccept: */*\r\n"


def head_bytes(first: str, lines: bytes = HOST) -> bytes:
    return first.encode("latin-1") + b"\r\n" + lines + b"\r\n"


def fields(head: Optional[Head]) -> Any:
    return head and {name: getattr(head, name) for name in Head.__slots__}


def found(heads: ProvedHeads, data: bytes) -> Optional[Head]:
    pair = heads.find(data)
    return pair and pair[0]


def learned(*raws: bytes, limits: Optional[WireLimits] = None) -> ProvedHeads:
    heads = ProvedHeads(limits or WireLimits())
    for raw in raws:
        heads.learn(parse_head(raw))
    return heads


# The table ----------------------------------------------------------------------------

RECOGNISED = [
    "GET / HTTP/1.1",
    "HEAD / HTTP/1.1",
    "get /lower HTTP/1.1",
    "BREW /pot HTTP/1.1",
    "GET /a/b;c=d,e!$&'()*+:@~ HTTP/1.1",
    "GET //two HTTP/1.1",
    "GET /caf%C3%A9/%2F%00%ff/%zz HTTP/1.1",
    "GET /? HTTP/1.1",
    'GET /?a=b&c=%20+/?[]\\^`{|}" HTTP/1.1',
    "OPTIONS /path HTTP/1.1",
    f"GET /{'x' * 1500} HTTP/1.1",
]
NOT_RECOGNISED = [
    "GET / HTTP/1.0",
    "GET / HTTP/1.2",
    "GET / HTTP/2.0",
    "GET / http/1.1",
    "GET  / HTTP/1.1",
    "GET / HTTP/1.1 ",
    " GET / HTTP/1.1",
    "GET /",
    "GET",
    "",
    "GET /a#b HTTP/1.1",
    "GET /a?b#c HTTP/1.1",
    "GET /a b HTTP/1.1",
    "GET /a\tb HTTP/1.1",
    "GET /a\x00 HTTP/1.1",
    "GET /caf\xe9 HTTP/1.1",
    "GET /a\nHost: b HTTP/1.1",
    "GET /a\r HTTP/1.1",
    "G@T / HTTP/1.1",
    f"{'M' * 33} / HTTP/1.1",
    "GET http://example.com/ HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "CONNECT example.com:80 HTTP/1.1",
    "CONNECT /path HTTP/1.1",
    f"GET /{'x' * MAX_PROVED_BYTES} HTTP/1.1",
]


@pytest.mark.parametrize("lines", [HOST, COOKIE], ids=["host", "cookie"])
@pytest.mark.parametrize("first", RECOGNISED)
def test_a_head_behind_another_request_line_is_what_the_parser_makes_of_it(
    first: str, lines: bytes
) -> None:
    heads = learned(head_bytes("GET /first HTTP/1.1", lines))
    data = head_bytes(first, lines)
    assert fields(found(heads, data)) == fields(parse_head(data))


@pytest.mark.parametrize("first", NOT_RECOGNISED)
def test_what_is_not_ordinary_is_left_to_the_reader(first: str) -> None:
    heads = learned(head_bytes("GET /first HTTP/1.1"))
    assert heads.find(head_bytes(first)) is None


COOKIES = [
    b"Cookie: a=c",
    b"Cookie: ",
    b"Cookie: \t \xff~",
    b"Cookie: " + b"x" * 500,
]
NO_COOKIES = [
    b"Cookie:a=b",
    b"cookie: a=b",
    b"Cookie: a=b\x00",
    b"Cookie: a=b\x7f",
    b"Cookie: a=b\rX: y",
    b"Cookie: a=b\nX: y",
    b"Cookie: a=b\r\n folded",
    b"Cookie: a=b\r\nX: y",
    b"Cookie: a=b\r\nCookie: c=d",
    b"Cookie : a=b",
    b"X-Cookie: a=b",
    b"Cookie: " + b"x" * 600,
]


@pytest.mark.parametrize("line", [*COOKIES, *NO_COOKIES])
def test_another_cookie_is_proved_by_itself(line: bytes) -> None:
    heads = learned(
        head_bytes("GET /first HTTP/1.1", COOKIE),
        limits=WireLimits(max_header_line_bytes=550),
    )
    data = head_bytes("GET /?a=b HTTP/1.1", COOKIE.replace(b"Cookie: a=b", line))
    if line in COOKIES:
        assert fields(found(heads, data)) == fields(parse_head(data))
    else:
        assert heads.find(data) is None


LENGTHS = [
    (b"Content-Length: 5\r\n", b"hello"),
    (b"Content-Length: 11\r\n", b"hello world"),
    (b"Content-Length: 0\r\n", b""),
    (b"Content-Length: 005\r\n", b"hello"),
    (b"content-length: 5\r\n", b"hello"),
    (b"Content-length:5\r\n", b"hello"),
    (b"Content-Length: 26\r\n", b"\r\n\r\nContent-Length: 1\r\n\r\n!"),
    (b"Content-Length: 4000\r\n", b"x" * 4000),
    (b"Cookie: n=1\r\nContent-Length: 5\r\n", b"hello"),
    (b"Content-Length: 5\r\nCookie: n=1\r\n", b"hello"),
]
NO_LENGTHS = [
    (b"Content-Length: 5\r\n", b"hell"),
    (b"Content-Length: 5\r\n", b"hello "),
    (b"Content-Length: 5\r\n", b"helloGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (b"Content-Length: 0\r\n", b"hello"),
    (b"Content-Length: \r\n", b""),
    (b"Content-Length: \r\n", b"hello"),
    (b"Content-Length: +5\r\n", b"hello"),
    (b"Content-Length: 5, 5\r\n", b"hello"),
    (b"Content-Length: 5 5\r\n", b"hello"),
    (b"Content-Length : 5\r\n", b"hello"),
    (b" Content-Length: 5\r\n", b"hello"),
    (b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"),
    (b"Content-Length: 5\r\ncontent-length: 6\r\n", b"hello"),
    (b"Content-Length: 6\r\ncontent-length: 5\r\n", b"hello"),
    (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"hello"),
    (b"Content-Length: 5\r\nExpect: 100-continue\r\n", b"hello"),
    (b"Content-Length: 00000005\r\n", b"hello"),
    (b"", b"hello"),
]


@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "DELETE"])
@pytest.mark.parametrize("lines, body", [*LENGTHS, *NO_LENGTHS])
def test_a_body_that_has_come_whole_is_taken_and_no_other(
    lines: bytes, body: bytes, method: str
) -> None:
    known = re.sub(rb"[0-9]+\r", b"3\r", lines)  # the same lines, of another length
    heads = learned()
    for one in (known, b"", *(line for line, _ in LENGTHS)):
        try:
            heads.learn(parse_head(head_bytes("POST /first HTTP/1.1", HOST + one)))
        except ProtocolError:
            assert (lines, body) in NO_LENGTHS
    data = head_bytes(f"{method} /?a=b HTTP/1.1", HOST + lines) + body
    if (lines, body) not in LENGTHS:
        assert heads.find(data) is None
        return
    head, known_of_it, content = heads.find(data) or (None, 1, b"")
    assert fields(head) == fields(parse_head(data[: len(data) - len(body)]))
    assert (known_of_it, content) == (None, body)


def test_a_body_is_learned_with_its_length_or_not_at_all() -> None:
    for lines in (b"CONTENT-LENGTH: 5\r\n", b"Content-Length:  5\r\n"):
        raw = head_bytes("POST / HTTP/1.1", HOST + lines)
        heads = learned(raw)
        assert heads.find(raw + b"hello") is None
        assert heads.find(raw) is None
    raw = head_bytes("POST / HTTP/1.1", HOST + b"Content-Length: 5\r\n")
    heads = learned(raw)
    heads.keep(parse_head(raw), "known")
    assert heads.find(raw) is None
    assert (heads.find(raw + b"hello") or ())[1:] == (None, b"hello")


NOT_LEARNED = [
    b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * MAX_PROVED_BYTES),
]


@pytest.mark.parametrize("raw", NOT_LEARNED)
def test_a_head_that_is_not_ordinary_is_not_kept(raw: bytes) -> None:
    heads = learned(raw)
    heads.keep(parse_head(raw), "known")
    assert heads.find(raw) is None
    lines = raw.partition(b"\r\n")[2]
    assert heads.find(b"GET / HTTP/1.1\r\n" + lines) is None


@pytest.mark.parametrize(
    "data",
    [
        head_bytes("GET / HTTP/1.1")[:-1],
        head_bytes("GET / HTTP/1.1") + b"x",
        head_bytes("GET / HTTP/1.1") * 2,
        b"\r\n" + head_bytes("GET / HTTP/1.1"),
        head_bytes("GET / HTTP/1.1", HOST.lower()),
        head_bytes("GET / HTTP/1.1", HOST + b"X: y\r\n"),
        b"",
        b"\r\n\r\n",
    ],
)
def test_only_the_very_bytes_are_a_proof(data: bytes) -> None:
    raw = head_bytes("GET / HTTP/1.1")
    heads = learned(raw)
    heads.keep(parse_head(raw), "known")
    assert heads.find(data) is None


def test_what_is_known_comes_back_with_the_whole_head_alone() -> None:
    raw = head_bytes("GET / HTTP/1.1")
    heads = learned(raw)
    head = parse_head(raw)
    heads.keep(head, None)
    assert heads.find(raw) is not None
    assert (heads.find(raw) or ())[1] is None
    heads.keep(head, "known")
    assert heads.find(raw) == (head, "known", b"")
    assert (heads.find(head_bytes("GET /other HTTP/1.1")) or ())[1] is None


def test_the_limits_of_the_server_hold_for_another_request_line() -> None:
    limits = WireLimits(max_request_line_bytes=30, max_head_bytes=60)
    heads = learned(head_bytes("GET / HTTP/1.1"), limits=limits)
    line = f"GET /{'x' * 16} HTTP/1.1"
    assert len(line) == 30
    assert heads.find(head_bytes(line)) is not None
    assert heads.find(head_bytes(line.replace("x", "xx", 1))) is None
    tight = limits._replace(max_head_bytes=len(head_bytes(line)) - 1)
    heads = learned(head_bytes("GET / HTTP/1.1"), limits=tight)
    assert heads.find(head_bytes(line)) is None


def test_the_tables_are_bounded_and_many_heads_only_empty_them() -> None:
    heads = ProvedHeads(WireLimits())
    for number in range(10_000):
        head = parse_head(
            head_bytes(f"GET /{number} HTTP/1.1", b"Host: h%d\r\n" % number)
        )
        heads.learn(head)
        heads.keep(head, number)
        assert len(heads._whole) <= MAX_PROVED_HEADS
        assert len(heads._blocks) <= MAX_PROVED_HEADS
    raw = head_bytes("GET /9999 HTTP/1.1", b"Host: h9999\r\n")
    assert (heads.find(raw) or ())[1] == 9999


# Whole connections --------------------------------------------------------------------


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_closed = False

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.sent += data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default


def application() -> Pixie:
    app = Pixie()

    def show(env: Any, **params: Any) -> Any:
        cookies = dict(env.cookies)
        text = f"{env.method} {env.url} {params} {cookies} {list(env.headers.items())}"
        return Response(text, headers={"X-Body": str(len(env.body))})

    async def show_async(env: Any, **params: Any) -> Any:
        return show(env, **params)

    async def waits(env: Any) -> Any:
        await asyncio.sleep(0)
        return show(env)

    app.route("/", "sync", ("GET", "POST", "PUT"))(show)
    app.route("/async", "asnc", ("GET", "POST"))(show_async)
    app.route("/user/<n:int>/<rest:path>", "asnc")(show_async)
    app.route("/waits", "asnc")(waits)
    mounted = Pixie()
    mounted.route("/inner", "sync")(show)
    app.mount("/mounted", mounted)
    return app


LINES = [
    b"Host: example.com",
    b"Host: other.example",
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
    b"Accept: */*",
    b"Cookie: a=b; c=d",
    b"Connection: keep-alive",
    b"Connection: close",
    b"Content-Length: 5",
    b"content-length:5",
    b"Content-Length: 0",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"X-Empty:",
    b"Bad : colon",
    b" folded",
]
TARGETS = [
    *("/", "/async", "/async?q=1", "/user/42/a/b", "/user/x/y", "/waits", "/none"),
    *("/mounted/inner", "/mounted", "/%2e%2e/", "//async", "/a#b", "*"),
    *("http://example.com/async", "example.com:80"),
]
METHODS = ["GET"] * 6 + ["POST", "POST", "HEAD", "PUT", "OPTIONS", "get", "CONNECT"]


def any_request(chance: random.Random) -> bytes:
    """Return a request, most often an ordinary one, perhaps with a byte changed."""
    lines = [b"Host: example.com"] * (chance.random() < 0.9)
    lines += chance.sample(LINES, chance.choice([0, 0, 1, 2, 4]))
    if chance.random() < 0.3:
        lines.append(b"Cookie: n=%d" % chance.randrange(100))
    first = f"{chance.choice(METHODS)} {chance.choice(TARGETS)} HTTP/1.1"
    if chance.random() < 0.05:
        first = first.replace("1.1", chance.choice(["1.0", "1.2", "2.0", "1.1 "]))
    data = b"\r\n".join([first.encode(), *lines]) + b"\r\n\r\n"
    if b"chunked" in data:
        data += b"5\r\nhello\r\n0\r\n\r\n"
    elif b"ength:" in data and b"5" in data:
        data += chance.choice([b"hello", b"hello", b"hell", b"hello!"])
    if chance.random() < 0.2:
        at = chance.randrange(len(data))
        data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    return data


def site(app: Pixie) -> Server:
    server = Server(app.handle, ServerOptions(access_log=False), app.own_begin())
    server.loop, server.thread = asyncio.get_running_loop(), 1
    return server


async def transcript(server: Server, pieces: List[bytes]) -> Tuple[bytes, bool]:
    """Return what a connection sends for these pieces, and whether it has ended."""
    connection, wire = HTTP1Connection(server), Wire()
    connection.connection_made(wire)
    for piece in pieces:
        if wire.is_closed:
            break
        connection.data_received(piece)
        while connection.is_busy and connection.awaited() is None:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    if not wire.is_closed:
        connection.eof_received()
        await asyncio.sleep(0)
    is_over = wire.is_closed or connection.is_ending
    connection.connection_lost(None)
    sent = re.sub(rb"Date: [^\r]*\r\n", b"", wire.sent)
    return sent, is_over


@pytest.mark.parametrize("seed", range(4))
def test_the_same_bytes_cut_in_two_get_the_same_answers(seed: int) -> None:
    count = 7_500 if os.environ.get("PIXIE_LONG") else 250
    chance = random.Random(seed)
    first = b"GET /async HTTP/1.1\r\nHost: example.com\r\n\r\n"

    async def compare() -> int:
        server = site(application())
        recognised = 0
        for _ in range(count):
            data = any_request(chance)
            recognised += server.heads.find(data) is not None
            # Inside the head: the rest brings all of the body, if there is one.
            cut = chance.randrange(1, max(2, data.find(b"\r\n\r\n")))
            whole = await transcript(server, [first, data, data, first])
            halves = [data[:cut], data[cut:]]
            in_two = await transcript(server, [first, *halves, *halves, first])
            assert whole == in_two, data
        return recognised

    assert asyncio.run(compare()) > count // 10


def test_a_handle_of_a_subclass_is_what_the_server_calls() -> None:
    class Counted(Pixie):
        count = 0

        async def handle(self, request: Request) -> Response:
            self.count += 1
            return await super().handle(request)

    app = Counted()
    app.route("/", "sync")(lambda env: "there")
    data = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

    async def ask() -> bytes:
        server = site(app)
        return (await transcript(server, [data, data]))[0]

    assert asyncio.run(ask()).count(b"there") == 2
    assert app.count == 2


def test_a_bad_byte_behind_a_known_head_is_refused_as_ever() -> None:
    good = b"GET /async HTTP/1.1\r\nHost: a\r\n\r\n"

    async def ask(last: bytes) -> bytes:
        server = site(application())
        return (await transcript(server, [good, good, last]))[0]

    for bad in (good[:-2] + b"\n", good.replace(b"/async", b"/as\x00nc"), b"\x16\x03"):
        answer = asyncio.run(ask(bad))
        assert answer.count(b"HTTP/1.1 200 ") == 2
        assert answer.count(b"HTTP/1.1 400 ") == 1, bad
