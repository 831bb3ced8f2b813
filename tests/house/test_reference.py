"""docs/reference.md is what the docstrings say now, and has every public name."""

from __future__ import annotations

from reference import OF_THE_APPLICATION, PAGE, page, prose, shown_names

import pixie_web


def test_the_reference_is_that_of_the_docstrings() -> None:
    assert PAGE.read_text("utf-8") == page(), "run: python tests/house/reference.py"


def test_the_reference_has_every_public_name() -> None:
    shown = {*shown_names(), "app", "proc_env"}
    missing = {
        name
        for name in pixie_web.__all__
        if name not in shown and f"`{name}`" not in OF_THE_APPLICATION
    }
    assert missing == set()


def test_a_docstring_becomes_markdown() -> None:
    docstring = (
        "Return <it>.\n\n"
        '    app.run("x")\n\n'
        "Args:\n"
        "    one, two: a `<b>` and\n"
        "        a_c.\n"
        "    in all cases: no name.\n\n"
        "More."
    )
    assert prose(docstring) == (
        "Return \\<it\\>.\n\n"
        '```text\napp.run("x")\n```\n\n'
        "Args:\n\n"
        "- `one`, `two`: a `<b>` and a\\_c.\n"
        "- `in all cases`: no name.\n\n"
        "More.\n\n"
    )
