"""The command line."""

from __future__ import annotations

import os
import sys
from typing import Any, Dict, Optional, Sequence, cast

from .about import LONE, __version__
from .errors import PixieError, companion
from .executors.pool.worker import fill_standard_descriptors
from .flags import UsageError, describe_flags, did_you_mean, read_flags
from .loading import load_application
from .pixie import Pixie
from .reloading import ProgramCall, Reloader, tether
from .settings import read_settings, say

PROGRAM = "python pixie_web.py" if LONE else "pixie"
COMMANDS = {
    "run": ("TARGET [flags]", "serve an application; the word run may be left out"),
    "routes": ("TARGET", "list its routes: verbs, path, placement, handler"),
    "check": ("TARGET [flags]", "do all of a start but the listening"),
    "new": ("NAME", "make a directory with a first application and its test"),
    "single": ("[PATH]", "build the single file, pixie_web.py"),
}
OPTIONAL_PARTS = ("uvloop", "orjson", "httptools")
HELP = f"""
TARGET is module:name, a module, or file.py; without a name the application is called
app or application. Each flag of `run` is an argument of run() and a variable too:
--port 80, run(port=80), PIXIE_PORT=80. All of them: {PROGRAM} run --help
"""


def print_routes(application: Pixie) -> None:
    """Print a line for each route: verbs, path, placement, handler."""
    rows = [
        (
            ",".join(route.methods),
            path,
            route.placement.name,
            getattr(route.handler, "__name__", repr(route.handler)),
        )
        for path, route in application.placed_routes()
    ]
    widths = [max(map(len, column)) for column in zip(*rows)] if rows else []
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def build_single(arguments: Sequence[str]) -> int:
    """Have the package build the single file, and return the exit status."""
    if not LONE:
        return cast(int, companion("single", "single").main(arguments))
    # `python -m pixie_web` means this file where it lies in the working directory.
    raise PixieError(
        f"{os.path.abspath(__file__)} is the single file already, of version "
        f"{__version__}: install the package, and its `pixie single` builds another one"
    )


def describe_version() -> str:
    """Return the version, that of Python, and which optional libraries are there."""
    from importlib.util import find_spec

    there = [name for name in OPTIONAL_PARTS if find_spec(name) is not None]
    missing = [name for name in OPTIONAL_PARTS if name not in there]
    python = ".".join(map(str, sys.version_info[:3]))
    with_ = f", with {', '.join(there)}" if there else ""
    without = f", without {', '.join(missing)}" if missing else ""
    return f"pixie_web {__version__}, Python {python}{with_}{without}"


def _usage(command: str = "") -> str:
    if command:
        return f"usage: {PROGRAM} {command} {COMMANDS[command][0]}"
    return f"usage: {PROGRAM} [{'|'.join(COMMANDS)}] TARGET [flags]"


def describe_command(command: str) -> str:
    """Return the help on one command, or on all of them."""
    if not command:
        rows = [(f"{name} {of}", text) for name, (of, text) in COMMANDS.items()]
        lines = [f"  {form:<22} {text}" for form, text in rows]
        return "\n".join([_usage(), "", *lines, HELP.rstrip()])
    text = COMMANDS[command][1]
    flags = f"\n\n{describe_flags()}" if "[flags]" in COMMANDS[command][0] else ""
    return f"{_usage(command)}\n{text[0].upper()}{text[1:]}.{flags}"


def _load(target: str) -> Pixie:
    try:
        return load_application(target)
    except PixieError as problem:
        raise PixieError(f"{problem}{did_you_mean(target, list(COMMANDS))}") from None


def _serve(command: str, target: str, settings: Dict[str, Any]) -> int:
    """Do what concerns an application: serve it, check it, list its routes."""
    if command == "routes" and settings:
        raise UsageError("routes takes no flags")
    if command == "run" and not tether.is_tied:
        known = read_settings(settings, os.environ)
        if known["reload"] and tether.call is not None:
            return Reloader(tether.call, known).run()
    application = _load(target)
    if command == "run":
        application.run(**settings)
        return 0
    if command == "check":
        application.check(**settings)
    print_routes(application)
    return 0


def _obey(arguments: Sequence[str], command: str) -> int:
    if "--version" in arguments:
        print(describe_version())
        return 0
    if command == "single":
        return build_single(arguments)
    if {"-h", "--help"} & {*arguments}:
        print(describe_command(command))
        return 0
    words, settings = read_flags(arguments)
    if not command and len(words) > 1:
        similar = did_you_mean(words[0], list(COMMANDS))
        known = ", ".join(COMMANDS)
        raise UsageError(f"a command is one of {known}, got {words[0]!r}{similar}")
    if len(words) != 1:
        form = COMMANDS[command or "run"][0].split()[0]
        got = f"got {' '.join(words)!r}" if words else "got none"
        raise UsageError(f"one {form} is needed, {got}")
    if command == "new":
        if settings:
            raise UsageError("new takes no flags")
        companion("starter", "`pixie new`").make(words[0])
        return 0
    return _serve(command or "run", words[0], settings)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line and return its exit status.

    `run app:app --port 8080` serves, and so does `app:app`; `routes app:app` lists the
    routes; `check app:app` does all of a start but the listening, stops, and says
    whether that went well; `new shop` makes a first application; `single` builds the
    single file. 2 is for what is not understood, 1 for what fails.
    """
    left = list(sys.argv[1:] if arguments is None else arguments)
    command = left.pop(0) if left and left[0] in COMMANDS else ""
    fill_standard_descriptors()  # ahead of what the program opens
    call = tuple(sys.argv[1:] if arguments is None else arguments)
    tether.call = ProgramCall("command", "", call, os.getcwd())
    try:
        return _obey(left, command)
    except UsageError as problem:
        more = f"; {PROGRAM} {command or 'run'} --help lists all"
        say(f"{_usage(command)}\npixie_web: {problem}{more}")
        return 2
    except PixieError as problem:
        say(f"pixie_web: {problem}")
        tether.problem = str(problem)
        return 1
    finally:
        tether.call = None
