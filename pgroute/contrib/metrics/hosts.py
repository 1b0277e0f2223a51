"""The metrics of the hosts, as the topology of an open router has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.contrib.metrics.family import BYTES, GAUGE, SECONDS, Family
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pgroute.contrib.metrics.family import Read, Value
    from pgroute.contrib.metrics.reading import Reading
    from pgroute.core.model.host import HostInfo

_HOST = ("host",)
_STATES = tuple(state for state in HostState if state is not HostState.DRAINING)


def _of_hosts(
    get: Callable[[HostInfo, Reading], float | None],
) -> Read:
    """Read a metric of each host that is watched; None: it has none now."""

    def read(reading: Reading) -> Iterator[tuple[tuple[str, ...], Value]]:
        for host in reading.watched:
            value = get(host, reading)
            if value is not None:
                yield (str(host.key),), value

    return read


def _states(reading: Reading) -> Iterator[tuple[tuple[str, ...], Value]]:
    for host in reading.watched:
        for state in _STATES:
            yield (str(host.key), state.value), int(host.state is state)


def _staleness(host: HostInfo, reading: Reading) -> float | None:
    if host.role is not HostRole.STANDBY or host.current_as_of is None:
        return None
    return max(0.0, reading.now - host.current_as_of)


def _silence(host: HostInfo, reading: Reading) -> float:
    return 0.0 if host.silent_since is None else max(0.0, reading.now - host.silent_since)


HOSTS: tuple[Family, ...] = (
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
        states=True,
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
