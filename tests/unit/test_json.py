"""JSON: with orjson and without it the same is written, read and refused.

Every row goes through both. What is compared is what a text says: `1e-07` and `1e-7`
are one number. NaN, which equals nothing, is compared by how it is printed.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import decimal
import enum
import json
import subprocess
import sys
import uuid
from typing import Any, Callable, ClassVar, Dict, List, NamedTuple, Tuple

import pytest
from shapes import module_of
from support import serve

from pixie_web import HTTPError, Pixie, Request, RouteError
from pixie_web import text as text_chapter
from pixie_web.protocol.http11 import parse_head
from pixie_web.text import dump_json, json_default_hook, load_json

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ImportError:  # the properties at the end need it, the tables do not
    given = None

fast_json = text_chapter._fast_json
NEEDS_ORJSON = pytest.mark.skipif(fast_json() is None, reason="orjson is not installed")
LIBRARIES = ["json", pytest.param("orjson", marks=NEEDS_ORJSON)]
WITHOUT_ORJSON = "sys.modules['orjson'] = None"  # as if it were not installed


@pytest.fixture(params=LIBRARIES)
def library(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Say which library the functions of this test go to first."""
    if request.param == "json":
        monkeypatch.setattr(text_chapter, "_fast_json", lambda: None)
    return str(request.param)


def kind_of(value: object) -> str:
    """Name a row of a table; some values print their address."""
    return value if isinstance(value, str) else type(value).__name__


def outcomes(function: Callable[[Any], Any], argument: Any) -> Dict[str, str]:
    """Return what a function gives, or raises, by the library it goes to first."""
    found = {}
    for name, get in {"orjson": fast_json, "json": lambda: None}.items():
        text_chapter._fast_json = get  # type: ignore[assignment]
        try:
            found[name] = printed(function(argument))
        except (HTTPError, TypeError, ValueError) as error:
            found[name] = f"{type(error).__name__}: {error}"
        finally:
            text_chapter._fast_json = fast_json
    return found


def printed(value: Any) -> str:
    return repr(json.loads(value) if isinstance(value, bytes) else value)


# What is written ----------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    NONE = None
    PAIR = (1, 2)
    NAN = float("nan")


class Number(enum.IntEnum):
    ONE = 1


class Flag(enum.IntFlag):
    A = 1
    B = 2


class Word(str, enum.Enum):
    YES = "yes"


class Text(str):
    pass


class Whole(int):
    pass


class Real(float):
    pass


class Mapping(dict):  # type: ignore[type-arg]
    pass


class Upper(dict):  # type: ignore[type-arg]
    """A dict that shows other keys than it holds."""

    def items(self) -> Any:
        return [(key.upper(), value) for key, value in super().items()]


class Sequence(list):  # type: ignore[type-arg]
    pass


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Record:
    a: int = 1


@dataclasses.dataclass
class Order:
    at: datetime.datetime
    price: decimal.Decimal
    lines: Tuple[Record, ...]
    _note: Any = None
    kind: ClassVar[str] = "order"


@dataclasses.dataclass
class Tagged(dict):  # type: ignore[type-arg]
    """A dict to `json`, whatever else it is."""

    tag: str = "t"


class Moment(datetime.datetime):
    pass


def zone(**offset: int) -> datetime.timezone:
    return datetime.timezone(datetime.timedelta(**offset))


class Speaks:
    """What some libraries ask an object for."""

    def __json__(self) -> str:
        return "1"

    def toDict(self) -> Dict[str, int]:
        return {"a": 1}


SHOE = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
CIRCLE: List[Any] = []
CIRCLE.append(CIRCLE)

