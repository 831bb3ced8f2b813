"""The files of a program, and which of them have changed."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import (
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
)

MAX_WATCHED_FILES = 10_000  # in a directory and all below; the others are not seen
LOOK_SECONDS = 0.1  # from one look at all files to the next, at least
IDLE_SHARE = 20  # and so many times what a look takes: 5 % of a CPU at most
SETTLE_SECONDS = 0.05  # in which nothing more may change: editors write in steps
MAX_SETTLE_SECONDS = 1.0

_State = Tuple[int, int, int]


def _state(path: str) -> Optional[_State]:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _is_skipped(entry: os.DirEntry[str]) -> bool:
    """Return whether nothing below a directory is the program's own."""
    name = entry.name
    if name[0] == "." or name in ("__pycache__", "node_modules", "site-packages"):
        return True
    return os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))


def files_below(directory: str, ending: str = "") -> Iterator[str]:
    """Iterate over the files below a directory whose names end so.

    What is hidden, and other people's code (environments, node_modules), is left out.
    """
    directories, left = [directory], MAX_WATCHED_FILES
    while directories and left > 0:
        try:
            with os.scandir(directories.pop()) as entries:
                for entry in entries:
                    left -= 1
                    if entry.is_dir(follow_symlinks=False):
                        directories += [] if _is_skipped(entry) else [entry.path]
                    elif entry.name.endswith(ending) and entry.name[0] != ".":
                        yield entry.path
        except OSError:
            pass  # it has gone, or may not be read


def own_modules() -> Set[str]:
    """Return the files of all modules but those of Python, and installed ones."""
    import sysconfig

    foreign = tuple(
        {os.path.join(p, "") for p in map(sysconfig.get_path, ("stdlib", "platstdlib"))}
    )
    files = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(file, str) and not file.startswith(foreign):
            files.add(os.path.abspath(file))
    parts = f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}"
    return {file for file in files if not any(part in file for part in parts)}


def drop_bytecode(files: Iterable[str]) -> None:
    """Remove what Python has compiled of changed files.

    It knows a file by its size and by whole seconds: what is saved twice in one would
    be run as it was at first.
    """
    from importlib.util import cache_from_source

    for file in files:
        try:
            os.unlink(cache_from_source(file))
        except (OSError, NotImplementedError, ValueError):
            pass  # there is none


class Watcher:
    """Knows the state of a program's files, and tells which have changed.

    Args:
        directory: all Python files below it are watched, whether imported or not: a
            worker may import one that main does not.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.pause_seconds = LOOK_SECONDS
        self._files: Set[str] = set()
        self._directories: Set[str] = set()  # in which every file counts
        self._seen: Dict[str, Optional[_State]] = {}
        self._notified: Dict[bool, Tuple[Set[str], threading.Event]] = {}
        self._notifier: Optional[Callable[..., Iterable[object]]] = None

    def add(self, files: Iterable[str], directories: Iterable[str]) -> None:
        """Watch more files, and all files below more directories."""
        for file in {*files} - self._files:
            self._files.add(file)
            self._seen.setdefault(file, _state(file))
        for directory in {*directories} - self._directories:
            self._directories.add(directory)
            for file in files_below(directory):
                self._seen.setdefault(file, _state(file))

    def look(self) -> List[str]:
        """Return the files that have changed, appeared or gone since the last look."""
        began = time.monotonic()
        now = {file: _state(file) for file in self._files}
        for file in files_below(self.directory, ".py"):
            now[file] = _state(file)
        for directory in self._directories:
            for file in files_below(directory):
                now[file] = _state(file)
        seen, self._seen = self._seen, now
        took = time.monotonic() - began
        self.pause_seconds = max(LOOK_SECONDS, IDLE_SHARE * took)
        return sorted(f for f in {*seen, *now} if seen.get(f) != now.get(f))

    def settle(self, changed: Iterable[str]) -> List[str]:
        """Wait until nothing changes for a moment: a save may take steps.

        Returns:
            All that have changed by then.
        """
        all_changed, found = set(changed), list(changed)
        until = time.monotonic() + MAX_SETTLE_SECONDS
        while found and time.monotonic() < until:
            time.sleep(SETTLE_SECONDS)
            found = self.look()
            all_changed.update(found)
        return sorted(all_changed)

    # With watchfiles, where it is installed.

    def notify(self, wake: Callable[[], object]) -> bool:
        """Have `wake` called at once, in a thread, when the system tells of a change.

        Returns:
            Whether it can be: watchfiles is installed.
        """
        if self._notifier is None:
            try:
                from watchfiles import watch
            except ImportError:
                return False
            self._notifier = watch
        whole = {self.directory, *self._directories}
        single = set(map(os.path.dirname, self._files)) - whole
        for paths, deep in (whole, True), (single, False):
            known, stop = self._notified.get(deep, (set(), threading.Event()))
            there = {path for path in paths if os.path.isdir(path)}
            if there != known:
                stop.set()
                stop = threading.Event()
                self._notified[deep] = there, stop
                arguments = sorted(there), deep, stop, wake
                target = self._wake_on_change
                threading.Thread(target=target, args=arguments, daemon=True).start()
        return True

    def _wake_on_change(
        self,
        paths: Sequence[str],
        deep: bool,
        stop: threading.Event,
        wake: Callable[[], object],
    ) -> None:
        assert self._notifier is not None
        options = {"debounce": 50, "step": 10, "raise_interrupt": False}
        try:
            for _ in self._notifier(
                *paths, watch_filter=None, stop_event=stop, recursive=deep, **options
            ):
                wake()
        except Exception:
            pass  # no more can be watched so; looking goes on
