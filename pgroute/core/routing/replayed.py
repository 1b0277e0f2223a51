"""How far standbys were when sessions there asked: newer than the last probes, until the next ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.position import Position
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.wal_history import WalHistory


class _Told(NamedTuple):
    generation: int
    timeline: int
    lsn: int


class Replayed:
    """What standbys have told of themselves; used from any thread without a lock.

    A standby goes back only by a restart, which begins a new generation of the host.
    """

    def __init__(self) -> None:
        self._told: dict[HostKey, _Told] = {}

    def note(self, key: HostKey, generation: int, timeline: int | None, lsn: int | None) -> None:
        """Take note of what a standby has told.

        Args:
            key: the standby.
            generation: of the host, when the connection was made.
            timeline: a lower bound of the standby's.
            lsn: the last position that it has replayed.
        """
        if timeline is None or lsn is None:
            return
        told = _Told(generation, timeline, lsn)
        known = self._told.get(key)
        if known is None or known < told:
            self._told[key] = told

    def retain(self, listed: Container[HostKey]) -> None:
        """Forget all other hosts."""
        for key in tuple(self._told):
            if key not in listed:
                self._told.pop(key, None)

    def holds(self, wal: WalHistory, position: Position, candidate: Candidate) -> bool:
        """Return True if a standby has told that it holds a position.

        Args:
            wal: what is known of the primary's log.
            position: the position.
            candidate: the standby.
        """
        told = self._told.get(candidate.key)
        if told is None or told.generation != candidate.generation:
            return False
        return wal.holds(position, told.timeline, told.lsn)
