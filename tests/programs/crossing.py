"""Routes that pages of other origins ask for, in every placement."""

from __future__ import annotations

import os
import time

from pixie_web import Pixie, Response, app, cors, static_file

HERE = os.path.dirname(os.path.abspath(__file__))


def nobody(env):
    if env.header("authorization") is None:
        return Response("who?", 401)
    return None


async def nobody_async(env):
    return nobody(env)


def replaced(env, response):
    return Response("replaced") if "replace" in env.query else None


def breaks(env, response):
    if "break" in env.query:
        raise ValueError("an after trigger broke")


app.before(nobody_async)  # ahead of cors, as it stands here: and still behind it
app.before(
    cors(
        ["https://page.example", "http://localhost:3000"],
        headers=["Content-Type", "X-Token"],
        expose="X-Total",
        max_age=60,
        credentials=True,
    )
)
app.after(replaced)
app.after(breaks)


def ordinary(env):
    return Response("text", headers={"X-Total": "3", "Vary": "Accept"})


def fails(env):
    raise ValueError("it failed")


def unsendable(env):
    return Response("text", headers={"Connection": "close"})


def options(env):
    return "its own"


for place in ("sync", "thread", "asnc", "pool"):
    for function in (ordinary, fails, unsendable, options):
        handler = function
        if place == "asnc":

            async def handler(env, function=function):
                return function(env)

        verb = "OPTIONS" if function is options else ["GET", "PUT"]
        app.route(f"/{place}/{function.__name__}", place, verb)(handler)


@app.get("/slow", timeout=0.1)
def slow(env):
    time.sleep(30)


@app.get("/dies")
def dies(env):
    os._exit(3)


@app.get("/stream")
def stream(env):
    yield Response("first ", headers={"X-Total": "3"})
    yield "last"


@app.get("/missing", "sync")
def missing(env):
    with open("gone", "w") as file:
        file.write("x")
    response = static_file("gone", ".")
    os.remove("gone")
    return response


@app.post("/little", max_body_bytes=10)
def little(env):
    return "taken"


@app.get("/open", before=[cors("*")])
def open_to_all(env):
    return "for all"


inner = Pixie(__name__)
inner.before(cors(lambda origin: origin.endswith(".example")))


@inner.get("/page")
def page(env):
    return "inner"


app.mount("/inner", inner)
partly = Pixie(__name__)


@partly.get("/page", "sync", before=[cors("*")])
def of_all(env):
    return "open"


@partly.post("/page", "sync")
def of_us(env):
    return "ours"


app.mount("/partly", partly)

if __name__ == "__main__":
    app.run()
