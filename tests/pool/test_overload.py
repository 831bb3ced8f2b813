"""What a client gets, over its connection, when the pool is too busy.

The workers are played by the test, and the clock jumps.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, List, NamedTuple

import pytest
from played_workers import PlayedWorker, Stage, played
from virtual_server import Client, Handle, Site, serving
from virtual_time import in_virtual_time, quiet, seconds

from pixie_web import HTTPError, Pixie, Response, RouteError, RouteType

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches pipes")

BUSY = b"HTTP/1.1 503 Service Unavailable\r\n"
PAUSE_SECONDS = 0.05


def head_of(path: str, *lines: str, method: str = "GET") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: a", *lines, "", ""]
    return "\r\n".join(head).encode()


class Full(NamedTuple):
    """A server whose only worker is busy, and that lets nobody wait."""

    stage: Stage
    worker: PlayedWorker
    site: Site

    async def refused(self, path: str = "/pool") -> Client:
        """Return a client that has been refused once."""
        client = self.site.connect()
        assert (await client.get(head_of(path))).startswith(BUSY)
        return client

    async def end_job(self) -> None:
        """Have the worker done with its job."""
        self.worker.respond(b"done")
        await quiet()


def answer_to(stage: Stage, app: Pixie) -> None:
    """Have an application's pool routes run by the played workers."""
    app.executors.equip(pools={"": stage.pool})


@asynccontextmanager
async def full(**options: Any) -> AsyncIterator[Full]:
    async with played(**{"max_waiting": 0, **options}) as stage:
        answer_to(stage, stage.application)
        stage.ask("/endless")
        (worker,) = await stage.booted(1)
        async with serving(stage.application.handle, keep_alive_seconds=1000) as site:
            yield Full(stage, worker, site)


