"""From the text of a template to a function."""

from __future__ import annotations

import ast
import builtins
import linecache
import re
import types
from functools import lru_cache, partial
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Protocol,
    Sequence,
    Set,
    Tuple,
    Union,
    cast,
)

from ..errors import TemplateError
from ..text import escape, expression

MAX_CACHED_TEMPLATES = 1024  # Jinja2 keeps 400, bottle and Mako all of them
_Extend = Callable[[Iterable[str]], None]  # takes text, a value, text, a value ...
# Takes an Execution, which has the helpers; the variables; what extends the output.
_TemplateCode = Callable[[Any, Dict[str, object], _Extend], Dict[str, object]]
_COMPILE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
BUILTINS: Dict[str, object] = vars(builtins)
_HELPERS = frozenset(("include", "rebase", "get", "defined"))
_DYNAMIC = _HELPERS | set("setdefault globals locals vars dir eval exec *".split())
# No alternative below can match in two ways, so a failing match takes linear time.
_PYTHON_STRING = (
    r'"""(?:[^\\"]|\\[\s\S]|"(?!""))*"""|'
    r"'''(?:[^\\']|\\[\s\S]|'(?!''))*'''|"
    r'"(?!"")(?:[^\\"\n]|\\[\s\S])*"|'
    r"'(?!'')(?:[^\\'\n]|\\[\s\S])*'"
)
# Python ends a line there, and a template does not: a blank in code, kept in text.
_LONE_RETURN = expression(r"\r(?!\n)")


class Renderable(Protocol):
    """The result of `Template.load`: a Template, or the template of another engine."""

    def render(self, **variables: Any) -> str:
        """Return the text."""


class _Safe(str):
    """HTML that an object's own `__html__` made, behind `_SAFE`."""


# It looks as if it were to be escaped, and has a NUL: so it is looked at on its own.
_SAFE = "&\0"


def _text(value: object) -> str:
    """Return what `{{!value}}` shows."""
    if value is None:
        return ""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _html(value: object) -> str:
    """Return what `{{value}}` shows: text to be escaped, or `_Safe` HTML."""
    return _Safe(_SAFE + escape(value)) if hasattr(value, "__html__") else _text(value)


def _escape_each(values: List[str]) -> List[str]:
    """Return the values escaped, of which some hold a NUL, or are HTML."""
    alone = {n: value for n, value in enumerate(values) if "\0" in value}
    joined = "\0".join(["" if "\0" in value else value for value in values])
    parts = escape(joined).split("\0")
    for n, value in alone.items():
        is_safe = type(value) is _Safe
        parts[n] = value[len(_SAFE) :] if is_safe else escape(value)
    return parts


def take_text(output: List[str]) -> str:
    """Return the text of an output: text, a value to be escaped, text, a value ..."""
    values = output[1::2]
    joined = "\0".join(values)
    # PERF: one escape() of all values: a loop of 20 rows takes 0.4 of the time that it
    # takes with one for each. Five `in` take half the time of a search for a pattern.
    if (
        "&" in joined
        or "<" in joined
        or ">" in joined
        or '"' in joined
        or "'" in joined
    ):
        parts = escape(joined).split("\0")
        # SECURITY: a value with a NUL of its own would move all values after it.
        if len(parts) != len(values):
            parts = _escape_each(values)
        output[1::2] = parts
    return "".join(output)


_RUNTIME = {
    "__name__": "template",
    "_px_type": type,
    "_px_str": str,
    "_px_numbers": frozenset((int, float, bool)),
    "_px_text": _text,
    "_px_html": _html,
}


# From the text to Python source -------------------------------------------------------


@lru_cache(maxsize=16)
def _template_patterns(syntax: str) -> Tuple[re.Pattern[str], ...]:
    """Return patterns for the start of code, for Python's tokens, and for {{...}}."""
    block, close, line, opening, closing = (re.escape(mark) for mark in syntax.split())
    starts = rf"(?m)^[ \t]*(\\?)({line}|({block}))"
    tokens = rf"""(?mx)
        (?P<string>{_PYTHON_STRING})
        |(?P<comment>\#.*)
        |(?P<open>[\[{{(]) |(?P<close>[\]}})])
        |(?P<block>(?<![ \t])[ \t]*(?:if|for|while|with|try|def|class)\b)
        |(?P<middle>(?<![ \t])[ \t]*(?:elif|else|except|finally)\b)
        |(?P<end>(?:;[ \t]*|(?<![ \t])[ \t]*)end[ \t]*(?=(?:{close}[ \t]*)?\r?$|;|\#))
        |(?P<stop>{close}[ \t]*(?=\r?$))
        |(?P<newline>\r?\n)"""
    inline = (
        rf"{opening}((?:{_PYTHON_STRING}|(?!{opening}|{closing})[^'\"\n])*){closing}"
    )
    return re.compile(starts), re.compile(tokens), re.compile(inline)


