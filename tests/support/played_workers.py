"""A pool of which the test plays the zygote and the workers, frame by frame.

    @in_virtual_time
    async def test_a_worker_answers() -> None:
        async with played(workers=1) as stage:
            asked = stage.ask("/pool")
            await quiet()
            worker = stage.worker()
            worker.ready()
            await quiet()
            worker.respond(b"done")
            assert (await asked).body == b"done"

The pool is the real one, and so are pipes, sockets and frames; it can't tell. The child
that it starts as its zygote hands its socket on to the test, and waits for the end.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import importlib
import itertools
import os
import signal
import socket
import sys
import termios
from contextlib import asynccontextmanager
from time import sleep
from typing import Any, AsyncIterator, Dict, List, NamedTuple, Optional, Tuple

from virtual_time import quiet

from pixie_web import Pixie, Request, Response, RouteType
from pixie_web.executors.base import Route
from pixie_web.executors.pool.frames import (
    FRAME,
    RESULT,
    Flag,
    FrameType,
    PoolOptions,
    decode_run,
)
from pixie_web.executors.pool.pool import Pool
from pixie_web.executors.pool.zygote import (
    _ORDER,
    _REPORT,
    EXITED,
    START,
    STARTED,
    Launch,
)
from pixie_web.protocol.http11 import parse_head
from pixie_web.requests import Disconnect
from pixie_web.text import load_json

HAND_ON = """
import array, os, select, socket, sys
hand, control = map(int, sys.argv[1:])
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [control]))]
socket.socket(fileno=hand).sendmsg([b"%d" % os.getpid()], rights)
hung_up = select.poll()
hung_up.register(control, 0)
hung_up.poll()
"""


def application() -> Pixie:
    """Return an application with a route of each kind that a pool runs."""
    app = Pixie()

    def returns(env: Any) -> str:
        raise AssertionError("the test plays the worker")

    def yields(env: Any) -> Any:
        raise AssertionError("the test plays the worker")
        yield

    where = RouteType.pool
    app.route("/pool", where)(returns)
    app.route("/other", where)(returns)
    app.route("/upload", where, "POST")(returns)
    app.route("/limited", where, limit=1)(returns)
    app.route("/hasty", where, timeout=2, queue_timeout=3)(returns)
    app.route("/few", where, max_waiting=2)(returns)
    app.route("/few-streams", RouteType.stream, max_waiting=2)(yields)
    app.route("/stop", where, on_disconnect="stop")(returns)
    app.route("/kill", where, on_disconnect="kill")(returns)
    app.route("/endless", where, timeout=float("inf"))(returns)
    app.route("/stream", RouteType.stream)(yields)
    app.route("/stream-kill", RouteType.stream, on_disconnect="kill")(yields)
    return app


class Got(NamedTuple):
    """A frame that a worker has got from main."""

    kind: int
    flags: int
    route: int
    number: int
    payload: bytes

    @property
    def request(self) -> Request:
        """The request of a job, as a worker reads it."""
        header = FRAME.pack(len(self.payload), *self[:-1])
        return decode_run(header + self.payload, self.flags)


class PlayedWorker:
    """What main takes for a worker; it does what the test says, and ends when killed.

    Attributes:
        got: the frames that have come from main.
        signals: what main has had it signalled.
        hung_up: main has closed its pipes.
        ended: it has.
    """

    def __init__(self, zygote: PlayedZygote, number: int, files: List[int]) -> None:
        self.number = number
        self.got: List[Got] = []
        self.signals: List[int] = []
        self.hung_up = self.ended = False
        self.stays = False  # it does not end when it is hung up on
        self.got_ready = False  # it has said so
        self._answers = 0
        self._zygote = zygote
        self._incoming, self._outgoing, self._trace = files
        self._data = b""
        os.set_blocking(self._incoming, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._incoming, self._read)

    def _read(self) -> None:
        data = os.read(self._incoming, 1 << 20)
        if not data:
            self._loop.remove_reader(self._incoming)
            self.hung_up = True
            if not self.stays and not self.is_busy:
                self.end()  # in the midst of a job it would not see that
            return
        self._data += data
        while len(self._data) >= FRAME.size:
            size, *rest = FRAME.unpack_from(self._data)
            end = FRAME.size + size
            if len(self._data) < end:
                return
            self.got.append(Got(*rest, self._data[FRAME.size : end]))
            self._data = self._data[end:]

    @property
    def setup(self) -> Any:
        """What it was told to boot with."""
        assert self.got[0].kind == FrameType.BOOT
        return load_json(self.got[0].payload)

    @property
    def jobs(self) -> List[Got]:
        """The jobs that it was given, in order."""
        return [one for one in self.got if one.kind == FrameType.RUN]

    @property
    def is_busy(self) -> bool:
        """Whether it has a job that it has not come to the end of."""
        return len(self.jobs) > self._answers

    @property
    def unread_bytes(self) -> int:
        """How much of what it has sent main has not read."""
        found = fcntl.ioctl(self._outgoing, termios.FIONREAD, bytes(4))
        return int.from_bytes(found, sys.byteorder)

    @property
    def cancels(self) -> int:
        """How often it was told that a client has gone."""
        return sum(one.kind == FrameType.CANCEL for one in self.got)

    # What it may do.

    def send(self, kind: int, flags: int = 0, payload: bytes = b"") -> None:
        """Send a frame, about the last job; it must fit into the pipe."""
        number = self.jobs[-1].number if self.jobs else 0
        self.write(FRAME.pack(len(payload), kind, flags, 0, number) + payload)

    def write(self, data: bytes) -> None:
        """Send bytes, which may be no frame."""
        assert os.write(self._outgoing, data) == len(data)

    def ready(self, table: bytes = b"") -> None:
        """Say that it has booted."""
        self.got_ready = True
        self.send(FrameType.READY, 0, table)

    def respond(
        self, body: bytes = b"", status: int = 200, retire: bool = False
    ) -> None:
        """Answer the job."""
        self._answers += 1
        flags = Flag.RETIRE if retire else 0
        self.send(FrameType.RESPONSE, flags, RESULT.pack(status, len(body), 0) + body)

    def begin(self, size: int = -1) -> None:
        """Begin an answer in pieces."""
        self.send(FrameType.HEAD, 0, RESULT.pack(200, size, 0))

    def chunk(self, data: bytes, more: bool = False) -> None:
        """Send a piece of an answer."""
        self.send(FrameType.DATA, Flag.MORE if more else 0, data)

    def finish(self, flags: int = 0) -> None:
        """End an answer in pieces."""
        self._answers += 1
        self.send(FrameType.END, flags)

    def note_trace(self, text: bytes) -> None:
        """Write where it is, as it does when it is asked to."""
        os.write(self._trace, text)

    def end(self, status: int = 0) -> None:
        """End, with a status as of `os.waitpid`; the zygote reports it."""
        if self.ended:
            return
        self.close()
        self._zygote.report(EXITED, self.number, status)

    def close(self) -> None:
        """Close its ends of the pipes."""
        self.ended = True
        self._loop.remove_reader(self._incoming)
        for one in (self._incoming, self._outgoing, self._trace):
            os.close(one)

    def signal(self, number: int) -> None:
        """Get a signal; of these SIGKILL alone ends it."""
        self.signals.append(number)
        if number == signal.SIGKILL:
            self.end(signal.SIGKILL)


class PlayedZygote:
    """What main takes for its zygote: starts and signals played workers."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.pid = pid
        self.workers: List[PlayedWorker] = []
        self._control = control
        control.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control.fileno(), self._obey)
        header = control.recv(FRAME.size)
        self.setup = load_json(control.recv(FRAME.unpack(header)[0]))

    def _obey(self) -> None:
        data, rights, _, _ = self._control.recvmsg(_ORDER.size, socket.CMSG_SPACE(12))
        if not data:
            self.close()
            return
        what, number, value = _ORDER.unpack(data)
        if what == START:
            files = array.array("i")
            files.frombytes(rights[0][2])
            self.workers.append(PlayedWorker(self, number, list(files)))
            return
        for worker in self.workers:
            if worker.number == number and not worker.ended:
                worker.signal(value)

    def report(self, what: int, number: int, status: int = 0, pid: int = 0) -> None:
        """Tell main of a worker."""
        if self._control.fileno() >= 0:
            self._control.send(_REPORT.pack(what, number, pid, status))

    def started(self, number: int, pid: int) -> None:
        """Tell main which process a worker is."""
        self.report(STARTED, number, pid=pid)

    def die(self) -> None:
        """End, with all of its workers."""
        os.kill(self.pid, signal.SIGKILL)
        self.be_killed()

    def be_killed(self) -> None:
        """End, as main has wanted by a signal."""
        for _ in range(3000):
            ended = os.WEXITED | os.WNOHANG | os.WNOWAIT  # main reaps it
            if os.waitid(os.P_PID, self.pid, ended) is not None:
                break
            sleep(0.01)
        else:
            raise AssertionError("main has not killed its zygote")
        self.close()

    def stop_reading(self) -> None:
        """Take no more orders."""
        self._loop.remove_reader(self._control.fileno())

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, or main has hung up on it."""
        return self._control.fileno() < 0

    def close(self) -> None:
        """Close all that it has open."""
        if self._control.fileno() < 0:
            return
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        for worker in self.workers:
            if not worker.ended:
                worker.close()


class Stage:
    """A pool, its played zygotes and workers, and clients.

    Attributes:
        launches: whether another zygote can be started.
    """

    def __init__(self, **options: Any) -> None:
        # Each stage counts its own requests.
        chapter: Any = importlib.import_module("pixie_web.requests")
        chapter._numbers = itertools.count(1)
        self.application = application()
        program = self.application.freeze()
        self.routes: Dict[str, Route] = {one.path: one for one in program.routes}
        self.zygotes: List[PlayedZygote] = []
        self.launches = True
        self.asked: List[asyncio.Task[Response]] = []
        self.table = program.table
        self._hand, self._its_hand = socket.socketpair()
        self._its_hand.set_inheritable(True)
        settings = PoolOptions(**options)
        self.pool = Pool(program, settings, "exec", self._launch)
        self.pool.boots_at_once = 100  # whatever machine this is

    def _launch(self) -> Launch:
        if not self.launches:
            raise OSError("the test allows for no more")
        asyncio.get_running_loop().call_soon(self._meet)
        code = [sys.executable, "-SEc", HAND_ON, str(self._its_hand.fileno())]
        return Launch(code, {})

    def _meet(self) -> None:
        pid, rights, _, _ = self._hand.recvmsg(32, socket.CMSG_SPACE(4))
        control = socket.socket(fileno=int.from_bytes(rights[0][2][:4], sys.byteorder))
        self.zygotes.append(PlayedZygote(control, int(pid)))

    def close(self) -> None:
        for zygote in self.zygotes:
            zygote.close()
        self._hand.close()
        self._its_hand.close()

    # Workers.

    @property
    def workers(self) -> List[PlayedWorker]:
        """All workers that were ever started, in order."""
        return [worker for zygote in self.zygotes for worker in zygote.workers]

    def worker(self) -> PlayedWorker:
        """Return the one that was started last."""
        return self.workers[-1]

    async def booted(self, count: int) -> List[PlayedWorker]:
        """Have the first workers boot, of which there have to be so many."""
        await quiet()
        assert len(self.workers) == count
        for worker in self.workers:
            worker.ready()
        await quiet()
        return self.workers

    # Clients.

    def request(self, path: str) -> Request:
        head = parse_head(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return Request(head, disconnect=Disconnect())

    def ask(
        self, path: str, request: Optional[Request] = None
    ) -> asyncio.Task[Response]:
        """Ask for a route, in a task of its own."""
        request = request or self.request(path)
        run = self.pool.run(self.routes[path], request)
        self.asked.append(asyncio.get_running_loop().create_task(run))
        return self.asked[-1]

    def ask_and_leave(self, path: str) -> Tuple[asyncio.Task[Response], Disconnect]:
        """The same, and return what says that the client has left."""
        request = self.request(path)
        return self.ask(path, request), request.disconnect

    @property
    def counts(self) -> Dict[str, int]:
        """How many jobs and streams have a slot, and how many wait."""
        stats = self.pool.stats()
        return {name: stats[name] for name in ("busy", "streams", "waiting")}


@asynccontextmanager
async def played(**options: Any) -> AsyncIterator[Stage]:
    """Run a pool of played workers for as long as the block lasts.

    Args:
        options: of the pool; one worker, where nothing else is said.
    """
    stage = Stage(**{"workers": 1, **options})
    try:
        stage.pool.prepare()
        await quiet()
        await stage.pool.start()
        yield stage
    finally:
        await quiet()  # a zygote may be about to be met
        await stage.pool.stop()
        stage.close()
        for task in stage.asked:
            task.cancel()
        await asyncio.gather(*stage.asked, return_exceptions=True)
