"""How often hosts are probed for the max_lag in use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.freshness import IN_USE_FOR, FreshnessNeed


@pytest.mark.parametrize(
    ("always", "used", "now", "interval"),
    [
        (None, [], 0.0, 1.0),
        (0.6, [], 1e6, 0.2),
        (60.0, [], 0.0, 1.0),
        (None, [(0.6, 0.0)], 0.0, 0.2),
        (None, [(0.6, 0.0)], 59.9, 0.2),
        (None, [(0.6, 0.0)], 60.0, 1.0),
        (None, [(0.6, 0.0), (0.6, 50.0)], 100.0, 0.2),
        (None, [(0.3, 0.0), (0.6, 50.0)], 59.0, 0.1),
        (None, [(0.3, 0.0), (0.6, 50.0)], 61.0, 0.2),
        (None, [(0.6, 0.0), (0.3, 50.0)], 61.0, 0.1),
        (0.9, [(0.6, 0.0)], 10.0, 0.2),
        (0.9, [(0.6, 0.0)], 61.0, 0.3),
        (0.6, [(0.9, 0.0)], 10.0, 0.2),
    ],
)
def test_probes_come_three_times_in_the_smallest_max_lag_of_the_last_minute(always, used, now, interval):
    need = FreshnessNeed(always)
    for max_lag, at in used:
        need.use(max_lag, at)
    assert need.interval(1.0, now) == pytest.approx(interval)


def test_only_a_smaller_max_lag_calls_for_more_probes():
    need = FreshnessNeed(None)
    assert [need.use(lag, 0.0) for lag in (1.0, 1.0, 2.0, 0.5, 1.0)] == [True, False, False, True, False]
    assert need.use(0.5, IN_USE_FOR) is True


def test_a_max_lag_that_nobody_uses_any_more_is_forgotten_among_many_others():
    need = FreshnessNeed(None)
    need.use(0.1, 0.0)
    for second in range(1, 1000):
        need.use(5.0 + second / 1000, float(second))
    assert need.interval(10.0, 1000.0) > 5.0 / 3


@pytest.mark.many
def test_among_many_others_too_the_smallest_of_the_last_minute_counts():
    need = FreshnessNeed(None)
    for number in range(1000):
        need.use(5.0 + number / 1000, number / 100)
    need.use(0.5, 10.0)
    for number in range(1000):
        need.use(1.0 + number / 1000, 10.0 + number / 100)
    assert need.least(69.9) == 0.5
    assert need.interval(10.0, 70.0) >= 1.0 / 3


@given(st.lists(st.tuples(st.floats(0.1, 100.0), st.floats(0.0, 5.0)), max_size=300), st.floats(0.0, 90.0))
def test_least_is_never_larger_than_the_smallest_of_the_last_minute(steps, later):
    need = FreshnessNeed(None)
    now = 0.0
    used: list[tuple[float, float]] = []
    for max_lag, pause in [*steps, (None, later)]:
        now += pause
        if max_lag is not None:
            need.use(max_lag, now)
            used.append((max_lag, now))
        late = [lag for lag, at in used if now - at < IN_USE_FOR]
        least = need.least(now)
        if late:
            assert least is not None
            assert least <= min(late)
        else:
            assert least is None
        if len(used) < 30:
            assert least == min(late, default=None)


def test_max_lags_that_grow_from_session_to_session_are_not_piled_up():
    need = FreshnessNeed(None)
    for number in range(1000):
        need.use(1.0 + number, number / 100)
    assert need.least(9.9) == 1.0
    assert need.least(60.01) == 2.0 + 1.0
    assert need.least(69.99) is not None
    assert need.least(70.0) is None
