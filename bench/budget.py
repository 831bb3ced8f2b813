"""How much of Python a request runs: function calls and bytecodes, without a clock.

    python3.11 bench/budget.py             beside what budget.json allows
    python3.11 bench/budget.py --record    writes down what it is now

The server is the real one. Its transport is played, its clocks stand still, and nothing
but the standard library can be imported, so that each run counts the same. It counts
main alone, and neither what functions of C do nor the kernel: `bench/run.py` measures
these. The counts differ between versions of Python, so the budget is of one.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import os
import sys
import time
import types
from pathlib import Path
from typing import Any, Callable, Dict, Generator, List, NamedTuple

PYTHON = (3, 11)
MARGIN_PERCENT = 2.0
ROOT = Path(__file__).resolve().parent.parent
BUDGET = Path(__file__).with_suffix(".json")
WARM_UP = 20  # requests, before any is counted
COUNTED = 200  # of them the mean is taken, so what is done now and then counts too
MAX_TURNS = 50  # of the loop, for one request

Counts = Dict[str, Dict[str, int]]  # by workload: "calls" and "bytecodes"

LINES = b"Host: localhost:8000\r\nUser-Agent: wrk\r\nAccept: */*\r\n"
BROWSER_LINES = (
    b"Host: localhost:8000\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 "
    b"Firefox/128.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n"
    b"Connection: keep-alive\r\nCookie: session=4f1c9a0be7d2; theme=dark\r\n"
    b"Upgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\n"
    b"Sec-Fetch-Mode: navigate\r\n"
)


def get(target: str, lines: bytes = LINES) -> Callable[[int], bytes]:
    """Return what makes the request of a number; "{}" in the target stands for it."""
    return lambda n: b"GET %b HTTP/1.1\r\n%b\r\n" % (target.format(n).encode(), lines)


def post(number: int) -> bytes:
    """Return a POST of a short form."""
    body = b"name=Ada&number=%06d" % number
    kind = b"Content-Type: application/x-www-form-urlencoded\r\n"
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST /form HTTP/1.1\r\n" + LINES + kind + length + b"\r\n" + body


class Workload(NamedTuple):
    """Requests of one kind, and the end of each answer."""

    request: Callable[[int], bytes]
    answer: bytes
    access_log: bool = False


WORKLOADS = {
    "plain": Workload(get("/"), b"\r\n\r\nhello"),
    "plain, access log": Workload(get("/"), b"\r\n\r\nhello", access_log=True),
    "json": Workload(get("/json"), b'{"hello":"world","number":42}'),
    "one wildcard": Workload(get("/user/42"), b"\r\n\r\nuser 42"),
    "varying query": Workload(get("/?q={:06}"), b"\r\n\r\nhello"),
    "browser, query and cookie": Workload(
        get("/read?q={:06}", BROWSER_LINES), b"\r\n\r\n6 dark"
    ),
    "form in": Workload(post, b"\r\n\r\nAda"),
    "sync": Workload(get("/sync"), b"\r\n\r\nhello"),
    "waiting handler": Workload(get("/wait"), b"\r\n\r\nhello"),
    "triggers": Workload(get("/triggers"), b"\r\n\r\nhello"),
}


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let the loop have one turn."""
    yield


def make_application() -> Any:
    """Return the application that is asked."""
    from pixie_web import Pixie, Response

    app = Pixie()

    def is_welcome(env: Any) -> None:
        """Stand for a trigger that looks and lets pass."""

    async def is_known(env: Any) -> None:
        """Do the same, on the loop."""

    def stamp(env: Any, response: Any) -> None:
        response.headers["X-Stamp"] = "1"

    @app.route("/", "asnc")
    async def index(env: Any) -> Any:
        return Response("hello")

    @app.route("/json", "asnc")
    async def as_json(env: Any) -> Any:
        return {"hello": "world", "number": 42}

    @app.route("/user/<number:int>", "asnc")
    async def user(env: Any, number: int) -> Any:
        return Response(f"user {number}")

    @app.route("/read", "asnc")
    async def read(env: Any) -> Any:
        return Response(f"{len(env.query['q'])} {env.cookies['theme']}")

    @app.route("/form", "asnc", "POST")
    async def form(env: Any) -> Any:
        return Response(env.form["name"])

    @app.route("/sync", "sync")
    def sync(env: Any) -> Any:
        return Response("hello")

    @app.route("/wait", "asnc")
    async def wait(env: Any) -> Any:
        await turn()
        return Response("hello")

    @app.route("/triggers", "asnc", before=[is_welcome, is_known], after=[stamp])
    async def triggers(env: Any) -> Any:
        return Response("hello")

    return app


