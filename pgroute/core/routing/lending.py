"""The state of one pool: which connections are lent, which callers wait, when a connection is opened or closed."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from pgroute.core.routing.admission import Admission

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 1.0
_TIDY_GAP = 0.1
"""The least seconds between two rounds of closing idle connections, whatever the options say."""


class Lease(Protocol):
    """What a pool keeps for each of its connections.

    Attributes:
        expires_at: monotonic seconds after which the connection is not lent any more.
        uses: the sessions that had it.
    """

    expires_at: float
    uses: int

    def __hash__(self) -> int: ...


L = TypeVar("L", bound="Lease")
C = TypeVar("C")


class Waiter(Protocol):
    """A caller in the queue.

    Attributes:
        item: the lease and the connection that it got; None until then.
        since: monotonic seconds at which it began to wait, for this pool or another.
    """

    item: tuple[Any, Any] | None
    since: float

    def wake(self) -> None:
        """Wake the caller, because it got a connection or the pool was closed."""
        ...


class PoolFull(PoolTimeout):
    """All connections that a pool may have were in use until the timeout of the caller."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a connection, and report the result by `joined` or `failed`."""


@dataclass(frozen=True, slots=True)
class Close(Generic[L, C]):
    """Close these connections, which are in no use any more."""

    items: list[tuple[L, C]]


