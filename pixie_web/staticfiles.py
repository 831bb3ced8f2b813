"""Files: found inside a root, kept in memory, answered.

A handler names the file to send (`static_file`). The form of the answer depends on
the request. The main process decides it, as the last step (`resolve_file`). So the
handler needs no request for that, and a worker sends only the path.

    static_file     name -> path inside the root, or 404      where the handler runs
    resolve_file    path -> 200, 206, 304, 412 or 416         in main
      _choose         file, file.br, file.zst or file.gz; from memory or from disk
      _meet_request   conditions and ranges, RFC 9110 sections 13 and 14

The state of a file is its device, inode, mtime, ctime and size. It is the key of the
cache. So one os.stat shows that an entry is current, and that its bytes are those of
the file that was found inside the root. With cache=True a file and its compressed
copies are read once, whole, and kept for ever.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from functools import lru_cache
from typing import (
    Any,
    AsyncIterator,
    BinaryIO,
    Dict,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

from .conditional import (
    CODED,
    REPLACED,
    accepted_codings,
    evaluate_preconditions,
    is_range_current,
    parse_ranges,
    without_content,
)
from .datastructures import Headers
from .errors import HTTPError
from .responses import OCTETS, FileSlice, Response, StaticFile
from .text import WINDOWS_DEVICE, check_header, expression, format_date, percent_encode

MAX_CACHED_FILE_BYTES = 131_072  # larger files are sent from disk, by sendfile
MAX_CACHED_FILES = 512  # that many of that size are 64 MiB
MAX_KNOWN_FILES = 4096  # whose names and states are remembered
UNSETTLED_NANOSECONDS = 50_000_000  # a file system's clock ticks every 10 ms at worst
FILE_CHUNK_BYTES = 65_536
CODINGS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}  # what is preferred comes first


# Names, and what they say -------------------------------------------------------------

_TYPES = {  # what mimetypes does not know, or not the same on every Python
    "application/gzip": "gz tgz",
    "application/json": "map",
    "application/octet-stream": "br",
    "application/zstd": "zst",
    "font/woff": "woff",
    "font/woff2": "woff2",
    "image/avif": "avif",
    "image/webp": "webp",
    "text/javascript": "js mjs",  # RFC 9239
    "text/markdown": "md",
}
_TYPE_OF = {end: name for name, ends in _TYPES.items() for end in ends.split()}
# SECURITY: empty, "." and ".." segments, NUL and "\" never reach the file system; on
# Windows neither do drives, streams, devices, and names that it would change.
_UNSAFE_NAME = r"[\0\\]|(?:^|/)\.{0,2}(?:/|$)"
_UNSAFE_ON_WINDOWS = (
    _UNSAFE_NAME + r'|[\x00-\x1f<>:"|?*]|[. ](?:/|$)'
    rf"|(?i:(?:^|/){WINDOWS_DEVICE} *(?:[./]|$))"
)

# SECURITY: .git, .env and .htpasswd are put beside what is served, and not for it. What
# lies in .well-known is for everybody (RFC 8615), as certbot's challenges are.
_DOT_FILE = expression(r"^\.(?!well-known(?:/|$))|/\.")


def _open_file(path: str, flags: int) -> int:
    # Not through a link, and not waiting for a pipe's other end, that took its place.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def open_slice(body: FileSlice) -> BinaryIO:
    """Return the file that a body lies in, open; its `offset` is still to be sought.

    Raises:
        OSError: it is gone, or it is a link now.
    """
    source = body.path if body.descriptor is None else os.dup(body.descriptor)
    return open(source, "rb", opener=_open_file)


def is_safe_name(filename: str, windows: bool = os.name == "nt") -> bool:
    """Return whether a name of segments joined by "/" stays below where it is put."""
    return not re.search(_UNSAFE_ON_WINDOWS if windows else _UNSAFE_NAME, filename)


def _with_charset(content_type: str) -> str:
    bare = content_type.startswith("text/") and "charset" not in content_type
    return f"{content_type}; charset=utf-8" if bare else content_type


def content_type_of(filename: str) -> str:
    """Return the content type that a file's name says; text comes with its charset."""
    _, dot, extension = filename.lower().rpartition("/")[2].rpartition(".")
    content_type = _TYPE_OF.get(extension) if dot else OCTETS
    if content_type is None:
        import mimetypes

        # A database of its own: the shared one depends on the machine's files.
        database = mimetypes.MimeTypes(filenames=())
        guess, coding = database.guess_type(f"x.{extension}")
        content_type = guess if guess and not coding else OCTETS
    return _with_charset(content_type)


