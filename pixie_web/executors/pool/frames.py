"""The frames of the pool, and the program as a worker has it.

A frame is twelve bytes of header and a payload. The header: payload bytes, type,
flags, index of the route, number of the request.
"""

from __future__ import annotations

import os
import struct
from enum import IntEnum
from functools import lru_cache
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Sequence,
    Tuple,
)

from ...errors import PixieError
from ...protocol.http11 import is_header_block, parse_head
from ...requests import Request
from ...sessions import Session
from ...text import dump_json, load_json
from ..base import MAX_WAITING, MAX_WAITING_BYTES, Route
from ..streams import Answer

TIMEOUT_GRACE_SECONDS = 0.5  # from the soft exception to SIGKILL
WORKER_NICENESS = 5  # below main, which has to answer everybody in the meantime
WORKER_IDLE_SECONDS = 30.0  # then a worker that is one too many ends; PHP-FPM 10 s
MAX_CRASHES = 3  # of a route, within the window: it is switched off for a while
MAX_FRAME_BYTES = 256 * 1024 * 1024  # a worker that announces more has gone mad
RECEIVE_BYTES = 65_536  # at once, from a worker or from main
MAX_KEPT_HEADS = 256  # in each worker,
MAX_KEPT_HEAD_BYTES = 2048  # and of each: half a megabyte in all
ANSWER_TOKEN_BYTES = 16  # at random, behind an answer that lies in a worker's file

FRAME = struct.Struct("!IBBHI")
_RUN = struct.Struct("!IBBHIII")  # the same, then of RUN: record bytes, head bytes
RESULT = struct.Struct("!HqI")  # status, body bytes or -1, header block bytes


class FrameType(IntEnum):
    """The types of frames."""

    RUN = 1  # main to worker
    CANCEL = 2
    BOOT = 3
    READY = 16  # and back
    RESPONSE = 17
    HEAD = 18
    DATA = 19
    END = 20
    FILE = 21
    LOG = 22  # its flags are the level
    ORDER = 24  # a job for main to start
    LOST = 23  # with debug: the names of globals that a handler has changed


_DATA = int(FrameType.DATA)  # PERF: each name of an Enum costs 0.1 us


class Flag(IntEnum):
    """The flags of a frame; several at once.

    PERF: an IntFlag computes in Python: 0.7 to 1.4 us for each `&`, 0.1 us like this.
    """

    DEBUG = 1  # of RUN
    HTTPS = 2
    SPOOLED = 4  # of RUN and FILE: in place of the body there is its file
    RETIRE = 8  # of RESPONSE, FILE and END: the worker will take no more
    BROKEN = 16  # of END: the stream did not come to its end
    MORE = 32  # of DATA: the chunk goes on in the next frame
    HTTP2 = 64  # of RUN
    HTTP3 = 128


def encode_run(route: Route, number: int, request: Request) -> Tuple[bytes, bytes]:
    """Return the frame that sends a request to a worker: the least that can travel.

    It is the head as received, what main alone knows, as lines of text, and the body
    or the path of its file. The path's arguments are found once more in the worker.
    """
    context = dump_json(request.context).decode() if request.context else ""
    if type(request.held_session) is Session:
        # A list, where a context is an object: no key of it could pass for a session.
        told = [request.context, request.held_session.hand_over()]
        context = dump_json(told).decode()
    host, port = request.client
    paths = f"{request.prefix}\n{request.root_path}"
    text = f"{host}\n{port}\n{request.host}\n{paths}\n{context}"
    record = text.encode("utf-8", "surrogatepass")
    if record.count(b"\n") != 5:
        raise PixieError(f"a host, a prefix and a client have no line break: {text}")
    flags = Flag.DEBUG if request.debug else 0
    if request.scheme == "https":
        flags |= Flag.HTTPS
    if request.head.version >= "2":
        flags |= Flag.HTTP2 if request.head.version == "2" else Flag.HTTP3
    if request.body_file is None:
        body = request.body
    else:
        body = os.fsencode(request.body_file.path)
        flags |= Flag.SPOOLED
    head = request.head.raw
    texts = len(record), len(head)
    size = _RUN.size - FRAME.size + sum(texts) + len(body)
    header = _RUN.pack(size, FrameType.RUN, flags, route.index, number, *texts)
    return header + record + head, body


# PERF: clients repeat their heads, and main has proved each of them; 2 of 25 us.
_parse_again = lru_cache(maxsize=MAX_KEPT_HEADS)(parse_head)


def decode_run(frame: bytes, flags: int) -> Request:
    """Return the request of a RUN frame, as `encode_run` wrote it.

    A body in a file is opened here and now: main keeps its own open until the job has
    ended, and not a moment longer.

    Raises:
        OSError: the body's file can't be opened.
    """
    record_size, head_size = _RUN.unpack_from(frame)[-2:]
    head_start = _RUN.size + record_size
    body_start = head_start + head_size
    record = frame[_RUN.size : head_start].decode("utf-8", "surrogatepass")
    host, port, authority, prefix, root_path, context = record.split("\n")
    raw = frame[head_start:body_start]
    if flags >= Flag.HTTP2:  # one of the two highest
        head = parse_head(raw)
        head.version = "3" if flags & Flag.HTTP3 else "2"
    else:
        head = (_parse_again if len(raw) <= MAX_KEPT_HEAD_BYTES else parse_head)(raw)
    request = Request(
        head,
        (host, int(port)),
        "https" if flags & Flag.HTTPS else "http",
        debug=bool(flags & Flag.DEBUG),
    )
    request.host = authority
    request.prefix, request.root_path = prefix, root_path
    if context:
        told: Any = load_json(context.encode())
        if isinstance(told, list):
            told, request.held_session = told
        request.context = told
    body = frame[body_start:]
    if flags & Flag.SPOOLED:
        request.open_body(os.fsdecode(body))
    else:
        request.body = body
    return request


