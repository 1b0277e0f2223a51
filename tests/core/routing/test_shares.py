"""How connections are shared out between pools."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.routing.shares import shares


@pytest.mark.parametrize(
    ("count", "limits", "expected"),
    [
        (4, [10, 10], [2, 2]),
        (5, [10, 10], [3, 2]),
        (1, [10, 10, 10], [1, 0, 0]),
        (9, [2, 10], [2, 7]),
        (9, [2, 3], [2, 3]),
        (0, [5], [0]),
        (3, [], []),
    ],
)
def test_shares_are_even_up_to_the_limits(count: int, limits: list[int], expected: list[int]) -> None:
    assert shares(count, limits) == expected


@given(st.integers(0, 60), st.lists(st.integers(1, 20), max_size=6))
def test_nothing_is_lost_and_no_limit_passed(count: int, limits: list[int]) -> None:
    out = shares(count, limits)
    assert sum(out) == min(count, sum(limits))
    assert all(share <= limit for share, limit in zip(out, limits, strict=True))
    below = [share for share, limit in zip(out, limits, strict=True) if share < limit]
    assert not below or max(out) - min(below) <= 1
