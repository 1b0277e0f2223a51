"""A host that may serve a session, as a balancing policy sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from pgroute.core.model.roles import HostKey, HostRole


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that may serve a session, as a policy sees it.

    Attributes:
        key: the host.
        generation: the generation of its pools.
        role: primary or standby.
        order: its place among the hosts, from 0.
        weight: its share relative to the others, from `HostOptions` or an SRV record; less while it warms up.
        rtt: seconds that the last probe took.
        lag_bytes: bytes of WAL that a standby is behind; None for a primary, or if not known.
        current_as_of: monotonic seconds; a standby holds everything that was committed before. None for a primary, or
            if not known.
        zone: where it is, from `HostOptions` or the adviser.
        returned_at: monotonic seconds at which it came back, from when on it warms up; None: it was never away.
    """

    key: HostKey
    generation: int
    role: HostRole
    order: int = 0
    weight: float = 1.0
    rtt: float = 0.0
    lag_bytes: int | None = None
    current_as_of: float | None = None
    zone: str = ""
    returned_at: float | None = None
