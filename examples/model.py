"""A large model that is loaded once and shared by all workers.

    python3 examples/model.py
    curl http://localhost:8000/nearest/3.14
    curl http://localhost:8000/memory

The model is made when the program is imported, before the workers are forked. They have
it without a copy, as long as nobody writes to it: /memory shows how much each process
has for itself. What can't be forked is loaded in @app.on_worker_start instead.
"""

from array import array
from bisect import bisect
from pathlib import Path
from sys import path

if __name__ == "__main__":  # from a clone, with nothing installed
    path.insert(0, str(Path(__file__).resolve().parents[1]))

from pixie_web import RouteType, abort, app, get, proc_env, run

MODEL = array("d", (number / 1000 for number in range(8_000_000)))  # 64 MB


@get("/nearest/<value:float>", timeout=5)
def nearest(env, value):
    at = min(bisect(MODEL, value), len(MODEL) - 1)
    found = min(MODEL[max(at - 1, 0)], MODEL[at], key=lambda one: abs(one - value))
    return {"nearest": found, "worker": proc_env.worker}


def private_megabytes(pid):
    """Return the memory that a process shares with no other."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        abort(501, "This system does not tell.")
    return sum(int(one.split()[1]) for one in lines if one.startswith("Private")) / 1024


@get("/memory", RouteType.thread)
def memory(env):
    stats = app.stats()
    workers = [one["pid"] for pool in stats["pools"] for one in pool["workers"]]
    return {
        "model_megabytes": round(MODEL.itemsize * len(MODEL) / 1e6),
        "main_megabytes": round(private_megabytes(stats["pid"])),
        "worker_megabytes": [round(private_megabytes(pid)) for pid in workers],
    }


if __name__ == "__main__":
    run()
