"""What stands for the module `threading`: its primitives, for the threads of a Scheduler."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.interleavings.threads import Scheduler, SimThread


def namespace(scheduler: Scheduler) -> SimpleNamespace:
    """Return what stands for the module."""

    def bound(cls: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: cls(scheduler, *args, **kwargs)

    return SimpleNamespace(
        Lock=bound(SimLock),
        RLock=bound(SimRLock),
        Condition=bound(SimCondition),
        Event=bound(SimEvent),
        Thread=bound(SimThread),
        Timer=bound(SimTimer),
        current_thread=lambda: scheduler.current,
        get_ident=lambda: id(scheduler.current),
        main_thread=lambda: scheduler.main,
    )


class SimTimer(SimThread):
    """As threading.Timer."""

    def __init__(self, scheduler: Scheduler, interval: float, function: Callable[[], object]) -> None:
        super().__init__(scheduler, name="timer")
        self._interval = interval
        self._function = function
        self._finished = SimEvent(scheduler)

    def cancel(self) -> None:
        self._finished.set()

    def run(self) -> None:
        if not self._finished.wait(self._interval):
            self._function()


class SimLock:
    """As threading.Lock."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._locked = False
        self._waiting: list[SimThread] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        scheduler = self._scheduler
        if scheduler.over:
            got, self._locked = not self._locked, True
            return got
        scheduler.switch()
        deadline = None if timeout < 0 else scheduler.now + timeout
        while self._locked:
            if not blocking or not self._woken(deadline):
                return False
        self._locked = True
        return True

    def _woken(self, deadline: float | None) -> bool:
        me = self._scheduler.current
        self._waiting.append(me)
        try:
            return self._scheduler.park(deadline) or not self._locked
        finally:
            self._waiting.remove(me)

    def release(self) -> None:
        if not self._locked:
            raise RuntimeError("release unlocked lock")
        self._locked = False
        for thread in self._waiting:
            self._scheduler.wake(thread)
        self._scheduler.switch()

    def locked(self) -> bool:
        return self._locked

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SimRLock:
    """As threading.RLock."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = SimLock(scheduler)
        self._owner: SimThread | None = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = self._scheduler.current
        if self._owner is not me:
            if not self._lock.acquire(blocking, timeout):
                return False
            self._owner = me
        self._count += 1
        return True

    def release(self) -> None:
        self._count -= 1
        if not self._count:
            self._owner = None
            self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def _is_owned(self) -> bool:
        return self._owner is self._scheduler.current

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SimCondition:
    """As threading.Condition."""

    def __init__(self, scheduler: Scheduler, lock: Any = None) -> None:
        self._scheduler = scheduler
        self._lock = lock or SimRLock(scheduler)
        self._waiting: list[SimThread] = []
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> bool:
        return bool(self._lock.acquire())

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        scheduler, me = self._scheduler, self._scheduler.current
        deadline = None if timeout is None else scheduler.now + timeout
        depth = getattr(self._lock, "_count", 1)
        self._waiting.append(me)
        for _ in range(depth):
            self._lock.release()
        try:
            # A thread that ran in between may have notified this one.
            return me not in self._waiting or scheduler.park(deadline)
        finally:
            if me in self._waiting:
                self._waiting.remove(me)
            for _ in range(depth):
                self._lock.acquire()

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        until = None if timeout is None else self._scheduler.now + timeout
        while not (result := predicate()):
            left = None if until is None else until - self._scheduler.now
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        for thread in self._waiting[:n]:
            self._waiting.remove(thread)
            self._scheduler.wake(thread)

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class SimEvent:
    """As threading.Event."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._set = False
        self._waiting: list[SimThread] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for thread in self._waiting:
            self._scheduler.wake(thread)
        self._scheduler.switch()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        scheduler = self._scheduler
        scheduler.switch()
        deadline = None if timeout is None else scheduler.now + timeout
        while not self._set:
            me = scheduler.current
            self._waiting.append(me)
            try:
                if not scheduler.park(deadline):
                    break
            finally:
                self._waiting.remove(me)
        return self._set
