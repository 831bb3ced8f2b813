"""Settings, variables, the command line, the banner, and the lone file."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from runs import SEED, place_example, python
from shapes import IS_SINGLE
from support import (
    BANNER,
    LOOPS,
    PATIENCE_SECONDS,
    STARTS,
    Server,
    children,
    process_is_alive,
    serve,
    wait_for,
)

import pixie_web
from pixie_web import Pixie, PixieError
from pixie_web.executors.pool.frames import cpu_count
from pixie_web.settings import DEFAULT_SETTINGS, read_settings

ANSWERS = {
    "/": "Hello world from process type ProcessType.main",
    "/async": "Hello world (async) from process type ProcessType.main",
    "/cpu": "Hello world (CPU-bound) from process type ProcessType.pool",
}
SYNC = """\
from pixie_web import Pixie
app = Pixie()
app.route("/", "sync")(lambda env: "sync")
"""


def answers(server: Server) -> Dict[str, str]:
    return {path: server.get(path).text for path in ANSWERS}


# The example, as a program, as a module, and beside a copy of the one file ------------


@pytest.mark.parametrize("loop", LOOPS)
def test_the_example_runs(loop: str) -> None:
    with serve(SEED, loop=loop) as server:
        assert answers(server) == ANSWERS
        assert server.stop() == 0


def test_one_line_tells_of_the_start_and_one_of_the_stop() -> None:
    with serve(SEED, workers=3, loop="asyncio") as server:
        server.get("/")
        first = server.log.splitlines()[0]
        assert server.stop() == 0
        last = server.log.splitlines()[-1]
    version = ".".join(map(str, sys.version_info[:3]))
    assert first == (
        f"pixie_web {pixie_web.__version__} on {server.url} (Ctrl-C stops it), "
        f"main process {server.pid}, 3 workers, asyncio, Python {version}"
    )
    assert re.fullmatch(r"pixie_web: stopped by SIGTERM after \d+\.\d s", last)


def test_a_program_without_pool_routes_has_no_workers() -> None:
    with serve(SYNC + "app.run()\n") as server:
        assert server.get("/").text == "sync"
        server.wait_for_log("no workers")
        assert children(server.pid) == []


@pytest.fixture
def lone(tmp_path: Path) -> Path:
    """Return a directory that holds the one file, and the example as app.py."""
    return place_example(tmp_path)


LONE = {"PIXIE_HOST": "127.0.0.1", "PIXIE_PORT": "0", "PIXIE_WORKERS": "1"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["app.py"],
        ["pixie_web.py", "app:app"],
        ["pixie_web.py", "app"],
        ["pixie_web.py", "app.py"],
        ["pixie_web.py", "app.py:app"],
        ["pixie_web.py", "--workers", "auto", "app:app"],
        ["-m", "pixie_web", "app:app"],
    ],
    ids=" ".join,
)
def test_the_lone_file_works_alone(arguments: List[str], lone: Path) -> None:
    # -S: without site-packages; -E: without the path that leads to the package.
    server = Server(["-S", "-E", *arguments], lone, LONE)
    try:
        assert answers(server) == ANSWERS
        assert server.stop() == 0
        assert server.complaints() == []
    finally:
        server.kill()


@pytest.mark.parametrize("target", ["app:app", "app.py"])
def test_the_package_is_a_program(target: str, lone: Path) -> None:
    (lone / "pixie_web.py").unlink()
    command = ["-m", "pixie_web", target, "--port", "0", "--host", "127.0.0.1"]
    server = Server(command, lone, {"PIXIE_PORT": "1", "PIXIE_WORKERS": "1"})
    try:
        assert answers(server) == ANSWERS
    finally:
        server.stop()


def test_a_run_that_is_met_while_importing_keeps_its_settings(lone: Path) -> None:
    command = ["pixie_web.py", "other", "--port", "0"]
    server = Server(command, lone, {"PIXIE_HOST": "127.0.0.1", "PIXIE_WORKERS": "1"})
    try:
        assert answers(server) == ANSWERS
    finally:
        server.stop()


def test_another_directory_may_be_named(lone: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    (lone / "pixie_web.py").unlink()
    server = Server(["-m", "pixie_web", "../app.py"], away, LONE)
    try:
        assert answers(server) == ANSWERS
    finally:
        server.stop()


# Settings -----------------------------------------------------------------------------


def test_an_argument_wins_over_a_variable_and_that_over_the_default() -> None:
    environment = {"PIXIE_PORT": "1", "PIXIE_DEBUG": "yes", "PIXIE_LOOP": "asyncio"}
    settings = read_settings({"port": 2}, {**environment, "OTHER": "x"})
    assert settings == {**DEFAULT_SETTINGS, "port": 2, "debug": True, "loop": "asyncio"}
    assert read_settings({}, {}) == DEFAULT_SETTINGS
    assert (DEFAULT_SETTINGS["host"], DEFAULT_SETTINGS["port"]) == ("localhost", 8000)


@pytest.mark.parametrize(
    "name", [one for one in DEFAULT_SETTINGS if not (IS_SINGLE and one == "http3")]
)
def test_every_setting_has_a_variable(name: str) -> None:
    word = {"pool_start": "exec", "loop_guard": "log", "root_path": "/app"}.get(
        name, "asyncio"
    )
    texts: Dict[type, Tuple[str, Any]] = {
        str: (word, word),
        int: ("7", 7),
        float: ("7.5", 7.5),
        bool: ("on", True),
        tuple: ("10.0.0.0/8, unix", ("10.0.0.0/8", "unix")),
    }
    text, value = texts[type(DEFAULT_SETTINGS[name])]
    assert read_settings({}, {f"PIXIE_{name.upper()}": text})[name] == value


@pytest.mark.parametrize(
    "text, value",
    [("1", True), ("true", True), ("YES", True), ("on", True)]
    + [("0", False), ("False", False), ("no", False), ("off", False), ("", False)],
)
def test_yes_or_no(text: str, value: bool) -> None:
    assert read_settings({}, {"PIXIE_ACCESS_LOG": text})["access_log"] is value


@pytest.mark.parametrize(
    "given, variables, message",
    [
        ({}, {"PORT": "eight"}, "PIXIE_PORT is a whole number, got 'eight'"),
        ({}, {"PORT": ""}, "PIXIE_PORT is a whole number, got ''"),
        ({}, {"PORT": "80.5"}, "PIXIE_PORT is a whole number, got '80.5'"),
        ({}, {"PORT": "-1"}, "port is from 0 to 65535, got -1"),
        ({}, {"THREADS": "0"}, "threads is from 1 to 10000, got 0"),
        ({}, {"DEBUG": "maybe"}, "PIXIE_DEBUG is yes or no, got 'maybe'"),
        ({}, {"HEAD_SECONDS": "x"}, "PIXIE_HEAD_SECONDS is a number, got 'x'"),
        ({}, {"HEAD_SECONDS": "-1"}, "head_seconds is from 0 to inf, got -1.0"),
        ({}, {"HEAD_SECONDS": "nan"}, "head_seconds is from 0 to inf, got nan"),
        ({}, {"LOOP": "gevent"}, 'loop is "uvloop" or "asyncio", got \'gevent\''),
        ({"port": "x"}, {}, "port is a whole number, got 'x'"),
        ({"port": 65536}, {}, "port is from 0 to 65535, got 65536"),
        ({"port": 1.5}, {}, "port is a whole number, got 1.5"),
        ({"port": [1]}, {}, r"port is a whole number, got \[1\]"),
        *(
            (
                given,
                variables,
                f'(?i)workers is a whole number from 0, or "auto", got {of}',
            )
            for given, variables, of in (
                ({"workers": -1}, {}, "-1"),
                ({"workers": -2}, {}, "-2"),
                ({"workers": "many"}, {}, "'many'"),
                ({"min_workers": -1}, {}, "-1"),
                ({}, {"WORKERS": "-1"}, "'-1'"),
            )
        ),
        ({"max_streams": -1}, {}, 'max_streams is a whole number from 0, or "auto"'),
        ({"workers": 20_000}, {}, "workers is from 0 to 10000, got 20000"),
        ({"threads": "auto"}, {}, "threads is a whole number, got 'auto'"),
        ({"debug": 5}, {}, "debug is yes or no, got 5"),
        ({"uds_mode": "rw-rw----"}, {}, "uds_mode is a whole number, got 'rw-rw----'"),
        ({}, {"UDS_MODE": "1777"}, "uds_mode is from 0 to 511, got 1023"),
        ({"fd": -2}, {}, "fd is from -1 to inf, got -2"),
        ({"max_pipelined_requests": 0}, {}, "max_pipelined_requests is from 1 to inf"),
        ({"access_log_format": "%(ip)s"}, {}, r"has KeyError\('ip'\); it knows client"),
        ({}, {"ACCESS_LOG_FORMAT": "%(client)d"}, "access_log_format has TypeError"),
        ({}, {"ACCESS_LOG_FORMAT": "100%"}, "access_log_format has ValueError"),
        ({"root_path": "app"}, {}, "root_path is a path such as \"/app\", got 'app'"),
        (
            {},
            {"ROOT_PATH": "//evil.example"},
            'root_path is a path such as "/app", got',
        ),
        ({"prot": 80}, {}, r"run\(\) has no argument 'prot'; it takes host, port, "),
    ],
)
def test_a_setting_that_can_not_be_is_refused(
    given: Dict[str, Any], variables: Dict[str, str], message: str
) -> None:
    environment = {f"PIXIE_{name}": text for name, text in variables.items()}
    with pytest.raises(PixieError, match=message):
        read_settings(given, environment)


def test_numbers_may_be_given_as_text_or_as_another_kind_of_number() -> None:
    settings = read_settings({"port": "80", "head_seconds": 5, "debug": "no"}, {})
    assert settings["port"] == 80
    assert settings["head_seconds"] == 5.0
    for mode in (0o600, "600", "0o600"):
        assert read_settings({"uds_mode": mode}, {})["uds_mode"] == 0o600
    assert settings["debug"] is False


def test_as_many_workers_as_cpus() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)
    for given, variables in (
        ({}, {}),
        ({"workers": "auto", "min_workers": "auto"}, {}),
        ({}, {"PIXIE_WORKERS": "auto"}),
    ):
        assert read_settings(given, variables)["workers"] == -1
    with serve(SEED, workers="auto") as server:
        server.wait_for_log(f"main process {server.pid}, {cpu_count()} workers")


def test_the_arguments_of_run_win_over_variables() -> None:
    program = SYNC + 'app.run("127.0.0.1", 0, access_log=False)\n'
    with serve(program, port=1, access_log="yes") as server:
        assert server.get("/").text == "sync"
    assert "GET /" not in server.log


def test_a_program_that_has_set_up_logging_keeps_it() -> None:
    program = (
        "import logging\nlogging.basicConfig(level='INFO', format='mine %(message)s')\n"
        + SYNC
        + "app.run()\n"
    )
    with serve(program) as server:
        server.get("/")
        line = server.wait_for_log('"GET / HTTP/1.1" 200 4')
    assert line.startswith("mine 127.0.0.1")


CONFIGURED = """
import logging.config
from pixie_web import app, route, run

