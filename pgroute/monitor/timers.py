"""One thread that ends what takes too long, for all routers of the process."""

from __future__ import annotations

import atexit
import contextlib
import heapq
import itertools
import threading
import time
from typing import TYPE_CHECKING

from pgroute.monitor.forks import forked

if TYPE_CHECKING:
    from collections.abc import Callable

_END_TIMEOUT = 5.0
_LEAST_CLEARED = 64


class Alarm:
    """A function to call at a time, unless it is cancelled before."""

    __slots__ = ("_bite", "_lock")

    def __init__(self, bite: Callable[[], object]) -> None:
        self._bite: Callable[[], object] | None = bite
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Whether there is nothing to call any more."""
        return self._bite is None

    def cancel(self) -> None:
        """Return when the function either has run to its end or never will."""
        with self._lock:
            self._bite = None

    def ring(self) -> None:
        """Call the function."""
        with self._lock:
            bite, self._bite = self._bite, None
            if bite is not None:
                with contextlib.suppress(Exception):
                    bite()


class Timers:
    """The alarms, and the thread that rings them, which is there while somebody holds it.

    It is started by whoever opens a router, not by whoever is in need: no thread may be had then.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        # Reentrant: a signal handler may set an alarm while its thread is setting one.
        self._changed = threading.Condition(threading.RLock())
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._serial = itertools.count()
        self._clear_at = _LEAST_CLEARED
        self._holders: set[object] = set()
        self._thread: threading.Thread | None = None

    def hold(self, who: object) -> None:
        """Have the thread run until `let_go`.

        Args:
            who: whoever wants it.

        Raises:
            RuntimeError: it cannot be started.
        """
        forked.notice()
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._main, name="pgroute-timers", daemon=True)
                thread.start()
                self._thread = thread
            self._holders.add(who)

    def let_go(self, who: object) -> None:
        """End the thread if nobody else holds it; nothing happens if this one does not."""
        with self._changed:
            self._holders.discard(who)
            self._end()

    def _end(self) -> None:
        thread = self._thread
        if self._holders or thread is None or thread is threading.current_thread():
            return
        self._changed.notify_all()
        self._changed.wait_for(lambda: self._holders or self._thread is not thread, _END_TIMEOUT)
        if self._thread is not thread:
            thread.join(_END_TIMEOUT)  # it has left the lock, and ends

    def set(self, seconds: float, bite: Callable[[], object]) -> Alarm:
        """Have *bite* called after so many seconds; nothing is, while nobody holds the thread."""
        alarm = Alarm(bite)
        at = time.monotonic() + seconds
        with self._changed:
            if len(self._alarms) >= self._clear_at:
                self._alarms = [entry for entry in self._alarms if not entry[2].cancelled]
                heapq.heapify(self._alarms)
                self._clear_at = max(_LEAST_CLEARED, 2 * len(self._alarms))
            heapq.heappush(self._alarms, (at, next(self._serial), alarm))
            if self._alarms[0][2] is alarm:
                self._changed.notify_all()
        return alarm

    def _main(self) -> None:
        while (alarm := self._next()) is not None:
            alarm.ring()

    def _next(self) -> Alarm | None:
        """Wait for the next alarm that is due; None: nobody wants the thread any more."""
        with self._changed:
            while True:
                while self._alarms and self._alarms[0][2].cancelled:
                    heapq.heappop(self._alarms)
                if not self._holders:
                    self._thread = None
                    self._alarms.clear()
                    self._changed.notify_all()
                    return None
                left = self._alarms[0][0] - time.monotonic() if self._alarms else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._alarms)[2]
                self._changed.wait(left)

    def shut_down(self) -> None:
        """End the thread whoever holds it; for the interpreter's exit."""
        forked.notice()
        with self._changed:
            self._holders.clear()
            self._end()

    def forked(self) -> None:
        """Begin anew in a forked child: the thread is the parent's, and the lock may be held by nobody there."""
        self._begin()


timers = Timers()
forked.hook(timers.forked)
atexit.register(timers.shut_down)
