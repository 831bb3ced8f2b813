"""The access log: what it says, in which form, and what a client can't make it say."""

from __future__ import annotations

import json
import re
from typing import List

import pytest
from pooling import half_close, reset
from support import LOOPS, read_all, serve

from pixie_web import Request
from pixie_web.protocol.http11 import parse_head
from pixie_web.server.access import NO_HEAD, AccessRecord, log_text

PROGRAM = """
import json, logging, sys
from pixie_web import RouteType, abort, route, run

class AsJson(logging.Handler):
    def emit(self, record):
        print("json", json.dumps(dict(record.args)), file=sys.stderr, flush=True)

if "json" in sys.argv:
    logging.getLogger("pixie_web.access").addHandler(AsJson())

@route("/", RouteType.sync)
def index(env):
    return "index"

@route("/pool/<n:int>")
def pool(env, n):
    return "x" * n

@route("/gone", RouteType.asnc)
async def gone(env):
    abort(410)

@route("/upload", RouteType.sync, "POST")
def upload(env):
    return str(len(env.body))

@route("/upload/read", RouteType.asnc, "POST", stream_body=True)
async def upload_read(env):
    return str(sum([len(chunk) async for chunk in env.stream()]))

run()
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_each_answer_has_a_line(loop: str) -> None:
    table = [
        ("/?a=b", r'127\.0\.0\.1 "GET /\?a=b HTTP/1\.1" 200 5 \d+\.\dms sync q=0\.0ms'),
        ("/pool/7", r'127\.0\.0\.1 "GET /pool/7 HTTP/1\.1" 200 7 \d+\.\dms pool q=\d'),
        ("/gone", r'127\.0\.0\.1 "GET /gone HTTP/1\.1" 410 \d+ \d+\.\dms asnc q=0'),
        ("/no", r'127\.0\.0\.1 "GET /no HTTP/1\.1" 404 \d+ \S+ - q=0\.0ms complete$'),
    ]
    with serve(PROGRAM, loop=loop) as server:
        for target, line in table:
            server.get(target)
            server.wait_for_log(re.compile(f" INFO {line}"))
        server.raw(b"GET / HTTP/1.1\r\n\x1b[2J: x\r\n\r\n")
        server.wait_for_log(
            re.compile(r' INFO 127\.0\.0\.1 "-" 400 \d+ \d+\.\dms - q=')
        )
    assert "\x1b" not in server.log


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("ending", ["close", "half", "reset"])
@pytest.mark.parametrize("path", ["/upload", "/upload/read"])
def test_an_upload_that_is_broken_off_has_left(
    loop: str, ending: str, path: str
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\n"
    with serve(PROGRAM, loop=loop) as server:
        for framing in (
            "Content-Length: 9\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n",
        ):
            mark = server.mark()
            with server.connect() as one:
                one.sendall(f"{head}{framing}".encode() + b"4\r\nab")
                if ending == "half":  # it may still read
                    half_close(one)
                    assert read_all(one).startswith(b"HTTP/1.1 400 Bad Request\r\n")
                elif ending == "reset":
                    reset(one)
            line = server.wait_for_log(f'"POST {path} HTTP/1.1" ', mark)
            assert " 499 " in line
            assert line.endswith(" left\n")


FORMAT = (
    "%(client)s|%(method)s|%(target)s|%(protocol)s|%(scheme)s|%(host)s|%(route)s|"
    "%(placement)s|%(status)d|%(bytes)d|%(referer)s|%(user_agent)s|"
    "%(milliseconds).0f|%(queue_milliseconds).0f"
)


def test_a_format_picks_what_it_says() -> None:
    headers = {"Referer": 'a"b', "User-Agent": "me\\\xe9\tyou", "Host": "h:1"}
    with serve(PROGRAM, access_log_format=FORMAT) as server:
        server.get('/pool/3?"\\', headers)
        server.wait_for_log(
            r"127.0.0.1|GET|/pool/3?\x22\x5c|HTTP/1.1|http|h:1|/pool/<n:int>|"
            r"pool|200|3|a\x22b|me\x5c\xe9\x09you|"
        )
        server.raw(b"x\r\n\r\n")
        server.wait_for_log(re.compile(r"127.0.0.1\|\|\|HTTP/\|http\|-\|-\|-\|400\|"))


def test_a_handler_of_the_programs_own_gets_the_items() -> None:
    with serve(PROGRAM, arguments=["json"]) as server:
        server.get("/pool/2")
        line = server.wait_for_log("json {").partition(" ")[2]
    record = json.loads(line)
    assert set(record) == set(AccessRecord.ITEMS)
    assert record["status"] == 200
    assert record["bytes"] == 2
    assert record["route"] == "/pool/<n:int>"


def test_off_it_writes_nothing() -> None:
    with serve(PROGRAM, access_log=False) as server:
        server.get("/")
        server.raw(b"x\r\n\r\n")
    assert "GET" not in server.log
    assert "INFO" not in server.log


@pytest.mark.parametrize(
    "text, line",
    [
        ("plain /path?a=b&c", "plain /path?a=b&c"),
        ('a"b\\c', r"a\x22b\x5cc"),
        ("\r\n\x1b\x00\x7f\t", r"\x0d\x0a\x1b\x00\x7f\x09"),
        ("\x80\xe9\xff\u2028", r"\x80\xe9\xff\x2028"),
        ("", ""),
    ],
)
def test_what_could_forge_a_line_is_escaped(text: str, line: str) -> None:
    assert log_text(text) == line


def test_items_are_made_when_they_are_asked_for() -> None:
    made: List[str] = []

    class Watched(Request):
        def header(self, name: str, default: object = None) -> None:  # type: ignore[override]
            made.append(name)

    head = parse_head(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    record = AccessRecord(Watched(head), 200, 5, 0.25, "left")
    assert "%(status)d %(milliseconds).1f" % record == "200 250.0"
    assert record["outcome"] == "left"
    assert made == []
    assert record["referer"] == "-"
    assert made == ["referer"]
    assert len(record) == len(list(record)) == len(AccessRecord.ITEMS)
    assert AccessRecord(Request(NO_HEAD), 400, 0, 0.0, "")["request"] == "-"
