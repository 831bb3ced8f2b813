"""Bytes to events, and heads and chunks to bytes.

Every case is fed whole, byte by byte and cut in two at every place, and must give the
same events each time, from the package's reader and from the companion's. Row numbers
group the cases by fault: to 15 the request line, to 26 headers, to 35 and 45 framing,
to 42 bodies, 46 pipelines.
"""

import base64
import json
import sys
from pathlib import Path

import pytest
from events import events_from, joined, next_event

from pixie_web import Headers, ProtocolError
from pixie_web.protocol.http11 import (
    CLOSED,
    END,
    LAST_CHUNK,
    MAX_JOINED_BYTES,
    MAX_JOINED_CHUNKS,
    MAX_SMALL_CHUNKS,
    MIN_CHUNK_BYTES,
    NEED_DATA,
    Head,
    RequestReader,
    Signal,
    WireLimits,
    encode_chunk,
    is_header_block,
    parse_head,
    response_head,
)
from pixie_web.text import check_header

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ImportError:  # the properties at the end need it, the tables do not
    given = None
try:
    from pixie_web import httptools
except ImportError:  # it is an extra
    httptools = None

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
POST_1_0 = b"POST / HTTP/1.0\r\n"
CODED = b"Transfer-Encoding: chunked\r\n"
CHUNKED = POST + CODED + b"\r\n"

Reader = RequestReader  # or the companion's


@pytest.fixture(scope="module", autouse=True, params=["pixie", "httptools"])
def parser(request):
    """Run the whole file with each reader; llhttp is asked wherever it can be."""
    global Reader
    if request.param == "pixie":
        yield
        return
    if httptools is None:
        pytest.skip("httptools is not installed")
    usual, httptools.MIN_CHUNKS = httptools.MIN_CHUNKS, 0
    Reader = httptools.HttptoolsReader
    yield
    Reader, httptools.MIN_CHUNKS = RequestReader, usual


def events_of(pieces, *, eof=False, **limits):
    """Return what a reader makes of `pieces`: "GET /", b"body", "end", 400."""
    events = events_from(
        Reader(WireLimits(**limits)), [*pieces, None] if eof else pieces
    )
    return [in_short(event) for event in joined(events)]


def in_short(event):
    if isinstance(event, Head):
        return f"{event.method} {event.path}"
    if isinstance(event, ProtocolError):
        assert event.text.isascii()
        assert event.text.endswith(".")
        return event.status
    return event if isinstance(event, bytes) else event.value


