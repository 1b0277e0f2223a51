"""Which connection is kept under which key: the first caller with a key takes one, and others get the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

C = TypeVar("C")


class Waiter(Protocol):
    """A caller who waits until another has taken a connection for the same key."""

    def wake(self) -> None:
        """Wake the caller."""
        ...


class KeyedLoans(Generic[C]):
    """The connections that are kept by a key, and the callers who wait for one to be taken.

    Its owner calls each method under one lock. As in psycopg2's pools, a key names one user of a connection: however
    often the connection was asked for, it is given back once, and the key is free again.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, C] = {}
        self._keys: dict[int, Hashable] = {}
        self._waiting: dict[Hashable, list[Waiter]] = {}

    def kept(self, key: Hashable) -> C | None:
        """Return the connection that is kept under a key, None if there is none."""
        return self._kept.get(key)

    def begin(self, key: Hashable, waiter: Waiter) -> bool:
        """Return True if the caller is to take a connection, and to call `end`; else it is woken after another's."""
        if key in self._waiting:
            self._waiting[key].append(waiter)
            return False
        self._waiting[key] = []
        return True

    def leave(self, key: Hashable, waiter: Waiter) -> None:
        """Take a caller out who does not wait any more."""
        waiting = self._waiting.get(key, [])
        if waiter in waiting:
            waiting.remove(waiter)

    def end(self, key: Hashable, conn: C | None) -> None:
        """Keep the connection that was taken, None if that failed, and wake all who wait for it."""
        if conn is not None:
            self._kept[key] = conn
            self._keys[id(conn)] = key
        for waiter in self._waiting.pop(key, []):
            waiter.wake()

    def drop(self, conn: C) -> None:
        """Free the key of a connection that is given back, if it has one."""
        key = self._keys.pop(id(conn), None)
        if key is not None:
            del self._kept[key]
