"""The page of an error with `debug`, and errors as JSON."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, List, Tuple

import pytest
from browser import Browser
from pages import python_blocks
from shapes import place_lone_file
from support import Server, serve, server_fixture

from pixie_web.conditional import prefers_json
from pixie_web.devtools import (
    MASK,
    Shower,
    masked,
    masked_source,
    tell_chain,
    tell_place,
)
from pixie_web.executors.pool import worker
from pixie_web.protocol.http11 import parse_head
from pixie_web.requests import Request

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "failing.py"
HTML = {"Accept": "text/html,*/*;q=0.8"}
PLACES = ["sync", "thread", "pool"]

debugging = server_fixture(PROGRAM, debug=True, workers=1)
plain = server_fixture(PROGRAM, workers=1)


def texts(page: str) -> str:
    """Return what a page shows, roughly."""
    return re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.S)


def steps(page: str) -> List[Tuple[str, str]]:
    """Return the way of a request, as the page tells it."""
    return re.findall(r"<li><b>(.*?)</b>(.*?)</li>", page)


@pytest.mark.parametrize("place", [*PLACES, "asnc"])
def test_the_page_tells_source_variables_request_and_the_way(
    debugging: Server, place: str
) -> None:
    answer = debugging.get(f"/{place}/cart?x=1", {**HTML, "X-Own": "<b>"})
    assert answer.status == 500
    page = answer.text
    assert "<h1>ValueError</h1>" in page
    assert "caused by</small> ZeroDivisionError: float division by zero" in page
    assert "<span class=here><i>53</i>    return total / tax</span>" in page
    assert "<tr><td>tax</td><td>0</td></tr>" in page
    assert "<tr><td>X-Own</td><td>&lt;b&gt;</td></tr>" in page
    assert "<tr><td>x</td><td>1</td></tr>" in page
    assert f"GET /{place}/cart?x=1" in page
    names = [name for name, _ in steps(page)]
    worker = ["worker 1"] if place == "pool" else []
    handler = "cart_async" if place == "asnc" else "cart"
    assert names == ["client", "main process", *worker, handler]
    assert "handling.py" not in page
    assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    record = debugging.log.partition(f"GET /{place}/cart?x=1 failed")[2][:2500]
    assert "handling.py" not in record
    assert "ZeroDivisionError" in record


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_and_no_script_gets_out_and_no_value_breaks_it(
    debugging: Server, place: str
) -> None:
    answer = debugging.get(
        f"/{place}/values?token=hunter2-query",
        {**HTML, "Cookie": "id=hunter2-cookie", "Authorization": "hunter2-header"},
    )
    assert (answer.status, "<h1>KeyError</h1>" in answer.text) == (500, True)
    assert "hunter2" not in answer.text
    assert answer.text.count(MASK) > 10
    assert "<script" not in answer.text
    assert "<img" not in answer.text
    assert len(answer.body) < 30_000
    shown = texts(answer.text)
    assert "Raises: its repr raised RuntimeError" in shown
    assert "Leaves: its repr raised SystemExit" in shown
    assert "99999760 characters more" in shown
    assert "an int of 100001 bits" in shown
    assert "999980 more" in shown
    for accept in "*/*", "application/json":
        other = debugging.get(f"/{place}/values", {"Accept": accept})
        assert "hunter2" not in other.text


def test_a_form_is_told_where_it_was_read_and_the_body_is_not(
    debugging: Server,
) -> None:
    form = "name=Ann&password=hunter2"
    kind = {"Content-Type": "application/x-www-form-urlencoded", **HTML}
    page = debugging.request("POST", "/form/7", form, kind).text
    assert "<tr><td>name</td><td>Ann</td></tr>" in page
    assert f"<tr><td>password</td><td>{MASK}</td></tr>" in page
    assert "<tr><td>number</td><td>7</td></tr>" in page
    assert "hunter2" not in page


@pytest.mark.parametrize("place", PLACES)
def test_a_long_traceback_is_cut_and_one_of_a_library_ends_in_it(
    debugging: Server, place: str
) -> None:
    page = debugging.get(f"/{place}/deep", HTML).text
    assert "more calls" in page
    assert page.count("<details") < 60
    page = debugging.get(f"/{place}/library", HTML).text
    assert '<details class="card library">' in page
    assert "in_library" in page


def test_who_does_not_name_html_gets_text_or_json(debugging: Server) -> None:
    answer = debugging.get("/pool/cart", {"Accept": "*/*"})
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.text.startswith("500 Internal Server Error\n\nTraceback (most")
    assert answer.text.endswith("ValueError: this cart has no price\n")
    said = debugging.get("/pool/cart", {"Accept": "application/json"}).json
    assert said["detail"] == "ValueError: this cart has no price"
    assert said["traceback"][-1] == said["detail"]


@pytest.mark.parametrize(
    "name, status, line",
    [
        ("sleep", 504, "time.sleep(30)"),
        ("lock", 504, "ctypes.PyDLL(None).sleep(30)"),
        ("crash", 502, "os.abort()"),
    ],
)
def test_a_worker_that_does_not_answer_shows_where_it_stood(
    debugging: Server, name: str, status: int, line: str
) -> None:
    healthy = steps(debugging.get("/pool/cart", HTML).text)  # of the same worker
    assert re.fullmatch("worker [1-9][0-9]*", healthy[2][0])
    answer = debugging.get(f"/pool/slow/{name}", HTML)
    assert answer.status == status
    page = answer.text
    assert f"<h1>{status} " in page
    here = re.findall("<span class=here><i>[0-9]+</i> *(.*?)</span>", page)
    assert [one.partition("  #")[0] for one in here] == [line, "wait(name)"]
    assert steps(page)[1:3] == healthy[1:3]
    assert "hunter2" not in page
    assert "/pixie_web/" not in page.partition("As text")[0]
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    kind = "*/*" if name == "sleep" else "application/json"
    other = debugging.get(f"/pool/slow/{name}", {"Accept": kind})
    assert other.status == status
    if name == "sleep":
        assert "in wait\n" in other.text
    else:
        assert any("in wait" in line for line in other.json["traceback"])


def test_a_worker_that_leaves_without_a_word_is_a_plain_502(debugging: Server) -> None:
    answer = debugging.get("/pool/slow/leave", HTML)
    assert answer.status == 502
    assert "The worker that ran this request died." in answer.text


def test_of_a_workers_words_the_calls_of_the_handler_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    lines = [
        "Thread 0x00007f0000000001 (most recent call first):",
        '  File "/srv/other.py", line 1 in elsewhere',
        "",
        "Current thread 0x00007f0000000002 (most recent call first):",
        f'  File "{worker.__file__}", line 1 in _on_deadline',
        f'  File "{tmp_path}/pipe.py", line 3 in waits',
        '  File "/srv/a", line 9 in b.py", line 7 in f in g',
        '  File "/srv/app.py", line none in f',
        f'  File "{worker.__file__}", line 1 in serve',
        '  File "/srv/app.py", line 60 in <module>',
    ]
    frames = tell_place("\n".join(lines))
    assert [(one.function, one.line, one.code) for one in frames] == [
        ("waits", 3, []),
        ("f in g", 7, []),
    ]
    assert tell_place("Stack (most recent call first):\n") == []
    assert tell_place("") == []


@pytest.mark.parametrize("place", [*PLACES, "pool/slow"])
def test_nothing_is_told_without_debug(plain: Server, place: str) -> None:
    for accept in "text/html", "*/*", "application/json":
        answer = plain.get(f"/{place}/cart", {"Accept": accept})
        assert answer.status == (504 if place == "pool/slow" else 500)
        for word in "ValueError", "failing", "cart", "Traceback", "price":
            assert word not in answer.text


def test_errors_are_json_where_that_is_preferred(plain: Server) -> None:
    json = {"Accept": "application/json"}
    assert plain.get("/gone", json).json == {
        "status": 410,
        "title": "Gone",
        "detail": "It is <gone>.",
    }
    for path, status in ("/none", 404), ("/sync/cart", 500), ("/form/7", 405):
        answer = plain.get(path, json)
        assert (answer.status, answer.json["status"]) == (status, status)
        assert answer.headers["Content-Type"] == "application/json"
    assert plain.get("/form/7", json).headers["Allow"] == "OPTIONS, POST"
    assert plain.get("/crash", json).json["status"] == 502
    assert "text/html" in plain.get("/gone", {"Accept": "*/*"}).headers["Content-Type"]


@pytest.mark.parametrize(
    "accept, expected",
    [
        ("", False),
        ("*/*", False),
        ("text/html", False),
        ("application/json", True),
        ("Application/JSON", False),  # nobody writes it so; it costs no look
        ("application/problem+json", True),
        ("application/json, text/plain, */*", True),  # axios
        ("text/html, application/json", False),
        ("text/html;q=0.9, application/json", True),
        ("text/html, application/json;q=0.9", False),
        ("application/json;q=0", False),
        ("application/json;q=0, */*", False),
        ("application/json; charset=utf-8; q=0.5, */*;q=0.1", True),
        ("application/json;q=x", True),
        (",;, application/json ,", True),
    ],
)
def test_whether_json_is_preferred(accept: str, expected: bool) -> None:
    head = f"GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n"
    assert prefers_json(Request(parse_head(head.encode()))) is expected


def test_the_lone_file_shows_the_traceback_alone(tmp_path: Path) -> None:
    place_lone_file(tmp_path)
    program = "from pixie_web import route, run\n"
    program += "@route('/')\ndef f(env):\n    return 1 / 0\nrun()\n"
    environment = {"PYTHONPATH": str(tmp_path)}
    with serve(program, tmp_path, debug=True, environment=environment) as server:
        page = server.get("/", HTML).text
    assert "<pre>Traceback" in page
    assert "handling" not in page
    assert "ZeroDivisionError" in page


def test_the_page_of_the_guide_shows_what_is_answered(root: Path) -> None:
    page = root / "docs" / "developing.md"
    program = python_blocks(page)[1] + "\n\napp.run()\n"
    shown = page.read_text("utf-8").partition("/tea/mud\n")[2].partition("\n")[0]
    with serve(program) as server:
        assert server.get("/tea/mud", {"Accept": "application/json"}).text == shown


# Values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("password='a b'", f"password={MASK}"),
        ("{'api_key': 'x', 'n': 1}", f"{{'api_key': {MASK}, 'n': 1}}"),
        ('{"Authorization": "Bearer x"}', f'{{"Authorization": {MASK}}}'),
        ("/a?token=x&n=1", f"/a?token={MASK}&n=1"),
        ("redis://:pw@host/0", f"redis://:{MASK}@host/0"),
        ("author='Ann', pass=1", "author='Ann', pass=1"),
        ("the password is short", "the password is short"),
    ],
)
def test_secrets_in_texts_are_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_secrets_in_sources_are_masked_where_they_are_literals() -> None:
    assert masked_source('    TOKEN = "x" + y') == f"    TOKEN = {MASK} + y"
    assert masked_source("password = read_it()") == "password = read_it()"


@pytest.mark.parametrize(
    "value, shown",
    [
        ("a", "'a'"),
        (b"a", "b'a'"),
        ([1, [2, [3, [4]]]], "[1, [2, [3, [...]]]]"),
        ({"a": 1, 2: {3}}, "{'a': 1, 2: {3}}"),
        ({"password": [1], b"token": [2]}, f"{{'password': {MASK}, b'token': {MASK}}}"),
        ({("password",): [1]}, "{('password',): [1]}"),
        (frozenset([1]), "frozenset([1])"),
        ([(), (1,), (1, 2), set()], "[(), (1,), (1, 2), set([])]"),
        (None, "None"),
        (list(range(30)), f"[{', '.join(map(str, range(20)))}, 10 more]"),
    ],
)
def test_values_are_told_in_few_characters(value: Any, shown: str) -> None:
    assert Shower().show(value) == shown


def test_a_chain_that_is_a_circle_ends() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    assert [told.kind for told in tell_chain(one, True)] == ["ValueError", "KeyError"]


def test_a_group_tells_its_members() -> None:
    class Group(Exception):
        exceptions = (ValueError("a"), KeyError("b"))

    told = tell_chain(Group("two"), True)
    assert [one.relation for one in told] == ["", *["one of the group"] * 2]


# In a browser -------------------------------------------------------------------------


@pytest.mark.browser
def test_the_page_fits_and_runs_nothing(browser: Browser, debugging: Server) -> None:
    for path in "/pool/cart?token=x", "/pool/values":
        for width in 390, 1280:
            for scheme in "light", "dark":
                browser.look(width, 900, scheme)
                browser.open(debugging.url + path)
                script = "return document.documentElement.scrollWidth - innerWidth"
                assert browser.run(script) <= 0
                assert browser.run("return document.title").startswith(
                    ("ValueError", "KeyError")
                )
                assert browser.run("return document.scripts.length") == 0
    browser.look(1280, 900)
    refused = [one for one in browser.complaints() if "status of 500" not in one]
    assert refused == []
