"""The step machine of an acquire: which host to try now, or until when to wait, or why to give up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgroute.core.faults.classify import one_line
from pgroute.core.model.host import HostState
from pgroute.core.model.roles import HostRole, SessionAttrs
from pgroute.errors import AcquireTimeout, NoHostAvailable, PoolExhausted, SplitBrainError

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.roles import HostKey
    from pgroute.core.routing.balance import Policy
    from pgroute.core.topology.snapshot import Groups, Topology

PATIENCE = 1.0
"""Seconds after which a reader that queues at a host is routed anew."""

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_CLOSED_DOORS = frozenset({HostState.REJECTED, HostState.BUSY})


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
    """Return the seconds to queue at a host, of those left to the deadline.

    For a writer there is no other host to go to, and leaving the queue would only lose the place in it: when its
    host loses the role, the closing of the pool wakes it.
    """
    if attrs is SessionAttrs.READ_WRITE or attrs is SessionAttrs.PRIMARY:
        return max(0.0, left)
    return max(0.0, min(PATIENCE, left))


def routes(topology: Topology) -> list[tuple[HostKey, int, bool]]:
    """Return what decides which pools may live: callers and pools need not hear of a snapshot where it is the same."""
    return [(h.key, h.generation, h.usable) for h in topology.hosts]


def first_choice(
    topology: Topology, attrs: SessionAttrs, policy: Policy, rng: Random, load: Callable[[HostKey], int]
) -> Candidate | None:
    """Return the host to try first, None when there is none. Where `topology.only` has one, there is no choice."""
    groups = topology.candidates[attrs]
    if not groups:
        return None
    return policy.pick(groups[0], load, rng)


class Acquisition:
    """One caller's way to a session when its first choice had none at once; it ends with the session or the error.

    Args:
        attrs: what the host must be.
        policy: chooses among equally good hosts.
        rng: for the policy.
        deadline: monotonic seconds.
        timeout: the whole time allowed in seconds, for the error text.
        role: the pool's role, for the error text.
    """

    __slots__ = (
        "_attrs", "_begun_late", "_causes", "_deadline", "_exhausted", "_hurt", "_pause", "_policy", "_refused",
        "_rest", "_rng", "_role", "_short", "_timeout", "_tried",
    )  # fmt: skip

    def __init__(
        self, attrs: SessionAttrs, policy: Policy, rng: Random, *, deadline: float, timeout: float, role: str
    ) -> None:
        self._attrs = attrs
        self._policy = policy
        self._rng = rng
        self._deadline = deadline
        self._timeout = timeout
        self._role = role
        self._tried: set[tuple[HostKey, int]] = set()
        self._causes: dict[HostKey, Exception] = {}
        self._exhausted: dict[HostKey, str] = {}
        self._refused: set[HostKey] = set()
        self._short: dict[HostKey, int] = {}
        self._pause = _FIRST_PAUSE
        self._hurt = False
        self._rest: float | None = None
        self._begun_late: bool | None = None

    def step(self, topology: Topology, now: float, load: Callable[[HostKey], int]) -> Step:
        """Return what to do next.

        A machine that begins when its deadline has passed still tries each host once, without waiting: a timeout of
        0 means "what is ready now".
        """
        groups = topology.candidates[self._attrs]
        late = now >= self._deadline
        if self._begun_late is None:
            self._begun_late = late
        if late and not self._begun_late:
            return GiveUp(self._error(topology, now))
        if chosen := self._untried(groups, load):
            return self._try(chosen, now)
        if late:
            return GiveUp(self._error(topology, now))
        if not groups:
            # Waiting does not help against a wrong password; a host that let us in before may do so again.
            return GiveUp(self._error(topology, now)) if topology.locked_out else Wait(self._deadline)
        if all(c.key in self._refused for group in groups for c in group):
            return GiveUp(self._error(topology, now))
        # Every host was tried: another round, at once where the callers' queues have taken their time already.
        if self._hurt:
            # Not before the pause is over, however often the topology changes: what serves anew was untried above.
            if self._rest is None:
                self._rest = now + self._pause
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            if now < self._rest:
                return Wait(min(self._deadline, self._rest))
            self._hurt = False
            self._rest = None
        self._tried.clear()
        return self._try(self._policy.pick(groups[0], load, self._rng), now)

    def _try(self, candidate: Candidate, now: float) -> Try:
        return Try(candidate, patience(self._attrs, self._deadline - now))

    def _untried(self, groups: Groups, load: Callable[[HostKey], int]) -> Candidate | None:
        for group in groups:
            left = group
            if self._tried:
                left = tuple(c for c in group if (c.key, c.generation) not in self._tried)
            if left:
                return self._policy.pick(left, load, self._rng)
        return None

    def exhausted(self, candidate: Candidate, detail: str, *, refused: bool = False) -> None:
        """Report that the pool there had nothing to give in the time allowed.

        Args:
            candidate: what was tried.
            detail: its sizes and users, for the error text.
            refused: it did not even let the caller queue (max_waiting).
        """
        self._tried.add((candidate.key, candidate.generation))
        self._exhausted[candidate.key] = detail
        if refused:
            self._hurt = True
            self._refused.add(candidate.key)
        else:
            self._refused.discard(candidate.key)

    def failed(self, candidate: Candidate, cause: Exception, *, in_use: int = 0) -> None:
        """Report that the host could not be used after all: its pool was closed, or connecting failed.

        Args:
            candidate: what was tried.
            cause: why, for the error text.
            in_use: sessions that its pool has in use.
        """
        self._tried.add((candidate.key, candidate.generation))
        self._short[candidate.key] = in_use
        self._hurt = True
        self._causes[candidate.key] = cause
        self._exhausted.pop(candidate.key, None)

    def _error(self, topology: Topology, now: float) -> AcquireTimeout:
        waited = f"no {self._role} session ({self._attrs.value})"
        if now >= self._deadline:
            waited += f" within {self._timeout:.3g} s"
        # Only a host that still serves can be exhausted.
        serving = {c.key for group in topology.candidates[self._attrs] for c in group}
        full = {k: text for k, text in self._exhausted.items() if k in serving}
        for h in topology.hosts:
            if h.key in serving and h.state in _CLOSED_DOORS:
                if h.key in full:
                    full[h.key] += f", and new ones are refused: {h.reason}"
                elif in_use := self._short.get(h.key):
                    full[h.key] = (
                        f"all of its {in_use} connections are in use, and new ones are refused: {h.reason}"
                    )
        cls: type[AcquireTimeout] = NoHostAvailable
        if full:
            cls = PoolExhausted
            waited += ": " + "; ".join(f"{k}: {text}" for k, text in full.items())
        elif topology.split_brain and not serving:
            cls = SplitBrainError
            names = " and ".join(str(h.key) for h in topology.hosts if h.key in topology.split_brain)
            waited += f": split brain, {names} both claim to be the primary"
        elif topology.locked_out:
            waited += ": no host lets us in"
        lines = [waited, *(self._line(h, now) for h in topology.hosts)]
        error = cls("\n".join(lines), topology=topology)
        for key, cause in self._causes.items():
            error.add_note(f"{key}: {cause}")
        if self._causes:
            error.__cause__ = next(reversed(self._causes.values()))
        return error

    def _line(self, h: HostInfo, now: float) -> str:
        role = f"{h.role.value}, " if h.role else ""
        if h.read_only and h.role is HostRole.PRIMARY:
            role = "read-only primary, "
        line = f"  {h.key}: {role}{h.state.value} for {max(0.0, now - h.since):.1f} s"
        if h.last_seen is None and h.state is HostState.DOWN:
            line += ", never answered"
        elif h.usable and h.state is HostState.REJECTED:
            line += ", sessions on open connections alone"
        if h.reason:
            line += f": {h.reason}"
        elif h.key in self._causes:
            line += f": connecting failed: {one_line(str(self._causes[h.key]))}"
        return line
