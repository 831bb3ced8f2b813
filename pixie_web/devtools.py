"""The page of an error with `debug`: source, variables, the request, its way.

It is made where the handler ran, in a worker too. Nothing can be run from it: it has
no forms, and its Content-Security-Policy allows only the script that reloads it.
Values with the name of a secret are not shown. All others are cut to a few
characters.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import linecache
import os
import re
import sys
import time
import types
from collections import deque
from itertools import islice
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from .errors import (
    REASONS,
    AnswerLost,
    HTTPError,
    ends_worker,
    fold,
    is_own_code,
)
from .executors.base import ProcessType, proc_env
from .refreshing import script_hash
from .requests import Request
from .responses import Response, error_page
from .text import escape

MAX_SHOWN_CHARACTERS = 300  # of a value
MAX_MESSAGE_CHARACTERS = 2_000
MAX_LINE_CHARACTERS = 200  # of a source
MAX_ITEMS = 20  # of a list or dict
MAX_DEPTH = 3
MAX_VARIABLES = 40  # of a frame
MAX_FRAMES = 40  # of an exception: the first and the last ones
MAX_ERRORS = 8  # of a chain or a group
SOURCE_LINES = 5  # above and below
PLAIN = "text/plain; charset=utf-8"
REPR_SECONDS = 0.5  # for the program's own __repr__s, all together

MASK = "••••••"
_SECRET = (
    "passw|passphrase|pwd|secret|token|api_?key|access_?key|private_?key|auth(?!ors?(?![a-z]))|"
    "credential|cookie|session|signature|csrf|xsrf|jwt|bearer|otp"
)
# Names of variables, headers, fields, keys of dicts.
SECRET_NAME = re.compile(rf"(?i){_SECRET.replace('_?', '[_-]?')}")
# `password='x'`, `"token": "x"`, `?token=x` in texts; in sources, where it is quoted.
SECRET_IN_TEXT = re.compile(
    rf"(?i)((?:{_SECRET})[\w-]{{0,40}}['\"]?[ \t]?[:=][ \t]?)"
    r"('[^']*'?|\"[^\"]*\"?|[^\s,;)}\]&'\"]+)"
)
SECRET_IN_SOURCE = re.compile(
    rf"(?i)((?:{_SECRET})[\w-]{{0,40}}['\"]?[ \t]?[:=][ \t]?)('[^']*'|\"[^\"]*\")"
)
SECRET_IN_CALL = re.compile(rf"(?i)((?:{_SECRET})[\w-]{{0,40}}=)[^\s,;)}}\]&'\"=]+")
SECRET_IN_URL = re.compile(r"(://[^\s/:@]{0,64}:)[^\s/@]{1,200}(?=@)")


# Values -------------------------------------------------------------------------------


def masked(text: str) -> str:
    """Return a text without what stands in it under a secret's name."""
    text = SECRET_IN_URL.sub(rf"\1{MASK}", text)
    return SECRET_IN_TEXT.sub(rf"\1{MASK}", text)


def masked_source(text: str) -> str:
    """Return a line of a program without the literals of secrets."""
    for expression in SECRET_IN_URL, SECRET_IN_SOURCE, SECRET_IN_CALL:
        text = expression.sub(rf"\1{MASK}", text)
    return text


