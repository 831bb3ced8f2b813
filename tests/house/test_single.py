"""The single file: the same program as the package, and how it is built."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Tuple

import pytest
from shapes import ROOT, lone_file, place_lone_file

from pixie_web import __version__
from pixie_web.single import CHAPTERS, Book, BrokenRule, is_import, is_type_checking

PACKAGE = ROOT / "pixie_web"
AS_ROOT = getattr(os, "geteuid", lambda: 0)() == 0


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a copy of the package, to break rules in."""
    copy = tmp_path / "installed" / "pixie_web"
    shutil.copytree(str(PACKAGE), str(copy), ignore=shutil.ignore_patterns("*.pyc"))
    return copy


def run(
    *arguments: str, directory: Path, path: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run Python in a directory, with pixie_web found on a path."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=str(directory),
        env={**os.environ, "PYTHONPATH": str(path), **environment},
        capture_output=True,
        timeout=60,
    )


SINGLE = ("-m", "pixie_web", "single")
# As the installed command `pixie-web` does: the working directory is on no path.
COMMAND = (
    "-c",
    "import sys; sys.path[:1] = []; from pixie_web.cli import main; sys.exit(main())",
    "single",
)


# The same program ---------------------------------------------------------------------


def statements(source: str) -> List[ast.stmt]:
    """Return the statements of a module below its docstring and its imports."""
    return [
        statement
        for statement in ast.parse(source).body[1:]
        if not is_import(statement) and not is_type_checking(statement)
    ]


def test_the_single_file_has_the_statements_of_all_chapters_and_no_others() -> None:
    expected = []
    for chapter in CHAPTERS:
        source = (PACKAGE / f"{chapter}.py").read_text("utf-8")
        expected += [ast.dump(statement) for statement in statements(source)]
    lone = ast.dump(ast.parse("LONE = False").body[0])
    expected[expected.index(lone)] = ast.dump(ast.parse("LONE = True").body[0])
    names, *found, footer = map(ast.dump, statements(lone_file().decode()))
    assert "'__all__'" in names
    assert "'__main__'" in footer
    assert found == expected


def imported(source: str) -> List[Tuple[str, str, bool]]:
    """Return what a module imports from others, and whether for types alone."""
    found = []
    for statement in ast.parse(source).body:
        inner = statement.body if is_type_checking(statement) else [statement]  # type: ignore[attr-defined]
        for one in inner:
            module = getattr(one, "module", None) or ""
            if is_import(one) and not getattr(one, "level", 0):
                for alias in one.names:
                    found.append((module, alias.name, inner[0] is not statement))
    return found


def test_it_imports_what_the_chapters_import() -> None:
    expected = set()
    for chapter in CHAPTERS:
        expected |= set(imported((PACKAGE / f"{chapter}.py").read_text("utf-8")))
    running = {one for one in expected if not one[2]}
    expected -= {(module, name, True) for module, name, _ in running}
    found = imported(lone_file().decode())
    assert sorted(found) == sorted(expected)


def test_the_chapters_are_all_files_but_for_companions() -> None:
    files = {p.relative_to(PACKAGE).with_suffix("") for p in PACKAGE.rglob("*.py")}
    folders = {p.as_posix() for p in files if p.name == "__init__"} - {"__init__"}
    outside = {"__init__", "__main__", "single", *folders}
    outside |= {"hosting", "httptools", "servers", "status", "testing"}
    outside |= {"devtools", "guard", "starter"}
    files = {p for p in files if p.parts[0] not in ("http2", "http3", "jobs", "state")}
    assert sorted(CHAPTERS) == sorted({p.as_posix() for p in files} - outside)


def test_the_docstring_of_the_package_lists_the_chapters_in_their_order() -> None:
    source = (PACKAGE / "__init__.py").read_text("utf-8")
    listing = source.partition("above it:\n\n")[2].partition("\n\n")[0]
    found = []
    for line in listing.splitlines():
        folder, _, names = line.strip().split("   ")[0].rpartition(": ")
        found += [f"{folder}/{name}".lstrip("/") for name in names.split()]
    assert found == CHAPTERS


# Its text -----------------------------------------------------------------------------


def test_the_first_lines_say_what_it_is() -> None:
    first, second, third, docstring, *_ = lone_file().decode().splitlines()
    assert first.startswith(f"# pixie_web {__version__}, all of it in one file.")
    assert "not to be edited" in second
    assert re.fullmatch(r"# Their SHA-256: [0-9a-f]{64}", third)
    assert docstring.startswith('"""pixie_web: ')


def test_a_banner_stands_above_each_chapter() -> None:
    found = re.findall(r"^# =+\n# (\S+)\n# =+$", lone_file().decode(), re.MULTILINE)
    assert [name for name in found if not name.endswith("/")] == CHAPTERS
    assert [name for name in found if name.endswith("/")] == [
        "protocol/",
        "templating/",
        "executors/",
        "executors/pool/",
        "server/",
        "gateways/",
    ]


