"""What the site has from outside of docs/: the README as its first page, and others.

On GitHub the pages link to files of the repository. A file that is a page of the site
keeps its link; of any other, such as a test, the words alone are left. A link whose
words are a file name, as in `[pool.md](pool.md#memory)`, has the heading in place
of the name, because the site has no file of that name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from markdown.extensions.toc import slugify
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "bench/results/README.md"]
LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(([^()\s:#]+)(#[^()\s]*)?\)")
FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)
FILE_NAME = re.compile(r"[\w/-]+\.md")
SOURCE = re.compile(r'((?:src|srcset)=")([^":]+)"')


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and charts that lie outside of docs/."""
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    readme = str(ROOT / "README.md")
    files.append(File.generated(config, "index.md", abs_src_path=readme))
    for chart in sorted((ROOT / "bench" / "results").glob("*.svg")):
        name = chart.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(chart)))
    return files


def heading(text: str, anchor: str) -> str:
    """Return the heading that an anchor names, or the title of a page; "" of none."""
    for words in re.findall(r"^#+ +(.*)$", FENCE.sub("", text), re.M):
        if not anchor:
            return str(words.partition(":")[0])
        if slugify(words.replace("`", ""), "-") == anchor[1:]:
            return str(words)
    return ""


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Point the links of a page to what they mean on the site."""
    here = page.file.src_uri
    place = here if here in PAGES else f"docs/{here}"  # in the repository
    place = "README.md" if here == "index.md" else place

    def on_site(target: str) -> str:
        """Return the place on the site of a file that a page links to; "" of none."""
        name = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        name = "index.md" if name == "README.md" else name
        name = name[len("docs/") :] if name.startswith("docs/") else name
        if files.get_file_from_path(name) is None:
            return ""
        return posixpath.relpath(name, posixpath.dirname(here) or ".")

    def link(found: re.Match[str]) -> str:
        words, target, anchor = found.group(1), found.group(2), found.group(3) or ""
        at = on_site(target)
        if at and FILE_NAME.fullmatch(words):
            path = ROOT / posixpath.dirname(place) / target
            words = heading(path.read_text("utf-8"), anchor) or words
        missing = not at and (ROOT / posixpath.dirname(place) / target).exists()
        # Of a file that nowhere is, the link stays: the strict build names it.
        return words if missing else f"[{words}]({at or target}{anchor})"

    def source(found: re.Match[str]) -> str:
        return f'{found.group(1)}{on_site(found.group(2)) or found.group(2)}"'

    parts = FENCE.split(markdown)
    parts[::2] = [SOURCE.sub(source, LINK.sub(link, part)) for part in parts[::2]]
    return "".join(parts)
