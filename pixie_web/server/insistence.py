"""Clients that keep asking who is too busy.

Many of them, each asking again as soon as it is refused, would take all of the time
that main needs for those who are not refused. So whoever asks again is looked at
after a pause, and the same request with the same answer costs half of another one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Deque, Tuple

from ..requests import Request
from ..responses import Refusal

if TYPE_CHECKING:
    from .http1 import HTTP1Connection

REFUSAL_PAUSE_SECONDS = 0.05
TICK_SECONDS = 0.005
# PERF: in one turn of the loop. Then workers are heard, which would stand idle else:
# with 2,000 clients that are refused, 8 cost two fifths of the good answers of a route
# that does nothing. Where the loop is that busy, the pause is longer.
MAX_AT_ONCE = 2
MAX_KEPT_BYTES = 16 * 1024  # of what comes meanwhile; more is left to the kernel


class Waiting:
    """The connections whose clients wait a little; one timer for all of them."""

    def __init__(self) -> None:
        self._line: Deque[Tuple[float, Insistence]] = deque()

    def add(self, insistence: Insistence) -> None:
        """Let one go after the pause."""
        loop = asyncio.get_running_loop()
        if not self._line:
            loop.call_later(REFUSAL_PAUSE_SECONDS, self._tick)
        self._line.append((loop.time() + REFUSAL_PAUSE_SECONDS, insistence))

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        # Those who are due before the next tick go now: the pause is a bound.
        until = loop.time() + TICK_SECONDS
        for _ in range(MAX_AT_ONCE):
            if not self._line or self._line[0][0] > until:
                break
            self._line.popleft()[1].let_go()
        if self._line:
            is_due = self._line[0][0] <= until
            loop.call_later(0 if is_due else TICK_SECONDS, self._tick)

    def let_all_go(self) -> None:
        """Let all of them go at once: the server ends."""
        while self._line:
            self._line.popleft()[1].let_go()


class Insistence:
    """A connection whose last answer was a refusal.

    What was refused, and comes again, waits; and all that comes, if more than one
    request in a row has been refused.
    """

    def __init__(self, connection: HTTP1Connection) -> None:
        self._connection = connection
        self._count = 0  # of refusals, one after the other
        self._request: Request
        self._refusal: Refusal
        self._is_held = False
        self._kept = b""  # what has come meanwhile

    def note(self, request: Request, refusal: Refusal) -> None:
        """Note what was refused."""
        self._count += 1
        self._request, self._refusal = request, refusal

    def keeps(self, data: bytes) -> bool:
        """Keep what has come for a while; return False if it is to be taken at once."""
        if not self._is_held:
            is_same = data == self._request.head.raw
            if not self._connection.may_go_on or not (is_same or self._count > 1):
                return False
            self._is_held = True
            self._connection.server.waiting.add(self)
        self._kept += data
        if len(self._kept) > MAX_KEPT_BYTES:
            self._connection.pause_reading()
        return True

    def let_go(self) -> None:
        """Take what was kept; answer it at once if it is refused again."""
        if not self._is_held:
            return
        self._is_held = False
        data, self._kept = self._kept, b""
        connection, request = self._connection, self._request
        if not connection.may_go_on:
            return  # it has ended
        connection.resume_reading()
        if data == request.head.raw and request.source is None:
            again = self._refusal.again
            refusal = None if again is None else again()
            if refusal is not None:
                # PERF: no head is parsed, and no Request made: half of the time.
                refusal.again = again
                connection.refuse_again(request, refusal)
                return
        connection.take(data)
