"""JSON that a client sends, in every placement: what is refused, and how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import LOOPS, Server, server_fixture

PROGRAM = Path(__file__).parents[1] / "programs" / "everyday.py"
PLACES = ["sync", "thread", "asnc", "pool"]
JSON = "application/json"


server = server_fixture(PROGRAM, LOOPS)


REFUSED = [
    # Content-Type, body, status, what the answer says
    (JSON, b"[" * 100_000, 400, "nested too deeply"),
    (JSON, b'{"a":' * 100_000, 400, "nested too deeply"),
    (JSON, b"[" * 100_000 + b"]" * 100_000, 400, "nested too deeply"),
    (JSON, b"", 400, "not JSON"),
    (JSON, b"{", 400, "not JSON"),
    (JSON, b"{'a': 1}", 400, "not JSON"),
    (JSON, b'{"a": 1} x', 400, "not JSON"),
    (JSON, b'"\xff"', 400, "not JSON"),
    (JSON, b"\xef\xbb\xbf{}", 400, "not JSON"),
    (JSON, '{"a": 1}'.encode("utf-16"), 400, "not JSON"),
    (JSON, b"NaN", 400, "NaN"),
    (JSON, b"[-Infinity]", 400, "Infinity"),
    ("text/plain", b"{}", 415, "application/json"),
    ("application/x-www-form-urlencoded", b"{}", 415, "application/json"),
    ("application/jsonx", b"{}", 415, "application/json"),
    ("text/json+x", b"{}", 415, "application/json"),
    ("", b"{}", 415, "application/json"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "content_type, body, status, why",
    REFUSED,
    ids=[f"{body[:12]!r} as {kind}" for kind, body, _, _ in REFUSED],
)
def test_what_is_no_json_is_refused_with_the_reason(
    content_type: str, body: bytes, status: int, why: str, place: str, server: Server
) -> None:
    headers = {"Content-Type": content_type}
    since = server.mark()
    answer = server.request("POST", f"/{place}/told", body, headers)
    assert answer.status == status
    assert why in answer.text
    # It is the client's mistake, and nobody else's: the log has no traceback.
    assert server.request("POST", f"/{place}/told", b"1", {"Content-Type": JSON}).json
    assert "Traceback" not in "".join(server.log.splitlines(True)[since:])


@pytest.mark.parametrize("place", PLACES)
def test_a_number_of_5000_digits_is_a_400_or_a_number(
    place: str, server: Server
) -> None:
    body = b"[" + b"7" * 5000 + b"]"
    answer = server.request("POST", f"/{place}/told", body, {"Content-Type": JSON})
    assert answer.status in (200, 400)  # before 3.8.14 and 3.11 it is a number


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "content_type",
    [
        JSON,
        "Application/JSON; charset=latin-1",
        "application/vnd.api+json",
        f" {JSON} ",
    ],
)
@pytest.mark.parametrize("value", [None, 0, "größe 😀", [1.5, True], {"a": {}}])
def test_what_json_says_comes_back(
    value: object, content_type: str, place: str, server: Server
) -> None:
    headers = {"Content-Type": content_type}
    body = json.dumps(value).encode()
    answer = server.request("POST", f"/{place}/told", body, headers)
    assert answer.json == {"said": value}
