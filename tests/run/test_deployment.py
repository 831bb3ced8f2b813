"""What docs/deployment.md shows is run, and what its tables say is so."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Iterator, List, Union

import pytest
from pages import python_blocks
from support import PATIENCE_SECONDS, Server, read_all, wait_for

from pixie_web.server.access import AccessRecord
from pixie_web.server.options import ServerOptions

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
TEXT = PAGE.read_text("utf-8")
SWITCHES = {"parser", "access_log", "access_log_format", "trusted_proxies", "debug"}
SWITCHES |= {"allowed_hosts"}
SWITCHES |= {"server_timing", "http2", "http3"}
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def blocks(language: str) -> List[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)


def block_with(text: str) -> str:
    """Return the one example in Python that holds a text."""
    (found,) = [block for block in python_blocks(PAGE) if text in block]
    return found


def test_the_table_of_limits_has_each_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", TEXT, re.M)
    defaults = ServerOptions()._asdict()
    expected = {key: value for key, value in defaults.items() if key not in SWITCHES}
    assert {name: float(value) for name, value in rows} == expected
    assert [name for name, _ in rows] == list(expected)


def test_the_table_of_the_access_log_has_each_item() -> None:
    section = TEXT.partition("## The access log")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert names == list(AccessRecord.ITEMS)


def start(directory: Path, program: str, **environment: str) -> Server:
    path = directory / "program.py"
    path.write_text(program, "utf-8")
    settings = {"PIXIE_HOST": "127.0.0.1", "PIXIE_PORT": "0", **environment}
    return Server([str(path)], directory, settings)


@pytest.mark.parametrize(
    "block, method, target, status, header, value",
    [
        ("to_https", "GET", "/a?b=c", 308, "location", "https://example.org/a?b=c"),
        ("to_https", "HEAD", "/", 308, "location", "https://example.org/"),
        ("to_https", "POST", "/a", 405, "allow", "GET, HEAD, OPTIONS"),
        ("/ready", "GET", "/live", 200, "content-length", "2"),
        ("/ready", "GET", "/ready", 200, "content-length", "2"),
    ],
)
def test_the_applications_do_what_is_said(
    block: str,
    method: str,
    target: str,
    status: int,
    header: str,
    value: str,
    tmp_path: Path,
) -> None:
    server = start(tmp_path, block_with(block) + "\napp.run()\n")
    try:
        answer = server.request(method, target)
        assert (answer.status, answer.headers[header]) == (status, value)
        assert server.stop() == 0
    finally:
        server.kill()


def test_the_access_log_is_written_as_json(tmp_path: Path) -> None:
    program = block_with("AsJson").replace("json.dumps", "'json', json.dumps")
    program = program.replace("record.args)))", "record.args)), file=sys.stderr)")
    server = start(tmp_path, f"import sys\n{program}\nfrom pixie_web import run\nrun()")
    try:
        server.get("/nowhere")
        line = server.wait_for_log("json {")
        assert json.loads(line.partition(" ")[2])["status"] == 404
    finally:
        server.kill()


def test_a_log_file_that_was_renamed_is_opened_anew_in_main_and_in_workers(
    tmp_path: Path,
) -> None:
    program = block_with("WatchedFileHandler") + (
        "from pixie_web import app, run\n"
        "@app.get('/<place>')\n"
        "def place(env, place):\n"
        "    logging.warning('a worker at %s', place)\n"
        "run()\n"
    )
    log, old = tmp_path / "app.log", tmp_path / "app.log.1"
    server = start(tmp_path, program, PIXIE_WORKERS="1")
    try:
        server.get("/one")
        log.rename(old)
        server.get("/two")
        wait_for(lambda: "GET /two" in log.read_text("utf-8"), "the access log")
        assert "a worker at two" in log.read_text("utf-8")
        assert "a worker at one" in old.read_text("utf-8")
        assert "two" not in old.read_text("utf-8")
    finally:
        server.kill()


def test_a_socket_that_is_passed_as_systemd_does_is_served(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(block_with("/ready"), "utf-8")
    (command,) = re.findall(r"^ExecStart=\S+ (.* --fd 3)$", TEXT, re.M)
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(path)
            one.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
            # Given the number as systemd does it.
            number = f"import os, sys\nos.dup2({listening.fileno()}, 3)\n"
            number += "os.execv(sys.executable, [sys.executable] + sys.argv[1:])"
            process = subprocess.Popen(
                [sys.executable, "-c", number, *command.split()],
                cwd=str(tmp_path),
                pass_fds=[listening.fileno()],
                stderr=subprocess.DEVNULL,
            )
            try:
                one.settimeout(PATIENCE_SECONDS)
                assert read_all(one).endswith(b"\r\n\r\nok")
                process.terminate()
                assert process.wait(PATIENCE_SECONDS) == 0
            finally:
                process.kill()
                process.wait()
        assert os.path.exists(path)


def test_new_code_comes_by_a_restart_on_a_kept_socket_and_no_request_is_lost(
    tmp_path: Path,
) -> None:
    # Each answers what it is at when it is told to stop; what comes then waits in the
    # kernel for its successor.
    path = tmp_path / "app.py"
    program = """
