"""The pool: workers that die, hang and leak, clients that come and go."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
import time
from typing import Callable, Iterator, List

import pytest
from pooling import (
    PROGRAM,
    answer_on,
    ask,
    asking,
    descriptors,
    directory,
    figure,
    half_close,
    hang_up,
    head_of,
    is_idle,
    make,
    reset,
    resident_bytes,
    wait_for_note,
    with_routes,
    workers,
    zombies,
    zygote,
)
from support import (
    LONG,
    LOOPS,
    MATRIX,
    PAIR,
    Server,
    children,
    how_many,
    process_is_alive,
    read_all,
    read_until,
    serve,
    server_fixture,
    wait_for,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# One worker: always the same, or its successor.
server = server_fixture(
    PROGRAM, MATRIX, workers=1, max_crashes=0, worker_idle_seconds=0.5
)


# Handlers that die --------------------------------------------------------------------


def test_a_worker_that_is_killed_fails_only_its_request(server: Server) -> None:
    mark = server.mark()
    with asking(server, "/wait/killed") as (one,):
        pid = int(wait_for_note(server, "in-killed"))
        os.kill(pid, signal.SIGKILL)
        assert answer_on(one).status == 502
    assert ask(server, "/pid")[0] == 200
    line = server.wait_for_log("SIGKILL", mark)
    assert f"(pid {pid}) was killed by SIGKILL while it ran /wait/<name>" in line


@pytest.mark.parametrize(
    "path, says",
    [
        ("/exit/0", "ended with exit code 0 while it ran /exit/<code:int>"),
        ("/exit/7", "ended with exit code 7 while it ran /exit/<code:int>"),
        ("/segfault", "was killed by SIGSEGV while it ran /segfault"),
        ("/signal/6", "was killed by SIGABRT while it ran /signal/<number:int>"),
        ("/signal/40", "was killed by signal 40 while it ran /signal/<number:int>"),
        ("/descriptors", "while it ran /descriptors"),
    ],
)
def test_a_worker_that_dies_is_a_502_and_is_replaced(
    server: Server, path: str, says: str
) -> None:
    mark = server.mark()
    assert server.get(path).status == 502
    assert ask(server, "/pid")[0] == 200
    server.wait_for_log(says, mark)
    if path == "/segfault":
        server.wait_for_log("in segfault", mark)


@pytest.mark.parametrize("path", ["/sys-exit", "/interrupt"])
def test_a_handler_that_ends_its_process_is_a_500_and_the_worker_is_replaced(
    server: Server, path: str
) -> None:
    before = ask(server, "/pid")[1]
    assert server.get(path).status == 500
    status, after = ask(server, "/pid")
    assert (status, after != before) == (200, True)
    wait_for(lambda: not process_is_alive(int(before)), "the old worker ends")


@pytest.mark.parametrize(
    "path", ["/recursion", "/two", "/lambda", "/memory", "/raises"]
)
def test_a_handler_that_fails_is_a_500_and_the_worker_stays(
    server: Server, path: str
) -> None:
    before = ask(server, "/pid")
    assert server.get(path).status == 500
    assert ask(server, "/pid") == before


@pytest.mark.parametrize(
    "path, says",
    [
        ("/print", "printed"),
        ("/fork", "parent"),
        ("/fork-pipes", "2"),  # which are the worker's alone
        ("/orphan", "done"),
    ],
)
def test_odd_handlers_harm_nobody(server: Server, path: str, says: str) -> None:
    before = ask(server, "/pid")
    for _ in range(5):
        status, text = ask(server, path)
        assert (status, text) == (200, says)
        assert ask(server, "/pid") == before


CHANGES = with_routes("""
from pixie_web import app

@app.on_worker_start
def set_up():
    os.chdir("/usr")
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()

