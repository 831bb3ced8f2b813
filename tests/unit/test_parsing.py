"""Query, cookies, forms and headers are read as the slow readers below read them.

Each reader here says the rule and nothing else, a step at a time. The framework's take
short ways for what is usual; a seeded generator makes what is usual and what is not.
"""

from __future__ import annotations

import functools
import random
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest

from pixie_web import HTTPError, MultiDict, Request
from pixie_web.cookies import parse_cookies
from pixie_web.forms import parse_form
from pixie_web.protocol.http11 import Head, parse_head
from pixie_web.protocol.multipart import FormLimits
from pixie_web.text import load_json, parse_urlencoded

ROUNDS = 4_000  # texts of each kind
HEXADECIMAL = b"0123456789abcdefABCDEF"


# The slow readers ---------------------------------------------------------------------


def slow_unquote(data: bytes) -> bytes:
    """Return the bytes with each %XX replaced, one after the other."""
    out, at = bytearray(), 0
    while at < len(data):
        digits = data[at + 1 : at + 3]
        if data[at] == 0x25 and len(digits) == 2 and set(digits) <= set(HEXADECIMAL):
            out.append(int(digits, 16))
            at += 3
        else:
            out.append(data[at])
            at += 1
    return bytes(out)


def slow_urlencoded(data: bytes) -> List[Tuple[str, str]]:
    """Return the pairs: WHATWG URL section 5.1."""
    pairs = []
    for field in data.split(b"&"):
        if field:
            parts = field.split(b"=", 1) + [b""]
            name, value = (
                slow_unquote(part.replace(b"+", b" ")).decode("utf-8", "replace")
                for part in parts[:2]
            )
            pairs.append((name, value))
    return pairs


def slow_text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def slow_cookies(header: str) -> Dict[str, str]:
    """Return the cookies; the first of a name counts, and one without is none."""
    found: Dict[str, str] = {}
    for pair in header.split(";"):
        if "=" not in pair:
            continue
        name, value = (one.strip(" \t") for one in pair.split("=", 1))
        name = slow_text(name.encode("latin-1", "replace"))
        if len(value) > 1 and value.startswith('"') and value.endswith('"'):
            value = value[1:-1]
        value = slow_text(slow_unquote(value.encode("latin-1", "replace")))
        if name and name not in found:
            found[name] = value
    return found


def slow_values(raw: bytes, name: str) -> List[str]:
    """Return the values of the header lines of a name, in order."""
    values = []
    for line in raw.split(b"\r\n")[1:-2]:
        key, _, value = line.partition(b":")
        if key.decode("latin-1").lower() == name.lower():
            values.append(value.decode("latin-1").strip(" \t"))
    return values


def slow_dict(pairs: List[Tuple[str, Any]]) -> Dict[str, List[Any]]:
    found: Dict[str, List[Any]] = {}
    for name, value in pairs:
        found[name] = found.get(name, []) + [value]
    return found


# The texts ----------------------------------------------------------------------------

PLAIN_SCRAPS = [b"a", b"b", b"name", b"q", b"=", b"=", b"&", b"&", b"1", b"-._~", b"/"]
SCRAPS = PLAIN_SCRAPS + [
    b"&&", b"==", b"+", b" ", b"%", b"%%", b"%4", b"%41", b"%c3%a4", b"%C3", b"%A4",
    b"%2B", b"%26", b"%3d", b"%00", b"%zz", b"%4z", b"%z4", b"\\", b"\\x41", b"\\n",
    b"\xc3\xa4", b"\xc3", b"\xa4", b"\xff", b"\xe2\x82", b"\xe2\x82\xac", b"\xf0\x9f",
    b"\x00", b"\r\n", b"\t", b";", b'"', b"%F0%9F%98%80", b"%ED%A0%80", b"\x85",
]  # fmt: skip
COOKIE_SCRAPS = [
    b"a", b"b", b"session", b"=", b"=", b";", b"; ", b"; ", b"1", b"v v", b" ", b"\t",
    b";;", b'"', b'""', b'"x"', b"==", b"%", b"%41", b"%4", b"%zz", b"%C3%A4", b"%e4",
    b"%3B", b"%22", b"\\", b"\\x41", b"\xe4", b"\xc3\xa4", b"\xff", b"\x80", b"\xa0",
    b"\x85", b"__Host-x", b",", b"A",
]  # fmt: skip
NAMES = [
    b"Cookie", b"cookie", b"COOKIE", b"cOOkIE", b"X-Cookie", b"Cookie2", b"ookie",
    b"Content-Type", b"content-type", b"CONTENT-type", b"x-content-type", b"X",
]  # fmt: skip
VALUES = [
    b"", b" ", b" a=1", b"\t a=2; b=3\t ", b"cookie: z=9", b" x cookie:c=1", b":",
    b" \xe4\xff=1", b" application/json", b" Application/JSON ; charset=utf-8",
    b" Cookie", b" content-type: q", b"a=1;a=2", b" \xa0a=1\x85", b"::",
    b' t="a b"; u=%41',
]  # fmt: skip


