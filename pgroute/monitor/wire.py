"""The socket under a connection, and a safe way to cut it."""

from __future__ import annotations

import os
import socket


class Wire:
    """The socket of a connection, and a way to cut it from any thread.

    A descriptor may be closed and used again for something else at any moment, so what is cut is a duplicate, and only
    if it still is the socket that was noted at connect.
    """

    __slots__ = ("_fd", "_identity")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        info = os.fstat(fd)
        self._identity = (info.st_dev, info.st_ino)

    def cut(self) -> bool:
        """Shut the socket down; whoever waits on it gets an error at once. Return whether it was still that socket."""
        try:
            duplicate = os.dup(self._fd)
        except OSError:
            return False
        try:
            info = os.fstat(duplicate)
            if (info.st_dev, info.st_ino) != self._identity:
                return False
            with socket.socket(fileno=os.dup(duplicate)) as wire:
                wire.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False
        finally:
            os.close(duplicate)
        return True
