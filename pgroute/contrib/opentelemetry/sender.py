"""Takes what sessions have left behind to OpenTelemetry, in a thread of its own: a histogram costs a session 5 us, a
span more than 10.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import Protocol

from pgroute.runtime.fork import forked
from pgroute.runtime.wakeup import Wakeup

_GATHER = 0.2
"""Seconds for which the thread lets sessions gather, so that it is woken five times a second at most."""

_END_TIMEOUT = 5.0
_END_STEP = 0.05


class Note(Protocol):
    """What a session has left behind."""

    def send(self) -> object:
        """Take it to OpenTelemetry."""
        ...


class Sender:
    """A queue of notes, and the thread that empties it. It begins with the first note, and again in a forked child.

    Nothing is dropped: there is one note for each session that has ended, and it takes less time than a session.
    To leave a note: append it to `notes`, and call `wake` if `idle`. That is the way of each session, without a lock.

    Attributes:
        notes: the queue; once this has ended, it keeps nothing.
        idle: nobody will look at the queue.
    """

    def __init__(self) -> None:
        self._start_over()
        forked.register(self)

    def _start_over(self) -> None:
        self.notes: deque[Note] = deque()
        self.idle: bool = True
        self._wakeup = Wakeup()
        self._starting = threading.Lock()
        # Reentrant: a span processor of the user's may flush.
        self._emptying = threading.RLock()
        self._thread: threading.Thread | None = None
        self._ended = False

    def after_fork(self) -> None:
        """In a forked child: what waits is the parent's, who sends it."""
        ended = self._ended
        self._start_over()
        if ended:
            self.end()

    def wake(self) -> None:
        """Have the notes sent soon."""
        if self._thread is not None:
            self.idle = False
            self._wakeup.set()
        # Sessions go on without a thread: whoever flushes does its work.
        elif not self._ended and self._starting.acquire(blocking=False):
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
            self.idle = False
            self._wakeup.wait(_GATHER)  # only the end interrupts it
            self.flush(patient=True)
            self.idle = True
            if not (self.notes or self._ended):
                self._wakeup.wait(None)
        self._finish()

    def flush(self, *, patient: bool = False) -> None:
        """Send all notes that wait.

        Args:
            patient: let other threads go first after each.
        """
        with self._emptying:
            while True:
                try:
                    note = self.notes.popleft()
                except IndexError:
                    return
                with contextlib.suppress(Exception):  # of a processor or exporter of the user's
                    note.send()
                if patient:
                    time.sleep(0)  # gives up the GIL, for which threads would wait 5 ms otherwise

    def abandon(self) -> None:
        """Have the thread end when all notes are sent, without waiting for it; further ones are left."""
        self._ended = True
        self._wakeup.set()

    def end(self) -> None:
        """End the thread when all notes are sent; further ones are left. May be called again."""
        self.abandon()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            until = time.monotonic() + _END_TIMEOUT
            while thread.is_alive() and time.monotonic() < until:
                thread.join(_END_STEP)
        self._finish()

    def _finish(self) -> None:
        self.flush()
        self.notes = deque(maxlen=0)
        self.idle = False
