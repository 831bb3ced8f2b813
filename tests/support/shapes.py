"""The shape of pixie_web that is tested: the package, or the single file built from it.

PIXIE_SHAPE=single lets every test, and every program that a test starts, import the
single file. `from pixie_web.chapter import name` works in the tests all the same: each
chapter's name stands for the one module then. A program in a process of its own asks
`module_of` for the name.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Optional

ROOT = Path(__file__).resolve().parents[2]
SHAPE = os.environ.get("PIXIE_SHAPE", "package")
if SHAPE not in ("package", "single"):
    raise ValueError(f"PIXIE_SHAPE is package or single, not {SHAPE!r}")
IS_SINGLE = SHAPE == "single"

# What has no single shape: companions, the sources, and what is run on them.
OF_THE_PACKAGE = [
    "application/test_status.py",
    "application/test_debug_page.py",
    "application/test_loop_guard.py",
    "application/test_testing.py",
    "gateways/test_hosting.py",
    "gateways/test_servers.py",
    "house/test_architecture.py",
    "house/test_bench.py",
    "house/test_budget.py",
    "house/test_chapters.py",
    "house/test_expressions.py",
    "house/test_fuzz.py",
    "house/test_importing.py",
    "house/test_single.py",
    "http2",
    "http3",
    "protocol/test_parsers.py",
    "state",
]

_made: Optional[TemporaryDirectory[str]] = None


@functools.lru_cache(maxsize=None)
def lone_file() -> bytes:
    """Build the single file, once for all tests, and return its text."""
    command = [sys.executable, "-m", "pixie_web.single", "-"]
    environment = {**os.environ, "PYTHONPATH": ""}
    return subprocess.check_output(command, cwd=str(ROOT), env=environment, timeout=60)


def place_lone_file(directory: Path) -> Path:
    """Write the single file as `pixie_web.py` into a directory, and return its path."""
    path = directory / "pixie_web.py"
    path.write_bytes(lone_file())
    return path


def module_of(chapter: str) -> str:
    """Return the name under which a program finds what a chapter defines."""
    return "pixie_web" if IS_SINGLE else f"pixie_web.{chapter}"


@functools.lru_cache(maxsize=None)
def home() -> Path:
    """Return the directory that holds pixie_web in its shape, and the examples."""
    global _made
    if not IS_SINGLE:
        return ROOT
    _made = TemporaryDirectory(prefix="pixie_web-single-")
    directory = Path(_made.name).resolve()
    place_lone_file(directory)
    for program in ("demo.py", "msgboard.py"):
        shutil.copy(str(ROOT / program), str(directory))
    shutil.copytree(str(ROOT / "examples"), str(directory / "examples"))
    return directory


def take_shape() -> None:
    """Have this process and its children import pixie_web in its shape."""
    paths = [str(home()), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if not IS_SINGLE:
        return
    sys.path.insert(0, str(home()))
    lone = importlib.import_module("pixie_web")
    assert Path(str(lone.__file__)).parent == home()
    for chapter in builder().CHAPTERS:
        folders = chapter.split("/")[:-1]
        above = lone
        for depth in range(len(folders)):
            name = ".".join(["pixie_web", *folders[: depth + 1]])
            folder = sys.modules.setdefault(name, types.ModuleType(name))
            setattr(above, folders[depth], folder)
            above = folder
        sys.modules["pixie_web." + chapter.replace("/", ".")] = lone
        if folders:
            setattr(above, chapter.split("/")[-1], lone)


def leave_the_package() -> None:
    """Go where no package lies: `python -c` looks into the working directory first."""
    if IS_SINGLE:
        os.chdir(str(home()))


def builder() -> Any:
    """Return the module that builds the single file, without importing its package."""
    path = ROOT / "pixie_web" / "single.py"
    spec = importlib.util.spec_from_file_location("builder_of_the_single_file", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def clean_up() -> None:
    """Remove what was made."""
    if _made is not None:
        _made.cleanup()
