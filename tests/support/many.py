"""Several processes that begin at once, and what each of them found."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import Any, List

START = """
import json, sys
def ready():
    print("ready", flush=True)
    sys.stdin.readline()
def tell(result):
    print(json.dumps(result), flush=True)
"""


class Many:
    """Processes of one program, which have said that they are ready.

    Args:
        count: how many.
        program: its text; it calls `ready()`, and `tell(result)` once. `sys.argv[1]` is
            its number, the arguments come behind.
    """

    def __init__(self, count: int, program: str, *arguments: str) -> None:
        self.patience_seconds = 60.0
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", START + program, str(number)]
                + list(arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for number in range(count)
        ]
        for one in self.processes:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"

    def go(self) -> None:
        """Have them begin."""
        for one in self.processes:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()

    def results(self) -> List[Any]:
        """Return what they told; each has to end well."""
        found = []
        for one in self.processes:
            output, _ = one.communicate(timeout=self.patience_seconds)
            assert one.returncode == 0
            found.append(json.loads(output))
        return found

    def __enter__(self) -> Many:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as closing:
            for one in self.processes:
                closing.callback(one.wait)
                for pipe in (one.stdin, one.stdout):
                    assert pipe is not None
                    closing.callback(pipe.close)
                if one.poll() is None:
                    one.kill()
