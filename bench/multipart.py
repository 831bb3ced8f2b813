"""Compare the parsing of forms, uploads and cookies with other libraries, in one run.

    pip install python-multipart multipart werkzeug bottle starlette
    python bench/multipart.py [--rounds 5] [--megabytes 64] [--only large,small]

Each line is one job and one library: the median of the rounds and its ratio to
pixie_web (above 1: pixie_web is faster). It is time of the CPU, so that other programs
count for less; the libraries take turns within every round, pinned to one core. What is
not installed is left out, and what fails says so.

`events` is the parser alone, fed pieces of 64 KiB whose data is only counted. `form` is
the whole way from a body in a file to fields and files that can be read.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple
from urllib.parse import parse_qsl, quote_plus, unquote_plus

# In place of this folder: its multipart.py would hide the library.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pixie_web import MultiDict  # noqa: E402
from pixie_web.cookies import parse_cookies  # noqa: E402
from pixie_web.forms import parse_form  # noqa: E402
from pixie_web.protocol.multipart import FormLimits, MultipartParser  # noqa: E402
from pixie_web.text import parse_urlencoded  # noqa: E402

BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
PIECE_BYTES = 64 * 1024
MANY = 10**9
LIMITS = FormLimits(
    max_fields=MANY, max_parts=MANY, max_form_bytes=MANY, max_field_bytes=MANY
)

Job = Callable[[], object]


def load(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        return None


# Bodies -------------------------------------------------------------------------------


def build_body(parts: List[Tuple[bool, bytes]], boundary: str = BOUNDARY) -> bytes:
    """Return a multipart body of (is a file, data) parts."""
    lines = []
    for number, (is_file, data) in enumerate(parts):
        head = f'Content-Disposition: form-data; name="part{number}"'
        if is_file:
            head += f'; filename="file{number}.bin"\r\nContent-Type: image/png'
        lines.append(f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n")
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


def boundary_of(body: bytes) -> str:
    return body[2 : body.index(b"\r\n")].decode()


def bodies(megabytes: int) -> Dict[str, bytes]:
    noise = random.Random(1)
    size = megabytes * 2**20
    block = bytes(noise.getrandbits(8) for _ in range(2**20))
    large = block * max(1, megabytes // 4)
    text = (
        b"Lorem ipsum dolor sit amet, consetetur sadipscing elitr, sed diam.\r\n" * 16
    )
    return {
        "large: 4 files": build_body([(True, large)] * 4),
        "small: 4 KiB files": build_body([(True, block[:4096])] * (size // 4096)),
        "tiny: 1 KiB fields": build_body([(False, text[:1024])] * (size // 8 // 1024)),
        "line ends: CR LF only": build_body([(True, b"\r\n" * (size // 8))]),
        # Beside each other: lines that begin like the boundary, and lines that do not.
        "plain: 16 MiB": build_body([(True, text * (2**24 // len(text)))], "b"),
        "false boundaries: 16 MiB": build_body(
            [(True, b"\r\n--bX" * (2**24 // 6))], "b"
        ),
    }


# Parsers alone ------------------------------------------------------------------------


def event_jobs(body: bytes) -> Dict[str, Job]:
    boundary = boundary_of(body)
    pieces = [body[i : i + PIECE_BYTES] for i in range(0, len(body), PIECE_BYTES)]

    def pixie() -> int:
        parser = MultipartParser(boundary, LIMITS)
        size = 0
        for piece in pieces:
            for event in parser.feed(piece):
                if isinstance(event, bytes):
                    size += len(event)
        parser.close()
        return size

    jobs: Dict[str, Job] = {"pixie_web": pixie}

    library = load("python_multipart")
    if library:

        def python_multipart() -> int:
            sizes = []
            callbacks = {
                "on_part_data": lambda data, start, end: sizes.append(end - start),
                "on_header_field": lambda data, start, end: data[start:end],
                "on_header_value": lambda data, start, end: data[start:end],
            }
            parser = library.MultipartParser(boundary, callbacks)
            for piece in pieces:
                parser.write(piece)
            parser.finalize()
            return sum(sizes)

        jobs["python-multipart"] = python_multipart

    push = getattr(load("multipart"), "PushMultipartParser", None)
    if push:

        def multipart() -> int:
            size = 0
            with push(boundary) as parser:
                for piece in pieces:
                    for event in parser.parse(piece):
                        if event and isinstance(event, (bytes, bytearray)):
                            size += len(event)
            return size

        jobs["multipart"] = multipart

    sansio = load("werkzeug.sansio.multipart")
    if sansio:

        def werkzeug() -> int:
            size = 0
            parser = sansio.MultipartDecoder(boundary.encode())
            for piece in [*pieces, None]:
                parser.receive_data(piece)
                event = parser.next_event()
                while not isinstance(event, (sansio.Epilogue, sansio.NeedData)):
                    if isinstance(event, sansio.Data):
                        size += len(event.data)
                    event = parser.next_event()
            return size

        jobs["Werkzeug"] = werkzeug
    return jobs


# From a body in a file to a form ------------------------------------------------------


def form_jobs(path: str, boundary: str, size: int) -> Dict[str, Job]:
    content_type = f"multipart/form-data; boundary={boundary}"

    def pixie() -> int:
        with open(path, "rb") as file:
            form, files = parse_form(content_type, file, LIMITS)
        return len(form) + len(files)

    jobs: Dict[str, Job] = {"pixie_web": pixie}

    library = load("python_multipart")
    if library:

        def python_multipart() -> int:
            found: List[Any] = []
            parser = library.FormParser(
                "multipart/form-data", found.append, found.append, boundary=boundary
            )
            with open(path, "rb") as file:
                for piece in iter(lambda: file.read(PIECE_BYTES), b""):
                    parser.write(piece)
            parser.finalize()
            for item in found:
                item.close()
            return len(found)

        jobs["python-multipart"] = python_multipart

    pull = getattr(load("multipart"), "MultipartParser", None)
    if pull and hasattr(load("multipart"), "PushMultipartParser"):

        def multipart() -> int:
            with open(path, "rb") as file:
                parts = list(pull(file, boundary, part_limit=MANY, memory_limit=MANY))
            for part in parts:
                part.close()
            return len(parts)

        jobs["multipart"] = multipart

    formparser = load("werkzeug.formparser")
    if formparser:

        def werkzeug() -> int:
            parser = formparser.FormDataParser(
                max_form_memory_size=None, max_form_parts=None
            )
            with open(path, "rb") as file:
                _, form, files = parser.parse(
                    file, "multipart/form-data", size, {"boundary": boundary}
                )
            for item in files.values():
                item.close()
            return len(form) + len(files)

        jobs["Werkzeug"] = werkzeug

    bottle = load("bottle")
    if bottle:

        def bottle_form() -> int:
            with open(path, "rb") as file:
                parts = list(
                    bottle._MultipartParser(
                        file, boundary, size, disk_limit=MANY, mem_limit=MANY
                    ).parse()
                )
            return len(parts)

        jobs["bottle"] = bottle_form
    return jobs


# Urlencoded forms and cookies ---------------------------------------------------------


def urlencoded_jobs(data: bytes) -> Dict[str, Job]:
    text = data.decode()
    jobs: Dict[str, Job] = {
        "pixie_web": lambda: MultiDict(parse_urlencoded(data, MANY)),
        "urllib": lambda: parse_qsl(text, keep_blank_values=True),
    }
    library = load("python_multipart")
    if library:

        def python_multipart() -> object:
            found: List[Any] = []
            kind = "application/x-www-form-urlencoded"
            parser = library.FormParser(kind, found.append, None)
            parser.write(data)
            parser.finalize()
            # It leaves the escapes in; its users decode as Starlette does.
            return [
                (
                    unquote_plus(field.field_name.decode()),
                    unquote_plus(field.value.decode()),
                )
                for field in found
            ]

        jobs["python-multipart"] = python_multipart
    structures = load("werkzeug.datastructures")
    if structures:  # as its form parser does
        jobs["Werkzeug"] = lambda: structures.ImmutableMultiDict(
            parse_qsl(
                data.decode(), keep_blank_values=True, errors="werkzeug.url_quote"
            )
        )
    bottle = load("bottle")
    if bottle:
        jobs["bottle"] = lambda: bottle.FormsDict(bottle._parse_qsl(text))
    starlette = load("starlette.datastructures")
    if starlette:
        jobs["Starlette query"] = lambda: starlette.QueryParams(text)
    return jobs


def cookie_jobs(header: str) -> Dict[str, Job]:
    jobs: Dict[str, Job] = {"pixie_web": lambda: parse_cookies(header)}
    sansio = load("werkzeug.sansio.http")
    if sansio:
        jobs["Werkzeug"] = lambda: sansio.parse_cookie(header)
    requests = load("starlette.requests")
    if requests:
        jobs["Starlette"] = lambda: requests.cookie_parser(header)
    if load("bottle"):
        from http.cookies import SimpleCookie

        jobs["bottle"] = lambda: {
            cookie.key: cookie.value for cookie in SimpleCookie(header).values()
        }
    return jobs


def text_jobs() -> Dict[str, Dict[str, Job]]:
    pairs = [(f"field{i}", f"value number {i}") for i in range(20)]
    plain = "&".join(f"{k}={quote_plus(v)}" for k, v in pairs).encode()
    heavy = "&".join(
        f"{k}={quote_plus(v + ' größer, 日本語 & más/=')}" for k, v in pairs
    ).encode()
    tracking = "; ".join(
        f"_track{i}=GA1.2.{i}.1700000{i}; theme{i}=dark%20{i}" for i in range(6)
    )
    return {
        "urlencoded: 20 plain fields": urlencoded_jobs(plain),
        "urlencoded: 20 with many escapes": urlencoded_jobs(heavy),
        "cookies: 1": cookie_jobs("session=4b1f9c0de83a4d5b8c5f2f6a1d0e7b3c"),
        "cookies: 12": cookie_jobs(tracking.replace("%20", "-")),
        "cookies: 12, 6 escaped (we decode)": cookie_jobs(tracking),
    }


# The run ------------------------------------------------------------------------------


def measure(job: Job, repeat: int) -> float:
    gc.collect()
    start = time.process_time()
    for _ in range(repeat):
        job()
    return (time.process_time() - start) / repeat


def compare(title: str, jobs: Dict[str, Job], rounds: int, seconds: float) -> None:
    times: Dict[str, List[float]] = {}
    for name, job in list(jobs.items()):
        try:
            once = measure(job, 1)
        except Exception as error:
            print(f"{title:42} {name:18} failed: {error!r:.60}")
            del jobs[name]
            continue
        times[name] = []
        jobs[name] = job
    repeat = max(1, int(seconds / max(once, 1e-7))) if once < seconds / 20 else 1
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(measure(job, repeat))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        ratio = median / medians["pixie_web"]
        print(f"{title:42} {name:18} {median * 1e3:12.4f} ms {ratio:8.2f}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--megabytes", type=int, default=64)
    arguments.add_argument("--only", default="", help="words in the titles, by comma")
    options = arguments.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    words = options.only.split(",")

    def wanted(title: str) -> bool:
        return any(word in title for word in words)

    for title, jobs in text_jobs().items():
        if wanted(title):
            compare(title, jobs, options.rounds, 0.05)
    for name, body in bodies(options.megabytes).items():
        if wanted(f"{name}, events"):
            title = f"{name}, events, {len(body) >> 20} MiB"
            compare(title, event_jobs(body), options.rounds, 0.5)
        if wanted(f"{name}, form"):
            with tempfile.NamedTemporaryFile(suffix=".body") as file:
                file.write(body)
                file.flush()
                title = f"{name}, form, {len(body) >> 20} MiB"
                jobs = form_jobs(file.name, boundary_of(body), len(body))
                compare(title, jobs, options.rounds, 0.5)


if __name__ == "__main__":
    main()
