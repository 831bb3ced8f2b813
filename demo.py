"""The pixie_web demo: every placement at work, live on one page.

    python3 demo.py          and open http://localhost:8000

Nothing has to be installed. The word after a route's path says where it runs:

    RouteType.sync      the main process, on the event loop: short answers
    RouteType.thread    a thread of the main process: calls that wait
    RouteType.asnc      the event loop, as a coroutine: many that wait at once
    RouteType.pool      a worker process: whatever computes, or might crash
    RouteType.stream    a worker process that sends each piece as it yields it

The page itself (templates, style, script) is in `examples/demo/`.
"""

from __future__ import annotations

import asyncio
import html
import inspect
import json
import math
import os
import platform
import re
import signal
import struct
import threading
import time
import zlib
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import AsyncIterator, Dict, Iterable, Iterator, NamedTuple, Union
from urllib.parse import urlencode

from pixie_web import (
    Request,
    Response,
    RouteType,
    Template,
    abort,
    cached_file,
    get,
    post,
    proc_env,
    redirect,
    run,
    static,
    template,
)

HERE = Path(__file__).resolve().parent
PAGE = HERE / "examples" / "demo"

Template.path = PAGE
static("/assets/", str(PAGE / "assets"))


# The page -----------------------------------------------------------------------------


@get("/", RouteType.sync)
def index(env: Request) -> str:
    return template(
        "index",
        source=source,
        python=platform.python_version(),
        pid=os.getpid(),
        workers=proc_env.pool.size if proc_env.pool else 0,
        tick_ms=round(TICK_SECONDS * 1000),
        picture={"width": WIDTH, "height": HEIGHT, "tile": TILE},
    )


@lru_cache(maxsize=None)
def source(*names: str) -> str:
    """Return the source of these handlers as HTML, with the placement marked."""
    text = "\n\n".join(inspect.getsource(globals()[name]).strip() for name in names)
    return re.sub(
        r"RouteType\.(\w+)", r'<b class="\1">RouteType.\1</b>', html.escape(text)
    )


# A clock, ticking from the event loop -------------------------------------------------

TICK_SECONDS = 0.1


@get("/clock", RouteType.asnc)
async def clock(env: Request) -> AsyncIterator[Union[Response, str]]:
    yield Response(content_type="text/event-stream")
    start = time.monotonic()
    for tick in count(1):
        yield f"data: {json.dumps({'tick': tick, 'time': time.time()})}\n\n"
        await asyncio.sleep(start + tick * TICK_SECONDS - time.monotonic())


# One question, five placements --------------------------------------------------------


@get("/who/sync", RouteType.sync)
def who_sync(env: Request) -> Dict[str, object]:
    return who_am_i(env)


@get("/who/thread", RouteType.thread)
def who_thread(env: Request) -> Dict[str, object]:
    return who_am_i(env)


@get("/who/asnc", RouteType.asnc)
async def who_asnc(env: Request) -> Dict[str, object]:
    return who_am_i(env)


@get("/who/pool", RouteType.pool)
def who_pool(env: Request) -> Dict[str, object]:
    return who_am_i(env)


@get("/who/stream", RouteType.stream)
def who_stream(env: Request) -> Iterator[str]:
    yield json.dumps(who_am_i(env))


def who_am_i(env: Request) -> Dict[str, object]:
    """Compute for as many milliseconds as asked, then tell who did."""
    milliseconds = between(0, asked(env, "work", 0), 1000)
    until = time.thread_time() + milliseconds / 1000
    while time.thread_time() < until:
        pass
    return {
        "process": proc_env.proc_type.name,
        "pid": os.getpid(),
        "worker": proc_env.worker,
        "thread": threading.get_native_id(),
    }


# A picture, computed in the pool ------------------------------------------------------

WIDTH, HEIGHT, TILE, STRIP = 800, 500, 100, 10
ITERATIONS = 200


