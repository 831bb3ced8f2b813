"""Serving by another server: `run(server="uvicorn")`.

Each gets the address, the certificate and the number of threads. Its other settings
keep their defaults. Requests go through `app.wsgi` or `app.asgi`. A setting that says
where clients come in, or that they need TLS, is refused where a server can't keep it.
"""

from __future__ import annotations

import asyncio
import signal
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, Dict, Mapping

from .application import Application
from .errors import MissingExtra, PixieError
from .gateways.asgi import ASGIGateway
from .gateways.wsgi import WSGIGateway

Settings = Mapping[str, Any]


def _address(settings: Settings) -> str:
    if settings["uds"]:
        return f"unix:{settings['uds']}"
    host = settings["host"]
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{settings['port']}"


def _leave(*_: object) -> None:
    raise SystemExit(0)  # so that on_stop runs, which a plain SIGTERM would prevent


def run_gunicorn(wsgi: WSGIGateway, settings: Settings) -> None:
    """Serve by gunicorn: one process, with threads."""
    from gunicorn.app.base import BaseApplication

    options = {
        "bind": _address(settings),
        "worker_class": "gthread",
        "threads": settings["threads"],
        "graceful_timeout": int(settings["drain_seconds"]),
        "certfile": settings["certfile"] or None,
        "keyfile": settings["keyfile"] or None,
        "accesslog": "-" if settings["access_log"] else None,
    }

    class Hosted(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in options.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return wsgi

    Hosted().run()


def run_waitress(wsgi: WSGIGateway, settings: Settings) -> None:
    """Serve by waitress."""
    import waitress

    place: Dict[str, Any] = {"listen": _address(settings)}
    if settings["uds"]:
        place = {"unix_socket": settings["uds"]}
    signal.signal(signal.SIGTERM, _leave)
    waitress.serve(wsgi, threads=settings["threads"], **place)


def run_cheroot(wsgi: WSGIGateway, settings: Settings) -> None:
    """Serve by cheroot."""
    from cheroot import wsgi as cheroot

    parts: Any = import_module("cheroot.server")

    class Reader(parts.HeaderReader):  # type: ignore[misc]
        """SECURITY: `X_Forwarded_For` would pass for what a proxy has set."""

        # Its own reader for that looks for text in bytes.
        def _allow_header(self, name: bytes) -> bool:
            return b"_" not in name

    class Request(parts.HTTPRequest):  # type: ignore[misc]
        header_reader = Reader()

    class Connection(parts.HTTPConnection):  # type: ignore[misc]
        RequestHandlerClass = Request

    place = settings["uds"] or (settings["host"], settings["port"])
    server = cheroot.Server(place, wsgi, numthreads=settings["threads"])
    server.ConnectionClass = Connection
    if settings["certfile"]:
        from cheroot.ssl.builtin import BuiltinSSLAdapter

        paths = settings["certfile"], settings["keyfile"] or settings["certfile"]
        server.ssl_adapter = BuiltinSSLAdapter(*paths)
    signal.signal(signal.SIGTERM, _leave)
    server.safe_start()


def run_uvicorn(asgi: ASGIGateway, settings: Settings) -> None:
    """Serve by uvicorn."""
    import uvicorn

    uvicorn.run(
        asgi,
        interface="asgi3",
        host=settings["host"],
        port=settings["port"],
        uds=settings["uds"] or None,
        fd=settings["fd"] if settings["fd"] >= 0 else None,
        ssl_certfile=settings["certfile"] or None,
        ssl_keyfile=settings["keyfile"] or None,
        access_log=settings["access_log"],
        timeout_graceful_shutdown=int(settings["drain_seconds"]),
        lifespan="on",
    )


def run_hypercorn(asgi: ASGIGateway, settings: Settings) -> None:
    """Serve by hypercorn."""
    from hypercorn.asyncio import serve as hypercorn_serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [_address(settings)]
    config.certfile = settings["certfile"] or None
    # SECURITY: given the certificate alone, it would serve without TLS.
    config.keyfile = settings["keyfile"] or config.certfile
    config.accesslog = "-" if settings["access_log"] else None
    config.graceful_timeout = settings["drain_seconds"]
    asyncio.run(hypercorn_serve(asgi, config, mode="asgi"))


def run_granian(asgi: ASGIGateway, settings: Settings) -> None:
    """Serve by granian, in this process."""
    from granian.constants import Interfaces
    from granian.server.embed import Server

    certificate, key = settings["certfile"], settings["keyfile"]
    server = Server(
        asgi,
        # It takes addresses only, and no names.
        settings["host"].replace("localhost", "127.0.0.1"),
        settings["port"],
        uds=Path(settings["uds"]) if settings["uds"] else None,
        interface=Interfaces.ASGI,
        log_access=settings["access_log"],
        ssl_cert=Path(certificate) if certificate else None,
        ssl_key=Path(key or certificate) if certificate else None,
    )

    async def serve_until_told() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, server.stop)
        await server.serve()

    asyncio.run(serve_until_told())


SERVERS: Dict[str, Callable[[Any, Settings], None]] = {
    "gunicorn": run_gunicorn,
    "waitress": run_waitress,
    "cheroot": run_cheroot,
    "uvicorn": run_uvicorn,
    "hypercorn": run_hypercorn,
    "granian": run_granian,
}
WSGI_SERVERS = ("gunicorn", "waitress", "cheroot")


def _check_settings(settings: Settings) -> None:
    """Refuse settings that the server would not keep.

    SECURITY: without TLS, or on another port, clients would be served all the same.
    """
    name = settings["server"]
    if settings["certfile"] and name == "waitress":
        raise PixieError(
            "waitress has no TLS: leave out certfile=, or take another server"
        )
    if settings["fd"] >= 0 and name != "uvicorn":
        raise PixieError(f"fd= is for pixie_web's own server and uvicorn, not {name}")


def serve(application: Application, given: Settings, settings: Settings) -> None:
    """Serve an application until the server named in the settings ends.

    Args:
        given: the settings that the program has made.
        settings: all of them.

    Raises:
        PixieError: there is no such server here, or it can't keep a setting.
        MissingExtra: it is not installed.
    """
    name = settings["server"]
    if name not in SERVERS:
        known = ", ".join(SERVERS)
        raise PixieError(f"server is one of {known}, got {name!r}")
    _check_settings(settings)
    kind = WSGIGateway if name in WSGI_SERVERS else ASGIGateway
    try:
        SERVERS[name](kind(application, given), settings)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name:
            raise
        raise MissingExtra(f'server="{name}" needs: pip install {name}') from None