def cuts(data):
    """Yield ways to cut `data`: whole, into bytes, and in two at every place."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    step = 1 + len(data) // 400
    for place in range(1, len(data), step):
        yield [data[:place], data[place:]]


def assert_events(data, expected, **options):
    for pieces in cuts(data):
        assert events_of(pieces, **options) == expected


def table(*rows):
    return [pytest.param(*row[2:], id=f"row{row[0]}-{row[1]}") for row in rows]


def with_line(line):
    return GET + line + b"\r\n\r\n"


def with_host(value):
    return b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n"


def with_target(target):
    return b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"


def with_version(version):
    return b"GET / " + version + b"\r\nHost: a\r\n\r\n"


def with_length(value):
    return POST + b"Content-Length:" + value + b"\r\n\r\nhello"


def with_coding(value):
    return POST + b"Transfer-Encoding:" + value + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


# What is refused ----------------------------------------------------------------------

REFUSED_REQUEST_LINES = table(
    (1, "no target", b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (1, "HTTP/0.9, refused before its headers", b"GET /\r\n", 400),
    (1, "method alone", b"GET\r\n\r\n", 400),
    (1, "four words", b"GET / x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (1, "space in target", b"GET /pa th HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (1, "garbage after version", b"GET / HTTP/1.1 x\r\nHost: a\r\n\r\n", 400),
    (1, "space after version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    (1, "two spaces after method", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (1, "two spaces after target", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (1, "space before method", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (1, "tab after method", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (1, "tab before version", b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (1, "form feed after method", b"GET\x0c/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (1, "spaces only", b"   \r\n\r\n", 400),
    (2, "2.0", with_version(b"HTTP/2.0"), 505),
    (2, "9.9", with_version(b"HTTP/9.9"), 505),
    (2, "0.9", with_version(b"HTTP/0.9"), 505),
    (2, "0.99", with_version(b"HTTP/0.99"), 400),
    (2, "1.32", with_version(b"HTTP/1.32"), 400),
    (2, "111", with_version(b"HTTP/111"), 400),
    (2, "1", with_version(b"HTTP/1"), 400),
    (2, "1.", with_version(b"HTTP/1."), 400),
    (2, "01.01", with_version(b"HTTP/01.01"), 400),
    (2, "lower case", with_version(b"http/1.1"), 400),
    (2, "space inside", with_version(b"HTTP/ 1.1"), 400),
    (2, "CRs inside", with_version(b"HTTP/\r\r1.1"), 400),
    (2, "other protocol", with_version(b"FTP/1.1"), 400),
    (2, "no slash", with_version(b"HTTP1.1"), 400),
    (2, "Arabic digit", with_version("HTTP/1.\u0661".encode()), 400),
    (2, "overflow", with_version(b"HTTP/4294967295.255"), 400),
    (2, "comma", with_version(b"HTTP/1,1"), 400),
    (4, "colon", b"GET: / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (4, "NUL", b"GET\x00 / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (4, "NUL in front", b"\x00 / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (4, "8-bit", b"GET\xc3\x9f / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (4, "delimiters", b'G=":<>(e),[T];?" / HTTP/1.1\r\nHost: a\r\n\r\n', 400),
    (4, "at sign", b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (5, "33 bytes", b"A" * 33 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    (5, "5 kB", b"A" * 5000 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    (5, "of an endless line", b"A" * 33 + b" /" + b"a" * 9000, 501),
    (5, "100 kB", b"A" * 100_000 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (6, "CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501),
    (6, "CONNECT v6", b"CONNECT [::1]:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    (6, "CONNECT, no port", b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (6, "CONNECT, empty port", b"CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (6, "CONNECT, path", b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (7, "asterisk", with_target(b"*"), 400),
    (7, "asterisk and more", b"OPTIONS */x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (7, "authority", with_target(b"a:443"), 400),
    (7, "relative", with_target(b"foo/bar"), 400),
    (7, "relative dots", with_target(b"../x"), 400),
    (7, "bang", with_target(b"!"), 400),
    (7, "query only", with_target(b"?x=1"), 400),
    (7, "scheme ftp", with_target(b"ftp://a/"), 400),
    (7, "scheme file", with_target(b"file:///etc/passwd"), 400),
    (7, "scheme javascript", with_target(b"javascript:alert(1)"), 400),
    (7, "one slash", with_target(b"http:/a/"), 400),
    (7, "no authority", with_target(b"http://"), 400),
    (7, "empty authority", with_target(b"http:///x"), 400),
    (7, "empty host with port", with_target(b"http://:80/"), 400),
    (7, "IPv6 unclosed", with_target(b"http://[::1/"), 400),
    (7, "IPv6 bad", with_target(b"http://[::g]/"), 400),
    (7, "IPv6 odd", b"PUT s://]ufd/: HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (7, "port text", with_target(b"http://a:b/"), 400),
    (7, "port 65536", with_target(b"http://a:65536/"), 400),
    (7, "user info", with_target(b"http://user:pass@a/"), 400),
    (9, "NUL", with_target(b"/\x00"), 400),
    (9, "bell", with_target(b"/a\x07b"), 400),
    (9, "DEL", with_target(b"/\x7f"), 400),
    (9, "8-bit", with_target(b"/\xe9"), 400),
    (9, "UTF-8", with_target("/\u00e9".encode()), 400),
    (9, "overlong slash", with_target(b"/\xc0\xaf"), 400),
    (9, "fragment", with_target(b"/path#frag"), 400),
    (9, "fragment of URL", with_target(b"http://a/#frag"), 400),
    (13, "bare LF", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    (13, "LF only, refused at the first", b"GET / HTTP/1.1\n", 400),
    (13, "LF between words", b"GET /\nHTTP/1.1\r\n\r\n", 400),
    (13, "leading LF", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (14, "CR for CR LF", b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    (14, "leading CR", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (14, "CR CR LF", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400),
    (15, "TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (15, "HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (15, "SSH", b"SSH-2.0-OpenSSH_9.2\r\n", 400),
    (15, "8-bit", b"\xff\xfe\xfd", 400),
)

REFUSED_HEADERS = table(
    (13, "bare LF", GET + b"X: a\nY: b\r\n\r\n", 400),
    (13, "bare LF at the end", GET + b"\n", 400),
    (13, "LF after colon", GET + b"X:\n\nGET / HTTP/1.1\r\n\r\n", 400),
    (14, "CR in value", with_line(b"X: va\rlue"), 400),
    (14, "CR in name", with_line(b"X\rY: v"), 400),
    (14, "CR before colon", with_line(b"X\r: v"), 400),
    (14, "CR starts a line", GET + b"\rZGET /evil: HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (14, "CR smuggles a header", with_line(b"Visible: :/\rSmuggled: :)"), 400),
    (14, "CR before the empty line", GET + b"\r\r\n", 400),
    (16, "missing", b"GET / HTTP/1.1\r\n\r\n", 400),
    (16, "missing, URL", b"GET http://a/ HTTP/1.1\r\n\r\n", 400),
    (16, "twice", with_line(b"Host: b"), 400),
    (16, "twice the same", with_line(b"host: a"), 400),
    (16, "twice, first empty", b"GET / HTTP/1.1\r\nHost:\r\nHost: a\r\n\r\n", 400),
    (16, "twice in 1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    (16, "empty", with_host(b""), 400),
    (16, "empty in 1.0", b"GET / HTTP/1.0\r\nHost: \r\n\r\n", 400),
    (16, "underscore name only", b"GET / HTTP/1.1\r\nHost_: a\r\n\r\n", 400),
    (17, "user info", with_host(b"user@a"), 400),
    (17, "path", with_host(b"a/path"), 400),
    (17, "query", with_host(b"a?x"), 400),
    (17, "fragment", with_host(b"a#x"), 400),
    (17, "URL", with_host(b"http://a"), 400),
    (17, "comma", with_host(b"a, b"), 400),
    (17, "comma without space", with_host(b"a,b"), 400),
    (17, "space", with_host(b"a b"), 400),
    (17, "tab", with_host(b"a\tb"), 400),
    (17, "backslash", with_host(b"a\\b"), 400),
    (17, "bracket", with_host(b"["), 400),
    (17, "closing bracket", with_host(b"a]"), 400),
    (17, "brackets", with_host(b"[]"), 400),
    (17, "unclosed v6", with_host(b"[::1"), 400),
    (17, "unopened v6", with_host(b"::1"), 400),
    (17, "bad v6", with_host(b"[::1::2]"), 400),
    (17, "long v6", with_host(b"[1:2:3:4:5:6:7:8:9]"), 400),
    (17, "v6 of dots", with_host(b"[....]"), 400),
    (17, "v4 in brackets", with_host(b"[1.2.3.4]"), 400),
    (17, "v6 zone", with_host(b"[fe80::1%25eth0]"), 400),
    (17, "name in brackets", with_host(b"[localhost]"), 400),
    (17, "text after v6", with_host(b"[::1]x"), 400),
    (17, "address of the future", with_host(b"[v1.x]"), 400),
    (17, "port text", with_host(b"a:abc"), 400),
    (17, "port sign", with_host(b"a:+80"), 400),
    (17, "port minus", with_host(b"a:-1"), 400),
    (17, "port 65536", with_host(b"a:65536"), 400),
    (17, "port 99999", with_host(b"a:99999"), 400),
    (17, "port of six digits", with_host(b"a:000080"), 400),
    (17, "port superscript", with_host(b"a:\xb2"), 400),
    (17, "two ports", with_host(b"a:80:80"), 400),
    (17, "port of v6", with_host(b"[::1]:x"), 400),
    (17, "port alone", with_host(b":80"), 400),
    (17, "double quote", with_host(b'"a"'), 400),
    (17, "quote", with_host(b"a'"), 400),
    (17, "angle", with_host(b"<script>"), 400),
    (17, "8-bit", with_host(b"\xe9"), 400),
    (17, "NBSP", with_host(b"\xa0a"), 400),
    (17, "NUL", with_host(b"a\x00b"), 400),
    (17, "bad escape", with_host(b"a%zz"), 400),
    (18, "space before colon", with_line(b"X : y"), 400),
    (18, "tab before colon", with_line(b"X\t: y"), 400),
    (18, "space before colon of length", with_line(b"Content-Length : 5"), 400),
    (18, "space in name", with_line(b"X Y: z"), 400),
    (19, "folded", with_line(b"X: one\r\n two"), 400),
    (19, "folded by tab", with_line(b"X: one\r\n\ttwo"), 400),
    (19, "folded coding", with_line(b"Transfer-Encoding:\r\n chunked"), 400),
    (19, "folded to nothing", with_line(b"X: one\r\n "), 400),
    (20, "space before the first", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    (20, "tab before the first", b"GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", 400),
    (20, "line of a space", b"GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n", 400),
    (21, "empty name", with_line(b": x"), 400),
    (21, "colon alone", with_line(b":"), 400),
    (21, "no colon", with_line(b"NoColonHere"), 400),
    (21, "no colon but a space", with_line(b"Content-Length 10"), 400),
    (21, "name over two lines", with_line(b"Transfer-\r\nEncoding: chunked"), 400),
    (21, "8-bit", with_line(b"\xefoo: bar"), 400),
    (21, "NBSP", with_line(b"Content-Length\xa0: 5"), 400),
    (21, "NEL", with_line(b"Content-Length\x85: 5"), 400),
    (21, "UTF-8", with_line("X-T\u00ebst: v".encode()), 400),
    (21, "tab", with_line(b"Content\tLength: 5"), 400),
    *(
        (21, f"delimiter {delimiter}", with_line(b"X%cY: z" % delimiter), 400)
        for delimiter in b'"(),/;<=>?@[\\]{}'
    ),
    *(
        (21, f"control {byte}", with_line(b"X%cY: z" % byte), 400)
        for byte in [*range(32), 127]
    ),
    *(
        (23 if byte else 22, f"control {byte}", with_line(b"X: a%cb" % byte), 400)
        for byte in [*range(9), *range(10, 32), 127]
    ),
    (22, "NUL at the end", with_line(b"Evil: evil\x00"), 400),
    (27, "plus", with_length(b" +5"), 400),
    (27, "minus", with_length(b" -1"), 400),
    (27, "minus zero", with_length(b" -0"), 400),
    (27, "hexadecimal", with_length(b" 0x5"), 400),
    (27, "octal", with_length(b" 0o5"), 400),
    (27, "underscore", with_length(b" 1_0"), 400),
    (27, "two words", with_length(b" 5 5"), 400),
    (27, "fraction", with_length(b" 5.0"), 400),
    (27, "exponent", with_length(b" 1e1"), 400),
    (27, "letter after", with_length(b" 5x"), 400),
    (27, "text", with_length(b" abc"), 400),
    (27, "quoted", with_length(b' "5"'), 400),
    (27, "empty", with_length(b""), 400),
    (27, "space", with_length(b" "), 400),
    (27, "NBSP", with_length(b" \xa05"), 400),
    (27, "file separator", with_length(b" \x1c5"), 400),
    (27, "vertical tab", with_length(b" \x0b5"), 400),
    (27, "Arabic", with_length(" \u0665".encode()), 400),
    (27, "superscript", with_length(b" \xb2"), 400),
    (28, "two", with_length(b" 5\r\nContent-Length: 10"), 400),
    (28, "two, second empty", with_length(b" 5\r\nContent-Length:"), 400),
    (28, "two, first empty", with_length(b"\r\nContent-Length: 5"), 400),
    (28, "list", with_length(b" 5, 10"), 400),
    (28, "list with a hole", with_length(b" 5,"), 400),
    (29, "same twice", with_length(b" 5\r\ncontent-length: 5"), 400),
    (29, "list of the same", with_length(b" 5, 5"), 400),
    (30, "2^64 + 5", with_length(b" 18446744073709551621"), 400),
    (30, "5000 digits", with_length(b" " + b"9" * 5000), 400),
    (30, "5000 digits with zeros", with_length(b" " + b"0" * 4999 + b"5"), 400),
    (32, "both", with_length(b" 5\r\nTransfer-Encoding: chunked"), 400),
    (32, "both, other order", with_coding(b" chunked\r\nContent-Length: 5"), 400),
    (32, "both, unknown coding", with_coding(b" xchunked\r\nContent-Length: 5"), 400),
    (32, "both, in 1.0", POST_1_0 + b"Content-Length: 5\r\n" + CODED + b"\r\n", 400),
    (33, "xchunked", with_coding(b" xchunked"), 501),
    (33, "gzip", with_coding(b" gzip"), 501),
    (33, "identity", with_coding(b" identity"), 501),
    (33, "gzip, chunked", with_coding(b" gzip, chunked"), 501),
    (33, "chunked, gzip", with_coding(b" chunked, gzip"), 400),
    (33, "quoted", with_coding(b' "chunked"'), 400),
    (33, "parameter", with_coding(b" chunked;a=b"), 400),
    (33, "vertical tab", with_coding(b" \x0bchunked"), 400),
    (33, "form feed", with_coding(b" \x0cchunked"), 400),
    (33, "NUL", with_coding(b" chunked\x00"), 400),
    (33, "NBSP", with_coding(b" \xa0chunked\xa0"), 400),
    (33, "8-bit", with_coding(b" \xffchunked"), 400),
    (33, "Kelvin sign", with_coding(" chun\u212aed".encode()), 400),
    (33, "empty", with_coding(b""), 400),
    (33, "leading comma", with_coding(b" ,chunked"), 400),
    (33, "trailing comma", with_coding(b" chunked,"), 400),
    (34, "twice", with_coding(b" chunked\r\nTransfer-Encoding: chunked"), 400),
    (34, "and identity", with_coding(b" chunked\r\nTransfer-Encoding: identity"), 400),
    (34, "list of two", with_coding(b" chunked, chunked"), 400),
    (34, "second empty", with_coding(b" chunked\r\nTransfer-Encoding:"), 400),
    (35, "1.0", POST_1_0 + CODED + b"\r\n0\r\n\r\n", 400),
    (45, "unknown", with_line(b"Expect: 200-ok"), 417),
    (45, "and more", with_line(b"Expect: 100-continue, x"), 417),
)

REFUSED_CHUNKS = table(
    *(
        (36, name, size + b"\r\nhello\r\n0\r\n\r\n", 400)
        for name, size in {
            "0x": b"0x5",
            "plus": b"+5",
            "minus": b"-5",
            "minus 0x0": b"-0x0",
            "underscore": b"0_5",
            "leading space": b" 5",
            "leading tab": b"\t5",
            "trailing space": b"5 ",
            "trailing tab": b"5\t",
            "vertical tab": b"\x0b5",
            "empty": b"",
            "unicode digit": "\u0665".encode(),
            "superscript": b"\xb5",
            "letter": b"5g",
            "17 digits": b"FFFFFFFFFFFFFFFF0",
            "17 digits of 5": b"00000000000000005",
            "extension only": b";a=b",
            "word": b"INVALID!!!",
        }.items()
    ),
    (37, "no CR LF", b"5\r\nhello0\r\n\r\n", 400),
    (37, "more data", b"5\r\nhello!!\r\n0\r\n\r\n", 400),
    (37, "LF", b"5\r\nhello\n0\r\n\r\n", 400),
    (37, "CR", b"5\r\nhello\r0\r\n\r\n", 400),
    (37, "any two bytes", b"5\r\nhelloXX0\r\n\r\n", 400),
    (37, "CR and another byte", b"5\r\nhello\rX0\r\n\r\n", 400),
    (37, "LF CR", b"5\r\nhello\n\r0\r\n\r\n", 400),
    (37, "two CR LF", b"5\r\nhello\r\n\r\n0\r\n\r\n", 400),
    (38, "LF in extension", b"5;a\nhello\r\n0\r\n\r\n", 400),
    (38, "LF for CR LF", b"5\nhello\r\n0\r\n\r\n", 400),
    (38, "CR for CR LF", b"5\rhello\r\n0\r\n\r\n", 400),
    (38, "CR in extension", b"5;a\rX\r\nhello\r\n0\r\n\r\n", 400),
    (38, "CR in white space", b"2\r\r;a\r\n02\r\n41\r\n0\r\n\r\n", 400),
    (38, "NUL in extension", b"5;\x00ext\r\nhello\r\n0\r\n\r\n", 400),
    (38, "NUL in quotes", b'5;a="\x00"\r\nhello\r\n0\r\n\r\n', 400),
    (38, "no name", b"5;\r\nhello\r\n0\r\n\r\n", 400),
    (38, "no name but a value", b"5;=x\r\nhello\r\n0\r\n\r\n", 400),
    (38, "no value", b"5;a=\r\nhello\r\n0\r\n\r\n", 400),
    (38, "name is no token", b"5;bad[=x\r\nhello\r\n0\r\n\r\n", 400),
    (38, "open quotes", b'5;a="x\r\nhello\r\n0\r\n\r\n', 400),
    (38, "text after quotes", b'5;a="x"y\r\nhello\r\n0\r\n\r\n', 400),
    (38, "trailing white space", b"5;a \r\nhello\r\n0\r\n\r\n", 400),
    (38, "64 kB", b"5;a=" + b"x" * 65536 + b"\r\nhello\r\n0\r\n\r\n", 400),
    (38, "30 000 zeros", b"0" * 30_000 + b"5\r\nhello\r\n0\r\n\r\n", 400),
    (38, "endless", b"5;" + b"x" * 5000, 400),
    (40, "no colon", b"0\r\nX\r\n\r\n", 400),
    (40, "pipelined request", b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (40, "space before colon", b"0\r\nX : y\r\n\r\n", 400),
    (40, "folded", b"0\r\nX: y\r\n z\r\n\r\n", 400),
    (40, "LF for the end", b"0\r\n\n", 400),
    (40, "LF in line", b"0\r\nX: y\n\r\n", 400),
    (40, "CR in line", b"0\r\nX: y\rz\r\n\r\n", 400),
    (40, "CR for the end", b"0\r\n\rX", 400),
    (40, "NUL", b"0\r\nX: \x00\r\n\r\n", 400),
    (40, "no name", b"0\r\n: y\r\n\r\n", 400),
    (40, "too long a line", b"0\r\nX: " + b"y" * 9000 + b"\r\n\r\n", 431),
    (40, "too many", b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    (40, "too large", b"0\r\n" + (b"X: " + b"y" * 500 + b"\r\n") * 20 + b"\r\n", 431),
    (40, "endless", b"0\r\n" + b"X: y\r\n" * 5000, 431),
)


@pytest.mark.parametrize("data, status", REFUSED_REQUEST_LINES + REFUSED_HEADERS)
def test_a_bad_head_is_refused_and_nothing_after_it_is_read(data, status):
    assert_events(data, [status])


@pytest.mark.parametrize("body, status", REFUSED_CHUNKS)
def test_a_bad_chunk_is_refused_and_ends_the_connection(body, status):
    for pieces in cuts(CHUNKED + body):
        events = events_of(pieces)
        assert [events[0], events[-1]] == ["POST /", status]
        assert events[1:-1] in ([], [b"hello"], [b"he"])


LIMITS = {
    "max_request_line_bytes": 30,
    "max_header_line_bytes": 20,
    "max_headers": 3,
    "max_head_bytes": 90,
    "max_chunk_line_bytes": 10,
    "max_trailer_bytes": 20,
}

HEAD_OF_79 = (
    b"GET /aaaaaaaaaaaaaaaa HTTP/1.1\r\nHost: aaaaaaaaaaaaaa\r\n"
    b"X: aaaaaaaaaaaaaaaaa\r\nX: "
)
AT_THE_LIMIT = table(
    (10, "line of 30", b"GET /" + b"a" * 16 + b" HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (10, "line of 31", b"GET /" + b"a" * 17 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (10, "line without end", b"GET /" + b"a" * 26, 414),
    (10, "line of 30 without end", b"GET /" + b"a" * 25, None),
    (10, "line of one long word", b"a" * 31, 400),
    (10, "NUL beyond the limit", b"GET /" + b"a" * 26 + b"\x00", 414),
    (10, "NUL within the limit", b"GET /" + b"a" * 24 + b"\x00", 400),
    (25, "header of 20", with_line(b"X: " + b"a" * 17), None),
    (25, "header of 21", with_line(b"X: " + b"a" * 18), 431),
    (25, "header without end", GET + b"X" * 21, 431),
    (25, "name of 21", with_line(b"X" * 21 + b": y"), 431),
    (25, "three headers", with_line(b"X:\r\nX:"), None),
    (25, "four headers", with_line(b"X:\r\nX:\r\nX:"), 431),
    (25, "fourth is bad too", with_line(b"X:\r\nX:\r\nX"), 431),
    (25, "head of 90", HEAD_OF_79 + b"aaaaaaa\r\n\r\n", None),
    (25, "head of 91", HEAD_OF_79 + b"aaaaaaaa\r\n\r\n", 431),
    (25, "head of 91 without end", HEAD_OF_79 + b"a" * 12, 431),
    (25, "NUL beyond the limit", HEAD_OF_79 + b"a" * 11 + b"\x00", 431),
    (25, "NUL within the limit", HEAD_OF_79 + b"a" * 10 + b"\x00", 400),
    (25, "earlier fault counts", GET + b"Y\r\n" + b"X" * 100, 400),
)


@pytest.mark.parametrize("data, status", AT_THE_LIMIT)
def test_limits_on_a_head_hold_to_the_byte(data, status):
    for pieces in cuts(data):
        events = events_of(pieces, **LIMITS)
        assert [e for e in events if isinstance(e, int)] == ([status] if status else [])


@pytest.mark.parametrize(
    "body, status",
    [
        (b"5;a=bcdefg\r\nhello\r\n0\r\n\r\n", None),
        (b"5;a=bcdefgh\r\nhello\r\n0\r\n\r\n", 400),
        (b"5;a=bcdefgh", 400),
        (b"0\r\nX: 3\r\nYY: 01234567\r\n\r\n", None),
        (b"0\r\nX: 3\r\nYY: 012345678\r\n\r\n", 431),
        (b"0\r\nX: 3\r\nYY: 012345678901", 431),
        (b"0\r\nX:\r\nX:\r\nX:\r\n\r\n", None),
        (b"0\r\nX:\r\nX:\r\nX:\r\nX:\r\n\r\n", 431),
    ],
)
def test_limits_on_chunks_and_trailers_hold_to_the_byte(body, status):
    limits = {**LIMITS, "max_header_line_bytes": 26}
    for pieces in cuts(CHUNKED + body):
        assert events_of(pieces, **limits)[-1] == (status or "end")


@pytest.mark.parametrize(
    "start, piece, expected, fed",
    [
        (b"GET /", b"a", 414, 8191),
        (b"", b"a", 400, 8191),
        (GET, b"X", 431, len(GET) + 8191),
        (GET, b"X: " + b"y" * 95 + b"\r\n", 431, len(GET) + 100 * 100),
        (GET, b"X: " + b"y" * 995 + b"\r\n", 431, 65_537),
        (CHUNKED, b"0", 400, len(CHUNKED) + 4097),
        (CHUNKED + b"0\r\n", b"X: y\r\n", 431, len(CHUNKED) + 3 + 606),
        (CHUNKED + b"0\r\n", b"X:" + b"y" * 996 + b"\r\n", 431, len(CHUNKED) + 8195),
    ],
)
def test_endless_input_byte_by_byte_stops_at_the_limit(start, piece, expected, fed):
    data = start + piece * (70_000 // len(piece))
    reader = Reader()
    for count in range(1, len(data) + 1):
        reader.feed(data[count - 1 : count])
        event = next_event(reader)
        if isinstance(event, ProtocolError):
            break
    assert (event.status, count) == (expected, fed)
    reader.feed(data)
    assert reader.buffered == 0


# What is accepted ---------------------------------------------------------------------

ACCEPTED = table(
    (3, "1.2", with_version(b"HTTP/1.2"), ["GET /"]),
    (3, "1.9", with_version(b"HTTP/1.9"), ["GET /"]),
    (5, "lower case", b"get / HTTP/1.1\r\nHost: a\r\n\r\n", ["get /"]),
    (5, "unknown", b"FOO.BAR-1 / HTTP/1.1\r\nHost: a\r\n\r\n", ["FOO.BAR-1 /"]),
    (5, "32 bytes", b"A" * 32 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", ["A" * 32 + " /"]),
    (
        5,
        "all token characters",
        b"!#$%&'*+-.^_`|~0aZ / HTTP/1.1\r\nHost: a\r\n\r\n",
        ["!#$%&'*+-.^_`|~0aZ /"],
    ),
    (6, "TRACE", b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", ["TRACE /"]),
    (7, "asterisk", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", ["OPTIONS *"]),
    (
        8,
        "asterisk through a proxy",
        b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n",
        ["OPTIONS *"],
    ),
    (8, "URL", with_target(b"http://b/x?y"), ["GET /x"]),
    (8, "URL without path", with_target(b"http://b"), ["GET /"]),
    (8, "URL without path, query", with_target(b"http://b?y"), ["GET /"]),
    (8, "URL, upper case", with_target(b"HTTPS://B/x"), ["GET /x"]),
    (9, "escapes", with_target(b"/%41%c3%a9%zz%"), ["GET /A\u00e9%zz%"]),
    (9, "escape that is no UTF-8", with_target(b"/%ff"), ["GET /\ufffd"]),
    (9, "two slashes", with_target(b"//x//y"), ["GET //x//y"]),
    (
        11,
        "8000 bytes",
        b"GET /" + b"a" * 7986 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        ["GET /" + "a" * 7986],
    ),
    (12, "leading CR LF", b"\r\n" + GET + b"\r\n", ["GET /"]),
    (12, "two leading CR LF", b"\r\n\r\n" + GET + b"\r\n", ["GET /"]),
    (
        12,
        "CR LF after a body",
        POST + b"Content-Length: 1\r\n\r\nx\r\n" + GET + b"\r\n",
        ["POST /", b"x", "end", "GET /"],
    ),
    (16, "none in 1.0", b"GET / HTTP/1.0\r\n\r\n", ["GET /", "closed"]),
    *(
        (17, host.decode(), with_host(host), ["GET /"])
        for host in (
            b"localhost",
            b"a.example.com:8000",
            b"A.EXAMPLE.",
            b"127.0.0.1:80",
            b"[::1]",
            b"[::1]:8000",
            b"[::ffff:1.2.3.4]:65535",
            b"a_b",
            b"xn--e1afmkfd",
            b"a:",
            b"a:0",
            b"0.0.0.0=5000",
            b"a%2Db",
            b"256.256.256.256",
            b"~a!$&()*+;=",
        )
    ),
    (21, "all token characters", with_line(b"!#$%&'*+-.^_`|~0aZ: x"), ["GET /"]),
    (22, "8-bit", with_line(b"X: caf\xc3\xa9 \xe9\x80"), ["GET /"]),
    (22, "tab", with_line(b"X:\ta\tb\t"), ["GET /"]),
    (22, "empty", with_line(b"X:"), ["GET /"]),
    (24, "8 kB of spaces", with_line(b"X:" + b" " * 8000 + b"y"), ["GET /"]),
    (25, "100 headers", GET + b"X: y\r\n" * 99 + b"\r\n", ["GET /"]),
    (
        26,
        "underscores",
        POST + b"Content_Length: 9\r\nTransfer_Encoding: chunked\r\n"
        b"Content-Length: 5\r\n\r\nhello",
        ["POST /", b"hello", "end"],
    ),
    (
        26,
        "longer names",
        POST + b"X-Content-Length: 9\r\nContent-Lengths: 9\r\n\r\n",
        ["POST /"],
    ),
    (26, "framing in a value", POST + b"X: Content-Length: 9\r\n\r\n", ["POST /"]),
    (27, "white space around", with_length(b"\t 5 \t"), ["POST /", b"hello", "end"]),
    (27, "leading zeros", with_length(b"005"), ["POST /", b"hello", "end"]),
    (27, "19 digits", with_length(b"0000000000000000005"), ["POST /", b"hello", "end"]),
    (27, "zero", POST + b"Content-Length: 0\r\n\r\n", ["POST /"]),
    (
        27,
        "of a GET",
        GET + b"Content-Length: 5\r\n\r\nhello",
        ["GET /", b"hello", "end"],
    ),
    (33, "case", with_coding(b"\tChunKED "), ["POST /", b"hello", "end"]),
    (
        36,
        "digits",
        CHUNKED + b"0000000000000005\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n",
        ["POST /", b"hello0123456789", "end"],
    ),
    (36, "last chunk of zeros", CHUNKED + b"000\r\n\r\n", ["POST /", "end"]),
    (
        36,
        "CR LF inside",
        CHUNKED + b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
        ["POST /", b"\r\n0\r\n\r\n", "end"],
    ),
    *(
        (
            39,
            name,
            CHUNKED + b"5" + extension + b"\r\nhello\r\n0" + extension + b"\r\n\r\n",
            ["POST /", b"hello", "end"],
        )
        for name, extension in {
            "name": b";a",
            "value": b";a=b",
            "two": b";a=b;c",
            "white space": b" ; a = b\t;\tc",
            "quotes": b';a="b c\\"\\\\;,\xe9"',
            "empty quotes": b';a="";b=""',
        }.items()
    ),
    (
        40,
        "forbidden",
        CHUNKED + b"0\r\nContent-Length: 50\r\nTransfer-Encoding: gzip\r\n"
        b"Host: evil\r\n\r\n" + GET + b"\r\n",
        ["POST /", "end", "GET /"],
    ),
    (46, "three", (GET + b"\r\n") * 3, ["GET /"] * 3),
    (46, "good then bad", GET + b"\r\n" + b"BAD\r\n\r\n", ["GET /", 400]),
    (
        46,
        "after close",
        GET + b"Connection: close\r\n\r\n" + GET + b"\r\n",
        ["GET /", "closed"],
    ),
    (
        46,
        "after close with body",
        POST + b"Connection: close\r\nContent-Length: 1\r\n\r\nx" + GET + b"\r\n",
        ["POST /", b"x", "end", "closed"],
    ),
    (
        46,
        "after chunked close",
        POST + b"Connection: close\r\nTransfer-Encoding: chunked"
        b"\r\n\r\n0\r\n\r\n" + GET + b"\r\n",
        ["POST /", "end", "closed"],
    ),
)


@pytest.mark.parametrize("data, expected", ACCEPTED)
def test_a_good_request_is_read_however_it_is_cut(data, expected):
    assert_events(data, expected)


ENDED_EARLY = table(
    (1, "nothing", b"", ["closed"]),
    (12, "CR LF", b"\r\n\r\n", ["closed"]),
    (12, "CR", b"\r", [400]),
    (42, "request line", b"GET / HT", [400]),
    (42, "header", b"GET / HTTP/1.0\r\nbaz", [400]),
    (42, "head without empty line", GET, [400]),
    (42, "body", POST + b"Content-Length: 9\r\n\r\nhello", ["POST /", b"hello", 400]),
    (42, "body of nothing", POST + b"Content-Length: 9\r\n\r\n", ["POST /", 400]),
    (42, "chunk", CHUNKED + b"9\r\nhello", ["POST /", b"hello", 400]),
    (42, "chunk end", CHUNKED + b"5\r\nhello\r", ["POST /", b"hello", 400]),
    (42, "no last chunk", CHUNKED + b"5\r\nhello\r\n", ["POST /", b"hello", 400]),
    (42, "no end of trailers", CHUNKED + b"0\r\n", ["POST /", 400]),
    (42, "inside a trailer", CHUNKED + b"0\r\nX: y\r\n", ["POST /", 400]),
    (46, "complete", GET + b"\r\n", ["GET /", "closed"]),
    (46, "second cut short", GET + b"\r\n" + GET, ["GET /", 400]),
)


@pytest.mark.parametrize("data, expected", ENDED_EARLY)
def test_an_end_of_input_is_clean_between_requests_only(data, expected):
    assert_events(data, expected, eof=True)


def test_sixteen_empty_lines_may_precede_a_request_line():
    assert_events(b"\r\n" * 16 + GET + b"\r\n", ["GET /"])
    assert_events(b"\r\n" * 17 + GET + b"\r\n", [400])
    data = (b"\r\n" * 16 + GET + b"\r\n") * 3
    assert events_of([data]) == ["GET /"] * 3


def test_500_pipelined_requests_come_in_order():
    data = b"".join(
        b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(500)
    )
    expected = [f"GET /{number}" for number in range(500)]
    assert events_of([data]) == expected
    assert events_of(data[i : i + 7] for i in range(0, len(data), 7)) == expected


def test_20_000_chunks_of_one_byte_are_one_body():
    data = CHUNKED + b"1\r\nx\r\n" * 20_000 + LAST_CHUNK
    expected = ["POST /", b"x" * 20_000, "end"]
    assert events_of([data]) == expected
    assert events_of(data[i : i + 1000] for i in range(0, len(data), 1000)) == expected


def alone(reader):
    """Return the events of a reader one by one, as far as they go."""
    events = []
    while not events or not isinstance(events[-1], (ProtocolError, Signal)):
        events.append(next_event(reader))
    return events


@pytest.mark.parametrize("size", [1, 2, 15, 16, 100, 255])
def test_chunks_that_wait_are_few_events(size):
    """Each event costs a handler's turn, so a client must not choose how many."""
    reader = Reader()
    count = 3000
    reader.feed(CHUNKED + encode_chunk(b"x" * size) * count)
    pieces = alone(reader)[1:-1]
    assert b"".join(pieces) == b"x" * size * count
    wire_bytes = len(encode_chunk(b"x" * size)) * count
    least = count / MAX_JOINED_CHUNKS + wire_bytes / MAX_JOINED_BYTES
    assert len(pieces) <= 2 * least + 3
    assert max(map(len, pieces)) <= MAX_JOINED_BYTES
    assert reader.chunks == count


