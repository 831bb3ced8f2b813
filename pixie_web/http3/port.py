"""A UDP socket on which HTTP/3 is spoken: which connection a datagram is for."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from aioquic.buffer import Buffer
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.packet import (
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from ..http2.budgets import CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES
from .connection import HTTP3Connection
from .quic import CarefulQuic
from .stream import HTTP3Heads
from .wire import DatagramConnection

if TYPE_CHECKING:
    from ..server.server import Server

MAX_QUIC_CONNECTIONS = 1000  # at once: the library takes 100 to 200 KiB for each
# SECURITY: addresses can be made up. With so many handshakes open, a client has to show
# that it gets what is sent to its own (RFC 9000 section 8.1).
MAX_OPEN_HANDSHAKES = 100
MAX_DATAGRAMS = 64  # read in one turn of the loop
MAX_DATAGRAM_BYTES = 65_535
IDLE_SECONDS = 30.0  # without a word: RFC 9308 section 3.2 has NATs that forget then


def configuration(certfile: str, keyfile: Optional[str]) -> QuicConfiguration:
    """Return what all connections have in common.

    Raises:
        OSError, ValueError: a file can't be read, or is none.
    """
    made = QuicConfiguration(
        alpn_protocols=["h3"],
        idle_timeout=IDLE_SECONDS,
        is_client=False,
        max_data=CONNECTION_WINDOW_BYTES,
        max_stream_data=STREAM_WINDOW_BYTES,
    )
    made.load_cert_chain(certfile, keyfile)
    return made


class Port:
    """One UDP socket; the server closes it as it does a Listener.

    Args:
        server: what it shares with all other connections.
        bound: the socket.
        shared: what all connections have in common.

    Attributes:
        heads: those that were proved before.
    """

    def __init__(
        self, server: Server, bound: socket.socket, shared: QuicConfiguration
    ) -> None:
        self.server = server
        self.heads = HTTP3Heads(server.options.limits())
        self._socket = bound
        self._shared = shared
        self._tokens = QuicRetryTokenHandler()
        self._named: Dict[bytes, DatagramConnection] = {}
        self._connections: Dict[DatagramConnection, List[bytes]] = {}
        self._open_handshakes: Dict[DatagramConnection, None] = {}
        self._is_closing = False

    # What the server calls.

    def open(self) -> None:
        """Begin to read."""
        self.server.loop.add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        """Take no new connections; end when those at hand have ended."""
        self._is_closing = True
        self._end_if_empty()

    def sockets(self) -> List[socket.socket]:
        """Return its own."""
        return [self._socket]

    def cut_off(self) -> None:
        """Nothing: whoever has begun is a connection."""

    def resume(self) -> None:
        """Nothing: whoever was not let in asks again."""

    # What connections call.

    def send(self, data: bytes, address: Any) -> None:
        """Send a datagram; what can't be sent is lost, and comes again."""
        try:
            self._socket.sendto(data, address)
        except OSError:
            pass

    def establish(self, connection: DatagramConnection) -> None:
        """A handshake has ended well."""
        self._open_handshakes.pop(connection, None)

    def add_name(self, name: bytes, connection: DatagramConnection) -> None:
        """Know a connection by one name more."""
        self._named[name] = connection
        self._connections[connection].append(name)

    def remove_name(self, name: bytes) -> None:
        """Know a connection by one name less."""
        connection = self._named.pop(name, None)
        if connection is not None:
            self._connections[connection].remove(name)

    def forget(self, connection: DatagramConnection) -> None:
        """A connection has ended."""
        self._open_handshakes.pop(connection, None)
        for name in self._connections.pop(connection, []):
            self._named.pop(name, None)
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self._is_closing and not self._connections and self._socket.fileno() >= 0:
            self.server.loop.remove_reader(self._socket.fileno())
            self._socket.close()

    # Datagrams.

    def _read(self) -> None:
        """Give connections their datagrams; each answers once to all of its own."""
        heard: Dict[DatagramConnection, None] = {}
        for _ in range(MAX_DATAGRAMS):
            try:
                data, address = self._socket.recvfrom(MAX_DATAGRAM_BYTES)
            except OSError:
                break  # that was all
            connection = self._find(data, address)
            if connection is None:
                continue
            connection.run(connection.receive, data, address)
            heard[connection] = None
        for connection in heard:
            connection.run(connection.take_events)

    def _find(self, data: bytes, address: Any) -> Optional[DatagramConnection]:
        """Return whom a datagram is for: a new connection, where it begins one."""
        size = self._shared.connection_id_length
        if data and not data[0] & 0x80:
            return self._named.get(data[1 : 1 + size])  # RFC 9000 17.3: a short header
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=size)
        except ValueError:
            return None
        found = self._named.get(header.destination_cid)
        if found is not None or len(data) < SMALLEST_MAX_DATAGRAM_SIZE:
            return found
        if header.packet_type == QuicPacketType.VERSION_NEGOTIATION:
            return None
        if header.version not in self._shared.supported_versions:
            answer = encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=self._shared.supported_versions,
            )
            self.send(answer, address)
            return None
        if header.packet_type != QuicPacketType.INITIAL or self._is_closing:
            return None
        return self._begin(header, address)

    def _begin(self, header: Any, address: Any) -> Optional[DatagramConnection]:
        """Return a new connection, if there may be one more."""
        original, retried = header.destination_cid, None
        if header.token:
            try:
                original = self._tokens.validate_token(
                    address=address,
                    destination_cid=header.destination_cid,
                    token=header.token,
                    now=self.server.loop.time(),
                )
                retried = header.destination_cid
            except ValueError:
                pass  # of another server: as if there were none (RFC 9000 8.1.3)
        is_pressed = len(self._open_handshakes) >= MAX_OPEN_HANDSHAKES
        if retried is None and (is_pressed or self.server.room() <= 0):
            self._send_retry(header, address)
            return None
        if len(self._connections) >= MAX_QUIC_CONNECTIONS or not self._make_room():
            return None  # it goes by TCP
        quic = CarefulQuic(
            configuration=self._shared,
            original_destination_connection_id=original,
            retry_source_connection_id=retried,
        )
        network = self.server.network_of(address)
        connection = HTTP3Connection(self, quic, network)
        if not self.server.admit(connection):
            return None
        connection.begin(address)
        self._connections[connection] = []
        self._open_handshakes[connection] = None
        self.add_name(header.destination_cid, connection)
        self.add_name(quic.host_cid, connection)
        return connection

    def _make_room(self) -> bool:
        if self.server.room() > 0:
            return True
        yielding = self.server.yielding(1)
        if yielding:
            yielding[0].give_way()
        return bool(yielding)

    def _send_retry(self, header: Any, address: Any) -> None:
        name = os.urandom(self._shared.connection_id_length)
        token = self._tokens.create_token(
            address=address,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=name,
            now=self.server.loop.time(),
        )
        answer = encode_quic_retry(
            version=header.version,
            source_cid=name,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        self.send(answer, address)
