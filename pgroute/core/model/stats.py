"""The counters of the pools as values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pgroute.core.model.roles import HostKey

MEASURES = frozenset({"pool_min", "pool_max", "pool_size", "pool_available", "requests_waiting"})
"""Keys that tell of this moment; all others count from the opening of the router."""


@dataclass(frozen=True, slots=True)
class RoleStats:
    """The pools of one role.

    Attributes:
        totals: all hosts together, pools closed meanwhile included; psycopg_pool's keys.
        hosts: the pool now open to each host; psycopg_pool's keys, `in_use` and `generation`.
    """

    totals: Mapping[str, int]
    hosts: Mapping[HostKey, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class RouterStats:
    """What `Router.stats()` returns.

    Attributes:
        writer: the writers' pools.
        reader: the readers' pools.
        events_dropped: events that slow subscribers did not get.
    """

    writer: RoleStats
    reader: RoleStats
    events_dropped: int = 0


def total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up pools' statistics key by key."""
    counter: Counter[str] = Counter()
    for part in parts:
        counter.update(part)
    return dict(counter)
