"""The events that lead from one snapshot to the next."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pgroute.core.model.events import Event, EventKind
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole
from pgroute.core.topology.advice_changes import advice_changes

if TYPE_CHECKING:
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology


def changes(old: Topology, new: Topology, *, starting: bool = False) -> tuple[Event, ...]:
    """Return the events that lead from one snapshot to the next: hosts first, in the order of the DSN.

    Args:
        old: the snapshot before.
        new: the one after.
        starting: not all hosts had been checked before.
    """
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
        text = f"split brain between {names}"
        events.append(Event(EventKind.SPLIT_BRAIN, new.at, None, text, level=logging.ERROR))
    if changed := _primary_changed(old, new, starting=starting):
        events.append(changed)
    return (*events, *advice_changes(old, new))


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
    level = logging.WARNING if host.state is HostState.REJECTED else logging.INFO
    return Event(kind, at, host.key, text, was, host, logging.ERROR if stale else level)


def _primary_changed(old: Topology, new: Topology, *, starting: bool) -> Event | None:
    was, now = old.primary, new.primary
    if now and (was is None or was.key != now.key):
        # Whoever was warned that there is none is told at the same level that there is one.
        level = logging.INFO if starting else logging.WARNING
        text = f"primary is {now.key}, timeline {now.timeline}{'' if starting else _before(old, new)}"
        return Event(EventKind.PRIMARY_CHANGED, new.at, now.key, text, level=level)
    if was and now is None:
        text = f"no primary: {was.key} was the last, and {_became(new.by_key.get(was.key))}"
        return Event(EventKind.PRIMARY_LOST, new.at, was.key, text, level=logging.WARNING)
    if new.initial_scan_done and not old.initial_scan_done and not new.writable:
        hosts = ", ".join(f"{h.key} {_described(h, why=True)}" for h in new.hosts)
        text = f"no host can be written to: {hosts}"
        return Event(EventKind.NO_PRIMARY, new.at, None, text, level=logging.WARNING)
    return None


def _became(host: HostInfo | None) -> str:
    if host is None:
        return "has left"
    if host.role is HostRole.STANDBY and host.usable:
        return "is a standby now"
    return f"is {host.state.value}" + (f" ({host.reason})" if host.reason else "")


def _before(old: Topology, new: Topology) -> str:
    """Tell what a new primary follows: another one, or some time without one."""
    if old.primary is not None:
        return f", after {old.primary.key}"
    return "" if old.primary_lost_at is None else f", after {new.at - old.primary_lost_at:.1f} s without one"


def _described(host: HostInfo, *, why: bool = False) -> str:
    text = host.state.value
    if host.role is not None:
        read_only = host.read_only and host.role is HostRole.PRIMARY
        text = f"{'read-only ' if read_only else ''}{host.role.value} {text}"
    # A host that is up may have a remark, which changes nothing.
    remark = host.role is not None and host.state is HostState.UP
    return f"{text} ({host.reason})" if why and host.reason and not remark else text


def routes(topology: Topology) -> list[tuple[HostKey, int, bool]]:
    """Return what decides where sessions go and which pools stay. While it is the same, no waiter has to be woken."""
    return [(h.key, h.generation, h.usable) for h in topology.hosts]
