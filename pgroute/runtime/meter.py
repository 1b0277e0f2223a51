"""The counters of one router, and the observer that is told of each session."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pgroute.core.faults.classify import FaultKind
from pgroute.core.model.durations import OUTAGE_BOUNDS, QUICK, Durations
from pgroute.core.model.events import EventKind
from pgroute.core.model.roles import HostRole, Role, SessionAttrs
from pgroute.core.model.stats import RouterCounts
from pgroute.core.topology.writer_history import WriterHistory
from pgroute.errors import NoHostAvailable, PoolExhausted, PositionLost, RouterClosed, SplitBrainError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgroute.core.faults.classify import Fault
    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.events import Event
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology

# Looked up on the way of each session, where an attribute of an enumeration costs 0.1 us.
_PREFERRED, _PRIMARY = SessionAttrs.PREFER_STANDBY, HostRole.PRIMARY

_OTHER = "other"
_CANCELLED = "cancelled"
_UNKNOWN = "commit-unknown"
_CAUSES = tuple(
    kind.value for kind in (FaultKind.LOST, FaultKind.READ_ONLY, FaultKind.SERIALIZATION, FaultKind.DEADLOCK)
)
_ERRORS = tuple(error.__name__ for error in (NoHostAvailable, PoolExhausted, SplitBrainError, PositionLost))
MET, BEHIND = "met", "behind"


class Observed(Protocol):
    """One session, as an observer keeps it."""

    def failed(self, exc: BaseException) -> None:
        """Take note of the error that ended the session; the error itself must not be kept."""
        ...

    def ended(self, seconds: float) -> None:
        """Take note of its end, after so many seconds; called once."""
        ...


class Leased(Protocol):
    """What the router keeps of a connection; see `_async/pool/lease.py`.

    Attributes:
        taken_at: monotonic seconds at which a session got it; None: no session has it.
        observed: told of the end of the session; None: nobody observes it.
    """

    taken_at: float | None
    observed: Observed | None


class Observer(Protocol):
    """Is told of each session, on its way: nothing here may block or raise."""

    def begun(self, role: Role, key: HostKey, since: float, waited: float, attempt: int) -> Observed:
        """Return what is told of the rest of a session that has its connection now.

        Args:
            role: whose pool it comes from.
            key: the host.
            since: monotonic seconds at which it was asked for.
            waited: seconds from then on.
            attempt: of its transaction, from 1.
        """
        ...

    def refused(self, role: Role, since: float, attempt: int, exc: BaseException) -> None:
        """Take note of a session that could not be had; the arguments are those of `begun`."""
        ...

    def connected(self, role: Role, key: HostKey, seconds: float) -> None:
        """Take note of a connection that was opened for a pool."""
        ...

    def failed_over(self, seconds: float) -> None:
        """Take note that writers go to another host, after so many seconds; called in the monitor's thread."""
        ...


class _Writers(NamedTuple):
    """The history, as it is now and when the router was closed; one object, so that it is read in one step."""

    history: WriterHistory
    closed_at: float | None = None