# A value, and the compact text that says it.
WRITTEN: List[Tuple[object, str]] = [
    (None, "null"),
    (True, "true"),
    (-0.0, "-0.0"),
    (2**63, "9223372036854775808"),
    (2**64 - 1, "18446744073709551615"),
    (2**64, "18446744073709551616"),
    (-(2**63), "-9223372036854775808"),
    (-(2**63) - 1, "-9223372036854775809"),
    (10**100, "1" + "0" * 100),
    (0.1 + 0.2, "0.30000000000000004"),
    (5e-324, "5e-324"),
    ("a/b<>&'", '"a/b<>&\'"'),
    ('\x00\x1f\n"\\', '"\\u0000\\u001f\\n\\"\\\\"'),
    ("\x7f\u2028é😀", '"\x7f\u2028é😀"'),
    ("\ud800", '"\\ud800"'),
    ({"\udfff": None}, '{"\\udfff":null}'),
    ("null", '"null"'),
    ({"null": float(1)}, '{"null":1.0}'),
    ([None, (None,)], "[null,[null]]"),
    ((1, (2,)), "[1,[2]]"),
    ({}, "{}"),
    ({"b": 1, "a": 2}, '{"b":1,"a":2}'),
    ({1: 2, None: 3, False: 4, 1.5: 5}, '{"1":2,"null":3,"false":4,"1.5":5}'),
    ({Text("k"): Text("v")}, '{"k":"v"}'),
    ([Whole(5), Real(0.5)], "[5,0.5]"),
    (Mapping(a=Sequence([1])), '{"a":[1]}'),
    (Upper(a=1), '{"A":1}'),
    (collections.OrderedDict(a=1), '{"a":1}'),
    (collections.defaultdict(int, a=1), '{"a":1}'),
    (Point(1, 2), "[1,2]"),
    ([Number.ONE, Flag.A | Flag.B, Word.YES], '[1,3,"yes"]'),
    ({Number.ONE: 1, Word.YES: 2}, '{"1":1,"yes":2}'),
    ([Colour.RED, Colour.NONE, Colour.PAIR], '["red",null,[1,2]]'),
    ([SHOE, None], '["6ba7b810-9dad-11d1-80b4-00c04fd430c8",null]'),
    (datetime.datetime(2020, 1, 2, 3, 4, 5), '"2020-01-02T03:04:05"'),
    (
        datetime.datetime(2020, 1, 2, 3, 4, 5, 6, datetime.timezone.utc),
        '"2020-01-02T03:04:05.000006+00:00"',
    ),
    (
        Moment(1, 1, 1, tzinfo=zone(hours=-9, minutes=-30)),
        '"0001-01-01T00:00:00-09:30"',
    ),
    (
        datetime.datetime(1900, 1, 1, tzinfo=zone(seconds=1172)),
        '"1899-12-31T23:40:28+00:00"',
    ),
    (datetime.date(2020, 1, 2), '"2020-01-02"'),
    (datetime.time(12), '"12:00:00"'),
    (datetime.time(12, 0, 0, 5, zone(hours=2)), '"12:00:00.000005+02:00"'),
    (decimal.Decimal("1.50"), '"1.50"'),
    (decimal.Decimal("12345678901234567890.12"), '"12345678901234567890.12"'),
    ([decimal.Decimal("-0"), decimal.Decimal("1E+2")], '["-0","1E+2"]'),
    (Record(), '{"a":1}'),
    ([None, Record(2)], '[null,{"a":2}]'),
    (Tagged(), "{}"),
    (
        Order(
            datetime.datetime(2020, 1, 1), decimal.Decimal(2), (Record(), Record(None))
        ),  # type: ignore[arg-type]
        '{"at":"2020-01-01T00:00:00","price":"2","lines":[{"a":1},{"a":null}],'
        '"_note":null}',
    ),
    ({"a": [{"b": [[[]]]}] * 3}, '{"a":[{"b":[[[]]]},{"b":[[[]]]},{"b":[[[]]]}]}'),
    (json.loads("[" * 300 + "]" * 300), "[" * 300 + "]" * 300),
]


@pytest.mark.parametrize("value, text", WRITTEN, ids=kind_of)
def test_a_value_is_written_compactly(library: str, value: object, text: str) -> None:
    assert dump_json(value).decode() == text


@pytest.mark.parametrize("number", [1e-07, 1e16, -1.5e-10, 1.7976931348623157e308])
def test_a_number_is_written_so_that_it_comes_back(library: str, number: float) -> None:
    assert float(dump_json(number)) == number


REFUSED_VALUES: List[Tuple[object, type]] = [
    (float("nan"), ValueError),
    ([None, float("nan")], ValueError),
    ({"a": {"b": (float("-inf"),)}}, ValueError),
    ({"a": None, "b": Real("inf")}, ValueError),
    ({float("nan"): 1}, ValueError),
    (["null", Colour.NAN], ValueError),
    (CIRCLE, ValueError),
    (b"x", TypeError),
    (bytearray(b"x"), TypeError),
    (memoryview(b"x"), TypeError),
    ({1, 2}, TypeError),
    (range(3), TypeError),
    ((n for n in (1, 2)), TypeError),
    (1j, TypeError),
    (object(), TypeError),
    (decimal.Decimal("nan"), ValueError),
    ([decimal.Decimal("-inf")], ValueError),
    (datetime.timedelta(1), TypeError),
    (Record(float("nan")), ValueError),  # type: ignore[arg-type]
    (Record(CIRCLE), ValueError),  # type: ignore[arg-type]
    (Record({1}), TypeError),  # type: ignore[arg-type]
    ([Record], TypeError),
    ({datetime.date(2020, 1, 1): 1}, TypeError),
    (Speaks(), TypeError),
    ({(1, 2): 3}, TypeError),
    ({b"a": 1}, TypeError),
    ({SHOE: 1}, TypeError),
    ({Colour.RED: 1}, TypeError),
]


