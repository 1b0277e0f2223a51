"""Threads of which one runs at a time, on a clock of their own: at each lock, random numbers pick the next."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import threading
from collections.abc import Callable
from random import Random
from typing import Any, Self

from tests.interleavings.loop import MOST_STEPS, START, Stuck


class Abandoned(BaseException):
    """The history is over; raised in the threads that are left."""


class Crew:
    """Real threads that wait for something to run: starting one anew takes longer than most of what runs in it.

    A context manager, for as long as histories are played.
    """

    def __init__(self) -> None:
        self._idle: list[_Hand] = []
        self._all: list[_Hand] = []

    def run(self, fn: Callable[[], None]) -> None:
        """Run a function in a thread."""
        if self._idle:
            hand = self._idle.pop()
        else:
            hand = _Hand(self._idle)
            self._all.append(hand)
            hand.thread.start()
        hand.job = fn
        hand.called.release()

    def close(self) -> None:
        """End the threads."""
        for hand in self._all:
            hand.job = None
            hand.called.release()
        for hand in self._all:
            hand.thread.join(5.0)

    def __enter__(self) -> Self:
        # What is there already is not looked at again by each of the collections that histories ask for.
        gc.collect()
        gc.freeze()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        gc.unfreeze()


class _Hand:
    def __init__(self, idle: list[_Hand]) -> None:
        self.called = threading.Lock()
        self.called.acquire()
        self.job: Callable[[], None] | None = None
        self.thread = threading.Thread(target=self._main, args=(idle,), name="interleaving", daemon=True)

    def _main(self, idle: list[_Hand]) -> None:
        while True:
            self.called.acquire()
            job, self.job = self.job, None
            if job is None:
                return
            contextvars.Context().run(job)
            del job
            idle.append(self)


class Scheduler:
    """Picks who runs.

    Args:
        rng: picks.
        crew: runs the threads.
        after: called at each pick.
    """

    def __init__(self, rng: Random, crew: Crew, after: Callable[[], None]) -> None:
        self.now = START
        self.steps = 0
        self.crew = crew
        self.crashes: list[str] = []
        self.over = False
        self._random = rng.random
        self._after = after
        self._ending = False
        self.main = SimThread(self, name="history")
        self._parked: list[SimThread] = []
        self.runnable = [self.main]
        self.current = self.main
        self.alive = 0
        self._gone = threading.Semaphore(0)

    def run(self, fn: Callable[[], None]) -> None:
        """Run a function, and what threads it starts; return when none is left."""
        try:
            fn()
        finally:
            self._end()

    def _end(self) -> None:
        self._ending = True
        while self.alive:
            # One after the other, each to its end.
            for thread in tuple(self._parked):
                self.wake(thread)
            thread = next(t for t in self.runnable if t is not self.main)
            self.current = thread
            thread.gate.release()
            self.main.gate.acquire()
        self.over = True

    def switch(self) -> None:
        """Let another thread run, perhaps."""
        if self.over:
            return
        me = self.current
        if self._ending:
            self._check_ending(me)
            return
        self._pass_time()
        following = self.runnable[int(self._random() * len(self.runnable))]
        if following is not me:
            self.current = following
            following.gate.release()
            me.gate.acquire()
            self._check_ending(me)

    def _pass_time(self) -> None:
        self.steps += 1
        self.now += 1e-5 * self._random()
        if self.steps > MOST_STEPS:
            self._stuck(f"not at the end after {MOST_STEPS} steps")
        self._ring()
        self._after()

    def _stuck(self, why: str) -> None:
        self.steps = 0
        self.main.pending = Stuck(why)
        self.wake(self.main)

    def _ring(self) -> None:
        for thread in tuple(self._parked):
            if thread.deadline is not None and thread.deadline <= self.now:
                thread.timed_out = True
                self.wake(thread)

    def _check_ending(self, me: SimThread) -> None:
        if self._ending and me is not self.main:
            raise Abandoned

    def park(self, deadline: float | None) -> bool:
        """Have this thread wait for `wake`; return False if it was not woken by then."""
        me = self.current
        self._check_ending(me)
        if self._ending:
            raise Stuck("waiting at the end")
        me.deadline, me.timed_out = deadline, False
        self.runnable.remove(me)
        self._parked.append(me)
        self._next(me)
        self._check_ending(me)
        pending, me.pending = me.pending, None
        if pending is not None:
            raise pending
        return not me.timed_out

    def _next(self, me: SimThread, *, leaving: bool = False) -> None:
        if self._ending:
            following = self.main
        else:
            self._pass_time()
            if not self.runnable:
                deadlines = [t.deadline for t in self._parked if t.deadline is not None]
                if deadlines:
                    self.now = max(self.now, min(deadlines))
                    self._ring()
                else:
                    self._stuck("every thread waits")
            following = self.runnable[int(self._random() * len(self.runnable))]
        self.current = following
        if following is not me:
            following.gate.release()
            if not leaving:
                me.gate.acquire()

    def wake(self, thread: SimThread) -> None:
        """End a thread's wait."""
        if thread in self._parked:
            self._parked.remove(thread)
            self.runnable.append(thread)

    def interrupt(self, thread: SimThread) -> None:
        """Raise KeyboardInterrupt where a thread waits."""
        if thread in self._parked:
            thread.pending = KeyboardInterrupt()
            self.wake(thread)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        if seconds > 0:
            self.park(self.now + seconds)
        else:
            self.switch()

    def start(self, thread: SimThread) -> None:
        """Have a thread begin."""
        self.alive += 1
        self.runnable.append(thread)
        self.crew.run(thread.main)
        self.switch()

    def left(self, thread: SimThread) -> None:
        """A thread has come to its end."""
        self.alive -= 1
        self.runnable.remove(thread)
        for waiter in thread.joining:
            self.wake(waiter)
        self._next(thread, leaving=True)


class SimThread:
    """As threading.Thread."""

    def __init__(  # noqa: PLR0917  (as the original)
        self,
        scheduler: Scheduler,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str = "",
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self.name = name
        self.daemon = daemon
        self.gate = threading.Lock()
        self.gate.acquire()
        self.deadline: float | None = None
        self.timed_out = False
        self.pending: BaseException | None = None
        self.joining: list[SimThread] = []
        self._scheduler = scheduler
        self._target = target
        self._args = args
        self._kwargs = kwargs or {}
        self._started = False
        self._ended = False

    def start(self) -> None:
        self._started = True
        self._scheduler.start(self)

    def main(self) -> None:
        """Run, in a real thread."""
        self.gate.acquire()
        scheduler = self._scheduler
        with contextlib.suppress(Abandoned):
            try:
                scheduler._check_ending(self)
                self.run()
            except Abandoned:
                raise
            except BaseException as exc:  # noqa: BLE001  (reported by the history)
                scheduler.crashes.append(f"{self.name}: {type(exc).__name__}: {exc}")
        self._target = None
        self._args = ()
        self._ended = True
        scheduler.left(self)

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def is_alive(self) -> bool:
        return self._started and not self._ended

    def join(self, timeout: float | None = None) -> None:
        scheduler = self._scheduler
        deadline = None if timeout is None else scheduler.now + timeout
        scheduler.switch()
        while self.is_alive():
            self.joining.append(scheduler.current)
            if not scheduler.park(deadline):
                return
