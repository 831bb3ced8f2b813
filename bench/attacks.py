"""What one client can do to the others: tiny chunks, stalled bodies, every place taken.

    python bench/attacks.py [chunks] [stalled] [hog] [--loop asyncio] [--root DIR]

Each attack comes from a process of its own, over loopback, against a server with all
limits at their defaults. Another client asks meanwhile, again and again, on a new
connection each time; its times are printed beside its times without the attack, in the
same run. "main" is the most processor time that the server took during one of these
requests: what it would have taken on a machine with nothing else to do.

chunks: CONNECTIONS connections send WIRE_BYTES each of one kind of chunks, to routes
    that take the body whole, take it as it comes, or are not there.
stalled: CONNECTIONS connections send 255 KiB in chunks of two bytes and then nothing:
    what they cost in memory, and when they are cut off.
hog: PLACES connections of 127.0.0.1, more than the server takes, send POSTs by a byte
    now and then and come again when they are sent away; the client is at 127.0.0.2.

`--root` names another copy of the repository to attack, to compare with.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import selectors
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

PROGRAM = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 20_000))  # systemd's default

from pixie_web import route, run

@route("/quick", "asnc")
async def quick(env):
    return "quick"

@route("/small", "sync", "POST")
def small(env):
    return env.body

@route("/whole", "thread", "POST")
def whole(env):
    return str(len(env.body))

@route("/stream", "asnc", "POST", stream_body=True)
async def stream(env):
    size = 0
    async for chunk in env.stream():
        size += len(chunk)
    return str(size)

run(access_log=False, workers=1)
"""
CONNECTIONS = 40
WIRE_BYTES = 1_000_000
PLACES = 980  # the server's default is 960 here: 1024 descriptors, less 64
DRIP_SECONDS = 4.0  # between two bytes: 245 a second in all
HOG_SECONDS = 15.0
CHUNKS = {
    "1 byte": b"1\r\nx\r\n",
    "2 bytes": b"2\r\nxy\r\n",
    "1 byte, size 01": b"01\r\nx\r\n",
    "16 bytes": b"10\r\n0123456789abcdef\r\n",
    "16 bytes, extension": b"10;a\r\n0123456789abcdef\r\n",
}
HEAD = b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


# The server, and one client that behaves ----------------------------------------------


class Times(NamedTuple):
    """What a request took: seconds, and of these processor time of the server."""

    seconds: float
    cpu_seconds: float


class Target:
    """A server under attack.

    Args:
        root: the copy of the repository that it imports.
        loop: "asyncio", "uvloop" or "auto".
    """

    def __init__(self, root: str, loop: str) -> None:
        environment = {**os.environ, "PYTHONPATH": root, "PIXIE_LOOP": loop}
        environment.update(PIXIE_HOST="127.0.0.1", PIXIE_PORT="0")
        command = [sys.executable, "-c", PROGRAM]
        self.process = subprocess.Popen(
            command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        banner = self.process.stderr.readline()
        self.port = int(re.findall(r":(\d+) ", banner)[0])

    def memory_bytes(self, which: str) -> int:
        """Return VmRSS, resident memory, or VmHWM, the most that it has been."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(rf"{which}:\s+(\d+) kB", status)[0]) * 1024

    def cpu_seconds(self) -> float:
        """Return the processor time of main's loop so far."""
        return (
            int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0])
            / 1e9
        )

    def ask(self, request: bytes, address: str = "127.0.0.1") -> Tuple[Times, bytes]:
        """Ask on a connection of its own; return what it took, and the answer."""
        began, cpu = time.perf_counter(), self.cpu_seconds()
        one = socket.create_connection(
            ("127.0.0.1", self.port), timeout=60, source_address=(address, 0)
        )
        with one:
            one.sendall(request)
            answer = b"".join(iter(lambda: one.recv(65_536), b""))
        seconds = time.perf_counter() - began
        return Times(seconds, self.cpu_seconds() - cpu), answer

    def get(self, address: str = "127.0.0.1") -> Times:
        """Ask for the quick route; return what the answer took."""
        line = b"GET /quick HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        times, answer = self.ask(line, address)
        assert answer.endswith(b"quick"), answer
        return times


@contextmanager
def serving(root: str, loop: str) -> Iterator[Target]:
    target = Target(root, loop)
    try:
        yield target
    finally:
        target.process.terminate()
        target.process.wait()


def sample(ask: Callable[[], Times], until: Callable[[], bool]) -> List[Times]:
    """Ask until a condition holds, at least ten times; return what each took."""
    times: List[Times] = []
    while len(times) < 10 or not until():
        times.append(ask())
        time.sleep(0.002)
    return times


def milliseconds(times: List[Times]) -> str:
    ordered = sorted(one.seconds * 1000 for one in times)
    main = max(one.cpu_seconds for one in times) * 1000
    return (
        f"median {ordered[len(ordered) // 2]:.1f}, worst {ordered[-1]:.1f} ms "
        f"(main {main:.1f}) of {len(ordered)}"
    )


# The attackers ------------------------------------------------------------------------


