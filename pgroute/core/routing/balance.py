"""Balancing policies: which of several equally good hosts a session goes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.roles import HostKey


class Policy(Protocol):
    """A balancing policy: any object with this method, without state or with its own lock.

    One with an attribute ``ordered = True`` is not shown a host while one before it in the DSN, which it might prefer,
    has not been heard of yet: right after opening, for as long as a probe takes.
    """

    def pick(
        self, candidates: tuple[Candidate, ...], load: Callable[[HostKey], int], rng: Random
    ) -> Candidate:
        """Return one of the candidates.

        Args:
            candidates: the hosts that are equally good, at least one, in the order of the DSN.
            load: gives the number of sessions in use at a host, of this router and role.
            rng: where chance is to come from.
        """
        ...


class Ordered:
    """The first in the order of the DSN, as libpq's ``load_balance_hosts=disable``."""

    ordered = True

    def pick(
        self, candidates: tuple[Candidate, ...], load: Callable[[HostKey], int], rng: Random
    ) -> Candidate:
        """Return the first."""
        return candidates[0]


class Uniform:
    """Any of them, in proportion to their weights, as libpq's ``load_balance_hosts=random``."""

    def pick(
        self, candidates: tuple[Candidate, ...], load: Callable[[HostKey], int], rng: Random
    ) -> Candidate:
        """Return one at random; a host of weight 0 only when all have weight 0."""
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


_POLICIES: dict[str, type[Policy]] = {"ordered": Ordered, "random": Uniform}


def parse_policy(value: object) -> Policy:
    """Return the policy named *value*, or *value* itself when it has a ``pick`` method.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(value, str) and value in _POLICIES:
        return _POLICIES[value]()
    pick = None if isinstance(value, (str, type)) else getattr(value, "pick", None)
    if callable(pick):
        return value  # type: ignore[return-value]  # has the one method of the protocol
    names = ", ".join(repr(n) for n in sorted(_POLICIES))
    raise ConfigError("balance", value, f"expected one of {names}, or an object with a pick() method")
