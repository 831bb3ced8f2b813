"""The store in a file: who dies, hangs, forks, is interrupted, or finds no room."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator

import pytest
from many import Many

from pixie_web import PixieError
from pixie_web.state import Place, State, StateBusy, StateFull, clock, places, session
from pixie_web.state.gate import GateTaken
from pixie_web.state.places import filesystem_of, is_stale, make_directory, remove_stale

MiB = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state.db")


@pytest.fixture
def state(path: str) -> Iterator[State]:
    place = Place(path, volatile=True)  # it waits for no disk
    state = State(place=lambda: place)
    yield state
    state.close()


def wait_until(condition: Any) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


# The file -----------------------------------------------------------------------------


def test_what_is_set_is_there_after_the_end_of_all_processes(path: str) -> None:
    first = State(path)
    first.set("key", {"a": [1]})
    first.close()
    second = State(path)
    assert second.get("key") == {"a": [1]}
    second.close()
    assert second.get("key") == {"a": [1]}  # it opens itself again
    second.close()


def test_its_files_are_for_this_user_alone(state: State, path: str) -> None:
    state.set("key", 1)
    beside = Path(path).parent.glob("state.db*")
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in beside}
    assert set(modes) == {"state.db", "state.db-wal", "state.db-shm", "state.db-gate"}
    assert set(modes.values()) == {0o600}


def test_memory_is_a_directory_that_goes_with_its_owner() -> None:
    state = State()
    state.set("key", 1)
    assert state.store.place.directory is not None
    directory = Path(state.store.place.directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    state.close()
    assert not directory.exists()


OTHERS = {
    "a database of another program": lambda c: c.execute("CREATE TABLE t(x)"),
    "state of schema 99": lambda c: (
        c.execute(f"PRAGMA application_id={session.APPLICATION_ID}"),
        c.execute("PRAGMA user_version=99"),
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_file_of_another_schema_is_refused(path: str, what: str) -> None:
    connection = sqlite3.connect(path)
    OTHERS[what](connection)
    connection.commit()
    connection.close()
    before = Path(path).read_bytes()
    with pytest.raises(PixieError, match=f"is {what}.* name another file"):
        State(path).get("key")
    assert Path(path).read_bytes() == before


def test_a_file_that_is_no_database_is_refused(path: str) -> None:
    Path(path).write_text("my notes, which nobody else has\n" * 100)
    with pytest.raises(PixieError, match="is no file of state"):
        State(path).get("key")
    assert Path(path).read_text().startswith("my notes")


def test_a_directory_is_no_place(tmp_path: Path) -> None:
    for path in (str(tmp_path), str(tmp_path / "no" / "state.db")):
        with pytest.raises(PixieError, match="path of a file in a directory"):
            State(path).get("key")


MOUNTS = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /srv/my\\040data rw - nfs4 server:/export rw,vers=4.2
31 22 0:41 / /srv rw - tmpfs tmpfs rw
32 31 0:42 / /srv/my\\040data/local rw - ext4 /dev/sdb rw
33 22 0:43 / /mnt/a rw - fuse.sshfs user@host: rw
"""
FILE_SYSTEMS = [
    ("/var/lib", "ext4"),
    ("/srv", "tmpfs"),
    ("/srvx", "ext4"),
    ("/srv/my data", "nfs4"),
    ("/srv/my data/a/b", "nfs4"),
    ("/srv/my data/local/a", "ext4"),
    ("/mnt/a", "fuse.sshfs"),
]


@pytest.mark.parametrize("path, kind", FILE_SYSTEMS)
def test_the_file_system_of_a_path_is_found(path: str, kind: str) -> None:
    assert filesystem_of(path, MOUNTS) == kind


def test_a_path_on_nfs_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "filesystem_of", lambda *_: "nfs4")
    with pytest.raises(PixieError, match=r"on nfs4, where locks .* redis://"):
        State(path).get("key")
    assert not os.path.exists(path)


# Room ---------------------------------------------------------------------------------


def fill(state: State, data: bytes, expire: Any = None) -> int:
    for number in range(10_000):
        try:
            state.set(f"key {number}", data, expire=expire)
        except StateFull:
            return number
    raise AssertionError("it is never full")


