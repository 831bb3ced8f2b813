"""The routes of `app.status("/status")`: a live page, its data, Prometheus' text.

Three `sync` routes: the page; `app.stats()` as JSON, which the page asks for every
two seconds, so that it needs no other server; and the same as metrics. They show
paths, numbers and process ids, and no data of a request.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from .application import Application
from .errors import RouteError
from .executors.base import RouteType
from .requests import Request
from .responses import Response
from .text import escape

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("starting", "idle", "busy", "dying")

Sample = Tuple[str, str, float]  # what follows the metric's name, labels, value


def mount(application: Application, path: str, options: Dict[str, Any]) -> None:
    """Declare the three routes on an application; see `Pixie.status`."""
    if not re.fullmatch(r"(/[^/<>]+)+", path):
        raise RouteError(f'status takes a path such as "/status", got {path!r}')

    def status_page(env: Request) -> Response:
        own = escape(env.prefix + path)
        page = PAGE.replace("OWN_PATH", own).encode()
        return Response(page, content_type="text/html; charset=utf-8", headers=HEADERS)

    def status_json(env: Request) -> Response:
        return Response(application.stats(), headers=HEADERS)

    def status_metrics(env: Request) -> Response:
        text = render_metrics(application.stats())
        return Response(text.encode(), content_type=PROMETHEUS, headers=HEADERS)

    options = {"route_type": RouteType.sync, **options}
    application.route(path, **options)(status_page)
    application.route(f"{path}.json", **options)(status_json)
    application.route(f"{path}/metrics", **options)(status_metrics)


# Prometheus ---------------------------------------------------------------------------
# The text format, version 0.0.4: of each metric HELP and TYPE, then all its samples.


def quote_label(value: object) -> str:
    """Return a label's value in quotes: a"b -> "a\\"b"."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def labelled(**labels: object) -> str:
    """Return labels as they are written: {route="/",method="GET"} without braces."""
    return ",".join(f"{name}={quote_label(value)}" for name, value in labels.items())


