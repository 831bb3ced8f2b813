"""Forms, the multipart parser, uploads."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import pytest

from pixie_web import FileUpload, HTTPError
from pixie_web.forms import MAX_FILENAME_BYTES, parse_form, safe_filename
from pixie_web.protocol.multipart import (
    MAX_FALSE_LINES,
    FormLimits,
    MultipartParser,
    Part,
    parse_parameters,
)

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"

B = "xYz"
TYPE = f"multipart/form-data; boundary={B}"
FIELD = b'--xYz\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
FILE = b'--xYz\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\n'
END = b"\r\n--xYz--\r\n"
UNLIMITED = FormLimits(
    max_fields=10**9, max_form_bytes=10**9, max_field_bytes=10**9, max_parts=10**9
)

Event = Union[Part, bytes, None]
Seen = List[Tuple[str, Optional[str], str, bytes]]


def cut(body: bytes, size: int) -> List[bytes]:
    return [body[i : i + size] for i in range(0, len(body), size)]


def parse(
    pieces: List[bytes], boundary: str = B, limits: FormLimits = UNLIMITED
) -> Union[Seen, str]:
    """Return the parts (name, filename, content type, data), or the error as text."""
    seen: Seen = []
    offset_of: Dict[int, int] = {}
    parser = MultipartParser(boundary, limits)
    try:
        for piece in pieces:
            for event in parser.feed(piece):
                if isinstance(event, Part):
                    part, data = event, b""
                elif event is None:
                    assert part.size == len(data)
                    offset_of[len(seen)] = part.offset
                    seen.append((part.name, part.filename, part.content_type, data))
                else:
                    data += event
        parser.close()
    except HTTPError as error:
        return str(error)
    whole = b"".join(pieces)
    for index, offset in offset_of.items():
        data = seen[index][3]
        assert whole[offset : offset + len(data)] == data
    return seen


def status_of(body: bytes, content_type: str = TYPE, **limits: Any) -> int:
    try:
        parse_form(content_type, body, FormLimits(**limits))
    except HTTPError as error:
        return error.status
    return 200


def form_of(body: bytes, content_type: str = TYPE) -> Dict[str, List[str]]:
    form, _ = parse_form(content_type, body)
    return {name: form.getall(name) for name in form}


def upload_of(body: bytes) -> FileUpload:
    _, files = parse_form(TYPE, body)
    ((_, upload),) = files.items()
    return upload


def file_part(disposition: str, data: bytes = b"data") -> bytes:
    head = f"--xYz\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
    return head.encode() + data + END


class InPieces(io.BytesIO):
    """A body that arrives in pieces of these sizes."""

    name = "a body in memory"  # stands for the path of a spooled one

    def __init__(self, body: bytes, sizes: Sequence[int]) -> None:
        super().__init__(body)
        self._sizes = iter(sizes)

    def read(self, size: Optional[int] = -1, /) -> bytes:
        return super().read(next(self._sizes, size))


# Bodies from elsewhere ----------------------------------------------------------------


def foreign_cases() -> List[Any]:
    path = DATA / "python-multipart.json"
    if not path.exists():
        return []
    cases = json.loads(path.read_text())["cases"]
    for case in cases:
        body = base64.b64decode(case["body_b64"])
        if case["id"] == "single_field_blocks":
            # It declares another boundary than its body has: python-multipart refuses
            # it as declared, and so do we.
            assert isinstance(parse([body], case["boundary"]), str)
            case["boundary"] = "boundary"
        if re.search(rb"(?i)\nContent-Transfer-Encoding: *(base64|quoted)", body):
            case["expected"] = {"status": 415}  # it decodes them, and we do not
    return [pytest.param(case, id=case["id"]) for case in cases]


@pytest.mark.parametrize("case", foreign_cases() or [pytest.param({}, id="absent")])
def test_bodies_of_python_multipart_are_parsed_as_expected(case: Any) -> None:
    if not case:
        pytest.skip("shared/data is not here")
    body = base64.b64decode(case["body_b64"])
    content_type = f'multipart/form-data; boundary="{case["boundary"]}"'
    size = len(body)
    every_split = [(split, size) for split in range(1, size)]
    for sizes in [(size,), (1,) * size, *every_split]:
        stream = InPieces(body, sizes)
        if isinstance(case["expected"], dict):
            status = case["expected"].get("status", 400)
            with pytest.raises(HTTPError, match=f"^{status} "):
                parse_form(content_type, stream)
            continue
        form, files = parse_form(content_type, stream)
        got = [(name, value.encode()) for name, value in form.items()]
        got += [(name, upload.file.read()) for name, upload in files.items()]
        expected = [
            (p["name"], base64.b64decode(p["data_b64"])) for p in case["expected"]
        ]
        assert sorted(got) == sorted(expected)
        for part in case["expected"]:
            if part["type"] == "file":
                upload = files[part["name"]]
                assert upload.raw_filename == part["file_name"]
                assert upload.content_type == part["content_type"]


@pytest.mark.parametrize("case", foreign_cases() or [pytest.param({}, id="absent")])
def test_bodies_of_python_multipart_mean_the_same_at_every_split(case: Any) -> None:
    if not case:
        pytest.skip("shared/data is not here")
    body, boundary = base64.b64decode(case["body_b64"]), case["boundary"]
    whole = parse([body], boundary)
    assert parse(cut(body, 1), boundary) == whole
    for split in range(1, len(body)):
        assert parse([body[:split], body[split:]], boundary) == whole


def browser_folders() -> List[Any]:
    folders = sorted((DATA / "werkzeug-multipart").glob("*/request.http"))
    found = [pytest.param(path.parent, id=path.parent.name) for path in folders]
    return found or [pytest.param(None, id="absent")]


@pytest.mark.parametrize("folder", browser_folders())
def test_uploads_of_real_browsers_are_identical(folder: Optional[Path]) -> None:
    if folder is None:
        pytest.skip("shared/data is not here")
    request = folder / "request.http"
    body = request.read_bytes()
    boundary = body.split(b"\r\n")[0][2:].decode()
    with request.open("rb") as file:  # as a body that was spooled
        form, files = parse_form(f"multipart/form-data; boundary={boundary}", file)
        for name in ("file1", "file2"):
            content = files[name].file.read()
            assert content == (folder / f"{name}.png").read_bytes()
            assert files[name].content_type in ("image/png", "image/x-png")
            assert files[name].filename == files[name].raw_filename
    # text.txt has other line ends than the browser sent, and one more.
    text = form["text"].replace("\r\n", "\n") + "\n"
    assert text.encode() == (folder / "text.txt").read_bytes()
    whole = parse([body], boundary)
    assert parse(cut(body, 1), boundary) == whole
    for split in range(1, len(body)):
        assert parse([body[:split], body[split:]], boundary) == whole


def test_the_upload_of_ie7_is_refused_with_bare_lf_and_read_with_crlf() -> None:
    path = DATA / "werkzeug-multipart" / "ie7_full_path_request.http"
    if not path.exists():
        pytest.skip("shared/data is not here")
    body = path.read_bytes()
    boundary = body.split(b"\n")[0][2:].decode()
    content_type = f"multipart/form-data; boundary={boundary}"
    # The capture lost the CR of each line end on its way.
    assert status_of(body, content_type) == 400
    form, files = parse_form(content_type, re.sub(rb"\r?\n", b"\r\n", body))
    assert form["title"] == "2010"
    upload = files["cb_file_upload_multiple"]
    assert upload.filename == "Sellersburg Town Council Meeting 02-22-2010doc.doc"
    assert upload.content_type == "application/msword"


# What is well-formed ------------------------------------------------------------------

GOOD: List[Tuple[str, bytes, Seen]] = [
    ("no part", b"--xYz--\r\n", []),
    ("no part, no last line end", b"--xYz--", []),
    ("a field", FIELD + b"1" + END, [("a", None, "", b"1")]),
    ("an empty field", FIELD + END, [("a", None, "", b"")]),
    ("a file", FILE + b"1" + END, [("f", "f.txt", "", b"1")]),
    (
        "two parts, line ends in the data",
        FIELD + b"\r\n1\r\n\r\n" + FILE + b"\r\n" + END,
        [("a", None, "", b"\r\n1\r\n"), ("f", "f.txt", "", b"\r\n")],
    ),
    ("line ends ahead", b"\r\n\r\n" + FIELD + b"1" + END, [("a", None, "", b"1")]),
    ("an epilogue", FIELD + b"1" + END + b"--xYz\r\nx", [("a", None, "", b"1")]),
    (
        "what only begins like a boundary",
        FIELD + b"\r\n--xY\r\n--xYzz\r\n--xYz x\r\n--xYz-\r\n\r\n--xYz\r-" + END,
        [("a", None, "", b"\r\n--xY\r\n--xYzz\r\n--xYz x\r\n--xYz-\r\n\r\n--xYz\r-")],
    ),
    (
        "blanks after boundaries",
        FIELD.replace(b"z\r", b"z \t\r")
        + b"1\r\n"
        + FILE.replace(b"z\r", b"z\t\r")
        + b"\r\n--xYz  --\r\n--xYz \n\r\n--xYz \r \r\n--xYz -"
        + END
        + b" \r\n",
        [
            ("a", None, "", b"1"),
            ("f", "f.txt", "", b"\r\n--xYz  --\r\n--xYz \n\r\n--xYz \r \r\n--xYz -"),
        ],
    ),
    (
        "as many blanks as there may be",
        FIELD.replace(b"z\r", b"z" + b" " * 64 + b"\r") + b"1" + END,
        [("a", None, "", b"1")],
    ),
    (
        "the same ahead of each boundary",
        FIELD + b"\r\n--xYzz1\r\n" + FILE + b"\r\n--xYz-2\r\n" + FIELD + b"3" + END,
        [
            ("a", None, "", b"\r\n--xYzz1"),
            ("f", "f.txt", "", b"\r\n--xYz-2"),
            ("a", None, "", b"3"),
        ],
    ),
    (
        "a boundary without its line end, behind what only begins like one",
        FIELD + b"\r\n--xYzz--xYz--\n--xYz\r\n\r--xYz--" + END,
        [("a", None, "", b"\r\n--xYzz--xYz--\n--xYz\r\n\r--xYz--")],
    ),
    (
        "the last boundary ahead of another, behind what only begins like one",
        FIELD + b"\r\n--xYz1" + END + b"\r\n--xYz\r\n\r\n--xYz--",
        [("a", None, "", b"\r\n--xYz1")],
    ),
    (
        "other order, case and blanks",
        b"--xYz\r\nX-A:1\r\ncontent-TYPE:  text/plain; charset=x \r\n"
        b'CONTENT-disposition:Form-Data;filename=f.txt ; NAME="a" ;\r\n\r\n1' + END,
        [("a", "f.txt", "text/plain; charset=x", b"1")],
    ),
    (
        "a filename* alone is no filename",
        file_part("name=a; filename*=UTF-8''%2e%2e%2fx", b"1"),
        [("a", None, "", b"1")],
    ),
]


@pytest.mark.parametrize(
    "body,expected", [pytest.param(b, e, id=name) for name, b, e in GOOD]
)
def test_a_body_gives_its_parts_at_every_split(body: bytes, expected: Seen) -> None:
    assert parse([body]) == expected
    assert parse(cut(body, 1)) == expected
    for split in range(1, len(body)):
        assert parse([body[:split], body[split:]]) == expected


NAMES = [
    ('name="a b"', "a b", None),
    ("name=a", "a", None),
    ('name=""', "", None),
    ('name="größer.日本"', "größer.日本", None),
    ('name="a%22%0D%0Ab%41"', 'a"\r\nb%41', None),
    ('name="a\\"b"', 'a"b', None),
    ('name="a\\"', "a\\", None),
    ('name="a\\\\b"', "a\\\\b", None),
    ('name="a"; filename="x;y=z.txt"', "a", "x;y=z.txt"),
    ('name="a"; filename="C:\\x\\y.txt"', "a", "C:\\x\\y.txt"),
    ('name="a"; filename="C:\\"', "a", "C:\\"),
    ('filename="f\\"g.txt"; name="a"', "a", 'f"g.txt'),
    ('name="a"; filename="f.txt"; filename*=UTF-8\'\'..%2Fg', "a", "f.txt"),
    ("name=\"_charset_\"; filename=''", "_charset_", "''"),
]


@pytest.mark.parametrize("disposition,name,filename", NAMES)
def test_names_are_read_as_browsers_and_older_clients_write_them(
    disposition: str, name: str, filename: Optional[str]
) -> None:
    assert parse([file_part(disposition)]) == [(name, filename, "", b"data")]


def test_a_name_that_is_no_utf8_gets_replacement_characters() -> None:
    body = FIELD.replace(b'"a"', b'"a\xff"') + b"\xfe" + END
    assert form_of(body) == {"a\ufffd": ["\ufffd"]}


def test_the_charset_field_changes_nothing() -> None:
    body = FIELD.replace(b'"a"', b'"_charset_"') + b"utf-16\r\n" + FIELD
    assert form_of(body + "ä".encode() + END) == {"_charset_": ["utf-16"], "a": ["ä"]}


def of_charset(charset: str, data: bytes, head: bytes = FIELD) -> bytes:
    line = f"\r\nContent-Type: text/plain{charset}\r\n\r\n"
    return head.replace(b"\r\n\r\n", line.encode("utf-8")) + data + END


@pytest.mark.parametrize(
    "charset, data, text",
    [
        ("", "München".encode(), "München"),
        ("; charset=UTF-8", "München €".encode(), "München €"),
        (";charset=utf8", b"M\xfcnchen", "M\ufffdnchen"),
        ("; charset=ISO-8859-1", b"M\xfcnchen \x80", "München \x80"),
        ('; Format=flowed; CHARSET="iso-8859-1" ;', b"M\xfcnchen", "München"),
        ("; charset=windows-1252", b"M\xfcnchen \x80\x81", "München €\ufffd"),
        ("; charset=US-ASCII", b"Munich \xc3\xbc", "Munich \ufffd\ufffd"),
        ("; x=charset", "ü".encode(), "ü"),
    ],
)
def test_a_fields_own_charset_counts(charset: str, data: bytes, text: str) -> None:
    assert form_of(of_charset(charset, data)) == {"a": [text]}


@pytest.mark.parametrize(
    "charset, status",
    [
        *((f"; charset={name}", 415) for name in ("utf-16", "x", '""', "utf-7", "hex")),
        (f"; charset={'x' * 1000}", 415),
        ("; charset", 400),
        ('; charset="', 400),
        ("; charset=utf-8; charset=utf-8", 400),
    ],
)
def test_another_charset_is_refused(charset: str, status: int) -> None:
    assert status_of(of_charset(charset, b"x")) == status
    # It is nothing to a file, whose bytes are given as they came.
    assert upload_of(of_charset(charset, b"\xff", FILE)).file.read() == b"\xff"


def test_the_short_way_through_a_head_means_what_the_long_way_means() -> None:
    for disposition in (
        'name="a b"',
        'name="ä"; filename="f g.txt"',
        'name=""; filename=""',
    ):
        for content_type in ("", "\r\nContent-Type: image/png", "\r\nContent-Type: "):
            head = f"Content-Disposition: form-data; {disposition}{content_type}"
            short, long = Part(head.encode()), Part(head.encode() + b"\r\nX: 1")
            assert short.lines() == long.lines()[:-1]
            for name in ("name", "filename", "content_type"):
                assert getattr(short, name) == getattr(long, name)


# What is refused ----------------------------------------------------------------------

REFUSED = {
    "nothing but junk": b"junk",
    "junk ahead of the boundary": b"junk\r\n" + FIELD + b"1" + END,
    "one LF too many ahead of junk": b"\r\n\njunk\r\n" + FIELD + END,
    "another boundary": FIELD.replace(b"xYz", b"xYy") + b"1" + END,
    "the boundary of a prefix": b"--xY\r\n" + FIELD[7:] + b"1\r\n--xY--\r\n",
    "no boundary line": FIELD[7:] + b"1" + END,
    "no final dashes": FIELD + b"1\r\n--xYz\r\n",
    "one final dash": FIELD + b"1\r\n--xYz-",
    "no end": FIELD + b"1",
    "ends in the head": FIELD[:-4],
    "bare LF": FIELD.replace(b"\r\n", b"\n") + b"1\n--xYz--\n",
    "bare LF in the head": FIELD.replace(b"\r\n\r\n", b"\nX: y\r\n\r\n") + b"1" + END,
    "bare CR in the head": FIELD.replace(b"\r\n\r\n", b"\rX: y\r\n\r\n") + b"1" + END,
    "NUL in the head": FIELD.replace(b'"a"', b'"a\0"') + b"1" + END,
    "no headers": b"--xYz\r\n\r\n1" + END,
    "no headers, then some": b"--xYz\r\n\r\nX: y\r\n\r\n1" + END,
    "no name": file_part('filename="x"'),
    "no disposition": b"--xYz\r\nContent-Type: text/plain\r\n\r\n1" + END,
    "another disposition": FIELD.replace(b"form-data", b"attachment") + b"1" + END,
    "two dispositions": FIELD.replace(b"\r\n\r\n", b"\r\n" + FIELD[7:]) + b"1" + END,
    "two content types": FIELD.replace(b"\r\n\r\n", b"\r\nA: b\r\na: b\r\n\r\n") + END,
    "two names": file_part('name="a"; name="b"'),
    "two filenames": file_part('name="a"; filename="b"; FILENAME="c"'),
    "a quote without end": file_part('name="a'),
    "text after a quote": file_part('name="a"b'),
    "a parameter without value": file_part("name="),
    "a parameter without name": file_part("name=a; =b"),
    "too many blanks after a boundary": FIELD.replace(b"z\r", b"z" + b" " * 65 + b"\r")
    + END,
    "many blanks after what may be a boundary": FIELD
    + b"\r\n--xYz"
    + b" " * 99
    + b"x"
    + END,
    "blanks to the end": FIELD + b"1\r\n--xYz  ",
    "blanks ahead of the last dashes": FIELD + b"1\r\n--xYz --\r\n",
    "a header without colon": FIELD.replace(b"\r\n\r\n", b"\r\nX\r\n\r\n") + b"1" + END,
    "a header without name": FIELD.replace(b"\r\n\r\n", b"\r\n: x\r\n\r\n")
    + b"1"
    + END,
    "a blank ahead of the colon": FIELD.replace(b":", b" :") + b"1" + END,
    "a folded header": FIELD.replace(b"; name", b";\r\n name") + b"1" + END,
}


@pytest.mark.parametrize("body", [pytest.param(b, id=n) for n, b in REFUSED.items()])
def test_a_malformed_body_is_refused_with_400_at_every_split(body: bytes) -> None:
    assert status_of(body) == 400
    whole = parse([body])
    assert str(whole).startswith("400 ")
    assert parse(cut(body, 1)) == whole
    for split in range(1, len(body)):
        assert parse([body[:split], body[split:]]) == whole


@pytest.mark.parametrize(
    "boundary",
    [
        "",
        '""',
        "x" * 71,
        '"x "',
        '"x\ty"',
        "x@y",
        "bücher",
        "x; boundary=y",
        '"x',
        "x, y=z",
    ],
)
def test_a_bad_boundary_is_refused(boundary: str) -> None:
    content_type = f"multipart/form-data; boundary={boundary}"
    assert status_of(b"--x--\r\n", content_type) == 400


def test_a_missing_boundary_is_refused() -> None:
    assert status_of(b"--x--\r\n", "multipart/form-data") == 400


@pytest.mark.parametrize("boundary", ["x", "x" * 70, '"a b:c?=/,.()+_\'-"', "a_b+c.d"])
def test_a_boundary_may_have_all_characters_of_rfc_2046(boundary: str) -> None:
    body = b"--" + boundary.strip('"').encode() + b"--\r\n"
    assert (
        status_of(body, f"Multipart/Form-Data; charset=utf-8; BOUNDARY={boundary}")
        == 200
    )


# Limits: counts, not seconds ----------------------------------------------------------


class Counting(io.BytesIO):
    """A body that knows how much of it was read."""

    def __init__(self, head: bytes, repeat: bytes, times: int) -> None:
        super().__init__()
        self._head, self._repeat, self._left = head, repeat, times
        self.taken = 0

    def read(self, size: Optional[int] = -1) -> bytes:
        count = min(self._left, (size or 0) // len(self._repeat))
        self._left -= count
        data, self._head = self._head + self._repeat * count, b""
        self.taken += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0


TINY = FIELD + b"1\r\n"

FLOODS = {
    "a million parts": (b"", TINY, 1_000_000, {}),
    "one field of a gigabyte": (FIELD, b"x" * 4096, 2**18, {}),
    "fields that are many and large": (b"", FIELD + b"x" * 65_000 + b"\r\n", 10**6, {}),
    "one head of a gigabyte": (FIELD[:-4] + b"\r\nX: ", b"x" * 4096, 2**18, {}),
    "a million headers": (FIELD[:-4], b"\r\nX: y", 10**6, {}),
    "one file of a gigabyte": (FILE, b"x" * 4096, 2**18, {"max_file_bytes": 10**6}),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_with_413_and_little_of_it_is_read(flood: str) -> None:
    head, repeat, times, limits = FLOODS[flood]
    body = Counting(head, repeat, times)
    with pytest.raises(HTTPError) as caught:
        parse_form(TYPE, body, FormLimits(**limits))
    assert caught.value.status == 413
    assert body.taken < 2_000_000


def test_line_ends_without_end_ahead_of_the_boundary_are_refused() -> None:
    body = Counting(b"", b"\r\n", 10**9)
    with pytest.raises(HTTPError) as caught:
        parse_form(TYPE, body)
    assert (caught.value.status, body.taken < 300_000) == (400, True)


LIMITS = [
    # What, a body at the limit, one over it, the limit.
    ("parts", TINY * 3, TINY * 4, {"max_parts": 3}),
    (
        "field",
        FIELD + b"x" * 9 + b"\r\n",
        FIELD + b"x" * 10 + b"\r\n",
        {"max_field_bytes": 9},
    ),
    (
        "form, over all fields and names",
        (FIELD + b"x" * 9 + b"\r\n") * 2,
        (FIELD + b"x" * 9 + b"\r\n") * 2 + FIELD + b"x\r\n",
        {"max_form_bytes": 20},
    ),
    (
        "file",
        FILE + b"x" * 9 + b"\r\n",
        FILE + b"x" * 10 + b"\r\n",
        {"max_file_bytes": 9},
    ),
    (
        "headers",
        FILE[:-2] + b"A: b\r\n\r\n\r\n",
        FILE[:-2] + b"A: b\r\nC: d\r\n\r\n\r\n",
        {"max_part_headers": 2},
    ),
    (
        "head",
        FIELD[:-2] + b"A: " + b"b" * 20 + b"\r\n\r\n\r\n",
        FIELD[:-2] + b"A: " + b"b" * 21 + b"\r\n\r\n\r\n",
        {"max_part_head_bytes": len(FIELD) - 7 - 4 + 2 + 3 + 20},
    ),
]


@pytest.mark.parametrize(
    "inside,over,limits", [pytest.param(i, o, m, id=n) for n, i, o, m in LIMITS]
)
def test_a_limit_includes_its_number_at_every_split(
    inside: bytes, over: bytes, limits: Dict[str, int]
) -> None:
    bounds = UNLIMITED._replace(**limits)
    body = inside + END[2:]
    assert isinstance(parse([body], limits=bounds), list)
    assert isinstance(parse(cut(body, 1), limits=bounds), list)
    body = over + END[2:]
    whole = parse([body], limits=bounds)
    assert str(whole).startswith("413 ")
    assert parse(cut(body, 1), limits=bounds) == whole
    for split in range(1, len(body)):
        assert parse([body[:split], body[split:]], limits=bounds) == whole


FIELD_LIMIT, FORM_LIMIT = "max_field_bytes", "max_form_bytes"


@pytest.mark.parametrize(
    "field,form,size,named",
    [
        # Of a field with a name of one byte. Which one is passed first, or together.
        (9, 20, 12, FIELD_LIMIT),
        (9, 20, 30, FIELD_LIMIT),
        (9, 12, 30, FIELD_LIMIT),
        (9, 11, 30, FIELD_LIMIT),
        (9, 10, 30, FIELD_LIMIT),
        (9, 9, 30, FORM_LIMIT),
        (9, 5, 30, FORM_LIMIT),
        (9, 5, 6, FORM_LIMIT),
    ],
)
def test_of_two_limits_the_one_that_is_passed_first_is_named(
    field: int, form: int, size: int, named: str
) -> None:
    limits = {FIELD_LIMIT: field, FORM_LIMIT: form}
    said = f"413 The form is over a limit: {named} is {limits[named]}."
    bounds = UNLIMITED._replace(**limits)
    body = FIELD + b"x" * size + END
    assert parse([body], limits=bounds) == said
    assert parse(cut(body, 1), limits=bounds) == said
    for split in range(1, len(body)):
        assert parse([body[:split], body[split:]], limits=bounds) == said


def test_files_do_not_count_as_form_data() -> None:
    assert status_of(FILE + b"x" * 600_000 + END) == 200


@pytest.mark.parametrize(
    "filler", [b"\r", b"\n", b"\r\n", b"\r\n--xY", b"\r\n--xYz x", b"--xYz", b"-"]
)
@pytest.mark.parametrize("size", [1, 7, 1024])
def test_the_parser_keeps_no_more_than_a_delimiter(filler: bytes, size: int) -> None:
    data = filler * 500
    parser = MultipartParser(B, UNLIMITED)
    got, kept = b"", 0
    for piece in cut(FILE + data + END, size):
        got += b"".join(e for e in parser.feed(piece) if isinstance(e, bytes))
        if got:
            kept = max(kept, len(parser._rest))
    parser.close()
    assert got == data
    assert kept <= len("\r\n--xYz") + 1


def test_megabytes_of_blanks_after_a_boundary_are_not_kept() -> None:
    parser = MultipartParser(B, UNLIMITED)
    list(parser.feed(FILE + b"\r\n--xYz"))
    list(parser.feed(b" " * 64))
    with pytest.raises(HTTPError, match="blanks"):
        list(parser.feed(b" "))


class CountingBytes(bytes):
    """Bytes that count what a search in them had to look at."""

    looked_at = 0

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        end = len(self) if end is None else end
        found = bytes.find(self, sub, start, end)
        CountingBytes.looked_at += (end if found < 0 else found) - start
        return found


FALSE = b"\r\n--xYzz"  # what only begins like a boundary


@pytest.mark.parametrize(
    "filler",
    [b"\r", b"\r\n", b"\r\n--xY", b"x", FALSE, FALSE + b"--xYz--", FALSE + b"x" * 999],
)
def test_every_byte_of_data_is_searched_once(filler: bytes) -> None:
    for size in (4_000, 8_000):
        body = FILE + filler * (size // len(filler)) + END
        CountingBytes.looked_at = 0
        parser = MultipartParser(B, UNLIMITED)
        assert len(list(parser.feed(FILE))) == 1
        parser._rest = b""
        list(parser.feed(CountingBytes(body[len(FILE) :])))
        parser.close()
        assert CountingBytes.looked_at <= size + 10


@pytest.mark.parametrize("parts", [1, 2, 100])
def test_bytes_behind_many_parts_are_not_searched_for_each(parts: int) -> None:
    CountingBytes.looked_at = 0
    body = (FILE + FALSE + b"\r\n") * parts + FILE + FALSE * 800 + END
    parser = MultipartParser(B, UNLIMITED)
    parser._rest = b""
    parser._in_head, parser._offset = True, 0
    body = body[len("--xYz\r\n") :]
    assert sum(isinstance(e, Part) for e in parser.feed(CountingBytes(body))) > parts
    assert CountingBytes.looked_at <= len(body) + 10 * parts


def calls(function: Callable[[], object]) -> int:
    """Return how many functions are called, those of C too; the same on every run."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "line",
    [FALSE, b"\r\n--xYz\rz", b"\r\n--xYz-z", b"\r\n--xYz x", b"\r\n--xYz\r\r\n"],
)
def test_lines_that_begin_like_a_boundary_are_bounded(line: bytes) -> None:
    # RFC 2046 section 5.1.1 has none of them; each is a turn of Python.
    most = line * MAX_FALSE_LINES
    assert upload_of(FILE + most + END).size == len(most)
    assert status_of(FILE + most + line + END, TYPE) == 400
    false, plain = (
        line * MAX_FALSE_LINES * 100,
        b"x" * len(line) * MAX_FALSE_LINES * 100,
    )

    def read(data: bytes) -> Callable[[], object]:
        def feed() -> None:
            try:
                list(MultipartParser(B, UNLIMITED).feed(FILE + data))
            except HTTPError:
                pass

        return feed

    assert calls(read(false)) <= calls(read(plain)) + 4 * MAX_FALSE_LINES


