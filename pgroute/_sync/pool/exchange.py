# Generated from pgroute/_async/pool/exchange.py by .ci/unasync.py: edit that file, not this one.
"""Hands the connections of a pool from one caller to the next."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from psycopg.pq import TransactionStatus
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from pgroute._acompat import Waiter
from pgroute._sync.pool.cancelling import abandon
from pgroute._sync.pool.lease import contradicts
from pgroute.core.faults.classify import one_line
from pgroute.core.routing.lending import PoolFull

if TYPE_CHECKING:
    import threading

    import psycopg

    from pgroute._sync.pool.lease import Lease
    from pgroute._sync.pool.worker import PoolWorker
    from pgroute.core.routing.lending import Lending

CT = TypeVar("CT", bound="psycopg.Connection[Any]")

# Looked up on the way of each session, where an attribute of an enumeration costs 0.1 us.
_IDLE, _UNKNOWN = TransactionStatus.IDLE, TransactionStatus.UNKNOWN

_LEAST_WAIT = 0.001


class Exchange(Generic[CT]):
    """The queue of a pool's callers, and what becomes of the connections that come back.

    Args:
        lending: the pool's books.
        lock: the books' lock.
        counts: the pool's counters.
        worker: opens and closes connections.
        limit: the name of the option that limits the connections, for errors.

    Attributes:
        limit: as given.
    """

    def __init__(
        self,
        lending: Lending[Lease, CT],
        lock: threading.RLock,
        counts: dict[str, float],
        worker: PoolWorker[CT],
        limit: str,
    ) -> None:
        self._lending = lending
        self._lock = lock
        self._counts = counts
        self._worker = worker
        self.limit = limit

    def queue(self, since: float) -> Waiter:
        """Return the place of a caller in the queue, who has waited since then (monotonic seconds); under the lock.

        Raises:
            TooManyRequests: the queue is full.
        """
        waiter = Waiter(since)
        try:
            self._lending.queue(waiter)
        except TooManyRequests as exc:
            self._counts["requests_errors"] += 1
            raise TooManyRequests(f"{exc}; {self._sizes()}") from None
        self._counts["requests_queued"] += 1
        return waiter

    def wait(self, waiter: Waiter, timeout: float) -> tuple[Lease, CT]:
        """Wait in the queue for a connection; an interrupted caller passes on what it was given.

        Args:
            waiter: the caller's place.
            timeout: seconds.

        Raises:
            PoolFull: all connections were in use until then.
            PoolTimeout: none could be opened until then.
            PoolClosed: the pool was closed.
        """
        begun = time.monotonic()
        try:
            if self._lending.needs_connection:
                self._worker.wake()
            waiter.wait(max(timeout, _LEAST_WAIT))
            with self._lock:  # inside, because this wait may be interrupted too
                self._lending.leave(waiter)
        except BaseException:
            with self._lock:
                self._lending.leave(waiter)
            self._counts["requests_errors"] += 1
            if waiter.item is not None:
                self.take_back(*waiter.item)
            raise
        finally:
            self._counts["requests_wait_ms"] += 1000.0 * (time.monotonic() - begun)
        if waiter.item is not None:
            return waiter.item
        self._counts["requests_errors"] += 1
        raise self._no_connection(time.monotonic() - begun)

    def take_back(self, lease: Lease, conn: CT) -> None:
        """Give a connection to the next caller in the queue, make it idle, or close it."""
        item = (lease, conn)
        try:
            status = conn.pgconn.transaction_status
            keep = status == _IDLE and not (lease.doomed or contradicts(conn))
            with self._lock:
                if keep and self._lending.keeps(lease, time.monotonic()):
                    lease.taken = False
                    lease.holder = None
                    self._lending.offer(item)
                    return
            if status == _UNKNOWN:
                self._counts["returns_bad"] += 1
            self.dispose(lease, conn)
        except BaseException:
            # The worker finishes what an interrupt has left undone.
            with self._lock:
                passed_on = self._lending.offered(item)
            if not passed_on:
                lease.taken = False
                lease.given_up = True
                conn.pgconn.finish()
                self._worker.lost(lease)
            self._worker.wake()
            raise

    def dispose(self, lease: Lease, conn: CT) -> None:
        """Close a connection; the worker opens another if one is wanted."""
        try:
            abandon(conn, lease)
        finally:
            with self._lock:
                self._lending.remove(lease)
                lease.taken = False
                lease.connection = lease.holder = None
            self._worker.wake()

    def _no_connection(self, waited: float) -> Exception:
        if self._lending.closed:
            return PoolClosed("the pool is closed")
        if self._lending.in_use >= self._lending.max_size:
            return PoolFull(self._sizes())
        why = f": {one_line(str(self._worker.failure))}" if self._worker.failure is not None else ""
        others = f" ({self._sizes()})" if self._lending.in_use else ""
        return PoolTimeout(f"no connection could be opened in {waited:.3g} s{others}{why}")

    def _sizes(self) -> str:
        return (
            f"{self._lending.in_use} of {self.limit} {self._lending.max_size} connections in use, "
            f"{len(self._lending.waiting)} waiting"
        )
