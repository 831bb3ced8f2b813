"""The server over real sockets and on both event loops."""

from __future__ import annotations

import ast
import base64
import hashlib
import http.client
import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest
from pooling import reset, resident_bytes
from shapes import module_of
from support import (
    LOOPS,
    Answer,
    Server,
    children,
    drip,
    process_is_alive,
    read_all,
    read_until,
    serve,
    server_fixture,
    wait_for,
)

PROGRAM = r"""
import asyncio, os, sys, threading, time
from pixie_web import Response, RouteType, abort, route, run, static_file

BLOCK = b"".join(b"%09d\n" % number for number in range(6553))
BLOCKS = 800 if "LARGE" in os.environ else 1  # 50 MB take a while
LARGE = b"".join(BLOCK[at:] + BLOCK[:at] for at in range(BLOCKS))
PLACEMENTS = (RouteType.sync, RouteType.thread, RouteType.asnc, RouteType.pool)

def declare(path, make, methods="GET", **options):
    def plain(env, **args):
        return make(env, **args)

    async def coroutine(env, **args):
        return make(env, **args)

    for placement in PLACEMENTS:
        handler = coroutine if placement is RouteType.asnc else plain
        route(f"/{placement.name}{path}", placement, methods, **options)(handler)

declare("/text", lambda env: "text")
declare("/n/<n>", lambda env, n: n)
declare("/echo", lambda env: env.body, "POST")
declare("/size", lambda env: str(len(env.body)), "POST")
declare("/small", lambda env: str(len(env.body)), "POST", max_body_bytes=1000)
declare("/large", lambda env: LARGE)
declare("/raises", lambda env: 1 / 0)
declare("/none", lambda env: None)
declare("/gone", lambda env: Response("", 304))

@route("/slow/<n>", RouteType.asnc)
async def slow(env, n):
    await asyncio.sleep(0.05)
    return n

@route("/stream/<count:int>", RouteType.sync)
def stream(env, count):
    for number in range(count):
        yield f"{number} "

@route("/empty-chunks", RouteType.sync)
def empty_chunks(env):
    yield b""
    yield b"a"
    yield b""
    yield b"b"

@route("/broken", RouteType.sync)
def broken(env):
    yield "begin"
    raise ValueError("in the middle")

async def endless_asnc(env):
    while True:
        yield b"x" * 50_000

def endless(env):
    while True:
        yield b"x" * 50_000

route("/sync/endless", RouteType.sync)(endless)
route("/thread/endless", RouteType.thread)(endless)
route("/asnc/endless", RouteType.asnc)(endless_asnc)
route("/stream/endless", RouteType.stream)(endless)

def wait_for_file(name, placement):
    open(f"in-{placement}", "w").close()
    while not os.path.exists(name):
        time.sleep(0.005)
    return "done"

@route("/pool/wait/<name>")
def wait_in_pool(env, name):
    return wait_for_file(name, "pool")

@route("/thread/wait/<name>", RouteType.thread)
def wait_in_thread(env, name):
    return wait_for_file(name, "thread")

@route("/asnc/wait/<name>", RouteType.asnc)
async def wait_on_loop(env, name):
    open("in-asnc", "w").close()
    while not os.path.exists(name):
        await asyncio.sleep(0.005)
    return "done"

@route("/hang/<name>")
def hang(env, name):
    open(name, "w").close()
    threading.Event().wait()

with open("large.bin", "wb") as file:
    file.write(LARGE)
with open("small.txt", "w") as file:
    file.write("small")

@route("/file/<name>", RouteType.sync)
def send_file(env, name):
    return static_file(name, ".")

@route("/pool/file/<name>")
def send_file_from_pool(env, name):
    return static_file(name, ".")

@route("/state", RouteType.sync)
def state(env):
    return {"tasks": len(asyncio.all_tasks()), "threads": threading.active_count()}

if __name__ == "__main__":
    run()
"""
LARGE = {"LARGE": "yes"}  # with this in its environment
LARGE_BYTES = 65_530 * 800
PLACEMENTS = ["sync", "thread", "asnc", "pool"]


