"""What clients do to hurt: each attack, and the frame that ends it."""

from __future__ import annotations

import asyncio
import resource
from typing import Any, AsyncIterator, List

import pytest
from http2_client import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENDS,
    GET,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    PRIORITY_UPDATE,
    RST,
    SETTINGS,
    WINDOW,
    asking,
    block,
    bodies,
    data,
    ends,
    frame,
    headers,
    hello,
    number,
    settings,
    statuses,
    text,
)
from played_http2 import Played
from virtual_server import serving
from virtual_time import in_virtual_time

from pixie_web import Pixie, RouteType
from pixie_web.http2.frames import ConnectionFault, FrameReader

app = Pixie()
CALM = 11  # ENHANCE_YOUR_CALM
running: List[int] = []


@app.route("/", RouteType.sync)
def index(env: Any) -> str:
    return "text"


@app.route("/wait", RouteType.asnc)
async def wait(env: Any) -> str:
    running.append(1)
    try:
        await asyncio.sleep(5)
    finally:
        running.pop()
    return "waited"


@app.route("/post", RouteType.asnc, method="POST")
async def post(env: Any) -> str:
    return str(len(env.body))


@app.route("/large", RouteType.sync)
def large(env: Any) -> bytes:
    return bytes(1024 * 1024)


pulled: List[int] = []


@app.route("/stream", RouteType.asnc)
async def stream(env: Any) -> AsyncIterator[bytes]:
    for at in range(100):
        pulled.append(at)
        yield bytes(100_000)


@app.route("/unread", RouteType.asnc, method="POST", stream_body=True)
async def unread(env: Any) -> str:
    await asyncio.sleep(5)
    return "unread"


OPEN = headers(1, asking("/post", method="POST"), END_HEADERS)
STREAMS = range(1, 40_001, 2)
FLOODS = {
    "rapid reset (CVE-2023-44487)": b"".join(
        headers(n, asking("/wait")) + frame(RST, 0, n, number(8)) for n in STREAMS
    ),
    "rapid reset of what was answered": b"".join(
        headers(n, GET) + frame(RST, 0, n, number(8)) for n in STREAMS
    ),
    "we are made to reset (CVE-2025-8671): a window of nothing": b"".join(
        headers(n, asking("/wait")) + frame(WINDOW, 0, n, number(0)) for n in STREAMS
    ),
    "the same: DATA behind the end": b"".join(
        headers(n, asking("/wait")) + data(n, b"x") for n in STREAMS
    ),
    "the same: windows that overflow": b"".join(
        headers(n, asking("/wait")) + frame(WINDOW, 0, n, number(2**31 - 1))
        for n in STREAMS
    ),
    "the same: malformed requests": b"".join(headers(n, asking("x")) for n in STREAMS),
    "the same: more requests than may run": b"".join(
        headers(n, asking("/wait")) for n in STREAMS
    ),
    "the same: header lists that are too large": b"".join(
        frame(HEADERS, END_STREAM, n, b"\x40\1x" + text(b"y" * 4000))
        + frame(CONTINUATION, END_HEADERS, n, b"\xbe" * 100)
        for n in range(1, 1001, 2)
    ),
    "CONTINUATION (CVE-2024-27316)": frame(HEADERS, END_STREAM, 1, block(GET))
    + frame(CONTINUATION, 0, 1, b"\x10\1x\1y" * 100) * 1000,
    "CONTINUATION of nothing": frame(HEADERS, END_STREAM, 1, block(GET))
    + frame(CONTINUATION, 0, 1) * 1000,
    "PING (CVE-2019-9512)": frame(PING, 0, 0, bytes(8)) * 200_000,
    "PING that is an answer": frame(PING, 1, 0, bytes(8)) * 200_000,
    "SETTINGS (CVE-2019-9515)": settings() * 100_000,
    "SETTINGS with many": settings(*[(4, 65_535)] * 2000) * 100,
    "SETTINGS that are an answer": frame(SETTINGS, 1, 0) * 100_000,
    "PRIORITY (CVE-2019-9513)": frame(PRIORITY, 0, 1, bytes(5)) * 100_000,
    "PRIORITY_UPDATE": frame(PRIORITY_UPDATE, 0, 0, number(1)) * 100_000,
    "WINDOW_UPDATE": frame(WINDOW, 0, 0, number(1)) * 100_000,
    "unknown frames": frame(99, 0, 0) * 100_000,
    "GOAWAY": OPEN + frame(GOAWAY, 0, 0, bytes(8)) * 100_000,
    "empty DATA (CVE-2019-9518)": OPEN + data(1, b"") * 100_000,
    "padding alone": OPEN + frame(DATA, 8, 1, b"\1\0") * 100_000,
    "small DATA": OPEN + data(1, b"x") * 80_000,
}


