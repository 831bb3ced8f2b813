"""Which workers there are, when they are replaced, and pools by name."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Dict, List

import pytest
from pooling import (
    PROGRAM,
    answer_on,
    ask,
    asking,
    directory,
    is_idle,
    make,
    resident_bytes,
    wait_for_note,
    workers,
)
from support import (
    MATRIX,
    ONE,
    STARTS,
    Server,
    children,
    how_many,
    process_is_alive,
    serve,
    wait_for,
)

from pixie_web import Pixie, RouteError, RouteType
from pixie_web.executors.base import Route
from pixie_web.executors.pool.recycling import private_bytes
from pixie_web.executors.pool.scheduler import CRASH_REST_SECONDS, Breaker
from pixie_web.executors.pool.supervisor import boot_delay_seconds
from pixie_web.executors.pool.worker import reopen_log_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# A route that workers die of ----------------------------------------------------------


@pytest.mark.parametrize("loop, start", MATRIX)
def test_a_route_that_workers_keep_dying_of_is_switched_off(
    loop: str, start: str
) -> None:
    with serve(PROGRAM, loop=loop, pool_start=start, workers=2) as server:
        for _ in range(3):
            assert server.get("/exit/7").status == 502
        line = server.wait_for_log("is off for")
        assert line.endswith("/exit/<code:int> is off for 30 s: it kills workers\n")
        answer = server.get("/exit/7")
        assert answer.status == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        # All else goes on, other ways to die too.
        assert ask(server, "/pid")[0] == 200
        assert server.get("/segfault").status == 502
        assert server.log.count("ended with exit code 7") == 3


def test_what_waits_for_such_a_route_is_rejected_with_it() -> None:
    with serve(PROGRAM, workers=1, max_crashes=1) as server:
        with asking(server, "/wait/busy", *["/exit/1"] * 5) as (busy, *others):
            wait_for_note(server, "in-busy")
            wait_for(lambda: server.get("/main").json["waiting"] == 5, "five wait")
            make(server, "busy")
            assert answer_on(busy).status == 200
            statuses = sorted(answer_on(one).status for one in others)
        assert statuses == [502, 503, 503, 503, 503]
        assert is_idle(server)


def test_a_deadline_is_no_crash() -> None:
    with serve(PROGRAM, workers=2, max_crashes=1) as server:
        assert [server.get("/hang/sleep").status for _ in range(3)] == [504] * 3
        assert [server.get("/sys-exit").status for _ in range(3)] == [500] * 3


def test_a_route_may_crash_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    route = Route("/", ("GET",), lambda env: None, RouteType.pool)
    breaker = Breaker(3)

    def deaths(*times: float) -> List[bool]:
        found = []
        for at in times:
            now[0] = at
            found.append(breaker.note(route))
        return found

    assert deaths(0, 50, 100, 150) == [False] * 4
    assert deaths(151) == [True]
    assert breaker.seconds_left(route) == CRASH_REST_SECONDS
    now[0] += CRASH_REST_SECONDS - 1
    assert breaker.seconds_left(route) == 1
    now[0] += 1
    assert breaker.seconds_left(route) == 0
    assert deaths(now[0] + 1) == [True]  # it has not got better
    assert not any(Breaker(0).note(route) for _ in range(9))


# Workers are replaced -----------------------------------------------------------------

LEAKING = PROGRAM.replace(
    "def pid(env):",
    """\
def pid(env):
    return str(os.getpid())

KEPT = []

@route("/leak")
def leak(env):
    KEPT.append(bytearray(os.urandom(1 << 20)))
    return str(os.getpid())

@app.on_worker_start
def begin():
    note(f"began-{os.getpid()}")

def unused(env):""",
).replace("from pixie_web import", "from pixie_web import app,")


def replaced(server: Server, path: str, times: int) -> List[str]:
    """Ask until as many workers have answered, each after the one before."""
    seen: List[str] = []
    while len(seen) < times:
        status, pid = ask(server, path)
        assert status == 200
        if pid not in seen[-1:]:
            assert pid not in seen, "a worker answered that had been replaced"
            seen.append(pid)
    return seen


@pytest.mark.parametrize("loop, start", MATRIX)
def test_workers_are_replaced_after_so_many_tasks(loop: str, start: str) -> None:
    settings: Dict[str, Any] = {"loop": loop, "pool_start": start, "workers": 1}
    with serve(PROGRAM, max_tasks_per_worker=2, **settings) as server:
        seen = replaced(server, "/pid", 3)
        wait_for(
            lambda: not any(process_is_alive(int(pid)) for pid in seen[:-1]),
            "those that were replaced end",
        )
        # gh-115634: what waits at that moment is served too.
        for _ in range(how_many(start, 4, 625)):
            with asking(server, *["/sometimes/a"] * 16) as connections:
                assert [answer_on(one).status for one in connections] == [200] * 16
        wait_for(lambda: is_idle(server), "all slots are free")


@pytest.mark.parametrize("loop, start", ONE)
def test_workers_are_replaced_when_they_have_too_much_memory(
    loop: str, start: str
) -> None:
    settings: Dict[str, Any] = {"loop": loop, "pool_start": start, "workers": 1}
    with serve(LEAKING, max_worker_bytes=60_000_000, **settings) as server:
        for _ in range(how_many(start, 2, 20)):
            pid = ask(server, "/pid")[1]
            for _ in range(30):  # with what it began with, less than nine tenths
                assert ask(server, "/leak") == (200, pid)
            for _ in range(40):  # more than its bound
                if ask(server, "/leak")[1] != pid:
                    break
            wait_for(partial(is_gone, pid), "one that has too much is replaced")


def is_gone(pid: str) -> bool:
    return not process_is_alive(int(pid))


SHARING = """
import os
from pixie_web import app, route, run, RouteType

