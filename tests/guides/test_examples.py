"""The programs in examples/ do what they say; those with tests elsewhere are short."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from browser import Browser
from pages import blocks_of
from shapes import IS_SINGLE, ROOT, home
from support import Answer, Server, serve

EXAMPLES = home() / "examples"
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*.py")), ids=lambda one: one.stem
)
def test_an_example_is_short(path: Path) -> None:
    assert path.read_text("utf-8").count("\n") < 100


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Run an example in an empty directory."""
    with serve(EXAMPLES / f"{request.param}.py", tmp_path) as running:
        yield running


def example(name: str) -> Any:
    return pytest.mark.parametrize("server", [name], indirect=True)


def picture(width: int, height: int) -> bytes:
    spec = importlib.util.spec_from_file_location("shrink", EXAMPLES / "shrink.py")
    assert spec is not None and spec.loader is not None
    shrink = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shrink)
    rows = [[x * y % 256 for x in range(width * 3)] for y in range(height)]
    made: bytes = shrink.write(width, height, rows, 3)
    return made


def send_picture(server: Server, data: bytes) -> Answer:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n%b\r\n--x--\r\n" % data
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return server.request("POST", "/pictures", body, headers)


@example("thumbnails")
def test_a_picture_is_made_small_and_its_progress_told(server: Server) -> None:
    assert "<progress" in server.get("/").text
    sent = send_picture(server, picture(320, 40))
    assert sent.status == 201
    events = server.get(f"/progress/{sent.json['name']}").text
    *steps, end = events.split("\n\n")[:-1]
    assert steps == [f"data: {done}" for done in (0.25, 0.5, 0.75, 1.0)]
    address = end.partition("data: ")[2]
    small = server.get(address)
    assert small.headers["Content-Type"] == "image/png"
    assert small.body[16:24] == bytes([0, 0, 0, 160, 0, 0, 0, 20])


WRONG_PICTURES: Dict[str, bytes] = {
    "no PNG": b"GIF89a",
    "no head": b"\x89PNG\r\n\x1a\n",
    "cut short": picture(40, 40)[:60],
    "too large": picture(1, 1)[:16] + b"\0\1\0\0\0\1\0\0" + picture(1, 1)[24:],
}


@example("thumbnails")
def test_what_is_no_picture_is_refused(server: Server) -> None:
    for data in WRONG_PICTURES.values():
        assert send_picture(server, data).status == 422
    assert server.get("/progress/..%2Fapp.png").status == 404
    assert server.get("/progress/0123456789abcdef.png").status == 404


def keep(browser: Browser, name: str) -> None:
    """Save a screenshot, if PIXIE_SCREENSHOTS names a directory."""
    if os.environ.get("PIXIE_SCREENSHOTS"):
        browser.screenshot(Path(os.environ["PIXIE_SCREENSHOTS"]) / f"{name}.png")


