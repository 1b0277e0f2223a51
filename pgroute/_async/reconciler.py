"""Applies each new snapshot to the pools and the sessions in flight, and tells the events."""

from __future__ import annotations

import contextlib
import contextvars  # async-only
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pgroute._acompat import AsyncWorker, async_join_all, async_spawn
from pgroute.core.model.events import Event, EventKind
from pgroute.core.topology.changes import routes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute._acompat import AsyncChanges
    from pgroute._async.listening import AsyncListening
    from pgroute._async.pool.role_pool import AsyncRolePool
    from pgroute.core.model.roles import HostKey, Role
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.event_dispatcher import EventDispatcher
    from pgroute.runtime.meter import Meter

logger = logging.getLogger("pgroute")

_LOG_QUEUE = 1000


class AsyncPoolReconciler:
    """Closes the pools of hosts that lost their role, aborts sessions that are beyond hope, wakes callers that wait for
    a session, and tells the events to subscribers and the log. Ends the watch of a router that is gone without a close.

    Args:
        watch: the source of the snapshots.
        pools: by role.
        dispatcher: of events to subscribers.
        listening: the listeners, whose connection leaves a host that lost its role.
        changes: notified of whatever may end a wait for a session.
        meter: counts what happens to the hosts.
        owner: kept alive until the end: only `close()` ends what runs here.
    """

    def __init__(
        self,
        watch: ClusterWatch,
        pools: Mapping[Role, AsyncRolePool[Any]],
        dispatcher: EventDispatcher,
        listening: AsyncListening,
        changes: AsyncChanges,
        *,
        meter: Meter,
        owner: object,
    ) -> None:
        self._watch = watch
        self._pools = pools
        self._dispatcher = dispatcher
        self._listening = listening
        self._changes = changes
        self._meter = meter
        self._owner = owner
        self._log: deque[tuple[int, str, BaseException | None]] = deque(maxlen=_LOG_QUEUE)
        self._worker: AsyncWorker | None = None
        self._name = ""
        self._done = 0  # async-only
        self._ended = False

    def start(self, name: str) -> None:
        """Begin, and start the watch; *name* is the router's.

        Raises:
            RuntimeError: a thread cannot be started; `watch.stop` and `stop` undo what was begun.
        """
        self._name = f"pgroute-reconciler-{name}"
        self._worker = async_spawn(self._work, self._name)
        self._watch_worker(self._worker)  # async-only
        self._changes.then = self._go_on  # async-only
        self._watch.start(self)

    # async-only: begin
    def _go_on(self, _: object = None) -> None:
        # Some applications cancel every task that they find. It begins again when there is something to do, not at
        # once: a task begun while asyncio.run() ends would be left over.
        worker = self._worker
        if (
            worker is not None
            and worker.cancelled()
            and self._done != self._changes.version
            and not self._ended
        ):
            self._worker = async_spawn(self._work, self._name)
            self._watch_worker(self._worker)

    def _watch_worker(self, worker: AsyncWorker) -> None:
        worker.add_done_callback(self._go_on, context=contextvars.Context())  # not what the caller's holds

    # async-only: end
    async def stop(self, timeout: float) -> None:
        """End, and wait at most *timeout* seconds until the queued messages are in the log."""
        self._done = -1  # async-only
        self._go_on()  # async-only
        self._ended = True
        self._meter.close()
        self._changes.notify()
        if self._worker is not None:
            await async_join_all([self._worker], timeout)

    # async-only: begin
    def abandon(self) -> None:
        """End without a word more: the loop is closed."""
        self._ended = True
        self._meter.close()

    # async-only: end
    async def _work(self) -> None:
        """Close the pools of hosts that lost their role, as soon as they do, and write the log.

        A log handler is the user's code, so it is called here and never in the monitor's thread.
        """
        while True:
            version = self._changes.version  # first: a change after this line ends the wait below
            ended = self._ended  # what was queued before is logged below
            for pool in self._pools.values():
                try:
                    await pool.reconcile()
                except Exception:
                    # A fault here must not leave the pools of a host that lost its role open.
                    with contextlib.suppress(Exception):
                        logger.exception("closing pools failed")
            while self._log:
                level, text, exc = self._log.popleft()
                with contextlib.suppress(Exception):
                    logger.log(level, "%s", text, exc_info=exc)
            if ended:
                return
            self._done = version  # async-only
            await self._changes.wait(version, 60.0)

    def on_snapshot(self, old: Topology, topology: Topology, events: tuple[Event, ...]) -> None:
        """Take a new snapshot; called in the monitor's thread, as `sessions_at`, `abort` and `log_error` are."""
        if self._changes.deserted:
            self._watch.leave()
            return
        self._meter.on_snapshot(topology)
        self._tell(events)
        if events or routes(old) != routes(topology) or old.drained != topology.drained:
            self._changes.notify()
            self._listening.on_snapshot(old, topology)

    def sessions_at(self, key: HostKey, address: str | None) -> int:
        """Return the number of sessions in flight at an address."""
        return sum(pool.in_use_at(key, address) for pool in self._pools.values())

    def abort(self, key: HostKey, address: str | None, reason: str) -> None:
        """Abort the sessions in flight at an address."""
        if count := sum(pool.abort(key, address) for pool in self._pools.values()):
            self._meter.sessions_aborted += count
            text = f"aborted {count} sessions: {reason}"
            now = time.monotonic()
            self._tell((Event(EventKind.SESSIONS_ABORTED, now, key, text, level=logging.WARNING),))
        self._changes.notify()

    def log_error(self, text: str, exc: BaseException | None) -> None:
        """Log a bug in pgroute."""
        self._log.append((logging.ERROR, text, exc))
        self._changes.notify()

    def _tell(self, events: tuple[Event, ...]) -> None:
        if events:
            self._meter.on_events(events)
            self._log.extend((event.level, event.text, None) for event in events)
            self._dispatcher.put(events)
