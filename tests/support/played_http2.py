"""A connection of HTTP/2 without a socket: the test hands bytes in, and reads frames.

@in_virtual_time
async def test_a_ping_is_answered() -> None:
    async with serving(app.handle) as site:
        played = Played(site.server)
        assert await played.say(hello(), frame(PING, 0, 0, b"12345678")) == [...]
"""

from __future__ import annotations

from typing import Any, List, Optional

from http2_client import SETTINGS, WINDOW, Got, split
from virtual_time import quiet

from pixie_web.server.server import Server


class PlayedTransport:
    """A transport that keeps what is written."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.data = b""
        self.has_ended = False
        self.has_eof = False

    def write(self, data: bytes) -> None:
        assert not self.has_ended
        self.data += data

    def write_eof(self) -> None:
        self.has_eof = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            self.connection.server.loop.call_soon(self.connection.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.has_ended

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class Played:
    """A client of a server's, in the same process.

    Attributes:
        connection: the server's side.
        transport: between both.
    """

    def __init__(self, server: Server) -> None:
        assert server.make_http2 is not None
        self.connection = server.make_http2(server, None, "")
        self.transport = PlayedTransport(self.connection)
        self.connection.connection_made(self.transport)
        self._left = b""

    async def say(self, *parts: bytes, split_at: Optional[int] = None) -> List[Got]:
        """Send bytes, in two pieces if need be; return the frames that come back."""
        data = b"".join(parts)
        pieces = [data] if split_at is None else [data[:split_at], data[split_at:]]
        for piece in pieces:
            if piece and not self.transport.has_ended:
                self.connection.data_received(piece)
        await quiet()
        await quiet()
        found, self._left = split(self._left + self.transport.data)
        self.transport.data = b""
        return [
            one
            for one in found
            if not (one.kind == SETTINGS or (one.kind == WINDOW and one.stream == 0))
        ]

    @property
    def has_ended(self) -> bool:
        """Whether the server has closed its side."""
        return self.transport.has_ended or self.transport.has_eof

    def leave(self) -> None:
        """End the connection."""
        self.transport.close()
