"""The architecture as a test: the package is a book of chapters, and stays one.

Each rule is a function from a source text to a list of violations, so that it can be
tried on a made-up source that breaks it before it is trusted with the real one. What
has to hold for the joining of the chapters stands in test_single.py, what importing
them costs in test_importing.py.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import pathlib
import sys
import sysconfig
import textwrap
import tokenize
import types
from typing import Dict, List, Set

import pytest
from names import (
    Use,
    bound_names,
    definitions,
    imported_chapters,
    imported_modules,
    module_statements,
    once,
    parsed,
    uses_of_what_stands_below,
)
from shapes import lone_file

from pixie_web.single import is_type_checking

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "pixie_web"
MAX_CODE_LINES = 12_402  # of all, joined; docs/design.md has why it was raised
MAX_FUNCTION_LINES = 40  # of code, as the next one
MAX_CLASS_LINES = 250
MAX_FILE_LINES = 700  # all of them
TYPES_ONLY = {"typing_extensions"}  # which checkers bring along
OPTIONAL_MODULES = {"uvloop", "orjson", "ujson", "watchfiles"}

# Debts: what is larger than it may be, and how large. These numbers only ever fall.
LARGE_CLASSES: Dict[str, int] = {}
LARGE_FILES: Dict[str, int] = {}

# What a chapter reaches for that is private to another.
PRIVATE_REACHES: Dict[str, Set[str]] = {
    "launch": {"_args_from_interpreter_flags"},  # of subprocess; multiprocessing too
}

# What is no chapter: it is not in the single file.
COMPANIONS = {  # files, and a folder
    *("hosting", "httptools", "servers", "state", "status", "testing"),
    *("devtools", "guard", "http2", "http3", "jobs", "starter"),
}
AROUND = {"__init__", "__main__", "single"}

FOUNDATION = "about errors text cookies datastructures"
PROTOCOL = "protocol/http11 protocol/canonical protocol/multipart"
MESSAGES = "forms sessions requests responses conditional staticfiles"
BASE = "executors/base executors/streams"
POOL = (
    "executors/pool/frames executors/pool/worker executors/pool/zygote "
    "executors/pool/traces executors/pool/links executors/pool/scheduler "
    "executors/pool/recycling executors/pool/supervisor executors/pool/pool"
)
SERVER = (
    "server/proxies server/access server/options server/transport server/exchange "
    "server/insistence server/heads server/http1 server/listeners server/server"
)
# Which chapters a chapter may import, when it runs. Those of its own line too, where
# they stand above it.
LAYERS = {
    FOUNDATION: "",
    "forks": "",
    PROTOCOL: FOUNDATION,
    MESSAGES: f"{FOUNDATION} {PROTOCOL}",
    "templating/compiler templating/templates": FOUNDATION,
    "routing": FOUNDATION,
    BASE: f"{FOUNDATION} requests responses routing",
    "executors/local": f"{FOUNDATION} forks requests responses {BASE}",
    POOL: (
        f"{FOUNDATION} forks protocol/http11 forms sessions requests responses {BASE}"
    ),
    "executors/dispatch": (
        f"{FOUNDATION} requests responses {BASE} executors/local {POOL}"
    ),
    "declaring": (
        f"{FOUNDATION} requests responses staticfiles routing {BASE} "
        "executors/pool/frames executors/dispatch"
    ),
    "handling": f"{FOUNDATION} conditional requests responses {BASE} declaring",
    "middleware": f"{FOUNDATION} {MESSAGES} {BASE}",
    "application": (
        f"{FOUNDATION} {PROTOCOL} {MESSAGES} routing {BASE} executors/local "
        "executors/pool/frames executors/pool/pool executors/dispatch declaring "
        "handling"
    ),
    # The server knows of the application what it is given: `handle`.
    SERVER: f"{FOUNDATION} forks {PROTOCOL} {MESSAGES}",
    "settings": (
        f"{FOUNDATION} {PROTOCOL} requests executors/base executors/pool/frames "
        "server/access server/options server/proxies staticfiles"
    ),
    "launch": (
        f"{FOUNDATION} {PROTOCOL} sessions executors/pool/worker "
        "executors/pool/zygote application"
    ),
    "lifespan": (
        f"{FOUNDATION} forks {PROTOCOL} {POOL} executors/dispatch handling application "
        "settings launch"
    ),
    "watching": "",
    "reloading": (
        f"{FOUNDATION} templating/templates executors/pool/worker server/listeners "
        "settings launch watching"
    ),
    "refreshing": f"{FOUNDATION} requests responses",
    "runner": (
        f"{FOUNDATION} forks executors/pool/links executors/pool/worker application "
        "server/options server/listeners server/server settings lifespan loops "
        "reloading refreshing"
    ),
    "pixie": (
        f"{FOUNDATION} sessions application settings gateways/base gateways/wsgi "
        "gateways/asgi reloading runner"
    ),
    "loops": f"{FOUNDATION} executors/pool/links",
    "gateways/base gateways/wsgi gateways/asgi": (
        f"{FOUNDATION} forks {PROTOCOL} {MESSAGES} executors/local application "
        "server/access server/options server/proxies settings lifespan loops"
    ),
    "loading": f"{FOUNDATION} {POOL} application launch runner pixie",
    "flags": f"{FOUNDATION} settings",
    "cli": f"{FOUNDATION} executors/pool/worker settings reloading pixie loading flags",
    "restarted": (
        f"{FOUNDATION} conditional requests responses executors/pool/worker handling "
        "settings "
        "reloading runner pixie loading cli"
    ),
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


def chapter_names() -> List[str]:
    """Return all files of the package but for companions and what stands around."""
    files = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    names = [path.with_suffix("").as_posix() for path in files]
    outside = COMPANIONS | AROUND
    inside = (n for n in names if n.partition("/")[0] not in outside)
    return sorted(n for n in inside if "__init__" not in n)


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
# The order of the book
# ======================================================================================


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


def type_lines(source: str) -> Set[int]:
    """Return the lines of imports that only a type checker reads."""
    return {
        line
        for node in ast.walk(parsed(source))
        if is_type_checking(node)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)  # type: ignore[attr-defined]
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
    guarded, for_types = guarded_lines(source), type_lines(source)
    return [
        Use(line, name)
        for line, name in imported_modules(source)
        if not name.startswith(".")
        and not is_standard(name.split(".")[0])
        and not (name in OPTIONAL_MODULES and line in guarded)
        and not (name in TYPES_ONLY and line in for_types)
    ]


def test_a_chapter_imports_the_standard_library_only(text: str) -> None:
    assert foreign_imports(text) == []


def test_a_foreign_import_is_found() -> None:
    made_up = dedent(
        """
        import os.path, requests
        from . import sibling
        import uvloop, typing_extensions
        if TYPE_CHECKING:
            from typing_extensions import Unpack
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
        Use(3, "typing_extensions"),
        Use(3, "uvloop"),
        Use(7, "orjson"),
        Use(10, "yaml"),
        Use(12, "uvloop"),
    ]


