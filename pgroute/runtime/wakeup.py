"""Waiting between threads that Ctrl-C, which may come at any line, cannot leave locked.

`threading.Condition`, and with it Event, Queue and Future, takes its lock in Python code: an interrupt right after that
leaves it locked forever. Acquiring a plain Lock, also in a ``with`` statement, cannot be interrupted halfway.
"""

from __future__ import annotations

import contextlib
import threading


class Wakeup:
    """Wakes one waiting thread. `set` never blocks and may be called from any thread."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """End the current wait, or the next one."""
        with contextlib.suppress(RuntimeError):  # it is set already
            self._lock.release()

    def wait(self, timeout: float | None) -> None:
        """Return when set, or after *timeout* seconds (None: never before), and reset."""
        self._lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))


class OneShotEvent:
    """Happens once: `set`, from any thread, ends every `wait`."""

    __slots__ = ("_wakeup", "is_set")

    def __init__(self) -> None:
        self.is_set: bool = False
        self._wakeup = Wakeup()

    def set(self) -> None:
        """Record that the event has happened, and wake every waiter."""
        self.is_set = True
        self._wakeup.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether the event has happened, after *timeout* seconds at the latest."""
        if not self.is_set:
            self._wakeup.wait(timeout)
        happened = self.is_set
        if happened:
            self._wakeup.set()  # for the next waiter
        return happened
