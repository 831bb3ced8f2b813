"""The placement test: a handler gives the same bytes wherever its route says it runs.

`programs/placement.py` declares one table of handlers in every placement that can hold
them. Here each is asked over a socket, and all bytes that come back are compared: with
what is written below, and with each other. Only the Date header may differ.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import os
import re
import socket
from http.client import IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import (
    Any,
    Awaitable,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
)

import http2_wire
import pytest
from support import (
    LOOPS,
    PATIENCE_SECONDS,
    STARTS,
    Server,
    read_all,
    serve,
    server_fixture,
    wait_for,
)

from pixie_web import (
    ClientDisconnected,
    HTTPError,
    Pixie,
    Request,
    Response,
    RouteError,
    RouteType,
)
from pixie_web.executors.base import (
    BusyError,
    Executor,
    Gate,
    Resources,
    Route,
    handler_kind,
)
from pixie_web.executors.dispatch import EXECUTORS, check_kind
from pixie_web.protocol.http11 import parse_head
from pixie_web.requests import Disconnect
from pixie_web.responses import error_page

PROGRAM = Path(__file__).parents[1] / "programs" / "placement.py"
PAGE = "<!doctype html><p>größe</p>".encode()
HTML = "Content-Type: text/html; charset=utf-8"
TEXT = "Content-Type: text/plain"
OCTETS = "Content-Type: application/octet-stream"
JSON = "Content-Type: application/json"
EPOCH = "Thu, 01 Jan 1970 00:00:00 GMT"
CHUNK = re.compile(rb"([0-9a-f]+)\r\n")
DATE = re.compile(
    rb"(?m)^Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} [\d:]{8} GMT\r\n"
)

# What comes back ----------------------------------------------------------------------


def plain(status: str, *lines: str, body: bytes = b"") -> bytes:
    """Return an answer whose length was known."""
    return whole(status, *lines, f"Content-Length: {len(body)}", body=body)


def whole(status: str, *lines: str, body: bytes = b"") -> bytes:
    """Return an answer as written, after which the connection closes."""
    head = "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""])
    return head.encode("latin-1") + body


def chunked(
    *lines: str, chunks: Tuple[bytes, ...] = (), status: str = "200 OK"
) -> bytes:
    """Return an answer in chunks."""
    return cut(*lines, chunks=chunks, status=status) + b"0\r\n\r\n"


def cut(*lines: str, chunks: Tuple[bytes, ...] = (), status: str = "200 OK") -> bytes:
    """Return an answer in chunks that broke off."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return whole(status, *lines, "Transfer-Encoding: chunked", body=body)


def failed(status: str, text: str = "", *lines: str) -> bytes:
    """Return an answer with an error page."""
    error = HTTPError(int(status[:3]), text)
    body = error_page(error).body
    assert isinstance(body, bytes)
    return plain(status, HTML, *lines, body=body)


def as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def found(value: object) -> bytes:
    """Return an answer of JSON."""
    return plain("200 OK", JSON, body=as_json(value))


def stamped(
    status: str, kind: str, handler: str, body: bytes, loop_type: str = "", **more: Any
) -> bytes:
    """Return an answer that has passed through all triggers."""
    lines = [f"Content-Type: {kind}"]
    lines += more.get("lines", [])
    lines += [f"X-Stamp: {handler}"]
    lines += more.get("cookies", [])
    lines += ["Set-Cookie: stamp=1; Path=/; HttpOnly; SameSite=Lax"]
    lines += [f"X-Loop: {loop_type or kind}"]
    lines += ["Set-Cookie: loop=1; Path=/; HttpOnly; SameSite=Lax"]
    return plain(status, *lines, body=body)


ERROR_500 = failed("500 Internal Server Error")


# What is asked ------------------------------------------------------------------------


class Ask(NamedTuple):
    """A request, and what it gets; None: only that all placements agree."""

    path: str
    expected: Optional[bytes]
    method: str = "GET"
    headers: Tuple[str, ...] = ()
    body: bytes = b""

    def request(self, placement: str, method: str = "", version: str = "1.1") -> bytes:
        """Return the bytes of the request, without what ends the connection."""
        lines = [f"{method or self.method} /{placement}{self.path} HTTP/{version}"]
        lines += ["Host: pixie.example", *self.headers]
        if self.body:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n"


def post(path: str, kind: str, body: bytes, expected: Optional[bytes]) -> Ask:
    return Ask(path, expected, "POST", (f"Content-Type: {kind}",), body)


URLENCODED = "application/x-www-form-urlencoded"
UPLOAD = os.urandom(16) * 20_000
MULTIPART = (
    b'--edge\r\nContent-Disposition: form-data; name="title"\r\n\r\ngr\xc3\xb6\xc3\x9fe'
    b'\r\n--edge\r\nContent-Disposition: form-data; name="small"; filename="a.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\nhello\r\n"
    b'--edge\r\nContent-Disposition: form-data; name="big"; filename="b.bin"\r\n\r\n'
    + UPLOAD
    + b"\r\n--edge--\r\n"
)
COOKIES = [
    "plain=1; Path=/; HttpOnly; SameSite=Lax",
    "text=%C3%BC%3B%20%22a%22%2Cb%0D%0A; Path=/; HttpOnly; SameSite=Lax",
    f"all=2; Max-Age=60; Expires={EPOCH}; Path=/a; Domain=b.example; HttpOnly; "
    "SameSite=Lax",
    "bare=3",
    "strict=4; Path=/; Secure; HttpOnly; SameSite=Strict",
    "cross=5; Path=/; Secure; HttpOnly; SameSite=None",
    "open=6; Path=/; HttpOnly; SameSite=Lax",
    "__Host-x=7; Path=/; Secure; HttpOnly; SameSite=Lax",
    f"old=; Max-Age=0; Expires={EPOCH}; Path=/b; HttpOnly; SameSite=Lax",
]

