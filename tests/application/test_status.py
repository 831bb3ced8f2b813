"""`app.stats()`, the status page, Prometheus' text, and the Server-Timing header."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from browser import Browser
from shapes import place_lone_file
from support import LOOPS, Server, serve, server_fixture, wait_for

from pixie_web import Pixie, RouteError
from pixie_web.executors.base import TIME_BUCKETS, Histogram
from pixie_web.executors.pool.supervisor import exit_cause
from pixie_web.status import render_metrics

PROGRAM = r"""
import ctypes, os, time
from pixie_web import (
    Pixie, PixieError, Response, RouteType, abort, app, route, run
)

def wait(name):
    while not os.path.exists(name):
        time.sleep(0.005)

def note(name):
    open(name, "w").close()

@route("/sync", RouteType.sync)
def sync(env):
    return "sync"

@route("/thread", RouteType.thread)
def thread(env):
    return "thread"

@route("/asnc")
async def asnc(env):
    return "asnc"

@route("/pool", method=["GET", "POST"])
def pool(env):
    return "pool"

@route("/stream")
def stream(env):
    yield "first"
    yield "second"

@route("/wait/<name>")
def wait_here(env, name):
    note(f"in-{name}")
    wait(name)
    return "done"

@route("/line/<name>", RouteType.thread, limit=1, queue_timeout=0.2)
def line(env, name):
    note(f"in-{name}")
    wait(name)
    return "done"

@route("/segfault")
def segfault(env):
    ctypes.string_at(0)

@route("/exit")
def exits(env):
    os._exit(7)

@route("/polite", timeout=0.2)
def polite(env):
    time.sleep(1000)

@route("/stubborn", timeout=0.2)
def stubborn(env):
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass

@route("/raise")
def raises(env):
    raise ValueError("on purpose")

def answers(env, status):
    return Response(b"", status)

for placement in ("sync", "thread", "pool"):
    route(f"/{placement}/<status:int>", placement)(answers)

@route("/abort")
def aborts(env):
    abort(503, "by the handler")

@route("/leave", on_disconnect="kill")
def leave(env):
    note("in-leave")
    time.sleep(1000)

@route("/stats-in-a-worker")
def stats_in_a_worker(env):
    try:
        app.stats()
    except PixieError as error:
        return str(error)

other = Pixie()

@other.get("/pool")
def other_pool(env):
    return "other"

app.mount("/other", other)
app.status("/status")

if __name__ == "__main__":
    run()
