"""The socket under a connection: whether something is waiting there, and a safe way to cut it."""

from __future__ import annotations

import os
import select
import socket


class Wire:
    """The socket of a connection: whether something is waiting there, and a way to cut it from any thread.

    A descriptor may be closed and used again for something else at any moment, so what is cut is a duplicate, and only
    if it still is the socket that was noted at connect.
    """

    __slots__ = ("_fd", "_identity", "poll")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        info = os.fstat(fd)
        self._identity = (info.st_dev, info.st_ino)
        poller = select.poll()
        poller.register(fd, select.POLLIN | select.POLLHUP | select.POLLERR)
        # Called with 0 it returns what is waiting: nothing as long as the peer is alive as far as the kernel knows.
        self.poll = poller.poll

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
