"""What a row costs that a generator yields, in main and in all, and how soon it leaves.

    python bench/rows.py [rows] [--loop asyncio]

A million rows by single yield, as a `pool` route, and fewer as a `thread` route; then
rows that come after a pause, fifty together: how long each takes from its yield to the
client. CPU is that of user and system, of main and of all its processes.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import List

from files import cpu_seconds, family

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import os, time
from pixie_web import RouteType, route, run

ROWS = int(os.environ["ROWS"])

def rows(count):
    for number in range(count):
        yield "row %d of a table\\n" % number

@route("/pool")
def pool(env):
    yield from rows(ROWS)

@route("/thread", RouteType.thread)
def thread(env):
    yield from rows(ROWS // 20)

@route("/times")
def times(env):
    for _ in range(100):
        time.sleep(0.01)
        for _ in range(50):
            yield "%.6f\\n" % time.monotonic()

run(access_log=False, workers=1)
"""


def fetch(port: int, path: str) -> List[List[bytes]]:
    """Return the lines that came together, each after when they came, as text."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 200
    got = []
    while True:
        data = answer.read1(1 << 20)
        if not data:
            connection.close()
            return got
        got.append([b"%.6f" % time.monotonic(), *data.splitlines()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--loop", default="auto")
    options = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PIXIE_LOOP": options.loop}
    environment.update(PIXIE_HOST="127.0.0.1", PIXIE_PORT="0", ROWS=str(options.rows))
    server = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stderr=subprocess.PIPE
    )
    assert server.stderr is not None
    try:
        banner = server.stderr.readline().decode()
        port = int(re.findall(r":(\d+) ", banner)[0])
        pids = family(server.pid)
        for path, count in ("/pool", options.rows), ("/thread", options.rows // 20):
            before = cpu_seconds([server.pid]), cpu_seconds(pids), time.monotonic()
            pieces = len(fetch(port, path))
            after = cpu_seconds([server.pid]), cpu_seconds(pids), time.monotonic()
            in_main, in_all, seconds = (b - a for a, b in zip(before, after))
            each = f"{in_main / count * 1e6:.2f} us of CPU a row in main"
            print(f"{path}: {each}, {in_all / count * 1e6:.2f} in all, ", end="")
            print(f"{count / seconds:,.0f} rows/s, {count} rows in {pieces} reads")
        late = [
            (float(came) - float(line)) * 1000
            for came, *lines in fetch(port, "/times")
            for line in lines
            if len(line) > 6
        ]
        for title, some in ("first", late[::50]), ("all", late):
            some = sorted(some)
            p50, p99 = (some[int(len(some) * part)] for part in (0.5, 0.99))
            print(f"{title} rows leave after {p50:.2f} ms, p99 {p99:.2f} ms")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
