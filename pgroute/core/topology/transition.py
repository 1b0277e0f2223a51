"""The one function that leads from a snapshot to the next: observation, facts, arbitration, snapshot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pgroute.core.model.frozen import FrozenDict
from pgroute.core.model.host import HostInfo
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.topology.arbitration import Memory, arbitrate
from pgroute.core.topology.candidates import candidates_of, zone_of
from pgroute.core.topology.changes import changes
from pgroute.core.topology.host_facts import Facts, observe, reborn, repeated, repeats, replaced
from pgroute.core.topology.observations import (
    Advised,
    Answer,
    Drain,
    Failure,
    ForgetTimeline,
    Listing,
    Members,
    Readmit,
)
from pgroute.core.topology.snapshot import Rules, Topology
from pgroute.core.topology.wal_history import WalHistory

if TYPE_CHECKING:
    from pgroute.core.model.events import Event
    from pgroute.core.topology.arbitration import Arbitration
    from pgroute.core.topology.observations import Observation
    from pgroute.core.topology.withheld import Verdict


def initial_topology(hosts: tuple[HostKey, ...], now: float, rules: Rules | None = None) -> Topology:
    """Return the snapshot of hosts that have not been contacted yet.

    Args:
        hosts: the listed hosts, in the order of the DSN.
        now: monotonic seconds.
        rules: the settings of the arbitration.
    """
    empty = Topology(
        (), None, (), frozenset(), 0, now, now, False, FrozenDict({}), FrozenDict({}), frozenset(),
        FrozenDict({}), WalHistory(), (), Memory(), rules or Rules(),
    )  # fmt: skip
    return _arbitrated(empty, tuple(Facts(k) for k in dict.fromkeys(hosts)), Memory(), now)


def apply(topology: Topology, seen: Observation, now: float) -> tuple[Topology, tuple[Event, ...]]:
    """Return the snapshot after one more observation, and what changed.

    An observation that brings nothing new, or is about a host that is not listed, changes nothing.

    Args:
        topology: the snapshot before.
        seen: an answer, a failure, a new list of hosts, advice, or what the operator asks for.
        now: monotonic seconds.
    """
    facts = topology._facts
    memory = topology._memory
    match seen:
        case Answer() | Failure():
            if seen.host not in topology.by_key:
                return topology, ()
            if isinstance(seen, Answer) and (new := _repeated(topology, seen, now)):
                return new, ()
            facts = tuple(observe(f, seen, now) if f.key == seen.host else f for f in facts)
        case Members():
            known = {f.key: f for f in facts}
            facts = tuple(
                replace(known.get(key, Facts(key)), listing=seen.listings.get(key, Listing()))
                for key in dict.fromkeys(seen.hosts)
            )
            joined = frozenset(f.key for f in facts if f.key not in known and _among(memory.drained, f))
            if not joined <= memory.drained:
                memory = replace(memory, drained=memory.drained | joined)
            if topology.primary is None and any(f.key not in known for f in facts):
                # A host that joins may be the primary with the higher timeline, so all are checked again.
                memory = replace(memory, initial_scan_done=False)
        case ForgetTimeline():
            memory = replace(memory, timelines=memory.timelines.forget())
        case Drain() if not seen.hosts <= memory.drained:
            memory = replace(memory, drained=memory.drained | seen.hosts)
        case Readmit() if seen.hosts & memory.drained:
            kept = memory.drained - seen.hosts - {f.key for f in facts if _among(seen.hosts, f)}
            memory = replace(memory, drained=kept)
        case Advised():
            facts = tuple(replace(f, advice=seen.hosts.get(f.key)) for f in facts)
            if seen.adviser != memory.adviser:
                memory = replace(memory, adviser=seen.adviser)
    if facts == topology._facts and memory is topology._memory:
        return topology, ()
    new = _arbitrated(topology, facts, memory, now)
    return new, changes(topology, new, starting=not topology._memory.ever_scanned)


def _among(entries: frozenset[HostKey], f: Facts) -> bool:
    """Return whether one of these entries stands for a host: a name for its addresses, a service for its targets."""
    named = f.key.hostaddr is not None and f.key._replace(hostaddr=None) in entries
    return named or any(f.listing.origin == f"SRV {entry.host}" for entry in entries)


def _repeated(topology: Topology, seen: Answer, now: float) -> Topology | None:
    """Return the snapshot after an answer by which nothing changes but positions and times; None if more may change.

    That is how nearly all answers are. It leads to what the passes of the arbitration would lead to.
    """
    settled, rules = topology._settled, topology._rules
    if settled is None:
        return None
    facts = list(topology._facts)
    at = next(i for i, f in enumerate(facts) if f.key == seen.host)
    if not repeats(facts[at], seen):
        return None
    facts[at] = repeated(facts[at], seen, now)
    learning = rules.check_system_id and rules.system_id is None
    return _build(topology, tuple(facts), settled.after(seen, now, learning=learning), now)


def _arbitrated(old: Topology, facts: tuple[Facts, ...], memory: Memory, now: float) -> Topology:
    rules = old._rules
    outcome = arbitrate(facts, memory, now, check_system_id=rules.check_system_id, pinned=rules.system_id)
    return _build(old, facts, outcome, now)


def _build(old: Topology, facts: tuple[Facts, ...], outcome: Arbitration, now: float) -> Topology:
    rules, memory = old._rules, outcome.memory
    head = next((f for f in facts if f.key == outcome.primary and f.answer is not None), None)
    wal = old.wal
    if head is not None and head.answer is not None and not _added(old, head):
        wal = wal.add(head.answer, head.promotion)
    hosts = tuple(
        _host_info(
            f,
            outcome.verdicts[f.key],
            old.by_key.get(f.key),
            now,
            wal=wal,
            head=head.answer if head else None,
            first_generation=old.version,
            note=f.listing.note or f.degraded or _hint(f, outcome.primary),
            zone=zone_of(f, rules),
            starting=not old._memory.ever_scanned,
            drained=f.key in memory.drained,
        )
        for f in facts
    )
    by_key = {h.key: h for h in hosts}
    candidates = candidates_of(facts, hosts, outcome, rules)
    return Topology(
        hosts=hosts,
        primary=by_key[outcome.primary] if outcome.primary else None,
        standbys=tuple(h for h in hosts if h.usable and h.role is HostRole.STANDBY),
        split_brain=_split_brain(old, outcome),
        version=old.version + 1,
        at=now,
        primary_lost_at=_primary_lost_at(old, facts, outcome, now),
        locked_out=bool(facts) and all(f.locked_out for f in facts),
        candidates=candidates,
        only=FrozenDict(
            {attrs: groups[0][0] for attrs, groups in candidates.items() if groups and len(groups[0]) == 1}
        ),
        urgent=outcome.urgent,
        by_key=FrozenDict(by_key),
        wal=wal,
        _facts=facts,
        _memory=memory,
        _rules=rules,
        _settled=outcome if outcome.settled else None,
        last_return=max((h.returned_at for h in hosts if h.returned_at is not None), default=float("-inf")),
    )


def _added(old: Topology, head: Facts) -> bool:
    """Return whether the primary's last answer is part of the history already: another host has answered since."""
    return (
        old.primary is not None
        and old.primary.key == head.key
        and any(f.answer is head.answer for f in old._facts)
    )


