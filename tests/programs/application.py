"""An application with mounts, triggers and error handlers, in several placements."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, List

from pixie_web import (
    HTTPError,
    Pixie,
    RequestTimeout,
    Response,
    abort,
    proc_env,
    redirect,
)

DIRECTORY = os.environ["APPLICATION_FILES"]
app = Pixie("outer")
plain = Pixie("plain")
inner = Pixie("inner")
innermost = Pixie("innermost")


def note(text: str) -> None:
    sys.stderr.write(f"note: {text}\n")
    sys.stderr.flush()


# Routing ------------------------------------------------------------------------------


@app.get("/", "sync")
def index(env):
    return f"index {env.method}"


@app.route("/several", "sync", ["POST", "PUT"])
def several(env):
    return env.method


@app.route("/several", "sync", "DELETE")
def several_deleted(env):
    return "deleted"


@app.route(["/one", "/two/<n:int>"], "sync")
def two_paths(env, n=0):
    return f"{env.path} {n} {env.url.partition('//')[2].partition('/')[2]}"


@app.head("/own_head", "sync")
def own_head(env):
    return Response("", headers={"X-Own": "yes"})


@app.options("/own_options", "sync")
def own_options(env):
    return "mine"


@app.route("/brew", "sync", "BREW")
def brew(env):
    return "coffee"


@app.patch("/patch", "pool")
def patch(env):
    return env.text


@app.put("/put", "asnc")
async def put(env):
    return env.text


@app.delete("/delete", "thread")
def delete(env):
    return "gone", 200


# Mounts -------------------------------------------------------------------------------


@inner.get("/", "sync")
@inner.get("/page", "pool", name="page")
def inner_page(env):
    return [env.prefix, env.path, env.route.app.import_name]


@inner.get("/item/<n:int>", "pool", name="item")
def inner_item(env, n):
    return [env.prefix, env.path, n]


@innermost.get("/deep", "pool")
def deep(env):
    return [env.prefix, env.path, env.url.partition("//")[2].partition("/")[2]]


@inner.error(404)
def inner_404(env, error):
    return "inner 404"


app.mount("/inner", inner)
app.mount("/inner/special/", plain)
inner.mount("/most", innermost)


@plain.get("/x", "sync")
def plain_x(env):
    return "special"


# Error handlers -----------------------------------------------------------------------


class Shop(Exception):
    pass


class SoldOut(Shop):
    pass


class Teapot(HTTPError):
    def __init__(self):
        super().__init__(418, "short and stout")


@app.error(404)
def not_found(env, error):
    return f"outer 404 for {env.path}: {error.status} {error.text}"


@app.error(405)
def not_allowed(env, error):
    return {"allow": error.headers["Allow"]}


@app.error(401)
def to_login(env, error):
    redirect("/login")


@app.error(402)
def to_abort(env, error):
    abort(409, "aborted in the handler")


@app.error(410)
def to_own_status(env, error):
    return "own status", 411


@app.error(429)
def with_headers(env, error):
    return Response("later", headers={"Retry-After": "60"})


@app.error(421)
def streams_iterator(env, error):
    return iter(["in ", "pieces"])


@app.error(422)
def fails(env, error):
    raise KeyError("in the handler")


@app.error(423)
def exits(env, error):
    sys.exit("in the handler")


@app.error(424)
def bad_page(env, error):
    return Response("x", headers={"Connection": "close"})


@app.error(Shop)
def shop_error(env, error):
    return f"shop: {type(error).__name__}", 503


@app.error(Exception)
def any_error(env, error):
    note(f"any error: {type(error).__name__}")
    return "any", 500


@app.error(Teapot)
def teapot(env, error):
    return f"teapot: {error.text}"


FAILURES = {
    "shop": Shop("a"),
    "sold_out": SoldOut("b"),
    "other": OSError("c"),
    "teapot": Teapot(),
}


def raise_it(env, what):
    if what in FAILURES:
        raise FAILURES[what]
    if what == "bad_headers":
        raise HTTPError(400, headers={"X-Bad": "a\r\nb"})
    if what == "redirect":
        redirect("/elsewhere")
    headers = {"WWW-Authenticate": "Basic"} if what in ("401", "404") else None
    if what == "429":
        headers = {"Retry-After": "7", "X-Limit": "5"}
    raise HTTPError(int(what), headers=headers)


@app.get("/raise/asnc/<what>")
async def raise_in_coroutine(env, what):
    await asyncio.sleep(0)
    raise_it(env, what)


for kind in ("sync", "thread", "pool"):
    app.route(f"/raise/{kind}/<what>", kind)(raise_it)


# Failures without handlers, for the debug page ----------------------------------------

bare = Pixie("bare")


def fail(env):
    secret = "<b>secret</b>"
    raise ValueError(secret)


@bare.get("/fail/asnc")
async def fail_in_coroutine(env):
    fail(env)


@bare.get("/fail/stream")
def fail_in_stream(env):
    fail(env)
    yield "never"


for kind in ("sync", "thread", "pool"):
    bare.route(f"/fail/{kind}", kind)(fail)


@bare.get("/handled/500", "sync")
def handled_500(env):
    raise ValueError("handled by a status handler")


app.mount("/bare", bare)

pretty = Pixie("pretty")


@pretty.error(500)
def pretty_500(env, error):
    return "we are sorry"


pretty.get("/fail", "pool")(fail)
pretty.get("/exit", "pool")(lambda env: sys.exit(1))
app.mount("/pretty", pretty)

# Triggers -----------------------------------------------------------------------------

watched = Pixie("watched")


def trail(env: Any) -> List[str]:
    return env.context.setdefault("trail", [])


def where() -> str:
    return proc_env.proc_type.name


@watched.before
def first(env):
    trail(env).append(f"first {where()}")
    if env.query.get("stop") == "first":
        return "stopped by first"
    if env.query.get("stop") == "first fails":
        raise Shop("first")
    return None


@watched.before
async def second_async(env):
    await asyncio.sleep(0)
    trail(env).append(f"second_async {where()}")
    if env.query.get("stop") == "async":
        return Response("stopped by async", 403)
    if env.query.get("stop") == "async fails":
        raise Shop("second")
    if env.query.get("stop") == "async aborts":
        abort(403)
    if env.query.get("stop") == "async exits":
        sys.exit(1)
    return None


def third_of_route(env):
    trail(env).append(f"third_of_route {where()}")


@watched.after
def app_after(env, response):
    response.headers.add("X-After", f"app {where()}")
    if env.query.get("after") == "exits":
        sys.exit(1)
    if env.query.get("after") == "body":
        response.body = "another body"
    return response


@watched.after
async def app_after_async(env, response):
    response.headers.add("X-After", f"app_async {where()}")
    if env.query.get("after") == "async same":
        return response
    if env.query.get("after") == "async fails":
        raise OSError("after")
    if env.query.get("after") == "async exits":
        sys.exit(1)
    if env.query.get("after") == "async replaces":
        return "replaced"
    if env.query.get("after") == "async header":
        response.headers["Upgrade"] = "x"
    return None


def route_after(env, response):
    response.headers.add("X-After", f"route {where()}")


def watch(env):
    return {"trail": trail(env)}


def watch_stream(env):
    try:
        yield str(trail(env))
        while env.query.get("endless"):
            yield "x" * 65_536
    finally:
        note("watched stream ended")


async def watch_async(env):
    return watch(env)


OPTIONS = {"before": [third_of_route], "after": [route_after]}
watched.route("/asnc", "asnc", ["GET", "POST"], **OPTIONS)(watch_async)
watched.route("/stream", "stream", **OPTIONS)(watch_stream)
for kind in ("sync", "thread", "pool"):
    watched.route(f"/{kind}", kind, ["GET", "POST"], **OPTIONS)(watch)
app.mount("/watched", watched)


crammed = Pixie("crammed")


@crammed.before
async def cram(env):
    if env.query.get("what") == "object":
        env.context["what"] = object()
    if env.query.get("what") == "nan":
        env.context["what"] = float("nan")


crammed.get("/pool", "pool")(lambda env: "pool")
crammed.get("/stream", "stream")(watch_stream)
app.mount("/crammed", crammed)

# The body of a request that is refused ------------------------------------------------

guarded = Pixie("guarded")


@guarded.before
async def guard(env):
    if env.header("x-key") != "right":
        return "no", 403
    return None


@guarded.post("/upload", "pool", max_body_bytes=1000)
def upload(env):
    return str(len(env.body))


@guarded.before
async def too_early(env):
    if env.query.get("body"):
        return env.body
    return None


app.mount("/guarded", guarded)

# The rest -----------------------------------------------------------------------------


def later(env, n=0):
    env.after_response(lambda: note(f"after response in {where()}"))
    if env.query.get("fails"):
        env.after_response(lambda: 1 / 0)
    if env.query.get("exits"):
        env.after_response(lambda: sys.exit(1))
    return "now"


@app.get("/later/asnc")
async def later_async(env):
    return later(env)


@app.get("/later/stream")
def later_stream(env):
    yield later(env)


for kind in ("sync", "thread", "pool"):
    app.route(f"/later/{kind}", kind)(later)

app.static("/assets", DIRECTORY)
app.static("/pages", DIRECTORY, index="größe.txt")
started: List[str] = []


@app.on_start
def at_start():
    started.append("main")
    note(f"on_start in {where()}")


@inner.on_start
async def at_inner_start():
    note("inner on_start")


@app.on_stop
async def at_stop():
    note(f"on_stop in {where()}")


@app.on_worker_start
def at_worker_start():
    started.append("worker")
    note(f"on_worker_start in {where()}")


@app.on_worker_stop
def at_worker_stop():
    note(f"on_worker_stop in {where()}")


@app.get("/started", "pool")
def which_started(env):
    return [started, proc_env.worker is not None, proc_env.pool is None]


@app.get("/started_main", "sync")
def which_started_main(env):
    return [started, proc_env.worker is None, proc_env.pool is not None]


@app.get("/late", "sync")
def declare_late(env):
    app.route("/later")(lambda env: "x")


@app.get("/timed_out", "sync")
def raises_request_timeout(env):
    raise RequestTimeout


if __name__ == "__main__":
    app.run()