SHARED = b"x" * 100_000_000

@route("/pid")
def pid(env):
    return str(os.getpid())

@route("/memory", RouteType.sync)
def memory(env):
    return [one["memory_bytes"] for one in app.stats()["pools"][0]["workers"]]

if __name__ == "__main__":
    run()
"""


def test_memory_that_workers_share_does_not_count() -> None:
    with serve(SHARING, workers=1, max_worker_bytes=60_000_000) as server:

        def known() -> bool:
            return all(server.get("/memory").json)

        pid = ask(server, "/pid")
        wait_for(known, "it is looked at")
        assert (
            max(server.get("/memory").json) < 50_000_000 < resident_bytes(int(pid[1]))
        )
        assert ask(server, "/pid") == pid


def test_private_memory_is_what_no_file_backs_where_the_kernel_does_not_say_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: str, *args: Any) -> Any:
        if path.endswith("/smaps_rollup"):
            raise PermissionError(path)
        return real_open(path, *args)

    real_open = open
    exactly = private_bytes(os.getpid())
    kept = b"x" * 50_000_000
    assert 45_000_000 < private_bytes(os.getpid()) - exactly < 60_000_000
    monkeypatch.setattr("builtins.open", refuse)
    roughly = private_bytes(os.getpid())
    assert len(kept) < roughly < resident_bytes(os.getpid())
    assert private_bytes(1 << 30) == 0  # no such process


def test_workers_are_replaced_when_they_are_old() -> None:
    with serve(PROGRAM, workers=2, max_worker_age_seconds=0.5) as server:
        ask(server, "/pid")
        first = set(workers(server))
        wait_for(lambda: not first & set(workers(server)), "both are replaced")
        assert ask(server, "/pid")[0] == 200


def test_a_replacement_is_ready_before_the_old_one_ends() -> None:
    with serve(LEAKING, workers=1, max_tasks_per_worker=1) as server:
        pid = ask(server, "/pid")[1]
        wait_for(lambda: not process_is_alive(int(pid)), "it is replaced")
        (after,) = workers(server)
        assert (directory(server) / f"began-{after}").exists()
        assert ask(server, "/pid") == (200, str(after))


def test_a_worker_that_is_busy_is_replaced_after_its_job() -> None:
    with serve(PROGRAM, workers=1, max_worker_age_seconds=0.3) as server, asking(
        server, "/wait/long"
    ) as (one,):
        pid = int(wait_for_note(server, "in-long"))
        wait_for(lambda: len(workers(server)) == 2, "its replacement is there")
        make(server, "long")
        assert answer_on(one).text == str(pid)
        wait_for(lambda: not process_is_alive(pid), "it ends")


def test_workers_that_began_together_do_not_end_together() -> None:
    # Eight of them, each good for about 50 tasks: after that many, few are new.
    with serve(PROGRAM, workers=8, max_tasks_per_worker=50) as server:
        first = set()
        with asking(server, *[f"/wait/{n}" for n in range(8)]) as connections:
            for number in range(8):
                first.add(int(wait_for_note(server, f"in-{number}")))
            for number in range(8):
                make(server, str(number))
            assert all(answer_on(one).status == 200 for one in connections)
        assert len(first) == 8
        while first <= set(workers(server)):
            with asking(server, *["/pid"] * 8) as connections:
                assert all(answer_on(one).status == 200 for one in connections)
        assert first & set(workers(server))


# Growing and shrinking ----------------------------------------------------------------


@pytest.mark.parametrize("least", [0, 1, 2])
def test_a_pool_grows_on_demand_and_shrinks_when_idle(least: int) -> None:
    settings = {"min_workers": least, "worker_idle_seconds": 0.2}
    with serve(PROGRAM, workers=3, **settings) as server:
        wait_for(lambda: len(workers(server)) == least, "the least there is")
        with asking(server, "/wait/1", "/wait/2", "/wait/3", "/pid") as connections:
            for name in "123":
                wait_for_note(server, f"in-{name}")
            assert len(workers(server)) == 3  # the fourth request waits
            for name in "123":
                make(server, name)
            assert all(answer_on(one).status == 200 for one in connections)
        wait_for(lambda: len(workers(server)) == least, "the least again")
        assert ask(server, "/pid")[0] == 200


def test_workers_that_fail_to_boot_together_are_one_failure() -> None:
    program = (
        "import os\nfrom pixie_web import app, route, run\n"
        "@app.on_worker_start\ndef start():\n"
        "    if not os.path.exists('model'): os._exit(1)\n"
        "@route('/pid')\ndef pid(env): return 'pid'\nrun()\n"
    )
    with serve(program, workers=8) as server:
        wait_for(lambda: server.log.count("while it booted") >= 16, "two rounds")
        make(server, "model")
        # The third round comes within a second, not after 2 ** 16 tenths.
        wait_for(lambda: ask(server, "/pid") == (200, "pid"), "they boot", 20)
    assert [boot_delay_seconds(n) for n in (0, 1, 2, 9)] == [0.0, 0.2, 0.4, 10.0]


def test_a_handler_that_asks_for_too_much_memory_gets_an_error() -> None:
    limited = PROGRAM.replace(
        "def out_of_memory(env):", "def out_of_memory(env):\n    return hungry()"
    ).replace('@route("/memory")', HUNGRY + '\n@route("/memory")')
    limit = 300_000_000
    with serve(limited, workers=1, worker_memory_limit_bytes=limit) as server:
        before = ask(server, "/pid")
        assert server.get("/memory").status == 500
        server.wait_for_log("MemoryError")
        assert ask(server, "/pid") == before


def test_threads_that_find_no_room_for_their_stacks_say_which_limit_counts_them() -> (
    None
):
    limited = PROGRAM.replace(
        "def out_of_memory(env):", "def out_of_memory(env):\n    return crowd(env)"
    ).replace('@route("/memory")', CROWD + '\n@route("/memory")')
    limit = 200_000_000
    with serve(limited, workers=1, worker_memory_limit_bytes=limit) as server:
        assert server.get("/memory").status == 500
        server.wait_for_log("can't start new thread; worker_memory_limit_bytes counts")
        assert server.get("/memory?stack=1").text == "60"


CROWD = """
def crowd(env):
    import threading
    threading.stack_size(int(env.query.get("stack", "8")) << 20)
    enough = threading.Event()
    threads = [threading.Thread(target=enough.wait) for _ in range(60)]
    try:
        for one in threads:
            one.start()
    finally:
        enough.set()
    return str(len(threads))
