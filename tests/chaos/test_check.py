"""The check, on histories made by hand: each way of being wrong is found, and what is right passes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from pgroute import CommitUnknown, NoHostAvailable, SessionLost
from tests.chaos.account import judge
from tests.chaos.check import History, Row, Verdict, Wrong, check
from tests.chaos.journal import (
    Begun,
    Ended,
    Follower,
    Journal,
    Left,
    Outcome,
    Read,
    Record,
    make_id,
    writer_of,
)

ACK, FAILED, UNKNOWN = Outcome.ACKNOWLEDGED, Outcome.FAILED, Outcome.UNKNOWN
ONE = make_id(1, 0, 1)


def ended(outcome: Outcome, *, id_: int = ONE, **changes: object) -> Ended:
    """Return the end of a write on port 1, timeline 3."""
    end = Ended(id_, 2.0, outcome, 3, entered=True, port=1, timeline=3)
    return dataclasses.replace(end, **changes)  # type: ignore[arg-type]


def a_read(**changes: object) -> Read:
    """Return a reader's session at a standby."""
    read = Read(1.0, 2.0, 3, entered=True, port=2, recovering=True, read_only=True)
    return dataclasses.replace(read, **changes)  # type: ignore[arg-type]


def judged(
    *records: Ended | Read | Left,
    rows: tuple[Row, ...] = (),
    left_behind: tuple[Row, ...] = (),
    zero_loss: bool = True,
    begun: tuple[int, ...] = (ONE,),
) -> Verdict:
    """Return the verdict on a history."""
    starts = [Begun(id_, 1.0) for id_ in begun]
    return check(History.of([*starts, *records], rows, left_behind, zero_loss=zero_loss))


def wrongs(verdict: Verdict) -> list[Wrong]:
    return [violation.kind for violation in verdict.violations]


@pytest.mark.parametrize(("outcome", "rows"), [(ACK, 1), (UNKNOWN, 0), (UNKNOWN, 1), (FAILED, 0)], ids=str)
def test_what_may_be_is_right(outcome: Outcome, rows: int) -> None:
    verdict = judged(ended(outcome), a_read(), Left(1, 3.0), rows=(Row(ONE, 1, 3),) * rows)
    assert verdict == Verdict((), 0)


def test_an_acknowledged_write_that_is_nowhere_is_lost() -> None:
    for zero_loss in (True, False):
        assert wrongs(judged(ended(ACK), zero_loss=zero_loss)) == [Wrong.LOST]


def test_an_acknowledged_write_left_behind_is_lost_with_synchronous_replication() -> None:
    assert wrongs(judged(ended(ACK), left_behind=(Row(ONE, 1, 3),))) == [Wrong.LOST]


def test_an_acknowledged_write_left_behind_is_the_servers_loss_without() -> None:
    verdict = judged(ended(ACK), left_behind=(Row(ONE, 1, 3),), zero_loss=False)
    assert verdict == Verdict((), 1)


@pytest.mark.parametrize("outcome", [ACK, UNKNOWN])
def test_a_write_that_is_there_twice_is_doubled(outcome: Outcome) -> None:
    assert wrongs(judged(ended(outcome), rows=(Row(ONE, 1, 3),) * 2)) == [Wrong.DOUBLED]


def test_a_row_that_nobody_tried_to_write_is_a_phantom() -> None:
    assert wrongs(judged(rows=(Row(ONE, 1, 3),), begun=())) == [Wrong.PHANTOM]


def test_a_failed_write_that_is_there_was_misreported() -> None:
    assert wrongs(judged(ended(FAILED), rows=(Row(ONE, 1, 3),))) == [Wrong.MISREPORTED]


def test_a_failed_write_that_a_deposed_primary_committed_was_misreported() -> None:
    assert wrongs(judged(ended(FAILED), left_behind=(Row(ONE, 1, 3),))) == [Wrong.MISREPORTED]


@pytest.mark.parametrize("row", [Row(ONE, 2, 3), Row(ONE, 1, 2)])
def test_a_row_elsewhere_than_its_session_is_misplaced(row: Row) -> None:
    assert wrongs(judged(ended(ACK), rows=(row,))) == [Wrong.MISPLACED]