def raise_descriptors() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def send_chunks(port: int, path: str, chunk: bytes, results: Any) -> None:
    """Send on all connections at once, as fast as the server takes it."""
    data = HEAD % path.encode() + chunk * (WIRE_BYTES // len(chunk)) + b"0\r\n\r\n"
    selector = selectors.DefaultSelector()
    sent: Dict[socket.socket, int] = {}
    statuses: Dict[str, int] = {}
    for _ in range(CONNECTIONS):
        new = socket.create_connection(("127.0.0.1", port))
        new.setblocking(False)
        sent[new] = 0
        selector.register(new, selectors.EVENT_READ | selectors.EVENT_WRITE)
    total = 0
    while sent:
        for key, events in selector.select(60):
            one: Any = key.fileobj
            try:
                if events & selectors.EVENT_READ:
                    status = one.recv(65_536)[9:12].decode() or "closed"
                    statuses[status] = statuses.get(status, 0) + 1
                    total += sent.pop(one)
                    selector.unregister(one)
                    one.close()
                    continue
                sent[one] += one.send(data[sent[one] : sent[one] + 262_144])
            except ConnectionError:
                statuses["reset"] = statuses.get("reset", 0) + 1
                total += sent.pop(one)
                selector.unregister(one)
                one.close()
                continue
            if sent[one] == len(data):
                selector.modify(one, selectors.EVENT_READ)
    results.send((total, statuses))


def stall(port: int, results: Any) -> None:
    """Send most of a body in tiny chunks, and wait to be cut off."""
    data = HEAD % b"/whole" + b"2\r\nxy\r\n" * (255 * 512)
    ones = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    for one in ones:
        one.sendall(data)
    began = time.monotonic()
    results.send(len(data) * CONNECTIONS)
    for one in ones:
        one.settimeout(60)
        try:
            one.recv(100)
        except OSError:
            pass
    results.send(time.monotonic() - began)


def hog(port: int, results: Any) -> None:
    """Take every place by slow bodies; come again as soon as one is sent away."""
    raise_descriptors()
    head = b"POST /whole HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
    ones: List[socket.socket] = []
    sent_away, end, told = 0, time.monotonic() + 3 * HOG_SECONDS, False

    def enter() -> socket.socket:
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
        return one

    ones = [enter() for _ in range(PLACES)]
    began, drip = set(), time.monotonic()
    while time.monotonic() < end:
        for number, one in enumerate(ones):
            try:
                if one not in began:
                    one.send(head)
                    began.add(one)
                elif not one.recv(65_536):
                    raise ConnectionError
            except BlockingIOError:
                pass
            except OSError:
                sent_away += one in began
                began.discard(one)
                one.close()
                ones[number] = enter()
        if time.monotonic() > drip:
            drip += DRIP_SECONDS
            for one in began:
                try:
                    one.send(b"x")
                except OSError:
                    pass
        if not told and len(began) == PLACES:
            told = True
            results.send(PLACES)
        time.sleep(0.02)
        if results.poll():
            break
    results.send(sent_away)


@contextmanager
def attacking(function: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """Run an attack in a process of its own; yields what it sends results to."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=function, args=(*arguments, theirs))
    process.start()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


# The three attacks --------------------------------------------------------------------


def attack_by_chunks(target: Target) -> None:
    print(f"chunks: {CONNECTIONS} connections of {WIRE_BYTES / 1e6:g} MB each")
    for path in ("/whole", "/stream", "/none"):
        for title, chunk in CHUNKS.items():
            before = sample(target.get, lambda: True)
            memory, cpu = target.memory_bytes("VmRSS"), target.cpu_seconds()
            with attacking(send_chunks, target.port, path, chunk) as results:
                under = sample(target.get, results.poll)
                sent, statuses = results.recv()
            cpu = target.cpu_seconds() - cpu
            grown = (target.memory_bytes("VmHWM") - memory) / 2**20
            told = ", ".join(f"{count} x {what}" for what, count in statuses.items())
            print(
                f"  {path:8}{title:20} GET without: {milliseconds(before)}; "
                f"with: {milliseconds(under)};\n{'':30}memory {grown:+.0f} MiB for "
                f"{sent / 2**20:.0f} sent, {cpu:.2f} s CPU; {told}"
            )


def attack_by_stalling(target: Target) -> None:
    before = sample(target.get, lambda: True)
    memory = target.memory_bytes("VmRSS")
    with attacking(stall, target.port) as results:
        sent = results.recv()
        under = sample(target.get, results.poll)
        seconds = results.recv()
    grown = (target.memory_bytes("VmHWM") - memory) / 2**20
    print(
        f"stalled: GET without: {milliseconds(before)}; with: {milliseconds(under)};\n"
        f"  {CONNECTIONS} bodies of 255 KiB ({sent / 2**20:.0f} MiB on the wire): "
        f"{grown:+.0f} MiB of memory, the last one cut off after {seconds:.1f} s"
    )


def attack_by_hogging(target: Target) -> None:
    client = "127.0.0.2"
    small = (
        b"POST /small HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        b"Content-Length: 5\r\n\r\nhello"
    )

    def post() -> Times:
        times, answer = target.ask(small, client)
        assert answer.endswith(b"hello"), answer
        return times

    before = sample(lambda: target.get(client), lambda: True)
    with attacking(hog, target.port) as results:
        places = results.recv()
        for title, ask in (("GET", lambda: target.get(client)), ("POST", post)):
            end = time.monotonic() + HOG_SECONDS / 2
            times = sample(ask, lambda: time.monotonic() > end)  # noqa: B023
            print(
                f"hog: {places} slow POSTs of 127.0.0.1; {title} of {client}: "
                f"{milliseconds(times)} (GET without: {milliseconds(before)})"
            )
        results.send(None)
        print(f"  {results.recv()} of the slow ones were sent away meanwhile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    attacks = {
        "chunks": attack_by_chunks,
        "stalled": attack_by_stalling,
        "hog": attack_by_hogging,
    }
    parser.add_argument("attacks", nargs="*", help=", ".join(attacks))
    parser.add_argument("--loop", default="auto")
    parser.add_argument("--root", default=str(Path(__file__).resolve().parent.parent))
    options = parser.parse_args()
    for name in options.attacks or attacks:
        with serving(options.root, options.loop) as target:
            attacks[name](target)


if __name__ == "__main__":
    main()
