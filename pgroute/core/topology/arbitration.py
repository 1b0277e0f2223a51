"""Which hosts may serve, decided from the facts of all of them together (DESIGN: the table of observations).

A timeline's number is not data, and an equal number is no proof of equal data: so a lower one is never written
to while a higher one may live, and of two equal ones neither is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.topology.timelines import Timelines, timeline_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.topology.host_facts import Facts
    from pgroute.core.topology.observations import Answer

RELEARN_AFTER = 30.0
"""Seconds without a word from any host of the known cluster after which another one may take its place."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What must be remembered from one observation to the next.

    Attributes:
        system_id: the cluster's identifier once learned (or pinned).
        sure: more than half of the hosts have told that identifier.
        heard_at: when a host of that cluster was last heard.
        timelines: what was told of its timelines.
        mark_since: since when the highest that is believed is that one.
        initial_scan_done: every listed host has been heard of once.
        rivals: primaries between which nothing decides; empty when there is no conflict.
        rivals_since: when they were first seen together.
        begun: every host listed at one time has been heard of, also if others have joined since.
        had_primary: there was a primary once.
    """

    system_id: int | None = None
    sure: bool = False
    heard_at: float = 0.0
    timelines: Timelines = field(default_factory=Timelines)
    mark_since: float = 0.0
    initial_scan_done: bool = False
    rivals: frozenset[HostKey] = frozenset()
    rivals_since: float = 0.0
    begun: bool = False
    had_primary: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The standing of one host: its state, why, whether it may serve, and how willingly (0 first)."""

    state: HostState
    reason: str
    usable: bool = False
    tier: int = 0


@dataclass(frozen=True, slots=True)
class Arbitration:
    """The outcome for all hosts."""

    memory: Memory
    verdicts: Mapping[HostKey, Verdict]
    primary: HostKey | None
    urgent: frozenset[HostKey]


_TIER = {HostState.UP: 0, HostState.BUSY: 2, HostState.SUSPECT: 4}
_UNPROVEN = 1
_LOCKED = 3
"""It serves with the connections that are open, and lets no new one in."""


