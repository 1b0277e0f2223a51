"""The socket under a connection, and a safe way to shut it down from another thread."""

from __future__ import annotations

import os
import socket


class AbortHandle:
    """The socket of a connection, which any thread may shut down.

    A descriptor may be closed and reused for something else at any moment. So a duplicate is shut down, and only if it
    is still the socket that was noted at connect.

    Args:
        fd: the descriptor of the socket.
    """

    __slots__ = ("_aborted", "_fd", "_identity")

    def __init__(self, fd: int) -> None:
        self._aborted = False
        self._fd = fd
        info = os.fstat(fd)
        self._identity = (info.st_dev, info.st_ino)

    def abort(self) -> bool:
        """Shut the socket down: a wait on it ends with an error at once. Return whether that was still to be done."""
        if self._aborted:
            return False
        try:
            duplicate = os.dup(self._fd)
        except OSError:
            return False
        try:
            info = os.fstat(duplicate)
            if (info.st_dev, info.st_ino) != self._identity:
                return False
            with socket.socket(fileno=os.dup(duplicate)) as same:
                same.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False
        finally:
            os.close(duplicate)
        self._aborted = True
        return True
