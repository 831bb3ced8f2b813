"""Ours and its peers side by side: CPU per request, rates, memory, import time.

    make bench                                 in an environment of its own
    python bench/run.py --help                 which groups, how many rounds, how long

All servers of a group run at the same time and are asked by turns; each answer is
checked before it is timed. Every figure of every round goes into results/NAME.json;
`bench/charts.py` makes tables and charts of that. What is not installed is left out,
and said.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, List, Optional

from cases import CASES, IMPORTS, PEERS, Group, Peer, groups, is_asked
from timing import medians
from wire import Case, Round, Server, in_turns, private_bytes, resident_bytes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = (
    "starlette fastapi uvicorn httptools uvloop flask bottle gunicorn granian aiohttp "
    "socketify jinja2 orjson"
).split()

Row = Dict[str, Any]


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; no name is nothing to import."""
    try:
        return not package or bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def start(name: str, peer: Peer, group: Group) -> Server:
    """Start a peer as a group wants it."""
    environment = {**group.environment, **peer.environment}
    environment.update(PYTHONPATH=str(ROOT), ACCESS_LOG="1" if group.has_log else "")
    environment["PIXIE_ACCESS_LOG"] = str(group.has_log).lower()
    workers = group.environment.get("WORKERS", "1")
    environment.setdefault("PIXIE_WORKERS", workers)
    words = peer.command.replace("{log}", peer.logging[group.has_log])
    command = [sys.executable, *words.replace("{workers}", workers).split()]
    return Server(name, command, environment, group.server_cores)