def metric(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    """Iterate over the lines of one metric; none, if it has no sample."""
    lines = [
        f"{name}{end}{{{labels}}} {value}" if labels else f"{name}{end} {value}"
        for end, labels, value in samples
    ]
    if lines:
        yield from (f"# HELP {name} {text}", f"# TYPE {name} {kind}", *lines)


def histogram_samples(
    bounds: List[float], labels: str, histogram: Mapping[str, Any]
) -> Iterator[Sample]:
    """Iterate over a histogram's samples: cumulative buckets, sum and count."""
    total = 0
    for bound, count in zip([*map(repr, bounds), "+Inf"], histogram["counts"]):
        total += count
        yield "_bucket", f'{labels},le="{bound}"', total
    yield "_sum", labels, histogram["seconds"]
    yield "_count", labels, total


MAIN_METRICS = (
    ("uptime_seconds", "Seconds since the start.", "uptime_seconds"),
    ("memory_bytes", "Resident memory of the main process.", "memory_bytes"),
)
THREAD_METRICS = (
    ("threads", "Threads that may be busy at once.", "size"),
    ("threads_busy", "Threads that run a handler.", "busy"),
    ("threads_waiting", "Requests that wait for a thread.", "waiting"),
)
POOL_METRICS = (
    ("pool_slots", "gauge", "Handlers that may run at once.", "size"),
    ("pool_busy", "gauge", "Handlers that run.", "busy"),
    ("pool_stream_slots", "gauge", "Streams that may run at once.", "max_streams"),
    ("pool_streams", "gauge", "Streams that run.", "streams"),
    ("pool_waiting", "gauge", "Requests that wait for a worker.", "waiting"),
    ("pool_waiting_limit", "gauge", "Requests that may wait.", "max_waiting"),
    ("workers_started_total", "counter", "Workers ever started.", "started"),
    ("worker_kills_total", "counter", "Workers killed by main's order.", "kills"),
)
ROUTE_METRICS = (
    ("requests_active", "gauge", "Requests that wait or run.", "active"),
    ("request_failures_total", "counter", "Answers of 500 and above.", "failures"),
    ("request_timeouts_total", "counter", "Deadlines that passed.", "timeouts"),
    ("request_crashes_total", "counter", "Workers that died in it.", "crashes"),
    ("request_rejections_total", "counter", "Too busy: answered 503.", "rejections"),
    ("request_disconnects_total", "counter", "Clients that left.", "disconnects"),
)
HISTOGRAMS = (
    ("request_wait_seconds", "Seconds before the handler.", "wait"),
    ("request_run_seconds", "Seconds in the handler, to the first chunk.", "run"),
)


STATE_METRICS = (
    ("state_keys", "gauge", "Keys of the state.", "keys"),
    ("state_bytes", "gauge", "Bytes that the state takes.", "bytes"),
    ("state_bytes_limit", "gauge", "Bytes that it may take.", "max_bytes"),
    ("state_operations_total", "counter", "Calls of the state.", "operations"),
    ("state_waits_total", "counter", "Calls that had to wait for others.", "waits"),
    ("state_subscribers", "gauge", "Subscribers of channels.", "subscribers"),
)


def state_lines(state: Optional[Mapping[str, Any]]) -> Iterator[str]:
    """Iterate over the lines about `app.state`, if anybody has used it."""
    for name, kind, text, key in STATE_METRICS if state else ():
        samples: List[Sample] = [("", "", state[key])] if state else []
        yield from metric(f"pixie_web_{name}", kind, text, samples)
    text = "Seconds that calls of the state had to wait for others."
    waited: List[Sample] = [("", "", state["wait_seconds"])] if state else []
    yield from metric("pixie_web_state_wait_seconds_total", "counter", text, waited)


def main_lines(stats: Mapping[str, Any]) -> Iterator[str]:
    """Iterate over the lines about main and its threads."""
    version = ("", labelled(version=stats["version"]), 1)
    yield from metric("pixie_web_info", "gauge", "The version.", [version])
    for table, source in ((MAIN_METRICS, stats), (THREAD_METRICS, stats["threads"])):
        for name, text, key in table:
            samples: List[Sample] = [("", "", source[key])]
            yield from metric(f"pixie_web_{name}", "gauge", text, samples)


def pool_lines(pools: List[Mapping[str, Any]]) -> Iterator[str]:
    """Iterate over the lines about the pools and their workers."""
    for name, kind, text, key in POOL_METRICS:
        samples: List[Sample] = [("", labelled(pool=p["name"]), p[key]) for p in pools]
        yield from metric(f"pixie_web_{name}", kind, text, samples)
    crashes: List[Sample] = [
        ("", labelled(pool=pool["name"], cause=cause), count)
        for pool in pools
        for cause, count in pool["crashes"].items()
    ]
    name, text = "pixie_web_worker_crashes_total", "Workers that died by themselves."
    yield from metric(name, "counter", text, crashes)
    states, memory = [], []
    for pool in pools:
        name = pool["name"]
        for state in STATES:
            count = sum(worker["state"] == state for worker in pool["workers"])
            states.append(("", labelled(pool=name, state=state), count))
        used = sum(worker["memory_bytes"] for worker in pool["workers"])
        memory.append(("", labelled(pool=name), used))
    yield from metric("pixie_web_workers", "gauge", "Workers by state.", states)
    text = "Memory of the workers that they share with no other process."
    yield from metric("pixie_web_worker_memory_bytes", "gauge", text, memory)


def route_lines(routes: List[Mapping[str, Any]], bounds: List[float]) -> Iterator[str]:
    """Iterate over the lines about the routes."""
    rows = [
        (
            labelled(
                route=route["path"],
                method=",".join(route["methods"]),
                placement=route["placement"],
            ),
            route,
        )
        for route in routes
    ]
    for name, kind, text, key in ROUTE_METRICS:
        samples: List[Sample] = [("", labels, route[key]) for labels, route in rows]
        yield from metric(f"pixie_web_{name}", kind, text, samples)
    for name, text, key in HISTOGRAMS:
        samples = [
            sample
            for labels, route in rows
            for sample in histogram_samples(bounds, labels, route[key])
        ]
        yield from metric(f"pixie_web_{name}", "histogram", text, samples)


def render_metrics(stats: Mapping[str, Any]) -> str:
    """Return what `Pixie.stats` told in Prometheus' text format."""
    lines = [
        *main_lines(stats),
        *pool_lines(stats["pools"]),
        *state_lines(stats["state"]),
        *route_lines(stats["routes"], stats["bounds_seconds"]),
    ]
    return "\n".join(lines) + "\n"


# The page -----------------------------------------------------------------------------

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #fff; --line: #e1e4ea; --text: #1a1f2b; --dim: #5c6577;
  --accent: #3b5bdb; --soft: #dbe4ff; --good: #1f7a44; --warn: #8a5200; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10131a; --card: #191e28; --line: #2b3240; --text: #e7eaf1;
    --dim: #9aa4b6; --accent: #91a7ff; --soft: #27335c; --good: #69db7c;
    --warn: #ffc078; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums;
}
main, header { max-width: 76rem; margin: 0 auto; padding: 0 1rem; }
header {
  display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem;
  padding-top: 1.25rem;
}
h1 { font-size: 1.25rem; margin: 0; }
h2 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
header p { margin: 0; color: var(--dim); font-size: .875rem; }
#contact { margin-left: auto; color: var(--good); }
#contact::before { content: "\\25cf "; }
.lost #contact { color: var(--bad); font-weight: 600; }
.lost main { opacity: .55; }
a { color: var(--accent); }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(7.25rem, 1fr));
  gap: .75rem; margin-top: 1rem;
}
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: .625rem;
}
.tile { padding: .625rem .75rem; }
.tile b {
  display: block; font-size: 1.3125rem; font-weight: 600; line-height: 1.35;
  white-space: nowrap;
}
.tile span, .tile small { color: var(--dim); font-size: .8125rem; line-height: 1.35; }
.tile small { display: block; }
.tile.bad b { color: var(--bad); }
.meter {
  height: 4px; border-radius: 2px; margin-top: .375rem; background: var(--soft);
  overflow: hidden;
}
.meter i { display: block; height: 100%; width: 0; background: var(--accent); }
#rate { display: block; width: 100%; height: 5rem; }
#rate polyline { fill: none; stroke: var(--accent); stroke-width: 2; }
#rate polygon { fill: var(--soft); }
#rate * { vector-effect: non-scaling-stroke; }
figure { margin: .75rem 0 0; padding: .625rem .875rem; }
figcaption { color: var(--dim); font-size: .8125rem; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .875rem; }
th, td { padding: .4375rem .75rem; text-align: right; white-space: nowrap; }
th { color: var(--dim); font-weight: 500; }
tbody tr { border-top: 1px solid var(--line); }
.left { text-align: left; }
td.left { white-space: normal; overflow-wrap: anywhere; }
code { font: .8125rem/1.4 ui-monospace, monospace; }
.quiet td { color: var(--dim); }
td.bad { color: var(--bad); font-weight: 600; }
.pill {
  display: inline-block; border: 1px solid; border-radius: 1rem; padding: 0 .5rem;
  font-size: .75rem;
}
.idle { color: var(--good); } .busy { color: var(--accent); }
.starting, .dying { color: var(--warn); }
.bars { display: inline-flex; align-items: flex-end; gap: 1px; height: 1.5rem; }
.bars i { width: 4px; min-height: 1px; background: var(--line); }
.bars i.some { background: var(--accent); min-height: 3px; }
footer { color: var(--dim); font-size: .8125rem; padding: 1.5rem 0 2.5rem; }
@media (max-width: 64rem) {
  thead { display: none; }
  tr {
    display: grid; grid-template-columns: repeat(auto-fill, minmax(5.25rem, 1fr));
    gap: .375rem .75rem; padding: .625rem .875rem;
  }
  td { padding: 0; text-align: left; }
  td:not(.left)::before {
    display: block; content: attr(data-name); color: var(--dim); font-size: .75rem;
    font-weight: 400;
  }
  td.left { grid-column: 1 / -1; }
  td.none { display: none; }
}
"""

SCRIPT = """
"use strict";
const SECONDS = 2, KEPT = 90;
const byId = (id) => document.getElementById(id);
const own = document.documentElement.dataset.path;
const rates = [];
let before = null;

