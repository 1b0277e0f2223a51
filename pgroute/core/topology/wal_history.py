"""What is known of the write-ahead log that the primary has written, by the clock of this process alone.

Each answer of the primary is a sample: a time, and a position that covers everything committed before that time. A
standby that has replayed the position holds all of that. The servers' clocks play no part, nor does the time of the
last transaction replayed: on an idle primary that is old without being a lag.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from pgroute.core.model.position import Position
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Answer

MOST_SAMPLES = 600
"""How many samples are kept: all of the last minutes, and enough older ones to tell a lag of hours to about a tenth."""

_MOST_FORKS = 100


class Promotion(NamedTuple):
    """A standby was seen before and after it was promoted, in one run of its postmaster.

    Attributes:
        parent: the timeline that it reported as a standby, a lower bound of the one it was on.
        fork: the position at which it left that one: the last that it replayed (``pg_last_wal_replay_lsn()``, which
            keeps that value after a promotion).
    """

    parent: int | None
    fork: int


class Fork(NamedTuple):
    """Where a timeline was left.

    Attributes:
        timeline: the one that was left.
        kept: positions up to this one are part of the current timeline too.
        lost: positions beyond this one are not; None: it is not known.
    """

    timeline: int
    kept: int
    lost: int | None


class Standing(enum.Enum):
    """What became of a position.

    Attributes:
        KEPT: it is part of the current timeline.
        LOST: it lies beyond the fork at which its timeline was left.
        UNPROVEN: its timeline was left, and where is not known.
        AHEAD: it is of a timeline that the router has not seen yet.
        UNKNOWN: the router has seen no primary yet.
    """

    KEPT = "kept"
    LOST = "lost"
    UNPROVEN = "unproven"
    AHEAD = "ahead"
    UNKNOWN = "unknown"


class Sample(NamedTuple):
    """Whoever has replayed *lsn* holds everything that was committed before *at* (monotonic seconds)."""

    at: float
    lsn: int


@dataclass(frozen=True, slots=True)
class WalHistory:
    """What the answers of the primary have told of its write-ahead log.

    Attributes:
        primary: the host that is the primary, None if there was none yet.
        system_id: that of its cluster; positions of another cluster mean nothing here.
        timeline: its timeline.
        samples: ascending in time and in position.
        forks: where earlier timelines were left, ascending.
        inserted: the primary's last insert position, and the monotonic seconds at which it was known to be there first.
    """

    primary: HostKey | None = None
    system_id: int | None = None
    timeline: int | None = None
    samples: tuple[Sample, ...] = ()
    forks: tuple[Fork, ...] = ()
    inserted: Sample | None = None

    def add(self, answer: Answer, promotion: Promotion | None = None) -> WalHistory:
        """Return the history with one more answer of the primary.

        Args:
            answer: the answer.
            promotion: how the host became the primary, if that was seen.
        """
        if answer.lsn is None or answer.timeline is None:
            return self
        history = self._arrived(answer, answer.timeline, promotion)
        samples = history.samples
        inserted = history.inserted
        if inserted is None or inserted.lsn != answer.lsn:
            inserted = Sample(answer.sent_at + answer.rtt, answer.lsn)
        if answer.flushed is not None and answer.flushed < answer.lsn:
            # A COMMIT that waits for the disk is answered once it is flushed. One that does not wait
            # (synchronous_commit=off) is flushed within this delay. So what was inserted longer ago and is not flushed
            # holds no commit: an open transaction's work may stay unflushed for long.
            at = answer.sent_at
            if inserted.at > at - answer.flush_delay:
                at -= answer.flush_delay
            samples = _with(samples, Sample(at, answer.flushed))
        samples = _with(samples, Sample(answer.sent_at, answer.lsn))
        return replace(history, samples=_thinned(samples), inserted=inserted)

    def _arrived(self, answer: Answer, timeline: int, promotion: Promotion | None) -> WalHistory:
        """Return the history up to an answer: its samples are those that count on the answer's timeline."""
        system_id = answer.system_id if answer.system_id is not None else self.system_id
        another = None not in (self.system_id, system_id) and self.system_id != system_id
        if self.timeline is None or another or timeline < self.timeline:
            forks = _forks((), None, answer, timeline, promotion)
            return WalHistory(answer.host, system_id, timeline, forks=forks)
        if timeline == self.timeline:
            # The same number at another host may stand for other data.
            if answer.host == self.primary:
                return replace(self, system_id=system_id)
            return replace(self, primary=answer.host, system_id=system_id, samples=(), inserted=None)
        forks = _forks(self.forks, self.timeline, answer, timeline, promotion)
        kept = next((fork.kept for fork in forks if fork.timeline == self.timeline), 0)
        samples = tuple(sample for sample in self.samples if sample.lsn <= kept)
        return WalHistory(answer.host, system_id, timeline, samples, forks)

    def reached(self, timeline: int | None, lsn: int | None) -> int | None:
        """Return up to which position a standby holds what the current timeline has; None: that cannot be told.

        Args:
            timeline: the standby's, a lower bound of the one it is on.
            lsn: the last position that it has replayed.
        """
        if lsn is None or timeline is None or self.timeline is None or timeline > self.timeline:
            return None
        if timeline == self.timeline:
            return lsn
        # It may be on any timeline from there on, or on the lost end of one. The first fork is common to all.
        kept = next((fork.kept for fork in self.forks if fork.timeline == timeline), 0)
        return min(lsn, kept) if kept else None

    def as_of(self, timeline: int | None, lsn: int | None) -> float | None:
        """Return the monotonic seconds before which a standby misses nothing; None: that cannot be told.

        Args:
            timeline: the standby's, a lower bound of the one it is on.
            lsn: the last position that it has replayed.
        """
        reached = self.reached(timeline, lsn)
        if reached is None:
            return None
        count = bisect_right(self.samples, reached, key=lambda sample: sample.lsn)
        return self.samples[count - 1].at if count else None

    def standing(self, position: Position) -> Standing:
        """Return what became of a position of this cluster."""
        if self.timeline is None:
            return Standing.UNKNOWN
        if position.timeline >= self.timeline:
            return Standing.KEPT if position.timeline == self.timeline else Standing.AHEAD
        bounds = [
            fork.lost for fork in self.forks if fork.timeline >= position.timeline and fork.lost is not None
        ]
        if bounds and position.lsn > min(bounds):
            return Standing.LOST
        kept = next((fork.kept for fork in self.forks if fork.timeline == position.timeline), 0)
        return Standing.KEPT if position.lsn <= kept else Standing.UNPROVEN

    def holds(self, position: Position, timeline: int | None, lsn: int | None) -> bool:
        """Return True if a standby has surely replayed a position of this cluster, and the position was kept.

        Args:
            position: the position.
            timeline: the standby's, a lower bound of the one it is on.
            lsn: the last position that it has replayed.
        """
        if position.timeline == timeline == self.timeline:
            return lsn is not None and lsn >= position.lsn
        if self.standing(position) is not Standing.KEPT:
            return False
        reached = self.reached(timeline, lsn)
        return reached is not None and reached >= position.lsn


