"""What a router makes of what its adviser says, at one moment: the hosts that join, and the advice on each host."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING

from pgroute.core.discovery.placing import Placed, place, stay
from pgroute.core.discovery.timing import handing_over
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.advice import AdviserInfo
from pgroute.core.topology.observations import Advised

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgroute.core.config.discovery import Discovery
    from pgroute.core.discovery.placing import Proof
    from pgroute.core.discovery.report import Member, Report
    from pgroute.core.discovery.timing import Heard
    from pgroute.core.model.advice import HostAdvice
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Listing
    from pgroute.core.topology.snapshot import Topology


@dataclass(frozen=True, slots=True)
class Followed:
    """What follows from an adviser.

    Attributes:
        joined: the hosts that are listed because of it.
        advised: the observation.
        tried: the members that are to be tried by a probe.
        named: every place of a member that it names.
    """

    joined: Mapping[HostKey, Listing] = field(default_factory=dict)
    advised: Advised | None = None
    tried: tuple[HostKey, ...] = ()
    named: frozenset[HostKey] = frozenset()


def follow(
    heard: Heard,
    options: Discovery,
    *,
    listed: Mapping[HostKey, Listing],
    before: Mapping[HostKey, Listing],
    topology: Topology,
    proofs: Mapping[HostKey, Proof],
    refusal: Callable[[Member], str],
    now: float,
) -> Followed:
    """Return what follows from what was heard.

    Args:
        heard: what the adviser said last.
        options: how long that counts.
        listed: the hosts of the DSN and its names.
        before: the hosts that had joined before.
        topology: what is known of the hosts.
        proofs: what probes have told of members that are not listed.
        refusal: returns why a member may not join, empty if it may.
        now: monotonic seconds.
    """
    current = heard.current(options, now)
    report = heard.report if current else None
    placed = Placed() if report is None else place(report, listed, topology, proofs, refusal)
    forgotten = heard.report is not None and not current
    joined = stay(before, placed.joined, topology, forgotten=forgotten or heard.report is None)
    advice = dict(placed.advice)
    if report is not None and handing_over(heard, options, now):
        advice = _handing_over(report, advice)
    settled = _settled(heard, placed, proofs)
    info = _info(options.name, heard, report, placed, forgotten=forgotten, settled=settled)
    named = frozenset(m.key for m in report.members if m.key) if report else frozenset()
    return Followed(joined, Advised(info, advice), placed.tried, named)


def _handing_over(report: Report, advice: Mapping[HostKey, HostAdvice]) -> dict[HostKey, HostAdvice]:
    """Return the advice with the one that hands over; if nobody is named, each would, were it the primary."""
    plan = report.switchover
    assert plan is not None  # there is a time for it
    why = f"a switchover {plan.text} begins: gets no new sessions"
    return {
        key: replace(told, handing_over=why, successor=plan.candidate)
        if plan.leader in ("", told.member)
        else told
        for key, told in advice.items()
    }


def _settled(heard: Heard, placed: Placed, proofs: Mapping[HostKey, Proof]) -> bool:
    return heard.asked > 0 and all(key in proofs for key in placed.tried)


def _info(
    name: str, heard: Heard, report: Report | None, placed: Placed, *, forgotten: bool, settled: bool
) -> AdviserInfo:
    plan = None if report is None else report.switchover
    return AdviserInfo(
        name=name,
        answering=heard.asked > 0 and heard.report is not None and not heard.error,
        source=heard.source,
        error=heard.error,
        heard_at=heard.at,
        forgotten=forgotten,
        scope="" if report is None else report.scope,
        members=0 if report is None else len(report.members),
        paused=report is not None and report.paused,
        switchover="" if plan is None else plan.text,
        switchover_at=None if plan is None else plan.at,
        strangers=placed.strangers,
        settled=settled,
    )