function make(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}
function bytes(count) {
  if (!count) return "\\u2013";
  const [size, name] = count < 1e9 ? [1e6, "\\u00a0MB"] : [1e9, "\\u00a0GB"];
  return Number((count / size).toPrecision(3)) + name;
}
function time(seconds) {
  if (seconds === null) return "\\u2013";
  if (seconds < 0.9995) return Number((seconds * 1000).toPrecision(3)) + " ms";
  if (seconds < 60) return Number(seconds.toPrecision(3)) + " s";
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = units.findIndex(([size]) => seconds >= size);
  const [size, name] = units[at], [less, lesser] = units[at + 1];
  const rest = Math.floor(seconds % size / less);
  return `${Math.floor(seconds / size)} ${name} ${rest} ${lesser}`;
}
// The bound under which a part of the histogram lies: no more is known.
function under(histogram, part, bounds) {
  let left = histogram.count * part;
  if (!histogram.count) return "";
  const at = histogram.counts.findIndex((count) => (left -= count) <= 0);
  if (at === bounds.length) return "> " + time(bounds[at - 1]);
  return "\\u2264 " + time(bounds[at]);
}
function bars(histogram, bounds) {
  const most = Math.max(...histogram.counts), box = make("span", undefined, "bars");
  histogram.counts.forEach((count, at) => {
    const bar = make("i", undefined, count ? "some" : "");
    bar.style.height = most ? 100 * count / most + "%" : 0;
    const upTo = at < bounds.length ? "up to " + time(bounds[at]) : "longer";
    bar.title = `${upTo}: ${count}`;
    box.append(bar);
  });
  return box;
}
function tile(name, value, note, part, bad) {
  const box = make("div", undefined, "card tile" + (bad ? " bad" : ""));
  box.append(make("span", name), make("b", value));
  if (note) box.append(make("small", note));
  if (part !== undefined) {
    const meter = make("div", undefined, "meter"), fill = make("i");
    fill.style.width = 100 * Math.min(1, part) + "%";
    meter.append(fill);
    box.append(meter);
  }
  return box;
}
function fill(body, names, rows) {
  body.replaceChildren(...rows.map(({ cells, kind }) => {
    const row = make("tr", undefined, kind);
    cells.forEach(({ value, kind }, at) => {
      const cell = make("td", undefined, kind);
      cell.dataset.name = names[at];
      cell.append(value);
      row.append(cell);
    });
    return row;
  }));
}
const sum = (list, of) => list.reduce((total, one) => total + of(one), 0);

