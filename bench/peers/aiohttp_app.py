"""The program of aiohttp."""

import asyncio
import logging
import os

import uvloop
from aiohttp import web
from common import ACCESS_LOG, JSON, PAGE, ROUTES, jinja2_page

template = jinja2_page()


async def index(request):
    return web.Response(text="hello")


async def as_json(request):
    return web.json_response(JSON)


async def user(request):
    return web.Response(text=f"user {int(request.match_info['number'])}")


async def read(request):
    return web.Response(text=f"{request.query['q']} {request.cookies['theme']}")


async def form(request):
    return web.Response(text=(await request.post())["name"])


async def echo(request):
    return web.json_response(await request.json())


async def page(request):
    return web.Response(text=template.render(PAGE), content_type="text/html")


async def length(request):
    return web.Response(text=str(len(await request.read())))


async def some_bytes(request):
    return web.Response(body=b"x" * int(request.match_info["count"]))


async def wait(request):
    await asyncio.sleep(0)
    return web.Response(text="hello")


async def rows(request):
    response = web.StreamResponse()
    await response.prepare(request)
    for number in range(1000):
        await response.write(b"row %06d\n" % number)
    return response


async def section(request):
    match = request.match_info
    return web.Response(text=f"{int(match['item'])} {match['word']}")


app = web.Application(client_max_size=10_000_000)
app.add_routes(
    [
        web.get("/", index),
        web.get("/json", as_json),
        web.get(r"/user/{number:\d+}", user),
        web.get("/read", read),
        web.post("/form", form),
        web.post("/echo", echo),
        web.get("/page", page),
        web.post("/length", length),
        web.get(r"/bytes/{count:\d+}", some_bytes),
        web.get("/wait", wait),
        web.get("/rows", rows),
        *(
            web.get(rf"/section{n}/{{item:\d+}}/{{word}}", section)
            for n in range(ROUTES)
        ),
    ]
)

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO if ACCESS_LOG else logging.ERROR)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        access_log=logging.getLogger("aiohttp.access") if ACCESS_LOG else None,
        loop=uvloop.new_event_loop(),
    )
