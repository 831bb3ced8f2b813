"""Server-sent events: the load of the machine, live, in as many windows as you like.

    python3 examples/events.py           http://localhost:8000
    curl -N http://localhost:8000/events

The streams wait on the event loop, so a thousand open windows hold no worker. One task
looks once a second for all of them.
"""

import asyncio
import os
from pathlib import Path
from sys import path

if __name__ == "__main__":  # from a clone, with nothing installed
    path.insert(0, str(Path(__file__).resolve().parents[1]))

from pixie_web import Event, RouteType, app, get, run

PAGE = """<!doctype html>
<html lang="en" style="color-scheme: light dark">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Load</title>
<link rel="icon" href="data:,">
<style>
  body { margin: 0 auto; max-width: 40rem; padding: 1rem; font: 1rem/1.5 system-ui; }
  #bars { display: flex; align-items: flex-end; gap: 2px; height: 10rem; }
  #bars div { width: .5rem; min-height: 1px; background: #0b8a7a; }
</style>
<h1>Load of the machine</h1>
<div id="bars"></div>
<p id="state" role="status">connecting</p>
<script>
const bars = document.getElementById("bars"), state = document.getElementById("state");
const events = new EventSource("/events");
events.onerror = () => state.textContent = "lost; trying again";
events.addEventListener("load", (event) => {
  const { load, cpus, windows } = JSON.parse(event.data);
  const bar = document.createElement("div");
  bar.style.height = Math.min(100, 100 * load / cpus) + "%";
  bars.append(bar);
  if (bars.children.length > 60) bars.firstChild.remove();
  state.textContent = `${load} of ${cpus} CPUs; windows: ${windows}`;
});
</script>
"""
newest = None  # what was seen last; a global of main, where all of this runs
news = None  # an asyncio.Event that is set once, when there is something newer
looking = None
windows = 0


async def look():
    global newest, news
    while True:
        newest = {"load": round(os.getloadavg()[0], 2), "cpus": os.cpu_count()}
        news, old = asyncio.Event(), news
        old.set()
        await asyncio.sleep(1)


@app.on_start
async def begin():
    global looking, news
    news = asyncio.Event()
    looking = asyncio.ensure_future(look())  # kept, or it would be collected


@app.on_stop
def end():
    looking.cancel()


@get("/", RouteType.sync)
def page(env):
    return PAGE


@get("/events", RouteType.asnc, heartbeat=":\n\n")
async def events(env):
    global windows
    windows += 1
    try:
        yield Event(retry=1000)
        while True:
            await news.wait()
            yield Event({**newest, "windows": windows}, event="load")
    finally:  # the client has left
        windows -= 1


if __name__ == "__main__":
    run(drain_seconds=2)  # a stop waits no longer for streams that never end
