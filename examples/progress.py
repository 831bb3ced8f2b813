"""A long job with progress: the page may be closed, the job goes on.

    python3 examples/progress.py        http://localhost:8000

The page shows the job's progress; opened again, it begins where the job is.
"""

from pathlib import Path
from sys import path

if __name__ == "__main__":  # from a clone, with nothing installed
    path.insert(0, str(Path(__file__).resolve().parents[1]))

from pixie_web import Event, abort, app, redirect, run, same_origin
from pixie_web.jobs import job

PAGE = """<!doctype html>
<html lang="en" style="color-scheme: light dark">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Primes</title>
<link rel="icon" href="data:,">
<style>
  body { margin: 0 auto; max-width: 30rem; padding: 1rem; font: 1rem/1.5 system-ui; }
  progress { margin-top: 1rem; width: 100%; }</style>
<h1>Primes</h1>
<form method="post" action="/jobs">
  <label>below <input name="below" value="2000000" inputmode="numeric"></label>
  <button>Count them</button>
</form>"""
JOB = """<progress max="1" value="0"></progress>
<p id="state" aria-live="polite">waiting</p>
<form id="cancel" method="post" action="/jobs/ID/cancel"><button>Cancel</button></form>
<script>
  const events = new EventSource("/jobs/ID/events");
  events.onmessage = ({data}) => {
    const news = JSON.parse(data);
    if ("progress" in news) document.querySelector("progress").value = news.progress;
    document.querySelector("#state").textContent = news.text || "running";
    if (news.text) { events.close(); document.querySelector("#cancel").remove(); }
  };
</script>"""


def count_primes(below):
    """Count the primes by a sieve, and tell how far it is."""
    sieve = bytearray([1]) * below
    sieve[:2] = b"\0\0"
    last = int(below**0.5)
    for number in range(2, last + 1):
        if sieve[number]:
            multiples = slice(number * number, None, number)
            sieve[multiples] = bytes(len(sieve[multiples]))
        job.progress(number / last)
    return sum(sieve)


@app.get("/")
def index(env):
    return PAGE


@app.post("/jobs", before=[same_origin])
def begin(env):
    below = env.form.get("below", type=int) or 0
    if not 2 <= below <= 50_000_000:
        abort(400, "A number from 2 to 50,000,000.")
    redirect("/jobs/" + app.submit(count_primes, below, timeout=120))


@app.get("/jobs/<id:re:[0-9a-f]{32}>")
def show(env, id):
    if app.job(id) is None:
        abort(404, "No such job; they are kept for an hour.")
    return PAGE + JOB.replace("ID", id)


@app.post("/jobs/<id:re:[0-9a-f]{32}>/cancel", before=[same_origin])
def cancel(env, id):
    app.cancel(id)
    redirect(f"/jobs/{id}")


@app.get("/jobs/<id:re:[0-9a-f]{32}>/events", "asnc")
async def events(env, id):
    yield Event(retry=1000)
    async for message in app.state.aio.subscribe(f"job:{id}", after=0):
        news = message.data
        if "state" in news:
            result = app.job(id).result
            said = f"{result} primes" if result else news["error"] or news["state"]
            news = {"text": said}
        yield Event(news)
        if "text" in news:
            return


if __name__ == "__main__":
    run()
