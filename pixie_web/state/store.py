"""The store in a file: SQLite's WAL mode behind one gate.

A call is one operation of a `Session`. Reads go past the gate; writes wait for it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Dict, List, Optional

from ..errors import PixieError
from .bells import FileBell, ring
from .counts import Counts, total
from .gate import GateTaken, gates
from .places import Place
from .session import Session, check_schema, connect, create_schema, is_state
from .values import LOOP_SECONDS, NESTED, WAIT_SECONDS, StateBusy, StateFull

THREADS = 4
CHECKPOINT_BYTES = 4 * 1024 * 1024  # of the WAL
DISK_CHECKPOINT_BYTES = 16 * 1024 * 1024  # all who write wait for the disk then
CHECK_EACH_WRITES = 32  # how often somebody looks for that
SWEEP_EACH_WRITES = 128


def on_a_loop() -> bool:
    """Return whether this thread runs an event loop right now."""
    return asyncio._get_running_loop() is not None


class Store:
    """A file of state, as this process sees it.

    Args:
        place: its path, and how it is kept.

    Raises:
        OtherSchema: when it is opened: the file is another program's.
        StateBusy: it is new, and somebody else has been making it for too long.
    """

    kind = "file"
    inline = True  # a read is quick enough for the loop

    def __init__(self, place: Place) -> None:
        self.place = place
        path = os.path.abspath(place.url)
        # One name for one file, as SQLite puts its own beside the one that it is told.
        self.path = os.path.realpath(path)
        self.counts = Counts(place.directory)
        self._threads: Optional[ThreadPoolExecutor] = None  # for what waits for a disk
        if place.durable:
            self._threads = ThreadPoolExecutor(THREADS, "pixie_web-state")
        self._gate = gates.open(f"{self.path}-gate")
        self._local = threading.local()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._writes = 0
        self._step_bytes = CHECKPOINT_BYTES if place.volatile else DISK_CHECKPOINT_BYTES
        self._checkpoint_at = self._step_bytes
        self._checkpointer: Optional[threading.Thread] = None
        try:
            self._local.session = self._open()
        except BaseException:
            gates.close(self._gate)
            raise

    # Operations.

    def perform(self, name: str, *args: Any) -> Any:
        """Perform an operation of `Session`, and wait for the turn of one that writes.

        Raises:
            StateBusy: others have been at work for too long.
            StateFull: there is no room.
        """
        return self._perform(LOOP_SECONDS if on_a_loop() else WAIT_SECONDS, name, args)

    async def perform_async(self, name: str, *args: Any) -> Any:
        """The same for a coroutine: the loop goes on while it waits for its turn."""
        if self._threads is not None and name not in Session.READS:
            loop = asyncio.get_running_loop()
            operation = partial(self.perform, name, *args)
            return await loop.run_in_executor(self._threads, operation)
        began, waited = time.monotonic(), 0.0
        pause = 0.0005
        while True:
            try:
                return self._perform(0.0, name, args, waited)
            except GateTaken:
                waited = time.monotonic() - began
                if waited > WAIT_SECONDS:
                    raise self._busy(WAIT_SECONDS) from None
            # No thread waits instead: six of them are all that the loop has.
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.001 if waited < 1 else 0.01)

    def _perform(
        self, patience: float, name: str, args: Any, waited: float = 0.0
    ) -> Any:
        try:
            session: Session = self._local.session
        except AttributeError:
            session = self._local.session = self._open()
        reads = name in Session.READS
        # The other is by way of another State.
        if not session.settled or (not reads and self._gate.is_mine()):
            raise PixieError(NESTED)
        try:
            if reads:
                session.settled = False
                result = getattr(session, name)(*args)
                session.settled = True
                self.counts.add()
                return result
            operation = getattr(session, name)
            result = self._write(session, patience, waited, operation, args)
        except sqlite3.Error as error:
            raise self._translated(error) from error
        finally:
            # Signals: one that raises can cut a clean-up short, even in its very call.
            # So there are three; each does what is left to do, and mostly nothing is.
            # The gate is here once more: Python 3.8 can raise between the end of a try
            # and its finally.
            try:
                self._settle(session, reads)
            finally:
                try:
                    self._settle(session, reads)
                finally:
                    self._settle(session, reads)
        self._after_write(session)
        return result

    def _write(
        self,
        session: Session,
        patience: float,
        waited: float,
        operation: Any,
        args: Any,
    ) -> Any:
        try:
            session.settled = False
            waited += self._enter(patience, waited)
            session.anchor()
            try:
                result = operation(*args)
            except sqlite3.OperationalError as error:
                if "full" not in str(error):
                    raise
                session.settle()
                session.settled = False
                if not session.sweep(-1):
                    raise
                result = operation(*args)
            if self._writes % SWEEP_EACH_WRITES == 0:
                session.sweep(100)
            session.settled = True
            self.counts.add(waited)
            return result
        finally:
            try:
                self._leave(session)
            finally:  # the same
                try:
                    self._leave(session)
                finally:
                    self._leave(session)

    def _enter(self, patience: float, waited: float = 0.0) -> float:
        try:
            return self._gate.enter(patience, waited)
        except GateTaken:
            if not patience:
                raise
            raise self._busy(patience) from None

    def _settle(self, session: Session, reads: bool) -> None:
        session.settle()
        if not reads:
            self._leave(session)

    def _leave(self, session: Session) -> None:
        if self._gate.is_mine():
            session.settle()
            self._gate.leave()

    def _busy(self, seconds: float) -> StateBusy:
        return StateBusy(
            f"somebody has been writing to {self.path} for {seconds:g} s: a process "
            "that is stopped, or an update() whose function takes too long"
        )

    def _translated(self, error: sqlite3.Error) -> Exception:
        text = str(error)
        if "locked" in text:
            return StateBusy(f"somebody locks {self.path} by other means: {text}")
        full = "full" in text
        if not full and "I/O" in text:
            try:
                full = os.statvfs(os.path.dirname(self.path)).f_bavail == 0
            except OSError:
                pass
        if full:
            return StateFull(
                f"no room in {self.path}: it may have state_max_bytes="
                f"{self.place.max_bytes}, or the disk is full; give values an expire=, "
                "or raise it"
            )
        return PixieError(f"the state in {self.path}: {text}")

    # Its files.

    def _open(self) -> Session:
        """Return a new session; make the file if nobody has."""
        place = self.place
        try:
            if not os.path.exists(self.path) or not os.path.getsize(self.path):
                self._create()
            connection = connect(self.path, place.volatile, place.durable)
            try:
                if not is_state(connection):
                    self._create()
                session = Session(connection, place.max_bytes)
            except BaseException:
                connection.close()
                raise
        except sqlite3.OperationalError as error:
            raise self._translated(error) from error
        self._sessions.add(session)
        return session

    def _create(self) -> None:
        try:
            self._enter(WAIT_SECONDS)
            if not os.path.exists(self.path):
                # SECURITY: what it holds is for this user alone. SQLite gives the files
                # beside it the same permissions.
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = connect(self.path, self.place.volatile, self.place.durable)
            try:
                if not check_schema(connection, self.path):
                    create_schema(connection)
            finally:
                connection.close()
        finally:
            self._gate.leave()

    def _after_write(self, session: Session) -> None:
        self._writes += 1
        if self._writes % CHECK_EACH_WRITES == 0 and self._wal_bytes() > (
            self._checkpoint_at
        ):
            if not on_a_loop():
                self.checkpoint()
            elif self._checkpointer is None or not self._checkpointer.is_alive():
                self._checkpointer = threading.Thread(
                    target=self.checkpoint, name="pixie_web-state", daemon=True
                )
                self._checkpointer.start()

    def _wal_bytes(self) -> int:
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0

    def checkpoint(self) -> None:
        """Empty the WAL into the file, inside the gate; never called on a loop."""
        done = False
        try:
            if not self.place.volatile:
                # Most of it reaches the disk here, while others write on. Nobody locks
                # this file, so closing a descriptor of it costs no lock.
                wal = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(wal)
                finally:
                    os.close(wal)
            done = self._perform(WAIT_SECONDS, "checkpoint", ())
        except (StateBusy, GateTaken, OSError):
            pass  # the next one that looks tries again
        # With a reader in it, it has to grow a good deal before the next attempt.
        grown = self._wal_bytes() + self._step_bytes
        self._checkpoint_at = self._step_bytes if done else grown

    # Messages.

    def publish(self, bells: List[str]) -> None:
        """Ring the bells of who may wait for a message."""
        gone = [path for path in bells if not ring(path)]
        for path in gone:  # it was killed
            try:
                self._perform(LOOP_SECONDS, "remove_bell", (path,))
            except (StateBusy, GateTaken):
                pass

    def open_bell(self) -> FileBell:
        """Return what says that there are new messages."""
        return FileBell(self.path, partial(self._perform, WAIT_SECONDS))

    # Its end.

    def stats(self) -> Dict[str, Any]:
        """Return how much there is, and what was done with it."""
        sizes = self.perform("sizes")
        directory = self.place.directory
        counted = self.counts.own() if directory is None else total(directory)
        return {**sizes, "max_bytes": self.place.max_bytes, **counted}

    def close(self) -> None:
        """Close the connections of this process.

        One that another thread works with is closed with that thread: SQLite would go
        on with what is freed here. The gate stays open for it.
        """
        if self._threads is not None:
            self._threads.shutdown(wait=True)
        was_inside = self._gate.is_mine()  # another State of this file, in an update
        try:
            # The last one to close writes the WAL back.
            if not was_inside:
                self._gate.enter(LOOP_SECONDS)
        except GateTaken:
            pass
        finally:
            idle = [session for session in self._sessions if session.settled]
            is_in_use = len(idle) < len(self._sessions)
            for session in idle:
                session.close()
            if not was_inside:
                self._gate.leave()
        if not is_in_use:
            gates.close(self._gate)

    def leak(self) -> List[Any]:
        """Return what a forked process must not close: it is its parent's."""
        return list(self._sessions)
