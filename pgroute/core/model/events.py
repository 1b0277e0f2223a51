"""The events that a router delivers to its subscribers and writes to the log."""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass

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
        PRIMARY_CHANGED: there is a primary, or another one. WARNING, or INFO for the first one that a router sees.
        PRIMARY_LOST: there is no primary any more. WARNING.
        NO_PRIMARY: every host was checked for the first time, and none can be written to. WARNING.
        SPLIT_BRAIN: several hosts claim to be the primary and nothing decides between them. ERROR.
        STALE_PRIMARY: a host was recognised as an old primary. ERROR.
        SESSIONS_ABORTED: the connections of sessions in flight were cut. WARNING.
        ADVICE: the adviser says something else of a host or of the cluster, is silent, or answers again. INFO, or
            WARNING if it is silent or paused.
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
    ADVICE = "advice"


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
        level: the level of the logging module at which it is logged.
    """

    kind: EventKind
    at: float
    host: HostKey | None
    text: str
    before: HostInfo | None = None
    after: HostInfo | None = None
    level: int = logging.INFO

    def __str__(self) -> str:
        return self.text
