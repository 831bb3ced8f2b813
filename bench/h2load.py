"""What a request of HTTP/2 costs the server, beside other servers, by h2load.

    python bench/h2load.py [--rounds 3] [--requests 12000]

h2load (Debian's nghttp2-client) asks for "Hello, world!" on 16 connections, with so
many requests at once on each ("m"). All servers run at the same time on one core, and
are asked in turn; h2load has the other core. A figure is the CPU time of the server's
processes per request, in microseconds, the least of the rounds. A server that is not
installed is left out. Over HTTP/1.1 several requests at once are pipelined. hypercorn
ends a connection after 1,000 requests, so there must not be more than 16,000.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, List, Tuple

from wire import CLIENT_CORES, Server, cpu_times

ROOT = Path(__file__).resolve().parent.parent
CERTIFICATE = ROOT / "tests" / "programs" / "localhost.pem"  # and its key
CONNECTIONS = 16
AT_ONCE = (1, 10)

OURS = """
from pixie_web import RouteType, route, run

@route("/", RouteType.sync)
def index(env): return "Hello, world!"

run(access_log=False, workers=0)
"""
THEIRS = """
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello, world!"})
"""
BIND = "--bind 127.0.0.1:{port}"
HYPERCORN = f"-m hypercorn theirs:app -w 0 -k uvloop {BIND} --certfile CERT"
GRANIAN = (
    "-m granian --interface asgi theirs:app --host 127.0.0.1 --port {port} "
    "--loop uvloop --workers 1 --no-ws --ssl-certificate CERT --ssl-keyfile KEY"
)
# Of each line of the table: the program, its command, and how h2load asks.
SERVERS: Dict[str, Tuple[str, str, str]] = {
    "HTTP/2 over TLS": ("pixie_web", "ours.py --tls", "https"),
    "hypercorn, over TLS": ("hypercorn", f"{HYPERCORN} --keyfile CERT", "https"),
    "granian, over TLS": ("granian", GRANIAN, "https"),
    "HTTP/2, plain": ("pixie_web", "ours.py", "http"),
    "HTTP/1.1, plain": ("pixie_web", "ours.py", "http --h1"),
}


def start(title: str, directory: Path, key: Path) -> Server:
    """Start the server of a line."""
    command = SERVERS[title][1].replace("CERT", str(CERTIFICATE))
    words = command.replace("KEY", str(key)).split()
    environment = {"PYTHONPATH": f"{ROOT}:{directory}"}
    if words[0] == "ours.py":
        if words[-1] == "--tls":
            environment["PIXIE_CERTFILE"] = str(CERTIFICATE)
        start_it = ["env", "PIXIE_HOST=127.0.0.1", "PIXIE_PORT={port}", sys.executable]
        return Server(title, [*start_it, f"{directory}/ours.py"], environment)
    return Server(title, [sys.executable, *words], environment)


def used(server: Server) -> float:
    return sum(sum(cpu_times(pid) or (0.0, 0.0)) for pid in server.pids)


def microseconds(server: Server, at_once: int, requests: int) -> float:
    """Have h2load ask; return the CPU time of a request."""
    scheme, _, option = SERVERS[server.name][2].partition(" ")
    words = f"h2load -t 1 -c {CONNECTIONS} -m {at_once} -n {requests} {option}".split()
    before = used(server)
    run = subprocess.run(
        [*words, f"{scheme}://127.0.0.1:{server.port}/"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, CLIENT_CORES),
    )
    found = re.search(r"(\d+) succeeded", run.stdout)
    if found is None or int(found.group(1)) != requests:
        raise RuntimeError(f"{server.name} failed:\n{run.stdout}\n{server.log()}")
    return (used(server) - before) / requests * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=12_000)
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("h2load is not installed; apt-get install nghttp2-client")
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        directory = Path(temporary)
        (directory / "ours.py").write_text(OURS)
        (directory / "theirs.py").write_text(THEIRS)
        key = directory / "key.pem"
        _, begin, text = CERTIFICATE.read_text().partition("-----BEGIN PRIVATE KEY")
        key.write_text(begin + text.partition("-----BEGIN CERT")[0])
        servers: List[Server] = []
        for title, (module, _, _) in SERVERS.items():
            if importlib.util.find_spec(module) is not None or module == "pixie_web":
                servers.append(start(title, directory, key))
                stack.callback(servers[-1].stop)
        found: Dict[Tuple[str, int], List[float]] = {}
        for _ in range(options.rounds):
            for server in servers:
                for at_once in AT_ONCE:
                    took = microseconds(server, at_once, options.requests)
                    found.setdefault((server.name, at_once), []).append(took)
        print(f"{'us of CPU per request':24}" + "".join(f"m={m:<6}" for m in AT_ONCE))
        for server in servers:
            figures = [min(found[server.name, at_once]) for at_once in AT_ONCE]
            print(f"{server.name:24}" + "".join(f"{one:<8.0f}" for one in figures))


if __name__ == "__main__":
    main()