def arbitrate(
    hosts: tuple[Facts, ...],
    memory: Memory,
    now: float,
    *,
    check_system_id: bool = True,
    pinned: int | None = None,
) -> Arbitration:
    """Return who may serve, and what to remember.

    Args:
        hosts: the facts of every listed host, in the DSN's order.
        memory: what the last arbitration returned.
        now: monotonic seconds.
        check_system_id: tell clusters apart by their system identifier.
        pinned: the only system identifier to accept, None to learn it.
    """
    initial_scan_done = memory.initial_scan_done or (bool(hosts) and all(f.heard for f in hosts))
    verdicts = {f.key: Verdict(f.standing, f.why) for f in hosts}

    outsiders: dict[HostKey, Verdict] = {}
    was = memory.system_id
    if check_system_id:
        if pinned is None:
            memory = _identify(hosts, memory, now, initial_scan_done=initial_scan_done)
        else:
            memory = replace(memory, system_id=pinned)
        outsiders = _foreign(
            hosts, memory.system_id, initial_scan_done=initial_scan_done, pinned=pinned is not None
        )
    outsiders.update(_aliases([f for f in hosts if f.key not in outsiders]))
    verdicts.update({f.key: outsiders[f.key] for f in hosts if f.key in outsiders and f.answering})
    known = not check_system_id or memory.system_id is not None or initial_scan_done

    ours = [f for f in hosts if f.key not in outsiders]
    if was == memory.system_id:
        timelines = memory.timelines.observe(hosts, ours, now)
    else:
        timelines = memory.timelines.restart(ours, now, pardon=was is None)
    mark = timelines.mark

    primaries = [f for f in ours if _role(f) is HostRole.PRIMARY]
    claimants = [f for f in primaries if not (known and _below(f, mark))]
    outrun = [f for f in primaries if f not in claimants]
    stale = any(f.speaking for f in outrun)
    for f in outrun:
        if f.answering:
            verdicts[f.key] = Verdict(HostState.STALE, _why_stale(f, timelines))

    # One that missed a single probe is as much a primary as before.
    contenders = [
        f for f in claimants if known and f.watched and (f.speaking or f.contact is HostState.SUSPECT)
    ]
    if not contenders and known:
        # A primary becomes nothing else without a restart, which ends its connections: while nobody else claims the
        # role, those that are open may be used though no probe gets in.
        contenders = [f for f in claimants if not f.watched and f.inside]
    rivals = frozenset(f.key for f in contenders) if len(contenders) > 1 else frozenset()
    since = memory.rivals_since if rivals == memory.rivals else now
    urgent: frozenset[HostKey] = frozenset()
    primary: Facts | None = None
    if not initial_scan_done:
        text = "primary not admitted before every host was asked once"
        verdicts.update({f.key: Verdict(f.standing, text) for f in claimants if f.answering})
    elif len(contenders) == 1 and (tier := _tier(contenders[0])) is not None:
        primary = contenders[0]
        verdicts[primary.key] = Verdict(primary.standing, primary.why, usable=True, tier=tier)
    if rivals:
        urgent = frozenset(f.key for f in contenders if f.answer and f.answer.sent_at <= since)
        verdicts.update(_conflict(contenders, confirmed=not urgent))

    for f in ours:
        if _role(f) is HostRole.STANDBY and known and (tier := _tier(f)) is not None:
            doubt = _doubt(f, timelines, stale=stale)
            tier = max(tier, _UNPROVEN) if doubt else tier
            verdicts[f.key] = Verdict(f.standing, f.why or doubt, usable=True, tier=tier)

    mark_since = memory.mark_since if mark == memory.timelines.mark else now
    # What an outrun primary told before is no sign that it is alive: its sessions may have to be released.
    urgent |= {f.key for f in outrun if f.answering and f.answer and f.answer.sent_at <= mark_since}
    return Arbitration(
        replace(
            memory,
            timelines=timelines,
            mark_since=mark_since,
            initial_scan_done=initial_scan_done,
            rivals=rivals,
            rivals_since=since,
            begun=memory.begun or initial_scan_done,
            had_primary=memory.had_primary or primary is not None,
        ),
        verdicts,
        primary.key if primary else None,
        urgent,
    )


def _tier(f: Facts) -> int | None:
    """Return how willingly a host is used as far as that depends on itself alone, None if it is not."""
    if f.standing is not HostState.REJECTED:
        return _TIER.get(f.standing)
    return max(_LOCKED, _TIER[f.contact]) if f.inside else None


def _role(f: Facts) -> HostRole | None:
    return f.answer.role if f.answer else None


def _below(f: Facts, mark: int | None) -> bool:
    timeline = timeline_of(f)
    return timeline is not None and mark is not None and timeline < mark


def _id(f: Facts) -> int | None:
    return f.answer.system_id if f.answer else None


def _votes(hosts: tuple[Facts, ...], now: float) -> Counter[int]:
    return Counter(
        i
        for f in hosts
        if (i := _id(f)) is not None and (f.answering or now - (f.last_seen or 0.0) < RELEARN_AFTER)
    )


def _identify(hosts: tuple[Facts, ...], memory: Memory, now: float, *, initial_scan_done: bool) -> Memory:
    votes = _votes(hosts, now)
    ranking = votes.most_common(2)
    first, count = ranking[0] if ranking else (None, 0)
    majority = count * 2 > len(hosts)
    settled = initial_scan_done and not (len(ranking) > 1 and ranking[1][1] == count)
    learned = memory.system_id
    chosen = first if majority or settled else None
    if learned is not None:
        heard_at = max([memory.heard_at, *(f.last_seen or 0.0 for f in hosts if _id(f) == learned)])
        gone = now - heard_at >= RELEARN_AFTER and not any(f.answering and _id(f) == learned for f in hosts)
        # What a few hosts told while the others were down gives way to the word of most.
        if not (gone or (majority and not memory.sure)):
            chosen = learned
    if chosen is None:
        return memory
    return replace(
        memory,
        system_id=chosen,
        sure=(memory.sure and chosen == learned) or votes[chosen] * 2 > len(hosts),
        heard_at=max([f.last_seen or 0.0 for f in hosts if _id(f) == chosen], default=0.0)
        if chosen != learned
        else heard_at,
    )


