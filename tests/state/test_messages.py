"""Publish and subscribe, on a file and on Redis alike; and server-sent events."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from many import Many
from support import Server, server_fixture

from pixie_web.state import State, bells, hub


def take(subscription: Any, count: int) -> List[Any]:
    return [next(subscription).data for _ in range(count)]


def wait_until(condition: Any) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_a_message_has_the_id_after_the_one_before_it(state: State) -> None:
    ids = [state.publish("a", n) for n in range(3)]
    assert ids == [ids[0], ids[0] + 1, ids[0] + 2]
    state.publish("b", "between")
    assert state.publish("a", 3) == ids[2] + 1
    with state.subscribe("a", after=0) as subscription:
        found = [next(subscription) for _ in range(4)]
    assert [one.id for one in found] == [*ids, ids[2] + 1]
    assert [one.data for one in found] == [0, 1, 2, 3]
    assert [one.missed for one in found] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "data", ["", "text", b"\x00b", 7, -(2**63), None, [1], {"a": 1}]
)
def test_what_is_published_comes_back_as_it_was(state: State, data: Any) -> None:
    state.publish("a", data)
    with state.subscribe("a", after=0) as subscription:
        found = next(subscription).data
    assert found == data
    assert type(found) is type(data)


def test_a_subscriber_gets_what_comes_after_it(state: State) -> None:
    state.publish("a", "before")
    subscription = state.subscribe("a")
    new = state.subscribe("a channel that nobody has")
    for n in range(5):
        state.publish("a", n)
    assert take(subscription, 5) == [0, 1, 2, 3, 4]
    state.publish("a channel that nobody has", "first")
    message = next(new)
    assert (message.data, message.missed) == ("first", 0)


AFTERS = [None, "", "no number", "-1", "\u0663", "9" * 30, "1e3"]


@pytest.mark.parametrize("after", AFTERS, ids=ascii)
def test_a_header_that_is_no_id_means_from_now_on(state: State, after: Any) -> None:
    state.publish("a", "before")
    subscription = state.subscribe("a", after=after)
    state.publish("a", "after")
    assert take(subscription, 1) == ["after"]


def test_a_reader_goes_on_where_it_was(state: State) -> None:
    ids = [state.publish("a", n) for n in range(10)]
    assert take(state.subscribe("a", after=ids[3]), 6) == [4, 5, 6, 7, 8, 9]
    assert take(state.subscribe("a", after=str(ids[7])), 2) == [8, 9]
    with pytest.raises(TypeError, match="after is a message's id"):
        state.subscribe("a", after=1.5)  # type: ignore[arg-type]


def test_who_is_too_slow_is_told_how_many_it_missed(state: State) -> None:
    subscription = state.subscribe("a")
    for n in range(1000):
        state.publish("a", n, keep=10)
    message = next(subscription)
    assert message.missed == message.data > 800
    rest = take(subscription, 999 - message.data)
    assert rest == list(range(message.data + 1, 1000))
    assert 10 <= len(rest) + 1 <= 10 + 64


def test_a_channel_goes_some_time_after_its_last_message(state: State) -> None:
    first = state.publish("a", "old", expire=0.05)
    time.sleep(0.1)
    for n in range(300):  # a file is swept by who writes
        state.set("key", n)
    second = state.publish("a", "new", expire=100)
    # Whoever comes back with an id of the old one gets all of the new one.
    message = next(state.subscribe("a", after=first))
    assert message == (second, "new", 0)
    assert second > first


def test_a_subscriber_waits_for_a_message(state: State) -> None:
    found: List[Any] = []
    subscription = state.subscribe("a")
    thread = threading.Thread(target=lambda: found.extend(take(subscription, 3)))
    thread.start()
    for n in range(3):
        time.sleep(0.01)
        state.publish("a", n)
    thread.join(20)
    assert found == [0, 1, 2]


def test_until_ends_a_subscription_that_is_silent(state: State) -> None:
    asked = []

    def until() -> bool:
        asked.append(1)
        return len(asked) > 1

    assert list(state.subscribe("a", until=until)) == []
    assert len(asked) == 2

    async def async_one() -> None:
        asked.clear()
        assert [m async for m in state.aio.subscribe("a", until=until)] == []

    asyncio.run(async_one())


def test_coroutines_wait_without_holding_the_loop(state: State) -> None:
    async def listen(count: int) -> List[Any]:
        found = []
        async with state.aio.subscribe("a", after=0) as subscription:
            async for message in subscription:
                found.append(message.data)
                if len(found) == count:
                    break
        return found

    async def all_of_them() -> None:
        tasks = [asyncio.ensure_future(listen(100)) for _ in range(20)]
        for n in range(100):
            await state.aio.publish("a", n)
        assert await asyncio.gather(*tasks) == [list(range(100))] * 20

    asyncio.run(all_of_them())


def test_a_coroutine_that_reads_late_gets_what_came_since_it_subscribed(
    state: State,
) -> None:
    async def read_late() -> None:
        state.publish("a", "before")
        subscription = state.aio.subscribe("a")
        if subscription._starting is not None:  # a Redis is asked in a thread
            await asyncio.wrap_future(subscription._starting)
        state.publish("a", "after")
        assert (await subscription.__anext__()).data == "after"

    asyncio.run(asyncio.wait_for(read_late(), 20))


def test_who_leaves_is_let_go(state: State) -> None:
    async def come_and_go() -> None:
        for _ in range(50):
            subscription = state.aio.subscribe("silent")
            task = asyncio.ensure_future(subscription.__anext__())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        channel = subscription._cursor.channel
        assert channel._futures == {}

    asyncio.run(come_and_go())
    broken = state.subscribe("another")
    broken.close()
    del broken
    gc.collect()
    wait_until(lambda: state.hub._thread is None)  # nobody is left
    assert state.hub._channels == {}
    assert state.stats()["subscribers"] == 0
    later = state.subscribe("silent")  # it begins anew
    state.publish("silent", "heard")
    assert take(later, 1) == ["heard"]


def test_a_slow_subscriber_costs_no_memory(state: State) -> None:
    first = state.publish("a", "before")
    quick, slow = state.subscribe("a"), state.subscribe("a")
    for n in range(2000):
        state.publish("a", [n, "x" * 100], keep=5000)
        if n % 50 == 49:
            take(quick, 50)
    channel = slow._cursor.channel
    assert channel is quick._cursor.channel
    wait_until(lambda: channel.last == first + 2000)
    assert len(channel._recent) <= hub.KEPT_MESSAGES
    assert [n for n, _ in take(slow, 2000)] == list(range(2000))


LISTENING = """
from pixie_web.state import State
state = State(sys.argv[2])
subscription = state.subscribe("a")
ready()
tell([next(subscription).data for _ in range(400)])
"""


def test_processes_hear_each_other_in_order(state: State, url: str) -> None:
    with Many(2, LISTENING, url) as many:
        for one in many.processes:
            assert one.stdin is not None
        many.go()
        for n in range(400):
            state.publish("a", n)
        assert many.results() == [list(range(400))] * 2


# Of the file alone.


def test_a_bell_that_nobody_hears_is_taken_down(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    orphan = tmp_path / "state.db-bell-1-0"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(orphan))  # whose process died before it said so
    state = State(path)

    def bells() -> List[str]:
        return list(state.store.perform("publish", "a", 1, 10, 10.0)[1])

    with Many(1, LISTENING, path) as many:
        wait_until(bells)
        assert not orphan.exists()
        many.processes[0].kill()
        many.processes[0].wait()
        assert list(tmp_path.glob("*-bell-*"))
        state.publish("a", 1)
        assert not list(tmp_path.glob("*-bell-*"))
        assert bells() == []
        state.close()


def test_a_bell_may_have_a_long_path(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    state = State(str(directory / "state.db"))
    subscription = state.subscribe("a")
    wait_until(lambda: state.hub._bell is not None)
    began = time.monotonic()
    state.publish("a", "heard")
    assert take(subscription, 1) == ["heard"]
    assert time.monotonic() - began < 0.9  # by the bell, and not by looking
    state.close()


def test_a_bell_that_is_full_has_been_rung(tmp_path: Path) -> None:
    path = str(tmp_path / "bell")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(path)
        assert all(bells.ring(path) for _ in range(2000))
    assert not bells.ring(path)
    assert not os.path.exists(path)


# Through a server ---------------------------------------------------------------------

PROGRAM = """
from pixie_web import Event, RouteType, app, run

