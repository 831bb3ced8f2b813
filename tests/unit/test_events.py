"""Server-sent events: their text, and the headers of a stream that begins with one."""

from __future__ import annotations

from typing import Any, Dict

import pytest

from pixie_web import Event, Response
from pixie_web.responses import open_stream

EVENTS = {
    "data: a\n\n": {"data": "a"},
    "data: \n\n": {"data": ""},
    "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n": {"data": "a\nb\r\nc\rd\n"},
    'data: {"a":[1,null]}\n\n': {"data": {"a": [1, None]}},
    "data: 0\n\n": {"data": 0},
    "data: \u00e4 \u2028\n\n": {"data": "\u00e4 \u2028"},
    "event: e\nid: 7\nretry: 500\ndata: a\n\n": {
        "data": "a",
        "event": "e",
        "id": 7,
        "retry": 500,
    },
    "retry: 500\n\n": {"retry": 500},
    "id: \ndata: a\n\n": {"data": "a", "id": ""},
    ":\n\n": {},
}


@pytest.mark.parametrize("text, arguments", EVENTS.items(), ids=range(len(EVENTS)))
def test_the_text_of_an_event(text: str, arguments: Dict[str, Any]) -> None:
    assert Event(**arguments) == text


@pytest.mark.parametrize("bad", ["a\nb", "a\rdata: b", "\0", "\n"])
@pytest.mark.parametrize("name", ["event", "id", "retry"])
def test_a_field_of_several_lines_is_refused(name: str, bad: str) -> None:
    with pytest.raises(ValueError, match=f"the {name} of an event is one line"):
        Event("data", **{name: bad})  # type: ignore[arg-type]


def test_a_stream_that_begins_with_an_event_is_one_of_events() -> None:
    response, chunk = open_stream(Response(iter(())), Event("a"))
    assert chunk == b"data: a\n\n"
    assert dict(response.headers.items()) == {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
    }


def test_headers_of_the_program_stay() -> None:
    own = Response(iter(()), headers={"Cache-Control": "no-cache"})
    assert open_stream(own, Event("a"))[0].headers["Cache-Control"] == "no-cache"
    own = Response(iter(()), content_type="text/plain")
    assert open_stream(own, Event("a"))[0].content_type == "text/plain"
    assert open_stream(Response(iter(())), "data: a\n\n")[0].content_type == (
        "text/html; charset=utf-8"
    )