def test_a_run_ends_ahead_of_what_is_not_whole_or_not_right():
    for rest, status in [
        (b"", None),
        (b"5", None),
        (b"5\r\nhell", None),
        (b"5\r\nhello\r", None),
        (b"5\r\nhello!\n", 400),
        (b"+5\r\nhello\r\n", 400),
        (b"5 \r\nhello\r\n", 400),
        (b"5\nhello\r\n", 400),
        (b"0_5\r\nhello\r\n", 400),
        (b"00000000000000005\r\nhello\r\n", 400),
    ]:
        content = rest[3:8] if status is None and len(rest) > 2 else b""
        content = b"hello" if rest == b"5\r\nhello!\n" else content
        for pieces in cuts(CHUNKED + b"2;a\r\nab\r\n" * 3 + rest):
            events = events_of(pieces)
            assert events[1] == b"ababab" + content.rstrip(b"\r")
            assert events[2:] == ([] if status is None else [status])


def test_limits_hold_inside_a_run_of_chunks():
    plain, longer = b"1\r\nx\r\n", b"1;abcdef\r\nx\r\n"
    limits = {"max_chunk_line_bytes": 8, "max_extension_bytes": 30}
    for run, expected in [
        (longer * 5, b"xxxxx"),  # 35 bytes of extensions, 6 of body ahead of the last
        (longer * 6, 400),  # 42, and 7
        (plain * 5 + longer * 6, b"x" * 11),
        (plain * 5 + longer * 7, 400),
        (b"1;abcdefg\r\nx\r\n", 400),
        (b"00000001\r\nx\r\n", b"x"),
        (b"000000001\r\nx\r\n", 400),
    ]:
        for pieces in cuts(CHUNKED + plain * 2 + run):
            events = events_of(pieces, **limits)
            if expected == 400:
                assert events[-1] == 400
                assert events[1].startswith(b"xx")
            else:
                assert events == ["POST /", b"xx" + expected]


