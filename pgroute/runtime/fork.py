"""Detects that the process was forked: what was made before a fork belongs to the parent."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Forkable(Protocol):
    """An object that starts over in a forked child."""

    def after_fork(self) -> None:
        """Discard what belongs to the parent; called in the child."""


class ForkHooks:
    """Notices a fork in the child, and has everything start over there.

    `os.register_at_fork` reports a fork made by Python at once. A fork made in C, which is uWSGI's default, runs no
    Python hook; whatever starts a thread or a connection therefore calls `notice()` first, which compares the pid.

    The child keeps the parent's objects forever: their sockets, threads and loop are the parent's, and a finalizer that
    closed one would end the parent's session.

    Attributes:
        importing: hold it to import a module in any thread. A fork waits for it: in the child, the lock of a module
            that another thread is importing is never released.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._hooks: list[Callable[[], None]] = []
        self._objects: weakref.WeakSet[Forkable] = weakref.WeakSet()
        self._kept: list[Forkable] = []
        # Reentrant: a signal handler may fork amid an import, which then goes on in both processes.
        self.importing: threading.RLock = threading.RLock()
        os.register_at_fork(
            before=self.importing.acquire,
            after_in_parent=self.importing.release,
            after_in_child=self._after_fork,
        )
        # For a child that never uses pgroute. Registered first, it runs last at exit, but before any finalizer.
        atexit.register(self.notice)

    def register(self, obj: Forkable) -> None:
        """Call the object's `after_fork` in each forked child."""
        self._objects.add(obj)

    def hook(self, fn: Callable[[], None]) -> None:
        """Call *fn* in each forked child, before any `after_fork`."""
        self._hooks.append(fn)

    def notice(self) -> None:
        """Compare the pid, and start over if it has changed."""
        if os.getpid() == self._pid:
            return
        with self._lock:  # several threads of the child may arrive together
            if os.getpid() != self._pid:
                self._start_over()

    def _after_fork(self) -> None:
        self.importing.release()
        self._lock = threading.Lock()
        self._start_over()

    def _start_over(self) -> None:
        self._kept.extend(self._objects)
        self._objects = weakref.WeakSet()
        for fn in self._hooks:
            fn()
        for obj in self._kept:
            obj.after_fork()
        self._pid = os.getpid()  # last: until then other threads of the child wait in `notice`


class Inherited:
    """A descriptor that a forked child is to close, unless it has closed it itself and the number is another file's.

    Args:
        fd: open.
    """

    __slots__ = ("_fd", "_file")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._file = self._identity()

    def _identity(self) -> tuple[int, int]:
        found = os.fstat(self._fd)
        return found.st_dev, found.st_ino

    def close(self) -> None:
        """Close it in a forked child."""
        with contextlib.suppress(OSError):
            if self._identity() == self._file:
                os.close(self._fd)


forked: ForkHooks = ForkHooks()
