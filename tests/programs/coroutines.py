"""Handlers that use what asyncio, anyio, httpx and contextvars offer to a coroutine."""

from __future__ import annotations

import asyncio
import sys
from contextvars import ContextVar
from typing import Any, List

from pixie_web import RouteType, app, compress, route

user: ContextVar[str] = ContextVar("user", default="nobody")
flags: List[str] = []
seen: List[Any] = []


def note(text: str) -> None:
    """Write a line into the log of the test."""
    sys.stderr.write(f"note: {text}\n")
    sys.stderr.flush()


# asyncio ------------------------------------------------------------------------------


@route("/timeout", RouteType.asnc)
async def timeout(env):
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    except TimeoutError:
        return "timed out"


@route("/timeout_unmet", RouteType.asnc)
async def timeout_unmet(env):
    async with asyncio.timeout(60):
        pass
    async with asyncio.timeout(60):
        await asyncio.sleep(0)
    return "in time"


@route("/timeout_uncaught", RouteType.asnc)
async def timeout_uncaught(env):
    async with asyncio.timeout(0.01):
        await asyncio.sleep(60)


@route("/task_group", RouteType.asnc)
async def task_group(env):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0.001, number)) for number in range(3)]
    return [task.result() for task in tasks]


@route("/task_group_fails", RouteType.asnc)
async def task_group_fails(env):
    async def fail():
        await asyncio.sleep(0)
        raise ValueError("one of the group")

    try:
        async with asyncio.TaskGroup() as group:
            other = group.create_task(asyncio.sleep(60))
            group.create_task(fail())
    except Exception as group_error:
        return [type(group_error).__name__, other.cancelled()]


@route("/wait_for", RouteType.asnc)
async def wait_for(env):
    try:
        await asyncio.wait_for(asyncio.sleep(60), 0.01)
    except asyncio.TimeoutError:
        return await asyncio.wait_for(asyncio.sleep(0.001, "in time"), 60)


@route("/wait_for_done", RouteType.asnc)
async def wait_for_done(env):
    done = asyncio.get_running_loop().create_future()
    done.set_result("done")
    return await asyncio.wait_for(done, 60)


@route("/gather", RouteType.asnc)
async def gather(env):
    return await asyncio.gather(*(asyncio.sleep(0, number) for number in range(3)))


@route("/executor", RouteType.asnc)
async def executor(env):
    return await asyncio.get_running_loop().run_in_executor(None, str, 5)


@route("/cancelled_child", RouteType.asnc)
async def cancelled_child(env):
    child = asyncio.ensure_future(asyncio.sleep(60))
    asyncio.get_running_loop().call_soon(child.cancel)
    await child


@route("/cancels_itself", RouteType.asnc)
async def cancels_itself(env):
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


# One task -----------------------------------------------------------------------------


@route("/task", RouteType.asnc)
async def task(env):
    tasks = [asyncio.current_task()]
    await asyncio.sleep(0)
    tasks.append(asyncio.current_task())
    await asyncio.sleep(0.001)
    tasks.append(asyncio.current_task())
    return [len(set(tasks)), tasks[0] is not None]


@route("/task_of_stream", RouteType.asnc)
async def task_of_stream(env):
    first = asyncio.current_task()
    yield f"{first is not None} "
    for _ in range(3):
        yield f"{asyncio.current_task() is first} "
        await asyncio.sleep(0.001)
    yield f"{asyncio.current_task() is first}"


@route("/tasks_differ", RouteType.asnc)
async def tasks_differ(env):
    seen.append(asyncio.current_task())
    return str(len(set(seen)) == len(seen))


async def in_a_task(*_):
    before_waiting = asyncio.current_task()
    assert before_waiting is not None
    await asyncio.wait_for(asyncio.sleep(0.001), 60)
    assert asyncio.current_task() is before_waiting


async def never_waits(*_):
    assert asyncio.current_task() is not None


@route(
    "/triggers", "sync", before=[never_waits, in_a_task], after=[never_waits, in_a_task]
)
def triggers(env):
    return "triggered"


@app.on_start
async def at_start():
    await in_a_task()
    note("on_start ran in a task")


# ContextVars --------------------------------------------------------------------------


