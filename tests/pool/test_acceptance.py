"""What a pool has to withstand: twelve trials, clause by clause, and the tests of each.

Each test that is named here runs on both event loops and with all three ways to start
(`support.MATRIX`): some of the pairs, or all six and for longer with PIXIE_LONG=1. How
fast things are is asserted nowhere; PIXIE_FIGURES=file writes down what was measured.
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Set, Tuple

import pytest
from pooling import (
    answer_on,
    ask,
    asking,
    directory,
    figure,
    head_of,
    is_idle,
    make,
    reset,
    wait_for_note,
    with_routes,
    workers,
    zombies,
)
from support import (
    LONG,
    ONE,
    PAIR,
    Server,
    children,
    how_many,
    process_is_alive,
    read_all,
    serve,
    wait_for,
)

from pixie_web import Request, RouteType
from pixie_web.executors.base import Route
from pixie_web.executors.pool.frames import encode_run
from pixie_web.protocol.http11 import parse_head

TABLE = """
 1 a storm of kills: all other answers right, one 502 for a kill at most, no zombie
     test_acceptance.test_a_storm_of_kills_costs_what_runs_and_no_more
 1 the slot is back (figure)
     test_acceptance.test_a_slot_is_back_when_its_worker_was_killed
 1 nothing else is left of those that died
     test_pool.test_a_worker_that_is_killed_fails_only_its_request
 2 hung in Python, in sleep, in C, in what refuses: 504, where it was, all of it gone
     test_pool.test_a_handler_that_hangs_is_cut_off_with_all_it_has_started
 2 many at once
     test_pool.test_many_handlers_that_hang_at_once_are_all_cut_off
 3 no answer reaches another client: deadlines, answers at the deadline, disconnects
     test_pool.test_no_client_ever_gets_the_answer_of_another_after_timeouts
 4 main is killed: what idles, sleeps, is in C or streams goes too, and the zygote
     test_pool.test_nothing_is_left_when_main_is_killed
 4 the zygote is killed: main serves on
     test_pool_start.test_the_death_of_the_zygote_costs_what_runs_and_no_more
 5 SIGTERM to all processes: what runs and what waits is answered, exit status 0
     test_pool_stress.test_a_supervisor_that_signals_all_processes_costs_no_request
 5 the same under load
     test_acceptance.test_a_stop_under_load_leaves_no_handler_without_its_client
 5 Ctrl-C in a terminal: no traceback
     test_pool_stress.test_a_key_press_ends_it_without_a_traceback
 5 a second signal
     test_pool_stress.test_a_second_signal_ends_it_at_once
 6 a slow reader: main's memory, a worker that waits, `finally`, the same worker after
     test_pool.test_a_slow_reader_pauses_the_worker_and_costs_main_little
 7 ten times too much: 503 with Retry-After, all else is answered
     test_pool_stress.test_ten_times_too_much_is_rejected_and_all_else_is_answered
 7 who leaves the queue is never started
     test_acceptance.test_of_those_that_wait_only_those_who_stay_are_started
 7 a rejection, and a route at its limit, cost the others no time (figures)
     test_acceptance.test_a_full_route_and_a_full_queue_leave_the_others_alone
 7 the same under load (figures)
     bench/pool.overloaded_p99
 8 hostile handlers: 500 or 502 each, the pool intact
     test_acceptance.test_hostile_handlers_harm_themselves_alone
     test_pool.test_a_worker_that_dies_is_a_502_and_is_replaced
     test_pool.test_a_handler_that_fails_is_a_500_and_the_worker_stays
     test_pool.test_odd_handlers_harm_nobody
 8 what nobody would do by mistake
     test_pool_attacks.test_garbage_costs_a_worker_its_place_and_its_request_alone
     test_pool_attacks.test_no_worker_can_be_kept_alive_by_what_it_does_with_signals
     test_pool_attacks.test_answers_and_streams_are_right_whatever_is_replaced_or_dies
 9 a worker for two tasks each: all that waits is answered
     test_pool_life.test_workers_are_replaced_after_so_many_tasks
 9 a leak: no failure, and who has more memory than the bound is replaced
     test_pool_life.test_workers_are_replaced_when_they_have_too_much_memory
 9 one is replaced at a time, and the new one is ready first
     test_acceptance.test_one_worker_is_replaced_at_a_time
