"""Delivers events to subscribers in a thread of its own, so that no callback can delay the monitor."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.model.events import Event

logger: logging.Logger = logging.getLogger("pgroute")

QUEUE_SIZE = 1000
"""How many events may wait for slow subscribers; further ones are dropped and counted."""


class _Subscription:
    def __init__(self, fn: Callable[[Event], object]) -> None:
        self.fn = fn


class EventDispatcher:
    """A bounded queue of events, and the thread that delivers them in order. The first subscriber starts the thread."""

    def __init__(self) -> None:
        self.dropped: int = 0
        self._subscribers: list[_Subscription] = []
        # Not a Queue: an interrupted close() may leave its lock held, and the monitor's thread would wait for it.
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # a signal handler may close the router amid the lines of another call
        self._closed = False

    def subscribe(self, fn: Callable[[Event], object]) -> Callable[[], None]:
        """Call *fn* with each event from now on, and return an unsubscribe function.

        Raises:
            RuntimeError: the thread cannot be started.
        """
        mine = _Subscription(fn)  # one function may be subscribed more than once
        with self._lock:
            self._start()
            self._subscribers = [*self._subscribers, mine]
            if self._closed:  # maybe by a signal handler, before it knew of the thread
                self._queue.put(None)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = [s for s in self._subscribers if s is not mine]

        return unsubscribe

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._run, name="pgroute-events", daemon=True)
            thread.start()
            self._thread = thread

    def resume(self) -> None:
        """Start the thread if there are subscribers from before this process was forked.

        Raises:
            RuntimeError: it cannot be started.
        """
        with self._lock:
            if self._subscribers:
                self._start()

    def after_fork(self) -> None:
        """Start over in a forked child: the thread is the parent's, and another thread may have held the lock."""
        self._queue = queue.SimpleQueue()
        self._thread = None
        self._lock = threading.RLock()

    def put(self, events: tuple[Event, ...]) -> None:
        """Queue events; never blocks. Called in the monitor's thread."""
        if self._thread is None or self._closed:
            return
        for event in events:
            if self._queue.qsize() < QUEUE_SIZE:
                self._queue.put(event)
            else:
                self.dropped += 1

    def close(self, timeout: float = 1.0) -> None:
        """Deliver what is queued and end the thread, waiting at most *timeout* seconds. May be called again."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is None:
            return
        self._queue.put(None)
        if thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            for subscription in self._subscribers:
                try:
                    subscription.fn(event)
                except BaseException:
                    with contextlib.suppress(Exception):
                        logger.exception("a subscriber failed on %s", event)
