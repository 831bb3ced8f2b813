"""Proxies: whose word about the client counts, and how far back it is believed."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, List, Optional, Tuple

import pytest
from support import MATRIX, read_all, serve

from pixie_web import PixieError, ProtocolError, Request
from pixie_web.protocol.http11 import parse_head
from pixie_web.server.proxies import MAX_FORWARDED, TrustedProxies
from pixie_web.settings import read_settings

PROXIES = ("10.0.0.0/8", "192.168.7.7", "2001:db8::/32")
NEAR = "10.0.0.1"  # a trusted proxy


def ask(
    peer: str, *lines: str, proxies: Tuple[str, ...] = PROXIES
) -> Tuple[str, int, str, str]:
    head = "\r\n".join(["GET / HTTP/1.1", "Host: own:8000", *lines, "", ""])
    request = Request(parse_head(head.encode("latin-1")), (peer, 999))
    TrustedProxies(proxies).apply(request)
    return (*request.client, request.scheme, request.host)


# The peer, the header lines, and the client, port, scheme and host that come of it.
TABLE: List[Tuple[str, List[str], Tuple[str, int, str, str]]] = [
    (NEAR, [], (NEAR, 999, "http", "own:8000")),
    # Nobody else is believed.
    (
        "8.8.8.8",
        [
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-Proto: https",
            "Forwarded: for=1.1.1.1",
        ],
        ("8.8.8.8", 999, "http", "own:8000"),
    ),
    ("", ["X-Forwarded-For: 1.2.3.4"], ("", 999, "http", "own:8000")),
    (
        "no address",
        ["X-Forwarded-For: 1.2.3.4"],
        ("no address", 999, "http", "own:8000"),
    ),
    # X-Forwarded-*
    (NEAR, ["X-Forwarded-For: 1.2.3.4"], ("1.2.3.4", 0, "http", "own:8000")),
    (NEAR, ["X-Forwarded-For: 1.2.3.4:567"], ("1.2.3.4", 567, "http", "own:8000")),
    (NEAR, ["X-Forwarded-For: 1.2.3.4:65536"], ("1.2.3.4", 0, "http", "own:8000")),
    (NEAR, ["X-Forwarded-For: fe80::1%<b>"], (NEAR, 999, "http", "own:8000")),
    (NEAR, ['Forwarded: for="[fe80::1%<b>]"'], (NEAR, 999, "http", "own:8000")),
    (NEAR, ["X-Forwarded-For: 2001:DB9::1"], ("2001:db9::1", 0, "http", "own:8000")),
    (
        NEAR,
        ["X-Forwarded-For: [2001:db9::1]:5"],
        ("2001:db9::1", 5, "http", "own:8000"),
    ),
    (
        NEAR,
        ["X-Forwarded-Proto: https", "X-Forwarded-Host: a.example"],
        (NEAR, 999, "https", "a.example"),
    ),
    (
        "192.168.7.7",
        ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: HTTPS"],
        ("1.2.3.4", 0, "https", "own:8000"),
    ),
    ("2001:db8::5", ["X-Forwarded-For: 1.2.3.4"], ("1.2.3.4", 0, "http", "own:8000")),
    (
        "::ffff:10.0.0.9",
        ["X-Forwarded-For: 1.2.3.4"],
        ("1.2.3.4", 0, "http", "own:8000"),
    ),
    # The last that is no proxy of ours is the client; what stands before, it made up.
    (
        NEAR,
        ["X-Forwarded-For: 9.9.9.9, 1.2.3.4, 10.0.0.2"],
        ("1.2.3.4", 0, "http", "own:8000"),
    ),
    (
        NEAR,
        ["X-Forwarded-For: 9.9.9.9", "X-Forwarded-For: 1.2.3.4"],
        ("1.2.3.4", 0, "http", "own:8000"),
    ),
    (
        NEAR,
        ["X-Forwarded-For: 10.0.0.3, 10.0.0.2"],
        ("10.0.0.3", 0, "http", "own:8000"),
    ),
    (NEAR, ["X-Forwarded-For: 9.9.9.9, unknown"], (NEAR, 999, "http", "own:8000")),
    (NEAR, ["X-Forwarded-For: 9.9.9.9, "], ("9.9.9.9", 0, "http", "own:8000")),
    (NEAR, ["X-Forwarded-Proto: http, https"], (NEAR, 999, "https", "own:8000")),
    # What is nonsense is left out.
    (NEAR, ["X-Forwarded-Proto: javascript"], (NEAR, 999, "http", "own:8000")),
    (NEAR, ["X-Forwarded-Host: a b"], (NEAR, 999, "http", "own:8000")),
    (NEAR, ["X-Forwarded-Host: a/b"], (NEAR, 999, "http", "own:8000")),
    (NEAR, ["X-Forwarded-For: 1.2.3.4:99999999"], ("1.2.3.4", 0, "http", "own:8000")),
    (NEAR, ["X-Forwarded-For: 1.2.3.4:\xb2"], ("1.2.3.4", 0, "http", "own:8000")),
    # Forwarded
    (NEAR, ["Forwarded: for=1.2.3.4"], ("1.2.3.4", 0, "http", "own:8000")),
    (
        NEAR,
        ['Forwarded: For="[2001:db9::1]:80";Proto=https;Host="a.example:81";by=x'],
        ("2001:db9::1", 80, "https", "a.example:81"),
    ),
    (
        NEAR,
        ["Forwarded: for=9.9.9.9;proto=https, for=1.2.3.4, for=10.0.0.2"],
        ("1.2.3.4", 0, "http", "own:8000"),
    ),
    (
        NEAR,
        ["Forwarded: for=1.2.3.4 ; ;proto=https;"],
        ("1.2.3.4", 0, "https", "own:8000"),
    ),
    (
        NEAR,
        ["Forwarded: for=9.9.9.9,", "Forwarded: ,"],
        ("9.9.9.9", 0, "http", "own:8000"),
    ),
    (NEAR, ['Forwarded: for="x,y;z", for=1.2.3.4'], ("1.2.3.4", 0, "http", "own:8000")),
    (NEAR, ["Forwarded: for=unknown;proto=https"], (NEAR, 999, "https", "own:8000")),
    (NEAR, ["Forwarded: for=_hidden"], (NEAR, 999, "http", "own:8000")),
    (NEAR, ['Forwarded: for="1.2.3.\\4"'], ("1.2.3.4", 0, "http", "own:8000")),
    (NEAR, ["Forwarded: ,,;;,"], (NEAR, 999, "http", "own:8000")),
    # Both, by a proxy that writes both.
    (
        NEAR,
        ["Forwarded: for=1.2.3.4;proto=https"]
        + ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"],
        ("1.2.3.4", 0, "https", "own:8000"),
    ),
]


@pytest.mark.parametrize("peer, lines, result", TABLE)
def test_a_trusted_proxy_tells_who_asked(
    peer: str, lines: List[str], result: Tuple[str, int, str, str]
) -> None:
    assert ask(peer, *lines) == result


@pytest.mark.parametrize(
    "lines",
    [
        ["Forwarded: for=1.1.1.1", "X-Forwarded-For: 1.2.3.4"],
        ["Forwarded: for=1.2.3.4;proto=https", "X-Forwarded-For: 1.2.3.4"],
        ["Forwarded: for=1.2.3.4", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: a"],
    ],
)
def test_two_ways_to_say_it_that_differ_are_refused(lines: List[str]) -> None:
    # A proxy that writes one lets the other pass as the client made it up.
    with pytest.raises(ProtocolError, match="400 Forwarded and X-Forwarded-") as caught:
        ask(NEAR, *lines)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "lines",
    [
        # The open quote would swallow what the proxy adds.
        ['Forwarded: for="a;proto=https', "Forwarded: for=1.2.3.4"],
        ['Forwarded: for="a;proto=https, for=1.2.3.4'],
        ["Forwarded: for=9.9.9.9;for=1.2.3.4"],
        ["Forwarded: for 1.2.3.4"],
        ["Forwarded: =1.2.3.4"],
        ["Forwarded: for=1.2.3.4 proto=https"],
        ['Forwarded: for="1.2.3.4"x'],
    ],
)
def test_forwarded_that_is_malformed_is_refused(lines: List[str]) -> None:
    with pytest.raises(ProtocolError, match="400 The Forwarded header is not"):
        ask(NEAR, *lines)


def test_a_unix_socket_is_trusted_by_its_word() -> None:
    line = "X-Forwarded-For: 1.2.3.4"
    assert ask("", line, proxies=("unix",))[0] == "1.2.3.4"
    assert ask("1.1.1.1", line, proxies=("unix",))[0] == "1.1.1.1"


@pytest.mark.parametrize("name", ["10.0.0.0/33", "proxy.example", "", "*"])
def test_what_is_no_network_is_refused(name: str) -> None:
    with pytest.raises(PixieError, match=r'trusted_proxies are addresses, .*"unix"'):
        TrustedProxies([name])


def test_many_hops_are_read_in_linear_time() -> None:
    # As long as a head may be; a slow expression would take minutes.
    for piece in ('"', "a,", ", ", "=;", 'for="', "for=10.0.0.2,", '\\"', " ", "\t "):
        for name in ("Forwarded", "X-Forwarded-For"):
            try:
                ask(NEAR, f'{name}: a=b,{piece * (60_000 // len(piece))}"')
            except ProtocolError:
                pass


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host"])
@pytest.mark.parametrize("piece", [",", ", ", "for=10.0.0.2,", "10.0.0.2,"])
def test_a_client_can_not_name_more_proxies_than_there_can_be(
    name: str, piece: str
) -> None:
    few = piece * (MAX_FORWARDED // 2)
    if not (name == "Forwarded" and piece.startswith("1")):  # that is malformed
        ask(NEAR, f"{name}: {few}", f"{name}: {few[: -len(piece)]}")
    with pytest.raises(
        ProtocolError, match="400 A request passes 1000 proxies at most"
    ):
        ask(NEAR, f"{name}: {few}", f"{name}: {few}")
    ask("8.8.8.8", f"{name}: {few}", f"{name}: {few}")  # nobody believes it


def test_pairs_of_forwarded_count_like_hops() -> None:
    ask(NEAR, "Forwarded: " + ";" * MAX_FORWARDED)
    with pytest.raises(
        ProtocolError, match="400 A request passes 1000 proxies at most"
    ):
        ask(NEAR, "Forwarded: " + ";" * (MAX_FORWARDED + 1))


PROGRAM = """
from pixie_web import RouteType, route, run

