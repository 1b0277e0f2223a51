"""Waiting with a timeout that counts only while this process could have noticed the answer."""

from __future__ import annotations

import asyncio
from typing import Any

STALL = 0.1
"""Seconds by which a timer may be late before its own loop is taken to have been stalled."""

_EXTENSIONS = 5


async def patient(awaited: asyncio.Future[Any], timeout: float) -> bool:
    """Wait for *awaited* at most *timeout* seconds; return whether it is done. Never cancels it.

    A timer that comes late proves that this loop did not run (a held GIL, a stopped process, a suspended laptop),
    and so nothing about the host: the wait begins anew, a bounded number of times.
    """
    loop = asyncio.get_running_loop()
    for _ in range(_EXTENSIONS):
        due = loop.time() + timeout
        await asyncio.wait({awaited}, timeout=timeout)
        if awaited.done():
            return True
        if loop.time() - due < STALL:
            return False
    return False