def request(
    target: str,
    method: str = "GET",
    *headers: str,
    body: bytes = b"",
    version: str = "1.1",
) -> bytes:
    """Return the bytes of a request; a length is added for a body."""
    lines = [f"{method} {target} HTTP/{version}", "Host: test", *headers]
    if body and not any(line.startswith("Transfer-Encoding") for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def last(target: str = "/sync/n/last") -> bytes:
    return request(target, "GET", "Connection: close")


class Tape(io.BytesIO):
    """Recorded bytes that http.client takes for a socket."""

    def makefile(self, mode: str) -> Tape:
        return self

    def close(self) -> None:
        pass


def answers(data: bytes, methods: Tuple[str, ...] = ()) -> List[Answer]:
    """Return all the responses that some bytes hold."""
    tape, found = Tape(data), []
    while tape.tell() < len(data):
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        response = http.client.HTTPResponse(tape, method=method)  # type: ignore[arg-type]
        response.begin()
        found.append(Answer(response))
    return found


def statuses(data: bytes) -> List[int]:
    return [answer.status for answer in answers(data)]


def read_answer(one: socket.socket, method: str = "GET") -> Answer:
    response = http.client.HTTPResponse(one, method=method)
    response.begin()
    return Answer(response)


def read_to_end(one: socket.socket) -> bytes:
    """Return what comes until an orderly end; `read_all` takes a reset for one."""
    return b"".join(iter(lambda: one.recv(65_536), b""))


def descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


server = server_fixture(PROGRAM, LOOPS, environment=LARGE)


# Connections that go on, and those that end -------------------------------------------


def test_a_connection_is_kept_alive(server: Server) -> None:
    with server.connect() as one:
        for number in range(5):
            one.sendall(request(f"/sync/n/{number}"))
            answer = read_answer(one)
            assert (answer.text, answer.headers["connection"]) == (str(number), None)
        one.sendall(last())
        rest = answers(read_all(one))
    assert [(a.text, a.headers["connection"]) for a in rest] == [("last", "close")]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_request_that_comes_byte_by_byte_is_answered(
    server: Server, placement: str
) -> None:
    with server.connect() as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        whole = request(f"/{placement}/echo", "POST", "Connection: close", body=b"body")
        for at in range(len(whole)):
            one.sendall(whole[at : at + 1])
        assert [a.text for a in answers(read_all(one))] == ["body"]


@pytest.mark.parametrize(
    "version, headers, expected",
    [
        ("1.0", [], None),
        ("1.0", ["Connection: close"], None),
        ("1.0", ["Connection: keep-alive"], "keep-alive"),
        ("1.1", ["Connection: keep-alive"], None),
        ("1.1", ["Connection: x, Close"], "close"),
    ],
)
def test_versions_and_connection_headers_decide_whether_it_goes_on(
    server: Server, version: str, headers: List[str], expected: Optional[str]
) -> None:
    first = request("/sync/text", "GET", *headers, version=version)
    got = answers(server.raw(first + last()))
    goes_on = expected != "close" and (version == "1.1" or bool(expected))
    assert [answer.text for answer in got] == ["text", "last"][: 1 + goes_on]
    if goes_on:
        assert got[0].headers["connection"] == expected
    else:
        assert got[0].headers["connection"] in ("close", None)


@pytest.mark.parametrize("half_close", [False, True])
@pytest.mark.parametrize("count", [3, 50, 500])
def test_pipelined_requests_are_answered_in_order(
    server: Server, count: int, half_close: bool
) -> None:
    numbers = [str(number) for number in range(count)]
    whole = request("/slow/first") + b"".join(request(f"/sync/n/{n}") for n in numbers)
    whole += b"" if half_close else last()
    got = [answer.text for answer in answers(server.raw(whole, half_close))]
    assert got == ["first", *numbers] + ([] if half_close else ["last"])


def test_pipelined_requests_beyond_what_is_read_ahead_are_answered(
    server: Server,
) -> None:
    # The bound is met in the middle of a head: reading has to go on all the same.
    padding = "X: " + "x" * 300
    whole = request("/slow/first")
    whole += b"".join(request(f"/sync/n/{n}", "GET", padding) for n in range(1000))
    got = [answer.text for answer in answers(server.raw(whole + last()))]
    assert got == ["first", *(str(n) for n in range(1000)), "last"]


def test_pipelined_requests_are_answered_in_order_across_placements(
    server: Server,
) -> None:
    paths = ["/slow/0"] + [f"/{p}/n/{i}" for i in range(1, 6) for p in PLACEMENTS]
    whole = b"".join(map(request, paths))
    got = [answer.text for answer in answers(server.raw(whole + last()))]
    assert got == [path.rpartition("/")[2] for path in paths] + ["last"]


@pytest.mark.parametrize("count", [1, 2, 40])
def test_good_requests_ahead_of_a_bad_one_are_answered(
    server: Server, count: int
) -> None:
    good = request("/slow/0") + request("/sync/text") * (count - 1)
    got = server.raw(good + b"GET /x HTTP/1.1\r\nno colon\r\n\r\n" + last())
    assert statuses(got) == [200] * count + [400]


def test_empty_lines_between_requests_do_not_matter(server: Server) -> None:
    whole = b"\r\n" + request("/sync/text") + b"\r\n\r\n" + last()
    assert statuses(server.raw(whole)) == [200, 200]


# Bodies in ----------------------------------------------------------------------------

CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    "body, expected",
    [
        (b"0\r\n\r\n", b""),
        (b"1\r\na\r\n0\r\n\r\n", b"a"),
        (b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
        (b'3;x=1;y="q\\"s"\r\nabc\r\n000\r\nTrailer: x\r\n\r\n', b"abc"),
    ],
)
def test_a_chunked_body_is_joined(
    server: Server, placement: str, body: bytes, expected: bytes
) -> None:
    whole = request(f"/{placement}/echo", "POST", CHUNKED, body=body)
    got = answers(server.raw(whole + last()))
    assert [answer.body for answer in got] == [expected, b"last"]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_body_of_the_largest_size_is_taken_and_a_larger_one_refused(
    server: Server, placement: str
) -> None:
    megabytes = 16 * 1024 * 1024
    answer = server.request("POST", f"/{placement}/size", b"x" * megabytes)
    assert (answer.status, answer.text) == (200, str(megabytes))
    answer = server.request("POST", f"/{placement}/size", b"x" * (megabytes + 1))
    assert (answer.status, answer.headers["connection"]) == (413, "close")


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_chunked_body_over_the_limit_of_its_route_is_refused(
    server: Server, placement: str
) -> None:
    body = b"100\r\n" + b"x" * 256 + b"\r\n"
    whole = request(f"/{placement}/small", "POST", CHUNKED, body=body * 10)
    assert statuses(server.raw(whole + b"0\r\n\r\n" + last())) == [413]


@pytest.mark.parametrize("length", ["Content-Length: 10", CHUNKED])
def test_a_body_that_is_cut_short_is_never_handed_over(
    server: Server, length: str
) -> None:
    whole = request("/sync/echo", "POST", length) + b"5\r\nabc"
    assert statuses(server.raw(whole, half_close=True)) == [400]


def test_the_go_ahead_is_sent_when_the_body_is_wanted(server: Server) -> None:
    head = request("/pool/echo", "POST", "Expect: 100-continue", "Content-Length: 4")
    with server.connect() as one:
        for _ in range(2):
            one.sendall(head)
            assert read_until(one, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            one.sendall(b"body")
            assert read_answer(one).text == "body"


@pytest.mark.parametrize(
    "method, target, status",
    [("POST", "/none", 404), ("PUT", "/sync/echo", 405), ("POST", "/sync/small", 413)],
)
def test_a_refusal_takes_the_place_of_the_go_ahead(
    server: Server, method: str, target: str, status: int
) -> None:
    head = request(target, method, "Expect: 100-continue", "Content-Length: 2000")
    # The client may send the body or not; none of it may become a request.
    for sent in (b"", last() * 30):
        with server.connect() as one:
            one.sendall(head)
            got = read_until(one, b"</html>\n")
            assert got.startswith(b"HTTP/1.1 %d " % status)
            one.sendall(sent)
            one.shutdown(socket.SHUT_WR)
            assert read_all(one) == b""


def test_http_1_0_knows_no_go_ahead(server: Server) -> None:
    whole = request(
        "/sync/echo", "POST", "Expect: 100-continue", body=b"body", version="1.0"
    )
    assert server.raw(whole).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("method, target", [("POST", "/none"), ("PUT", "/sync/echo")])
def test_a_small_unread_body_is_dropped_and_the_connection_goes_on(
    server: Server, method: str, target: str
) -> None:
    refused = request(target, method, body=request("/sync/text") * 20)
    got = answers(server.raw(refused + last()))
    assert [answer.status for answer in got] == [404 if method == "POST" else 405, 200]
    assert got[1].text == "last"


@pytest.mark.parametrize(
    "method, target, status",
    [("POST", "/none", 404), ("PUT", "/sync/echo", 405), ("POST", "/sync/small", 413)],
)
@pytest.mark.parametrize("size", [70_000, 300_000, 3_000_000])
def test_a_refusal_reaches_a_client_that_sends_its_whole_body_first(
    server: Server, method: str, target: str, status: int, size: int
) -> None:
    body = (last() * (size // 30))[:size]
    whole = request(target, method, body=body)
    with server.connect() as one:
        one.sendall(whole)
        got = answers(read_all(one))
    assert [(a.status, a.headers["connection"]) for a in got] == [(status, "close")]


@pytest.mark.parametrize(
    "body", [b"zz\r\n", b"5\r\nhello!\r\n", b"1\r\na\r\n0\r\nbad\r\n"]
)
def test_a_malformed_body_that_nobody_reads_ends_the_connection(
    server: Server, body: bytes
) -> None:
    whole = request("/none", "POST", CHUNKED, body=body)
    assert statuses(server.raw(whole + last())) == [404]


# What is no request -------------------------------------------------------------------

LINE = "x" * 8200


@pytest.mark.parametrize(
    "data, status",
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (request("/", "GET", "Host: b"), 400),
        (request("/", "POST", "Content-Length: 1", "Content-Length: 2"), 400),
        (request("/", "POST", "Content-Length: 1", CHUNKED), 400),
        (request("/", "POST", "Content-Length: +1"), 400),
        (request("/sync/echo", "POST", CHUNKED) + b"zz\r\n", 400),
        (request("/sync/echo", "POST", CHUNKED) + b"3\r\nabcd\r\n", 400),
        (request("/" + LINE), 414),
        (request("/", "GET", f"A: {LINE}"), 431),
        (request("/", "GET", *(f"A{n}: b" for n in range(120))), 431),
        (request("/", "POST", "Transfer-Encoding: gzip, chunked"), 501),
        (request("/", version="2.0"), 505),
    ],
)
def test_what_is_no_request_is_refused_and_nothing_behind_it_is_answered(
    server: Server, data: bytes, status: int
) -> None:
    got = answers(server.raw(data + last() * 3))
    assert [(a.status, a.headers["connection"]) for a in got] == [(status, "close")]


TAKES_ALL = """
from pixie_web import RouteType, route, run

@route(["/", "/<rest:path>"], RouteType.sync, ["GET", "POST", "PUT", "DELETE", "PATCH"])
def take(env, rest=""):
    return env.body

run()
"""


def gunicorn_cases() -> List[Dict[str, Any]]:
    path = Path(__file__).parents[3] / "shared/data/gunicorn-requests.json"
    if not path.exists():
        return []
    cases: List[Dict[str, Any]] = json.loads(path.read_text())["cases"]
    return cases


GUNICORN_CASES = gunicorn_cases()
GUNICORN_LIMITS = {
    "limit_request_line": "max_request_line_bytes",
    "limit_request_fields": "max_headers",
    "limit_request_field_size": "max_header_line_bytes",
}
GUNICORN_DEFAULTS = [
    ("max_header_line_bytes", 8190),
    ("max_headers", 100),
    ("max_request_line_bytes", 4094),
]
# Where the verdict differs from the one in gunicorn's tests, and why.
NO_HOST = """
    valid/004 valid/005 valid/006 valid/007 valid/009 valid/010 valid/011 valid/012
    valid/013 valid/014 valid/018 valid/021 valid/022 valid/023 valid/025 valid/025_line
    valid/028 valid/029 valid/030 valid/031 valid/031compat valid/031compat2 valid/100
"""
REFUSED_HERE = [
    # RFC 9112 section 3.2: "A server MUST respond with a 400 (Bad Request) status code
    # to any HTTP/1.1 request message that lacks a Host header field".
    NO_HOST,
    # RFC 9112 section 3.2: a target is made of RFC 3986's characters, which are ASCII.
    "valid/027",
    # RFC 9112 section 8: "A message body that uses a valid Content-Length is incomplete
    # if the size of the message body received (in octets) is less than the value
    # given".
    "valid/099",
    # RFC 9112 section 5.2: "A server that receives an obs-fold in a request message
    # [...] MUST either reject the message by sending a 400 (Bad Request) [...] or
    # replace".
    "valid/compat_obs_fold valid/compat_obs_fold_huge",
    # RFC 9112 section 6.1: "A server that receives a request message with a transfer
    # coding it does not understand SHOULD respond with 501 (Not Implemented)."
    "valid/rfc9112_smuggle_gzip_chunked_01",
    "valid/rfc9112_smuggle_te_identity_chunked_01",
    # RFC 9110 section 4.2.4: "a recipient SHOULD parse for userinfo and treat its
    # presence as an error".
    "valid/rfc9112_target_absolute_userinfo_01",
    # RFC 9110 section 9.3.6: "Most origin servers do not implement CONNECT."
    "valid/rfc9112_target_authority_connect_01 valid/rfc9112_target_authority_ipv6_01",
    # No RFC: the PROXY protocol is not spoken.
    "valid/pp_01 valid/pp_02 valid/pp_04 valid/pp_05",
]
ACCEPTED_HERE = [
    # RFC 9110 section 6.5.1: a trailer field that may not be one is ignored.
    "invalid/rfc9110_trailer_forbidden_cl_01 invalid/rfc9110_trailer_forbidden_host_01",
    "invalid/rfc9110_trailer_forbidden_te_01",
    # RFC 9110 section 5.1: a field name is a token, and _ a character of tokens.
    "invalid/040",
    # RFC 9110 section 8.3: of two Content-Type lines "recipients often attempt to
    # handle this error by using the last syntactically valid member of the list".
    "invalid/041",
    # RFC 9110 section 5.4: no limit is defined; here a line's CR LF does not count.
    "invalid/008 invalid/012 invalid/limit_header_default_01",
]


def gunicorn_settings(case: Dict[str, Any]) -> Tuple[Tuple[str, int], ...]:
    """Return the limits that a case is meant for, in this server's names."""
    settings = dict(GUNICORN_DEFAULTS)
    for entry in case["config"]:
        name, value = ast.literal_eval(f"({entry})")
        if name in GUNICORN_LIMITS and value:
            settings[GUNICORN_LIMITS[name]] = value
    return tuple(sorted(settings.items()))


@pytest.mark.skipif(not GUNICORN_CASES, reason="the collection of requests is not here")
@pytest.mark.parametrize("loop", LOOPS)
def test_requests_that_gunicorn_collected_get_the_same_verdict(loop: str) -> None:
    got = {}
    for settings in sorted(set(map(gunicorn_settings, GUNICORN_CASES))):
        with serve(TAKES_ALL, loop=loop, access_log=False, **dict(settings)) as server:
            for case in GUNICORN_CASES:
                if gunicorn_settings(case) == settings:
                    sent = base64.b64decode(case["bytes_b64"])
                    data = server.raw(sent, half_close=True)
                    refused = any(status not in (200, 204) for status in statuses(data))
                    verdict = "invalid" if refused or not data else "valid"
                    if verdict != case["kind"]:
                        got[case["id"]] = verdict
    expected = dict.fromkeys(" ".join(REFUSED_HERE).split(), "invalid")
    expected.update(dict.fromkeys(" ".join(ACCEPTED_HERE).split(), "valid"))
    assert got == expected


# Answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [f"/{p}/{what}" for p in PLACEMENTS for what in ("text", "none", "gone", "raises")]
    + ["/stream/3", "/file/small.txt", "/pool/file/small.txt", "/absent"],
)
def test_head_gets_the_headers_of_get_and_no_body(server: Server, target: str) -> None:
    whole = request(target, "HEAD") + request(target) + last()
    head, get, _ = answers(server.raw(whole), ("HEAD", "GET"))
    assert head.body == b""
    assert head.status == get.status
    for one in (head, get):
        del one.headers["Date"]
    assert head.headers.items() == get.headers.items()


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("what", ["none", "gone"])
def test_an_answer_without_content_is_a_head_alone(
    server: Server, placement: str, what: str
) -> None:
    got = server.raw(request(f"/{placement}/{what}") + last())
    head, _, rest = got.partition(b"\r\n\r\n")
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Transfer-Encoding" not in head


def test_a_stream_is_chunked(server: Server) -> None:
    got = server.raw(request("/stream/3") + last())
    body = got.partition(b"\r\n\r\n")[2]
    chunks, _, rest = body.partition(b"HTTP/1.1 200 OK\r\n")
    assert chunks == b"2\r\n0 \r\n2\r\n1 \r\n2\r\n2 \r\n0\r\n\r\n"
    assert rest.endswith(b"\r\n\r\nlast")


def test_a_stream_to_http_1_0_ends_with_the_connection(server: Server) -> None:
    whole = request("/stream/3", "GET", "Connection: keep-alive", version="1.0")
    got = server.raw(whole)
    head, _, body = got.partition(b"\r\n\r\n")
    assert (body, b"Transfer-Encoding" in head) == (b"0 1 2 ", False)


def test_an_empty_chunk_does_not_end_a_stream(server: Server) -> None:
    body = server.raw(request("/empty-chunks", "GET", "Connection: close"))
    assert body.partition(b"\r\n\r\n")[2] == b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"


def test_a_stream_that_fails_never_looks_complete(server: Server) -> None:
    got = server.raw(request("/broken") + last())
    assert got.endswith(b"\r\n\r\n5\r\nbegin\r\n")
    with server.connect() as one:
        one.sendall(request("/broken", version="1.0"))
        # Without a length and without chunks only a reset tells.
        with pytest.raises(ConnectionResetError):
            read_to_end(one)


@pytest.mark.parametrize(
    "target",
    [f"/{p}/large" for p in PLACEMENTS] + ["/file/large.bin", "/pool/file/large.bin"],
)
def test_fifty_megabytes_arrive_as_they_were_sent(server: Server, target: str) -> None:
    block = b"".join(b"%09d\n" % number for number in range(6553))
    expected, got, size = hashlib.sha1(), hashlib.sha1(), 0
    for at in range(800):
        expected.update(block[at:] + block[:at])
    with server.connect() as one:
        one.sendall(request(target) + last())
        response = http.client.HTTPResponse(one)
        response.begin()
        for piece in iter(lambda: response.read(262_144), b""):
            got.update(piece)
            size += len(piece)
    assert (response.status, size) == (200, LARGE_BYTES)
    assert got.digest() == expected.digest()


def test_the_connection_goes_on_after_a_file(server: Server) -> None:
    ranged = request("/file/large.bin", "GET", "Range: bytes=30000000-30999999")
    with server.connect() as one:
        for _ in range(3):
            one.sendall(ranged)
            assert len(read_answer(one).body) == 1_000_000
        one.sendall(request("/file/small.txt") + last())
        assert [answer.text for answer in answers(read_all(one))] == ["small", "last"]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_client_that_will_send_no_more_still_gets_its_answer(
    server: Server, placement: str
) -> None:
    for target in ("/slow/a", f"/{placement}/n/a", f"/{placement}/n/a"):
        got = answers(server.raw(request(target), half_close=True))
        assert [answer.text for answer in got] == ["a"]
    whole = request(f"/{placement}/echo", "POST", body=b"x" * 100_000)
    assert len(answers(server.raw(whole, half_close=True))[0].body) == 100_000


# Clients that leave -------------------------------------------------------------------

STAGES = [
    b"",
    b"GET /sync/te",
    request("/sync/text")[:-4],
    request("/sync/echo", "POST", "Content-Length: 1000"),
    request("/asnc/echo", "POST", "Content-Length: 1000") + b"x" * 500,
    request("/pool/echo", "POST", CHUNKED) + b"5\r\nab",
    request("/pool/echo", "POST", "Expect: 100-continue", "Content-Length: 10"),
    b"no request at all\r\n\r\n",
    request("/none", "POST", "Content-Length: 300000") + b"x" * 1000,
    *(request(f"/{placement}/text") for placement in PLACEMENTS),
    *(request(f"/{placement}/large") for placement in PLACEMENTS),
    *(request(f"/{where}/endless") for where in ("sync", "thread", "asnc", "stream")),
    request("/file/large.bin"),
    request("/slow/a") + request("/sync/text") * 100,
    request("/slow/a") * 3 + request("/stream/3") * 3,
]


@pytest.mark.parametrize("loop", LOOPS)
def test_clients_that_leave_at_any_stage_leave_nothing_behind(loop: str) -> None:
    settings = {"worker_idle_seconds": 0, "environment": LARGE}
    with serve(PROGRAM, loop=loop, **settings) as server:
        for path in ("/state", "/thread/text", "/pool/text"):
            server.get(path)
        tasks = server.get("/state").json["tasks"]
        before = descriptors(server)
        for stage in STAGES * (20 if os.environ.get("PIXIE_LONG") else 3):
            for read_first in (False, True):
                for leave in (reset, socket.socket.close):
                    with server.connect() as one:
                        one.sendall(stage)
                        if read_first and stage.endswith(b"\r\n\r\n"):
                            one.settimeout(0.02)
                            try:
                                one.recv(100)
                            except socket.timeout:
                                pass
                        leave(one)
        wait_for(lambda: descriptors(server) <= before, "the descriptors come back")
        wait_for(lambda: server.get("/state").json["tasks"] <= tasks, "the tasks end")
        for placement in PLACEMENTS:
            assert server.get(f"/{placement}/text").text == "text"
    assert "Traceback" not in server.log


# Time ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_slow_and_idle_clients_are_sent_away(loop: str) -> None:
    names = ["head_seconds", "body_idle_seconds", "keep_alive_seconds"]
    limits = dict.fromkeys([*names, "linger_seconds"], 0.5)
    table = [
        # What is sent, and the statuses that come before the connection closes.
        (b"", []),
        (b"\r\n\r\n", []),
        (b"GET / HT", [408]),
        (request("/sync/text")[:-2], [408]),
        (request("/sync/text"), [200]),
        (request("/sync/text") + b"GET", [200, 408]),
        (request("/sync/echo", "POST", "Content-Length: 9") + b"abc", [408]),
        (request("/pool/echo", "POST", CHUNKED) + b"5\r\nab", [408]),
        (request("/none", "POST", "Content-Length: 9") + b"abc", [404]),
        (b"junk\r\n\r\n", [400]),
    ]
    with serve(PROGRAM, loop=loop, **limits) as server:
        server.get("/sync/text")  # libuv opens /dev/null with its first stream
        before = descriptors(server)
        with ExitStack() as stack:
            connections = []
            for sent, _ in table:  # at once: their time begins when they connect
                connections.append(stack.enter_context(server.connect()))
                connections[-1].sendall(sent)
            got = [statuses(read_all(one)) for one in connections]
            assert got == [expected for _, expected in table]
            # Also where the client leaves its side open.
            wait_for(lambda: descriptors(server) <= before, "the server closes")
        assert server.get("/sync/text").status == 200
    assert "Traceback" not in server.log


@pytest.mark.parametrize("loop", LOOPS)
def test_a_head_that_drips_in_gets_no_more_time_than_another(loop: str) -> None:
    with serve(PROGRAM, loop=loop, head_seconds=0.3) as server, server.connect() as one:
        one.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert drip(one).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_does_not_read_is_cut_off_and_costs_little(loop: str) -> None:
    limits = {"send_idle_seconds": 1, "worker_idle_seconds": 0, "workers": 1}
    with serve(PROGRAM, loop=loop, environment=LARGE, **limits) as server:
        targets = [f"/{name}/endless" for name in ("sync", "thread", "asnc", "stream")]
        targets += ["/file/large.bin", "/pool/file/large.bin", "/pool/large"]
        server.get("/pool/text")
        before, resident = descriptors(server), resident_bytes(server.pid)
        with ExitStack() as stack:
            connections = []
            for target in targets:
                one = stack.enter_context(server.connect(receive_buffer_bytes=4096))
                one.sendall(request(target))
                connections.append(one)
            wait_for(lambda: descriptors(server) >= before + len(targets), "all run")
            wait_for(lambda: descriptors(server) <= before, "all are cut off")
            for one in connections:  # also from what the kernel held for it
                with pytest.raises(ConnectionResetError):
                    deque(iter(partial(one.recv, 65_536), b""))
            assert resident_bytes(server.pid) - resident < 24_000_000
            assert server.get("/pool/text").text == "text"
    assert "Traceback" not in server.log


@pytest.mark.parametrize("loop", LOOPS)
def test_clients_that_read_slowly_but_steadily_get_everything(loop: str) -> None:
    with ExitStack() as stack:
        settings = {"send_idle_seconds": 1, "environment": LARGE}
        server = stack.enter_context(serve(PROGRAM, loop=loop, **settings))
        connections = []
        for target in ("/sync/large", "/file/large.bin", "/pool/large"):
            one = stack.enter_context(server.connect(receive_buffer_bytes=65_536))
            one.sendall(request(target, "GET", "Connection: close"))
            connections.append(one)
        sizes, until = dict.fromkeys(connections, 0), time.monotonic() + 2.5
        while connections:
            slowly = time.monotonic() < until  # longer than the limit
            for one in select.select(connections, [], [], 30)[0]:
                part = one.recv(32_768 if slowly else 262_144)
                sizes[one] += len(part)
                if not part:
                    connections.remove(one)
            time.sleep(0.01 if slowly else 0)
        assert [size > LARGE_BYTES for size in sizes.values()] == [True, True, True]


# Starting and leaving -----------------------------------------------------------------


def refuses(server: Server) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), 5).close()
    except OSError:
        return True
    return False


