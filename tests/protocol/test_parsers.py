"""`run(parser="httptools")`: the same requests, the same refusals in the same words.

The tables of test_wire.py run with both readers there. Here stands what only a reader
that takes many chunks at once can get wrong.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List, Type

import pytest
from events import events_from, joined
from shapes import module_of, place_lone_file
from support import LOOPS, PATIENCE_SECONDS, serve
from test_wire import ACCEPTED, CHUNKED, GET, REFUSED_CHUNKS, cuts

from pixie_web import ProtocolError
from pixie_web.protocol.http11 import (
    MAX_JOINED_BYTES,
    MAX_JOINED_CHUNKS,
    NEED_DATA,
    Head,
    RequestReader,
    encode_chunk,
)

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ImportError:  # the property at the end needs it, the tables do not
    given = None
try:
    from pixie_web import httptools
except ImportError:  # it is an extra
    httptools = None  # type: ignore[assignment]

needs_httptools = pytest.mark.skipif(
    httptools is None, reason="httptools is not installed"
)
LAST = b"0\r\n\r\n"


def events_of(
    reader: RequestReader, pieces: Any, max_body_bytes: Any = None
) -> Iterator[Any]:
    """Yield heads, body bytes, refusals, and how much is left over at the end."""
    event: Any = None
    for event in events_from(reader, pieces):
        if isinstance(event, Head):
            reader.max_body_bytes = max_body_bytes
            event = event.raw.decode("latin-1")
        elif isinstance(event, ProtocolError):
            event = str(event)
        if event is not NEED_DATA:
            yield event
    if event is NEED_DATA:
        yield reader.buffered


def assert_same(data: bytes, pieces: Any, **options: Any) -> List[Any]:
    pieces = list(pieces)
    readers: List[Type[RequestReader]] = [RequestReader, httptools.HttptoolsReader]
    expected, got = (joined(events_of(one(), pieces, **options)) for one in readers)
    assert got == expected, data
    return got


# Chunks -------------------------------------------------------------------------------


def run_of(count: int, content: bytes = b"x") -> bytes:
    return encode_chunk(content) * count


@needs_httptools
@pytest.mark.parametrize("body, status", REFUSED_CHUNKS)
def test_a_bad_chunk_behind_good_ones_is_refused(body: bytes, status: int) -> None:
    data = CHUNKED + run_of(20) + body
    for pieces in cuts(data):
        events = assert_same(data, pieces)
        assert events[-1].startswith(str(status))


@needs_httptools
@pytest.mark.parametrize(
    "data", [row.values[0] for row in ACCEPTED if CHUNKED in row.values[0]]
)
def test_good_chunks_behind_good_ones_are_taken(data: bytes) -> None:
    data = data.replace(CHUNKED, CHUNKED + run_of(20)) + GET + b"\r\n"
    for pieces in cuts(data):
        assert_same(data, pieces)


@needs_httptools
def test_many_small_chunks_are_one_piece() -> None:
    for digits in ("x", "X"):
        body = b"".join(
            b"%b\r\n%b\r\n" % (format(size, digits).encode(), b"y" * size)
            for size in [10, *range(1, 300), 7]
        )
        reader = httptools.HttptoolsReader()
        events = list(events_of(reader, [CHUNKED + body + LAST]))
        sizes = [len(event) for event in events if isinstance(event, bytes)]
        assert sum(sizes) == 10 + sum(range(300)) + 7
        assert len(sizes) <= 4  # MAX_JOINED_CHUNKS are 256


UNUSUAL = {
    "a leading zero": b"01\r\nx\r\n",
    "an extension": b"1;a=b\r\nx\r\n",
    "a chunk that looks like a chunk": encode_chunk(b"1\r\nx\r\n"),
    "a chunk that looks like the last one": encode_chunk(LAST),
    "a chunk that looks like a request": encode_chunk(GET + b"\r\n"),
    "both cases": encode_chunk(b"x" * 10) + b"A\r\n" + b"x" * 10 + b"\r\n",
    "a larger chunk": encode_chunk(b"x" * 5000),
    "another case of one size": b"aA\r\n" + b"x" * 170 + b"\r\n",
}


@needs_httptools
@pytest.mark.parametrize("chunk", UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("place", [0, 1, 10, 19, 20])
def test_an_unusual_chunk_among_others_is_read_alike(chunk: bytes, place: int) -> None:
    body = run_of(place) + chunk + run_of(20 - place) + LAST
    data = (CHUNKED + body) * 2 + GET + b"\r\n"
    for size in (1, 7, 50, 333, len(data)):
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        assert len(assert_same(data, pieces)) == 8


@needs_httptools
@pytest.mark.parametrize("limit", [0, 1, 19, 20, 21, 99, 100, None])
def test_the_limit_on_a_body_holds_inside_a_run_of_chunks(limit: Any) -> None:
    data = CHUNKED + run_of(100) + LAST
    for size in (1, 13, 200, len(data)):
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        events = assert_same(data, pieces, max_body_bytes=limit)
        if limit is not None and limit < 100:
            assert events[-1].startswith("413")
            assert events[1:-1] == ([b"x" * limit] if limit else [])


MEAN = {
    "extensions": b"1;a=b\r\nx\r\n" * 3000,
    "what llhttp refuses": b"1 ; a\r\nx\r\n" * 3000,
    "by turns": (run_of(3) + b"1 ; a\r\nx\r\n") * 1000,
    "one over the limit": run_of(10_001),
    "a line that comes slowly": run_of(20) + b"1;" + b"a" * 4000,
}


@needs_httptools
@pytest.mark.parametrize("body", MEAN.values(), ids=MEAN)
def test_llhttp_is_given_once_what_came_at_once(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    asked: List[int] = []  # how many bytes it is given, each time
    real = httptools.httptools.HttpRequestParser

    class Counted:
        def __init__(self, callbacks: Any) -> None:
            self._parser = real(callbacks)

        def feed_data(self, data: bytes) -> None:
            if not data.startswith(b"POST"):
                asked.append(len(data))
            self._parser.feed_data(data)

    monkeypatch.setattr(httptools.httptools, "HttpRequestParser", Counted)
    for size in (5000, len(CHUNKED + body)):
        asked.clear()
        data = CHUNKED + body
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        assert_same(data, pieces, max_body_bytes=10_000)
        # Each byte once, but for the last chunk each time, which may not be whole.
        assert sum(asked) <= len(data) + 10 * len(asked)
        assert max(asked, default=0) <= MAX_JOINED_BYTES
        # It takes some of it, or is not asked again.
        taken = len(data) / (MAX_JOINED_CHUNKS * 7) + len(pieces)
        assert len(asked) <= 2 * taken
    slowly = [CHUNKED + body[:100], *(body[i : i + 1] for i in range(100, 2000))]
    asked.clear()
    assert_same(body, slowly)
    assert len(asked) < 30


# Nothing depends on what llhttp says --------------------------------------------------

TRUE = b"".join(encode_chunk(b"%d" % number) for number in range(40)) + LAST
LIES = {
    "nothing": [],
    "nothing at all, twice": [b"", b""],
    "an empty chunk": [b"1", b"2", b"", b"3"],
    "the end of the body": [b"%d" % number for number in range(1, 40)] + [b"", b"x"],
    "two as one": [b"12", b"3", b"4"],
    "one left out": [b"1", b"3", b"4"],
    "one twice": [b"1", b"1", b"2"],
    "what is between them": [b"1\r\n1\r\n2", b"3"],
    "another content": [b"9", b"8", b"7"],
}


@needs_httptools
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("raises", [False, True])
def test_a_parser_that_lies_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, lie: List[bytes], raises: bool
) -> None:
    class Liar:
        def __init__(self, callbacks: Any) -> None:
            self._callbacks = callbacks

        def feed_data(self, data: bytes) -> None:
            if not data.startswith(b"POST"):
                for piece in lie:
                    self._callbacks.on_body(piece)
                if raises:
                    raise httptools.httptools.HttpParserError("no")

    monkeypatch.setattr(httptools.httptools, "HttpRequestParser", Liar)
    data = CHUNKED + TRUE + GET + b"\r\n"
    for size in (50, 77, len(data)):
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        content = b"".join(b"%d" % number for number in range(40))
        assert assert_same(data, pieces)[1] == content


# In a server --------------------------------------------------------------------------

PROGRAM = """\
import hashlib
from pixie_web import route, run

