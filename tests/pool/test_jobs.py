"""Jobs that outlive their page: from where, how often, and what becomes of them."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from pooling import children
from shapes import IS_SINGLE
from support import MATRIX, Answer, Server, read_all, serve, wait_for

from pixie_web import Pixie, PixieError

if IS_SINGLE:
    pytest.skip("jobs are a companion", allow_module_level=True)

from pixie_web.jobs.main import ALIVE_SECONDS
from pixie_web.jobs.orders import Order, pack, unpack
from pixie_web.state import State

PROGRAM = Path(__file__).parents[1] / "programs" / "working.py"
PLACES = ["sync", "thread", "asnc", "pool"]
ENDED = ("done", "failed", "cancelled", "lost")


class Program:
    """A server, and what its jobs have written down."""

    def __init__(self, server: Server, log: Path) -> None:
        self.server, self.log = server, log

    def notes(self) -> List[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def post(self, path: str, *args: Any) -> Answer:
        headers = {"Content-Type": "application/json"}
        return self.server.request("POST", path, json.dumps(args).encode(), headers)

    def ask(self, path: str, *args: Any) -> Answer:
        """Ask again while the state is held: on a loop for over 50 ms, it is a 503."""

        def asked() -> Any:
            answer = self.post(path, *args)
            return answer if answer.status != 503 else None

        answer: Answer = wait_for(asked, "the state's turn")
        return answer

    def submit(self, function: str, *args: Any, place: str = "pool") -> str:
        answer = self.ask(f"/submit/{place}?function={function}", *args)
        assert answer.status == 200, answer.text
        return str(answer.json["id"])

    def look(self, id: str) -> Dict[str, Any]:
        found: Dict[str, Any] = self.server.get(f"/job/{id}").json
        return found

    def ended(self, id: str) -> Dict[str, Any]:
        def look() -> Any:
            found = self.look(id)
            return found if found["state"] in ENDED else None

        found: Dict[str, Any] = wait_for(look, "the end of the job")
        return found


def program(tmp_path: Path, **settings: Any) -> Any:
    options = settings.pop("options", "")
    environment = {"JOBS_LOG": str(tmp_path / "notes"), "JOBS_OPTIONS": options}
    return serve(PROGRAM, environment=environment, **settings)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    directory = tmp_path_factory.mktemp("jobs")
    # What a function does at its end takes longer on a busy machine.
    settings = {"max_crashes": 0, "expects": "the job|worker"}
    settings["timeout_grace_seconds"] = 3
    with program(directory, workers=3, **settings) as server:
        yield Program(server, directory / "notes")


@pytest.fixture
def jobs(shared: Program) -> Program:
    shared.log.unlink(missing_ok=True)
    return shared


# From where ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_job_runs_once_in_a_worker_wherever_it_was_submitted(
    place: str, jobs: Program
) -> None:
    ids = [jobs.submit("add", number, 1, place=place) for number in range(5)]
    for number, id in enumerate(ids):
        found = jobs.ended(id)
        assert (found["state"], found["error"]) == ("done", "")
        assert found["result"] == {"sum": number + 1, "in": "pool"}
        assert found["submitted"] <= found["started"] <= found["ended"]
    assert sorted(jobs.notes()) == [f"add {number} 1" for number in range(5)]


@pytest.mark.parametrize("loop, start", MATRIX)
def test_jobs_run_however_workers_start(loop: str, start: str, tmp_path: Path) -> None:
    with program(tmp_path, loop=loop, pool_start=start, workers=2) as server:
        running = Program(server, tmp_path / "notes")
        for place in ("asnc", "pool"):
            found = running.ended(running.submit("add", 1, 2, place=place))
            assert found["result"] == {"sum": 3, "in": "pool"}
        assert running.notes() == ["add 1 2"] * 2


def test_without_workers_they_run_in_threads(tmp_path: Path) -> None:
    with program(tmp_path, workers=0) as server:
        running = Program(server, tmp_path / "notes")
        found = running.ended(running.submit("add", 1, 2))
        assert found["result"] == {"sum": 3, "in": "main"}


def test_a_stream_and_a_job_submit_jobs(jobs: Program) -> None:
    answer = jobs.post("/submit/stream?function=add", 1, 2)
    begun, id = answer.text.split()
    assert (begun, jobs.ended(id)["state"]) == ("begun", "done")
    id = jobs.submit("nested", 3)
    for _ in range(3):
        id = jobs.ended(id)["result"]
    assert jobs.ended(id)["result"] == "the last"


def test_a_job_outlives_the_worker_that_submitted_it(jobs: Program) -> None:
    for path, status in [("/submit/dies", 502), ("/submit/late", 504)]:
        jobs.log.unlink(missing_ok=True)
        assert jobs.post(f"{path}?function=add", 1, 2).status == status
        wait_for(jobs.notes, "the job of a worker that has ended")
        assert jobs.notes() == ["add 1 2"]


def test_many_run_once_each_beside_requests(jobs: Program) -> None:
    ids = [jobs.submit("add", n, 0, place=PLACES[n % 4]) for n in range(60)]
    assert {jobs.ended(id)["state"] for id in ids} == {"done"}
    assert sorted(jobs.notes()) == sorted(f"add {n} 0" for n in range(60))


# What becomes of them -----------------------------------------------------------------

FAILURES = [
    ("raises", ["no good"], "ValueError: no good"),
    (
        "returns_object",
        [],
        "TypeError: the result is JSON or bytes; result 1, a object",
    ),
    ("returns_much", [], "ValueError: the result has 1048"),
    ("raises", ["x" * 1_040_000], f"ValueError: {'x' * 1_000}"),
    ("dies", ["signal"], "its worker died: SIGKILL"),
    ("dies", ["exit"], "its worker died: exit code 3"),
    ("dies", ["leave"], "SystemExit: it leaves"),
]


@pytest.mark.parametrize("function, args, error", FAILURES)
def test_a_job_that_fails_says_why_and_is_not_tried_again(
    function: str, args: List[Any], error: str, jobs: Program
) -> None:
    found = jobs.ended(jobs.submit(function, *args))
    assert (found["state"], found["result"]) == ("failed", None)
    assert found["error"].startswith(error)
    assert jobs.ended(jobs.submit("add", 1, 2))["state"] == "done"
    assert jobs.notes().count("dies") == (1 if function == "dies" else 0)


def test_a_job_that_runs_too_long_is_stopped(jobs: Program, tmp_path: Path) -> None:
    for function, notes in [
        ("until_told", ["began", "cleaned up"]),
        ("stubborn", ["began", "ignored it"]),
    ]:
        for timeout in (0.3, 3.0, 15.0):  # on a busy machine it may not have begun
            jobs.log.unlink(missing_ok=True)
            path = f"/submit/pool?function={function}&timeout={timeout}"
            id = jobs.ask(path, str(tmp_path / "never")).json["id"]
            found = jobs.ended(id)
            assert found["state"] == "failed"
            assert found["error"] == "it ran longer than its timeout"
            if "began" in jobs.notes():
                break
        # In front may be what one has written that had not begun in time.
        end = "what it does at its end"
        wait_for(lambda notes=notes: jobs.notes()[-2:] == notes, end)


def test_a_large_result_comes_whole(jobs: Program) -> None:
    for size in (0, 1, 300_000, 1_000_000):
        assert jobs.ended(jobs.submit("returns_large", size))["result"] == size


def test_progress_is_there_while_it_runs_and_told_to_who_listens(
    jobs: Program, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    id = jobs.submit("until_told", str(told))
    wait_for(lambda: jobs.look(id)["progress"] == "waiting", "its progress")
    assert jobs.look(id)["state"] == "running"
    assert jobs.server.get(f"/pool/job/{id}").json["progress"] == "waiting"
    told.touch()
    assert jobs.ended(id)["result"] == "told"
    changes = jobs.server.get(f"/changes/{id}").text.splitlines()
    assert changes == ["{'progress': 'waiting'}", "{'state': 'done', 'error': ''}"]
    id = jobs.submit("slowly", 3, 0.0)
    found = jobs.ended(id)
    assert (found["result"], found["progress"]) == (id, {"done": 2, "of": 3})


@pytest.mark.parametrize("where", ["", "/pool"])
def test_a_job_that_runs_is_cancelled(
    where: str, jobs: Program, tmp_path: Path
) -> None:
    for function, notes in [
        ("until_told", ["began", "cleaned up"]),
        ("stubborn", ["began", "ignored it"]),
    ]:
        jobs.log.unlink(missing_ok=True)
        id = jobs.submit(function, str(tmp_path / "never"))
        wait_for(jobs.notes, "its beginning")
        assert jobs.ask(f"{where}/cancel/{id}").json == {"asked": True}
        assert jobs.ended(id)["state"] == "cancelled"
        wait_for(lambda notes=notes: jobs.notes() == notes, "what it does at its end")
        assert jobs.ask(f"{where}/cancel/{id}").json == {"asked": False}
        assert jobs.ended(jobs.submit("add", 1, 2))["state"] == "done"


def test_what_nobody_knows_is_no_job(jobs: Program) -> None:
    assert jobs.server.get("/job/nothing").status == 404
    assert jobs.ask("/cancel/nothing").json == {"asked": False}


# Bounds -------------------------------------------------------------------------------


def test_so_many_wait_and_the_next_is_refused(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with program(tmp_path, options="max_waiting=2 limit=1", workers=3) as server:
        running = Program(server, tmp_path / "notes")
        first = running.submit("until_told", str(told))
        wait_for(running.notes, "its beginning")
        waiting = [running.submit("add", n, 0, place="sync") for n in range(2)]
        assert [running.look(id)["state"] for id in waiting] == ["waiting"] * 2
        for place in PLACES:
            path = f"/submit/{place}?function=add"

            def refused(path: str = path) -> bool:
                return running.post(path, 7, 7).status == 503

            wait_for(refused, "that the line is full")
        assert running.ask(f"/cancel/{waiting[0]}").json == {"asked": True}
        assert running.ended(waiting[0])["state"] == "cancelled"
        told.touch()
        assert running.ended(first)["state"] == "done"
        assert running.ended(waiting[1])["state"] == "done"
        assert running.ended(running.submit("add", 8, 0))["state"] == "done"
        assert "add 0 0" not in running.notes()


def test_a_job_whose_place_a_request_gets_waits_again_and_runs_once(
    tmp_path: Path,
) -> None:
    told = tmp_path / "told"
    settings: Dict[str, Any] = {"options": "limit=9", "workers": 1, "max_waiting": 3}
    with program(tmp_path, **settings) as server:
        running = Program(server, tmp_path / "notes")
        first = running.submit("until_told", str(told), place="sync")
        wait_for(running.notes, "its beginning")
        ids = [running.submit("add", n, 0, place="sync") for n in range(5)]
        with server.connect() as one:  # the longest line of the pool gives it a place
            one.sendall(b"GET /pid HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            running.look(first)  # main has read what came before
            told.touch()
            assert read_all(one).startswith(b"HTTP/1.1 200 ")
        assert {running.ended(id)["state"] for id in [first, *ids]} == {"done"}
        added = [line for line in running.notes() if line.startswith("add")]
        assert sorted(added) == [f"add {n} 0" for n in range(5)]


def test_what_is_known_of_a_job_is_kept_for_a_while(tmp_path: Path) -> None:
    place = tmp_path / "state.db"
    options = "keep_seconds=50"
    with program(tmp_path, options=options, state=str(place)) as server:
        running = Program(server, tmp_path / "notes")
        id = running.submit("add", 1, 2)
        running.ended(id)
        state = State(str(place))
        for key in (f"job:{id}", f"job:{id}:result"):
            assert 40 < (state.read(key).expire or 0) <= 50
        state.close()


def test_a_result_for_which_there_is_no_room_is_a_failure(tmp_path: Path) -> None:
    expects = "no room|of the job|the job"
    with program(tmp_path, state_max_bytes=3_000_000, expects=expects) as server:
        running = Program(server, tmp_path / "notes")
        for _ in range(9):
            found = running.ended(running.submit("returns_large", 900_000))
            if found["state"] != "done":
                break
        assert found["state"] == "failed"
        assert found["error"].startswith("there is no room for its result")
        assert running.ended(running.submit("add", 1, 2))["state"] == "done"


def test_they_have_a_pool_of_their_own_if_they_want(tmp_path: Path) -> None:
    text = (
        "from pixie_web import app\nimport os\n"
        "def work(): return os.getpid()\n"
        "@app.get('/', 'asnc')\n"
        "async def index(env): return {'pid': await app.call(work)}\n"
    )
    end = "if __name__ == '__main__': app.run()\n"
    with serve(text + "app.jobs(workers=1)\n" + end) as server:
        (pid,) = {server.get("/").json["pid"] for _ in range(3)}
        assert pid != server.pid
    with serve(text + end, expects="no worker is there for jobs") as server:
        assert server.get("/").status == 500
        assert server.wait_for_log("app.jobs")


# Calls --------------------------------------------------------------------------------


def test_a_coroutine_waits_for_the_result(jobs: Program) -> None:
    assert jobs.post("/call?function=add", 1, 2).json["result"]["sum"] == 3
    answer = jobs.post("/call?function=raises", "no good")
    assert answer.status == 500
    assert answer.json["error"] == "the job __main__:raises: ValueError: no good"
    assert jobs.post("/call?function=dies", "signal").status == 502
    # One that writes nothing down: it may end when the next test has begun.
    path = "/call?function=slowly&timeout=0.2"
    assert jobs.post(path, 1, 60).status == 504


def test_who_waits_no_longer_has_the_function_stopped(jobs: Program) -> None:
    path = "/call/cut-short?function=until_told"
    assert jobs.post(path, "/never/there").text == "cut short"
    wait_for(lambda: jobs.notes() == ["began", "cleaned up"], "its end")
    assert jobs.post("/call?function=add", 1, 2).status == 200


def test_a_worker_calls_nobody(jobs: Program) -> None:
    assert "here call the function" in jobs.post("/call/wrong").text


# What can't travel --------------------------------------------------------------------

WRONG = {
    "lambda": "PixieError: .*<lambda>",
    "inner": "PixieError: .*inner",
    "method": "PixieError: .*upper",
    "no function": "PixieError: .*7",
    "coroutine": "PixieError: a job is a plain def: submit_async",
    "argument": "TypeError: the job __main__:add: .*argument 2, a object",
    "nan": "ValueError: the job __main__:add: .*argument 1, a float",
    "few": "TypeError: the job __main__:add: missing .*'b'",
    "large": "ValueError: the job __main__:join: its arguments have 1048",
    "timeout": "ValueError: timeout is in seconds, more than 0, got -1",
}


def test_what_can_not_travel_is_named_at_the_call(jobs: Program) -> None:
    import re

    found = jobs.post("/wrong").json
    assert found.keys() == WRONG.keys()
    for name, pattern in WRONG.items():
        assert re.match(pattern, found[name]), found[name]


def test_values_come_back_as_they_went() -> None:
    values: List[Any] = [1, "é", None, b"\x00\xff", {"a": [1.5]}, b"", [], "x" * 1000]
    assert unpack(pack(values, {"id": "x"})) == ({"id": "x"}, values)
    assert unpack(pack([bytearray(b"ab"), (1, 2)], {}))[1] == [b"ab", [1, 2]]


DAMAGED: List[bytes] = [b"", b"\0\0\0\5", b"\0\0\0\2{}", b"\0\0\0\2[]", b"\xff" * 40]
DAMAGED += [pack([1], {}), pack([1], {"id": 1}), b"\0\0\0\4[{},"]


@pytest.mark.parametrize("body", DAMAGED)
def test_a_damaged_order_does_main_no_harm(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app = Pixie()
    app._working().take(body)
    assert "ordered what is no job" in caplog.text


def test_outside_of_a_server_nothing_is_submitted() -> None:
    app = Pixie()
    with pytest.raises(PixieError, match="while the server runs"):
        app.submit(len, "abc")
    order = Order.write("", len, ["abc"], float("inf"))
    assert Order.read(order.body) == order


OPTIONS: List[Any] = [
    ({"timeout": 0}, "timeout of jobs is in seconds"),
    ({"limit": 1.5}, "limit of jobs is a whole number"),
    ({"max_waiting": True}, "max_waiting of jobs is a whole number"),
    ({"keep_seconds": "1"}, "keep_seconds of jobs is in seconds"),
    ({"keep_seconds": float("inf")}, "keep_seconds of jobs is at most 1,000,000,000"),
    ({"nice": 5}, "jobs have no option 'nice'"),
    ({"workers": 1, "nise": 5}, "a pool has no option 'nise'"),
]


@pytest.mark.parametrize("options, message", OPTIONS)
def test_a_wrong_option_is_refused_where_it_is_written(
    options: Any, message: str
) -> None:
    with pytest.raises(PixieError, match=message):
        Pixie().jobs(**options)


# Ends ---------------------------------------------------------------------------------


def end_of_server(
    tmp_path: Path, end: Callable[[Server, List[str]], object]
) -> Dict[str, Dict[str, Any]]:
    """Return what the state holds of two jobs, of which one ran, of a server's end."""
    place = tmp_path / "state.db"
    settings: Dict[str, Any] = {"options": "limit=1", "state": place, "workers": 2}
    with program(tmp_path, expects="worker|zygote", **settings) as server:
        running = Program(server, tmp_path / "notes")
        first = running.submit("until_told", "/never/there")
        wait_for(running.notes, "its beginning")
        second = running.submit("add", 1, 2)
        wait_for(lambda: running.look(second)["state"] == "waiting", "the second")
        end(server, [first, second])
        server.wait()
    state = State(str(place))
    try:
        return {
            "first": state.get(f"job:{first}"),
            "second": state.get(f"job:{second}"),
        }
    finally:
        state.close()


