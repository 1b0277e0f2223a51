"""Balancing policies: they choose among hosts that are equally good for a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pgroute.core.callables import is_coroutine_function
from pgroute.core.routing.least_busy import LeastBusy
from pgroute.core.routing.round_robin import RoundRobin
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.roles import HostKey


class Policy(Protocol):
    """A balancing policy: any object with this method. All threads of a router share it, so state needs care.

    A policy may have a method ``acquired(candidate, seconds)``. It is called each time a session has its connection,
    with the host, and the seconds from the choice of that host until then. Like `pick`, it is called on the way of each
    session, so it must be quick and must not raise.

    A policy with an attribute ``ordered = True`` is offered a host only once all hosts before it in the DSN have been
    checked, which after opening takes as long as a probe.
    """

    def pick(
        self, candidates: tuple[Candidate, ...], load: Callable[[HostKey], int], rng: Random
    ) -> Candidate:
        """Return one of the candidates.

        Args:
            candidates: the hosts that are equally good, at least one, in the order of the DSN.
            load: returns the number of sessions in use at a host, of this router and role.
            rng: the source of randomness.
        """
        ...


class Ordered:
    """Takes the first host in the order of the DSN, as libpq with ``load_balance_hosts=disable``."""

    ordered = True

    def pick(
        self, candidates: tuple[Candidate, ...], load: Callable[[HostKey], int], rng: Random
    ) -> Candidate:
        """Return the first candidate."""
        return candidates[0]


class Uniform:
    """Takes a random host in proportion to the weights, as libpq with ``load_balance_hosts=random``."""

    def pick(
        self, candidates: tuple[Candidate, ...], load: Callable[[HostKey], int], rng: Random
    ) -> Candidate:
        """Return a random candidate; one of weight 0 only if all have weight 0."""
        if len(candidates) == 1:
            return candidates[0]
        total = sum(c.weight for c in candidates)
        if not total:
            return candidates[int(rng.random() * len(candidates))]
        point = rng.random() * total
        for candidate in candidates:
            point -= candidate.weight
            if point < 0:
                return candidate
        return next(c for c in reversed(candidates) if c.weight)


def _adaptive() -> Policy:
    from pgroute.core.routing.adaptive import Adaptive

    return Adaptive()


_POLICIES: dict[str, Callable[[], Policy]] = {
    "adaptive": _adaptive,
    "least-busy": LeastBusy,
    "ordered": Ordered,
    "random": Uniform,
    "round-robin": RoundRobin,
}


def parse_policy(value: object) -> Policy:
    """Return the policy named *value*, or *value* itself if it has a ``pick`` method.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(value, str) and value in _POLICIES:
        return _POLICIES[value]()
    pick = None if isinstance(value, (str, type)) else getattr(value, "pick", None)
    if is_coroutine_function(pick):
        raise ConfigError("balance.pick", pick, "expected a plain method, no coroutine function")
    if callable(pick):
        return value  # type: ignore[return-value]  # has the one method of the protocol
    names = ", ".join(repr(n) for n in sorted(_POLICIES))
    raise ConfigError("balance", value, f"expected one of {names}, or an object with a pick() method")


def listener_of(policy: Policy) -> Callable[[Candidate, float], object] | None:
    """Return the policy's ``acquired`` method, None if it has none.

    Raises:
        ConfigError: it has such an attribute, which cannot be called.
    """
    acquired = getattr(policy, "acquired", None)
    if acquired is None or (callable(acquired) and not is_coroutine_function(acquired)):
        return acquired
    raise ConfigError(
        "balance.acquired",
        acquired,
        "expected a method of (candidate, seconds), no coroutine, or no such attribute",
    )
