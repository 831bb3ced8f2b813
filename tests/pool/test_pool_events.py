"""Each row of the table in docs/pool.md, "What happens when", is made to happen."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
)

import pytest
from pooling import (
    PROGRAM,
    asking,
    directory,
    hang_up,
    head_of,
    make,
    wait_for_note,
    workers,
    zygote,
)
from support import Server, process_is_alive, read_until, serve, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pool.md"
STARTED, MAIN = PROGRAM.split('if __name__ == "__main__":')
EVENTS = r"""
import contextlib
from pixie_web import RequestTimeout, abort, app

FROM_OUTSIDE = RequestTimeout, GeneratorExit, MemoryError

@app.on_worker_start
def load():
    if "BROKEN" in os.environ and not os.path.exists("model"):
        raise ValueError("no model")

@app.on_worker_stop
def tell():
    note("stopped", os.getpid())

@contextlib.contextmanager
def watching():
    try:
        note("in", os.getpid())
        yield
    except FROM_OUTSIDE as error:
        note("saw", type(error).__name__)
        raise

def until_left(env):
    while not env.disconnected:
        time.sleep(0.005)
    note("saw", "env.disconnected")
    return "seen"

WAYS = {
    "return": lambda env: "whole",
    "raise": lambda env: int("on purpose"),
    "abort": lambda env: abort(404),
    "type": lambda env: object(),
    "exit": lambda env: sys.exit(3),
    "memory": lambda env: str(len(bytearray(1 << 32))),
    "fork": forks,
    "die": lambda env: os._exit(7),
    "fault": segfault,
    "close": close_descriptors,
    "sleep": lambda env: start_a_program("program") or time.sleep(1000),
    "hang": lambda env: start_a_program("program") or sum(itertools.repeat(0)),
    "wait": lambda env: wait("go") or "waited",
    "left": until_left,
}

async def add_what_can_not_travel(env):
    env.context["lock"] = threading.Lock()

def declare(path, *place, **options):
    @route(f"/{path}/<what>", *place, **options)
    def event(env, what):
        with watching():
            return WAYS[what](env)

declare("event")
declare("late", timeout=0.3)
declare("queue", queue_timeout=0.2)
declare("stays", before=[add_what_can_not_travel])
declare("stop", on_disconnect="stop")
declare("kill", on_disconnect="kill")

def declare_stream(path, **options):
    @route(f"/{path}/<what>", RouteType.stream, **options)
    def stream(env, what):
        with watching():
            yield "first"
            if what == "endless":
                start_a_program("program")
            while what == "endless":
                yield "more"
                time.sleep(0.005)
            yield WAYS[what](env)

declare_stream("stream")
declare_stream("stream-late", timeout=0.3)
declare_stream("stream-kill", on_disconnect="kill")

