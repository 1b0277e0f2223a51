"""The one function that leads from a snapshot to the next."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pgroute.core.model.candidate import Candidate
from pgroute.core.model.frozen import FrozenDict
from pgroute.core.model.host import HostInfo, HostState
from pgroute.core.model.roles import HostKey, HostRole, SessionAttrs
from pgroute.core.topology.arbitration import Memory, arbitrate
from pgroute.core.topology.changes import changes
from pgroute.core.topology.host_facts import Facts, observe, reborn
from pgroute.core.topology.observations import Answer, Failure, ForgetTimeline, Listing, Members
from pgroute.core.topology.snapshot import Rules, Topology
from pgroute.core.topology.staleness import Trail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.model.events import Event
    from pgroute.core.topology.arbitration import Arbitration, Verdict
    from pgroute.core.topology.observations import Observation
    from pgroute.core.topology.snapshot import Groups

_ACCEPTING = {
    (role, read_only): tuple(a for a in SessionAttrs if a.accepts(role, read_only=read_only))
    for role in HostRole
    for read_only in (False, True)
}


def initial_topology(hosts: tuple[HostKey, ...], now: float, rules: Rules | None = None) -> Topology:
    """Return the snapshot of hosts none of which has been contacted yet.

    Args:
        hosts: the listed hosts, in the order of the DSN.
        now: monotonic seconds.
        rules: the settings of the arbitration.
    """
    empty = Topology(
        (), None, (), frozenset(), 0, now, now, False, FrozenDict({}), FrozenDict({}), frozenset(),
        FrozenDict({}), (), Memory(), rules or Rules(), Trail(),
    )  # fmt: skip
    return _build(empty, tuple(Facts(k) for k in dict.fromkeys(hosts)), Memory(), now)


def apply(topology: Topology, seen: Observation, now: float) -> tuple[Topology, tuple[Event, ...]]:
    """Return the snapshot after one more observation, and what changed.

    What is known already, and what is told of a host that is not listed (any more), changes nothing.

    Args:
        topology: the snapshot before.
        seen: an answer, a failure, a new list of hosts, or the operator's override.
        now: monotonic seconds.
    """
    facts = topology._facts
    memory = topology._memory
    match seen:
        case Answer() | Failure():
            if seen.host not in topology.by_key:
                return topology, ()
            facts = tuple(observe(f, seen, now) if f.key == seen.host else f for f in facts)
        case Members():
            known = {f.key: f for f in facts}
            facts = tuple(
                replace(known.get(key, Facts(key)), listing=seen.listings.get(key, Listing()))
                for key in dict.fromkeys(seen.hosts)
            )
            if topology.primary is None and any(f.key not in known for f in facts):
                # Those that join may be what the first round is there for: a primary above one that answers first.
                memory = replace(memory, initial_scan_done=False)
        case ForgetTimeline():
            memory = replace(memory, timelines=memory.timelines.forget())
    if facts == topology._facts and memory is topology._memory:
        return topology, ()
    new = _build(topology, facts, memory, now)
    return new, changes(topology, new)


def _build(old: Topology, facts: tuple[Facts, ...], memory: Memory, now: float) -> Topology:
    rules = old._rules
    outcome = arbitrate(facts, memory, now, check_system_id=rules.check_system_id, pinned=rules.system_id)
    head = next((f.answer for f in facts if f.key == outcome.primary), None)
    trail = old._trail if head is None else old._trail.follow(head)
    hosts = tuple(
        _view(
            f,
            outcome.verdicts[f.key],
            old.by_key.get(f.key),
            now,
            head=head,
            trail=trail,
            born=old.version,
            note=f.listing.note or f.loss or _hint(f, outcome.primary),
        )
        for f in facts
    )
    by_key = {h.key: h for h in hosts}
    primary = by_key[outcome.primary] if outcome.primary else None
    rivals = outcome.memory.rivals
    confirmed = rivals if not outcome.urgent & rivals else old.split_brain & rivals
    lost_at = None
    if not any(f.key == outcome.primary and f.speaking for f in facts):
        lost_at = now if old.primary_lost_at is None else old.primary_lost_at
    candidates = _candidates(facts, hosts, outcome, rules)
    return Topology(
        hosts=hosts,
        primary=primary,
        standbys=tuple(h for h in hosts if h.usable and h.role is HostRole.STANDBY),
        split_brain=confirmed if len(confirmed) > 1 else frozenset(),
        version=old.version + 1,
        at=now,
        primary_lost_at=lost_at,
        locked_out=bool(facts) and all(f.standing is HostState.REJECTED and not f.let_in for f in facts),
        candidates=candidates,
        only=FrozenDict(
            {attrs: groups[0][0] for attrs, groups in candidates.items() if groups and len(groups[0]) == 1}
        ),
        urgent=outcome.urgent,
        by_key=FrozenDict(by_key),
        _facts=facts,
        _memory=outcome.memory,
        _rules=rules,
        _trail=trail,
    )


def _view(
    f: Facts,
    verdict: Verdict,
    was: HostInfo | None,
    now: float,
    *,
    head: Answer | None,
    trail: Trail,
    born: int,
    note: str,
) -> HostInfo:
    a = f.answer
    # A host that left and came back must not meet pools of its former life.
    generation = was.generation if was else born
    since = now
    if was is not None:
        if (
            was.state is verdict.state
            and was.usable == verdict.usable
            and was.role is (a.role if a else None)
        ):
            since = was.since
        if (was.usable and not verdict.usable) or (was.usable and a is not None and reborn(was, a)):
            generation += 1
    if a is None:
        return HostInfo(
            f.key, verdict.state, verdict.reason or note, verdict.usable, since, generation,
            last_seen=f.last_seen, silent_since=f.silent_since, origin=f.listing.origin,
        )  # fmt: skip
    lag = age = None
    if a.role is HostRole.STANDBY and a.lsn is not None and head is not None and head.lsn is not None:
        lag, age = max(0, head.lsn - a.lsn), trail.age(a, now)
    return HostInfo(
        key=f.key,
        state=verdict.state,
        reason=verdict.reason or note,
        usable=verdict.usable,
        since=since,
        generation=generation,
        address=a.address,
        role=a.role,
        read_only=a.read_only,
        timeline=a.timeline,
        lag_bytes=lag,
        lag_seconds=age,
        rtt=a.rtt,
        last_seen=f.last_seen,
        silent_since=f.silent_since,
        system_id=a.system_id,
        started_at=a.started_at,
        server_version=a.server_version,
        origin=f.listing.origin,
        untold=f.loss,
    )


def _hint(f: Facts, primary: HostKey | None) -> str:
    """Return what may be the reason for which no primary is found: libpq would look for it at each address."""
    if primary is None and f.listing.addresses > 1 and f.answer and f.answer.role is HostRole.STANDBY:
        return f"one of the {f.listing.addresses} addresses of its name; addresses='expand' makes each a host"
    return ""


def _candidates(
    facts: tuple[Facts, ...], hosts: tuple[HostInfo, ...], outcome: Arbitration, rules: Rules
) -> Mapping[SessionAttrs, Groups]:
    ranked: dict[SessionAttrs, dict[tuple[int, bool, int], list[Candidate]]] = {
        attrs: {} for attrs in SessionAttrs
    }
    waits_for = [
        (f.listing.priority, order)
        for order, f in enumerate(facts)
        if rules.ordered and not outcome.memory.begun and not f.heard
    ]
    first_unheard = min(waits_for, default=None)
    for order, (f, h) in enumerate(zip(facts, hosts, strict=True)):
        if not h.usable or h.role is None:
            continue
        if first_unheard is not None and (f.listing.priority, order) > first_unheard:
            continue
        candidate = Candidate(h.key, h.generation, h.role, order, rules.weight(f), h.rtt or 0.0, h.lag_bytes)
        tier = outcome.verdicts[h.key].tier
        for attrs in _ACCEPTING[h.role, h.read_only]:
            second = attrs is SessionAttrs.PREFER_STANDBY and h.role is HostRole.PRIMARY
            ranked[attrs].setdefault((tier, second, f.listing.priority), []).append(candidate)
    return FrozenDict(
        {attrs: tuple(tuple(group) for _, group in sorted(ranks.items())) for attrs, ranks in ranked.items()}
    )
