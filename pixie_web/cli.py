"""The command line."""

from __future__ import annotations

import os
import sys
from typing import Optional, Sequence, cast

from .about import LONE, __version__
from .errors import PixieError, companion
from .executors.pool.worker import fill_standard_descriptors
from .loading import load_application
from .pixie import Pixie
from .settings import DEFAULT_SETTINGS, convert_setting, say


def _flag(text: str) -> bool:
    return cast(bool, convert_setting("the value", text, bool))


def print_routes(application: Pixie) -> None:
    """Print a line for each route: verbs, path, placement, handler."""
    rows = [
        (
            ",".join(route.methods),
            route.path,
            route.placement.name,
            getattr(route.handler, "__name__", repr(route.handler)),
        )
        for route in application.routes
    ]
    widths = [max(map(len, column)) for column in zip(*rows)] if rows else []
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def build_single(arguments: Sequence[str]) -> int:
    """Have the package build the single file, and return the exit status."""
    if not LONE:
        return cast(int, companion("single", "single").main(arguments))
    # `python -m pixie_web` means this file where it lies in the working directory.
    print(
        f"pixie_web: {os.path.abspath(__file__)} is such a file itself, of version "
        f"{__version__}: `pixie-web single`, of the installed package, builds it anew",
        file=sys.stderr,
    )
    return 1


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line and return its exit status.

    `app:app --port 8080` serves; `routes app:app` lists the routes; `check app:app`
    does all of a start but the listening, stops, and says whether that went well;
    `single` builds the single file.
    """
    import argparse

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["single"]:
        return build_single(arguments[1:])
    fill_standard_descriptors()  # ahead of what the program opens
    parser = argparse.ArgumentParser("pixie_web", description="Serve an application.")
    parser.add_argument("command", nargs="?", help="routes, check, single")
    parser.add_argument("target", help="module:name, module or file.py")
    for name, default in DEFAULT_SETTINGS.items():
        # Others are turned into their kind with the variables of the environment.
        kind = _flag if isinstance(default, bool) else type(default)
        kind = str if kind is tuple or name.endswith(("_mode", "workers")) else kind
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="VALUE")
    parser.add_argument("--version", action="version", version=__version__)
    parsed = vars(parser.parse_args(arguments))
    command, target = parsed.pop("command"), parsed.pop("target")
    if command not in (None, "routes", "check"):
        parser.error(f"a command is routes, check or single, not {command!r}")
    try:
        application = load_application(target)
    except PixieError as problem:
        say(f"pixie_web: {problem}")
        return 1
    if command is None:
        application.run(**parsed)
        return 0
    if command == "check":
        given = {name: value for name, value in parsed.items() if value is not None}
        application.check(**given)
    print_routes(application)
    return 0
