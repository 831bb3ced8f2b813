"""msgboard.py, started as its users start it, and asked over HTTP."""

from __future__ import annotations

import http.client
import importlib
import os
import re
import shelve
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional
from urllib.parse import urlencode

import pytest
from browser import served
from shapes import home
from support import Server

TIMEOUT_SECONDS = 60
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Answer(NamedTuple):
    """An HTTP response that has been read to its end."""

    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def messages(self) -> List[str]:
        """Return the text of each message, as a person reads it."""
        articles = re.findall(r'(?s)<article class="message".*?</article>', self.text)
        paragraphs = [re.findall(r"(?s)<p>(.*?)</p>", article) for article in articles]
        return [unescape(found[0]) for found in paragraphs]

    @property
    def problem(self) -> Optional[str]:
        """Return what the page complains about, or None."""
        found = re.search(r'(?s)role="alert">(.*?)</p>', self.text)
        return unescape(found[1]) if found else None


def ask(
    server: Server,
    path: str = "/",
    method: str = "GET",
    body: Optional[str] = None,
    headers: Optional[Dict[str, str]] = None,
) -> Answer:
    connection = http.client.HTTPConnection(
        "127.0.0.1", server.port, timeout=TIMEOUT_SECONDS
    )
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read().decode())
    finally:
        connection.close()


