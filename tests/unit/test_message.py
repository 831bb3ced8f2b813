"""Request and Response."""

from __future__ import annotations

import io
import os
import re
import tempfile
import threading
from datetime import date, datetime, timedelta, timezone
from http import HTTPStatus
from typing import Any, BinaryIO, Callable, Dict, List, Optional, cast

import pytest

from pixie_web import (
    BadValue,
    HTTPError,
    PixieError,
    Request,
    Response,
    abort,
    redirect,
)
from pixie_web.forms import BodyFile
from pixie_web.protocol.http11 import parse_head
from pixie_web.requests import BodySource, Disconnect, log_failure
from pixie_web.responses import (
    FileSlice,
    StaticFile,
    error_page,
    is_stream,
    open_stream,
    to_chunk,
    to_response,
)

HTML = b"Content-Type: text/html; charset=utf-8\r\n"
OCTETS = b"Content-Type: application/octet-stream\r\n"
JSON = b"Content-Type: application/json\r\n"


def request_of(
    target: str = "/", *lines: str, body: bytes = b"", **more: Any
) -> Request:
    head = "\r\n".join([f"POST {target} HTTP/1.1", "Host: pixie.example:80", *lines])
    request = Request(parse_head(head.encode("latin-1") + b"\r\n\r\n"), **more)
    request.body = body
    return request


# Request ------------------------------------------------------------------------------


def test_a_request_tells_what_stands_in_its_head() -> None:
    request = request_of("/gr%C3%B6%C3%9Fe/a%2Fb?x=%20&y", client=("10.0.0.1", 5))
    got = [request.method, request.path, request.query_string, request.protocol]
    assert got == ["POST", "/größe/a/b", "x=%20&y", "HTTP/1.1"]
    assert (request.scheme, request.host) == ("http", "pixie.example:80")
    assert request.url == "http://pixie.example:80/gr%C3%B6%C3%9Fe/a/b?x=%20&y"
    assert request.client == ("10.0.0.1", 5)
    assert request.raw_head.startswith(b"POST /gr%C3%B6")
    assert repr(request) == "<Request POST /gr%C3%B6%C3%9Fe/a%2Fb?x=%20&y>"


def test_the_path_is_what_follows_the_prefix() -> None:
    request = request_of("/admin/users")
    request.prefix = "/admin"
    assert (request.path, request.url) == (
        "/users",
        "http://pixie.example:80/admin/users",
    )
    request.prefix = "/admin/users"
    assert request.path == "/"


def test_headers_compare_without_regard_to_case() -> None:
    request = request_of("/", "X-One: 1", "x-one: 2", "Empty:")
    assert request.headers["X-ONE"] == "1, 2"
    assert request.header("x-one") == "1, 2"
    assert request.header("empty") == ""
    assert request.header("none") is None
    assert request.header("none", "default") == "default"
    assert request.headers is request.headers


HEADER_NAMES = [
    *("x-one", "X-ONE", "x-two", "X-Latin", "empty", "cookie", "host", "Connection"),
    # None of these is there, whatever stands in another's value.
    *("x", "one", "x-one:", "x-two: x-one", "x-three", "t /", "", " ", "\r\nx-one"),
    *(
        "a\r\nx-one",
        "x-two: x\r\ncookie",
        "\u212aey",
        "\xe9",
        "\ud800",
        "?",
        "key\u0130",
    ),
]


@pytest.mark.parametrize("name", HEADER_NAMES, ids=ascii)
def test_a_header_is_the_same_whether_all_have_been_parsed_or_not(name: str) -> None:
    lines = [
        *("X-One: 1", "x-two: x-one: 5", "X-ONE:\t2 \t", "Empty:", "Cookie: a=b; c"),
        *("X-Latin: \xe9\xff", "cookie:d=e", "x-three-: 3", "Key: 5"),
    ]
    request, parsed = request_of("/", *lines), request_of("/", *lines)
    value = parsed.headers.get(name)
    assert request.header(name) == value == parsed.header(name)
    assert request.header(name, "none") == parsed.header(name, "none")


def test_the_query_is_a_multi_dict() -> None:
    query = request_of("/?a=1&a=2&b=%C3%BC+x&c&n=x").query
    assert (query["a"], query.getall("a"), query["b"], query["c"]) == (
        *("2", ["1", "2"], "ü x", ""),
    )
    assert query.get("m", 7, type=int) == 7
    assert query.get("a", type=int) == 2
    with pytest.raises(BadValue):
        query.get("n", 7, type=int)


