"""The pool under load: overload, orderly stops, and a soak of everything at once."""

from __future__ import annotations

import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List

import pytest
from pooling import (
    PROGRAM,
    answer_on,
    ask,
    asking,
    descriptors,
    directory,
    figure,
    hang_up,
    head_of,
    is_idle,
    make,
    reset,
    resident_bytes,
    wait_for_note,
    workers,
    zombies,
)
from support import (
    LONG,
    MATRIX,
    ONE,
    PAIR,
    Server,
    children,
    process_is_alive,
    serve,
    wait_for,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# How long the soak is; in CI it is a short one.
SOAK_SECONDS = float(os.environ.get("PIXIE_SOAK_SECONDS", 60 if LONG else 2))


def in_threads(count: int, work: Callable[[int], None]) -> List[threading.Thread]:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    return threads


# Overload -----------------------------------------------------------------------------


@pytest.mark.parametrize("loop, start", MATRIX)
def test_ten_times_too_much_is_rejected_and_all_else_is_answered(
    loop: str, start: str
) -> None:
    statuses: Dict[int, int] = {}
    without: List[str] = []
    options = {"loop": loop, "pool_start": start, "workers": 1, "max_waiting": 16}
    with serve(PROGRAM, **options) as server:
        ask(server, "/pid")

        def offer(number: int) -> None:
            for turn in range(100 if LONG else 4):
                answer = server.get(f"/sometimes/t{number}-{turn}")
                statuses[answer.status] = statuses.get(answer.status, 0) + 1
                if answer.status == 503 and not answer.headers["retry-after"]:
                    without.append(answer.text)

        threads = in_threads(40, offer)
        answered = 0
        while any(thread.is_alive() for thread in threads):
            assert server.get("/main").status == 200
            answered += 1
        assert set(statuses) == {200, 503}
        assert (without, answered > 0) == ([], True)
        wait_for(lambda: is_idle(server), "all slots are free")


def test_stalled_readers_and_a_full_route_starve_nobody() -> None:
    # Two workers, twenty readers that do not read, and a route with a full line.
    with serve(PROGRAM, workers=2, max_streams=24) as server:
        streams = [f"/endless/stalled-{number}" for number in range(20)]
        full = ["/limited/full"] * 17
        with asking(server, *streams, *full) as connections:
            for number in range(20):
                wait_for_note(server, f"in-stalled-{number}")
            wait_for_note(server, "in-full")
            for _ in range(20):
                assert ask(server, "/pid")[0] == 200
            assert server.get("/limited/full").status == 503
            make(server, "full")
            assert [answer_on(one).status for one in connections[20:]] == [200] * 17
            for one in connections[:20]:
                reset(one)
        for number in range(20):
            wait_for_note(server, f"out-stalled-{number}")
        wait_for(lambda: is_idle(server), "all slots are free")


# The end ------------------------------------------------------------------------------


@pytest.mark.parametrize("loop, start", MATRIX)
def test_a_supervisor_that_signals_all_processes_costs_no_request(
    loop: str, start: str
) -> None:
    with serve(PROGRAM, loop=loop, pool_start=start, workers=2) as server:
        paths = ["/wait/a", "/wait/b", "/quiet/c", "/sometimes/d", "/sometimes/e"]
        with asking(server, *paths) as connections:
            for name in "abc":
                wait_for_note(server, f"in-{name}")
            wait_for(lambda: server.get("/main").json["waiting"] == 2, "two wait")
            below = children(server.pid)
            for pid in (*below, server.pid):  # systemd's KillMode=control-group
                os.kill(pid, signal.SIGTERM)
            server.wait_for_log("waiting for 5 requests")
            for name in "abc":
                make(server, name)
            answers = [answer_on(one) for one in connections]
        assert [answer.status for answer in answers] == [200] * 5
        assert server.wait() == 0
        wait_for(lambda: not any(map(process_is_alive, below)), "all are gone")
        assert "Traceback" not in server.log


@pytest.mark.parametrize("loop, start", ONE)
def test_a_second_signal_ends_it_at_once(loop: str, start: str) -> None:
    with serve(PROGRAM, loop=loop, pool_start=start, workers=2) as server:
        with asking(server, "/wait/never", "/hang/stubborn", "/endless/on"):
            for name in ("in-never", "stubborn", "in-on"):
                wait_for_note(server, name)
            below = children(server.pid)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_log("a second signal cuts them off")
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.wait() == 0
            figure("ended after a second signal", time.monotonic() - began)
        wait_for(lambda: not any(map(process_is_alive, below)), "all are gone")


@pytest.mark.parametrize("loop, start", MATRIX)
def test_a_key_press_ends_it_without_a_traceback(
    loop: str, start: str, tmp_path: Path
) -> None:
    # Ctrl-C sends SIGINT to the foreground group of a terminal.
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    settings = {"HOST": "127.0.0.1", "PORT": "0", "WORKERS": "2", "LOOP": loop}
    settings["POOL_START"] = start
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL],
        cwd=str(tmp_path),
        env={**os.environ, **{f"PIXIE_{key}": settings[key] for key in settings}},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    said = b""
    try:
        while b"main process" not in said:
            said += os.read(main, 65_536)
        (port,) = re.findall(rb"on http://127.0.0.1:(\d+)", said)
        with socket.create_connection(("127.0.0.1", int(port)), 30) as one:
            one.sendall(head_of("/wait/key"))
            wait_for((tmp_path / "in-key").exists, "a handler runs")
            os.write(main, b"\x03")
            while b"waiting for 1 request" not in said:
                said += os.read(main, 65_536)
            (tmp_path / "key").touch()
            assert answer_on(one).status == 200
        try:
            for part in iter(lambda: os.read(main, 65_536), b""):
                said += part
        except OSError:
            pass  # the other side is closed
        assert process.wait(30) == 0, said
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(main)
    assert b"Traceback" not in said, said.decode()


