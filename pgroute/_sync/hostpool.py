# Generated from pgroute/_async/hostpool.py by .ci/unasync.py: edit that file, not this one.
"""The pool to one host for one role: psycopg_pool's, for one generation of the host, closed and never repaired."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg
import psycopg_pool

from pgroute._acompat import (
    INTERRUPTS,
    Changes,
    Worker,
    finished,
    join_all,
    spawn,
)
from pgroute._sync.connector import Connector, alive, attributes, restore

if TYPE_CHECKING:
    from pgroute.core.hosts import HostInfo
    from pgroute.core.plan import RolePlan
    from pgroute.monitor.bars import Bars
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
        if self._closed:
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
        self.address = host.address
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
