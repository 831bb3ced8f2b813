"""HTTPS, Unix sockets, and what stands in the way of listening."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Iterator, List, Optional

import pytest
from support import LOOPS, children, read_all, wait_for

from pixie_web import PixieError
from pixie_web.server.listeners import bind_unix, tls_context

CERTIFICATE = (
    Path(__file__).parents[1] / "programs" / "localhost.pem"
)  # for tests alone
OTHER = CERTIFICATE.with_name("other.pem")  # another one for the same names
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

    def __init__(
        self, directory: Path, home: Path, text: str = PROGRAM, **settings: str
    ) -> None:
        path = directory / "program.py"
        path.write_text(text, encoding="utf-8")
        environment = {f"PIXIE_{name.upper()}": v for name, v in settings.items()}
        environment["PYTHONPATH"] = str(home)
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            env=environment,
            stderr=subprocess.PIPE,
            pass_fds=[int(settings["fd"])] if "fd" in settings else [],
        )
        assert self.process.stderr is not None
        self.banner = self.process.stderr.readline().decode()
        self.log = ""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line.decode()

    def wait_for_log(self, text: str) -> None:
        wait_for(lambda: text in self.log, text)

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
def https(request: pytest.FixtureRequest, tmp_path: Path, home: Path) -> Iterator[int]:
    program = Program(tmp_path, home, certfile=str(CERTIFICATE), loop=request.param)
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


def served_certificate(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port)).replace("\n", "")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_hangup_reads_the_certificate_again(
    loop: str, tmp_path: Path, home: Path
) -> None:
    path = tmp_path / "cert.pem"
    shutil.copy(CERTIFICATE, path)
    program = Program(tmp_path, home, certfile=str(path), loop=loop)
    try:
        first = served_certificate(program.port)
        assert first in CERTIFICATE.read_text().replace("\n", "")
        trust = ssl.create_default_context(cafile=str(CERTIFICATE))
        kept = http.client.HTTPSConnection("localhost", program.port, context=trust)
        kept.request("GET", "/scheme")
        assert kept.getresponse().read() == b"https"
        path.write_text("")
        program.process.send_signal(signal.SIGHUP)
        program.wait_for_log("the old certificate stays in use")
        assert served_certificate(program.port) == first
        shutil.copy(OTHER, path)
        program.process.send_signal(signal.SIGHUP)
        other = OTHER.read_text().replace("\n", "")
        wait_for(lambda: served_certificate(program.port) in other, "the new one")
        program.wait_for_log("SIGHUP: 0 log files were opened again and the certificat")
        kept.request("GET", "/scheme")  # a connection that is open goes on
        assert kept.getresponse().read() == b"https"
        kept.close()
    finally:
        assert program.stop() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_half_a_handshake_is_given_up_and_holds_nobody_up(
    loop: str, tmp_path: Path, home: Path
) -> None:
    program = Program(
        tmp_path,
        home,
        certfile=str(CERTIFICATE),
        loop=loop,
        tls_handshake_seconds="0.5",
        head_seconds="0.5",
    )
    try:
        with ExitStack() as stack:
            halves = []
            for sent in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00") * 30:
                one = socket.create_connection(("127.0.0.1", program.port))
                stack.enter_context(one)
                one.sendall(sent)
                halves.append(one)
            test_every_placement_answers_over_https(program.port)
            for one in halves:
                one.settimeout(30)
                read_all(one)
    finally:
        assert program.stop() == 0
    assert "Traceback" not in program.log


@pytest.mark.parametrize("loop", LOOPS)
def test_nobody_waits_for_the_close_notify_of_an_idle_client(
    loop: str, tmp_path: Path, home: Path
) -> None:
    program = Program(
        tmp_path,
        home,
        certfile=str(CERTIFICATE),
        loop=loop,
        linger_seconds="0.1",
        send_idle_seconds="600",
        drain_seconds="600",
    )
    trust = ssl.create_default_context(cafile=str(CERTIFICATE))
    kept = http.client.HTTPSConnection("localhost", program.port, context=trust)
    try:
        kept.request("GET", "/scheme")
        assert kept.getresponse().read() == b"https"
        program.process.terminate()
        program.process.wait(25)  # asyncio by itself would wait for 30 s or for ever
    finally:
        assert program.stop() == 0
        kept.close()


def test_a_context_of_ones_own_is_used(tmp_path: Path, home: Path) -> None:
    own = (
        "import ssl\ncontext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        f"context.load_cert_chain({str(OTHER)!r})\n"
        "context.minimum_version = ssl.TLSVersion.TLSv1_3\nrun(ssl_context=context, "
    )
    program = Program(tmp_path, home, PROGRAM.replace("run(", own))
    try:
        assert " on https://127.0.0.1:" in program.banner
        assert served_certificate(program.port) in OTHER.read_text().replace("\n", "")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection(
            ("127.0.0.1", program.port)
        ) as one, pytest.raises(ssl.SSLError):
            old.wrap_socket(one, server_hostname="localhost")
    finally:
        assert program.stop() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_a_unix_socket_answers_and_is_removed(
    loop: str, tmp_path: Path, home: Path
) -> None:
    path = tmp_path / "socket"
    program = Program(tmp_path, home, uds=str(path), loop=loop)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(path))
            one.sendall(b"GET /scheme HTTP/1.0\r\n\r\n")
            assert read_all(one).endswith(b"\r\n\r\nhttp")
    finally:
        assert program.stop() == 0
    wait_for(lambda: not path.exists(), "the socket's file has gone")


@pytest.mark.parametrize("loop", LOOPS)
def test_the_socket_of_a_successor_is_left_to_it(
    loop: str, tmp_path: Path, root: Path
) -> None:
    path = tmp_path / "socket"
    first = Program(tmp_path, root, uds=str(path), loop=loop)
    os.unlink(path)  # what a successor does that finds nobody listening any more
    second = Program(tmp_path, root, uds=str(path), loop=loop)
    try:
        assert first.stop() == 0
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(path))
            one.sendall(b"GET /scheme HTTP/1.0\r\n\r\n")
            assert read_all(one).endswith(b"\r\n\r\nhttp")
    finally:
        assert second.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize("moved", [False, True])
def test_a_stop_is_good_where_the_socket_has_gone_or_can_not_be_removed(
    moved: bool, tmp_path: Path, root: Path
) -> None:
    path = tmp_path / "below" / "socket"
    path.parent.mkdir()
    program = Program(tmp_path, root, uds=str(path))
    if moved:
        path.parent.rename(tmp_path / "moved")
        path.parent.write_text("")  # now it is no directory
    else:
        path.unlink()
    assert program.stop() == 0
    assert "Traceback" not in program.log
    assert ("can't remove" in program.log) is moved


@pytest.mark.parametrize("mode", ["600", "0666", None])
def test_a_unix_socket_has_the_mode_it_is_given(
    mode: Optional[str], tmp_path: Path, home: Path
) -> None:
    path = tmp_path / "socket"
    settings = {"uds": str(path), **({} if mode is None else {"uds_mode": mode})}
    program = Program(tmp_path, home, **settings)
    try:
        assert stat.S_IMODE(path.stat().st_mode) == int(mode or "660", 8)
    finally:
        assert program.stop() == 0


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_an_inherited_socket_is_listened_on(
    family: int, loop: str, tmp_path: Path, home: Path
) -> None:
    with socket.socket(family) as listening:
        at = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}
        listening.bind(at.get(family, str(tmp_path / "socket")))
        listening.listen()  # by the supervisor, before the program starts
        with socket.socket(family) as one:
            one.connect(listening.getsockname())
            one.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
            fd = str(listening.fileno())
            program = Program(tmp_path, home, fd=fd, loop=loop)
            try:
                assert read_all(one).endswith(b"\r\n\r\none two")
                inode = os.readlink(f"/proc/self/fd/{fd}")
                for pid in children(program.process.pid):
                    assert inode not in open_files(pid)
                assert inode in open_files(program.process.pid)
            finally:
                assert program.stop() == 0
        # It is the supervisor's: it is there for the next one.
        with socket.socket(family) as one:
            one.connect(listening.getsockname())


def open_files(pid: int) -> List[str]:
    paths = list(Path(f"/proc/{pid}/fd").iterdir())
    return [os.readlink(path) for path in paths if path.is_symlink()]


@pytest.mark.parametrize("fd", ["0", "999"])
def test_a_descriptor_that_is_no_socket_is_one_line(
    fd: str, tmp_path: Path, home: Path
) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(path)],
        env={"PIXIE_FD": fd, "PYTHONPATH": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    line = f"pixie_web: can't listen on descriptor {fd}: [A-Z].*\n"
    assert re.fullmatch(line, done.stderr.decode())


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
    tmp_path: Path, home: Path
) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    environment = {"PIXIE_CERTFILE": "/nowhere/cert.pem", "PYTHONPATH": str(home)}
    done = subprocess.run(
        [sys.executable, str(path)], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "pixie_web: can't use the certificate /nowhere/cert.pem: "
        "No such file or directory\n"
    )
