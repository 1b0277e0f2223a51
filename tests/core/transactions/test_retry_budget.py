"""How many transactions may be run again: the averages, what costs, and the bound on every history."""

from __future__ import annotations

import math

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.config.retry_policy import RetryPolicy
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.transactions.retry import Phase, Raise, Retry, RetryState
from pgroute.core.transactions.retry_budget import WINDOW, Usage, costs
from pgroute.errors import ConfigError

NOW = 1000.0
POLICY = RetryPolicy(budget=0.2, budget_floor=1.0)


def spend_all(usage: Usage, policy: RetryPolicy) -> int:
    """Return how many retries are allowed at this moment."""
    count = 0
    while not usage.refusal(policy):
        usage, count = usage.spent(), count + 1
    return count


@pytest.mark.parametrize("kind", FaultKind)
def test_lost_sessions_and_deadlocks_cost_and_waiting_for_a_primary_is_free(kind: FaultKind) -> None:
    assert costs(Fault(kind, rerun_safe=True)) is (kind in {FaultKind.LOST, FaultKind.DEADLOCK})


@pytest.mark.parametrize(
    ("budget", "floor", "begun", "seconds", "allowed"),
    [
        (0.2, 1.0, 0, 0.0, 10),
        (0.2, 1.0, 100, 0.0, 30),
        (0.2, 0.0, 0, 0.0, 0),
        (0.0, 1.0, 10**6, 1.0, 10),
        (0.5, 0.0, 100, 0.0, 50),
        (0.2, 1.0, 3_600_000, 3600.0, 10 + 2000),  # 1000 a second for an hour: those of one window count
        (0.2, 1.0, 3600, 3600.0, 12),
    ],
)
def test_a_share_of_the_traffic_of_a_window_and_a_floor(
    budget: float, floor: float, begun: int, seconds: float, allowed: int
) -> None:
    usage = Usage(NOW).moved(begun, NOW + seconds)
    assert spend_all(usage, RetryPolicy(budget=budget, budget_floor=floor)) == allowed


def test_what_was_spent_comes_back_within_windows() -> None:
    usage = Usage(NOW)
    for _ in range(spend_all(usage, POLICY)):
        usage = usage.spent()
    assert usage.refusal(POLICY)
    assert not usage.moved(0, NOW + 0.11 * WINDOW).refusal(POLICY)
    assert spend_all(usage.moved(0, NOW + WINDOW), POLICY) == 6
    assert spend_all(usage.moved(0, NOW + 10 * WINDOW), POLICY) == 9  # a trace of the ten is left


def test_without_a_budget_nothing_is_refused_but_it_counts_for_others() -> None:
    usage = Usage(NOW)
    for _ in range(1000):
        assert not usage.refusal(RetryPolicy(budget=None, budget_floor=0.0))
        usage = usage.spent()
    assert usage.refusal(POLICY)


@given(st.integers(0, 500), st.lists(st.floats(0.01, 30), min_size=1, max_size=20))
def test_the_average_of_even_traffic_does_not_depend_on_when_it_is_looked_at(
    rate: int, pauses: list[float]
) -> None:
    often, total = Usage(NOW), 0.0
    for pause in pauses:
        total += pause
        often = often.moved(round(rate * total), NOW + total)
    once = Usage(NOW).moved(round(rate * total), NOW + total)
    assert often.traffic == pytest.approx(once.traffic, abs=len(pauses) + 1)


@given(
    st.floats(0, 1),
    st.floats(0, 20),
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 50), st.integers(0, 80)), max_size=60),
)
def test_no_history_has_more_retries_than_the_budget_says(
    budget: float, floor: float, history: list[tuple[float, int, int]]
) -> None:
    policy = RetryPolicy(budget=budget, budget_floor=floor)
    usage, now, begun, retried = Usage(NOW), NOW, 0, 0
    for pause, more, asked in history:
        now, begun = now + pause, begun + more
        usage = usage.moved(begun, now)
        for _ in range(asked):
            if not usage.refusal(policy):
                usage, retried = usage.spent(), retried + 1
        assert usage.retries <= usage.allowed(policy) + 1e-6
    # A burst at the start, and then the rates.
    assert retried <= budget * begun + floor * (WINDOW + now - NOW) + 1e-6


def test_a_clock_that_stands_still_or_goes_back_does_no_harm() -> None:
    usage = Usage(NOW, begun=10, traffic=10.0).spent()
    assert usage.moved(12, NOW).traffic == 12.0
    assert usage.moved(12, NOW - 5).traffic == 12.0
    assert usage.moved(3, NOW).traffic == 10.0  # a count that another thread has lost


class Refusing:
    def __init__(self, refusal: str) -> None:
        self.refusal = refusal
        self.asked: list[FaultKind] = []

    def spend(self, fault: Fault, policy: RetryPolicy, now: float) -> str:
        self.asked.append(fault.kind)
        return self.refusal


def way(budget: Refusing) -> RetryState:
    return RetryState(POLICY, NOW, timeout=10.0, acquire_timeout=1.0, decidable=False, budget=budget)


def test_an_error_for_which_the_budget_is_spent_is_raised_at_once_and_says_so() -> None:
    budget = Refusing("the retry budget is spent: why")
    course, lost = way(budget), psycopg.errors.AdminShutdown("ended")
    step = course.failed(lost, Fault(FaultKind.LOST, rerun_safe=True), Phase.BODY, NOW + 0.1)
    assert step == Raise("the retry budget is spent: why")
    assert course.final(lost, NOW + 0.1) is lost
    assert lost.__notes__ == [
        "pgroute: 1 attempt in 0.10 s",
        "pgroute: not run again: the retry budget is spent: why",
    ]


def test_the_budget_is_asked_only_for_what_would_be_run_again() -> None:
    budget = Refusing("")
    course, mine = way(budget), ValueError("mine")
    course.failed(mine, Fault(FaultKind.OTHER), Phase.BODY, NOW)
    course.failed(mine, Fault(FaultKind.LOST, rerun_safe=True), Phase.ACQUIRE, NOW)
    course.failed(mine, Fault(FaultKind.LOST, rerun_safe=True), Phase.BODY, NOW, refusal="read to its end")
    course.failed(mine, Fault(FaultKind.LOST, rerun_safe=True), Phase.BODY, NOW + 10)
    assert budget.asked == []
    assert isinstance(course.failed(mine, Fault(FaultKind.LOST, rerun_safe=True), Phase.BODY, NOW), Retry)
    assert budget.asked == [FaultKind.LOST]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"budget": -0.1}, "budget -0.1"),
        ({"budget": 1.5}, "budget 1.5"),
        ({"budget": True}, "budget True"),
        ({"budget": "20 %"}, "budget '20 %'"),
        ({"budget": math.nan}, "budget nan"),
        ({"budget_floor": None}, "budget_floor None"),
        ({"budget_floor": -1}, "budget_floor -1"),
        ({"budget_floor": math.inf}, "budget_floor inf"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(given: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RetryPolicy(**given)  # type: ignore[arg-type]
