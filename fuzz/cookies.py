"""Fuzz cookies: the Cookie header, Set-Cookie, and signed values.

    pip install atheris
    python fuzz/cookies.py [-max_total_time=600] [corpus directory]

The first byte chooses. Oracle of a Cookie header: at most one cookie for each `;`, each
with a name that holds neither `;` nor `=`, the first of a name counting; what was read
can be set, and is read back. Of a Set-Cookie, whose parts are the input cut at NUL: one
safe header line, or ValueError. Of a signed value: ValueError, unless it is the one
that was signed.
"""

from __future__ import annotations

from harness import choose, run

from pixie_web import Response
from pixie_web import text as text_chapter
from pixie_web.cookies import format_cookie, parse_cookies, sign, unsign
from pixie_web.protocol.http11 import is_header_block
from pixie_web.text import is_token

KEYS = ["an old key, long ago", b"a new key, of today"]
NOW = 1_700_000_000.0
SIGNED = sign("session", {"user": 1, "ä": [None, 1.5]}, KEYS, NOW)
BY_NEW_KEY = sign("session", 0, KEYS[1:], NOW - 100)
OTHER_NAME = sign("other", 0, KEYS, NOW)
SEEDS = [
    b'a=1; b="2"; a=3; =x; c',
    b"a=%C3%A4; b=%FF;c=%;\td = e=f \t; __Host-a=\xe4; \xc3\xa4=1; \xe4=2",
    *(text.encode() for text in (SIGNED, BY_NEW_KEY, OTHER_NAME)),
    b'name\0value \xc3\xa4;"\0/path\0example.com\0Lax',
]
WORDS = [
    *(
        b"; ",
        b"=",
        b'"',
        b"%",
        b"%3B",
        b"%C3%A4",
        b"__Host-",
        b"__Secure-",
        b"\0",
        b"\t",
    ),
    *(part.encode() for part in SIGNED.split(".")),
    *(b".", b"-", b"_", b"Path=/", b"Domain=", b"\r\n", b","),
]
LAST = {SIGNED: {"user": 1, "ä": [None, 1.5]}, BY_NEW_KEY: 0}


def name_of(text: str) -> str:
    """Return the name in a pair: UTF-8, or Latin-1 where it is not."""
    name = text.partition("=")[0].strip(" \t")
    try:
        return name.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return name


def check_header(data: bytes) -> None:
    header = data.decode("latin-1")
    cookies = parse_cookies(header)
    assert len(cookies) <= header.count(";") + 1
    for name, value in cookies.items():
        assert name
        assert not set(name) & set(";=")
        first = next(
            text.partition("=")[2].strip(" \t")
            for text in header.split(";")
            if "=" in text and name_of(text) == name
        )
        if not set(first) & set('%"') and first.isascii():
            assert value == first
        if is_token(name):
            text = format_cookie(name, value, {"Path": "/"})
            text_chapter.check_header("Set-Cookie", text)
            pair = text.partition(";")[0]
            assert parse_cookies(pair) == {name: value}
            assert parse_cookies(f"x; {pair};y=1")[name] == value


def check_setting(data: bytes) -> None:
    texts = data.decode("utf-8", "replace").split("\0")
    name, value, path, domain, samesite = [*texts, *[""] * 5][:5]
    response = Response()
    try:
        response.set_cookie(
            name, value, path=path, domain=domain or None, samesite=samesite or None
        )
        block = response.header_block()
    except ValueError:
        return
    assert is_header_block(block)
    lines = [line for line in block.split(b"\r\n") if line.startswith(b"Set-Cookie:")]
    (line,) = lines
    attributes = line.decode("latin-1").partition(":")[2].split("; ")
    assert parse_cookies(attributes[0]) == {name: value}
    known = {"Path", "Domain", "SameSite", "HttpOnly", "Secure"}
    assert {text.partition("=")[0] for text in attributes[1:]} <= known
    assert len(attributes) <= 1 + len(known)


def check_signature(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        value = unsign("session", text, KEYS, 3600, NOW)
    except ValueError:
        assert text not in LAST
        return
    assert value == LAST[text]


def check(data: bytes) -> None:
    choices, data = choose(data)
    (check_header, check_setting, check_signature)[choices[0] % 3](data)


if __name__ == "__main__":
    run(check, SEEDS, WORDS)
