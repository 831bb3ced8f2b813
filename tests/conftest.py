"""What every test file shares."""

from __future__ import annotations

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Child processes find the package too, also when it is not installed.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """Return the directory of the repository."""
    return ROOT
