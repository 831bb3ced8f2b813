"""How long the two parsers take for the same bytes, and llhttp for these alone.

    python3 bench/parsers.py

Runs on one core and prints microseconds of its time, the median of rounds in which the
columns take turns. "pixie" and "httptools" are what `run(parser=...)` takes: from bytes
that arrived to events. The last columns are no parsers that this server could use, but
say what a better one might gain: llhttp without callbacks, which only finds the ends,
and with Python called for target, headers and body, which knows neither host nor length
nor whether what it passed is safe. "proof" is the part of "pixie" that finds that out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Type

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from timing import medians

from pixie_web.protocol.http11 import _HEAD, NEED_DATA, RequestReader, encode_chunk

try:
    import httptools

    from pixie_web.httptools import HttptoolsReader
except ImportError as missing:
    sys.exit(f"{missing}; pip install httptools")

ROUNDS = 21
PIECE_BYTES = 65_536  # what arrives at once

WRK = b"GET / HTTP/1.1\r\nHost: localhost:8000\r\n\r\n"
BROWSER = b"""\
GET /articles/2026/a-title-of-some-length?page=2&sort=date HTTP/1.1
Host: www.example.com
Connection: keep-alive
Cache-Control: max-age=0
sec-ch-ua: "Chromium";v="124", "Not-A.Brand";v="99"
sec-ch-ua-mobile: ?0
sec-ch-ua-platform: "Linux"
DNT: 1
Upgrade-Insecure-Requests: 1
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/124.0.0.0
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8
Sec-Fetch-Site: same-origin
Sec-Fetch-Mode: navigate
Sec-Fetch-User: ?1
Sec-Fetch-Dest: document
Referer: https://www.example.com/articles
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-US,en;q=0.9,de;q=0.8
If-None-Match: "0123456789abcdef"
If-Modified-Since: Mon, 02 Nov 2026 00:00:00 GMT
Priority: u=0, i

""".replace(b"\n", b"\r\n")
COOKIES = BROWSER[:-2] + b"Cookie: %b\r\n\r\n" % b"; ".join(
    b"name%d=%b" % (number, b"v" * 40) for number in range(30)
)
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(count: int, size: int) -> bytes:
    return CHUNKED + encode_chunk(b"x" * size) * count + b"0\r\n\r\n"


def with_length(size: int) -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
    return head + bytes(size)


HEADS = {
    "head of wrk": WRK,
    "head of a browser, 20 headers": BROWSER,
    "the same with 30 cookies": COOKIES,
}
INPUTS = {
    **HEADS,
    "16 pipelined GETs of wrk": WRK * 16,
    "10,000 chunks of 10 bytes": chunked(10_000, 10),
    "10,000 chunks of 100 bytes": chunked(10_000, 100),
    "1,000 chunks of 1 kB": chunked(1_000, 1_000),
    "250 chunks of 4 kB": chunked(250, 4_000),
    "60 chunks of 16 kB": chunked(60, 16_384),
    "15 chunks of 64 kB": chunked(15, 65_536),
    "16 MiB with a length": with_length(16 * 1024 * 1024),
}


class Callbacks:
    """What a server that leaves all to llhttp has at least."""

    def on_url(self, url: bytes) -> None:
        self.url = url
        self.headers: List[Any] = []
        self.body: List[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, data: bytes) -> None:
        self.body.append(data)


def by_reader(reader: Type[RequestReader], pieces: List[bytes]) -> Callable[[], None]:
    one = reader()

    def read() -> None:
        for piece in pieces:
            one.feed(piece)
            while one.next_event() is not NEED_DATA:
                pass

    return read


def by_llhttp(callbacks: Callable[[], Any], pieces: List[bytes]) -> Callable[[], None]:
    parser = httptools.HttpRequestParser(callbacks())

    def read() -> None:
        for piece in pieces:
            parser.feed_data(piece)

    return read


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    version = sys.version.split()[0]
    print(f"Python {version}, httptools {httptools.__version__}; microseconds of CPU")
    print(
        f"{'':32}{'pixie':>10}{'httptools':>11}{'':>7}"
        f"{'llhttp':>11}{'+ calls':>11}{'proof':>9}"
    )
    for title, data in INPUTS.items():
        pieces = [data[i : i + PIECE_BYTES] for i in range(0, len(data), PIECE_BYTES)]
        calls: Dict[str, Callable[[], Any]] = {
            "pixie": by_reader(RequestReader, pieces),
            "httptools": by_reader(HttptoolsReader, pieces),
            "llhttp": by_llhttp(object, pieces),
            "calls": by_llhttp(Callbacks, pieces),
        }
        if title in HEADS:
            text = data.decode("latin-1")
            calls["proof"] = lambda text=text: _HEAD.fullmatch(text)  # type: ignore[misc]
        found = medians(calls, ROUNDS)
        gain = found["pixie"] / found["httptools"]
        proof = f"{found['proof']:9.2f}" if "proof" in found else ""
        print(
            f"{title:32}{found['pixie']:10.1f}{found['httptools']:11.1f}"
            f"{gain:6.2f}x{found['llhttp']:11.1f}{found['calls']:11.1f}{proof}"
        )


if __name__ == "__main__":
    main()
