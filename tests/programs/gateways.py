"""A program that other servers serve too: each kind of answer, and each placement."""

from __future__ import annotations

import os
import time

from pixie_web import Pixie, Response, RouteType, abort, proc_env, redirect, static_file

app = Pixie(secrets="a secret of sixteen bytes")
DIRECTORY = os.path.dirname(os.path.abspath(__file__))
NOTES = os.environ.get("GATEWAY_NOTES", os.devnull)


def note(text):
    with open(NOTES, "a", encoding="utf-8") as file:
        file.write(f"{text}\n")


@app.on_start
def started():
    note("start")


@app.on_stop
def stopped():
    note("stop")


# What a handler may return, each in the pool.


@app.route("/text")
def text(env):
    return "<p>größer</p>"


@app.route("/octets")
def octets(env):
    return b"\x00\xff\r\n"


@app.route("/json")
def json(env):
    return {"ü": [1, None, True]}


@app.route("/list")
def listed(env):
    return [1, "zwei"]


@app.route("/nothing")
def nothing(env):
    return None


@app.route("/triple")
def triple(env):
    return {"made": 1}, 201, {"Location": "/made/1", "X-One": "1"}


@app.route("/empty")
def empty(env):
    return ""


@app.route("/reset-content")
def reset_content(env):
    return "", 205


@app.route("/odd-status")
def odd_status(env):
    return "odd", 299


@app.route("/cookies")
def cookies(env):
    response = Response("two", headers=[("X-Two", "1"), ("X-Two", "2")])
    return response.set_cookie("a", "1", secret=False).set_cookie(
        "b", "2", secret=False
    )


@app.route("/cookies/read")
def read_cookies(env):
    return [env.cookie("a", secret=False), env.cookie("b", secret=False)]


@app.route("/redirect")
def redirected(env):
    redirect("/text")


@app.route("/abort")
def aborted(env):
    abort(418, "short and stout")


@app.route("/failing")
def failing(env):
    raise ValueError("on purpose")


@app.route("/file")
def file(env):
    return static_file("localhost.pem", DIRECTORY)


@app.route("/large")
def large(env):
    return b"0123456789abcdef" * 65_536


# Where it runs.


@app.route("/sync", RouteType.sync)
def sync(env):
    return proc_env.proc_type.name


@app.route("/thread", RouteType.thread)
def thread(env):
    return proc_env.proc_type.name


@app.route("/asnc", RouteType.asnc)
async def asnc(env):
    import asyncio

    await asyncio.sleep(0.001)
    return proc_env.proc_type.name


@app.route("/pool")
def pool(env):
    return proc_env.proc_type.name


@app.route("/stream")
def stream(env):
    yield Response("first\n", 203, "text/plain", {"X-Stream": "yes"})
    for number in range(3):
        yield f"{number}\n"


@app.route("/stream/sync", RouteType.sync)
def sync_stream(env):
    yield from ("a", "b")


@app.route("/stream/thread", RouteType.thread)
def thread_stream(env):
    yield from ("a", "b")


@app.route("/stream/asnc", RouteType.asnc)
async def asnc_stream(env):
    for piece in ("a", "b"):
        yield piece


# What is asked.


@app.route("/echo/<rest:path>", method=["GET", "POST", "OPTIONS"])
def echo(env, rest):
    return {
        "method": env.method,
        "path": env.path,
        "rest": rest,
        "query": env.query_string,
        "host": bool(env.host),
        "scheme": env.scheme,
        "x": env.headers.getall("x-one"),
        "client": env.client[0],
        "url": env.url.partition("//")[2].partition("/")[2],
    }


@app.route("/url-for", name="own")
def own_url(env):
    return app.url_for("own")


@app.post("/upload")
def upload(env):
    import hashlib

    digest = hashlib.sha256(env.body).hexdigest()
    return {"bytes": len(env.body), "digest": digest, "in": proc_env.proc_type.name}


@app.post("/form")
def form(env):
    found = env.files["file"]
    return {"name": env.form["name"], "file": [found.filename, found.size]}


@app.route("/drip", RouteType.asnc, method="POST", stream_body=True)
async def drip(env):
    size = 0
    async for chunk in env.stream():
        size += len(chunk)
    return str(size)


@app.post("/small", max_body_bytes=10)
def small(env):
    return "small"


def double(number):
    return 2 * number


@app.route("/job", "thread")
def run_job(env):
    id = app.submit(double, 21)
    while not app.job(id).is_finished:
        time.sleep(0.01)
    return {"result": app.job(id).result}


# What goes wrong.


@app.route("/crash")
def crash(env):
    os._exit(3)


@app.route("/late", timeout=0.3)
def late(env):
    time.sleep(60)


@app.route("/late/asnc", RouteType.asnc, timeout=0.2)
async def late_asnc(env):
    import asyncio

    await asyncio.sleep(60)


@app.route("/broken-stream")
def broken_stream(env):
    yield "begun" * 1000
    raise ValueError("midway")


@app.route("/endless")
def endless(env):
    try:
        note(f"endless {os.getpid()}")
        while True:
            yield b"x" * 16_384
    finally:
        note("endless ended")


@app.route("/silent", RouteType.asnc, heartbeat=b"\n", heartbeat_seconds=0.05)
async def silent(env):
    import asyncio

    try:
        yield "begun\n"
        await asyncio.sleep(60)
    finally:
        note("silent ended")


@app.route("/stoppable", on_disconnect="stop")
def stoppable(env):
    try:
        note(f"stoppable {os.getpid()}")
        time.sleep(60)
    finally:
        note("stoppable ended")


@app.route("/main", RouteType.sync)
def main(env):
    return str(os.getpid())


wsgi, asgi = app.wsgi, app.asgi
