"""What the harnesses share: what they fuzz, instrumented; ways to cut; run()."""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, Iterable, List, Tuple

try:
    import atheris  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    atheris = None

ROOT = Path(__file__).resolve().parent.parent
# Recorded requests beside the repository: more seeds where they are there.
DATA = [parent / "shared" / "data" for parent in ROOT.parents]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

with atheris.instrument_imports(["pixie_web"]) if atheris else nullcontext():
    from events import events_from, joined, next_event

    from pixie_web.protocol import http11

    READERS = [http11.RequestReader]
    CHUNK_READERS: List[Any] = [http11]  # the modules that they are from
    try:
        from pixie_web import httptools

        READERS.append(httptools.HttptoolsReader)
        CHUNK_READERS.append(httptools)
    except ImportError:
        pass

__all__ = [
    "CHUNK_READERS",
    "READERS",
    "choose",
    "cuts",
    "events_from",
    "joined",
    "next_event",
    "recorded",
    "run",
]

OPTIONS = ["-max_total_time=600", "-timeout=10", "-rss_limit_mb=1024"]


def choose(data: bytes) -> Tuple[bytes, bytes]:
    """Return the four bytes of an input that choose how, and those that say what."""
    return data[:4].ljust(4, b"\0"), data[4:]


def cuts(data: bytes, choices: bytes) -> Iterable[List[bytes]]:
    """Yield two more ways to feed `data`: cut in two somewhere, and in equal steps."""
    split = int.from_bytes(choices[2:], "big") % (len(data) + 1)
    yield [data[:split], data[split:]]
    step = 1 + choices[1] % 9
    yield [data[i : i + step] for i in range(0, len(data), step)]


def recorded(name: str, field: str) -> List[bytes]:
    """Return the bytes of each case of a file of recorded ones; none without it."""
    files = [path / name for path in DATA if (path / name).exists()]
    cases = [case for f in files for case in json.loads(f.read_text("utf-8"))["cases"]]
    return [base64.b64decode(case[field]) for case in cases]


def run(
    check: Callable[[bytes], None],
    seeds: Iterable[bytes],
    words: Iterable[bytes],
    max_length: int = 4096,
) -> None:
    """Fuzz `check` as the command line says; files there are tried alone, once.

    Without atheris, only the seeds are tried, or the files.

    Args:
        check: takes an input, and raises anything if something is wrong.
        seeds: first inputs, without the four bytes that choose: 0 to 3 go before each.
        words: the dictionary.
        max_length: of an input, in bytes, unless -max_len says otherwise.
    """
    given = [Path(text) for text in sys.argv[1:] if text[0] != "-"]
    files = [path.read_bytes() for path in given if path.is_file()]
    inputs = [bytes([n, 0, 0, 0]) + seed for seed in seeds for n in range(4)]
    if atheris is None:
        for data in files or inputs:
            check(data)
        print(f"tried {len(files or inputs)} inputs; to fuzz: pip install atheris")
        return
    with tempfile.TemporaryDirectory() as directory:
        escaped = ["".join(f"\\x{byte:02x}" for byte in word) for word in words]
        dictionary = Path(directory, "words")
        dictionary.write_text("".join(f'"{word}"\n' for word in escaped))
        options = [*OPTIONS, f"-max_len={max_length}", f"-dict={dictionary}"]
        options += sys.argv[1:]
        if not files:
            corpus = Path(directory, "seeds")
            for path in (*given, corpus):
                path.mkdir(parents=True, exist_ok=True)
            for number, data in enumerate(inputs):
                Path(corpus, str(number)).write_bytes(data)
            options.append(str(corpus))
        # The fuzzer ends its process at once, and what is temporary would stay.
        child = os.fork()
        if not child:
            atheris.Setup([sys.argv[0], *options], check)
            atheris.Fuzz()
        _, status = os.waitpid(child, 0)
    sys.exit(1 if status else 0)
