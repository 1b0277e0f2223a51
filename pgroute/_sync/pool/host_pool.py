# Generated from pgroute/_async/pool/host_pool.py by .ci/unasync.py: edit that file, not this one.
"""The pool to one host for one role, for one generation of the host: closed and never repaired."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from pgroute._acompat import (
    Waiter,
    Wakeup,
    Worker,
    finished,
    join_all,
    spawn,
)
from pgroute._sync.pool.connector import (
    Connector,
    Lease,
    alive,
    attributes,
    contradicts,
    restore,
    shut,
)
from pgroute.core.config.options import DISCARD
from pgroute.core.faults.classify import one_line
from pgroute.core.routing.lending import Close, Connect, Lending, PoolFull, Rest

if TYPE_CHECKING:
    from pgroute.core.config.router_config import RoleConfig
    from pgroute.core.topology.hosts import HostInfo
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.connect_backoff import ConnectBackoff

CT = TypeVar("CT", bound="psycopg.Connection[Any]")

logger = logging.getLogger("pgroute")

# Looked up on the way of each session, where an attribute of an enumeration costs 0.1 us.
_IDLE, _UNKNOWN = TransactionStatus.IDLE, TransactionStatus.UNKNOWN
_FIT = (_IDLE, _UNKNOWN)

_LEAST_WAIT = 0.001
_AFTER_FAULT = 1.0
_LIFETIME_SPREAD = 0.05
"""The share of max_lifetime by which lifetimes differ, so that connections of one age are not all renewed at once."""


class HostPool(Generic[CT]):
    """The pool to one host for one role, valid for one generation of that host.

    What changes hands does so under one lock, in steps that cannot be suspended or cancelled: a connection is idle,
    with one caller, or with the worker that opens and closes them, and a caller who waits is served or told. A
    connection that its caller has lost is noticed when it is collected.

    Args:
        plan: how the role connects.
        host: the host as the topology knows it now.
        connection_class: psycopg's, or the user's subclass.
        watch: told of what is learned about the host.
        bars: the role's.
    """

    close_returns = False
    """For psycopg, which asks the pool of a connection: close() closes."""

    def __init__(
        self,
        plan: RoleConfig,
        host: HostInfo,
        connection_class: type[CT],
        watch: ClusterWatch,
        bars: ConnectBackoff,
    ) -> None:
        options = plan.options
        self.key = host.key
        self.generation = host.generation
        self.address = host.address
        self.name = f"pgroute-{plan.role.value}-{host.key}-{host.generation}"
        self._watch = watch
        self._connector = Connector(
            plan, host, connection_class, watch, bars, unwanted=lambda: self.closed
        )
        self._options = options
        self._lock = threading.Lock()
        self._lending: Lending[Lease, CT] = Lending(
            min_size=options.min_size,
            max_size=options.max_size,
            max_waiting=options.max_waiting,
            max_idle=options.max_idle,
            now=time.monotonic(),
        )
        self._pid = os.getpid()
        self._lost: deque[Lease] = deque()
        self._wakeup = Wakeup()
        self._worker: Worker | None = None
        self._failure: BaseException | None = None
        self._counts: dict[str, float] = dict.fromkeys(_COUNTED, 0)

    def open(self) -> None:
        """Start the worker; the first connection follows by itself.

        Raises:
            RuntimeError: there is no thread for it.
        """
        self._worker = spawn(self._work, self.name)

    @property
    def closed(self) -> bool:
        """Whether no session can come from here any more."""
        return self._lending.closed

    @property
    def in_use(self) -> int:
        """Sessions in flight."""
        return self._lending.in_use

    def getconn(self, timeout: float, since: float) -> CT:
        """Return a connection that was alive as far as the kernel knows.

        Args:
            timeout: seconds.
            since: monotonic seconds at which the caller began to wait, here or at another host: its turn in the queue.

        Raises:
            PoolFull: all were in use until then.
            PoolTimeout: none could be opened until then.
            PoolClosed, TooManyRequests: as psycopg_pool.
        """
        until = 0.0
        self._counts["requests_num"] += 1
        item: tuple[Lease, CT] | None = None
        try:
            while True:
                waiter: Waiter | None = None
                with self._lock:
                    item = self._lending.take()
                    if item is None:
                        waiter = self._queue(since)
                if waiter is not None:
                    until = until or time.monotonic() + timeout
                    item = self._wait(waiter, until - time.monotonic())
                assert item is not None
                lease, conn = item
                if self._usable(lease, conn):
                    lease.taken = True
                    lease.taken_at = time.monotonic()
                    lease.unconfirmed = False
                    return conn
                until = until or time.monotonic() + timeout
                self._dispose(lease, conn)
                item = None
        except BaseException:
            # Not left to be collected: a variable of the session before may hold the connection still.
            if item is not None:
                self._take_back(*item)
            raise

    def _queue(self, since: float) -> Waiter:
        waiter = Waiter(since)
        try:
            self._lending.queue(waiter)
        except TooManyRequests as exc:
            self._counts["requests_errors"] += 1
            raise TooManyRequests(f"{exc}; {self._sizes()}") from None
        self._counts["requests_queued"] += 1
        return waiter

    def _wait(self, waiter: Waiter, timeout: float) -> tuple[Lease, CT]:
        """Return what a caller in the queue is given; one that is torn out of it leaves nothing behind."""
        begun = time.monotonic()
        try:
            if self._lending.wanting:
                self._wakeup.set()
            waiter.wait(max(timeout, _LEAST_WAIT))
            with self._lock:  # in here, for this wait may be interrupted too
                self._lending.leave(waiter)
        except BaseException:
            with self._lock:
                self._lending.leave(waiter)
            self._counts["requests_errors"] += 1
            if waiter.item is not None:
                self._take_back(*waiter.item)
            raise
        finally:
            self._counts["requests_wait_ms"] += 1000.0 * (time.monotonic() - begun)
        if waiter.item is not None:
            return waiter.item
        self._counts["requests_errors"] += 1
        raise self._no_connection(time.monotonic() - begun)

    def _no_connection(self, waited: float) -> Exception:
        if self.closed:
            return PoolClosed("the pool is closed")
        if self._lending.in_use >= self._options.max_size:
            return PoolFull(self._sizes())
        why = f": {one_line(str(self._failure))}" if self._failure is not None else ""
        others = f" ({self._sizes()})" if self._lending.in_use else ""
        return PoolTimeout(f"no connection could be opened in {waited:.3g} s{others}{why}")

    def _usable(self, lease: Lease, conn: CT) -> bool:
        """Whether an idle connection may be lent."""
        status = conn.pgconn.transaction_status
        if status not in _FIT:
            logger.warning(
                "closing a connection of %s that was used after it had been returned: it is in state %s",
                self.name,
                TransactionStatus(status).name,
            )
            return False
        if alive(conn):
            return True
        # The server ended it while it was idle.
        self._counts["connections_lost"] += 1
        self._watch.kick(self.key)
        return False

    def putconn(self, conn: CT) -> None:
        """Return a connection, its attributes as the role wants them; one that must not be used again is closed."""
        lease: Lease = conn._pgroute  # type: ignore[attr-defined]
        self._counts["usage_ms"] += 1000.0 * (time.monotonic() - lease.taken_at)
        try:
            if (
                getattr(conn, "_tpc", None)
                or conn.pgconn.pipeline_status
                or getattr(conn, "_num_transactions", 0)
            ):
                # The next caller's it would be: a prepared transaction, a pipeline or a transaction() never left.
                shut(conn)
            elif conn.pgconn.transaction_status == _IDLE and (
                self._options.reset is not None or attributes(conn) != lease.baseline
            ):
                # Not what is left in a transaction, which a hook might commit: it is closed.
                self._clean(conn, lease)
        finally:
            self._take_back(lease, conn)

    def _clean(self, conn: CT, lease: Lease) -> None:
        try:
            restore(conn, lease.baseline)
            if self.closed:
                return
            reset = self._options.reset
            if reset == DISCARD:
                self._connector.discard(conn)
            elif callable(reset):
                reset(conn)
            if conn.pgconn.transaction_status:
                raise psycopg.ProgrammingError("reset left a transaction open")
        except BaseException as exc:
            shut(conn)
            if not isinstance(exc, Exception):
                raise
            why = one_line(str(exc))
            logger.warning("closing a connection to %s that could not be reset: %s", self.key, why)

    def _take_back(self, lease: Lease, conn: CT) -> None:
        """Give a connection to the next caller, have it idle, or close it."""
        item = (lease, conn)
        try:
            status = conn.pgconn.transaction_status
            keep = status == _IDLE and not (lease.doomed or contradicts(conn))
            with self._lock:
                if keep and not self.closed and time.monotonic() < lease.expires_at:
                    lease.taken = False
                    lease.holder = None
                    self._lending.offer(item)
                    return
            if status == _UNKNOWN:
                self._counts["returns_bad"] += 1
            self._dispose(lease, conn)
        except BaseException:
            # What an interrupt has left undone is done by the worker.
            with self._lock:
                passed_on = self._lending.offered(item)
            if not passed_on:
                lease.taken = False
                conn.pgconn.finish()
                self._lost.append(lease)
            self._wakeup.set()
            raise

    def _dispose(self, lease: Lease, conn: CT) -> None:
        """Close a connection; another takes its place where one is wanted."""
        try:
            shut(conn)
        finally:
            with self._lock:
                self._lending.remove(lease)
                lease.taken = False
                lease.watch = lease.holder = None
            self._wakeup.set()

    def _work(self) -> None:
        """Open and close connections as they are wanted, until the pool is closed.

        A fault here must not leave callers without the one who serves them.
        """
        try:
            while True:
                try:
                    if not self._turn():
                        return
                except Exception:
                    logger.exception("the pool %s failed", self.name)
                    self._wakeup.wait(_AFTER_FAULT)
        except BaseException:
            self.close()  # cancelled, or ended by the user's code: who waits goes to another pool
            raise

    def _turn(self) -> bool:
        if os.getpid() != self._pid:
            return False  # the copy in a forked child, whose sockets are its parent's
        self._find_lost()
        with self._lock:
            step = self._lending.step(time.monotonic())
        match step:
            case Connect():
                self._connect()
            case Close(items):
                for lease, conn in items:
                    lease.watch = None
                    shut(conn)
            case Rest(seconds):
                self._wakeup.wait(seconds)
            case _:
                return False
        return True

    def _find_lost(self) -> None:
        """Forget connections that their callers have lost; never under the lock: a log handler is the user's code."""
        while self._lost:
            lease = self._lost.popleft()
            with self._lock:
                known = lease in self._lending.leases
                self._lending.remove(lease)
            if known:
                lease.wire.cut()
                self._counts["connections_lost"] += 1
                logger.warning("a connection of %s was lost by its caller, and is closed", self.name)

    def _connect(self) -> None:
        begun = time.monotonic()
        self._counts["connections_num"] += 1
        failure: BaseException | None = None
        try:
            conn: CT = self._connector.connect()
        except BaseException as exc:
            self._counts["connections_errors"] += 1
            if not isinstance(exc, Exception):
                raise
            failure = exc.with_traceback(None)
        now = time.monotonic()
        self._failure = failure
        if failure is not None:
            with self._lock:
                self._lending.failed(now)
                forlorn = not self._lending.leases
            if forlorn:
                # The callers in the queue go elsewhere at once.
                self.close()
            return
        self._counts["connections_ms"] += 1000.0 * (now - begun)
        lease: Lease = conn._pgroute  # type: ignore[attr-defined]
        lease.pool = self
        lifetime = self._options.max_lifetime * (1.0 - _LIFETIME_SPREAD * random.random())
        lease.expires_at = now + lifetime
        lease.watch = weakref.ref(conn, lambda _: self._collected(lease))
        conn._pool = self  # type: ignore[assignment]  # psycopg closes on leaving `with conn` what is in no pool
        with self._lock:
            # One that contradicts its pool is lent to whoever waits for it already, and never idle.
            wanted = not self.closed and (bool(self._lending.waiting) or not contradicts(conn))
            if wanted:
                self._lending.joined((lease, conn))
            else:
                self._lending.failed(now)
        if not wanted:
            lease.watch = None
            shut(conn)

    def _collected(self, lease: Lease) -> None:
        # Called by the garbage collector, anywhere: no lock may be taken here.
        self._lost.append(lease)
        self._wakeup.set()

    def abort(self) -> int:
        """Cut the sockets of all sessions in flight, from any thread; return how many."""
        with self._lock:
            leases = tuple(self._lending.leases)
        return sum(lease.wire.cut() for lease in leases if lease.taken)

    def stats(self) -> dict[str, int]:
        """Return the statistics, under the keys of psycopg_pool."""
        lending = self._lending
        measures = {
            "pool_min": self._options.min_size,
            "pool_max": self._options.max_size,
            "pool_size": lending.size,
            "pool_available": len(lending.idle),
            "requests_waiting": len(lending.waiting),
        }
        return measures | {name: int(count) for name, count in self._counts.items() if count}

    def _sizes(self) -> str:
        return (
            f"{self._lending.in_use} of max_size {self._options.max_size} connections in use, "
            f"{len(self._lending.waiting)} waiting"
        )

    def close(self) -> None:
        """Wake the waiters and close the idle connections; those in use are closed when they come back."""
        try:
            with self._lock:
                items = self._lending.close()
        finally:
            self._connector.give_up()
            self._wakeup.set()
        for lease, conn in items:
            lease.watch = None
            shut(conn)

    @property
    def gone(self) -> bool:
        """Whether nothing is left of a closed pool: neither sessions nor its worker."""
        self._find_lost()
        self._wakeup.set()  # whoever closed it may have been interrupted before
        return not self._lending.leases and (self._worker is None or finished(self._worker))

    def join(self, timeout: float) -> None:
        """Wait for the worker of a closed pool to end."""
        self._wakeup.set()  # likewise
        if self._worker is not None:
            join_all([self._worker], timeout)


_COUNTED = (
    "requests_num",
    "requests_queued",
    "requests_errors",
    "requests_wait_ms",
    "usage_ms",
    "returns_bad",
    "connections_num",
    "connections_ms",
    "connections_errors",
    "connections_lost",
)