def digest(env):
    return f"{len(env.body)} {hashlib.sha256(env.body).hexdigest()}"

for placement in ("sync", "thread", "pool"):
    route("/" + placement, placement, "POST")(digest)

@route("/asnc", "asnc", "POST")
async def digest_on_the_loop(env):
    return digest(env)

run()
"""


@needs_httptools
@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_takes_uploads_in_small_chunks(loop: str) -> None:
    content = b"".join(b"line %d\n" % number for number in range(5000))
    lines = [encode_chunk(line) for line in content.splitlines(keepends=True)]
    expected = f"{len(content)} {hashlib.sha256(content).hexdigest()}".encode()
    with serve(PROGRAM, parser="httptools", loop=loop) as server:
        for path in (b"/sync", b"/thread", b"/pool", b"/asnc"):
            head = CHUNKED.replace(b" / ", b" " + path + b" ")
            head = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            answer = server.raw(head + b"".join(lines) + LAST)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(expected)
            answer = server.raw(head + b"".join(lines) + b"01x\r\n")
            assert answer.startswith(b"HTTP/1.1 400 ")


RUN = "from pixie_web import run\nrun({arguments})\n"


def refusal(directory: Path, program: str, **environment: str) -> str:
    """Run a program that can't start, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=str(directory),
        env={**os.environ, "PIXIE_PORT": "0", "PIXIE_HOST": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 1
    return done.stderr


def test_a_parser_that_nobody_knows_is_one_line(tmp_path: Path) -> None:
    said = 'pixie_web: parser is "pixie" or "httptools", got \'h11\'\n'
    program = RUN.format(arguments='parser="h11"')
    assert refusal(tmp_path, program) == said
    assert refusal(tmp_path, RUN.format(arguments=""), PIXIE_PARSER="h11") == said


def test_httptools_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    program = "import sys; sys.modules['httptools'] = None\n" + RUN
    assert refusal(tmp_path, program.format(arguments='parser="httptools"')) == (
        'pixie_web: parser="httptools" needs: pip install httptools\n'
    )


def test_the_lone_file_says_that_the_parser_comes_with_the_package(
    tmp_path: Path,
) -> None:
    place_lone_file(tmp_path)
    program = "import sys; sys.path.insert(0, '.')\n" + RUN
    assert refusal(tmp_path, program.format(arguments='parser="httptools"')) == (
        'pixie_web: parser="httptools" is in the package, not in the single file\n'
    )


@needs_httptools
def test_the_example_of_the_docs_counts_lines(root: Path) -> None:
    page = (root / "docs" / "parsers.md").read_text("utf-8")
    example = page.split("```python\n")[1].split("```")[0]
    with serve(example) as server:
        lines = iter([b"line\n"] * 100)  # http.client sends each as a chunk
        answer = server.request("POST", "/lines", lines)  # type: ignore[arg-type]
    assert answer.text == "100"


def test_the_companion_is_imported_only_when_asked_for() -> None:
    program = (
        f"import sys, {module_of('server.options')} as options; "
        "options.reader_class('pixie'); "
        "print('pixie_web.httptools' in sys.modules or 'httptools' in sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", program], timeout=60)
    assert output.split() == [b"False"]


