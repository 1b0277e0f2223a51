"""The share of a host that has come back: it grows from a tenth to the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pgroute.core.callables import drop
from pgroute.core.model.candidate import Candidate
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pgroute.core.model.roles import HostKey
    from pgroute.core.routing.balance import Policy

WARM_UP = 10.0
"""Seconds until a host that has come back has its whole share. Its caches are empty, and its pools open one connection
at a time; some seconds of a part of the queries fill what is used most. Longer would only burden the other hosts."""

COLD = 0.1
"""Its share at first: enough queries to fill its caches, too few to queue there."""


def warmth(returned_at: float | None, now: float) -> float:
    """Return the part of its share that a host gets.

    Args:
        returned_at: monotonic seconds at which it came back; None: it was never away.
        now: monotonic seconds.
    """
    if returned_at is None or now >= returned_at + WARM_UP:
        return 1.0
    return COLD + (1.0 - COLD) * max(0.0, now - returned_at) / WARM_UP


def choose(
    policy: Policy,
    group: tuple[Candidate, ...],
    load: Callable[[HostKey], int],
    rng: Random,
    *,
    last_return: float,
    now: float,
) -> Candidate:
    """Return the policy's choice among equally good hosts, with smaller weights for those that are warming up.

    Args:
        policy: chooses.
        group: the hosts.
        load: returns the sessions in use at a host.
        rng: for the policy.
        last_return: monotonic seconds at which a host came back last.
        now: monotonic seconds.

    Raises:
        ConfigError: the policy has returned something else than one of the hosts.
    """
    if now < last_return + WARM_UP and len(group) > 1:
        group = tuple(
            c if (part := warmth(c.returned_at, now)) == 1.0 else replace(c, weight=c.weight * part)
            for c in group
        )
    chosen: object = policy.pick(group, load, rng)
    for candidate in group:
        if chosen is candidate:
            return candidate
    return _meant(chosen, group)


def _meant(chosen: object, group: tuple[Candidate, ...]) -> Candidate:
    """Return the candidate that a policy has named by a copy of it; ConfigError if it has named none."""
    if isinstance(chosen, Candidate):
        for candidate in group:
            if (chosen.key, chosen.generation) == (candidate.key, candidate.generation):
                return candidate
    drop(chosen)
    what = "None" if chosen is None else f"a {type(chosen).__name__}"
    raise ConfigError("balance.pick", what, "expected it to return one of the candidates that it is given")
