"""Too many clients: how many good answers are left, beside two rivals.

    python bench/overload.py                     all figures, one table after the other
    python bench/overload.py closed mixed open   some of them
    python bench/overload.py --clients 32 1000 --seconds 5 --paths /trivial

closed  each client asks again as soon as it has an answer (wrk): 8 to 3,000 of them,
        for a handler that does nothing, one of 5 ms of CPU, and plain text of the main
        process, whose loss is what connections alone cost
mixed   4 clients of 5 ms of CPU, alone and then beside 4 of 500 ms
beside  p99 of plain text of the main process, beside 32 clients and beside many
open    requests come at twice the rate that can be served, whether answered or not,
        and may wait for 30 s or for 1 s

A good answer is a 2xx that comes within the time that it may wait and two seconds.
The rivals are gunicorn's sync workers and Starlette on uvicorn, handing the work to
ProcessPoolExecutor; one that is not installed is left out. Each server has two workers,
all on the same cores (`--server-cores`), and the clients have others.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
PATIENCE_SECONDS = 20.0
GRACE_SECONDS = 2.0
PROBES_PER_SECOND = 50

WORK = """
import time

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return b"burnt"

def trivial(): return b"hello"
def five(): return burn(0.005)
def long(): return burn(0.5)
WORK = {"/trivial": trivial, "/five": five, "/long": long}
"""

PIXIE = """
import os
from work import WORK
from pixie_web import RouteType, route, run

for path, function in WORK.items():
    route(path, queue_timeout=float(os.environ["QUEUE_TIMEOUT"]))(
        lambda env, function=function: function()
    )

@route("/text", RouteType.asnc)
async def text(env): return b"hello"

run(access_log=False)
"""

STARLETTE = """
import asyncio, os
from concurrent.futures import ProcessPoolExecutor
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from work import WORK

executor = ProcessPoolExecutor(int(os.environ["WORKERS"]))

def handed_on(function):
    async def endpoint(request):
        loop = asyncio.get_running_loop()
        return Response(await loop.run_in_executor(executor, function))
    return endpoint

async def text(request): return Response(b"hello")

routes = [Route(path, handed_on(function)) for path, function in WORK.items()]
app = Starlette(routes=[*routes, Route("/text", text)])
"""

GUNICORN = """
from work import WORK, trivial

def app(environ, start_response):
    body = WORK.get(environ["PATH_INFO"], trivial)()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

PEERS: Dict[str, Tuple[str, str, str]] = {
    "pixie_web": ("", PIXIE, "{python} app.py"),
    "Starlette": (
        "starlette uvicorn",
        STARLETTE,
        "{python} -m uvicorn --port {port} --log-level critical --no-access-log "
        "app:app",
    ),
    "gunicorn": (
        "gunicorn",
        GUNICORN,
        "{python} -m gunicorn -w 2 -b 127.0.0.1:{port} --log-level critical app:app",
    ),
}


class Peer(NamedTuple):
    """A server that runs."""

    name: str
    port: int


