"""A handler that outlives its request reads its own upload, or an error: no other's.

A large body lies in a file, which main closes some time. Its descriptor's number, and
each path that names it, then belong to the next upload that comes. So in each test a
request ends in some way while its handler goes on; nine other uploads arrive; and only
then does the handler read its body, its form and its files.
"""

from __future__ import annotations

import json
import signal
import socket
from contextlib import ExitStack
from typing import Any, Dict, NamedTuple

import pytest
from pooling import directory, make, reset, wait_for_note
from support import (
    MATRIX,
    Server,
    process_is_alive,
    read_until,
    serve,
    server_fixture,
    wait_for,
)

pytestmark = pytest.mark.skipif("not __import__('os').path.isdir('/proc/self/fd')")

PROGRAM = r"""
import asyncio, functools, io, json, os, threading, time
from pixie_web import RouteType, route, run

OWN, FOREIGN = b"\x01", b"\x02"

def exists(name):
    return os.path.exists(name)

def wait(name):
    while not exists(name):
        time.sleep(0.005)

async def wait_on_loop(name):
    while not exists(name):
        await asyncio.sleep(0.005)

def note(name, text=""):
    with open(f"{name}.{threading.get_ident()}.part", "w") as file:
        file.write(str(text))
    os.replace(f"{name}.{threading.get_ident()}.part", name)

def judge(read):
    try:
        data = read()
    except Exception as error:
        return "gone" if "its request has ended" in str(error) else repr(error)
    if FOREIGN in data:
        return "foreign"
    return "own" if OWN * 100 in data else f"neither: {data[:20]}"

def saved(env):
    target = io.BytesIO()
    env.files["file"].save(target)
    return target.getvalue()

def begin(env, name):
    if name.endswith("late"):
        return None
    opened = env.files["file"].file
    opened.read(1)
    return opened

def report(env, name, opened):
    note(f"saw-{name}", json.dumps({
        "opened": judge(opened.read) if opened else "own",
        "saved": judge(lambda: saved(env)),
        "form": judge(lambda: env.form["field"].encode()),
        "body": judge(lambda: env.body),
    }))

def later(env, name, opened):
    note(f"ending-{name}")
    wait(f"go-{name}")
    report(env, name, opened)

def plain(env, name):
    opened = begin(env, name)
    try:
        note(f"in-{name}", os.getpid())  # here: it may be stopped at once
        wait(f"end-{name}")
    finally:
        later(env, name, opened)

def leaking(env, name):
    opened = begin(env, name)
    note(f"in-{name}", os.getpid())
    threading.Thread(target=later, args=(env, name, opened)).start()
    return "left behind"

def silent(env, name):
    opened = begin(env, name)
    try:
        note(f"in-{name}", os.getpid())
        yield b"first"
        wait(f"end-{name}")
    finally:
        later(env, name, opened)

def stream(env, name):
    opened = begin(env, name)
    try:
        note(f"in-{name}", os.getpid())
        while not exists(f"end-{name}"):
            yield b"."
            time.sleep(0.005)
    finally:
        later(env, name, opened)

async def coroutine(env, name):
    opened = begin(env, name)
    try:
        note(f"in-{name}", os.getpid())
        await wait_on_loop(f"end-{name}")
    finally:
        await wait_on_loop(f"go-{name}")
        report(env, name, opened)

async def cancelled(env, name):
    asyncio.get_running_loop().call_later(0.01, asyncio.current_task().cancel)
    return await coroutine(env, name)

def begin_and_report(env, name):
    opened = begin(env, name)
    note(f"in-{name}", os.getpid())
    later(env, name, opened)

async def in_thread(env, name):
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, begin_and_report, env, name)

async def leaking_coroutine(env, name):
    return leaking(env, name)

async def async_stream(env, name):
    opened = begin(env, name)
    try:
        note(f"in-{name}", os.getpid())
        while not exists(f"end-{name}"):
            yield b"."
            await asyncio.sleep(0.005)
    finally:
        await wait_on_loop(f"go-{name}")
        report(env, name, opened)

def declare(case, placement, handler, **options):
    route(f"/<name:re:{case}-(?:early|late)>", placement, "POST", **options)(handler)

for placement, handler in (("thread", plain), ("asnc", coroutine), ("pool", plain)):
    declare(f"{placement}-deadline", placement, handler, timeout=1)
    declare(f"{placement}-finish", placement, handler)
    declare(f"{placement}-stop", placement, handler, on_disconnect="stop")
for placement in ("sync", "thread", "pool"):
    declare(f"{placement}-leak", placement, leaking)
declare("asnc-leak", "asnc", leaking_coroutine)
declare("asnc-cancel", "asnc", cancelled)
declare("executor-deadline", "asnc", in_thread, timeout=1)
declare("executor-stop", "asnc", in_thread, on_disconnect="stop")
declare("async_stream-left", "asnc", async_stream)
declare("thread_stream-left", "thread", stream)
declare("stream-left", "stream", stream)
declare("stream-deadline", "stream", silent, timeout=1)
declare("stream-kill", "stream", stream, on_disconnect="kill")
declare("pool-kill", "pool", plain, on_disconnect="kill")

@route("/hold/<name>/<number:int>", "asnc", "POST")
async def hold(env, name, number):
    note(f"held-{name}-{number}")
    await wait_on_loop(f"free-{name}")
    return "held" if judge(lambda: env.body) == "foreign" else "mixed up"

run(timeout_grace_seconds=60, threads=20)
"""


