"""How far the sessions of one user or request have written and read, over threads and tasks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from pgroute.core.model.position import Position
from pgroute.core.model.roles import HostRole, Role
from pgroute.core.routing.demand import Demand
from pgroute.core.topology.wal_history import Standing

if TYPE_CHECKING:
    from pgroute.core.topology.snapshot import Topology
    from pgroute.core.topology.wal_history import WalHistory


class Told(Protocol):
    """How far a server said it was at the end of a session; see `_async/progress.py`."""

    @property
    def role(self) -> HostRole:
        """Primary or standby."""
        ...

    @property
    def timeline(self) -> int | None:
        """Of a standby a lower bound; None if not told."""
        ...

    @property
    def lsn(self) -> int | None:
        """The position; None if not told."""
        ...


class Causality:
    """The position that every further session must not fall behind; from any thread.

    Args:
        after: where to begin; None: anywhere.

    Attributes:
        lost: a session was refused because a failover has lost the position.
    """

    __slots__ = ("_doubts", "_lock", "_position", "_settled", "lost")

    def __init__(self, after: Position | None) -> None:
        self._lock = threading.Lock()
        self._position = after
        # Sessions whose position is not known. A session on the primary, begun later, has seen what they did.
        self._doubts = 0
        self._settled = 0
        self.lost: bool = False

    @property
    def position(self) -> Position | None:
        """The position so far."""
        return self._position

    def state(self) -> tuple[Position | None, bool, int]:
        """Return the position, whether it may be too low, and what the end of a session that begins now settles."""
        with self._lock:
            return self._position, self._doubts > self._settled, self._doubts

    def advance(self, position: Position | None, wal: WalHistory, settles: int) -> None:
        """Take note of where a session ended.

        Args:
            position: where; None: that is not known.
            wal: tells what became of earlier positions.
            settles: from `state`, of a session on the primary; 0 for any other.
        """
        with self._lock:
            if position is None:
                self._doubts += 1
                return
            self._settled = max(self._settled, settles)
            known = self._position
            if known is None or known.system_id != position.system_id:
                self._position = position
                return
            earlier, later = sorted((known, position), key=lambda p: (p.timeline, p.lsn))
            # What was lost must be told: the next session finds it.
            lost = earlier.timeline != later.timeline and wal.standing(earlier) in (
                Standing.LOST,
                Standing.UNPROVEN,
            )
            # The session was on a timeline that no probe has seen yet, so what became of the earlier one is not known.
            unseen = later is position and wal.standing(later) is Standing.AHEAD
            if unseen:
                self._doubts += 1
            self._position = earlier if lost or unseen else later


class CausalReading:
    """How sessions of a causal object are to be acquired.

    Args:
        causality: the object's state.
        role: of the sessions.
        max_lag: seconds, as in `Demand`.
        wait: seconds, as in `Demand`.
    """

    __slots__ = ("_causality", "_max_lag", "_role", "_wait")

    def __init__(self, causality: Causality, role: Role, *, max_lag: float | None, wait: float) -> None:
        self._causality = causality
        self._role = role
        self._max_lag = max_lag
        self._wait = wait

    def begin(self) -> tuple[Demand | None, Ticket]:
        """Return the demand of a session that begins now, and what takes note of its end."""
        position, doubtful, mark = self._causality.state()
        ticket = Ticket(self._causality, mark)
        reader = self._role is Role.READER
        doubtful = doubtful and reader
        max_lag = self._max_lag if reader else None
        if position is None and max_lag is None and not doubtful:
            return None, ticket
        return Demand(max_lag, position, self._wait, doubtful), ticket

    def note_lost(self) -> None:
        """Take note that a session was refused with PositionLost."""
        self._causality.lost = True


class Ticket:
    """Takes note of where one session ended."""

    __slots__ = ("_causality", "_mark")

    def __init__(self, causality: Causality, mark: int) -> None:
        self._causality = causality
        self._mark = mark

    def settle(self, told: Told | None, topology: Topology) -> None:
        """Take note of what the server said at the end; None: nothing."""
        position = None if told is None else position_of(told, topology)
        primary = told is not None and told.role is HostRole.PRIMARY
        self._causality.advance(position, topology.wal, self._mark if primary else 0)


def position_of(told: Told, topology: Topology) -> Position | None:
    """Return where a server is, None if that cannot be told for sure.

    A standby whose timeline is not proven may be on the lost end of an old one.
    """
    system_id, timeline, lsn = topology.system_id, told.timeline, told.lsn
    if system_id is None or timeline is None or lsn is None:
        return None
    if told.role is HostRole.STANDBY and topology.wal.reached(timeline, lsn) != lsn:
        return None
    return Position(system_id, timeline, lsn)
