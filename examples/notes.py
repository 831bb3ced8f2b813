"""A REST service on SQLite, from the standard library.

    python3 examples/notes.py [FILE]
    curl --json '{"text": "buy milk"}' http://localhost:8000/notes

Each worker keeps a connection of its own; a query that hangs ends with its worker.
"""

import sqlite3
import sys
from pathlib import Path
from sys import path

if __name__ == "__main__":  # from a clone, with nothing installed
    path.insert(0, str(Path(__file__).resolve().parents[1]))

from pixie_web import Response, abort, app, check_preconditions, run

FILE = sys.argv[1] if len(sys.argv) > 1 else "notes.db"
TABLE = """CREATE TABLE IF NOT EXISTS notes (
    id INTEGER PRIMARY KEY, text TEXT NOT NULL, version INTEGER NOT NULL DEFAULT 1)"""
CHANGE = "UPDATE notes SET text = ?, version = version + 1 WHERE id = ? AND version = ?"
database = None


def connect():
    connection = sqlite3.connect(FILE, timeout=5, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


@app.on_start  # once, in the main process
def create():
    connection = connect()
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(TABLE)
    connection.close()


@app.on_worker_start
def open_database():
    global database
    database = connect()


def find(number):
    row = database.execute("SELECT * FROM notes WHERE id = ?", [number]).fetchone()
    return row or abort(404, {"error": "There is no such note."})


def text_of(env):
    text = env.json.get("text") if isinstance(env.json, dict) else None
    if not isinstance(text, str) or not 0 < len(text) <= 10_000:
        abort(422, {"error": "Send an object with a text of up to 10,000 characters."})
    return text


def shown(row, status=200):
    return Response(dict(row), status).etag(str(row["version"]))


@app.get("/notes")
def notes(env):
    skip = 50 * (max(env.query.get("page", 1, type=int), 1) - 1)
    query = "SELECT * FROM notes LIMIT 50 OFFSET ?"
    return [dict(row) for row in database.execute(query, [skip])]


@app.post("/notes")
def add(env):
    done = database.execute("INSERT INTO notes (text) VALUES (?)", [text_of(env)])
    response = shown(find(done.lastrowid), 201)
    response.headers["Location"] = app.url_for("note", number=done.lastrowid)
    return response


@app.get("/notes/<number:int>")
def note(env, number):
    row = find(number)
    check_preconditions(env, str(row["version"]))  # 304: the client has this one
    return shown(row)


@app.put("/notes/<number:int>")
def change(env, number):
    row, text = find(number), text_of(env)
    check_preconditions(env, str(row["version"]))  # 412: it is another by now
    if not database.execute(CHANGE, [text, number, row["version"]]).rowcount:
        abort(409, {"error": "Somebody else has just changed it."})
    return shown(find(number))


@app.delete("/notes/<number:int>")
def remove(env, number):
    database.execute("DELETE FROM notes WHERE id = ?", [find(number)["id"]])


if __name__ == "__main__":
    run()
