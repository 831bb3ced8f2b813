"""The way of a request through triggers and handler, in any process."""

from __future__ import annotations

import asyncio
from typing import Any, List, Optional, Sequence, Tuple, cast

from .about import log
from .conditional import prefers_json
from .declaring import Declarations, Triggers, has_two_halves
from .errors import (
    AnswerLost,
    ClientDisconnected,
    HTTPError,
    MissingExtra,
    companion,
    ends_worker,
    fold,
)
from .executors.base import BusyError, Handler, Route
from .executors.streams import Chunks, run_to_end
from .requests import BodySource, Request, log_failure, off_the_loop
from .responses import (
    AnyBody,
    Response,
    error_page,
    is_stream,
    open_stream,
    to_response,
)

SPOOL_BODY_BYTES = 256 * 1024  # larger bodies go to a file; waitress 512 KiB

PIECE_BYTES = 4096  # of a body in memory: smaller pieces are joined
PIECE_COST_BYTES = 64  # of memory, for each: an object, its place in a list, rounding

_ENDS_OF_TASKS = asyncio.CancelledError, GeneratorExit, ClientDisconnected


def join_triggers(route: Route) -> Tuple[Sequence[Handler], ...]:
    """Return a route's triggers with its application's: outside in, then inside out."""
    of_app: Triggers = route.app.triggers
    return of_app.sorted(Triggers(route.before, route.after))


def sort_unmatched(
    application: Declarations, request: Request
) -> Tuple[Sequence[Handler], ...]:
    """Return the triggers, sorted, of a request that no route answers.

    Before a page's request the browser asks by OPTIONS whether it may send it, and
    tells its method (WHATWG Fetch 4.8): a route of that method has a say.
    """
    own = Triggers()
    method = request.header("access-control-request-method")
    if request.method == "OPTIONS" and method is not None:
        try:
            route = application.router.match(method, request.path).target
            own = Triggers(filter(has_two_halves, route.before))
        except Exception:
            pass  # HTTPError, or a filter's own: it will be the answer to that request
    return application.triggers.sorted(own)


async def _spool(request: Request, pieces: List[bytes]) -> None:
    try:
        await off_the_loop(request.spool, pieces)
    except OSError as error:
        log.error("there is no room for the body of %r: %s", request, error.strerror)
        raise HTTPError(507, "There is no room for the body at the moment.") from None


async def read_body(request: Request) -> None:
    """Pull a request's body: into memory, or into a file.

    A file gets what is larger than SPOOL_BODY_BYTES; and from its first byte that for
    which there is no room in the memory of all bodies.

    Raises:
        HTTPError: 413 when it is over the limit, 507 when the disk is full.
    """
    source = cast(BodySource, request.source)
    pieces: List[bytes] = []
    size = 0
    while True:
        chunk = await source.pull()
        if not chunk:
            break
        size += len(chunk)
        # SECURITY: small ones are joined as they come. Kept as they are, pieces of two
        # bytes take 17 times what they hold.
        if pieces and len(chunk) < PIECE_BYTES > len(pieces[-1]):
            chunk = pieces.pop() + chunk
        pieces.append(chunk)
        fits = source.hold(size + PIECE_COST_BYTES * len(pieces))
        if size > SPOOL_BODY_BYTES or not fits:
            await _spool(request, pieces)
            pieces, size = [], 0
            source.hold(0)
    if request.body_file is None:
        request.body = b"".join(pieces)
    elif pieces:
        await _spool(request, pieces)
        source.hold(0)


def body_is_there(route: Route, request: Request) -> bool:
    """Return whether a request's body is there; take it, if it has come with its head.

    PERF: no coroutine for a small one; 20 of 35 us.
    """
    source = request.source
    if source is None:
        return True
    if route.stream_body:
        return False
    most = source.max_body_bytes
    if route.max_body_bytes is not None:
        most = route.max_body_bytes
    if not 0 < (source.content_length or 0) <= min(most, SPOOL_BODY_BYTES):
        return False
    whole = source.take_whole()
    if whole is None:
        return False
    request.body = whole
    return True


async def receive_body(route: Route, request: Request, source: BodySource) -> None:
    """Refuse a body that is too long, and read it, unless the handler will."""
    if route.max_body_bytes is not None:
        source.max_body_bytes = route.max_body_bytes
    source.check(source.content_length or 0)
    if not route.stream_body:
        await read_body(request)