def test_the_digest_changes_with_a_chapter_and_nothing_else(package: Path) -> None:
    digest = Book(package).digest
    assert digest == Book(PACKAGE).digest
    with open(str(package / "routing.py"), "a") as file:
        file.write("# more\n")
    assert Book(package).digest != digest


def test_it_is_laid_out_as_the_chapters_are(tmp_path: Path) -> None:
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("ruff is not installed")
    path = place_lone_file(tmp_path)
    for command in ("check", "format --check"):
        done = run(
            *f"-m ruff {command} --config".split(),
            str(ROOT / "pyproject.toml"),
            str(path),
            directory=tmp_path,
        )
        assert done.returncode == 0, done.stdout.decode()


# Building it --------------------------------------------------------------------------


def test_the_same_chapters_give_the_same_bytes(package: Path, tmp_path: Path) -> None:
    # From a clone and from where it is installed, in any place and at any time.
    for seed in ("1", "2"):
        done = run(*SINGLE, "-", directory=tmp_path, PYTHONHASHSEED=seed)
        assert (done.stdout, done.stderr) == (lone_file(), b"")
    done = run(*SINGLE, "-", directory=tmp_path, path=package.parent)
    assert (done.stdout, done.stderr) == (lone_file(), b"")


@pytest.mark.parametrize("command", [SINGLE, COMMAND], ids=["-m", "pixie-web"])
def test_it_is_written_into_an_empty_directory(
    command: Tuple[str, ...], tmp_path: Path
) -> None:
    done = run(*command, directory=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert os.listdir(str(tmp_path)) == ["pixie_web.py"]
    assert (tmp_path / "pixie_web.py").read_bytes() == lone_file()


def test_it_is_written_to_a_path(tmp_path: Path) -> None:
    done = run(*SINGLE, "other.py", directory=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "other.py").read_bytes() == lone_file()


def test_an_older_one_is_replaced_by_the_installed_command(tmp_path: Path) -> None:
    (tmp_path / "pixie_web.py").write_text("raise SystemExit('an older one ran')\n")
    done = run(*COMMAND, directory=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "pixie_web.py").read_bytes() == lone_file()


def test_an_older_one_that_python_runs_in_place_of_the_package_says_so(
    tmp_path: Path,
) -> None:
    path = place_lone_file(tmp_path)
    done = run(*SINGLE, directory=tmp_path)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"pixie_web: {path.resolve()} is the single file already, of version "
        f"{__version__}: install the package, "
        "and its `pixie single` builds another one\n"
    )
    assert path.read_bytes() == lone_file()


def test_a_read_only_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "lone.py"
    path.write_text("old")
    path.chmod(0o444)
    done = run(*SINGLE, str(path), directory=ROOT)
    assert (done.returncode, done.stderr) == (0, b"")
    assert path.read_bytes() == lone_file()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.py").symlink_to("goal.py")
    assert run(*SINGLE, "link.py", directory=tmp_path).returncode == 0
    assert (tmp_path / "link.py").is_symlink()
    assert (tmp_path / "goal.py").read_bytes() == lone_file()


