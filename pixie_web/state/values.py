"""Keys, values and errors: the same for every store."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Tuple, Union

from ..errors import HTTPError, PixieError
from ..text import dump_json, load_json

MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 1024 * 1024
INTEGER_MAX = 2**63 - 1
LOOP_SECONDS = 0.05  # how long a call on the event loop waits for its turn
WAIT_SECONDS = 5.0  # how long any other call does
KEEP_MESSAGES = 1_000
CHANNEL_SECONDS = 86_400.0  # a channel goes so long after its last message

NESTED = (
    "the state was called inside of another call of this thread: by update()'s "
    "function, or by a signal handler. `function` is given the values that it needs: "
    "name their keys, update(key, another_key, function=...), and call nothing in it"
)

# As a store keeps it: an integer, bytes, or the text of JSON.
Raw = Union[int, bytes, str]


class StateBusy(HTTPError):
    """It was somebody else's turn for too long: 503, try again. Nothing has changed."""

    def __init__(self, why: str) -> None:
        super().__init__(503, "Too busy; try again.", {"Retry-After": "1"})
        self.why = why

    def __str__(self) -> str:
        return self.why


class StateFull(PixieError):
    """There is no room for a new value: `state_max_bytes`, or the disk is full.

    The old values are as they were, and can be read.
    """


class StateLost(PixieError):
    """The lease of a lock has ended, and somebody else may hold it by now."""


class Entry(NamedTuple):
    """A value with what goes with it.

    Attributes:
        value: None where there is none.
        version: of this value, another one after each change; 0 where there is none.
            `set(..., version=)` takes it.
        expire: seconds until it goes, or None: it stays.
    """

    value: Any
    version: int
    expire: Optional[float] = None


class Rate(NamedTuple):
    """Whether a call of `rate` was within its limit.

    Attributes:
        allowed: it was.
        remaining: how many more would be, right now.
        retry_after: seconds until one would be; 0.0 if this one was.
    """

    allowed: bool
    remaining: int
    retry_after: float


class Message(NamedTuple):
    """A message of a channel.

    Attributes:
        id: grows by one with each message of the channel; `subscribe(after=)` takes it.
        data: what was published.
        missed: how many messages were dropped between this one and the one before it,
            because nobody keeps so many: 0 for a reader that keeps up.
    """

    id: int
    data: Any
    missed: int = 0


def check_key(key: str) -> str:
    """Return a key that can be one.

    Raises:
        TypeError: it is no text.
        ValueError: it is empty, too long, or not Unicode.
    """
    if not isinstance(key, str):
        raise TypeError(f"a key is text, got {type(key).__name__}")
    # PERF: encoding takes 0.1 us; a character is four bytes at most.
    if not key or (len(key) > 128 and len(key.encode()) > MAX_KEY_BYTES):
        raise ValueError(
            f"a key is 1 to {MAX_KEY_BYTES} bytes of UTF-8, got {len(key.encode())}: "
            f"{key[:40]!r}; a hash of what it is made of is shorter"
        )
    if not key.isascii():
        key.encode()  # half a surrogate pair is an error here, in every store alike
    return key


def check_integer(number: int) -> int:
    """Return an integer of 64 bits; raise OverflowError for one beyond."""
    if not -INTEGER_MAX - 1 <= number <= INTEGER_MAX:
        raise OverflowError(f"an integer in the state has 64 bits, got {number}")
    return number


def check_count(name: str, number: int, least: int = 1) -> int:
    """Return a whole number from `least` on, or raise ValueError with its name."""
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"{name} is a whole number from {least}, got {number!r}")
    return check_integer(number)


def check_seconds(name: str, seconds: float) -> float:
    """Return a time that is more than 0 and finite, or raise ValueError."""
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= 1e9:
        raise ValueError(f"{name} is seconds, more than 0 and finite, got {seconds!r}")
    return float(seconds)


def check_expire(expire: Optional[float]) -> Optional[float]:
    """Return when a value is to go, in seconds; None: never."""
    return None if expire is None else check_seconds("expire", expire)


def encode(value: Any) -> Raw:
    """Return a value as stores keep it.

    Raises:
        TypeError, ValueError: JSON can't say it, and it is no bytes; or it is too long.
        OverflowError: an integer of more than 64 bits.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return check_integer(int(value))
    raw: Raw
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        size = len(raw)
    else:
        data = dump_json(value)
        raw, size = data.decode("utf-8"), len(data)
    if size > MAX_VALUE_BYTES:
        raise ValueError(
            f"a value in the state has at most {MAX_VALUE_BYTES} bytes, got {size}; "
            "put it into a file, and its name here"
        )
    return raw


def decode(raw: Optional[Raw]) -> Any:
    """Return what `encode` was given; None for None."""
    return load_json(raw.encode()) if isinstance(raw, str) else raw


def add_integers(raw: Optional[Raw], by: int, key: str) -> int:
    """Return a kept integer, or 0 where there is none, plus another.

    Raises:
        TypeError: it is no integer.
        OverflowError: the sum has more than 64 bits.
    """
    if raw is not None and not isinstance(raw, int):
        raise TypeError(f"incr({key!r}) finds a value that is no integer: {raw[:40]!r}")
    return check_integer((raw or 0) + by)


def call_update(function: Any, values: Tuple[Any, ...]) -> Tuple[Any, ...]:
    """Return what the function of an `update` makes of values, one for each.

    Raises:
        TypeError: it returned another number of them.
    """
    result = function(*values)
    if len(values) == 1:
        return (result,)
    if not isinstance(result, (tuple, list)) or len(result) != len(values):
        raise TypeError(
            f"update's function returns {len(values)} values, one for each key, got "
            f"{result!r:.60}"
        )
    return tuple(result)