class Shower:
    """Shows values of any kind in few characters.

    Nothing of the program's own is called for more than REPR_SECONDS in all; only one
    call that is under way is not cut short.
    """

    def __init__(self) -> None:
        self._until = time.monotonic() + REPR_SECONDS

    def show(self, value: object, name: str = "") -> str:
        """Return a value's text, or the mask if its name is that of a secret."""
        if SECRET_NAME.search(name) and not callable(value):
            return MASK
        try:
            text = self._tell(value, MAX_DEPTH)
        except BaseException as error:
            if ends_worker(error):
                raise
            text = f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
        if len(text) > MAX_SHOWN_CHARACTERS:
            text = f"{text[:MAX_SHOWN_CHARACTERS]}..."
        return masked(text)

    def _tell(self, value: Any, depth: int) -> str:
        if isinstance(value, (str, bytes, bytearray)):
            return self._tell_text(value)
        if isinstance(value, int) and value.bit_length() > 1000:
            return f"<an int of {value.bit_length()} bits>"
        if isinstance(value, dict):
            return self._of_type(value, dict, self._tell_items(value, depth), "{}")
        for kind, ends in (list, "[]"), (tuple, "()"), (set, "{}"):
            if isinstance(value, kind) and (value or kind is not set):
                return self._of_type(value, kind, self._tell_list(value, depth), ends)
        if isinstance(value, (set, frozenset, deque)):
            return self._of_type(value, None, self._tell_list(value, depth), "[]")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value) if field.repr]
            own = {name: getattr(value, name, None) for name in names}
            parts = (f"{k}={self._nested(v, k, depth)}" for k, v in own.items())
            return f"{type(value).__name__}({', '.join(islice(parts, MAX_ITEMS))})"
        is_plain = value is None or type(value) in (int, float, bool, complex)
        if not is_plain and time.monotonic() > self._until:
            return f"<{type(value).__name__}>"
        return repr(value)[: MAX_SHOWN_CHARACTERS + 1]

    def _tell_text(self, value: Any) -> str:
        more = len(value) - MAX_SHOWN_CHARACTERS
        unit = "characters" if isinstance(value, str) else "bytes"
        if more <= 0:
            return repr(value[:])
        return f"{value[: MAX_SHOWN_CHARACTERS - 60]!r} and {more + 60} {unit} more"

    def _of_type(
        self, value: Any, kind: Optional[type], parts: List[str], ends: str
    ) -> str:
        if len(value) > MAX_ITEMS:
            parts = [*parts, f"{len(value) - MAX_ITEMS} more"]
        comma = "," if ends == "()" and len(parts) == 1 else ""
        text = f"{ends[0]}{', '.join(parts)}{comma}{ends[1]}"
        return text if type(value) is kind else f"{type(value).__name__}({text})"

    def _tell_list(self, value: Iterable[Any], depth: int) -> List[str]:
        return [self._nested(one, "", depth) for one in islice(value, MAX_ITEMS)]

    def _tell_items(self, value: Dict[Any, Any], depth: int) -> List[str]:
        return [
            f"{self._nested(k, '', depth)}: {self._nested(v, str(k)[:100], depth)}"
            if isinstance(k, (str, bytes))
            else f"{self._nested(k, '', depth)}: {self._nested(v, '', depth)}"
            for k, v in islice(dict.items(value), MAX_ITEMS)
        ]

    def _nested(self, value: Any, name: str, depth: int) -> str:
        if SECRET_NAME.search(name):
            return MASK
        if depth <= 0:
            return "..."
        return self._tell(value, depth - 1)


# What is told -------------------------------------------------------------------------


class Frame(NamedTuple):
    """A place in the program, on the way to an error.

    Attributes:
        code: lines of the source, with their numbers.
        variables: names and texts; none where the page must not tell.
        is_own: it is the program's own, and no library's.
    """

    file: str
    line: int
    function: str
    code: List[Tuple[int, str]]
    variables: List[Tuple[str, str]]
    is_own: bool


class Told(NamedTuple):
    """An exception, as the page tells it.

    Attributes:
        relation: to the one told before it.
        left_out: how many frames are, in the middle.
    """

    kind: str
    message: str
    relation: str
    frames: List[Frame]
    left_out: int


def source_lines(
    file: str, line: int, scope: Optional[Dict[str, Any]]
) -> List[Tuple[int, str]]:
    """Return the lines around one, numbered, without what is a secret in them."""
    linecache.checkcache(file)
    lines = linecache.getlines(file, scope)
    first = max(1, line - SOURCE_LINES)
    return [
        (n, masked_source(text.rstrip()[:MAX_LINE_CHARACTERS]))
        for n, text in enumerate(lines[first - 1 : line + SOURCE_LINES], first)
    ]


