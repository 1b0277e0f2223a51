"""What changed between two snapshots, as a list of events for people and programs."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgroute.core.topology.hosts import HostState

if TYPE_CHECKING:
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.hosts import HostInfo
    from pgroute.core.topology.transition import Topology


class EventKind(enum.Enum):
    """The kinds of events that `Router.subscribe` delivers, and at which level they are logged.

    Attributes:
        HOST_ADDED: a host is listed that was not. INFO.
        HOST_REMOVED: a host is not listed any more. INFO.
        HOST_CHANGED: its state, role, read-only default or address is another, or it no longer tells its timeline or
            system identifier. INFO, or WARNING if it refuses logins.
        PRIMARY_CHANGED: there is a primary where there was none, or another one. INFO.
        PRIMARY_LOST: there is none any more. WARNING.
        NO_PRIMARY: every host was asked for the first time, and none can be written to. WARNING.
        SPLIT_BRAIN: several hosts claim to be the primary, and nothing decides between them. ERROR.
        STALE_PRIMARY: an old primary was recognised as one. ERROR.
        SESSIONS_ABORTED: sessions in flight at a host were cut. WARNING.
    """

    HOST_ADDED = "host-added"
    HOST_REMOVED = "host-removed"
    HOST_CHANGED = "host-changed"
    PRIMARY_CHANGED = "primary-changed"
    PRIMARY_LOST = "primary-lost"
    NO_PRIMARY = "no-primary"
    SPLIT_BRAIN = "split-brain"
    STALE_PRIMARY = "stale-primary"
    SESSIONS_ABORTED = "sessions-aborted"


_ERRORS = frozenset({EventKind.SPLIT_BRAIN, EventKind.STALE_PRIMARY})
_WARNINGS = frozenset({EventKind.PRIMARY_LOST, EventKind.NO_PRIMARY, EventKind.SESSIONS_ABORTED})


@dataclass(frozen=True, slots=True)
class Event:
    """Something changed.

    Attributes:
        kind: what.
        at: monotonic seconds.
        host: the host concerned; for PRIMARY_CHANGED the new primary.
        text: one line for a person.
        before: the host's view before, where there is one.
        after: the host's view after, where there is one.
    """

    kind: EventKind
    at: float
    host: HostKey | None
    text: str
    before: HostInfo | None = None
    after: HostInfo | None = None

    @property
    def level(self) -> int:
        """How it is logged, one of the logging module's levels."""
        if self.kind in _ERRORS:
            return logging.ERROR
        locked = self.after is not None and self.after.state is HostState.REJECTED
        return logging.WARNING if self.kind in _WARNINGS or locked else logging.INFO

    def __str__(self) -> str:
        return self.text


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
