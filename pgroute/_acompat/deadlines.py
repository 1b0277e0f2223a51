"""Time limits of a block: what is called when it takes too long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pgroute.runtime.timers import timers

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self


class Watchdog:
    """Call a function unless the block ends in time; while no router is open, nothing is called.

    After the block the function has either run to its end or never will.

    Args:
        timeout: seconds.
        fn: called in the timer's thread (AsyncWatchdog: in the loop).
    """

    __slots__ = ("_alarm", "_fn", "_timeout")

    def __init__(self, timeout: float, fn: Callable[[], object]) -> None:
        self._timeout = timeout
        self._fn = fn

    def __enter__(self) -> Self:
        self._alarm = timers.set(self._timeout, self._fn)
        return self

    def extend(self) -> None:
        """Begin the time again, within the block."""
        self._alarm.cancel()
        self._alarm = timers.set(self._timeout, self._fn)

    def __exit__(self, *_: object) -> None:
        self._alarm.cancel()


class AsyncWatchdog:
    """As Watchdog, in the running loop, which needs no router for it."""

    __slots__ = ("_fn", "_handle", "_timeout")

    def __init__(self, timeout: float, fn: Callable[[], object]) -> None:
        self._timeout = timeout
        self._fn = fn

    async def __aenter__(self) -> Self:
        self._handle = asyncio.get_running_loop().call_later(self._timeout, self._fn)
        return self

    def extend(self) -> None:
        """Begin the time again, within the block."""
        self._handle.cancel()
        self._handle = asyncio.get_running_loop().call_later(self._timeout, self._fn)

    async def __aexit__(self, *_: object) -> None:
        self._handle.cancel()


def keep_time(who: object) -> None:
    """Start the thread that Watchdog needs, for *who*, until `stop_keeping_time`."""
    timers.acquire(who)


def async_keep_time(who: object) -> None:
    """Do nothing: the loop keeps the time."""


def stop_keeping_time(who: object) -> None:
    """End that thread, unless others need it."""
    timers.release(who)


def async_stop_keeping_time(who: object) -> None:
    """Do nothing: the loop keeps the time."""
