"""An event loop on a clock of its own that runs whichever ready callback a generator of random numbers picks."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from random import Random
from typing import Any

START = 1000.0
MOST_STEPS = 400_000


class Stuck(Exception):
    """Nothing can go on, or nothing comes to an end."""


class ShuffledLoop(asyncio.BaseEventLoop):
    """No I/O: where nothing is ready, the clock jumps to the next timer.

    Args:
        rng: picks.
        after: called after each callback.
    """

    def __init__(self, rng: Random, after: Callable[[], None]) -> None:
        super().__init__()
        self.now = START
        self.steps = 0
        self._pick = rng.random
        self._after = after
        self._ready: Any
        self._scheduled: list[Any]

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        ready, timers = self._ready, self._scheduled
        while timers and (timers[0]._cancelled or timers[0]._when <= self.now or not ready):
            timer = heapq.heappop(timers)
            timer._scheduled = False
            if not timer._cancelled:
                self.now = max(self.now, timer._when)
                ready.append(timer)
        if not ready:
            if self._stopping:  # type: ignore[attr-defined]
                return
            raise Stuck("nothing is ready, and no timer runs")
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Stuck(f"not at the end after {MOST_STEPS} callbacks")
        ready.rotate(-int(self._pick() * len(ready)))
        handle = ready.popleft()
        if not handle._cancelled:
            handle._run()
        self.now += 1e-5 * self._pick()
        self._after()

    def _write_to_self(self) -> None:
        pass

    def _process_events(self, event_list: object) -> None:
        pass
