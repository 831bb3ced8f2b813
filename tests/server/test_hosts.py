"""Which hosts are served: run(allowed_hosts=...), after what proxies say."""

from __future__ import annotations

import re
from typing import List, Tuple

import pytest
from support import LOOPS, serve

from pixie_web import PixieError
from pixie_web.protocol.http11 import parse_head
from pixie_web.server.proxies import AllowedHosts
from pixie_web.settings import read_settings

ALL = ["example.com", "a.example.com", "evil.example", "10.0.0.1", "[::1]", ""]

# What is allowed, a host as clients send it, and whether it is served.
TABLE: List[Tuple[str, str, bool]] = [
    ("*", "example.com", True),
    ("*", "", True),  # HTTP/1.0 sends none
    ("example.com", "example.com", True),
    ("example.com", "example.com:8000", True),
    ("example.com", "EXAMPLE.com:1", True),
    ("example.com", "example.com.", True),
    ("example.com", "example.com.:80", True),
    ("example.com", "example.com:", True),
    ("example.com", "example.com..", False),
    ("example.com", "a.example.com", False),
    ("example.com", "notexample.com", False),
    ("example.com", "example.com.evil.example", False),
    ("example.com", "com", False),
    ("example.com", "", False),
    ("example.com", "ex%61mple.com", False),
    ("Example.COM.:443", "example.com:80", True),
    ("a-b_c.example", "a-b_c.example", True),
    ("localhost 127.0.0.1,[::1]", "localhost:8000", True),
    ("localhost 127.0.0.1,[::1]", "127.0.0.1:8000", True),
    ("localhost 127.0.0.1,[::1]", "[::1]:8000", True),
    ("localhost 127.0.0.1,[::1]", "[::1]", True),
    ("localhost 127.0.0.1,[::1]", "[::2]", False),
    ("localhost 127.0.0.1,[::1]", "evil.example", False),
    ("[FE80::1]", "[fe80::1]:80", True),
    # As in Django: the name itself, and all below it.
    (".example.com", "example.com", True),
    (".example.com", "a.example.com:8000", True),
    (".example.com", "a.b.EXAMPLE.com.", True),
    (".example.com", "notexample.com", False),
    (".example.com", "example.com.evil.example", False),
    (".example.com", "", False),
    # As in certificates: all below it.
    ("*.example.com", "a.example.com", True),
    ("*.example.com", "a.b.example.com", True),
    ("*.example.com", "example.com", False),
    ("*.example.com example.com", "example.com", True),
    ("*.example.com", "*.example.com", False),
    # What is below has to be a name, whatever else a host may hold (RFC 3986 3.2.2).
    (".example.com", "evil.example%2f.example.com", False),
    (".example.com", "evil.example;.example.com", False),
    (".example.com", "evil.example&a=.example.com", False),
    (".example.com", "[::1].example.com", False),
]


def allowed(text: str) -> AllowedHosts:
    settings = read_settings({}, {"PIXIE_ALLOWED_HOSTS": text})
    return AllowedHosts(settings["allowed_hosts"])


@pytest.mark.parametrize("names, host, served", TABLE)
def test_a_host_is_served_if_it_is_named(names: str, host: str, served: bool) -> None:
    assert allowed(names).allow(host) is served


def test_every_host_is_served_unless_something_is_said() -> None:
    hosts = AllowedHosts(read_settings({}, {})["allowed_hosts"])
    assert [host for host in ALL if not hosts.allow(host)] == []


@pytest.mark.parametrize("names", ["", " ", ","])
def test_no_names_are_an_error_and_not_every_host(names: str) -> None:
    with pytest.raises(
        PixieError, match=r'allowed_hosts is empty: leave it out, .*"\*"'
    ):
        allowed(names)


