"""A loop whose clock jumps, so that bounds of a minute are tested to the second.

    @in_virtual_time
    async def test_what_waits_too_long_is_refused() -> None:
        ...
        await asyncio.sleep(30)  # takes no time, and 30 seconds to the second

When nothing is ready, the clock is put forward to the next timer. So all that happens
must be made by the test itself, in its own thread, by pipes and unix sockets: those
deliver at once. Threads, other processes and TCP are not waited for.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import Any, Awaitable, Callable, List, Optional, Tuple, TypeVar
from unittest import mock

T = TypeVar("T")


class Clock:
    """What `time.monotonic` is meanwhile."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class JumpingSelector(selectors.DefaultSelector):
    """Reports what is ready, and else lets the time pass that it was to wait."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(
        self, timeout: Optional[float] = None
    ) -> List[Tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing is left that could happen"
            self._clock.now += max(0.0, timeout)
        return ready


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def in_virtual_time(
    scenario: Callable[..., Awaitable[T]],
) -> Callable[..., T]:
    """Make a test of a coroutine: it runs on a loop of its own whose clock jumps."""

    @functools.wraps(scenario)
    def test(*args: Any, **kwargs: Any) -> T:
        clock = Clock()
        with mock.patch("time.monotonic", clock):
            loop = asyncio.SelectorEventLoop(JumpingSelector(clock))
            try:
                return loop.run_until_complete(scenario(*args, **kwargs))
            finally:
                loop.run_until_complete(_cancel_others())
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()

    return test


async def quiet() -> None:
    """Let all happen that can happen at this moment: then only does time pass."""
    await asyncio.sleep(1e-6)


def seconds() -> float:
    """Return the time of the running loop."""
    return asyncio.get_running_loop().time()
