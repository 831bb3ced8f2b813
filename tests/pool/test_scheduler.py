"""The pool's bookkeeping, with workers that the test plays.

Each test says what workers, the zygote and clients do, one event after the other, and
in which order main learns of it. The clock jumps, so bounds are tested to the second.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import sys
import threading
import time
from functools import partial
from typing import Any, Callable, Dict, List, Tuple

import pytest
from played_workers import PlayedWorker, Stage, application, played
from virtual_time import in_virtual_time, quiet, seconds

from pixie_web import ClientDisconnected, HTTPError, PixieError, Request, Response
from pixie_web.executors.pool import recycling
from pixie_web.executors.pool.frames import (
    FRAME,
    RESULT,
    Flag,
    FrameType,
    PoolOptions,
    cpu_count,
)
from pixie_web.executors.pool.links import GATHER_SECONDS, STREAM_BUFFER_BYTES
from pixie_web.executors.pool.pool import Pool
from pixie_web.executors.pool.zygote import EXITED
from pixie_web.protocol.http11 import parse_head
from pixie_web.requests import Disconnect

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches pipes")

EXIT_1 = 1 << 8  # as os.waitpid says it
FULL_PIPE_BYTES = 60_000  # fits into an empty pipe, beside a frame without payload
NOTHING = {"busy": 0, "streams": 0, "waiting": 0}


# Slots --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/pool", "/stream"])
@in_virtual_time
async def test_who_leaves_while_its_worker_boots_gives_its_slot_to_the_next(
    path: str,
) -> None:
    async with played(workers=1, max_streams=1) as stage:
        first, disconnect = stage.ask_and_leave(path)
        second = stage.ask(path)
        await quiet()
        assert stage.counts["busy"] + stage.counts["streams"] == 1
        disconnect.set()
        with pytest.raises(ClientDisconnected):
            await first
        worker = stage.worker()
        worker.ready()
        await quiet()
        assert [job.number for job in worker.jobs] == [2]
        worker.respond(b"second")
        assert (await second).body == b"second"
        assert stage.counts == NOTHING


@in_virtual_time
async def test_who_leaves_while_it_waits_is_taken_out_of_the_queue() -> None:
    async with played() as stage:
        stage.ask("/pool")
        (worker,) = await stage.booted(1)
        left, disconnect = stage.ask_and_leave("/other")
        third = stage.ask("/pool")
        await quiet()
        assert stage.counts == {"busy": 1, "streams": 0, "waiting": 2}
        disconnect.set()
        with pytest.raises(ClientDisconnected):
            await left
        assert stage.counts == {"busy": 1, "streams": 0, "waiting": 1}
        worker.respond()
        await quiet()
        assert [job.number for job in worker.jobs] == [1, 3]
        worker.respond(b"third")
        assert (await third).body == b"third"
        assert stage.counts == NOTHING


@in_virtual_time
async def test_streams_have_slots_of_their_own() -> None:
    async with played(workers=1, max_streams=2) as stage:
        for path in ("/pool", "/pool", "/stream", "/stream", "/stream"):
            stage.ask(path)
        await quiet()
        assert stage.counts == {"busy": 1, "streams": 2, "waiting": 5}
        assert len(stage.workers) == 3
        await stage.booted(3)
        assert stage.counts == {"busy": 1, "streams": 2, "waiting": 2}
        assert [len(worker.jobs) for worker in stage.workers] == [1, 1, 1]


@in_virtual_time
async def test_a_stream_gets_the_worker_that_is_free_again_before_one_was_started() -> (
    None
):
    async with played(workers=1) as stage:
        stage.ask("/pool")
        (worker,) = await stage.booted(1)
        worker.respond()  # main has not read it when the stream comes
        asked = stage.ask("/stream")
        await quiet()
        assert len(stage.workers) == 1
        assert [job.number for job in worker.jobs] == [1, 2]
        worker.begin()
        worker.finish()
        assert (await asked).status == 200


@in_virtual_time
async def test_by_default_there_are_four_streams_for_each_worker() -> None:
    async with played(workers=2) as stage:
        stats = stage.pool.stats()
        assert (stats["size"], stats["max_streams"]) == (2, 8)
    async with played(workers=2, max_streams=0) as stage:
        assert stage.pool.stats()["max_streams"] == 0
        stage.ask("/stream")
        await quiet()
        assert stage.counts == {"busy": 0, "streams": 0, "waiting": 1}


@in_virtual_time
async def test_a_pool_route_that_streams_gives_its_slot_to_the_next() -> None:
    async with played() as stage:
        first = stage.ask("/pool")
        stage.ask("/other")
        (worker,) = await stage.booted(1)
        worker.begin()
        await quiet()
        assert stage.counts == {"busy": 1, "streams": 1, "waiting": 1}
        other = stage.worker()  # which it is to wait for
        assert other is not worker
        other.ready()
        await quiet()
        assert [len(one.jobs) for one in stage.workers] == [1, 1]
        worker.finish()
        await quiet()
        assert [piece async for piece in (await first).body] == []
        assert stage.counts == {"busy": 1, "streams": 0, "waiting": 0}
        other.respond()
        await quiet()
        assert stage.counts == NOTHING


# Queues -------------------------------------------------------------------------------


async def rejected(asked: asyncio.Task[Response]) -> Tuple[int, str]:
    """Return the status and the Retry-After of a request that fails."""
    with pytest.raises(HTTPError) as caught:
        await asked
    return caught.value.status, caught.value.headers.get("Retry-After", "")


@pytest.mark.parametrize("path", ["/pool", "/limited", "/stream"])
@in_virtual_time
async def test_so_many_may_wait(path: str) -> None:
    async with played(max_streams=1, max_waiting=20) as stage:
        for _ in range(1 + 20):
            stage.ask(path)
        await stage.booted(1)
        assert stage.counts["waiting"] == 20
        assert (await rejected(stage.ask(path)))[0] == 503
        assert stage.counts["waiting"] == 20
        assert stage.pool.stats()["max_waiting"] == 20


@in_virtual_time
async def test_a_thousand_may_wait_where_nothing_else_is_said() -> None:
    async with played() as stage:
        for _ in range(1 + 1000):
            stage.ask("/pool")
        await stage.booted(1)
        assert stage.counts["waiting"] == 1000
        assert (await rejected(stage.ask("/pool")))[0] == 503


@in_virtual_time
async def test_a_pool_in_which_nothing_may_wait_runs_what_has_a_slot() -> None:
    async with played(max_waiting=0) as stage:
        asked = stage.ask("/pool")
        (worker,) = await stage.booted(1)
        assert (await rejected(stage.ask("/other")))[0] == 503
        worker.respond(b"ran")
        assert (await asked).body == b"ran"


@pytest.mark.parametrize("path", ["/few", "/few-streams"])
@in_virtual_time
async def test_a_route_may_say_how_many_wait_for_it(path: str) -> None:
    async with played(max_streams=1) as stage:
        for _ in range(1 + 2):
            stage.ask(path)
        await stage.booted(1)
        assert (await rejected(stage.ask(path)))[0] == 503
        stage.ask("/pool" if path == "/few" else "/stream")
        await quiet()
        assert stage.counts["waiting"] == 3


@in_virtual_time
async def test_where_all_lines_are_full_the_longest_gives_a_place_to_a_shorter() -> (
    None
):
    async with played(max_waiting=5) as stage:
        long = [stage.ask("/pool") for _ in range(1 + 5)]
        await stage.booted(1)
        short = [stage.ask("/other") for _ in range(3)]
        # The youngest of the long line go, until no line is longer by two.
        assert (await rejected(long[5]))[0] == 503
        assert (await rejected(long[4]))[0] == 503
        assert (await rejected(short[2]))[0] == 503
        assert [one.done() for one in long[:4] + short[:2]] == [False] * 6
        assert stage.counts["waiting"] == 5


@in_virtual_time
async def test_bodies_that_wait_are_bounded_in_bytes() -> None:
    async with played(max_waiting_bytes=100_000) as stage:

        def ask(size: int) -> asyncio.Task[Response]:
            request = stage.request("/pool")
            request._body = bytes(size)
            return stage.ask("/pool", request)

        ask(1)
        (worker,) = await stage.booted(1)
        ask(200_000)  # whatever its size, one may wait
        assert (await rejected(ask(1)))[0] == 503
        worker.respond()
        await quiet()
        ask(60_000)
        ask(39_000)
        assert (await rejected(ask(1_000)))[0] == 503
        ask(500)
        await quiet()
        assert stage.counts["waiting"] == 3


async def serve_in_turn(
    stage: Stage, worker: PlayedWorker, durations: Dict[str, float], count: int
) -> List[str]:
    """Have a worker answer so many jobs, each in its time; return their paths."""
    paths = {route.index: path for path, route in stage.routes.items()}
    order = []
    for _ in range(count):
        order.append(paths[worker.jobs[-1].route])
        await asyncio.sleep(durations[order[-1]])
        worker.respond()
        await quiet()
    return order


@in_virtual_time
async def test_routes_take_turns_by_the_time_that_they_use() -> None:
    async with played() as stage:
        for path in ("/pool", "/other"):
            for _ in range(50):
                stage.ask(path)
        (worker,) = await stage.booted(1)
        durations = {"/pool": 1.0, "/other": 0.1}
        order = await serve_in_turn(stage, worker, durations, 44)
        # Each has half of the time, from the moment that a first one has ended.
        assert (order.count("/pool"), order.count("/other")) == (4, 40)
        longest = max(map(len, "".join(p[1] for p in order).split("p")))
        assert longest <= 11


@in_virtual_time
async def test_a_route_that_had_nothing_to_do_has_no_claim_on_the_time_of_others() -> (
    None
):
    async with played() as stage:
        for _ in range(60):
            stage.ask("/pool")
        (worker,) = await stage.booted(1)
        durations = {"/pool": 0.1, "/other": 0.1}
        await serve_in_turn(stage, worker, durations, 20)
        for _ in range(30):
            stage.ask("/other")
        await quiet()
        order = await serve_in_turn(stage, worker, durations, 20)
        assert 9 <= order.count("/other") <= 11


@in_virtual_time
async def test_one_job_that_hung_is_no_sentence_for_its_route() -> None:
    async with played() as stage:
        stage.ask("/endless")
        (worker,) = await stage.booted(1)
        for path in ("/endless", "/other"):
            for _ in range(200):
                stage.ask(path)
        await asyncio.sleep(12)
        worker.respond()
        await quiet()
        durations = {"/endless": 0.1, "/other": 0.1}
        order = await serve_in_turn(stage, worker, durations, 60)
        # Its twelve seconds are forgiven but for five.
        assert 48 <= order.index("/endless") <= 52


@in_virtual_time
async def test_no_route_goes_above_its_limit_and_nobody_waits_for_it() -> None:
    async with played(workers=2) as stage:
        limited = [stage.ask("/limited") for _ in range(3)]
        others = [stage.ask(path) for path in ("/pool", "/other", "/pool")]
        one, two = await stage.booted(2)
        number = stage.routes["/limited"].index
        slow, quick = (one, two) if one.jobs[0].route == number else (two, one)
        for other in others:
            quick.respond()
            assert (await other).status == 200
        assert (len(slow.jobs), len(quick.jobs)) == (1, 3)
        for one_limited in limited:
            assert (slow.is_busy, quick.is_busy).count(True) == 1
            (slow if slow.is_busy else quick).respond()
            assert (await one_limited).status == 200
            await quiet()
        assert stage.counts == NOTHING


@in_virtual_time
async def test_who_is_known_to_wait_too_long_is_rejected_at_once() -> None:
    async with played() as stage:
        first = stage.ask("/hasty")
        (worker,) = await stage.booted(1)
        worker.respond()
        await first
        stage.ask("/hasty")
        waiting = [stage.ask("/hasty") for _ in range(2)]
        await asyncio.sleep(0.9)
        worker.respond()  # now it is known how long each takes
        await quiet()
        waiting += [stage.ask("/hasty") for _ in range(3)]
        await quiet()
        assert await rejected(stage.ask("/hasty")) == (503, "4")
        assert [one.done() for one in waiting] == [False] * 5
        # Another route has its own turns, and is not kept out.
        other = stage.ask("/other")
        await quiet()
        assert not other.done()


@in_virtual_time
async def test_what_workers_do_first_keeps_nobody_out() -> None:
    # After a start, or the end of the zygote, it may import for seconds.
    async with played(workers=2) as stage:
        asked = [stage.ask("/hasty") for _ in range(10)]
        workers = await stage.booted(2)
        for took in (1.9, 0.01):
            await asyncio.sleep(took)
            for worker in workers:
                worker.respond()
            await quiet()
            asked.append(stage.ask("/hasty"))
        await quiet()
        assert [one.done() for one in asked] == [True] * 4 + [False] * 8


@in_virtual_time
async def test_where_each_job_is_the_first_of_its_worker_they_are_reckoned_with() -> (
    None
):
    async with played() as stage:
        for _ in range(2):
            asked = stage.ask("/hasty")
            await quiet()
            stage.worker().ready()
            await asyncio.sleep(1.9)
            stage.worker().respond(retire=True)
            await asked
            await quiet()
        waiting = [stage.ask("/hasty") for _ in range(1 + 2)]
        await quiet()
        assert await rejected(stage.ask("/hasty")) == (503, "4")
        assert [one.done() for one in waiting] == [False] * 3


@in_virtual_time
async def test_work_of_others_counts_as_far_as_they_have_turns() -> None:
    async with played() as stage:
        (worker,) = await stage.booted(1)
        for path, taken in (("/pool", 1), ("/hasty", 0.5)):
            for pause in (0, taken):  # a first one tells nothing
                asked = stage.ask(path)
                await asyncio.sleep(pause)
                await quiet()
                worker.respond()
                await asked
        stage.ask("/endless")
        for _ in range(20):
            stage.ask("/pool")
        hasty = [stage.ask("/hasty") for _ in range(3)]  # of 3 s, half is the other's
        await quiet()
        assert [one.done() for one in hasty] == [False] * 3
        assert (await rejected(stage.ask("/hasty")))[0] == 503


@in_virtual_time
async def test_who_waits_too_long_is_rejected_to_the_second() -> None:
    async with played() as stage:
        stage.ask("/endless")
        await stage.booted(1)
        began = seconds()
        asked = stage.ask("/hasty")
        await asyncio.sleep(1)
        later = stage.ask("/hasty")
        assert (await rejected(asked))[0] == 503
        assert seconds() - began == pytest.approx(3)
        assert (await rejected(later))[0] == 503
        assert seconds() - began == pytest.approx(4)
        assert stage.counts == {"busy": 1, "streams": 0, "waiting": 0}


@in_virtual_time
async def test_who_waits_for_a_boot_too_long_gives_its_slot_to_the_next() -> None:
    async with played() as stage:
        began = seconds()
        hasty = stage.ask("/hasty")
        patient = stage.ask("/pool")
        assert (await rejected(hasty))[0] == 503
        assert seconds() - began == pytest.approx(3)
        (worker,) = await stage.booted(1)
        worker.respond(b"booted at last")
        assert (await patient).body == b"booted at last"


@in_virtual_time
async def test_when_to_try_again_is_what_the_queue_will_take() -> None:
    async with played(max_waiting=4) as stage:
        first = stage.ask("/pool")
        (worker,) = await stage.booted(1)
        worker.respond()
        await first
        stage.ask("/pool")
        await asyncio.sleep(5)
        worker.respond()  # that is what a request takes
        await quiet()
        for _ in range(1 + 4):
            stage.ask("/pool")
        await quiet()
        assert await rejected(stage.ask("/pool")) == (503, "20")


@in_virtual_time
async def test_how_long_it_waited_is_noted() -> None:
    async with played() as stage:
        requests = [stage.request("/pool") for _ in range(2)]
        first, second = (stage.ask("/pool", one) for one in requests)
        await asyncio.sleep(2)
        (worker,) = await stage.booted(1)
        await asyncio.sleep(3)
        worker.respond()
        await first
        await asyncio.sleep(4)
        worker.respond()
        await second
        waited = [one.queue_seconds for one in requests]
        assert waited == [pytest.approx(2, abs=0.01), pytest.approx(5, abs=0.01)]


# Deadlines ----------------------------------------------------------------------------


@in_virtual_time
async def test_who_runs_too_long_is_interrupted_then_asked_where_and_killed() -> None:
    async with played() as stage:
        asked = stage.ask("/hasty")
        (worker,) = await stage.booted(1)
        began = seconds()
        assert await rejected(asked) == (504, "")
        assert seconds() - began == pytest.approx(2)
        await quiet()
        assert worker.signals == [signal.SIGUSR2]
        assert worker.hung_up
        assert stage.routes["/hasty"].counts.timeouts == 1
        await asyncio.sleep(0.4)
        assert worker.signals == [signal.SIGUSR2]
        await asyncio.sleep(0.11)  # half a second of grace
        assert worker.signals == [signal.SIGUSR2, signal.SIGUSR1]
        assert len(stage.workers) == 1  # its slot is free when it is gone
        assert stage.counts["busy"] == 1
        await asyncio.sleep(0.9)
        assert not worker.ended
        await asyncio.sleep(0.11)
        assert worker.signals[2:] == [signal.SIGKILL]
        assert stage.counts == NOTHING
        assert len(stage.workers) == 2


@in_virtual_time
async def test_where_it_hangs_is_logged_as_soon_as_it_is_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with played() as stage:
        asked = stage.ask("/hasty")
        (worker,) = await stage.booted(1)
        worker.note_trace(b"at its deadline\n")
        await rejected(asked)
        await asyncio.sleep(0.51)
        assert worker.signals == [signal.SIGUSR2, signal.SIGUSR1]
        worker.note_trace(b"and where it hangs\n")
        await asyncio.sleep(0.05)
        assert worker.ended
    (line,) = (one.getMessage() for one in caplog.records if one.levelname == "ERROR")
    assert line == (
        "worker 1 (pid 0) did not end when it was told to, and was killed while it ran "
        "/hasty; it was at:\n  at its deadline\n  and where it hangs"
    )


@in_virtual_time
async def test_who_ends_in_its_grace_is_not_killed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with played(timeout_grace_seconds=20) as stage:
        asked = stage.ask("/hasty")
        (worker,) = await stage.booted(1)
        await rejected(asked)
        await asyncio.sleep(19)
        worker.end()
        await asyncio.sleep(9)
        assert worker.signals == [signal.SIGUSR2]
        assert stage.pool.stats()["crashes"] == {}
        assert len(stage.workers) == 2
    messages = [one.getMessage() for one in caplog.records]
    assert "worker 1 (pid 0) was stopped while it ran /hasty" in messages


@in_virtual_time
async def test_each_deadline_is_met_whichever_was_set_first() -> None:
    async with played(workers=3) as stage:
        stage.ask("/endless")
        slow, began = stage.ask("/pool"), seconds()
        hasty = stage.ask("/hasty")
        await stage.booted(3)
        assert (await rejected(hasty))[0] == 504
        assert seconds() - began == pytest.approx(2)
        assert (await rejected(slow))[0] == 504
        assert seconds() - began == pytest.approx(30)
        await asyncio.sleep(2)
        assert stage.counts["busy"] == 1


@in_virtual_time
async def test_the_deadline_of_a_stream_is_for_its_next_chunk_if_it_is_wanted() -> None:
    async with played() as stage:
        asked = stage.ask("/stream")
        (worker,) = await stage.booted(1)
        await asyncio.sleep(29)
        worker.begin()
        stream = (await asked).body
        await asyncio.sleep(100)  # nobody wants one
        for _ in range(3):
            chunk = asyncio.ensure_future(stream.__anext__())
            await asyncio.sleep(29)
            worker.chunk(b"chunk")
            assert await chunk == b"chunk"
        began = seconds()
        with pytest.raises(HTTPError, match="504"):
            await stream.__anext__()
        assert seconds() - began == pytest.approx(30)


# Clients that leave -------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, signals, fails",
    [
        ("/pool", [], False),
        ("/stop", [signal.SIGUSR2], True),
        ("/kill", [signal.SIGKILL], True),
        ("/stream", [], False),
        ("/stream-kill", [signal.SIGKILL], True),
    ],
)
@in_virtual_time
async def test_what_a_client_that_leaves_does_to_the_handler(
    path: str, signals: List[int], fails: bool
) -> None:
    async with played() as stage:
        asked, disconnect = stage.ask_and_leave(path)
        (worker,) = await stage.booted(1)
        disconnect.set()
        await quiet()
        assert (worker.signals, worker.cancels) == (signals, int(not fails))
        assert asked.done() is fails
        if fails:
            with pytest.raises(ClientDisconnected):
                await asked
        else:
            worker.respond(b"for nobody")
            assert (await asked).body == b"for nobody"
        assert stage.pool.stats()["crashes"] == {}


@pytest.mark.parametrize("path", ["/pool", "/stop", "/kill"])
@in_virtual_time
async def test_who_leaves_when_the_answer_has_just_come_costs_no_worker(
    path: str,
) -> None:
    async with played() as stage:
        asked, disconnect = stage.ask_and_leave(path)
        (worker,) = await stage.booted(1)
        worker.respond(b"done")
        while stage.counts["busy"]:
            await asyncio.sleep(0)
        assert not asked.done()  # its task has a turn after this one
        disconnect.set()
        assert (await asked).body == b"done"
        await quiet()
        assert (worker.signals, worker.cancels) == ([], 0)


@pytest.mark.parametrize("path", ["/pool", "/limited"])
@in_virtual_time
async def test_a_connection_with_many_requests_remembers_none_of_them(
    path: str,
) -> None:
    class Counting(Disconnect):
        count = 0

        def add(self, callback: Callable[[], object]) -> None:
            self.count += 1
            super().add(callback)

        def remove(self, callback: Callable[[], object]) -> None:
            self.count -= 1
            super().remove(callback)

    disconnect = Counting()
    async with played() as stage:
        requests = [stage.request(path) for _ in range(3)]
        for request in requests:
            request.disconnect = disconnect
            stage.ask(path, request)
        (worker,) = await stage.booted(1)
        assert disconnect.count == 3
        for left in (2, 1, 0):
            worker.respond()
            await quiet()
            assert disconnect.count == left


@pytest.mark.parametrize("path", ["/stream", "/stream-kill"])
@in_virtual_time
async def test_a_stream_that_is_closed_is_told_and_given_its_time(path: str) -> None:
    async with played() as stage:
        asked = stage.ask(path)
        (worker,) = await stage.booted(1)
        worker.begin()
        stream = (await asked).body
        worker.chunk(b"held")
        await quiet()
        await stream.aclose()
        await stream.aclose()
        await quiet()
        if path == "/stream-kill":
            assert (worker.signals, worker.cancels) == ([signal.SIGKILL], 0)
            return
        assert (worker.signals, worker.cancels) == ([], 1)
        await asyncio.sleep(29)
        worker.chunk(b"dropped")
        await quiet()
        assert worker.signals == []
        await asyncio.sleep(1.1)
        assert worker.signals == [signal.SIGUSR2]


@in_virtual_time
async def test_a_stream_that_ends_when_it_is_told_serves_on() -> None:
    async with played() as stage:
        asked = stage.ask("/stream")
        (worker,) = await stage.booted(1)
        worker.begin()
        stream = (await asked).body
        await fill(stage)
        worker.chunk(b"x" * FULL_PIPE_BYTES)  # pauses it
        await quiet()
        worker.chunk(b"x" * (FULL_PIPE_BYTES - 100))
        await stream.aclose()  # reads on, to drop it
        await quiet()
        worker.chunk(b"x" * FULL_PIPE_BYTES)
        await quiet()
        worker.finish()
        again = stage.ask("/pool")
        await asyncio.sleep(29)
        worker.respond(b"again")
        assert (await again).body == b"again"
        assert stage.counts == NOTHING


# Streams ------------------------------------------------------------------------------


async def fill(stage: Stage) -> int:
    """Send chunks until one more pauses the worker; return how many."""
    count = STREAM_BUFFER_BYTES // FULL_PIPE_BYTES
    for _ in range(count):
        stage.worker().chunk(b"x" * FULL_PIPE_BYTES)
        await quiet()
    return count


@in_virtual_time
async def test_a_worker_that_ended_its_stream_for_nobody_is_heard_again() -> None:
    async with played() as stage:
        asked = stage.ask("/stream")
        (worker,) = await stage.booted(1)
        worker.begin()
        response = await asked
        await fill(stage)
        worker.chunk(b"x" * FULL_PIPE_BYTES)  # pauses it
        worker.finish()
        await quiet()
        await response.body.aclose()
        again = stage.ask("/pool")
        await quiet()
        worker.respond(b"heard")
        assert (await again).body == b"heard"


@pytest.mark.parametrize(
    "first, pauses, taken",
    [
        (0, 9, 5),  # the bound itself is within it: the ninth is one byte too much
        (1, 8, 5),  # half of it is left exactly
    ],
)
@in_virtual_time
async def test_a_worker_is_paused_and_read_from_again_at_the_byte(
    first: int, pauses: int, taken: int
) -> None:
    eighth = STREAM_BUFFER_BYTES // 8
    async with played() as stage:
        asked = stage.ask("/stream")
        (worker,) = await stage.booted(1)
        worker.begin()
        stream = (await asked).body
        sizes = [first] * bool(first) + [eighth] * 8 + [1]
        for size in sizes[: pauses + bool(first)]:
            worker.chunk(b"x" * size)
            await asyncio.sleep(2 * GATHER_SECONDS)  # what is small may be left so long
            assert worker.unread_bytes == 0
        worker.chunk(b"waits")
        for _ in range(taken):
            await quiet()
            assert worker.unread_bytes > 0
            await stream.__anext__()
        await quiet()
        assert worker.unread_bytes == 0


@in_virtual_time
async def test_a_worker_is_read_from_again_when_half_of_it_has_been_taken() -> None:
    async with played() as stage:
        asked = stage.ask("/stream")
        (worker,) = await stage.booted(1)
        worker.begin()
        stream = (await asked).body
        for _ in range(3):
            await fill(stage)
            assert worker.unread_bytes == 0
            worker.chunk(b"x" * FULL_PIPE_BYTES)  # pauses it
            await quiet()
            worker.chunk(b"y" * FULL_PIPE_BYTES)
            await quiet()
            held = 5 * FULL_PIPE_BYTES
            while worker.unread_bytes:
                assert (await stream.__anext__())[:1] == b"x"
                held -= FULL_PIPE_BYTES
                await quiet()
            assert held <= STREAM_BUFFER_BYTES // 2 < held + FULL_PIPE_BYTES
            rest = [(await stream.__anext__())[:1] for _ in range(3)]
            assert rest == [b"x", b"x", b"y"]


@in_virtual_time
async def test_a_broken_stream_gives_what_came_and_then_its_error() -> None:
    async with played() as stage:
        asked = stage.ask("/stream")
        (worker,) = await stage.booted(1)
        worker.begin()
        stream = (await asked).body
        worker.chunk(b"one", more=True)
        await quiet()
        worker.chunk(b"two")
        worker.finish(Flag.BROKEN)
        await asyncio.sleep(2 * GATHER_SECONDS)
        assert (await stream.__anext__(), stream.inside_chunk) == (b"one", True)
        assert (await stream.__anext__(), stream.inside_chunk) == (b"two", False)
        with pytest.raises(HTTPError, match="500"):
            await stream.__anext__()
        assert stage.counts == NOTHING  # the worker is none the worse
        assert not worker.hung_up


@in_virtual_time
async def test_an_answer_in_pieces_has_the_length_it_says() -> None:
    async with played() as stage:
        asked = [stage.ask("/pool"), stage.ask("/pool"), stage.ask("/pool")]
        (worker,) = await stage.booted(1)
        found = []
        for size, one in zip((0, 5, -1), asked):
            worker.begin(size)
            found.append((await one).stream_bytes)
            worker.finish()
            await quiet()
        assert found == [0, 5, None]


# The end of a worker ------------------------------------------------------------------


def result_frame(number: int, status: int = 200) -> bytes:
    """Return the frame that answers a job, without a body."""
    header = FRAME.pack(RESULT.size, FrameType.RESPONSE, 0, 0, number)
    return header + RESULT.pack(status, 0, 0)


@in_virtual_time
async def test_an_answer_sent_just_before_the_exit_is_delivered() -> None:
    async with played() as stage:
        asked = stage.ask("/pool")
        (worker,) = await stage.booted(1)
        stage.zygotes[0].report(EXITED, worker.number)  # known before it is read
        worker.respond(b"just in time")
        worker.close()
        assert (await asked).body == b"just in time"
        await quiet()
        assert len(stage.workers) == 2  # and it is replaced


@in_virtual_time
async def test_a_slow_reader_gets_what_was_sent_before_the_exit() -> None:
    async with played() as stage:
        asked = stage.ask("/stream")
        (worker,) = await stage.booted(1)
        worker.begin()
        response = await asked
        count = await fill(stage) + 1
        worker.chunk(b"x" * FULL_PIPE_BYTES)  # pauses it
        await quiet()
        worker.chunk(b"last")
        worker.finish()
        worker.end()
        await quiet()
        pieces = [piece async for piece in response.body]
        assert pieces == [b"x" * FULL_PIPE_BYTES] * count + [b"last"]


@pytest.mark.parametrize("first", ["pipe", "report"])
@in_virtual_time
async def test_a_worker_that_dies_fails_its_job_alone_and_is_counted(
    first: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with played(workers=2) as stage:
        asked, other = stage.ask("/pool"), stage.ask("/other")
        one, two = await stage.booted(2)
        dying, living = (one, two) if one.jobs[0].number == 1 else (two, one)
        if first == "pipe":
            dying.close()
            assert (await rejected(asked))[0] == 502
            assert stage.counts["busy"] == 2  # it may still run
            stage.zygotes[0].report(EXITED, dying.number, signal.SIGSEGV)
        else:
            dying.end(signal.SIGSEGV)
            assert (await rejected(asked))[0] == 502
        await quiet()
        assert stage.counts["busy"] == 1
        assert stage.pool.stats()["crashes"] == {"SIGSEGV": 1}
        assert stage.pool.stats()["kills"] == 0
        counts = [stage.routes[path].counts.crashes for path in ("/pool", "/other")]
        assert counts == [1, 0]
        living.respond(b"lives")
        assert (await other).body == b"lives"
        assert len(stage.workers) == 3
    messages = [one.getMessage() for one in caplog.records]
    said = f"worker {dying.number} (pid 0) was killed by SIGSEGV while it ran /pool"
    assert messages.count(said) == 1


@pytest.mark.parametrize(
    "status, what",
    [
        (EXIT_1, "ended with exit code 1"),
        (0, "ended with exit code 0"),
        (signal.SIGKILL, "was killed by SIGKILL"),
        (50, "was killed by signal 50"),
        (-errno.EAGAIN, "could not be started: Resource temporarily unavailable"),
    ],
)
@in_virtual_time
async def test_how_a_worker_ended_is_logged(
    status: int, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with played(workers=2) as stage:
        await quiet()
        booting, idle = stage.workers
        idle.ready()
        await quiet()
        booting.end(status)
        idle.end(status)
        await quiet()
        stats = stage.pool.stats()
    cause = "fork" if status < 0 else what.split("by ")[-1].replace("ended with ", "")
    assert stats["crashes"] == {cause: 2}
    errors = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert errors == [
        f"worker 1 (pid 0) {what} while it booted",
        f"worker 2 (pid 0) {what} while it was idle",
    ]


@pytest.mark.parametrize("how", ["asked", "stream"])
@in_virtual_time
async def test_a_worker_that_says_it_is_its_last_answer_is_let_go(how: str) -> None:
    async with played() as stage:
        asked = stage.ask("/pool")
        (worker,) = await stage.booted(1)
        if how == "stream":
            worker.begin()
            worker.finish(Flag.RETIRE)
        else:
            worker.respond(b"last", retire=True)
        assert (await asked).status == 200
        await quiet()
        assert worker.hung_up
        assert (worker.signals, stage.pool.stats()["crashes"]) == ([], {})
        assert len(stage.workers) == 2
        assert stage.counts == NOTHING


@pytest.mark.parametrize(
    "frame",
    [
        FRAME.pack(1 << 30, FrameType.RESPONSE, 0, 0, 1),
        FRAME.pack(0, 99, 0, 0, 1),
        FRAME.pack(0, FrameType.READY, 0, 0, 1),
        FRAME.pack(0, FrameType.END, 0, 0, 1),
        FRAME.pack(0, FrameType.DATA, 0, 0, 1),
        FRAME.pack(0, FrameType.RESPONSE, 0, 0, 1),
        result_frame(2),
        result_frame(1, status=199),
        result_frame(1, status=1000),
        FRAME.pack(RESULT.size + 1, FrameType.HEAD, 0, 0, 1)
        + RESULT.pack(200, 0, 1)
        + b"x",
    ],
)
@in_virtual_time
async def test_a_worker_that_sends_what_can_not_be_is_killed(frame: bytes) -> None:
    async with played() as stage:
        asked = stage.ask("/pool")
        (worker,) = await stage.booted(1)
        worker.write(frame)
        assert (await rejected(asked))[0] == 502
        await quiet()
        assert worker.signals == [signal.SIGKILL]
        assert stage.pool.stats()["crashes"] == {"SIGKILL": 1}
        assert stage.counts == NOTHING


@pytest.mark.parametrize("status", [200, 999])
@in_virtual_time
async def test_every_status_that_can_be_is_taken(status: int) -> None:
    async with played() as stage:
        asked = stage.ask("/pool")
        (worker,) = await stage.booted(1)
        worker.respond(b"", status)
        assert (await asked).status == status


@in_virtual_time
async def test_a_frame_may_come_byte_by_byte() -> None:
    async with played() as stage:
        asked = stage.ask("/pool")
        (worker,) = await stage.booted(1)
        result = RESULT.pack(200, 4, 0) + b"slow"
        for byte in FRAME.pack(len(result), FrameType.RESPONSE, 0, 0, 1) + result:
            worker.write(bytes([byte]))
            await quiet()
        assert (await asked).body == b"slow"


@in_virtual_time
async def test_what_a_pipe_has_no_room_for_is_sent_later() -> None:
    async with played() as stage:
        request = stage.request("/pool")
        request._body = os.urandom(1_000_000)
        asked = stage.ask("/pool", request)
        (worker,) = await stage.booted(1)
        assert worker.jobs[0].payload.endswith(request._body)
        worker.respond(b"all of it")
        assert (await asked).body == b"all of it"


# A route that workers die of ----------------------------------------------------------


@in_virtual_time
async def test_a_route_that_workers_die_of_is_off_for_as_long_as_it_says() -> None:
    async with played(workers=2, max_crashes=2) as stage:
        for _ in range(2):
            asked = stage.ask("/pool")
            await quiet()
            for worker in stage.workers:
                if not worker.got_ready and not worker.ended:
                    worker.ready()
            await quiet()
            (busy,) = [one for one in stage.workers if one.is_busy and not one.ended]
            await asyncio.sleep(10)
            busy.end(signal.SIGSEGV)
            assert (await rejected(asked))[0] == 502
        assert await rejected(stage.ask("/pool")) == (503, "30")
        await asyncio.sleep(28.5)
        assert await rejected(stage.ask("/pool")) == (503, "2")
        await asyncio.sleep(1.6)
        again = stage.ask("/pool")
        await quiet()
        assert not again.done()
        other = stage.ask("/other")
        await quiet()
        assert not other.done()


# The zygote ---------------------------------------------------------------------------


@in_virtual_time
async def test_the_death_of_the_zygote_is_no_crash_of_what_runs() -> None:
    async with played(max_crashes=1) as stage:
        asked = stage.ask("/pool")
        await stage.booted(1)
        stage.zygotes[0].die()
        assert (await rejected(asked))[0] == 502
        stats = stage.pool.stats()
        assert (stats["kills"], stats["crashes"]) == (1, {})
        assert stage.routes["/pool"].counts.crashes == 0
        again = stage.ask("/pool")
        await quiet()
        assert len(stage.zygotes) == 2
        stage.worker().ready()
        await quiet()
        stage.worker().respond(b"not off")
        assert (await again).body == b"not off"


@in_virtual_time
async def test_a_zygote_that_dies_unproven_is_tried_again_ever_later() -> None:
    async with played() as stage:
        waiting = stage.ask("/pool")
        await quiet()
        waits = []
        for count in (1, 2, 3):
            began = seconds()
            stage.zygotes[-1].die()
            while len(stage.zygotes) == count:
                await asyncio.sleep(0.01)
            waits.append(round(seconds() - began, 1))
            await quiet()
        assert waits == [0.2, 0.4, 0.8]
        stage.worker().ready()
        await quiet()
        stage.worker().respond(b"at last")
        assert (await waiting).body == b"at last"


@in_virtual_time
async def test_where_no_zygote_can_be_started_what_waits_is_rejected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with played(workers=1) as stage:
        waiting = [stage.ask("/pool"), stage.ask("/other"), stage.ask("/stream")]
        await quiet()
        stage.launches = False
        stage.zygotes[0].die()
        assert [(await rejected(one))[0] for one in waiting] == [503] * 3
        assert (await rejected(stage.ask("/pool")))[0] == 503
        assert stage.counts == NOTHING
    last = caplog.records[-1]
    assert last.levelname == "CRITICAL"
    assert last.getMessage().startswith("no worker can be started, restart the server")


# Boots that fail ----------------------------------------------------------------------


async def fail_to_boot(stage: Stage, times: int) -> List[float]:
    """Have the last worker fail to boot; return the seconds until the next one is."""
    found = []
    for _ in range(times):
        count, began = len(stage.workers), seconds()
        stage.worker().end(EXIT_1)
        while len(stage.workers) == count:
            await asyncio.sleep(0.01)
        found.append(round(seconds() - began, 1))
    return found


@in_virtual_time
async def test_a_good_boot_ends_the_waiting_for_the_next_one() -> None:
    async with played() as stage:
        await quiet()
        assert await fail_to_boot(stage, 3) == [0.2, 0.4, 0.8]
        stage.worker().ready()
        await quiet()
        stage.worker().end(signal.SIGKILL)
        await quiet()
        assert len(stage.workers) == 5  # at once
        assert await fail_to_boot(stage, 8) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]


@in_virtual_time
async def test_the_good_boot_of_another_ends_the_waiting_too() -> None:
    async with played(workers=2) as stage:
        await quiet()
        bad, good = stage.workers
        bad.end(EXIT_1)
        await quiet()
        good.ready()
        await quiet()
        good.end(signal.SIGKILL)
        await quiet()
        assert len(stage.workers) == 3


@in_virtual_time
async def test_workers_that_fail_to_boot_together_count_once() -> None:
    async with played(workers=4) as stage:
        await quiet()
        began = seconds()
        for worker in list(stage.workers):
            worker.end(EXIT_1)
        while len(stage.workers) < 8:
            await asyncio.sleep(0.01)
        assert round(seconds() - began, 1) == 0.2


@in_virtual_time
async def test_a_worker_that_does_not_boot_in_a_minute_is_replaced() -> None:
    async with played() as stage:
        await asyncio.sleep(59)
        assert stage.worker().signals == []
        await asyncio.sleep(1.1)
        assert stage.workers[0].signals == [signal.SIGKILL]
        await asyncio.sleep(0.2)
        assert len(stage.workers) == 2


@in_virtual_time
async def test_a_worker_with_other_routes_is_not_put_to_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with played() as stage:
        asked = stage.ask("/pool")
        await quiet()
        stage.worker().ready(stage.table.replace(b"/pool", b"/loop"))
        await quiet()
        assert stage.worker().signals == [signal.SIGKILL]
        await asyncio.sleep(0.3)
        stage.worker().ready(stage.table)
        await quiet()
        stage.worker().respond(b"the same")
        assert (await asked).body == b"the same"
        await asyncio.sleep(100)  # its time to boot has nothing to say any more
    (message,) = (one.getMessage() for one in caplog.records)
    assert " in place of GET /pool " in message


@in_virtual_time
async def test_where_descriptors_run_out_workers_are_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with played(workers=1, min_workers=0) as stage:
        await quiet()
        assert stage.workers == []

        def none_left() -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(os, "pipe", none_left)
            asked = stage.ask("/pool")
            await asyncio.sleep(1)
        assert stage.workers == []
        await asyncio.sleep(1)
        (worker,) = await stage.booted(1)
        worker.respond(b"served")
        assert (await asked).body == b"served"


@in_virtual_time
async def test_each_worker_is_told_who_it_is_and_what_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("pixie_web"), "level", 35)
    async with played(workers=2, nice=7) as stage:
        await quiet()
        told = [worker.setup for worker in stage.workers]
    names = ("number", "pool", "log_level", "nice", "worker_memory_limit_bytes")
    found = [[setup[name] for name in names] for setup in told]
    assert found == [[1, "", 35, 7, 0], [2, "", 35, 7, 0]]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("spooled", [False, True])
@in_virtual_time
async def test_a_worker_learns_of_a_request_what_main_knows(
    scheme: str, debug: bool, spooled: bool
) -> None:
    sent = Request(
        parse_head(b"GET http://b/in/pool?a=1 HTTP/1.1\r\nHost: b\r\nX: y\r\n\r\n"),
        ("192.0.2.1", 65_535),
        scheme,
        debug=debug,
    )
    sent.host, sent.prefix = "ü.example:81", "/in"
    sent.context = {"user": ["ü", 1, None]}
    body = b"\0\n\xff" * 1000
    if spooled:
        sent._body = None
        sent.spool([body])
    else:
        sent.body = body
    async with played() as stage:
        stage.ask("/pool", sent)
        (worker,) = await stage.booted(1)
        got = worker.jobs[0].request
        assert worker.jobs[0].route == stage.routes["/pool"].index
    names = "raw_head client scheme host prefix path context debug body".split()
    assert [getattr(got, name) for name in names] == [
        getattr(sent, name) for name in names
    ]
    assert (got.path, got.body) == ("/pool", body)
    got.close()
    sent.close()


# How many there are -------------------------------------------------------------------


@in_virtual_time
async def test_workers_start_on_demand_and_end_when_nobody_needs_them() -> None:
    async with played(workers=3, min_workers=1, worker_idle_seconds=10) as stage:
        await stage.booted(1)
        asked = [stage.ask("/pool") for _ in range(4)]
        await quiet()
        assert len(stage.workers) == 3
        for worker in stage.workers[1:]:
            worker.ready()
        await quiet()
        for _ in range(2):
            for worker in stage.workers:
                if worker.is_busy:
                    worker.respond()
            await quiet()
        await asyncio.gather(*asked)
        await asyncio.sleep(8.5)
        assert [worker.hung_up for worker in stage.workers] == [False] * 3
        await asyncio.sleep(3)
        assert sum(worker.hung_up for worker in stage.workers) == 2
        await asyncio.sleep(100)
        assert sum(worker.hung_up for worker in stage.workers) == 2
        assert len(stage.workers) == 3


@in_virtual_time
async def test_workers_for_streams_boot_a_few_at_a_time() -> None:
    async with played(workers=1, max_streams=6) as stage:
        stage.pool.boots_at_once = 2
        for _ in range(5):
            stage.ask("/stream")
        await quiet()
        for started, running in ((2, 0), (3, 1), (4, 2), (5, 3), (5, 4), (5, 5)):
            assert len(stage.workers) == started
            assert sum(worker.is_busy for worker in stage.workers) == running
            if running < 5:
                stage.workers[running].ready()
            await quiet()


@in_virtual_time
async def test_a_job_gets_the_first_worker_that_boots_and_streams_the_others() -> None:
    async with played(workers=2, min_workers=1, max_streams=6) as stage:
        stage.pool.boots_at_once = 2
        for path in ["/stream"] * 4 + ["/pool"]:
            stage.ask(path)
        await quiet()
        assert len(stage.workers) == 2
        stage.workers[1].ready()
        await quiet()
        routes = [stage.routes[path].index for path in ("/pool", "/stream")]
        assert [job.route for job in stage.workers[1].jobs] == routes[:1]
        assert len(stage.workers) == 3
        stage.workers[0].ready()
        await quiet()
        assert [job.route for job in stage.workers[0].jobs] == routes[1:]
        assert len(stage.workers) == 4


@in_virtual_time
async def test_workers_for_jobs_boot_at_once_and_those_for_streams_after_them() -> None:
    async with played(workers=3, min_workers=1, max_streams=6) as stage:
        stage.pool.boots_at_once = 2
        for path in ["/stream"] * 3 + ["/pool"] * 3:
            stage.ask(path)
        await quiet()
        assert len(stage.workers) == 3
        stage.workers[0].ready()
        await quiet()
        assert len(stage.workers) == 3  # two that boot are as many as may
        stage.workers[1].ready()
        await quiet()
        assert len(stage.workers) == 4
        assert stage.counts == {"busy": 3, "streams": 3, "waiting": 4}


@in_virtual_time
async def test_a_worker_for_a_stream_that_can_not_boot_is_replaced_by_the_next() -> (
    None
):
    async with played(workers=1, max_streams=6) as stage:
        stage.pool.boots_at_once = 1
        await stage.booted(1)
        for _ in range(3):
            stage.ask("/stream")
        await quiet()
        for count in (2, 3, 4):
            assert len(stage.workers) == count
            stage.worker().end(EXIT_1)
            await asyncio.sleep(10)


@in_virtual_time
async def test_a_worker_that_has_done_a_job_stays_for_the_next_while_others_boot() -> (
    None
):
    async with played(workers=1, max_streams=6) as stage:
        stage.pool.boots_at_once = 1
        (warm,) = await stage.booted(1)
        first = stage.ask("/pool")
        for _ in range(3):
            stage.ask("/stream")
        await quiet()
        assert len(stage.workers) == 2
        for asked in (first, stage.ask("/pool"), stage.ask("/pool")):
            await quiet()
            assert len(stage.workers) == 2
            warm.respond()
            await asked
        for count in (3, 3):  # the idle one is for the last stream, then
            stage.worker().ready()
            await quiet()
            assert len(stage.workers) == count
        assert stage.counts == {"busy": 0, "streams": 3, "waiting": 0}
        assert [len(worker.jobs) for worker in stage.workers] == [4, 1, 1]


@in_virtual_time
async def test_a_stream_gets_the_worker_that_is_idle_when_its_own_can_not_boot() -> (
    None
):
    async with played(workers=1, max_streams=6) as stage:
        stage.pool.boots_at_once = 1
        (warm,) = await stage.booted(1)
        stage.ask("/pool")
        stage.ask("/stream")
        await quiet()
        warm.respond()
        await quiet()
        assert stage.counts == {"busy": 0, "streams": 1, "waiting": 1}
        stage.worker().end(EXIT_1)
        await quiet()
        assert stage.counts == {"busy": 0, "streams": 1, "waiting": 0}
        assert len(warm.jobs) == 2


@in_virtual_time
async def test_as_many_boot_for_streams_as_there_are_cpus() -> None:
    pool = Pool(application().freeze(), PoolOptions(workers=1), "exec")
    assert pool.boots_at_once == cpu_count() >= 1


@in_virtual_time
async def test_the_one_that_was_busy_last_is_taken_first() -> None:
    async with played(workers=3) as stage:
        one, two, three = await stage.booted(3)
        for _ in range(3):
            asked = stage.ask("/pool")
            await quiet()
            three.respond()
            await asked
        assert [len(worker.jobs) for worker in (one, two, three)] == [0, 0, 3]


# Replacing workers --------------------------------------------------------------------


async def serve_one(stage: Stage) -> None:
    asked = stage.ask("/pool")
    await quiet()
    (busy,) = [one for one in stage.workers if one.is_busy and not one.ended]
    busy.respond()
    await asked
    await quiet()


@in_virtual_time
async def test_a_worker_that_has_done_enough_is_replaced_by_one_that_is_ready() -> None:
    async with played(max_tasks_per_worker=10) as stage:
        (old,) = await stage.booted(1)
        for _ in range(9):
            await serve_one(stage)
        assert len(stage.workers) == 1
        await serve_one(stage)
        await serve_one(stage)  # by the old one still
        assert not old.hung_up
        assert len(stage.workers) == 2
        stage.worker().ready()
        await quiet()
        assert old.hung_up
        assert old.signals == []
        await serve_one(stage)
        assert (len(old.jobs), len(stage.worker().jobs)) == (11, 1)
        assert stage.pool.stats()["crashes"] == {}


@in_virtual_time
async def test_who_is_busy_when_its_replacement_is_ready_ends_after_its_job() -> None:
    async with played(max_worker_age_seconds=20) as stage:
        (old,) = await stage.booted(1)
        await asyncio.sleep(18)
        assert len(stage.workers) == 1
        asked = stage.ask("/endless")
        await asyncio.sleep(2)
        assert len(stage.workers) == 2
        stage.worker().ready()
        await quiet()
        assert not old.hung_up
        old.respond(b"last job")
        assert (await asked).body == b"last job"
        await quiet()
        assert old.hung_up
        assert len(stage.workers) == 2


@in_virtual_time
async def test_one_is_replaced_at_a_time() -> None:
    async with played(workers=3, max_worker_age_seconds=10) as stage:
        await stage.booted(3)
        await asyncio.sleep(11)
        for count in (4, 5, 6):
            assert len(stage.workers) == count
            assert sum(worker.hung_up for worker in stage.workers) == count - 4
            stage.worker().ready()
            await quiet()
        assert [worker.hung_up for worker in stage.workers] == [True] * 3 + [False] * 3


@in_virtual_time
async def test_who_has_too_much_memory_does_not_wait_for_its_replacement() -> None:
    async with played(max_worker_bytes=1) as stage:
        (old,) = await stage.booted(1)
        stage.pool._recycler.memory.note({old.number: 1}, 0.0)
        await serve_one(stage)
        assert old.hung_up
        assert len(stage.workers) == 2


class ThreadAtOnce:
    """A thread that has done its work when it has been started."""

    def __init__(self, target: Callable[..., None], args: Any, daemon: bool) -> None:
        self.start = partial(target, *args)


@pytest.mark.parametrize(
    "bound, asked, each_second",
    [(0, False, [1, 0, 0]), (0, True, [1, 0, 1]), (1 << 40, False, [1, 1, 1])],
)
@in_virtual_time
async def test_memory_is_looked_at_once_a_second_where_somebody_wants_to_know(
    bound: int, asked: bool, each_second: List[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: List[int] = []
    told = {"memory_bytes": 0}

    def look(pid: int) -> int:
        looks.append(pid)
        return 1000 + len(looks)

    monkeypatch.setattr(threading, "Thread", ThreadAtOnce)
    monkeypatch.setattr(recycling, "private_bytes", look)
    monkeypatch.setattr(time, "thread_time", lambda: 0.001)
    async with played(max_worker_bytes=bound) as stage:
        (worker,) = await stage.booted(1)
        stage.zygotes[0].started(worker.number, stage.zygotes[0].pid)
        found = []
        await asyncio.sleep(0.5)
        for _ in each_second[:2]:
            looks.clear()
            await asyncio.sleep(1)
            found.append(len(looks))
        if asked:
            (told,) = stage.pool.stats()["workers"]
        looks.clear()
        await asyncio.sleep(50)
        assert [*found, round(len(looks) / 50)] == each_second
        assert not asked or told["memory_bytes"] == 1001
        await asyncio.sleep(20)
        looks.clear()
        await asyncio.sleep(10)
        assert len(looks) == (10 if bound else 0)


@pytest.mark.parametrize("took, pause", [(0.01, 1), (0.5, 10)])
@in_virtual_time
async def test_a_look_at_memory_takes_at_most_a_twentieth_of_a_cpu(
    took: float, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: List[float] = []

    def look(pid: int) -> int:
        looks.append(seconds())
        return 1

    monkeypatch.setattr(threading, "Thread", ThreadAtOnce)
    monkeypatch.setattr(recycling, "private_bytes", look)
    monkeypatch.setattr(time, "thread_time", lambda: took)
    async with played(max_worker_bytes=1 << 40) as stage:
        (worker,) = await stage.booted(1)
        stage.zygotes[0].started(worker.number, stage.zygotes[0].pid)
        await asyncio.sleep(25)
    assert looks[1] - looks[0] == pytest.approx(pause, abs=0.01)


@in_virtual_time
async def test_a_pool_that_is_not_told_how_can_not_be_started_anew() -> None:
    program = application().freeze()
    with pytest.raises(PixieError, match="can't be started again"):
        Pool(program, PoolOptions(workers=1), "exec").prepare()


# The end ------------------------------------------------------------------------------


@in_virtual_time
async def test_at_the_end_workers_have_five_seconds_and_are_killed() -> None:
    async with played(workers=2) as stage:
        polite, stubborn = await stage.booted(2)
        stubborn.stays = True
        began = seconds()
        await stage.pool.stop()
        assert seconds() - began == pytest.approx(5, abs=0.01)
        assert polite.signals == []
        assert signal.SIGKILL in stubborn.signals


@in_virtual_time
async def test_at_the_end_a_zygote_that_does_nothing_is_not_waited_for() -> None:
    async with played() as stage:
        (worker,) = await stage.booted(1)
        worker.stays = True
        stage.zygotes[0].stop_reading()
        began = seconds()
        await stage.pool.stop()
        assert seconds() - began == pytest.approx(7, abs=0.01)


@in_virtual_time
async def test_at_the_end_the_zygote_has_ended_and_is_reaped() -> None:
    async with played() as stage:
        await stage.booted(1)
        await stage.pool.stop()
        await quiet()
        assert [zygote.is_closed for zygote in stage.zygotes] == [True]
        for zygote in stage.zygotes:
            with pytest.raises(ChildProcessError):
                os.waitpid(zygote.pid, os.WNOHANG)


@in_virtual_time
async def test_a_pool_that_has_not_come_to_start_can_be_stopped() -> None:
    async with played() as stage:
        other = Stage(workers=1)
        other.pool.prepare()
        await quiet()
        await other.pool.stop()
        assert len(stage.zygotes) == 1
        await quiet()
        assert other.zygotes[0].is_closed
        other.close()


@in_virtual_time
async def test_who_is_in_a_hurry_kills_them_at_once() -> None:
    async with played() as stage:
        (worker,) = await stage.booted(1)
        worker.stays = True
        stage.pool.hurry()  # it has not begun to stop
        await quiet()
        assert worker.signals == []
        began = seconds()
        stopping = asyncio.ensure_future(stage.pool.stop())
        await quiet()
        stage.pool.hurry()
        await stopping
        assert worker.signals == [signal.SIGKILL]
        assert seconds() - began < 0.01


@in_virtual_time
async def test_a_job_that_runs_may_end_while_the_pool_stops() -> None:
    async with played() as stage:
        stage.ask("/pool")
        (worker,) = await stage.booted(1)
        worker.stays = True
        stopping = asyncio.ensure_future(stage.pool.stop())
        await quiet()
        assert (await rejected(stage.ask("/pool")))[0] == 503
        assert len(stage.workers) == 1
        worker.end()
        await stopping
