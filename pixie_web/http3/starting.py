"""What HTTP/3 needs: the library, a certificate, and UDP sockets beside the others."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Sequence

from ..errors import MissingExtra, PixieError

if TYPE_CHECKING:
    from ..server.server import Server

LEAST_VERSION, NEXT_VERSION = (1, 7, 2), (1, 8)
ALT_SVC_SECONDS = 86_400  # for which clients remember that HTTP/3 is spoken

# What does not go with it, and why.
_UNWANTED = {
    "uds": "a Unix socket has no UDP port; HTTP/3 is for the proxy to speak",
    "reload": "the UDP port can't be handed to the next program; leave one of them out",
    "server": "that server has its own; leave one of them out",
}


def check_library() -> None:
    """Raise MissingExtra unless the library is there, in a version that will do."""
    python = sys.version_info[:2]
    if python < (3, 11):
        running = ".".join(map(str, python))
        raise MissingExtra(
            "http3=True needs Python 3.11 or later, for aioquic 1.7.2: the versions "
            f"before have faults that clients can use; this is Python {running}"
        )
    wanted = "http3=True needs: pip install 'aioquic >= 1.7.2, < 1.8'"
    try:
        from aioquic import __version__ as version
    except ImportError as error:
        raise MissingExtra(wanted) from error
    found = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if not LEAST_VERSION <= found < NEXT_VERSION:
        raise MissingExtra(f"{wanted}; {version} is installed")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise PixieError where HTTP/3 does not go with another setting."""
    for name, reason in _UNWANTED.items():
        if settings[name]:
            got = settings[name]
            raise PixieError(f"http3=True does not go with {name}={got!r}: {reason}")
    if settings["fd"] >= 0:
        raise PixieError(
            "http3=True does not go with fd: the descriptor has no UDP port beside it; "
            "bind host and port, or let the proxy speak HTTP/3"
        )


class HTTP3:
    """The UDP ports of a server.

    Args:
        server: what they share with all other connections.
        settings: of `run()`.

    Raises:
        MissingExtra: the library is not there.
        PixieError: another setting does not go with it.
    """

    def __init__(self, server: Server, settings: Mapping[str, Any]) -> None:
        check_library()
        if not settings["certfile"]:
            raise PixieError(
                "http3=True needs certfile=, and keyfile= if the key is not in it: "
                "QUIC always encrypts, and can't use an ssl_context="
            )
        self._server = server
        self._sockets: List[socket.socket] = []
        self._shared: Any = None

    def load_certificate(self, certfile: str, keyfile: Optional[str]) -> None:
        """Take a certificate, for connections that come from now on.

        Raises:
            PixieError: the library can't use it.
        """
        from .port import configuration

        try:
            made = configuration(certfile, keyfile)
            if made.private_key is None:
                raise ValueError("it has no key that begins with BEGIN PRIVATE KEY")
        except (OSError, ValueError, IndexError, TypeError) as error:
            text = f"http3=True can't use the certificate {certfile}: {error}"
            raise PixieError(text) from None
        if self._shared is None:
            self._shared = made
        else:
            self._shared.certificate = made.certificate
            self._shared.certificate_chain = made.certificate_chain
            self._shared.private_key = made.private_key

    def bind(self, beside: Sequence[socket.socket]) -> List[socket.socket]:
        """Return UDP sockets with the addresses of others.

        Raises:
            PixieError: one of them is taken.
        """
        for one in beside:
            udp = socket.socket(one.family, socket.SOCK_DGRAM)
            self._sockets.append(udp)
            address = one.getsockname()
            try:
                if one.family == socket.AF_INET6:
                    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                udp.bind(address)
            except OSError as error:
                for each in self._sockets:
                    each.close()
                where = f"UDP port {address[1]} of {address[0]}"
                raise PixieError(f"can't listen on {where}: {error.strerror}") from None
            udp.setblocking(False)
        return self._sockets

    def open(self) -> None:
        """Begin to read, and have all other answers say so (RFC 7838)."""
        from .port import Port

        for one in self._sockets:
            port = Port(self._server, one, self._shared)
            port.open()
            self._server.add(port)
        number = self._sockets[0].getsockname()[1]
        self._server.advertise(f'h3=":{number}"; ma={ALT_SVC_SECONDS}')
