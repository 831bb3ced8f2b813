"""A program that is restarted when one of its files changes: `run(reload=True)`.

    the reloader    the process that was started: watches, and keeps the sockets
    the program     its child, a new interpreter each time; it serves

The program tells the reloader, over a socket, the names of its files, and gives it
the sockets that it listens on. So a client that connects between two programs waits.
A program that fails shows the reason, in the terminal and on every page, until a file
changes. When the reloader ends, the program ends.
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    cast,
)

from .about import ROOT
from .errors import PixieError
from .executors.pool.worker import do_nothing
from .launch import interpreter
from .server.listeners import identity, remove_unix
from .settings import say
from .templating.templates import Template, directories_of
from .text import dump_json, load_json
from .watching import Watcher, drop_bytecode, own_modules

CUT_OFF_SECONDS = 1.0  # for running requests; then they are cut off
KILLED_SECONDS = 2.0  # and then the program is killed
TELL_SECONDS = 0.5  # from one look for new modules to the next
MAX_SOCKETS = 16


class ProgramCall(NamedTuple):
    """How this program was started, so that it can be started again.

    Attributes:
        kind: "command" of ours, "script" or "module".
        name: the path of the script, or the name of the module.
        arguments: those of the command, or of the script.
        directory: the first of sys.path; its Python files are watched.
    """

    kind: str
    name: str
    arguments: Sequence[str]
    directory: str


def describe_call() -> ProgramCall:
    """Return how this program was started.

    Raises:
        PixieError: it is no file and no module, and can't be started again.
    """
    main_module = sys.modules["__main__"]
    spec, arguments = getattr(main_module, "__spec__", None), sys.argv[1:]
    path = getattr(main_module, "__file__", None)
    if main_module is sys.modules[ROOT]:
        return ProgramCall("command", "", arguments, os.getcwd())
    if spec is not None and spec.name != "__main__":
        name = spec.name
        name = name[: -len(".__main__")] if name.endswith(".__main__") else name
        return ProgramCall("module", name, arguments, os.getcwd())
    if path is None or not os.path.isfile(path):
        raise PixieError("reload needs a program that is a file")
    path = os.path.abspath(path)
    return ProgramCall("script", path, arguments, os.path.dirname(path))


class Channel:
    """JSON messages, one a line, with sockets beside them, between the two.

    Args:
        one: this side's end.
    """

    def __init__(self, one: socket.socket) -> None:
        self._socket = one
        self._rest = b""
        self._sockets: List[socket.socket] = []  # that have come

    def fileno(self) -> int:
        """Return the descriptor, for `select`."""
        return self._socket.fileno()

    def send(
        self, message: Mapping[str, Any], sockets: Sequence[socket.socket] = ()
    ) -> None:
        """Send one message; nobody may be there any more."""
        data = dump_json(message) + b"\n"
        numbers = array.array("i", [one.fileno() for one in sockets])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if sockets else []
        try:
            sent = self._socket.sendmsg([data], rights)
            self._socket.sendall(data[sent:])
        except OSError:
            pass

    def receive(self) -> Optional[List[Dict[str, Any]]]:
        """Return the messages that have come, waiting for bytes; None at the end."""
        numbers = array.array("i")
        room = socket.CMSG_SPACE(MAX_SOCKETS * numbers.itemsize)
        try:
            data, ancillary, *_ = self._socket.recvmsg(65_536, room)
        except OSError:
            data, ancillary = b"", []
        for _, _, rights in ancillary:
            numbers.frombytes(rights[: len(rights) // numbers.itemsize * 4])
        self._sockets += [socket.socket(fileno=number) for number in numbers]
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [cast(Dict[str, Any], load_json(line)) for line in lines]

    def take_sockets(self) -> List[socket.socket]:
        """Return the sockets that have come so far."""
        taken, self._sockets = self._sockets, []
        return taken

    def wait_no_more(self) -> None:
        """Take what has come, and call that the end."""
        self._socket.setblocking(False)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def socket_key(settings: Mapping[str, Any]) -> List[Any]:
    """Return those of all settings that say where a program listens."""
    return [settings[name] for name in ("host", "port", "uds", "uds_mode", "fd")]


# In the program -----------------------------------------------------------------------


class Tether:
    """The tie of a program to its reloader; `tether.channel` is None without one.

    Attributes:
        channel: to the reloader.
        setup: what it has said: the call, settings of the program before, a failure.
        call: how this program was started, where that is known beforehand.
        settings, tls: of the run() that was met last.
        has_failed: what is served tells of a failure.
        problem: what has been said of a program that can't start.
    """

    def __init__(self) -> None:
        self.channel: Optional[Channel] = None
        self.call: Optional[ProgramCall] = None
        self.setup: Dict[str, Any] = {}
        self.settings: Optional[Mapping[str, Any]] = None
        self.tls: Any = None
        self.has_failed = False
        self.problem = ""
        self._kept: List[socket.socket] = []
        self._told: Set[str] = set()

    @property
    def is_tied(self) -> bool:
        """Whether there is a reloader."""
        return self.channel is not None

    def tie(self, descriptor: int) -> None:
        """Read what the reloader says first, in a program that it has started."""
        self.channel = Channel(socket.socket(fileno=descriptor))
        os.set_inheritable(descriptor, False)
        messages: List[Dict[str, Any]] = []
        while not messages:
            received = self.channel.receive()
            if received is None:
                raise SystemExit(1)  # it has gone
            messages += received
        self.setup = messages[0]
        self._kept = self.channel.take_sockets()
        # Ctrl-C comes to both, and the reloader says what is to be done. Not SIG_IGN:
        # what the program starts would inherit that.
        signal.signal(signal.SIGINT, do_nothing)

    def take_sockets(self, settings: Mapping[str, Any]) -> List[socket.socket]:
        """Return the sockets that the program before listened on, if they still fit.

        They may be asked for twice: what shows that this program fails is served too.
        """
        if self._kept and self.setup["key"] != socket_key(settings):
            self._drop_sockets()
        taken = [one.dup() for one in self._kept]
        for one in taken:
            one.setblocking(False)
        return taken

    def descriptors(self) -> List[int]:
        """Return what is no affair of other processes."""
        own = [] if self.channel is None else [self.channel.fileno()]
        return own + [one.fileno() for one in self._kept]

    def untie(self) -> None:
        """Close all that came from the reloader, at the end."""
        self._drop_sockets()
        if self.channel is not None:
            self.channel.close()

    def _drop_sockets(self) -> None:
        while self._kept:
            self._kept.pop().close()

    def tell(self, files: Iterable[str] = ()) -> None:
        """Tell the reloader of files, and of what has been imported since last time.

        Where templates are is told as well.
        """
        new = {*own_modules(), *files} - self._told
        directories = map(os.path.abspath, directories_of(Template.path))
        places = {one for one in directories if os.path.isdir(one)} - self._told
        self._told |= new | places
        if self.channel is not None and (new or places):
            self.channel.send({"files": sorted(new), "directories": sorted(places)})

    def listening(
        self, settings: Mapping[str, Any], sockets: Sequence[socket.socket]
    ) -> None:
        """Hand the reloader the sockets that this program listens on."""
        assert self.channel is not None
        self.channel.send({"listening": dict(settings)}, sockets)

    def watch(self, loop: Any, end: Any) -> None:
        """Tell of files now and then, and have `end` called without a reloader."""
        assert self.channel is not None
        channel = self.channel

        def look() -> None:
            self.tell()
            loop.call_later(TELL_SECONDS, look)

        def gone() -> None:
            if channel.receive() is None:
                loop.remove_reader(channel.fileno())
                end()

        loop.add_reader(channel.fileno(), gone)
        look()


tether = Tether()


# The reloader -------------------------------------------------------------------------


class Reloader:
    """Starts a program, and starts it again when one of its files has changed.

    Args:
        call: how to start it.
        settings: all of them, as far as they are known here.
    """

    def __init__(self, call: ProgramCall, settings: Mapping[str, Any]) -> None:
        self._call = call
        self._settings = dict(settings)
        self._watcher = Watcher(call.directory)
        self._sockets: List[socket.socket] = []  # that are kept
        self._path: Optional[List[Any]] = None  # of a Unix socket, and what it is
        self._key: Optional[List[Any]] = None
        self._child: subprocess.Popen[bytes]
        self._channel: Channel
        self._ending: Optional[int] = None  # the signal that ends it
        self._is_spare = False  # the child shows a failure, and is no program
        self._wakes, self._waker = os.pipe()

    def run(self) -> int:
        """Run the program until a signal ends it, or it ends well; return its status.

        Raises:
            PixieError: it can't be done here.
        """
        if os.name != "posix":
            raise PixieError("reload does not work on Windows: leave it out")
        if threading.current_thread() is not threading.main_thread():
            raise PixieError("reload needs run() in the main thread, for signals")
        began = time.monotonic()
        for descriptor in (self._wakes, self._waker):
            os.set_blocking(descriptor, False)
        self._watcher.look()
        self._start()
        numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD
        before = {n: signal.signal(n, self._on_signal) for n in numbers}
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        try:
            status = self._watch()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._close()
        name = signal.Signals(self._ending).name if self._ending else "itself"
        seconds = time.monotonic() - began
        say(f"pixie_web: stopped by {name} after {seconds:.1f} s")
        return status if status >= 0 else 128 - status  # as shells tell of a signal

    def _on_signal(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            self._child.send_signal(number)
        elif number != signal.SIGCHLD and self._ending is None:
            self._ending = number

    def _start(self, failure: str = "") -> None:
        """Start the program; or, in its place, what shows how it has failed."""
        ours, theirs = socket.socketpair()
        fd = self._settings["fd"]
        passed = [theirs.fileno()] + ([fd] if fd >= 0 and not self._sockets else [])
        command = [*interpreter("restarted", "live_again"), str(theirs.fileno())]
        self._child = subprocess.Popen(command, pass_fds=passed)
        theirs.close()
        self._channel = Channel(ours)
        self._is_spare = bool(failure)
        setup = {
            "call": self._call._asdict(),
            "settings": self._settings,
            "key": self._key,
            "failure": failure,
        }
        self._channel.send(setup, self._sockets)

    def _watch(self) -> int:
        """Wait for signals, changes, and the end of the program."""
        while True:
            has_notes = self._watcher.notify(self._wake)
            seconds = 10 * self._watcher.pause_seconds if has_notes else 0.0
            self._wait(seconds or self._watcher.pause_seconds)
            if self._ending is not None:
                return max(0, self._stop())  # a signal that was sent is no failure
            status = self._child.poll()
            if status is not None:
                if status == 0 or self._is_spare or not self._sockets:
                    return status
                self._show_end(status)
            changed = self._watcher.look()
            if changed:
                changed = self._watcher.settle(changed)
                self._tell(changed)
                self._stop()
                drop_bytecode(changed)
                self._start()

    def _wait(self, seconds: float) -> None:
        channel = self._channel
        watched = [self._wakes] + ([] if channel.fileno() < 0 else [channel.fileno()])
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._wakes in ready:
            os.read(self._wakes, 1024)
        if channel.fileno() in ready:
            self._listen()

    def _wake(self) -> None:
        try:
            os.write(self._waker, b"\0")
        except OSError:
            pass  # it is full, so it wakes anyway; or all is over

    def _listen(self) -> None:
        """Take what the program says."""
        messages = self._channel.receive()
        if messages is None:
            self._channel.close()
            return
        for message in messages:
            if "listening" in message:
                self._keep(message["listening"])
            else:
                self._watcher.add(message["files"], message["directories"])

    def _keep(self, settings: Dict[str, Any]) -> None:
        sockets = self._channel.take_sockets()
        for one in self._sockets:
            one.close()
        key = socket_key(settings)
        if self._key != key:
            self._remove_path()
            uds = settings["uds"]
            self._path = [os.path.abspath(uds), identity(uds)] if uds else None
        self._settings, self._sockets, self._key = settings, sockets, key

    def _tell(self, changed: Sequence[str]) -> None:
        names = sorted({os.path.relpath(f, self._watcher.directory) for f in changed})
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        verb = "have" if len(names) > 1 else "has"
        say(f"pixie_web: {', '.join(names[:3])}{more} {verb} changed, restarting")

    def _show_end(self, status: int) -> None:
        """Have pages tell that the program has ended without a word of its own."""
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        text = f"The program has ended, {how}; the terminal may say why."
        say(f"pixie_web: the program has ended, {how}; waiting for a change")
        self._channel.close()
        self._start(text)

    def _stop(self) -> int:
        """End the program: its requests in a moment, and itself in any case."""
        for number, seconds in (
            (signal.SIGTERM, CUT_OFF_SECONDS),
            (signal.SIGTERM, KILLED_SECONDS),
            (signal.SIGKILL, None),
        ):
            self._child.send_signal(number)
            try:
                self._child.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                continue
        self._channel.wait_no_more()
        while self._channel.fileno() >= 0:
            self._listen()  # the files of one that has just begun
        return self._child.returncode

    def _remove_path(self) -> None:
        if self._path is not None:
            remove_unix(*self._path)
        self._path = None

    def _close(self) -> None:
        """Leave nothing behind."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        self._channel.close()
        self._remove_path()
        for one in self._sockets:
            one.close()
        for descriptor in (self._wakes, self._waker):
            os.close(descriptor)
