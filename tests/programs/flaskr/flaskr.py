"""The tutorial of Flask, a blog, carried over by the documentation alone."""

from auth import auth
from blog import blog
from database import create

from pixie_web import Pixie, Template, same_origin

app = Pixie(__name__, secrets="read from a file in a real program")
for part in (app, auth, blog):
    part.before(same_origin)
Template.defaults["url_for"] = app.url_for
app.on_start(create)
app.mount("/auth", auth)
app.mount("/blog", blog)
app.static("/static/", root="static")


@app.get("/hello", "sync")
def hello(env):
    return "Hello, World!"


if __name__ == "__main__":
    app.run()
