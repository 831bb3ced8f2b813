"""What `State` promises, on a file and on Redis alike."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, List

import pytest
from many import Many

from pixie_web import PixieError
from pixie_web.state import Entry, State, StateBusy, StateLost

VALUES: List[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    1.5,
    "",
    "text",
    "\u00e4 \U0001f600 \x00",
    b"",
    b"\x00\xff bytes",
    "j{}",
    "b",
    [],
    [1, [2, {"a": None}]],
    {"a": 1, "b": [True]},
    {"large": 2**70},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was(state: State, value: Any) -> None:
    assert state.set("key", value) is True
    found = state.get("key", "default")
    assert found == value
    assert type(found) is type(value)


KEYS = [
    "k",
    "a b",
    "\u00e4",
    "x" * 512,
    "\u20ac" * 170,
    "k:k",
    "*",
    "{pixie}:v",
    "a\x00b",
]


@pytest.mark.parametrize("key", KEYS, ids=ascii)
def test_a_key_is_text_of_up_to_512_bytes(state: State, key: str) -> None:
    state.set(key, "its own")
    state.set(key[:-1] + "?", "another one")
    assert state.get(key) == "its own"
    assert state.delete(key) is True
    assert state.get(key) is None


BAD_KEYS = [("", ValueError), ("x" * 513, ValueError), ("\u20ac" * 171, ValueError)]
BAD_KEYS += [("\ud800", ValueError), (b"k", TypeError), (1, TypeError)]  # type: ignore[list-item]


@pytest.mark.parametrize("key, error", BAD_KEYS)
def test_another_key_is_refused(state: State, key: Any, error: Any) -> None:
    for call in (state.get, state.read, state.delete, state.incr):
        with pytest.raises(error):
            call(key)
    with pytest.raises(error):
        state.publish(key, "message")


BAD_VALUES = [
    (object(), TypeError, "not JSON serializable"),
    ({"a": {1, 2}}, TypeError, "not JSON serializable"),
    (float("nan"), ValueError, "JSON"),
    ("x" * 2**20, ValueError, "1048576 bytes"),
    (b"x" * (2**20 + 1), ValueError, "put it into a file"),
    (2**63, OverflowError, "64 bits"),
    (-(2**63) - 1, OverflowError, "64 bits"),
]


@pytest.mark.parametrize(
    "value, error, text", BAD_VALUES, ids=lambda value: repr(value)[:20]
)
def test_another_value_is_refused_and_the_old_one_stays(
    state: State, value: Any, error: Any, text: str
) -> None:
    state.set("key", "old")
    with pytest.raises(error, match=text):
        state.set("key", value)
    with pytest.raises(error, match=text):
        state.update("key", function=lambda old: value)
    with pytest.raises(error, match=text):
        state.publish("channel", value)
    assert state.get("key") == "old"


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), True, "1"])
def test_an_expiry_is_seconds_from_now(state: State, seconds: Any) -> None:
    with pytest.raises(ValueError, match="expire is seconds"):
        state.set("key", 1, expire=seconds)
    with pytest.raises(ValueError, match="expire is seconds"):
        state.incr("key", expire=seconds)


def wait_until(condition: Any) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_a_missing_key_gives_the_default(state: State) -> None:
    assert state.get("missing") is None
    assert state.get("missing", 3) == 3
    assert state.read("missing") == Entry(None, 0, None)
    assert state.delete("missing") is False


def test_what_has_expired_is_not_there(state: State) -> None:
    state.set("short", 1, expire=0.05)
    state.set("long", 1, expire=1000)
    assert state.add("short", 2) is False
    wait_until(lambda: state.get("short") is None)
    assert state.read("short") == Entry(None, 0, None)
    assert state.delete("short") is False
    assert state.add("short", 2) is True
    assert state.get("short") == 2
    assert 990 < (state.read("long").expire or 0) <= 1000
    state.set("long", 2)
    assert state.read("long").expire is None


def test_add_sets_what_is_not_there(state: State) -> None:
    assert state.add("key", 1) is True
    assert state.add("key", 2) is False
    assert state.get("key") == 1


def test_incr_counts_from_zero(state: State) -> None:
    assert [state.incr("n"), state.incr("n", 5), state.incr("n", -7)] == [1, 6, -1]
    assert state.get("n") == -1


def test_incr_keeps_the_end_that_its_first_call_set(state: State) -> None:
    state.incr("window", expire=100)
    state.incr("window", expire=1000)
    assert 0 < (state.read("window").expire or 0) <= 100
    state.incr("forever")
    state.incr("forever", expire=10)
    assert state.read("forever").expire is None


@pytest.mark.parametrize("value", ["text", b"1", [1], 1.0, None])
def test_incr_of_what_is_no_integer_is_an_error(state: State, value: Any) -> None:
    state.set("key", value)
    with pytest.raises(TypeError, match="no integer"):
        state.incr("key")
    assert state.get("key") == value


@pytest.mark.parametrize("start, by", [(2**63 - 1, 1), (-(2**63), -1), (1, 2**63 - 1)])
def test_an_overflow_leaves_the_value(state: State, start: int, by: int) -> None:
    state.set("key", start)
    with pytest.raises(OverflowError, match="64 bits"):
        state.incr("key", by)
    assert state.get("key") == start


@pytest.mark.parametrize("by", [1.5, "1", None, True])
def test_incr_adds_integers(state: State, by: Any) -> None:
    with pytest.raises(TypeError, match="by is an integer"):
        state.incr("key", by)


def test_a_version_changes_with_each_change(state: State) -> None:
    versions = [0]
    for change in (
        lambda: state.set("key", 1),
        lambda: state.set("key", 1),
        lambda: state.incr("key"),
        lambda: state.update("key", function=lambda n: n),
        lambda: state.delete("key") and state.set("key", 1),
    ):
        change()
        versions.append(state.read("key").version)
    assert versions == sorted(set(versions))


def test_a_value_is_set_if_its_version_is_the_one_that_was_read(state: State) -> None:
    assert state.set("key", "first", version=0) is True
    assert state.set("key", "again", version=0) is False
    entry = state.read("key")
    assert entry.value == "first"
    assert state.set("key", "second", version=entry.version) is True
    assert state.set("key", "third", version=entry.version) is False
    assert state.get("key") == "second"
    state.delete("key")
    assert state.set("key", "fourth", version=entry.version) is False


def test_update_changes_several_values_or_none(state: State) -> None:
    state.set("a", 5)
    result = state.update("a", "b", function=lambda a, b: (a - 1, (b or 0) + 1))
    assert result == (4, 1)
    assert (state.get("a"), state.get("b")) == (4, 1)

    def fails(a: int, b: int) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        state.update("a", "b", function=fails)
    with pytest.raises(TypeError, match="returns 2 values"):
        state.update("a", "b", function=lambda a, b: a)
    with pytest.raises(OverflowError):
        state.update("a", "b", function=lambda a, b: (0, 2**64))
    assert (state.get("a"), state.get("b")) == (4, 1)
    assert state.update("a", "b", function=lambda a, b: (None, 2)) == (None, 2)
    assert state.read("a").version == 0
    assert state.update("list", function=lambda v: [*(v or []), 1]) == [1]


def test_update_keeps_the_end_of_a_value_or_sets_it(state: State) -> None:
    state.set("a", 1, expire=100)
    state.update("a", "b", function=lambda a, b: (2, 2))
    assert 0 < (state.read("a").expire or 0) <= 100
    assert state.read("b").expire is None
    state.update("b", function=lambda b: 3, expire=50)
    assert 0 < (state.read("b").expire or 0) <= 50


def test_update_takes_keys_and_a_plain_function(state: State) -> None:
    async def coroutine(value: object) -> None: ...

    with pytest.raises(TypeError, match="takes keys"):
        state.update(function=lambda: ())
    with pytest.raises(ValueError, match="a key twice"):
        state.update("a", "a", function=lambda a, b: (a, b))
    with pytest.raises(TypeError, match="function is a def"):
        state.update("a", function=coroutine)


NESTED = {
    "get": lambda state: state.get("b"),
    "set": lambda state: state.set("b", 1),
    "update": lambda state: state.update("b", function=lambda b: 1),
    "publish": lambda state: state.publish("b", 1),
    "lock": lambda state: state.lock("b").__enter__(),
}


@pytest.mark.parametrize("call", NESTED.values(), ids=NESTED)
def test_the_state_inside_of_an_update_is_an_error_that_names_the_argument(
    state: State, call: Any
) -> None:
    with pytest.raises(
        PixieError, match=r"update\(key, another_key, function=\.\.\.\)"
    ):
        state.update("a", function=lambda a: call(state))
    assert state.update("a", function=lambda a: 1) == 1


def test_another_state_of_the_same_place_inside_of_an_update_is_one_too(
    state: State, url: str
) -> None:
    other = State(url)
    other.get("opened")
    with pytest.raises(PixieError, match="update"):
        state.update("a", function=lambda a: other.set("b", 1))
    other.close()
    assert state.set("a", 1)


def test_a_rate_lets_its_limit_pass_and_then_one_each_interval(state: State) -> None:
    began = time.monotonic()
    calls = [state.rate("key", limit=3, seconds=30) for _ in range(5)]
    assert time.monotonic() - began < 5
    assert [call.allowed for call in calls] == [True, True, True, False, False]
    assert [call.remaining for call in calls] == [2, 1, 0, 0, 0]
    assert calls[0].retry_after == 0.0
    assert 5 < calls[4].retry_after <= 10
    assert state.rate("other", limit=3, seconds=30).allowed
    assert state.get("key") is None  # a space of its own


def test_a_rate_is_whole_again_in_time(state: State) -> None:
    began = time.monotonic()
    count = 0
    for _ in range(10):
        call = state.rate("key", limit=5, seconds=1)
        count += call.allowed
        time.sleep(call.retry_after)
    # The slower this machine, the more it may be; never fewer.
    assert 7 <= count <= 5 + (time.monotonic() - began) / 0.2 + 1


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "5"])
def test_a_limit_is_a_whole_number(state: State, limit: Any) -> None:
    with pytest.raises(ValueError, match="limit is a whole number"):
        state.rate("key", limit=limit, seconds=1)


def test_a_lock_is_held_by_one(state: State) -> None:
    with state.lock("job") as first:
        with pytest.raises(StateBusy, match="held by others for 0 s") as caught:
            state.lock("job", wait=0).__enter__()
        assert caught.value.status == 503
        assert caught.value.headers["Retry-After"] == "1"
        with state.lock("another"):
            pass
    with state.lock("job", wait=0) as second:
        assert second.token > first.token


def test_a_lock_is_waited_for(state: State) -> None:
    order = []
    lock = state.lock("job")
    lock.__enter__()

    def second() -> None:
        with state.lock("job", wait=20):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    order.append("first")
    lock.__exit__()
    thread.join(20)
    assert order == ["first", "second"]


def test_a_lease_that_has_ended_is_told_to_its_holder(state: State) -> None:
    first, second = state.lock("job", lease=0.05), state.lock("job", wait=20)
    with first as lease, second as other:  # when the first has ended
        assert other.token > lease.token
        with pytest.raises(StateLost, match="lease of the lock 'job' has ended"):
            lease.renew()
    with state.lock("job", lease=0.3, wait=0) as lease:
        for _ in range(10):
            time.sleep(0.06)
            lease.renew()


@pytest.mark.parametrize("wait", [-1, True, "1", float("nan")])
def test_a_wait_is_seconds(state: State, wait: Any) -> None:
    with pytest.raises(ValueError, match="wait is seconds"):
        state.lock("job", wait=wait)


def test_coroutines_have_the_same_calls(state: State) -> None:
    aio = state.aio

    async def all_of_them() -> None:
        assert await aio.set("key", [1]) is True
        assert await aio.get("key") == [1]
        assert await aio.get("missing", 2) == 2
        entry = await aio.read("key")
        assert await aio.set("key", 1, version=entry.version)
        assert await aio.add("key", 2, expire=3) is False
        assert await aio.incr("key", 2) == 3
        assert await aio.update("key", "b", function=lambda a, b: (a, a)) == (3, 3)
        assert (await aio.rate("key", limit=1, seconds=60)).allowed
        assert not (await aio.rate("key", limit=1, seconds=60)).allowed
        async with aio.lock("job") as lease:
            await lease.renew()
            with pytest.raises(StateBusy):
                await aio.lock("job", wait=0.01).__aenter__()
        assert await aio.delete("key") is True
        with pytest.raises(TypeError):
            await aio.set("key", object())

    asyncio.run(all_of_them())
    assert state.get("b") == 3


def test_many_coroutines_lose_nothing(state: State) -> None:
    async def count() -> None:
        await asyncio.gather(*(state.aio.incr("n") for _ in range(200)))

    asyncio.run(count())
    assert state.get("n") == 200


COUNTING = """
from pixie_web.state import State
state = State(sys.argv[2])
state.get("opened")
def cas():
    while True:
        entry = state.read("cas")
        if state.set("cas", (entry.value or 0) + 1, version=entry.version):
            return
