"""A chat: what anybody says appears in every open page, whichever process heard it.

    python3 examples/chat.py        http://localhost:8000

Words are posted to a worker of the pool, which publishes them; each page has an event
stream from main. A page that loses its connection comes back with the id of the last
message that it saw, and gets the ones in between.
"""

from pathlib import Path
from sys import path

if __name__ == "__main__":  # from a clone, with nothing installed
    path.insert(0, str(Path(__file__).resolve().parents[1]))

from pixie_web import Event, RouteType, abort, app, proc_env, run, same_origin
from pixie_web.state import rate_limit

PAGE = """<!doctype html>
<html lang="en" style="color-scheme: light dark">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Chat</title>
<link rel="icon" href="data:,">
<style>
  body { margin: 0 auto; max-width: 40rem; padding: 1rem; font: 1rem/1.5 system-ui; }
  ol { list-style: none; padding: 0; min-height: 60vh; }
  li { padding: .4rem .7rem; margin: .3rem 0; background: #8882; border-radius: .5rem;
    overflow-wrap: anywhere; }
  small { opacity: .7; }
  form { display: flex; gap: .5rem; position: sticky; bottom: 0; background: Canvas; }
  input { font: inherit; padding: .4rem; min-width: 0; }
  #name { width: 8rem; } #text { flex: 1; }
</style>
<h1>Chat</h1>
<p><small id="state" role="status">connecting</small></p>
<ol id="messages" aria-live="polite"></ol>
<form id="form">
  <input id="name" aria-label="Name" placeholder="Name" maxlength="40" required>
  <input id="text" aria-label="Message" placeholder="Message" maxlength="500" required>
  <button>Say</button>
</form>
<script>
const byId = (id) => document.getElementById(id);
const events = new EventSource("/events");
events.onopen = () => byId("state").textContent = "connected";
events.onerror = () => byId("state").textContent = "lost; trying again";
events.onmessage = (event) => {
  const { name, text, said_in } = JSON.parse(event.data);
  const item = document.createElement("li"), by = document.createElement("small");
  by.textContent = ` ${name}, by way of ${said_in}`;
  item.append(text, by);
  byId("messages").append(item);
  item.scrollIntoView();
};
byId("form").onsubmit = async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ name: byId("name").value, text: byId("text").value });
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch("/say", { method: "POST", body, headers });
  if (answer.ok) byId("text").value = "";
  else byId("state").textContent = "not sent: " + answer.statusText;
};
</script>
"""


@app.get("/", RouteType.sync)
def page(env):
    return PAGE


@app.post("/say", before=[same_origin, rate_limit("30/minute")])
def say(env):
    words = env.json if isinstance(env.json, dict) else {}
    name, text = str(words.get("name", ""))[:40], str(words.get("text", ""))[:500]
    if not (name and text):
        abort(400, "Send a name and a text.")
    said_in = f"worker {proc_env.worker}" if proc_env.worker else "main"
    message = {"name": name, "text": text, "said_in": said_in}
    return {"id": app.state.publish("chat", message, keep=200)}


@app.get("/events", RouteType.asnc, heartbeat=":\n\n")
async def events(env):
    yield Event(retry=1000)  # the page knows that it is connected
    last = env.header("last-event-id", "0")  # a new page gets what is kept
    async for message in app.state.aio.subscribe("chat", after=last):
        yield Event(message.data, id=message.id)


if __name__ == "__main__":
    run()