@in_virtual_time
async def test_the_whole_of_a_refusal() -> None:
    async with full() as busy:
        client = busy.site.connect()
        got = await client.get(head_of("/pool"))
        date = got.partition(b"Date: ")[2].partition(b"\r\n")[0]
        body = (
            b'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
            b"<title>503 Service Unavailable</title>\n"
            b"<h1>503 Service Unavailable</h1>\n<p>Too busy; try again.</p>\n</html>\n"
        )
        assert got == (
            BUSY + b"Date: " + date + b"\r\n"
            b"Content-Type: text/html; charset=utf-8\r\nRetry-After: 1\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        await asyncio.sleep(PAUSE_SECONDS)
        assert await client.get(head_of("/pool")) == b""
        await asyncio.sleep(PAUSE_SECONDS)
        again = client.read()
        assert again.replace(again[39:68], b"") == got.replace(got[39:68], b"")
        counts = busy.stage.routes["/pool"].counts
        assert (counts.rejections, counts.active) == (2, 0)


@pytest.mark.parametrize("line", ["Expect: 100-continue", "X-Y: z"])
@in_virtual_time
async def test_a_refusal_comes_ahead_of_the_body(line: str) -> None:
    async with full() as busy:
        client = busy.site.connect()
        length = "Content-Length: 1000000"
        got = await client.get(head_of("/upload", length, line, method="POST"))
        assert got.startswith(BUSY)  # and no 100 Continue
        assert b"\r\nConnection: close\r\n" in got


@in_virtual_time
async def test_who_asks_again_is_answered_after_a_pause_and_served_when_it_can_be() -> (
    None
):
    async with full() as busy:
        client = await busy.refused()
        for _ in range(5):
            began = seconds()
            client.send(head_of("/pool"))
            while not client.read():
                await asyncio.sleep(0.001)
            assert seconds() - began <= PAUSE_SECONDS + 0.002
        client.send(head_of("/pool"))
        await quiet()
        await busy.end_job()
        await asyncio.sleep(PAUSE_SECONDS)
        assert len(busy.worker.jobs) == 2
        busy.worker.respond(b"at last")
        await quiet()
        assert client.read().endswith(b"\r\n\r\nat last")
        client.send(head_of("/other"))  # at once again
        await quiet()
        assert len(busy.worker.jobs) == 3


@in_virtual_time
async def test_who_asks_for_something_else_does_not_wait() -> None:
    async with full() as busy:
        client = await busy.refused()
        assert (await client.get(head_of("/none"))).startswith(b"HTTP/1.1 404 ")
        assert (await client.get(head_of("/pool"))).startswith(BUSY)
        assert (await client.get(head_of("/other"))).startswith(BUSY)
        # Two in a row: now it waits, whatever it asks for.
        assert await client.get(head_of("/none")) == b""
        await asyncio.sleep(PAUSE_SECONDS)
        assert client.read().startswith(b"HTTP/1.1 404 ")
        assert (await client.get(head_of("/none"))).startswith(b"HTTP/1.1 404 ")


@in_virtual_time
async def test_what_comes_in_pieces_during_the_pause_is_one_request() -> None:
    async with full() as busy:
        client = await busy.refused()
        await client.get(head_of("/pool"))
        await asyncio.sleep(PAUSE_SECONDS)
        client.read()
        upload = head_of("/upload", "Content-Length: 5", method="POST") + b"12345"
        await busy.end_job()
        for byte in upload:
            client.send(bytes([byte]))
            await quiet()
        await asyncio.sleep(PAUSE_SECONDS)
        assert busy.worker.jobs[-1].payload.endswith(b"12345")


@in_virtual_time
async def test_what_comes_during_the_pause_is_bounded() -> None:
    async with full() as busy:
        client = await busy.refused()
        client.send(head_of("/pool") * 2000)
        await quiet()
        got = 0
        for _ in range(3000):
            got += client.read().count(BUSY)
            await asyncio.sleep(0.01)
            if got == 2000:
                break
        assert got == 2000


@pytest.mark.parametrize("count, most", [(50, 0.1), (400, 0.3), (3000, 1.1)])
@in_virtual_time
async def test_the_more_repeat_what_is_refused_the_longer_they_wait(
    count: int, most: float
) -> None:
    async with full() as busy:
        clients = [await busy.refused() for _ in range(count)]
        for client in clients:
            client.send(head_of("/pool"))
        await quiet()
        began = seconds()
        while not all(client.data.count(BUSY) == 2 for client in clients):
            await asyncio.sleep(0.01)
            for client in clients:
                client.read()
        assert most / 2 <= seconds() - began < most


@in_virtual_time
async def test_what_comes_behind_a_repeated_request_does_not_wait_for_others() -> None:
    async with full() as busy:
        clients = [await busy.refused() for _ in range(400)]
        for client in clients:
            client.send(head_of("/pool"))
        await quiet()
        last = clients[-1]
        last.send(head_of("/none"))
        await asyncio.sleep(PAUSE_SECONDS)
        got = last.read()
        assert (got.count(BUSY), got.count(b"HTTP/1.1 404 ")) == (1, 1)


@in_virtual_time
async def test_those_who_wait_are_served_as_soon_as_there_is_room() -> None:
    async with full(max_waiting=500) as busy:
        for _ in range(500):
            busy.stage.ask("/pool")
        clients = [await busy.refused() for _ in range(400)]
        for client in clients:
            client.send(head_of("/pool"))
        await quiet()
        busy.stage.pool.scheduler.reject_waiting()
        await asyncio.sleep(PAUSE_SECONDS + 0.01)
        assert busy.stage.counts["waiting"] == 400


@pytest.mark.parametrize("how", ["close", "half-close"])
@in_virtual_time
async def test_who_leaves_during_the_pause_is_let_go(how: str) -> None:
    async with full() as busy:
        client = await busy.refused()
        await client.get(head_of("/pool"))
        if how == "close":
            client.close()
        else:
            client.socket.shutdown(1)
            await quiet()
            assert client.read().startswith(BUSY)
        await asyncio.sleep(10)
        assert len(busy.site.server.connections) == 0


@in_virtual_time
async def test_who_waits_in_the_pause_is_answered_when_the_server_ends() -> None:
    async with full() as busy:
        client = await busy.refused()
        await client.get(head_of("/pool"))
        await busy.site.server.close()
        await quiet()
        assert client.read().startswith(BUSY)
        assert client.has_ended or client.read() == b""


@in_virtual_time
async def test_triggers_and_error_handlers_have_their_say_in_each_refusal() -> None:
    async with full() as busy:
        seen: List[str] = []
        other = Pixie()

        @other.after
        async def sign(env: Any, response: Response) -> None:
            seen.append(env.path)
            response.headers["X-Seen"] = str(len(seen))

        @other.error(503)
        def sorry(env: Any, error: HTTPError) -> Any:
            return {"retry": error.headers["Retry-After"]}

        other.route("/mine")(lambda env: "never")
        other.freeze()
        answer_to(busy.stage, other)
        async with serving(other.handle) as site:
            client = site.connect()
            for count in (1, 2, 3):
                client.send(head_of("/mine"))
                await asyncio.sleep(2 * PAUSE_SECONDS)
                got = client.read()
                assert got.startswith(BUSY)
                assert b"X-Seen: %d\r\n" % count in got
                assert got.endswith(b'{"retry":"1"}')


@in_virtual_time
async def test_each_refusal_has_its_line_in_the_access_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pixie_web.access")
    async with full() as busy:
        client = await busy.refused()
        for _ in range(3):
            client.send(head_of("/pool"))
            await asyncio.sleep(PAUSE_SECONDS)
            assert client.read().startswith(BUSY)
    lines = [one.getMessage() for one in caplog.records if one.name.endswith("access")]
    assert [line.partition(" ")[2][:28] for line in lines] == (
        ['"GET /pool HTTP/1.1" 503 164'] * 4
    )


# Lines in main ------------------------------------------------------------------------


def waiting_app(**bounds: Any) -> Pixie:
    """Return an application whose route holds each request for a second."""
    app = Pixie()

    @app.route("/asnc", RouteType.asnc, ["GET", "POST"], limit=1, **bounds)
    async def held(env: Any) -> str:
        await asyncio.sleep(1)
        return "held"

    return app


async def statuses(handle: Handle, bodies: List[bytes]) -> List[int]:
    """Return the statuses of requests that are sent one after the other, at once."""
    async with serving(handle) as site:
        clients = [site.connect() for _ in bodies]
        for client, body in zip(clients, bodies):
            length = f"Content-Length: {len(body)}"
            client.send(head_of("/asnc", length, method="POST") + body)
            await quiet()
        await asyncio.sleep(100)
        return [int(client.read()[9:12]) for client in clients]


@pytest.mark.parametrize("room", [0, 1, 5])
@in_virtual_time
async def test_a_limit_in_main_lets_so_many_wait(room: int) -> None:
    app = waiting_app(max_waiting=room)
    found = await statuses(app.handle, [b""] * 8)
    assert found == [200] * (1 + room) + [503] * (7 - room)


@in_virtual_time
async def test_what_run_lets_wait_holds_for_limits_in_main() -> None:
    app = waiting_app()
    app.executors.equip(max_waiting=3, max_waiting_bytes=1000)
    assert await statuses(app.handle, [b""] * 6) == [200] * 4 + [503] * 2


@in_virtual_time
async def test_bodies_that_wait_for_a_place_in_main_are_bounded_in_bytes() -> None:
    app = waiting_app()
    app.executors.equip(max_waiting=100, max_waiting_bytes=1000)
    bodies = [b"first", bytes(5000), b"1", b"", bytes(900)]
    # One may wait, whatever its size; nothing more, until it has its turn.
    assert await statuses(app.handle, bodies) == [200, 200, 503, 503, 503]
    bodies = [b"first", bytes(500), bytes(501), bytes(500), b"1", b""]
    assert await statuses(app.handle, bodies) == [200, 200, 503, 200, 503, 200]


@pytest.mark.parametrize("value", [-1, 1.5, True, "3"])
def test_how_many_may_wait_is_a_whole_number(value: Any) -> None:
    with pytest.raises(RouteError, match="max_waiting is a whole number from 0, got"):
        Pixie().route("/", max_waiting=value)(lambda env: "")


def test_nothing_waits_for_a_sync_route() -> None:
    with pytest.raises(RouteError, match=r"takes no timeout, .* or max_waiting"):
        Pixie().route("/", RouteType.sync, max_waiting=1)(lambda env: "")
