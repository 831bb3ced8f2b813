"""The process pool beside its rivals: speed, and what becomes of work that goes wrong.

    python bench/pool.py                        all figures, one table
    python bench/pool.py throughput roundtrip   some of them
    python bench/pool.py --help                 rounds, seconds, cores

The rivals are Starlette on uvicorn handing the same work to ProcessPoolExecutor, and
gunicorn's dirty workers; one that is not installed is left out, with a line that says
so. All servers of a figure run at the same time, on the same cores and with two workers
each, and are asked in turn; each figure is the median of the rounds. The client is wrk
for rates and round trips, where it is installed (plain sockets of Python take longer
to ask than a fast server to answer), and plain sockets for all else; it has cores of
its own where the title does not say "shared".
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import re
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional

from wire import cpu_times, descendants, resident_bytes

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
PATIENCE_SECONDS = 20.0
BURN_SECONDS = 0.02  # of CPU, for each request of the overload
LEAST_WAIT_SECONDS = 3.0  # for what should come, or be gone, in milliseconds
TOO_LONG = f"> {LEAST_WAIT_SECONDS:g} s"

WORK = """
import os, sys, time

def note():
    with open("pid.part", "w") as file:
        file.write(str(os.getpid()))
    os.replace("pid.part", "pid")

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def trivial(): return "hello"
def load(): burn(BURN_SECONDS); return "burnt"
def long(): note(); burn(60); return "done"
def hold(): note(); time.sleep(0.2); return "held"

def chunks(count):
    for _ in range(count):
        yield b"x" * 65536
""".replace("BURN_SECONDS", str(BURN_SECONDS))

PIXIE = """
import work
from pixie_web import RouteType, route, run

@route("/quick", RouteType.asnc)
async def quick(env): return "quick"

@route("/pool")
def pool(env): return work.trivial()

@route("/load")
def load(env): return work.load()

@route("/late", timeout=0.5)
def late(env): return work.long()

@route("/left", timeout=60, on_disconnect="stop")
def left(env): return work.long()

@route("/hold")
def hold(env): return work.hold()

@route("/stream/<count:int>", RouteType.stream)
def stream(env, count): yield from work.chunks(count)

run(access_log=False)
"""

STARLETTE = """
import asyncio, functools, os, work
from concurrent.futures import ProcessPoolExecutor
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

executor = ProcessPoolExecutor(int(os.environ["WORKERS"]))

async def quick(request):
    return PlainTextResponse("quick")

def handed_on(function, timeout=None):
    async def endpoint(request):
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(executor, function)
            return PlainTextResponse(await asyncio.wait_for(future, timeout))
        except asyncio.TimeoutError:
            return PlainTextResponse("too late", 504)
    return endpoint

app = Starlette(routes=[
    Route("/quick", quick),
    Route("/pool", handed_on(work.trivial)),
    Route("/load", handed_on(work.load)),
    Route("/late", handed_on(work.long, 0.5)),
    Route("/left", handed_on(work.long)),
    Route("/hold", handed_on(work.hold)),
])
"""

GUNICORN = """
import work
from gunicorn.dirty import DirtyApp, DirtyTimeoutError, get_dirty_client_async
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

class Work(DirtyApp):
    def __call__(self, action, *args, **named):
        return getattr(work, action)(*args)

async def quick(request):
    return PlainTextResponse("quick")

def handed_on(action, timeout=60.0):
    async def endpoint(request):
        client = await get_dirty_client_async(timeout=timeout)
        try:
            return PlainTextResponse(await client.execute_async("gapp:Work", action))
        except DirtyTimeoutError:
            return PlainTextResponse("too late", 504)
    return endpoint

async def stream(request):
    client = await get_dirty_client_async()
    count = request.path_params["count"]
    return StreamingResponse(client.stream_async("gapp:Work", "chunks", count))

