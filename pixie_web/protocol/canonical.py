"""A head that did not arrive as HTTP/1.1, written in that form.

A request has one form everywhere, and it begins with these bytes. So gateways and
other protocols write them from the parts that they have.
"""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

from ..errors import ProtocolError
from ..text import percent_encode
from .http11 import Head, RequestReader

PATH_SAFE = b"/:@!$&'()*+,;="  # RFC 3986 section 3.3

HeaderLine = Tuple[bytes, bytes]  # name and value


def encode_target(path: bytes, query: bytes) -> bytes:
    """Return the target of a path that a server has decoded, and a query that is not.

    What the server has decoded can't be told from what was sent so: "/a%2Fb" is "/a/b".
    """
    text = path.decode("latin-1")
    if not path.isascii():
        encoded = "".join(
            percent_encode(one, PATH_SAFE) if one < "\x80" else f"%{ord(one):02X}"
            for one in text
        )
    else:
        encoded = percent_encode(text, PATH_SAFE)
    target = encoded.encode("ascii")
    return b"%b?%b" % (target, query) if query else target


def canonical_head(
    method: bytes,
    target: bytes,
    version: str,
    lines: Sequence[HeaderLine],
    reader: Optional[RequestReader] = None,
) -> Head:
    """Return the head that is made of these parts.

    It is proved as if it had come over the wire: whoever took it apart, a server or
    another protocol, may have been less strict.

    Args:
        target: the path and the query, percent-encoded.
        version: "1.0" or "1.1".
        lines: the header lines.
        reader: a new one, which has the limits; None for the usual ones.

    Raises:
        ProtocolError: as `RequestReader.next_event`.
    """
    fields = b"".join([b"%b: %b\r\n" % line for line in lines])
    raw = b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version.encode(), fields)
    reader = reader or RequestReader()
    reader.feed(raw)
    head = reader.next_event()
    # SECURITY: a line break inside of a part would make two of it.
    if not isinstance(head, Head) or raw.count(b"\r\n") != len(lines) + 2:
        raise ProtocolError(400, "The request head is not well-formed.")
    return head
