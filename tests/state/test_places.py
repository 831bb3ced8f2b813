"""`run(state=...)`: where the state of a server lies, from its start to its end."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest
from shapes import place_lone_file
from support import STARTS, serve

from pixie_web import Pixie, PixieError

PROGRAM = """
from pixie_web import RouteType, app, run

state = app.state  # before there is one

@app.on_start
def start():
    state.incr("started")

@app.on_worker_start
def start_worker():
    state.incr("workers")

@app.get("/")
def index(env):
    return {"n": state.incr("n"), "started": state.get("started")}

@app.get("/here", RouteType.sync)
def here(env):
    return {"n": state.incr("n"), "where": state.store.path}

@app.get("/crash")
def crash(env):
    import os
    state.lock("job", lease=600).__enter__()
    os._exit(1)

@app.get("/lock")
def lock(env):
    with state.lock("job", wait=20):
        return "mine"

if __name__ == "__main__":
    run()
"""


def left_in(directory: Path) -> List[str]:
    return [one.name for one in directory.glob("pixie_web-state-*")]


@pytest.mark.parametrize("start", STARTS)
def test_all_processes_share_it_and_nothing_is_left(tmp_path: Path, start: str) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    with serve(PROGRAM, pool_start=start, environment=environment) as server:
        assert server.get("/").json == {"n": 1, "started": 1}
        here = server.get("/here").json
        assert here["n"] == 2
        assert Path(here["where"]).parent.parent == tmp_path
        assert server.get("/").json["n"] == 3
    assert left_in(tmp_path) == []


def test_a_path_outlives_the_server(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for n in (1, 2):
        with serve(PROGRAM, state=path) as server:
            assert server.get("/").json == {"n": n, "started": n}
    assert path.exists()


def test_what_a_killed_server_has_left_goes_at_the_next_start(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    with serve(PROGRAM, environment=environment) as server:
        server.get("/")
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait()
    assert len(left_in(tmp_path)) == 1
    with serve(PROGRAM, environment=environment) as one:
        first = left_in(tmp_path)
        assert len(first) == 1
        with serve(PROGRAM, environment=environment) as two:  # it is not stale
            assert two.get("/").json["n"] == 1
            assert len(left_in(tmp_path)) == 2
        assert left_in(tmp_path) == first
        assert one.get("/").json["n"] == 1
    assert left_in(tmp_path) == []


def test_the_lock_of_a_worker_that_dies_is_free_at_once(tmp_path: Path) -> None:
    with serve(PROGRAM) as server:
        assert server.get("/crash").status == 502
        assert server.get("/lock").text == "mine"


def refused(directory: Path, **variables: str) -> str:
    program = directory / "program.py"
    program.write_text(PROGRAM)
    ended = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PIXIE_PORT": "0", **variables},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def test_a_place_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    path = str(tmp_path / "other.db")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t(x)")
    connection.close()
    own = {"TMPDIR": str(tmp_path)}
    text = refused(tmp_path, PIXIE_STATE=path, **own)
    assert "is a database of another program; name another file in state=" in text
    text = refused(tmp_path, PIXIE_STATE=str(tmp_path / "no" / "s.db"), **own)
    assert "a file in a directory that is there" in text
    assert left_in(tmp_path) == []


def test_a_redis_that_does_not_answer_is_told_at_the_start(tmp_path: Path) -> None:
    pytest.importorskip("redis")  # no server is needed for this
    url = f"unix://user:secret@{tmp_path}/no.sock"
    text = refused(tmp_path, PIXIE_STATE=url)
    assert "does not answer" in text
    assert "secret" not in text


def test_without_a_server_there_is_no_place() -> None:
    app = Pixie()
    state = app.state
    assert app.state is state
    assert app.stats()["state"] is None
    with pytest.raises(PixieError, match="hooks, while the server runs"):
        state.get("key")


def test_the_lone_file_says_what_it_needs(tmp_path: Path) -> None:
    place_lone_file(tmp_path)
    program = "from pixie_web import app, MissingExtra\ntry: app.state\n"
    program += "except MissingExtra as error: print(error)"
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    told = subprocess.check_output(
        command, cwd=str(tmp_path), env=environment, text=True
    )
    assert told == "app.state is in the package, not in the single file\n"