def test_megabytes_that_nearly_are_boundaries_are_read() -> None:
    body = FILE + b"\r\n--xY" * 700_000 + END
    assert upload_of(body).size == 4_200_000


# Forms --------------------------------------------------------------------------------


def test_an_urlencoded_form_is_read_from_memory_and_from_a_file() -> None:
    kind = "Application/X-WWW-Form-Urlencoded; charset=iso-8859-1"
    body = b"a=1&b=%C3%A4+%zz&a=2;c=3&&=x&d"
    expected = {"a": ["1", "2;c=3"], "b": ["ä %zz"], "": ["x"], "d": [""]}
    assert form_of(body, kind) == expected
    form, files = parse_form(kind, io.BytesIO(body))
    assert {name: form.getall(name) for name in form} == expected
    assert len(files) == 0


@pytest.mark.parametrize(
    "body,status",
    [
        (b"&" * 999, 200),
        (b"&" * 1_000, 413),
        (b"a&" * 1_000_000, 413),
        (b"a=" + b"x" * 10_000_000, 413),
        (b"x" * 100_000 + b"=1", 200),
        (b"x" * 500_000, 200),
        (b"x" * 500_001, 413),
        (b"%" * 100_000, 200),
        (b"a=\xff&b=%ff%", 200),
    ],
)
def test_an_urlencoded_form_is_bounded(body: bytes, status: int) -> None:
    kind = "application/x-www-form-urlencoded"
    assert status_of(body, kind) == status
    file = Counting(b"", body, 1) if len(body) < 400_000 else io.BytesIO(body)
    try:
        parse_form(kind, file)
        got = 200
    except HTTPError as error:
        got = error.status
    assert got == status
    assert file.tell() <= 500_001


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/json", "multipart/mixed; boundary=x", "x" * 9000],
)
def test_another_content_type_is_an_empty_form(kind: str) -> None:
    form, files = parse_form(kind, b"--x--")
    assert (len(form), len(files)) == (0, 0)