def _forks(
    forks: tuple[Fork, ...], known: int | None, answer: Answer, timeline: int, promotion: Promotion | None
) -> tuple[Fork, ...]:
    """Return the forks, now that the primary is on a higher timeline, or is the first one seen.

    The position at which its recovery ended is the fork, if the promotion was seen and left the known timeline.
    Otherwise a crash may have moved it on, or another timeline was left: then nothing older is surely kept. Beyond that
    position nothing older is.

    Args:
        forks: those so far.
        known: the timeline so far, None if there was no primary yet.
        answer: the primary's.
        timeline: its timeline.
        promotion: how it became the primary, if that was seen.
    """
    bound = answer.replayed if promotion is None else promotion.fork
    parent = None if promotion is None else promotion.parent
    if bound is not None and known is not None and parent == known == timeline - 1:
        return (*forks, Fork(known, bound, bound))[-_MOST_FORKS:]
    left = [fork.timeline for fork in forks]
    if known is not None:
        left.append(known)
    doubtful = [Fork(t, 0, bound) for t in left]
    if timeline - 1 > (known or 0) and bound is not None:
        doubtful.append(Fork(timeline - 1, bound if parent == timeline - 1 else 0, bound))
    return tuple(doubtful[-_MOST_FORKS:])


def _with(samples: tuple[Sample, ...], new: Sample) -> tuple[Sample, ...]:
    """Return the samples with one more, and without those that it makes superfluous.

    A crash may take a primary back, and then fewer bytes stand for more time. Of equal positions the latest counts.
    """
    end = bisect_right(samples, new.lsn, key=lambda sample: sample.lsn)
    if end and samples[end - 1].at >= new.at:
        return samples
    start = end
    while start and samples[start - 1].lsn == new.lsn:
        start -= 1
    while end < len(samples) and samples[end].at <= new.at:
        end += 1
    return (*samples[:start], new, *samples[end:])


def _thinned(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Return at most `MOST_SAMPLES`, without the one whose loss changes its age the least."""
    if len(samples) <= MOST_SAMPLES:
        return samples
    now = samples[-1].at
    least = min(
        range(1, len(samples) - 1),
        key=lambda i: (samples[i + 1].at - samples[i - 1].at) / (now - samples[i].at),
    )
    return samples[:least] + samples[least + 1 :]
