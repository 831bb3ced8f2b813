"""The data with which a new interpreter finds the application again."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, cast

from .about import LONE, ROOT, log
from .application import Application
from .cookies import UNSET
from .errors import PixieError
from .executors.pool.worker import keep_log
from .executors.pool.zygote import Launch, temporary_directory
from .protocol.multipart import FORM_LIMITS, FormLimits
from .sessions import Sessions
from .text import OwnHandler


def configure_logging() -> None:
    """Send this framework's log to stderr, unless the program has set up logging."""
    keep_log()
    if log.handlers or logging.getLogger().handlers:
        return
    log.addHandler(OwnHandler())
    log.setLevel(logging.INFO)


def apply_settings(
    application: Application, limits: Sequence[int], root_path: str
) -> None:
    """Give an application and all below it those settings that handlers depend on."""
    for one in application.family():
        one.form_limits = FormLimits(*limits)
        one.root_path = root_path


def hand_down(application: Application) -> Dict[str, Any]:
    """Return the inheritance of a worker that imports the program: what main has set.

    Forked workers have it already. JSON can say it; it holds the secrets, so it goes
    through a socket, never into arguments or variables.
    """
    family = [one.secrets for one in application.family()]
    return {
        "form_limits": getattr(application, "form_limits", FORM_LIMITS),
        "root_path": application.root_path,
        "state_place": application.state_place,
        "sessions": [one.sessions for one in application.family()],
        "secrets": [
            None
            if secrets is UNSET
            else [key.hex() for key in cast(List[bytes], secrets)]
            for secrets in family
        ],
    }


def take_over(application: Application, inheritance: Mapping[str, Any]) -> None:
    """Set in a worker what `hand_down` returned in main."""
    limits, root_path = inheritance["form_limits"], inheritance["root_path"]
    apply_settings(application, limits, root_path)
    application.state_place = inheritance["state_place"]
    for one, options in zip(application.family(), inheritance["sessions"]):
        one.sessions = None if options is None else Sessions(*options)
    for one, keys in zip(application.family(), inheritance["secrets"]):
        one.secrets = UNSET if keys is None else [bytes.fromhex(key) for key in keys]


# How a new interpreter finds the application: it gets sys.path, sys.argv and the names
# of modules, imports these, and takes the application from one. As under
# multiprocessing's "spawn", the main program is run again as `__mp_main__`; a run() in
# it does nothing. What is made inside a function (an application, a route) is not found
# that way, and the table of routes tells.


def find_application(application: Application) -> Tuple[str, str]:
    """Return the module and the name that an application is found under.

    Raises:
        PixieError: it is no module's global.
    """
    modules = {"__main__": sys.modules["__main__"], **sys.modules}
    for module_name, module in modules.items():
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is application:
                return module_name, name
    raise PixieError(
        "a new process would not find the application: make it a global of a module, "
        'or run with pool_start="zygote"'
    )


def describe_main() -> Optional[Tuple[str, str]]:
    """Return the main program's package, or "", and its file; None: it is no file."""
    main_module = sys.modules["__main__"]
    path = getattr(main_module, "__file__", None)
    package = getattr(main_module, "__package__", None) or ""
    return None if path is None else (package, os.path.abspath(path))


def interpreter(chapter: str, function: str) -> List[str]:
    """Return the command of a new interpreter that calls a function of a chapter.

    Only that knows the directory of this framework as the first of sys.path.
    """
    import subprocess

    path, core = os.path.abspath(__file__), ROOT
    if core == "__main__":
        core = os.path.splitext(os.path.basename(path))[0]
    for _ in __name__.split("."):
        path = os.path.dirname(path)
    entry = core if LONE else f"{core}.{chapter}"
    code = f"import sys; sys.path.insert(0, {path!r}); import {entry} as c; "
    code += f"del sys.path[0]; c.{function}()"
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", code]


def describe_launch(application: Application) -> Launch:
    """Return what a new interpreter needs to find an application.

    Raises:
        PixieError: it could not.
    """
    module, name = find_application(application)
    modules = [application.imported_from, module]
    modules += [route.handler.__module__ for route in application.routes]
    own = sys.modules[ROOT]
    modules = [m for m in dict.fromkeys(modules) if sys.modules.get(m, own) is not own]
    main_program = describe_main() if "__main__" in modules else None
    if "__main__" in modules and main_program is None:
        raise PixieError("a new process can't import this program: save it as a file")
    origin = {
        "argv": sys.argv,
        "path": sys.path,
        "main": main_program,
        "modules": [m for m in modules if m != "__main__"],
        "application": [None if sys.modules[module] is own else module, name],
        "inheritance": hand_down(application),
        "temporary": temporary_directory(),
    }
    return Launch(interpreter("loading", "boot"), origin)