def test_no_body_is_an_empty_form(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file:
        for body in (b"", file):
            form, files = parse_form(TYPE, body)
            assert (len(form), len(files)) == (0, 0)


def test_fields_and_files_of_one_name_keep_their_order() -> None:
    body = (
        FIELD + b"1\r\n" + FILE + b"one\r\n" + FIELD + b"2\r\n"
        + FILE.replace(b"f.txt", b"g.txt") + b"two" + END
    )  # fmt: skip
    form, files = parse_form(TYPE, body)
    assert form.getall("a") == ["1", "2"]
    assert [upload.filename for upload in files.getall("f")] == ["f.txt", "g.txt"]
    assert [upload.file.read() for upload in files.getall("f")] == [b"one", b"two"]


def test_a_file_input_without_a_choice_is_left_out() -> None:
    _, files = parse_form(TYPE, file_part('name="f"; filename=""', b""))
    assert "f" not in files
    _, files = parse_form(TYPE, file_part('name="f"; filename=""', b"x"))
    assert (files["f"].filename, files["f"].size) == ("upload", 1)


def encoded(part: bytes, encoding: str, data: bytes) -> bytes:
    extra = f"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode()
    return part.replace(b"\r\n\r\n", extra) + data + END


@pytest.mark.parametrize("encoding", ["7bit", "8BIT", "Binary"])
def test_a_transfer_encoding_that_is_none_changes_nothing(encoding: str) -> None:
    assert form_of(encoded(FIELD, encoding, b"=41")) == {"a": ["=41"]}
    assert upload_of(encoded(FILE, encoding, b"=41")).size == 3


@pytest.mark.parametrize("part", [FIELD, FILE])
@pytest.mark.parametrize(
    "encoding",
    ["base64", "BASE64", "quoted-printable", "x-gzip", "", "7bit, 8bit", "x" * 1000],
)
def test_an_encoded_part_is_refused(part: bytes, encoding: str) -> None:
    body = encoded(part, encoding, b"QUJD")
    said = encoding.lower()[:40]
    whole = parse([body])
    assert str(whole) == f"415 Send parts of a form as they are, not in {said!r}."
    assert status_of(body) == 415
    for split in range(1, len(body)):
        assert parse([body[:split], body[split:]]) == whole


def test_parameters_of_a_header() -> None:
    assert parse_parameters(" Text/HTML ") == ("text/html", {})
    assert parse_parameters("a;") == ("a", {})
    assert parse_parameters('a ; B=c; d="e;f" ;') == ("a", {"b": "c", "d": "e;f"})
    assert parse_parameters("") == ("", {})


@pytest.mark.parametrize(
    "text", ["a;b", "a;=", "a; b=;", 'a; b="', "a; b=c d=e", "a;b=c;b=c"]
)
def test_malformed_parameters_are_refused(text: str) -> None:
    with pytest.raises(HTTPError) as caught:
        parse_parameters(text)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "text",
    [
        "a;" + ' ;\t"' * 3000,
        'a; b="' + '\\"' * 4000,
        "a" + "; " * 4000 + "=",
        'a; b="' + '\\" ' * 3000,
    ],
)
def test_hostile_parameters_take_linear_time(text: str) -> None:
    # Quadratic, this would still be running when the suite's own timeout strikes.
    with pytest.raises(HTTPError):
        parse_parameters(text * 20)


