"""One client's connection that speaks HTTP/2, from its preface to its GOAWAY.

reading    frames are taken as they come; what a body's handler has not read holds
           the client back, stream by stream
sending    what the client's windows allow, the most urgent first; handlers wait
the end    GOAWAY in two steps, reading on, so that no request on its way is lost
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING, Callable, List, Optional, cast

from ..errors import ClientDisconnected, ProtocolError
from ..protocol.http11 import WireLimits
from ..requests import NEVER
from . import budgets
from .frames import (
    DEFAULT_WINDOW,
    MAX_WINDOW,
    Code,
    ConnectionFault,
    Setting,
    StreamFault,
    Type,
    encode_frame,
    encode_goaway,
    encode_reset,
    encode_settings,
    encode_window_update,
)
from .heads import HTTP2Heads
from .hpack import NO_TABLE
from .multiplexed import MultiplexedConnection
from .receiving import DRAIN_PING, Receiver
from .sending import Sender
from .stream import Stream

if TYPE_CHECKING:
    from ..server.server import Server

LOOK_SECONDS = 1.0  # between two looks at streams that wait for their client
READ_AHEAD_BYTES = 65_536  # of frames that have their turn later
BATCH_BYTES = 65_536  # of frames that go out in one write

_GREETING = encode_settings(
    [
        (Setting.ENABLE_PUSH, 0),
        (Setting.MAX_CONCURRENT_STREAMS, budgets.MAX_STREAMS),
        (Setting.INITIAL_WINDOW_SIZE, budgets.STREAM_WINDOW_BYTES),
        (Setting.MAX_HEADER_LIST_SIZE, budgets.MAX_LIST_BYTES),
        (Setting.NO_RFC7540_PRIORITIES, 1),
    ]
) + encode_window_update(0, budgets.CONNECTION_WINDOW_BYTES - DEFAULT_WINDOW)


class HTTP2Connection(MultiplexedConnection):
    """A connection on which many requests are answered at once.

    Args:
        heads: those that were proved before.
        server: what it shares with the others.
        accepted: its socket, until it is connected to a transport.
        network: the client that it counts for; "" if it counts for none.
    """

    def __init__(
        self,
        heads: HTTP2Heads,
        server: Server,
        accepted: Optional[socket.socket] = None,
        network: str = "",
    ) -> None:
        super().__init__(server, accepted, network)
        self.heads = heads
        self.sender = Sender(self)
        self.receiver = Receiver(self)
        self._out: List[bytes] = []
        self._out_bytes = 0
        self._is_batching = False  # what is sent goes out at the end of this call
        self._continuing = False  # more frames are taken in the next turn
        self._has_table = False  # the client knows that our header blocks use none
        self._idle_since = 0.0
        self._is_draining = False  # the first GOAWAY was sent
        self._last: Optional[int] = None  # the last stream that is answered at all
        self._has_failed = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: say what this side takes."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(_GREETING)
        self._idle_since = self.server.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and do what the frames in them say."""
        if self.is_ending:
            return
        reader = self.receiver.reader
        reader.feed(data)
        if not self._continuing:
            self._read()
        elif reader.buffered > READ_AHEAD_BYTES:
            self.pause_reading()

    def eof_received(self) -> bool:
        """The client has sent all it will; it may still want its answers."""
        self._eof = True
        if self.is_ending or not self.streams:
            return False
        self.has_left = True
        for stream in list(self.streams.values()):
            stream.request.disconnect.set()
            if stream.body is not None and not stream.remote_closed:
                left = ClientDisconnected(
                    "the client left in the middle of its request"
                )
                stream.body.fail(left)
        return self.scheme == "http"

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._set_deadline()
        self.sender.flush()

    # What it is at.

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to answer."""
        return not self.streams and self.receiver.reader.has_begun

    @property
    def came_bytes(self) -> int:
        """How many have come of what it waits for, if that is no body."""
        return self.receiver.reader.buffered

    @property
    def is_broken(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._has_failed or self.transport.is_closing()

    def refuse(self, error: ProtocolError) -> int:
        """Send an error of the connection, and close."""
        self.fail(ConnectionFault(Code.PROTOCOL_ERROR, error.text))
        return 0

    # Reading.

    def _read(self) -> None:
        """Take frames, and leave the others their turn after some requests."""
        self._continuing, self._is_batching = False, True
        receiver = self.receiver
        most = receiver.started + self.server.options.max_pipelined_requests
        try:
            while not self.is_ending:
                if receiver.started >= most:
                    self._continuing = True
                    self.server.loop.call_soon(self._continue)
                    break
                if not self._take_frame():
                    break
        except ConnectionFault as fault:
            self.fail(fault)
        finally:
            self._is_batching = False
            self._flush()
        if not self.is_ending:
            if not self._continuing:
                self.resume_reading()
            self._set_deadline()

    def _take_frame(self) -> bool:
        """Take the next frame; return whether it has come."""
        try:
            frame = self.receiver.reader.next_frame()
            if frame is None:
                return False
            self.receiver.take(frame)
        except StreamFault as fault:
            self.receiver.end_stream(fault)
        return True

    def _continue(self) -> None:
        if self._continuing and not self.is_ending:
            self._read()

    # Sending.

    def send(self, data: bytes) -> None:
        """Send frames; inside of a call that reads, with all others at its end."""
        self._out.append(data)
        self._out_bytes += len(data)
        if not self._is_batching or self._out_bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            if not self.transport.is_closing():
                self.transport.write(data)

    def send_window(self, number: int, size: int) -> None:
        """Let the client send more, on a stream or on the connection."""
        if not self.is_broken:
            self.send(encode_window_update(number, size))

    def block(self, fields: bytes) -> bytes:
        """Return a header block of encoded fields."""
        if self._has_table:
            return fields
        self._has_table = True
        return NO_TABLE + fields

    def count_reset(self, code: Code) -> None:
        """Count a stream that we have ended; too many of them end the connection."""
        if code == Code.INTERNAL_ERROR:
            return  # that is none of the client's doing
        try:
            self.receiver.count_reset()
        except ConnectionFault as fault:
            self.fail(fault)

    def reset_later(self, number: int) -> None:
        """Reset a stream that was answered, if its client does not end it by itself."""
        loop, seconds = self.server.loop, self.server.options.linger_seconds
        loop.call_later(seconds, self._reset_late, number)
        self.count_reset(Code.NO_ERROR)

    def _reset_late(self, number: int) -> None:
        if self.receiver.goes_on(number) and not self.is_broken:
            self.send(encode_reset(number, Code.NO_ERROR))

    def forget_stream(self, stream: Stream) -> None:
        """A stream has ended."""
        self.streams.pop(stream.number, None)
        self.receiver.remember(stream)
        if not self.streams:
            self._idle_since = self.server.loop.time()
            if self._last is not None and not self.is_ending:
                self._flush()
                self._part()
            elif self.server.is_full:
                self.server.resume()  # one that waits may have the place of this one
        if not self._is_batching and not self.is_ending:
            self._set_deadline()

    # The end.

    def is_past(self, number: int) -> bool:
        """Return whether a stream began after the last one that is answered."""
        return self._last is not None and number > self._last

    def _go_away(self, code: Code, text: str = "") -> None:
        """Say which stream is the last one, once."""
        if self._last is None and not self.transport.is_closing():
            self._last = self.receiver.last
            self.send(encode_goaway(self._last, code, text))
            self._flush()

    def fail(self, fault: ConnectionFault) -> None:
        """End the connection for what the client did (RFC 9113 section 5.4.1)."""
        if self._has_failed or self.is_ending:
            return
        self._last = None
        self._go_away(fault.code, fault.text)
        self._has_failed = True
        for stream in list(self.streams.values()):
            stream.leave()
        self._close_gently()

    def drain(self) -> None:
        """End after the requests at hand, and those that are on their way.

        RFC 9113 section 6.8: the first GOAWAY leaves the last stream open. When the
        client has answered the PING behind it, it begins no more.
        """
        if self._is_draining or self.is_ending:
            return
        self._is_draining = True
        self.send(encode_goaway(MAX_WINDOW, Code.NO_ERROR))
        self.send(encode_frame(Type.PING, 0, 0, DRAIN_PING))
        self._flush()
        self._set_deadline()

    def finish_drain(self) -> None:
        """Take no more requests; end when those at hand have been answered."""
        if self._is_draining:
            self._go_away(Code.NO_ERROR)
            if not self.streams and not self.is_ending:
                self._part()

    def client_goes(self) -> None:
        """The client has said that it will ask no more."""
        self._is_draining = True
        self.finish_drain()

    def _close(self) -> None:
        if not self._closed:
            self._go_away(Code.NO_ERROR)
        super()._close()

    # Time.

    def _set_deadline(self) -> None:
        if self.writable is not None or self._lingering or self._closed:
            return
        options = self.server.options
        if self.streams or self._is_draining:
            # SECURITY: not later than before. Else a client with a window of zero has
            # nobody look at it, if it sends a PING now and then.
            soon = self.server.loop.time() + LOOK_SECONDS
            self.deadline = min(self.deadline, soon)
            if self._is_draining and self._last is None:
                self.deadline = min(self.deadline, self.server.last_moment)
        elif self.receiver.reader.has_begun:
            self.deadline = self._idle_since + options.keep_alive_seconds
        else:
            self.deadline = self._idle_since + options.head_seconds

    def out_of_time(self) -> None:
        """Time to look: at an idle connection, its end, or streams that wait."""
        if self.is_ending or self.writable is not None:
            super().out_of_time()
        else:
            self.deadline = NEVER
        now = self.server.loop.time()
        for stream in list(self.streams.values()):
            stream.look(now)
        if self.is_ending:
            return
        if self._is_draining and now >= self.server.last_moment:
            self.finish_drain()
        elif not self.streams and not self._is_draining:
            self._go_away(Code.NO_ERROR)
            self._part()
        if not self.is_ending:
            self._set_deadline()


def make_factory(limits: WireLimits) -> Callable[..., HTTP2Connection]:
    """Return what makes the connections of one server."""
    return partial(HTTP2Connection, HTTP2Heads(limits))
