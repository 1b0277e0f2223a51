"""A migration changes the columns of what connections have prepared: "cached plan must not change result type"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, PoolOptions
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
async def test_a_single_statement_is_prepared_again(migrated: LocalCluster, role: Any, query: str) -> None:
    async with AsyncRouter(migrated.dsn, writer=ONE, reader=ONE) as router:
        for _ in range(6):  # on each standby
            assert await router.fetch(query, role=role) == [(1,)]
        migrate(migrated)
        for _ in range(6):
            assert await router.fetch(query, role=role) == [(1, 2)]
        assert not any(router.stats().counts.retries.values())


async def test_a_single_statement_in_a_block_of_its_own_is_run_again(migrated: LocalCluster) -> None:
    async def serializable(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)

    options = PoolOptions(max_size=1, kwargs={"prepare_threshold": 0}, configure=serializable)
    async with AsyncRouter(migrated.dsn, writer=options) as router:
        assert await router.fetch(QUERY, role="writer") == [(1,)]
        migrate(migrated)
        assert await router.fetch(QUERY, role="writer") == [(1, 2)]


async def test_a_transaction_is_run_again(migrated: LocalCluster) -> None:
    async def select(conn: psycopg.AsyncConnection[Any]) -> list[Any]:
        return await (await conn.execute(QUERY)).fetchall()

    async with AsyncRouter(migrated.dsn, writer=ONE) as router:
        assert await router.run(select) == [(1,)]
        migrate(migrated)
        assert await router.run(select) == [(1, 2)]


async def test_what_the_user_has_prepared_is_not_run_again_for_long(migrated: LocalCluster) -> None:
    async def prepare(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute(f"PREPARE mine AS {QUERY}")
        await conn.commit()

    async def use(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute("EXECUTE mine")

    options = PoolOptions(max_size=1, configure=prepare)
    async with AsyncRouter(migrated.dsn, writer=options) as router:
        await router.run(use)
        migrate(migrated)
        with pytest.raises(psycopg.errors.FeatureNotSupported) as caught:
            await router.run(use)
        assert "4 attempts" in str(caught.value.__notes__)
        assert "not run again: its plan is still outdated" in str(caught.value.__notes__)


async def test_a_connection_lost_as_it_forgets_its_plans_leaves_nothing_unknown(
    migrated: LocalCluster,
) -> None:
    with FaultProxy(migrated.primary) as front:
        async with AsyncRouter(FaultProxy.dsn([front]), writer=ONE) as router:
            assert await router.fetch(QUERY, role="writer") == [(1,)]
            migrate(migrated)
            front.when(b"DEALLOCATE", "to_server", "reset")
            assert await router.fetch(QUERY, role="writer") == [(1, 2)]
            assert any(router.stats().counts.retries.values())


@pytest.mark.parametrize("autocommit", [False, True])
async def test_a_session_fails_once(migrated: LocalCluster, autocommit: bool) -> None:
    async def select() -> list[Any]:
        async with router.writer() as conn:
            await conn.set_autocommit(autocommit)
            return await (await conn.execute(QUERY)).fetchall()

    async with AsyncRouter(migrated.dsn, writer=ONE) as router:
        assert await select() == [(1,)]
        migrate(migrated)
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            await select()
        assert await select() == [(1, 2)]
        assert await select() == [(1, 2)]


async def test_other_features_that_are_not_supported_are_not_asked_for_again(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        with pytest.raises(psycopg.errors.FeatureNotSupported) as caught:
            await router.execute("SELECT count(*) FROM pg_class FOR UPDATE")
        assert "1 attempt" in str(caught.value.__notes__)
