"""Threads and tasks: start them, wait for them, identify the one that runs."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from pgroute.runtime.wakeup import OneShotEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

T = TypeVar("T")

Lock = threading.Lock
AsyncLock = asyncio.Lock
Worker = threading.Thread
AsyncWorker = asyncio.Task[None]


def spawn(fn: Callable[[], None], name: str) -> Worker:
    """Run *fn* in a daemon thread."""
    thread = threading.Thread(target=fn, name=name, daemon=True)
    thread.start()
    return thread


def async_spawn(fn: Callable[[], Coroutine[Any, Any, None]], name: str) -> AsyncWorker:
    """Run *fn* in a task, in no caller's context: the task would keep all of its values."""
    return asyncio.get_running_loop().create_task(fn(), name=name, context=contextvars.Context())


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
    """Call a function that may block in a thread of its own; in the loop only if no thread can be started."""
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
    except RuntimeError:  # no thread can be started, for example while the interpreter exits
        fn()
        return
    await done


def shielded(fn: Callable[[], T]) -> T:
    """Call a function."""
    return fn()


async def async_shielded(fn: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Await *fn* to its end, however often the task is cancelled meanwhile, and raise the last cancellation then.

    Whatever bounds its time must be within: anyio cancels a task again in each turn of the loop.
    """
    task = asyncio.get_running_loop().create_task(fn())
    interrupt: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            interrupt = exc
    if interrupt is None or task.cancelled():
        return task.result()
    task.exception()  # otherwise asyncio logs that nobody has looked at it
    raise interrupt


def finished(worker: Worker) -> bool:
    """Return whether a thread has ended."""
    return not worker.is_alive()


def async_finished(worker: AsyncWorker) -> bool:
    """Return whether a task has ended."""
    return worker.done()


def myself() -> object:
    """Return the identity of the running thread."""
    return threading.get_ident()


def async_myself() -> object:
    """Return the running task."""
    return asyncio.current_task()


def stray(exc: BaseException) -> bool:
    """Return whether this is a sys.exit() of the user's code in one of our threads, which ends only that thread."""
    return isinstance(exc, SystemExit) and threading.current_thread() is not threading.main_thread()


def async_stray(exc: BaseException) -> bool:
    """Return whether this cancels something that the task awaited, and not the task itself."""
    task = asyncio.current_task()
    return isinstance(exc, asyncio.CancelledError) and task is not None and not task.cancelling()


def loop_identity() -> object:
    """Return what a router is bound to: nothing, because threads may share it."""
    return None


def async_loop_identity() -> object:
    """Return what a router is bound to: the running loop."""
    return asyncio.get_running_loop()


def run_all(work: Callable[[], None], count: int, halt: Callable[[], None], name: str) -> None:
    """Run *work* in *count* threads, wait for all of them, and raise the first error.

    The first error, or an interrupt of the wait, calls *halt*; either is raised once all threads have ended.
    """
    errors: list[BaseException] = []
    begun: list[tuple[OneShotEvent, Worker]] = []

    def begin(number: int) -> None:
        ended = OneShotEvent()

        def guarded() -> None:
            try:
                work()
            except BaseException as exc:  # noqa: BLE001  (raised below)
                errors.append(exc)
                halt()
            finally:
                ended.set()

        begun.append((ended, spawn(guarded, f"{name}-{number}")))

    def wait() -> None:
        # Before Python 3.13 an interrupted join() marks a running thread as ended.
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
    """As `run_all`, in tasks; if the wait is cancelled, so are they."""
    errors: list[BaseException] = []

    async def guarded() -> None:
        try:
            await work()
        except BaseException as exc:  # noqa: BLE001  (raised below)
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
