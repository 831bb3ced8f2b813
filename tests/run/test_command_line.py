"""The command line: commands, flags, what is not understood, and `pixie new`."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, List

import pytest
from runs import SEED, place_example, python
from shapes import IS_SINGLE
from support import PATIENCE_SECONDS, Server

import pixie_web
from pixie_web.cli import COMMANDS, main
from pixie_web.flags import flag_of, read_flags
from pixie_web.settings import DEFAULT_SETTINGS


@pytest.fixture
def lone(tmp_path: Path) -> Path:
    """Return a directory that holds the one file, and the example as app.py."""
    return place_example(tmp_path)


# Commands -----------------------------------------------------------------------------


def test_routes_lists_the_routes(lone: Path) -> None:
    done = python("pixie_web.py", "routes", "app", directory=lone)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "GET  /       sync  index\nGET  /async  asnc  index_async\n"
        "GET  /cpu    pool  cpu_bound\n"
    )


def test_check_says_whether_it_can_be_served(lone: Path) -> None:
    assert python("pixie_web.py", "check", "app", directory=lone).returncode == 0
    (lone / "app.py").write_text(SEED.replace("/async", "/<x>"), encoding="utf-8")
    done = python("pixie_web.py", "check", "app", directory=lone)
    assert done.returncode == 1
    assert done.stderr == (
        "pixie_web: /<x>: write def index_async(env, x): got an unexpected keyword "
        "argument 'x'\n"
    )


@pytest.mark.parametrize(
    "more, arguments, error",
    [
        ("app.route('/x', pool='gpu')(print)", [], "/x: there is no pool 'gpu'; decla"),
        ("app.on_worker_start(lambda: 1 / 0)", [], "no worker can start: the log says"),
        (
            "app.pool('gpu', workers=1, on_worker_start=lambda: 1 / 0)\n"
            "app.route('/x', pool='gpu')(lambda env: None)",
            [],
            "no worker of the pool gpu can start: the log says why",
        ),
        ("app.on_start(lambda: 1 / 0)", [], "ZeroDivisionError: division by zero"),
        ("", ["--certfile", "/none"], "can't use the certificate /none: No such fil"),
        ("", ["--workers", "-1"], 'workers is a whole number from 0, or "auto", got'),
        ("run(loop='twisted')", [], 'loop is "uvloop" or "asyncio", got'),
        ("", ["--min-workers", "0"], ""),
        ("", ["--pool-start", "spawn"], ""),
    ],
)
def test_check_does_all_of_the_start_but_the_listening(
    more: str, arguments: List[str], error: str, lone: Path
) -> None:
    program = SEED.replace("import route", "import app, route")
    program = program.partition("if __name__")[0] + more
    (lone / "app.py").write_text(program, encoding="utf-8")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        at = ["--host", "127.0.0.1", "--port", str(taken.getsockname()[1])]
        done = python("pixie_web.py", "check", "app", *at, *arguments, directory=lone)
    assert (done.returncode, error in done.stderr) == (int(bool(error)), True)
    if not error:
        assert done.stdout.count("\n") == 3


def test_the_version_names_the_optional_parts_that_are_there(lone: Path) -> None:
    done = python("pixie_web.py", "--version", directory=lone)
    version, parts = done.stdout.strip().split(", Python ")
    assert (done.returncode, version) == (0, f"pixie_web {pixie_web.__version__}")
    for name in ("uvloop", "orjson", "httptools"):
        there = parts.partition(", without ")[0]
        assert (name in there) is (find_spec(name) is not None)
        assert name in parts
    # -S: without site-packages.
    alone = python("-S", "-E", "pixie_web.py", "--version", directory=lone)
    assert alone.stdout.endswith(", without uvloop, orjson, httptools\n")


def test_the_help_tells_each_flag_once_with_a_line_and_its_default(lone: Path) -> None:
    done = python("pixie_web.py", "run", "--help", directory=lone)
    assert done.returncode == 0
    told = re.findall(r"^  (--[a-z0-9-]+)(?: VALUE)? +\S", done.stdout, re.M)
    flags = set(map(flag_of, DEFAULT_SETTINGS))
    # HTTP/2 does not come with the single file: there it is off, and may be asked for.
    flags = flags - {"--no-http2"} | {"--http2"}
    assert sorted(told) == sorted(flags)
    line = "  --head-seconds VALUE                time for the head of a request [10]"
    assert line in done.stdout.splitlines()
    assert max(map(len, done.stdout.splitlines())) <= 107


def test_the_first_help_is_short_and_names_the_commands(lone: Path) -> None:
    done = python("pixie_web.py", "--help", directory=lone)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 15
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout
        one = python("pixie_web.py", command, "--help", directory=lone)
        assert command == "single" or f" {command} " in one.stdout.splitlines()[0]


@pytest.mark.parametrize(
    "arguments, words, settings",
    [
        (["app"], ["app"], {}),
        (["app", "--port", "80", "--debug"], ["app"], {"port": 80, "debug": True}),
        (["--debug", "app"], ["app"], {"debug": True}),
        (["--no-debug", "app"], ["app"], {"debug": False}),
        (["app", "--no-access-log"], ["app"], {"access_log": False}),
        (["app", "--port=80", "--port", "81"], ["app"], {"port": 81}),
        (["--root-path=/a=b", "app"], ["app"], {"root_path": "/a=b"}),
        (["--workers", "auto", "app"], ["app"], {"workers": "auto"}),
        (["--nice", "-5", "app"], ["app"], {"nice": -5}),
        (["--uds-mode", "600", "app", "x"], ["app", "x"], {"uds_mode": "600"}),
        (["--head-seconds", ".5", "app"], ["app"], {"head_seconds": 0.5}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_may_stand_anywhere(
    arguments: List[str], words: List[str], settings: Dict[str, Any]
) -> None:
    assert read_flags(arguments) == (words, settings)


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["app", "--prot", "80"], "there is no flag --prot; did you mean --port?"),
        (["app", "--no-acces-log"], "did you mean --no-access-log?"),
        (["app", "-p"], "there is no flag -p"),
        (["app", "--port"], "--port needs a value"),
        (["app", "--host", "--port", "80"], "--host needs a value"),
        (["app", "--debug=yes"], "--debug takes no value"),
        (["app", "--port", "eighty"], "--port: port is a whole number, got 'eighty'"),
        (["rotes", "app"], "got 'rotes'; did you mean routes?"),
        (["run"], "one TARGET is needed, got none"),
        (["check", "app", "other"], "one TARGET is needed, got 'app other'"),
        (["routes", "app", "--debug"], "routes takes no flags"),
        (["new", "shop", "--debug"], "new takes no flags"),
        (["new"], "one NAME is needed, got none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_not_understood_says_what_was_meant(
    arguments: List[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("usage: ")
    assert error in said[1]


def test_routes_of_a_mounted_application_have_its_prefix(lone: Path) -> None:
    (lone / "app.py").write_text(
        "from pixie_web import Pixie\napp, shop = Pixie(), Pixie()\n"
        "shop.route('/cart', 'sync')(print)\napp.mount('/shop', shop)\n",
        encoding="utf-8",
    )
    done = python("pixie_web.py", "routes", "app", directory=lone)
    assert done.stdout == "GET  /shop/cart  sync  print\n"


def test_a_mistyped_command_is_no_module(lone: Path) -> None:
    done = python("pixie_web.py", "chekc", directory=lone)
    assert done.returncode == 1
    assert done.stderr.endswith("; did you mean check?\n")


# pixie new ----------------------------------------------------------------------------


@pytest.mark.skipif(IS_SINGLE, reason="the starter is no part of the single file")
def test_a_new_application_passes_its_own_test_and_serves(tmp_path: Path) -> None:
    done = python("-m", "pixie_web", "new", "shop", directory=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    tested = python("-m", "unittest", "-v", directory=tmp_path / "shop")
    assert (tested.returncode, "Ran 2 tests" in tested.stderr) == (0, True)
    command = ["-m", "pixie_web", "run", "app", "--port", "0", "--host", "127.0.0.1"]
    server = Server(command, tmp_path / "shop", {"PIXIE_WORKERS": "1"})
    try:
        assert "Hello, &lt;Ann&gt;!" in server.get("/?name=%3CAnn%3E").text
        assert server.get("/primes/100").json == {"limit": 100, "primes": 25}
        assert server.stop() == 0
    finally:
        server.kill()


@pytest.mark.skipif(IS_SINGLE, reason="the starter is no part of the single file")
@pytest.mark.parametrize(
    "name, error",
    [
        ("there", "there is there already; take another name"),
        ("..", "a name is letters, digits, _ . and -, got '..'"),
        ("a b", "a name is letters, digits, _ . and -, got 'a b'"),
        ("file/x", "can't make file/x: Not a directory"),
    ],
)
def test_a_name_that_can_not_be_new_is_one_line(
    name: str,
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    assert main(["new", name]) == 1
    assert capsys.readouterr().err == f"pixie_web: {error}\n"
    assert sorted(os.listdir(".")) == ["file", "there"]


def test_the_lone_file_says_where_the_starter_is(lone: Path) -> None:
    done = python("pixie_web.py", "new", "shop", directory=lone)
    assert (done.returncode, done.stderr) == (
        1,
        "pixie_web: `pixie new` is in the package, not in the single file\n",
    )


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["none"], "no module 'none' in "),
        (["none:app"], "no module 'none' in "),
        (["none.py"], "no module 'none' in "),
        (["away/none.py"], "no module 'none' in "),
        (["empty.none"], "no module 'empty.none' in "),
        ([":app"], "write module:name or file.py, got ':app'"),
        (["empty"], "empty has no Pixie application 'app'"),
        (["empty:app"], "empty has no Pixie application 'app'"),
        (["app:index"], "app has no Pixie application 'index'"),
        (["app:none"], "app has no Pixie application 'none'"),
        (["app", "--port", "99999"], "port is from 0 to 65535, got 99999"),
        (
            ["app", "--reload", "--server", "uvicorn"],
            "reload is for the server of pixie_web itself, got server='uvicorn'",
        ),
        (
            ["app", "--loop", "twisted"],
            'loop is "uvloop" or "asyncio", got \'twisted\'',
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_can_not_be_served_is_one_line(
    arguments: List[str], error: str, lone: Path
) -> None:
    (lone / "empty.py").write_text("", encoding="utf-8")
    done = python("pixie_web.py", *arguments, directory=lone)
    assert done.returncode == 1
    assert error in done.stderr
    assert done.stderr.startswith("pixie_web: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [[], ["serve", "app"], ["app", "--nope"], ["app", "--port", "x"]]
)
def test_a_wrong_command_line_shows_the_usage(arguments: List[str], lone: Path) -> None:
    done = python("pixie_web.py", *arguments, directory=lone)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python pixie_web.py ")


def test_an_error_of_the_program_keeps_its_traceback(lone: Path) -> None:
    (lone / "app.py").write_text("import no_such_module\n", encoding="utf-8")
    done = python("pixie_web.py", "app", directory=lone)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr
    assert 'app.py", line 1' in done.stderr


# The page -----------------------------------------------------------------------------


@pytest.mark.skipif(IS_SINGLE, reason="the page shows the starter")
def test_the_page_shows_what_the_commands_print(root: Path, tmp_path: Path) -> None:
    text = (root / "docs" / "command-line.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    shown = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks), re.M)
    assert len(shown) > 8
    # In /bin/sh, one after the other: they change directories, and set variables.
    script = f'pixie() {{ "{sys.executable}" -m pixie_web "$@"; }}\n'
    script += f'python3() {{ "{sys.executable}" "$@"; }}\n'
    script += "".join(f"echo '$'; {command}\n" for command, _ in shown)
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=str(tmp_path),
        env={**os.environ, "PIXIE_WORKERS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    printed = done.stdout.replace(str(tmp_path.resolve()), "/srv").split("$\n")[1:]
    for (command, expected), got in zip(shown, printed):
        if "unittest" in command:
            assert "OK" in got
        else:
            assert (command, got) == (command, expected)
    assert len(printed) == len(shown)