def cpu_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


@pytest.mark.parametrize("name", FLOODS)
@in_virtual_time
async def test_a_flood_ends_its_connection_and_no_other(name: str) -> None:
    async with serving(app.handle, access_log=False) as site:
        other = Played(site.server)
        await other.say(hello())
        played = Played(site.server)
        await played.say(hello())
        flood, found, began = FLOODS[name], [], cpu_seconds()
        for at in range(0, len(flood), 65_536):
            found += await played.say(flood[at : at + 65_536])
            assert sum(running) <= 100
            if played.has_ended:
                break
        assert [one.code for one in found if one.kind == GOAWAY][-1] == CALM
        assert played.has_ended
        assert sum(one.kind == RST for one in found) <= 210
        assert cpu_seconds() - began < 5  # of a machine that does other things too
        assert statuses(await other.say(headers(1, GET))) == {1: 200}
        other.leave()
        played.leave()


@in_virtual_time
async def test_what_browsers_do_is_no_flood() -> None:
    async with serving(app.handle, access_log=False) as site:
        played = Played(site.server)
        await played.say(hello())
        for turn in range(20):
            first = 1 + 200 * turn
            asked = b"".join(
                frame(PRIORITY, 0, n, bytes(5))
                + headers(n, GET)
                + frame(WINDOW, 0, n, number(1000))
                + frame(WINDOW, 0, 0, number(1000))
                for n in range(first, first + 200, 2)
            )
            found = await played.say(asked)
            assert len(statuses(found)) == 100
            assert ends(found) == []
        # A page is left: all that it has asked for is reset, every ten seconds.
        for turn in range(20, 25):
            first = 1 + 200 * turn
            numbers = range(first, first + 180, 2)
            found = await played.say(
                *[headers(n, asking("/wait")) for n in numbers],
                *[frame(RST, 0, n, number(8)) for n in numbers],
            )
            assert ends(found) == []
            await asyncio.sleep(10)
        played.leave()


def test_a_frame_of_16_mib_is_refused_by_its_header() -> None:
    reader = FrameReader()
    reader.feed(hello())
    assert reader.next_frame() is not None
    reader.feed(b"\xff\xff\xff\0\0\0\0\0\1")
    with pytest.raises(ConnectionFault) as caught:
        reader.next_frame()
    assert caught.value.code == 6


@in_virtual_time
async def test_a_header_list_that_is_too_large_is_answered_431() -> None:
    async with serving(app.handle, access_log=False) as site:
        played = Played(site.server)
        large = b"\x40\1x" + text(b"y" * 4000) + b"\xbe" * 20
        found = await played.say(hello(), frame(HEADERS, ENDS, 1, large))
        assert statuses(found) == {1: 431}
        fields = [(b"", b"")] * 1100  # 32 bytes for each: no less than for others
        empty = frame(HEADERS, ENDS, 3, block(fields))
        assert statuses(await played.say(empty)) == {3: 431}
        assert statuses(await played.say(headers(5, GET))) == {5: 200}
        played.leave()


