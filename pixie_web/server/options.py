"""The server's limits and options."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, NamedTuple, Optional, Tuple, Type, cast

from ..about import LONE
from ..errors import PixieError, companion
from ..protocol.http11 import WIRE_LIMITS, RequestReader, WireLimits
from ..requests import MAX_BODY_BYTES
from .access import ACCESS_LOG_FORMAT

KEEP_ALIVE_SECONDS = 75.0  # nginx
HEAD_SECONDS = 10.0  # from the first byte of a head to its last; hypercorn 5, nginx 60
BODY_IDLE_SECONDS = 10.0  # between two reads of a body; nginx 60
SEND_IDLE_SECONDS = 60.0  # without progress in sending; nginx
DRAIN_SECONDS = 30.0  # gunicorn
MIN_BYTES_PER_SECOND = 240.0  # of a body or an answer under way; Kestrel
LINGER_SECONDS = 2.0  # after a refusal, for the client to read it; nginx 5
GRACE_SECONDS = 2.0  # in which no connection gives way, however slow it begins
MAX_PIPELINED_REQUESTS = 16  # answered in one turn of the loop, then the others' turn
MAX_MEMORY_BODY_BYTES = 64 * 1024 * 1024  # of all bodies together, then files
TLS_HANDSHAKE_SECONDS = 10.0  # asyncio 60, hypercorn 60; a head has 10
UNIX_SOCKET_MODE = 0o660  # owner and group, as systemd's SocketMode for services


def reader_class(parser: str) -> Type[RequestReader]:
    """Return what makes requests of a connection's bytes: the core's, or a companion's.

    Raises:
        PixieError: `parser` is neither "pixie" nor "httptools".
        MissingExtra: it is "httptools", which is not installed.
    """
    if parser == "pixie":
        return RequestReader
    if parser != "httptools":
        raise PixieError(f'parser is "pixie" or "httptools", got {parser!r}')
    module = companion("httptools", 'parser="httptools"', "httptools")
    return cast(Type[RequestReader], module.HttptoolsReader)


class ServerOptions(NamedTuple):
    """The bounds of a server; arguments of `run()` under the same names."""

    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    head_seconds: float = HEAD_SECONDS
    body_idle_seconds: float = BODY_IDLE_SECONDS
    send_idle_seconds: float = SEND_IDLE_SECONDS
    min_bytes_per_second: float = MIN_BYTES_PER_SECOND
    linger_seconds: float = LINGER_SECONDS
    tls_handshake_seconds: float = TLS_HANDSHAKE_SECONDS
    drain_seconds: float = DRAIN_SECONDS
    max_connections: int = 0  # as many as descriptors allow
    max_connections_per_client: int = 0  # no limit: a proxy looks like one client
    max_pipelined_requests: int = MAX_PIPELINED_REQUESTS
    max_request_line_bytes: int = WIRE_LIMITS.max_request_line_bytes
    max_header_line_bytes: int = WIRE_LIMITS.max_header_line_bytes
    max_headers: int = WIRE_LIMITS.max_headers
    max_head_bytes: int = WIRE_LIMITS.max_head_bytes
    max_chunk_line_bytes: int = WIRE_LIMITS.max_chunk_line_bytes
    max_extension_bytes: int = WIRE_LIMITS.max_extension_bytes
    max_trailer_bytes: int = WIRE_LIMITS.max_trailer_bytes
    max_body_bytes: int = MAX_BODY_BYTES
    max_memory_body_bytes: int = MAX_MEMORY_BODY_BYTES
    access_log: bool = True
    access_log_format: str = ACCESS_LOG_FORMAT
    trusted_proxies: Tuple[str, ...] = ()
    allowed_hosts: Tuple[str, ...] = ("*",)
    server_timing: bool = False
    debug: bool = False
    parser: str = "pixie"
    http2: bool = not LONE  # with which it does not come
    http3: bool = False

    def limits(self) -> WireLimits:
        """Return what a request may cost that is no body."""
        return WireLimits(*(getattr(self, name) for name in WireLimits._fields))

    def reader(self) -> Callable[[], RequestReader]:
        """Return what makes the reader of a connection, with the limits of this."""
        return partial(reader_class(self.parser), self.limits())

    def http2_factory(self) -> Optional[Callable[..., Any]]:
        """Return what makes a connection of HTTP/2; None: that is not spoken.

        Raises:
            MissingExtra: this is the single file.
        """
        if not self.http2:
            return None
        module = companion("http2.connection", "http2=True")
        factory: Callable[..., Any] = module.make_factory(self.limits())
        return factory