def test_a_missing_value_is_a_400_and_a_key_error() -> None:
    with pytest.raises(KeyError) as missing:
        request_of("/").query["a"]
    assert isinstance(missing.value, HTTPError)
    assert missing.value.status == 400
    assert str(missing.value) == "400 The request lacks the value 'a'."


def test_too_many_query_fields_are_a_413() -> None:
    with pytest.raises(HTTPError) as refused:
        assert request_of("/?" + "&" * 2000).query
    assert refused.value.status == 413


def test_cookies_come_from_all_cookie_lines() -> None:
    request = request_of("/", "Cookie: a=1; b=%C3%BC", "Cookie: a=2; c=3")
    assert request.cookies == {"a": "1", "b": "ü", "c": "3"}
    assert (request.cookie("b"), request.cookie("d"), request.cookie("d", "x")) == (
        *("ü", None, "x"),
    )
    assert request_of("/").cookies == {}


def test_the_body_is_bytes_and_text() -> None:
    request = request_of("/", body="größe".encode())
    assert (request.body, request.text) == ("größe".encode(), "größe")


def test_text_is_read_in_the_charset_that_it_names() -> None:
    for charset, data, text in [
        ("utf-8", "größe".encode(), "größe"),
        ("ISO-8859-1", b"gr\xf6\xdfe", "größe"),
        ("windows-1252", b"\x80", "€"),
        ("us-ascii", b"x", "x"),
    ]:
        line = f"Content-Type: text/plain; charset={charset}"
        assert request_of("/", line, body=data).text == text
    for charset, status in (("us-ascii", 400), ("windows-1252", 400), ("utf-16", 415)):
        line = f"Content-Type: text/plain; charset={charset}"
        with pytest.raises(HTTPError, match=str(status)):
            assert request_of("/", line, body=b"\x81").text


def test_text_that_is_not_utf_8_is_a_400() -> None:
    with pytest.raises(HTTPError) as refused:
        assert request_of("/", body=b"\xff").text
    assert refused.value.status == 400


def test_a_spooled_body_is_read_from_its_file() -> None:
    request = request_of("/", "Content-Type: application/x-www-form-urlencoded")
    request._body = None
    request.spool([b"a=1&", b"b=2"])
    assert request.form["b"] == "2"
    assert request.body == b"a=1&b=2"
    request.close()
    assert request.body == b"a=1&b=2"


def test_a_body_that_has_not_arrived_says_so() -> None:
    request = Request(parse_head(b"GET / HTTP/1.0\r\n\r\n"), source=BodySource())
    with pytest.raises(PixieError, match="has not arrived yet"):
        assert request.body


@pytest.mark.parametrize(
    "kind",
    ["application/json", "APPLICATION/JSON; charset=utf-8", "application/a+json"],
)
def test_json_is_read_where_the_type_says_so(kind: str) -> None:
    assert request_of("/", f"Content-Type: {kind}", body=b'{"a":1}').json == {"a": 1}


@pytest.mark.parametrize(
    "kind, body, status",
    [
        ("text/plain", b"{}", 415),
        ("", b"{}", 415),
        ("application/jsonp", b"{}", 415),
        ("application/json", b"", 400),
        ("application/json", b"{", 400),
        ("application/json", b"\xff", 400),
        ("application/json", b"NaN", 400),
        ("application/json", b"[Infinity]", 400),
        ("application/json", b"[" * 200_000, 400),
    ],
)
def test_what_is_no_json_is_refused(kind: str, body: bytes, status: int) -> None:
    with pytest.raises(HTTPError) as refused:
        assert request_of("/", f"Content-Type: {kind}", body=body).json
    assert refused.value.status == status


def test_a_form_is_parsed_once() -> None:
    kind = "Content-Type: application/x-www-form-urlencoded"
    request = request_of("/", kind, body=b"a=1&a=%C3%BC")
    assert request.form.getall("a") == ["1", "ü"]
    assert request.form is request.form
    assert len(request.files) == 0


def test_the_form_of_another_body_is_empty() -> None:
    request = request_of("/", "Content-Type: text/plain", body=b"a=1")
    assert len(request.form) == 0


def test_close_runs_what_after_response_collected_once() -> None:
    calls: List[str] = []
    request = request_of("/")
    request.after_response(lambda: calls.append("a"))
    request.after_response(lambda: calls.append("b"))
    request.close()
    request.close()
    assert calls == ["a", "b"]


def spooled_upload(content: bytes) -> Request:
    disposition = b'Content-Disposition: form-data; name="f"; filename="a"'
    request = request_of("/", "Content-Type: multipart/form-data; boundary=e")
    request._body = None
    request.spool([b"--e\r\n" + disposition + b"\r\n\r\n", content, b"\r\n--e--\r\n"])
    return request


