"""What is run again and when, over every kind of fault and every phase of an attempt."""

from __future__ import annotations

import itertools
import math
from typing import Any

import psycopg
import pytest
import tenacity

from pgroute.core.config.retry_policy import RetryPolicy
from pgroute.core.faults.classify import Fault, FaultKind, session_fault
from pgroute.core.transactions.retry import Phase, Raise, Retry, RetryState, body_fault, decide, end_fault
from pgroute.errors import CommitUnknown, ConfigError, NoHostAvailable, SessionLost

NOW = 1000.0
POLICY = RetryPolicy(stop=tenacity.stop_never, wait=tenacity.wait_fixed(0.5))

SAFE = {FaultKind.SERIALIZATION, FaultKind.DEADLOCK, FaultKind.READ_ONLY, FaultKind.LOST}


def fault(kind: FaultKind) -> Fault:
    """Return a fault of its kind, as far as it can come from a session before COMMIT was sent."""
    return Fault(kind, rerun_safe=kind in SAFE)


@pytest.mark.parametrize("decidable", [False, True])
@pytest.mark.parametrize(("kind", "phase"), [*itertools.product(FaultKind, Phase)])
def test_what_certainly_was_not_committed_is_run_again_but_not_what_found_no_session(
    kind: FaultKind, phase: Phase, decidable: bool
) -> None:
    step = decide(fault(kind), phase, 1, 0.1, policy=POLICY, decidable=decidable)
    if phase is not Phase.ACQUIRE and kind in SAFE:
        assert step == Retry(0.5)
    else:
        assert isinstance(step, Raise)


@pytest.mark.parametrize(
    ("phase", "decidable", "again"),
    [
        (phase, decidable, decidable and phase is not Phase.ACQUIRE)
        for phase in Phase
        for decidable in (False, True)
    ],
)
def test_what_may_have_been_committed_is_run_again_only_if_that_can_be_found_out(
    phase: Phase, decidable: bool, again: bool
) -> None:
    lost = Fault(FaultKind.LOST, commit_unknown=True)
    assert isinstance(decide(lost, phase, 1, 0.1, policy=POLICY, decidable=decidable), Retry) is again


def error(sqlstate: str) -> psycopg.Error:
    return psycopg.errors.lookup(sqlstate)("said so")


@pytest.mark.parametrize(
    ("sqlstate", "closed", "committing", "read_write", "again"),
    [
        ("40001", False, False, True, True),
        ("40001", False, False, False, True),
        ("40P01", False, False, True, True),
        ("40001", True, False, True, True),
        ("40001", True, True, True, False),
        ("25006", False, False, True, True),
        ("25006", False, False, False, False),
        ("57P01", True, False, True, True),
        ("57P01", True, True, True, False),
        ("08006", True, False, True, True),
        ("23505", False, False, True, False),
        ("22P02", False, False, True, False),
        ("25P02", False, False, True, False),
        ("57014", False, False, True, False),
        ("55P03", False, False, True, False),
        ("53100", False, False, True, False),
        ("0A000", False, False, True, False),
    ],
)
def test_what_the_server_says_decides(
    sqlstate: str, closed: bool, committing: bool, read_write: bool, again: bool
) -> None:
    phase = Phase.COMMIT if committing else Phase.BODY
    read = session_fault(error(sqlstate), closed=closed, committing=committing, read_write=read_write)
    assert isinstance(decide(read, phase, 1, 0.0, policy=POLICY), Retry) is again


def test_the_default_policy_goes_on_for_thirty_seconds_with_full_jitter() -> None:
    lost = fault(FaultKind.LOST)
    policy = RetryPolicy()
    for attempt, ceiling in ((1, 0.02), (2, 0.04), (5, 0.32), (8, 2.0), (50, 2.0)):
        pauses = [
            step.pause
            for _ in range(200)
            if isinstance(step := decide(lost, Phase.BODY, attempt, 1.0, policy=policy), Retry)
        ]
        assert len(pauses) == 200
        assert 0 <= min(pauses) < ceiling / 4
        assert ceiling * 3 / 4 < max(pauses) <= ceiling
    assert decide(lost, Phase.BODY, 9, 30.0, policy=policy) == Raise("out of time")