function showTiles(now, rate) {
  const workers = now.pools.flatMap((pool) => pool.workers);
  const total = (name) => sum(now.pools, (pool) => pool[name]);
  const count = (name) => sum(now.routes, (route) => route[name]);
  const crashes = now.pools.flatMap((pool) => Object.entries(pool.crashes));
  const causes = crashes.map(([cause, n]) => `${n} ${cause}`.replace(/ /g, "\\u00a0"));
  const used = sum(workers, (worker) => worker.memory_bytes);
  const boxes = [tile("Requests/s", rate.toFixed(rate < 10 ? 1 : 0),
    `${count("active")} under way`)];
  if (now.pools.length) {
    const [size, streams] = [total("size"), total("max_streams")];
    const room = total("max_waiting");
    boxes.push(
      tile("Pool", total("busy"), `of ${size}`, total("busy") / size),
      tile("Streams", total("streams"), `of ${streams}`, total("streams") / streams),
      tile("Waiting", total("waiting"), `of ${room}`, total("waiting") / room));
  }
  const threads = now.threads;
  boxes.push(
    tile("Threads", threads.busy, `of ${threads.size}`, threads.busy / threads.size),
    tile("Memory", bytes(now.memory_bytes), workers.length
      ? `workers ${bytes(used)}` : "main process"),
    tile("Timeouts", count("timeouts"), `${total("kills")} workers killed`, undefined,
      count("timeouts")),
    tile("Crashes", sum(crashes, ([, n]) => n),
      causes.join(", ") || "none", undefined, crashes.length),
    ...stateTiles(now.state),
    tile("Turned away", count("rejections"), "too busy: 503", undefined,
      count("rejections")));
  byId("tiles").replaceChildren(...boxes);
}
function stateTiles(state) {
  if (!state) return [];
  const part = state.max_bytes ? state.bytes / state.max_bytes : undefined;
  const limit = state.max_bytes ? ` of ${bytes(state.max_bytes)}` : "";
  const longest = time(state.longest_wait_seconds);
  const waits = state.waits
    ? `${state.waits} waited, ${longest} at most` : "none waited";
  return [
    tile("State", bytes(state.bytes) + limit, `${state.keys} keys, ${state.store}`,
      part, part > 0.9),
    tile("State calls", state.operations, waits),
    tile("Subscribers", state.subscribers, `${state.channels} channels`),
  ];
}
function showRate() {
  const most = Math.max(1, ...rates);
  const points = rates.map((rate, at) =>
    `${100 * (KEPT - rates.length + at) / (KEPT - 1)},${38 - 36 * rate / most}`);
  const first = 100 * (KEPT - rates.length) / (KEPT - 1);
  byId("line").setAttribute("points", points.join(" "));
  byId("area").setAttribute("points", `${first},40 ${points.join(" ")} 100,40`);
  byId("most").textContent = most.toFixed(most < 10 ? 1 : 0);
}
function showWorkers(now) {
  const names = ["worker", "state", "pid", "since", "requests", "age", "memory"];
  const rows = now.pools.flatMap((pool) => pool.workers.map((worker) => {
    const name = make("span");
    name.append(make("span", String(worker.number)));
    if (worker.route) name.append(" ", make("code", worker.route));
    return { cells: [
      { value: name, kind: "left" },
      { value: make("span", worker.state, "pill " + worker.state) },
      { value: worker.pid }, { value: time(worker.run_seconds) },
      { value: worker.tasks }, { value: time(worker.age_seconds) },
      { value: bytes(worker.memory_bytes) },
    ] };
  }));
  byId("workers").hidden = !now.pools.length;
  byId("no-pool").hidden = now.pools.length > 0;
  fill(byId("worker-rows"), names, rows);
}
function showRoutes(now) {
  const names = ["route", "runs in", "requests", "active", "waits, p95", "runs, p50",
    "runs, p99", "run times", "failed", "timeouts", "crashes", "503", "left"];
  const bounds = now.bounds_seconds;
  const isOwn = ({ path }) => [own, own + ".json", own + "/metrics"].includes(path);
  const rows = now.routes.filter((route) => !isOwn(route)).map((route) => {
    const name = make("span");
    name.append(make("code", route.methods.join(" ") + " " + route.path));
    const bad = (value) => ({ value, kind: value ? "bad" : "none" });
    return { kind: route.wait.count ? "" : "quiet", cells: [
      { value: name, kind: "left" }, { value: route.placement },
      { value: route.wait.count }, { value: route.active },
      { value: under(route.wait, 0.95, bounds) },
      { value: under(route.run, 0.5, bounds) },
      { value: under(route.run, 0.99, bounds) }, { value: bars(route.run, bounds) },
      bad(route.failures), bad(route.timeouts), bad(route.crashes),
      bad(route.rejections),
      { value: route.disconnects, kind: route.disconnects ? "" : "none" },
    ] };
  });
  fill(byId("route-rows"), names, rows);
}
function show(now) {
  const requests = sum(now.routes, (route) => route.wait.count);
  const then = before && before.pid === now.pid ? before : null;
  const seconds = then ? now.uptime_seconds - then.uptime : now.uptime_seconds;
  const rate = (requests - (then ? then.requests : 0)) / Math.max(seconds, 0.001);
  before = { pid: now.pid, uptime: now.uptime_seconds, requests };
  rates.push(rate);
  if (rates.length > KEPT) rates.shift();
  byId("about").textContent = `pixie_web ${now.version}, process ${now.pid}, `
    + `up ${time(now.uptime_seconds)}`;
  showTiles(now, rate);
  showRate();
  showWorkers(now);
  showRoutes(now);
}
async function refresh() {
  let found = true;
  try {
    const answer = await fetch(location.pathname + ".json", { cache: "no-store" });
    found = answer.ok;
    if (found) show(await answer.json());
    byId("contact").textContent = found ? "live" : "answer " + answer.status;
  } catch (error) {
    found = false;
    byId("contact").textContent = "no contact";
  }
  document.body.classList.toggle("lost", !found);
}
async function live() {
  if (!document.hidden) await refresh();
  setTimeout(live, SECONDS * 1000);
}
live();
"""

BODY = """
<header>
  <h1>Status</h1>
  <p id="about"></p>
  <p id="contact" role="status">asking</p>
