"""The pool, and handlers, clients and operators that mean it ill."""

from __future__ import annotations

import http.client
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from typing import List

import pytest
from pooling import (
    answer_on,
    ask,
    asking,
    figure,
    hang_up,
    head_of,
    is_idle,
    reset,
    wait_for_note,
    with_routes,
    zombies,
    zygote,
)
from support import (
    LONG,
    ONE,
    PAIR,
    Server,
    children,
    process_is_alive,
    read_until,
    serve,
    server_fixture,
    wait_for,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ATTACKS = with_routes(r"""
import json, stat, struct

# What its own pipes can be used for.

def this_worker():
    frame = sys._getframe()
    while not hasattr(frame.f_locals.get("self"), "_request_number"):
        frame = frame.f_back
    return frame.f_locals["self"]

def frame(kind, payload=b"", flags=0, other=0, size=None):
    number = this_worker()._request_number + other
    size = len(payload) if size is None else size
    return struct.pack("!IBBHI", size, kind, flags, 0, number) + payload

def result(block, rest=b"", status=200):
    return struct.pack("!HqI", status, len(rest), len(block)) + block + rest

PLAIN = b"Content-Type: text/plain\r\n"
READY, RESPONSE, HEAD, DATA, END, FILE, LOG = range(16, 23)

def garbage(kind):
    if kind == "noise":
        return bytes(range(255, 0, -1))
    if kind == "short":
        return frame(RESPONSE, b"x")
    if kind == "unknown":
        return frame(99)
    if kind == "other":
        return frame(RESPONSE, result(PLAIN, b"forged"), other=1)
    if kind == "twice":
        return frame(RESPONSE, result(PLAIN, b"forged"))
    if kind == "status":
        return frame(RESPONSE, result(PLAIN, b"forged", 100))
    if kind == "split":
        return frame(RESPONSE, result(PLAIN + b"\r\nHTTP/1.1 200 OK\r\n", b"forged"))
    if kind == "ready":
        return frame(READY)
    if kind == "data":
        return frame(DATA, b"forged")
    if kind == "end":
        return frame(END)
    if kind == "options":
        return frame(FILE, result(PLAIN) + b"5\0/etc/passwd")
    if kind == "no-file":
        return frame(FILE, result(PLAIN) + b"/no/such", flags=4)
    if kind == "pipe":
        if not os.path.exists("pipe"):
            os.mkfifo("pipe")
        name = b"token of 16 byte" + b"pipe"
        return frame(FILE, result(PLAIN, b"x" * 9)[:-9] + name, flags=4)
    if kind == "another":
        with open("another", "w") as file:
            file.write("x" * 9 + "token of another")
        name = b"token of 16 byte" + b"another"
        return frame(FILE, result(PLAIN, b"x" * 9)[:-9] + name, flags=4)
    if kind == "log":
        return frame(LOG, b"\xff\r\n\x1b[2J" * 99, flags=255)
    if kind == "half":
        return frame(RESPONSE, b"x" * 10, size=1_000_000)
    if kind == "announced":
        return frame(RESPONSE, size=255 << 20)

@route("/garbage/<kind>", timeout=0.3)
def sends_garbage(env, kind):
    os.write(this_worker()._outgoing, garbage(kind))
    return "late"

@route("/pipe/<which>")
def closes_its_pipe(env, which):
    os.close(getattr(this_worker(), f"_{which}"))
    return "late"

@route("/all-descriptors")
def close_all(env):
    os.closerange(0, 1024)
    return "late"

# Signals, groups and copies.

@route("/quick", timeout=0.3)
def quick(env):
    return str(os.getpid())

def stay(name):
    note(name, os.getpid())
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass

@route("/signals/<how>", timeout=0.3)
def signals(env, how):
    if how == "handler":
        signal.signal(signal.SIGUSR2, lambda *_: None)
        signal.signal(signal.SIGUSR1, lambda *_: None)
    elif how == "ignored":
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    elif how == "mask":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    elif how == "stop":
        note(how, os.getpid())
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "group":
        os.setpgid(0, os.getpgid(os.getppid()))
    stay(how)

@route("/bomb", on_disconnect="kill")
def bomb(env):
    started = []
    for _ in range(50):
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            while True:
                time.sleep(1000)
        started.append(pid)
    note("bomb", " ".join(map(str, [os.getpid(), *started])))
    time.sleep(1000)

@route("/daemon/<way>", timeout=0.5)
def daemon(env, way):
    # A copy that keeps all descriptors: no hook of Python runs, so the pipes too.
    fork = ctypes.PyDLL(None).fork if way == "c" else os.fork
    if fork() == 0:
        os.setsid()
        if fork() == 0:
            stay(f"daemon-{way}")
        os._exit(0)
    while not os.path.exists(f"daemon-{way}"):
        time.sleep(0.005)
    if way == "c":
        os._exit(3)
    time.sleep(1000)

@route("/kill-zygote")
def kill_zygote(env):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)

@route("/exec")
def becomes_another_program(env):
    note("exec", os.getpid())
    os.execv("/bin/sleep", ["sleep", "1000"])

# Limits.

@route("/deep")
def deep(env):
    sys.setrecursionlimit(1 << 30)
    def down(n):
        return down(n + 1)
    return down(0)

@route("/full-disk/<size:int>")
def full_disk(env, size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    return b"x" * size

@route("/nobody-reads", timeout=0.3)
def prints_what_nobody_reads(env):
    os.dup2(os.pipe()[1], 1)
    note("nobody", os.getpid())
    while True:
        print("x" * 1000)

@route("/echo/<token>")
def echo(env, token):
    time.sleep(random.random() * 0.01)
    return token

@route("/pieces/<token>", RouteType.stream)
def pieces(env, token):
    for _ in range(20):
        yield f"{token};"
        time.sleep(0.001)

@route("/drip", RouteType.stream)
def drip(env):
    note("drip", os.getpid())
    while True:
        yield b"0123456789"
""")


server = server_fixture(
    ATTACKS,
    ONE,
    workers=1,
    max_crashes=0,
    timeout_grace_seconds=0.1,
    expects="sent a malformed frame",
)


def works(server: Server, at_once: bool = True) -> bool:
    """Return whether main and a worker answer, and nothing is left in the pool."""
    assert server.get("/main").status == 200
    if not at_once:
        wait_for(lambda: ask(server, "/pid")[0] == 200, "a worker answers")
    assert ask(server, "/pid")[0] == 200
    wait_for(lambda: is_idle(server), "all slots are free")
    return True


# Its pipes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, status",
    [
        *((kind, 502) for kind in "noise short unknown other status split".split()),
        *((kind, 502) for kind in "ready data end options no-file".split()),
        ("twice", 200),
        ("log", 200),
        ("half", 504),
        ("announced", 504),
    ],
)
def test_garbage_costs_a_worker_its_place_and_its_request_alone(
    server: Server, kind: str, status: int
) -> None:
    for _ in range(1 if status == 504 else 3):
        answer = server.get(f"/garbage/{kind}")
        assert answer.status == status
        if status == 200:
            assert answer.text == {"twice": "forged", "log": "late"}[kind]
        # Whose next request it has got by then can't be helped.
        assert works(server, at_once=kind != "twice")


