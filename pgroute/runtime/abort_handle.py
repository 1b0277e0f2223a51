"""The socket under a connection, and a safe way to shut it down from another thread."""

from __future__ import annotations

import errno
import os
import socket


class AbortHandle:
    """The socket of a connection, which any thread may shut down.

    A descriptor may be closed and reused for something else at any moment. So a duplicate is shut down, and only if it
    is still the socket that was noted at connect. If the process has no descriptor left for one, the socket itself is:
    whoever waits at it would wait for ever otherwise.

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
        except OSError as exc:
            if exc.errno != errno.EMFILE or not self._shut_down(self._fd):
                return False
        else:
            try:
                if not self._shut_down(duplicate):
                    return False
            finally:
                os.close(duplicate)
        self._aborted = True
        return True

    def _shut_down(self, fd: int) -> bool:
        try:
            info = os.fstat(fd)
            if (info.st_dev, info.st_ino) != self._identity:
                return False
            same = socket.socket(fileno=fd)
            try:
                same.shutdown(socket.SHUT_RDWR)
            finally:
                same.detach()
        except OSError:
            return False
        return True