@contextmanager
def running(
    names: Sequence[str], cores: Sequence[int], queue_timeout: float
) -> Iterator[List[Peer]]:
    """Run the servers that are installed, all at once."""
    peers = []
    with ExitStack() as stack:
        for name in names:
            needs, program, command = PEERS[name]
            if not all(map(importlib.util.find_spec, needs.split())):
                print(f"{name} is left out: it needs {needs}", file=sys.stderr)
                continue
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (directory / "work.py").write_text(WORK)
            (directory / "app.py").write_text(program)
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            process = subprocess.Popen(
                command.format(python=sys.executable, port=port).split(),
                cwd=str(directory),
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "PIXIE_HOST": "127.0.0.1",
                    "PIXIE_PORT": str(port),
                    "PIXIE_WORKERS": str(WORKERS),
                    "WORKERS": str(WORKERS),
                    "QUEUE_TIMEOUT": str(queue_timeout),
                },
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
            stack.callback(stop, process)
            wait_for_answer(name, port)
            peers.append(Peer(name, port))
        yield peers


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server, and the workers that are in its session."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def wait_for_answer(name: str, port: int) -> None:
    """Wait until a server's workers answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as one:
                one.sendall(b"GET /trivial HTTP/1.0\r\nHost: a\r\n\r\n")
                if b" 200 " in one.recv(100):
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{name} did not start")


# Clients ------------------------------------------------------------------------------


class Load:
    """wrk, asking for one path.

    Args:
        seconds: for how long.
        cores: on which it runs.
    """

    def __init__(
        self, peer: Peer, path: str, clients: int, seconds: float, cores: Sequence[int]
    ) -> None:
        command = f"wrk -t1 -c{clients} -d{seconds:g} --timeout 40s --latency"
        self._process = subprocess.Popen(
            [*command.split(), f"http://127.0.0.1:{peer.port}{path}"],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        self._seconds = seconds

    def good_per_second(self) -> float:
        """Wait for its end; return the rate of answers with a status of 2xx."""
        output = self._process.communicate()[0]
        count = int(re.search(r"(\d+) requests in", output)[1])  # type: ignore[index]
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
        return (count - (int(refused[1]) if refused else 0)) / self._seconds


def probe(peer: Peer, path: str, seconds: float) -> List[float]:
    """Ask now and then, on a connection of its own; return how long each took.

    Where it may, it goes ahead of the other clients, which have the same core: the time
    is the server's.
    """
    found = []
    end = time.monotonic() + seconds
    with ExitStack() as stack:
        one = socket.create_connection(("127.0.0.1", peer.port), PATIENCE_SECONDS)
        stack.enter_context(one)
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -15)
            stack.callback(os.setpriority, os.PRIO_PROCESS, 0, 0)
        except PermissionError:
            print("not allowed to go ahead: the times are those of the clients, too")
        while time.monotonic() < end:
            began = time.monotonic()
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            if not one.recv(65536):
                break
            found.append(time.monotonic() - began)
            time.sleep(1 / PROBES_PER_SECOND)
    return sorted(found)


class Caller:
    """Asks at a given rate, on as many connections as that takes.

    Attributes:
        good, late, refused, lost: what became of the requests.
    """

    def __init__(self, port: int, path: str, within_seconds: float) -> None:
        self.good = self.late = self.refused = self.lost = 0
        self._port = port
        self._data = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        self._within = within_seconds
        self._idle: List[Tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self, per_second: float, seconds: float) -> None:
        """Send all, and wait for the answers."""
        tasks = []
        began = time.monotonic()
        for number in range(int(per_second * seconds)):
            late = began + number / per_second - time.monotonic()
            if late > 0:
                await asyncio.sleep(late)
            tasks.append(asyncio.ensure_future(self._ask()))
        await asyncio.wait(tasks, timeout=self._within + 5)
        for task in tasks:
            task.cancel()
        self.lost += sum(not task.done() for task in tasks)

    async def _ask(self) -> None:
        began = time.monotonic()
        try:
            if self._idle:
                reader, writer = self._idle.pop()
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(self._data)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
        except (OSError, asyncio.IncompleteReadError):
            self.lost += 1
            return
        if b"Connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        if b" 200 " not in head[:20]:
            self.refused += 1
        elif time.monotonic() - began > self._within:
            self.late += 1
        else:
            self.good += 1


# Figures ------------------------------------------------------------------------------


class Options(NamedTuple):
    """What the command line says."""

    clients: List[int]
    paths: List[str]
    seconds: float
    server_cores: List[int]
    client_cores: List[int]
    peers: List[str]


def row(title: str, cells: Sequence[object]) -> None:
    """Print a line of a table."""
    print(f"{title:34}" + "".join(f"{cell!s:>11}" for cell in cells), flush=True)


def closed(options: Options) -> None:
    """Print good answers for each number of clients."""
    with running(options.peers, options.server_cores, 30) as peers:
        for peer in peers:
            print(f"\n{peer.name}: good answers a second")
            row("clients", options.clients)
            for path in options.paths:
                rates = [
                    Load(
                        peer, path, clients, options.seconds, options.client_cores
                    ).good_per_second()
                    for clients in options.clients
                ]
                row(path, [f"{rate:.0f}" for rate in rates])
                base = rates[options.clients.index(32)] if 32 in options.clients else 0
                if base:
                    row("  of those with 32", [f"{rate / base:.2f}" for rate in rates])


def mixed(options: Options) -> None:
    """Print what a short route keeps beside a long one."""
    with running(options.peers, options.server_cores, 30) as peers:
        print("\n5 ms route, 4 clients: answers a second")
        row("", ["alone", "beside", "kept", "the other"])
        for peer in peers:
            seconds, cores = options.seconds, options.client_cores
            alone = Load(peer, "/five", 4, seconds, cores).good_per_second()
            other = Load(peer, "/long", 4, seconds + 2, cores)
            time.sleep(1)
            beside = Load(peer, "/five", 4, seconds, cores).good_per_second()
            kept = f"{beside / alone:.0%}"
            cells = [f"{alone:.0f}", f"{beside:.1f}", kept]
            row(peer.name, [*cells, f"{other.good_per_second():.1f}"])


def beside(options: Options) -> None:
    """Print how long plain text of the main process takes beside a crowd."""
    with running(options.peers, options.server_cores, 30) as peers:
        for peer in peers:
            if peer.name == "gunicorn":
                continue  # it has no other process
            for path in options.paths:
                print(f"\n{peer.name}: ms for plain text beside clients of {path}")
                row("clients", options.clients)
                p50, p99 = [], []
                for clients in options.clients:
                    seconds = options.seconds
                    cores = options.client_cores
                    load = Load(peer, path, clients, seconds + 1, cores)
                    time.sleep(1)
                    found = probe(peer, "/text", seconds - 0.5)
                    load.good_per_second()
                    p50.append(f"{1000 * found[len(found) // 2]:.1f}")
                    p99.append(f"{1000 * found[int(len(found) * 0.99)]:.1f}")
                row("  p50", p50)
                row("  p99", p99)


def opened(options: Options) -> None:
    """Print what becomes of twice as many requests as can be served."""
    for queue_timeout in (30.0, 1.0):
        with running(options.peers, options.server_cores, queue_timeout) as peers:
            within = queue_timeout + GRACE_SECONDS
            print(f"\ntwice the capacity of /five for {options.seconds:g} s, a second:")
            row(f"may wait for {queue_timeout:g} s", ["capacity", *OUTCOMES])
            for peer in peers:
                cores = options.client_cores
                capacity = Load(peer, "/five", 16, 3, cores).good_per_second()
                caller = Caller(peer.port, "/five", within)
                os.sched_setaffinity(0, cores)
                asyncio.run(caller.call(2 * capacity, options.seconds))
                counts = [getattr(caller, name) / options.seconds for name in OUTCOMES]
                row(peer.name, [f"{one:.0f}" for one in (capacity, *counts)])


OUTCOMES = ("good", "late", "refused", "lost")
FIGURES = {"closed": closed, "mixed": mixed, "beside": beside, "open": opened}


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("figures", nargs="*", help=", ".join(FIGURES))
    parser.add_argument(
        "--clients", nargs="+", type=int, default=[8, 32, 100, 400, 1000, 3000]
    )
    parser.add_argument("--paths", nargs="+", default=["/trivial", "/five", "/text"])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--server-cores", nargs="+", type=int, default=[0])
    parser.add_argument("--client-cores", nargs="+", type=int, default=[1])
    parser.add_argument("--peers", nargs="+", default=list(PEERS))
    given = vars(parser.parse_args(arguments))
    figures = given.pop("figures") or list(FIGURES)
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed")
    for name in figures:
        FIGURES[name](Options(**given))


if __name__ == "__main__":
    main()
