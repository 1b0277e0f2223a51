"""Takes what sessions have left behind to OpenTelemetry, in a thread of its own: a histogram costs a session 5 us, a
span more than 10.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from pgroute.runtime.fork import forked
from pgroute.runtime.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable

    Task = Callable[[], object]

_GATHER = 0.2
"""Seconds for which the thread lets sessions gather, so that it is woken five times a second at most."""

_END_TIMEOUT = 5.0
_END_STEP = 0.05


class Sender:
    """A queue, and the thread that empties it. The thread begins with the first task, and again in a forked child.

    Nothing is dropped: there is one task for each session that has ended, and a task takes less time than a session.
    """

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()
        self._start_over()
        forked.register(self)

    def _start_over(self) -> None:
        self._tasks.clear()
        self._wakeup = Wakeup()
        self._starting = threading.Lock()
        # Reentrant: a span processor of the user's may flush.
        self._emptying = threading.RLock()
        self._thread: threading.Thread | None = None
        self._asleep = False
        self._ended = False

    def after_fork(self) -> None:
        """In a forked child: what waits is the parent's, who sends it."""
        ended = self._ended
        self._start_over()
        self._ended = ended

    def put(self, task: Task) -> None:
        """Have a task done soon; without a lock, but for the first one."""
        if self._ended:
            return
        self._tasks.append(task)
        if self._asleep:
            self._asleep = False
            self._wakeup.set()
        elif self._thread is None:
            self._start()

    def _start(self) -> None:
        # Sessions go on without it: whoever flushes does the work.
        if self._ended or not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="pgroute-opentelemetry", daemon=True)
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
        finally:
            self._starting.release()

    def _work(self) -> None:
        while not self._ended:
            self._wakeup.wait(_GATHER)  # only the end interrupts it
            self.flush(patient=True)
            self._asleep = True
            if self._tasks or self._ended:
                self._asleep = False
                continue
            self._wakeup.wait(None)
        self.flush()

    def flush(self, *, patient: bool = False) -> None:
        """Do all tasks that wait.

        Args:
            patient: let other threads go first after each.
        """
        with self._emptying:
            while True:
                try:
                    task = self._tasks.popleft()
                except IndexError:
                    return
                with contextlib.suppress(Exception):  # of a processor or exporter of the user's
                    task()
                if patient:
                    time.sleep(0)  # gives up the GIL, for which threads would wait 5 ms otherwise

    def abandon(self) -> None:
        """Have the thread end when all tasks are done, without waiting for it; further ones are left."""
        self._ended = True
        self._wakeup.set()

    def end(self) -> None:
        """End the thread when all tasks are done; further ones are left. May be called again."""
        self.abandon()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            until = time.monotonic() + _END_TIMEOUT
            while thread.is_alive() and time.monotonic() < until:
                thread.join(_END_STEP)
        self.flush()
