"""Which process this is: what was made before a fork belongs to the parent."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Forks:
    """Notices, in the child, that the process was forked, and has everything begin anew there.

    A fork by Python is noticed at once. One in C (uWSGI's default) runs no hook of Python's, so whatever begins
    something calls `notice()` first, which compares the pid.

    In the child the routers of the parent are kept for ever: their sockets, threads and loop are the parent's, and a
    finalizer that closed one would end the parent's session.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._hooks: list[Callable[[], None]] = []
        self._engines: weakref.WeakSet[Any] = weakref.WeakSet()
        self._kept: list[Any] = []
        os.register_at_fork(after_in_child=self._after_fork)
        # Of a child that never used pgroute; what is registered earlier runs later, the finalizers after all.
        atexit.register(self.notice)

    def register(self, engine: Any) -> None:
        """Have its `after_fork` called in each forked child."""
        self._engines.add(engine)

    def hook(self, fn: Callable[[], None]) -> None:
        """Have *fn* called in each forked child, before anything else there."""
        self._hooks.append(fn)

    def notice(self) -> None:
        """Compare the pid, and begin anew if it is another one."""
        if os.getpid() == self._pid:
            return
        with self._lock:  # threads of the child may come here together
            if os.getpid() != self._pid:
                self._begin_anew()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._kept.extend(self._engines)
        self._engines = weakref.WeakSet()
        for fn in self._hooks:
            fn()
        for engine in self._kept:
            engine.after_fork()
        self._pid = os.getpid()


forked = Forks()