@route("/state")
def state(env):
    print("hello", flush=True)
    numbers = (signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    handlers = [str(signal.getsignal(number)) for number in numbers]
    return [os.getpid(), os.getcwd(), time.tzname, os.environ["TZ"], signal.alarm(0),
            sys.stdout.closed, sys.stdout.fileno(), *handlers]

@route("/change/directory")
def change_directory(env):
    os.chdir("/")

@route("/change/zone")
def change_zone(env):
    del os.environ["TZ"]
    time.tzset()

@route("/change/zone/half")
def change_zone_by_half(env):
    os.environ["TZ"] = "UTC"

@route("/change/signals")
def change_signals(env):
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    signal.alarm(100)

@route("/change/output")
def change_output(env):
    sys.stdout.close()

@route("/change/output/away")
def change_output_away(env):
    import io
    sys.stdout = io.StringIO()

@route("/change/stream", RouteType.stream)
def change_in_a_stream(env):
    yield "one"
    os.chdir("/")
    sys.stderr.close()
""")


@pytest.fixture(scope="module", params=PAIR, ids="-".join)
def changes(request: pytest.FixtureRequest) -> Iterator[Server]:
    loop, start = request.param
    with serve(CHANGES, loop=loop, pool_start=start, workers=1) as one:
        yield one


@pytest.mark.parametrize(
    "what",
    "directory zone zone/half signals output output/away stream".split(),
)
def test_what_a_handler_changes_of_its_process_is_put_back(
    changes: Server, what: str
) -> None:
    before = ask(changes, "/state")
    assert before[0] == 200
    assert ask(changes, f"/change/{what}")[0] in (200, 204)
    assert ask(changes, "/state") == before


@pytest.mark.parametrize("size", [10, 10_000_000])
def test_a_worker_that_dies_in_mid_stream_cuts_the_answer_off(
    server: Server, size: int
) -> None:
    with asking(server, f"/die/{size}") as (one,):
        data = b""
        while len(data) < size:
            data += one.recv(65_536)
        make(server, "die")
        data += read_all(one)
    (directory(server) / "die").unlink()
    assert data.count(b"x") == size
    assert not data.endswith(b"0\r\n\r\n")
    assert ask(server, "/pid")[0] == 200


def test_many_deaths_leave_nothing_behind() -> None:
    with serve(PROGRAM, workers=1, max_crashes=0) as server:
        ask(server, "/pid")
        wait_for(lambda: len(workers(server)) == 1, "one worker")
        before = descriptors(server.pid), descriptors(zygote(server))
        for number in range(100):
            assert server.get(f"/exit/{number}").status == 502
        assert ask(server, "/pid")[0] == 200
        wait_for(
            lambda: (descriptors(server.pid), descriptors(zygote(server))) <= before,
            "the descriptors come back",
        )
        wait_for(lambda: len(workers(server)) == 1, "all but one worker are gone")
        assert zombies(children(server.pid)) == []


def test_what_a_handler_leaves_running_is_reaped(server: Server) -> None:
    for _ in range(10):
        ask(server, "/orphan")
    wait_for(lambda: zombies(children(server.pid)) == [], "no zombies")


# Handlers that hang -------------------------------------------------------------------


@pytest.mark.parametrize("way", ["loop", "sleep", "c", "gil", "stubborn"])
def test_a_handler_that_hangs_is_cut_off_with_all_it_has_started(
    server: Server, way: str
) -> None:
    mark, began = server.mark(), time.monotonic()
    assert server.get(f"/hang/{way}").status == 504
    figure("answered after a timeout of 300 ms", time.monotonic() - began)
    pids = [int(pid) for pid in wait_for_note(server, way).split()]
    wait_for(lambda: not any(map(process_is_alive, pids)), "both processes are gone")
    figure("gone with its program after the start", time.monotonic() - began)
    began = time.monotonic()
    status, pid = ask(server, "/pid")
    figure("its slot answers after that", time.monotonic() - began)
    assert (status, int(pid) not in pids) == (200, True)
    server.wait_for_log(f"/hang/{way} ran longer than its timeout of 0.3 s", mark)
    killed = way in ("gil", "stubborn")
    what = (
        "did not end when it was told to, and was killed" if killed else "was stopped"
    )
    line = server.wait_for_log(what, mark)
    assert line.endswith(f"{what} while it ran /hang/{way}; it was at:\n")
    function = {"gil": "hang_with_the_lock", "stubborn": "hang_and_refuse"}.get(way)
    function = function or f"hang_in_{'python' if way == 'loop' else way}"
    server.wait_for_log(f"in {function}", mark)


def test_a_handler_that_runs_out_of_time_may_clean_up(server: Server) -> None:
    assert server.get("/hang/polite").status == 504
    assert wait_for_note(server, "cleaned") == "up"
    assert ask(server, "/pid")[0] == 200


def test_a_stream_that_hangs_is_cut_off(server: Server) -> None:
    with asking(server, "/hang/stream") as (one,):
        data = read_all(one)
    assert data.endswith(b"\r\n\r\n5\r\nfirst\r\n")
    assert ask(server, "/pid")[0] == 200


@pytest.mark.parametrize("loop, start", PAIR)
def test_many_handlers_that_hang_at_once_are_all_cut_off(loop: str, start: str) -> None:
    with serve(PROGRAM, loop=loop, pool_start=start, workers=8) as server:
        for _ in range(5 if LONG else 1):
            with asking(server, *["/hang/stubborn", "/hang/sleep"] * 8) as connections:
                assert [answer_on(one).status for one in connections] == [504] * 16
        wait_for(lambda: is_idle(server), "all slots are free")
        assert ask(server, "/pid")[0] == 200
        wait_for(lambda: zombies(children(server.pid)) == [], "no zombies")


# Queues -------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_a_full_queue_is_a_503_that_says_when_to_try_again(loop: str) -> None:
    with serve(PROGRAM, loop=loop, workers=1, max_waiting=16) as server:
        with asking(server, "/wait/busy", *["/pid"] * 16) as connections:
            wait_for(lambda: server.get("/main").json["waiting"] == 16, "16 wait")
            answer = server.get("/pid")
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1
            make(server, "busy")
            assert [answer_on(one).status for one in connections] == [200] * 17
        assert is_idle(server)


def test_a_request_that_waits_too_long_is_a_503(server: Server) -> None:
    with asking(server, "/wait/longer") as (one,):
        wait_for_note(server, "in-longer")
        answer = server.get("/impatient")
        assert (answer.status, answer.headers["retry-after"] is None) == (503, False)
        make(server, "longer")
        assert answer_on(one).status == 200
    assert ask(server, "/impatient") == (200, "served")


def test_a_route_at_its_limit_leaves_the_others_alone() -> None:
    with serve(PROGRAM, workers=2) as server:
        with asking(server, "/limited/a", *["/limited/b"] * 16) as connections:
            wait_for(lambda: server.get("/main").json["waiting"] == 16, "16 wait")
            # There is a free worker, but not for this route.
            assert ask(server, "/pid")[0] == 200
            assert server.get("/limited/b").status == 503
            assert not (directory(server) / "in-b").exists()
            # And where both workers are busy there is room to wait.
            with asking(server, "/wait/other", "/pid") as (other, pid):
                wait_for(lambda: server.get("/main").json["waiting"] == 17, "17 wait")
                make(server, "other")
                assert [answer_on(other).status, answer_on(pid).status] == [200, 200]
            make(server, "a")
            make(server, "b")
            assert [answer_on(one).status for one in connections] == [200] * 17
        wait_for(lambda: is_idle(server), "all slots are free")


@pytest.mark.parametrize("leave", [reset, hang_up, half_close])
def test_what_waits_is_dropped_when_its_client_leaves(
    server: Server, leave: Callable[[socket.socket], None]
) -> None:
    name = f"dropped-{leave.__name__}"
    with asking(server, f"/wait/{name}", f"/wait/never-{name}") as (first, second):
        wait_for_note(server, f"in-{name}")
        wait_for(lambda: server.get("/main").json["waiting"] == 1, "one waits")
        leave(second)
        wait_for(lambda: server.get("/main").json["waiting"] == 0, "it is dropped")
        make(server, name)
        assert answer_on(first).status == 200
    assert ask(server, "/pid")[0] == 200
    assert not (directory(server) / f"in-never-{name}").exists()


# Clients that leave -------------------------------------------------------------------


@pytest.mark.parametrize("leave", [reset, hang_up])
@pytest.mark.parametrize("way", ["finish", "thread"])
def test_a_handler_that_goes_on_can_see_that_its_client_has_left(
    server: Server, way: str, leave: Callable[[socket.socket], None]
) -> None:
    with asking(server, f"/leave/{way}") as (one,):
        wait_for_note(server, f"in-{way}")
        leave(one)
    pid = int(wait_for_note(server, f"out-{way}"))
    for name in (f"in-{way}", f"out-{way}"):
        (directory(server) / name).unlink()
    assert pid == (server.pid if way == "thread" else int(ask(server, "/pid")[1]))


@pytest.mark.parametrize("leave", [reset, hang_up, half_close])
def test_a_stream_of_a_thread_stops_as_well(
    server: Server, leave: Callable[[socket.socket], None]
) -> None:
    name = f"thread-{leave.__name__}"
    with asking(server, f"/endless-thread/{name}") as (one,):
        assert wait_for_note(server, f"in-{name}") == str(server.pid)
        leave(one)
        wait_for_note(server, f"out-{name}")  # `finally` has run


def test_a_client_that_will_send_no_more_gets_the_answer_of_what_finishes(
    server: Server,
) -> None:
    with asking(server, "/wait/half") as (one,):
        wait_for_note(server, "in-half")
        half_close(one)
        make(server, "half")
        assert answer_on(one).status == 200


@pytest.mark.parametrize("leave", [reset, hang_up, half_close])
@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_handler_that_is_stopped_or_killed_makes_room_for_the_next(
    server: Server, way: str, leave: Callable[[socket.socket], None]
) -> None:
    with asking(server, f"/leave/{way}") as (one,):
        pid = int(wait_for_note(server, f"in-{way}"))
        leave(one)
        wait_for(lambda: not process_is_alive(pid), "the worker ends")
    (directory(server) / f"in-{way}").unlink()
    if way == "stop":
        assert wait_for_note(server, "out-stop") == str(pid)
        (directory(server) / "out-stop").unlink()
    status, after = ask(server, "/pid")
    assert (status, after != str(pid)) == (200, True)


@pytest.mark.parametrize("leave", [reset, hang_up])
@pytest.mark.parametrize("read_first", [True, False])
def test_a_stream_ends_in_order_when_its_client_leaves(
    server: Server, read_first: bool, leave: Callable[[socket.socket], None]
) -> None:
    name = f"left-{leave.__name__}-{read_first}"
    with asking(server, f"/endless/{name}") as (one,):
        if read_first:
            read_until(one, b"xxxx")
        pid = wait_for_note(server, f"in-{name}")
        leave(one)
    assert wait_for_note(server, f"out-{name}") == pid  # `finally` has run
    wait_for(lambda: is_idle(server), "all slots are free")
    # The worker lives on, to serve or to end in good order if there was one too many.
    assert ask(server, "/pid")[0] == 200


def test_the_same_worker_serves_on_after_a_stream_was_left(server: Server) -> None:
    before = ask(server, "/pid")[1]
    with asking(server, "/endless/same") as (one,):
        assert wait_for_note(server, "in-same") == before
        read_until(one, b"xxxx")
        reset(one)
    assert wait_for_note(server, "out-same") == before
    wait_for(lambda: is_idle(server), "its slot is free")
    assert ask(server, "/pid") == (200, before)


def test_a_stream_that_is_killed_makes_room_for_the_next(server: Server) -> None:
    with asking(server, "/endless-kill/dead") as (one,):
        read_until(one, b"xxxx")
        pid = int(wait_for_note(server, "in-dead"))
        reset(one)
    wait_for(lambda: not process_is_alive(pid), "the worker is killed")
    assert ask(server, "/pid")[0] == 200
    assert not (directory(server) / "out-dead").exists()


# Streams and flow ---------------------------------------------------------------------


def progress(server: Server, name: str) -> int:
    return int((directory(server) / f"at-{name}").read_text())


def stands_still(server: Server, name: str) -> int:
    """Wait until a stream's worker makes no progress, and return where it stands."""
    seen: List[int] = []

    def still() -> bool:
        seen.append(progress(server, name))
        time.sleep(0.02)
        return len(seen) > 15 and len(set(seen[-15:])) == 1

    wait_for(still, "the worker is paused")
    return seen[-1]


@pytest.mark.parametrize("loop, start", MATRIX)
def test_a_slow_reader_pauses_the_worker_and_costs_main_little(
    loop: str, start: str
) -> None:
    with serve(PROGRAM, loop=loop, pool_start=start, workers=1) as server:
        worker = ask(server, "/pid")[1]
        before = resident_bytes(server.pid)
        with server.connect(receive_buffer_bytes=4096) as one:
            one.sendall(head_of("/endless/slow"))
            wait_for_note(server, "at-slow")
            paused_at = stands_still(server, "slow")
            assert resident_bytes(server.pid) - before < 8_000_000
            for _ in range(100):
                one.recv(262_144)
            size = 0
            while size < 32 * 65_536:
                size += len(one.recv(262_144))
            wait_for(lambda: progress(server, "slow") > paused_at, "the worker goes on")
            stands_still(server, "slow")
            assert resident_bytes(server.pid) - before < 8_000_000
            most = 0
            for _ in range(50 if LONG else 2):
                one.recv(10_000)
                most = max(most, resident_bytes(server.pid) - before)
                time.sleep(0.1)  # the reader's pace: 100 kB/s
            assert most < 2 << 20
            began = time.monotonic()
            reset(one)
            # It has run its `finally`, and is the one that answers next.
            assert wait_for_note(server, "out-slow") == worker
            wait_for(lambda: is_idle(server), "its slot is free")
            assert ask(server, "/pid") == (200, worker)
            figure("answers after its reader left", time.monotonic() - began)
            figure("a slow reader", most_bytes=most)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("size", [262_145, 300_000, 524_288, 600_000, 5_000_000])
def test_a_worker_is_heard_again_after_a_slow_reader(loop: str, size: int) -> None:
    # The end of an answer may come together with what paused its worker.
    with serve(PROGRAM, loop=loop, workers=1) as server:
        with server.connect(receive_buffer_bytes=4096) as one:
            one.sendall(head_of(f"/large/{size}"))
            assert len(answer_on(one).body) == size
            assert ask(server, "/pid")[0] == 200
        for _ in range(3):
            assert len(server.get(f"/large/{size}").body) == size
            assert ask(server, "/pid")[0] == 200


def test_streams_that_wait_leave_the_slots_of_other_routes_alone() -> None:
    with serve(PROGRAM, workers=1, worker_idle_seconds=0.1) as server:
        names = [f"quiet-{number}" for number in range(12)]
        with asking(server, *(f"/quiet/{name}" for name in names)) as connections:
            # Four for each worker run, eight wait, and nothing more of this kind may.
            wait_for(
                lambda: list(server.get("/main").json.values()) == [0, 4, 8],
                "the streams run or wait",
            )
            assert server.get("/quiet/more").status == 503
            for _ in range(10):
                assert ask(server, "/pid")[0] == 200
            with asking(server, "/wait/between", "/pid", "/pid") as others:
                wait_for(lambda: server.get("/main").json["waiting"] == 10, "two wait")
                make(server, "between")
                assert [answer_on(one).status for one in others] == [200] * 3
            for name in names:
                make(server, name)
            assert [answer_on(one).text for one in connections] == ["first"] * 12
        wait_for(lambda: is_idle(server), "all slots are free")
        wait_for(lambda: len(workers(server)) == 1, "the additional workers end")


# One client's answer never reaches another --------------------------------------------


def shout(
    server: Server,
    number: int,
    problems: List[str],
    count: int,
    path: Callable[[str, random.Random], str],
) -> None:
    """Send requests with a token each, and leave some of them early."""
    choose = random.Random(number)
    for turn in range(count):
        token = f"t{number}-{turn}"
        with server.connect() as one:
            one.sendall(head_of(path(token, choose)))
            if choose.random() < 0.2:
                (reset if choose.random() < 0.5 else hang_up)(one)
                continue
            answer = answer_on(one)
            if answer.status == 200 and answer.text != token:
                problems.append(f"{token} got {answer.text}")
            elif answer.status not in (200, 502, 503, 504):
                problems.append(f"{token} got {answer.status}")


@pytest.mark.parametrize("loop, start", PAIR)
def test_no_client_ever_gets_the_answer_of_another_after_timeouts(
    loop: str, start: str
) -> None:
    settings = {"loop": loop, "pool_start": start, "access_log": False}
    with serve(PROGRAM, workers=8, **settings) as server:
        problems: List[str] = []
        count = how_many(start, 500, 10_000) // 16

        def ask_for(token: str, choose: random.Random) -> str:
            return f"/token/{token}/{choose.randint(1, 50)}"

        threads = [
            threading.Thread(
                target=shout, args=(server, number, problems, count, ask_for)
            )
            for number in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        figure("cross-talk", requests=16 * count, wrong=len(problems))
        assert problems == []
        wait_for(lambda: is_idle(server), "all slots are free")
        assert ask(server, "/pid")[0] == 200
        assert "Traceback" not in server.log


def test_each_request_has_a_context_of_its_own(server: Server) -> None:
    assert ask(server, "/context/a") == (200, "unset a")
    assert ask(server, "/context/b") == (200, "unset b")


def test_a_worker_knows_where_it_is(server: Server) -> None:
    kind, number, pool = ask(server, "/where")[1].split()
    assert (kind, number.isdigit(), pool) == ("ProcessType.pool", True, "None")


# Booting, and the end -----------------------------------------------------------------

BOOTING = """
import os, sys
from pixie_web import app, route, run

@app.on_worker_start
def load():
    if not os.path.exists("model"):
        {failure}

@route("/pid", queue_timeout=0.3)
def pid(env):
    return str(os.getpid())

run()
"""


@pytest.mark.parametrize(
    "failure, says",
    [
        ("raise ValueError('no model')", "ValueError: no model"),
        ("open('model')", "No such file or directory: 'model'"),
        ("os._exit(9)", "ended with exit code 9 while it booted"),
        ("sys.exit('no model')", "SystemExit: no model"),
    ],
)
def test_workers_that_do_not_boot_are_tried_again_ever_less_often(
    failure: str, says: str
) -> None:
    with serve(BOOTING.format(failure=failure), workers=1) as server:
        mark = server.mark()
        server.wait_for_log(says)
        answer = server.get("/pid")
        assert (answer.status, answer.headers["retry-after"] is None) == (503, False)
        assert server.log.count("while it booted") < 8
        make(server, "model")
        wait_for(lambda: server.get("/pid").status == 200, "a worker boots")
        assert server.mark() > mark


def test_a_client_that_leaves_while_no_worker_boots_takes_its_place_along() -> None:
    with serve(BOOTING.format(failure="os._exit(1)"), workers=1) as server:
        for _ in range(100):
            with asking(server, "/pid") as (one,):
                reset(one)
        make(server, "model")
        wait_for(lambda: server.get("/pid").status == 200, "a worker boots")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_workers_leave_signals_for_a_whole_group_to_main(
    server: Server, number: int
) -> None:
    name = f"group-{number}"
    with asking(server, f"/wait/{name}") as (one,):
        pid = wait_for_note(server, f"in-{name}")
        for process in children(server.pid):
            os.kill(process, number)
        make(server, name)
        assert answer_on(one).text == pid
    assert ask(server, "/pid") == (200, pid)


@pytest.mark.parametrize("loop, start", MATRIX)
def test_nothing_is_left_when_main_is_killed(loop: str, start: str) -> None:
    # Not of what sleeps, is at work in C code, streams, or has nothing to do.
    with serve(PROGRAM, loop=loop, pool_start=start, workers=6) as server:
        paths = ["/leave/kill", "/wait/never", "/endless/orphan", "/leave/stop", "/sum"]
        with asking(server, *paths):
            for name in ("in-kill", "in-never", "in-orphan", "in-stop", "in-sum"):
                wait_for_note(server, name)
            below = children(server.pid)
            assert len(below) >= 7
            began = time.monotonic()
            os.kill(server.pid, signal.SIGKILL)
            assert server.wait() == -signal.SIGKILL
            wait_for(lambda: not any(map(process_is_alive, below)), "all are gone")
            figure("gone after main was killed", time.monotonic() - began)
