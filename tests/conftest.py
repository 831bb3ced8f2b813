"""What every test file shares."""

from __future__ import annotations

import os
import pathlib
import sys
from typing import Iterator

import pytest
from browser import Browser, why_no_browser

try:
    import hypothesis
except ImportError:  # the tests that need it skip themselves
    pass
else:
    # The same examples in every run, or many more and others each time. How fast they
    # are found, on a loaded machine or by another version, says nothing about the code.
    hypothesis.settings.register_profile(
        "suite",
        derandomize=True,
        deadline=None,
        suppress_health_check=[
            hypothesis.HealthCheck.too_slow,
            hypothesis.HealthCheck.filter_too_much,
            hypothesis.HealthCheck.data_too_large,
        ],
    )
    hypothesis.settings.register_profile(
        "long",
        hypothesis.settings.get_profile("suite"),
        derandomize=False,
        max_examples=10_000,
    )
    long = bool(os.environ.get("PIXIE_LONG"))
    hypothesis.settings.load_profile("long" if long else "suite")

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Child processes find the package too, also when it is not installed, and compiled:
# without that, each of hundreds of servers would compile it for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """Return the directory of the repository."""
    return ROOT


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Run a browser for the tests of one file."""
    reason = why_no_browser()
    # Selenium has left the older Pythons; where it runs, CI must not skip in silence.
    if reason and os.environ.get("CI") and sys.version_info >= (3, 11):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    running = Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.close()