def read_result(payload: bytes) -> Tuple[int, int, bytes, bytes]:
    """Return status, size, header block and the rest of a frame that begins an answer.

    SECURITY: a worker runs code we do not know; what it sends is checked before it is
    put on the wire.

    Raises:
        PixieError: no such status can be, or no such block.
        struct.error: the frame is too short.
    """
    status, size, block_size = RESULT.unpack_from(payload)
    at = RESULT.size + block_size
    block = payload[RESULT.size : at]
    if not 200 <= status <= 999 or not is_header_block(block):
        raise PixieError("a malformed response")
    return status, size, block, payload[at:]


class FrameBuffer:
    """Turns what arrives from a worker into frames: (header, payload) pairs.

    Pieces of a stream that have come together are one frame, with the flags of the last
    one. Where one ends and the next one begins means nothing to a client (RFC 9112
    section 7.1).

    Attributes:
        last_bytes: of the last piece that has come, as the worker sent it.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._awaited = FRAME.size  # so many of it are needed to go on
        self.last_bytes = 0

    def feed(self, data: bytes) -> Iterable[Tuple[Tuple[int, ...], bytes]]:
        """Take bytes and iterate over the frames that are complete now.

        Raises:
            PixieError: a frame announces more than MAX_FRAME_BYTES.
        """
        if not self._data and len(data) >= FRAME.size:
            header = FRAME.unpack_from(data)
            if len(data) == FRAME.size + header[0]:
                # PERF: one whole frame, as almost always: a third of the time.
                self.last_bytes = header[0]
                return ((header, data[FRAME.size :]),)
        return self._split(data)

    def _split(self, data: bytes) -> Iterator[Tuple[Tuple[int, ...], bytes]]:
        self._data += data
        if len(self._data) < self._awaited:
            return
        # PERF: one copy, and names of its own: 0.4 us less for each piece.
        data, unpack, head_size = bytes(self._data), FRAME.unpack_from, FRAME.size
        self._data.clear()
        pieces: List[bytes] = []
        last: Tuple[int, ...] = ()
        at, size, self._awaited = 0, len(data), head_size
        while at + head_size <= size:
            header = unpack(data, at)
            start = at + head_size
            end = start + header[0]
            if end > size:
                if header[0] > MAX_FRAME_BYTES:
                    raise PixieError(f"a worker announced a frame of {header[0]} bytes")
                self._awaited = end - at
                break
            if pieces and (header[1] != _DATA or header[4] != last[4]):
                yield last, b"".join(pieces)
                pieces = []
            if header[1] == _DATA:
                pieces.append(data[start:end])
                last = header
            else:
                yield header, data[start:end]
            at = end
        self.last_bytes = last[0] if last else 0
        if pieces:
            yield last, b"".join(pieces)
        self._data += data[at:]


LOST_WARNING = (
    "%s: %s changed in a worker, and is lost there: no other process sees it. Keep it "
    "in main (RouteType.sync, thread, asnc), or in a file or database"
)


def cpu_count() -> int:
    """Return how many CPUs this process may use: affinity and cgroup quota."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        count = min(count, max(1, int(int(quota) / int(period) + 0.5)))
    except (OSError, ValueError):
        pass  # no cgroup, or "max": no quota
    return count


class PoolOptions(NamedTuple):
    """How a pool is run; arguments of run(), and of app.pool() for one more."""

    workers: int = -1  # as many as CPUs; 0: its routes run in threads of main
    min_workers: int = -1  # kept while there is nothing to do; -1: all of them
    max_streams: int = -1  # at once; -1: STREAMS_PER_WORKER for each worker
    worker_idle_seconds: float = WORKER_IDLE_SECONDS
    nice: int = WORKER_NICENESS
    timeout_grace_seconds: float = TIMEOUT_GRACE_SECONDS
    max_crashes: int = MAX_CRASHES  # 0: a route may crash as often as it likes
    max_waiting: int = MAX_WAITING
    max_waiting_bytes: int = MAX_WAITING_BYTES
    # A worker is replaced when it has done so much, is so old, has so much memory after
    # a request; 0: never.
    max_tasks_per_worker: int = 0
    max_worker_age_seconds: float = 0.0
    max_worker_bytes: int = 0
    worker_memory_limit_bytes: int = 0  # who asks for more gets a MemoryError


class Program(NamedTuple):
    """The application, as far as a worker needs it.

    Forked workers inherit it; the others import it afresh, and tell main what they
    have found, so that none runs another handler than the one that was asked for.
    """

    routes: Sequence[Route]
    answer: Answer
    on_worker_start: Sequence[Callable[[], object]]
    on_worker_stop: Sequence[Callable[[], object]]
    pool_starts: Mapping[str, Callable[[], object]]  # of the workers of a named pool
    fresh: bool = False  # imported by this process, not inherited from main

    @property
    def table(self) -> bytes:
        """The routes as lines of text, the same in each process of a program."""
        lines = []
        for route in self.routes:
            handler = route.handler
            module = getattr(handler, "__module__", "")
            # The main program has another name where it is imported, and so has the
            # single file.
            module = {"__mp_main__": "__main__", __name__: "pixie_web"}.get(
                module, module
            )
            name = getattr(handler, "__qualname__", type(handler).__qualname__)
            verbs = ",".join(route.methods)
            lines.append(f"{verbs} {route.path} {route.placement.name} {module}.{name}")
        return "\n".join(lines).encode("utf-8", "surrogatepass")


Load = Callable[[Dict[str, Any]], Program]
