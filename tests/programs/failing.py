"""Handlers that fail, for the debug page: in main and in workers."""

from __future__ import annotations

# ruff: noqa: F841 - variables are for the page
import dataclasses
import os
import re
import time
from typing import Any, Dict

from pixie_web import Pixie, RouteType, abort

app = Pixie()
HOSTILE = "</td><script>document.title='owned'</script><img src=x onerror=alert(1)>"
API_TOKEN = "literal-in-the-source"


class Raises:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Leaves:
    def __repr__(self) -> str:
        raise SystemExit(3)


class Huge:
    def __repr__(self) -> str:
        return "x" * 100_000_000


class Slow:
    def __repr__(self) -> str:
        time.sleep(0.3)
        return "slow"


@dataclasses.dataclass
class Settings:
    user: str
    password: str


class Connection:
    def __repr__(self) -> str:
        return "<Connection password='hunter2-repr' postgres://ann:hunter2-url@host/db>"


def price(cart: Dict[str, Any], tax: float) -> float:
    total = sum(line["price"] * line["count"] for line in cart["lines"])
    return total / tax


def values(env: Any) -> None:
    password = "hunter2-local"
    settings = Settings("ann", "hunter2-field")
    config = {
        "database": {"secret_key": "hunter2-nested"},
        "n": [1, {"token": "hunter2-list"}],
    }
    connection = Connection()
    hostile, raises, leaves, huge = HOSTILE, Raises(), Leaves(), Huge()
    slow = [Slow() for _ in range(5)]
    text, data, number = "y" * 100_000_000, bytes(100_000_000), 1 << 100_000
    table = dict.fromkeys(range(1_000_000))
    loop: Any = []
    loop.append(loop)
    odd = "\ud800\x00\x1b[31m"
    raise KeyError(f"no such row: {HOSTILE} api_key=hunter2-message")


def cart(env: Any) -> Dict[str, float]:
    lines = [
        {"name": "tea", "price": 4.5, "count": 2},
        {"name": "cake", "price": 3, "count": 1},
    ]
    try:
        total = price({"customer": "Ann", "lines": lines}, tax=0)
    except ZeroDivisionError as error:
        raise ValueError("this cart has no price") from error
    return {"total": total}


def deep(env: Any, left: int = 300) -> int:
    return deep(env, left - 1) + 1 if left else 1 // left


def in_library(env: Any) -> Any:
    return re.compile("(unclosed")


for place in ("sync", "thread", "pool"):
    app.route(f"/{place}/cart", place)(cart)
    app.route(f"/{place}/values", place)(values)
    app.route(f"/{place}/deep", place)(lambda env: deep(env))
    app.route(f"/{place}/library", place)(in_library)


@app.route("/asnc/cart", RouteType.asnc)
async def cart_async(env: Any) -> Dict[str, float]:
    return cart(env)


@app.get("/gone", "sync")
def gone(env: Any) -> None:
    abort(410, "It is <gone>.")


@app.post("/form/<number:int>", "pool")
def form(env: Any, number: int) -> None:
    if env.form["name"] != env.form["password"]:
        raise LookupError(env.form["name"])


@app.get("/crash")
def crash(env: Any) -> None:
    os.abort()


@app.get("/pool/slow/<name>", "pool", timeout=0.3)
def slow(env: Any, name: str) -> None:
    wait(name)


def wait(name: str) -> None:
    import ctypes

    password = "hunter2-waiting"
    if name == "sleep":
        time.sleep(30)
    elif name == "crash":
        os.abort()
    elif name == "leave":
        os._exit(3)
    ctypes.PyDLL(None).sleep(30)  # with the interpreter's lock


if __name__ == "__main__":
    app.run()
