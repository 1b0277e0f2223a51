# Generated from pgroute/_async/pools.py by .ci/unasync.py: edit that file, not this one.
"""The pools of one role: one psycopg_pool pool per host and generation, closed, not repaired, when the role is lost."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg
import psycopg_pool
from psycopg_pool import PoolClosed

from pgroute._acompat import (
    INTERRUPTS,
    Changes,
    Lock,
    Worker,
    finished,
    join_all,
    spawn,
)
from pgroute._sync.connector import Connector, alive, attributes, restore
from pgroute.core.stats import MEASURES, RoleStats, total
from pgroute.monitor.bars import Bars

if TYPE_CHECKING:
    from pgroute.core.balance import Candidate
    from pgroute.core.hosts import HostInfo
    from pgroute.core.plan import RolePlan
    from pgroute.core.roles import HostKey
    from pgroute.core.topology import Topology
    from pgroute.monitor.cluster import ClusterWatch

CT = TypeVar("CT", bound="psycopg.Connection[Any]")

logger = logging.getLogger("pgroute")

_RECONNECT_TIMEOUT = 1.0
_LEAST_WAIT = 0.001


class _Pool(psycopg_pool.ConnectionPool[Any]):
    """psycopg_pool's pool, except that close() wakes the waiters before, not after, its workers have ended."""

    leavers: list[Worker] = []  # noqa: RUF012  (replaced, never changed)
    requests = 0

    def take(self, timeout: float) -> Any:
        """Do what getconn() does, less what its log lines and its check= cost: 1 us of the 2 that pgroute adds."""
        self._check_open_getconn()
        self.requests += 1
        return self._getconn_unchecked(timeout)

    def give(self, conn: Any) -> None:
        """Do what putconn() does with a connection of this pool, open or closed, less its log line."""
        self._return_connection(conn, from_getconn=False)

    def _signal_stop_worker(self) -> list[Worker]:
        self.leavers = super()._signal_stop_worker()
        return []


