"""Clients that repeat their requests to a busy server.

If many clients ask again as soon as they are refused, main has no time left for the
other clients. So a repeated request is looked at after a pause, and the same request
with the same answer costs half as much as another one. The number of repeated
refusals in a second is limited: the more clients, the longer the pause, up to one
second, which `Retry-After` names at least. The pause delays no other request: if more
bytes come behind such a request, or a worker is free, it is looked at.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Deque, Optional, Tuple

from ..requests import Request
from ..responses import Refusal

if TYPE_CHECKING:
    from .http1 import HTTP1Connection

PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 1.0
TICK_SECONDS = 0.005
# PERF: for 4 % of a CPU. Where all were refused again after 50 ms, 2,000 clients took
# so much of it that a route of 5 ms on the same CPU kept 30 % of its rate.
REFUSALS_PER_SECOND = 2_000
MAX_KEPT_BYTES = 16 * 1024  # of what comes meanwhile; more is left to the kernel


class Waiting:
    """The connections whose clients wait a little; one timer for all of them."""

    def __init__(self) -> None:
        # Those who repeat what has been refused, and those who may want something else.
        self._repeating: Deque[Tuple[float, Insistence]] = deque()
        self._others: Deque[Tuple[float, Insistence]] = deque()
        self._last = 0.0  # when the last of the former is due
        self._timer: Optional[asyncio.TimerHandle] = None

    def add(self, insistence: Insistence, is_repeating: bool) -> None:
        """Let one go after the pause."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if is_repeating:
            due = max(now + PAUSE_SECONDS, self._last + 1 / REFUSALS_PER_SECOND)
            self._last = min(due, now + MAX_PAUSE_SECONDS)
            self._repeating.append((self._last, insistence))
        else:
            self._others.append((now + PAUSE_SECONDS, insistence))
        if self._timer is None:
            self._timer = loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        # Those who are due before the next tick go now: the pause is a bound.
        until = loop.time() + TICK_SECONDS
        while self._others and self._others[0][0] <= until:
            self._others.popleft()[1].let_go()
        while self._repeating:
            due, first = self._repeating[0]
            if due > until and not first.may_be_served():
                break
            self._repeating.popleft()
            first.let_go()
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

    def may_be_served(self) -> bool:
        """Return whether what was refused would be taken now."""
        again = self._refusal.again
        return not self._is_held or (again is not None and again(False) is None)

    def let_go(self) -> None:
        """Take what was kept; if that is the same, it may be refused the short way."""
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
            refusal = None if again is None else again(True)
            if refusal is not None:
                # PERF: no head is parsed, and no Request made: half of the time.
                refusal.again = again
                connection.refuse_again(request, refusal)
                return
        connection.take(data)
