"""demo.py, started as its users start it and asked over HTTP."""

from __future__ import annotations

import http.client
import json
import struct
import time
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple
from urllib.parse import urlencode

import pytest
from shapes import home
from support import Server, server_fixture

TIMEOUT_SECONDS = 60
WIDTH, HEIGHT, TILE, TICK_SECONDS = 800, 500, 100, 0.1
QUICK_VIEW = "x=0.8&y=0.8&span=0.9"  # mostly outside of the set: soon computed


class Answer(NamedTuple):
    """An HTTP response that has been read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks one server, with a connection of its own for each request."""

    def __init__(self, server: Server) -> None:
        self.server = server

    @contextmanager
    def open(
        self,
        path: str,
        method: str = "GET",
        headers: Optional[Dict[str, str]] = None,
        body: Optional[str] = None,
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.server.port, timeout=TIMEOUT_SECONDS
        )
        try:
            connection.request(method, path, body, headers or {})
            yield connection.getresponse()
        finally:
            connection.close()

    def ask(self, path: str, **request: Any) -> Answer:
        with self.open(path, **request) as response:
            return Answer(response.status, response.headers, response.read())

    def post(self, path: str, **fields: str) -> Answer:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask(path, method="POST", headers=kind, body=urlencode(fields))


server = server_fixture(home() / "demo.py", drain_seconds=3)


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server)


