"""What keeps the pools of a role from connecting to a host again too soon: no storm of refused logins."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from pgroute.core.balance import Candidate
    from pgroute.core.hosts import HostInfo
    from pgroute.core.roles import HostKey


class Barred(psycopg.OperationalError):
    """It is too early for another attempt; the text is the last one's."""


class Bars:
    """The last failure of each host, and until when it counts; from any thread.

    What was learned of one generation says nothing of the next: a new primary is connected to at once.
    """

    def __init__(self) -> None:
        self._bars: dict[HostKey, tuple[int, float, str]] = {}

    def put(self, host: HostInfo, failure: psycopg.Error, seconds: float) -> None:
        """Keep everybody from connecting to a host for some seconds."""
        self._bars[host.key] = (host.generation, time.monotonic() + seconds, str(failure))

    def check(self, host: HostInfo | Candidate) -> None:
        """Raise Barred while a failure bars connecting."""
        generation, until, text = self._bars.get(host.key, (-1, 0.0, ""))
        if generation == host.generation and time.monotonic() < until:
            raise Barred(text)
