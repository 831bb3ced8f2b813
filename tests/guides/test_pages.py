"""The pages that build a program: each is served, and each command run, as shown.

A block whose first line is `# app.py` becomes that file, and `# app.py, continued` is
added to it. Commands run in a shell beside the server, which starts when one asks it;
`...` in their output stands for anything. Other Python runs here, as in test_guides.py.

`PIXIE_RECORD=1` writes what the commands have printed into the page.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import pytest
from pages import Block, blocks_of
from shapes import IS_SINGLE
from support import PATIENCE_SECONDS, Server, serve

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {  # and whether it is about a companion, which the single file lacks
    "errors.md": False,
    "first-steps.md": False,
    "from-fastapi.md": True,
    "from-flask.md": True,
    "libraries.md": False,
    "requests.md": False,
    "responses.md": False,
    "streaming.md": True,
    "structure.md": True,
    "triggers.md": True,
    "tutorial.md": True,
}
ADDRESS = "localhost:8000"
STARTS = re.compile(r"(?:pixie run|python3 app\.py)\b")
NEEDS = re.compile(r"^ *(?:import|from) (numpy|torch|polars|flask)\b", re.M)
# What differs from run to run, whatever is asked.
VARYING = re.compile(r"(?im)^(date: ).*|(on \S+ \(Ctrl-C stops it\)).*")


def programs(blocks: Sequence[Block]) -> Iterator[List[Block]]:
    """Yield the blocks of each program: one ends where app.py begins anew."""
    part: List[Block] = []
    for block in blocks:
        begins = block.file == "app.py" and not block.continued
        if begins and any(one.file == "app.py" for one in part):
            yield part
            part = []
        part.append(block)
    yield part


def can_run(blocks: Sequence[Block]) -> bool:
    """Return whether the libraries of a program are installed."""
    wanted = {name for one in blocks for name in NEEDS.findall(one.text)}
    return all(importlib.util.find_spec(name) is not None for name in wanted)


def commands(text: str) -> Iterator[Tuple[str, str]]:
    """Yield each command of a console block, and the output shown below it."""
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        lines = part.split("\n")
        at = 1
        while lines[at - 1].endswith("\\"):
            at += 1
        yield "\n".join(lines[:at]), "\n".join(lines[at:]).rstrip("\n")


def place_tools(directory: Path) -> str:
    """Make the commands that the pages use; return PATH with them ahead."""
    curl = shutil.which("curl")
    tools = {
        "python3": f'exec "{sys.executable}" "$@"',
        "pixie": f'exec "{sys.executable}" -m pixie_web "$@"',
        "curl": f'exec "{curl}" -sS --max-time {PATIENCE_SECONDS:.0f} "$@"',
    }
    for name, line in tools.items():
        (directory / name).write_text(f"#!/bin/sh\n{line}\n", "utf-8")
        (directory / name).chmod(0o755)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


class Shown:
    """A page that is tried in a directory."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.stack = stack
        self.server: Optional[Server] = None
        self.names: Dict[str, object] = {"__name__": "guide"}
        tools = directory.parent / "tools"
        tools.mkdir()
        self.environment = {**os.environ, "PATH": place_tools(tools)}
        del self.environment["PIXIE_WORKERS"]

    def started(self) -> Server:
        """Return the server; it starts when somebody wants it."""
        if self.server is None:
            arguments = ["pixie_web", "app"]
            served = serve(Path("-m"), self.directory, arguments=arguments)
            self.server = self.stack.enter_context(served)
        return self.server

    def output(self, command: str) -> str:
        """Run a command, and return what it prints."""
        if STARTS.match(command):
            banner = self.started().log.splitlines()[0]
            return re.sub(r"127\.0\.0\.1:\d+", ADDRESS, banner)
        if ADDRESS in command:
            command = command.replace(ADDRESS, f"127.0.0.1:{self.started().port}")
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=str(self.directory),
            env=self.environment,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
        )
        printed = done.stdout + done.stderr  # in this order, whichever came first
        text = printed.decode("utf-8", "replace").replace("\r\n", "\n")
        if self.server is not None:
            text = text.replace(f"127.0.0.1:{self.server.port}", ADDRESS)
        return text.rstrip("\n")

    def place(self, blocks: Sequence[Block]) -> None:
        """Write the files of a program."""
        for block in blocks:
            if block.file:
                path = self.directory / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                before = path.read_text("utf-8") if block.continued else ""
                text = before + "\n\n" * block.continued + block.text
                if block.language == "html":  # its first line would be sent too
                    text = text.partition("\n")[2]
                path.write_text(text, "utf-8")


def agrees(shown: str, printed: str) -> bool:
    """Return whether a command has printed what the page shows."""
    shown, printed = (VARYING.sub(r"\1\2", one) for one in (shown, printed))
    pattern = ".*?".join(re.escape(part) for part in shown.split("..."))
    return re.fullmatch(pattern, printed, re.S) is not None


def tried(block: Block, shown: Shown) -> str:
    """Run the commands of a block; return the block with what they print."""
    out = ""
    for command, expected in commands(block.text):
        printed = shown.output(command)
        if not os.environ.get("PIXIE_RECORD"):
            assert agrees(expected, printed), f"$ {command}\n{printed}"
        kept = expected if agrees(expected, printed) else printed
        out += f"$ {command}\n" + (f"{kept}\n" if kept else "")
    return out


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_shows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if IS_SINGLE and PAGES[page]:
        pytest.skip("it is about a companion, which the single file lacks")
    directory = tmp_path / "page"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.setenv("PIXIE_WORKERS", "0")  # a page is no module to be imported
    path = DOCS / page
    blocks = list(blocks_of(path))
    assert {one.language for one in blocks} >= {"python", "console"}
    text = path.read_text("utf-8")
    for part in filter(can_run, programs(blocks)):
        with ExitStack() as stack:
            shown = Shown(directory, stack)
            shown.place(part)
            for block in part:
                if block.language == "console":
                    text = text.replace(block.text, tried(block, shown))
                elif block.language == "python" and not block.file:
                    source = "\n" * block.line + block.text
                    exec(compile(source, page, "exec"), shown.names)
        shutil.rmtree(str(directory.parent / "tools"))
    if os.environ.get("PIXIE_RECORD"):
        path.write_text(text, "utf-8")


SHOWN = [
    ("a", "a", True),
    ("a", "b", False),
    ("a ... c", "a b\n c", True),
    ("a ... c", "a b", False),
    ("Date: x\na", "Date: y\na", True),
    ("(a)", "a", False),
]


@pytest.mark.parametrize("shown, printed, agree", SHOWN)
def test_output_is_compared(shown: str, printed: str, agree: bool) -> None:
    assert agrees(shown, printed) == agree


def test_a_console_block_has_commands_and_their_output() -> None:
    block = "$ one\nits\noutput\n$ two \\\n    more\n$ three\nlast\n"
    assert list(commands(block)) == [
        ("one", "its\noutput"),
        ("two \\\n    more", ""),
        ("three", "last"),
    ]
