# Generated from tests/aio/test_server_time_limits.py by .ci/unasync.py: edit that file, not this one.
"""Transactions that the server ends because they take too long: not run again, which would take as long."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgroute import Router, PoolOptions, SessionLost
from pgroute.testing import LocalCluster
from tests.support import eventually

pytestmark = pytest.mark.cluster

SECONDS = 0.3
WHY = "not run again: it took longer than the server's "


def limited(setting: str) -> PoolOptions:
    return PoolOptions(max_size=1, settings={setting: f"{SECONDS:.1f}s"})


class Slow:
    """A body that idles until the server has ended its connection."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.calls = 0

    def idle(self, conn: psycopg.Connection[Any]) -> None:
        self.calls += 1
        pid = conn.info.backend_pid
        alive = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: not self.cluster.primary.execute(alive, [pid]))

    def idle_and_go_on(self, conn: psycopg.Connection[Any]) -> None:
        self.idle(conn)
        conn.execute("SELECT 1")

    def sleep(self, conn: psycopg.Connection[Any]) -> None:
        self.calls += 1
        conn.execute("SELECT pg_sleep(60)")


@pytest.mark.parametrize("setting", ["idle_in_transaction_session_timeout", "transaction_timeout"])
def test_a_body_that_idles_and_goes_on(shared: LocalCluster, setting: str) -> None:
    slow = Slow(shared)
    with Router(shared.dsn, writer=limited(setting)) as router:
        router.wait()
        with pytest.raises(psycopg.Error) as caught:
            router.run(slow.idle_and_go_on)
    assert caught.value.sqlstate == ("25P03" if setting.startswith("idle") else "25P04")
    assert WHY + setting in str(caught.value.__notes__)
    assert slow.calls == 1


@pytest.mark.parametrize("setting", ["idle_in_transaction_session_timeout", "transaction_timeout"])
def test_a_body_that_idles_and_returns(shared: LocalCluster, setting: str) -> None:
    slow = Slow(shared)
    with Router(shared.dsn, writer=limited(setting)) as router:
        router.wait()
        with pytest.raises(SessionLost, match=setting) as caught:
            router.run(slow.idle)
    assert WHY + setting in str(caught.value.__notes__)
    assert caught.value.rerun_safe
    assert slow.calls == 1


def test_a_body_whose_statement_takes_too_long(shared: LocalCluster) -> None:
    slow = Slow(shared)
    with Router(shared.dsn, writer=limited("transaction_timeout")) as router:
        router.wait()
        with pytest.raises(psycopg.errors.TransactionTimeout) as caught:
            router.run(slow.sleep)
    assert WHY in str(caught.value.__notes__)
    assert slow.calls == 1


def test_a_single_statement_of_a_reader(shared: LocalCluster) -> None:
    with Router(shared.dsn, reader=limited("transaction_timeout")) as router:
        router.wait("reader")
        with pytest.raises(psycopg.Error) as caught:
            router.fetch("SELECT pg_sleep(60)")
    assert caught.value.sqlstate == "25P04"
    assert WHY in str(caught.value.__notes__)


@pytest.mark.parametrize("setting", ["idle_in_transaction_session_timeout", "transaction_timeout"])
def test_a_copy_out_whose_taker_is_slow(shared: LocalCluster, table: str, setting: str) -> None:
    alive = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
    delete = f"DELETE FROM {table} RETURNING pg_backend_pid()"
    taken: list[int] = []

    def take(data: bytes) -> None:
        taken.append(int(data))
        eventually(lambda: not shared.primary.execute(alive, [int(data)]))

    def copy(router: Router[Any]) -> None:
        router.copy_from(delete, take, role="writer")

    def iterate(router: Router[Any]) -> None:
        with router.copy_chunks(delete, role="writer") as chunks:
            for chunk in chunks:
                take(chunk)

    shared.primary.execute(f"INSERT INTO {table} VALUES (1)")
    with Router(shared.dsn, writer=limited(setting)) as router:
        router.wait()
        for call in (copy, iterate):
            with pytest.raises(psycopg.Error, match="before COMMIT") as caught:
                call(router)
            assert caught.value.sqlstate == ("25P03" if setting.startswith("idle") else "25P04")
            assert WHY + setting in str(caught.value.__notes__)
    assert shared.primary.execute(f"SELECT count(*) FROM {table}") == [(1,)], "nothing was committed"
    assert len(taken) == 2


def test_a_copy_out_whose_connection_somebody_ends_before_its_commit(
    shared: LocalCluster, table: str
) -> None:
    delete = f"DELETE FROM {table} RETURNING pg_backend_pid()"
    alive = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"

    def take(data: bytes) -> None:
        shared.primary.execute("SELECT pg_terminate_backend(%s)", [int(data)])
        eventually(lambda: not shared.primary.execute(alive, [int(data)]))

    shared.primary.execute(f"INSERT INTO {table} VALUES (1)")
    with Router(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        with pytest.raises(SessionLost) as caught:
            router.copy_from(delete, take, role="writer")
    assert caught.value.rerun_safe
    assert shared.primary.execute(f"SELECT count(*) FROM {table}") == [(1,)]


def test_a_connection_that_somebody_ends_is_run_again_as_ever(shared: LocalCluster) -> None:
    calls: list[int] = []

    def body(conn: psycopg.Connection[Any]) -> None:
        calls.append(conn.info.backend_pid)
        conn.execute("SELECT 1")
        if len(calls) == 1:
            shared.primary.execute("SELECT pg_terminate_backend(%s)", [calls[0]])
        conn.execute("SELECT 1")

    with Router(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        router.run(body)
    assert len(calls) == 2
