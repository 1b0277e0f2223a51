"""The highest timeline of a cluster, who reported it, and for how long that counts.

A primary is believed, because a listed host is trusted to be a server of the cluster. Its report outlives it: what was
written there must not be written over. Two standbys are believed as well. The report of one standby alone counts as
long as it is repeated and `CLAIM_FOR` seconds more, and never if it is out of proportion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import HostKey, HostRole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgroute.core.topology.host_facts import Facts

CLAIM_FOR = 30.0
"""Seconds for which the report of one standby alone counts after that standby fell silent or left the list."""

PLAUSIBLE = 1000
"""Timelines by which one standby alone may be ahead of what is confirmed: each promotion makes one."""

Place = tuple[HostKey, str | None]


class Claim(NamedTuple):
    """A timeline that a standby reported, most recently at *at* (monotonic seconds)."""

    host: HostKey
    timeline: int
    at: float


@dataclass(frozen=True, slots=True)
class Timelines:
    """What was reported of the timelines of one cluster.

    Attributes:
        confirmed: the highest that a primary reported, or two standbys.
        timeline_owner: the host that was last on it, and its address; a host that is listed now if there is one.
        claims: higher timelines that standbys reported, one for each standby.
        ignored_timeline: the highest timeline when the operator called `forget_timeline()`. A standby that reports it,
            or a lower one, is not believed.
    """

    confirmed: int | None = None
    timeline_owner: Place | None = None
    claims: tuple[Claim, ...] = ()
    ignored_timeline: int = 0

    @property
    def unconfirmed(self) -> Claim | None:
        """The claim of one standby alone that is believed, None if there is none."""
        beyond = [
            c for c in self.claims if c.timeline > (self.confirmed or 0) and not self.implausible(c.timeline)
        ]
        return max(beyond, key=lambda claim: claim.timeline) if beyond else None

    @property
    def highest(self) -> int | None:
        """The highest timeline that is believed: a primary below it is stale."""
        claim = self.unconfirmed
        return self.confirmed if claim is None else claim.timeline

    def implausible(self, timeline: int | None) -> bool:
        """Return True if one standby's claim is out of proportion to what is confirmed."""
        return timeline is not None and self.confirmed is not None and timeline > self.confirmed + PLAUSIBLE

    def forget(self) -> Timelines:
        """Return what is left once the operator accepts a lower timeline."""
        return Timelines(claims=self.claims, ignored_timeline=max(self.highest or 0, self.ignored_timeline))

    def observe(self, hosts: Sequence[Facts], ours: Sequence[Facts], now: float) -> Timelines:
        """Return what is known after one more observation.

        Args:
            hosts: every listed host.
            ours: those of the cluster, each server once.
            now: monotonic seconds.
        """
        claims = self._current_claims(hosts, ours, now)
        reported = _of_primaries(f for f in ours if f.reporting)
        reported += _confirmed_by_two(claims)
        if self.confirmed is not None:
            unclaimed = all(self.implausible(claim.timeline) for claim in claims)
            if unclaimed and max(reported, default=0) < self.confirmed and self._abandoned(hosts, ours):
                return Timelines(
                    timeline_owner=self.timeline_owner, ignored_timeline=self.ignored_timeline
                ).observe(hosts, ours, now)
            reported.append(self.confirmed)
        return self._next(ours, reported, claims, self.ignored_timeline)

    def restart(self, ours: Sequence[Facts], now: float, *, keep_ignored: bool) -> Timelines:
        """Return what is known once *ours* turn out to be a cluster: all that they reported so far, and nothing else.

        Args:
            ours: the hosts of the cluster.
            now: monotonic seconds.
            keep_ignored: the operator's `forget_timeline()` was about this cluster.
        """
        claims = tuple(
            Claim(f.key, f.timeline, now) for f in ours if _is_standby(f) and f.timeline is not None
        )
        reported = _of_primaries(ours)
        reported += _confirmed_by_two(claims)
        return self._next(ours, reported, claims, self.ignored_timeline if keep_ignored else 0)

    def _next(
        self, ours: Sequence[Facts], reported: Sequence[int], claims: tuple[Claim, ...], ignored: int
    ) -> Timelines:
        confirmed = max(reported, default=None)
        owners = {_place(f): f for f in ours if confirmed is not None and f.timeline == confirmed}
        owner = self.timeline_owner
        if owners and owner not in owners:
            owner = next((place for place, f in owners.items() if not _is_standby(f)), next(iter(owners)))
        return Timelines(confirmed, owner, claims, ignored)

    def _current_claims(self, hosts: Sequence[Facts], ours: Sequence[Facts], now: float) -> tuple[Claim, ...]:
        """Return the claims beyond what is confirmed: a standby's last one, for a while also when it is silent or gone.

        A standby that answers without a timeline takes nothing back.
        """
        least = max(self.confirmed or 0, self.ignored_timeline)
        outsiders = {f.key for f in hosts} - {f.key for f in ours}
        claims = {c.host: c for c in self.claims if c.host not in outsiders and now - c.at < CLAIM_FOR}
        for f in ours:
            if f.reporting and f.timeline is not None:
                claims.pop(f.key, None)
                if f.timeline > least and _is_standby(f):
                    claims[f.key] = Claim(f.key, f.timeline, now)
        return tuple(claim for claim in claims.values() if claim.timeline > least)

    def _abandoned(self, hosts: Sequence[Facts], ours: Sequence[Facts]) -> bool:
        """Return True if every listed host answers, the owner of the confirmed timeline included, and none is on it.

        A primary that reports no timeline may be on it. An owner that left with its name's record, or whose name has
        another address now, may live: it is only not probed any more.
        """
        mute = {f.key for f in ours if f.timeline is None and not _is_standby(f)}
        if not all(f.answering and f.key not in mute for f in hosts):
            return False
        reported = [
            f.timeline
            for f in ours
            if f.timeline is not None and f.timeline > (self.ignored_timeline if _is_standby(f) else 0)
        ]
        on_it = any(t >= (self.confirmed or 0) and not self.implausible(t) for t in reported)
        return bool(reported) and not on_it and any(_place(f) == self.timeline_owner for f in hosts)


def _confirmed_by_two(claims: Sequence[Claim]) -> list[int]:
    """Return the highest timeline that two standbys have reached, as a list; empty if fewer than two claim any."""
    return sorted([claim.timeline for claim in claims], reverse=True)[1:2]


def _of_primaries(hosts: Iterable[Facts]) -> list[int]:
    return [f.timeline for f in hosts if not _is_standby(f) and f.timeline is not None]


def _is_standby(f: Facts) -> bool:
    return f.role is HostRole.STANDBY


def _place(f: Facts) -> Place:
    return f.key, f.answer.address if f.answer else None
