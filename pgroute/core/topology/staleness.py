"""How old a standby's data is, by the clock of this process alone."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Answer

MOST_SAMPLES = 100
"""Positions that are remembered: enough to tell a lag of days to about a fifth."""


@dataclass(frozen=True, slots=True)
class PositionHistory:
    """How far a primary had written by the time that a probe was sent.

    The servers' clocks play no part, nor does the time of the last transaction replayed: on an idle primary that is
    old without being a lag.

    Attributes:
        primary: the host whose positions these are.
        system_id: that of its cluster; positions of another cluster mean nothing here.
        timeline: its timeline, None if not reported; after a promotion a position may stand for other data.
        samples: (monotonic seconds, position), ascending in both.
    """

    primary: HostKey | None = None
    system_id: int | None = None
    timeline: int | None = None
    samples: tuple[tuple[float, int], ...] = ()

    def add(self, answer: Answer) -> PositionHistory:
        """Return the history with one more answer of the primary."""
        if answer.lsn is None:
            return self
        samples = self.samples
        if (self.primary, self.system_id, self.timeline) != (answer.host, answer.system_id, answer.timeline):
            samples = ()
        elif samples and answer.sent_at <= samples[-1][0]:
            return self
        # A crash may take a primary back. Of equal positions only the latest counts.
        before = [sample for sample in samples if sample[1] < answer.lsn]
        kept = _thinned([*before, (answer.sent_at, answer.lsn)])
        return PositionHistory(answer.host, answer.system_id, answer.timeline, tuple(kept))

    def lag_seconds(self, standby: Answer, now: float) -> float | None:
        """Return the age in seconds of the newest position that a standby has replayed, 0.0 if that is the last one.

        None if it has replayed none of them, reports no position, or reports another timeline.
        """
        if standby.lsn is None or not self.samples:
            return None
        if None not in (self.timeline, standby.timeline) and self.timeline != standby.timeline:
            return None
        replayed = bisect_right(self.samples, standby.lsn, key=lambda sample: sample[1])
        if not replayed:
            return None
        return 0.0 if replayed == len(self.samples) else max(0.0, now - self.samples[replayed - 1][0])


def _thinned(samples: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return at most `MOST_SAMPLES`, without the one whose loss changes its age the least."""
    if len(samples) > MOST_SAMPLES:
        now = samples[-1][0]
        least = min(
            range(1, len(samples) - 1),
            key=lambda i: (samples[i + 1][0] - samples[i - 1][0]) / (now - samples[i][0]),
        )
        del samples[least]
    return samples
