"""Section 13: for how long the server waits for a client, to the second."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, AsyncIterator

from virtual_server import serving
from virtual_time import in_virtual_time, seconds

from pixie_web import Pixie, Request, Response, RouteType
from pixie_web.core import tls_context

CERTIFICATE = str(Path(__file__).with_name("programs") / "localhost.pem")

app = Pixie()


def head_of(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


@app.route("/", RouteType.sync)
def index(env: Any) -> str:
    return "text"


@app.route("/slow/<wait:int>", RouteType.asnc)
async def slow(env: Any, wait: int) -> AsyncIterator[bytes]:
    """Send more than the kernel takes, wait, and say that this is the end."""
    yield b"x" * 1_000_000
    await asyncio.sleep(wait)
    yield b"the end"


# Sending ------------------------------------------------------------------------------


@in_virtual_time
async def test_who_has_caught_up_may_wait_for_the_rest_of_its_answer() -> None:
    async with serving(app.handle, send_idle_seconds=5) as site:
        client = site.connect()
        client.send(head_of("/slow/100"))
        await asyncio.sleep(3)  # the server waits for it, for two more seconds
        assert len(await client.read_all()) > 1_000_000
        await asyncio.sleep(99)  # of the 100 that its stream now takes
        assert client.read() == b""
        assert not client.has_ended
        await asyncio.sleep(2)
        assert client.read() == b"7\r\nthe end\r\n0\r\n\r\n"


# The end ------------------------------------------------------------------------------


@in_virtual_time
async def test_an_unexpected_error_ends_the_connection_at_once() -> None:
    async def fail(request: Request) -> Response:
        raise ValueError("not what an application does")

    async with serving(fail, linger_seconds=30) as site:
        client = site.connect()
        assert await client.get(head_of("/")) == b""
        assert client.has_ended
        assert client.is_gone
        assert not site.server.connections


@in_virtual_time
async def test_a_tls_connection_that_is_closed_twice_ends_in_time() -> None:
    bounds = {"linger_seconds": 10, "keep_alive_seconds": 5, "drain_seconds": 60}
    async with serving(app.handle, tls_context(CERTIFICATE), **bounds) as site:
        client = await site.connect_tls(CERTIFICATE)
        assert (await client.get(head_of("/"))).endswith(b"\r\n\r\ntext")
        await asyncio.sleep(6)  # it is closed, but for the client's close_notify
        client.read()
        assert len(site.server.connections) == 1
        began = seconds()
        await asyncio.wait_for(site.server.close(), 600)
        assert seconds() - began < 11
