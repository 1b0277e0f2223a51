"""The events that lead from one snapshot to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.model.events import Event, EventKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole

if TYPE_CHECKING:
    from pgroute.core.model.host import HostInfo
    from pgroute.core.topology.snapshot import Topology


def changes(old: Topology, new: Topology) -> tuple[Event, ...]:
    """Return the events that lead from one snapshot to the next: hosts first, in the order of the DSN."""
    events = [
        Event(EventKind.HOST_REMOVED, new.at, was.key, f"{was.key} left", before=was)
        for was in old.hosts
        if was.key not in new.by_key
    ]
    for host in new.hosts:
        was = old.by_key.get(host.key)
        if was is None:
            events.append(Event(EventKind.HOST_ADDED, new.at, host.key, f"{host.key} joined", after=host))
        elif changed := _host_changed(was, host, new.at):
            events.append(changed)
    if new.split_brain and new.split_brain != old.split_brain:
        names = " and ".join(sorted(map(str, new.split_brain)))
        events.append(Event(EventKind.SPLIT_BRAIN, new.at, None, f"split brain between {names}"))
    if changed := _primary_changed(old, new):
        events.append(changed)
    return tuple(events)


def _host_changed(was: HostInfo, host: HostInfo, at: float) -> Event | None:
    moved = None not in (was.address, host.address) and was.address != host.address
    degraded = host.degraded if host.degraded != was.degraded else ""
    same = (was.state, was.role, was.read_only, was.drained) == (
        host.state,
        host.role,
        host.read_only,
        host.drained,
    )
    if same and not moved and not degraded:
        return None
    text = f"{host.key} {_described(was)} -> {_described(host, why=True)}"
    if moved:
        text += f", from {was.address} to {host.address}"
    if degraded:
        text += f", {degraded}"
    stale = host.state is HostState.STALE and was.state is not HostState.STALE
    kind = EventKind.STALE_PRIMARY if stale else EventKind.HOST_CHANGED
    return Event(kind, at, host.key, text, was, host)


def _primary_changed(old: Topology, new: Topology) -> Event | None:
    was, now = old.primary, new.primary
    if now and (was is None or was.key != now.key):
        text = f"primary is {now.key}, timeline {now.timeline}"
        return Event(EventKind.PRIMARY_CHANGED, new.at, now.key, text)
    if was and now is None:
        return Event(EventKind.PRIMARY_LOST, new.at, was.key, f"no primary: {was.key} was the last")
    if new.initial_scan_done and not old.initial_scan_done and not new.writable:
        hosts = ", ".join(f"{h.key} {_described(h, why=True)}" for h in new.hosts)
        return Event(EventKind.NO_PRIMARY, new.at, None, f"no host can be written to: {hosts}")
    return None


def _described(host: HostInfo, *, why: bool = False) -> str:
    text = host.state.value
    if host.role is not None:
        read_only = host.read_only and host.role is HostRole.PRIMARY
        text = f"{'read-only ' if read_only else ''}{host.role.value} {text}"
    # A host that is up may have a remark, which changes nothing.
    remark = host.role is not None and host.state is HostState.UP
    return f"{text} ({host.reason})" if why and host.reason and not remark else text
