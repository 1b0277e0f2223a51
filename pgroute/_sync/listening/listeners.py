# Generated from pgroute/_async/listening/listeners.py by .ci/unasync.py: edit that file, not this one.
"""The listeners of a router, which its worker and its callers' threads share: each step under one lock."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pgroute.core.listening import Subscriptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import psycopg

    from pgroute._sync.listening.subscriber import Subscriber
    from pgroute.core.listening import Drop, Join, Resume
    from pgroute.core.model.notifications import Gap, Notification


class Listeners:
    """The listeners of one router, and whether a worker serves them; those with news are woken outside of the lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may close the router amid the lines of another call
        self._subscriptions: Subscriptions[Subscriber] = Subscriptions()
        self._served = False

    # Of the worker's life.

    @property
    def empty(self) -> bool:
        """Whether there are none."""
        return self._subscriptions.empty

    @property
    def idle(self) -> bool:
        """Whether there is no worker, and nothing is kept of any listener."""
        return not self._served and self._subscriptions.idle

    def begin_to_serve(self) -> bool:
        """Note that a worker serves them; return False if another one does."""
        with self._lock:
            if self._served:
                return False
            self._served = True
            return True

    def still_to_serve(self, end: Callable[[], object], *, closed: bool) -> bool:
        """Return whether the worker must go on.

        Args:
            end: called if not, before who comes later can start another worker.
            closed: the router is closed.
        """
        with self._lock:
            self._served = not (closed or self._subscriptions.empty)
            if not self._served:
                end()
            return self._served

    def unserved(self) -> None:
        """Note that the worker has failed."""
        self._served = False

    # Of their callers.

    def add(self, subscriber: Subscriber) -> bool:
        """Add a listener; return whether a worker serves it."""
        with self._lock:
            self._subscriptions.add(subscriber)
            return self._served

    def remove(self, subscriber: Subscriber) -> None:
        """Forget a listener."""
        with self._lock:
            self._subscriptions.remove(subscriber)

    def has_joined(self, subscriber: Subscriber) -> bool:
        """Return whether a listener receives what is sent from now on.

        Raises:
            psycopg.Error: it cannot listen.
        """
        with self._lock:
            if subscriber.failure is not None:
                raise subscriber.failure
            return self._subscriptions.has_joined(subscriber)

    def take(self, subscriber: Subscriber, taken: list[Notification | Gap]) -> None:
        """Move what came first for a listener, if anything waits, to a list."""
        with self._lock:
            subscriber.mailbox.take(taken)

    def put_back(self, subscriber: Subscriber, taken: list[Notification | Gap]) -> None:
        """Undo a `take` whose caller was interrupted."""
        with self._lock:
            subscriber.mailbox.put_back(taken)

    def wake_joining(self) -> None:
        """Wake those that have not joined, to look at what is known of the hosts."""
        with self._lock:
            waiting = tuple(self._subscriptions.joining)
        _wake(waiting)

    def wake_all(self) -> None:
        """Wake all, to see that the router is closed."""
        with self._lock:
            everyone = self._subscriptions.everyone
        _wake(everyone)

    # Of the connection.

    def step(self) -> Resume | Join[Subscriber] | Drop | None:
        """Return what to do on the connection; None: nothing, but to read."""
        with self._lock:
            return self._subscriptions.step()

    def resumed(self, channels: tuple[str, ...], since: float) -> tuple[Subscriber, ...]:
        """Note that a new connection listens, as `Subscriptions.resumed` does; return those to wake."""
        with self._lock:
            return self._subscriptions.resumed(channels, since)

    def joined(self, join: Join[Subscriber], now: float) -> None:
        """Note that the connection listens for a new listener, since *now* (monotonic seconds)."""
        with self._lock:
            self._subscriptions.joined(join, now)
        join.subscriber.changes.notify()

    def refused(self, subscriber: Subscriber, exc: psycopg.Error) -> None:
        """Forget a listener that cannot listen; it is told why."""
        with self._lock:
            subscriber.failure = exc
            self._subscriptions.remove(subscriber)
        subscriber.changes.notify()

    def refused_all(self, exc: psycopg.Error) -> None:
        """Forget all that have not joined; they are told why."""
        with self._lock:
            waiting = tuple(self._subscriptions.joining)
            for subscriber in waiting:
                subscriber.failure = exc
                self._subscriptions.remove(subscriber)
        _wake(waiting)

    def dropped(self, drop: Drop) -> None:
        """Note that the connection does not listen to some channels any more."""
        with self._lock:
            self._subscriptions.dropped(drop)

    def lost(self, reason: str, since: float) -> None:
        """Note that the connection was lost: whatever was sent since then (monotonic seconds) may be missing."""
        with self._lock:
            self._subscriptions.lost(reason, since)

    def deliver(self, notification: Notification, since: float) -> None:
        """Give a notification, which was committed after *since* (monotonic seconds), to its listeners."""
        with self._lock:
            receivers = self._subscriptions.deliver(notification, since)
        _wake(receivers)


def _wake(subscribers: Iterable[Subscriber]) -> None:
    for subscriber in subscribers:
        subscriber.changes.notify()
