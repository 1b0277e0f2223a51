"""The transaction of run() has begun before the body's first statement, whatever that is."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from pgroute import AsyncRouter, PoolOptions
from pgroute.testing import LocalCluster
from tests.support import async_call

pytestmark = pytest.mark.cluster

INSERT = "INSERT INTO {} VALUES (1)"
ONE = PoolOptions(max_size=1)


async def by_execute(conn: Any, table: str) -> None:
    await conn.execute(INSERT.format(table))


async def by_many(conn: Any, table: str) -> None:
    await conn.cursor().executemany(f"INSERT INTO {table} VALUES (%s)", [(1,), (2,)])


async def by_copy(conn: Any, table: str) -> None:
    async with conn.cursor().copy(f"COPY {table} FROM STDIN") as copy:
        await copy.write_row((1,))


async def by_stream(conn: Any, table: str) -> None:
    rows = conn.cursor().stream(INSERT.format(table) + " RETURNING 1")
    assert [(*row,) async for row in rows] == [(1,)]


async def by_pipeline(conn: Any, table: str) -> None:
    async with conn.pipeline():
        await conn.execute(INSERT.format(table))


async def by_savepoint(conn: Any, table: str) -> None:
    async with conn.transaction():
        await conn.execute(INSERT.format(table))


async def by_rolled_back_savepoint(conn: Any, table: str) -> None:
    async with conn.transaction(force_rollback=True):
        await conn.execute(INSERT.format(table))
    await conn.execute(INSERT.format(table))


async def by_server_cursor(conn: Any, table: str) -> None:
    async with conn.cursor("c") as cursor:
        await cursor.execute("SELECT 1")
        assert await cursor.fetchall() == [(1,)]
    await conn.execute(INSERT.format(table))


async def by_notifies(conn: Any, table: str) -> None:
    async for _ in conn.notifies(timeout=0):
        raise AssertionError
    await conn.execute(INSERT.format(table))


WAYS = [
    by_notifies,
    by_execute,
    by_many,
    by_copy,
    by_stream,
    by_pipeline,
    by_savepoint,
    by_rolled_back_savepoint,
    by_server_cursor,
]


async def stored(shared: LocalCluster, table: str) -> bool:
    return bool(await async_call(shared.nodes[0].execute, f"SELECT 1 FROM {table}"))


async def usable(router: AsyncRouter[Any], table: str) -> None:
    """The next session finds nothing of a transaction of run()."""
    async with router.writer() as conn:
        assert conn.info.transaction_status == TransactionStatus.IDLE
        await conn.execute("SELECT 1")
        await conn.commit()
        assert conn.info.transaction_status == TransactionStatus.IDLE
        await conn.execute(f"DELETE FROM {table}")


@pytest.mark.parametrize("way", WAYS)
async def test_whatever_comes_first_is_in_the_transaction(shared: LocalCluster, table: str, way: Any) -> None:
    async def fails(conn: Any) -> None:
        await way(conn, table)
        assert conn.info.transaction_status == TransactionStatus.INTRANS
        raise ValueError

    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        with pytest.raises(ValueError, match=r"^$"):
            await router.run(fails)
        assert not await stored(shared, table)
        await router.run(way, table)
        assert await stored(shared, table)
        await usable(router, table)


async def test_a_body_without_a_statement_leaves_nothing(shared: LocalCluster, table: str) -> None:
    async def nothing(_: Any) -> str:
        return "nothing"

    async def fails(_: Any) -> None:
        raise ValueError

    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        assert await router.run(nothing) == "nothing"
        await usable(router, table)
        with pytest.raises(ValueError, match=r"^$"):
            await router.run(fails)
        await usable(router, table)
        async for attempt in router.attempts():
            async with attempt:
                raise psycopg.Rollback
        await usable(router, table)
        assert router.stats().writer.totals["connections_num"] == 1


async def test_what_a_body_may_not_do_is_refused_before_its_first_statement_too(
    shared: LocalCluster, table: str
) -> None:
    async def commits(conn: Any) -> None:
        await conn.commit()

    async def changes(conn: Any) -> None:
        await conn.set_autocommit(True)

    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        for body in (commits, changes):
            with pytest.raises(psycopg.ProgrammingError):
                await router.run(body)
            await usable(router, table)


async def test_a_begin_that_the_server_refuses_is_the_servers_error(shared: LocalCluster) -> None:
    async def serializable(conn: Any) -> None:
        await conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)

    async def reads(conn: Any) -> None:
        await conn.execute("SELECT 1")

    options = PoolOptions(max_size=1, configure=serializable)
    async with AsyncRouter(shared.dsn, reader=options) as router:
        await router.wait()
        for _ in range(2):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="serializable mode"):
                await router.run(reads, role="reader")


async def test_a_statement_that_fails_at_once_is_no_end_of_the_transaction(
    shared: LocalCluster, table: str
) -> None:
    async def fails(conn: Any) -> None:
        await conn.execute("SELECT 1/0")

    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        with pytest.raises(psycopg.errors.DivisionByZero) as caught:
            await router.run(fails)
        assert not any("of its own" in note for note in getattr(caught.value, "__notes__", ()))
        await usable(router, table)
        assert router.stats().writer.totals["connections_num"] == 1
