"""Hosts that could serve and get no new sessions: drained by the operator, or about to hand over to another host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass
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

    A primary makes way for a switchover only while there is a standby that can take over, the one that is named if one
    is. If there is none, nothing will come of it.

    Args:
        hosts: the facts of all hosts.
        verdicts: on each.
        drained: the hosts that the operator has drained.
    """
    out = {}
    for f in hosts:
        verdict = verdicts[f.key]
        if f.key in drained:
            verdict = _drained(verdict)
        elif (
            verdict.usable
            and f.role is HostRole.PRIMARY
            and f.advice
            and f.advice.handing_over
            and any(_may_take_over(heir, verdicts[heir.key], f.advice.successor) for heir in hosts)
        ):
            verdict = Verdict(HostState.DRAINED, f.advice.handing_over)
        out[f.key] = verdict
    return out


def _may_take_over(f: Facts, verdict: Verdict, successor: str) -> bool:
    named = not successor or (f.advice is not None and f.advice.member == successor)
    willing = named and not (f.advice is not None and f.advice.no_failover)
    return f.role is HostRole.STANDBY and verdict.usable and verdict.state is HostState.UP and willing


def _drained(verdict: Verdict) -> Verdict:
    """Return the verdict on a host that the operator has drained. Why it could not serve anyway comes first."""
    if verdict.usable and verdict.state is HostState.UP:
        return Verdict(HostState.DRAINED, _BY_OPERATOR)
    reason = f"{verdict.reason}; {_BY_OPERATOR}" if verdict.reason else _BY_OPERATOR
    return Verdict(verdict.state, reason)
