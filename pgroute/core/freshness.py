"""How often hosts must be probed so that the max_lag in use can be proven."""

from __future__ import annotations

PROBES = 3
"""Probes in each max_lag. What a standby's answer proves is up to two intervals old before the next one arrives, and
replication takes its time."""

IN_USE_FOR = 60.0
"""Seconds for which a max_lag counts after a session has asked for it."""

_MOST = 32


class FreshnessNeed:
    """The max_lags that sessions have asked for lately.

    It is used from any thread without a lock: a value that two threads add or drop at once is added again by the next
    session.

    Args:
        always: the router's own, in seconds; None: it has none.
    """

    def __init__(self, always: float | None) -> None:
        self._always = always
        self._used: dict[float, float] = {}

    def use(self, max_lag: float, now: float) -> bool:
        """Take note that a session asks for a max_lag. Returns whether hosts must be probed more often from now on.

        Args:
            max_lag: seconds.
            now: monotonic seconds.
        """
        before = self.least(now)
        if len(self._used) >= _MOST and max_lag not in self._used:
            # A new value for each session: the smallest one stands for all.
            smallest = min(self._used)
            self._used = {min(smallest, max_lag): now}
        self._used[max_lag] = now
        return before is None or max_lag < before

    def least(self, now: float) -> float | None:
        """Return the smallest max_lag in use, in seconds; None if there is none.

        Args:
            now: monotonic seconds.
        """
        used = [max_lag for max_lag, at in tuple(self._used.items()) if now - at < IN_USE_FOR]
        if self._always is not None:
            used.append(self._always)
        return min(used, default=None)

    def interval(self, interval: float, now: float) -> float:
        """Return the seconds between two probes, no longer than the smallest max_lag in use permits.

        Args:
            interval: seconds without any max_lag.
            now: monotonic seconds.
        """
        least = self.least(now)
        return interval if least is None else min(interval, least / PROBES)