def _split_brain(old: Topology, outcome: Arbitration) -> frozenset[HostKey]:
    """Return the rivals once every one of them was probed again; until then those that were confirmed before."""
    rivals = outcome.memory.rivals
    confirmed = old.split_brain & rivals if outcome.urgent & rivals else rivals
    return confirmed if len(confirmed) > 1 else frozenset()


def _primary_lost_at(
    old: Topology, facts: tuple[Facts, ...], outcome: Arbitration, now: float
) -> float | None:
    if any(f.key == outcome.primary and f.reporting for f in facts):
        return None
    return now if old.primary_lost_at is None else old.primary_lost_at


def _lag_bytes(answer: Answer, head: Answer | None) -> int | None:
    if answer.role is not HostRole.STANDBY or answer.lsn is None or head is None or head.lsn is None:
        return None
    written = head.lsn if head.flushed is None else min(head.lsn, head.flushed)
    return max(0, written - answer.lsn)


def _host_info(
    f: Facts,
    verdict: Verdict,
    was: HostInfo | None,
    now: float,
    *,
    wal: WalHistory,
    head: Answer | None,
    first_generation: int,
    note: str,
    zone: str,
    starting: bool,
    drained: bool,
) -> HostInfo:
    """Return the view of one host.

    Args:
        f: its facts.
        verdict: the verdict on it.
        was: its view before, None if it was not listed.
        now: monotonic seconds.
        wal: what is known of the primary's log.
        head: the last answer of the primary, None while there is none.
        first_generation: for a host that was not listed. It differs from any that the host may have had before, so a
            host that left and comes back does not meet its old pools.
        note: the reason to show if the verdict gives none.
        zone: where it is.
        starting: not all hosts were checked yet. Those that are found usable now have not come back.
        drained: the operator has drained it.
    """
    generation, since = first_generation, now
    if was is not None:
        generation = was.generation + _generation_ends(was, verdict, f.answer)
        if (was.state, was.usable, was.role) == (verdict.state, verdict.usable, f.role):
            since = was.since
    return HostInfo(
        key=f.key,
        state=verdict.state,
        reason=verdict.reason or note,
        usable=verdict.usable,
        since=since,
        generation=generation,
        last_seen=f.last_seen,
        silent_since=f.silent_since,
        origin=f.listing.origin,
        degraded=f.degraded,
        zone=zone,
        returned_at=None if starting else _returned_at(was, verdict, f.answer, now),
        drained=drained,
        advice=f.advice,
        **({} if f.answer is None else _told(f, f.answer, wal, head, now)),
    )