def made_of(dice: random.Random, scraps: List[bytes], most: int) -> bytes:
    return b"".join(dice.choices(scraps, k=dice.randrange(most)))


def a_head(dice: random.Random) -> bytes:
    target = b"/" + dice.choice([b"", b"cookie:a=1", b"?content-type:x", b"?a=1&a=2&b"])
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: a"]
    for _ in range(dice.randrange(5)):
        lines.append(dice.choice(NAMES) + b":" + dice.choice(VALUES))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def request_of(raw: bytes, body: bytes = b"") -> Request:
    request = Request(parse_head(raw))
    request.body = body
    return request


def query_of(text: str) -> MultiDict[str]:
    head = Head()
    head.host, head.query_string = "a", text
    return Request(head).query


def read_both(request: Request) -> None:
    assert request.query is request.query
    assert request.form is request.form


def refusal_of(read: Callable[[], object]) -> Optional[HTTPError]:
    """Return the error that reading ends with; None if it ends well."""
    try:
        read()
    except HTTPError as error:
        return error
    return None


# The comparisons ----------------------------------------------------------------------


@pytest.mark.parametrize("scraps", [PLAIN_SCRAPS, SCRAPS], ids=["usual", "any"])
def test_pairs_are_read_as_the_slow_reader_reads_them(scraps: List[bytes]) -> None:
    dice = random.Random(1)
    for _ in range(ROUNDS):
        data = made_of(dice, scraps, 14)
        expected = slow_urlencoded(data)
        assert parse_urlencoded(data, 1000) == expected, data
        fields, files = parse_form("application/x-www-form-urlencoded", data)
        assert fields._values == slow_dict(expected), data
        assert (len(files), len(MultiDict())) == (0, 0)


@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize("broken", [b"%", b"%4", b"%g1", b"%1g", b"%\xe4", b"%%41"])
def test_an_escape_that_is_broken_anywhere_stays(at: int, broken: bytes) -> None:
    data = b"a%41=b%42"
    data = data[:at] + broken + data[at:]
    for text in (data, b"x=1&" + data, data + b"&y", data + b"+&%C3%A4=%e4"):
        assert parse_urlencoded(text, 9) == slow_urlencoded(text)


@pytest.mark.parametrize(
    "data, pairs",
    [
        (b"&" * 999, 0),
        (b"a&" * 999, 999),
        (b"=&" * 999, 999),
        (b"%&" * 999 + b"%", 1000),
        (b"a=1&" * 999 + b"a=%41", 1000),
    ],
)
def test_a_thousand_fields_are_read_and_one_more_is_refused(
    data: bytes, pairs: int
) -> None:
    assert parse_urlencoded(data, 1000) == slow_urlencoded(data)
    assert len(slow_urlencoded(data)) == pairs
    message = "More than 1000 form fields."
    data += b"&" * (1000 - data.count(b"&"))
    with pytest.raises(HTTPError, match=message) as error:
        parse_urlencoded(data, 1000)
    assert error.value.status == 413
    with pytest.raises(HTTPError, match=message):
        parse_form("application/x-www-form-urlencoded", data)
    line = b"GET /?" + data.replace(b"%", b"x") + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    request = request_of(line)
    for _ in range(2):
        with pytest.raises(HTTPError, match=message):
            assert request.query


def test_the_query_is_read_as_the_slow_reader_reads_it() -> None:
    dice = random.Random(2)
    for _ in range(ROUNDS):
        query = made_of(dice, SCRAPS, 14).decode("latin-1")
        expected = slow_dict(slow_urlencoded(query.encode("latin-1")))
        assert query_of(query)._values == expected, query


def test_the_query_is_latin_1() -> None:
    for text in ("a=\u20ac", "a=%\u20ac", "+\u20ac"):
        with pytest.raises(UnicodeEncodeError):
            query_of(text)


def test_the_limits_are_those_of_the_application() -> None:
    class Application:
        form_limits = FormLimits(max_fields=2, max_form_bytes=5)

    kind = b"Content-Type: application/x-www-form-urlencoded\r\n"
    line = b"POST /?a&b%b HTTP/1.1\r\nHost: a\r\n" + kind + b"\r\n"
    for query, body, status in [
        (b"", b"a=1&b", 200),
        (b"&c", b"a=1&b", 413),
        (b"", b"a=12&b", 413),
        (b"", b"a&b&c", 413),
    ]:
        request = request_of(line % query, body)
        request.app = Application()
        error = refusal_of(functools.partial(read_both, request))
        assert (200 if error is None else error.status) == status
    request.app = object()  # it says nothing of limits
    assert len(request.form) == 3


