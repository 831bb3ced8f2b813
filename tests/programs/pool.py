"""Handlers that die, hang and wait, for the tests of the pool.

They say where they are in files of the program's directory; `wait(name)` waits there
for a file that the test makes. Tests replace some lines and put more routes in, for
which it imports more than it needs.
"""

import contextvars
import ctypes
import itertools
import logging
import os
import random
import re
import resource
import signal  # noqa: F401
import subprocess
import sys
import threading
import time

from pixie_web import Pixie, Response, RouteType, proc_env, route, run  # noqa: F401


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


def pipes():
    names = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
    return {os.readlink(name) for name in names if os.path.exists(name)}


@route("/fork-pipes")
def forks_and_counts(env):
    before = pipes()
    child = os.fork()
    if not child:
        gone = {one for one in before - pipes() if one.startswith("pipe:")}
        note("gone", len(gone))
        os._exit(0)
    os.waitpid(child, 0)
    with open("gone") as file:
        return file.read()


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
    try:
        note("in-stop", os.getpid())
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
