<p>Add a new task to the ToDo list:</p>
<form action="/new" method="post">
  <input type="text" size="100" maxlength="100" name="task">
  <button>save</button>
</form>
