"""What the pages in docs/ show is run as it stands there, page by page, in order."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator

import pytest
from shapes import IS_SINGLE

import pixie_web
from pixie_web import Pixie, Template

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [
    "compression.md",
    "cookies.md",
    "cors.md",
    "from-bottle.md",
    "gateways.md",
    "hosting.md",
    "http2-http3.md",
    "jobs.md",
    "json.md",
    "placement.md",
    "sessions.md",
    "state.md",
    "testing.md",
]
OF_COMPANIONS = ["cors.md", "hosting.md", "http2-http3.md", "jobs.md", "sessions.md"]
OF_COMPANIONS += ["state.md", "testing.md"]


@pytest.fixture(autouse=True)
def settings_of_templates() -> Iterator[None]:
    engines, path, cache = Template.engines.copy(), Template.path, Template.cache
    yield
    Template.engines.clear()
    Template.engines.update(engines)
    Template.path, Template.cache = path, cache


def fresh_functions() -> Any:
    """Return the public names, those of the default application on another one."""
    app = Pixie()
    methods = {name: getattr(app, name) for name in ("get", "post", "run")}
    return SimpleNamespace(**{**vars(pixie_web), **methods, "app": app})


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXIE_WORKERS", "0")  # a page is no module to be imported
    text = (DOCS / page).read_text(encoding="utf-8")
    if page in ("from-bottle.md", "http2-http3.md", "jobs.md", "state.md"):
        # They declare on the default application, which other tests use as well.
        text = text.replace("from pixie_web import", "from fresh import")
        monkeypatch.setitem(sys.modules, "fresh", fresh_functions())
    if IS_SINGLE and page in OF_COMPANIONS:
        pytest.skip("it is about a companion, which the single file lacks")
    guide = types.ModuleType("guide")  # in which jobs find their functions
    monkeypatch.setitem(sys.modules, "guide", guide)
    names: Dict[str, Any] = vars(guide)
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S))
    assert blocks
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block.group(1), page, "exec"), names)
