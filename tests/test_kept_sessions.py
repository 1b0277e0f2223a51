"""The sessions that `Node.execute` uses again in these tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute.testing import LocalCluster
from tests.kept_sessions import PATIENCE, KeptSessions

WHO = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query ~ 'who asks'"

pytestmark = pytest.mark.cluster


class Kept:
    """Sessions of this test's own at one server."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.sessions = KeptSessions()
        self.node = cluster.primary
        self._target: dict[str, Any] = self.node._target

    def execute(self, sql: str, *, timeout: float = PATIENCE) -> list[tuple[Any, ...]]:
        return self.sessions.run(self._target, sql, None, timeout)

    @property
    def count(self) -> int:
        return len(self.sessions.descriptors())


@pytest.fixture
def kept(shared: LocalCluster) -> Iterator[Kept]:
    kept = Kept(shared)
    yield kept
    kept.sessions.forget()
    assert not kept.sessions.descriptors()


def test_a_session_serves_one_statement_after_the_other(kept: Kept) -> None:
    assert len({pid for _ in range(3) for (pid,) in kept.execute(WHO)}) == 1
    assert kept.count == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SET work_mem = '1MB'",
        "SELECT set_config('work_mem', '1MB', false)",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_backend_pid()",
        "CREATE TEMP TABLE mine (number int)",
        "BEGIN",
    ],
)
def test_a_statement_with_state_has_a_session_of_its_own(kept: Kept, sql: str) -> None:
    kept.execute(sql)
    assert kept.count == 0


def test_a_statement_with_a_time_limit_of_its_own_has_a_session_of_its_own(kept: Kept) -> None:
    kept.execute("SELECT 1", timeout=PATIENCE - 1)
    assert kept.count == 0


def test_a_session_that_the_server_has_ended_is_not_used_again(kept: Kept) -> None:
    [(pid,)] = kept.execute(WHO)
    kept.node.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    [(other,)] = kept.execute(WHO)
    assert other != pid
    assert kept.count == 1


def test_a_session_is_not_used_again_after_an_error(kept: Kept) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        kept.execute("SELECT 1 / 0")
    assert kept.count == 0


def test_only_the_sessions_of_one_server_are_forgotten(kept: Kept) -> None:
    kept.execute("SELECT 1")
    kept.sessions.forget(kept.node.port + 1)
    assert kept.count == 1
    kept.sessions.forget(kept.node.port)
    assert kept.count == 0