class HostPool(Generic[CT]):
    """The pool to one host for one role, valid for one generation of that host.

    Args:
        plan: how the role connects.
        host: the host as the topology knows it now.
        connection_class: psycopg's, or the user's subclass.
        watch: told of what is learned about the host.
        bars: the role's.
    """

    def __init__(
        self,
        plan: RolePlan,
        host: HostInfo,
        connection_class: type[CT],
        watch: ClusterWatch,
        bars: Bars,
    ) -> None:
        options = plan.options
        self.key = host.key
        self.generation = host.generation
        self.out: set[CT] = set()
        self.usage = 0.0
        self._watch = watch
        self._connector = Connector(plan, host, connection_class, watch, bars)
        self._connector.pool = self
        # Not left to psycopg_pool: its worker may be busy connecting, and a pool closed meanwhile would forget the
        # connection that waits for it, and leave it open.
        self._reset = options.reset
        self._grown = options.min_size <= 1
        self._founded = options.min_size == 0
        self._changes = Changes()
        self._returning: Worker | None = None
        self._options = options
        self._pool = _Pool(
            "",
            connection_class=self._connector,  # type: ignore[arg-type]  # it needs `connect` alone
            min_size=min(1, options.min_size),
            max_size=options.max_size,
            max_idle=options.max_idle,
            max_lifetime=options.max_lifetime,
            max_waiting=options.max_waiting,
            reconnect_timeout=_RECONNECT_TIMEOUT,
            num_workers=1,
            open=False,
            name=f"pgroute-{plan.role.value}-{host.key}-{host.generation}",
        )

    def open(self) -> None:
        """Start the workers; the first connection follows by itself."""
        self._pool.open()

    @property
    def closed(self) -> bool:
        """Whether no session can come from here any more."""
        return self._pool.closed

    def getconn(self, timeout: float) -> CT:
        """Return a connection that was alive as far as the kernel knows.

        Raises:
            PoolTimeout, PoolClosed, TooManyRequests: as psycopg_pool.
        """
        until = 0.0
        if not self._founded:
            # Queueing in the pool would make it open a second connection before the first is there.
            until = time.monotonic() + timeout
            self._changes.wait(0, timeout)
            timeout = until - time.monotonic()
        while True:
            try:
                conn: CT = self._pool.take(max(timeout, _LEAST_WAIT))
            except INTERRUPTS:
                # A caller that is torn out of the queue keeps its place there, and the next connection would be lost
                # with it: another pool takes over.
                self.close()
                raise
            if alive(conn):
                lease = conn._pgroute  # type: ignore[attr-defined]
                self.out.add(conn)
                lease.taken_at = time.monotonic()
                lease.unconfirmed = False
                if not self._grown:
                    self._grow(conn)
                return conn
            # The server ended it while it was idle. The pool makes another in its place.
            self._watch.kick(self.key)
            until = until or time.monotonic() + timeout
            self._discard(conn)
            timeout = until - time.monotonic()

    def _grow(self, conn: CT) -> None:
        self._grown = True
        try:
            self._pool.resize(self._options.min_size, self._options.max_size)
        except BaseException:
            self.putconn(conn)
            raise

    def _discard(self, conn: CT) -> None:
        try:
            conn.close()
        finally:
            self._give_back(conn)

    def putconn(self, conn: CT) -> None:
        """Return a connection, its attributes as the role wants them; a broken one is replaced."""
        self.out.discard(conn)
        lease = conn._pgroute  # type: ignore[attr-defined]
        self.usage += time.monotonic() - lease.taken_at
        if getattr(conn, "_tpc", None):
            conn.close()  # a prepared transaction would be the next caller's
        elif (self._reset is not None or attributes(conn) != lease.baseline) and not conn.closed:
            try:
                self._clean(conn)
            except BaseException as exc:
                conn.close()
                if not isinstance(exc, Exception):
                    self._give_back(conn)
                    raise
                logger.warning("closing a connection to %s that could not be reset: %s", self.key, exc)
        try:
            self._pool.give(conn)
        except BaseException:
            self._return_later(conn)
            raise

    def _clean(self, conn: CT) -> None:
        restore(conn, conn._pgroute.baseline)  # type: ignore[attr-defined]
        if self._reset is not None and not self.closed:
            self._reset(conn)
            if conn.pgconn.transaction_status:
                raise psycopg.ProgrammingError("reset left a transaction open")

    def _give_back(self, conn: CT) -> None:
        try:
            self._pool.putconn(conn)
        except BaseException:
            self._return_later(conn)
            raise

    def _return_later(self, conn: CT) -> None:
        # Interrupted half-way, perhaps after the pool passed it on: it is closed, so that no two callers can have it,
        # and returned once more, where nothing interrupts, to be replaced.
        conn.pgconn.finish()
        conn._pool = self._pool
        self._returning = spawn(lambda: self._pool.putconn(conn), "pgroute-return")

    def connected(self) -> None:
        """Let the callers in who wait for the first connection."""
        if not self._founded:
            self._founded = True
            self._changes.notify()

    def connecting_failed(self) -> None:
        """Let the callers in the queue go elsewhere at once, unless this pool still has connections."""
        if not self.out and not self._pool.get_stats()["pool_available"]:
            self.close()

    def abort(self) -> int:
        """Cut the sockets of all sessions in flight, from any thread; return how many."""
        return sum(conn._pgroute.wire.cut() for conn in tuple(self.out))  # type: ignore[attr-defined]

    def stats(self) -> dict[str, int]:
        """Return psycopg_pool's statistics, with our own count of the time in use."""
        stats = self._pool.get_stats()
        stats["usage_ms"] = int(self.usage * 1000)
        stats["requests_num"] = self._pool.requests
        return stats

    def detail(self) -> str:
        """Return sizes, users and waiters in words."""
        stats = self._pool.get_stats()
        return (
            f"{len(self.out)} of max_size {self._options.max_size} connections in use, "
            f"{stats.get('requests_waiting', 0)} waiting"
        )

    @property
    def exhausted(self) -> bool:
        """Whether every connection that may be is in use."""
        return len(self.out) >= self._options.max_size

    def close(self) -> None:
        """Wake the waiters and close the idle connections; those in use are closed when they come back."""
        try:
            self._pool.close(timeout=0)
        finally:
            self._connector.give_up()
            self._changes.notify()

    @property
    def gone(self) -> bool:
        """Whether nothing is left of a closed pool: neither sessions nor workers."""
        return not self.out and all(finished(worker) for worker in self._pool.leavers)

    def join(self, timeout: float) -> None:
        """Wait for the workers of a closed pool to end."""
        join_all(self._pool.leavers, timeout)


