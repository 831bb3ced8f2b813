"""The application.

Routes, triggers and error handlers, and the narrow waist that everything goes
through: `await handle(request) -> Response`. It is called when a request's head is
complete, and refuses what needs no body (404, 405, 413, an `async def` trigger that
answers) before it pulls one. The server, the gateways, HTTP/2 and the tests know
nothing else of it.

    handle -+- match, async before triggers, body            in main, on the loop
            +- placement: before triggers, handler,
            |             error handler, after triggers       where the route says
            `- async after triggers, file conditions          in main, on the loop
"""

from __future__ import annotations

import asyncio
import inspect
import os
from contextvars import copy_context
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
    cast,
)

from .about import __version__
from .conditional import deciding_headers
from .cookies import UNSET, MaybeSecrets, Secrets, secret_keys
from .errors import (
    ClientDisconnected,
    HTTPError,
    PixieError,
    ProtocolError,
    RouteError,
    companion,
    ends_worker,
)
from .executors.base import (
    HEARTBEAT_SECONDS,
    BusyError,
    Handler,
    HandlerType,
    ProcessType,
    Route,
    RouteType,
    handler_kind,
    proc_env,
)
from .executors.dispatch import EXECUTORS, Executors, placed, set_bounds
from .executors.local import LoopStream, start_task
from .executors.pool.frames import PoolOptions, Program
from .executors.streams import Chunks
from .handling import (
    Triggers,
    _paths,
    answer,
    answer_async,
    ask_first,
    ask_first_async,
    handle_error,
    join_triggers,
    read_body,
    run_after,
    run_after_async,
    seal,
)
from .protocol.multipart import FormLimits
from .requests import ROOT_PATH, BodySource, Request, log_failure
from .responses import Refusal, Response, StaticFile, error_page, to_chunk
from .routing import Pattern, Router
from .staticfiles import directory_file, resolve_file
from .text import json_default_hook

Trigger = TypeVar("Trigger", bound=Callable[..., Any])
Paths = Union[str, Iterable[str]]
Where = Union[RouteType, str, None]


class Declare(Protocol):
    """A decorator that returns the handler unchanged."""

    def __call__(self, handler: HandlerType, /) -> HandlerType: ...


def check_takes(function: Handler, what: str, /, *names: str, **by_name: None) -> None:
    """Raise RouteError unless a function can be called so; say what to write.

    Args:
        what: it is for, such as "before".
        names: of what it is given by position; `by_name` of what it is given by name.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin that does not tell
    try:
        signature.bind(*names, **by_name)
    except TypeError as error:
        takes = ", ".join((*names, *by_name))
        name = getattr(function, "__name__", repr(function))
        raise RouteError(f"{what}: write def {name}({takes}): {error}") from None


def _set_body(route: Route, most: Optional[int], stream_body: bool) -> None:
    """Raise RouteError unless the route can take its body like this."""
    if most is not None and (type(most) is not int or most < 0):
        raise RouteError(f"max_body_bytes is a whole number from 0, got {most!r}")
    if stream_body and not EXECUTORS[route.placement].can_stream_body:
        raise RouteError("stream_body=True is for an async def: RouteType.asnc")
    route.max_body_bytes, route.stream_body = most, stream_body


def _set_heartbeat(route: Route, beat: Union[str, bytes, None], seconds: float) -> None:
    """Raise RouteError unless this can be sent while the route's stream is silent."""
    if beat is None:
        return
    if not EXECUTORS[route.placement].has_line:
        raise RouteError(
            f"{route.path} is {route.placement.name}: it holds up the loop; "
            "write RouteType.stream"
        )
    is_time = type(seconds) in (int, float) and 0 < seconds < float("inf")
    if not beat or not isinstance(beat, (str, bytes)) or not is_time:
        raise RouteError(
            "a heartbeat is str or bytes to send, and heartbeat_seconds more than 0, "
            f"got {beat!r} and {seconds!r}"
        )
    route.heartbeat, route.heartbeat_seconds = to_chunk(beat), seconds


