"""For how long a process waits for another one, before it probes by itself."""

from __future__ import annotations

HEARING = 0.3
"""Seconds in which a process that runs answers another one. No process is without a watch of its own for longer than
this after it has noticed that the other is silent; a loaded machine delays a process by up to 0.2 s."""

BEATS = 1.2
"""The longest silence while all is well, in probe intervals: observations come at intervals, give or take a tenth."""

LONGEST_BEAT = 2.0
"""Seconds of it at most, however rarely hosts are probed."""

SHORTEST_BEAT = 0.2
"""Seconds of it at least, however often hosts are probed: as in an outage."""

RETRY = 5.0
"""Seconds after which a process that could not share tries again, at least."""

PAUSE = 0.005
"""Seconds from one look at who watches to the next."""


def beat(interval: float) -> float:
    """Return the seconds after which the watching process tells that it lives, if there was nothing else to tell.

    Args:
        interval: seconds between two probes now, of the most eager process.
    """
    return max(SHORTEST_BEAT, min(LONGEST_BEAT, BEATS * interval))


def patience(interval: float) -> float:
    """Return the seconds of silence after which the watching process is taken to hang.

    Args:
        interval: seconds between two probes that the listening process requires now.
    """
    return beat(interval) + HEARING


def oldest(timeout: float) -> float:
    """Return the seconds after which an observation is no news: longer than a lookup, a connection and a probe take.

    Args:
        timeout: seconds for one probe.
    """
    return 3.0 + 3.0 * timeout


def unseen(interval: float, timeout: float) -> float:
    """Return the seconds without any observation after which the watching process is taken to be at fault.

    Args:
        interval: seconds between two probes.
        timeout: seconds for one probe.
    """
    return 10.0 + 3.0 * interval + 3.0 * timeout
