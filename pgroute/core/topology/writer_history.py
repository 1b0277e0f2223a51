"""How long there was no host to write to, and how often the writers moved to another host, from the snapshots."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology


@dataclass(frozen=True, slots=True)
class WriterHistory:
    """What became of the host that writers go to.

    An outage begins when there is no such host any more, or, for a router that has not seen one yet, when each host has
    been checked. If all hosts are standbys for a minute from the start, that is taken to be meant so, and is none.

    Attributes:
        last: the host that writers went to last; None: there was none yet.
        lost_at: monotonic seconds since when there is none; None: there is one, or nobody knows yet.
        seconds: how long there was none, in the outages that are over.
        outages: how many are over.
        failovers: how often the writers came to another host than before.
        outage: seconds of the last outage that is over; 0.0 if writers moved without one.
        standbys_alone: there is to be no primary, until the first one is seen.
    """

    last: HostKey | None = None
    lost_at: float | None = None
    seconds: float = 0.0
    outages: int = 0
    failovers: int = 0
    outage: float = 0.0
    standbys_alone: bool = False

    def after(self, topology: Topology) -> WriterHistory:
        """Return the history with one more snapshot."""
        if topology.writable and topology.primary is not None:
            return self._found(topology.primary.key, topology.at)
        if self.last is not None:
            return self if self.lost_at is not None else replace(self, lost_at=topology.at)
        expected = topology.initial_scan_done and topology.primary is None and not self.standbys_alone
        if not expected or topology.primary_lost_at is None:
            return self
        if topology.outage(topology.at) is None:
            return replace(self, lost_at=None, standbys_alone=True)
        return self if self.lost_at is not None else replace(self, lost_at=topology.primary_lost_at)

    def _found(self, key: HostKey, at: float) -> WriterHistory:
        if self.lost_at is None and self.last == key:
            return self
        outage = 0.0 if self.lost_at is None else max(0.0, at - self.lost_at)
        return WriterHistory(
            last=key,
            seconds=self.seconds + outage,
            outages=self.outages + (self.lost_at is not None),
            failovers=self.failovers + (self.last is not None and self.last != key),
            outage=outage,
        )

    def current_outage(self, topology: Topology, now: float) -> float:
        """Return the seconds of the outage that goes on; 0.0 if there is none.

        Args:
            topology: the current snapshot.
            now: monotonic seconds.
        """
        if self.lost_at is None or (self.last is None and topology.outage(now) is None):
            return 0.0
        return max(0.0, now - self.lost_at)
