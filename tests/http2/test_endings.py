"""How connections of HTTP/2 begin and end: times, drains, protocols, log lines."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, List

import pytest
from http2_client import (
    END_HEADERS,
    END_STREAM,
    ENDS,
    GET,
    GOAWAY,
    PING,
    PRIORITY,
    RST,
    WINDOW,
    HTTP2Client,
    asking,
    bodies,
    data,
    ends,
    frame,
    headers,
    hello,
    number,
    settings,
    statuses,
)
from played_http2 import Played
from virtual_server import serving
from virtual_time import in_virtual_time, quiet

from pixie_web import Pixie, RouteType, static_file
from pixie_web.http2.heads import read_priority
from pixie_web.server.listeners import tls_context

CERTIFICATE = Path(__file__).parents[1] / "programs" / "localhost.pem"
PEM = CERTIFICATE.read_bytes()
FORMAT = "%(request)s %(status)d %(bytes)d %(outcome)s"
app = Pixie()
stopped: List[str] = []


@app.route("/", RouteType.sync)
def index(env: Any) -> str:
    return f"{env.protocol} {env.host}"


@app.route("/cookies", RouteType.sync)
def cookies(env: Any) -> str:
    return f"{env.header('cookie')} {env.scheme}"


@app.route("/wait", RouteType.asnc)
async def wait(env: Any) -> str:
    await asyncio.sleep(5)
    return "waited"


@app.route("/stops", RouteType.asnc, on_disconnect="stop")
async def stops(env: Any) -> str:
    try:
        await asyncio.sleep(5)
    except asyncio.CancelledError:
        stopped.append(env.path)
        raise
    return "for nobody"


@app.route("/post", RouteType.asnc, method="POST", max_body_bytes=1000)
async def post(env: Any) -> bytes:
    return bytes(env.body)


@app.route("/beats", RouteType.asnc, heartbeat=b":\n", heartbeat_seconds=2)
async def beats(env: Any) -> Any:
    yield b"first\n"
    await asyncio.sleep(5)
    yield b"last\n"


@app.route("/pauses", RouteType.asnc)
async def pauses(env: Any) -> Any:
    yield PEM
    await asyncio.sleep(5)


@app.route("/file", RouteType.sync)
def file(env: Any) -> Any:
    return static_file(CERTIFICATE.name, CERTIFICATE.parent, cache=False)


@app.route("/large", RouteType.sync)
def large(env: Any) -> bytes:
    return bytes(400_000)


OPEN = headers(1, asking("/post", method="POST"), END_HEADERS)


@in_virtual_time
async def test_a_plain_port_speaks_both_protocols() -> None:
    async with serving(app.handle) as site:
        client = HTTP2Client(site.connect())
        found = await client.say(hello(), headers(1, GET))
        assert bodies(found) == {1: b"HTTP/2 localhost"}
        other = site.connect()
        assert b"HTTP/1.1 a" in await other.get(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        # It is too late behind a request of the other.
        other.send(hello())
        assert b"HTTP/1.1 400" in await other.read_all()


@in_virtual_time
async def test_prior_knowledge_may_come_byte_by_byte() -> None:
    async with serving(app.handle) as site:
        client = HTTP2Client(site.connect())
        sent = hello() + headers(1, GET)
        for at in range(len(sent)):
            client.send(sent[at : at + 1])
            await quiet()
        assert statuses(await client.frames()) == {1: 200}


@in_virtual_time
async def test_without_it_a_preface_is_refused() -> None:
    async with serving(app.handle, http2=False) as site:
        client = site.connect()
        client.send(hello())
        assert (await client.read_all()).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "http2, offered, chosen",
    [
        (True, ["h2", "http/1.1"], "h2"),
        (True, ["http/1.1"], "http/1.1"),
        (False, ["h2", "http/1.1"], "http/1.1"),
    ],
)
@in_virtual_time
async def test_tls_offers_it(http2: bool, offered: List[str], chosen: str) -> None:
    context = tls_context(CERTIFICATE, None, http2)
    async with serving(app.handle, context, http2=http2) as site:
        client = await site.connect_tls(CERTIFICATE, offered)
        assert client.chosen == chosen
        if chosen == "h2":
            played = HTTP2Client(client)
            found = await played.say(hello(), headers(1, asking("/cookies")))
            assert bodies(found) == {1: b"None https"}
        else:
            assert b"HTTP/1.1 a" in await client.get(
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
            )


@in_virtual_time
async def test_cookies_are_one_line_again() -> None:
    async with serving(app.handle) as site:
        played = Played(site.server)
        asked = asking("/cookies", ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"))
        found = await played.say(hello(), headers(1, asked))
        assert bodies(found) == {1: b"a=1; b=2 http"}
        played.leave()


@in_virtual_time
async def test_the_end_has_two_steps_and_loses_no_request() -> None:
    async with serving(app.handle) as site:
        played = Played(site.server)
        await played.say(hello(), headers(1, asking("/wait")))
        end = asyncio.ensure_future(site.server.close())
        first = await played.say()
        assert [(one.kind, one.payload[:4]) for one in first] == [
            (GOAWAY, number(2**31 - 1)),
            (PING, b"drai"),
        ]
        # What was on its way is answered.
        assert statuses(await played.say(headers(3, GET))) == {3: 200}
        last = await played.say(frame(PING, 1, 0, first[1].payload))
        assert [(one.kind, one.payload) for one in last] == [
            (GOAWAY, number(3) + number(0))
        ]
        # What comes behind it is not: its client knows, and asks elsewhere.
        assert await played.say(headers(5, GET), data(5, b"x")) == []
        assert await played.say(frame(PRIORITY, 0, 7, number(7) + b"x")) == []
        assert not played.has_ended
        await asyncio.sleep(5)
        found = await played.say()
        assert bodies(found) == {1: b"waited"}
        assert played.has_ended
        await end


@in_virtual_time
async def test_a_client_that_never_answers_the_ping_is_ended_all_the_same() -> None:
    async with serving(app.handle) as site:
        played = Played(site.server)
        await played.say(hello(), headers(1, GET))
        end = asyncio.ensure_future(site.server.close())
        await played.say()
        await asyncio.sleep(1.2)
        assert ends(await played.say()) == [(GOAWAY, 0, 0)]
        await end


@in_virtual_time
async def test_idle_connections_end_with_goaway() -> None:
    async with serving(app.handle, keep_alive_seconds=20, head_seconds=5) as site:
        silent, idle, busy = (Played(site.server) for _ in range(3))
        await idle.say(hello(), headers(1, GET))
        await busy.say(hello(), headers(1, asking("/beats")))
        await asyncio.sleep(6)
        assert ends(await silent.say()) == [(GOAWAY, 0, 0)]
        await asyncio.sleep(10)
        # A PING is no request.
        assert [one.kind for one in await idle.say(frame(PING, 0, 0, bytes(8)))] == [
            PING
        ]
        await asyncio.sleep(6)
        assert ends(await idle.say()) == [(GOAWAY, 0, 0)]
        assert ends(await busy.say()) == []
        for one in (silent, idle, busy):
            one.leave()


@in_virtual_time
async def test_heartbeats_come_while_a_stream_waits() -> None:
    async with serving(app.handle) as site:
        played = Played(site.server)
        found = await played.say(hello(), headers(1, asking("/beats")))
        await asyncio.sleep(6)
        found += await played.say()
        assert bodies(found) == {1: b"first\n:\n:\nlast\n"}
        played.leave()


@in_virtual_time
async def test_a_body_that_comes_too_slowly_ends_its_stream_alone() -> None:
    async with serving(app.handle, body_idle_seconds=5) as site:
        played = Played(site.server)
        await played.say(hello(), OPEN, data(1, b"x"), headers(3, asking("/wait")))
        await asyncio.sleep(7)
        found = await played.say()
        assert statuses(found) == {1: 408, 3: 200}
        assert ends(found) == []  # or curl would drop the answer
        await asyncio.sleep(2)
        assert ends(await played.say()) == [(RST, 1, 0)]
        played.leave()


@in_virtual_time
async def test_a_body_too_large_is_refused_and_what_follows_is_dropped() -> None:
    async with serving(app.handle) as site:
        played = Played(site.server)
        found = await played.say(hello(), OPEN, data(1, bytes(5000)))
        assert statuses(found) == {1: 413} and ends(found) == []
        found = await played.say(data(1, bytes(16_000)) * 3, headers(3, GET))
        assert statuses(found) == {3: 200} and ends(found) == []
        await asyncio.sleep(2)
        found = await played.say(data(1, bytes(16_000)))
        assert ends(found) == [(RST, 1, 0)]
        played.leave()


@in_virtual_time
@pytest.mark.parametrize(
    "last", [data(1, b"x", END_STREAM), frame(RST, 0, 1, number(8))]
)
async def test_a_client_that_ends_its_request_by_itself_gets_no_reset(
    last: bytes,
) -> None:
    async with serving(app.handle) as site:
        played = Played(site.server)
        found = await played.say(hello(), OPEN, data(1, bytes(5000)))
        assert statuses(found) == {1: 413}
        await played.say(last)
        await asyncio.sleep(5)
        assert ends(await played.say()) == []
        played.leave()


@in_virtual_time
async def test_each_request_has_a_disconnect_of_its_own() -> None:
    async with serving(app.handle) as site:
        played = Played(site.server)
        stopped.clear()
        asked = [headers(n, asking("/stops")) for n in (1, 3)]
        await played.say(hello(), *asked)
        await played.say(frame(RST, 0, 1, number(8)))
        assert stopped == ["/stops"]
        played.leave()
        await quiet()
        await quiet()
        assert stopped == ["/stops"] * 2


@in_virtual_time
async def test_windows_hold_answers_back_and_the_most_urgent_goes_first() -> None:
    async with serving(app.handle) as site:
        played = Played(site.server)
        asked = headers(1, asking("/large", ("priority", "u=5")))
        found = await played.say(hello((4, 1_000_000)), asked)
        assert len(bodies(found)[1]) == 65_535  # the connection's window
        urgent = headers(3, asking("/large", ("priority", "u=1")))
        assert bodies(await played.say(urgent)) == {}
        found = await played.say(frame(WINDOW, 0, 0, number(400_000)))
        assert list(bodies(found)) == [3]
        found = await played.say(frame(WINDOW, 0, 0, number(400_000)))
        assert len(bodies(found)[1]) == 400_000 - 65_535
        # A smaller window may be less than nothing, and opens again.
        found = await played.say(settings((4, 0)), headers(5, GET))
        assert bodies(found) == {}
        found = await played.say(settings((4, 100)))
        assert bodies(found) == {5: b"HTTP/2 localhost"}
        played.leave()


@pytest.mark.parametrize("path", ["/pauses", "/file"])
@in_virtual_time
async def test_an_end_that_has_to_wait_for_another_answer_is_no_reset(
    path: str,
) -> None:
    async with serving(app.handle) as site:
        played = Played(site.server)
        await played.say(hello((4, 1_000_000)), headers(1, asking("/large")))
        found = await played.say(headers(3, asking(path)))
        while not played.connection.streams[3].has_queued:
            await asyncio.sleep(0)  # a thread reads the file
        # A turn of the first, and then all of the other but its end.
        window = frame(WINDOW, 0, 0, number(65_536 + len(PEM)))
        assert bodies(await played.say(window))[3] == PEM
        await asyncio.sleep(5)
        assert await played.say() == []
        found = await played.say(frame(WINDOW, 0, 0, number(400_000)))
        assert [one.stream for one in found if one.flags & END_STREAM] == [3, 1]
        assert ends(found) == []
        played.leave()


@in_virtual_time
async def test_a_refusal_whose_page_would_have_to_wait_is_its_status() -> None:
    async with serving(app.handle, allowed_hosts=["localhost"]) as site:
        played = Played(site.server)
        await played.say(hello((4, 1_000_000)), headers(1, asking("/large")))
        evil = [(name, value.replace(b"localhost", b"evil")) for name, value in GET]
        (found,) = await played.say(headers(3, evil))
        assert (statuses([found]), found.flags) == ({3: 400}, ENDS)
        played.leave()


@in_virtual_time
async def test_an_answer_that_was_reset_holds_no_other_back() -> None:
    async with serving(app.handle) as site:
        played = Played(site.server)
        asked = headers(3, asking("/pauses"))
        found = await played.say(hello((4, 1_000_000)), asked)
        assert bodies(found) == {3: PEM}
        found = await played.say(headers(5, asking("/large")))
        assert len(bodies(found)[5]) == 65_535 - len(PEM)  # no window is left
        await asyncio.sleep(5)  # the other ends, for which none is needed
        assert await played.say() == []
        found = await played.say(frame(RST, 0, 5, number(8)), headers(7, GET))
        assert [one.stream for one in found if one.flags & END_STREAM] == [3]
        played.leave()


@in_virtual_time
async def test_what_was_read_may_come_again() -> None:
    async with serving(app.handle, max_body_bytes=10_000_000) as site:
        played = Played(site.server)
        await played.say(hello(), headers(1, asking("/nobody", method="POST"), 4))
        for number_of in range(3, 203, 2):
            asked = headers(number_of, asking("/post", method="POST"), END_HEADERS)
            body = data(number_of, bytes(900), END_STREAM)
            found = await played.say(asked, body)
            assert len(bodies(found)[number_of]) == 900
            if number_of % 20 == 1:
                await played.say(frame(WINDOW, 0, 0, number(18_000)))
        played.leave()


@in_virtual_time
async def test_the_access_log_says_http_2(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pixie_web.access")
    async with serving(app.handle, access_log_format=FORMAT) as site:
        played = Played(site.server)
        await played.say(hello(), headers(1, GET), headers(3, asking("/x")))
        open_7 = headers(7, asking("/post", method="POST"), END_HEADERS)
        await played.say(headers(5, asking("x")), open_7)
        await played.say(frame(RST, 0, 7, number(8)))
        played.leave()
    lines = [one.getMessage() for one in caplog.records]
    assert lines[0] == "GET / HTTP/2 200 16 complete"
    assert lines[1].startswith("GET /x HTTP/2 404 ")
    assert lines[2] == "- 400 0 complete"
    assert lines[3] == "POST /post HTTP/2 499 0 left"


@pytest.mark.parametrize(
    "value, expected",
    [
        (b"", (3, False)),
        (b"u=0", (0, False)),
        (b"u=7, i", (7, True)),
        (b"i=?1,u=2", (2, True)),
        (b"i=?0", (3, False)),
        (b"u=8", (3, False)),
        (b"u=-1, u=x, u", (3, False)),
        (b"u=1;x=2, q=9", (1, False)),
        (b"\xff" * 9000 + b",u=1", (3, False)),
    ],
)
def test_a_priority(value: bytes, expected: Any) -> None:
    assert read_priority(value) == expected
