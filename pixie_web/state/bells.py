"""Doorbells: they tell a process that there is a new message.

Messages are rows; a bell only says "look". It is a datagram socket with a name, one
for each process that has subscribers. A full bell has been rung already. A bell
without a reader belongs to a process that is gone. A waiting reader looks once a
second in any case, because a publisher may be killed between its commit and the ring.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from glob import escape, glob
from typing import Any, Callable, Iterator, List

LOOK_SECONDS = 1.0
MAX_ADDRESS_BYTES = 100  # of sockaddr_un's 108


@contextmanager
def address_of(path: str) -> Iterator[str]:
    """Have a socket's path, or one that is short enough and means the same (Linux)."""
    if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
        yield path
        return
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)


def ring(path: str) -> bool:
    """Ring a bell; return whether it is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.setblocking(False)
        try:
            with address_of(path) as address:
                one.sendto(b"\0", address)
        except BlockingIOError:
            pass  # rung already
        except (FileNotFoundError, ConnectionRefusedError):
            try:
                os.unlink(path)
            except OSError:
                pass
            return False
        except OSError:
            pass
        return True


class FileBell:
    """The bell of this process.

    Args:
        path: of the store.
        perform: performs an operation of `Session`.
    """

    def __init__(self, path: str, perform: Callable[..., Any]) -> None:
        self._perform = perform
        for other in glob(f"{escape(path)}-bell-*"):
            ring(other)  # or take it down: its process may have died before its row
        name = f"-bell-{os.getpid()}-{os.urandom(4).hex()}"
        self._path = path + name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            with address_of(self._path) as address:
                self._socket.bind(address)
            os.chmod(self._path, 0o600)
            self._seen = int(perform("add_bell", (self._path,)))
        except BaseException:
            self.close()
            raise

    def wait(self, channels: object = None) -> List[str]:
        """Wait for a ring, for a second at most; return the channels with news."""
        self._socket.settimeout(LOOK_SECONDS)
        try:
            self._socket.recv(16)
            self._socket.setblocking(False)
            while True:  # one look is enough for all of them
                self._socket.recv(16)
        except OSError:  # nothing more, or nothing at all
            pass
        self._seen, names = self._perform("changed", (self._seen,))
        return list(names)

    def ring(self) -> None:
        """Have who waits look."""
        ring(self._path)

    def close(self) -> None:
        """Be no bell any more."""
        self._socket.close()
        try:
            os.unlink(self._path)
            self._perform("remove_bell", (self._path,))
        except Exception:
            pass  # whoever rings it finds that out
