"""Writes docs/reference.md from the docstrings of what is public.

    python tests/house/reference.py          writes the page anew

The sources are read and not imported, so the page is the same on every Python.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Union

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference.md"
PACKAGE = ROOT / "pixie_web"
OPENING = """\
# Reference

Every public name, with its docstring. `python tests/house/reference.py` writes this
page from the sources; edit the docstrings, not the page.

"""

Node = Union[ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef]

# A heading, then lines of a file, a name in it, and of a class the members to show.
SECTIONS = {
    "The application": [
        "pixie Pixie",
        "declaring Declarations: route get post put delete patch head options filter "
        "static before after error json json_default secrets on_start on_stop "
        "on_worker_start on_worker_stop pool",
        "pixie Pixie: mount run test check wsgi asgi",
        "application Application: url_for stats status routes",
        "application Sharing: state",
    ],
    "Placement": [
        "executors/base RouteType",
        "executors/base ProcessType",
        "executors/base ProcessEnvironment",
    ],
    "The request": [
        "requests Request: method path url query_string query protocol headers header "
        "cookies cookie session body text json form files stream request_id raw_head "
        "disconnected after_response",
        "datastructures MultiDict: get getall keys items",
        "forms FileUpload: filename save",
        "forms parse_form",
        "sessions Sessions",
        "sessions Session: clear renew",
    ],
    "The response": [
        "responses Response: status headers content_type set_cookie delete_cookie etag",
        "datastructures Headers: add get getall setdefault update items",
        "responses Event",
        "responses abort",
        "responses redirect",
        "staticfiles static_file",
        "staticfiles cached_file",
        "conditional check_preconditions",
    ],
    "Triggers": [
        "middleware same_origin",
        "middleware cors",
        "middleware etag",
        "middleware compress",
        "state/limits rate_limit",
    ],
    "Templates": [
        "templating/templates Template: load render",
        "templating/templates template",
    ],
    "State": [
        "state/api State: get set add delete incr rate read update lock publish "
        "subscribe stats close",
    ],
    "Tests": [
        "testing TestClient: request get post put patch delete head options stream "
        "close",
        "testing TestResponse: reason_phrase is_success is_redirect content text json "
        "iter_bytes iter_lines cookies raise_for_status close",
        "testing client_fixture",
    ],
    "Errors": [
        "errors PixieError",
        "errors HTTPError",
        "errors ProtocolError",
        "errors MissingValue",
        "errors BadValue",
        "errors ClientDisconnected",
        "errors RouteError",
        "errors TemplateError",
        "errors MissingExtra",
        "errors RequestTimeout",
    ],
}
OF_THE_APPLICATION = (
    "`app` is a `Pixie` that is there already. Its methods are functions of the "
    "package too: `route`, `get`, `post`, `put`, `delete`, `patch`, `head`, "
    "`options`, `before`, `after`, `error`, `static`, `mount` and `run`.\n\n"
)
# "Raises:", or with a condition: "Raises, each of its calls:".
_HEADING = re.compile(r"(?:Args|Attributes|Raises|Returns|Example)(?:, [^:]+)?:")
# The class under which the members of others stand.
_SHOWN_AS = {"Declarations": "Pixie", "Application": "Pixie", "Sharing": "Pixie"}


class Source(NamedTuple):
    """A file, and what it defines at its top."""

    text: str
    names: Dict[str, Node]


def read(chapter: str) -> Source:
    """Return a chapter's text and its definitions."""
    text = (PACKAGE / f"{chapter}.py").read_text("utf-8")
    return Source(text, dict(definitions(ast.parse(text).body)))


def definitions(body: List[ast.stmt]) -> Iterator[tuple[str, Node]]:
    """Yield what is defined; of a property its getter, of overloads the last."""
    setters = ("setter", "deleter")
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            marks = [getattr(one, "attr", "") for one in node.decorator_list]
            if not set(marks) & set(setters):
                yield node.name, node
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            # `content = property(read)`: it says the same.
            inner = [
                one for one in body if getattr(one, "name", "") in _arguments(node)
            ]
            yield from ((name.id, inner[0]) for name in node.targets if inner)  # type: ignore[attr-defined,misc]


def _arguments(node: ast.Assign) -> List[str]:
    call = node.value
    assert isinstance(call, ast.Call)
    return [one.id for one in call.args if isinstance(one, ast.Name)]


def is_property(node: Node, name: str) -> bool:
    """Return whether a member is read and not called."""
    marks = [getattr(one, "id", "") for one in node.decorator_list]
    return "property" in marks or name != node.name


