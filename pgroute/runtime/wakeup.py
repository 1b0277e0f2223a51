"""What threads wait for. Ctrl-C may come at any line, and must leave no lock behind that another thread waits for.

`threading.Condition`, and with it Event, Queue and Future, takes its lock in Python code: an interrupt just behind that
leaves it locked for ever. A plain Lock in a ``with`` statement is taken and left between two interrupts.
"""

from __future__ import annotations

import contextlib
import threading


class Bell:
    """Calls a worker that rests: `ring` from any thread, and where no lock may be waited for."""

    __slots__ = ("_bolt",)

    def __init__(self) -> None:
        self._bolt = threading.Lock()
        self._bolt.acquire()

    def ring(self) -> None:
        """End the rest under way, or the next one."""
        with contextlib.suppress(RuntimeError):  # it rings already
            self._bolt.release()

    def rest(self, timeout: float | None) -> None:
        """Return when it rings, or after *timeout* seconds; None: not before."""
        self._bolt.acquire(timeout=-1 if timeout is None else max(0.0, timeout))


class Signal:
    """Something happens once: `give` from any thread ends every `wait`."""

    __slots__ = ("_bell", "given")

    def __init__(self) -> None:
        self.given = False
        self._bell = Bell()

    def give(self) -> None:
        """Say that it has happened."""
        self.given = True
        self._bell.ring()

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether it has happened, after *timeout* seconds at the latest."""
        if not self.given:
            self._bell.rest(timeout)
        happened = self.given
        if happened:
            self._bell.ring()  # for the next one who waits
        return happened