def content_disposition(filename: str) -> str:
    """Return an `attachment` that is saved as `filename` (RFC 6266, RFC 8187).

    "a/naïve.txt" -> `attachment; filename="na_ve.txt"; filename*=UTF-8''na%C3%AFve.txt`
    """
    name = re.split(r"[/\\]", filename)[-1] or "download"
    # RFC 6266 appendix D: no quotes, backslashes or escapes; clients differ on them.
    fallback = re.sub(r'[^ -~]|["%]', "_", name)
    if fallback == name:
        return f'attachment; filename="{name}"'
    encoded = percent_encode(name.encode("utf-8", "replace").decode("utf-8"))
    return f"attachment; filename=\"{fallback}\"; filename*=UTF-8''{encoded}"


@lru_cache(maxsize=512)
def _describe(
    filename: str,
    mimetype: Optional[str],
    download: Union[bool, str, None],
    max_age: Optional[int],
    dotfiles: bool,
) -> bytes:
    """Return the header lines of a file that has a safe name."""
    if not is_safe_name(filename) or not (dotfiles or not _DOT_FILE.search(filename)):
        raise HTTPError(404)
    name = download if isinstance(download, str) else filename
    content_type = _with_charset(mimetype) if mimetype else content_type_of(name)
    check_header("Content-Type", content_type)
    lines = f"Content-Type: {content_type}\r\n"
    if download:
        lines += f"Content-Disposition: {content_disposition(name)}\r\n"
    if max_age is not None:
        if max_age < 0:
            raise ValueError(f"max_age is a number of seconds from 0, got {max_age!r}")
        lines += f"Cache-Control: max-age={max_age:d}\r\n"
    return lines.encode("latin-1")


# Finding a file -----------------------------------------------------------------------

FileState = Tuple[int, int, int, int, int]  # device, inode, mtime, ctime (ns), size
_OUT_OF_ORDER = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


def _file_error(error: Exception) -> Exception:
    """Return the 404 for an error of the file system, but keep the server's own."""
    failed = isinstance(error, OSError) and error.errno in _OUT_OF_ORDER
    return error if failed else HTTPError(404)


def _file_state(found: os.stat_result) -> FileState:
    """Return what tells one state of a file from any other, of that file or another.

    Raises:
        FileNotFoundError: a directory, device, pipe or link.
    """
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
    mtime_ns, ctime_ns = found.st_mtime_ns, found.st_ctime_ns
    return found.st_dev, found.st_ino, mtime_ns, ctime_ns, found.st_size


def _look(path: str) -> FileState:
    # SECURITY: lstat: the directory is real, but a link could lead out of it.
    return _file_state(os.lstat(path))


def _open_real(path: str, flags: int) -> int:
    """Open what realpath gave: no link is its last step, and no pipe blocks."""
    extra = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    return os.open(path, flags | extra)


@lru_cache(maxsize=MAX_KNOWN_FILES)
def _look_inside(root: str, filename: str, state: FileState, second: int) -> str:
    """Return the real path of a file inside `root` that can be read.

    `state` and `second` are but keys: what changes, or is old, is looked at again.
    """
    real_root = os.path.realpath(root)
    real = os.path.realpath(os.path.join(root, filename))
    # SECURITY: commonpath compares segments: /static is no prefix of /static-secret.
    if os.path.commonpath((real_root, real)) != real_root:
        raise FileNotFoundError(errno.ENOENT, "outside of the root")
    with open(real, "rb", buffering=0, opener=_open_real):
        return real


class _FoundFile(StaticFile):
    """A StaticFile of this process, with the state it had a moment ago."""

    state: Optional[FileState] = None

    def take_state(self) -> Optional[FileState]:
        """Return the state, once: for a response used again it is looked at again."""
        state, self.state = self.state, None
        return state


def _find(root: str, filename: str) -> Tuple[str, FileState]:
    state = _file_state(os.stat(f"{root}{os.sep}{filename}"))
    return _look_inside(root, filename, state, int(time.monotonic())), state


# Of what is asked for with cache=True as much is kept as there are files.
# SECURITY: but not each name of a file. A link to a directory above it makes as many as
# a client likes: a/link/a/link/a ... The first one is kept; the others are bounded.
_first_names: Dict[Tuple[str, str], str] = {}  # by root and name, the real path
_named_files: Dict[Tuple[str, int, int], str] = {}  # root, device, inode: that name


@lru_cache(maxsize=MAX_KNOWN_FILES)
def _find_again(root: str, filename: str) -> str:
    path, state = _find(root, filename)
    if _named_files.setdefault((root, *state[:2]), filename) == filename:
        _first_names[root, filename] = path
    return path


