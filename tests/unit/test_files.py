"""Which file, which part of it, in which coding; and never one outside.

The tables hold literal request headers and what must come of them. Each exchange is
tried with the file in memory, kept for good, and on disk: always the same bytes.
"""

import asyncio
import errno
import itertools
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from pixie_web import (
    Headers,
    HTTPError,
    Pixie,
    Request,
    Response,
    cached_file,
    static_file,
    staticfiles,
)
from pixie_web.conditional import (
    NO_HEADERS,
    accepted_codings,
    conditional_response,
    deciding_headers,
    evaluate_preconditions,
    is_range_current,
    parse_etags,
    parse_ranges,
)
from pixie_web.protocol.http11 import parse_head
from pixie_web.responses import FileSlice, StaticFile
from pixie_web.staticfiles import (
    FILE_CHUNK_BYTES,
    MAX_CACHED_FILE_BYTES,
    MAX_KNOWN_FILES,
    _file_state,
    _find_again,
    _first_names,
    _keep,
    _look_inside,
    _named_files,
    _on_disk,
    _require,
    _required_files,
    _siblings,
    content_disposition,
    content_type_of,
    directory_file,
    is_safe_name,
    resolve_file,
)
from pixie_web.text import format_date

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ImportError:  # the properties at the end need it, the tables do not
    given = None

CONTENT = b"0123456789"
MTIME = 784111777
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
A_SECOND_BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
A_SECOND_AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"
ETAG = '"ae1b981bc490a00-a"'
OTHER = '"other"'
LARGE = MAX_CACHED_FILE_BYTES + 1


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch):
    """Start with nothing kept for good, and with files that have long been settled."""
    _find_again.cache_clear()
    _first_names.clear()
    _named_files.clear()
    _required_files.clear()
    _require.cache_clear()
    _siblings.cache_clear()
    _keep.cache_clear()
    monkeypatch.setattr(staticfiles, "UNSETTLED_NANOSECONDS", 0)


@pytest.fixture
def site(tmp_path):
    """Return a directory with one file, a.txt, of ten bytes and a known age."""
    put(tmp_path / "a.txt", CONTENT)
    return tmp_path


def put(path, content, mtime=MTIME):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime * 10**9, mtime * 10**9))
    return path


def ask(root, name="a.txt", method="GET", headers=(), **options):
    return resolve_file(method, Headers(headers), static_file(name, root, **options))


def content_of(response):
    """Return the body as it would be sent."""
    body = response.body
    if isinstance(body, FileSlice):
        with open(body.path, "rb") as file:
            file.seek(body.offset)
            return file.read(body.length)
    return body if isinstance(body, bytes) else asyncio.run(collect(body))


async def collect(chunks):
    return b"".join([chunk async for chunk in chunks])


def lines_of(response):
    return response.header_block().decode("latin-1").split("\r\n")[:-1]


# ======================================================================================
# Conditions and ranges
# ======================================================================================

ETAGS = [
    ('"a"', ['"a"']),
    ('"a", W/"b" ,"c"', ['"a"', 'W/"b"', '"c"']),
    ('"a,b", "c"', ['"a,b"', '"c"']),
    ('""', ['""']),
    ("*", ["*"]),
    (" * ", ["*"]),
    ('"a", *', ['"a"']),
    ("unquoted", []),
    ('"open', []),
    ("", []),
    ('w/"a"', ['"a"']),
    ('"\xe9"', ['"\xe9"']),
    ('"a b"', []),
]


@pytest.mark.parametrize("header, expected", ETAGS)
def test_entity_tags_are_read_by_their_grammar(header, expected):
    assert parse_etags(header) == expected


IF_MATCH, IF_NONE = "If-Match", "If-None-Match"
SINCE, UNTIL = "If-Modified-Since", "If-Unmodified-Since"

PRECONDITIONS = [
    # One condition.
    ("GET", {}, None),
    ("GET", {IF_NONE: ETAG}, 304),
    ("HEAD", {IF_NONE: ETAG}, 304),
    ("PUT", {IF_NONE: ETAG}, 412),
    ("GET", {IF_NONE: "W/" + ETAG}, 304),
    ("GET", {IF_NONE: f"{OTHER}, {ETAG}"}, 304),
    ("GET", {IF_NONE: OTHER}, None),
    ("GET", {IF_NONE: "*"}, 304),
    ("PUT", {IF_NONE: "*"}, 412),
    ("GET", {IF_NONE: "garbage"}, None),
    ("GET", {IF_NONE: ETAG.strip('"')}, None),
    ("GET", {IF_MATCH: ETAG}, None),
    ("GET", {IF_MATCH: f"{OTHER}, {ETAG}"}, None),
    ("GET", {IF_MATCH: "*"}, None),
    ("GET", {IF_MATCH: OTHER}, 412),
    ("GET", {IF_MATCH: "W/" + ETAG}, 412),
    ("GET", {IF_MATCH: "garbage"}, 412),
    ("PUT", {IF_MATCH: OTHER}, 412),
    ("GET", {SINCE: DATE}, 304),
    ("HEAD", {SINCE: DATE}, 304),
    ("PUT", {SINCE: DATE}, None),
    ("GET", {SINCE: A_SECOND_AFTER}, 304),
    ("GET", {SINCE: A_SECOND_BEFORE}, None),
    ("GET", {SINCE: "Sunday, 06-Nov-94 08:49:37 GMT"}, 304),
    ("GET", {SINCE: "Sun Nov  6 08:49:37 1994"}, 304),
    ("GET", {SINCE: "yesterday"}, None),
    ("GET", {SINCE: f"{DATE}, {DATE}"}, None),
    ("GET", {SINCE: "Sun, 99 Nov 1994 08:49:37 GMT"}, None),
    ("GET", {UNTIL: DATE}, None),
    ("GET", {UNTIL: A_SECOND_AFTER}, None),
    ("GET", {UNTIL: A_SECOND_BEFORE}, 412),
    ("PUT", {UNTIL: A_SECOND_BEFORE}, 412),
    ("GET", {UNTIL: "yesterday"}, None),
    # Several: RFC 9110 section 13.2.2.
    ("GET", {IF_MATCH: ETAG, UNTIL: A_SECOND_BEFORE}, None),
    ("GET", {IF_MATCH: OTHER, UNTIL: DATE}, 412),
    ("GET", {IF_NONE: OTHER, SINCE: A_SECOND_AFTER}, None),
    ("GET", {IF_NONE: ETAG, SINCE: A_SECOND_BEFORE}, 304),
    ("GET", {IF_MATCH: ETAG, IF_NONE: ETAG}, 304),
    ("GET", {IF_MATCH: OTHER, IF_NONE: ETAG}, 412),
    ("GET", {UNTIL: DATE, SINCE: DATE}, 304),
    ("GET", {UNTIL: A_SECOND_BEFORE, IF_NONE: ETAG}, 412),
]


@pytest.mark.parametrize("method, headers, expected", PRECONDITIONS)
def test_preconditions_are_evaluated_in_order(method, headers, expected):
    assert evaluate_preconditions(method, Headers(headers), ETAG, MTIME) == expected