# Uploads ------------------------------------------------------------------------------

FILENAMES = [
    ("a.txt", "a.txt"),
    ("größer 日本.png", "größer 日本.png"),
    ("../../x", "x"),
    ("..", "upload"),
    ("", "upload"),
    ("/", "upload"),
    ("/etc/passwd", "passwd"),
    ("C:\\x\\y.txt", "y.txt"),
    ("C:y.txt", "C_y.txt"),
    ("\\\\server\\share\\z.doc", "z.doc"),
    ("a\0b.txt", "a_b.txt"),
    ("a\r\nb", "a_b"[:1] + "__b"),
    ('a"b<c>d|e?f*g.txt', "a_b_c_d_e_f_g.txt"),
    ("file.txt:stream", "file.txt_stream"),
    (".htaccess", "htaccess"),
    ("...", "upload"),
    ("-rf", "rf"),
    ("~root", "root"),
    ("a. . ", "a"),
    ("CON", "_CON"),
    ("con.txt", "_con.txt"),
    ("con .txt", "_con .txt"),
    ("LPT1 .log", "_LPT1 .log"),
    ("con a.txt", "con a.txt"),
    ("Lpt1.a.b", "_Lpt1.a.b"),
    ("com\u00b9", "_com\u00b9"),
    ("CONIN$", "_CONIN$"),
    ("console.txt", "console.txt"),
    ("exe\u202etxt.gpj", "exe_txt.gpj"),
    ("\ud800.profile", "_.profile"),
    ("a" * 300 + ".tar.gz", "a" * 193 + ".tar.gz"),
    ("ä" * 300 + ".png", "ä" * 98 + ".png"),
    ("." + "a" * 300, "a" * 200),
    ("a." + "b" * 300, "b" * 200),
]