RETURNED = [
    Ask("/text", plain("200 OK", HTML, body="<p>größer</p>".encode())),
    Ask("/empty_text", plain("200 OK", HTML)),
    Ask("/octets", plain("200 OK", OCTETS, body=b"\x00\xff\r\n")),
    Ask("/octet_array", plain("200 OK", OCTETS, body=b"array")),
    Ask("/octet_view", plain("200 OK", OCTETS, body=b"view")),
    Ask(
        "/mapping",
        plain(
            "200 OK",
            JSON,
            body='{"ü":[1,2.5,null,true],"1":"</script>","half":"\\ud800"}'.encode(),
        ),
    ),
    Ask("/sequence", plain("200 OK", JSON, body=b'[1,"zwei"]')),
    Ask("/nothing", whole("204 No Content")),
    Ask("/pair", plain("201 Created", HTML, body=b"made")),
    Ask(
        "/triple",
        plain("201 Created", JSON, "Location: /made/1", "X-One: 1", body=b'{"made":1}'),
    ),
    Ask("/triple_of_pairs", plain("200 OK", "X-Two: 1", TEXT, body=b"x")),
    Ask("/pair_of_nothing", plain("404 Not Found")),
    Ask("/pair_of_response", plain("202 Accepted", TEXT, body=b"x")),
    Ask("/large", plain("200 OK", OCTETS, body=b"0123456789abcdef" * 65_536)),
    Ask(
        "/whole_response",
        plain(
            "203 Non-Authoritative Information",
            TEXT,
            *("X-A: 1", "x-a: 2", "X-C: 3"),
            body=b"body",
        ),
    ),
    Ask("/servers_headers", plain("200 OK", HTML, "Server: mine", body=b"x")),
    Ask(
        "/cookies",
        plain("200 OK", HTML, *(f"Set-Cookie: {line}" for line in COOKIES), body=b"x"),
    ),
    Ask("/shared_response", plain("200 OK", HTML, body=b"shared")),
    Ask("/unknown_status", plain("299 ", HTML, body=b"x")),
    Ask("/status/200", plain("200 OK", HTML, body=b"body")),
    Ask("/status/204", whole("204 No Content")),
    Ask("/status/205", plain("205 Reset Content", HTML)),
    Ask("/status/304", whole("304 Not Modified", "Content-Length: 4")),
    Ask("/status/404", plain("404 Not Found", HTML, body=b"body")),
    Ask("/status/500", plain("500 Internal Server Error", HTML, body=b"body")),
    Ask("/status/999", plain("999 ", HTML, body=b"body")),
    Ask("/status/204", whole("204 No Content"), "POST", body=b"x"),
    Ask("/status/100", ERROR_500),
    Ask("/status/1000", ERROR_500),
    Ask("/pair/204", whole("204 No Content")),
    Ask("/pair/304", whole("304 Not Modified", "Content-Length: 4")),
    Ask("/pair/199", ERROR_500),
]

FILES = [
    Ask("/file", None),
    Ask("/file", None, headers=("Range: bytes=2-8",)),
    Ask("/file", None, headers=("Range: bytes=0-1,4-5",)),
    Ask("/file", None, headers=("Range: bytes=900-",)),
    Ask("/file", None, headers=("If-Modified-Since: Fri, 31 Dec 9999 23:59:59 GMT",)),
    Ask("/file", None, headers=("If-Match: never",)),
    Ask("/file_download", None),
    Ask("/file_from_memory", None),
    Ask("/file_uncached", None),
    Ask("/file_with_status", None),
    Ask("/file_missing", failed("404 Not Found")),
    Ask("/file_outside", failed("404 Not Found")),
    Ask("/triggered_file", None),
]

STREAMS = [
    Ask("/chunks_of_text", chunked(HTML, chunks=(b"eins ", "zwö".encode()))),
    Ask("/chunks_of_octets", chunked(OCTETS, chunks=(b"\0", b"\1", b"\2"))),
    Ask(
        "/chunks_after_response",
        chunked(
            TEXT,
            "X-Stream: 1",
            "Set-Cookie: stream=1; Path=/; HttpOnly; SameSite=Lax",
            status="201 Created",
            chunks=(b"first ", b"second"),
        ),
    ),
    Ask(
        "/chunks_after_bare_response",
        chunked("Content-Type: text/csv", chunks=(b"a,b\n",)),
    ),
    Ask("/chunks_none", chunked()),
    Ask("/chunks_large", None),
    Ask("/chunks_fail_first", ERROR_500),
    Ask("/chunks_abort_first", failed("409 Conflict", "no stream")),
    Ask("/chunks_redirect_first", failed("303 See Other", "", "Location: /elsewhere")),
    Ask("/chunks_fail_later", cut(HTML, chunks=(b"one",))),
    Ask("/chunks_abort_later", cut(HTML, chunks=(b"one",))),
    Ask("/chunks_exit_later", cut(HTML, chunks=(b"one",))),
    Ask("/chunks_of_numbers", ERROR_500),
    Ask("/chunks_number_later", cut(HTML, chunks=(b"one",))),
    Ask("/chunks_half_character", cut(HTML, chunks=(b"one",))),
    Ask("/chunks_response_of_chunks", ERROR_500),
    Ask("/stream/204", whole("204 No Content")),
    Ask("/stream/404", chunked(HTML, status="404 Not Found", chunks=(b"one", b"two"))),
    Ask("/iterator_returned", chunked(HTML, chunks=(b"one", b"two"))),
    Ask(
        "/iterator_in_response",
        chunked(TEXT, "X-Iterator: 1", status="202 Accepted", chunks=(b"a", b"b")),
    ),
    Ask("/iterator_in_pair", chunked(HTML, status="201 Created", chunks=(b"1", b"2"))),
    Ask(
        "/iterator_of_response",
        chunked(HTML, status="418 I'm a teapot", chunks=(b"a", b"b")),
    ),
]

