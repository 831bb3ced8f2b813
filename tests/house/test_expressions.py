"""Every regular expression of the project, and the texts that it is slowest with.

Each has a line in the table: the text that it reads, and the most that there may be of
it. One that has no line fails a test, wherever it is written. The worst texts are made
from the expression, and steps are counted, not time: twice the text, twice the steps.
"""

from __future__ import annotations

import ast
import functools
import importlib
import itertools
import pathlib
import re
from typing import Any, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

import pytest
from backtracking import CHARACTERS, Hostile, Matcher, TooManySteps, hostile_texts

import pixie_web
from pixie_web import RouteError, single
from pixie_web.devtools import MAX_LINE_CHARACTERS, MAX_MESSAGE_CHARACTERS
from pixie_web.protocol.http11 import (
    MAX_CHUNK_LINE_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADER_LINE_BYTES,
    MAX_REQUEST_LINE_BYTES,
)
from pixie_web.protocol.multipart import FORM_LIMITS
from pixie_web.routing import _FILTERS, MAX_NUMBER_DIGITS, Pattern
from pixie_web.staticfiles import _UNSAFE_NAME, _UNSAFE_ON_WINDOWS
from pixie_web.templating.compiler import _template_patterns
from pixie_web.templating.templates import TEMPLATE_SYNTAX

PACKAGE = pathlib.Path(pixie_web.__file__).parent
# All but the builder of the single file, which reads no text of a client's.
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "single.py")
CHAPTERS = [
    importlib.import_module("pixie_web." + name.replace("/", "."))
    for name in [*single.CHAPTERS, "status", "devtools"]
]
VALUES_BY_NAME = {k: v for one in CHAPTERS for k, v in vars(one).items()}
MOST_COUNTED = 8_192  # characters; with more it would take long to count, not to match


# ======================================================================================
# The table
# ======================================================================================


class Text(NamedTuple):
    """What an expression reads: how many characters there may be, and which."""

    longest: int
    alphabet: str = r"[\s\S]"
    growth: float = 2.3  # of the steps, for twice the text
    steps: int = 64  # for each character, at most

    def characters(self) -> FrozenSet[str]:
        return frozenset(c for c in CHARACTERS if re.match(self.alphabet, c))


class Use(NamedTuple):
    how: str  # see Matcher.count
    text: Text
    patterns: Optional[Callable[[], List[re.Pattern[Any]]]] = None  # if not by its name