def signature(text: str, node: Node) -> str:
    """Return the arguments without their types, with their defaults."""
    if isinstance(node, ast.ClassDef):
        inner = dict(definitions(node.body))
        made = inner.get("__init__") or inner.get("__new__")
        return signature(text, made) if made else ""
    args = node.args
    names = [*args.posonlyargs, *args.args]
    absent = len(names) - len(args.defaults)
    values = [None] * absent + [ast.get_source_segment(text, d) for d in args.defaults]
    parts = [one.arg + (f"={v}" if v else "") for one, v in zip(names, values)]
    if args.posonlyargs:
        parts.insert(len(args.posonlyargs), "/")
    parts = parts[1:] if names and names[0].arg in ("self", "cls") else parts
    if parts[:1] == ["/"]:
        parts = parts[1:]
    if args.vararg:
        parts.append(f"*{args.vararg.arg}")
    elif args.kwonlyargs:
        parts.append("*")
    for one, default in zip(args.kwonlyargs, args.kw_defaults):
        value = default and ast.get_source_segment(text, default)
        parts.append(one.arg + (f"={value}" if value else ""))
    if args.kwarg:
        parts.append(f"**{args.kwarg.arg}")
    return f"({', '.join(parts)})"


def escaped(text: str) -> str:
    """Return prose as Markdown: `code` stays, and nothing else is markup."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*_\[\]<>|\\])", r"\\\1", one) for one in parts[::2]]
    return "".join(parts)


def _items(lines: List[str]) -> Iterator[str]:
    """Yield the items of a section, each on one line, its name as code."""
    joined: List[str] = []
    least = min(len(line) - len(line.lstrip()) for line in lines)
    for line in lines:
        if line[least] == " " and joined:
            joined[-1] += f" {line.strip()}"
        else:
            joined.append(line.strip())
    for one in joined:
        name, colon, rest = one.partition(": ")
        if colon and re.fullmatch(r"[\w., ]+", name):
            listed = ", ".join(f"`{word.strip()}`" for word in name.split(","))
            yield f"- {listed}: {escaped(rest)}"
        else:
            yield f"- {escaped(one)}"


def prose(docstring: str) -> str:
    """Return a docstring as Markdown."""
    out: List[str] = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        lines = paragraph.splitlines()
        if _HEADING.fullmatch(lines[0]):
            out.append(f"{lines[0]}\n\n" + "\n".join(_items(lines[1:])))
        elif all(line.startswith("    ") for line in lines):
            out.append("```text\n" + "\n".join(line[4:] for line in lines) + "\n```")
        else:
            out.append(escaped(" ".join(lines)))
    return "\n\n".join(out) + "\n\n"


def entry(line: str) -> Iterator[str]:
    """Yield the parts of the page for a line of SECTIONS.

    Raises:
        ValueError: a name has no docstring.
    """
    place, _, members = line.partition(": ")
    chapter, name = place.split()
    source = read(chapter)
    node = source.names[name]
    if not members or name not in (*_SHOWN_AS, "Pixie"):
        call = signature(source.text, node)
        yield f"### `{name}`\n\n{called(name, call)}{explained(node, place)}"
    assert isinstance(node, ast.ClassDef) or not members
    inner = dict(definitions(node.body))
    for member in members.split():
        found = inner[member]
        call = "" if is_property(found, member) else signature(source.text, found)
        shown = f"{_SHOWN_AS.get(name, name)}.{member}"
        yield f"#### `{shown}`\n\n{called(member, call)}{explained(found, shown)}"


def called(name: str, arguments: str) -> str:
    """Return how something is called, as a block of code; "" of what is not."""
    if not arguments:
        return ""
    line = name + arguments
    if len(line) > 88:
        inner = "\n".join(textwrap.wrap(arguments[1:-1], 84))
        line = f"{name}(\n{textwrap.indent(inner, '    ')}\n)"
    return f"```text\n{line}\n```\n\n"


def explained(node: Node, what: str) -> str:
    """Return the docstring of a definition as Markdown."""
    docstring = ast.get_docstring(node)
    if not docstring:
        raise ValueError(f"{what} has no docstring")
    return prose(docstring)


def page() -> str:
    """Return the whole page."""
    out = [OPENING]
    for title, lines in SECTIONS.items():
        out.append(f"## {title}\n\n")
        out += [OF_THE_APPLICATION] if title == "The application" else []
        out += [part for line in lines for part in entry(line)]
    return "".join(out).rstrip() + "\n"


def shown_names() -> List[str]:
    """Return the names that the page has an entry of."""
    return [
        line.partition(":")[0].split()[1] for part in SECTIONS.values() for line in part
    ]


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