@contextmanager
def waiting(server: Server, target: str) -> Iterator[socket.socket]:
    """Send a request whose handler waits for a file, and do not read the answer."""
    with server.connect() as one:
        one.sendall(request("/sync/text"))
        assert read_answer(one).status == 200
        one.sendall(request(target))
        yield one


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_end(loop: str, number: int) -> None:
    with serve(PROGRAM, loop=loop) as server:
        wait_for(lambda: len(children(server.pid)) == 3, "a zygote and two workers")
        below = children(server.pid)
        cwd = Path(os.readlink(f"/proc/{server.pid}/cwd"))
        with waiting(server, "/sync/text") as idle, waiting(
            server, "/pool/wait/go"
        ) as pool, waiting(server, "/thread/wait/go") as thread, waiting(
            server, "/asnc/wait/go"
        ) as asnc:
            assert read_answer(idle).status == 200
            for placement in ("pool", "thread", "asnc"):
                wait_for((cwd / f"in-{placement}").exists, "its handler runs")
            os.kill(server.pid, number)
            wait_for(lambda: refuses(server), "the listener is closed")
            assert idle.recv(1) == b""
            # A supervisor may send its signal to every process.
            for pid in below:
                os.kill(pid, number)
            (cwd / "go").touch()
            for one in (pool, thread, asnc):
                (answer,) = answers(read_all(one))
                assert (answer.text, answer.headers["connection"]) == ("done", "close")
        assert server.wait() == 0
        wait_for(lambda: not any(map(process_is_alive, below)), "all processes end")
    assert "Traceback" not in server.log