def configure():
    handler = {"class": "logging.StreamHandler", "formatter": "own"}
    logging.config.dictConfig({
        "version": 1,
        "formatters": {"own": {"format": "own %(message)s"}},
        "handlers": {"all": handler},
        "root": {"level": "INFO", "handlers": ["all"]},
        "loggers": {"pixie_web": {"level": "INFO"}} if NAMED else {},
    })

for place in ("sync", "pool"):
    @route(f"/{place}", place)
    def fails(env):
        return 1 / 0

HOOK(configure)
run()
"""


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("hook", ["", "app.on_start", "app.on_worker_start"])
@pytest.mark.parametrize("named", [True, False])
def test_a_configuration_of_logging_silences_nothing_by_default(
    start: str, hook: str, named: bool
) -> None:
    program = CONFIGURED.replace("HOOK", hook).replace("NAMED", str(named))
    if not hook:
        program = program.replace("(configure)", "configure()")
    with serve(program, pool_start=start, workers=1) as server:
        for place in ("sync", "pool"):
            mark = server.mark()
            assert server.get(f"/{place}").status == 500
            server.wait_for_log("ZeroDivisionError: division by zero", mark)
            line = server.wait_for_log(f'"GET /{place} HTTP/1.1" 500 ', mark)
            assert hook or line.startswith("own ")


def test_nor_does_it_silence_what_is_said_before_the_start() -> None:
    thread = "threading.Thread(target=threading.Event().wait, daemon=True)"
    program = CONFIGURED.replace(
        "HOOK(configure)", f"configure()\nimport threading\n{thread}.start()"
    )
    with serve(program.replace("NAMED", "False"), workers=1) as server:
        server.wait_for_log("own 2 threads run already, so the pool can't be forked")


def test_a_debug_run_says_so_to_the_application() -> None:
    program = SEED.replace("run()", "run(debug=True)").replace(
        '    return Response(f"Hello world from', '    1 / 0; return Response(f"'
    )
    with serve(program) as server:
        assert "ZeroDivisionError" in server.get("/").text


# The start, and the end ---------------------------------------------------------------


@pytest.mark.parametrize("program", [SEED, SYNC + "app.run()\n"])
def test_a_port_in_use_is_one_line_and_status_1(program: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(program, encoding="utf-8")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environment = {"PIXIE_HOST": "127.0.0.1", "PIXIE_PORT": port}
        done = python(str(path), directory=tmp_path, **environment)
        assert done.returncode == 1
        assert done.stderr == (
            f"pixie_web: can't listen on 127.0.0.1:{port}: Address already in use\n"
        )
        done = python(
            str(path), directory=tmp_path, PIXIE_HOST="localhost", PIXIE_PORT=port
        )
        assert done.returncode == 1
        assert done.stderr == (
            f"pixie_web: can't listen on localhost:{port}: Address already in use\n"
        )


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "not a host"])
def test_a_host_that_is_not_ours_is_one_line(host: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(SEED, encoding="utf-8")
    done = python(str(path), directory=tmp_path, PIXIE_HOST=host, PIXIE_PORT="0")
    assert done.returncode == 1
    assert done.stderr.startswith(f"pixie_web: can't listen on {host}:0: ")
    assert len(done.stderr.splitlines()) == 1


NO_LOOP = """
    import asyncio
    asyncio.new_event_loop = fail
