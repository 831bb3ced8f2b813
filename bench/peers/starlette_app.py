"""The program of Starlette."""

import asyncio
from concurrent.futures import ProcessPoolExecutor

from common import JSON, PAGE, ROUTES, WORKERS, jinja2_page, trivial
from starlette.applications import Starlette
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

executor = ProcessPoolExecutor(WORKERS)
template = jinja2_page()


async def index(request):
    return PlainTextResponse("hello")


async def as_json(request):
    return JSONResponse(JSON)


async def user(request):
    return PlainTextResponse(f"user {request.path_params['number']}")


async def read(request):
    query, cookies = request.query_params, request.cookies
    return PlainTextResponse(f"{query['q']} {cookies['theme']}")


async def form(request):
    return PlainTextResponse((await request.form())["name"])


async def echo(request):
    return JSONResponse(await request.json())


async def page(request):
    return HTMLResponse(template.render(PAGE))


async def length(request):
    return PlainTextResponse(str(len(await request.body())))


async def some_bytes(request):
    return Response(b"x" * request.path_params["count"])


async def wait(request):
    await asyncio.sleep(0)
    return PlainTextResponse("hello")


def in_thread(request):
    return PlainTextResponse("hello")


async def in_pool(request):
    loop = asyncio.get_running_loop()
    return PlainTextResponse(await loop.run_in_executor(executor, trivial))


async def rows(request):
    async def make():
        for number in range(1000):
            yield f"row {number:06}\n"

    return StreamingResponse(make())


async def section(request):
    params = request.path_params
    return PlainTextResponse(f"{params['item']} {params['word']}")


app = Starlette(
    routes=[
        Route("/", index),
        Route("/json", as_json),
        Route("/user/{number:int}", user),
        Route("/read", read),
        Route("/form", form, methods=["POST"]),
        Route("/echo", echo, methods=["POST"]),
        Route("/page", page),
        Route("/length", length, methods=["POST"]),
        Route("/bytes/{count:int}", some_bytes),
        Route("/wait", wait),
        Route("/thread", in_thread),
        Route("/pool", in_pool),
        Route("/rows", rows),
        *(Route(f"/section{n}/{{item:int}}/{{word}}", section) for n in range(ROUTES)),
    ]
)
