"""The client for tests, itself tested."""

from __future__ import annotations

import io
from typing import Any, Iterator

import pytest

from pixie_web import (
    ClientDisconnected,
    Pixie,
    PixieError,
    Response,
    proc_env,
    redirect,
)
from pixie_web.testing import TestClient, client_fixture

app = Pixie(secrets="a secret of sixteen bytes")
events = []
app.on_start(lambda: events.append("start"))
app.on_stop(lambda: events.append("stop"))


@app.route("/where")
def where(env: Any) -> str:
    return proc_env.proc_type.name


@app.route("/echo", "sync", method=["GET", "POST", "PUT", "PATCH", "DELETE"])
def echo(env: Any) -> Any:
    return {
        "method": env.method,
        "query": list(env.query.items()),
        "form": list(env.form.items()),
        "files": [
            (f.name, f.filename, f.size, f.content_type) for f in env.files.values()
        ]
        if hasattr(env.files, "values")
        else [(n, f.filename, f.size, f.content_type) for n, f in env.files.items()],
        "body": env.body.decode("latin-1")[:40],
        "type": (env.header("content-type") or "").partition(";")[0],
        "x": env.header("x-one"),
        "agent": env.header("user-agent"),
        "url": env.url,
        "client": env.client[0],
    }


@app.route("/cookies/set")
def set_cookies(env: Any) -> Response:
    response = Response("set")
    response.set_cookie("signed", {"n": 1}).set_cookie("other", "x", path="/other")
    return response.set_cookie("secret", "x", secure=True)


@app.route("/cookies/read")
def read_cookies(env: Any) -> Any:
    return [env.cookie("signed"), sorted(env.cookies)]


@app.route("/cookies/drop")
def drop_cookie(env: Any) -> Response:
    return Response("dropped").delete_cookie("signed")


@app.route("/go/<n:int>", method=["GET", "POST"])
def go(env: Any, n: int) -> Any:
    if n == 0:
        return env.method + env.text
    return redirect(f"/go/{n - 1}", int(env.query.get("status", 303)))


@app.route("/away", "sync", method=["GET", "POST", "PUT"])
def away(env: Any) -> None:
    redirect(env.query["to"], int(env.query.get("status", 302)))


@app.route("/asked", "sync", method=["GET", "POST", "PUT"])
def asked(env: Any) -> Any:
    names = "host", "authorization", "x-one", "content-type"
    return [env.method, *map(env.header, names), env.query_string]


@app.route("/around")
def around(env: Any) -> None:
    redirect("/around")


@app.route("/numbers")
def numbers(env: Any) -> Iterator[str]:
    for number in range(3):
        yield f"{number}\n"


@app.route("/endless", "sync")
def endless(env: Any) -> Iterator[str]:
    try:
        while True:
            yield "x\n"
    finally:
        events.append("closed")


@app.route("/broken", "sync")
def broken(env: Any) -> Iterator[str]:
    yield "begun"
    raise ValueError("midway")


@app.post("/size", max_body_bytes=400_000)
def size(env: Any) -> str:
    return f"{proc_env.proc_type.name} {len(env.body)}"


client = client_fixture(app, workers=1)


def test_the_pool_is_real_unless_it_is_to_be_inline(client: TestClient) -> None:
    assert client.get("/where").text == "pool"
    assert client.post("/size", content=b"x" * 300_000).text == "pool 300000"
    assert client.post("/size", content=[b"x" * 9] * 9).text == "pool 81"
    assert client.post("/size", content=b"x" * 400_001).status_code == 413


def test_with_runs_the_hooks_and_ends_the_client() -> None:
    events.clear()
    with app.test(pool="inline") as one:
        assert events == ["start"]
        assert one.get("/where").text == "main"
    assert events == ["start", "stop"]
    with pytest.raises(PixieError, match="has ended"):
        one.get("/where")


def test_a_second_client_at_once_is_refused(client: TestClient) -> None:
    with pytest.raises(PixieError, match="another test client"):
        app.test(pool="inline").get("/where")
    assert client.get("/where").text == "pool"


def test_without_with_the_first_request_starts_it() -> None:
    events.clear()
    one = app.test(pool="inline")
    assert events == []
    assert one.get("/where").text == "main"
    one.close()
    assert events == ["start", "stop"]


def test_what_is_asked_arrives(client: TestClient) -> None:
    found = client.get("/echo?a=1", params={"b": [2, 3], "c": "ä"}).json()
    assert found["query"] == [["a", "1"], ["b", "2"], ["b", "3"], ["c", "ä"]]
    assert (found["agent"], found["client"]) == ("pixie-test", "127.0.0.1")
    for method in ("post", "put", "patch", "delete"):
        found = getattr(client, method)("/echo", json={"a": 1}).json()
        assert (found["method"], found["body"]) == (method.upper(), '{"a":1}')
        assert found["type"] == "application/json"
    found = client.post("/echo", data={"a": "ü", "b": [1, 2]}).json()
    assert found["form"] == [["a", "ü"], ["b", "1"], ["b", "2"]]
    files = {"one": b"12345", "two": ('ä".txt', io.BytesIO(b"x"), "text/plain")}
    found = client.post("/echo", data={"a": 1}, files=files).json()
    assert found["form"] == [["a", "1"]]
    assert [one[0] for one in found["files"]] == ["one", "two"]
    assert [one[2:] for one in found["files"]] == [
        [5, "application/octet-stream"],
        [1, "text/plain"],
    ]
    found = client.get("https://elsewhere:81/echo", headers={"X-One": "1"}).json()
    assert (found["x"], found["url"]) == ("1", "https://elsewhere:81/echo")


