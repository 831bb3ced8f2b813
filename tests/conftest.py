"""What every test file shares."""

from __future__ import annotations

import os
import pathlib
import sys
from typing import Iterator

import pytest
import shapes
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

# Child processes find pixie_web too, also when it is not installed, and compiled:
# without that, each of hundreds of servers would compile it for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
shapes.take_shape()
collect_ignore = shapes.OF_THE_PACKAGE if shapes.IS_SINGLE else []


def pytest_report_header() -> str:
    """Say which shape is tested, and where it lies."""
    return f"pixie_web: {shapes.SHAPE} in {shapes.home()}"


def pytest_configure() -> None:
    """Go to the shape that is tested, when pytest has found what it is to collect."""
    shapes.leave_the_package()


def pytest_unconfigure() -> None:
    """Remove the single file that was tested."""
    shapes.clean_up()


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """Return the directory of the repository."""
    return shapes.ROOT


@pytest.fixture(scope="session")
def home() -> pathlib.Path:
    """Return the directory from which pixie_web is imported."""
    return shapes.home()


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
