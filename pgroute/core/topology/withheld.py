"""Hosts that could serve and get no new sessions: drained by the operator, or about to hand over to another host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.host_facts import Facts

_BY_OPERATOR = "drained by the operator, gets no new sessions"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for one host: its state, why, whether it may serve, and its tier (0 is chosen first)."""

    state: HostState
    reason: str
    usable: bool = False
    tier: int = 0


def withhold(
    hosts: Sequence[Facts], verdicts: Mapping[HostKey, Verdict], drained: frozenset[HostKey]
) -> dict[HostKey, Verdict]:
    """Return the verdicts, with those that are withheld from sessions.

    A primary makes way for a switchover only while there is a standby that can take over. If there is none, nothing
    will come of it.

    Args:
        hosts: the facts of all hosts.
        verdicts: on each.
        drained: the hosts that the operator has drained.
    """
    heirs = any(_may_take_over(f, verdicts[f.key]) for f in hosts)
    out = {}
    for f in hosts:
        verdict = verdicts[f.key]
        if f.key in drained:
            verdict = _withheld(verdict, _BY_OPERATOR)
        elif heirs and f.role is HostRole.PRIMARY and f.advice is not None and f.advice.handing_over:
            verdict = _withheld(verdict, f.advice.handing_over)
        out[f.key] = verdict
    return out


def _may_take_over(f: Facts, verdict: Verdict) -> bool:
    willing = f.advice is None or not f.advice.no_failover
    return f.role is HostRole.STANDBY and verdict.usable and verdict.state is HostState.UP and willing


def _withheld(verdict: Verdict, why: str) -> Verdict:
    """Return the verdict on a host that gets no new sessions. Why it could not serve anyway comes first."""
    if verdict.usable and verdict.state is HostState.UP:
        return Verdict(HostState.DRAINED, why)
    return Verdict(verdict.state, f"{verdict.reason}; {why}" if verdict.reason else why)