@pytest.mark.parametrize(
    "headers, etag, modified, expected",
    [
        ({IF_NONE: '"a"'}, 'W/"a"', None, 304),
        ({IF_NONE: 'W/"a"'}, 'W/"a"', None, 304),
        ({IF_MATCH: 'W/"a"'}, 'W/"a"', None, 412),
        ({IF_MATCH: '"a"'}, None, None, 412),
        ({IF_MATCH: "*"}, None, None, None),
        ({IF_NONE: '"a"'}, None, None, None),
        ({SINCE: DATE}, '"a"', None, None),
        ({UNTIL: DATE}, '"a"', None, None),
    ],
)
def test_weak_and_missing_validators(headers, etag, modified, expected):
    assert evaluate_preconditions("GET", Headers(headers), etag, modified) == expected


IF_RANGES = [
    (ETAG, True),
    (OTHER, False),
    ("W/" + ETAG, False),
    (f"{ETAG}, {OTHER}", False),
    (DATE, True),
    (A_SECOND_AFTER, False),
    (A_SECOND_BEFORE, False),
    ("garbage", False),
    ("", False),
]


@pytest.mark.parametrize("if_range, expected", IF_RANGES)
def test_if_range_takes_the_strong_tag_or_the_exact_date(if_range, expected):
    assert is_range_current(if_range, ETAG, MTIME) is expected


def test_a_date_of_this_second_is_too_weak_for_if_range():
    now = int(time.time())
    assert is_range_current(format_date(now), ETAG, now) is False
    assert is_range_current(format_date(now), ETAG, None) is False


RANGES = [
    ("bytes=0-4", [(0, 5)]),
    ("bytes=0-0", [(0, 1)]),
    ("bytes=9-9", [(9, 10)]),
    ("bytes=4-", [(4, 10)]),
    ("bytes=-3", [(7, 10)]),
    ("bytes=-99", [(0, 10)]),
    ("bytes=0-99", [(0, 10)]),
    ("bytes=0-99999999999999999999", [(0, 10)]),
    ("BYTES=0-4", [(0, 5)]),
    ("bytes= 0-1 ,\t3-4", [(0, 2), (3, 5)]),
    # Several: in the client's order, also where they overlap.
    ("bytes=0-1,8-9", [(0, 2), (8, 10)]),
    ("bytes=8-9,0-1", [(8, 10), (0, 2)]),
    ("bytes=0-4,2-6", [(0, 5), (2, 7)]),
    ("bytes=0-4,5-6", [(0, 5), (5, 7)]),
    ("bytes=0-9,1-2,3-4", [(0, 10), (1, 3), (3, 5)]),
    ("bytes=6-7,0-1,7-8", [(6, 8), (0, 2), (7, 9)]),
    ("bytes=-1,0-0,-2", [(9, 10), (0, 1), (8, 10)]),
    ("bytes=20-30,1-2", [(1, 3)]),
    # None can be satisfied.
    ("bytes=10-", []),
    ("bytes=10-20,99-", []),
    ("bytes=-0", []),
    ("bytes=99999999999999999999-", []),
    # Ignored.
    ("bytes=5-2", None),
    ("bytes=0-1,5-2", None),
    ("bytes=-", None),
    ("bytes=", None),
    ("bytes", None),
    ("", None),
    ("bytes=0", None),
    ("bytes=0-1,", None),
    ("bytes=a-b", None),
    ("bytes=+0-1", None),
    ("bytes=0x0-1", None),
    ("bytes=0 - 1", None),
    ("bytes=0-1-2", None),
    ("bytes=--1", None),
    ("bytes=0.5-1", None),
    ("bytes=\u0660-\u0664", None),
    ("bytes=\xb2-\xb3", None),
    ("bytes=" + "9" * 5000 + "-", None),
    ("items=0-1", None),
    ("bytes 0-1", None),
    ("bytes=" + ",".join("0-" for _ in range(10)), [(0, 10)] * 10),
    ("bytes=" + ",".join(f"{i}-{i}" for i in range(11)), None),
    ("bytes=" + ",".join("0-" for _ in range(1200)), None),
    ("bytes=" + "," * 8000, None),
]


