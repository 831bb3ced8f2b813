"""Rows of an `asnc` stream that are made ahead, and those that are not."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Awaitable, Callable, List

import pytest

from pixie_web.executors import local
from pixie_web.executors.base import Resources, Route, RouteType
from pixie_web.executors.local import MAX_AHEAD, MAX_AHEAD_BYTES, TaskExecutor
from pixie_web.executors.streams import Chunks
from pixie_web.protocol.http11 import Head
from pixie_web.requests import Disconnect, Request
from pixie_web.responses import Response

Make = Callable[[List[Any]], AsyncIterator[bytes]]


class Clock:
    """Stands still, but for what a generator says that it takes."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(local, "time", made)
    return made


async def begin(make: Make, notes: List[Any]) -> Any:
    """Return the stream of a handler, as the server has it."""

    async def answer(route: Route, request: Request) -> Response:
        rows = make(notes)
        first = await rows.__anext__()
        return Response.from_block(200, b"", Chunks(first, rows))

    async def handler(env: Request) -> None:
        pass

    route = Route("/", ("GET",), handler, RouteType.asnc)
    head = Head()
    head.host, head.raw = "a", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    request = Request(head, disconnect=Disconnect())
    executor = TaskExecutor(Resources(lambda *_: Response(), answer))
    outcome = executor.begin(route, request)
    response = await outcome if isinstance(outcome, Awaitable) else outcome
    return response.body


def run(work: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await work

    return asyncio.run(main())


async def ones(notes: List[Any], size: int = 1) -> AsyncIterator[bytes]:
    try:
        while True:
            notes.append("made")
            yield b"x" * size
    finally:
        notes.append("closed")


def test_the_first_rows_leave_one_by_one_and_then_some_together(clock: Clock) -> None:
    async def work() -> None:
        notes: List[Any] = []
        rows = await begin(ones, notes)
        sizes = [len(await rows.__anext__()) for _ in range(6)]
        assert sizes == [1, 1, 1, MAX_AHEAD, 1, MAX_AHEAD]
        assert len(notes) <= sum(sizes) + MAX_AHEAD
        await rows.aclose()
        await rows._task
        assert notes[-1] == "closed"

    run(work())


def test_no_more_is_made_ahead_than_fits(clock: Clock) -> None:
    async def work() -> None:
        for size in (MAX_AHEAD_BYTES // 4, MAX_AHEAD_BYTES, MAX_AHEAD_BYTES * 3):
            notes: List[Any] = []
            rows = await begin(lambda notes, size=size: ones(notes, size), notes)
            for _ in range(20):
                before = len(notes)
                assert len(await rows.__anext__()) <= MAX_AHEAD_BYTES + size
                for _ in range(5):
                    await asyncio.sleep(0)
                # One that was asked for, and those ahead.
                assert len(notes) - before <= 1 + max(1, MAX_AHEAD_BYTES // size)
            await rows.aclose()
            await rows._task

    run(work())


def test_nothing_waits_for_a_row_that_takes_its_time(clock: Clock) -> None:
    async def slow(notes: List[Any]) -> AsyncIterator[bytes]:
        for number in range(100):
            notes.append(number)
            clock.now += 0.001
            yield b"%d " % number

    async def work() -> None:
        notes: List[Any] = []
        rows = await begin(slow, notes)
        for number in range(100):
            assert await rows.__anext__() == b"%d " % number
            await asyncio.sleep(0)
            assert notes[-1] == number  # the next one is not begun
        with pytest.raises(StopAsyncIteration):
            await rows.__anext__()

    run(work())


def test_rows_ahead_of_an_error_are_given_first(clock: Clock) -> None:
    async def fails(notes: List[Any]) -> AsyncIterator[bytes]:
        for number in range(10):
            yield b"%d" % number
        raise KeyError("the eleventh")

    async def work() -> None:
        rows = await begin(fails, [])
        given = b""
        while len(given) < 10:
            given += await rows.__anext__()
        assert given == b"0123456789"
        with pytest.raises(KeyError, match="the eleventh"):
            await rows.__anext__()

    run(work())


def test_a_stream_that_is_closed_makes_no_more(clock: Clock) -> None:
    async def work() -> None:
        notes: List[Any] = []
        rows = await begin(ones, notes)
        for _ in range(4):
            await rows.__anext__()
        await rows.aclose()
        made = len(notes)
        await rows._task
        assert notes[made:] == ["closed"]

    run(work())
