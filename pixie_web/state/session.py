"""The operations of a store in SQL, on one connection to a file.

A session belongs to one thread. All operations that write are called inside the gate,
so no other process writes between their statements. A single statement needs no
transaction around it, and is never half done, even if the process dies.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ..errors import PixieError
from .clock import (
    MICROSECONDS,
    boot_id,
    is_dead,
    monotonic_microseconds,
    own_identity,
    wall_microseconds,
)
from .values import (
    Entry,
    Rate,
    Raw,
    add_integers,
    call_update,
    decode,
    encode,
)

APPLICATION_ID = 0x70785374  # "pxSt"
SCHEMA_VERSION = 1
PAGE_BYTES = 1024  # PERF: a change writes a whole one: 12 us, of 4096 bytes 15
SWEEP_ROWS = 100
TRIM_ROWS = 64  # messages are dropped in lots

# Keys of values begin with "k", of rates with "r", of locks with "l".
SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE entries(
    key TEXT PRIMARY KEY, value, version INTEGER NOT NULL, expires INTEGER);
CREATE INDEX entries_expires ON entries(expires) WHERE expires IS NOT NULL;
CREATE TABLE channels(
    number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, base INTEGER NOT NULL,
    dropped INTEGER NOT NULL, last INTEGER NOT NULL, changed INTEGER NOT NULL,
    expires INTEGER NOT NULL);
CREATE INDEX channels_changed ON channels(changed);
CREATE TABLE messages(
    channel INTEGER NOT NULL, id INTEGER NOT NULL, data, PRIMARY KEY(channel, id)
    ) WITHOUT ROWID;
CREATE TABLE bells(path TEXT PRIMARY KEY) WITHOUT ROWID;
"""
LIVE = "(expires IS NULL OR expires > ?)"


class OtherSchema(PixieError):
    """A file is there, and it is not what this version keeps state in."""


