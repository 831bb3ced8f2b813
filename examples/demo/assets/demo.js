// pixie_web demo. Each part of the page is one section here, and talks to the routes of
// demo.py with the plainest means: EventSource, fetch, an <img>.

const $ = (id) => document.getElementById(id);
const milliseconds = (since) => Math.round(performance.now() - since);
const seconds = (since) => ((performance.now() - since) / 1000).toFixed(1) + " s";

// Build an element: make("b", { className: "ok" }, "200").
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// The clock -----------------------------------------------------------------------------
// The server ticks evenly. The page measures the time between two ticks: whatever holds up
// the server's event loop is seen here as a gap.

const pulse = document.querySelector(".pulse");
const clock = {
  interval: Number(pulse.dataset.tickMs),
  ticks: 0,
  gaps: [],          // { at, gap } of each tick, newest last
  last: null,        // when the newest tick came
  drawing: 0,        // how many pictures are being drawn
  asking: 0,         // how many questions may hold the loop up, on purpose
  waiting: [],       // who waits for the next tick
  isLate(gap) { return gap > 2 * this.interval; },
  next() { return new Promise((resolve) => this.waiting.push(resolve)); },
  longest(since = 0) { return Math.max(0, ...this.gaps.filter((g) => g.at > since).map((g) => g.gap)); },
};
const longest = { all: 0, drawing: 0 };

function tick(time) {
  const now = performance.now();
  if (clock.last !== null && !document.hidden) {
    const gap = now - clock.last;
    clock.gaps.push({ at: now, gap });
    if (clock.gaps.length > 600) clock.gaps.shift();
    longest.all = Math.max(longest.all, gap);
    if (clock.drawing && !clock.asking) longest.drawing = Math.max(longest.drawing, gap);
  }
  clock.last = document.hidden ? null : now;
  clock.ticks += 1;
  $("clock-time").textContent = clockFace(new Date(time * 1000));
  $("clock-ticks").textContent = clock.ticks.toLocaleString("en");
  for (const [id, gap] of [["clock-longest", longest.all], ["clock-drawing", longest.drawing]]) {
    $(id).textContent = Math.round(gap);
    $(id).parentElement.classList.toggle("late", clock.isLate(gap));
  }
  drawGraph();
  clock.waiting.splice(0).forEach((resolve) => resolve());
}

