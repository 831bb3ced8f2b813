"""The access log: what it says, in which form, and what a client can't make it say."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
from pooling import half_close, reset
from support import LOOPS, read_all, serve

from pixie_web import Request
from pixie_web.about import log
from pixie_web.launch import configure_logging
from pixie_web.protocol.http11 import parse_head
from pixie_web.server.access import (
    ACCESS_LOG_FORMAT,
    NO_HEAD,
    AccessRecord,
    access_log,
    log_answer,
    log_text,
)
from pixie_web.text import OwnHandler

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


# Lines without a record ---------------------------------------------------------------


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnHandler]:
    """Have the log as `run()` sets it up, into memory, until the end of the test."""
    level = log.level
    monkeypatch.setattr(log, "handlers", [])
    with monkeypatch.context() as bare:
        bare.setattr(logging.getLogger(), "handlers", [])
        configure_logging()
    # In place of the root, where pytest has handlers.
    monkeypatch.setattr(log, "parent", logging.RootLogger(logging.WARNING))
    (handler,) = log.handlers
    assert isinstance(handler, OwnHandler)
    handler.setStream(io.StringIO())
    yield handler
    log.setLevel(level)


def an_answer(head: bytes = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n") -> AccessRecord:
    request = Request(parse_head(head), ("10.0.0.1", 5))
    return AccessRecord(request, 200, 5, 0.0256, "complete")


def lines_of(handler: OwnHandler) -> List[str]:
    stream = handler.stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    "form",
    [
        ACCESS_LOG_FORMAT,
        FORMAT,
        "%(status)d",
        "100%% of %%(status)s %(status)5d|%(target)-9s|%(target).2s|%(bytes)x",
        "nothing",
    ],
)
@pytest.mark.parametrize(
    "head",
    [b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", b'GET /"%5C%s HTTP/1.1\r\nHost: x\r\n\r\n'],
)
@pytest.mark.parametrize(
    "now", [1_700_000_000.0, 1_700_000_000.1234, 1_699_999_999.999]
)
def test_a_line_is_that_of_its_record(
    form: str, head: bytes, now: float, own: OwnHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: now)
    monkeypatch.setattr("time.time_ns", lambda: int(now * 1000) * 1_000_000)
    record = an_answer(head)
    assert own.is_all_of(access_log)
    log_answer(form, record)
    monkeypatch.setattr(OwnHandler, "is_all_of", lambda self, logger: False)
    log_answer(form, record)
    line, of_record = lines_of(own)
    assert line == of_record
    assert line.endswith(form % record if form != "nothing" else "nothing")


class Kept(logging.Handler):
    """Keeps the records that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.records: List[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.mark.parametrize("where", ["pixie_web.access", "pixie_web", ""])
def test_a_handler_of_the_program_gets_the_record_from_now_on(
    where: str, own: OwnHandler
) -> None:
    assert own.is_all_of(access_log)
    log_answer(ACCESS_LOG_FORMAT, an_answer())
    logger = logging.getLogger(where) if where else log.parent
    assert logger is not None
    kept = Kept()
    logger.addHandler(kept)
    try:
        log_answer(ACCESS_LOG_FORMAT, an_answer())
    finally:
        logger.removeHandler(kept)
    (record,) = kept.records
    assert isinstance(record.args, AccessRecord)
    assert dict(record.args)["client"] == "10.0.0.1"
    assert record.msg == ACCESS_LOG_FORMAT
    assert len(lines_of(own)) == 2


def refuse(record: logging.LogRecord) -> bool:
    return False


def mark(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **kwargs)
    record.msg = f"marked {record.msg}"
    return record


def marked(handler: OwnHandler) -> None:
    logging.setLogRecordFactory(mark)


CHANGES: Dict[str, Tuple[Callable[[OwnHandler], object], List[str]]] = {
    # What a program does to logging, and what is written then.
    "nothing": (lambda own: None, ["x 200"]),
    "a filter of the logger": (lambda own: access_log.addFilter(refuse), []),
    "a filter of the handler": (lambda own: own.addFilter(refuse), []),
    "a level of the logger": (lambda own: access_log.setLevel(logging.WARNING), []),
    "a level of the log": (lambda own: log.setLevel(logging.WARNING), []),
    "a level of the handler": (lambda own: own.setLevel(logging.WARNING), []),
    "logging.disable": (lambda own: logging.disable(logging.INFO), []),
    "the logger is disabled": (lambda own: setattr(access_log, "disabled", True), []),
    "no propagation": (lambda own: setattr(access_log, "propagate", False), []),
    "no handler": (lambda own: log.removeHandler(own), []),
    "a factory of records": (marked, ["marked x 200"]),
    "a formatter": (
        lambda own: own.setFormatter(logging.Formatter("! %(message)s")),
        ["! x 200"],
    ),
}


@pytest.mark.parametrize("change, expected", CHANGES.values(), ids=CHANGES)
def test_what_a_program_does_to_logging_holds_at_once(
    change: Callable[[OwnHandler], object], expected: List[str], own: OwnHandler
) -> None:
    log_answer("x %(status)d", an_answer())
    factory = logging.getLogRecordFactory()
    try:
        change(own)
        log_answer("x %(status)d", an_answer())
    finally:
        logging.setLogRecordFactory(factory)
        logging.disable(logging.NOTSET)
        access_log.removeFilter(refuse)
        access_log.setLevel(logging.NOTSET)
        access_log.disabled, access_log.propagate = False, True
    lines = lines_of(own)[1:]
    assert [line[-len(text) :] for line, text in zip(lines, expected)] == expected
    assert len(lines) == len(expected)


def test_times_are_as_the_program_has_them_written(
    own: OwnHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 86_400.5)
    monkeypatch.setattr(logging.Formatter, "converter", time.gmtime)
    monkeypatch.setattr(logging.Formatter, "default_time_format", "%d.%m.%Y %H:%M:%S")
    monkeypatch.setattr(logging.Formatter, "default_msec_format", "%s.%03d")
    log_answer("x", an_answer())
    assert lines_of(own) == ["02.01.1970 00:00:00.500 INFO x"]


def test_a_stream_that_fails_is_reported_as_logging_does(
    own: OwnHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no space left on device")

    seen: List[logging.LogRecord] = []
    monkeypatch.setattr(own, "handleError", seen.append)
    own.setStream(Full())
    log_answer("x", an_answer())
    assert [record.getMessage() for record in seen] == ["x"]
