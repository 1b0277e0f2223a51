"""Keeps the pools of a role from connecting to a host again too soon: no storm of refused logins."""

from __future__ import annotations

import enum
import random
import time
from typing import TYPE_CHECKING

import psycopg

from pgroute.core.routing.admission import Admission, is_fresh
from pgroute.core.routing.set_aside import SetAside
from pgroute.core.schedule import login_spread

if TYPE_CHECKING:
    from collections.abc import Container

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.errors import ConfigError


class BackedOff(psycopg.OperationalError):
    """It is too early for another attempt; the text is that of the last failure."""


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
    """The last failure to connect to each host, and until when it blocks further attempts; from any thread.

    What was learned of one generation of a host says nothing about the next: a new primary is connected to at once.

    Attributes:
        aside: the hosts that are offered last meanwhile.
        mistake: in the user's configure, so that no connection can be opened to any host; None: there is none.
    """

    def __init__(self) -> None:
        self.aside: SetAside = SetAside()
        self.mistake: ConfigError | None = None
        self._failures: dict[HostKey, tuple[int, float, str]] = {}
        self._logins: dict[HostKey, tuple[int, float, str]] = {}
        self._options: dict[HostKey, tuple[int, Options]] = {}
        self._rng = random.Random()
        self._trials: dict[HostKey, object] = {}
        self._last: dict[HostKey, tuple[int, str]] = {}
        self._told: dict[HostKey, int] = {}
        self._admissions: dict[HostKey, tuple[int, Admission]] = {}

    def sharing_logins(self) -> ConnectBackoff:
        """Return the backoff of another role with the same login: a login refused to one is refused to both."""
        other = ConnectBackoff()
        other._logins = self._logins
        other._trials = self._trials
        return other

    def begin_trial(self, host: HostInfo, who: object) -> bool:
        """Return whether *who* may try a login alone, while others wait for its outcome, until `end_trial`."""
        return self._trials.setdefault(host.key, who) is who

    def end_trial(self, host: HostInfo, who: object) -> None:
        """Let another one try, if the trial is that of *who*."""
        if self._trials.get(host.key) is who:
            del self._trials[host.key]

    def retain(self, listed: Container[HostKey]) -> None:
        """Forget all other hosts: one that comes back is of another generation."""
        self.aside.retain(listed)
        for known in (self._failures, self._logins, self._options, self._last, self._told, self._admissions):
            for key in tuple(known):
                if key not in listed:
                    known.pop(key, None)

    def admission(self, host: HostInfo, slots: int) -> Admission:
        """Return what bounds how fast connections are opened; the same for all pools to one generation of a host.

        Args:
            host: which.
            slots: the server's max_connections.
        """
        generation, admission = self._admissions.get(host.key, (-1, None))
        if admission is None or generation != host.generation:
            now = time.monotonic()
            fresh = is_fresh(
                generation=host.generation, returned_at=host.returned_at, since=host.since, now=now
            )
            admission = Admission(now, self._rng, spread=login_spread(slots), fresh=fresh)
            self._admissions[host.key] = host.generation, admission
        return admission

    def record_failure(
        self, host: HostInfo, failure: psycopg.Error, seconds: float, *, login: bool = False
    ) -> None:
        """Block attempts to connect to a host.

        Args:
            host: which.
            failure: why; its text is shown until a connect succeeds.
            seconds: for how long.
            login: the login itself was refused: roles that share it are blocked too.
        """
        now = time.monotonic()
        failures = self._logins if login else self._failures
        for key, (_, until, _) in tuple(failures.items()):
            if until < now:  # of hosts that left, too
                failures.pop(key, None)
        # An attempt at an earlier generation may have taken longer.
        if failures.get(host.key, (-1,))[0] <= host.generation:
            failures[host.key] = (host.generation, now + seconds, str(failure))
        if self._last.get(host.key, (-1,))[0] <= host.generation:
            self._last[host.key] = (host.generation, str(failure))

    def record_success(self, host: HostInfo) -> None:
        """Forget the text of the last failure, and offer the host as before."""
        self.aside.succeeded(host.key)
        self.mistake = None
        self._last.pop(host.key, None)
        self._told.pop(host.key, None)

    def tell(self, host: HostInfo) -> bool:
        """Return whether a failure is worth a line in the log: only the first one since the last success is."""
        first = self._told.get(host.key) != host.generation
        self._told[host.key] = host.generation
        return first

    def last_failure(self, host: HostInfo | Candidate) -> BackedOff | None:
        """Return the last failure since the last success, also if it blocks no more: callers may wake late."""
        try:
            self.check(host)
        except BackedOff as exc:
            return exc
        generation, text = self._last.get(host.key, (-1, ""))
        return BackedOff(text) if generation == host.generation else None

    def check(self, host: HostInfo | Candidate) -> None:
        """Raise BackedOff while a failure blocks connecting."""
        for failures in (self._failures, self._logins):
            generation, until, text = failures.get(host.key, (-1, 0.0, ""))
            if generation == host.generation and time.monotonic() < until:
                raise BackedOff(text)

    def note_options(self, host: HostInfo, options: Options) -> None:
        """Remember whether a host takes our settings."""
        self._options[host.key] = (host.generation, options)

    def options(self, host: HostInfo) -> Options:
        """Return whether a host takes our settings."""
        generation, options = self._options.get(host.key, (-1, Options.SENT))
        return options if generation == host.generation else Options.SENT
