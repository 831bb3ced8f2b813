"""How long JSON takes with orjson and without, and what ujson does otherwise.

    python3 bench/json_libraries.py

Prints microseconds of CPU time, the median of rounds in which the columns take turns.
"with orjson" is `dump_json` and `load_json` with all that makes them mean what `json`
means; the difference to "orjson alone" is what that costs.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from timing import medians

from pixie_web import HTTPError
from pixie_web import text as text_chapter
from pixie_web.text import dump_json, load_json

try:
    import orjson
    import ujson
except ImportError as missing:
    sys.exit(f"{missing}; pip install orjson ujson")

ROUNDS = 15
WITH = text_chapter._fast_json
SMALL = {"id": 7, "name": "Größe", "ok": True, "tags": ["a", "b"], "price": 12.5}
PEOPLE = [
    {
        "id": 1000 + number,
        "name": f"Person {number}",
        "mail": f"person{number}@example.com",
        "score": number / 7,
        "tags": ["red", "green", "blue"],
        "active": number % 2 == 0,
        "address": {"street": f"Main Street {number}", "zip": f"{number:05}"},
    }
    for number in range(600)
]
DOCUMENTS: Dict[str, Any] = {
    "small dict": SMALL,
    "100 kB": PEOPLE,
    "100 kB with nulls": [{**person, "phone": None} for person in PEOPLE],
}


def by(get: Callable[[], Any], function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def call(argument: Any) -> Any:
        text_chapter._fast_json = get  # type: ignore[assignment]
        return function(argument)

    return call


DUMPS: Dict[str, Callable[[Any], Any]] = {
    "json": by(lambda: None, dump_json),
    "with orjson": by(WITH, dump_json),
    "orjson alone": orjson.dumps,
    "ujson alone": lambda value: ujson.dumps(
        value, ensure_ascii=False, escape_forward_slashes=False, allow_nan=False
    ).encode("utf-8", "backslashreplace"),
}
LOADS: Dict[str, Callable[[Any], Any]] = {
    "json": by(lambda: None, load_json),
    "with orjson": by(WITH, load_json),
    "orjson alone": orjson.loads,
    "ujson alone": lambda text: ujson.loads(text.decode("utf-8")),
}
TEXTS = [
    b"01", b"1.", b"-", b"NaN", b"Infinity", b'"\n"', b'"\x00"', b"[1,]", b'"\\q"',
    b"1 2", b'"\xff"', b"[" * 100_000, b"18446744073709551616",
]  # fmt: skip
VALUES = [{(1, 2): 3}, {b"a": 1}, float("nan"), b"a", {1, 2}, 2**70, "\ud800"]


def outcome(function: Callable[[Any], Any], argument: Any) -> str:
    try:
        value = function(argument)
    except (HTTPError, TypeError, ValueError, OverflowError):
        return "refused"
    return value.decode() if isinstance(value, bytes) else repr(value)


def main() -> None:
    print(
        f"Python {sys.version.split()[0]}, orjson {orjson.__version__}, "
        f"ujson {ujson.__version__}; microseconds of CPU"
    )
    print(f"{'':30}" + "".join(f"{name:>14}" for name in DUMPS))
    for title, value in DOCUMENTS.items():
        text = dump_json(value)
        for verb, libraries, argument in (
            ("write", DUMPS, value),
            ("read", LOADS, text),
        ):
            calls = {n: partial(f, argument) for n, f in libraries.items()}
            found = medians(calls, ROUNDS)
            row = "".join(f"{found[name]:14.2f}" for name in libraries)
            print(f"{verb + ' ' + title:30}{row}")
    print("\nWhat ujson does otherwise than json:")
    for libraries, rows in ((LOADS, TEXTS), (DUMPS, VALUES)):
        for row in rows:
            ours = outcome(libraries["json"], row)
            theirs = outcome(libraries["ujson alone"], row)
            if ours != theirs:
                print(f"  {row!r:24.24}  json: {ours:10}  ujson: {theirs}")


if __name__ == "__main__":
    main()
