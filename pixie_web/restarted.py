"""A program that its reloader has started, and its page if it fails."""

from __future__ import annotations

import sys
from typing import List, NoReturn

from .about import ROOT
from .cli import main
from .conditional import prefers_json
from .errors import HTTPError, PixieError
from .executors.pool.worker import prctl
from .handling import debug_page, trace
from .loading import import_main
from .pixie import Pixie
from .reloading import ProgramCall, tether
from .requests import Request
from .responses import Response, error_page
from .runner import Runner
from .settings import say


class ProgramEnded(PixieError):
    """A program has ended without a word of its own."""


def call_again(call: ProgramCall) -> None:
    """Do what the command line once did."""
    if call.kind == "command":
        sys.exit(main(call.arguments))
    elif call.kind == "module":
        from runpy import run_module

        sys.argv[:] = ["", *call.arguments]
        run_module(call.name, run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = [call.name, *call.arguments]
        import_main("", call.name, "__main__")


def failed_files(error: BaseException) -> List[str]:
    """Return the files that an error has to do with: a change may mend it."""
    files = [getattr(error, "filename", None)]
    step = error.__traceback__
    while step is not None:
        files.append(step.tb_frame.f_code.co_filename)
        step = step.tb_next
    return [file for file in files if isinstance(file, str) and file[:1] != "<"]


def show_failure(error: BaseException) -> None:
    """Serve a page that tells why the program fails, in its place.

    Raises:
        SystemExit: nor can that be served.
    """
    tether.tell(failed_files(error))
    problem = tether.problem if isinstance(error, SystemExit) else ""
    is_said = isinstance(error, ProgramEnded) or bool(problem)
    text = (problem or str(error)) if is_said else trace(error)
    if not is_said:
        say(text.rstrip())
    settings = tether.settings or tether.setup["settings"]
    application = Pixie()

    @application.error(404)
    def failure(env: Request, _: object) -> Response:
        if is_said:
            as_json = prefers_json(env)
            return error_page(HTTPError(500, "It does not start."), text, as_json)
        return debug_page(env, error, may_tell_values=bool(settings["debug"]))

    tether.has_failed = True
    say("pixie_web: the program does not start; waiting for a change")
    try:
        Runner(application, settings, tether.tls).run()
    except (PixieError, OSError):
        raise SystemExit(1) from None


def live_again() -> NoReturn:
    """Be the program: what the reloader has a new interpreter do."""
    sys.modules.setdefault("pixie_web", sys.modules[ROOT])
    prctl(1, 15)  # PR_SET_PDEATHSIG: when the reloader is killed, SIGTERM
    tether.tie(int(sys.argv[1]))
    call = ProgramCall(**tether.setup["call"])
    if sys.path[:1] == [""]:  # not with -I
        sys.path[0] = call.directory
    try:
        if tether.setup["failure"]:
            raise ProgramEnded(tether.setup["failure"])
        call_again(call)
    except SystemExit as end:
        if not end.code:
            raise
        show_failure(end)
    except BaseException as error:
        show_failure(error)
    finally:
        tether.untie()
    sys.exit(0)