async def prime(response: Response, may_wait: bool = False) -> Response:
    """Run a stream to its first `yield`, which may be a Response for the head.

    Args:
        may_wait: it may be an async iterator.
    """
    iterator: Any = response.body
    if isinstance(iterator, Chunks):
        return response  # the same response once more, from a trigger
    if hasattr(iterator, "__next__"):
        value = next(iterator, None)
    elif may_wait:
        try:
            value = await iterator.__anext__()
        except StopAsyncIteration:
            value = None
    else:
        raise TypeError("an async iterator needs an async def, and RouteType.asnc")
    response, first = open_stream(response, value)
    response.body = Chunks(first, iterator)
    return response


def finish(value: object) -> Response:
    """Return a handler's result as a Response, a stream run to its first `yield`."""
    response = to_response(value)
    return run_to_end(prime(response)) if is_stream(response.body) else response


def handle_error(handler: Handler, request: Request, error: BaseException) -> Response:
    """Return what an error handler makes of an error; it may abort() or redirect()."""
    try:
        response = finish(handler(request, error)).own()
    except HTTPError as other:
        return error_page(other, "", prefers_json(request))
    if response.status == 200:
        response.status = error.status if isinstance(error, HTTPError) else 500
    if isinstance(error, HTTPError):
        for name, value in error.headers.items():  # Allow, Retry-After, Location ...
            response.headers.setdefault(name, value)
    return response


def trace(error: BaseException) -> str:
    """Return an error's traceback as text."""
    import traceback

    fold(error)
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def _find_error_handler(
    application: Declarations, request: Request, error: BaseException
) -> Optional[Handler]:
    """Return the handler, or None; logs what is declared by no class of its own.

    An HTTPError is an answer: no handler of a class above it, such as Exception,
    makes a failure of it.
    """
    for kind in type(error).__mro__:
        if kind in application.error_handlers:
            return application.error_handlers[kind]
        if isinstance(error, HTTPError) and kind is HTTPError:
            return application.status_handlers.get(error.status)
    log_failure(request, error)
    return application.status_handlers.get(500)


def debug_page(
    request: Request, error: BaseException, may_tell_values: bool = True
) -> Response:
    """Return a page that tells where an error comes from; it never raises.

    It is the companion's; the single file, and any failure of that, has the traceback
    alone.
    """
    as_json = prefers_json(request)
    try:
        tools = companion("devtools", "the debug page")
        if isinstance(error, AnswerLost):
            return cast(Response, tools.answer_loss(request, error, as_json))
        page = tools.answer_failure(request, error, may_tell_values, as_json)
        return cast(Response, page)
    except BaseException as failure:
        if ends_worker(failure):
            raise
        if not isinstance(failure, MissingExtra):
            log.error("there is no debug page", exc_info=failure)
        if isinstance(error, AnswerLost):
            return error_page(error, error.trace, as_json)
        return error_page(HTTPError(500), trace(error), as_json)


def error_response(
    application: Declarations, request: Request, error: BaseException
) -> Response:
    """Return the answer to an error: what an error handler makes of it, or a page.

    What no handler has declared is logged with its traceback; the client sees that
    with `debug` only.
    """
    handler = _find_error_handler(application, request, error)
    try:
        if handler is not None:
            response = handle_error(handler, request, error)
        elif isinstance(error, BusyError):
            return error.page(prefers_json(request))
        elif isinstance(error, AnswerLost) and error.trace:  # with `debug` only
            response = debug_page(request, error)
        elif isinstance(error, HTTPError):
            response = error_page(error, "", prefers_json(request))
        elif request.debug:
            response = debug_page(request, error)
        else:
            response = error_page(HTTPError(500), "", prefers_json(request))
        # Refuses here what can't be sent later.
        response.header_block(secrets=application.secrets)
    except BaseException as failure:
        if ends_worker(failure):
            raise
        log_failure(request, failure)
        return error_page(HTTPError(500), "", prefers_json(request))
    return response


def failure(
    application: Declarations, request: Request, error: BaseException
) -> Response:
    """Return the answer to what a handler or trigger raised.

    Raises:
        RequestTimeout: main has sent an answer when it has a worker raise this.
    """
    if ends_worker(error):
        raise error
    request.fatal = request.fatal or not isinstance(error, Exception)
    return error_response(application, request, error)