def test_no_pause_is_begun_that_ends_too_late() -> None:
    lost = fault(FaultKind.LOST)
    assert decide(lost, Phase.BODY, 1, 9.4, policy=POLICY, timeout=10.0) == Retry(0.5)
    assert decide(lost, Phase.BODY, 1, 9.5, policy=POLICY, timeout=10.0) == Raise("out of time")


def test_strategies_see_the_attempt_the_time_the_error_and_the_pause() -> None:
    seen: list[tuple[Any, ...]] = []

    def stop(state: tenacity.RetryCallState) -> bool:
        assert state.outcome is not None
        seen.append(
            (
                state.attempt_number,
                state.seconds_since_start,
                state.outcome.exception(),
                state.upcoming_sleep,
            )
        )
        return True

    lost = error("57P01")
    policy = RetryPolicy(stop=stop, wait=tenacity.wait_fixed(0.25))
    step = decide(fault(FaultKind.LOST), Phase.BODY, 4, 2.5, policy=policy, error=lost)
    assert step == Raise("the policy says stop")
    assert seen == [(4, 2.5, lost, 0.25)]


@pytest.mark.parametrize(
    ("stop", "limit"),
    [
        (None, 30.0),
        (tenacity.stop_after_delay(5), 5.0),
        (tenacity.stop_before_delay(7), 7.0),
        (tenacity.stop_after_attempt(3), None),
        (tenacity.stop_never, None),
        (tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(9), 9.0),
        (tenacity.stop_after_delay(4) | tenacity.stop_after_delay(9), 4.0),
        (tenacity.stop_after_delay(4) & tenacity.stop_after_delay(9), 9.0),
        (tenacity.stop_after_attempt(3) & tenacity.stop_after_delay(9), None),
        (lambda _: False, None),
    ],
)
def test_the_time_that_a_policy_sets_is_known_as_far_as_tenacity_tells_it(
    stop: Any, limit: float | None
) -> None:
    assert RetryPolicy(stop=stop).limit() == limit


