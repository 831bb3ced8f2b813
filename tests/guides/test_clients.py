"""Clients that others have written: curl, Python's own, httpx, aiohttp and a browser.

Each is sent through the same table, over HTTP and HTTPS, on both loops. That something
comes piece by piece is shown by events: the next piece is not there, or not sent,
before the one ahead of it has arrived.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from http.cookies import SimpleCookie
from itertools import count
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Type

import pytest
from browser import Browser
from clients import (
    CERTIFICATE,
    CLIENTS,
    Body,
    Client,
    Curl,
    HttpClient,
    LeftError,
    Reply,
)
from support import LOOPS, Server, serve

PROGRAM = Path(__file__).parents[1] / "programs" / "clients.py"
LARGE = os.urandom(1000) * 8000
PIECES = [bytes([n]) * 50_000 for n in range(60)]  # 3 MB
UPLOAD = b"".join(PIECES)
DIGEST = hashlib.sha256(UPLOAD).hexdigest()
TEXT = "Zwölf Boxkämpfer\n" * 100
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=frontier"}
PARTS = (
    b'--frontier\r\nContent-Disposition: form-data; name="title"\r\n\r\n%b\r\n'
    b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n%b\r\n--frontier--\r\n"
) % ("ein Döner".encode(), UPLOAD)
keys = map(str, count())  # of what must not meet in the program


class Place(NamedTuple):
    """A server, and how to reach it."""

    server: Server
    url: str
    scheme: str
    files: Path

    def release(self, placement: str, key: str) -> None:
        """Let a stream send its second piece."""
        if placement == "stream":
            (self.files / key).write_text("")
        else:
            other = HttpClient(self.url, self.files)
            assert other.ask(f"/go/{key}").status == 204
            other.close()


PLACES = [(scheme, loop) for loop in LOOPS for scheme in ("http", "https")]


@pytest.fixture(scope="module", params=PLACES, ids="-".join)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    scheme, loop = request.param
    files = tmp_path_factory.mktemp("files")
    (files / "large.bin").write_bytes(LARGE)
    (files / "page.txt").write_text(TEXT, "utf-8")
    (files / "page.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    settings: Dict[str, Any] = {"loop": loop, "environment": {"CLIENTS_FILES": files}}
    if scheme == "https":
        settings["certfile"] = CERTIFICATE
    with serve(PROGRAM, **settings) as server:
        yield Place(server, f"{scheme}://127.0.0.1:{server.port}", scheme, files)


@pytest.fixture(params=CLIENTS, ids=lambda kind: kind.__name__.lower())
def client(
    request: pytest.FixtureRequest, place: Place, tmp_path: Path
) -> Iterator[Client]:
    kind: Type[Client] = request.param
    running = kind(place.url, tmp_path)
    yield running
    running.close()


# The table ----------------------------------------------------------------------------

LARGE_TYPE = "application/octet-stream"
PLAIN = {"content-type": "text/plain; charset=utf-8"}
JSON = {"content-type": "application/json"}
ACCEPT_GZIP = {"Accept-Encoding": "gzip"}
UPLOADED = {
    "title": "ein Döner",
    "filename": "a.bin",
    "digest": DIGEST,
    "spooled": True,
}
STREAMED = {"size": len(UPLOAD), "digest": DIGEST}

# method, path, headers, body; status, some headers, content (a dict: as JSON)
TABLE = [
    ("GET", "/hello", {}, None, 200, {"x-method": "GET"}, "hello"),
    ("HEAD", "/hello", {}, None, 200, {"x-method": "HEAD"}, b""),
    ("GET", "/cpu", {}, None, 200, JSON, {"total": 499500}),
    ("GET", "/empty", {}, None, 204, {"content-length": ""}, b""),
    (
        *("POST", "/form", FORM, b"text=a+b%C3%A9&tags=0&tag=1&tag=2"),
        *(200, JSON, {"text": "a bé", "tags": ["1", "2"]}),
    ),
    ("POST", "/form", FORM, b"tag=1", 400, {}, None),
    ("POST", "/upload", MULTIPART, PARTS, 200, JSON, UPLOADED),
    ("POST", "/upload", MULTIPART, [PARTS[:9], PARTS[9:]], 200, JSON, UPLOADED),
    ("POST", "/stream/a", {}, PIECES, 200, JSON, STREAMED),
    ("PUT", "/stream/b", {}, PIECES, 200, JSON, STREAMED),
    ("POST", "/stream/c", {}, UPLOAD, 200, JSON, STREAMED),
    (
        *("GET", "/files/large.bin", {}, None, 200),
        *({"content-length": "8000000", "accept-ranges": "bytes"}, LARGE),
    ),
    (
        *("HEAD", "/files/large.bin", {}, None, 200),
        *({"content-length": "8000000"}, b""),
    ),
    (
        *("GET", "/files/large.bin", {"Range": "bytes=100-1099"}, None, 206),
        *({"content-range": "bytes 100-1099/8000000"}, LARGE[100:1100]),
    ),
    (
        *("GET", "/files/large.bin", {"Range": "bytes=-5"}, None, 206),
        *({"content-range": "bytes 7999995-7999999/8000000"}, LARGE[-5:]),
    ),
    (
        *("GET", "/files/large.bin", {"Range": "bytes=8000000-"}, None, 416),
        *({"content-range": "bytes */8000000"}, None),
    ),
    (
        *("GET", "/files/page.txt", {"Accept-Encoding": "identity"}, None, 200),
        *({**PLAIN, "content-encoding": ""}, TEXT.encode()),
    ),
    ("GET", "/nowhere", {}, None, 404, {}, None),
    ("DELETE", "/hello", {}, None, 405, {"allow": "GET, HEAD, OPTIONS"}, None),
]


def content_of(reply: Reply, expected: Any) -> Any:
    """Return the content of a reply in the form that is expected."""
    if isinstance(expected, str):
        return reply.body.decode()
    return json.loads(reply.body) if isinstance(expected, dict) else reply.body


def test_every_request_of_the_table_gets_its_answer_on_one_connection(
    client: Client, place: Place
) -> None:
    port = client.ask("/port").body
    for method, path, headers, body, status, some, content in TABLE:
        what = f"{method} {path} {headers}"
        reply = client.ask(path, method, headers, body)
        assert (what, reply.status) == (what, status)
        got = {name: reply.header(name) for name in some}
        assert (what, got) == (what, some)
        if content == "hello":
            content = f"hello {place.scheme}"
        if content is not None:
            assert content_of(reply, content) == content, what
    if not isinstance(client, Curl) and client.reuses:  # curl: see below
        assert client.ask("/port").body == port


def test_a_connection_is_used_again(client: Client) -> None:
    ports = client.ports()
    assert len(ports) == 3
    assert len(set(ports)) == (1 if client.reuses else 3)


def test_a_precompressed_file_is_what_the_client_unpacks(client: Client) -> None:
    reply = client.ask("/files/page.txt", headers=ACCEPT_GZIP)
    assert reply.status == 200
    assert (reply.header("content-encoding"), reply.header("vary")) == (
        "gzip",
        "Accept-Encoding",
    )
    body = reply.body if client.decodes else gzip.decompress(reply.body)
    assert body.decode() == TEXT


@pytest.mark.parametrize("body", [UPLOAD, PIECES], ids=["length", "chunked"])
def test_a_body_that_is_too_large_is_413_and_the_client_reads_it(
    body: Body, client: Client
) -> None:
    reply = client.ask("/small", "POST", {}, body)
    assert reply.status == 413
    assert client.ask("/hello").status == 200


@pytest.mark.parametrize("status", [303, 307])
def test_a_post_is_sent_elsewhere(status: int, client: Client, place: Place) -> None:
    reply = client.ask(f"/redirect/{status}", "POST", FORM, b"text=a")
    if status not in client.follows:
        where = "/hello" if status == 303 else "/form"
        assert (reply.status, reply.header("location")) == (status, where)
    elif status == 303:
        assert reply.body.decode() == f"hello {place.scheme}"
        assert reply.header("x-method") == "GET"
    else:
        assert json.loads(reply.body) == {"text": "a", "tags": []}


def test_cookies_come_back(client: Client, place: Place) -> None:
    reply = client.ask("/cookie/set")
    cookies = SimpleCookie()
    for line in reply.headers["set-cookie"]:
        assert ("; Secure" in line) == (place.scheme == "https")
        cookies.load(line)
    headers = {}
    if not client.keeps_cookies:
        pairs = [f"{name}={morsel.coded_value}" for name, morsel in cookies.items()]
        headers = {"Cookie": "; ".join(pairs)}
    reply = client.ask("/cookie", headers=headers)
    assert json.loads(reply.body) == ["crème brûlée; a=b", "2"]


# Piece by piece -----------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["asnc", "stream"])
def test_a_stream_is_read_as_it_comes(
    placement: str, client: Client, place: Place
) -> None:
    key = f"events-{next(keys)}"
    os.mkfifo(str(place.files / key))
    with client.stream(f"/events/{placement}/{key}") as read:
        assert read() == b"one\n"
        place.release(placement, key)  # only now is there a second
        assert read() == b"two\n"
        assert read() == b""


def test_an_upload_is_read_as_it_comes(client: Client, place: Place) -> None:
    key = f"upload-{next(keys)}"

    def body() -> Iterator[bytes]:
        yield b"first"
        place.server.wait_for_log(f"note: first of {key}\n")
        yield b"second"

    reply = client.ask(f"/stream/{key}", "POST", {}, body())
    assert json.loads(reply.body)["size"] == len(b"firstsecond")


# Leaving ------------------------------------------------------------------------------


def test_a_client_may_leave_a_download(client: Client, place: Place) -> None:
    key = f"download-{next(keys)}"
    with client.stream(f"/endless/asnc/{key}") as read:
        assert read()[:1] == b"x"
    place.server.wait_for_log(f"note: left {key}\n")
    assert client.ask("/hello").status == 200


def test_a_client_may_leave_an_upload(client: Client, place: Place) -> None:
    key = f"half-{next(keys)}"

    def body() -> Iterator[bytes]:
        yield b"first"
        place.server.wait_for_log(f"note: first of {key}\n")
        raise LeftError

    with pytest.raises(client.leaves):
        client.ask(f"/stream/{key}", "POST", {}, body())
    place.server.wait_for_log(f"note: cut off {key}\n")
    assert client.ask("/hello").status == 200


# What curl alone does -----------------------------------------------------------------


@pytest.fixture
def curl(place: Place, tmp_path: Path) -> Curl:
    return Curl(place.url, tmp_path)


def expecting(curl: Curl, path: str, *arguments: str) -> List[str]:
    """Upload 3 MB behind Expect: 100-continue; return the statuses and bytes sent.

    curl is told to wait for the 100 longer than it may take in all.
    """
    output, log = curl.run(
        *(
            "--verbose",
            "--expect100-timeout",
            "600",
            "--header",
            "Expect: 100-continue",
        ),
        *("--data-binary", "@-"),
        *("--write-out", "\n%{size_upload}", *arguments),
        curl.url + path,
        body=UPLOAD,
    )
    lines = [line.split()[2] for line in log.splitlines() if line[:7] == "< HTTP/"]
    return lines + [output.decode().rpartition("\n")[2]]


def test_curl_waits_for_100_before_it_sends_a_body(curl: Curl) -> None:
    assert expecting(curl, "/stream/x") == ["100", "200", "3000000"]


def test_curl_sends_no_body_that_is_refused(curl: Curl) -> None:
    assert expecting(curl, "/small") == ["413", "0"]
    assert expecting(curl, "/nowhere") == ["404", "0"]


def test_curl_reuses_the_connection_for_requests_of_all_kinds(curl: Curl) -> None:
    port, each = curl.url + "/port", ["--next", *curl.command[1:]]
    output, _ = curl.run(
        *("--write-out", "\n", port),
        *(*each, "--write-out", "\n", "--data", "text=a", curl.url + "/form"),
        *(*each, "--head", "--output", "/dev/null", curl.url + "/hello"),
        *(*each, "--output", "/dev/null", curl.url + "/nowhere"),
        *(*each, "--output", "/dev/null", curl.url + "/files/large.bin"),
        *(*each, "--output", "/dev/null", curl.url + "/empty"),
        *(*each, "--write-out", "\n", port),
    )
    first, form, last = output.decode().split("\n")[:3]
    assert (first, json.loads(form)["text"]) == (last, "a")


def test_curl_goes_on_where_a_download_was_cut(curl: Curl, tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(LARGE[:1_234_567])
    curl.run("-C", "-", "-o", str(path), curl.url + "/files/large.bin")
    assert path.read_bytes() == LARGE


# A browser ----------------------------------------------------------------------------

# arguments: method, path, headers, text; gives status, headers, digest of the content
FETCH = """
const [method, path, headers, body] = arguments;
const answer = await fetch(path, { method, headers, body, cache: "no-store" });
const digest = await crypto.subtle.digest("SHA-256", await answer.arrayBuffer());
const hex = [...new Uint8Array(digest)].map((n) => n.toString(16).padStart(2, "0"));
return [answer.status, Object.fromEntries(answer.headers), hex.join(""), answer.url];
"""
FETCH_TEXT = "return (await fetch(arguments[0], { cache: 'no-store' })).text()"
OPEN_STREAM = """
window.leaving = new AbortController();
const answer = await fetch(arguments[0], { signal: leaving.signal });
window.reader = answer.body.getReader();
"""
READ_PIECE = "return new TextDecoder().decode((await reader.read()).value)"
POST_MANY = """
const answer = await fetch(arguments[0], { method: "POST", body: new Uint8Array(3e6) });
return [answer.status, await answer.text()];
"""


@pytest.fixture
def browser(browser: Browser, place: Place) -> Iterator[Browser]:
    browser.open(place.url + "/page")
    yield browser
    browser.open("about:blank")


@pytest.mark.browser
def test_a_browser_gets_the_answers_of_the_table(
    browser: Browser, place: Place
) -> None:
    for method, path, headers, body, status, some, content in TABLE:
        if path.startswith("/files/page") or not (body is None or headers is FORM):
            continue  # it chooses codings itself, and sends text from here
        what = f"{method} {path} {headers}"
        text = body if body is None else body.decode()
        got = browser.run(FETCH, method, path, headers, text)
        assert (what, got[0]) == (what, status)
        assert (what, {name: got[1].get(name, "") for name in some}) == (what, some)
        if isinstance(content, bytes):
            assert (what, got[2]) == (what, hashlib.sha256(content).hexdigest())


@pytest.mark.browser
def test_a_browser_uses_a_connection_again(browser: Browser) -> None:
    ports = [browser.run(FETCH_TEXT, "/port") for _ in range(10)]
    assert len(set(ports)) < 3  # it may have opened a second one ahead of need


@pytest.mark.browser
def test_a_browser_sends_forms_and_files(
    browser: Browser, place: Place, tmp_path: Path
) -> None:
    browser.type("form[action='/form'] input", "Döner & Co")
    browser.click("#send")
    browser.until(lambda: browser.chrome.current_url[-5:] == "/form", "the answer")
    shown = json.loads(browser.text("pre"))
    assert shown == {"text": "Döner & Co", "tags": []}
    browser.open(place.url + "/page")
    path = tmp_path / "a.bin"
    path.write_bytes(UPLOAD)
    browser.type("input[name=title]", "ein Döner")
    browser.one("input[name=file]").send_keys(str(path))
    browser.click("#upload")
    browser.until(lambda: browser.chrome.title == "Done", "the answer")
    assert json.loads(browser.text("pre")) == UPLOADED


@pytest.mark.browser
def test_a_browser_reads_what_refuses_its_upload(browser: Browser) -> None:
    status, _ = browser.run(POST_MANY, "/small")
    assert status == 413
    status, text = browser.run(POST_MANY, "/stream/x")
    assert (status, json.loads(text)["size"]) == (200, 3_000_000)


@pytest.mark.browser
def test_a_browser_keeps_cookies_unpacks_and_is_sent_elsewhere(
    browser: Browser, place: Place
) -> None:
    browser.run(FETCH_TEXT, "/cookie/set")
    got = browser.run(FETCH_TEXT, "/cookie")
    assert json.loads(got) == ["crème brûlée; a=b", "2"]
    status, headers, digest, _ = browser.run(FETCH, "GET", "/files/page.txt", {}, None)
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert digest == hashlib.sha256(TEXT.encode()).hexdigest()
    got = browser.run(FETCH, "POST", "/redirect/303", FORM, "text=a")
    assert (got[1]["x-method"], got[3]) == ("GET", f"{place.url}/hello")
    got = browser.run(FETCH, "POST", "/redirect/307", FORM, "text=a")
    assert (got[0], got[3]) == (200, f"{place.url}/form")


@pytest.mark.browser
@pytest.mark.parametrize("placement", ["asnc", "stream"])
def test_a_browser_reads_a_stream_as_it_comes_and_may_leave(
    placement: str, browser: Browser, place: Place
) -> None:
    key = f"browser-{next(keys)}"
    os.mkfifo(str(place.files / key))
    browser.run(OPEN_STREAM, f"/events/{placement}/{key}")
    assert browser.run(READ_PIECE) == "one\n"
    place.release(placement, key)
    assert browser.run(READ_PIECE) == "two\n"
    browser.run(OPEN_STREAM, f"/endless/asnc/{key}")
    assert browser.run(READ_PIECE)[:1] == "x"
    browser.run("leaving.abort()")
    place.server.wait_for_log(f"note: left {key}\n")
