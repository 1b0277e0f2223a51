"""The events that lead from one snapshot to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.model.events import Event, EventKind
from pgroute.core.model.host import HostState

if TYPE_CHECKING:
    from pgroute.core.model.host import HostInfo
    from pgroute.core.topology.snapshot import Topology


def changes(old: Topology, new: Topology) -> tuple[Event, ...]:
    """Return the events that lead from one snapshot to the next, hosts first, in the order of the DSN."""
    at = new.at
    events: list[Event] = []
    before = {h.key: h for h in old.hosts}
    after = {h.key: h for h in new.hosts}
    for key, host in before.items():
        if key not in after:
            events.append(Event(EventKind.HOST_REMOVED, at, key, f"{key} left", before=host))
    for key, host in after.items():
        was = before.get(key)
        if was is None:
            events.append(Event(EventKind.HOST_ADDED, at, key, f"{key} joined", after=host))
            continue
        moved = None not in (was.address, host.address) and was.address != host.address
        untold = host.untold if host.untold != was.untold else ""
        if untold or moved or (was.state, was.role, was.read_only) != (host.state, host.role, host.read_only):
            kind = EventKind.HOST_CHANGED
            if host.state is HostState.STALE and was.state is not HostState.STALE:
                kind = EventKind.STALE_PRIMARY
            text = f"{key} {_told(was)} -> {_told(host, why=True)}"
            if moved:
                text += f", from {was.address} to {host.address}"
            if untold:
                text += f", {untold}"
            events.append(Event(kind, at, key, text, was, host))
    was_split = old.split_brain
    if new.split_brain and new.split_brain != was_split:
        names = " and ".join(sorted(map(str, new.split_brain)))
        events.append(Event(EventKind.SPLIT_BRAIN, at, None, f"split brain between {names}"))
    old_key = old.primary.key if old.primary else None
    new_key = new.primary.key if new.primary else None
    if new.primary and new_key != old_key:
        events.append(
            Event(
                EventKind.PRIMARY_CHANGED,
                at,
                new_key,
                f"primary is {new_key}, timeline {new.primary.timeline}",
            )
        )
    elif old.primary and new_key is None:
        events.append(Event(EventKind.PRIMARY_LOST, at, old_key, f"no primary: {old_key} was the last"))
    elif new.initial_scan_done and not old.initial_scan_done and not new.writable:
        told = ", ".join(f"{h.key} {_told(h, why=True)}" for h in new.hosts)
        events.append(Event(EventKind.NO_PRIMARY, at, None, f"nobody to write to: {told}"))
    return tuple(events)


def _told(host: HostInfo, *, why: bool = False) -> str:
    if host.role is None:
        return f"{host.state.value} ({host.reason})" if why and host.reason else host.state.value
    role = host.role.value
    if host.read_only and host.role.value == "primary":
        role = "read-only primary"
    text = f"{role} {host.state.value}"
    return f"{text} ({host.reason})" if why and host.reason and host.state is not HostState.UP else text
