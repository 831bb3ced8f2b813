% rebase("base", title="pixie_web demo")
<%
placements = [
    ("sync", "Main process, on the event loop", "short answers"),
    ("thread", "A thread of the main process", "calls that wait"),
    ("asnc", "A coroutine on the event loop", "many that wait at once"),
    ("pool", "A worker process", "whatever computes"),
    ("stream", "A worker process, piece by piece", "long answers"),
]
routes = [
    ("/", "sync", "the event loop"),
    ("/who/thread", "thread", "a thread"),
    ("/clock", "asnc", "a coroutine"),
    ("/tile/3/1", "pool", "a worker process"),
    ("/picture.png", "stream", "a worker, in pieces"),
]
failures = [
    ("slow", "Hang", "A loop without end, with", "timeout=1", "504"),
    ("raise", "Raise", "An exception that nobody catches:", "1 / 0", "500"),
    ("die", "Die", "The worker process is killed:", "SIGKILL", "502"),
]
%>
<a class="skip" href="#main">Skip to the content</a>

<header class="hero">
  <div>
    <p class="brand"><img src="/assets/icon.svg" width="28" height="28" alt="">pixie_web <span>demo</span></p>
    <h1>Each route says where it runs.</h1>
    <p class="lead">Five placements, one word each. The handlers of this page are one file,
      <a href="/source">demo.py</a>; its templates, style and script lie in <code>examples/demo/</code>.
      The framework needs nothing but Python.</p>
    <dl class="facts">
      <div><dt>Python</dt><dd>{{python}}</dd></div>
      <div><dt>Main process</dt><dd>{{pid}}</dd></div>
      <div><dt>Workers</dt><dd>{{workers}}</dd></div>
    </dl>
  </div>
  <ul class="specimen" aria-label="Routes and their placements">
% for path, name, where in routes:
    <li><code>@get("{{path}}", <b class="{{name}}">RouteType.{{name}}</b>)</code> <span>{{where}}</span></li>
% end
  </ul>
</header>

<section class="pulse" aria-label="Clock" data-tick-ms="{{tick_ms}}">
  <div class="pulse-inner">
    <time id="clock-time" class="pulse-time" role="timer" aria-live="off">00:00:00.0</time>
    <canvas id="clock-graph" class="pulse-graph" role="img"
      aria-label="Time between ticks: even bars while the event loop is free, a tall one when it was held up"></canvas>
    <dl class="pulse-facts">
      <div><dt>Ticks</dt><dd id="clock-ticks">0</dd></div>
      <div><dt>Longest gap</dt><dd><span id="clock-longest">0</span> ms</dd></div>
      <div><dt>while drawing</dt><dd><span id="clock-drawing">0</span> ms</dd></div>
    </dl>
    <button type="button" id="clock-reset" class="quiet" title="Forget the gaps so far">Reset</button>
  </div>
</section>

<main id="main">

<section id="picture" class="card wide">
  <div class="card-head">
    <div>
      <h2>A picture, computed twice</h2>
      <p>Pure Python on both sides, from the same functions. Watch the clock above: it ticks
        every {{tick_ms}} ms from the event loop, and computing does not touch it.</p>
    </div>
    <div class="bar">
    <label class="field">Place
      <select id="place">
        <option value="-0.65,0,3.4">The whole set</option>
        <option value="-0.7453,0.1127,0.0065">Seahorse valley</option>
        <option value="-0.16,1.0335,0.03">Lightning</option>
        <option value="0.2765,0.0085,0.014">Elephant valley</option>
        <option value="" disabled hidden id="place-custom">Where you clicked</option>
      </select>
    </label>
    <button type="button" id="draw-both" class="primary">Draw both</button>
    </div>
  </div>

  <div class="pair">
    <article id="tiles" aria-labelledby="tiles-title">
      <h3 id="tiles-title"><b class="tag pool">pool</b><span>One request for each tile</span><small>Click to zoom in</small></h3>
      <div class="frame">
        <canvas id="tiles-canvas" width="{{picture["width"]}}" height="{{picture["height"]}}"
          data-tile="{{picture["tile"]}}" role="button" tabindex="0" aria-label="Mandelbrot set, drawn tile by tile: zoom in"></canvas>
        <canvas id="tiles-borders" width="{{picture["width"]}}" height="{{picture["height"]}}" aria-hidden="true"></canvas>
      </div>
      <progress id="tiles-progress" value="0" max="1" aria-label="Tiles drawn"></progress>
      <div class="bar">
        <button type="button" id="tiles-draw">Draw</button>
        <button type="button" id="tiles-stop" disabled>Stop</button>
        <label class="check"><input type="checkbox" id="tiles-who" checked> Who drew what</label>
        <output id="tiles-status" aria-live="polite">Not drawn yet</output>
      </div>
      <ul id="tiles-legend" class="legend {{"many" if workers > 2 else ""}}" aria-label="Workers"></ul>
      <details><summary>Source</summary><pre><code>{{!source("tile")}}</code></pre></details>
    </article>

    <article id="strips" aria-labelledby="strips-title">
      <h3 id="strips-title"><b class="tag stream">stream</b><span>One image, sent while computed</span></h3>
      <div class="frame"><img id="strips-image" width="{{picture["width"]}}" height="{{picture["height"]}}"
        alt="Mandelbrot set, drawn from top to bottom"></div>
      <progress id="strips-progress" value="0" max="1" aria-label="Image received"></progress>
      <div class="bar">
        <button type="button" id="strips-draw">Draw</button>
        <button type="button" id="strips-stop" disabled>Stop</button>
        <output id="strips-status" aria-live="polite">Not drawn yet</output>
      </div>
      <ul id="strips-legend" class="legend {{"many" if workers > 2 else ""}}" aria-label="Worker"></ul>
      <details><summary>Source</summary><pre><code>{{!source("picture")}}</code></pre></details>
    </article>
  </div>
