"""How many connections each of several pools is to have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def shares(count: int, limits: Sequence[int]) -> list[int]:
    """Return the share of each pool: as even as possible, and no more than its limit.

    Args:
        count: of connections in all; what is beyond all limits is left out.
        limits: of the pools.
    """
    out = [0] * len(limits)
    left = min(count, sum(limits))
    while left > 0:
        open_ = [i for i, limit in enumerate(limits) if out[i] < limit]
        for i in open_[:left]:
            out[i] += 1
        left -= min(left, len(open_))
    return out
