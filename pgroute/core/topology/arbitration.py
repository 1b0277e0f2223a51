"""Which hosts may serve, decided from the facts about all of them together.

The passes are: identify the cluster, exclude what does not belong to it, find its highest timeline, elect the
primary, give every host its verdict and its tier.

The number of a timeline is not data, and equal numbers do not prove equal data. So a lower timeline is never written
to while a higher one may live, and of two primaries on the same timeline neither is.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, NamedTuple

from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostKey, HostRole
from pgroute.core.topology.host_facts import UNPROVEN
from pgroute.core.topology.identity import Identity, aliases, foreign, identify
from pgroute.core.topology.timelines import Timelines
from pgroute.core.topology.withheld import Verdict, withhold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgroute.core.model.advice import AdviserInfo
    from pgroute.core.topology.host_facts import Facts
    from pgroute.core.topology.identity import Exclusion
    from pgroute.core.topology.observations import Answer


@dataclass(frozen=True, slots=True)
class Memory:
    """What must be remembered from one observation to the next.

    Attributes:
        identity: the cluster.
        timelines: what was reported of its timelines.
        highest_since: monotonic seconds since when the highest timeline is the one that it is.
        initial_scan_done: every listed host was checked once. Hosts that join while there is no primary undo it.
        ever_scanned: it was done at some time.
        rivals: primaries between which nothing decides; empty when there is no conflict.
        rivals_since: monotonic seconds at which they were first seen together.
        had_primary: there was a primary at some time.
        drained: the hosts that the operator has drained, listed or not.
        adviser: what is known of the adviser; None: the router has none.
    """

    identity: Identity = field(default_factory=Identity)
    timelines: Timelines = field(default_factory=Timelines)
    highest_since: float = 0.0
    initial_scan_done: bool = False
    ever_scanned: bool = False
    rivals: frozenset[HostKey] = frozenset()
    rivals_since: float = 0.0
    had_primary: bool = False
    drained: frozenset[HostKey] = frozenset()
    adviser: AdviserInfo | None = None


@dataclass(frozen=True, slots=True)
class Arbitration:
    """The result for all hosts.

    Attributes:
        memory: for the next arbitration.
        verdicts: by host.
        primary: the host that is the primary, None if there is none.
        urgent: the hosts that have to be probed at once, because their next answer decides.
        settled: answers that bring nothing but other positions and times would lead to the same result, at any time.
    """

    memory: Memory
    verdicts: Mapping[HostKey, Verdict]
    primary: HostKey | None
    urgent: frozenset[HostKey]
    settled: bool = False

    def after(self, answer: Answer, now: float, *, learning: bool) -> Arbitration:
        """Return the result after one more answer that brings nothing but other positions and times.

        Args:
            answer: the answer of a listed host.
            now: monotonic seconds.
            learning: the system identifier is learned from the hosts.
        """
        identity = self.memory.identity
        if not learning or identity.system_id is None or answer.system_id != identity.system_id:
            return self
        memory = replace(self.memory, identity=replace(identity, last_seen=now))
        return replace(self, memory=memory)


class _Election(NamedTuple):
    """The primaries of the cluster.

    Attributes:
        stale: those below the highest timeline.
        contenders: the others that can be believed; with more than one, nothing decides between them.
        elected: the only contender, if it may serve.
    """

    stale: Sequence[Facts]
    contenders: Sequence[Facts]
    elected: Facts | None

    @property
    def rivals(self) -> frozenset[HostKey]:
        return frozenset(f.key for f in self.contenders) if len(self.contenders) > 1 else frozenset()


class _Findings(NamedTuple):
    """The results of all passes, from which the verdicts follow.

    Attributes:
        known: hosts of another cluster cannot be mistaken for ours any more.
        unconfirmed: the rivals that have not been probed since they were first seen together.
    """

    scanned: bool
    known: bool
    excluded: Mapping[HostKey, Exclusion]
    timelines: Timelines
    election: _Election
    unconfirmed: frozenset[HostKey]


def arbitrate(
    hosts: tuple[Facts, ...],
    memory: Memory,
    now: float,
    *,
    check_system_id: bool = True,
    pinned: int | None = None,
) -> Arbitration:
    """Return which hosts may serve, and what to remember.

    Args:
        hosts: the facts of every listed host, in the order of the DSN.
        memory: that of the last arbitration.
        now: monotonic seconds.
        check_system_id: tell clusters apart by their system identifier.
        pinned: the only system identifier to accept, None to learn it.
    """
    scanned = memory.initial_scan_done or (bool(hosts) and all(f.checked for f in hosts))

    identity = memory.identity
    if check_system_id:
        identity = Identity(pinned) if pinned is not None else identify(hosts, identity, now, scanned=scanned)
    known = not check_system_id or identity.system_id is not None or scanned

    excluded = _exclude(hosts, identity, check=check_system_id, pinned=pinned is not None, scanned=scanned)
    ours = [f for f in hosts if f.key not in excluded]

    timelines = _timelines(hosts, ours, memory, identity, now)
    highest_since = memory.highest_since if timelines.highest == memory.timelines.highest else now

    election = _elect(ours, timelines.highest, scanned=scanned, known=known)
    rivals_since = memory.rivals_since if election.rivals == memory.rivals else now

    # A conflict is confirmed by a second probe of each rival: the first answers may be from before and after a switch.
    unconfirmed = election.rivals & _not_asked_since(election.contenders, rivals_since)
    # The last answer of a stale primary may be from before the promotion. If it is dead, its sessions are released.
    doubtful = _not_asked_since([f for f in election.stale if f.answering], highest_since)

    found = _Findings(scanned, known, excluded, timelines, election, unconfirmed)
    remembered = replace(
        memory,
        identity=identity,
        timelines=timelines,
        highest_since=highest_since,
        initial_scan_done=scanned,
        ever_scanned=memory.ever_scanned or scanned,
        rivals=election.rivals,
        rivals_since=rivals_since,
        had_primary=memory.had_primary or election.elected is not None,
    )
    return Arbitration(
        remembered,
        withhold(hosts, {f.key: _verdict(f, found) for f in hosts}, memory.drained),
        election.elected.key if election.elected else None,
        unconfirmed | doubtful,
        settled=_settled(found, memory, remembered),
    )


def _settled(found: _Findings, before: Memory, after: Memory) -> bool:
    """Return whether answers that bring nothing but other positions and times lead to the same result, at any time.

    The passes repeat themselves if they have changed nothing that is remembered, but the time at which the cluster was
    heard. Time counts only for hosts that are none of the cluster, for primaries that were not elected, and for what
    standbys alone tell of timelines. The votes of silent hosts end with time too, but for the only cluster there is.
    """
    return (
        found.scanned
        and not found.excluded
        and not found.election.stale
        and not found.election.rivals
        and not after.timelines.claims
        and replace(after, identity=replace(after.identity, last_seen=before.identity.last_seen)) == before
    )


def _exclude(
    hosts: Sequence[Facts], identity: Identity, *, check: bool, pinned: bool, scanned: bool
) -> dict[HostKey, Exclusion]:
    """Return the hosts that do not count: those of another cluster, and second names of a server.

    Another cluster has other data. A server with two names would look like two primaries, or get twice its share.
    """
    excluded = foreign(hosts, identity.system_id, scanned=scanned, pinned=pinned) if check else {}
    return excluded | aliases([f for f in hosts if f.key not in excluded])


def _timelines(
    hosts: Sequence[Facts], ours: Sequence[Facts], memory: Memory, identity: Identity, now: float
) -> Timelines:
    """Return what is known of the timelines. Those of another cluster say nothing, so a new identity starts anew."""
    was = memory.identity.system_id
    if was == identity.system_id:
        return memory.timelines.observe(hosts, ours, now)
    return memory.timelines.restart(ours, now, keep_ignored=was is None)


def _elect(ours: Sequence[Facts], highest: int | None, *, scanned: bool, known: bool) -> _Election:
    """Elect the primary among the hosts that report to be one.

    A promotion always makes a higher timeline, so a primary on a lower one is the past. Before the cluster is known,
    the higher timeline may be that of another cluster. Before every host was checked, the first to answer may be the
    old primary. Between two primaries on the highest timeline, or on unknown ones, either choice may lose the other's
    writes.
    """
    primaries = [f for f in ours if f.role is HostRole.PRIMARY]
    stale = [f for f in primaries if known and _below(f, highest)]
    claimants = [f for f in primaries if not (known and _below(f, highest))]
    # A primary that missed one probe is still the primary.
    contenders = [
        f for f in claimants if known and f.observable and (f.reporting or f.probe_state is HostState.SUSPECT)
    ]
    if not contenders and known:
        # A primary can change its role only by a restart, which ends its connections. So while no other host claims
        # the role, the open ones may be used although no probe gets in.
        contenders = [f for f in claimants if not f.observable and f.sessions_possible]
    alone = scanned and len(contenders) == 1 and contenders[0].tier is not None
    return _Election(stale, contenders, contenders[0] if alone else None)


def _not_asked_since(hosts: Sequence[Facts], at: float) -> frozenset[HostKey]:
    return frozenset(f.key for f in hosts if f.answer and f.answer.sent_at <= at)


def _verdict(f: Facts, found: _Findings) -> Verdict:
    """Return the verdict on one host: the first rule that applies decides.

    A host that does not answer keeps its own state, which says more than what it is beside the others.
    """
    election = found.election
    tier = f.tier
    if f.key in found.excluded and f.answering:
        return Verdict(*found.excluded[f.key])
    if f.key in found.excluded:
        return Verdict(f.state, f.reason)
    if f is election.elected and tier is not None:
        return Verdict(f.state, f.reason, usable=True, tier=tier)
    if f.role is HostRole.PRIMARY and f.answering:
        return _refused_primary(f, found)
    if f.role is HostRole.STANDBY and found.known and tier is not None:
        doubt = _doubt(f, found)
        return Verdict(f.state, f.reason or doubt, usable=True, tier=max(tier, UNPROVEN) if doubt else tier)
    return Verdict(f.state, f.reason)


def _refused_primary(f: Facts, found: _Findings) -> Verdict:
    """Return the verdict on a primary that answers and was not elected."""
    election = found.election
    if f in election.stale:
        return Verdict(HostState.STALE, _why_stale(f, found.timelines))
    if f.key in election.rivals:
        return Verdict(HostState.CONFLICT, _why_in_conflict(f, election, confirmed=not found.unconfirmed))
    if not found.scanned:
        return Verdict(f.state, "primary not admitted before every host was asked once")
    return Verdict(f.state, f.reason)


def _below(f: Facts, highest: int | None) -> bool:
    return f.timeline is not None and highest is not None and f.timeline < highest


def _doubt(f: Facts, found: _Findings) -> str:
    """Return why a standby serves only after those that follow the primary, empty if it is one of them."""
    timelines = found.timelines
    if timelines.implausible(f.timeline):
        return f"not believed: it alone tells of timeline {f.timeline}, far above {timelines.highest}"
    stale = any(primary.reporting for primary in found.election.stale)
    if stale and (f.timeline is None or _below(f, timelines.highest)):
        return f"may follow the stale primary: not proven to be on timeline {timelines.highest}"
    return ""


def _why_stale(f: Facts, timelines: Timelines) -> str:
    text = f"stale primary: on timeline {f.timeline} while"
    claim = timelines.unconfirmed
    if claim is not None and not _below(f, timelines.confirmed):
        return f"{text} {claim.host}, a standby, tells of timeline {timelines.highest}, alone"
    owner = timelines.timeline_owner
    return f"{text} timeline {timelines.highest} was seen" + (f" at {owner[0]}" if owner else "")


def _why_in_conflict(f: Facts, election: _Election, *, confirmed: bool) -> str:
    others = " and ".join(str(o.key) for o in election.contenders if o.key != f.key)
    where = "an unknown timeline" if f.timeline is None else f"timeline {f.timeline}"
    text = f"split brain: primary on {where}, and so is {others}"
    return text if confirmed else f"{text} (being asked again)"
