"""Processes that handlers fork: the cleanup before they go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import lru_cache
from typing import Any, Callable, Dict, List

# What a program forks -----------------------------------------------------------------
# os.fork() and multiprocessing copy all of main, or of a worker: signal handlers, the
# descriptor that wakes the loop, the connections of clients. A copy that is told to end
# would stop the server (bpo-43064) or nothing, and one that returns from its handler
# would answer as well. So each copy undoes what makes it main, or a worker.

OUR_SIGNALS = [  # Windows has no SIGHUP
    one for one in signal.Signals if one.name in ("SIGINT", "SIGTERM", "SIGHUP")
]


class ThisProcess:
    """The origin of a process.

    Attributes:
        is_copy: a handler, or what main runs besides, has forked it.
    """

    is_copy = False


this_process = ThisProcess()
_in_copies: List[Callable[[], object]] = []
_masks: Dict[int, Any] = {}  # of threads that fork at the moment


def _block_signals() -> None:
    # One that comes to a copy before it has undone this must wait until then.
    if _in_copies:
        blocked = {*OUR_SIGNALS, signal.SIGUSR2}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        _masks[threading.get_ident()] = mask


def _unblock_signals() -> None:
    mask = _masks.pop(threading.get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _become_a_copy() -> None:
    this_process.is_copy = this_process.is_copy or bool(_in_copies)
    while _in_copies:
        _in_copies.pop()()
    _unblock_signals()


@lru_cache(maxsize=None)
def _watch_forks() -> None:  # once: what is registered stays, in copies too
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_block_signals,
            after_in_parent=_unblock_signals,
            after_in_child=_become_a_copy,
        )


def undo_in_copies(undo: Callable[[], object]) -> None:
    """Have each process that is forked from now on begin with `undo`."""
    _watch_forks()
    _in_copies.append(undo)


def undo_nothing_in_copies() -> None:
    """Let the processes that are forked from now on be copies like any other."""
    _in_copies.clear()


def default_signals(*numbers: int) -> None:
    """Handle signals as Python does by itself."""
    signal.set_wakeup_fd(-1)
    for number in numbers:
        is_int = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_int else signal.SIG_DFL)


def flush_output() -> None:
    """Write out what print() has buffered, or a fork would have it come twice."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # closed, or replaced by None: nothing to lose


def end_copy() -> None:
    """End this process if it is a copy, back from the handler that forked it."""
    if this_process.is_copy:
        flush_output()
        os._exit(0)
