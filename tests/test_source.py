"""The architecture as a test: core.py is a book, and stays one.

Each rule is a function from a source text to a list of violations, so that it can be
tried on a made-up source that breaks it before it is trusted with the real one.
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
import re
import subprocess
import sys
import sysconfig
import textwrap
import tokenize
import types
from typing import Dict, Iterator, List, NamedTuple, Set, Tuple

import pytest

# Not imported here: the rules are about the text, also of a core that fails to import.
CORE = pathlib.Path(__file__).resolve().parent.parent / "pixie_web" / "core.py"
MAX_CODE_LINES = 7_830  # of the whole file; raising it is noted in docs/design.md
MAX_FUNCTION_LINES = 40
OPTIONAL_MODULES = {"uvloop", "orjson", "ujson"}

# Which sections the code of a section may use, besides its own and the front matter.
MAY_USE: Dict[int, Set[int]] = {
    1: set(),
    2: {1},
    3: {1, 2},
    4: {1, 2, 3},
    5: {1, 2, 3, 4},
    6: {1, 2, 3, 4},
    7: {1, 2, 3, 4, 5, 6},
    8: {1, 2, 3, 4, 5, 7},
    9: {1, 2, 3, 8},
    10: {1, 2, 3},
    11: {1, 2, 3, 4, 5, 7, 8},
    12: {1, 2, 3, 7, 8, 9, 10, 11},
    13: {1, 2, 3, 4, 5, 7, 8},  # of 12 only the method `handle`
    14: set(range(1, 14)),
}
# What is imported in section 1 for all, and is still not for these sections.
IO_MODULES = {"asyncio", "select", "selectors", "signal", "socket", "ssl", "subprocess"}
NO_IO = {2, 3, 4, 5, 9, 10}

# What only some programs need must not be paid for by all.
COSTLY_MODULES = {
    "logging.handlers",
    "mimetypes",
    "multiprocessing",
    "pickle",
    "tempfile",
}
# What the core cannot do without, with all that these modules bring along.
CHEAP_MODULES = "asyncio base64 enum hashlib hmac html json logging re socket typing"


@pytest.fixture(scope="module")
def source() -> str:
    return CORE.read_text(encoding="utf-8")


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
        for code in code_objects(compile(source, "core.py", "exec"))
        for use in global_names(code)
    }
    return sorted(use for use in found if use.name in known and use.line not in exempt)


# ======================================================================================
# Sections
# ======================================================================================


class Section(NamedTuple):
    number: int
    title: str
    line: int


@once
def sections(source: str) -> List[Section]:
    """Return the sections that the three-line banners announce."""
    banner = re.compile(r"^# =+\n# (\d+)\. (.+)\n# =+$", re.MULTILINE)
    return [
        Section(
            int(found.group(1)),
            found.group(2),
            source.count("\n", 0, found.start()) + 1,
        )
        for found in banner.finditer(source)
    ]


def section_map(source: str) -> List[Tuple[int, str]]:
    """Return the numbers and titles that the module docstring lists."""
    docstring = ast.get_docstring(parsed(source), clean=False) or ""
    entries = re.findall(r"^ *(\d+)\. (.+)$", docstring, re.MULTILINE)
    return [(int(number), title) for number, title in entries]


def section_of(line: int, book: List[Section]) -> int:
    """Return the number of the section in which a line stands; 0 is front matter."""
    return max((s.number for s in book if s.line <= line), default=0)


def test_the_banners_are_the_map_in_the_docstring(source: str) -> None:
    assert [(s.number, s.title) for s in sections(source)] == section_map(source)


def test_the_sections_are_numbered_one_after_the_other(source: str) -> None:
    assert [s.number for s in sections(source)] == sorted(MAY_USE)


def test_every_banner_has_the_three_lines_of_full_width(source: str) -> None:
    rules = re.findall(r"^# ={5,}$", source, re.MULTILINE)
    assert rules == ["# " + "=" * 86] * (2 * len(sections(source)))


def test_sections_and_map_are_read_from_a_source() -> None:
    made_up = '"""Map.\n\n     1. One\n    12. A, b and c()\n"""\n' + (
        "# ===\n# 1. One\n# ===\n\n\n# ===\n# 12. A, b and c()\n# ===\nx = 1\n"
    )
    assert sections(made_up) == [Section(1, "One", 6), Section(12, "A, b and c()", 11)]
    assert section_map(made_up) == [(1, "One"), (12, "A, b and c()")]
    assert [section_of(n, sections(made_up)) for n in (1, 7, 14)] == [0, 1, 12]


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

    Two functions or classes of one section that call each other have no such order.
    """
    known, book, chapters = definitions(source), owners(source), sections(source)
    graph: Dict[str, Set[str]] = {}
    for use in uses(source):
        graph.setdefault(owner_of(use.line, book), set()).add(use.name)
    found = []
    for use in uses(source):
        first = known[use.name][0]
        if use.line < first and (
            owner_of(use.line, book) not in reachable(use.name, graph)
            or section_of(use.line, chapters) != section_of(first, chapters)
        ):
            found.append(use)
    return found


