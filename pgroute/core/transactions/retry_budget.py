"""How many transactions may be run again: a share of the traffic, and a floor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pgroute.core.faults.classify import FaultKind
from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from pgroute.core.config.retry_policy import RetryPolicy
    from pgroute.core.faults.classify import Fault

WINDOW = 10.0
"""Seconds over which traffic and retries are averaged: long enough for one failover, in which all sessions are lost at
once, and short enough that calm traffic of minutes ago pays for nothing."""


def costs(fault: Fault) -> bool:
    """Return whether running a transaction again after this fault takes from the budget.

    A lost session and a deadlock do: they hit many at once when a server is in trouble, and each retry adds to it. A
    host that has become read-only does not: the next attempt waits for a primary. Nor does a serialization failure, by
    which PostgreSQL tells that the transaction is to be retried (docs, 13.2.3).

    Args:
        fault: what ended the attempt.
    """
    return fault.kind is FaultKind.LOST or fault.kind is FaultKind.DEADLOCK


@dataclass(frozen=True, slots=True)
class Usage:
    """What one router did lately. Both averages decay by WINDOW; in steady traffic they are the counts of one window.

    Attributes:
        at: monotonic seconds of these values.
        begun: transactions begun since the router was made.
        traffic: those of the last window.
        retries: the retries of the last window that took from the budget.
    """

    at: float
    begun: int = 0
    traffic: float = 0.0
    retries: float = 0.0

    def moved(self, begun: int, now: float) -> Usage:
        """Return the values at another time. What was begun in between counts as spread evenly.

        Args:
            begun: transactions begun since the router was made.
            now: monotonic seconds.
        """
        age = max(0.0, now - self.at) / WINDOW
        left = math.exp(-age)
        fresh = max(0, begun - self.begun) * (-math.expm1(-age) / age if age else 1.0)
        return Usage(now, begun, self.traffic * left + fresh, self.retries * left)

    def spent(self) -> Usage:
        """Return the values after one more retry."""
        return Usage(self.at, self.begun, self.traffic, self.retries + 1.0)

    def refusal(self, policy: RetryPolicy) -> str:
        """Return why one more retry is too many, in words; empty if it is not.

        Args:
            policy: of the call.
        """
        if policy.budget is None or self.retries + 1.0 <= self.allowed(policy):
            return ""
        return (
            f"the retry budget is spent: about {self.retries:.0f} retries in {WINDOW:g} s; {policy.budget:g} of"
            f" {self.traffic:.0f} transactions and {policy.budget_floor:g} a second are allowed"
        )

    def allowed(self, policy: RetryPolicy) -> float:
        """Return how many retries a window may have."""
        return (policy.budget or 0.0) * self.traffic + policy.budget_floor * WINDOW
