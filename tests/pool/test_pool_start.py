"""The three ways to start the pool, and the death of what starts it."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Dict, List, Set

import pytest
from pooling import (
    PROGRAM,
    answer_on,
    ask,
    asking,
    figure,
    make,
    resident_bytes,
    wait_for_note,
    zygote,
)
from shapes import place_lone_file
from support import (
    LONG,
    MATRIX,
    STARTS,
    Server,
    children,
    process_is_alive,
    read_until,
    serve,
    wait_for,
)

from pixie_web.executors.pool.supervisor import difference
from pixie_web.executors.pool.zygote import SIGNAL, ZygoteLink

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ENVIRONMENT = {"PIXIE_HOST": "127.0.0.1", "PIXIE_PORT": "0", "PIXIE_WORKERS": "1"}


# The zygote dies ----------------------------------------------------------------------


@pytest.mark.parametrize("loop, start", MATRIX)
def test_the_death_of_the_zygote_costs_what_runs_and_no_more(
    loop: str, start: str
) -> None:
    with serve(PROGRAM, loop=loop, pool_start=start, workers=1) as server:
        with asking(server, "/wait/one", "/endless/two", "/pid") as (one, two, third):
            for name in ("in-one", "in-two"):
                wait_for_note(server, name)
            read_until(two, b"\r\n\r\n")  # or it would be a 502, as the other is
            wait_for(lambda: server.get("/main").json["waiting"] == 1, "one waits")
            below = children(server.pid)
            began = time.monotonic()
            os.kill(below[0], signal.SIGKILL)
            assert answer_on(one).status == 502
            two.settimeout(30)
            while two.recv(1 << 20):  # cut off
                pass
            assert answer_on(third).status == 200
            figure("served after the zygote was killed", time.monotonic() - began)
        assert server.get("/main").status == 200
        assert ask(server, "/pid")[0] == 200
        wait_for(lambda: not any(map(process_is_alive, below)), "all of them end")
        server.wait_for_log(f"the zygote (pid {below[0]}), which starts workers")
        assert [ask(server, "/pid")[0] for _ in range(10)] == [200] * 10


def newcomers(server: Server, known: Set[int]) -> Set[int]:
    return set(children(server.pid)) - known


def test_the_zygote_may_die_again_and_again() -> None:
    with serve(PROGRAM, workers=1) as server:
        for _ in range(3):
            assert ask(server, "/pid")[0] == 200
            before = set(children(server.pid))
            os.kill(zygote(server), signal.SIGKILL)
            wait_for(partial(newcomers, server, before), "another one")
        assert ask(server, "/pid")[0] == 200


def test_what_waits_for_a_worker_goes_on_waiting_when_the_zygote_dies() -> None:
    with serve(PROGRAM, workers=1) as server, asking(
        server, "/wait/busy", *["/pid"] * 5
    ) as (busy, *others):
        wait_for_note(server, "in-busy")
        wait_for(lambda: server.get("/main").json["waiting"] == 5, "five wait")
        os.kill(zygote(server), signal.SIGKILL)
        assert answer_on(busy).status == 502
        assert [answer_on(one).status for one in others] == [200] * 5


def test_main_does_not_wait_for_reports_that_have_not_come() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = ZygoteLink(ours, os.getpid())  # which an order continues, no more
        ZygoteLink.all.remove(link)
        link.order(SIGNAL, 1, signal.SIGTERM)
        assert link.reports() == []


HIDDEN = """
import os
from pixie_web import Pixie

def main():
    app = Pixie()
    app.route("/pid")(lambda env: str(os.getpid()))
    app.route("/main", "sync")(lambda env: "main")
    app.run()

