"""Tools for executors: run coroutines to their end, and read streams in pieces."""

from __future__ import annotations

import asyncio
from typing import Any, Awaitable, Callable, Coroutine

from ..about import log
from ..datastructures import T
from ..errors import PixieError, ends_worker
from ..requests import Request
from ..responses import Response, to_chunk
from .base import Route

Answer = Callable[[Route, Request], Response]
AsyncAnswer = Callable[[Route, Request], Awaitable[Response]]


class HandlerLeft(PixieError):
    """A handler left its stream by what is no Exception: sys.exit(), a cancellation.

    As such it would pass for something else on its way through the event loop.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"the handler left by {error!r}")
        self.__cause__ = error


def run_to_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that never waits; no loop is needed.

    So one form of it serves handlers that may wait and those that can't. It awaits
    nothing but coroutines, down to the last: none of them has a future to wait for.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError(f"{coroutine} waits, where only plain code can run")


class Chunks:
    """A stream's pieces as bytes: the first one, which is here, and then the others.

    Whoever primes a stream (runs it to its first `yield`) hands it on in this form. It
    is used by `for` and `close` where there is no loop, and then never `waits`.

    Attributes:
        first: what is still to be given ahead of the others, or b"".
        rest: the iterator or async iterator of the others.
        waits: it is an async one.
    """

    def __init__(self, first: bytes, rest: Any) -> None:
        self.first = first
        self.rest = rest
        self.waits = hasattr(rest, "__anext__")

    def __aiter__(self) -> Chunks:
        return self

    __iter__ = __aiter__

    def __next__(self) -> bytes:
        first, self.first = self.first, b""
        try:
            # PERF: a worker's chunk takes 6 us; to run __anext__ to its end, 0.45 more.
            return first or to_chunk(next(self.rest))
        except BaseException as error:
            self._check_end(error)
            raise

    async def __anext__(self) -> bytes:
        first, self.first = self.first, b""
        try:
            if first:
                return first
            return to_chunk(
                await self.rest.__anext__() if self.waits else next(self.rest)
            )
        except BaseException as error:
            self._check_end(error)
            if isinstance(error, StopIteration):
                raise StopAsyncIteration from None
            raise

    async def throw(self, error: BaseException) -> None:
        """Raise an error at the `yield` where an async generator stands, and go on.

        The next piece is what it yields then, behind what nobody has taken yet.
        """
        if not hasattr(self.rest, "athrow"):
            raise error
        try:
            self.first += to_chunk(await self.rest.athrow(error))
        except StopAsyncIteration:
            return  # the next step says so once more
        except BaseException as other:
            self._check_end(other)
            raise

    def _check_end(self, error: BaseException) -> None:
        """Raise what left the iterator anew where it would pass for something else."""
        is_end = isinstance(error, (StopIteration, StopAsyncIteration))
        if is_end and isinstance(error, StopAsyncIteration) is not self.waits:
            raise RuntimeError(f"the stream raised {type(error).__name__}") from error
        if not isinstance(error, Exception) and not self._is_of_outside(error):
            raise HandlerLeft(error) from error

    def _is_of_outside(self, error: BaseException) -> bool:
        """Return whether an error ends more than this stream: the worker, or the Task.

        How a Task ends tells more than HandlerLeft would.
        """
        is_of_task = isinstance(error, (asyncio.CancelledError, GeneratorExit))
        return ends_worker(error) or (self.waits and is_of_task)

    async def aclose(self) -> None:
        """Close the generator, so that its `finally` runs; log what that raises."""
        close = getattr(self.rest, "aclose" if self.waits else "close", None)
        try:
            if close is not None:
                closing = close()
                if self.waits:
                    await closing
        except BaseException as error:
            if self._is_of_outside(error):
                raise
            log.exception("a stream failed while it was closed")

    def close(self) -> None:
        """The same, where nothing can wait."""
        run_to_end(self.aclose())
