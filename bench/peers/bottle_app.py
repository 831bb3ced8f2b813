"""The program of bottle."""

from bottle import Bottle, SimpleTemplate, request
from common import JSON, PAGE, ROUTES, STPL

app = Bottle()
template = SimpleTemplate(STPL)


@app.get("/")
def index():
    return "hello"


@app.get("/json")
def as_json():
    return JSON


@app.get("/user/<number:int>")
def user(number):
    return f"user {number}"


@app.get("/read")
def read():
    return f"{request.query['q']} {request.cookies['theme']}"


@app.post("/form")
def form():
    return request.forms["name"]


@app.post("/echo")
def echo():
    return request.json


@app.get("/page")
def page():
    return template.render(PAGE)


@app.post("/length")
def length():
    return str(len(request.body.read()))


@app.get("/bytes/<count:int>")
def some_bytes(count):
    return b"x" * count


for number in range(ROUTES):

    @app.get(f"/section{number}/<item:int>/<word>")
    def section(item, word):
        return f"{item} {word}"
