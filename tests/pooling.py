"""A program with handlers that die, hang and wait, and ways to play with it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator, List, Tuple

from support import Answer, Server, children, wait_for

# Handlers say where they are in files of the program's directory; `wait(name)` waits
# there for a file that the test makes.
PROGRAM = r"""
import contextvars, ctypes, itertools, logging, os, random, re, resource, signal
import subprocess, sys, threading, time
from pixie_web import Pixie, Response, RouteType, proc_env, route, run

def wait(name):
    while not os.path.exists(name):
        time.sleep(0.005)

def note(name, text=""):
    with open(f"{name}.{os.getpid()}.part", "w") as file:
        file.write(str(text))
    os.replace(f"{name}.{os.getpid()}.part", name)

@route("/pid")
def pid(env):
    return str(os.getpid())

@route("/main", RouteType.sync)
def main_state(env):
    stats = proc_env.pool.stats()
    return {name: stats[name] for name in ("busy", "streams", "waiting")}

@route("/booted", RouteType.sync)
def booted(env):
    found = proc_env.pool.stats()["workers"]
    return [one["pid"] for one in found if one["state"] in ("idle", "busy")]

@route("/sum", timeout=float("inf"))
def busy_in_c(env):
    note("in-sum", os.getpid())
    sum(itertools.repeat(0))

@route("/wait/<name>")
def wait_here(env, name):
    note(f"in-{name}", os.getpid())
    wait(name)
    return str(os.getpid())

# Ways to die.

@route("/exit/<code:int>")
def exit_at_once(env, code):
    os._exit(code)

@route("/segfault")
def segfault(env):
    ctypes.string_at(0)

@route("/signal/<number:int>")
def signal_myself(env, number):
    os.kill(os.getpid(), number)
    threading.Event().wait()

@route("/sys-exit")
def sys_exit(env):
    note("exited", os.getpid())
    sys.exit(3)

@route("/interrupt")
def interrupt(env):
    note("exited", os.getpid())
    raise KeyboardInterrupt

@route("/descriptors")
def close_descriptors(env):
    os.closerange(3, 1024)
    return "closed"

@route("/die/<size:int>", RouteType.stream)
def die_in_mid_stream(env, size):
    yield b"x" * size
    wait("die")
    os._exit(1)

# Ways to fail.

@route("/recursion")
def recursion(env):
    def down(n):
        return down(n + 1)
    return down(0)

class TwoArguments(Exception):
    def __init__(self, a, b):
        super().__init__(a)

    def __reduce__(self):
        raise TypeError("not to be pickled")

@route("/two")
def two_arguments(env):
    raise TwoArguments(1, 2)

@route("/lambda")
def returns_a_lambda(env):
    return lambda: None

@route("/memory")
def out_of_memory(env):
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, hard))
    try:
        return str(len(bytearray(1 << 32)))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

@route("/raises")
def raises(env):
    raise ValueError("on purpose")

@route("/print")
def prints(env):
    for _ in range(1000):
        print("x" * 1000)
        logging.getLogger("pixie_web").debug("x" * 1000)
    return "printed"

@route("/fork")
def forks(env):
    # The copy returns too, and would answer in the original's name, or in a file that
    # has the number of one of its pipes now.
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return "parent" + "+" * sum(os.stat(f"copy-{n}").st_size for n in range(3))
    for n in range(3):
        os.open(f"copy-{n}", os.O_CREAT | os.O_WRONLY)
    return "child"

@route("/orphan")
def leaves_an_orphan(env):
    child = os.fork()
    if not child:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
    return "done"

# Ways to hang: each starts a program first.

PROGRAMS = []

def start_a_program(name):
    started = subprocess.Popen(["sleep", "1000"])
    PROGRAMS.append(started)
    note(name, f"{os.getpid()} {started.pid}")

@route("/hang/loop", timeout=0.3)
def hang_in_python(env):
    start_a_program("loop")
    while True:
        pass

@route("/hang/sleep", timeout=0.3)
def hang_in_sleep(env):
    start_a_program("sleep")
    time.sleep(1000)

@route("/hang/c", timeout=0.3)
def hang_in_c(env):
    start_a_program("c")
    re.match("(a*)*b", "a" * 64)

@route("/hang/gil", timeout=0.3)
def hang_with_the_lock(env):
    start_a_program("gil")
    sum(itertools.repeat(0))

@route("/hang/stubborn", timeout=0.3)
def hang_and_refuse(env):
    start_a_program("stubborn")
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass

@route("/hang/polite", timeout=0.3)
def hang_politely(env):
    try:
        time.sleep(1000)
    finally:
        note("cleaned", "up")

@route("/hang/stream", RouteType.stream, timeout=0.3)
def hang_in_mid_stream(env):
    yield "first"
    time.sleep(1000)

# Queues.

@route("/impatient", queue_timeout=0.2)
def impatient(env):
    return "served"

@route("/limited/<name>", limit=1, max_waiting=16)
def limited(env, name):
    note(f"in-{name}")
    wait(name)
    return name

# Clients that leave.

