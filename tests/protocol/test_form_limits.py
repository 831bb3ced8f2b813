"""The limits of forms, as `run()` takes them, hold in every placement."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Tuple

import pytest
from support import Server, server_fixture

from pixie_web import PixieError
from pixie_web.protocol.multipart import FormLimits
from pixie_web.settings import DEFAULT_SETTINGS, read_settings

PROGRAM = Path(__file__).parents[1] / "programs" / "everyday.py"
PLACES = ["sync", "thread", "asnc", "pool"]
LIMITS = {
    "max_fields": 3,
    "max_form_bytes": 40,
    "max_field_bytes": 20,
    "max_file_bytes": 30,
    "max_parts": 4,
    "max_part_headers": 2,
    "max_part_head_bytes": 100,
}
URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=xYz"}


server = server_fixture(PROGRAM, **LIMITS)


def part(data: str, disposition: str = "name=a", *lines: str) -> str:
    head = [f"--xYz\r\nContent-Disposition: form-data; {disposition}", *lines]
    return "\r\n".join(head) + f"\r\n\r\n{data}\r\n"


FILE = 'name=f; filename="x"'
FORMS: Dict[str, Tuple[Dict[str, str], str, str]] = {
    # what is just allowed, and what is one too much
    "max_fields": (URLENCODED, "a=1&b=2&c=3", "a=1&b=2&c=3&d=4"),
    "max_form_bytes": (URLENCODED, "a=" + "x" * 38, "a=" + "x" * 39),
    "max_field_bytes": (MULTIPART, part("x" * 20), part("x" * 21)),
    "max_file_bytes": (MULTIPART, part("x" * 30, FILE), part("x" * 31, FILE)),
    "max_parts": (MULTIPART, part("x") * 4, part("x") * 5),
    "max_part_headers": (
        MULTIPART,
        part("x", FILE, "A: b"),
        part("x", FILE, "A: b", "C: d"),
    ),
    "max_part_head_bytes": (
        MULTIPART,
        part("x", "name=" + "a" * 30),
        part("x", "name=" + "a" * 70),
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("limit", FORMS)
def test_a_limit_holds_in_every_placement(
    limit: str, place: str, server: Server
) -> None:
    headers, allowed, refused = FORMS[limit]
    end = "--xYz--\r\n" if headers is MULTIPART else ""
    path = f"/{place}/form"
    assert server.request("POST", path, allowed + end, headers).status == 200
    answer = server.request("POST", path, refused + end, headers)
    assert answer.status == 413
    assert str(LIMITS[limit]) in answer.text


@pytest.mark.parametrize("place", PLACES)
def test_a_query_may_have_as_many_fields_as_a_form(place: str, server: Server) -> None:
    assert server.get(f"/{place}/query?a=1&b=2&c=3").json == {"fields": 3}
    assert server.get(f"/{place}/query?a=1&b=2&c=3&d=4").status == 413


def test_every_limit_of_forms_is_a_setting_of_run() -> None:
    assert set(LIMITS) == set(FORMS) == set(FormLimits._fields)
    defaults = FormLimits()._asdict()
    assert {name: DEFAULT_SETTINGS[name] for name in LIMITS} == defaults
    settings = read_settings({"max_parts": 5}, {"PIXIE_MAX_FIELDS": "7"})
    assert (settings["max_parts"], settings["max_fields"]) == (5, 7)
    with pytest.raises(PixieError, match="max_parts"):
        read_settings({"max_parts": -1}, {})
