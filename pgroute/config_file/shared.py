"""The routers that configuration files have given this process: the same file and name give the same router."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from pgroute._async.router import AsyncRouter
from pgroute.core.late_dataclass import dataclass
from pgroute.faces import AnyRouter, manager_behind
from pgroute.runtime.fork import forked

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


@dataclass(frozen=True, slots=True)
class _Entry:
    """A router that was asked for by its file and name."""

    router: AnyRouter
    loop: asyncio.AbstractEventLoop | None  # in which it was asked for


class SharedRouters:
    """Keeps each router until it is closed, or belongs to a process or an event loop that is over."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may come in between
        self._known: dict[Hashable, Hashable] = {}
        self._entries: dict[Hashable, list[_Entry]] = {}
        forked.register(self)

    def find_or_make(
        self, asked: Hashable, read: Callable[[], tuple[Hashable, Callable[[], AnyRouter]]]
    ) -> AnyRouter:
        """Return a router for the caller's process and event loop, made if there is none.

        Args:
            asked: what the caller asks for.
            read: returns the identity of what that means, and a function that makes it; other callers wait meanwhile.
        """
        forked.notice()
        loop = _running_loop()
        with self._lock:
            if asked in self._known and (found := self._find(self._known[asked], loop)) is not None:
                return found
            identity, make = read()
            self._known[asked] = identity
            if (found := self._find(identity, loop)) is not None:
                return found
            made = make()
            self._entries[identity].append(_Entry(made, loop))
            return made

    def _find(self, identity: Hashable, loop: object) -> AnyRouter | None:
        entries = self._entries[identity] = [e for e in self._entries.get(identity, ()) if _lives(e)]
        return next((entry.router for entry in entries if _is_for(entry, loop)), None)

    def after_fork(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = threading.RLock()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _lives(entry: _Entry) -> bool:
    lifecycle = manager_behind(entry.router).lifecycle
    if lifecycle.opened is not None:
        return lifecycle.state == "open" and not lifecycle.opened.changes.deserted
    return lifecycle.state == "new" and (entry.loop is None or not entry.loop.is_closed())


def _is_for(entry: _Entry, loop: object) -> bool:
    if not isinstance(entry.router, AsyncRouter):
        return True
    opened = manager_behind(entry.router).lifecycle.opened
    belongs = entry.loop if opened is None else opened.loop
    return belongs is None or loop is None or belongs is loop


shared: SharedRouters = SharedRouters()
