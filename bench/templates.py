"""Compare the template engine with Jinja2, Mako and bottle, side by side in one run.

    pip install jinja2 mako bottle        # each is left out when it is not installed
    PYTHONPATH=. python bench/templates.py [seconds per workload and engine]

Pinned to one core; the engines take turns, and the median of the turns is shown. Four
workloads, all with escaping on, and all outputs compared before anything is timed:

    table           1000 rows of 5 columns, a number and four strings; one row in four
                    holds something to escape
    cells           1000 rows of 10 cells, the cells in an inner loop
    page            a layout, an include, a loop of 20 items; no file is looked at again
    page, checked   the same, the files' times checked at each use (bottle never checks)
"""

import html
import os
import statistics
import sys
import tempfile
import time
from functools import partial

from pixie_web import Template

ROWS = [
    (i, f"Name {i}", f"user{i}@example.org", "R&D <b>" if i % 4 == 0 else "Sales", "ok")
    for i in range(1000)
]
CELLS = [[f"cell {row}.{column}" for column in range(10)] for row in range(1000)]
ITEMS = [
    {"name": f"Item {i}", "price": i * 1.5, "url": f"/item/{i}"} for i in range(20)
]
PAGE = {"title": "Shop & more", "user": "O'Neil", "items": ITEMS}

TABLE = (
    "<tr><td>{{a}}</td><td>{{b}}</td><td>{{c}}</td><td>{{d}}</td><td>{{e}}</td></tr>\n"
)
ITEM = '<li><a href="{{item["url"]}}">{{item["name"]}}</a> {{item["price"]}}</li>\n'
TOP = "<html><head><title>{{title}}</title></head><body>\n"


def mako(text):
    return text.replace("{{", "${").replace("}}", "}")


STPL = {
    "table": f"<table>\n% for a, b, c, d, e in rows:\n{TABLE}% end\n</table>\n",
    "cells": "% for row in rows:\n<tr>\n% for cell in row:\n<td>{{cell}}</td>\n% end\n"
    "</tr>\n% end\n",
    "layout": TOP + "{{!base}}</body></html>\n",
    "nav": "<nav>Hello {{user}}</nav>\n",
    "page": "% rebase('layout')\n% include('nav')\n<ul>\n% for item in items:\n"
    + ITEM
    + "% end\n</ul>\n",
}
JINJA2 = {
    "table": "<table>\n{% for a, b, c, d, e in rows %}\n"
    + TABLE
    + "{% endfor %}\n</table>\n",
    "cells": "{% for row in rows %}\n<tr>\n{% for cell in row %}\n<td>{{cell}}</td>\n"
    "{% endfor %}\n</tr>\n{% endfor %}\n",
    "layout": TOP + "{% block base %}{% endblock %}</body></html>\n",
    "nav": STPL["nav"],
    "page": "{% extends 'layout' %}\n{% block base %}\n{% include 'nav' %}\n<ul>\n"
    "{% for item in items %}\n" + ITEM + "{% endfor %}\n</ul>\n{% endblock %}\n",
}
MAKO = {
    "table": "<table>\n% for a, b, c, d, e in rows:\n"
    + mako(TABLE)
    + "% endfor\n</table>\n",
    "cells": "% for row in rows:\n<tr>\n% for cell in row:\n<td>${cell}</td>\n"
    "% endfor\n</tr>\n% endfor\n",
    "layout": mako(TOP) + "${self.body()}</body></html>\n",
    "nav": mako(STPL["nav"]),
    "page": '<%inherit file="layout"/>\\\n<%include file="nav"/>\\\n<ul>\n'
    "% for item in items:\n" + mako(ITEM) + "% endfor\n</ul>\n",
}


def pixie_web_engine(directory, checked):
    cache = None if checked else True
    return lambda name, **variables: Template.load(
        name, path=directory, cache=cache
    ).render(**variables)


def jinja2_engine(directory, checked):
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(directory),
        autoescape=True,
        auto_reload=checked,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return lambda name, **v: environment.get_template(name).render(**v)


def mako_engine(directory, checked):
    from mako.lookup import TemplateLookup

    lookup = TemplateLookup(
        [directory], default_filters=["h"], filesystem_checks=checked
    )
    return lambda name, **v: lookup.get_template(name).render_unicode(**v)


def bottle_engine(directory, checked):
    from bottle import template

    path = [directory]
    return lambda name, **v: template(name, template_lookup=path, **v)


ENGINES = {  # and the end of their files' names
    "pixie_web": (pixie_web_engine, STPL, ".tpl"),
    "Jinja2": (jinja2_engine, JINJA2, ""),
    "Mako": (mako_engine, MAKO, ""),
    "bottle": (bottle_engine, STPL, ".tpl"),
}
WORKLOADS = {
    "table": ("table", False, {"rows": ROWS}),
    "cells": ("cells", False, {"rows": CELLS}),
    "page": ("page", False, PAGE),
    "page, checked": ("page", True, PAGE),
}


def installed(root):
    """Return {engine: {checked: render}}, with the templates written to `root`."""
    found = {}
    for name, (engine, templates, end) in ENGINES.items():
        directory = os.path.join(root, name)
        os.mkdir(directory)
        for file, text in templates.items():
            with open(os.path.join(directory, file + end), "w") as opened:
                opened.write(text)
        try:
            found[name] = {checked: engine(directory, checked) for checked in (0, 1)}
        except ImportError:
            print(f"{name} is not installed", file=sys.stderr)
    return found


def measure(calls, seconds):
    """Return the median seconds of each call; they take turns of 20 ms or more."""
    times = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or len(times["pixie_web"]) < 5:
        for name, call in calls.items():
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < 0.02:
                call()
                count += 1
            times[name].append((time.perf_counter() - start) / count)
    return {name: statistics.median(values) for name, values in times.items()}


def main():
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2
    with tempfile.TemporaryDirectory() as root:
        engines = installed(root)
        for title, (name, checked, variables) in WORKLOADS.items():
            calls = {
                engine: partial(renders[checked], name, **variables)
                for engine, renders in engines.items()
            }
            texts = {html.unescape(call()) for call in calls.values()}
            assert len(texts) == 1, f"{title}: the engines differ: {texts}"
            medians = measure(calls, seconds)
            fastest_other = min(
                [value for engine, value in medians.items() if engine != "pixie_web"],
                default=medians["pixie_web"],
            )
            row = "  ".join(f"{e} {t * 1e6:9.1f} us" for e, t in medians.items())
            ratio = fastest_other / medians["pixie_web"]
            print(f"{title:14} {row}   fastest other / pixie_web = {ratio:.2f}")


if __name__ == "__main__":
    main()
