"""`app.state`: its methods, for functions and for coroutines."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from functools import lru_cache
from typing import Any, Callable, List, Optional, Sequence, Union, cast

from ..about import log
from ..errors import HTTPError, PixieError
from .gate import gates
from .hub import AsyncSubscription, Cursor, Hub, Subscription
from .places import Place, make_place, remove_place
from .values import (
    CHANNEL_SECONDS,
    INTEGER_MAX,
    KEEP_MESSAGES,
    Entry,
    Rate,
    StateBusy,
    StateLost,
    check_count,
    check_expire,
    check_integer,
    check_key,
    check_seconds,
    decode,
    encode,
)

LOCK_PAUSE_SECONDS = 0.005
MAX_LOCK_PAUSE_SECONDS = 0.05
After = Union[int, str, None]

_states: weakref.WeakSet[State] = weakref.WeakSet()
_leaked: List[Any] = []


def _forget_in_copy() -> None:
    """Let a forked process open the state again.

    What it has inherited is its parent's: closing it is not for this process, not even
    at its end. So nobody ever lets go of it.
    """
    gates.forget()
    for state in list(_states):
        inherited = state.forget()
        _leaked.extend(inherited)
        try:
            import ctypes

            for one in inherited:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))
        except ImportError:
            pass


@lru_cache(maxsize=None)
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_in_copy)


def read_after(after: After) -> Optional[int]:
    """Return the id of a message as a number; a client's text may be anything."""
    if isinstance(after, str):
        after = int(after) if after.isascii() and after.isdigit() else None
    if after is None or isinstance(after, int):
        return after if after is None or 0 <= after <= INTEGER_MAX else None
    raise TypeError(f"after is a message's id, got {after!r}")


def check_update(keys: Any, function: Callable[..., Any]) -> None:
    """Raise unless these are the arguments of an update."""
    if not keys:
        raise TypeError("update takes keys, and a function of their values")
    for key in keys:
        check_key(key)
    if len(set(keys)) < len(keys):
        raise ValueError(f"update names a key twice: {', '.join(keys)}")
    if not callable(function) or asyncio.iscoroutinefunction(function):
        raise TypeError(f"update's function is a def, got {function!r}")


class Lease:
    """A lock that is held.

    Attributes:
        name: of the lock.
        token: a number that grows each time somebody takes this lock. Who writes
            elsewhere in its name sends it along, and the smaller one is refused there.
    """

    def __init__(self, state: State, name: str, token: int, seconds: float) -> None:
        self.name = name
        self.token = token
        self._state = state
        self._seconds = seconds

    def _check(self, held: bool) -> None:
        if not held:
            raise StateLost(
                f"the lease of the lock {self.name!r} has ended; renew() it in time, "
                "or take a longer one: lock(name, lease=seconds)"
            )

    def renew(self) -> None:
        """Have the lease last as long as at first, from now on.

        Raises:
            StateLost: it has ended, and somebody else may hold the lock.
        """
        do = self._state.store.perform
        self._check(do("renew", self.name, self.token, self._seconds))


class AsyncLease(Lease):
    """The same, for coroutines."""

    async def renew(self) -> None:  # type: ignore[override]
        """As `Lease.renew`."""
        do = self._state.store.perform_async
        self._check(await do("renew", self.name, self.token, self._seconds))


class Lock:
    """The result of `State.lock`: `with` takes the lock, and gives it back."""

    def __init__(self, state: State, name: str, lease: float, wait: float) -> None:
        self.name = check_key(name)
        self.lease_seconds = check_seconds("lease", lease)
        is_number = isinstance(wait, (int, float)) and not isinstance(wait, bool)
        if not is_number or not wait >= 0:
            raise ValueError(f"wait is seconds, from 0, got {wait!r}")
        self.wait_seconds = wait
        self._state = state
        self._lease: Optional[Lease] = None

    def _busy(self) -> StateBusy:
        return StateBusy(
            f"the lock {self.name!r} was held by others for {self.wait_seconds:g} s"
        )

    def __enter__(self) -> Lease:
        give_up = time.monotonic() + self.wait_seconds
        pause = LOCK_PAUSE_SECONDS
        while True:
            token = self._state.store.perform("acquire", self.name, self.lease_seconds)
            if token:
                break
            left = give_up - time.monotonic()
            if left <= 0:
                raise self._busy()
            time.sleep(min(pause, left))
            pause = min(pause * 2, MAX_LOCK_PAUSE_SECONDS)
        self._lease = Lease(self._state, self.name, token, self.lease_seconds)
        return self._lease

    def __exit__(self, *_: object) -> None:
        assert self._lease is not None
        self._state.store.perform("release", self.name, self._lease.token)


