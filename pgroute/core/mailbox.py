"""What waits for one listener: notifications up to a limit, and the gaps between them."""

from __future__ import annotations

from collections import deque

from pgroute.core.model.notifications import Gap, Notification

_MOST_REASON = 500
"""Characters of a reason that several outages share."""


class Mailbox:
    """What waits for one listener, in order, and at most *limit* notifications.

    When it is full, it drops whatever comes until the listener has taken all that waits. The Gap that says so is made
    when it is taken: what is sent after that is kept again.

    Args:
        limit: the most notifications that wait.
    """

    __slots__ = ("_dropped", "_full_since", "_items", "_limit", "_waiting")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[Notification | Gap] = deque()
        self._waiting = 0
        self._full_since: float | None = None
        self._dropped = 0

    def put(self, notification: Notification, since: float) -> None:
        """Add a notification, or drop it.

        Args:
            notification: what came.
            since: monotonic seconds; it was committed later than that.
        """
        if self._full_since is None and self._waiting >= self._limit:
            self._full_since = since
        if self._full_since is not None:
            self._dropped += 1
            return
        self._items.append(notification)
        self._waiting += 1

    def add_gap(self, reason: str, since: float) -> None:
        """Add that notifications since then may be missing up to now."""
        if self._full_since is not None:
            self._full_since = min(self._full_since, since)  # that gap goes on, and covers this one
        elif self._items and isinstance(last := self._items[-1], Gap):
            text = f"{last.reason}; then {reason}"[:_MOST_REASON]
            self._items[-1] = Gap(text, min(last.since, since), last.dropped)
        else:
            self._items.append(Gap(reason, since))

    def take(self, taken: list[Notification | Gap]) -> None:
        """Move what came first, if anything waits, to a list; an interrupt leaves it in one place at least."""
        if self._items:
            taken.append(self._items[0])
            self._items.popleft()
            self._waiting -= isinstance(taken[0], Notification)
        elif self._full_since is not None:
            text = f"the listener was slow: {self._limit} notifications waited, and {self._dropped} more were dropped"
            taken.append(Gap(text, self._full_since, self._dropped))
            self._full_since, self._dropped = None, 0

    def put_back(self, taken: list[Notification | Gap]) -> None:
        """Undo a `take`, which may have been interrupted halfway."""
        if taken and not (self._items and self._items[0] is taken[0]):
            self._items.appendleft(taken[0])
        self._waiting = sum(isinstance(item, Notification) for item in self._items)
