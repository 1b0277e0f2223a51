"""When an adviser is asked, for how long its answer counts, and when a switchover is made way for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.late_dataclass import dataclass

if TYPE_CHECKING:
    from pgroute.core.config.discovery import Discovery
    from pgroute.core.discovery.report import Report

_WATCHFUL = 2.0
"""Seconds between two questions while a switchover is due: is it still planned?"""

_AHEAD = 0.5
"""Seconds before the primary is drained at which the adviser is asked once more."""

_AFTER = 0.001
"""Seconds after the last moment of something at which it is over."""

_SPREAD = 0.2
_SKEW = 2.0
"""Seconds by which our clock may differ from the adviser's, which tells whole seconds, without being corrected."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What an adviser has told.

    Attributes:
        report: its last good answer; None: there was none.
        at: monotonic seconds of that.
        due: monotonic seconds at which the scheduled switchover begins; None: none is scheduled.
        source: who told it.
        error: why the last questions were not answered; empty if they were.
        asked: how many times it was asked.
    """

    report: Report | None = None
    at: float | None = None
    due: float | None = None
    source: str = ""
    error: str = ""
    asked: int = 0

    def current(self, options: Discovery, now: float) -> bool:
        """Return True while the last answer counts."""
        return self.at is not None and now - self.at <= options.forget_after

    def scope(self, options: Discovery, now: float) -> str:
        """Return the name of the cluster that is known by the last answer, empty if none counts."""
        return self.report.scope if self.report is not None and self.current(options, now) else ""


def due_at(report: Report, now: float, wall: float, date: float | None) -> float | None:
    """Return the monotonic time at which the scheduled switchover begins; None: none will.

    Args:
        report: what the adviser says. A manager that is paused does not switch over by itself.
        now: monotonic seconds.
        wall: our clock, seconds since the epoch.
        date: the adviser's clock; None if it does not tell.
    """
    plan = report.switchover
    if plan is None or plan.at is None or report.paused:
        return None
    apart = 0.0 if date is None else date - wall
    return now + plan.at - (wall + (apart if abs(apart) > _SKEW else 0.0))


def next_question(heard: Heard, options: Discovery, now: float, chance: float) -> float:
    """Return the seconds until the adviser is asked again.

    Args:
        heard: what it told last.
        options: give the interval.
        now: monotonic seconds.
        chance: random number from 0 to 1, so that the processes of a fleet do not ask at the same moment.
    """
    usual = options.interval * (1.0 - _SPREAD / 2 + _SPREAD * chance)
    if heard.due is None or options.drain_before is None:
        return usual
    begin, end = heard.due - options.drain_before, heard.due + options.drain_for
    if now < begin - _AHEAD:
        return min(usual, begin - _AHEAD - now)
    return min(usual, _WATCHFUL * (0.75 + 0.5 * chance)) if now < end else usual


def handing_over(heard: Heard, options: Discovery, now: float) -> bool:
    """Return whether the primary gets no new sessions now, because a switchover begins or has begun.

    An answer that is older than two intervals does not count for that: the plan may have been given up.
    """
    if heard.due is None or heard.at is None or options.drain_before is None:
        return False
    if now > _doubtful(heard.at, options):
        return False
    return heard.due - options.drain_before <= now < heard.due + options.drain_for


def _doubtful(at: float, options: Discovery) -> float:
    """Return the last moment at which a plan counts."""
    return at + 2 * options.interval


def next_turn(heard: Heard, options: Discovery, now: float) -> float | None:
    """Return the monotonic time at which something changes without an answer; None: nothing will."""
    moments = []
    if heard.at is not None:
        moments.append(heard.at + options.forget_after + _AFTER)
    if heard.due is not None and options.drain_before is not None:
        moments += [heard.due - options.drain_before, heard.due + options.drain_for]
        if heard.at is not None:
            moments.append(_doubtful(heard.at, options) + _AFTER)
    return min((moment for moment in moments if moment > now), default=None)