def test_a_spooled_body_is_gone_when_its_request_has_ended() -> None:
    request = spooled_upload(b"x" * 100_000)
    upload = request.files["f"]
    assert upload.file.read(1) == b"x"
    request.close()
    with pytest.raises(ValueError, match="its request has ended; read or save it"):
        upload.file.read()
    with pytest.raises(ValueError, match="its request has ended"):
        upload.save(io.BytesIO())
    with pytest.raises(ValueError, match="its request has ended"):
        assert request.body


def test_a_spooled_body_is_there_for_whoever_holds_it() -> None:
    request = spooled_upload(b"x" * 100_000)
    handler = object()
    body_file = request.body_file
    assert body_file is not None
    body_file.hold(handler)
    request.close()
    request.close()
    assert request.files["f"].file.read() == b"x" * 100_000
    body_file.release(handler)
    with pytest.raises(ValueError, match="its request has ended"):
        body_file.read_at(0)


def test_what_after_response_collected_still_reads_the_body() -> None:
    request = spooled_upload(b"x" * 100_000)
    seen: List[bytes] = []
    request.after_response(lambda: seen.append(request.files["f"].file.read()))
    request.close()
    assert seen == [b"x" * 100_000]


def test_a_body_that_is_released_while_a_thread_reads_is_closed_by_the_thread() -> None:
    class Slow(io.FileIO):
        def read(self, size: int = -1) -> bytes:  # type: ignore[override]
            reading.set()
            assert go_on.wait(30)
            return super().read(size) or b""

    reading, go_on = threading.Event(), threading.Event()
    descriptor, path = tempfile.mkstemp()
    os.write(descriptor, b"own")
    os.close(descriptor)
    file = Slow(path)
    os.unlink(path)
    body_file = BodyFile(cast(BinaryIO, file))
    body_file.hold(1)
    found: List[bytes] = []
    thread = threading.Thread(target=lambda: found.append(body_file.read_at(0)))
    thread.start()
    assert reading.wait(30)
    body_file.release(1)  # waits for nothing
    assert not file.closed
    go_on.set()
    thread.join()
    assert found == [b"own"]
    assert file.closed


def test_disconnect_calls_back_once() -> None:
    calls: List[str] = []
    disconnect = Disconnect()
    request = request_of("/", disconnect=disconnect)

    def removed() -> None:
        calls.append("removed")

    disconnect.add(lambda: calls.append("one"))
    disconnect.add(removed)
    disconnect.remove(removed)
    disconnect.remove(removed)
    assert (request.disconnected, calls) == (False, [])
    disconnect.set()
    disconnect.set()
    assert (request.disconnected, calls) == (True, ["one"])
    disconnect.add(lambda: calls.append("late"))
    assert calls == ["one", "late"]
    assert request_of("/").disconnected is False


# Response -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, status, block, body",
    [
        ("ü", 200, HTML, "ü".encode()),
        ("", 200, HTML, b""),
        (b"x", 200, OCTETS, b"x"),
        (bytearray(b"x"), 200, OCTETS, b"x"),
        (memoryview(b"x"), 200, OCTETS, b"x"),
        ({"a": "ü"}, 200, JSON, '{"a":"ü"}'.encode()),
        ([1, None], 200, JSON, b"[1,null]"),
        (None, 204, b"", b""),
        (("x", 201), 201, HTML, b"x"),
        ((b"x", 404), 404, OCTETS, b"x"),
        (([], 400), 400, JSON, b"[]"),
        ((None, 200), 200, b"", b""),
        (("x", 204), 204, b"", b"x"),
        (("x", 304), 304, b"", b"x"),
        (("x", 200, {"X-A": "1"}), 200, HTML + b"X-A: 1\r\n", b"x"),
        (("x", 200, [("X-A", "ü")]), 200, HTML + b"X-A: \xfc\r\n", b"x"),
        (("x", 200, {"content-type": "a/b"}), 200, b"content-type: a/b\r\n", b"x"),
        (("x", 200, {}), 200, HTML, b"x"),
        ((Response("x", 500, "a/b"), 201), 201, b"Content-Type: a/b\r\n", b"x"),
        (Response("x"), 200, HTML, b"x"),
        (Response({"a": 1}, 400), 400, JSON, b'{"a":1}'),
        (Response(None), 200, b"", b""),
        (
            Response("x", content_type="text/csv"),
            200,
            b"Content-Type: text/csv\r\n",
            b"x",
        ),
    ],
)
def test_what_a_handler_may_return(
    value: object, status: int, block: bytes, body: bytes
) -> None:
    response = to_response(value)
    assert (response.status, response.header_block(), response.body) == (
        *(status, block, body),
    )


