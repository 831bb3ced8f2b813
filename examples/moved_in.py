"""A Flask application that moves in, route by route.

    pip install flask
    python3 examples/moved_in.py         http://localhost:8000/shop/

The old application stays as it is, with its sessions and addresses, below a path. The
report, which took all of a thread's time, has moved: it runs in a worker, with a
deadline. Its old address leads to the new one.
"""

from pathlib import Path
from sys import path

if __name__ == "__main__":  # from a clone, with nothing installed
    path.insert(0, str(Path(__file__).resolve().parents[1]))

import flask

from pixie_web import RouteType, app, get, redirect, run

PAGE = """<!doctype html>
<html lang="en" style="color-scheme: light dark">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Shop</title>
<link rel="icon" href="data:,">
<style>
  body { margin: 0 auto; max-width: 40rem; padding: 1rem; font: 1rem/1.5 system-ui; }
</style>
"""

# The old application ------------------------------------------------------------------

old = flask.Flask(__name__)
old.secret_key = "for the example alone"


@old.route("/")
def basket():
    count = flask.session["count"] = flask.session.get("count", 0) + 1
    link = f"<a href='{flask.url_for('report')}'>Report</a>"
    return f"{PAGE}<h1>Shop</h1><p>Visit {count}. {link}</p>"


@old.route("/report")
def report():  # has moved
    return flask.redirect("/report", 308)


# The new one --------------------------------------------------------------------------


@get("/", RouteType.sync)
def index(env):
    redirect("/shop/")


@get("/report", timeout=10)
def new_report(env):
    found = [
        n for n in range(2, 20_000) if all(n % d for d in range(2, int(n**0.5) + 1))
    ]
    text = f"{len(found)} primes, counted in a worker"
    return f"{PAGE}<h1>Report</h1><p>{text}. <a href='/shop/'>Back</a></p>"


app.mount("/shop", old)

if __name__ == "__main__":
    run()
