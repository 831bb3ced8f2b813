"""What the README shows is run as it stands there."""

import threading
from pathlib import Path
from typing import Dict, List

import pytest
from pages import python_blocks
from support import serve

README = Path(__file__).parents[2] / "README.md"
TYPES = {"/": "main", "/async": "main", "/cpu": "pool"}


def test_the_first_example_answers_at_once_while_the_pool_is_busy(
    tmp_path: Path,
) -> None:
    program = tmp_path / "app.py"
    program.write_text(python_blocks(README)[0])
    order: List[str] = []
    answers: Dict[str, str] = {}
    with serve(program) as server:

        def ask(path: str) -> None:
            answers[path] = server.get(path).text
            order.append(path)

        slow = threading.Thread(target=ask, args=("/cpu",))
        slow.start()
        ask("/async")
        ask("/")
        slow.join()
    assert order[-1] == "/cpu"
    for path, kind in TYPES.items():
        assert answers[path].startswith("Hello world")
        assert answers[path].endswith(f"from process type ProcessType.{kind}")


@pytest.fixture(scope="module")
def second_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("readme")
    (directory / "assets").mkdir()
    (directory / "assets" / "a.txt").write_text("an asset")
    assets = str(directory / "assets")
    source = python_blocks(README)[1].replace('root="assets"', f"root={assets!r}")
    program = directory / "more.py"
    program.write_text(source + "\nfrom pixie_web import run\nrun()\n")
    return program


def test_the_second_example_does_what_its_comments_say(second_example: Path) -> None:
    with serve(second_example) as server:
        assert server.get("/message/1").json == {"number": 1, "text": "first"}
        assert server.get("/message/7").status == 404
        assert "<h1>There is no such message.</h1>" in server.get("/message/7").text
        assert server.request("POST", "/message", b"").status == 400
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        posted = server.request("POST", "/message", b"text=second", form)
        assert posted.status == 303
        assert server.get("/message/2").json["text"] == "second"
        assert server.get("/count?to=2").text == "0\n1\n"
        assert server.get("/assets/a.txt").text == "an asset"
