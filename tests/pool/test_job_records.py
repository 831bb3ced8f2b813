"""What main knows of jobs, and keeps, while state and pools do as they like."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, AsyncIterator, Dict, List, cast

import pytest
from shapes import IS_SINGLE

from pixie_web import Pixie, PixieError

if IS_SINGLE:
    pytest.skip("jobs are a companion", allow_module_level=True)

from pixie_web.executors.base import Route
from pixie_web.jobs import job
from pixie_web.jobs import main as main_module
from pixie_web.jobs.main import Backlog, Main, Outcome, Waiting
from pixie_web.jobs.orders import (
    MAX_ERROR_CHARS,
    MAX_PROGRESS_BYTES,
    JobOptions,
    Order,
    error_text,
    new_record,
    run_order,
)
from pixie_web.state import State, StateBusy

ID = "0" * 32


def order_of(id: str = ID, timeout: Any = None) -> Order:
    return Order.write(id, len, ["abc"], timeout)


class Held:
    """The calls of `app.state.aio` that main makes; `put` may fail or wait."""

    def __init__(self) -> None:
        self.kept: Dict[str, Any] = {}
        self.failures: List[Exception] = []
        self.messages: List[str] = []
        self.subscribed: List[int] = []

    async def put(self, key: str, value: Any) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.kept[key] = value

    async def set(self, key: str, value: Any, expire: float) -> None:
        await self.put(key, value)

    async def update(self, key: str, function: Any, expire: float) -> None:
        await self.put(key, function(self.kept.get(key)))

    async def publish(self, key: str, value: Any, expire: float) -> None:
        pass

    async def delete(self, key: str) -> None:
        self.kept.pop(key, None)

    async def subscribe(self, channel: str, after: int) -> AsyncIterator[Any]:
        self.subscribed.append(after)
        if self.messages:
            yield SimpleNamespace(id=after + 1, data=self.messages.pop(0))
            raise StateBusy("it is away")
        await asyncio.Event().wait()


def main_of(held: Held, **options: Any) -> Main:
    app = Pixie()
    app.freeze()
    application = SimpleNamespace(
        state=SimpleNamespace(aio=held), job_route=app.job_route
    )
    loop = asyncio.get_running_loop()
    return Main(application, JobOptions(**options), {}, loop)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_PAUSE_SECONDS", "MAX_PAUSE_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(main_module, name, 0.0)


# The end is written down --------------------------------------------------------------


def test_an_end_is_written_however_long_the_state_is_away() -> None:
    async def run() -> None:
        held = Held()
        held.failures = [StateBusy("it is away") for _ in range(50)]
        await main_of(held)._write(order_of(), Outcome("done", "", b"result"))
        assert held.kept[f"job:{ID}"]["state"] == "done"
        assert held.kept[f"job:{ID}:result"] == b"result"

    asyncio.run(run())


def test_an_end_that_can_not_be_written_leaves_no_job_that_runs_for_ever() -> None:
    async def run() -> None:
        held = Held()
        held.kept[f"job:{ID}"] = new_record(order_of())
        held.failures = [ValueError("too long"), ValueError("too long")]
        await main_of(held)._write(order_of(), Outcome("done", "", b"result"))
        assert held.kept == {}

    asyncio.run(run())


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_an_error_is_as_long_as_a_record_may_hold() -> None:
    text = error_text(ValueError("x" * 3_000_000))
    assert text.startswith("ValueError: xxx")
    assert len(text) == MAX_ERROR_CHARS + 4
    assert error_text(Odd()) == "Odd, which has no text"


def test_a_job_that_the_state_has_forgotten_does_not_run() -> None:
    state = State("memory")
    env = SimpleNamespace(body=order_of().body, app=SimpleNamespace(state=state))
    answer = run_order(cast(Any, env))
    assert answer.status == 500
    assert answer.body == {"error": "the state has lost what it knew of it"}
    state.close()


def test_what_has_ended_makes_no_progress() -> None:
    state = State("memory")
    for now, told in [("running", 5), ("cancelled", None), ("waiting", None)]:
        state.set(f"job:{ID}", {**new_record(order_of()), "state": now})
        job.enter(ID, state)
        job.progress(5)
        assert state.get(f"job:{ID}")["progress"] == told
    state.delete(f"job:{ID}")
    job.progress(5)
    assert state.get(f"job:{ID}") is None
    with pytest.raises(ValueError, match=str(MAX_PROGRESS_BYTES)):
        job.progress("x" * MAX_PROGRESS_BYTES)
    job.enter("", None)
    state.close()


# Which texts are ids ------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", ":result", ":progress", "x" * 600, "\0", "é"])
def test_a_text_that_is_no_id_is_no_job(end: str) -> None:
    app = Pixie()
    app._state = state = State("memory")
    state.set(f"job:{ID}:result", b"result")
    state.set(f"job:{ID}:progress", {"done": 1})
    for id in (f"{ID}{end}", ID.replace("0", "A"), "", 7, None):
        assert app.job(cast(str, id)) is None
        assert app.cancel(cast(str, id)) is False
    state.close()


# Main's line --------------------------------------------------------------------------


def test_a_timeout_of_its_own_makes_no_line_of_its_own() -> None:
    async def run() -> None:
        main = main_of(Held(), timeout=7.0)
        orders = [order_of(timeout=n) for n in (None, 1, 2.5, float("inf"), 1e300)]
        assert len({main.route(order, True) for order in orders}) == 1
        timeouts = [main.timeout(order) for order in orders]
        assert timeouts == [7.0, 1, 2.5, None, None]

    asyncio.run(run())


def route(name: str) -> Route:
    return cast(Route, name)


def test_the_oldest_that_may_start_is_next_and_one_of_each_function_is_looked_at() -> (
    None
):
    backlog = Backlog()

    def waiting(name: str, arrived: float) -> Waiting:
        one = SimpleNamespace(route=route(name), arrived=arrived, size=10)
        backlog.add(cast(Waiting, one))
        return cast(Waiting, one)

    dear = [waiting("dear", number) for number in range(100)]
    cheap = [waiting("cheap", 50 + number) for number in range(100)]
    looked: List[Any] = []

    def is_cheap(one: Any) -> bool:
        looked.append(one)
        return bool(one.route == "cheap")

    assert backlog.oldest(lambda one: True) is dear[0]
    assert backlog.oldest(is_cheap) is cheap[0]
    assert len(looked) == 2
    backlog.remove(dear[0])
    backlog.add(dear[0], first=True)
    assert backlog.oldest(lambda one: True) is dear[0]
    backlog.remove(cheap[7])
    assert (len(backlog), backlog.bytes) == (199, 1990)
    assert (cheap[7] in backlog, cheap[8] in backlog) == (False, True)
    for one in list(backlog):
        backlog.remove(one)
    assert (len(backlog), backlog.bytes) == (0, 0)
    assert backlog.oldest(lambda one: True) is None


def test_the_last_word_on_whether_there_is_room_is_the_right_one() -> None:
    class Slow(Held):
        def __init__(self) -> None:
            super().__init__()
            self.turns: List[asyncio.Future[None]] = []

        async def put(self, key: str, value: Any) -> None:
            turn = asyncio.get_running_loop().create_future()
            self.turns.append(turn)
            await turn
            await super().put(key, value)

    async def run() -> None:
        held = Slow()
        main = main_of(held, max_waiting=1)
        one: Any = SimpleNamespace(route=route("f"), arrived=0.0, size=1)
        main.line.add(one)
        main._tell_fullness()
        await asyncio.sleep(0)
        main.line.remove(one)
        main._tell_fullness()
        held.failures = [StateBusy("others hold it")]
        while held.turns or main._saving:  # the last to ask is the first to be heard
            if held.turns:
                held.turns.pop().set_result(None)
            await asyncio.sleep(0)
        assert set(held.kept.values()) <= {False}

    asyncio.run(run())


def test_a_cancel_is_heard_again_after_the_state_was_away() -> None:
    async def run() -> None:
        held = Held()
        held.messages = ["first", "second"]
        main = main_of(held)
        heard: List[str] = []
        main.cancel = heard.append  # type: ignore[method-assign]
        task = asyncio.ensure_future(main._listen())
        while len(held.subscribed) < 3:
            await asyncio.sleep(0)
        task.cancel()
        assert (heard, held.subscribed) == (["first", "second"], [0, 1, 2])

    asyncio.run(run())


def test_what_comes_when_the_server_stops_is_lost_and_not_refused() -> None:
    async def run() -> None:
        held = Held()
        main = main_of(held)
        await main.stop(0.0)
        main.accept(order_of())
        while main._saving:
            await asyncio.sleep(0)
        record = held.kept[f"job:{ID}"]
        assert (record["state"], record["error"]) == ("lost", "the server was stopped")
        assert record["ended"] <= time.time()

    asyncio.run(run())


# Declared in vain ---------------------------------------------------------------------


def test_a_pool_that_nobody_has_declared_is_refused() -> None:
    app = Pixie()
    app.jobs(pool="dear")
    with pytest.raises(PixieError, match="there is no pool 'dear'"):
        app.freeze()


def test_an_application_that_is_mounted_has_no_jobs_of_its_own() -> None:
    app, below = Pixie(), Pixie()
    below.jobs(workers=1)
    app.mount("/below", below)
    with pytest.raises(PixieError, match="shares its jobs"):
        app.freeze()
