"""Restarts under load: how many requests are lost.

    python3 bench/restart.py [--restarts 5] [--requests 2000] [--rate 200]

A program is restarted on a socket that this process keeps, as systemd does, while
requests arrive at a steady rate, and a process on each CPU does nothing but compute. A
first run opens a connection for each request. A second one has clients that keep
theirs, and ask once more where a connection ended before any byte of an answer, as
RFC 9110 section 9.2.2 lets them: how often is printed. Every answer is compared, and
whatever is none is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import List, Optional, Tuple

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import time
from pixie_web import route, run

@route("/")
def index(env):
    time.sleep(0.005)
    return "answer"

run(access_log=False)
"""
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n"
CLIENTS = 40  # that keep their connections
TIMEOUT_SECONDS = 30.0

Streams = Tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answer_on(streams: Streams, head: bytes) -> str:
    """Ask, and return what became of it."""
    reader, writer = streams
    data = b""
    try:
        writer.write(head)
        data = await reader.readuntil(b"\r\n\r\n")
        size = int(data.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        body = await reader.readexactly(size)
    except asyncio.IncompleteReadError as error:
        return "cut off" if data or error.partial else "closed"
    except ConnectionError:
        return "cut off" if data else "reset"
    if body != b"answer":
        return data.split()[1].decode()
    return "answered, last" if b"connection: close" in data.lower() else "answered"


class Load:
    """Requests at a steady rate to one port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.outcomes: Counter[str] = Counter()
        self.retries = 0
        self._idle: List[Streams] = []

    async def _connect(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def _once(self, streams: Streams, head: bytes) -> str:
        try:
            return await asyncio.wait_for(answer_on(streams, head), TIMEOUT_SECONDS)
        except asyncio.TimeoutError:
            return "nothing came"

    async def ask_anew(self) -> None:
        """Ask on a connection of its own."""
        try:
            streams = await self._connect()
        except OSError as error:
            self.outcomes[type(error).__name__] += 1
            return
        self.outcomes[await self._once(streams, HEAD % b"Connection: close\r\n")] += 1
        streams[1].close()

    async def ask_again(self) -> None:
        """Ask on a connection that has been used, if there is one."""
        streams = self._idle.pop() if self._idle else await self._connect()
        outcome = await self._once(streams, HEAD % b"")
        while outcome in ("closed", "reset"):  # before any byte of an answer
            self.retries += 1
            streams[1].close()
            streams = await self._connect()
            outcome = await self._once(streams, HEAD % b"")
        if outcome == "answered" and len(self._idle) < CLIENTS:
            self._idle.insert(0, streams)
        else:
            streams[1].close()
        self.outcomes[outcome.partition(",")[0]] += 1

    async def run(self, keeps: bool, requests: int, rate: float) -> None:
        """Have so many requests arrive, and wait for all answers."""
        loop = asyncio.get_running_loop()
        began, tasks = loop.time(), []
        for number in range(requests):
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            ask = self.ask_again() if keeps else self.ask_anew()
            tasks.append(loop.create_task(ask))
        await asyncio.gather(*tasks)
        for _, writer in self._idle:
            writer.close()


def start(path: str, listening: socket.socket) -> subprocess.Popen[bytes]:
    number = listening.fileno()
    environment = {"PIXIE_FD": str(number), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, path],
        env={**os.environ, **environment},
        pass_fds=[number],
        stderr=subprocess.DEVNULL,
    )


async def restart_often(
    path: str, listening: socket.socket, restarts: int, seconds: float
) -> None:
    """Restart the program so many times in so many seconds."""
    process: Optional[subprocess.Popen[bytes]] = None
    loop = asyncio.get_running_loop()
    try:
        for _ in range(restarts + 1):
            process = start(path, listening)
            await asyncio.sleep(seconds / (restarts + 1))
            process.send_signal(signal.SIGTERM)
            status = await loop.run_in_executor(None, process.wait)
            if status:
                print(f"the program ended with status {status}", file=sys.stderr)
        process = start(path, listening)  # for whoever waits in the kernel
        await asyncio.sleep(3)
    finally:
        if process is not None:
            process.terminate()
            process.wait()


async def measure(path: str, keeps: bool, arguments: argparse.Namespace) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        load = Load(listening.getsockname()[1])
        seconds = arguments.requests / arguments.rate
        await asyncio.gather(
            load.run(keeps, arguments.requests, arguments.rate),
            restart_often(path, listening, arguments.restarts, seconds),
        )
    answered = load.outcomes.pop("answered", 0) + load.outcomes.pop("answered, last", 0)
    lost = sum(load.outcomes.values())
    kind = "kept connections" if keeps else "new connections"
    print(
        f"{kind}: {arguments.requests} requests, {arguments.restarts} restarts: "
        f"{answered} answered, {lost} lost {dict(load.outcomes) or ''}"
        + (f", {load.retries} asked once more" if keeps else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        path = os.path.join(directory, "program.py")
        Path(path).write_text(PROGRAM, "utf-8")
        for _ in range(os.cpu_count() or 1):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        for keeps in (False, True):
            asyncio.run(measure(path, keeps, arguments))


if __name__ == "__main__":
    main()
