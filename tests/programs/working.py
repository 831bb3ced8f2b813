"""Jobs: submitted from every placement, and what becomes of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

from pixie_web import RequestTimeout, app, proc_env
from pixie_web.jobs import JobError, job

LOG = os.environ.get("JOBS_LOG", os.devnull)
NOT_A_FUNCTION = 7


def note(text):
    with open(LOG, "a") as file:
        file.write(f"{text}\n")


def add(a, b):
    note(f"add {a} {b}")
    return {"sum": a + b, "in": proc_env.proc_type.name}


def join(a, b):
    return a + b


def slowly(steps, seconds):
    for step in range(steps):
        job.progress({"done": step, "of": steps})
        time.sleep(seconds)
    return job.id


def until_told(path):
    """Run until a file is there."""
    try:
        note("began")
        job.progress("waiting")
        while not os.path.exists(path):
            time.sleep(0.005)
    finally:
        note("cleaned up")
    return "told"


def stubborn(path):
    began = False
    while not os.path.exists(path):
        try:
            if not began:
                began = True
                note("began")
            while not os.path.exists(path):
                time.sleep(0.005)
        except RequestTimeout:
            note("ignored it")


def raises(text):
    raise ValueError(text)


def dies(how):
    note("dies")
    if how == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    sys.exit("it leaves")


def returns_object():
    return object()


def returns_much():
    return "x" * (1 << 20)


def returns_large(size):
    return b"x" * size


def nested(depth):
    """Submit a job from a job."""
    return app.submit(nested, depth - 1) if depth else "the last"


def chosen(env):
    return (
        globals()[env.query["function"]],
        env.json,
        env.query.get("timeout", type=float),
    )


def submit(env):
    function, args, timeout = chosen(env)
    return {"id": app.submit(function, *args, timeout=timeout)}


async def submit_async(env):
    return submit(env)


for place in ("sync", "thread", "pool"):
    app.post(f"/submit/{place}", place)(submit)
app.post("/submit/asnc", "asnc")(submit_async)


@app.post("/submit/stream")
def submit_streaming(env):
    yield "begun "
    yield submit(env)["id"]


@app.post("/submit/dies")
def submit_and_die(env):
    submit(env)
    os.kill(os.getpid(), signal.SIGKILL)


@app.post("/submit/late", timeout=0.2)
def submit_and_hang(env):
    submit(env)
    while True:
        time.sleep(0.01)


@app.get("/job/<id>", "sync")
def show(env, id):
    return look(id)


@app.get("/pool/job/<id>")
def show_from_worker(env, id):
    return look(id)


def look(id):
    found = app.job(id)
    if found is None:
        return "no such job", 404
    told = dict(found._asdict())
    if isinstance(found.result, bytes):
        told["result"] = len(found.result)
    return told


@app.post("/cancel/<id>", "sync")
def cancel(env, id):
    return {"asked": app.cancel(id)}


@app.post("/pool/cancel/<id>")
def cancel_from_worker(env, id):
    return {"asked": app.cancel(id)}


@app.post("/call", "asnc")
async def call(env):
    function, args, timeout = chosen(env)
    try:
        return {"result": await app.call(function, *args, timeout=timeout)}
    except JobError as error:
        return {"error": str(error)}, 500


@app.post("/call/cut-short", "asnc")
async def call_cut_short(env):
    function, args, _ = chosen(env)
    try:
        await asyncio.wait_for(app.call(function, *args), 0.3)
    except asyncio.TimeoutError:
        return "cut short"


@app.post("/wrong", "thread")
def wrong(env):
    def inner():
        pass

    table = {
        "lambda": (lambda: 1, ()),
        "inner": (inner, ()),
        "method": ("text".upper, ()),
        "no function": (NOT_A_FUNCTION, ()),
        "coroutine": (submit_async, (1,)),
        "argument": (add, (1, object())),
        "nan": (add, (float("nan"), 1)),
        "few": (add, (1,)),
        "large": (join, ("x" * (1 << 20), "")),
        "timeout": (add, (1, 2)),
    }
    found = {}
    for name, (function, args) in table.items():
        try:
            app.submit(function, *args, timeout=-1 if name == "timeout" else None)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


@app.post("/call/wrong")
def call_in_a_worker(env):
    try:
        asyncio.run(app.call(add, 1, 2))
    except Exception as error:
        return str(error)


@app.get("/pid")
def pid(env):
    return str(os.getpid())


@app.get("/changes/<id>", "asnc")
async def changes(env, id):
    async for message in app.state.aio.subscribe(f"job:{id}", after=0):
        yield f"{message.data}\n"
        if "state" in message.data:
            return


options = os.environ.get("JOBS_OPTIONS")
if options:
    app.jobs(
        **{
            k: float(v) if "." in v else int(v)
            for k, v in (one.split("=") for one in options.split())
        }
    )

if __name__ == "__main__":
    app.run()
