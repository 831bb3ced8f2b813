"""Builds the single file: `python -m pixie_web single [PATH]`.

The chapters of the package, joined in their order into one module that works alone. A
program can join the chapters because they follow rules. Each rule is checked here,
and a line that breaks one is named with its file:

* A chapter begins with its docstring, `from __future__ import annotations`, its other
  imports, and at most one `if TYPE_CHECKING:` block of imports. None follow elsewhere,
  but those of the standard library and of companions inside functions.
* It imports by `import x`, `from x import y` and `from .chapter import y`: no other
  name for anything, no `*`, no module of the package. The chapters stand above it; only
  under TYPE_CHECKING may they be any.
* No two chapters define the same name, and no name has two meanings: neither a
  definition in one chapter and an import in another, nor that of a builtin.
* Code that differs between package and single file asks `LONE` and `ROOT` of `about`. *
A folder's `__init__` holds a docstring and nothing else.

The same chapters give the same bytes, wherever and whenever they are joined.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import hashlib
import os
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

CHAPTERS = """
    about errors forks text cookies datastructures
    protocol/http11 protocol/canonical protocol/multipart
    forms sessions requests responses conditional staticfiles
    templating/compiler templating/templates
    routing
    executors/base executors/streams executors/local
    executors/pool/frames executors/pool/worker executors/pool/zygote
    executors/pool/traces executors/pool/links executors/pool/scheduler
    executors/pool/recycling executors/pool/supervisor executors/pool/pool
    executors/dispatch
    declaring handling middleware application
    server/proxies server/access server/options server/transport server/exchange
    server/insistence server/heads server/http1 server/listeners server/server
    settings launch lifespan loops
    gateways/base gateways/wsgi gateways/asgi
    watching reloading refreshing runner pixie
    loading flags cli restarted
""".split()

PACKAGE = Path(__file__).resolve().parent
LINE_CHARACTERS = 88
RULE = "# " + "=" * (LINE_CHARACTERS - 2) + "\n"

HEADER = """\
# pixie_web {version}, all of it in one file. Built by `python -m pixie_web single` from
# the chapters of the package, and not to be edited: change those, and build it again.
# Their SHA-256: {digest}
"""
FOOTER = """\
if __name__ == "__main__":
    # The program imports `pixie_web`: that must be this module, not a second copy.
    sys.modules["pixie_web"] = sys.modules["__main__"]
    sys.exit(main())
"""


class BrokenRule(Exception):
    """A chapter can't be joined with the others."""

    def __init__(self, file: str, line: int, rule: str) -> None:
        super().__init__(f"{file}, line {line}: {rule}")


class Import(NamedTuple):
    """One name that a chapter imports at its top.

    Attributes:
        module: where from; a chapter's name if `is_chapter`.
        member: the name; "" for the module itself.
        for_types: it stands under TYPE_CHECKING.
    """

    line: int
    module: str
    member: str
    is_chapter: bool
    for_types: bool

    @property
    def name(self) -> str:
        """Return the name that it binds, e.g. `os` for `import os.path`."""
        return self.member or self.module.partition(".")[0]