"""


server = server_fixture(PROGRAM, LOOPS, workers=1, server_timing=1)


def stats(server: Server) -> Dict[str, Any]:
    result: Dict[str, Any] = server.get("/status.json").json
    return result


def counts(server: Server, path: str) -> Dict[str, Any]:
    """Return what was counted of a route."""
    (found,) = (r for r in stats(server)["routes"] if r["path"] == path)
    result: Dict[str, Any] = found
    return result


def grown(server: Server, path: str, target: str, name: str) -> int:
    """Ask for a path once and return by how much a count of its route grows."""
    before = counts(server, path)[name]
    server.get(target)
    wait_for(lambda: counts(server, path)[name] > before, f"{name} of {path}")
    return int(counts(server, path)[name] - before)


def make(server: Server, name: str) -> None:
    Path(os.readlink(f"/proc/{server.pid}/cwd"), name).touch()


def wait_for_note(server: Server, name: str) -> None:
    wait_for(Path(os.readlink(f"/proc/{server.pid}/cwd"), name).exists, name)


# What is counted ----------------------------------------------------------------------


def test_a_histogram_counts_a_bound_as_below_it() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.001, 0.0011, 60.0, 60.1, 1000.0):
        histogram.add(seconds)
    told = histogram.stats()
    assert told["count"] == 6
    assert told["seconds"] == pytest.approx(1120.1021)
    expected = [0] * (len(TIME_BUCKETS) + 1)
    expected[0], expected[1], expected[-2], expected[-1] = 2, 1, 1, 2
    assert told["counts"] == expected
    histogram.add(0.0)
    assert told["counts"] == expected


def test_an_application_that_does_not_serve_has_stats() -> None:
    app = Pixie()
    app.get("/a")(lambda env: "a")
    told = app.stats()
    assert (told["pools"], told["pid"]) == ([], os.getpid())
    assert told["threads"] == {"size": 40, "busy": 0, "waiting": 0}
    (route,) = told["routes"]
    assert (route["path"], route["methods"], route["placement"]) == (
        "/a",
        ["GET"],
        "pool",
    )
    assert route["run"]["count"] == route["wait"]["count"] == 0


@pytest.mark.parametrize("path", ["/sync", "/thread", "/asnc", "/pool", "/stream"])
def test_every_placement_is_counted(server: Server, path: str) -> None:
    before = counts(server, path)
    for _ in range(3):
        assert server.get(path).status == 200
    after = counts(server, path)
    assert after["run"]["count"] - before["run"]["count"] == 3
    assert after["wait"]["count"] - before["wait"]["count"] == 3
    assert after["run"]["seconds"] > before["run"]["seconds"]
    for histogram in (after["run"], after["wait"]):
        assert sum(histogram["counts"]) == histogram["count"]
    assert after["active"] == 0


def test_a_mounted_application_is_told_with_its_prefix(server: Server) -> None:
    before = counts(server, "/pool")["run"]["count"]
    assert server.get("/other/pool").text == "other"
    assert counts(server, "/other/pool")["run"]["count"] >= 1
    assert counts(server, "/pool")["run"]["count"] == before


def test_stats_asked_for_in_a_worker_say_where_to_ask(server: Server) -> None:
    assert "use a sync route" in server.get("/stats-in-a-worker").text


@pytest.mark.parametrize(
    "path, name", [("/raise", "failures"), ("/abort", "failures"), ("/exit", "crashes")]
)
def test_what_goes_wrong_is_counted_once(server: Server, path: str, name: str) -> None:
    assert grown(server, path, path, name) == 1


@pytest.mark.parametrize("placement", ["sync", "thread", "pool"])
def test_answers_from_500_on_are_failures(server: Server, placement: str) -> None:
    path = f"/{placement}/<status:int>"
    before = counts(server, path)["failures"]
    for status in (499, 500, 599):
        assert server.get(f"/{placement}/{status}").status == status
    assert counts(server, path)["failures"] - before == 2


def test_a_503_of_a_handler_is_no_rejection(server: Server) -> None:
    server.get("/abort")
    assert counts(server, "/abort")["rejections"] == 0


@pytest.mark.parametrize("path, kills", [("/polite", 0), ("/stubborn", 1)])
def test_a_timeout_is_counted_and_a_worker_that_had_to_be_killed(
    server: Server, path: str, kills: int
) -> None:
    (before,) = stats(server)["pools"]
    assert grown(server, path, path, "timeouts") == 1
    assert server.get("/pool").status == 200  # after the old worker's end
    (after,) = stats(server)["pools"]
    assert after["kills"] - before["kills"] == kills
    assert after["crashes"] == before["crashes"]


def test_crashes_are_counted_by_signal_and_exit_code(server: Server) -> None:
    (before,) = stats(server)["pools"]
    for path in ("/segfault", "/segfault", "/exit"):
        assert server.get(path).status == 502
    assert server.get("/pool").status == 200
    (after,) = stats(server)["pools"]
    grown = {
        cause: after["crashes"][cause] - before["crashes"].get(cause, 0)
        for cause in ("SIGSEGV", "exit code 7")
    }
    assert grown == {"SIGSEGV": 2, "exit code 7": 1}
    assert after["started"] - before["started"] == 3


@pytest.mark.parametrize(
    "status, cause",
    [
        (9, "SIGKILL"),
        (11 | 0x80, "SIGSEGV"),  # with a core dump
        (40, "signal 40"),
        (0, "exit code 0"),
        (7 << 8, "exit code 7"),
        (-12, "fork"),
    ],
)
def test_the_cause_of_an_end_is_a_name(status: int, cause: str) -> None:
    assert exit_cause(status) == cause


def test_a_client_that_left_is_counted_and_is_no_run(server: Server) -> None:
    before = counts(server, "/leave")
    with server.connect() as one:
        one.sendall(b"GET /leave HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_for_note(server, "in-leave")
        one.shutdown(socket.SHUT_WR)
        wait_for(lambda: counts(server, "/leave")["disconnects"], "a disconnect")
    after = counts(server, "/leave")
    assert after["disconnects"] - before["disconnects"] == 1
    assert after["run"]["count"] == before["run"]["count"]
    assert sum(after["wait"]["counts"]) == after["wait"]["count"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_workers_and_what_waits_for_them_are_told(server: Server) -> None:
    assert server.get("/pool").status == 200
    with server.connect() as first, server.connect() as second:
        first.sendall(b"GET /wait/told HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_for_note(server, "in-told")
        second.sendall(b"GET /pool HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_for(lambda: counts(server, "/pool")["active"], "the second arrives")
        now = stats(server)
        make(server, "told")
        assert b"done" in first.recv(1000)
        assert b"pool" in second.recv(1000)
    (pool,) = now["pools"]
    (worker,) = pool["workers"]
    assert (pool["name"], pool["size"], pool["busy"], pool["waiting"]) == (
        "default",
        1,
        1,
        1,
    )
    assert (worker["state"], worker["route"]) == ("busy", "/wait/<name>")
    assert 0 < worker["run_seconds"] < worker["age_seconds"] < now["uptime_seconds"]
    assert worker["tasks"] >= 1
    os.kill(worker["pid"], 0)
    assert now["memory_bytes"] > 1_000_000

    def worker_now() -> Any:
        return stats(server)["pools"][0]["workers"][0]

    wait_for(lambda: worker_now()["memory_bytes"] > 100_000, "it is looked at")
    idle = worker_now()
    assert (idle["state"], idle["route"], idle["run_seconds"]) == ("idle", None, None)


# Server-Timing ------------------------------------------------------------------------

TIMING = re.compile(r"queue;dur=(\d+\.\d{3}), run;dur=(\d+\.\d{3})")


def timing(header: str) -> Tuple[float, float]:
    """Return the milliseconds in the queue and in the handler."""
    found = TIMING.fullmatch(header)
    assert found, header
    return float(found.group(1)), float(found.group(2))


@pytest.mark.parametrize(
    "path", ["/sync", "/thread", "/asnc", "/pool", "/stream", "/raise", "/abort"]
)
def test_server_timing_is_told_in_every_placement(server: Server, path: str) -> None:
    queue, run = timing(server.get(path).headers["Server-Timing"])
    assert run > 0
    assert (queue > 0) == (path not in ("/sync", "/thread", "/asnc"))


def test_server_timing_is_told_of_a_timeout(server: Server) -> None:
    answer = server.get("/polite")
    assert answer.status == 504
    assert timing(answer.headers["Server-Timing"])[1] > 100  # of 200, by its clock


def test_server_timing_is_not_told_of_what_has_no_handler(server: Server) -> None:
    assert "Server-Timing" not in server.get("/nowhere").headers


def test_the_wait_for_a_limit_is_told(server: Server) -> None:
    with server.connect() as first:
        first.sendall(b"GET /line/one HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_for_note(server, "in-one")
        before = counts(server, "/line/<name>")
        refused = server.get("/line/two")  # waits for 0.2 s
        make(server, "one")
        assert b"done" in first.recv(1000)
    after = counts(server, "/line/<name>")
    assert refused.status == 503
    assert timing(refused.headers["Server-Timing"])[0] > 100  # of 200, by its clock
    assert after["rejections"] - before["rejections"] == 1
    assert after["run"]["count"] - before["run"]["count"] == 1  # of the first
    assert after["wait"]["seconds"] - before["wait"]["seconds"] > 0.1


def test_server_timing_is_off_unless_asked_for() -> None:
    with serve(PROGRAM) as server:
        assert "Server-Timing" not in server.get("/pool").headers


# The routes of the status -------------------------------------------------------------


def test_the_page_brings_all_it_needs_and_may_run_nothing_else(server: Server) -> None:
    answer = server.get("/status")
    page, policy = answer.text, answer.headers["Content-Security-Policy"]
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert re.findall(r"https?://|<link|<img|@import|url\(|style=", page) == []
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_metrics_say_what_they_are(server: Server) -> None:
    answer = server.get("/status/metrics")
    kind = answer.headers["Content-Type"]
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    check_text_format(answer.text)
    assert server.request("HEAD", "/status/metrics").status == 200


def test_a_before_trigger_keeps_strangers_out_of_all_three() -> None:
    program = """
