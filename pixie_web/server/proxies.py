"""What trusted proxies say of the client."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Dict, Iterable, List, Optional, Tuple

from ..datastructures import Headers
from ..errors import PixieError, ProtocolError
from ..protocol.http11 import _T, _is_host
from ..requests import Request
from ..text import expression

_FORWARDED_PAIR = expression(
    rf'[\t ]*(?:([{_T}]+)=("(?:[^"\\]|\\.)*"|[^",;\s]*))?[\t ]*([,;]|$)'
)
Hop = Dict[str, str]  # what one proxy says of who asked it: for, proto, host


def _forwarded_hops(headers: Headers) -> List[Hop]:
    """Return the hops of Forwarded, the client's first (RFC 7239 section 4).

    Raises:
        ProtocolError: 400. SECURITY: a quote that a client leaves open would swallow
            what the proxy adds.
    """
    text = ",".join(headers.getall("forwarded"))
    hops: List[Hop] = [{}]
    position, end = 0, "" if not text else ","
    while end:
        found = _FORWARDED_PAIR.match(text, position)
        name = found and found.group(1) and found.group(1).lower()
        if found is None or name in hops[-1]:
            raise ProtocolError(400, "The Forwarded header is not well-formed.")
        if name:
            value = found.group(2)
            quoted = value[:1] == '"'
            hops[-1][name] = re.sub(r"\\(.)", r"\1", value[1:-1]) if quoted else value
        position, end = found.end(), found.group(3)
        if end != ";":
            hops.append({})
    return [hop for hop in hops if hop]


def _x_forwarded_hops(headers: Headers) -> List[Hop]:
    """The same for X-Forwarded-For, -Proto and -Host; the last two are of one hop."""
    texts = {
        key: [
            member.strip("\t ")
            for member in ",".join(headers.getall(f"x-forwarded-{key}")).split(",")
            if member.strip("\t ")
        ]
        for key in ("for", "proto", "host")
    }
    if not any(texts.values()):
        return []
    hops = [{"for": text} for text in texts["for"]] or [{}]
    hops[-1].update((key, found[-1]) for key, found in texts.items() if found)
    return hops


def _hop_address(text: str) -> Optional[Tuple[str, int]]:
    """Return (address, port) of a hop's `for`; None where it is no address."""
    from ipaddress import ip_address

    host, port = text, ""
    if text[:1] == "[":
        host, _, port = text[1:].partition("]")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = str(ip_address(host))
    except ValueError:
        return None
    if "%" in address:  # SECURITY: the zone of an IPv6 address may be any text
        return None
    number = int(port) if port.isdecimal() and len(port) < 6 else 0
    return address, number if number < 65536 else 0


class TrustedProxies:
    """The proxies whose word about the client, the scheme and the host counts.

    Args:
        names: addresses and networks ("10.0.0.0/8"), or "unix" for peers without one.

    Raises:
        PixieError: a name is neither.
    """

    def __init__(self, names: Iterable[str]) -> None:
        from ipaddress import ip_network

        names = tuple(names)
        try:
            self._networks = [
                ip_network(name, False) for name in names if name != "unix"
            ]
        except ValueError as error:
            raise PixieError(
                f'trusted_proxies are addresses, networks or "unix": {error}'
            ) from None
        self._unix = "unix" in names
        self._trusts = lru_cache(maxsize=1024)(self._look_up)

    def _look_up(self, address: str) -> bool:
        from ipaddress import ip_address

        if not address:
            return self._unix
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in network for network in self._networks)

    def apply(self, request: Request) -> None:
        """Set client, scheme and host of a request that a trusted proxy has passed on.

        SECURITY: hops are read from the last one back, each as its own proxy wrote it:
        what a client puts in front is never reached (RFC 7239 section 8.1).

        Raises:
            ProtocolError: 400, the two ways to say it do not agree: the proxy writes
                one and lets the other pass, as the client made it up.
        """
        if not self._trusts(request.client[0]):
            return
        hops = _forwarded_hops(request.headers)
        others = _x_forwarded_hops(request.headers)
        if hops and others and hops[-1] != others[-1]:
            raise ProtocolError(400, "Forwarded and X-Forwarded-* do not agree.")
        for hop in reversed(hops or others):
            scheme, host = hop.get("proto", "").lower(), hop.get("host", "")
            if scheme in ("http", "https"):
                request.scheme = scheme
            if _is_host(host):
                request.host = host
            address = _hop_address(hop.get("for", ""))
            if address is None:
                return
            request.client = address
            if not self._trusts(address[0]):
                return
