"""Counts over time, and how they look."""

from __future__ import annotations

import pytest

from pgroute.cli.spark import ASCII, Histogram, sparkline


@pytest.mark.parametrize(
    ("values", "most", "line"),
    [
        ([], None, ""),
        ([0, 0], None, "  "),
        ([1, 2, 4, 8], None, "▁▂▄█"),
        ([0, 8, 0], None, " █ "),
        ([1, 1000], None, "▁█"),
        ([4, 4], 8, "▄▄"),
        ([16], 8, "█"),
    ],
)
def test_each_value_is_one_character_and_only_nothing_is_blank(values, most, line):
    assert sparkline(values, most=most) == line


def test_ascii_serves_where_blocks_cannot_be_shown():
    assert sparkline([0, 4, 8], blocks=ASCII) == " =#"


def test_moments_are_counted_once_however_often_it_is_asked():
    moments = [9.0, 10.0, 10.05, 10.15]
    histogram = Histogram(10.0, 0.1)
    histogram.update(moments)
    histogram.update(moments)
    assert histogram.counts == [2, 1]
    moments.append(10.31)
    histogram.update(moments)
    assert histogram.counts == [2, 1, 0, 1]


def test_columns_are_means_of_slots_and_what_is_to_come_is_left_out():
    histogram = Histogram(0.0, 1.0)
    histogram.update([0.5, 1.5, 1.6, 1.7, 2.5])
    assert histogram.counts == [1, 3, 1]
    assert histogram.columns(3, 3.0) == [1, 3, 1]
    assert histogram.columns(2, 4.0) == [2, 1]
    assert histogram.columns(6, 3.0) == [1, 1, 3, 3, 1, 1]
    assert histogram.columns(6, 6.0) == [1, 3, 1]


def test_slot_that_is_not_over_is_left_out():
    histogram = Histogram(0.0, 1.0)
    histogram.update([0.5, 1.5, 2.5])
    assert histogram.columns(3, 3.0, now=2.6) == [1, 1]
    assert histogram.columns(3, 3.0, now=0.6) == []
