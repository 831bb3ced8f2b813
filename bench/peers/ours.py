"""The program of pixie_web; the others beside it answer the same."""

from __future__ import annotations

import asyncio
import os
from typing import Any, AsyncIterator, Iterator

from common import JSON, PAGE, ROUTES, STPL

from pixie_web import Pixie, Response, RouteType, Template

app = Pixie()
asnc, sync, pool = RouteType.asnc, RouteType.sync, RouteType.pool
TEMPLATE = Template(STPL)


@app.route("/", asnc)
async def index(env: Any) -> Any:
    return Response("hello")


@app.route("/json", asnc)
async def as_json(env: Any) -> Any:
    return JSON


@app.route("/user/<number:int>", asnc)
async def user(env: Any, number: int) -> Any:
    return Response(f"user {number}")


@app.route("/read", asnc)
async def read(env: Any) -> Any:
    return Response(f"{env.query['q']} {env.cookies['theme']}")


@app.route("/form", asnc, "POST")
async def form(env: Any) -> Any:
    return Response(env.form["name"])


@app.route("/echo", asnc, "POST")
async def echo(env: Any) -> Any:
    return env.json


@app.route("/page", asnc)
async def page(env: Any) -> Any:
    return Response(TEMPLATE.render(**PAGE))


@app.route("/length", asnc, "POST")
async def length(env: Any) -> Any:
    return Response(str(len(env.body)))


@app.route("/bytes/<count:int>", asnc)
async def some_bytes(env: Any, count: int) -> Any:
    return Response(b"x" * count)


@app.route("/wait", asnc)
async def wait(env: Any) -> Any:
    await asyncio.sleep(0)
    return Response("hello")


@app.route("/rows", asnc)
async def rows(env: Any) -> AsyncIterator[str]:
    for number in range(1000):
        yield f"row {number:06}\n"


@app.route("/pool-rows", RouteType.stream)
def pool_rows(env: Any) -> Iterator[str]:
    for number in range(1000):
        yield f"row {number:06}\n"


@app.route("/sync", sync)
def in_main(env: Any) -> Any:
    return Response("hello")


@app.route("/thread", RouteType.thread)
def in_thread(env: Any) -> Any:
    return Response("hello")


@app.route("/pool", pool)
def in_pool(env: Any) -> Any:
    return Response("hello")


for number in range(ROUTES):

    @app.route(f"/section{number}/<item:int>/<word>", asnc)
    async def section(env: Any, item: int, word: str) -> Any:
        return Response(f"{item} {word}")


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ["PORT"]))
