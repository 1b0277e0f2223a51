"""Whether there is a session for each role, and where it goes: by opening one, as the application would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgroute import AcquireTimeout, HostRole, HostState, Role, SessionAttrs
from pgroute._sync.pool.lease import lease_of
from pgroute.cli.check.finding import Finding, Result
from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pgroute import HostKey, Router, Topology
    from pgroute.cli.check.plan import Plan


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a session that was asked for.

    Attributes:
        key: the host that it went to; None: there was none.
        refusal: why there was none; empty if there was one.
        topology: as it was then.
    """

    key: HostKey | None
    refusal: str
    topology: Topology


def try_session(router: Router[Any], role: Role, timeout: float) -> Trial:
    """Open a session for a role, within so many seconds, and end it."""
    try:
        conn = router.getconn(role, timeout=timeout)
    except AcquireTimeout as exc:
        return Trial(None, str(exc), router.topology)
    try:
        return Trial(lease_of(conn).pool.key, "", router.topology)
    finally:
        router.putconn(conn)


def about_sessions(trials: Mapping[Role, Trial], plan: Plan) -> Iterator[Finding]:
    """Yield what is to say about the sessions of each role."""
    for role, trial in trials.items():
        if trial.key is None:
            yield Finding(role.value, Result.FAIL, f"no session: {trial.refusal}")
        elif role is Role.READER:
            yield _about_reader(trial, trial.key, plan)
        else:
            yield Finding(role.value, Result.OK, f"a session went to {trial.key}")


def _about_reader(trial: Trial, key: HostKey, plan: Plan) -> Finding:
    topology, attrs = trial.topology, plan.reader_attrs
    host = topology.host(key)
    on_primary = host is not None and host.role is HostRole.PRIMARY
    if not on_primary or attrs is not SessionAttrs.PREFER_STANDBY:
        return Finding("reader", Result.OK, f"a session went to {key} ({attrs.value})")
    text = f"a session went to the primary {key}"
    if topology.standbys:
        names = ", ".join(str(standby.key) for standby in topology.standbys)
        limit = "" if plan.max_lag is None else f" by max_lag = {plan.max_lag:g} s"
        return Finding("reader", Result.WARN, f"{text}: no standby is chosen now{limit} ({names})")
    if all(other.key == key or other.state is HostState.ALIAS for other in topology.hosts):
        return Finding("reader", Result.NOTE, f"{text}, the only host")
    return Finding("reader", Result.WARN, f"{text}: there is no standby")
