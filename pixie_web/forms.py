"""Forms and uploads as a handler sees them."""

from __future__ import annotations

import io
import os
import re
import threading
from typing import (
    Any,
    BinaryIO,
    Iterable,
    Iterator,
    List,
    Optional,
    Set,
    Tuple,
    Union,
    cast,
)

from .datastructures import Headers, MultiDict
from .protocol.multipart import (
    FORM_LIMITS,
    FormLimits,
    MultipartParser,
    Part,
    codec_of,
    parse_parameters,
)
from .text import WINDOWS_DEVICE, expression, parse_urlencoded

MAX_FILENAME_BYTES = 200  # file systems allow 255; leaves room for a prefix
BODY_PIECE_BYTES = 256 * 1024  # read from a file at once; larger is not faster

_RESERVED_ON_WINDOWS = expression(rf"(?i){WINDOWS_DEVICE} *(?:\..*)?")
_UNSAFE_IN_FILENAME = expression(
    # Control characters, what Windows forbids, and what turns or hides text on screen.
    '[\x00-\x1f\x7f-\x9f<>:"|?*\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]'
)


def safe_filename(raw: str) -> str:
    """Return the last component of a client's path, fit to be a file's name everywhere.

    "C:\\docs\\a?b.txt" -> "a_b.txt", "../.profile" -> "profile", "nul" -> "_nul"

    Never empty, and without control characters, separators, leading dots or dashes.
    Letters of any script stay. Of a long name the end is kept, with what it says of the
    type: `MAX_FILENAME_BYTES` of UTF-8.
    """
    name = _UNSAFE_IN_FILENAME.sub("_", re.split(r"[/\\]", raw)[-1]).rstrip(" .")
    name = name.encode("utf-8")[-MAX_FILENAME_BYTES:].decode("utf-8", "ignore")
    name = name.lstrip(" .-~") or "upload"
    return "_" + name if _RESERVED_ON_WINDOWS.fullmatch(name) else name


class BodyFile:
    """A body that lies in a file, for readers in all threads.

    SECURITY: a descriptor's number, and a path that names it, belong to the next file
    as soon as it is closed. Then a handler that outlives its request would read the
    body of another client. So whoever reads goes through this object, which knows
    whether the file is still its own, and whoever may still read holds it open.

    Args:
        file: open for reading, unbuffered.
        path: by which another process opens it, while it is held open here.
    """

    __slots__ = ("_ended", "_file", "_holders", "_lock", "path")

    def __init__(self, file: BinaryIO, path: str = "") -> None:
        self._file = file
        self.path = path
        self._lock = threading.Lock()  # of the file's position
        self._ended = False
        self._holders: Set[object] = set()

    def write(self, chunks: Iterable[bytes]) -> None:
        """Append; nobody reads yet."""
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._file.write(rest) :]

    def read_at(self, offset: int, size: int = -1) -> bytes:
        """Return up to `size` bytes from `offset` on, or all; b"" at the end.

        Raises:
            ValueError: the request has ended, and its body is gone.
        """
        try:
            with self._lock:
                if self._ended:
                    raise ValueError(
                        "the body is gone: its request has ended; "
                        "read or save it before the handler returns"
                    )
                self._file.seek(offset)
                return self._file.read(size)
        finally:
            if self._ended:
                self._close()

    def pieces(self) -> Iterator[bytes]:
        """Iterate over all of it, in pieces of BODY_PIECE_BYTES."""
        offset = 0
        while True:
            piece = self.read_at(offset, BODY_PIECE_BYTES)
            if not piece:
                return
            yield piece
            offset += len(piece)

    def hold(self, holder: object) -> None:
        """Keep it open until the holder releases it; on the loop, as `release`."""
        self._holders.add(holder)

    def release(self, holder: object) -> None:
        """Let a holder go; the last one closes the file."""
        self._holders.discard(holder)
        if not self._holders:
            self._ended = True
            self._close()

    def _close(self) -> None:
        # The loop does not wait for the read of a thread, which closes after it.
        if self._lock.acquire(blocking=False):
            try:
                self._file.close()
            finally:
                self._lock.release()


