"""Routes, mounts, triggers and error handlers, over the wire."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from support import LOOPS, Server, read_all, read_until, serve, server_fixture

from pixie_web import Pixie, Request, Response, RouteError, RouteType
from pixie_web.protocol.http11 import parse_head
from pixie_web.requests import BodySource

PROGRAM = Path(__file__).parents[1] / "programs" / "application.py"
PLACEMENTS = ["sync", "thread", "asnc", "pool"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, str]:
    directory = tmp_path_factory.mktemp("files")
    (directory / "sub").mkdir()
    (directory / "sub" / "größe.txt").write_text("asset", encoding="utf-8")
    return {"APPLICATION_FILES": str(directory)}


server = server_fixture(PROGRAM, LOOPS, also_http2=True, environment="environment")


# Routing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, path, status, text",
    [
        ("GET", "/", 200, "index GET"),
        ("HEAD", "/", 200, ""),
        ("POST", "/several", 200, "POST"),
        ("PUT", "/several", 200, "PUT"),
        ("DELETE", "/several", 200, "deleted"),
        ("GET", "/one", 200, "/one 0 one"),
        ("GET", "/two/7", 200, "/two/7 7 two/7"),
        ("BREW", "/brew", 200, "coffee"),
        ("PATCH", "/patch", 200, "body"),
        ("PUT", "/put", 200, "body"),
        ("DELETE", "/delete", 200, "gone"),
        ("OPTIONS", "/own_options", 200, "mine"),
        ("GET", "/none", 404, "outer 404 for /none: 404 Not Found"),
        ("GET", "/one/", 404, "outer 404 for /one/: 404 Not Found"),
        ("GET", "/two/x", 404, "outer 404 for /two/x: 404 Not Found"),
        ("BREW", "/none", 404, "outer 404 for /none: 404 Not Found"),
        ("OPTIONS", "/none", 404, "outer 404 for /none: 404 Not Found"),
    ],
)
def test_a_request_finds_its_route(
    method: str, path: str, status: int, text: str, server: Server
) -> None:
    answer = server.request(
        method, path, "body" if method in ("PATCH", "PUT") else None
    )
    assert (answer.status, answer.text) == (status, text)


@pytest.mark.parametrize(
    "method, path, allow",
    [
        ("POST", "/", "GET, HEAD, OPTIONS"),
        ("GET", "/several", "DELETE, OPTIONS, POST, PUT"),
        ("HEAD", "/several", "DELETE, OPTIONS, POST, PUT"),
        ("BREW", "/several", "DELETE, OPTIONS, POST, PUT"),
        ("get", "/", "GET, HEAD, OPTIONS"),
        ("GET", "/own_head", "HEAD, OPTIONS"),
        ("GET", "/own_options", "OPTIONS"),
        ("GET", "/brew", "BREW, OPTIONS"),
        ("POST", "/two/7", "GET, HEAD, OPTIONS"),
    ],
)
def test_another_verb_gets_405_with_allow(
    method: str, path: str, allow: str, server: Server
) -> None:
    answer = server.request(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allow)
    if method != "HEAD":
        assert answer.json == {"allow": allow}


def test_options_tells_the_verbs(server: Server) -> None:
    answer = server.request("OPTIONS", "/several")
    assert (answer.status, answer.headers["Allow"], answer.body) == (
        *(204, "DELETE, OPTIONS, POST, PUT", b""),
    )


def test_options_of_the_whole_server(server: Server) -> None:
    assert server.request("OPTIONS", "*").status == 204


def test_a_route_for_head_alone(server: Server) -> None:
    answer = server.request("HEAD", "/own_head")
    assert (answer.status, answer.headers["X-Own"]) == (200, "yes")


def test_static_serves_what_lies_below_a_directory(server: Server) -> None:
    answer = server.get("/assets/sub/gr%C3%B6%C3%9Fe.txt")
    assert (answer.status, answer.text) == (200, "asset")
    for path in ("/assets/none", "/assets/../x", "/assets/%2e%2e/x", "/assets/sub"):
        assert server.get(path).status == 404


@pytest.mark.parametrize("query", ["", "?q=%20&r=a/b", "?"])
def test_the_redirect_to_a_directory_keeps_the_query(
    query: str, server: Server
) -> None:
    head = f"GET /pages/sub{query} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = server.raw(head.encode())
    assert answer.startswith(b"HTTP/1.1 302 ")
    kept = query if query != "?" else ""
    assert f"\r\nLocation: ./sub/{kept}\r\n".encode() in answer
    assert server.get("/pages/sub/?q=1").text == "asset"


# Mounts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/inner", ["/inner", "/", "inner"]),
        ("/inner/", ["/inner", "/", "inner"]),
        ("/inner/page", ["/inner", "/page", "inner"]),
        ("/inn%65r/page", ["/inner", "/page", "inner"]),
        ("/inner/item/5", ["/inner", "/item/5", 5]),
        ("/inner/most/deep", ["/inner/most", "/deep", "inner/most/deep"]),
    ],
)
def test_a_mounted_application_sees_the_rest_of_the_path(
    path: str, expected: List[object], server: Server
) -> None:
    assert server.get(path).json == expected


@pytest.mark.parametrize(
    "path, text",
    [
        ("/inner/special/x", "special"),
        ("/inner/none", "inner 404"),
        ("/innerpage", "outer 404 for /innerpage: 404 Not Found"),
    ],
)
def test_the_closest_mount_answers(path: str, text: str, server: Server) -> None:
    assert server.get(path).text == text


# Error handlers -----------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    "what, status, text",
    [
        ("shop", 503, "shop: Shop"),
        ("sold_out", 503, "shop: SoldOut"),
        ("other", 500, "any"),
        ("teapot", 418, "teapot: short and stout"),
        ("410", 411, "own status"),
        ("421", 421, "in pieces"),
    ],
)
def test_an_error_handler_answers(
    placement: str, what: str, status: int, text: str, server: Server
) -> None:
    answer = server.get(f"/raise/{placement}/{what}")
    assert (answer.status, answer.text) == (status, text)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    "what, status", [("402", 409), ("401", 303), ("redirect", 303)]
)
def test_an_error_handler_may_abort_or_redirect(
    placement: str, what: str, status: int, server: Server
) -> None:
    answer = server.get(f"/raise/{placement}/{what}")
    assert answer.status == status
    if status == 303:
        wanted = {"401": "/login", "redirect": "/elsewhere"}[what]
        assert answer.headers["Location"] == wanted


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_headers_of_an_error_handler_win_over_those_of_the_error(
    placement: str, server: Server
) -> None:
    answer = server.get(f"/raise/{placement}/429")
    assert (answer.status, answer.text) == (429, "later")
    assert answer.headers.get_all("Retry-After") == ["60"]
    assert answer.headers.get_all("X-Limit") == ["5"]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    "what, logged",
    [
        ("422", "KeyError: 'in the handler'"),
        ("423", "SystemExit: in the handler"),
        ("424", "the server sets Connection"),
        ("bad_headers", "ValueError: the value of X-Bad"),
    ],
)
def test_an_error_handler_that_fails_is_a_500(
    placement: str, what: str, logged: str, server: Server
) -> None:
    mark = server.mark()
    answer = server.get(f"/raise/{placement}/{what}")
    assert answer.status == 500
    assert "<h1>500 Internal Server Error</h1>" in answer.text
    server.wait_for_log(logged, mark)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_errors_headers_are_kept(placement: str, server: Server) -> None:
    answer = server.get(f"/raise/{placement}/404")
    assert answer.headers["WWW-Authenticate"] == "Basic"


def test_what_a_status_handler_hides_is_logged(server: Server) -> None:
    mark = server.mark()
    answer = server.get("/pretty/fail")
    assert (answer.status, answer.text) == (500, "we are sorry")
    server.wait_for_log("GET /pretty/fail failed in /fail (pool)", mark)
    server.wait_for_log("ValueError: <b>secret</b>", mark)
    assert server.get("/pretty/exit").text == "we are sorry"


# Error pages --------------------------------------------------------------------------


@pytest.mark.parametrize("placement", [*PLACEMENTS, "stream"])
def test_the_traceback_is_in_the_log_alone(placement: str, server: Server) -> None:
    mark = server.mark()
    answer = server.get(f"/bare/fail/{placement}")
    assert answer.status == 500
    assert "secret" not in answer.text
    server.wait_for_log(f"failed in /fail/{placement} ({placement})", mark)
    server.wait_for_log("Traceback", mark)
    server.wait_for_log("ValueError: <b>secret</b>", mark)


def test_debug_shows_the_traceback_escaped(environment: Dict[str, str]) -> None:
    with serve(PROGRAM, debug="yes", environment=environment) as server:
        for placement in [*PLACEMENTS, "stream"]:
            answer = server.get(f"/bare/fail/{placement}")
            assert answer.status == 500
            assert "Traceback (most recent call last)" in answer.text
            assert "ValueError: &lt;b&gt;secret&lt;/b&gt;" in answer.text
            assert "<b>secret" not in answer.text


def test_the_error_page_of_an_unknown_path_shows_nothing_of_it(server: Server) -> None:
    answer = server.get("/bare/%3Cscript%3E")
    assert answer.status == 404
    assert "script" not in answer.text


# Triggers -----------------------------------------------------------------------------

TRAIL = {
    "sync": ["second_async main", "first main", "third_of_route main"],
    "thread": ["second_async main", "first main", "third_of_route main"],
    "asnc": ["second_async main", "first main", "third_of_route main"],
    "pool": ["second_async main", "first pool", "third_of_route pool"],
}


def after(answer: Any) -> List[str]:
    return list(answer.headers.get_all("X-After", []))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_triggers_run_in_order_where_they_should(
    placement: str, server: Server
) -> None:
    answer = server.get(f"/watched/{placement}")
    place = "pool" if placement == "pool" else "main"
    assert answer.json == {"trail": TRAIL[placement]}
    assert after(answer) == [f"route {place}", f"app {place}", "app_async main"]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_before_trigger_may_answer(placement: str, server: Server) -> None:
    answer = server.get(f"/watched/{placement}?stop=first")
    place = "pool" if placement == "pool" else "main"
    assert (answer.status, answer.text) == (200, "stopped by first")
    assert after(answer) == [f"route {place}", f"app {place}", "app_async main"]


@pytest.mark.parametrize("placement", [*PLACEMENTS, "stream"])
@pytest.mark.parametrize(
    "stop, status", [("async", 403), ("async+aborts", 403), ("async+fails", 500)]
)
def test_an_async_before_trigger_answers_in_main(
    placement: str, stop: str, status: int, server: Server
) -> None:
    answer = server.get(f"/watched/{placement}?stop={stop}")
    assert answer.status == status
    assert after(answer) == ["route main", "app main", "app_async main"]


@pytest.mark.parametrize("placement", [*PLACEMENTS, "stream"])
@pytest.mark.parametrize(
    "query, status, text",
    [
        ("stop=first+fails", 500, "500 Internal Server Error"),
        ("stop=async+exits", 500, "500 Internal Server Error"),
        ("after=exits", 500, "500 Internal Server Error"),
        ("after=async+exits", 500, "500 Internal Server Error"),
        ("after=async+fails", 500, "500 Internal Server Error"),
        ("after=async+header", 500, "500 Internal Server Error"),
        ("after=async+replaces", 200, "replaced"),
        ("after=async+same", 200, "second_async main"),
        ("after=body", 200, "another body"),
    ],
)
def test_what_a_trigger_may_do(
    placement: str, query: str, status: int, text: str, server: Server
) -> None:
    answer = server.get(f"/watched/{placement}?{query}")
    assert answer.status == status
    assert text in answer.text


def test_a_stream_that_a_trigger_replaced_is_closed(server: Server) -> None:
    mark = server.mark()
    path = "/watched/stream?endless=1&after=async+replaces"
    assert server.get(path).text == "replaced"
    server.wait_for_log("note: watched stream ended", mark)


@pytest.mark.parametrize(
    "query", ["", "?stop=first", "?stop=async", "?after=async+fails"]
)
def test_triggers_run_where_no_route_matched(query: str, server: Server) -> None:
    answer = server.get(f"/watched/none{query}")
    status = {"": 404, "?stop=first": 200, "?stop=async": 403}.get(query, 500)
    assert answer.status == status
    if status != 500:
        assert after(answer) == ["app main", "app_async main"]


@pytest.mark.parametrize("placement", ["pool", "stream"])
@pytest.mark.parametrize(
    "what, error", [("object", "TypeError"), ("nan", "ValueError")]
)
def test_a_context_that_can_not_travel_is_an_error_of_its_request(
    placement: str, what: str, error: str, server: Server
) -> None:
    mark = server.mark()
    for _ in range(20):
        assert server.get(f"/crammed/{placement}?what={what}").status == 500
    server.wait_for_log(error, mark)
    assert server.get(f"/crammed/{placement}").status == 200


# Bodies that nobody wants -------------------------------------------------------------

UPLOAD = (
    b"POST /guarded/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n"
    b"Expect: 100-continue\r\n"
)


def test_a_refusal_by_an_async_trigger_costs_no_upload(server: Server) -> None:
    with server.connect() as one:
        one.sendall(UPLOAD + b"\r\n")
        answer = read_all(one)
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"100 Continue" not in answer
    assert b"Connection: close" in answer


def test_an_upload_that_is_wanted_is_asked_for(server: Server) -> None:
    with server.connect() as one:
        one.sendall(UPLOAD + b"X-Key: right\r\n\r\n")
        assert read_until(one, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        one.sendall(b"x" * 500)
        assert read_until(one, b"\r\n\r\n500").startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "line", [b"Content-Length: 1001\r\n", b"Content-Length: 999999999999\r\n"]
)
def test_what_is_too_large_is_refused_unread(line: bytes, server: Server) -> None:
    data = (
        b"POST /guarded/upload HTTP/1.1\r\nHost: a\r\nX-Key: right\r\n" + line + b"\r\n"
    )
    with server.connect() as one:
        one.sendall(data)
        answer = read_all(one)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in answer


def test_a_chunked_body_that_grows_too_large_is_refused(server: Server) -> None:
    data = (
        b"POST /guarded/upload HTTP/1.1\r\nHost: a\r\nX-Key: right\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n"
    )
    with server.connect() as one:
        one.sendall(data + b"x" * 1001)
        assert read_all(one).startswith(b"HTTP/1.1 413 ")


def test_an_async_trigger_has_no_body_yet(server: Server) -> None:
    mark = server.mark()
    headers = {"X-Key": "right"}
    answer = server.request("POST", "/guarded/upload?body=1", b"x", headers)
    assert answer.status == 500
    server.wait_for_log("the body has not arrived yet", mark)


# The rest -----------------------------------------------------------------------------


@pytest.mark.parametrize("placement", [*PLACEMENTS, "stream"])
def test_after_response_runs_where_the_handler_ran(
    placement: str, server: Server
) -> None:
    mark = server.mark()
    assert server.get(f"/later/{placement}").text == "now"
    place = "pool" if placement in ("pool", "stream") else "main"
    server.wait_for_log(f"note: after response in {place}", mark)


@pytest.mark.parametrize(
    "query, error", [("fails", "ZeroDivisionError"), ("exits", "SystemExit")]
)
@pytest.mark.parametrize("placement", [*PLACEMENTS, "stream"])
def test_after_response_may_fail(
    placement: str, query: str, error: str, server: Server
) -> None:
    mark = server.mark()
    for _ in range(3):
        assert server.get(f"/later/{placement}?{query}=1").text == "now"
    server.wait_for_log(error, mark)
    assert "died" not in server.log


def test_a_request_timeout_that_a_handler_raises_is_an_error(server: Server) -> None:
    assert server.get("/timed_out").status == 500


def test_nothing_is_declared_while_it_serves(server: Server) -> None:
    mark = server.mark()
    assert server.get("/late").status == 500
    server.wait_for_log("note: any error: RouteError", mark)


def test_workers_are_started_before_main(server: Server) -> None:
    assert server.get("/started").json == [["worker"], True, True]
    assert server.get("/started_main").json == [["main"], True, True]


def test_nothing_is_left_to_complain_about(server: Server) -> None:
    assert server.complaints() == []


def test_start_and_stop_functions_run_once_each(environment: Dict[str, str]) -> None:
    with serve(PROGRAM, workers=1, environment=environment) as server:
        assert server.get("/started").status == 200
        assert server.stop() == 0
        notes = re.findall(r"note: (on_\w+ in \w+|inner on_start)", server.log)
    in_main = [note for note in notes if "pool" not in note]
    in_pool = [note for note in notes if "pool" in note]
    assert in_main == ["on_start in main", "inner on_start", "on_stop in main"]
    assert in_pool == ["on_worker_start in pool", "on_worker_stop in pool"]


# Declared wrongly ---------------------------------------------------------------------


def a_def(env: Any) -> None: ...


def takes_id(env: Any, id: int) -> None: ...


def takes_more(env: Any, id: int, other: int) -> None: ...


def takes_nothing() -> None: ...


def takes_any(*args: Any, **more: Any) -> None: ...


async def a_coroutine(env: Any) -> None: ...


async def a_coroutine_of_two(env: Any, other: Any) -> None: ...


def a_generator(env: Any) -> Iterator[str]:
    yield ""


async def an_async_generator(env: Any) -> Any:
    yield ""


def declare(*args: Any, **options: Any) -> Callable[[Pixie], object]:
    """Return what declares a route: the last argument is the handler."""
    return lambda app: app.route(*args[:-1], **options)(args[-1])


def twice(app: Pixie) -> None:
    app.route("/a/<x>")(lambda env, x: "")
    app.route("/a/<y>")(lambda env, y: "")


def later(app: Pixie) -> None:
    app.freeze()
    app.route("/")(a_def)


def mounted_below_itself(app: Pixie) -> None:
    other = Pixie()
    app.mount("/a", other)
    other.mount("/b", app)


def mounted_twice(app: Pixie) -> None:
    app.mount("/a", Pixie())
    app.mount("/a/", Pixie())


def frozen(app: Pixie) -> Pixie:
    app.freeze()
    return app


@pytest.mark.parametrize(
    "wrong, message",
    [
        (declare("/", RouteType.pool, a_coroutine), "write RouteType.asnc"),
        (declare("/", RouteType.pool, a_generator), "write RouteType.stream"),
        (declare("/", RouteType.asnc, a_def), "write RouteType.pool"),
        (declare("/", "sync", a_def, timeout=5), "write RouteType.thread"),
        (declare("/", "nowhere", a_def), "a route type is one of sync, thread, asnc"),
        (declare("a", a_def), "a path starts with a slash: write '/a'"),
        (declare("", a_def), "a path starts with a slash"),
        (declare([], a_def), "a route needs a path and a method"),
        (declare("/", None, (), a_def), "a route needs a path and a method"),
        (
            lambda app: app.get(a_def),
            'write a path above def a_def: @app.get("/a_def")',
        ),
        (lambda app: app.route(a_def), "write a path above def a_def: @app.get("),
        (declare(["/a", 5], a_def), "a path is text, such as \"/page\", got ['/a', 5]"),
        (
            declare("/", a_def, methods=["GET"]),
            "write method=['GET']: one verb, or sev",
        ),
        (lambda app: app.get("/", methods="GET"), "write method='GET'"),
        (declare("/", None, "GE T", a_def), "GE T"),
        (declare("/", None, "get", a_def), "GET"),
        (declare("/<id>/<id>", takes_id), "the wildcard <id> stands twice"),
        (declare("/<id:nope>", takes_id), "unknown filter 'nope'"),
        (declare("/<id", takes_id), "'<' in '/<id'"),
        (declare("/<id>", a_def), "/<id>: write def a_def(env, id)"),
        (declare("/", takes_id), "/: write def takes_id(env)"),
        (declare("/<id>", takes_more), "write def takes_more(env, id)"),
        (declare("/", takes_nothing), "write def takes_nothing(env)"),
        (declare("/<env>", a_def), "env"),
        (declare("/<what>/<function>", a_def), "write def a_def(env, what, function)"),
        (declare("/", 5), "a handler is a function, not int"),
        (declare("/", None), "a handler is a function, not NoneType"),
        (
            declare("/", a_def, before=[a_generator]),
            "a trigger is a def or an async def",
        ),
        (declare("/", a_def, after=[5]), "a trigger is a def or an async def"),
        (declare("/", a_def, before=a_def), "before is a list of triggers"),
        (twice, "is declared already: '/a/<x>'"),
        (later, "/: declare it before the server starts"),
        (
            lambda app: app.before(an_async_generator),
            "a trigger is a def or an async def",
        ),
        (lambda app: app.after("x"), "a trigger is a def or an async def"),
        (
            lambda app: app.before(takes_nothing),
            "before: write def takes_nothing(env): ",
        ),
        (lambda app: app.before(takes_id), "write def takes_id(env): missing a requir"),
        (
            lambda app: app.before(a_coroutine_of_two),
            "write def a_coroutine_of_two(env)",
        ),
        (
            lambda app: app.after(a_def),
            "after: write def a_def(env, response): too man",
        ),
        (
            declare("/", a_def, before=[takes_nothing]),
            "before: write def takes_nothing",
        ),
        (declare("/", a_def, after=[a_def]), "after: write def a_def(env, response)"),
        (lambda app: app.error(404)(a_def), "error(404): write def a_def(env, error)"),
        (
            lambda app: app.error(OSError)(takes_nothing),
            "takes_nothing(env, error): too",
        ),
        (
            lambda app: app.on_start(a_def),
            "on_start: write def a_def(): missing a requi",
        ),
        (lambda app: app.on_stop(a_def), "on_stop: write def a_def()"),
        (lambda app: app.on_worker_start(a_def), "on_worker_start: write def a_def()"),
        (
            lambda app: app.on_worker_stop(None),
            "on_worker_stop takes a function, got N",
        ),
        (
            lambda app: app.pool("x", on_worker_start=a_def),
            "on_worker_start: write def",
        ),
        (lambda app: app.error(404)(a_coroutine), "an error handler is a plain def"),
        (lambda app: app.error("404"), "write @app.error(404) or @app.error(SomeExc"),
        (lambda app: app.error(a_def), "write @app.error(404)"),
        (lambda app: app.error(200), "write @app.error(404)"),
        (lambda app: app.error(ValueError("x")), "write @app.error(404)"),
        (lambda app: app.filter("int", "[0-9]"), "a filter needs a name of its own"),
        (lambda app: app.filter("x", "("), "bad expression '('"),
        (lambda app: app.mount("admin", Pixie()), 'a path such as "/admin" and not'),
        (lambda app: app.mount("/", Pixie()), 'a path such as "/admin" and not'),
        (lambda app: app.mount("/<x>", Pixie()), 'a path such as "/admin" and not'),
        (lambda app: app.mount("/a", 42), "mount takes an application"),
        (lambda app: app.mount("/a", app), "not below itself"),
        (mounted_below_itself, "not below itself"),
        (mounted_twice, "/a is mounted already"),
        (lambda app: frozen(app).before(a_def), "declare it before"),
        (lambda app: frozen(app).after(a_def), "declare it before"),
        (lambda app: frozen(app).error(404), "declare it before"),
        (lambda app: frozen(app).mount("/a", Pixie()), "declare it before"),
        (
            lambda app: frozen(app).filter("hex", "[0-9a-f]+"),
            "the filter hex: declare it before",
        ),
        (lambda app: app.url_for("none"), "no route is named 'none'"),
    ],
)
def test_what_is_declared_wrongly_says_what_to_write(
    wrong: Callable[[Pixie], object], message: str
) -> None:
    app = Pixie()
    with pytest.raises(RouteError) as refused:
        wrong(app)
    assert message in str(refused.value)


def test_a_handler_may_take_anything() -> None:
    app = Pixie()
    app.route("/<a>/<b>")(takes_any)
    app.route("/<a:int>")(lambda env, **wildcards: wildcards)
    app.route("/default")(lambda env, extra=5: extra)
    assert len(app.routes) == 3


def test_the_decorator_returns_the_handler() -> None:
    app = Pixie()
    for decorator in (app.route, app.get, app.post, app.put, app.delete, app.patch):
        assert decorator(f"/{decorator.__name__}")(a_def) is a_def
    assert app.before(a_def) is a_def
    assert app.after(takes_any) is takes_any
    assert app.error(404)(takes_any) is takes_any
    assert app.on_start(takes_nothing) is takes_nothing


def test_url_for_builds_what_the_route_matches() -> None:
    app = Pixie()
    app.route("/user/<id:int>/<name>")(lambda env, id, name: "")
    app.route("/page", name="home")(a_def)
    app.route("/x/<id>", name="thing")(takes_id)
    app.route(["/many/<id>", "/more/<id>"], name="many")(takes_id)
    assert app.url_for("home") == "/page"
    assert app.url_for("thing", id="a ü") == "/x/a%20%C3%BC"
    assert app.url_for("many", id="1") == "/many/1"
    app.route("/u/<name>", name="named")(lambda env, name: "")
    assert app.url_for("named", name="x") == "/u/x"
    with pytest.raises(RouteError, match="takes id, got"):
        app.url_for("thing")
    with pytest.raises(ValueError):
        app.url_for("thing", id="a/b")


def test_url_for_finds_the_routes_of_mounted_applications() -> None:
    app, inner, innermost = Pixie(), Pixie(), Pixie()
    inner.route("/item/<id>", name="item")(takes_id)
    innermost.route("/deep", name="deep")(a_def)
    inner.mount("/most", innermost)
    app.mount("/admin", inner)
    assert app.url_for("item", id="5") == "/admin/item/5"
    assert app.url_for("deep") == "/admin/most/deep"
    assert inner.url_for("item", id="5") == "/admin/item/5"
    assert inner.url_for("deep") == innermost.url_for("deep") == "/admin/most/deep"
    outer = Pixie()
    outer.mount("/größe", app)
    for one in (outer, app, inner):
        assert one.url_for("item", id="5") == "/gr%C3%B6%C3%9Fe/admin/item/5"
    with pytest.raises(RouteError, match="no route is named 'item'"):
        innermost.url_for("item", id="5")


# handle, without a server -------------------------------------------------------------


class Source(BodySource):
    """A body that counts how often it is pulled."""

    def __init__(self, content_length: Any, *chunks: bytes) -> None:
        self.content_length = content_length
        self.chunks = [*chunks, b""]
        self.pulls = 0

    async def read(self) -> bytes:
        self.pulls += 1
        return self.chunks[self.pulls - 1]


def handle(app: Pixie, head: bytes, source: Any = None) -> Response:
    request = Request(parse_head(head + b" HTTP/1.0\r\n\r\n"), source=source)
    return asyncio.run(app.handle(request))


def echo_app() -> Pixie:
    app = Pixie()
    app.route("/", "sync", "POST", max_body_bytes=5)(lambda env: env.body)
    app.route("/", "sync")(lambda env: "got")
    return app


def test_handle_pulls_the_body_of_a_route() -> None:
    source = Source(4, b"ab", b"cd")
    response = handle(echo_app(), b"POST /", source)
    assert (response.status, response.body, source.pulls) == (200, b"abcd", 3)


@pytest.mark.parametrize(
    "head, status", [(b"POST /none", 404), (b"PUT /", 405), (b"OPTIONS /", 204)]
)
def test_handle_refuses_without_a_pull(head: bytes, status: int) -> None:
    source = Source(4, b"abcd")
    assert handle(echo_app(), head, source).status == status
    assert source.pulls == 0


def test_handle_refuses_an_announced_length_without_a_pull() -> None:
    source = Source(6, b"abcdef")
    assert handle(echo_app(), b"POST /", source).status == 413
    assert source.pulls == 0


def test_handle_stops_pulling_what_grows_too_long() -> None:
    source = Source(None, b"abc", b"def", b"ghi")
    assert handle(echo_app(), b"POST /", source).status == 413
    assert source.pulls == 2


def test_handle_freezes_the_routes() -> None:
    app = echo_app()
    assert handle(app, b"GET /").body == b"got"
    with pytest.raises(RouteError):
        app.route("/x")(a_def)
