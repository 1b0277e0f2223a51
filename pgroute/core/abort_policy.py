"""Whose sessions in flight are aborted: those at a silent host while another serves, and at a stale primary on request.

The same rules apply to the listed hosts of a Topology and to draining hosts, whose address their name has left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole
from pgroute.core.topology.draining import departures

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.model.host import HostInfo
    from pgroute.core.topology.snapshot import Topology

RELEASE_AFTER = 0.15
"""Seconds that an old primary has to answer once a higher timeline was seen, at least. It is probed at once."""

_RTTS = 3.0


def release_after(host: HostInfo) -> float:
    """Return the seconds that an old primary has to answer once a higher timeline was seen: three round trips."""
    return max(RELEASE_AFTER, _RTTS * (host.rtt or 0.0))


def sessions_to_abort(
    hosts: Iterable[HostInfo], topology: Topology, options: ProbeOptions, now: float
) -> list[tuple[HostInfo, str]]:
    """Return the hosts whose sessions in flight should be aborted now, each with the reason.

    A host that does not answer while another serves: at once if it was the primary and the other one is a primary on a
    higher timeline, else after `abort_after`. A stale primary that answers: only with `abort_stale`.

    Args:
        hosts: listed or draining hosts.
        topology: tells which hosts serve.
        options: give `abort_after` and `abort_stale`.
        now: monotonic seconds.
    """
    out = []
    for host in hosts:
        if host.silent_since is not None:
            why = _silent_too_long(host, now - host.silent_since, topology, options)
        else:
            why = _stale(host, topology.primary) if options.abort_stale else ""
        if why:
            # A draining host has a reason only when another server has taken its address.
            gone = host.state is HostState.DRAINING and host.reason
            out.append((host, f"{'the server that was ' if gone else ''}{host.key} {why}"))
    return out


def silent_departures(old: Topology, new: Topology) -> list[tuple[HostInfo, str]]:
    """Return the hosts that did not answer when their name left them, each with the reason to abort its sessions.

    The new DNS answer confirms what the probes suggested, so there is nothing to wait for.

    Args:
        old: the snapshot before.
        new: the one after.
    """
    out = []
    for was in departures(old, new):
        if was.silent_since is not None:
            now = new.by_key.get(was.key)
            out.append(
                (was, f"{was.key} did not answer, and is not listed any more")
                if now is None
                else (was, f"{was.key} did not answer at {was.address}, and is at {now.address} now")
            )
    return out


def _silent_too_long(host: HostInfo, silent: float, topology: Topology, options: ProbeOptions) -> str:
    primary = topology.primary
    serving = [h for h in topology.hosts if h.usable and h.state is HostState.UP]
    if host.role is HostRole.PRIMARY:
        serving = [h for h in serving if h.role is HostRole.PRIMARY]
    if not serving:
        return ""
    superseded = primary in serving and _superseded(host, primary)
    late = options.abort_after is not None and silent >= options.abort_after
    return f"has not answered for {silent:.1f} s and {serving[0].key} serves" if superseded or late else ""


def _stale(host: HostInfo, primary: HostInfo | None) -> str:
    if primary is None:
        return ""
    match host.state:
        case HostState.STALE:
            stale = True
        case HostState.STARTING:  # a server that is shutting down may let its sessions go on for long
            stale = _superseded(host, primary)
        case HostState.DRAINING:
            stale = host.last_seen is not None and _superseded(host, primary)
        case _:
            stale = False
    return f"is a stale primary and {primary.key} is the primary" if stale else ""


def _superseded(host: HostInfo, primary: HostInfo | None) -> bool:
    """Whether a host was the primary before the current one, by their timelines."""
    return (
        host.role is HostRole.PRIMARY
        and primary is not None
        and host.timeline is not None
        and primary.timeline is not None
        and primary.timeline > host.timeline
    )
