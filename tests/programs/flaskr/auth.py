"""Users: register, log in, log out."""

import hashlib
import hmac
import os
import sqlite3

from database import get_db

from pixie_web import Pixie, redirect, template

auth = Pixie(__name__)


def hashed(password, salt=None):
    salt = salt or os.urandom(16)
    key = hashlib.scrypt(password.encode(), salt=salt, n=2**12, r=8, p=1)
    return f"{salt.hex()}${key.hex()}"


def matches(password, stored):
    salt = bytes.fromhex(stored.partition("$")[0])
    return hmac.compare_digest(hashed(password, salt), stored)


def user_of(env):
    """Return the row of the user who is logged in, or None."""
    number = env.session.get("user_id")
    query = "SELECT id, username FROM user WHERE id = ?"
    return get_db().execute(query, [number]).fetchone() if number else None


def login_required(env):
    """Send whoever is not logged in to the login: a before trigger."""
    user = user_of(env)
    if user is None:
        redirect(auth.url_for("login"))
    env.context["user"] = dict(user)


def page(env, name, **values):
    return template(f"auth/{name}", user=user_of(env), **values)


@auth.route("/register", method=["GET", "POST"])
def register(env):
    problem = None
    if env.method == "POST":
        username, password = env.form["username"], env.form["password"]
        if not username:
            problem = "Username is required."
        elif not password:
            problem = "Password is required."
        else:
            insert = "INSERT INTO user (username, password) VALUES (?, ?)"
            try:
                with get_db() as database:
                    database.execute(insert, [username, hashed(password)])
            except sqlite3.IntegrityError:
                problem = f"User {username} is already registered."
            else:
                redirect(auth.url_for("login"))
    return page(env, "register", problem=problem)


@auth.route("/login", method=["GET", "POST"])
def login(env):
    problem = None
    if env.method == "POST":
        query = "SELECT * FROM user WHERE username = ?"
        user = get_db().execute(query, [env.form["username"]]).fetchone()
        if user is None:
            problem = "Incorrect username."
        elif not matches(env.form["password"], user["password"]):
            problem = "Incorrect password."
        else:
            env.session.clear()
            env.session["user_id"] = user["id"]
            redirect("/blog/")
    return page(env, "login", problem=problem)


@auth.get("/logout")
def logout(env):
    env.session.clear()
    redirect("/blog/")
