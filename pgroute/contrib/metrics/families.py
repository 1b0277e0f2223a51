"""The metrics: what each is called, what it means, and where it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgroute.core.model.durations import DurationCounts
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pgroute.contrib.metrics.reading import Reading
    from pgroute.core.model.host import HostInfo

Value = float | DurationCounts

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
SECONDS, BYTES = "s", "By"
_STATES = tuple(state for state in HostState if state is not HostState.DRAINING)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: in Prometheus, behind ``pgroute_``; a counter gets ``_total``.
        kind: GAUGE, COUNTER or HISTOGRAM.
        labels: besides the router's.
        meaning: in words.
        read: yields the values of the labels, and the value.
        otel: in OpenTelemetry, behind ``pgroute.``; empty: the conventions have a name for it.
        unit: SECONDS, BYTES, or as OpenTelemetry writes what is counted.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    read: Callable[[Reading], Iterable[tuple[tuple[str, ...], Value]]]
    otel: str = ""
    unit: str = ""


def _one(get: Callable[[Reading], Value]) -> Callable[[Reading], Iterable[tuple[tuple[str, ...], Value]]]:
    """Read a metric without labels."""
    return lambda reading: [((), get(reading))]


def _of_hosts(
    get: Callable[[HostInfo, Reading], float | None],
) -> Callable[[Reading], Iterable[tuple[tuple[str, ...], Value]]]:
    """Read a metric of each listed host; None: it has none now."""

    def read(reading: Reading) -> Iterator[tuple[tuple[str, ...], Value]]:
        for host in reading.topology.hosts:
            value = get(host, reading)
            if value is not None:
                yield (str(host.key),), value

    return read


def _size(key: str) -> Callable[[Reading], Iterable[tuple[tuple[str, ...], Value]]]:
    """Read a size of each open pool."""
    return lambda reading: [
        ((role, str(host)), found.sizes[key])
        for (role, host), found in reading.hosts.items()
        if key in found.sizes
    ]


def _counter(key: str) -> Callable[[Reading], Iterable[tuple[tuple[str, ...], Value]]]:
    """Read a counter of the pools."""
    return lambda reading: [
        ((role, str(host)), found.counters.get(key, 0)) for (role, host), found in reading.hosts.items()
    ]


def _connections(reading: Reading) -> Iterator[tuple[tuple[str, ...], Value]]:
    for (role, host), found in reading.hosts.items():
        yield (role, str(host), "idle"), found.sizes.get("pool_available", 0)
        yield (role, str(host), "used"), found.sizes["in_use"]


def _states(reading: Reading) -> Iterator[tuple[tuple[str, ...], Value]]:
    for host in reading.topology.hosts:
        for state in _STATES:
            yield (str(host.key), state.value), int(host.state is state)


def _staleness(host: HostInfo, reading: Reading) -> float | None:
    if host.role is not HostRole.STANDBY or host.current_as_of is None:
        return None
    return max(0.0, reading.now - host.current_as_of)


def _silence(host: HostInfo, reading: Reading) -> float:
    return 0.0 if host.silent_since is None else max(0.0, reading.now - host.silent_since)


_HOST = ("host",)
_POOL = ("role", "host")

FAMILIES: tuple[Family, ...] = (
    # The writers' host.
    Family(
        "open", GAUGE, (), "1 while sessions can be had of the router", _one(lambda r: int(r.open)), "open"
    ),
    Family(
        "writable",
        GAUGE,
        (),
        "1 while there is a host for writers",
        _one(lambda r: int(r.topology.writable)),
        "writable",
    ),
    Family(
        "readable",
        GAUGE,
        (),
        "1 while there is a host for readers, the primary included",
        _one(lambda r: int(r.topology.readable)),
        "readable",
    ),
    Family(
        "outage_seconds",
        GAUGE,
        (),
        "seconds for which there has been no host for writers; 0 while there is one",
        _one(lambda r: r.outage),
        "outage",
        SECONDS,
    ),
    Family(
        "without_writer_seconds",
        COUNTER,
        (),
        "seconds without a host for writers, in all, since the first one was seen",
        _one(lambda r: r.counts.without_writer_seconds),
        "without_writer.time",
        SECONDS,
    ),
    Family(
        "outages",
        COUNTER,
        (),
        "outages of the writers' host that are over",
        _one(lambda r: r.counts.outages),
        "outages",
        "{outage}",
    ),
    Family(
        "failovers",
        COUNTER,
        (),
        "how often writers came to another host than before",
        _one(lambda r: r.counts.failovers),
        "failovers",
        "{failover}",
    ),
    Family(
        "failover_duration_seconds",
        HISTOGRAM,
        (),
        "seconds without a host for writers in a failover",
        _one(lambda r: r.failover_times),
        "failover.duration",
        SECONDS,
    ),
    Family(
        "split_brain_hosts",
        GAUGE,
        (),
        "hosts that claim to be the primary while nothing decides between them; 0 if there is no split brain",
        _one(lambda r: len(r.topology.split_brain)),
        "split_brain.hosts",
        "{host}",
    ),
    Family(
        "events",
        COUNTER,
        ("kind",),
        "events, by kind as in EventKind, such as primary-lost, split-brain and stale-primary",
        lambda r: [((kind,), count) for kind, count in r.counts.events.items()],
        "events",
        "{event}",
    ),
    Family(
        "events_dropped",
        COUNTER,
        (),
        "events that slow subscribers did not get",
        _one(lambda r: r.events_dropped),
        "events.dropped",
        "{event}",
    ),
    # Sessions.
    Family(
        "session_wait_seconds",
        HISTOGRAM,
        ("role",),
        "seconds from asking for a session to its connection, the wait for a host included",
        lambda r: [((role,), waits) for role, waits in r.waits.items()],
        unit=SECONDS,
    ),
    Family(
        "session_use_seconds",
        HISTOGRAM,
        _POOL,
        "seconds for which sessions had their connections",
        lambda r: [((role, str(host)), found.used) for (role, host), found in r.hosts.items()],
        unit=SECONDS,
    ),
    Family(
        "sessions_waiting",
        GAUGE,
        ("role",),
        "callers that wait for a host; those in the queue of a pool are requests_waiting",
        lambda r: [((role,), count) for role, count in r.waiting.items()],
    ),
    Family(
        "session_errors",
        COUNTER,
        ("role", "error"),
        "sessions that could not be had, by the error",
        lambda r: [
            ((role, error), count)
            for role, errors in r.counts.session_errors.items()
            for error, count in errors.items()
        ],
        "session.errors",
        "{session}",
    ),
    Family(
        "sessions_aborted",
        COUNTER,
        (),
        "sessions in flight that were cut because their host was beyond hope",
        _one(lambda r: r.counts.sessions_aborted),
        "sessions.aborted",
        "{session}",
    ),
    Family(
        "retries",
        COUNTER,
        ("cause",),
        "transactions and statements that were run again, by cause",
        lambda r: [((cause,), count) for cause, count in r.counts.retries.items()],
        "retries",
        "{retry}",
    ),
    Family(
        "commits_unknown",
        COUNTER,
        (),
        "COMMITs whose outcome was not known at first; those that once= ran again are retries too",
        _one(lambda r: r.counts.commits_unknown),
        "commits.unknown",
        "{commit}",
    ),
    Family(
        "readers_on_primary",
        COUNTER,
        (),
        "readers that the primary has served though a standby was preferred",
        _one(lambda r: r.counts.readers_on_primary),
        "readers.on_primary",
        "{session}",
    ),
    Family(
        "position_waits",
        COUNTER,
        ("outcome",),
        "standbys asked for their position: far enough in time (met), or the next host was taken (behind)",
        lambda r: [((outcome,), count) for outcome, count in r.counts.position_waits.items()],
        "position.waits",
        "{wait}",
    ),
    Family(
        "position_wait_seconds",
        COUNTER,
        (),
        "seconds of these waits",
        _one(lambda r: r.counts.position_wait_seconds),
        "position.wait_time",
        SECONDS,
    ),
    # Pools.
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
    # Hosts.
    Family(
        "host_usable",
        GAUGE,
        _HOST,
        "1 while sessions may go to the host",
        _of_hosts(lambda host, _: int(host.usable)),
        "host.usable",
    ),
    Family(
        "host_primary",
        GAUGE,
        _HOST,
        "1 for the primary that the router uses",
        _of_hosts(lambda host, r: int(r.topology.primary is not None and r.topology.primary.key == host.key)),
        "host.primary",
    ),
    Family(
        "host_state",
        GAUGE,
        ("host", "state"),
        "1 for the state of the host, 0 for all others",
        _states,
        "host.state",
    ),
    Family(
        "host_staleness_seconds",
        GAUGE,
        _HOST,
        "seconds that a standby may be missing at most; absent for a primary and where it cannot be known",
        _of_hosts(_staleness),
        "host.staleness",
        SECONDS,
    ),
    Family(
        "host_lag_bytes",
        GAUGE,
        _HOST,
        "bytes of WAL that the primary has and the standby has not replayed; absent where not known",
        _of_hosts(lambda host, _: host.lag_bytes),
        "host.lag",
        BYTES,
    ),
    Family(
        "host_probe_seconds",
        GAUGE,
        _HOST,
        "seconds that the last probe took",
        _of_hosts(lambda host, _: host.rtt),
        "host.probe.duration",
        SECONDS,
    ),
    Family(
        "host_silent_seconds",
        GAUGE,
        _HOST,
        "seconds for which the host has not answered; 0 while it does",
        _of_hosts(_silence),
        "host.silent",
        SECONDS,
    ),
    Family(
        "host_timeline",
        GAUGE,
        _HOST,
        "timeline of the host, of a standby a lower bound; absent where not reported",
        _of_hosts(lambda host, _: host.timeline),
        "host.timeline",
    ),
)
"""In the order of docs/metrics.md."""
