"""The step machine of an acquisition: which host to try next, how long to wait, or with which error to give up."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pgroute.core.faults.classify import one_line
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole, SessionAttrs
from pgroute.core.routing.demand import Proof, never_primary
from pgroute.core.routing.warm_up import choose
from pgroute.core.topology.wal_history import Standing
from pgroute.errors import AcquireTimeout, NoHostAvailable, PoolExhausted, SplitBrainError

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.routing.balance import Policy
    from pgroute.core.routing.demand import Demand
    from pgroute.core.routing.replayed import Replayed
    from pgroute.core.topology.snapshot import Groups, Topology

PATIENCE = 1.0
"""Seconds after which a reader that queues for a connection to one host is routed again."""

_STANDBYS_SHARE = 0.5
"""The share of the time left in which standbys may get to a position, before the primary is tried."""

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_REFUSING = frozenset({HostState.REJECTED, HostState.BUSY})


class Try(NamedTuple):
    """Ask this host's pool, for at most *timeout* seconds."""

    candidate: Candidate
    timeout: float


class Wait(NamedTuple):
    """Wait for a change of the topology, until *until* (monotonic seconds) at the latest."""

    until: float


class GiveUp(NamedTuple):
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


def routes(topology: Topology) -> list[tuple[HostKey, int, bool]]:
    """Return what decides where sessions go and which pools stay. While it is the same, no waiter has to be woken."""
    return [(h.key, h.generation, h.usable) for h in topology.hosts]


def as_they_are(groups: Groups) -> Groups:
    """Return the groups as the topology has them."""
    return groups


def first_choice(
    topology: Topology,
    attrs: SessionAttrs,
    policy: Policy,
    rng: Random,
    load: Callable[[HostKey], int],
    *,
    demand: Demand | None = None,
    now: float = 0.0,
    replayed: Replayed | None = None,
    arrange: Callable[[Groups], Groups] = as_they_are,
) -> Candidate | None:
    """Return the host to try first, None if no host can serve. `topology.only` has it where there is no choice.

    Args:
        topology: the snapshot.
        attrs: what the host must be.
        policy: chooses among equally good hosts.
        rng: for the policy.
        load: returns the sessions in use at a host.
        demand: what the session demands of the host's data; None: nothing.
        now: monotonic seconds.
        replayed: what standbys have told in sessions; None: nothing.
        arrange: puts hosts behind the others to which no connection can be opened.

    Raises:
        ConfigError, PositionLost: no host can satisfy the demand; see `Demand.check`.
    """
    groups = topology.candidates[attrs]
    if demand is not None:
        demand.check(topology)
        groups = demand.arrange(groups, topology, now, replayed=replayed)
    groups = arrange(groups)
    if not groups:
        return None
    return choose(policy, groups[0], load, rng, last_return=topology.last_return, now=now)


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
        "_arrange", "_ask_until", "_attrs", "_backoff", "_causes", "_deadline", "_demand", "_exhausted", "_immediate",
        "_in_use", "_looked", "_pause", "_policy", "_refused", "_replayed", "_retry_at", "_rng", "_role", "_timeout",
        "_tried",
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
        self._causes: dict[HostKey, Exception] = {}
        self._exhausted: dict[HostKey, str] = {}
        self._refused: set[HostKey] = set()
        self._in_use: dict[HostKey, int] = {}
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
        if all(c.key in self._refused for group in groups for c in group):
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
        if self._looked or not self._is_ahead(topology):
            return False
        self._looked = True
        return True

    def _is_ahead(self, topology: Topology) -> bool:
        demand = self._demand
        if demand is None or demand.after is None:
            return False
        return topology.wal.standing(demand.after) is Standing.AHEAD

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
        self._exhausted[candidate.key] = detail
        if refused:
            self._backoff = True
            self._refused.add(candidate.key)
        else:
            self._refused.discard(candidate.key)

    def failed(self, candidate: Candidate, cause: Exception, *, in_use: int = 0) -> None:
        """Report that a pool was closed, or that connecting failed.

        Args:
            candidate: the host.
            cause: the error, for the error text.
            in_use: the connections of its pool that are in use.
        """
        self._tried.add((candidate.key, candidate.generation))
        self._in_use[candidate.key] = in_use
        self._backoff = True
        self._causes[candidate.key] = cause
        self._exhausted.pop(candidate.key, None)

    def _error(self, topology: Topology, now: float) -> AcquireTimeout:
        serving = {c.key for group in self._groups(topology, now) for c in group}
        cls: type[AcquireTimeout] = NoHostAvailable
        why = ""
        if full := self._full_pools(topology, serving):
            cls = PoolExhausted
            why = ": " + "; ".join(f"{key}: {text}" for key, text in full.items())
        elif topology.split_brain and not serving:
            cls = SplitBrainError
            names = " and ".join(str(h.key) for h in topology.hosts if h.key in topology.split_brain)
            why = f": split brain, {names} both claim to be the primary"
        elif topology.locked_out:
            why = ": every host refuses the login"
        elif self._is_ahead(topology):
            why = ": no host was seen on the timeline of the position"
        within = f" within {self._timeout:.3g} s" if now >= self._deadline else ""
        wanted = f"{self._attrs.value}, {self._demand}" if self._demand is not None else self._attrs.value
        summary = f"no {self._role} session ({wanted}){within}{why}"
        error = cls(
            "\n".join([summary, *(self._line(h, topology, now) for h in topology.hosts)]), topology=topology
        )
        for key, cause in self._causes.items():
            error.add_note(f"{key}: {cause}")
        if self._causes:
            error.__cause__ = next(reversed(self._causes.values()))
        return error

    def _full_pools(self, topology: Topology, serving: set[HostKey]) -> dict[HostKey, str]:
        """Return the pools that had no free connection, of hosts that still serve, and the state of each."""
        full = {key: text for key, text in self._exhausted.items() if key in serving}
        for h in topology.hosts:
            if h.key in serving and h.state in _REFUSING:
                if h.key in full:
                    full[h.key] += f", and new ones are refused: {h.reason}"
                elif in_use := self._in_use.get(h.key):
                    full[h.key] = (
                        f"all of its {in_use} connections are in use, and new ones are refused: {h.reason}"
                    )
        return full

    def _line(self, h: HostInfo, topology: Topology, now: float) -> str:
        role = f"{h.role.value}, " if h.role else ""
        if h.read_only and h.role is HostRole.PRIMARY:
            role = "read-only primary, "
        line = f"  {h.key}: {role}{h.state.value} for {max(0.0, now - h.since):.1f} s"
        if h.last_seen is None and h.state is HostState.DOWN:
            line += ", never answered"
        elif h.usable and h.state is HostState.REJECTED:
            line += ", only open connections are used"
        if self._demand is not None and (told := self._demand.describe(h, topology, now)):
            line += f", {told}"
        if h.reason:
            line += f": {h.reason}"
        elif h.key in self._causes:
            line += f": connecting failed: {one_line(str(self._causes[h.key]))}"
        return line