@pytest.mark.parametrize("loop", LOOPS)
def test_a_second_signal_leaves_at_once(loop: str) -> None:
    with serve(PROGRAM, loop=loop, drain_seconds=1000) as server:
        below = children(server.pid)
        cwd = Path(os.readlink(f"/proc/{server.pid}/cwd"))
        with waiting(server, "/hang/in-hang") as one, waiting(
            server, "/asnc/wait/never"
        ), waiting(server, "/thread/wait/never"), waiting(server, "/stream/endless"):
            for name in ("in-hang", "in-asnc", "in-thread"):
                wait_for((cwd / name).exists, "its handler runs")
            os.kill(server.pid, signal.SIGTERM)
            wait_for(lambda: refuses(server), "the listener is closed")
            assert process_is_alive(server.pid)
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait() == 0
            assert read_all(one) == b""
        wait_for(lambda: not any(map(process_is_alive, below)), "all processes end")
    assert "Traceback" not in server.log


def test_what_outlives_the_drain_is_cut_off() -> None:
    with serve(PROGRAM, drain_seconds=0.2) as server:
        below = children(server.pid)
        cwd = Path(os.readlink(f"/proc/{server.pid}/cwd"))
        with waiting(server, "/asnc/wait/never") as one:
            wait_for((cwd / "in-asnc").exists, "its handler runs")
            assert server.stop() == 0
            assert read_all(one) == b""
        wait_for(lambda: not any(map(process_is_alive, below)), "all processes end")
    assert "Traceback" not in server.log


