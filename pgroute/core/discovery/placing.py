"""Which members are hosts of a router: those that it lists anyway, and those that a probe has found to belong to it."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.host import HostState
from pgroute.core.topology.observations import Listing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgroute.core.discovery.report import Member, Report
    from pgroute.core.model.advice import HostAdvice
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Answer
    from pgroute.core.topology.snapshot import Topology

_LEADS = frozenset({"leader", "master", "standby_leader", "writer"})
_RUNS = frozenset({"running", "streaming", "in archive recovery"})
"""Roles and states in the words of Patroni and Aurora."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a probe has told of a member that was no host of the router.

    Attributes:
        joins: it is a server of the cluster, and no host of the router yet.
        alias: the host of the router that it is; None: it is none of them.
        reason: why it is neither; empty if it is one of them.
        doubted: that host has restarted since, so the member is to be asked again whether it is an alias.
    """

    joins: bool = False
    alias: HostKey | None = None
    reason: str = ""
    doubted: bool = False


def prove(answer: Answer, topology: Topology, *, check_system_id: bool) -> Proof:
    """Return what a member's answer shows.

    Args:
        answer: its answer to a probe.
        topology: the hosts of the router.
        check_system_id: clusters are told apart by their identifier.
    """
    for host in topology.hosts:
        if host.key == answer.host:
            continue
        same = (host.system_id, host.started_at) == (answer.system_id, answer.started_at)
        if same and host.started_at is not None and host.system_id is not None:
            return Proof(alias=host.key)
    known = topology.system_id if check_system_id else None
    if None not in (known, answer.system_id):
        if known != answer.system_id:
            return Proof(reason=f"another cluster: system identifier {answer.system_id}")
    elif not any(host.usable for host in topology.hosts):
        return Proof(reason="no host of the DSN has shown yet which cluster it is")
    if any(host.state is HostState.UNKNOWN for host in topology.hosts):
        return Proof(reason="it may be a host that was not heard from yet")
    return Proof(joins=True)


@dataclass(frozen=True, slots=True)
class Placed:
    """The members of a report among the hosts of a router.

    Attributes:
        joined: the members that are hosts because of the report, with where they come from.
        advice: what is said of each host.
        tried: the members that are to be tried by a probe.
        strangers: the members that are no hosts, with the reason.
    """

    joined: Mapping[HostKey, Listing] = field(default_factory=dict)
    advice: Mapping[HostKey, HostAdvice] = field(default_factory=dict)
    tried: tuple[HostKey, ...] = ()
    strangers: tuple[tuple[str, str], ...] = ()


def place(
    report: Report,
    listed: Mapping[HostKey, Listing],
    topology: Topology,
    proofs: Mapping[HostKey, Proof],
    refusal: Callable[[Member], str],
) -> Placed:
    """Return which member is which host.

    Args:
        report: what the adviser said.
        listed: the hosts of the DSN and its names.
        topology: what is known of the hosts, and which joined before.
        proofs: what probes have told of members that are not listed.
        refusal: returns why a member may not join, empty if it may.
    """
    joined: dict[HostKey, Listing] = {}
    claims: list[tuple[HostKey, HostKey, Member]] = []
    tried: list[HostKey] = []
    strangers: list[tuple[str, str]] = []
    for member in sorted(report.members, key=_standing):
        key = member.key
        if member.why:
            strangers.append((member.name, member.why))
        if key is None:
            continue
        if hosts := _among(key, listed, topology):
            claims += [(host, key, member) for host in hosts]
            continue
        if why := refusal(member):
            strangers.append((member.name, f"{key}: {why}"))
            continue
        proof = proofs.get(key, Proof(reason="not tried yet"))
        if proof.joins:
            joined[key] = Listing(origin=f"member {member.name}")
            claims.append((key, key, member))
            known = topology.host(key)
            if known is not None and known.state is HostState.ALIAS:
                tried.append(key)  # a host that was down then has come back: it is that one
        elif proof.alias is not None:
            claims.append((proof.alias, key, member))
            if proof.doubted:
                tried.append(key)
        else:
            tried.append(key)
            strangers.append((member.name, f"{key}: {proof.reason}"))
    advice: dict[HostKey, HostAdvice] = {}
    for host, key, member in claims:
        # The primary stays although its own place is not named any more, see `stay`.
        if host in listed or host in joined or host == (topology.primary and topology.primary.key):
            advice[host] = member.advice
        else:
            tried.append(key)
            strangers.append((member.name, f"{key}: it was {host}, which is no host any more"))
    by_name = dict(sorted(joined.items(), key=lambda each: each[1].origin))  # the same order, whoever leads
    return Placed(by_name, advice, tuple(tried), tuple(sorted(strangers)))


def _standing(member: Member) -> tuple[bool, bool]:
    """Return the order in which members of one place speak for it, the last one counts.

    Until its entry expires, a renamed member is also there by its old name.
    """
    return member.advice.role in _LEADS, member.advice.state in _RUNS


def _among(key: HostKey, listed: Mapping[HostKey, Listing], topology: Topology) -> list[HostKey]:
    """Return the listed hosts that a member is: by name or address, or where the probes reach them."""
    found = []
    for each in listed:
        host = topology.host(each)
        names = {each.host.lower().removesuffix("."), each.hostaddr, host.address if host else None}
        if each.port == key.port and key.host.lower().removesuffix(".") in names:
            found.append(each)
    return found


def stay(
    before: Mapping[HostKey, Listing], now: Mapping[HostKey, Listing], topology: Topology, *, forgotten: bool
) -> dict[HostKey, Listing]:
    """Return the hosts that joined, with those that stay although the adviser does not name them.

    The primary stays as long as probes find it to be the primary. If the adviser is silent for so long that it is
    forgotten, a host stays as long as it serves.

    Args:
        before: those that joined before.
        now: those that the adviser names.
        topology: what the probes know.
        forgotten: the adviser names none because it is forgotten.
    """
    kept = dict(now)
    for key, listing in before.items():
        host = topology.host(key)
        if host is None or key in kept:
            continue
        primary = topology.primary is not None and topology.primary.key == key
        if primary or (forgotten and host.usable):
            note = "" if forgotten else "the adviser does not name it any more"
            kept[key] = replace(listing, note=note)
    return kept