@in_virtual_time
async def test_a_header_bomb_ends_its_connection() -> None:
    async with serving(app.handle, access_log=False) as site:
        played = Played(site.server)
        bomb = b"\x40\1x" + text(b"y" * 4000)
        bomb += b"\xbe" * (16_000 - len(bomb))
        found = await played.say(hello(), frame(HEADERS, ENDS, 1, bomb))
        assert ends(found) == [(GOAWAY, 0, CALM)]
        assert played.has_ended
        played.leave()


@in_virtual_time
async def test_nothing_is_pulled_for_a_window_of_zero() -> None:
    async with serving(app.handle, access_log=False, send_idle_seconds=20) as site:
        played = Played(site.server)
        asked = [headers(n, asking("/stream")) for n in range(1, 201, 2)]
        pulled.clear()
        found = await played.say(hello((4, 0)), *asked)
        assert len(statuses(found)) + len(statuses(await played.say())) == 100
        assert len(pulled) == 100  # the first piece of each
        assert bodies(found) == {}
        await asyncio.sleep(30)
        found = await played.say()
        assert len([one for one in found if one.kind == RST and one.code == 8]) >= 99
        assert len(pulled) == 100
        assert not site.server.running
        played.leave()


@in_virtual_time
async def test_who_takes_nothing_is_looked_at_though_it_pings_all_the_time() -> None:
    async with serving(app.handle, access_log=False, send_idle_seconds=20) as site:
        played = Played(site.server)
        found = await played.say(hello((4, 0)), headers(1, asking("/large")))
        for _ in range(70):
            await asyncio.sleep(0.4)
            found += await played.say(frame(PING, 0, 0, bytes(8)))
        assert ends(found) == [(RST, 1, 8)]
        assert not site.server.running
        played.leave()


@in_virtual_time
async def test_a_stream_whose_window_is_open_goes_on_beside_one_that_is_shut() -> None:
    async with serving(app.handle, access_log=False, send_idle_seconds=20) as site:
        played = Played(site.server)
        found = await played.say(
            hello((4, 0)), headers(1, asking("/large")), headers(3, GET)
        )
        assert bodies(found) == {}
        found = await played.say(frame(WINDOW, 0, 3, number(4)))
        assert bodies(found) == {3: b"text"}
        await asyncio.sleep(18)
        found = await played.say(frame(WINDOW, 0, 1, number(16_000)))
        assert len(bodies(found)[1]) == 16_000
        await asyncio.sleep(18)  # it made progress
        assert ends(await played.say()) == []
        played.leave()


@in_virtual_time
async def test_a_window_of_one_byte_at_a_time_is_no_way_to_keep_us_busy() -> None:
    async with serving(app.handle, access_log=False) as site:
        played = Played(site.server)
        await played.say(hello((4, 1)), headers(1, asking("/large")))
        found = await played.say(frame(WINDOW, 0, 1, number(1)) * 2000)
        assert ends(found) == [(GOAWAY, 0, CALM)]
        assert len(bodies(found)[1]) <= 600
        played.leave()


@in_virtual_time
async def test_more_than_a_window_is_refused() -> None:
    async with serving(app.handle, access_log=False) as site:
        played = Played(site.server)
        asked = headers(1, asking("/unread", method="POST"), END_HEADERS)
        found = await played.say(hello(), asked, data(1, bytes(16_384)) * 16)
        assert ends(found) == []  # 256 KiB
        found = await played.say(data(1, b"x"))
        assert ends(found) == [(RST, 1, 3)]
        found = await played.say(
            *[
                headers(n, asking("/unread", method="POST"), END_HEADERS)
                + data(n, bytes(16_384)) * 16
                for n in (3, 5, 7)
            ],
            headers(9, asking("/unread", method="POST"), END_HEADERS),
            data(9, bytes(16_384)) * 40,
        )
        assert ends(found) == [(GOAWAY, 0, 3)]
        played.leave()
