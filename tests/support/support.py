"""Support for tests that drive an application over real sockets.

    with serve(PROGRAM, loop="asyncio") as server:
        assert server.get("/").text == "hello"

The application runs in a process of its own, so that its pool is forked from a clean
one. Nothing here sleeps for a fixed time: what is waited for has a condition and a
deadline.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Union,
)

import http2_wire
import pytest

PATIENCE_SECONDS = 30.0  # for a busy machine; nothing waits that long on a free one
BANNER = re.compile(r"pixie_web .* on https?://[\w.\[\]:-]+:(\d+)")
LOOPS = ["asyncio"] + ["uvloop"] * (importlib.util.find_spec("uvloop") is not None)
LONG = bool(os.environ.get("PIXIE_LONG"))
STARTS = ["zygote", "exec", "spawn"]
# Each loop with each way to start the pool; in short, each of them once.
MATRIX = (
    [(loop, start) for loop in LOOPS for start in STARTS]
    if LONG
    else list(zip([*LOOPS, "asyncio", "asyncio"], STARTS))
)
PAIR = MATRIX if LONG else MATRIX[:2]  # for what takes long
ONE = MATRIX if LONG else MATRIX[1:2]  # and for what one of them shows as well


def how_many(start: str, short: int, long: int) -> int:
    """Return how often to do what takes long; the fewer, the slower workers start."""
    divisor = {"zygote": 1, "exec": 4, "spawn": 20}[start]
    return long // divisor if LONG else short


# What a server never writes, whatever its handlers and clients do.
COMPLAINTS = re.compile(
    r"was never (?:retrieved|awaited)|Exception in callback|Exception ignored"
    r"|Task was destroyed|ResourceWarning|AssertionError|sent a malformed frame"
)


class Answer:
    """A response that has been read to its end."""

    def __init__(
        self, response: Union[http.client.HTTPResponse, http2_wire.Response]
    ) -> None:
        self.status = response.status
        self.reason = response.reason
        self.headers = response.headers
        self.body = response.read()

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.body!r}>"


class Server:
    """A program that serves on a free port of 127.0.0.1, its log, and ways to ask it.

    Args:
        command: the arguments of the interpreter.
        directory: where it runs.
        environment: variables beside those that are there.
        descriptors: that it inherits.

    Attributes:
        speaks: "h2" has `request` and `get` ask over HTTP/2, as PIXIE_WIRE=h2 has all.

    Raises:
        RuntimeError: it ended, or did not say that it listens; with its log.
    """

    speaks = os.environ.get("PIXIE_WIRE", "http/1.1")

    def __init__(
        self,
        command: List[str],
        directory: Path,
        environment: Mapping[str, str],
        descriptors: Sequence[int] = (),
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", *command],
            cwd=str(directory),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
        )
        self._read_log()
        try:
            banner = self.wait_for_log(BANNER)
        except BaseException:
            self.kill()
            raise
        found = BANNER.search(banner)
        assert found is not None
        self.port = int(found.group(1))

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self._pipe = self.process.stderr.fileno()
        os.set_blocking(self._pipe, False)
        self._lines: List[str] = []
        self._rest = b""  # of a line that has not come to its end
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # The log.

    @property
    def log(self) -> str:
        """Return what the program has written to standard error so far."""
        with self._news:
            self._take()
            return "".join(self._lines)

    def mark(self) -> int:
        """Return where the log ends now, for `wait_for_log(..., since=mark)`."""
        with self._news:
            self._take()
            return len(self._lines)

    def wait_for_log(
        self,
        what: Union[str, re.Pattern[str]],
        since: int = 0,
        seconds: float = PATIENCE_SECONDS,
    ) -> str:
        """Wait for a line that holds a text, or matches an expression; return it."""
        pattern = re.compile(re.escape(what)) if isinstance(what, str) else what
        deadline = time.monotonic() + seconds
        with self._news:
            while True:
                for line in self._lines[since:]:
                    if pattern.search(line):
                        return line
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "the program ended" if self._ended else "nothing came"
                    log = "".join(self._lines)
                    raise RuntimeError(f"no {pattern.pattern!r}: {why}:\n{log}")
                self._news.wait(left)

    def complaints(self) -> List[str]:
        """Return the lines of the log that only a bug of the server can write."""
        return [line for line in self.log.splitlines() if COMPLAINTS.search(line)]

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        while not self._ended:
            poll.poll(1000)
            with self._news:
                self._take()
                self._news.notify_all()

    def _take(self) -> None:
        """Take what is in the pipe; the lock is held.

        Whoever looks takes it as well: what the program had written before it answered
        is there, even if the thread has not come to it yet.
        """
        try:
            while not self._ended:
                data = os.read(self._pipe, 65_536)
                *lines, self._rest = (self._rest + data).split(b"\n")
                if not data:
                    self._ended = True
                    lines += [self._rest] * bool(self._rest)
                self._lines += [
                    f"{line.decode('utf-8', 'replace')}\n" for line in lines
                ]
        except BlockingIOError:
            pass

    @property
    def protocol(self) -> str:
        """What the access log calls what it is asked over."""
        return "HTTP/2" if self.speaks == "h2" else "HTTP/1.1"

    # Asking.

    def get(self, path: str, headers: Optional[Mapping[str, str]] = None) -> Answer:
        return self.request("GET", path, None, headers)

    def request(
        self,
        method: str,
        path: str,
        body: Union[bytes, str, None] = None,
        headers: Optional[Mapping[str, str]] = None,
    ) -> Answer:
        """Ask on a connection of its own, over what it speaks; return the answer."""
        if self.speaks == "h2":
            seconds = PATIENCE_SECONDS
            answer = http2_wire.ask(
                self.port, method, path, body, headers or {}, seconds
            )
            return Answer(answer)
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=PATIENCE_SECONDS
        )
        try:
            connection.request(method, path, body, dict(headers or {}))
            return Answer(connection.getresponse())
        finally:
            connection.close()

    @contextmanager
    def connect(self, receive_buffer_bytes: int = 0) -> Iterator[socket.socket]:
        """Open a connection; a small receive buffer makes for a slow reader."""
        one = socket.socket()
        try:
            if receive_buffer_bytes:
                one.setsockopt(
                    socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes
                )
            one.settimeout(PATIENCE_SECONDS)
            one.connect(("127.0.0.1", self.port))
            yield one
        finally:
            one.close()

    def raw(self, data: bytes, half_close: bool = False) -> bytes:
        """Send bytes and return all that comes until the server closes.

        Either the request says `Connection: close`, or `half_close` ends the sending.
        """
        with self.connect() as one:
            one.sendall(data)
            if half_close:
                one.shutdown(socket.SHUT_WR)
            return read_all(one)

    # Ending.

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the program by a signal and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the program to end by itself and return its exit status."""
        try:
            return self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            state = state_of(self.pid)
            raise RuntimeError(
                f"the program does not end:\n{self.log}{state}"
            ) from None
        finally:
            self.kill()

    def kill(self) -> None:
        """Make sure that nothing of it is left; safe to call twice."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(PATIENCE_SECONDS)
        with self._news:
            self._ended = True  # or somebody that it started writes on
        if self.process.stderr is not None:
            self.process.stderr.close()


@contextmanager
def serve(
    program: Union[str, Path], directory: Optional[Path] = None, **settings: object
) -> Iterator[Server]:
    """Run a program for as long as the block lasts.

    Args:
        program: the text of one that calls `run()`, or the path of its file.
        directory: where it runs; None: in a new one.
        settings: of `run()`, handed on as PIXIE_* variables; `environment` is a dict of
            further variables, `arguments` a list for the program's command line,
            `expects` an expression for complaints that shall be there.

    A block that ends well ends the program by SIGTERM, and looks through its log.
    """
    environment: Dict[str, str] = dict(settings.pop("environment", {}))  # type: ignore[call-overload]
    arguments: List[str] = list(settings.pop("arguments", []))  # type: ignore[call-overload]
    expects = re.compile(str(settings.pop("expects", "(?!)")))
    settings = {"host": "127.0.0.1", "port": 0, "workers": 2, **settings}
    for name, value in settings.items():
        environment[f"PIXIE_{name.upper()}"] = str(value)
    with TemporaryDirectory() as temporary:
        directory = directory or Path(temporary)
        if isinstance(program, Path):
            path = program
        else:
            path = directory / "program.py"
            path.write_text(program, encoding="utf-8")
        server = Server([str(path), *arguments], directory, environment)
        try:
            yield server
            running = server.process.poll() is None
            status = server.stop()
        finally:
            server.kill()
        ended_well = not running or status == 0
        assert ended_well, f"{server.log}\nexit status {status}"
        complaints = [one for one in server.complaints() if not expects.search(one)]
        assert complaints == [], f"{server.log}\ncomplaints: {complaints}"


def server_fixture(
    program: Union[str, Path],
    over: Sequence[Any] = (),
    also_http2: bool = False,
    **settings: object,
) -> Any:
    """Return a module's fixture: a program that runs for as long as its tests do.

        server = server_fixture(PROGRAM, LOOPS, workers=1)

    Args:
        program: as `serve` takes it.
        over: loops, or pairs of a loop and a way to start the pool, as in MATRIX; every
            test that asks for the server runs with each of them.
        also_http2: and once more with the last of them, asked over HTTP/2.
        settings: as `serve` takes them; `environment` may be the name of a fixture.
    """

    def server(request: pytest.FixtureRequest) -> Iterator[Server]:
        chosen = dict(settings)
        if isinstance(chosen.get("environment"), str):
            chosen["environment"] = request.getfixturevalue(str(chosen["environment"]))
        kind = getattr(request, "param", None)
        speaks = Server.speaks
        if isinstance(kind, OverHTTP2):
            kind, speaks = kind.over, "h2"
        if isinstance(kind, tuple):
            chosen["loop"], chosen["pool_start"] = kind
        elif kind is not None:
            chosen["loop"] = kind
        with serve(program, **chosen) as running:
            running.speaks = speaks
            yield running

    ids = ["-".join(one) if isinstance(one, tuple) else one for one in over]
    rows = list(over)
    if also_http2:
        rows.append(pytest.param(OverHTTP2(rows[-1]), marks=pytest.mark.http2))
        ids.append("http2")
    fixture = pytest.fixture(scope="module", params=rows or None, ids=ids or None)
    return fixture(server)


class OverHTTP2(NamedTuple):
    """What a server runs with that is asked over HTTP/2."""

    over: Any


def state_of(pid: int) -> str:
    """Return what a process and those below it wait for, as Linux tells it."""
    lines = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        waits_in = (task / "wchan").read_text()
        below = (task / "children").read_text().split()
        lines += [f"{task.name} of {pid} waits in {waits_in}\n"]
        lines += [state_of(int(child)) for child in below]
    for descriptor in sorted(Path(f"/proc/{pid}/fd").glob("*")):
        with suppress(OSError):
            lines.append(f"{pid} has {descriptor.name}: {os.readlink(descriptor)}\n")
    return "".join(lines)


def read_all(one: socket.socket) -> bytes:
    """Return what comes on a socket until the other side closes or aborts."""
    parts = []
    try:
        for part in iter(lambda: one.recv(65_536), b""):
            parts.append(part)
    except ConnectionResetError:
        parts.append(b"")
    return b"".join(parts)


def read_until(one: socket.socket, end: bytes) -> bytes:
    """Return what comes on a socket, through the first `end`."""
    data = b""
    while end not in data:
        part = one.recv(65_536)
        assert part, f"the server closed before {end!r}: {data!r}"
        data += part
    return data


def drip(one: socket.socket) -> bytes:
    """Send a byte every now and then until something comes, and return that."""
    one.settimeout(0.03)
    while True:
        one.sendall(b"x")
        try:
            return one.recv(65_536)
        except socket.timeout:
            pass


def wait_for(
    condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS
) -> Any:
    """Poll until a condition holds, and return what it gave.

    Raises:
        AssertionError: it did not hold in time; says what was waited for.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.005)


def process_is_alive(pid: int) -> bool:
    """Return whether there is a process with this id that is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def children(pid: int) -> List[int]:
    """Return the ids of all processes below one (Linux)."""
    parents: Dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                status = file.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(name)] = int(status.rpartition(b")")[2].split(None, 2)[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]
