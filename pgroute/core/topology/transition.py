"""The immutable snapshot of all hosts, and the one function that leads from a snapshot to the next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pgroute.core.model.frozen import FrozenDict
from pgroute.core.model.roles import HostKey, HostRole, SessionAttrs
from pgroute.core.routing.balance import Candidate
from pgroute.core.topology.arbitration import Arbitration, Memory, Verdict, arbitrate
from pgroute.core.topology.events import Event, changes
from pgroute.core.topology.hosts import (
    Answer,
    Facts,
    Failure,
    ForgetTimeline,
    HostInfo,
    HostState,
    Listing,
    Members,
    Observation,
    observe,
    reborn,
)
from pgroute.core.topology.staleness import Trail

if TYPE_CHECKING:
    from collections.abc import Mapping

Groups = tuple[tuple[Candidate, ...], ...]

SETTLED_AFTER = 60.0
"""Seconds after which hosts that are all standbys are taken for all that the DSN is meant to list."""

_ACCEPTING = {
    (role, read_only): tuple(a for a in SessionAttrs if a.accepts(role, read_only=read_only))
    for role in HostRole
    for read_only in (False, True)
}


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that the arbitration depends on.

    Attributes:
        check_system_id: refuse hosts of another cluster.
        system_id: the only identifier to accept, None to learn it.
        weights: the weights that the user gave, by host, "host:port" or address.
        ordered: the order of the hosts is to be kept from the first session on: none is offered while one before it
            has not been heard of yet. Each is heard of, or found silent, within the time of a probe.
    """

    check_system_id: bool = True
    system_id: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    ordered: bool = False

    def weight(self, facts: Facts) -> float:
        """Return a host's weight for the balancing policies: the user's, else that of its listing."""
        if self.weights:
            for name in names_of(facts.key):
                if name in self.weights:
                    return self.weights[name]
        return facts.listing.weight


def names_of(key: HostKey) -> tuple[str, ...]:
    """Return what a host may be called in host_options, the most particular ahead."""
    names = [f"{key.host}:{key.port}", f"[{key.host}]:{key.port}", key.host]
    return (*([key.hostaddr] if key.hostaddr else []), *names)


@dataclass(frozen=True, slots=True)
class Topology:
    """What the router knows of the hosts at one moment; as text, a table.

    Attributes:
        hosts: every listed host, in the order of the DSN.
        primary: the host that is the primary, None while there is none or more than one.
        standbys: the standbys that may serve.
        split_brain: the hosts that claim to be primary when nothing decides between them, else empty.
        version: grows with every snapshot.
        at: monotonic seconds of the observation that led here.
        primary_lost_at: monotonic seconds since when no primary answers, None while one does.
        locked_out: every host has refused the login, and none has ever let us in.
    """

    hosts: tuple[HostInfo, ...]
    primary: HostInfo | None
    standbys: tuple[HostInfo, ...]
    split_brain: frozenset[HostKey]
    version: int
    at: float
    primary_lost_at: float | None
    locked_out: bool
    candidates: Mapping[SessionAttrs, Groups] = field(repr=False)
    only: Mapping[SessionAttrs, Candidate] = field(repr=False)
    urgent: frozenset[HostKey] = field(repr=False)
    by_key: Mapping[HostKey, HostInfo] = field(repr=False, compare=False)
    _facts: tuple[Facts, ...] = field(repr=False, compare=False)
    _memory: Memory = field(repr=False, compare=False)
    _rules: Rules = field(repr=False, compare=False)
    _trail: Trail = field(repr=False, compare=False)

    @classmethod
    def start(cls, hosts: tuple[HostKey, ...], now: float, rules: Rules | None = None) -> Topology:
        """Return the snapshot in which nothing has been heard yet."""
        empty = cls(
            (), None, (), frozenset(), 0, now, now, False, FrozenDict({}), FrozenDict({}), frozenset(),
            FrozenDict({}), (), Memory(), rules or Rules(), Trail(),
        )  # fmt: skip
        return _build(empty, tuple(Facts(k) for k in dict.fromkeys(hosts)), Memory(), now)

    def host(self, key: HostKey) -> HostInfo | None:
        """Return one host's view, None when it is not listed.

        Args:
            key: which host.
        """
        return self.by_key.get(key)

    def outage(self, now: float) -> float | None:
        """Return the seconds for which there is no primary, None while nothing is out.

        Nothing is where there never was one, and every host has told for a while that it is a standby: readers may
        have a DSN of their own.

        Args:
            now: monotonic seconds.
        """
        if self.primary_lost_at is None:
            return None
        outage = now - self.primary_lost_at
        if outage <= SETTLED_AFTER or self._memory.had_primary or not self._facts:
            return outage
        standbys = (f.speaking and f.answer and f.answer.role is HostRole.STANDBY for f in self._facts)
        return None if all(standbys) else outage

    @property
    def writable(self) -> bool:
        """Whether `writer()` would find a host now."""
        return bool(self.candidates[SessionAttrs.READ_WRITE])

    @property
    def readable(self) -> bool:
        """Whether `reader()` would, with its default of prefer-standby: the primary counts."""
        return bool(self.candidates[SessionAttrs.PREFER_STANDBY])

    @property
    def why_not_writable(self) -> str:
        """Why `writer()` would find no host, in words; empty if it would."""
        if self.writable:
            return ""
        if self.split_brain:
            return "split brain between " + " and ".join(sorted(map(str, self.split_brain)))
        if self.primary:
            return f"the primary {self.primary.key} is read-only"
        return "no primary" if self.standbys else "no host can be used"

    @property
    def highest_timeline(self) -> int | None:
        """The highest timeline that is believed: a primary below it is stale. None while none was told."""
        return self._memory.timelines.mark

    @property
    def highest_timeline_since(self) -> float:
        """Monotonic seconds since when that is the highest timeline seen."""
        return self._memory.mark_since

    @property
    def initial_scan_done(self) -> bool:
        """Whether every listed host has answered, refused or timed out at least once."""
        return self._memory.initial_scan_done

    def __str__(self) -> str:
        head = ("host", "role", "state", "timeline", "lag", "rtt", "reason")
        rows = [head, *(_row(h) for h in self.hosts)]
        widths = [max(len(r[i]) for r in rows) for i in range(len(head) - 1)]
        return "\n".join(
            "  ".join([*(cell.ljust(w) for cell, w in zip(r, widths, strict=False)), r[-1]]).rstrip()
            for r in rows
        )


def _row(h: HostInfo) -> tuple[str, ...]:
    role = h.role.value if h.role else "-"
    if h.role is HostRole.PRIMARY and h.read_only:
        role = "primary (read-only)"
    return (
        str(h.key),
        role,
        h.state.value,
        # PostgreSQL tells a standby's timeline late (at a restartpoint), so it is on this one or a later one.
        "-" if h.timeline is None else f">={h.timeline}" if h.role is HostRole.STANDBY else str(h.timeline),
        "-" if h.lag_bytes is None else f"{h.lag_bytes} B",
        "-" if h.rtt is None else f"{h.rtt * 1000:.1f} ms",
        h.reason,
    )


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