10 a soak: descriptors, threads, children, memory, files, shared memory
     test_pool_stress.test_nothing_is_left_of_a_mix_of_everything
10 each worker draws its own random numbers
     test_acceptance.test_workers_draw_numbers_of_their_own
10 what is printed arrives once
     test_acceptance.test_what_is_printed_arrives_once
11 speed beside its rivals (figures)
     bench/pool.round_trip
     bench/pool.throughput
11 what a request costs on the wire
     test_acceptance.test_little_more_than_the_request_travels
12 without shared state and other machines: equal requests both run, none runs again
     test_acceptance.test_each_request_runs_once
"""
ROWS = [line.strip() for line in TABLE.splitlines() if line.startswith("     ")]
ROOT = Path(__file__).resolve().parents[2]
ANYWHERE = {"test_little_more_than_the_request_travels"}  # no server runs in it

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# The table ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_the_table_names_what_there_is(name: str) -> None:
    module, _, function = name.rpartition(".")
    (path,) = ROOT.glob(f"{module}.py" if "/" in module else f"tests/*/{module}.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (found,) = (
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == function
    )
    if "/" in module or function in ANYWHERE:
        return
    # Not on one loop, or with one way to start, alone: it takes both, or the server
    # that has them.
    names = {argument.arg for argument in found.args.args}
    assert {"loop", "start"} <= names or "server" in names
    decorators = " ".join(ast.dump(one) for one in found.decorator_list)
    fixtures = [
        ast.dump(node)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and ast.dump(node.targets[0]).startswith("Name(id='server'")
    ]
    where = decorators if "loop" in names else "".join(fixtures)
    assert re.search("id='(MATRIX|PAIR|ONE)'", where)


def test_all_twelve_are_there() -> None:
    numbers = [int(line[:2]) for line in TABLE.splitlines() if line[:2].strip()]
    assert sorted(set(numbers)) == list(range(1, 13))
    assert numbers == sorted(numbers)


# Helpers ------------------------------------------------------------------------------

STARTED = with_routes(r"""
def count(name, token):
    # One write, at the end: it arrives whole, whoever else writes.
    file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{token}\n".encode())
    os.close(file)

@route("/started/<token>")
def started(env, token):
    count("started", token)
    time.sleep(random.random() * 0.02)
    return token

@route("/dies/<token>")
def dies(env, token):
    count("started", token)
    os._exit(1)

@route("/five-gigabytes")
def five_gigabytes(env):
    return str(len(bytearray(5 << 30)))

@route("/prints-much")
def prints_much(env):
    for _ in range(1000):
        print("x" * 100_000)
    return "printed"
