"""bench/budget.py: a request runs no more of Python than its budget allows."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest


@pytest.fixture(scope="module")
def budget(root: Path) -> Any:
    spec = importlib.util.spec_from_file_location("budget", root / "bench/budget.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["budget"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the budget is of 3.11")
def test_a_request_stays_within_its_budget(root: Path) -> None:
    command = [sys.executable, str(root / "bench/budget.py")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_each_workload_has_a_budget_and_no_other(budget: Any) -> None:
    recorded: Dict[str, Dict[str, int]] = json.loads(budget.BUDGET.read_text())
    assert list(recorded) == list(budget.WORKLOADS)
    assert {tuple(numbers) for numbers in recorded.values()} == {("calls", "bytecodes")}


def test_the_number_that_has_risen_is_named(budget: Any) -> None:
    allowed = {"plain": {"calls": 100, "bytecodes": 1000}}
    assert budget.risen({"plain": {"calls": 102, "bytecodes": 1020}}, allowed) == []
    assert budget.risen({"plain": {"calls": 103, "bytecodes": 1020}}, allowed) == [
        "plain: 103 calls per request, and the budget is 100"
    ]
    assert budget.risen({"plain": {"calls": 50, "bytecodes": 1021}}, allowed) == [
        "plain: 1021 bytecodes per request, and the budget is 1000"
    ]
    assert budget.risen({"new": {"calls": 1, "bytecodes": 0}}, allowed) == [
        "new: 1 calls per request, and the budget is 0"
    ]


def test_calls_of_python_and_of_c_are_counted_and_bytecodes(budget: Any) -> None:
    def work() -> int:
        return len("word")

    counts = {}
    for what in ("calls", "bytecodes"):
        with budget.Counter(what) as counter:
            pass
        empty = counter.count
        with budget.Counter(what) as counter:
            work()
        counts[what] = counter.count - empty
    assert counts["calls"] == 2
    assert 3 < counts["bytecodes"] < 12  # of `work` alone: so many as the version has