@pytest.mark.parametrize("header, expected", RANGES)
def test_ranges_of_ten_bytes(header, expected):
    assert parse_ranges(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-5", "bytes=-0", "bytes=7-9"])
def test_an_empty_file_has_no_ranges(header):
    assert parse_ranges(header, 0) is None


ALL = ("br", "zstd", "gzip")
CODINGS = [
    ("", "identity"),
    ("br", "br identity"),
    ("gzip, br", "br gzip identity"),
    ("gzip, deflate, br, zstd", "br zstd gzip identity"),
    ("gzip;q=1.0, br;q=0.5", "gzip br identity"),
    ("gzip;q=0.5", "gzip identity"),
    ("gzip;q=0.5, identity", "identity gzip"),
    ("gzip, identity;q=0.5", "gzip identity"),
    ("gzip;q=0", "identity"),
    ("gzip;q=0.000", "identity"),
    ("gzip, identity;q=0", "gzip"),
    ("identity;q=0", ""),
    ("*", "br zstd gzip identity"),
    ("*;q=0", ""),
    ("*;q=0, gzip", "gzip"),
    ("*, br;q=0", "zstd gzip identity"),
    ("gzip;q=0.3, *;q=0.5", "br zstd identity gzip"),
    ("x-gzip", "gzip identity"),
    ("GZip ; Q=1", "gzip identity"),
    ("gzip;q=2", "identity"),
    ("gzip;q=", "identity"),
    ("gzip;level=9", "identity"),
    ("gzip;q=0.1234", "identity"),
    (",,;;,", "identity"),
    ("deflate", "identity"),
    ("gz", "identity"),
]


@pytest.mark.parametrize("header, expected", CODINGS)
def test_accept_encoding_orders_what_there_is(header, expected):
    assert " ".join(accepted_codings(header, ALL)) == expected


# ======================================================================================
# Answers
# ======================================================================================

WHOLE = [
    "Content-Type: text/plain; charset=utf-8",
    f"ETag: {ETAG}",
    "Accept-Ranges: bytes",
    f"Last-Modified: {DATE}",
]
PART = "Content-Range: bytes {}/10"

EXCHANGES = [
    # method, request headers, status, response headers, body
    ("GET", {}, 200, WHOLE, CONTENT),
    ("HEAD", {}, 200, WHOLE, CONTENT),
    ("POST", {"Range": "bytes=0-1", IF_NONE: ETAG}, 200, WHOLE[:1], CONTENT),
    ("GET", {IF_NONE: ETAG}, 304, [WHOLE[1]], b""),
    ("HEAD", {IF_NONE: ETAG}, 304, [WHOLE[1]], b""),
    ("GET", {SINCE: DATE}, 304, [WHOLE[1]], b""),
    ("GET", {IF_MATCH: OTHER}, 412, [WHOLE[1]], b""),
    ("HEAD", {UNTIL: A_SECOND_BEFORE}, 412, [WHOLE[1]], b""),
    ("GET", {"Range": "bytes=2-4"}, 206, [*WHOLE, PART.format("2-4")], b"234"),
    ("GET", {"Range": "bytes=-1"}, 206, [*WHOLE, PART.format("9-9")], b"9"),
    ("GET", {"Range": "bytes=0-"}, 206, [*WHOLE, PART.format("0-9")], CONTENT),
    ("GET", {"Range": "bytes=0-4,2-6"}, 200, WHOLE, CONTENT),
    ("HEAD", {"Range": "bytes=2-4"}, 200, WHOLE, CONTENT),
    ("GET", {"Range": "bytes=10-"}, 416, [WHOLE[1], PART.format("*")], b""),
    ("GET", {"Range": "bytes=-0"}, 416, [WHOLE[1], PART.format("*")], b""),
    ("GET", {"Range": "bytes=5-2"}, 200, WHOLE, CONTENT),
    ("GET", {"Range": "bytes=0-0,9-9"}, 200, WHOLE, CONTENT),  # the parts are longer
    ("GET", {"Range": "bytes=2-4", "If-Range": ETAG}, 206, None, b"234"),
    ("GET", {"Range": "bytes=2-4", "If-Range": DATE}, 206, None, b"234"),
    ("GET", {"Range": "bytes=2-4", "If-Range": OTHER}, 200, WHOLE, CONTENT),
    ("GET", {"Range": "bytes=2-4", "If-Range": "W/" + ETAG}, 200, WHOLE, CONTENT),
    ("GET", {"Range": "bytes=99-", "If-Range": OTHER}, 200, WHOLE, CONTENT),
    ("GET", {"Range": "bytes=2-4", IF_NONE: ETAG}, 304, None, b""),
    ("GET", {"Range": "bytes=2-4", IF_MATCH: ETAG}, 206, None, b"234"),
    ("GET", {"Range": "bytes=99-", IF_MATCH: OTHER}, 412, None, b""),
    ("GET", {"If-Range": ETAG}, 200, WHOLE, CONTENT),
]


@pytest.mark.parametrize("cache", [None, True, False])
@pytest.mark.parametrize("method, headers, status, lines, body", EXCHANGES)
def test_exchange(site, cache, method, headers, status, lines, body):
    response = ask(site, method=method, headers=headers, cache=cache)
    assert response.status == status
    assert content_of(response) == body
    if lines is not None:
        assert lines_of(response) == lines


@pytest.mark.parametrize("cache", [None, True, False])
def test_several_ranges_are_a_multipart(site, cache):
    content = bytes(range(256)) * 40
    put(site / "b.bin", content)
    headers = {"Range": "bytes=-5,0-19"}
    response = ask(site, "b.bin", headers=headers, cache=cache)
    content_type = response.headers["Content-Type"]
    boundary = content_type.replace("multipart/byteranges; boundary=", "").encode()
    assert re.fullmatch(b"[0-9a-f]{24}", boundary)
    assert response.status == 206
    assert "content-range" not in response.headers
    body = content_of(response)
    assert body == (
        b"\r\n--%b\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Range: bytes 10235-10239/10240\r\n\r\n%b"
        b"\r\n--%b\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Range: bytes 0-19/10240\r\n\r\n%b"
        b"\r\n--%b--\r\n"
    ) % (boundary, content[-5:], boundary, content[:20], boundary)
    if not isinstance(response.body, bytes):
        assert response.stream_bytes == len(body)


@pytest.mark.parametrize("cache", [None, False])
def test_several_ranges_as_long_as_the_file_are_the_file(site, cache):
    headers = {"Range": "bytes=0-0,9-9"}
    put(site / "b.bin", b"x" * 999)
    length = len(content_of(ask(site, "b.bin", headers=headers, cache=cache)))
    answers = []
    for size in (length - 1, length, length + 1):
        assert len(str(size)) == 3  # it is part of what is sent
        put(site / "b.bin", b"x" * size)
        answers.append(ask(site, "b.bin", headers=headers, cache=cache).status)
    assert answers == [200, 200, 206]


def test_1200_ranges_are_answered_with_the_file_once(site):
    put(site / "b.bin", b"x" * 10_000)
    ranges = ",".join(f"{start}-{start + 5000}" for start in range(1200))
    response = ask(site, "b.bin", headers={"Range": f"bytes={ranges}"})
    assert (response.status, len(response.body)) == (200, 10_000)


def test_a_file_that_shrinks_under_several_ranges_breaks_the_stream(site):
    path = put(site / "b.bin", b"x" * 10_000)
    headers = {"Range": "bytes=0-9,9000-9999"}
    response = ask(site, "b.bin", headers=headers, cache=False)
    put(path, b"x" * 5000)
    with pytest.raises(OSError, match="shorter"):
        content_of(response)


def test_closing_several_ranges_early_closes_the_file(site):
    put(site / "b.bin", b"x" * 10_000)
    headers = {"Range": "bytes=0-9,9000-9999"}
    body = ask(site, "b.bin", headers=headers, cache=False).body

    async def read_two():
        chunks = [await body.__anext__(), await body.__anext__()]
        await body.aclose()  # a file left open would be a ResourceWarning
        return chunks[1]

    assert asyncio.run(read_two()) == b"x" * 10


def test_an_empty_file_is_sent_whole_whatever_range(site):
    put(site / "empty.css", b"")
    response = ask(site, "empty.css", headers={"Range": "bytes=0-"})
    assert (response.status, response.body) == (200, b"")


def test_a_status_that_was_set_keeps_conditions_away(site):
    page = static_file("a.txt", site)
    page.status = 404
    response = resolve_file("GET", Headers({IF_NONE: "*", "Range": "bytes=0-1"}), page)
    assert (response.status, response.body) == (404, CONTENT)
    assert lines_of(response) == WHOLE[:1]


def test_what_a_handler_adds_stays_and_what_is_the_files_is_set(site):
    response = static_file("a.txt", site, max_age=60)
    response.headers["X-Kept"] = "1"
    response.headers["ETag"] = '"mine"'
    response.headers["Content-Security-Policy"] = "default-src 'self'"
    response.set_cookie("c", "1", httponly=False, samesite=None)
    answer = resolve_file("GET", Headers({IF_NONE: ETAG}), response)
    assert answer.status == 304
    assert lines_of(answer) == [
        "Cache-Control: max-age=60",
        "X-Kept: 1",
        "Content-Security-Policy: default-src 'self'",
        f"ETag: {ETAG}",
        "Set-Cookie: c=1; Path=/",
    ]
    assert answer.header_block(secure=True).endswith(
        b"Set-Cookie: c=1; Path=/; Secure\r\n"
    )


def test_a_rendered_response_from_a_worker_gives_the_same(site):
    made = static_file("a.txt", site, max_age=60)
    path = os.path.realpath(site / "a.txt")
    assert made.body == StaticFile(path, None, False)
    sent = Response.from_block(200, made.header_block(), StaticFile(*made.body))
    headers = Headers({"Range": "bytes=1-2"})
    here, there = (resolve_file("GET", headers, r) for r in (made, sent))
    assert lines_of(there) == lines_of(here)
    assert there.body == here.body == b"12"


def test_a_response_used_again_is_resolved_afresh(site):
    response = static_file("a.txt", site)
    first = resolve_file("GET", Headers({IF_NONE: ETAG}), response)
    put(site / "a.txt", b"new", MTIME + 1)
    second = resolve_file("GET", Headers({IF_NONE: ETAG}), response)
    assert (first.status, second.status, second.body) == (304, 200, b"new")


def test_other_responses_pass_through():
    response = Response("text").settle()
    assert resolve_file("GET", Headers({IF_NONE: "*"}), response) is response


def test_a_file_that_goes_before_it_is_sent_is_404(site):
    path, *options = static_file("a.txt", site).body
    os.unlink(site / "a.txt")
    with pytest.raises(HTTPError, match="404"):
        ask_worker(path, *options)


def ask_worker(path, *options):
    """Resolve what a worker sends: a rendered block, a path, and how to send it."""
    sent = Response.from_block(200, b"", StaticFile(path, *options))
    return resolve_file("GET", NO_HEADERS, sent)


@pytest.mark.parametrize("mtime", [2**33, -1])
def test_a_date_that_can_not_be_is_not_sent(site, mtime):
    put(site / "a.txt", CONTENT, mtime)
    response = ask(site, headers={SINCE: DATE})
    assert response.status == 200
    assert "last-modified" not in response.headers
    assert "etag" in response.headers


@pytest.mark.parametrize(
    "lines, concerned",
    [
        ("", False),
        ("User-Agent: if-none-match range\r\nX-Range: 1\r\n", False),
        ("If-None-Match: *\r\n", True),
        ("iF-mOdified-since: x\r\n", True),
        ("RANGE: bytes=0-1\r\n", True),
        ("Accept-encoding: gzip\r\n", True),
        ("Accept-encoding:\t a, b \r\nIf-Range: \xe9\r\naccept-encoding:c\r\n", True),
    ],
)
def test_headers_are_parsed_only_where_they_matter(lines, concerned):
    request = Request(
        parse_head(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode("latin-1"))
    )
    found = deciding_headers(request)
    assert (found is NO_HEADERS) is not concerned
    assert list(found.items()) == (
        list(request.headers.items())[1:] if concerned else []
    )


def test_dynamic_answers_have_conditions_too():
    def made(**headers):
        response = Response(
            {"a": 1}, 201, headers={"ETag": 'W/"1"', **headers}
        ).settle()
        response.set_cookie("c", "1")
        return response

    same = conditional_response("GET", Headers({IF_NONE: '"1"'}), made(Vary="Accept"))
    assert (same.status, same.body) == (304, b"")
    assert dict(same.headers.items()) == {"ETag": 'W/"1"', "Vary": "Accept"}
    assert b"Set-Cookie: c=1" in same.header_block()
    changed = made()
    assert conditional_response("GET", Headers({IF_NONE: '"2"'}), changed) is changed
    failed = conditional_response("PUT", Headers({IF_MATCH: '"2"'}), made())
    assert failed.status == 412
    dated = Response("x", headers={"Last-Modified": DATE}).settle()
    assert conditional_response("GET", Headers({SINCE: DATE}), dated).status == 304
    plain = Response("x").settle()
    assert conditional_response("GET", Headers({IF_NONE: "*"}), plain) is plain
    error = Response("x", 404, headers={"ETag": '"1"'}).settle()
    assert conditional_response("GET", Headers({IF_NONE: "*"}), error) is error


# ======================================================================================
# Names and types
# ======================================================================================

TYPES = [
    ("a.html", "text/html; charset=utf-8"),
    ("a.HTM", "text/html; charset=utf-8"),
    ("a.css", "text/css; charset=utf-8"),
    ("a.js", "text/javascript; charset=utf-8"),
    ("a.mjs", "text/javascript; charset=utf-8"),
    ("a.txt", "text/plain; charset=utf-8"),
    ("a.md", "text/markdown; charset=utf-8"),
    ("a.csv", "text/csv; charset=utf-8"),
    ("a.json", "application/json"),
    ("a.svg", "image/svg+xml"),
    ("a.png", "image/png"),
    ("a.jpg", "image/jpeg"),
    ("a.gif", "image/gif"),
    ("a.webp", "image/webp"),
    ("a.ico", "image/vnd.microsoft.icon"),
    ("a.woff2", "font/woff2"),
    ("a.wasm", "application/wasm"),
    ("a.pdf", "application/pdf"),
    ("a.mp4", "video/mp4"),
    ("a.tar.gz", "application/gzip"),
    ("a.svgz", "application/octet-stream"),
    ("a.css.br", "application/octet-stream"),
    ("a.unheard-of", "application/octet-stream"),
    ("README", "application/octet-stream"),
    ("html", "application/octet-stream"),
    ("dir.html/README", "application/octet-stream"),
]


@pytest.mark.parametrize("filename, expected", TYPES)
def test_content_types(filename, expected):
    assert content_type_of(filename) == expected


def test_content_types_do_not_depend_on_the_machine(monkeypatch):
    import mimetypes

    mimetypes.init()
    monkeypatch.setitem(mimetypes.types_map, ".gif", "application/x-strange")
    assert content_type_of("a.gif") == "image/gif"


def test_a_given_type_wins_and_text_gets_its_charset(site):
    types = [
        static_file("a.txt", site, mimetype=given_type).content_type
        for given_type in ("text/x-log", "text/plain; charset=latin-1", "image/png")
    ]
    assert types == [
        "text/x-log; charset=utf-8",
        "text/plain; charset=latin-1",
        "image/png",
    ]


DISPOSITIONS = [
    ("a.txt", 'attachment; filename="a.txt"'),
    ("my file.txt", 'attachment; filename="my file.txt"'),
    ("dir/a.txt", 'attachment; filename="a.txt"'),
    ("..\\a.txt", 'attachment; filename="a.txt"'),
    ("dir/", 'attachment; filename="download"'),
    ('a".txt', "attachment; filename=\"a_.txt\"; filename*=UTF-8''a%22.txt"),
    ("50%.txt", "attachment; filename=\"50_.txt\"; filename*=UTF-8''50%25.txt"),
    (
        "naïve.txt",
        "attachment; filename=\"na_ve.txt\"; filename*=UTF-8''na%C3%AFve.txt",
    ),
    ("€ rates", "attachment; filename=\"_ rates\"; filename*=UTF-8''%E2%82%AC%20rates"),
    ("a\r\nX: y", "attachment; filename=\"a__X: y\"; filename*=UTF-8''a%0D%0AX%3A%20y"),
    ("a\udcff", "attachment; filename=\"a_\"; filename*=UTF-8''a%3F"),
    ("a'b;c", 'attachment; filename="a\'b;c"'),
]


@pytest.mark.parametrize("filename, expected", DISPOSITIONS)
def test_a_download_is_named_safely(filename, expected):
    assert content_disposition(filename) == expected


def test_download_and_max_age_become_headers(site):
    put(site / "sub" / "b.txt", b"b")
    assert lines_of(static_file("sub/b.txt", site, download=True, max_age=0)) == [
        "Content-Type: text/plain; charset=utf-8",
        'Content-Disposition: attachment; filename="b.txt"',
        "Cache-Control: max-age=0",
    ]
    named = static_file("a.txt", site, download="x.txt").headers["Content-Disposition"]
    assert named == 'attachment; filename="x.txt"'
    with pytest.raises(ValueError, match="max_age"):
        static_file("a.txt", site, max_age=-1)


def test_a_mimetype_can_not_add_headers(site):
    with pytest.raises(ValueError, match="Content-Type"):
        static_file("a.txt", site, mimetype="text/plain\r\nX-Evil: 1")


def test_a_relative_root_is_below_the_present_directory(site, monkeypatch):
    monkeypatch.chdir(site.parent)
    assert static_file("a.txt", site.name).body.path == os.path.realpath(site / "a.txt")


# ======================================================================================
# Attacks: nothing outside of the root, and no way to tell what is there (row 64)
# ======================================================================================

ATTACKS = [
    "",
    ".",
    "..",
    "/",
    "./a.txt",
    "../secret.txt",
    "../static-secret/s.txt",
    "../static/a.txt",
    "sub/../a.txt",
    "sub/../../secret.txt",
    "sub/..",
    "sub/.",
    "sub//b.txt",
    "sub/",
    "sub",
    "a.txt/",
    "a.txt/.",
    "a.txt/b",
    "/a.txt",
    "//a.txt",
    "/etc/passwd",
    "//etc/passwd",
    "%2e%2e/secret.txt",
    "..%2fsecret.txt",
    "%2e%2e%2fsecret.txt",
    "..%5csecret.txt",
    "%252e%252e/secret.txt",
    "..\\secret.txt",
    "sub\\b.txt",
    "\\\\server\\share\\a.txt",
    "C:\\a.txt",
    "C:/a.txt",
    "C:a.txt",
    "a.txt\0",
    "a.txt\0.png",
    "\0",
    "a.txt:stream",
    "a.txt::$DATA",
    "CON",
    "CON.txt",
    "CON .txt",
    "conin$",
    "nul",
    "....//secret.txt",
    ".../secret.txt",
    "\uff0e\uff0e/secret.txt",
    "\udcff",
    "\ud800",
    "a" * 300,
    "a/" * 3000,
    "missing.txt",
    "link-to-secret",
    "link-to-directory/s.txt",
    "link-to-root/secret.txt",
    "link-to-nothing",
    "link-to-itself",
    "pipe",
    "~/a.txt",
    "~root",
    "$HOME",
    "a.txt?x",
    "*",
]


@pytest.fixture
def guarded(tmp_path):
    """Return a root with things beside it that it must not give away."""
    root = tmp_path / "static"
    put(root / "a.txt", CONTENT)
    put(root / "sub" / "b.txt", b"b")
    put(tmp_path / "secret.txt", b"secret")
    put(tmp_path / "static-secret" / "s.txt", b"secret")
    for name, target in {
        "link-to-secret": tmp_path / "secret.txt",
        "link-to-directory": tmp_path / "static-secret",
        "link-to-root": tmp_path,
        "link-to-nothing": tmp_path / "nothing",
        "link-to-itself": root / "link-to-itself",
        "link-inside": root / "a.txt",
        "link-to-sub": "sub",
    }.items():
        (root / name).symlink_to(target)
    if hasattr(os, "mkfifo"):
        os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize("cache", [None, True, False])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_a_404_like_any_other(guarded, name, cache):
    with pytest.raises(HTTPError) as caught:
        static_file(name, guarded, cache=cache)
    error = caught.value
    assert (error.status, error.text, error.headers) == (404, "Not Found", {})


@pytest.mark.parametrize(
    "name", ["a.txt", "sub/b.txt", "link-inside", "link-to-sub/b.txt"]
)
def test_what_lies_inside_is_found(guarded, name):
    assert content_of(ask(guarded, name)) in (CONTENT, b"b")


def test_devices_and_directories_are_404():
    for name in ("null", "zero", "fd"):
        with pytest.raises(HTTPError, match="404"):
            static_file(name, "/dev")


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO]
)
def test_what_can_not_be_opened_is_404(site, monkeypatch, number):
    monkeypatch.setattr(staticfiles, "_open_real", refuse(number))
    with pytest.raises(HTTPError, match="404"):
        static_file("a.txt", site)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO])