def is_cut_off(request: Request, error: BaseException) -> bool:
    """Return whether an error is the end of a trigger's Task, and not its own doing.

    While its client is there, nobody but the program itself cancels it.
    """
    return isinstance(error, asyncio.CancelledError) and request.disconnected


async def ask_first(
    application: Declarations,
    triggers: Sequence[Handler],
    request: Request,
    waits: bool = False,
) -> Optional[Response]:
    """Return what the first before trigger that answers made, or None.

    Args:
        waits: the triggers are `async def`, else none of them is.
    """
    try:
        for trigger in triggers:
            value = trigger(request)
            if waits:
                value = await value
            if value is not None:
                return finish(value)
    except BaseException as error:
        if waits and is_cut_off(request, error):
            raise
        return failure(application, request, error)
    return None


def follow(response: Response, body: AnyBody, value: object) -> Response:
    """Return the response after a trigger that was given it and has returned `value`.

    Args:
        body: the response's own before; what the trigger put in its place is settled.
    """
    value = response if value is None else value
    if value is response and response.body is body:
        return response
    return finish(value).own()


async def run_after(
    application: Declarations,
    triggers: Sequence[Handler],
    request: Request,
    response: Response,
    waits: bool = False,
) -> Response:
    """Run after triggers, each on what the one before made of the response.

    Args:
        waits: as `ask_first` takes it.
    """
    response = response.own()
    for trigger in triggers:
        body = response.body
        try:
            value = trigger(request, response)
            response = follow(response, body, await value if waits else value)
        except BaseException as error:
            if waits and is_cut_off(request, error):
                raise
            response = failure(application, request, error)
        if isinstance(body, Chunks) and not is_stream(response.body):
            # Who yields its Response holds itself: it would wait for the collector.
            await body.aclose()
    return response


def seal_failure(
    application: Declarations,
    request: Request,
    response: Response,
    error: BaseException,
) -> Response:
    """Return what an error makes of a response that triggers have finished."""
    failed = failure(application, request, error)
    failed.copy_access(response)
    return failed.seal(request.scheme == "https", application.secrets)


def keep_session(
    application: Declarations, request: Request, response: Response
) -> Response:
    """Save the session, which can't change from now on; return what is to be sent."""
    response = response.own()
    try:
        # What can't be sent is refused here: nothing is saved with a 500, nor is an id
        # ended whose successor the client does not get.
        response.header_block(secrets=application.secrets)
        request.session.keep(response, request.root_path)
    except BaseException as error:
        failed = failure(application, request, error)
        failed.copy_access(response)
        return failed
    return response


def seal(application: Declarations, request: Request, response: Response) -> Response:
    """Return the response with its header block rendered, or an error's answer.

    The session is saved first, if anybody has asked for it.
    """
    if request.held_session is None:
        request.held_session = False
    elif request.held_session is not False:
        response = keep_session(application, request, response)
    try:
        return response.seal(request.scheme == "https", application.secrets)
    except BaseException as error:
        return seal_failure(application, request, response, error)


async def answer_async(route: Route, request: Request) -> Response:
    """Run triggers, handler and error handlers: of an `asnc` route, in its Task.

    Returns a response whose body is bytes, a StaticFile, or Chunks. RequestTimeout
    leaves it, and what ends the Task of an `asnc` route; a handler's `sys.exit()` is a
    500, and `request.fatal` tells a worker to end.
    """
    before, _, after, _ = route.triggers
    request.app = route.app
    response = await ask_first(route.app, before, request) if before else None
    if response is None:
        try:
            value = route.handler(request, **request.params)
            if route.kind == "async def":
                value = await value
            response = to_response(value)
            if type(response.body) is not bytes and is_stream(response.body):
                response = await prime(response, "async" in route.kind)
        except BaseException as error:
            if "async" in route.kind and isinstance(error, _ENDS_OF_TASKS):
                raise
            response = failure(route.app, request, error)
    if after:
        response = await run_after(route.app, after, request, response)
    if response.is_sealed and request.held_session is None:
        return response
    return seal(route.app, request, response)


def answer(route: Route, request: Request) -> Response:
    """The same for other routes; in a worker, a thread or on the loop.

    Their handlers and `def` triggers are called and not awaited, and a stream that is
    no plain iterator is refused: so there is nothing that could wait.
    """
    return run_to_end(answer_async(route, request))
