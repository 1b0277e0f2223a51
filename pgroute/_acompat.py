"""The few primitives in which the faces differ, by hand, under names that the generator maps onto each other."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pgroute.runtime.timers import timers
from pgroute.runtime.wakeup import OneShotEvent
from pgroute.runtime.wakeup import Wakeup as Wakeup  # noqa: PLC0414  (the synchronous one of a pair)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

Lock = threading.Lock
AsyncLock = asyncio.Lock
Worker = threading.Thread
AsyncWorker = asyncio.Task[None]


class Changes:
    """Something changed: `notify` from any thread, `wait` until the version is another one than the one seen.

    Without a lock, for whoever notifies or waits may be interrupted.
    """

    def __init__(self) -> None:
        self.version = 0
        self._versions = itertools.count(1)
        self._waiting: deque[Wakeup] = deque()

    @property
    def deserted(self) -> bool:
        """Whether nobody can be waiting any more."""
        return False

    def notify(self) -> None:
        """Wake every waiter."""
        self.version = next(self._versions)
        # Whoever joins after this look has seen the version.
        for wakeup in tuple(self._waiting):
            wakeup.set()

    def wait(self, seen: int, timeout: float | None) -> None:
        """Return when `version` is not *seen*, or after *timeout* seconds."""
        wakeup = Wakeup()
        self._waiting.append(wakeup)
        try:
            if self.version == seen:
                wakeup.wait(timeout)
        finally:
            self._waiting.remove(wakeup)


class AsyncChanges:
    """As Changes, for the tasks of the loop in which it was made."""

    def __init__(self) -> None:
        self.version = 0
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    @property
    def deserted(self) -> bool:
        """Whether nobody can be waiting any more: the loop is closed."""
        return self._loop.is_closed()

    def notify(self) -> None:
        """Wake every waiter; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody can be waiting
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self.version += 1
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seen: int, timeout: float | None) -> None:
        """Return when `version` is not *seen*, or after *timeout* seconds."""
        if self.version != seen:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()


class Waiter:
    """A caller in the queue of a pool: `wake` from any thread ends its `wait`.

    Args:
        since: monotonic seconds at which it began to wait.

    Attributes:
        item: what it was given.
        since: as given.
    """

    __slots__ = ("_bolt", "item", "since")

    def __init__(self, since: float) -> None:
        self.item: tuple[Any, Any] | None = None
        self.since = since
        self._bolt = threading.Lock()
        self._bolt.acquire()

    def wake(self) -> None:
        """End the wait, also one that has not begun."""
        with contextlib.suppress(RuntimeError):  # woken before
            self._bolt.release()

    def wait(self, timeout: float) -> None:
        """Return when woken, or after *timeout* seconds."""
        self._bolt.acquire(timeout=max(0.0, timeout))


class AsyncWaiter:
    """As Waiter, for a task; `wake` in its loop only."""

    __slots__ = ("_future", "_loop", "item", "since")

    def __init__(self, since: float) -> None:
        self.item: tuple[Any, Any] | None = None
        self.since = since
        self._loop = asyncio.get_running_loop()
        self._future = self._loop.create_future()

    def wake(self) -> None:
        """End the wait, also one that has not begun."""
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout: float) -> None:
        """Return when woken, or after *timeout* seconds. A cancellation is never lost, as it is in wait_for()."""
        handle = self._loop.call_later(timeout, self.wake)
        try:
            await self._future
        finally:
            handle.cancel()


class AsyncWakeup:
    """As Wakeup, for a task of the loop in which it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """End the current wait, or the next one."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the worker gone
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout: float | None) -> None:
        """Return when set, or after *timeout* seconds, and reset."""
        handle = None if timeout is None else self._loop.call_later(max(0.0, timeout), self._event.set)
        try:
            await self._event.wait()
        finally:
            if handle is not None:
                handle.cancel()
        self._event.clear()


def spawn(fn: Callable[[], None], name: str) -> Worker:
    """Run *fn* in a daemon thread."""
    thread = threading.Thread(target=fn, name=name, daemon=True)
    thread.start()
    return thread


def async_spawn(fn: Callable[[], Coroutine[Any, Any, None]], name: str) -> AsyncWorker:
    """Run *fn* in a task."""
    return asyncio.get_running_loop().create_task(fn(), name=name)


def join_all(workers: Iterable[Worker], timeout: float) -> None:
    """Wait at most *timeout* seconds for threads to end."""
    until = time.monotonic() + timeout
    for worker in workers:
        if worker is not threading.current_thread():
            worker.join(max(0.0, until - time.monotonic()))


async def async_join_all(workers: Iterable[AsyncWorker], timeout: float) -> None:
    """Wait at most *timeout* seconds for tasks to end, then cancel them."""
    left = {w for w in workers if w is not asyncio.current_task() and not w.done()}
    if left:
        _, late = await asyncio.wait(left, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)


def blocking(fn: Callable[[], object]) -> None:
    """Call a function that may block."""
    fn()