def look_for_the_client(env, name):
    note(f"in-{name}", os.getpid())
    while not env.disconnected:
        time.sleep(0.005)
    note(f"out-{name}", os.getpid())
    return "done"

@route("/leave/finish", on_disconnect="finish")
def leave_finish(env):
    return look_for_the_client(env, "finish")

@route("/leave/stop", on_disconnect="stop")
def leave_stop(env):
    note("in-stop", os.getpid())
    try:
        time.sleep(1000)
    finally:
        note("out-stop", os.getpid())

@route("/leave/thread", RouteType.thread, on_disconnect="stop")
def leave_thread(env):
    return look_for_the_client(env, "thread")

@route("/leave/kill", on_disconnect="kill")
def leave_kill(env):
    note("in-kill", os.getpid())
    time.sleep(1000)

def count_up(env, name):
    try:
        for number in itertools.count():
            if number % 16 == 0:
                note(f"at-{name}", number)
            yield b"x" * 65536
    finally:
        note(f"out-{name}", os.getpid())

@route("/endless/<name>", RouteType.stream)
def endless(env, name):
    note(f"in-{name}", os.getpid())
    return (yield from count_up(env, name))

@route("/endless-thread/<name>", RouteType.thread, on_disconnect="stop")
def endless_in_a_thread(env, name):
    note(f"in-{name}", os.getpid())
    yield from count_up(env, name)

@route("/endless-kill/<name>", RouteType.stream, on_disconnect="kill")
def endless_until_killed(env, name):
    note(f"in-{name}", os.getpid())
    yield from count_up(env, name)

@route("/quiet/<name>", RouteType.stream, max_waiting=8)
def quiet(env, name):
    yield "first"
    note(f"in-{name}")
    wait(name)

@route("/large/<size:int>")
def large(env, size):
    return b"x" * size

# Mixed up?

@route("/token/<token>/<milliseconds:int>", timeout=0.02)
def token(env, token, milliseconds):
    time.sleep(milliseconds / 1000)
    return token

@route("/sometimes/<token>")
def sometimes(env, token):
    time.sleep(random.random() * 0.02)
    return token

variable = contextvars.ContextVar("variable", default="unset")

@route("/context/<value>")
def context(env, value):
    before = variable.get()
    variable.set(value)
    return f"{before} {variable.get()}"

@route("/where")
def where(env):
    return f"{proc_env.proc_type} {proc_env.worker} {proc_env.pool}"

@route("/random")
def random_number(env):
    return str(random.getrandbits(64))

if __name__ == "__main__":
    run()
"""


def with_routes(text: str) -> str:
    """Return the program with some more routes."""
    return PROGRAM.replace("\nif __name__", f"\n{text}\nif __name__")


def figure(name: str, *seconds: float, **values: object) -> None:
    """Note what was measured, in the file that PIXIE_FIGURES names: JSON, one a line.

    The suite asserts what happens, not how long it takes; this is for who asks that.
    """
    path = os.environ.get("PIXIE_FIGURES")
    if not path:
        return
    if seconds:
        ordered = sorted(1000 * one for one in seconds)
        values["count"] = len(ordered)
        for part in (50, 95, 99, 100):
            at = max(0, -(-len(ordered) * part // 100) - 1)
            values["max_ms" if part == 100 else f"p{part}_ms"] = round(ordered[at], 2)
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("::")[2].split(" ")[0]
    python = "{}.{}".format(*sys.version_info)
    with open(path, "a", encoding="utf-8") as file:
        file.write(
            json.dumps({"python": python, "test": test, "figure": name, **values})
        )
        file.write("\n")


def directory(server: Server) -> Path:
    """Return the directory that the program runs in."""
    return Path(os.readlink(f"/proc/{server.pid}/cwd"))


def wait_for_note(server: Server, name: str) -> str:
    path = directory(server) / name
    wait_for(path.exists, name)
    return path.read_text()


def make(server: Server, name: str) -> None:
    (directory(server) / name).touch()


def ask(server: Server, path: str) -> Tuple[int, str]:
    answer = server.get(path)
    return answer.status, answer.text


def head_of(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


@contextmanager
def asking(server: Server, *paths: str) -> Iterator[List[socket.socket]]:
    """Send requests, each on a connection of its own; the answers are read later."""
    with ExitStack() as stack:
        connections = []
        for path in paths:
            one = stack.enter_context(server.connect())
            one.sendall(head_of(path))
            connections.append(one)
        yield connections


def answer_on(one: socket.socket) -> Answer:
    response = http.client.HTTPResponse(one)
    response.begin()
    return Answer(response)


def reset(one: socket.socket) -> None:
    """Leave with a reset."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def hang_up(one: socket.socket) -> None:
    """Leave in the usual way."""
    one.close()


def half_close(one: socket.socket) -> None:
    """Say that no more will be sent, which is how leaving begins."""
    one.shutdown(socket.SHUT_WR)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def zombies(pids: List[int]) -> List[int]:
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state == "Z":
            found.append(pid)
    return found


def zygote(server: Server) -> int:
    return children(server.pid)[0]


def workers(server: Server) -> List[int]:
    return children(server.pid)[1:]


def is_idle(server: Server) -> bool:
    return not any(server.get("/main").json.values())