def test_a_full_state_keeps_its_values_and_says_so(path: str) -> None:
    state = State(path, max_bytes=256 * 1024)
    state.set("old", "value")
    count = fill(state, b"x" * 5000)
    assert count > 30
    for call in (
        lambda: state.set("old", "x" * 9000),
        lambda: state.update("old", "b", function=lambda a, b: ("x", "y" * 9000)),
        lambda: state.publish("channel", "x" * 9000),
    ):
        with pytest.raises(StateFull, match="state_max_bytes=262144"):
            call()
    assert state.get("old") == "value"
    assert state.get("b") is None
    assert state.get(f"key {count - 1}") == b"x" * 5000
    assert state.get(f"key {count}") is None
    assert list(state.store._perform(0.0, "messages", ("channel", 0, 9))) == [0, []]
    state.delete("key 0")
    state.delete("key 1")
    assert state.set("new", b"x" * 5000)
    state.close()
    assert os.path.getsize(path) <= 256 * 1024


def test_what_has_expired_makes_room(path: str) -> None:
    state = State(path, max_bytes=256 * 1024)
    count = fill(state, b"x" * 5000, expire=0.2)
    time.sleep(0.25)
    assert all(state.set(f"new {n}", b"x" * 5000) for n in range(count))
    state.close()


