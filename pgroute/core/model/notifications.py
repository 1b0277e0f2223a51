"""What a listener receives: notifications, and gaps between them."""

from __future__ import annotations

from pgroute.core.late_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification, as NOTIFY or pg_notify() has sent it.

    Attributes:
        channel: the channel.
        payload: the text that came with it; empty if there was none. Bytes that are no UTF-8, which a database in
            SQL_ASCII may send, are surrogate escapes.
        pid: the server process that sent it.
    """

    channel: str
    payload: str
    pid: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Notifications sent from *since* until now may be missing; those sent from now on are not.

    Look up in the tables what may have changed meanwhile.

    Attributes:
        reason: why, in words.
        since: monotonic seconds; whatever was committed before has been received.
        dropped: how many were dropped because the listener did not take them in time; 0 if that was not the reason.
    """

    reason: str
    since: float
    dropped: int = 0


for _public in (Gap, Notification):
    _public.__module__ = "pgroute"
del _public
