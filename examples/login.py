"""Login with a session, guarded against requests from other sites.

    python3 examples/login.py        http://localhost:8000    ann / correct horse

The session is in the server's state: the cookie is a signed id, renewed at login and
good for nothing after logout. Other sites can't post in the user's name.
"""

from hashlib import scrypt
from hmac import compare_digest
from html import escape
from os import environ, urandom
from pathlib import Path
from sys import path

if __name__ == "__main__":  # from a clone, with nothing installed
    path.insert(0, str(Path(__file__).resolve().parents[1]))

from pixie_web import Pixie, Sessions, redirect, same_origin
from pixie_web.state import rate_limit

app = Pixie(
    # A program that runs for long reads its secret from a file.
    secrets=environ.get("LOGIN_SECRET") or urandom(32),
    sessions=Sessions("state", idle_seconds=1800, absolute_seconds=8 * 3600),
)
app.before(same_origin)


def hash_of(password, salt):
    return scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


SALT = urandom(16)
USERS = {"ann": (SALT, hash_of("correct horse", SALT))}
NOBODY = (SALT, urandom(64))
PAGE = """<!doctype html>
<html lang="en" style="color-scheme: light dark">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Login</title>
<link rel="icon" href="data:,">
<style>
  body { margin: 0 auto; max-width: 24rem; padding: 1rem; font: 1rem/1.5 system-ui; }
  label, input { box-sizing: border-box; display: block; font: inherit; width: 100%; }
  input { margin-bottom: .7rem; }
</style>
"""
LOGIN = """<h1>Log in</h1>
<form method="post" action="/login">
  <label>Name <input name="name" autocomplete="username" required></label>
  <label>Password
    <input name="password" type="password" autocomplete="current-password" required>
  </label>
  <button>Log in</button>
</form>
"""


async def logged_in(env):
    """Send whoever is not logged in to the form; a trigger, ahead of a worker."""
    if "user" not in env.session:
        redirect("/login")


@app.get("/", before=[logged_in])
def index(env):
    count = env.session["visits"] = env.session.get("visits", 0) + 1
    user = escape(env.session["user"])
    return (
        f"{PAGE}<h1>Hello {user}</h1><p>This is your visit number {count}.</p>"
        '<form method="post" action="/logout"><button>Log out</button></form>'
    )


@app.get("/login")
def form(env):
    return PAGE + LOGIN


@app.post("/login", before=[rate_limit("10/minute")])
def login(env):
    name = env.form["name"]
    salt, expected = USERS.get(name, NOBODY)  # takes as long for who is unknown
    if compare_digest(hash_of(env.form["password"], salt), expected):
        env.session.renew()  # a session that somebody has planted is not logged in
        env.session["user"] = name
        redirect("/")
    return f"{PAGE}<p role=alert>Name and password do not fit.</p>{LOGIN}", 403


@app.post("/logout")
def logout(env):
    env.session.clear()
    redirect("/login")


if __name__ == "__main__":
    app.run()