def names_bound_in_two_sections(source: str) -> List[str]:
    """Return the names that a later section binds anew, which would hide the order."""
    book = sections(source)
    return [
        name
        for name, lines in definitions(source).items()
        if len({section_of(line, book) for line in lines}) > 1
    ]


def test_nothing_is_used_above_its_definition(source: str) -> None:
    assert uses_of_what_stands_below(source) == []


def test_no_name_is_bound_in_two_sections(source: str) -> None:
    assert names_bound_in_two_sections(source) == []


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


def test_mutual_recursion_is_no_forward_use_but_inside_one_section_only() -> None:
    first, second = "def f():\n    return g()\n", "def g():\n    return f()\n"
    banner = "# ===\n# 2. Two\n# ===\n"
    assert uses_of_what_stands_below(first + second) == []
    assert uses_of_what_stands_below(first + banner + second) == [Use(2, "g")]
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


def test_a_name_that_is_bound_again_in_a_later_section_is_found() -> None:
    made_up = "# ===\n# 1. A\n# ===\nx = y = 1\nx = 2\n# ===\n# 2. B\n# ===\ny = 2\n"
    assert names_bound_in_two_sections(made_up) == ["y"]


# ======================================================================================
# The layers
# ======================================================================================


def layer_violations(source: str, may_use: Dict[int, Set[int]]) -> List[str]:
    """Return "section 2 uses x of section 1, line 7" for each forbidden use."""
    book, known = sections(source), definitions(source)
    found = []
    for use in uses(source):
        here = section_of(use.line, book)
        there = section_of(known[use.name][0], book)
        if there not in {0, here} | may_use.get(here, set()):
            found.append(
                f"section {here} uses {use.name} of section {there}, line {use.line}"
            )
    return found


def modules_touched(source: str, wanted: Set[int]) -> Set[Tuple[int, str]]:
    """Return (section, module) for all that the code of the wanted sections touches."""
    book = sections(source)
    touched = {(section_of(use.line, book), use.name) for use in uses(source)}
    touched |= {
        (section_of(line, book), name.split(".")[0])
        for line, name in imported_modules(source)
    }
    return {(section, name) for section, name in touched if section in wanted}


def test_each_section_uses_only_the_layers_it_may(source: str) -> None:
    assert layer_violations(source, MAY_USE) == []


def test_the_sections_without_io_touch_no_module_that_does_io(source: str) -> None:
    touched = modules_touched(source, NO_IO)
    assert sorted(item for item in touched if item[1] in IO_MODULES) == []


LAYERED = dedent(
    """
    import socket
    front = 1
    # ===
    # 1. One
    # ===
    a = front
    # ===
    # 2. Two
    # ===
    def b():
        return a
    # ===
    # 3. Three
    # ===
    def c(x: a):
        import ssl.more
        return b() + socket.AF_INET
    """
)


def test_a_use_of_a_forbidden_layer_is_found() -> None:
    assert layer_violations(LAYERED, {2: {1}, 3: {1, 2}}) == []
    assert layer_violations(LAYERED, {3: {1}}) == [
        "section 2 uses a of section 1, line 11",
        "section 3 uses b of section 2, line 17",
    ]


def test_modules_are_found_whether_imported_at_the_top_or_where_used() -> None:
    touched = modules_touched(LAYERED, {2, 3})
    assert touched == {(2, "a"), (3, "b"), (3, "socket"), (3, "ssl")}


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
        if not is_standard(name.split(".")[0])
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


def test_the_core_imports_the_standard_library_only(source: str) -> None:
    assert foreign_imports(source) == []


def test_the_core_imports_what_is_costly_only_where_it_is_used(source: str) -> None:
    assert costly_imports(source) == []


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
        Use(2, "."),
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


def test_no_function_is_longer_than_a_screen(source: str) -> None:
    lengths = function_lengths(source)
    assert {n: c for n, c in lengths.items() if c > MAX_FUNCTION_LINES} == {}


def test_the_core_is_shorter_than_its_limit(source: str) -> None:
    assert len(code_lines(source)) <= MAX_CODE_LINES


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


def test_every_public_name_exists(source: str) -> None:
    assert undefined_public_names(source) == []


def test_no_public_name_is_listed_twice(source: str) -> None:
    assert sorted(public_names(source)) == sorted(set(public_names(source)))


def test_what_is_public_has_a_docstring(source: str) -> None:
    assert undocumented(source) == []


def test_the_package_is_the_public_names_of_the_core_and_nothing_else() -> None:
    import pixie_web
    from pixie_web import core

    names = {
        name
        for name, value in vars(pixie_web).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert names == {name for name in core.__all__ if not name.startswith("_")}
    assert sorted(pixie_web.__all__) == sorted(core.__all__)
    assert all(getattr(pixie_web, n) is getattr(core, n) for n in core.__all__)


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


def test_importing_the_core_changes_nothing_but_the_modules() -> None:
    changed, _ = effects_of("import pixie_web.core")
    assert changed == []


def test_importing_the_core_loads_nothing_costly() -> None:
    baseline = "import " + CHEAP_MODULES.replace(" ", ", ")
    _, modules = effects_of("import pixie_web.core", baseline)
    assert "pixie_web.core" in modules
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