def _template_error(
    filename: str, source: str, first_line: int, error: BaseException
) -> TemplateError:
    """Return a TemplateError for code whose first line is `first_line` of `source`."""
    why = str(error) or "nested too deeply"
    if isinstance(error, SyntaxError):
        why, first_line = error.msg, first_line + (error.lineno or 1) - 1
    shown = source.split("\n")[first_line - 1 : first_line] or [""]
    return TemplateError(
        f"{filename}:{first_line}: {why}\n    {shown[0].strip()[:100]}"
    )


class _Translator:
    """Translate one template; afterwards `code[i]` comes from line `origin[i][0]`.

    `origin[i][1]` is what to add to a column of that line, in bytes, as Python counts.
    """

    def __init__(self, source: str, filename: str, syntax: str) -> None:
        self.source = source
        self.filename = filename
        self.starts, self.tokens, self.inline = _template_patterns(syntax)
        self.block_close = syntax.split()[1]
        self.code: List[str] = []
        self.origin: List[Tuple[int, int]] = []
        self.line, self.position = 1, 0  # how far emit() has counted lines
        # Open blocks (where each begins), and the number of open brackets.
        self.blocks: List[int] = []
        self.brackets = 0
        # Text and expressions since the last code: (is an expression, text, position).
        self.pieces: List[Tuple[bool, str, int]] = []

    def translate(self) -> None:
        offset, source = 0, self.source
        while True:
            found = self.starts.search(source, offset)
            self.read_text(offset, found.start() if found else len(source))
            if found is None:
                break
            if found.group(1):  # A backslash: the line is text.
                offset = source.find("\n", found.end()) + 1 or len(source)
                self.read_text(found.start(), found.start(1))
                self.read_text(found.start(2), offset)
            else:
                self.write_text()
                offset = self.read_code(found.end(), found.group(3) is not None)
        self.write_text()
        if self.blocks:
            raise self.error(self.blocks[-1], "this block has no 'end'")

    def error(self, position: int, why: Union[str, BaseException]) -> TemplateError:
        line = self.source.count("\n", 0, position) + 1
        error = why if isinstance(why, BaseException) else ValueError(why)
        return _template_error(self.filename, self.source, line, error)

    def emit(self, before: str, python: str = "", position: int = 0) -> None:
        """Add code, of which `python` stands in the template at `position`."""
        source, position = self.source, max(position, self.position)
        self.line += source.count("\n", self.position, position)
        self.position = position
        left = source[source.rfind("\n", 0, position) + 1 : position]
        shift = len(left.encode("utf-8", "surrogatepass")) - len(before)
        python = _LONE_RETURN.sub(" ", python)
        for number, text in enumerate(re.split(r"\r?\n", before + python)):
            self.code.append(text)
            self.origin.append((self.line + number, 0 if number else shift))

    def read_code(self, offset: int, in_block: bool) -> int:
        """Translate a line of code, or a <% block %>; return where the text goes on."""
        opened = start = offset
        level, statement = len(self.blocks), ""
        while True:
            found = self.tokens.search(self.source, offset)
            kind, text = (found.lastgroup, found.group()) if found else ("newline", "")
            stop = found.start() if found else len(self.source)
            statement += self.source[offset:stop]
            offset = stop + len(text)
            first = stop == start and not self.brackets
            if kind == "newline":
                code = statement.lstrip()
                if code:
                    start += len(statement) - len(code)
                    self.emit(" " * level, code.rstrip(), start)
                if not (in_block and text):
                    break
                start, level, statement = offset, len(self.blocks), ""
            elif kind == "comment" or (kind == "stop" and in_block):
                in_block = in_block and not text.rstrip().endswith(self.block_close)
            elif kind == "end" and (first or (text[0] == ";" and not self.brackets)):
                if not self.blocks:
                    raise self.error(stop, "'end' without a block to end")
                self.blocks.pop()
            else:
                statement += text
                step = {"open": 1, "close": -1}.get(kind or "", 0)
                self.brackets = max(self.brackets + step, 0)
                level -= first and kind == "middle"
                if first and kind == "block":
                    self.blocks.append(start)
        if in_block:
            raise self.error(opened, f"this block has no {self.block_close!r}")
        return offset

    def read_text(self, start: int, stop: int) -> None:
        """Cut text into plain text and {{expressions}}."""
        for found in self.inline.finditer(self.source, start, stop):
            if start < found.start():
                self.pieces.append((False, self.source[start : found.start()], start))
            code = _LONE_RETURN.sub(" ", found.group(1))
            self.pieces.append((True, code, found.start(1)))
            start = found.end()
        if start < stop:
            self.pieces.append((False, self.source[start:stop], start))

    def write_text(self) -> None:
        """Write one extend() by all text and values since the last code."""
        if not self.pieces:
            return
        is_expression, text, position = self.pieces[-1]
        if self.brackets:
            raise self.error(position, "text inside a bracket that code has opened")
        if not is_expression:  # Two backslashes swallow the newline in front of code.
            text = re.sub(r"\\\\\r?\n\Z", "", text)
            self.pieces[-1] = False, text, position
        indent, chunks, pairs = " " * len(self.blocks), ["''"], []
        for number, (is_expression, text, position) in enumerate(self.pieces):
            if is_expression and self.write_value(indent, number, text, position):
                pairs.append(f"{' '.join(chunks)}, _px_{number}")
                chunks = ["''"]
            else:
                chunks.append(f"f'{{_px_{number}}}'" if is_expression else repr(text))
        if len(chunks) > 1:
            pairs.append(f"{' '.join(chunks)}, ''")
        self.emit(f"{indent}_px_extend(({', '.join(pairs)}))")
        self.pieces = []

    def write_value(self, indent: str, number: int, text: str, position: int) -> bool:
        """Write the string of an expression; return whether it is to be escaped."""
        expression = text.strip()
        raw = expression.startswith("!")
        expression = expression[raw:].strip()
        position += text.index(expression)
        try:
            ast.parse(expression, mode="eval")
        except _COMPILE_ERRORS as error:
            raise self.error(position, error) from None
        name, convert = f"_px_{number}", "_px_text" if raw else "_px_html"
        self.emit(f"{indent}{name} = ", expression, position)
        # PERF: numbers inline: a row of five is 1.2 times faster.
        self.emit(
            f"{indent}if _px_type({name}) is not _px_str: {name} = _px_str({name}) "
            f"if _px_type({name}) in _px_numbers else {convert}({name})"
        )
        return not raw


