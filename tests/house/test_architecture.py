"""docs/architecture.md tells what is there: the picture, the files, the names."""

from __future__ import annotations

import ast
import re
from typing import Dict, Iterator, Set

import pytest
from names import definitions, parsed
from picture import PAGE, ROOT, Room, Stack, picture, placed, rooms_of

from pixie_web.single import CHAPTERS, PACKAGE, Book
from pixie_web.status import STATES

TEXT = PAGE.read_text("utf-8")


# The picture --------------------------------------------------------------------------


def test_the_picture_is_that_of_the_imports() -> None:
    assert placed(TEXT, picture()) == TEXT, "run: python tests/house/picture.py"


def test_the_picture_has_every_chapter_once() -> None:
    rooms = rooms_of(Book().opening)
    assert [one for room in rooms for one in room.chapters] == CHAPTERS


SMALL = [
    Room("a b", "below", ["a", "b"]),
    Room("c: d", "", ["c/d"]),
    Room("c/e: f", "", ["c/e/f"]),
    Room("g", "", ["g"]),
]


def test_a_room_lies_above_all_that_its_chapters_import() -> None:
    imports = {"a": set(), "b": {"a"}, "c/d": {"b"}, "c/e/f": {"a"}}
    assert Stack(
        SMALL, {**imports, "g": {"a", "c/d", "c/e/f"}}
    ).draw().splitlines() == [
        "+" + "-" * 96 + "+",
        "| g" + " " * 94 + "|",
        "| on c, c/e" + " " * 86 + "|",
        "+" + "-" * 47 + "+" + "-" * 48 + "+",
        "| c: d" + " " * 42 + "| c/e: f" + " " * 41 + "|",
        "| on a ..." + " " * 38 + "| on a ..." + " " * 39 + "|",
        "+" + "-" * 47 + "+" + "-" * 48 + "+",
        "| a b" + " " * 92 + "|",
        "| below" + " " * 90 + "|",
        "+" + "-" * 96 + "+",
    ]


def test_a_circle_of_rooms_can_not_be_drawn() -> None:
    imports = {"a": {"c/d"}, "b": set(), "c/d": {"g"}, "c/e/f": set(), "g": {"b"}}
    with pytest.raises(ValueError, match=r"^a b imports c: d imports g imports a b$"):
        Stack(SMALL, imports).draw()


# What is named ------------------------------------------------------------------------


def defined(source: str) -> Iterator[str]:
    """Yield what a source defines: "function", "Class", "Class.method", "CONSTANT"."""
    yield from definitions(source)
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield f"{node.name}.{child.name}"


def names_by_file() -> Dict[str, Set[str]]:
    return {
        path.relative_to(PACKAGE).as_posix(): set(defined(path.read_text("utf-8")))
        for path in PACKAGE.rglob("*.py")
    }


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"`([\w/]+\.(?:py|md))`", TEXT))
    assert len(named) > 40
    there = [
        name for name in named if (PACKAGE / name).exists() or (ROOT / name).exists()
    ]
    assert sorted(named - set(there)) == []


def test_every_class_and_function_that_is_named_is_there() -> None:
    named = set(re.findall(r"`([A-Z]\w*|_?[A-Z_]{3,}|[\w.]+(?=\(\)))(?:\(\))?`", TEXT))
    assert len(named) > 60
    outside = {"ROOMS", "LAYERS"}  # of the tests and benches
    assert sorted(named - outside - set().union(*names_by_file().values())) == []


def test_each_name_to_begin_at_is_in_a_file_of_its_row() -> None:
    table = TEXT.partition("## Where do I put it?")[2].partition("\n## ")[0]
    files = names_by_file()
    lost = []
    rows = re.findall(r"^\| (?!change \||---)(.*) \|$", table, re.M)
    assert len(rows) > 40
    for row in rows:
        _, begin, _ = row.split(" | ")
        known: Set[str] = set()
        for file in re.findall(r"`([\w/]+\.py)`", begin):
            known |= files[file]
        names = re.findall(r"`([A-Z]\w*|_?[A-Z_]{3,}|[\w.]+(?=\(\)))(?:\(\))?`", begin)
        lost += [name for name in names if name not in known | {"ROOMS", "LAYERS"}]
    assert lost == []


def test_the_table_has_the_states_of_a_worker() -> None:
    table = TEXT.partition("## The life of a worker")[2].partition("\n## ")[0]
    named = re.findall(r"^\| (\w+) \|", table, re.M)
    assert [one for one in named if one not in ("state", "any")] == list(STATES)
    sources = [path.read_text() for path in (PACKAGE / "executors/pool").glob("*.py")]
    found = re.findall(r"\.state\b[^=\n]* = \"(\w+)\"", "\n".join(sources))
    assert sorted(set(found)) == sorted(STATES)
