"""rate_limit as a trigger, and the state in the statistics."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from support import Server, server_fixture

from pixie_web import HTTPError, RouteError
from pixie_web.state import State, rate_limit
from pixie_web.state.limits import client_key, read_limit

LIMITS = [
    ("5/minute", (5, 60)),
    ("1/second", (1, 1)),
    ("100/hour", (100, 3600)),
    ("20/10 seconds", (20, 10)),
    (" 7 / 2 days ", (7, 172_800)),
]


@pytest.mark.parametrize("text, expected", LIMITS)
def test_a_limit_is_read(text: str, expected: Any) -> None:
    assert read_limit(text) == expected


BAD_LIMITS = [
    "",
    "5",
    "5/",
    "/minute",
    "0/minute",
    "-1/minute",
    "5/0 minutes",
    "5/week",
]
BAD_LIMITS += ["5/minute/2", "x/minute", "5/x minutes", "1.5/minute", "5 per minute", 5]


@pytest.mark.parametrize("text", BAD_LIMITS)
def test_another_limit_is_refused_where_it_is_written(text: Any) -> None:
    with pytest.raises(RouteError, match='written as "5/minute"'):
        rate_limit(text)


@pytest.mark.parametrize("name", ["a\nb", 'a"', "\\", "\u00e4"])
def test_a_name_is_fit_for_a_header(name: str) -> None:
    with pytest.raises(RouteError, match="name of a limit"):
        rate_limit("5/minute", name=name)


CLIENTS = [
    (("203.0.113.7", 1), "203.0.113.7"),
    (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
    (("2001:db8:1:2::9", 1), "2001:db8:1:2::/64"),
    (("fe80::1%eth0", 1), "fe80::/64"),
    (("::ffff:203.0.113.7", 1), "203.0.113.7"),
    (("unix:", 0), "unix:"),
    (("", 0), ""),
]


@pytest.mark.parametrize("client, expected", CLIENTS)
def test_a_client_is_its_address_or_its_network(client: Any, expected: str) -> None:
    env: Any = SimpleNamespace(client=client)
    assert client_key(env) == expected


def test_what_is_counted_apart_and_what_together() -> None:
    state = State()

    def request(path: str, who: Any) -> Any:
        application = SimpleNamespace(state=state)
        route = SimpleNamespace(path=path)
        return SimpleNamespace(app=application, route=route, who=who)

    async def allowed(trigger: Any, path: str, who: Any) -> bool:
        try:
            await trigger(request(path, who))
        except HTTPError as error:
            return error.status != 429
        return True

    async def ask() -> None:
        own = rate_limit("1/hour", key=lambda env: env.who)
        both = rate_limit("1/hour", key=lambda env: env.who, name="both")
        assert await allowed(own, "/a", "ann")
        assert not await allowed(own, "/a", "ann")
        assert await allowed(own, "/b", "ann")
        assert await allowed(own, "/a", "bob")
        assert await allowed(own, "/a", None)
        assert await allowed(own, "/a", None)
        assert await allowed(both, "/a", "ann")
        assert not await allowed(both, "/b", "ann")
        long = "x" * 5000 + "\ud800"
        assert await allowed(own, "/a", long)
        assert not await allowed(own, "/a", long)
        assert await allowed(own, "/a", long + "y")

    asyncio.run(ask())
    state.close()


PROGRAM = """
from pixie_web import Pixie, RouteType, app, run
from pixie_web.state import rate_limit

inner = Pixie()

@app.post("/login", before=[rate_limit("3/hour")])
def login(env):
    return {"calls": app.state.incr("calls")}

@inner.get("/search", RouteType.asnc, before=[rate_limit("1/hour", name="search")])
async def search(env):
    return {"calls": await inner.state.aio.incr("calls")}

@app.get("/calls")
def calls(env):
    return {"calls": app.state.get("calls")}

app.mount("/inner", inner)
app.status("/status")
if __name__ == "__main__":
    run()
"""
server = server_fixture(PROGRAM, ["asyncio"])


def test_who_asks_too_often_is_refused_ahead_of_its_body(server: Server) -> None:
    assert server.get("/status.json").json["state"] is None
    statuses = [server.request("POST", "/login").status for _ in range(3)]
    assert statuses == [200, 200, 200]
    # The body never comes, and the answer does.
    head = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"
    with server.connect() as one:
        one.sendall(head)
        answer = one.recv(65536).decode()
    lines = answer.split("\r\n")
    assert lines[0] == "HTTP/1.1 429 Too Many Requests"
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    wait = int(headers["Retry-After"])
    assert 1100 < wait <= 1200
    assert headers["RateLimit-Policy"] == '"default";q=3;w=3600'
    assert headers["RateLimit"] == f'"default";r=0;t={wait}'
    assert server.get("/calls").json == {"calls": 3}


def test_a_mounted_application_shares_the_state(server: Server) -> None:
    first, second = server.get("/inner/search"), server.get("/inner/search")
    assert (first.status, second.status) == (200, 429)
    assert second.headers["RateLimit-Policy"] == '"search";q=1;w=3600'
    assert server.get("/calls").json == first.json


def test_the_statistics_tell_of_the_state(server: Server) -> None:
    server.get("/inner/search")
    state = server.get("/status.json").json["state"]
    assert state["store"] == "file"
    assert state["keys"] == 1
    assert state["channels"] == state["subscribers"] == 0
    assert 0 < state["bytes"] < state["max_bytes"] == 32 * 2**20
    before = state["operations"]
    server.get("/calls")  # counted in a worker
    assert server.get("/status.json").json["state"]["operations"] > before
    text = server.get("/status/metrics").text
    assert "\npixie_web_state_keys 1\n" in text
    assert "# TYPE pixie_web_state_operations_total counter\n" in text
    assert "\npixie_web_state_wait_seconds_total 0.0\n" in text
