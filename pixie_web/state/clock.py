"""A clock that all processes of a machine share, and that nobody sets back."""

from __future__ import annotations

import os
import time

MICROSECONDS = 1_000_000


def monotonic_microseconds() -> int:
    """Return the time of this boot; the same in all processes of the machine."""
    return time.monotonic_ns() // 1000


def wall_microseconds() -> int:
    """Return the time since 1970, which somebody may set back."""
    return time.time_ns() // 1000


def boot_id() -> str:
    """Return a text that is another one after each boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:  # not on Linux: to the minute; a clock that is set is a boot then
        since = wall_microseconds() - monotonic_microseconds()
        return f"since {since // (60 * MICROSECONDS)}"


def started_at(pid: int) -> str:
    """Return when a process started, in the kernel's ticks; "" if it is dead."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


def own_identity() -> str:
    """Return what tells this process from all others of the machine.

    In it is the namespace of its number: in another container nobody can say whether a
    process with that number lives. It is "" where the system tells none of that.
    """
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    pid = os.getpid()
    return f"{space} {pid} {started_at(pid)}"


def is_dead(identity: str) -> bool:
    """Return whether a process is known to be dead, given its `own_identity`."""
    space, _, rest = identity.partition(" ")
    pid, _, start = rest.partition(" ")
    if not pid or space != own_identity().partition(" ")[0]:
        return False
    return started_at(int(pid)) != start