PRINTABLE = r"[\t -~\x80-\xff]"  # what is left of a head when its lines are proved
HEAD = Text(MAX_HEAD_BYTES, r"[\x00-\xff]")
LINE = Text(MAX_HEADER_LINE_BYTES, r"[\x00-\xff]")
PROVED_HEAD = Text(MAX_HEAD_BYTES, r"[\t\r\n -~\x80-\xff]")
VALUE = Text(MAX_HEADER_LINE_BYTES, PRINTABLE)
VALUES = Text(MAX_HEAD_BYTES, PRINTABLE)  # of several lines, joined
TARGET = Text(MAX_REQUEST_LINE_BYTES, "[!-~]")
PATH = Text(MAX_REQUEST_LINE_BYTES)  # decoded
# A number may begin anywhere, and has up to 40 digits. There are a hundred patterns: of
# 8190 characters each, an eighth is counted.
ROUTED = Text(MAX_REQUEST_LINE_BYTES // 8, steps=20 * MAX_NUMBER_DIGITS)
CHUNK_LINE = Text(MAX_CHUNK_LINE_BYTES, PRINTABLE)
PART_HEAD = Text(FORM_LIMITS.max_part_head_bytes)
FIELD = Text(FORM_LIMITS.max_field_bytes, r"[\x00-\xff]")
FORM = Text(FORM_LIMITS.max_form_bytes, r"[\x00-\xff]")
ANSWER = Text(MAX_HEAD_BYTES)  # a header that a handler sets
TEMPLATE = Text(100_000)
MESSAGE = Text(8_000)  # of an exception
SHOWN = Text(MAX_LINE_CHARACTERS, growth=4.6)  # on the debug page
SHOWN_MESSAGE = Text(MAX_MESSAGE_CHARACTERS, steps=1_000)
# What the program's author writes is its own, and short: here a square may be. A filter
# in a path (`<name:re:...>`, `app.filter`) is the author's too, and read by `re` as it
# is: nothing here is known of it.
DECLARED = Text(100, growth=4.6)
TEMPLATE_LINE = Text(200, growth=4.6)  # of which quotes are left open


def compiled(*sources: str) -> Callable[[], List[re.Pattern[Any]]]:
    return lambda: [re.compile(source) for source in sources]


def template_patterns() -> List[re.Pattern[Any]]:
    return list(_template_patterns(TEMPLATE_SYNTAX))


NONE = compiled()
BY_NAME: Dict[str, Use] = {
    "_ALLOWED_HOST": Use("fullmatch", DECLARED._replace(growth=2.3)),
    "_ABSOLUTE_FORM": Use("fullmatch", TARGET),
    "_AFTER_BOUNDARY": Use("match", FIELD),
    "_AMBIGUOUS": Use("search", DECLARED),
    "_BACKREFERENCE": Use("search", DECLARED),
    "_BAD_IN_LINE": Use("search", LINE),
    "_BAD_IN_REQUEST_LINE": Use("search", LINE),
    "_BOUNDARY": Use("fullmatch", VALUE),
    "_CHUNK_LINE": Use("fullmatch", CHUNK_LINE),
    "_CHUNK_START": Use("match", LINE),
    "CODED": Use("search", ANSWER),
    "_COMMON_HEAD": Use("fullmatch", PART_HEAD),
    "_COMPRESSIBLE": Use("match", ANSWER),
    "_CONTROL": Use("each", MESSAGE),
    "_CONTENT_LENGTH": Use("fullmatch", VALUES),
    "_DNS_NAME": Use("fullmatch", VALUES),
    "_COOKIE_DOMAIN": Use("fullmatch", ANSWER),
    "_DOT_FILE": Use("search", PATH),
    "_COOKIE_LINE": Use("fullmatch", LINE),
    "_LENGTH_LINE": Use("search", HEAD),
    "_DECIDING_LINE": Use("each", PROVED_HEAD),
    "ENTITY_TAG": Use("each", VALUES),
    "_CODED_BODY": Use("search", ANSWER),
    "_FORWARDED_PAIR": Use("follow", VALUES),
    "_HEAD": Use("fullmatch", HEAD),
    "_HEADER_BLOCK": Use("fullmatch", ANSWER),
    "_HEADER_NAME": Use("match", LINE),
    "_HOST": Use("fullmatch", VALUES),
    "_HTML": Use("search", ANSWER),
    "_CODED_PAGE": Use("search", ANSWER),
    "_HTTP_DATE": Use("fullmatch", VALUES),
    "_ITEM": Use("each", DECLARED),
    "_LONE_RETURN": Use("each", TEMPLATE),
    "_NEXT_RECORD": Use("search", MESSAGE),
    "_ORIGIN": Use("fullmatch", VALUES),
    "_NOT_LITERAL": Use("search", DECLARED),
    "_OF_CONTENT": Use("each", ANSWER),
    "_PARAMETER": Use("follow", VALUE),
    "_PART_HEAD": Use("fullmatch", PART_HEAD),
    "_PERCENT": Use("each", FORM),
    "_QUALITY": Use("fullmatch", VALUES),
    "_RANGE": Use("fullmatch", VALUES),
    "REPLACED": Use("each", ANSWER),
    "_REQUEST_ID": Use("fullmatch", VALUES),
    "_REQUEST_LINE": Use("fullmatch", LINE),
    "_RESERVED_ON_WINDOWS": Use("fullmatch", PART_HEAD),
    "_ROOT_PATH": Use("fullmatch", VALUE),
    "_RULING_HEADER": Use("each", PROVED_HEAD),
    "SECRET_IN_CALL": Use("each", SHOWN),
    "SECRET_IN_SOURCE": Use("each", SHOWN),
    "SECRET_IN_TEXT": Use("each", SHOWN_MESSAGE),
    "SECRET_IN_URL": Use("each", SHOWN_MESSAGE),
    "SECRET_NAME": Use("search", SHOWN),
    "_TOKEN": Use("fullmatch", VALUES),
    "_UNPRINTABLE": Use("each", HEAD),
    "_UNSAFE_IN_FILENAME": Use("each", PART_HEAD),
    "_USUAL_LINE": Use("fullmatch", LINE),
    "UNSAFE_IN_HEADER": Use("search", ANSWER),
    "_WILDCARD": Use("each", DECLARED),
}
# Those that are written where they are used, by the function and the argument.
BY_CALL: Dict[Tuple[str, str], Use] = {
    ("LazyExpression.__getattr__", "*self._source"): Use("match", VALUE, NONE),
    ("Pattern.__init__", "source"): Use("fullmatch", PATH, NONE),  # see below
    # The program's own filters, and texts of its own for `url_for`.
    ("Pattern.build", "filter_.expression"): Use("fullmatch", DECLARED, NONE),
    ("_check_expression", "expression"): Use("match", DECLARED, NONE),
    ("compile_template", r'r"(?<= on line )[0-9]{1,9}\Z"'): Use(
        "each", MESSAGE, compiled(r"(?<= on line )[0-9]{1,9}\Z")
    ),
    ("_expressions", '"[^/]"'): Use("each", DECLARED, compiled("[^/]")),
    ("_expressions", '"s[^/]*s$"'): Use("search", DECLARED, compiled("s[^/]*s$")),
    ("_forwarded_hops", r'r"\\(.)"'): Use("each", VALUES, compiled(r"\\(.)")),
    ("_template_patterns", "inline"): Use(
        "each", TEMPLATE_LINE, lambda: template_patterns()[2:]
    ),
    ("_template_patterns", "starts"): Use(
        "each", TEMPLATE, lambda: template_patterns()[:1]
    ),
    ("_template_patterns", "tokens"): Use(
        "each", TEMPLATE_LINE, lambda: template_patterns()[1:2]
    ),
    ("_Translator.emit", r'r"\r?\n"'): Use("each", TEMPLATE, compiled(r"\r?\n")),
    ("_Translator.write_text", r'r"\\\\\r?\n\Z"'): Use(
        "each", TEMPLATE, compiled(r"\\\\\r?\n\Z")
    ),
    ("_unbound_name", r'''r"(?:local|free) variable '(\w+)'"'''): Use(
        "search", MESSAGE, compiled(r"(?:local|free) variable '(\w+)'")
    ),
    ("content_disposition", r'r"[/\\]"'): Use("each", PATH, compiled(r"[/\\]")),
    ("content_disposition", """r'[^ -~]|["%]\'"""): Use(
        "each", PATH, compiled(r'[^ -~]|["%]')
    ),
    ("is_safe_name", "_UNSAFE_ON_WINDOWS if windows else _UNSAFE_NAME"): Use(
        "search", PATH, compiled(_UNSAFE_NAME, _UNSAFE_ON_WINDOWS)
    ),
    ("make", r'r"\w[\w.-]*"'): Use("fullmatch", DECLARED, compiled(r"\w[\w.-]*")),
    ("mount", 'r"(/[^/<>]+)+"'): Use("fullmatch", DECLARED, compiled(r"(/[^/<>]+)+")),
    ("safe_filename", r'r"[/\\]"'): Use("each", PART_HEAD, compiled(r"[/\\]")),
}


def cases() -> List[Any]:
    """Return (how, what it reads, expression) of all in the table."""
    found = [
        (name, use, VALUES_BY_NAME[name].fullmatch.__self__)
        for name, use in BY_NAME.items()
    ]
    for (function, _), use in BY_CALL.items():
        found += [(function, use, pattern) for pattern in (use.patterns or NONE)()]
    return [
        pytest.param(use.how, use.text, pattern, id=f"{number} {name}")
        for number, (name, use, pattern) in enumerate(found)
    ]


# ======================================================================================
# That none is missing
# ======================================================================================

COMPILERS = {"compile", "match", "fullmatch", "search", "sub", "subn"}
COMPILERS |= {"split", "findall", "finditer", "template"}
HARMLESS = {"escape", "error", "Pattern", "Match", "purge"}


class Finder(ast.NodeVisitor):
    """Finds what makes an expression, and where `re` hides behind another name."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.where: List[str] = []
        self.named: List[str] = []  # at the top, by the name that they get
        self.called: List[Tuple[str, str]] = []
        self.hidden: List[str] = []
        self.visit(ast.parse(source))

    def visit_FunctionDef(self, node: Any) -> None:
        self.where.append(node.name)
        self.generic_visit(node)
        self.where.pop()

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.dump(node.test):
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        call = node.value
        at_the_top = not self.where and isinstance(call, ast.Call)
        if at_the_top and self.compiles(call.func):  # type: ignore[attr-defined]
            self.named += [ast.dump(node.targets[0]).split("'")[1]]
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if self.compiles(node.func):
            first = node.args[0] if node.args else node.keywords[0].value
            text = ast.get_source_segment(self.source, first) or ""
            self.called.append((".".join(self.where), text))
            for child in [*node.args, *node.keywords]:
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        of_re = isinstance(node.value, ast.Name) and node.value.id == "re"
        if of_re and not node.attr.isupper() and node.attr not in HARMLESS:
            self.hidden.append(f"re.{node.attr}")
        elif not of_re:
            self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in ("re", "LazyExpression"):
            self.hidden.append(node.id)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.hidden += ["import from re"] * (node.module == "re")

    def visit_Import(self, node: ast.Import) -> None:
        self.hidden += [
            f"re as {alias.asname}"
            for alias in node.names
            if alias.name == "re" and alias.asname
        ]

    @staticmethod
    def compiles(function: ast.expr) -> bool:
        """Return whether this is expression(...), LazyExpression(...) or re.x(...)."""
        if isinstance(function, ast.Attribute):
            of_re = isinstance(function.value, ast.Name) and function.value.id == "re"
            return of_re and function.attr in COMPILERS
        return isinstance(function, ast.Name) and function.id == "expression"


@functools.lru_cache(maxsize=None)
def finders() -> Tuple[Finder, ...]:
    return tuple(Finder(path.read_text("utf-8")) for path in FILES)


def test_each_expression_has_its_line_in_the_table() -> None:
    assert sorted(name for one in finders() for name in one.named) == sorted(BY_NAME)
    assert {call for one in finders() for call in one.called} == set(BY_CALL)


def test_no_expression_hides_behind_another_name() -> None:
    assert [name for one in finders() for name in one.hidden] == []
    modules = {name for one in CHAPTERS for name, v in vars(one).items() if v is re}
    assert modules == {"re"}


def test_every_module_is_looked_at() -> None:
    companions = {PACKAGE / f"{name}.py" for name in ("status", "httptools")}
    chapters = {PACKAGE / f"{name}.py" for name in single.CHAPTERS}
    assert chapters | companions < set(FILES)


def test_expressions_are_found_wherever_they_are_made() -> None:
    made_up = """
import re
from re import compile
import re as other
A = expression(b"a")
B: object = re.compile(b)
C = [re.compile("c", re.I)]
if TYPE_CHECKING:
    expression = re.compile
else:
    expression = LazyExpression
class K:
    x = re.compile("x")
    async def f(self, g=re.search):
        return re.sub(re.escape(y), partial(re.match, "z"), pattern=re.fullmatch("w"))
"""
    found = Finder(made_up)
    assert found.named == ["A"]
    assert found.called == [
        ("", "b"),
        ("", '"c"'),
        ("K", '"x"'),
        ("K.f", "re.escape(y)"),
        ("K.f", '"w"'),
    ]
    assert sorted(found.hidden) == [
        "import from re",
        "re as other",
        "re.match",
        "re.search",
    ]


# ======================================================================================
# That none is slow
# ======================================================================================


@functools.lru_cache(maxsize=None)
def worst_texts(how: str, text: Text, pattern: re.Pattern[Any]) -> List[Hostile]:
    return hostile_texts(Matcher(pattern), how, text.characters())


def growth(how: str, text: Text, pattern: re.Pattern[Any]) -> Tuple[float, Hostile]:
    """Return how the steps grow with twice the worst text, and that text.

    It is infinite if they are more than there may be.
    """
    matcher = Matcher(pattern)
    size = min(text.longest, MOST_COUNTED)
    most = text.steps * size * (size if text.growth > 4 else 1)
    worst = 0.0, Hostile("", "x", "")
    for hostile in worst_texts(how, text, pattern):
        matcher.limit = most
        try:
            half = matcher.count(how, hostile.text(size // 2))
            found = matcher.count(how, hostile.text(size)) / half, hostile
        except TooManySteps:
            found = float("inf"), hostile
        worst = max(worst, found)
    return worst


@pytest.mark.parametrize("how, text, pattern", cases())
def test_twice_the_worst_text_takes_twice_the_steps(
    how: str, text: Text, pattern: re.Pattern[Any]
) -> None:
    found, hostile = growth(how, text, pattern)
    assert found <= text.growth, hostile


def paths() -> List[str]:
    """Return the paths of up to three wildcards that there are, but for their names."""
    found = []
    for count, between in (1, [""]), (2, ["", "-", "/"]), (3, ["-", "/"]):
        number = "<%s:float>" if count < 3 else "<%s:int>"
        kinds = ["<%s>", "<%s:path>", number]
        for wildcards in itertools.product(kinds, repeat=count):
            for literals in itertools.product(between, repeat=count - 1):
                parts = [kind % name for kind, name in zip(wildcards, "abc")]
                path = "/" + "".join(map("".join, zip(parts, [*literals, ""])))
                found += [path, f"{path}/x"]
    return found


def test_no_path_of_a_client_takes_long_to_match() -> None:
    outlines: Dict[str, List[str]] = {}
    for path in paths():
        try:
            pattern = Pattern(path, _FILTERS)
        except RouteError:
            continue  # too many ways to read it
        compiled = re.compile(*pattern._expression._source)  # type: ignore[attr-defined]
        found, hostile = growth("fullmatch", ROUTED, compiled)
        assert found <= ROUTED.growth, (path, hostile)
        outlines.setdefault(re.sub("[^<]", "", path), []).append(path)
    assert sorted(outlines) == ["<", "<<", "<<<"]


# ======================================================================================
# That the counting is right
# ======================================================================================

SLOW = {
    # Blanks are shared out between what stands before and behind a pair. It was so.
    r'[\t ]*(?:([a-z]+)=("(?:[^"\\]|\\.)*"|[^",;\s]*))?[\t ]*([,;]|$)': "follow",
    r"(?m)^(?:etag|date):[^\r]*\r\n": "each",  # and so, for lines without CR
    r"(a+)+b": "match",
    r"(a|a)*b": "match",
    r"(?:a|ab|b)*c": "match",
    r"(?:a*)*b": "match",
    r"(?:aa|aaa)*b": "match",
    r"a*a*b": "match",
    r"\s+$": "search",
    r"a[ab]*c": "search",
    r"a(?:[^b]*b)?": "each",
    r"(?:(?=[^/]*\Z)a|b)": "each",
    r"a.*b|c": "each",
    r"(?i)x(?:[a-z]+@)?": "follow",
    r"a{0,200}a{0,200}b": "match",
}
QUICK = {
    r'[\t ]*(?:([a-z]+)=("(?:[^"\\]|\\.)*"|[^",;\s]*)[\t ]*)?([,;]|$)': "follow",
    r"(?:a+b)+c": "match",
    r"(?:a|b)*c": "match",
    r"ab*c": "search",
    r"(?:ab?)*c": "match",
    r"a{1,4}a{1,4}b": "search",
    r"(?<!a)a*b": "search",
    r"\ba+?\b": "each",
}


@pytest.mark.parametrize("source", SLOW)
def test_an_expression_that_is_slow_is_found(source: str) -> None:
    found, _ = growth(SLOW[source], Text(400), re.compile(source))
    assert found > Text(0).growth


@pytest.mark.parametrize("source", QUICK)
def test_an_expression_that_is_quick_is_left_alone(source: str) -> None:
    found, _ = growth(QUICK[source], Text(400), re.compile(source))
    assert found <= Text(0).growth


@pytest.mark.parametrize(
    "how, text, pattern",
    [
        *cases(),
        *(
            pytest.param(how, Text(30), re.compile(source), id=source)
            for table in (SLOW, QUICK)
            for source, how in table.items()
        ),
    ],
)
def test_what_is_counted_matches_what_re_matches(
    how: str, text: Text, pattern: re.Pattern[Any]
) -> None:
    matcher = Matcher(pattern)
    for hostile in worst_texts(how, text, pattern):
        whole = hostile.text(14)
        for end in range(len(whole) + 1):
            cut: Any = whole[:end]
            if isinstance(pattern.pattern, bytes):
                cut = cut.encode("latin-1")
            for name in ("match", "fullmatch", "search"):
                found = getattr(pattern, name)(cut)
                span = found and found.span()
                assert matcher.find(name, whole[:end]) == span, (name, cut)


def test_what_the_counting_does_not_know_is_an_error() -> None:
    with pytest.raises(NotImplementedError, match="GROUPREF has no steps here yet"):
        Matcher(re.compile(r"(a)\1"))


def test_the_same_text_takes_the_same_steps_everywhere() -> None:
    matcher = Matcher(re.compile("a*b"))
    # Into the loop four times and past it once; then b is missed five times.
    assert matcher.count("match", "aaaa") == 4 * 3 + 2 + 5
    assert matcher.count("search", "aa") == (2 * 3 + 2 + 3) + (3 + 2 + 2) + (2 + 1)
