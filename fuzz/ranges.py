"""Fuzz conditions and ranges: the headers that decide what of a file is sent.

    pip install atheris
    python fuzz/ranges.py [-max_total_time=600] [corpus directory]

The lines of the input are the values of the headers in NAMES; an empty line leaves its
header out. The first byte chooses a file, the second the method. Oracle: a Response
with status 200, 206, 304, 412 or 416; what a 206 holds is, byte for byte, what a model
finds that asks of every position whether it is in a range; an entity tag that is sent
back as it came has its effect, and one that does not occur has none.
"""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Optional

from harness import choose, run

from pixie_web import Headers, Response, cached_file
from pixie_web.conditional import (
    MAX_RANGES,
    NO_HEADERS,
    accepted_codings,
    evaluate_preconditions,
)
from pixie_web.staticfiles import resolve_file
from pixie_web.text import parse_date

NAMES = [
    *("Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since"),
    *("If-Unmodified-Since", "Accept-Encoding"),
]
SIZES = [0, 1, 26, 3000]
METHODS = ["GET", "GET", "HEAD", "POST"]
FOLDER = tempfile.TemporaryDirectory()
CONTENTS = [bytes(i * i % 251 for i in range(size)) for size in SIZES]
FILES = []  # small enough to be kept in memory
for number, content in enumerate(CONTENTS):
    Path(FOLDER.name, f"{number}.bin").write_bytes(content)
    FILES.append(cached_file(f"{number}.bin", FOLDER.name))
time.sleep(0.1)  # what was written just now is not yet kept
PLAIN = [resolve_file("GET", NO_HEADERS, file) for file in FILES]
TAGS = [answer.headers["ETag"] for answer in PLAIN]
DATE = PLAIN[0].headers["Last-Modified"]
OLD = "Sun, 06 Nov 1994 08:49:37 GMT"
SEEDS = [
    b"bytes=0-4",
    b"bytes=5-,-3 , 2-2",
    b"bytes=0-0,2900-,9999-",
    f"bytes=1-2\n{TAGS[3]}\n\n{TAGS[3]}\n\n{DATE}\ngzip;q=0, *".encode(),
    *(f"bytes=0-\n\nW/{tag}".encode() for tag in TAGS),
    f'bytes=0-1\n{DATE}\n"x", W/{TAGS[2]}\n*\n{DATE}\n{OLD}\nbr;q=1.0'.encode(),
    f"\n\n\n\n{OLD}\nSunday, 06-Nov-94 08:49:37 GMT\n".encode(),
    b"\n\n*\n\nSun Nov  6 08:49:37 1994\n\nidentity;q=0",
]
WORDS = [
    *(
        b"bytes=",
        b"0-",
        b"-1",
        b"0-0",
        b",",
        b", ",
        b"1-2,",
        b"3000",
        b"2999",
        b"-0",
        b"=",
    ),
    *(
        b"99999999999999999999",
        b"W/",
        b'"',
        b"*",
        b"\n",
        b"\n\n",
        b"gzip;q=0.5",
        b"GMT",
    ),
    *(*[tag.encode() for tag in TAGS], DATE.encode(), OLD.encode(), b"Nov", b"1994"),
]


def ranges_of(header: str, size: int) -> Optional[List[List[int]]]:
    """Return the positions that each range has; None for a header to be ignored."""
    unit, _, members = header.partition("=")
    if unit.strip().lower() != "bytes" or not size:
        return None
    found = []
    for member in members.split(","):
        member = member.strip(" \t")
        if not re.fullmatch(r"(?a)\d{1,20}-\d{0,20}|-\d{1,20}", member):
            return None
        first, last = [int(text) if text else None for text in member.split("-")]
        if first is not None and last is not None and last < first:
            return None
        if first is None:
            first, last = size - (last or 0), None
        last = size if last is None else last
        found.append([i for i in range(size) if first <= i <= last])
    return found if len(found) <= MAX_RANGES else None


def content_of(answer: Response, boundary: str) -> List[bytes]:
    """Return what the parts of a multipart/byteranges body hold."""
    parts = answer.body.split(f"\r\n--{boundary}".encode())
    assert parts[0] == b""
    assert parts[-1] == b"--\r\n"
    return [part.partition(b"\r\n\r\n")[2] for part in parts[1:-1]]


def check_content(answer: Response, header: str, content: bytes) -> None:
    wanted = ranges_of(header, len(content))
    if answer.status == 200:
        assert answer.body == content
        return
    assert wanted is not None
    wanted = [positions for positions in wanted if positions]
    if answer.status == 416:
        assert wanted == []
        assert answer.headers["Content-Range"] == f"bytes */{len(content)}"
        assert answer.body == b""
        return
    pieces = [bytes(content[i] for i in positions) for positions in wanted]
    boundary = answer.headers["Content-Type"].partition("boundary=")[2]
    assert len(answer.body) <= len(content)
    if boundary:
        assert content_of(answer, boundary) == pieces
        return
    assert [answer.body] == pieces
    start, stop = wanted[0][0], wanted[0][-1]
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop}/{len(content)}"


def check_conditions(status: int, method: str, sent: Dict[str, str], tag: str) -> None:
    is_reading = method in ("GET", "HEAD")
    refusing, matching = sent.get("If-None-Match"), sent.get("If-Match")
    if status == 304:
        assert is_reading
        may = refusing is not None and (tag in refusing or "*" in refusing)
        assert may or (refusing is None and "If-Modified-Since" in sent)
    if status == 412:
        assert {"If-Match", "If-Unmodified-Since", "If-None-Match"} & set(sent)
        assert is_reading or method == "POST"
    if matching is not None and tag not in matching and matching.strip() != "*":
        assert status == 412
    elif matching in (tag, "*") or not {"If-Match", "If-Unmodified-Since"} & set(sent):
        assert status != 412 or refusing is not None
        if refusing in (tag, f"W/{tag}", "*"):
            assert status == (304 if is_reading else 412)
        elif refusing is not None and '"' not in refusing and "*" not in refusing:
            assert status not in (304, 412)


def check(data: bytes) -> None:
    choices, data = choose(data)
    number, method = choices[0] % len(FILES), METHODS[choices[1] % len(METHODS)]
    values = data.decode("latin-1").split("\n")
    sent = {name: value for name, value in zip(NAMES, values) if value}
    headers = Headers.from_wire(sent.items())
    status = evaluate_preconditions(method, headers, TAGS[number], 784111777)
    check_conditions(status or 200, method, sent, TAGS[number])
    assert set(accepted_codings(sent.get("Accept-Encoding", ""), ("br", "gzip"))) <= {
        *("br", "gzip", "identity")
    }
    answer = resolve_file(method, headers, FILES[number])
    assert answer.status in (200, 206, 304, 412, 416)
    if method == "POST":
        assert answer.status == 200
        return
    check_conditions(answer.status, method, sent, TAGS[number])
    if answer.status in (304, 412):
        assert answer.body == b""
    elif method == "HEAD" or (
        "If-Range" in sent and sent["If-Range"] not in (TAGS[number], DATE)
    ):
        assert answer.status == 200 or "If-Range" in sent
        assert answer.status == 200 or parse_date(sent["If-Range"])
    else:
        check_content(answer, sent.get("Range", ""), CONTENTS[number])


if __name__ == "__main__":
    run(check, SEEDS, WORDS)
