"""Faults that no table of bytes can show: hostile lengths, slow heads, resets."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET

import pytest
from events import next_event
from support import LOOPS, read_all, serve
from test_conformance import PROGRAM, replies, request
from test_wire import CHUNKED, GET, POST

from pixie_web.protocol.http11 import RequestReader, WireLimits
from pixie_web.server.listeners import tls_context

# Hostile lengths, and slow heads ------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        GET + b"X:" + b" " * 2_000_000 + b"y\r\n\r\n",
        GET + b"X:" + b" \t" * 1_000_000 + b"\x01\r\n\r\n",
        GET + b"Connection:" + b"," * 2_000_000 + b"\r\n\r\n",
        GET + b"Connection:" + b" ,\t" * 700_000 + b"\r\n\r\n",
        GET + b"X" * 2_000_000 + b"\r\n\r\n",
        GET + b"X:\r\n" * 500_000,
        POST + b"Transfer-Encoding:" + b"a," * 1_000_000 + b"\r\n\r\n",
        POST + b"Content-Length:" + b"1" * 2_000_000 + b"\r\n\r\n",
        b"GET /" + b"%" * 2_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://" + b"a" * 2_000_000 + b"\x01",
        b"GET / HTTP/1.1\r\nHost: " + b"%4" * 1_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [" + b":" * 2_000_000 + b"]\r\n\r\n",
        CHUNKED + b"1" + b" " * 2_000_000 + b"x\r\n",
        CHUNKED + b"1" + b";a" * 1_000_000 + b"\r\r\n",
        CHUNKED + b'1;a="' + b"\\\\" * 1_000_000 + b"\r\n",
    ],
    ids=lambda data: repr(data[-12:]),
)
def test_hostile_lines_are_read_in_linear_time(data: bytes) -> None:
    # With time that grows by the square, each of these would take hours.
    size = len(data)
    reader = RequestReader(WireLimits(*[size] * 6))
    reader.feed(data)
    for event in (next_event(reader), next_event(reader)):
        assert getattr(event, "status", 400) in (400, 431, 501)


@pytest.mark.parametrize("loop", LOOPS)
def test_150_slow_heads_hold_nobody_up_and_are_cut_off(loop: str) -> None:
    with serve(PROGRAM, loop=loop, head_seconds=1) as server, ExitStack() as stack:
        slow = []
        for _ in range(150):
            slow.append(stack.enter_context(server.connect()))
            slow[-1].sendall(GET + b"X: y")
        for _ in range(5):
            assert server.get("/").text == "home"
        for one in slow:
            (reply,) = replies(read_all(one))
            assert (reply.status, reply.headers["connection"]) == (408, "close")


@pytest.mark.parametrize("loop", LOOPS)
def test_clients_that_reset_or_leave_are_no_news(loop: str) -> None:
    begun = [GET, request("POST /echo", "Content-Length: 99") + b"x", request("/")]
    with serve(PROGRAM, loop=loop) as server:
        for data in begun * 30:
            for linger in ((1, 0), (0, 0)):
                with server.connect() as one:
                    one.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", *linger))
                    one.sendall(data)
        assert server.get("/").text == "home"
    assert "Traceback" not in server.log
    assert len(server.log.splitlines()) < 300  # one each, and the banner


def test_a_privileged_port_is_one_clear_line(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    # Whether a port is privileged is up to the system; what it says then is not.
    program.write_text(
        "import errno, os, socket\n"
        "def refuse(self, address):\n"
        "    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))\n"
        "socket.socket = type('S', (socket.socket,), {'bind': refuse})\n" + PROGRAM
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=str(tmp_path),
        env={**os.environ, "PIXIE_HOST": "127.0.0.1", "PIXIE_PORT": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    assert done.returncode == 1
    line = "pixie_web: can't listen on 127.0.0.1:80: Permission denied\n"
    assert done.stdout.decode() == line


def test_a_client_can_not_renegotiate() -> None:
    ssl = pytest.importorskip("ssl")
    certificate = Path(__file__).parents[1] / "programs" / "localhost.pem"
    context = tls_context(str(certificate))
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