ERRORS = [
    Ask("/aborted", failed("418 I'm a teapot", "no <coffee>")),
    Ask("/aborted_bare", failed("403 Forbidden")),
    Ask(
        "/aborted_json",
        plain(
            "422 Unprocessable Content",
            JSON,
            body=as_json({"problem": ["<größe>", None]}),
        ),
    ),
    Ask("/own_attribute", ERROR_500),
    Ask("/set_status", ERROR_500),
    Ask("/aborted_handled", plain("410 Gone", HTML, body=b"gone: it went")),
    Ask(
        "/redirected",
        failed("303 See Other", "", "Location: /gr%C3%B6%C3%9Fe?a=b%20c&d=%20"),
    ),
    Ask(
        "/redirected_for_good",
        failed("308 Permanent Redirect", "", "Location: https://example.com/"),
    ),
    Ask("/redirected_badly", ERROR_500),
    Ask("/raised", ERROR_500),
    Ask("/raised_awkward", ERROR_500),
    Ask("/raised_handled", plain("409 Conflict", JSON, body=b'{"shop":"closed"}')),
    Ask(
        "/raised_handled_closer",
        plain("500 Internal Server Error", HTML, body=b"sold out: bread"),
    ),
    Ask("/raised_handler_fails", ERROR_500),
    Ask("/raised_stop_iteration", ERROR_500),
    Ask("/raised_cancelled", ERROR_500),
    Ask("/raised_generator_exit", ERROR_500),
    Ask("/raised_keyboard_interrupt", ERROR_500),
    Ask("/left", ERROR_500),
    Ask("/left_with_text", ERROR_500),
    Ask("/unusable", ERROR_500),
    Ask("/unusable_number", ERROR_500),
    Ask("/unusable_body", ERROR_500),
    Ask("/unusable_tuple", ERROR_500),
    Ask("/unusable_status", ERROR_500),
    Ask("/unusable_list", ERROR_500),
    Ask("/unusable_type", ERROR_500),
    Ask("/not_a_number", ERROR_500),
    Ask("/half_a_character", ERROR_500),
    Ask("/bad_header", ERROR_500),
    Ask("/bad_header_name", ERROR_500),
    Ask("/bad_content_type", ERROR_500),
    Ask("/bad_content_type_later", ERROR_500),
    Ask("/bad_hop_by_hop", ERROR_500),
    Ask("/bad_hop_by_hop_stream", ERROR_500),
    Ask("/bad_cookie", ERROR_500),
    Ask("/nowhere", failed("404 Not Found")),
    Ask("/request_json", failed("405 Method Not Allowed", "", "Allow: OPTIONS, POST")),
    Ask("/text", whole("204 No Content", "Allow: GET, HEAD, OPTIONS, POST"), "OPTIONS"),
    Ask("/too_slow", failed("504 Gateway Timeout", "The request took too long.")),
]

REQUESTS = [
    Ask(
        "/request_line?a=%C3%BC&b",
        found(
            ["GET", "/request_line", "a=%C3%BC&b", "HTTP/1.1", "http", "pixie.example"]
            + ["http://pixie.example/request_line?a=%C3%BC&b", "127.0.0.1"]
            + ["/request_line", False]
        ),
    ),
    Ask("/request_line", None, "PUT", body=b"x"),
    Ask(
        "/request_headers",
        found(
            [[["X-One", "1"], ["X-Two", "2"], ["X-Two", "ü"]], "1", None, ["2", "ü"]]
        ),
        headers=("X-One: 1", "X-Two:2", "X-Two:  ü  "),
    ),
    Ask(
        "/request_query?a=1&a=%C3%BC+b&n&n=7&%zz=%",
        found(
            [[["a", "1"], ["a", "ü b"], ["n", ""], ["n", "7"], ["%zz", "%"]]]
            + [["1", "ü b"], "none", 7]
        ),
    ),
    Ask("/request_query", found([[], [], "none", 0])),
    Ask(
        "/request_query?n=7&n=%3Cb%3E",
        failed("400 Bad Request", "The value 'n' is '<b>', no valid int."),
    ),
    Ask(
        "/request_missing",
        failed("400 Bad Request", "The request lacks the value 'missing'."),
    ),
    Ask(
        "/request_cookies",
        found([{"a": "1", "b": "ü;"}, "1", "default"]),
        headers=("Cookie: a=1; b=%C3%BC%3B", "Cookie: a=2"),
    ),
    post("/request_json", "application/json", b'{"a":[1]}', found([{"a": [1]}])),
    post("/request_json", "application/problem+json; x=y", b"null", found([None])),
    post(
        "/request_json",
        "text/plain",
        b"{}",
        failed(
            "415 Unsupported Media Type",
            "Send JSON, with Content-Type: application/json.",
            "Accept: application/json",
        ),
    ),
    post("/request_json", "application/json", b"{", None),
    post("/request_json", "application/json", b'{"a":NaN}', None),
    post("/request_json", "application/json", b"[" * 100_000, None),
    post(
        "/request_text",
        "text/plain",
        b"gr\xc3\xbcn",
        plain("200 OK", HTML, body=b"gr\xc3\xbcn"),
    ),
    post("/request_text", "text/plain", b"\xff", None),
    post("/request_text", "text/plain", b"", plain("200 OK", HTML)),
    post(
        "/request_body",
        "x/y",
        UPLOAD,
        plain(
            "200 OK",
            HTML,
            body=f"{hashlib.sha256(UPLOAD).hexdigest()} {len(UPLOAD)}".encode(),
        ),
    ),
    Ask(
        "/request_body",
        plain(
            "200 OK", HTML, body=hashlib.sha256(b"abcde").hexdigest().encode() + b" 5"
        ),
        "POST",
        (
            "Transfer-Encoding: chunked",
            "Connection: close",
            "",
            "2",
            "ab",
            "3",
            "cde",
            "0",
        ),
    ),
    post(
        "/request_form",
        URLENCODED,
        b"a=1&a=2&n=3",
        found([[["a", "1"], ["a", "2"], ["n", "3"]], 3, 0]),
    ),
    post("/request_form", "text/plain", b"a=1", found([[], None, 0])),
    post(
        "/request_form",
        URLENCODED,
        b"n=x",
        failed("400 Bad Request", "The value 'n' is 'x', no valid int."),
    ),
    post("/request_form", URLENCODED, b"&".join([b"a"] * 5000), None),
    post(
        "/request_files",
        "multipart/form-data; boundary=edge",
        MULTIPART,
        found(
            [
                [["title", "größe"]],
                [
                    [
                        "small",
                        "a.txt",
                        "text/plain",
                        5,
                        hashlib.sha256(b"hello").hexdigest(),
                    ],
                    ["big", "b.bin", "application/octet-stream", len(UPLOAD)]
                    + [hashlib.sha256(UPLOAD).hexdigest()],
                ],
            ]
        ),
    ),
    post("/request_files", "multipart/form-data; boundary=edge", MULTIPART[:-9], None),
    post("/request_files", "multipart/form-data", MULTIPART, None),
    post(
        "/request_limited",
        "x/y",
        b"0123456789",
        plain("200 OK", OCTETS, body=b"0123456789"),
    ),
    post("/request_limited", "x/y", b"0123456789a", None),
    Ask(
        "/wild/a%20b/-7/2.5e1/xy/42/p/q%2Fr/",
        found(["a b", -7, 25.0, "xy", 42, "p/q/r/", ["a", "n", "x", "r", "e", "p"]]),
    ),
    Ask("/wild/a/7/2.5/xy/43/p", failed("404 Not Found")),
    Ask("/wild/a/7/2.5/xyz/42/p", failed("404 Not Found")),
]