state = app.state

@app.get("/asnc", RouteType.asnc)
async def by_task(env):
    yield Event(retry=100)
    async for m in state.aio.subscribe("room", after=env.header("last-event-id")):
        yield Event(m.data, id=m.id)

@app.get("/stream", RouteType.stream)
def by_worker(env):
    yield Event(retry=100)
    gone = lambda: env.disconnected
    for m in state.subscribe("room", after=env.header("last-event-id"), until=gone):
        yield Event(m.data, id=m.id, event="from a worker")
    state.incr("ended")

@app.post("/say")
def say(env):
    return {"id": state.publish("room", env.json)}

@app.post("/say/sync", RouteType.sync)
def say_sync(env):
    return {"id": state.publish("room", env.json)}

@app.get("/ended", RouteType.sync)
def ended(env):
    return {"ended": state.get("ended", 0)}

if __name__ == "__main__":
    run()
"""
JSON = {"Content-Type": "application/json"}
server = server_fixture(PROGRAM, ["asyncio"])


class Events:
    """What comes over a connection, as events: dicts of their fields."""

    def __init__(self, one: socket.socket, path: str, last: str = "") -> None:
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {last}\r\n\r\n"
        one.sendall(head.encode())
        self._one = one
        self._rest = b""
        self.head = b"".join(iter(self._line, b"\r\n"))

    def _line(self) -> bytes:
        while b"\n" not in self._rest:
            data = self._one.recv(65536)
            assert data, "the stream has ended"
            self._rest += data
        line, end, self._rest = self._rest.partition(b"\n")
        return line + end

    def _chunk(self) -> bytes:
        size = int(self._line(), 16)
        data = b""
        while len(data) < size + 2:
            data += self._line()
        assert data[size:] == b"\r\n"
        return data[:size]

    def __iter__(self) -> Iterator[Any]:
        text = ""
        while True:
            text += self._chunk().decode()  # several may come as one
            *events, text = text.split("\n\n")
            for event in events:
                yield dict(line.split(": ", 1) for line in event.split("\n"))


@contextmanager
def saying(server: Server, text: str) -> Iterator[None]:
    """Publish this again and again meanwhile."""
    is_over = threading.Event()

    def say() -> None:
        while not is_over.wait(0.005):
            server.request("POST", "/say/sync", json.dumps(text), JSON)

    thread = threading.Thread(target=say)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize("path", ["/asnc", "/stream"])
def test_a_page_hears_what_any_process_says(server: Server, path: str) -> None:
    with server.connect() as one, server.connect() as two:
        events, others = Events(one, path), Events(two, path)
        assert b"Content-Type: text/event-stream\r\n" in events.head
        assert b"Cache-Control: no-store\r\n" in events.head
        first, second = iter(events), iter(others)
        assert next(first) == next(second) == {"retry": "100"}
        # A message is missed by a reader that is not there yet.
        with saying(server, "hello"):
            next(first), next(second)
        last = ""
        for n, way in enumerate(["/say", "/say/sync"] * 3):
            data = json.dumps({"n": n, "text": "a\nb"})
            answer = server.request("POST", way, data, JSON)
            for reader in (first, second):
                event = next(reader)
                while int(event["id"]) < answer.json["id"]:
                    event = next(reader)
                assert json.loads(event["data"]) == {"n": n, "text": "a\nb"}
                last = event["id"]
        with server.connect() as three:
            again = iter(Events(three, path, str(int(last) - 2)))
            next(again)
            assert [json.loads(next(again)["data"])["n"] for _ in range(2)] == [4, 5]


def test_a_worker_whose_client_leaves_is_free_again(server: Server) -> None:
    before = server.get("/ended").json["ended"]
    with server.connect() as one:
        next(iter(Events(one, "/stream")))
    wait_until(lambda: server.get("/ended").json["ended"] > before)
