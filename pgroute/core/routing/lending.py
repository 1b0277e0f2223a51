"""Who is lent a connection of a pool, who waits for one, when one is opened or closed; the time is an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 1.0


class Lease(Protocol):
    """What a pool keeps of one connection for as long as that exists.

    Attributes:
        expires_at: monotonic seconds from which on the connection is not lent any more.
    """

    expires_at: float

    def __hash__(self) -> int: ...


L = TypeVar("L", bound="Lease")
C = TypeVar("C")


class Waiter(Protocol):
    """A caller in the queue.

    Attributes:
        item: the lease and the connection that it was given; None until then.
        since: monotonic seconds at which it began to wait, here or elsewhere.
    """

    item: tuple[Any, Any] | None
    since: float

    def wake(self) -> None:
        """Have the caller look whether it was given something, or the pool was closed."""
        ...


class PoolFull(PoolTimeout):
    """Every connection that a pool may have was in use until the caller's time was over."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a connection, and tell the outcome by `joined` or `failed`."""


@dataclass(frozen=True, slots=True)
class Close(Generic[L, C]):
    """Close these connections, which nobody has and nobody will get."""

    items: list[tuple[L, C]]


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing is to be done for *seconds* (None: until something changes)."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class Stop:
    """The pool is closed."""


class Lending(Generic[L, C]):
    """The books of one pool. Its owner calls each method under one lock, and does the I/O outside of it.

    A connection in use is known by its lease alone, so that one that its user has lost can be collected, and is then
    reported by `remove`. Each line leaves the books in order: an interrupt between two of them loses nothing.

    Args:
        min_size: connections to keep; a new pool begins with one.
        max_size: connections at most.
        max_waiting: callers in the queue at most; 0: any number.
        max_idle: seconds; in each such period one connection above min_size that was not needed is closed.
        now: monotonic seconds.

    Attributes:
        leases: of all connections, idle or in use.
        idle: the connections that nobody uses.
        waiting: the callers in the queue, who waits longest comes first: one that comes from another queue, or whose
            connection was dead, has not lost its turn.
        closed: nobody is lent a connection any more.
    """

    def __init__(
        self, *, min_size: int, max_size: int, max_waiting: int, max_idle: float, now: float
    ) -> None:
        self.leases: dict[L, None] = {}
        self.idle: deque[tuple[L, C]] = deque()
        self.waiting: deque[Waiter] = deque()
        self.closed = False
        self._min_size = min_size
        self._max_size = max_size
        self._max_waiting = max_waiting
        self._max_idle = max_idle
        self._connecting = False
        self._founded = False
        self._pause = _FIRST_PAUSE
        self._retry_at = now
        self._shrink_at = now + max_idle
        self._unused = 0

    @property
    def in_use(self) -> int:
        """The connections that are lent."""
        return len(self.leases) - len(self.idle)

    @property
    def size(self) -> int:
        """The connections that there are, and the one that is being opened."""
        return len(self.leases) + self._connecting

    def take(self) -> tuple[L, C] | None:
        """Lend an idle connection; None: there is none.

        Raises:
            PoolClosed: the pool is closed.
        """
        if self.closed:
            raise PoolClosed("the pool is closed")
        if not self.idle:
            return None
        self._unused = min(self._unused, len(self.idle) - 1)
        return self.idle.popleft()

    def queue(self, waiter: Waiter) -> None:
        """Let a caller wait for the next connection.

        Raises:
            TooManyRequests: the queue is full.
        """
        if self._max_waiting and len(self.waiting) >= self._max_waiting:
            raise TooManyRequests(f"{len(self.waiting)} callers wait already")
        place = len(self.waiting)
        while place and self.waiting[place - 1].since > waiter.since:
            place -= 1
        self.waiting.insert(place, waiter)

    def leave(self, waiter: Waiter) -> None:
        """Take a caller out of the queue, who may have been given a connection meanwhile."""
        if waiter in self.waiting:
            self.waiting.remove(waiter)

    def offer(self, item: tuple[L, C]) -> None:
        """Give a connection to the first caller in the queue, or have it idle; `offered` tells if that was done."""
        self._dismiss_served()
        if not self.waiting:
            self.idle.append(item)
            return
        self.waiting[0].item = item
        self.waiting[0].wake()

    def offered(self, item: tuple[L, C]) -> bool:
        """Return whether an interrupted `offer` has passed the connection on; called under the same lock."""
        done = any(idle is item for idle in self.idle) or any(w.item is item for w in self.waiting)
        self._dismiss_served()
        return done

    def _dismiss_served(self) -> None:
        while self.waiting and self.waiting[0].item is not None:
            self.waiting[0].wake()
            self.waiting.popleft()

    def joined(self, item: tuple[L, C]) -> None:
        """Take in a connection that was opened."""
        self._connecting = False
        self._founded = True
        self._pause = _FIRST_PAUSE
        self.leases[item[0]] = None
        self.offer(item)

    def failed(self, now: float) -> None:
        """Take note that one could not be opened: the next attempt follows after a pause that grows."""
        self._connecting = False
        self._retry_at = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def remove(self, lease: L) -> None:
        """Forget a connection that was closed or lost."""
        self.leases.pop(lease, None)

    def close(self) -> list[tuple[L, C]]:
        """Let nobody in any more, wake everybody who waits, and return what was idle, to be closed."""
        self.closed = True
        while self.waiting:
            self.waiting[0].wake()
            self.waiting.popleft()
        items = list(self.idle)
        self.idle.clear()
        for lease, _ in items:
            self.remove(lease)
        return items

    @property
    def wanting(self) -> bool:
        """Whether a connection is to be opened as soon as that may be."""
        if self.closed or self._connecting or len(self.leases) >= self._max_size:
            return False
        if not self._founded:
            return not self.leases and bool(self._min_size or self.waiting)
        return bool(self.waiting) or len(self.leases) < self._min_size

    def step(self, now: float) -> Connect | Close[L, C] | Rest | Stop:
        """Return what is to be done now to keep the pool as it should be; an interrupted step is completed here."""
        if self.closed:
            items = self.close()
            return Close(items) if items else Stop()
        self._dismiss_served()
        while self.waiting and self.idle:
            self.offer(self.idle.popleft())
        self._dismiss_served()
        surplus = self._surplus(now)
        if surplus:
            for item in surplus:
                self.idle.remove(item)
                self.remove(item[0])
            return Close(surplus)
        if self.wanting:
            if now >= self._retry_at:
                self._connecting = True
                return Connect()
            return Rest(self._retry_at - now)
        due = min([self._shrink_at, *(lease.expires_at for lease, _ in self.idle)])
        return Rest(max(0.0, due - now))

    def _surplus(self, now: float) -> list[tuple[L, C]]:
        expired = [item for item in self.idle if item[0].expires_at <= now]
        if expired or now < self._shrink_at:
            return expired
        unneeded = self._unused > 0 and len(self.leases) > self._min_size
        self._shrink_at = now + self._max_idle
        self._unused = len(self.idle) - unneeded
        return [self.idle[0]] if unneeded and self.idle else []