@pytest.mark.parametrize(
    "runs, last",
    [
        ([(68, 1)], "end"),  # the body allows for one more with every 16th byte
        ([(69, 1)], 400),
        ([(1000, 16)], "end"),
        ([(64, 1), (10, 16)], "end"),
        ([(68, 1), (10, 16)], "end"),
        ([(68, 1), (1, 12), (1, 16)], "end"),
        ([(68, 1), (1, 11)], 400),
        ([(68, 1), (1, 12), (1, 16), (1, 5)], 400),
        ([(1, 10_000), (64 + 625, 1)], "end"),
        ([(1024, 15)], "end"),
        ([(1025, 15)], 400),
    ],
    ids=repr,
)
def test_a_body_of_small_chunks_is_refused_to_the_chunk(runs, last, monkeypatch):
    """They cost far more than they carry."""
    for module in {RequestReader.__module__, Reader.__module__}:
        monkeypatch.setattr(sys.modules[module], "MAX_SMALL_CHUNKS", 64)
    assert MIN_CHUNK_BYTES == 16
    wire = [encode_chunk(b"x" * size) * count for count, size in runs]
    data = CHUNKED + b"".join(wire) + LAST_CHUNK
    steps = {1, 2, 3, 7, 100, 5000, len(data)}
    for pieces in [[data[i : i + n] for i in range(0, len(data), n)] for n in steps]:
        _, body, end = events_of(pieces)
        assert end == last
        refused = runs[-1][1] if last == 400 else 0  # the last chunk of the last run
        assert len(body) == sum(count * size for count, size in runs) - refused


