"""The policy "round-robin": the hosts take turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.roles import HostKey

_ROOM = 16
"""Hosts that are remembered although they are not candidates; beyond that they are taken to have left for good."""


class RoundRobin:
    """Takes the hosts in turn, as often as their weights say: the smooth weighted round robin of nginx.

    At each choice every candidate earns its weight, and the one with the most credit pays for the session what all of
    them earned. So a host that is away earns nothing and owes nothing: meanwhile the others share its sessions by their
    weights, and when it returns it goes on where it was, without a burst.

    The credit of a host begins at random below its weight. Otherwise many short-lived processes would all begin with
    the same host.

    There is no lock. If threads change over within a choice, a host may get one session more or less than its share,
    once; nothing accumulates.
    """

    def __init__(self) -> None:
        self._credit: dict[HostKey, float] = {}

    def pick(
        self, candidates: tuple[Candidate, ...], load: Callable[[HostKey], int], rng: Random
    ) -> Candidate:
        """Return the candidate whose turn it is; one of weight 0 only if all have weight 0."""
        chosen = candidates[0]
        if len(candidates) == 1:
            return chosen
        credit = self._credit
        alike = not any(c.weight for c in candidates)
        total = 0.0
        most = float("-inf")
        for candidate in candidates:
            weight = 1.0 if alike else candidate.weight
            if not weight:
                continue
            had = credit.get(candidate.key)
            earned = (weight * rng.random() if had is None else had) + weight
            credit[candidate.key] = earned
            total += weight
            if earned > most:
                chosen, most = candidate, earned
        credit[chosen.key] = most - total
        if len(credit) > 2 * len(candidates) + _ROOM:
            present = {c.key for c in candidates}
            self._credit = {key: value for key, value in tuple(credit.items()) if key in present}
        return chosen
