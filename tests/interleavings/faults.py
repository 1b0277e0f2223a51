"""Faults that pools have had, or might get, to be put back: histories must find each of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from psycopg_pool import PoolClosed

from pgroute import _acompat
from pgroute._async.pool.exchange import AsyncExchange
from pgroute._async.pool.host_pool import AsyncHostPool
from pgroute._sync.pool.exchange import Exchange
from pgroute._sync.pool.host_pool import HostPool
from pgroute.core.routing.lending import Lending

Patch = contextlib.AbstractContextManager[object]


@contextlib.contextmanager
def _both(
    name: str,
    of_async: Callable[..., Any],
    of_sync: Callable[..., Any],
    *,
    of: tuple[type, type] = (AsyncHostPool, HostPool),
) -> Iterator[None]:
    with mock.patch.object(of[0], name, of_async), mock.patch.object(of[1], name, of_sync):
        yield


@contextlib.contextmanager
def closed_is_looked_at_before_the_lock() -> Iterator[None]:
    """As in psycopg_pool: who gets the lock when the pool was closed meanwhile joins a queue that nobody serves."""
    async_real, real = AsyncHostPool.getconn, HostPool.getconn

    async def async_getconn(self: AsyncHostPool[Any], timeout: float, since: float) -> Any:
        if self.closed:
            raise PoolClosed("the pool is closed")
        await asyncio.sleep(0)  # the lock of psycopg_pool is one of asyncio's
        return await async_real(self, timeout, since)

    def getconn(self: HostPool[Any], timeout: float, since: float) -> Any:
        if self.closed:
            raise PoolClosed("the pool is closed")
        return real(self, timeout, since)

    def take(self: Lending[Any, Any]) -> Any:
        return self.idle.popleft() if self.idle else None

    with _both("getconn", async_getconn, getconn), mock.patch.object(Lending, "take", take):
        yield


def waits_swallow_cancellations() -> Patch:
    """As asyncio.wait_for() before Python 3.12: a cancellation that comes with the result is lost."""

    async def wait(self: Any, timeout: float) -> None:
        handle = self._loop.call_later(timeout, self.wake)
        try:
            await self._future
        except asyncio.CancelledError:
            if not self._future.done() or self._future.cancelled():
                raise
        finally:
            handle.cancel()

    return mock.patch.object(_acompat.AsyncWaiter, "wait", wait)


@contextlib.contextmanager
def who_is_torn_out_keeps_what_it_was_given() -> Iterator[None]:
    """A caller who is torn out of the queue does not pass on the connection that it was given meanwhile."""
    async_real, real = _acompat.AsyncWaiter.wait, _acompat.Waiter.wait

    async def async_wait(self: Any, timeout: float) -> None:
        try:
            await async_real(self, timeout)
        except BaseException:
            self.item = None
            raise

    def wait(self: Any, timeout: float) -> None:
        try:
            real(self, timeout)
        except BaseException:
            self.item = None
            raise

    with (
        mock.patch.object(_acompat.AsyncWaiter, "wait", async_wait),
        mock.patch.object(_acompat.Waiter, "wait", wait),
    ):
        yield


def an_offer_does_not_wake() -> Patch:
    """A caller in the queue is given a connection, and not told."""

    def offer(self: Lending[Any, Any], item: Any) -> None:
        unserved = [waiter for waiter in self.waiting if waiter.item is None]
        if unserved:
            unserved[0].item = item
            self.waiting.remove(unserved[0])
        else:
            self.idle.append(item)

    return mock.patch.object(Lending, "offer", offer)


def a_closing_does_not_wake() -> Patch:
    """The callers in the queue of a pool that is closed are not told."""
    real = Lending.close

    def close(self: Lending[Any, Any]) -> Any:
        self.waiting.clear()
        return real(self)

    return mock.patch.object(Lending, "close", close)


def a_return_that_is_interrupted_loses_the_slot() -> Patch:
    """What interrupts `reset` leaves the connection in no place."""

    async def async_putconn(self: AsyncHostPool[Any], conn: Any) -> None:
        lease = conn.pgroute_lease
        lease.taken = False
        if self._options.reset is not None and not conn.closed:
            await self._cleaning.clean(conn, lease)
        await self._exchange.take_back(lease, conn)

    def putconn(self: HostPool[Any], conn: Any) -> None:
        lease = conn.pgroute_lease
        lease.taken = False
        if self._options.reset is not None and not conn.closed:
            self._cleaning.clean(conn, lease)
        self._exchange.take_back(lease, conn)

    return _both("putconn", async_putconn, putconn)


def a_connection_is_lent_twice() -> Patch:
    """What is given to a caller in the queue is put among the idle ones too."""
    real = Lending.offer

    def offer(self: Lending[Any, Any], item: Any) -> None:
        if self.waiting:
            self.idle.append(item)
        real(self, item)

    return mock.patch.object(Lending, "offer", offer)


def nobody_rings_for_a_replacement() -> Patch:
    """The worker is not told that a connection was closed for which another is wanted."""

    async def async_dispose(self: AsyncExchange[Any], lease: Any, conn: Any) -> None:
        await conn.close()
        with self._lock:
            lease.connection = None
            self._lending.remove(lease)

    def dispose(self: Exchange[Any], lease: Any, conn: Any) -> None:
        conn.close()
        with self._lock:
            lease.connection = None
            self._lending.remove(lease)

    return _both("dispose", async_dispose, dispose, of=(AsyncExchange, Exchange))


BOTH = ("async", "sync")

FAULTS: dict[Callable[[], Patch], tuple[str, ...]] = {
    closed_is_looked_at_before_the_lock: BOTH,
    waits_swallow_cancellations: ("async",),
    who_is_torn_out_keeps_what_it_was_given: ("async",),
    an_offer_does_not_wake: BOTH,
    a_closing_does_not_wake: BOTH,
    a_return_that_is_interrupted_loses_the_slot: BOTH,
    a_connection_is_lent_twice: BOTH,
    nobody_rings_for_a_replacement: BOTH,
}
"""By the faces on which they can be."""
