"""The steps of an acquisition: which host to try next, how long to wait, or with which error to give up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgroute.core.model.roles import SessionAttrs
from pgroute.core.routing.demand import Proof, never_primary
from pgroute.core.routing.first_choice import as_they_are
from pgroute.core.routing.outcomes import Outcomes
from pgroute.core.routing.warm_up import choose

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.roles import HostKey
    from pgroute.core.routing.balance import Policy
    from pgroute.core.routing.demand import Demand
    from pgroute.core.routing.replayed import Replayed
    from pgroute.core.topology.snapshot import Groups, Topology
    from pgroute.errors import AcquireTimeout

PATIENCE = 1.0
"""Seconds after which a reader that queues for a connection to one host is routed again."""

_STANDBYS_SHARE = 0.5
"""The share of the time left in which standbys may get to a position, before the primary is tried."""

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Try:
    """Ask this host's pool, for at most *timeout* seconds."""

    candidate: Candidate
    timeout: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a change of the topology, until *until* (monotonic seconds) at the latest."""

    until: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Raise *error*."""

    error: AcquireTimeout


Step = Try | Wait | GiveUp


def patience(attrs: SessionAttrs, left: float) -> float:
    """Return the seconds to queue for a connection to one host.

    A writer stays until its deadline: no other host could serve it, and if its host loses the role, the pool is closed,
    which wakes it.

    Args:
        attrs: what the host must be.
        left: seconds to the deadline.
    """
    if attrs is SessionAttrs.READ_WRITE or attrs is SessionAttrs.PRIMARY:
        return max(0.0, left)
    return max(0.0, min(PATIENCE, left))