main()
"""


def test_what_needs_no_pool_is_served_when_nothing_can_start_workers() -> None:
    with serve(HIDDEN) as server:
        assert ask(server, "/pid")[0] == 200
        os.kill(zygote(server), signal.SIGKILL)
        server.wait_for_log("no worker can be started, restart the server: a new ")
        assert server.get("/main").status == 200
        assert server.get("/pid").status == 503


@pytest.mark.parametrize("start", ["exec", "spawn"])
def test_a_program_that_can_not_be_found_again_is_refused(start: str) -> None:
    with pytest.raises(RuntimeError, match="make it a global of a module"), serve(
        HIDDEN, pool_start=start
    ):
        pass


# What a new interpreter imports -------------------------------------------------------

APP = """\
import os, sys
from pixie_web import {what}
{more}
@app.route("/name")
def name(env):
    return " ".join([__name__, str(proc_env.worker), *sys.argv[1:]])

@app.route("/handlers")
def handlers(env):
    return str(sys.modules[name.__module__].name is name)
"""
GUARDED = 'if __name__ == "__main__":\n    app.run()\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a directory with programs of several kinds."""
    own = APP.format(what="Pixie, proc_env", more="app = Pixie()")
    default = APP.format(what="app, proc_env", more="")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "__main__.py").write_text("from .web import app\napp.run()\n")
    (package / "web.py").write_text(own + GUARDED, encoding="utf-8")
    (tmp_path / "own.py").write_text(own + GUARDED, encoding="utf-8")
    (tmp_path / "default.py").write_text(default + GUARDED, encoding="utf-8")
    (tmp_path / "bare.py").write_text(own + "app.run()\n", encoding="utf-8")
    (tmp_path / "hooks.py").write_text(
        "import default\nfrom pixie_web import app\napp.on_worker_start(print)\n"
    )
    return tmp_path


COMMANDS = [
    (["own.py", "a", "b"], "__mp_main__ 1 a b"),
    (["default.py"], "__mp_main__ 1"),
    (["bare.py"], "__mp_main__ 1"),
    (["-m", "own"], "__mp_main__ 1"),
    (["-m", "package"], "package.web 1"),
    (["-m", "package.web"], "__mp_main__ 1"),
    (["-m", "pixie_web", "own:app"], "own 1 own:app"),
    (["-m", "pixie_web", "own.py"], "own 1 own.py"),
    (["-m", "pixie_web", "package.web"], "package.web 1 package.web"),
    (["-m", "pixie_web", "default"], "default 1 default"),
    (["-m", "pixie_web", "hooks"], "default 1 hooks"),
]


@pytest.mark.parametrize(
    "arguments, says, lone",
    [(*command, False) for command in COMMANDS]
    + [(*command, True) for command in (COMMANDS if LONG else COMMANDS[2:9:3])],
)
def test_a_program_is_found_again_however_it_was_started(
    project: Path, arguments: List[str], says: str, lone: bool
) -> None:
    if lone:
        place_lone_file(project)
        if arguments[:2] == ["-m", "pixie_web"]:
            arguments = ["pixie_web.py", *arguments[2:]]
        arguments = ["-S", "-E", *arguments]
    start = "spawn" if lone else "exec"
    environment: Dict[str, str] = {**ENVIRONMENT, "PIXIE_POOL_START": start}
    server = Server(arguments, project, environment)
    try:
        assert ask(server, "/name") == (200, says)
        assert ask(server, "/handlers") == (200, "True")
        assert server.stop() == 0
        assert server.complaints() == []
    finally:
        server.kill()


UNSTEADY = """
import os
from pixie_web import app, route, run

@route("/one")
def one(env):
    return "one"

if os.path.exists("changed"):
    @route("/two/<n>", method="POST")
    def two(env, n):
        return "two"

@route("/main", "sync")
def main(env):
    return "main"

run()
"""


@pytest.mark.parametrize("start", STARTS)
def test_a_worker_that_would_run_another_handler_is_refused(start: str) -> None:
    with serve(UNSTEADY, pool_start=start, workers=1) as server:
        assert ask(server, "/one") == (200, "one")
        make(server, "changed")
        os.kill(zygote(server), signal.SIGKILL)
        line = server.wait_for_log("has other routes")
        assert line.rstrip().endswith(
            "has other routes than main: POST /two/<n> pool __main__.two in place of "
            "GET /main sync __main__.main"
        )
        assert server.get("/main").text == "main"