class Chapter:
    """The text of one chapter, taken apart.

    Args:
        name: with its folders, "protocol/http11".
        source: its text.

    Attributes:
        docstring: what it is about.
        imports: those at its top.
        definitions: the lines on which its own names are bound.
        body: its text below the imports.

    Raises:
        BrokenRule: it does not begin as a chapter does, or imports in another way.
    """

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.file = f"pixie_web/{name}.py"
        tree = parse(self.file, source)
        docstring = ast.get_docstring(tree)
        if docstring is None:
            raise self.broken(1, "a chapter begins with its docstring")
        self.docstring = docstring
        self.imports: List[Import] = []
        last, *rest = tree.body
        while rest and (is_import(rest[0]) or is_type_checking(rest[0])):
            last = rest.pop(0)
            self.imports += self._read(last)
        if Import(0, "__future__", "annotations", False, False) not in (
            one._replace(line=0) for one in self.imports
        ):
            raise self.broken(1, "no `from __future__ import annotations` at its top")
        self.statements = rest
        self.body = "".join(source.splitlines(True)[last.end_lineno :]).strip("\n")
        self.definitions = dict(bindings(rest))
        self._check_nested(rest)

    def broken(self, line: int, rule: str) -> BrokenRule:
        """Return the error that names the chapter and the line."""
        return BrokenRule(self.file, line, rule)

    def _read(self, statement: ast.stmt, for_types: bool = False) -> Iterator[Import]:
        if isinstance(statement, ast.If):
            for one in statement.body:
                yield from self._read(one, True)
            if statement.orelse or not all(map(is_import, statement.body)):
                line = statement.lineno
                raise self.broken(line, "under TYPE_CHECKING stand imports alone")
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            for alias in statement.names:
                yield self._read_name(statement, alias, for_types)

    def _read_name(
        self, statement: ast.stmt, alias: ast.alias, for_types: bool
    ) -> Import:
        line = statement.lineno
        if alias.asname or alias.name == "*":
            raise self.broken(line, f"import {alias.name} by its own name")
        if isinstance(statement, ast.Import):
            return Import(line, alias.name, "", False, for_types)
        assert isinstance(statement, ast.ImportFrom)
        module = statement.module or ""
        if not statement.level:
            return Import(line, module, alias.name, False, for_types)
        folders = self.name.split("/")[: -statement.level]
        chapter = "/".join([*folders, *module.split(".")])
        if statement.level > self.name.count("/") + 1 or chapter not in CHAPTERS:
            raise self.broken(line, "write from .chapter import name")
        return Import(line, chapter, alias.name, True, for_types)

    def _check_nested(self, statements: Sequence[ast.stmt]) -> None:
        """Refuse imports below the top that would not work in a single file."""
        for statement in statements:
            if is_import(statement):
                raise self.broken(statement.lineno, "imports stand at the top")
            for node in ast.walk(statement):
                if isinstance(node, ast.ImportFrom) and node.level:
                    rule = "no chapter is imported inside a function"
                    raise self.broken(node.lineno, rule)
                if (
                    isinstance(node, ast.Name)
                    and node.id == "__package__"
                    and self.name != "about"
                ):
                    raise self.broken(node.lineno, "ask ROOT, not __package__")


def parse(file: str, source: str) -> ast.Module:
    """Return the syntax tree of a file."""
    try:
        return ast.parse(source)
    except SyntaxError as error:
        rule = f"not valid Python: {error.msg}"
        raise BrokenRule(file, error.lineno or 1, rule) from None


def is_import(statement: ast.AST) -> bool:
    """Tell whether a statement imports."""
    return isinstance(statement, (ast.Import, ast.ImportFrom))


def is_type_checking(statement: ast.AST) -> bool:
    """Tell whether a statement is an `if TYPE_CHECKING:` that begins with an import."""
    return (
        isinstance(statement, ast.If)
        and isinstance(statement.test, ast.Name)
        and statement.test.id == "TYPE_CHECKING"
        and is_import(statement.body[0])
    )


def bindings(statements: Sequence[ast.stmt]) -> Iterator[Tuple[str, int]]:
    """Yield the names that the statements of a module bind, and the line of each."""
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement.name, statement.lineno
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = getattr(statement, "targets", None) or [
                getattr(statement, "target", None)
            ]
            for target in targets:
                for node in ast.walk(target):
                    if isinstance(node, ast.Name):
                        yield node.id, statement.lineno
        else:
            for field in ("body", "orelse", "finalbody"):
                yield from bindings(getattr(statement, field, []))


# The book as a whole ------------------------------------------------------------------


