"""A connection on which many requests are answered at once, whatever carries them."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Dict, Optional, Tuple

from ..errors import ProtocolError
from ..server.transport import Connection
from .stream import Stream

if TYPE_CHECKING:
    from ..server.server import Server


class MultiplexedConnection(Connection):
    """A connection that is at several requests.

    Args:
        server: what it shares with the others.
        accepted: its socket, until it is connected to a transport.
        network: the client that it counts for; "" if it counts for none.

    Attributes:
        streams: whose requests have not been answered, by their numbers.
        has_left: the client has gone, or sends no more and has probably gone.
    """

    def __init__(
        self,
        server: Server,
        accepted: Optional[socket.socket] = None,
        network: str = "",
    ) -> None:
        super().__init__(server, accepted, network)
        self.streams: Dict[int, Stream] = {}
        self.has_left = False

    @property
    def came_bytes(self) -> int:
        """How many have come of what it waits for, if that is no body."""
        raise NotImplementedError

    def client_left(self) -> None:
        """Tell all handlers, and whoever reads a body."""
        self.has_left = True
        for stream in list(self.streams.values()):
            stream.leave()

    @property
    def is_busy(self) -> bool:
        """Whether requests are being answered."""
        return bool(self.streams)

    @property
    def running(self) -> int:
        """How many are."""
        return len(self.streams)

    def awaited(self) -> Optional[Tuple[int, float]]:
        """Return how much has come of what it waits for, and since when."""
        if not self.streams:
            return self.came_bytes, self._began
        size, began = 0, 0.0
        for stream in self.streams.values():
            if stream.body is None or not stream.body.is_awaited:
                return None
            size += stream.body.received_bytes
            began = max(began, stream.exchange.started)
        return size, began

    def cut_short(self, text: str) -> bool:
        """Refuse the bodies that are awaited, with a 408."""
        found = False
        for stream in list(self.streams.values()):
            if stream.body is not None and stream.body.is_awaited:
                stream.body.fail(ProtocolError(408, text.format("body")))
                found = True
        return found

    def stop(self) -> None:
        """End at once, whatever is at hand."""
        for stream in self.streams.values():
            stream.exchange.outcome = "stopped"
        super().stop()
