"""The harnesses of fuzz/ work, and find nothing in their seeds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Tuple

import pytest

FUZZ = Path(__file__).resolve().parents[2] / "fuzz"
SHARED = {"framing.py", "harness.py"}
HARNESSES = sorted(path.name for path in FUZZ.glob("*.py") if path.name not in SHARED)


PROGRAM = """
import runpy, sys
sys.modules["atheris"] = None  # without it, only the seeds are tried
sys.path[0], harness = sys.argv[1:]
sys.argv[1:] = []
runpy.run_path(harness, run_name="__main__")
"""


def try_seeds(harness: Path) -> Tuple[int, str]:
    """Return the exit code of a harness, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(FUZZ), str(harness)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=80,
    )
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize("name", HARNESSES)
def test_a_harness_finds_nothing_in_its_seeds(name: str) -> None:
    code, output = try_seeds(FUZZ / name)
    assert (code, output[:6]) == (0, "tried "), output


def test_a_harness_fails_when_its_oracle_does(tmp_path: Path) -> None:
    source = (FUZZ / "urlencoded.py").read_text("utf-8")
    wrong = source.replace(" parse_urlencoded(data, ", " parse_urlencoded(b'', ")
    assert wrong != source
    (tmp_path / "wrong.py").write_text(wrong, "utf-8")
    code, output = try_seeds(tmp_path / "wrong.py")
    assert (code, "AssertionError" in output) == (1, True), output


def test_the_readme_lists_every_harness() -> None:
    text = (FUZZ / "README.md").read_text("utf-8")
    assert [name for name in HARNESSES if f"| `{name}` |" not in text] == []
