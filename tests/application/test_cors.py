"""Pages of other origins: preflights, and who may read which answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from shapes import IS_SINGLE
from support import LOOPS, Answer, Server, server_fixture

from pixie_web import Pixie, Request, Response, RouteError, cors

PROGRAM = Path(__file__).parents[1] / "programs" / "crossing.py"
PLACES = ["sync", "thread", "asnc", "pool"]
PAGE = "https://page.example"

server = server_fixture(PROGRAM, LOOPS[:1])


def shown(answer: Answer) -> Dict[str, str]:
    """Return the headers of an answer that are about other origins."""
    found = {name.lower(): value for name, value in answer.headers.items()}
    return {
        name.replace("access-control-", ""): value
        for name, value in found.items()
        if name.startswith("access-control-") or name == "vary"
    }


def preflight(
    server: Server, path: str, origin: Optional[str], method: str = "PUT"
) -> Answer:
    headers = {"Access-Control-Request-Method": method}
    if origin is not None:
        headers["Origin"] = origin
    return server.request("OPTIONS", path, None, headers)


ALLOWED = {"allow-origin": PAGE, "allow-credentials": "true", "vary": "Origin"}
READABLE = {**ALLOWED, "expose-headers": "X-Total"}
ASKED = {
    **READABLE,
    "allow-headers": "Content-Type, X-Token",
    "max-age": "60",
}


# Preflights ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_preflight_is_answered_ahead_of_triggers_and_routes(
    place: str, server: Server
) -> None:
    # `nobody_async` would refuse it: a preflight has no Authorization.
    answer = preflight(server, f"/{place}/ordinary", PAGE)
    assert (answer.status, answer.body) == (204, b"")
    assert shown(answer) == {**ASKED, "allow-methods": "GET, HEAD, OPTIONS, PUT"}


@pytest.mark.parametrize("place", PLACES)
def test_a_route_for_options_is_not_called_for_a_preflight(
    place: str, server: Server
) -> None:
    for origin in (PAGE, "https://evil.example"):
        assert preflight(server, f"/{place}/options", origin).status == 204
    headers = {"Authorization": "x", "Origin": PAGE}
    path = f"/{place}/options"
    own = server.request("OPTIONS", path, None, headers)
    assert (own.status, own.text, shown(own)) == (200, "its own", READABLE)


def test_a_preflight_waits_for_no_body(server: Server) -> None:
    with server.connect() as one:
        one.sendall(
            b"OPTIONS /pool/ordinary HTTP/1.1\r\nHost: a\r\n"
            b"Origin: https://page.example\r\nAccess-Control-Request-Method: PUT\r\n"
            b"Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert one.recv(65_536).startswith(b"HTTP/1.1 204 ")


def test_a_preflight_for_a_page_that_is_not_there_lets_its_404_be_read(
    server: Server,
) -> None:
    asked = shown(preflight(server, "/nowhere", PAGE, "DELETE"))
    assert asked["allow-methods"] == "DELETE"
    strange = shown(preflight(server, "/nowhere", PAGE, "DE,LETE\x85"))
    assert "allow-methods" not in strange


# Who may ------------------------------------------------------------------------------

ORIGINS: List[Any] = [
    (None, None),
    (PAGE, PAGE),
    ("http://localhost:3000", "http://localhost:3000"),
    ("http://page.example", None),
    ("https://page.example:443", None),
    ("https://page.example:8443", None),
    ("https://PAGE.example", None),
    ("https://page.example/", None),
    ("https://page.example.evil.example", None),
    ("https://evilpage.example", None),
    ("https://sub.page.example", None),
    ("https://page.example, https://evil.example", None),
    ("http://localhost", None),
    ("null", None),
    ("", None),
    ("*", None),
]


@pytest.mark.parametrize("origin, allowed", ORIGINS)
def test_an_origin_is_compared_to_the_letter(
    origin: Optional[str], allowed: Optional[str], server: Server
) -> None:
    headers = {"Authorization": "x"}
    headers.update({} if origin is None else {"Origin": origin})
    for path in ("/sync/ordinary", "/pool/ordinary"):
        answer = server.get(path, headers)
        assert (answer.status, answer.text) == (200, "text")
        expected = dict(READABLE, vary="Accept, Origin")
        if allowed is None:
            expected = {"vary": "Accept, Origin"}
        else:
            expected["allow-origin"] = allowed
        assert shown(answer) == expected
    if allowed is None and origin is not None:
        asked = preflight(server, "/sync/ordinary", origin)
        assert (asked.status, shown(asked)) == (204, {"vary": "Origin"})


def test_two_origin_headers_are_none(server: Server) -> None:
    with server.connect() as one:
        one.sendall(
            b"GET /inner/page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            b"Origin: https://evil.test\r\nOrigin: https://a.example\r\n\r\n"
        )
        data = b"".join(iter(lambda: one.recv(65_536), b""))
    assert b"200 OK" in data
    assert b"Access-Control" not in data


INNER = [
    ("https://a.example", True),
    ("https://a.test", False),
    ("null", False),
    ("https://evil.test, https://a.example", False),
    ("https://evil.test/.example", False),
    ("chrome-extension://abcdef.example", True),
    ("https://[::1]:8443", False),
]


@pytest.mark.parametrize("origin, allowed", INNER)
def test_a_function_says_whose_pages_may(
    origin: str, allowed: bool, server: Server
) -> None:
    answer = server.get("/inner/page", {"Origin": origin})
    assert answer.text == "inner"
    more = {"allow-origin": origin} if allowed else {}
    assert shown(answer) == {"vary": "Origin", **more}


# Errors -------------------------------------------------------------------------------

ERRORS = [
    ("GET", "/nowhere", 404),
    ("DELETE", "/sync/ordinary", 405),
    ("GET", "/slow", 504),
    ("GET", "/dies", 502),
    ("GET", "/missing", 404),
    *(("GET", f"/{place}/fails", 500) for place in PLACES),
    *(("GET", f"/{place}/unsendable", 500) for place in PLACES),
    *(("GET", f"/{place}/ordinary?replace", 200) for place in PLACES),
    *(("GET", f"/{place}/ordinary?break", 500) for place in PLACES),
]


@pytest.mark.parametrize("method, path, status", ERRORS)
def test_errors_can_be_read_by_a_page(
    method: str, path: str, status: int, server: Server
) -> None:
    headers = {"Authorization": "x", "Origin": PAGE}
    answer = server.request(method, path, None, headers)
    assert (answer.status, shown(answer)) == (status, READABLE)
    headers["Origin"] = "https://evil.example"
    answer = server.request(method, path, None, headers)
    assert (answer.status, shown(answer)) == (status, {"vary": "Origin"})


def test_what_refuses_ahead_of_the_body_can_be_read(server: Server) -> None:
    for body, headers, status in [
        (b"", {}, 401),
        (b"x" * 11, {"Authorization": "x"}, 413),
        (b"x" * 10, {"Authorization": "x"}, 200),
    ]:
        headers = {**headers, "Origin": PAGE}
        answer = server.request("POST", "/little", body, headers)
        assert (answer.status, shown(answer)) == (status, READABLE)


def test_a_stream_can_be_read(server: Server) -> None:
    answer = server.get("/stream", {"Authorization": "x", "Origin": PAGE})
    assert (answer.text, shown(answer)) == ("first last", READABLE)


# One route, an application ------------------------------------------------------------


def test_a_route_has_a_policy_in_place_of_its_application(server: Server) -> None:
    headers = {"Authorization": "x", "Origin": "https://anybody.test"}
    assert shown(server.get("/open", headers)) == {"allow-origin": "*"}
    asked = shown(preflight(server, "/open", "https://anybody.test", "GET"))
    assert asked == {
        "allow-origin": "*",
        "allow-methods": "GET, HEAD, OPTIONS",
        "allow-headers": "Content-Type",
        "max-age": "600",
    }


def test_a_policy_for_one_method_opens_no_other(server: Server) -> None:
    headers = {"Origin": PAGE}
    assert shown(preflight(server, "/partly/page", PAGE, "GET"))["allow-origin"] == "*"
    assert shown(server.get("/partly/page", headers)) == {"allow-origin": "*"}
    asked = preflight(server, "/partly/page", PAGE, "POST")
    assert (asked.status, shown(asked)) == (204, {})
    ours = server.request("POST", "/partly/page", b"", headers)
    assert (ours.text, shown(ours)) == ("ours", {})


WRONG: List[Any] = [
    (("*",), {"credentials": True}, "exclude each other"),
    ((["*"],), {"credentials": True}, "exclude each other"),
    ((iter(["*"]),), {"credentials": True}, "exclude each other"),
    ((PAGE,), {"credentials": True, "methods": "*"}, "exclude each other"),
    ((PAGE,), {"credentials": True, "headers": ["*"]}, "exclude each other"),
    ((PAGE,), {"credentials": True, "expose": "*"}, "exclude each other"),
    ((PAGE,), {"headers": ["*", "X-A"]}, "got both"),
    ((["*", PAGE],), {}, "as browsers send it"),
    (("null",), {}, "as browsers send it"),
    (("page.example",), {}, "as browsers send it"),
    (("https://page.example/",), {}, "as browsers send it"),
    (("https://Page.example",), {}, "as browsers send it"),
    (("https://page.example:443",), {}, "as browsers send it"),
    (("http://page.example:80",), {}, "as browsers send it"),
    (("https://*.example",), {}, "write a function"),
    (("https://münchen.example",), {}, "xn--"),
    ((PAGE + "\r\nX: y",), {}, "as browsers send it"),
    ((7,), {}, "as browsers send it"),
    ((b"https://page.example",), {}, "as browsers send it"),
    ((PAGE,), {"methods": "PUT, DELETE"}, "methods are names"),
    ((PAGE,), {"expose": ["X-A\r\n"]}, "response headers are names"),
    ((PAGE,), {"max_age": -1}, "whole seconds"),
    ((PAGE,), {"max_age": 1.5}, "whole seconds"),
    ((PAGE,), {"max_age": True}, "whole seconds"),
]


@pytest.mark.parametrize("arguments, options, message", WRONG)
def test_a_wrong_policy_is_refused_where_it_is_written(
    arguments: Any, options: Any, message: str
) -> None:
    with pytest.raises(RouteError, match=message):
        cors(*arguments, **options)


def test_a_coroutine_function_says_yes_to_all_and_is_refused() -> None:
    async def allowed(origin: str) -> bool:
        return False

    with pytest.raises(RouteError, match="plain def"):
        cors(allowed)


def test_two_policies_at_one_place_are_refused() -> None:
    app = Pixie()
    app.before(cors(PAGE, credentials=True))
    app.before(cors("*"))
    app.get("/", "sync")(lambda env: "text")
    with pytest.raises(RouteError, match=r"cors\(...\) stands there twice"):
        app.freeze()
    app = Pixie()
    both = [cors("https://a.example"), cors("https://b.example")]
    app.get("/", "sync", before=both)(lambda env: "text")
    with pytest.raises(RouteError, match=r"cors\(...\) stands there twice"):
        app.freeze()


@pytest.mark.skipif(IS_SINGLE, reason="the test client is in the package")
def test_a_trigger_of_another_kind_takes_no_policy_away() -> None:
    class Marks:
        def __call__(self, env: Request) -> None:
            env.context["mark"] = "1"

        def after(self, env: Request, response: Response) -> None:
            response.headers["X-Mark"] = env.context.get("mark", "0")

    app = Pixie()
    app.before(cors(PAGE))
    app.get("/", "sync", before=[Marks(), Marks()])(lambda env: "text")
    with app.test(pool="inline") as client:
        answer = client.get("/", headers={"Origin": PAGE})
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert answer.headers["X-Mark"] == "1"
        asked = {"Origin": PAGE, "Access-Control-Request-Method": "GET"}
        answer = client.options("/", headers=asked)
        assert answer.status_code == 204
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
