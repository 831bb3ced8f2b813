"""`rate_limit`: a trigger that refuses too many requests, ahead of body and worker."""

from __future__ import annotations

import hashlib
import math
from typing import Any, Awaitable, Callable, Optional, Tuple

from ..errors import HTTPError, RouteError
from ..requests import Request
from .values import MAX_KEY_BYTES, Rate

SPANS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


def read_limit(limit: str) -> Tuple[int, int]:
    """Return (calls, seconds) of "5/minute", "100/hour" or "20/10 seconds".

    Raises:
        RouteError: it is nothing like that.
    """
    count, slash, span = limit.partition("/") if isinstance(limit, str) else ("",) * 3
    number, _, unit = span.strip().rpartition(" ")
    seconds = SPANS.get(unit[:-1] if unit.endswith("s") else unit, 0)
    if not (slash and count.strip().isdecimal() and seconds):
        number = "0"
    times = int(number or "1") if (number or "1").isdecimal() else 0
    calls = int(count) if times else 0
    if not (calls and times):
        raise RouteError(
            'a limit is written as "5/minute", "100/hour" or "20/10 seconds" (second, '
            f"minute, hour, day), got {limit!r}"
        )
    return calls, times * seconds


def client_key(env: Request) -> str:
    """Return whom a limit counts by default: the client's address.

    SECURITY: whoever has an IPv6 address has a network of them: 64 bits of it count.
    Behind a proxy it is the proxy's, until `trusted_proxies` says whom to believe.
    """
    host = env.client[0] if env.client else ""
    if ":" in host:
        import ipaddress

        try:
            address = ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            return host
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return host


def refusal(name: str, calls: int, seconds: int, rate: Rate) -> HTTPError:
    """Return the 429 of who asked too often (RFC 6585 section 4).

    Its RateLimit fields are those of draft-ietf-httpapi-ratelimit-headers-10.
    """
    wait = max(1, math.ceil(rate.retry_after))
    return HTTPError(
        429,
        f"Too many requests; try again in {wait} s.",
        {
            "Retry-After": str(wait),
            "RateLimit-Policy": f'"{name}";q={calls};w={seconds}',
            "RateLimit": f'"{name}";r=0;t={wait}',
        },
    )


def rate_limit(
    limit: str,
    *,
    key: Optional[Callable[[Request], Any]] = None,
    name: str = "",
) -> Callable[[Request], Awaitable[None]]:
    """Return a before trigger that answers 429 to a client that asks too often.

    `@route("/login", method="POST", before=[rate_limit("5/minute")])`. It is an `async
    def`, so it refuses ahead of the body and of a worker. All calls of the limit may
    come at once. Later they become free one by one, evenly (GCRA). Refused calls do not
    count.

    Args:
        limit: "5/minute", "100/hour", "20/10 seconds".
        key: a function of the request that returns the value to count by (its text
            counts), or None: count nothing. The client's address, and of IPv6 its
            network, when left out.
        name: limits with the same name count together, on all their routes. Each route
            counts for itself when left out.

    Raises:
        RouteError: the limit is written in another form.
    """
    calls, seconds = read_limit(limit)
    if not (name.isascii() and name.isprintable()) or '"' in name or "\\" in name:
        raise RouteError(f"the name of a limit is plain text, got {name!r}")
    whom = client_key if key is None else key

    async def check_rate(env: Request) -> None:
        one = whom(env)
        if one is None:
            return
        scope = name or (env.route.path if env.route is not None else "")
        counted = f"limit {scope} {one}"
        if len(counted.encode("utf-8", "replace")) > MAX_KEY_BYTES:
            data = counted.encode("utf-8", "replace")
            counted = f"limit {hashlib.sha256(data).hexdigest()}"
        rate = await env.app.state.aio.rate(counted, limit=calls, seconds=seconds)
        if not rate.allowed:
            raise refusal(name or "default", calls, seconds, rate)

    return check_rate