class BodyWindow(io.RawIOBase):
    """A stretch of a body's file, as a read-only file of its own."""

    def __init__(self, source: BodyFile, start: int, size: int) -> None:
        self._source = source
        self._start, self._size, self._position = start, size, 0

    def readable(self) -> bool:
        return True

    seekable = readable

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + (0, self._position, self._size)[whence]
        if position < 0:
            raise ValueError("can't seek to before the beginning of the file")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        data = self._source.read_at(self._start + self._position, count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class FileUpload:
    """A file that came with a form: an item of `env.files`.

    Attributes:
        name: the form field's name (str).
        raw_filename: the name that the client gave it (str). SECURITY: never use it as
            a path.
        content_type: the type that the client gave it (str); do not trust it either.
        size: its length (int, bytes).
    """

    def __init__(self, part: Part, body: Union[bytes, BodyFile]) -> None:
        self.name = part.name
        self.raw_filename = part.filename or ""
        # RFC 7578 section 4.4 has text/plain here, but nobody has said that it is text.
        self.content_type = part.content_type or "application/octet-stream"
        self.size = part.size
        self._part = part
        self._body = body
        self._file: Optional[BinaryIO] = None

    @property
    def filename(self) -> str:
        """A name that is safe to store under, on every system: see `safe_filename`."""
        return safe_filename(self.raw_filename)

    @property
    def headers(self) -> Headers:
        """The headers of the part."""
        return Headers.from_wire(self._part.lines())

    @property
    def file(self) -> BinaryIO:
        """The contents: a read-only binary file, to be read while the handler runs.

        It has no `fileno`: it may be a window on the body of the request. Read later
        than that it may raise ValueError.
        """
        if self._file is None:
            self._file = self._open()
        return self._file

    def save(
        self,
        destination: Union[str, os.PathLike[str], BinaryIO],
        overwrite: bool = False,
    ) -> Optional[str]:
        """Copy the whole file, in chunks, and return the path it has now.

        Args:
            destination: a directory (the name is `filename` then), the path of a file,
                or a binary file that is open for writing (None is returned then).
            overwrite: whether a file that exists already is replaced.

        Raises:
            FileExistsError: the file exists, and `overwrite` is False.
            OSError: it can't be written; what was written of it is removed.
        """
        if hasattr(destination, "write"):
            self._copy(cast(BinaryIO, destination))
            return None
        path = os.fspath(cast(str, destination))
        if os.path.isdir(path):
            path = os.path.join(path, self.filename)
        # SECURITY: "x" fails on whatever is there, a dangling link too, without a race.
        with open(path, "wb" if overwrite else "xb") as target:
            try:
                self._copy(target)
            except BaseException:
                target.close()
                os.unlink(path)
                raise
        return path

    def _open(self) -> BinaryIO:
        start = self._part.offset
        if isinstance(self._body, bytes):
            return io.BytesIO(self._body[start : start + self.size])
        window = BodyWindow(self._body, start, self.size)
        return cast(BinaryIO, io.BufferedReader(window, 64 * 1024))

    def _copy(self, target: BinaryIO) -> None:
        with self._open() as source:
            for chunk in iter(lambda: source.read(BODY_PIECE_BYTES), b""):
                target.write(chunk)

    def __repr__(self) -> str:
        return f"<FileUpload {self.name!r} {self.filename!r} {self.size} bytes>"


# Forms --------------------------------------------------------------------------------

Form = Tuple[MultiDict[str], MultiDict[FileUpload]]
# Those of all forms that have none: nothing changes a MultiDict.
_NO_FILES: MultiDict[FileUpload] = MultiDict()


def _parse_multipart(parser: MultipartParser, body: Union[bytes, BodyFile]) -> Form:
    fields: List[Tuple[str, str]] = []
    files: List[Tuple[str, FileUpload]] = []
    chunks: List[bytes] = []
    source = BodyFile(io.BytesIO(body)) if isinstance(body, bytes) else body
    for piece in source.pieces():
        for event in parser.feed(piece):
            if isinstance(event, Part):
                part, chunks = event, []
            elif event is not None:
                if part.filename is None:
                    chunks.append(event)
            elif part.filename is None:
                codec = codec_of(part.content_type)
                fields.append((part.name, b"".join(chunks).decode(codec, "replace")))
            elif part.filename or part.size:
                files.append((part.name, FileUpload(part, body)))
    parser.close()
    return MultiDict(fields), MultiDict(files)


def parse_form(
    content_type: str,
    body: Union[bytes, BodyFile, BinaryIO],
    limits: FormLimits = FORM_LIMITS,
) -> Form:
    """Return the text fields and the files of a form; none if the body is no form.

    Text is UTF-8, unless a part has a charset of its own (RFC 7578 5.1.2; `_charset_`
    is ignored), and bytes that are not become U+FFFD. A file input in which nothing was
    chosen (no filename, no data) is left out.

    Args:
        content_type: the value of the Content-Type header.
        body: the whole body, or a binary file that holds it, open for as long as the
            uploads are used.
        limits: see `FormLimits`.

    Raises:
        HTTPError: 400 for a malformed form, 413 for one over a limit, 415 for a charset
            that is not known, or a part in base64 or the like.
    """
    if not isinstance(body, (bytes, BodyFile)):
        body = BodyFile(body)
    word = content_type.partition(";")[0].strip(" \t").lower()
    if word == "application/x-www-form-urlencoded":
        most = limits.max_form_bytes
        data = body if isinstance(body, bytes) else body.read_at(0, most + 1)
        if len(data) > most:  # PERF: two calls, a copy, an empty MultiDict: 0.4 us
            limits.check("max_form_bytes", len(data))
        return MultiDict(parse_urlencoded(data, limits.max_fields)), _NO_FILES
    if word == "multipart/form-data":
        boundary = parse_parameters(content_type)[1].get("boundary", "")
        return _parse_multipart(MultipartParser(boundary, limits), body)
    return MultiDict(), MultiDict()
