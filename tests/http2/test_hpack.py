"""RFC 7541: its own examples (appendix C), and what `hpack` makes of fields."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixie_web.http2.hpack import (
    NO_TABLE,
    Decoder,
    HeaderFlood,
    HpackError,
    encode_field,
    encode_integer,
    huffman_decode,
    read_integer,
)

Fields = Sequence[Tuple[str, str]]
FIRST: Fields = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
]
SECOND: Fields = [*FIRST, ("cache-control", "no-cache")]
THIRD: Fields = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
]
DATES = "Mon, 21 Oct 2013 20:13:21 GMT", "Mon, 21 Oct 2013 20:13:22 GMT"
URL = "https://www.example.com"
COOKIE = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
ANSWERS: Sequence[Fields] = [
    [
        (":status", "302"),
        ("cache-control", "private"),
        ("date", DATES[0]),
        ("location", URL),
    ],
    [
        (":status", "307"),
        ("cache-control", "private"),
        ("date", DATES[0]),
        ("location", URL),
    ],
    [
        (":status", "200"),
        ("cache-control", "private"),
        ("date", DATES[1]),
        ("location", URL),
        ("content-encoding", "gzip"),
        ("set-cookie", COOKIE),
    ],
]
# Sections C.2 to C.6: the table's size, and blocks one after the other.
EXAMPLES: List[Tuple[str, int, Sequence[Tuple[str, Fields]]]] = [
    (
        "C.2.1",
        4096,
        [
            (
                "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
                [("custom-key", "custom-header")],
            )
        ],
    ),
    ("C.2.2", 4096, [("040c2f73616d706c652f70617468", [(":path", "/sample/path")])]),
    (
        "C.2.3",
        4096,
        [("100870617373776f726406736563726574", [("password", "secret")])],
    ),
    ("C.2.4", 4096, [("82", [(":method", "GET")])]),
    (
        "C.3",
        4096,
        [
            ("828684410f7777772e6578616d706c652e636f6d", FIRST),
            ("828684be58086e6f2d6361636865", SECOND),
            ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", THIRD),
        ],
    ),
    (
        "C.4",
        4096,
        [
            ("828684418cf1e3c2e5f23a6ba0ab90f4ff", FIRST),
            ("828684be5886a8eb10649cbf", SECOND),
            ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", THIRD),
        ],
    ),
    (
        "C.5",
        256,
        [
            (
                "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032"
                "303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e63"
                "6f6d",
                ANSWERS[0],
            ),
            ("4803333037c1c0bf", ANSWERS[1]),
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c0"
                "5a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f504955415851"
                "57454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
                ANSWERS[2],
            ),
        ],
    ),
    (
        "C.6",
        256,
        [
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1b"
                "ff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
                ANSWERS[0],
            ),
            ("4883640effc1c0bf", ANSWERS[1]),
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad"
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed"
                "4ee5b1063d5007",
                ANSWERS[2],
            ),
        ],
    ),
]


def texts(fields: object) -> Fields:
    assert isinstance(fields, list)
    return [(name.decode(), value.decode()) for name, value in fields]


@pytest.mark.parametrize(
    "section, size, blocks", EXAMPLES, ids=[one[0] for one in EXAMPLES]
)
def test_the_examples_of_the_rfc(
    section: str, size: int, blocks: Sequence[Tuple[str, Fields]]
) -> None:
    decoder = Decoder(4096, size)
    for coded, fields in blocks:
        assert texts(decoder.decode(bytes.fromhex(coded))) == list(fields)


@pytest.mark.parametrize(
    "section, coded, bits, value",
    [
        ("C.1.1", "0a", 5, 10),
        ("C.1.2", "1f9a0a", 5, 1337),
        ("C.1.3", "2a", 8, 42),
        ("5.1", "ff00", 7, 127),
        ("5.1", "7f80808000", 7, 127),
    ],
)
def test_numbers(section: str, coded: str, bits: int, value: int) -> None:
    data = bytes.fromhex(coded)
    assert read_integer(data, 0, bits) == (value, len(data))
    if "80" not in coded:
        assert encode_integer(value, bits, data[0] & ~((1 << bits) - 1)) == data


@pytest.mark.parametrize(
    "block",
    [
        *("80", "be", "ff80808080", "40", "4001", "400161", "40016105", "3fe21f"),
        *("8220", "00841fffffff00", "0081ff00", "ff", "1f"),
    ],
)
def test_what_is_no_block_is_refused(block: str) -> None:
    with pytest.raises(HpackError):
        Decoder(4096).decode(bytes.fromhex(block))


def test_a_list_too_large_is_read_to_its_end_and_the_table_goes_on() -> None:
    decoder = Decoder(100)
    first = b"\x40\1a\1b" + b"\xbe" * 10 + b"\x40\1c\1d"  # 12 fields of 34 bytes
    assert decoder.decode(first) is None
    assert decoder.decode(b"\xbe\xbf") == [(b"c", b"d"), (b"a", b"b")]


def test_a_list_many_times_too_large_is_not_read_to_its_end() -> None:
    with pytest.raises(HeaderFlood):
        Decoder(100).decode(b"\x40\1a\1b" + b"\xbe" * 11 + b"\xff")  # no number


def test_a_field_larger_than_the_table_empties_it() -> None:
    decoder = Decoder(100_000)
    assert decoder.decode(b"\x40\1a\1b\xbe") == [(b"a", b"b")] * 2
    large = b"\x40\1a" + encode_integer(5000, 7, 0) + bytes(5000)
    assert decoder.decode(large) == [(b"a", bytes(5000))]
    with pytest.raises(HpackError):
        decoder.decode(b"\xbe")


NAMES = st.sampled_from([b"a", b"cookie", b":path", b"set-cookie", b"x-name", b"vary"])
FIELDS = st.lists(st.tuples(NAMES, st.binary(max_size=300)), max_size=8)


@given(st.lists(FIELDS, max_size=6), st.sampled_from([0, 60, 256, 4096]))
def test_what_hpack_encodes_is_decoded_to_the_same(
    lists: List[List[Tuple[bytes, bytes]]], size: int
) -> None:
    hpack = pytest.importorskip("hpack", reason="the client library is not installed")
    encoder, decoder = hpack.Encoder(), Decoder(1 << 20)
    encoder.header_table_size = size
    for at, fields in enumerate(lists):
        block = encoder.encode(fields, huffman=bool(at % 2))
        assert decoder.decode(block) == fields


@given(FIELDS)
def test_what_is_encoded_here_is_read_by_hpack(
    fields: List[Tuple[bytes, bytes]],
) -> None:
    hpack = pytest.importorskip("hpack", reason="the client library is not installed")
    block = NO_TABLE + b"".join(encode_field(*field) for field in fields)
    found = hpack.Decoder().decode(block, raw=True)
    assert [tuple(one) for one in found] == fields
    assert Decoder(1 << 20).decode(block) == fields


@given(st.binary(max_size=60))
def test_any_bytes_are_a_block_or_are_refused(block: bytes) -> None:
    hpack = pytest.importorskip("hpack", reason="the client library is not installed")
    other = hpack.Decoder(max_header_list_size=1 << 20)
    try:
        expected = [tuple(one) for one in other.decode(block, raw=True)]
    except hpack.HPACKError:
        expected = None
    try:
        found = Decoder(1 << 20).decode(block)
    except HpackError:
        found = None
    # The other takes numbers of any length, and a table's size of a block alone.
    assert found == expected or found is None


@given(st.binary(max_size=40))
def test_huffman_codes_are_those_of_hpack(text: bytes) -> None:
    codes = pytest.importorskip("hpack.huffman_constants", reason="it is not installed")
    huffman = pytest.importorskip("hpack.huffman")
    encoder = huffman.HuffmanEncoder(codes.REQUEST_CODES, codes.REQUEST_CODES_LENGTH)
    assert huffman_decode(encoder.encode(text)) == text