</section>

<section id="who" class="card wide">
  <div class="card-head">
    <div>
      <h2>One question, five placements</h2>
      <p>The same function behind five routes. Let it compute, and the last column shows what
        that does to the clock: the loop stands still, or it does not notice.</p>
    </div>
    <div class="bar">
      <label class="field">Work to do
        <select id="who-work">
          <option value="0">None</option>
          <option value="400" selected>400 ms of computing</option>
        </select>
      </label>
      <button type="button" id="who-all" class="primary">Ask all five</button>
    </div>
  </div>
  <table>
    <thead>
      <tr><th scope="col">Placement</th><th scope="col">Where it runs</th><th scope="col">Answered by</th>
        <th scope="col" class="number">Time</th><th scope="col" class="number">Clock’s longest gap</th>
        <th><span class="sr">Ask</span></th></tr>
    </thead>
    <tbody>
% for name, where, use in placements:
      <tr data-placement="{{name}}">
        <th scope="row"><b class="tag {{name}}">{{name}}</b></th>
        <td class="where">{{where}}<small>for {{use}}</small></td>
        <td class="by" data-label="Answered by">–</td>
        <td class="time number" data-label="Time">–</td>
        <td class="gap number" data-label="Longest gap">–</td>
        <td class="act"><button type="button" aria-label="Ask {{name}}">Ask</button></td>
      </tr>
% end
    </tbody>
  </table>
  <p id="who-status" class="sr" aria-live="polite"></p>
  <details><summary>Source</summary><pre><code>{{!source("who_sync", "who_thread", "who_asnc", "who_pool", "who_stream")}}</code></pre></details>
</section>

<section id="fail" class="card wide">
  <div class="card-head">
    <div>
      <h2>What goes wrong stays small</h2>
      <p>A handler that hangs, raises or takes its process down costs one request: its own.
        After each, the page asks the pool again.</p>
    </div>
  </div>
  <div class="pair">
    <ul class="actions">
% for name, title, text, code, status in failures:
      <li>
        <button type="button" data-fail="{{name}}">{{title}}</button>
        <p>{{text}} <code>{{code}}</code> <span class="expect">answers {{status}}</span></p>
      </li>
% end
      <li>
        <button type="button" id="fail-next">Ask the pool</button>
        <p>The next request is served all the same. <span class="expect">answers 200</span></p>
      </li>
    </ul>
    <div class="log" tabindex="0" role="region" aria-label="What happened">
      <ol id="fail-log" aria-live="polite"></ol>
    </div>
  </div>
  <details><summary>Source</summary><pre><code>{{!source("slow", "raises", "dies")}}</code></pre></details>
</section>

<section id="form" class="card">
  <h2>A form</h2>
  <p>Posted, redirected, and rendered by a template.</p>
  <form method="post" action="/greeting" class="bar">
    <label class="field grow">Your name
      <input name="name" required maxlength="80" autocomplete="off" value="&lt;b&gt;Ada&lt;/b&gt; &amp; friends">
    </label>
    <button class="primary">Greet me</button>
  </form>
  <table class="plain steps">
    <tbody>
      <tr><th scope="row"><code>POST /greeting</code></th><td>The form, decoded: a redirect</td></tr>
      <tr><th scope="row"><code>GET /greeting</code></th><td>The page, with the name escaped</td></tr>
    </tbody>
  </table>
  <details><summary>Source</summary><pre><code>{{!source("greet", "greeting")}}</code></pre></details>
</section>

<section id="file" class="card">
  <div class="card-head">
    <div>
      <h2>A file</h2>
      <p>Kept in memory, with validators and ranges.</p>
    </div>
    <button type="button" id="file-ask" class="primary">Fetch demo.py</button>
  </div>
  <table class="plain">
    <thead><tr><th scope="col">Request</th><th scope="col">Answer</th><th scope="col" class="number">Bytes</th>
      <th scope="col" class="number">Time</th></tr></thead>
    <tbody>
      <tr data-kind="whole"><th scope="row">The whole file</th><td>–</td><td class="number">–</td><td class="number">–</td></tr>
      <tr data-kind="again"><th scope="row">Only if it changed</th><td>–</td><td class="number">–</td><td class="number">–</td></tr>
      <tr data-kind="range"><th scope="row">Its first 100 bytes</th><td>–</td><td class="number">–</td><td class="number">–</td></tr>
    </tbody>
  </table>
  <p id="file-status" class="sr" aria-live="polite"></p>
  <details><summary>Source</summary><pre><code>{{!source("own_source")}}</code></pre></details>
</section>

</main>

<footer>
  <p>Every handler on this page is in <a href="/source">demo.py</a>. Change a word, and it runs elsewhere.</p>
</footer>
<script src="/assets/demo.js" type="module"></script>