def static_file(
    filename: str,
    root: Union[str, os.PathLike[str]],
    *,
    mimetype: Optional[str] = None,
    download: Union[bool, str, None] = None,
    max_age: Optional[int] = None,
    cache: Optional[bool] = None,
    delete_after: bool = False,
    dotfiles: bool = False,
) -> Response:
    """Return a Response that sends a file.

    Conditions, ranges and compressed copies (`.br`, `.zst`, `.gz`) are handled when it
    is sent, in every placement.

    Args:
        filename: path below `root`, segments joined by "/"; may come from a client.
        root: the directory; no file outside of it is sent, not through links either.
        mimetype: the content type; by default that of the file's name.
        download: True, or the name to save as: the browser saves the file.
        max_age: seconds (int) a client may use its copy without asking again.
        cache: None: kept in memory up to 128 KiB and checked by one os.stat; True: kept
            whatever its size, and never looked at again; False: read each time.
        delete_after: send the file whole, then remove it.
        dotfiles: send it even if its name, or a directory in `filename`, begins with a
            dot. `.well-known/` may always be sent.

    Raises:
        HTTPError: 404 for a file that can't be sent: missing, unreadable, not regular,
            outside of the root, a dot file. The client can't tell which.
        ValueError: max_age is negative, or a header can't hold mimetype.
    """
    block = _describe(filename, mimetype, download, max_age, dotfiles)
    directory, state = os.fspath(root) or ".", None
    try:
        if cache:
            # No look at the disk when the name is known.
            path = _first_names.get((directory, filename)) or _find_again(
                directory, filename
            )
        else:
            path, state = _find(directory, filename)
    except (OSError, ValueError) as error:
        raise _file_error(error) from None
    found = _FoundFile(path, cache, delete_after)
    found.state = state
    return Response.from_block(200, block, found)


def cached_file(
    filename: str, root: Union[str, os.PathLike[str]], **options: Any
) -> Response:
    """Return a Response that sends a file from memory: `static_file` with `cache=True`.

    After the first time the disk is not read, and no change is seen. Use it for files
    that belong to the program and fit into its memory.

    Args:
        options: mimetype, download, max_age and dotfiles, as for `static_file`.
    """
    return static_file(filename, root, cache=True, **options)


def directory_file(
    root: Union[str, os.PathLike[str]],
    filename: str,
    *,
    index: Optional[str] = None,
    max_age: Optional[int] = None,
    cache: Optional[bool] = None,
    dotfiles: bool = False,
    query: str = "",
) -> Response:
    """Return the Response for a path below a directory that is served as it is.

    Args:
        index: the file that stands for a directory ("index.html"); by default a
            directory is a 404 like every name that is not there.
        dotfiles: serve `.git/config`, `.env` and their like too.
        query: `env.query_string`, to be kept where a directory without its last slash
            is redirected.

    Raises:
        HTTPError: 404, as `static_file`.
    """
    if index and (not filename or filename.endswith("/")):
        filename += index
    try:
        options: Any = {"max_age": max_age, "cache": cache, "dotfiles": dotfiles}
        return static_file(filename, root, **options)
    except HTTPError:
        if not index:
            raise
    # A 404 unless the index is there.
    static_file(f"{filename}/{index}", root, dotfiles=dotfiles)
    # Relative, so that it holds wherever the directory is served.
    last = percent_encode(filename.rpartition("/")[2])
    location = f"./{last}/?{query}" if query else f"./{last}/"
    return Response("", 302, headers={"Location": location})


# Representations, and the memory that keeps them --------------------------------------


class Representation(NamedTuple):
    """One file in one state, ready to be sent."""

    size: int
    etag: str
    modified: Optional[int]  # whole seconds since 1970; None if that is yet to come
    block: bytes  # its header lines
    body: Union[bytes, FileSlice]


def _represent(
    path: str, state: FileState, coding: str, content: Optional[bytes] = None
) -> Representation:
    _, _, mtime_ns, _, size = state
    modified = mtime_ns // 10**9
    etag = f'"{mtime_ns:x}-{size:x}{coding and "-" + coding}"'
    lines = f"ETag: {etag}\r\nAccept-Ranges: bytes\r\n"
    # RFC 9110 section 8.8.2.1: never a date later than now.
    is_past = 0 <= modified <= time.time()
    lines += f"Last-Modified: {format_date(modified)}\r\n" if is_past else ""
    lines += f"Content-Encoding: {coding}\r\n" if coding else ""
    body = FileSlice(path, 0, size) if content is None else content
    date = modified if is_past else None
    return Representation(size, etag, date, lines.encode("latin-1"), body)