@pytest.mark.parametrize("value, kind", REFUSED_VALUES, ids=kind_of)
def test_a_value_that_json_can_not_say_is_refused(
    library: str, value: object, kind: type
) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        dump_json(value)
    assert isinstance(caught.value, kind)


class Scalar:
    """What numpy's scalars and arrays are like: comparing them gives no bool."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tolist(self) -> Any:
        return self.value

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


def plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is unknown")


@pytest.fixture
def hook() -> Any:
    token = json_default_hook.set(plain)
    yield
    json_default_hook.reset(token)


def test_a_program_says_what_stands_for_what_json_does_not_know(
    library: str, hook: object
) -> None:
    value = {"a": Scalar([1, None, {"b": Scalar(decimal.Decimal("0.5"))}]), "c": None}
    assert dump_json(value) == b'{"a":[1,null,{"b":"0.5"}],"c":null}'
    for bad, kind in ((Scalar(float("nan")), ValueError), (Scalar({1}), TypeError)):
        with pytest.raises(kind):
            dump_json([bad, None])
    with pytest.raises(TypeError, match="object is unknown"):
        dump_json(object())
    circle = Scalar(None)
    circle.value = [circle]
    with pytest.raises(ValueError):
        dump_json(circle)


def test_without_such_a_word_an_error_says_where_it_goes(library: str) -> None:
    with pytest.raises(TypeError, match=r"type Scalar .* let app\.json_default do so"):
        dump_json([Scalar(1)])


def test_numpy_is_written_by_its_lists(library: str, hook: object) -> None:
    numpy = pytest.importorskip("numpy")
    value = [numpy.int64(5), numpy.float32(0.5), numpy.bool_(True), numpy.float64(0.1)]
    assert dump_json(value) == b"[5,0.5,true,0.1]"
    value = {"a": numpy.array([[1, 2], [3, 4]]), "b": None}
    assert dump_json(value) == b'{"a":[[1,2],[3,4]],"b":null}'
    with pytest.raises(ValueError):
        dump_json(numpy.array([1.0, numpy.nan]))


@pytest.mark.parametrize("wrong", ["tolist", 5, asyncio.sleep])
def test_what_can_not_be_asked_is_refused_where_it_is_set(wrong: Any) -> None:
    with pytest.raises(RouteError, match=r"app\.json_default is a plain def"):
        Pixie().json_default = wrong


def test_each_application_has_its_own_word_or_that_of_the_one_above() -> None:
    top, below, own, other = Pixie(), Pixie(), Pixie(), Pixie()
    top.json_default = plain
    own.json_default = lambda value: "own"
    top.mount("/below", below)
    below.mount("/own", own)
    for application in (top, below, own, other):
        application.route("/x", "sync")(lambda env: [Scalar(1)])
        application.route("/y", "asnc")(answer_later)

    def ask(application: Pixie, path: str) -> Any:
        request = Request(
            parse_head(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        )
        return asyncio.run(application.handle(request)).body

    for path in ("/x", "/y"):
        assert ask(top, path) == ask(top, f"/below{path}") == b"[1]"
        assert ask(top, f"/below/own{path}") == b'["own"]'
        assert b"500" in ask(other, path)  # nothing is left of the others
    with pytest.raises(RouteError, match="before the server starts"):
        top.json_default = None


async def answer_later(env: Request) -> Any:
    await asyncio.sleep(0)
    return [Scalar(1)]


# What is read -------------------------------------------------------------------------

READ: List[Tuple[bytes, object]] = [
    (b" \t\r\n1 \t\r\n", 1),
    (b'"a"', "a"),
    (b"null", None),
    (b"-0", 0),
    (b"-0.0", -0.0),
    (b"[1E+2, 1e2, 1.0E-2]", [100.0, 100.0, 0.01]),
    (b"1.7976931348623157e308", 1.7976931348623157e308),
    (b"-1e0000308", -1e308),
    (b"1e-400", 0.0),
    (b"9007199254740993", 9007199254740993),
    (b"18446744073709551615", 2**64 - 1),
    (b"18446744073709551616", 2**64),
    (b"[-9223372036854775808]", [-(2**63)]),
    (b"[-9223372036854775809]", [-(2**63) - 1]),
    (b'{"a":[1,99999999999999999999999]}', {"a": [1, 99999999999999999999999]}),
    (b"0.12345678901234567890123", 0.12345678901234568),
    (b'"99999999999999999999"', "99999999999999999999"),
    (b'{"a":1,"a":2}', {"a": 2}),
    (b'{"":{}}', {"": {}}),
    ('"é😀\u2028\x7f"'.encode(), "é😀\u2028\x7f"),
    (b'"\\u0000\\/\\"\\b"', '\x00/"\b'),
    (b'"\\ud83d\\ude00"', "😀"),
    (b'"\\ud800"', "\ud800"),
    (b'"\\udc00\\ud800"', "\udc00\ud800"),
    (b"[" * 300 + b"]" * 300, json.loads("[" * 300 + "]" * 300)),
]


@pytest.mark.parametrize("text, value", READ, ids=lambda item: repr(item)[:25])
def test_a_text_is_read(library: str, text: bytes, value: object) -> None:
    got = load_json(text)
    assert (repr(got), type(got)) == (repr(value), type(value))


REFUSED_TEXTS = [
    b"", b" ", b"\x00", b"nul", b"nulll", b"True", b"undefined", b"NaN", b"Infinity",
    b"[-Infinity]", b"nan", b"01", b"-01", b"00", b"+1", b"1.", b"[1.]", b".5", b"1.e1",
    b"1e", b"-", b"[-]", b"--1", b"0x10", b"1_0", b"1 2", b"1e1.5", b"[", b"]", b"[1,]",
    b"[,1]", b"[1,,2]", b"[1 2]", b"[1}", b'{"a":1,}', b"{a:1}", b"{'a':1}", b"'a'",
    b'{"a" 1}', b'{"a"}', b'{"a":}', b"{1:2}", b"{null:1}", b'{"a":1', b"{}{}",
    b"[1] x", b"[1]\x00", b'"a', b'"\x00"', b'"\x1f"', b'"\n"', b'"\t"', b'"\\q"',
    b'"\\x41"', b'"\\u12"', b'"\\U00000041"', b'"\\', b'"\xff"', b'"\xed\xa0\x80"',
    b'"\xc0\xaf"', b'"\xf4\x90\x80\x80"', b'"\xc3', b"\xef\xbb\xbf1", b"\xff\xfe1\x00",
    b"1\x001", b"\x0b1", b"\x0c1", b"\xc2\xa01", b"\xe2\x80\xa81", b"/*x*/1", b"1//x",
    b"1e400", b"[-1e999]", b"1.7976931348623159e308", b"9" * 400 + b".0",
    b"#1", b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED_TEXTS, ids=lambda text: repr(text[:20]))
def test_a_text_that_is_no_json_is_refused(library: str, text: bytes) -> None:
    with pytest.raises(HTTPError) as caught:
        load_json(text)
    assert caught.value.status == 400


def test_a_number_of_5000_digits_is_never_rounded(library: str) -> None:
    # Pythons with a limit on the length of an int refuse it (CVE-2020-10735).
    try:
        got = load_json(b"[" + b"9" * 5000 + b"]")
    except HTTPError as error:
        got = error.status
    assert got in (400, [10**5000 - 1])


# Which library is asked ---------------------------------------------------------------


@NEEDS_ORJSON
def test_orjson_answers_alone_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_chapter, "_json", None)
    value = {"a": [1, 2.5, "é", None, True, Word.YES]}
    assert dump_json(value) == '{"a":[1,2.5,"é",null,true,"yes"]}'.encode()
    assert load_json(b'{"a":[1,1234567890123456789,null]}') == {
        "a": [1, 1234567890123456789, None]
    }


@NEEDS_ORJSON
def test_orjson_is_imported_when_json_is_first_needed() -> None:
    program = (
        f"import sys, {module_of('text')} as text; "
        "first = 'orjson' in sys.modules; "
        "text.dump_json(1); print(first, 'orjson' in sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", program], timeout=60)
    assert output.split() == [b"False", b"True"]


# Over the wire ------------------------------------------------------------------------

PROGRAM = """\
import array, dataclasses, datetime, decimal, enum, sys, uuid
{first}
from pixie_web import app, route, run

