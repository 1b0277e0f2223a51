"""Operations on local files, which may block: done in place, or beside the event loop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_PATIENCE = 2.0
"""Seconds for which the exit of the interpreter waits for files that are still to be removed."""

_late: set[threading.Thread] = set()
"""Threads that have a file to remove when a slow call before that is over."""


class Disk:
    """Calls functions that may block."""

    def do(self, fn: Callable[..., T], *args: Any) -> T:
        """Call a function and return its result."""
        return fn(*args)

    def end(self, fn: Callable[[], object], *, must: bool = False) -> None:
        """Call a last function."""
        fn()


class AsyncDisk:
    """Calls functions that may block in a thread of its own, in order.

    A thread of the loop's default executor would hold up the exit of the interpreter while it hangs.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stuck = False

    async def do(self, fn: Callable[..., T], *args: Any) -> T:
        """Call a function and return its result. If this is cancelled, the function goes on.

        Raises:
            psycopg.OperationalError: a thread cannot be started.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = fn(*args)
            except BaseException as exc:  # noqa: BLE001  (raised by whoever waits)
                tell(done.set_exception, exc)
            else:
                tell(done.set_result, result)

        def tell(how: Callable[[Any], None], what: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(lambda: None if done.done() else how(what))

        if self._thread is None:
            thread = threading.Thread(target=self._serve, name="pgroute-files", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:
                raise psycopg.OperationalError(f"cannot open the file: {exc}") from None
            self._thread = thread
        self._calls.put(work)
        try:
            return await done
        except asyncio.CancelledError:
            self._stuck = True
            raise

    async def end(self, fn: Callable[[], object], *, must: bool = False) -> None:
        """Call a last function, and wait for it unless a call before was cancelled.

        Args:
            fn: the function.
            must: the exit of the interpreter waits for it too, though not for long.
        """
        try:
            if self._thread is None:
                fn()
            elif self._stuck:
                if must:
                    _late.add(self._thread)
                self._calls.put(lambda: _quietly(fn))
            else:
                await self.do(fn)
        finally:
            self._calls.put(None)
            self._thread = None  # whatever follows is done in place

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            work()
        _late.discard(threading.current_thread())


@atexit.register
def _wait_for_the_late() -> None:
    deadline = time.monotonic() + _PATIENCE
    for thread in tuple(_late):
        thread.join(max(0.0, deadline - time.monotonic()))


def _quietly(fn: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        fn()


def settle(value: Any) -> Any:
    """Return what a user's function has returned.

    Raises:
        TypeError: that is to be awaited.
    """
    if hasattr(value, "__await__"):
        if hasattr(value, "close"):
            value.close()
        raise TypeError("a file, function or iterable whose results are awaited is for AsyncRouter")
    return value


async def async_settle(value: Any) -> Any:
    """Return what a user's function has returned, awaited if it is to be."""
    return await value if hasattr(value, "__await__") else value
