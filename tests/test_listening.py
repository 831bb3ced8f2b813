"""HTTPS, Unix sockets, and what stands in the way of listening."""

from __future__ import annotations

import http.client
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Iterator, Optional

import pytest
from support import LOOPS, read_all, wait_for

from pixie_web.core import PixieError, bind_unix, tls_context

CERTIFICATE = Path(__file__).parent / "programs" / "localhost.pem"  # for tests alone
PROGRAM = """
from pixie_web import RouteType, route, run

@route("/scheme", RouteType.sync)
def scheme(env):
    return env.scheme

@route("/large")
def large(env):
    return b"x" * 1_000_000

@route("/stream")
def stream(env):
    yield "one "
    yield "two"

run(host="127.0.0.1", port=0)
"""


class Program:
    """The program above, run with some settings, and its banner."""

    def __init__(self, directory: Path, root: Path, **settings: str) -> None:
        path = directory / "program.py"
        path.write_text(PROGRAM, encoding="utf-8")
        environment = {f"PIXIE_{name.upper()}": v for name, v in settings.items()}
        environment["PYTHONPATH"] = str(root)
        self.process = subprocess.Popen(
            [sys.executable, str(path)], env=environment, stderr=subprocess.PIPE
        )
        assert self.process.stderr is not None
        self.banner = self.process.stderr.readline().decode()
        self.reader = threading.Thread(target=self.process.stderr.read)
        self.reader.start()

    @property
    def port(self) -> int:
        return int(self.banner.rpartition(":")[2].split()[0])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait()
        self.reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@pytest.fixture(params=LOOPS)
def https(request: pytest.FixtureRequest, tmp_path: Path, root: Path) -> Iterator[int]:
    program = Program(tmp_path, root, certfile=str(CERTIFICATE), loop=request.param)
    try:
        assert " on https://127.0.0.1:" in program.banner
        yield program.port
    finally:
        assert program.stop() == 0


def test_every_placement_answers_over_https(https: int) -> None:
    trust = ssl.create_default_context(cafile=str(CERTIFICATE))
    connection = http.client.HTTPSConnection("localhost", https, context=trust)
    for path, expected in [
        ("/scheme", b"https"),
        ("/stream", b"one two"),
        ("/large", b"x" * 1_000_000),
    ]:
        connection.request("GET", path)
        assert connection.getresponse().read() == expected
    connection.close()


def test_plain_http_on_a_tls_port_is_told_so_in_plain_http(https: int) -> None:
    with socket.create_connection(("127.0.0.1", https)) as one:
        one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = read_all(one)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"This port speaks HTTPS: use https://." in answer


def test_a_handshake_that_fails_leaves_the_server_as_it_was(https: int) -> None:
    with socket.create_connection(("127.0.0.1", https)) as one:
        one.sendall(b"\x16\x03\x01\x00\x05hello")
        read_all(one)
    test_every_placement_answers_over_https(https)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_unix_socket_answers_and_is_removed(
    loop: str, tmp_path: Path, root: Path
) -> None:
    path = tmp_path / "socket"
    program = Program(tmp_path, root, uds=str(path), loop=loop)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(path))
            one.sendall(b"GET /scheme HTTP/1.0\r\n\r\n")
            assert read_all(one).endswith(b"\r\n\r\nhttp")
    finally:
        assert program.stop() == 0
    wait_for(lambda: not path.exists(), "the socket's file has gone")


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    bind_unix(path).close()  # nobody listens, but the file stays
    with bind_unix(path) as live:
        live.listen()
        with pytest.raises(PixieError, match="another server listens"):
            bind_unix(path)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(PixieError, match="is not a socket"):
        bind_unix(str(path))
    assert path.read_text() == "data"


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_bad_certificate_is_an_error_that_names_it(
    content: Optional[str], tmp_path: Path
) -> None:
    path = tmp_path / "cert.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PixieError, match=r"can't use the certificate .*cert\.pem: "):
        tls_context(str(path))


def test_a_bad_certificate_path_is_one_line_and_status_1(
    tmp_path: Path, root: Path
) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    environment = {"PIXIE_CERTFILE": "/nowhere/cert.pem", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, str(path)], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "pixie_web: can't use the certificate /nowhere/cert.pem: "
        "No such file or directory\n"
    )
