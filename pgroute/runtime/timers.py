"""One thread per process that ends what takes too long, for all routers."""

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
from pgroute.runtime.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable

_END_TIMEOUT = 5.0
_END_STEP = 0.05
_MOST_NEW = 1000


class Timer:
    """A function that is called at a set time, unless the timer is cancelled before."""

    __slots__ = ("_fn", "_lock")

    def __init__(self, fn: Callable[[], object]) -> None:
        self._fn: Callable[[], object] | None = fn
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Whether the function was called, or never will be."""
        return self._fn is None

    def cancel(self) -> None:
        """Return when the function has either returned or will never be called."""
        with self._lock:
            self._fn = None

    def fire(self) -> None:
        """Call the function."""
        with self._lock:
            fn, self._fn = self._fn, None
            if fn is not None:
                with contextlib.suppress(Exception):
                    fn()


class Timers:
    """The timers, and the thread that fires them. The thread runs while at least one owner has acquired it.

    Opening a router starts the thread, because no thread may be available when a timer is needed. Timers are handed to
    it through a deque, without a lock: the thread that sets one may be interrupted.
    """

    def __init__(self) -> None:
        self._start_over()

    def _start_over(self) -> None:
        # Reentrant: a signal handler may open a router while its thread opens another.
        self._lock = threading.RLock()
        self._wakeup = Wakeup()
        self._new: deque[tuple[float, int, Timer]] = deque()
        self._serial = itertools.count()
        self._next_at = -math.inf
        self._kept = 0
        self._owners: set[object] = set()
        self._thread: threading.Thread | None = None

    @property
    def pending(self) -> int:
        """The number of timers kept, including cancelled ones that have not been dropped yet."""
        return len(self._new) + self._kept

    def acquire(self, owner: object) -> None:
        """Keep the thread running until *owner* calls `release`.

        Args:
            owner: any hashable object.

        Raises:
            RuntimeError: the thread cannot be started.
        """
        forked.notice()
        with self._lock:
            self._owners.add(owner)
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._main, name="pgroute-timers", daemon=True)
            try:
                self._thread.start()
            except BaseException:
                # If it runs already, it finds that it is not wanted, and ends.
                self._thread = None
                self._owners.discard(owner)
                raise

    def release(self, owner: object) -> None:
        """End the thread unless another owner needs it; does nothing if *owner* has not acquired it."""
        self._owners.discard(owner)
        self._end()

    def _end(self) -> None:
        thread = self._thread
        if self._owners or thread is None or thread is threading.current_thread():
            return
        self._wakeup.set()
        until = time.monotonic() + _END_TIMEOUT
        while thread.is_alive() and not self._owners and time.monotonic() < until:
            thread.join(_END_STEP)

    def set(self, seconds: float, fn: Callable[[], object]) -> Timer:
        """Call *fn* after *seconds*. Nothing is called while nobody owns the thread."""
        timer = Timer(fn)
        if self._thread is None:
            return timer
        at = time.monotonic() + seconds
        self._new.append((at, next(self._serial), timer))
        # Only after appending: the thread sets `_next_at` before it looks for new timers a last time.
        if at < self._next_at or len(self._new) >= _MOST_NEW:
            self._wakeup.set()
        return timer

    def _main(self) -> None:
        heap: list[tuple[float, int, Timer]] = []
        while self._wanted():
            try:
                self._turn(heap)
            except Exception:  # noqa: BLE001  (out of memory, say: without this thread nothing would be ended any more)
                time.sleep(_END_STEP)
        self._new.extend(heap)  # for the thread that has replaced this one

    def _turn(self, heap: list[tuple[float, int, Timer]]) -> None:
        """Take the new timers, fire those that are due, and wait for the next one."""
        while self._new:
            heapq.heappush(heap, self._new.popleft())
        while heap and (heap[0][2].cancelled or heap[0][0] <= time.monotonic()):
            heapq.heappop(heap)[2].fire()
        if len(heap) >= _MOST_NEW:
            heap[:] = [entry for entry in heap if not entry[2].cancelled]
            heapq.heapify(heap)
        self._kept = len(heap)
        self._next_at = heap[0][0] if heap else math.inf
        if not self._new:
            self._wakeup.wait(heap[0][0] - time.monotonic() if heap else None)
        self._next_at = -math.inf

    def _wanted(self) -> bool:
        with self._lock:
            if self._thread is not threading.current_thread():
                return False
            if not self._owners:
                self._thread = None
            return self._thread is not None

    def shut_down(self) -> None:
        """End the thread whoever owns it; called at the interpreter's exit."""
        forked.notice()
        self._owners.clear()
        self._end()

    def forked(self) -> None:
        """Start over in a forked child: the thread is the parent's, and another thread may have held the lock."""
        self._start_over()


timers: Timers = Timers()
forked.hook(timers.forked)
atexit.register(timers.shut_down)
