# Generated from tests/aio/test_migrations.py by .ci/unasync.py: edit that file, not this one.
"""A migration changes the columns of what connections have prepared: "cached plan must not change result type"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import Router, PoolOptions
from pgroute.testing import FaultProxy, LocalCluster

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1, kwargs={"prepare_threshold": 0})
QUERY = "SELECT * FROM migrated"


@pytest.fixture
def migrated(shared: LocalCluster) -> Iterator[LocalCluster]:
    """Give a cluster with a table to change."""
    shared.primary.execute("CREATE TABLE migrated (a int)")
    shared.primary.execute("INSERT INTO migrated VALUES (1)")
    shared.catch_up()
    yield shared
    shared.primary.execute("DROP TABLE migrated")
    shared.catch_up()


def migrate(cluster: LocalCluster) -> None:
    cluster.primary.execute("ALTER TABLE migrated ADD COLUMN b int DEFAULT 2")
    cluster.catch_up()


@pytest.mark.parametrize("role", ["writer", "reader"])
@pytest.mark.parametrize("query", [QUERY, "SELECT * FROM migrated /* ; */"], ids=["alone", "in-a-pipeline"])
def test_a_single_statement_is_prepared_again(migrated: LocalCluster, role: Any, query: str) -> None:
    with Router(migrated.dsn, writer=ONE, reader=ONE) as router:
        for _ in range(6):  # on each standby
            assert router.fetch(query, role=role) == [(1,)]
        migrate(migrated)
        for _ in range(6):
            assert router.fetch(query, role=role) == [(1, 2)]
        assert not any(router.stats().counts.retries.values())


def test_a_single_statement_in_a_block_of_its_own_is_run_again(migrated: LocalCluster) -> None:
    def serializable(conn: psycopg.Connection[Any]) -> None:
        conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)

    options = PoolOptions(max_size=1, kwargs={"prepare_threshold": 0}, configure=serializable)
    with Router(migrated.dsn, writer=options) as router:
        assert router.fetch(QUERY, role="writer") == [(1,)]
        migrate(migrated)
        assert router.fetch(QUERY, role="writer") == [(1, 2)]


def test_a_transaction_is_run_again(migrated: LocalCluster) -> None:
    def select(conn: psycopg.Connection[Any]) -> list[Any]:
        return (conn.execute(QUERY)).fetchall()

    with Router(migrated.dsn, writer=ONE) as router:
        assert router.run(select) == [(1,)]
        migrate(migrated)
        assert router.run(select) == [(1, 2)]


def test_what_the_user_has_prepared_is_not_run_again_for_long(migrated: LocalCluster) -> None:
    def prepare(conn: psycopg.Connection[Any]) -> None:
        conn.execute(f"PREPARE mine AS {QUERY}")
        conn.commit()

    def use(conn: psycopg.Connection[Any]) -> None:
        conn.execute("EXECUTE mine")

    options = PoolOptions(max_size=1, configure=prepare)
    with Router(migrated.dsn, writer=options) as router:
        router.run(use)
        migrate(migrated)
        with pytest.raises(psycopg.errors.FeatureNotSupported) as caught:
            router.run(use)
        assert "4 attempts" in str(caught.value.__notes__)
        assert "not run again: its plan is still outdated" in str(caught.value.__notes__)


def test_a_connection_lost_as_it_forgets_its_plans_leaves_nothing_unknown(
    migrated: LocalCluster,
) -> None:
    with FaultProxy(migrated.primary) as front:
        with Router(FaultProxy.dsn([front]), writer=ONE) as router:
            assert router.fetch(QUERY, role="writer") == [(1,)]
            migrate(migrated)
            front.when(b"DEALLOCATE", "to_server", "reset")
            assert router.fetch(QUERY, role="writer") == [(1, 2)]
            assert any(router.stats().counts.retries.values())


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_session_fails_once(migrated: LocalCluster, autocommit: bool) -> None:
    def select() -> list[Any]:
        with router.writer() as conn:
            conn.set_autocommit(autocommit)
            return (conn.execute(QUERY)).fetchall()

    with Router(migrated.dsn, writer=ONE) as router:
        assert select() == [(1,)]
        migrate(migrated)
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            select()
        assert select() == [(1, 2)]
        assert select() == [(1, 2)]


def test_other_features_that_are_not_supported_are_not_asked_for_again(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        with pytest.raises(psycopg.errors.FeatureNotSupported) as caught:
            router.execute("SELECT count(*) FROM pg_class FOR UPDATE")
        assert "1 attempt" in str(caught.value.__notes__)
