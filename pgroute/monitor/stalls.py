"""A wait whose timeout counts only while this process could have noticed the answer."""

from __future__ import annotations

import asyncio
from typing import Any

from pgroute.monitor.alarm import Alarm

STALL = 0.1
"""Seconds by which a timer may be late before its own loop counts as stalled."""

_EXTENSIONS = 5


async def stall_aware_wait(awaited: asyncio.Future[Any], timeout: float) -> bool:
    """Wait for *awaited* at most *timeout* seconds; return whether it is done. Never cancels it.

    A late timer proves that this loop did not run: the GIL was held, the process stopped, the laptop suspended. It says
    nothing about the host, so the wait starts over, a bounded number of times.
    """
    loop = asyncio.get_running_loop()
    alarm = Alarm()

    def ring(_: asyncio.Future[Any]) -> None:
        alarm.ring()

    awaited.add_done_callback(ring)
    try:
        for _ in range(_EXTENSIONS):
            due = loop.time() + timeout
            await alarm.wait(due)
            if awaited.done():
                return True
            if loop.time() - due < STALL:
                return False
    finally:
        awaited.remove_done_callback(ring)
    return False
