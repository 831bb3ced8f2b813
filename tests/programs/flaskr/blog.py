"""Posts: list, create, update, delete."""

from auth import login_required, user_of
from database import get_db

from pixie_web import Pixie, abort, redirect, template

blog = Pixie(__name__)
QUERY = (
    "SELECT p.id, title, body, created, author_id, username "
    "FROM post p JOIN user u ON p.author_id = u.id"
)


@blog.get("/", name="blog")
def index(env):
    posts = get_db().execute(f"{QUERY} ORDER BY created DESC, p.id DESC").fetchall()
    return template("blog/index", posts=posts, user=user_of(env))


def get_post(env, number):
    post = get_db().execute(f"{QUERY} WHERE p.id = ?", [number]).fetchone()
    if post is None:
        abort(404, f"Post id {number} doesn't exist.")
    if post["author_id"] != env.context["user"]["id"]:
        abort(403)
    return post


@blog.route("/create", method=["GET", "POST"], before=[login_required])
def create(env):
    user, problem = env.context["user"], None
    if env.method == "POST":
        title, body = env.form["title"], env.form["body"]
        if title:
            insert = "INSERT INTO post (title, body, author_id) VALUES (?, ?, ?)"
            with get_db() as database:
                database.execute(insert, [title, body, user["id"]])
            redirect(blog.url_for("blog"))
        problem = "Title is required."
    return template("blog/create", user=user, problem=problem)


@blog.route("/<number:int>/update", method=["GET", "POST"], before=[login_required])
def update(env, number):
    post, problem = get_post(env, number), None
    if env.method == "POST":
        title, body = env.form["title"], env.form["body"]
        if title:
            with get_db() as database:
                change = "UPDATE post SET title = ?, body = ? WHERE id = ?"
                database.execute(change, [title, body, number])
            redirect(blog.url_for("blog"))
        problem = "Title is required."
    user = env.context["user"]
    return template("blog/update", post=post, user=user, problem=problem)


@blog.post("/<number:int>/delete", before=[login_required])
def delete(env, number):
    get_post(env, number)
    with get_db() as database:
        database.execute("DELETE FROM post WHERE id = ?", [number])
    redirect(blog.url_for("blog"))
