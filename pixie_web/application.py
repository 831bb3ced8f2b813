"""The application.

Routes, triggers and error handlers, and the one function for all requests: `await
handle(request) -> Response`. It is called when the head of a request is complete.
Refusals that need no body (404, 405, 413, an `async def` trigger that answers) come
before it reads one. The server, the gateways, HTTP/2 and the tests use only this
function.

    handle -+- match, async before triggers, body            in main, on the loop
            +- placement: before triggers, handler,
            |             error handler, after triggers       where the route says
            `- async after triggers, file conditions          in main, on the loop
"""

from __future__ import annotations

import asyncio
import inspect
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
    Sequence,
    Tuple,
    Union,
)

from .about import __version__
from .conditional import deciding_headers
from .cookies import UNSET, MaybeSecrets
from .declaring import Declarations
from .errors import (
    ClientDisconnected,
    HTTPError,
    PixieError,
    ProtocolError,
    RouteError,
    companion,
)
from .executors.base import (
    Handler,
    Outcome,
    ProcessType,
    Route,
    RouteType,
    proc_env,
)
from .executors.dispatch import Executors
from .executors.local import LoopStream, start_task
from .executors.pool.frames import Program
from .executors.pool.pool import Pool
from .executors.streams import Chunks
from .handling import (
    answer,
    answer_async,
    ask_first,
    body_is_there,
    error_response,
    join_triggers,
    receive_body,
    run_after,
    seal,
    seal_failure,
    sort_unmatched,
)
from .protocol.multipart import FormLimits
from .requests import ROOT_PATH, Request
from .responses import Refusal, Response, StaticFile
from .routing import Pattern
from .sessions import Session, SessionHome, Sessions, check_sessions
from .staticfiles import resolve_file
from .text import json_default_hook


def run_job(env: Request) -> Response:
    """Do a job of `app.submit`, in a worker."""
    done: Response = companion("jobs", "app.submit()").run_order(env)
    return done


async def _call_all(functions: Iterable[Callable[[], Any]]) -> None:
    for function in functions:
        result = function()
        if inspect.isawaitable(result):
            await result


class Sharing(Declarations):
    """The state that all processes share, as an application uses it.

    Attributes:
        state_place: where it lies, while the server runs.
    """

    state_place: Optional[Tuple[Any, ...]] = None  # set by run()
    _above: Optional[Tuple[Application, str]] = None  # where it is mounted
    _sessions: Optional[Sessions] = None
    _state: Any = None

    @property
    def state(self) -> Any:
        """State that all processes share, a `State`; docs/state.md.

        It may be taken at any time, and used while the server runs: in handlers,
        triggers and hooks. Mounted applications share that of the one above them.

        Raises:
            MissingExtra: this is the single file; the state is in the package.
        """
        if self._above is not None:
            return self._above[0].state
        if self._state is None:
            self._state = companion("state", "app.state").State(place=self._find_state)
        return self._state

    @property
    def sessions(self) -> Optional[Sessions]:
        """How `env.session` is kept; None: as the application above, or by default.

        An application that is mounted, and has neither this nor secrets of its own,
        shares the sessions of the one above it.

        Raises:
            PixieError: set to what can't be.
        """
        return self._sessions

    @sessions.setter
    def sessions(self, given: Union[str, Sessions, None]) -> None:
        self._sessions = None if given is None else check_sessions(given)

    def session_home(self) -> SessionHome:
        """Return where the sessions of this application are at home."""
        if self._above is not None and self._sessions is None:
            above = self._above[0]
            if self.secrets in (UNSET, above.secrets):
                return above.session_home()
        options = self._sessions or Sessions()
        path = self._mounted_at()
        return SessionHome(options, self.secrets, path, lambda: self.state)

    def _mounted_at(self) -> str:
        if self._above is None:
            return ""
        above, prefix = self._above
        return above._mounted_at() + Pattern(prefix, {}).build()

    def _find_state(self) -> Tuple[Any, ...]:
        if self.state_place is None:
            raise PixieError(
                "app.state has no file yet: use it in handlers and hooks, while the "
                "server runs; state= or TMPDIR says where it lies; another program "
                "opens the same file by pixie_web.state.State(path)"
            )
        return self.state_place

    def state_summary(self) -> Any:
        """Return the part of `Application.stats` that is about it, or None."""
        return None if self.state_place is None else self.state.summary()


