"""A program that starts anew when one of its files changes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Dict, Iterator, List

import pytest
from browser import Browser
from pages import python_blocks
from shapes import place_lone_file
from support import (
    PATIENCE_SECONDS,
    Server,
    children,
    process_is_alive,
    read_until,
    wait_for,
)

from pixie_web.reloading import ProgramCall, Reloader
from pixie_web.settings import DEFAULT_SETTINGS
from pixie_web.watching import Watcher, files_below

APP = """\
import os
from pixie_web import Pixie, template
import words

app = Pixie()

@app.get("/", "sync")
def index(env):
    return words.GREETING

@app.get("/pool")
def pool(env):
    import late
    return late.WORD

@app.get("/view", "sync")
def view(env):
    return template("page")

@app.get("/pid", "sync")
def pid(env):
    return str(os.getpid())

@app.get("/endless", "asnc")
async def endless(env):
    import asyncio
    yield "begun"
    await asyncio.sleep(3600)

if __name__ == "__main__":
    app.run()
"""


def write_program(directory: Path) -> None:
    (directory / "views").mkdir()
    (directory / "app.py").write_text(APP, encoding="utf-8")
    (directory / "words.py").write_text("GREETING = 'one'\n", encoding="utf-8")
    (directory / "late.py").write_text("WORD = 'early'\n", encoding="utf-8")
    (directory / "views" / "page.tpl").write_text("<p>first</p>\n", encoding="utf-8")


def save(path: Path, text: str) -> None:
    """Write a file as good editors do: whole, in place of the one before."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(str(new), str(path))


@contextmanager
def reloading(directory: Path, *command: str, **settings: object) -> Iterator[Server]:
    """Run the program under a reloader; `command` is the script by default."""
    settings = {"host": "127.0.0.1", "port": 0, "workers": 1, "reload": 1, **settings}
    environment = {f"PIXIE_{name.upper()}": str(v) for name, v in settings.items()}
    server = Server([*(command or ["app.py"])], directory, environment)
    try:
        yield server
        below = children(server.pid)
        if server.process.poll() is None:
            assert server.stop() == 0
        wait_for(lambda: not any(map(process_is_alive, below)), "the end of all")
        assert server.complaints() == [], server.log
    finally:
        below = children(server.pid) if server.process.poll() is None else []
        server.kill()
        for pid in below:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def ask(server: Server, path: str = "/") -> str:
    """Return the text of an answer; who asks between two programs waits."""
    return server.get(path).text


def until(server: Server, text: str, path: str = "/") -> None:
    wait_for(lambda: text in ask(server, path), f"{text!r} at {path}")


