"""What a router tells its subscribers: events, their kinds and log levels."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgroute.core.model.host import HostState

if TYPE_CHECKING:
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey


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