STAMPED_JSON = {"key": None, "token": [None, "größe", None]}
COOKIE_A = "Set-Cookie: a=b; Path=/; HttpOnly; SameSite=Lax"
TRIGGERS = [
    Ask(
        "/triggered",
        stamped(
            "200 OK",
            "application/json",
            "200 bytes",
            as_json([{"token": [None, "größe", None], "key": None}]),
            lines=["X-Handler: 1"],
            cookies=[COOKIE_A],
        ),
    ),
    *(
        Ask(path, None, headers=(header,))
        for path in (
            "/triggered",
            "/triggered_stream",
            "/triggered_file",
            "/triggered_error",
        )
        for header in (
            *("X-Key: yes", "X-Key: none", "X-Key: wrong", "X-Key: broken"),
            *("X-Token: yes", "X-Token: none", "X-Token: wrong", "X-Token: broken"),
            *("X-Replace: yes", "X-Replace: stream", "X-Replace: broken"),
            *("X-Type: new", "X-Type: replaced", "X-Type: stream", "X-Type: broken"),
        )
    ),
]

TABLE = [*RETURNED, *FILES, *STREAMS, *ERRORS, *REQUESTS, *TRIGGERS]


def title(ask: Ask) -> str:
    return " ".join([ask.method, ask.path, *ask.headers[:1], str(len(ask.body) or "")])


# The test -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    page = directory / "page.html"
    page.write_bytes(PAGE)
    os.utime(page, (1_000_000_000, 1_000_000_000))
    return directory


@pytest.fixture(scope="module")
def environment(files: Path) -> Dict[str, str]:
    return {"PLACEMENT_FILES": str(files)}


server = server_fixture(PROGRAM, LOOPS, environment="environment")


@pytest.fixture(scope="module")
def placements(files: Path) -> Dict[str, List[str]]:
    """Return the placements that hold each path of the program."""
    os.environ["PLACEMENT_FILES"] = str(files)
    names: Dict[str, Any] = {"__name__": "placement"}
    code = compile(PROGRAM.read_text(encoding="utf-8"), str(PROGRAM), "exec")
    exec(code, names)
    found: Dict[str, List[str]] = {}
    for prefix, application in names["app"]._mounts:
        for route in application.routes:
            found.setdefault(route.path, []).append(prefix.lstrip("/"))
    return found


def where(ask: Ask, placements: Dict[str, List[str]]) -> List[str]:
    """Return the placements to ask for a path; without a route, all but stream."""
    path = ask.path.partition("?")[0]
    for pattern, names in placements.items():
        literal = pattern.partition("<")[0]
        if path == pattern or (literal != pattern and path.startswith(literal)):
            return sorted(names)
    return ["asnc", "eager", "pool", "sync", "thread"]


def assert_same(answers: Dict[str, bytes]) -> bytes:
    """Return the bytes that all placements gave."""
    assert len(answers) >= 3
    first = next(iter(answers.values()))
    assert answers == dict.fromkeys(answers, first)
    return first


def without_date(data: bytes) -> bytes:
    return join_chunks(DATE.sub(b"", data))


def join_chunks(data: bytes) -> bytes:
    """Return answers with the chunks of each body joined.

    Where a chunk ends has no meaning (RFC 9112 section 7.1): pieces that come together
    from a worker leave main as one.
    """
    joined = b""
    while True:
        lines, chunked, rest = data.partition(b"Transfer-Encoding: chunked\r\n")
        joined += lines + chunked
        if not chunked:
            return joined
        end = (b"\r\n" + rest).index(b"\r\n\r\n") + 2
        joined, rest, body = joined + rest[:end], rest[end:], b""
        found = CHUNK.match(rest)
        if found is None:
            data = rest  # the answer to HEAD
            continue
        while found is not None and int(found.group(1), 16):
            start = found.end()
            end = start + int(found.group(1), 16)
            body, rest = body + rest[start:end], rest[end + 2 :]
            found = CHUNK.match(rest)
        joined += b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        data = rest[5:] if found else rest  # its last chunk, if it came to that
        joined += b"0\r\n\r\n" if found else b""


@pytest.mark.parametrize("ask", TABLE, ids=title)
def test_answer_is_the_same_in_every_placement(
    ask: Ask, server: Server, placements: Dict[str, List[str]]
) -> None:
    answers = {}
    close = b"" if "Connection: close" in ask.headers else b"Connection: close\r\n"
    for placement in where(ask, placements):
        data = ask.request(placement) + close + b"\r\n" + ask.body
        answers[placement] = without_date(server.raw(data))
    same = assert_same(answers)
    assert same.startswith(b"HTTP/1.1 ")
    if ask.expected is not None:
        assert same == join_chunks(ask.expected)


def outcome(take: Callable[[], http2_wire.Response]) -> object:
    """Return what an answer says, or how it broke off; without its Date."""
    try:
        answer = take()
    except (IncompleteRead, RemoteDisconnected) as error:
        return type(error), getattr(error, "partial", b"")
    del answer.headers["Date"]
    lines = [(name.lower(), value) for name, value in answer.headers.items()]
    return answer.status, lines, answer.body


