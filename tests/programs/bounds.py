"""Routes with a limit, a timeout and a queue_timeout, in the main process."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

from pixie_web import app, route

open_gate = threading.Event()


def note(text: str) -> None:
    sys.stderr.write(f"note: {text}\n")
    sys.stderr.flush()


@route("/open", "sync")
def open_it(env):
    open_gate.set()
    return "open"


@route("/close", "sync")
def close_it(env):
    open_gate.clear()
    return "closed"


def hold(env):
    """Run until somebody opens the gate."""
    note(f"{env.path} began")
    open_gate.wait(30)
    return "held"


async def hold_async(env):
    note(f"{env.path} began")
    while not open_gate.is_set():
        await asyncio.sleep(0.001)
    return "held"


def hold_stream(env):
    yield "first "
    yield hold(env)


async def hold_async_stream(env):
    yield "first "
    yield await hold_async(env)


async def stubborn(env):
    """Go on when cancelled."""
    note(f"{env.path} began")
    while not open_gate.is_set():
        try:
            await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            pass
    return "held"


ONE = {"limit": 1, "queue_timeout": 30}
IMPATIENT = {"limit": 1, "queue_timeout": 0.1}
LATE = {"limit": 1, "timeout": 0.1, "queue_timeout": 0.1}
route("/thread/one", "thread", **ONE)(hold)
route("/thread/stream", "thread", **ONE)(hold_stream)
route("/thread/impatient", "thread", **IMPATIENT)(hold)
route("/thread/late", "thread", **LATE)(hold)
route("/thread/free", "thread")(hold)
route("/asnc/one", "asnc", **ONE)(hold_async)
route("/asnc/stream", "asnc", **ONE)(hold_async_stream)
route("/asnc/impatient", "asnc", **IMPATIENT)(hold_async)
route("/asnc/late", "asnc", **LATE)(stubborn)


@route("/quick", "thread")
def quick(env):
    return "quick"


@route("/slow_stream", "thread", timeout=0.2)
def slow_stream(env):
    yield "one"
    time.sleep(0.6)
    yield "two"


if __name__ == "__main__":
    app.run()
