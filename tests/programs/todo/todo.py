"""The tutorial of bottle, a list of things to do, by the documentation alone."""

import sqlite3

from pixie_web import (
    abort,
    app,
    error,
    get,
    redirect,
    route,
    run,
    static_file,
    template,
)

FILE = "todo.db"
FIRST = [
    ("Read A-byte-of-python to get a good introduction into Python", 0),
    ("Visit the Python website", 1),
    ("Test various editors for and check the syntax highlighting", 1),
    ("Choose your favorite WSGI-Framework", 0),
]
database = None


@app.on_start
def create():
    connection = sqlite3.connect(FILE)
    with connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS todo (id INTEGER PRIMARY KEY, "
            "task char(100) NOT NULL, status bool NOT NULL)"
        )
        if not connection.execute("SELECT count(*) FROM todo").fetchone()[0]:
            insert = "INSERT INTO todo (task, status) VALUES (?, ?)"
            connection.executemany(insert, FIRST)
    connection.close()


@app.on_worker_start
def connect():
    global database
    database = sqlite3.connect(FILE, timeout=5)


@get("/todo")
def todo_list(env):
    rows = database.execute("SELECT id, task FROM todo WHERE status = 1").fetchall()
    return template("make_table", rows=rows)


@route("/new", method=["GET", "POST"])
def new_item(env):
    if env.method == "GET":
        return template("new_task")
    with database:
        task = env.form["task"].strip()
        insert = "INSERT INTO todo (task, status) VALUES (?, 1)"
        number = database.execute(insert, [task]).lastrowid
    return f"<p>The new task was inserted into the database, the ID is {number}</p>"


@route("/edit/<number:int>", method=["GET", "POST"])
def edit_item(env, number):
    old = database.execute("SELECT task FROM todo WHERE id = ?", [number]).fetchone()
    if old is None:
        abort(404, "There is no such task.")
    if env.method == "GET":
        return template("edit_task", old=old[0], number=number)
    with database:
        status = 1 if env.form["status"] == "open" else 0
        update = "UPDATE todo SET task = ?, status = ? WHERE id = ?"
        database.execute(update, [env.form["task"].strip(), status, number])
    return redirect("/todo")


@get("/item<item:re:[0-9]+>")
def show_item(env, item):
    found = database.execute("SELECT task FROM todo WHERE id = ?", [item]).fetchone()
    return f"Task: {found[0]}" if found else "This item number does not exist!"


@get("/json<item:re:[0-9]+>")
def show_json(env, item):
    found = database.execute("SELECT task FROM todo WHERE id = ?", [item]).fetchone()
    return {"task": found[0] if found else "This item number does not exist!"}


@get("/help", "sync")
def help_page(env):
    return static_file("help.html", root="views")


@error(403)
def mistake403(env, problem):
    return "There is a mistake in your url!"


@error(404)
def mistake404(env, problem):
    return "Sorry, this page does not exist!"


if __name__ == "__main__":
    run(debug=True)
