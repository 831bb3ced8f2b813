"""The architecture as a test: the package is a book of chapters, and stays one.

Each rule is a function from a source text to a list of violations, so that it can be
tried on a made-up source that breaks it before it is trusted with the real one. What
has to hold for the joining of the chapters stands in tests/test_single.py.
"""

from __future__ import annotations

import ast
import bisect
import dis
import functools
import importlib.util
import io
import json
import pathlib
import subprocess
import sys
import sysconfig
import textwrap
import tokenize
import types
from typing import Dict, Iterator, List, NamedTuple, Set, Tuple

import pytest
from shapes import lone_file, place_lone_file

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "pixie_web"
MAX_CODE_LINES = 8_015  # of all chapters, joined; raising it is noted in docs/design.md
MAX_FUNCTION_LINES = 40  # of code, as the next one
MAX_CLASS_LINES = 250
MAX_FILE_LINES = 700  # all of them
OPTIONAL_MODULES = {"uvloop", "orjson", "ujson"}

# Debts: what is larger than it may be, and how large. These numbers only ever fall.
LARGE_CLASSES = {
    "Application": 368,
    "Connection": 561,
}
LARGE_FILES = {
    "application": 761,
    "server/connection": 923,
}

# What is no chapter: it is not in the single file.
COMPANIONS = {"httptools", "status"}
AROUND = {"__init__", "__main__", "single"}

FOUNDATION = "about errors text cookies datastructures"
PROTOCOL = "protocol/http11 protocol/multipart"
MESSAGES = "forms requests responses conditional staticfiles"
BASE = "executors/base executors/streams"
POOL = (
    "executors/pool/frames executors/pool/worker executors/pool/zygote "
    "executors/pool/traces executors/pool/links executors/pool/scheduler "
    "executors/pool/recycling executors/pool/supervisor executors/pool/pool"
)
# Which chapters a chapter may import, when it runs. Those of its own line too, where
# they stand above it.
LAYERS = {
    FOUNDATION: "",
    PROTOCOL: FOUNDATION,
    MESSAGES: f"{FOUNDATION} {PROTOCOL}",
    "templating/compiler templating/templates": FOUNDATION,
    "routing": FOUNDATION,
    BASE: f"{FOUNDATION} requests responses routing",
    "executors/local": f"{FOUNDATION} requests responses {BASE}",
    POOL: f"{FOUNDATION} protocol/http11 forms requests responses {BASE}",
    "executors/dispatch": (
        f"{FOUNDATION} requests responses {BASE} executors/local {POOL}"
    ),
    "handling": f"{FOUNDATION} requests responses {BASE}",
    "middleware": f"{FOUNDATION} {MESSAGES} executors/streams",
    "application": (
        f"{FOUNDATION} {PROTOCOL} {MESSAGES} routing {BASE} executors/local "
        "executors/pool/frames executors/dispatch handling"
    ),
    # The server knows of the application what it is given: `handle`.
    "server/proxies server/access server/options server/insistence server/connection "
    "server/listeners server/server": f"{FOUNDATION} {PROTOCOL} {MESSAGES}",
    "settings": (
        f"{FOUNDATION} {PROTOCOL} requests executors/local executors/pool/frames "
        "server/access server/options"
    ),
    "launch": f"{FOUNDATION} {PROTOCOL} executors/pool/zygote application",
    "runner": (
        f"{FOUNDATION} {PROTOCOL} {BASE} executors/local {POOL} server/options "
        "server/listeners server/server settings launch"
    ),
    "pixie": f"{FOUNDATION} application settings runner",
    "loading": f"{FOUNDATION} {POOL} application launch runner pixie",
    "cli": f"{FOUNDATION} settings pixie loading",
}
# Chapters that ask the system for nothing but memory.
IO_MODULES = {"asyncio", "select", "selectors", "signal", "socket", "ssl", "subprocess"}
NO_IO = [
    *FOUNDATION.split(),
    *PROTOCOL.split(),
    "templating/compiler",
    "templating/templates",
    "routing",
]

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


def chapter_names() -> List[str]:
    """Return all files of the package but for companions and what stands around."""
    files = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    names = [path.with_suffix("").as_posix() for path in files]
    outside = COMPANIONS | AROUND
    return sorted(n for n in names if n not in outside and "__init__" not in n)


@pytest.fixture(params=chapter_names())
def chapter(request: pytest.FixtureRequest) -> str:
    """Return the name of each chapter in turn."""
    return str(request.param)


