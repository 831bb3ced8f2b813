"""Handlers that hold the event loop: counted, named, and refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Iterator

import pytest
from shapes import place_lone_file
from support import LOOPS, Server, read_all, serve, wait_for

import pixie_web
from pixie_web.guard import Clock, Place, look_at

PROGRAM = """\
import sys
import re
import time
from pixie_web import app, run

HOSTILE = re.compile(r"(a|aa)+$")

@app.get("/quick", "sync")
def quick(env):
    return "quick"

@app.get("/sleeps", "sync")
def sleeps(env):
    time.sleep(0.4)  # the line of the sleep
    return "slept"

@app.get("/matches", "sync")
def matches(env):
    HOSTILE.match("a" * 33 + "b")  # the line of the expression
    return "matched"

@app.get("/awaits", "asnc")
async def awaits(env):
    import asyncio
    await asyncio.sleep(0.3)
    return "awaited"

def within():
    time.sleep(0.4)  # the line within

@app.get("/task", "asnc")
async def task(env):
    import asyncio
    await asyncio.sleep(0)
    within()
    return "done"

@app.get("/computes", "sync")
def computes(env):
    until = time.thread_time() + 0.4
    while time.thread_time() < until: pass  # the line of the loop
    return "computed"

@app.get("/thread", "thread")
def in_a_thread(env):
    time.sleep(0.4)
    return "in a thread"

@app.get("/pool")
def in_a_worker(env):
    time.sleep(0.4)
    return "in a worker"

@app.get("/pieces", "sync")
def pieces(env):
    yield "one"
    time.sleep(0.4)  # the line between two pieces
    yield "two"

@app.get("/steps", "asnc")
async def steps(env):
    import asyncio
    try:
        yield "one"
        await asyncio.sleep(0.3)
        yield "two"
        await asyncio.sleep(0)
        within()
        yield "three"
    finally:
        print("steps are closed", file=sys.stderr, flush=True)

@app.get("/rows", "asnc")
async def rows(env):
    import asyncio
    for number in range(3):
        yield str(number)
        await asyncio.sleep(0.15)

@app.get("/stats", "sync")
def stats(env):
    return app.stats()["loop_held"]

run()
"""
LINES = {
    text: number
    for number, line in enumerate(PROGRAM.splitlines(), 1)
    for _, mark, text in [line.partition("  # ")]
    if mark
}
HELD = {
    "/sleeps": ("sync", "the line of the sleep", "sleeps", "it waits: write RouteT"),
    "/matches": ("sync", "the line of the expression", "matches", "it computes: wr"),
    "/task": ("asnc", "the line within", "within", "it waits: await it, or write "),
    "/computes": ("sync", "the line of the loop", "computes", "it computes: write R"),
}
TESTS = """\
import pytest
from program import app
from pixie_web.testing import client_fixture

client = client_fixture(app, loop_guard="strict", workers=1)
PATHS = ["/quick", "/sleeps", "/task", "/awaits", "/thread", "/pool"]

@pytest.mark.parametrize("path", PATHS)
def test_it(client, path):
    assert client.get(path).is_success
