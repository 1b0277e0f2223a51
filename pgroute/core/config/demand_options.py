"""The arguments by which sessions demand something of their host's data."""

from __future__ import annotations

from pgroute.core.config.checks import check_max_lag, check_number
from pgroute.core.model.position import parse_position
from pgroute.core.routing.demand import Demand

DEFAULT_WAIT = 0.1
"""Seconds for which a reader waits for a standby to replay a position. A standby that keeps up needs a few
milliseconds; one that does not is not worth more of a user's time than the primary."""


def make_demand(
    default_max_lag: float | None, *, max_lag: object, after: object, wait: object
) -> Demand | None:
    """Return what a session demands, None if that is nothing.

    Args:
        default_max_lag: the router's, in seconds; None: it has none.
        max_lag: the argument of `reader()`.
        after: likewise.
        wait: likewise.

    Raises:
        ConfigError: an argument is invalid.
    """
    check_number("wait", wait)
    assert isinstance(wait, (int, float))
    lag = check_max_lag(default_max_lag if max_lag is None else max_lag)
    position = None if after is None else parse_position(after, "after")
    return None if lag is None and position is None else Demand(lag, position, float(wait))
