"""The router: sessions by role, from the host that can serve it now."""

from __future__ import annotations

import contextlib
import inspect
import logging
import random
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, cast

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

# sync-only: from psycopg_pool.abc import CT
from psycopg_pool.abc import ACT as CT  # async-only

from pgroute._acompat import (
    AsyncChanges,
    AsyncLock,
    AsyncWorker,
    async_blocking,
    async_join_all,
    async_loop_identity,
    async_spawn,
)
from pgroute._async.pools import AsyncRolePool
from pgroute._async.runner import AsyncRunner
from pgroute._async.session import AsyncSession, _quietly_roll_back
from pgroute.core.events import Event, EventKind
from pgroute.core.options import HostOptions, PoolOptions, ProbeOptions, check_number
from pgroute.core.pace import forsaken, hopeless
from pgroute.core.plan import make_plan
from pgroute.core.roles import Role, SessionAttrs
from pgroute.core.routing import Acquisition, GiveUp, Try, first_choice, patience, routes
from pgroute.core.stats import RouterStats
from pgroute.errors import ConfigError, RouteError, RouterClosed
from pgroute.monitor.bars import Bars
from pgroute.monitor.cluster import ClusterWatch
from pgroute.monitor.dispatch import Dispatcher
from pgroute.monitor.forks import forked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from dns.resolver import BaseResolver

    from pgroute.core.balance import Candidate, Policy
    from pgroute.core.retry import RetryPolicy
    from pgroute.core.roles import HostKey
    from pgroute.core.topology import Topology

logger = logging.getLogger("pgroute")

_LOG_QUEUE = 1000

_NEW, _OPEN, _CLOSING, _CLOSED = "new", "open", "closing", "closed"


