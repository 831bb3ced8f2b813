"""What HTTP/3 needs to start, and what it says where that is not there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, cast

import pytest

from pixie_web import MissingExtra, PixieError
from pixie_web.http3 import starting

ROOT = Path(__file__).parents[2]
CERTIFICATE = ROOT / "tests" / "programs" / "localhost.pem"
HAS_LIBRARY = find_spec("aioquic") is not None and sys.version_info >= (3, 11)


def problem(arguments: str) -> str:
    """Return what `run()` says instead of serving."""
    program = f"from pixie_web import run; run('127.0.0.1', workers=0, {arguments})"
    environment: Dict[str, str] = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done
    return done.stderr


CONFLICTS = {
    "uds='/tmp/x.sock'": "does not go with uds='/tmp/x.sock': a Unix socket has no UDP",
    "fd=0": "does not go with fd: the descriptor has no UDP port beside it",
    "reload=True": "does not go with reload=True: the UDP port can't be handed",
    "server='uvicorn'": "does not go with server='uvicorn': that server has its own",
}


@pytest.mark.parametrize("other", CONFLICTS)
def test_what_does_not_go_with_it_is_said(other: str) -> None:
    assert CONFLICTS[other] in problem(f"http3=True, {other}")


@pytest.mark.skipif(not HAS_LIBRARY, reason="aioquic is not installed")
def test_it_needs_a_certificate_and_its_udp_port() -> None:
    assert "http3=True needs certfile=" in problem("port=0, http3=True")
    made: Any = starting.HTTP3(cast(Any, None), {"certfile": str(CERTIFICATE)})
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with socket.socket() as beside, taken:
        beside.bind(("127.0.0.1", 0))
        with suppress(OSError):  # somebody else has it: as good
            taken.bind(beside.getsockname())
        with pytest.raises(PixieError) as caught:
            made.bind([beside])
        number = beside.getsockname()[1]
    said = f"can't listen on UDP port {number} of 127.0.0.1: Address already"
    assert said in str(caught.value)


def test_without_the_library_it_says_which_one_and_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "aioquic", None)
    with pytest.raises(MissingExtra) as caught:
        starting.check_library()
    wanted = "http3=True needs: pip install 'aioquic >= 1.7.2, < 1.8'"
    old = "needs Python 3.11 or later, for aioquic 1.7.2"
    assert (wanted if sys.version_info >= (3, 11) else old) in str(caught.value)


@pytest.mark.skipif(not HAS_LIBRARY, reason="aioquic is not installed")
@pytest.mark.parametrize("version", ["1.3.0", "1.7.1", "1.8.0", "2.0"])
def test_another_version_of_it_will_not_do(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr("aioquic.__version__", version)
    with pytest.raises(MissingExtra, match=f"{version} is installed"):
        starting.check_library()
