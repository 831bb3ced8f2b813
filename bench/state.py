"""The state that all processes share: what it withstands, and how quick it is.

    python bench/state.py                     all of it: about six minutes
    python bench/state.py speed waits         some of it
    python bench/state.py --redis URL counts rate messages    the same on a Redis

Each figure says how it came about. The rivals of `speed` are asked from one and the
same worker of a pool, in turn: multiprocessing.Manager, redis-py, and from a worker of
its own gunicorn's stash; one that is not installed is left out, with a line that says
so. Loads are bounded, and nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests/state")]
os.environ["PYTHONPATH"] = str(ROOT)

from many import Many  # noqa: E402
from support import serve  # noqa: E402
from test_store import INTERRUPTED  # noqa: E402

from pixie_web.state import State  # noqa: E402

WRITERS = 4
EACH = 5_000
MESSAGES = 100_000
SUBSCRIBERS = 50


class Setting:
    """What the figures share: where the state lies, and a directory.

    Args:
        directory: a new one.
        redis: the URL of a Redis to use in place of a file, or "".
        seconds: how long `kills` goes on.
    """

    def __init__(self, directory: Path, redis: str, seconds: float) -> None:
        self.directory = directory
        self.redis = redis
        self.seconds = seconds

    def url(self, name: str) -> str:
        """Return a place that is empty."""
        if self.redis:
            import redis

            with redis.Redis.from_url(self.redis) as client:
                client.flushdb()
        return self.redis or str(self.directory / f"{name}.db")


def percentile(times: List[float], part: float) -> float:
    """Return a percentile, e.g. 0.99."""
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


# What it withstands -------------------------------------------------------------------

COUNTING = """
import time
from pixie_web.state import State
state, way = State(sys.argv[2]), sys.argv[3]
state.get("opened")
def cas():
    while True:
        entry = state.read("n")
        if state.set("n", (entry.value or 0) + 1, version=entry.version):
            return
one = {
    "incr": lambda: state.incr("n"),
    "update": lambda: state.update("n", function=lambda n: (n or 0) + 1),
    "cas": cas,
}[way]
ready()
began, longest = time.perf_counter(), 0.0
for _ in range(int(sys.argv[4])):
    start = time.perf_counter()
    one()
    longest = max(longest, time.perf_counter() - start)
tell([time.perf_counter() - began, longest])
"""


def counts(setting: Setting) -> None:
    """4 processes, 5,000 each of incr, update, and compare and set."""
    for way in ("incr", "update", "cas"):
        url = setting.url(f"counts-{way}")
        with Many(WRITERS, COUNTING, url, way, str(EACH)) as many:
            many.patience_seconds = 300
            many.go()
            told = many.results()
        state = State(url)
        total = state.get("n")
        state.close()
        rate = WRITERS * EACH / max(seconds for seconds, _ in told)
        longest = max(longest for _, longest in told) * 1000
        exact = "exact" if total == WRITERS * EACH else "WRONG"
        print(f"  {way}: {total} of {WRITERS * EACH}, {exact}; ", end="")
        print(f"{rate:,.0f} a second in all, the longest took {longest:.0f} ms")


KILLS = """
import json, os, random, select, signal, sys, time
from pixie_web.state import State
path, seconds = sys.argv[1], float(sys.argv[2])

def write(key, pipe):
    state = State(path)
    while True:
        count = state.incr(key)
        os.write(pipe, b"%d\\n" % count)
        state.set("value of " + key, count)
        state.update("a", "b", function=lambda a, b: ((a or 0) + 1, (b or 0) - 1))

def checkpoint(key, pipe):
    state = State(path)
    while True:
        state.store.checkpoint()
        os.write(pipe, b"1\\n")
        time.sleep(0.05)

def start(key):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            (checkpoint if key == "c" else write)(key, writing)
        finally:
            os._exit(9)  # it is never here, but for an error
    os.close(writing)
    return pid, reading

def take(key):
    data = os.read(pipes[key][1], 1 << 20)
    if key == "c":
        found["checkpoints"] += data.count(b"\\n")
    elif data[-1:] == b"\\n":
        last[key] = int(data.split()[-1])
    elif b"\\n" in data:
        last[key] = int(data[:data.rindex(b"\\n")].split()[-1])
    return data

