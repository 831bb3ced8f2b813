"""The name of a request: taken or made, and the same wherever it is told."""

from __future__ import annotations

import re
from typing import Any, Dict

import pytest
from support import MATRIX, Server, server_fixture

from pixie_web.protocol.http11 import parse_head
from pixie_web.requests import Request

PROGRAM = """\
from pixie_web import Pixie, run, app

gpu = app.pool("gpu", workers=1)

@app.before
async def early(env):
    if env.query.get("early"):
        env.context["early"] = env.request_id

def told(env):
    if env.query.get("fail"):
        raise ValueError("it failed")
    return {"id": env.request_id, **env.context}

for place in ("sync", "thread", "pool"):
    app.route(f"/{place}", place)(told)
app.route("/gpu", pool="gpu")(told)

@app.get("/asnc", "asnc")
async def told_async(env):
    return told(env)

@app.get("/quiet", "sync")
def quiet(env):
    return "quiet"

run()
"""
PLACES = ["sync", "thread", "pool", "gpu", "asnc"]
TOKEN = re.compile(r"[0-9a-f]{8}-[0-9a-f]+")
server = server_fixture(
    PROGRAM, MATRIX, access_log_format="%(request)s has %(request_id)s", workers=1
)


def request(*values: str) -> Request:
    lines = "".join(f"X-Request-ID: {value}\r\n" for value in values)
    return Request(
        parse_head(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode("latin-1"))
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("query", ["", "?early=1"])
def test_one_that_is_made_is_the_same_in_handler_trigger_and_log(
    server: Server, place: str, query: str
) -> None:
    mark = server.mark()
    said: Dict[str, Any] = server.get(f"/{place}{query}").json
    assert TOKEN.fullmatch(said["id"])
    assert said.get("early", said["id"]) == said["id"]
    spoken = server.protocol
    server.wait_for_log(f"GET /{place}{query} {spoken} has {said['id']}", mark)
    assert server.get(f"/{place}{query}").json["id"] != said["id"]


@pytest.mark.parametrize("place", PLACES)
def test_a_failure_names_it_in_the_traceback_and_in_the_access_log(
    server: Server, place: str
) -> None:
    for headers in {}, {"X-Request-ID": "from-the-proxy_1"}:
        mark = server.mark()
        assert server.get(f"/{place}?fail=1", headers).status == 500
        line = server.wait_for_log(f"GET /{place}?fail=1 {server.protocol} has ", mark)
        name = line.rpartition(" has ")[2].strip()
        assert name == headers.get("X-Request-ID", name)
        record = server.wait_for_log(f"GET /{place}?fail=1 failed in /{place} (", mark)
        assert record.rstrip().endswith(f"), request {name}")


@pytest.mark.parametrize("given", ["a", "0f" * 32, "!#$%&'*+-.^_`|~9Z"])
def test_a_token_of_at_most_64_is_taken(given: str) -> None:
    assert request(given).request_id == given


@pytest.mark.parametrize(
    "given", ["", "a" * 65, "a b", 'a"', "a,b", "\xe4", "a/b", "a=b"]
)
def test_what_is_no_such_token_is_not(given: str) -> None:
    one = request(given)
    assert TOKEN.fullmatch(one.request_id)
    assert one.request_id == one.request_id


def test_of_two_none_is_taken() -> None:
    assert TOKEN.fullmatch(request("a", "b").request_id)


def test_none_is_made_unless_somebody_asks() -> None:
    one, other = request(), request()
    assert (one.number, one._headers) == (0, None)
    assert other.request_id != request().request_id
    assert one.number == 0
