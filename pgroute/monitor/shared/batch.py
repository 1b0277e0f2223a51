"""What can wait a moment before other processes are told: so each wakes up once for all hosts, and not for each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MOMENT = 0.02
"""Seconds: the hosts are probed together, and answer within less."""


class Batch:
    """Calls functions together, a moment after the first of them was added. In the monitor's loop."""

    def __init__(self) -> None:
        self._waiting: dict[Callable[[], None], None] = {}

    def add(self, tell: Callable[[], None]) -> None:
        """Have a function called soon, once however often it is added."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(_MOMENT, self._go)
        self._waiting[tell] = None

    def _go(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for tell in waiting:
            tell()
