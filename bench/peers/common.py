"""What the programs of the peers share: how many routes, and the page."""

from __future__ import annotations

import os
from typing import Any, Dict

ROUTES = int(os.environ.get("ROUTES", "0"))
WORKERS = int(os.environ.get("WORKERS", "1"))
ACCESS_LOG = bool(os.environ.get("ACCESS_LOG"))

ITEM = '<li><a href="{{item["url"]}}">{{item["name"]}}</a> {{item["price"]}}</li>\n'
TOP = "<html><head><title>{{title}}</title></head><body>\n<ul>\n"
END = "</ul>\n</body></html>\n"
STPL = f"{TOP}% for item in items:\n{ITEM}% end\n{END}"
JINJA2 = f"{TOP}{{% for item in items %}}\n{ITEM}{{% endfor %}}\n{END}"
PAGE: Dict[str, Any] = {
    "title": "Shop & more",
    "items": [
        {"name": f"It & {i}", "price": i, "url": f"/item/{i}"} for i in range(20)
    ],
}
JSON = {"hello": "world", "number": 42}


def jinja2_page() -> Any:
    """Return the page as a template of Jinja2."""
    from jinja2 import Environment

    environment = Environment(
        autoescape=True, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(JINJA2)


def trivial() -> str:
    """Return what a worker is asked for."""
    return "hello"
