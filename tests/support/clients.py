"""HTTP clients of others behind one face, for tests that send all of them the same."""

from __future__ import annotations

import asyncio
import http.client
import http.cookiejar
import io
import os
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import (
    Any,
    AsyncIterator,
    Callable,
    ClassVar,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Tuple,
    Type,
    Union,
)

import pytest
from support import PATIENCE_SECONDS

CERTIFICATE = (
    Path(__file__).parents[1] / "programs" / "localhost.pem"
)  # for tests alone
Body = Union[None, bytes, Iterable[bytes]]
Headers = Mapping[str, str]
Read = Callable[[], bytes]


class LeftError(Exception):
    """Raised by a body on its way, to make a client leave half-way."""


class Reply:
    """An answer as a client gives it."""

    def __init__(
        self, status: int, pairs: Iterable[Tuple[str, str]], body: bytes
    ) -> None:
        self.status = status
        self.headers: Dict[str, List[str]] = {}
        for name, value in pairs:
            self.headers.setdefault(name.lower(), []).append(value)
        self.body = body

    def header(self, name: str) -> str:
        return ", ".join(self.headers.get(name, []))


class Client:
    """What a client can do; each method may be called many times.

    Args:
        url: of the server, without a path.
        directory: for its files.
    """

    reuses = True  # a connection for the next request
    follows: ClassVar[Tuple[int, ...]] = (303, 307)  # after a POST
    keeps_cookies = True
    decodes = False  # gzip, by itself
    leaves: ClassVar[Tuple[Type[Exception], ...]] = (LeftError,)

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory
        self.context = ssl.create_default_context(cafile=str(CERTIFICATE))

    def ask(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] = {},
        body: Body = None,
    ) -> Reply:
        """Ask and read the whole answer; a body that is no bytes is sent in chunks."""
        return self._ask(path, method, headers, body)

    def _ask(self, path: str, method: str, headers: Headers, body: Body) -> Reply:
        raise NotImplementedError

    @contextmanager
    def stream(self, path: str) -> Iterator[Read]:
        """Give what reads the next piece of an answer; leave at the block's end."""
        raise NotImplementedError
        yield

    def ports(self) -> List[int]:
        """Return the ports of the connections that three requests went over."""
        return [int(self.ask("/port").body) for _ in range(3)]

    def close(self) -> None:
        pass


class HttpClient(Client):
    follows = ()
    keeps_cookies = False

    def __init__(self, url: str, directory: Path) -> None:
        super().__init__(url, directory)
        self.connection = self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        scheme, _, address = self.url.partition("://")
        if scheme == "http":
            return http.client.HTTPConnection(address, timeout=PATIENCE_SECONDS)
        return http.client.HTTPSConnection(
            address, timeout=PATIENCE_SECONDS, context=self.context
        )

    def _ask(self, path: str, method: str, headers: Headers, body: Body) -> Reply:
        try:
            self.connection.request(method, path, body, dict(headers))
            response = self.connection.getresponse()
            return Reply(response.status, response.getheaders(), response.read())
        except LeftError:
            self.connection.close()
            raise

    @contextmanager
    def stream(self, path: str) -> Iterator[Read]:
        connection = self._connect()
        try:
            connection.request("GET", path)
            with connection.getresponse() as response:
                yield lambda: response.read1(65_536)
        finally:
            connection.close()

    def close(self) -> None:
        self.connection.close()


class Urllib(Client):
    reuses = False  # it says Connection: close
    follows = (303,)

    def __init__(self, url: str, directory: Path) -> None:
        super().__init__(url, directory)
        jar = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPCookieProcessor(jar),
            urllib.request.HTTPSHandler(context=self.context),
        )

    def _ask(self, path: str, method: str, headers: Headers, body: Body) -> Reply:
        request = urllib.request.Request(
            self.url + path,
            body,  # type: ignore[arg-type]
            dict(headers),
            method=method,
        )
        try:
            response = self.opener.open(request, timeout=PATIENCE_SECONDS)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return Reply(response.code, response.headers.items(), response.read())

    @contextmanager
    def stream(self, path: str) -> Iterator[Read]:
        with self.opener.open(self.url + path, timeout=PATIENCE_SECONDS) as response:
            yield lambda: response.read1(65_536)


class Httpx(Client):
    decodes = True

    def __init__(self, url: str, directory: Path) -> None:
        super().__init__(url, directory)
        httpx = pytest.importorskip("httpx")
        self.client = httpx.Client(
            base_url=url,
            verify=self.context,
            timeout=PATIENCE_SECONDS,
            follow_redirects=True,
            trust_env=False,
        )

    def _ask(self, path: str, method: str, headers: Headers, body: Body) -> Reply:
        response = self.client.request(method, path, headers=headers, content=body)
        return Reply(
            response.status_code, response.headers.multi_items(), response.content
        )

    @contextmanager
    def stream(self, path: str) -> Iterator[Read]:
        with self.client.stream("GET", path) as response:
            pieces = response.iter_raw()
            yield lambda: next(pieces, b"")

    def close(self) -> None:
        self.client.close()


