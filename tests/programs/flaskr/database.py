"""The database: a connection for each worker, where the tutorial has one a request."""

import sqlite3

FILE = "flaskr.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS user (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  username TEXT UNIQUE NOT NULL,
  password TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS post (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  author_id INTEGER NOT NULL REFERENCES user (id),
  created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  title TEXT NOT NULL,
  body TEXT NOT NULL
);
"""
_open = None


def create():
    connection = sqlite3.connect(FILE)
    connection.executescript(SCHEMA)
    connection.close()


def get_db():
    """Return the connection of this worker; it is made when it is first asked for."""
    global _open
    if _open is None:
        _open = sqlite3.connect(FILE, timeout=5)
        _open.row_factory = sqlite3.Row
    return _open
