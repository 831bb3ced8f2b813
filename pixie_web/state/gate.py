"""One writer at a time: the gate in front of a file of state.

Why SQLite's own locks are not enough:

* Its busy handler sleeps in steps: with four writers the longest wait was 478 ms.
* SQLite before 3.51.3 may corrupt a file when one connection checkpoints while another
  commits (sqlite.org/wal.html#walresetbug). With every write and every checkpoint
  inside one exclusive lock, that can't happen.

The lock is a POSIX one, on a file of its own: the kernel takes it away from a process
that dies, and a fork does not inherit it. But it belongs to the process, not to a
thread, and closing any descriptor of the file drops it. So there is one descriptor of
each file in a process, and a lock among threads before it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
import time
from typing import Dict, Optional, Tuple

FIRST_PAUSE_SECONDS = 0.00005
PAUSE_GROWTH = 1.5
MAX_PAUSE_SECONDS = 0.001  # while the holder may be at work
LONG_PAUSE_SECONDS = 0.005  # when it seems to be stopped
LONG_SECONDS = 1.0
HUNGRY_SECONDS = 0.003  # who has waited so long goes first
YIELD_SECONDS = 0.002  # for so long, unless it says so again
FLAG_BYTES = 8


class GateTaken(Exception):
    """Somebody else is inside, and the patience is over."""


class Gate:
    """An exclusive lock among all threads of all processes that name one file.

    Who is inside comes back sooner than who looks for it each millisecond. So there is
    a flag in the file, in memory that all share: until when the others are to stand
    back for somebody who has waited for long. It is a time, so nobody has to take it
    down who may have been killed.

    Args:
        path: of the file; it is made, and holds the flag.
    """

    def __init__(self, path: str) -> None:
        self.users = 1
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # It knows its owner, so that leaving needs no flag that a signal could forge.
        self._lock = threading.RLock()
        self._flag = memoryview(bytearray(FLAG_BYTES)).cast("q")
        self._map: Optional[mmap.mmap] = None
        try:
            if os.fstat(self._descriptor).st_size < FLAG_BYTES:
                os.pwrite(self._descriptor, bytes(FLAG_BYTES), 0)
            self._map = mmap.mmap(self._descriptor, FLAG_BYTES)
            self._flag = memoryview(self._map).cast("q")
        except (OSError, ValueError):
            pass  # a disk that is full: nobody stands back

    def is_mine(self) -> bool:
        """Return whether this thread is inside."""
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]

    def enter(self, patience_seconds: float, waited_seconds: float = 0.0) -> float:
        """Go in, and return for how many seconds that had to wait.

        Whoever calls this calls `leave` in every case: a signal's exception may come
        when the lock is held, and before this has returned.

        Args:
            waited_seconds: for how long its caller has waited already.

        Raises:
            GateTaken: others were inside all the time.
        """
        if self._try(waited_seconds):
            return 0.0
        if not patience_seconds:
            raise GateTaken
        began = time.monotonic()
        if not self.is_mine() and not self._lock.acquire(timeout=patience_seconds):
            raise GateTaken
        # Polled, since a wait inside of the kernel would have no end where the holder
        # is stopped. A holder is inside for 20 us.
        pause = FIRST_PAUSE_SECONDS
        waited = time.monotonic() - began
        while not self._try(waited):
            if waited >= patience_seconds:
                raise GateTaken
            most = MAX_PAUSE_SECONDS if waited < LONG_SECONDS else LONG_PAUSE_SECONDS
            pause = min(pause * PAUSE_GROWTH, most)
            time.sleep(min(pause, patience_seconds - waited))
            waited = time.monotonic() - began
        return waited

    def _try(self, waited: float) -> bool:
        """Go in if nobody is inside, and nobody goes first."""
        stand_back_until = self._flag[0]
        if waited > HUNGRY_SECONDS:
            self._flag[0] = time.monotonic_ns() + int(YIELD_SECONDS * 1e9)
        elif stand_back_until and time.monotonic_ns() < stand_back_until:
            return False
        if not ((self.is_mine() or self._lock.acquire(False)) and self._take()):
            return False
        if stand_back_until:
            self._flag[0] = 0
        return True

    def _take(self) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def leave(self) -> None:
        """Go out; nothing happens if this thread is not inside."""
        if self.is_mine():
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
            self._lock.release()

    def close(self) -> None:
        """Forget the file; for who is the last that uses it here."""
        self._flag.release()
        if self._map is not None:
            self._map.close()  # a descriptor of its own, so not before nobody is inside
        os.close(self._descriptor)


class Gates:
    """The gates of this process: one for each file."""

    def __init__(self) -> None:
        self._gates: Dict[Tuple[int, int], Gate] = {}
        self._lock = threading.Lock()

    def open(self, path: str) -> Gate:
        """Return the gate of a file, which somebody may have opened already."""
        with self._lock:
            # Never a second descriptor: closing it would open the gate for everybody.
            try:
                status = os.stat(path)
            except FileNotFoundError:
                pass
            else:
                known = self._gates.get((status.st_dev, status.st_ino))
                if known is not None:
                    known.users += 1
                    return known
            gate = Gate(path)
            status = os.stat(path)
            self._gates[status.st_dev, status.st_ino] = gate
            return gate

    def close(self, gate: Gate) -> None:
        """Let a gate go; its file is closed when the last user has done so."""
        with self._lock:
            gate.users -= 1
            if not gate.users:
                self._gates = {k: v for k, v in self._gates.items() if v is not gate}
                gate.close()

    def forget(self) -> None:
        """Begin again in a process that was forked: the locks are not its own.

        Descriptors stay open, as nothing may run in between that uses their numbers.
        """
        self._gates = {}
        self._lock = threading.Lock()


gates = Gates()