def test_a_server_that_stops_says_what_it_has_not_done(tmp_path: Path) -> None:
    def stop(server: Server, ids: List[str]) -> None:
        server.process.send_signal(signal.SIGTERM)
        state = State(str(tmp_path / "state.db"))
        lost = "the job that waits is given up, and the one that runs is waited for"
        wait_for(lambda: "lost" in str(state.get(f"job:{ids[1]}")), lost)
        state.close()
        server.process.send_signal(signal.SIGTERM)  # wait no longer

    found = end_of_server(tmp_path, stop)
    for record in found.values():
        assert (record["state"], record["error"]) == ("lost", "the server was stopped")


def test_the_jobs_of_a_server_that_was_killed_are_lost() -> None:
    app = Pixie()
    app._state = state = State("memory")
    id = "0" * 32
    old = {
        "function": "m:f",
        "run": "gone",
        "error": "",
        "started": None,
        "ended": None,
    }
    for age, alive, expected in [
        (ALIVE_SECONDS + 1, False, "lost"),
        (ALIVE_SECONDS + 1, True, "running"),
        (1, False, "running"),
    ]:
        submitted = time.time() - age
        state.set(f"job:{id}", {**old, "state": "running", "submitted": submitted})
        state.set("jobs:gone:alive", alive)
        assert app.job(id).state == expected
        assert app.cancel(id) is (expected == "running")
    state.close()


def test_when_the_zygote_dies_what_runs_has_failed_and_what_waits_goes_on(
    tmp_path: Path,
) -> None:
    settings: Dict[str, Any] = {"options": "limit=1", "workers": 2}
    with program(tmp_path, expects="zygote|worker", **settings) as server:
        running = Program(server, tmp_path / "notes")
        first = running.submit("until_told", "/never/there")
        wait_for(running.notes, "its beginning")
        second = running.submit("add", 1, 2)
        os.kill(children(server.pid)[0], signal.SIGKILL)
        found = running.ended(first)
        assert (found["state"], found["error"]) == (
            "failed",
            "its worker died: SIGKILL",
        )
        assert running.ended(second)["state"] == "done"
        assert running.notes().count("add 1 2") == 1