class Case(NamedTuple):
    """A way in which a request ends.

    Attributes:
        leaves: whether its client leaves; else it gets an answer.
        is_over: whether the request has ended while its handler goes on.
        may_be_gone: whether the handler has ended too, and only a thread goes on.
        is_killed: whether nothing goes on.
        is_interrupted: whether a signal ends what the handler does. It may come by way
            of the zygote, and later than the answer, as that of a kill.
    """

    leaves: bool = False
    is_over: bool = True
    may_be_gone: bool = False
    is_killed: bool = False
    is_interrupted: bool = False


CASES = {
    "sync-leak": Case(may_be_gone=True),
    "thread-deadline": Case(),
    "thread-finish": Case(leaves=True, is_over=False),
    "thread-stop": Case(leaves=True, is_over=False),
    "thread-leak": Case(may_be_gone=True),
    "thread_stream-left": Case(leaves=True),
    "asnc-deadline": Case(),
    "asnc-finish": Case(leaves=True, is_over=False),
    "asnc-stop": Case(leaves=True, is_over=False),
    "asnc-cancel": Case(is_over=False),
    "asnc-leak": Case(may_be_gone=True),
    "executor-deadline": Case(may_be_gone=True),
    "executor-stop": Case(leaves=True, may_be_gone=True),
    "async_stream-left": Case(leaves=True),
    "pool-deadline": Case(is_interrupted=True),
    "pool-finish": Case(leaves=True, is_over=False),
    "pool-stop": Case(leaves=True, is_interrupted=True),
    "pool-kill": Case(leaves=True, is_killed=True),
    "pool-leak": Case(may_be_gone=True),
    "stream-left": Case(leaves=True),
    "stream-deadline": Case(is_interrupted=True),
    "stream-kill": Case(leaves=True, is_killed=True),
}
OTHERS = 9


def upload(path: str, letter: bytes) -> bytes:
    """Return a request with a form that is spooled: a field, and a file."""
    part = b'--frontier\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    body = part % (b"field", b"", letter * 1000)
    body += part % (b"file", b'; filename="f"', letter * 300_000)
    body += b"--frontier--\r\n"
    return (
        b"POST %s HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=frontier\r\n\r\n%s"
    ) % (path.encode(), len(body), body)


class Others:
    """The other uploads: half of each is sent at first, the rest when all is ready."""

    def __init__(self, server: Server, name: str, stack: ExitStack) -> None:
        self._server, self._name = server, name
        self._rest = []
        for number in range(OTHERS):
            data = upload(f"/hold/{name}/{number}", b"\x02")
            one = stack.enter_context(server.connect())
            one.sendall(data[:100_000])
            self._rest.append((one, data[100_000:]))

    def arrive(self) -> None:
        for one, rest in self._rest:
            one.sendall(rest)
        for number in range(OTHERS):
            wait_for_note(self._server, f"held-{self._name}-{number}")

    def end(self) -> None:
        make(self._server, f"free-{self._name}")
        for one, _ in self._rest:
            assert read_until(one, b"\r\n\r\nheld").startswith(b"HTTP/1.1 200 ")


def end_request(server: Server, case: Case, name: str, one: socket.socket) -> None:
    """Have the request end as its case says; return when main has done with it."""
    mark = server.mark()
    if case.leaves:
        reset(one)
    if case.is_over:
        server.wait_for_log(f'"POST /{name} ', since=mark if case.leaves else 0)


def played(server: Server, name: str, drains: bool = False) -> Any:
    """Play a case; return what its handler saw, by the way in which it read."""
    case = CASES[name.rpartition("-")[0]]
    with ExitStack() as stack:
        others = Others(server, name, stack)
        one = stack.enter_context(server.connect())
        one.sendall(upload(f"/{name}", b"\x01"))
        pid = int(wait_for_note(server, f"in-{name}"))
        if drains:
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: refuses(server), "it takes no more connections")
        end_request(server, case, name, one)
        others.arrive()
        if case.is_interrupted:
            wait_for_note(server, f"ending-{name}")
        if case.is_killed:
            wait_for(lambda: not process_is_alive(pid), "it is killed")
        make(server, f"go-{name}")
        make(server, f"end-{name}")
        seen = None
        if not case.is_killed:
            seen = json.loads(wait_for_note(server, f"saw-{name}"))
        assert case.is_killed == (not (directory(server) / f"saw-{name}").exists())
        others.end()
    return seen


def refuses(server: Server) -> bool:
    try:
        with server.connect():
            return False
    except (ConnectionRefusedError, ConnectionResetError):
        return True


def check(seen: Any, case: Case) -> None:
    if case.is_killed:
        return
    allowed = {"own", "gone"} if case.may_be_gone else {"own"}
    assert set(seen) == {"opened", "saved", "form", "body"}
    assert set(seen.values()) <= allowed, seen


# A worker that was interrupted is not killed before its handler has said what it saw.
SETTINGS: Dict[str, Any] = {"workers": 2, "timeout_grace_seconds": 20}
server = server_fixture(PROGRAM, MATRIX, **SETTINGS)


NAMES = [f"{case}-{when}" for case in CASES for when in ("early", "late")]


@pytest.mark.parametrize("name", NAMES)
def test_a_handler_never_reads_the_upload_of_another(server: Server, name: str) -> None:
    check(played(server, name), CASES[name.rpartition("-")[0]])


@pytest.mark.parametrize("loop,start", MATRIX)
@pytest.mark.parametrize(
    "name",
    [
        "thread-deadline",
        "asnc-deadline",
        "pool-stop",
        "stream-left",
        "async_stream-left",
    ],
)
def test_not_while_the_server_drains_either(name: str, loop: str, start: str) -> None:
    with serve(PROGRAM, loop=loop, pool_start=start, **SETTINGS) as server:
        check(played(server, f"{name}-late", drains=True), CASES[name])
        assert server.wait() == 0
