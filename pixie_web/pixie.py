"""The default application, and `run`.

A program starts with these: a ready application, its methods as functions of the
package, and `run()`. The value of a setting is the argument (or flag), else the
variable PIXIE_<NAME>, else the default. The order of steps in `run` matters: the
zygote is forked before there is a socket, a loop or a thread that it would inherit.
"""

from __future__ import annotations

import os
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    Literal,
    Mapping,
    Optional,
    Type,
    Union,
    cast,
)

from .application import Application
from .cookies import UNSET, MaybeSecrets
from .errors import PixieError, companion
from .gateways.asgi import ASGIGateway
from .gateways.base import Gateway
from .gateways.wsgi import WSGIGateway
from .reloading import Reloader, describe_call, tether
from .runner import Runner
from .sessions import Sessions
from .settings import read_settings, say

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack


if TYPE_CHECKING:

    class Limits(TypedDict, total=False):
        """Those settings of `run` that have no argument of their own."""

        min_workers: Union[int, Literal["auto"]]
        max_streams: Union[int, Literal["auto"]]
        worker_idle_seconds: float
        nice: int
        timeout_grace_seconds: float
        max_crashes: int
        max_waiting: int
        max_waiting_bytes: int
        max_tasks_per_worker: int
        max_worker_age_seconds: float
        max_worker_bytes: int
        worker_memory_limit_bytes: int
        keep_alive_seconds: float
        head_seconds: float
        body_idle_seconds: float
        send_idle_seconds: float
        min_bytes_per_second: float
        linger_seconds: float
        tls_handshake_seconds: float
        drain_seconds: float
        max_connections: int
        max_connections_per_client: int
        max_pipelined_requests: int
        max_request_line_bytes: int
        max_header_line_bytes: int
        max_headers: int
        max_head_bytes: int
        max_chunk_line_bytes: int
        max_extension_bytes: int
        max_trailer_bytes: int
        max_body_bytes: int
        max_memory_body_bytes: int
        max_fields: int
        max_form_bytes: int
        max_field_bytes: int
        max_file_bytes: int
        max_parts: int
        max_part_headers: int
        max_part_head_bytes: int