def decode_png(data: bytes) -> Tuple[int, int, List[bytes]]:
    """Return width, height and the rows of a PNG file of one byte per pixel."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, kinds, pixels = 8, [], b""
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        assert zlib.crc32(kind + content) == checksum
        if kind == b"IHDR":
            width, height, depth, colours = struct.unpack_from(">IIBB", content)
            assert (depth, colours) == (8, 3)
        if kind == b"IDAT":
            pixels += content
        kinds.append(kind)
        at += 12 + length
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")
    lines = zlib.decompress(pixels)
    assert len(lines) == height * (width + 1)
    return (
        width,
        height,
        [lines[y * (width + 1) + 1 : (y + 1) * (width + 1)] for y in range(height)],
    )


# The page and its files ---------------------------------------------------------------


def test_the_page_is_rendered_with_the_main_process_and_the_sources(
    client: Client, server: Server
) -> None:
    page = client.ask("/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<title>pixie_web demo</title>" in page.text
    assert f"<dd>{server.process.pid}</dd>" in page.text
    assert '<b class="pool">RouteType.pool</b>' in page.text
    assert "{{" not in page.text


def test_the_page_needs_nothing_from_elsewhere(client: Client) -> None:
    for path in ("/", "/greeting", "/assets/demo.css", "/assets/demo.js"):
        assert "://" not in client.ask(path).text


@pytest.mark.parametrize(
    "name, kind",
    [
        ("demo.css", "text/css"),
        ("demo.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_assets_are_served_with_their_type(
    client: Client, root: Path, name: str, kind: str
) -> None:
    asset = client.ask(f"/assets/{name}")
    assert asset.status == 200
    assert asset.headers["Content-Type"].split(";")[0] == kind
    assert asset.body == (root / "examples/demo/assets" / name).read_bytes()


def test_the_templates_are_not_among_the_assets(client: Client) -> None:
    assert client.ask("/assets/../index.tpl").status in (400, 403, 404)
    assert client.ask("/assets/%2e%2e/index.tpl").status in (400, 403, 404)


def test_the_source_is_served_whole_then_not_modified_then_in_part(
    client: Client, root: Path
) -> None:
    source = (root / "demo.py").read_bytes()
    whole = client.ask("/source")
    assert (whole.status, whole.body) == (200, source)
    assert whole.headers["Content-Type"] == "text/plain; charset=utf-8"
    again = client.ask("/source", headers={"If-None-Match": whole.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    part = client.ask("/source", headers={"Range": "bytes=0-99"})
    assert (part.status, part.body) == (206, source[:100])


# Placements ---------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["sync", "thread", "asnc"])
def test_these_placements_answer_from_the_main_process(
    client: Client, server: Server, placement: str
) -> None:
    who = client.ask(f"/who/{placement}").json
    assert (who["process"], who["pid"]) == ("main", server.process.pid)
    assert who["worker"] is None
    loop = client.ask("/who/sync").json["thread"]
    assert (who["thread"] == loop) == (placement != "thread")


@pytest.mark.parametrize("placement", ["pool", "stream"])
def test_these_placements_answer_from_a_worker(
    client: Client, server: Server, placement: str
) -> None:
    who = client.ask(f"/who/{placement}").json
    assert who["process"] == "pool"
    assert who["pid"] != server.process.pid
    assert isinstance(who["worker"], int)


@pytest.mark.parametrize("work", ["-5", "1", "many", ""])
def test_any_amount_of_work_can_be_asked_for(client: Client, work: str) -> None:
    assert client.ask(f"/who/pool?work={work}").status == 200


def test_the_clock_ticks_as_server_sent_events(client: Client) -> None:
    with client.open("/clock") as response:
        assert response.headers["Content-Type"].split(";")[0] == "text/event-stream"
        lines = [response.readline() for _ in range(6)]
    assert lines[1::2] == [b"\n"] * 3
    events = [json.loads(line[len(b"data: ") :]) for line in lines[::2]]
    assert [event["tick"] for event in events] == [1, 2, 3]
    times = [event["time"] for event in events]
    assert times == sorted(times)


def test_the_clock_ticks_while_the_pool_computes(client: Client) -> None:
    with client.open("/clock") as clock:
        begin = time.time()
        assert client.ask("/picture.png").status == 200
        end = time.time()
        moments = [tick["time"] for tick in ticks_until(clock, end)]
    meanwhile = [moment for moment in moments if begin <= moment <= end]
    assert len(meanwhile) > (end - begin) / TICK_SECONDS / 2


def ticks_until(clock: http.client.HTTPResponse, end: float) -> Iterator[Any]:
    """Yield the events of the clock up to the first one after the given time."""
    for line in clock:
        if line.startswith(b"data: "):
            event = json.loads(line[len(b"data: ") :])
            yield event
            if event["time"] > end:
                return


# The picture --------------------------------------------------------------------------


def test_a_tile_says_who_computed_it(client: Client, server: Server) -> None:
    tile = client.ask(f"/tile/3/1?{QUICK_VIEW}")
    assert (tile.status, tile.headers["Content-Type"]) == (200, "image/png")
    assert decode_png(tile.body)[:2] == (TILE, TILE)
    assert int(tile.headers["X-Pid"]) != server.process.pid
    assert tile.headers["X-Worker"].isdigit()


def test_the_stream_draws_the_same_picture_as_the_tiles(client: Client) -> None:
    width, height, rows = decode_png(client.ask(f"/picture.png?{QUICK_VIEW}").body)
    assert (width, height) == (WIDTH, HEIGHT)
    for column, row in ((0, 0), (3, 1), (7, 4)):
        tile = decode_png(client.ask(f"/tile/{column}/{row}?{QUICK_VIEW}").body)[2]
        left, top = column * TILE, row * TILE
        assert tile == [line[left : left + TILE] for line in rows[top : top + TILE]]


def test_the_stream_is_sent_while_it_is_computed(client: Client) -> None:
    with client.open("/picture.png?span=0.001") as response:
        assert response.headers["Transfer-Encoding"] == "chunked"
        first = response.read1(100)
        assert first[:8] == b"\x89PNG\r\n\x1a\n"
        # Most of it is still to be computed; leaving now stops the generator.
    assert client.ask("/who/pool").status == 200


@pytest.mark.parametrize("place", ["8/0", "0/5", "99999999999999999999/0"])
def test_a_tile_outside_of_the_picture_is_not_found(client: Client, place: str) -> None:
    assert client.ask(f"/tile/{place}").status == 404


@pytest.mark.parametrize(
    "view", ["x=nan&y=nan&span=nan", "x=inf&y=-inf&span=8", "x=1e999&span=left", "x="]
)
def test_any_view_can_be_asked_for(client: Client, view: str) -> None:
    assert client.ask(f"/tile/0/0?{view}").status == 200


# What goes wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("name, status", [("slow", 504), ("raise", 500), ("die", 502)])
def test_a_failure_costs_one_request(client: Client, name: str, status: int) -> None:
    before = client.ask("/who/pool").json
    assert client.ask(f"/fail/{name}").status == status
    after = client.ask("/who/pool")
    assert after.status == 200
    assert after.json["process"] == before["process"] == "pool"


def test_others_are_served_while_one_hangs(client: Client) -> None:
    connection = http.client.HTTPConnection(
        "127.0.0.1", client.server.port, timeout=TIMEOUT_SECONDS
    )
    connection.request("GET", "/fail/slow")
    answers = [client.ask(f"/who/{name}").status for name in ("sync", "asnc", "stream")]
    assert answers == [200, 200, 200]
    assert connection.getresponse().status == 504
    connection.close()


# The form -----------------------------------------------------------------------------


def test_the_form_redirects_to_a_page_that_escapes_the_name(client: Client) -> None:
    posted = client.post("/greeting", name='<b>Zoë</b> & "co"')
    assert posted.status == 303
    page = client.ask(posted.headers["Location"])
    assert page.status == 200
    assert "&lt;b&gt;Zoë&lt;/b&gt; &amp; " in page.text
    assert "<b>Zoë" not in page.text


def test_a_form_without_a_name_is_a_bad_request(client: Client) -> None:
    assert client.post("/greeting", colour="red").status == 400
