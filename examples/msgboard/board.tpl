<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>{{"Error: " if problem else ""}}Message board</title>
  <link rel="icon" href="/assets/icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="/assets/board.css">
</head>
<body>
<main>
  <h1><img src="/assets/icon.svg" width="34" height="34" alt="">Message board</h1>

  <form method="post" action="/">
    % if problem:
    <p class="problem" id="problem" role="alert">{{problem}}</p>
    % end
    % told = 'aria-describedby="problem"' if problem else ""
    <label for="name">Your name</label>
    <input id="name" name="name" value="{{name}}" maxlength="{{max_name}}" autocomplete="name" required {{!told}}>
    <label for="text">Message</label>
    <textarea id="text" name="message" rows="4" maxlength="{{max_text}}" required {{!told}}>
{{text}}</textarea>
    <button type="submit">Post message</button>
  </form>

  <section aria-labelledby="messages">
    <h2 id="messages">Messages</h2>
    % if not messages:
    <p class="empty">Nobody has written anything yet. Be the first.</p>
    % end
    % for message in messages:
    <article class="message" id="message-{{message.number}}">
      <header>
        <h3>{{message.name}}</h3>
        <time datetime="{{message.time.isoformat(timespec='seconds')}}">{{message.time.strftime("%d %B %Y, %H:%M UTC")}}</time>
      </header>
      <p>{{message.text}}</p>
    </article>
    % end
  </section>

  % if pages > 1:
  <nav aria-label="Pages">
    % if page > 1:
    <a href="/?page={{page - 1}}" rel="prev">Newer</a>
    % end
    <span>Page {{page}} of {{pages}}</span>
    % if page < pages:
    <a href="/?page={{page + 1}}" rel="next">Older</a>
    % end
  </nav>
  % end
</main>
</body>
</html>
