"""Counts over time, and their drawing as a line of blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*%#"


class Histogram:
    """Counts moments per slot of time, from lists that only grow.

    Args:
        start: the begin of the first slot, in time.monotonic() seconds.
        step: the length of a slot in seconds.
    """

    def __init__(self, start: float, step: float) -> None:
        self.start = start
        self.step = step
        self.counts: list[int] = []
        self._taken = 0

    def update(self, moments: Sequence[float]) -> None:
        """Count the moments added to the list since the last call; moments before the start are ignored."""
        end = len(moments)
        for index in range(self._taken, end):
            slot = int((moments[index] - self.start) // self.step)
            if slot < 0:
                continue
            if slot >= len(self.counts):
                self.counts.extend([0] * (slot + 1 - len(self.counts)))
            self.counts[slot] += 1
        self._taken = end

    def columns(self, width: int, until: float, *, now: float | None = None) -> list[float]:
        """Return the count per slot for each of *width* columns from the start to *until*, without future columns.

        A column of several slots has their mean; a column within a slot has the count of that slot. The current slot,
        which contains *now*, is incomplete and left out.
        """
        span = max(until - self.start, self.step)
        slots = span / self.step
        known = len(self.counts)
        if now is not None:
            known = min(known, int((now - self.start) / self.step))
        values: list[float] = []
        for column in range(width):
            first = column * slots / width
            last = max(first + 1e-9, (column + 1) * slots / width)
            if first >= known:
                break
            chosen = self.counts[int(first) : min(known, max(int(first) + 1, int(last)))]
            values.append(sum(chosen) / len(chosen))
        return values


def sparkline(values: Sequence[float], *, most: float | None = None, blocks: str = BLOCKS) -> str:
    """Return one character per value, scaled to *most* (default: the largest); values above 0 are always visible."""
    top = max(values, default=0.0) if most is None else most
    if top <= 0:
        return blocks[0] * len(values)
    steps = len(blocks) - 1
    return "".join(
        blocks[0] if value <= 0 else blocks[max(1, min(steps, round(value / top * steps)))]
        for value in values
    )
