"""Event loops: which one, its end, and one in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Coroutine, cast

from .about import log
from .datastructures import T
from .errors import MissingExtra
from .executors.pool.links import STOP_SECONDS


def new_loop(wanted: str) -> asyncio.AbstractEventLoop:
    """Return a new event loop: "uvloop", "asyncio", or "auto", the best there is.

    Raises:
        MissingExtra: uvloop is wanted, and not installed.
    """
    if wanted != "asyncio":
        try:
            import uvloop

            return cast(asyncio.AbstractEventLoop, uvloop.new_event_loop())
        except ImportError:
            if wanted == "uvloop":
                raise MissingExtra('loop="uvloop" needs: pip install uvloop') from None
    return asyncio.new_event_loop()


async def cancel_tasks() -> None:
    """Cancel what is still running, and give it a moment for its `finally`.

    The same for async generators that a program has left half way.
    """
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_SECONDS)
    closing = asyncio.get_running_loop().shutdown_asyncgens()
    try:
        await asyncio.wait_for(closing, STOP_SECONDS)
    except asyncio.TimeoutError:
        log.error("async generators did not end when they were closed")


class LoopThread:
    """A loop that runs in a thread of its own, for callers in other threads.

    Args:
        wanted: as `new_loop` takes it.
    """

    def __init__(self, wanted: str) -> None:
        self.loop = new_loop(wanted)
        self._thread = threading.Thread(
            target=self._run, name="pixie_web loop", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there, and return what it returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def close(self) -> None:
        """Cancel what still runs there, and end loop and thread."""
        self.call(cancel_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