"""

HUNGRY = """
def hungry():
    return str(len(bytearray(os.urandom(1 << 20)) * 1000))
"""


@pytest.mark.parametrize("start", STARTS)
def test_workers_are_below_main(start: str) -> None:
    with serve(PROGRAM, workers=1, nice=7, pool_start=start) as server:
        worker = int(ask(server, "/pid")[1])
        main = os.getpriority(os.PRIO_PROCESS, server.pid)
        assert os.getpriority(os.PRIO_PROCESS, worker) == min(19, main + 7)
        score = Path(f"/proc/{worker}/oom_score_adj").read_text()
        assert int(score) >= 300


# Pools by name ------------------------------------------------------------------------

NAMED = """
import os, time
from pixie_web import app, proc_env, route, run

app.pool("gpu", workers=1, nice=0, max_crashes=0, on_worker_start=lambda: load())
loaded = []

def load():
    loaded.append("model")

@app.on_worker_start
def every():
    loaded.append("all")

@route("/plain")
def plain(env):
    return {"pid": os.getpid(), "parent": os.getppid(), "loaded": loaded}

@route("/gpu", pool="gpu")
def gpu(env):
    return plain(env)

@route("/gpu/die", pool="gpu")
def die(env):
    os._exit(1)

@route("/gpu/stream", "stream", pool="gpu")
def stream(env):
    yield str(loaded)

@route("/gpu/wait/<name>", pool="gpu")
def wait(env, name):
    open(f"in-{name}", "w").close()
    while not os.path.exists(name):
        time.sleep(0.005)
    return name