app = Starlette(routes=[
    Route("/quick", quick),
    Route("/pool", handed_on("trivial")),
    Route("/load", handed_on("load")),
    Route("/late", handed_on("long", 0.5)),
    Route("/left", handed_on("long")),
    Route("/hold", handed_on("hold")),
    Route("/stream/{count:int}", stream),
])
"""


# The servers --------------------------------------------------------------------------


class Peer:
    """One of those that are compared: what it needs, and how it is started."""

    def __init__(self, name: str, needs: List[str], program: str) -> None:
        self.name = name
        self.needs = needs
        self.program = program
        self.module = {"pixie_web": "ours", "gunicorn": "gapp"}.get(name, "app")

    def missing(self) -> List[str]:
        """Return the packages that it needs and that are not installed."""
        missing = []
        for name in self.needs:
            try:
                found = importlib.util.find_spec(name)
            except ModuleNotFoundError:  # of a package around it
                found = None
            missing += [] if found else [name]
        return missing

    def command(self, port: int, workers: int) -> List[str]:
        """Return what starts it."""
        if self.name == "pixie_web":
            return [sys.executable, "ours.py"]
        if self.name == "gunicorn":
            options = f"-k asgi -w 1 -b 127.0.0.1:{port} --log-level critical"
            dirty = f"--dirty-app gapp:Work --dirty-workers {workers}"
            module = [sys.executable, "-m", "gunicorn", "--no-control-socket"]
            return [*module, *options.split(), *dirty.split(), "gapp:app"]
        options = f"--port {port} --log-level critical --no-access-log"
        return [sys.executable, "-m", "uvicorn", *options.split(), "app:app"]


PEERS = [
    Peer("pixie_web", [], PIXIE),
    Peer("Starlette", ["starlette", "uvicorn"], STARLETTE),
    Peer("gunicorn", ["starlette", "gunicorn.dirty"], GUNICORN),
]


class Server:
    """A running peer."""

    def __init__(
        self, peer: Peer, directory: Path, cores: List[int], workers: int = WORKERS
    ) -> None:
        self.peer = peer
        self.directory = directory
        (directory / "work.py").write_text(WORK)
        (directory / f"{peer.module}.py").write_text(peer.program)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PIXIE_HOST": "127.0.0.1",
            "PIXIE_PORT": str(self.port),
            "PIXIE_WORKERS": str(workers),
            "WORKERS": str(workers),
        }
        self.process = subprocess.Popen(
            peer.command(self.port, workers),
            cwd=str(directory),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        self._await_answer()

    def _await_answer(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if ask(self.port, "/pool") == 200:
                return
            time.sleep(0.05)
        self.stop()
        raise SystemExit(f"{self.peer.name} did not start")

    def stop(self) -> None:
        """End it, and whatever it has started."""
        below = descendants(self.process.pid)
        for pid in [self.process.pid, *below]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def noted_pid(self) -> int:
        """Wait for a handler to say in which process it runs."""
        path = self.directory / "pid"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not path.exists():
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.peer.name}: the handler does not start")
            time.sleep(0.001)
        pid = int(path.read_text())
        path.unlink()
        return pid


def cpu_seconds(pid: int) -> Optional[float]:
    """Return the CPU time that a process has had; None when it is gone, or a zombie."""
    times = cpu_times(pid)
    return None if times is None else sum(times)


# The client ---------------------------------------------------------------------------


class Exchange:
    """A connection, and the answer that is arriving on it."""

    LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.started = 0.0
        self._data = b""

    def send(self, path: str) -> None:
        """Send a request."""
        self.started = time.perf_counter()
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())

    def receive(self) -> Optional[int]:
        """Read what is there; return the status of an answer that is complete.

        Raises:
            ConnectionError: the server has closed.
        """
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError("closed")
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = self.LENGTH.search(head)
        if not end or (length and len(body) < int(length.group(1))):
            return None
        self._data = b""
        return int(head[9:12])


def ask(port: int, path: str) -> int:
    """Ask once and return the status; 0 when no answer comes."""
    try:
        exchange = Exchange(port)
        with exchange.socket:
            exchange.socket.settimeout(LEAST_WAIT_SECONDS)
            exchange.send(path)
            status = None
            while status is None:
                status = exchange.receive()
            return status
    except OSError:
        return 0


def closed_loop(port: int, path: str, clients: int, seconds: float) -> List[float]:
    """Have each client ask again as soon as it is answered; return all durations."""
    durations: List[float] = []
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(clients):
            exchange = Exchange(port)
            stack.enter_context(exchange.socket)
            selector.register(exchange.socket, selectors.EVENT_READ, exchange)
            exchange.send(path)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for key, _ in selector.select(1.0):
                exchange = key.data
                status = exchange.receive()
                if status is None:
                    continue
                assert status == 200, f"{path}: {status}"
                durations.append(time.perf_counter() - exchange.started)
                exchange.send(path)
    return durations


class OpenLoop:
    """Asks at a fixed rate, whether answers come or not, and notes the durations.

    A duration counts from when the request was due, so that a client which is late
    itself does not make the server look better.
    """

    MAX_CONNECTIONS = 400

    def __init__(self, port: int, path: str, rate: float) -> None:
        self._port = port
        self._path = path
        self._pause = 1 / rate
        self.due = time.perf_counter()
        self._free: Deque[Exchange] = deque()
        self._opened = 0
        self.answers: Dict[int, List[float]] = {}

    def send_what_is_due(self, selector: selectors.BaseSelector) -> None:
        """Send the requests whose time has come."""
        now = time.perf_counter()
        while self.due <= now:
            if not self._free and self._opened < self.MAX_CONNECTIONS:
                exchange = Exchange(self._port)
                self._opened += 1
                selector.register(
                    exchange.socket, selectors.EVENT_READ, (self, exchange)
                )
                self._free.append(exchange)
            if self._free:
                exchange = self._free.popleft()
                exchange.send(self._path)
                exchange.started = self.due
            self.due += self._pause

    def take(self, exchange: Exchange, selector: selectors.BaseSelector) -> None:
        """Read from one connection."""
        try:
            status = exchange.receive()
        except ConnectionError:
            selector.unregister(exchange.socket)
            exchange.socket.close()
            self._opened -= 1
            return
        if status is not None:
            duration = time.perf_counter() - exchange.started
            self.answers.setdefault(status, []).append(duration)
            self._free.append(exchange)


def run_open_loops(loops: List[OpenLoop], seconds: float) -> None:
    """Run loads side by side."""
    with selectors.DefaultSelector() as selector:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for loop in loops:
                loop.send_what_is_due(selector)
            left = min(loop.due for loop in loops) - time.perf_counter()
            for key, _ in selector.select(max(0.0, left)):
                loop, exchange = key.data
                loop.take(exchange, selector)
        for key in list(selector.get_map().values()):
            key.data[1].socket.close()


def percentile(values: List[float], part: float) -> float:
    """Return the value below which a part of all values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


