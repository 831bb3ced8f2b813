"""What is asked of the servers, and who is asked: the groups of `make bench`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from wire import BROWSER_LINES, CLIENT_CORES, LINES, SERVER_CORES, Case

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from common import JSON, PAGE

FORM = "application/x-www-form-urlencoded"
ROWS = "".join(f"row {number:06}\n" for number in range(1000))
PEOPLE = {
    "people": [
        {"id": i, "name": f"Name {i}", "tags": ["a", "b"], "score": i / 8, "ok": True}
        for i in range(145)
    ]
}
PAGE_TEXT = (
    "<html><head><title>Shop &amp; more</title></head><body>\n<ul>\n"
    + "".join(
        '<li><a href="{url}">{}</a> {price}</li>\n'.format(
            item["name"].replace("&", "&amp;"), **item
        )
        for item in PAGE["items"]
    )
    + "</ul>\n</body></html>\n"
)

POWERS = (1, 10, 100, 1000, 10_000)

# "fresh": no head repeats.
CASES = {
    "plain": Case("/", "hello"),
    "plain fresh": Case("/?q={n}", "hello"),
    "json": Case("/json", JSON),
    "json fresh": Case("/json?q={n}", JSON),
    "wildcard": Case("/user/42", "user 42"),
    "wildcard fresh": Case("/user/{n}", "user {n}"),
    "browser": Case("/read?q=0000042", "0000042 dark", BROWSER_LINES),
    "browser fresh": Case("/read?q={n}", "{n} dark", BROWSER_LINES),
    "form": Case("/form", "Ada", body="name=Ada&number=42", kind=FORM),
    "form fresh": Case("/form?q={n}", "Ada", body="name=Ada&number={n}", kind=FORM),
    "10 KB JSON": Case(
        "/echo", PEOPLE, body=json.dumps(PEOPLE), kind="application/json"
    ),
    "page": Case("/page", PAGE_TEXT),
    "waiting": Case("/wait", "hello"),
    "sync": Case("/sync", "hello"),
    "thread": Case("/thread", "hello"),
    "1000 rows": Case("/rows", ROWS, connections=4),
}
POOL_CASES = {
    "pool": Case("/pool", "hello"),
    "pool fresh": Case("/pool?q={n}", "hello"),
    "pool, one client": Case("/pool", "hello", connections=1),
}
WORKER_ROWS = {"1000 rows of a worker": Case("/pool-rows", ROWS, connections=4)}
EVERY_PEER = [name for name in CASES if name not in ("sync", "thread", "1000 rows")]
IN_WSGI = [name for name in EVERY_PEER if name != "waiting"]


class Peer(NamedTuple):
    """One of those that are compared.

    Attributes:
        package: what is to be installed; "" is nothing.
        command: starts it, with the Python of this process.
        logging: takes the place of "{log}" in the command: without a log, and with one.
        environment: of its process.
        cases: those of CASES that it has an answer for.
        has_curves: it is asked for the curves too.
    """

    package: str
    command: str
    cases: Sequence[str]
    logging: Sequence[str] = ("", "")
    environment: Dict[str, str] = {}  # noqa: RUF012
    has_curves: bool = False


UVICORN = "-m uvicorn --port {port} {log}"
UVICORN_LOGGING = ("--log-level critical --no-access-log", "--log-level info")
GUNICORN = (
    "-m gunicorn -k gthread --threads 1 -w 1 --keep-alive 75 -b 127.0.0.1:{port} "
    "--no-control-socket --log-level critical {log}"
)
GUNICORN_LOGGING = ("", "--access-logfile -")
GRANIAN = (
    "-m granian --interface wsgi --host 127.0.0.1 --port {port} --workers 1 "
    "--blocking-threads 1 --no-ws {log}"
)
GRANIAN_LOGGING = ("--log-level critical", "--log-level info --access-log")
OURS = [*CASES]
ASYNC = [*EVERY_PEER, "1000 rows"]

PEERS = {
    "pixie_web": Peer(
        "", "ours.py", OURS, environment={"PIXIE_LOOP": "uvloop"}, has_curves=True
    ),
    "pixie_web, asyncio": Peer(
        "", "ours.py", OURS, environment={"PIXIE_LOOP": "asyncio"}, has_curves=True
    ),
    "Starlette, uvicorn": Peer(
        "starlette",
        f"{UVICORN} starlette_app:app",
        [*ASYNC, "thread"],
        UVICORN_LOGGING,
        has_curves=True,
    ),
    "FastAPI, uvicorn": Peer(
        "fastapi",
        f"{UVICORN} fastapi_app:app",
        [*EVERY_PEER, "thread"],
        UVICORN_LOGGING,
    ),
    "aiohttp": Peer("aiohttp", "aiohttp_app.py", ASYNC, has_curves=True),
    "Flask, gunicorn": Peer(
        "flask", f"{GUNICORN} flask_app:app", IN_WSGI, GUNICORN_LOGGING
    ),
    "bottle, gunicorn": Peer(
        "bottle", f"{GUNICORN} bottle_app:app", IN_WSGI, GUNICORN_LOGGING
    ),
    "bottle, granian": Peer(
        "granian",
        f"{GRANIAN} bottle_app:app",
        IN_WSGI,
        GRANIAN_LOGGING,
        has_curves=True,
    ),
    "socketify": Peer(
        "socketify",
        "socketify_app.py",
        [name for name in CASES if name.split()[0] in ("plain", "json", "wildcard")]
        + ["browser", "browser fresh"],
    ),
    "bare protocol": Peer("uvloop", "bare_app.py", ["plain", "plain fresh"]),
}
POOL_PEERS = {
    "pixie_web": PEERS["pixie_web"],
    "Starlette, ProcessPoolExecutor": PEERS["Starlette, uvicorn"],
    "gunicorn, dirty workers": Peer(
        "gunicorn",
        "-m gunicorn -k asgi -w 1 -b 127.0.0.1:{port} --no-control-socket "
        "--log-level critical --dirty-app gunicorn_app:Work --dirty-workers {workers} "
        "gunicorn_app:app",
        [],
    ),
}
# What is imported by a program that answers "hello".
IMPORTS = {
    "pixie_web": "pixie_web",
    "Starlette, uvicorn": "starlette.applications, starlette.routing, uvicorn",
    "FastAPI, uvicorn": "fastapi, uvicorn",
    "aiohttp": "aiohttp.web",
    "Flask": "flask",
    "bottle": "bottle",
    "socketify": "socketify",
}


class Group(NamedTuple):
    """Cases that are asked of the same servers, in turns.

    Attributes:
        title: of the group.
        peers: their names, of `PEERS` or `POOL_PEERS`.
        cases: by title; of a curve, by its number on the axis.
        axis: what that number is; "": it is no curve.
        x: the number, where it is one for the whole group.
        environment: of all servers.
        has_log: they write an access log.
    """

    title: str
    peers: Dict[str, Peer]
    cases: Dict[str, Case]
    axis: str = ""
    x: int = 0
    environment: Dict[str, str] = {}  # noqa: RUF012
    has_log: bool = False
    server_cores: Sequence[int] = SERVER_CORES
    client_cores: Sequence[int] = CLIENT_CORES


def lines_of(count: int) -> str:
    """Return so many header lines, the three that wrk sends among them."""
    more = (
        f"X-Header-{n:02}: the value of number {n:02}\r\n" for n in range(count - 3)
    )
    return LINES + "".join(more)


def curves() -> List[Group]:
    """Return the groups that are drawn as curves: what becomes of more of something."""
    peers = {name: one for name, one in PEERS.items() if one.has_curves}
    fast = {**peers, "socketify": PEERS["socketify"]}
    bodies = {"1": 1, "1000": 1000, "100000": 100_000, "1000000": 1_000_000}
    post = "application/octet-stream"
    return [
        Group(
            "connections",
            fast,
            {str(n): Case("/", "hello", connections=n) for n in POWERS},
            "connections",
        ),
        Group(
            "header lines",
            fast,
            {str(n): Case("/?q={n}", "hello", lines_of(n)) for n in (3, 10, 30, 90)},
            "header lines, no head repeats",
        ),
        Group(
            "body in",
            peers,
            {k: Case("/length", k, body="x" * n, kind=post) for k, n in bodies.items()},
            "bytes of a request's body",
        ),
        Group(
            "body out",
            peers,
            {k: Case(f"/bytes/{n}", "x" * n) for k, n in bodies.items()},
            "bytes of an answer's body",
        ),
        *(
            Group(
                "routes",
                {
                    name: peer
                    for name, peer in fast.items()
                    if name != "pixie_web, asyncio"
                },
                {str(n): Case(f"/section{n - 1}/{{n}}/word", "{n} word")},
                "routes with two wildcards, the last one asked, no head repeats",
                n,
                {"ROUTES": str(n)},
            )
            for n in POWERS
        ),
    ]


def groups() -> List[Group]:
    """Return all groups, those that matter most first."""
    logged = {name: CASES[name] for name in ("plain", "plain fresh", "wildcard fresh")}
    every = {name: peer for name, peer in PEERS.items() if name != "bare protocol"}
    shared = sorted({*SERVER_CORES, *CLIENT_CORES})
    return [
        Group("requests", PEERS, CASES),
        Group(
            "requests, access log",
            {name: peer for name, peer in every.items() if name != "socketify"},
            logged,
            has_log=True,
        ),
        *(
            Group(
                f"pool, {workers} workers" + (", cores shared" if cores else ""),
                POOL_PEERS,
                {**POOL_CASES, **WORKER_ROWS},
                environment={"WORKERS": str(workers), "PIXIE_WORKERS": str(workers)},
                server_cores=cores or SERVER_CORES,
                client_cores=cores or CLIENT_CORES,
            )
            for workers, cores in ((1, []), (2, []), (2, shared))
        ),
        *curves(),
    ]


def is_asked(group: Group, name: str, case: str) -> bool:
    """Return whether a peer has an answer for a case."""
    if case in WORKER_ROWS:
        return name == "pixie_web"
    return case not in CASES or case in group.peers[name].cases
