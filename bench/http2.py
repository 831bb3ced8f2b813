"""What a request of HTTP/2 costs as a state machine alone, here and in the library h2.

    python3 bench/http2.py

Neither has a socket: bytes go in, and bytes come out. Ours makes a Request of them too,
runs a handler and ends an `Exchange`; h2 gives its events, and a program around it
would have all of that still to do.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pixie_web import Pixie, RouteType
from pixie_web.http2.frames import PREFACE, encode_headers, encode_settings
from pixie_web.server.options import ServerOptions
from pixie_web.server.server import Server

try:
    import hpack
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import RequestReceived
except ImportError as missing:
    sys.exit(f"{missing}; pip install h2")

BODY = b"Hello, world!"
REQUESTS = 2_000  # of a connection
ROUNDS = 8  # the best of which counts
BROWSER: Sequence[Tuple[str, str]] = (
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "www.example.org"),
    (":path", "/"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("cookie", "session=abcdefghijklmnopqrstuvwxyz0123456789"),
)


Take = Callable[[bytes], None]


def requests(at_once: int) -> Iterator[bytes]:
    """Return what a client sends: its greeting, then so many requests at once."""
    encoder = hpack.Encoder()
    yield PREFACE + encode_settings([])
    for start in range(0, REQUESTS, at_once):
        numbers = range(2 * start + 1, 2 * (start + at_once), 2)
        blocks = [(number, encoder.encode(BROWSER)) for number in numbers]
        yield b"".join([encode_headers(*one, end_stream=True) for one in blocks])


class Nowhere:
    """A transport that counts what is written, and drops it."""

    def __init__(self) -> None:
        self.written_bytes = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes) -> None:
        self.written_bytes += len(data)

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None:
        pass


def ours(loop: asyncio.AbstractEventLoop) -> Take:
    """Return what takes the bytes here."""
    app = Pixie()
    app.route("/", RouteType.sync)(lambda env: BODY)
    server = Server(app.handle, ServerOptions(access_log=False), app.begin)
    server.loop = loop
    assert server.make_http2 is not None
    connection = server.make_http2(server)
    connection.connection_made(Nowhere())
    take: Take = connection.data_received
    return take


def theirs(_: asyncio.AbstractEventLoop) -> Take:
    """Return what takes the bytes in h2."""
    connection = H2Connection(H2Configuration(client_side=False))
    connection.initiate_connection()
    answer = ((":status", "200"), ("content-length", "13"))
    answer += (("content-type", "text/html; charset=utf-8"),)

    def take(data: bytes) -> None:
        for event in connection.receive_data(data):
            if isinstance(event, RequestReceived):
                connection.send_headers(event.stream_id, answer)
                connection.send_data(event.stream_id, BODY, end_stream=True)
        connection.data_to_send()

    return take


def microseconds(make: Callable[..., Take], pieces: List[bytes]) -> float:
    """Return the best of all rounds, for a request."""
    loop, found = asyncio.new_event_loop(), []
    for _ in range(ROUNDS):
        take = make(loop)
        start = time.process_time()
        for piece in pieces:
            take(piece)
        found.append(time.process_time() - start)
    loop.close()
    return min(found) / REQUESTS * 1e6


def main() -> None:
    """Print a table."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print("at once   pixie      h2   ratio")
    for at_once in (1, 10):
        pieces = list(requests(at_once))
        own, other = microseconds(ours, pieces), microseconds(theirs, pieces)
        print(f"{at_once:7}{own:8.1f}{other:8.1f}{other / own:8.1f}")


if __name__ == "__main__":
    main()