@pytest.mark.browser
@example("thumbnails")
def test_a_page_sends_a_picture_and_shows_the_small_one(
    server: Server, browser: Browser, tmp_path: Path
) -> None:
    def send(name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        browser.type("[type=file]", str(tmp_path / name))
        browser.click("button")

    def width() -> Any:
        return browser.run("return document.querySelector('img')?.naturalWidth")

    browser.look(640, 480)
    browser.open(server.url)
    send("a.png", picture(400, 300))
    browser.until(lambda: width() == 134, "the small picture")
    assert browser.run("return document.querySelector('#bar').value") == 1
    keep(browser, "thumbnails")
    assert browser.complaints() == []
    send("b.png", b"GIF89a")
    browser.until(lambda: browser.text("#state") == "Send a PNG.", "the refusal")
    assert ["422" in one for one in browser.complaints()] == [True]


@pytest.mark.browser
@example("upload")
def test_a_page_sends_a_file_and_lists_it(
    server: Server, browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "some data.bin"
    path.write_bytes(bytes(300_000))
    browser.look(640, 480)
    browser.open(server.url)
    browser.one("#file").send_keys(str(path))
    browser.until(lambda: browser.all("#files a"), "the list")
    assert browser.text("#files li") == "some data.bin 300000 bytes"
    assert browser.text("#state") == "Created"
    keep(browser, "upload")
    assert browser.complaints() == []


@pytest.mark.browser
@example("events")
def test_a_page_draws_the_load(server: Server, browser: Browser) -> None:
    browser.look(640, 480)
    browser.open(server.url)
    browser.until(lambda: len(browser.all("#bars div")) > 1, "two bars")
    assert re.fullmatch(r"[\d.]+ of \d+ CPUs; windows: 1", browser.text("#state"))
    keep(browser, "events")
    browser.run("events.close()")
    assert browser.complaints() == []


def test_the_tutorial_shows_the_same_way_to_make_a_picture_small() -> None:
    blocks = blocks_of(ROOT / "docs" / "tutorial.md")
    (shown,) = [one.text for one in blocks if one.file == "shrink.py"]
    source = (EXAMPLES / "shrink.py").read_text("utf-8")
    assert source.endswith(shown.partition("\n")[2])


@example("model")
def test_a_model_is_shared_by_the_workers(server: Server) -> None:
    assert server.get("/nearest/3.14159").json["nearest"] == 3.142
    assert server.get("/nearest/-5.0").json["nearest"] == 0.0
    assert server.get("/nearest/9999.0").json["nearest"] == 7999.999
    if not os.path.exists("/proc/self/smaps_rollup"):
        pytest.skip("the system does not tell")
    memory = server.get("/memory").json
    assert memory["model_megabytes"] == 64
    assert memory["worker_megabytes"]
    assert max(memory["worker_megabytes"]) < 32


@example("events")
def test_each_window_hears_of_the_load(server: Server) -> None:
    assert "EventSource" in server.get("/").text
    with server.connect() as one, server.connect() as other:
        for window in (one, other):
            window.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        heard = b""
        while b'"windows":2' not in heard:
            piece = one.recv(4096)
            assert piece
            heard += piece
    assert b"text/event-stream" in heard
    assert re.search(rb'event: load\ndata: {"load":[\d.]+,"cpus":\d+,', heard)


@example("upload")
def test_a_file_is_written_as_it_comes_and_never_over_another(
    server: Server, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 4000
    assert server.get("/").status == 200
    sent = server.request("PUT", "/files/a.bin", data)
    assert (sent.status, sent.json) == (201, {"name": "a.bin", "bytes": len(data)})
    assert server.request("PUT", "/files/a.bin", b"other").status == 409
    assert server.request("PUT", "/files/.hidden", b"other").status == 422
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert server.request("PUT", "/files/b", b"other", foreign).status == 403
    assert server.get("/files").json == [{"name": "a.bin", "bytes": len(data)}]
    got = server.get("/files/a.bin")
    assert got.body == data
    assert got.headers["Content-Disposition"].startswith("attachment")
    assert [one.name for one in (tmp_path / "uploads").iterdir()] == ["a.bin"]


@example("notes")
def test_notes_are_kept_and_a_change_of_an_older_state_is_refused(
    server: Server,
) -> None:
    def put(text: str, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return server.request(
            "PUT", "/notes/1", json.dumps({"text": text}), {**JSON, **named}
        )

    made = server.request("POST", "/notes", '{"text": "buy milk"}', JSON)
    assert (made.status, made.headers["Location"]) == (201, "/notes/1")
    assert made.json == {"id": 1, "text": "buy milk", "version": 1}
    assert server.get("/notes/1", {"If-None-Match": '"1"'}).status == 304
    assert put("buy bread", If_Match='"1"').json["version"] == 2
    assert put("buy cake", If_Match='"1"').status == 412
    assert server.get("/notes").json == [{"id": 1, "text": "buy bread", "version": 2}]
    assert server.get("/notes?page=2").json == []
    for body in ("[]", "{}", '{"text": ""}', '{"text": 7}'):
        assert server.request("POST", "/notes", body, JSON).status == 422
    assert server.request("DELETE", "/notes/1").status == 204
    assert server.request("DELETE", "/notes/1").status == 404


def test_a_flask_application_moves_in(tmp_path: Path) -> None:
    if IS_SINGLE:
        pytest.skip("the mount of a WSGI application is a companion")
    pytest.importorskip("flask")
    with serve(EXAMPLES / "moved_in.py", tmp_path) as server:
        assert server.get("/").headers["Location"] == "/shop/"
        first = server.get("/shop/")
        assert "Visit 1." in first.text
        assert "href='/shop/report'" in first.text
        cookie = first.headers["Set-Cookie"].partition(";")[0]
        assert "Visit 2." in server.get("/shop/", {"Cookie": cookie}).text
        moved = server.get("/shop/report")
        assert (moved.status, moved.headers["Location"]) == (308, "/report")
        assert "2262 primes" in server.get("/report").text