@pytest.mark.parametrize("raw,expected", FILENAMES)
def test_a_filename_is_made_safe(raw: str, expected: str) -> None:
    assert safe_filename(raw) == expected


def test_a_safe_filename_stays_as_it_is() -> None:
    for raw, expected in FILENAMES:
        assert safe_filename(expected) == expected, raw


@pytest.mark.parametrize(
    "disposition,raw,safe",
    [
        ('name="f"; filename="../../x.sh"', "../../x.sh", "x.sh"),
        ('name="f"; filename="C:\\Users\\me\\x.txt"', "C:\\Users\\me\\x.txt", "x.txt"),
        ('name="f"; filename="a%22b.txt"', 'a"b.txt', "a_b.txt"),
        ('name="f"; filename="a%2Fb.txt"', "a%2Fb.txt", "a%2Fb.txt"),
        ('name="f"; filename="..%2F"; filename*=UTF-8\'\'x', "..%2F", "%2F"),
    ],
)
def test_an_upload_has_its_name_as_sent_and_a_safe_one(
    disposition: str, raw: str, safe: str
) -> None:
    upload = upload_of(file_part(disposition))
    assert (upload.raw_filename, upload.filename) == (raw, safe)


def test_an_upload_says_what_came_with_it() -> None:
    extra = b"\r\nContent-Type: text/csv; header=absent\r\nX-Note: h\xc3\xa4\r\n\r\n"
    upload = upload_of(FILE.replace(b"\r\n\r\n", extra) + b"1,2" + END)
    assert upload.name == "f"
    assert upload.content_type == "text/csv; header=absent"
    assert upload.headers["x-note"] == "hä"
    assert upload.size == 3
    assert repr(upload) == "<FileUpload 'f' 'f.txt' 3 bytes>"
    assert upload_of(FILE + END).content_type == "application/octet-stream"


