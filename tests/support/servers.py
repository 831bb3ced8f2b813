"""Other servers, started with a program of ours."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Mapping

import pytest
from support import PATIENCE_SECONDS, Server

# Their command lines: of the program `{app}`, on `{port}` of 127.0.0.1.
PYTHON = sys.executable
RUN = "-m pixie_web {module} --host 127.0.0.1 --port {port} --server "
COMMANDS: Dict[str, str] = {
    "pixie": "-m pixie_web {module} --host 127.0.0.1 --port {port}",
    "run-gunicorn": RUN + "gunicorn",
    "run-waitress": RUN + "waitress",
    "run-cheroot": RUN + "cheroot",
    "run-uvicorn": RUN + "uvicorn",
    "run-hypercorn": RUN + "hypercorn",
    "run-granian": RUN + "granian",
    "gunicorn": "-m gunicorn {app} --bind 127.0.0.1:{port} --threads 8",
    "gunicorn-processes": "-m gunicorn {app} --bind 127.0.0.1:{port} --workers 2",
    "waitress": "-m waitress --listen 127.0.0.1:{port} {app}",
    "cheroot": "-m cheroot --bind 127.0.0.1:{port} {app}",
    "uvicorn": "-m uvicorn {app} --port {port}",
    "hypercorn": "-m hypercorn {app} --bind 127.0.0.1:{port}",
    "hypercorn-wsgi": "-m hypercorn wsgi:{app} --bind 127.0.0.1:{port}",
    "granian": "-m granian --interface asgi {app} --port {port}",
    "granian-wsgi": "-m granian --interface wsgi {app} --port {port}",
}
WSGI = "gunicorn gunicorn-processes waitress cheroot hypercorn-wsgi granian-wsgi"


def is_installed(name: str) -> bool:
    """Return whether a server can be started here."""
    module = name.replace("run-", "").partition("-")[0]
    return module == "pixie" or importlib.util.find_spec(module) is not None


def needs(name: str) -> None:
    """Skip the test where a server is not installed."""
    if not is_installed(name):
        pytest.skip(f"{name} needs a server that is not installed")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class OtherServer(Server):
    """A program that another server serves.

    Args:
        name: of a command.
        program: the path of the program.
        environment: variables beside those that are there.
    """

    def __init__(
        self, name: str, program: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.port = free_port()
        module = program.stem
        entry = "wsgi" if name in WSGI.split() else "asgi"
        command = COMMANDS[name].format(
            module=module, app=f"{module}:{entry}", port=self.port
        )
        self.process = subprocess.Popen(
            [PYTHON, *command.split()],
            cwd=str(program.parent),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._read_log()
        try:
            self._wait_for_port()
        except BaseException:
            self.kill()
            raise

    def _wait_for_port(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                ended = self.process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"{self.name} does not serve:\n{self.log}"
                    ) from None
                time.sleep(0.02)