from pixie_web import abort, app

def only_with_a_key(env):
    if env.header("x-key") != "secret":
        abort(403)

app.status("/in/status", before=[only_with_a_key])
app.run()
"""
    with serve(program) as server:
        for end in ("", ".json", "/metrics"):
            path = f"/in/status{end}"
            assert server.get(path).status == 403
            assert server.get(path, {"X-Key": "secret"}).status == 200
        assert server.get("/in/status.json", {"X-Key": "secret"}).json["pools"] == []


def test_without_workers_the_threads_are_told() -> None:
    with serve(PROGRAM, workers=0) as server:
        assert server.get("/pool").text == "pool"
        assert stats(server)["pools"] == []
        assert counts(server, "/pool")["run"]["count"] == 1
        check_text_format(server.get("/status/metrics").text)


@pytest.mark.parametrize("path", ["", "status", "/", "/status/", "/<name>", "/a//b"])
def test_a_path_that_can_not_be_is_refused(path: str) -> None:
    with pytest.raises(RouteError, match='such as "/status"'):
        Pixie().status(path)


def test_the_lone_file_says_where_the_status_page_is(tmp_path: Path) -> None:
    place_lone_file(tmp_path)
    program = "from pixie_web import app, MissingExtra\napp.stats()\napp.status()"
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=str(tmp_path),
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    last = found.stderr.strip().splitlines()[-1]
    assert last == (
        "pixie_web.MissingExtra: app.status() is in the package, not in the single file"
    )


# Prometheus' text format --------------------------------------------------------------

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(
    rf"(?P<name>{NAME})(?:\{{(?P<labels>{LABEL}(?:,{LABEL})*)\}})? "
    r"(?P<value>-?\d+(?:\.\d+)?(?:e[+-]\d+)?)"
)
ENDS = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


def check_text_format(text: str) -> None:
    """Check a text against the format's rules, and the sums of its histograms."""
    assert text.endswith("\n")
    seen: List[str] = []
    kind, name = "", ""
    series: List[str] = []
    buckets: Dict[str, List[float]] = {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in seen, f"{name} comes in two places"
            seen.append(name)
            continue
        if line.startswith("# TYPE "):
            _, _, of, kind = line.split(" ")
            assert of == name and (kind == "counter") == name.endswith("_total")
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        assert found["name"] in [name + end for end in ENDS[kind]], line
        series.append(f"{found['name']}{{{found['labels']}}}")
        value, labels = float(found["value"]), found["labels"] or ""
        if kind == "histogram":
            key = name + re.sub(r',le="[^"]*"', "", labels)
            if found["name"].endswith("_bucket"):
                buckets.setdefault(key, []).append(value)
            elif found["name"].endswith("_count"):
                assert len(buckets[key]) == len(TIME_BUCKETS) + 1
                assert (
                    buckets[key] == sorted(buckets[key]) and buckets[key][-1] == value
                )
    assert len(series) == len(set(series)), "a series comes twice"


def made_up_stats() -> Dict[str, Any]:
    histogram = {"count": 3, "seconds": 0.75, "counts": [1, 2, 0]}
    route = {
        "path": '/a/<b:re:["\\]>',
        "methods": ["GET", "POST"],
        "placement": "pool",
        "active": 0,
        "failures": 1,
        "timeouts": 2,
        "crashes": 3,
        "rejections": 4,
        "disconnects": 5,
        "wait": histogram,
        "run": histogram,
    }
    worker = {"state": "idle", "memory_bytes": 1000}
    pool = {
        "name": "default",
        "size": 2,
        "busy": 0,
        "max_streams": 8,
        "streams": 0,
        "max_waiting": 32,
        "waiting": 1,
        "started": 3,
        "kills": 1,
        "crashes": {"SIGSEGV": 1},
        "workers": [worker, worker],
    }
    return {
        "version": "1.0",
        "pid": 1,
        "uptime_seconds": 1.5,
        "memory_bytes": 0,
        "threads": {"size": 40, "busy": 0, "waiting": 0},
        "pools": [pool],
        "bounds_seconds": [0.25, 1.0],
        "state": {
            "store": "file",
            "keys": 3,
            "channels": 1,
            "bytes": 8192,
            "max_bytes": 65536,
            "operations": 9,
            "waits": 2,
            "wait_seconds": 0.5,
            "longest_wait_seconds": 0.4,
            "subscribers": 5,
        },
        "routes": [route],
    }


LABELS = 'route="/a/<b:re:[\\"\\\\]>",method="GET,POST",placement="pool"'
METRICS = f"""\
# HELP pixie_web_request_run_seconds Seconds in the handler, to the first chunk.
# TYPE pixie_web_request_run_seconds histogram
pixie_web_request_run_seconds_bucket{{{LABELS},le="0.25"}} 1
pixie_web_request_run_seconds_bucket{{{LABELS},le="1.0"}} 3
pixie_web_request_run_seconds_bucket{{{LABELS},le="+Inf"}} 3
pixie_web_request_run_seconds_sum{{{LABELS}}} 0.75
pixie_web_request_run_seconds_count{{{LABELS}}} 3
"""
LINES = [
    'pixie_web_info{version="1.0"} 1',
    "pixie_web_uptime_seconds 1.5",
    'pixie_web_workers{pool="default",state="idle"} 2',
    'pixie_web_worker_memory_bytes{pool="default"} 2000',
    'pixie_web_worker_crashes_total{pool="default",cause="SIGSEGV"} 1',
    'pixie_web_worker_kills_total{pool="default"} 1',
    "pixie_web_state_keys 3",
    "pixie_web_state_bytes_limit 65536",
    "pixie_web_state_waits_total 2",
    "pixie_web_state_wait_seconds_total 0.5",
    "pixie_web_state_subscribers 5",
    f"pixie_web_request_timeouts_total{{{LABELS}}} 2",
]


def test_metrics_are_written_as_prometheus_reads_them() -> None:
    text = render_metrics(made_up_stats())
    assert METRICS in text
    assert [line for line in LINES if line not in text.splitlines()] == []


@pytest.mark.parametrize(
    "broken",
    [
        "# HELP a_total A.\n# TYPE a_total counter\na_total 1",
        "# HELP a A.\n# TYPE a counter\na 1\n",
        "# HELP a A.\n# TYPE a gauge\nb 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a A.\n# TYPE a gauge\na nothing\n",
        '# HELP a A.\n# TYPE a gauge\na{b="""} 1\n',
        "# HELP a A.\n# TYPE a gauge\na 1\n# HELP a A.\n",
        '# HELP a A.\n# TYPE a histogram\na_bucket{x="",le="1"} 1\na_count{x=""} 2\n',
    ],
)
def test_what_prometheus_would_refuse_is_found(broken: str) -> None:
    with pytest.raises(AssertionError):
        check_text_format(broken)


def test_prometheus_own_parser_reads_the_metrics(server: Server) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    text = server.get("/status/metrics").text
    families = list(parser.text_string_to_metric_families(text))
    assert len(families) > 20
    assert {family.type for family in families} == {"gauge", "counter", "histogram"}


# The documentation --------------------------------------------------------------------

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "status.md"


def documented(heading: str) -> List[str]:
    """Return the names in the first column of the table with this heading."""
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text.partition(f"| {heading} |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_the_tables_name_all_that_is_told_and_nothing_else(server: Server) -> None:
    server.get("/pool")
    told = stats(server)
    assert documented("key") == list(told)
    assert documented("key of a pool") == list(told["pools"][0])
    assert documented("key of a route") == list(told["routes"][0])
    text = DOCUMENT.read_text(encoding="utf-8")
    worker = text.partition("| `workers` |")[2].partition("\n")[0]
    names = re.findall(r"`(\w+)`", worker)
    assert [name for name in names if name != "None"] == list(
        told["pools"][0]["workers"][0]
    )


def test_the_example_of_the_page_runs() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    with serve(program) as server:
        answer = server.get("/status.json")
        assert (answer.status, answer.json["pools"]) == (200, [])
        timing(answer.headers["Server-Timing"])


# In a browser -------------------------------------------------------------------------

TALLY = """return [...document.querySelectorAll("#route-rows tr")].map((row) =>
  [...row.cells].slice(0, 3).map((cell) => cell.textContent.trim()).join(" "))"""
OVERFLOW = "return document.documentElement.scrollWidth - innerWidth"


@pytest.mark.browser
def test_the_page_is_live_and_fits_a_small_screen(browser: Browser) -> None:
    with serve(PROGRAM, workers=1) as server:
        browser.open(f"{server.url}/status")
        browser.until(lambda: browser.text("#contact") == "live", "the first answer")
        for _ in range(3):
            assert server.get("/pool").status == 200
        assert server.get("/segfault").status == 502
        browser.until(
            lambda: "GET POST /pool pool 3" in browser.run(TALLY), "the requests"
        )
        browser.until(lambda: "1 SIGSEGV" in browser.text("#tiles"), "the crash")
        paths = " ".join(browser.run(TALLY))
        assert "/other/pool" in paths and "/status" not in paths
        assert len(browser.all("#worker-rows tr")) == 1
        for width in (320, 768, 1280):
            for scheme in ("light", "dark"):
                browser.look(width, 800, scheme)
                assert browser.run(OVERFLOW) <= 0
        assert browser.complaints() == []
    browser.until(lambda: browser.text("#contact") == "no contact", "the end is seen")
    browser.complaints()
