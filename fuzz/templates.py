"""Fuzz templates: any text, and texts whose output is known.

    pip install atheris
    python fuzz/templates.py [-max_total_time=600] [corpus directory]

The first byte chooses. For three of four, the input is a template, which is compiled
and not run, as it may hold any program. Oracle: a Template, or a TemplateError that
names a line of it. For the fourth, each byte of the input adds something to a template
of text, values, conditions and loops; it is rendered, as a function or (second byte
odd) by exec(). Oracle: the output is that of a simple model, so what is between `{{`
and `}}` is escaped.
"""

from __future__ import annotations

import html
import re
import warnings
from typing import Any, List, Tuple

from harness import choose, run

from pixie_web import Template, TemplateError

SEEDS = [
    b"<p>{{a}} {{!b}}</p>\n",
    b"% for x in y:\n<li>{{x}}\\\\\n% end\n"
    b"% if a:\n  b\n% elif c: # why\n% else:\n% end",
    b"<% def f(x):\n  y = '%>' %>\n% end\n{{f(1)}} \\% \\<% {{'}}'}}\n",
    b"% include('a', b=1)\n% rebase('c')\n{{!base}} {{get('x', 1)}} {{defined('y')}}",
    b"% try: x = [1,\n%   2]\n% except (A, B) as e:\n% finally: pass; end\n%end",
    b"\xef\xbb\xbf% import os, sys as s; global t\r\n"
    b"{{lambda: (yield)}}\r{{f'{x!r:>{w}}'}}",
    b"% a\r1 1",
    b"% x = (1,\r2)\r\n% if (x\n% == 2]:\n{{1\r}}",
    *(bytes(range(i, 256, 11)) for i in range(11)),  # all that the model knows
]
WORDS = [
    *(
        b"{{",
        b"}}",
        b"{{!",
        b"<%",
        b"%>",
        b"\n%",
        b"\n% end\n",
        b"; end",
        b"\\\\\n",
        b"\\%",
    ),
    *(
        b"% if x:\n",
        b"% for x in y:\n",
        b"% else:\n",
        b"% elif x:\n",
        b"% try:\n",
        b"'''",
    ),
    *(
        b"% except A as e:\n",
        b"% def f(x):\n",
        b"% class A:\n",
        b"% with a as b:\n",
        b'"""',
    ),
    *(
        b"lambda x: ",
        b"yield",
        b"await ",
        b"async ",
        b"return",
        b"global x",
        b"import *",
    ),
    *(
        b"include('a')",
        b"rebase('a')",
        b"get(",
        b"defined(",
        b"locals()",
        b"_px_0",
        b":=",
    ),
    *(
        b"\r\n",
        b"\r",
        b"\x00",
        b"\x0c",
        b"\\\n",
        b"#",
        b"f'{",
        b"del x",
        b"match x:\n",
        b"\t",
    ),
]
ERROR = re.compile(r"any\.tpl:(\d+): .+\n    ", re.DOTALL)


class Markup(str):
    def __html__(self) -> str:
        return str(self)


VALUES = {
    "text": "plain",
    "special": "<&>\"'{{x}}",
    "nul": "\0<\0",
    "number": 7,
    "fraction": 1.5,
    "yes": True,
    "nothing": None,
    "data": b"\xc3\xa4<",
    "markup": Markup("<b>"),
}
TEXTS = [
    "a",
    '<p class="x">',
    " ",
    "'",
    "é",
    "\\ ",
    "{ ",
    "} ",
    "a%",
    "#",
    "\t",
    "\0",
    "f{ ",
]
BLOCKS = ["if yes:", "if nothing:", "for item in (1, '<'):"]
MAX_STEPS = 24  # compiling is slow
Node = Tuple[str, Any]


def shown(value: object, raw: bool) -> str:
    if hasattr(value, "__html__") and not raw:
        return value.__html__()
    text = value.decode() if isinstance(value, bytes) else str(value)
    text = "" if value is None else text
    return text if raw else html.escape(text).replace("&#x27;", "&#39;")


class Model:
    """A template that grows by one byte at a time, and what it says."""

    def __init__(self, data: bytes) -> None:
        self.source = ""
        self.open: List[List[Node]] = [[]]
        for byte in data:
            self.add(byte)
        while len(self.open) > 1:
            self.close()

    def add(self, byte: int) -> None:
        kind, which = byte % 8, byte // 8
        if kind < 2:
            self.say(TEXTS[which % len(TEXTS)])
        elif kind < 4:
            name = list(VALUES)[which % len(VALUES)]
            raw = kind == 3
            self.source += f"{{{{{'!' if raw else ' '}{name}}}}}"
            self.open[-1].append(("say", shown(VALUES[name], raw)))
        elif kind == 4:
            self.say("\n")
        elif kind == 5 and len(self.open) < 5:
            self.begin_line()
            block = BLOCKS[which % len(BLOCKS)]
            self.source += f"{' ' * (which % 3)}% {block}\n"
            self.open[-1].append((block, []))
            self.open.append(self.open[-1][-1][1])
        elif kind == 6 and len(self.open) > 1:
            self.close()
        elif kind == 7:
            self.begin_line()
            self.source += ["% x = 1 # %>\n", "<%\nx = '''\n'''\n%>\n"][which % 2]
            if which % 3 == 0:
                self.source += "\\% "
                self.open[-1].append(("say", "% "))

    def say(self, text: str) -> None:
        self.source += text
        self.open[-1].append(("say", text))

    def begin_line(self) -> None:
        if self.source and self.source[-1] != "\n":
            self.say("\n")

    def close(self) -> None:
        self.begin_line()
        self.source += "% pass\n% end\n"  # a block may not be empty
        self.open.pop()

    def output(self, nodes: List[Node]) -> str:
        text = ""
        for kind, value in nodes:
            if kind == "say":
                text += value
            elif kind != "if nothing:":
                text += self.output(value) * (1 if kind == "if yes:" else 2)
        return text


def check(data: bytes) -> None:
    choices, data = choose(data)
    if choices[0] % 4 == 3:
        model = Model(data[:MAX_STEPS])
        expected = model.output(model.open[0])
        source = f"% global x\n{model.source}" if choices[1] % 2 else model.source
        got = Template(source).render(VALUES)
        assert got == expected, (source, got, expected)
        return
    try:
        Template(data, filename="any.tpl")
    except TemplateError as error:
        found = ERROR.match(str(error))
        if found is None:
            if str(error).startswith("any.tpl: not UTF-8"):
                return
            raise
        if not 1 <= int(found.group(1)) <= data.count(b"\n") + 1:
            raise


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    run(check, SEEDS, WORDS, max_length=400)
