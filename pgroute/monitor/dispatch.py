"""Delivers events to subscribers from a thread of its own, so that no callback can hold up the watch."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.events import Event

logger = logging.getLogger("pgroute")

QUEUE_SIZE = 1000
"""Events that may wait for slow subscribers; what comes on top is dropped and counted."""


class Dispatcher:
    """A bounded queue of events and the thread that hands them out, in order; begins with the first subscriber."""

    def __init__(self) -> None:
        self.dropped = 0
        self._subscribers: list[Callable[[Event], object]] = []
        self._queue: queue.Queue[Event | None] = queue.Queue(QUEUE_SIZE)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def subscribe(self, fn: Callable[[Event], object]) -> Callable[[], None]:
        """Have *fn* called with each event from now on; return what ends it."""
        with self._lock:
            self._subscribers = [*self._subscribers, fn]
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="pgroute-events", daemon=True)
                self._thread.start()

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = [s for s in self._subscribers if s is not fn]

        return unsubscribe

    def put(self, events: tuple[Event, ...]) -> None:
        """Queue events without ever blocking; called in the monitor's thread."""
        if self._thread is None or self._closed:
            return
        for event in events:
            try:
                self._queue.put_nowait(event)
            except queue.Full:
                self.dropped += 1

    def close(self, timeout: float = 1.0) -> None:
        """Deliver what is queued and end the thread."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        if thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            for fn in self._subscribers:
                try:
                    fn(event)
                except Exception:
                    logger.exception("a subscriber failed on %s", event)