# ======================================================================================
# What is private
# ======================================================================================


def private_reaches(source: str) -> List[Use]:
    """Return the private names of other chapters that one imports or asks objects for.

    A name is a chapter's own if it binds it anywhere: as a definition, a variable, or
    an attribute; what a class takes from its base is its own as well. Those of `os`,
    and what each named tuple has, are public.
    """
    nodes = list(ast.walk(parsed(source)))
    own = {"_fields", "_asdict", "_replace", "_exit"}
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
    asked = [
        (node.lineno, node.attr)
        for node in nodes
        if isinstance(node, ast.Attribute)
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]
    imported = [
        (node.lineno, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    ]
    return [
        Use(line, name)
        for line, name in sorted(asked + imported)
        if name[0] == "_" and name[:2] != "__" and name not in own
    ]


def test_no_chapter_reaches_for_what_is_private_to_another(
    chapter: str, text: str
) -> None:
    found = {use.name for use in private_reaches(text)}
    assert found == PRIVATE_REACHES.get(chapter, set())


def test_a_private_reach_is_found() -> None:
    made_up = dedent(
        """
        from .text import _hidden, shown
        class A:
            def __init__(self, other):
                self._own = other._theirs
                self.__dict__.update(other._own, fields=A._fields)
        """
    )
    assert private_reaches(made_up) == [Use(1, "_hidden"), Use(4, "_theirs")]


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


IN_ROOMS = [
    path
    for room in ("state", "http2", "http3")
    for path in (PACKAGE / room).glob("*.py")
]


@pytest.mark.parametrize("path", sorted(IN_ROOMS))
def test_a_companion_in_rooms_keeps_the_same_sizes(path: pathlib.Path) -> None:
    source = path.read_text(encoding="utf-8")
    functions, classes = function_lengths(source), class_lengths(source)
    assert {n: c for n, c in functions.items() if c > MAX_FUNCTION_LINES} == {}
    assert {n: c for n, c in classes.items() if c > MAX_CLASS_LINES} == {}
    assert source.count("\n") <= MAX_FILE_LINES
    foreign = {use.name for use in foreign_imports(source)}
    allowed = {"redis", "redis.backoff", "redis.retry"}
    if path.parent.name == "http3":
        assert {name.partition(".")[0] for name in foreign} <= {"aioquic", "pylsqpack"}
    else:
        assert foreign == (allowed if path.stem == "redis_store" else set())


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