@pytest.mark.parametrize(
    "value, error, message",
    [
        ({1}, TypeError, "a handler returns str, bytes, dict.*, not set"),
        (5, TypeError, "not int"),
        (object(), TypeError, "not object"),
        (Response, TypeError, "not type"),
        (Response(5), TypeError, "not int"),  # type: ignore[arg-type]
        (({1}, 200), TypeError, "not set"),
        (("x",), TypeError, r"a tuple is \(body, status\[, headers\]\), not \(str\)"),
        ((), TypeError, "a tuple is"),
        (("x", "200"), TypeError, r"not \(str, str\)"),
        (("x", True), TypeError, r"not \(str, bool\)"),
        (("x", 200, {}, 1), TypeError, "a tuple is"),
        ((("x", 200), 200), TypeError, "not tuple"),
        (("x", 99), ValueError, "a status is a number from 200 to 999, got 99"),
        (("x", 200, {"a b": "1"}), ValueError, "token"),
        ({"a": {1}}, TypeError, "set"),
        ({"a": float("inf")}, ValueError, "not JSON compliant"),
        ("\ud800", ValueError, "surrogates not allowed"),
    ],
)
def test_what_a_handler_may_not_return(
    value: object, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        to_response(value)


@pytest.mark.parametrize("status", [0, 100, 199, 1000, -1, 200.0, "200", None, True])
def test_a_status_is_a_number_from_200_to_999(status: Any) -> None:
    with pytest.raises(ValueError, match="a status is a number from 200 to 999"):
        Response("", status)


def test_files_and_iterators_are_left_for_later() -> None:
    file = StaticFile("/a")
    assert to_response(Response(file)).body is file
    part = FileSlice("/a", 0, 1)
    assert to_response(Response(part)).body is part
    pieces = iter(["a"])
    assert to_response(pieces).body is pieces
    assert is_stream(pieces)
    assert not is_stream(["a"])


def test_headers_keep_their_order_and_win_over_the_content_type() -> None:
    response = Response("x", headers=[("X-B", "2"), ("X-A", "1"), ("x-b", "3")])
    assert response.settle().header_block() == (
        HTML + b"X-B: 2\r\nx-b: 3\r\nX-A: 1\r\n"
    )
    response.headers["Content-Type"] = "text/x"
    assert response.content_type == "text/x"
    assert HTML not in response.header_block()
    assert b"Content-Type: text/x\r\n" in response.header_block()


def test_the_content_type_may_be_set_anew() -> None:
    response = Response("x", headers={"Content-Type": "text/x"})
    response.content_type = "text/y"
    assert response.header_block() == b"Content-Type: text/y\r\n"
    sealed = response.seal()
    assert sealed.content_type == "text/y"
    sealed.content_type = "text/z"
    assert sealed.header_block() == b"Content-Type: text/z\r\n"


@pytest.mark.parametrize("name", ["Content-Length", "date", "Content-LENGTH"])
def test_what_only_the_server_knows_is_dropped(name: str) -> None:
    assert (
        Response("x", headers={name: "5", "X-A": "1"}).header_block() == b"X-A: 1\r\n"
    )


@pytest.mark.parametrize(
    "name",
    ["Connection", "keep-alive", "Proxy-Connection", "TE", "Trailer"]
    + ["Transfer-Encoding", "UPGRADE"],
)
def test_what_belongs_to_the_connection_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"the server sets {name}"):
        Response("x", headers={name: "x"}).header_block()


@pytest.mark.parametrize("bad", ["a\rb", "a\nb", "a\r\nSet-Cookie: x=1", "a\0b", "€"])
@pytest.mark.parametrize(
    "make",
    [
        lambda bad: Response("", headers={"X-A": bad}),
        lambda bad: Response("", headers=[("X-A", "1"), ("X-A", bad)]),
        lambda bad: Response("").headers.add("X-A", bad),
        lambda bad: Response("").headers.update({"X-A": bad}),
        lambda bad: Response("").headers.setdefault("X-A", bad),
        lambda bad: Response("", content_type=bad).header_block(),
        lambda bad: Response("", headers={bad: "x"}),
        lambda bad: Response("").set_cookie(bad, "x"),
        lambda bad: Response("").set_cookie("a", "b", path=bad),
        lambda bad: Response("").set_cookie("a", "b", expires=bad),
        lambda bad: Response("").set_cookie("a", "b", samesite=bad),
    ],
)
def test_line_ends_and_the_like_are_refused_at_the_call(
    make: Callable[[str], Any], bad: str
) -> None:
    with pytest.raises(ValueError):
        make(bad)


