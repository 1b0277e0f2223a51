"""What a router keeps of one listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute._acompat import AsyncChanges
from pgroute.core.mailbox import Mailbox

if TYPE_CHECKING:
    import psycopg


class AsyncSubscriber:
    """One listener.

    Args:
        channels: to which it listens.
        limit: the most notifications that wait for it.

    Attributes:
        channels: as given.
        mailbox: what waits for it; used under the hub's lock.
        changes: notified when there is something for it.
        failure: why it cannot listen; None: it can, or will.
    """

    __slots__ = ("changes", "channels", "failure", "mailbox")

    def __init__(self, channels: tuple[str, ...], limit: int) -> None:
        self.channels: tuple[str, ...] = channels
        self.mailbox: Mailbox = Mailbox(limit)
        self.changes: AsyncChanges = AsyncChanges()
        self.failure: psycopg.Error | None = None
