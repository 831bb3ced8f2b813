"""Cookies that the application's own secrets sign, in every placement."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from support import Server, serve

from pixie_web import Pixie, PixieError, Request, Response
from pixie_web.core import (
    FormLimits,
    dump_json,
    hand_down,
    load_json,
    parse_head,
    secret_keys,
    set_up,
    sign,
    take_over,
    unsign,
)

PROGRAM = Path(__file__).with_name("programs") / "everyday.py"
PLACES = ["sync", "thread", "asnc", "pool"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(PROGRAM) as running:
        yield running


def cookies_of(answer: Any) -> Dict[str, str]:
    """Return the cookies that an answer sets, by name."""
    lines = answer.headers.get_all("Set-Cookie") or []
    pairs = [line.partition(";")[0].partition("=") for line in lines]
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize("place", PLACES)
def test_the_applications_first_secret_signs(place: str, server: Server) -> None:
    cookies = cookies_of(server.get(f"/{place}/login"))
    assert unsign("user", cookies["user"], "new", 60, time.time()) == {"id": 7}
    with pytest.raises(ValueError, match="signature"):
        unsign("user", cookies["user"], "old", 60, time.time())
    assert (cookies["theme"], cookies["old"]) == ("dark", "")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "secret, user", [("new", {"id": 7}), ("old", {"id": 7}), ("another", None)]
)
def test_each_of_the_applications_secrets_verifies(
    secret: str, user: object, place: str, server: Server
) -> None:
    pair = f"user={sign('user', {'id': 7}, secret, time.time())}"
    answer = server.get(f"/{place}/who", {"Cookie": f"{pair}; theme=dark"})
    assert answer.json == {"user": user, "theme": "dark", "signed theme": "none"}


@pytest.mark.parametrize("path", ["/nowhere", *(f"/{place}/x" for place in PLACES)])
def test_where_nothing_matched_cookies_are_signed_too(
    path: str, server: Server
) -> None:
    pair = f"user={sign('user', 'Ann', 'old', time.time())}"
    answer = server.get(path, {"Cookie": pair})
    assert answer.status == 404
    if path == "/nowhere":  # the others have no error handler
        assert answer.text == "Ann is lost"
        lost = cookies_of(answer)["lost"]
        assert unsign("lost", lost, "new", 60, time.time()) == [1]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "path, logged",
    [("unsigned", "is text, unless it is signed"), ("too-large", "4096")],
)
def test_a_cookie_that_can_not_be_sent_is_a_500(
    path: str, logged: str, place: str, server: Server
) -> None:
    since = server.mark()
    answer = server.get(f"/{place}/{path}")
    assert answer.status == 500
    assert cookies_of(answer) == {}
    server.wait_for_log(logged, since)


# Without a server ---------------------------------------------------------------------


@pytest.mark.parametrize("secrets", ["", b"", [], [""], ["a", ""], None, [None]])
def test_an_application_refuses_secrets_that_are_empty(secrets: Any) -> None:
    with pytest.raises(PixieError, match="empty"):
        Pixie(secrets=secrets)


@pytest.mark.parametrize("secrets", ["", None, []])
def test_secrets_that_turn_out_empty_never_mean_unsigned(secrets: Any) -> None:
    application = Pixie()
    application.secrets = secrets
    response = Response()
    response.set_cookie("a", "1")
    with pytest.raises(PixieError, match="empty"):
        response.seal(secrets=application.secrets)
    env = Request(parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\n\r\n"))
    env.app = application
    with pytest.raises(PixieError, match="empty"):
        env.cookie("a")


def test_an_error_shows_no_secret() -> None:
    with pytest.raises(PixieError) as caught:
        Pixie(secrets=("correct horse", ""))
    assert "corr" not in str(caught.value)


def test_a_mounted_application_takes_the_secrets_of_the_one_above() -> None:
    top, middle, low, own = Pixie(secrets="top"), Pixie(), Pixie(), Pixie(secrets="own")
    middle.mount("/low", low)
    middle.mount("/own", own)
    top.mount("/middle", middle)
    top.freeze()
    assert [one.secrets for one in (middle, low, own)] == ["top", "top", "own"]


def test_without_secrets_cookies_are_plain() -> None:
    env = Request(parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\n\r\n"))
    assert env.cookie("a") == "1"
    env.app = Pixie()
    assert env.cookie("a") == "1"
    response = Response(cookies={"a": "1"})
    assert response.header_block().startswith(b"Set-Cookie: a=1; ")
    assert response.seal(secrets="key").header_block().count(b".") == 1


@pytest.mark.parametrize("value", [{"id": 7}, 7, None, b"x"])
def test_a_value_that_is_no_text_needs_a_secret(value: Any) -> None:
    response = Response()
    with pytest.raises(TypeError, match="is text, unless it is signed"):
        response.set_cookie("a", value, secret=False)
    if not isinstance(value, bytes):
        response.set_cookie("a", value)
        with pytest.raises(TypeError, match="is text, unless it is signed"):
            response.header_block()
        assert b"a=" in response.header_block(secrets="key")


@pytest.mark.parametrize("value", [{1, 2}, b"x", object()])
def test_what_json_can_not_say_is_refused_at_the_call(value: Any) -> None:
    with pytest.raises(TypeError):
        Response().set_cookie("a", value)


def test_workers_that_import_the_program_are_handed_the_secrets() -> None:
    def program(*secrets: Any) -> Pixie:
        top, below, own = Pixie(), Pixie(), Pixie(secrets=secrets or ())
        top.mount("/below", below)
        below.mount("/own", own)
        return top

    main, worker = program("naïve", b"\xff"), program()
    main.secrets = "read at the start"
    limits = FormLimits(max_parts=7)
    main.freeze()
    set_up(main, limits, "/app")
    sent = dump_json(hand_down(main))
    take_over(worker, load_json(sent))  # type: ignore[arg-type]
    families = main._family(), worker._family()
    assert [one.form_limits for one in families[1]] == [limits] * 3
    assert [one.root_path for one in families[1]] == ["/app"] * 3
    for one, other in zip(*families):
        assert other.secrets != ()
        assert secret_keys(one.secrets) == secret_keys(other.secrets)
    take_over(worker, load_json(dump_json(hand_down(program()))))  # type: ignore[arg-type]
    assert [one.secrets for one in families[1]] == [(), (), ()]
    main.secrets = ""
    with pytest.raises(PixieError, match="empty"):
        hand_down(main)