@pytest.mark.parametrize("bad", ["\r", "\n", "\r\nSet-Cookie: x=1", "\0", "\x7f", ";"])
@pytest.mark.parametrize(
    "begins", [{"path": "/ü"}, {"domain": "b.c"}, {"domain": "ü.c"}]
)
def test_nothing_follows_a_cookies_path_or_domain(
    begins: Dict[str, str], bad: str
) -> None:
    for name, text in begins.items():
        for attributes in ({name: text + bad}, {name: text + bad + "x"}):
            with pytest.raises(ValueError):
                Response("x").set_cookie("a", "b", **attributes)  # type: ignore[arg-type]


A_DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
LAX = "HttpOnly; SameSite=Lax"
COOKIE_TABLE: List[Any] = [
    ({}, "a=b; Path=/; HttpOnly; SameSite=Lax"),
    ({"max_age": 60}, "a=b; Max-Age=60; Path=/; HttpOnly; SameSite=Lax"),
    ({"max_age": 0}, "a=b; Max-Age=0; Path=/; HttpOnly; SameSite=Lax"),
    ({"max_age": 1.5}, "a=b; Max-Age=1; Path=/; HttpOnly; SameSite=Lax"),
    (
        {"max_age": timedelta(days=1)},
        "a=b; Max-Age=86400; Path=/; HttpOnly; SameSite=Lax",
    ),
    *(
        ({"expires": moment, "path": None}, f"a=b; Expires={A_DATE}; {LAX}")
        for moment in (
            datetime(1994, 11, 6, 8, 49, 37),
            datetime(1994, 11, 6, 8, 49, 37, tzinfo=timezone.utc),
            datetime(1994, 11, 6, 9, 49, 37, tzinfo=timezone(timedelta(hours=1))),
            "Sunday, 06-Nov-94 08:49:37 GMT",
        )
    ),
    *(
        ({"expires": moment, "path": None}, f"a=b; Expires={text} GMT; {LAX}")
        for moment, text in (
            (date(2030, 1, 1), "Tue, 01 Jan 2030 00:00:00"),
            (datetime(1601, 1, 1), "Mon, 01 Jan 1601 00:00:00"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59"),
        )
    ),
    (
        {"expires": 784111777},
        "a=b; Expires=Sun, 06 Nov 1994 08:49:37 GMT; Path=/; HttpOnly; SameSite=Lax",
    ),
    (
        {"expires": "Sun, 06 Nov 1994 08:49:37 GMT"},
        "a=b; Expires=Sun, 06 Nov 1994 08:49:37 GMT; Path=/; HttpOnly; SameSite=Lax",
    ),
    ({"path": "/x"}, "a=b; Path=/x; HttpOnly; SameSite=Lax"),
    ({"path": None}, "a=b; HttpOnly; SameSite=Lax"),
    ({"path": "/a b/%20"}, "a=b; Path=/a%20b/%20; HttpOnly; SameSite=Lax"),
    ({"path": "/münchen"}, "a=b; Path=/m%C3%BCnchen; HttpOnly; SameSite=Lax"),
    ({"path": "/東京"}, "a=b; Path=/%E6%9D%B1%E4%BA%AC; HttpOnly; SameSite=Lax"),
    ({"domain": "b.c"}, "a=b; Path=/; Domain=b.c; HttpOnly; SameSite=Lax"),
    ({"domain": ".b.c", "path": None}, f"a=b; Domain=.b.c; {LAX}"),
    ({"domain": "127.0.0.1", "path": None}, f"a=b; Domain=127.0.0.1; {LAX}"),
    *(
        ({"domain": name, "path": None}, f"a=b; Domain=xn--mnchen-3ya.de; {LAX}")
        for name in ("münchen.de", ".MÜNCHEN.de", "xn--mnchen-3ya.de")
    ),
    ({"secure": True}, "a=b; Path=/; Secure; HttpOnly; SameSite=Lax"),
    ({"secure": False}, "a=b; Path=/; HttpOnly; SameSite=Lax"),
    ({"httponly": False}, "a=b; Path=/; SameSite=Lax"),
    ({"samesite": "Strict"}, "a=b; Path=/; HttpOnly; SameSite=Strict"),
    ({"samesite": "None"}, "a=b; Path=/; Secure; HttpOnly; SameSite=None"),
    ({"samesite": None}, "a=b; Path=/; HttpOnly"),
    (
        {"partitioned": True},
        "a=b; Path=/; Secure; HttpOnly; SameSite=Lax; Partitioned",
    ),
]


@pytest.mark.parametrize("attributes, line", COOKIE_TABLE)
def test_a_cookies_attributes(attributes: Dict[str, Any], line: str) -> None:
    response = Response("x")
    assert response.set_cookie("a", "b", **attributes) is response
    assert response.header_block() == f"Set-Cookie: {line}\r\n".encode()


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("setting", [True, False, None])
def test_a_cookie_is_secure_when_the_request_was(
    secure: bool, setting: Optional[bool]
) -> None:
    response = Response("x")
    response.set_cookie("a", "b", secure=setting)
    expected = secure if setting is None else setting
    assert (b"; Secure" in response.header_block(secure)) is expected


@pytest.mark.parametrize(
    "value, sent",
    [
        ("plain", "plain"),
        ("", ""),
        ("ü", "%C3%BC"),
        ("a b;c,d", "a%20b%3Bc%2Cd"),
        ('"', "%22"),
        ("100%", "100%25"),
        ("a\r\nb", "a%0D%0Ab"),
    ],
)
def test_a_cookies_value_comes_back_as_it_was(value: str, sent: str) -> None:
    block = Response("x", cookies={"a": value}).header_block().decode()
    line = re.findall("Set-Cookie: (a=[^;]*)", block)[0]
    assert line == f"a={sent}"
    assert request_of("/", f"Cookie: {line}").cookie("a") == value


@pytest.mark.parametrize(
    "name, attributes",
    [
        ("__Host-a", {"path": "/x"}),
        ("__Host-a", {"path": None}),
        ("__Host-a", {"domain": "b.c"}),
        ("__host-A", {"secure": False}),
        ("__Secure-a", {"secure": False}),
        ("a", {"samesite": "lazy"}),
        ("a", {"samesite": "None", "secure": False}),
        ("a", {"partitioned": True, "secure": False}),
        ("a b", {}),
        ("", {}),
        ("a=", {}),
        ("a;", {}),
        ("a", {"path": "/;x"}),
        ("a", {"path": "x"}),
        ("a", {"path": ""}),
        ("a", {"path": "/" + "x" * 1024}),
        ("a", {"path": "/" + "ü" * 200}),
        *(
            ("a", {"domain": domain})
            for domain in (
                *(
                    "",
                    ".",
                    "a..b",
                    "a.b.",
                    "a.b:80",
                    "https://a.b",
                    "a.b/c",
                    "a b",
                    "*.a",
                ),
                *("ü..de", "ü" * 70 + ".de", "ü.de:80"),
                *("straße.de", "\uff45xample.com", "ü。de"),  # of another host
            )
        ),
        *(
            ("a", {"expires": moment})
            for moment in (
                *(1_800_000_000_000, 253_402_300_800, -11_644_473_601, float("nan")),
                *(float("inf"), datetime(1, 1, 1), date(1600, 12, 31)),
                *("2030-01-01", "tomorrow", "", "1893456000"),
            )
        ),
    ],
)
def test_a_cookie_that_no_browser_takes_is_refused(
    name: str, attributes: Dict[str, Any]
) -> None:
    with pytest.raises(ValueError):
        Response("x").set_cookie(name, "x", **attributes)


@pytest.mark.parametrize("name", ["__Host-a", "__Secure-a"])
def test_a_prefixed_cookie_is_secure_by_itself(name: str) -> None:
    block = Response("x", cookies={name: "1"}).header_block(False)
    assert b"; Secure" in block


def test_a_cookie_is_deleted_where_it_was_set() -> None:
    response = Response("x").delete_cookie("a", path="/x", domain="b.c")
    response.delete_cookie("__Host-b", partitioned=True)
    ended = b"Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    assert response.header_block() == (
        b"Set-Cookie: a=; "
        + ended
        + b"; Path=/x; Domain=b.c; HttpOnly; SameSite=Lax\r\n"
        b"Set-Cookie: __Host-b=; " + ended + b"; Path=/; "
        b"Secure; HttpOnly; SameSite=Lax; Partitioned\r\n"
    )


