"""How long an asnc route takes while the pool has more to compute than it can.

    python bench/latency.py [seconds]

Sixteen clients ask for a pool route that burns 0.1 s of CPU, and one client asks for an
asnc route a hundred times a second. Prints percentiles of the latter, idle and busy, in
one run.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import threading
import time
from typing import List

PROGRAM = """
import time
from pixie_web import RouteType, route, run

@route("/quick", RouteType.asnc)
async def quick(env):
    return "quick"

@route("/burn")
def burn(env):
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    return "burnt"

run(access_log=False)
"""
CLIENTS = 16


def ask_for(port: int, path: str, pause_seconds: float, end: float) -> List[float]:
    """Ask again and again until `end`; return the seconds of each answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    seconds = []
    while time.monotonic() < end:
        start = time.perf_counter()
        connection.request("GET", path)
        connection.getresponse().read()
        seconds.append(time.perf_counter() - start)
        time.sleep(pause_seconds)
    return seconds


def report(title: str, seconds: List[float]) -> None:
    ordered = sorted(seconds)
    p50, p99 = (ordered[int(len(ordered) * part)] * 1000 for part in (0.5, 0.99))
    worst = ordered[-1] * 1000
    print(f"{title}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, worst {worst:.2f} ms")


def main() -> None:
    length = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    environment = {**os.environ, "PIXIE_HOST": "127.0.0.1", "PIXIE_PORT": "0"}
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment["PYTHONPATH"] = root
    server = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stderr=subprocess.PIPE
    )
    assert server.stderr is not None
    try:
        banner = server.stderr.readline().decode()
        port = int(re.findall(r":(\d+) ", banner)[0])
        report("idle", ask_for(port, "/quick", 0.01, time.monotonic() + length))
        end = time.monotonic() + length
        burners = [
            threading.Thread(target=ask_for, args=(port, "/burn", 0.0, end))
            for _ in range(CLIENTS)
        ]
        for burner in burners:
            burner.start()
        report(f"{CLIENTS} clients burn", ask_for(port, "/quick", 0.01, end))
        for burner in burners:
            burner.join()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