def set_user(env: Any) -> str:
    """Set the variable and return what it was: "nobody", if nothing has leaked."""
    was = user.get()
    user.set("somebody")
    return was


async def set_user_on_loop(env):
    assert user.get() == "nobody", user.get()
    user.set("trigger")


@route("/var/sync", RouteType.sync)
@route("/var/thread", RouteType.thread)
@route("/var/pool", RouteType.pool)
def var(env):
    return set_user(env)


@route("/var/asnc", RouteType.asnc)
async def var_async(env):
    was = set_user(env)
    await asyncio.sleep(0)
    assert user.get() == "somebody"
    return was


@route("/var/eager", RouteType.asnc)
async def var_eager(env):
    return set_user(env)


@route("/var/sync_stream", RouteType.sync)
@route("/var/thread_stream", RouteType.thread)
@route("/var/stream", RouteType.stream)
def var_stream(env):
    was = user.get()
    token = user.set("somebody")
    yield was
    assert user.get() == "somebody"
    yield " "
    user.reset(token)
    user.set("kept")
    yield was


@route("/var/asnc_stream", RouteType.asnc)
async def var_async_stream(env):
    was = user.get()
    token = user.set("somebody")
    yield was
    await asyncio.sleep(0)
    assert user.get() == "somebody"
    yield " "
    user.reset(token)
    user.set("kept")
    yield was


@route("/var/triggers", "sync", before=[set_user_on_loop])
def var_triggers(env):
    return set_user(env)


@route("/reset", RouteType.asnc)
async def reset(env):
    token = user.set("one")
    await asyncio.sleep(0.001)
    seen = [user.get()]
    user.reset(token)
    await asyncio.sleep(0)
    return [*seen, user.get()]


@route("/inherited", RouteType.asnc)
async def inherited(env):
    async def child():
        seen = user.get()
        user.set("child")
        return seen

    user.set("parent")
    return [await asyncio.ensure_future(child()), user.get()]


# Eager --------------------------------------------------------------------------------


@route("/eager", RouteType.asnc)
async def eager(env):
    turned = len(flags)
    asyncio.get_running_loop().call_soon(flags.append, "turn")
    return str(turned)


# Deadlines and clients that leave -----------------------------------------------------


@route("/too_slow", RouteType.asnc, timeout=0.1)
async def too_slow(env):
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.01)
        note("too_slow ended")


@route("/too_slow_stream", RouteType.asnc, timeout=0.1)
async def too_slow_stream(env):
    try:
        yield "one"
        await asyncio.sleep(60)
        yield "two"
    finally:
        note("too_slow_stream ended")


@route("/too_slow_first", RouteType.asnc, timeout=0.1)
async def too_slow_first(env):
    try:
        await asyncio.sleep(60)
        yield "one"
    finally:
        note("too_slow_first ended")


@route("/stubborn", RouteType.asnc, timeout=0.1)
async def stubborn(env):
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        note("stubborn goes on")
    return "too late"


@route("/stubborn_stream", RouteType.asnc, timeout=0.1)
async def stubborn_stream(env):
    try:
        yield "one"
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            note("stubborn_stream goes on")
        yield "two"
        yield "three"
    finally:
        note("stubborn_stream ended")


@route("/stops", RouteType.asnc, on_disconnect="stop")
async def stops(env):
    note("stops began")
    try:
        await asyncio.sleep(60)
    finally:
        note("stops ended")


@route("/finishes", RouteType.asnc)
async def finishes(env):
    note("finishes began")
    while not env.disconnected:
        await asyncio.sleep(0.001)
    note("finishes ended")
    return "done"


@route("/endless", RouteType.asnc)
async def endless(env):
    try:
        while True:
            yield "x" * 65_536
    finally:
        await asyncio.sleep(0)
        note("endless ended")


@route("/ticks", RouteType.asnc)
async def ticks(env):
    try:
        while True:
            yield "tick"
            await asyncio.sleep(0.001)
    finally:
        note("ticks ended")


@route("/waits", RouteType.asnc)
async def waits(env):
    try:
        yield "one"
        await asyncio.sleep(60)
    finally:
        note("waits ended")


@route("/fails_while_closed", RouteType.asnc)
async def fails_while_closed(env):
    try:
        while True:
            yield "x" * 65_536
    finally:
        raise OSError("while it was closed")