run()
"""


@pytest.mark.parametrize("loop, start", MATRIX)
def test_a_pool_of_its_own_is_apart(loop: str, start: str) -> None:
    with serve(NAMED, loop=loop, pool_start=start, workers=2) as server:
        plain, gpu = server.get("/plain").json, server.get("/gpu").json
        assert (plain["loaded"], gpu["loaded"]) == (["all"], ["all", "model"])
        assert plain["parent"] != gpu["parent"]
        assert server.get("/gpu/stream").text == "['all', 'model']"
        with asking(server, "/gpu/wait/a", "/gpu/wait/b") as (a, b):
            wait_for_note(server, "in-a")
            assert server.get("/plain").status == 200
            assert not (directory(server) / "in-b").exists()
            make(server, "a")
            make(server, "b")
            assert [answer_on(one).text for one in (a, b)] == ["a", "b"]
        for _ in range(4):
            assert server.get("/gpu/die").status == 502
        os.kill(gpu["parent"], signal.SIGKILL)
        assert server.get("/plain").json["pid"] in children(server.pid)
        wait_for(lambda: server.get("/gpu").status == 200, "it is back")
        assert server.get("/plain").json["parent"] == plain["parent"]


def test_the_examples_of_the_page_run(root: Path) -> None:
    page = (root / "docs" / "pool.md").read_text("utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    program = "\n".join([*examples, "from pixie_web import run", "run()", ""])
    with serve(program) as server:
        assert server.get("/size/four").json == {"size": 4}
        assert server.get("/count").json == {"count": 0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_all_pools_end_with_main(number: int) -> None:
    with serve(NAMED, workers=2) as server:
        server.get("/plain")
        server.get("/gpu")
        below = children(server.pid)
        assert len(below) == 5
        server.process.send_signal(number)
        assert server.wait() in (0, -signal.SIGKILL)
        wait_for(lambda: not any(map(process_is_alive, below)), "all are gone")


def test_a_pool_may_be_in_threads_of_main_alone() -> None:
    with serve(NAMED.replace("workers=1, nice", "workers=0, nice")) as server:
        server.wait_for_log(
            "routes of the pool gpu run in threads of the main process: workers=0"
        )
        assert server.get("/gpu").json["pid"] == server.pid
        assert server.get("/plain").json["pid"] != server.pid


def test_what_a_pool_can_not_be_is_said_where_it_is_written() -> None:
    app = Pixie()
    with pytest.raises(RouteError, match="a pool has no option 'worker'; it takes wo"):
        app.pool("gpu", worker=1)
    with pytest.raises(RouteError, match="a pool has a name of its own, got ''"):
        app.pool("", workers=1)
    app.pool("gpu", workers=1)
    with pytest.raises(RouteError, match="a pool has a name of its own, got 'gpu'"):
        app.pool("gpu", workers=1)
    with pytest.raises(RouteError, match="/x is thread: leave pool= out"):
        app.route("/x", RouteType.thread, pool="gpu")(lambda env: None)
    app.route("/y", pool="cpu")(lambda env: None)
    with pytest.raises(RouteError, match=r"there is no pool 'cpu'; declare it: app\."):
        app.freeze()


# SIGHUP: certificates and log files, and nothing else --------------------------------

CHANGING = """
import logging, os, sys
from pixie_web import route, run

logging.getLogger("own").addHandler(logging.FileHandler("own.log"))

def note():
    logging.getLogger("own").warning("{version} %d", os.getpid())
    return "{version} " + str(os.getpid())

@route("/main", "sync")
def in_main(env):
    return note()

@route("/worker")
def in_a_worker(env):
    return note()

run()
"""


@pytest.mark.parametrize("start", STARTS)
def test_a_hangup_opens_log_files_again_in_all_processes_and_renews_no_code(
    start: str,
) -> None:
    text = CHANGING.format(version="one")
    with serve(text, pool_start=start, workers=1) as server:
        paths = ("/main", "/worker")
        before = [ask(server, path)[1] for path in paths]
        below = children(server.pid)
        old, new = directory(server) / "old.log", directory(server) / "own.log"
        os.rename(new, old)
        changed = CHANGING.format(version="two")
        (directory(server) / "program.py").write_text(changed, encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log(
            "INFO SIGHUP: 1 log files were opened again; new code needs a restart"
        )

        def noted(path: str) -> bool:
            return ask(server, path)[1] in new.read_text().splitlines()

        for path in paths:
            wait_for(partial(noted, path), "a record in the new file")
        assert [ask(server, path)[1] for path in paths] == before
        assert children(server.pid) == below
        os.kill(int(before[1].split()[1]), signal.SIGKILL)
        wait_for(partial(noted, "/worker"), "that of its successor")
        assert ask(server, "/worker")[1] != before[1]


def test_a_log_file_that_can_not_be_opened_again_stays(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "own.log"
    path.parent.mkdir()
    logger = logging.getLogger("of this test")
    handler = logging.FileHandler(str(path), mode="w")
    logger.addHandler(handler)
    try:
        logger.warning("one")
        reopen_log_files()  # nobody has moved it: it must not be emptied
        os.rename(path.parent, tmp_path / "moved")
        reopen_log_files()
        logger.warning("two")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert (tmp_path / "moved" / "own.log").read_text() == "one\ntwo\n"