# The figures --------------------------------------------------------------------------
# Each takes a running server and returns what it has measured once, or the words why
# there is nothing to measure. Rates and times are numbers, so that they have a median.

Value = Any  # a float, or a few words
OPTIONS: argparse.Namespace  # of the command line


def per_second(value: float) -> str:
    return f"{value:,.0f} /s"


def milliseconds(value: float) -> str:
    return f"{value * 1000:.2f} ms" if value < 0.1 else f"{value * 1000:.0f} ms"


def megabytes(value: float) -> str:
    return f"{value / 1e6:+.1f} MB"


def seconds_of_cpu(value: float) -> str:
    return f"{value:.2f} s"


def count(value: float) -> str:
    return f"{value:g}"


WRK_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class Answers(NamedTuple):
    """What many requests for a trivial pool route came to."""

    per_second: float
    median_seconds: float
    failed: int = 0  # none, or no 200


def ask_by_wrk(port: int, clients: int, seconds: float) -> Answers:
    """Have wrk ask again and again."""
    url = f"http://127.0.0.1:{port}/pool"
    options = ["-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--latency"]
    run = subprocess.run(["wrk", *options, url], capture_output=True, check=True)
    text = run.stdout.decode()
    rate = re.search(r"Requests/sec: +([\d.]+)", text)
    median = re.search(r"50% +([\d.]+)([a-z]+)", text)
    assert rate is not None and median is not None, text
    lines = re.findall("Non-2xx.*|Socket errors.*", text)
    failed = sum(map(int, re.findall(r"\b[1-9]\d*\b(?!xx)", " ".join(lines))))
    median_seconds = float(median.group(1)) * WRK_UNITS[median.group(2)]
    return Answers(float(rate.group(1)), median_seconds, failed)


def ask_for_long(server: Server, clients: int) -> Answers:
    """Ask by what there is to ask with, after a moment to warm up."""
    if shutil.which("wrk"):
        ask_by_wrk(server.port, clients, 1)
        return ask_by_wrk(server.port, clients, OPTIONS.seconds)
    closed_loop(server.port, "/pool", clients, 0.3)
    durations = closed_loop(server.port, "/pool", clients, OPTIONS.seconds)
    return Answers(len(durations) / OPTIONS.seconds, percentile(durations, 0.5))


def throughput(server: Server) -> Value:
    """Return requests per second of a trivial pool route, with 32 clients."""
    answers = ask_for_long(server, 32)
    return f"{answers.failed} failed" if answers.failed else answers.per_second


