"""The place of the state, and the conditions for it.

A server has a directory of its own. It holds the counts of its processes, and the
state that ends with the server. While it runs it holds a lock there. The next server
removes the directories whose lock is free.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from typing import Dict, List, NamedTuple, Optional

from ..errors import PixieError

PREFIX = "pixie_web-state-"
LOCK = "lock"
YOUNG_SECONDS = 60  # a directory without a lock may be about to get one
# A lock on these is told to nobody, or the memory that processes share is none.
REMOTE = frozenset(
    "nfs nfs4 cifs smb3 smbfs ncpfs afs ceph fuse.sshfs fuse.glusterfs fuse.s3fs 9p "
    "lustre beegfs gpfs glusterfs".split()
)


class Place(NamedTuple):
    """Where a store lies, and how it is kept.

    Attributes:
        url: a path, or that of a Redis.
        directory: of the server's own, for what goes with it; None outside of one.
        max_bytes: of the file.
        durable: nothing that was acknowledged is lost when the power fails.
        volatile: it goes with the server.
    """

    url: str
    directory: Optional[str] = None
    max_bytes: int = 32 * 1024 * 1024
    durable: bool = False
    volatile: bool = False


_locks: Dict[str, int] = {}  # of the directories that this process has made


def is_url(url: str) -> bool:
    """Return whether a place is none in the file system."""
    return "://" in url


def filesystem_of(path: str, mounts: str) -> str:
    """Return the type of the file system that a path lies on, or "".

    Args:
        mounts: the text of /proc/self/mountinfo (proc(5)).
    """
    found, best = "", ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split(" ")[4].encode().decode("unicode_escape")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            found, best = rest.split(" ")[0], point
    return found


def check_path(path: str) -> str:
    """Return a path, made absolute, that a file of state may have.

    Raises:
        PixieError: it may not, and why.
    """
    path = os.path.realpath(path)
    directory = os.path.dirname(path)
    if os.path.isdir(path) or not os.path.isdir(directory):
        raise PixieError(
            f"state= is the path of a file in a directory that is there, got {path}"
        )
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            kind = filesystem_of(directory, file.read())
    except OSError:
        return path
    if kind in REMOTE:
        raise PixieError(
            f"state= names {path} on {kind}, where locks and shared memory do not "
            "work; take a local disk, or redis://"
        )
    return path


def make_directory() -> str:
    """Return a new directory that is locked while this process lives.

    Raises:
        PixieError: there is no place for temporary files.
    """
    try:
        directory = tempfile.mkdtemp(prefix=PREFIX)
        new = os.path.join(directory, "new")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(new, os.path.join(directory, LOCK))  # nobody sees it unlocked
    except OSError as error:
        raise PixieError(
            f"there is no place for the state: {error}; set TMPDIR, or state=path"
        ) from None
    _locks[directory] = descriptor
    return directory


def is_stale(directory: str) -> bool:
    """Return whether nobody holds the lock of a directory any more."""
    try:
        descriptor = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        try:
            return time.time() - os.stat(directory).st_mtime > YOUNG_SECONDS
        except OSError:
            return False
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def remove_stale() -> None:
    """Remove what servers have left that were killed."""
    try:
        with os.scandir(tempfile.gettempdir()) as entries:
            found = [one.path for one in entries if one.name.startswith(PREFIX)]
    except OSError:
        return
    for directory in found:
        try:
            own = os.stat(directory).st_uid == os.getuid()
        except OSError:
            continue
        # Not those of this process: closing any descriptor of a lock drops it.
        if own and directory not in _locks and is_stale(directory):
            shutil.rmtree(directory, ignore_errors=True)


def make_place(
    url: str, max_bytes: int, durable: bool, of_server: bool = True
) -> Place:
    """Return where state lies; nothing is opened yet.

    Args:
        of_server: it has a directory, and removes what others have left.

    Raises:
        PixieError: it can't lie there.
    """
    directory = None
    if of_server:
        remove_stale()
    if of_server or url == "memory":
        directory = make_directory()
    if url == "memory":
        assert directory is not None
        path = os.path.join(directory, "state")
        return Place(path, directory, max_bytes, False, volatile=True)
    if not is_url(url):
        try:
            url = check_path(url)
        except BaseException:
            if directory is not None:
                remove_directory(directory)
            raise
    return Place(url, directory, max_bytes, durable)


def remove_directory(directory: str) -> None:
    """Remove a directory that this process has made."""
    descriptor = _locks.pop(directory, None)
    if descriptor is not None:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(descriptor)


def place_descriptors() -> List[int]:
    """Return the descriptors that hold the directories of this process."""
    return list(_locks.values())


def remove_place(place: Place) -> None:
    """Remove what went with the server."""
    if place.directory is not None:
        remove_directory(place.directory)