COMMANDS: Dict[str, List[str]] = {
    "script": ["app.py"],
    "module": ["-m", "app"],
    "command": ["-m", "pixie_web", "run", "app"],
    "a file of the command": ["-m", "pixie_web", "app.py"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_saved_file_is_served_whatever_started_the_program(
    command: List[str], tmp_path: Path
) -> None:
    write_program(tmp_path)
    with reloading(tmp_path, *command) as server:
        assert [ask(server), ask(server, "/pool")] == ["one", "early"]
        first = ask(server, "/pid")
        save(tmp_path / "words.py", "GREETING = 'two'\n")
        server.wait_for_log("words.py has changed, restarting")
        until(server, "two")
        assert ask(server, "/pid") != first
        assert server.stop() == 0
        line = r"pixie_web: stopped by SIGTERM after \d+\.\d s\n"
        assert re.fullmatch(line, server.log.splitlines(True)[-1])
        assert server.log.count("stopped by") == 1


def test_what_a_worker_imports_is_watched_and_templates_and_new_files(
    tmp_path: Path,
) -> None:
    write_program(tmp_path)
    with reloading(tmp_path) as server:
        assert [ask(server, "/pool"), ask(server, "/view")] == [
            "early",
            "<p>first</p>\n",
        ]
        save(tmp_path / "late.py", "WORD = 'later'\n")
        server.wait_for_log("late.py has changed")
        until(server, "later", "/pool")
        mark = server.mark()
        save(tmp_path / "views" / "page.tpl", "<p>second</p>\n")
        server.wait_for_log("views/page.tpl has changed", mark)
        until(server, "second", "/view")
        mark = server.mark()
        save(tmp_path / "words.py", "from more import GREETING\n")
        server.wait_for_log("waiting for a change", mark)
        assert "No module named &#39;more&#39;" in ask(server)
        save(tmp_path / "more.py", "GREETING = 'of a new file'\n")
        until(server, "of a new file")


def test_nobody_is_refused_while_it_restarts(tmp_path: Path) -> None:
    write_program(tmp_path)
    answers: List[str] = []
    done = threading.Event()
    with reloading(tmp_path) as server:

        def keep_asking() -> None:
            while not done.is_set():
                answers.append(ask(server))

        asking = threading.Thread(target=keep_asking)
        asking.start()
        try:
            save(tmp_path / "words.py", "GREETING = 'two'\n")
            until(server, "two")
        finally:
            done.set()
            asking.join(PATIENCE_SECONDS)
    assert set(answers) == {"one", "two"}
    assert answers == sorted(answers)


FAILURES = {
    "syntax": ("def x(:\n", "invalid syntax", True),
    "error": ("raise KeyError('ups')\n", "KeyError: &#39;ups&#39;", True),
    "exit": ("raise SystemExit('no licence')\n", "no licence", True),
    "abort": ("import os; os.abort()\n", "has ended, by SIGABRT", False),
    "status": ("import os; os._exit(7)\n", "has ended, status 7", False),
    "route": (
        APP.replace('get("/", "sync")', 'get("/<x>", "sync")'),
        "write def index(env, x)",
        False,
    ),
    "server": (
        APP.replace("run()", "run(server='uvicorn')"),
        "reload is for the server of pixie_web itself",
        False,
    ),
    "hook": (
        APP.replace("app = Pixie()", "app = Pixie()\napp.on_start(lambda: 1 / 0)"),
        "ZeroDivisionError",
        True,
    ),
}


@pytest.mark.parametrize("text, shown, has_place", FAILURES.values(), ids=FAILURES)
def test_a_program_that_fails_says_so_and_goes_on_when_it_is_mended(
    text: str, shown: str, has_place: bool, tmp_path: Path
) -> None:
    write_program(tmp_path)
    with reloading(tmp_path) as server:
        assert ask(server) == "one"
        mark = server.mark()
        save(tmp_path / "app.py", text)
        until(server, shown)
        for path in "/", "/elsewhere?x=1":
            answer = server.get(path)
            assert (answer.status, shown in answer.text) == (500, True)
        server.wait_for_log("waiting for a change", mark)
        assert "restarted.py" not in server.log
        save(tmp_path / "app.py", APP)
        wait_for(lambda: ask(server) == "one", "the program again")
        assert ask(server, "/pool") == "early"


def test_a_program_that_has_never_started_is_awaited_too(tmp_path: Path) -> None:
    write_program(tmp_path)
    (tmp_path / "words.py").write_text("GREETING = \n", encoding="utf-8")
    with reloading(tmp_path, "-m", "pixie_web", "app") as server:
        assert "words.py&quot;, line 1" in ask(server)
        save(tmp_path / "words.py", "GREETING = 'one'\n")
        until(server, "one")


def test_a_file_that_is_gone_is_told_and_awaited(tmp_path: Path) -> None:
    write_program(tmp_path)
    with reloading(tmp_path, "-m", "pixie_web", "app") as server:
        (tmp_path / "app.py").unlink()
        until(server, "no module &#39;app&#39;")
        save(tmp_path / "app.py", APP)
        until(server, "one")


def test_ten_quick_saves_are_one_or_two_restarts_and_the_last_one_counts(
    tmp_path: Path,
) -> None:
    write_program(tmp_path)
    with reloading(tmp_path) as server:
        for number in range(10):
            save(tmp_path / "words.py", f"GREETING = 'save {number}'\n")
        until(server, "save 9")
        assert server.log.count("has changed") <= 2


def test_a_request_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    write_program(tmp_path)
    with reloading(tmp_path, drain_seconds=60) as server, server.connect() as one:
        one.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        read_until(one, b"begun")
        save(tmp_path / "words.py", "GREETING = 'two'\n")
        until(server, "two")


def test_a_script_of_another_folder_finds_its_own_modules(tmp_path: Path) -> None:
    write_program(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "words.py").write_text("GREETING = 'wrong'\n", encoding="utf-8")
    with reloading(elsewhere, "../app.py") as server:
        save(tmp_path / "words.py", "GREETING = 'two'\n")
        until(server, "two")


def test_the_arguments_of_run_are_read_anew(tmp_path: Path) -> None:
    write_program(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with reloading(tmp_path) as server:
        first = server.port
        save(tmp_path / "app.py", APP.replace("run()", f"run(port={port})"))
        server.wait_for_log(f":{port} ")
        server.port = port
        assert ask(server) == "one"

        def is_free() -> bool:
            with socket.socket() as one:
                return one.connect_ex(("127.0.0.1", first)) != 0

        wait_for(is_free, "the end of the first port")


def test_a_unix_socket_stays_between_and_is_removed_at_the_end(tmp_path: Path) -> None:
    write_program(tmp_path)
    path = tmp_path / "s"
    command = [sys.executable, "app.py"]
    environment = {**os.environ, "PIXIE_UDS": str(path), "PIXIE_RELOAD": "1"}
    process = subprocess.Popen(command, cwd=str(tmp_path), env=environment)
    try:
        wait_for(path.exists, "the socket")
        inode = path.stat().st_ino

        def greeting() -> bytes:
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(PATIENCE_SECONDS)
                try:
                    one.connect(str(path))
                except ConnectionRefusedError:
                    return b""  # it is bound, and does not listen yet
                one.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return one.recv(10_000)

        wait_for(lambda: b"one" in greeting(), "the first program")
        save(tmp_path / "words.py", "GREETING = 'two'\n")
        wait_for(lambda: b"two" in greeting(), "the second program")
        assert path.stat().st_ino == inode
    finally:
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    assert not path.exists()


def test_a_reloader_that_is_killed_takes_the_program_along(tmp_path: Path) -> None:
    write_program(tmp_path)
    with reloading(tmp_path) as server:
        ask(server, "/pool")
        below = children(server.pid)
        assert len(below) == 3  # the program, its zygote, a worker
        server.process.kill()
        wait_for(lambda: not any(map(process_is_alive, below)), "the end of all")
        server.kill()


def test_its_status_is_that_of_a_program_that_was_killed(tmp_path: Path) -> None:
    text = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    (tmp_path / "app.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pixie_web", "run", "app", "--reload"]
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 128 + signal.SIGKILL, done.stderr


def test_a_port_in_use_ends_it(tmp_path: Path) -> None:
    write_program(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = f"(?s)can't listen on 127.0.0.1:{port}: Address already in use"
        with pytest.raises(RuntimeError, match=said), reloading(tmp_path, port=port):
            pass


@pytest.mark.parametrize("command", [["pixie_web.py", "app"], ["app.py"]])
def test_the_lone_file_reloads(command: List[str], tmp_path: Path) -> None:
    write_program(tmp_path)
    place_lone_file(tmp_path)
    with reloading(tmp_path, "-S", "-E", *command) as server:
        # -E hides the variables from Python alone.
        assert [ask(server), ask(server, "/pool")] == ["one", "early"]
        save(tmp_path / "words.py", "GREETING = 'two'\n")
        until(server, "two")
        save(tmp_path / "words.py", "GREETING = \n")
        until(server, "invalid syntax")


@pytest.mark.parametrize("start", ["exec", "spawn"])
def test_workers_that_import_the_program_do_so_anew(start: str, tmp_path: Path) -> None:
    write_program(tmp_path)
    with reloading(tmp_path, pool_start=start) as server:
        assert ask(server, "/pool") == "early"
        save(tmp_path / "late.py", "WORD = 'later'\n")
        until(server, "later", "/pool")


def test_off_the_main_thread_and_without_a_file_it_is_refused() -> None:
    said: List[str] = []

    def start() -> None:
        with pytest.raises(Exception, match="the main thread") as refused:
            Reloader(ProgramCall("script", "x", (), "."), DEFAULT_SETTINGS).run()
        said.append(str(refused.value))

    one = threading.Thread(target=start)
    one.start()
    one.join()
    assert len(said) == 1


def test_the_program_of_the_page_does_what_the_page_says(
    root: Path, tmp_path: Path
) -> None:
    (program,) = python_blocks(root / "docs" / "developing.md")[:1]
    (tmp_path / "app.py").write_text(program, encoding="utf-8")
    with reloading(tmp_path, reload=0, debug=0) as server:
        assert ask(server) == "Hello"
        save(tmp_path / "app.py", program.replace("Hello", "Good evening"))
        until(server, "Good evening")
        assert "/_pixie/refresh.js" in server.get("/", {"Accept": "text/html"}).text


# Files --------------------------------------------------------------------------------


def test_a_look_tells_what_has_changed_appeared_and_gone(tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "c.txt"):
        (tmp_path / name).write_text(name)
    watcher = Watcher(str(tmp_path))
    watcher.look()
    assert watcher.look() == []
    (tmp_path / "a.py").write_text("longer")
    (tmp_path / "b.py").unlink()
    (tmp_path / "c.txt").write_text("no Python")
    (tmp_path / "d.py").write_text("")
    assert [os.path.basename(f) for f in watcher.look()] == ["a.py", "b.py", "d.py"]
    assert watcher.look() == []
    outside = tmp_path / "c.txt"
    watcher.add([str(outside)], [])
    assert watcher.look() == []
    outside.write_text("is watched now")
    assert watcher.settle(watcher.look()) == [str(outside)]


def test_what_is_hidden_or_of_others_is_not_looked_at(tmp_path: Path) -> None:
    for path in (".git/a.py", "node_modules/a.py", "__pycache__/a.py", "in/deep/a.py"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("")
    (tmp_path / "env" / "lib").mkdir(parents=True)
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    (tmp_path / "env" / "lib" / "a.py").write_text("")
    (tmp_path / "in" / "loop").symlink_to(tmp_path)
    assert [*files_below(str(tmp_path), ".py")] == [str(tmp_path / "in/deep/a.py")]
    assert [*files_below(str(tmp_path / "none"))] == []


# In a browser -------------------------------------------------------------------------


def shown(browser: Browser) -> str:
    return str(browser.run("return document.body ? document.body.innerText : ''"))


@pytest.mark.browser
def test_open_pages_load_themselves_anew(browser: Browser, tmp_path: Path) -> None:
    write_program(tmp_path)
    with reloading(tmp_path, debug=1) as server:
        browser.open(server.url)
        assert shown(browser) == "one"
        save(tmp_path / "words.py", "GREETING = 'two'\n")
        browser.until(lambda: "two" in shown(browser), "the second program")
        save(tmp_path / "words.py", "GREETING =\n")
        browser.until(lambda: "SyntaxError" in shown(browser), "the error")
        save(tmp_path / "words.py", "GREETING = 'three'\n")
        browser.until(lambda: "three" in shown(browser), "the third program")
        # What is no page that a browser shows stays as it is.
        assert ask(server) == "three"
        page = server.get("/", {"Accept": "text/html"}).text
        assert page.startswith('three<script src="/_pixie/refresh.js" integrity="sha')
    browser.complaints()  # of what was asked for between two programs


def test_without_debug_no_page_is_touched(tmp_path: Path) -> None:
    write_program(tmp_path)
    with reloading(tmp_path) as server:
        assert server.get("/", {"Accept": "text/html"}).text == "one"
        assert server.get("/_pixie/news").status == 404
