"""What has happened in one pool: counters under the keys of psycopg_pool, and durations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgroute.core.model.durations import Durations

if TYPE_CHECKING:
    from pgroute.core.routing.lending import Lending

COUNTED = (
    "requests_num",
    "requests_queued",
    "requests_errors",
    "requests_wait_ms",
    "usage_ms",
    "returns_bad",
    "connections_num",
    "connections_ms",
    "connections_errors",
    "connections_lost",
)


class PoolCounts:
    """What has happened in one pool.

    Attributes:
        counters: under the keys of psycopg_pool (`COUNTED`); those in milliseconds are fractions.
        used: how long sessions had their connections.
        created: how long it took to open connections.
    """

    __slots__ = ("counters", "created", "used")

    def __init__(self) -> None:
        self.counters: dict[str, float] = dict.fromkeys(COUNTED, 0)
        self.used: Durations = Durations()
        self.created: Durations = Durations()

    def stats(self, lending: Lending[Any, Any]) -> dict[str, int]:
        """Return the statistics of a pool with these books, under the keys of psycopg_pool."""
        measures = {
            "pool_min": lending.min_size,
            "pool_max": lending.max_size,
            "pool_size": lending.size,
            "pool_available": len(lending.idle),
            "requests_waiting": len(lending.waiting),
        }
        return measures | {name: int(count) for name, count in self.counters.items() if count}