@pytest.mark.parametrize("more, last", [(4369, "end"), (4370, 400)])
def test_the_first_64_kib_of_each_body_may_come_in_chunks_of_a_byte(more, last):
    assert MAX_SMALL_CHUNKS == 65_536
    body = CHUNKED + b"1\r\nx\r\n" * MAX_SMALL_CHUNKS + LAST_CHUNK
    assert events_of([body, body])[-1] == "end"
    data = CHUNKED + b"1\r\nx\r\n" * (MAX_SMALL_CHUNKS + more) + LAST_CHUNK
    assert events_of([data])[-1] == last


def test_extensions_may_not_outweigh_the_body():
    small = b"1;" + b"x" * 1000 + b"\r\ny\r\n"
    assert events_of([CHUNKED + small * 16 + LAST_CHUNK])[-1] == "end"
    assert events_of([CHUNKED + small * 17 + LAST_CHUNK])[-1] == 400
    signed = b"1000;chunk-signature=" + b"0" * 64 + b"\r\n" + b"y" * 4096 + b"\r\n"
    assert events_of([CHUNKED + signed * 1000 + LAST_CHUNK])[-1] == "end"


@pytest.mark.parametrize("limit, last", [(None, "end"), (11, "end"), (10, 413)])
def test_a_chunked_body_has_the_limit_that_is_set_after_its_head(limit, last):
    body = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    for pieces in cuts(body):
        reader = Reader()
        reader.feed(CHUNKED)
        assert reader.next_event().method == "POST"
        reader.max_body_bytes = limit
        events = [in_short(event) for event in joined(events_from(reader, pieces))]
        assert events == [b"hello" if last == 413 else b"hello world", last]


