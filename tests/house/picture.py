"""Draws the stack of rooms from what the chapters import, for docs/architecture.md.

    python tests/house/picture.py            puts it into the page

A room is a line of the list at the top of `pixie_web/__init__.py`, or several that
begin with the same folder. It lies one row above the highest of the rooms that its
chapters import when they run, so a circle could not be drawn. It names the rooms that
carry it, but not those on which they stand.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Set

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
WIDTH_CHARACTERS = 98
BEGIN = "<!-- drawn by tests/house/picture.py -->\n\n```text\n"
END = "```\n"


class Room(NamedTuple):
    """Chapters that stand together."""

    words: str  # "server: proxies access options"
    note: str  # what the list says beside it
    chapters: List[str]  # with their folder


def rooms_of(opening: str) -> List[Room]:
    """Return the rooms that the docstring of the package lists."""
    listing = opening.partition("above it:\n\n")[2].partition("\n\n")[0]
    rooms: List[Room] = []
    last = ""
    for line in listing.splitlines():
        words, _, note = line.strip().partition("   ")
        folder, _, names = words.rpartition(": ")
        chapters = [f"{folder}/{name}".lstrip("/") for name in names.split()]
        if folder and folder == last:  # one room, on two lines
            above = rooms.pop()
            words, chapters = f"{above.words} {names}", above.chapters + chapters
            note = above.note or note
        last = folder
        rooms.append(Room(words, note.strip(), chapters))
    return rooms


class Stack:
    """Rooms, and what carries each of them.

    Args:
        rooms: in the order of the list.
        imports: of each chapter those that it imports when it runs.
    """

    def __init__(self, rooms: List[Room], imports: Dict[str, Set[str]]) -> None:
        home = {chapter: room.words for room in rooms for chapter in room.chapters}
        self.rooms = rooms
        self.uses: Dict[str, Set[str]] = {}
        for room in rooms:
            used = {home[one] for chapter in room.chapters for one in imports[chapter]}
            self.uses[room.words] = used - {room.words}

    def row(self, words: str, above: Sequence[str] = ()) -> int:
        """Return in which row a room lies, from 0.

        Raises:
            ValueError: it stands on itself; says by way of which rooms.
        """
        if words in above:
            raise ValueError(" imports ".join([*above, words]))
        rows = [self.row(one, [*above, words]) for one in sorted(self.uses[words])]
        return 1 + max(rows, default=-1)

    def below(self, words: str) -> Set[str]:
        """Return all that a room stands on, and what that stands on."""
        used = self.uses[words]
        return used.union(*(self.below(one) for one in used))

    def carriers(self, words: str) -> List[str]:
        """Return the rooms that a room stands on, without what those stand on."""
        used = self.uses[words]
        deeper: Set[str] = set().union(*(self.below(one) for one in used))
        return [room.words for room in self.rooms if room.words in used - deeper]

    def label(self, words: str) -> str:
        """Return a short name of a room: its folder, if it has that for itself."""
        (room,) = (one for one in self.rooms if one.words == words)
        top, _, rest = room.words.partition(": ")
        if not rest:
            first, *others = room.chapters
            return f"{first} ..." if others else first
        alone = [one.words.partition(": ")[0] for one in self.rooms].count(top) == 1
        return top if alone else room.chapters[0] + " ..." * (len(room.chapters) > 1)

    def draw(self) -> str:
        """Return the picture, the topmost room first."""
        rows: Dict[int, List[Room]] = {}
        for room in self.rooms:
            rows.setdefault(self.row(room.words), []).append(room)
        ruler = ""
        lines = []
        for number in sorted(rows, reverse=True):
            bricks = list(self._bricks(rows[number]))
            edge = "+" + "".join("-" * len(brick[0]) + "+" for brick in bricks)
            lines.append(joint(ruler, edge))
            ruler = edge
            height = max(map(len, bricks))
            for brick in bricks:
                brick += [" " * len(brick[0])] * (height - len(brick))
            for layer in zip(*bricks):
                lines.append("|" + "".join(f"{part}|" for part in layer))
        return "\n".join([*lines, ruler]) + "\n"

    def _bricks(self, rooms: List[Room]) -> Iterator[List[str]]:
        """Yield the lines of each room of a row, which share its width."""
        left = WIDTH_CHARACTERS - 1
        for number, room in enumerate(rooms):
            size = left // (len(rooms) - number)
            left -= size
            width = size - 1
            carriers = ", ".join(map(self.label, self.carriers(room.words)))
            texts = [room.words, room.note, carriers and f"on {carriers}"]
            wrapped = [textwrap.wrap(text, width - 2) for text in texts]
            yield [f" {line}".ljust(width) for text in wrapped for line in text]


def joint(above: str, below: str) -> str:
    """Return the edge between two rows, with the corners of both."""
    pairs = zip(above.ljust(len(below), "-"), below)
    return "".join("+" if "+" in pair else "-" for pair in pairs)


def picture() -> str:
    """Return the picture of the package as it is."""
    sys.path.insert(0, str(ROOT))
    from pixie_web.single import Book

    book = Book()
    imports = {
        chapter.name: {
            one.module
            for one in chapter.imports
            if one.is_chapter and not one.for_types
        }
        for chapter in book.chapters
    }
    return Stack(rooms_of(book.opening), imports).draw()


def placed(page: str, drawn: str) -> str:
    """Return the text of the page with another picture."""
    before, mark, rest = page.partition(BEGIN)
    if not mark:
        raise ValueError(f"{PAGE.name} has no line {BEGIN.splitlines()[0]!r}")
    return before + BEGIN + drawn + rest[rest.index(END) :]


if __name__ == "__main__":
    PAGE.write_text(placed(PAGE.read_text("utf-8"), picture()), "utf-8")
