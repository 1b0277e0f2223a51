"""How often something took how long: a histogram of seconds."""

from __future__ import annotations

from bisect import bisect_left

from pgroute.core.late_dataclass import dataclass

BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Seconds, as OpenTelemetry's conventions advise for the duration of database operations."""

QUICK = BOUNDS[0]

OUTAGE_BOUNDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(frozen=True, slots=True)
class DurationCounts:
    """How often something took how long.

    Attributes:
        bounds: seconds, ascending.
        counts: how often it took at most as many seconds as each bound, and more than the one before; the last counts
            what took longer than all of them.
        total: seconds in all.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How often it happened."""
        return sum(self.counts)

    def __add__(self, other: DurationCounts) -> DurationCounts:
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return DurationCounts(self.bounds, counts, self.total + other.total)


class Durations:
    """Counts durations, from any thread, without a lock: each step is one that the interpreter does not divide.

    Args:
        bounds: seconds, ascending.

    Attributes:
        quick: how many took less than QUICK seconds; where a call of `add` costs too much, it is counted by hand.
        quick_total: seconds that these took.
    """

    __slots__ = ("_bounds", "_counts", "_total", "quick", "quick_total")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self.quick: int = 0
        self.quick_total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._total += seconds

    def read(self) -> DurationCounts:
        """Return the counts so far."""
        first, *others = self._counts
        return DurationCounts(self._bounds, (first + self.quick, *others), self._total + self.quick_total)
