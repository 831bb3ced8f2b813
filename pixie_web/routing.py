"""Routes: patterns, precedence, URLs built.

From the pattern "/user/<id:int>" to the target of a request for "/user/7", and back.
A target is any object: this chapter knows no handlers and no placements.

Precedence: a path without wildcards wins, then the first declaration. GET answers
HEAD, unless HEAD is declared for that path. A pattern that has the method wins over
an earlier one that lacks it; only when none has it is the answer 405.

A static path is one lookup in a dictionary. Each other pattern is kept under one of
the literals around its wildcards, the one that the fewest patterns share: "/user/" of
"/user/<id>", "/files/" of "/<tenant>/files/<rest:path>". A path is cut at the places
where those literals may stand: at its beginning, at its end, from each slash on. So
only patterns with the same rarest literal are tried one after the other.

SECURITY: some wildcards can divide a text in many ways ("<a>-<b>-<n:int>"). Their
expression tries all of them: half a second for a path of 8,000 dashes. Such patterns
are refused. Expressions of the application (<name:re:...>, filters) are run as they
are.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import (
    Any,
    Callable,
    Dict,
    Generic,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

from .errors import HTTPError, RouteError
from .text import expression, is_token, parse_float, percent_encode

MAX_NUMBER_DIGITS = 40  # 2**128 has 39; int() of thousands is slow (CVE-2020-10735)

_WILDCARD = expression(r"<([^<>:]*)(?::([^<>:]*)(?::((?:\\.|[^\\>])*))?)?>")
_NOT_LITERAL = expression(r"[<>?]|%[0-9A-Fa-f]{2}")
_BACKREFERENCE = expression(r"(?<!\\)(?:\\\\)*\\[1-9]|\(\?\(")
_SAFE_IN_PATH = b"/:@!$*,;=+()"  # RFC 3986 section 3.3, less & and ' for HTML's sake
# "s": a wildcard without a filter, "p": of kind path, ".": anything else. The last of a
# pattern has no choice.
_AMBIGUOUS = expression(r"[sp][^/]*[sp].|p[^/]*s|p.*p.")

Target = TypeVar("Target")


class Filter(NamedTuple):
    """A kind of wildcard: its expression, and the functions that read and write it."""

    expression: str
    to_python: Callable[[str], Any] = str
    to_url: Callable[[Any], str] = str


Filters = Mapping[str, Filter]
# A literal, and where a path must hold it: cheaper to look for first.
Key = Tuple[int, str]
_FIRST, _LAST, _SLASH, _INNER = range(4)  # at a slash; anywhere between the wildcards


_DIGITS = f"[0-9]{{1,{MAX_NUMBER_DIGITS}}}"
_FLOAT = (
    rf"[-+]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][-+]?[0-9]{{1,3}})?"
)
_SEGMENT = Filter("[^/]+")
_PATH = Filter("(?s:.+?)")
_FILTERS = {
    "float": Filter(_FLOAT, parse_float),
    "int": Filter(f"[-+]?{_DIGITS}", int),
    "path": _PATH,
}


def _join(literals: Sequence[str], between: Sequence[str]) -> str:
    pairs = zip(between, literals[1:])
    return literals[0] + "".join(text + literal for text, literal in pairs)


def _check_expression(expression: str, where: str) -> None:
    """Raise RouteError unless the expression can become part of another."""
    try:
        compiled = re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise RouteError(
            f"bad expression {expression!r} in {where!r}: {error}"
        ) from None
    refers = compiled.groupindex or _BACKREFERENCE.search(expression)
    if refers or compiled.flags != re.UNICODE:
        raise RouteError(
            f"{expression!r} in {where!r} can't have named groups, references or "
            "global flags: write (...) and (?i:...)"
        )


def _find_filter(
    kind: Optional[str], argument: Optional[str], text: str, filters: Filters
) -> Filter:
    if kind is None:
        return _SEGMENT
    if kind == "re":
        if not argument:
            raise RouteError(f"write an expression in {text!r}, as in <name:re:[a-z]+>")
        _check_expression(argument, text)
        return Filter(argument)
    if kind not in filters:
        known = ", ".join(sorted([*filters, "re"]))
        raise RouteError(
            f"unknown filter {kind!r} in {text!r}: filters are {known}; "
            f"add one with app.filter({kind!r}, ...)"
        )
    if argument is not None:
        raise RouteError(f"the filter {kind} in {text!r} takes no {argument!r}")
    return filters[kind]


def _check_literal(literal: str, text: str) -> None:
    bad = _NOT_LITERAL.search(literal)
    if bad is None:
        return
    hint = {
        "?": "the query is not part of a path, read it from env.query",
        "%": "paths are compared decoded, so write the character itself",
    }.get(bad.group()[0], r"write <name>, <name:int> or <name:re:[a-z]+>, and \> for >")
    raise RouteError(f"{bad.group()!r} in {text!r}: {hint}")


def _split_pattern(
    text: str, filters: Filters
) -> Tuple[List[str], List[str], List[Filter]]:
    """Return what stands around the wildcards, their names, and their filters."""
    if not text.startswith("/"):
        raise RouteError(f"a path starts with a slash: write {'/' + text!r}")
    parts = _WILDCARD.split(text)
    literals, names = parts[::4], parts[1::4]
    for name in names:
        if not name.isidentifier():
            raise RouteError(f"{name!r} in {text!r} can't name a Python argument")
        if names.count(name) > 1:
            raise RouteError(f"the wildcard <{name}> stands twice in {text!r}")
    found_filters = [
        _find_filter(kind, argument, text, filters)
        for kind, argument in zip(parts[2::4], parts[3::4])
    ]
    for literal in literals:
        _check_literal(literal, text)
    return literals, names, found_filters


def _expressions(text: str, literals: List[str], filters: List[Filter]) -> List[str]:
    """Return those of the wildcards; RouteError if they take more than linear time."""
    around = [re.sub("[^/]", ".", literal) for literal in literals]
    marks = ["s" if f is _SEGMENT else "p" if f is _PATH else "." for f in filters]
    outline = _join(around, marks)
    if _AMBIGUOUS.search(outline):
        raise RouteError(
            f"too many ways to read {text!r}: after a wildcard without a filter, or "
            "with path, a second one may stand only at the end; write <name:int> or "
            "<name:re:[a-z]+>"
        )
    expressions = [f.expression for f in filters]
    if re.search("s[^/]*s$", outline):
        # SECURITY: or the two share out a long segment in vain, for a slash behind it.
        first = [i for i, mark in enumerate(marks) if mark == "s"][-2]
        expressions[first] = r"(?=[^/]*\Z)" + expressions[first]
    return expressions


class Pattern:
    """A compiled path such as "/user/<id:int>/<rest:path>".

    Args:
        text: the path, decoded, with wildcards in angle brackets.
        filters: name to filter, save `re`.

    Raises:
        RouteError: the path is not well-formed; says what to write.
    """

    def __init__(self, text: str, filters: Filters) -> None:
        self.text = text
        self._literals, names, self._filters = _split_pattern(text, filters)
        self.names = tuple(names)
        self.is_static = not names
        self._readers = [(n, f.to_python) for n, f in zip(names, self._filters)]
        # A filter of the program's own may give each request another value.
        readers = {one.to_python for one in self._filters}
        self.is_fixed = readers <= {str, int, parse_float}
        # What two patterns have in common that differ in the names of wildcards only.
        self.shape = _join(self._literals, [f"<{f.expression}>" for f in self._filters])
        expressions = _expressions(text, self._literals, self._filters)
        named = [f"(?P<{n}>{e})" for n, e in zip(names, expressions)]
        # PERF: compiled when it is first tried; 10,000 routes start in half the time.
        source = _join([re.escape(literal) for literal in self._literals], named)
        self._expression = expression(source)

    @property
    def keys(self) -> List[Key]:
        """The literals of each matching path, and their places: one is enough."""
        first, *inner, last = self._literals
        keys: List[Key] = [(_FIRST, first), (_LAST, last)]
        keys += [(_SLASH if text[:1] == "/" else _INNER, text) for text in inner]
        return [key for key in keys if key[1]]

    def match(self, path: str) -> Optional[Tuple[str, ...]]:
        """Return the texts that stand for the wildcards, or None."""
        found = self._expression.fullmatch(path)
        return tuple(found.groupdict().values()) if found else None

    def convert(self, raw: Tuple[str, ...]) -> Dict[str, Any]:
        """Return the arguments of a handler, from the texts that `match` returned.

        Raises:
            ValueError: a filter refuses its text.
        """
        parts = zip(self._readers, raw)
        return {name: to_python(text) for (name, to_python), text in parts}

    def build(self, /, **args: Any) -> str:
        """Return the path, percent-encoded, that this pattern matches with `args`.

        "/user/<name>" with name="a b" -> "/user/a%20b"

        Raises:
            RouteError: an argument is missing, or there is no such wildcard.
            ValueError: a value does not fit its filter, or could not be read back.
        """
        if set(args) != set(self.names):
            wanted, got = ", ".join(self.names), ", ".join(args)
            raise RouteError(f"{self.text!r} takes {wanted or 'nothing'}, got {got}")
        texts = []
        for name, filter_ in zip(self.names, self._filters):
            texts.append(filter_.to_url(args[name]))
            if not re.fullmatch(filter_.expression, texts[-1]):
                raise ValueError(
                    f"{texts[-1]!r} does not fit <{name}> of {self.text!r}"
                )
        path = _join(self._literals, texts)
        if self.match(path) != tuple(texts):
            raise ValueError(f"{path!r} would be read differently by {self.text!r}")
        if not {".", ".."}.isdisjoint(path.split("/")):
            raise ValueError(f"clients remove the dots of {path!r} before they ask")
        url = percent_encode(path, _SAFE_IN_PATH)
        # SECURITY: a URL that starts with two slashes names another host.
        return f"/%2F{url[2:]}" if url.startswith("//") else url


class Match(Generic[Target]):
    """The target of a request, and the arguments that its path holds.

    `args` may be shared between requests and is not to be changed.

    Attributes:
        is_fixed: the same path has the same match each time.
    """

    __slots__ = ("args", "is_fixed", "target")

    def __init__(
        self, target: Target, args: Mapping[str, Any], is_fixed: bool = True
    ) -> None:
        self.target = target
        self.args = args
        self.is_fixed = is_fixed


class _Entry(NamedTuple):
    order: int
    pattern: Pattern
    target: Any


_Table = Dict[str, _Entry]  # by method


def _look_up(
    index: Dict[int, Dict[str, List[_Table]]], path: str, starts: Iterable[int]
) -> List[_Table]:
    """Return what is kept under the literals that begin at one of these places."""
    found: List[_Table] = []
    for length, tables in index.items():
        # SECURITY: each literal once, however often a client repeats it.
        pieces = {path[at : at + length] for at in starts}
        for piece in pieces & tables.keys():
            found += tables[piece]
    return found


def _enter(table: Dict[str, Target], methods: Iterable[str], entry: Target) -> None:
    """Put `entry` under each method; GET answers HEAD, unless HEAD is declared."""
    table.update(dict.fromkeys(methods, entry))
    if "GET" in methods:
        table.setdefault("HEAD", entry)


def _check_methods(methods: Iterable[str], path: str) -> List[str]:
    names = [methods] if isinstance(methods, str) else list(methods)
    for name in names or [""]:
        if not is_token(name) or name != name.upper():
            raise RouteError(f"no method {name!r} for {path!r}: write 'GET' or 'POST'")
    return names


class Router(Generic[Target]):
    """Finds the target of a method and a path. Safe in several threads once frozen."""

    def __init__(self) -> None:
        self._filters: Dict[str, Filter] = dict(_FILTERS)
        self._declared: Dict[Tuple[str, str], str] = {}  # (shape, method) to text
        self._static: Dict[str, Dict[str, Match[Target]]] = {}
        self._wild: Dict[str, _Table] = {}  # by shape
        # By the kind of the key, by the length of its literal, by the literal.
        self._index: Optional[List[Dict[int, Dict[str, List[_Table]]]]] = None

    def add_filter(
        self,
        name: str,
        pattern: str,
        to_python: Callable[[str], Any] = str,
        to_url: Callable[[Any], str] = str,
    ) -> None:
        """Let `<x:name>` stand for what the expression `pattern` matches.

        Args:
            name: the word to write in a path.
            pattern: a regular expression, without global flags and references.
            to_python: from text to what the handler gets; a ValueError means no match.
            to_url: from such a value to text, for `Pattern.build`.
        """
        if not name.isidentifier() or name == "re" or name in self._filters:
            raise RouteError(f"a filter needs a name of its own, got {name!r}")
        _check_expression(pattern, f"the filter {name}")
        self._filters[name] = Filter(pattern, to_python, to_url)

    def compile(self, path: str) -> Pattern:
        """Return the pattern of a path, or raise RouteError; it is not declared yet."""
        return Pattern(path, self._filters)

    def add(self, path: str, methods: Iterable[str], target: Target) -> Pattern:
        """Declare the target of a path for some methods (case-sensitive, RFC 9110 9.1).

        Raises:
            RouteError: a wrong path or method, or the same twice.
        """
        pattern = self.compile(path)
        methods = _check_methods(methods, path)
        for method in methods:
            earlier = self._declared.get((pattern.shape, method))
            if earlier is not None:
                raise RouteError(f"{method} {path!r} is declared already: {earlier!r}")
        order = len(self._declared)
        self._declared.update({(pattern.shape, method): path for method in methods})
        if pattern.is_static:
            match: Match[Target] = Match(target, {})
            _enter(self._static.setdefault(path, {}), methods, match)
        else:
            entry = _Entry(order, pattern, target)
            _enter(self._wild.setdefault(pattern.shape, {}), methods, entry)
            self._index = None
        return pattern

    def match(self, method: str, path: str) -> Match[Target]:
        """Return the match of a request, of a method as sent and a path as decoded.

        Raises:
            HTTPError: 404; or 405 with Allow, when only other methods are declared.
        """
        methods = self._static.get(path)
        if methods is not None:
            match = methods.get(method)
            if match is not None:
                return match
        tables = self._candidates(path)
        match = self._match_wildcards(tables, method, path)
        if match is not None:
            return match
        allowed = self._allowed(tables, path)
        if not allowed:
            raise HTTPError(404)
        raise HTTPError(405, headers={"Allow": ", ".join(allowed)})

    def allowed(self, path: str) -> List[str]:
        """Return the methods of a path, sorted, OPTIONS too; [] if it has no route."""
        return self._allowed(self._candidates(path), path)

    def freeze(self) -> None:
        """Get ready for several threads: nothing is added from now on."""
        self._index = self._make_index()

    def _allowed(self, tables: List[_Table], path: str) -> List[str]:
        methods = set(self._static.get(path, ()))
        for method in {method for table in tables for method in table}:
            if self._match_wildcards(tables, method, path) is not None:
                methods.add(method)
        return sorted(methods | {"OPTIONS"}) if methods else []

    def _match_wildcards(
        self, tables: List[_Table], method: str, path: str
    ) -> Optional[Match[Target]]:
        entries = [table[method] for table in tables if method in table]
        if len(entries) > 1:
            entries.sort(key=lambda entry: entry.order)
        is_fixed = True
        for _, pattern, target in entries:
            raw = pattern.match(path)
            if raw is not None:
                is_fixed = is_fixed and pattern.is_fixed
                try:
                    return Match(target, pattern.convert(raw), is_fixed)
                except ValueError:
                    continue
        return None

    def _make_index(self) -> List[Dict[int, Dict[str, List[_Table]]]]:
        """Return all tables, each under the literal that the fewest of them share."""
        keys = [next(iter(one.values())).pattern.keys for one in self._wild.values()]
        shared = Counter(key for own in keys for key in own)
        index: List[Dict[int, Dict[str, List[_Table]]]] = [{}, {}, {}, {}]
        for own, table in zip(keys, self._wild.values()):
            _, (kind, text) = min((shared[key], key) for key in own)
            index[kind].setdefault(len(text), {}).setdefault(text, []).append(table)
        return index

    def _candidates(self, path: str) -> List[_Table]:
        """Return the tables of the patterns whose rarest literal stands in the path."""
        if self._index is None:
            self._index = self._make_index()
        first, last, slash, inner = self._index
        found: List[_Table] = []
        for length, tables in first.items():
            found += tables.get(path[:length], ())
        for length, tables in last.items():
            found += tables.get(path[-length:], ())
        if slash:
            starts = [at for at, letter in enumerate(path) if letter == "/"]
            found += _look_up(slash, path, starts)
        if inner:
            found += _look_up(inner, path, range(len(path)))
        return found