class Book:
    """All chapters, which keep the rules.

    Args:
        package: the directory that holds them.

    Raises:
        BrokenRule: one of them does not.
        OSError: one of them is not there.
    """

    def __init__(self, package: Path = PACKAGE) -> None:
        self.sources: Dict[str, str] = {}
        self.folders: Dict[str, str] = {}  # the docstring of each
        self.opening = self._read(package, "__init__")
        self.chapters: List[Chapter] = []
        for name in CHAPTERS:
            for folder in folders_of(name):
                if folder not in self.folders:
                    self.folders[folder] = self._read_folder(package, folder)
            self.chapters.append(Chapter(name, self._read(package, name)))
        self.check()

    def _read(self, package: Path, name: str) -> str:
        self.sources[name] = (package / f"{name}.py").read_text("utf-8")
        return self.sources[name]

    def _read_folder(self, package: Path, folder: str) -> str:
        source = self._read(package, f"{folder}/__init__")
        file = f"pixie_web/{folder}/__init__.py"
        tree = parse(file, source)
        docstring = ast.get_docstring(tree)
        if docstring is None or len(tree.body) > 1:
            line = tree.body[-1].lineno if tree.body else 1
            raise BrokenRule(file, line, "a folder's __init__ is its docstring alone")
        return docstring

    def check(self) -> None:
        """Check the rules that concern more than one chapter."""
        home: Dict[str, Chapter] = {}
        for chapter in self.chapters:
            for name, line in chapter.definitions.items():
                if name in home:
                    rule = f"{name} is defined in {home[name].file} already"
                    raise chapter.broken(line, rule)
                if hasattr(builtins, name):
                    raise chapter.broken(line, f"{name} is a builtin's name")
                home[name] = chapter
        meanings: Dict[str, Tuple[str, str]] = {}
        above: Set[str] = set()
        for chapter in self.chapters:
            for one in chapter.imports:
                self._check_import(chapter, one, home, above)
                meaning = one.name if not one.member else one.module, one.member
                if not one.is_chapter and meanings.setdefault(one.name, meaning) != (
                    meaning
                ):
                    rule = f"{one.name} has another meaning in another chapter"
                    raise chapter.broken(one.line, rule)
            above.add(chapter.name)
        if "LONE = False" not in self.chapters[0].body.splitlines():
            raise self.chapters[0].broken(1, "the line `LONE = False` is not there")

    def _check_import(
        self, chapter: Chapter, one: Import, home: Dict[str, Chapter], above: Set[str]
    ) -> None:
        if not one.is_chapter:
            if one.name in home:
                rule = f"{one.name} is defined in {home[one.name].file}"
                raise chapter.broken(one.line, rule)
        elif one.name not in home or home[one.name].name != one.module:
            rule = f"{one.name} is not defined in pixie_web/{one.module}.py"
            raise chapter.broken(one.line, rule)
        elif one.module not in above and not one.for_types:
            rule = f"pixie_web/{one.module}.py does not stand above it"
            raise chapter.broken(one.line, rule)

    @property
    def version(self) -> str:
        """Return what `__version__` is set to."""
        for statement in self.chapters[0].statements:
            if "__version__" in dict(bindings([statement])):
                return str(ast.literal_eval(statement.value))  # type: ignore[attr-defined]
        raise self.chapters[0].broken(1, "no __version__")

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all sources, which names what a file was built from."""
        digest = hashlib.sha256()
        for name, source in self.sources.items():
            data = source.encode("utf-8")
            digest.update(f"{name} {len(data)}\n".encode() + data)
        return digest.hexdigest()

    def join(self) -> str:
        """Return the text of the single file."""
        docstring, names = self._front()
        parts = [
            HEADER.format(version=self.version, digest=self.digest) + docstring,
            "\nfrom __future__ import annotations\n\n",
            f"{names}\n",
            merge([one for chapter in self.chapters for one in chapter.imports]),
        ]
        seen: Set[str] = set()
        for chapter in self.chapters:
            for folder in folders_of(chapter.name):
                if folder not in seen:
                    seen.add(folder)
                    parts.append("\n\n" + banner(f"{folder}/", self.folders[folder]))
            body = chapter.body
            if chapter.name == CHAPTERS[0]:
                body = f"\n{body}\n".replace("\nLONE = False\n", "\nLONE = True\n")
                body = body.strip("\n")
            blank = "\n" if isinstance(chapter.statements[0], ast.Assign) else "\n\n"
            top = banner(chapter.name, chapter.docstring)
            parts.append(f"\n\n{top}{blank}{body}\n")
        return "".join([*parts, "\n\n", FOOTER])

    def _front(self) -> Tuple[str, str]:
        """Return the package's docstring and its `__all__`, as they stand there."""
        file = "pixie_web/__init__.py"
        tree, lines = parse(file, self.opening), self.opening.splitlines(True)
        first = "".join(lines[: tree.body[0].end_lineno])
        for statement in tree.body:
            if "__all__" in dict(bindings([statement])):
                found = lines[statement.lineno - 1 : statement.end_lineno]
                return first, "".join(found)
        raise BrokenRule(file, 1, "no __all__")