DATA_BYTES = bytes(range(256)) * 3000


@pytest.fixture(params=["memory", "file"])
def upload(request: Any, tmp_path: Path) -> Iterator[FileUpload]:
    body = FIELD + b"1\r\n" + FILE + DATA_BYTES + b"\r\n" + FILE + b"other" + END
    path = tmp_path / "body"
    path.write_bytes(body)
    with path.open("rb") as file:
        file.read(100)  # wherever it stands
        _, files = parse_form(TYPE, body if request.param == "memory" else file)
        upload, other = files.getall("f")
        assert other.file.read() == b"other"
        yield upload


def test_the_file_of_an_upload_reads_and_seeks_like_any(upload: FileUpload) -> None:
    model = io.BytesIO(DATA_BYTES)
    assert upload.size == len(DATA_BYTES)
    assert upload.file is upload.file
    assert upload.file.readable()
    assert upload.file.seekable()
    assert upload.file.tell() == 0
    for offset, whence, count in [
        (10, 0, 5), (0, 1, 70_000), (-3, 1, 7), (-5, 2, 100), (0, 2, 1), (9, 2, 1),
        (0, 0, -1),
    ]:  # fmt: skip
        assert upload.file.seek(offset, whence) == model.seek(offset, whence)
        assert upload.file.read(count) == model.read(count)
        assert upload.file.tell() == model.tell()
    upload.file.seek(0)
    assert upload.file.readline() == DATA_BYTES[:11]
    with pytest.raises((ValueError, OSError)):
        upload.file.seek(-1)
    with pytest.raises(OSError):
        upload.file.fileno()


