"""Text between the wire and the program."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import pickle
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest

from pixie_web import HTTPError, PixieError
from pixie_web.cookies import (
    CLOCK_SKEW_SECONDS,
    format_cookie,
    parse_cookies,
    sign,
    unsign,
)
from pixie_web.text import (
    check_header,
    dump_json,
    escape,
    format_date,
    is_token,
    load_json,
    parse_date,
    parse_urlencoded,
    percent_decode,
    percent_encode,
)

# Tokens and headers -------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a", "Content-Type", "!#$%&'*+-.^_`|~0aZ"])
def test_tokens(text: str) -> None:
    assert is_token(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "a:", "a\n", "\na", "ä", "a\0", "(a)", "a/b", '"a"', "\u0661"],
)
def test_what_is_no_token(text: str) -> None:
    assert not is_token(text)


@pytest.mark.parametrize("value", ["", "a", "a\tb", "é\xff", "\x80"])
def test_header_values_that_can_be_sent(value: str) -> None:
    check_header("X-A", value)


@pytest.mark.parametrize(
    "name,value",
    [
        ("X-A", "a\r\nSet-Cookie: b=c"),
        ("X-A", "a\r"),
        ("X-A", "a\n"),
        ("X-A", "\0"),
        ("X-A", "\x0b"),
        ("X-A", "\x7f"),
        ("X-A", "日"),
        ("X-A", "\u010a"),  # becomes LF where a server drops the upper byte
        ("X-A\r\n", "a"),
        ("X-A\n", "a"),
        ("", "a"),
        ("X A", "a"),
        ("X-A:", "a"),
    ],
)
def test_headers_that_would_add_to_the_response_are_refused(
    name: str, value: str
) -> None:
    with pytest.raises(ValueError):
        check_header(name, value)


# Dates --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds,text",
    [
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (784111777, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (784111777.9, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (951782400, "Tue, 29 Feb 2000 00:00:00 GMT"),
        (4107542400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        (253402300799, "Fri, 31 Dec 9999 23:59:59 GMT"),
    ],
)
def test_a_date_is_written_and_read_back(seconds: float, text: str) -> None:
    assert format_date(seconds) == text
    assert parse_date(text) == int(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun Nov 06 08:49:37 1994",
    ],
)
def test_the_three_forms_of_a_date_are_read(text: str) -> None:
    assert parse_date(text) == 784111777


def test_a_year_of_two_digits_lies_at_most_fifty_years_ahead() -> None:
    year = time.gmtime().tm_year
    for ahead, expected in ((49, year + 49), (51, year - 49)):
        seconds = parse_date(f"Monday, 01-Mar-{(year + ahead) % 100:02} 00:00:00 GMT")
        assert seconds is not None
        assert time.gmtime(seconds).tm_year == expected


def test_a_leap_second_is_the_one_before() -> None:
    assert parse_date("Sat, 31 Dec 2016 23:59:60 GMT") == 1483228799


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        "Sun, 06 Nov 1994 08:49:37 GMT\n",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Xxx 1994 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 1994 08:49:99 GMT",
        "Sun, 06 Nov 1994 :::::::: GMT",
        "Sun, 06 Nov 1994 08494937 GMT",
        "Sun, 06 Nov 1994 8:4:9:37 GMT",
        "Sun, \u0660\u0666 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT" * 9,
    ],
)
def test_what_is_no_date_is_none(text: str) -> None:
    assert parse_date(text) is None


# Percent-encoding and forms -----------------------------------------------------------


@pytest.mark.parametrize(
    "data,expected",
    [
        (b"", b""),
        (b"a+b", b"a+b"),
        (b"%41%62", b"Ab"),
        (b"%c3%A4%Ff%fF", b"\xc3\xa4\xff\xff"),
        (b"%00", b"\0"),
        (b"%25%32%35", b"%25"),
        (b"%2541", b"%41"),
        (b"%", b"%"),
        (b"%4", b"%4"),
        (b"%4g%41", b"%4gA"),
        (b"%%41", b"%A"),
        (b"%u0041", b"%u0041"),
        (b"\\%41\\x41\\u0041\\N{BULLET}\\\n\\", b"\\A\\x41\\u0041\\N{BULLET}\\\n\\"),
        (b"\xff\x80%41", b"\xff\x80A"),
        (b"% 4%+4%-1%0x", b"% 4%+4%-1%0x"),
        (b"\\%4g", b"\\%4g"),
    ],
)
def test_percent_decoding(data: bytes, expected: bytes) -> None:
    assert percent_decode(data) == expected


def test_percent_encoding() -> None:
    assert percent_encode("a b/ä%-._~") == "a%20b%2F%C3%A4%25-._~"
    assert percent_encode("a b/ä", b"/ ") == "a b/%C3%A4"
    assert percent_encode("\0\r\n") == "%00%0D%0A"


def test_percent_decoding_is_that_of_urllib_and_undoes_encoding() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")
    from urllib.parse import unquote_to_bytes

    scraps = strategies.sampled_from(
        [b"%", b"4", b"1", b"f", b"\\", b"x", b"u", b"N{", b"\xc3"]
    )
    data = strategies.binary() | strategies.lists(scraps).map(b"".join)

    @hypothesis.given(data, strategies.text())
    def check(raw: bytes, text: str) -> None:
        assert percent_decode(raw) == unquote_to_bytes(raw)
        assert percent_decode(percent_encode(text).encode()) == text.encode()

    check()


@pytest.mark.parametrize(
    "data,expected",
    [
        (b"", []),
        (b"a=1&b=2&a=3", [("a", "1"), ("b", "2"), ("a", "3")]),
        (b"a", [("a", "")]),
        (b"a=", [("a", "")]),
        (b"=a", [("", "a")]),
        (b"=", [("", "")]),
        (b"&&a=1&", [("a", "1")]),
        (b"a=b=c", [("a", "b=c")]),
        (b"a%3Db=c%26d", [("a=b", "c&d")]),
        (b"a+b=c%2Bd+%20", [("a b", "c+d  ")]),
        (b"a;b=1;c=2", [("a;b", "1;c=2")]),
        (b"a=%C3%A4&b=\xc3\xa4", [("a", "ä"), ("b", "ä")]),
        (b"a=\xc3%A4", [("a", "ä")]),
        (
            b"a=%FF&b=\xff&\xc3=\xc3",
            [("a", "\ufffd"), ("b", "\ufffd"), ("\ufffd", "\ufffd")],
        ),
        (b"a=%zz%4", [("a", "%zz%4")]),
        (b"a=\0&b=%00", [("a", "\0"), ("b", "\0")]),
        (b"\xef\xbb\xbfa=1", [("\ufeffa", "1")]),
    ],
)
def test_form_decoding(data: bytes, expected: List[Tuple[str, str]]) -> None:
    assert parse_urlencoded(data, 10) == expected


def test_form_decoding_takes_each_field_for_itself() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")
    scraps = strategies.sampled_from(
        [b"&", b"=", b"+", b"%", b"%C3", b"%A4", b"\xc3", b"\xe3\x81"]
    )
    data = strategies.lists(scraps | strategies.binary(max_size=2)).map(b"".join)

    @hypothesis.given(data)
    def check(raw: bytes) -> None:
        expected = []
        for field in filter(None, raw.split(b"&")):
            name, _, value = field.partition(b"=")
            pair = [percent_decode(each.replace(b"+", b" ")) for each in (name, value)]
            expected.append(tuple(each.decode("utf-8", "replace") for each in pair))
        assert parse_urlencoded(raw, 10**6) == expected

    check()


@pytest.mark.parametrize("data", [b"a&" * 4, b"a&a&a&a", b"&" * 3, b"&" * 1_000_000])
def test_too_many_fields_are_413_and_are_not_split(data: bytes) -> None:
    with pytest.raises(HTTPError) as caught:
        parse_urlencoded(data, 3)
    assert caught.value.status == 413
    assert parse_urlencoded(b"a&b&c", 3) == [("a", ""), ("b", ""), ("c", "")]


# Cookies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header,expected",
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a=1; b=2;c=3 ;\td = 4", {"a": "1", "b": "2", "c": "3", "d": "4"}),
        ("a=1; a=2", {"a": "1"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=", {"a": ""}),
        (
            'a="x y"; b=""; c="; d=x"y"; e="',
            {"a": "x y", "b": "", "c": '"', "d": 'x"y"', "e": '"'},
        ),
        ("a=%20%C3%A4; b=%zz; c=%ff", {"a": " ä", "b": "%zz", "c": "\xff"}),
        ("a=\xc3\xa4; b=\xe4", {"a": "ä", "b": "\xe4"}),
        ("\xc3\xa4=\xc3\xa4; \xe4=1; %C3%A4=2", {"ä": "ä", "%C3%A4": "2"}),
        ("\xe4=1; \xc3\xa4=2; b\xff=3", {"ä": "1", "bÿ": "3"}),
        ('\xe6\x97\xa5 ="a"; b=%41', {"日": "a", "b": "A"}),
        ("a", {}),
        ("; ;;", {}),
        # Nameless: "=__Host-x=1" could pass for the cookie __Host-x.
        ("=__Host-x=1; =1; a=2", {"a": "2"}),
        ("__Host-x=1; __Host-x=2", {"__Host-x": "1"}),
        ('a="\\073\\"', {"a": "\\073\\"}),
        ("a=1,b=2", {"a": "1,b=2"}),
        ("$Version=1; a=1; $Path=/", {"$Version": "1", "a": "1", "$Path": "/"}),
    ],
)
def test_cookies_are_read(header: str, expected: Dict[str, str]) -> None:
    assert parse_cookies(header) == expected


@pytest.mark.parametrize(
    "header",
    ['a="' + "\\" * 7000 + '"', "a=" + "%" * 65_536, ";" * 65_536, "a=" * 30_000],
)
def test_hostile_cookies_are_at_most_one(header: str) -> None:
    assert len(parse_cookies(header)) <= 1


def test_a_cookie_is_written_with_its_attributes() -> None:
    attributes = {
        "Path": "/",
        "Max-Age": 0,
        "Domain": None,
        "Secure": True,
        "HttpOnly": False,
        "SameSite": "Lax",
    }
    text = format_cookie("a", "b c;d", attributes)
    assert text == "a=b%20c%3Bd; Path=/; Max-Age=0; Secure; SameSite=Lax"


@pytest.mark.parametrize(
    "name,value,attributes",
    [
        ("", "1", {}),
        ("a b", "1", {}),
        ("a=b", "1", {}),
        ("a\r\nSet-Cookie: b", "1", {}),
        ("ä", "1", {}),
        ("a", "1", {"Path": "/; Domain=evil"}),
        ("a", "1", {"Path": "/\r\nX: y"}),
        ("a", "1", {"Path": "/\0"}),
        ("a", "1", {"Domain": "日本"}),
        ("a", "1", {"Path": "/" + "x" * 1024}),
    ],
)
def test_a_cookie_that_would_add_something_is_refused(
    name: str, value: str, attributes: Dict[str, object]
) -> None:
    with pytest.raises(ValueError):
        format_cookie(name, value, attributes)


@pytest.mark.parametrize(
    "value", ["\r\nSet-Cookie: b=c", "; Path=/x", "\0", '"', ",", "\\", "日"]
)
def test_a_cookies_value_stays_a_value(value: str) -> None:
    text = format_cookie("a", value, {})
    assert not set(text) & set('\r\n\0;,\\" ')
    assert text.isascii()
    assert parse_cookies(text) == {"a": value}


def test_every_cookie_is_read_back_as_it_was_set() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")

    @hypothesis.given(
        strategies.text(strategies.characters(blacklist_categories=["Cs"]))
    )
    def check(value: str) -> None:
        text = format_cookie("a", value, {})
        check_header("Set-Cookie", text)
        assert parse_cookies(text) == {"a": value}
        assert parse_cookies(f"x=1; {text}; y=2")["a"] == value

    check()


def test_any_cookie_header_is_read() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")

    @hypothesis.given(strategies.text(strategies.characters(max_codepoint=255)))
    def check(header: str) -> None:
        for name in parse_cookies(header):
            assert name
            assert not set(name) & set(";=")

    check()


# Escaping and JSON --------------------------------------------------------------------


def test_escaping() -> None:
    class Markup(str):
        def __html__(self) -> str:
            return str(self)

    assert escape("<a href=\"x\" b='y'>&amp;") == (
        "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;amp;"
    )
    assert escape(Markup("<b>")) == "<b>"
    assert escape(1) == "1"
    assert escape(None) == "None"


def test_json_is_compact_utf8() -> None:
    assert (
        dump_json({"ä": [1, 2.5, None, True, "<"]})
        == '{"ä":[1,2.5,null,true,"<"]}'.encode()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_json_has_no_nan(value: object) -> None:
    with pytest.raises(ValueError):
        dump_json(value)


def test_what_json_can_not_say_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        dump_json({1, 2})


def test_half_a_surrogate_pair_comes_back_as_it_came() -> None:
    value = load_json(b'["\\ud800", "\\ud83d\\ude00", "\\\\ud800"]')
    assert value == ["\ud800", "😀", "\\ud800"]
    assert dump_json(value) == b'["\\ud800","\xf0\x9f\x98\x80","\\\\ud800"]'
    assert load_json(dump_json(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1,]",
        b"{'a': 1}",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b'"\xff"',
        b"\xff\xfe1\x00",
        b"\xef\xbb\xbf1",
        b"1 2",
        b'"\n"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_what_is_no_json_is_400_with_a_reason(data: bytes) -> None:
    with pytest.raises(HTTPError) as caught:
        load_json(data)
    assert caught.value.status == 400
    assert len(caught.value.text) < 300


def test_a_number_of_5000_digits_is_400_or_a_number() -> None:
    # Pythons with a limit on the length of an int refuse it (CVE-2020-10735).
    try:
        got = load_json(b"9" * 5000)
    except HTTPError as error:
        got = error.status
    assert got in (400, 10**5000 - 1)


# Signed values ------------------------------------------------------------------------

NOW = 1_700_000_000.5
KEY = "correct horse battery"
SIGNED = sign("session", {"user": 7}, KEY, NOW)


def forged(change: Callable[[str], str]) -> str:
    text = change(SIGNED)
    assert text != SIGNED
    return text


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_signed_value_is_this() -> None:
    payload = encode(b'[1700000000,{"user":7}]')
    message = b"pixie_web signed cookie 1\0session\0" + payload.encode()
    mac = hmac.new(b"correct horse battery", message, hashlib.sha256).digest()
    assert f"{payload}.{encode(mac)}" == SIGNED


@pytest.mark.parametrize(
    "value", [None, True, 0, 1.5, "", "ä\0;", [1, [2]], {"a": {"b": None}}]
)
def test_a_value_comes_back(value: object) -> None:
    text = sign("n", value, KEY, NOW)
    assert unsign("n", text, KEY, None, NOW) == value
    assert parse_cookies(format_cookie("n", text, {})) == {"n": text}


def test_every_flipped_bit_is_noticed() -> None:
    for index in range(len(SIGNED)):
        for bit in range(7):
            text = (
                SIGNED[:index]
                + chr(ord(SIGNED[index]) ^ 1 << bit)
                + SIGNED[index + 1 :]
            )
            with pytest.raises(ValueError):
                unsign("session", text, KEY, None, NOW)


def test_every_truncation_is_noticed() -> None:
    for length in range(len(SIGNED)):
        with pytest.raises(ValueError):
            unsign("session", SIGNED[:length], KEY, None, NOW)
        with pytest.raises(ValueError):
            unsign("session", SIGNED[length + 1 :], KEY, None, NOW)


def test_every_other_last_character_is_noticed() -> None:
    # Four of them stand for the same bytes; only one is canonical.
    for end in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=":
        if not SIGNED.endswith(end):
            with pytest.raises(ValueError):
                unsign("session", SIGNED[:-1] + end, KEY, None, NOW)


PAYLOAD, _, SIGNATURE = SIGNED.rpartition(".")

FORGERIES = {
    "no signature": PAYLOAD,
    "an empty signature": PAYLOAD + ".",
    "only a signature": "." + SIGNATURE,
    "nothing": "",
    "a dot": ".",
    "padding": SIGNED + "=",
    "padding in the payload": PAYLOAD + "=." + SIGNATURE,
    "blanks": SIGNED + " ",
    "a line end": SIGNED + "\n",
    "not ASCII": SIGNED[:-1] + "ä",
    "half a surrogate pair": SIGNED + "\ud800",
    "the standard alphabet": sign("session", "\xff\xff?>" * 9, KEY, NOW)
    .replace("-", "+")
    .replace("_", "/"),
    "another value": encode(b'[1700000000,{"user":1}]') + "." + SIGNATURE,
    "a later time": encode(b'[1800000000,{"user":7}]') + "." + SIGNATURE,
    "a pickle": encode(pickle.dumps({"user": 7})) + "." + SIGNATURE,
    "signed by another key": sign(
        "session", {"user": 7}, "another one, not theirs", NOW
    ),
    "of another cookie": sign("session2", {"user": 7}, KEY, NOW),
    "without its purpose": PAYLOAD
    + "."
    + encode(hmac.new(KEY.encode(), PAYLOAD.encode(), hashlib.sha256).digest()),
    "too long": "A" * 10**6 + "." + SIGNATURE,
}


@pytest.mark.parametrize(
    "text", [pytest.param(t, id=name) for name, t in FORGERIES.items()]
)
def test_a_forgery_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        unsign("session", text, KEY, None, NOW)


def test_a_signed_cookie_is_good_for_its_own_name_only() -> None:
    for name in ("Session", "session\0", "", "sessio"):
        with pytest.raises(ValueError):
            unsign(name, SIGNED, KEY, None, NOW)


def test_name_and_payload_can_not_be_shifted() -> None:
    text = sign("a", 1, KEY, NOW)
    payload, _, signature = text.rpartition(".")
    for name, rest in (("a\0" + payload, ""), ("a\0" + payload[:4], payload[4:])):
        with pytest.raises(ValueError):
            unsign(name, f"{rest}.{signature}", KEY, None, NOW)


@pytest.mark.parametrize(
    "age,max_age,accepted",
    [
        (0, 0, True),
        (3600, 3600, True),
        (3601, 3600, False),
        (10**9, None, True),
        (10**9, 60, False),
        (-60, 60, True),
        (-61, 60, False),
        (-61, None, False),
        (-(10**9), None, False),
    ],
)
def test_the_age_is_checked_by_the_server(
    age: int, max_age: Optional[float], accepted: bool
) -> None:
    text = sign("n", 1, KEY, 1000)
    if accepted:
        assert unsign("n", text, KEY, max_age, 1000 + age) == 1
        return
    with pytest.raises(ValueError):
        unsign("n", text, KEY, max_age, 1000 + age)


def test_the_first_secret_signs_and_all_verify() -> None:
    old, new = "the old one, before", b"the new one, today"
    name = "n\u00e9w, and long enough"
    assert unsign("n", sign("n", 1, old, NOW), [new, old], 60, NOW) == 1
    assert unsign("n", sign("n", 1, [new, old], NOW), new, 60, NOW) == 1
    assert unsign("n", sign("n", 1, (name,), NOW), name.encode(), 60, NOW) == 1
    with pytest.raises(ValueError):
        unsign("n", sign("n", 1, old, NOW), [new], 60, NOW)


def test_every_secret_is_compared_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = []
    compare = hmac.compare_digest

    def counting(a: Any, b: Any) -> bool:
        compared.append((a, b))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    keys = [letter * 16 for letter in "abc"]
    text = sign("n", 1, keys[0], NOW)
    unsign("n", text, keys, None, NOW)
    assert len(compared) == 3


@pytest.mark.parametrize(
    "secrets", [(), [], "", b"", [KEY, ""], [b""], "too short", [KEY, b"x"]]
)
def test_signing_without_a_secret_is_an_error_of_the_program(secrets: Any) -> None:
    with pytest.raises(PixieError, match="secret"):
        sign("n", 1, secrets, NOW)
    with pytest.raises(PixieError, match="secret"):
        unsign("n", SIGNED, secrets, None, NOW)


def test_a_cookie_that_browsers_would_drop_is_refused() -> None:
    assert format_cookie("n", "x" * 4095, {}) == "n=" + "x" * 4095
    for value in ("x" * 4096, "ä" * 700):
        with pytest.raises(ValueError, match="4096"):
            format_cookie("n", value, {})
    text = sign("n", "x" * 3000, KEY, NOW)
    assert unsign("n", text, KEY, None, NOW) == "x" * 3000


def test_what_json_can_not_say_is_not_signed() -> None:
    for value in (object(), {1, 2}, b"bytes"):
        with pytest.raises(TypeError):
            sign("n", value, KEY, NOW)
    with pytest.raises(ValueError):
        sign("n", float("nan"), KEY, NOW)


def test_any_text_is_refused_with_a_value_error() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")

    @hypothesis.given(strategies.text())
    def check(text: str) -> None:
        for candidate in (text, f"{text}.{SIGNATURE}", f"{PAYLOAD}.{text}"):
            if candidate != SIGNED:
                with pytest.raises(ValueError):
                    unsign("session", candidate, KEY, None, NOW)

    check()


def test_importing_pixie_web_imports_no_hmac() -> None:
    import subprocess
    import sys

    program = "import sys; import pixie_web; print('hmac' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.strip() == b"False"


def test_json_of_signed_values_is_not_read_before_they_are_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(json, "loads", refuse)
    with pytest.raises(ValueError, match="signature"):
        unsign("other", SIGNED, KEY, None, NOW)
    with pytest.raises(AssertionError):
        unsign("session", SIGNED, KEY, None, NOW)
    assert CLOCK_SKEW_SECONDS == 60
