"""Settings: arguments, variables, defaults."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any, Dict, Mapping

from .errors import PixieError, companion
from .executors.base import MAX_THREADS
from .executors.pool.frames import PoolOptions
from .protocol.multipart import FORM_LIMITS
from .requests import Request
from .server.access import NO_HEAD, AccessRecord
from .server.options import UNIX_SOCKET_MODE, ServerOptions
from .server.proxies import clean_root_path
from .staticfiles import content_type_of

DEFAULT_SETTINGS: Dict[str, Any] = {
    "host": "localhost",
    "port": 8000,
    "pool_start": "auto",
    "reload": False,
    "loop_guard": "auto",
    "threads": MAX_THREADS,
    "loop": "auto",
    "server": "",  # our own
    "uds": "",
    "uds_mode": UNIX_SOCKET_MODE,
    "fd": -1,  # none
    "root_path": "",
    "certfile": "",
    "keyfile": "",
    "state": "memory",
    "state_max_bytes": 32 * 1024 * 1024,
    "state_durable": False,
    **PoolOptions()._asdict(),
    **ServerOptions()._asdict(),
    **FORM_LIMITS._asdict(),
}
_BOUNDS = {
    "port": (0, 65535),
    "threads": (1, 10_000),
    "workers": (0, 10_000),
    "min_workers": (0, 10_000),
    "max_streams": (0, 100_000),
    "nice": (-20, 19),
    "uds_mode": (0, 0o777),
    "fd": (-1, float("inf")),
    "max_pipelined_requests": (1, float("inf")),
}
_WORDS = {
    "loop": ("auto", "uvloop", "asyncio"),
    "loop_guard": ("auto", "off", "log", "strict"),
    "pool_start": ("auto", "zygote", "exec", "spawn"),
}
_AUTO = ("workers", "max_streams")  # names that end so take "auto", inside -1
_BOOLEANS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off", ""), False),
}


def convert_setting(name: str, value: Any, kind: type) -> Any:
    """Return a value, or a text in its place, as this kind.

    Raises:
        PixieError: it is none.
    """
    if kind is str:
        return str(value)
    if kind is tuple:
        texts = value.replace(",", " ").split() if isinstance(value, str) else value
        return tuple(map(str, texts))
    may_be_auto = name.lower().endswith(_AUTO)
    if may_be_auto and value == "auto":
        return -1
    try:
        if name.lower().endswith("_mode") and isinstance(value, str):
            return int(value, 8)  # as chmod takes it
        converted = _BOOLEANS[str(value).lower()] if kind is bool else kind(value)
        is_exact = isinstance(value, str) or converted == value
        if is_exact and (not may_be_auto or converted >= 0):
            return converted
    except (ValueError, TypeError, KeyError, OverflowError):
        pass
    what = {bool: "yes or no", int: "a whole number"}.get(kind, "a number")
    what += ' from 0, or "auto"' if may_be_auto else ""
    raise PixieError(f"{name} is {what}, got {value!r}")


def _check_words(settings: Mapping[str, Any]) -> None:
    for name, words in _WORDS.items():
        if settings[name] not in words:
            listed = " or ".join(f'"{word}"' for word in words[1:])
            raise PixieError(f"{name} is {listed}, got {settings[name]!r}")
    if settings["reload"] and settings["server"]:
        other = settings["server"]
        raise PixieError(
            f"reload is for the server of pixie_web itself, got server={other!r}; "
            "leave out one of the two"
        )
    if settings["http3"]:
        companion("http3.starting", "http3=True").check_settings(settings)


def read_settings(
    given: Mapping[str, Any], environment: Mapping[str, str]
) -> Dict[str, Any]:
    """Return all settings: given ones first, then PIXIE_* variables, then defaults.

    Raises:
        PixieError: a name that is no setting, or a value that is none.
    """
    settings = dict(DEFAULT_SETTINGS)
    for name, default in DEFAULT_SETTINGS.items():
        text = environment.get(f"PIXIE_{name.upper()}")
        if text is not None:
            settings[name] = convert_setting(
                f"PIXIE_{name.upper()}", text, type(default)
            )
    for name, value in given.items():
        if name not in settings:
            known = ", ".join(DEFAULT_SETTINGS)
            raise PixieError(f"run() has no argument {name!r}; it takes {known}")
        settings[name] = convert_setting(name, value, type(DEFAULT_SETTINGS[name]))
    for name, value in settings.items():
        least, most = _BOUNDS.get(name, (0, float("inf")))
        if value == -1 and name.endswith(_AUTO):
            continue
        if isinstance(value, (int, float)) and not least <= value <= most:
            raise PixieError(f"{name} is from {least:g} to {most:g}, got {value!r}")
    root_path = clean_root_path(settings["root_path"])
    if root_path is None:
        got = settings["root_path"]
        raise PixieError(f'root_path is a path such as "/app", got {got!r}')
    settings["root_path"] = root_path
    _check_words(settings)
    try:
        settings["access_log_format"] % AccessRecord(Request(NO_HEAD), 0, 0, 0.0, "")
    except (KeyError, TypeError, ValueError) as error:
        known = ", ".join(AccessRecord.ITEMS)
        raise PixieError(f"access_log_format has {error!r}; it knows {known}") from None
    return settings


def import_ahead() -> None:
    """Import what requests may need in main: later no descriptor may be left for it."""
    import importlib

    names = "calendar concurrent.futures.thread fcntl hmac ipaddress mimetypes queue "
    for name in (names + "tempfile termios traceback zlib").split():
        try:
            importlib.import_module(name)
        except ImportError:
            pass  # not on this system
    content_type_of("x.unknown")  # reads the machine's own types, once
    # The end of a first thread loads libgcc; where that can't be opened, glibc aborts.
    first = threading.Thread(target=int)
    first.start()
    first.join()


def check_no_loop_runs() -> None:
    """Raise PixieError inside a running event loop, where no other one can run."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise PixieError(
        "run() can't serve where an event loop runs already, in a notebook or a "
        "coroutine; write threading.Thread(target=app.run, daemon=True).start()"
    )


def say(text: str) -> None:
    """Print a line for people; where it can't be written, the server serves anyway."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # a full disk, a pipe that nobody reads, a file that has been closed