</header>
<main>
  <noscript><p>This page needs JavaScript. The same is there as JSON and as metrics,
    at this address with <code>.json</code> or <code>/metrics</code> behind it.</p>
  </noscript>
  <div class="tiles" id="tiles"></div>
  <figure class="card">
    <svg id="rate" viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true">
      <polygon id="area"></polygon><polyline id="line"></polyline>
    </svg>
    <figcaption>Requests per second in the last three minutes, at most
      <span id="most">0</span></figcaption>
  </figure>
  <section id="workers">
    <h2>Workers</h2>
    <div class="card scroll"><table>
      <thead><tr><th class="left">Worker, and what it runs</th><th>State</th>
        <th>pid</th><th>For</th><th>Requests</th><th>Age</th><th>Memory</th></tr></thead>
      <tbody id="worker-rows"></tbody>
    </table></div>
  </section>
  <p id="no-pool" hidden>There is no pool: pool routes, if any, run in threads.</p>
  <h2>Routes</h2>
  <div class="card scroll"><table>
    <thead><tr><th class="left">Route</th><th>Runs in</th><th>Requests</th>
      <th>Active</th><th>Waits, p95</th><th>Runs, p50</th><th>Runs, p99</th>
      <th>Run times</th><th>Failed</th><th>Timeouts</th><th>Crashes</th>
      <th>503</th><th>Left</th>
    </tr></thead>
    <tbody id="route-rows"></tbody>
  </table></div>
  <footer>Counted since the start. A worker's memory includes what all of them share. A
    stream runs, in this table, until its first chunk.</footer>
</main>
"""


def integrity(text: str) -> str:
    """Return a hash by which a Content-Security-Policy allows one text."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


PAGE = (
    '<!doctype html>\n<html lang="en" data-path="OWN_PATH">\n<head>\n'
    '<meta charset="utf-8">\n<title>Status</title>\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<style>{STYLE}</style>\n</head>\n<body>{BODY}<script>{SCRIPT}</script>\n"
    "</body>\n</html>\n"
)
# SECURITY: whatever a route's path is made of, the page runs its own script alone, asks
# its own server alone, and can't be framed.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {integrity(STYLE)}; "
        f"script-src {integrity(SCRIPT)}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}
