"""What main makes of the bytes of a worker."""

from __future__ import annotations

import asyncio
import struct
from typing import List, Tuple

import pytest
from played_workers import played
from virtual_time import in_virtual_time, quiet

from pixie_web import PixieError
from pixie_web.executors.pool.frames import (
    FRAME,
    MAX_FRAME_BYTES,
    Flag,
    FrameBuffer,
    FrameType,
)
from pixie_web.executors.pool.links import (
    GATHER_SECONDS,
    GATHERED_PIECE_BYTES,
    STREAM_BUFFER_BYTES,
)

Seen = Tuple[int, int, int, bytes]  # type, flags, number, payload


def frame(kind: int, payload: bytes = b"", flags: int = 0, number: int = 7) -> bytes:
    return FRAME.pack(len(payload), kind, flags, 0, number) + payload


def fed(*parts: bytes) -> List[Seen]:
    """Return the frames of what comes in these parts."""
    buffer, seen = FrameBuffer(), []
    for part in parts:
        for header, payload in buffer.feed(part):
            seen.append((header[1], header[2], header[4], payload))
    return seen


def joined(frames: List[Seen]) -> List[Seen]:
    """Return frames with those of one stream that follow each other as one."""
    result: List[Seen] = []
    for kind, flags, number, payload in frames:
        before = result[-1] if result else (0, 0, 0, b"")
        if kind == FrameType.DATA and (before[0], before[2]) == (kind, number):
            result[-1] = kind, flags, number, before[3] + payload
        else:
            result.append((kind, flags, number, payload))
    return result


STREAM = [
    frame(FrameType.HEAD, b"head"),
    frame(FrameType.DATA, b"a"),
    frame(FrameType.DATA, b"bc", Flag.MORE),
    frame(FrameType.DATA, b""),
    frame(FrameType.LOG, b"a line", 20),
    frame(FrameType.DATA, b"def"),
    frame(FrameType.DATA, b"of another", number=8),
    frame(FrameType.END),
]
ALL = [
    (FrameType.HEAD, 0, 7, b"head"),
    (FrameType.DATA, 0, 7, b"abc"),
    (FrameType.LOG, 20, 7, b"a line"),
    (FrameType.DATA, 0, 7, b"def"),
    (FrameType.DATA, 0, 8, b"of another"),
    (FrameType.END, 0, 7, b""),
]


def test_pieces_of_a_stream_that_come_together_are_one() -> None:
    assert fed(b"".join(STREAM)) == ALL


def test_frames_are_the_same_wherever_the_bytes_are_cut() -> None:
    data = b"".join(STREAM)
    for at in range(len(data) + 1):
        assert joined(fed(data[:at], data[at:])) == ALL, at
    assert joined(fed(*(data[at : at + 1] for at in range(len(data))))) == ALL


def test_the_last_flags_are_those_of_what_was_joined() -> None:
    more = frame(FrameType.DATA, b"a") + frame(FrameType.DATA, b"b", Flag.MORE)
    assert fed(more) == [(FrameType.DATA, Flag.MORE, 7, b"ab")]


def test_a_frame_that_is_too_large_is_refused_at_its_first_bytes() -> None:
    header = FRAME.pack(MAX_FRAME_BYTES + 1, FrameType.DATA, 0, 0, 7)
    with pytest.raises(PixieError, match="announced a frame of"):
        fed(STREAM[0] + header)
    with pytest.raises(PixieError, match="announced a frame of"):
        fed(struct.pack("!I", MAX_FRAME_BYTES + 1), header[4:])


# Rows of a generator ------------------------------------------------------------------


@in_virtual_time
async def test_small_chunks_that_follow_each_other_at_once_are_one_piece() -> None:
    async with played() as stage:
        (worker,) = await stage.booted(1)
        asked = stage.ask("/stream")
        await quiet()
        worker.begin()
        chunks = (await asked).body
        worker.chunk(b"1 ")
        assert await chunks.__anext__() == b"1 "  # the first one waits for nothing
        for row in b"2 ", b"3 ", b"4 ":
            worker.chunk(row)
            await quiet()
        assert worker.unread_bytes
        assert await chunks.__anext__() == b"2 3 4 "
        worker.chunk(b"5 ")
        worker.finish()
        assert await chunks.__anext__() == b"5 "
        with pytest.raises(StopAsyncIteration):
            await chunks.__anext__()
        assert stage.counts["streams"] == 0


@pytest.mark.parametrize(
    "size, seconds",
    [(1, GATHER_SECONDS * 2), (GATHERED_PIECE_BYTES + 1, 0)],
    ids=["one that comes alone", "a larger one"],
)
@in_virtual_time
async def test_a_chunk_is_read_at_once(size: int, seconds: float) -> None:
    async with played() as stage:
        (worker,) = await stage.booted(1)
        asked = stage.ask("/stream")
        await quiet()
        worker.begin()
        chunks = (await asked).body
        for _ in range(3):
            await asyncio.sleep(seconds)
            worker.chunk(bytes(size))
            await quiet()
            assert worker.unread_bytes == 0
            assert await chunks.__anext__() == bytes(size)


@in_virtual_time
async def test_what_gathers_is_not_read_while_the_client_is_slow() -> None:
    async with played() as stage:
        (worker,) = await stage.booted(1)
        asked = stage.ask("/stream")
        await quiet()
        worker.begin()
        chunks = (await asked).body
        for _ in range(5):
            worker.chunk(bytes(STREAM_BUFFER_BYTES // 5))
            await quiet()
        for _ in range(3):
            worker.chunk(b"small")  # the last one is left: nothing is read any more
            await quiet()
        await asyncio.sleep(1)
        assert worker.unread_bytes
        got = await chunks.__anext__()
        worker.finish()
        async for chunk in chunks:
            got += chunk
        assert got == bytes(STREAM_BUFFER_BYTES // 5 * 5) + b"small" * 3
