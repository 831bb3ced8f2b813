"""The program of FastAPI."""

import asyncio
from typing import Annotated, Any

from common import JSON, PAGE, jinja2_page
from fastapi import Cookie, FastAPI, Form, Request
from fastapi.responses import HTMLResponse, PlainTextResponse

app = FastAPI()
template = jinja2_page()


@app.get("/", response_class=PlainTextResponse)
async def index():
    return "hello"


@app.get("/json")
async def as_json():
    return JSON


@app.get("/user/{number}", response_class=PlainTextResponse)
async def user(number: int):
    return f"user {number}"


@app.get("/read", response_class=PlainTextResponse)
async def read(q: str, theme: Annotated[str, Cookie()]):
    return f"{q} {theme}"


@app.post("/form", response_class=PlainTextResponse)
async def form(name: Annotated[str, Form()]):
    return name


@app.post("/echo")
async def echo(request: Request) -> Any:
    return await request.json()


@app.get("/page", response_class=HTMLResponse)
async def page():
    return template.render(PAGE)


@app.get("/wait", response_class=PlainTextResponse)
async def wait():
    await asyncio.sleep(0)
    return "hello"


@app.get("/thread", response_class=PlainTextResponse)
def in_thread():
    return "hello"