def _foreign(
    hosts: tuple[Facts, ...], system_id: int | None, *, initial_scan_done: bool, pinned: bool
) -> dict[HostKey, Verdict]:
    out = {}
    if system_id is None:
        if initial_scan_done:
            names = ", ".join(f"{f.key} is {_id(f)}" for f in hosts if _id(f) is not None)
            text = f"two clusters and no majority ({names}); pin one with ProbeOptions(system_id=...)"
            out = {f.key: Verdict(HostState.FOREIGN, text) for f in hosts if _id(f) is not None}
        return out
    for f in hosts:
        if f.answer is None or _id(f) == system_id:
            continue
        if _id(f) is not None:
            text = f"another cluster: system identifier {_id(f)}, expected {system_id}"
        elif pinned:
            text = f"tells no system identifier, expected {system_id}"
            text += f" ({f.answer.untold})" if f.answer.untold else ""
        else:
            continue
        out[f.key] = Verdict(HostState.FOREIGN, text)
    return out


def _aliases(hosts: list[Facts]) -> dict[HostKey, Verdict]:
    out: dict[HostKey, Verdict] = {}
    servers: list[Answer] = []
    for f in sorted(hosts, key=_reluctance):
        if f.answer is None:
            continue
        canonical = next((a for a in servers if _same_server(a, f.answer)), None)
        if canonical is None:
            servers.append(f.answer)
        else:
            out[f.key] = Verdict(HostState.ALIAS, f"the same server as {canonical.host}")
    return out


def _reluctance(f: Facts) -> int:
    """Return by which of its names a server is not to be used: where it lets nobody in, and before that none at all."""
    return 2 if _tier(f) is None else int(f.standing is HostState.REJECTED)


def _same_server(a: Answer, b: Answer) -> bool:
    """Whether the postmaster's start, told to the microsecond, or for want of it the address is the same.

    Not every role may read the identifier or the start. Where it may, the start counts: proxies serve several servers
    at one address, by name (SNI). Copies of a running machine share the start, until one of them is promoted.
    """
    if a.role is not b.role or (a.system_id != b.system_id and None not in (a.system_id, b.system_id)):
        return False
    if a.role is HostRole.PRIMARY and a.timeline != b.timeline and None not in (a.timeline, b.timeline):
        return False
    if a.started_at is not None or b.started_at is not None:
        return a.started_at == b.started_at
    return a.address is not None and (a.address, a.host.port) == (b.address, b.host.port)


def _doubt(f: Facts, timelines: Timelines, *, stale: bool) -> str:
    """Return why a standby serves only after those that follow the primary, empty if it is one of them."""
    timeline, mark = timeline_of(f), timelines.mark
    if timelines.doubts(timeline):
        return f"not believed: it alone tells of timeline {timeline}, far above {mark}"
    if stale and (timeline is None or _below(f, mark)):
        return f"may follow the stale primary: not proven to be on timeline {mark}"
    return ""


def _why_stale(f: Facts, timelines: Timelines) -> str:
    text = f"stale primary: on timeline {timeline_of(f)} while"
    if timelines.hearsay is not None and not _below(f, timelines.proven):
        return f"{text} {timelines.hearsay.host}, a standby, tells of timeline {timelines.mark}, alone"
    return f"{text} timeline {timelines.mark} was seen" + (
        f" at {timelines.holder[0]}" if timelines.holder else ""
    )


def _conflict(contenders: list[Facts], *, confirmed: bool) -> dict[HostKey, Verdict]:
    out = {}
    for f in contenders:
        if not f.answering:
            continue
        others = " and ".join(str(o.key) for o in contenders if o.key != f.key)
        where = "an unknown timeline" if timeline_of(f) is None else f"timeline {timeline_of(f)}"
        text = f"split brain: primary on {where}, and so is {others}"
        if not confirmed:
            text += " (being asked again)"
        out[f.key] = Verdict(HostState.CONFLICT, text)
    return out
