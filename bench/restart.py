"""Restarts under load: how many requests are lost.

    python3 bench/restart.py [--restarts 5] [--requests 2000] [--rate 200]

A program is restarted on a socket that this process keeps, as systemd does, while
requests arrive at a steady rate, and a process on each CPU does nothing but compute. A
first run opens a connection for each request. A second one has clients that keep
theirs, drop those whose end they have seen, and ask once more, on a new connection,
where one that they had kept ended before any byte of an answer: RFC 9110 section 9.2.2
lets them. How often that was, and by a reset, is printed. Every answer is compared, and
whatever is none is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
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
        self.crossed: Counter[str] = Counter()  # the end of a connection that was kept
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
        outcome = await self._once(streams, HEAD % b"Connection: close\r\n")
        self.outcomes[outcome.partition(",")[0]] += 1
        streams[1].close()

    def _take_kept(self) -> Optional[Streams]:
        """Return a connection that has been used, and whose end was not seen."""
        while self._idle:
            streams = self._idle.pop()
            if not streams[0].at_eof():
                return streams
            streams[1].close()
        return None

    async def ask_again(self) -> None:
        """Ask on a connection that was kept, if there is one."""
        kept = self._take_kept()
        streams = kept or await self._connect()
        outcome = await self._once(streams, HEAD % b"")
        if kept and outcome in ("closed", "reset"):  # before any byte of an answer
            self.crossed[outcome] += 1
            streams[1].close()
            streams = await self._connect()
            outcome = await self._once(streams, HEAD % b"")
        if outcome == "answered" and len(self._idle) < CLIENTS:
            self._idle.insert(0, streams)
        else:
            streams[1].close()
        self.outcomes[outcome.partition(",")[0]] += 1

    async def run(
        self, keeps: bool, requests: int, rate: float, restarts: asyncio.Future[None]
    ) -> None:
        """Have so many requests arrive, or more until all restarts are over."""
        loop = asyncio.get_running_loop()
        began, tasks = loop.time(), []
        while len(tasks) < requests or not restarts.done():
            await asyncio.sleep(max(0.0, began + len(tasks) / rate - loop.time()))
            ask = self.ask_again() if keeps else self.ask_anew()
            tasks.append(loop.create_task(ask))
        await asyncio.gather(*tasks)
        for _, writer in self._idle:
            writer.close()


async def start(path: str, listening: socket.socket) -> subprocess.Popen[bytes]:
    """Start the program, and return when it says that it listens."""
    number = listening.fileno()
    environment = {"PIXIE_FD": str(number), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, path],
        env={**os.environ, **environment},
        pass_fds=[number],
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, process.stderr.readline)
    return process


async def stop(process: subprocess.Popen[bytes]) -> None:
    """End the program as systemd does, and say so where that fails."""
    process.terminate()
    loop = asyncio.get_running_loop()
    _, said = await loop.run_in_executor(None, process.communicate)
    if process.returncode:
        print(f"it ended with {process.returncode}: {said.decode()}", file=sys.stderr)


async def measure(path: str, keeps: bool, arguments: argparse.Namespace) -> None:
    requests, rate, count = arguments.requests, arguments.rate, arguments.restarts
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        load = Load(listening.getsockname()[1])
        over = asyncio.get_running_loop().create_future()
        asking = asyncio.ensure_future(load.run(keeps, requests, rate, over))
        process, longest = await start(path, listening), 0.0
        try:
            for _ in range(count):
                await asyncio.sleep(requests / rate / (count + 1))
                began = time.monotonic()
                await stop(process)
                process = await start(path, listening)
                longest = max(longest, time.monotonic() - began)
            over.set_result(None)
            await asking
        finally:
            await stop(process)
    answered = load.outcomes.pop("answered", 0)
    lost = sum(load.outcomes.values())
    resets, again = load.crossed["reset"], sum(load.crossed.values())
    print(
        f"{'kept' if keeps else 'new'} connections: {answered + lost} requests, "
        f"{count} restarts of {longest:.1f} s at most: {lost} lost "
        + (f"{dict(load.outcomes)} " if lost else "")
        + (f"({again} asked once more, {resets} after a reset)" if keeps else "")
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
