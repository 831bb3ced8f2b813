"""The two tables of RFC 7541: fields that need no name, and how texts are coded."""

from __future__ import annotations

from typing import List, Tuple

Field = Tuple[bytes, bytes]  # name and value

# Appendix A: a name, and after a blank its value, if it has one.
_STATIC = """
:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate
"""


def _read_static() -> List[Field]:
    fields = []
    for line in _STATIC.strip().splitlines():
        name, _, value = line.partition(" ")
        fields.append((name.encode(), value.encode()))
    return fields


STATIC_TABLE: Tuple[Field, ...] = tuple(_read_static())  # the first has index 1

# Appendix B: the bits of each octet's code, and at last those of EOS. Codes of one
# length are consecutive, in the order of the octets, so the lengths say all.
EOS = 256
HUFFMAN_BITS: Tuple[int, ...] = tuple(
    map(
        int,
        """
13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28
28 28 28 6 10 10 12 13 6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10 13
6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 8 7 8 13 19 13 14 6 15 5 6 5 6 5 6 6 6 5
7 7 6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28 20 22 20 20 22 22 22 23 22 23 23 23
23 23 24 23 24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24 22 21 20 22 22 23 23 21 23
22 22 24 21 22 23 23 21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23 26 26 20 19 22 23
22 25 26 26 26 27 27 26 24 25 19 21 26 27 27 26 27 24 21 21 26 26 28 27 27 27 20 24 20
21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27 27 27 27 28 27 27 27 27 27 26
30
        """.split(),
    )
)


def huffman_codes() -> List[Tuple[int, int]]:
    """Return the code of each octet, and of EOS, as a number and its bits."""
    codes: List[Tuple[int, int]] = [(0, 0)] * len(HUFFMAN_BITS)
    code, before = 0, 0
    for bits, symbol in sorted((bits, at) for at, bits in enumerate(HUFFMAN_BITS)):
        code <<= bits - before
        codes[symbol] = code, bits
        code, before = code + 1, bits
    return codes
