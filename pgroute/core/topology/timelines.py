"""The mark: the highest timeline that is believed, on whose word, and for how long.

A primary is believed, for a listed host is trusted to be a server of the cluster, and its word outlives it: what was
written there must not be written over. So is what two standbys tell. The word of one standby alone counts as long as it
is given and `CLAIM_FOR` seconds more, and not at all where it is out of all proportion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgroute.core.model.roles import HostKey, HostRole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgroute.core.topology.host_facts import Facts

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
        claims: the standbys' words for higher ones, one for each host.
        pardoned: the mark that the operator declared void: a standby that tells of it is not believed.
    """

    proven: int | None = None
    holder: Place | None = None
    claims: tuple[Claim, ...] = ()
    pardoned: int = 0

    @property
    def hearsay(self) -> Claim | None:
        """The claim of one standby that is believed though nobody else tells of such a timeline, None if none is."""
        proven = self.proven or 0
        beyond = [c for c in self.claims if c.timeline > proven and not self.doubts(c.timeline)]
        return max(beyond, key=lambda claim: claim.timeline) if beyond else None

    @property
    def mark(self) -> int | None:
        """The highest timeline that is believed."""
        hearsay = self.hearsay
        return self.proven if hearsay is None else hearsay.timeline

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
        claims = self._heard(hosts, ours, now)
        told = _told(f for f in ours if f.speaking)
        told += _confirmed(claims)
        if self.proven is not None:
            silent = all(self.doubts(claim.timeline) for claim in claims)
            if silent and max(told, default=0) < self.proven and self._given_up(hosts, ours):
                return Timelines(None, self.holder, (), self.pardoned).observe(hosts, ours, now)
            told.append(self.proven)
        return self._next(ours, told, claims, self.pardoned)

    def restart(self, ours: list[Facts], now: float, *, pardon: bool) -> Timelines:
        """Return what is known once *ours* turned out to be a cluster: all that they told so far, and nothing else.

        *pardon*: the operator's word was about this one.
        """
        claims = tuple(
            Claim(f.key, t, now) for f in ours if _is_standby(f) and (t := timeline_of(f)) is not None
        )
        told = _told(ours)
        told += _confirmed(claims)
        return self._next(ours, told, claims, self.pardoned if pardon else 0)

    def _next(
        self, ours: list[Facts], told: list[int], claims: tuple[Claim, ...], pardoned: int
    ) -> Timelines:
        proven = max(told, default=None)
        holders = {_place(f): f for f in ours if proven is not None and timeline_of(f) == proven}
        holder = self.holder
        if holders and holder not in holders:
            holder = next((place for place, f in holders.items() if not _is_standby(f)), next(iter(holders)))
        return Timelines(proven, holder, claims, pardoned)

    def _heard(self, hosts: tuple[Facts, ...], ours: list[Facts], now: float) -> tuple[Claim, ...]:
        """Return the claims beyond what is proven: a host's last word, and for a while that of one silent or gone.

        Who answers without telling a timeline takes nothing back.
        """
        least = max(self.proven or 0, self.pardoned)
        outsiders = {f.key for f in hosts} - {f.key for f in ours}
        claims = {c.host: c for c in self.claims if c.host not in outsiders and now - c.at < CLAIM_FOR}
        for f in ours:
            timeline = timeline_of(f)
            if f.speaking and timeline is not None:
                claims.pop(f.key, None)
                if timeline > least and _is_standby(f):
                    claims[f.key] = Claim(f.key, timeline, now)
        return tuple(claim for claim in claims.values() if claim.timeline > least)

    def _given_up(self, hosts: tuple[Facts, ...], ours: list[Facts]) -> bool:
        """Whether the holder of the mark is gone for good: every listed host answers and none is on it, nor the holder.

        A primary without a timeline may be the holder. One that left with its name's record, or whose name stands for
        another address now, is not gone: only nobody asks it any more.
        """
        mute = {f.key for f in ours if timeline_of(f) is None and not _is_standby(f)}
        if not all(f.answering and f.key not in mute for f in hosts):
            return False
        told = [
            t
            for f in ours
            if (t := timeline_of(f)) is not None and t > (self.pardoned if _is_standby(f) else 0)
        ]
        on_it = any(t >= (self.proven or 0) and not self.doubts(t) for t in told)
        return bool(told) and not on_it and any(_place(f) == self.holder for f in hosts)


def _confirmed(claims: tuple[Claim, ...]) -> list[int]:
    """Return the highest timeline that two standbys tell, or one beyond it, if two tell any."""
    return sorted([claim.timeline for claim in claims], reverse=True)[1:2]


def timeline_of(f: Facts) -> int | None:
    return f.answer.timeline if f.answer else None


def _told(hosts: Iterable[Facts]) -> list[int]:
    """Return what the primaries among these tell."""
    return [t for f in hosts if not _is_standby(f) and (t := timeline_of(f)) is not None]


def _is_standby(f: Facts) -> bool:
    return f.answer is not None and f.answer.role is HostRole.STANDBY


def _place(f: Facts) -> Place:
    return f.key, f.answer.address if f.answer else None
