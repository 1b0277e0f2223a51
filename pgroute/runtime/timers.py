"""One thread that ends what takes too long, for all routers of the process."""

from __future__ import annotations

import atexit
import contextlib
import heapq
import itertools
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from pgroute.runtime.fork import forked
from pgroute.runtime.wakeup import Bell

if TYPE_CHECKING:
    from collections.abc import Callable

_END_TIMEOUT = 5.0
_END_STEP = 0.05
_MOST_NEW = 1000


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

    It is started by whoever opens a router, not by whoever is in need: no thread may be had then. An alarm is handed to
    it by a deque, without a lock, for whoever sets one may be interrupted.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        # Reentrant: a signal handler may open a router while its thread opens another.
        self._lock = threading.RLock()
        self._bell = Bell()
        self._new: deque[tuple[float, int, Alarm]] = deque()
        self._serial = itertools.count()
        self._next_at = -math.inf
        self._kept = 0
        self._holders: set[object] = set()
        self._thread: threading.Thread | None = None

    @property
    def pending(self) -> int:
        """How many alarms are kept, those that were cancelled and not dropped yet included."""
        return len(self._new) + self._kept

    def hold(self, who: object) -> None:
        """Have the thread run until `let_go`.

        Args:
            who: whoever wants it.

        Raises:
            RuntimeError: it cannot be started.
        """
        forked.notice()
        with self._lock:
            self._holders.add(who)
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._main, name="pgroute-timers", daemon=True)
            try:
                self._thread.start()
            except BaseException:
                # One that runs already finds that it is not wanted.
                self._thread = None
                self._holders.discard(who)
                raise

    def let_go(self, who: object) -> None:
        """End the thread if nobody else holds it; nothing happens if this one does not."""
        self._holders.discard(who)
        self._end()

    def _end(self) -> None:
        thread = self._thread
        if self._holders or thread is None or thread is threading.current_thread():
            return
        self._bell.ring()
        until = time.monotonic() + _END_TIMEOUT
        while thread.is_alive() and not self._holders and time.monotonic() < until:
            thread.join(_END_STEP)

    def set(self, seconds: float, bite: Callable[[], object]) -> Alarm:
        """Have *bite* called after so many seconds; nothing is, while nobody holds the thread."""
        alarm = Alarm(bite)
        if self._thread is None:
            return alarm
        at = time.monotonic() + seconds
        self._new.append((at, next(self._serial), alarm))
        # After it was handed over: the thread says until when it rests before it looks for new ones a last time.
        if at < self._next_at or len(self._new) >= _MOST_NEW:
            self._bell.ring()
        return alarm

    def _main(self) -> None:
        alarms: list[tuple[float, int, Alarm]] = []
        while self._wanted():
            while self._new:
                heapq.heappush(alarms, self._new.popleft())
            while alarms and (alarms[0][2].cancelled or alarms[0][0] <= time.monotonic()):
                heapq.heappop(alarms)[2].ring()
            if len(alarms) >= _MOST_NEW:
                alarms = [entry for entry in alarms if not entry[2].cancelled]
                heapq.heapify(alarms)
            self._kept = len(alarms)
            self._next_at = alarms[0][0] if alarms else math.inf
            if not self._new:
                self._bell.rest(alarms[0][0] - time.monotonic() if alarms else None)
            self._next_at = -math.inf
        self._new.extend(alarms)  # for the thread that has taken the place of this one

    def _wanted(self) -> bool:
        with self._lock:
            if self._thread is not threading.current_thread():
                return False
            if not self._holders:
                self._thread = None
            return self._thread is not None

    def shut_down(self) -> None:
        """End the thread whoever holds it; for the interpreter's exit."""
        forked.notice()
        self._holders.clear()
        self._end()

    def forked(self) -> None:
        """Begin anew in a forked child: the thread is the parent's, and the lock may be held by nobody there."""
        self._begin()


timers = Timers()
forked.hook(timers.forked)
atexit.register(timers.shut_down)
