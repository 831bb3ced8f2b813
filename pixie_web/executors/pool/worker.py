"""Inside a worker."""

from __future__ import annotations

import inspect
import logging
import os
import select
import signal
import sys
import time
import types
from contextvars import Context, copy_context
from functools import partial
from typing import Any, BinaryIO, Dict, Mapping, Optional, Set, Tuple, cast

from ...about import log
from ...errors import PixieError, RequestTimeout
from ...forks import OUR_SIGNALS, default_signals, undo_in_copies
from ...requests import MAX_CHUNK_BYTES, ROOT_PATH, Request, log_failure
from ...responses import Response, StaticFile, is_stream
from ...text import dump_json, json_default_hook, load_json
from ..base import Handler, ProcessType, Route, proc_env
from ..streams import Chunks, HandlerLeft
from .frames import (
    ANSWER_TOKEN_BYTES,
    FRAME,
    RECEIVE_BYTES,
    RESULT,
    Flag,
    FrameType,
    Load,
    Program,
    decode_run,
)


class MainGone:
    """In a worker: whether main says that the client has gone, or is gone itself."""

    def __init__(self, worker: Worker, incoming: int) -> None:
        self._worker = worker
        self._poll = select.poll()
        self._poll.register(incoming, select.POLLIN)

    @property
    def gone(self) -> bool:
        """Look, without waiting: during a job only a CANCEL or the end can come."""
        return bool(self._worker.unread or self._poll.poll(0))


class FrameHandler(logging.Handler):
    """Sends a worker's log records of this framework to main, as text."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; in main it goes where main's records go."""
        text = self.format(record).encode("utf-8", "replace")
        try:
            self._worker.send(FrameType.LOG, min(record.levelno, 255), text)
        except OSError:
            pass  # main is gone, or this is a process that a handler forked


def do_nothing(*_: object) -> None:
    """Take any arguments: a signal handler that only wakes the process up."""


def fill_standard_descriptors() -> None:
    """Open /dev/null as 0, 1 and 2 where these are closed (`<&- >&-`).

    Or the next socket gets the number: print() of what is started would write there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # the lowest that is free is given out
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def keep_log() -> None:
    """Undo for this log what logging.config does by default to all that exist.

    `disable_existing_loggers` would silence every traceback and the access log. Who
    wants that sets a level, or `access_log=False`.
    """
    log.disabled = logging.getLogger("pixie_web.access").disabled = False


def reopen_log_files() -> int:
    """Open the files of all loggers again, as after logrotate; return how many."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    handlers = {one for logger in loggers for one in getattr(logger, "handlers", ())}
    count = 0
    for one in handlers:
        if isinstance(one, logging.FileHandler) and one.stream is not None:
            errors = getattr(one, "errors", None)  # Python 3.9
            try:
                # Never by its own mode: "w" would empty what nobody has moved away.
                new = open(  # noqa: SIM115
                    one.baseFilename, "a", encoding=one.encoding, errors=errors
                )
            except OSError as error:
                log.error("%s; the log goes on in the open file", error)
                continue
            old = one.setStream(new)
            if old is not None:
                old.close()
            count += 1
    return count


def prctl(option: int, argument: Any) -> None:
    """Ask something of the Linux kernel for this process; elsewhere, or refused: no."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass


def die_with_parent(pid: int) -> None:
    """Be killed when the zygote is killed (Linux); a belt beside the closed sockets."""
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != pid:
        os._exit(1)  # it died in between


def make_first_victim() -> None:
    """Have the kernel's out-of-memory killer take a worker before it takes main."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("300")
    except OSError:
        pass


# PERF: what signal.getsignal calls, without making enums: 12 us for six.
_get_handler = getattr(sys.modules.get("_signal"), "getsignal", signal.getsignal)


def _is_closed(file: Any) -> bool:
    return getattr(file, "closed", False)  # there may be none


