"""Two trees of the sources beside each other, in one run: has it become faster?

    python bench/compare.py BEFORE [AFTER]     directories that hold pixie_web/
    python bench/compare.py --help             rounds, seconds, the loop, which cases

AFTER is this tree where it is left out. Both serve the same program, by turns, and each
answer is checked first. Prints medians of CPU microseconds for each request: all of it,
and the user time of main alone; what lies between them is the system's and that of the
workers.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from statistics import median

from cases import CASES, POOL_CASES, WORKER_ROWS
from wire import Server, in_turns

ALL = {**CASES, **POOL_CASES, **WORKER_ROWS}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("after", type=Path, nargs="?", default=here)
    parser.add_argument("--cases", nargs="+", default=list(ALL), choices=list(ALL))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=1, help="of a round")
    parser.add_argument("--loop", default="uvloop")
    parser.add_argument("--access-log", action="store_true")
    options = parser.parse_args()
    settings = {
        "PIXIE_WORKERS": "1",
        "PIXIE_LOOP": options.loop,
        "PIXIE_ACCESS_LOG": str(options.access_log).lower(),
    }
    trees = {"before": options.before.resolve(), "after": options.after.resolve()}
    servers = {}
    try:
        for name, tree in trees.items():
            environment = {**settings, "PYTHONPATH": str(tree)}
            command = [sys.executable, "ours.py"]
            servers[name] = Server(name, command, environment)
        jobs = {}
        for title in options.cases:
            for name, server in servers.items():
                ALL[title].check(server.port)
                measure = partial(server.measure, ALL[title], options.seconds)
                jobs[title, name] = measure
        results = in_turns(jobs, options.rounds)
    finally:
        for server in servers.values():
            server.stop()
    print(f"{'us of CPU per request':26}{'all':>15}{'user, main':>21}{'ratio':>7}")
    for title, name in results:
        if name == "before":
            before, after = ([*zip(*results[title, tree])] for tree in trees)
            total = [median(map(sum, zip(*r[1:3]))) for r in (before, after)]
            user = [median(rounds[3]) for rounds in (before, after)]
            print(
                f"{title:26}{total[0]:>7.1f} {total[1]:>7.1f}"
                f"{user[0]:>13.1f} {user[1]:>7.1f}{user[1] / user[0]:>7.2f}"
            )


if __name__ == "__main__":
    main()
