"""Declarations of a program: routes, triggers, error handlers, hooks and pools.

Nothing runs here. Each mistake is an error in the line of the declaration, and the
message says how to write it. `handling` reads the declarations, in any process. So
does `application`; when it freezes, no more can be declared.
"""

from __future__ import annotations

import inspect
import os
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Literal,
    Optional,
    Protocol,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from .cookies import UNSET, MaybeSecrets, secret_keys
from .errors import RouteError
from .executors.base import (
    HEARTBEAT_SECONDS,
    Handler,
    HandlerType,
    Route,
    RouteType,
    handler_kind,
)
from .executors.dispatch import EXECUTORS, placed, set_bounds
from .executors.pool.frames import PoolOptions
from .requests import Request
from .responses import Response, to_chunk
from .routing import Router
from .staticfiles import directory_file
from .text import JSONLibrary, json_library

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

Trigger = TypeVar("Trigger", bound=Callable[..., Any])
Paths = Union[str, Iterable[str]]
Placement = Literal["sync", "thread", "asnc", "pool", "stream"]
OnDisconnect = Literal["finish", "stop", "kill"]
Where = Union[RouteType, Placement, None]

if TYPE_CHECKING:

    class RouteOptions(TypedDict, total=False):
        """The options that the verbs pass to `route`."""

        name: Optional[str]
        before: Iterable[Handler]
        after: Iterable[Handler]
        timeout: Optional[float]
        limit: Optional[int]
        queue_timeout: Optional[float]
        max_waiting: Optional[int]
        pool: Optional[str]
        on_disconnect: Optional[OnDisconnect]
        max_body_bytes: Optional[int]
        stream_body: bool
        heartbeat: Union[str, bytes, None]
        heartbeat_seconds: float


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
        raise RouteError("stream_body=True needs an async def and RouteType.asnc")
    route.max_body_bytes, route.stream_body = most, stream_body