"""
PLACES = [str(Path(pixie_web.__file__).parents[1])]
FREE = ["/quick", "/awaits", "/thread", "/pool", "/rows"]


@pytest.mark.parametrize("loop", LOOPS)
def test_in_debug_mode_a_route_is_named_once_with_its_line(loop: str) -> None:
    with serve(PROGRAM, debug=True, workers=1, loop=loop) as server:
        for path, (placement, text, function, advice) in HELD.items():
            assert server.get(path).status == 200
            line = server.wait_for_log(f"{path} ({placement}) held the event loop")
            found = re.search(r"for (\d\.\d\d) s, and nobody else was served", line)
            assert found is not None
            assert 0.1 < float(found.group(1)) < 10
            assert f"program.py:{LINES[text]}, in {function}: " in line
            assert advice in line
        for path in [*HELD, *FREE]:
            assert server.get(path).status == 200
        assert server.log.count("held the event loop") == len(HELD), server.log


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    expects = "ClientDisconnected"
    with serve(PROGRAM, workers=1, loop_guard="strict", expects=expects) as server:
        yield server


@pytest.mark.parametrize("path", HELD)
def test_strict_it_is_answered_500_each_time_and_the_log_says_where(
    strict: Server, path: str
) -> None:
    line = LINES[HELD[path][1]]
    for _ in range(2):
        mark = strict.mark()
        assert strict.get(path).status == 500
        said = strict.wait_for_log("LoopHeld: ", mark)
        assert re.search(rf"{path} held the event loop for \d\.\d\d s", said)
        # A machine that is busy may wake the guard only after the expression.
        assert f"program.py:{line}, in " in said or path == "/matches"


@pytest.mark.parametrize("path", FREE)
def test_strict_what_holds_no_loop_is_answered(strict: Server, path: str) -> None:
    assert strict.get(path).status == 200


@pytest.mark.parametrize(
    "path, begins, text",
    [
        ("/pieces", b"one", "the line between two pieces"),
        ("/steps", b"onetwo", "the line within"),
    ],
)
def test_strict_a_stream_is_cut_off_where_it_holds_the_loop(
    strict: Server, path: str, begins: bytes, text: str
) -> None:
    mark = strict.mark()
    with strict.connect() as one:
        one.sendall(f"GET {path} HTTP/1.0\r\nHost: a\r\n\r\n".encode())
        body = read_all(one).partition(b"\r\n\r\n")[2]
    assert body == begins
    said = strict.wait_for_log("LoopHeld: ", mark)
    assert f"{path} held the event loop for 0." in said
    assert f"program.py:{LINES[text]}, in " in said
    if path == "/steps":
        strict.wait_for_log("steps are closed", mark)


def test_strict_a_test_of_a_program_fails_and_shows_the_line(tmp_path: Path) -> None:
    program = PROGRAM.replace("\nrun()\n", "\n")
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    (tmp_path / "test_program.py").write_text(TESTS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(["."] + PLACES)),
    )
    found = re.findall(r"^FAILED test_program.py::test_it\[/(\w+)\]", done.stdout, re.M)
    assert found == ["sleeps", "task"], done.stdout
    assert "2 failed, 4 passed" in done.stdout
    for text in "the line of the sleep", "the line within":
        assert f"program.py:{LINES[text]}, in " in done.stdout


def test_without_a_guard_a_late_sweep_is_counted_and_nothing_said() -> None:
    with serve(PROGRAM, workers=1) as server:
        assert server.get("/stats").json["times"] == 0

        def is_counted() -> Any:
            server.get("/sleeps")  # of half a second between two sweeps
            return server.get("/stats").json

        held = wait_for(lambda: is_counted()["times"] and is_counted(), "a late sweep")
        assert held["times"] >= 1
        assert 0.1 < held["longest_seconds"] <= held["seconds"]
        assert "held the event loop" not in server.log


def test_in_debug_mode_it_may_be_off() -> None:
    with serve(PROGRAM, workers=1, debug=True, loop_guard="off") as server:
        server.get("/sleeps")
        server.get("/quick")
        assert "held the event loop" not in server.log


def test_the_lone_file_has_no_guard_and_says_so(tmp_path: Path) -> None:
    place_lone_file(tmp_path)
    environment = {"PYTHONPATH": str(tmp_path)}
    with serve(PROGRAM, tmp_path, debug=True, environment=environment) as server:
        assert server.get("/quick").text == "quick"
    said = 'loop_guard="log" is in the package'
    options = {"loop_guard": "log", "environment": environment}
    with pytest.raises(RuntimeError, match=said), serve(PROGRAM, tmp_path, **options):
        pass


def test_a_look_finds_the_programs_own_line() -> None:
    ready, done = threading.Event(), threading.Event()

    def waits() -> None:
        ready.set()
        done.wait()

    one = threading.Thread(target=waits)
    one.start()
    ready.wait()
    seen = look_at(sys._current_frames()[one.ident or 0])
    clock = Clock(one)
    assert clock.cpu_seconds() >= 0.0
    assert clock.delay_seconds() >= 0.0
    done.set()
    one.join()
    first = waits.__code__.co_firstlineno
    assert seen.place in [Place(__file__, first + n, "waits") for n in (1, 2)]
    assert (seen.route, seen.request) == (None, None)
    assert look_at(None) == (None, None, None)
