"""Programs, imported by their name or in a new interpreter."""

from __future__ import annotations

import os
import sys
import types
from typing import Any, Mapping, NoReturn, cast

from .about import ROOT
from .application import Application
from .errors import PixieError
from .executors.pool.frames import Program
from .executors.pool.zygote import live_apart
from .launch import take_over
from .pixie import Pixie, app
from .runner import Runner


def load_application(target: str) -> Pixie:
    """Import `module`, `module:name` or `file.py[:name]` and return its application.

    Without a name it is `app`, else `application`, else the default application, which
    `module:app` means too where the module has no `app` of its own.

    Raises:
        PixieError: there is no such module, or no application in it.
    """
    import importlib

    module_name, _, name = target.partition(":")
    if not module_name:
        raise PixieError(f"write module:name or file.py, got {target!r}")
    directory = os.getcwd()
    if module_name.endswith(".py"):
        directory = os.path.dirname(os.path.abspath(module_name))
        module_name = os.path.basename(module_name)[:-3]
    sys.path.insert(0, directory)
    Runner.loading = True
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if not f"{module_name}.".startswith(f"{missing.name}."):
            raise
        raise PixieError(f"no module {module_name!r} in {directory}") from None
    finally:
        Runner.loading = False
    for candidate in (name,) if name else ("app", "application"):
        found = getattr(module, candidate, None)
        if isinstance(found, Pixie):
            found.imported_from = module_name
            return found
    if name not in ("", "app", "application") or not app.routes:
        raise PixieError(f"{module_name} has no Pixie application {name or 'app'!r}")
    app.imported_from = module_name
    return app


def import_main(package: str, path: str, name: str = "__mp_main__") -> None:
    """Run the main program again, under another name perhaps; let it be `__main__`."""
    module = types.ModuleType(name)
    module.__file__, module.__package__ = path, package
    sys.modules["__main__"] = sys.modules[name] = module
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, vars(module))


def load_program(origin: Mapping[str, Any]) -> Program:
    """Import an application in a new interpreter, and return its program."""
    import importlib
    import tempfile

    sys.argv[:], sys.path[:] = origin["argv"], origin["path"]
    tempfile.tempdir = origin["temporary"]
    Runner.loading = True
    if origin["main"] is not None:
        import_main(*origin["main"])
    for name in origin["modules"]:
        importlib.import_module(name)
    module, name = origin["application"]
    application = cast(Application, getattr(sys.modules[module or ROOT], name))
    take_over(application, origin["inheritance"])
    return application.freeze()._replace(fresh=True)


def boot() -> NoReturn:
    """Be a process of the pool: what its zygote or main has a new interpreter do."""
    sys.modules.setdefault("pixie_web", sys.modules[ROOT])
    live_apart(load_program)
