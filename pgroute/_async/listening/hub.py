"""The one connection of a router's listeners: the thread or task that keeps it, from the first listener to the last."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._acompat import (
    AsyncDoorbell,
    AsyncWorker,
    async_finished,
    async_join_all,
    async_spawn,
)
from pgroute._async.listening.keeper import LONGEST_PAUSE, AsyncLinkKeeper
from pgroute._async.listening.listeners import AsyncListeners
from pgroute.core.faults.classify import one_line

if TYPE_CHECKING:
    from pgroute._async.listening.subscriber import AsyncSubscriber
    from pgroute.core.config.router_config import RouterConfig
    from pgroute.core.model.notifications import Gap, Notification
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.connect_backoff import ConnectBackoff
    from pgroute.runtime.credentials import CredentialSource

logger = logging.getLogger("pgroute")


class AsyncListeningHub:
    """The listeners of one router.

    A worker keeps the connection while there are listeners. It begins with the first of them and ends with the last.

    Args:
        config: the router's.
        connection_class: psycopg's, or the user's subclass.
        watch: on the hosts.
        backoff: the writers'.
        source: calls the user's credentials function; None: there is none.
        name: the router's, for the name of the thread or task.
    """

    def __init__(
        self,
        config: RouterConfig,
        connection_class: type[psycopg.AsyncConnection[Any]],
        watch: ClusterWatch,
        backoff: ConnectBackoff,
        source: CredentialSource | None,
        *,
        name: str,
    ) -> None:
        self._listeners = AsyncListeners()
        self._keeper = AsyncLinkKeeper(
            self._listeners, config, connection_class, watch=watch, backoff=backoff, source=source
        )
        self._name = f"pgroute-listener-{name}"
        self._bell: AsyncDoorbell | None = None
        self._workers: list[AsyncWorker] = []
        self._pid = os.getpid()

    @property
    def failure(self) -> psycopg.Error | None:
        """Why the last attempt to listen at the primary failed; None: it did not."""
        return self._keeper.failure

    @property
    def closed(self) -> bool:
        """Whether the router is closed: no listener receives anything any more."""
        return self._keeper.closed

    @property
    def idle(self) -> bool:
        """Whether there is no worker and no listener."""
        return self._listeners.idle

    def add(self, subscriber: AsyncSubscriber) -> None:
        """Add a listener; `has_joined` tells when it receives.

        Raises:
            psycopg.OperationalError: a thread cannot be started.
        """
        served = self._listeners.add(subscriber)
        try:
            if not served:
                self._pid = os.getpid()
                self._workers = [worker for worker in self._workers if not async_finished(worker)]
                self._workers.append(async_spawn(self._work, self._name))
        except RuntimeError as exc:
            raise psycopg.OperationalError(f"cannot listen: {exc}") from None
        self._ring()

    def remove(self, subscriber: AsyncSubscriber) -> None:
        """Forget a listener."""
        self._listeners.remove(subscriber)
        self._ring()

    def has_joined(self, subscriber: AsyncSubscriber) -> bool:
        """Return whether a listener receives what is sent from now on.

        Raises:
            psycopg.Error: the server has refused to listen to its channels.
        """
        return self._listeners.has_joined(subscriber)

    def take(self, subscriber: AsyncSubscriber, taken: list[Notification | Gap]) -> None:
        """Move what came first for a listener, if anything waits, to a list."""
        self._listeners.take(subscriber, taken)

    def put_back(self, subscriber: AsyncSubscriber, taken: list[Notification | Gap]) -> None:
        """Undo a `take` whose caller was interrupted."""
        self._listeners.put_back(subscriber, taken)

    def on_snapshot(self, old: Topology, topology: Topology) -> None:
        """Leave a host that is not the primary any more; called in the monitor's thread."""
        self._keeper.on_snapshot(old, topology)
        self._ring()
        self._listeners.wake_joining()

    def close(self) -> None:
        """End: listeners are told what waits for them, and no more. May be called again."""
        self._keeper.close()
        self._ring()
        self._listeners.wake_all()

    async def join(self, timeout: float) -> None:
        """Wait at most *timeout* seconds for the worker to end."""
        await async_join_all(tuple(self._workers), timeout)

    def _ring(self) -> None:
        if (bell := self._bell) is not None:
            bell.ring()

    async def _work(self) -> None:
        if not self._listeners.begin_to_serve():
            return  # two listeners came at the same time
        try:
            bell = self._bell = AsyncDoorbell()
            while await self._go_on(bell):
                try:
                    await self._keeper.turn(bell)
                except Exception as exc:
                    # A fault here must not leave listeners without a word.
                    logger.exception("listening failed")
                    await self._keeper.end_link(f"listening failed: {one_line(str(exc))}")
                    await bell.wait(None, LONGEST_PAUSE)
        except OSError as exc:  # no descriptor for the bell
            self._listeners.unserved()
            self._listeners.refused_all(psycopg.OperationalError(f"cannot listen: {exc}"))
        except BaseException:
            self._listeners.unserved()
            if os.getpid() == self._pid:
                await self._keeper.end_link()
            raise

    async def _go_on(self, bell: AsyncDoorbell) -> bool:
        if os.getpid() != self._pid:
            return False  # the copy in a forked child, whose connection is its parent's
        if not (self.closed or self._listeners.empty):
            return True
        await self._keeper.end_link()

        def end() -> None:
            self._bell = None
            bell.close()

        return self._listeners.still_to_serve(end, closed=self.closed)