def round_trip(server: Server) -> Value:
    """Return the median duration of a trivial pool request, with one client."""
    answers = ask_for_long(server, 1)
    return f"{answers.failed} failed" if answers.failed else answers.median_seconds


def quick_p99(server: Server, load: float) -> float:
    loops = [OpenLoop(server.port, "/quick", 100)]
    if load:
        loops.append(OpenLoop(server.port, "/load", load))
    run_open_loops(loops, OPTIONS.seconds)
    return percentile(loops[0].answers.get(200, [float("inf")]), 0.99)


def idle_p99(server: Server) -> Value:
    """Return the p99 of an async route that has the server for itself."""
    return quick_p99(server, 0)


def overloaded_p99(server: Server) -> Value:
    """Return the p99 of an async route while the pool is offered ten times too much."""
    slots = min(WORKERS, len(OPTIONS.server_cores))
    return quick_p99(server, 10 * slots / BURN_SECONDS)


def gone_after(pid: int, start: float) -> Value:
    """Return how long after `start` a process is gone."""
    while cpu_seconds(pid) is not None:
        if time.perf_counter() - start > LEAST_WAIT_SECONDS:
            return TOO_LONG
        time.sleep(0.001)
    return time.perf_counter() - start


def deadline(server: Server) -> Value:
    """Return the time from the 504 of a handler that hangs to the end of its worker."""
    exchange = Exchange(server.port)
    with exchange.socket:
        exchange.send("/late")
        pid = server.noted_pid()
        assert exchange.receive() == 504
    return gone_after(pid, exchange.started + 0.5)


def kill(server: Server) -> Value:
    """Return the time from the death of the only worker to the next answer."""
    exchange = Exchange(server.port)
    with exchange.socket:
        exchange.send("/hold")
        os.kill(server.noted_pid(), signal.SIGKILL)
        start = time.perf_counter()
        while time.perf_counter() - start < LEAST_WAIT_SECONDS:
            if ask(server.port, "/pool") == 200:
                return time.perf_counter() - start
            time.sleep(0.001)
    return TOO_LONG


def lost(server: Server) -> Value:
    """Return how many of ten requests fail when one of two workers is killed."""
    exchanges = [Exchange(server.port) for _ in range(10)]
    for exchange in exchanges:
        exchange.send("/hold")
    os.kill(server.noted_pid(), signal.SIGKILL)
    failed = 0
    for exchange in exchanges:
        with exchange.socket:
            exchange.socket.settimeout(LEAST_WAIT_SECONDS)
            try:
                failed += exchange.receive() != 200
            except OSError:
                failed += 1
    return failed


def disconnect(server: Server) -> Value:
    """Return the CPU seconds that a handler burns after its client has left."""
    exchange = Exchange(server.port)
    with exchange.socket:
        exchange.send("/left")
        pid = server.noted_pid()
        time.sleep(0.2)
    before = last = cpu_seconds(pid) or 0.0
    end = time.monotonic() + LEAST_WAIT_SECONDS
    while time.monotonic() < end:
        now = cpu_seconds(pid)
        if now is None:
            return last - before
        last = now
        time.sleep(0.005)
    return TOO_LONG


def stream(server: Server) -> Value:
    """Return how much main grows while 1 GB streams to a reader at 100 KB/s."""
    if server.peer.name == "Starlette":
        return "can't stream"
    main = server.process.pid
    if server.peer.name == "gunicorn":
        main = min(descendants(main))  # the HTTP worker is forked first
    exchange = Exchange(server.port)
    with exchange.socket as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        before = resident_bytes(main)
        most = 0
        exchange.send(f"/stream/{10**9 // 65_536}")
        due = time.monotonic()
        end = due + OPTIONS.stream_seconds
        while time.monotonic() < end:
            left = 10_000
            while left:
                left -= len(one.recv(left))
            most = max(most, resident_bytes(main) - before)
            due += 0.1
            time.sleep(max(0.0, due - time.monotonic()))
    return most


class Figure(NamedTuple):
    """A row of the table."""

    group: str  # the word that asks for it
    title: str
    goal: str
    measure: Callable[[Server], Value]
    unit: Callable[[float], str]
    workers: int = WORKERS
    afresh: bool = False  # each round has servers of its own: a rival's may be broken
    all_cores: bool = False  # server and client share all cores


