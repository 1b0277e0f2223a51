"""The mark: the highest timeline that is believed, on whose word, and for how long.

A primary is believed, for a listed host is trusted to be a server of the cluster, and its word outlives it: what was
written there must not be written over. So is what two standbys tell. The word of one standby alone counts as long as it
is given and `CLAIM_FOR` seconds more, and not at all where it is out of all proportion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pgroute.core.roles import HostKey, HostRole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pgroute.core.hosts import Facts

CLAIM_FOR = 30.0
"""Seconds for which a timeline that one standby alone has told counts after that one fell silent or left."""

PLAUSIBLE = 1000
"""Timelines by which one standby alone may be ahead of all that is believed: each promotion makes one."""

Place = tuple[HostKey, str | None]


@dataclass(frozen=True, slots=True)
class Claim:
    """A timeline on the word of a standby, which told it last at *at* (monotonic seconds)."""

    host: HostKey
    timeline: int
    at: float


@dataclass(frozen=True, slots=True)
class Timelines:
    """What was told of the timelines of one cluster.

    Attributes:
        proven: the highest that a primary has told, or two standbys.
        holder: who held that last, and at which address: one of those listed now where there is any.
        claims: the standbys' words, one for each host.
        pardoned: the mark that the operator declared void: a standby that tells of it is not believed.
    """

    proven: int | None = None
    holder: Place | None = None
    claims: tuple[Claim, ...] = ()
    pardoned: int = 0

    @property
    def hearsay(self) -> Claim | None:
        """The claim of one standby that is believed though nobody else tells of such a timeline, None if none is."""
        highest = max(self._believed, key=lambda claim: claim.timeline, default=None)
        return None if highest is None or highest.timeline <= (self.proven or 0) else highest

    @property
    def mark(self) -> int | None:
        """The highest timeline that is believed."""
        return self.proven if self.hearsay is None else self.hearsay.timeline

    @property
    def _believed(self) -> Iterator[Claim]:
        return (claim for claim in self.claims if not self.doubts(claim.timeline))

    def doubts(self, timeline: int | None) -> bool:
        """Whether one standby's word for a timeline is out of proportion to all that is believed."""
        return timeline is not None and self.proven is not None and timeline > self.proven + PLAUSIBLE

    def forget(self) -> Timelines:
        """Return what is left once the operator declared the mark void."""
        return Timelines(claims=self.claims, pardoned=max(self.mark or 0, self.pardoned))

    def observe(self, hosts: tuple[Facts, ...], ours: list[Facts], now: float) -> Timelines:
        """Return what is known now.

        Args:
            hosts: every listed host.
            ours: those of the cluster, each server once.
            now: monotonic seconds.
        """
        known = self._heard(hosts, ours, now)
        told = list(_told(f for f in ours if f.speaking))
        if (confirmed := known.confirmed) is not None:
            told.append(confirmed)
        seen = [*told, *(claim.timeline for claim in known._believed)]
        if self.proven is not None and not (seen and max(seen) < self.proven and self._given_up(hosts, ours)):
            told.append(self.proven)
        known = replace(known, proven=max(told, default=None))
        return replace(known, holder=known._holder(ours))

    def restart(self, ours: list[Facts], now: float, *, pardon: bool) -> Timelines:
        """Return what is known once *ours* turned out to be a cluster: all that they told so far, and nothing else.

        *pardon*: the operator's word was about this one.
        """
        claims = tuple(
            Claim(f.key, t, now) for f in ours if _is_standby(f) and (t := timeline_of(f)) is not None
        )
        known = Timelines(None, self.holder, claims, self.pardoned if pardon else 0)
        told = [*_told(ours), *filter(None, [known.confirmed])]
        known = replace(known, proven=max(told, default=None))
        return replace(known, holder=known._holder(ours))

    def _heard(self, hosts: tuple[Facts, ...], ours: list[Facts], now: float) -> Timelines:
        """Return the claims as they stand now: a host's last word, and for a while that of one that is silent or gone.

        A primary that does not tell its timeline takes nothing back.
        """
        outsiders = {f.key for f in hosts} - {f.key for f in ours}
        claims = {c.host: c for c in self.claims if c.host not in outsiders and now - c.at < CLAIM_FOR}
        for f in ours:
            timeline = timeline_of(f)
            if f.speaking and (_is_standby(f) or timeline is not None):
                claims.pop(f.key, None)
                if timeline is not None and _is_standby(f) and timeline > self.pardoned:
                    claims[f.key] = Claim(f.key, timeline, now)
        kept = tuple(claim for claim in claims.values() if claim.timeline > self.pardoned)
        return replace(self, claims=kept)

    @property
    def confirmed(self) -> int | None:
        """The highest timeline that two standbys tell, or one beyond it."""
        return next(iter(sorted((claim.timeline for claim in self.claims), reverse=True)[1:]), None)

    def _given_up(self, hosts: tuple[Facts, ...], ours: list[Facts]) -> bool:
        """Whether the holder of the mark is gone for good: every listed host answers and none is on it, nor the holder.

        A primary without a timeline may be the holder. One that left with its name's record, or whose name stands for
        another address now, is not gone: only nobody asks it any more.
        """
        mute = {f.key for f in ours if timeline_of(f) is None and not _is_standby(f)}
        return all(f.answering and f.key not in mute for f in hosts) and any(
            _place(f) == self.holder for f in hosts
        )

    def _holder(self, ours: list[Facts]) -> Place | None:
        holders = {_place(f): f for f in ours if self.proven is not None and timeline_of(f) == self.proven}
        if self.holder in holders or not holders:
            return self.holder
        return next((place for place, f in holders.items() if not _is_standby(f)), next(iter(holders)))


def timeline_of(f: Facts) -> int | None:
    return f.answer.timeline if f.answer else None


def _told(primaries: Iterable[Facts]) -> Iterator[int]:
    return (t for f in primaries if not _is_standby(f) and (t := timeline_of(f)) is not None)


def _is_standby(f: Facts) -> bool:
    return f.answer is not None and f.answer.role is HostRole.STANDBY


def _place(f: Facts) -> Place:
    return f.key, f.answer.address if f.answer else None