def test_a_failing_server_is_no_404(site, monkeypatch, number):
    monkeypatch.setattr(staticfiles, "_open_real", refuse(number))
    with pytest.raises(OSError, match="refused"):
        static_file("a.txt", site)


def refuse(number):
    def open_nothing(path, flags):
        raise OSError(number, "refused", path)

    return open_nothing


@pytest.mark.skipif(not getattr(os, "geteuid", lambda: 0)(), reason="root reads all")
@pytest.mark.parametrize("mode", [0o000, 0o200])
def test_an_unreadable_file_is_404_also_when_it_was_read_before(site, mode):
    assert content_of(ask(site)) == CONTENT
    os.chmod(site / "a.txt", mode)
    with pytest.raises(HTTPError, match="404"):
        ask(site)


WINDOWS_NAMES = [
    "C:",
    "C:/a.txt",
    "c:a.txt",
    "a.txt:stream",
    "sub/a.txt::$DATA",
    "CON",
    "con.txt",
    "con .txt",
    "LPT1 .log",
    "conin$",
    "CONOUT$.txt",
    "aux  /a.txt",
    "sub/NUL",
    "aux.tar.gz",
    "COM1",
    "lpt9.log",
    "com\xb9.txt",
    "PRN/a.txt",
    "a.txt.",
    "a.txt ",
    "sub. /a.txt",
    "a?.txt",
    "a*.txt",
    'a".txt',
    "a|b",
    "a<b",
    "a\x1fb",
    "a~1/../b",
]


