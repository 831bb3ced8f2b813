"""An application that has chosen what writes and reads its JSON."""

from __future__ import annotations

import importlib
import json
from functools import partial
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest
from support import Server, serve

from pixie_web import HTTPError, Pixie, PixieError, Request, RouteError
from pixie_web.protocol.http11 import parse_head
from pixie_web.text import json_default_hook, read_json, write_json

PROGRAM = """
import json, os
from pixie_web import Pixie, RouteType, abort

def dumps(value):
    return json.dumps({"by": os.getpid(), "value": value}).encode()

def loads(data):
    if data == b"no":
        raise KeyError("no")
    return json.loads(data)["value"]

app = Pixie(json=(dumps, loads), secrets="0123456789abcdef")
below = Pixie()
strict = Pixie()
strict.json_default = lambda value: "by default"
app.mount("/below", below)
app.mount("/strict", strict)

def told(env):
    return {"told": env.json}

def nan(env):
    return [float("nan")]

def fails(env):
    abort(409, ["why"])

def signed(env):
    env.context["seen"] = True
    told = env.cookie("a")
    from pixie_web import Response
    return Response([told, env.context]).set_cookie("a", ["signed"])

for one in (app, below, strict):
    for name in ("sync", "thread", "pool"):
        where = RouteType[name]
        one.route(f"/{name}/told", where, "POST")(told)
        one.route(f"/{name}/nan", where)(nan)
        one.route(f"/{name}/fails", where)(fails)
        one.route(f"/{name}/signed", where)(signed)

    @one.route("/asnc/told", RouteType.asnc, "POST")
    async def told_later(env):
        return {"told": env.json}

@strict.get("/object")
def unknown(env):
    return [object()]

if __name__ == "__main__":
    app.run(workers=1)
"""
PLACES = ["sync", "thread", "asnc", "pool"]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("library") / "program.py"
    path.write_text(PROGRAM)
    with serve(path) as server:
        yield server


@pytest.mark.parametrize("prefix", ["", "/below"])
@pytest.mark.parametrize("place", PLACES)
def test_it_writes_and_reads_in_every_placement(
    place: str, prefix: str, server: Server
) -> None:
    path = f"{prefix}/{place}/told"
    answer = server.request("POST", path, b'{"value": NaN}', JSON)
    assert answer.status == 200
    assert answer.text.endswith('"value": {"told": NaN}}')
    assert (answer.json["by"] != server.process.pid) == (place == "pool")
    for body in b"no", b"{", b"[" * 100_000:
        refused = server.request("POST", path, body, JSON)
        assert (refused.status, "not JSON" in refused.text) == (400, True)
    text = server.request("POST", path, b"{}", {"Content-Type": "text/plain"})
    assert text.status == 415


@pytest.mark.parametrize("place", ["sync", "thread", "pool"])
def test_its_rules_hold_for_answers_and_errors(place: str, server: Server) -> None:
    assert "NaN" in server.request("GET", f"/{place}/nan").text
    answer = server.request("GET", f"/below/{place}/fails")
    assert (answer.status, answer.json["value"]) == (409, ["why"])


@pytest.mark.parametrize("place", ["sync", "thread", "pool"])
def test_what_is_signed_or_travels_is_not_its(place: str, server: Server) -> None:
    answer = server.request("GET", f"/{place}/signed")
    cookie = answer.headers["set-cookie"].partition(";")[0]
    again = server.request("GET", f"/{place}/signed", headers={"Cookie": cookie})
    assert again.json["value"] == [["signed"], {"seen": True}]


def test_a_mounted_application_that_has_a_default_keeps_its_own(server: Server) -> None:
    answer = server.request("POST", "/strict/sync/told", b"[1]", JSON)
    assert answer.text == '{"told":[1]}'
    assert server.request("GET", "/strict/sync/nan").status == 500
    assert server.request("GET", "/strict/object").text == '["by default"]'


# Declaring it -------------------------------------------------------------------------

NAMES = ["json", "ujson", "orjson", "rapidjson", "msgspec"]
VALUE: Dict[str, Any] = {"a": [1, 2.5, None, True, "ä", {"b": []}]}


def of_name(name: str) -> Any:
    module = pytest.importorskip(name)
    return (module.json.encode, module.json.decode) if name == "msgspec" else module


@pytest.mark.parametrize("name", NAMES)
def test_a_library_is_taken_as_it_is(name: str) -> None:
    app = Pixie(json=of_name(name))
    token = json_default_hook.set(app.json_hook)
    try:
        data = write_json(VALUE)
        assert type(data) is bytes
        assert json.loads(data) == read_json(data) == VALUE
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\r\n"
        env = Request(parse_head(head))
        env.body = data
        assert env.json == VALUE
        for wrong in b"{", b'"\xff"', b"[" * 100_000, b"":
            with pytest.raises(HTTPError, match="400"):
                read_json(wrong)
    finally:
        json_default_hook.reset(token)


def test_half_a_surrogate_is_sent_as_its_escape() -> None:
    app = Pixie(json=(partial(json.dumps, ensure_ascii=False), json.loads))
    token = json_default_hook.set(app.json_hook)
    try:
        assert write_json("\ud800") == b'"\\ud800"'
    finally:
        json_default_hook.reset(token)


NO_LIBRARIES: List[Any] = [
    5,
    "json",
    importlib.import_module("math"),
    (json.dumps,),
    (json.dumps, json.loads, json.load),
    (json.loads, json.dumps),
    (json.dumps, lambda text: json.loads(text.encode())),
    (json.dumps, lambda data: None),
    SimpleNamespace(dumps=lambda value: 5, loads=json.loads),
    [],
]


@pytest.mark.parametrize("choice", NO_LIBRARIES, ids=lambda choice: repr(choice)[:40])
def test_what_is_none_is_refused_where_it_is_given(choice: Any) -> None:
    with pytest.raises(PixieError, match="json= is a module with dumps and loads"):
        Pixie(json=choice)


def test_there_is_one_word_on_json() -> None:
    app = Pixie(json=json)
    assert app.json is not None
    assert app.json_default is None
    with pytest.raises(RouteError, match="give the function to the library"):
        app.json_default = str
    app.json_default = None
    assert app.json is not None
    app.json = None
    app.json_default = str
    with pytest.raises(RouteError, match="give the function to the library"):
        app.json = json
    assert (app.json, app.json_default) == (None, str)
    app.freeze()
    with pytest.raises(RouteError):
        app.json = json
