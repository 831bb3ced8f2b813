"""Cookies that the application's own secrets sign, in every placement."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from support import Server, server_fixture

from pixie_web import Pixie, PixieError, Request, Response
from pixie_web.cookies import UNSET, secret_keys, sign, unsign
from pixie_web.launch import apply_settings, hand_down, take_over
from pixie_web.protocol.http11 import parse_head
from pixie_web.protocol.multipart import FormLimits
from pixie_web.text import dump_json, load_json

PROGRAM = Path(__file__).parents[1] / "programs" / "everyday.py"
PLACES = ["sync", "thread", "asnc", "pool"]
NEW, OLD = "the new one, of today", "the old one, of before"  # of the program
KEY = "a secret of the tests"


server = server_fixture(PROGRAM)


def cookies_of(answer: Any) -> Dict[str, str]:
    """Return the cookies that an answer sets, by name."""
    lines = answer.headers.get_all("Set-Cookie") or []
    pairs = [line.partition(";")[0].partition("=") for line in lines]
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize("length", range(12))
def test_a_signed_text_of_any_length_is_read_back(length: int) -> None:
    text = sign("a", "x" * length, "sixteen bytes are", 1000)
    assert "=" not in text
    assert unsign("a", text, "sixteen bytes are", None, 1000) == "x" * length


@pytest.mark.parametrize(
    "max_age, now, error",
    [
        (60, 1060, ""),
        (60, 1061, "too long ago"),
        (None, 10**9, ""),
        (0, 1000, ""),
        (0, 1001, "too long ago"),
        (60, 940, ""),  # the clocks of two machines differ
        (60, 939, "in the future"),
    ],
)
def test_a_signed_value_is_good_for_so_long(
    max_age: Any, now: float, error: str
) -> None:
    text = sign("a", 1, "sixteen bytes are", 1000.9)
    if error:
        with pytest.raises(ValueError, match=error):
            unsign("a", text, "sixteen bytes are", max_age, now)
    else:
        assert unsign("a", text, "sixteen bytes are", max_age, now) == 1


@pytest.mark.parametrize("place", PLACES)
def test_the_applications_first_secret_signs(place: str, server: Server) -> None:
    cookies = cookies_of(server.get(f"/{place}/login"))
    assert unsign("user", cookies["user"], NEW, 60, time.time()) == {"id": 7}
    with pytest.raises(ValueError, match="signature"):
        unsign("user", cookies["user"], OLD, 60, time.time())
    assert (cookies["theme"], cookies["old"]) == ("dark", "")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "secret, user",
    [(NEW, {"id": 7}), (OLD, {"id": 7}), ("another one, not theirs", None)],
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
    pair = f"user={sign('user', 'Ann', OLD, time.time())}"
    answer = server.get(path, {"Cookie": pair})
    assert answer.status == 404
    if path == "/nowhere":  # the others have no error handler
        assert answer.text == "Ann is lost"
        lost = cookies_of(answer)["lost"]
        assert unsign("lost", lost, NEW, 60, time.time()) == [1]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "path, logged",
    [("unsigned", "is text if it is not signed"), ("too-large", "4096")],
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


def env_with_cookie() -> Request:
    return Request(parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\n\r\n"))


# What a program may come by that has no secret: `tuple(os.environ.get("KEYS",
# "").split())`, `os.environ.get("KEY")` ...
NO_SECRETS = ["", b"", (), [], [""], [KEY, ""], None, [None], (None, KEY), True, 7]
TOO_SHORT = ["x" * 15, b"x" * 15, [KEY, "short"], ("\u00e9" * 7,), "1"]
USES: Dict[str, Callable[[Any], object]] = {
    "Pixie": lambda secrets: Pixie(secrets=secrets),
    "app.secrets": lambda secrets: setattr(Pixie(), "secrets", secrets),
    "env.cookie": lambda secrets: env_with_cookie().cookie("a", secret=secrets),
    "env.cookie, none": lambda secrets: env_with_cookie().cookie("b", secret=secrets),
    "set_cookie": lambda secrets: Response().set_cookie("a", "1", secret=secrets),
    "seal": lambda secrets: Response(cookies={"a": "1"}).seal(secrets=secrets),
    "header_block": lambda secrets: Response(cookies={"a": "1"}).header_block(
        secrets=secrets
    ),
    "sign": lambda secrets: sign("a", 1, secrets, 0),
    "unsign": lambda secrets: unsign("a", "x.y", secrets, None, 0),
    "secret_keys": secret_keys,
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("secrets", NO_SECRETS, ids=repr)
def test_no_secret_never_means_unsigned(secrets: Any, use: str) -> None:
    with pytest.raises(PixieError, match=r"is empty.*environment.*secret=False"):
        USES[use](secrets)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("secrets", TOO_SHORT, ids=repr)
def test_a_secret_that_can_be_guessed_is_refused(secrets: Any, use: str) -> None:
    with pytest.raises(PixieError, match=r"at least 16 bytes, got \d+: python"):
        USES[use](secrets)


@pytest.mark.parametrize("use", sorted(set(USES) - {"unsign"}))
@pytest.mark.parametrize(
    "secrets", ["x" * 16, b"\0" * 16, ["\u00e9" * 8], (KEY, b"y" * 99)], ids=repr
)
def test_sixteen_bytes_are_enough(secrets: Any, use: str) -> None:
    USES[use](secrets)


def test_the_remedy_of_the_message_makes_a_secret() -> None:
    with pytest.raises(PixieError) as caught:
        secret_keys("short")
    (code,) = re.findall(r'python -c "(.*)" prints', str(caught.value))
    made = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert secret_keys(made) == [made.encode()]


def test_secrets_are_copied_when_they_are_set() -> None:
    given = [KEY]
    application = Pixie(secrets=given)
    given.clear()
    assert application.secrets == (KEY.encode(),)
    assert Pixie(secrets=(key for key in [KEY])).secrets == (KEY.encode(),)  # type: ignore[arg-type]


def test_an_error_shows_no_secret() -> None:
    for secrets in (("correct horse, battery", ""), "correct horse"):
        with pytest.raises(PixieError) as caught:
            Pixie(secrets=secrets)
        assert "corr" not in str(caught.value)


def test_a_mounted_application_takes_the_secrets_of_the_one_above() -> None:
    top, middle, low, own = Pixie(secrets=NEW), Pixie(), Pixie(), Pixie(secrets=OLD)
    middle.mount("/low", low)
    middle.mount("/own", own)
    top.mount("/middle", middle)
    top.freeze()
    new, old = (NEW.encode(),), (OLD.encode(),)
    assert [one.secrets for one in (middle, low, own)] == [new, new, old]


def test_without_secrets_cookies_are_plain() -> None:
    env = env_with_cookie()
    assert env.cookie("a") == "1"
    env.app = Pixie()
    assert env.cookie("a") == "1"
    response = Response(cookies={"a": "1"})
    assert response.header_block().startswith(b"Set-Cookie: a=1; ")
    assert response.seal(secrets=KEY).header_block().count(b".") == 1


@pytest.mark.parametrize("value", [{"id": 7}, 7, None, b"x"])
def test_a_value_that_is_no_text_needs_a_secret(value: Any) -> None:
    response = Response()
    with pytest.raises(TypeError, match="is text if it is not signed"):
        response.set_cookie("a", value, secret=False)
    if not isinstance(value, bytes):
        response.set_cookie("a", value)
        with pytest.raises(TypeError, match="is text if it is not signed"):
            response.header_block()
        assert b"a=" in response.header_block(secrets=KEY)


@pytest.mark.parametrize("value", [{1, 2}, b"x", object()])
def test_what_json_can_not_say_is_refused_at_the_call(value: Any) -> None:
    with pytest.raises(TypeError):
        Response().set_cookie("a", value)


def test_workers_that_import_the_program_are_handed_the_secrets() -> None:
    def program(*secrets: Any) -> Pixie:
        top, below = Pixie(), Pixie()
        own = Pixie(secrets=secrets) if secrets else Pixie()
        top.mount("/below", below)
        below.mount("/own", own)
        return top

    main, worker = program("na\u00efve, but it is long", b"\xff" * 16), program()
    main.secrets = "read at the start"
    limits = FormLimits(max_parts=7)
    main.freeze()
    apply_settings(main, limits, "/app")
    sent = dump_json(hand_down(main))
    take_over(worker, load_json(sent))  # type: ignore[arg-type]
    families = main.family(), worker.family()
    assert [one.form_limits for one in families[1]] == [limits] * 3
    assert [one.root_path for one in families[1]] == ["/app"] * 3
    for one, other in zip(*families):
        assert other.secrets is not UNSET
        assert one.secrets == other.secrets
    take_over(worker, load_json(dump_json(hand_down(program()))))  # type: ignore[arg-type]
    assert [one.secrets for one in families[1]] == [UNSET, UNSET, UNSET]