@route("/thread_fails_while_closed", RouteType.thread)
def thread_fails_while_closed(env):
    try:
        while True:
            yield "x" * 65_536
    finally:
        raise OSError("in a thread, while it was closed")


# A yield inside a scope ---------------------------------------------------------------


@route("/yield_in_timeout", RouteType.asnc)
async def yield_in_timeout(env):
    try:
        async with asyncio.timeout(0.05):
            yield "one "
            await asyncio.sleep(60)
            yield "never"
    except TimeoutError:
        yield "late"


@route("/yield_in_timeout_slowly", RouteType.asnc)
async def yield_in_timeout_slowly(env):
    sent = 0
    try:
        async with asyncio.timeout(0.2):
            while True:
                yield "x" * 65_536
                sent += 1
    except TimeoutError:
        note("it timed out at its yield")
        yield f" late {asyncio.current_task().cancelling()}"


@route("/yield_in_timeout_uncaught", RouteType.asnc)
async def yield_in_timeout_uncaught(env):
    async with asyncio.timeout(0.2):
        while True:
            yield "x" * 65_536


@route("/yield_in_task_group", RouteType.asnc)
async def yield_in_task_group(env):
    queue: asyncio.Queue[int] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(queue.put(number))
        for _ in range(3):
            yield str(await queue.get())


@route("/cancels_itself_at_yield", RouteType.asnc)
async def cancels_itself_at_yield(env):
    yield "one"
    asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
    yield "two"
    await asyncio.sleep(60)


# The first piece may not have been taken yet when its generator is cancelled there.


def cancel_soon():
    asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)


@route("/cancelled_at_its_first_yield", RouteType.asnc, after=[compress])
async def cancelled_at_its_first_yield(env):
    try:
        cancel_soon()
        yield "one "
    except asyncio.CancelledError:
        yield "late"


@route("/cancelled_twice", RouteType.asnc, after=[compress])
async def cancelled_twice(env):
    for number in range(2):
        try:
            cancel_soon()
            yield f"{number} "
        except asyncio.CancelledError:
            pass
    yield "late"


@route("/ends_at_its_first_yield", RouteType.asnc, after=[compress])
async def ends_at_its_first_yield(env):
    try:
        cancel_soon()
        yield "one"
    except asyncio.CancelledError:
        return


# anyio and httpx ----------------------------------------------------------------------


@route("/anyio_group", RouteType.asnc)
async def anyio_group(env):
    import anyio

    found, turns = [], [anyio.Event() for _ in range(4)]
    turns[0].set()

    # Each waits for the one before it: timers of uvloop, which knows milliseconds only,
    # are equal where they lie a millisecond apart, and come in the order they were set.
    async def add(number):
        await turns[number].wait()
        await anyio.sleep(0.001)
        found.append(number)
        turns[number + 1].set()

    async with anyio.create_task_group() as group:
        for number in (2, 0, 1):
            group.start_soon(add, number)
    return found


@route("/anyio_move_on", RouteType.asnc)
async def anyio_move_on(env):
    import anyio

    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep(60)
    return [scope.cancel_called, await anyio.to_thread.run_sync(str, 5)]


@route("/anyio_fail_after", RouteType.asnc)
async def anyio_fail_after(env):
    import anyio

    try:
        with anyio.fail_after(0.01):
            await anyio.sleep(60)
    except TimeoutError:
        return "failed in time"


@route("/anyio_yield", RouteType.asnc)
async def anyio_yield(env):
    import anyio

    with anyio.move_on_after(0.05):
        yield "one "
        await anyio.sleep(60)
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0.001)
        yield "two"


@route("/httpx", RouteType.asnc)
async def httpx_client(env):
    import httpx

    base = f"http://{env.host}"
    async with httpx.AsyncClient(base_url=base, timeout=30, trust_env=False) as client:
        answers = [await client.get(path) for path in ("/reset", "/var/pool")]
        answers += await asyncio.gather(client.get("/task"), client.get("/var/stream"))
        async with client.stream("GET", "/task_of_stream") as stream:
            chunks = [chunk async for chunk in stream.aiter_text()]
    return [[answer.status_code, answer.text] for answer in answers] + ["".join(chunks)]


if __name__ == "__main__":
    app.run()
