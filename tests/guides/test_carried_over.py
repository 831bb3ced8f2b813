"""The tutorials of bottle and Flask, carried over, do what they do there."""

from __future__ import annotations

import shutil
from http.client import HTTPMessage
from pathlib import Path
from typing import Dict, Iterator, Optional
from urllib.parse import urlencode

import pytest
from shapes import ROOT
from support import Answer, Server, serve

PROGRAMS = ROOT / "tests" / "programs"


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Run a program in a copy of its directory."""
    directory = tmp_path / "program"
    shutil.copytree(str(PROGRAMS / request.param), str(directory))
    with serve(directory / f"{request.param}.py", directory) as running:
        yield running


class Client:
    """Somebody with a browser: keeps cookies, and follows redirects."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cookie = ""

    def ask(self, path: str, form: Optional[Dict[str, str]] = None) -> Answer:
        headers = {"Cookie": self.cookie}
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = None if form is None else urlencode(form)
        method = "GET" if form is None else "POST"
        answer = self.server.request(method, path, body, headers)
        self._keep(answer.headers)
        if answer.status == 303:
            return self.ask(answer.headers["Location"])
        return answer

    def _keep(self, headers: HTTPMessage) -> None:
        if headers["Set-Cookie"]:
            self.cookie = headers["Set-Cookie"].partition(";")[0]


@pytest.mark.parametrize("server", ["todo"], indirect=True)
def test_the_list_of_things_to_do(server: Server) -> None:
    client = Client(server)
    assert "Visit the Python website" in client.ask("/todo").text
    assert "favorite" not in client.ask("/todo").text
    assert "the ID is 5" in client.ask("/new", {"task": "Buy <milk>"}).text
    assert "<td>Buy &lt;milk&gt;</td>" in client.ask("/todo").text
    assert 'value="Buy &lt;milk&gt;"' in client.ask("/edit/5").text
    listed = client.ask("/edit/5", {"task": "Buy bread", "status": "closed"})
    assert "Buy" not in listed.text
    assert client.ask("/item5").text == "Task: Buy bread"
    assert client.ask("/json5").json == {"task": "Buy bread"}
    assert client.ask("/json9").json == {"task": "This item number does not exist!"}
    assert "Help" in client.ask("/help").text
    for path in ("/item", "/edit/9"):
        missing = client.ask(path)
        assert (missing.status, missing.text) == (
            404,
            "Sorry, this page does not exist!",
        )
    assert client.ask("/new", {}).status == 400


@pytest.mark.parametrize("server", ["flaskr"], indirect=True)
def test_the_blog(server: Server) -> None:
    ann, bob = Client(server), Client(server)
    for client, name in ((ann, "ann"), (bob, "bob")):
        form = {"username": name, "password": "secret"}
        assert "Log In" in client.ask("/blog/").text
        assert (
            "Username is required."
            in client.ask("/auth/register", {**form, "username": ""}).text
        )
        assert "<h1>Log In</h1>" in client.ask("/auth/register", form).text
        again = client.ask("/auth/register", form)
        assert f"User {name} is already registered." in again.text
        wrong = client.ask("/auth/login", {**form, "password": "guess"})
        assert "Incorrect password." in wrong.text
        assert "<h1>Log In</h1>" in client.ask("/blog/create").text
        assert f"<span>{name}</span>" in client.ask("/auth/login", form).text

    assert (
        "Title is required." in ann.ask("/blog/create", {"title": "", "body": ""}).text
    )
    listed = ann.ask("/blog/create", {"title": "One & only", "body": "<b>"})
    assert "<h1>One &amp; only</h1>" in listed.text
    assert 'href="/blog/1/update"' in listed.text
    assert 'href="/blog/1/update"' not in bob.ask("/blog/").text
    assert bob.ask("/blog/1/update").status == 403
    assert bob.ask("/blog/1/delete", {}).status == 403
    assert ann.ask("/blog/2/update").status == 404
    changed = ann.ask("/blog/1/update", {"title": "Two", "body": "text"})
    assert "<h1>Two</h1>" in changed.text
    assert "Two" not in ann.ask("/blog/1/delete", {}).text
    assert "Register" in ann.ask("/auth/logout").text

    assert server.get("/hello").text == "Hello, World!"
    assert "sans-serif" in server.get("/static/style.css").text
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert server.request("POST", "/auth/login", b"", foreign).status == 403
