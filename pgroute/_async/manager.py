"""What runs behind a router: the watch on its hosts, the pools of both roles, the way of a session to one."""

from __future__ import annotations

import math
import os
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

# sync-only: from psycopg_pool.abc import CT
from psycopg_pool.abc import ACT as CT  # async-only

from pgroute._acompat import (
    AsyncChanges,
    AsyncLock,
    async_blocking,
    async_keep_time,
    async_loop_identity,
    async_myself,
    async_stop_keeping_time,
)
from pgroute._async.pool.role_pool import AsyncRolePool
from pgroute._async.reconciler import AsyncPoolReconciler
from pgroute._async.session import _quietly_roll_back
from pgroute.core.config.options import check_number
from pgroute.core.model.roles import Role, SessionAttrs
from pgroute.core.model.stats import RouterStats
from pgroute.core.routing.acquisition import Acquisition, GiveUp, Try, first_choice, patience
from pgroute.core.routing.lending import PoolFull
from pgroute.errors import RouteError, RouterClosed
from pgroute.monitor.cluster_watch import ClusterWatch
from pgroute.runtime.connect_backoff import ConnectBackoff
from pgroute.runtime.event_dispatcher import EventDispatcher
from pgroute.runtime.fork import forked

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute._async.router import AsyncRouter
    from pgroute.core.config.router_config import RouterConfig
    from pgroute.core.routing.balance import Candidate
    from pgroute.core.topology.events import Event
    from pgroute.core.topology.transition import Topology

_NEW, _OPEN, _CLOSING, _CLOSED = "new", "open", "closing", "closed"
_END_TIMEOUT = 2.0