@pytest.mark.parametrize("size, is_fine", [(5, True), (6, False)])
def test_a_form_is_measured_in_bytes(size: int, is_fine: bool) -> None:
    limits = FormLimits(max_form_bytes=5)
    kind = "application/x-www-form-urlencoded"
    if is_fine:
        assert parse_form(kind, b"a" * size, limits)[0]["aaaaa"] == ""
        return
    with pytest.raises(HTTPError) as error:
        parse_form(kind, b"a" * size, limits)
    assert error.value.status == 413
    assert str(error.value) == "413 The form is over a limit: max_form_bytes is 5."


def test_cookies_are_read_as_the_slow_reader_reads_them() -> None:
    dice = random.Random(3)
    for _ in range(2 * ROUNDS):
        header = made_of(dice, COOKIE_SCRAPS, 12).decode("latin-1")
        got = parse_cookies(header)
        assert got == slow_cookies(header), header
        assert list(got) == list(slow_cookies(header)), header
    assert parse_cookies("a=\u20ac; \u20ac=1") == {"a": "?", "?": "1"}


def test_headers_are_found_as_the_slow_reader_finds_them() -> None:
    dice = random.Random(4)
    asked = [name.decode() for name in NAMES]
    asked += ["host", "", ":", "cookie:", "a=1\r\ncookie", "get", "\u212aookie", "\xe4"]
    asked += ["Coo\u212aie", "x cookie", "?ookie"]
    for _ in range(ROUNDS):
        raw = a_head(dice)
        name = dice.choice(asked)
        request, parsed = request_of(raw), request_of(raw)
        assert parsed.headers is parsed.headers
        values = slow_values(raw, name)
        for one in (request, parsed):
            assert one._values(name) == values, (raw, name)
            assert one.header(name, "none") == (
                ", ".join(values) or "none" * (not values)
            )
            cookies = slow_cookies("; ".join(slow_values(raw, "cookie")))
            assert one.cookies == cookies, raw
            assert one._content_type == ", ".join(slow_values(raw, "content-type"))


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    "kind, is_form, json_status",
    [
        (FORM, True, 415),
        (FORM.upper(), True, 415),
        (f"\t {FORM} \t;charset=utf-8", True, 415),
        (f"{FORM}\xa0", False, 415),
        (f"{FORM}; {FORM}", True, 415),
        (f"{FORM},{FORM}", False, 415),
        (f"x{FORM}", False, 415),
        ("", False, 415),
        (None, False, 415),
        ("application/json", False, 200),
        ("APPLICATION/json ", False, 200),
        ("application/json;charset=latin-1", False, 200),
        ("application/json\xa0; x", False, 200),  # str.strip knows more blanks
        ("application/jsonx", False, 415),
        ("application/problem+JSON", False, 200),
        ("application/json, application/json", False, 415),
        ("text/plain; application/json", False, 415),
    ],
)
def test_the_type_of_a_body(
    kind: Optional[str], is_form: bool, json_status: int
) -> None:
    line = b"" if kind is None else b"CONTENT-type:%b\r\n" % kind.encode("latin-1")
    raw = b"POST / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n"
    request = request_of(raw, b'{"a": 1}')
    assert list(request.form) == (['{"a": 1}'] if is_form else [])
    assert len(request.files) == 0
    error = refusal_of(lambda: request.json)
    if json_status == 200:
        assert (error, request.json) == (None, {"a": 1})
    else:
        assert error is not None
        assert error.status == json_status
        assert str(error) == "415 Send JSON, with Content-Type: application/json."
        assert error.headers["Accept"] == "application/json"


@pytest.mark.parametrize("digits", [*range(17, 24), 40, 200])
@pytest.mark.parametrize("sign", ["", "-"])
def test_a_long_integer_is_exact_wherever_it_stands(digits: int, sign: str) -> None:
    number = int(sign + "1234567890" * 20) if digits == 200 else int(sign + "98765" * 8)
    number = int(str(number)[: digits + len(sign)])
    for shift in range(25):
        text = f'["{"x" * shift}", {number}, {{"a": {number}}}]'
        expected = ["x" * shift, number, {"a": number}]
        assert load_json(text.encode()) == expected
        text = f'["{"1" * shift}", {number}]'
        assert load_json(text.encode()) == ["1" * shift, number]
