"""Decides which process watches a host for all: the one that holds the lock of the latest turn.

A turn is a lock file and a socket, both named after the watch and the turn's number. The kernel releases the lock when
its process ends, however it ends, and the next process goes on with the turn. But a process that is stopped, or whose
forked child has kept the descriptor, holds the lock and tells nothing. So whoever hears nothing in a turn begins the
next one. The holder of the latest turn removes the files of earlier ones, by which their holders see it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass

try:
    import fcntl
except ImportError:  # Windows, where nobody gets here
    fcntl = None  # type: ignore[assignment]

from pgroute.runtime.fork import Inherited, forked

if TYPE_CHECKING:
    from pgroute.monitor.shared.folder import Folder

_ATTEMPTS = 10
_BACKLOG = 1024
_SOCKET = ".s"
_BUFFER = 32_768
"""Bytes that wait for a process that does not read; some 50 messages. Beyond that it is left to itself."""


@dataclass(frozen=True, slots=True)
class Follow:
    """Another process watches.

    Attributes:
        turn: its turn.
        sock: is connected to it.
    """

    turn: int
    sock: socket.socket


@dataclass(frozen=True, slots=True)
class Nobody:
    """The lock of the turn is held, and nobody listens: not yet, not any more, or the process does not run."""

    turn: int


class Lead:
    """This process watches: it holds the lock of a turn and listens.

    Attributes:
        turn: the number.
        sock: listens for the others.
    """

    def __init__(self, folder: Folder, watch: str, turn: int, lock: int) -> None:
        self.turn = turn
        self.sock: socket.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._folder = folder
        self._watch = watch
        self._lock = lock
        self._inherited = Inherited(lock), Inherited(self.sock.fileno())
        forked.register(self)

    def listen(self) -> None:
        """Let others connect.

        Raises:
            OSError: that is not possible.
        """
        name = self._name + _SOCKET
        self._folder.remove(name)  # of a process that was killed
        self.sock.setblocking(False)
        self.sock.bind(self._folder.path(name))
        self.sock.listen(_BACKLOG)

    @property
    def closed(self) -> bool:
        """Whether this process does not lead any more."""
        return self._lock < 0

    @property
    def latest(self) -> bool:
        """Whether no other process has begun a later turn."""
        try:
            return (
                self._folder.current
                and _is_at(self._folder, self._name, self._lock)
                and _latest(self._folder, self._watch) == self.turn
            )
        except OSError:
            return False

    def close(self) -> None:
        """End the turn, and leave no file of it behind."""
        lock, self._lock = self._lock, -1
        if lock < 0:
            return
        with contextlib.suppress(OSError):
            if _is_at(self._folder, self._name, lock):
                self._folder.remove(self._name + _SOCKET)
                self._folder.remove(self._name)
        self.sock.close()
        os.close(lock)

    def after_fork(self) -> None:
        """Close what a forked child has inherited: it would keep the lock and the socket for as long as it lives."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            self.sock.detach()
            for inherited in self._inherited:
                inherited.close()

    @property
    def _name(self) -> str:
        return f"{self._watch}.{self.turn}"


def take_place(folder: Folder, watch: str, *, after: int = -1) -> Lead | Follow | Nobody:
    """Begin to watch, or connect to the process that does.

    Args:
        folder: where the processes meet.
        watch: its name there.
        after: the last turn in which nothing was heard.

    Raises:
        OSError: neither is possible here.
    """
    for _ in range(_ATTEMPTS):
        last = _latest(folder, watch)
        turn = max(-1 if last is None else last, after + 1, 0)
        lock = _open(folder, f"{watch}.{turn}", new=turn != last)
        if lock is None:
            continue
        if not _locked(lock):
            os.close(lock)
            sock = _connected(folder.path(f"{watch}.{turn}{_SOCKET}"))
            return Nobody(turn) if sock is None else Follow(turn, sock)
        try:
            lead = Lead(folder, watch, turn, lock)
        except BaseException:
            os.close(lock)
            raise
        try:
            if lead.latest:
                _remove_earlier(folder, watch, turn)
                lead.listen()
                return lead
        except BaseException:
            lead.close()
            raise
        lead.close()
    raise OSError(errno.EAGAIN, "the files change all the time")


def _turns(folder: Folder, watch: str) -> list[int]:
    """Return the turns that have a lock file."""
    found = []
    for name in folder.names():
        head, _, turn = name.partition(".")
        if head == watch and turn.isdecimal():
            found.append(int(turn))
    return found


def _latest(folder: Folder, watch: str) -> int | None:
    return max(_turns(folder, watch), default=None)


def _remove_earlier(folder: Folder, watch: str, turn: int) -> None:
    for earlier in _turns(folder, watch):
        if earlier < turn:
            folder.remove(f"{watch}.{earlier}{_SOCKET}")
            folder.remove(f"{watch}.{earlier}")


def _open(folder: Folder, name: str, *, new: bool) -> int | None:
    """Open a lock file; None if it is gone. Only the file of a new turn is made."""
    flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if new else 0)
    try:
        return os.open(name, flags, 0o600, dir_fd=folder.fd)
    except FileNotFoundError:
        if new:
            raise  # the folder itself
        return None


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(folder: Folder, name: str, lock: int) -> bool:
    try:
        found = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(lock)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


def _connected(path: str) -> socket.socket | None:
    """Return a socket that is connected to the watching process; None if nobody listens there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return sock
