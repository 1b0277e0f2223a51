"""How fast one process opens connections at a host that a whole fleet comes to: one at first, then twice as many."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

ROUND = 0.1
"""Seconds from one round to the next, at least. Ten connections take three rounds after the first one."""

SETTLED = 10.0
"""Seconds after which a host that has come back is one like any other: the fleet has arrived."""

SOON = 0.1
"""Seconds that a reader waits for the turn of a standby to be connected to; for a later one it goes elsewhere."""

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 1.0
_PAUSE_SPREADS = 4.0
_UNLIMITED = 1 << 30


def is_fresh(*, generation: int, returned_at: float | None, since: float, now: float) -> bool:
    """Return whether the whole fleet may be about to connect to a host.

    Args:
        generation: of the host; above 0 once it was another one, or in another role.
        returned_at: monotonic seconds at which it came back; None: it was never away.
        since: monotonic seconds at which it got its state.
        now: monotonic seconds.
    """
    return (generation > 0 or returned_at is not None) and now < since + SETTLED


class Admission:
    """The connections that one pool may open now. Used by one thread or task at a time.

    At a host that has just come back or was promoted the first one follows after a random part of the *spread*, so that
    a fleet does not come all at once. Then rounds of 1, 2, 4, ... connections follow, as long as somebody needs them. A
    round lasts as long as a login took, at least, so a server that is slow under load is given time. A server that has
    no connection left (53300) halves the rounds, and each refusal doubles the pause. All pauses differ between
    processes by half of their length up and down.

    Args:
        now: monotonic seconds.
        rng: the source of the jitter.
        spread: seconds over which the fleet spreads its first connections.
        fresh: the fleet may be about to connect; otherwise only refusals limit the pool.

    Attributes:
        due: monotonic seconds from which on the next connection may be opened.
        window: the connections of one round.
    """

    __slots__ = ("_left", "_opened", "_pause", "_rng", "_spread", "due", "window")

    def __init__(self, now: float, rng: Random, *, spread: float, fresh: bool) -> None:
        self._rng = rng
        self._spread = spread
        self._pause = _FIRST_PAUSE
        self._opened = 0
        self.window: int = 1 if fresh else _UNLIMITED
        self._left = self.window
        self.due: float = now + spread * rng.random() if fresh else now

    def opened(self, took: float, now: float) -> None:
        """Report that a connection was opened.

        Args:
            took: seconds that this took.
            now: monotonic seconds.
        """
        self._pause = _FIRST_PAUSE
        self._opened += 1
        self._left -= 1
        if self._left <= 0:
            self.window = min(2 * self.window, _UNLIMITED)
            self._left = self.window
            self.due = now + self._jittered(max(ROUND, self._spread, took))

    def refused(self, now: float) -> float:
        """Report that the server had no connection left; return the seconds until the next attempt.

        Args:
            now: monotonic seconds.
        """
        self.window = max(1, min(self.window, self._opened) // 2)
        self._left = self.window
        self._opened = 0
        pause = self._jittered(self._pause)
        self._pause = min(2 * self._pause, max(_LONGEST_PAUSE, _PAUSE_SPREADS * self._spread))
        self.due = now + pause
        return pause

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.5 + self._rng.random())