"""
PROGRAM = f'{STARTED}{EVENTS}if __name__ == "__main__":{MAIN}'
SETTINGS: Dict[str, Any] = {
    "workers": 1,
    "max_crashes": 0,
    "worker_memory_limit_bytes": 1 << 30,
    "timeout_grace_seconds": 3.0,
}


# Ways to make it happen: each returns what the client got. ----------------------------


def get(server: Server, path: str) -> str:
    return str(server.get(path).status)


def get_stream(server: Server, path: str) -> str:
    data = server.raw(head_of(path))
    assert data.startswith(b"HTTP/1.1 200 ")
    return "whole" if data.endswith(b"0\r\n\r\n") else "cut"


def leave(server: Server, path: str) -> str:
    with asking(server, path) as (one,):
        wait_for_note(server, "program" if path.endswith("/sleep") else "in")
        hang_up(one)
    return ""


def leave_stream(server: Server, path: str) -> str:
    with asking(server, path) as (one,):
        read_until(one, b"more")
        hang_up(one)
    return ""


@contextmanager
def busy(server: Server, others: int = 0) -> Iterator[None]:
    """Have the worker at work, and others wait for it."""
    paths = ["/event/wait", *["/pid"] * others]
    with asking(server, *paths) as connections:
        wait_for_note(server, "in")
        (directory(server) / "in").unlink()
        wait_for(lambda: server.get("/main").json["waiting"] == others, "the others")
        yield
        make(server, "go")
        for one in connections:
            read_until(one, b"\r\n\r\n")


def wait_too_long(server: Server, path: str) -> str:
    with busy(server):
        return get(server, path)


def be_one_too_many(server: Server, path: str) -> str:
    with busy(server, 16):
        return get(server, path)


def leave_the_queue(server: Server, path: str) -> str:
    with busy(server), asking(server, path) as (one,):
        wait_for(lambda: server.get("/main").json["waiting"] == 1, "it waits")
        hang_up(one)
        wait_for(lambda: server.get("/main").json["waiting"] == 0, "it is dropped")
    return ""


def kill_the_idle(server: Server, _: str) -> str:
    os.kill(workers(server)[0], signal.SIGKILL)
    return ""


def ask_without_workers(server: Server, path: str) -> str:
    server.wait_for_log("while it booted")
    return get(server, path)


def die_again_and_again(server: Server, path: str) -> str:
    for _ in range(3):
        assert server.get(path).status == 502
    server.wait_for_log("is off for 30 s")
    (directory(server) / "in").unlink()
    return get(server, path)


def first_bytes(one: socket.socket) -> bytes:
    try:
        return one.recv(65_536)
    except ConnectionResetError:
        return b""


def ask_and(signals: Tuple[int, ...], of_zygote: bool = False) -> Callable[..., str]:
    """Return what sends signals to main, or the zygote, while a request runs."""

    def act(server: Server, path: str) -> str:
        with asking(server, path) as (one,):
            wait_for_note(server, "in")
            for number in signals:
                os.kill(zygote(server) if of_zygote else server.pid, number)
                if not of_zygote and number == signal.SIGTERM:
                    server.wait_for_log("a second signal cuts them off")
            if path == "/event/wait" and signals == (signal.SIGTERM,):
                make(server, "go")
            data = first_bytes(one)
        if not of_zygote:
            server.wait()
        return data[9:12].decode()

    return act


# The rows -----------------------------------------------------------------------------


class Row(NamedTuple):
    """How a row of the page is made to happen, and what of it the page leaves open."""

    path: str
    act: Callable[[Server, str], str] = get
    log: Tuple[str, ...] = ()  # a pattern for each record
    own: Optional[Dict[str, Any]] = None  # settings of a server for it alone
    repeats: bool = False  # its records come again and again


WHILE = "while it ran {path}/<what>"
RAN = "{path}/<what> ran longer than its timeout of 0.3 s"
STOPPED = r"\(pid \d+\) was stopped " + WHILE + "; it was at:$"
FAILED = "GET {path}/{what} failed in {path}/<what> "
HANGS = "did not end when it was told to, and was killed " + WHILE
ROWS = {
    "it returns": Row("/event/return"),
    "it raises": Row("/event/raise", log=(FAILED + r"\(pool\), request \S+$",)),
    "`abort(404)`, or it raises an `HTTPError`": Row("/event/abort"),
    "it returns a value that can't be sent": Row("/event/type", log=(FAILED,)),
    "`sys.exit()`, or it raises an exception that is no `Exception`": Row(
        "/event/exit", log=(FAILED,)
    ),
    "it asks for more than `worker_memory_limit_bytes`": Row(
        "/event/memory", log=(FAILED,)
    ),
    "it forks, and the copy returns as well": Row("/event/fork"),
    "it dies (a signal, `os._exit`, out of memory)": Row(
        "/event/fault", log=(r"\(pid \d+\) was killed by SIGSEGV " + WHILE,)
    ),
    "it closes all descriptors of its process": Row(
        # It has no socket any more, and then it is killed, if it lives so long.
        "/event/close",
        log=(r"\(pid \d+\) (ended with exit code 1|was killed by SIGKILL) " + WHILE,),
    ),
    "its worker is killed while it is idle": Row(
        "", kill_the_idle, (r"\(pid \d+\) was killed by SIGKILL while it was idle",)
    ),
    "its deadline passes": Row("/late/sleep", log=(RAN, STOPPED)),
    "it goes on after that, in C code perhaps": Row("/late/hang", log=(RAN, HANGS)),
    "`env.context` holds a value that is not JSON": Row("/stays/return", log=(FAILED,)),
    "too many wait: `max_waiting`, 1,000": Row(
        "/queue/return", be_one_too_many, own={"workers": 1, "max_waiting": 16}
    ),
    "`queue_timeout` passes before its turn": Row("/queue/return", wait_too_long),
    "the client leaves while its request waits": Row("/event/return", leave_the_queue),
    'the client leaves, `on_disconnect="finish"`': Row("/event/left", leave),
    'the client leaves, `on_disconnect="stop"`': Row("/stop/sleep", leave),
    'the client leaves, `on_disconnect="kill"`': Row("/kill/sleep", leave),
    "a stream raises midway": Row(
        "/stream/raise", get_stream, (FAILED + r"\(stream\), in the middle",)
    ),
    "a stream raises an exception that is no `Exception` midway": Row(
        "/stream/exit", get_stream, (FAILED + r"\(stream\), in the middle",)
    ),
    "a stream dies midway": Row(
        "/stream/die",
        get_stream,
        (r"\(pid \d+\) ended with exit code 7 " + WHILE,),
    ),
    "a stream's deadline passes midway": Row(
        "/stream-late/sleep", get_stream, (RAN, STOPPED)
    ),
    "the client leaves a stream": Row("/stream/endless", leave_stream),
    'the client leaves a stream, `on_disconnect="kill"`': Row(
        "/stream-kill/endless", leave_stream
    ),
    "workers died of its route three times within a minute": Row(
        "/event/die",
        die_again_and_again,
        (*["ended with exit code 7 " + WHILE] * 3, "{path}/<what> is off for 30 s"),
        {"max_crashes": 3},
    ),
    "`on_worker_start` raises": Row(
        "/queue/return",
        ask_without_workers,
        (r"worker \d+ ended$", r"\(pid \d+\) ended with exit code 1 while it booted"),
        {"environment": {"BROKEN": "1"}},
        repeats=True,
    ),
    "the process that starts the workers dies": Row(
        "/event/wait",
        ask_and((signal.SIGKILL,), of_zygote=True),
        ("the zygote .* died",),
        {},
    ),
    "main gets SIGTERM or SIGINT": Row(
        "/event/wait", ask_and((signal.SIGTERM,)), ("waiting for 1 requests",), {}
    ),
    "main gets a second one": Row(
        "/event/hang",
        ask_and((signal.SIGTERM, signal.SIGTERM)),
        ("waiting for 1 requests",),
        {},
    ),
    "`drain_seconds` pass": Row(
        "/event/hang",
        ask_and((signal.SIGTERM,)),
        ("waiting for 1 requests", HANGS),
        {"drain_seconds": 0.1},
    ),
    "main is killed": Row("/event/wait", ask_and((signal.SIGKILL,)), (), {}),
}


# The page -----------------------------------------------------------------------------


def rows_of_the_page() -> Dict[str, List[str]]:
    text = PAGE.read_text("utf-8").partition("## What happens when")[2]
    table = re.findall(r"^\| (.*) \|$", text.partition("\n## ")[0], re.M)
    rows = [row.split(" | ") for row in table[1:]]
    return {event: cells for event, *cells in rows}


ON_THE_PAGE = rows_of_the_page()


def test_the_page_and_this_file_have_the_same_rows() -> None:
    assert list(ON_THE_PAGE) == list(ROWS)
    assert {len(cells) for cells in ON_THE_PAGE.values()} == {4}


def expected_answer(cell: str) -> str:
    status = re.match(r"\d{3}", cell)
    if status:
        return status.group()
    return {"its answer": "200", "a body cut short": "cut"}.get(cell.split(",")[0], "")


def records(server: Server, mark: int) -> List[str]:
    """Return what has been logged, without the lines of the access log."""
    lines = "".join(server.log.splitlines(True)[mark:])
    found = re.split(r"(?m)^(?=[-\d]+ [:,\d]+ [A-Z]+ )", lines)
    return [one for one in found[1:] if not re.search(r'\A.* INFO [\d.]+ "', one)]


def check_log(server: Server, row: Row, cell: str, mark: int) -> None:
    """Compare what was logged with the page, after a request that has ended since."""
    path, _, what = row.path.rpartition("/")
    patterns = [
        re.compile(pattern.format(path=path, what=what), re.M) for pattern in row.log
    ]
    running = server.process.poll() is None
    for pattern in patterns:
        server.wait_for_log(pattern, mark)
    if row.path and running:
        server.wait_for_log(f'"GET {row.path} {server.protocol}" ', mark)
    found = records(server, mark)
    for pattern in patterns:
        assert any(pattern.search(record) for record in found)
    for record in found:
        assert any(pattern.search(record) for pattern in patterns), record
    assert row.repeats or len(found) == len(patterns), found
    has_traceback = any("Traceback (most recent call last):" in one for one in found)
    assert has_traceback == ("the traceback" in cell)
    if "where" in cell:
        assert any("most recent call first" in one for one in found)
    lines = "".join(server.log.splitlines(True)[mark:])
    line = re.search(f'"GET {row.path} {server.protocol}" .* (\\w+)\n', lines)
    outcome = line.group(1) if line else "complete"
    quoted = re.findall(r"`(failed|timeout|left|stopped)`", cell)
    assert quoted == [outcome] * (outcome != "complete")


def check_worker(server: Server, place: Path, cell: str, before: int) -> None:
    """Compare what became of the worker with the page."""
    if "with all it started" in cell:
        pids = [int(pid) for pid in (place / "program").read_text().split()]
        wait_for(lambda: not any(map(process_is_alive, pids)), "all it started ends")
    if cell.startswith("is tried again"):
        make(server, "model")
        wait_for(lambda: server.get("/pid").status == 200, "a worker boots")
        return
    if not cell.startswith(("-", "takes the next request")):
        wait_for(lambda: not process_is_alive(before), "the worker ends")
    if "on_worker_stop" in cell:
        assert int((place / "stopped").read_text()) == before
    if server.process.poll() is None:
        after = int(server.get("/pid").text)
        assert (after == before) == cell.startswith(("-", "takes the next request"))


def make_it_happen(server: Server, event: str) -> None:
    """Do what a row says, and compare all that can be seen with its columns."""
    row = ROWS[event]
    client, handler, log, worker = ON_THE_PAGE[event]
    place = directory(server)
    for name in ("in", "saw", "go", "program"):
        if (place / name).exists():
            (place / name).unlink()
    starts = not worker.startswith("is tried again")
    before = int(server.get("/pid").text) if starts else 0
    mark = server.mark() if starts else 0
    assert row.act(server, row.path) == expected_answer(client)
    if handler.startswith("`"):
        wait_for((place / "saw").exists, handler)
        assert f"`{(place / 'saw').read_text()}`" in handler
    check_worker(server, place, worker, before)
    check_log(server, row, log, mark)
    assert (place / "saw").exists() == handler.startswith("`")
    assert (place / "in").exists() == (handler != "is not called" and row.path != "")


STARTS = ["zygote", "exec"]


@pytest.fixture(scope="module", params=STARTS)
def shared(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve(PROGRAM, pool_start=request.param, **SETTINGS) as server:
        yield server


@pytest.mark.parametrize("event", [name for name in ROWS if ROWS[name].own is None])
def test_what_happens(shared: Server, event: str) -> None:
    make_it_happen(shared, event)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("event", [name for name in ROWS if ROWS[name].own is not None])
def test_what_happens_to_all(start: str, event: str) -> None:
    settings = {**SETTINGS, "pool_start": start, **(ROWS[event].own or {})}
    with serve(PROGRAM, **settings) as server:
        make_it_happen(server, event)
