"""Fuzz chunked bodies: sizes, extensions, trailers, and what follows.

    pip install atheris
    python fuzz/chunks.py [-max_total_time=600] [corpus directory]

The input is what follows a head that says `Transfer-Encoding: chunked`. Oracle: see
framing.py. The first byte chooses the limits.
"""

from __future__ import annotations

from framing import check_connection
from harness import run

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SEEDS = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b'00a ; b=c\t;d="e\\""\r\n0123456789\r\n0;x\r\nTrailer: x\r\nB:\r\n\r\n' + HEAD,
    b"1\r\na\r\n1\r\nb\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n" + HEAD + b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"1\r\na\r\n" * 12 + b"A\r\n0123456789\r\n" * 9 + b"0\r\n\r\n" + HEAD,
    b"2\r\n\r\n\r\n" * 9 + b"a;b\r\n0123456789\r\n" + b"1\r\nx\r\n" * 9,
]
WORDS = [
    b"1\r\na\r\n" * 9,
    b"A\r\n0123456789\r\n" * 9,
    *(
        b"0\r\n\r\n",
        b"1\r\na\r\n",
        b"0\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b";",
        b";a=b",
    ),
    *(
        b';a="b"',
        b'"',
        b'\\"',
        b"=",
        b"\t",
        b" ",
        b"0x1",
        b"-1",
        b"+1",
        b"a\r\n",
        b"X: y\r\n",
    ),
    *(
        b"ffffffffffffffff",
        b"10000000000000000",
        b"0000000000000000",
        b"Content-Length: 1\r\n",
    ),
    HEAD,
]


def check(data: bytes) -> None:
    check_connection(data, HEAD)


if __name__ == "__main__":
    run(check, SEEDS, WORDS)
