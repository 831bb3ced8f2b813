% rebase("base", title="Posts")
% if user:
<a class="action" href="{{url_for("create")}}">New</a>
% end
% for post in posts:
<article class="post">
  <header>
    <h1>{{post["title"]}}</h1>
    <div class="about">by {{post["username"]}} on {{post["created"][:10]}}</div>
    % if user and user["id"] == post["author_id"]:
    <a class="action" href="{{url_for("update", number=post["id"])}}">Edit</a>
    % end
  </header>
  <p class="body">{{post["body"]}}</p>
</article>
% end