class RolePool(Generic[CT]):
    """All pools of one role.

    Args:
        plan: how the role connects.
        connection_class: psycopg's, or the user's subclass.
        watch: told of what is learned about the hosts.
    """

    def __init__(self, plan: RolePlan, connection_class: type[CT], watch: ClusterWatch) -> None:
        self._plan = plan
        self._class = connection_class
        self._watch = watch
        self._lock = Lock()
        self._bars = Bars()
        self._pools: dict[HostKey, HostPool[CT]] = {}
        self._retired: list[HostPool[CT]] = []
        self._past: dict[str, int] = {}
        self._closed = False

    def load(self, key: HostKey) -> int:
        """Return the sessions in use at a host."""
        pool = self._pools.get(key)
        return len(pool.out) if pool else 0

    def ready(self, candidate: Candidate) -> HostPool[CT] | None:
        """Return the pool to that host if it is open and of that generation."""
        pool = self._pools.get(candidate.key)
        if pool is None or pool.generation != candidate.generation or pool.closed:
            return None
        return pool

    def why(self, candidate: Candidate) -> Exception | None:
        """Return the reason for which connecting there is barred, and its pool closed."""
        try:
            self._bars.check(candidate)
        except psycopg.OperationalError as exc:
            return exc
        return None

    def pool(self, key: HostKey) -> HostPool[CT] | None:
        """Return the pool now open to a host."""
        return self._pools.get(key)

    def open(self, candidate: Candidate, topology: Topology) -> HostPool[CT]:
        """Return the pool to that host, opened if this is the first time that it is chosen.

        Raises:
            PoolClosed: it does not serve as the topology says any more.
            Barred: it is too early for another attempt at connecting.
        """
        with self._lock:
            pool = self._pools.get(candidate.key)
            if pool is not None and pool.generation == candidate.generation and not pool.closed:
                return pool
            host = topology.host(candidate.key)
            if self._closed or host is None or (pool is not None and pool.generation > candidate.generation):
                raise PoolClosed(f"{candidate.key} no longer serves as it did")
            self._bars.check(host)
            if pool is not None:
                self._retire(pool)
            pool = HostPool(self._plan, host, self._class, self._watch, self._bars)
            pool.open()
            self._pools[candidate.key] = pool
            return pool

    def _retire(self, pool: HostPool[CT]) -> None:
        self._pools.pop(pool.key, None)
        self._retired.append(pool)
        pool.close()

    def reconcile(self, topology: Topology) -> None:
        """Close the pools to hosts that lost the role, and forget those whose last session has ended."""
        with self._lock:
            for pool in tuple(self._pools.values()):
                host = topology.host(pool.key)
                if host is None or not host.usable or host.generation != pool.generation:
                    self._retire(pool)
            gone = [p for p in self._retired if p.gone]
            self._retired = [p for p in self._retired if p not in gone]
            for pool in gone:
                self._count(pool)

    def abort(self, key: HostKey) -> int:
        """Cut the sessions in flight at a host, whatever their generation; from any thread. Return how many."""
        pools = [p for p in (self._pools.get(key), *self._retired) if p is not None and p.key == key]
        return sum(pool.abort() for pool in pools)

    @property
    def in_use(self) -> int:
        """Sessions in flight."""
        return sum(len(p.out) for p in (*self._pools.values(), *self._retired))

    def _count(self, pool: HostPool[CT]) -> None:
        counters = {k: v for k, v in pool.stats().items() if k not in MEASURES}
        self._past = total([self._past, counters])

    def stats(self) -> RoleStats:
        """Return the counters."""
        now = {key: pool.stats() for key, pool in self._pools.items()}
        past = [{k: v for k, v in p.stats().items() if k not in MEASURES} for p in self._retired]
        empty = dict.fromkeys(MEASURES, 0)
        return RoleStats(
            totals=total([empty, self._past, *past, *now.values()]),
            hosts={
                key: {**stats, "in_use": self.load(key), "generation": self._pools[key].generation}
                for key, stats in now.items()
            },
        )

    def close(self) -> None:
        """Close every pool: waiters are woken, idle connections closed."""
        with self._lock:
            self._closed = True
            for pool in tuple(self._pools.values()):
                self._retire(pool)

    def join(self, timeout: float) -> None:
        """Wait for the workers of closed pools to end."""
        until = time.monotonic() + timeout
        for pool in self._retired:
            pool.join(max(0.01, until - time.monotonic()))

    def abort_all(self) -> int:
        """Cut every session in flight; return how many."""
        return sum(pool.abort() for pool in (*self._pools.values(), *self._retired))