async def async_blocking(fn: Callable[[], object]) -> None:
    """Call a function that may block, without blocking the loop if a thread can be had, which ends with it."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def work() -> None:
        try:
            fn()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(tell)

    def tell() -> None:
        if not done.done():
            done.set_result(None)

    try:
        threading.Thread(target=work, name="pgroute-blocking", daemon=True).start()
    except RuntimeError:  # no thread to be had, at the interpreter's end for one: rather the loop waits
        fn()
        return
    await done


def finished(worker: Worker) -> bool:
    """Return whether a thread has ended."""
    return not worker.is_alive()


def async_finished(worker: AsyncWorker) -> bool:
    """Return whether a task has ended."""
    return worker.done()


class Watchdog:
    """Call *bite* unless the block is left within *timeout* seconds; while no router is open, nothing is called.

    After the block *bite* has either run to its end or never will.
    """

    __slots__ = ("_alarm", "_bite", "_timeout")

    def __init__(self, timeout: float, bite: Callable[[], object]) -> None:
        self._timeout = timeout
        self._bite = bite

    def __enter__(self) -> None:
        self._alarm = timers.set(self._timeout, self._bite)

    def __exit__(self, *_: object) -> None:
        self._alarm.cancel()


class AsyncWatchdog:
    """As Watchdog, in the running loop, which needs no router for it."""

    __slots__ = ("_bite", "_handle", "_timeout")

    def __init__(self, timeout: float, bite: Callable[[], object]) -> None:
        self._timeout = timeout
        self._bite = bite

    async def __aenter__(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(self._timeout, self._bite)

    async def __aexit__(self, *_: object) -> None:
        self._handle.cancel()


def keep_time(who: object) -> None:
    """Have the thread that Watchdog depends on, until `stop_keeping_time`."""
    timers.acquire(who)


def async_keep_time(who: object) -> None:
    """Nothing: the loop keeps the time."""


def stop_keeping_time(who: object) -> None:
    """End that thread, unless others want it."""
    timers.release(who)


def async_stop_keeping_time(who: object) -> None:
    """Nothing: the loop keeps the time."""


def myself() -> object:
    """Return who runs here: the thread."""
    return threading.get_ident()


def async_myself() -> object:
    """Return who runs here: the task."""
    return asyncio.current_task()


def stray(exc: BaseException) -> bool:
    """Return whether this ends nobody but a thread of ours: the user's sys.exit() in it."""
    return isinstance(exc, SystemExit) and threading.current_thread() is not threading.main_thread()


def async_stray(exc: BaseException) -> bool:
    """Return whether this is the cancellation of something that was awaited, and not of the task itself."""
    task = asyncio.current_task()
    return isinstance(exc, asyncio.CancelledError) and task is not None and not task.cancelling()


class Face:
    """What is for `with`; used in `async with`, it says so. Hidden from type checkers, which say so by themselves."""

    __slots__ = ()

    if not TYPE_CHECKING:

        async def __aenter__(self) -> None:
            raise TypeError("a Router and its sessions are for `with`; for `async with`, use AsyncRouter")

        async def __aexit__(self, *_: object) -> None: ...


class AsyncFace:
    """What is for `async with`; used in `with`, it says so. Hidden from type checkers, which say so by themselves."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __enter__(self) -> None:
            raise TypeError("an AsyncRouter and its sessions are for `async with`; for `with`, use Router")

        def __exit__(self, *_: object) -> None: ...


class LoopFace:
    """What is for a `for` loop; used in `async for`, it says so."""

    if not TYPE_CHECKING:

        def __aiter__(self) -> None:
            raise TypeError("the attempts of a Router are for `for`; for `async for`, use AsyncRouter")


class AsyncLoopFace:
    """What is for an `async for` loop; used in `for`, it says so."""

    if not TYPE_CHECKING:

        def __iter__(self) -> None:
            raise TypeError("the attempts of an AsyncRouter are for `async for`; for `for`, use Router")


def loop_identity() -> object:
    """Return what a router is bound to: nothing, for threads may share it."""
    return None


def async_loop_identity() -> object:
    """Return what a router is bound to: the running loop."""
    return asyncio.get_running_loop()


def run_all(work: Callable[[], None], count: int, halt: Callable[[], None], name: str) -> None:
    """Run *work* in so many threads, wait for all, and raise the first error; *halt* is called at the first.

    An interrupt of the wait calls *halt* too, and all are waited for before it is let out.
    """
    errors: list[BaseException] = []
    begun: list[tuple[OneShotEvent, Worker]] = []

    def begin(number: int) -> None:
        ended = OneShotEvent()

        def guarded() -> None:
            try:
                work()
            except BaseException as exc:  # noqa: BLE001  (raised by whoever waits)
                errors.append(exc)
                halt()
            finally:
                ended.set()

        begun.append((ended, spawn(guarded, f"{name}-{number}")))

    def wait() -> None:
        # Python before 3.13 takes a thread for ended when a join() of it is interrupted.
        for ended, worker in begun:
            ended.wait()
            worker.join()

    try:
        for number in range(count):
            begin(number)
        wait()
    except BaseException:
        halt()
        wait()
        raise
    if errors:
        raise errors[0]


async def async_run_all(
    work: Callable[[], Coroutine[Any, Any, None]], count: int, halt: Callable[[], None], name: str
) -> None:
    """As `run_all`, in tasks, which a cancellation of the wait cancels."""
    errors: list[BaseException] = []

    async def guarded() -> None:
        try:
            await work()
        except BaseException as exc:  # noqa: BLE001  (raised by whoever waits)
            errors.append(exc)
            halt()

    tasks = {async_spawn(guarded, f"{name}-{number}") for number in range(count)}
    try:
        await asyncio.wait(tasks)
    except BaseException:
        halt()
        for task in tasks:
            task.cancel()
        while not all(map(async_finished, tasks)):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(tasks)
        raise
    if errors:
        raise errors[0]