# Their answers show which protocol they were asked over, or belong to one of both.
OF_HTTP1 = ("/request_line", "/request_headers")
ON_BOTH = [
    ask
    for ask in TABLE
    if not ask.path.startswith(OF_HTTP1) and "Connection: close" not in ask.headers
]


@pytest.mark.http2
@pytest.mark.parametrize("ask", ON_BOTH, ids=title)
def test_http2_gets_the_same_in_every_placement(
    ask: Ask, server: Server, placements: Dict[str, List[str]]
) -> None:
    parts = [line.partition(": ") for line in ("Host: pixie.example", *ask.headers)]
    lines = [(name, value) for name, _, value in parts]
    names = where(ask, placements)
    data = ask.request(names[0]) + b"Connection: close\r\n\r\n" + ask.body
    recorded = server.raw(data)
    expected = outcome(lambda: http2_wire.from_http1(recorded, ask.method))
    for placement in names:
        path, body = f"/{placement}{ask.path}", ask.body or None
        given = (server.port, ask.method, path, body, lines, PATIENCE_SECONDS)
        found = outcome(lambda: http2_wire.ask(*given))  # noqa: B023
        assert found == expected


NO_BODY = [
    ask
    for ask in TABLE
    if not ask.body
    and ask.path != "/too_slow"
    and "Connection: close" not in ask.headers
]
GETS = [ask for ask in NO_BODY if ask.method == "GET"]


@pytest.mark.parametrize("ask", GETS, ids=title)
def test_head_gets_the_head_of_get_in_every_placement(
    ask: Ask, server: Server, placements: Dict[str, List[str]]
) -> None:
    answers = {}
    get = b""
    for placement in where(ask, placements):
        close = b"Connection: close\r\n\r\n"
        if not get:
            get = without_date(server.raw(ask.request(placement) + close))
        data = ask.request(placement, "HEAD") + close
        answers[placement] = without_date(server.raw(data))
    same = assert_same(answers)
    shows_method = ask.path.startswith("/request_line")
    if not shows_method and not any(line.startswith("Range:") for line in ask.headers):
        assert same == get.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


@pytest.mark.parametrize("ask", NO_BODY, ids=title)
def test_pipelined_requests_get_the_same_in_every_placement(
    ask: Ask, server: Server, placements: Dict[str, List[str]]
) -> None:
    answers = {}
    for placement in where(ask, placements):
        kept = ask.request(placement) + b"\r\n"
        last = ask.request(placement) + b"Connection: close\r\n\r\n"
        answers[placement] = without_date(server.raw(kept + kept + last))
    same = assert_same(answers)
    expected = join_chunks(ask.expected or b"")
    if expected.endswith(b"0\r\n\r\n"):
        kept_alive = expected.replace(b"Connection: close\r\n", b"", 1)
        assert same == kept_alive + kept_alive + expected


@pytest.mark.parametrize("ask", NO_BODY, ids=title)
def test_http_1_0_gets_the_same_in_every_placement(
    ask: Ask, server: Server, placements: Dict[str, List[str]]
) -> None:
    answers = {}
    for placement in where(ask, placements):
        data = ask.request(placement, version="1.0") + b"\r\n"
        answers[placement] = without_date(server.raw(data))
    same = assert_same(answers)
    assert b"Transfer-Encoding" not in same


@pytest.mark.parametrize("name", ["If-None-Match", "If-Match", "If-Range"])
def test_a_files_own_tag_is_met_in_every_placement(name: str, server: Server) -> None:
    answers = {}
    tag = server.get("/sync/file").headers["ETag"]
    for placement in ("sync", "thread", "asnc", "eager", "pool"):
        data = (
            f"GET /{placement}/file HTTP/1.1\r\nHost: a\r\n{name}: {tag}\r\n"
            "Range: bytes=0-3\r\nConnection: close\r\n\r\n"
        )
        answers[placement] = without_date(server.raw(data.encode()))
    status = {"If-None-Match": b"304", "If-Match": b"206", "If-Range": b"206"}[name]
    assert assert_same(answers)[9:12] == status


def test_files_are_sent_whole(server: Server) -> None:
    for path in ("/file", "/file_download", "/file_from_memory", "/file_uncached"):
        assert server.get(f"/pool{path}").body == PAGE


def test_unusable_results_are_logged_with_type_and_route(server: Server) -> None:
    for placement in ("sync", "thread", "asnc", "pool"):
        mark = server.mark()
        server.get(f"/{placement}/unusable")
        server.wait_for_log(f"failed in /unusable ({placement})", mark)
        server.get(f"/{placement}/own_attribute")
        server.wait_for_log("values of your own go into env.context", mark)
        server.get(f"/{placement}/set_status")
        server.wait_for_log("from 200 to 999, got '201 Created'", mark)
        server.wait_for_log(re.compile("TypeError: a handler returns .* not set"), mark)


def test_nothing_is_left_to_complain_about(server: Server) -> None:
    assert server.complaints() == []
    assert server.process.poll() is None


def test_workers_0_runs_pool_routes_in_threads_of_main(
    files: Path, placements: Dict[str, List[str]]
) -> None:
    environment = {"PLACEMENT_FILES": str(files)}
    with serve(PROGRAM, workers=0, environment=environment) as server:
        server.wait_for_log("pool routes run in threads of the main process")
        for ask in [*RETURNED, *STREAMS, *ERRORS, *REQUESTS]:
            for placement in {"pool", "stream"} & set(where(ask, placements)):
                close = b"Connection: close\r\n"
                if "Connection: close" in ask.headers:
                    close = b""
                data = ask.request(placement) + close + b"\r\n" + ask.body
                answer = without_date(server.raw(data))
                assert ask.expected is None or join_chunks(ask.expected) == answer


# Bounds in the main process -----------------------------------------------------------

BOUNDS = PROGRAM.with_name("bounds.py")


@pytest.fixture(params=LOOPS)
def bounded(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve(BOUNDS, loop=request.param, threads=3) as running:
        yield running
        running.get("/open")


def start(server: Server, path: str) -> socket.socket:
    """Send a request and return its connection; the answer is still to come."""
    one = socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS)
    one.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    return one


