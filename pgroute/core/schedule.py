"""When a host is probed and connected to next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.model.host import HostState

if TYPE_CHECKING:
    from random import Random

    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology

CONNECT_GAP = 0.2
"""Seconds between two connection attempts to a host, at least."""

REJECTED_GAP = 5.0
"""Seconds between two attempts at a host that refused the credentials, at least: more often may lock the account."""

CREDENTIALS_GAP = 1.0
"""Seconds between two attempts at a host for which the credentials function gave nothing, at least."""

DOUBT = 0.5
"""Seconds that a pool which lost connections waits for the probe to find out why, at most."""

_FASTEST = 0.02
_SLOWEST = 0.5
_OUTAGE_SHARE = 0.01
_STARTING_SHARE = 0.1


def probe_delay(topology: Topology, key: HostKey, interval: float, now: float, rng: Random) -> float:
    """Return the seconds from one probe of a host on an open connection to the next.

    With a primary, or where none is expected: the interval. During an outage: 1 % of its length so far, between 20 ms
    and 500 ms. So the router adds little to an outage, and a thousand clients do not storm the new primary. Jittered by
    a tenth.

    Args:
        topology: tells whether there is an outage, and which hosts are urgent.
        key: the host.
        interval: seconds from one probe to the next while there is no outage.
        now: monotonic seconds.
        rng: the source of the jitter.
    """
    if key in topology.urgent:
        return 0.0
    delay = interval
    if (outage := topology.outage(now)) is not None:
        delay = min(delay, max(_FASTEST, min(_SLOWEST, outage * _OUTAGE_SHARE)))
    return delay * (0.9 + 0.2 * rng.random())


def connect_delay(
    topology: Topology,
    key: HostKey,
    options: ProbeOptions,
    now: float,
    rng: Random,
    *,
    kicked: bool = False,
) -> float:
    """Return the seconds from one connection attempt at a host to the next.

    More connections do not help a host that has too many. A host that is starting is tried soon, and less often the
    longer it takes: with ``hot_standby=off`` it never finishes.

    Args:
        topology: tells the state of the host.
        key: the host.
        options: give the interval.
        now: monotonic seconds.
        rng: the source of the jitter.
        kicked: something calls for an attempt now.
    """
    host = topology.host(key)
    if host is not None and host.state is HostState.REJECTED:
        return REJECTED_GAP
    if kicked and not (host is not None and host.state is HostState.BUSY):
        return CONNECT_GAP
    delay = probe_delay(topology, key, options.interval, now, rng)
    if host is not None and host.state is HostState.STARTING:
        delay = min(delay, (now - host.since) * _STARTING_SHARE)
    return max(CONNECT_GAP * (1.0 + 0.1 * rng.random()), delay)