@pytest.fixture
def text(chapter: str) -> str:
    """Return the text of each chapter in turn."""
    return (PACKAGE / f"{chapter}.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def book() -> str:
    """Return the text of the single file, in which all chapters are joined."""
    return lone_file().decode("utf-8")


def dedent(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


# ======================================================================================
# Names: where each is defined, and where it is used
# ======================================================================================
# The compiler knows best which names are global: LOAD_GLOBAL in a function, LOAD_NAME
# in a class body or at the top. Annotations do not appear: nothing evaluates them.


# Many rules look at the same text: what is found in one is kept, and only read.
once = functools.lru_cache(maxsize=None)


class Use(NamedTuple):
    line: int
    name: str


@once
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def bound_names(statement: ast.stmt) -> Iterator[str]:
    """Yield what one module-level statement defines, e.g. `import a.b as c`: c."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.split(".")[0]


def module_statements(body: List[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, going into if, try, with and loops."""
    for statement in body:
        blocks = [
            block
            for field in ("body", "orelse", "finalbody")
            for block in [getattr(statement, field, [])]
        ]
        blocks += [handler.body for handler in getattr(statement, "handlers", [])]
        if isinstance(
            statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        ) or not any(blocks):
            yield statement
        elif not is_type_checking(statement):
            for block in blocks:
                yield from module_statements(block)


def is_type_checking(statement: ast.AST) -> bool:
    return isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test)


@once
def definitions(source: str) -> Dict[str, List[int]]:
    """Return the lines on which each module-level name is bound, in order."""
    lines: Dict[str, List[int]] = {}
    for statement in module_statements(parsed(source).body):
        for name in bound_names(statement):
            lines.setdefault(name, []).append(statement.lineno)
    return lines


def code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_objects(constant)


def global_names(code: types.CodeType) -> Iterator[Use]:
    """Yield the global names that one code object uses, without those nested in it."""
    instructions = list(dis.get_instructions(code))
    own = {i.argval for i in instructions if i.opname == "STORE_NAME"}
    line = code.co_firstlineno
    for instruction in instructions:
        started = getattr(instruction, "line_number", instruction.starts_line)
        line = started or line
        if instruction.opname in ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL") or (
            instruction.opname == "LOAD_NAME"
            and (code.co_name == "<module>" or instruction.argval not in own)
        ):
            yield Use(line, str(instruction.argval))