def test_an_answer_in_a_pipe_does_not_stop_main(server: Server) -> None:
    # Nobody writes to it: to open it would take forever.
    with asking(server, "/garbage/pipe") as (one,):
        assert works(server, at_once=False)
        assert answer_on(one).status == 502


def test_an_answer_in_the_file_of_another_is_not_sent(server: Server) -> None:
    # A worker that has died may have given its number to another one.
    with asking(server, "/garbage/another") as (one,):
        assert works(server, at_once=False)
        assert answer_on(one).status == 502


@pytest.mark.parametrize(
    "path, status",
    [("/pipe/incoming", 200), ("/pipe/outgoing", 502), ("/all-descriptors", 502)],
)
def test_a_worker_that_closes_a_pipe_has_died(
    server: Server, path: str, status: int
) -> None:
    # One that hears no more has answered yet, and takes no other request.
    before = int(ask(server, "/pid")[1])
    assert server.get(path).status == status
    wait_for(lambda: not process_is_alive(before), "the worker ends")
    assert works(server, at_once=False)


# Signals, groups and copies -----------------------------------------------------------


@pytest.mark.parametrize("loop, start", ONE)
def test_no_worker_can_be_kept_alive_by_what_it_does_with_signals(
    loop: str, start: str
) -> None:
    ways = ["handler", "ignored", "mask", "stop", "group"]
    settings = {"loop": loop, "pool_start": start, "timeout_grace_seconds": 0.1}
    with serve(ATTACKS, workers=6, min_workers=1, **settings) as server:
        # One is stopped while it has nothing to do, and takes the first request.
        stopped = int(ask(server, "/pid")[1])
        os.kill(stopped, signal.SIGSTOP)
        paths = ["/quick", *[f"/signals/{way}" for way in ways]]
        with asking(server, *paths) as connections:
            assert [answer_on(one).status for one in connections] == [504] * 6
        pids = [stopped, *[int(wait_for_note(server, way)) for way in ways]]
        assert works(server)
        wait_for(lambda: not any(map(process_is_alive, pids)), "all are gone")


