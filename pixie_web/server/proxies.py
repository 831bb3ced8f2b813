"""The address of the client, from headers of trusted proxies."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Dict, Iterable, List, Optional, Set, Tuple

from ..datastructures import Headers
from ..errors import PixieError, ProtocolError
from ..protocol.http11 import TOKEN_CLASS, is_host
from ..requests import Request
from ..text import expression

MAX_FORWARDED = 1000  # pairs of Forwarded, or hops of X-Forwarded-For

# SECURITY: what may be missing begins with no blank, or a run of them could be shared
# out between those before and those behind it, in as many ways as it is long.
_FORWARDED_PAIR = expression(
    rf'[\t ]*(?:([{TOKEN_CLASS}]+)=("(?:[^"\\]|\\.)*"|[^",;\s]*)[\t ]*)?([,;]|$)'
)
Hop = Dict[str, str]  # what one proxy says of who asked it: for, proto, host


def _check_hops(count: int) -> None:
    """Raise ProtocolError(400) for a header that only a client can have made so long.

    SECURITY: a head of nothing but commas is 65,000 hops, and 50 ms of the loop.
    """
    if count > MAX_FORWARDED:
        raise ProtocolError(400, f"A request passes {MAX_FORWARDED} proxies at most.")


def _forwarded_hops(headers: Headers) -> List[Hop]:
    """Return the hops of Forwarded, the client's first (RFC 7239 section 4).

    Raises:
        ProtocolError: 400. SECURITY: a quote that a client leaves open would swallow
            what the proxy adds.
    """
    text = ",".join(headers.getall("forwarded"))
    _check_hops(text.count(",") + text.count(";"))
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
    texts: Dict[str, List[str]] = {}
    for key in ("for", "proto", "host"):
        text = ",".join(headers.getall(f"x-forwarded-{key}"))
        _check_hops(text.count(","))
        members = [member.strip("\t ") for member in text.split(",")]
        texts[key] = [member for member in members if member]
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


_ROOT_PATH = expression(  # RFC 3986 section 3.3: not empty, no dots alone
    r"(?:/(?!\.\.?(?:/|$))(?:[\w.~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2})+)*/?", re.A
)


def clean_root_path(text: str) -> Optional[str]:
    """Return "/app" of "/app/" or " /app", "" of "/"; None: it is no absolute path."""
    text = text.strip("\t ")
    return text.rstrip("/") if _ROOT_PATH.fullmatch(text) else None


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
        self.trusts = lru_cache(maxsize=1024)(self._look_up)

    def _look_up(self, address: str) -> bool:
        """Return whether an address, "" for a Unix socket, is one of the proxies."""
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
        """Set client, scheme, host and root path of what a trusted proxy has passed on.

        SECURITY: hops are read from the last one back, each as its own proxy wrote it:
        what a client puts in front is never reached (RFC 7239 section 8.1).

        Raises:
            ProtocolError: 400, the two ways to say it do not agree: the proxy writes
                one and lets the other pass, as the client made it up.
        """
        if not self.trusts(request.client[0]):
            return
        prefix = ",".join(request.headers.getall("x-forwarded-prefix"))
        # SECURITY: the nearest proxy's alone, and nothing that names another host.
        request.root_path = clean_root_path(prefix.rpartition(",")[2]) or ""
        hops = _forwarded_hops(request.headers)
        others = _x_forwarded_hops(request.headers)
        if hops and others and hops[-1] != others[-1]:
            raise ProtocolError(400, "Forwarded and X-Forwarded-* do not agree.")
        for hop in reversed(hops or others):
            scheme, host = hop.get("proto", "").lower(), hop.get("host", "")
            if scheme in ("http", "https"):
                request.scheme = scheme
            if is_host(host):
                request.host = host
            address = _hop_address(hop.get("for", ""))
            if address is None:
                return
            request.client = address
            if not self.trusts(address[0]):
                return


# Hosts --------------------------------------------------------------------------------

_DNS_NAME = expression(r"(?a)[\w.-]+")
_ALLOWED_HOST = expression(
    r"(?a)(\*?\.)?([\w-]+(?:\.[\w-]+)*|\[[0-9A-Fa-f:.]+\])\.?(?::[0-9]{1,5})?"
)


def _without_port(host: str) -> str:
    """Return a host as it compares: "WWW.Example.com.:80" -> "www.example.com"."""
    if not host.endswith("]"):  # else it is an IPv6 address, and full of colons
        host = host.rpartition(":")[0] or host
    return host[: -1 if host.endswith(".") else None].lower()


class AllowedHosts:
    """The hosts that are served; requests for others are refused.

    Args:
        names: hosts; a port counts for nothing. "*.example.com" is all that are below
            it, ".example.com" (as in Django) itself too, and "*" every host.

    Attributes:
        has_all: every host is served.

    Raises:
        PixieError: there is none, or one is no host.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names: Set[str] = set()
        self._ends: Tuple[str, ...] = ()
        names = set(names)
        self.has_all = "*" in names
        if not names:
            # SECURITY: not every host instead, for want of a variable.
            raise PixieError('allowed_hosts is empty: leave it out, or say "*"')
        for name in names - {"*"}:
            found = _ALLOWED_HOST.fullmatch(name)
            if found is None:
                raise PixieError(
                    "allowed_hosts are names such as example.com, .example.com or "
                    f"*.example.com, in ASCII and without a scheme, got {name!r}"
                )
            below, host = found.groups()
            if below:
                self._ends += (f".{host.lower()}",)
            if below != "*.":
                self._names.add(host.lower())

    def allow(self, host: str) -> bool:
        """Return whether a request for this host, with or without port, is served."""
        if self.has_all:
            return True
        name = _without_port(host)
        if name in self._names:
            return True
        # SECURITY: "evil.example%2f.example.com" is a host, and to some clients a path.
        return name.endswith(self._ends) and _DNS_NAME.fullmatch(name) is not None
