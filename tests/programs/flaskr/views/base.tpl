<!doctype html>
<title>{{title}} - Flaskr</title>
<link rel="stylesheet" href="/static/style.css">
<nav>
  <h1><a href="{{url_for("blog")}}">Flaskr</a></h1>
  <ul>
  % if user:
    <li><span>{{user["username"]}}</span>
    <li><a href="{{url_for("logout")}}">Log Out</a>
  % else:
    <li><a href="{{url_for("register")}}">Register</a>
    <li><a href="{{url_for("login")}}">Log In</a>
  % end
  </ul>
</nav>
<section class="content">
  <header><h1>{{title}}</h1></header>
  % if get("problem"):
  <div class="flash">{{problem}}</div>
  % end
  {{!base}}
</section>
