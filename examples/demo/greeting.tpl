% rebase("base", title="Hello")
<main class="letter">
  <a class="brand" href="/"><img src="/assets/icon.svg" width="28" height="28" alt="">pixie_web</a>
  <h1>Hello, <span id="name">{{name}}</span>.</h1>
  <p>The form was posted, the answer was a redirect, and this page was rendered from
    <code>greeting.tpl</code>. Whatever the name contains, the template escapes it:
    markup stays text.</p>
  <p><a class="button" href="/#form">Back to the demo</a></p>
</main>