""")


def noted(server: Server, name: str) -> List[str]:
    path = directory(server) / name
    return path.read_text().split() if path.exists() else []


def together(count: int, work: Callable[[int], None]) -> List[threading.Thread]:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    return threads


# 1. A storm of kills ------------------------------------------------------------------


@linux
@pytest.mark.parametrize("loop, start", PAIR)
def test_a_storm_of_kills_costs_what_runs_and_no_more(loop: str, start: str) -> None:
    settings = {"loop": loop, "pool_start": start, "access_log": False}
    with serve(STARTED, workers=4, max_crashes=0, **settings) as server:
        statuses: Dict[int, int] = {}
        mismatched: List[str] = []
        until = time.monotonic() + (30 if LONG else 1)

        def echo(number: int) -> None:
            turn = 0
            while time.monotonic() < until:
                turn += 1
                token = f"t{number}-{turn}"
                status, text = ask(server, f"/sometimes/{token}")
                statuses[status] = statuses.get(status, 0) + 1
                if status == 200 and text != token:
                    mismatched.append(f"{token} got {text}")

        threads = together(16, echo)
        choose = random.Random(0)
        kills = 0
        while any(thread.is_alive() for thread in threads):
            victims = workers(server)
            if start == "spawn":
                # It boots for longer than the pause from one kill to the next: who is
                # killed then has failed to boot, which is tried ever less often.
                victims = server.get("/booted").json
            for pid in choose.sample(victims, 1) if victims else []:
                try:
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
                except ProcessLookupError:
                    pass
            time.sleep(0.05)  # the pace of the killing
        figure("requests", kills=kills, mismatched=len(mismatched), statuses=statuses)
        assert mismatched == []
        assert set(statuses) <= {200, 502}
        assert statuses.get(502, 0) <= kills
        wait_for(lambda: is_idle(server), "all slots are free")
        assert [ask(server, "/pid")[0] for _ in range(20)] == [200] * 20
        wait_for(lambda: zombies(children(server.pid)) == [], "no zombies")
        wait_for(lambda: len(workers(server)) == 4, "four workers")
        assert "Traceback" not in server.log


@linux
@pytest.mark.parametrize("loop, start", ONE)
def test_a_slot_is_back_when_its_worker_was_killed(loop: str, start: str) -> None:
    seconds = []
    with serve(
        STARTED, workers=1, max_crashes=0, loop=loop, pool_start=start
    ) as server:
        for turn in range(how_many(start, 3, 400)):
            with asking(server, f"/wait/{turn}", "/pid") as (one, next_one):
                pid = wait_for_note(server, f"in-{turn}")
                wait_for(lambda: server.get("/main").json["waiting"] == 1, "it waits")
                began = time.monotonic()
                os.kill(int(pid), signal.SIGKILL)
                answer = answer_on(next_one)
                seconds.append(time.monotonic() - began)
                assert (answer.status, answer.text != pid) == (200, True)
                assert answer_on(one).status == 502
    figure("the next request is answered after a kill", *seconds)


# 5. An orderly stop -------------------------------------------------------------------


@linux
@pytest.mark.parametrize("loop, start", ONE)
def test_a_stop_under_load_leaves_no_handler_without_its_client(
    loop: str, start: str
) -> None:
    settings = {"loop": loop, "pool_start": start, "access_log": False}
    with serve(STARTED, workers=4, **settings) as server:
        answered: Set[str] = set()
        wrong: List[str] = []
        not_taken: List[str] = []

        def load(number: int) -> None:
            for turn in range(100_000):
                token = f"t{number}-{turn}"
                try:
                    with server.connect() as one:
                        one.sendall(
                            head_of(f"/started/{token}")[:-2]
                            + b"Connection: close\r\n\r\n"
                        )
                        data = read_all(one)
                except OSError:
                    return  # nobody listens any more
                if not data:
                    not_taken.append(token)
                elif data.startswith(b"HTTP/1.1 200 ") and data.endswith(
                    b"\r\n\r\n" + token.encode()
                ):
                    answered.add(token)
                else:
                    wrong.append(data.decode())

        threads = together(16, load)
        wait_for(lambda: len(answered) > 100, "a hundred answers")
        where = directory(server) / "started"
        below = children(server.pid)
        with where.open() as file:  # its directory goes with main
            for pid in (*below, server.pid):  # systemd's KillMode=control-group
                os.kill(pid, signal.SIGTERM)
            assert server.wait() == 0
            for thread in threads:
                thread.join()
            begun = set(file.read().split())
        figure("stop", answered=len(answered), not_taken=len(not_taken))
        assert wrong == []
        assert begun == answered
        wait_for(lambda: not any(map(process_is_alive, below)), "all are gone")
        assert "Traceback" not in server.log


# 7. Too much --------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("loop, start", ONE)
def test_of_those_that_wait_only_those_who_stay_are_started(
    loop: str, start: str
) -> None:
    with serve(STARTED, loop=loop, pool_start=start, workers=1) as server:
        paths = [f"/started/{number}" for number in range(12)]
        with asking(server, "/wait/busy", *paths) as (busy, *others):
            wait_for_note(server, "in-busy")
            wait_for(lambda: server.get("/main").json["waiting"] == 12, "twelve wait")
            for one in others[::2]:
                reset(one)
            wait_for(lambda: server.get("/main").json["waiting"] == 6, "six wait")
            make(server, "busy")
            assert answer_on(busy).status == 200
            assert [answer_on(one).status for one in others[1::2]] == [200] * 6
        wait_for(lambda: is_idle(server), "the slot is free")
        assert sorted(map(int, noted(server, "started"))) == [1, 3, 5, 7, 9, 11]


@linux
@pytest.mark.parametrize("loop, start", ONE)
def test_a_full_route_and_a_full_queue_leave_the_others_alone(
    loop: str, start: str
) -> None:
    count = 500 if LONG else 10

    def durations(path: str, status: int) -> List[float]:
        found = []
        for _ in range(count):
            began = time.monotonic()
            assert server.get(path).status == status
            found.append(time.monotonic() - began)
        return found

    options = {"loop": loop, "pool_start": start, "workers": 2, "max_waiting": 32}
    with serve(STARTED, **options) as server:
        durations("/pid", 200)
        figure("a pool route, nothing else", *durations("/pid", 200))
        figure("a sync route, nothing else", *durations("/main", 200))
        with asking(server, "/limited/a", *["/limited/b"] * 16) as connections:
            wait_for(lambda: server.get("/main").json["waiting"] == 16, "16 wait")
            figure("a pool route beside a full one", *durations("/pid", 200))
            figure("a 503 of a full route", *durations("/limited/b", 503))
            make(server, "a")
            make(server, "b")
            assert [answer_on(one).status for one in connections] == [200] * 17
        paths = ["/wait/x", "/wait/y", *["/pid"] * 32]
        with asking(server, *paths) as connections:
            wait_for(lambda: server.get("/main").json["waiting"] == 32, "32 wait")
            figure("a 503 of a full queue", *durations("/pid", 503))
            figure("a sync route beside a full queue", *durations("/main", 200))
            make(server, "x")
            make(server, "y")
            assert [answer_on(one).status for one in connections] == [200] * 34


# 8. Hostile handlers ------------------------------------------------------------------


@linux
@pytest.mark.parametrize("loop, start", PAIR)
def test_hostile_handlers_harm_themselves_alone(loop: str, start: str) -> None:
    expected: List[Tuple[str, int]] = [
        ("/lambda", 500),
        ("/two", 500),
        ("/sys-exit", 500),
        ("/exit/3", 502),
        ("/segfault", 502),
        ("/prints-much", 200),
        ("/descriptors", 502),
        ("/fork", 200),
        ("/recursion", 500),
        ("/five-gigabytes", 500),
    ]
    settings = {"loop": loop, "pool_start": start, "max_crashes": 0}
    with serve(
        STARTED, workers=2, worker_memory_limit_bytes=300_000_000, **settings
    ) as server:
        for _ in range(5 if LONG else 1):
            with asking(server, *[path for path, _ in expected]) as connections:
                got = [answer_on(one).status for one in connections]
            assert got == [status for _, status in expected]
            assert [ask(server, "/pid")[0] for _ in range(10)] == [200] * 10
        wait_for(lambda: is_idle(server), "all slots are free")
        wait_for(lambda: len(workers(server)) == 2, "two workers")
        wait_for(lambda: zombies(children(server.pid)) == [], "no zombies")


# 9. Replacing workers -----------------------------------------------------------------

BOOTS = STARTED.replace(
    'if __name__ == "__main__"',
    """