@pytest.mark.parametrize("name", WINDOWS_NAMES)
def test_names_that_mean_something_else_on_windows(name):
    assert is_safe_name(name, windows=True) is False


@pytest.mark.parametrize(
    "name",
    [
        *("a.txt", "console.txt", "sub/com10", "nullable", "a b.txt", ".htaccess", "é"),
        *("con a.txt", "conin", "a con .txt", "xaux .c"),
    ],
)
def test_names_that_are_safe_everywhere(name):
    assert is_safe_name(name, windows=True) is is_safe_name(name, windows=False) is True


def test_a_link_put_in_the_place_of_a_file_is_looked_at_again(guarded):
    assert content_of(ask(guarded)) == CONTENT
    os.unlink(guarded / "a.txt")
    (guarded / "a.txt").symlink_to(guarded.parent / "secret.txt")
    with pytest.raises(HTTPError, match="404"):
        ask(guarded)


def test_a_file_moved_out_and_linked_to_is_404(guarded):
    assert content_of(ask(guarded)) == CONTENT
    os.rename(guarded / "a.txt", guarded.parent / "out.txt")
    (guarded / "a.txt").symlink_to(guarded.parent / "out.txt")
    with pytest.raises(HTTPError, match="404"):
        ask(guarded)


def test_a_root_that_is_a_link_follows_it_each_time(tmp_path):
    for release in ("1", "2"):
        put(tmp_path / release / "a.txt", release.encode())
    (tmp_path / "current").symlink_to(tmp_path / "1")
    assert content_of(ask(tmp_path / "current")) == b"1"
    (tmp_path / "new").symlink_to(tmp_path / "2")
    os.replace(tmp_path / "new", tmp_path / "current")
    assert content_of(ask(tmp_path / "current")) == b"2"


