"""Uploads of any size, straight to the disk, with a bar in the page.

    python3 examples/upload.py [DIRECTORY]     http://localhost:8000
    curl -T film.mp4 http://localhost:8000/files/film.mp4

The handler is called when the head has come, and writes each piece as it arrives: the
memory stays flat, and a client that is too large or too slow is cut off on the way.
"""

import os
import sys
import tempfile
from pathlib import Path
from sys import path

if __name__ == "__main__":  # from a clone, with nothing installed
    path.insert(0, str(Path(__file__).resolve().parents[1]))

from pixie_web import RouteType, abort, app, get, run, same_origin, static_file

MAX_BYTES = 10 * 1000**3
PLACE = Path(sys.argv[1] if len(sys.argv) > 1 else "uploads")
PLACE.mkdir(exist_ok=True)
PAGE = """<!doctype html>
<html lang="en" style="color-scheme: light dark">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Uploads</title>
<link rel="icon" href="data:,">
<style>body { margin: auto; max-width: 40rem; padding: 1rem; font: 1rem/1.5 system-ui }
</style>
<h1>Uploads</h1>
<p><input id="file" type="file"> <progress id="bar" value="0" max="1"></progress>
  <span id="state" role="status"></span></p>
<ul id="files"></ul>
<script>
const byId = (id) => document.getElementById(id);
const address = (name) => "/files/" + encodeURIComponent(name);
async function list() {
  const names = await (await fetch("/files")).json();
  byId("files").replaceChildren(...names.map(({ name, bytes }) => {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = address(name);
    link.textContent = name;
    item.append(link, ` ${bytes} bytes`);
    return item;
  }));
}
byId("file").onchange = () => {
  const [file] = byId("file").files, request = new XMLHttpRequest();
  request.upload.onprogress = ({ loaded, total }) => byId("bar").value = loaded / total;
  request.onloadend = () => { byId("state").textContent = request.statusText; list(); };
  request.open("PUT", address(file.name));
  request.send(file);
};
list();
</script>
"""


@get("/", RouteType.sync)
def page(env):
    return PAGE


@get("/files", RouteType.thread)
def files(env):
    found = [one for one in PLACE.iterdir() if one.is_file() and one.name[0] != "."]
    return [{"name": one.name, "bytes": one.stat().st_size} for one in sorted(found)]


@app.put(
    "/files/<name>",
    RouteType.asnc,
    before=[same_origin],
    stream_body=True,
    max_body_bytes=MAX_BYTES,
)
async def put(env, name):
    if name[0] == "." or "\\" in name or "\0" in name:
        abort(422, "Send another name.")
    with tempfile.NamedTemporaryFile(dir=PLACE, prefix=".part-") as part:
        async for piece in env.stream():
            part.write(piece)  # into the cache of the system: it does not wait
        part.flush()
        try:
            os.link(part.name, PLACE / name)  # whole, and never over another file
        except FileExistsError:
            abort(409, "There is a file of this name.")
    return {"name": name, "bytes": (PLACE / name).stat().st_size}, 201


@get("/files/<name>", RouteType.sync)
def file(env, name):
    return static_file(name, root=PLACE, download=True)  # never shown as our page


if __name__ == "__main__":
    run()