def is_of_library(file: str) -> bool:
    """Return whether code is Python's own, or an installed library's."""
    installed = f"{os.sep}site-packages{os.sep}" in file
    return installed or file.startswith(os.path.dirname(os.__file__)) or file[:1] == "<"


def tell_frame(
    step: types.TracebackType, shower: Shower, with_variables: bool
) -> Frame:
    """Return what the page tells of one step of a traceback."""
    frame, code = step.tb_frame, step.tb_frame.f_code
    file, line = code.co_filename, step.tb_lineno or 0
    variables: List[Tuple[str, str]] = []
    if with_variables:
        own = {
            name: value
            for name, value in dict(frame.f_locals).items()
            if not name.startswith(("__", "@", ".")) and type(value) is not type(sys)
        }
        variables = [
            (name, shower.show(value, name))
            for name, value in islice(own.items(), MAX_VARIABLES)
        ]
    is_own = not is_own_code(file) and not is_of_library(file)
    lines = source_lines(file, line, frame.f_globals)
    return Frame(file, line, code.co_name, lines, variables, is_own)


def tell_error(
    error: BaseException, relation: str, shower: Shower, with_variables: bool
) -> Told:
    """Return what the page tells of one exception, the last call first."""
    steps = []
    step = error.__traceback__
    while step is not None:
        steps.append(step)
        step = step.tb_next
    left_out = max(0, len(steps) - MAX_FRAMES)
    if left_out:
        steps = [*steps[: MAX_FRAMES // 4], *steps[-3 * MAX_FRAMES // 4 :]]
    frames = [tell_frame(s, shower, with_variables) for s in reversed(steps)]
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        lines = source_lines(error.filename, error.lineno, None)
        place = error.filename, error.lineno, "where Python stops reading", lines
        frames.insert(0, Frame(*place, [], True))
    try:
        message = error.msg if isinstance(error, SyntaxError) else str(error)
    except BaseException as failure:
        if ends_worker(failure):
            raise
        message = "(its text can't be told)"
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = f"{message[:MAX_MESSAGE_CHARACTERS]}..."
    kind = type(error)
    home = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    name = f"{home}{kind.__qualname__}"
    return Told(name, masked(message), relation, frames, left_out)


def tell_chain(error: BaseException, with_variables: bool) -> List[Told]:
    """Return an exception, those it came from, and those that it is a group of."""
    fold(error)
    shower, seen = Shower(), set()
    told: List[Told] = []
    waiting: List[Tuple[BaseException, str]] = [(error, "")]
    while waiting and len(told) < MAX_ERRORS:
        one, relation = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        told.append(tell_error(one, relation, shower, with_variables))
        for inner in islice(getattr(one, "exceptions", ()), MAX_ERRORS):
            if isinstance(inner, BaseException):
                fold(inner)
                waiting.append((inner, "one of the group"))
        if one.__cause__ is not None:
            waiting.append((one.__cause__, "caused by"))
        elif one.__context__ is not None and not one.__suppress_context__:
            waiting.append((one.__context__, "while this one was handled"))
    return told


Rows = List[Tuple[str, str]]


def tell_request(request: Request) -> List[Tuple[str, Rows]]:
    """Return tables of what a request says; its body is not parsed for that."""
    shower = Shower()

    def rows(pairs: Iterable[Tuple[str, object]]) -> Rows:
        return [(name, shower.show(v, name)) for name, v in islice(pairs, 100)]

    def plain(pairs: Iterable[Tuple[str, str]]) -> Rows:
        cut = ((n, v[:MAX_SHOWN_CHARACTERS]) for n, v in islice(pairs, 100))
        return [(n, MASK if SECRET_NAME.search(n) else masked(v)) for n, v in cut]

    tables: List[Tuple[str, Rows]] = [("Headers", plain(request.headers.items()))]
    try:
        tables.append(("Query", plain(request.query.items())))
    except HTTPError:
        pass  # it has more fields than it may
    form = request._form  # None: nobody has asked for it
    if form is not None:
        tables.append(("Form", plain(form[0].items())))
        files = ((name, f"{one!r}") for name, one in form[1].items())
        tables.append(("Files", plain(files)))
    tables.append(("Path", rows(request.params.items())))
    tables.append(("Context", rows(request.context.items())))
    return [(title, found) for title, found in tables if found]


def tell_way(request: Request, lost: str = "") -> List[Tuple[str, str]]:
    """Return the steps of a request: who asked, where it was sent, what ran it.

    Args:
        lost: the worker that will not answer.
    """
    host, port = request.client
    steps = [("client", f"{host}:{port}" if host else "over a Unix socket")]
    route = request.route
    in_worker = proc_env.proc_type is ProcessType.pool
    if route is None:
        return [*steps, ("main process", f"pid {os.getpid()}, no route")]
    if in_worker or lost:
        where = f"pool {route.pool or 'default'}, {route.placement.name}"
        steps.append(("main process", f"has sent it to the {where}"))
        worker, _, pid = lost.partition(", ")
        worker, pid = worker or f"worker {proc_env.worker}", pid or f"pid {os.getpid()}"
        steps.append((worker, pid))
    else:
        place = f"pid {os.getpid()}, {route.placement.name}"
        steps.append(("main process", place))
    handler = route.handler
    code = getattr(handler, "__code__", None)
    at = f"{short(code.co_filename)}:{code.co_firstlineno}" if code else "no Python"
    steps.append((getattr(handler, "__name__", "handler"), f"{at}, {route.path}"))
    return steps


def tell_place(trace: str) -> List[Frame]:
    """Return the calls that a worker was at, as `faulthandler` has written them.

    They are those of the thread that ran the handler, down to the handler.
    """
    heads = ("Current thread ", "Stack (most")
    frames: List[Frame] = []
    is_handler = False
    for text in trace.splitlines():
        file, _, rest = text.rpartition('", line ')
        number, _, function = rest.partition(" in ")
        if not file.startswith('  File "') or not number.isdecimal():
            if frames:
                break
            is_handler = text.startswith(heads)
            continue
        file, line = file[len('  File "') :], int(number)
        if is_own_code(file):
            if function == "serve":  # Worker.serve: below it is how it was started
                break
        elif is_handler and len(frames) < MAX_FRAMES:
            # SECURITY: the worker has named it; reading a pipe would never end.
            code = source_lines(file, line, None) if os.path.isfile(file) else []
            is_own = not is_of_library(file)
            frames.append(Frame(file, line, function, code, [], is_own))
    return frames


def short(file: str) -> str:
    """Return a path as seen from the working directory, where that is shorter."""
    try:
        relative = os.path.relpath(file)
    except (ValueError, OSError):
        return file
    return file if relative.startswith("..") else relative


# The page -----------------------------------------------------------------------------

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #fff; --line: #e1e4ea; --text: #1a1f2b; --dim: #5c6577;
  --accent: #3b5bdb; --soft: #dbe4ff; --bad: #b3261e; --mark: #fff0ee;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10131a; --card: #191e28; --line: #2b3240; --text: #e7eaf1;
    --dim: #9aa4b6; --accent: #91a7ff; --soft: #27335c; --bad: #ff8a80;
    --mark: #3a1f22;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
main, header { max-width: 70rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.5rem; }
h1 { font-size: 1.5rem; line-height: 1.3; margin: 0; color: var(--bad); }
h2 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
h2 small { color: var(--dim); font-weight: 400; }
.message { font-size: 1.125rem; margin: .25rem 0 0; white-space: pre-wrap; }
.asked { color: var(--dim); margin: .5rem 0 0; }
code, pre, td, .asked b { font-family: ui-monospace, monospace; font-size: .8125rem; }
.asked b { color: var(--text); font-weight: 600; }
.way {
  display: flex; flex-wrap: wrap; gap: .5rem 0; list-style: none; padding: 0;
  margin: 1rem 0 0;
}
.way li {
  background: var(--card); border: 1px solid var(--line); border-radius: .625rem;
  padding: .375rem .75rem; font-size: .8125rem; color: var(--dim);
}
.way li + li { margin-left: 1.5rem; position: relative; }
.way li + li::before {
  content: "\\2192"; position: absolute; left: -1.2rem; color: var(--dim);
}
.way b { display: block; color: var(--text); font-weight: 600; }
.way li:last-child { border-color: var(--bad); }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: .625rem;
  margin-bottom: .5rem; overflow: hidden;
}
summary { padding: .5rem .875rem; cursor: pointer; }
summary b { font-weight: 600; }
summary span { color: var(--dim); font-size: .8125rem; }
.library > summary { color: var(--dim); }
.code {
  margin: 0; padding: .5rem 0; overflow-x: auto; border-top: 1px solid var(--line);
  line-height: 1.6; tab-size: 4; overflow-wrap: normal;
}
.code span { display: block; padding: 0 .875rem; width: max-content; min-width: 100%; }
.code i {
  display: inline-block; width: 2.75rem; color: var(--dim); font-style: normal;
  user-select: none;
}
.code .here { background: var(--mark); font-weight: 600; }
.code .here i { color: var(--bad); }
table { width: 100%; border-collapse: collapse; table-layout: fixed; }
td { padding: .25rem .875rem; vertical-align: top; border-top: 1px solid var(--line); }
td:first-child { width: 12rem; color: var(--accent); }
.text { margin: 0; padding: .75rem .875rem; white-space: pre-wrap; overflow-x: auto; }
.none { color: var(--dim); padding: 0 .25rem .5rem; margin: 0; }
footer { color: var(--dim); font-size: .8125rem; padding: 1.5rem 0 2.5rem; }
@media (max-width: 40rem) {
  .way { flex-direction: column; }
  .way li + li { margin: .75rem 0 0; }
  .way li + li::before { content: "\\2193"; left: 1rem; top: -1.3rem; }
  td, td:first-child { display: block; width: auto; }
  td + td { border: 0; padding-top: 0; }
  .code i { width: 2.25rem; }
}
"""


def integrity(text: str) -> str:
    """Return a hash by which a Content-Security-Policy allows one text."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


# SECURITY: whatever a value, a path or a source is made of, no script runs but that by
# which pages refresh themselves, and nothing is sent or framed.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {integrity(STYLE)}; "
        f"script-src '{script_hash()}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}


def _table(rows: Rows) -> str:
    cells = (f"<tr><td>{escape(n)}</td><td>{escape(v)}</td></tr>" for n, v in rows)
    return f"<table>{''.join(cells)}</table>"


def _frame(frame: Frame, is_open: bool) -> str:
    code = "".join(
        f"<span{' class=here' if n == frame.line else ''}><i>{n}</i>{escape(text)}"
        "</span>"
        for n, text in frame.code
    )
    kind = "card" if frame.is_own else "card library"
    shown = f'<pre class="code">{code}</pre>' if code else ""
    variables = _table(frame.variables) if frame.variables else ""
    return (
        f'<details class="{kind}"{" open" if is_open else ""}>'
        f"<summary><b>{escape(frame.function)}</b> "
        f"<span>{escape(short(frame.file))}:{frame.line}</span></summary>"
        f"{shown}{variables}</details>\n"
    )


def _error(told: Told, is_first: bool) -> Iterator[str]:
    if not is_first:
        relation = f"<small>{escape(told.relation)}</small>"
        yield f"<h2>{relation} {escape(told.kind)}: {escape(told.message)}</h2>\n"
    else:
        yield "<h2>Where <small>the last call first</small></h2>\n"
    last = next((one for one in told.frames if one.is_own), None)
    for at, frame in enumerate(told.frames):
        if told.left_out and at == 3 * MAX_FRAMES // 4:
            yield f'<p class="none">{told.left_out} more calls</p>\n'
        yield _frame(frame, frame is last or (is_first and frame.is_own and at < 3))
    if not told.frames:
        yield '<p class="none">There is no traceback.</p>\n'


def render_page(
    status: int,
    told: List[Told],
    request: Request,
    text: str,
    note: str,
    lost: str = "",
) -> str:
    """Return the HTML of the page; `lost` is the worker that will not answer."""
    first = told[0]
    target = masked(f"{request.method} {request.head.target}")
    steps = (
        f"<li><b>{escape(a)}</b>{escape(b)}</li>" for a, b in tell_way(request, lost)
    )
    errors = (part for at, one in enumerate(told) for part in _error(one, at == 0))
    tables = (
        f'<details class="card" open><summary><b>{title}</b></summary>{_table(rows)}'
        "</details>\n"
        for title, rows in tell_request(request)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(f'{first.kind}: {first.message}'[:120])}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<header>\n"
        f"<h1>{escape(first.kind)}</h1>\n"
        f'<p class="message">{escape(first.message)}</p>\n'
        f'<p class="asked"><b>{escape(target[:500])}</b> is answered {status}, '
        f"request {escape(request.request_id)}</p>\n"
        f'<ol class="way">{"".join(steps)}</ol>\n</header>\n<main>\n'
        f"{''.join(errors)}<h2>Request</h2>\n{''.join(tables)}"
        '<h2>As text</h2>\n<details class="card"><summary>The traceback, to copy'
        f'</summary><pre class="text">{escape(text)}</pre></details>\n'
        f"<footer>{escape(note)}</footer>\n</main>\n</body>\n</html>\n"
    )