# From Python source to a function -----------------------------------------------------


def _walk(tree: ast.AST, *leaves: type) -> Iterator[Any]:
    """Yield the nodes that have a place in the source, without what is in `leaves`."""
    # PERF: ast.walk takes three times as long; it goes into operators and contexts too.
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if hasattr(node, "lineno"):
            yield node
        if not isinstance(node, leaves):
            for value in vars(node).values():
                if isinstance(value, list):
                    nodes += [item for item in value if isinstance(item, ast.AST)]
                elif isinstance(value, ast.AST) and value._fields:
                    nodes.append(value)


def _relocate(nodes: Iterable[Any], origin: Sequence[Tuple[int, int]]) -> None:
    """Give the nodes of generated code the lines and columns of the template."""
    for node in nodes:
        line, shift = origin[node.lineno - 1]
        end_line, end_shift = origin[node.end_lineno - 1]
        start, end = node.col_offset + shift, node.end_col_offset + end_shift
        node.lineno, node.end_lineno = line, max(line, end_line)
        node.col_offset = max(start, 0)
        node.end_col_offset = max(end, node.col_offset if end_line == line else 0)


def _bound_names(node: ast.AST) -> Iterable[str]:
    """Return the names that a node gives a value, or takes it from."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler)):
        return (node.name or "",)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(one.asname or one.name).split(".")[0] for one in node.names}
    if not isinstance(node, ast.Name) or isinstance(node.ctx, ast.Load):
        return ()
    return () if node.id[:3] == "_px" else (node.id,)


def own_names(
    values: Dict[str, object], names: Optional[Iterable[str]] = None
) -> Dict[str, object]:
    """Return the values of all names, or of some, without those of the machinery.

    What is built into Python is left out as well.
    """
    return {
        name: values[name]
        for name in (values if names is None else names)
        if name in values
        and name[:3] != "_px"
        and BUILTINS.get(name, values) is not values[name]
    }


def _helper_calls(tree: ast.Module, nodes: List[Any]) -> Optional[List[ast.Call]]:
    """Return the calls of include(), get() ..., or None if it takes exec()."""
    mentions = 0
    for node in nodes:
        if isinstance(node, ast.Name):
            mentions += node.id in _DYNAMIC
        elif isinstance(node, (ast.Global, ast.AsyncFunctionDef)):
            return None
        else:
            mentions += not _DYNAMIC.isdisjoint(_bound_names(node))
    calls: List[ast.Call] = []
    scopes = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.GeneratorExp)
    for node in _walk(tree, *scopes, ast.ListComp, ast.SetComp, ast.DictComp):
        if isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom, ast.Await)):
            return None  # exec() has the right error message.
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in _HELPERS:
            calls.append(node)
    return calls if mentions == len(calls) else None


def _call_helpers(tree: ast.Module, calls: List[ast.Call]) -> Set[str]:
    """Make get(...) a call of _px.get(NAMES, ...), and so on; return all bound names.

    NAMES are the values of all names that are bound: the others are as they were given.
    An include() with a use for its result gets locals(), as a sign.
    """
    # PERF: locals() and a look at each name in it take 1.9 us on 3.13: without them, a
    # page with a layout and an include takes 0.8 of the time.
    bound: Set[str] = set()
    waiting = set(calls)
    for statement in tree.body:
        nodes = list(_walk(statement))
        alone = {node.value for node in nodes if isinstance(node, ast.Expr)}
        bound.update(name for node in nodes for name in _bound_names(node))
        for call in waiting.intersection(nodes):
            helper = cast(ast.Name, call.func).id
            names = "_px_bound(locals())" if bound else "{}"
            if helper == "include" and call not in alone:
                names = "locals()"
            call.func = ast.Attribute(ast.Name("_px", ast.Load()), helper, ast.Load())
            call.args.insert(0, ast.parse(names, mode="eval").body)
            ast.fix_missing_locations(call)
    return bound


def _localise(tree: ast.Module, nodes: List[Any]) -> Optional[Set[str]]:
    """Put the statements into a function template(), or return None.

    Each name is a local variable, set at the top from the variables that are given. One
    that is not given stays unbound, and so is a NameError on the line that uses it; one
    that is built into Python has that as its default. Returned are the names that the
    template itself binds.
    """
    calls = _helper_calls(tree, nodes)
    if calls is None:
        return None
    found = {node.id for node in nodes if isinstance(node, ast.Name)}
    names = {n for n in found - _HELPERS if n[:3] != "_px" and n != "__debug__"}
    bound = _call_helpers(tree, calls)
    defaults = "".join(f", {name}={name}" for name in names & BUILTINS.keys())
    lines = [f"def template(_px, _px_given, _px_extend{defaults}):"]
    lines += [f" if {n!r} in _px_given: {n} = _px_given[{n!r}]" for n in names]
    result = "_px_bound(locals()) if _px.layout else {}" if bound else "{}"
    frame = ast.parse(
        "\n".join([*lines, f" return locals() if _px.wants_names else {result}"])
    )
    _relocate(_walk(frame), [(1, 0)] * (len(lines) + 1))
    cast(ast.FunctionDef, frame.body[0]).body[-1:-1] = tree.body
    tree.body = frame.body
    return bound


class TemplateSource:
    """Shows `linecache`, and so tracebacks, a template that is not in a file."""

    def __init__(self, source: str) -> None:
        self.source = source

    def get_source(self, name: str) -> str:
        return self.source


def _execute_module(
    code: types.CodeType,
    namespace: Dict[str, object],
    execution: Any,
    given: Dict[str, object],
    extend: _Extend,
) -> Dict[str, object]:
    """Run a template that can't be a function; its names are keys of a dictionary."""
    names = {**given, **namespace, "_px_extend": extend}
    names["include"] = partial(execution.include, names)
    names["rebase"] = partial(execution.rebase, names)
    names["get"], names["setdefault"] = names.get, names.setdefault
    names["defined"] = names.__contains__
    exec(code, names)
    return names