def test_all_may_read_it_whom_the_umask_lets(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        assert run(*SINGLE, directory=tmp_path).returncode == 0
    finally:
        os.umask(umask)
    mode = (tmp_path / "pixie_web.py").stat().st_mode
    assert oct(stat.S_IMODE(mode)) == "0o640"


def refused(directory: Path, *arguments: str, path: Path = ROOT) -> str:
    """Return the line that says why nothing was written."""
    before = sorted(os.listdir(str(directory)))
    done = run(*COMMAND, *arguments, directory=directory, path=path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert sorted(os.listdir(str(directory))) == before
    assert done.stderr.startswith(b"pixie_web: ")
    assert done.stderr.count(b"\n") == 1
    return done.stderr.decode()


def test_a_place_that_can_not_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    assert "Is a directory" in refused(tmp_path, "directory")
    assert "No such file or directory" in refused(tmp_path, "missing/pixie_web.py")


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_a_directory_of_others_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        assert "Permission denied" in refused(tmp_path)
    finally:
        tmp_path.chmod(0o755)


# The rules ----------------------------------------------------------------------------

IMPORTS = "from __future__ import annotations\n"
# What is put into which chapter, above its first import or at its end; what is said.
BROKEN: Dict[str, Tuple[str, str, str, str]] = {
    "an import from below": (
        "text",
        "top",
        "from .routing import Router",
        "pixie_web/routing.py does not stand above it",
    ),
    "another name": (
        "text",
        "top",
        "from .errors import HTTPError as Error",
        "import HTTPError by its own name",
    ),
    "another name of a module": (
        "text",
        "top",
        "import os.path as path",
        "import os.path by its own name",
    ),
    "a star": ("text", "top", "from .errors import *", "import * by its own name"),
    "a module of the package": (
        "text",
        "top",
        "from . import errors",
        "write from .chapter import name",
    ),
    "a companion": (
        "text",
        "top",
        "from .status import Status",
        "write from .chapter import name",
    ),
    "a module outside of the package": (
        "text",
        "top",
        "from ..other import name",
        "write from .chapter import name",
    ),
    "a name that is not there": (
        "text",
        "top",
        "from .errors import Missing",
        "Missing is not defined in pixie_web/errors.py",
    ),
    "a name of a third chapter": (
        "cookies",
        "top",
        "from .text import HTTPError",
        "HTTPError is not defined in pixie_web/text.py",
    ),
    "an import further below": ("text", "end", "import os", "imports stand at the top"),
    "an import of a chapter in a function": (
        "cli",
        "end",
        "def late() -> None: from .text import escape",
        "no chapter is imported inside a function",
    ),
    "code under TYPE_CHECKING": (
        "launch",
        "top",
        "if TYPE_CHECKING:\n    import os\n    x = 1",
        "under TYPE_CHECKING stand imports alone",
    ),
    "a name that is defined twice": (
        "routing",
        "end",
        "def escape() -> None: pass",
        "escape is defined in pixie_web/text.py already",
    ),
    "a private name that is defined twice": (
        "routing",
        "end",
        "_TOKEN = 1",
        "_TOKEN is defined in pixie_web/text.py already",
    ),
    "a builtin": (
        "text",
        "end",
        "def open() -> None: pass",
        "open is a builtin's name",
    ),
    "a name that others import": (
        "cli",
        "end",
        "def partial() -> None: pass",
        "partial is defined in pixie_web/cli.py",
    ),
    "a name with two meanings": (
        "cli",
        "top",
        "from os import stat",
        "stat has another meaning in another chapter",
    ),
    "the name of the package": (
        "cli",
        "end",
        "name = __package__",
        "ask ROOT, not __package__",
    ),
    "no Python": ("text", "end", "def", "not valid Python: invalid syntax"),
    "code in a folder": (
        "server/__init__",
        "end",
        "x = 1",
        "a folder's __init__ is its docstring alone",
    ),
}


def insert(path: Path, where: str, text: str) -> int:
    """Put lines into a chapter and return the line on which they begin."""
    source = path.read_text("utf-8")
    if where == "top":
        assert source.count(IMPORTS) == 1
        before, _, after = source.partition(IMPORTS)
        before += IMPORTS
    else:
        before, after = source, ""
    path.write_text(f"{before}{text}\n{after}", "utf-8")
    return before.count("\n") + 1


@pytest.mark.parametrize("chapter, where, text, rule", BROKEN.values(), ids=BROKEN)
def test_a_chapter_that_breaks_a_rule_is_named(
    package: Path, chapter: str, where: str, text: str, rule: str
) -> None:
    line = insert(package / f"{chapter}.py", where, text)
    with pytest.raises(BrokenRule) as caught:
        Book(package)
    found = re.fullmatch(r"(.+), line (\d+): (.+)", str(caught.value))
    assert found is not None
    assert found.group(3) == rule
    if "is defined in pixie_web/cli.py" not in rule:  # the import is at fault there
        assert found.group(1) == f"pixie_web/{chapter}.py"
        assert int(found.group(2)) == line or "stat" in text


@pytest.mark.parametrize(
    "old, new, rule",
    [
        ('"""', '"""', "a chapter begins with its docstring"),
        (IMPORTS, "", "no `from __future__ import annotations` at its top"),
    ],
)
def test_a_chapter_begins_as_chapters_do(
    package: Path, old: str, new: str, rule: str
) -> None:
    path = package / "routing.py"
    source = path.read_text("utf-8")
    if old == '"""':
        source = source.split('"""', 2)[2].lstrip()
    path.write_text(source.replace(old, new), "utf-8")
    with pytest.raises(BrokenRule, match=re.escape(rule)):
        Book(package)


def test_what_says_that_it_is_alone_has_to_be_there(package: Path) -> None:
    path = package / "about.py"
    path.write_text(
        path.read_text("utf-8").replace("LONE = False", "LONE = 0"), "utf-8"
    )
    with pytest.raises(BrokenRule, match="the line `LONE = False` is not there"):
        Book(package)


def test_a_broken_rule_is_one_line_and_leaves_the_old_file(
    package: Path, tmp_path: Path
) -> None:
    # The chapter has to be importable, or it is Python that complains.
    line = insert(package / "routing.py", "end", "_TOKEN = 1")
    old = tmp_path / "pixie_web.py"
    old.write_text("old")
    assert refused(tmp_path, path=package.parent) == (
        f"pixie_web: pixie_web/routing.py, line {line}: _TOKEN is defined in "
        "pixie_web/text.py already\n"
    )
    assert old.read_text() == "old"


def test_a_rule_is_named_where_the_package_can_not_be_imported_any_more(
    package: Path, tmp_path: Path
) -> None:
    line = insert(package / "text.py", "top", "from .cli import main")
    done = run(str(package / "single.py"), directory=tmp_path)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"pixie_web: pixie_web/text.py, line {line}: pixie_web/cli.py does not stand "
        "above it\n"
    )


def test_a_chapter_that_is_missing_is_one_line(package: Path) -> None:
    (package / "cli.py").rename(package / "cli2.py")
    with pytest.raises(OSError, match=r"cli\.py"):
        Book(package)