# Properties ---------------------------------------------------------------------------

if given is not None and httptools is not None:
    contents = st.one_of(
        st.binary(max_size=4), st.sampled_from([LAST, b"1\r\nx\r\n", b"x" * 17, GET])
    )
    forms = st.sampled_from([b"%x"] * 12 + [b"%X", b"0%x", b"%x;a", b"%x ", b"+%x"])
    ends = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"", b"\r\r\n", b"\r\n\r\n"])

    @st.composite
    def chunked_bodies(draw: Any) -> bytes:
        parts = []
        for _ in range(draw(st.integers(1, 3))):
            content = draw(contents)
            form, end = draw(forms), draw(ends)
            chunk = form % len(content) + b"\r\n" + content + end
            parts.append(chunk * draw(st.sampled_from([1, 1, 2, 9, 30])))
        return CHUNKED + b"".join(parts) + LAST * draw(st.booleans())

    @settings(max_examples=400, deadline=None)
    @given(
        st.lists(chunked_bodies(), min_size=1, max_size=2).map(b"".join),
        st.lists(st.integers(0, 1500), max_size=6),
        st.sampled_from([None, None, 0, 10, 100]),
    )
    def test_both_readers_make_the_same_of_any_chunks(
        data: bytes, places: List[int], limit: Any
    ) -> None:
        edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
        pieces = [data[a:b] for a, b in zip(edges, edges[1:])]
        assert_same(data, pieces, max_body_bytes=limit)