@dataclass(frozen=True, slots=True)
class Rest:
    """Do nothing for *seconds* (None: until something changes)."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class Stop:
    """The pool is closed."""


class Lending(Generic[L, C]):
    """The state of one pool. Its owner calls each method under one lock, and does the I/O outside of the lock.

    Of a connection in use only the lease is kept, so that a connection that its user dropped can be garbage-collected;
    `remove` is called then. The state is valid after each line, so an interrupt between two lines loses nothing.

    Args:
        min_size: connections to keep open; a new pool begins with one.
        max_size: the most connections.
        max_waiting: the most callers in the queue; 0 for any number.
        max_idle: seconds; in each such period one connection beyond min_size is closed if it was not needed.
        max_uses: the sessions after which a connection is replaced; None: any number.
        now: monotonic seconds.
        admission: bounds how fast connections are opened; None: nothing does.

    Attributes:
        min_size: as given, or as `resize` says.
        max_size: likewise.
        leases: those of all connections, idle or in use.
        idle: the connections that are not in use.
        waiting: the callers in the queue, the longest wait first. A caller that comes from another queue, or that got
            a dead connection, keeps its time.
        closed: no connection is lent any more.
        wanted: one more connection is to be opened, whether anybody needs it or not, to find out whether that works.
    """

    def __init__(
        self,
        *,
        min_size: int,
        max_size: int,
        max_waiting: int,
        max_idle: float,
        max_uses: int | None = None,
        now: float,
        admission: Admission | None = None,
    ) -> None:
        self.leases: dict[L, None] = {}
        self.idle: deque[tuple[L, C]] = deque()
        self.waiting: deque[Waiter] = deque()
        self.closed: bool = False
        self.wanted: bool = False
        self.min_size: int = min_size
        self.max_size: int = max_size
        self._max_waiting = max_waiting
        self._max_idle = max(max_idle, _TIDY_GAP)
        self._max_uses = math.inf if max_uses is None else max_uses
        self._retired: deque[tuple[L, C]] = deque()
        self._missing = 0
        self._outdated = False
        self._connecting = False
        self._connected_once = False
        self._pause = _FIRST_PAUSE
        self._retry_at = now
        self._shrink_at = now + self._max_idle
        self._renew_at = now
        self._unused = 0
        self._admission = admission

    @property
    def in_use(self) -> int:
        """The number of connections that are lent."""
        return len(self.leases) - len(self.idle)

    @property
    def size(self) -> int:
        """The number of connections, including the one that is being opened."""
        return len(self.leases) + self._connecting

    def take(self) -> tuple[L, C] | None:
        """Lend an idle connection, None if there is none.

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
        """Put a caller into the queue.

        Raises:
            TooManyRequests: the queue is full.
        """
        if self._max_waiting and len(self.waiting) >= self._max_waiting:
            raise TooManyRequests(f"{len(self.waiting)} callers are waiting already")
        place = len(self.waiting)
        while place and self.waiting[place - 1].since > waiter.since:
            place -= 1
        self.waiting.insert(place, waiter)

    def leave(self, waiter: Waiter) -> None:
        """Take a caller out of the queue; it may have got a connection in the meantime."""
        if waiter in self.waiting:
            self.waiting.remove(waiter)

    def offer(self, item: tuple[L, C]) -> None:
        """Give a connection to the first caller in the queue, or make it idle."""
        if self.waiting:
            self._drop_served()
        if not self.waiting:
            self.idle.append(item)
            return
        self.waiting[0].item = item
        self.waiting[0].wake()

    def offered(self, item: tuple[L, C]) -> bool:
        """Return True if an interrupted `offer` did its work; called under the same lock."""
        done = any(idle is item for idle in self.idle) or any(w.item is item for w in self.waiting)
        self._drop_served()
        return done

    def _drop_served(self) -> None:
        while self.waiting and self.waiting[0].item is not None:
            self.waiting[0].wake()
            self.waiting.popleft()

    def keeps(self, lease: L, now: float) -> bool:
        """Return whether a connection that comes back may be lent again. If not, it is to be closed and removed."""
        if self.closed or len(self.leases) > self.max_size:
            return False
        if lease.uses >= self._max_uses or lease.expires_at == -math.inf:
            self._missing += 1
            return False
        return now < lease.expires_at

    def resize(self, min_size: int, max_size: int) -> None:
        """Change the sizes. Idle connections beyond *max_size* are closed, those in use when they come back."""
        self.min_size, self.max_size = min_size, max_size
        while self.idle and len(self.leases) > max_size:
            self._retire()

    def expire(self) -> None:
        """Lend none of the present connections any more: those in use are replaced when they come back.

        So is the one that is being opened: its login may have been sent before what made the caller ask for this.
        """
        self._outdated = self._connecting
        for lease in tuple(self.leases):
            lease.expires_at = -math.inf
        while self.idle:
            self._missing += 1
            self._retire()

    def fill(self, size: int) -> None:
        """Have connections opened until there are *size*, or max_size, whether anybody needs them or not."""
        self._missing = max(self._missing, size - len(self.leases))

    def _retire(self) -> None:
        """Take the longest idle connection out; the worker closes it at the next step."""
        item = self.idle.popleft()
        self.remove(item[0])
        self._retired.append(item)

    def joined(self, item: tuple[L, C]) -> bool:
        """Add a connection that was opened. False: it is not wanted any more, and is to be closed."""
        outdated, self._outdated = self._outdated, False
        self._connecting = self.wanted = False
        self._connected_once = True
        self._pause = _FIRST_PAUSE
        if self.closed or outdated or len(self.leases) >= self.max_size:
            return False
        self._missing = max(0, self._missing - 1)
        self.leases[item[0]] = None
        if len(self.leases) >= self.max_size:
            self._missing = 0
        self.offer(item)
        return True

    def failed(self, now: float) -> None:
        """Report that a connection could not be opened: the next attempt follows after a growing pause."""
        self._connecting = self.wanted = self._outdated = False
        self._missing = 0
        self._retry_at = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def remove(self, lease: L) -> None:
        """Forget a connection that was closed or lost."""
        self.leases.pop(lease, None)

    def close(self) -> list[tuple[L, C]]:
        """Close the pool: wake all waiting callers, and return the idle connections, which are to be closed."""
        self.closed = True
        while self.waiting:
            self.waiting[0].wake()
            self.waiting.popleft()
        items = [*self._retired, *self.idle]
        self._retired.clear()
        self.idle.clear()
        for lease, _ in items:
            self.remove(lease)
        return items

    @property
    def needs_connection(self) -> bool:
        """True if another connection is needed."""
        if self.closed or self._connecting or len(self.leases) >= self.max_size:
            return False
        if self.wanted:
            return True
        if not self._connected_once:
            return not self.leases and bool(self.min_size or self.waiting or self._missing)
        return bool(self.waiting) or len(self.leases) < self.min_size or self._missing > 0

    def step(self, now: float) -> Connect | Close[L, C] | Rest | Stop:
        """Return what to do now. If an earlier step was interrupted, this completes it."""
        if self.closed:
            items = self.close()
            return Close(items) if items else Stop()
        if self._retired:
            retired = list(self._retired)
            self._retired.clear()
            return Close(retired)
        self._drop_served()
        while self.waiting and self.idle:
            self.offer(self.idle.popleft())
        self._drop_served()
        surplus = self._surplus(now)
        if surplus:
            for item in surplus:
                self.idle.remove(item)
                self.remove(item[0])
            return Close(surplus)
        if self.needs_connection:
            at = self._retry_at if self._admission is None else max(self._retry_at, self._admission.due)
            if now >= at:
                self._connecting = True
                return Connect()
            return Rest(at - now)
        expiry = min((lease.expires_at for lease, _ in self.idle), default=math.inf)
        due = min(self._shrink_at, max(self._renew_at, expiry))
        return Rest(max(0.0, due - now))

    def _surplus(self, now: float) -> list[tuple[L, C]]:
        expired = [item for item in self.idle if item[0].expires_at <= now >= self._renew_at]
        if expired:
            self._renew_at = now + _TIDY_GAP
        if expired or now < self._shrink_at:
            return expired
        unneeded = self._unused > 0 and len(self.leases) > self.min_size
        self._shrink_at = now + self._max_idle
        self._unused = len(self.idle) - unneeded
        return [self.idle[0]] if unneeded and self.idle else []
