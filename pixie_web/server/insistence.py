"""Clients that keep asking who is too busy.

Many of them, each asking again as soon as it is refused, would take all of the time
that main needs for those who are not refused. So whoever asks again is looked at
after a pause, and the same request with the same answer costs half of another one.
Only so many are refused again in a second: the more they are, the longer the pause, up
to the second that `Retry-After` says at least. That delays nobody else: should anything
come behind such a request, or the pool have room again, it is looked at.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Deque, Optional, Tuple

from ..requests import Request
from ..responses import Refusal

if TYPE_CHECKING:
    from .connection import Connection

PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 1.0
TICK_SECONDS = 0.005
# PERF: refusals in a tick, for 4 % of a CPU: where all who are due were refused, 2,000
# clients that ask again took so much that a route of 5 ms on the same CPU kept 30 %.
MAX_REFUSALS = 10
MAX_KEPT_BYTES = 16 * 1024  # of what comes meanwhile; more is left to the kernel


class Waiting:
    """The connections whose clients wait a little; one timer for all of them."""

    def __init__(self) -> None:
        # Those who repeat what has been refused, and those who may want something else.
        self._repeating: Deque[Tuple[float, Insistence]] = deque()
        self._others: Deque[Tuple[float, Insistence]] = deque()
        self._timer: Optional[asyncio.TimerHandle] = None

    def add(self, insistence: Insistence, is_repeating: bool) -> None:
        """Let one go after the pause."""
        loop = asyncio.get_running_loop()
        line = self._repeating if is_repeating else self._others
        line.append((loop.time() + PAUSE_SECONDS, insistence))
        if self._timer is None:
            self._timer = loop.call_later(PAUSE_SECONDS, self._tick)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        # Those who are due before the next tick go now: the pause is a bound.
        until = loop.time() + TICK_SECONDS
        while self._others and self._others[0][0] <= until:
            self._others.popleft()[1].let_go()
        left = max(MAX_REFUSALS, int(len(self._repeating) * TICK_SECONDS))
        while self._repeating and self._repeating[0][0] <= until:
            if left <= 0 and self._repeating[0][0] > until - MAX_PAUSE_SECONDS:
                break
            left -= self._repeating.popleft()[1].let_go()
        self._timer = None
        if self._repeating or self._others:
            self._timer = loop.call_later(TICK_SECONDS, self._tick)

    def let_all_go(self) -> None:
        """Let all of them go at once: the server ends."""
        for line in (self._repeating, self._others):
            while line:
                line.popleft()[1].let_go()


class Insistence:
    """A connection whose last answer was a refusal.

    What was refused, and comes again, waits; and all that comes, if more than one
    request in a row has been refused.
    """

    def __init__(self, connection: Connection) -> None:
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
        is_same = data == self._request.head.raw and not self._is_held
        may_wait = self._connection.may_go_on and (is_same or self._count > 1)
        if not self._is_held and not may_wait:
            return False
        waiting = self._connection.server.waiting
        if not self._is_held:
            self._is_held = True
            waiting.add(self, is_same)
        elif self._kept == self._request.head.raw:
            waiting.add(self, False)  # what comes behind it has its own pause
        self._kept += data
        if len(self._kept) > MAX_KEPT_BYTES:
            self._connection.pause_reading()
        return True

    def let_go(self) -> bool:
        """Take what was kept; return whether it was the same, and was refused again."""
        if not self._is_held:
            return False
        self._is_held = False
        data, self._kept = self._kept, b""
        connection, request = self._connection, self._request
        if not connection.may_go_on:
            return False  # it has ended
        connection.resume_reading()
        if data == request.head.raw and request.source is None:
            again = self._refusal.again
            refusal = None if again is None else again()
            if refusal is not None:
                # PERF: no head is parsed, and no Request made: half of the time.
                refusal.again = again
                connection.refuse_again(request, refusal)
                self.note(request, refusal)
                return True
        connection.take(data)
        return False
