"""Servers in processes of their own, wrk that asks them, and the CPU time it takes.

A server has one core and wrk the other, where nothing else is said. A server's CPU time
is that of all its processes, as the kernel counts it in /proc.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

T = TypeVar("T")
BENCH = Path(__file__).resolve().parent
SERVER_CORES = [0]
CLIENT_CORES = [1]
PATIENCE_SECONDS = 20.0
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# Requests -----------------------------------------------------------------------------

LINES = "Host: localhost:8000\r\nUser-Agent: wrk\r\nAccept: */*\r\n"
BROWSER_LINES = (
    "Host: localhost:8000\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 "
    "Firefox/128.0\r\n"
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    "Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n"
    "Connection: keep-alive\r\nCookie: session=4f1c9a0be7d2; theme=dark\r\n"
    "Upgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\n"
    "Sec-Fetch-Mode: navigate\r\n"
)


class Case(NamedTuple):
    """Requests of one kind, and the body of the answer.

    "{n}" in target or body stands for a number of seven digits, another one in each
    request; in `answer` for the same. Without it no head ever differs.
    """

    target: str
    answer: Any  # text, or what the JSON says
    lines: str = LINES
    body: str = ""
    kind: str = ""  # of the body
    connections: int = 32

    def request(self, number: str) -> str:
        """Return the bytes to send, as text of one byte a character."""
        target, body = (t.replace("{n}", number) for t in (self.target, self.body))
        method, lines = ("POST" if self.kind else "GET"), self.lines
        if self.kind:
            length = len(self.body.replace("{n}", "1000000"))
            lines += f"Content-Type: {self.kind}\r\nContent-Length: {length}\r\n"
        return f"{method} {target} HTTP/1.1\r\n{lines}\r\n{body}"

    @property
    def script(self) -> str:
        """The program that makes wrk send them."""
        parts = [json.dumps(part) for part in self.request("{n}").split("{n}")]
        if len(parts) == 1:  # wrk makes it once
            return f"function init() wrk.format = function() return {parts[0]} end end"
        number = " .. n .. "
        return (
            "local n = 1000000\n"
            f"function request() n = n + 1; return {number.join(parts)} end"
        )

    def check(self, port: int) -> None:
        """Ask for two numbers; raise ValueError where an answer is not right."""
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as one:
            for number in ("1000001", "1000002"):
                one.sendall(self.request(number).encode("latin-1"))
                status, body = receive(one)
                got: Any = body.decode()
                expected = self.answer
                if isinstance(expected, str):
                    expected = expected.replace("{n}", number)
                elif status == 200:
                    got = json.loads(got)
                if status != 200 or got != expected:
                    raise ValueError(
                        f"{self.target}: expected 200 and {str(expected)[:60]!r}, got "
                        f"{status} and {str(got)[:200]!r}"
                    )


def receive(one: socket.socket) -> Tuple[int, bytes]:
    """Return status and body of the answer that comes, by length or in chunks."""
    with one.makefile("rb") as file:
        line = file.readline()
        if not line.startswith(b"HTTP/1.1 "):
            raise ValueError(f"expected an answer, got {line!r}")
        status, headers = int(line.split()[1]), {}
        for line in iter(file.readline, b"\r\n"):
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip().lower()
        if headers.get(b"transfer-encoding") != b"chunked":
            return status, file.read(int(headers[b"content-length"]))
        body = b""
        while True:
            size = int(file.readline(), 16)
            body += file.read(size)
            file.readline()
            if not size:
                return status, body


# Processes ----------------------------------------------------------------------------


def descendants(pid: int) -> List[int]:
    """Return the ids of all processes below one."""
    parents: Dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def cpu_times(pid: int) -> Optional[Tuple[float, float]]:
    """Return user and system seconds of a process; None: it is gone, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] == "Z":
        return None
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def resident_bytes(pid: int) -> int:
    """Return the memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def private_bytes(pid: int) -> int:
    """Return the memory that a process shares with no other."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"^Private_\w+: +(\d+)", text, re.M)))


class Round(NamedTuple):
    """What one run of wrk against a server came to; microseconds are for a request."""

    per_second: float
    user_us: float
    system_us: float
    main_user_us: float  # of the process that was started
    median_ms: float


WRK_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1000.0}


class Server:
    """A running server.

    Args:
        name: of the peer.
        command: starts it; "{port}" is the port it is to listen on.
        environment: beside that of this process.
        cores: it may use.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Dict[str, str],
        cores: Sequence[int] = SERVER_CORES,
    ) -> None:
        self.name = name
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log = os.memfd_create(name)
        port = str(self.port)
        self.process = subprocess.Popen(
            [word.replace("{port}", port) for word in command],
            cwd=str(BENCH / "peers"),
            env={**os.environ, **environment, "PORT": port},
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._listens():
            if time.monotonic() > deadline or self.process.poll() is not None:
                log = self.log()
                self.stop()
                raise RuntimeError(
                    f"it did not start in {PATIENCE_SECONDS:g} s {log}".strip()
                )
            time.sleep(0.05)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return False
        return True

    def log(self) -> str:
        """Return the end of what it has printed."""
        start = max(0, os.fstat(self._log).st_size - 2000)
        return os.pread(self._log, 2000, start).decode(errors="replace")

    @property
    def pids(self) -> List[int]:
        """Its processes; the first is the one that was started."""
        return [self.process.pid, *descendants(self.process.pid)]

    def stop(self) -> None:
        """End it, and whatever it has started."""
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        os.close(self._log)

    def measure(
        self, case: Case, seconds: int, cores: Sequence[int] = CLIENT_CORES
    ) -> Round:
        """Have wrk ask for so long."""
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(case.script)
            script.flush()
            options = f"-t1 -c{case.connections} -d{seconds}s --timeout 10s --latency"
            url = f"http://127.0.0.1:{self.port}/"
            pids = self.pids
            before = [cpu_times(pid) for pid in pids]
            run = subprocess.run(
                ["wrk", *options.split(), "-s", script.name, url],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
            after = [cpu_times(pid) for pid in pids]
        text = run.stdout.decode()
        if run.returncode or re.search("Non-2xx|Socket errors", text):
            raise RuntimeError(f"{self.name} failed at {case.target}:\n{text}")
        used = [
            (end[0] - start[0], end[1] - start[1])
            for start, end in zip(before, after)
            if start and end
        ]
        return of_wrk(text, used)


def of_wrk(text: str, used: Sequence[Tuple[float, float]]) -> Round:
    """Return what wrk has printed, and the CPU seconds of each process, per request."""

    def find(expression: str) -> Any:
        found = re.search(expression, text)
        assert found is not None, text
        return found.groups()

    requests = int(find(r"(\d+) requests in")[0])
    amount, unit = find(r"50% +([\d.]+)([a-z]+)")
    to_us = 1e6 / max(1, requests)
    return Round(
        float(find(r"Requests/sec: +([\d.]+)")[0]),
        sum(user for user, _ in used) * to_us,
        sum(system for _, system in used) * to_us,
        used[0][0] * to_us,
        float(amount) * WRK_UNITS[unit],
    )


def in_turns(jobs: Dict[Any, Callable[[], T]], rounds: int) -> Dict[Any, List[T]]:
    """Do each job once in each round, forwards and backwards by turns."""
    results: Dict[Any, List[T]] = {key: [] for key in jobs}
    for number in range(rounds):
        keys = list(jobs) if number % 2 == 0 else list(jobs)[::-1]
        for key in keys:
            results[key].append(jobs[key]())
    return results
