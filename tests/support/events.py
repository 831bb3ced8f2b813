"""What a reader of requests makes of the bytes of a connection, event by event."""

from __future__ import annotations

from typing import Any, Iterable, Iterator, List, Optional

from pixie_web import ProtocolError
from pixie_web.protocol.http11 import CLOSED, NEED_DATA, RequestReader


def events_from(
    reader: RequestReader, pieces: Iterable[Optional[bytes]]
) -> Iterator[Any]:
    """Feed pieces to a reader, and yield all that it says.

    That are heads, parts of bodies and signals; NEED_DATA at the end of each piece;
    and a ProtocolError, as if it were an event. An error or CLOSED is the last one.
    The caller may set limits of a body on the reader when its head comes.

    Args:
        pieces: what comes; None is the end of input.
    """
    for piece in pieces:
        if piece is None:
            reader.feed_eof()
        else:
            reader.feed(piece)
        event: Any = None
        while event is not NEED_DATA:
            event = next_event(reader)
            yield event
            if event is CLOSED or isinstance(event, ProtocolError):
                return


def next_event(reader: RequestReader) -> Any:
    """Return the next event, or the error that was raised in its place."""
    try:
        return reader.next_event()
    except ProtocolError as error:
        return error


def joined(events: Iterable[Any]) -> List[Any]:
    """Return events without NEED_DATA, and with the parts of each body as one."""
    result: List[Any] = []
    for event in events:
        if event is NEED_DATA:
            continue
        if isinstance(event, bytes) and result and isinstance(result[-1], bytes):
            event = result.pop() + event
        result.append(event)
    return result