def test_copies_by_the_dozen_go_with_their_worker(server: Server) -> None:
    with asking(server, "/bomb") as (one,):
        pids = [int(pid) for pid in wait_for_note(server, "bomb").split()]
        reset(one)
    assert len(pids) == 51
    wait_for(lambda: not any(map(process_is_alive, pids)), "all are gone")
    wait_for(lambda: zombies(children(server.pid)) == [], "no zombies")
    assert works(server)


@pytest.mark.parametrize("way, status", [("python", 504), ("c", 502)])
def test_a_daemon_outlives_its_worker_and_holds_up_nothing(
    server: Server, way: str, status: int
) -> None:
    # By setsid() it says that it wants to. In C it holds the worker's pipes as well,
    # so that no end of it is seen when the worker ends.
    assert server.get(f"/daemon/{way}").status == status
    pid = int(wait_for_note(server, f"daemon-{way}"))
    try:
        assert works(server)
        assert process_is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "it is reaped")


def test_a_handler_may_kill_what_starts_the_workers(server: Server) -> None:
    for _ in range(2):
        before = zygote(server)
        assert server.get("/kill-zygote").status == 502
        assert works(server)
        assert zygote(server) != before


def test_a_handler_that_becomes_another_program_is_one_that_died(
    server: Server,
) -> None:
    assert server.get("/exec").status == 502
    pid = int(wait_for_note(server, "exec"))
    wait_for(lambda: not process_is_alive(pid), "it is killed")
    assert works(server)


def test_what_starts_the_workers_may_be_stopped(server: Server) -> None:
    # It is woken by what main wants of it, and misses nothing meanwhile.
    for path, status in (("/exit/3", 502), ("/quick", 200), ("/signals/stop", 504)):
        assert works(server)
        os.kill(zygote(server), signal.SIGSTOP)
        assert server.get(path).status == status
        assert works(server)


@pytest.mark.skipif(not LONG, reason="it is waited for, for five seconds")
def test_it_ends_when_what_starts_the_workers_is_stopped() -> None:
    with serve(ATTACKS, workers=1) as server:
        ask(server, "/pid")
        below = children(server.pid)
        os.kill(zygote(server), signal.SIGSTOP)
        assert server.stop() == 0
        wait_for(lambda: not any(map(process_is_alive, below)), "all are gone")


# Limits -------------------------------------------------------------------------------


@pytest.mark.skipif(not LONG, reason="some Pythons take ten seconds for it")
@pytest.mark.parametrize("loop, start", ONE[:1])
def test_a_recursion_without_a_limit_ends_at_that_of_memory(
    loop: str, start: str
) -> None:
    # Where Python's stack is the C stack it is a fault, else memory runs out.
    settings = {"workers": 1, "worker_memory_limit_bytes": 60_000_000}
    with serve(ATTACKS, loop=loop, pool_start=start, **settings) as server:
        assert server.get("/deep").status in (500, 502)
        assert works(server)