class Colour(enum.Enum):
    RED = "red"

@dataclasses.dataclass
class Record:
    at: datetime.datetime
    price: decimal.Decimal
    numbers: array.array

MOMENT = datetime.datetime(2020, 1, 1)

def plain(value):
    return value.tolist()

app.json_default = plain

VALUES = [
    [Record(MOMENT, decimal.Decimal("0.10"), array.array("d", [1.5])), None],
    {{"a": [1, 2.5, 1e-07, "\\u00e9", None], "id": uuid.UUID(int=7), "c": Colour.RED}},
    [2**64, {{1: 2}}, (1,), "\\ud800"],
    [float("nan")],
    [{{1, 2}}],
]

def say(env, number):
    return VALUES[number]

def hear(env):
    return repr(env.json)

async def say_later(env, number):
    return VALUES[number]

async def hear_later(env):
    return repr(env.json)

route("/say/asnc/<number:int>")(say_later)
route("/hear/asnc", method="POST")(hear_later)
for placement in ("sync", "thread", "pool"):
    route("/say/" + placement + "/<number:int>", placement)(say)
    route("/hear/" + placement, placement, method="POST")(hear)
run()
"""
SENT = [
    b'{"a":[1,2.5,99999999999999999999,"\\ud800",null]}',
    b"[1,]",
    b"[NaN]",
    b"[1e400]",
    b"[" * 100_000,
]


def conversation(first: str, pool_start: str) -> Dict[str, List[Tuple[int, bytes]]]:
    """Return what a server answers, by the placement that was asked."""
    found: Dict[str, List[Tuple[int, bytes]]] = {}
    head = {"Content-Type": "application/json"}
    with serve(PROGRAM.format(first=first), pool_start=pool_start) as server:
        for placement in ("sync", "thread", "asnc", "pool"):
            answers = [server.get(f"/say/{placement}/{n}") for n in range(5)]
            for body in SENT:
                path = f"/hear/{placement}"
                answers.append(server.request("POST", path, body, head))
            found[placement] = [(answer.status, answer.body) for answer in answers]
    return found


@pytest.mark.parametrize(
    "first, pool_start",
    [(WITHOUT_ORJSON, "spawn"), pytest.param("", "zygote", marks=NEEDS_ORJSON)],
)
def test_main_and_the_workers_say_and_hear_the_same(
    first: str, pool_start: str
) -> None:
    found = conversation(first, pool_start)
    assert found["sync"] == found["thread"] == found["asnc"] == found["pool"]
    statuses, bodies = zip(*found["sync"])
    assert statuses == (200, 200, 200, 500, 500, 200, 400, 400, 400, 400)
    assert bodies[0] == (
        b'[{"at":"2020-01-01T00:00:00","price":"0.10","numbers":[1.5]},null]'
    )
    assert json.loads(bodies[1]) == {
        "a": [1, 2.5, 1e-07, "é", None],
        "id": "00000000-0000-0000-0000-000000000007",
        "c": "red",
    }
    assert bodies[2] == b'[18446744073709551616,{"1":2},[1],"\\ud800"]'
    assert bodies[5].decode() == repr(
        {"a": [1, 2.5, 99999999999999999999, "\ud800", None]}
    )


# Properties ---------------------------------------------------------------------------

if given is not None and fast_json() is not None:
    keys = st.one_of(
        st.text(max_size=3),
        st.sampled_from([1, None, True, 1.5, (1,), b"x", "\ud800", Colour.RED]),
    )
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(st.characters(), max_size=5),
        st.sampled_from(["null", "\ud800", b"x", SHOE, Colour.RED, Colour.NAN, 2**64]),
        st.datetimes(timezones=st.sampled_from([None, zone(hours=2), zone(seconds=9)])),
        st.sampled_from([Record(None), Record(float("nan")), Tagged()]),  # type: ignore[arg-type]
        st.decimals(),
    )
    values = st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.tuples(inner, inner),
            st.dictionaries(keys, inner, max_size=4),
        ),
        max_leaves=12,
    )
    pieces = st.one_of(
        st.sampled_from(
            b'{ } [ ] , : " \\u \\ud800 \\ - . e 0 1 9 null true NaN "a" "a": -0 \t \n '
            b"18446744073709551615 99999999999999999999 1e308 e999 \xff \xc3\xa9".split(
                b" "
            )
        ),
        st.binary(max_size=2),
    )

    @settings(max_examples=300, deadline=None)
    @given(values)
    def test_any_value_is_written_the_same_or_refused_by_both(value: object) -> None:
        found = outcomes(dump_json, value)
        assert found["orjson"] == found["json"]

    @settings(max_examples=300, deadline=None)
    @given(st.lists(pieces, max_size=9).map(b"".join))
    def test_any_text_is_read_the_same_or_refused_by_both(text: bytes) -> None:
        for wrapped in (text, b"[" + text + b"]", b'{"a":"' + text + b'"}'):
            found = outcomes(load_json, wrapped)
            assert found["orjson"] == found["json"]
