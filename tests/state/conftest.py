"""The stores that the tests of the state run on: a file, and a Redis."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Iterator

import pytest

from pixie_web.state import Place, State


def why_no_redis() -> str:
    """Return why there is no Redis to test with; "" if there is one."""
    if importlib.util.find_spec("redis") is None:
        return "the package redis is not installed"
    if shutil.which("redis-server") is None:
        return "redis-server is not installed (Debian: redis-server)"
    return ""


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Run a Redis that listens on a Unix socket alone, and return its URL."""
    reason = why_no_redis()
    if reason and os.environ.get("CI") and "package" not in reason:
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "redis.sock"
        process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", ""],
            cwd=directory,
            stdout=subprocess.DEVNULL,
        )
        try:
            give_up = time.monotonic() + 30
            while not path.exists():
                assert process.poll() is None, "redis-server does not start"
                assert time.monotonic() < give_up
                time.sleep(0.01)
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(params=["file", pytest.param("redis", marks=pytest.mark.redis)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where a state lies that is empty."""
    if request.param == "file":
        return str(tmp_path / "state.db")
    url = str(request.getfixturevalue("redis_url"))
    import redis

    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture
def state(url: str) -> Iterator[State]:
    """Return a state that is empty."""
    # That of a file waits for no disk: a hundred tests would.
    place = Place(url, volatile="://" not in url)
    state = State(place=lambda: place)
    yield state
    state.close()
