"""What the tests of clients ask for: a little of everything a client may meet.

/events/...  sends a piece, and the next one only when /go/<key> was asked for, so a
             client that has the first has not waited for the second
/log lines   "note: ..." say how far an upload or a stream has got
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections import defaultdict
from typing import DefaultDict

from pixie_web import Response, get, post, redirect, route, run, static

DIRECTORY = os.environ["CLIENTS_FILES"]
events: DefaultDict[str, asyncio.Event] = defaultdict(asyncio.Event)
PAGE = """<!DOCTYPE html><title>Clients</title><link rel=icon href="data:,">
<form method=post action=/form><input name=text><button id=send>Send</button></form>
<form method=post action=/page/upload enctype=multipart/form-data>
<input name=title><input name=file type=file><button id=upload>Upload</button></form>
"""


def note(text: str) -> None:
    sys.stderr.write(f"note: {text}\n")
    sys.stderr.flush()


@get("/hello", "sync")
def hello(env):
    return Response(f"hello {env.scheme}", headers={"X-Method": env.method})


@get("/port", "sync")
def port(env):
    return str(env.client[1])  # of the client: one for each connection


@get("/cpu")
def cpu(env):
    return {"total": sum(range(1000))}


@get("/empty", "sync")
def empty(env):
    return None


@post("/form")
def form(env):
    return {"text": env.form["text"], "tags": env.form.getall("tag")}


def describe(env):
    file = env.files["file"]
    return {
        "title": env.form["title"],
        "filename": file.filename,
        "digest": hashlib.sha256(file.file.read()).hexdigest(),
        "spooled": env.body_file is not None,
    }


post("/upload")(describe)


@post("/page/upload")
def page_upload(env):
    return f"<!DOCTYPE html><title>Done</title><pre>{json.dumps(describe(env))}</pre>"


@post("/small", max_body_bytes=1000)
def small(env):
    return str(len(env.body))


@route("/stream/<key>", "asnc", ["POST", "PUT"], stream_body=True)
async def stream(env, key):
    size, whole = 0, hashlib.sha256()
    try:
        async for chunk in env.stream():
            if not size:
                note(f"first of {key}")
            size += len(chunk)
            whole.update(chunk)
    except BaseException:
        note(f"cut off {key}")
        raise
    return {"size": size, "digest": whole.hexdigest()}


@get("/go/<key>", "sync")
def go(env, key):
    events[key].set()


@get("/events/asnc/<key>", "asnc")
async def events_asnc(env, key):
    yield "one\n"
    await events[key].wait()
    yield "two\n"


@get("/events/stream/<key>", "stream")
def events_stream(env, key):
    yield "one\n"
    with open(os.path.join(DIRECTORY, key)):  # a named pipe: /go/ is who writes to it
        yield "two\n"


@get("/endless/<kind>/<key>", "asnc")
async def endless(env, kind, key):
    try:
        while True:
            yield b"x" * 1000
    finally:
        note(f"left {key}")


@route("/redirect/<status:int>", "sync", ["GET", "POST"])
def moved(env, status):
    redirect("/hello" if status == 303 else "/form", status)


@get("/cookie/set", "sync")
def set_cookie(env):
    response = Response("set")
    response.set_cookie("plain", "crème brûlée; a=b")
    response.set_cookie("other", "2", path="/cookie")
    return response


@get("/cookie", "sync")
def cookie(env):
    return [env.cookie("plain"), env.cookie("other")]


@get("/page", "sync")
def page(env):
    return PAGE


static("/files/", DIRECTORY)

if __name__ == "__main__":
    run()
