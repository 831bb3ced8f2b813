"""Files: a small one against a constant answer, a large one against nginx.

    python bench/files.py [--rounds 7] [--seconds 1] [--loop asyncio]

One line for each answer, with two figures and their ratios to what it is compared with
(above 1: better): how much came in a second, and how much for a second of the server's
CPU, which says more on a machine that others use. Each is the median of rounds in which
all take turns. The servers are pinned to the first CPU this process may use, the client
to the last. The large file is compared with nginx, if that is installed; the memory of
both is shown before and after.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Callable, Dict, List, Tuple

ROOT = Path(__file__).resolve().parent.parent
SMALL_BYTES = 4096
LARGE_BYTES = 100_000_000
PIPELINED = 16

PROGRAM = """
from pixie_web import Response, RouteType, cached_file, route, run, static_file

SMALL = open("small.txt", "rb").read()

@route("/constant", RouteType.sync)
def constant(env):
    return Response(SMALL, content_type="text/plain; charset=utf-8")

@route("/checked", RouteType.sync)
def checked(env):
    return static_file("small.txt", ".")

@route("/required", RouteType.sync)
def required(env):
    return cached_file("small.txt", ".")

@route("/pool")
def pool(env):
    return static_file("small.txt", ".")

@route("/large", RouteType.sync)
def large(env):
    return static_file("large.bin", ".", cache=False)

run(access_log=False, workers=1)
"""
NGINX = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {directory}/a;
    proxy_temp_path {directory}/b;
    fastcgi_temp_path {directory}/c;
    uwsgi_temp_path {directory}/d;
    scgi_temp_path {directory}/e;
    server {{
        listen 127.0.0.1:{port};
        location = /large {{ alias {directory}/large.bin; }}
    }}
}}
"""


def pin(cpu: int) -> Callable[[], None]:
    return lambda: os.sched_setaffinity(0, {cpu})


def start_pixie(
    directory: str, cpu: int, loop: str
) -> Tuple[subprocess.Popen[bytes], int]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PIXIE_LOOP": loop}
    environment.update(PIXIE_HOST="127.0.0.1", PIXIE_PORT="0")
    command = [sys.executable, "-c", PROGRAM]
    pipe = subprocess.PIPE
    server = subprocess.Popen(
        command, cwd=directory, env=environment, stderr=pipe, preexec_fn=pin(cpu)
    )
    assert server.stderr is not None
    banner = server.stderr.readline().decode() + server.stderr.readline().decode()
    print(banner, end="")
    return server, int(re.findall(r":(\d+) ", banner)[0])


def start_nginx(directory: str, cpu: int) -> Tuple[subprocess.Popen[bytes], int]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = Path(directory, "nginx.conf")
    configuration.write_text(NGINX.format(directory=directory, port=port))
    command = ["nginx", "-c", str(configuration), "-p", directory]
    server = subprocess.Popen(command, preexec_fn=pin(cpu))
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    return server, port


def family(pid: int) -> List[int]:
    """Return a process and all below it."""
    pids = [pid]
    for one in pids:
        children = Path(f"/proc/{one}/task/{one}/children").read_text()
        pids += [int(child) for child in children.split()]
    return pids


def megabytes(pid: int) -> float:
    """Return the memory that a process and its children have for themselves."""
    pids = family(pid)
    lines = "".join(Path(f"/proc/{one}/smaps_rollup").read_text() for one in pids)
    kilobytes = re.findall(r"(?:Private_Clean|Private_Dirty): +(\d+)", lines)
    return sum(map(int, kilobytes)) / 1024


def cpu_seconds(pids: List[int]) -> float:
    """Return how long the processes have run: by their own clocks, to the microsecond.

    /proc/<pid>/stat counts in hundredths of a second, of which 100 MB take two.
    """
    # clock_getcpuclockid(3), as Linux makes the number.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


Job = Callable[[], float]  # returns how much it got


def ask_small(port: int, path: str, seconds: float) -> float:
    """Ask for as long, on one connection; return how many answers came."""
    with socket.create_connection(("127.0.0.1", port)) as one:
        request = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        one.sendall(request)
        first = b""
        while b"\r\n\r\n" not in first:
            first += one.recv(65_536)
        head = first.index(b"\r\n\r\n") + 4
        found = re.search(rb"(?i)content-length: (\d+)", first)
        assert found is not None
        assert first.startswith(b"HTTP/1.1 200 ")
        size = head + int(found.group(1))
        left = size - len(first)
        count, buffer = 0, bytearray(1 << 20)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            while left > 0:
                left -= one.recv_into(buffer)
            one.sendall(request * PIPELINED)
            left += size * PIPELINED
            count += PIPELINED
        while left > 0:
            left -= one.recv_into(buffer)
        return count


def ask_large(port: int, times: int) -> float:
    """Fetch the large file so many times; return how many megabytes came."""
    buffer, got = bytearray(1 << 20), 0
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", port)) as one:
            one.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while True:
                size = one.recv_into(buffer)
                got += size
                if not size:
                    break
    assert got > times * LARGE_BYTES
    return times * LARGE_BYTES / 1e6


def compare(jobs: Dict[str, Tuple[int, Job]], rounds: int, unit: str) -> None:
    """Run jobs (title to pid and job) in turns, and print their medians."""
    seen: Dict[str, List[Tuple[float, float]]] = {title: [] for title in jobs}
    for _ in range(rounds):
        for title, (pid, job) in jobs.items():
            pids = family(pid)
            cpu, start = cpu_seconds(pids), time.perf_counter()
            got = job()
            seconds = time.perf_counter() - start
            seen[title].append((got / seconds, got / (cpu_seconds(pids) - cpu)))
    medians = {
        title: [statistics.median(column) for column in zip(*pairs)]
        for title, pairs in seen.items()
    }
    base = next(iter(medians.values()))
    for title, (rate, per_cpu) in medians.items():
        print(
            f"{title:12} {rate:9,.0f} {unit}/s {rate / base[0]:5.2f} "
            f"{per_cpu:9,.0f} {unit}/CPU s {per_cpu / base[1]:5.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--loop", default="auto")
    options = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    pin(cpus[-1])()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        os.chmod(directory, 0o755)  # nginx's worker is another user
        Path(directory, "small.txt").write_bytes(b"x" * SMALL_BYTES)
        with open(Path(directory, "large.bin"), "wb") as file:
            for _ in range(100):
                file.write(os.urandom(LARGE_BYTES // 100))
        server, port = start_pixie(directory, cpus[0], options.loop)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        time.sleep(1)  # what has just changed is not kept

        def small(path: str) -> Tuple[int, Job]:
            return server.pid, lambda: ask_small(port, path, options.seconds)

        paths = ["/constant", "/checked", "/required", "/pool"]
        compare({path: small(path) for path in paths}, options.rounds, "requests")
        large = {"pixie_web": (server.pid, lambda: ask_large(port, 4))}
        if shutil.which("nginx"):
            nginx, nginx_port = start_nginx(directory, cpus[0])
            stack.callback(nginx.wait)
            stack.callback(nginx.terminate)
            large = {"nginx": (nginx.pid, lambda: ask_large(nginx_port, 4)), **large}
        before = {title: megabytes(pid) for title, (pid, _) in large.items()}
        compare(large, options.rounds, "MB")
        for title, (pid, _) in large.items():
            print(f"{title}: {before[title]:.1f} MB of memory before, ", end="")
            print(f"{megabytes(pid):.1f} after")


if __name__ == "__main__":
    main()