class Pixie(Application):
    """A web application: routes, triggers and error handlers, and `run`.

    Args:
        import_name: a name for people to read; `Pixie(__name__)` as elsewhere.
        secrets: sign cookies that name no secret of their own (str or bytes, at least
            16 bytes; or several: the first signs, each verifies). A mounted application
            without secrets takes those of the application above it. Left out, cookies
            are not signed.
        sessions: how `env.session` is kept: "cookie", which is signed, "state", where
            the cookie is only an id, or a `Sessions` with its times. It needs secrets.
        json: the library that writes JSON answers and reads `env.json`: a module with
            `dumps` and `loads` (ujson, orjson, rapidjson ...), or these two functions.
            Its own rules hold then; docs/json.md lists them. Left out: orjson if it is
            installed, otherwise `json`, by the same strict rules.

    Raises:
        PixieError: a secret is empty or too short, or the argument holds no secret;
            sessions can't be kept so; json can't read its own output.
    """

    def __init__(
        self,
        import_name: Optional[str] = None,
        *,
        secrets: MaybeSecrets = UNSET,
        sessions: Union[str, Sessions, None] = None,
        json: Any = None,
    ) -> None:
        super().__init__(import_name, secrets=secrets, sessions=sessions, json=json)
        self._kept: Dict[str, Any] = {}  # the arguments of a run() that did nothing
        self._gateways: Dict[Type[Gateway], Gateway] = {}

    def run(
        self,
        host: Optional[str] = None,
        port: Optional[int] = None,
        *,
        workers: Union[int, Literal["auto"], None] = None,
        threads: Optional[int] = None,
        pool_start: Optional[Literal["auto", "zygote", "exec", "spawn"]] = None,
        debug: Optional[bool] = None,
        reload: Optional[bool] = None,
        loop_guard: Optional[Literal["auto", "off", "log", "strict"]] = None,
        server_timing: Optional[bool] = None,
        loop: Optional[Literal["auto", "uvloop", "asyncio"]] = None,
        parser: Optional[Literal["pixie", "httptools"]] = None,
        http2: Optional[bool] = None,
        http3: Optional[bool] = None,
        server: Optional[str] = None,
        uds: Optional[str] = None,
        uds_mode: Optional[int] = None,
        fd: Optional[int] = None,
        root_path: Optional[str] = None,
        certfile: Optional[str] = None,
        keyfile: Optional[str] = None,
        ssl_context: Any = None,
        trusted_proxies: Optional[Iterable[str]] = None,
        allowed_hosts: Optional[Iterable[str]] = None,
        access_log: Optional[bool] = None,
        access_log_format: Optional[str] = None,
        state: Optional[str] = None,
        state_max_bytes: Optional[int] = None,
        state_durable: Optional[bool] = None,
        **limits: Unpack[Limits],
    ) -> None:
        """Serve until SIGINT or SIGTERM; both let running requests end.

        Args:
            host: the address to bind; "localhost" (the default) binds both IP families.
            port: the port, 8000 by default; 0 takes a free one.
            workers: how many pool routes run at once, each in a process of its own;
                "auto", the default: as many as CPUs (affinity, cgroup quota). 0 runs
                them in threads of main, for debugging.
            threads: how many `thread` routes run at once; 40 by default.
            debug: show tracebacks in error pages.
            loop_guard: "log" names handlers that hold the event loop for over 100 ms,
                "strict" answers them 500, for tests; "off". With `debug` "log".
            reload: restart the program when one of its files changes.
            pool_start: how workers start: "zygote" (forked; the default on Linux),
                "exec" (forked from a process that imports the program again; when
                threads run already), or "spawn" (each imports it again; elsewhere).
            loop: "uvloop" or "asyncio"; uvloop by default, where it is installed.
            parser: "pixie", the default, or "httptools", which accepts and refuses the
                same requests, and is quicker for bodies in many small chunks.
            http2: whether clients may speak HTTP/2, over TLS, or without TLS if they
                know it beforehand. Yes by default, no in the single file.
            http3: whether clients may speak HTTP/3, on the UDP port beside that of
                HTTPS. Experimental; it needs the library aioquic.
            server: another server that serves the application: "gunicorn", "waitress",
                "cheroot", "uvicorn", "hypercorn" or "granian"; docs/gateways.md.
            server_timing: tell each client, in the Server-Timing header, how long its
                request waited and ran.
            uds, uds_mode: the path of a Unix socket to listen on, instead of host and
                port, and its permissions; 0o660 by default, "660" as text.
            fd: the number of a bound socket to listen on, which this process was
                started with.
            root_path: the path that a proxy takes off ("/app"), for `url_for` and
                `env.url`; X-Forwarded-Prefix of a trusted proxy goes first.
            certfile, keyfile: the certificate chain and its key, PEM: serve HTTPS. They
                are read again on SIGHUP.
            ssl_context: an ssl.SSLContext of your own instead.
            trusted_proxies: addresses and networks, or "unix", whose X-Forwarded-For,
                -Proto, -Host, -Prefix and Forwarded are believed.
            allowed_hosts: the hosts that are served, ".example.com" with all below it;
                a request for another one is 400. All of them, when left out: then
                env.host and env.url come from the client.
            access_log: log each request.
            access_log_format: the line of that log, with %(name)s for the items of
                `AccessRecord`.
            state: where `app.state` lies: "memory", the default, lives as long as the
                server; a path lives on; "redis://host/0" is shared by many machines.
            state_max_bytes: how large it may grow, 32 MiB by default; Redis has bounds
                of its own.
            state_durable: have each change wait for the disk, so that a power cut loses
                none.
            limits: the other fields of `ServerOptions`, and those of `PoolOptions` and
                `FormLimits`.

        Raises:
            SystemExit: 1, after one line that says why, when it can't start.
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        given.update(given.pop("limits"))
        given = {key: value for key, value in given.items() if value is not None}
        if Runner.loading:
            self._kept = given
            return
        self._start(Runner.run, given)

    @property
    def wsgi(self) -> WSGIGateway:
        """The application as a WSGI callable, for gunicorn, waitress and others.

        Settings come from variables PIXIE_*; the server listens, and logs accesses.

        Raises:
            PixieError: a variable has a wrong value.
        """
        return cast(WSGIGateway, self._gateway(WSGIGateway))

    @property
    def asgi(self) -> ASGIGateway:
        """The same as an ASGI callable, for uvicorn, hypercorn, granian and others."""
        return cast(ASGIGateway, self._gateway(ASGIGateway))

    def _gateway(self, kind: Type[Gateway]) -> Gateway:
        if kind not in self._gateways:
            self._gateways[kind] = kind(self, self._kept)
        return self._gateways[kind]

    def __call__(self, *arguments: Any) -> Any:
        """Be what a server takes it for: WSGI by two arguments, ASGI by three or one.

        So `gunicorn app:app` works, which finds names and not `app:app.wsgi`.
        """
        if len(arguments) == 2:
            return self.wsgi(*arguments)
        if len(arguments) == 1:  # version 2: the rest comes in a second call
            return partial(self.asgi, *arguments)
        return self.asgi(*arguments)

    def mount(
        self, prefix: str, application: Union[Application, Callable[..., Any]]
    ) -> None:
        """Let another application answer for all paths below `prefix`.

        Its handlers see the path without the prefix, which is `env.prefix`. It may be a
        WSGI application, such as one of Flask or Django. That runs in threads:
        docs/hosting.md.
        """
        is_own = isinstance(application, (Application, type))
        if is_own or not callable(application):
            super().mount(prefix, cast(Application, application))
        else:
            hosting = companion("hosting", "the mount of a WSGI application")
            hosting.mount(self, prefix, application)

    def test(self, **options: Any) -> Any:
        """Return a client for tests, in the style of httpx; docs/testing.md shows it.

        Args:
            options: `pool` ("real" or "inline"), `base_url`, `headers`, `cookies`,
                `follow_redirects`, `client`, and settings of run().

        Raises:
            MissingExtra: this is the single file; the client is in the package.
        """
        return companion("testing", "app.test()").TestClient(self, **options)

    def check(self, **given: Any) -> None:
        """Start as `run` does, but without listening, and stop; arguments as for `run`.

        Raises:
            SystemExit: 1, after one line that says why, when it can't start.
        """
        self._start(Runner.check, given)

    def _start(self, start: Callable[[Runner], None], given: Dict[str, Any]) -> None:
        given = {**self._kept, **given}
        try:
            tls = given.pop("ssl_context", None)
            settings = read_settings(given, os.environ)
            if start is Runner.run:
                self._reload(settings, tls)
            if settings["server"] and start is Runner.run:
                if tls is not None:
                    raise PixieError("another server takes certfile=, not ssl_context=")
                companion("servers", "run(server=...)").serve(self, given, settings)
                return
            start(Runner(self, settings, tls))
        except (PixieError, OSError) as error:
            say(f"pixie_web: {error}")
            tether.problem = str(error)
            raise SystemExit(1) from None

    def _reload(self, settings: Mapping[str, Any], tls: Any) -> None:
        """Be the reloader until the end, if that is wanted and there is none yet."""
        tether.settings, tether.tls = settings, tls
        if settings["reload"] and not tether.is_tied:
            call = tether.call or describe_call()
            raise SystemExit(Reloader(call, settings).run())


app = Pixie()  # the default application; its methods are functions of this module

route, run = app.route, app.run
get, post, put, delete = app.get, app.post, app.put, app.delete
patch, head, options = app.patch, app.head, app.options
error, before, after = app.error, app.before, app.after
static, mount = app.static, app.mount
