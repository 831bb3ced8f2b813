"""Heads that were checked before, found again by their bytes.

Clients repeat themselves: a browser sends the same header lines with each request, a
service the same head. Bytes that are equal to a head that `parse_head` has accepted
are well-formed too. So two tables of limited size save most of the parsing:

    whole heads          -> the Head, and where the application has found its route
    all but the first    -> the host that they name; the request line is then proved
    line of a head          by one expression, and so are a Cookie line and the number
                            of a Content-Length, which is as long as what has come

The tables hold ordinary requests only: HTTP/1.1, kept alive, with a path as target,
and without a body or with one that has come whole. If a head is not found, or in
doubt, the reader decides, as for the first head of a kind. So nothing is refused here
that the reader would accept, and nothing accepted that it would refuse.
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
_LENGTH_LINE = expression(rb"\r\n[Cc]ontent-[Ll]ength: ?([0-9]{1,7})\r\n")
_MAY_HAVE_BODY = b"P"  # what POST, PUT and PATCH begin with

Found = Tuple[Head, Any, bytes]  # what is known of the head beside it, and the body


def _without_length(block: bytes) -> Tuple[bytes, int]:
    """Return header lines without the number of their Content-Length, and that.

    SECURITY: a head with two such lines is refused, so this is all there is. The mark
    in front tells the rest from lines that have come without a number.
    """
    match = _LENGTH_LINE.search(block)
    if match is None:
        return block, 0
    start, end = match.span(1)
    return b"+" + block[:start] + block[end:], int(match.group(1))


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

    version = "1.1"

    def __init__(self, limits: WireLimits) -> None:
        self._most_line_bytes = limits.max_request_line_bytes
        self._most_header_bytes = limits.max_header_line_bytes
        self._most_bytes = min(MAX_PROVED_BYTES, limits.max_head_bytes)
        self._whole: Dict[bytes, Found] = {}
        self._blocks: Dict[bytes, str] = {}

    def find(self, data: bytes) -> Optional[Found]:
        """Return the head of `data`, if nothing follows it but its body; or None.

        Args:
            data: all that has come since the last request.

        Returns:
            the head, what was learned beside it, and the body.
        """
        if data[:1] == _MAY_HAVE_BODY or len(data) > self._most_bytes:
            return self._find_with_body(data)
        found = self._whole.get(data)
        if found is not None:
            return found
        end = data.find(b"\r\n")
        host = self._host_of(data[end:])
        if host is None:
            return self._find_with_body(data)
        head = self._head(data, end, host)
        return None if head is None else (head, None, b"")

    def _find_with_body(self, data: bytes) -> Optional[Found]:
        # PERF: neither the reader nor a coroutine for a body that has come with its
        # head; 5 of 19 us.
        end = data.find(b"\r\n")
        stop = data.find(b"\r\n\r\n", end, self._most_bytes) + 4
        block, length = _without_length(data[end:stop])
        if stop < 4 or length != len(data) - stop:
            return None
        host = self._host_of(block)
        head = None if host is None else self._head(data[:stop], end, host)
        if head is None:
            return None
        head.content_length = length
        return head, None, data[stop:]

    def _host_of(self, block: bytes) -> Optional[str]:
        """Return the host of lines that were proved, perhaps with another cookie."""
        host = self._blocks.get(block)
        if host is not None:
            return host
        start = block.find(_COOKIE_START)
        if start < 0:
            return None
        stop = block.find(b"\r\n", start + 2)
        # PERF: a client's own cookie, or one that changes; 3 of 20 us.
        host = self._blocks.get(block[:start] + _COOKIE_START + block[stop:])
        if host is None or stop - start - 2 > self._most_header_bytes:
            return None
        return host if _COOKIE_LINE.fullmatch(block[start:stop]) else None

    def _head(self, raw: bytes, end: int, host: str) -> Optional[Head]:
        """Return the head whose request line ends there, if that is a usual one."""
        if end > self._most_line_bytes or len(raw) > self._most_bytes:
            return None
        # PERF: half of what it costs to prove all lines, and to pick those that rule.
        match = _USUAL_LINE.fullmatch(raw[:end].decode("latin-1"))
        if match is None:
            return None
        head = Head()
        head.raw, head.host, head.scheme = raw, host, None
        head.method, head.target, head.path, head.query_string = match.groups("")
        if "%" in head.path:
            path = percent_decode(head.path.encode("ascii"))
            head.path = path.decode("utf-8", "replace")
        head.version, head.content_length = self.version, 0
        head.keep_alive, head.expects_continue = True, False
        return head

    def learn(self, head: Head) -> None:
        """Keep the lines of a head that the reader has accepted, but the first."""
        if not self._is_ordinary(head):
            return
        end = head.raw.find(b"\r\n")
        block, length = _without_length(head.raw[end:])
        if length != head.content_length:
            return  # its line is written in another way
        start = block.find(_COOKIE_START)
        if start >= 0:
            # With a cookie its line is left out, but for its name: there may be so many
            # lines, and one of them is this.
            stop = block.find(b"\r\n", start + 2)
            block = block[:start] + _COOKIE_START + block[stop:]
        if block not in self._blocks:
            if len(self._blocks) >= MAX_PROVED_HEADS:
                self._blocks.clear()
            self._blocks[block] = head.host

    def keep(self, head: Head, known: Any) -> None:
        """Keep a whole head that was accepted, with what the application knows of it.

        Args:
            known: None: it wants to look each time.
        """
        if known is not None and self._is_ordinary(head) and not head.content_length:
            if len(self._whole) >= MAX_PROVED_HEADS:
                self._whole.clear()
            self._whole[head.raw] = head, known, b""

    def _is_ordinary(self, head: Head) -> bool:
        is_whole = head.content_length is not None and not head.expects_continue
        lives_on = head.keep_alive and head.version == self.version
        is_path = head.scheme is None and head.target[0] == "/"
        return is_whole and lives_on and is_path and len(head.raw) <= self._most_bytes
