<p>Edit the task with ID = {{number}}</p>
<form action="/edit/{{number}}" method="post">
  <input type="text" name="task" value="{{old}}" size="100" maxlength="100">
  <select name="status"><option>open</option><option>closed</option></select>
  <button>save</button>
</form>