def test_what_changes_a_response_returns_it() -> None:
    """Or `return Response(...).set_cookie(...)` would be a 204, without a word."""
    response = Response("x")
    assert response.set_cookie("a", "b").delete_cookie("c").etag("v7") is response
    assert to_response(response).header_block().count(b"Set-Cookie") == 2


def test_a_sealed_response_can_be_changed() -> None:
    response = Response("x", 201, headers={"X-A": "1"}, cookies={"a": "b"}).settle()
    sealed = response.seal()
    block = response.header_block()
    assert (sealed.header_block(), sealed.status, sealed.body) == (block, 201, b"x")
    assert sealed.seal() is sealed
    sealed.headers["X-B"] = "2"
    sealed.set_cookie("c", "d")
    assert sealed.header_block() == (
        block + b"X-B: 2\r\nSet-Cookie: c=d; Path=/; HttpOnly; SameSite=Lax\r\n"
    )
    assert response.header_block() == block


@pytest.mark.parametrize(
    "status", ["201 Created", "201", None, 99, 199, 1000, -200, True, 200.0, [200]]
)
def test_a_status_that_is_none_is_refused_where_it_is_set(status: Any) -> None:
    response = Response("x", 404)
    for way in (
        lambda: setattr(response, "status", status),
        lambda: Response("x", status),
        lambda: HTTPError(status),
    ):
        with pytest.raises(ValueError, match="a status is a number from 200 to 999"):
            way()
    assert response.status == 404


