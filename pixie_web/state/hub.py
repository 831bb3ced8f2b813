"""Subscribers: one reader for all of a process, and a cursor for each.

The reader is a thread. It waits for the bell, reads new messages of the channels with
subscribers, keeps the last few messages of each, and wakes the waiting subscribers. A
fast subscriber takes them from there. A slow one reads the store from its cursor on.
So it delays no other one, and costs no memory.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from itertools import islice
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Set, Tuple

from ..about import log
from .values import Message, Raw, decode

KEPT_MESSAGES = 256  # of a channel, for all of its subscribers here
KEPT_BYTES = 1024 * 1024
BATCH_MESSAGES = 64
UNTIL_SECONDS = 0.5  # how often a silent subscriber checks for its end
RETRY_SECONDS = 0.2

Row = Tuple[int, Raw]


def size_of(raw: Raw) -> int:
    """Return about how much memory a message takes."""
    return 100 + (len(raw) if isinstance(raw, (str, bytes)) else 0)


class Channel:
    """A channel with subscribers, as this process knows it.

    Attributes:
        last: the id of the last message that was read; None: none was, yet.
        events: of who waits and is no coroutine.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.last: Optional[int] = None
        self.subscribers = 0
        self._recent: Deque[Row] = deque()
        self._recent_bytes = 0
        self.events: Set[threading.Event] = set()
        self._futures: Dict[asyncio.AbstractEventLoop, Set[asyncio.Future[None]]] = {}

    def add(self, rows: List[Row]) -> None:
        """Keep messages that follow upon those that are kept."""
        if self._recent and rows and rows[0][0] != self._recent[-1][0] + 1:
            self._recent.clear()
            self._recent_bytes = 0
        self._recent.extend(rows)
        self._recent_bytes += sum(size_of(raw) for _, raw in rows)
        while len(self._recent) > KEPT_MESSAGES or self._recent_bytes > KEPT_BYTES:
            self._recent_bytes -= size_of(self._recent.popleft()[1])
        if rows:
            self.last = rows[-1][0]

    def take(self, after: int) -> Optional[List[Row]]:
        """Return the next messages; [] if there are none; None: ask the store."""
        if self.last is None:
            return None
        if after >= self.last:
            return []
        first = self._recent[0][0] if self._recent else self.last + 1
        if after + 1 < first:
            return None
        start = after + 1 - first
        return list(islice(self._recent, start, start + BATCH_MESSAGES))

    # Waiting. All of this is called with the hub's lock held.

    def future(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return what is done once there is news; `forget` it in any case."""
        future: asyncio.Future[None] = loop.create_future()
        self._futures.setdefault(loop, set()).add(future)
        return future

    def forget(
        self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]
    ) -> None:
        """Let go of who waits no more: a silent channel would gather them."""
        futures = self._futures.get(loop)
        if futures is not None:
            futures.discard(future)
            if not futures:
                del self._futures[loop]

    def wake(self) -> None:
        """Wake all who wait."""
        for event in list(self.events):
            event.set()
        waiting, self._futures = self._futures, {}
        for loop, futures in waiting.items():
            try:
                loop.call_soon_threadsafe(settle, futures)
            except RuntimeError:
                pass  # it has closed


def settle(futures: Iterable[asyncio.Future[None]]) -> None:
    """End the waiting of several, on their loop."""
    for future in futures:
        if not future.done():
            future.set_result(None)


class Hub:
    """All that a process has subscribed to in one store.

    Args:
        store: as `Store`; None of its calls is made with the lock held.
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self.lock = threading.Lock()
        self._channels: Dict[str, Channel] = {}
        self._thread: Optional[threading.Thread] = None
        self._bell: Any = None
        self._ended = False
        self._left: Deque[Channel] = deque()

    def end(self) -> None:
        """Have the reader end: the store is about to be closed."""
        with self.lock:
            self._ended = True
            self._let_go()
            thread, bell = self._thread, self._bell
        if thread is not None:
            if bell is not None:
                bell.ring()
            thread.join(2.0)

    def join(self, name: str) -> Channel:
        """Return a channel, which has one subscriber more."""
        with self.lock:
            self._let_go()
            channel = self._channels.get(name)
            if channel is None:
                channel = self._channels[name] = Channel(name)
            channel.subscribers += 1
            self.store.counts.subscribed(1)
            if self._thread is None and not self._ended:
                self._thread = threading.Thread(
                    target=self._read, name="pixie_web-state", daemon=True
                )
                self._thread.start()
        return channel

    def leave(self, channel: Channel) -> None:
        """Have one subscriber less; with the last one of all, the reader ends.

        It takes no lock, since the collector may call it at any time, in a thread that
        has it: whoever takes the lock next does what is to be done.
        """
        self._left.append(channel)

    def _let_go(self) -> None:
        """Forget those that have left; the lock is held."""
        while self._left:
            channel = self._left.popleft()
            channel.subscribers -= 1
            self.store.counts.subscribed(-1)
            if not channel.subscribers:
                self._channels.pop(channel.name, None)

    def _read(self) -> None:
        """Be the reader, until nobody subscribes any more."""
        bell: Any = None
        while self._choose([]) is not None:
            try:
                if bell is None:
                    self._bell = bell = self.store.open_bell()
                    news = None  # of all: what came before the bell was there
                else:
                    news = bell.wait()
                for channel in self._choose(news) or ():
                    self._load(channel)
            except Exception as error:
                if not self._ended:
                    log.warning("messages are late: %s", error)
                    time.sleep(RETRY_SECONDS)
        if bell is not None:
            bell.close()

    def _choose(self, news: Optional[List[str]]) -> Optional[List[Channel]]:
        """Return the channels to look at; None: the reader is to end."""
        with self.lock:
            self._let_go()
            if self._ended or not self._channels:
                self._thread = None
                return None
            return [
                channel
                for name, channel in self._channels.items()
                if news is None or channel.last is None or name in news
            ]

    def _load(self, channel: Channel) -> None:
        if channel.last is None:
            last = self.store.perform("last_message", channel.name)
            with self.lock:
                channel.last = last
                channel.wake()
            return
        while True:
            _, rows = self.store.perform(
                "messages", channel.name, channel.last, KEPT_MESSAGES
            )
            with self.lock:
                channel.add(rows)
                channel.wake()
            if len(rows) < KEPT_MESSAGES:
                return


class Cursor:
    """Where a subscriber is in its channel.

    Args:
        after: the id of the last message that it has seen; None: of the last one.

    Attributes:
        is_behind: the last call of `next` found out that the store has to be asked.
    """

    def __init__(self, hub: Hub, channel: str, after: Optional[int]) -> None:
        self.hub = hub
        self.channel = hub.join(channel)
        self.is_behind = False
        self._joined = True
        self._after = -1 if after is None else after
        self._batch: Deque[Message] = deque()
        self._asked_until = 0

    @property
    def needs_start(self) -> bool:
        """Whether nobody has found out yet where "now" is."""
        return self._after < 0

    def start(self, last: int) -> None:
        """Begin behind a message."""
        self._after = last

    def next(self) -> Optional[Message]:
        """Return the next message, if it is here."""
        if not self._batch:
            with self.hub.lock:
                self._asked_until = self.channel.last or 0
                rows = self.channel.take(self._after)
            self.is_behind = rows is None
            if rows:
                self._fill(0, rows)
        return self._batch.popleft() if self._batch else None

    def question(self) -> Tuple[str, str, int, int]:
        """Return the call of the store that `fill` wants the result of."""
        return "messages", self.channel.name, self._after, BATCH_MESSAGES

    def fill(self, found: Tuple[int, List[Row]]) -> None:
        """Take what the store had."""
        self._fill(*found)
        if not found[1]:  # dropped, with its channel
            self._after = max(self._after, self._asked_until)

    def _fill(self, missed: int, rows: List[Row]) -> None:
        for number, raw in rows:
            self._batch.append(Message(number, decode(raw), missed))
            missed = 0
            self._after = number

    def has_news(self) -> bool:
        """Return whether `next` would have something to do; the hub's lock is held."""
        last = self.channel.last
        return bool(self._batch) or (last is not None and self._after < last)

    def close(self) -> None:
        """Be no subscriber any more."""
        if self._joined:
            self._joined = False
            self.hub.leave(self.channel)

    def __del__(self) -> None:
        self.close()


class Subscription:
    """The messages of a channel, one after the other; a `for` waits for the next one.

    It ends by `close()`, when nobody has it any more, or when `until()` is true.
    """

    def __init__(self, cursor: Cursor, until: Optional[Callable[[], bool]]) -> None:
        self._cursor = cursor
        self._until = until
        if cursor.needs_start:
            perform = cursor.hub.store.perform
            cursor.start(perform("last_message", cursor.channel.name))

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Message:
        cursor, store = self._cursor, self._cursor.hub.store
        while True:
            message = cursor.next()
            if message is not None:
                return message
            if cursor.is_behind:
                cursor.fill(store.perform(*cursor.question()))
            if not self._wait():
                self.close()
                raise StopIteration

    def _wait(self) -> bool:
        """Wait for messages; return False when it must end."""
        cursor = self._cursor
        news = threading.Event()
        while True:
            with cursor.hub.lock:
                if cursor.has_news():
                    return True
                cursor.channel.events.add(news)
            try:
                if self._until is not None and self._until():
                    return False
                news.wait(UNTIL_SECONDS)
            finally:
                cursor.channel.events.discard(news)

    def close(self) -> None:
        """End it."""
        self._cursor.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncSubscription:
    """The same for `async for`."""

    def __init__(self, cursor: Cursor, until: Optional[Callable[[], bool]]) -> None:
        self._cursor = cursor
        self._until = until
        self._starting: Any = None
        store, question = cursor.hub.store, ("last_message", cursor.channel.name)
        if cursor.needs_start and store.inline:
            cursor.start(store.perform(*question))
        elif cursor.needs_start:
            # "Now" is here, and not where somebody asks for the first message.
            self._starting = store.threads.submit(store.perform, *question)

    def __aiter__(self) -> AsyncSubscription:
        return self

    async def __anext__(self) -> Message:
        cursor, store = self._cursor, self._cursor.hub.store
        if self._starting is not None:
            starting, self._starting = self._starting, None
            cursor.start(await asyncio.wrap_future(starting))
        while True:
            message = cursor.next()
            if message is not None:
                return message
            if cursor.is_behind:
                cursor.fill(await store.perform_async(*cursor.question()))
            if not await self._wait():
                self.close()
                raise StopAsyncIteration

    async def _wait(self) -> bool:
        cursor, loop = self._cursor, asyncio.get_running_loop()
        while True:
            with cursor.hub.lock:
                if cursor.has_news():
                    return True
                future = cursor.channel.future(loop)
            timer = None
            try:
                if self._until is not None:
                    if self._until():
                        return False
                    timer = loop.call_later(UNTIL_SECONDS, settle, [future])
                await future
            finally:
                if timer is not None:
                    timer.cancel()
                with cursor.hub.lock:
                    cursor.channel.forget(loop, future)

    def close(self) -> None:
        """End it."""
        self._cursor.close()

    async def aclose(self) -> None:
        """The same, as of an async generator."""
        self.close()

    async def __aenter__(self) -> AsyncSubscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