def test_the_first_difference_of_two_tables_is_named() -> None:
    assert difference(b"a\nb", b"a\nc") == "c in place of b"
    assert difference(b"a", b"a\nc") == "c in place of none"
    assert difference(b"a\nb", b"a") == "none in place of b"


@pytest.mark.parametrize("start", ["exec", "spawn"])
def test_a_program_that_can_not_be_imported_is_tried_ever_less_often(
    start: str,
) -> None:
    program = UNSTEADY.replace("run()", "if os.path.exists('changed'): 1 / 0\nrun()")
    program = program.replace("method=", "'pool', ")
    with serve(program, pool_start=start, workers=1) as server:
        assert ask(server, "/one") == (200, "one")
        make(server, "changed")
        mark = server.mark()
        os.kill(zygote(server), signal.SIGKILL)
        for _ in range(3):
            server.wait_for_log("Error", mark)
            mark = server.mark()
        assert server.get("/main").text == "main"
        assert server.log.count("has died") + server.log.count("Traceback") < 12
        (Path(os.readlink(f"/proc/{server.pid}/cwd")) / "changed").unlink()
        wait_for(lambda: ask(server, "/one") == (200, "one"), "a worker boots")


THREADED = """
import os, sys, threading
from pixie_web import app, route, run

threading.Thread(target=threading.Event().wait, daemon=True).start()

@route("/pid")
def pid(env):
    return f"{os.getpid()} {os.getppid()} {threading.active_count()}"

run()
"""


def test_a_program_that_has_threads_is_not_forked() -> None:
    # Not from main, and not from the process that imports it again either.
    with serve(THREADED, workers=1) as server:
        server.wait_for_log("2 threads run already, so the pool can't be forked")
        pid, parent, threads = map(int, ask(server, "/pid")[1].split())
        assert [parent, pid] == children(server.pid)
        assert threads == 2
        server.wait_for_log("starts threads when it is imported")


def test_threads_that_end_ahead_of_a_fork_do_not_prevent_it() -> None:
    # OpenBLAS, below numpy, ends its own and starts them again.
    program = THREADED.replace(
        "threading.Thread(target=threading.Event().wait, daemon=True).start()",
        """
end = threading.Event()
thread = threading.Thread(target=end.wait)
thread.start()
os.register_at_fork(before=lambda: (end.set(), thread.join()))
""",
    )
    with serve(program, workers=1) as server:
        pid, parent, threads = map(int, ask(server, "/pid")[1].split())
        assert [parent, pid] == children(server.pid)
        assert threads == 1
        assert Path(f"/proc/{parent}/cmdline").read_bytes().count(b"program.py") == 1
        assert "threads" not in server.log


LOCKED = """
import threading
from pixie_web import route, run

held, lock = threading.Event(), threading.Lock()

def hold():
    with lock:
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()

@route("/", timeout=0.3)
def index(env):
    lock.acquire()

run()
"""


@pytest.mark.parametrize("start", ["zygote", "exec"])
def test_a_fork_with_threads_that_was_asked_for_is_warned_of(start: str) -> None:
    with serve(LOCKED, workers=1, pool_start=start) as server:
        server.wait_for_log("forked while 2 threads run, and a lock that one of them")
        assert ask(server, "/")[0] == 504
        record = server.wait_for_log("while it ran /")
        assert "(forked while 2 threads ran: see pool_start)" in record


def test_what_starts_interpreters_does_not_keep_the_program() -> None:
    program = "large = b'x' * 60_000_000\n" + THREADED
    with serve(program, workers=1) as server:
        _, parent, _ = map(int, ask(server, "/pid")[1].split())
        assert resident_bytes(parent) < 40_000_000 < resident_bytes(server.pid)


