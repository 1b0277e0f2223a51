"""Gives back what a thread has borrowed when the thread ends: Django's objects for it are part of circles."""

from __future__ import annotations

import threading
import weakref
from typing import Any, Protocol


class Borrower(Protocol):
    """A thread's connection, as the backend has it."""

    @property
    def allow_thread_sharing(self) -> bool:
        """Whether other threads may use it."""
        ...

    def leave(self) -> None:
        """Give the connection back, for a thread that has ended."""
        ...


class _Borrowers:
    """Those of one thread, with which it goes. Until the garbage is collected, a pool would be empty long ago."""

    def __init__(self) -> None:
        self.all: weakref.WeakSet[Any] = weakref.WeakSet()

    def __del__(self) -> None:
        for borrower in [*self.all]:
            if not borrower.allow_thread_sharing:
                borrower.leave()


_here = threading.local()


def note_borrower(borrower: Borrower) -> None:
    """Have a connection given back at the latest when this thread ends.

    Args:
        borrower: what has just borrowed one.
    """
    found: _Borrowers | None = getattr(_here, "borrowers", None)
    if found is None:
        found = _here.borrowers = _Borrowers()
    found.all.add(borrower)
