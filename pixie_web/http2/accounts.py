"""What a client has used up of a connection: allowances, windows, ended streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict

from . import budgets
from .budgets import Allowance
from .frames import Code, ConnectionFault

if TYPE_CHECKING:
    from .connection import HTTP2Connection
    from .stream import Stream

# What is remembered of a stream that has ended, beside the window of one that we reset.
ENDED, LEFT = -1, -2


class Accounts:
    """The accounts of one connection.

    Attributes:
        control: what the client may send beside requests and bodies.
    """

    def __init__(self, connection: HTTP2Connection) -> None:
        self._connection = connection
        self.control = Allowance(
            budgets.MAX_CONTROL_FRAMES, budgets.CONTROL_FRAMES_PER_SECOND
        )
        self._resets = Allowance(budgets.MAX_RESETS, budgets.RESETS_PER_SECOND)
        self._window = budgets.CONNECTION_WINDOW_BYTES
        self._unreturned = 0
        self._empty_frames = self._small_frames = 0
        self._closed: Dict[int, int] = {}

    def _count_control(self, count: float = 1.0) -> None:
        if not self.control.spend(self._connection.server.loop.time(), count):
            text = "too many frames that carry nothing"
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, text)

    def count_reset(self) -> None:
        """Count a stream that ended before its answer, whoever ended it.

        Raises:
            ConnectionFault: they are too many.
        """
        if not self._resets.spend(self._connection.server.loop.time()):
            text = "too many streams were reset"
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, text)

    def give_back(self, size: int) -> None:
        """Let the client send so much again on the connection."""
        self._unreturned += size
        if self._unreturned >= budgets.CONNECTION_WINDOW_BYTES // 2:
            self._window += self._unreturned
            self._connection.send_window(0, self._unreturned)
            self._unreturned = 0

    def remember(self, stream: Stream) -> None:
        """Remember how a stream ended, for frames that are on their way."""
        window = LEFT if stream.was_left else ENDED
        if stream.is_reset and not stream.was_left:
            window = stream.body_window
        self._remember(stream.number, window)

    def _remember(self, number: int, window: int) -> None:
        self._closed[number] = window
        if len(self._closed) > budgets.MAX_REMEMBERED_STREAMS:
            del self._closed[next(iter(self._closed))]

    def goes_on(self, number: int) -> bool:
        """Return whether the client may go on with a request that we have ended."""
        return self._closed.get(number, ENDED) >= 0

    def _check_window(self, left: int) -> None:
        if left < 0:
            text = "more DATA than the window of a stream that was reset"
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, text)

    def _count_data(self, size: int, is_last: bool) -> None:
        if size == 0 and not is_last:
            self._empty_frames += 1
        elif size:
            self._empty_frames = 0
        self._small_frames += 1 - size // budgets.SMALL_DATA_BYTES
        self._small_frames = max(0, self._small_frames)
        if (
            self._empty_frames > budgets.MAX_EMPTY_DATA_FRAMES
            or self._small_frames > budgets.MAX_SMALL_DATA_FRAMES
        ):
            text = "too many frames of DATA with nothing in them"
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, text)
