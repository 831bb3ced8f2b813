"""The program of Flask."""

from common import JSON, PAGE, jinja2_page
from flask import Flask, request

app = Flask(__name__)
template = jinja2_page()


@app.get("/")
def index():
    return "hello"


@app.get("/json")
def as_json():
    return JSON


@app.get("/user/<int:number>")
def user(number):
    return f"user {number}"


@app.get("/read")
def read():
    return f"{request.args['q']} {request.cookies['theme']}"


@app.post("/form")
def form():
    return request.form["name"]


@app.post("/echo")
def echo():
    return request.json


@app.get("/page")
def page():
    return template.render(PAGE)
