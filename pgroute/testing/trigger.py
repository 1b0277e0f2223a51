"""Faults that wait for a byte count or a pattern in a stream, and the search for that place."""

from __future__ import annotations

import threading
from typing import Literal

from .errors import ClusterTimeout

Action = Literal["reset", "disconnect", "blackhole", "discard"]


class Trigger:
    """A fault that `FaultProxy.when()` or `FaultProxy.cut_after()` has set and that waits for its place in a stream.

    Attributes:
        hits: number of connections that it has hit.
    """

    def __init__(
        self,
        action: Action,
        *,
        times: int | None,
        pattern: bytes = b"",
        count: int = 0,
        after_forwarding: bool = True,
    ) -> None:
        self.action = action
        self.pattern = pattern
        self.count = count
        self.after_forwarding = after_forwarding
        self.hits: int = 0
        self._times = times
        self._reserved = 0
        self._in_force = threading.Event()

    def __repr__(self) -> str:
        place = f"when {self.pattern!r}" if self.pattern else f"after {self.count} bytes"
        return f"<Trigger {self.action} {place}, {self.hits} hits>"

    @property
    def armed(self) -> bool:
        """Whether it can hit another connection; False after `clear_faults()`."""
        return self._times is None or self.hits + self._reserved < self._times

    @property
    def spent(self) -> bool:
        """Whether it can never hit again. A trigger that is not armed may miss its connection and be armed again."""
        return self._times is not None and self.hits >= self._times

    def wait(self, timeout: float = 10.0) -> None:
        """Return once its fault has been in force on a connection.

        Args:
            timeout: seconds.

        Raises:
            ClusterTimeout: it has hit no connection in that time.
        """
        if not self._in_force.wait(timeout):
            raise ClusterTimeout(f"{self!r} has hit no connection within {timeout} s")

    def reserve(self) -> None:
        """Reserve one hit: the fault follows once all bytes before it have been passed on."""
        self._reserved += 1

    def give_back(self) -> None:
        """Give a reserved hit back: the bytes before it will never be passed on."""
        self._reserved -= 1

    def record_hit(self) -> None:
        """Turn a reserved hit into a counted one."""
        self.hits += 1
        self._reserved -= 1

    def set_in_force(self) -> None:
        """Wake the callers of `wait()`."""
        self._in_force.set()

    def disarm(self) -> None:
        """Let it hit no further connection."""
        self._times = 0


class TriggerSearch:
    """The search for a trigger's place in one direction of one connection."""

    def __init__(self, trigger: Trigger) -> None:
        self.trigger = trigger
        self._passed = 0
        self._tail = b""

    def find(self, chunk: bytes) -> tuple[int, int] | None:
        """Return how many bytes of `chunk` pass before the fault, and where the pattern begins; None if not found."""
        if not self.trigger.pattern:
            missing = max(0, self.trigger.count - self._passed)
            return (missing, missing) if missing <= len(chunk) else None
        start = (self._tail + chunk).find(self.trigger.pattern) - len(self._tail)
        if start < -len(self._tail):
            return None
        # The rest of the message comes in the same chunk, and without it the receiver would not act.
        return (len(chunk) if self.trigger.after_forwarding else max(0, start)), start

    def advance(self, chunk: bytes) -> None:
        """Record that `chunk` has passed."""
        self._passed += len(chunk)
        seen = self._tail + chunk
        self._tail = (
            seen[max(0, len(seen) - len(self.trigger.pattern) + 1) :] if self.trigger.pattern else b""
        )