class Acquisition:
    """The steps of one caller whose first choice had no free connection, up to the session or the error.

    Args:
        attrs: what the host must be.
        policy: chooses among equally good hosts.
        rng: for the policy.
        deadline: monotonic seconds.
        timeout: the whole time allowed in seconds, for the error text.
        role: the pool's role, for the error text.
        demand: what the session demands of the host's data; None: nothing.
        replayed: what standbys have told in sessions; None: nothing.
        arrange: puts hosts behind the others to which no connection can be opened.
    """

    __slots__ = (
        "_arrange", "_ask_until", "_attrs", "_backoff", "_deadline", "_demand", "_immediate", "_looked", "_outcomes",
        "_pause", "_policy", "_replayed", "_retry_at", "_rng", "_role", "_timeout", "_tried",
    )  # fmt: skip

    def __init__(
        self,
        attrs: SessionAttrs,
        policy: Policy,
        rng: Random,
        *,
        deadline: float,
        timeout: float,
        role: str,
        demand: Demand | None = None,
        replayed: Replayed | None = None,
        arrange: Callable[[Groups], Groups] = as_they_are,
    ) -> None:
        self._arrange = arrange
        self._attrs = attrs
        self._policy = policy
        self._rng = rng
        self._deadline = deadline
        self._timeout = timeout
        self._role = role
        self._demand = demand
        self._replayed = replayed
        self._ask_until: float | None = None
        self._looked = False
        self._tried: set[tuple[HostKey, int]] = set()
        self._outcomes = Outcomes()
        self._pause = _FIRST_PAUSE
        self._backoff = False
        self._retry_at: float | None = None
        self._immediate: bool | None = None

    def step(self, topology: Topology, now: float, load: Callable[[HostKey], int]) -> Step:
        """Return what to do next.

        If the deadline has passed at the first step, each host is still tried once without waiting: a timeout of 0
        means "what is ready now".

        Raises:
            ConfigError, PositionLost: no host can satisfy the demand; see `Demand.check`.
        """
        groups = self._groups(topology, now)
        late = now >= self._deadline
        if self._immediate is None:
            self._immediate = late
        if late and not self._immediate:
            return GiveUp(self._error(topology, now))
        if chosen := self._untried(topology, groups, load, now):
            return Try(chosen, self.patience(topology, chosen, now, load))
        if late:
            return GiveUp(self._error(topology, now))
        if not groups:
            # Waiting does not help against a wrong password. A host that accepted it once may do so again.
            if topology.locked_out or self._hopeless(now):
                return GiveUp(self._error(topology, now))
            return Wait(self._deadline if self._demand is None else min(self._deadline, now + self._grow()))
        if self._outcomes.turned_away_by_all(groups):
            return GiveUp(self._error(topology, now))
        # Every host was tried: try all again, after a pause unless the time was spent in their queues.
        if self._backoff:
            # Changes of the topology do not shorten the pause: a host that serves again was untried above.
            if self._retry_at is None:
                # Callers of all processes began to wait at the same moment.
                self._retry_at = now + self._grow() * (0.5 + self._rng.random())
            if now < self._retry_at:
                return Wait(min(self._deadline, self._retry_at))
            self._backoff = False
            self._retry_at = None
        self._tried.clear()
        chosen = self._choose(topology, groups[0], load, now)
        return Try(chosen, self.patience(topology, chosen, now, load))

    def _groups(self, topology: Topology, now: float) -> Groups:
        groups = topology.candidates[self._attrs]
        if self._demand is not None:
            self._demand.check(topology)
            asking = not self._asked_enough(now)
            groups = self._demand.arrange(groups, topology, now, asking=asking, replayed=self._replayed)
        return self._arrange(groups)

    def _asked_enough(self, now: float) -> bool:
        """Return whether the time is over in which a standby may get to the position that is waited for."""
        waits = self._demand is not None and self._demand.after is not None
        return waits and self._ask_until is not None and now >= self._ask_until

    def _hopeless(self, now: float) -> bool:
        """Return whether only the primary is left, and these attributes exclude it."""
        only_primary = self._asked_enough(now) or (self._demand is not None and self._demand.primary)
        return only_primary and never_primary(self._attrs)

    def _grow(self) -> float:
        """Return the pause before the next look; the one after that is longer."""
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        return pause

    def ask_until(self, topology: Topology, now: float) -> float:
        """Return until when the next standby may be asked for its position (monotonic seconds).

        The time to wait begins with the first one, at the latest when it is asked, and those that may still be asked
        share it.
        """
        if self._demand is None:
            return now
        if self._ask_until is None:
            wait = 0.0 if self._demand.after is None else self._demand.wait
            left = self.left(now)
            # Part of the time is the primary's, where that would do.
            self._ask_until = now + min(wait, left if never_primary(self._attrs) else left * _STANDBYS_SHARE)
        left = sum(
            self._demand.proof(topology, c, now, self._replayed) is Proof.ASK
            for group in topology.candidates[self._attrs]
            for c in group
            if (c.key, c.generation) not in self._tried
        )
        return now + max(0.0, self._ask_until - now) / max(1, left)

    def is_outdated(self, topology: Topology) -> bool:
        """Return True once if the position is of a timeline that the router has not seen yet: all must be probed."""
        if self._looked or self._demand is None or not self._demand.is_ahead(topology):
            return False
        self._looked = True
        return True

    def behind(self, candidate: Candidate) -> None:
        """Report that a standby was asked, and does not satisfy the demand."""
        self._tried.add((candidate.key, candidate.generation))
        self._backoff = True

    def patience(
        self, topology: Topology, candidate: Candidate, now: float, load: Callable[[HostKey], int]
    ) -> float:
        """Return the seconds to queue for a connection to one host.

        Where the primary would do, the queue for a standby that must be asked for its position counts as waiting for
        it. Without sessions there, its pool may have to connect first, which takes its time once.
        """
        seconds = patience(self._attrs, self._deadline - now)
        demand = self._demand
        if demand is None or demand.after is None or never_primary(self._attrs) or not load(candidate.key):
            return seconds
        if demand.proof(topology, candidate, now, self._replayed) is not Proof.ASK:
            return seconds
        return min(seconds, max(0.0, self.ask_until(topology, now) - now))

    def left(self, now: float) -> float:
        """Return the seconds to the deadline; 0 if it has passed."""
        return max(0.0, self._deadline - now)

    def _choose(
        self, topology: Topology, group: tuple[Candidate, ...], load: Callable[[HostKey], int], now: float
    ) -> Candidate:
        return choose(self._policy, group, load, self._rng, last_return=topology.last_return, now=now)

    def _untried(
        self, topology: Topology, groups: Groups, load: Callable[[HostKey], int], now: float
    ) -> Candidate | None:
        for group in groups:
            left = group
            if self._tried:
                left = tuple(c for c in group if (c.key, c.generation) not in self._tried)
            if left:
                return self._choose(topology, left, load, now)
        return None

    def exhausted(self, candidate: Candidate, detail: str, *, refused: bool = False) -> None:
        """Report that no connection of a pool became free in the time allowed.

        Args:
            candidate: the host.
            detail: the sizes and users of its pool, for the error text.
            refused: its queue was full (max_waiting).
        """
        self._tried.add((candidate.key, candidate.generation))
        self._outcomes.exhausted(candidate.key, detail, refused=refused)
        if refused:
            self._backoff = True

    def failed(self, candidate: Candidate, cause: Exception, *, in_use: int = 0) -> None:
        """Report that a pool was closed, or that connecting failed.

        Args:
            candidate: the host.
            cause: the error, for the error text.
            in_use: the connections of its pool that are in use.
        """
        self._tried.add((candidate.key, candidate.generation))
        self._outcomes.failed(candidate.key, cause, in_use)
        self._backoff = True

    def _error(self, topology: Topology, now: float) -> AcquireTimeout:
        within = f" within {self._timeout:.3g} s" if now >= self._deadline else ""
        wanted = f"{self._attrs.value}, {self._demand}" if self._demand is not None else self._attrs.value
        missing = f"no {self._role} session ({wanted}){within}"
        return self._outcomes.error(missing, topology, self._groups(topology, now), self._demand, now)
