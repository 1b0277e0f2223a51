"""The connections of `getconn(key=)`: callers with the same key get the same one until it is put back."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pgroute._acompat import AsyncWaiter
from pgroute.core.routing.keyed_loans import KeyedLoans

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable  # async-only

    # sync-only: from collections.abc import Callable, Hashable
    import psycopg

CT = TypeVar("CT", bound="psycopg.AsyncConnection[Any]")


class AsyncKeyedConnections(Generic[CT]):
    """Keeps connections by key."""

    def __init__(self) -> None:
        self._loans: KeyedLoans[CT] = KeyedLoans()
        self._lock = threading.Lock()

    async def get(
        self,
        key: Hashable,
        take: Callable[[], Awaitable[CT]],
        timeout: float,
    ) -> CT | None:
        """Return the connection of a key, or take one for it; None if another caller took too long to do so.

        Args:
            key: the key, with the role.
            take: takes a connection.
            timeout: seconds to wait for another caller with the same key.
        """
        until = time.monotonic() + timeout
        while True:
            waiter = AsyncWaiter(0.0)
            with self._lock:
                conn = self._loans.kept(key)
                if conn is not None:
                    return conn
                first = self._loans.begin(key, waiter)
            if first:
                return await self._take(key, take)
            left = until - time.monotonic()
            try:
                await waiter.wait(max(0.0, left))
            finally:
                with self._lock:
                    self._loans.leave(key, waiter)
            if left <= 0:
                return None

    async def _take(
        self,
        key: Hashable,
        take: Callable[[], Awaitable[CT]],
    ) -> CT:
        conn: CT | None = None
        try:
            conn = await take()
            return conn
        finally:
            with self._lock:
                self._loans.end(key, conn)

    def drop(self, conn: CT) -> None:
        """Free the key of a connection that is put back, if it has one."""
        with self._lock:
            self._loans.drop(conn)