class Working(Sharing):
    """The jobs of an application: functions that workers run, beside routes.

    Attributes:
        job_route: what stands for all of them in the table of routes.
        job_pool: where they run; None: nobody has said, so where routes run.
        job_place: the pools, the loop, and whether they have workers; while it serves.
    """

    job_route: Route
    job_pool: Optional[str] = None
    job_place: Optional[Tuple[Mapping[str, Pool], Any, bool]] = None
    _jobs: Any = None

    def _working(self) -> Any:
        if self._above is not None:
            return self._above[0]._working()
        if self._jobs is None:
            self._jobs = companion("jobs", "app.submit()").Jobs(self)
        return self._jobs

    def jobs(self, **options: Any) -> None:
        """Declare how jobs are run, where the defaults will not do; docs/jobs.md.

        Args:
            options: workers (of their own; else half of those of the routes), pool,
                timeout, limit, max_waiting, keep_seconds; with workers those of
                `pool()` too.

        Raises:
            RouteError: what can't be.
        """
        self.check_open("jobs")
        self._working().declare(options)

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: Optional[float] = None,
    ) -> str:
        """Let a worker call a function, also after the end of this request.

        Args:
            function: a plain `def` at the top level of a module.
            args: what JSON can say, or bytes; 1 MiB together.
            timeout: seconds that it may run; 30 if `jobs()` does not say otherwise.

        Returns:
            the job's id, for `job` and `cancel`. It can't be guessed.

        Raises:
            PixieError: a worker would not find the function, or nothing serves.
            TypeError, ValueError: an argument can't travel.
            HTTPError: 503, too many jobs wait.
        """
        job_id: str = self._working().submit(function, args, timeout)
        return job_id

    async def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: Optional[float] = None,
    ) -> Any:
        """Have a worker call a function, and return its result; in `asnc` routes.

        Arguments and errors are those of `submit`. Who waits is cancelled: so is the
        function, by RequestTimeout.

        Raises:
            JobError: what the function has raised; 500, if nobody catches it.
            HTTPError: 503, 504 or 502, as of a pool route.
        """
        return await self._working().call(function, args, timeout)

    def job(self, id: str) -> Any:
        """Return what became of a job, a `JobInfo`; None: that is not known any more.

        Its attributes: state, progress, result, error, function, submitted, started,
        ended. The state is "waiting", "running", "done", "failed", "cancelled", "lost".
        """
        return self._working().job(id)

    def cancel(self, id: str) -> bool:
        """Have a job stopped; return whether it had not ended yet.

        One that runs gets RequestTimeout, so that `finally` runs, and is killed if it
        goes on.
        """
        is_asked: bool = self._working().cancel(id)
        return is_asked

    def begin_jobs(self, pools: Mapping[str, Pool], has_workers: bool) -> None:
        """Let jobs be run by these pools, from the loop that runs."""
        self.job_place = pools, asyncio.get_running_loop(), has_workers
        for pool in pools.values():
            pool.take_order = self._take_order

    def _take_order(self, payload: bytes) -> None:
        self._working().take(payload)

    def hurry_jobs(self) -> None:
        """Have `end_jobs`, also one under way, wait for none of them."""
        if self._jobs is not None:
            self._jobs.hurry()

    async def end_jobs(self, seconds: float) -> None:
        """Wait for those that run, and give up the others."""
        self.job_place = None
        if self._jobs is not None:
            await self._jobs.end(seconds)

    def place_jobs(self, below: Sequence[Working], pools: Mapping[str, Any]) -> Route:
        """Return the route that stands for all jobs, at its place in the table.

        Args:
            below: the applications that are mounted.
            pools: those that are declared.

        Raises:
            RouteError: `jobs` was called in vain.
        """
        if any(one.job_pool is not None for one in below):
            raise RouteError(
                "app.jobs() is for the application that is run; one that is mounted "
                "below it shares its jobs"
            )
        name = self.job_pool or ""
        if name and name not in pools:
            raise RouteError(
                f"app.jobs(): there is no pool {name!r}; declare it: app.pool({name!r},"
                " workers=1), or write app.jobs(workers=1)"
            )
        route = Route("app.submit()", ("POST",), run_job, RouteType.pool)
        route.app, route.pool = self, name
        route.pattern = Pattern("/job", {})
        self.job_route = route
        return route


