"""The store in Redis or Valkey, for servers on several machines.

It needs the package `redis`. A step that reads and writes is a function that the
server runs whole. All keys begin with `{pixie}:`, so that a cluster has them in one
place:

    k:KEY      a hash: i, an integer, or d: "b", bytes or "j", JSON; n: its version
    r:KEY      when the limit of a rate is whole again, in microseconds
    l:NAME     the token of who holds a lock
    c:CHANNEL  a stream, whose ids are those of the messages
    m:CHANNEL  a hash: base, the id before its first message, and last, its last one
    v          the last version
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ..errors import MissingExtra, PixieError
from .counts import Counts, total
from .places import Place
from .values import (
    NESTED,
    WAIT_SECONDS,
    Entry,
    Rate,
    Raw,
    StateBusy,
    StateFull,
    call_update,
    decode,
    encode,
)

PREFIX = "{pixie}:"
BELL = PREFIX + "bell"
VERSION = PREFIX + "v"
THREADS = 8  # for coroutines

# A Lua number is a double: exact up to 2**53, so as text it has no exponent.
PRELUDE = """
local function text(number) return string.format('%.0f', number) end
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
local function version()
  local key = KEYS[#KEYS]
  local v = text(math.max(tonumber(redis.call('GET', key) or '0') + 1, now()))
  redis.call('SET', key, v)
  return v
end
"""
SCRIPTS = {
    "set": """
local n = redis.call('HGET', KEYS[1], 'n') or '0'
if ARGV[4] ~= '' and n ~= ARGV[4] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], 'n', version())
if ARGV[3] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
""",
    "incr": """
local found = redis.call('HGET', KEYS[1], 'd')
if found then return {0, found} end
local is_new = redis.call('EXISTS', KEYS[1]) == 0
local sum = redis.pcall('HINCRBY', KEYS[1], 'i', ARGV[1])
if type(sum) == 'table' and sum.err then return {2, sum.err} end
redis.call('HSET', KEYS[1], 'n', version())
if is_new and ARGV[2] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return {1, redis.call('HGET', KEYS[1], 'i')}
""",
    "rate": """
local interval, limit, t = tonumber(ARGV[1]), tonumber(ARGV[2]), now()
local whole = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), t)
local ahead = whole + interval - t - interval * limit
if ahead > 0 then return {0, 0, text(ahead)} end
whole = whole + interval
redis.call('SET', KEYS[1], text(whole), 'PX', text(math.ceil((whole - t) / 1000)))
return {1, math.floor(-ahead / interval), '0'}
""",
    "change": """
local count = #KEYS - 1
for i = 1, count do
  local n = redis.call('HGET', KEYS[i], 'n') or '0'
  if n ~= ARGV[1 + i * 3 - 2] then return 0 end
end
for i = 1, count do
  local kind, raw = ARGV[1 + i * 3 - 1], ARGV[1 + i * 3]
  if kind == '' then
    redis.call('DEL', KEYS[i])
  else
    redis.call('HSET', KEYS[i], 'n', version())
    redis.call('HDEL', KEYS[i], 'i', 'd')
    redis.call('HSET', KEYS[i], kind, raw)
    if ARGV[1] ~= '' then redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
  end
end
return 1
""",
    "acquire": """
if redis.call('EXISTS', KEYS[1]) == 1 then return '0' end
local token = version()
redis.call('SET', KEYS[1], token, 'PX', ARGV[1])
return token
""",
    "renew": """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""",
    "release": """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""",
    "publish": """
local last = tonumber(redis.call('HGET', KEYS[2], 'last'))
if not last then
  last = now()
  redis.call('HSET', KEYS[2], 'base', text(last))
end
last = text(last + 1)
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], last .. '-0', 'd', ARGV[1])
redis.call('HSET', KEYS[2], 'last', last)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return last
""",
    "messages": """
local base = redis.call('HGET', KEYS[2], 'base')
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not base or not first then return {} end
return {base, first[1],
  redis.call('XRANGE', KEYS[1], ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])}
""",
}


def pack(raw: Raw) -> Tuple[str, Any]:
    """Return the field that a value is kept in, and what is in it."""
    if isinstance(raw, int):
        return "i", raw
    if isinstance(raw, bytes):
        return "d", b"b" + raw
    return "d", "j" + raw


def unpack(data: bytes) -> Raw:
    """Return what `pack` was given, of the field "d"."""
    return data[1:] if data[:1] == b"b" else data[1:].decode()


def milliseconds(seconds: Optional[float]) -> Any:
    """Return a time as Redis takes it; "" for None."""
    return "" if seconds is None else max(1, math.ceil(seconds * 1000))


def import_redis() -> Any:
    """Return the package.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import redis
    except ImportError as error:
        raise MissingExtra('state="redis://..." needs: pip install redis') from error
    return redis


