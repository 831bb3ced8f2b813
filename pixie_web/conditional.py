"""Conditions, ranges and codings: RFC 9110 sections 12 to 14."""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Dict, List, Optional, Tuple

from .datastructures import Headers
from .errors import HTTPError
from .requests import Request
from .responses import ENTITY_TAG, Response, quote_etag
from .text import expression, parse_date

MAX_RANGES = 10  # in one request; Apache takes 200, after CVE-2011-3192

_RANGE = expression(r"([0-9]{0,20})-([0-9]{0,20})")
_QUALITY = expression(r"q=([01](?:\.[0-9]{0,3})?)")


def parse_etags(header: str) -> List[str]:
    """Return the entity tags of If-Match or If-None-Match, or ["*"].

    'W/"a", "b,c"' -> ['W/"a"', '"b,c"']; what is no tag is passed over.
    """
    return ["*"] if header.strip() == "*" else ENTITY_TAG.findall(header)


def _opaque(tag: str) -> str:
    """Return a tag without its weakness, to compare (RFC 9110 section 8.8.3.2)."""
    return tag[2:] if tag.startswith("W/") else tag


def evaluate_preconditions(
    method: str, headers: Headers, etag: Optional[str], modified: Optional[int]
) -> Optional[int]:
    """Return 304 or 412 if the request's conditions say so, else None.

    In the order of RFC 9110 section 13.2.2; only for what would be a 2xx answer.

    Args:
        etag: the quoted entity tag of what would be sent, `W/"..."` if weak; or None.
        modified: when that changed last, in whole seconds since 1970; or None.
    """
    reading = method in ("GET", "HEAD")
    if_match = headers.get("if-match")
    if if_match is not None:
        tags = parse_etags(if_match)
        if tags != ["*"] and (not etag or etag[:2] == "W/" or etag not in tags):
            return 412
    elif modified is not None:
        limit = parse_date(headers.get("if-unmodified-since") or "")
        if limit is not None and modified > limit:
            return 412
    if_none_match = headers.get("if-none-match")
    if if_none_match is not None:
        tags = [_opaque(tag) for tag in parse_etags(if_none_match)]
        if tags == ["*"] or (etag and _opaque(etag) in tags):
            return 304 if reading else 412
    elif reading and modified is not None:
        since = parse_date(headers.get("if-modified-since") or "")
        if since is not None and modified <= since:
            return 304
    return None


def is_range_current(if_range: str, etag: str, modified: Optional[int]) -> bool:
    """Return whether If-Range lets a Range stand (RFC 9110 section 13.1.5).

    A tag must be the same, and strong. So must a date: a file that changed within the
    last second may change again and keep it.
    """
    if '"' in if_range:
        return if_range == etag
    return modified is not None and parse_date(if_range) == modified < time.time() - 1


def parse_ranges(header: str, size: int) -> Optional[List[Tuple[int, int]]]:
    """Return what a Range header asks for as (start, stop) pairs, in its order.

    "bytes=-2,0-1" of 10 -> [(8, 10), (0, 2)]

    Returns:
        An empty list if no range can be satisfied (416). None if the header is to be
        ignored, as RFC 9110 section 14.2 allows: malformed, of another unit, of more
        than MAX_RANGES, or for a file without content.
    """
    unit, _, ranges = header.partition("=")
    # SECURITY: counted before anything is built (CVE-2011-3192).
    if unit.strip().lower() != "bytes" or ranges.count(",") >= MAX_RANGES or not size:
        return None
    found = []
    for text in ranges.split(","):
        match = _RANGE.fullmatch(text.strip(" \t"))
        if match is None or match.group() == "-":
            return None
        first, last = match.groups()
        if first and last and int(last) < int(first):
            return None
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start < stop:
            found.append((start, stop))
    return found


@lru_cache(maxsize=256)
def accepted_codings(header: str, available: Tuple[str, ...]) -> Tuple[str, ...]:
    """Return what Accept-Encoding takes of `available` and "identity", best first.

    Of equal quality, the order is that of `available`, then "identity", which is good
    enough unless the header says no (RFC 9110 section 12.5.3).

    "gzip;q=0.5, br" with ("br", "gzip") -> ("br", "gzip", "identity")
    """
    qualities: Dict[str, float] = {}
    for member in header.lower().split(","):
        name, semicolon, parameter = member.partition(";")
        quality = _QUALITY.fullmatch(parameter.strip(" \t"))
        if quality or not semicolon:
            name = name.strip(" \t").replace("x-gzip", "gzip")  # section 8.4.1.3
            qualities[name] = float(quality.group(1)) if quality else 1.0
    others = qualities.get("*", 0.0)
    weights = {name: qualities.get(name, others) for name in available}
    weights["identity"] = qualities.get("identity", qualities.get("*", 0.0001))
    accepted = [name for name in weights if weights[name] > 0]
    return tuple(sorted(accepted, key=weights.__getitem__, reverse=True))


