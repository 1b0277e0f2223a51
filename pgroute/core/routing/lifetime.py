"""How long a connection lives: not all as long, so that those of one age are not all renewed at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

SPREAD = 0.25
"""The share of max_lifetime by which lifetimes differ. After a failover all connections of a fleet are of one age: with
3600 s they are renewed within 15 minutes, each an hour after it was opened at most."""


def lifetime(max_lifetime: float, rng: Random) -> float:
    """Return the seconds after which a connection is replaced.

    Args:
        max_lifetime: the most.
        rng: the source of the jitter.
    """
    return max_lifetime * (1.0 - SPREAD * rng.random())
