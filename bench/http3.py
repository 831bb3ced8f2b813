"""What a request of HTTP/3 costs the server's process, here and in bare aioquic.

    python3 bench/http3.py

Both serve the same small answer over UDP on this machine, to a client in a process of
its own. Bare aioquic has no application, no log, no bounds.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

try:
    from aioquic.asyncio import QuicConnectionProtocol, connect, serve
    from aioquic.h3.connection import H3Connection
    from aioquic.h3.events import DataReceived, HeadersReceived
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import ProtocolNegotiated
except ImportError as missing:
    sys.exit(f"{missing}; pip install 'aioquic>=1.7.2,<1.8'")

CERTIFICATE = ROOT / "tests" / "programs" / "localhost.pem"
BODY = b"Hello, world!"
LARGE = bytes(4_000_000)
REQUESTS = 2_000
ROUNDS = 3  # the best of which counts
BROWSER = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"www.example.org"),
    (b":path", b"/"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-US,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"cookie", b"session=abcdefghijklmnopqrstuvwxyz0123456789"),
]
ANSWER = [
    (b":status", b"200"),
    (b"date", b"Sat, 28 Nov 2026 12:00:00 GMT"),
    (b"content-type", b"text/html; charset=utf-8"),
]


def serve_ours() -> None:
    """Serve with pixie_web until SIGTERM."""
    from pixie_web import Pixie, RouteType

    app = Pixie()
    app.route("/", RouteType.sync)(lambda env: BODY)
    app.route("/large", RouteType.sync)(lambda env: LARGE)
    app.run(
        "127.0.0.1",
        int(sys.argv[2]),
        certfile=str(CERTIFICATE),
        http3=True,
        workers=0,
        access_log=False,
        loop="asyncio",  # as the other one
    )


class Bare(QuicConnectionProtocol):  # type: ignore[misc]
    """The same answers by aioquic alone."""

    h3: Any = None

    def quic_event_received(self, event: Any) -> None:
        if isinstance(event, ProtocolNegotiated):
            self.h3 = H3Connection(self._quic)
        for one in self.h3.handle_event(event) if self.h3 else []:
            if isinstance(one, HeadersReceived):
                body = LARGE if dict(one.headers)[b":path"] == b"/large" else BODY
                head = [*ANSWER, (b"content-length", b"%d" % len(body))]
                self.h3.send_headers(one.stream_id, head)
                self.h3.send_data(one.stream_id, body, True)


async def serve_bare() -> None:
    """Serve with aioquic until the process is ended."""
    shared = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    shared.load_cert_chain(str(CERTIFICATE))
    port = int(sys.argv[2])
    await serve("127.0.0.1", port, configuration=shared, create_protocol=Bare)
    await asyncio.Event().wait()


class Client(QuicConnectionProtocol):  # type: ignore[misc]
    """Asks, and waits for the end of each answer."""

    h3: Any = None

    def quic_event_received(self, event: Any) -> None:
        if isinstance(event, ProtocolNegotiated):
            self.h3 = H3Connection(self._quic)
            self.waiting: Dict[int, asyncio.Future[None]] = {}
        for one in self.h3.handle_event(event) if self.h3 else []:
            if isinstance(one, DataReceived) and one.stream_ended:
                self.waiting.pop(one.stream_id).set_result(None)

    async def ask(self, path: bytes, at_once: int) -> None:
        """Send so many requests, and wait for the answers."""
        found = []
        for _ in range(at_once):
            number = self._quic.get_next_available_stream_id()
            head = [(b":path", path) if n == b":path" else (n, v) for n, v in BROWSER]
            self.h3.send_headers(number, head, True)
            self.waiting[number] = self._loop.create_future()
            found.append(self.waiting[number])
        self.transmit()
        await asyncio.wait(found)


def cpu_seconds(pid: int) -> float:
    """Return what a process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def measure(pid: int, port: int) -> List[float]:
    """Return us per request one by one, ten at once, and ms per MB, by best rounds."""
    shared = QuicConfiguration(alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE)
    found: List[List[float]] = [[], [], []]
    for _ in range(ROUNDS):
        async with connect(
            "127.0.0.1", port, configuration=shared, create_protocol=Client
        ) as client:
            await client.ask(b"/", 1)
            for at, (path, at_once, times, unit) in enumerate(
                [
                    (b"/", 1, REQUESTS, 1e6 / REQUESTS),
                    (b"/", 10, REQUESTS // 10, 1e6 / REQUESTS),
                    (b"/large", 1, 2, 1e3 / 8),
                ]
            ):
                before = cpu_seconds(pid)
                for _ in range(times):
                    await client.ask(path, at_once)
                found[at].append((cpu_seconds(pid) - before) * unit)
    return [min(one) for one in found]


def free_port() -> int:
    """Return a port that nobody has."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run(kind: str) -> List[float]:
    """Measure one server."""
    port = free_port()
    command = [sys.executable, __file__, kind, str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                return asyncio.run(measure(server.pid, port))
            except ConnectionError:  # it does not listen yet
                if server.poll() is not None:
                    sys.exit("the server has ended")
                time.sleep(0.2)
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Print a table."""
    if sys.argv[1:2] == ["ours"]:
        serve_ours()
    elif sys.argv[1:2] == ["bare"]:
        asyncio.run(serve_bare())
    else:
        ours, bare = run("ours"), run("bare")
        print("CPU of the server              pixie    bare   ratio")
        names = "us a request, one by one", "us a request, ten at once", "ms for a MB"
        for name, own, other in zip(names, ours, bare):
            print(f"{name:28}{own:8.0f}{other:8.0f}{own / other:8.2f}")


if __name__ == "__main__":
    main()
