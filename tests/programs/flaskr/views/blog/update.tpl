% rebase("base", title='Edit "' + post["title"] + '"')
<form method="post">
  <label for="title">Title</label>
  <input name="title" id="title" value="{{post["title"]}}" required>
  <label for="body">Body</label>
  <textarea name="body" id="body">{{post["body"]}}</textarea>
  <input type="submit" value="Save">
</form>
<form action="{{url_for("delete", number=post["id"])}}" method="post">
  <input class="danger" type="submit" value="Delete" onclick="return confirm('Are you sure?');">
</form>