@pytest.mark.parametrize(
    "given", [{"stop": 3}, {"wait": 0.5}, {"stop": "30s"}, {"stop": tenacity.stop_after_delay}]
)
def test_what_is_no_strategy_is_refused_by_name(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(ConfigError, match=f"invalid {name} .*tenacity {name} strategy"):
        RetryPolicy(**given)


@pytest.mark.parametrize(
    ("stop", "timeout", "limit"),
    [
        (None, 60.0, 60.0),
        (tenacity.stop_after_delay(5), 60.0, 5.0),
        (tenacity.stop_after_delay(5), 2.0, 2.0),
        (tenacity.stop_never, 60.0, 60.0),
    ],
)
def test_a_timeout_replaces_the_default_limit_but_no_strategy(
    stop: Any, timeout: float, limit: float
) -> None:
    assert RetryPolicy(stop=stop).limit(timeout) == limit


def course(**given: Any) -> RetryState:
    options: dict[str, Any] = {"timeout": None, "acquire_timeout": 20.0, "decidable": False}
    return RetryState(given.pop("policy", POLICY), NOW, **{**options, **given})


@pytest.mark.parametrize("later", [1.0, 0.9995])
def test_a_pause_that_takes_all_the_time_is_no_reason_to_hide_why_the_attempt_failed(later: float) -> None:
    story, lost = course(timeout=1.0), SessionLost("lost")
    assert isinstance(story.failed(lost, fault(FaultKind.LOST), Phase.BODY, NOW + 0.1), Retry)
    with pytest.raises(SessionLost) as caught:
        story.left(NOW + later)
    assert story.without_session(caught.value, NOW + later) is lost
    assert lost.__notes__ == [f"pgroute: 1 attempt in {later:.2f} s"]


def test_a_session_may_be_waited_for_as_long_as_is_left() -> None:
    assert course().left(NOW + 100) == 20.0
    assert course(timeout=50.0).left(NOW + 10) == 40.0
    assert course(timeout=50.0).left(NOW + 60) == 0.0
    assert course(policy=RetryPolicy()).left(NOW + 1) == 20.0
    assert course(policy=RetryPolicy()).left(NOW + 25) == 5.0
    assert course(policy=RetryPolicy(), timeout=3.0).left(NOW + 1) == 2.0


def test_another_transaction_may_be_waited_for_until_no_attempt_begins() -> None:
    assert course(policy=RetryPolicy()).until_end(NOW + 1) == 29.0
    assert course(policy=RetryPolicy(), timeout=3.0).until_end(NOW + 1) == 2.0
    assert course(timeout=50.0).until_end(NOW + 60) == 0.0
    assert course().until_end(NOW + 100) == 20.0


def test_the_error_tells_how_many_attempts_there_were_and_what_went_wrong_before() -> None:
    way = course(timeout=2.0)
    assert way.failed(error("40001"), fault(FaultKind.SERIALIZATION), Phase.BODY, NOW + 0.5) == Retry(0.5)
    last = error("40P01")
    assert isinstance(way.failed(last, fault(FaultKind.DEADLOCK), Phase.BODY, NOW + 1.6), Raise)
    assert way.final(last, NOW + 1.6) is last
    assert last.__notes__ == [
        "pgroute: 2 attempts in 1.60 s; the error before: SerializationFailure: said so"
    ]


def test_an_error_of_the_application_is_let_out_as_it_is_unless_it_came_late() -> None:
    mine = ValueError("mine")
    way = course()
    way.failed(mine, Fault(FaultKind.OTHER), Phase.BODY, NOW)
    assert way.final(mine, NOW) is mine
    assert not hasattr(mine, "__notes__")
    way.failed(error("40001"), fault(FaultKind.SERIALIZATION), Phase.BODY, NOW)
    way.failed(mine, Fault(FaultKind.OTHER), Phase.BODY, NOW + 1)
    way.final(mine, NOW + 1)
    assert mine.__notes__ == [
        "pgroute: 2 attempts in 1.00 s; the error before: SerializationFailure: said so"
    ]


def test_as_long_as_an_attempt_may_have_been_committed_that_is_what_is_raised() -> None:
    way = course(decidable=True)
    unknown = CommitUnknown("lost during COMMIT")
    way.failed(unknown, Fault(FaultKind.LOST, commit_unknown=True), Phase.COMMIT, NOW)
    nowhere = NoHostAvailable("no host")
    way.failed(nowhere, Fault(FaultKind.OTHER, rerun_safe=True), Phase.ACQUIRE, NOW + 30)
    assert way.final(nowhere, NOW + 30) is unknown
    assert nowhere.rerun_safe is False
    assert unknown.__notes__ == ["pgroute: 2 attempts in 30.00 s; the last error: NoHostAvailable: no host"]


def test_once_it_is_known_that_nothing_was_committed_the_last_error_is_raised() -> None:
    way = course(decidable=True)
    way.failed(CommitUnknown("lost"), Fault(FaultKind.LOST, commit_unknown=True), Phase.COMMIT, NOW)
    way.unknown = None
    mine = ValueError("mine")
    way.failed(mine, Fault(FaultKind.OTHER), Phase.BODY, NOW)
    assert way.final(mine, NOW) is mine


def test_an_interruption_is_never_replaced() -> None:
    way = course(decidable=True)
    way.failed(CommitUnknown("lost"), Fault(FaultKind.LOST, commit_unknown=True), Phase.COMMIT, NOW)
    stop = KeyboardInterrupt()
    assert way.final(stop, NOW) is stop


@pytest.mark.parametrize(
    ("raised", "phase", "safe"),
    [
        (NoHostAvailable("x"), Phase.ACQUIRE, True),
        (SessionLost("x"), Phase.EXIT, True),
        (CommitUnknown("x"), Phase.COMMIT, False),
        (SessionLost("of another router, in the body"), Phase.BODY, False),
    ],
)
def test_rerun_safe_is_said_only_where_nothing_can_have_been_committed(
    raised: Any, phase: Phase, safe: bool
) -> None:
    way = course(timeout=0.1)
    way.failed(raised, Fault(FaultKind.LOST, rerun_safe=safe), phase, NOW + 1)
    assert raised.rerun_safe is safe


@pytest.mark.parametrize(
    "wait", [lambda _: math.nan, lambda _: math.inf, lambda _: None, lambda _: -1, lambda _: 1 / 0]
)
def test_a_strategy_that_makes_no_sense_is_told_and_ends_it(wait: Any) -> None:
    way = course(policy=RetryPolicy(wait=wait))
    lost = error("57P01")
    step = way.failed(lost, fault(FaultKind.LOST), Phase.BODY, NOW)
    assert isinstance(step, Raise)
    assert step.failed
    way.final(lost, NOW)
    assert "the retry policy failed: " in lost.__notes__[0]


def test_an_interrupt_is_told_of_an_attempt_that_may_have_been_committed() -> None:
    way, stop = course(decidable=True), KeyboardInterrupt()
    way.interrupted(stop)
    assert not hasattr(stop, "__notes__")
    way.failed(CommitUnknown("lost"), Fault(FaultKind.LOST, commit_unknown=True), Phase.COMMIT, NOW)
    way.interrupted(stop)
    assert stop.__notes__ == ["an earlier attempt may have been committed: CommitUnknown: lost"]


UNDECIDED = SessionLost("what the body committed may be there", may_have_committed=True)


@pytest.mark.parametrize(
    ("exc", "lost", "closed", "again"),
    [
        (error("40001"), False, False, True),
        (error("40001"), False, True, False),
        (error("57P01"), True, False, True),
        (error("23505"), False, False, False),
        (ValueError("no"), False, False, False),
        (ValueError("no"), True, False, False),
        (SessionLost("a session of the body's own"), False, False, False),
        (UNDECIDED, True, False, False),
        (CommitUnknown("a session of the body's own"), True, False, False),
    ],
)
def test_the_error_of_a_body(exc: BaseException, lost: bool, closed: bool, again: bool) -> None:
    fault = body_fault(exc, lost=lost, closed=closed, read_write=True)
    assert fault.rerun_safe is again
    assert not fault.commit_unknown


@pytest.mark.parametrize(
    ("exc", "phase", "lost", "again", "unknown"),
    [
        (error("40001"), Phase.COMMIT, False, True, False),
        (error("40001"), Phase.COMMIT, True, False, True),
        (error("57P01"), Phase.COMMIT, True, False, True),
        (error("23503"), Phase.COMMIT, False, False, False),
        (CommitUnknown("no answer"), Phase.COMMIT, True, False, True),
        (CommitUnknown("no standby confirmed"), Phase.EXIT, False, False, True),
        (SessionLost("before COMMIT"), Phase.EXIT, True, True, False),
        (SessionLost("read-only"), Phase.COMMIT, True, True, False),
        (psycopg.ProgrammingError("the body closed its connection"), Phase.EXIT, False, False, False),
        (error("25P02"), Phase.EXIT, False, False, False),
        (error("40001"), Phase.EXIT, False, False, False),
    ],
)
def test_the_error_of_an_end(
    exc: psycopg.Error, phase: Phase, lost: bool, again: bool, unknown: bool
) -> None:
    fault = end_fault(exc, phase, lost=lost, read_write=True)
    assert (fault.rerun_safe, fault.commit_unknown) == (again, unknown)