class Surroundings:
    """The state of a process that a handler may change, and that is restored after it.

    The directory, the time zone, signal handlers, and print()'s way out. What a program
    sets before its worker's first job, in on_worker_start, is as it should be.
    """

    def __init__(self) -> None:
        names = ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGINT", "SIGTERM", "SIGUSR2")
        self._numbers = [int(getattr(signal, name)) for name in names]
        # PERF: the same by os.environ itself, which raises and catches: 1 us.
        self._variables: Mapping[bytes, bytes] = getattr(
            os.environ, "_data", os.environb
        )
        self._found = self._look()

    def _look(self) -> Tuple[Any, ...]:
        try:
            directory = os.getcwd()
        except OSError:
            directory = ""  # it has been removed
        zone = self._variables.get(b"TZ"), time.tzname
        handlers = list(map(_get_handler, self._numbers))
        out, err = sys.stdout, sys.stderr
        return directory, zone, handlers, (out, err), _is_closed(out), _is_closed(err)

    def restore(self) -> None:
        """Put back what differs from what was found at first."""
        found = self._look()
        if found == self._found:
            return
        directory, zone, handlers, files = self._found[:4]
        try:
            os.chdir(directory)
        except OSError as error:
            log.warning("a worker can't return to its working directory: %s", error)
        if found[1] != zone:
            os.environ.pop("TZ", None)
            os.environb.update({} if zone[0] is None else {b"TZ": zone[0]})
            time.tzset()
        for number, handler in zip(self._numbers, handlers):
            if handler is not None:  # one of C code can't be put back
                signal.signal(number, handler)
        if found[2][0] != handlers[0]:
            signal.alarm(0)  # or it would come to the next one
        sys.stdout, sys.stderr = (
            open(number, "w", 1, one.encoding, one.errors, closefd=False)  # noqa: SIM115
            if _is_closed(one)
            else one
            for number, one in enumerate(files, 1)
        )
        self._found = self._look()


