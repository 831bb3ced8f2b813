"""Fuzz the multipart parser and parse_form().

    pip install atheris
    python fuzz/multipart.py [-max_total_time=600] [corpus directory]

Oracle: parts or HTTPError 400, 413 or 415, nothing else, and the same however the body
is cut; each part lies where it says in the body, and holds what cutting the body at
its boundaries gives; no more is kept than a part head may be long; a file's name is a
name. The first byte of the input chooses the limits.
"""

from __future__ import annotations

import os
import re
from typing import List, Tuple, Union

from harness import choose, cuts, recorded, run

from pixie_web import HTTPError
from pixie_web.forms import parse_form
from pixie_web.protocol.multipart import FORM_LIMITS, FormLimits, MultipartParser, Part

BOUNDARY = "xYz"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
LIMITS = [
    FORM_LIMITS,
    FormLimits(
        max_parts=2,
        max_field_bytes=5,
        max_form_bytes=8,
        max_file_bytes=7,
        max_part_headers=2,
        max_part_head_bytes=80,
    ),
]
SEEDS = [
    b'--xYz\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--xYz--\r\n',
    b'--xYz\r\nContent-Disposition: form-data; name="f"; filename="C:\\a%22.txt"\r\n'
    b"Content-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\n\r\nQUJD"
    b"\r\n--xYz\r\ncontent-disposition:form-data;name=b;filename*=x\r\n\r\n\r\n--xYz--",
    b'--xYz\r\nContent-Disposition: form-data; name="a"\r\n'
    b"Content-Transfer-Encoding: base64\r\n\r\nMQ==\r\n--xYz--\r\n",
    b"\r\n--xYz--\r\nepilogue",
]
WORDS = [
    *(
        b"--xYz",
        b"\r\n--xYz",
        b"\r\n--xYz--",
        b"\r\n",
        b"\r\n\r\n",
        b"; ",
        b'"',
        b"%22",
    ),
    *(
        b"Content-Disposition: form-data; name=",
        b'; filename="',
        b"; filename*=",
        b"\\",
    ),
    *(b"Content-Type: ", b"Content-Transfer-Encoding: base64", b'name="a"', b'\\"'),
]

Seen = Union[str, List[Tuple[str, object, int, bytes]]]


def parse(pieces: List[bytes], limits: FormLimits) -> Seen:
    seen: List[Tuple[str, object, int, bytes]] = []
    parser = MultipartParser(BOUNDARY, limits)
    try:
        for piece in pieces:
            for event in parser.feed(piece):
                if isinstance(event, Part):
                    part, data = event, b""
                elif event is None:
                    assert part.size == len(data)
                    seen.append((part.name, part.filename, part.offset, data))
                else:
                    data += event
            kept = len(parser._rest)
            assert kept <= limits.max_part_head_bytes + 3
        parser.close()
    except HTTPError as error:
        if error.status not in (400, 413, 415):
            raise
        return str(error)
    return seen


def split(body: bytes) -> List[bytes]:
    """Return the data of each part of a body that was taken."""
    first, *parts = re.split(rb"\r\n--xYz(?=\r\n|--)", b"\r\n" + body)
    assert not first.strip(b"\r\n")
    found = []
    for part in parts:
        if part.startswith(b"--"):
            return found
        found.append(part.partition(b"\r\n\r\n")[2])
    assert not body
    return found


def check(data: bytes) -> None:
    choices, body = choose(data)
    limits = LIMITS[choices[0] % 2]
    whole = parse([body], limits)
    for pieces in cuts(body, choices):
        assert parse(pieces, limits) == whole
    if isinstance(whole, list):
        for _, _, offset, part in whole:
            assert body[offset : offset + len(part)] == part
        assert [part for _, _, _, part in whole] == split(body)
    try:
        _, files = parse_form(TYPE, body, limits)
    except HTTPError as error:
        if error.status not in (400, 413, 415):
            raise
        return
    for _, upload in files.items():
        assert len(upload.file.read()) == upload.size
        assert os.path.basename(upload.filename) == upload.filename


def seeds() -> List[bytes]:
    return SEEDS + [
        body.replace(found.group(1), BOUNDARY.encode())
        for body in recorded("python-multipart.json", "body_b64")
        for found in [re.match(rb"--([^\r]+)\r", body)]
        if found
    ]


if __name__ == "__main__":
    run(check, seeds(), WORDS)
