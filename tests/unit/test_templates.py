"""The template language, its errors, its files, its caches, its engines."""

from __future__ import annotations

import io
import os
import pathlib
import re
import traceback
from typing import Any, Callable, Dict, List

import pytest

from pixie_web import Template, TemplateError, template
from pixie_web.templating.compiler import (
    MAX_CACHED_TEMPLATES,
    _template_patterns,
    compile_template,
)
from pixie_web.templating.templates import (
    _kept_template,
    _required_template,
    _template_file,
)
from pixie_web.text import escape

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test the defaults, and forget what it sets."""
    monkeypatch.setattr(Template, "path", ("views", "templates"))
    monkeypatch.setattr(Template, "cache", None)
    monkeypatch.setattr(Template, "defaults", {})
    monkeypatch.setattr(Template, "engines", {})


@pytest.fixture
def views(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Return an empty template directory, which `template()` looks in."""
    directory = tmp_path / "views"
    directory.mkdir()
    monkeypatch.chdir(tmp_path)
    return directory


def write(path: pathlib.Path, text: str) -> None:
    """Write a file whose time differs from that of the one it replaces."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text, encoding="utf-8")
    if path.stat().st_mtime_ns <= before:
        os.utime(path, ns=(before + 1, before + 1))


def frames(error: BaseException) -> List[traceback.FrameSummary]:
    return list(traceback.extract_tb(error.__traceback__))


class Html(str):
    def __html__(self) -> str:
        return str(self)


class Loud:
    def __str__(self) -> str:
        return "<loud>"


class Broken:
    def __str__(self) -> str:
        raise ZeroDivisionError("in __str__")


# The language -------------------------------------------------------------------------

RENDERED = {
    "text": ("plain", {}, "plain"),
    "nothing": ("", {}, ""),
    "a value": ("start {{x}} end", {"x": "v"}, "start v end"),
    "a value is escaped": ("{{x}}", {"x": "<&>\"'"}, "&lt;&amp;&gt;&quot;&#39;"),
    "a raw value": ("{{!x}}", {"x": "<&>\"'"}, "<&>\"'"),
    "spaces around": ("{{  x  }}{{ ! x }}", {"x": "<"}, "&lt;<"),
    "None is empty": ("[{{x}}{{!x}}]", {"x": None}, "[]"),
    "numbers": ("{{a}} {{b}} {{c}}", {"a": 0, "b": 1.5, "c": True}, "0 1.5 True"),
    "a list": ("{{x}}", {"x": [1, "<"]}, "[1, &#39;&lt;&#39;]"),
    "bytes are UTF-8": ("{{x}}{{!x}}", {"x": "ä<".encode()}, "ä&lt;ä<"),
    "its own HTML": ("{{x}}", {"x": Html("<b>")}, "<b>"),
    "its own HTML beside text": ("{{x}}{{y}}", {"x": Html("<"), "y": "<"}, "<&lt;"),
    "an object": ("{{x}}{{!x}}", {"x": Loud()}, "&lt;loud&gt;<loud>"),
    "a NUL": ("{{x}}{{y}}", {"x": "a\0<", "y": ">"}, "a\0&lt;&gt;"),
    "NULs that add up": ("{{x}}{{y}}{{x}}", {"x": "\0", "y": "&"}, "\0&amp;\0"),
    "an expression": ("{{x.upper() if x else 'none'}}", {"x": "a"}, "A"),
    "a string with marks": ("{{'}}'}}{{\"{{\"}}", {}, "}}{{"),
    "a value is never parsed": ("{{!x}}", {"x": "{{1}}\n% end"}, "{{1}}\n% end"),
    "marks left open": ("{{ x\n{{ it's", {}, "{{ x\n{{ it's"),
    "a loop": ("% for i in x:\n{{i}},\n% end\n.", {"x": [1, 2]}, "1,\n2,\n."),
    "if": ("% if x:\na\n% elif y:\nb\n% else:\nc\n% end", {"x": 0, "y": 1}, "b\n"),
    "blocks in blocks": (
        "% for i in (1, 2):\n%   if i == 2:\n<{{i}}>\n%   end\n% end",
        {},
        "<2>\n",
    ),
    "while": ("% while x:\n% x -= 1\n{{x}}\n% end", {"x": 2}, "1\n0\n"),
    "try": (
        "% try:\n% 1 / 0\n% except ArithmeticError as e:\n{{e}}\n% finally:\n.\n% end",
        {},
        "division by zero\n.\n",
    ),
    "with": ("% with x('a') as y:\n{{y.read()}}\n% end", {"x": io.StringIO}, "a\n"),
    "a def": ("% def f(a):\n<{{a}}>\n% end\n% f(1)\n% f('<')", {}, "<1>\n<&lt;>\n"),
    "a recursive def": (
        "% def f(n):\n{{n}}\n% if n:\n% f(n - 1)\n% end\n% end\n% f(2)",
        {},
        "2\n1\n0\n",
    ),
    "a class": ("% class A:\n%   x = 3\n% end\n{{A.x}}", {}, "3"),
    "one-line blocks": ("% if x: y = 1; end\n{{y}}", {"x": 1}, "1"),
    "one-line else": ("% if x: y = 1\n% else: y = 2\n% end\n{{y}}", {"x": 0}, "2"),
    "end with a comment": ("% if 1:\na\n% end # of it", {}, "a\n"),
    "end inside a name": ("% send = 1; the_end = 2\n{{send + the_end}}", {}, "3"),
    "if in an expression": ("% x = 1 if y else 2\n{{x}}", {"y": 0}, "2"),
    "import": ("% from math import pi\n{{int(pi)}}", {}, "3"),
    "import *": ("% from math import *\n{{int(pi)}}", {}, "3"),
    "a comment": ("a\n% # nothing\nb", {}, "a\nb"),
    "# in a string": ("% x = '#'\n{{x}}", {}, "#"),
    "brackets over lines": ("% x = [1,\n%  2 if 1 else\n%  3]\n{{x}}", {}, "[1, 2]"),
    "a comprehension over lines": (
        "% x = [\n%   i\n%   for i in range(5)\n%   if i % 2\n% ]\n{{x}}",
        {},
        "[1, 3]",
    ),
    "a backslash": ("% if 1 \\\n% and 1:\na\n% end", {}, "a\n"),
    "a string over lines": ("% x = '''a\n% b\n'''\n{{x}}", {}, "a\n% b\n"),
    "a code block": ("<% a = 1\nb = 2 %>\n{{a + b}}", {}, "3"),
    "indentation is free": (
        "<%\n  if 1:\n      a = 2\n    else:\n a = 3\n   end\n%>\n{{a}}",
        {},
        "2",
    ),
    "end before the mark": ("<% if 1:\n a = 1\n end %>\n{{a}}", {}, "1"),
    "the mark in a string": ("<% a = '%>'\nb = 1 %>\n{{a}}{{b}}", {}, "%&gt;1"),
    "the mark in a comment": ("<% # a\n# %> b\nx = 1 # c %>\n{{x}}", {}, "1"),
    "the mark at the end only": ("a <% b %>", {}, "a <% b %>"),
    "% in a line": ("100 % sure", {}, "100 % sure"),
    "an escaped %": ("\\% a {{1}}\n  \\%% b", {}, "% a 1\n  %% b"),
    "an escaped <%": ("\\<% a\nb", {}, "<% a\nb"),
    "no newline": ("a\\\\\n% pass\nb", {}, "ab"),
    "no newline, windows": ("a\\\\\r\n% pass\r\nb", {}, "ab"),
    "no newline after a value": ("{{1}}\\\\\n% pass\nb", {}, "1b"),
    "only the last newline": ("a\\\\\n\\\\\n% pass\nb", {}, "a\\\\\nb"),
    "windows lines": ("% for i in x:\r\n{{i}}\r\n% end\r\n", {"x": [1]}, "1\r\n"),
    "get": ("{{get('x')}}{{get('y', 2)}}{{get('z')}}", {"x": 1}, "12"),
    "get of a built-in name": ("{{get('id', 1)}}{{id(0) and 2}}", {}, "12"),
    "get of an assigned one": ("% x = 1\n{{get('x')}}", {}, "1"),
    "defined": ("{{defined('x')}}{{defined('y')}}", {"x": 1}, "TrueFalse"),
    "defined, built in": ("{{defined('len')}}{{len('')}}", {}, "False0"),
    "setdefault": ("% setdefault('x', 1)\n{{x}}", {}, "1"),
    "setdefault of a given": ("% setdefault('x', 1)\n{{x}}", {"x": 2}, "2"),
    "get in a def": ("% def f():\n{{get('x')}}\n% end\n% f()", {"x": 1}, "1\n"),
    "global": ("% def f():\n% global x\n% x = 2\n% end\n% f()\n{{x}}", {"x": 1}, "2"),
    "locals": ("{{'x' in locals()}}", {"x": 1}, "True"),
    "a variable named as a built-in": ("{{max}}{{id}}", {"max": 1, "id": 2}, "12"),
    "a built-in, assigned": ("% list = list('ab')\n{{list[1]}}", {}, "b"),
    "a variable named self": ("{{self}}", {"self": 1}, "1"),
    "a variable named source": ("{{source}}{{path}}", {"source": 1, "path": 2}, "12"),
    "_ is free": ("{{_('a')}}", {"_": str.upper}, "A"),
    "a unicode name": ("% größe = 1\n{{größe}}", {}, "1"),
    "a lambda": ("% f = lambda: x\n{{f()}}", {"x": 1}, "1"),
    "a byte order mark": (b"\xef\xbb\xbfa", {}, "a"),
    "source as bytes": ("ä{{x}}".encode(), {"x": 1}, "ä1"),
}


@pytest.mark.parametrize("source, variables, expected", RENDERED.values(), ids=RENDERED)
def test_a_template_renders(source: Any, variables: Any, expected: str) -> None:
    assert Template(source).render(variables) == expected


def test_values_are_evaluated_once_and_in_order() -> None:
    seen: List[int] = []
    source = "{{f(1)}}{{!f(2)}}{{f(3)}}"
    got = Template(source).render(f=lambda n: seen.append(n) or n)  # type: ignore[func-returns-value]
    assert (got, seen) == ("123", [1, 2, 3])


def test_keywords_win_over_mappings_and_mappings_over_defaults() -> None:
    Template.defaults = {"a": 0, "b": 0, "c": 0}  # type: ignore[misc]
    got = Template("{{a}}{{b}}{{c}}{{d}}").render({"b": 1, "c": 1}, {"d": 3}, c=2)
    assert got == "0123"


def test_the_variables_given_are_not_changed() -> None:
    given = {"x": 1}
    Template("% x = 2\n% y = 3\n% setdefault('z', 4)\n{{x}}").render(given)
    assert given == {"x": 1}


def test_a_template_is_rendered_anew_each_time() -> None:
    page = Template("% x = get('x', 0) + 1\n{{x}}")
    assert [page.render(), page.render(x=5), page.render()] == ["1", "6", "1"]


def test_other_marks_can_be_chosen() -> None:
    page = Template(
        "# x = '<'\n{{x}} [[x]]\n<? y = 1 ?>\n[[y]]", syntax="<? ?> # [[ ]]"
    )
    assert page.render() == "{{x}} &lt;\n1"


def test_thousands_of_values_in_one_text() -> None:
    source = "".join(f"<b>{{{{x[{i}]}}}}</b>'\n" for i in range(2000))
    got = Template(source).render(x=[f"<{i}" for i in range(2000)])
    assert got == "".join(f"<b>&lt;{i}</b>'\n" for i in range(2000))


# Escaping -----------------------------------------------------------------------------

PIECES = ["a", "<", "&", ">", '"', "'", "\0", "", "&amp;", "ä", "\ud800"]


def test_each_value_is_escaped_as_if_alone() -> None:
    row = Template("{{a}}|{{b}}|{{c}}")
    for a in PIECES:
        for b in PIECES:
            for c in (a + b, Html("<i>"), None, 7):
                expected = "|".join(
                    "" if value is None else escape(value) for value in (a, b, c)
                )
                assert row.render(a=a, b=b, c=c) == expected


class Text(str):
    """Says itself what it is."""

    def __str__(self) -> str:
        return f"<{super().__str__()}>"


class Number(int):
    def __str__(self) -> str:
        return "<number>"


class Renderer:
    def __init__(self, html: object) -> None:
        self.html = html

    def __html__(self) -> object:
        return self.html

    def __str__(self) -> str:
        return "not this"


VALUES: List[Any] = [
    *(
        "",
        "plain",
        "<&>\"'",
        "&amp;",
        "\0",
        "a\0<",
        "&\0",
        "&\0<b>",
        "\0\0\0",
        "% %s %%",
    ),
    *("{}", "{0}", "\\", "\n", "\ud800", "ä\u2028", "&" * 99, Text("&"), Text("\0")),
    *(None, True, 0, -1.5, 1e300, float("nan"), 10**30, 1j, Number(3), b"<\xc3\xa4\0>"),
    *(Html(""), Html("<b>\0&\0"), Renderer("<i>"), Renderer(Text("t")), Renderer(3)),
    *([], ["<"], {"'": 1}, Loud(), Html, str),
]


def shown(value: Any, is_raw: bool = False) -> str:
    """Return what a template shows of a value, by the words of the guide."""
    if not is_raw and hasattr(value, "__html__"):
        return escape(value)
    text = value.decode() if isinstance(value, bytes) else str(value)
    return "" if value is None else text if is_raw else escape(text)


@pytest.mark.parametrize("extra", ["", "% from math import *\n"], ids=["def", "exec"])
def test_no_value_changes_what_is_shown_of_another(
    views: pathlib.Path, extra: str
) -> None:
    values = [value for value in VALUES if value is not Html]
    write(views / "layout.tpl", "<{{a}}>{{!base}}<{{base}}>")
    write(views / "row.tpl", extra + "{{a}}{{!a}}'{{b}}\n")
    write(
        views / "page.tpl",
        extra
        + "% rebase('layout')\n% for a in values:\n% include('row')\n% end\n{{b}}",
    )
    for b in values:
        base = "".join(f"{shown(a)}{shown(a, True)}'{shown(b)}\n" for a in values)
        base += shown(b)
        got = template("page", values=values, b=b)
        assert got == f"<{shown(values[-1])}>{base}<{escape(base)}>"


def test_a_value_cannot_leave_its_attribute_or_start_a_tag() -> None:
    page = Template("<a title=\"{{x}}\" rel='{{x}}'>{{x}}</a>")
    got = page.render(x="\"'><script>alert(1)</script>")
    assert got.count("<") == 2
    assert got.count('"') == 2
    assert got.count("'") == 2


# Errors -------------------------------------------------------------------------------

WRONG = {
    "a statement": ("a\n\n% x = = 1", 3, "% x = = 1"),
    "an expression": ("a\n{{b}}\n {{ 1 + }}", 3, "{{ 1 + }}"),
    "two expressions": ("{{1) + (2}}", 1, "{{1) + (2}}"),
    "an empty expression": ("{{}}", 1, "{{}}"),
    "an empty raw expression": ("\n{{ ! }}", 2, "{{ ! }}"),
    "no end": ("a\n% if 1:\nb\n", 2, "% if 1:"),
    "too many ends": ("% if 1:\nb\n% end\n% end", 4, "% end"),
    "a block left open": ("a\n<% x = 1\nb", 2, "<% x = 1"),
    "text in a bracket": ("% f(\ntext\n% )", 2, "text"),
    "no colon": ("a\n% if x\nb\n% end", 2, "% if x"),
    "an empty block": ("% for x in y:\n% end\n", 1, "% for x in y:"),
    "return": ("a\n% return 1", 2, "% return 1"),
    "yield": ("a\n% yield 1", 2, "% yield 1"),
    "in a code block": ("<%\na = 1\nb = = 2\n%>", 3, "b = = 2"),
    "after a string over lines": ("% x = '''\n'''\n% 1 1", 3, "% 1 1"),
    "else without if": ("a\n% else:\nb", 2, "% else:"),
    "a lone return in code": ("% a\rb", 1, "% a\rb"),
}


@pytest.mark.parametrize("source, line, shown", WRONG.values(), ids=WRONG)
def test_a_wrong_template_names_its_line(source: str, line: int, shown: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(source, filename="page.tpl")
    first, _, second = str(caught.value).partition("\n")
    # Before 3.9 Python finds an empty block one line later, at its end.
    lines = {line, line + 1} if "empty block" in first else {line}
    assert any(first.startswith(f"page.tpl:{n}: ") for n in lines), first
    assert second == f"    {shown}"
    assert caught.value.__cause__ is None


def test_a_lone_carriage_return_is_a_blank_in_code_and_stays_in_text() -> None:
    source = "a\r% b\r{{1\r+ 2}}\n% x = 4\r\n{{x}}"
    assert Template(source).render() == "a\r% b\r3\n4"


def test_a_line_that_pythons_message_names_is_that_of_the_template() -> None:
    with pytest.raises(TemplateError) as caught:
        Template("{{a}}\n{{b}}\n% x = (a,\n% b]", filename="page.tpl")
    # Python 3.8 says it too, and a later one may find other words.
    assert re.findall(r" on line (\d+)", str(caught.value)) in (["3"], [])


TOO_DEEP = ["{{" + "(" * 1000 + "}}", "{{" + "-" * 50_000 + "1}}", "% x = " + "[" * 500]


@pytest.mark.parametrize("source", TOO_DEEP, ids=["brackets", "signs", "lists"])
def test_what_is_nested_too_deeply_is_a_template_error(source: str) -> None:
    with pytest.raises(TemplateError, match=r"page\.tpl:1: "):
        Template(source, filename="page.tpl")


def test_bytes_that_are_not_utf_8_are_a_template_error() -> None:
    with pytest.raises(TemplateError, match="not UTF-8"):
        Template(b"\xff")


def test_another_encoding_may_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Template(b"\xef\xbb\xbf{{x}}\xc3\xa4").render(x=1) == "1ä"
    monkeypatch.setattr(Template, "encoding", "latin-1")
    assert Template(b"{{x}}\xe4").render(x=1) == "1ä"


def test_neither_source_nor_filename_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        Template()


FAILING = {
    "a value": ("a\nb\n{{ x[5] }}\n", 3, "{{ x[5] }}"),
    "the second of a line": ("{{ x }} {{ x[5] }}", 1, "{{ x }} {{ x[5] }}"),
    "on a line of its own": ("{{x}}\n\n{{!x}}\n{{ x[5] }}\n{{x}}", 4, "{{ x[5] }}"),
    "a statement": ("a\n\n% y = x[5]\n", 3, "% y = x[5]"),
    "a code block": ("a\n<%\ny = 1\ny = x[5]\n%>\n", 4, "y = x[5]"),
    "a loop": ("% for i in x[5]:\n{{i}}\n% end", 1, "% for i in x[5]:"),
    "in a loop": ("% for i in x:\n\n{{x[5]}}\n% end", 3, "{{x[5]}}"),
    "in a def": ("% def f():\n{{x[5]}}\n% end\n\n% f()", 2, "{{x[5]}}"),
    "after windows lines": ("a\r\nb\r\n{{x[5]}}\r\n", 3, "{{x[5]}}"),
    "after an escape": ("\\% a\n\\% b\n{{x[5]}}", 3, "{{x[5]}}"),
    "with exec": ("% from math import *\na\n{{x[5]}}", 3, "{{x[5]}}"),
    "after a string over lines": ("% y = '''\n\n'''\n{{x[5]}}", 4, "{{x[5]}}"),
    "behind other alphabets": ("日本 {{'ä'}} {{x[5]}}", 1, "日本 {{'ä'}} {{x[5]}}"),
}


@pytest.mark.parametrize("source, line, shown", FAILING.values(), ids=FAILING)
@pytest.mark.parametrize("from_file", [False, True], ids=["text", "file"])
def test_a_failing_template_shows_its_line_in_the_traceback(
    source: str, line: int, shown: str, from_file: bool, views: pathlib.Path
) -> None:
    if from_file:
        (views / "page.tpl").write_bytes(source.encode())
        page = Template(filename="page.tpl")
        assert page.filename == str(views.resolve() / "page.tpl")
    else:
        page = Template(source)
    with pytest.raises(IndexError) as caught:
        page.render(x=[1])
    frame = frames(caught.value)[-1]
    assert (frame.filename, frame.lineno, frame.line) == (page.filename, line, shown)


def test_the_columns_in_a_traceback_are_those_of_the_template() -> None:
    with pytest.raises(IndexError) as caught:
        Template("<p>ä {{ 1 }} {{ 'ü', x[5] }}</p>").render(x=[1])
    frame: Any = frames(caught.value)[-1]
    if hasattr(frame, "colno"):  # Python 3.11
        line = frame.line.encode()
        assert line[frame.colno : frame.end_colno].decode() in ("x[5]", " x[5", "{ x[")


def test_an_error_in_a_value_names_the_line_of_the_value() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        Template("{{1}}\n{{2}}\n{{x}}\n{{4}}", filename="page.tpl").render(x=Broken())
    lines = [f.lineno for f in frames(caught.value) if f.filename == "page.tpl"]
    assert lines == [3]


def test_errors_in_included_templates_name_every_file(views: pathlib.Path) -> None:
    write(views / "outer.tpl", "a\n% include('inner')\n")
    write(views / "inner.tpl", "\n\n{{1 / 0}}")
    with pytest.raises(ZeroDivisionError) as caught:
        template("outer")
    found = [(os.path.basename(f.filename), f.lineno) for f in frames(caught.value)]
    assert ("outer.tpl", 2) in found
    assert found[-1] == ("inner.tpl", 3)


UNDEFINED = {
    "a value": "a\n{{ missing }}",
    "assigned later": "a\n{{ missing }}\n% missing = 1",
    "in a def": "% def f():\n{{missing}}\n% end\n% f()",
    "in a def, assigned later": "% def f():\n{{missing}}\n% end\n% f()\n% missing = 1",
    "with exec": "% from math import *\n{{missing}}",
    "deleted": "% missing = 1; del missing\n{{missing}}",
}


@pytest.mark.parametrize("source", UNDEFINED.values(), ids=UNDEFINED)
def test_a_missing_variable_is_a_name_error_where_it_is_used(source: str) -> None:
    with pytest.raises(NameError, match=r"^name 'missing' is not defined$") as caught:
        Template(source, filename="page.tpl").render()
    frame = frames(caught.value)[-1]
    assert (frame.filename, frame.lineno) == ("page.tpl", 2)


def test_a_missing_variable_that_is_not_used_is_no_error() -> None:
    assert Template("% if 0:\n{{missing}}\n% end\nok").render() == "ok"


def test_a_name_error_of_the_programs_own_code_is_left_alone() -> None:
    def helper() -> None:
        del later  # noqa: F821

    with pytest.raises(UnboundLocalError):
        Template("{{f()}}").render(f=helper)
    with pytest.raises(NameError, match=r"^it's mine$"):
        Template('% raise NameError("it\'s mine")').render()


def test_what_was_shown_before_an_error_stays(views: pathlib.Path) -> None:
    write(views / "inner.tpl", "% for x in rows:\n{{x}},\n% end\n")
    source = "% try:\n<ul>\n% include('inner')\n% except ZeroDivisionError:\n!\n% end"
    got = Template(source).render(rows=["<", Html("<i>"), Broken(), "never"])
    assert got == "<ul>\n&lt;,\n<i>,\n!\n"


# Templates in templates ---------------------------------------------------------------


def test_include_shares_variables_and_takes_more(views: pathlib.Path) -> None:
    write(views / "inner.tpl", "[{{a}}{{b}}{{c}}]")
    source = "% b = 2\n% include('inner', c=3)\n% include('inner', c=4, a=9)\n{{a}}"
    assert Template(source).render(a=1) == "[123][924]1"


def test_include_returns_the_names_of_the_template(views: pathlib.Path) -> None:
    write(views / "inner.tpl", "% b = a + 1\n")
    source = "% names = include('inner')\n{{names['a']}}{{names['b']}}"
    assert Template(source).render(a=1) == "12"


def test_what_an_included_template_assigns_stays_there(views: pathlib.Path) -> None:
    write(views / "inner.tpl", "% a = 2\n")
    assert Template("% include('inner')\n{{a}}").render(a=1) == "1"


@pytest.mark.parametrize("extra", ["", "% from math import *\n"], ids=["def", "exec"])
def test_include_returns_no_name_of_the_machinery(
    views: pathlib.Path, extra: str
) -> None:
    write(views / "inner.tpl", "{{a}}\\\\\n% b = len('xy')\n% def f():\n{{b}}\n% end\n")
    source = f"{extra}% names = include('inner')\n{{{{' '.join(sorted(names))}}}}"
    assert Template(source).render(a=1) == "1a b f"


def test_an_included_def_can_be_used(views: pathlib.Path) -> None:
    write(views / "macros.tpl", "% def item(x):\n<li>{{x}}</li>\n% end\n")
    source = "% item = include('macros')['item']\n% item(1)\n% item('<')\n"
    assert Template(source).render() == "<li>1</li>\n<li>&lt;</li>\n"


def test_include_in_a_def_sees_the_variables(views: pathlib.Path) -> None:
    write(views / "inner.tpl", "[{{a}}{{b}}]")
    source = "% a = 1\n% def f(b):\n% include('inner', b=b)\n% end\n% f(2)\n% f(3)"
    assert Template(source).render() == "[12][13]"


@pytest.mark.parametrize("extra", ["", "% from math import *\n"], ids=["def", "exec"])
def test_what_is_assigned_wins_over_what_was_given(
    views: pathlib.Path, extra: str
) -> None:
    write(views / "inner.tpl", "[{{a}}]")
    write(views / "layout.tpl", "<{{a}}{{!base}}>")
    source = f"{extra}% a = 2\n% include('inner')\n% rebase('layout')\n"
    assert Template(source).render(a=1) == "<2[2]>"


BINDINGS = {
    "pass": "<7-[7-](7-)>",
    "x = 2": "<2-[2-](2-)>",
    "x: int = 2": "<2-[2-](2-)>",
    "(x, *y) = 2, 3": "<2[3][2[3]](2[3])>",
    "x = list = 3": "<3-[3-](3-)>",
    "for x in (1, 2): pass; end": "<2-[2-](2-)>",
    "for x in (): pass; end": "<7-[7-](7-)>",
    "y = (x := 2)": "<22[22](22)>",
    "y = [x for x in (1, 2)]": "<7[1, 2][7[1, 2]](7[1, 2])>",
    "y = [(x := 1) for z in (1, 2)]": "<1[1, 1][1[1, 1]](1[1, 1])>",
    "y = lambda x: x; y = y(3)": "<73[73](73)>",
    "import math as y": "<7&lt;modul[7&lt;modul](7&lt;modul)>",
    "import os.path as y": "<7&lt;modul[7&lt;modul](7&lt;modul)>",
    "import xml.sax; x = 3": "<3-[3-](3-)>",
    "from math import pi as y": "<73.1415[73.1415](73.1415)>",
    "with open('views/part.tpl') as y:\n% x = 3\n% end": (
        "<3&lt;_io.T[3&lt;_io.T](3&lt;_io.T)>"
    ),
    "try:\n% 1 / 0\n% except ArithmeticError as x:\n% y = 1\n% end": "<71[71](71)>",
    "def y():\n% pass\n% end": "<7&lt;funct[7&lt;funct](7&lt;funct)>",
    "class y:\n% pass\n% end": "<7&lt;class[7&lt;class](7&lt;class)>",
    "x = 2\n% del x": "<7-[7-](7-)>",
    "for x in (1, 2):\n% include('part')\n% y = x\n% end": "<22[1-][21][22](22)>",
    "while get('y', 0) < 2:\n% y = get('y', 0) + 1\n% end": "<72[72](72)>",
    "if defined('x') and not defined('y'): y = 1; end": "<71[71](71)>",
}


@pytest.mark.parametrize("binding, expected", BINDINGS.items())
def test_a_name_is_seen_by_others_however_it_is_bound(
    views: pathlib.Path, binding: str, expected: str
) -> None:
    show = "{{get('x')}}{{str(get('y', '-'))[:6]}}"
    write(views / "part.tpl", f"[{show}]")
    write(views / "layout.tpl", f"<{show}{{{{!base}}}}>")
    source = f"% rebase('layout')\n% {binding}\n% include('part')\n({show})"
    assert Template(source).render(x=7) == expected


@pytest.mark.parametrize("extra", ["", "% from math import *\n"], ids=["def", "exec"])
def test_rebase_puts_a_layout_around(views: pathlib.Path, extra: str) -> None:
    write(views / "layout.tpl", "<{{title}} {{x}} {{y}}>{{!base}}</>")
    source = f"{extra}% rebase('layout', title='&')\n% y = 2\n<p>{{{{x}}}}</p>"
    assert Template(source).render(x=1) == "<&amp; 1 2><p>1</p></>"


def test_a_layout_can_have_a_layout(views: pathlib.Path) -> None:
    write(views / "outer.tpl", "({{!base}})")
    write(views / "inner.tpl", "% rebase('outer')\n[{{!base}}]")
    assert Template("% rebase('inner')\n<b>").render() == "([<b>])"


def test_rebase_in_an_included_template_wraps_that_alone(views: pathlib.Path) -> None:
    write(views / "box.tpl", "[{{!base}}]")
    write(views / "inner.tpl", "% rebase('box')\nin")
    assert Template("a\n% include('inner')\nb").render() == "a\n[in]b"


def test_the_last_rebase_counts(views: pathlib.Path) -> None:
    write(views / "one.tpl", "1{{!base}}")
    write(views / "two.tpl", "2{{!base}}")
    assert Template("% rebase('one')\n% rebase('two')\nx").render() == "2x"


def test_include_does_not_take_what_is_missing_as_text(views: pathlib.Path) -> None:
    with pytest.raises(TemplateError, match="not found"):
        Template("% include(x)").render(x="{{1 + 1}}")


# Files --------------------------------------------------------------------------------


def test_a_name_needs_no_extension(views: pathlib.Path) -> None:
    write(views / "a.tpl", "a")
    write(views / "b.html", "b")
    write(views / "c", "c")
    (views / "sub").mkdir()
    write(views / "sub" / "d.min.tpl", "d")
    names = ["a", "a.tpl", "b", "b.html", "c", "sub/d.min", "./a", "sub/../a"]
    assert [template(name) for name in names] == list("aabbcdaa")


def test_the_first_directory_wins(tmp_path: pathlib.Path) -> None:
    for directory, names in (("one", "a"), ("two", "ab")):
        (tmp_path / directory).mkdir()
        for name in names:
            write(tmp_path / directory / f"{name}.tpl", directory)
    path = [tmp_path / "one", str(tmp_path / "two")]
    got = [Template.load(name, path=path).render() for name in "ab"]
    assert got == ["one", "two"]
    assert Template(filename="b", path=path).render() == "two"
    assert Template.load("b", path=tmp_path / "two").render() == "two"


OUTSIDE = [
    "../secret",
    "../secret.tpl",
    "sub/../../secret",
    "..",
    ".",
    "",
    "sub",
    "sub/",
    "../views-twin/a",
    "../viewstwin/a",
    "link",
    "linked/a",
    "a\0.tpl",
    "a.tpl\0",
    "a.tpl/",
    "a.tpl/.",
    "missing",
    "x" * 5000,
    "\ud800",
    "pipe",
    "/dev/null",
    "..\\secret",
    "%2e%2e/secret",
    "{{1 + 1}}",
    "% 1",
    "a\nb",
]


@pytest.mark.parametrize("cache", [None, True, False])
def test_what_is_outside_is_not_found_as_what_is_missing(
    views: pathlib.Path, tmp_path: pathlib.Path, cache: Any
) -> None:
    write(tmp_path / "secret.tpl", "secret")
    write(views / "a.tpl", "a")
    (views / "sub").mkdir()
    for twin in ("views-twin", "viewstwin"):
        (tmp_path / twin).mkdir()
        write(tmp_path / twin / "a.tpl", "secret")
    (views / "link.tpl").symlink_to(tmp_path / "secret.tpl")
    (views / "linked").symlink_to(tmp_path / "views-twin")
    os.mkfifo(views / "pipe")
    for name in [*OUTSIDE, str(tmp_path / "secret.tpl"), str(views / "a.tpl") + "\0"]:
        with pytest.raises(TemplateError) as caught:
            Template.load(name, cache=cache)
        message = str(caught.value).split("; ")[0]
        assert message == f"template {name[:200]!r} not found in {views}, " + str(
            tmp_path / "templates"
        )


def test_an_absolute_name_is_below_the_directory_or_nowhere(
    views: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write(tmp_path / "secret.tpl", "secret")
    with pytest.raises(TemplateError, match="not found"):
        template(str(tmp_path / "secret.tpl"))


def test_a_link_that_stays_inside_is_followed(views: pathlib.Path) -> None:
    write(views / "a.tpl", "a")
    (views / "b.tpl").symlink_to("a.tpl")
    assert template("b") == "a"


def test_the_directory_itself_may_be_a_link(
    views: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write(views / "a.tpl", "a")
    (tmp_path / "current").symlink_to("views")
    assert Template.load("a", path="current").render() == "a"


def test_a_link_turned_outwards_later_is_not_followed(
    views: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write(views / "a.tpl", "inner")
    write(tmp_path / "b.tpl", "outer")
    (views / "c.tpl").symlink_to("a.tpl")
    assert template("c") == "inner"
    (views / "c.tpl").unlink()
    (views / "c.tpl").symlink_to(tmp_path / "b.tpl")
    with pytest.raises(TemplateError, match="not found"):
        template("c")


def test_a_text_in_place_of_a_name_is_not_run_but_explained(
    views: pathlib.Path,
) -> None:
    with pytest.raises(TemplateError, match=r"Template\(text\)\.render"):
        template("Hello {{name}}", name="World")


def test_template_takes_a_template_too() -> None:
    page = Template("Hello {{name}}")
    assert template(page, name="World") == "Hello World"
    assert template(page, {"name": "a"}) == "Hello a"
    assert template(page, {"name": "a"}, name="b") == "Hello b"


def test_a_wrong_file_is_named_by_its_real_path(views: pathlib.Path) -> None:
    write(views / "page.tpl", "a\n{{ 1 + }}")
    with pytest.raises(TemplateError) as caught:
        template("page")
    assert str(caught.value).startswith(f"{views.resolve() / 'page.tpl'}:2: ")


# Caches -------------------------------------------------------------------------------


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """Return a list that gets the name of each file as a template is made from it."""
    names: List[str] = []
    init = Template.__init__

    def recording(self: Template, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        names.append(os.path.basename(self.filename))

    monkeypatch.setattr(Template, "__init__", recording)
    return names


def touch_all(views: pathlib.Path) -> None:
    write(views / "page.tpl", "% rebase('layout')\n% include('part')\npage")
    write(views / "part.tpl", "part ")
    write(views / "layout.tpl", "<{{!base}}>")


@pytest.mark.parametrize("changed", ["page", "part", "layout"])
def test_checked_a_change_of_any_file_is_seen_at_once(
    views: pathlib.Path, compiled: List[str], changed: str
) -> None:
    touch_all(views)
    assert [template("page"), template("page")] == ["<part page>"] * 2
    assert sorted(compiled) == ["layout.tpl", "page.tpl", "part.tpl"]
    source = (views / f"{changed}.tpl").read_text()
    write(views / f"{changed}.tpl", source + "!")
    assert sorted(template("page")) == sorted("<part page>!")
    assert compiled[3:] == [f"{changed}.tpl"]


def test_checked_a_file_of_the_same_size_and_another_time_is_seen(
    views: pathlib.Path,
) -> None:
    write(views / "a.tpl", "one")
    assert template("a") == "one"
    write(views / "a.tpl", "two")
    assert template("a") == "two"


def test_checked_a_removed_file_is_gone_and_a_new_one_found(
    views: pathlib.Path,
) -> None:
    write(views / "a.html", "html")
    assert template("a") == "html"
    write(views / "a.tpl", "tpl")
    assert template("a") == "tpl"
    (views / "a.tpl").unlink()
    assert template("a") == "html"
    (views / "a.html").unlink()
    with pytest.raises(TemplateError, match="not found"):
        template("a")


def test_required_no_file_is_looked_at_again(
    views: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch_all(views)
    monkeypatch.setattr(Template, "cache", True)
    assert template("page") == "<part page>"
    for file in views.iterdir():
        file.unlink()

    def forbidden(*args: Any, **options: Any) -> None:
        raise AssertionError("the disk was touched")

    for module, name in ((os, "stat"), (os, "lstat"), (os.path, "realpath")):
        monkeypatch.setattr(module, name, forbidden)
    monkeypatch.setattr("builtins.open", forbidden)
    got = template("page")
    monkeypatch.undo()
    assert got == "<part page>"


def test_suppressed_nothing_is_kept(views: pathlib.Path, compiled: List[str]) -> None:
    touch_all(views)
    for _ in range(2):
        assert Template.load("page", cache=False).render() == "<part page>"
    assert compiled == ["page.tpl", "part.tpl", "layout.tpl"] * 2


def test_the_cache_of_the_call_wins_over_the_setting(views: pathlib.Path) -> None:
    Template.cache = True
    write(views / "a.tpl", "one")
    assert Template.load("a", cache=False).render() == "one"
    write(views / "a.tpl", "two")
    assert Template.load("a", cache=False).render() == "two"


def test_a_template_of_text_looks_its_includes_up_as_set(views: pathlib.Path) -> None:
    write(views / "a.tpl", "one")
    page = Template("% include('a')", path=views)
    assert page.render() == "one"
    write(views / "a.tpl", "two")
    assert page.render() == "two"


def test_the_same_text_is_compiled_once() -> None:
    first = Template("only {{once}}")
    second = Template("only {{once}}")
    assert first._code is second._code


def test_every_cache_is_bounded() -> None:
    caches = [
        compile_template,
        _kept_template,
        _required_template,
        _template_file,
        _template_patterns,
    ]
    for cache in caches:
        assert 0 < (cache.cache_info().maxsize or 0) <= MAX_CACHED_TEMPLATES


# Other engines ------------------------------------------------------------------------


class Shouting:
    """An engine that can but replace words."""

    def __init__(self, text: str) -> None:
        self.text = text

    def render(self, **variables: Any) -> str:
        return self.text.format(**variables).upper()


def shouting_engine(calls: List[str]) -> Callable[[str, str], Shouting]:
    def load(name: str, directory: str) -> Shouting:
        calls.append(name)
        return Shouting((pathlib.Path(directory) / name).read_text())

    return load


def test_another_engine_takes_the_files_of_its_extension(views: pathlib.Path) -> None:
    calls: List[str] = []
    Template.engines[".up"] = shouting_engine(calls)
    (views / "sub").mkdir()
    write(views / "sub" / "a.up", "hello {name}")
    write(views / "b.tpl", "% include('sub/a', name='b')\n{{name}}")
    assert template("sub/a", name="x") == "HELLO X"
    assert template("sub/a.up", {"name": "y"}) == "HELLO Y"
    assert template("b", name="z") == "HELLO Bz"
    assert calls == ["sub/a.up"]
    write(views / "sub" / "a.up", "bye {name}")
    assert template("sub/a", name="x") == "BYE X"


def test_another_engine_can_take_html(views: pathlib.Path) -> None:
    Template.engines[".html"] = shouting_engine([])
    write(views / "a.html", "{{{name}}}")
    assert template("a", name="x") == "{X}"


def test_jinja2_by_the_same_call(views: pathlib.Path) -> None:
    jinja2 = pytest.importorskip("jinja2")
    loader = jinja2.FileSystemLoader(str(views))
    environment = jinja2.Environment(loader=loader, autoescape=True)
    Template.engines[".j2"] = lambda name, directory: environment.get_template(name)
    write(views / "base.j2", "<{% block x %}{% endblock %}>")
    write(views / "a.j2", "{% extends 'base.j2' %}{% block x %}{{name}}{% endblock %}")
    assert template("a", name="<") == "<&lt;>"


def test_mako_by_the_same_call(views: pathlib.Path) -> None:
    lookup = pytest.importorskip("mako.lookup").TemplateLookup([str(views)])
    Template.engines[".mako"] = lambda name, directory: lookup.get_template(name)
    write(views / "a.mako", "${name | h}")
    assert template("a", name="<") == "&lt;"


# Any text at all ----------------------------------------------------------------------

FRAGMENTS = (
    "% if x:\n|% for i in x:\n|% else:\n|% end\n|\n% end|; end|<%|%>\n|\n<% |{{|}}|"
    "{{x}}|{{!x}}|{{}}|\\\\\n|\\%|\\<%|'|\"|'''|\"\"\"|(|)|[|]|#|\\|\n|\r|\r\n|"
    "\0|\t|  |%|x = 1|"
    "lambda: 0|def f():|class A:|try:|yield|return|await x|global x|import *|:=|\ufeff|"
    "ä|\ud800|\u2028|\x0c|0777|1_|f'{|%s|async|match x:|del x|include('a')|get|_px_0"
).split("|")


def compiles_or_explains(source: str) -> None:
    explained = "any.tpl:0: why\n    where"
    try:
        Template(source, filename="any.tpl")
    except TemplateError as error:
        explained = str(error)
    assert re.match(r"any\.tpl:\d+: .+\n    ", explained, re.DOTALL)


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_any_text_compiles_or_is_a_template_error() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")
    pieces = strategies.sampled_from(FRAGMENTS) | strategies.text(max_size=5)

    @hypothesis.settings(max_examples=500, deadline=None)
    @hypothesis.given(strategies.lists(pieces, max_size=30).map("".join))
    def check(source: str) -> None:
        compiles_or_explains(source)

    check()


def test_any_text_without_code_renders_as_it_is() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")

    @hypothesis.settings(max_examples=200, deadline=None)
    @hypothesis.given(
        strategies.text(), strategies.lists(strategies.text(), min_size=3)
    )
    def check(text: str, values: List[str]) -> None:
        source = re.sub(r"[%{\\]", "", text) + "{{a}}{{b}}|{{c}}"
        got = Template(source).render(a=values[0], b=values[1], c=values[2])
        a, b, c = map(escape, values[:3])
        assert got == f"{source[:-16]}{a}{b}|{c}"

    check()


PATHOLOGICAL = {
    "opening marks": "{{" * 20_000,
    "opening marks and a quote": "{{'" * 20_000,
    "opening marks and three": "{{'''" * 20_000,
    "strings in an open value": "{{" + "u'a' " * 20_000,
    "strings in code": "% x = " + "u'a' " * 20_000,
    "spaces in code": "% " + " " * 100_000 + "x",
    "spaces": " " * 100_000,
    "escapes": "\\%" * 20_000,
    "semicolons": "% " + "; " * 20_000,
    "quotes in code": "% ' " * 5_000,
    "open blocks": "<%\n" * 5_000,
}


@pytest.mark.parametrize("source", PATHOLOGICAL.values(), ids=PATHOLOGICAL)
def test_no_text_takes_more_than_linear_time(source: str) -> None:
    # The bound is faulthandler_timeout: anything quadratic here takes minutes.
    compiles_or_explains(source)


# The guide ----------------------------------------------------------------------------


def guide_blocks() -> List[Any]:
    text = (ROOT / "docs" / "templates.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [pytest.param(block, id=str(number)) for number, block in enumerate(blocks)]


@pytest.mark.parametrize("block", guide_blocks())
def test_the_examples_of_the_guide_run(
    block: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in re.findall(r"^from (jinja2|mako)", block, re.MULTILINE):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    names: Dict[str, Any] = {"__name__": "guide"}
    exec(compile(block, "docs/templates.md", "exec"), names)