@app.on_worker_start
def begin():
    count("boots", f"begin-{os.getpid()}")
    time.sleep(0.01)  # there is time for another one to begin
    count("boots", f"ready-{os.getpid()}")

@app.on_worker_stop
def end():
    count("boots", f"end-{os.getpid()}")

if __name__ == "__main__\"""",
).replace("from pixie_web import", "from pixie_web import app,")


@linux
@pytest.mark.parametrize("loop, start", PAIR)
def test_one_worker_is_replaced_at_a_time(loop: str, start: str) -> None:
    settings = {"loop": loop, "pool_start": start, "max_tasks_per_worker": 4}
    with serve(BOOTS, workers=3, **settings) as server:
        wait_for(lambda: len(noted(server, "boots")) == 6, "three have booted")
        for turn in range(100 if LONG else 12):
            paths = [f"/started/{turn}-{number}" for number in range(8)]
            with asking(server, *paths) as connections:
                assert [answer_on(one).status for one in connections] == [200] * 8
        wait_for(lambda: len(noted(server, "boots")) > 24, "some were replaced")
        boots = noted(server, "boots")
    booting: Set[str] = set()
    serving: Set[str] = set()
    for at, line in enumerate(boots):
        what, _, pid = line.partition("-")
        booting ^= {pid} if what != "end" else set()
        serving ^= {pid} if what != "begin" else set()
        if at >= 6:
            assert len(booting) <= 1, boots[: at + 1]
            # Those that are at their last job are among them.
            assert 3 <= len(serving) <= 6, boots[: at + 1]