@pytest.mark.parametrize("path", ["/thread/one", "/asnc/one"])
def test_a_limit_lets_the_others_wait(path: str, bounded: Server) -> None:
    with start(bounded, path) as first, start(bounded, path) as second:
        bounded.wait_for_log(f"{path} began")
        assert bounded.get("/quick").text == "quick"
        assert bounded.log.count(f"{path} began") == 1
        bounded.get("/open")
        assert read_all(first).endswith(b"\r\n\r\nheld")
        assert read_all(second).endswith(b"\r\n\r\nheld")
    wait_for(lambda: bounded.log.count(f"{path} began") == 2, "both in the log")


@pytest.mark.parametrize("path", ["/thread/stream", "/asnc/stream"])
def test_a_limit_counts_a_stream_to_its_end(path: str, bounded: Server) -> None:
    with start(bounded, path) as first, start(bounded, path) as second:
        bounded.wait_for_log(f"{path} began")
        assert bounded.get("/quick").text == "quick"
        assert bounded.log.count(f"{path} began") == 1
        bounded.get("/open")
        for one in (first, second):
            assert read_all(one).endswith(b"4\r\nheld\r\n0\r\n\r\n")


@pytest.mark.parametrize("path", ["/thread/impatient", "/asnc/impatient"])
def test_who_waits_too_long_gets_503(path: str, bounded: Server) -> None:
    with start(bounded, path) as first:
        bounded.wait_for_log(f"{path} began")
        answer = bounded.get(path)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        bounded.get("/open")
        assert read_all(first).endswith(b"held")
    assert bounded.get(path).text == "held"


@pytest.mark.parametrize("path", ["/thread/one", "/asnc/one", "/thread/free"])
def test_who_leaves_the_line_keeps_nobody_out_of_it(path: str, bounded: Server) -> None:
    inside = 3 if path == "/thread/free" else 1
    running = [start(bounded, path) for _ in range(inside)]
    wait_for(lambda: bounded.log.count(f"{path} began") == inside, "all places taken")
    mark = bounded.mark()
    for waits in [start(bounded, path) for _ in range(5)]:
        waits.close()
    left = re.compile(f'"GET {path} .* 499 0 .* left$', re.M)
    wait_for(
        lambda: len(left.findall(bounded.log)) == 5, "their end, while the others run"
    )
    assert " 503 " not in "".join(bounded.log.splitlines(True)[mark:])
    bounded.get("/open")
    for one in running:
        assert read_all(one).endswith(b"held")
        one.close()
    assert bounded.get(path).text == "held"
    wait_for(lambda: bounded.log.count(f"{path} began") > inside, "its line in the log")
    assert bounded.log.count(f"{path} began") == inside + 1


def test_a_line_is_as_long_as_those_who_wait() -> None:
    route = Route("/", ("GET",), lambda env: None, RouteType.thread)
    gate = Gate(1)
    head = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    def request() -> Request:
        return Request(head, disconnect=Disconnect())

    async def come_and_go() -> None:
        await gate.enter(route, request())
        requests = [request() for _ in range(2000)]
        waiting = [asyncio.ensure_future(gate.enter(route, one)) for one in requests]
        await asyncio.sleep(0)
        refused = [one for one in waiting if one.done()]
        assert 0 < len(refused) < 2000
        for one in requests:
            one.disconnect.set()
        next_one = asyncio.ensure_future(gate.enter(route, request()))
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(end) for end in ends} == {BusyError, ClientDisconnected}
        gate.leave()
        await next_one
        gate.leave()
        assert gate.inside == 0

    asyncio.run(come_and_go())


@pytest.mark.parametrize("path", ["/thread/late", "/asnc/late"])
def test_who_outlives_its_deadline_keeps_its_place(path: str, bounded: Server) -> None:
    assert bounded.get(path).status == 504
    assert bounded.get(path).status == 503
    assert bounded.log.count(f"{path} began") == 1
    bounded.get("/open")
    wait_for(lambda: bounded.get(path).status == 200, "the place of the first one")


def test_streams_of_threads_take_no_place_from_the_others(bounded: Server) -> None:
    streams = [start(bounded, "/thread/stream")]
    bounded.wait_for_log("/thread/stream began")
    held = [start(bounded, "/thread/free") for _ in range(2)]
    wait_for(lambda: bounded.log.count("/thread/free began") == 2, "two busy threads")
    assert bounded.get("/quick").text == "quick"
    bounded.get("/open")
    for one in [*streams, *held]:
        assert b"held" in read_all(one)
        one.close()


def test_threads_are_started_on_demand_and_used_again(bounded: Server) -> None:
    def threads() -> int:
        return len(os.listdir(f"/proc/{bounded.pid}/task"))

    before = threads()
    for _ in range(5):
        assert bounded.get("/quick").text == "quick"
    assert threads() - before <= 3
    held = [start(bounded, "/thread/free") for _ in range(5)]
    wait_for(lambda: bounded.log.count("/thread/free began") == 3, "three busy threads")
    assert threads() - before <= 3
    bounded.get("/open")
    for one in held:
        assert read_all(one).endswith(b"held")
        one.close()
    assert bounded.log.count("/thread/free began") == 5


def test_a_stream_of_a_thread_that_pauses_too_long_is_cut(bounded: Server) -> None:
    with start(bounded, "/slow_stream") as one:
        answer = read_all(one)
    assert answer.endswith(b"\r\n\r\n3\r\none\r\n")


# What may stand where -----------------------------------------------------------------


def a_def(env: Any) -> None: ...


def a_generator(env: Any) -> Iterator[str]:
    yield ""


async def a_coroutine(env: Any) -> None: ...


async def an_async_generator(env: Any) -> Any:
    yield ""


HANDLERS: Dict[str, Callable[..., Any]] = {
    "def": a_def,
    "generator": a_generator,
    "async def": a_coroutine,
    "async generator": an_async_generator,
}
MAY_STAND = {
    ("sync", "def"),
    ("sync", "generator"),
    ("thread", "def"),
    ("thread", "generator"),
    ("asnc", "async def"),
    ("asnc", "async generator"),
    ("pool", "def"),
    ("stream", "generator"),
}
INSTEAD = {
    "def": "write RouteType.pool",
    "generator": "write RouteType.stream",
    "async def": "write RouteType.asnc",
    "async generator": "write RouteType.asnc",
}
EVERY_CELL = [(place, kind) for place in RouteType for kind in HANDLERS]