def start_and_fail(directory: Path, **settings: str) -> Tuple[int, str]:
    path = directory / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    environment = {f"PIXIE_{name.upper()}": value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=str(directory),
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    return done.returncode, done.stdout.decode()


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = str(taken.getsockname()[1])
        status, text = start_and_fail(tmp_path, host="127.0.0.1", port=port)
    assert status == 1
    where = f"127.0.0.1:{port}"
    assert text == f"pixie_web: can't listen on {where}: Address already in use\n"


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "::ffff:1:2:3"])
def test_an_address_that_is_not_this_machines_is_one_clear_line(
    tmp_path: Path, host: str
) -> None:
    status, text = start_and_fail(tmp_path, host=host, port="0")
    assert status == 1
    line = rf"pixie_web: can't listen on .*{re.escape(host)}.*: .+\n"
    assert re.fullmatch(line, text)


LIMITED = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
from pixie_web import app, route, static_file

@app.on_start
def take_descriptors():
    app.taken = [open(os.devnull) for _ in range({taken})]

@route("/file", "sync")
def file(env):
    return static_file("large.unknown", os.getcwd())

@route("/large")
def large(env):
    return b"x" * 1_000_000
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("taken", [0, 30])
def test_running_out_of_connections_or_descriptors_does_not_spin(
    loop: str, taken: int
) -> None:
    limit = LIMITED.format(limit=64, taken=taken)
    with serve(limit + PROGRAM, loop=loop) as server:
        server.get("/pool/text")
        before = descriptors(server)
        with ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(server.connect())
            full = 60 if taken else before + 20
            wait_for(lambda: descriptors(server) >= full, "no more are accepted")
            wall, cpu = time.monotonic(), cpu_seconds(server.pid)
            wait_for(lambda: time.monotonic() > wall + 1.2, "time passes")
            cpu = cpu_seconds(server.pid) - cpu
            assert cpu < (time.monotonic() - wall) / 4
            assert len(server.log) < 20_000
            assert taken or descriptors(server) < 60
        assert wait_for(lambda: can_be_asked(server), "connections are accepted again")
    assert ("can't accept" in server.log) == bool(taken)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("loop", LOOPS)
