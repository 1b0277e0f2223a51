"""What a health check says of a router."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgroute.core.config.checks import check_bool
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import Role
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgroute.core.topology.snapshot import Topology


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Judges a topology.

    Args:
        roles: what the application cannot do without.
        details: tell the hosts and their states too. They contain no password, but are nobody's business outside.
    """

    roles: tuple[Role, ...]
    details: bool = False

    def ready(self, topology: Topology, role: Role | None = None) -> bool:
        """Return whether there is a host for a role; None: for each that is needed."""
        ready = {Role.WRITER: topology.writable, Role.READER: topology.readable}
        return all(ready[needed] for needed in (self.roles if role is None else (role,)))

    def describe(self, topology: Topology) -> dict[str, Any]:
        """Return the answer for a person or a dashboard, of JSON's types."""
        told: dict[str, Any] = {"writable": topology.writable, "readable": topology.readable}
        if not self.details:
            return told
        primary = topology.primary
        reasons = [
            f"{host.key} is {host.state.value}: {host.reason}" for host in topology.hosts if host.reason
        ]
        if not topology.writable:
            reasons.insert(0, topology.why_not_writable)
        return told | {
            "primary": str(primary.key) if primary else None,
            "standbys": [str(host.key) for host in topology.standbys],
            "reasons": reasons,
        }


def health_check(roles: Sequence[Any], *, details: bool) -> HealthCheck:
    """Return the check.

    Args:
        roles: "writer", "reader" or both.
        details: as in `HealthCheck`.

    Raises:
        ConfigError: not that.
    """
    check_bool("details", details)
    accepted = 'expected a list of "writer", "reader" or both'
    try:
        needed = () if isinstance(roles, str) else tuple(Role.parse(role) for role in roles)
    except (ConfigError, TypeError):
        needed = ()
    if not needed:
        raise ConfigError("roles", roles, accepted)
    return HealthCheck(needed, details)
