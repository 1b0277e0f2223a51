"""What must be told, in the child, that the process was forked."""

from __future__ import annotations

import os
import weakref
from typing import Any


class Forks:
    """What runs behind the routers of this process. In a child it is marked, and kept for ever, with the routers:
    nothing of it may be finalized.

    Their sockets, threads and loop are the parent's; a finalizer that closed one would end the parent's session.
    """

    def __init__(self) -> None:
        self._engines: weakref.WeakSet[Any] = weakref.WeakSet()
        self._kept: list[Any] = []
        os.register_at_fork(after_in_child=self._in_child)

    def register(self, engine: Any) -> None:
        """Have its `after_fork` called in each forked child."""
        self._engines.add(engine)

    def _in_child(self) -> None:
        self._kept.extend(self._engines)
        self._engines = weakref.WeakSet()
        for engine in self._kept:
            engine.after_fork()


forked = Forks()
