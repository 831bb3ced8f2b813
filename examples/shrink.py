"""Small PNGs of large ones, in plain Python: slow, and it says how far it is."""

import struct
import zlib

MAX_PIXELS = 20_000_000


def chunk(kind, data):
    sum_ = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + sum_


def write(width, height, rows, size):
    """Return a PNG; `size` is 3 bytes for a pixel, or 4 with transparency."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if size == 3 else 6, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    parts = chunk(b"IHDR", head), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def open_png(data):
    """Return width, height, bytes for a pixel, and the filtered rows.

    Raises:
        ValueError: it is no PNG, or of a kind that is not read here.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("Send a PNG.")
    packed, at, head = b"", 8, b""
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        head = data[at + 8 : at + 8 + length] if kind == b"IHDR" else head
        packed += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    if len(head) != 13:
        raise ValueError("The picture has no head.")
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", head)
    if depth != 8 or colour not in (2, 6) or any(rest):
        raise ValueError("Send a PNG in true colour, 8 bits, not interlaced.")
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"Send a picture of at most {MAX_PIXELS} pixels.")
    size = 3 if colour == 2 else 4
    expected = height * (1 + width * size)
    try:
        pixels = zlib.decompressobj().decompress(packed, expected)  # and no more
    except zlib.error as error:
        raise ValueError(f"The picture is broken: {error}.") from None
    if len(pixels) != expected:
        raise ValueError("The picture is cut short.")
    return width, height, size, pixels


def unfiltered(kind, row, above, size):
    """Return a row as it was before the filter of its kind (PNG, section 9)."""
    for i, value in enumerate(row):
        left, corner = (row[i - size], above[i - size]) if i >= size else (0, 0)
        up = above[i]
        guess = left + up - corner
        closest = min((left, up, corner), key=lambda one: abs(guess - one))
        row[i] = (value + (0, left, up, (left + up) // 2, closest)[kind]) & 255
    return row


def shrink(data, most=160):
    """Yield (rows read, rows in all) again and again, and at last the small PNG."""
    width, height, size, pixels = open_png(data)
    step = max(1, -(-max(width, height) // most))
    row, small, length = bytearray(width * size), [], 1 + width * size
    for y in range(height):
        line = pixels[y * length : (y + 1) * length]
        if line[0] > 4:
            raise ValueError("The picture is broken: no such filter.")
        row = unfiltered(line[0], bytearray(line[1:]), row, size)
        if y % step == 0:
            dots = (row[x : x + size] for x in range(0, width * size, step * size))
            small.append(b"".join(dots))
        yield y + 1, height
    yield write(len(small[0]) // size, len(small), small, size)