found = {"kills": 0, "checkpoints": 0, "failed": 0}
last = dict.fromkeys("0123", 0)
pipes = {key: start(key) for key in "0123c"}
end = time.monotonic() + seconds
while time.monotonic() < end:
    ready = select.select([p for _, p in pipes.values()], [], [], 0.001)[0]
    for key, (_, pipe) in pipes.items():
        if pipe in ready:
            take(key)
    if random.random() < 0.1:
        key = random.choice("0123")
        pid, pipe = pipes[key]
        os.kill(pid, signal.SIGKILL)
        found["failed"] += os.waitpid(pid, 0)[1] != 9
        found["kills"] += 1
        while take(key):
            pass
        os.close(pipe)
        pipes[key] = start(key)
for key, (pid, pipe) in pipes.items():
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while take(key):
        pass
print(json.dumps([found, last]))
"""


def kills(setting: Setting) -> None:
    """SIGKILLs among four writers, each replaced at once: what is lost?"""
    path = str(setting.directory / "kills.db")
    command = [sys.executable, "-c", KILLS, path, str(setting.seconds)]
    found, last = json.loads(subprocess.check_output(command, text=True))
    state = State(path)
    lost = sum(max(0, count - state.get(key, 0)) for key, count in last.items())
    torn = (state.get("a") or 0) + (state.get("b") or 0)
    connection = state.store._local.session.connection
    (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
    print(
        f"  {found['kills']} SIGKILLs in {setting.seconds:g} s, {found['checkpoints']} "
        f"checkpoints between, {found['failed']} writers ended otherwise: "
        f"{sum(last.values())} acknowledged, {lost} lost, {torn} torn in two; "
        f"integrity_check {integrity}"
    )
    state.close()


RATE = """
import time
from pixie_web.state import State
state = State(sys.argv[2])
state.get("opened")
ready()
began, allowed = time.monotonic(), []
while time.monotonic() < began + 3:
    if state.rate("login", limit=10, seconds=40).allowed:
        allowed.append(time.monotonic())
tell(allowed)
"""


def rate(setting: Setting) -> None:
    """`rate` from 8 processes: its limit at once, then one each seconds / limit."""
    with Many(8, RATE, setting.url("rate")) as many:
        many.go()
        moments = sorted(one for told in many.results() for one in told)
    within = sum(one < moments[0] + 4.0 for one in moments)
    print(f"  limit=10, seconds=40, 8 processes for 3 s: {within} were allowed")


def deadlines(setting: Setting) -> None:
    """A signal that raises, at 4,000 arbitrary moments."""
    path = str(setting.directory / "deadlines.db")
    with Many(2, INTERRUPTED, path, "2000") as many:
        many.go()
        told = many.results()
    state = State(path)
    struck = sum(one[0] for one in told)
    torn = state.get("a") + state.get("b")
    state.incr("n")
    print(
        f"  Python {sys.version.split()[0]}: {struck} signals raised in a call; no "
        f"gate left locked, no transaction open, {torn} torn in two, the next works"
    )
    state.close()


PUBLISHING = """
import time
from pixie_web.state import State
state = State(sys.argv[2], max_bytes=256 * 2**20)
state.get("opened")
ready()
began = time.monotonic()
for n in range(int(sys.argv[3])):
    state.publish("room", n, keep=int(sys.argv[4]))
tell(time.monotonic() - began)
"""
HEARING = """
import asyncio, time
from pixie_web.state import State
count = int(sys.argv[3])
state = State(sys.argv[2], max_bytes=256 * 2**20)
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
async def hear(subscription, found):
    expected = 0
    async for message in subscription:
        found[0] += message.data == expected and not message.missed
        expected = message.data + 1
        if expected == count:
            return
async def main():
    subscriptions = [state.aio.subscribe("room") for _ in range(50)]
    right = [[0] for _ in range(49)]
    tasks = [asyncio.ensure_future(hear(*p)) for p in zip(subscriptions, right)]
    await asyncio.sleep(1)
    before = resident()
    await asyncio.get_running_loop().run_in_executor(None, ready)
    began, most = time.monotonic(), before
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.2)
        most = max(most, resident())
    seconds = time.monotonic() - began
    first = await subscriptions[49].__anext__()
    rest = 1
    async for message in subscriptions[49]:
        rest += 1
        if message.data == count - 1:
            break
    tell([[count for (count,) in right], first.missed, rest, most - before, seconds])
