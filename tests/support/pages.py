"""What the pages of the documentation show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator, List, NamedTuple

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
_FILE = re.compile(r"(?:# |<!-- |% # )(\S+\.\w+)(, continued)?(?: -->)?\n")


class Block(NamedTuple):
    """An example of a page.

    Attributes:
        line: in the page, where its text begins; from 0.
        file: what it is to be written into; "" of what is not.
        continued: it goes on with a file that is there.
    """

    language: str
    text: str
    line: int
    file: str
    continued: bool


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the examples of a page; the first line of one may name its file."""
    text = page.read_text("utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start(2))
        named = _FILE.match(found.group(2))
        file = (named.group(1), bool(named.group(2))) if named else ("", False)
        yield Block(found.group(1), found.group(2), line, *file)


def python_blocks(page: Path) -> List[str]:
    """Return the Python examples of a page, in their order."""
    return [one.text for one in blocks_of(page) if one.language == "python"]
