"""The policy of retries: how long and how often a failed transaction is run again."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from pgroute.core.config.checks import check_number
from pgroute.core.late_dataclass import dataclass
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import RetryCallState

_LIMIT = 30.0
"""Seconds after which no further attempt begins unless the user says otherwise."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often `run()` and `attempts()` try again. Which failures are retried is not configurable.

    The default stops 30 seconds after the start. It waits a random time below 20 ms, doubled with each attempt, at most
    2 s. No pause begins that would end after the time limit of the stop strategy.

    Retries after lost connections and deadlocks have a budget, so that a fleet does not multiply the load of a server
    in trouble: a router runs at most *budget* of its transactions again, and *budget_floor* a second, on an average
    over 10 seconds. If it is spent, the error is raised at once, with a note. Waiting for a primary is free, and so are
    retries after serialization failures (40001) and on a host that has become read-only (25006). Each router has a
    budget of its own. All its calls are counted together; each is judged by its own policy.

    Args:
        stop: a tenacity stop strategy; None: ``stop_after_delay(30)``, in seconds.
        wait: a tenacity wait strategy; None: ``wait_random_exponential(multiplier=0.02, max=2)``, in seconds.
        budget: retries relative to the transactions begun, from 0 to 1; None: no limit.
        budget_floor: retries per second that are allowed with any traffic.

    Raises:
        ConfigError: a strategy is not callable, or a number is out of range.
    """

    stop: Callable[[RetryCallState], bool] | None = None
    wait: Callable[[RetryCallState], float] | None = None
    budget: float | None = field(default=0.2, kw_only=True)
    budget_floor: float = field(default=10.0, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("stop", "wait"):
            value = getattr(self, name)
            if isinstance(value, type) or not (value is None or callable(value)):
                example = "stop_after_delay(30)" if name == "stop" else "wait_fixed(1)"
                raise ConfigError(name, value, f"expected a tenacity {name} strategy ({example}) or None")
        check_number("budget", self.budget, none=True)
        if self.budget is not None and self.budget > 1.0:
            raise ConfigError("budget", self.budget, "expected a number from 0 to 1, or None")
        check_number("budget_floor", self.budget_floor)

    def limit(self, timeout: float | None = None) -> float | None:
        """Return the seconds after which no further attempt begins, None if no time limit is known.

        A timeout replaces the default of 30 seconds. With a stop strategy of the user, the shorter time counts.

        Args:
            timeout: the timeout of the call in seconds; None: it has none.
        """
        if self.stop is None:
            return _LIMIT if timeout is None else timeout
        limits = [seconds for seconds in (timeout, _limit(self.stop)) if seconds is not None]
        return min(limits, default=None)


def check_policy(value: object) -> None:
    """Raise ConfigError unless *value* is a RetryPolicy or None."""
    if not (value is None or isinstance(value, RetryPolicy)):
        raise ConfigError("retry", value, "expected a RetryPolicy or None")


def _limit(stop: object) -> float | None:
    import tenacity

    match stop:
        case tenacity.stop_after_delay() | tenacity.stop_before_delay():
            return float(stop.max_delay)
        case tenacity.stop_any():
            return min((x for x in map(_limit, stop.stops) if x is not None), default=None)
        case tenacity.stop_all():
            limits = [x for x in map(_limit, stop.stops) if x is not None]
            return max(limits) if limits and len(limits) == len(stop.stops) else None
        case _:
            return None
