"""A soak: valid load, bad requests, resets, slow readers and half uploads at once.

    python bench/soak.py --minutes 10 [--loop asyncio]

A server in a process of its own is driven over 127.0.0.1. Every answer to a valid
request is compared with what it must be, byte for byte. In the end its descriptors,
tasks and memory are compared with those at the start, once all of that has been seen
once. Exit status 1: a wrong answer, a traceback in the log, or something left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, List, Tuple

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = r"""
import asyncio, ctypes, gc
from pixie_web import RouteType, route, run, static_file

def declare(path, make, methods="GET", **options):
    def plain(env):
        return make(env)

    async def coroutine(env):
        return make(env)

    for where in (RouteType.sync, RouteType.thread, RouteType.asnc, RouteType.pool):
        handler = coroutine if where is RouteType.asnc else plain
        route(f"/{where.name}{path}", where, methods, **options)(handler)

declare("/text", lambda env: "text")
declare("/echo", lambda env: env.body, "POST")
declare("/form", lambda env: [env.form["a"], env.files["f"].size], "POST")

@route("/stream", RouteType.stream)
def stream(env):
    for number in range(20):
        yield f"{number} "

@route("/endless", RouteType.asnc)
async def endless(env):
    while True:
        yield b"x" * 50_000

@route("/large", RouteType.sync)
def large(env):
    return static_file("large.bin", ".")

@route("/upload", RouteType.asnc, "POST", stream_body=True)
async def upload(env):
    return str(sum([len(chunk) async for chunk in env.stream()]))

@route("/state", RouteType.sync)
def state(env):
    gc.collect()
    try:  # what malloc keeps for later is not held by anybody
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass
    return {"tasks": len(asyncio.all_tasks())}

run(host="127.0.0.1", port=0, workers=2, access_log=False, send_idle_seconds=5,
    body_idle_seconds=3)