@pytest.mark.parametrize("family", ["inet", "unix"])
@pytest.mark.parametrize("start", STARTS)
def test_a_connection_that_workers_would_share_is_named(
    start: str, family: str, tmp_path: Path
) -> None:
    is_inet = family == "inet"
    with socket.socket(socket.AF_INET if is_inet else socket.AF_UNIX) as listening:
        listening.bind(("127.0.0.1", 0) if is_inet else str(tmp_path / "database"))
        listening.listen()
        where = listening.getsockname()
        program = (
            "import socket\nfrom pixie_web import route, run\n"
            f"upstream = socket.socket(socket.AF_{family.upper()})\n"
            f"upstream.connect({where!r})\n"
            "pair = socket.socketpair()\n"
            "datagrams = socket.socket(type=socket.SOCK_DGRAM)\n"
            "datagrams.connect(('127.0.0.1', 9))\n"
            # Open, but no objects that complain at the end of the program.
            "number = upstream.detach()\n"
            "left = [one.detach() for one in (*pair, datagrams)]\n"
            "route('/')(lambda env: str(number))\nrun()\n"
        )
        with serve(program, pool_start=start, workers=2) as server:
            number = server.get("/").text
            text = where if isinstance(where, str) else f"{where[0]}:{where[1]}"
            lines = [line for line in server.log.splitlines() if "connected to" in line]
            # A worker that imports the program has a connection of its own.
            assert len(lines) == (start != "spawn")
            for line in lines:
                assert line.endswith(
                    f"descriptor {number} is connected to {text}, and all workers "
                    "would share it: one would read another's answers; open "
                    "connections in @app.on_worker_start"
                )


@pytest.mark.parametrize("start", STARTS)
def test_workers_inherit_nothing_but_their_own(start: str) -> None:
    program = PROGRAM.replace(
        "def pid(env):",
        "def pid(env):\n"
        "    return str(sorted(os.listdir('/proc/self/fd'), key=int))\n\n"
        "left_open = os.open('/dev/null', os.O_RDONLY)\n"
        "os.set_inheritable(left_open, True)\n\n"
        "def unused(env):",
    )
    with serve(program, pool_start=start, workers=1) as server:
        text = ask(server, "/pid")[1]
        # The three that all have, its two pipes, its file for tracebacks, the file that
        # the program opened, and the directory that is being listed.
        assert len(re.findall(r"\d+", text)) == 8, text


@pytest.mark.parametrize("start", ["zygote", "exec"])
def test_what_every_worker_needs_is_imported_before_the_fork(start: str) -> None:
    # Each of them would need longer for it than for all else.
    program = "import os, sys\n" + PROGRAM.replace(
        'if __name__ == "__main__"',
        "os.register_at_fork(after_in_child=lambda: note('forked', 'json' in "
        'sys.modules))\nif __name__ == "__main__"',
    )
    with serve(program, pool_start=start, workers=1) as server:
        assert ask(server, "/pid")[0] == 200
        assert wait_for_note(server, "forked") == "True"


@pytest.mark.parametrize("start", STARTS)
def test_the_log_of_a_worker_has_the_level_of_main(start: str) -> None:
    program = PROGRAM.replace(
        "def pid(env):",
        "def pid(env):\n    logging.getLogger('pixie_web').info('said in a worker')",
    )
    with serve(program, pool_start=start, workers=1) as server:
        ask(server, "/pid")
        server.wait_for_log("INFO said in a worker")


SETTINGS = """
from pixie_web import app, proc_env, route, run

@route("/page/<n>")
def page(env, n):
    return app.url_for("page", n=2) + " " + str(proc_env.worker)

@route("/form", method="POST")
def form(env):
    return str(len(env.form))

run(root_path="/below", max_fields=2)
"""


@pytest.mark.parametrize("start", STARTS)
def test_handlers_in_workers_have_the_settings_of_run(start: str) -> None:
    with serve(SETTINGS, pool_start=start, workers=1) as server:
        assert ask(server, "/page/1") == (200, "/below/page/2 1")
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        for body, status in (("a=1&b=2", 200), ("a=1&b=2&c=3", 413)):
            assert server.request("POST", "/form", body, kind).status == status
