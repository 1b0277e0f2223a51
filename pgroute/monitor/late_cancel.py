"""Cancel requests that a server did not take while the caller could wait for it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import psycopg
from psycopg import generators
from psycopg.waiting import wait_conn_async

if TYPE_CHECKING:
    from psycopg.pq.abc import PGcancelConn

_LONGEST = 10.0
"""Seconds for which it is tried. A server that is silent for longer is likely restarted: that ends the statement."""

_ATTEMPT = 2.0
"""Seconds for one attempt: a lost packet may hold up one for longer."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_INTERVAL = 1.0


async def deliver(request: PGcancelConn, after: float) -> None:
    """Send a cancel request to its server until that takes it, for 10 s.

    It does nothing there if the session has ended meanwhile.

    Args:
        request: made while the connection of the statement was open, not started.
        after: seconds to wait before.
    """
    until = time.monotonic() + _LONGEST
    pause = _FIRST_PAUSE
    try:
        await asyncio.sleep(after)
        while (left := until - time.monotonic()) > 0:
            try:
                request.start()
                await wait_conn_async(generators.cancel(request), _INTERVAL, min(left, _ATTEMPT))
            except psycopg.Error:
                request.reset()
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
    finally:
        request.finish()