def type_checking_lines(source: str) -> Set[int]:
    return {
        line
        for node in ast.walk(parsed(source))
        if is_type_checking(node)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


@once
def uses(source: str) -> List[Use]:
    """Return every use of a module-level name of the source itself."""
    known, exempt = definitions(source), type_checking_lines(source)
    found = {
        use
        for code in code_objects(compile(source, "x.py", "exec"))
        for use in global_names(code)
    }
    return sorted(use for use in found if use.name in known and use.line not in exempt)


# ======================================================================================
# The order of the book
# ======================================================================================


def owners(source: str) -> List[Tuple[int, str]]:
    """Return (first line, name) of each module-level definition, in order."""
    found = definitions(source).items()
    return sorted((line, name) for name, lines in found for line in lines)


def owner_of(line: int, book: List[Tuple[int, str]]) -> str:
    """Return the name whose definition a line belongs to."""
    return book[max(0, bisect.bisect_right(book, (line, "\x7f")) - 1)][1]


def reachable(start: str, graph: Dict[str, Set[str]]) -> Set[str]:
    """Return all that a name uses, and what that uses, and so on."""
    seen: Set[str] = set()
    todo = [start]
    while todo:
        todo.extend(graph.get(todo.pop(), set()) - seen)
        seen.update(todo)
    return seen


def uses_of_what_stands_below(source: str) -> List[Use]:
    """Return the uses that another order would avoid.

    Two functions or classes that call each other have no such order.
    """
    known, book = definitions(source), owners(source)
    graph: Dict[str, Set[str]] = {}
    for use in uses(source):
        graph.setdefault(owner_of(use.line, book), set()).add(use.name)
    return [
        use
        for use in uses(source)
        if use.line < known[use.name][0]
        and owner_of(use.line, book) not in reachable(use.name, graph)
    ]


def test_nothing_is_used_above_its_definition(text: str) -> None:
    assert uses_of_what_stands_below(text) == []


FORWARD_USES = {
    "at import": ("x = later\nlater = 1\n", [Use(1, "later")]),
    "in a function": ("def f():\n    return later\nlater = 1\n", [Use(2, "later")]),
    "in a nested function": (
        "def f():\n    def g():\n        return later\n    return g\nlater = 1\n",
        [Use(3, "later")],
    ),
    "in a class body": ("class A:\n    x = later\nlater = 1\n", [Use(2, "later")]),
    "in a method": (
        "class A:\n    def f(self):\n        return later\nlater = 1\n",
        [Use(3, "later")],
    ),
    "as a base": ("class A(B): pass\nclass B: pass\n", [Use(1, "B")]),
    "as a default": ("def f(x=later): pass\nlater = 1\n", [Use(1, "later")]),
    "as a decorator": ("@later\ndef f(): pass\ndef later(f): 0\n", [Use(1, "later")]),
    "by global": (
        "def f():\n    global later\n    later = 1\nlater = 2\n",
        [Use(3, "later")],
    ),
    "of an import": ("def f():\n    return os.name\nimport os\n", [Use(2, "os")]),
    "in a comprehension": (
        "def f():\n    return [later for _ in ()]\nlater = 1\n",
        [Use(2, "later")],
    ),
}


def test_mutual_recursion_is_no_forward_use() -> None:
    first, second = "def f():\n    return g()\n", "def g():\n    return f()\n"
    assert uses_of_what_stands_below(first + second) == []
    assert uses_of_what_stands_below(first + "def g():\n    return 1\n") == [
        Use(2, "g")
    ]


@pytest.mark.parametrize("made_up, expected", FORWARD_USES.values(), ids=FORWARD_USES)
def test_a_forward_use_is_found(made_up: str, expected: List[Use]) -> None:
    assert uses_of_what_stands_below(made_up) == expected


NO_FORWARD_USES = {
    "a local variable": "def f():\n    later = 1\n    return later\nlater = 2\n",
    "a parameter": "def f(later):\n    return later\nlater = 2\n",
    "a closure": (
        "def f(later):\n    def g():\n        return later\n    return g\nlater = 2\n"
    ),
    "an attribute": "def f(x):\n    return x.later\nlater = 2\n",
    "an attribute of the class": "class A:\n    later = 1\n    x = later\nlater = 2\n",
    "an annotation": (
        "from __future__ import annotations\ndef f(x: Later) -> Later:\n    y: Later\n"
        "class Later: pass\n"
    ),
    "for the type checker": (
        "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    T = Later\nclass Later: pass\n"
    ),
    "recursion": "def f():\n    return f()\n",
    "a class naming itself": "class A:\n    def f(self):\n        return A()\n",
    "an import with a fallback": "try:\n    import a\nexcept E:\n    a = None\nb = a\n",
}


@pytest.mark.parametrize("made_up", NO_FORWARD_USES.values(), ids=NO_FORWARD_USES)
def test_what_only_looks_like_a_forward_use_is_none(made_up: str) -> None:
    assert uses_of_what_stands_below(made_up) == []


# ======================================================================================
# The layers
# ======================================================================================


def imported_chapters(chapter: str, source: str) -> Set[str]:
    """Return the chapters that one imports when it runs, e.g. "protocol/http11"."""
    exempt = type_checking_lines(source)
    found = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            folders = chapter.split("/")[: -node.level]
            if node.lineno not in exempt:
                found.add("/".join([*folders, *(node.module or "").split(".")]))
    return found


def layer_violations(
    chapter: str, imported: Set[str], layers: Dict[str, str]
) -> List[str]:
    """Return the chapters that one may not import."""
    for layer, below in layers.items():
        names = layer.split()
        if chapter in names:
            above = names[: names.index(chapter)]
            return sorted(imported - {*above, *below.split()})
    return sorted(imported)


def test_each_chapter_imports_only_the_layers_it_may(chapter: str, text: str) -> None:
    assert layer_violations(chapter, imported_chapters(chapter, text), LAYERS) == []


def test_the_layers_name_every_chapter_once() -> None:
    assert sorted(" ".join(LAYERS).split()) == chapter_names()


@pytest.mark.parametrize("chapter", NO_IO)
def test_the_chapters_without_io_import_no_module_that_does_io(chapter: str) -> None:
    source = (PACKAGE / f"{chapter}.py").read_text(encoding="utf-8")
    modules = {use.name.split(".")[0] for use in imported_modules(source)}
    assert modules & IO_MODULES == set()


LAYERED = dedent(
    """
    import socket
    from typing import TYPE_CHECKING
    from .base import a
    from ..text import b
    from ..protocol.http11 import c
    if TYPE_CHECKING:
        from .pool.pool import d
    def e():
        import ssl.more
    """
)


def test_an_import_of_a_forbidden_layer_is_found() -> None:
    imported = imported_chapters("executors/local", LAYERED)
    assert imported == {"executors/base", "protocol/http11", "text"}
    layers = {"text": "", "executors/base executors/local": "text"}
    assert layer_violations("executors/local", imported, layers) == ["protocol/http11"]
    assert layer_violations("executors/base", {"executors/local"}, layers) == [
        "executors/local"
    ]
    assert layer_violations("other", {"text"}, layers) == ["text"]


def test_modules_are_found_whether_imported_at_the_top_or_where_used() -> None:
    modules = {use.name for use in imported_modules(LAYERED)}
    assert {"socket", "ssl.more"} <= modules


# ======================================================================================
# Imports
# ======================================================================================


def imported_modules(source: str) -> List[Use]:
    """Return (line, module) of every import; a relative one starts with dots."""
    found = []
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            found += [Use(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(Use(node.lineno, "." * node.level + (node.module or "")))
    return found


def guarded_lines(source: str) -> Set[int]:
    """Return the lines inside the `try` block of a `try` that stands in a function."""
    functions = [
        node
        for node in ast.walk(parsed(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return {
        line
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Try) and node.handlers
        for statement in node.body
        for line in range(statement.lineno, (statement.end_lineno or 0) + 1)
    }


def is_standard(module: str) -> bool:
    """Tell whether a top-level module belongs to the standard library."""
    names = getattr(sys, "stdlib_module_names", None)
    if names is not None:  # Python 3.10
        return module in names
    if module in sys.builtin_module_names:
        return True
    spec = importlib.util.find_spec(module) if module else None
    origin = (spec and spec.origin) or ""
    library = sysconfig.get_paths()["stdlib"]
    return origin.startswith(library) and "site-packages" not in origin


def foreign_imports(source: str) -> List[Use]:
    """Return the imports of what is neither standard nor optional and guarded."""
    guarded = guarded_lines(source)
    return [
        Use(line, name)
        for line, name in imported_modules(source)
        if not name.startswith(".")
        and not is_standard(name.split(".")[0])
        and not (name in OPTIONAL_MODULES and line in guarded)
    ]


def costly_imports(source: str) -> List[Use]:
    """Return the costly modules that are imported as soon as the module is."""
    at_once = {s.lineno for s in module_statements(parsed(source).body)}
    return [
        Use(line, name)
        for line, name in imported_modules(source)
        if line in at_once and name in COSTLY_MODULES
    ]


def test_a_chapter_imports_the_standard_library_only(text: str) -> None:
    assert foreign_imports(text) == []


def test_a_chapter_imports_what_is_costly_only_where_it_is_used(text: str) -> None:
    assert costly_imports(text) == []


def test_a_foreign_import_is_found() -> None:
    made_up = dedent(
        """
        import os.path, requests
        from . import sibling
        import uvloop
        def f():
            import orjson
            try:
                import ujson
                from yaml import load
            except ImportError:
                import uvloop
        """
    )
    assert sorted(foreign_imports(made_up)) == [
        Use(1, "requests"),
        Use(3, "uvloop"),
        Use(5, "orjson"),
        Use(8, "yaml"),
        Use(10, "uvloop"),
    ]


def test_a_costly_import_is_found() -> None:
    made_up = (
        "import os, pickle\nif 1:\n    import tempfile\ndef f():\n    import ssl\n"
    )
    assert costly_imports(made_up) == [Use(1, "pickle"), Use(3, "tempfile")]


# ======================================================================================
# Length
# ======================================================================================


def docstring_lines(tree: ast.AST) -> Set[int]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }


@once
def code_lines(source: str) -> Set[int]:
    """Return the numbers of the lines that are not blank, comment or docstring."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}
    silent |= {tokenize.INDENT, tokenize.DEDENT}
    lines: Set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(parsed(source))


def function_lengths(source: str) -> Dict[str, int]:
    """Return "name, line n" and the code lines, nested functions included, of each."""
    lines = code_lines(source)
    return {
        f"{node.name}, line {node.lineno}": len(
            lines.intersection(range(node.lineno, (node.end_lineno or 0) + 1))
        )
        for node in ast.walk(parsed(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def class_lengths(source: str) -> Dict[str, int]:
    """Return the code lines of each class."""
    lines = code_lines(source)
    return {
        node.name: len(
            lines.intersection(range(node.lineno, (node.end_lineno or 0) + 1))
        )
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.ClassDef)
    }


def test_no_function_is_longer_than_a_screen(text: str) -> None:
    lengths = function_lengths(text)
    assert {n: c for n, c in lengths.items() if c > MAX_FUNCTION_LINES} == {}


def test_no_class_is_larger_than_a_room(book: str) -> None:
    large = {n: c for n, c in class_lengths(book).items() if c > MAX_CLASS_LINES}
    assert {n: c for n, c in large.items() if c > LARGE_CLASSES.get(n, 0)} == {}
    assert sorted(large) == sorted(LARGE_CLASSES), "a debt that has been paid"


def test_no_chapter_is_longer_than_its_limit(chapter: str, text: str) -> None:
    bound = LARGE_FILES.get(chapter, MAX_FILE_LINES)
    length = text.count("\n")
    assert length <= bound
    assert length > MAX_FILE_LINES or chapter not in LARGE_FILES, "a debt that is paid"


def test_the_chapters_together_are_shorter_than_their_limit(book: str) -> None:
    assert len(code_lines(book)) <= MAX_CODE_LINES


def test_code_lines_leave_out_blanks_comments_and_docstrings() -> None:
    made_up = dedent(
        '''
        @decorated
        def outer(
            x,
        ):
            """One.

            Two.
            """

            # Why.
            def inner():
                """Inner."""
                return """a
                b"""  # two lines

            return inner
        '''
    )
    assert function_lengths(made_up) == {"outer, line 2": 7, "inner, line 11": 3}
    assert class_lengths('class A:\n    """A."""\n\n    x = 1  # one\n') == {"A": 2}


# ======================================================================================
# The public interface
# ======================================================================================


def public_names(source: str) -> List[str]:
    for statement in parsed(source).body:
        if isinstance(statement, ast.Assign) and "__all__" in bound_names(statement):
            return list(ast.literal_eval(statement.value))
    return []


def undefined_public_names(source: str) -> List[str]:
    known = definitions(source)
    return [name for name in public_names(source) if name not in known]


def undocumented(source: str) -> List[str]:
    """Return the public classes, functions and methods that have no docstring."""
    public = set(public_names(source))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for node in module_statements(parsed(source).body):
        if not isinstance(node, (*functions, ast.ClassDef)) or node.name not in public:
            continue
        methods = [child for child in node.body if isinstance(child, functions)]
        methods = methods if isinstance(node, ast.ClassDef) else []
        found += [
            f"{node.name}.{child.name}"
            for child in methods
            if needs_docstring(child) and not ast.get_docstring(child)
        ]
        found += [] if ast.get_docstring(node) else [node.name]
    return found


def needs_docstring(method: ast.AST) -> bool:
    """Tell whether a method is public, and neither an overload nor a setter."""
    assert isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef))
    decorators = {
        node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        for node in method.decorator_list
    }
    return not method.name.startswith("_") and not decorators & {
        "overload",
        "setter",
        "deleter",
    }


def test_every_public_name_exists(book: str) -> None:
    assert undefined_public_names(book) == []


def test_no_public_name_is_listed_twice(book: str) -> None:
    assert sorted(public_names(book)) == sorted(set(public_names(book)))


def test_what_is_public_has_a_docstring(book: str) -> None:
    assert undocumented(book) == []


def test_the_package_is_its_public_names_and_nothing_else() -> None:
    import pixie_web

    names = {
        name
        for name, value in vars(pixie_web).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert names == set(pixie_web.__all__)


def test_no_chapter_has_the_name_of_something_public() -> None:
    # The module and the function would fight over one attribute of the package.
    import pixie_web

    tops = {path.stem for path in PACKAGE.iterdir()}
    assert tops & set(pixie_web.__all__) == set()


PUBLIC = dedent(
    '''
    __all__ = ["A", "f", "missing"]
    class A:
        """Documented."""
        def good(self):
            """Documented."""
        def bad(self): pass
        def _private(self): pass
        @overload
        def overloaded(self): pass
        @good.setter
        def good(self, value): pass
    def f(): pass
    def private(): pass
    '''
)


def test_a_public_name_that_is_missing_is_found() -> None:
    assert undefined_public_names(PUBLIC) == ["missing"]


def test_a_missing_docstring_is_found() -> None:
    assert undocumented(PUBLIC) == ["A.bad", "f"]


# ======================================================================================
# Importing has no side effect
# ======================================================================================

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
    return {"package": str(PACKAGE.parent), "single": str(directory)}


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
