"""How fast a process opens connections at a host that a whole fleet comes to."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.routing.admission import ROUND, SETTLED, Admission, is_fresh
from pgroute.core.routing.lending import Connect, Lending, Rest
from pgroute.core.routing.lifetime import SPREAD, lifetime

NOW = 1000.0


class Dice(Random):
    """Always gives the same number."""

    def __init__(self, roll: float) -> None:
        super().__init__()
        self.roll = roll

    def random(self) -> float:
        return self.roll


def admission(roll: float = 0.5, *, spread: float = 0.05, fresh: bool = True) -> Admission:
    return Admission(NOW, Dice(roll), spread=spread, fresh=fresh)


def open_all(bound: Admission, seconds: float, took: float = 0.0) -> list[float]:
    """Return when connections are opened by somebody who always needs one more; in seconds from the start."""
    now, times = NOW, list[float]()
    while (now := max(now, bound.due)) <= NOW + seconds and len(times) < 1000:
        now += took
        bound.opened(took, now)
        times.append(now - NOW)
    return times


def rounds(times: list[float]) -> list[int]:
    """Return how many connections were opened at each of these times."""
    return [times.count(at) for at in sorted(set(times))]


def test_connections_at_a_host_that_has_come_back_double_from_one() -> None:
    assert rounds(open_all(admission(), 0.45)) == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(("roll", "first"), [(0.0, 0.0), (0.5, 0.7), (0.999, 1.3986)])
def test_the_first_connection_comes_within_the_spread(roll: float, first: float) -> None:
    assert admission(roll, spread=1.4).due - NOW == pytest.approx(first)


def test_at_any_other_host_connections_are_opened_as_they_are_needed() -> None:
    bound = admission(fresh=False)
    assert bound.due == NOW
    assert open_all(bound, 0.0) == [0.0] * 1000


@pytest.mark.parametrize(
    ("spread", "took", "pause"), [(0.05, 0.001, ROUND), (1.4, 0.001, 1.4), (0.05, 3.0, 3.0)]
)
def test_a_round_lasts_as_long_as_the_spread_and_a_login(spread: float, took: float, pause: float) -> None:
    bound = admission(spread=spread)
    bound.opened(took, NOW)
    assert bound.due == pytest.approx(NOW + pause)


def test_a_refusal_halves_the_round_and_doubles_the_pause_until_a_success() -> None:
    bound = admission(spread=0.0)
    for _ in range(7):
        bound.opened(0.0, NOW)
    assert bound.window == 8
    assert bound.refused(NOW) == pytest.approx(0.2)
    assert bound.window == 3, "half of the seven that were opened"
    assert [bound.refused(NOW) for _ in range(4)] == pytest.approx([0.4, 0.8, 1.0, 1.0])
    assert bound.window == 1
    bound.opened(0.0, NOW)
    assert bound.window == 2
    assert bound.refused(NOW) == pytest.approx(0.2)


def test_a_host_without_a_fleet_is_limited_by_its_refusals_too() -> None:
    bound = admission(fresh=False)
    for _ in range(6):
        bound.opened(0.0, NOW)
    bound.refused(NOW)
    assert bound.window == 3


def test_the_pauses_of_a_large_fleet_are_longer() -> None:
    bound = admission(spread=1.4)
    assert max(bound.refused(NOW) for _ in range(10)) == pytest.approx(5.6)


@given(st.integers(), st.lists(st.tuples(st.floats(0, 5), st.booleans(), st.floats(0, 2)), max_size=80))
def test_no_history_opens_more_than_doubling_allows_and_none_waits_for_ever(
    seed: int, history: list[tuple[float, bool, float]]
) -> None:
    bound = Admission(NOW, Random(seed), spread=0.05, fresh=True)
    now, opened = NOW, 0
    for pause, granted, took in history:
        now = max(now + pause, bound.due)
        if granted:
            now += took
            bound.opened(took, now)
            opened += 1
        else:
            assert 0.0 < bound.refused(now) <= 1.5
        assert bound.window >= 1
        # Each round takes half of ROUND at least, and the windows of all rounds double from one.
        assert opened <= 2 ** (2 + math.floor((now - NOW) / (0.5 * ROUND)))
        assert bound.due <= now + 1.5 * max(1.0, took)


@pytest.mark.parametrize(
    ("generation", "returned_at", "since", "fresh"),
    [
        (0, None, NOW, False),
        (1, None, NOW, True),
        (0, NOW - 1, NOW - 1, True),
        (3, NOW - 60, NOW - SETTLED, False),
        (3, None, NOW - SETTLED + 0.1, True),
    ],
)
def test_a_fleet_is_expected_only_for_a_while_at_a_host_that_was_away_or_something_else(
    generation: int, returned_at: float | None, since: float, fresh: bool
) -> None:
    assert is_fresh(generation=generation, returned_at=returned_at, since=since, now=NOW) is fresh


def test_a_pool_waits_for_its_turn_to_connect() -> None:
    bound = admission(spread=1.0)
    books: Lending[object, str] = Lending(  # type: ignore[type-var]
        min_size=2, max_size=4, max_waiting=0, max_idle=60.0, now=NOW, admission=bound
    )
    assert books.step(NOW) == Rest(0.5)
    assert books.step(NOW + 0.5) == Connect()
    books.failed(NOW + 0.5)
    bound.refused(NOW + 0.5)
    assert books.step(NOW + 0.6) == Rest(bound.due - (NOW + 0.6))
    assert books.step(NOW + 0.7) == Connect()


def test_lifetimes_differ_by_a_quarter_and_are_never_longer_than_the_most() -> None:
    times = [lifetime(3600.0, Random(seed)) for seed in range(1000)]
    assert 3600.0 * (1 - SPREAD) <= min(times) < 2750
    assert 3550 < max(times) <= 3600.0