ready()
for way in (
    lambda: state.incr("incr"),
    lambda: state.update("update", function=lambda n: (n or 0) + 1),
    cas,
):
    for _ in range(int(sys.argv[3])):
        way()
tell(sum(state.rate("login", limit=5, seconds=600).allowed for _ in range(50)))
"""


def test_processes_that_count_lose_nothing_and_share_a_rate(url: str) -> None:
    count = 200 if "unix:" in url else 600
    with Many(4, COUNTING, url, str(count)) as many:
        many.go()
        assert sum(many.results()) == 5
    state = State(url)
    found = [state.get(way) for way in ("incr", "update", "cas")]
    assert found == [4 * count] * 3
    state.close()


TOKENS = """
from pixie_web.state import State
state = State(sys.argv[2])
ready()
tokens = []
for _ in range(8):
    with state.lock("job", wait=60) as lease:
        inside = state.incr("inside")
        assert inside == 1, inside
        tokens.append(lease.token)
        state.incr("inside", -1)
tell(tokens)
"""


def test_a_lock_is_one_among_processes_and_its_tokens_grow(url: str) -> None:
    with Many(3, TOKENS, url) as many:
        many.go()
        results = many.results()
    for tokens in results:
        assert tokens == sorted(tokens)
    assert len({token for tokens in results for token in tokens}) == 24
