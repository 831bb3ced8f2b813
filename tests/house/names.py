"""Names in a source: where each is defined, used and imported.

The compiler knows best which names are global: LOAD_GLOBAL in a function, LOAD_NAME
in a class body or at the top. Annotations do not appear: nothing evaluates them.
"""

from __future__ import annotations

import ast
import bisect
import dis
import functools
import types
from typing import Dict, Iterator, List, NamedTuple, Set, Tuple

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


# Order --------------------------------------------------------------------------------


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


# Imports ------------------------------------------------------------------------------


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


def imported_modules(source: str) -> List[Use]:
    """Return (line, module) of every import; a relative one starts with dots."""
    found = []
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            found += [Use(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(Use(node.lineno, "." * node.level + (node.module or "")))
    return found
