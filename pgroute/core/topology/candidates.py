"""Which hosts a session may go to, for each of the session attributes, and in which order they are tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.model.candidate import Candidate
from pgroute.core.model.frozen import FrozenDict
from pgroute.core.model.roles import HostRole, SessionAttrs
from pgroute.core.topology.host_facts import NOT_FOR_READS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.model.host import HostInfo
    from pgroute.core.topology.arbitration import Arbitration
    from pgroute.core.topology.host_facts import Facts
    from pgroute.core.topology.snapshot import Groups, Rules

_ACCEPTING = {
    (role, read_only): tuple(a for a in SessionAttrs if a.accepts(role, read_only=read_only))
    for role in HostRole
    for read_only in (False, True)
}
_ATTRS = tuple(SessionAttrs)
_WRITING = frozenset({SessionAttrs.READ_WRITE, SessionAttrs.PRIMARY})


def zone_of(f: Facts, rules: Rules) -> str:
    """Return a host's zone: that of the user, else that of the adviser; empty if neither says."""
    return rules.zone_of(f.key) or ("" if f.advice is None else f.advice.zone)


def candidates_of(
    facts: tuple[Facts, ...], hosts: tuple[HostInfo, ...], outcome: Arbitration, rules: Rules
) -> Mapping[SessionAttrs, Groups]:
    """Return the usable hosts for each of the session attributes, in groups of equally good ones, the best first."""
    ranked: dict[SessionAttrs, dict[tuple[int, bool, int, bool], list[Candidate]]] = {
        attrs: {} for attrs in _ATTRS
    }
    unchecked = [
        (f.listing.priority, rules.away(zone_of(f, rules)), order)
        for order, f in enumerate(facts)
        if rules.ordered and not outcome.memory.ever_scanned and not f.checked
    ]
    first_unchecked = min(unchecked, default=None)
    for order, (f, h) in enumerate(zip(facts, hosts, strict=True)):
        if not h.usable or h.role is None:
            continue
        away = rules.away(h.zone)
        if first_unchecked is not None and (f.listing.priority, away, order) > first_unchecked:
            continue
        weight = rules.weight(f.key, f.listing)
        candidate = Candidate(
            h.key, h.generation, h.role, order, weight, h.rtt or 0.0, h.lag_bytes, h.current_as_of,
            h.zone, h.returned_at,
        )  # fmt: skip
        tier = outcome.verdicts[h.key].tier
        avoided = f.advice is not None and f.advice.no_reads
        for attrs in _ACCEPTING[h.role, h.read_only]:
            fallback = attrs is SessionAttrs.PREFER_STANDBY and h.role is HostRole.PRIMARY
            rank = max(tier, NOT_FOR_READS) if avoided and attrs not in _WRITING else tier
            ranked[attrs].setdefault((rank, fallback, f.listing.priority, away), []).append(candidate)
    return FrozenDict(
        {attrs: tuple(tuple(group) for _, group in sorted(ranks.items())) for attrs, ranks in ranked.items()}
    )
