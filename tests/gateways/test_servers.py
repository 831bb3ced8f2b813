"""One program under the built-in server and under others: one table of answers."""

from __future__ import annotations

import http.client
import re
import ssl
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Tuple, Union

import pytest
from servers import COMMANDS, WSGI, OtherServer, needs
from shapes import IS_SINGLE
from support import PATIENCE_SECONDS, children, process_is_alive, wait_for

from pixie_web import Pixie

PROGRAM = Path(__file__).parents[1] / "programs" / "gateways.py"
CERTIFICATE = PROGRAM.with_name("localhost.pem")
pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="other servers run in the newer Pythons"
)

# What belongs to a connection, or to the server that keeps it.
OF_THE_SERVER = {"date", "server", "connection", "transfer-encoding", "keep-alive"}
MULTIPART = "multipart/form-data; boundary=B"
FORM = (
    b'--B\r\nContent-Disposition: form-data; name="name"\r\n\r\nx\r\n'
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    b"hello\r\n--B--\r\n"
)


class Case(NamedTuple):
    """What a client asks; a list is a body that is sent in chunks."""

    method: str
    target: str
    body: Union[bytes, List[bytes], None] = None
    headers: Tuple[Tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return repr(self)[:150]


PLAIN = (
    "/text /octets /json /list /nothing /triple /empty /reset-content /odd-status "
    "/cookies /redirect /abort /failing /file /large /sync /thread /asnc /pool /stream "
    "/stream/sync /stream/thread /stream/asnc /url-for /crash /late /late/asnc /none "
    "/broken-stream /echo/%FF?x /echo//x;y=1/.. /echo/100%25 /echo/a%20b/%C3%A4?q=1+%C3"
    " /job"
).split()
ESCAPED_SLASH = Case("GET", "/echo/a%2Fb")
CHUNKED = Case("POST", "/upload", [b"z" * 1000] * 300)
CHUNKED_TOO_LARGE = Case("POST", "/small", [b"y" * 20])
UNKNOWN_EXPECTATION = Case("GET", "/text", None, (("Expect", "200-ok"),))
UPLOAD = Case("POST", "/upload", b"y" * 700_000)
CASES = [
    *(Case("GET", target) for target in PLAIN),
    ESCAPED_SLASH,
    CHUNKED,
    CHUNKED_TOO_LARGE,
    UNKNOWN_EXPECTATION,
    UPLOAD,
    Case("GET", "/cookies/read", None, (("Cookie", "a=1; b=2"),)),
    Case("GET", "/echo/x", None, (("X-One", "1"),)),
    Case("GET", "/file", None, (("Range", "bytes=3-9"),)),
    Case("GET", "/file", None, (("If-None-Match", "*"),)),
    Case("GET", "/text", None, (("Host", "a b"),)),
    *(Case("HEAD", target) for target in ("/text", "/stream", "/file", "/none")),
    *(Case("OPTIONS", target) for target in ("/text", "/echo/x")),
    Case("POST", "/text", b"not allowed"),
    Case("POST", "/upload", b""),
    Case("POST", "/drip", b"y" * 300_000),
    Case("POST", "/small", b"y" * 11),
    Case("POST", "/form", FORM, (("Content-Type", MULTIPART),)),
]

# Where another server answers otherwise, and why.
NO_CHUNKS = "it passes a chunked body on without saying that it ends: 411"
DIFFERENCES: List[Tuple[str, Case, str]] = [
    ("gunicorn", UNKNOWN_EXPECTATION, "it answers 417 with a page of its own"),
    ("cheroot", ESCAPED_SLASH, "it leaves %2F in PATH_INFO as it was sent"),
    ("waitress", CHUNKED_TOO_LARGE, "it reads chunks first: the length is known"),
    ("hypercorn-wsgi", CHUNKED, NO_CHUNKS),
    ("hypercorn-wsgi", CHUNKED_TOO_LARGE, NO_CHUNKS),
]


class Found(NamedTuple):
    """What a client has got."""

    status: int
    headers: List[Tuple[str, str]]
    body: bytes
    is_whole: bool


def ask(port: int, case: Case) -> Found:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        headers, body = dict(case.headers), case.body
        chunked = isinstance(body, list)
        chunks: Any = iter(body) if isinstance(body, list) else body
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        connection.request(
            case.method, case.target, chunks, headers, encode_chunked=chunked
        )
        response = connection.getresponse()
        is_whole = True
        try:
            content = response.read()
        except http.client.IncompleteRead as cut:
            content, is_whole = cut.partial[:1], False
        kept = sorted(
            (name.lower(), value)
            for name, value in response.getheaders()
            if name.lower() not in OF_THE_SERVER
        )
        return Found(response.status, kept, content, is_whole)
    finally:
        connection.close()


def ask_all(port: int) -> Dict[str, Found]:
    return {case.name: ask(port, case) for case in CASES}


@pytest.fixture(scope="module")
def expected() -> Dict[str, Found]:
    """Return the answers of the built-in server."""
    server = OtherServer("pixie", PROGRAM, {"PIXIE_WORKERS": "2"})
    try:
        return ask_all(server.port)
    finally:
        server.stop()


class Notes:
    """What the program has written down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def wait(self, begin: str) -> str:
        """Wait for a note that begins so, and return it."""
        return str(wait_for(lambda: self._find(begin), begin))

    def _find(self, begin: str) -> str:
        lines = self.path.read_text("utf-8").splitlines()
        return next((line for line in lines if line.startswith(begin)), "")


RUN = [name for name in COMMANDS if name.startswith("run-")]
OTHERS = [name for name in COMMANDS if name != "pixie" and name not in RUN]


@pytest.fixture(scope="module", params=OTHERS)
def name(request: pytest.FixtureRequest) -> str:
    """Return the name of each other server."""
    needs(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory, name: str) -> Notes:
    return Notes(tmp_path_factory.mktemp("notes") / name)


@pytest.fixture(scope="module")
def server(name: str, notes: Notes) -> Iterator[OtherServer]:
    """Run each other server for its tests, and see that nothing of it is left."""
    environment = {"PIXIE_WORKERS": "2", "GATEWAY_NOTES": str(notes.path)}
    running = OtherServer(name, PROGRAM, environment)
    try:
        yield running
        below = children(running.pid)
        assert below
        running.stop()
        wait_for(
            lambda: not any(map(process_is_alive, below)), "the end of its processes"
        )
        if name not in ("waitress", "cheroot", "granian-wsgi"):
            # These end at once, and no function of atexit is called.
            notes.wait("stop")
    finally:
        running.kill()


def differing(
    expected: Dict[str, Found], found: Dict[str, Found], explained: Iterable[str]
) -> Dict[str, Tuple[Found, Found]]:
    return {
        case: (answer, found[case])
        for case, answer in expected.items()
        if found[case] != answer and case not in explained
    }


def test_the_answers_are_those_of_the_built_in_server(
    expected: Dict[str, Found], name: str, server: OtherServer
) -> None:
    found = ask_all(server.port)
    family = name.replace("gunicorn-processes", "gunicorn")
    explained = {case.name for of, case, _ in DIFFERENCES if of == family}
    assert differing(expected, found, explained) == {}
    # And a difference that is explained is there.
    assert {case for case in explained if found[case] == expected[case]} == set()


def test_the_table_shows_what_it_is_for(expected: Dict[str, Found]) -> None:
    cookies = expected[Case("GET", "/cookies").name].headers
    assert [value[:3] for key, value in cookies if key == "set-cookie"] == [
        "a=1",
        "b=2",
    ]
    upload = expected[UPLOAD.name].body
    assert b'"bytes":700000' in upload and b'"in":"pool"' in upload
    statuses = [expected[Case("GET", p).name].status for p in ("/crash", "/late")]
    assert statuses == [502, 504]
    assert not expected[Case("GET", "/broken-stream").name].is_whole
    if not IS_SINGLE:  # jobs are a companion
        assert expected[Case("GET", "/job").name].body == b'{"result":42}'


def read_some(server: OtherServer, path: str) -> None:
    """Ask for a stream, read its beginning, and leave."""
    with server.connect() as one:
        request = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"
        one.sendall(request.encode())
        assert one.recv(1024).startswith(b"HTTP/1.1 200")


def skip_where_nobody_tells(name: str) -> None:
    if name == "hypercorn-wsgi":
        pytest.skip("it runs a WSGI iterable to its end, whoever has left")


def test_a_client_that_leaves_a_stream_stops_the_worker(
    name: str, server: OtherServer, notes: Notes
) -> None:
    skip_where_nobody_tells(name)
    read_some(server, "/endless")
    notes.wait("endless ended")


def test_a_silent_stream_learns_by_its_heartbeat_that_its_client_has_left(
    name: str, server: OtherServer, notes: Notes
) -> None:
    skip_where_nobody_tells(name)
    read_some(server, "/silent")
    notes.wait("silent ended")


def test_a_client_that_leaves_stops_a_handler_that_is_to_be_stopped(
    name: str, server: OtherServer, notes: Notes
) -> None:
    if name in WSGI.split():
        pytest.skip("WSGI tells of the client when it is written to, and not before")
    with server.connect() as one:
        one.sendall(b"GET /stoppable HTTP/1.1\r\nHost: a\r\n\r\n")
        notes.wait("stoppable ")
    notes.wait("stoppable ended")


def test_a_lost_worker_costs_one_request(server: OtherServer) -> None:
    assert ask(server.port, Case("GET", "/crash")).status == 502
    assert ask(server.port, Case("GET", "/late")).status == 504
    assert ask(server.port, Case("GET", "/pool")).body == b"pool"


@pytest.mark.parametrize("runner", RUN)
def test_run_serves_by_another_server(runner: str, tmp_path: Path) -> None:
    needs(runner)
    written = Notes(tmp_path / "notes")
    environment = {
        "PIXIE_WORKERS": "1",
        "PIXIE_TRUSTED_PROXIES": "127.0.0.1",
        "GATEWAY_NOTES": str(written.path),
    }
    running = OtherServer(runner, PROGRAM, environment)
    try:
        assert ask(running.port, Case("GET", "/pool")).body == b"pool"
        forged = Case("GET", "/echo/x", None, (("X_Forwarded_For", "192.0.2.66"),))
        assert b'"client":"127.0.0.1"' in ask(running.port, forged).body
        assert ask(running.port, UPLOAD).status == 200
        below = children(running.pid)
        running.stop()
        wait_for(
            lambda: not any(map(process_is_alive, below)), "the end of its processes"
        )
        written.wait("stop")
    finally:
        running.kill()


def over_tls(port: int) -> bytes:
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    connection = http.client.HTTPSConnection(
        "localhost", port, timeout=PATIENCE_SECONDS, context=context
    )
    try:
        connection.request("GET", "/sync")
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("runner", [name for name in RUN if name != "run-waitress"])
def test_run_gives_the_certificate_to_another_server(
    runner: str, tmp_path: Path
) -> None:
    needs(runner)
    environment = {
        "PIXIE_WORKERS": "0",
        "PIXIE_CERTFILE": str(CERTIFICATE),
        "GATEWAY_NOTES": str(tmp_path / "notes"),
    }
    running = OtherServer(runner, PROGRAM, environment)
    try:
        assert over_tls(running.port) == b"main"
    finally:
        running.kill()


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"server": "waitress", "certfile": "a.pem"}, "waitress has no TLS"),
        *(
            ({"server": name[4:], "fd": 3}, f"fd= is for .*, not {name[4:]}")
            for name in RUN
            if name != "run-uvicorn"
        ),
    ],
)
def test_a_setting_that_another_server_cannot_keep_is_refused(
    settings: Dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        Pixie().run(**settings)
    assert re.search(says, capsys.readouterr().err)


def test_a_server_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Pixie()
    with pytest.raises(SystemExit):
        app.run(server="apache")
    assert "server is one of gunicorn, waitress" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "waitress", None)
    with pytest.raises(SystemExit):
        app.run(server="waitress")
    assert 'server="waitress" needs: pip install waitress' in capsys.readouterr().err
