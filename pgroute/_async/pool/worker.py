"""The thread or task of one pool that opens and closes its connections."""

from __future__ import annotations

import logging
import os
import random
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pgroute._acompat import AsyncWakeup, AsyncWorker, async_finished, async_join_all, async_spawn
from pgroute._async.pool.lease import contradicts, lease_of, shut
from pgroute._psycopg.pooled import bare
from pgroute.core.routing.lending import Close, Connect, Rest
from pgroute.core.routing.lifetime import lifetime

if TYPE_CHECKING:
    import threading
    from collections.abc import Awaitable, Callable  # async-only

    # sync-only: from collections.abc import Callable
    import psycopg

    from pgroute._async.pool.connector import AsyncConnector
    from pgroute._async.pool.lease import AsyncLease
    from pgroute.core.routing.admission import Admission
    from pgroute.core.routing.lending import Lending

CT = TypeVar("CT", bound="psycopg.AsyncConnection[Any]")

logger = logging.getLogger("pgroute")

_AFTER_FAULT = 1.0


class AsyncPoolWorker(Generic[CT]):
    """Opens and closes the connections of one pool as its books say, until these are closed.

    Args:
        name: of the thread or task.
        lending: the pool's books.
        lock: the books' lock.
        counts: the pool's counters.
        connector: opens connections.
        admission: is told of those that were opened.
        max_lifetime: seconds.
        close: closes the pool.
        opened: told of each connection that was opened, after how many seconds.
        ended: counts the session that had a connection, if one had.

    Attributes:
        failure: why the last attempt to connect failed; None: it did not.
    """

    def __init__(
        self,
        name: str,
        lending: Lending[AsyncLease, CT],
        lock: threading.RLock,
        counts: dict[str, float],
        connector: AsyncConnector,
        *,
        admission: Admission,
        max_lifetime: float,
        # sync-only: close: Callable[[], None],
        close: Callable[[], Awaitable[None]],  # async-only
        opened: Callable[[float], None],
        ended: Callable[[AsyncLease], None],
    ) -> None:
        self.failure: BaseException | None = None
        self._name = name
        self._lending = lending
        self._lock = lock
        self._counts = counts
        self._connector = connector
        self._admission = admission
        self._max_lifetime = max_lifetime
        self._rng = random.Random()
        self._close = close
        self._opened = opened
        self._ended = ended
        self._pid = os.getpid()
        self._lost: deque[AsyncLease] = deque()
        self._wakeup = AsyncWakeup()
        self._worker: AsyncWorker | None = None

    def start(self) -> None:
        """Start; the first connection follows by itself.

        Raises:
            RuntimeError: a thread cannot be started.
        """
        self._worker = async_spawn(self._work, self._name)

    def wake(self) -> None:
        """Have the worker look at the books again; from any thread, and without a lock."""
        self._wakeup.set()

    def lost(self, lease: AsyncLease) -> None:
        """Have the connection of a lease closed that its caller has lost or given up; without a lock."""
        self._lost.append(lease)
        self._wakeup.set()

    async def _work(self) -> None:
        # A fault here must not leave callers in the queue with nobody to serve them.
        try:
            while True:
                try:
                    if not await self._turn():
                        return
                except Exception:
                    logger.exception("the pool %s failed", self._name)
                    await self._wakeup.wait(_AFTER_FAULT)
        # async-only: begin
        except GeneratorExit:
            raise  # the loop is gone: nothing can be awaited, nor a lock be taken
        # async-only: end
        except BaseException:
            # Cancelled, or ended by the user's code: callers in the queue go to another pool.
            await self._close()
            raise

    async def _turn(self) -> bool:
        if os.getpid() != self._pid:
            return False  # the copy in a forked child, whose sockets are its parent's
        self.forget_lost()
        with self._lock:
            step = self._lending.step(time.monotonic())
        match step:
            case Connect():
                await self._connect()
            case Close(items):
                for lease, conn in items:
                    lease.connection = None
                    await shut(conn)
            case Rest(seconds):
                await self._wakeup.wait(seconds)
            case _:
                return False
        return True

    def forget_lost(self) -> None:
        """Close connections that their callers have lost or given up.

        Never under the lock: a log handler is the user's code.
        """
        while True:
            with self._lock:  # whoever finds none knows that none is left in the books
                if not self._lost:
                    return
                lease = self._lost.popleft()
                known = lease in self._lending.leases
                self._lending.remove(lease)
            if not known:
                continue
            lease.abort()
            self._ended(lease)
            if not lease.given_up:
                self._counts["connections_lost"] += 1
                logger.warning("a connection of %s was lost by its caller, and is closed", self._name)

    async def _connect(self) -> None:
        begun = time.monotonic()
        self._counts["connections_num"] += 1
        failure: BaseException | None = None
        try:
            conn: CT = await self._connector.connect()
        except BaseException as exc:
            self._counts["connections_errors"] += 1
            if not isinstance(exc, Exception):
                raise
            failure = exc.with_traceback(None)
        now = time.monotonic()
        self.failure = failure
        if failure is not None:
            with self._lock:
                self._lending.failed(now)
                empty = not self._lending.leases
            if empty:
                # The callers in the queue go elsewhere at once.
                await self._close()
            return
        self._counts["connections_ms"] += 1000.0 * (now - begun)
        self._opened(now - begun)
        lease = lease_of(conn)
        lease.expires_at = now + lifetime(self._max_lifetime, self._rng)
        self._admission.opened(now - begun, now)
        lease.connection = weakref.ref(bare(conn), lambda _: lease.pool.lease_lost(lease))
        with self._lock:
            # One that contradicts its pool is lent to a caller who waits already, and never idle.
            fit = bool(self._lending.waiting) or not contradicts(conn)
            if not fit:
                self._lending.failed(now)
            wanted = fit and self._lending.joined((lease, conn))
        if not wanted:
            lease.connection = None
            await shut(conn)

    @property
    def finished(self) -> bool:
        """Whether the thread or task has ended, or was never started."""
        return self._worker is None or async_finished(self._worker)

    async def join(self, timeout: float) -> None:
        """Wait for the end, for *timeout* seconds at most."""
        if self._worker is not None:
            await async_join_all([self._worker], timeout)