def folders_of(name: str) -> List[str]:
    """Return the folders above a chapter, the outermost first."""
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def banner(title: str, docstring: str) -> str:
    """Return the comment that stands above a chapter."""
    text = textwrap.indent(docstring, "# ", lambda line: True)
    lines = [line.rstrip() for line in text.splitlines()]
    return f"{RULE}# {title}\n{RULE}" + "\n".join(lines) + "\n"


def merge(imports: Sequence[Import]) -> str:
    """Return one block of the imports that remain in a single file."""
    running: Set[Tuple[str, str]] = set()
    for_types: Set[Tuple[str, str]] = set()
    for one in imports:
        if not one.is_chapter and one.module != "__future__":
            goal = for_types if one.for_types else running
            goal.add((one.module, one.member))
    text = import_lines(running)
    for_types -= running
    if for_types:
        # What checkers bring along stands apart, as linters want it.
        foreign = {one for one in for_types if one[0] == "typing_extensions"}
        parts = filter(None, map(import_lines, (for_types - foreign, foreign)))
        block = textwrap.indent("\n".join(parts), "    ")
        text += f"\nif TYPE_CHECKING:\n{block}"
    return text


def import_lines(names: Set[Tuple[str, str]]) -> str:
    """Return import statements, sorted as linters want them."""
    lines = [f"import {module}\n" for module, member in sorted(names) if not member]
    members: Dict[str, List[str]] = {}
    for module, member in names:
        if member:
            members.setdefault(module, []).append(member)
    for module, found in sorted(members.items()):
        # Constants first, then classes, then all else.
        found.sort(key=lambda name: (not name.isupper(), name[0].islower(), name))
        line = f"from {module} import {', '.join(found)}\n"
        if len(line) > LINE_CHARACTERS:
            line = f"from {module} import (\n    " + ",\n    ".join(found) + ",\n)\n"
        lines.append(line)
    return "".join(lines)


# Writing it ---------------------------------------------------------------------------


def replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; another one in its place is left until then."""
    path = Path(os.path.realpath(path))
    mode = 0o666 & ~current_umask()
    descriptor, temporary = tempfile.mkstemp(".tmp", f".{path.name}.", str(path.parent))
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def current_umask() -> int:
    """Return the bits that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Build the single file; return the exit status, 1 after a line that says why."""
    parser = argparse.ArgumentParser(
        "pixie_web single", description="Build pixie_web.py, which works alone."
    )
    parser.add_argument(
        "path",
        nargs="?",
        default="pixie_web.py",
        help="the file to write, pixie_web.py by default; - for standard output",
    )
    path = parser.parse_args(arguments).path
    try:
        data = Book().join().encode("utf-8")
        if path == "-":
            sys.stdout.buffer.write(data)
        else:
            replace(Path(path), data)
    except (BrokenRule, OSError) as problem:
        print(f"pixie_web: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
