"""The examples of jobs and sessions: progress.py, login.py and batching.py."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any, Dict, List
from urllib.parse import urlencode

import pytest
from shapes import IS_SINGLE, home
from support import Answer, Server, serve, wait_for

if IS_SINGLE:
    pytest.skip("jobs are a companion", allow_module_level=True)

EXAMPLES = home() / "examples"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def post(server: Server, path: str, headers: Dict[str, str], **fields: str) -> Answer:
    return server.request("POST", path, urlencode(fields).encode(), {**FORM, **headers})


def test_a_job_goes_on_without_its_page() -> None:
    with serve(EXAMPLES / "progress.py", drain_seconds=1) as server:
        page = post(server, "/jobs", {}, below="100000").headers["Location"]
        assert "EventSource" in server.get(page).text
        lines = server.get(f"{page}/events").text.splitlines()
        news = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        told = [one["progress"] for one in news if "progress" in one]
        assert told == sorted(told)
        assert (len(told), told[-1], news[-1]) == (315, 1, {"text": "9592 primes"})
        page = post(server, "/jobs", {}, below="50000000").headers["Location"]
        post(server, f"{page}/cancel", {})
        assert '"cancelled"' in server.get(f"{page}/events").text
        assert post(server, "/jobs", {}, below="1").status == 400
        assert server.get("/jobs/" + "0" * 32).status == 404
        other = {"Sec-Fetch-Site": "cross-site"}
        assert post(server, "/jobs", other, below="10").status == 403


def cookie_of(answer: Answer) -> Dict[str, str]:
    line = answer.headers["Set-Cookie"]
    assert "; HttpOnly; SameSite=Lax" in line
    return {"Cookie": line.partition(";")[0]}


def test_a_login_is_renewed_guarded_and_ended() -> None:
    ann = {"name": "ann", "password": "correct horse"}
    with serve(EXAMPLES / "login.py") as server:
        answer = server.get("/")
        assert (answer.status, answer.headers["Location"]) == (303, "/login")
        for name, password in [("ann", "wrong"), ("bob", "correct horse")]:
            answer = post(server, "/login", {}, name=name, password=password)
            assert (answer.status, answer.headers["Set-Cookie"]) == (403, None)
        other = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert post(server, "/login", other, **ann).status == 403
        cookie = cookie_of(post(server, "/login", {}, **ann))
        page = server.get("/", cookie).text
        assert "Hello ann" in page
        assert "visit number 1." in page
        assert "visit number 2." in server.get("/", cookie).text
        again = cookie_of(post(server, "/login", cookie, **ann))
        assert again != cookie
        assert server.get("/", cookie).status == 303  # the old id is good for nothing
        assert post(server, "/logout", {**again, **other}).status == 403
        assert server.get("/", again).status == 200
        assert post(server, "/logout", again).status == 303
        assert server.get("/", again).status == 303


def test_many_requests_share_the_calls_of_a_model() -> None:
    source = (EXAMPLES / "batching.py").read_text("utf-8")
    assert source.count("\n") < 60
    with serve(EXAMPLES / "batching.py") as server:
        assert server.get("/double/21").json == {"result": 42}
        results: List[Any] = []

        def ask(start: int) -> None:
            one = http.client.HTTPConnection("127.0.0.1", server.port)
            for number in range(start, start + 20):
                one.request("GET", f"/double/{number}")
                results.append((number, json.loads(one.getresponse().read())["result"]))
            one.close()

        threads = [threading.Thread(target=ask, args=(n * 20,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [(n, 2 * n) for n in range(160)]
        wait_for(lambda: server.get("/double/1").status == 200, "an answer after them")
