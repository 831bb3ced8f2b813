"""bench/mutants.py: which faults it makes, and that each room has its tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, List

import pytest


@pytest.fixture(scope="module")
def mutants(root: Path) -> Any:
    path = root / "bench" / "mutants.py"
    spec = importlib.util.spec_from_file_location("mutants", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "body, words",
    [
        ("if a < b: c()", ["if a <= b: c()", "if a < b: pass"]),
        ("if (a) is not b: c()", ["if (a) is b: c()", "if (a) is not b: pass"]),
        ("if not a: return", ["if a: return"]),
        ("while not(a): b()", ["while (a): b()", "while not(a): pass"]),
        ("x = a and b", ["x = a or b"]),
        ("x = a if b else c", ["x = a if not (b) else c"]),
        ("x = len(a) + b", ["x = len(a) - b"]),
        ("x = a + b", []),  # may be text
        ("x = a - b", ["x = a + b"]),
        ("x = 4", ["x = 5"]),
        ("x = True", ["x = False"]),
        ("a.b = c", ["pass"]),
        ("a -= b", ["pass"]),
        ("a[b] = c", ["pass"]),
        ("del a", ["pass"]),
        ("return a", ["return None"]),
        ("return None", []),
        ("raise a", ["pass"]),
        ("for x in a: break", ["for x in a: pass"]),
        ("await a", ["pass"]),
        ("x: int = 'ä' and b", ["x: int = 'ä' or b"]),
        # Words and what only mypy reads are left alone.
        ("log.info('%d', 1)", ["log.info('%d', 2)"]),
        ("assert a < b", []),
        ("raise E(f'{a - 1}')", ["pass"]),
        ("'''words'''", []),
    ],
)
def test_the_changes_of_a_line(body: str, words: List[str], mutants: Any) -> None:
    source = f"async def f():\n    {body}\n".encode()
    found = list(mutants.mutants_of(Path("x.py"), source, {"": "text"}))
    assert sorted(one.words for one in found) == sorted(f"{body} -> {w}" for w in words)
    for one in found:
        start, end, text = one.change
        changed = (source[:start] + text + source[end:]).decode()
        compile(changed, "x.py", "exec")
        assert changed.splitlines()[1].strip() == one.words.split(" -> ")[1]


def test_a_change_leaves_the_lines_below_where_they_are(mutants: Any) -> None:
    source = b"def f(a):\n    g(\n        a,\n    )\n    return a\n"
    for one in mutants.mutants_of(Path("x.py"), source, {"": "text"}):
        start, end, text = one.change
        changed = source[:start] + text + source[end:]
        assert changed.count(b"\n") == source.count(b"\n")


def test_a_function_keeps_its_mutants_where_another_one_changes(mutants: Any) -> None:
    def ranks(source: str) -> List[bytes]:
        found = mutants.mutants_of(Path("x.py"), source.encode(), {"": "text"})
        return [one.rank(1) for one in found if one.function == "C.f"]

    text = "class C:\n    def f(self):\n        self.a = 1 if a else b < c\n"
    assert ranks(text) == ranks(f"def g():\n    return 1\n\n{text}")
    assert len(set(ranks(text))) == 4


def test_every_source_has_a_room_and_every_room_its_tests(
    root: Path, mutants: Any
) -> None:
    found = mutants.all_mutants(root)
    assert len(found) > 4000
    names = {path.stem for path in (root / "tests").rglob("test_*.py")}
    for room, (_, tests) in mutants.ROOMS.items():
        assert tests, room
        assert {f"test_{name}" for name in tests.split()} <= names
    assert "server/http1" in {one.room for one in found}


def test_the_sample_has_some_of_each_room_and_is_the_same_each_time(
    root: Path, mutants: Any
) -> None:
    found = mutants.all_mutants(root)
    sample = mutants.chosen(found, 90, 1)
    assert len(set(sample)) == 90
    assert sample == mutants.chosen(found, 90, 1)
    assert sample != mutants.chosen(found, 90, 2)
    assert {one.room for one in sample} == {one.room for one in found}
    more = mutants.chosen(found, 150, 1)
    assert set(sample) < set(more)


def test_a_source_without_a_room_is_named(mutants: Any) -> None:
    assert mutants.room_of("protocol/http11") == "protocol/http11"
    assert mutants.room_of("server/http9") == "server"
    assert mutants.room_of("http2/frames") == "http2"
    assert mutants.room_of("executors/pool/scheduler") == "executors/pool"
    with pytest.raises(SystemExit, match=r"new/room: ROOMS has no line for it"):
        mutants.room_of("new/room")