# 10. What a soak would not show -------------------------------------------------------

DRAWING = STARTED.replace(
    'if __name__ == "__main__"',
    """
import types, uuid

try:
    import numpy
except ImportError:
    # What is like it in this: not seeded anew in a fork, as `random` is.
    numpy = types.SimpleNamespace(random=random.Random())
    sys.modules["numpy"] = numpy

@route("/draw/<name>")
def draw(env, name):
    drawn = [random.random(), uuid.uuid4().hex, numpy.random.random()]
    note(f"in-{name}")
    wait(name)
    return drawn

if __name__ == "__main__\"""",
)


@linux
@pytest.mark.parametrize("loop, start", ONE)
def test_workers_draw_numbers_of_their_own(loop: str, start: str) -> None:
    with serve(DRAWING, loop=loop, pool_start=start, workers=4) as server:
        names = [f"draw{number}" for number in range(4)]
        with asking(server, *(f"/draw/{name}" for name in names)) as connections:
            for name in names:
                wait_for_note(server, f"in-{name}")
            for name in names:
                make(server, name)
            drawn = [json.loads(answer_on(one).body) for one in connections]
        for column in zip(*drawn):
            assert len(set(column)) == 4


# Its output is a file, so that nothing is written before it is flushed.
PRINTING = (
    "import os\n"
    "os.dup2(os.open('output', os.O_WRONLY | os.O_APPEND | os.O_CREAT), 1)\n"
    "print('imported')\n"
    + with_routes(
        """
@route("/print/<token>")
def print_token(env, token):
    print(token)
    return "printed"

@app.on_worker_start
def begin():
    note(f"booted-{os.getpid()}")

@app.on_worker_stop
def say():
    print("stopped")
"""
    ).replace("from pixie_web import", "from pixie_web import app,")
)


@linux
@pytest.mark.parametrize("loop, start", PAIR)
def test_what_is_printed_arrives_once(loop: str, start: str) -> None:
    tokens = [f"t{number}" for number in range(20)]
    settings = {"loop": loop, "pool_start": start, "workers": 2}
    with serve(PRINTING, environment={"PYTHONUNBUFFERED": ""}, **settings) as server:
        with asking(server, *(f"/print/{token}" for token in tokens)) as connections:
            assert all(answer_on(one).text == "printed" for one in connections)
        booted = partial(directory(server).glob, "booted-*[0-9]")
        wait_for(lambda: len(list(booted())) == 2, "two have booted")
        with (directory(server) / "output").open() as file:
            assert server.stop() == 0
            printed = file.read().split()
    imports = {"zygote": 1, "exec": 2, "spawn": 3}[start]  # main, and who imports too
    expected = [*tokens, *["imported"] * imports, *["stopped"] * 2]
    assert sorted(printed) == sorted(expected)


# 11. What travels ---------------------------------------------------------------------


def test_little_more_than_the_request_travels() -> None:
    head = (
        b"POST /a/one/2 HTTP/1.1\r\nHost: localhost:8000\r\nContent-Length: 5\r\n\r\n"
    )
    request = Request(parse_head(head), ("127.0.0.1", 54321), "http")
    request._body = b"12345"
    route = Route("/a/<b>/<c:int>", ("POST",), lambda env: None, RouteType.pool)
    route.index = 0
    sent = b"".join(encode_run(route, 1, request))
    assert request.host == "localhost:8000"
    assert head in sent
    assert len(sent) <= len(head) + len(b"12345") + 64


# 12. Once -----------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("loop, start", ONE)
def test_each_request_runs_once(loop: str, start: str) -> None:
    with serve(STARTED, loop=loop, pool_start=start, workers=2) as server:
        with asking(server, *["/started/equal"] * 2) as connections:
            assert [answer_on(one).text for one in connections] == ["equal"] * 2
        assert server.get("/dies/once").status == 502
        assert ask(server, "/pid")[0] == 200
        assert sorted(noted(server, "started")) == ["equal", "equal", "once"]
