"""A request's way through triggers and handler, in any process."""

from __future__ import annotations

import asyncio
from typing import (
    Any,
    AsyncIterator,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    cast,
)

from .about import log
from .declaring import Declarations, Triggers
from .errors import ClientDisconnected, HTTPError, ends_worker
from .executors.base import BusyError, Handler, Route
from .executors.streams import AsyncChunks, Chunks
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


def join_triggers(route: Route) -> Tuple[Sequence[Handler], ...]:
    """Return a route's triggers with its application's: outside in, then inside out."""
    joined = Triggers()
    joined.before = [*route.app.triggers.before, *route.before]
    joined.after = [*route.after, *route.app.triggers.after]
    return joined.sorted()


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


def prime(response: Response) -> Response:
    """Run a stream to its first `yield`, which may be a Response for the head."""
    if isinstance(response.body, (Chunks, AsyncChunks)):
        return response  # the same response once more, from a trigger
    if not hasattr(response.body, "__next__"):
        raise TypeError("an async iterator needs an async def, and RouteType.asnc")
    iterator = cast("Iterator[Any]", response.body)
    response, first = open_stream(response, next(iterator, None))
    response.body = cast("Iterator[Any]", Chunks(first, iterator))
    return response


def finish(value: object) -> Response:
    """Return a handler's result as a Response, a stream run to its first `yield`."""
    response = to_response(value)
    return prime(response) if is_stream(response.body) else response


def handle_error(handler: Handler, request: Request, error: BaseException) -> Response:
    """Return what an error handler makes of an error; it may abort() or redirect()."""
    try:
        response = finish(handler(request, error))
    except HTTPError as other:
        return error_page(other)
    if response.status == 200:
        response.status = error.status if isinstance(error, HTTPError) else 500
    if isinstance(error, HTTPError):
        for name, value in error.headers.items():  # Allow, Retry-After, Location ...
            response.headers.setdefault(name, value)
    return response


def trace(error: BaseException) -> str:
    """Return an error's traceback as text."""
    import traceback

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
            return error.page()
        elif isinstance(error, HTTPError):
            response = error_page(error)
        else:
            text = trace(error) if request.debug else ""
            response = error_page(HTTPError(500), text)
        # Refuses here what can't be sent later.
        response.header_block(secrets=application.secrets)
    except BaseException as failure:
        if ends_worker(failure):
            raise
        log_failure(request, failure)
        return error_page(HTTPError(500))
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


def ask_first(
    application: Declarations, triggers: Sequence[Handler], request: Request
) -> Optional[Response]:
    """Return what the first before trigger that answers made, or None."""
    try:
        for trigger in triggers:
            value = trigger(request)
            if value is not None:
                return finish(value)
    except BaseException as error:
        return failure(application, request, error)
    return None


async def ask_first_async(
    application: Declarations, triggers: Sequence[Handler], request: Request
) -> Optional[Response]:
    """The same for `async def` triggers."""
    try:
        for trigger in triggers:
            value = await trigger(request)
            if value is not None:
                return finish(value)
    except BaseException as error:
        if is_cut_off(request, error):
            raise
        return failure(application, request, error)
    return None


def follow(response: Response, body: AnyBody, value: object) -> Response:
    """Return the response after a trigger that was given it and has returned `value`.

    Args:
        body: the response's own before; what the trigger put in its place is settled.
    """
    value = response if value is None else value
    if isinstance(value, Response) and value.body is body:
        return value
    return finish(value)


def run_after(
    application: Declarations,
    triggers: Sequence[Handler],
    request: Request,
    response: Response,
) -> Response:
    """Run after triggers, each on what the one before made of the response."""
    for trigger in triggers:
        body = response.body
        try:
            response = follow(response, body, trigger(request, response))
        except BaseException as error:
            response = failure(application, request, error)
        if isinstance(body, Chunks) and not is_stream(response.body):
            # Who yields its Response holds itself: it would wait for the collector.
            body.close()
    return response


async def run_after_async(
    application: Declarations,
    triggers: Sequence[Handler],
    request: Request,
    response: Response,
) -> Response:
    """The same for `async def` triggers."""
    for trigger in triggers:
        try:
            body = response.body
            response = follow(response, body, await trigger(request, response))
        except BaseException as error:
            if is_cut_off(request, error):
                raise
            response = failure(application, request, error)
    return response


def seal(application: Declarations, request: Request, response: Response) -> Response:
    """Return the response with its header block rendered, or an error's answer."""
    secure = request.scheme == "https"
    try:
        return response.seal(secure, application.secrets)
    except BaseException as error:
        failed = failure(application, request, error)
        return failed.seal(secure, application.secrets)


def answer(route: Route, request: Request) -> Response:
    """Run triggers, handler and error handlers; in a worker, a thread or on the loop.

    Returns a response whose body is bytes, a StaticFile, or Chunks. Only RequestTimeout
    leaves it: a handler's `sys.exit()` is a 500, and `request.fatal` tells a worker to
        end.
    """
    before, _, after, _ = route.triggers
    request.app = route.app
    response = ask_first(route.app, before, request) if before else None
    if response is None:
        try:
            response = finish(route.handler(request, **request.params))
        except BaseException as error:
            response = failure(route.app, request, error)
    if after:
        response = run_after(route.app, after, request, response)
    return seal(route.app, request, response)


async def _as_async(iterator: Iterator[Any]) -> AsyncIterator[Any]:
    try:
        for chunk in iterator:
            yield chunk
            await asyncio.sleep(0)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


async def prime_async(response: Response) -> Response:
    """The same for an async iterator; a plain one is taken as well."""
    iterator: Any = response.body
    if not hasattr(iterator, "__anext__"):
        iterator = _as_async(iterator)
    try:
        value = await iterator.__anext__()
    except StopAsyncIteration:
        value = None
    response, first = open_stream(response, value)
    response.body = cast("AsyncIterator[Any]", AsyncChunks(first, iterator))
    return response


async def answer_async(route: Route, request: Request) -> Response:
    """The same for `asnc` routes, in the request's Task, with AsyncChunks."""
    before, _, after, _ = route.triggers
    response = ask_first(route.app, before, request) if before else None
    if response is None:
        try:
            value = route.handler(request, **request.params)
            if route.kind == "async def":
                value = await value
            response = to_response(value)
            if is_stream(response.body):
                response = await prime_async(response)
        except (asyncio.CancelledError, GeneratorExit, ClientDisconnected):
            raise
        except BaseException as error:
            response = failure(route.app, request, error)
    body = response.body
    if after:
        response = run_after(route.app, after, request, response)
    if isinstance(body, AsyncChunks) and not is_stream(response.body):
        await body.aclose()
    response = seal(route.app, request, response)
    if isinstance(response.body, Chunks):
        response.body = AsyncChunks(b"", _as_async(response.body))
    return response