"""
BAD = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n",
    b"POST /sync/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n",
]
PLACEMENTS = ("sync", "thread", "asnc", "pool")


def request(method: str, target: str, body: bytes = b"", *lines: str) -> bytes:
    head = [f"{method} {target} HTTP/1.1", "Host: x", *lines]
    if method == "POST":
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


class Soak:
    """The clients, what they counted, and what was wrong."""

    def __init__(self, port: int, pid: int, until: float) -> None:
        self.port, self.pid, self.until = port, pid, until
        self.counts: Counter[str] = Counter()
        self.wrong: List[str] = []
        self.random = random.Random(7)

    async def forever(self, client: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() < self.until:
            try:
                await client()
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                self.counts[f"{client.__name__}: {type(error).__name__}"] += 1
            except asyncio.TimeoutError:
                self.wrong.append(f"{client.__name__}: an answer took over a minute")

    async def connect(self, size: int = 0) -> Tuple[Any, Any]:
        one = socket.socket()
        if size:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        one.setblocking(False)
        await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", self.port))
        return await asyncio.open_connection(sock=one, limit=1_000_000)

    def valid_request(self) -> Tuple[bytes, int, bytes]:
        where = self.random.choice(PLACEMENTS)
        kind = self.random.choice(("text", "text", "echo", "form", "stream", "no"))
        if kind == "text":
            return request("GET", f"/{where}/text"), 200, b"text"
        if kind == "stream":
            expected = b"".join(b"%d " % number for number in range(20))
            return request("GET", "/stream"), 200, expected
        if kind == "no":
            return request("GET", "/no/such"), 404, b"404"
        size = self.random.choice((0, 1, 1000, 70_000, 600_000))
        data = (
            self.random.randbytes(size) if size < 1001 else os.urandom(8) * (size // 8)
        )
        if kind == "echo":
            return request("POST", f"/{where}/echo", data), 200, data
        part = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        body = part % (b"a", b"", b"t") + part % (b"f", b'; filename="x"', data)
        line = "Content-Type: multipart/form-data; boundary=b"
        sent = request("POST", f"/{where}/form", body + b"--b--\r\n", line)
        return sent, 200, b'["t",%d]' % len(data)

    async def valid(self) -> None:
        reader, writer = await self.connect()
        try:
            for _ in range(self.random.randrange(1, 50)):
                sent, status, expected = self.valid_request()
                writer.write(sent)
                got_status, got = await asyncio.wait_for(read_answer(reader), 60)
                self.counts[f"valid {status}"] += 1
                same = expected in got if status == 404 else expected == got
                if got_status != status or not same:
                    self.wrong.append(f"{sent[:60]!r}: {got_status} {got[:60]!r}")
        finally:
            writer.close()

    async def malformed(self) -> None:
        reader, writer = await self.connect()
        writer.write(self.random.choice(BAD) + request("GET", "/sync/text"))
        got = await asyncio.wait_for(reader.read(), 60)
        self.counts["malformed"] += 1
        if not re.match(rb"HTTP/1\.1 [45]\d\d ", got) or got.endswith(b"text"):
            self.wrong.append(f"malformed: {got[:80]!r}")
        writer.close()
        await asyncio.sleep(0.01)

    async def reset(self) -> None:
        _, writer = await self.connect()
        sent = request("GET", self.random.choice(("/endless", "/large", "/pool/text")))
        writer.write(sent[: self.random.choice((5, len(sent), len(sent)))])
        await asyncio.sleep(self.random.random() / 20)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
        writer.transport.abort()
        self.counts["reset"] += 1

    async def slow_reader(self) -> None:
        reader, writer = await self.connect(4096)
        writer.write(request("GET", self.random.choice(("/endless", "/large"))))
        for _ in range(self.random.randrange(1, 40)):
            await reader.read(1000)
            await asyncio.sleep(0.1)
        writer.close()
        self.counts["slow reader"] += 1

    async def half_upload(self) -> None:
        reader, writer = await self.connect()
        target = self.random.choice(("/upload", "/pool/echo", "/sync/echo"))
        writer.write(
            request("POST", target, bytes(900_000))[
                : -self.random.randrange(1, 800_000)
            ]
        )
        way = self.random.randrange(3)
        if way == 0:  # leaves
            await asyncio.sleep(0.05)
        else:
            if way == 1:  # says that no more will come
                writer.write_eof()
            got = await asyncio.wait_for(reader.read(), 60)
            if not re.match(rb"HTTP/1\.1 4(00|08) ", got):
                self.wrong.append(f"half upload: {got[:80]!r}")
        writer.close()
        self.counts["half upload"] += 1

    async def run(self) -> None:
        clients: List[Tuple[Any, int]] = [(self.valid, 16), (self.malformed, 4)]
        clients += [(self.reset, 4), (self.slow_reader, 20), (self.half_upload, 6)]
        tasks = [self.forever(one) for one, count in clients for _ in range(count)]
        await asyncio.gather(*tasks, self.watch())

    async def watch(self) -> None:
        """Print the memory of the server once a minute: it may grow, but must stop."""
        while time.monotonic() < self.until - 1:
            await asyncio.sleep(min(60.0, self.until - time.monotonic()))
            print(f"{resident_kb(self.pid)} kB resident", flush=True)


async def read_answer(reader: Any) -> Tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split()[1])
    length = re.search(r"\r\ncontent-length: (\d+)\r\n", head)
    if length is not None:
        return status, await reader.readexactly(int(length.group(1)))
    body = b""
    while True:
        size = int(await reader.readline(), 16)
        body += (await reader.readexactly(size + 2))[:-2]
        if not size:
            return status, body


def ask(port: int, target: str) -> Any:
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}{target}") as answer:
        return json.load(answer)


def resident_kb(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found.group(1))


def measure(process: subprocess.Popen[bytes], port: int) -> Dict[str, int]:
    return {
        "descriptors": len(os.listdir(f"/proc/{process.pid}/fd")),
        "tasks": ask(port, "/state")["tasks"],
        "resident kB": resident_kb(process.pid),
    }


def settle(process: subprocess.Popen[bytes], port: int) -> Dict[str, int]:
    """Measure until it does not change for a while: time-outs have to pass."""
    last, since = measure(process, port), time.monotonic()
    while time.monotonic() - since < 3:
        time.sleep(0.25)
        now = measure(process, port)
        if (now["descriptors"], now["tasks"]) != (last["descriptors"], last["tasks"]):
            since = time.monotonic()
        last = now
    return last


def soak(minutes: float, loop: str, directory: Path) -> int:
    (directory / "program.py").write_text(PROGRAM)
    (directory / "large.bin").write_bytes(bytes(30_000_000))
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "program.py"],
            cwd=str(directory),
            env={**os.environ, "PYTHONPATH": str(ROOT), "PIXIE_LOOP": loop},
            stderr=log,
        )
    try:
        while not (found := re.search(r":(\d+) ", (directory / "log").read_text())):
            time.sleep(0.05)
        port = int(found.group(1))
        warm = Soak(port, process.pid, time.monotonic() + min(20.0, minutes * 6))
        asyncio.run(warm.run())
        before = settle(process, port)
        main = Soak(port, process.pid, time.monotonic() + minutes * 60)
        asyncio.run(main.run())
        after = settle(process, port)
    finally:
        process.terminate()
        status = process.wait()
    text = (directory / "log").read_text()
    for name, count in sorted(main.counts.items()):
        print(f"{name:34} {count:9} {count / minutes / 60:8.1f}/s")
    for name in before:
        print(f"{name:34} {before[name]:9} before {after[name]:9} after")
    wrong = warm.wrong + main.wrong
    print(f"wrong answers: {len(wrong)}", *wrong[:10], sep="\n  ")
    print(f"log: {len(text.splitlines())} lines, exit status {status}")
    print(*(line for line in text.splitlines()[2:12]), sep="\n")
    left = [n for n in ("descriptors", "tasks") if after[n] > before[n]]
    return int(bool(wrong or left or status or "Traceback" in text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--loop", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(soak(options.minutes, options.loop, Path(temporary)))
