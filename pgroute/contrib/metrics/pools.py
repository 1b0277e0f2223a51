"""The metrics of the pools, by role and host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.contrib.metrics.family import COUNTER, GAUGE, HISTOGRAM, SECONDS, Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgroute.contrib.metrics.family import Read, Value
    from pgroute.contrib.metrics.reading import Reading

_POOL = ("role", "host")


def _size(key: str) -> Read:
    """Read a size of each open pool."""
    return lambda reading: [
        ((role, str(host)), found.sizes[key])
        for (role, host), found in reading.hosts.items()
        if key in found.sizes
    ]


def _counter(key: str) -> Read:
    """Read a counter of the pools."""
    return lambda reading: [
        ((role, str(host)), found.counters.get(key, 0)) for (role, host), found in reading.hosts.items()
    ]


def _connections(reading: Reading) -> Iterator[tuple[tuple[str, ...], Value]]:
    for (role, host), found in reading.hosts.items():
        yield (role, str(host), "idle"), found.sizes.get("pool_available", 0)
        yield (role, str(host), "used"), found.sizes["in_use"]


POOLS: tuple[Family, ...] = (
    Family("connections", GAUGE, (*_POOL, "state"), "open connections that are idle or used", _connections),
    Family("connections_min", GAUGE, _POOL, "min_size of the open pool", _size("pool_min")),
    Family("connections_max", GAUGE, _POOL, "max_size of the open pool", _size("pool_max")),
    Family(
        "requests_waiting",
        GAUGE,
        _POOL,
        "callers in the queue of the pool",
        _size("requests_waiting"),
    ),
    Family(
        "requests_queued",
        COUNTER,
        _POOL,
        "requests that found no idle connection and had to queue",
        _counter("requests_queued"),
        "requests.queued",
        "{request}",
    ),
    Family(
        "connection_attempts",
        COUNTER,
        _POOL,
        "attempts to open a connection",
        _counter("connections_num"),
        "connection.attempts",
        "{attempt}",
    ),
    Family(
        "connection_errors",
        COUNTER,
        _POOL,
        "attempts to open a connection that failed",
        _counter("connections_errors"),
        "connection.errors",
        "{attempt}",
    ),
    Family(
        "connections_lost",
        COUNTER,
        _POOL,
        "connections that were found dead, or that their caller has lost",
        _counter("connections_lost"),
        "connections.lost",
        "{connection}",
    ),
    Family(
        "connection_create_seconds",
        HISTOGRAM,
        _POOL,
        "seconds that it took to open a connection",
        lambda r: [((role, str(host)), found.created) for (role, host), found in r.hosts.items()],
        unit=SECONDS,
    ),
)
