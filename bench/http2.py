"""What a request of HTTP/2 costs as a state machine alone, here and in the library h2.

python bench/http2.py [REQUESTS]

Neither has a socket: bytes go in, and bytes come out. Ours makes a Request of them, too,
and runs an `Exchange` with its answer; h2 gives its events, and a program around it
would have all of that still to do.
"""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

BODY = b"Hello, world!"
ROUNDS = 8  # the best of which counts
AT_ONCE = 10  # requests in one piece of data
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


def requests(count: int) -> List[bytes]:
    """Return what a client sends: its greeting, then so many requests, some at once."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    pieces = [client.data_to_send()]
    for start in range(0, count, AT_ONCE):
        for number in range(start, start + AT_ONCE):
            client.send_headers(2 * number + 1, BROWSER, end_stream=True)
            client.reset_stream(2 * number + 1)  # of the client's own books alone
            client.clear_outbound_data_buffer()
        pieces.append(b"")
    return pieces


class Nowhere:
    """A transport that drops what is written."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return False