def seconds_for(case: Case, seconds: int) -> int:
    """Return how long a round takes: longer where many have to connect first."""
    return max(seconds, min(6, case.connections // 1000 * 3))


def ask_once(ask: Callable[[], Round]) -> Optional[Round]:
    """Return a round, or None where it had an answer that is none.

    One peer that fails under load must not cost the figures of all.
    """
    try:
        return ask()
    except RuntimeError as error:
        print(error, flush=True)
        return None


def measure_group(group: Group, rounds: int, seconds: int) -> List[Row]:
    """Run the servers of a group, and return a row for each case of each of them."""
    jobs: Dict[Any, Callable[[], Optional[Round]]] = {}
    rows: List[Row] = []
    with ExitStack() as stack:
        servers: Dict[str, Server] = {}
        for name, peer in group.peers.items():
            if is_installed(peer.package):
                try:
                    servers[name] = start(name, peer, group)
                except RuntimeError as error:
                    rows += fail(group, name, str(error), *group.cases)
                    continue
                stack.callback(servers[name].stop)
        for title, case in group.cases.items():
            for name, server in servers.items():
                if is_asked(group, name, title):
                    try:
                        case.check(server.port)
                    except (OSError, ValueError) as error:
                        rows += fail(group, name, str(error), title)
                        continue
                    long = seconds_for(case, seconds)
                    ask = partial(server.measure, case, long, group.client_cores)
                    jobs[title, name] = partial(ask_once, ask)
        results = in_turns(jobs, rounds)
    for (title, name), measured in results.items():
        row = new_row(group, name, title)
        row["rounds"] = [
            {key: round(value, 3) for key, value in one._asdict().items()}
            for one in measured
            if one is not None
        ]
        if len(row["rounds"]) < rounds:
            rows += fail(group, name, "wrong answers in a round", title)
            continue
        print_row(row)
        rows.append(row)
    return rows


def new_row(group: Group, name: str, title: str) -> Row:
    """Return the row of a peer and a case, without a figure yet."""
    row: Row = {"group": group.title, "case": title, "peer": name, "rounds": []}
    if group.axis:
        row.update(axis=group.axis, x=group.x or int(title))
    return row


def fail(group: Group, name: str, why: str, *titles: str) -> List[Row]:
    """Return the rows of cases at which a peer fails, and say so."""
    print(f"  {', '.join(titles)}: {name} fails: {why}", flush=True)
    return [{**new_row(group, name, title), "failed": why} for title in titles]


def print_row(row: Row) -> None:
    figures = {k: median(one[k] for one in row["rounds"]) for k in row["rounds"][0]}
    text = ", ".join(f"{key} {value:,.1f}" for key, value in figures.items())
    print(f"  {row['case']:22} {row['peer']:24} {text}", flush=True)


def measure_memory(seconds: int) -> List[Row]:
    """Return the memory of each server after a round of "/" and, of ours, the pool."""
    rows = []
    group = Group("memory", PEERS, {})
    for name, peer in PEERS.items():
        if not is_installed(peer.package):
            continue
        server = start(name, peer, group)
        try:
            server.measure(Case("/", "hello"), seconds)
            if name.startswith("pixie_web"):
                server.measure(Case("/pool", "hello"), seconds)
            pids = server.pids
            sizes = [(resident_bytes(pid), private_bytes(pid)) for pid in pids]
        finally:
            server.stop()
        rows.append(
            {
                "group": "memory",
                "peer": name,
                "processes": [
                    {"resident_bytes": resident, "private_bytes": private}
                    for resident, private in sizes
                ],
            }
        )
        text = ", ".join(f"{r / 1e6:.1f} ({p / 1e6:.1f} private)" for r, p in sizes)
        print(f"  {name:24} MB: {text}", flush=True)
    return rows


def import_once(statement: str) -> Dict[str, float]:
    """Return CPU milliseconds and memory of a Python that runs a statement."""
    process = subprocess.Popen(
        [sys.executable, "-c", statement],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: os.sched_setaffinity(0, [0]),
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    assert status == 0, statement
    cpu_ms = (usage.ru_utime + usage.ru_stime) * 1000
    return {"cpu_ms": round(cpu_ms, 3), "resident_bytes": usage.ru_maxrss * 1024}


def measure_imports(rounds: int) -> List[Row]:
    """Return what each import costs; "nothing" is Python itself."""
    statements = {"nothing": "pass"}
    for name, modules in IMPORTS.items():
        if is_installed("" if name == "pixie_web" else name.split(",")[0].lower()):
            statements[name] = f"import {modules}"
    rows = {n: {"group": "import", "peer": n, "rounds": []} for n in statements}
    for statement in statements.values():
        import_once(statement)  # compiles
    for _ in range(3 * rounds):
        for name, statement in statements.items():
            rows[name]["rounds"].append(import_once(statement))  # type: ignore[attr-defined]
    for name, row in rows.items():
        cpu = median(one["cpu_ms"] for one in row["rounds"])  # type: ignore[index]
        print(f"  {name:24} {cpu:.1f} ms", flush=True)
    return list(rows.values())


def json_us() -> float:
    """Return what the library takes of the case "10 KB JSON": in and out."""
    body = CASES["10 KB JSON"].body
    return medians({"": lambda: json.dumps(json.loads(body))}, 20)[""]


def git(*words: str) -> str:
    run = subprocess.run(["git", *words], cwd=str(ROOT), capture_output=True, text=True)
    return run.stdout.strip()


def circumstances(options: argparse.Namespace) -> Dict[str, Any]:
    """Return of what, by what and where the figures are."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    models = [line for line in cpuinfo.splitlines() if line.startswith("model name")]
    versions = {p: importlib.metadata.version(p) for p in PACKAGES if is_installed(p)}
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout
    return {
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": git("rev-parse", "--short=12", "HEAD"),
        "is_changed_since": bool(git("diff", "HEAD", "--", "pixie_web", "bench/*.py")),
        "machine": f"{os.cpu_count()} cores of {models[0].partition(':')[2].strip()}",
        "system": f"{platform.system()} {platform.release()}",
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "wrk": " ".join(wrk.split()[:2]),
        "versions": {
            p: importlib.metadata.version(p) for p in PACKAGES if is_installed(p)
        },
        "left_out": [package for package in PACKAGES if package not in versions],
        "json_us": json_us(),
        "rounds": options.rounds,
        "seconds": options.seconds,
    }


def main() -> None:
    titles = [group.title for group in groups()]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--groups", nargs="*", metavar="GROUP", help=f"{titles}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=1, help="of a round")
    parser.add_argument("--name", default="results", help="of the file: %(default)s")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("it is wrk that asks: install it, as in apt install wrk")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or an import compiles each time
    found = circumstances(options)
    print(json.dumps(found, indent=2), flush=True)
    rows: List[Row] = []
    # The generator has its core, and this process sleeps meanwhile.
    os.sched_setaffinity(0, [os.cpu_count() - 1])
    wanted = options.groups
    for group in groups():
        if not wanted or group.title in wanted:
            print(group.title, group.x or "", flush=True)
            rows += measure_group(group, options.rounds, options.seconds)
    for title, measure in (
        ("import", partial(measure_imports, options.rounds)),
        ("memory", partial(measure_memory, options.seconds)),
    ):
        if not wanted or title in wanted:
            print(title, flush=True)
            rows += measure()
    found["load_after"] = os.getloadavg()[0]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{options.name}.json"
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f'{{"about": {json.dumps(found)},\n"rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
