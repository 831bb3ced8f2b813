"""How long a match takes, and how it grows with the number of routes.

    python3 bench/routes.py

Prints microseconds per match, of the route declared last; beside bottle's router where
bottle is installed.
"""

from __future__ import annotations

import sys
import timeit
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pixie_web.core import Router

try:
    import bottle
except ImportError:
    bottle = None

# For route number {}: its pattern, and a path that it matches.
KINDS = {
    "static": ("/static{}", "/static{}"),
    "own first segment": ("/route{}/<id:int>", "/route{}/7"),
    "own second segment": ("/<tenant>/route{}/<id:int>", "/a/route{}/7"),
    "language in front": ("/<lang:re:de|en>/route{}/<x>", "/de/route{}/7"),
    "path at the end": ("/route{}/<rest:path>", "/route{}/a/b/c"),
    "all alike (worst)": ("/item{}-<id:int>", "/item{}-7"),
}


def microseconds(call: Callable[[], Any]) -> float:
    """Return the best time of several runs."""
    timer = timeit.Timer(call)
    number = max(100, int(0.02 / (timer.timeit(20) / 20)))
    return min(timer.repeat(5, number)) / number * 1e6


def pixie(pattern: str, path: str, routes: int) -> float:
    router: Router[int] = Router()
    for number in range(routes):
        router.add(pattern.format(number), ["GET"], number)
    assert router.match("GET", path).target == routes - 1
    return microseconds(lambda: router.match("GET", path))


def of_bottle(pattern: str, path: str, routes: int) -> float:
    if bottle is None:
        return float("nan")
    router = bottle.Router()
    for number in range(routes):
        router.add(pattern.format(number), "GET", number)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path}
    assert router.match(environ)[0] == routes - 1
    return microseconds(lambda: router.match(environ))


def main() -> None:
    print(f"Python {sys.version.split()[0]}, microseconds per match")
    print(f"{'':20}{'routes':>8}{'pixie_web':>12}{'bottle':>10}")
    for kind, (pattern, path) in KINDS.items():
        for routes in (1, 10, 100, 1000):
            last = path.format(routes - 1)
            ours, theirs = (f(pattern, last, routes) for f in (pixie, of_bottle))
            print(f"{kind:20}{routes:>8}{ours:>12.2f}{theirs:>10.2f}")


if __name__ == "__main__":
    main()
