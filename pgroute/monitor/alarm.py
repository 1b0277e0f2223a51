"""A wait of one task that ends at a set time, or earlier if somebody calls: with one future and one timer."""

from __future__ import annotations

import asyncio


class Alarm:
    """Wakes one task. Used in one loop only.

    `asyncio.Event` under `asyncio.timeout` does the same with several objects and turns of the loop more, each time.

    Attributes:
        rung: somebody has called.
    """

    __slots__ = ("_waiter", "rung")

    def __init__(self) -> None:
        self.rung: bool = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """End the current wait, or the next one unless `clear` comes first."""
        self.rung = True
        if self._waiter is not None:
            _end(self._waiter)

    def clear(self) -> None:
        """Forget that somebody called."""
        self.rung = False

    async def wait(self, until: float) -> bool:
        """Return whether somebody called before that time of the loop, which is monotonic seconds."""
        if not self.rung:
            loop = asyncio.get_running_loop()
            waiter = self._waiter = loop.create_future()
            timer = loop.call_at(until, _end, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                self._waiter = None
        return self.rung


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