def _read(path: str, state: FileState, coding: str) -> Representation:
    """Return a representation with its content.

    Raises:
        OSError: the file is not in that state any more.
    """
    with open(path, "rb", opener=_open_real) as file:
        content = file.read(state[-1] + 1)
        if _file_state(os.fstat(file.fileno())) != state:
            raise OSError(errno.EAGAIN, "the file changed while it was read", path)
    return _represent(path, state, coding, content)


@lru_cache(maxsize=MAX_CACHED_FILES)
def _keep(path: str, state: FileState, coding: str) -> Representation:
    """The same, for a file that is asked about each time.

    Raises:
        OSError: also for one that changed just now, and may change again and keep its
            times and size: to git, that is "racily clean".
    """
    if time.time_ns() - state[3] < UNSETTLED_NANOSECONDS:
        raise OSError(errno.EAGAIN, "the file has just changed", path)
    return _read(path, state, coding)


_on_disk = lru_cache(maxsize=MAX_KNOWN_FILES)(_represent)


def _recall(
    path: str, state: FileState, coding: str, cache: Optional[bool]
) -> Representation:
    """Return a representation from memory if it may and can be, else from disk."""
    if cache is not False and state[-1] <= MAX_CACHED_FILE_BYTES:
        try:
            return _keep(path, state, coding)
        except OSError:
            pass
    return _on_disk(path, _look(path), coding)


@lru_cache(maxsize=MAX_KNOWN_FILES)
def _siblings(path: str, state: FileState, second: int) -> Tuple[str, ...]:
    """Return the codings in which a file lies beside itself, none older than it is.

    `second` is but a key: a new sibling is seen within that time.
    """
    found = []
    for coding, suffix in CODINGS.items():
        try:
            if _look(path + suffix)[2] >= state[2]:
                found.append(coding)
        except OSError:
            continue
    return tuple(found)


def _preferred(accept_encoding: Optional[str], available: Tuple[str, ...]) -> str:
    if not available or accept_encoding is None:
        return ""
    best = accepted_codings(accept_encoding, available)[:1]
    return best[0] if best and best[0] in CODINGS else ""


_required_files: Dict[Tuple[int, int], str] = {}  # by device and inode, the path


@lru_cache(maxsize=None)
def _require(path: str) -> Dict[str, Representation]:
    """Return a file, as "", and its siblings by their codings; for cache=True.

    Raises:
        OSError: it can't be read, changes while it is, or is kept by another name.
    """
    state = _look(path)
    # SECURITY: where upper and lower case are one, a name has as many as two to the
    # power of its letters.
    if _required_files.setdefault(state[:2], path) != path:
        raise OSError(errno.EEXIST, "kept by another name", path)
    found = {"": _read(path, state, "")}
    for coding in _siblings(path, state, 0):
        sibling = path + CODINGS[coding]
        found[coding] = _read(sibling, _look(sibling), coding)
    return found


def _choose(
    file: StaticFile, accept_encoding: Optional[str]
) -> Tuple[Representation, bool]:
    """Return what to send for a path, and whether that varies (RFC 9110 12.5.3).

    A client that takes none of what there is gets the file as it is: RFC 9110 section
    12.4.1 allows to disregard the header, and an answer is of more use than a 406.

    Raises:
        OSError: there is no such file any more.
    """
    path, cache, _ = file
    if cache:
        try:
            kept = _require(path)
            return kept[_preferred(accept_encoding, tuple(kept)[1:])], len(kept) > 1
        except OSError:
            pass  # somebody writes to it, or it has a second name: as it is now
    state = file.take_state() if isinstance(file, _FoundFile) else None
    state = state or _look(path)
    available = _siblings(path, state, int(time.monotonic()))
    coding = _preferred(accept_encoding, available)
    if coding:
        sibling = path + CODINGS[coding]
        try:
            return _recall(sibling, _look(sibling), coding, cache), True
        except OSError:
            pass  # it went away within the second
    return _recall(path, state, "", cache), bool(available)


async def _read_parts(
    path: str, parts: List[Tuple[bytes, int, int]]
) -> AsyncIterator[bytes]:
    with open(path, "rb", buffering=0, opener=_open_real) as file:
        for head, start, stop in parts:
            yield head
            file.seek(start)
            while start < stop:
                chunk = file.read(min(FILE_CHUNK_BYTES, stop - start))
                if not chunk:
                    raise OSError(errno.EIO, "the file became shorter while sent", path)
                start += len(chunk)
                yield chunk


