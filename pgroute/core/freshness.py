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
        if max_lag not in self._used:
            self._used = _still_needed(self._used, max_lag, now)
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


def _still_needed(used: dict[float, float], max_lag: float, now: float) -> dict[float, float]:
    """Return the max_lags, each with the time of its last use, that another one does not make superfluous.

    Those are smaller than that one, and in use. Of too many the largest are taken for one, until the last of them is
    out of use.
    """
    kept = sorted((lag, at) for lag, at in tuple(used.items()) if lag < max_lag and now - at < IN_USE_FOR)
    few, rest = kept[: _MOST - 1], kept[_MOST - 1 :]
    if rest:
        few[-1] = (few[-1][0], max(at for _, at in (few[-1], *rest)))
    return dict(few)
