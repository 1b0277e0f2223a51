"""Waiting until another thread or task has something to tell: for a change, for a connection, for work."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import select
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pgroute.runtime.credential_call import end_in_loop
from pgroute.runtime.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.runtime.credential_call import CredentialCall

_STEP = 0.05
"""Seconds after which a wait notices that nobody wants its outcome any more."""

_LONGEST_POLL = 1e6
"""Seconds; poll() takes a C int of milliseconds."""


class Changes:
    """A version number to wait for: `notify` changes it from any thread, `wait` returns when it has changed.

    It takes no lock, because an interrupt of `notify` or `wait` could leave one locked.
    """

    def __init__(self) -> None:
        self.version: int = 0
        self._versions = itertools.count(1)
        self._waiting: deque[Wakeup] = deque()

    @property
    def deserted(self) -> bool:
        """Whether nobody can wait any more."""
        return False

    def notify(self) -> None:
        """Wake every waiter."""
        self.version = next(self._versions)
        # A waiter that joins after this line sees the new version.
        for wakeup in tuple(self._waiting):
            wakeup.set()

    def wait(self, seen: int, timeout: float | None) -> None:
        """Return when `version` differs from *seen*, or after *timeout* seconds (None: not before)."""
        wakeup = Wakeup()
        self._waiting.append(wakeup)
        try:
            if self.version == seen:
                wakeup.wait(timeout)
        finally:
            self._waiting.remove(wakeup)


class AsyncChanges:
    """As Changes, for tasks of the loop that was running when it was made.

    Attributes:
        version: as in Changes.
        then: called in the loop after each change; None: nothing is.
    """

    def __init__(self) -> None:
        self.version: int = 0
        self.then: Callable[[], object] | None = None
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    @property
    def deserted(self) -> bool:
        """Whether nobody can wait any more: the loop is closed."""
        return self._loop.is_closed()

    def notify(self) -> None:
        """Wake every waiter; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self.version += 1
        self._event.set()
        self._event = asyncio.Event()
        if self.then is not None:
            self.then()

    async def wait(self, seen: int, timeout: float | None) -> None:
        """Return when `version` differs from *seen*, or after *timeout* seconds (None: not before)."""
        if self.version != seen:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()


class Waiter:
    """A caller in the queue of a pool: `wake` from any thread ends its `wait`.

    Args:
        since: monotonic seconds at which the caller began to wait.

    Attributes:
        item: the lease and connection that it was given; None until then.
        since: as given.
    """

    __slots__ = ("_bolt", "item", "since")

    def __init__(self, since: float) -> None:
        self.item: tuple[Any, Any] | None = None
        self.since = since
        self._bolt = threading.Lock()
        self._bolt.acquire()

    def wake(self) -> None:
        """End the wait, or the next one if none has begun."""
        with contextlib.suppress(RuntimeError):  # woken before
            self._bolt.release()

    def wait(self, timeout: float) -> None:
        """Return when woken, or after *timeout* seconds."""
        self._bolt.acquire(timeout=max(0.0, timeout))


class AsyncWaiter:
    """As Waiter, for a task; `wake` must be called in its loop."""

    __slots__ = ("_future", "_loop", "item", "since")

    def __init__(self, since: float) -> None:
        self.item: tuple[Any, Any] | None = None
        self.since = since
        self._loop = asyncio.get_running_loop()
        self._future = self._loop.create_future()

    def wake(self) -> None:
        """End the wait, or the next one if none has begun."""
        if not self._future.done():
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the caller gone
                self._future.set_result(None)

    async def wait(self, timeout: float) -> None:
        """Return when woken, or after *timeout* seconds. Unlike wait_for(), it never loses a cancellation."""
        handle = self._loop.call_later(timeout, self.wake)
        try:
            await self._future
        finally:
            handle.cancel()


class AsyncWakeup:
    """As Wakeup, for a task of the loop that was running when it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """End the current wait, or the next one."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the worker gone
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout: float | None) -> None:
        """Return when set, or after *timeout* seconds."""
        handle = None if timeout is None else self._loop.call_later(max(0.0, timeout), self._event.set)
        try:
            await self._event.wait()
        finally:
            if handle is not None:
                handle.cancel()
        self._event.clear()


class Doorbell:
    """Wakes one thread that waits for a socket, too; `ring` from any thread ends its wait, or the next one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may ring in between
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)

    def ring(self) -> None:
        """End the wait; does nothing once it is closed."""
        with self._lock, contextlib.suppress(OSError):  # full, so it rings already; or closed
            self._outside.send(b"!")

    def wait(self, fd: int | None, timeout: float | None) -> None:
        """Return when rung, when there is something to read, or after *timeout* seconds (None: not before).

        A wait of many days ends early.
        """
        poll = select.poll()
        poll.register(self._inside, select.POLLIN)
        if fd is not None:
            poll.register(fd, select.POLLIN)
        poll.poll(None if timeout is None else 1000.0 * min(max(0.0, timeout), _LONGEST_POLL))
        with contextlib.suppress(BlockingIOError):
            self._inside.recv(4096)

    def close(self) -> None:
        """Give the descriptors back."""
        with self._lock:
            self._inside.close()
            self._outside.close()


class AsyncDoorbell:
    """As Doorbell, for a task of the loop that was running when it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def ring(self) -> None:
        """End the wait, or the next one; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the worker gone
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, fd: int | None, timeout: float | None) -> None:
        """Return when rung, when there is something to read, or after *timeout* seconds (None: not before)."""
        handle = None if timeout is None else self._loop.call_later(max(0.0, timeout), self._event.set)
        try:
            if fd is not None:
                self._loop.add_reader(fd, self._event.set)
            await self._event.wait()
        finally:
            if handle is not None:
                handle.cancel()
            if fd is not None:
                self._loop.remove_reader(fd)
        self._event.clear()

    def close(self) -> None:
        """Do nothing: it has no descriptors."""


def wait_for_call(call: CredentialCall, timeout: float, unwanted: Callable[[], bool]) -> bool:
    """Return whether a call has ended, after *timeout* seconds at the latest, or soon after it became *unwanted*."""
    until = time.monotonic() + timeout
    while not call.wait(max(0.0, min(_STEP, until - time.monotonic()))):
        if unwanted() or time.monotonic() >= until:
            return False
    return True


async def async_wait_for_call(call: CredentialCall, timeout: float, unwanted: Callable[[], bool]) -> bool:
    """As `wait_for_call`."""
    ended, until = end_in_loop(call), time.monotonic() + timeout
    while True:
        await asyncio.wait({ended}, timeout=max(0.0, min(_STEP, until - time.monotonic())))
        if call.done or unwanted() or time.monotonic() >= until:
            return call.done