def test_a_session_on_a_timeline_below_the_one_seen_before_is_stale() -> None:
    assert wrongs(judged(ended(FAILED, mark=4))) == [Wrong.STALE]


def test_a_row_below_the_timeline_seen_before_is_stale_if_its_session_learned_none() -> None:
    verdict = judged(ended(UNKNOWN, mark=4, port=0, timeline=0), left_behind=(Row(ONE, 1, 3),))
    assert wrongs(verdict) == [Wrong.STALE]


def test_a_session_above_the_timeline_seen_before_is_right() -> None:
    assert wrongs(judged(ended(ACK, mark=2), rows=(Row(ONE, 1, 3),))) == []


def test_a_write_without_an_end_is_unknown_if_its_worker_was_killed() -> None:
    assert wrongs(judged(rows=(Row(ONE, 1, 3),))) == []


def test_a_write_without_an_end_is_unaccounted_for_if_its_worker_ended_in_order() -> None:
    assert wrongs(judged(Left(1, 3.0))) == [Wrong.UNACCOUNTED]


def test_errors_of_neither_library_are_unexpected() -> None:
    assert wrongs(judged(ended(FAILED, error="builtins.KeyError"))) == [Wrong.UNEXPECTED]
    assert wrongs(judged(a_read(error="psycopg_pool.PoolTimeout"))) == [Wrong.UNEXPECTED]


def test_only_the_routers_errors_come_from_waiting_for_a_session() -> None:
    assert wrongs(judged(ended(FAILED, error="psycopg.OperationalError"))) == []
    without = ended(FAILED, error="psycopg.OperationalError", entered=False)
    assert wrongs(judged(without)) == [Wrong.UNEXPECTED]
    assert wrongs(judged(dataclasses.replace(without, error="pgroute.NoHostAvailable"))) == []


@pytest.mark.parametrize("changes", [{"wrote": True}, {"read_only": False}])
def test_a_reader_that_can_write_is_wrong(changes: dict[str, bool]) -> None:
    assert wrongs(judged(a_read(**changes))) == [Wrong.WRITABLE]


def test_a_reader_at_a_stale_primary_is_wrong() -> None:
    assert wrongs(judged(a_read(recovering=False, timeline=2))) == [Wrong.STALE]
    assert wrongs(judged(a_read(recovering=False, timeline=3))) == []


@pytest.mark.parametrize(
    ("error", "autocommit", "outcome"),
    [
        (NoHostAvailable("none"), False, FAILED),
        (SessionLost("lost"), False, FAILED),
        (SessionLost("lost", may_have_committed=True), False, UNKNOWN),
        (CommitUnknown("lost"), False, UNKNOWN),
        (psycopg.OperationalError("server closed the connection"), False, FAILED),
        (psycopg.OperationalError("server closed the connection"), True, UNKNOWN),
        (ValueError("a mistake"), False, UNKNOWN),
    ],
    ids=str,
)
def test_an_error_tells_what_became_of_the_write(
    error: Exception, autocommit: bool, outcome: Outcome
) -> None:
    assert judge(error, autocommit=autocommit) is outcome


def test_the_pools_timeout_is_one_of_ours() -> None:
    assert issubclass(NoHostAvailable, PoolTimeout)


def test_a_journal_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    follower = Follower(path)
    assert follower.read() == []
    records: list[Record] = [
        Begun(ONE, 1.0),
        ended(UNKNOWN, error="psycopg.Error", text='a "quoted" ö'),
        a_read(),
        Left(1, 2.0),
    ]
    with Journal(path) as journal:
        journal.write(records[0])
        assert follower.read() == records[:1]
        for record in records[1:]:
            journal.write(record)
    with path.open("ab") as file:
        file.write(b'["begun", 1')
    assert follower.read() == records[1:]
    assert follower.read() == []


def test_an_id_tells_where_it_is_from() -> None:
    assert writer_of(make_id(12, 3, 4567)) == (12, 3)
