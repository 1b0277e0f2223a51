"""What must be told, in the child, that the process was forked."""

from __future__ import annotations

import os
import weakref
from typing import Any


class Forks:
    """The routers of this process. In a child they are marked, and kept for ever: nothing of them may be finalized.

    Their sockets, threads and loop are the parent's; a finalizer that closed one would end the parent's session.
    """

    def __init__(self) -> None:
        self._routers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._kept: list[Any] = []
        os.register_at_fork(after_in_child=self._in_child)

    def register(self, router: Any) -> None:
        """Have the router's `_after_fork` called in each forked child."""
        self._routers.add(router)

    def _in_child(self) -> None:
        self._kept.extend(self._routers)
        self._routers = weakref.WeakSet()
        for router in self._kept:
            router._after_fork()


forked = Forks()
