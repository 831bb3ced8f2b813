"""The triggers that come along, same_origin, etag and compress, in every placement."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest
from shapes import IS_SINGLE
from support import LOOPS, Answer, Server, serve, server_fixture, wait_for

from pixie_web import (
    HTTPError,
    Pixie,
    Request,
    Response,
    check_preconditions,
    compress,
)
from pixie_web.middleware import COMPRESSION_LEVEL, MIN_COMPRESSED_BYTES
from pixie_web.protocol.http11 import parse_head

PROGRAM = Path(__file__).parents[1] / "programs" / "everyday.py"
PLACES = ["sync", "thread", "asnc", "pool"]
GZIP = {"Accept-Encoding": "gzip"}
TEXT = ("größer " * 500).encode()


server = server_fixture(PROGRAM, LOOPS, also_http2=True)


def request_of(method: str, headers: Dict[str, str], scheme: str = "http") -> Request:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"{method} / HTTP/1.1\r\nHost: example.com\r\n{lines}\r\n"
    return Request(parse_head(head.encode()), scheme=scheme)


# Requests from other sites ------------------------------------------------------------

UNSAFE = ["POST", "PUT", "PATCH", "DELETE"]
ORIGINS: List[Tuple[str, Optional[str], Optional[str], str, bool]] = [
    # what, Sec-Fetch-Site, Origin, Host, whether it passes
    ("no browser", None, None, "a.example", True),
    ("the same origin", "same-origin", "http://a.example", "a.example", True),
    ("the same origin, nothing else", "same-origin", None, "a.example", True),
    ("the same origin behind a proxy", "same-origin", "https://a.example", "b", True),
    ("typed by the user", "none", None, "a.example", True),
    ("another site", "cross-site", "http://b.example", "a.example", False),
    ("another site, no origin", "cross-site", None, "a.example", False),
    (
        "another site with a forged host",
        "cross-site",
        "http://a.example",
        "a.example",
        False,
    ),
    ("another host of the site", "same-site", "http://b.a.example", "a.example", False),
    ("an unknown word", "sideways", None, "a.example", False),
    ("two words", "same-origin, cross-site", None, "a.example", False),
    ("other case", "Same-Origin", None, "a.example", False),
    ("a trusted origin", "cross-site", "https://pay.example", "a.example", True),
    (
        "a trusted host, not its scheme",
        "cross-site",
        "http://pay.example",
        "a.example",
        False,
    ),
    ("an old browser", None, "http://a.example", "a.example", True),
    ("an old browser, other case", None, "http://A.example", "a.EXAMPLE", True),
    ("an old browser with a port", None, "http://a.example:81", "a.example:81", True),
    ("an old browser, default port", None, "http://a.example", "a.example:80", True),
    ("an old browser, another port", None, "http://a.example:81", "a.example", False),
    ("an old browser, another scheme", None, "https://a.example", "a.example", False),
    ("an old browser, another host", None, "http://b.example", "a.example", False),
    ("an old browser, a prefix", None, "http://a.example.b", "a.example", False),
    ("an old browser, no origin to tell", None, "null", "a.example", False),
    ("an old browser, an empty origin", None, "", "a.example", False),
    ("an old browser, trusted", None, "https://pay.example", "a.example", True),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "site, origin, host, passes",
    [pytest.param(*row[1:], id=row[0]) for row in ORIGINS],
)
def test_what_another_site_sends_is_refused(
    site: Optional[str],
    origin: Optional[str],
    host: str,
    passes: bool,
    place: str,
    server: Server,
) -> None:
    headers = {"Host": host}
    headers.update({} if site is None else {"Sec-Fetch-Site": site})
    headers.update({} if origin is None else {"Origin": origin})
    path = f"/{place}/change"
    for method in UNSAFE:
        answer = server.request(method, path, b"", headers)
        assert answer.status == (200 if passes else 403), method
        assert passes or "another site" in answer.text
    for method in ("GET", "HEAD", "OPTIONS"):
        assert server.request(method, path, None, headers).status in (200, 204)


def test_where_nothing_matched_another_site_is_refused_too(server: Server) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert server.request("POST", "/nowhere", b"", headers).status == 403
    assert server.request("POST", "/nowhere", b"").status == 404


@pytest.mark.parametrize("place", PLACES)
def test_a_refusal_costs_no_upload(place: str, server: Server) -> None:
    with server.connect() as one:
        one.sendall(
            f"POST /{place}/change HTTP/1.1\r\nHost: a\r\n"
            "Sec-Fetch-Site: cross-site\r\n"
            "Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert one.recv(65_536).startswith(b"HTTP/1.1 403 ")


def test_the_origin_is_compared_with_what_a_trusted_proxy_says() -> None:
    table = [
        ("https://a.example", "https", "a.example", 200),
        ("http://a.example", "https", "a.example", 403),
        ("http://a.example", "http", "a.example", 200),
        ("https://inside", "https", "a.example", 403),
    ]
    with serve(PROGRAM, trusted_proxies="127.0.0.1", workers=1) as running:
        for origin, scheme, host, status in table:
            headers = {"Host": "inside", "Origin": origin}
            headers.update({"X-Forwarded-Proto": scheme, "X-Forwarded-Host": host})
            for place in PLACES:
                path = f"/{place}/change"
                assert running.request("POST", path, b"", headers).status == status


# Entity tags --------------------------------------------------------------------------


def kept(answer: Answer) -> Dict[str, str]:
    """Return the headers of an answer but those of the server, by lower-case names."""
    own = ("date", "connection", "content-length", "transfer-encoding")
    lines = [(name.lower(), value) for name, value in answer.headers.items()]
    return {name: value for name, value in lines if name not in own}


@pytest.mark.parametrize("place", PLACES)
def test_an_answer_is_tagged_and_asked_for_again(place: str, server: Server) -> None:
    first = server.get(f"/{place}/tagged")
    tag = first.headers["ETag"]
    assert first.text == "tagged"
    assert len(tag) == 34
    assert tag[0] == tag[-1] == '"'
    for header in (tag, f"W/{tag}", f'"x", {tag}', f'W/"y",{tag} , "z"', "*"):
        for method in ("GET", "HEAD"):
            answer = server.request(
                method, f"/{place}/tagged", None, {"If-None-Match": header}
            )
            assert (answer.status, answer.body) == (304, b"")
            assert kept(answer) == {"etag": tag, "x-kept": "1"}
    for header in ('"x"', "x", "", tag.strip('"')):
        answer = server.get(f"/{place}/tagged", {"If-None-Match": header})
        assert (answer.status, answer.text) == (200, "tagged")
    assert server.get(f"/{place}/tagged", {"If-Match": tag}).status == 200
    assert server.get(f"/{place}/tagged", {"If-Match": '"x"'}).status == 412
    head = server.request("HEAD", f"/{place}/tagged")
    assert (head.status, kept(head)) == (200, kept(first))


def test_the_tag_is_the_same_in_every_placement(server: Server) -> None:
    assert len({server.get(f"/{p}/tagged").headers["ETag"] for p in PLACES}) == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_tag_of_ones_own_counts(place: str, server: Server) -> None:
    path = f"/{place}/own-tag"
    answer = server.get(path)
    assert answer.headers["ETag"] == 'W/"v7"'
    again = server.get(path, {"If-None-Match": '"v7"'})
    assert (again.status, again.headers["ETag"]) == (304, 'W/"v7"')
    assert again.headers["Set-Cookie"].startswith("a=")
    assert server.get(path, {"If-Match": 'W/"v7"'}).status == 412  # compared strongly
    posted = server.request("POST", path, b"", {"If-None-Match": '"v7"'})
    assert (posted.status, posted.json) == (200, {"version": 7})


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("accept", ["identity", "gzip"])
def test_a_stream_the_client_has_is_closed_at_once(
    accept: str, place: str, server: Server, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    path = f"/{place}/tagged_pieces?note={note}"
    headers = {"Accept-Encoding": accept}
    assert server.get(path, headers).status == 200
    wait_for(lambda: note.exists() and note.read_text() == "closed", "its end")
    again = server.get(path, {**headers, "If-None-Match": '"v1"'})
    assert (again.status, again.body) == (304, b"")
    wait_for(lambda: note.read_text() == "closedclosed", "the other's end")


@pytest.mark.parametrize("place", PLACES)
def test_an_error_is_not_tagged(place: str, server: Server) -> None:
    answer = server.get(f"/{place}/untagged", {"If-None-Match": "*"})
    assert (answer.status, answer.headers["ETag"]) == (404, None)


PRECONDITIONS: List[Tuple[str, str, Dict[str, str], int]] = [
    # verb, version ("": no such resource), headers, status
    ("GET", "3", {}, 200),
    ("GET", "3", {"If-None-Match": '"3"'}, 304),
    ("GET", "3", {"If-None-Match": '"2"'}, 200),
    ("GET", "3", {"If-Modified-Since": "Sun, 09 Sep 2001 01:46:40 GMT"}, 304),
    ("GET", "3", {"If-Modified-Since": "Sun, 09 Sep 2001 01:46:39 GMT"}, 200),
    ("PUT", "3", {}, 200),
    ("PUT", "3", {"If-Match": '"3"'}, 200),
    ("PUT", "3", {"If-Match": '"1", "3"'}, 200),
    ("PUT", "3", {"If-Match": "*"}, 200),
    ("PUT", "3", {"If-Match": '"2"'}, 412),
    ("PUT", "3", {"If-Match": 'W/"3"'}, 412),
    ("PUT", "3", {"If-None-Match": "*"}, 412),
    ("PUT", "3", {"If-None-Match": '"3"'}, 412),
    ("PUT", "3", {"If-Unmodified-Since": "Sun, 09 Sep 2001 01:46:39 GMT"}, 412),
    ("DELETE", "3", {"If-Match": '"2"'}, 412),
    ("PUT", "", {"If-Match": '"3"'}, 412),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method, version, headers, status", PRECONDITIONS)
def test_conditions_are_met_before_anything_changes(
    method: str,
    version: str,
    headers: Dict[str, str],
    status: int,
    place: str,
    server: Server,
) -> None:
    query = f"?version={version}" if version else ""
    answer = server.request(method, f"/{place}/document{query}", None, headers)
    assert answer.status == status
    if status == 200:
        assert answer.text == f"{method} went on"
    if version:
        assert answer.headers["ETag"] == f'"{version}"'
    if status == 304:
        assert answer.headers["Content-Type"] is None


@pytest.mark.parametrize(
    "headers, is_met",
    [({}, True), ({"If-None-Match": "*"}, True), ({"If-Match": "*"}, False)],
)
def test_what_does_not_exist_can_be_made_once(
    headers: Dict[str, str], is_met: bool
) -> None:
    env = request_of("PUT", headers)
    if is_met:
        check_preconditions(env)
    else:
        with pytest.raises(HTTPError, match="412"):
            check_preconditions(env)
    if "If-None-Match" in headers:
        with pytest.raises(HTTPError, match="412"):
            check_preconditions(env, "1")
        with pytest.raises(HTTPError, match="412"):
            check_preconditions(env, modified=1.5)


@pytest.mark.parametrize("value", ['a"b', "a b", "a\r\nb", "\x7f", "日"])
def test_a_tag_that_can_not_be_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="entity tag"):
        Response("x").etag(value)
    with pytest.raises(ValueError, match="entity tag"):
        check_preconditions(request_of("GET", {}), value)


def test_a_tag_is_made_of_text_bytes_and_json_only() -> None:
    tags = []
    for body in ("x", b"x", {"x": 1}, None):
        response = Response(body)
        response.etag()
        tags.append(response.headers["ETag"])
    assert tags[0] == tags[1] != tags[2] != tags[3]
    with pytest.raises(TypeError, match="has no tag: give one"):
        Response(iter("x")).etag()
    empty = Response(None).settle()
    empty.etag()
    assert empty.content_type is None


# Compression --------------------------------------------------------------------------


def ask(
    server: Server, path: str, accept: Optional[str], method: str = "GET"
) -> Answer:
    headers = {} if accept is None else {"Accept-Encoding": accept}
    return server.request(method, path, None, headers)


ACCEPT = [
    ("gzip", True),
    ("GZIP", True),
    ("x-gzip", True),
    ("br, gzip;q=0.5", True),
    ("*", True),
    ("gzip;q=0.001", True),
    ("gzip;q=1, identity;q=0.5", True),
    ("gzip, identity;q=0", True),
    (None, False),
    ("", False),
    ("identity", False),
    ("br", False),
    ("gzip;q=0", False),
    ("*;q=0", False),
    ("identity;q=0", False),  # 406 would be of less use
    ("gzip;q=0, *", False),
    ("gzip;q=0.5, identity;q=0.8", False),
    ("gzip;q=", False),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("accept, coded", ACCEPT)
def test_the_client_says_whether_it_takes_gzip(
    accept: Optional[str], coded: bool, place: str, server: Server
) -> None:
    answer = ask(server, f"/{place}/long", accept)
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["Content-Encoding"] == ("gzip" if coded else None)
    assert (gzip.decompress(answer.body) if coded else answer.body) == TEXT
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["ETag"].startswith('W/"' if coded else '"')
    assert coded is (len(answer.body) < len(TEXT) // 10)
    head = ask(server, f"/{place}/long", accept, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert kept(head) == kept(answer)
    assert head.headers["Content-Length"] == answer.headers["Content-Length"]


def test_the_bytes_are_the_same_in_every_placement(server: Server) -> None:
    coder = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, 31)
    expected = coder.compress(TEXT) + coder.flush()
    assert {ask(server, f"/{p}/long", "gzip").body for p in PLACES} == {expected}


@pytest.mark.parametrize("place", PLACES)
def test_a_tag_of_the_text_is_good_for_its_gzip(place: str, server: Server) -> None:
    tag = ask(server, f"/{place}/long", "gzip").headers["ETag"]
    for accept in ("gzip", "identity"):
        headers = {"If-None-Match": tag, "Accept-Encoding": accept}
        answer = server.get(f"/{place}/long", headers)
        assert answer.status == 304
        assert kept(answer) == {"etag": tag, "vary": "Accept-Encoding"}


STAYS = [
    # query, status, Vary
    ("short?size=499", 200, None),
    ("long?content-type=image/png", 200, None),
    ("long?content-type=application/zip", 200, None),
    ("long?content-type=application/octet-stream", 200, None),
    ("long?content-type=application/jsonx", 200, None),
    ("long?cache-control=private,%20No-Transform", 200, None),
    ("long?content-encoding=br", 200, None),
    ("long?status=206", 206, None),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path, status, vary", STAYS)
def test_what_gains_nothing_or_must_not_change_stays(
    path: str, status: int, vary: Optional[str], place: str, server: Server
) -> None:
    answer = ask(server, f"/{place}/{path}", "gzip")
    assert (answer.status, answer.headers["Vary"]) == (status, vary)
    assert answer.body in (TEXT, b"x" * 499)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "path",
    [
        f"short?size={MIN_COMPRESSED_BYTES}",
        "json",
        "long?content-type=Text/Plain",
        "long?content-type=application/problem%2Bjson",
        "long?content-type=image/svg%2Bxml",
        "long?content-type=application/javascript;x=y",
        "long?status=404",
        "long?status=500",
        "long?vary=Cookie",
    ],
)
def test_what_gains_is_coded(path: str, place: str, server: Server) -> None:
    answer = ask(server, f"/{place}/{path}", "gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    vary = "Cookie, Accept-Encoding" if "Cookie" in path else "Accept-Encoding"
    assert answer.headers["Vary"] == vary
    plain = gzip.decompress(answer.body)
    if path == "json":
        assert json.loads(plain) == {"text": TEXT.decode()}
    else:
        assert plain in (TEXT, b"x" * MIN_COMPRESSED_BYTES)


@pytest.mark.parametrize("vary", ["*", "accept-ENCODING", "Cookie, Accept-Encoding"])
def test_vary_that_says_it_already_stays(vary: str, server: Server) -> None:
    answer = ask(server, f"/sync/long?vary={vary.replace(' ', '%20')}", "gzip")
    assert answer.headers["Vary"] == vary


@pytest.mark.parametrize("place", PLACES)
def test_who_refuses_the_identity_gets_even_little_by_gzip(
    place: str, server: Server
) -> None:
    answer = ask(server, f"/{place}/short?size=3", "gzip, identity;q=0")
    assert gzip.decompress(answer.body) == b"xxx"


@pytest.mark.parametrize("place", PLACES)
def test_a_file_keeps_its_own_way(place: str, server: Server) -> None:
    answer = ask(server, f"/{place}/file", "gzip")
    assert answer.body == PROGRAM.read_bytes()
    assert answer.headers["Content-Encoding"] is None
    tag = answer.headers["ETag"]
    assert server.get(f"/{place}/file", {"If-None-Match": tag}).status == 304


# Streams ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("count", [0, 1, 3, 500])
def test_a_stream_is_coded(count: int, place: str, server: Server) -> None:
    path = f"/{place}/pieces?to={count}"
    plain = ask(server, path, None)
    coded = ask(server, path, "gzip")
    expected = "".join(["first\n", *(f"{i}\n" for i in range(count)), "last\n"])
    assert plain.text == expected
    assert gzip.decompress(coded.body) == plain.body
    assert coded.headers["Content-Encoding"] == "gzip"
    frames = "chunked" if server.speaks != "h2" else None  # HTTP/2 has its own
    assert coded.headers["Transfer-Encoding"] == frames
    assert plain.headers["Vary"] == coded.headers["Vary"] == "Accept-Encoding"
    head = ask(server, path, "gzip", "HEAD")
    assert kept(head) == kept(coded)


@pytest.mark.parametrize("place", PLACES)
def test_a_coded_stream_that_fails_is_cut(place: str, server: Server) -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(server, f"/{place}/pieces?fail=1", "gzip")
    decoder = zlib.decompressobj(31)
    assert decoder.decompress(caught.value.partial) == b"first\n0\n1\n2\n"
    assert not decoder.eof


@pytest.mark.parametrize("place", PLACES)
def test_each_piece_can_be_read_when_it_has_come(
    place: str, server: Server, tmp_path: Path
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", f"/{place}/waiting?directory={tmp_path}", None, GZIP)
    response = connection.getresponse()
    decoder, text = zlib.decompressobj(31), b""

    def read_until(end: bytes) -> None:
        nonlocal text
        while not text.endswith(end):
            text += decoder.decompress(response.read1(65_536))

    read_until(b"ready\n")
    (tmp_path / "one").touch()
    read_until(b"one\n")
    (tmp_path / "two").touch()
    read_until(b"two\n")
    assert response.read() is not None
    connection.close()


@pytest.mark.parametrize("place", PLACES)
def test_a_client_that_leaves_closes_a_coded_stream(
    place: str, server: Server, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    with server.connect(receive_buffer_bytes=4096) as one:
        request = f"GET /{place}/endless?note={note} HTTP/1.1\r\nHost: a\r\n"
        one.sendall(f"{request}Accept-Encoding: gzip\r\n\r\n".encode())
        assert one.recv(100, socket.MSG_WAITALL).startswith(b"HTTP/1.1 200 ")
    wait_for(note.exists, "the end of the stream")
    assert wait_for(note.read_text, "the count").isdigit()


# A response that the program holds ----------------------------------------------------

HELD = Response("text " * 500, headers={"X-Held": "1"})
CHANGED = Response("sorry")


@pytest.mark.skipif(IS_SINGLE, reason="the test client is in the package")
def test_what_is_made_of_a_response_for_one_request_is_not_sent_to_the_next() -> None:
    app = Pixie(secrets="a secret for tests, long enough")

    def mark(env: Request, response: Response) -> None:
        response.headers.add("X-Mark", "1")
        response.set_cookie("mark", "1")

    def hold(env: Request) -> Response:
        return HELD

    def stream(env: Request) -> Iterator[Any]:
        yield HELD
        yield env.query["piece"]

    def replace(env: Request, response: Response) -> Response:
        return HELD

    app.get("/plain", "sync")(hold)
    app.get("/coded", "sync", after=[compress])(hold)
    app.get("/marked", "sync", after=[mark, mark])(hold)
    app.get("/replaced", "sync", after=[replace, mark])(lambda env: "text")
    app.get("/answered", "sync", before=[hold], after=[mark])(lambda env: "text")
    app.get("/status", "sync")(lambda env: (HELD, 410, {"X-More": "1"}))
    app.get("/stream")(stream)
    for status in (404, 405):
        app.error(status)(lambda env, error: CHANGED)
    with app.test(pool="inline") as client:
        plain = client.get("/plain")
        for path in ("/coded", "/marked", "/replaced", "/answered", "/status"):
            client.get(path, headers={"Accept-Encoding": "gzip"})
            again = client.get("/plain", headers={"Accept-Encoding": "identity"})
            assert dict(again.headers) == dict(plain.headers)
            assert (again.status_code, again.content) == (200, plain.content)
        for piece in ("one", "two"):
            assert client.get(f"/stream?piece={piece}").text == plain.text + piece
        assert HELD.status == 200
        for _ in range(2):
            assert client.post("/plain").status_code == 405
            answer = client.get("/nowhere")
            assert (answer.status_code, answer.headers.get("Allow")) == (404, None)


def test_a_response_of_a_class_of_its_own_stays_one() -> None:
    class Page(Response):
        title = ""

    page = Page("text")
    page.title = "first"
    own = page.own()
    assert (type(own), own.title, own.body) == (Page, "first", "text")  # type: ignore[attr-defined]
    own.headers["X-A"] = "1"
    assert list(page.headers) == []