def _set_heartbeat(route: Route, beat: Union[str, bytes, None], seconds: float) -> None:
    """Raise RouteError unless this can be sent while the route's stream is silent."""
    if beat is None:
        return
    if not EXECUTORS[route.placement].has_line:
        raise RouteError(
            f"{route.path} is {route.placement.name}: nothing can send a heartbeat "
            "while its handler runs; write RouteType.stream"
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
    if kind == "before" and hasattr(trigger, "after"):
        _check_trigger(trigger.after, "after")
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


def has_two_halves(trigger: Handler) -> bool:
    """Return whether a before trigger has something to do after the handler, too."""
    return hasattr(trigger, "after")


def _one_of_each_kind(triggers: Iterable[Handler]) -> List[str]:
    kinds = [t.only_one for t in triggers if hasattr(t, "only_one")]
    if len(set(kinds)) < len(kinds):
        raise RouteError(
            f"{kinds[0]}(...) stands there twice: write one for the application or the "
            "route, with all that it allows"
        )
    return kinds


class Triggers:
    """The before and after triggers of an application or a route, by where they run."""

    def __init__(
        self, before: Iterable[Handler] = (), after: Iterable[Handler] = ()
    ) -> None:
        self.before = list(before)
        self.after = list(after)

    def sorted(
        self, own: Optional[Triggers] = None
    ) -> Tuple[List[Handler], List[Handler], List[Handler], List[Handler]]:
        """Return (before def, before async def, after def, after async def).

        Those with two halves stand around all others: nothing that another refuses or
        replaces passes them by. Of one kind (`cors`) that of a route counts in place of
        the application's.

        Args:
            own: those of a route, where these are of its application.

        Raises:
            RouteError: there are two of one kind.
        """
        own = own or Triggers()
        before = [*self.before, *own.before]
        around: Any = list(filter(has_two_halves, own.before))
        kinds = _one_of_each_kind(around)
        above = list(filter(has_two_halves, self.before))
        _one_of_each_kind(above)
        around[:0] = [t for t in above if getattr(t, "only_one", t) not in kinds]

        def split(triggers: List[Handler]) -> Tuple[List[Handler], List[Handler]]:
            asynchronous = [t for t in triggers if handler_kind(t) == "async def"]
            return [t for t in triggers if t not in asynchronous], asynchronous

        before = [*around, *(t for t in before if not has_two_halves(t))]
        after = [*own.after, *self.after, *(one.after for one in reversed(around))]
        return (*split(before), *split(after))


def _paths(path: Any) -> List[str]:
    if callable(path):  # the handler itself
        name = getattr(path, "__name__", "handler")
        raise RouteError(f'write a path above def {name}: @app.get("/{name}")')
    paths = [path] if isinstance(path, str) else list(path)
    if not all(isinstance(one, str) for one in paths):
        raise RouteError(f'a path is text, such as "/page", got {path!r}')
    return paths


def _verbs(method: Union[str, Iterable[str]], methods: object) -> Tuple[str, ...]:
    if methods is not None:
        raise RouteError(f"write method={methods!r}: one verb, or several")
    return (method,) if isinstance(method, str) else tuple(method)


_ONE_JSON = (
    "app.json_default is asked by pixie_web's own JSON, and app.json stands in its "
    "place: give the function to the library"
)


class Declarations:
    """The declarations of a program on one application; mounted ones have their own.

    Attributes:
        router: which route answers for a path.
        own_routes: the same routes, in order of declaration.
        triggers: those of all routes.
        status_handlers, error_handlers: the error handlers, by status and by class.
        start_hooks, stop_hooks, worker_start_hooks, worker_stop_hooks: what `on_start`
            and the others were given.
        pools: the options of each pool that `pool` declared, by name.
        pool_starts: what is called in the workers of a pool at their start, by name.
        frozen: the server has started: nothing is declared any more.
    """

    def __init__(self, secrets: MaybeSecrets = UNSET) -> None:
        self.secrets = secrets
        self.router: Router[Route] = Router()
        self.own_routes: List[Route] = []
        self.triggers = Triggers()
        self.status_handlers: Dict[int, Handler] = {}
        self.error_handlers: Dict[Type[BaseException], Handler] = {}
        self.start_hooks: List[Callable[[], Any]] = []
        self.stop_hooks: List[Callable[[], Any]] = []
        self.worker_start_hooks: List[Callable[[], object]] = []
        self.worker_stop_hooks: List[Callable[[], object]] = []
        self.pools: Dict[str, Dict[str, Any]] = {}
        self.pool_starts: Dict[str, Callable[[], object]] = {}
        self.frozen = False
        self._json_default: Union[Callable[[Any], object], JSONLibrary, None] = None

    @property
    def secrets(self) -> MaybeSecrets:
        """The secrets of cookies that name no secret of their own, as bytes.

        Raises:
            PixieError: it is set to nothing, or to a secret that is too short.
        """
        return self._secrets

    @secrets.setter
    def secrets(self, secrets: MaybeSecrets) -> None:
        # Refuses here what can't sign later, and keeps a copy: a list may change.
        if secrets is not UNSET:
            secrets = tuple(secret_keys(secrets))
        self._secrets = secrets

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
        on_disconnect: Optional[OnDisconnect] = None,
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
                killed, a coroutine cancelled; a thread runs on and keeps its place.
            limit: how many may run at once; not for `sync`.
            queue_timeout: seconds to wait for a turn, then 503; default 30. A request
                that will probably wait longer gets the 503 at once.
            max_waiting: how many may wait for a turn, the next gets 503; default as
                many as `run()` or `app.pool()` lets wait for all routes, 1,000.
            pool: the name of the pool it runs in, which `app.pool` declares.
            on_disconnect: whether the handler ends when its client leaves: "finish",
                "stop" or "kill", as the placement allows.
            max_body_bytes: the largest body it takes; above that 413. As in `run()`,
                16 MiB, when left out.
            stream_body: call the handler when the head has come; it reads the body by
                `env.stream()`. For `asnc`.
            heartbeat: text to send while its stream is silent between two chunks. So no
                proxy gives up, and a client that has vanished is noticed: ":\\n\\n" for
                server-sent events, "\\n" for lines. Each chunk must be complete for the
                reader. Not in compressed streams; not for `sync`.
            heartbeat_seconds: how long the silence before one is, and the time between
                two.
            methods: not used: write `method`.

        Raises:
            RouteError: the declaration is wrong; says what to write.
        """
        paths = _paths(path)
        verbs = _verbs(method, methods)
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
                route.before = _check_triggers(before, "before")
                route.after = _check_triggers(after, "after")
                self._add(route)
            return handler

        return declare

    def _add(self, route: Route) -> None:
        self.check_open(route.path)
        route.app = self
        route.pattern = self.router.compile(route.path)
        check_takes(
            route.handler, route.path, "env", **dict.fromkeys(route.pattern.names)
        )
        self.router.add(route.path, route.methods, route)
        self.own_routes.append(route)

    def check_open(self, what: str) -> None:
        """Raise RouteError when the server has started."""
        if self.frozen:
            raise RouteError(f"{what}: declare it before the server starts, at import")

    def get(
        self, path: Paths, route_type: Where = None, **options: Unpack[RouteOptions]
    ) -> Declare:
        """Declare a route for GET (and HEAD); arguments as for `route`."""
        return self.route(path, route_type, "GET", **options)

    def post(
        self, path: Paths, route_type: Where = None, **options: Unpack[RouteOptions]
    ) -> Declare:
        """Declare a route for POST; arguments as for `route`."""
        return self.route(path, route_type, "POST", **options)

    def put(
        self, path: Paths, route_type: Where = None, **options: Unpack[RouteOptions]
    ) -> Declare:
        """Declare a route for PUT; arguments as for `route`."""
        return self.route(path, route_type, "PUT", **options)

    def delete(
        self, path: Paths, route_type: Where = None, **options: Unpack[RouteOptions]
    ) -> Declare:
        """Declare a route for DELETE; arguments as for `route`."""
        return self.route(path, route_type, "DELETE", **options)

    def patch(
        self, path: Paths, route_type: Where = None, **options: Unpack[RouteOptions]
    ) -> Declare:
        """Declare a route for PATCH; arguments as for `route`."""
        return self.route(path, route_type, "PATCH", **options)

    def head(
        self, path: Paths, route_type: Where = None, **options: Unpack[RouteOptions]
    ) -> Declare:
        """Declare a route for HEAD alone; arguments as for `route`."""
        return self.route(path, route_type, "HEAD", **options)

    def options(
        self, path: Paths, route_type: Where = None, **options: Unpack[RouteOptions]
    ) -> Declare:
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
        self.check_open(f"the filter {name}")
        self.router.add_filter(name, pattern, to_python, to_url)

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

    # Declaring triggers and error handlers.

    def before(self, trigger: Trigger) -> Trigger:
        """Call `trigger(env)` before each handler; if it returns a value, that answers.

        A `def` runs where the handler runs; an `async def` on the loop, ahead of the
        body. A trigger that has an attribute `after`, such as that of `cors`, runs
        before all others, and `trigger.after(env, response)` after all others.
        """
        self.check_open("a before trigger")
        self.triggers.before.append(_check_trigger(trigger, "before"))
        return trigger

    def after(self, trigger: Trigger) -> Trigger:
        """Call `trigger(env, response)` after each handler.

        It may change the response, or return another.
        """
        self.check_open("an after trigger")
        self.triggers.after.append(_check_trigger(trigger, "after"))
        return trigger

    def error(self, what: Union[int, Type[BaseException]]) -> Declare:
        """Declare the error handler of a status or an exception; a decorator.

        Args:
            what: a status code, or an exception class: of several the closest one wins.

        The handler is a `def` that takes (env, error) and returns a value as any
        handler does. It runs where the error was.

        Raises:
            RouteError: neither a status nor an exception class, or no plain `def`.
        """
        self.check_open("an error handler")
        is_class = isinstance(what, type) and issubclass(what, BaseException)
        if not is_class and not (type(what) is int and 300 <= what <= 999):
            raise RouteError(
                f"write @app.error(404) or @app.error(SomeException), got {what!r}"
            )

        def declare(handler: HandlerType) -> HandlerType:
            if not callable(handler) or handler_kind(handler) != "def":
                raise RouteError("an error handler is a plain def, for all placements")
            check_takes(handler, f"error({what!r})", "env", "error")
            if isinstance(what, int):
                self.status_handlers[what] = handler
            else:
                self.error_handlers[what] = handler
            return handler

        return declare

    @property
    def json_default(self) -> Optional[Callable[[Any], object]]:
        """A function that returns a JSON value in place of another value, or None.

        It is called, in main and in workers, for a value without a rule, and raises
        TypeError if it does not know the value either. A mounted application without
        one takes that of the application above it.

        Raises:
            RouteError: it is set to something else than a plain `def`, or after the
                start.
        """
        hook = self._json_default
        return None if isinstance(hook, JSONLibrary) else hook

    @json_default.setter
    def json_default(self, function: Optional[Callable[[Any], object]]) -> None:
        self.check_open("app.json_default")
        if function is not None and (
            not callable(function) or handler_kind(function) != "def"
        ):
            raise RouteError(
                f"app.json_default is a plain def that takes a value, got {function!r}"
            )
        if function is not None and self.json is not None:
            raise RouteError(_ONE_JSON)
        if function is not None or self.json is None:
            self._json_default = function

    @property
    def json_hook(self) -> Union[Callable[[Any], object], JSONLibrary, None]:
        """The value of `json_default` or of `json`, of which there is but one."""
        return self._json_default

    @property
    def json(self) -> Optional[JSONLibrary]:
        """The library that writes answers and reads `env.json`; None: the usual one.

        It is set to a module that has `dumps` and `loads`, or to these two functions,
        and holds in main and in workers. A mounted application that has neither this
        nor `json_default` takes that of the one above it.

        Raises:
            PixieError: it can't read its own output.
            RouteError: there is a `json_default` already, or the server has started.
        """
        hook = self._json_default
        return hook if isinstance(hook, JSONLibrary) else None

    @json.setter
    def json(self, choice: Any) -> None:
        self.check_open("app.json")
        if self.json_default is not None:
            raise RouteError(_ONE_JSON)
        self._json_default = None if choice is None else json_library(choice)

    def on_start(self, function: HandlerType) -> HandlerType:
        """Call `function()` in main before it serves, after the pool exists."""
        self.start_hooks.append(_check_hook(function, "on_start"))
        return function

    def on_stop(self, function: HandlerType) -> HandlerType:
        """Call `function()` in main when it has stopped serving."""
        self.stop_hooks.append(_check_hook(function, "on_stop"))
        return function

    def on_worker_start(self, function: HandlerType) -> HandlerType:
        """Call `function()` in each worker before its first job: load models."""
        self.worker_start_hooks.append(_check_hook(function, "on_worker_start"))
        return function

    def on_worker_stop(self, function: HandlerType) -> HandlerType:
        """Call `function()` in each worker that ends in good order."""
        self.worker_stop_hooks.append(_check_hook(function, "on_worker_stop"))
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
            name: the word that the routes give as `pool=`.
            on_worker_start: called in each of its workers: load the large model here.
            options: settings in which this pool differs from the first one: workers,
                min_workers, max_streams, worker_idle_seconds, nice,
                timeout_grace_seconds, max_crashes, max_waiting, max_waiting_bytes,
                max_tasks_per_worker, max_worker_age_seconds, max_worker_bytes,
                worker_memory_limit_bytes.

        Raises:
            RouteError: no name, a name that is taken, or an unknown option.
        """
        self.check_open(f"the pool {name}")
        unknown = set(options) - set(PoolOptions._fields)
        if unknown:
            raise RouteError(
                f"a pool has no option {min(unknown)!r}; it takes "
                + ", ".join(PoolOptions._fields)
            )
        if not name or name in self.pools:
            raise RouteError(f"a pool has a name of its own, got {name!r}")
        if on_worker_start is not None:
            self.pool_starts[name] = _check_hook(on_worker_start, "on_worker_start")
        self.pools[name] = options