"""
NO_SECOND_FORK = """
    first = [os.fork]
    os.fork = lambda: first.pop()() if first else fail()
"""
NO_PIPES = """
    pipes = [os.pipe] * {}
    os.pipe = lambda: pipes.pop()() if pipes else fail()
"""


@pytest.mark.parametrize(
    "wrong, spoil",
    [
        ("port=taken.getsockname()[1]", ""),
        ("port=0, certfile='none.pem'", ""),
        ("port=0, certfile=__file__", ""),
        ("fd=taken.fileno(), certfile='none.pem'", ""),
        ("uds='none/socket'", ""),
        ("port=0", NO_LOOP),
        ("port=0", NO_SECOND_FORK),
        ("port=0, workers=2", NO_PIPES.format(0)),
        ("port=0, workers=2", NO_PIPES.format(3)),
        ("port=0, workers=2", NO_PIPES.format(4)),
        ("port=0, workers=2", "app.on_start(fail)"),
    ],
    ids=["port", "no-file", "no-pem", "inherited", "no-directory", "loop", "fork"]
    + ["first-worker", "second-worker", "second-pool", "on-start"],
)
def test_a_start_that_fails_leaves_no_child_to_who_goes_on(
    wrong: str, spoil: str, tmp_path: Path
) -> None:
    program = SEED.replace(
        "    run()",
        f"""\
    import os, socket
    from pixie_web import app
    app.pool("more", workers=1)
    app.route("/more", pool="more")(lambda env: "")
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()

    def fail(*_):
        raise OSError("none is left")
    {spoil}
    before = len(os.listdir("/proc/self/fd"))
    try:
        run(host="127.0.0.1", loop="asyncio", {wrong})
    except SystemExit as end:
        assert end.code == 1
    try:
        print(os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        print("no child", len(os.listdir("/proc/self/fd")) - before)
""",
    )
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    done = python("program.py", directory=tmp_path)
    assert done.stderr.startswith("pixie_web: ")
    assert (done.returncode, done.stdout) == (0, "no child 0\n")


def test_localhost_listens_on_each_family_there_is() -> None:
    with serve(SEED, host="localhost") as server:
        assert server.get("/").status == 200
        try:
            six = socket.create_connection(("::1", server.port), PATIENCE_SECONDS)
        except OSError:
            pytest.skip("this machine has no IPv6")
        with six:
            six.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert six.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.skipif("uvloop" in LOOPS, reason="uvloop is installed")
def test_uvloop_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(SEED, encoding="utf-8")
    environment = {"PIXIE_LOOP": "uvloop", "PIXIE_PORT": "0", "PIXIE_HOST": "127.0.0.1"}
    done = python(str(path), directory=tmp_path, **environment)
    assert done.returncode == 1
    assert done.stderr == ('pixie_web: loop="uvloop" needs: pip install uvloop\n')


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(number: int, loop: str) -> None:
    with serve(SEED, loop=loop) as server:
        server.get("/cpu")
        wait_for(lambda: len(children(server.pid)) == 3, "the zygote and two workers")
        left = children(server.pid)
        assert server.stop(number) == 0
        wait_for(
            lambda: not any(map(process_is_alive, left)), "the end of all processes"
        )
    assert "Traceback" not in server.log


def test_a_signal_lets_the_request_at_hand_end() -> None:
    program = (
        "import asyncio, sys\n"
        + SYNC.replace("import Pixie", "import Pixie, proc_env")
        + """\
async def slow(env):
    sys.stderr.write("slow began\\n")
    await asyncio.sleep(0.2)
    return "slow"
app.route("/slow", "asnc")(slow)
app.run()
"""
    )
    with serve(program) as server, server.connect() as one:
        one.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        server.wait_for_log("slow began")
        assert server.stop() == 0
        answer = one.recv(1000)
    assert answer.endswith(b"Connection: close\r\n\r\nslow")


def test_a_failing_on_start_ends_it_and_leaves_nothing() -> None:
    program = SEED.replace(
        "if __name__",
        "from pixie_web import app\n\n"
        "@app.on_start\ndef fails():\n    1 / 0\n\nif __name__",
    )
    with pytest.raises(RuntimeError, match="ZeroDivisionError"), serve(program):
        pass


NOT_MAIN = """
import asyncio, os, sys, threading
from pixie_web import app, route

@route("/cpu")
def cpu(env):
    return "from a worker"

def start():
    try:
        app.run()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)