def test_a_closed_upload_can_not_be_read(upload: FileUpload) -> None:
    assert upload.file.read(1) == b"\0"
    upload.file.close()
    with pytest.raises(ValueError):
        upload.file.read()


def test_an_upload_is_saved_in_a_directory(upload: FileUpload, tmp_path: Path) -> None:
    upload.file.read(10)
    path = upload.save(tmp_path)
    assert path == str(tmp_path / "f.txt")
    assert (tmp_path / "f.txt").read_bytes() == DATA_BYTES
    assert upload.file.tell() == 10


def test_an_upload_is_saved_to_a_path(upload: FileUpload, tmp_path: Path) -> None:
    path = str(tmp_path / "g.bin")
    assert upload.save(path) == path
    assert Path(path).read_bytes() == DATA_BYTES


def test_an_upload_is_saved_to_an_open_file(upload: FileUpload) -> None:
    target = io.BytesIO(b"xy")
    target.seek(2)
    assert upload.save(target) is None
    assert target.getvalue() == b"xy" + DATA_BYTES


def test_saving_replaces_a_file_only_if_told_to(
    upload: FileUpload, tmp_path: Path
) -> None:
    path = tmp_path / "f.txt"
    path.write_bytes(b"mine")
    for destination in (tmp_path, path):
        with pytest.raises(FileExistsError):
            upload.save(destination)
    assert path.read_bytes() == b"mine"
    upload.save(path, overwrite=True)
    assert path.read_bytes() == DATA_BYTES


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_saving_does_not_follow_a_dangling_link(
    upload: FileUpload, tmp_path: Path
) -> None:
    (tmp_path / "f.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        upload.save(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_save_that_fails_leaves_nothing(
    upload: FileUpload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(target: Any) -> None:
        target.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(upload, "_copy", disk_full)
    with pytest.raises(OSError, match="No space"):
        upload.save(tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_uploads_from_a_file_hold_no_data_and_no_file_until_used(
    tmp_path: Path,
) -> None:
    path = tmp_path / "body"
    path.write_bytes((FILE + b"x" * 100_000 + b"\r\n") * 100 + END[2:])
    with path.open("rb") as file:
        _, files = parse_form(TYPE, file)
        uploads = files.getall("f")
        assert len(uploads) == 100
        assert all(upload._file is None for upload in uploads)
        path.rename(tmp_path / "other")
        path.write_bytes(b"y" * 10_000_000)  # nobody looks for the path
        assert uploads[99].file.read() == b"x" * 100_000
    with pytest.raises(ValueError):
        uploads[0].file.read()


def test_parsing_makes_no_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    assert upload_of(FILE + b"x" * 1_000_000 + END).size == 1_000_000


# Properties ---------------------------------------------------------------------------


def test_any_bytes_give_a_form_or_an_http_error() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")

    @hypothesis.settings(max_examples=300, deadline=None)
    @hypothesis.given(
        strategies.sampled_from([TYPE, "application/x-www-form-urlencoded"])
        | strategies.text().map(lambda text: "multipart/form-data; " + text),
        strategies.binary() | strategies.binary().map(lambda data: FILE + data + END),
    )
    def check(content_type: str, body: bytes) -> None:
        try:
            _, files = parse_form(content_type, body)
        except HTTPError as error:
            hypothesis.event(str(error.status))
            if error.status not in (400, 413):
                raise
            return
        for _, upload in files.items():
            assert len(upload.file.read()) == upload.size

    check()


def test_any_filename_becomes_one_safe_component() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")

    @hypothesis.settings(max_examples=300, deadline=None)
    @hypothesis.given(
        strategies.text()
        | strategies.text(alphabet="./\\ ~-CONcom1:\0\u00b9$ä", max_size=400)
    )
    def check(raw: str) -> None:
        name = safe_filename(raw)
        assert name
        assert len(name.encode()) <= MAX_FILENAME_BYTES + 1
        assert not set(name) & set('/\\:<>|?*"\0\n')
        assert name[0] not in ".-~ "
        assert name[-1] not in ". "
        assert safe_filename(name) == name

    check()


# The guide ----------------------------------------------------------------------------


def guide_blocks() -> List[Any]:
    path = ROOT / "docs" / "uploads.md"
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)
    return [pytest.param(block, id=str(number)) for number, block in enumerate(blocks)]


@pytest.mark.parametrize("block", guide_blocks())
def test_the_examples_of_the_guide_run(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "Pixie(" in block or "@route" in block or "@post" in block:
        pytest.skip("declares routes: run with the server's tests")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "docs/uploads.md", "exec"), {"__name__": "guide"})
