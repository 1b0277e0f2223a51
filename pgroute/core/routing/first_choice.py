"""The host to try first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.routing.warm_up import choose

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.roles import HostKey, SessionAttrs
    from pgroute.core.routing.balance import Policy
    from pgroute.core.routing.demand import Demand
    from pgroute.core.routing.replayed import Replayed
    from pgroute.core.topology.snapshot import Groups, Topology


def as_they_are(groups: Groups) -> Groups:
    """Return the groups as the topology has them."""
    return groups


def first_choice(
    topology: Topology,
    attrs: SessionAttrs,
    policy: Policy,
    rng: Random,
    load: Callable[[HostKey], int],
    *,
    demand: Demand | None = None,
    now: float = 0.0,
    replayed: Replayed | None = None,
    arrange: Callable[[Groups], Groups] = as_they_are,
) -> Candidate | None:
    """Return the host to try first, None if no host can serve. `topology.only` has it where there is no choice.

    Args:
        topology: the snapshot.
        attrs: what the host must be.
        policy: chooses among equally good hosts.
        rng: for the policy.
        load: returns the sessions in use at a host.
        demand: what the session demands of the host's data; None: nothing.
        now: monotonic seconds.
        replayed: what standbys have told in sessions; None: nothing.
        arrange: puts hosts behind the others to which no connection can be opened.

    Raises:
        ConfigError, PositionLost: no host can satisfy the demand; see `Demand.check`.
    """
    groups = topology.candidates[attrs]
    if demand is not None:
        demand.check(topology)
        groups = demand.arrange(groups, topology, now, replayed=replayed)
    groups = arrange(groups)
    if not groups:
        return None
    return choose(policy, groups[0], load, rng, last_return=topology.last_return, now=now)
