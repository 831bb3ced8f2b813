"""pixie_web: a small web framework in which each route says where it runs.

    from pixie_web import Response, RouteType, proc_env, route, run

    @route("/", RouteType.sync)          # in the main process, on the event loop
    def index(env):
        return Response(f"Hello from {proc_env.proc_type}")

    @route("/async", RouteType.asnc)     # a coroutine on the event loop
    async def index_async(env):
        return Response(f"Hello from {proc_env.proc_type}")

    @route("/cpu")                       # in the process pool, the default
    def cpu_bound(env):
        return Response(f"Hello from {proc_env.proc_type}")

    if __name__ == "__main__":
        run()                            # http://localhost:8000

It needs only the standard library and Python 3.8 or later. The source is a package of
chapters. Each uses only chapters above it:

    about errors forks text cookies datastructures                  the foundation
    protocol: http11 canonical multipart                            bytes, without I/O
    forms sessions requests responses conditional staticfiles       messages
    templating: compiler templates
    routing
    executors: base streams local                                   where handlers run
    executors/pool: frames worker zygote traces links scheduler recycling
    executors/pool: supervisor pool
    executors: dispatch
    declaring handling middleware application
    server: proxies access options transport exchange               clients
    server: insistence heads http1 listeners server
    settings launch lifespan loops
    gateways: base wsgi asgi                             other servers' ways in
    watching reloading refreshing                        while it is written
    runner pixie loading flags cli restarted

`python -m pixie_web single` joins them into one file, `pixie_web.py`, which works
alone. A copy of it in a project is an installation, and `python pixie_web.py app:app`
serves.

Everything that a client controls has a limit, with the unit in its name. The numbers
are those of servers with long experience of the open internet; the source of each
stands beside it. `run()` takes most of them as arguments of the same name in lower
case. Modules that only some programs need (tempfile, mimetypes, inspect, ssl ...) are
imported at their first use, so that an import of pixie_web stays cheap.
"""

from .about import __version__ as __version__
from .conditional import check_preconditions
from .datastructures import Headers, MultiDict
from .errors import (
    BadValue,
    ClientDisconnected,
    HTTPError,
    MissingExtra,
    MissingValue,
    PixieError,
    ProtocolError,
    RequestTimeout,
    RouteError,
    TemplateError,
)
from .executors.base import ProcessType, RouteType, proc_env
from .forms import FileUpload, parse_form
from .middleware import compress, cors, etag, same_origin
from .pixie import (
    Pixie,
    after,
    app,
    before,
    delete,
    error,
    get,
    head,
    mount,
    options,
    patch,
    post,
    put,
    route,
    run,
    static,
)
from .requests import Request
from .responses import Event, Response, abort, redirect
from .sessions import Sessions
from .staticfiles import cached_file, static_file
from .templating.templates import Template, template

__all__ = [
    "BadValue",
    "ClientDisconnected",
    "Event",
    "FileUpload",
    "HTTPError",
    "Headers",
    "MissingExtra",
    "MissingValue",
    "MultiDict",
    "Pixie",
    "PixieError",
    "ProcessType",
    "ProtocolError",
    "Request",
    "RequestTimeout",
    "Response",
    "RouteError",
    "RouteType",
    "Sessions",
    "Template",
    "TemplateError",
    "abort",
    "after",
    "app",
    "before",
    "cached_file",
    "check_preconditions",
    "compress",
    "cors",
    "delete",
    "error",
    "etag",
    "get",
    "head",
    "mount",
    "options",
    "parse_form",
    "patch",
    "post",
    "proc_env",
    "put",
    "redirect",
    "route",
    "run",
    "same_origin",
    "static",
    "static_file",
    "template",
]
