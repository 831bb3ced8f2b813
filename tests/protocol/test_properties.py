"""What holds for every input: the same events at every cut, round trips, models.

Inputs are valid, or valid with a few bytes changed, or scraps in any order. The profile
in conftest.py makes the examples the same in every run; with PIXIE_LONG there are many
more, and others each time. `fuzz/` looks for the same with a fuzzer.
"""

from __future__ import annotations

import html
import io
import json
import re
import string
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union
from urllib.parse import parse_qsl, urlencode

import pytest
from events import events_from, joined

from pixie_web import (
    Headers,
    HTTPError,
    MultiDict,
    ProtocolError,
    Request,
    Response,
    Template,
)
from pixie_web.conditional import MAX_RANGES, parse_ranges
from pixie_web.cookies import MIN_SECRET_BYTES, sign, unsign
from pixie_web.forms import parse_form
from pixie_web.protocol.http11 import (
    CLOSED,
    END,
    MAX_HEAD_BYTES,
    NEED_DATA,
    Head,
    RequestReader,
    Signal,
    WireLimits,
    encode_chunk,
    is_header_block,
    parse_head,
)
from pixie_web.protocol.multipart import FORM_LIMITS, FormLimits, MultipartParser, Part
from pixie_web.text import parse_urlencoded, percent_decode, percent_encode

hypothesis = pytest.importorskip("hypothesis")
some = pytest.importorskip("hypothesis.strategies")
given = hypothesis.given

TOKEN = "!#$%&'*+-.^_`|~" + string.ascii_letters + string.digits
TEXT = some.text(some.characters(blacklist_categories=["Cs"]))
TOKENS = some.text(TOKEN, min_size=1, max_size=12)
VISIBLE = "".join(map(chr, range(0x20, 0x7F))) + "\t\x80\xe4\xff"


# Cutting and changing -----------------------------------------------------------------