import time
from pixie_web import route, run

@route("/version")
def version(env):
    time.sleep(0.02)
    return "{version}"

run()
"""
    rounds, clients = 10, 50
    seen: List[bytes] = []
    with socket.socket() as listening, ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(2 * clients)
        settings = {"PIXIE_FD": str(listening.fileno()), "PIXIE_WORKERS": "4"}

        def ask_all() -> List[socket.socket]:
            asking = []
            for _ in range(clients):
                one = socket.create_connection(listening.getsockname())
                asking.append(stack.enter_context(one))
                one.settimeout(PATIENCE_SECONDS)
                one.sendall(b"GET /version HTTP/1.0\r\n\r\n")
            return asking

        for number in range(rounds):
            waiting = ask_all()
            path.write_text(program.format(version=number), "utf-8")
            process = subprocess.Popen(
                [sys.executable, str(path)],
                env={**os.environ, **settings},
                pass_fds=[listening.fileno()],
                stderr=subprocess.DEVNULL,
            )
            try:
                seen += [read_all(one)[-5:] for one in waiting]
                running = ask_all()
                seen += [read_all(one)[-5:] for one in running[:25]]
                process.terminate()  # the others wait for a worker
                seen += [read_all(one)[-5:] for one in running[25:]]
                assert process.wait(PATIENCE_SECONDS) == 0
            finally:
                process.kill()
                process.wait()
    expected = [b"\r\n\r\n%d" % number for number in range(rounds)]
    assert Counter(seen) == dict.fromkeys(expected, 2 * clients)


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    activation, service = blocks("ini")
    service = re.sub(r"ExecStart=\S+", f"ExecStart={sys.executable}", service)
    user = f"User={os.environ.get('USER') or 'root'}"
    service = re.sub(r"User=app\nGroup=.*", user, service)
    (tmp_path / "app.service").write_text(service)
    (tmp_path / "app.socket").write_text(activation)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "app.service")],
        capture_output=True,
        check=False,
    )
    said = (done.stdout + done.stderr).decode()
    if "Failed to" in said and "app." not in said:
        pytest.skip(f"systemd-analyze does not work here: {said}")
    assert [line for line in said.splitlines() if "app." in line] == []


# nginx --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run the program and the configuration of the page; give nginx's port."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    directory = tmp_path_factory.mktemp("nginx")
    path = directory / "socket"
    program = directory / "app.py"
    source = block_with('"/who"').replace("/run/app/socket", str(path))
    program.write_text(source, "utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (text,) = blocks("nginx")
    text = text.replace("/run/app/socket", str(path))
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    places = "client_body proxy fastcgi uwsgi scgi".split()
    temporary = "".join(f"{name}_temp_path {directory}/{name};\n" for name in places)
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"daemon off;\npid {directory}/pid;\nerror_log stderr;\nworker_processes 1;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}\n{text}}}\n"
    )
    if os.geteuid() == 0:  # its worker is another user's, to whom the socket is closed
        configuration.write_text(f"user root;\n{configuration.read_text()}")
    run = [NGINX, "-p", str(directory), "-e", "stderr", "-c", str(configuration)]
    with subprocess.Popen(
        [sys.executable, str(program)], stderr=subprocess.DEVNULL
    ) as serving:
        wait_for(lambda: answers(str(path)), "the program's socket")
        with subprocess.Popen(run, stderr=subprocess.DEVNULL) as proxy:
            try:
                wait_for(lambda: answers(port), "nginx listens")
                yield port
            finally:
                proxy.terminate()
                serving.terminate()
                assert serving.wait(PATIENCE_SECONDS) == 0


def answers(port: Union[int, str]) -> bool:
    """Return whether a port of 127.0.0.1, or a Unix socket, takes connections."""
    kind = socket.AF_UNIX if isinstance(port, str) else socket.AF_INET
    with socket.socket(kind) as one:
        address = port if isinstance(port, str) else ("127.0.0.1", port)
        return one.connect_ex(address) == 0


def ask_who(port: int, *lines: str) -> object:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as one:
        head = ["GET /who HTTP/1.1", "Host: example.org:8080", "Connection: close"]
        one.sendall("\r\n".join([*head, *lines, "", ""]).encode())
        answer = read_all(one)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["X-Forwarded-For: 6.6.6.6"],
        ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 127.0.0.1"],
        ["X-Forwarded-Host: evil.example", "X-Forwarded-Proto: https"],
        ["X-Forwarded-Prefix: /evil"],
        ["Forwarded: for=6.6.6.6;host=evil.example;proto=https"],
        ['Forwarded: for="6.6.6.6'],
        ["x-forwarded-for: 6.6.6.6", "forwarded: for=6.6.6.6"],
    ],
)
def test_behind_nginx_the_client_is_known_and_can_forge_nothing(
    nginx: int, lines: List[str]
) -> None:
    who = {"client": "127.0.0.1", "url": "http://example.org:8080/who"}
    assert ask_who(nginx, *lines) == who
