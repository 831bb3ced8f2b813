"""A connection whose bytes come and go in datagrams, by a library that has no I/O."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Callable, Optional

from aioquic.h3.connection import ErrorCode

from ..about import log
from ..http2.multiplexed import MultiplexedConnection
from .quic import CarefulH3, CarefulQuic
from .stream import Feeder

if TYPE_CHECKING:
    from .port import Port


class QuicTransport:
    """What a `Connection` asks of its transport, of one that QUIC is."""

    def __init__(self, connection: DatagramConnection, address: Any) -> None:
        self._connection = connection
        self._extra = {"peername": address[:2]}
        self._is_closing = False

    def get_extra_info(self, name: str) -> Any:
        """Return what is known under a name, or None."""
        return self._extra.get(name)

    def is_closing(self) -> bool:
        """Return whether it has ended, or does as soon as all has arrived."""
        return self._is_closing or self._connection.quic.has_ended

    def close(self) -> None:
        """End as soon as the client has all that was sent."""
        self._is_closing = True
        self._connection.send_soon()

    def abort(self) -> None:
        """End at once."""
        self._is_closing = True
        self._connection.end_now(ErrorCode.H3_NO_ERROR, "")


class DatagramConnection(MultiplexedConnection):
    """Feeds QUIC, and sends what it says; what that means is for a subclass.

    Args:
        port: where its datagrams come and go.
        quic: the library's part of it.
        network: the client that it counts for; "" if it counts for none.

    Attributes:
        h3: the library's HTTP/3, from the handshake on.
        sender: has what waits of the answers.
    """

    h3: CarefulH3

    def __init__(self, port: Port, quic: CarefulQuic, network: str) -> None:
        super().__init__(port.server, None, network)
        self.port, self.quic = port, quic
        self.sender = Feeder(self)
        self._sending: Optional[asyncio.Handle] = None  # at the end of this turn
        self._is_batching = False  # it is at the end of this call
        self._timer: Optional[asyncio.TimerHandle] = None
        self._timer_at: Optional[float] = None
        self._heard_at = self._began
        self._is_gone = False

    def _take_event(self, event: Any) -> None:
        """Do what the library has found in a datagram."""
        raise NotImplementedError

    def run(self, step: Callable[..., None], *arguments: Any) -> None:
        """Do a step; where the library fails, the connection ends, and no other."""
        try:
            step(*arguments)
        except Exception:
            log.exception("a connection of HTTP/3 broke off")
            if not self._is_gone:
                self._go()

    def receive(self, data: bytes, address: Any) -> None:
        """Take a datagram."""
        now = self._heard_at = self.server.loop.time()
        self.quic.receive_datagram(data, address, now=now)
        if self.quic.is_unborn and not self._is_gone:
            self._go()  # it began with what can't be read

    def take_events(self) -> None:
        """Do what the datagrams said."""
        self._is_batching = True
        try:
            event = self.quic.next_event()
            while event is not None and not self._is_gone:
                self._take_event(event)
                event = self.quic.next_event()
        finally:
            self._is_batching = False
        self.send_now()

    def send_soon(self) -> None:
        """Send what there is at the end of this call, or of this turn of the loop."""
        if self._sending is None and not self._is_batching and not self._is_gone:
            self._sending = self.server.loop.call_soon(self.run, self.send_now)

    def send_now(self) -> None:
        """Send what there is, and may be sent."""
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self._is_gone:
            return
        quic, now = self.quic, self.server.loop.time()
        has_more = True
        while has_more:
            for data, address in quic.datagrams_to_send(now=now):
                self.port.send(data, address)
            has_more = self.sender.feed_all()
        is_over = self.transport.is_closing() and not quic.all_unacknowledged()
        if is_over and not quic.has_ended:
            self.end_now(ErrorCode.H3_NO_ERROR, "")
        elif quic.has_ended:
            self._go()
        else:
            self._set_timer()

    def _set_timer(self) -> None:
        at = self.quic.get_timer()
        if at == self._timer_at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at, loop = at, self.server.loop
        self._timer = None if at is None else loop.call_at(at, self.run, self._on_timer)

    def _on_timer(self) -> None:
        now = max(self._timer_at or 0.0, self.server.loop.time())
        self._timer = self._timer_at = None
        self.quic.handle_timer(now=now)
        self.take_events()

    # What it is at.

    @property
    def came_bytes(self) -> int:
        """How many have come of what it waits for, if that is no body."""
        return 0

    @property
    def is_broken(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.transport.is_closing()

    def unsent(self) -> int:
        """Return how many bytes the client has not acknowledged."""
        return self.quic.all_unacknowledged()

    # The end.

    def end_now(self, code: int, text: str) -> None:
        """Say that the connection ends, and why; no more is sent."""
        if not self._is_gone:
            self.quic.close(error_code=code, reason_phrase=text)
            for data, address in self.quic.datagrams_to_send(self.server.loop.time()):
                self.port.send(data, address)
            self._go()

    def _go(self) -> None:
        """The connection has ended: whoever works for the client hears of it."""
        self._is_gone = True
        if self._timer is not None:
            self._timer.cancel()
        self.port.forget(self)
        self.server.loop.call_soon(self.connection_lost, None)