def test_two_roots_for_one_path_are_confined_each_by_itself(guarded):
    (guarded.parent / "static-secret" / "a.txt").symlink_to(guarded / "a.txt")
    assert (
        content_of(ask(guarded / "link-to-directory", "s.txt", cache=True)) == b"secret"
    )
    with pytest.raises(HTTPError, match="404"):
        ask(guarded, "link-to-directory/s.txt", cache=True)
    with pytest.raises(HTTPError, match="404"):
        ask(guarded.parent / "static-secret", "a.txt", cache=True)


# ======================================================================================
# Directories
# ======================================================================================


@pytest.fixture
def pages(tmp_path):
    put(tmp_path / "index.html", b"top")
    put(tmp_path / "docs" / "index.html", b"docs")
    put(tmp_path / "a dir:1" / "index.html", b"odd")
    put(tmp_path / "bare" / "a.txt", b"a")
    return tmp_path


@pytest.mark.parametrize(
    "filename, expected",
    [
        ("", b"top"),
        ("index.html", b"top"),
        ("docs/", b"docs"),
        ("docs/index.html", b"docs"),
        ("docs", "./docs/"),
        ("a dir:1", "./a%20dir%3A1/"),
        ("bare", 404),
        ("bare/", 404),
        ("docs//", 404),
        ("/", 404),
        ("../docs", 404),
        ("docs/..", 404),
        ("docs/../", 404),
        ("index.html/", 404),
        ("missing", 404),
    ],
)
def test_a_directory_has_an_index_if_asked_for(pages, filename, expected):
    if expected == 404:
        with pytest.raises(HTTPError, match="404"):
            directory_file(pages, filename, index="index.html")
        return
    response = directory_file(pages, filename, index="index.html")
    if response.status == 302:
        assert response.headers["Location"] == expected
    else:
        assert content_of(resolve_file("GET", NO_HEADERS, response)) == expected


DOT_FILES = [
    ".git/config",
    ".env",
    ".htpasswd",
    "docs/.svn/entries",
    "docs/.DS_Store",
    "...",
    "docs/..a",
    ".well-known/.git/config",
    ".well-known-not/x",
    ".well-knownx",
    "docs/.well-known/x",
    ".WELL-KNOWN/x",
]
NO_DOT_FILES = [
    ".well-known/acme-challenge/x",
    ".well-known/security.txt",
    "a.b/c.d",
    "docs/a.",
    "well-known",
]


@pytest.fixture
def dotted(pages):
    for name in DOT_FILES + NO_DOT_FILES:
        put(pages / name, name.encode())
    put(pages / ".hidden" / "index.html", b"hidden")
    return pages


@pytest.mark.parametrize("cache", [None, True, False])
@pytest.mark.parametrize("name", DOT_FILES)
def test_a_dot_file_is_404_unless_asked_for(dotted, name, cache):
    for index in (None, "index.html"):
        with pytest.raises(HTTPError, match=r"^404 Not Found$"):
            directory_file(dotted, name, index=index, cache=cache)
    with pytest.raises(HTTPError, match=r"^404 Not Found$"):
        static_file(name, dotted, cache=cache)
    for found in (
        directory_file(dotted, name, cache=cache, dotfiles=True),
        static_file(name, dotted, cache=cache, dotfiles=True),
    ):
        answer = resolve_file("GET", NO_HEADERS, found)
        assert content_of(answer) == name.encode()


@pytest.mark.parametrize("name", NO_DOT_FILES)
def test_a_dot_elsewhere_and_what_is_well_known_are_no_dot_files(dotted, name):
    answer = resolve_file("GET", NO_HEADERS, directory_file(dotted, name))
    assert content_of(answer) == name.encode()


@pytest.mark.parametrize("filename", [".hidden", ".hidden/", ".well-known"])
def test_a_directory_with_a_dot_has_no_index(dotted, filename):
    with pytest.raises(HTTPError, match="404"):
        directory_file(dotted, filename, index="index.html")


def test_a_directory_with_a_dot_has_an_index_if_asked_for(dotted):
    options = {"index": "index.html", "dotfiles": True}
    moved = directory_file(dotted, ".hidden", **options)
    assert moved.headers["Location"] == "./.hidden/"
    found = directory_file(dotted, ".hidden/", **options)
    assert content_of(resolve_file("GET", NO_HEADERS, found)) == b"hidden"


def test_a_root_may_be_below_a_dot(dotted):
    assert content_of(ask(dotted / ".hidden", "index.html")) == b"hidden"
    (dotted / "current").symlink_to(".hidden")  # the name says no dot
    assert content_of(ask(dotted, "current/index.html")) == b"hidden"


@pytest.mark.parametrize("dotfiles, status", [(False, 404), (True, 200)])
def test_an_application_serves_dot_files_if_asked_to(dotted, dotfiles, status):
    application = Pixie()
    application.static("/", dotted, dotfiles=dotfiles)
    for path, expected in (("/.git/config", status), ("/docs/index.html", 200)):
        head = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"
        request = Request(parse_head(head.encode()))
        assert asyncio.run(application.handle(request)).status == expected


@pytest.mark.parametrize(
    "query, expected",
    [
        ("", "./docs/"),
        ("v=1&w=%20", "./docs/?v=1&w=%20"),
        ("a/../b?", "./docs/?a/../b?"),
    ],
)
def test_the_redirect_to_a_directory_keeps_the_query(pages, query, expected):
    response = directory_file(pages, "docs", index="index.html", query=query)
    assert response.headers["Location"] == expected


@pytest.mark.parametrize("filename", ["", "docs", "docs/", "missing"])
def test_a_directory_is_404_if_not(pages, filename):
    with pytest.raises(HTTPError, match="404"):
        directory_file(pages, filename)


def test_options_reach_the_file(pages):
    response = directory_file(pages, "bare/a.txt", max_age=9, cache=True)
    assert response.headers["Cache-Control"] == "max-age=9"
    assert response.body.cache is True


# ======================================================================================
# Memory
# ======================================================================================


@pytest.fixture
def disk(monkeypatch):
    """Return a list that records each look at the disk: "stat" and "open"."""
    seen = []
    now = time.monotonic()  # stands: a new second has more to look at
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for name in ("stat", "lstat", "open"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name), seen))
    return seen


def recorded(name, function, seen):
    def record(*args, **kwargs):
        seen.append(name)
        return function(*args, **kwargs)

    return record


def later(monkeypatch):
    """Let a second pass: what is known of siblings is known no more."""
    now = time.monotonic() + 1
    monkeypatch.setattr(time, "monotonic", lambda: now)