@pytest.mark.parametrize("placement, kind", EVERY_CELL)
def test_a_handler_stands_where_the_table_allows_it(
    placement: RouteType, kind: str
) -> None:
    app = Pixie()
    if (placement.name, kind) in MAY_STAND:
        assert app.route("/", placement)(HANDLERS[kind]) is HANDLERS[kind]
        assert app.routes[0].placement is placement
        return
    with pytest.raises(RouteError) as refused:
        app.route("/", placement)(HANDLERS[kind])
    message = str(refused.value)
    assert f"{HANDLERS[kind].__name__} is a" in message
    assert f"{kind}, which can't run in RouteType.{placement.name}" in message
    assert INSTEAD[kind] in message
    assert ("a plain def" in message) is (placement is not RouteType.asnc)
    assert ("that yields" in message) is (placement is RouteType.stream)
    assert app.routes == ()


@pytest.mark.parametrize(
    "kind, placement",
    [("def", "pool"), ("generator", "stream"), ("async def", "asnc")]
    + [("async generator", "asnc")],
)
def test_the_default_placement_follows_the_kind(kind: str, placement: str) -> None:
    app = Pixie()
    app.route("/")(HANDLERS[kind])
    assert app.routes[0].placement.name == placement


def test_a_placement_may_be_named_by_its_word() -> None:
    app = Pixie()
    app.route("/", "thread")(a_def)
    assert app.routes[0].placement is RouteType.thread


@pytest.mark.parametrize(
    "placement, kind, seconds",
    [
        ("sync", "def", None),
        ("sync", "generator", None),
        ("thread", "def", None),
        ("thread", "generator", None),
        ("asnc", "async def", None),
        ("asnc", "async generator", None),
        ("pool", "def", 30.0),
        ("stream", "generator", 30.0),
    ],
)
def test_the_default_timeout(
    placement: str, kind: str, seconds: Optional[float]
) -> None:
    app = Pixie()
    app.route("/", placement)(HANDLERS[kind])
    assert app.routes[0].timeout == seconds


@pytest.mark.parametrize("name", ["timeout", "limit", "queue_timeout", "max_waiting"])
def test_sync_takes_no_bounds(name: str) -> None:
    with pytest.raises(RouteError, match=r"write RouteType\.thread or RouteType\.pool"):
        Pixie().route("/", RouteType.sync, **{name: 1})(a_def)


@pytest.mark.parametrize("placement", ["thread", "pool"])
@pytest.mark.parametrize("name", ["timeout", "limit", "queue_timeout", "max_waiting"])
def test_the_others_take_bounds(placement: str, name: str) -> None:
    app = Pixie()
    app.route("/", placement, **{name: 2})(a_def)
    assert getattr(app.routes[0], name) == 2


def test_an_infinite_timeout_means_none() -> None:
    app = Pixie()
    app.route("/", RouteType.pool, timeout=float("inf"))(a_def)
    assert app.routes[0].timeout is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"timeout": 0}, "timeout is in seconds, more than 0, got 0"),
        ({"timeout": -1}, "timeout is in seconds, more than 0, got -1"),
        ({"timeout": float("nan")}, "timeout is in seconds, more than 0, got nan"),
        ({"timeout": "5"}, "timeout is in seconds, more than 0, got '5'"),
        ({"queue_timeout": 0}, "queue_timeout is in seconds, more than 0, got 0"),
        ({"limit": 0}, "limit is a whole number from 1, got 0"),
        ({"limit": 1.5}, "limit is a whole number from 1, got 1.5"),
        ({"limit": True}, "limit is a whole number from 1, got True"),
        ({"on_disconnect": "explode"}, '"finish" or "stop" or "kill", not \'explode\''),
        ({"max_body_bytes": -1}, "max_body_bytes is a whole number from 0, got -1"),
        ({"max_body_bytes": "1"}, "max_body_bytes is a whole number from 0, got '1'"),
    ],
)
def test_bounds_that_can_not_be_are_refused(
    options: Dict[str, Any], message: str
) -> None:
    with pytest.raises(RouteError, match=re.escape(message)):
        Pixie().route("/", RouteType.pool, **options)(a_def)


ON_DISCONNECT = {
    ("sync", "def"): ["finish", "stop"],
    ("sync", "generator"): ["finish", "stop"],
    ("thread", "def"): ["finish", "stop"],
    ("thread", "generator"): ["finish", "stop"],
    ("asnc", "async def"): ["finish", "stop"],
    ("asnc", "async generator"): ["stop"],
    ("pool", "def"): ["finish", "stop", "kill"],
    ("stream", "generator"): ["stop", "kill"],
}


@pytest.mark.parametrize("cell", ON_DISCONNECT, ids=" ".join)
def test_what_a_clients_leaving_may_do(cell: Tuple[str, str]) -> None:
    placement, kind = cell
    allowed = ON_DISCONNECT[cell]
    default = Pixie()
    default.route("/", placement)(HANDLERS[kind])
    assert default.routes[0].on_disconnect == allowed[0]
    for word in ("finish", "stop", "kill"):
        app = Pixie()
        if word in allowed:
            app.route("/", placement, on_disconnect=word)(HANDLERS[kind])
            assert app.routes[0].on_disconnect == word
            continue
        with pytest.raises(RouteError) as refused:
            app.route("/", placement, on_disconnect=word)(HANDLERS[kind])
        for one in allowed:
            assert f'"{one}"' in str(refused.value)
        assert f"a {placement} route" in str(refused.value)


@pytest.mark.parametrize("wrong", ["async", 5, "RouteType.pool", "mainthread"])
def test_an_unknown_placement_names_the_known_ones(wrong: Any) -> None:
    with pytest.raises(RouteError) as refused:
        Pixie().route("/", wrong)(a_def)
    assert "sync, thread, asnc, pool, stream" in str(refused.value)


