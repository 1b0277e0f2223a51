"""The counters of the pools."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pgroute.core.model.roles import HostKey

MEASURES = frozenset({"pool_min", "pool_max", "pool_size", "pool_available", "requests_waiting"})
"""The keys that describe this moment; all others count since the router was opened."""


@dataclass(frozen=True, slots=True)
class RoleStats:
    """The pools of one role.

    Attributes:
        totals: the sums over all hosts, including pools that are closed by now, under the keys of psycopg_pool.
        hosts: the open pool of each host, under the keys of psycopg_pool, `in_use` and `generation`.
    """

    totals: Mapping[str, int]
    hosts: Mapping[HostKey, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class RouterStats:
    """The result of `Router.stats()`.

    Attributes:
        writer: the pools of writers.
        reader: the pools of readers.
        events_dropped: events that were not delivered because subscribers are too slow.
    """

    writer: RoleStats
    reader: RoleStats
    events_dropped: int = 0


def since(counts: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """Return the counts without those of an earlier moment; what describes this moment is left as it is."""
    left = {key: n if key in MEASURES else n - before.get(key, 0) for key, n in counts.items()}
    return {key: n for key, n in left.items() if n or key in MEASURES}


def total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of several pools' counters, key by key."""
    counter: Counter[str] = Counter()
    for part in parts:
        counter.update(part)
    return dict(counter)