function clockFace(date) {
  const two = (number) => String(number).padStart(2, "0");
  const tenths = Math.floor(date.getMilliseconds() / 100);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${tenths}`;
}

function drawGraph() {
  const canvas = $("clock-graph"), ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio)) {
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  }
  const pen = canvas.getContext("2d"), style = getComputedStyle(pulse);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const slots = Math.floor(width / 5);
  for (let slot = 0; slot < slots; slot++) {
    const gap = clock.gaps[clock.gaps.length - 1 - slot]?.gap || 0, late = clock.isLate(gap);
    const tall = Math.max(2, height * Math.min(1, 0.36 * (gap / clock.interval) ** 0.75));
    pen.fillStyle = style.getPropertyValue(late ? "--late" : "--tick");
    pen.globalAlpha = late ? 1 : gap ? 1 - 0.65 * (slot / slots) : 0.25;
    pen.fillRect(width - 5 * (slot + 1), height - tall, 3, tall);
  }
}

let events = null;

function startClock() {
  events?.close();
  events = new EventSource("/clock");
  events.onmessage = (event) => tick(JSON.parse(event.data).time);
  events.onopen = () => pulse.classList.remove("lost");
  events.onerror = () => { pulse.classList.add("lost"); clock.last = null; };  // It reconnects by itself.
}

$("clock-reset").addEventListener("click", () => {
  longest.all = longest.drawing = 0;
});
window.addEventListener("pageshow", startClock);
window.addEventListener("pagehide", () => events.close());  // A page kept for "back" holds no connection.

// Which process answers -----------------------------------------------------------------

async function ask(placement, work = 0) {
  const row = document.querySelector(`[data-placement="${placement}"]`);
  const cell = (name) => row.querySelector("." + name);
  row.querySelector("button").disabled = true;
  await clock.next();
  const start = performance.now();
  clock.asking += 1;
  try {
    const response = await fetch(`/who/${placement}?work=${work}`, { cache: "no-store" });
    if (!response.ok) throw new Error(`answered ${response.status}`);
    const who = JSON.parse(await response.text());
    cell("time").textContent = `${milliseconds(start)} ms`;
    cell("by").replaceChildren(make("span", {}, who.worker === null ? "Main process" : `Worker ${who.worker}`,
      make("small", {}, `pid ${who.pid}`, placement === "thread" ? `, thread ${who.thread}` : "")));
    await clock.next();
    const gap = clock.longest(start);
    cell("gap").textContent = `${Math.round(gap)} ms`;
    cell("gap").className = `gap number ${clock.isLate(gap) ? "bad" : "ok"}`;
    $("who-status").textContent = `${placement} answered by process ${who.pid}`;
  } catch (error) {
    cell("by").textContent = error.message;
  }
  clock.asking -= 1;
  row.querySelector("button").disabled = false;
}

const work = () => $("who-work").value;
for (const row of document.querySelectorAll("[data-placement]")) {
  row.querySelector("button").addEventListener("click", () => ask(row.dataset.placement, work()));
}
$("who-all").addEventListener("click", async (event) => {
  event.target.disabled = true;
  for (const row of document.querySelectorAll("[data-placement]")) await ask(row.dataset.placement, work());
  event.target.disabled = false;
});

// The picture: which part ---------------------------------------------------------------

const HUES = ["#ffb454", "#4cc9f0", "#f472b6", "#7ee787", "#c4a7ff", "#ff8f70", "#5eead4", "#f9e04b"];
const hues = new Map();  // worker number -> colour
const hueOf = (worker) => {
  if (!hues.has(worker)) hues.set(worker, HUES[hues.size % HUES.length]);
  return hues.get(worker);
};

const canvas = $("tiles-canvas"), borders = $("tiles-borders");
const { width, height } = canvas;
let view = { x: -0.65, y: 0, span: 3.4 };
const query = () => new URLSearchParams(view).toString();

$("place").addEventListener("change", (event) => {
  const [x, y, span] = event.target.value.split(",").map(Number);
  view = { x, y, span };
  drawBoth();
});

// Zoom in on a point, given as a part of the picture's width and height.
function zoom(across, down) {
  const step = view.span / width;
  view = {
    x: view.x + (across - 0.5) * width * step,
    y: view.y + (down - 0.5) * height * step,
    span: view.span / 4,
  };
  $("place-custom").selected = true;
  drawTiles();
}

canvas.addEventListener("click", (event) => {
  const box = canvas.getBoundingClientRect();
  zoom((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
});
canvas.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" && event.key !== " ") return;
  event.preventDefault();
  zoom(0.5, 0.5);
});

function legend(list, workers) {
  list.replaceChildren(...workers.map(({ worker, pid, note }) => {
    const swatch = make("i");
    swatch.style.setProperty("--of", hueOf(worker));
    return make("li", {}, swatch, `Worker ${worker}`, make("span", {}, `pid ${pid}, ${note}`));
  }));
}

// The picture in tiles: a few requests at a time, each answered by whichever worker is free -

const LANES = 4;  // The browser opens six connections to a host at most.
let tilesRun = null;

async function drawTiles() {
  tilesRun?.abort();
  const run = tilesRun = new AbortController();
  const size = Number(canvas.dataset.tile), workers = new Map(), start = performance.now();
  const tiles = tilesFromTheMiddle(width / size, height / size), total = tiles.length;
  let done = 0;

  canvas.getContext("2d").clearRect(0, 0, width, height);
  borders.getContext("2d").clearRect(0, 0, width, height);
  legend($("tiles-legend"), []);
  showProgress("tiles", 0, total, "Computing");
  clock.drawing += 1;
  const lane = async () => {
    while (tiles.length && !run.signal.aborted) {
      const tile = tiles.shift();
      const { worker, pid } = await drawTile(tile, size, run.signal);
      const entry = workers.get(worker) || { worker, tiles: 0 };
      const drawn = entry.tiles + 1, note = drawn === 1 ? "1 tile" : `${drawn} tiles`;
      workers.set(worker, Object.assign(entry, { pid, tiles: drawn, note }));
      legend($("tiles-legend"), [...workers.values()].sort((a, b) => a.worker - b.worker));
      showProgress("tiles", ++done, total, done < total ? `${done} of ${total}` : seconds(start));
    }
  };
  try {
    await Promise.all(Array.from({ length: LANES }, lane));
  } catch (error) {
    if (run === tilesRun) showProgress("tiles", total, total, run.signal.aborted ? `Stopped at ${done}` : error.message);
    run.abort();
  }
  clock.drawing -= 1;
}

async function drawTile({ column, row }, size, signal) {
  const response = await fetch(`/tile/${column}/${row}?${query()}`, { signal, cache: "no-store" });
  if (!response.ok) throw new Error(`A tile was answered ${response.status}`);
  const worker = Number(response.headers.get("X-Worker")), pid = response.headers.get("X-Pid");
  const image = await createImageBitmap(await response.blob());
  if (signal.aborted) return { worker, pid };
  canvas.getContext("2d").drawImage(image, column * size, row * size);
  const pen = borders.getContext("2d");
  pen.strokeStyle = hueOf(worker);
  pen.lineWidth = 3;
  pen.strokeRect(column * size + 3.5, row * size + 3.5, size - 7, size - 7);
  return { worker, pid };
}

function tilesFromTheMiddle(columns, rows) {
  const tiles = [];
  for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) tiles.push({ column, row });
  const distance = ({ column, row }) => Math.hypot(column - (columns - 1) / 2, row - (rows - 1) / 2);
  return tiles.sort((a, b) => distance(a) - distance(b));
}

function showProgress(name, value, max, text) {
  Object.assign($(`${name}-progress`), { value, max });
  $(`${name}-status`).textContent = text;
  $(`${name}-stop`).disabled = value >= max;
}

$("tiles-draw").addEventListener("click", drawTiles);
$("tiles-stop").addEventListener("click", () => tilesRun.abort());
$("tiles-who").addEventListener("change", (event) => borders.classList.toggle("off", !event.target.checked));

// The picture as one stream: an <img>, nothing else. The browser paints what has come so far -

let stripsRun = 0;

function drawStrips() {
  const run = ++stripsRun, start = performance.now();
  const image = $("strips-image"), url = `/picture.png?${query()}&run=${Date.now()}`;
  const finish = (text) => {
    if (run !== stripsRun) return;
    stripsRun += 1;
    clock.drawing -= 1;
    $("strips-progress").value = 1;
    $("strips-stop").disabled = true;
    $("strips-status").textContent = text;
  };
  if (!$("strips-stop").disabled) clock.drawing -= 1;  // This drawing replaces one under way.
  clock.drawing += 1;
  legend($("strips-legend"), []);
  $("strips-progress").removeAttribute("value");
  $("strips-stop").disabled = false;
  $("strips-stop").onclick = () => { image.removeAttribute("src"); finish("Stopped"); };
  $("strips-status").textContent = "Computing";
  image.onload = () => { finish(seconds(start)); showStripsWorker(url); };
  image.onerror = () => finish("The image was cut off");
  image.src = url;
}

function showStripsWorker(url) {
  const [entry] = performance.getEntriesByName(new URL(url, location).href);
  const said = Object.fromEntries((entry?.serverTiming || []).map((t) => [t.name, t.description]));
  if (said.worker) legend($("strips-legend"), [{ worker: Number(said.worker), pid: said.pid, note: "all of it" }]);
  performance.clearResourceTimings();
}

const drawBoth = () => { drawTiles(); drawStrips(); };
$("strips-draw").addEventListener("click", drawStrips);
$("draw-both").addEventListener("click", drawBoth);
drawBoth();

// What goes wrong -----------------------------------------------------------------------

function log(status, text, start) {
  const kind = status < 400 ? "ok" : "bad";
  $("fail-log").append(make("li", {}, make("b", { className: kind }, status || "–"), text,
    make("time", {}, `${milliseconds(start)} ms`)));
  const box = $("fail-log").parentElement;
  box.scrollTop = box.scrollHeight;
}

async function fail(name) {
  const start = performance.now();
  try {
    const response = await fetch(`/fail/${name}`, { cache: "no-store" });
    log(response.status, explain(response), start);
  } catch (error) {
    log(0, error.message, start);
  }
  await askPool();
}

function explain(response) {
  const retry = response.headers.get("Retry-After");
  return {
    500: "The handler raised, the worker lives on",
    502: "The worker died, a new one took its place",
    503: `Switched off: it crashed too often. Back in ${retry} s`,
    504: "Out of time: answered, and the worker killed",
  }[response.status] || response.statusText;
}

async function askPool() {
  const start = performance.now();
  try {
    const response = await fetch("/who/pool", { cache: "no-store" });
    if (!response.ok) return log(response.status, explain(response), start);
    const who = await response.json();
    log(response.status, `Next request: worker ${who.worker}, pid ${who.pid}`, start);
  } catch (error) {
    log(0, error.message, start);
  }
}

for (const button of document.querySelectorAll("[data-fail]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    await fail(button.dataset.fail);
    button.disabled = false;
  });
}
$("fail-next").addEventListener("click", askPool);

// A file, three times -------------------------------------------------------------------

async function fetchFile(kind, headers) {
  const start = performance.now();
  const response = await fetch("/source", { headers, cache: "no-store" });
  const bytes = (await response.arrayBuffer()).byteLength;
  const cells = document.querySelectorAll(`[data-kind="${kind}"] td`);
  cells[0].replaceChildren(String(response.status), make("span", { className: "reason" }, ` ${response.statusText}`));
  cells[1].textContent = bytes.toLocaleString("en");
  cells[2].textContent = `${milliseconds(start)} ms`;
  cells[0].className = response.status < 400 ? "ok" : "bad";
  return response;
}

$("file-ask").addEventListener("click", async () => {
  const whole = await fetchFile("whole", {});
  await fetchFile("again", { "If-None-Match": whole.headers.get("ETag") });
  await fetchFile("range", { Range: "bytes=0-99" });
  $("file-status").textContent = "Fetched three times";
});
