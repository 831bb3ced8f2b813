"""The program of socketify, whose server is C++."""

import os

from common import JSON, ROUTES
from socketify import App

app = App()
app.get("/", lambda res, req: res.end("hello"))
app.get("/json", lambda res, req: res.end(JSON))
app.get("/user/:number", lambda res, req: res.end(f"user {int(req.get_parameter(0))}"))
app.get(
    "/read",
    lambda res, req: res.end(f"{req.get_query('q')} {req.get_cookie('theme')}"),
)
for number in range(ROUTES):
    app.get(
        f"/section{number}/:item/:word",
        lambda res, req: res.end(f"{int(req.get_parameter(0))} {req.get_parameter(1)}"),
    )
app.listen(int(os.environ["PORT"]), lambda config: None)
app.run()