def test_a_huge_chunk_is_refused_when_it_is_announced():
    reader = Reader()
    reader.feed(CHUNKED)
    reader.next_event()
    reader.max_body_bytes = 1000
    reader.feed(b"FFFFFFFFFFFFFFFF\r\n")
    with pytest.raises(ProtocolError, match="413"):
        reader.next_event()


def test_the_body_limit_ends_with_its_request():
    reader = Reader()
    reader.feed(GET + b"\r\n" + CHUNKED)
    reader.next_event()
    reader.max_body_bytes = 1
    reader.next_event()
    assert reader.max_body_bytes is None


# Head and RequestReader ---------------------------------------------------------------


def test_a_head_says_what_was_sent():
    raw = (
        b"PUT /a%20b/c?x=%201&y HTTP/1.1\r\nHost: example.com:8000\r\n"
        b"Expect: 100-Continue\r\nContent-Length: 12\r\nX-A:  b \t\r\nx-a:\r\n\r\n"
    )
    head = parse_head(raw)
    assert {name: getattr(head, name) for name in Head.__slots__} == {
        "raw": raw,
        "method": "PUT",
        "target": "/a%20b/c?x=%201&y",
        "path": "/a b/c",
        "query_string": "x=%201&y",
        "version": "1.1",
        "scheme": None,
        "host": "example.com:8000",
        "keep_alive": True,
        "expects_continue": True,
        "content_length": 12,
    }
    assert list(head.lines()) == [
        ("Host", "example.com:8000"),
        ("Expect", "100-Continue"),
        ("Content-Length", "12"),
        ("X-A", "b"),
        ("x-a", ""),
    ]
    assert Headers.from_wire(head.lines()).getall("X-A") == ["b", ""]


