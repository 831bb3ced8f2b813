"""The zygote, which starts workers.

It speaks with main over one socketpair in messages of fixed size. From main: START
(with three descriptors: the worker's ends of two new pipes, and the file for its
tracebacks) and SIGNAL; back: STARTED and EXITED.

There are three ways to start, which differ only in this:

    "zygote"   forked from main, with its program;          forks workers
    "exec"     a new interpreter that imports the program;  forks workers
    "spawn"    a new interpreter that imports nothing;      workers are new
                                                            interpreters that do

The frame BOOT tells a new interpreter which modules to import.
"""

from __future__ import annotations

import array
import errno
import os
import select
import signal
import socket
import stat
import struct
import sys
import threading
import time
from typing import (
    Any,
    ClassVar,
    Dict,
    List,
    NamedTuple,
    NoReturn,
    Optional,
    Sequence,
    Set,
    Tuple,
    cast,
)

from ...about import log
from ...errors import RequestTimeout
from ...forks import OUR_SIGNALS, end_copy, flush_output
from ...text import dump_json, load_json
from ..base import proc_env
from .frames import FRAME, RECEIVE_BYTES, FrameType, Load, Program
from .worker import (
    Worker,
    die_with_parent,
    do_nothing,
    fill_standard_descriptors,
    keep_log,
    prctl,
    reopen_log_files,
)

ORDER_SECONDS = 5.0  # a zygote that takes no order for so long is killed

_ORDER = struct.Struct("!BII")  # what, the worker's number, a signal
# What, the worker's number, its pid; its wait status, or how many threads were forked.
_REPORT = struct.Struct("!BIIi")
START, SIGNAL, STARTED, EXITED = 1, 2, 3, 4
THREADS_FORKED = (
    "the pool is forked while %d threads run, and a lock that one of them holds stays "
    'locked in each worker; use pool_start="spawn", or start threads in on_worker_start'
)


class Launch(NamedTuple):
    """The data for a new interpreter that becomes a zygote or a worker.

    Attributes:
        command: what to execute; descriptors are its last arguments.
        origin: where it finds the program, for the `load` that it calls (JSON).
    """

    command: Sequence[str]
    origin: Dict[str, Any]


def start_interpreter(command: Sequence[str], *arguments: int) -> int:
    """Start a program in a process group of its own, and return its pid.

    All that it inherits are the descriptors that are among its arguments.
    """
    texts = [*command, *map(str, arguments)]
    return os.posix_spawn(texts[0], texts, os.environ, setpgroup=0)


