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

from wire import BROWSER_LINES, Case, Server, in_turns

FORM = "application/x-www-form-urlencoded"
ROWS = "".join(f"row {n:06}\n" for n in range(1000))
CASES = {
    "plain": Case("/", "hello"),
    "plain fresh": Case("/?q={n}", "hello"),
    "json": Case("/json", {"hello": "world", "number": 42}),
    "one wildcard": Case("/user/42", "user 42"),
    "browser": Case("/read?q=0000042", "0000042 dark", BROWSER_LINES),
    "browser fresh": Case("/read?q={n}", "{n} dark", BROWSER_LINES),
    "form": Case("/form", "Ada", body="name=Ada&number={n}", kind=FORM),
    "sync": Case("/sync", "hello"),
    "waiting handler": Case("/wait", "hello"),
    "thread": Case("/thread", "hello"),
    "pool": Case("/pool", "hello"),
    "pool fresh": Case("/pool?q={n}", "hello"),
    "1000 rows": Case("/rows", ROWS),
    "1000 rows of a worker": Case("/pool-rows", ROWS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("after", type=Path, nargs="?", default=here)
    parser.add_argument("--cases", default=",".join(CASES), help="%(default)s")
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
        for title in options.cases.split(","):
            for name, server in servers.items():
                CASES[title].check(server.port)
                measure = partial(server.measure, CASES[title], options.seconds)
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