def test_a_disk_that_is_full_is_a_full_state(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.set("key", 1)

    class NoRoom:
        f_bavail = 0

    error = sqlite3.OperationalError("disk I/O error")
    assert not isinstance(state.store._translated(error), StateFull)
    monkeypatch.setattr(os, "statvfs", lambda _: NoRoom)
    assert isinstance(state.store._translated(error), StateFull)


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts a small disk")
def test_a_small_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        state = State(str(disk / "state.db"))
        kept = {}

        def fill_disk() -> None:
            for number in range(1000):
                value = os.urandom(5000)
                state.set(f"key {number}", value)
                kept[f"key {number}"] = value

        with pytest.raises(StateFull, match="disk is full"):
            fill_disk()
        assert len(kept) > 20
        assert {key: state.get(key) for key in kept} == kept
        state.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_the_wal_stays_small(
    state: State, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state.store, "_step_bytes", 4 * MiB)
    monkeypatch.setattr(state.store, "_checkpoint_at", 4 * MiB)
    for number in range(2500):
        state.set(f"key {number % 300}", "x" * 3000)
    assert os.path.getsize(f"{path}-wal") < 6 * MiB
    assert state.get("key 299") == "x" * 3000


def test_no_checkpoint_on_a_loop() -> None:
    state = State("memory")
    threads = set()
    original = type(state.store).checkpoint

    def checkpoint(self: Any) -> None:
        threads.add(threading.current_thread() is threading.main_thread())
        original(self)

    state.store.checkpoint = checkpoint.__get__(state.store)

    async def write() -> None:
        for number in range(3000):
            await state.aio.set(f"key {number % 300}", "x" * 3000)
            if number % 2:
                state.set("from sync code", number)

    asyncio.run(write())
    assert threads == {False}
    wait_until(lambda: not state.store._checkpointer.is_alive())
    state.set("key", 1)
    assert os.path.getsize(f"{state.store.path}-wal") < 8 * MiB
    state.close()


def test_what_has_expired_is_swept(state: State) -> None:
    for number in range(300):
        state.set(f"key {number}", 1, expire=0.001)
    for _ in range(600):
        state.set("other", 1)
    assert state.stats()["keys"] == 1
    (count,) = state.store._local.session.connection.execute(
        "SELECT count(*) FROM entries"
    ).fetchone()
    assert count < 10


def test_what_waits_for_the_disk_does_so_off_the_loop(path: str) -> None:
    state = State(path, durable=True)
    threads = []
    original = session.Session.incr

    def incr(self: Any, *args: Any) -> int:
        threads.append(threading.current_thread() is threading.main_thread())
        return original(self, *args)

    async def count() -> None:
        assert await state.aio.incr("n") == 1
        assert await state.aio.get("n") == 1

    session.Session.incr = incr  # type: ignore[method-assign]
    try:
        asyncio.run(count())
    finally:
        session.Session.incr = original  # type: ignore[method-assign]
    assert threads == [False]
    connection = state.store._local.session.connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    state.close()


def test_who_waits_for_long_goes_first(state: State) -> None:
    gate = state.store._gate
    gate._flag[0] = time.monotonic_ns() + 10**12  # somebody has waited for long
    with pytest.raises(GateTaken):
        gate.enter(0.0)
    assert state.incr("n") == 1  # who has waited for long itself does not stand back
    gate._flag[0] = time.monotonic_ns() + 10**12
    assert gate.enter(0.0, waited_seconds=1.0) == 0.0  # it was this one
    assert gate._flag[0] == 0
    gate.leave()
    gate._flag[0] = time.monotonic_ns() - 1  # who has died says it no more
    assert gate.enter(0.0) == 0.0
    gate.leave()


# Time ---------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_changes_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns() // 1000
    monkeypatch.setattr(session, "wall_microseconds", lambda: now)
    first = State(path)
    first.set("key", 1, expire=1000)
    with first.lock("job") as lease:
        monkeypatch.setattr(session, "wall_microseconds", lambda: now - 3600 * 10**6)
        second = State(path)
        assert 990 < (second.read("key").expire or 0) <= 1000
        with pytest.raises(StateBusy):
            second.lock("job", wait=0).__enter__()
        lease.renew()
    first.close()
    second.close()


def test_time_goes_on_after_a_boot_with_a_clock_that_is_wrong(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(path)
    state.set("key", 1, expire=1000)
    version = state.read("key").version
    number = state.publish("channel", 1)
    with state.lock("job") as lease:
        token = lease.token
    state.close()
    monkeypatch.setattr(session, "boot_id", lambda: "another boot")
    monkeypatch.setattr(session, "wall_microseconds", lambda: 10**9)
    state = State(path)
    state.set("new", 1)
    assert state.read("new").version > version
    assert state.publish("another channel", 1) > number
    with state.lock("job") as lease:
        assert lease.token > token
    assert 0 < (state.read("key").expire or 0) <= 1000
    state.close()


def test_a_boot_has_a_name_where_the_system_gives_it_none(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert clock.boot_id() == clock.boot_id() != ""

    def refuse(*_: Any) -> None:
        raise FileNotFoundError("not on Linux")

    monkeypatch.setattr(clock, "open", refuse, raising=False)
    monkeypatch.setattr(clock, "wall_microseconds", lambda: 90_000_000)
    monkeypatch.setattr(clock, "monotonic_microseconds", lambda: 1_000_000)
    assert clock.boot_id() == "since 1"  # to the minute
    state = State(path)
    state.set("key", 1)
    state.close()
    monkeypatch.setattr(clock, "monotonic_microseconds", lambda: 89_000_000)
    assert clock.boot_id() == "since 0"
    state = State(path)
    assert state.get("key") == 1
    state.close()


def test_who_is_dead_is_known() -> None:
    own = clock.own_identity()
    if not own:
        pytest.skip("this system does not tell processes apart")
    assert not clock.is_dead(own)
    space, pid, start = own.split(" ")
    assert clock.is_dead(f"{space} {pid} {int(start) + 1}")  # the number is another's
    assert not clock.is_dead(f"pid:[1] {pid} 1")  # of another container: nobody knows
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert clock.started_at(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert clock.is_dead(f"{space} {child.pid} {start}")
    child.wait()
    assert clock.is_dead(f"{space} {child.pid} {start}")


# Who dies, hangs or forks -------------------------------------------------------------

HOLDER = """
from pixie_web.state import State
import time
state = State(sys.argv[2])
state.set("before", 1)
def hang(value):
    tell("inside")
    time.sleep(60)
ready()
state.update("key", function=hang)
"""


class Late:
    """A connection whose first question is answered before somebody makes the file."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._found: Any = None

    def execute(self, sql: str) -> Any:
        cursor = self._connection.execute(sql)
        if sql != "PRAGMA application_id":
            return cursor
        self._found = cursor.fetchone()
        cursor.close()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pixie_web.state.store.connect", session.connect)
            State(self._path).set("made", "by another")
        return self

    def fetchone(self) -> Any:
        return self._found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def test_a_file_that_somebody_makes_meanwhile_is_that_of_no_other_program(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [True]

    def connect(*args: Any) -> Any:
        connection: Any = session.connect(*args)
        return Late(connection, path) if late and late.pop() else connection

    with sqlite3.connect(path) as begun:  # by somebody who has not come any further
        begun.execute("PRAGMA journal_mode=WAL")
    begun.close()
    monkeypatch.setattr("pixie_web.state.store.connect", connect)
    assert State(path).get("made") == "by another"


def hold(many: Many, number: int) -> None:
    """Have a process be inside of the gate, and then do to it what a signal does."""
    many.go()
    process = many.processes[0]
    assert process.stdout is not None
    assert process.stdout.readline() == '"inside"\n'
    process.send_signal(number)


def test_a_holder_that_is_stopped_holds_up_no_reader(
    state: State, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixie_web.state.store.WAIT_SECONDS", 0.2)
    state.set("mine", 1)
    with Many(1, HOLDER, path) as many:
        hold(many, signal.SIGSTOP)
        began = time.monotonic()
        assert state.get("mine") == 1
        late = State(path)  # even one that opens it now
        assert late.get("mine") == 1
        late.close()
        assert time.monotonic() - began < 5
        with pytest.raises(StateBusy, match="stopped") as caught:
            state.set("mine", 2)
        assert caught.value.status == 503
        assert caught.value.headers["Retry-After"] == "1"

        async def on_the_loop() -> None:
            with pytest.raises(StateBusy, match=r"0\.05 s"):
                state.incr("mine")
            turns = 0

            async def turn() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0.01)
                    turns += 1

            ticker = asyncio.ensure_future(turn())
            with pytest.raises(StateBusy):
                await state.aio.incr("mine")
            assert turns > 3  # the loop went on
            assert await state.aio.get("mine") == 1
            ticker.cancel()

        asyncio.run(on_the_loop())
        many.processes[0].kill()
        many.processes[0].wait()
        began = time.monotonic()
        assert state.incr("mine") == 2
        assert time.monotonic() - began < 5


def test_a_holder_that_is_killed_leaves_nothing(state: State, path: str) -> None:
    state.set("key", "old")
    with Many(1, HOLDER, path) as many:
        hold(many, signal.SIGKILL)
        many.processes[0].wait()
    state.set("another", 1)
    assert state.get("key") == "old"


LOCKED = """
from pixie_web.state import State
import time
state = State(sys.argv[2])
ready()
with state.lock("job", lease=600):
    tell("inside")
    time.sleep(60)
"""


def test_a_lock_of_who_is_killed_is_free_at_once(state: State, path: str) -> None:
    with Many(1, LOCKED, path) as many:
        hold(many, signal.SIGSTOP)
        with pytest.raises(StateBusy):
            state.lock("job", wait=0).__enter__()
        many.processes[0].kill()
        many.processes[0].wait()
        with state.lock("job", wait=20):
            pass


WRITER = """
from pixie_web.state import State
import os
state, key = State(sys.argv[2]), sys.argv[1]
ready()
while True:
    count = state.incr(key)
    state.set("value of " + key, count)
    state.update("a", "b", function=lambda a, b: ((a or 0) + 1, (b or 0) - 1))
    os.write(1, b"%d\\n" % count)
"""


def test_killing_writers_loses_nothing_that_was_acknowledged(path: str) -> None:
    state = State(path)
    counts = dict.fromkeys("012", 0)
    for round_number in range(2):
        with Many(3, WRITER, path) as many:
            many.go()
            time.sleep(0.1 + 0.1 * round_number)
            for one in many.processes:
                one.kill()
            for number, one in enumerate(many.processes):
                assert one.stdout is not None
                lines = one.stdout.read().split("\n")[:-1]
                counts[str(number)] = max([counts[str(number)], *map(int, lines)])
        for key, count in counts.items():
            assert count <= state.get(key, 0) <= count + round_number + 1
        assert (state.get("a") or 0) == -(state.get("b") or 0)
    state.set("still", "works")
    rows = state.store._local.session.connection.execute("PRAGMA integrity_check")
    assert rows.fetchall() == [("ok",)]
    assert sum(counts.values()) > 0
    state.close()


INTERRUPTED = """
import random, signal, time
from pixie_web.state import Place, State, StateBusy
state = State(sys.argv[2])
random.seed(int(sys.argv[1]))
class Deadline(BaseException): pass
armed = False
def strike(*_):
    global armed
    if armed:
        armed = False
        raise Deadline
signal.signal(signal.SIGALRM, strike)
operations = [
    lambda: state.incr("n"),
    lambda: state.update("a", "b", function=lambda a, b: ((a or 0) + 1, (b or 0) - 1)),
    lambda: state.publish("channel", "message", keep=10),
    lambda: state.get("n"),
    lambda: state.set("value", "x" * 100),
    lambda: state.rate("rate", limit=10**6, seconds=1),
]
state.publish("channel", "first")
struck = done = 0
def until_struck(operation, counts):
    # A function of its own: Python 3.13 can raise at the end of a loop as if that
    # stood outside of the try around it.
    global done
    while armed:
        operation()
        done += counts
ready()
for turn in range(int(sys.argv[3])):
    operation = operations[turn % len(operations)]
    counts = turn % len(operations) == 0
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.random() * 0.0003 + 0.000001)
        try:
            until_struck(operation, counts)
        finally:
            armed = False
    except Deadline:
        struck += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    session, gate = state.store._local.session, state.store._gate
    assert not gate.is_mine(), turn
    assert not session.connection.in_transaction, turn
    assert session.settled, turn
tell([struck, done, state.get("n")])
"""


def test_a_signal_that_raises_leaves_no_gate_locked_and_nothing_open(
    state: State, path: str
) -> None:
    with Many(2, INTERRUPTED, path, "300") as many:
        many.go()
        for _ in range(50):  # who is locked out would say so
            state.incr("mine")
        results = many.results()
    assert [struck for struck, _, _ in results] == [300, 300]
    done = sum(done for _, done, _ in results)
    # What was cut short happened wholly or not at all.
    assert done <= state.get("n") <= done + 600
    assert state.get("a") == -state.get("b")


def test_a_signal_handler_that_uses_the_state_in_the_middle_of_a_call_is_refused(
    state: State,
) -> None:
    found = []

    def handler(*_: object) -> None:
        try:
            state.incr("from the handler")
        except PixieError as error:
            found.append(str(error))

    old = signal.signal(signal.SIGUSR2, handler)
    try:
        state.update("key", function=lambda _: os.kill(os.getpid(), signal.SIGUSR2))
    finally:
        signal.signal(signal.SIGUSR2, old)
    assert len(found) == 1
    assert "signal handler" in found[0]
    assert state.incr("from the handler") == 1


def test_a_gate_that_python_did_not_leave_is_left(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.8 may raise behind the end of a try, ahead of its finally."""
    state.set("n", 1)

    def cut_short(*_: Any) -> Any:
        state.store._enter(1.0)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(state.store, "_write", cut_short)
        with pytest.raises(KeyboardInterrupt):
            state.incr("n")
    assert not state.store._gate.is_mine()
    assert state.incr("n") == 2


def test_closing_takes_nothing_from_a_thread_that_is_at_work(path: str) -> None:
    state, other = State(path), State(path)
    inside, go_on = threading.Event(), threading.Event()

    def slow(value: Any) -> str:
        inside.set()
        assert go_on.wait(20)
        return "done"

    with ThreadPoolExecutor() as threads:
        update = threads.submit(state.update, "key", function=slow)
        assert inside.wait(20)
        state.store.close()
        go_on.set()
        assert update.result(20) == "done"
    assert other.get("key") == "done"
    other.close()


FORKING = """
import os, threading
from pixie_web.state import State
state = State(sys.argv[2])
state.set("key", 1)
subscription = state.subscribe("channel", after=0)
state.publish("channel", "first")
assert next(subscription).data == "first"
parents = state.store
ready()
inside = threading.Event()
def slow(value):
    inside.set()
    time_out.wait(20)
    return "slow"
time_out = threading.Event()
thread = threading.Thread(target=lambda: state.update("held", function=slow))
thread.start()
inside.wait(20)
# A fork while another thread is inside of the gate, and the hub has a reader.
pid = os.fork()
if pid == 0:
    assert state.get("key") == 1
    assert state.store is not parents
    try:
        state.aio  # the same object
        import pixie_web.state.store as s
        s.WAIT_SECONDS = 0.1
        state.incr("n")
        os._exit(3)  # the parent holds the gate
    except Exception as error:
        assert "writing" in str(error), error
    time_out.wait(0)
    sys.exit(0)  # with all that an interpreter does at its end
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 if hasattr(
    os, "waitstatus_to_exitcode") else os.waitpid(pid, 0)[1] == 0
time_out.set()
thread.join()
pid = os.fork()
if pid == 0:
    state.incr("n")
    other = state.subscribe("channel", after=0)
    assert next(other).data == "first"
    state.close()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
# The parent's locks and connections are as they were.
state.incr("n")
state.publish("channel", "second")
assert next(subscription).data == "second"
tell([state.get("n"), state.get("held")])
subscription.close()
state.close()
"""


def test_a_forked_process_opens_its_own(path: str) -> None:
    program = "import warnings; warnings.simplefilter('ignore')\n" + FORKING
    with Many(1, program, path) as many:
        many.go()
        assert many.results() == [[2, "slow"]]
    state = State(path)
    assert state.get("n") == 2
    state.close()


def test_threads_have_connections_of_their_own(state: State) -> None:
    def work() -> None:
        for _ in range(100):
            state.incr("n")
            state.update("a", "b", function=lambda a, b: ((a or 0) + 1, (b or 0) - 1))
            assert state.get("a") is not None

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (state.get("n"), state.get("a"), state.get("b")) == (400, 400, -400)


def test_two_states_of_one_file_do_not_open_each_others_gate(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixie_web.state.store.WAIT_SECONDS", 0.1)
    link = tmp_path / "link.db"
    first = State(path)
    first.set("key", 1)
    link.symlink_to(path)
    second = State(str(link))
    assert second.get("key") == 1
    probe = (
        "import sys, pixie_web.state.store as s; s.WAIT_SECONDS = 0.1\n"
        "from pixie_web.state import Place, State, StateBusy\n"
        "try: State(sys.argv[1]).set('key', 2)\n"
        "except StateBusy: print('busy')"
    )

    def ask(value: int) -> int:
        # Closing the second's descriptors would drop this process' lock.
        second.close()
        command = [sys.executable, "-c", probe, path]
        assert subprocess.check_output(command, text=True) == "busy\n"
        return value + 1

    assert first.update("key", function=ask) == 2
    first.close()


# The server's own directory -----------------------------------------------------------


def test_a_directory_is_stale_when_its_process_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places.tempfile, "tempdir", str(tmp_path))
    program = (
        "from pixie_web.state.places import make_directory\n"
        "d = make_directory(); ready(); print(d, flush=True); sys.stdin.readline()"
    )
    with Many(1, program) as many:
        many.go()
        process = many.processes[0]
        assert process.stdout is not None
        directory = process.stdout.readline().strip()
        assert os.path.isdir(directory)
        if os.path.dirname(directory) != str(tmp_path):  # it has a TMPDIR of its own
            monkeypatch.setattr(places.tempfile, "tempdir", os.path.dirname(directory))
        assert not is_stale(directory)
        remove_stale()
        assert os.path.isdir(directory)
        process.kill()
        process.wait()
        assert is_stale(directory)
        own = make_directory()
        remove_stale()
        assert not os.path.isdir(directory)
        assert os.path.isdir(own)
        places.remove_directory(own)
        assert not os.path.isdir(own)


def test_a_directory_without_a_lock_is_left_to_its_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places.tempfile, "tempdir", str(tmp_path))
    new = tmp_path / f"{places.PREFIX}new"
    new.mkdir()
    remove_stale()
    assert new.exists()
    os.utime(new, (0, 0))
    remove_stale()
    assert not new.exists()