def live_as_worker(descriptors: Sequence[int], zygote_pid: int, load: Load) -> NoReturn:
    """Be a worker until the end of the process; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        die_with_parent(zygote_pid)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # by what C code may start
        incoming, outgoing, trace = descriptors
        Worker(incoming, outgoing, trace, load).serve()
        code = 0
    except (OSError, RequestTimeout):
        pass  # main is gone, or has done with this worker
    except BaseException:
        log.exception("worker %s ended", proc_env.worker)
    finally:
        # Not sys.exit(): that would run the clean-up of main's objects in this copy.
        flush_output()
        os._exit(code)


def temporary_directory() -> Optional[str]:
    """Return where temporary files go; None: nowhere that can be written to.

    Looking for it makes and removes a file there, which a worker that is killed
    meanwhile would leave. So it is looked for where nobody kills.
    """
    import tempfile

    try:
        return tempfile.gettempdir()
    except OSError:
        return None


class Zygote:
    """The process that starts, signals and reaps workers, and ends them with main.

    Args:
        control: its end of the socket to main.
        program: what the workers it forks run; None: it has none, or can't fork, since
            it has threads. Then each worker is a new interpreter.
        command: what starts such an interpreter.
        threads: how many ran when this was forked, or run now.
    """

    def __init__(
        self,
        control: socket.socket,
        program: Optional[Program],
        command: Sequence[str] = (),
        threads: int = 1,
    ) -> None:
        self._control = control
        self._program = program
        self._command = command
        self._threads = threads
        self._pids: Dict[int, int] = {}  # worker's number to pid, alive ones only

    def serve(self) -> None:
        """Do as main says until it hangs up or dies; then end all workers."""
        temporary_directory()
        # PR_SET_CHILD_SUBREAPER: orphans of handlers come here to be reaped
        prctl(36, 1)
        for ignored in OUR_SIGNALS:
            signal.signal(ignored, do_nothing)
        woken, wakeup = socket.socketpair()
        woken.setblocking(False)
        wakeup.setblocking(False)
        signal.signal(signal.SIGCHLD, do_nothing)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(woken, select.POLLIN)
        running = True
        try:
            while running:
                ready = [descriptor for descriptor, _ in poll.poll()]
                if woken.fileno() in ready:
                    woken.recv(4096)
                    self._reap()
                if self._control.fileno() in ready:
                    running = self._obey(woken, wakeup)
        finally:
            signal.set_wakeup_fd(-1)  # its socket ends before the last of them does
            for number in list(self._pids):
                self._kill(number, signal.SIGKILL)
        for one in (self._control, woken, wakeup):
            one.close()

    def _obey(self, *inherited: socket.socket) -> bool:
        size = _ORDER.size
        try:
            data, ancillary, _, _ = self._control.recvmsg(size, socket.CMSG_SPACE(12))
        except ConnectionResetError:
            return False  # main is gone, and had not read all reports
        if len(data) < size:
            return False
        what, number, value = _ORDER.unpack(data)
        if what == SIGNAL:
            if number:
                self._kill(number, value)
            else:  # to itself, but in the order of orders
                reopen_log_files()
            return True
        descriptors = array.array("i")
        descriptors.frombytes(ancillary[0][2][:12])
        try:
            self._start(number, descriptors, inherited)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _start(
        self,
        number: int,
        descriptors: Sequence[int],
        inherited: Tuple[socket.socket, ...],
    ) -> None:
        try:
            if self._program is None:
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, True)
                pid = start_interpreter(self._command, *descriptors, os.getpid())
            else:
                pid = self._fork(descriptors, inherited)
        except OSError as error:
            self._report(EXITED, number, 0, -(error.errno or errno.EAGAIN))
            return
        try:
            os.setpgid(pid, pid)  # also done by the worker: whoever comes first
        except OSError:
            pass
        self._pids[number] = pid
        self._report(STARTED, number, pid, self._threads)

    def _fork(
        self, descriptors: Sequence[int], inherited: Tuple[socket.socket, ...]
    ) -> int:
        program, parent = self._program, os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for one in (self._control, *inherited):
                one.close()
            live_as_worker(descriptors, parent, lambda _: cast(Program, program))
        return pid

    def _kill(self, number: int, value: int) -> None:
        # Only the parent signals, and only what it has not reaped: a pid can't have
        # been given to another process. SIGKILL goes to the group, so to what the
        # handler started too, and to the worker, which may have left its group; a soft
        # signal is for the worker alone.
        pid = self._pids.get(number)
        if pid is None:
            return
        for kill in (os.killpg, os.kill) if value == signal.SIGKILL else (os.kill,):
            try:
                kill(pid, value)
            except (ProcessLookupError, PermissionError):
                pass

    def _reap(self) -> None:
        numbers = {pid: number for number, pid in self._pids.items()}
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            number = numbers.get(dead.si_pid)
            if number is not None:
                # What its handler left running goes too; before the pid is free again.
                self._kill(number, signal.SIGKILL)
            pid, status = os.waitpid(dead.si_pid, 0)
            if number is not None:  # else an orphan of a handler, adopted
                del self._pids[number]
                self._report(EXITED, number, pid, status)

    def _report(self, what: int, number: int, pid: int, status: int) -> None:
        try:
            self._control.sendall(_REPORT.pack(what, number, pid, status))
        except OSError:
            pass  # main is gone; the next receive says so


def unnamed_file() -> int:
    """Return a descriptor of an empty file without a name, in memory on Linux."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pixie_web")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def count_threads() -> int:
    """Return how many threads this process has, those of C libraries too (Linux)."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def count_lasting_threads() -> int:
    """Return how many threads a fork would lose, this one included: 1 is safe.

    Those that their library ends ahead of a fork, and starts again when it needs them,
    do no harm: OpenBLAS does so, and an `import numpy` starts one for each CPU. To know
    them, a process is forked that ends at once.
    """
    if count_threads() > 1:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12: a fork with threads
            pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        for _ in range(10):  # one that has ended is listed for a moment
            if count_threads() == 1:
                break
            time.sleep(0.002)
    return count_threads()


def warn_of_connections() -> None:
    """Name the connections that this process is about to share with all it forks.

    Two workers that speak on one read each other's answers (Linux tells which there
    are).
    """
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode) or int(name) < 3:
                continue  # journald has the first three
            with socket.socket(fileno=os.dup(int(name))) as one:
                peer, kind = one.getpeername(), one.type
        except OSError:
            continue  # it has no peer, or was what listed
        if kind == socket.SOCK_STREAM and peer:  # those of a socket pair have no name
            log.warning(
                "descriptor %s is connected to %s, and all workers would share it: "
                "one would read another's answers; open connections in "
                "@app.on_worker_start",
                name,
                peer if isinstance(peer, str) else f"{peer[0]}:{peer[1]}",
            )


def settle_memory() -> None:
    """Take all objects that exist now out of the garbage collector's sight.

    What it never touches stays shared between this process and those that it forks:
    measured, a worker's own memory falls from 25 MB to 13 MB.
    """
    import faulthandler  # noqa: F401 - PERF: or each worker would: half of its start
    import gc

    load_json(b"0")  # the same for json
    gc.collect()
    gc.freeze()


def live_without_program(control: socket.socket, setup: Dict[str, Any]) -> NoReturn:
    """Go on as a zygote that starts interpreters: the program's memory is given back.

    Raises:
        OSError: the interpreter can't be executed.
    """
    file = unnamed_file()
    os.write(file, dump_json({**setup, "start": "spawn"}))
    os.lseek(file, 0, os.SEEK_SET)
    descriptors = control.fileno(), file
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    flush_output()
    command = [*setup["command"], *map(str, descriptors)]
    os.execv(command[0], command)


def live_as_zygote(control: socket.socket, data: bytes, load: Load) -> NoReturn:
    """Be an executed zygote until the end of the process; never returns."""
    code = 1
    try:
        setup = load_json(data)
        assert isinstance(setup, dict)
        program = load(setup["origin"]) if setup["start"] != "spawn" else None
        keep_log()
        threads = count_lasting_threads() if program else 1
        if threads > 1 and setup["start"] == "auto":
            log.warning(
                "the program starts threads when it is imported, so each worker "
                'imports it, as with pool_start="spawn"'
            )
            live_without_program(control, setup)
        if threads > 1:
            log.warning(THREADS_FORKED, threads)
        if program is not None:
            warn_of_connections()
        settle_memory()
        flush_output()  # what importing printed, or each fork would print it too
        Zygote(control, program, setup["command"], threads).serve()
        code = 0
    except BaseException:
        keep_log()
        log.exception("the program can't be imported")
    finally:
        flush_output()
        os._exit(code)


def live_apart(load: Load) -> NoReturn:
    """Be what this new interpreter was started for: a zygote or a worker.

    Args:
        load: imports the application as the frame BOOT says, and returns its program.
    """
    fill_standard_descriptors()
    numbers = list(map(int, sys.argv[1:]))
    # Of a zygote its socket, and perhaps a file with its setup.
    descriptors = numbers[:3]
    listing = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    for name in os.listdir(listing):
        if int(name) not in (0, 1, 2, *descriptors):
            try:
                os.close(int(name))  # a listener, which could be inherited
            except OSError:
                pass  # it was the one that listed
    if len(numbers) > 2:
        live_as_worker(descriptors, numbers[3], load)
    control = socket.socket(fileno=descriptors[0])
    if len(numbers) == 2:
        with open(descriptors[1], "rb") as file:
            data = file.read()
    else:
        header = FRAME.unpack(control.recv(FRAME.size, socket.MSG_WAITALL))
        data = control.recv(header[0], socket.MSG_WAITALL)
    live_as_zygote(control, data, load)


class ZygoteLink:
    """Main's end of the socket to a zygote, which is a child of main.

    Attributes:
        origin: where workers find the program; None where they are forked with it.
        proven: a worker of it has been ready.
    """

    all: ClassVar[Set[ZygoteLink]] = set()  # that have not ended

    def __init__(
        self, control: socket.socket, pid: int, origin: Optional[Dict[str, Any]] = None
    ) -> None:
        self.pid = pid
        self.origin = origin
        self.proven = False
        self._ended = False
        self._control = control
        self.all.add(self)
        self._reports = bytearray()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._control.fileno()

    def order(
        self, what: int, number: int, value: int = 0, descriptors: Sequence[int] = ()
    ) -> None:
        """Send an order; a zygote that does not take it is killed."""
        end_copy()
        if self._ended:
            return
        rights = []
        if descriptors:
            numbers = array.array("i", descriptors)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
        try:
            # Blocking: the zygote empties its end in no time, and no order may be lost.
            self._control.settimeout(ORDER_SECONDS)
            self._control.sendmsg([_ORDER.pack(what, number, value)], rights)
            self._control.setblocking(False)
            os.kill(self.pid, signal.SIGCONT)  # somebody may have stopped it
        except OSError as error:
            log.critical("no order reaches the zygote: %s", error)
            self.kill()

    def reports(self) -> Optional[List[Tuple[int, int, int, int]]]:
        """Return (what, number, pid, status) of all that has come; None at the end."""
        try:
            data = self._control.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            return None
        self._reports += data
        whole = len(self._reports) // _REPORT.size * _REPORT.size
        found = list(_REPORT.iter_unpack(self._reports[:whole]))
        del self._reports[:whole]
        return cast(List[Tuple[int, int, int, int]], found)

    def kill(self) -> None:
        """Have it die at once; main then reads the end of its socket."""
        os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so the pid is its own

    def end(self) -> None:
        """Hang up, which ends it with all of its workers, and reap it.

        One that does not end by that is killed, so that this process comes to its end.
        """
        self._ended = True
        self.all.discard(self)
        self._control.close()
        os.kill(self.pid, signal.SIGCONT)  # stopped, it would not see that
        give_up = time.monotonic() + ORDER_SECONDS
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > give_up:
                log.critical("the zygote did not end, and was killed")
                self.kill()
                os.waitpid(self.pid, 0)
                return
            time.sleep(0.001)


def fork_zygote(program: Program, unwanted: Sequence[int] = ()) -> ZygoteLink:
    """Fork the zygote, while this process has one thread and no event loop.

    It closes the descriptors in `unwanted`: a listener would outlive main in it.
    """
    settle_memory()
    threads = count_lasting_threads()
    control, remote = socket.socketpair()
    flush_output()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            control.close()
            for descriptor in unwanted:
                os.close(descriptor)
            for other in ZygoteLink.all:
                other._control.close()  # of the other pools: their ends must be seen
            Zygote(remote, program, threads=threads).serve()
            code = 0
        finally:
            flush_output()
            os._exit(code)
    remote.close()
    return ZygoteLink(control, pid)


def exec_zygote(launch: Launch, start: str) -> ZygoteLink:
    """Start a zygote as a new interpreter.

    Args:
        start: "exec", "spawn", or "auto": the first, unless the program has threads.
    """
    setup = {"origin": launch.origin, "start": start, "command": launch.command}
    data = dump_json(setup)
    control, remote = socket.socketpair()
    with remote:
        remote.set_inheritable(True)
        pid = start_interpreter(launch.command, remote.fileno())
    control.sendall(FRAME.pack(len(data), FrameType.BOOT, 0, 0, 0) + data)
    return ZygoteLink(control, pid, launch.origin)
