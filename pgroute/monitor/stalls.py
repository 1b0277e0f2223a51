"""A wait whose timeout counts only while this process could have noticed the answer."""

from __future__ import annotations

import asyncio
from typing import Any

from pgroute.monitor.alarm import Alarm

STALL = 0.1
"""Seconds by which a timer may be late before its own loop counts as stalled."""

_EXTENSIONS = 5


async def stall_aware_wait(awaited: asyncio.Future[Any], timeout: float) -> bool:
    """Wait for *awaited* at most *timeout* seconds; return whether it is done. Never cancels it."""
    if awaited.done():
        return True
    alarm = Alarm()

    def ring(_: asyncio.Future[Any]) -> None:
        alarm.ring()

    awaited.add_done_callback(ring)
    try:
        return await stall_aware_alarm(alarm, timeout) or awaited.done()
    finally:
        awaited.remove_done_callback(ring)


async def stall_aware_alarm(alarm: Alarm, timeout: float) -> bool:
    """Wait at most *timeout* seconds; return whether the alarm rang.

    A late timer proves that this loop did not run: the GIL was held, the process stopped, the laptop suspended. It says
    nothing about the host, so the wait starts over, a bounded number of times.
    """
    loop = asyncio.get_running_loop()
    for _ in range(_EXTENSIONS):
        due = loop.time() + timeout
        if await alarm.wait(due):
            return True
        if loop.time() - due < STALL:
            return False
    return False
