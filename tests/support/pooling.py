"""Ways to play with programs/pool.py, whose handlers die, hang and wait."""

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

from shapes import ROOT
from support import Answer, Server, children, process_is_alive, wait_for

PROGRAM = (ROOT / "tests" / "programs" / "pool.py").read_text("utf-8")


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
    """Return the live ones: one that has ended stays a zombie for a moment."""
    return [pid for pid in children(server.pid)[1:] if process_is_alive(pid)]


def is_idle(server: Server) -> bool:
    return not any(server.get("/main").json.values())