def test_a_status_may_be_of_the_standard_library() -> None:
    response = Response("x", HTTPStatus.CREATED)
    assert (response.status, type(response.status)) == (201, int)
    response.status = HTTPStatus.ACCEPTED
    assert (response.status, type(response.status)) == (202, int)
    assert to_response(("x", HTTPStatus.NOT_FOUND)).status == 404
    assert repr(HTTPError(HTTPStatus.GONE, "")) == "HTTPError(410, '')"


@pytest.mark.parametrize("name", ["start", "user", "foo_bar"])
def test_a_request_takes_no_attributes_but_its_own(name: str) -> None:
    request = request_of("/")
    for way in (lambda: setattr(request, name, 1), lambda: getattr(request, name)):
        with pytest.raises(AttributeError) as refused:
            way()
        log_failure(request, refused.value)  # where a handler has not caught it
        text = str(refused.value)
        assert f"no attribute '{name}'" in text
        assert text.endswith("; values of your own go into env.context, a dict")
    with pytest.raises(AttributeError) as refused:
        setattr("a string", name, 1)
    log_failure(request, refused.value)
    assert "env.context" not in str(refused.value)


def test_a_thread_that_finds_no_room_says_which_limit_counts_it() -> None:
    for text, hint in (("can't start new thread", True), ("no thread", False)):
        error = RuntimeError(text)
        log_failure(request_of("/"), error)
        assert ("; worker_memory_limit_bytes counts stacks" in str(error)) is hint


def test_a_response_says_what_it_is() -> None:
    assert repr(Response("x", 404)) == "<Response 404 str>"


# Streams ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, chunk",
    [
        ("ü", b"\xc3\xbc"),
        (b"x", b"x"),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
    ],
)
def test_a_chunk_is_text_or_bytes(value: object, chunk: bytes) -> None:
    assert to_chunk(value) == chunk


@pytest.mark.parametrize("value", [None, 1, {"a": 1}, ["x"], Response("x")])
def test_another_chunk_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="a stream yields str or bytes, not"):
        to_chunk(value)


@pytest.mark.parametrize(
    "first, status, block, chunk",
    [
        ("x", 200, HTML, b"x"),
        (b"x", 200, OCTETS, b"x"),
        (None, 200, b"", b""),
        (Response("x", 404), 404, HTML, b"x"),
        (Response(None, 201, "a/b"), 201, b"Content-Type: a/b\r\n", b""),
        (Response({"a": 1}), 200, JSON, b'{"a":1}'),
    ],
)
def test_the_first_chunk_decides(
    first: object, status: int, block: bytes, chunk: bytes
) -> None:
    pieces = iter(["never pulled"])
    response, got = open_stream(Response(pieces), first)
    assert (response.status, response.header_block(), got) == (status, block, chunk)
    assert response.body is pieces


@pytest.mark.parametrize(
    "first", [1, Response(iter(["x"])), Response(StaticFile("/a"))]
)
def test_a_first_chunk_that_can_not_be_is_refused(first: object) -> None:
    with pytest.raises(TypeError):
        open_stream(Response(iter([])), first)


# abort, redirect, the error page ------------------------------------------------------


def test_abort_raises_an_http_error() -> None:
    with pytest.raises(HTTPError) as raised:
        abort(418, "no coffee")
    assert (raised.value.status, raised.value.text) == (418, "no coffee")
    with pytest.raises(HTTPError) as raised:
        abort(404)
    assert str(raised.value) == "404 Not Found"
    assert raised.value.json is None