def _check_trigger(trigger: Trigger, kind: str) -> Trigger:
    if not callable(trigger) or handler_kind(trigger) not in ("def", "async def"):
        raise RouteError(f"a trigger is a def or an async def, got {trigger!r}: {kind}")
    check_takes(trigger, kind, "env", *["response"] * (kind == "after"))
    return trigger


def _check_hook(function: HandlerType, kind: str) -> HandlerType:
    if not callable(function):
        raise RouteError(f"{kind} takes a function, got {function!r}")
    check_takes(function, kind)
    return function


def _check_triggers(triggers: Iterable[Handler], kind: str) -> Tuple[Handler, ...]:
    if callable(triggers):
        raise RouteError(f"{kind} is a list of triggers: write {kind}=[...]")
    return tuple(_check_trigger(trigger, kind) for trigger in triggers)


def _set_triggers(
    route: Route, before: Iterable[Handler], after: Iterable[Handler]
) -> None:
    route.before = _check_triggers(before, "before")
    route.after = _check_triggers(after, "after")


async def _call_all(functions: Iterable[Callable[[], Any]]) -> None:
    for function in functions:
        result = function()
        if inspect.isawaitable(result):
            await result


def trace(error: BaseException) -> str:
    """Return an error's traceback as text."""
    import traceback

    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join(lines)


