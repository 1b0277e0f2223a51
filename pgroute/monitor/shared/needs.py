"""What processes require of a shared watch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.schedule import pace

if TYPE_CHECKING:
    from pgroute.core.topology.wire import Need

_MILLISECOND = 1e-3


def pace_of(need: Need, now: float, *, processes: int | None = None) -> float:
    """Return the seconds from one probe to the next that a process requires.

    Args:
        need: of the process.
        now: monotonic seconds.
        processes: how many share the watch; None: it is not shared.
    """
    outage = None if need.outage_since is None else max(0.0, now - need.outage_since)
    return pace(need.interval, outage, slots=need.slots, processes=processes)


def differ(need: Need, other: Need) -> bool:
    """Return whether two needs differ in more than the rounding of a time."""
    if None in (need.outage_since, other.outage_since):
        since_differs = need.outage_since != other.outage_since
    else:
        since_differs = abs((need.outage_since or 0.0) - (other.outage_since or 0.0)) > _MILLISECOND
    return since_differs or (need.interval, need.timeout, need.slots) != (
        other.interval,
        other.timeout,
        other.slots,
    )