class AsyncRouter(AsyncRunner[CT]):
    """Routes sessions to the primary or to a standby of a PostgreSQL cluster, through failover.

    The constructor parses and validates, and does no I/O; `open()` or the ``with`` statement begins the watch.

    Args:
        dsn: libpq URI or keyword string, with any number of hosts; PG* environment and ``service=`` count.
        writer: the pools for writers; None: ``PoolOptions()``.
        reader: the pools for readers; None: ``PoolOptions()``.
        balance: "ordered", "random", or a policy object; None: the DSN's load_balance_hosts, else "random".
        reader_attrs: which hosts `reader()` accepts, one of the target_session_attrs.
        host_options: per host, keyed "host", "host:port" or its address; one that the DSN does not have is a
            ConfigError, unless names stand for hosts that are not known yet (SRV, ``addresses="all"``).
        probe: the watch on the hosts; None: ``ProbeOptions()``.
        resolver: what names are looked up with: "system" (``getaddrinfo``), "dns" (as /etc/resolv.conf says), or a
            Resolver of dnspython. SRV records are always asked of the DNS.
        addresses: what a name of several addresses is: "first": one host, whose addresses are tried in order; "all": as
            many hosts, which join and leave with its records.
        retry: how long `run()` and `attempts()` go on; None: ``RetryPolicy()``.
        acquire_timeout: seconds that a session may be waited for.
        connection_class: the class of the connections.
        kwargs: for psycopg.connect: libpq parameters, and autocommit, prepare_threshold, context, row_factory,
            cursor_factory. They win over the DSN. Hosts, target_session_attrs and load_balance_hosts belong in the DSN.
        configure: called with each new connection before its first use; see PoolOptions.
        reset: called with each connection that comes back; see PoolOptions.
        name: for repr and the names of threads and tasks; empty: the hosts.

    Attributes:
        name: as given.

    Raises:
        ConfigError: an argument is not usable; it names the parameter, the value and what is accepted.
    """

    def __init__(
        self,
        dsn: str = "",
        *,
        writer: PoolOptions | None = None,
        reader: PoolOptions | None = None,
        balance: str | Policy | None = None,
        reader_attrs: str = "prefer-standby",
        host_options: Mapping[str, HostOptions] | None = None,
        probe: ProbeOptions | None = None,
        resolver: str | BaseResolver = "system",
        addresses: Literal["first", "all"] = "first",
        retry: RetryPolicy | None = None,
        acquire_timeout: float = 30.0,
        connection_class: type[CT] = cast("type[CT]", psycopg.AsyncConnection),  # noqa: B008
        kwargs: Mapping[str, Any] | None = None,
        configure: Callable[[CT], Any] | None = None,
        reset: Callable[[CT], Any] | None = None,
        name: str = "",
    ) -> None:
        given: object = connection_class
        if not (isinstance(given, type) and issubclass(given, psycopg.AsyncConnection)):
            raise ConfigError(
                "connection_class", connection_class, "expected a subclass of psycopg.AsyncConnection"
            )
        self._plan = plan = make_plan(
            dsn,
            writer=PoolOptions() if writer is None else writer,
            reader=PoolOptions() if reader is None else reader,
            balance=balance,
            reader_attrs=reader_attrs,
            host_options=host_options,
            probe=ProbeOptions() if probe is None else probe,
            resolver=resolver,
            addresses=addresses,
            retry=retry,
            acquire_timeout=acquire_timeout,
            kwargs=kwargs,
            configure=configure,
            reset=reset,
        )
        self.name = name or ",".join(str(key) for key in plan.dsn.hosts)
        self._state = _NEW
        self._closing = False
        self._inherited = False
        self._rng = random.Random()
        self._watch = ClusterWatch(
            plan.dsn.hosts,
            plan.probe_params,
            plan.probe,
            plan.rules,
            resolver=plan.resolver,
            mode=plan.addresses,
        )
        bars = Bars()
        others = bars.twin() if plan.same_login else Bars()
        self._pools = {
            Role.WRITER: AsyncRolePool(plan.writer, connection_class, self._watch, bars),
            Role.READER: AsyncRolePool(plan.reader, connection_class, self._watch, others),
        }
        self._dispatcher = Dispatcher()
        self._told: deque[Event] = deque(maxlen=_LOG_QUEUE)
        self._changes: AsyncChanges
        self._loop: object = None
        self._opening = AsyncLock()
        self._keeper: AsyncWorker | None = None
        forked.register(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self._state}>"

    async def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Begin to watch the hosts; no host needs to be up.

        The ``with`` statement does this. An open router may be opened again, which does nothing.

        Args:
            wait: return only when a writer's session could be had.
            timeout: seconds for that.

        Raises:
            RouterClosed: the router was closed; a closed router cannot be opened again.
            AcquireTimeout: with *wait*, as `writer()` would; the router stays open.
        """
        async with self._opening:
            if self._state == _NEW and not self._inherited:
                self._loop = async_loop_identity()
                self._changes = AsyncChanges()
                self._state = _OPEN
                self._watch.listeners.append(_listener(self))
                self._watch.sessions_at, self._watch.abort = _keepers_of_sessions(self)
                self._watch.start()
                self._keeper = async_spawn(self._keep, f"pgroute-keeper-{self.name}")
        self._check_usable()
        if wait:
            await self.wait(timeout=timeout)

    async def close(self, timeout: float = 5.0) -> None:
        """End the router: no new sessions; those in flight may finish until the timeout, then they are aborted.

        The end of the ``with`` statement does this. Closing a closed router does nothing.

        Args:
            timeout: seconds that sessions in flight have.

        Raises:
            ConfigError: the timeout is no number of seconds.
        """
        check_number("timeout", timeout)
        if self._inherited:
            self._state = _CLOSED
            return
        if self._state == _NEW:
            self._state = _CLOSED
        if self._state != _OPEN:
            return
        self._state, self._closing = _CLOSING, True
        self._changes.notify()
        try:
            await self._finish_sessions(timeout)
        finally:
            self._state = _CLOSED
            await async_blocking(self._watch.stop)
            self._changes.notify()
            if self._keeper is not None:
                await async_join_all([self._keeper], 2.0)
            for pool in self._pools.values():
                await pool.join(2.0)
            await async_blocking(self._dispatcher.close)

    async def _finish_sessions(self, timeout: float) -> None:
        for pool in self._pools.values():
            await pool.close()
        until = time.monotonic() + timeout
        while True:
            version = self._changes.version
            left = until - time.monotonic()
            if not self._in_use():
                return
            if left <= 0:
                for pool in self._pools.values():
                    pool.abort_all()
                return
            await self._changes.wait(version, left)

    def _in_use(self) -> int:
        return sum(pool.in_use for pool in self._pools.values())

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    def writer(self, timeout: float | None = None) -> AsyncSession[CT]:
        """Return a context manager that yields a connection to the primary, for a read-write transaction.

        The end commits, or rolls back if the body raised.

        Args:
            timeout: seconds to wait for one; 0: what is ready now; None: acquire_timeout.

        Raises:
            NoHostAvailable, PoolExhausted, SplitBrainError: on entering, none could be had in time.
            RouterClosed: on entering, the router is not open.
            SessionLost, CommitUnknown: on leaving, the connection was lost before or during COMMIT.
            psycopg.errors.InFailedSqlTransaction: on leaving, the body hid an error of its transaction.
        """
        return AsyncSession(self, SessionAttrs.READ_WRITE, Role.WRITER, timeout)

    def reader(self, timeout: float | None = None) -> AsyncSession[CT]:
        """Return a context manager that yields a read-only connection, to a standby if there is one.

        Which hosts are accepted is the router's reader_attrs; ``PoolOptions(read_only=False)`` lets readers write.

        Args:
            timeout: seconds to wait for one; 0: what is ready now; None: acquire_timeout.

        Raises:
            NoHostAvailable, PoolExhausted, SplitBrainError: on entering, none could be had in time.
            RouterClosed: on entering, the router is not open.
            SessionLost: on leaving, the connection was lost; CommitUnknown where readers may write.
            psycopg.errors.InFailedSqlTransaction: on leaving, the body hid an error of its transaction.
        """
        return AsyncSession(self, self._plan.reader_attrs, Role.READER, timeout)

    def connection(
        self, target_session_attrs: str | None = None, timeout: float | None = None
    ) -> AsyncSession[CT]:
        """Return a context manager that yields a connection to a host that has these session attributes.

        "any", "read-write" and "primary" take it from the writers' pools, the others from the readers'.

        Args:
            target_session_attrs: "any", "read-write", "primary", "read-only", "standby" or "prefer-standby"; None: the
                DSN's, "any" where it has none.
            timeout: seconds to wait for one; 0: what is ready now; None: acquire_timeout.

        Raises:
            ConfigError: not one of the six.
            NoHostAvailable, PoolExhausted, SplitBrainError: on entering, none could be had in time.
            RouterClosed: on entering, the router is not open.
            SessionLost, CommitUnknown: on leaving, the connection was lost before or during COMMIT.
            psycopg.errors.InFailedSqlTransaction: on leaving, the body hid an error of its transaction.
        """
        attrs = self._plan.default_attrs
        if target_session_attrs is not None:
            attrs = SessionAttrs.parse(target_session_attrs)
        return AsyncSession(self, attrs, attrs.pool, timeout)

    async def getconn(self, role: Literal["writer", "reader"] | Role, *, timeout: float | None = None) -> CT:
        """Return a connection that must go back through `putconn`; the context managers do both.

        Args:
            role: "writer" or "reader".
            timeout: seconds to wait for one; 0: what is ready now; None: acquire_timeout.

        Raises:
            NoHostAvailable, PoolExhausted, SplitBrainError: none could be had in time.
            RouterClosed: the router is not open.
        """
        parsed = Role.parse(role)
        attrs = SessionAttrs.READ_WRITE if parsed is Role.WRITER else self._plan.reader_attrs
        return await self._acquire(attrs, parsed, timeout)

    async def putconn(self, conn: CT) -> None:
        """Take back a connection from `getconn`; a transaction still open is rolled back.

        Args:
            conn: the connection, open or closed.

        Raises:
            ValueError: it is not a connection taken from this router.
        """
        if self._inherited:
            self._check_usable()
        lease = getattr(conn, "_pgroute", None)
        if lease is None or lease.pool._watch is not self._watch or conn not in lease.pool.out:
            raise ValueError(f"not a connection taken from {self!r}: {conn!r}")
        try:
            if conn.closed:
                self._watch.kick(lease.pool.key)
            elif conn.pgconn.transaction_status:
                await _quietly_roll_back(conn)
        finally:
            await lease.pool.putconn(conn)
            if self._closing:
                self._changes.notify()

    async def wait(self, role: Literal["writer", "reader"] | Role = "writer", timeout: float = 30.0) -> None:
        """Return once a session of that role could be had. A wait that fails does not close the router.

        Args:
            role: "writer" or "reader".
            timeout: seconds.

        Raises:
            NoHostAvailable, PoolExhausted, SplitBrainError: none could be had in time.
            RouterClosed: the router is not open.
        """
        await self.putconn(await self.getconn(role, timeout=timeout))

    @property
    def topology(self) -> Topology:
        """What is known of the hosts now, as an immutable snapshot."""
        return self._watch.topology

    def get_stats(self) -> dict[str, dict[str, int]]:
        """Return each role's totals over all hosts, under psycopg_pool's keys, by "writer" and "reader"."""
        return {role.value: dict(pool.stats().totals) for role, pool in self._pools.items()}

    def stats(self) -> RouterStats:
        """Return the counters by role and host."""
        return RouterStats(
            self._pools[Role.WRITER].stats(), self._pools[Role.READER].stats(), self._dispatcher.dropped
        )

    def subscribe(self, fn: Callable[[Event], object]) -> Callable[[], None]:
        """Have *fn* called with each Event, in order, in a thread of its own; return the function that ends that.

        A subscriber that is slower than the events loses some: they are dropped beyond 1000 that wait.

        Args:
            fn: a function of one Event, never a coroutine function; what it raises is logged.

        Raises:
            ConfigError: *fn* is not callable.
        """
        given: object = fn
        if not callable(given) or inspect.iscoroutinefunction(given):
            raise ConfigError("fn", fn, "expected a callable that is no coroutine function")
        return self._dispatcher.subscribe(fn)

    def forget_timeline(self) -> None:
        """Declare the highest timeline seen void, so that a primary on a lower one is accepted.

        For the operator who restored a backup, or decided a split brain, and knows that the other is gone.

        Raises:
            RouterClosed: the router is not open.
        """
        self._check_usable()
        self._watch.forget_timeline()

    async def _acquire(self, attrs: SessionAttrs, role: Role, timeout: float | None) -> CT:
        if self._state != _OPEN or self._loop is not async_loop_identity():
            self._check_usable()
        if timeout is None:
            timeout = self._plan.acquire_timeout
        else:
            check_number("timeout", timeout)
        start = time.monotonic()
        plan = self._plan
        pool = self._pools[role]
        way: Acquisition | None = None
        topology = self._watch.topology
        candidate = topology.only.get(attrs) or first_choice(
            topology, attrs, plan.policy, self._rng, pool.load
        )
        seconds = timeout if attrs is SessionAttrs.READ_WRITE else patience(attrs, timeout)
        while True:
            failure: Exception | None = None
            if candidate is not None:
                try:
                    host_pool = pool.ready(candidate) or await pool.open(candidate, topology)
                    return await host_pool.getconn(seconds)
                except (PoolTimeout, PoolClosed, TooManyRequests, psycopg.OperationalError) as exc:
                    failure = exc
            if way is None:
                way = Acquisition(
                    attrs, plan.policy, self._rng, deadline=start + timeout, timeout=timeout, role=role.value
                )
            if candidate is not None and failure is not None:
                self._count_failure(way, candidate, pool, failure)
            candidate = None
            while candidate is None:
                if self._state != _OPEN:
                    self._check_usable()
                now = time.monotonic()
                version = self._changes.version
                topology = self._watch.topology
                step = way.step(topology, now, pool.load)
                if isinstance(step, GiveUp):
                    raise step.error
                if isinstance(step, Try):
                    candidate, seconds = step.candidate, step.timeout
                else:
                    await self._changes.wait(version, max(0.0, step.until - now))

    @staticmethod
    def _count_failure(
        way: Acquisition, candidate: Candidate, pool: AsyncRolePool[CT], failure: Exception
    ) -> None:
        host_pool = pool.pool(candidate.key)
        if isinstance(failure, PoolClosed):
            failure = pool.why(candidate) or failure
        if isinstance(failure, TooManyRequests):
            way.exhausted(candidate, str(failure), refused=True)
        elif isinstance(failure, PoolTimeout) and host_pool is not None and host_pool.exhausted:
            way.exhausted(candidate, host_pool.detail())
        else:
            way.failed(candidate, failure)

    def _check_usable(self) -> None:
        if self._inherited:
            raise RouterClosed(
                f"{self!r} was opened before this process was forked: its connections belong to the parent; "
                "make a router in the child, after the fork",
                topology=self.topology,
            )
        if self._state == _NEW:
            # sync-only: raise RouterClosed(f"{self!r} was never opened: use open() or a with statement")
            raise RouterClosed(  # async-only
                f"{self!r} was never opened: use `await open()` or `async with`"  # async-only
            )  # async-only
        if self._state != _OPEN:
            raise RouterClosed(f"{self!r} is closed", topology=self.topology)
        if self._loop is not async_loop_identity():
            raise RouteError(f"{self!r} belongs to another event loop: open one router in each loop")

    async def _keep(self) -> None:
        """Close the pools of hosts that lost their role, as soon as they do, and log what happens.

        Here, for a log handler is the user's code, which the monitor's thread never calls.
        """
        while self._state in (_OPEN, _CLOSING):
            version = self._changes.version
            for pool in self._pools.values():
                try:
                    await pool.reconcile(self._watch.topology)
                except Exception:
                    # A fault here must not leave the pools of a host that lost its role open.
                    with contextlib.suppress(Exception):
                        logger.exception("closing pools failed")
            while self._told:
                event = self._told.popleft()
                with contextlib.suppress(Exception):
                    logger.log(event.level, "%s", event.text)
            await self._changes.wait(version, 60.0)

    def _on_snapshot(self, old: Topology, topology: Topology, events: tuple[Event, ...]) -> None:
        """Take a new snapshot; called in the monitor's thread."""
        doomed = [(key, old.by_key[key].address, why) for key, why in forsaken(old, topology).items()]
        doomed += [
            (key, topology.by_key[key].address, why)
            for key, why in hopeless(topology, self._plan.probe, time.monotonic()).items()
        ]
        for key, address, reason in doomed:
            events = (*events, *self._abort(key, address, reason, topology.at))
        if events or routes(old) != routes(topology):
            self._changes.notify()
        self._tell(events)

    def _abort(self, key: HostKey, address: str | None, reason: str, at: float) -> tuple[Event, ...]:
        count = sum(pool.abort(key, address) for pool in self._pools.values())
        text = f"aborted {count} sessions: {reason}"
        return (Event(EventKind.SESSIONS_ABORTED, at, key, text),) if count else ()

    def _tell(self, events: tuple[Event, ...]) -> None:
        if events:
            self._told.extend(events)
            self._dispatcher.put(events)

    def _sessions_at(self, key: HostKey, address: str | None) -> int:
        """Return the sessions in flight at an address; called in the monitor's thread, as the next one."""
        return sum(pool.in_use_at(key, address) for pool in self._pools.values())

    def _abort_and_tell(self, key: HostKey, address: str | None, reason: str) -> None:
        self._tell(self._abort(key, address, reason, time.monotonic()))
        self._changes.notify()

    def _after_fork(self) -> None:
        """Mark the copy in a forked child as unusable; nothing of it is touched."""
        if self._state in (_OPEN, _CLOSING):
            self._inherited = True
            self._state = _CLOSED


def _listener(router: AsyncRouter[Any]) -> Callable[[Topology, Topology, tuple[Event, ...]], None]:
    """Return a listener that does not keep the router alive."""
    reference = weakref.ref(router)

    def listen(old: Topology, new: Topology, events: tuple[Event, ...]) -> None:
        alive = reference()
        if alive is not None:
            alive._on_snapshot(old, new, events)

    return listen


def _keepers_of_sessions(
    router: AsyncRouter[Any],
) -> tuple[Callable[[HostKey, str | None], int], Callable[[HostKey, str | None, str], None]]:
    """Return what counts the sessions in flight at an address, and what aborts them; likewise."""
    reference = weakref.ref(router)

    def count(key: HostKey, address: str | None) -> int:
        alive = reference()
        return 0 if alive is None else alive._sessions_at(key, address)

    def abort(key: HostKey, address: str | None, reason: str) -> None:
        alive = reference()
        if alive is not None:
            alive._abort_and_tell(key, address, reason)

    return count, abort
