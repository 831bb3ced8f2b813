"""WSGI applications below a path of ours."""

from __future__ import annotations

import sys
from typing import Any, Dict, Iterator, List
from wsgiref.validate import validator

import pytest
from support import wait_for

from pixie_web import ClientDisconnected, Pixie, RouteError
from pixie_web.testing import TestClient

events: List[str] = []


class Body:
    """A WSGI body that is closed."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        events.append("closed")


def echo(environ: Dict[str, Any], start_response: Any) -> Any:
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
    names = "REQUEST_METHOD SCRIPT_NAME PATH_INFO QUERY_STRING SERVER_NAME SERVER_PORT"
    values = [environ[name] for name in [*names.split(), "REMOTE_ADDR"]]
    values += [environ.get("HTTP_X_ONE", "-"), environ.get("HTTP_X_TWO", "-")]
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-N", str(len(body)))])
    return [repr(values).encode()]


def odd(environ: Dict[str, Any], start_response: Any) -> Any:
    path = environ["PATH_INFO"]
    if path == "/fails":
        raise ValueError("on purpose")
    if path == "/silent":
        return []
    if path == "/late":
        return late(start_response)
    if path == "/midway":
        start_response("200 OK", [("Content-Length", "9")])
        return Body(b"half")
    if path == "/written":
        start_response("200 OK", [("Content-Type", "text/plain")])(b"written ")
        return Body(b"", b"and given")
    if path == "/cookies":
        start_response("204 No Content", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        return []
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Body(*[b"x" * 1000] * 1000)


def late(start_response: Any) -> Iterator[bytes]:
    start_response("201 Created", [("Content-Type", "text/plain")])
    yield b"late"


@pytest.fixture
def client() -> Iterator[TestClient]:
    events.clear()
    app = Pixie()
    app.mount("/echo", validator(echo))
    app.mount("/odd", odd)
    with app.test(pool="inline") as one:
        yield one


def test_a_request_is_an_environment(client: TestClient) -> None:
    headers = {"X-One": "1", "X_Two": "2"}
    answer = client.post("/echo/%C3%A4%20b?q=%20", content=b"12345", headers=headers)
    path = "/ä b".encode().decode("latin-1")
    expected = [
        "POST",
        "/echo",
        path,
        "q=%20",
        "testserver",
        "80",
        "127.0.0.1",
        "1",
        "-",
    ]
    assert answer.text == repr(expected)
    assert answer.headers["x-n"] == "5"
    assert client.get("/echo").text.startswith("['GET', '/echo', '/', ''")
    large = client.put("/echo/x", content=b"x" * 700_000)
    assert large.headers["x-n"] == "700000"


def test_an_answer_is_what_the_application_made(client: TestClient) -> None:
    assert client.get("/odd/written").text == "written and given"
    answer = client.get("/odd/late")
    assert (answer.status_code, answer.text) == (201, "late")
    answer = client.get("/odd/cookies")
    assert answer.headers.getall("set-cookie") == ["a=1", "b=2"]
    assert len(client.get("/odd/large").content) == 1_000_000
    assert events == ["closed", "closed"]


def test_a_client_that_leaves_closes_it(client: TestClient) -> None:
    with client.stream("GET", "/odd/large") as answer:
        assert len(next(answer.iter_bytes())) == 1000
    wait_for(lambda: events, "the end of the body")
    assert events == ["closed"]


def test_what_goes_wrong_is_logged_with_its_mount(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.get("/odd/fails").status_code == 500
    assert "mounted at /odd failed" in caplog.text
    assert client.get("/odd/silent").status_code == 500
    with pytest.raises(ClientDisconnected):
        client.get("/odd/midway")


HEADS = [
    ([("Content-Length", "3"), ("content-length", "3 ")], 200),
    ([("Content-Length", "3"), ("Content-Length", "4")], 500),
    ([("Content-Length", "-3")], 500),
    ([("Content-Length", "+3")], 500),
    ([("Content-Length", "\u0663")], 500),
    ([("Content-Length", "3" * 20)], 500),
    ([("Proxy-Connection", "close"), ("Keep-Alive", "1"), ("TE", "x")], 200),
    ([("X-One", "1\r\nSet-Cookie: a=1")], 500),
    ([("X-One: 1\r\nSet-Cookie", "a=1")], 500),
]


@pytest.mark.parametrize("headers, status", HEADS)
def test_a_head_is_an_answers_own_or_none(headers: Any, status: int) -> None:
    def hosted(environ: Dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", headers)
        return Body(b"abc")

    app = Pixie()
    app.mount("/old", hosted)
    events.clear()
    with app.test() as client:
        answer = client.get("/old/")
    assert (answer.status_code, events) == (status, ["closed"])
    assert status == 500 or answer.text == "abc"
    assert {*answer.headers} <= {"Content-Type", "Content-Length"}


@pytest.mark.parametrize(
    "status, headers, body, expected",
    [
        ("204 No Content", [("Content-Length", "5")], Body(b"body!"), {}),
        ("304 Not Modified", [("ETag", '"x"')], Body(b"body!"), {"ETag": '"x"'}),
        ("304 Not Modified", [("ETag", '"x"')], [b""], {"ETag": '"x"'}),
    ],
)
def test_an_answer_without_a_body_says_nothing_of_one(
    status: str, headers: Any, body: Any, expected: Dict[str, str]
) -> None:
    app = Pixie()
    app.mount("/old", lambda _, start: start(status, headers) and body)
    with app.test() as one:
        answer = one.get("/old/")
    assert (answer.content, dict(answer.headers.items())) == (b"", expected)


@pytest.mark.parametrize(
    "headers, body, length",
    [
        ([], [], None),  # it saves itself the body, as many do
        ([], [b"body!"], "5"),
        ([("Content-Length", "5")], [], "5"),
        ([("Content-Length", "5")], [b"body!"], "5"),
    ],
)
def test_head_tells_the_length_of_the_answer_to_get_or_none(
    headers: Any, body: Any, length: Any
) -> None:
    app = Pixie()
    app.mount("/old", lambda _, start: start("200 OK", headers) and body)
    with app.test() as one:
        answer = one.head("/old/")
    assert (answer.content, answer.headers.get("content-length")) == (b"", length)


def test_a_second_start_ends_an_answer_that_has_begun_and_replaces_another() -> None:
    def hosted(environ: Dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/begun":
            yield b"begun"
        try:
            raise ValueError("on purpose")
        except ValueError:
            start_response("503 No", [], sys.exc_info())
        yield b"replaced"

    app = Pixie()
    app.mount("/old", hosted)
    with app.test() as one:
        answer = one.get("/old/")
        assert (answer.status_code, answer.text) == (503, "replaced")
        with pytest.raises(ClientDisconnected):
            one.get("/old/begun")


def test_a_client_does_not_name_the_proxy_of_the_application() -> None:
    def hosted(environ: Dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return [environ.get("HTTP_PROXY", "none").encode()]

    app = Pixie()
    app.mount("/old", hosted)
    with app.test() as one:
        assert one.get("/old/", headers={"Proxy": "http://bad/"}).text == "none"


def test_what_is_no_application_is_refused() -> None:
    with pytest.raises(RouteError, match="mount takes an application"):
        Pixie().mount("/a", "text")  # type: ignore[arg-type]


def test_flask_with_sessions_moves_in() -> None:
    flask = pytest.importorskip("flask")
    old = flask.Flask("old")
    old.secret_key = "secret"

    @old.route("/count")
    def count() -> Any:
        flask.session["n"] = flask.session.get("n", 0) + 1
        return f"{flask.session['n']} {flask.url_for('count')}"

    @old.post("/upload")
    def upload() -> Any:
        return {"size": len(flask.request.files["file"].read())}

    app = Pixie()
    app.mount("/old", old)
    with app.test(pool="inline") as client:
        assert client.get("/old/count").text == "1 /old/count"
        assert client.get("/old/count").text == "2 /old/count"
        answer = client.post("/old/upload", files={"file": b"x" * 700_000})
        assert answer.json() == {"size": 700_000}
        assert client.get("/old/none").status_code == 404


def test_django_moves_in() -> None:
    django = pytest.importorskip("django")
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import path, reverse

    def index(request: Any) -> Any:
        name = request.POST.get("name", "")
        return HttpResponse(f"{request.method} {reverse('index')} {name}")

    settings.configure(
        ROOT_URLCONF=(path("index", index, name="index"),),
        ALLOWED_HOSTS=["testserver"],
        SECRET_KEY="secret",
        USE_TZ=True,
    )
    django.setup()
    from django.core.wsgi import get_wsgi_application

    app = Pixie()
    app.mount("/old", get_wsgi_application())
    with app.test(pool="inline") as client:
        assert client.get("/old/index").text == "GET /old/index "
        answer = client.post("/old/index", data={"name": "ü"})
        assert answer.text == "POST /old/index ü"
        assert client.get("/old/none").status_code == 404
