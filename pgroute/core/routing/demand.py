"""What a session demands of its host's data: how old it may be, and which position it must hold."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import HostRole, SessionAttrs
from pgroute.core.topology.wal_history import Standing
from pgroute.errors import ConfigError, PositionLost

if TYPE_CHECKING:
    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.position import Position
    from pgroute.core.routing.replayed import Replayed
    from pgroute.core.topology.snapshot import Groups, Topology

LEAST_MAX_LAG = 0.1
"""The smallest max_lag in seconds: hosts are probed three times in it, and more than 30 times a second is too often."""


class Proof(enum.Enum):
    """Whether a host satisfies a demand.

    Attributes:
        PROVEN: the last probes prove it.
        ASK: a question to the host can decide.
        NONE: nothing can prove it now.
    """

    PROVEN = "proven"
    ASK = "ask"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Demand:
    """What a session demands of its host's data. The primary satisfies all of it, unless a position was lost.

    Attributes:
        max_lag: seconds that a standby may miss at most; None: any number.
        after: a position that a standby must have replayed; None: none.
        wait: seconds to wait for a standby to replay it.
        primary: only the primary will do: how far the session before it came is not known.
    """

    max_lag: float | None = None
    after: Position | None = None
    wait: float = 0.0
    primary: bool = False

    def check(self, topology: Topology) -> None:
        """Check the position against what is known of the cluster.

        Raises:
            ConfigError: it is one of another cluster.
            PositionLost: it lies beyond the fork at which its timeline was left, or may do so.
        """
        if self.after is None:
            return
        check_cluster(self.after, topology.system_id)
        wal = topology.wal
        standing = wal.standing(self.after)
        if standing is Standing.AHEAD and self.after.timeline <= topology.ignored_timeline:
            standing = Standing.LOST
        if standing is Standing.LOST or standing is Standing.UNPROVEN:
            what = "was lost" if standing is Standing.LOST else "cannot be proven to be kept"
            left = f"timeline {self.after.timeline} was left for timeline {wal.timeline}"
            raise PositionLost(
                f"position {self.after} {what}: {left}", position=self.after, topology=topology
            )

    def is_ahead(self, topology: Topology) -> bool:
        """Return whether the position is of a timeline that the router has not seen yet."""
        return self.after is not None and topology.wal.standing(self.after) is Standing.AHEAD

    def proof(
        self, topology: Topology, candidate: Candidate, now: float, replayed: Replayed | None = None
    ) -> Proof:
        """Return whether a host satisfies the demand, as far as the snapshot and what standbys have told tell.

        Args:
            topology: the snapshot.
            candidate: a host, of this snapshot or an earlier one.
            now: monotonic seconds.
            replayed: what standbys have told in sessions; None: nothing.
        """
        wal = topology.wal
        host = topology.by_key.get(candidate.key)
        if host is None or host.generation != candidate.generation:
            return Proof.NONE
        if self.after is not None and wal.standing(self.after) is not Standing.KEPT:
            return Proof.NONE
        if host.role is HostRole.PRIMARY:
            return Proof.PROVEN
        if self.primary:
            return Proof.NONE
        proof = Proof.PROVEN
        if self.max_lag is not None:
            oldest = now - self.max_lag
            if host.current_as_of is None or host.current_as_of < oldest:
                if not wal.samples or wal.samples[-1].at < oldest:
                    return Proof.NONE  # not even the last position of the primary would be new enough
                proof = Proof.ASK
        if (
            self.after is not None
            and not wal.holds(self.after, host.timeline, host.lsn)
            and (replayed is None or not replayed.holds(wal, self.after, candidate))
        ):
            proof = Proof.ASK
        return proof

    def met_by(self, topology: Topology, timeline: int | None, lsn: int | None, now: float) -> bool:
        """Return whether a standby that has just told its timeline and position satisfies the demand."""
        wal = topology.wal
        if self.max_lag is not None:
            as_of = wal.as_of(timeline, lsn)
            if as_of is None or as_of < now - self.max_lag:
                return False
        return self.after is None or wal.holds(self.after, timeline, lsn)

    @staticmethod
    def may_get_there(topology: Topology, timeline: int | None, lsn: int | None) -> bool:
        """Return whether a standby that has just told its timeline and position may satisfy the demand soon.

        One that is beyond the fork at which its timeline was left either is on the lost end of that timeline, or
        cannot tell yet that it follows the current one, and roles without rights learn that minutes late.
        """
        return lsn is not None and topology.wal.reached(timeline, lsn) == lsn

    def arrange(
        self,
        groups: Groups,
        topology: Topology,
        now: float,
        *,
        asking: bool = True,
        replayed: Replayed | None = None,
    ) -> Groups:
        """Return the groups of the hosts that satisfy the demand, and then of those that may, before any primary.

        Args:
            groups: the candidates, the best group first.
            topology: the snapshot that they are from.
            now: monotonic seconds.
            asking: hosts may still be asked.
            replayed: what standbys have told in sessions; None: nothing.
        """
        arranged: list[tuple[Candidate, ...]] = []
        ask: list[tuple[Candidate, ...]] = []
        for group in groups:
            proven: list[Candidate] = []
            left: list[Candidate] = []
            for candidate in group:
                proof = self.proof(topology, candidate, now, replayed)
                if proof is Proof.PROVEN:
                    proven.append(candidate)
                elif asking and proof is Proof.ASK:
                    left.append(candidate)
            if ask and any(candidate.role is HostRole.PRIMARY for candidate in group):
                arranged += ask
                ask = []
            if proven:
                arranged.append(tuple(proven))
            if left:
                ask.append(tuple(left))
        return (*arranged, *ask)

    def describe(self, host: HostInfo, topology: Topology, now: float) -> str:
        """Return what an error tells of a standby in view of the demand."""
        parts = []
        wal = topology.wal
        known = host.role is HostRole.STANDBY and None not in (host.lsn, host.timeline, wal.timeline)
        if known and wal.reached(host.timeline, host.lsn) != host.lsn:
            parts.append(f"not proven to be on timeline {wal.timeline}")
        if self.max_lag is not None and host.role is HostRole.STANDBY:
            if host.current_as_of is None:
                parts.append("staleness unknown")
            else:
                parts.append(f"may miss the last {max(0.0, now - host.current_as_of):.2f} s")
        if self.after is not None and host.role is HostRole.STANDBY:
            where = "an unknown position" if host.lsn is None else as_lsn(host.lsn)
            parts.append(f"was last seen at {where} of {as_lsn(self.after.lsn)}")
        return ", ".join(parts)

    def __str__(self) -> str:
        parts = []
        if self.max_lag is not None:
            parts.append(f"max_lag {self.max_lag:g} s")
        if self.after is not None:
            parts.append(f"after {self.after}")
        if self.primary:
            parts.append("on the primary, since the outcome of an earlier session is not known")
        return ", ".join(parts)


def check_cluster(position: Position, known: int | None) -> None:
    """Raise ConfigError for a position of another cluster than the known one; None: none is known yet."""
    if known is not None and known != position.system_id:
        accepted = f"expected a position of this cluster, whose system identifier is {known}"
        raise ConfigError("after", str(position), accepted)


def never_primary(attrs: SessionAttrs) -> bool:
    """Return whether no primary that can be written to has these attributes."""
    return not attrs.accepts(HostRole.PRIMARY, read_only=False)


def as_lsn(lsn: int) -> str:
    """Return a position as PostgreSQL prints it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
