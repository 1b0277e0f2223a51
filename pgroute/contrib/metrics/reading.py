"""The state of one router at one moment."""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pgroute.core.model.roles import Role

if TYPE_CHECKING:
    from pgroute.core.model.durations import DurationCounts
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.model.stats import HostCounts, RouterCounts
    from pgroute.core.topology.snapshot import Topology


class Reading:
    """The state of one router, each part as it is when it is looked at first; no I/O.

    Args:
        name: by which the router goes.
        manager: what is behind it, of either face.

    Attributes:
        name: as given.
        topology: the hosts.
        now: monotonic seconds.
    """

    def __init__(self, name: str, manager: Any) -> None:
        self.name = name
        self.topology: Topology = manager.topology
        self.now: float = time.monotonic()
        self._manager = manager

    @property
    def open(self) -> bool:
        """Whether sessions can be had of the router."""
        return bool(self._manager.lifecycle.state == "open")

    @property
    def watched(self) -> tuple[HostInfo, ...]:
        """The hosts while somebody watches them: those of a router that is open."""
        return self.topology.hosts if self.open else ()

    @cached_property
    def counts(self) -> RouterCounts:
        """What has happened since it was opened."""
        counts: RouterCounts = self._manager.meter.counts(self.topology)
        return counts

    @cached_property
    def hosts(self) -> dict[tuple[str, HostKey], HostCounts]:
        """The pools, by role and host."""
        pools = self._manager.pools
        return {(role.value, key): found for role in Role for key, found in pools[role].by_host().items()}

    @property
    def waits(self) -> dict[str, DurationCounts]:
        """How long sessions waited, by role."""
        return {role.value: waits.read() for role, waits in self._manager.meter.waits.items()}

    @property
    def waiting(self) -> dict[str, int]:
        """How many callers wait for a host, by role."""
        return {role.value: count for role, count in self._manager.meter.waiting.items()}

    @property
    def failover_times(self) -> DurationCounts:
        """How long failovers took."""
        times: DurationCounts = self._manager.meter.failover_times.read()
        return times

    @property
    def outage(self) -> float:
        """The seconds of the outage that goes on."""
        seconds: float = self._manager.meter.outage(self.topology)[0]
        return seconds

    @property
    def events_dropped(self) -> int:
        """Events that were not delivered."""
        dropped: int = self._manager.dispatcher.dropped
        return dropped