def _accepted(member: str) -> Tuple[str, float]:
    """Return the media type of a member of Accept, and its weight."""
    media_type, *parameters = (part.strip(" \t") for part in member.split(";"))
    for one in parameters:
        quality = _QUALITY.fullmatch(one)
        if quality:
            return media_type, float(quality.group(1))
    return media_type, 1.0


def prefers_json(request: Request) -> bool:
    """Return whether a client would rather have JSON than HTML (RFC 9110 12.5.1).

    Of two that weigh the same the one that is named is preferred to a `*/*`.
    """
    if b"json" not in request.head.raw:  # PERF: nearly all; Accept is not looked for
        return False
    json, html = (0.0, 0), (0.0, 0)
    for member in (request.header("accept") or "").lower().split(","):
        media_type, quality = _accepted(member)
        kind, _, name = media_type.partition("/")
        if (kind, name) == ("*", "*"):
            json, html = max(json, (quality, 0)), max(html, (quality, 0))
        elif media_type == "application/json" or name.endswith("+json"):
            json = max(json, (quality, 2))
        elif media_type in ("text/html", "application/xhtml+xml"):
            html = max(html, (quality, 2))
    return json > html and json[0] > 0


# The answer ---------------------------------------------------------------------------

NO_HEADERS = Headers()
_DECIDING_LINE = expression(rb"(?i)\n(accept-encoding|if-[^\r\n:]+|range):([^\r\n]*)")
CODED = expression(rb"^content-encoding:", re.IGNORECASE | re.MULTILINE)
REPLACED = expression(
    rb"^(?:accept-ranges|content-range|etag|last-modified):[^\r\n]*\r\n",
    re.IGNORECASE | re.MULTILINE,
)
_OF_CONTENT = expression(  # not in a 304 (RFC 9110 15.4.5), nor without content
    rb"^(?:accept-ranges|last-modified"
    rb"|content-(?:disposition|encoding|language|range|type)):[^\r\n]*\r\n",
    re.IGNORECASE | re.MULTILINE,
)


def deciding_headers(request: Request) -> Headers:
    """Return those of the request's headers that concern a file.

    PERF: parsing all of them costs as much as all else that sends a cached file; of a
    browser, whose one is Accept-Encoding, 6.0 us in place of 1.9.
    """
    lines = _DECIDING_LINE.findall(request.raw_head)
    if not lines:
        return NO_HEADERS
    texts = [(name.decode(), value.decode("latin-1")) for name, value in lines]
    return Headers.from_wire([(name, value.strip("\t ")) for name, value in texts])


def without_content(response: Response, status: int) -> Response:
    """Return a response like it, but without its body and what describes that."""
    block = _OF_CONTENT.sub(b"", response.plain_block())
    bare = Response.from_block(status, block, b"")
    bare.copy_cookies(response)
    return bare


def conditional_response(method: str, headers: Headers, response: Response) -> Response:
    """Return the response, or in its place the 304 or 412 that its ETag calls for.

    For answers that are made, not read from a file: those with a 2xx status and a
    header ETag or Last-Modified.
    """
    etag = response.headers.get("etag")
    modified = parse_date(response.headers.get("last-modified") or "")
    if not 200 <= response.status < 300 or (etag is None and modified is None):
        return response
    status = evaluate_preconditions(method, headers, etag, modified)
    return response if status is None else without_content(response, status)


def check_preconditions(
    env: Request,
    etag: Optional[str] = None,
    *,
    weak: bool = False,
    modified: Optional[float] = None,
) -> None:
    """Leave the handler if the request means another state of the resource.

    Call it before anything is made or changed. A GET is answered 304 without the work
    if the client has this state. A PUT, PATCH or DELETE with If-Match is answered 412
    if its client has not seen this state, and changes nothing.

    Args:
        etag: the state, as `Response.etag` takes it.
        weak: as `Response.etag` takes it.
        modified: when it changed last, in seconds since 1970. Without this and without
            a tag, there is no such resource yet.

    Raises:
        HTTPError: 304 or 412 (RFC 9110 section 13.2.2).
    """
    tag = None if etag is None else quote_etag(etag, weak)
    seconds = None if modified is None else int(modified)
    status = evaluate_preconditions(env.method, env.headers, tag, seconds)
    if tag is None and seconds is None:  # what is not there meets but one condition
        status = 412 if "if-match" in env.headers else None
    if status is not None:
        raise HTTPError(status, headers={"ETag": tag} if tag else None)