def test_checked_memory_costs_one_stat(site, disk):
    ask(site)
    disk.clear()
    assert ask(site).body == CONTENT
    assert disk == ["stat"]


def test_required_memory_never_touches_the_disk(site, disk):
    cached_file("a.txt", site)
    ask(site, cache=True)
    shutil.rmtree(site)
    disk.clear()
    response = resolve_file("GET", NO_HEADERS, cached_file("a.txt", site))
    assert response.body == CONTENT
    assert lines_of(response) == WHOLE
    assert ask_worker(*cached_file("a.txt", site).body).body == CONTENT
    assert disk == []


def test_suppressed_memory_reads_from_disk(site):
    path = os.path.realpath(site / "a.txt")
    assert ask(site).body == CONTENT
    assert ask(site, cache=False).body == FileSlice(path, 0, 10)


@pytest.mark.parametrize("cache", [None, False])
def test_a_change_is_seen_at_once(site, cache):
    path = site / "a.txt"
    seen = []
    for content, mtime in [(b"1", 1), (b"2", 2), (b"22", 2), (b"1", 1)]:
        put(path, content, mtime)
        seen.append(content_of(ask(site, cache=cache)))
    assert seen == [b"1", b"2", b"22", b"1"]
    os.unlink(path)
    with pytest.raises(HTTPError, match="404"):
        ask(site, cache=cache)


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_seen(site):
    assert content_of(ask(site)) == CONTENT
    put(site / "new", CONTENT[::-1])
    os.replace(site / "new", site / "a.txt")
    assert content_of(ask(site)) == CONTENT[::-1]


def test_what_has_just_changed_is_not_kept(site, monkeypatch):
    monkeypatch.setattr(staticfiles, "UNSETTLED_NANOSECONDS", 10**18)
    put(site / "just.txt", b"now")
    response = ask(site, "just.txt")
    assert isinstance(response.body, FileSlice)
    monkeypatch.setattr(staticfiles, "UNSETTLED_NANOSECONDS", 0)
    assert ask(site, "just.txt").body == b"now"


def test_a_required_file_is_kept_once_by_however_many_names(guarded, disk):
    os.symlink(".", guarded / "sub" / "here")
    os.symlink("../sub", guarded / "sub" / "again")
    for depth in range(12):
        for turns in itertools.product(("here/", "again/"), repeat=min(depth, 6)):
            name = f"sub/{''.join(turns)}b.txt"
            assert content_of(ask(guarded, name, cache=True)) == b"b"
    assert len(_first_names) == len(_named_files) == 1
    assert _find_again.cache_info().maxsize == MAX_KNOWN_FILES
    assert _require.cache_info().currsize == 1
    os.unlink(guarded / "sub" / "b.txt")
    _find_again.cache_clear()  # as if other names had taken the room
    disk.clear()
    assert ask(guarded, "sub/b.txt", cache=True).body == b"b"
    assert disk == []


def test_a_second_link_to_a_required_file_is_sent_but_its_content_kept_once(guarded):
    os.link(guarded / "a.txt", guarded / "A.TXT")
    for name in ("a.txt", "A.TXT", "a.txt", "A.TXT"):
        answer = ask(guarded, name, cache=True)
        assert (content_of(answer), answer.headers["ETag"]) == (CONTENT, ETAG)
    assert _require.cache_info().currsize == 1


def test_a_file_in_the_place_of_a_required_one_that_went_is_not_taken_for_it(site):
    assert content_of(ask(site, cache=True)) == CONTENT
    inode = os.stat(site / "a.txt").st_ino
    os.rename(site / "a.txt", site / "b.txt")  # as where a number is given out again
    (site / "b.txt").write_bytes(b"of b")
    assert os.stat(site / "b.txt").st_ino == inode
    assert content_of(ask(site, "b.txt", cache=True)) == b"of b"
    assert content_of(ask(site, cache=True)) == CONTENT


def test_a_file_below_two_roots_is_kept_for_each(guarded, disk):
    ask(guarded, "sub/b.txt", cache=True)
    ask(guarded / "sub", "b.txt", cache=True)
    _find_again.cache_clear()
    disk.clear()
    assert ask(guarded, "sub/b.txt", cache=True).body == b"b"
    assert ask(guarded / "sub", "b.txt", cache=True).body == b"b"
    assert disk == []


@pytest.mark.parametrize("size, kept", [(0, True), (LARGE - 1, True), (LARGE, False)])
def test_large_files_stay_on_disk(site, size, kept):
    put(site / "b.bin", b"x" * size)
    body = ask(site, "b.bin").body
    assert isinstance(body, bytes) is kept
    assert (len(body) if kept else body.length) == size


def test_memory_is_bounded_in_bytes():
    bound = MAX_CACHED_FILE_BYTES * _keep.cache_info().maxsize
    assert bound == 64 * 1024 * 1024


@pytest.mark.parametrize("size", [10, LARGE, 3 * FILE_CHUNK_BYTES + 1])
def test_a_required_file_is_kept_whatever_its_size_and_whoever_else_is(
    site, disk, size
):
    content = os.urandom(size)
    put(site / "b.bin", content)
    put(site / "b.bin.gz", content[::-1])
    assert content_of(ask(site, "b.bin", cache=True)) == content
    for bounded in (_keep, _siblings, _look_inside, _on_disk):
        bounded.cache_clear()  # as if others had taken the room
    shutil.rmtree(site)
    disk.clear()
    answer = ask(site, "b.bin", cache=True)
    assert content_of(answer) == content
    assert answer.stream_bytes in (None, size)
    coded = ask(site, "b.bin", cache=True, headers={"Accept-Encoding": "gzip"})
    assert content_of(coded) == content[::-1]
    part = ask(site, "b.bin", cache=True, headers={"Range": f"bytes=1-{size - 2}"})
    assert (part.status, content_of(part)) == (206, content[1:-1])
    assert disk == []


def test_a_large_file_in_memory_is_sent_in_pieces(site):
    put(site / "b.bin", b"x" * LARGE)
    answer = ask(site, "b.bin", cache=True)
    assert answer.stream_bytes == LARGE
    assert not isinstance(answer.body, (bytes, FileSlice))


def test_a_required_file_that_is_written_to_is_sent_but_not_kept(site, monkeypatch):
    def torn(path, state, coding):
        raise OSError(errno.EAGAIN, "the file changed while it was read")

    with monkeypatch.context() as patched:
        patched.setattr(staticfiles, "_read", torn)
        assert content_of(ask(site, cache=True)) == CONTENT
    put(site / "a.txt", b"new", MTIME + 1)
    assert content_of(ask(site, cache=True)) == b"new"


def test_a_file_torn_by_a_writer_is_not_kept(site, monkeypatch):
    path = put(site / "torn.txt", b"old")
    state = _file_state(os.stat(path))
    put(path, b"new content")
    with pytest.raises(OSError, match="changed"):
        _keep(str(path), state, "")
    assert content_of(ask(site, "torn.txt")) == b"new content"