class Application(Working):
    """The parts of `Pixie` that do not serve: mounts, urls, and `handle`."""

    form_limits: FormLimits  # set by run(); the defaults without it
    root_path = ""  # the same

    def __init__(
        self,
        import_name: Optional[str] = None,
        *,
        secrets: MaybeSecrets = UNSET,
        sessions: Union[str, Sessions, None] = None,
        json: Any = None,
    ) -> None:
        super().__init__(secrets)
        self.sessions = sessions
        if json is not None:
            self.json = json
        self.import_name = import_name
        self.debug = False
        self.imported_from = ""  # the module that the command line named
        self.executors = Executors(answer, answer_async)
        self._mounts: List[Tuple[str, Application]] = []

    def mount(self, prefix: str, application: Application) -> None:
        """Let another application answer for all paths below `prefix`.

        Its handlers see the path without the prefix, which is `env.prefix`.
        """
        prefix = prefix.rstrip("/")
        if not prefix.startswith("/") or "<" in prefix:
            raise RouteError(
                f'a mount needs a path such as "/admin" and not "/", got {prefix!r}'
            )
        if not isinstance(application, Application):
            raise RouteError(f"mount takes an application, got {application!r}")
        self.check_open(prefix)
        if prefix in dict(self._mounts):
            raise RouteError(f"{prefix} is mounted already: take another path")
        if self in application.family() or application in self.family():
            raise RouteError(
                f"{prefix}: an application is mounted once only, and not below itself"
            )
        application._above = self, prefix
        self._mounts.append((prefix, application))
        self._mounts.sort(key=lambda mount: -len(mount[0]))

    def family(self) -> List[Application]:
        """Return this application and all that are mounted below it."""
        below = [one for _, mounted in self._mounts for one in mounted.family()]
        return [self, *below]

    @property
    def routes(self) -> Tuple[Route, ...]:
        """All routes, in order of declaration, those of mounted applications last."""
        return tuple(route for one in self.family() for route in one.own_routes)

    def placed_routes(self, prefix: str = "") -> Iterator[Tuple[str, Route]]:
        """Iterate over all routes, each after its path with the mounts' prefixes."""
        for route in self.own_routes:
            yield prefix + route.path, route
        for mount, application in self._mounts:
            yield from application.placed_routes(prefix + mount)

    def stats(self) -> Dict[str, Any]:
        """Return the numbers of this server, now and since its start: docs/status.md.

        Raises:
            PixieError: called in a worker; the numbers are in main.
        """
        if proc_env.proc_type is ProcessType.pool:
            raise PixieError("app.stats() is for the main process: use a sync route")
        routes = [
            {
                "path": path,
                "methods": list(route.methods),
                "placement": route.placement.name,
                **route.counts.stats(),
            }
            for path, route in self.placed_routes()
        ]
        counted = {**self.executors.stats(), "state": self.state_summary()}
        return {"version": __version__, **counted, "routes": routes}

    def status(self, path: str = "/status", **options: Any) -> None:
        """Serve the numbers of `stats`: on a live page, as JSON, and to Prometheus.

        Args:
            path: of the page; the others are `path`.json and `path`/metrics.
            options: as for `route`; `before=[trigger]` keeps strangers out.

        Raises:
            MissingExtra: this is the single file; the page is in the package.
        """
        companion("status", "app.status()").mount(self, path, options)

    def url_for(self, name: str, /, **args: Any) -> str:
        """Return the path of the route with this name, as clients have to ask for it.

        The prefix of its mount stands in front, and before that the path that a proxy
        takes off: `root_path=` of run(), or X-Forwarded-Prefix of this request.

        Raises:
            RouteError: no route has this name, or the arguments do not fit.
            ValueError: a value does not fit its wildcard.
        """
        root = ROOT_PATH.get() or self.root_path
        return root + self._mounted_at() + self._path_of(name, args)

    def _path_of(self, name: str, args: Mapping[str, Any]) -> str:
        for route in self.own_routes:
            if route.name == name:
                return route.pattern.build(**args)
        for prefix, mounted in self._mounts:
            if any(route.name == name for route in mounted.routes):
                return Pattern(prefix, {}).build() + mounted._path_of(name, args)
        raise RouteError(f"no route is named {name!r} here or in a mount")

    # Serving.

    def named_pools(self) -> Dict[str, Dict[str, Any]]:
        """Return the options of each pool that `pool` declared, here or below."""
        return {k: v for app in self.family() for k, v in app.pools.items()}

    def freeze(self) -> Program:
        """Fix the routes, and return what the workers need to know.

        Raises:
            RouteError: a route, or app.jobs(), names a pool that nobody has declared.
        """
        applications = self.family()
        pools = self.named_pools()
        for route in self.routes:
            if route.pool and route.pool not in pools:
                raise RouteError(
                    f"{route.path}: there is no pool {route.pool!r}; declare it: "
                    f"app.pool({route.pool!r}, workers=1)"
                )
        for application in applications:
            application.frozen = True
            application.executors = self.executors
            application.router.freeze()
            for _, mounted in application._mounts:
                if mounted.secrets is UNSET:
                    mounted.secrets = application.secrets
                mounted._json_default = (
                    mounted._json_default or application._json_default
                )
        for route in self.routes:
            route.triggers = join_triggers(route)
            route.waits_first = bool(route.triggers[1])
        routes = (*self.routes, self.place_jobs(applications[1:], pools))
        for index, route in enumerate(routes):
            route.index = index
        self.executors.place(routes)
        starts = [f for app in applications for f in app.worker_start_hooks]
        stops = [f for app in applications for f in app.worker_stop_hooks]
        own = {k: f for app in applications for k, f in app.pool_starts.items()}
        return Program(routes, answer, starts, stops, own)

    async def start(self) -> None:
        """Run what `on_start` declared."""
        for application in self.family():
            await _call_all(application.start_hooks)

    async def stop(self) -> None:
        """Run what `on_stop` declared."""
        for application in self.family():
            await _call_all(application.stop_hooks)

    async def handle(self, request: Request) -> Response:
        """Answer a request whose head is complete; the one way in.

        Returns:
            a response whose body is bytes, a FileSlice, or an async iterator that is to
            be closed by `aclose`; not pulling it holds its handler back.

        Raises:
            ClientDisconnected, ProtocolError: the body did not arrive; no answer is
                owed, or the one that the error says.
        """
        outcome = self.begin(request)
        return outcome if isinstance(outcome, Response) else await outcome

    def own_begin(self) -> Optional[Callable[[Request, Any], Outcome]]:
        """Return `begin`, or None where a subclass has a `handle` of its own."""
        is_own = getattr(self.handle, "__func__", None) is Application.handle
        return self.begin if is_own else None

    def begin(self, request: Request, known: Any = None) -> Outcome:
        """Do of `handle` all that waits for nothing.

        Args:
            known: the `known` of an earlier request with the very same head, or None.

        Returns:
            the response, or what to wait for until it is there.

        Raises:
            ClientDisconnected, ProtocolError: as `handle`, which a wait raises too.
        """
        if not self.frozen:
            self.freeze()
        root_path = request.root_path = request.root_path or self.root_path
        if root_path != ROOT_PATH.get():  # of the last request here
            ROOT_PATH.set(root_path)
        owner: Application
        owner, prefix, match = known or (self._owner(request), request.prefix, None)
        request.app = owner
        if json_default_hook.get() is not owner._json_default:
            json_default_hook.set(owner._json_default)
        if match is None:
            try:
                match = owner.router.match(request.method, request.path)
            except BaseException as error:  # HTTPError, or a filter's own
                return owner._unmatched(request, error)
            if match.is_fixed:
                request.known = owner, prefix, match
        elif prefix:
            request.prefix = prefix
        route = request.route = match.target
        if match.args:
            request.params = dict(match.args)
        has_body = request.source is not None
        if route.waits_first or (has_body and not body_is_there(route, request)):
            return owner._respond(route, request)
        return owner._run(route, request)

    def _run(self, route: Route, request: Request) -> Outcome:
        """Answer where no body is awaited, nor a trigger ahead of the handler."""
        try:
            outcome = self.executors.begin(route, request)
        except (ClientDisconnected, ProtocolError):
            raise
        except Exception as error:
            # In no variable of this function: the traceback names it, and a circle is
            # left to the garbage collector.
            return self._respond(route, request, error)
        # PERF: most answers are bytes, sealed where the handler ran: no coroutine for
        # these; 3 of 18 us.
        is_there = isinstance(outcome, Response) and outcome.is_final
        if is_there and not route.triggers[3]:
            return outcome
        return self._respond(route, request, outcome)

    def _owner(self, request: Request) -> Application:
        """Return the application that answers for the path; it may be a mounted one."""
        if not self._mounts:
            return self
        path = request.head.path[len(request.prefix) :]
        for prefix, application in self._mounts:
            if path == prefix or path.startswith(f"{prefix}/"):
                request.prefix += prefix
                return application._owner(request)
        return self

    async def _respond(
        self,
        route: Route,
        request: Request,
        outcome: Union[Outcome, Exception, None] = None,
    ) -> Response:
        """Answer, from where `begin` has left it.

        Args:
            outcome: of the handler; None: it has not begun.
        """
        _, before, after, after_async = route.triggers
        response = None
        try:
            if before and outcome is None:
                response = await self._ask_first(before, request)
            if response is None:
                if outcome is None:
                    route.executor.check_room(route)
                    if request.source is not None:
                        await receive_body(route, request, request.source)
                    outcome = self.executors.begin(route, request)
                elif isinstance(outcome, Exception):
                    raise outcome
                response = outcome if isinstance(outcome, Response) else await outcome
                after = ()  # they have run where the handler has
                if after_async and request.held_session is None:
                    request.held_session = False
        except (ClientDisconnected, ProtocolError):
            raise
        except Exception as error:
            outcome = None  # no circle with the traceback
            response = error_response(self, request, error)
            if isinstance(response, Refusal) and not (before or after or after_async):
                response.again = route.executor.refusals(route)
        # Here only a before trigger can have asked for the session. PERF: isinstance of
        # what is a MutableMapping is three calls.
        has_session = before and type(request.held_session) is Session
        if after or after_async or has_session or not response.is_sealed:
            response = await self._finish(request, response, after, after_async)
        return self._resolve(request, response)

    def _resolve(self, request: Request, response: Response) -> Response:
        """Return the response, with the file that it names found."""
        if isinstance(response.body, StaticFile):
            try:
                return resolve_file(request.method, deciding_headers(request), response)
            except HTTPError as error:
                return seal_failure(self, request, response, error)
        return response

    async def _unmatched(self, request: Request, error: BaseException) -> Response:
        """Answer where no route matched; the application's triggers run as ever."""
        headers = error.headers if isinstance(error, HTTPError) else {}
        before, before_async, after, after_async = sort_unmatched(self, request)
        response = await self._ask_first(before_async, request)
        if response is None:
            response = await ask_first(self, before, request)
        if response is None:
            of_server = request.head.path == "*"  # RFC 9110 section 9.3.7
            if request.method == "OPTIONS" and (of_server or "Allow" in headers):
                response = Response(None, 204, headers=headers).settle()
            else:
                response = error_response(self, request, error)
        response = await self._finish(request, response, after, after_async)
        return self._resolve(request, response)

    async def _ask_first(
        self, triggers: Sequence[Handler], request: Request
    ) -> Optional[Response]:
        """Return what the first `async def` trigger that answers made, or None."""
        if not triggers:
            return None
        loop = asyncio.get_running_loop()
        return await start_task(loop, ask_first(self, triggers, request, True))

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
            response = await run_after(self, after, request, response)
        if after_async:
            loop = asyncio.get_running_loop()
            coroutine = run_after(self, after_async, request, response, True)
            response = await start_task(loop, coroutine)
        response = seal(self, request, response)
        # Has a trigger put something in the stream's place? It may read Chunks.
        replaced = response.body is not body and not isinstance(body, Chunks)
        if replaced and hasattr(body, "aclose"):
            await body.aclose()
        if isinstance(response.body, Chunks):
            response.body = LoopStream(response.body, copy_context())
        return response