class Aiohttp(Client):
    decodes = True

    def __init__(self, url: str, directory: Path) -> None:
        super().__init__(url, directory)
        self.aiohttp = pytest.importorskip(
            "aiohttp", "3.11"
        )  # older ones leave TLS open
        self.leaves = (LeftError, self.aiohttp.ClientError)
        self.loop = asyncio.new_event_loop()
        self.threads = ThreadPoolExecutor(1)
        self.session = self.loop.run_until_complete(self._open())

    async def _open(self) -> Any:
        return self.aiohttp.ClientSession(
            connector=self.aiohttp.TCPConnector(ssl=self.context),
            cookie_jar=self.aiohttp.CookieJar(unsafe=True),  # of an IP address too
            timeout=self.aiohttp.ClientTimeout(PATIENCE_SECONDS),
        )

    async def _pieces(self, body: Iterable[bytes]) -> AsyncIterator[bytes]:
        """Wait for the next piece in a thread: the loop has the last one to send."""
        pieces = iter(body)
        while True:
            piece = await self.loop.run_in_executor(self.threads, next, pieces, b"")
            if not piece:
                return
            yield piece

    async def _reply(
        self, path: str, method: str, headers: Headers, body: Body
    ) -> Reply:
        data: Any = body
        if isinstance(body, bytes) and len(body) > 1_000_000:
            data = io.BytesIO(body)  # it warns of so many bytes
        elif body is not None and not isinstance(body, bytes):
            data = self._pieces(body)
        async with self.session.request(
            method, self.url + path, headers=headers, data=data
        ) as response:
            content = await response.read()
            return Reply(response.status, response.headers.items(), content)

    def _ask(self, path: str, method: str, headers: Headers, body: Body) -> Reply:
        return self.loop.run_until_complete(self._reply(path, method, headers, body))

    @contextmanager
    def stream(self, path: str) -> Iterator[Read]:
        run = self.loop.run_until_complete
        response = run(self.session.get(self.url + path).__aenter__())
        try:
            yield lambda: run(response.content.readany())
        finally:
            response.close()
            run(asyncio.sleep(0))  # it closes in the loop's next turn

    def close(self) -> None:
        self.loop.run_until_complete(self.session.close())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.threads.shutdown()
        self.loop.close()


class Curl(Client):
    def __init__(self, url: str, directory: Path) -> None:
        super().__init__(url, directory)
        curl = shutil.which("curl")
        if curl is None:
            pytest.skip("curl is not installed")
        self.command = [curl, "--silent", "--show-error", "--noproxy", "*"]
        self.command += ["--cacert", str(CERTIFICATE)]
        self.command += ["--max-time", str(PATIENCE_SECONDS)]

    def run(self, *arguments: str, body: bytes = b"") -> Tuple[bytes, str]:
        """Return what a command writes to its output, and to its log."""
        done = subprocess.run(
            [*self.command, *arguments], input=body, capture_output=True, check=True
        )
        return done.stdout, done.stderr.decode()

    def _ask(self, path: str, method: str, headers: Headers, body: Body) -> Reply:
        jar, head, content = (
            str(self.directory / name) for name in ("jar", "head", "content")
        )
        arguments = ["--location", "--cookie", jar, "--cookie-jar", jar]
        output = os.devnull if method == "HEAD" else content  # or the head is in it
        arguments += ["--dump-header", head, "--output", output]
        for pair in headers.items():
            arguments += ["--header", "%s: %s" % pair]
        if method == "HEAD":
            arguments.append("--head")
        elif (method, body is None) not in (("GET", True), ("POST", False)):
            arguments += ["--request", method]  # would be kept on a redirect
        Path(content).write_bytes(b"")  # curl makes no file for no content
        if isinstance(body, bytes):
            self.run(*arguments, "--data-binary", "@-", self.url + path, body=body)
        elif body is None:
            self.run(*arguments, self.url + path)
        else:
            arguments += ["--upload-file", "-", "--request", method]
            self._upload([*self.command, *arguments, self.url + path], body)
        # The answers of all requests one after the other, 100 (Continue) too.
        last = Path(head).read_bytes().decode().rstrip().split("\r\n\r\n")[-1]
        first, *lines = last.splitlines()
        pairs = [tuple(line.split(": ", 1)) for line in lines]
        data = Path(content).read_bytes()
        return Reply(int(first.split()[1]), pairs, data)  # type: ignore[arg-type]

    def _upload(self, command: List[str], body: Iterable[bytes]) -> None:
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            try:
                for piece in body:
                    process.stdin.write(piece)
                    process.stdin.flush()
            except BrokenPipeError:
                pass  # it has its answer already
            except LeftError:
                process.kill()
                raise

    @contextmanager
    def stream(self, path: str) -> Iterator[Read]:
        with subprocess.Popen(
            [*self.command, "--no-buffer", self.url + path], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            descriptor = process.stdout.fileno()
            try:
                yield lambda: os.read(descriptor, 65_536)
            finally:
                process.terminate()

    def ports(self) -> List[int]:
        output, _ = self.run("--write-out", "\\n", *[self.url + "/port"] * 3)
        return [int(line) for line in output.split()]


CLIENTS = [HttpClient, Urllib, Httpx, Aiohttp, Curl]