# Of which kind a handler is -----------------------------------------------------------


class Callables:
    def method(self, env: Any) -> None: ...

    async def coroutine(self, env: Any) -> None: ...

    @staticmethod
    def generator(env: Any) -> Iterator[str]:
        yield ""

    @classmethod
    async def async_generator(cls, env: Any) -> Any:
        yield ""


class CalledPlain:
    def __call__(self, env: Any) -> None: ...


class CalledCoroutine:
    async def __call__(self, env: Any) -> None: ...


class CalledGenerator:
    def __call__(self, env: Any) -> Iterator[str]:
        yield ""


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    from functools import wraps

    @wraps(function)
    def wrapper(env: Any) -> Any:
        return function(env)

    return wrapper


def wrapped_in_coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
    from functools import wraps

    @wraps(function)
    async def wrapper(env: Any) -> Any:
        return function(env)

    return wrapper


def partial(function: Callable[..., Any]) -> Callable[..., Any]:
    from functools import partial

    return partial(function)


@pytest.mark.parametrize(
    "handler, kind",
    [
        *((handler, kind) for kind, handler in HANDLERS.items()),
        *((wrapped(handler), kind) for kind, handler in HANDLERS.items()),
        *((partial(handler), kind) for kind, handler in HANDLERS.items()),
        (wrapped_in_coroutine(a_def), "async def"),
        (wrapped(wrapped_in_coroutine(a_def)), "async def"),
        (Callables().method, "def"),
        (Callables().coroutine, "async def"),
        (Callables.generator, "generator"),
        (Callables.async_generator, "async generator"),
        (CalledPlain(), "def"),
        (CalledCoroutine(), "async def"),
        (CalledGenerator(), "generator"),
        (lambda env: None, "def"),
        (str, "def"),
    ],
)
def test_the_kind_of_a_handler(handler: Callable[..., Any], kind: str) -> None:
    assert handler_kind(handler) == kind


def test_check_kind_names_what_has_no_name() -> None:
    with pytest.raises(RouteError, match=r"CalledCoroutine object .* is an async def"):
        check_kind(CalledCoroutine(), RouteType.pool)


class Postponed(Executor):
    """An executor such as no placement has."""

    kinds = default_for = ("async def",)
    on_disconnect = ("kill",)
    default_timeout = 7.0
    can_stream_body = True

    def __init__(self, resources: Resources) -> None:
        self._answer = resources.answer_async
        self._ran: List[str] = []

    def begin(self, route: Route, request: Request) -> Awaitable[Response]:
        self._ran.append(route.path)
        return self._answer(route, request)

    def stats(self) -> Dict[str, Any]:
        return {"postponed": self._ran}


def test_an_executor_is_a_class_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXECUTORS, RouteType.thread, Postponed)
    monkeypatch.delitem(EXECUTORS, RouteType.asnc)
    app = Pixie()
    app.get("/")(HANDLERS["async def"])
    app.get("/body", stream_body=True, limit=1)(HANDLERS["async def"])
    whole, streamed = app.routes
    assert whole.placement is streamed.placement is RouteType.thread
    assert (whole.on_disconnect, whole.timeout) == ("kill", 7.0)
    assert streamed.gate is not None
    with pytest.raises(RouteError, match=r"on_disconnect of /b, .* is .kill., not .f"):
        app.get("/b", on_disconnect="finish")(HANDLERS["async def"])
    with pytest.raises(RouteError, match=r"RouteType\.thread; write RouteType\.pool"):
        app.get("/b", RouteType.thread)(HANDLERS["def"])
    for where in whole.path, streamed.path:
        head = parse_head(f"GET {where} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert asyncio.run(app.handle(Request(head))).status == 204
    stats = app.stats()
    assert (stats["postponed"], "threads" in stats) == (["/", "/body"], False)


def test_the_matrix_of_this_test_has_every_route_type() -> None:
    assert {placement for placement, _ in MAY_STAND} == {p.name for p in RouteType}
    assert all(inspect.isfunction(handler) for handler in HANDLERS.values())


# Globals that change in a worker ------------------------------------------------------

FORGETFUL = """
import functools
from pixie_web import route, run

SESSIONS, NAMES, SEEN, TOTAL, LAST = {}, [], set(), 0, None
CONSTANTS = {"a": 1}

def remember(name):
    NAMES.append(name)

def decorated(handler):
    @functools.wraps(handler)
    def wrapper(env):
        return handler(env)
    return wrapper

@route("/dict")
def dict_(env):
    SESSIONS[str(len(SESSIONS))] = 1
    return "done"

@route("/list/through-another")
def list_(env):
    remember("x")
    return "done"

@route("/set")
@decorated
def set_(env):
    SEEN.add(len(SEEN))
    return "done"

@route("/global")
def global_(env):
    global TOTAL
    TOTAL += 1
    return "done"

@route("/nested")
def nested(env):
    def inside():
        global LAST, NEW
        LAST, NEW = object(), []
    inside()
    return "done"

@route("/reads")
def reads(env):
    return "done" if CONSTANTS["a"] and not TOTAL else "done"

@route("/main", "sync")
def main(env):
    SESSIONS["main"] = 1
    return "done"

run()
"""


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("debug", [True, False])
def test_with_debug_what_a_worker_forgets_is_named_once(
    start: str, debug: bool
) -> None:
    with serve(FORGETFUL, debug=debug, pool_start=start, workers=2) as server:
        for path, names in [
            ("/dict", "SESSIONS"),
            ("/list/through-another", "NAMES"),
            ("/set", "SEEN"),
            ("/global", "TOTAL"),
            ("/nested", "LAST, NEW"),
            ("/reads", ""),
            ("/main", ""),
        ]:
            mark = server.mark()
            for _ in range(3):
                assert server.get(path).text == "done"
            server.wait_for_log(f'"GET {path} {server.protocol}" 200', mark)
            lines = [one for one in server.log.splitlines()[mark:] if "WARNING" in one]
            says = (
                f"WARNING {path}: {names} changed in a worker, and is lost there: no "
            )
            assert len(lines) == (debug and bool(names))
            assert all(says in line for line in lines)