def send(server: Server, **fields: str) -> Answer:
    return ask(server, "/", "POST", urlencode(fields), FORM)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Server]:
    with served("msgboard.py", tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def empty_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A board on which nothing is ever posted with success."""
    with served("msgboard.py", tmp_path_factory.mktemp("board")) as running:
        yield running


# The page -----------------------------------------------------------------------------


def test_an_empty_board_shows_the_form(empty_board: Server) -> None:
    page = ask(empty_board)
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert 'name="name"' in page.text
    assert '<textarea id="text" name="message"' in page.text
    assert page.messages == []
    assert page.problem is None


@pytest.mark.parametrize("name", ["board.css", "icon.svg"])
def test_the_page_finds_its_assets(empty_board: Server, name: str) -> None:
    assert f'href="/assets/{name}"' in ask(empty_board).text
    assert ask(empty_board, f"/assets/{name}").status == 200


def test_the_page_needs_nothing_from_elsewhere(empty_board: Server) -> None:
    assert "://" not in ask(empty_board).text
    assert "://" not in ask(empty_board, "/assets/board.css").text


def test_only_get_and_post_are_answered(empty_board: Server) -> None:
    refused = ask(empty_board, method="PUT")
    assert refused.status == 405
    assert refused.headers["Allow"] == "GET, HEAD, OPTIONS, POST"


# Posting ------------------------------------------------------------------------------


def test_a_post_redirects_to_the_page_that_shows_it(board: Server) -> None:
    posted = send(board, name="Zoë", message="Hello,\r\n  world \r\n")
    assert (posted.status, posted.headers["Location"]) == (303, "/")
    page = ask(board, posted.headers["Location"])
    assert page.messages == ["Hello,\n  world"]
    assert "<h3>Zoë</h3>" in page.text
    assert 'value=""' in page.text


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://other.localhost"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "none"}, 303),
        ({}, 303),
    ],
)
def test_another_site_can_not_make_a_browser_post(
    board: Server, headers: Dict[str, str], status: int
) -> None:
    body = urlencode({"name": "me", "message": "hello"})
    assert ask(board, "/", "POST", body, {**FORM, **headers}).status == status
    assert ask(board).messages == ["hello"] * (status == 303)
    assert ask(board, headers=headers).status == 200


def test_the_newest_message_comes_first(board: Server) -> None:
    for number in range(3):
        assert send(board, name="me", message=f"message {number}").status == 303
    assert ask(board).messages == ["message 2", "message 1", "message 0"]


def test_markup_stays_text(board: Server) -> None:
    script = "<script>alert('&amp;')</script>"
    assert send(board, name='"><b>', message=script).status == 303
    page = ask(board)
    assert page.messages == [script]
    assert "<script" not in page.text
    assert "<h3>&quot;&gt;&lt;b&gt;</h3>" in page.text


def test_a_name_may_not_hold_line_breaks(board: Server) -> None:
    assert send(board, name=" a\n\tb ", message="x").status == 303
    assert "<h3>a b</h3>" in ask(board).text


REFUSED = [
    ("", "hi", 400, "Please write your name."),
    ("me", "", 400, "Please write a message."),
    (" \t", " \r\n\u3000", 400, "Please write your name and a message."),
    ("n" * 61, "hi", 413, "A name has at most 60 characters, not 61."),
    ("me", "m" * 2001, 413, "A message has at most 2000 characters, not 2001."),
]


@pytest.mark.parametrize("name, message, status, problem", REFUSED)
def test_a_blank_or_long_post_is_refused_and_the_form_kept(
    empty_board: Server, name: str, message: str, status: int, problem: str
) -> None:
    refused = send(empty_board, name=name, message=message)
    assert (refused.status, refused.problem) == (status, problem)
    assert f'value="{name.strip()}"' in refused.text
    assert f"\n{message.strip()}</textarea>" in refused.text
    assert ask(empty_board).messages == []


def test_what_was_typed_comes_back_escaped(empty_board: Server) -> None:
    refused = send(empty_board, name='"><script>', message="</textarea><script>" * 200)
    assert refused.status == 413
    assert "<script" not in refused.text
    assert 'value="&quot;&gt;&lt;script&gt;"' in refused.text


def test_missing_fields_count_as_blank(empty_board: Server) -> None:
    refused = ask(empty_board, "/", "POST", "{}", {"Content-Type": "text/plain"})
    assert (refused.status, refused.problem) == (
        400,
        "Please write your name and a message.",
    )


def test_a_form_over_the_limit_of_bytes_is_refused_with_the_form(
    empty_board: Server,
) -> None:
    refused = send(empty_board, name="me", message="m" * 70_000)
    assert (refused.status, refused.problem) == (
        413,
        "That was far too long: 2000 characters, please.",
    )
    assert '<textarea id="text" name="message"' in refused.text


def test_the_longest_message_fits_in_any_script(board: Server) -> None:
    longest = "\U0001f9da" * 2000
    assert send(board, name="é" * 60, message=longest).status == 303
    assert ask(board).messages == [longest]


# Pages --------------------------------------------------------------------------------


def shelf_with(directory: Path, count: int) -> None:
    with shelve.open(str(directory / "msgboard.shelf")) as shelf:
        for number in range(1, count + 1):
            shelf[f"{number:010}"] = ("me", f"message {number}", 1e9)


@pytest.mark.parametrize(
    "query, first, last",
    [
        ("", 45, 26),
        ("?page=1", 45, 26),
        ("?page=2", 25, 6),
        ("?page=3", 5, 1),
        ("?page=4", 5, 1),
        ("?page=99999999999999999999", 5, 1),
        ("?page=0", 45, 26),
        ("?page=-1", 45, 26),
        ("?page=x", 45, 26),
    ],
)
def test_each_page_shows_twenty_messages(
    many: Server, query: str, first: int, last: int
) -> None:
    expected = [f"message {number}" for number in range(first, last - 1, -1)]
    assert ask(many, f"/{query}").messages == expected


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("many")
    shelf_with(directory, 45)
    with served("msgboard.py", directory) as running:
        yield running


def test_the_pages_are_linked(many: Server) -> None:
    links = [
        re.findall(r'href="(/\?[^"]*)"', ask(many, f"/?page={n}").text)
        for n in (1, 2, 3)
    ]
    assert links == [["/?page=2"], ["/?page=1", "/?page=3"], ["/?page=2"]]


def test_the_oldest_messages_make_room(tmp_path: Path) -> None:
    shelf_with(tmp_path, 1000)
    with served("msgboard.py", tmp_path) as board:
        assert send(board, name="me", message="one more").status == 303
        assert ask(board).messages[:2] == ["one more", "message 1000"]
        assert ask(board, "/?page=50").messages[-1] == "message 2"


# The file -----------------------------------------------------------------------------


def test_messages_are_kept_when_the_board_is_restarted(tmp_path: Path) -> None:
    for count in range(3):
        with served("msgboard.py", tmp_path) as board:
            assert len(ask(board).messages) == count
            assert send(board, name="me", message=f"message {count}").status == 303
    with served("msgboard.py", tmp_path) as board:
        assert ask(board).messages == ["message 2", "message 1", "message 0"]


def test_a_message_is_kept_when_the_board_is_killed(tmp_path: Path) -> None:
    with served("msgboard.py", tmp_path) as board:
        assert send(board, name="me", message="still here").status == 303
        board.process.kill()
        board.process.wait()
    with served("msgboard.py", tmp_path) as board:
        assert ask(board).messages == ["still here"]


def test_the_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("MSGBOARD_FILE", str(tmp_path / "data" / "board"))
    with served("msgboard.py", tmp_path / "work") as board:
        assert send(board, name="me", message="hi").status == 303
    assert list((tmp_path / "work").iterdir()) == []
    assert list((tmp_path / "data").iterdir()) != []


@pytest.mark.parametrize("kind", ["dumb", "gnu", "ndbm", "sqlite3"])
def test_every_kind_of_dbm_will_do(tmp_path: Path, kind: str) -> None:
    dbm = pytest.importorskip(f"dbm.{kind}")
    dbm.open(str(tmp_path / "msgboard.shelf"), "c").close()
    for count in range(2):
        with served("msgboard.py", tmp_path) as board:
            assert len(ask(board).messages) == count
            assert send(board, name="me", message="hi").status == 303
    module = importlib.import_module("dbm").whichdb(str(tmp_path / "msgboard.shelf"))
    assert module == f"dbm.{kind}"


def start_and_fail(directory: Path) -> str:
    """Run the board where it can't start, and return what it says."""
    result = subprocess.run(
        [sys.executable, str(home() / "msgboard.py")],
        cwd=str(directory),
        env={**os.environ, "PIXIE_PORT": "0"},
        stderr=subprocess.PIPE,
        timeout=TIMEOUT_SECONDS,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.parametrize("content", [b"\0" * 5000, b"garbage " * 5000, b"x"])
def test_the_board_does_not_start_on_a_damaged_file(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "msgboard.shelf").write_bytes(content)
    said = start_and_fail(tmp_path)
    assert f"{tmp_path / 'msgboard.shelf'} can't be used" in said


def test_the_board_does_not_start_on_records_of_another_kind(tmp_path: Path) -> None:
    with shelve.open(str(tmp_path / "msgboard.shelf")) as shelf:
        shelf["preferences"] = {"colour": "red"}
    assert "msgboard.shelf can't be used" in start_and_fail(tmp_path)


def test_the_board_does_not_start_where_it_can_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSGBOARD_FILE", str(tmp_path / "nowhere" / "board"))
    assert "board can't be used" in start_and_fail(tmp_path)


def test_a_file_that_breaks_while_the_board_runs_is_503_until_it_is_mended(
    board: Server, tmp_path: Path
) -> None:
    assert send(board, name="me", message="hi").status == 303
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path in kept:
        path.write_bytes(b"garbage " * 5000)
    for answer in (ask(board), send(board, name="me", message="again")):
        assert answer.status == 503
        assert "The messages can&#39;t be reached." in answer.text
        assert str(tmp_path) not in answer.text
    for path, content in kept.items():
        path.write_bytes(content)
    assert ask(board).messages == ["hi"]


def test_a_file_that_another_process_holds_is_503_until_it_lets_go(
    tmp_path: Path,
) -> None:
    gnu = pytest.importorskip("dbm.gnu")
    name = str(tmp_path / "msgboard.shelf")
    gnu.open(name, "c").close()
    with served("msgboard.py", tmp_path) as board:
        with gnu.open(name, "w"):
            assert ask(board).status == 503
        assert ask(board).status == 200
