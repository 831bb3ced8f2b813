"""Importing pixie_web changes nothing, and loads little: as package and as one file."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Dict, List, Set, Tuple

import pytest
from names import Use, imported_modules, module_statements, parsed
from shapes import ROOT, place_lone_file

from pixie_web.single import CHAPTERS, PACKAGE

# What only some programs need must not be paid for by all.
COSTLY_MODULES = {
    "logging.handlers",
    "mimetypes",
    "multiprocessing",
    "pickle",
    "tempfile",
}
# What the package cannot do without, with all that these modules bring along.
CHEAP_MODULES = "asyncio base64 enum hashlib hmac html json logging re socket typing"


# Costly modules -----------------------------------------------------------------------


def costly_imports(source: str) -> List[Use]:
    """Return the costly modules that are imported as soon as the module is."""
    at_once = {s.lineno for s in module_statements(parsed(source).body)}
    return [
        Use(line, name)
        for line, name in imported_modules(source)
        if line in at_once and name in COSTLY_MODULES
    ]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_imports_what_is_costly_only_where_it_is_used(chapter: str) -> None:
    text = (PACKAGE / f"{chapter}.py").read_text(encoding="utf-8")
    assert costly_imports(text) == []


def test_a_costly_import_is_found() -> None:
    made_up = (
        "import os, pickle\nif 1:\n    import tempfile\ndef f():\n    import ssl\n"
    )
    assert costly_imports(made_up) == [Use(1, "pickle"), Use(3, "tempfile")]


# Effects ------------------------------------------------------------------------------

OBSERVER = """
import sys
{baseline}
import asyncio, json, logging, os, signal, threading

def observe():
    signals = {{signal.SIGINT, signal.SIGTERM}}
    return {{
        "threads": [thread.name for thread in threading.enumerate()],
        "policy": repr(getattr(asyncio.events, "_event_loop_policy", None)),
        "signals": [repr(signal.getsignal(number)) for number in sorted(signals)],
        "hooks": [repr(sys.excepthook), repr(threading.excepthook)],
        "log handlers": repr(logging.getLogger().handlers),
        "descriptors": sorted(os.listdir("/proc/self/fd"))
        if os.path.exists("/proc/self/fd") else [],
        "environment": sorted(os.environ.items()),
        "path": sys.path[:],
    }}

before, modules = observe(), set(sys.modules)
{subject}
after = observe()
changed = sorted(key for key in before if before[key] != after[key])
print(json.dumps([changed, sorted(set(sys.modules) - modules)]))
"""


def effects_of(subject: str, baseline: str = "pass") -> Tuple[List[str], Set[str]]:
    """Return what a statement changes in a new process, and the modules it loads."""
    program = OBSERVER.format(subject=subject, baseline=baseline)
    output = subprocess.check_output([sys.executable, "-c", program], timeout=60)
    changed, modules = json.loads(output)
    return changed, set(modules)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, str]:
    """Return where each shape of pixie_web is imported from."""
    directory = tmp_path_factory.mktemp("lone")
    place_lone_file(directory)
    return {"package": str(ROOT), "single": str(directory)}


@pytest.mark.parametrize("shape", ["package", "single"])
def test_importing_changes_nothing_but_the_modules(
    shape: str, shapes: Dict[str, str]
) -> None:
    baseline = f"sys.path.insert(0, {shapes[shape]!r})"
    changed, _ = effects_of("import pixie_web", baseline)
    assert changed == []


@pytest.mark.parametrize("shape", ["package", "single"])
def test_importing_loads_nothing_costly(shape: str, shapes: Dict[str, str]) -> None:
    baseline = f"sys.path.insert(0, {shapes[shape]!r}); import "
    baseline += CHEAP_MODULES.replace(" ", ", ")
    _, modules = effects_of("import pixie_web", baseline)
    assert ("pixie_web.runner" in modules) is (shape == "package")
    assert "pixie_web" in modules
    assert modules & COSTLY_MODULES == set()


EFFECTS = {
    "threads": "threading.Thread(target=signal.pause, daemon=True).start()",
    "policy": "asyncio.events._event_loop_policy = asyncio.DefaultEventLoopPolicy()",
    "signals": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "hooks": "sys.excepthook = print",
    "log handlers": "logging.basicConfig()",
    "descriptors": "os.pipe()",
    "environment": "os.environ['NEW'] = 'x'",
    "path": "sys.path.append('x')",
}


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_side_effect_is_found(effect: str) -> None:
    if effect == "policy" and sys.version_info >= (3, 14):
        pytest.skip("event loop policies are deprecated")
    changed, _ = effects_of(EFFECTS[effect])
    assert changed == [effect]


def test_a_costly_module_is_found() -> None:
    _, modules = effects_of("import tempfile", "import asyncio")
    assert modules & COSTLY_MODULES == {"tempfile"}