async def cell():
    start()
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_off_the_main_thread_it_serves_without_signals(loop: str) -> None:
    program = NOT_MAIN + "one = threading.Thread(target=start)\none.start()\n"
    program += "one.join()\n"
    with serve(program, loop=loop, expects="threads run already") as server:
        assert "(it ends with its process)" in server.wait_for_log(BANNER)
        assert server.get("/cpu").text == "from a worker"
        below = children(server.pid)
        assert server.stop() == -signal.SIGTERM  # Python's own doing
        wait_for(lambda: not any(map(process_is_alive, below)), "the end of all")


LISTING = """
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{name}/stat") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        continue  # another one, which has ended meanwhile
    if parent == os.getpid():
        print(name)
"""


@pytest.mark.parametrize(
    "run, settings, says",
    [
        ("asyncio.run(cell())\n", {}, "run() can't serve where an event loop runs "),
        ("start()\n", {"HOST": "192.0.2.1"}, "can't listen on 192.0.2.1:0: "),
        ("start()\n", {"HOST": "a..b"}, "can't listen on a..b:0: "),
        ("start()\n", {"UDS": "x" * 200}, "can't listen on xxx"),
        ("start()\n", {"CERTFILE": "/none"}, "can't use the certificate /none: "),
        ("app.on_start(lambda: 1 / 0)\nstart()\n", {}, "ZeroDivisionError"),
    ],
    ids=["loop", "host", "name", "path", "certificate", "on_start"],
)
def test_a_start_that_fails_is_one_line_and_leaves_no_process(
    run: str, settings: Dict[str, str], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "program.py"
    program = NOT_MAIN + run.replace("start()\n", "start()\n" * 3) + LISTING
    path.write_text(program, encoding="utf-8")
    given = {"HOST": "127.0.0.1", "PORT": "0", "WORKERS": "1", **settings}
    variables = {f"PIXIE_{name}": value for name, value in given.items()}
    done = python(str(path), directory=tmp_path, **variables)
    assert done.stdout == "", "processes that are left"
    assert says in done.stderr
    assert ": None" not in done.stderr
    assert sorted(os.listdir(str(tmp_path))) == ["program.py"]


@pytest.mark.parametrize("error_file", ["/dev/full", "pipe"])
def test_a_banner_that_can_not_be_written_does_not_end_the_start(
    error_file: str, tmp_path: Path
) -> None:
    path = tmp_path / "program.py"
    path.write_text(SYNC + "app.run()\n", encoding="utf-8")
    reading, writing = os.pipe()
    os.close(reading)
    if error_file != "pipe":
        os.close(writing)
        writing = os.open(error_file, os.O_WRONLY)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    with socket.create_connection(listening.getsockname(), PATIENCE_SECONDS) as one:
        process = subprocess.Popen(
            [sys.executable, str(path)],
            env={**os.environ, "PIXIE_FD": str(listening.fileno())},
            pass_fds=[listening.fileno()],
            stderr=writing,
        )
        os.close(writing)
        listening.close()
        try:
            one.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert one.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        finally:
            process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.parametrize("start", ["zygote", "exec", "spawn"])
def test_closed_standard_files_are_dev_null(start: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        "import os, sys\nfrom pixie_web import route, run\n"
        "def files():\n"
        "    return ' '.join(os.readlink(f'/proc/self/fd/{n}') for n in range(2))\n"
        "@route('/main', 'sync')\ndef in_main(env): return files()\n"
        "@route('/worker')\ndef in_a_worker(env):\n"
        "    print('hello', flush=True)\n    return files()\n"
        "run()\n",
        encoding="utf-8",
    )
    shell = "import os, sys\nos.close(0)\nos.close(1)\n"
    shell += "os.execv(sys.executable, [sys.executable] + sys.argv[1:])"
    settings = {**LONE, "PIXIE_POOL_START": start}
    server = Server(["-c", shell, str(path)], tmp_path, settings)
    try:
        for path_of in ("/main", "/worker"):
            assert server.get(path_of).text == "/dev/null /dev/null"
        assert server.stop() == 0
    finally:
        server.kill()


def test_an_application_may_run_twice() -> None:
    program = (
        SEED.replace("    run()", "    run()\n    run()")
        + "    import sys\n    sys.stderr.write('both ended\\n')\n"
    )
    with serve(program) as server:
        assert answers(server) == ANSWERS
        mark = server.mark()
        server.process.send_signal(signal.SIGTERM)
        banner = server.wait_for_log("pixie_web ", mark)
        found = re.search(r":(\d+) ", banner)
        assert found is not None
        server.port = int(found.group(1))
        assert answers(server) == ANSWERS
        assert server.stop() == 0
    assert "both ended" in server.log


def test_importing_has_no_side_effects(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, signal, sys, threading, warnings\n"
        "before = (threading.active_count(), os.listdir('/proc/self/fd'),\n"
        "          [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)])\n"
        "import pixie_web\n"
        "after = (threading.active_count(), os.listdir('/proc/self/fd'),\n"
        "         [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)])\n"
        "assert before == after, (before, after)\n"
        "late = {'tempfile', 'mimetypes', 'logging.handlers', 'uvloop', 'argparse'}\n"
        "print(sorted(late & set(sys.modules)))\n"
    )
    done = python("-c", program, directory=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_functions_of_the_module_are_those_of_the_default_application() -> None:
    for name in ("route", "get", "post", "put", "delete", "patch", "head", "options"):
        assert getattr(pixie_web, name) == getattr(pixie_web.app, name)
    for name in ("run", "error", "before", "after", "static", "mount"):
        assert getattr(pixie_web, name) == getattr(pixie_web.app, name)
    assert isinstance(pixie_web.app, Pixie)
