"""Headers and MultiDict."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, List, cast

import pytest

from pixie_web import BadValue, Headers, HTTPError, MissingValue, MultiDict
from pixie_web.responses import error_page

# Headers ------------------------------------------------------------------------------


def test_header_names_have_no_case() -> None:
    headers = Headers({"Content-Type": "text/plain"})
    assert headers["content-type"] == headers["CONTENT-TYPE"] == "text/plain"
    assert "Content-type" in headers
    assert "X" not in headers
    assert 1 not in headers
    assert list(headers) == ["Content-Type"]


def test_several_lines_are_one_list() -> None:
    headers = Headers([("A", "1"), ("B", "2"), ("a", "3")])
    assert list(headers.keys()) == ["A", "B"]
    assert dict(headers) == {"A": headers["A"], "B": "2"}
    assert headers["A"] == headers.get("a") == "1, 3"
    assert headers.getall("A") == ["1", "3"]
    assert list(headers.items()) == [("A", "1"), ("a", "3"), ("B", "2")]
    assert len(headers) == 2


def test_a_missing_header() -> None:
    headers = Headers()
    assert headers.get("A") is None
    assert headers.get("A", "x") == "x"
    assert headers.getall("A") == []
    with pytest.raises(KeyError):
        headers["A"]
    with pytest.raises(KeyError):
        del headers["A"]


def test_headers_change() -> None:
    headers = Headers({"A": "1"})
    headers["a"] = "2"
    headers.setdefault("A", "3")
    headers.setdefault("B", "4")
    headers.add("b", "5")
    headers.update({"C": "6", "A": "7"})
    assert list(headers.items()) == [("A", "7"), ("B", "4"), ("b", "5"), ("C", "6")]
    del headers["B"]
    assert "b" not in headers


def test_headers_copy_headers() -> None:
    headers = Headers([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("TE", "x")])
    copy = Headers(headers)
    assert copy == headers
    assert list(copy.items()) == list(headers.items())
    copy.add("TE", "y")
    assert headers["TE"] == "x"


def test_headers_take_what_has_pairs() -> None:
    pairs = [("A", "1"), ("B", "2")]
    assert Headers(iter(pairs)) == Headers(dict(pairs)) == Headers(pairs)
    assert Headers(None) == Headers() == Headers([])


def test_headers_compare_by_names_and_values() -> None:
    assert Headers({"A": "1"}) == Headers({"a": "1"})
    assert Headers({"A": "1"}) != Headers({"A": "2"})
    assert Headers({"A": "1"}) != {"A": "1"}
    assert repr(Headers({"A": "1"})) == "Headers([('A', '1')])"


def test_a_number_becomes_text() -> None:
    headers = Headers()
    headers["Content-Length"] = 5  # type: ignore[assignment]
    headers.add("X", 6)  # type: ignore[arg-type]
    assert list(headers.items()) == [("Content-Length", "5"), ("X", "6")]


@pytest.mark.parametrize(
    "name,value",
    [
        ("A", "x\r\nB: y"),
        ("A", "x\n"),
        ("A", "x\0"),
        ("A", "日"),
        ("A\r\nB", "x"),
        ("A:", "x"),
        ("", "x"),
        (" A", "x"),
    ],
)
def test_no_way_in_takes_what_would_add_to_the_response(name: str, value: str) -> None:
    headers = Headers()
    ways: List[Any] = [
        lambda: Headers([(name, value)]),
        lambda: Headers({name: value}),
        lambda: headers.add(name, value),
        lambda: headers.__setitem__(name, value),
        lambda: headers.setdefault(name, value),
        lambda: headers.update({name: value}),
    ]
    for way in ways:
        with pytest.raises(ValueError):
            way()
    assert len(headers) == 0


def test_headers_from_the_wire_are_taken_as_proved() -> None:
    headers = Headers.from_wire([("Host", "a"), ("X", "1"), ("x", "\xff")])
    assert headers["host"] == "a"
    assert headers.getall("X") == ["1", "\xff"]


# MultiDict ----------------------------------------------------------------------------


def test_the_last_value_counts() -> None:
    values = MultiDict([("a", "1"), ("b", "2"), ("a", "3")])
    assert values["a"] == values.get("a") == "3"
    assert values.getall("a") == ["1", "3"]
    assert list(values) == list(values.keys()) == ["a", "b"]
    assert list(values.items()) == [("a", "1"), ("a", "3"), ("b", "2")]
    assert len(values) == 2
    assert "a" in values
    assert "c" not in values
    assert dict(values) == {"a": "3", "b": "2"}


def test_a_missing_value_is_400_and_a_key_error() -> None:
    values: MultiDict[str] = MultiDict()
    assert values.get("a") is None
    assert values.get("a", "x") == "x"
    assert values.getall("a") == []
    with pytest.raises(MissingValue) as caught:
        values["a"]
    assert isinstance(caught.value, HTTPError)
    assert isinstance(caught.value, KeyError)
    assert caught.value.status == 400
    assert str(caught.value) == "400 The request lacks the value 'a'."


@pytest.mark.parametrize(
    "text,convert,expected",
    [
        ("7", int, 7),
        ("1.5", float, 1.5),
        ("1.5", Decimal, Decimal("1.5")),
    ],
)
def test_a_value_is_converted(text: str, convert: Any, expected: object) -> None:
    assert MultiDict([("a", text)]).get("a", 1, type=convert) == expected


@pytest.mark.parametrize(
    "text,convert,problem",
    [
        ("x", int, "'x', no valid int"),
        ("", int, "'', no valid int"),
        ("1\n<b>2", int, r"'1\n<b>2', no valid int"),
        ("9" * 10_000 + "x", int, "'" + "9" * 59 + "..., no valid int"),
        ("x", float, "'x', no valid float"),
        ("x", Decimal, "'x', no valid Decimal"),
        ("inf", lambda text: int(float(text)), "'inf', no valid value"),
        ("0", lambda text: 1 // int(text), "'0', no valid value"),
        ("0", lambda text: len(int(text)), "'0', no valid value"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_is_no_such_thing_is_400_and_a_value_error(
    text: str, convert: Any, problem: str
) -> None:
    values = MultiDict([("a", "1"), ("a", text)])
    with pytest.raises(BadValue) as caught:
        values.get("a", 5, type=convert)
    error = caught.value
    assert (error.status, error.text) == (400, f"The value 'a' is {problem}.")
    assert isinstance(error, HTTPError) and isinstance(error, ValueError)
    assert isinstance(error.__cause__, (ValueError, TypeError, ArithmeticError))
    page = cast(bytes, error_page(error).body)
    assert b"<b>" not in page and b"The value &#39;a&#39; is " in page


def test_a_type_may_answer_by_itself() -> None:
    def even(text: str) -> None:
        raise HTTPError(422, "Send an even number.")

    with pytest.raises(HTTPError, match="422 Send an even number"):
        MultiDict([("a", "1")]).get("a", type=even)


def test_the_default_is_for_a_missing_value_and_not_converted() -> None:
    assert MultiDict([("b", "x")]).get("a", "none", type=int) == "none"
    assert MultiDict([("b", "x")]).get("a", type=int) is None


def test_an_error_of_the_program_in_a_conversion_is_raised() -> None:
    with pytest.raises(AttributeError):
        MultiDict([("a", "1")]).get("a", type=lambda text: text.nothing)


def test_a_list_of_values_is_the_callers_own() -> None:
    values = MultiDict([("a", "1")])
    values.getall("a").append("2")
    assert values.getall("a") == ["1"]


def test_multidicts_compare_by_value() -> None:
    assert MultiDict([("a", 1), ("b", 2)]) == MultiDict([("b", 2), ("a", 1)])
    assert MultiDict([("a", 1), ("a", 2)]) != MultiDict([("a", 2), ("a", 1)])
    assert MultiDict([("a", 1)]) != {"a": 1}
    assert repr(MultiDict([("a", 1), ("a", 2)])) == "MultiDict([('a', 1), ('a', 2)])"