def _told(f: Facts, a: Answer, wal: WalHistory, head: Answer | None, now: float) -> dict[str, Any]:
    """Return the fields of the view of a host that its last answer gives; a second `replace` would take far longer."""
    as_of, staleness = None, None
    if a.role is HostRole.STANDBY:
        as_of = wal.as_of(f.reached_timeline, a.lsn)
        staleness = None if as_of is None else max(0.0, now - as_of)
    elif a is head:
        staleness = 0.0
    return {
        "address": a.address,
        "role": a.role,
        "read_only": a.read_only,
        "timeline": f.reached_timeline,
        "lsn": a.lsn,
        "lag_bytes": _lag_bytes(a, head),
        "staleness": staleness,
        "current_as_of": as_of,
        "rtt": a.rtt,
        "system_id": a.system_id,
        "started_at": a.started_at,
        "server_version": a.server_version,
    }


def _returned_at(was: HostInfo | None, verdict: Verdict, answer: Answer | None, now: float) -> float | None:
    """Return when a host came back: it was not usable before, or has restarted, so its caches are empty."""
    if not verdict.usable:
        return None
    if was is None or not was.usable or (answer is not None and replaced(was, answer)):
        return now
    return was.returned_at


def _generation_ends(was: HostInfo, verdict: Verdict, answer: Answer | None) -> bool:
    """Return True if the pooled connections to a host must not be used any more."""
    return was.usable and (not verdict.usable or (answer is not None and reborn(was, answer)))


def _hint(f: Facts, primary: HostKey | None) -> str:
    """Return what may be the reason why there is no primary: libpq would look for it at each address of a name."""
    if primary is None and f.listing.addresses > 1 and f.role is HostRole.STANDBY:
        return f"one of the {f.listing.addresses} addresses of its name; addresses='expand' makes each a host"
    return ""
