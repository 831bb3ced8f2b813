"""What carries a handler to its placement, and a stream back."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Awaitable, Callable, Iterator, Optional

from ..about import log
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


class Chunks:
    """A stream's pieces as bytes: the first one, which is here, and then the others.

    Whoever primes a stream (runs it to its first `yield`) hands it on in this form.
    """

    def __init__(self, first: bytes, rest: Iterator[Any]) -> None:
        self._first: Optional[bytes] = first or None
        self._rest = rest

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> bytes:
        first, self._first = self._first, None
        try:
            return to_chunk(next(self._rest)) if first is None else first
        except StopAsyncIteration as error:
            # It would pass for the end. Of StopIteration, Python says the same.
            raise RuntimeError("the stream raised StopAsyncIteration") from error
        except Exception:
            raise
        except BaseException as error:
            if ends_worker(error):
                raise
            raise HandlerLeft(error) from error

    def close(self) -> None:
        """Close the generator, so that its `finally` runs; log what that raises."""
        close = getattr(self._rest, "close", None)
        try:
            if close is not None:
                close()
        except BaseException as error:
            if ends_worker(error):
                raise
            log.exception("a stream failed while it was closed")


class AsyncChunks:
    """The same as Chunks, for an async iterator."""

    def __init__(self, first: bytes, rest: AsyncIterator[Any]) -> None:
        self._first: Optional[bytes] = first or None
        self._rest = rest

    def __aiter__(self) -> AsyncChunks:
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, None
        return await self._step(self._rest.__anext__) if first is None else first

    async def throw(self, error: BaseException) -> None:
        """Raise an error at the `yield` where the async generator stands, and go on.

        The next piece is what it yields then, behind what nobody has taken yet.
        """
        if not hasattr(self._rest, "athrow"):
            raise error
        try:
            piece = await self._step(self._rest.athrow, error)
        except StopAsyncIteration:
            return  # the next step says so once more
        self._first = (self._first or b"") + piece or None

    async def _step(self, step: Callable[..., Awaitable[Any]], *args: Any) -> bytes:
        try:
            return to_chunk(await step(*args))
        except (Exception, asyncio.CancelledError, GeneratorExit):
            raise  # of the last two, how the Task ends tells more
        except BaseException as error:
            raise HandlerLeft(error) from error

    async def aclose(self) -> None:
        """Close the async generator, so that its `finally` runs; log what it raises."""
        aclose = getattr(self._rest, "aclose", None)
        try:
            if aclose is not None:
                await aclose()
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException:
            log.exception("a stream failed while it was closed")
