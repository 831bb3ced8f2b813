"""Large requests and answers, which travel as files."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import struct
import sys
from types import SimpleNamespace
from typing import Any, List

import pytest
from pooling import (
    PROGRAM,
    answer_on,
    ask,
    asking,
    descriptors,
    head_of,
    is_idle,
    make,
    reset,
    resident_bytes,
    wait_for_note,
    workers,
)
from support import LONG, MATRIX, Server, serve, server_fixture, wait_for

from pixie_web.executors.base import Route, RouteType
from pixie_web.executors.pool.frames import ANSWER_TOKEN_BYTES, Flag, FrameType
from pixie_web.executors.pool.links import Job, Result, Retirement, WorkerLink

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
LARGE = PROGRAM.replace(
    "def pid(env):",
    """\
def pid(env):
    return str(os.getpid())

@route("/sum", method="POST", max_body_bytes=1 << 31)
def sum_of_body(env):
    import hashlib
    return hashlib.sha256(env.body).hexdigest()

@route("/late/<name>", method="POST")
def late(env, name):
    note(f"in-{name}")
    wait(name)
    note(f"read-{name}", len(env.body))
    return "read"

@app.after
def mark(env, response):
    if env.path.startswith("/marked"):
        response.headers["X-Mark"] = "1"

@route("/marked/<size:int>")
def marked(env, size):
    return b"y" * size, 201

def unused(env):""",
).replace("from pixie_web import", "from pixie_web import app,")
LIMIT = 256 * 1024


server = server_fixture(LARGE, MATRIX, workers=1)


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, 10_000_000])
def test_a_body_arrives_whole(server: Server, size: int) -> None:
    body = os.urandom(1000) * (size // 1000) + b"x" * (size % 1000)
    answer = server.request("POST", "/sum", body)
    assert answer.text == hashlib.sha256(body).hexdigest()


def test_a_body_may_be_read_when_its_client_has_left(server: Server) -> None:
    head = "POST /late/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
    with server.connect() as one:
        one.sendall(head.encode() + b"x" * 1_000_000)
        wait_for_note(server, "in-a")
        reset(one)
    make(server, "a")
    assert wait_for_note(server, "read-a") == "1000000"


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1, 10_000_000])
def test_a_large_answer_arrives_whole(server: Server, size: int) -> None:
    for path, status in ((f"/large/{size}", 200), (f"/marked/{size}", 201)):
        answer = server.get(path)
        assert (answer.status, len(answer.body)) == (status, size)
        assert len(set(answer.body)) == 1
        assert answer.headers["content-length"] == str(size)
        # It is no static file: nothing of that kind is promised or decided.
        for name in ("etag", "last-modified", "accept-ranges"):
            assert answer.headers[name] is None
        ranged = server.get(path, {"Range": "bytes=0-1"})
        assert (ranged.status, len(ranged.body)) == (status, size)
        head = server.request("HEAD", path)
        assert (head.status, head.headers["content-length"]) == (status, str(size))
    assert server.get(f"/marked/{size}").headers["x-mark"] == "1"


def test_large_answers_leave_nothing_behind(server: Server) -> None:
    ask(server, "/pid")
    (worker,) = workers(server)
    wait_for(lambda: is_idle(server), "nothing runs")
    before = descriptors(server.pid), descriptors(worker)
    for _ in range(5):
        assert len(server.get("/large/1000000").body) == 1_000_000
        assert server.request("HEAD", "/large/1000000").status == 200
        with asking(server, "/large/20000000") as (one,):
            one.recv(100)
            reset(one)
    assert ask(server, "/pid") == (200, str(worker))
    wait_for(
        lambda: (descriptors(server.pid), descriptors(worker)) <= before,
        "all files are closed",
    )


def test_a_slow_reader_of_a_large_answer_holds_no_worker(server: Server) -> None:
    size = 1_000_000_000 if LONG else 64_000_000
    before = ask(server, "/pid")
    was = resident_bytes(server.pid)
    with server.connect(receive_buffer_bytes=4096) as one:
        one.sendall(head_of(f"/large/{size}"))
        one.recv(1000)
        # The only worker is free, and no slot of a stream is taken.
        assert ask(server, "/pid") == before
        assert is_idle(server)
        assert resident_bytes(server.pid) - was < 8_000_000
        read = 0
        while read < size // 2:
            read += len(one.recv(1 << 20))
        assert resident_bytes(server.pid) - was < 8_000_000
        reset(one)


def test_an_answer_that_fits_in_no_file_is_sent_all_the_same() -> None:
    program = LARGE.replace(
        "run()\n", "import tempfile\ntempfile.tempdir = '/no'\nrun()"
    )
    with serve(program, workers=1) as server:
        with asking(server, "/large/3000000", "/pid") as (one, other):
            assert len(answer_on(one).body) == 3_000_000
            assert answer_on(other).status == 200
        server.wait_for_log("no room on the disk for a large answer")


def test_a_file_that_takes_half_an_answer_is_closed_at_once() -> None:
    # Or what is in it keeps the disk full until the worker's next request.
    limit = "    import resource\n"
    limit += "    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
    program = LARGE.replace(
        'return b"x" * size', f'pass\n{limit}    return b"x" * size'
    )
    with serve(program, workers=1) as server:
        (_, worker) = ask(server, "/pid")
        before = descriptors(int(worker))
        assert len(server.get("/large/3000000").body) == 3_000_000
        server.wait_for_log("no room on the disk for a large answer")
        wait_for(lambda: is_idle(server), "the end of the request")
        assert descriptors(int(worker)) == before
        assert ask(server, "/pid") == (200, worker)


def take_answer(results: List[Result]) -> WorkerLink:
    """Have a worker send a file that can't be opened; return what becomes of it."""

    async def deliver() -> WorkerLink:
        owner: Any = SimpleNamespace(
            retired=lambda worker: None, release=lambda *_: None
        )
        zygote: Any = SimpleNamespace(order=lambda *_: None)
        worker = WorkerLink(owner, 1, zygote)
        route = Route("/", ("GET",), print, RouteType.pool)
        route.index = 0
        worker.begin(Job(7, route, (b"", b""), results.append))
        block = b"Content-Type: a/b\r\n"
        name = bytes(ANSWER_TOKEN_BYTES) + b"/proc/0/fd/3"
        payload = struct.pack("!HqI", 200, 9, len(block)) + block + name
        header = struct.pack("!IBBHI", len(payload), FrameType.FILE, Flag.SPOOLED, 0, 7)
        worker.feed(header + payload)
        for descriptor in (worker._incoming, worker._outgoing, *worker.its_files):
            os.close(descriptor)
        return worker

    return asyncio.run(deliver())


def test_a_worker_that_dies_before_its_answer_is_opened_is_one_that_died(
    caplog: pytest.LogCaptureFixture,
) -> None:
    results: List[Result] = []
    assert take_answer(results).why is Retirement.lost
    assert [getattr(result, "status", 0) for result in results] == [502]
    assert caplog.text == ""


def test_a_worker_is_not_to_blame_where_main_has_no_descriptor_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    results: List[Any] = []
    monkeypatch.setattr(os, "open", no_more)
    worker = take_answer(results)
    assert (worker.job, worker.why) == (None, None)
    assert [(one.status, one.headers) for one in results] == [
        (503, {"Retry-After": "1"})
    ]
    assert "can't open a file for /: Too many open files" in caplog.text