class AsyncLock(Lock):
    """The same for `async with`."""

    async def __aenter__(self) -> AsyncLease:
        do = self._state.store.perform_async
        give_up = time.monotonic() + self.wait_seconds
        pause = LOCK_PAUSE_SECONDS
        while True:
            token = await do("acquire", self.name, self.lease_seconds)
            if token:
                break
            left = give_up - time.monotonic()
            if left <= 0:
                raise self._busy()
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, MAX_LOCK_PAUSE_SECONDS)
        lease = AsyncLease(self._state, self.name, token, self.lease_seconds)
        self._lease = lease
        return lease

    async def __aexit__(self, *_: object) -> None:
        assert self._lease is not None
        do = self._state.store.perform_async
        await do("release", self.name, self._lease.token)


class State:
    """State that is shared by all processes that name its place; see docs/state.md.

    Keys are text of up to 512 bytes. Values are what JSON can say, or bytes, up to 1
    MiB; integers have 64 bits. Each call is atomic: it happens wholly or not at all,
    and every process sees its result.

    Args:
        url: a path, `redis://...`, `rediss://...` or `unix://...`; "memory" is a place
            of this object alone, and is removed with it.
        max_bytes: how large a file may grow.
        durable: wait for the disk at each change, so that a power cut loses none.
        place: a function that returns the place, at the first call; run() has that of
            `app.state`.

    Raises, each of its calls:
        PixieError: there is no such place, or another program's file is there.
        StateBusy: others held it for five seconds; on an event loop, for 50 ms.
        StateFull: there is no room; the old values stay.
        TypeError, ValueError: a key or a value that can't be one.
    """

    def __init__(
        self,
        url: str = "memory",
        *,
        max_bytes: int = 32 * 1024 * 1024,
        durable: bool = False,
        place: Optional[Callable[[], Sequence[Any]]] = None,
    ) -> None:
        self._arguments = url, max_bytes, durable
        self._find_place = place
        self._owned: Optional[Place] = None  # what goes with this object
        self.aio = AsyncState(self)
        self._store: Any = None
        self._hub: Optional[Hub] = None
        self._opening = threading.Lock()
        _states.add(self)

    # Opening and closing.

    @property
    def store(self) -> Any:
        """The store, opened by the first call in this process."""
        if self._store is None:
            _watch_forks()
            with self._opening:
                if self._store is None:
                    self._store = open_store(self._place())
        return self._store

    def _place(self) -> Place:
        if self._find_place is not None:
            return Place(*self._find_place())
        place = make_place(*self._arguments, of_server=False)
        self._owned = place if place.volatile else None
        return place

    @property
    def hub(self) -> Hub:
        """The subscriptions of this process."""
        store = self.store
        with self._opening:
            if self._hub is None:
                self._hub = Hub(store)
            return self._hub

    def close(self) -> None:
        """Close what this process has open; the next call opens it again."""
        with self._opening:
            store, hub, self._store, self._hub = self._store, self._hub, None, None
        if hub is not None:
            hub.end()
        if store is not None:
            store.close()
        if self._owned is not None:
            remove_place(self._owned)
            self._owned = None

    def forget(self) -> List[Any]:
        """Be closed without closing: in a forked process."""
        store, hub, self._store, self._hub = self._store, self._hub, None, None
        self._opening = threading.Lock()
        if hub is not None:
            hub.lock = threading.Lock()
        return [] if store is None else [store, hub, *store.leak()]

    # Values.

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default."""
        raw = self.store.perform("get", check_key(key))
        return default if raw is None else decode(raw)

    def read(self, key: str) -> Entry:
        """Return a value with its version, for `set(..., version=)`, and its end."""
        return cast(Entry, self.store.perform("entry", check_key(key)))

    def set(
        self,
        key: str,
        value: Any,
        *,
        expire: Optional[float] = None,
        version: Optional[int] = None,
    ) -> bool:
        """Set a value; return whether it was set.

        Args:
            expire: seconds until it is removed; it stays when left out, also if the old
                value had an end.
            version: set it only if the value still has this version, which `read` has
                returned; 0: only if there is none. So no change is overwritten unseen.
        """
        raw, end = encode(value), check_expire(expire)
        if version is not None:
            check_count("version", version, 0)
        return bool(self.store.perform("set", check_key(key), raw, end, version))

    def add(self, key: str, value: Any, *, expire: Optional[float] = None) -> bool:
        """Set a value if there is none; return whether it was set."""
        return self.set(key, value, expire=expire, version=0)

    def delete(self, key: str) -> bool:
        """Remove a value; return whether there was one."""
        return bool(self.store.perform("delete", check_key(key)))

    def incr(self, key: str, by: int = 1, *, expire: Optional[float] = None) -> int:
        """Add to an integer, 0 if there is none yet, and return the sum.

        Args:
            expire: seconds from the first call on: so it counts within a fixed window.

        Raises:
            TypeError: the value is no integer.
            OverflowError: the sum has more than 64 bits; the value stays.
        """
        if isinstance(by, bool) or not isinstance(by, int):
            raise TypeError(f"by is an integer, got {by!r}")
        end = check_expire(expire)
        arguments = check_key(key), check_integer(by), end
        return int(self.store.perform("incr", *arguments))

    def rate(self, key: str, *, limit: int, seconds: float) -> Rate:
        """Count a call, and say whether it is within `limit` calls in `seconds`.

        At first `limit` calls may come at once; later one each `seconds / limit`
        (GCRA). Refused calls do not count. Its keys are separate from those of values.
        """
        check_count("limit", limit)
        span = check_seconds("seconds", seconds)
        return cast(Rate, self.store.perform("rate", check_key(key), limit, span))

    def update(
        self,
        *keys: str,
        function: Callable[..., Any],
        expire: Optional[float] = None,
    ) -> Any:
        """Change one or several values at once, and return the new ones.

        Args:
            keys: the function gets their values, None where there is none.
            function: returns the new value, or for several keys a tuple of them; None
                removes a value. It must be quick, because all other writers wait for
                it. It must not use the state, and must change nothing else, because it
                may be called again.
            expire: seconds until they are removed; left out, each keeps its end.
        """
        check_update(keys, function)
        end = check_expire(expire)
        results = self.store.perform("update", keys, function, end)
        return results[0] if len(keys) == 1 else tuple(results)

    def lock(self, name: str, *, lease: float = 30.0, wait: float = 5.0) -> Lock:
        """Return a lock: `with app.state.lock("report") as lease:`.

        It is free again at the end of the block, when its process dies (in the same
        machine), or when the lease ends: `lease.renew()` starts the lease again.

        Args:
            lease: seconds that it may be held.
            wait: seconds to wait while others hold it; then StateBusy is raised.
        """
        return Lock(self, name, lease, wait)

    # Messages.

    def publish(
        self,
        channel: str,
        data: Any,
        *,
        keep: int = KEEP_MESSAGES,
        expire: float = CHANNEL_SECONDS,
    ) -> int:
        """Add a message to a channel, and return its id: one more than the id before.

        Args:
            keep: how many messages the channel keeps for those who come later.
            expire: seconds until the channel goes, counted from its last message.
        """
        raw, end = encode(data), check_seconds("expire", expire)
        arguments = check_key(channel), raw, check_count("keep", keep), end
        number, bells = self.store.perform("publish", *arguments)
        self.store.publish(bells)
        return int(number)

    def subscribe(
        self,
        channel: str,
        *,
        after: After = None,
        until: Optional[Callable[[], bool]] = None,
    ) -> Subscription:
        """Return the messages of a channel, to be iterated over; it waits for each.

        Args:
            after: the id of the last message that was seen, or the text of a header
                `Last-Event-ID`; a text that is no id means None. 0: all messages that
                are kept. None: new messages only.
            until: a function that is called twice a second while nothing comes; the
                messages end when it returns true: `until=lambda: env.disconnected` in a
                stream of the pool.
        """
        cursor = Cursor(self.hub, check_key(channel), read_after(after))
        return Subscription(cursor, until)

    def stats(self) -> Any:
        """Return how much the state holds, and counts of its calls: docs/status.md."""
        return {"store": self.store.kind, **self.store.stats()}

    def summary(self) -> Any:
        """The same for statistics; None where it is unused, or out of reach.

        It makes no file that nobody needs, and raises nothing.
        """
        try:
            place = self._place() if self._store is None else self._store.place
            if place.volatile and not os.path.exists(place.url):
                return None
            return self.stats()
        except (HTTPError, PixieError, OSError) as error:
            log.warning("can't read the statistics of the state: %s", error)
            return None


class AsyncState:
    """`app.state.aio`: the same calls as those of `State`, to be awaited.

    None of them holds up the event loop; they wait up to five seconds for their turn.
    """

    def __init__(self, state: State) -> None:
        self._state: weakref.ref[State] = weakref.ref(state)

    @property
    def _own(self) -> State:
        state = self._state()
        if state is None:
            raise PixieError("this state is gone: keep the State, not only its aio")
        return state

    async def _do(self, name: str, *args: Any) -> Any:
        return await self._own.store.perform_async(name, *args)

    async def get(self, key: str, default: Any = None) -> Any:
        """As `State.get`."""
        raw = await self._do("get", check_key(key))
        return default if raw is None else decode(raw)

    async def read(self, key: str) -> Entry:
        """As `State.read`."""
        return cast(Entry, await self._do("entry", check_key(key)))

    async def set(
        self,
        key: str,
        value: Any,
        *,
        expire: Optional[float] = None,
        version: Optional[int] = None,
    ) -> bool:
        """As `State.set`."""
        raw, end = encode(value), check_expire(expire)
        if version is not None:
            check_count("version", version, 0)
        return bool(await self._do("set", check_key(key), raw, end, version))

    async def add(
        self, key: str, value: Any, *, expire: Optional[float] = None
    ) -> bool:
        """As `State.add`."""
        return await self.set(key, value, expire=expire, version=0)

    async def delete(self, key: str) -> bool:
        """As `State.delete`."""
        return bool(await self._do("delete", check_key(key)))

    async def incr(
        self, key: str, by: int = 1, *, expire: Optional[float] = None
    ) -> int:
        """As `State.incr`."""
        if isinstance(by, bool) or not isinstance(by, int):
            raise TypeError(f"by is an integer, got {by!r}")
        arguments = check_key(key), check_integer(by), check_expire(expire)
        return int(await self._do("incr", *arguments))

    async def rate(self, key: str, *, limit: int, seconds: float) -> Rate:
        """As `State.rate`."""
        check_count("limit", limit)
        span = check_seconds("seconds", seconds)
        return cast(Rate, await self._do("rate", check_key(key), limit, span))

    async def update(
        self,
        *keys: str,
        function: Callable[..., Any],
        expire: Optional[float] = None,
    ) -> Any:
        """As `State.update`; the function is a plain one here too."""
        check_update(keys, function)
        results = await self._do("update", keys, function, check_expire(expire))
        return results[0] if len(keys) == 1 else tuple(results)

    def lock(self, name: str, *, lease: float = 30.0, wait: float = 5.0) -> AsyncLock:
        """As `State.lock`, for `async with`."""
        return AsyncLock(self._own, name, lease, wait)

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        keep: int = KEEP_MESSAGES,
        expire: float = CHANNEL_SECONDS,
    ) -> int:
        """As `State.publish`."""
        raw, end = encode(data), check_seconds("expire", expire)
        arguments = check_key(channel), raw, check_count("keep", keep), end
        number, bells = await self._do("publish", *arguments)
        self._own.store.publish(bells)
        return int(number)

    def subscribe(
        self,
        channel: str,
        *,
        after: After = None,
        until: Optional[Callable[[], bool]] = None,
    ) -> AsyncSubscription:
        """As `State.subscribe`, for `async for`."""
        cursor = Cursor(self._own.hub, check_key(channel), read_after(after))
        return AsyncSubscription(cursor, until)


def server_place(url: str, max_bytes: int, durable: bool) -> Place:
    """Return where a server's state lies, once it is known that it can be opened.

    Raises:
        PixieError: it can't, and why.
    """
    place = make_place(url, max_bytes, durable)
    if not place.volatile:
        try:
            open_store(place).close()
        except BaseException:
            remove_place(place)
            raise
    return place


def open_store(place: Place) -> Any:
    """Return the store that a place names."""
    if place.url.startswith(("redis://", "rediss://", "unix://")):
        from .redis_store import RedisStore

        return RedisStore(place)
    from .store import Store

    return Store(place)
