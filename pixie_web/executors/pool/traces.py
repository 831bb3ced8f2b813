"""The traceback that a worker writes before it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from typing import Callable, Optional

TRACE_SECONDS = 1.0  # at most, for writing where a worker hangs, before it is killed
TRACE_LOOK_SECONDS = 0.02  # from one look at that to the next
MAX_TRACE_BYTES = 65_536  # that are read


class Trace:
    """The file of a worker's tracebacks, which its C code writes: `faulthandler`.

    Args:
        descriptor: of the file, which the worker has open too.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._timer: Optional[asyncio.TimerHandle] = None
        self._text: Optional[str] = None  # of a file that is closed

    @property
    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self) -> str:
        """Return what the worker has written."""
        if self._text is not None:
            return self._text
        data = os.pread(self._descriptor, MAX_TRACE_BYTES, 0)
        return data.decode("utf-8", "replace").rstrip()

    async def read_late(self, order: Callable[[int], None]) -> str:
        """Return where a worker was at its deadline, which it is about to write.

        Python writes it, unless it hangs in C code: that is asked then, by a signal.

        Args:
            order: sends it a signal.
        """
        text, before = self.read(), ""
        looks = int(TRACE_SECONDS / TRACE_LOOK_SECONDS)
        for look in range(looks):
            if (text and text == before) or self._text is not None:
                break
            if not text and look == looks // 2:
                order(signal.SIGUSR1)
            await asyncio.sleep(TRACE_LOOK_SECONDS)
            text, before = self.read(), text
        return text

    def ask_and_kill(self, order: Callable[[int], None]) -> None:
        """Have the worker write where it hangs, and kill it a moment later.

        Args:
            order: sends it a signal.
        """
        size = self._size  # of where it was at its deadline
        order(signal.SIGUSR1)
        self._await(order, size, size, TRACE_SECONDS)

    def _await(
        self, order: Callable[[int], None], first: int, size: int, left: float
    ) -> None:
        found = self._size
        if first < found == size or left <= 0:
            order(signal.SIGKILL)
            return
        look = partial(self._await, order, first, found, left - TRACE_LOOK_SECONDS)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(TRACE_LOOK_SECONDS, look)

    def stop_waiting(self) -> None:
        """Note that the worker is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def take(self) -> str:
        """Return what the worker wrote when it was killed, and close the file."""
        self._text = self.read()
        os.close(self._descriptor)
        return f"; it was at:\n{self._text}" if self._text else ""