async def _slices(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), FILE_CHUNK_BYTES):
        yield content[at : at + FILE_CHUNK_BYTES]


def _send_parts(
    whole: Response, chosen: Representation, ranges: List[Tuple[int, int]]
) -> Response:
    """Return a multipart/byteranges answer, or the whole if that is no longer."""
    boundary = os.urandom(12).hex()
    content_type = whole.headers.get("content-type", OCTETS)
    parts = []
    for start, stop in ranges:
        head = (
            f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\n"
            f"Content-Range: bytes {start}-{stop - 1}/{chosen.size}\r\n\r\n"
        )
        parts.append((head.encode("latin-1"), start, stop))
    parts.append((f"\r\n--{boundary}--\r\n".encode(), 0, 0))
    # SECURITY: many small parts may be longer than the file (RFC 9110 section 17.15).
    length = sum(len(head) + stop - start for head, start, stop in parts)
    if length >= chosen.size:
        return whole
    whole.status = 206
    whole.headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    body = chosen.body
    if isinstance(body, bytes):
        whole.body = b"".join(head + body[start:stop] for head, start, stop in parts)
    else:
        whole.body, whole.stream_bytes = _read_parts(body.path, parts), length
    return whole


def _meet_request(
    method: str, headers: Headers, whole: Response, chosen: Representation
) -> Response:
    """Return the whole answer, a part of it, or a 304, 412 or 416."""
    size, etag, modified, _, body = chosen
    status = evaluate_preconditions(method, headers, etag, modified)
    if status is not None:
        return without_content(whole, status)
    if_range = headers.get("if-range")
    if if_range is not None and not is_range_current(if_range, etag, modified):
        return whole
    ranges = parse_ranges(headers.get("range") or "", size)
    if ranges is None or method != "GET":  # RFC 9110 section 14.2: no other method
        return whole
    if not ranges:
        refused = without_content(whole, 416)
        refused.headers["Content-Range"] = f"bytes */{size}"
        return refused
    if len(ranges) > 1:
        return _send_parts(whole, chosen, ranges)
    start, stop = ranges[0]
    whole.status = 206
    whole.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    if isinstance(body, bytes):
        whole.body = body[start:stop]
    else:
        whole.body = FileSlice(body.path, start, stop - start)
    return whole


def _answer(
    method: str, headers: Headers, response: Response, file: StaticFile
) -> Response:
    block, status = response.plain_block(), response.status
    if file.delete_after:
        size = _file_state(os.lstat(file.path))[-1]
        whole = FileSlice(file.path, 0, size, delete_after=True)
        return Response.from_block(status, block, whole)
    if status != 200 or method not in ("GET", "HEAD"):
        return Response.from_block(status, block, _choose(file, None)[0].body)
    accept_encoding = headers.get("accept-encoding")
    if block.count(b"\n") > 1 or not block.startswith(b"Content-Type: "):
        # PERF: not where there is but a content type: a fifth of a file's time.
        block = REPLACED.sub(b"", block)
        accept_encoding = None if CODED.search(block) else accept_encoding
    chosen, varies = _choose(file, accept_encoding)
    block += chosen.block + (b"Vary: Accept-Encoding\r\n" if varies else b"")
    finished = Response.from_block(200, block, chosen.body)
    # PERF: most browsers send no condition, but a list of codings: 2 of 13 us.
    if len(headers) == ("accept-encoding" in headers):
        return finished
    return _meet_request(method, headers, finished, chosen)


def resolve_file(method: str, headers: Headers, response: Response) -> Response:
    """Return the finished answer for a response whose body is a StaticFile.

    It is a new Response, its body bytes, a FileSlice, or an async iterator (several
    ranges of a file on disk). Any other response is returned as it came.

    Args:
        headers: the request's headers, see `deciding_headers`.
        response: what `static_file` returned, perhaps changed by its handler.
            Conditions and ranges count only for GET and HEAD, and for status 200.

    Raises:
        HTTPError: 404, the file has gone since the handler found it.
    """
    file = response.body
    if not isinstance(file, StaticFile):
        return response
    try:
        finished = _answer(method, headers, response, file)
    except OSError as error:
        raise _file_error(error) from None
    finished.copy_cookies(response)
    body = finished.body
    if isinstance(body, bytes) and len(body) > MAX_CACHED_FILE_BYTES:
        # Only as fast as the client reads: no copy of it waits for each slow one.
        finished.body, finished.stream_bytes = _slices(body), len(body)
    return finished
