"""Fuzz the multipart parser: parts or HTTPError, nothing else, at every split the same.

    pip install atheris
    python fuzz/multipart.py [-max_total_time=600] [corpus directory]

The first bytes of the input choose the splits and the limits, the rest is the body.
Without a corpus, it starts from the bodies below.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import List, Tuple, Union

import atheris  # type: ignore[import-not-found, unused-ignore]

sys.path[0] = str(Path(__file__).resolve().parent.parent)

with atheris.instrument_imports(include=["pixie_web"]):
    from pixie_web import core

BOUNDARY = "xYz"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
LIMITS = [
    core.FORM_LIMITS,
    core.FormLimits(
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
    b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nQUJD"
    b"\r\n--xYz\r\ncontent-disposition:form-data;name=b;filename*=x\r\n\r\n\r\n--xYz--",
    b"\r\n--xYz--\r\nepilogue",
]

Seen = Union[str, List[Tuple[str, object, int, bytes]]]


def parse(pieces: List[bytes], limits: core.FormLimits) -> Seen:
    seen: List[Tuple[str, object, int, bytes]] = []
    parser = core.MultipartParser(BOUNDARY, limits)
    try:
        for piece in pieces:
            for event in parser.feed(piece):
                if isinstance(event, core.Part):
                    part, data = event, b""
                elif event is None:
                    assert part.size == len(data)
                    seen.append((part.name, part.filename, part.offset, data))
                else:
                    data += event
            kept = len(parser._rest)
            assert kept <= limits.max_part_head_bytes + 4 + len(piece)
        parser.close()
    except core.HTTPError as error:
        if error.status not in (400, 413):
            raise
        return str(error)
    return seen


def check(data: bytes) -> None:
    choices, body = data[:4].ljust(4, b"\0"), data[4:]
    limits = LIMITS[choices[0] % 2]
    step = 1 + choices[1] % 9
    split = int.from_bytes(choices[2:], "big") % (len(body) + 1)
    whole = parse([body], limits)
    assert parse([body[:split], body[split:]], limits) == whole
    steps = [body[i : i + step] for i in range(0, len(body), step)]
    assert parse(steps, limits) == whole
    if isinstance(whole, list):
        for _, _, offset, part in whole:
            assert body[offset : offset + len(part)] == part
    try:
        _, files = core.parse_form(TYPE, body, limits)
    except core.HTTPError as error:
        if error.status not in (400, 413):
            raise
        return
    for _, upload in files.items():
        assert len(upload.file.read()) == upload.size
        assert os.path.basename(upload.filename) == upload.filename


def main() -> None:
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(SEEDS):
            Path(seeds, str(number)).write_bytes(b"\0\0\0\0" + seed)
        arguments = sys.argv if sys.argv[1:] else [sys.argv[0], "-max_total_time=600"]
        atheris.Setup([*arguments, seeds], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
