"""How long from a save to the new answer: `reload` beside `uvicorn --reload`.

    python bench/reload.py [saves]

Both serve a page of a program in a directory of its own; files are saved by turns, and
each is asked until it gives the new answer. Needs uvicorn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import Dict, List

ROOT = Path(__file__).resolve().parents[1]
PIXIE = """\
from pixie_web import Pixie
app = Pixie()
app.route("/", "sync")(lambda env: "save 0")
app.route("/pool")(lambda env: "a pool is there too")
"""
UVICORN = """\
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"save 0"})
"""


def answer(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as found:
            return str(found.read().decode())
    except OSError:
        return ""


def wait_for(port: int, text: str) -> None:
    until = time.monotonic() + 60
    while answer(port) != text:
        if time.monotonic() > until:
            raise SystemExit(f"{text!r} never came on port {port}")
        time.sleep(0.002)


def main() -> None:
    """Print the median and the longest of all saves."""
    saves = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as directory:
        programs = {"pixie_web": (PIXIE, 8471), "uvicorn": (UVICORN, 8472)}
        processes = []
        for name, (text, port) in programs.items():
            home = Path(directory, name)
            home.mkdir()
            (home / "app.py").write_text(text)
            own = ["--no-access-log"] if name == "pixie_web" else ["--log-level=error"]
            command = [sys.executable, "-m", name, "app:app", "--reload", *own]
            processes.append(
                subprocess.Popen(
                    [*command, "--host", "127.0.0.1", "--port", str(port)],
                    cwd=str(home),
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    stderr=subprocess.DEVNULL,
                )
            )
        try:
            times = measure(
                Path(directory), {k: v[1] for k, v in programs.items()}, saves
            )
        finally:
            for process in processes:
                process.terminate()
                process.wait()
    for name, seconds in times.items():
        print(f"{name:10} median {median(seconds):.3f} s, longest {max(seconds):.3f} s")


def measure(
    directory: Path, ports: Dict[str, int], saves: int
) -> Dict[str, List[float]]:
    """Return the seconds of each save, by turns."""
    times: Dict[str, List[float]] = {name: [] for name in ports}
    for port in ports.values():
        wait_for(port, "save 0")
    for number in range(1, saves + 1):
        for name, port in ports.items():
            file = directory / name / "app.py"
            text = file.read_text().replace(f"save {number - 1}", f"save {number}")
            new = file.with_suffix(".new")
            new.write_text(text)
            began = time.monotonic()
            os.replace(str(new), str(file))
            wait_for(port, f"save {number}")
            times[name].append(time.monotonic() - began)
    return times


if __name__ == "__main__":
    main()
