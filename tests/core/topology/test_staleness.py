"""How old a standby's data is at most: what is remembered of the primary's way, and that it stays little."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.model.roles import HostRole
from pgroute.core.topology.observations import Answer
from pgroute.core.topology.staleness import MOST_SAMPLES, PositionHistory
from tests.core.world import A, B


def written(at: float, lsn: int | None, timeline: int | None = 1) -> Answer:
    return Answer(A, HostRole.PRIMARY, at, timeline=timeline, lsn=lsn)


def replayed(lsn: int | None, timeline: int | None = 1) -> Answer:
    return Answer(B, HostRole.STANDBY, 0.0, timeline=timeline, lsn=lsn)


def follow(*samples: tuple[float, int]) -> PositionHistory:
    history = PositionHistory()
    for sample in samples:
        history = history.add(written(*sample))
    return history


def test_nothing_is_known_of_nothing():
    assert PositionHistory().lag_seconds(replayed(5), 1.0) is None
    assert PositionHistory().add(written(1.0, None)) == PositionHistory()
    assert follow((1.0, 5)).lag_seconds(replayed(None), 2.0) is None


def test_answer_that_was_counted_already_changes_nothing():
    history = follow((1.0, 5), (2.0, 6))
    assert history.add(written(2.0, 6)) is history
    assert history.add(written(1.5, 7)) is history


def test_positions_beyond_that_of_a_crashed_primary_do_not_count():
    history = follow((1.0, 5), (2.0, 9), (3.0, 7))
    assert history.samples == ((1.0, 5), (3.0, 7))


def test_idle_primary_is_remembered_by_its_last_answer():
    assert follow(*((float(at), 5) for at in range(1000))).samples == ((999.0, 5),)


def test_hours_are_remembered_in_few_positions():
    interval = 10
    history = follow(*((float(at), at) for at in range(0, 24 * 3600, interval)))
    assert len(history.samples) == MOST_SAMPLES
    assert history.samples[0] == (0.0, 0)
    for lag in (20, 60, 600, 3600, 12 * 3600):
        now = 24 * 3600.0 - interval
        age = history.lag_seconds(replayed(int(now) - lag), now)
        assert age is not None
        assert lag <= age <= 1.35 * lag + interval


SAMPLES = st.lists(st.tuples(st.floats(0.01, 50.0), st.integers(-3, 9)), min_size=1, max_size=300)


@given(SAMPLES, st.integers(0, 2000), st.floats(0.0, 100.0))
def test_age_is_never_less_than_that_of_the_newest_position_replayed(steps, lsn, later):
    """Whatever is thinned out: a standby may look older than it is, and never younger."""
    at, position = 0.0, 100
    history = PositionHistory()
    told: list[tuple[float, int]] = []
    for seconds, grown in steps:
        at, position = at + seconds, max(0, position + grown)
        told = [(t, p) for t, p in told if p < position] + [(at, position)]
        history = history.add(written(at, position))
    now = at + later
    age = history.lag_seconds(replayed(lsn), now)
    assert len(history.samples) <= MOST_SAMPLES
    assert history.samples[-1] == told[-1]
    assert set(history.samples) <= set(told)
    known = [t for t, p in told if p <= lsn]
    if age is None:
        assert lsn < history.samples[0][1]
    elif age == 0.0:
        assert lsn >= position or now == known[-1]
    else:
        assert age >= now - known[-1]
