"""The policy "least-busy": the host with the fewest sessions in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pgroute.core.model.candidate import Candidate
    from pgroute.core.model.roles import HostKey


class LeastBusy:
    """Takes the host with the fewest sessions in use per weight, a random one of several.

    A random part of one more session is added to each count. Among hosts of one weight this only breaks ties. Among
    others it gives a host of small weight, or one that is warming up, its part also while there are few sessions:
    without it, an idle host would win over any that has one session, whatever its weight.
    """

    def pick(
        self, candidates: tuple[Candidate, ...], load: Callable[[HostKey], int], rng: Random
    ) -> Candidate:
        """Return the least busy candidate; one of weight 0 only if all have weight 0."""
        chosen = candidates[0]
        if len(candidates) == 1:
            return chosen
        alike = not any(c.weight for c in candidates)
        least = float("inf")
        for candidate in candidates:
            if (weight := 1.0 if alike else candidate.weight) and (
                busy := (load(candidate.key) + rng.random()) / weight
            ) < least:
                chosen, least = candidate, busy
        return chosen
