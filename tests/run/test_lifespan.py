"""An application that is started, asked and stopped, without a server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, AsyncIterator, List

import pytest
from shapes import place_lone_file
from support import LOOPS, PATIENCE_SECONDS

from pixie_web import Pixie, PixieError, Request
from pixie_web.lifespan import Lifespan
from pixie_web.loops import cancel_tasks
from pixie_web.protocol.http11 import parse_head
from pixie_web.settings import read_settings

PROGRAM = """\
import asyncio, os
from pixie_web import Lifespan, Pixie, Request, parse_head, proc_env, read_settings

app = Pixie()

@app.route("/type")
def type_of_process(env):
    return f"{proc_env.proc_type.name} {os.getppid() == main}"

async def asked(lifespan):
    await lifespan.start()
    try:
        head = parse_head(b"GET /type HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        response = await app.handle(Request(head))
        return response.body
    finally:
        await lifespan.stop()

def has_children():
    try:
        return bool(os.waitpid(-1, os.WNOHANG) or True)
    except ChildProcessError:
        return False

main = os.getpid()
for _ in range(2):
    lifespan = Lifespan(app, read_settings({"workers": 1}, {}))
    lifespan.prepare()
    print(asyncio.run(asked(lifespan)), has_children())
lifespan = Lifespan(app, read_settings({"workers": 1}, {}))
lifespan.prepare()
print(has_children())
lifespan.abandon()
print(has_children())
"""


def prepared(app: Pixie, **settings: Any) -> Lifespan:
    lifespan = Lifespan(app, read_settings({"workers": 0, **settings}, {}))
    lifespan.prepare()
    return lifespan


def test_pools_live_from_its_start_to_its_stop(tmp_path: Path) -> None:
    place_lone_file(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=str(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    answer = "b'pool False' False\n"
    assert (done.stderr, done.stdout) == ("", f"{answer}{answer}True\nFalse\n")


@pytest.mark.parametrize("loop", LOOPS)
def test_it_runs_in_any_loop_and_once_more_in_another(loop: str) -> None:
    app = Pixie()
    events: List[object] = []
    app.on_start(lambda: events.append("start"))
    app.on_stop(lambda: events.append("stop"))

    @app.route("/thread", "thread")
    def thread(env: Any) -> str:
        return str(threading.current_thread() is threading.main_thread())

    async def asked(lifespan: Lifespan) -> None:
        await lifespan.start()
        head = parse_head(b"GET /thread HTTP/1.1\r\nHost: a\r\n\r\n")
        events.append((await app.handle(Request(head))).body)
        await lifespan.stop()

    for _ in range(2):
        lifespan = prepared(app, threads=3)
        assert app.stats()["threads"] == {"size": 3, "busy": 0, "waiting": 0}
        running = new_loop(loop)
        running.run_until_complete(asked(lifespan))
        running.close()
    assert events == ["start", b"False", "stop"] * 2


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop

        made: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return made
    return asyncio.new_event_loop()


def test_what_on_start_raises_ends_it_without_on_stop() -> None:
    app = Pixie()
    events: List[object] = []
    app.on_start(lambda: events.append(1 / 0))
    app.on_stop(lambda: events.append("stop"))
    lifespan = prepared(app)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(lifespan.start())
    assert events == []


def test_what_on_stop_raises_ends_it_all_the_same() -> None:
    app = Pixie()
    stopped: List[float] = []
    app.on_stop(lambda: 1 / 0)

    async def stop(seconds: float) -> None:
        stopped.append(seconds)

    lifespan = prepared(app)
    app.executors.stop = stop  # type: ignore[method-assign]
    lifespan.hurry()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(lifespan.stop())
    assert stopped == [0.0]


def test_a_start_that_can_not_be_says_why() -> None:
    app = Pixie()
    app.route("/x", pool="gpu")(lambda env: None)
    with pytest.raises(PixieError, match="there is no pool 'gpu'"):
        prepared(app)


def test_a_check_that_fails_calls_on_stop() -> None:
    class Pool:
        async def start(self) -> None:
            events.append("pool starts")

        async def check_boot(self) -> None:
            raise PixieError("no worker can boot")

        async def stop(self, seconds: float) -> None:
            events.append("pool stops")

    app = Pixie()
    events: List[object] = []
    app.on_start(lambda: events.append("start"))
    app.on_stop(lambda: events.append("stop"))
    lifespan = prepared(app)
    lifespan.pools["gpu"] = Pool()  # type: ignore[assignment]
    with pytest.raises(PixieError, match="no worker can boot"):
        asyncio.run(lifespan.check())
    assert events == ["pool starts", "start", "stop", "pool stops"]


def test_check_runs_what_a_start_runs() -> None:
    app = Pixie()
    events: List[object] = []
    app.on_start(lambda: events.append("start"))
    app.on_stop(lambda: events.append("stop"))
    app.check(workers=0, loop="asyncio", port=1)
    assert events == ["start", "stop"]
    with pytest.raises(SystemExit):
        app.check(certfile="/none")


def test_tasks_and_generators_that_are_left_end_with_the_loop() -> None:
    ended: List[str] = []

    async def wait(name: str) -> AsyncIterator[str]:
        try:
            yield "begun"
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def read() -> None:
        try:
            async for _ in wait("read"):
                pass
        finally:
            await asyncio.sleep(0.01)  # it takes a moment
            ended.append("task")

    async def leave() -> bool:
        task = asyncio.ensure_future(read())
        left = wait("left")
        await left.__anext__()
        await asyncio.sleep(0)
        await cancel_tasks()
        return task.cancelled()

    assert asyncio.run(leave())
    assert ended == ["read", "task", "left"]