def tell(env):
    return {"client": env.client, "scheme": env.scheme, "host": env.host}

async def tell_async(env):
    return tell(env)

for placement in (RouteType.sync, RouteType.thread, RouteType.pool):
    route(f"/{placement.name}", placement)(tell)
route("/asnc", RouteType.asnc)(tell_async)

@route("/cookie", RouteType.sync)
def cookie(env):
    from pixie_web import Response
    response = Response("")
    response.set_cookie("a", "b")
    return response

run()
"""
HEADERS = {
    "X-Forwarded-For": "1.2.3.4:5",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "a.example",
}


@pytest.mark.parametrize("placement", ["sync", "thread", "asnc", "pool"])
@pytest.mark.parametrize("proxies", ["127.0.0.0/8, unix", "10.0.0.0/8"])
def test_every_placement_is_told(placement: str, proxies: str) -> None:
    with serve(PROGRAM, trusted_proxies=proxies) as server:
        told = server.get(f"/{placement}", HEADERS).json
        cookie = server.get("/cookie", HEADERS).headers["set-cookie"]
        if proxies.startswith("127"):
            client: Any = ["1.2.3.4", 5]
            assert told == {"client": client, "scheme": "https", "host": "a.example"}
            assert "; Secure" in cookie
            server.wait_for_log(' 1.2.3.4 "GET /')
            refused = server.get("/sync", {**HEADERS, "Forwarded": "for=6.6.6.6"})
            assert (refused.status, refused.headers["connection"]) == (400, "close")
        else:
            assert told["client"][0] == "127.0.0.1"
            assert (told["scheme"], "; Secure" in cookie) == ("http", False)


def test_a_proxy_on_a_unix_socket_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    program = PROGRAM.replace(
        "run()", f"run(uds={str(path)!r}, trusted_proxies=['unix'])"
    )
    lines = [f"{name}: {value}" for name, value in HEADERS.items()]
    sent = "\r\n".join(["GET /sync HTTP/1.0", *lines, "", ""]).encode()
    with over_unix_socket(program, path) as one:
        one.sendall(sent)
        answer = read_all(one)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["client"] == ["1.2.3.4", 5]


class over_unix_socket:
    """A program that listens on a Unix socket, and a connection to it."""

    def __init__(self, program: str, path: Path) -> None:
        self.program, self.path = program, path
        self.process: Optional[Any] = None

    def __enter__(self) -> socket.socket:
        import subprocess
        import sys

        script = self.path.with_name("program.py")
        script.write_text(self.program, encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stderr=subprocess.PIPE
        )
        assert self.process.stderr is not None
        assert b" over " in self.process.stderr.readline()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(self.path))
        return self.socket

    def __exit__(self, *error: object) -> None:
        assert self.process is not None
        self.socket.close()
        self.process.terminate()
        self.process.communicate()


def test_the_setting_is_read_from_a_variable() -> None:
    settings = read_settings({}, {"PIXIE_TRUSTED_PROXIES": "10.0.0.0/8 unix,::1"})
    assert settings["trusted_proxies"] == ("10.0.0.0/8", "unix", "::1")


# A path that a proxy takes off --------------------------------------------------------

ROOT_PATHS = [
    ("/app", "/app"),
    ("/app/", "/app"),
    ("/", ""),
    ("", ""),
    ("/a/b%C3%BC/c.d~", "/a/b%C3%BC/c.d~"),
    # Of several the nearest proxy's; a client can only put its own in front.
    ("/evil, /app", "/app"),
    ("/app, /evil/..", ""),
    # What names another host, leaves the directory, or is none.
    ("//evil.example", ""),
    ("/\\evil.example", ""),
    ("/a//b", ""),
    ("/..", ""),
    ("/a/./b", ""),
    ("https://evil.example/", ""),
    ("app", ""),
    ("/a b", ""),
    ("/a?b", ""),
    ("/a#b", ""),
    ('/a"onload="', ""),
    ("/<script>", ""),
    ("/%", ""),
    ("/%4", ""),
    ("/gr\xf6\xdfe", ""),
]


@pytest.mark.parametrize("prefix, root_path", ROOT_PATHS)
def test_the_path_that_a_trusted_proxy_has_taken_off(
    prefix: str, root_path: str
) -> None:
    for peer in (NEAR, "8.8.8.8"):
        head = f"GET /x?y HTTP/1.1\r\nHost: a\r\nX-Forwarded-Prefix: {prefix}\r\n\r\n"
        request = Request(parse_head(head.encode("latin-1")), (peer, 999))
        TrustedProxies(PROXIES).apply(request)
        believed = root_path if peer == NEAR else ""
        assert request.root_path == believed
        assert request.url == f"http://a{believed}/x?y"


PREFIXED = """
import json
from pixie_web import Pixie, Response, app, run, template

