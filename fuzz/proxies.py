"""Fuzz what proxies say of a client: Forwarded, X-Forwarded-*, and the log's text.

    pip install atheris
    python fuzz/proxies.py [-max_total_time=600] [corpus directory]

The lines of the input are the values of the headers in NAMES, each of which may come
several times; the request comes from a trusted proxy. Oracle: ProtocolError 400, or a
client that is an IP address and a port, a scheme, and a host. Whatever a client puts in
front, what the trusted proxy adds at the end counts, or the answer is 400. A text for
the log is printable ASCII without quotes and says the same.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import List, Optional, Tuple

from harness import choose, run

from pixie_web import Headers, ProtocolError, Request
from pixie_web.protocol.http11 import is_host, parse_head
from pixie_web.server.access import log_text
from pixie_web.server.proxies import TrustedProxies

NAMES = ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"]
PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8::/32"])
FINAL_PROXY = ("10.0.0.1", 999)
SEEDS = [
    b"for=1.2.3.4;proto=https;host=a.example, for=10.0.0.2",
    b'for="[2001:db8::1]:80";by=x, for=unknown;ext="a\\"b"\n\n\n',
    b"\n1.2.3.4, 10.0.0.2\nhttps\na.example:80",
    b'for="[fe80::1%x]:65535"\nfe80::1%x\n\n\n\n1.2.3.4:65535',
    b"\n[::1]:5,::ffff:1.2.3.4, 1.2.3.4:56\nhttp,https\na, b\nfor=_x",
]
WORDS = [
    *(b"for=", b"proto=", b"host=", b"by=", b'"', b"\\", b";", b",", b", ", b"=", b"["),
    *(b"]", b":80", b"unknown", b"_x", b"10.0.0.2", b"1.2.3.4", b"2001:db8::1", b"::"),
    *(b"%eth0", b"https", b"http", b"\n", b"FOR=", b":99999", b"65536", b"::ffff:"),
]
Lines = List[Tuple[str, str]]
Outcome = Optional[Tuple[Tuple[str, int], str, str]]


def apply(lines: Lines) -> Outcome:
    """Return (client, scheme, host), or None for a 400."""
    request = Request(parse_head(b"GET / HTTP/1.1\r\nHost: own\r\n\r\n"))
    request._headers = Headers.from_wire(lines)
    request.client = FINAL_PROXY
    try:
        PROXIES.apply(request)
    except ProtocolError as error:
        if error.status != 400:
            raise
        return None
    return request.client, request.scheme, request.host


def check_outcome(outcome: Outcome) -> None:
    if outcome is None:
        return
    (address, port), scheme, host = outcome
    assert re.fullmatch(r"[0-9a-f:.]+", address)
    assert str(ip_address(address)) == address
    assert 0 <= port <= 65535
    assert scheme in ("http", "https")
    assert is_host(host)


def check(data: bytes) -> None:
    _, data = choose(data)
    text = data.decode("latin-1")
    shown = log_text(text)
    assert re.fullmatch(r"(?:[ !#-\[\]-~]|\\x[0-9a-f]{2})*", shown)
    assert shown.encode().decode("unicode_escape") == text
    values = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", text).split("\n")
    lines = [(NAMES[i % 4], value.strip("\t ")) for i, value in enumerate(values)]
    lines = [(name, value) for name, value in lines if value]
    check_outcome(apply(lines))
    forwarded = [line for line in lines if line[0] == "Forwarded"]
    added = ("Forwarded", "for=9.9.9.9;proto=https;host=real")
    assert apply([*forwarded, added]) in (None, (("9.9.9.9", 0), "https", "real"))
    others = [line for line in lines if line[0] != "Forwarded"]
    others += list(zip(NAMES[1:], ("9.9.9.9", "https", "real")))
    assert apply(others) == (("9.9.9.9", 0), "https", "real")


if __name__ == "__main__":
    run(check, SEEDS, WORDS)