def render_text(told: List[Told]) -> str:
    """Return the traceback as text, as Python orders it, without secrets."""
    parts = []
    for one in reversed(told):
        lines = ["Traceback (most recent call last):"] if one.frames else []
        for frame in reversed(one.frames):
            lines.append(
                f'  File "{frame.file}", line {frame.line}, in {frame.function}'
            )
            lines += [
                f"    {text.strip()}" for n, text in frame.code if n == frame.line
            ]
        head = f"({one.relation}) " if one.relation else ""
        lines.append(f"{head}{one.kind}: {one.message}" if one.message else one.kind)
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


DEBUG_NOTE = (
    "This page is shown because debug is on: never leave it on where strangers can "
    "ask. Values under the names of secrets are masked. Nothing can be run from here."
)
LOSS_NOTE = (
    "This page is shown because debug is on: never leave it on where strangers can "
    "ask. The worker is gone, and its variables with it. The log says how it ended."
)
FAILED_NOTE = (
    "The program is started again as soon as one of its files changes, and this page "
    "is loaded again."
)


def answer_failure(
    request: Request, error: BaseException, is_debug: bool, as_json: bool
) -> Response:
    """Return the answer to an error that nobody has declared, 500.

    Args:
        is_debug: variables may be told; else it is a program that does not start.
        as_json: the client prefers JSON. Who does not name HTML gets text.
    """
    told = tell_chain(error, is_debug)
    text = render_text(told)
    if as_json:
        detail = f"{told[0].kind}: {told[0].message}"
        page = error_page(HTTPError(500, detail), text, True)
    elif wants_html(request):
        note = DEBUG_NOTE if is_debug else FAILED_NOTE
        page = Response(render_page(500, told, request, text, note), 500)
    else:
        page = Response(f"500 {REASONS[500]}\n\n{text}", 500, PLAIN)
    page.headers.update(HEADERS)
    return page.settle()


def wants_html(request: Request) -> bool:
    """Return whether a client names HTML, or nothing."""
    return "text/html" in (request.header("accept") or "text/html")


def answer_loss(request: Request, error: AnswerLost, as_json: bool) -> Response:
    """Return the answer of a worker that ran too long or died, 504 or 502.

    Only the stack of its handler is left, which it has written itself.
    """
    trace = masked(error.trace)
    title = f"{error.status} {REASONS[error.status]}"
    if as_json:
        page = error_page(error, trace, True)
    elif wants_html(request):
        told = [Told(title, error.text, "", tell_place(error.trace), 0)]
        made = render_page(error.status, told, request, trace, LOSS_NOTE, error.worker)
        page = Response(made, error.status)
    else:
        page = Response(f"{title}\n\n{error.text}\n\n{trace}\n", error.status, PLAIN)
    page.headers.update(HEADERS)
    return page.settle()