FIGURES = [
    Figure("throughput", "32 clients", ">= 4 x the second", throughput, per_second),
    Figure(
        "throughput",
        "32 clients, cores shared",
        ">= 4 x the second",
        throughput,
        per_second,
        all_cores=True,
    ),
    Figure("roundtrip", "one client", "<= 1/2 of the second", round_trip, milliseconds),
    Figure(
        "roundtrip",
        "one client, cores shared",
        "<= 1/2 of the second",
        round_trip,
        milliseconds,
        all_cores=True,
    ),
    Figure("overload", "p99 of an async route", "", idle_p99, milliseconds),
    Figure(
        "overload",
        "the same, pool 10 x overloaded",
        "<= 2 x, or 10 ms",
        overloaded_p99,
        milliseconds,
    ),
    Figure(
        "deadline", "deadline to worker gone", "", deadline, milliseconds, afresh=True
    ),
    Figure(
        "kill", "kill to next answer", "", kill, milliseconds, workers=1, afresh=True
    ),
    Figure("kill", "lost of 10 by a crash", "1", lost, count, afresh=True),
    Figure(
        "disconnect",
        "CPU after the client left",
        "< 0.2 s",
        disconnect,
        seconds_of_cpu,
        afresh=True,
    ),
    Figure("stream", "main grows, slow reader", "flat", stream, megabytes, afresh=True),
]


@contextmanager
def serving(figure: Figure, peers: List[Peer]) -> Iterator[List[Server]]:
    """Run all peers for as long as the block lasts."""
    cores = sorted(os.sched_getaffinity(os.getppid()))
    mine = cores if figure.all_cores else OPTIONS.client_cores
    theirs = cores if figure.all_cores else OPTIONS.server_cores
    os.sched_setaffinity(0, mine)
    with ExitStack() as stack:
        servers = []
        for peer in peers:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            servers.append(Server(peer, directory, theirs, figure.workers))
            stack.callback(servers[-1].stop)
        yield servers


def measured(figure: Figure, peers: List[Peer]) -> Dict[str, List[Value]]:
    """Return what each round gave, by the name of the peer."""
    values: Dict[str, List[Value]] = {peer.name: [] for peer in peers}
    rounds = 1 if figure.group == "stream" else OPTIONS.rounds
    for _ in range(rounds if figure.afresh else 1):
        with serving(figure, peers) as servers:
            for _ in range(1 if figure.afresh else rounds):
                for server in servers:
                    values[server.peer.name].append(figure.measure(server))
    return values


def summary(figure: Figure, values: List[Value]) -> str:
    """Return the median, or the words that a round gave instead of a number."""
    words = [value for value in values if isinstance(value, str)]
    return words[0] if words else figure.unit(statistics.median(values))


def print_versions(peers: List[Peer]) -> None:
    """Print what is compared and by what, and what is left out."""
    names = ["starlette", "uvicorn", "gunicorn", "uvloop", "httptools"]
    found = [
        f"{name} {importlib.metadata.version(name)}"
        for name in names
        if importlib.util.find_spec(name)
    ]
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {python}, {', '.join(found) or 'no rival'}")
    print(f"asked by {'wrk' if shutil.which('wrk') else 'plain sockets'}")
    for peer in PEERS:
        if peer not in peers:
            print(f"{peer.name} is left out: install {' and '.join(peer.needs)}")


def parse_options() -> argparse.Namespace:
    def cores(text: str) -> List[int]:
        return [int(number) for number in text.split(",")]

    groups = list(dict.fromkeys(figure.group for figure in FIGURES))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("figures", nargs="*", help=", ".join(groups))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--server-cores", type=cores, default=[0], metavar="0,1")
    parser.add_argument("--client-cores", type=cores, default=[1], metavar="2")
    parser.add_argument(
        "--stream-seconds", type=float, default=10.0, help="10000 for all of the 1 GB"
    )
    options = parser.parse_args()
    unknown = set(options.figures) - set(groups)
    if unknown:
        parser.error(f"figures are {', '.join(groups)}, not {', '.join(unknown)}")
    return options


def main() -> None:
    peers = [peer for peer in PEERS if not peer.missing()]
    print_versions(peers)
    row = "{:32} {:20}" + " {:>14}" * len(peers)
    print(row.format("", "goal", *(peer.name for peer in peers)))
    for figure in FIGURES:
        if not OPTIONS.figures or figure.group in OPTIONS.figures:
            values = measured(figure, peers)
            cells = [summary(figure, values[peer.name]) for peer in peers]
            print(row.format(figure.title, figure.goal, *cells), flush=True)


OPTIONS = parse_options()

if __name__ == "__main__":
    main()
