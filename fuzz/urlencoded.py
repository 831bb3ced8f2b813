"""Fuzz urlencoded forms and query strings.

    pip install atheris
    python fuzz/urlencoded.py [-max_total_time=600] [corpus directory]

Oracle: the pairs that urllib.parse.parse_qsl finds once every byte beyond ASCII is
written as %XX, or HTTPError 413 exactly when a limit says so, with no more read than
that limit; encoded again the pairs are read back as they are. The first byte chooses
the limits.
"""

from __future__ import annotations

import io
import re
from typing import List, Tuple
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode

from harness import choose, run

from pixie_web import HTTPError, MultiDict
from pixie_web.forms import parse_form
from pixie_web.protocol.multipart import FORM_LIMITS, FormLimits
from pixie_web.text import parse_urlencoded, percent_decode, percent_encode

TYPE = "application/x-www-form-urlencoded"
LIMITS = [FORM_LIMITS, FormLimits(max_fields=4, max_form_bytes=30)]
SEEDS = [
    b"a=1&b=2&a=3",
    b"name=J%C3%BCrgen+M&x=%zz%4&=&&y",
    b"a%3Db=c%26d&\xc3\xa4=\xff&%FF=%00",
    b"&&&&;=%u0041\\x41\\",
]
WORDS = [
    b"&",
    b"=",
    b"+",
    b"%",
    b"%C3%A4",
    b"%00",
    b"%FF",
    b"%25",
    b"%zz",
    b"\\x",
    b";",
]


def reference(data: bytes) -> List[Tuple[str, str]]:
    escaped = re.sub(rb"[^\x00-\x7f]", lambda found: b"%%%02X" % found.group()[0], data)
    return parse_qsl(escaped.decode("ascii"), keep_blank_values=True, errors="replace")


def check(data: bytes) -> None:
    choices, data = choose(data)
    limits = LIMITS[choices[0] % 2]
    fits = len(data) <= limits.max_form_bytes and data.count(b"&") < limits.max_fields
    assert percent_decode(data) == unquote_to_bytes(data)
    body = io.BytesIO(data)
    try:
        fields, files = parse_form(TYPE, body, limits)
    except HTTPError as error:
        if fits or error.status != 413:
            raise
        assert body.tell() <= limits.max_form_bytes + 1
        return
    assert fits
    assert not files
    pairs = parse_urlencoded(data, limits.max_fields)
    assert pairs == reference(data)
    assert fields == MultiDict(pairs)
    assert parse_urlencoded(urlencode(pairs).encode(), len(pairs) + 1) == pairs
    ours = "&".join("=".join(map(percent_encode, pair)) for pair in pairs)
    assert parse_urlencoded(ours.encode(), len(pairs) + 1) == pairs


if __name__ == "__main__":
    run(check, SEEDS, WORDS)
