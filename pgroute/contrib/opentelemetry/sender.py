"""Takes what sessions have left behind to OpenTelemetry, in a thread of its own: a histogram costs a session 5 us, a
span more than 10.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from typing import Protocol

from pgroute.runtime.fork import forked
from pgroute.runtime.wakeup import OneShotEvent, Wakeup

logger: logging.Logger = logging.getLogger("pgroute")

ROOM = 10_000
"""How many notes may wait, each with the context of its session; further ones are dropped and counted."""

_GATHER = 0.2
"""Seconds for which the thread lets sessions gather, so that it is woken five times a second at most."""

_FLUSH_TIMEOUT = 5.0
_END_TIMEOUT = 5.0
_STEP = 0.05


class Note(Protocol):
    """What a session has left behind."""

    def send(self) -> object:
        """Take it to OpenTelemetry."""
        ...


class _Mark:
    """A place in the queue."""

    def __init__(self) -> None:
        self.reached = OneShotEvent()

    def send(self) -> None:
        self.reached.set()


class Sender:
    """A queue of notes, and the thread that empties it. It begins with the first note, and again in a forked child.

    A note takes less time than its session, unless a span processor of the user's is slow. Then notes are dropped once
    the queue is full, and nobody waits for the rest for longer than a few seconds.

    Attributes:
        notes: the queue; once this has ended, it keeps nothing.
        dropped: how many notes found no room.
        idle: nobody will look at the queue.
    """

    def __init__(self) -> None:
        self._start_over()
        forked.register(self)

    def _start_over(self) -> None:
        self.notes: deque[Note] = deque()
        self.dropped: int = 0
        self.idle: bool = True
        self._drops = itertools.count(1)  # of many threads, without a lock
        self._unlogged: deque[int] = deque()
        self._wakeup = Wakeup()
        self._hurry = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ident: int | None = None  # of the thread, known before its first note
        self._exits = False
        self._ended = False
        self._over = False

    def after_fork(self) -> None:
        """In a forked child: what waits is the parent's, who sends it."""
        ended = self._ended
        self._start_over()
        if ended:
            self.end()

    def leave(self, note: Note) -> None:
        """Have a note sent soon. This is on the way of each session, and takes no lock."""
        if len(self.notes) < ROOM:
            self.notes.append(note)
        else:
            self.dropped = dropped = next(self._drops)
            if dropped == 1:
                self._unlogged.append(dropped)  # a handler of the user's may take long, fail or use a router
        if self.idle:
            self._wake()

    def _wake(self) -> None:
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
        self._ident = threading.get_ident()
        while not self._ended:
            self.idle = False
            if not self._hurry:
                self._wakeup.wait(_GATHER)  # only a flush and the end interrupt it
            self._hurry = False
            self._send_patiently()
            self.idle = True
            if not (self.notes or self._ended):
                self._wakeup.wait(None)
        self._send_rest()
        self._close()

    def _send_patiently(self) -> None:
        while not self._ended and self._send_next():
            time.sleep(0)  # gives up the GIL, for which threads would wait 5 ms otherwise

    def _log_drops(self) -> None:
        """Log that notes are dropped, once; never on the way of a session."""
        try:
            self._unlogged.pop()
        except IndexError:
            return
        in_thread = threading.get_ident() == self._ident
        with contextlib.suppress(BaseException if in_thread else Exception):  # of a handler of the user's
            logger.warning(
                "OpenTelemetry is slower than the sessions of the routers: the spans and durations of some "
                "are dropped from now on; look at its span processors"
            )

    def _send_next(self) -> bool:
        self._log_drops()
        try:
            note = self.notes.popleft()
        except IndexError:
            return False
        try:
            note.send()
        except Exception:  # noqa: BLE001, S110  (of a processor or exporter of the user's)
            pass
        except BaseException as exc:
            # A flush lets it through, as Ctrl-C may be. The thread has nobody to tell, and sessions need it.
            if threading.get_ident() != self._ident:
                raise
            self._log_exit(exc)
        return True

    def _log_exit(self, exc: BaseException) -> None:
        if not self._exits:
            self._exits = True
            with contextlib.suppress(BaseException):  # of a handler of the user's
                logger.warning(
                    "a span processor or exporter of OpenTelemetry raised %s; sessions are still reported",
                    type(exc).__name__,
                )

    def flush(self, timeout: float = _FLUSH_TIMEOUT) -> None:
        """Wait until all notes that wait now are sent, for *timeout* seconds at most.

        In a note, as a span processor of the user's may call it, this sends nothing: the notes are on their way.
        """
        thread = self._thread
        if thread is threading.current_thread():
            return
        until = time.monotonic() + timeout
        self._log_drops()
        mark = _Mark()
        self.notes.append(mark)
        self._hurry = True
        self._wakeup.set()
        while thread is not None and thread.is_alive() and not self._over:
            left = until - time.monotonic()
            if mark.reached.wait(max(0.0, min(_STEP, left))):
                return
            if left <= 0.0:
                # Where a processor hangs, there is no end to the flushes.
                with contextlib.suppress(ValueError, IndexError):  # it was sent, or the queue has changed
                    self.notes.remove(mark)
                return
        self._send_rest(until)

    def _send_rest(self, until: float | None = None) -> None:
        """Send what waits now."""
        for _ in range(len(self.notes)):
            if (until is not None and time.monotonic() >= until) or not self._send_next():
                return

    def abandon(self) -> None:
        """Have the thread end when all notes are sent, without waiting for it; further ones are left."""
        self._ended = True
        self._wakeup.set()

    def end(self) -> None:
        """End the thread when all notes are sent, after five seconds at the latest; further ones are left.

        May be called again.
        """
        self.abandon()
        until = time.monotonic() + _END_TIMEOUT
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            while thread.is_alive() and time.monotonic() < until:
                thread.join(_STEP)
        self._log_drops()
        self._send_rest(until)
        self._close()

    def _close(self) -> None:
        self.notes = deque(maxlen=0)
        self.idle = False
        self._over = True
