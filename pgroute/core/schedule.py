"""When a host is asked next, and whose sessions are beyond hope."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole

if TYPE_CHECKING:
    from random import Random

    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology

CONNECT_GAP = 0.2
"""Seconds between two connection attempts to a host, at least."""

REJECTED_GAP = 5.0
"""Seconds between two attempts at a host that refused the credentials (lock-outs), at least."""

DOUBT = 0.5
"""Seconds for which a pool that lost connections leaves it to the probe to find out why, at most."""

RELEASE_AFTER = 0.15
"""Seconds that an old primary has, once a higher timeline was seen, to show that it is alive; it is asked at once.

A distant one has three times what its last answer took.
"""

_FASTEST = 0.02
_SLOWEST = 0.5
_OUTAGE_SHARE = 0.01
_STARTING_SHARE = 0.1


def probe_delay(topology: Topology, key: HostKey, options: ProbeOptions, now: float, rng: Random) -> float:
    """Return the seconds from one probe of a host with an open connection to the next.

    With a primary, or where none is to be expected: the interval. Without: 1 % of the outage so far, between 20 ms and
    500 ms, so that the router adds next to nothing to an outage and a thousand clients do not storm the new primary.
    Jittered by a tenth.
    """
    if key in topology.urgent:
        return 0.0
    delay = options.interval
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

    *kicked*: something calls for one now. A host with too many connections is not helped by more of them. One that is
    starting is tried soon, and the more rarely the longer it stays so: with ``hot_standby=off`` that is for ever.
    """
    host = topology.host(key)
    if host is not None and host.state is HostState.REJECTED:
        return REJECTED_GAP
    if kicked and not (host is not None and host.state is HostState.BUSY):
        return CONNECT_GAP
    delay = probe_delay(topology, key, options, now, rng)
    if host is not None and host.state is HostState.STARTING:
        delay = min(delay, (now - host.since) * _STARTING_SHARE)
    return max(CONNECT_GAP * (1.0 + 0.1 * rng.random()), delay)


def release_after(host: HostInfo) -> float:
    """Return the seconds that an old primary has to show that it is alive, once a higher timeline was seen."""
    return max(RELEASE_AFTER, 3.0 * (host.rtt or 0.0))


def hopeless(topology: Topology, options: ProbeOptions, now: float) -> dict[HostKey, str]:
    """Return the hosts whose sessions in flight should be aborted now, and why.

    A host that no longer answers while another serves: at once when it was the primary and the other is one on a
    higher timeline, else after `abort_after`. A stale primary that still answers: only with `abort_stale`.
    """
    out: dict[HostKey, str] = {}
    primary = topology.primary
    for host in topology.hosts:
        # One that is shutting down may let the sessions that it has go on for long.
        if host.state is HostState.STALE or (host.state is HostState.STARTING and _overtaken(host, primary)):
            if primary is not None and options.abort_stale:
                out[host.key] = f"{host.key} is a stale primary and {primary.key} is the primary"
        elif host.silent_since is not None:
            why = overdue(host, host.silent_since, topology, options, now)
            if why:
                out[host.key] = f"{host.key} {why}"
    return out


def overdue(
    host: HostInfo, silent_since: float, topology: Topology, options: ProbeOptions, now: float
) -> str:
    """Return why the sessions in flight at a silent host should be aborted now, empty if they should not.

    Args:
        host: what is known of it; it need not be listed any more.
        silent_since: monotonic seconds of the first attempt since its last word.
        topology: tells who serves.
        options: tell `abort_after`.
        now: monotonic seconds.
    """
    primary = topology.primary
    others = [h for h in topology.hosts if h.usable and h.state is HostState.UP]
    if host.role is HostRole.PRIMARY:
        others = [h for h in others if h.role is HostRole.PRIMARY]
    if not others:
        return ""
    overtaken = primary in others and _overtaken(host, primary)
    silent = now - silent_since
    late = options.abort_after is not None and silent >= options.abort_after
    return f"has not answered for {silent:.1f} s and {others[0].key} serves" if overtaken or late else ""


def _overtaken(host: HostInfo, primary: HostInfo | None) -> bool:
    """Whether a host was the primary before the present one, by their timelines."""
    return (
        host.role is HostRole.PRIMARY
        and primary is not None
        and host.timeline is not None
        and primary.timeline is not None
        and primary.timeline > host.timeline
    )


def parted(old: Topology, new: Topology) -> list[HostInfo]:
    """Return the hosts, as they were, whose name stands for them no more: they left, or it moved to another address.

    Args:
        old: the snapshot before.
        new: the one after.
    """
    out = []
    for was in old.hosts:
        now = new.by_key.get(was.key)
        if now is None or (None not in (was.address, now.address) and was.address != now.address):
            out.append(was)
    return out


def forsaken(old: Topology, new: Topology) -> dict[HostKey, str]:
    """Return the hosts that did not answer when their name ceased to stand for them: their sessions are beyond hope.

    Args:
        old: the snapshot before.
        new: the one after.
    """
    out: dict[HostKey, str] = {}
    for was in parted(old, new):
        if was.silent_since is not None:
            now = new.by_key.get(was.key)
            out[was.key] = (
                f"{was.key} did not answer, and is not listed any more"
                if now is None
                else f"{was.key} did not answer at {was.address}, and is at {now.address} now"
            )
    return out