def test_answers_are_as_httpx_has_them(client: TestClient) -> None:
    answer = client.get("/none")
    assert (answer.status_code, answer.reason_phrase) == (404, "Not Found")
    assert not answer.is_success
    with pytest.raises(PixieError, match="404"):
        answer.raise_for_status()
    answer = client.get("/echo").raise_for_status()
    assert answer.headers["content-TYPE"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert client.head("/echo").content == b""
    assert client.options("/echo").headers["allow"].startswith("DELETE")


def test_cookies_are_kept_where_they_belong(client: TestClient) -> None:
    client.cookies.clear()
    answer = client.get("/cookies/set")
    assert set(answer.cookies) == {"signed", "other", "secret"}
    assert client.get("/cookies/read").json() == [{"n": 1}, ["signed"]]
    assert set(client.get("https://testserver/cookies/read").json()[1]) == {
        "signed",
        "secret",
    }
    client.cookies["own"] = "1"
    assert client.get("/cookies/read").json()[1] == ["own", "signed"]
    del client.cookies["own"]
    with pytest.raises(KeyError):
        del client.cookies["own"]
    client.get("/cookies/drop")
    assert client.get("/cookies/read").json() == [None, []]


def test_redirects_are_followed_on_request(client: TestClient) -> None:
    answer = client.get("/go/2")
    assert (answer.status_code, answer.headers["location"]) == (303, "/go/1")
    answer = client.get("/go/2", follow_redirects=True)
    assert (answer.text, len(answer.history)) == ("GET", 2)
    assert answer.url == "http://testserver/go/0"
    answer = client.post("/go/1", content="body", follow_redirects=True)
    assert answer.text == "GET"
    answer = client.post("/go/1?status=307", content="body", follow_redirects=True)
    assert answer.text == "POSTbody"
    with pytest.raises(PixieError, match="more than 20 redirects"):
        client.get("/around", follow_redirects=True)


def test_a_stream_is_read_as_it_comes_and_left(client: TestClient) -> None:
    with client.stream("GET", "/numbers") as answer:
        assert list(answer.iter_lines()) == ["0", "1", "2"]
    assert client.get("/numbers").text == "0\n1\n2\n"
    events.clear()
    with client.stream("GET", "/endless") as answer:
        assert next(answer.iter_bytes()) == b"x\n"
    assert events == ["closed"]
    with pytest.raises(ClientDisconnected, match="cut off"):
        client.get("/broken")


HERE, THERE = "/asked", "http://other.example/asked"
KEPT = ["testserver", "key", "1"]
STRANGE = ["other.example", None, "1"]


@pytest.mark.parametrize(
    "method, to, status, expected",
    [
        ("get", HERE, 302, ["GET", *KEPT, None]),
        ("Get", THERE, 302, ["GET", *STRANGE, None]),
        ("post", HERE, 301, ["GET", *KEPT, None]),
        ("put", HERE, 301, ["PUT", *KEPT, "text/x"]),
        ("put", HERE, 303, ["GET", *KEPT, None]),
        ("post", THERE, 308, ["POST", *STRANGE, "text/x"]),
    ],
)
def test_a_redirect_keeps_what_it_may(
    client: TestClient, method: str, to: str, status: int, expected: Any
) -> None:
    kind = {} if method.lower() == "get" else {"Content-Type": "text/x"}
    answer = client.request(
        method,
        "/away",
        params={"to": to, "status": status},
        content=b"body" if kind else None,
        headers={"Authorization": "key", "X-One": "1", **kind},
        follow_redirects=True,
    )
    assert answer.json() == [*expected, ""]


def test_a_stream_that_has_ended_is_no_riddle(client: TestClient) -> None:
    with client.stream("GET", "/endless") as response:
        next(response.iter_bytes())
    for read in (response.read, lambda: next(response.iter_bytes())):
        with pytest.raises(PixieError, match="is closed"):
            read()
    response.close()  # once more
    with client.stream("GET", "/numbers") as response:
        assert list(response.iter_lines()) == ["0", "1", "2"]
        with pytest.raises(PixieError, match="was read already"):
            response.read()


def test_what_can_not_be_asked_is_said(client: TestClient) -> None:
    with pytest.raises(PixieError, match="got 'mailto:a@b'"):
        client.get("/away", params={"to": "mailto:a@b"}, follow_redirects=True)
    again = {"params": {"to": HERE, "status": 307}, "follow_redirects": True}
    with pytest.raises(PixieError, match="can't be sent again"):
        client.post("/away", content=iter([b"a"]), **again)


def test_a_query_is_encoded_and_a_host_may_be_named(client: TestClient) -> None:
    found = client.get("/asked?a=ü b%20c", headers={"Host": "named.example"}).json()
    assert (found[1], found[-1]) == ("named.example", "a=%C3%BC%20b%20c")


def test_a_start_that_fails_leaves_nothing_behind() -> None:
    failing = Pixie()
    failing.on_start(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.test(pool="inline").get("/")


def test_a_wrong_option_is_said() -> None:
    with pytest.raises(PixieError, match='"real" or "inline"'):
        app.test(pool="fake")
    with pytest.raises(PixieError, match="no argument 'colour'"):
        app.test(colour=1)
