"""One listener: the context manager that is iterated for notifications."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._acompat import AsyncFace
from pgroute._async.listening.subscriber import AsyncSubscriber
from pgroute.core.config.checks import check_integer, check_number
from pgroute.core.listening import check_channels, primary_to_listen_at
from pgroute.core.model.roles import Role
from pgroute.core.routing.acquisition import GiveUp, Wait

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from pgroute._async.manager import AsyncSessionManager
    from pgroute._async.open_state import AsyncOpenState
    from pgroute.core.model.notifications import Gap, Notification


class AsyncListener(AsyncFace):
    """Receives notifications from the primary, wherever it is: what `listen()` returns.

    Use it once, in a ``with`` statement. Once that is entered, every notification that is sent on its channels comes
    out of the iteration, or a Gap that says from when on some may be missing. A Gap is handed out when the listener
    receives again: what is sent after that is not missing.

    The iteration ends when the router is closed. Several threads or tasks may share it; each item goes to one of them.

    Raises:
        RuntimeError: on entering, it was in use already.
        psycopg.Error: on entering, the server's error.
        psycopg.NotSupportedError: on entering, there is a pooler that lends server sessions for a transaction only.
    """

    __module__ = "pgroute"

    def __init__(
        self,
        manager: AsyncSessionManager[Any],
        channels: tuple[object, ...],
        *,
        timeout: float | None,
        limit: object,
    ) -> None:
        check_number("timeout", timeout, none=True)
        check_integer("max_waiting", limit, low=1)
        assert isinstance(limit, int)
        self._manager = manager
        self._channels = check_channels(channels)
        self._timeout = manager.config.acquire_timeout if timeout is None else timeout
        self._limit = limit
        self._router: AsyncOpenState | None = None
        self._subscriber: AsyncSubscriber | None = None
        self._ended = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(map(repr, self._channels))}>"

    async def __aenter__(self) -> Self:
        if self._router is not None:
            raise RuntimeError("this listener is in use already; ask the router for another")
        self._router = self._manager.lifecycle.check_open()
        try:
            self._subscriber = subscriber = AsyncSubscriber(self._channels, self._limit)
            self._manager.listening.hub.add(subscriber)
            await self._join(subscriber)
            return self
        except BaseException:
            self._leave()
            raise

    async def _join(self, subscriber: AsyncSubscriber) -> None:
        manager, hub = self._manager, self._manager.listening.hub
        start = time.monotonic()
        deadline = start + self._timeout
        acquisition = manager.listeners_acquisition(start, self._timeout)
        while True:
            version = subscriber.changes.version
            if hub.has_joined(subscriber):
                return
            manager.lifecycle.check_open()
            now = time.monotonic()
            topology = manager.topology
            if now >= deadline and (candidate := primary_to_listen_at(topology)) is not None:
                acquisition.failed(candidate, hub.failure or psycopg.OperationalError("no answer to LISTEN"))
            step = acquisition.step(topology, now, manager.pools[Role.WRITER].load)
            if isinstance(step, GiveUp):
                raise step.error
            until = min(deadline, step.until) if isinstance(step, Wait) else deadline
            await subscriber.changes.wait(version, max(0.0, until - now))

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            self._leave()
        except BaseException:
            self._leave()  # an interrupt may have come halfway
            raise

    def _leave(self) -> None:
        self._ended = True
        subscriber, router = self._subscriber, self._router
        if subscriber is not None and router is not None and not router.inherited:
            if (hub := self._manager.listening.made) is not None:
                hub.remove(subscriber)
            subscriber.changes.notify()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notification | Gap:
        taken: list[Notification | Gap] = []
        try:
            await self._take(None, taken)
            if not taken:
                raise StopAsyncIteration
            return taken[0]
        except BaseException:
            self._put_back(taken)
            raise

    @property
    def closed(self) -> bool:
        """Whether nothing more will be received: the router or the ``with`` statement has ended."""
        return self._ended or self._manager.listening.closed

    async def next(self, timeout: float | None = None) -> Notification | Gap | None:
        """Return the next Notification or Gap; None if there was none in time, or `closed` and all were taken.

        Args:
            timeout: seconds to wait; 0: what is there now; None: until there is one.

        Raises:
            ConfigError: the timeout is not a number of seconds.
            RuntimeError: it was not entered.
            RouterClosed: the process was forked, and this is the child's copy.
        """
        check_number("timeout", timeout, none=True)
        taken: list[Notification | Gap] = []
        try:
            await self._take(timeout, taken)
            return taken[0] if taken else None
        except BaseException:
            self._put_back(taken)
            raise

    async def _take(self, timeout: float | None, taken: list[Notification | Gap]) -> None:
        """Move the next item, if there is one in time, to a list, where an interrupt cannot lose it."""
        subscriber, router = self._subscriber, self._router
        if subscriber is None or router is None:
            raise RuntimeError("enter the listener first: `with router.listen(...) as events`")
        hub = self._manager.listening.hub
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            if router.inherited:
                raise router.inherited_error()
            version = subscriber.changes.version
            closed = self.closed  # first: what has come before is handed out
            hub.take(subscriber, taken)
            left = None if until is None else until - time.monotonic()
            if taken or closed or (left is not None and left <= 0):
                return
            await subscriber.changes.wait(version, left)

    def _put_back(self, taken: list[Notification | Gap]) -> None:
        if self._subscriber is not None and taken:
            self._manager.listening.hub.put_back(self._subscriber, taken)
