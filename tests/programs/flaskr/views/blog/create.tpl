% rebase("base", title="New Post")
<form method="post">
  <label for="title">Title</label>
  <input name="title" id="title" required>
  <label for="body">Body</label>
  <textarea name="body" id="body"></textarea>
  <input type="submit" value="Save">
</form>