@get("/tile/<column:int>/<row:int>", RouteType.pool)
def tile(env: Request, column: int, row: int) -> Response:
    if not (0 <= column < WIDTH // TILE and 0 <= row < HEIGHT // TILE):
        abort(404, "There is no such tile.")
    pixels = paint(view_of(env), column * TILE, row * TILE, TILE, TILE)
    return Response(
        b"".join(png(TILE, TILE, [pixels])),
        content_type="image/png",
        headers={"X-Worker": str(proc_env.worker), "X-Pid": str(os.getpid())},
    )


@get("/picture.png", RouteType.stream)
def picture(env: Request) -> Iterator[Union[Response, bytes]]:
    who = f'worker;desc="{proc_env.worker}", pid;desc="{os.getpid()}"'
    yield Response(content_type="image/png", headers={"Server-Timing": who})
    view = view_of(env)
    strips = (paint(view, 0, top, WIDTH, STRIP) for top in range(0, HEIGHT, STRIP))
    yield from png(WIDTH, HEIGHT, strips)


class View(NamedTuple):
    """The part of the plane to draw: its middle and its width."""

    x: float
    y: float
    span: float


def view_of(env: Request) -> View:
    """Return the view that the query string asks for."""
    return View(
        between(-3.0, asked(env, "x", -0.65), 3.0),
        between(-3.0, asked(env, "y", 0.0), 3.0),
        between(1e-12, asked(env, "span", 3.4), 8.0),
    )


def paint(view: View, left: int, top: int, width: int, height: int) -> bytes:
    """Compute one block of the picture: for each pixel, its index in the palette."""
    step = view.span / WIDTH
    x, y = view.x + (left - WIDTH / 2) * step, view.y + (top - HEIGHT / 2) * step
    return bytes(
        colour(complex(x + column * step, y + row * step))
        for row in range(height)
        for column in range(width)
    )


def colour(c: complex) -> int:
    """Return 0 inside the Mandelbrot set, else how soon the point escapes: 1 to 255."""
    z = 0j
    for iteration in range(ITERATIONS):
        z = z * z + c
        if abs(z) > 8:
            smooth = iteration + 3 - math.log2(math.log2(abs(z)))
            return 1 + int(40 * math.sqrt(smooth)) % 255
    return 0


def png(width: int, height: int, strips: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a PNG file in pieces: the head, one piece for each strip, the end."""
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    yield b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"PLTE", PALETTE)
    deflate = zlib.compressobj()
    for strip in strips:
        lines = (strip[at : at + width] for at in range(0, len(strip), width))
        data = deflate.compress(b"".join(b"\0" + line for line in lines))
        yield png_chunk(b"IDAT", data + deflate.flush(zlib.Z_SYNC_FLUSH))
    yield png_chunk(b"IDAT", deflate.flush()) + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG file: length, kind, data, checksum."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def palette() -> Iterator[int]:
    """Yield red, green and blue of each colour: ink, then a ring of 255 hues."""
    yield from (17, 14, 36)
    for index in range(255):
        for phase, low, high in ((0.55, 20, 252), (0.62, 16, 222), (0.80, 60, 190)):
            wave = 0.5 - 0.5 * math.cos(2 * math.pi * (index / 255 + phase))
            yield round(low + (high - low) * wave)


def asked(env: Request, name: str, default: float) -> float:
    """Return a number of the query string; the default without one or for a bad one."""
    try:
        number: float = env.query.get(name, default, type=type(default))
    except ValueError:
        return default
    return number


def between(low: float, value: float, high: float) -> float:
    """Return the value, or the bound that it oversteps."""
    return max(low, min(high, value))


PALETTE = bytes(palette())


# What can go wrong --------------------------------------------------------------------


@get("/fail/slow", RouteType.pool, timeout=1)
def slow(env: Request) -> None:
    while True:  # At the deadline the client gets a 504, and this process is killed.
        pass


@get("/fail/raise", RouteType.pool)
def raises(env: Request) -> float:
    return 1 / 0  # 500


@get("/fail/die", RouteType.pool)
def dies(env: Request) -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # So ends a process when memory runs out.


# A form, a page, a file ---------------------------------------------------------------


@post("/greeting", RouteType.sync)
def greet(env: Request) -> None:
    redirect("/greeting?" + urlencode({"name": env.form["name"][:80]}))


@get("/greeting", RouteType.sync)
def greeting(env: Request) -> str:
    return template("greeting", name=env.query.get("name", "nobody"))


@get("/source", RouteType.sync)
def own_source(env: Request) -> Response:
    return cached_file("demo.py", HERE, mimetype="text/plain; charset=utf-8")


if __name__ == "__main__":
    run(drain_seconds=1)  # On Ctrl-C, clocks that tick without end are not waited for.
