"""How old the newest position of the primary is that a standby has replayed, by our own clock alone."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Answer

KEPT = 100
"""Positions that are remembered: enough to tell a lag of days to about a fifth."""


@dataclass(frozen=True, slots=True)
class Trail:
    """Where a primary was, and when: what it had written by the time that a probe was sent.

    The servers' clocks do not count, nor does the last transaction replayed: on an idle primary it is old, and no lag.

    Attributes:
        primary: whose positions these are.
        system_id: its cluster's; positions of another one mean nothing here.
        timeline: its timeline, None if not told; after a promotion a position may stand for other data.
        samples: (monotonic seconds, position), rising in both.
    """

    primary: HostKey | None = None
    system_id: int | None = None
    timeline: int | None = None
    samples: tuple[tuple[float, int], ...] = ()

    def follow(self, answer: Answer) -> Trail:
        """Return the trail with one more answer of the primary."""
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
        return Trail(answer.host, answer.system_id, answer.timeline, tuple(kept))

    def age(self, standby: Answer, now: float) -> float | None:
        """Return the seconds since the newest position that a standby has replayed, 0.0 where that is the last one.

        None: it has replayed none of them, or does not tell, or is on another timeline as far as it tells.
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
    """Return at most KEPT of them: the one goes whose loss makes the smallest difference for its age."""
    if len(samples) > KEPT:
        now = samples[-1][0]
        gone = min(
            range(1, len(samples) - 1),
            key=lambda i: (samples[i + 1][0] - samples[i - 1][0]) / (now - samples[i][0]),
        )
        del samples[gone]
    return samples