def test_more_connections_than_descriptors_are_not_taken(loop: str) -> None:
    # What is left is for answers: a file, and what a worker has put into one.
    with serve(LIMITED.format(limit=200, taken=0) + PROGRAM, max_connections=1000) as (
        server
    ), ExitStack() as stack:
        line = server.wait_for_log(" WARNING max_connections is ")
        found = re.search(r"is (\d+) and not 1000: .* open only (\d+) more files", line)
        assert found is not None
        most, left = map(int, found.groups())
        assert 60 < most < left - 64
        cwd = Path(os.readlink(f"/proc/{server.pid}/cwd"))
        (cwd / "large.unknown").write_bytes(b"y" * 1_000_000)
        before = descriptors(server)
        asking = [stack.enter_context(server.connect()) for _ in range(most)]
        wait_for(lambda: descriptors(server) >= before + most, "all are accepted")
        for one, path in zip(asking, ("/file", "/large", "/file")):
            one.sendall(request(path))
            answer = read_answer(one)
            assert (answer.status, len(answer.body)) == (200, 1_000_000)


def can_be_asked(server: Server) -> bool:
    try:
        return server.get("/pool/text").status == 200
    except OSError:
        return False


@pytest.mark.parametrize("loop", LOOPS)
def test_an_idle_connection_makes_room_for_a_new_one(loop: str) -> None:
    with serve(PROGRAM, loop=loop, max_connections=3) as server, ExitStack() as stack:
        busy, first, second = (stack.enter_context(server.connect()) for _ in range(3))
        for one in (first, second):
            one.sendall(request("/sync/text"))
            assert read_answer(one).status == 200
        busy.sendall(request("/asnc/wait/go"))
        cwd = Path(os.readlink(f"/proc/{server.pid}/cwd"))
        wait_for((cwd / "in-asnc").exists, "its handler runs")
        assert server.get("/sync/text").text == "text"  # in the place of the first
        assert first.recv(1) == b""
        second.sendall(request("/sync/text"))
        assert read_answer(second).status == 200
        (cwd / "go").touch()
        assert read_answer(busy).text == "done"


@pytest.mark.parametrize("loop", LOOPS)
def test_at_the_limit_the_next_one_waits_for_its_turn(loop: str) -> None:
    # And no longer: it need not wait for the next look at the line, an hour later here.
    listeners = module_of("server.listeners")
    patient = f"import {listeners}\n{listeners}.ACCEPT_PAUSE_SECONDS = 3600\n"
    with serve(patient + PROGRAM, loop=loop, max_connections=1) as server:
        cwd = Path(os.readlink(f"/proc/{server.pid}/cwd"))
        with waiting(server, "/asnc/wait/go") as one, server.connect() as next_one:
            wait_for((cwd / "in-asnc").exists, "its handler runs")
            next_one.sendall(request("/sync/text"))
            (cwd / "go").touch()
            assert read_answer(one).text == "done"
            assert read_answer(next_one).text == "text"
