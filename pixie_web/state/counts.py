"""Counts of the calls that the processes of one server have made.

Each process counts in a file of its own, which main reads: so counting takes no lock,
and no call of the system. A new process goes on with the file of a dead one: there
are never more files than there were processes at once.
"""

from __future__ import annotations

import mmap
import os
from typing import Dict, Mapping, Optional

NAMES = (
    "operations",
    "waits",
    "waited_microseconds",
    "longest_wait_microseconds",
    "subscribers",
)
SIZE_BYTES = 8 * len(NAMES)
OPERATIONS, WAITS, WAITED, LONGEST, SUBSCRIBERS = range(len(NAMES))


def is_alive(name: str) -> bool:
    """Return whether the process that counts in a file is there."""
    try:
        os.kill(int(name.partition("-")[2]), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        pass
    return True


def take_over(directory: str, own: str) -> bool:
    """Give the file of a dead process a new name; return whether there was one."""
    for name in os.listdir(directory):
        if name.startswith("counts-") and not is_alive(name):
            try:
                os.rename(os.path.join(directory, name), own)
                return True
            except OSError:
                pass  # another one was quicker
    return False


def in_seconds(numbers: Mapping[str, int]) -> Dict[str, float]:
    """Return counts as they are told: times in seconds."""
    return {
        "operations": numbers["operations"],
        "waits": numbers["waits"],
        "wait_seconds": numbers["waited_microseconds"] / 1_000_000,
        "longest_wait_seconds": numbers["longest_wait_microseconds"] / 1_000_000,
        "subscribers": numbers["subscribers"],
    }


class Counts:
    """Counts what this process does.

    Args:
        directory: of the server's own; None: nobody looks.
    """

    def __init__(self, directory: Optional[str]) -> None:
        self._numbers = memoryview(bytearray(SIZE_BYTES)).cast("q")
        if directory is None:
            return
        own = os.path.join(directory, f"counts-{os.getpid()}")
        try:
            if not os.path.exists(own) and not take_over(directory, own):
                with open(own, "xb") as file:
                    # Written, or touching it would be a SIGBUS on a disk that is full.
                    file.write(bytes(SIZE_BYTES))
            with open(own, "r+b") as file:
                self._numbers = memoryview(mmap.mmap(file.fileno(), SIZE_BYTES)).cast(
                    "q"
                )
            self._numbers[SUBSCRIBERS] = 0  # of the dead one
        except (OSError, ValueError):
            pass  # no room for it: what matters goes on

    def add(self, waited_seconds: float = 0.0) -> None:
        """Count one operation, and for how long it had to wait for others."""
        numbers = self._numbers
        numbers[OPERATIONS] += 1
        if waited_seconds:
            waited = int(waited_seconds * 1_000_000)
            numbers[WAITS] += 1
            numbers[WAITED] += waited
            numbers[LONGEST] = max(numbers[LONGEST], waited)

    def subscribed(self, change: int) -> None:
        """Count subscribers that come and go."""
        self._numbers[SUBSCRIBERS] += change

    def own(self) -> Dict[str, float]:
        """Return what this process has counted."""
        return in_seconds(dict(zip(NAMES, self._numbers)))


def total(directory: str) -> Dict[str, float]:
    """Return what all processes of a server have counted."""
    numbers = dict.fromkeys(NAMES, 0)
    for name in os.listdir(directory):
        if not name.startswith("counts-"):
            continue
        try:
            with open(os.path.join(directory, name), "rb") as file:
                found = memoryview(file.read(SIZE_BYTES)).cast("q")
        except OSError:
            continue  # renamed in between
        alive = is_alive(name)
        for key, number in zip(NAMES, found):
            if key.startswith("longest"):
                numbers[key] = max(numbers[key], number)
            elif alive or key != "subscribers":
                numbers[key] += number
    return in_seconds(numbers)