@lru_cache(maxsize=MAX_CACHED_TEMPLATES)
def compile_template(source: str, filename: str, syntax: str) -> _TemplateCode:
    """Return what renders a template: it appends the text, and returns the names."""
    linecache.cache.pop(filename, None)  # another text may have had this name
    translator = _Translator(source, filename, syntax)
    translator.translate()
    origin = translator.origin + [(translator.line, 0)]
    try:
        tree = ast.parse("\n".join(translator.code))
    except _COMPILE_ERRORS as error:
        if isinstance(error, SyntaxError):
            error.lineno = origin[min(error.lineno or 1, len(origin)) - 1][0]
            # "expected an indented block after 'if' statement on line 8"
            error.msg = re.sub(
                r"(?<= on line )[0-9]{1,9}\Z",
                lambda found: str(origin[min(int(found.group()), len(origin)) - 1][0]),
                error.msg,
            )
        raise _template_error(filename, source, 1, error) from None
    nodes = list(_walk(tree))
    _relocate(nodes, origin)
    namespace: Dict[str, Any] = {**_RUNTIME, "__loader__": TemplateSource(source)}
    try:
        bound = _localise(tree, nodes)
        code = compile(tree, filename, "exec")
    except _COMPILE_ERRORS as error:
        raise _template_error(filename, source, 1, error) from None
    if bound is None:
        return partial(_execute_module, code, namespace)
    namespace["_px_bound"] = partial(own_names, names=frozenset(bound))
    exec(code, namespace)
    return cast(_TemplateCode, namespace["template"])
