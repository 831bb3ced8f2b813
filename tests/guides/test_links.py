"""The pages as GitHub shows them: each link leads somewhere, and each page is reached.

`make docs` checks the same of the site; this needs nothing that is not here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator, List, Set, Tuple

import pytest
from shapes import ROOT

DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


def prose(page: Path) -> str:
    """Return a page without its examples."""
    return FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> Set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: Set[str] = set()
    for heading in re.findall(r"^#{1,6} (.*)$", prose(page), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-"))
    return found


def links(page: Path) -> Iterator[Tuple[str, str]]:
    """Yield the file and the anchor of each link inside of the repository."""
    for found in LINK.finditer(prose(page)):
        file, _, anchor = (found.group(1) or found.group(2)).partition("#")
        yield file, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_somewhere(page: Path) -> None:
    broken: List[str] = []
    for file, anchor in links(page):
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{file}#{anchor}")
    assert broken == []


def test_each_page_is_in_the_navigation_of_the_site() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"([\w./-]+\.md)$", nav, re.M)
    assert len(listed) == len(set(listed))
    assert {page.name for page in DOCS.glob("*.md")} <= set(listed)


def test_the_readme_leads_to_each_page() -> None:
    reached = {file for file, _ in links(ROOT / "README.md")}
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= reached