class Meter:
    """Counts what happens to the sessions and the hosts of a router; from any thread, without a lock.

    All keys are there from the beginning: a counter that only appears with its first event hides that event from those
    who look at increases.

    Attributes:
        observer: is told of each session; None: nobody is.
        waiting: how many callers wait for a host, by role; those in the queue of a pool are not among them.
        waits: how long sessions waited for their connection, by role.
        retries: by cause.
        commits_unknown, readers_on_primary, sessions_aborted: how many.
        failover_times: how long failovers took.
    """

    def __init__(self) -> None:
        self.observer: Observer | None = None
        self.waiting: dict[Role, int] = dict.fromkeys(Role, 0)
        self.waits: dict[Role, Durations] = {role: Durations() for role in Role}
        self.retries: dict[str, int] = dict.fromkeys((*_CAUSES, _UNKNOWN, _OTHER), 0)
        self.commits_unknown: int = 0
        self.readers_on_primary: int = 0
        self.sessions_aborted: int = 0
        self.failover_times: Durations = Durations(OUTAGE_BOUNDS)
        self._errors = {role: dict.fromkeys((*_ERRORS, _CANCELLED, _OTHER), 0) for role in Role}
        self._position_waits = {MET: 0, BEHIND: 0}
        self._position_seconds = 0.0
        self._events = dict.fromkeys((kind.value for kind in EventKind), 0)
        self._writers = _Writers(WriterHistory())

    def begun(
        self,
        lease: Leased,
        attrs: SessionAttrs,
        role: Role,
        candidate: Candidate,
        *,
        since: float,
        attempt: int,
    ) -> None:
        """Count a session that has its connection now. It makes no call, unless a session waited or is observed.

        Args:
            lease: of the connection.
            attrs: which hosts were accepted.
            role: whose pool it comes from.
            candidate: the host.
            since: monotonic seconds at which the session was asked for.
            attempt: of its transaction, from 1.
        """
        lease.taken_at = now = time.monotonic()
        waits, waited = self.waits[role], now - since
        if waited < QUICK:
            waits.quick += 1
            waits.quick_total += waited
        else:
            waits.add(waited)
        if attrs is _PREFERRED and candidate.role is _PRIMARY:
            self.readers_on_primary += 1
        if self.observer is not None:
            lease.observed = self.observer.begun(role, candidate.key, since, waited, attempt)

    def refused(self, role: Role, since: float, attempt: int, exc: BaseException) -> None:
        """Count a session that could not be had, for whatever reason but that the router is not open."""
        if isinstance(exc, RouterClosed):
            return
        name = type(exc).__name__ if isinstance(exc, Exception) else _CANCELLED
        self._errors[role][name if name in self._errors[role] else _OTHER] += 1
        if self.observer is not None:
            self.observer.refused(role, since, attempt, exc)

    def run_again(self, fault: Fault) -> None:
        """Count a transaction or statement that is run again."""
        cause = _UNKNOWN if fault.commit_unknown else fault.kind.value
        self.retries[cause if cause in self.retries else _OTHER] += 1

    def position_waited(self, outcome: str, seconds: float) -> None:
        """Count a session that asked a standby for its position; *outcome* is MET or BEHIND."""
        self._position_waits[outcome] += 1
        self._position_seconds += seconds

    def on_events(self, events: Iterable[Event]) -> None:
        """Count events."""
        for event in events:
            self._events[event.kind.value] += 1

    def on_snapshot(self, topology: Topology) -> None:
        """Take note of a new snapshot; called in the monitor's thread alone."""
        before = self._writers.history
        history = before.after(topology)
        if history is before:
            return
        self._writers = _Writers(history)
        if history.failovers != before.failovers:
            self.failover_times.add(history.outage)
            if self.observer is not None:
                self.observer.failed_over(history.outage)

    def close(self) -> None:
        """Count no more time: nobody watches the hosts any more. May be called again."""
        if self._writers.closed_at is None:
            self._writers = _Writers(self._writers.history, time.monotonic())

    def outage(self, topology: Topology) -> tuple[float, float]:
        """Return the seconds without a host to write to: those of the outage that goes on, and all of them."""
        writers = self._writers
        now = time.monotonic() if writers.closed_at is None else writers.closed_at
        current = writers.history.current_outage(topology, now)
        # Not before the first one: if there is to be none, this is no outage, which is only known later.
        total = writers.history.seconds + (0.0 if writers.history.last is None else current)
        return 0.0 if writers.closed_at is not None else current, total

    def counts(self, topology: Topology) -> RouterCounts:
        """Return the counts so far."""
        history = self._writers.history
        return RouterCounts(
            sessions={role.value: waits.read().count for role, waits in self.waits.items()},
            session_errors={role.value: dict(errors) for role, errors in self._errors.items()},
            retries=dict(self.retries),
            commits_unknown=self.commits_unknown,
            readers_on_primary=self.readers_on_primary,
            position_waits=dict(self._position_waits),
            position_wait_seconds=self._position_seconds,
            failovers=history.failovers,
            failover_seconds=self.failover_times.read().total,
            outages=history.outages,
            without_writer_seconds=self.outage(topology)[1],
            sessions_aborted=self.sessions_aborted,
            events=dict(self._events),
        )