asyncio.run(main())
"""


def messages(setting: Setting) -> None:
    """100,000 messages to 50 subscribers of one process, one of them stopped."""
    for keep in (200_000, 1_000):
        count = MESSAGES if keep == 200_000 else MESSAGES // 5
        url = setting.url(f"messages-{keep}")
        with Many(1, HEARING, url, str(count)) as hearing:
            with Many(1, PUBLISHING, url, str(count), str(keep)) as publishing:
                hearing.go()
                publishing.go()
                hearing.patience_seconds = publishing.patience_seconds = 400
                (seconds,) = publishing.results()
            ((heard, missed, rest, grown, took),) = hearing.results()
        whole = sum(one == count for one in heard)
        print(
            f"  keep={keep:,}: {count:,} published in {seconds:.0f} s; {whole} of 49 "
            f"got all, in order, in {took:.0f} s ({49 * count / took:,.0f} a second); "
            f"the stopped one got {rest:,} and missed {missed:,}; "
            f"its process grew by {grown / 2**20:.1f} MiB"
        )


# How quick it is ----------------------------------------------------------------------

PROGRAM = """
import sys, time
from pixie_web import RouteType, app, run
state = app.state

def measure(function, count=3000):
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    times.sort()
    return [times[count // 2] * 1e6, times[count * 99 // 100] * 1e6]

@app.get("/state")
def own(env):
    state.incr("n")
    return {"get": measure(lambda: state.get("n")),
            "set": measure(lambda: state.set("k", 1)),
            "incr": measure(lambda: state.incr("n"))}

@app.get("/manager")
def manager(env):
    from multiprocessing.managers import BaseManager, DictProxy, AcquirerProxy
    BaseManager.register("values", proxytype=DictProxy)
    BaseManager.register("lock", proxytype=AcquirerProxy)
    one = BaseManager(address=sys.argv[1], authkey=b"key")
    one.connect()
    values, lock = one.values(), one.lock()
    values["n"] = 0
    def incr():
        with lock:
            values["n"] = values["n"] + 1
    return {"get": measure(lambda: values.get("n")),
            "set": measure(lambda: values.__setitem__("k", 1)),
            "incr": measure(incr, 1000)}

@app.get("/redis")
def by_redis(env):
    import redis
    client = redis.Redis.from_url(sys.argv[2])
    client.set("n", 0)
    return {"get": measure(lambda: client.get("n")),
            "set": measure(lambda: client.set("k", 1)),
            "incr": measure(lambda: client.incr("n"))}

@app.get("/burn", timeout=60)
def burn(env):
    end, n = time.monotonic() + env.query.get("seconds", type=float), 0
    while time.monotonic() < end:
        n += sum(range(100))
    return {}

@app.get("/write", timeout=60)
def write(env):
    end, n = time.monotonic() + env.query.get("seconds", type=float), 0
    while time.monotonic() < end:
        n = state.incr("n")
    return {"n": n}

@app.get("/asnc", RouteType.asnc)
async def asnc(env):
    return "hello"

@app.get("/asnc/state", RouteType.asnc)
async def asnc_state(env):
    return {"n": await state.aio.incr("hits")}

if __name__ == "__main__":
    run()
"""
MANAGER = """
import sys, threading
from multiprocessing.managers import BaseManager, DictProxy, AcquirerProxy
values, lock = {}, threading.Lock()
BaseManager.register("values", lambda: values, DictProxy)
BaseManager.register("lock", lambda: lock, AcquirerProxy)
BaseManager(address=sys.argv[1], authkey=b"key").get_server().serve_forever()
"""
STASH = """
import json, time
from gunicorn.dirty import DirtyApp, stash
class Work(DirtyApp):
    def __call__(self, action, *args, **kwargs):
        return None
    def init(self): pass
    def close(self): pass
def measure(function, count=2000):
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    times.sort()
    return [times[count // 2] * 1e6, times[count * 99 // 100] * 1e6]
def app(environ, start_response):
    stash.put("t", "n", 0)
    found = {"get": measure(lambda: stash.get("t", "n")),
             "set": measure(lambda: stash.put("t", "n", 1))}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]
"""


@contextmanager
def started(command: List[str], directory: Path, until: Path) -> Iterator[None]:
    """Run a program for as long as the block lasts, once a file is there."""
    process = subprocess.Popen(
        command,
        cwd=str(directory),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        give_up = time.monotonic() + 20
        while not until.exists():
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{command[0]} does not start")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def own_redis(directory: Path) -> Iterator[Optional[str]]:
    """Run a Redis on a Unix socket of its own; None: there is none."""
    path = directory / "redis.sock"
    try:
        import redis  # noqa: F401
    except ImportError:
        yield None
        return
    if shutil.which("redis-server") is None:
        yield None
        return
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", ""]
    with started(command, directory, path):
        yield f"unix://{path}"


def stash_times(directory: Path) -> Optional[Dict[str, Any]]:
    """Return what gunicorn's stash takes, asked from one of its workers."""
    try:
        import gunicorn.dirty  # noqa: F401
    except ImportError:
        return None
    (directory / "gapp.py").write_text(STASH)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    path = directory / "gunicorn.pid"
    options = f"-b 127.0.0.1:{port} -w 1 -p {path} -t 60 --no-control-socket"
    dirty = "--dirty-app gapp:Work --dirty-workers 1 gapp:app"
    command = [sys.executable, "-m", "gunicorn", *options.split(), *dirty.split()]
    import urllib.request

    with started(command, directory, path):
        give_up = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
                    found: Dict[str, Any] = json.loads(answer.read())
                    return found
            except OSError:
                if time.monotonic() > give_up:
                    return None
                time.sleep(0.2)


def speed(setting: Setting) -> None:
    """One call from a worker, in microseconds: p50 (p99), the rivals in turn."""
    directory = setting.directory
    address = directory / "manager.sock"
    manager = [sys.executable, "-c", MANAGER, str(address)]
    with own_redis(directory) as url, started(manager, directory, address):
        arguments = [str(address), url or ""]
        with serve(PROGRAM, workers=1, arguments=arguments, access_log=False) as server:
            names = ["state", "manager", *["redis"] * bool(url)]
            rounds = [{name: server.get(f"/{name}").json for name in names}]
            rounds += [
                {name: server.get(f"/{name}").json for name in names} for _ in "12"
            ]
    stash = stash_times(directory)
    if url is None:
        print("  redis-py: left out, redis or redis-server is not installed")
    if stash is None:
        print("  gunicorn's stash: left out, it is not installed or does not start")
    found: Dict[str, Dict[str, List[float]]] = {
        name: {
            call: [
                statistics.median(one[name][call][at] for one in rounds)
                for at in (0, 1)
            ]
            for call in ("get", "set", "incr")
        }
        for name in names
    }
    if stash is not None:
        found["stash"] = stash  # it has no incr
    for name, calls in found.items():
        print(f"  {name:8}", end="")
        for call, (half, most) in calls.items():
            times = half / found["state"][call][0]
            print(f" {call} {half:6.1f} ({most:.0f}), {times:4.1f} times;", end="")
        print()


RAW = """
import sqlite3, time
connection = sqlite3.connect(sys.argv[2], timeout=60, isolation_level=None)
connection.execute("PRAGMA synchronous=" + sys.argv[4])
ready()
end, longest, count = time.monotonic() + float(sys.argv[3]), 0.0, 0
while time.monotonic() < end:
    start = time.perf_counter()
    connection.execute("UPDATE t SET v = v + 1 WHERE k = 'n'")
    longest = max(longest, time.perf_counter() - start)
    count += 1
tell([longest, count])
"""
GATED = """
import time
from pixie_web.state import Place, State
place = Place(sys.argv[2], volatile=sys.argv[4] == "OFF")
state = State(place=lambda: place)
state.incr("n")
ready()
end, longest, count = time.monotonic() + float(sys.argv[3]), 0.0, 0
while time.monotonic() < end:
    start = time.perf_counter()
    state.incr("n")
    longest = max(longest, time.perf_counter() - start)
    count += 1
tell([longest, count])
"""


def waits(setting: Setting) -> None:
    """The longest of the calls of four writers, beside plain SQLite: three rounds."""
    for level, what in (("OFF", "as state=memory"), ("NORMAL", "as a path")):
        longest: Dict[str, List[float]] = {"state": [], "SQLite": []}
        totals: Dict[str, List[float]] = {"state": [], "SQLite": []}
        for turn in range(3):
            for name, text in (("state", GATED), ("SQLite", RAW)):
                path = str(setting.directory / f"waits-{turn}-{name}-{level}.db")
                if text is RAW:  # four that make it at once fail: "database is locked"
                    make_table(path)
                with Many(WRITERS, text, path, "4", level) as many:
                    many.go()
                    told = many.results()
                longest[name].append(max(one for one, _ in told) * 1000)
                totals[name].append(sum(count for _, count in told) / 4)
        for name in longest:
            shown = ", ".join(f"{one:.0f}" for one in longest[name])
            total = statistics.median(totals[name])
            print(f"  {what}, {name}: {shown} ms; {total:,.0f} a second in all")
        medians = {name: statistics.median(times) for name, times in longest.items()}
        ratio = medians["SQLite"] / medians["state"]
        print(f"  {what}: the gate's longest is 1/{ratio:.1f} of SQLite's, by medians")


def make_table(path: str) -> None:
    """Make the table that plain SQLite writes to."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    connection.execute("CREATE TABLE t(k TEXT PRIMARY KEY, v INTEGER)")
    connection.execute("INSERT INTO t VALUES('n', 0)")
    connection.commit()
    connection.close()


def latency(setting: Setting) -> None:
    """p99 of an asnc route while four workers compute, and while they write."""
    figures: Dict[str, List[float]] = {"/burn": [], "/write": []}
    with serve(PROGRAM, workers=4, access_log=False) as server:
        for _ in range(3):
            for busy, p99s in figures.items():
                asked = [
                    threading.Thread(target=server.get, args=(f"{busy}?seconds=6",))
                    for _ in range(WRITERS)
                ]
                for one in asked:
                    one.start()
                time.sleep(1)
                p99s.append(p99_of(server, "/asnc"))
                for one in asked:
                    one.join()
    for busy, p99s in figures.items():
        shown = ", ".join(f"{one * 1000:.1f}" for one in p99s)
        print(f"  asnc beside four of {busy}: p99 {shown} ms")
    ratio = statistics.median(figures["/write"]) / statistics.median(figures["/burn"])
    print(f"  beside writers it is {ratio:.2f} times as long, by medians")


def p99_of(server: Any, path: str) -> float:
    """Ask on one connection for four seconds, 250 times a second at most."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    times = []
    with server.connect() as one:
        end = time.monotonic() + 4
        while time.monotonic() < end:
            start = time.perf_counter()
            one.sendall(request)
            one.recv(65536)
            times.append(time.perf_counter() - start)
            time.sleep(0.004)
    return percentile(times, 0.99)


FIGURES: Dict[str, Callable[[Setting], None]] = {
    one.__name__: one
    for one in (counts, kills, rate, messages, deadlines, speed, waits, latency)
}
ON_REDIS = ("counts", "rate", "messages")


def main() -> None:
    """Print the figures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("figures", nargs="*", help=f"of {', '.join(FIGURES)}")
    parser.add_argument(
        "--redis", default="", help="the URL of one that may be emptied"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of kills")
    given = parser.parse_args()
    unknown = set(given.figures) - set(FIGURES)
    if unknown or (given.redis and set(given.figures) - set(ON_REDIS)):
        parser.error(f"figures are {', '.join(FIGURES)}; of a Redis {ON_REDIS}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    names = given.figures or (ON_REDIS if given.redis else list(FIGURES))
    with tempfile.TemporaryDirectory(prefix="pixie_web-bench-") as directory:
        setting = Setting(Path(directory), given.redis, given.seconds)
        for name in names:
            print(f"{name}: {(FIGURES[name].__doc__ or '').strip()}", flush=True)
            FIGURES[name](setting)


if __name__ == "__main__":
    main()
