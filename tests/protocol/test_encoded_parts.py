"""Parts of a form in base64 and quoted-printable (RFC 7578 section 4.7)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Optional

import pytest

from pixie_web import HTTPError
from pixie_web.forms import BODY_PIECE_BYTES, parse_form
from pixie_web.protocol.multipart import FormLimits, decode_transfer

TYPE = "multipart/form-data; boundary=xYz"


def part(encoding: str, data: bytes, disposition: str = 'name="a"') -> bytes:
    head = f"--xYz\r\nContent-Disposition: form-data; {disposition}\r\n"
    head += f"Content-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + data + b"\r\n--xYz--\r\n"


DECODED = [
    ("base64", b"", b""),
    ("base64", b"QQ==", b"A"),
    ("base64", b"QUI=", b"AB"),
    ("base64", b"QUJD", b"ABC"),
    ("base64", b" QU\tJD\r\nRA=\n=\r\n", b"ABCD"),
    ("base64", b"+/+/", b"\xfb\xff\xbf"),
    ("quoted-printable", b"", b""),
    ("quoted-printable", b"a=3Db=3d", b"a=b="),
    ("quoted-printable", b"a =\r\n b", b"a  b"),
    ("quoted-printable", b"a=\t\r\nb", b"ab"),
    ("quoted-printable", b"a \t\r\nb \t", b"a\r\nb"),
    ("quoted-printable", b"=00=FF=0A", b"\x00\xff\n"),
]

REFUSED = [
    ("base64", b"Q"),
    ("base64", b"QQ"),
    ("base64", b"QUJ"),
    ("base64", b"QQ="),
    ("base64", b"Q==="),
    ("base64", b"===="),
    ("base64", b"QQ==QQ=="),
    ("base64", b"QQ==\r\nx"),
    ("base64", b"QUJ-"),
    ("base64", b"QUJ\xff"),
    ("base64", b"QU\0J"),
    ("quoted-printable", b"a="),
    ("quoted-printable", b"a=4"),
    ("quoted-printable", b"a=4x"),
    ("quoted-printable", b"a=\nb"),
    ("quoted-printable", b"a\nb"),
    ("quoted-printable", b"a\rb"),
    ("quoted-printable", b"a\xffb"),
    ("quoted-printable", b"a\0b"),
]


@pytest.mark.parametrize("encoding,data,expected", DECODED)
def test_an_encoded_part_is_decoded(
    encoding: str, data: bytes, expected: bytes, tmp_path: Path
) -> None:
    body = part(encoding.upper(), data)
    assert decode_transfer(encoding, data) == expected
    form, files = parse_form(TYPE, body)
    assert form["a"] == expected.decode("utf-8", "replace")
    assert not files
    body = part(encoding, data, 'name="f"; filename="x.txt"')
    spooled = tmp_path / "body"
    spooled.write_bytes(body)
    with spooled.open("rb") as file:
        for source in (body, file):
            upload = parse_form(TYPE, source)[1]["f"]
            assert upload.file.read() == expected
            assert upload.size == len(expected)
            upload.file.seek(0)
            copy = io.BytesIO()
            upload.save(copy)
            assert copy.getvalue() == expected


@pytest.mark.parametrize("encoding,data", REFUSED)
def test_what_is_not_in_its_encoding_is_refused(encoding: str, data: bytes) -> None:
    for disposition in ('name="a"', 'name="a"; filename="x"'):
        with pytest.raises(HTTPError, match=r"^400 .*transfer encoding") as caught:
            parse_form(TYPE, part(encoding, data, disposition))
        assert caught.value.status == 400


@pytest.mark.parametrize("encoding", ["7bit", "8BIT", "Binary"])
def test_what_says_that_it_is_not_encoded_passes(encoding: str) -> None:
    form, _ = parse_form(TYPE, part(encoding, b"QQ==\r\n=3D"))
    assert form["a"] == "QQ==\r\n=3D"


@pytest.mark.parametrize("encoding", ["x-gzip", "quoted", "", "base64, base64"])
def test_an_unknown_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(HTTPError, match=r"^400 .*unknown"):
        parse_form(TYPE, part(encoding, b"QQ=="))


LIMITS = [
    # data, max_field_bytes, max_form_bytes, the limit that is passed
    (b"QUJD" * 3, 12, 13, None),
    (b"QUJD" * 3, 11, 500, "max_field_bytes"),
    (b"QUJD" * 3, 500, 12, "max_form_bytes"),
]


@pytest.mark.parametrize("data,field,form,passed", LIMITS)
def test_what_is_encoded_counts_as_text_as_it_was_sent(
    data: bytes, field: int, form: int, passed: Optional[str]
) -> None:
    limits = FormLimits(max_field_bytes=field, max_form_bytes=form, max_file_bytes=1)
    body = part("base64", data, 'name="a"; filename="x"')
    if passed is None:
        assert parse_form(TYPE, body, limits)[1]["a"].size == 9
        return
    with pytest.raises(HTTPError, match=f"^413 .*{passed}"):
        parse_form(TYPE, body, limits)


def test_little_of_an_encoded_file_without_end_is_read() -> None:
    class Endless(io.BytesIO):
        name = "endless"
        reads = 0

        def read(self, size: Optional[int] = -1, /) -> bytes:
            self.reads += 1
            assert size == BODY_PIECE_BYTES
            return first if self.reads == 1 else b"QUJD" * 1000

    first = part("base64", b"", 'name="a"; filename="x"')[: -len("\r\n--xYz--\r\n")]
    stream = Endless()
    with pytest.raises(HTTPError, match=r"^413 .*max_field_bytes"):
        parse_form(TYPE, stream)
    assert stream.reads <= 2 + 64 * 1024 // 4000 + 1


def test_an_encoded_file_input_in_which_nothing_was_chosen_is_left_out() -> None:
    body = part("base64", b"", 'name="a"; filename=""')
    assert not parse_form(TYPE, body)[1]
