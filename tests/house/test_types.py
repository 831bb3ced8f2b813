"""What a type checker tells a program on pixie_web: the package, the single file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Set

import pytest
from shapes import ROOT, place_lone_file

from pixie_web.pixie import Pixie
from pixie_web.settings import DEFAULT_SETTINGS

RIGHT = """\
from typing import Any, Dict, Iterator, List, Optional

from pixie_web import FileUpload, Pixie, Request, Response, RouteType

app = Pixie(__name__, secrets="0123456789abcdef")


@app.get("/", "sync", name="index")
def index(env: Request) -> str:
    text: Optional[str] = env.form.get("a")
    number: int = env.query.get("n", 3, type=int)
    maybe: Optional[float] = env.query.get("x", type=float)
    either: str = env.query.get("q", "")
    upload: Optional[FileUpload] = env.files.get("file")
    cookie: Optional[str] = env.cookie("id")
    named: str = env.cookie("id", "nobody")
    signed: Any = env.cookie("id", secret="0123456789abcdef")
    every: List[str] = env.query.getall("q")
    return f"{text}{number}{maybe}{either}{upload}{cookie}{named}{signed}{every}"


@app.route("/cpu", RouteType.pool, ["GET", "POST"], timeout=2.5, on_disconnect="stop")
def cpu(env: Request) -> Dict[str, Any]:
    return {"id": env.request_id}


@app.get("/rows")
def rows(env: Request) -> Iterator[str]:
    yield env.query["q"]


@app.get("/r", "sync")
def answer(env: Request) -> Response:
    return Response("x", 200, headers={"X": "y"}).set_cookie("a", "b", max_age=3)


if __name__ == "__main__":
    app.run("127.0.0.1", port=8080, debug=True, loop="asyncio", head_seconds=5,
            workers="auto", min_workers=0, max_body_bytes=1 << 20)
"""
# What is wrong, each in a line of its own.
MISTAKES = [
    'text: str = env.form.get("a")',  # it may be None
    'number: int = env.query.get("n", type=int)',  # so may this
    'size: int = env.query.get("n", "3")',  # a str
    'upload: FileUpload = env.files.get("file")',
    'upper = env.cookie("id").upper()',
    'name: bytes = env.cookie("id", "nobody")',
    'env.user = "Ann"',  # no such attribute
    'app.get("/x", "process")(index)',  # no placement
    'app.get("/y", "pool", on_disconnect="abort")(index)',
    'app.get("/z", timout=3)(index)',
    "app.run(head_second=5)",
    "app.run(prot=80)",
    'app.run(port="eighty")',
    'app.run(loop="twisted")',
    'Response("x", status="200")',
    'Response("x").set_cookie("a", "b", max_agee=3)',
]
WRONG = (
    RIGHT
    + "\n\ndef wrong(env: Request) -> None:\n"
    + "".join(f"    {line}\n" for line in MISTAKES)
)
FIRST = RIGHT.count("\n") + 4


@pytest.fixture(params=["package", "single"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "single":
        place_lone_file(tmp_path)
    else:
        shutil.copytree(str(ROOT / "pixie_web"), str(tmp_path / "pixie_web"))
    (tmp_path / "right.py").write_text(RIGHT, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    return tmp_path


def mypy(project: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", *arguments]
    return subprocess.run(
        [*command, f"--cache-dir={project / 'cache'}"],
        cwd=str(project),
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def found_mistakes(lines: Set[int]) -> Set[str]:
    return {line for n, line in enumerate(MISTAKES, FIRST) if n in lines}


@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_finds_the_mistakes_and_nothing_else(project: Path) -> None:
    files = ["right.py"]
    if (project / "pixie_web.py").exists():
        files.append("pixie_web.py")  # it passes as a part of the project
    said = mypy(project, *files)
    optional = r".*(uvloop|httptools|orjson|watchfiles).*"  # whether they are there
    errors = [e for e in said.splitlines() if ": error: " in e]
    assert [e for e in errors if not re.match(optional, e)] == [], said
    said = mypy(project, "wrong.py")
    lines = {int(n) for n in re.findall(r"^wrong\.py:(\d+): error", said, re.M)}
    assert len(MISTAKES) - len(found_mistakes(lines)) <= 1, said
    assert min(lines) >= FIRST, said


@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright is not installed")
def test_pyright_finds_the_mistakes_and_nothing_else(project: Path) -> None:
    def lines_of(file: str) -> Set[int]:
        command = ["pyright", "--outputjson", file]
        done = subprocess.run(command, cwd=str(project), stdout=subprocess.PIPE)
        told = json.loads(done.stdout)["generalDiagnostics"]
        errors = [one for one in told if one["severity"] == "error"]
        return {one["range"]["start"]["line"] + 1 for one in errors}

    assert lines_of("right.py") == set()
    lines = lines_of("wrong.py")
    assert len(MISTAKES) - len(found_mistakes(lines)) <= 1, found_mistakes(lines)
    assert min(lines) >= FIRST


def test_every_setting_is_an_argument_that_editors_know() -> None:
    source = (ROOT / "pixie_web" / "pixie.py").read_text("utf-8")
    limits = source.partition("class Limits")[2].partition("\n\n\n")[0]
    named = set(re.findall(r"^        (\w+): ", limits, re.M))
    arguments = set(Pixie.run.__annotations__) - {"limits", "return", "ssl_context"}
    assert named & arguments == set()
    assert named | arguments == set(DEFAULT_SETTINGS)
