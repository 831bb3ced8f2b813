"""`app.wsgi` and `app.asgi`, called as servers call them, and in ways that are odd."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from shapes import place_lone_file
from support import PATIENCE_SECONDS, wait_for

from pixie_web import ClientDisconnected, Pixie, ProtocolError, Response
from pixie_web.protocol.canonical import canonical_head, encode_target

Answer = Tuple[int, Dict[str, str], bytes]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Pixie:
    """Return an application whose pool routes run in threads."""
    monkeypatch.setenv("PIXIE_WORKERS", "0")
    monkeypatch.setenv("PIXIE_TRUSTED_PROXIES", "10.0.0.1")
    monkeypatch.setenv("PIXIE_ALLOWED_HOSTS", "a, t, 127.0.0.1")
    made = Pixie()
    made.events = []  # type: ignore[attr-defined]

    @made.route(["/", "/<rest:path>"], "sync", method=["GET", "POST"])
    def echo(env: Any, rest: str = "") -> Any:
        own = env.path, env.root_path, env.url, env.client[0], env.scheme
        return [*own, len(env.body), env.protocol]

    @made.route("/stream", "asnc", method=["GET", "POST"])
    async def stream(env: Any) -> Any:
        try:
            for number in range(1000):
                made.events.append(number)  # type: ignore[attr-defined]
                yield f"{number}\n"
        finally:
            made.events.append("closed")  # type: ignore[attr-defined]

    @made.route("/short", "sync")
    def short(env: Any) -> Any:
        response = Response(iter(["abc"]))
        response.stream_bytes = 5
        return response

    @made.route("/long", "sync")
    def long(env: Any) -> Any:
        response = Response(iter(["abc"]))
        response.stream_bytes = 2
        return response

    @made.route("/unread", "asnc", method="POST", stream_body=True)
    async def unread(env: Any) -> Any:
        try:
            yield "begun"
            if env.query.get("read"):
                made.events.append(await env.source.read())  # type: ignore[attr-defined]
            while True:
                await asyncio.sleep(0)
                yield "on"
        except ClientDisconnected as error:
            made.events.append(str(error))  # type: ignore[attr-defined]
        finally:
            made.events.append("closed")  # type: ignore[attr-defined]

    @made.route("/loop", "asnc")
    async def loop(env: Any) -> str:
        return str(id(asyncio.get_running_loop()))

    return made


# ======================================================================================
# The head
# ======================================================================================

LINES = [(b"Host", b"a"), (b"X-One", b"1")]
BAD_HEADS: Dict[str, Tuple[bytes, bytes, List[Tuple[bytes, bytes]], int]] = {
    "a line break in a value": (b"GET", b"/", [(b"Host", b"a\r\nX: 1")], 400),
    "an end in a value": (b"GET", b"/", [(b"Host", b"a\r\n\r\nGET / HTTP/1.1")], 400),
    "a bare line feed": (b"GET", b"/", [(b"Host", b"a"), (b"X", b"1\n2")], 400),
    "a zero byte": (b"GET", b"/", [(b"Host", b"a"), (b"X", b"\0")], 400),
    "a name with a blank": (b"GET", b"/", [(b"Host", b"a"), (b"X Y", b"1")], 400),
    "a name with a colon": (b"GET", b"/", [(b"Host", b"a"), (b"", b"1")], 400),
    "a blank in the target": (b"GET", b"/a b", LINES, 400),
    "a line break in the target": (b"GET", b"/ HTTP/1.1\r\nX: 1\r\n", LINES, 400),
    "no method": (b"", b"/", LINES, 400),
    "an empty line ahead": (b"\r\nGET", b"/", LINES, 400),
    "no host": (b"GET", b"/", [(b"X", b"1")], 400),
    "two lengths": (
        b"POST",
        b"/",
        [*LINES, (b"Content-Length", b"1"), (b"content-length", b"2")],
        400,
    ),
    "a length and chunks": (
        b"POST",
        b"/",
        [*LINES, (b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")],
        400,
    ),
    "too many lines": (b"GET", b"/", LINES * 60, 431),
    "a long line": (b"GET", b"/", [*LINES, (b"X", b"1" * 9000)], 431),
    "a long target": (b"GET", b"/" * 9000, LINES, 414),
}


@pytest.mark.parametrize(
    "method, target, lines, status", BAD_HEADS.values(), ids=BAD_HEADS
)
def test_parts_that_make_no_head_are_refused(
    method: bytes, target: bytes, lines: List[Tuple[bytes, bytes]], status: int
) -> None:
    with pytest.raises(ProtocolError) as caught:
        canonical_head(method, target, "1.1", lines)
    assert caught.value.status == status


def test_a_head_is_written_as_it_would_come_over_the_wire() -> None:
    head = canonical_head(b"GET", b"/a?b", "1.0", LINES)
    assert head.raw == b"GET /a?b HTTP/1.0\r\nHost: a\r\nX-One: 1\r\n\r\n"
    assert (head.path, head.query_string, head.host) == ("/a", "b", "a")


@pytest.mark.parametrize(
    "path, query, target",
    [
        (b"/", b"", b"/"),
        (b"/a b", b"x=%20", b"/a%20b?x=%20"),
        (b"/100%", b"", b"/100%25"),
        (b"/\xc3\xa4\xff?#", b"", b"/%C3%A4%FF%3F%23"),
    ],
)
def test_a_decoded_path_is_encoded_byte_by_byte(
    path: bytes, query: bytes, target: bytes
) -> None:
    assert encode_target(path, query) == target


# ======================================================================================
# WSGI
# ======================================================================================


def environ(path: str = "/", body: bytes = b"", **more: Any) -> Dict[str, Any]:
    made: Dict[str, Any] = {
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "REMOTE_ADDR": "192.0.2.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": io.BytesIO(body),
        "HTTP_HOST": "a",
    }
    if body:
        made.update(CONTENT_LENGTH=str(len(body)), REQUEST_METHOD="POST")
        made["CONTENT_TYPE"] = "text/plain"
    setup_testing_defaults(made)
    made.update(more)
    return {name: value for name, value in made.items() if value is not None}


def start(app: Pixie, given: Dict[str, Any]) -> Tuple[List[Any], Any]:
    """Call the application; return what it starts with, and its iterable."""
    begun: List[Any] = []

    def start_response(status: str, headers: Any, error: Any = None) -> Any:
        begun[:] = int(status[:3]), dict(headers)
        return lambda data: None

    # The validator takes no environment for one that has this.
    is_valid = "HTTP_CONTENT_LENGTH" not in given
    call = validator(app.wsgi) if is_valid else app.wsgi
    return begun, call(given, start_response)


def ask(app: Pixie, given: Dict[str, Any]) -> Answer:
    begun, iterable = start(app, given)
    try:
        body = b"".join(iterable)
    finally:
        iterable.close()
    return begun[0], begun[1], body


ASKED: Dict[str, Tuple[Dict[str, Any], int, str]] = {
    "plain": ({}, 200, '["/","","http://a/","192.0.2.1","http",0,"HTTP/1.1"]'),
    "under a prefix": (
        {"SCRIPT_NAME": "/\xc3\xa4 b", "PATH_INFO": "/c"},
        200,
        '["/c","/%C3%A4%20b","http://a/%C3%A4%20b/c","192.0.2.1","http",0,"HTTP/1.1"]',
    ),
    "bytes beyond ASCII": (
        {"PATH_INFO": "/\xc3\xa4"},
        200,
        '["/ä","","http://a/%C3%A4","192.0.2.1","http",0,"HTTP/1.1"]',
    ),
    "no path at all": (
        {"PATH_INFO": "", "SCRIPT_NAME": "/x"},
        200,
        '["/","/x","http://a/x/","192.0.2.1","http",0,"HTTP/1.1"]',
    ),
    "HTTP/1.0 without a host": (
        {"HTTP_HOST": None, "SERVER_PROTOCOL": "HTTP/1.0", "SERVER_PORT": "8"},
        200,
        '["/","","http://127.0.0.1:8/","192.0.2.1","http",0,"HTTP/1.0"]',
    ),
    "an empty host": (
        {"HTTP_HOST": "", "SERVER_NAME": "t", "SERVER_PORT": "8", "HTTP_X_Y": "Host"},
        200,
        '["/","","http://t:8/","192.0.2.1","http",0,"HTTP/1.1"]',
    ),
    "a trusted proxy": (
        {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "192.0.2.9"},
        200,
        '["/","","http://a/","192.0.2.9","http",0,"HTTP/1.1"]',
    ),
    "a proxy that nobody trusts": (
        {"HTTP_X_FORWARDED_FOR": "192.0.2.9"},
        200,
        '["/","","http://a/","192.0.2.1","http",0,"HTTP/1.1"]',
    ),
    "another host": ({"HTTP_HOST": "evil"}, 400, "No such host"),
    "a header that no wire has": ({"HTTP_X_Y": "1\n2"}, 400, "CR LF"),
    "text that is no byte": ({"HTTP_X_Y": "\u20ac"}, 400, "a character over U+00FF"),
    "chunks whose end nobody knows": (
        {"REQUEST_METHOD": "POST", "HTTP_TRANSFER_ENCODING": "chunked"},
        411,
        "Content-Length",
    ),
    "a length in the wrong variable": (
        {"HTTP_CONTENT_LENGTH": "9"},
        200,
        '["/","","http://a/","192.0.2.1","http",0,"HTTP/1.1"]',
    ),
}


@pytest.mark.parametrize("more, status, body", ASKED.values(), ids=ASKED)
def test_an_environment_becomes_a_request(
    app: Pixie, more: Dict[str, Any], status: int, body: str
) -> None:
    found = ask(app, environ(**more))
    assert found[0] == status
    assert body in found[2].decode() if status >= 400 else body == found[2].decode()


def test_a_body_is_read_to_its_length_and_no_further(app: Pixie) -> None:
    given = environ("/x", b"12345")
    come = given["wsgi.input"] = io.BytesIO(b"12345GET / HTTP/1.1\r\n")
    assert ask(app, given)[2].decode().endswith('5,"HTTP/1.1"]')
    assert come.tell() == 5


def test_a_body_that_ends_early_is_refused(app: Pixie) -> None:
    given = environ("/x", b"12345", CONTENT_LENGTH="9")
    assert ask(app, given)[0] == 400


def test_chunks_that_the_server_ends_are_read(app: Pixie) -> None:
    given = environ("/x", b"12345", CONTENT_LENGTH=None)
    given.update({"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True})
    assert ask(app, given)[2].decode().endswith('5,"HTTP/1.1"]')


def test_a_stream_is_made_piece_by_piece_and_closed_when_the_client_leaves(
    app: Any,
) -> None:
    _, iterable = start(app, environ("/stream"))
    pieces = iter(iterable)
    assert [next(pieces), next(pieces)] == [b"0\n", b"1\n"]
    assert len(app.events) <= 4  # and not a thousand
    iterable.close()
    wait_for(lambda: app.events[-1] == "closed", "the end of the handler")


def test_a_server_that_takes_no_head_has_the_answer_ended(app: Any) -> None:
    def refuse(status: str, headers: Any, *more: Any) -> Any:
        raise ValueError("a server may refuse a head")

    with pytest.raises(ValueError, match="refuse a head"):
        app.wsgi(environ("/stream"), refuse)
    assert app.events == [0, "closed"]


@pytest.mark.parametrize("path", ["/short", "/long"])
def test_a_stream_that_is_not_as_long_as_it_says_is_cut_off(
    app: Pixie, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Exception, match="cut off"):
        ask(app, environ(path))
    assert "another length than its Content-Length" in caplog.text


def test_many_threads_ask_at_once_and_one_loop_answers(app: Pixie) -> None:
    found: List[bytes] = []

    def several() -> None:
        found.extend(ask(app, environ("/loop"))[2] for _ in range(20))

    threads = [threading.Thread(target=several) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160
    assert len(set(found)) == 1


# ======================================================================================
# ASGI
# ======================================================================================


class Talk:
    """What a server and the application say to each other about a request."""

    def __init__(self, *messages: Dict[str, Any]) -> None:
        self.messages = list(messages)
        self.sent: List[Dict[str, Any]] = []
        self.left = asyncio.Event()
        self.room: Optional[asyncio.Event] = None

    async def receive(self) -> Dict[str, Any]:
        if self.messages:
            return self.messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Dict[str, Any]) -> None:
        self.sent.append(message)
        if self.room is not None and message["type"] == "http.response.body":
            await self.room.wait()

    @property
    def body(self) -> bytes:
        return b"".join(one.get("body", b"") for one in self.sent)


def scope(path: str = "/", **more: Any) -> Dict[str, Any]:
    made = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"a")],
        "client": ("192.0.2.1", 1),
        "server": ("127.0.0.1", 8000),
        **more,
    }
    return {name: value for name, value in made.items() if value is not None}


BODY = {"type": "http.request", "body": b"12345", "more_body": False}
NONE = {"type": "http.request", "body": b"", "more_body": False}
PLAIN = '["/c","","http://a/c","192.0.2.1","http",{},"HTTP/1.1"]'
PREFIXED = '["/c","/x","http://a/x/c","192.0.2.1","http",0,"HTTP/1.1"]'
SCOPES: Dict[str, Tuple[Dict[str, Any], Dict[str, Any], int, str]] = {
    "plain": ({"path": "/c"}, NONE, 200, PLAIN.format(0)),
    "without raw_path": ({"path": "/c", "raw_path": None}, NONE, 200, PLAIN.format(0)),
    "raw_path with a query": ({"raw_path": b"/c?d"}, NONE, 200, PLAIN.format(0)),
    "a path with its prefix": (
        {"raw_path": b"/x/c", "root_path": "/x"},
        NONE,
        200,
        PREFIXED,
    ),
    "a path without its prefix": (
        {"raw_path": b"/c", "root_path": "/x"},
        NONE,
        200,
        PREFIXED,
    ),
    "a prefix, by way of a proxy": (
        {"raw_path": b"/c", "root_path": "/x", "client": ("10.0.0.1", 1)},
        NONE,
        200,
        PREFIXED.replace("192.0.2.1", "10.0.0.1"),
    ),
    "a prefix of which the proxy tells": (
        {
            "raw_path": b"/c",
            "root_path": "/y",
            "client": ("10.0.0.1", 1),
            "headers": [(b"host", b"a"), (b"x-forwarded-prefix", b"/x")],
        },
        NONE,
        200,
        PREFIXED.replace("192.0.2.1", "10.0.0.1"),
    ),
    "HTTP/2 with a body": (
        {"path": "/c", "http_version": "2", "method": "POST"},
        BODY,
        200,
        PLAIN.format(5),
    ),
    "HTTP/2 without": ({"path": "/c", "http_version": "2"}, NONE, 200, PLAIN.format(0)),
    "no client": (
        {"path": "/c", "client": None},
        NONE,
        200,
        PLAIN.format(0).replace("192.0.2.1", ""),
    ),
    "a byte beyond ASCII": ({"raw_path": b"/\xff"}, NONE, 400, "non-ASCII"),
    "another host": ({"headers": [(b"host", b"b")]}, NONE, 400, "No such host"),
    "a body longer than its length": (
        {"headers": [(b"host", b"a"), (b"content-length", b"4")], "method": "POST"},
        BODY,
        400,
        "longer",
    ),
    "a body shorter than its length": (
        {"headers": [(b"host", b"a"), (b"content-length", b"6")], "method": "POST"},
        BODY,
        400,
        "ended",
    ),
}


@pytest.mark.parametrize("more, first, status, body", SCOPES.values(), ids=SCOPES)
def test_a_scope_becomes_a_request(
    app: Pixie, more: Dict[str, Any], first: Dict[str, Any], status: int, body: str
) -> None:
    if "raw_path" not in more and "path" in more:
        more = {**more, "raw_path": more["path"].encode()}

    async def asked() -> Talk:
        talk = Talk(dict(first))
        await app.asgi(scope(**more), talk.receive, talk.send)
        return talk

    talk = asyncio.run(asked())
    assert talk.sent[0]["status"] == status
    found = talk.body.decode()
    assert body in found if status >= 400 else body == found
    assert talk.sent[-1]["more_body"] is False


def test_a_server_that_has_no_room_holds_the_handler_back(app: Any) -> None:
    async def asked() -> None:
        talk = Talk(NONE)
        talk.room = asyncio.Event()
        call = app.asgi(scope("/stream"), talk.receive, talk.send)
        task = asyncio.ensure_future(call)
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(app.events) <= 4
        talk.left.set()
        await task
        assert app.events[-1] == "closed"

    asyncio.run(asked())


UNREAD = {"type": "http.request", "body": b"abc", "more_body": True}


@pytest.mark.parametrize("reads", [False, True])
def test_a_client_that_leaves_behind_a_body_nobody_reads_ends_its_stream(
    app: Any, reads: bool
) -> None:
    given = scope(
        "/unread",
        method="POST",
        headers=[(b"host", b"a"), (b"transfer-encoding", b"chunked")],
        query_string=b"read=1" if reads else b"",
    )

    async def asked() -> None:
        talk = Talk(UNREAD, UNREAD, NONE)
        if not reads:
            talk.left.set()  # which is said behind the body
        await asyncio.wait_for(app.asgi(given, talk.receive, talk.send), 20)

    asyncio.run(asked())
    refused = ["the body was dropped when the answer began"] if reads else []
    assert app.events == [*refused, "closed"]


def test_each_loop_has_a_life_of_its_own_and_its_hooks(app: Any) -> None:
    app.on_start(lambda: app.events.append("start"))
    app.on_stop(lambda: app.events.append("stop"))

    async def asked() -> None:
        talk = Talk(NONE)
        await app.asgi(scope("/loop"), talk.receive, talk.send)
        assert talk.sent[0]["status"] == 200

    for _ in range(2):
        asyncio.run(asked())
    assert app.events == ["start", "stop"] * 2
    assert ask(app, environ("/loop"))[0] == 200  # by a thread, which is still there
    asyncio.run(asked())
    assert app.events == ["start", "stop"] * 4
    kept = asyncio.new_event_loop()
    kept.run_until_complete(asked())
    asyncio.run(asked())  # while another loop waits, neither running nor closed
    assert app.events == ["start", "stop"] * 6
    kept.close()


def test_two_loops_at_work_at_once_are_refused(app: Any) -> None:
    _, iterable = start(app, environ("/stream"))

    async def asked() -> int:
        talk = Talk(NONE)
        await app.asgi(scope("/loop"), talk.receive, talk.send)
        return int(talk.sent[0]["status"])

    assert asyncio.run(asked()) == 500
    iterable.close()
    assert asyncio.run(asked()) == 200


def test_a_start_that_fails_is_said_to_the_server(app: Any) -> None:
    app.on_start(lambda: 1 / 0)

    async def lived() -> Talk:
        talk = Talk({"type": "lifespan.startup"})
        await app.asgi({"type": "lifespan"}, talk.receive, talk.send)
        return talk

    assert asyncio.run(lived()).sent[0]["type"] == "lifespan.startup.failed"


def test_a_websocket_is_refused_ahead_of_its_handshake(app: Any) -> None:
    async def asked() -> Talk:
        talk = Talk({"type": "websocket.connect"})
        await app.asgi({"type": "websocket"}, talk.receive, talk.send)
        return talk

    assert [one["type"] for one in asyncio.run(asked()).sent] == ["websocket.close"]


# ======================================================================================
# Other callers
# ======================================================================================


def test_an_application_is_itself_what_a_server_takes_it_for(app: Any) -> None:
    begun: List[Any] = []
    iterable = app(environ("/loop"), lambda *args: begun.append(args[0]))
    iterable.close()
    assert begun == ["200 OK"]

    async def asked(version: int) -> int:
        talk = Talk(NONE)
        if version == 2:
            await app(scope("/loop"))(talk.receive, talk.send)
        else:
            await app(scope("/loop"), talk.receive, talk.send)
        return int(talk.sent[0]["status"])

    assert [asyncio.run(asked(2)), asyncio.run(asked(3))] == [200, 200]


def test_the_transports_of_httpx_ask_it(app: Any) -> None:
    httpx = pytest.importorskip("httpx")
    with httpx.Client(
        transport=httpx.WSGITransport(app.wsgi), base_url="http://a"
    ) as client:
        assert client.post("/x", content=b"12345").json()[5] == 5

    async def asked() -> Any:
        transport = httpx.ASGITransport(app.asgi)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://a"
        ) as client:
            return (await client.post("/x", content=b"12345")).json()

    assert asyncio.run(asked())[5] == 5


def test_the_client_of_starlette_asks_it(app: Any) -> None:
    testing = pytest.importorskip("starlette.testclient")
    app.on_start(lambda: app.events.append("start"))
    app.on_stop(lambda: app.events.append("stop"))
    with testing.TestClient(app.asgi, base_url="http://a") as client:
        assert client.post("/x", content=b"12345").json()[5] == 5
        assert len(client.get("/stream").text.splitlines()) == 1000
    assert (app.events[0], app.events[-1]) == ("start", "stop")


def test_the_client_of_werkzeug_asks_it(app: Any) -> None:
    werkzeug = pytest.importorskip("werkzeug.test")
    client = werkzeug.Client(app.wsgi)
    response = client.post("/x", data=b"12345", base_url="http://a")
    assert response.get_json()[5] == 5


PROGRAM = """\
import asyncio, io, os
from pixie_web import Pixie, proc_env

app = Pixie()

@app.route("/type")
def type_of_process(env):
    return proc_env.proc_type.name

def ask():
    environ = {"PATH_INFO": "/type", "REQUEST_METHOD": "GET", "HTTP_HOST": "a",
               "wsgi.input": io.BytesIO()}
    iterable = app.wsgi(environ, lambda *args: None)
    body = b"".join(iterable)
    iterable.close()
    return body.decode()

if __name__ == "__main__":
    print(ask(), flush=True)
    if os.fork() == 0:  # as a server that has been asked forks one more
        print(ask(), flush=True)
        raise SystemExit
    os.wait()
    print(ask(), flush=True)
"""


def test_the_pool_is_real_and_a_forked_process_has_its_own(tmp_path: Path) -> None:
    place_lone_file(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        # Python 3.12 warns of a fork beside threads; here the program does it.
        [sys.executable, "-W", "ignore::DeprecationWarning", "program.py"],
        cwd=str(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.stderr, done.stdout) == ("", "pool\npool\npool\n")
