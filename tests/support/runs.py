"""The example of the first page, and interpreters that run to their end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from shapes import place_lone_file
from support import PATIENCE_SECONDS

SEED = """\
from pixie_web import route, run, Response, RouteType, proc_env

@route("/", RouteType.sync)
def index(env):
    return Response(f"Hello world from process type {proc_env.proc_type}")

@route("/async", RouteType.asnc)
async def index_async(env):
    return Response(f"Hello world (async) from process type {proc_env.proc_type}")

@route("/cpu", RouteType.pool)
def cpu_bound(env):
    return Response(f"Hello world (CPU-bound) from process type {proc_env.proc_type}")

if __name__ == "__main__":
    run()          # http://localhost:8000
"""


def python(
    *arguments: str, directory: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the interpreter to its end."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=str(directory),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def place_example(directory: Path) -> Path:
    """Put the one file and the example, as app.py, into a directory; return that."""
    place_lone_file(directory)
    (directory / "app.py").write_text(SEED, encoding="utf-8")
    (directory / "other.py").write_text(
        SEED.replace("run()", "run(port=1)").replace(
            "if __name__", "if True or __name__"
        ),
        encoding="utf-8",
    )
    return directory
