"""What every new snapshot means for the pools and the sessions in flight, and who is told of it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pgroute._acompat import AsyncWorker, async_join_all, async_spawn
from pgroute.core.routing.acquisition import routes
from pgroute.core.topology.events import Event, EventKind

if TYPE_CHECKING:
    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.transition import Topology

logger = logging.getLogger("pgroute")

_LOG_QUEUE = 1000


class AsyncPoolReconciler:
    """Closes the pools of hosts that lost their role, aborts sessions that are beyond hope, wakes those who wait, and
    tells the events to subscribers and the log. Ends the watch of a router that is gone without a close.

    Args:
        engine: whose watch, pools and dispatcher these are.
    """

    def __init__(self, engine: AsyncSessionManager[Any]) -> None:
        self._engine = engine
        self._told: deque[tuple[int, str, BaseException | None]] = deque(maxlen=_LOG_QUEUE)
        self._worker: AsyncWorker | None = None
        self._ended = False

    def start(self, name: str) -> None:
        """Begin, and the watch with it; the name is that of the router.

        Raises:
            RuntimeError: a thread cannot be started; `watch.stop` and `stop` undo what was begun.
        """
        self._worker = async_spawn(self._keep, f"pgroute-keeper-{name}")
        self._engine.watch.start(self)

    async def stop(self, timeout: float) -> None:
        """End, once what was told is in the log; wait for that for so many seconds."""
        self._ended = True
        self._engine.changes.notify()
        if self._worker is not None:
            await async_join_all([self._worker], timeout)

    async def _keep(self) -> None:
        """Close the pools of hosts that lost their role, as soon as they do, and log what happens.

        Here, for a log handler is the user's code, which the monitor's thread never calls.
        """
        engine = self._engine
        while True:
            version = engine.changes.version  # first: what changes after this look ends the wait below
            ended = self._ended  # what was told before is logged below
            for pool in engine.pools.values():
                try:
                    await pool.reconcile(engine.watch.topology)
                except Exception:
                    # A fault here must not leave the pools of a host that lost its role open.
                    with contextlib.suppress(Exception):
                        logger.exception("closing pools failed")
            while self._told:
                level, text, exc = self._told.popleft()
                with contextlib.suppress(Exception):
                    logger.log(level, "%s", text, exc_info=exc)
            if ended:
                return
            await engine.changes.wait(version, 60.0)

    def on_snapshot(self, old: Topology, topology: Topology, events: tuple[Event, ...]) -> None:
        """Take a new snapshot; called in the monitor's thread, as `sessions_at`, `abort` and `log_error` are."""
        if self._engine.changes.deserted:
            self._engine.watch.leave()
            return
        self._tell(events)
        if events or routes(old) != routes(topology):
            self._engine.changes.notify()

    def sessions_at(self, key: HostKey, address: str | None) -> int:
        """Return the sessions in flight at an address."""
        return sum(pool.in_use_at(key, address) for pool in self._engine.pools.values())

    def abort(self, key: HostKey, address: str | None, reason: str) -> None:
        """Cut the sessions in flight at an address."""
        if count := sum(pool.abort(key, address) for pool in self._engine.pools.values()):
            text = f"aborted {count} sessions: {reason}"
            self._tell((Event(EventKind.SESSIONS_ABORTED, time.monotonic(), key, text),))
        self._engine.changes.notify()

    def log_error(self, text: str, exc: BaseException | None) -> None:
        """Have a bug in pgroute logged."""
        self._told.append((logging.ERROR, text, exc))
        self._engine.changes.notify()

    def _tell(self, events: tuple[Event, ...]) -> None:
        if events:
            self._told.extend((event.level, event.text, None) for event in events)
            self._engine.dispatcher.put(events)