def test_header_lines_are_latin_1_and_lose_only_spaces_and_tabs():
    head = parse_head(with_line(b"X: \xa0\xe9\x85 \t"))
    assert list(head.lines())[1] == ("X", "\xa0\xe9\x85")


def test_a_head_without_header_lines_has_none():
    assert list(parse_head(b"GET / HTTP/1.0\r\n\r\n").lines()) == []


def test_a_url_as_target_overrules_the_host_header():
    head = parse_head(with_target(b"HTTPS://b.example:1/x?y"))
    found = head.scheme, head.host, head.path, head.query_string, head.target
    assert found == ("https", "b.example:1", "/x", "y", "HTTPS://b.example:1/x?y")


@pytest.mark.parametrize(
    "version, connection, expected",
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: CLOSE\r\n", False),
        (b"1.1", b"Connection: Upgrade, close\r\n", False),
        (b"1.1", b"Connection: Upgrade\r\nConnection:close\r\n", False),
        (b"1.1", b"Connection: keep-alive, close\r\n", False),
        (b"1.1", b"Connection: ,, close ,\r\n", False),
        (b"1.1", b"Connection: closed\r\n", True),
        (b"1.1", b"Connection: upgrade\r\n", True),
        (b"1.1", b"Connection:\r\n", True),
        (b"1.2", b"", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: foo ,keep-alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.0", b"Connection: upgrade\r\n", False),
        (b"1.0", b"Keep-Alive: 5\r\n", False),
    ],
)
def test_version_and_options_say_if_it_is_kept(version, connection, expected):
    raw = b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + connection + b"\r\n"
    assert parse_head(raw).keep_alive == expected


@pytest.mark.parametrize(
    "version, expectation, expected",
    [
        (b"1.1", b"Expect: 100-continue\r\n", True),
        (b"1.1", b"eXPECT: 100-CONTINUE \r\n", True),
        (b"1.1", b"Expect: 100-continue\r\nExpect: 100-continue\r\n", True),
        (b"1.1", b"Expect:\r\n", False),
        (b"1.1", b"", False),
        (b"1.0", b"Expect: 100-continue\r\n", False),
        (b"1.0", b"Expect: something else\r\n", False),
    ],
)
def test_an_expectation_counts_in_1_1_only(version, expectation, expected):
    raw = b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + expectation + b"\r\n"
    assert parse_head(raw).expects_continue == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\nHost: a",
        GET + b"\r\nX",
        GET + b"\r\n" + GET + b"\r\n",
    ],
)
def test_parse_head_takes_one_whole_head_only(raw):
    with pytest.raises(ProtocolError, match="400"):
        parse_head(raw)


def test_an_error_is_final_and_takes_no_more_memory():
    reader = Reader()
    reader.feed(b"BAD\r\n")
    with pytest.raises(ProtocolError) as first:
        reader.next_event()
    reader.feed(GET + b"\r\n")
    reader.feed_eof()
    for _ in range(2):
        with pytest.raises(ProtocolError) as again:
            reader.next_event()
        assert str(again.value) == str(first.value)
    assert reader.buffered == 0


def test_a_closed_reader_takes_no_more_memory():
    reader = Reader()
    reader.feed(GET + b"Connection: close\r\n\r\n" + b"x" * 1000)
    assert isinstance(reader.next_event(), Head)
    reader.feed(b"x" * 1000)
    assert (reader.next_event(), reader.buffered) == (CLOSED, 0)


def test_buffered_counts_what_waits_behind_the_last_event():
    reader = Reader()
    assert reader.buffered == 0
    reader.feed(GET + b"\r\n" + GET)
    assert isinstance(reader.next_event(), Head)
    assert reader.buffered == len(GET)
    assert reader.next_event() is NEED_DATA
    reader.feed(b"\r\n")
    assert isinstance(reader.next_event(), Head)
    assert reader.buffered == 0


def test_a_head_and_body_pieces_are_handed_through_without_a_copy():
    reader = Reader()
    raw = POST + b"Content-Length: 200000\r\n\r\n"
    reader.feed(raw)
    assert reader.next_event().raw is raw
    piece = b"x" * 100_000
    for _ in range(2):
        reader.feed(piece)
        assert reader.next_event() is piece
    assert reader.next_event() is END


def test_fixed_and_chunked_bodies_may_follow_each_other():
    fixed = POST + b"Content-Length: 3\r\n\r\nabc"
    chunked = CHUNKED + b"1\r\nd\r\n0\r\nX: y\r\n\r\n"
    one, two = ["POST /", b"abc", "end"], ["POST /", b"d", "end"]
    assert_events(fixed + chunked + chunked + fixed, one + two + two + one)


# The way out --------------------------------------------------------------------------

BLOCK = b"Content-Type: text/plain\r\n"
CLOSE = b"Connection: close\r\n"
KEEP = b"Connection: keep-alive\r\n"
LENGTH = b"Content-Length: 5\r\n"
ZERO = b"Content-Length: 0\r\n"


