"""One client's connection: bytes, time, and its end, for any protocol.

A `Connection` is an asyncio.Protocol. It writes, has backpressure in both directions,
watches that the client takes the bytes, and closes so that they arrive. A subclass
reads requests and answers them: see `http1`.

One look at all connections watches the time, in place of a timer for each request:
`deadline` is the time at which `out_of_time` is called.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import TYPE_CHECKING, AsyncIterator, Optional, Tuple, cast

from ..errors import ClientDisconnected, PixieError, ProtocolError
from ..requests import NEVER
from .options import GRACE_SECONDS

if TYPE_CHECKING:
    from .server import Server

CROSSING_SECONDS = 0.25  # for what a client sent before it saw the end: a round trip
# Per call, so that one fast client does not hold the loop for more than half a ms, as
# nginx' sendfile_max_chunk. PERF: half of that takes 1.07 times the CPU for 100 MB.
SENDFILE_BYTES = 2 * 1024 * 1024


def count_unsent(transport: asyncio.Transport) -> int:
    """Return how many bytes the client has not acknowledged.

    The transport alone can't tell. The kernel takes more from it only when a third
    of its own buffer is free; that may be megabytes, and minutes of a slow client.
    """
    count = 0
    try:
        import fcntl
        import termios

        count = transport.get_write_buffer_size()
        one = transport.get_extra_info("socket")
        one.getpeername()  # after a reset nothing is acknowledged any more
        found = fcntl.ioctl(one.fileno(), termios.TIOCOUTQ, bytes(4))
    except (AttributeError, ImportError, OSError, ValueError):
        return count  # a system that does not tell, or a connection that is lost
    return count + int(struct.unpack("i", found)[0])


def count_unread(transport: asyncio.Transport) -> int:
    """Return how many bytes of the client wait in the kernel; 0 where none can tell."""
    try:
        import fcntl
        import termios

        one = transport.get_extra_info("socket")
        found = fcntl.ioctl(one.fileno(), termios.FIONREAD, bytes(4))
    except (AttributeError, ImportError, OSError, ValueError):
        return 0
    return int(struct.unpack("i", found)[0])


def reset(transport: asyncio.Transport) -> None:
    """End a connection by a reset: what waits in the kernel is dropped as well.

    SECURITY: after a mere abort() the kernel would keep it, megabytes, for as long
    as a client that does not read says that it lives.
    """
    one = transport.get_extra_info("socket")
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except (AttributeError, OSError):
        pass  # it has ended by itself
    transport.abort()


class Connection(asyncio.Protocol):
    """One client's connection, from its first byte to its last.

    Args:
        server: what it shares with the others.
        accepted: its socket, until it is connected to a transport.
        network: the client that it counts for; "" if it counts for none.
    """

    def __init__(
        self,
        server: Server,
        accepted: Optional[socket.socket] = None,
        network: str = "",
    ) -> None:
        self.server = server
        self.network = network
        self.refusal: Optional[ProtocolError] = None  # to whatever the client will say
        self.transport: asyncio.Transport
        self.deadline = NEVER
        self.client = ("", 0)
        self.scheme = "http"
        self.writable: Optional[asyncio.Future[None]] = None  # set while it is not
        self.gives_way = False  # to a new one, as soon as it can
        self._accepted = accepted
        self._began = server.loop.time()
        self._reading_paused = False
        self._eof = False
        self._lingering = False
        self._closed = False
        self._unsent_bytes = 0  # when last looked at, for a client that reads slowly
        self._progress_by = 0.0  # when they have to be fewer

    # What a subclass says of itself.

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        raise NotImplementedError

    @property
    def running(self) -> int:
        """How many are."""
        return int(self.is_busy)

    @property
    def is_idle(self) -> bool:
        """Whether it has answered, and nothing of another request has come."""
        raise NotImplementedError

    def awaited(self) -> Optional[Tuple[int, float]]:
        """Return how much has come of the head or body it waits for, and since when.

        None: it waits for none.
        """
        raise NotImplementedError

    def cut_short(self, text: str) -> bool:
        """Refuse the head or body of which something has come; return whether.

        Args:
            text: of the 408; "{}" stands for what it is.
        """
        raise NotImplementedError

    def refuse(self, error: ProtocolError) -> int:
        """Send an error and close; return the bytes of its body."""
        raise NotImplementedError

    def client_left(self) -> None:
        """Tell the code that works for the client, or waits for its bytes."""
        raise NotImplementedError

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: a head is awaited."""
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.client = (str(peer[0]), int(peer[1]))
        if transport.get_extra_info("ssl_object") is not None:
            self.scheme = "https"
        self._accepted = None
        self.server.arriving.pop(self, None)
        self.server.connections[self] = None
        self.deadline = self.server.loop.time() + self.server.options.head_seconds
        if self.refusal is not None:
            self.refuse(self.refusal)
        elif self.server.closing:
            self.drain()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """The client has gone, or was sent away."""
        self.server.forget(self)
        self.transport.close()  # a TLS transport of 3.8 to 3.10 does not know it yet
        self.deadline = NEVER
        self.client_left()
        if self.writable is not None and not self.writable.done():
            self.writable.set_exception(ClientDisconnected("the client left"))
            self.writable.exception()  # for whoever waits; nobody may

    def pause_writing(self) -> None:
        """The client reads slower than we write: senders have to wait."""
        self.writable = self.server.loop.create_future()
        self._expect_progress()

    def resume_writing(self) -> None:
        """The client has caught up."""
        writable, self.writable = self.writable, None
        if self.is_busy and self.awaited() is None:
            self.deadline = NEVER
        if writable is not None and not writable.done():
            writable.set_result(None)

    # What the server calls.

    def rank(self, now: float) -> Optional[Tuple[int, float]]:
        """Return how soon this may end to make room for a new one; None: it may not.

        Ahead of all is what has been idle for longest. Then comes a client for whose
        head or body the server waits: the slowest, in bytes per second since it began.
        """
        if self.gives_way:
            return None
        if self._accepted is not None:
            size, began = 0, self._began
        elif self.is_ending:
            return None
        elif self.is_idle:
            return 0, self.deadline
        else:
            awaited = self.awaited()
            if awaited is None:
                return None
            size, began = awaited
        seconds = now - began
        return None if seconds <= GRACE_SECONDS else (1, size / seconds)

    def give_way(self) -> None:
        """End for a new connection: at once, and with a 408 where something has come.

        It does not linger: the new one may need its descriptor.
        """
        if self.gives_way:
            return
        self.gives_way = True
        self.server.leaving += 1
        if self._accepted is not None:
            try:
                self._accepted.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client has left
            return
        # Or sooner: where the handler that reads a body does not care.
        self.deadline = self.server.loop.time() + self.server.options.linger_seconds
        if not self.cut_short("This came slowest, and the server is full."):
            self._close()

    def drain(self) -> None:
        """End after the request at hand, or the one that may be on its way.

        A client that has not been answered, or of which something waits to be read, has
        sent a request or is about to: it has a moment for that. Others end now.
        """
        if self.is_busy:
            return
        if self.is_idle and not self.has_unread:
            self._part()
        elif not self.is_ending:
            self.deadline = min(self.deadline, self.server.last_moment)

    def stop(self) -> None:
        """End at once, whatever is at hand."""
        self.transport.abort()

    def out_of_time(self) -> None:
        """The deadline has passed: of an idle connection, a head, a body, or a send."""
        self.deadline = NEVER
        closing = self._closed or self.is_closing  # 3.8 forgets, over TLS
        if closing or self.writable is not None:
            options = self.server.options
            least = options.min_bytes_per_second * options.send_idle_seconds
            unsent = self.unsent()
            if closing and not unsent:
                # A client need not answer the close_notify of TLS (RFC 8446 section
                # 6.1), and while a connection is idle browsers do not.
                self.transport.abort()
            elif self.server.loop.time() < self._progress_by:
                self._look_again()
            elif self._unsent_bytes - unsent >= max(1, least):
                self._expect_progress()
            else:
                self.reset()
        elif self._lingering or not self.cut_short("The {} came too slowly."):
            self._close()

    # The end.

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.transport.is_closing()

    @property
    def is_ending(self) -> bool:
        """Whether no further request is read."""
        return self._lingering or self._closed or self.transport.is_closing()

    @property
    def was_lost(self) -> bool:
        """Whether it has ended, and not by an orderly close of ours."""
        return self.transport.is_closing() and not self._closed

    def reset(self) -> None:
        """End it by a reset: what the client has not taken is dropped."""
        reset(self.transport)

    def _close(self) -> None:
        """Close as soon as the client has taken all that waits for it."""
        if self._closed:
            return  # closed twice, a TLS transport of asyncio can't be aborted
        self._closed = True
        self.transport.close()
        if self.gives_way:
            # In the next turn: by then what was written has been sent.
            self.server.loop.call_soon(self.transport.abort)
        self._expect_progress()
        self._look_again()

    def _close_gently(self) -> None:
        """Close so that the client can read the answer first (RFC 9112 section 9.6).

        Closing with unread input makes the kernel send a reset, which may destroy an
        answer on its way. So only our half is closed, and input is dropped for a while.
        """
        if self.transport.is_closing():
            return
        self._lingering = True
        if self._eof or self.gives_way:
            self._close()
            return
        self.resume_reading()
        try:
            if self.transport.can_write_eof():
                self.transport.write_eof()
        except OSError:
            pass  # reset by the client a moment ago: the next read says so
        self.deadline = self.server.loop.time() + self.server.options.linger_seconds

    def _part(self) -> None:
        """Close where the client waits for nothing more: it need not wait for us."""
        if self.scheme == "https":
            self._close()  # its close_notify is awaited, there is no half-close
            return
        # A request may cross this: it is not processed, and its client may ask again
        # (RFC 9110 section 9.2.2). A reset would say less, and may destroy an answer.
        self._close_gently()
        self.deadline = min(self.deadline, self.server.loop.time() + CROSSING_SECONDS)

    def _expect_progress(self) -> None:
        """Cut the connection off if the client takes too little of what waits."""
        self._unsent_bytes = self.unsent()
        seconds = self.server.options.send_idle_seconds
        self.deadline = self._progress_by = self.server.loop.time() + seconds

    def _look_again(self) -> None:
        """Set a deadline for the client to say that it has taken all."""
        soon = self.server.loop.time() + self.server.options.linger_seconds
        self.deadline = min(soon, self._progress_by)

    # Bytes.

    @property
    def has_unread(self) -> bool:
        """Whether something of the client waits in the kernel."""
        return count_unread(self.transport) > 0

    def pause_reading(self) -> None:
        """Leave what the client sends in the kernel."""
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take what the client sends."""
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            ClientDisconnected: the connection has ended.
        """
        if self.transport.is_closing():
            raise ClientDisconnected("the client left before the end of its answer")
        self.transport.write(data)

    def unsent(self) -> int:
        """Return how many bytes the client has not acknowledged."""
        return count_unsent(self.transport)

    async def drained(self) -> None:
        """Wait until the client has read enough for more to be sent.

        Raises:
            ClientDisconnected: the connection has ended.
        """
        if self.writable is not None:
            await self.writable
        if self.transport.is_closing():
            raise ClientDisconnected("the client left in the middle of its answer")

    @property
    def can_sendfile(self) -> bool:
        """Whether the kernel may copy a file to the client: the connection is plain."""
        return self.scheme == "http" and hasattr(os, "sendfile")

    async def sendfile(
        self, source: int, offset: int, length: int
    ) -> AsyncIterator[int]:
        """Send part of a file, and say of each piece how many bytes it had.

        Raises:
            ClientDisconnected: the connection has ended.
            PixieError: the file has become shorter.
        """
        # uvloop has no loop.sendfile. The transport owns its descriptor, so a duplicate
        # is written to, once the transport has sent all that it holds.
        self.transport.set_write_buffer_limits(0)
        try:
            if self.transport.get_write_buffer_size():
                await self.drained()
            target = os.dup(self.transport.get_extra_info("socket").fileno())
            try:
                while length:
                    most = min(length, SENDFILE_BYTES)
                    try:
                        sent = os.sendfile(target, source, offset, most)
                    except BlockingIOError:
                        await self._writable_again(target)
                        continue
                    if not sent:
                        raise PixieError("a file became shorter while it was sent")
                    offset += sent
                    length -= sent
                    yield sent
                    await asyncio.sleep(0)
                    await self.drained()
            except (ConnectionError, TimeoutError):
                raise ClientDisconnected("the client left during a file") from None
            finally:
                os.close(target)
        finally:
            if not self.transport.is_closing():
                self.transport.set_write_buffer_limits()

    async def _writable_again(self, descriptor: int) -> None:
        loop = self.server.loop
        self.writable = loop.create_future()
        self._expect_progress()
        loop.add_writer(descriptor, self.resume_writing)
        try:
            await self.drained()
        finally:
            loop.remove_writer(descriptor)
