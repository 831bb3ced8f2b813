"""Sessions: in a cookie and in the state, in every placement."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

import pytest
from shapes import IS_SINGLE
from support import LOOPS, Answer, Server, serve, server_fixture

from pixie_web import Pixie, PixieError, Response, Sessions
from pixie_web.cookies import MAX_COOKIE_CHARS, sign, unsign
from pixie_web.sessions import MAX_SESSION_BYTES, Session, SessionHome, open_session

PROGRAM = Path(__file__).parents[1] / "programs" / "remembering.py"
PLACES = ["sync", "thread", "asnc", "pool"]
STORES = ["cookie"] if IS_SINGLE else ["cookie", "state"]
SECRET = "a secret for sessions in tests"

server = server_fixture(PROGRAM, LOOPS[:1])


@pytest.fixture(params=[f"/{store}/{place}" for store in STORES for place in PLACES])
def base(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Browser:
    """Keeps the session of one client, and notes what each answer sets."""

    def __init__(self, server: Server, base: str = "") -> None:
        self.server, self.base = server, base
        self.cookie: Optional[str] = None
        self.set: List[str] = []

    def get(self, path: str, **headers: str) -> Answer:
        if self.cookie is not None:
            headers["Cookie"] = f"session={self.cookie}"
        answer = self.server.get(self.base + path, headers)
        self.set = answer.headers.get_all("Set-Cookie") or []
        for line in self.set:
            _, _, value = line.partition(";")[0].partition("=")
            self.cookie = value if "Max-Age=0" not in line else None
        return answer

    def me(self) -> Any:
        return self.get("/me").json


# What a handler does ------------------------------------------------------------------


def test_a_login_lasts_until_the_logout(base: str, server: Server) -> None:
    browser = Browser(server, base)
    assert browser.me() == {}
    assert browser.set == []
    answer = browser.get("/login?user=ann")
    assert answer.status == 303
    (line,) = browser.set
    path = base[: base.index("/", 1)]
    assert re.fullmatch(
        rf"session=[\w.-]+; Max-Age=1209600; Path={path}; HttpOnly; SameSite=Lax", line
    )
    assert answer.headers["Cache-Control"] == "private"
    assert answer.headers["Vary"] == "Cookie"
    assert browser.me() == {"user": "ann"}
    assert browser.set == []
    assert browser.get("/put?theme=dark").json == {"user": "ann", "theme": "dark"}
    assert len(browser.set) == 1
    assert browser.get("/put?theme=dark").json == {"user": "ann", "theme": "dark"}
    assert browser.set == []
    assert browser.get("/drop?name=theme").status == 200
    assert browser.me() == {"user": "ann"}
    before = browser.cookie
    browser.get("/logout")
    assert len(browser.set) == 1
    assert (browser.cookie, "Max-Age=0" in browser.set[0]) == (None, True)
    assert f"Path={path};" in browser.set[0]
    assert browser.me() == {}
    browser.cookie = before
    # A copy of a cookie that holds all lasts; the state forgets.
    assert browser.me() == ({"user": "ann"} if "cookie" in base else {})


def test_who_asks_for_no_session_gets_no_headers(base: str, server: Server) -> None:
    browser = Browser(server, base)
    browser.get("/login?user=ann")
    answer = browser.get("/plain")
    assert answer.text == "no session here"
    assert browser.set == []
    assert {"vary", "cache-control"}.isdisjoint(map(str.lower, answer.headers))


def test_a_change_inside_of_a_value_is_saved(base: str, server: Server) -> None:
    browser = Browser(server, base)
    for count in range(1, 4):
        assert len(browser.get("/nested?item=x").json) == count
        assert len(browser.set) == 1


def test_the_last_name_that_goes_ends_it(base: str, server: Server) -> None:
    browser = Browser(server, base)
    browser.get("/put?a=1")
    before = browser.cookie
    browser.get("/drop?name=a")
    assert browser.cookie is None
    browser.cookie = before
    assert browser.me() == ({"a": "1"} if "cookie" in base else {})


def test_what_is_set_after_a_clear_is_another_session(
    base: str, server: Server
) -> None:
    browser = Browser(server, base)
    browser.get("/login?user=ann")
    before = browser.cookie
    browser.get("/again")
    assert browser.me() == {"after": "clear"}
    browser.cookie = before
    assert browser.me() == ({"user": "ann"} if "cookie" in base else {})


def test_a_session_that_somebody_has_planted_is_not_logged_in(
    base: str, server: Server
) -> None:
    attacker = Browser(server, base)
    attacker.get("/put?cart=mine")
    victim = Browser(server, base)
    victim.cookie = attacker.cookie
    victim.get("/login?user=victim")
    assert victim.cookie != attacker.cookie
    assert victim.me() == {"cart": "mine", "user": "victim"}
    assert "user" not in attacker.me()


def test_too_much_is_an_error_at_the_assignment(base: str, server: Server) -> None:
    most = 2900 if "cookie" in base else MAX_SESSION_BYTES - 100
    browser = Browser(server, base)
    assert browser.get(f"/large?size={most}").json == {"names": ["kept", "x"]}
    assert browser.me().keys() == {"kept", "x"}
    browser = Browser(server, base)
    answer = browser.get(f"/large?size={most + 400}").json
    assert answer["names"] == ["kept"]
    limit = "4096" if "cookie" in base else str(MAX_SESSION_BYTES)
    assert limit in answer["error"]
    assert browser.me() == {"kept": 1}
    assert browser.get("/large-inside").status == 500
    assert browser.me() == {"kept": 1}


def test_an_answer_that_failed_changes_nothing(base: str, server: Server) -> None:
    browser = Browser(server, base)
    answer = browser.get("/fails")
    assert (answer.status, browser.set) == (500, [])
    assert answer.headers["Vary"] == "Cookie"
    answer = browser.get("/missing")
    assert (answer.status, answer.text) == (404, "nobody is lost")
    assert browser.me() == {"seen": "404"}


def test_an_answer_that_can_not_be_sent_ends_no_session(
    base: str, server: Server
) -> None:
    browser = Browser(server, base)
    browser.get("/login?user=ann")
    assert (browser.get("/unsendable").status, browser.set) == (500, [])
    assert browser.me() == {"user": "ann"}


def test_an_error_page_of_main_reads_it(base: str, server: Server) -> None:
    browser = Browser(server, base)
    browser.get("/login?user=ann")
    answer = browser.get("/nowhere")
    assert (answer.status, answer.text, browser.set) == (404, "ann is lost", [])
    assert answer.headers["Vary"] == "Cookie"


def test_a_cache_never_keeps_who_somebody_is(base: str, server: Server) -> None:
    for control, read, changed in [
        ("public%2C%20max-age=60", "public, max-age=60", "no-store"),
        ("private%2C%20max-age=60", "private, max-age=60", "private, max-age=60"),
        ("no-store", "no-store", "no-store"),
    ]:
        browser = Browser(server, base)
        answer = browser.get(f"/public?control={control}")
        assert (answer.headers["Cache-Control"], browser.set) == (read, [])
        answer = browser.get(f"/public?put&control={control}")
        assert (answer.headers["Cache-Control"], len(browser.set)) == (changed, 1)
        assert answer.headers["Vary"] == "Cookie"


def test_a_response_that_the_program_holds_gives_nobody_the_session_of_another(
    base: str, server: Server
) -> None:
    for user in ("ann", "bob", "cho"):
        browser = Browser(server, base)
        assert browser.get(f"/held?user={user}").text == "the same for all"
        assert len(browser.set) == 1
        assert browser.me() == {"user": user}


def test_files_and_conditions_keep_the_cookie(base: str, server: Server) -> None:
    for path in ("/file", "/tagged"):
        browser = Browser(server, base)
        first = browser.get(path)
        assert (first.status, len(browser.set)) == (200, 1)
        second = browser.get(path, **{"If-None-Match": first.headers["ETag"]})
        assert (second.status, len(browser.set)) == (304, 1)
        assert browser.me() == {path[1:]: 2}


# Triggers and streams -----------------------------------------------------------------


def test_triggers_and_handler_share_one_session(base: str, server: Server) -> None:
    browser = Browser(server, base)
    expected = {"async": 1, "def": 1, "handler": 2}
    assert browser.get("/triggered").json == expected
    assert len(browser.set) == 1
    assert browser.me() == expected
    assert browser.get("/triggered").json == {**expected, "async": 2, "handler": 3}
    assert browser.me() == {**expected, "async": 2, "handler": 3}


def test_what_a_trigger_of_main_changes_is_saved(base: str, server: Server) -> None:
    browser = Browser(server, base)
    answer = browser.get("/passed")
    assert (answer.text, len(browser.set)) == ("the handler asks for no session", 1)
    assert answer.headers.get_all("Vary") == ["Cookie"]
    assert browser.me() == {"async": 1}


def test_a_trigger_that_answers_reads_it(base: str, server: Server) -> None:
    browser = Browser(server, base)
    answer = browser.get("/guarded")
    assert (answer.text, answer.headers["Vary"]) == ("who are you?", "Cookie")
    browser.get("/login?user=ann")
    answer = browser.get("/guarded")
    assert (answer.text, answer.headers["Vary"]) == ("inside", "Cookie")


def test_an_async_after_trigger_reads_and_changes_nothing(
    base: str, server: Server
) -> None:
    browser = Browser(server, base)
    assert browser.get("/late").status == 500
    assert browser.set == []
    browser.get("/login?user=ann")
    answer = browser.get("/late-look")
    assert (answer.headers["X-Late"], answer.headers["Vary"]) == ("ann", "Cookie")


def test_a_stream_saves_what_was_there_with_its_head(base: str, server: Server) -> None:
    browser = Browser(server, base)
    assert browser.get("/stream").text == "begun PixieError first"
    assert browser.me() == {"stream": "first"}
    if "pool" in base:
        assert browser.get("/stream-late").text == "begun PixieError"
        assert browser.set == []


# Forgery and time ---------------------------------------------------------------------

DAY = 86_400


def signed(value: Any, age: float, purpose: str = "session session /cookie") -> str:
    return sign(purpose, value, SECRET, time.time() - age)


def cookies_of_others() -> Iterator[Tuple[str, str]]:
    now = int(time.time())
    value = [now, {"user": "ann"}]
    good = signed(value, 0)
    yield (
        "of another secret",
        sign("session session /cookie", value, "another secret of 16 bytes", now),
    )
    yield "changed", good[:-1] + ("A" if good[-1] != "A" else "B")
    yield "no signature", good.partition(".")[0]
    yield "a cookie that the program signs", signed(value, 0, "session")
    yield "of another mount", signed(value, 0, "session session /state")
    yield "of the application above", signed(value, 0, "session session ")
    yield "idle for too long", signed([now - 15 * DAY, {"user": "a"}], 14 * DAY + 60)
    yield "too old", signed([now - 90 * DAY - 1, {"user": "ann"}], 0)
    yield "of the future", signed(value, -3600)
    yield "no session", signed("text", 0)
    yield "half of one", signed([now], 0)
    yield "no dict", signed([now, [1]], 0)
    yield "empty", ""
    yield "long", "x" * 5000
    yield "not ASCII", "é.é"


OTHERS = dict(cookies_of_others())


@pytest.mark.parametrize("cookie", OTHERS.values(), ids=OTHERS)
def test_a_cookie_that_is_none_of_ours_begins_anew(cookie: str, server: Server) -> None:
    for place in ("sync", "pool"):
        browser = Browser(server, f"/cookie/{place}")
        browser.cookie = cookie
        assert browser.me() == {}
        browser.cookie = cookie
        assert browser.get("/put?a=1").json == {"a": "1"}


def test_a_cookie_of_the_name_that_stands_in_front_does_not_hide_the_session(
    base: str, server: Server
) -> None:
    browser = Browser(server, base)
    browser.get("/login?user=ann")
    good = browser.cookie
    for others, found in [
        ("garbage; session={}", {"user": "ann"}),
        ("{}; session=garbage", {"user": "ann"}),
        ("; session=; session=a.b; session={}", {"user": "ann"}),
        ("; ".join(["a.b", *["session=a.b"] * 9, "session={}"]), {}),
        ("garbage; Session={}; session2={}", {}),
    ]:
        browser.cookie = others.replace("{}", str(good))
        assert browser.me() == found


def test_the_end_is_put_off_while_it_is_used(server: Server) -> None:
    now = int(time.time())
    for born, age, refreshed in [
        (2 * DAY, 0.1 * DAY, None),
        (2 * DAY, 1.5 * DAY, 14 * DAY),
        (80 * DAY, 13 * DAY, 10 * DAY),  # what the absolute time leaves
    ]:
        browser = Browser(server, "/cookie/pool")
        browser.cookie = signed([now - born, {"user": "ann"}], age)
        assert browser.me() == {"user": "ann"}
        found = [int(re.findall(r"Max-Age=(\d+)", line)[0]) for line in browser.set]
        assert [round(one / 60) for one in found] == (
            [] if refreshed is None else [round(refreshed / 60)]
        )
    browser.get("/login?user=ann")  # which renews it
    assert "Max-Age=1209600" in browser.set[0]


# Where it belongs ---------------------------------------------------------------------


def test_it_is_secure_over_https_and_of_its_path(server: Server) -> None:
    with serve(PROGRAM, trusted_proxies="127.0.0.1", root_path="/app%20") as running:
        headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "a.example"}
        answer = running.get("/cookie/pool/login?user=a", headers)
        line = answer.headers["Set-Cookie"]
        assert "; Path=/app%20/cookie; Secure; HttpOnly; SameSite=Lax" in line
        answer = running.get("/login?user=a", headers)
        assert "; Path=/app%20; Secure;" in answer.headers["Set-Cookie"]


@pytest.mark.skipif(IS_SINGLE, reason="the test client is in the package")
def test_a_cookie_of_its_host_alone_has_the_path_that_browsers_demand() -> None:
    app, below = Pixie(), Pixie(secrets=SECRET)
    below.sessions = Sessions(cookie="__Host-session")

    @below.get("/put", "sync")
    def put(env: Any) -> str:
        env.session["a"] = 1
        return "put"

    @below.get("/clear", "sync")
    def clear(env: Any) -> Any:
        found = dict(env.session)
        env.session.clear()
        return found

    app.mount("/below", below)
    app.root_path = "/app"
    with app.test(pool="inline") as client:
        line = client.get("/below/put").headers["Set-Cookie"]
        assert "; Path=/; Secure; HttpOnly; SameSite=Lax" in line
        headers = {"Cookie": line.partition(";")[0]}
        answer = client.get("/below/clear", headers=headers)
        assert answer.json() == {"a": 1}
        assert "; Path=/; Secure" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize("start", ["zygote", "spawn"])
def test_a_mounted_application_shares_the_sessions_above(start: str) -> None:
    with serve(PROGRAM, pool_start=start, workers=1) as running:
        # The options are set where only main does, in every worker they hold.
        line = running.get("/shared/login?user=ann").headers["Set-Cookie"]
        assert line.startswith("own=")
        assert "; Max-Age=60; Path=/; HttpOnly" in line
        headers = {"Cookie": line.partition(";")[0]}
        assert running.get("/me", headers).json == {"user": "ann"}
        assert running.get("/shared/me", headers).json == {"user": "ann"}
        assert running.get("/cookie/pool/me", headers).json == {}


def test_without_secrets_the_error_says_what_to_write() -> None:
    app = Pixie()
    home = app.session_home()
    with pytest.raises(PixieError, match=r"Pixie\(secrets="):
        open_session(home, [], None)


WRONG: List[Any] = ["memory", "", 7, Sessions("redis"), Sessions(idle_seconds=0)]
WRONG += [Sessions(absolute_seconds=float("inf")), Sessions(cookie="a b")]
WRONG += [Sessions(idle_seconds=0.5), Sessions(absolute_seconds=0.9)]
WRONG += [Sessions(samesite="lax"), Sessions(idle_seconds=True), ["cookie"]]


@pytest.mark.parametrize("sessions", WRONG)
def test_what_can_be_no_sessions_is_refused(sessions: Any) -> None:
    with pytest.raises(PixieError):
        Pixie(secrets=SECRET, sessions=sessions)


# The dict itself ----------------------------------------------------------------------


def fresh(store: str = "cookie", state: Any = None, held: Any = None) -> Session:
    home = SessionHome(Sessions(store), (SECRET.encode(),), "", lambda: state)
    return open_session(home, [] if held is None else [f"session={held}"], None)


def kept(session: Session) -> Optional[str]:
    """Return the cookie that is set when the head is made."""
    response = Response("")
    session.keep(response, "")
    found = re.search(rb"session=([^;]*)", response.header_block())
    return found.group(1).decode() if found else None


def test_it_is_a_dict_of_what_json_can_say() -> None:
    session = fresh()
    session.update(a=1, b=[1, 2])
    assert session == {"a": 1, "b": [1, 2]}
    assert session.pop("a") == 1
    assert (list(session), len(session), "b" in session) == (["b"], 1, True)
    assert session.get("x", 5) == 5
    for name, value in [(1, 1), ("x", object()), ("x", {1})]:
        with pytest.raises(TypeError):
            session[name] = value  # type: ignore[index]
    with pytest.raises(ValueError):
        session["x"] = float("nan")
    with pytest.raises(KeyError):
        del session["x"]
    assert session == {"b": [1, 2]}
    session["secret"] = "do not show"
    assert repr(session) == "<Session of b, secret>"
    assert fresh(held=kept(session)) == {"b": [1, 2], "secret": "do not show"}
    with pytest.raises(PixieError, match="ahead of its first yield"):
        session["a"] = 1


def test_the_largest_cookie_is_exactly_what_browsers_keep() -> None:
    def with_text(size: int) -> Session:
        session = fresh()
        session["x"] = "x" * size
        return session

    size = 2950
    while len(kept(with_text(size)) or "") + len("session") < MAX_COOKIE_CHARS - 1:
        size += 1
    text = kept(with_text(size))
    assert fresh(held=text) == {"x": "x" * size}
    with pytest.raises(ValueError, match=f"browsers drop it over {MAX_COOKIE_CHARS}"):
        with_text(size + 3)


@pytest.mark.skipif(IS_SINGLE, reason="the state is a companion")
def test_requests_side_by_side_overwrite_nothing_and_revive_nothing() -> None:
    from pixie_web.state import State

    state = State("memory")
    first = fresh("state", state)
    first.update(user="ann", a=0, b=0, gone=1)
    cookie = kept(first)

    def again() -> Session:
        return fresh("state", state, cookie)

    one, two = again(), again()
    one["a"] = 1
    two["b"] = 2
    del two["gone"]
    assert kept(one) is not None
    assert kept(two) is not None
    assert again() == {"user": "ann", "a": 1, "b": 2}

    one, two = again(), again()
    one["a"] = True
    one["b"] = [2.0]
    two["new"] = [0]
    kept(one)
    kept(two)
    assert dict(again())["a"] is True
    two = again()
    two["new"] = [False]
    kept(two)
    assert str(again()["new"]) == "[False]"

    one, two = again(), again()
    for name in list(one):
        del one[name]
    two["other"] = 3
    assert kept(two) is not None
    assert kept(one) is None  # it is not empty: another has set a name meanwhile
    assert again() == {"other": 3}
    one, two = again(), again()
    del one["other"]
    assert kept(one) == ""  # the cookie is dropped
    two["c"] = 1
    assert kept(two) is None
    assert again() == {}

    first = fresh("state", state)
    first.update(user="ann")
    cookie = kept(first)
    leaving, late = again(), again()
    leaving.clear()
    late["a"] = 3
    kept(leaving)
    assert kept(late) is None
    assert again() == {}
    state.close()


@pytest.mark.skipif(IS_SINGLE, reason="the state is a companion")
def test_the_state_holds_a_session_for_its_idle_time() -> None:
    from pixie_web.state import State

    state = State("memory")
    session = fresh("state", state)
    session["user"] = "ann"
    cookie = kept(session)
    renewed = fresh("state", state, cookie)
    renewed.renew()
    other = kept(renewed)
    assert fresh("state", state, cookie) == {}
    assert fresh("state", state, other) == {"user": "ann"}
    assert cookie is not None
    assert other is not None
    id = unsign("session session ", other, SECRET, None, time.time())
    entry = state.read(f"session:{id}")
    assert 14 * DAY - 5 < (entry.expire or 0) <= 14 * DAY
    assert len(id) == 32
    state.close()
