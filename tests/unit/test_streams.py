"""Chunks: a stream's pieces, and one form of code for what may wait and what can't."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Iterator, List, Tuple, Type

import pytest

from pixie_web import Request, Response
from pixie_web.application import Application
from pixie_web.errors import RequestTimeout
from pixie_web.executors.streams import Chunks, HandlerLeft, run_to_end
from pixie_web.middleware import CompressedChunks
from pixie_web.protocol.http11 import parse_head


async def thrice(value: int) -> int:
    async def twice() -> int:
        return 2 * value

    return await twice() + value


def test_a_coroutine_that_never_waits_is_run_without_a_loop() -> None:
    assert run_to_end(thrice(2)) == 6


def test_a_coroutine_that_waits_is_refused() -> None:
    with pytest.raises(RuntimeError, match="waits, where only plain code can run"):
        run_to_end(asyncio.sleep(0))


class Raising:
    """An iterator of both kinds that raises at once."""

    def __init__(self, error: BaseException, closing: List[str]) -> None:
        self.error = error
        self.closing = closing


class Plain(Raising):
    def __next__(self) -> bytes:
        raise self.error

    def close(self) -> None:
        self.closing.append("close")


class Waiting(Raising):
    async def _step(self) -> bytes:
        raise self.error

    def __anext__(self) -> Any:
        if isinstance(self.error, StopIteration):
            raise self.error  # a coroutine can't
        return self._step()

    async def aclose(self) -> None:
        self.closing.append("aclose")


ENDS: List[Tuple[Type[Raising], Type[BaseException], Type[BaseException]]] = [
    (Plain, StopIteration, StopAsyncIteration),
    (Plain, StopAsyncIteration, RuntimeError),
    (Plain, ValueError, ValueError),
    (Plain, SystemExit, HandlerLeft),
    (Plain, GeneratorExit, HandlerLeft),
    (Plain, asyncio.CancelledError, HandlerLeft),
    (Plain, RequestTimeout, HandlerLeft),  # of its own making
    (Waiting, StopAsyncIteration, StopAsyncIteration),
    (Waiting, StopIteration, RuntimeError),
    (Waiting, ValueError, ValueError),
    (Waiting, SystemExit, HandlerLeft),
    (Waiting, GeneratorExit, GeneratorExit),
    (Waiting, asyncio.CancelledError, asyncio.CancelledError),
]


@pytest.mark.parametrize("kind, error, expected", ENDS)
def test_what_an_iterator_raises_passes_for_nothing_else(
    kind: Type[Raising], error: Type[BaseException], expected: Type[BaseException]
) -> None:
    closing: List[str] = []
    chunks = Chunks(b"first", kind(error(), closing))
    assert run_to_end(chunks.__anext__()) == b"first"
    with pytest.raises(expected) as caught:
        run_to_end(chunks.__anext__())
    assert type(caught.value) is expected
    if expected in (HandlerLeft, RuntimeError):
        assert isinstance(caught.value.__cause__, error)
    run_to_end(chunks.aclose())
    assert closing == ["close" if kind is Plain else "aclose"]


@pytest.mark.parametrize("kind, error, expected", [e for e in ENDS if e[0] is Plain])
def test_by_next_it_says_the_same(
    kind: Type[Raising], error: Type[BaseException], expected: Type[BaseException]
) -> None:
    for chunks in (
        Chunks(b"", kind(error(), [])),
        CompressedChunks(Chunks(b"", kind(error(), []))),
    ):
        is_end = expected is StopAsyncIteration
        if is_end and isinstance(chunks, CompressedChunks):
            next(chunks)  # the coder's own last bytes
        with pytest.raises(StopIteration if is_end else expected):
            next(chunks)


# In main ------------------------------------------------------------------------------


def served(before: Any, *after: Any) -> Tuple[bytes, List[str]]:
    """Return what a client gets of an application with these triggers, and the log."""
    application, log = Application(), []

    def stream() -> Iterator[str]:
        try:
            yield "one "
            yield "two "
        finally:
            log.append("closed")

    application.before(before(stream))
    for trigger in after:
        application.after(trigger)

    @application.route("/", "sync")
    def handler(env: Request) -> str:
        return "not called"

    async def ask() -> bytes:
        request = Request(parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
        body: Any = (await application.handle(request)).body
        if isinstance(body, bytes):
            return body
        try:
            return b"".join([chunk async for chunk in body])
        finally:
            await body.aclose()

    return asyncio.run(ask()), log


def on_the_loop(stream: Any) -> Any:
    async def before(env: Request) -> Iterator[str]:
        result: Iterator[str] = stream()
        return result

    return before


def loud(chunks: Any) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk.upper()


async def wrap(env: Request, response: Response) -> None:
    response.body = loud(response.body)


def wrap_plainly(env: Request, response: Response) -> None:
    response.body = loud(response.body)


async def replace(env: Request, response: Response) -> str:
    return "other"


def replace_plainly(env: Request, response: Response) -> str:
    return "other"


@pytest.mark.parametrize("after", [wrap, wrap_plainly])
def test_a_triggers_stream_may_be_read_by_the_next_trigger(after: Any) -> None:
    assert served(on_the_loop, after) == (b"ONE TWO ", ["closed"])


@pytest.mark.parametrize("after", [replace, replace_plainly])
def test_a_triggers_stream_that_is_replaced_is_closed(after: Any) -> None:
    assert served(on_the_loop, after) == (b"other", ["closed"])


async def plain(env: Request) -> Iterator[str]:
    return iter(["a", "b"])


async def none_yields(env: Request) -> AsyncIterator[str]:
    return
    yield ""


@pytest.mark.parametrize("handler, expected", [(plain, b"ab"), (none_yields, b"")])
def test_an_async_handler_may_return_a_plain_iterator(
    handler: Any, expected: bytes
) -> None:
    application = Application()
    application.route("/")(handler)

    async def ask() -> bytes:
        request = Request(parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
        body: Any = (await application.handle(request)).body
        return b"".join([chunk async for chunk in body])

    assert asyncio.run(ask()) == expected