def connect(path: str, volatile: bool, durable: bool) -> sqlite3.Connection:
    """Return a connection; what has to be the same in all of them is set."""
    connection = sqlite3.connect(
        path, timeout=1.0, isolation_level=None, check_same_thread=False
    )
    try:
        level = "OFF" if volatile else "FULL" if durable else "NORMAL"
        for pragma in (
            f"synchronous={level}",
            "wal_autocheckpoint=0",  # inside the gate only
            "cache_size=-512",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
            raise OtherSchema(f"{path} is no file of state: {error}") from None
        raise
    return connection


def is_state(connection: sqlite3.Connection) -> bool:
    """Return whether a file holds state of this version; False: look in the gate."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return (application, version) == (APPLICATION_ID, SCHEMA_VERSION)


def check_schema(connection: sqlite3.Connection, path: str) -> bool:
    """Return whether a file holds state; False: it is new.

    To be called inside the gate: outside of it, somebody may be making the file, and
    one of its questions would be answered before that, and the next one after.

    Raises:
        OtherSchema: it holds something else.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == APPLICATION_ID and version == SCHEMA_VERSION:
        return True
    if tables or application or version:
        what = "a database of another program"
        if application == APPLICATION_ID:
            what = f"state of schema {version}, and this version has {SCHEMA_VERSION}"
        raise OtherSchema(f"{path} is {what}; name another file in state=")
    return False


def create_schema(connection: sqlite3.Connection) -> None:
    """Make an empty file a file of state, inside the gate.

    The number of the schema comes last: who dies here leaves a file that looks new.
    """
    connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    connection.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    connection.execute("COMMIT")


class Connected:
    """A thread's connection: its life, the state's time, and room.

    Args:
        connection: to a file whose schema has been checked.
        max_bytes: of the file.
    """

    def __init__(self, connection: sqlite3.Connection, max_bytes: int) -> None:
        self.connection = connection
        self._cursor = connection.cursor()
        # PERF: one cursor for all: 1 us less than one for each statement.
        self._sql = self._cursor.execute
        self._offset: Optional[int] = None  # of the state's time to the monotonic one
        self._identity = ""
        self.settled = True
        most = max(max_bytes // PAGE_BYTES, 16)
        connection.execute(f"PRAGMA max_page_count={most}").fetchall()

    # Its life.

    def settle(self) -> None:
        """Close what a broken operation has left open; may be repeated.

        A statement that nobody has read to its end keeps its transaction.
        """
        if not self.settled:
            self._cursor.close()
            if self.connection.in_transaction:
                self.connection.rollback()
            self._cursor = self.connection.cursor()
            self._sql = self._cursor.execute
            self.settled = True

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def __del__(self) -> None:
        self.connection.close()

    # Time.

    def now(self) -> int:
        """Return the state's time, in microseconds: that of the clock, set right once.

        Within a boot it is the monotonic clock, so nobody sets it back; from one boot
        to the next it goes on as the clock on the wall has, or stands.
        """
        if self._offset is None:
            row = self._sql("SELECT value FROM meta WHERE name='boot'").fetchone()
            boot, _, offset = ("" if row is None else row[0]).rpartition(" ")
            if boot != boot_id():
                return wall_microseconds()  # until somebody writes: `anchor`
            self._offset = int(offset)
        return self._offset + monotonic_microseconds()

    def anchor(self) -> None:
        """Have the state's time begin with this boot, behind all that it has said."""
        self.now()
        if self._offset is not None:
            return
        tables = ("entries", "version"), ("channels", "changed"), ("channels", "last")
        seen = [
            self._sql(f"SELECT max({column}) FROM {table}").fetchone()[0] or 0
            for table, column in tables
        ]
        monotonic = monotonic_microseconds()
        offset = max(wall_microseconds(), *seen) + 1 - monotonic
        text = f"{boot_id()} {offset}"
        self._sql("INSERT OR REPLACE INTO meta VALUES('boot', ?)", (text,))
        self._offset = offset

    def _expires(self, seconds: Optional[float]) -> Optional[int]:
        return None if seconds is None else self.now() + int(seconds * MICROSECONDS)

    # Room.

    def sweep(self, most: int) -> int:
        """Remove what has expired, at most so many; return how many it were."""
        now = self.now()
        count = self._sql(
            "DELETE FROM entries WHERE rowid IN "
            "(SELECT rowid FROM entries WHERE expires <= ? LIMIT ?)",
            (now, most),
        ).rowcount
        channels = self._sql(
            "SELECT number FROM channels WHERE expires <= ? LIMIT ?", (now, most)
        ).fetchall()
        for (number,) in channels:
            self._sql("BEGIN IMMEDIATE")
            self._sql("DELETE FROM messages WHERE channel=?", (number,))
            self._sql("DELETE FROM channels WHERE number=?", (number,))
            self._sql("COMMIT")
        return count + len(channels)

    def checkpoint(self) -> bool:
        """Empty the WAL into the file; return False where a reader is in it."""
        self._sql("PRAGMA busy_timeout=0").fetchall()
        try:
            (busy, _, _) = self._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            self._sql("PRAGMA busy_timeout=1000").fetchall()
        return not busy

    def sizes(self) -> Dict[str, int]:
        """Return how much there is, for statistics."""
        pages, free = (
            self._sql(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count")
        )
        (keys,) = self._sql(
            f"SELECT count(*) FROM entries WHERE key >= 'k' AND key < 'l' AND {LIVE}",
            (self.now(),),
        ).fetchone()
        (channels,) = self._sql("SELECT count(*) FROM channels").fetchone()
        return {
            "keys": keys,
            "channels": channels,
            "bytes": (pages - free) * PAGE_BYTES,
        }


class Session(Connected):
    """A thread's connection, and the operations on what is kept."""

    # The others write, and are called inside the gate.
    READS = frozenset(("get", "entry", "last_message", "messages", "changed", "sizes"))

    # Values.

    def get(self, key: str) -> Optional[Raw]:
        """Return a value, or None."""
        row = self._sql(
            "SELECT value, expires FROM entries WHERE key=?", (f"k{key}",)
        ).fetchone()
        if row is None or (row[1] is not None and row[1] <= self.now()):
            return None
        raw: Raw = row[0]
        return raw

    def entry(self, key: str) -> Entry:
        """Return a value, decoded, with its version and its end."""
        row = self._row(f"k{key}")
        if row is None:
            return Entry(None, 0)
        left = None if row[2] is None else (row[2] - self.now()) / MICROSECONDS
        return Entry(decode(row[0]), row[1], left)

    def _row(self, key: str) -> Optional[Tuple[Any, int, Optional[int]]]:
        """Return (value, version, expires) of what is there and has not expired."""
        row: Optional[Tuple[Any, int, Optional[int]]] = self._sql(
            "SELECT value, version, expires FROM entries WHERE key=?", (key,)
        ).fetchone()
        if row is not None and row[2] is not None and row[2] <= self.now():
            return None
        return row

    def _put(self, key: str, value: Any, expires: Optional[int]) -> int:
        """Set a value, and return its version."""
        version = self.now()
        # PERF: an UPDATE leaves the index of keys alone: 20 us less than a REPLACE.
        cursor = self._sql(
            "UPDATE entries SET value=?, version=max(version + 1, ?), expires=? "
            "WHERE key=?",
            (value, version, expires, key),
        )
        if not cursor.rowcount:
            self._sql(
                "INSERT INTO entries VALUES(?, ?, ?, ?)", (key, value, version, expires)
            )
        return version

    def set(
        self,
        key: str,
        value: Raw,
        expire: Optional[float],
        version: Optional[int] = None,
    ) -> bool:
        """Set a value; with a version, only if that is its version still."""
        if version is not None:
            row = self._row(f"k{key}")
            if (0 if row is None else row[1]) != version:
                return False
        self._put(f"k{key}", value, self._expires(expire))
        return True

    def delete(self, key: str) -> bool:
        """Remove a value; return whether there was one."""
        found = self._row(f"k{key}") is not None
        self._sql("DELETE FROM entries WHERE key=?", (f"k{key}",))
        return found

    def incr(self, key: str, by: int, expire: Optional[float]) -> int:
        """Add to an integer, which is 0 where there is none; return the sum."""
        row = self._row(f"k{key}")
        total = add_integers(None if row is None else row[0], by, key)
        expires = self._expires(expire) if row is None else row[2]
        self._put(f"k{key}", total, expires)
        return total

    def rate(self, key: str, limit: int, seconds: float) -> Rate:
        """Count a call, if it is within its limit: GCRA.

        All that is kept is when the limit is whole again: each call moves it on by one
        interval, and no further ahead than `limit` of them.
        """
        row = self._row(f"r{key}")
        now = self.now()
        interval = max(1, round(seconds * MICROSECONDS / limit))
        whole = max(now, now if row is None else int(row[0]))
        ahead = whole + interval - now - interval * limit
        if ahead > 0:
            return Rate(False, 0, ahead / MICROSECONDS)
        whole += interval
        self._put(f"r{key}", whole, whole)
        return Rate(True, -ahead // interval, 0.0)

    def update(
        self,
        keys: Sequence[str],
        function: Callable[..., Any],
        expire: Optional[float],
    ) -> Tuple[Any, ...]:
        """Set several values to what a function makes of them; None removes one."""
        rows = [self._row(f"k{key}") for key in keys]
        values = tuple(decode(None if row is None else row[0]) for row in rows)
        results = call_update(function, values)
        raws = [None if result is None else encode(result) for result in results]
        expires = self._expires(expire)
        if len(keys) > 1:
            self._sql("BEGIN IMMEDIATE")
        for key, row, raw in zip(keys, rows, raws):
            if raw is None:
                self._sql("DELETE FROM entries WHERE key=?", (f"k{key}",))
            else:
                end = row[2] if row is not None and expire is None else expires
                self._put(f"k{key}", raw, end)
        if len(keys) > 1:
            self._sql("COMMIT")
        return results

    # Locks.

    def acquire(self, name: str, lease: float) -> int:
        """Take a lock, and return its token; 0: somebody else has it.

        A holder that is dead holds nothing, whatever its lease says.
        """
        row = self._row(f"l{name}")
        if row is not None and not is_dead(row[0]):
            return 0
        self._identity = self._identity or own_identity()
        self._put(f"l{name}", self._identity, self._expires(lease))
        (token,) = self._sql(
            "SELECT version FROM entries WHERE key=?", (f"l{name}",)
        ).fetchone()
        return int(token)

    def renew(self, name: str, token: int, lease: float) -> bool:
        """Have a lock that is held last for `lease` seconds from now."""
        cursor = self._sql(
            f"UPDATE entries SET expires=? WHERE key=? AND version=? AND {LIVE}",
            (self._expires(lease), f"l{name}", token, self.now()),
        )
        return bool(cursor.rowcount)

    def release(self, name: str, token: int) -> bool:
        """Give a lock back, if it is held still."""
        cursor = self._sql(
            f"DELETE FROM entries WHERE key=? AND version=? AND {LIVE}",
            (f"l{name}", token, self.now()),
        )
        return bool(cursor.rowcount)

    # Channels.

    def publish(
        self, channel: str, data: Raw, keep: int, expire: float
    ) -> Tuple[int, List[str]]:
        """Add a message; return its id, and the bells to ring.

        The first id of a channel is the time in microseconds: ids of a channel that
        has been dropped and made again are beyond all that clients may still know.
        """
        now = self.now()
        ends = now + int(expire * MICROSECONDS)
        self._sql("BEGIN IMMEDIATE")
        row = self._sql(
            "SELECT number, dropped, last FROM channels WHERE name=?", (channel,)
        ).fetchone()
        if row is None:
            number, dropped, last = None, now, now
            self._sql(
                "INSERT INTO channels VALUES(NULL, ?, ?, ?, ?, ?, ?)",
                (channel, now, now, now, now, ends),
            )
            number = self._cursor.lastrowid
        else:
            number, dropped, last = row
        last += 1
        self._sql("INSERT INTO messages VALUES(?, ?, ?)", (number, last, data))
        drop_to = last - keep
        if drop_to - dropped >= min(TRIM_ROWS, max(1, keep // 8)):
            self._sql(
                "DELETE FROM messages WHERE channel=? AND id<=?", (number, drop_to)
            )
            dropped = drop_to
        self._sql(
            "UPDATE channels SET dropped=?, last=?, changed=?, expires=? "
            "WHERE number=?",
            (dropped, last, now, ends, number),
        )
        self._sql("COMMIT")
        bells = self._sql("SELECT path FROM bells").fetchall()
        return last, [path for (path,) in bells]

    def last_message(self, channel: str) -> int:
        """Return the id of the last message; 0 if there has been none."""
        row = self._sql("SELECT last FROM channels WHERE name=?", (channel,)).fetchone()
        return 0 if row is None else int(row[0])

    def messages(
        self, channel: str, after: int, most: int
    ) -> Tuple[int, List[Tuple[int, Raw]]]:
        """Return how many behind `after` are gone, and the next ones: (id, data)."""
        # One statement, so that both are of one moment.
        rows = self._sql(
            "SELECT c.base, c.dropped, m.id, m.data FROM channels c "
            "LEFT JOIN messages m ON m.channel = c.number AND m.id > ? "
            "WHERE c.name = ? ORDER BY m.id LIMIT ?",
            (after, channel, most),
        ).fetchall()
        if not rows:
            return 0, []
        base, dropped = rows[0][:2]
        missed = max(0, dropped - max(after, base))
        return missed, [(row[2], row[3]) for row in rows if row[2] is not None]

    def changed(self, since: int) -> Tuple[int, List[str]]:
        """Return the channels with messages of after a moment, and the last moment."""
        rows = self._sql(
            "SELECT name, changed FROM channels WHERE changed > ? ORDER BY changed",
            (since,),
        ).fetchall()
        return (rows[-1][1] if rows else since), [name for name, _ in rows]

    def add_bell(self, path: str) -> int:
        """Have `publish` name a bell from now on; return this moment for `changed`."""
        self._sql("INSERT OR REPLACE INTO bells VALUES(?)", (path,))
        (last,) = self._sql("SELECT max(changed) FROM channels").fetchone()
        return int(last or 0)

    def remove_bell(self, path: str) -> None:
        """The opposite."""
        self._sql("DELETE FROM bells WHERE path=?", (path,))
