"""bench/wire.py and bench/charts.py: what is sent, how it is read, what is written."""

from __future__ import annotations

import importlib
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

WRK = """Running 1s test @ http://127.0.0.1:8000/
  1 threads and 32 connections
  Latency Distribution
     50%    1.50ms
     75%  900.00us
  2000 requests in 1.00s, 0.18MB read
Requests/sec:   1990.5
"""
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"


@pytest.fixture
def wire(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "bench"))
    return importlib.import_module("wire")


@pytest.fixture
def charts(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "bench"))
    return importlib.import_module("charts")


def test_a_number_stands_in_target_and_body_and_counts_in_the_length(wire: Any) -> None:
    case = wire.Case("/a?q={n}", "", "Host: x\r\n", "n={n}", "text/plain")
    assert case.request("1000001") == (
        "POST /a?q=1000001 HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
        "Content-Length: 9\r\n\r\nn=1000001"
    )
    assert "Content-Length: 9" in case.script
    assert case.script.count(" .. n .. ") == 2


def test_without_a_number_wrk_makes_the_request_once(wire: Any) -> None:
    assert wire.Case("/", "", "Host: x\r\n").script == (
        "function init() wrk.format = function() return "
        r'"GET / HTTP/1.1\r\nHost: x\r\n\r\n" end end'
    )


def test_cpu_time_is_divided_by_the_requests(wire: Any) -> None:
    measured = wire.of_wrk(WRK, [(0.1, 0.02), (0.3, 0.04)])
    assert measured._asdict() == {
        "per_second": 1990.5,
        "user_us": pytest.approx(200),
        "system_us": pytest.approx(30),
        "main_user_us": pytest.approx(50),
        "median_ms": 1.5,
    }


@pytest.mark.parametrize(
    "answer, complaint",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ""),
        (CHUNKED + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhullo", "got 200 and 'hullo'"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nhello", "got 500 and 'hello'"),
        (b"", "expected an answer, got b''"),
    ],
)
def test_an_answer_is_checked(wire: Any, answer: bytes, complaint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            one, _ = listening.accept()
            with one:
                for _ in range(2):
                    if one.recv(65_536):
                        one.sendall(answer)
                    if not answer:
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            wire.Case("/", "hello").check(listening.getsockname()[1])
            complained = ""
        except ValueError as error:
            complained = str(error)
        thread.join()
    assert complained.endswith(complaint) and bool(complained) is bool(complaint)


def row(peer: str, *user: float) -> Any:
    rounds = [{"user_us": one, "system_us": 10.0} for one in user]
    return {"group": "requests", "case": "plain", "peer": peer, "rounds": rounds}


def test_the_summary_has_medians_and_our_part_of_the_rivals(
    charts: Any, tmp_path: Path
) -> None:
    figures = charts.Figures.__new__(charts.Figures)
    figures.rows = [row("pixie_web", 30, 10, 20), row("Starlette, uvicorn", 80, 90, 10)]
    assert charts.summary(figures, "requests", ["plain", "page"]) == (
        "| us | plain |\n| --- | ---: |\n| pixie_web | 20 |\n"
        "| Starlette, uvicorn | 80 |\n| pixie_web / Starlette, uvicorn | 0.25 |\n\n"
    )


def test_a_second_run_is_compared_row_by_row(charts: Any) -> None:
    first, second = (charts.Figures.__new__(charts.Figures) for _ in range(2))
    second.about = {"began": "later"}
    first.rows = [row("a", 100), row("b", 100), row("c", 100)]
    second.rows = [row("a", 100), row("b", 110), row("c", 150)]
    assert charts.repeats(first, second) == (
        "A second run (later): of 3 medians of user time half are within 10% of the "
        "first run's, and nine of ten within 50%.\n\n"
    )