class AsyncSessionManager(Generic[CT]):
    """All of a router but its face.

    Args:
        plan: what the router was told.
        connection_class: of the connections.
        router: whose; errors show it. An open one is kept alive, for only `close()` ends what runs here.

    Attributes:
        plan: as given.
        watch: on the hosts.
        pools: by role.
        changes: notified of whatever may end a wait for a session; from `open()` on.
        dispatcher: of events to subscribers.
        closing: an open router is being closed, or was: sessions that end are waited for.
    """

    changes: AsyncChanges

    def __init__(self, plan: RouterConfig, connection_class: type[CT], router: AsyncRouter[CT]) -> None:
        self.plan = plan
        self.watch = ClusterWatch(
            plan.dsn.hosts,
            plan.probe_params,
            plan.probe,
            plan.rules,
            resolver=plan.resolver,
            mode=plan.addresses,
            targets=plan.targets,
        )
        bars = ConnectBackoff()
        others = bars.twin() if plan.same_login else ConnectBackoff()
        self.pools = {
            Role.WRITER: AsyncRolePool(plan.writer, connection_class, self.watch, bars),
            Role.READER: AsyncRolePool(plan.reader, connection_class, self.watch, others),
        }
        self.dispatcher = EventDispatcher()
        self.closing = False
        self._state = _NEW
        self._pid = 0
        self._router = router
        self._rng = random.Random()
        self._loop: object = None
        self._turn = AsyncLock()
        self._busy: object = None
        self._until = math.inf
        self._keeper: AsyncPoolReconciler | None = None
        forked.register(self)

    @property
    def inherited(self) -> bool:
        """Whether this is the copy in a forked child, whose connections are the parent's; no hook is needed for it."""
        return self._pid != 0 and self._pid != os.getpid()

    @property
    def state(self) -> str:
        """What may be done with it here: "new", "open", "closing" or "closed"."""
        pid = self._pid
        return self._state if pid == 0 or pid == os.getpid() else _CLOSED

    @property
    def topology(self) -> Topology:
        """What is known of the hosts now."""
        return self.watch.topology

    def stats(self) -> RouterStats:
        """Return the counters by role and host."""
        return RouterStats(
            self.pools[Role.WRITER].stats(), self.pools[Role.READER].stats(), self.dispatcher.dropped
        )

    async def open(self) -> None:
        """Begin to watch the hosts, unless that was done before. What a router needs to end well is made here.

        Raises:
            RouterClosed: the router was closed.
            RouteError: it was opened in another event loop.
            RuntimeError: a thread cannot be started; the router may be opened later.
        """
        forked.notice()
        async with self._turn:
            self._busy = async_myself()
            try:
                if self.state == _NEW:
                    await self._begin()
                    if self.closing:
                        await self._close()
            finally:
                self._busy = None
        self.check_usable()

    async def _begin(self) -> None:
        self._loop = async_loop_identity()
        self.changes = AsyncChanges()
        self._keeper = keeper = AsyncPoolReconciler(self)
        self._pid = os.getpid()
        try:
            async_keep_time(self)
            self.dispatcher.resume()
            keeper.start(self._router.name)
            self._state = _OPEN
        except BaseException:
            self._pid = 0
            self.watch.stop()
            await keeper.stop(_END_TIMEOUT)
            async_stop_keeping_time(self)
            raise

    async def close(self, timeout: float) -> None:
        """End everything; sessions in flight have that many seconds, then they are aborted.

        Whoever comes while another closes the router waits for that. If closing is interrupted, sessions are aborted at
        once and the rest is done; what a second interrupt leaves, the next call finishes.
        """
        forked.notice()
        if self.inherited:
            return
        self._until = min(self._until, time.monotonic() + timeout)
        if self._state == _CLOSING:
            self.changes.notify()  # whoever closes it may have more patience
        if self._busy == async_myself():
            self.closing = True  # a signal handler within open() or close(), which goes on when it returns
            return
        async with self._turn:
            self._busy = async_myself()
            try:
                await self._close()
            finally:
                self._busy = None

    async def _close(self) -> None:
        if self._state == _NEW:
            self._state = _CLOSED
            await async_blocking(self.dispatcher.close)
        if self._state == _CLOSED:
            return
        self._state, self.closing = _CLOSING, True
        self.changes.notify()
        try:
            await self._finish_sessions()
        finally:
            await self._end()

    async def _finish_sessions(self) -> None:
        try:
            for pool in self.pools.values():
                await pool.close()
            while True:
                version = self.changes.version
                left = self._until - time.monotonic()
                if not sum(pool.in_use for pool in self.pools.values()) or left <= 0:
                    return
                await self.changes.wait(version, left)
        finally:
            for pool in self.pools.values():
                pool.abort_all()

    async def _end(self) -> None:
        """Do each of the steps, whatever becomes of the others; none does harm when it is repeated."""
        assert self._keeper is not None
        failure: BaseException | None = None
        steps: tuple[Callable[[], Any], ...] = (
            *(pool.close for pool in self.pools.values()),  # again: who was interrupted has not come to each
            partial(async_blocking, self.watch.stop),
            partial(self._keeper.stop, _END_TIMEOUT),
            *(partial(pool.join, _END_TIMEOUT) for pool in self.pools.values()),
            partial(async_blocking, self.dispatcher.close),
        )
        for step in steps:
            try:
                await step()
            except BaseException as exc:  # noqa: BLE001  (raised below)
                failure = exc
        async_stop_keeping_time(self)
        if failure is not None:
            raise failure
        self._state = _CLOSED

    async def acquire(self, attrs: SessionAttrs, role: Role, timeout: float | None) -> CT:
        """Return a connection to a host that has these attributes, from the pools of the role.

        Args:
            attrs: which hosts are accepted.
            role: whose pools.
            timeout: seconds to wait for one; 0: what is ready now; None: acquire_timeout.

        Raises:
            ConfigError: the timeout is no number of seconds.
            NoHostAvailable, PoolExhausted, SplitBrainError: none could be had in time.
            RouterClosed: the router is not open.
            RouteError: it was opened in another event loop.
        """
        if self.state != _OPEN or self._loop is not async_loop_identity():
            self.check_usable()
        if timeout is None:
            timeout = self.plan.acquire_timeout
        else:
            check_number("timeout", timeout)
        start = time.monotonic()
        plan = self.plan
        pool = self.pools[role]
        way: Acquisition | None = None
        topology = self.watch.topology
        candidate = topology.only.get(attrs) or first_choice(
            topology, attrs, plan.policy, self._rng, pool.load
        )
        seconds = timeout if attrs is SessionAttrs.READ_WRITE else patience(attrs, timeout)
        while True:
            failure: Exception | None = None
            if candidate is not None:
                try:
                    host_pool = pool.ready(candidate) or await pool.open(candidate)
                    return await host_pool.getconn(seconds, start)
                except (PoolTimeout, PoolClosed, TooManyRequests, psycopg.OperationalError) as exc:
                    failure = exc
            if way is None:
                way = Acquisition(
                    attrs, plan.policy, self._rng, deadline=start + timeout, timeout=timeout, role=role.value
                )
            if candidate is not None and failure is not None:
                _count_failure(way, candidate, pool, failure)
            candidate = None
            while candidate is None:
                if self.state != _OPEN:
                    self.check_usable()
                now = time.monotonic()
                version = self.changes.version
                topology = self.watch.topology
                step = way.step(topology, now, pool.load)
                if isinstance(step, GiveUp):
                    raise step.error
                if isinstance(step, Try):
                    candidate, seconds = step.candidate, step.timeout
                else:
                    await self.changes.wait(version, max(0.0, step.until - now))

    async def release(self, conn: CT) -> None:
        """Take back a connection; a transaction still open is rolled back.

        Raises:
            ValueError: it is not a connection taken from this router, or it is a session's, whose end returns it.
        """
        if self.inherited:
            self.check_usable()
        lease = getattr(conn, "_pgroute", None)
        if lease is None or lease.pool._watch is not self.watch or not lease.taken:
            raise ValueError(f"not a connection taken from {self._router!r}: {conn!r}")
        if lease.holder is not None:
            raise ValueError(f"a session has this connection, and returns it at its end: {conn!r}")
        try:
            if conn.closed:
                self.watch.kick(lease.pool.key)
            elif conn.pgconn.transaction_status:
                await _quietly_roll_back(conn)
        finally:
            await lease.pool.putconn(conn)
            if self.closing:
                self.changes.notify()

    def check_usable(self) -> None:
        """Raise the error of a router that cannot be used here and now, if it is one."""
        if self.inherited:
            raise RouterClosed(
                f"{self._router!r} was opened before this process was forked: its connections belong to the parent; "
                "make a router in the child, after the fork",
                topology=self.topology,
            )
        if self.state == _NEW:
            # sync-only: raise RouterClosed(f"{self._router!r} was never opened: use open() or a with statement")
            raise RouterClosed(  # async-only
                f"{self._router!r} was never opened: use `await open()` or `async with`"  # async-only
            )  # async-only
        if self.state != _OPEN:
            raise RouterClosed(f"{self._router!r} is closed", topology=self.topology)
        if self._loop is not async_loop_identity():
            raise RouteError(f"{self._router!r} belongs to another event loop: open one router in each loop")

    def after_fork(self) -> None:
        """In a forked child: have a router that was not opened yet begin anew; nothing of another is touched."""
        if not self._pid:
            self._turn = AsyncLock()
            self.dispatcher.after_fork()

    def subscribe(self, fn: Callable[[Event], object]) -> Callable[[], None]:
        """Have *fn* called with each event; return what ends that.

        Raises:
            RouterClosed: the router was opened before this process was forked.
            RuntimeError: a thread cannot be started.
        """
        forked.notice()
        if self.inherited:
            self.check_usable()
        return self.dispatcher.subscribe(fn)


def _count_failure(
    way: Acquisition, candidate: Candidate, pool: AsyncRolePool[CT], failure: Exception
) -> None:
    if isinstance(failure, (PoolClosed, PoolTimeout)) and not isinstance(failure, PoolFull):
        failure = pool.why(candidate) or failure
    if isinstance(failure, TooManyRequests):
        way.exhausted(candidate, str(failure), refused=True)
    elif isinstance(failure, PoolFull):
        way.exhausted(candidate, str(failure))
    else:
        way.failed(candidate, failure, in_use=pool.load(candidate.key))
