"""What is shipped: the package, the lone file, and nothing of the author's machine."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any, List

import pytest
from shapes import place_lone_file

WANTED = ["route", "run", "Response", "RouteType", "proc_env"]


def python_json(*arguments: str) -> Any:
    """Return the JSON that a new, isolated Python without site-packages prints."""
    command = [sys.executable, "-I", "-S", *arguments]
    return json.loads(subprocess.check_output(command, timeout=60))


def stated_version(root: pathlib.Path) -> str:
    source = (root / "pixie_web" / "about.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    assert found, "about.py must state its version as a literal"
    return found.group(1)


def released_versions(changelog: str) -> List[str]:
    return re.findall(r"^## \[(\d[^]]*)\]", changelog, re.MULTILINE)


def test_the_lone_file_works_without_anything_installed(
    root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    place_lone_file(tmp_path)
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import pixie_web; "
        "print(json.dumps([pixie_web.__file__, pixie_web.__version__, dir(pixie_web)]))"
    )
    file, version, names = python_json("-c", program, str(tmp_path))
    assert pathlib.Path(file) == tmp_path / "pixie_web.py"
    assert version == stated_version(root)
    assert [name for name in WANTED if name not in names] == []


def test_the_package_imports_without_anything_installed(root: pathlib.Path) -> None:
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import pixie_web; "
        "print(json.dumps(sorted(pixie_web.__all__)))"
    )
    names = python_json("-c", program, str(root))
    assert [name for name in WANTED if name not in names] == []


def test_the_package_says_that_it_is_typed(root: pathlib.Path) -> None:
    assert (root / "pixie_web" / "py.typed").read_bytes() == b""


def test_the_version_stands_in_one_chapter_and_nowhere_else(root: pathlib.Path) -> None:
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in project
    assert '[tool.hatch.version]\npath = "pixie_web/about.py"' in project
    assert re.findall(r"^version\s*=", project, re.MULTILINE) == []
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", stated_version(root))


def test_the_changelog_knows_no_release_but_those_up_to_this_one(
    root: pathlib.Path,
) -> None:
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "\n## [Unreleased]\n" in changelog
    assert released_versions(changelog)[:1] in ([], [stated_version(root)])


def test_released_versions_are_read_newest_first() -> None:
    changelog = "## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n## [0.1.0]\n"
    assert released_versions(changelog) == ["0.2.0", "0.1.0"]


# ======================================================================================
# Traces of a machine
# ======================================================================================

TRACES = {
    "a home or build directory": r"(?<![\w.~*-])/(?:home|root|Users|work(?:space)?)/",
    "a directory of Windows": r"\b[A-Z]:\\Users\\",
    "another package index": r"--?(?:extra-)?index-url|trusted-host",
    "an unfinished merge": r"^(?:<{7}|>{7}) ",
}


def traces(text: str) -> List[str]:
    return [name for name, trace in TRACES.items() if re.search(trace, text, re.M)]


def tracked_files(root: pathlib.Path) -> List[pathlib.Path]:
    """Return the files that git tracks; skip the test where there is no repository."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git repository")
    listing = subprocess.check_output(["git", "ls-files", "-z"], cwd=str(root))
    paths = [root / name for name in listing.decode("utf-8").split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_no_tracked_file_shows_the_machine_it_was_written_on(
    root: pathlib.Path,
) -> None:
    found = {}
    for path in tracked_files(root):
        seen = traces(path.read_bytes().decode("utf-8", "replace"))
        if seen and path != pathlib.Path(__file__).resolve():
            found[str(path.relative_to(root))] = seen
    assert found == {}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("see /home/someone/x.py", ["a home or build directory"]),
        ('open("/workspace/x")', ["a home or build directory"]),
        ("C:\\Users\\someone", ["a directory of Windows"]),
        ("pip install --index-url x", ["another package index"]),
        ("a\n<<<<<<< HEAD\n", ["an unfinished merge"]),
        ("https://example.com/home/ ../home/ /worker/ home/work", []),
    ],
)
def test_traces_of_a_machine_are_found(text: str, expected: List[str]) -> None:
    assert traces(text) == expected