class PlayedTransport:
    """Takes what the server sends."""

    def __init__(self) -> None:
        self.sent: List[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 50_000) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, *limits: int) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Counter:
    """Counts what runs while it is open.

    Attributes:
        count: of function calls, those of C as well, or of bytecodes.
    """

    def __init__(self, what: str) -> None:
        self.count = 0
        self._is_of_calls = what == "calls"

    def __enter__(self) -> Counter:
        if self._is_of_calls:
            sys.setprofile(self._see_call)
        else:
            sys.settrace(self._see_bytecode)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        sys.settrace(None)

    def _see_call(self, frame: Any, event: str, arg: object) -> None:
        self.count += event in ("call", "c_call")

    def _see_bytecode(self, frame: Any, event: str, arg: object) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.count += event == "opcode"
        return self._see_bytecode


async def ask(connection: Any, requests: List[bytes]) -> None:
    """Have requests answered, one after the other."""
    for request in requests:
        connection.data_received(request)
        for _ in range(MAX_TURNS):
            if not connection.is_busy:
                break
            await turn()


async def count(workload: Workload, what: str) -> int:
    """Return how many calls or bytecodes a request of a workload takes."""
    from pixie_web.runner import Runner
    from pixie_web.server.http1 import HTTP1Connection
    from pixie_web.settings import read_settings

    settings = read_settings({"access_log": workload.access_log}, {})
    runner = Runner(make_application(), settings)
    runner._lifespan.prepare()
    await runner._lifespan.start()
    server, transport = runner._server, PlayedTransport()
    await server.listen([])
    connection = HTTP1Connection(server)
    connection.connection_made(transport)  # type: ignore[arg-type]
    requests = [workload.request(number) for number in range(WARM_UP + COUNTED)]
    await ask(connection, requests[:WARM_UP])
    with Counter(what) as counter:
        await ask(connection, requests[WARM_UP:])
    answers = b"".join(transport.sent).split(b"HTTP/1.1 ")[1:]
    assert len(answers) == len(requests), f"{len(answers)} answers: {answers[:2]}"
    for answer in answers:
        assert answer.startswith(b"200 "), answer
        assert answer.endswith(workload.answer), answer
    connection.connection_lost(None)
    await server.close()
    await runner._lifespan.stop()
    return round(counter.count / COUNTED)


def stop_clocks() -> None:
    """Have time stand still: no timer fires, and all takes the same branch."""
    time.monotonic = (1000.0).conjugate  # the cheapest function of C without arguments
    time.perf_counter = time.monotonic
    time.time = (1_700_000_000.0).conjugate


def count_all() -> Counts:
    """Return the counts of all workloads."""
    stop_clocks()
    gc.disable()
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    sys.path.insert(0, str(ROOT))
    return {
        name: {what: asyncio.run(count(one, what)) for what in ("calls", "bytecodes")}
        for name, one in WORKLOADS.items()
    }


def risen(counts: Counts, budget: Counts) -> List[str]:
    """Return a line for each number that is above its budget and the margin."""
    return [
        f"{name}: {number} {what} per request, and the budget is {allowed}"
        for name, numbers in counts.items()
        for what, number in numbers.items()
        for allowed in [budget.get(name, {}).get(what, 0)]
        if number > allowed * (1 + MARGIN_PERCENT / 100)
    ]


def print_table(counts: Counts, budget: Counts) -> None:
    print(f"{'per request':28}{'calls':>8}{'budget':>8}{'bytecodes':>12}{'budget':>8}")
    for name, numbers in counts.items():
        allowed = budget.get(name, {})
        cells = [
            value
            for what in ("calls", "bytecodes")
            for value in (numbers[what], allowed.get(what, "-"))
        ]
        print("{:28}{:>8}{:>8}{:>12}{:>8}".format(name, *cells))


def main() -> None:
    if sys.version_info[:2] != PYTHON:
        raise SystemExit("the budget is of CPython {}.{}".format(*PYTHON))
    if not sys.flags.no_site:  # without what is installed, and all hashes the same
        command = [sys.executable, "-S", *sys.argv]
        os.execve(sys.executable, command, {"PYTHONHASHSEED": "0"})
    counts = count_all()
    if sys.argv[1:] == ["--record"]:
        BUDGET.write_text(json.dumps(counts, indent=2) + "\n")
    budget = json.loads(BUDGET.read_text())
    print_table(counts, budget)
    lines = risen(counts, budget)
    if lines:
        how = "python3.11 bench/budget.py --record"
        raise SystemExit(
            "\n".join(lines) + f"\nMake it cheaper; or, where the commit says why it "
            f"is worth that, record a new budget: {how}"
        )


if __name__ == "__main__":
    main()