# Makes the terminal the one of this session, and runs the program in it.
TERMINAL = """
import fcntl, runpy, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
import os, sys
os.execv(sys.executable, [sys.executable, "program.py"])
"""


# Everything at once -------------------------------------------------------------------


def mix(
    server: Server,
    until: float,
    problems: List[str],
    counts: Counter[str],
    number: int,
) -> None:
    """Ask for all kinds of things until a time, and leave some of them early."""
    choose = random.Random(number)
    turn = 0
    while time.monotonic() < until:
        turn += 1
        token = f"t{number}-{turn}"
        path, expected = choose.choice(
            [
                (f"/sometimes/{token}", (200, 502, 503)),
                (f"/token/{token}/{choose.randint(1, 40)}", (200, 502, 503, 504)),
                ("/exit/3", (502, 503)),
                ("/sys-exit", (500, 502, 503)),
                ("/raises", (500, 502, 503)),
                ("/large/400000", (200, 502, 503)),
                (f"/endless/{token}", ()),
            ]
        )
        if choose.random() < 0.01:
            way = choose.choice(["loop", "sleep", "c", "stubborn"])
            path, expected = f"/hang/{way}", (502, 503, 504)
        counts[path.split("/")[1]] += 1
        with server.connect(4096 if not expected else 0) as one:
            one.sendall(head_of(path))
            if not expected or choose.random() < 0.2:
                data = one.recv(choose.randint(1, 100_000))
                for _ in range(choose.randint(0, 9)):
                    if expected or not data.startswith(b"HTTP/1.1 200"):
                        break  # it may be all that comes
                    data += one.recv(choose.randint(1, 100_000))
                    time.sleep(0.01)  # a slow reader's pace
                (reset if choose.random() < 0.5 else hang_up)(one)
                continue
            answer = answer_on(one)
            if answer.status not in expected:
                problems.append(f"{path}: {answer.status}")
            elif token in path and answer.status == 200 and answer.text != token:
                problems.append(f"{path}: {answer.text}")


@pytest.mark.parametrize("loop, start", PAIR)
def test_nothing_is_left_of_a_mix_of_everything(
    loop: str, start: str, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    shared = set(os.listdir("/dev/shm"))
    settings = {"loop": loop, "pool_start": start, "access_log": False}
    settings.update(max_tasks_per_worker=50, max_crashes=0, worker_idle_seconds=0.2)
    environment = {"TMPDIR": str(spool)}
    with serve(PROGRAM, workers=2, environment=environment, **settings) as server:
        problems: List[str] = []
        memory: List[int] = []
        for last in (False, True):
            counts: Counter[str] = Counter()
            kills = 0
            until = time.monotonic() + (
                SOAK_SECONDS if last else SOAK_SECONDS / 20 + 0.4
            )
            threads = in_threads(8, partial(mix, server, until, problems, counts))
            while any(thread.is_alive() for thread in threads):
                # Not those that boot: with "spawn" none would ever be ready.
                for pid in server.get("/booted").json[:1] if last else []:
                    try:
                        os.kill(pid, signal.SIGKILL)
                        kills += 1
                    except ProcessLookupError:
                        pass
                if last:
                    memory.append(resident_bytes(server.pid))
                time.sleep(0.1)  # the pace of the killing
            assert problems == []
            wait_for(lambda: is_idle(server), "all slots are free")
            wait_for(lambda: len(workers(server)) == 2, "two workers are left")
            for note in directory(server).glob("*-t*"):
                note.unlink()
            if not last:
                before = state(server)
        wait_for(lambda: state(server)[:2] <= before[:2], "descriptors and threads")
        after = state(server)
        quarter = len(memory) // 4
        second, fourth = (
            sorted(memory[at : at + quarter])[quarter // 2]
            for at in (quarter, 3 * quarter)
        )
        figure(
            "soak",
            seconds=SOAK_SECONDS,
            requests=dict(counts),
            kills=kills,
            wrong=len(problems),
            before=before,
            after=after,
            median_memory=[second, fourth],
        )
        assert after[2] < before[2] + 16_000_000
        if SOAK_SECONDS >= 60:  # it has settled by then
            assert fourth < 1.02 * second
        assert zombies(children(server.pid)) == []
        # The place of the state stays as long as the server does.
        assert [p for p in spool.iterdir() if "pixie_web-state" not in p.name] == []
        # Others may use it too; what they have there now will go while this one runs.
        left = set(os.listdir("/dev/shm")) - shared
        wait_for(lambda: not left & set(os.listdir("/dev/shm")), "no memory is left")
        for pid in children(server.pid):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"resource_tracker" not in command


def state(server: Server) -> List[int]:
    """Return main's descriptors, threads, memory, and the processes below it."""
    threads = len(os.listdir(f"/proc/{server.pid}/task"))
    memory, below = resident_bytes(server.pid), len(children(server.pid))
    return [descriptors(server.pid), threads, memory, below]
