"""How much a client may do on a connection of HTTP/2; each bound has its unit.

An honest client comes nowhere near: browsers send a control frame or two for each
request, and reset what a page that was left had asked for. Whoever uses an allowance
up gets GOAWAY with ENHANCE_YOUR_CALM, and its connection ends.
"""

from __future__ import annotations

MAX_FRAME_BYTES = 16_384  # the default, and the least, of RFC 9113 section 6.5.2
MAX_STREAMS = 100  # requests at once, those included whose client has left; nginx 128
STREAM_WINDOW_BYTES = 256 * 1024  # of a body that its handler has not read yet
CONNECTION_WINDOW_BYTES = 1024 * 1024  # of all bodies of a connection

# Header lists. CVE-2016-6581, "HPACK bomb": a byte of the block may stand for 4 KiB.
MAX_LIST_BYTES = 32 * 1024  # with 32 for each field, as for empty ones (CVE-2019-9516)
MAX_BLOCK_BYTES = 32 * 1024  # before decoding: no list that may come is longer coded
# CVE-2024-27316, CVE-2024-31309, CVE-2023-45288: CONTINUATION without an end.
MAX_BLOCK_FRAMES = 8

# CVE-2023-44487, "Rapid Reset", and CVE-2025-8671, "MadeYouReset": streams that end
# before their answer, whoever reset them.
MAX_RESETS = 100  # at once; then RESETS_PER_SECOND
RESETS_PER_SECOND = 10.0

# CVE-2019-9512 (PING), CVE-2019-9515 (SETTINGS), CVE-2019-9513 (PRIORITY),
# CVE-2019-9511 and CVE-2019-9517 (WINDOW_UPDATE): frames that cost us, and do nothing.
MAX_CONTROL_FRAMES = 500  # at once; then CONTROL_FRAMES_PER_SECOND
CONTROL_FRAMES_PER_SECOND = 50.0
CONTROL_FRAMES_PER_REQUEST = 4  # earned beside
CONTROL_FRAMES_PER_DATA = 3  # earned by each frame of DATA of EARNING_BYTES
EARNING_BYTES = 1024
SETTINGS_PER_FRAME = 16  # more of them cost like more frames

# CVE-2019-9518: DATA without data.
MAX_EMPTY_DATA_FRAMES = 100  # in a row
# As many small pieces of bodies as HTTP/1.1 may have small chunks, of a connection.
MAX_SMALL_DATA_FRAMES = 65_536  # beyond one for each SMALL_DATA_BYTES
SMALL_DATA_BYTES = 16

MAX_REMEMBERED_STREAMS = 256  # closed ones, of which frames may be on their way


class Allowance:
    """So much at once, and so much more with each second.

    Args:
        most: at once.
        per_second: earned again.
    """

    __slots__ = ("_left", "_most", "_per_second", "_since")

    def __init__(self, most: float, per_second: float) -> None:
        self._most = self._left = most
        self._per_second = per_second
        self._since = 0.0

    def spend(self, now: float, count: float = 1.0) -> bool:
        """Take so many; return whether they were there."""
        earned = (now - self._since) * self._per_second
        self._left = min(self._most, self._left + earned) - count
        self._since = now
        return self._left >= 0

    def earn(self, count: float) -> None:
        """Add so many, to no more than the most."""
        self._left = min(self._most, self._left + count)