inner = Pixie()
app.mount("/in ner", inner)

def answer(env):
    return [app.url_for("home"), inner.url_for("item", n=1), env.url, env.path]

for where in ("sync", "thread", "pool"):
    app.route(f"/{where}", where)(answer)
    inner.route(f"/{where}", where, name=where)(answer)

@app.route("/asnc")
async def asnc(env):
    return answer(env)

@app.route("/stream")
def stream(env):
    yield Response(content_type="application/json")
    yield json.dumps(answer(env))

@app.route("/", "sync")
def home(env):
    return ""

@inner.route("/item/<n>")
def item(env, n):
    return ""

@app.error(404)
def missing(env, error):
    return [app.url_for("home")]

@app.on_start
def start():
    app.at_start = app.url_for("home")

@app.route("/at-start", "sync")
def at_start(env):
    return [app.at_start]

run()
"""


@pytest.mark.parametrize("loop, start", MATRIX)
def test_links_have_the_path_that_a_proxy_takes_off(loop: str, start: str) -> None:
    with serve(
        PREFIXED,
        loop=loop,
        pool_start=start,
        root_path="/set/",
        trusted_proxies="127.0.0.1",
    ) as server:
        for headers, root in (
            ({}, "/set"),
            ({"X-Forwarded-Prefix": "/app"}, "/app"),
            ({"X-Forwarded-Prefix": "//evil"}, "/set"),
        ):
            item = f"{root}/in%20ner/item/1"
            for place in ("sync", "thread", "asnc", "pool", "stream"):
                url = f"{server.url}{root}/{place}"
                answer = server.get(f"/{place}", headers)
                assert answer.json == [f"{root}/", item, url, f"/{place}"]
            url = f"{server.url}{root}/in%20ner/pool"
            below = server.get("/in%20ner/pool", headers)
            assert below.json == [f"{root}/", item, url, "/pool"]
            assert server.get("/none", headers).json == [f"{root}/"]
        assert server.get("/at-start", {"X-Forwarded-Prefix": "/app"}).json == ["/set/"]