@pytest.mark.parametrize(
    "status, version, method, keep, length, lines, has_body, chunked, kept",
    [
        (200, "1.1", "GET", True, 5, LENGTH, True, False, True),
        (200, "1.1", "GET", False, 5, LENGTH + CLOSE, True, False, False),
        (200, "1.1", "GET", True, 0, ZERO, True, False, True),
        (200, "1.1", "HEAD", True, 5, LENGTH, False, False, True),
        (200, "1.1", "GET", True, None, CODED, True, True, True),
        (200, "1.1", "GET", False, None, CODED + CLOSE, True, True, False),
        (200, "1.1", "HEAD", True, None, CODED, False, False, True),
        (200, "1.0", "GET", False, 5, LENGTH + CLOSE, True, False, False),
        (200, "1.0", "GET", True, 5, LENGTH + KEEP, True, False, True),
        (200, "1.0", "GET", True, None, CLOSE, True, False, False),
        (200, "1.0", "HEAD", True, None, KEEP, False, False, True),
        (204, "1.1", "GET", True, 0, b"", False, False, True),
        (204, "1.1", "GET", True, None, b"", False, False, True),
        (205, "1.1", "GET", True, None, ZERO, False, False, True),
        (304, "1.1", "GET", True, None, b"", False, False, True),
        (304, "1.1", "GET", True, 0, b"", False, False, True),
        (304, "1.1", "GET", True, 5, LENGTH, False, False, True),
        (304, "1.1", "GET", False, None, CLOSE, False, False, False),
        (103, "1.1", "GET", True, None, b"", False, False, True),
        (103, "1.1", "GET", False, 5, b"", False, False, False),
    ],
)
def test_a_response_is_framed_as_its_request_allows(
    status, version, method, keep, length, lines, has_body, chunked, kept
):
    head = response_head(
        status,
        BLOCK,
        version=version,
        method=method,
        keep_alive=keep,
        content_length=length,
        date_line=b"Date: today\r\n",
    )
    start, _, rest = head.data.partition(b"\r\n")
    assert start.startswith(b"HTTP/1.1 %d " % status)
    assert rest == b"Date: today\r\n" + BLOCK + lines + b"\r\n"
    assert head[1:] == (has_body, chunked, kept)


@pytest.mark.parametrize(
    "status, line", [(404, b"HTTP/1.1 404 Not Found"), (799, b"HTTP/1.1 799 ")]
)
def test_a_status_line_has_its_reason_or_none(status, line):
    head = response_head(
        status, b"", version="1.1", method="GET", keep_alive=True, content_length=0
    )
    assert head.data.split(b"\r\n")[0] == line


@pytest.mark.parametrize(
    "block",
    [
        b"",
        BLOCK,
        b"X:\r\n",
        b"Set-Cookie: a=b\r\nSet-Cookie: c=\xe9\td\r\n",
        b"Dates: x\r\nX-Date: y\r\nConnection-Id: z\r\n",
    ],
)
def test_a_well_formed_block_of_headers_is_taken(block):
    assert is_header_block(block)


@pytest.mark.parametrize(
    "block",
    [
        b"X",
        b"X: y",
        b"X: y\n",
        b"\r\n",
        b"X: y\r\n\r\n",
        b"X: y\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"X: a\rb\r\n",
        b"X: a\nb\r\n",
        b"X: a\x00b\r\n",
        b"X: a\x7fb\r\n",
        b": y\r\n",
        b"X : y\r\n",
        b" X: y\r\n",
        b"X: y\r\n z\r\n",
        b"X(: y\r\n",
        b"\xe9: y\r\n",
        b"Content-Length: 5\r\n",
        b"X: y\r\nTRANSFER-encoding: chunked\r\n",
        b"connection: close\r\n",
        b"Date: today\r\n",
    ],
)
def test_a_block_that_could_break_a_response_is_refused(block):
    assert not is_header_block(block)


def test_chunks_are_written_as_they_are_read():
    pieces = [b"hello", b"", b"x" * 70_000, b"\r\n0\r\n\r\n"]
    data = CHUNKED + b"".join(encode_chunk(piece) for piece in pieces) + LAST_CHUNK
    assert events_of([data]) == ["POST /", b"".join(pieces), "end"]
    assert encode_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


def test_nothing_is_encoded_as_nothing_or_it_would_end_the_body():
    assert encode_chunk(b"") == b""


# Requests that another server's tests hold --------------------------------------------

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT.parent / "shared" / "data" / "gunicorn-requests.json"

# Where this parser is stricter than the corpus.
STRICTER = {
    "valid/005": 400,  # a fragment in the target
    "valid/009": 400,  # the same
    "valid/025": 501,  # gzip, chunked
    "valid/025_line": 501,
    "valid/027": 400,  # 8-bit target
    "valid/099": 400,  # less body than its Content-Length
    "valid/029": 501,  # identity, chunked
    "valid/030": 501,
    "valid/rfc9112_smuggle_gzip_chunked_01": 501,
    "valid/rfc9112_smuggle_te_identity_chunked_01": 501,
    "valid/rfc9112_target_absolute_userinfo_01": 400,
    "valid/rfc9112_target_authority_connect_01": 501,
    "valid/rfc9112_target_authority_ipv6_01": 501,
}
# Where it is laxer: lines may be longer, a method in lower case is for the router to
# refuse, two types are no question of framing, and trailers are discarded, all of them.
LAXER = {
    "invalid/006",
    "invalid/008",
    "invalid/017",
    "invalid/003c",
    "invalid/041",
    "invalid/rfc9110_trailer_forbidden_cl_01",
    "invalid/rfc9110_trailer_forbidden_host_01",
    "invalid/rfc9110_trailer_forbidden_te_01",
}


def corpus():
    if not CORPUS.exists():
        return []
    return [
        pytest.param(case, id=case["id"])
        for case in json.loads(CORPUS.read_text(encoding="utf-8"))["cases"]
        if not case["config"]
    ]


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is not here")
@pytest.mark.parametrize("case", corpus())
def test_requests_of_another_server_get_its_verdict_or_a_stricter_one(case):
    data = base64.b64decode(case["bytes_b64"])
    # The other server does not ask for Host, so give each request one.
    lines = [line.lower() for line in data.split(b"\r\n")]
    if not any(line.startswith(b"host:") for line in lines):
        data = data.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\nHost: a\r\n")
    results = {repr(events_of(pieces, eof=True)) for pieces in cuts(data)}
    assert len(results) == 1
    last = events_of([data], eof=True)[-1]
    if case["id"] in STRICTER:
        assert last == STRICTER[case["id"]]
    elif case["kind"] == "valid" or case["id"] in LAXER:
        assert last == "closed"
    else:
        assert isinstance(last, int)


# Properties ---------------------------------------------------------------------------


def test_a_large_head_of_ordinary_lines_is_not_read_line_by_line(monkeypatch):
    def refuse(*_):
        raise AssertionError("line by line")

    monkeypatch.setattr(RequestReader, "_read_lines", refuse)
    lines = b"".join(b"X-%d: %s\r\n" % (n, b"v" * 8000) for n in range(8))
    (head,) = events_of([GET + lines + b"\r\n"])
    assert head == "GET /"


if given is not None:
    FRAGMENTS = [
        GET, POST, CHUNKED, b"GET", b" ", b"/", b"*", b"http://a", b" HTTP/1.1\r\n",
        b"HTTP/1.0", b"\r\n", b"\r", b"\n", b"\r\n\r\n", b":", b"Host: b\r\n", b"X:y",
        b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"hello", b"0\r\n",
        b"5\r\n", b"5;a=b\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n",
        b"\x00", b"\xff", b"\t", b"#", b'"', b";", b"=", b"a" * 25, b"OPTIONS",
    ]  # fmt: skip
    inputs = st.lists(
        st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=4)), max_size=14
    ).map(b"".join)

    @settings(max_examples=300, deadline=None)
    @given(inputs)
    def test_parse_head_gives_a_head_or_a_protocol_error(data):
        try:
            head = parse_head(data)
        except ProtocolError:
            return
        # What was accepted can be sent on as it is, and means the same.
        for name, value in head.lines():
            check_header(name, value)
        assert parse_head(head.raw).target == head.target

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=60))
    def test_a_block_that_is_taken_reads_as_header_lines(block):
        if is_header_block(block):
            events = events_of([GET + block + b"\r\n"])
            assert events in (["GET /"], [400], [417])