def _stored_globals(code: types.CodeType) -> Set[str]:
    import dis

    stores = ("STORE_GLOBAL", "DELETE_GLOBAL")
    names = {one.argval for one in dis.get_instructions(code) if one.opname in stores}
    inner = [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return names.union(*map(_stored_globals, inner))


def module_state(handler: Handler) -> Dict[str, Tuple[object, int]]:
    """Return, by name, what a handler may change of its module: (value, length).

    That are the globals that its code stores, and all dicts, lists and sets.
    """
    function = inspect.unwrap(getattr(handler, "__func__", handler))
    scope = getattr(function, "__globals__", {})
    code = getattr(function, "__code__", None)
    stored = () if code is None else _stored_globals(code)
    state = {name: (scope.get(name), 0) for name in stored}
    for name, value in scope.items():
        if isinstance(value, (dict, list, set)) and not name.startswith("__"):
            state[name] = value, len(value)
    return state


class Worker:
    """A worker: takes one request after another from its pipe, and answers it.

    It ends when main closes the pipe, when a handler leaves by `sys.exit()`, or when
    the zygote kills it.

    Args:
        incoming, outgoing: the descriptors of its pipes.
        trace: of the file that takes tracebacks when it is killed.
        load: returns the program, given what the frame BOOT says.
    """

    def __init__(self, incoming: int, outgoing: int, trace: int, load: Load) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.unread = b""  # what came behind the last frame
        self._main_gone = MainGone(self, incoming)
        self._trace = trace
        self._load = load
        self._program: Program
        self._request_number = 0
        self._interruptible = False
        self._calls: Dict[Route, int] = {}  # with debug
        self._logs_moved = False  # they are opened again before the next job
        self._answer: Optional[BinaryIO] = None  # a large one, until main has opened it
        self._answer_name = b""  # its token and its path, for main to open it

    def serve(self) -> None:
        """Boot, then answer until main closes the pipe."""
        frame = self._next_frame()
        if frame is None:
            return
        self._boot(cast(Dict[str, Any], load_json(frame[FRAME.size :])))
        program, surroundings = self._program, Surroundings()
        self.send(FrameType.READY, 0, program.table if program.fresh else b"")
        for frame in iter(self._next_frame, None):
            _, kind, flags, index, number = FRAME.unpack_from(frame)
            # A CANCEL read here came too late: its job has ended. Or main says by it
            # that it has opened the answer's file.
            if self._answer is not None:
                self._answer.close()
                self._answer = None
            if kind == FrameType.RUN:
                if self._logs_moved:
                    self._logs_moved = False
                    reopen_log_files()
                self._request_number = number
                route = program.routes[index]
                request = decode_run(frame, flags)
                request.route, request.number = route, number
                if not route.pattern.is_static:
                    texts = route.pattern.match(request.path) or ()
                    request.params = route.pattern.convert(texts)
                if not self._run(route, request):
                    break
                surroundings.restore()
        for function in program.on_worker_stop:
            function()

    def _next_frame(self) -> Optional[bytes]:
        """Wait for the next frame, and return it whole; None: main has gone."""
        data = self.unread
        while len(data) < FRAME.size:
            # PERF: header and payload at once: 3 us.
            part = os.read(self._incoming, RECEIVE_BYTES)
            if not part:
                return None
            data += part
        end = FRAME.size + int(FRAME.unpack_from(data)[0])
        if len(data) < end:
            rest = self._receive(end - len(data))
            if rest is None:
                return None
            data += rest
        self.unread = data[end:]
        return data if len(data) == end else data[:end]

    def _boot(self, setup: Dict[str, Any]) -> None:
        proc_env.proc_type = ProcessType.pool
        proc_env.worker = setup["number"]
        Request.run = setup["run"]
        proc_env.pool = None
        proc_env.send_order = partial(self.send, FrameType.ORDER, 0)
        self._send_log(setup)
        self._bound(setup)
        # Only main decides when to stop; a Ctrl-C or a supervisor's SIGTERM to the
        # whole group must not end a running request. Handlers, not SIG_IGN: programs
        # that a handler starts would inherit the latter.
        for ignored in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ignored, do_nothing)
        signal.signal(signal.SIGHUP, self._on_hangup)
        signal.signal(signal.SIGUSR2, self._on_deadline)
        undo_in_copies(self._undo_in_copy)
        try:
            numpy = sys.modules.get("numpy")
            if numpy is not None:
                numpy.random.seed()  # or all workers would draw the same numbers
            self._program = self._load(setup["origin"])
            for function in self._program.on_worker_start:
                function()
            self._program.pool_starts.get(setup["pool"], do_nothing)()
        except OSError as error:  # not main's end of a pipe: a model without a file
            raise PixieError("the worker can't start") from error
        finally:
            self._send_log(setup)  # whatever the program has made of logging

    def _send_log(self, setup: Dict[str, Any]) -> None:
        log.handlers[:] = [FrameHandler(self)]
        log.propagate = False
        log.setLevel(setup["log_level"])
        keep_log()

    def _undo_in_copy(self) -> None:
        """Neither answer in the worker's name, nor take its next request or signals."""
        import faulthandler

        faulthandler.unregister(signal.SIGUSR1)
        default_signals(*OUR_SIGNALS, signal.SIGUSR2)
        for descriptor in (self._incoming, self._outgoing):
            try:
                os.close(descriptor)
            except OSError:
                pass  # a handler has closed it
        self._incoming = self._outgoing = -1  # their numbers will be those of others

    def _bound(self, setup: Dict[str, Any]) -> None:
        """Put this process below main, in its turn on a CPU and in a lack of memory."""
        import faulthandler

        # Written by C code, whatever else this process is at; main reads it.
        faulthandler.enable(self._trace)
        faulthandler.register(signal.SIGUSR1, self._trace)
        make_first_victim()
        try:
            os.nice(setup["nice"])
        except OSError as error:
            log.warning("can't set the niceness %d: %s", setup["nice"], error)
        limit = setup["worker_memory_limit_bytes"]
        if limit:
            import resource

            # RLIMIT_DATA and not RLIMIT_AS, which counts what is shared or only
            # reserved too: libraries reserve gigabytes.
            hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))

    def _on_hangup(self, *_: object) -> None:
        self._logs_moved = True

    def _on_deadline(self, *_: object) -> None:
        if self._interruptible:
            self._interruptible = False
            import faulthandler

            faulthandler.dump_traceback(self._trace, all_threads=False)
            timeout = RequestTimeout()
            timeout.of_deadline = True
            raise timeout

    def _run(self, route: Route, request: Request) -> bool:
        """Answer one request; return whether this worker may take another."""
        request.disconnect = self._main_gone
        context = copy_context()
        if route.app.json_hook is not None:
            context.run(json_default_hook.set, route.app.json_hook)
        if request.root_path:
            context.run(ROOT_PATH.set, request.root_path)
        try:
            self._interruptible = True
            before = self._watch(route, request) if request.debug else None
            response = context.run(self._program.answer, route, request)
            if before is not None:
                self._tell_changes(route, before)
            if is_stream(response.body):
                self._send_stream(response, request, context)
            else:
                self._interruptible = False
                self._send_response(response, request)
            self._interruptible = True
            request.close()
        except RequestTimeout:
            return False  # main has answered, and waits for the end of this process
        finally:
            self._interruptible = False
        return not request.fatal

    def _watch(
        self, route: Route, request: Request
    ) -> Optional[Dict[str, Tuple[object, int]]]:
        """Return its module's state at the first calls of a handler, with debug."""
        if route.kind != "def":
            return None
        self._calls[route] = self._calls.get(route, 0) + 1
        return module_state(route.handler) if self._calls[route] <= 10 else None

    def _tell_changes(
        self, route: Route, before: Dict[str, Tuple[object, int]]
    ) -> None:
        after = module_state(route.handler)
        changed = [
            name
            for name in sorted({*before, *after})
            if before.get(name, (0, 0))[0] is not after.get(name, (0, 0))[0]
            or before[name][1] != after[name][1]
        ]
        if changed:
            self.send(FrameType.LOST, 0, ", ".join(changed).encode())

    # Sending.

    def _send_response(self, response: Response, request: Request) -> None:
        flags = Flag.RETIRE if request.fatal else 0
        block = response.header_block(request.scheme == "https")
        body = response.body
        if isinstance(body, StaticFile):
            data = RESULT.pack(response.status, -1, len(block)) + block
            data += dump_json([body.cache, body.delete_after]) + b"\0"
            self.send(FrameType.FILE, flags, data + os.fsencode(body.path))
            return
        assert isinstance(body, bytes)
        result = RESULT.pack(response.status, len(body), len(block)) + block
        if len(body) <= MAX_CHUNK_BYTES:
            self.send(FrameType.RESPONSE, flags, result + body)
        elif not flags and self._spool(body, request.method == "HEAD"):
            self.send(FrameType.FILE, Flag.SPOOLED, result + self._answer_name)
        else:
            self.send(FrameType.HEAD, 0, result)
            if request.method != "HEAD":
                self._send_data(body)
            self.send(FrameType.END, flags)

    def _spool(self, body: bytes, only_size: bool) -> bool:
        """Put a large answer into a file, so that no slow client holds this worker.

        SECURITY: when main opens the file by its name, this process may have died, and
        its number and the descriptor's belong to another worker with another answer.
        So a token stands behind the answer, and in the frame.
        """
        if not os.path.isdir("/proc/self/fd"):
            return False
        import tempfile

        try:
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            self._answer = cast(BinaryIO, file)
            token = os.urandom(ANSWER_TOKEN_BYTES)
            if only_size:
                file.seek(len(body))
            for data in (token,) if only_size else (body, token):
                rest = memoryview(data)
                while rest:
                    rest = rest[self._answer.write(rest) :]
            path = b"/proc/%d/fd/%d" % (os.getpid(), file.fileno())
            self._answer_name = token + path
        except OSError as error:
            log.warning("no room on the disk for a large answer: %s", error)
            if self._answer is not None:
                self._answer.close()  # now: what is in it keeps the disk full
                self._answer = None
            return False
        return True

    def _send_stream(
        self, response: Response, request: Request, context: Context
    ) -> None:
        """Send each chunk as it comes; a CANCEL is seen at the next `yield`."""
        chunks = cast(Chunks, response.body)
        block = response.header_block(request.scheme == "https")
        self.send(
            FrameType.HEAD,
            0,
            RESULT.pack(response.status, -1, len(block)) + block,
        )
        flags = 0
        try:
            while request.method != "HEAD" and not request.disconnected:
                self._send_data(context.run(next, chunks))
        except StopIteration:
            pass
        except Exception as error:
            log_failure(request, error, midway=True)
            flags, request.fatal = Flag.BROKEN, isinstance(error, HandlerLeft)
        context.run(chunks.close)
        self.send(FrameType.END, flags | (Flag.RETIRE if request.fatal else 0))

    def _send_data(self, data: bytes) -> None:
        for at in range(0, len(data), MAX_CHUNK_BYTES):
            more = Flag.MORE if at + MAX_CHUNK_BYTES < len(data) else 0
            self.send(FrameType.DATA, more, data[at : at + MAX_CHUNK_BYTES])

    def send(self, kind: int, flags: int = 0, payload: bytes = b"") -> None:
        """Send one frame, whole: a deadline's signal must not cut it in two."""
        interruptible, self._interruptible = self._interruptible, False
        data = FRAME.pack(len(payload), kind, flags, 0, self._request_number) + payload
        while data:
            data = data[os.write(self._outgoing, data) :]
        self._interruptible = interruptible

    def _receive(self, size: int) -> Optional[bytes]:
        data = bytearray()
        while len(data) < size:
            part = os.read(self._incoming, size - len(data))
            if not part:
                return None
            data += part
        return bytes(data)
