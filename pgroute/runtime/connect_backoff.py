"""What keeps the pools of a role from connecting to a host again too soon: no storm of refused logins."""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import Container

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey


class BackedOff(psycopg.OperationalError):
    """It is too early for another attempt; the text is the last one's."""


class Options(enum.Enum):
    """Whether a host takes our settings at the start of a session (libpq's ``options``).

    Attributes:
        SENT: as far as is known.
        DOUBTED: a login with them was refused, and the text did not tell why.
        LEFT_OUT: it does not.
    """

    SENT = "sent"
    DOUBTED = "doubted"
    LEFT_OUT = "left out"


class ConnectBackoff:
    """The last failure of each host, and until when it counts; from any thread.

    What was learned of one generation says nothing of the next: a new primary is connected to at once.
    """

    def __init__(self) -> None:
        self._bars: dict[HostKey, tuple[int, float, str]] = {}
        self._logins: dict[HostKey, tuple[int, float, str]] = {}
        self._options: dict[HostKey, tuple[int, Options]] = {}
        self._trying: dict[HostKey, object] = {}
        self._last: dict[HostKey, tuple[int, str]] = {}

    def twin(self) -> ConnectBackoff:
        """Return the bars of another role that logs in alike: a login refused to one is refused to both."""
        bars = ConnectBackoff()
        bars._logins = self._logins
        bars._trying = self._trying
        return bars

    def try_alone(self, host: HostInfo, who: object) -> bool:
        """Whether somebody is the one who finds out what a host says to a login, until `tried`."""
        return self._trying.setdefault(host.key, who) is who

    def tried(self, host: HostInfo, who: object) -> None:
        """Let another one try, if it was this one's turn."""
        if self._trying.get(host.key) is who:
            del self._trying[host.key]

    def keep(self, listed: Container[HostKey]) -> None:
        """Forget the hosts that are listed no more: one that comes back is of another generation."""
        for known in (self._bars, self._logins, self._options, self._last):
            for key in tuple(known):
                if key not in listed:
                    known.pop(key, None)

    def put(self, host: HostInfo, failure: psycopg.Error, seconds: float, *, login: bool = False) -> None:
        """Keep everybody from connecting to a host for some seconds; *login*: it was refused for the login as such."""
        now = time.monotonic()
        bars = self._logins if login else self._bars
        for key, (_, until, _) in tuple(bars.items()):
            if until < now:  # of hosts that left, too
                bars.pop(key, None)
        bars[host.key] = (host.generation, now + seconds, str(failure))
        self._last[host.key] = (host.generation, str(failure))

    def connected(self, host: HostInfo) -> None:
        """Note that connecting to a host succeeded: what failed there before is no reason any more."""
        self._last.pop(host.key, None)

    def why(self, host: HostInfo | Candidate) -> BackedOff | None:
        """Return the last failure since the last success, whether it still bars or not: callers may wake late."""
        try:
            self.check(host)
        except BackedOff as exc:
            return exc
        generation, text = self._last.get(host.key, (-1, ""))
        return BackedOff(text) if generation == host.generation else None

    def check(self, host: HostInfo | Candidate) -> None:
        """Raise BackedOff while a failure bars connecting."""
        for bars in (self._bars, self._logins):
            generation, until, text = bars.get(host.key, (-1, 0.0, ""))
            if generation == host.generation and time.monotonic() < until:
                raise BackedOff(text)

    def note_options(self, host: HostInfo, options: Options) -> None:
        """Remember whether a host takes our settings."""
        self._options[host.key] = (host.generation, options)

    def options(self, host: HostInfo) -> Options:
        """Return whether a host takes our settings."""
        generation, options = self._options.get(host.key, (-1, Options.SENT))
        return options if generation == host.generation else Options.SENT