class Application:
    """What `Pixie` does apart from serving: routes, triggers, errors, `handle`."""

    form_limits: FormLimits  # set by run(); the defaults without it
    root_path = ""  # the same

    def __init__(
        self, import_name: Optional[str] = None, *, secrets: MaybeSecrets = UNSET
    ) -> None:
        self.import_name = import_name
        self.secrets = secrets
        self.debug = False
        self._router: Router[Route] = Router()
        self._routes: List[Route] = []
        self._mounts: List[Tuple[str, Application]] = []
        self._above: Optional[Tuple[Application, str]] = None  # where it is mounted
        self._triggers = Triggers()
        self._json_default: Optional[Callable[[Any], object]] = None
        self._status_handlers: Dict[int, Handler] = {}
        self._error_handlers: Dict[Type[BaseException], Handler] = {}
        self._on_start: List[Callable[[], Any]] = []
        self._on_stop: List[Callable[[], Any]] = []
        self._on_worker_start: List[Callable[[], object]] = []
        self._on_worker_stop: List[Callable[[], object]] = []
        self._pools: Dict[str, Dict[str, Any]] = {}
        self._pool_starts: Dict[str, Callable[[], object]] = {}
        self._frozen = False
        self.imported_from = ""  # the module that the command line named
        self.executors = Executors(answer, answer_async)

    @property
    def secrets(self) -> MaybeSecrets:
        """What signs the cookies that name no secret of their own, as bytes.

        Raises:
            PixieError: when it is set: to nothing, or to what is too short.
        """
        return self._secrets

    @secrets.setter
    def secrets(self, secrets: MaybeSecrets) -> None:
        # Refuses here what can't sign later, and keeps a copy: a list may change.
        is_unset = secrets is UNSET
        self._secrets = (
            UNSET if is_unset else tuple(secret_keys(cast(Secrets, secrets)))
        )

    # Declaring routes.

    def route(
        self,
        path: Paths,
        route_type: Where = None,
        method: Union[str, Iterable[str]] = "GET",
        *,
        name: Optional[str] = None,
        before: Iterable[Handler] = (),
        after: Iterable[Handler] = (),
        timeout: Optional[float] = None,
        limit: Optional[int] = None,
        queue_timeout: Optional[float] = None,
        max_waiting: Optional[int] = None,
        pool: Optional[str] = None,
        on_disconnect: Optional[str] = None,
        max_body_bytes: Optional[int] = None,
        stream_body: bool = False,
        heartbeat: Union[str, bytes, None] = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        methods: None = None,
    ) -> Declare:
        """Declare a route; a decorator that returns the handler unchanged.

        Args:
            path: a pattern such as "/user/<id:int>", or several.
            route_type: where the handler runs. None: a `def` in the pool, a generator
                as a stream out of the pool, a coroutine function on the event loop.
            method: a verb, or several. GET answers HEAD too.
            name: for `url_for`; the handler's name when left out.
            before, after: triggers of this route alone.
            timeout: seconds it may run (of a stream: seconds between two chunks); then
                504. Default 30 in the pool, none elsewhere; inf for none. A worker is
                killed, a coroutine cancelled; a thread runs on, its place taken.
            limit: how many may run at once; not for `sync`.
            queue_timeout: seconds to wait for a turn, then 503; default 30. Who is
                known to have to wait for longer gets the 503 at once.
            max_waiting: how many may wait for a turn, the next gets 503; default as
                many as `run()` or `app.pool()` lets wait for all routes, 1,000.
            pool: the name of the pool it runs in, which `app.pool` declares.
            on_disconnect: what becomes of it when its client leaves: "finish", "stop"
                or "kill", as the placement allows.
            max_body_bytes: the largest body it takes; above that 413. As in `run()`,
                16 MiB, when left out.
            stream_body: call the handler when the head has come; it reads the body by
                `env.stream()`. For `asnc`.
            heartbeat: what is sent while its stream is silent between two chunks, so
                that no proxy gives up, and a client that has vanished is noticed:
                ":\\n\\n" for server-sent events, "\\n" for lines. Each chunk has to be
                whole for the reader. Not in what is compressed; not for `sync`.
            heartbeat_seconds: how long that silence has to be, and between two of them.
            methods: is called `method` here.

        Raises:
            RouteError: what can't be, where it is written, saying what to write.
        """
        paths = _paths(path)
        verbs = (method,) if isinstance(method, str) else tuple(method)
        if methods is not None:
            raise RouteError(f"write method={methods!r}: one verb, or several")
        if not paths or not verbs:
            raise RouteError("a route needs a path and a method")

        bounds = timeout, limit, queue_timeout, max_waiting, on_disconnect

        def declare(handler: HandlerType) -> HandlerType:
            for pattern in paths:
                route = Route(pattern, verbs, handler, placed(route_type, handler))
                route.pool = pool or ""
                set_bounds(route, *bounds)
                _set_body(route, max_body_bytes, stream_body)
                _set_heartbeat(route, heartbeat, heartbeat_seconds)
                route.name = name or getattr(handler, "__name__", None)
                _set_triggers(route, before, after)
                self._add(route)
            return handler

        return declare

    def _add(self, route: Route) -> None:
        self._check_open(route.path)
        route.app = self
        route.pattern = self._router.compile(route.path)
        check_takes(
            route.handler, route.path, "env", **dict.fromkeys(route.pattern.names)
        )
        self._router.add(route.path, route.methods, route)
        self._routes.append(route)

    def _check_open(self, what: str) -> None:
        if self._frozen:
            raise RouteError(f"{what}: nothing is declared once the server has started")

    def get(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for GET (and HEAD); arguments as for `route`."""
        return self.route(path, route_type, "GET", **options)

    def post(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for POST; arguments as for `route`."""
        return self.route(path, route_type, "POST", **options)

    def put(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for PUT; arguments as for `route`."""
        return self.route(path, route_type, "PUT", **options)

    def delete(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for DELETE; arguments as for `route`."""
        return self.route(path, route_type, "DELETE", **options)

    def patch(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for PATCH; arguments as for `route`."""
        return self.route(path, route_type, "PATCH", **options)

    def head(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for HEAD alone; arguments as for `route`."""
        return self.route(path, route_type, "HEAD", **options)

    def options(self, path: Paths, route_type: Where = None, **options: Any) -> Declare:
        """Declare a route for OPTIONS, in place of the automatic answer."""
        return self.route(path, route_type, "OPTIONS", **options)

    def filter(
        self,
        name: str,
        pattern: str,
        to_python: Callable[[str], Any] = str,
        to_url: Callable[[Any], str] = str,
    ) -> None:
        """Let `<x:name>` in later paths stand for what `pattern` matches.

        Args:
            name: the word to write in a path.
            pattern: a regular expression (str).
            to_python: text to value; a ValueError means that the path does not match.
            to_url: value to text, for `url_for`.
        """
        self._router.add_filter(name, pattern, to_python, to_url)

    def static(
        self, prefix: str, root: Union[str, os.PathLike[str]], **options: Any
    ) -> None:
        """Serve the files below a directory under a path.

        Args:
            prefix: the path, such as "/assets/".
            root: the directory.
            options: index, max_age, cache and dotfiles, as for `directory_file`. Files
                and directories whose names begin with a dot are a 404 by default.

        Raises:
            RouteError: there is no such directory.
        """
        prefix = prefix.rstrip("/") + "/"
        root = os.path.abspath(root)
        if not os.path.isdir(root):
            raise RouteError(f"static: there is no directory {root}")

        def serve_static(env: Request, filename: str = "") -> Response:
            return directory_file(root, filename, query=env.query_string, **options)

        index = [prefix] if options.get("index") else []
        paths = [f"{prefix}<filename:path>", *index]
        self.route(paths, RouteType.sync)(serve_static)

    def mount(self, prefix: str, application: Application) -> None:
        """Have another application answer for all paths below `prefix`.

        Its handlers see the path without the prefix, which is `env.prefix`.
        """
        prefix = prefix.rstrip("/")
        if not prefix.startswith("/") or "<" in prefix:
            raise RouteError(
                f'a mount\'s prefix is a path such as "/admin", got {prefix!r}'
            )
        if not isinstance(application, Application):
            raise RouteError(f"mount takes an application, got {application!r}")
        self._check_open(prefix)
        if prefix in dict(self._mounts):
            raise RouteError(f"{prefix} is mounted already")
        if self in application._family() or application in self._family():
            raise RouteError(
                f"{prefix}: an application is mounted once, not below itself"
            )
        application._above = self, prefix
        self._mounts.append((prefix, application))
        self._mounts.sort(key=lambda mount: -len(mount[0]))

    def _family(self) -> List[Application]:
        """Return this application and all that are mounted below it."""
        below = [one for _, mounted in self._mounts for one in mounted._family()]
        return [self, *below]

    @property
    def routes(self) -> Tuple[Route, ...]:
        """All routes, in order of declaration, those of mounted applications last."""
        return tuple(route for one in self._family() for route in one._routes)

    def _placed_routes(self, prefix: str = "") -> Iterator[Tuple[str, Route]]:
        """Iterate over all routes, each after its path with the mounts' prefixes."""
        for route in self._routes:
            yield prefix + route.path, route
        for mount, application in self._mounts:
            yield from application._placed_routes(prefix + mount)

    def stats(self) -> Dict[str, Any]:
        """Return what runs now and what has been counted; docs/status.md has the table.

        Raises:
            PixieError: called in a worker; what is counted is counted in main.
        """
        if proc_env.proc_type is ProcessType.pool:
            raise PixieError("app.stats() is for main: ask in a sync route")
        routes = [
            {
                "path": path,
                "methods": list(route.methods),
                "placement": route.placement.name,
                **route.counts.stats(),
            }
            for path, route in self._placed_routes()
        ]
        return {"version": __version__, **self.executors.stats(), "routes": routes}

    def status(self, path: str = "/status", **options: Any) -> None:
        """Serve what `stats` tells: a live page, as JSON, and to Prometheus.

        Args:
            path: of the page; the others are `path`.json and `path`/metrics.
            options: as for `route`; `before=[trigger]` keeps strangers out.

        Raises:
            MissingExtra: this is the lone file, and the page comes with the package.
        """
        companion("status", "app.status()").mount(self, path, options)

    def url_for(self, name: str, /, **args: Any) -> str:
        """Return the path of the route with this name, as clients have to ask for it.

        Where this application is mounted, and what a proxy takes off, stand in front:
        `root_path=` of run(), or X-Forwarded-Prefix of the request at hand.

        Raises:
            RouteError: there is none, or the arguments do not fit.
            ValueError: a value does not fit its wildcard.
        """
        root = ROOT_PATH.get() or self.root_path
        return root + self._mounted_at() + self._path_of(name, args)

    def _mounted_at(self) -> str:
        if self._above is None:
            return ""
        above, prefix = self._above
        return above._mounted_at() + Pattern(prefix, {}).build()

    def _path_of(self, name: str, args: Mapping[str, Any]) -> str:
        for route in self._routes:
            if route.name == name:
                url: str = route.pattern.build(**args)
                return url
        for prefix, mounted in self._mounts:
            if any(route.name == name for route in mounted.routes):
                return Pattern(prefix, {}).build() + mounted._path_of(name, args)
        raise RouteError(f"no route is named {name!r}")

    # Declaring triggers and error handlers.

    def before(self, trigger: Trigger) -> Trigger:
        """Have `trigger(env)` called ahead of each handler; what it returns answers.

        A `def` runs where the handler runs; an `async def` on the loop, ahead of the
        body.
        """
        self._check_open("a before trigger")
        self._triggers.before.append(_check_trigger(trigger, "before"))
        return trigger

    def after(self, trigger: Trigger) -> Trigger:
        """Have `trigger(env, response)` called after each handler.

        It may change the response, or return another.
        """
        self._check_open("an after trigger")
        self._triggers.after.append(_check_trigger(trigger, "after"))
        return trigger

    def error(self, what: Union[int, Type[BaseException]]) -> Declare:
        """Declare what makes the answer for a status or an exception; a decorator.

        Args:
            what: a status code, or an exception class: of several the closest one wins.

        The handler is a `def` that takes (env, error) and returns what any handler may;
        it runs where the error was.

        Raises:
            RouteError: neither a status nor an exception class, or no plain `def`.
        """
        self._check_open("an error handler")
        is_class = isinstance(what, type) and issubclass(what, BaseException)
        if not is_class and not (type(what) is int and 300 <= what <= 999):
            raise RouteError(
                f"write @app.error(404) or @app.error(SomeException), got {what!r}"
            )

        def declare(handler: HandlerType) -> HandlerType:
            if not callable(handler) or handler_kind(handler) != "def":
                raise RouteError("an error handler is a plain def: it runs anywhere")
            check_takes(handler, f"error({what!r})", "env", "error")
            if isinstance(what, int):
                self._status_handlers[what] = handler
            else:
                self._error_handlers[what] = handler
            return handler

        return declare

    @property
    def json_default(self) -> Optional[Callable[[Any], object]]:
        """A function that returns what JSON can say in place of a value, or None.

        It is asked, in main and in workers, for what `dump_json` has no rule for, and
        raises TypeError for what it does not know either. A mounted application that
        has none takes that of the one above it.

        Raises:
            RouteError: set to what is no plain `def`, or when the server has started.
        """
        return self._json_default

    @json_default.setter
    def json_default(self, function: Optional[Callable[[Any], object]]) -> None:
        self._check_open("app.json_default")
        if function is not None and (
            not callable(function) or handler_kind(function) != "def"
        ):
            raise RouteError(
                f"app.json_default is a plain def that takes a value, got {function!r}"
            )
        self._json_default = function

    def on_start(self, function: HandlerType) -> HandlerType:
        """Have `function()` called in main before it serves, after the pool exists."""
        self._on_start.append(_check_hook(function, "on_start"))
        return function

    def on_stop(self, function: HandlerType) -> HandlerType:
        """Have `function()` called in main when it has stopped serving."""
        self._on_stop.append(_check_hook(function, "on_stop"))
        return function

    def on_worker_start(self, function: HandlerType) -> HandlerType:
        """Have `function()` called in each worker before its first job: load models."""
        self._on_worker_start.append(_check_hook(function, "on_worker_start"))
        return function

    def on_worker_stop(self, function: HandlerType) -> HandlerType:
        """Have `function()` called in each worker that ends in good order."""
        self._on_worker_stop.append(_check_hook(function, "on_worker_stop"))
        return function

    def pool(
        self,
        name: str,
        *,
        on_worker_start: Optional[Callable[[], object]] = None,
        **options: Any,
    ) -> None:
        """Declare a pool of its own for the routes that name it with `pool=`.

        Args:
            name: what the routes call it.
            on_worker_start: called in each of its workers: load the large model here.
            options: what this pool has otherwise than the first one: workers,
                min_workers, max_streams, worker_idle_seconds, nice,
                timeout_grace_seconds, max_crashes, max_waiting, max_waiting_bytes,
                max_tasks_per_worker, max_worker_age_seconds, max_worker_bytes,
                worker_memory_limit_bytes.

        Raises:
            RouteError: no name, one that is taken, or an option that is none.
        """
        self._check_open(f"the pool {name}")
        unknown = set(options) - set(PoolOptions._fields)
        if unknown:
            raise RouteError(
                f"a pool has no option {min(unknown)!r}; it takes "
                + ", ".join(PoolOptions._fields)
            )
        if not name or name in self._pools:
            raise RouteError(f"a pool has a name of its own, got {name!r}")
        if on_worker_start is not None:
            self._pool_starts[name] = _check_hook(on_worker_start, "on_worker_start")
        self._pools[name] = options

    # Serving.

    def named_pools(self) -> Dict[str, Dict[str, Any]]:
        """Return the options of each pool that `pool` declared, here or below."""
        return {k: v for app in self._family() for k, v in app._pools.items()}

    def freeze(self) -> Program:
        """Fix the routes, and return what the workers need to know.

        Raises:
            RouteError: a route names a pool that nobody has declared.
        """
        applications = self._family()
        pools = self.named_pools()
        for route in self.routes:
            if route.pool and route.pool not in pools:
                raise RouteError(
                    f"{route.path}: there is no pool {route.pool!r}; declare it: "
                    f"app.pool({route.pool!r}, workers=1)"
                )
        for application in applications:
            application._frozen = True
            application.executors = self.executors
            application._router.freeze()
            for _, mounted in application._mounts:
                if mounted.secrets is UNSET:
                    mounted.secrets = application.secrets
                mounted._json_default = (
                    mounted._json_default or application._json_default
                )
        for index, route in enumerate(self.routes):
            route.index = index
            route.triggers = join_triggers(route)
        self.executors.place(self.routes)
        starts = [f for app in applications for f in app._on_worker_start]
        stops = [f for app in applications for f in app._on_worker_stop]
        own = {k: f for app in applications for k, f in app._pool_starts.items()}
        return Program(self.routes, answer, starts, stops, own)

    async def start(self) -> None:
        """Run what `on_start` declared."""
        for application in self._family():
            await _call_all(application._on_start)

    async def stop(self) -> None:
        """Run what `on_stop` declared."""
        for application in self._family():
            await _call_all(application._on_stop)

    async def handle(self, request: Request) -> Response:
        """Answer a request whose head is complete; the one way in.

        Returns:
            a response whose body is bytes, a FileSlice, or an async iterator that is to
            be closed by `aclose`; not pulling it holds its handler back.

        Raises:
            ClientDisconnected, ProtocolError: the body did not arrive; no answer is
                owed, or the one that the error says.
        """
        if not self._frozen:
            self.freeze()
        request.root_path = request.root_path or self.root_path
        if request.root_path != ROOT_PATH.get():  # of the last request here
            ROOT_PATH.set(request.root_path)
        owner = request.app = self._owner(request)
        json_default_hook.set(owner._json_default)
        response = await owner._respond(request)
        if isinstance(response.body, StaticFile):
            try:
                return resolve_file(request.method, deciding_headers(request), response)
            except HTTPError as error:
                return seal(owner, request, owner.error_response(request, error))
        return response

    def _owner(self, request: Request) -> Application:
        """Return the application that answers for the path; it may be a mounted one."""
        path = request.head.path[len(request.prefix) :]
        for prefix, application in self._mounts:
            if path == prefix or path.startswith(f"{prefix}/"):
                request.prefix += prefix
                return application._owner(request)
        return self

    async def _respond(self, request: Request) -> Response:
        try:
            match = self._router.match(request.method, request.path)
        except BaseException as error:  # HTTPError, or a filter's own
            return await self._unmatched(request, error)
        route = request.route = match.target
        request.params = dict(match.args)

        _, before, after, after_async = route.triggers
        response = None
        try:
            if before:
                response = await self._ask_first(before, request)
            if response is None:
                route.executor.check_room(route)
                if request.source is not None:
                    await self._receive_body(route, request, request.source)
                response = await self.executors.run(route, request)
                after = ()  # they have run where the handler has
        except (ClientDisconnected, ProtocolError):
            raise
        except Exception as error:
            response = self.error_response(request, error)
            if isinstance(response, Refusal) and not (before or after or after_async):
                response.again = route.executor.refusals(route)
        if not after and not after_async and response.is_sealed:
            return response  # PERF: as most are; 1.5 us
        return await self._finish(request, response, after, after_async)

    async def _receive_body(
        self, route: Route, request: Request, source: BodySource
    ) -> None:
        """Refuse a body that is too long, and read it, unless the handler will."""
        if route.max_body_bytes is not None:
            source.max_body_bytes = route.max_body_bytes
        source.check(source.content_length or 0)
        if not route.stream_body:
            await read_body(request)

    async def _unmatched(self, request: Request, error: BaseException) -> Response:
        """Answer where no route matched; the application's triggers run as ever."""
        headers = error.headers if isinstance(error, HTTPError) else {}
        before, before_async, after, after_async = self._triggers.sorted()
        response = await self._ask_first(before_async, request)
        if response is None:
            response = ask_first(self, before, request)
        if response is None:
            of_server = request.head.path == "*"  # RFC 9110 section 9.3.7
            if request.method == "OPTIONS" and (of_server or "Allow" in headers):
                response = Response(None, 204, headers=headers).settle()
            else:
                response = self.error_response(request, error)
        return await self._finish(request, response, after, after_async)

    async def _ask_first(
        self, triggers: Sequence[Handler], request: Request
    ) -> Optional[Response]:
        """Return what the first `async def` trigger that answers made, or None."""
        if not triggers:
            return None
        loop = asyncio.get_running_loop()
        return await start_task(loop, ask_first_async(self, triggers, request))

    async def _finish(
        self,
        request: Request,
        response: Response,
        after: Sequence[Handler],
        after_async: Sequence[Handler],
    ) -> Response:
        """Run what is left of the after triggers in main, and seal the response."""
        body: Any = response.body
        if after:
            response = run_after(self, after, request, response)
        if after_async:
            loop = asyncio.get_running_loop()
            coroutine = run_after_async(self, after_async, request, response)
            response = await start_task(loop, coroutine)
        response = seal(self, request, response)
        if response.body is not body and hasattr(body, "aclose"):
            await body.aclose()  # a trigger has put something in the stream's place
        if isinstance(response.body, Chunks):
            response.body = LoopStream(response.body, copy_context())
        return response

    def error_response(self, request: Request, error: BaseException) -> Response:
        """Return the answer to an error: what an error handler makes of it, or a page.

        What no handler has declared is logged with its traceback; the client sees that
        with `debug` only.
        """
        handler = self._find_error_handler(request, error)
        try:
            if handler is not None:
                response = handle_error(handler, request, error)
            elif isinstance(error, BusyError):
                return error.page()
            elif isinstance(error, HTTPError):
                response = error_page(error)
            else:
                text = trace(error) if request.debug else ""
                response = error_page(HTTPError(500), text)
            # Refuses here what can't be sent later.
            response.header_block(secrets=self.secrets)
        except BaseException as failure:
            if ends_worker(failure):
                raise
            log_failure(request, failure)
            return error_page(HTTPError(500))
        return response

    def _find_error_handler(
        self, request: Request, error: BaseException
    ) -> Optional[Handler]:
        """Return the handler, or None; logs what is declared by no class of its own.

        An HTTPError is an answer: no handler of a class above it, such as Exception,
        makes a failure of it.
        """
        for kind in type(error).__mro__:
            if kind in self._error_handlers:
                return self._error_handlers[kind]
            if isinstance(error, HTTPError) and kind is HTTPError:
                return self._status_handlers.get(error.status)
        log_failure(request, error)
        return self._status_handlers.get(500)