@pytest.mark.parametrize(
    "name",
    ["http://a.example", "a.example/", ".", "*.", "*a.example", "a.*.example", "**"]
    + [
        "..a.example",
        "caf\u00e9.example",
        "a b@c",
        ":80",
        "[::1",
        "a.example:port",
        "\n",
    ]
    + ["a.example\n"],
)
def test_what_is_no_host_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(PixieError, match=r"allowed_hosts are names .*without a scheme"):
        AllowedHosts(["good.example", name])


PROGRAM = """
from pixie_web import RouteType, route, run

for placement in (RouteType.sync, RouteType.pool):
    @route(f"/{placement.name}", placement, ["GET", "POST"])
    def url(env):
        return env.url

run()
"""
HOSTS = "served.example *.below.example"


@pytest.mark.parametrize("loop", LOOPS)
def test_another_host_gets_400_before_any_handler(loop: str) -> None:
    with serve(PROGRAM, loop=loop, allowed_hosts=HOSTS) as server:
        for path in ("/sync", "/pool", "/nowhere"):
            for host, status in [
                ("served.example", b"404" if path == "/nowhere" else b"200"),
                ("a.below.example:9", b"404" if path == "/nowhere" else b"200"),
                ("evil.example", b"400"),
                ("below.example", b"400"),
            ]:
                head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n"
                answer = server.raw(f"{head}Connection: close\r\n\r\n".encode())
                assert answer[9:12] == status
                assert (b"No such host is served here." in answer) == (status == b"400")
                assert b"evil" not in answer
        # A body is not waited for, and what follows it is no request.
        head = "POST /sync HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 9\r\n\r\n"
        answer = server.raw(head.encode() + b"GET / HTT" * 2)
        assert (answer[9:12], answer.count(b"HTTP/1.1 ")) == (b"400", 1)
        # The host of a URL goes before that of the header (RFC 9112 3.2.2).
        for target, status in ("served.example", b"200"), ("evil.example", b"400"):
            head = f"GET http://{target}/sync HTTP/1.1\r\nHost: served.example\r\n"
            answer = server.raw(f"{head}Connection: close\r\n\r\n".encode())
            assert answer[9:12] == status
        assert server.raw(b"GET /sync HTTP/1.0\r\n\r\n")[9:12] == b"400"
        line = r'"GET /nowhere HTTP/1\.1" 400 \d+ \S+ - q=0\.0ms refused$'
        server.wait_for_log(re.compile(line))


def test_the_host_is_that_which_a_trusted_proxy_names() -> None:
    with serve(PROGRAM, allowed_hosts=HOSTS, trusted_proxies="127.0.0.1") as server:
        for own, forwarded, status in [
            ("proxy", "served.example", 200),
            ("proxy", "evil.example", 400),
            ("served.example", "evil.example", 400),
        ]:
            headers = {"Host": own, "X-Forwarded-Host": forwarded}
            assert server.get("/sync", headers).status == status
    with serve(PROGRAM, allowed_hosts=HOSTS) as server:
        headers = {"Host": "served.example", "X-Forwarded-Host": "evil.example"}
        assert server.get("/sync", headers).text == "http://served.example/sync"


def test_the_log_names_the_host_that_was_refused() -> None:
    form = "%(host)s|%(status)d|%(outcome)s"
    with serve(PROGRAM, allowed_hosts="a.example", access_log_format=form) as server:
        server.get("/sync", {"Host": "evil.example:1"})
        server.wait_for_log("evil.example:1|400|refused")
        server.get("/sync", {"Host": "a.example"})
        server.wait_for_log("a.example|200|complete")


@pytest.mark.parametrize("names", ["", "http://a.example"])
def test_a_program_does_not_start_with_hosts_that_are_none(names: str) -> None:
    started = serve(PROGRAM, allowed_hosts=names)
    with pytest.raises(RuntimeError, match="pixie_web: allowed_hosts "):
        started.__enter__()


def test_each_host_that_a_head_may_have_is_looked_at() -> None:
    for host in ("a;b", "a%00", "~", "a" * 300, "[::ffff:1.2.3.4]:80", "1.2.3.4:"):
        head = parse_head(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert not allowed("*.example.com example.com").allow(head.host)
