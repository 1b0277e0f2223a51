"""The events that a router delivers to its subscribers: kinds, contents, log levels."""

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
    """The kinds of events that `Router.subscribe` delivers, and the level at which each is logged.

    Attributes:
        HOST_ADDED: a host joined the list. INFO.
        HOST_REMOVED: a host left the list. INFO.
        HOST_CHANGED: the state, role, read-only default or address of a host changed, or it stopped reporting some
            data. INFO, or WARNING if it refuses logins.
        PRIMARY_CHANGED: there is a primary, or another one. INFO.
        PRIMARY_LOST: there is no primary any more. WARNING.
        NO_PRIMARY: every host was checked for the first time, and none can be written to. WARNING.
        SPLIT_BRAIN: several hosts claim to be the primary and nothing decides between them. ERROR.
        STALE_PRIMARY: a host was recognised as an old primary. ERROR.
        SESSIONS_ABORTED: the connections of sessions in flight were cut. WARNING.
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
        kind: what changed.
        at: monotonic seconds of the change.
        host: the host concerned, for PRIMARY_CHANGED the new primary; None if there are several.
        text: one line for a person.
        before: the host before, None if there is nothing to show.
        after: the host afterwards, None if there is nothing to show.
    """

    kind: EventKind
    at: float
    host: HostKey | None
    text: str
    before: HostInfo | None = None
    after: HostInfo | None = None

    @property
    def level(self) -> int:
        """The level of the logging module at which it is logged."""
        if self.kind in _ERRORS:
            return logging.ERROR
        locked = self.after is not None and self.after.state is HostState.REJECTED
        return logging.WARNING if self.kind in _WARNINGS or locked else logging.INFO

    def __str__(self) -> str:
        return self.text
