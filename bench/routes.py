"""How long a match takes, and how it grows with the number of routes.

    python3 bench/routes.py

Prints what declaring all of them takes, then microseconds for each match of the route
that was declared last and for each 404; beside a match of bottle's router where bottle
is installed.
"""

from __future__ import annotations

import sys
import time
import timeit
from pathlib import Path
from typing import Any, Callable, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pixie_web import HTTPError, Pixie, Request

try:
    import bottle
except ImportError:
    bottle = None

# For route number {}: its pattern, and a path that it matches.
KINDS = {
    "static": ("/static{}", "/static{}"),
    "own first segment": ("/route{}/<id:int>", "/route{}/7"),
    "own second segment": ("/<tenant>/route{}/<id:int>", "/a/route{}/7"),
    "own last segment": ("/<tenant>/route{}", "/a/route{}"),
    "language in front": ("/<lang:re:de|en>/route{}/<x>", "/de/route{}/7"),
    "path at the end": ("/route{}/<rest:path>", "/route{}/a/b/c"),
    "path in front": ("/<rest:path>/route{}/x", "/a/b/c/route{}/x"),
    "inside a segment": ("/<a>-x{}-<id:int>", "/a-x{}-7"),
}


def microseconds(call: Callable[[], Any]) -> float:
    """Return the best time of several runs."""
    timer = timeit.Timer(call)
    number = max(3, int(0.02 / (timer.timeit(3) / 3)))
    return min(timer.repeat(5, number)) / number * 1e6


def handler(env: Request, **_: str) -> None:
    """Stand at the end of each route."""


def pixie(
    pattern: str, path: str, missed: str, routes: int
) -> Tuple[float, float, float]:
    """Return milliseconds to declare, then microseconds of a match and of a 404."""
    application = Pixie()
    began = time.process_time()
    for number in range(routes):
        application.route(pattern.format(number), "sync")(handler)
    declared = time.process_time() - began
    router = application._router
    assert router.match("GET", path).target.path == pattern.format(routes - 1)

    def miss() -> None:
        try:
            router.match("GET", missed)
        except HTTPError:
            return
        raise AssertionError("it should not match")

    hit = microseconds(lambda: router.match("GET", path))
    return declared * 1e3, hit, microseconds(miss)


def of_bottle(pattern: str, path: str, routes: int) -> float:
    if bottle is None or "re:" in pattern:
        return float("nan")
    router = bottle.Router()
    for number in range(routes):
        router.add(pattern.format(number), "GET", number)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path}
    assert router.match(environ)[0] == routes - 1
    return microseconds(lambda: router.match(environ))


def main() -> None:
    print(f"Python {sys.version.split()[0]}, microseconds for each match")
    print(f"{'':20}{'routes':>8}{'declare ms':>12}{'hit':>8}{'404':>8}{'bottle':>10}")
    for kind, (pattern, path) in KINDS.items():
        for routes in (1, 100, 10_000):
            last = path.format(routes - 1)
            declared, hit, miss = pixie(pattern, last, path.format("none"), routes)
            theirs = of_bottle(pattern, last, routes)
            print(
                f"{kind:20}{routes:>8}{declared:>12.1f}{hit:>8.2f}{miss:>8.2f}"
                f"{theirs:>10.2f}"
            )


if __name__ == "__main__":
    main()
