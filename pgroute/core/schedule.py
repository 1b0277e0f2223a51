"""When a host is probed and connected to next."""

from __future__ import annotations

from collections import deque
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

DEFAULT_SLOTS = 100
"""The connections that a server is taken to have until it was asked: PostgreSQL's default."""

LONGEST_SPREAD = 1.4
"""Seconds over which the processes of the largest fleet spread their logins: 10,000 of them are 7,000 a second."""

_SMALL = 400
"""A server with no more connections than that gets as many logins at once, and nobody waits."""
_LOGINS = 2000.0
"""Connections of a larger server per second of the spread: 0.3 s for 1000."""
_PROBES = 20_000.0
"""Probes per second that a fleet may send to a host during an outage."""
_JITTER = 0.1
"""Share of an interval by which it is longer or shorter, at most."""
_BEATS = 4
_FASTEST = 0.02
_SLOWEST = 0.5
_OUTAGE_SHARE = 0.01
_SHARED_FASTEST = 0.005
"""As `_FASTEST`, for a watch that processes share."""
_SHARED_SHARE = 0.001
"""As `_OUTAGE_SHARE`, for a watch that processes share."""
_MOST_SPARED = 4
"""A server with many connections is asked more often by a process that watches for others: for so many at most."""
_STARTING_SHARE = 0.1


def login_spread(slots: int) -> float:
    """Return the seconds over which a fleet spreads its first connections to a host that it comes to.

    A process knows nothing of the others. But there are no more of them than the server has connections for, and
    whoever has many has a server that is made for them.

    Args:
        slots: the server's max_connections.
    """
    return min(LONGEST_SPREAD, max(0, slots - _SMALL) / _LOGINS)


def steady(topology: Topology, key: HostKey, now: float) -> bool:
    """Return whether nothing calls for a probe of the host before its interval is over."""
    return key not in topology.urgent and topology.outage(now) is None


def probe_delay(
    topology: Topology,
    key: HostKey,
    interval: float,
    now: float,
    rng: Random,
    *,
    slots: int = DEFAULT_SLOTS,
    processes: int | None = None,
) -> float:
    """Return the seconds from one probe of a host on an open connection to the next.

    With a primary, or where none is expected: the interval. During an outage: 1 % of its length so far, between 20 ms
    and 500 ms, or for a shared watch 0.1 %, between 5 ms and 500 ms. So the router adds little to an outage. Where a
    server has many connections, there may be as many clients, and each asks less often. Jittered by a tenth.

    Args:
        topology: tells whether there is an outage, and which hosts are urgent.
        key: the host.
        interval: seconds from one probe to the next while there is no outage.
        now: monotonic seconds.
        rng: the source of the jitter.
        slots: the server's max_connections.
        processes: as for `pace`.
    """
    if key in topology.urgent:
        return 0.0
    return jittered(pace(interval, topology.outage(now), slots=slots, processes=processes), rng)


def pace(
    interval: float, outage: float | None, *, slots: int = DEFAULT_SLOTS, processes: int | None = None
) -> float:
    """Return the seconds from one probe of a host that is not urgent to the next, without jitter; see `probe_delay`.

    A shared watch asks more often in an outage. What a server with many connections is spared depends on how many
    processes do not ask.

    Args:
        interval: seconds from one probe to the next while there is no outage.
        outage: seconds that it lasts, None while there is none.
        slots: the server's max_connections.
        processes: how many processes know what this one observes, itself included; None: each process may ask by
            itself.
    """
    if outage is None:
        return interval
    fastest, share = (_FASTEST, _OUTAGE_SHARE) if processes is None else (_SHARED_FASTEST, _SHARED_SHARE)
    spared = slots / _PROBES / min(processes or 1, _MOST_SPARED)
    return min(interval, max(fastest, min(_SLOWEST, max(outage * share, spared))))


def jittered(delay: float, rng: Random) -> float:
    """Return a delay that is up to a tenth shorter or longer."""
    return delay * (1.0 + _JITTER * (2.0 * rng.random() - 1.0))


class Beat:
    """The moments at which a process probes its hosts together, while there is no outage.

    A process that wakes up once for all hosts needs half the time of one that wakes up for each. Each interval has
    moments of its own, which are as irregular as `probe_delay`. A host that was probed at another time is led to them.
    """

    def __init__(self) -> None:
        self._moments: dict[float, deque[float]] = {}

    def next(self, asked_at: float, interval: float, rng: Random) -> float:
        """Return when a host is probed next, in monotonic seconds: at one of the moments if the interval permits.

        Args:
            asked_at: monotonic seconds of its last probe.
            interval: seconds from one probe to the next; a tenth more or less is permitted.
            rng: the source of the jitter.
        """
        due = asked_at + interval
        moments = self._moments.get(interval)
        if moments is None or due - moments[-1] > 2.0 * interval:
            self._forget(asked_at)
            moments = self._moments[interval] = deque([asked_at + jittered(interval, rng)], _BEATS)
        while due - moments[-1] > 0.5 * interval:
            moments.append(moments[-1] + jittered(interval, rng))
        nearest = min(moments, key=lambda moment: abs(moment - due))
        return min(max(nearest, due - _JITTER * interval), due + _JITTER * interval)

    def _forget(self, now: float) -> None:
        self._moments = {
            interval: moments for interval, moments in self._moments.items() if moments[-1] > now
        }


def connect_delay(
    topology: Topology,
    key: HostKey,
    options: ProbeOptions,
    now: float,
    rng: Random,
    *,
    kicked: bool = False,
    slots: int = DEFAULT_SLOTS,
) -> float:
    """Return the seconds from one connection attempt at a host to the next.

    More connections do not help a host that has too many. A host that is starting is tried soon, and less often the
    longer it takes: with ``hot_standby=off`` it never finishes. Where a server has many connections, the attempts of as
    many clients are spread over twice the time of `login_spread`: those of their pools follow.

    Args:
        topology: tells the state of the host.
        key: the host.
        options: give the interval.
        now: monotonic seconds.
        rng: the source of the jitter.
        kicked: something calls for an attempt now.
        slots: the server's max_connections.
    """
    host = topology.host(key)
    if host is not None and host.state is HostState.REJECTED:
        return REJECTED_GAP
    if kicked and not (host is not None and host.state is HostState.BUSY):
        return CONNECT_GAP
    delay = probe_delay(topology, key, options.interval, now, rng)
    if host is not None and host.state is HostState.STARTING:
        delay = min(delay, (now - host.since) * _STARTING_SHARE)
    roll = rng.random()
    return max(CONNECT_GAP * (1.0 + 0.1 * roll), delay, 2 * login_spread(slots) * (0.5 + roll))
