"""Pictures made small in worker processes, with a bar that shows how far each is.

    python3 examples/thumbnails.py [DIRECTORY]     http://localhost:8000

Send a large PNG, and open a second window meanwhile: it is there at once.
docs/tutorial.md builds a program like this one, step by step.
"""

import os
import re
import sys
from pathlib import Path
from sys import path

if __name__ == "__main__":  # from a clone, with nothing installed
    path.insert(0, str(Path(__file__).resolve().parents[1]))

from shrink import open_png, shrink

from pixie_web import Event, RouteType, abort, app, get, post, run, static_file

PAGE = """<!doctype html>
<html lang="en" style="color-scheme: light dark">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Thumbnails</title>
<link rel="icon" href="data:,">
<style>
  body { margin: 0 auto; max-width: 40rem; padding: 1rem; font: 1rem/1.5 system-ui; }
  img { margin: .5rem .5rem 0 0; border-radius: .5rem; }
</style>
<h1>Thumbnails</h1>
<form id="form"><input type="file" name="picture" accept="image/png" required>
  <button>Send</button></form>
<p><progress id="bar" value="0" max="1"></progress>
  <span id="state" role="status"></span></p>
<div id="pictures"></div>
<script>
const byId = (id) => document.getElementById(id);
byId("form").onsubmit = async (event) => {
  event.preventDefault();
  const body = new FormData(event.target), headers = { Accept: "application/json" };
  const answer = await fetch("/pictures", { method: "POST", body, headers });
  const { name, detail } = await answer.json();
  byId("state").textContent = detail || name;
  if (!answer.ok) return;
  const events = new EventSource("/progress/" + name);
  events.onmessage = ({ data }) => byId("bar").value = Number(data);
  events.addEventListener("end", ({ data }) => {
    events.close();
    const image = new Image();
    image.src = data;
    byId("pictures").append(image);
  });
};
</script>
"""
PLACE = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
PLACE.mkdir(exist_ok=True)


@get("/", RouteType.sync)
def page(env):
    return PAGE


@post("/pictures", RouteType.thread, max_body_bytes=20_000_000)
def add(env):
    upload = env.files["picture"]
    data = upload.file.read()
    try:
        open_png(data)
    except ValueError as error:
        abort(422, str(error))
    name = f"{os.urandom(8).hex()}.png"  # the client's name is of no use as a path
    (PLACE / name).write_bytes(data)
    return {"name": name}, 201


@get("/progress/<name>", timeout=20)  # a stream out of the pool
def progress(env, name):
    if not re.fullmatch(r"[0-9a-f]{16}\.png", name) or not (PLACE / name).exists():
        abort(404, "There is no such picture.")
    for step in shrink((PLACE / name).read_bytes()):
        if isinstance(step, bytes):
            (PLACE / f"small-{name}").write_bytes(step)
        elif step[0] % 10 == 0:
            yield Event(step[0] / step[1])
    yield Event(app.url_for("small", name=f"small-{name}"), event="end")


@get("/small/<name>", RouteType.sync)
def small(env, name):
    return static_file(name, root=PLACE, max_age=3600)


if __name__ == "__main__":
    run()