_here = threading.local()  # whether this thread is inside of an update's function


class RedisBell:
    """Says which channels have new messages: Redis' PUBLISH, as no more than a bell."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._pubsub = store.client.pubsub()
        with store.translated():
            self._pubsub.subscribe(BELL)

    def wait(self) -> Optional[List[str]]:
        """Wait for a second at most; return the channels with news, None: look at all.

        What was rung while the connection was lost nobody knows.
        """
        names: List[str] = []
        seconds = 1.0
        while True:
            with self._store.translated():
                found = self._pubsub.get_message(timeout=seconds)
            if found is None:
                return names
            if found["type"] != "message":
                return None
            names.append(found["data"].decode())
            seconds = 0.0

    def ring(self) -> None:
        """Have who waits look."""
        with self._store.translated():
            self._store.client.publish(BELL, "")

    def close(self) -> None:
        """Be no bell any more."""
        self._pubsub.close()


class Translated:
    """A block in which errors of the package become those of the state."""

    def __init__(self, errors: Any, name: str) -> None:
        self._errors = errors
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        errors = self._errors
        if not isinstance(error, errors.RedisError):
            return
        text = str(error)
        gone = errors.ConnectionError, errors.TimeoutError, errors.ReadOnlyError
        if isinstance(error, gone):
            raise StateBusy(f"{self._name} does not answer: {text}") from error
        if text.startswith("OOM"):
            raise StateFull(f"no room in {self._name}: {text}") from error
        raise PixieError(f"{self._name}: {text}") from error


class RedisStore:
    """A Redis, as this process sees it; its operations are those of `Session`.

    Args:
        place: its URL.

    Raises:
        MissingExtra: the package is not installed.
        PixieError: the URL is none.
        StateBusy: it can't be reached.
    """

    kind = "redis"
    inline = False

    def __init__(self, place: Place) -> None:
        redis = import_redis()
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self.place = place
        self.name = "redis at " + place.url.rpartition("@")[2]  # without its password
        self.counts = Counts(place.directory)
        self._errors = redis.exceptions
        try:
            # Without repetition: it would count twice what was lost on the way back.
            self.client = redis.Redis.from_url(
                place.url,
                socket_timeout=WAIT_SECONDS,
                socket_connect_timeout=WAIT_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise PixieError(f"state={self.name}: {error}") from None
        with self.translated():
            self.client.ping()
        self._scripts = {
            name: self.client.register_script(PRELUDE + text)
            for name, text in SCRIPTS.items()
        }
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pixie_web-state")

    def translated(self) -> Translated:
        """Return a block whose errors are those of the state."""
        return Translated(self._errors, self.name)

    def perform(self, name: str, *args: Any) -> Any:
        """Perform an operation.

        Raises:
            StateBusy: the server does not answer, or others change the same for long.
            StateFull: it has no room.
        """
        if getattr(_here, "updating", False):
            raise PixieError(NESTED)
        with self.translated():
            result = getattr(self, f"_{name}")(*args)
        self.counts.add()
        return result

    async def perform_async(self, name: str, *args: Any) -> Any:
        """The same for a coroutine, in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self.threads, partial(self.perform, name, *args)
        )

    def _run(self, script: str, keys: Sequence[str], *args: Any) -> Any:
        return self._scripts[script]([PREFIX + key for key in keys], args)

    # Values.

    def _get(self, key: str) -> Optional[Raw]:
        return self._read(key)[0]

    def _read(self, key: str) -> Tuple[Optional[Raw], int]:
        number, data, version = self.client.hmget(f"{PREFIX}k:{key}", "i", "d", "n")
        if data is not None:
            return unpack(data), int(version)
        return (None, 0) if number is None else (int(number), int(version))

    def _entry(self, key: str) -> Entry:
        with self.client.pipeline(transaction=True) as both:
            both.hmget(f"{PREFIX}k:{key}", "i", "d", "n").pttl(f"{PREFIX}k:{key}")
            (number, data, version), left = both.execute()
        if version is None:
            return Entry(None, 0)
        value = int(number) if data is None else decode(unpack(data))
        return Entry(value, int(version), left / 1000 if left >= 0 else None)

    def _set(
        self,
        key: str,
        value: Raw,
        expire: Optional[float],
        version: Optional[int] = None,
    ) -> bool:
        kind, data = pack(value)
        wanted = "" if version is None else version
        keys = f"k:{key}", "v"
        return bool(self._run("set", keys, kind, data, milliseconds(expire), wanted))

    def _delete(self, key: str) -> bool:
        return bool(self.client.delete(f"{PREFIX}k:{key}"))

    def _incr(self, key: str, by: int, expire: Optional[float]) -> int:
        outcome, found = self._run("incr", (f"k:{key}", "v"), by, milliseconds(expire))
        if outcome == 0:
            raise TypeError(
                f"incr({key!r}) finds a value that is no integer: {found[1:41]!r}"
            )
        if outcome == 2:
            raise OverflowError(f"an integer in the state has 64 bits: {found!r}")
        return int(found)

    def _rate(self, key: str, limit: int, seconds: float) -> Rate:
        interval = max(1, round(seconds * 1_000_000 / limit))
        allowed, left, ahead = self._run("rate", (f"r:{key}",), interval, limit)
        return Rate(bool(allowed), int(left), int(ahead) / 1_000_000)

    def _update(
        self,
        keys: Sequence[str],
        function: Callable[..., Any],
        expire: Optional[float],
    ) -> Tuple[Any, ...]:
        give_up = time.monotonic() + WAIT_SECONDS
        while True:
            found = [self._read(key) for key in keys]
            _here.updating = True
            try:
                values = tuple(decode(raw) for raw, _ in found)
                results = call_update(function, values)
            finally:
                _here.updating = False
            arguments: List[Any] = [milliseconds(expire)]
            for (_, version), result in zip(found, results):
                packed = ("", "") if result is None else pack(encode(result))
                arguments += (version, *packed)
            names = [f"k:{key}" for key in keys]
            if self._run("change", [*names, "v"], *arguments):
                return results
            if time.monotonic() > give_up:
                raise StateBusy(f"others keep changing {', '.join(keys)}")
            time.sleep(random.random() * 0.002)

    # Locks.

    def _acquire(self, name: str, lease: float) -> int:
        return int(self._run("acquire", (f"l:{name}", "v"), milliseconds(lease)))

    def _renew(self, name: str, token: int, lease: float) -> bool:
        return bool(self._run("renew", (f"l:{name}",), token, milliseconds(lease)))

    def _release(self, name: str, token: int) -> bool:
        return bool(self._run("release", (f"l:{name}",), token))

    # Channels.

    def _publish(
        self, channel: str, data: Raw, keep: int, expire: float
    ) -> Tuple[int, List[str]]:
        kind, packed = pack(data)
        packed = f"i{packed}" if kind == "i" else packed
        keys = f"c:{channel}", f"m:{channel}"
        arguments = packed, keep, milliseconds(expire), BELL, channel
        return int(self._run("publish", keys, *arguments)), []

    def _last_message(self, channel: str) -> int:
        return int(self.client.hget(f"{PREFIX}m:{channel}", "last") or 0)

    def _messages(
        self, channel: str, after: int, most: int
    ) -> Tuple[int, List[Tuple[int, Raw]]]:
        keys = f"c:{channel}", f"m:{channel}"
        found = self._run("messages", keys, after + 1, most)
        if not found:
            return 0, []
        base, first, rows = found
        dropped = int(first.partition(b"-")[0]) - 1
        read = [
            (int(one.partition(b"-")[0]), int(d[1:]) if d[:1] == b"i" else unpack(d))
            for one, (_, d) in rows
        ]
        return max(0, dropped - max(after, int(base))), read

    def publish(self, bells: List[str]) -> None:
        """Ring bells: the server has done so."""

    def open_bell(self) -> RedisBell:
        """Return what says that there are new messages."""
        return RedisBell(self)

    # Its end.

    def stats(self) -> Dict[str, Any]:
        """Return how much there is, and what was done with it.

        The bytes are all of the server's. Keys are counted in steps, at most 10,000.
        """
        with self.translated():
            keys = channels = cursor = 0
            for _ in range(10):
                cursor, found = self.client.scan(cursor, match=f"{PREFIX}*", count=1000)
                keys += sum(one.startswith(b"{pixie}:k:") for one in found)
                channels += sum(one.startswith(b"{pixie}:m:") for one in found)
                if not cursor:
                    break
            memory = self.client.info("memory")
        directory = self.place.directory
        counted = self.counts.own() if directory is None else total(directory)
        return {
            "keys": keys,
            "channels": channels,
            "bytes": memory.get("used_memory", 0),
            "max_bytes": memory.get("maxmemory", 0),
            **counted,
        }

    def close(self) -> None:
        """Close all connections of this process."""
        self.threads.shutdown(wait=False)
        self.client.close()

    def leak(self) -> List[Any]:
        """Return what a forked process must not close."""
        return [self.client]