@pytest.mark.parametrize("size", [300_000, 2_000_000])
def test_a_full_disk_is_no_reason_to_fail(server: Server, size: int) -> None:
    assert server.get(f"/full-disk/{size}").body == b"x" * size
    if size > 1 << 20:
        server.wait_for_log("no room on the disk for a large answer")
    assert server.get("/sys-exit").status == 500  # the limit goes with its worker
    assert works(server)


def test_a_worker_whose_output_nobody_reads_is_killed(server: Server) -> None:
    assert server.get("/nobody-reads").status == 504
    pid = int(wait_for_note(server, "nobody"))
    wait_for(lambda: not process_is_alive(pid), "the worker is gone")
    assert works(server)


def test_a_reader_of_single_bytes_learns_that_its_worker_died(server: Server) -> None:
    with server.connect(receive_buffer_bytes=4096) as one:
        one.sendall(head_of("/drip"))
        read_until(one, b"\r\n\r\n")
        os.kill(int(wait_for_note(server, "drip")), signal.SIGKILL)
        # Its slot is free, however long the client takes.
        assert works(server)
        seen = b""
        try:
            for part in iter(lambda: one.recv(1), b""):
                seen += part
        except ConnectionResetError:
            pass
    assert b"0\r\n\r\n" not in seen[-5:]


# Everything dies, and more ------------------------------------------------------------


def tell(server: Server, until: float, seen: List[str], number: int) -> None:
    """Ask for tokens until a time, as answers and as streams; note what comes."""
    choose = random.Random(number)
    turn = 0
    while time.monotonic() < until:
        turn += 1
        token = f"t{number}-{turn}"
        path, expected = choose.choice(
            [(f"/echo/{token}", token), (f"/pieces/{token}", f"{token};" * 20)]
        )
        with server.connect() as one:
            one.sendall(head_of(path))
            if choose.random() < 0.1:
                (reset if choose.random() < 0.5 else hang_up)(one)
                continue
            try:
                answer = answer_on(one)
            except (http.client.IncompleteRead, ConnectionResetError):
                seen.append("cut off")
                continue
        right = answer.status != 200 or answer.text == expected
        seen.append(str(answer.status) if right else f"{token} got {answer.text}")


def hurt(kind: str, server: Server) -> None:
    if kind == "hangup":
        server.process.send_signal(signal.SIGHUP)
        return
    booted = server.get("/booted").json
    if len(booted) >= 4:  # what was hurt before has recovered
        try:
            os.kill(zygote(server) if kind == "zygote" else booted[0], signal.SIGKILL)
        except ProcessLookupError:
            pass


KINDS = [["hangup"], ["hangup", "zygote", "worker"], ["zygote"]]


@pytest.mark.parametrize(
    "loop, start, kinds",
    [(*pair, kinds) for kinds in KINDS for pair in PAIR]
    if LONG
    else [(*pair, kinds) for pair, kinds in zip(PAIR, KINDS)],
)
def test_answers_and_streams_are_right_whatever_is_replaced_or_dies(
    loop: str, start: str, kinds: List[str]
) -> None:
    settings = {"loop": loop, "pool_start": start, "access_log": False}
    with serve(ATTACKS, workers=4, max_crashes=0, **settings) as server:
        seen: List[str] = []
        until = time.monotonic() + (5 if LONG else 1)
        threads = [
            threading.Thread(target=tell, args=(server, until, seen, number))
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        choose = random.Random(0)
        while any(thread.is_alive() for thread in threads):
            hurt(choose.choice(kinds), server)
            time.sleep(0.2)  # the pace of it
        figure("answers", **Counter(seen))
        allowed = {"200"} if kinds == ["hangup"] else {"200", "502", "cut off"}
        assert set(seen) <= allowed
        assert works(server)
        below = children(server.pid)
        hurt("zygote", server)
        server.process.send_signal(signal.SIGHUP)
        assert server.stop() == 0
        wait_for(lambda: not any(map(process_is_alive, below)), "all are gone")
