"""Heads that were checked before, found again by their bytes.

Clients repeat themselves: a browser sends the same header lines with each request, a
service the same head. Bytes that are equal to a head that `parse_head` has accepted
are well-formed too. So two tables of limited size save most of the parsing:

    whole heads          -> the Head, and where the application has found its route
    all but the first    -> the host that they name; the request line is then proved
    line of a head          by one expression, and so is a Cookie line

The tables hold ordinary requests only: HTTP/1.1, kept alive, without a body, with a
path as target. If a head is not found, or in doubt, the reader decides, as for the
first head of a kind. So nothing is refused here, and nothing is accepted that the
reader would refuse.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

from ..protocol.http11 import MAX_METHOD_BYTES, TOKEN_CLASS, Head, WireLimits
from ..text import expression, percent_decode

MAX_PROVED_HEADS = 256  # in each table, which is then emptied
MAX_PROVED_BYTES = 2048  # of a head; a megabyte in all

# What `parse_head` takes as a request line with a target in origin form. Its targets
# are of "!" to "~", and never hold a "#"; CONNECT has another form.
_USUAL_LINE = expression(
    rf"(?!CONNECT )([{TOKEN_CLASS}]{{1,{MAX_METHOD_BYTES}}}) "
    r'((/[!"$->@-~]*)(?:\?([!"$-~]*))?) HTTP/1\.1'
)
_COOKIE_START = b"\r\nCookie: "
_COOKIE_LINE = expression(rb"\r\nCookie:[\t -~\x80-\xff]*")


class ProvedHeads:
    """The heads that a server has seen; equality of bytes is the proof.

    SECURITY: heads hold cookies, and stay in memory until MAX_PROVED_HEADS others have
    come. Looking one up takes all of its bytes, so nobody can feel his way to another's
    cookie. An attacker can have the tables emptied, no more: then each request costs
    what the first of its kind does.

    Args:
        limits: those of the server whose reader proves the heads; a head keeps them
            whichever request line it is given.
    """

    def __init__(self, limits: WireLimits) -> None:
        self._most_line_bytes = limits.max_request_line_bytes
        self._most_header_bytes = limits.max_header_line_bytes
        self._most_bytes = min(MAX_PROVED_BYTES, limits.max_head_bytes)
        self._whole: Dict[bytes, Tuple[Head, Any]] = {}
        self._blocks: Dict[bytes, str] = {}

    def find(self, data: bytes) -> Optional[Tuple[Head, Any]]:
        """Return the head that `data` is, with what was learned beside it; or None.

        Args:
            data: all that has come since the last request.
        """
        found = self._whole.get(data)
        if found is not None:
            return found
        end = data.find(b"\r\n")
        host = self._blocks.get(data[end:]) or self._host_beside_cookie(data, end)
        if host is None or end > self._most_line_bytes or len(data) > self._most_bytes:
            return None
        # PERF: half of what it costs to prove all lines, and to pick those that rule.
        match = _USUAL_LINE.fullmatch(data[:end].decode("latin-1"))
        if match is None:
            return None
        return self._head(data, match.groups(""), host), None

    def _host_beside_cookie(self, data: bytes, end: int) -> Optional[str]:
        """Return the host of lines that were proved with another Cookie line."""
        start = data.find(_COOKIE_START, end)
        if start < 0:
            return None
        stop = data.find(b"\r\n", start + 2)
        # PERF: a client's own cookie, or one that changes; 3 of 20 us.
        host = self._blocks.get(data[end:start] + _COOKIE_START + data[stop:])
        if host is None or stop - start - 2 > self._most_header_bytes:
            return None
        return host if _COOKIE_LINE.fullmatch(data[start:stop]) else None

    def _head(self, data: bytes, parts: Tuple[str, ...], host: str) -> Head:
        head = Head()
        head.raw, head.host, head.scheme = data, host, None
        head.method, head.target, head.path, head.query_string = parts
        if "%" in head.path:
            path = percent_decode(head.path.encode("ascii"))
            head.path = path.decode("utf-8", "replace")
        head.version, head.content_length = "1.1", 0
        head.keep_alive, head.expects_continue = True, False
        return head

    def learn(self, head: Head) -> None:
        """Keep the lines of a head that the reader has accepted, but the first."""
        if not self._is_ordinary(head):
            return
        raw, end = head.raw, head.raw.find(b"\r\n")
        start = raw.find(_COOKIE_START, end)
        stop = raw.find(b"\r\n", start + 2)
        # With a cookie its line is left out, but for its name: there may be so many
        # lines, and one of them is this.
        block = raw[end:] if start < 0 else raw[end:start] + _COOKIE_START + raw[stop:]
        if block not in self._blocks:
            if len(self._blocks) >= MAX_PROVED_HEADS:
                self._blocks.clear()
            self._blocks[block] = head.host

    def keep(self, head: Head, known: Any) -> None:
        """Keep a whole head that was accepted, with what the application knows of it.

        Args:
            known: None: it wants to look each time.
        """
        if known is not None and self._is_ordinary(head):
            if len(self._whole) >= MAX_PROVED_HEADS:
                self._whole.clear()
            self._whole[head.raw] = head, known

    def _is_ordinary(self, head: Head) -> bool:
        is_whole = head.content_length == 0 and not head.expects_continue
        lives_on = head.keep_alive and head.version == "1.1"
        is_path = head.scheme is None and head.target[0] == "/"
        return is_whole and lives_on and is_path and len(head.raw) <= self._most_bytes