def test_a_file_that_changes_after_it_was_found_is_sent_as_it_is_now(site):
    response = static_file("a.txt", site)
    put(site / "a.txt", b"changed since", MTIME + 1)
    answer = resolve_file("GET", NO_HEADERS, response)
    assert content_of(answer) == b"changed since"
    assert answer.headers["Last-Modified"] == A_SECOND_AFTER


# ======================================================================================
# Precompressed siblings
# ======================================================================================


@pytest.fixture
def packed(tmp_path):
    """Return a directory with app.css in all codings (the content is the suffix)."""
    for suffix in ("", ".br", ".zst", ".gz"):
        put(tmp_path / f"app.css{suffix}", suffix.encode() or b"plain")
    put(tmp_path / "only-gz.css", b"plain")
    put(tmp_path / "only-gz.css.gz", b".gz")
    put(tmp_path / "alone.css", b"plain")
    return tmp_path


NEGOTIATED = [
    ("app.css", None, b"plain"),
    ("app.css", "", b"plain"),
    ("app.css", "identity", b"plain"),
    ("app.css", "gzip, deflate, br, zstd", b".br"),
    ("app.css", "gzip, zstd", b".zst"),
    ("app.css", "gzip", b".gz"),
    ("app.css", "gzip;q=1, br;q=0.9", b".gz"),
    ("app.css", "gzip;q=0.5, identity", b"plain"),
    ("app.css", "br;q=0, *", b".zst"),
    ("app.css", "identity;q=0, gzip;q=0.1", b".gz"),
    ("app.css", "identity;q=0", b"plain"),
    ("only-gz.css", "br", b"plain"),
    ("only-gz.css", "br, gzip", b".gz"),
    ("alone.css", "br, gzip", b"plain"),
]
CODING = {b"plain": None, b".br": "br", b".zst": "zstd", b".gz": "gzip"}


@pytest.mark.parametrize("cache", [None, True, False])
@pytest.mark.parametrize("name, accepted, content", NEGOTIATED)
def test_a_sibling_is_sent_to_who_takes_it(packed, cache, name, accepted, content):
    headers = {} if accepted is None else {"Accept-Encoding": accepted}
    response = ask(packed, name, headers=headers, cache=cache)
    assert content_of(response) == content
    assert response.headers.get("Content-Encoding") == CODING[content]
    assert response.headers["Content-Type"] == "text/css; charset=utf-8"
    vary = None if name == "alone.css" else "Accept-Encoding"
    assert response.headers.get("Vary") == vary


def test_each_coding_has_its_own_tag(packed):
    accepted = ["identity", "br", "zstd", "gzip"]
    tags = {
        ask(packed, "app.css", headers={"Accept-Encoding": a}).headers["ETag"]
        for a in accepted
    }
    assert len(tags) == 4
    for coding in accepted:
        headers = {"Accept-Encoding": coding, IF_NONE: ", ".join(sorted(tags))}
        response = ask(packed, "app.css", headers=headers)
        assert (response.status, response.headers["Vary"]) == (304, "Accept-Encoding")


def test_a_range_is_one_of_the_coded_bytes(packed):
    headers = {"Accept-Encoding": "br", "Range": "bytes=1-"}
    response = ask(packed, "app.css", headers=headers)
    assert (response.status, response.body) == (206, b"br")
    assert response.headers["Content-Range"] == "bytes 1-2/3"
    assert response.headers["Content-Encoding"] == "br"


def test_a_sibling_older_than_its_file_is_not_sent(packed):
    headers = {"Accept-Encoding": "br"}
    assert content_of(ask(packed, "app.css", headers=headers)) == b".br"
    put(packed / "app.css", b"changed", MTIME + 1)
    assert content_of(ask(packed, "app.css", headers=headers)) == b"changed"


def test_a_sibling_that_changes_goes_or_comes_is_seen(packed, monkeypatch):
    headers = {"Accept-Encoding": "br"}
    assert content_of(ask(packed, "app.css", headers=headers)) == b".br"
    put(packed / "app.css.br", b"better")
    assert content_of(ask(packed, "app.css", headers=headers)) == b"better"
    os.unlink(packed / "app.css.br")
    assert content_of(ask(packed, "app.css", headers=headers)) == b"plain"
    put(packed / "app.css.br", b"back")
    later(monkeypatch)
    assert content_of(ask(packed, "app.css", headers=headers)) == b"back"


def test_a_sibling_that_is_a_link_or_a_directory_is_not_sent(packed):
    secret = put(packed.parent / "secret", b"secret", MTIME + 9)
    (packed / "alone.css.br").symlink_to(secret)
    (packed / "alone.css.gz").mkdir()
    headers = {"Accept-Encoding": "br, gzip"}
    response = ask(packed, "alone.css", headers=headers)
    assert response.body == b"plain"
    assert "Vary" not in response.headers


def test_what_a_handler_has_coded_itself_is_left_alone(packed):
    response = static_file("only-gz.css.gz", packed, mimetype="text/css")
    put(packed / "only-gz.css.gz.br", b"twice")
    response.headers["Content-Encoding"] = "gzip"
    answer = resolve_file("GET", Headers({"Accept-Encoding": "br"}), response)
    assert answer.body == b".gz"
    assert answer.headers.getall("Content-Encoding") == ["gzip"]


# ======================================================================================
# Files that are removed
# ======================================================================================


@pytest.mark.parametrize(
    "method, headers",
    [
        ("GET", {}),
        ("HEAD", {}),
        ("GET", {"Range": "bytes=0-1"}),
        ("GET", {IF_NONE: "*"}),
        ("GET", {"Accept-Encoding": "gzip"}),
    ],
)
def test_a_file_to_be_removed_is_sent_whole(packed, method, headers):
    for cache in (None, True):
        response = ask(
            packed, "app.css", method, headers, cache=cache, delete_after=True
        )
        path = os.path.realpath(packed / "app.css")
        assert response.body == FileSlice(path, 0, 5, delete_after=True)
        assert response.status == 200
        assert lines_of(response) == ["Content-Type: text/css; charset=utf-8"]


# ======================================================================================
# The guide
# ======================================================================================

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "files.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text("utf-8"), re.M | re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_guide_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"{GUIDE.name}, block {number + 1}"
    exec(compile(BLOCKS[number], name, "exec"), {"__name__": "guide"})


# ======================================================================================
# Properties
# ======================================================================================

if given is not None:

    @settings(max_examples=300, deadline=None)
    @given(header=st.text(max_size=60))
    def test_no_header_makes_a_parser_fail(header):
        parse_etags(header)
        parse_ranges(header, 10)
        parse_ranges("bytes=" + header, 10)
        assert set(accepted_codings(header, ALL)) <= {*ALL, "identity"}
        is_range_current(header, ETAG, MTIME)

    @settings(max_examples=300, deadline=None)
    @given(name=st.text("ab./\\\0%~: -", max_size=12))
    def test_a_safe_name_stays_below(name):
        if is_safe_name(name):
            path = os.path.normpath(os.path.join("/srv", name))
            assert path.startswith("/srv/")
            assert path == "/srv/" + name