@pytest.mark.parametrize(
    "value, body",
    [
        ({"text": "<b>ü</b>"}, '{"text":"<b>ü</b>"}'.encode()),
        ([1, None], b"[1,null]"),
        ({}, b"{}"),
        ([], b"[]"),
    ],
)
def test_abort_with_a_dict_or_a_list_is_json(value: Any, body: bytes) -> None:
    with pytest.raises(HTTPError) as raised:
        abort(422, value)
    error = raised.value
    assert (error.json, error.text) == (value, "Unprocessable Content")
    assert str(error) == "422 Unprocessable Content"
    error.headers["X-A"] = "b"
    response = error_page(error)
    assert (response.status, response.body) == (422, body)
    assert response.header_block() == b"Content-Type: application/json\r\nX-A: b\r\n"


@pytest.mark.parametrize("status", [99, 100, 199, 1000, "404", None, True])
def test_abort_takes_a_status_that_can_be_sent(status: Any) -> None:
    with pytest.raises(ValueError, match="a status is a number from 200 to 999"):
        abort(status)


@pytest.mark.parametrize(
    "url, location",
    [
        ("/a", "/a"),
        ("/größe?ü=ß#x", "/gr%C3%B6%C3%9Fe?%C3%BC=%C3%9F#x"),
        ("/a%20b", "/a%20b"),
        ("/a b", "/a%20b"),
        ("https://example.com/a?b=c&d", "https://example.com/a?b=c&d"),
        ("?page=2", "?page=2"),
        ("next", "next"),
        ("/\t/evil.example", "/%09/evil.example"),
        ("//evil.example", "/evil.example"),
        ("/\\evil.example", "/evil.example"),
        ("///evil.example", "/evil.example"),
        ("/\\/evil.example", "/evil.example"),
        ("https://[::1]:8000/", "https://[::1]:8000/"),
    ],
)
def test_redirect_gives_a_location(url: str, location: str) -> None:
    with pytest.raises(HTTPError) as raised:
        redirect(url)
    assert raised.value.status == 303
    assert raised.value.headers == {"Location": location}


@pytest.mark.parametrize(
    "url", ["/a\r\nSet-Cookie: x=1", "/a\nb", "/a\0", "/ü\r\nX: 1", "/\x7f"]
)
def test_a_redirect_with_control_characters_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        redirect(url)


@pytest.mark.parametrize("status", [200, 304, 404, 299, "303"])
def test_a_redirect_has_a_status_that_redirects(status: Any) -> None:
    with pytest.raises(ValueError, match="a redirect's status is"):
        redirect("/", status)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_may_have_another_status(status: int) -> None:
    with pytest.raises(HTTPError) as raised:
        redirect("/", status)
    assert raised.value.status == status


def test_the_error_page_escapes_what_it_shows() -> None:
    page = error_page(HTTPError(400, "<b>&"), "<i>trace")
    assert page.status == 400
    body = bytes(page.body)  # type: ignore[arg-type]
    assert b"<h1>400 Bad Request</h1>" in body
    assert b"<p>&lt;b&gt;&amp;</p>" in body
    assert b"<pre>&lt;i&gt;trace</pre>" in body
    assert page.header_block() == HTML


def test_the_error_page_has_no_page_where_there_is_no_body() -> None:
    assert error_page(HTTPError(304)).body == b""
    assert b"<p>" not in bytes(error_page(HTTPError(404)).body)  # type: ignore[arg-type]


def test_an_error_may_bring_headers() -> None:
    page = error_page(HTTPError(503, "", {"Retry-After": "5"}))
    assert page.header_block() == HTML + b"Retry-After: 5\r\n"


# Signed cookies -----------------------------------------------------------------------


SECRET = "s3cret, s3cret, s3cret"


def request_with_cookie(pair: str) -> Request:
    raw = f"GET / HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n".encode()
    return Request(parse_head(raw))


def signed_pair(name: str = "user", **options: Any) -> str:
    response = Response()
    response.set_cookie(name, {"id": 7}, secret=SECRET, **options)
    block = response.header_block().decode()
    return block.partition("Set-Cookie: ")[2].partition(";")[0]


def test_a_signed_cookie_comes_back_as_the_value_that_was_set() -> None:
    env = request_with_cookie(signed_pair())
    assert env.cookie("user", secret=SECRET) == {"id": 7}
    assert env.cookie("user", secret=["the new one, of today", SECRET], max_age=60) == {
        "id": 7
    }


@pytest.mark.parametrize(
    "pair, secret",
    [
        (signed_pair(), "another one, not theirs"),
        (signed_pair()[:-1], SECRET),
        (signed_pair("other").replace("other=", "user="), SECRET),
        ("user=plain", SECRET),
    ],
    ids=["another secret", "cut short", "of another name", "not signed"],
)
def test_a_signed_cookie_that_is_not_right_is_not_there(pair: str, secret: str) -> None:
    env = request_with_cookie(pair)
    assert env.cookie("user", "nobody", secret=secret) == "nobody"
