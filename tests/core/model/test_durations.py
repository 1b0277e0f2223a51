"""Histograms of seconds."""

from __future__ import annotations

import pytest

from pgroute.core.model.durations import Durations


def test_a_duration_is_counted_at_the_first_bound_that_it_does_not_exceed() -> None:
    durations = Durations((0.1, 1.0))
    for seconds in (0.0, 0.1, 0.11, 1.0, 5.0):
        durations.add(seconds)
    read = durations.read()
    assert read.counts == (2, 2, 1)
    assert read.count == 5
    assert read.total == pytest.approx(6.21)


def test_counts_add_up_and_what_was_read_stays_as_it_was() -> None:
    one, other = Durations((1.0,)), Durations((1.0,))
    one.add(0.5)
    before = one.read()
    one.add(2.0)
    other.add(3.0)
    both = one.read() + other.read()
    assert (both.bounds, both.counts, both.total) == ((1.0,), (1, 2), 5.5)
    assert (before.counts, before.total) == ((1, 0), 0.5)