def pieces_of(data: bytes, places: List[int]) -> List[bytes]:
    """Return `data` cut at the places, each taken modulo its length."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:])]


def bytes_of(data: bytes) -> List[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


PLACES = some.lists(some.integers(0, 10_000), max_size=6)


@some.composite
def changed(draw: Any, whole: Any, scraps: List[bytes]) -> bytes:
    """Draw from `whole`, and replace up to three stretches of it."""
    data: bytes = draw(whole)
    scrap = some.sampled_from(scraps) | some.binary(max_size=3)
    for place, length, new in draw(
        some.lists(
            some.tuples(some.integers(0, 10_000), some.integers(0, 5), scrap),
            max_size=3,
        )
    ):
        place %= len(data) + 1
        data = data[:place] + new + data[place + length :]
    return data


def anything(valid: Any, scraps: List[bytes]) -> Any:
    pieces = some.sampled_from(scraps) | some.binary(max_size=4)
    garbage = some.lists(pieces, max_size=14).map(b"".join)
    return changed(valid, scraps) | garbage


# Requests -----------------------------------------------------------------------------

SMALL = {
    "max_request_line_bytes": 40,
    "max_header_line_bytes": 30,
    "max_headers": 4,
    "max_head_bytes": 120,
    "max_chunk_line_bytes": 16,
    "max_trailer_bytes": 30,
}
LIMITS: List[Dict[str, int]] = [{}, SMALL, {**SMALL, "max_head_bytes": 40}]
SCRAPS = [
    *(b"GET", b"POST /", b" ", b"/", b"*", b"http://a", b" HTTP/1.1\r\n", b"HTTP/1.0"),
    *(
        b"\r\n",
        b"\r",
        b"\n",
        b"\r\n\r\n",
        b":",
        b"Host: b\r\n",
        b"X:y",
        b"hello",
        b"\t",
    ),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n", b"5\r\n"),
    *(b"5;a=b\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"\x00"),
    *(b"\xff", b"#", b'"', b";", b"=", b"a" * 25, b"OPTIONS", b"CONNECT a:1"),
]
PATHS = some.text(string.ascii_letters + "/-._~%!$&'()*+,;=:@", max_size=20)
LINES = some.lists(
    some.tuples(TOKENS.map(lambda name: f"X-{name}"), some.text(VISIBLE, max_size=12)),
    max_size=4,
)
EXTENSIONS = some.sampled_from([b"", b";a", b" ; a=b", b';a="\\"\xe4 b"\t;c=d'])

Event = Union[Tuple[object, ...], bytes, Signal]


def events_of(
    pieces: List[bytes], limits: Dict[str, int], eof: bool = True
) -> List[Event]:
    """Return what a reader makes of the pieces, those of one body joined."""
    reader = RequestReader(WireLimits(**limits))
    most_kept = max(limits.values(), default=MAX_HEAD_BYTES)

    def events() -> Iterator[Event]:
        for event in events_from(reader, [*pieces, None] if eof else pieces):
            assert event is not NEED_DATA or reader.buffered <= most_kept
            if isinstance(event, Head):
                event = tuple(getattr(event, slot) for slot in Head.__slots__)
            if isinstance(event, ProtocolError):
                event = event.status, event.text
            yield event

    return joined(events())


@some.composite
def chunked(draw: Any, body: bytes) -> bytes:
    """Draw a way to send a body in chunks."""
    data = b""
    for piece in filter(None, pieces_of(body, draw(PLACES))):
        size, _, rest = encode_chunk(piece).partition(b"\r\n")
        size = draw(some.sampled_from([size, size.upper(), b"00" + size]))
        data += size + draw(EXTENSIONS) + b"\r\n" + rest
    trailers = draw(
        some.sampled_from([b"", b"T: x\r\n", b"T: x\r\nContent-Length: 9\r\n"])
    )
    return data + b"0" + draw(EXTENSIONS) + b"\r\n" + trailers + b"\r\n"


Sent = Tuple[str, str, List[Tuple[str, str]], Optional[bytes]]


@some.composite
def connections(draw: Any) -> Tuple[bytes, List[Sent]]:
    """Draw the bytes of some valid requests, and what each of them says."""
    data, requests = b"", []
    for _ in range(draw(some.integers(1, 3))):
        method, target = (
            draw(some.sampled_from(["GET", "POST", "x-~"])),
            "/" + draw(PATHS),
        )
        lines = draw(LINES)
        body = draw(some.none() | some.binary(max_size=30))
        head = f"{method} {target} HTTP/1.1\r\nHost: example.com:80\r\n"
        head += "".join(f"{name}:{value}\r\n" for name, value in lines)
        if body is None:
            sent = b""
        elif draw(some.booleans()):
            head += "Transfer-Encoding: chunked\r\n"
            sent = draw(chunked(body))
        else:
            head += f"Content-Length: {len(body)}\r\n"
            sent, body = body, body or None
        data += b"\r\n" * draw(some.integers(0, 2)) + head.encode("latin-1")
        data += b"\r\n" + sent
        requests.append((method, target, lines, body))
    return data, requests


VALID = connections()
CONNECTIONS = anything(VALID.map(lambda drawn: drawn[0]), SCRAPS)
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED_BODIES = anything(some.binary(max_size=30).flatmap(chunked), SCRAPS)


@given(VALID, PLACES)
def test_valid_requests_come_out_as_they_were_sent(
    drawn: Tuple[bytes, List[Sent]], places: List[int]
) -> None:
    data, requests = drawn
    expected: List[object] = []
    for _, _, _, body in requests:
        expected += ["head"]
        expected += [] if body is None else [body, END] if body else [END]
    events = events_of(pieces_of(data, places), {})
    heads = [event for event in events if isinstance(event, tuple)]
    got = ["head" if isinstance(event, tuple) else event for event in events]
    assert got == [*expected, CLOSED]
    for (method, target, lines, _), values in zip(requests, heads):
        head = parse_head(values[0])
        assert (head.method, head.target) == (method, target)
        assert head.path == percent_decode(target.encode()).decode("utf-8", "replace")
        stripped = [(name, value.strip(" \t")) for name, value in lines]
        assert list(head.lines())[1 : 1 + len(lines)] == stripped


@given(CONNECTIONS, PLACES, some.sampled_from(LIMITS), some.booleans())
def test_any_connection_gives_the_same_events_at_every_cut(
    data: bytes, places: List[int], limits: Dict[str, int], eof: bool
) -> None:
    whole = events_of([data], limits, eof)
    assert events_of(pieces_of(data, places), limits, eof) == whole
    assert events_of(bytes_of(data), limits, eof) == whole


@given(CHUNKED_BODIES, PLACES, some.sampled_from(LIMITS))
def test_any_chunked_body_gives_the_same_events_at_every_cut(
    data: bytes, places: List[int], limits: Dict[str, int]
) -> None:
    data = CHUNKED + data
    whole = events_of([data], limits)
    assert isinstance(whole[0], tuple)
    assert events_of(pieces_of(data, places), limits) == whole
    assert events_of(bytes_of(data), limits) == whole


# Forms --------------------------------------------------------------------------------

MULTIPART_SCRAPS = [
    *(b"\r", b"\n", b"\r\n", b"--xYz", b"\r\n--xYz", b"--", b"\r\n\r\n", b"a", b"%22"),
    *(b'name="a"', b'filename="', b"; ", b":", b"Content-Disposition: form-data; "),
    *(b"Content-Type: text/plain", b"\r\nContent-Transfer-Encoding: base64", b"\\"),
    *(b'--xYz\r\nContent-Disposition: form-data; name="a"\r\n\r\n', b"\r\n--xYz--\r\n"),
]
SMALL_FORM = FormLimits(
    max_parts=3,
    max_field_bytes=9,
    max_form_bytes=15,
    max_file_bytes=12,
    max_part_headers=3,
    max_part_head_bytes=120,
)
Parts = List[Tuple[str, Optional[str], str, bytes]]
NAMES = some.text(
    some.characters(blacklist_categories=["Cs", "Cc"]), max_size=8
).filter(lambda name: not re.search(r'%22|%0[AD]|\\"|\\$', name))
CONTENT = some.binary(max_size=20).filter(
    lambda data: b"\r\n--xYz" not in b"\r\n" + data
)
PARTS = some.lists(
    some.tuples(NAMES, some.none() | NAMES, some.sampled_from(["", "a/b"]), CONTENT),
    max_size=4,
)


def multipart_of(parts: Parts) -> bytes:
    """Return the body that a browser sends (WHATWG HTML 4.10.21.8)."""
    body = ""
    for name, filename, content_type, data in parts:
        body += f'--xYz\r\nContent-Disposition: form-data; name="{quoted(name)}"'
        body += "" if filename is None else f'; filename="{quoted(filename)}"'
        body += f"\r\nContent-Type: {content_type}" if content_type else ""
        body += f"\r\n\r\n{data.decode('latin-1')}\r\n"
    return body.encode("latin-1") + b"--xYz--\r\n"


def quoted(name: str) -> str:
    return name.replace('"', "%22").encode().decode("latin-1")


def parts_of(pieces: List[bytes], limits: FormLimits) -> Union[Parts, str]:
    """Return the parts, or the error as text; each lies where it says it does."""
    parts: Parts = []
    parser = MultipartParser("xYz", limits)
    body = b"".join(pieces)
    try:
        for piece in pieces:
            for event in parser.feed(piece):
                if isinstance(event, Part):
                    part, data = event, b""
                elif event is None:
                    assert body[part.offset : part.offset + part.size] == data
                    parts.append((part.name, part.filename, part.content_type, data))
                else:
                    data += event
            assert len(parser._rest) <= limits.max_part_head_bytes + 3
        parser.close()
    except HTTPError as error:
        return str(error)
    return parts


@given(anything(PARTS.map(multipart_of), MULTIPART_SCRAPS), PLACES)
def test_any_multipart_body_gives_the_same_parts_at_every_cut(
    body: bytes, places: List[int]
) -> None:
    for limits in (FORM_LIMITS, SMALL_FORM):
        whole = parts_of([body], limits)
        assert parts_of(pieces_of(body, places), limits) == whole
        assert parts_of(bytes_of(body), limits) == whole


@given(PARTS, PLACES)
def test_the_parts_that_were_sent_are_the_parts_that_come_out(
    parts: Parts, places: List[int]
) -> None:
    body = multipart_of(parts)
    assert parts_of(pieces_of(body, places), FORM_LIMITS) == parts
    fields, files = parse_form("multipart/form-data; boundary=xYz", body)
    texts = [data.decode("utf-8", "replace") for _, f, _, data in parts if f is None]
    assert sorted(value for _, value in fields.items()) == sorted(texts)
    sent = [(f, data) for _, f, _, data in parts if f is not None and (f or data)]
    got = [(upload.raw_filename, upload.file.read()) for _, upload in files.items()]
    assert sorted(got) == sorted(sent)


URLENCODED = "application/x-www-form-urlencoded"
FIELDS = some.lists(
    some.sampled_from([b"=", b"+", b"%", b"%C3", b"%A4", b"\xc3", b"\\x41", b"%41"])
    | some.binary(max_size=2),
    max_size=8,
).map(b"".join)


@given(some.lists(FIELDS, max_size=5), some.integers(0, 5))
def test_an_urlencoded_form_is_its_fields_one_after_the_other(
    fields: List[bytes], count: int
) -> None:
    first, second = b"&".join(fields[:count]), b"&".join(fields[count:])
    pairs = parse_urlencoded(first, 99) + parse_urlencoded(second, 99)
    assert parse_urlencoded(first + b"&" + second, 99) == pairs
    escaped = re.sub(
        rb"[^\x00-\x7f]",
        lambda found: b"%%%02X" % found.group()[0],
        first + b"&" + second,
    )
    text = escaped.decode()
    assert parse_qsl(text, keep_blank_values=True, errors="replace") == pairs
    body = io.BytesIO(first + b"&" + second)
    form, _ = parse_form(URLENCODED, body)
    assert form == MultiDict(pairs)


@given(some.lists(some.tuples(TEXT, TEXT), max_size=5))
def test_a_query_that_was_encoded_is_read_as_it_was(
    pairs: List[Tuple[str, str]],
) -> None:
    ours = "&".join("=".join(map(percent_encode, pair)) for pair in pairs)
    for query in (urlencode(pairs), ours):
        head = parse_head(f"GET /?{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert Request(head).query == MultiDict(pairs)


# Headers and cookies ------------------------------------------------------------------

VALUES = some.text(VISIBLE, max_size=20)


def request_with(name: str, value: str) -> Request:
    head = f"GET / HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\n\r\n"
    return Request(parse_head(head.encode("latin-1")))


@given(some.lists(some.tuples(TOKENS.map("X-{}".format), VALUES), max_size=6))
def test_headers_that_are_rendered_are_read_back(lines: List[Tuple[str, str]]) -> None:
    response = Response(headers=Headers(lines))
    block = response.header_block()
    assert is_header_block(block)
    head = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + block + b"\r\n")
    got = Request(head).headers
    for name, _ in lines:
        values = [v for n, v in lines if n.lower() == name.lower()]
        assert got.getall(name) == [value.strip(" \t") for value in values]


@given(some.dictionaries(TOKENS.map("c-{}".format), TEXT, max_size=4))
def test_cookies_that_are_set_are_read_back(cookies: Dict[str, str]) -> None:
    response = Response()
    for name, value in cookies.items():
        response.set_cookie(name, value)
    block = response.header_block().decode("latin-1")
    assert is_header_block(block.encode("latin-1"))
    pairs = re.findall(r"^Set-Cookie: ([^;\r]*)", block, re.MULTILINE)
    assert request_with("Cookie", "; ".join(pairs)).cookies == cookies


JSON_VALUES = some.recursive(
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: (
        some.lists(inner, max_size=3) | some.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = some.lists(
    TEXT.map(lambda text: text + "x" * MIN_SECRET_BYTES)
    | some.binary(min_size=MIN_SECRET_BYTES),
    min_size=1,
    max_size=3,
)
NOW = 1_700_000_000.0
KEY = "a key of the tests"


@given(TOKENS, JSON_VALUES, KEYS, some.integers(0, 1000), some.integers(0, 1000))
def test_a_signed_value_is_read_back_until_it_is_too_old(
    name: str, value: object, keys: List[Union[str, bytes]], age: int, max_age: int
) -> None:
    text = sign(name, value, keys, NOW - age)
    assert request_with("Cookie", f"{name}={text}").cookies == {name: text}
    if age > max_age:
        with pytest.raises(ValueError, match="too long ago"):
            unsign(name, text, keys, max_age, NOW)
    else:
        got = unsign(name, text, ["another key, not theirs", *keys], max_age, NOW)
        assert json.dumps(got) == json.dumps(value)


@given(TOKENS, JSON_VALUES, some.integers(0, 10_000), some.characters())
def test_a_signed_value_that_is_changed_anywhere_is_refused(
    name: str, value: object, place: int, new: str
) -> None:
    text = sign(name, value, KEY, NOW)
    place %= len(text)
    hypothesis.assume(text[place] != new)
    for forged in (text[:place] + new + text[place + 1 :], text[:place], text + new):
        with pytest.raises(ValueError):
            unsign(name, forged, KEY, None, NOW)
    for other_name, key in ((name + "x", KEY), (name, KEY.upper())):
        with pytest.raises(ValueError, match="signature"):
            unsign(other_name, text, key, None, NOW)


# Ranges -------------------------------------------------------------------------------

NUMBER = some.integers(0, 30)
RANGE = (
    some.tuples(NUMBER, NUMBER).map(lambda pair: "{}-{}".format(*sorted(pair)))
    | NUMBER.map("{}-".format)
    | NUMBER.map("-{}".format)
)
NO_RANGE = some.tuples(NUMBER, NUMBER).map("{0[0]}-{0[1]}".format) | some.text(
    "0123456789-, ", max_size=5
)
RANGES = some.lists(RANGE, max_size=12) | some.lists(RANGE | NO_RANGE, max_size=3)


def asked_of(member: str, size: int) -> Optional[List[int]]:
    """Return the positions that one range asks for; None if it is malformed."""
    if not re.fullmatch(r"\d+-\d*|-\d+", member):
        return None
    first, last = member.split("-")
    if first and last and int(last) < int(first):
        return None
    if first:
        return [i for i in range(size) if int(first) <= i <= int(last or size)]
    return [i for i in range(size) if size - i <= int(last)]


@given(RANGES, some.integers(0, 25))
def test_ranges_are_the_positions_they_ask_for(ranges: List[str], size: int) -> None:
    header = ",".join(ranges)
    members = [asked_of(member.strip(), size) for member in header.split(",")]
    found = parse_ranges("bytes=" + header, size)
    if not size or len(members) > MAX_RANGES or None in members:
        assert found is None
    else:
        assert found is not None
        sent = [list(range(start, stop)) for start, stop in found]
        assert sent == [positions for positions in members if positions]


# Templates ----------------------------------------------------------------------------

ANY_VALUE = (
    some.text()
    | some.text("<>&\"'\0x", max_size=8)
    | some.lists(some.text("<&'\"", max_size=3), max_size=2)
    | some.none()
    | some.integers()
    | TEXT.map(str.encode)
)
LAYOUTS = {
    "alone": "{{a}}",
    "side by side": "{{a}}{{b}}",
    "in attributes": "[p x=[{{a}}] y=[{{ b }}]]{{c}}[/p]",
    "in a loop": "% for x in (a, b, c):\n{{x}}\n% end\n",
    "by code": "% x = a\n% if True:\n{{x}}{{[b]}}\n% end\n{{c if c else b}}",
    "by exec": "% global g\n{{a}}|{{b}}|{{c}}",
}


@pytest.mark.parametrize("source", LAYOUTS.values(), ids=LAYOUTS)
@given(values=some.tuples(ANY_VALUE, ANY_VALUE, ANY_VALUE))
def test_nothing_that_html_knows_comes_through_a_template(
    source: str, values: Tuple[object, ...]
) -> None:
    got = Template(source).render(dict(zip("abc", values)))
    assert not set(re.sub("&(?:amp|lt|gt|quot|#39);", "", got)) & set("<>&\"'")
    if source == "{{a}}" and isinstance(values[0], str):
        assert html.unescape(got) == values[0]
