"""Connections behind a proxy: what the agents of Datadog and New Relic make psycopg's connect() return."""

from __future__ import annotations

import asyncio  # async-only
import time  # async-only
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, Notification, PoolOptions
from pgroute.testing import LocalCluster
from tests.support import async_eventually, within  # async-only

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)


class Traced:
    """Does as wrapt.ObjectProxy: only type() tells it from what it wraps."""

    def __init__(self, wrapped: Any) -> None:
        object.__setattr__(self, "__wrapped__", wrapped)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self.__wrapped__.__class__

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__wrapped__, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__wrapped__, name)

    def __eq__(self, other: object) -> bool:
        return bool(self.__wrapped__ == other)

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    async def __aenter__(self) -> Any:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> Any:
        return await self.__wrapped__.__aexit__(*exc)


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each connection traced, as an agent does."""
    actual: Any = psycopg.AsyncConnection.connect

    async def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return Traced(await actual.__func__(cls, *args, **kwargs))

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", classmethod(connect))


@pytest.fixture
def installed(shared: LocalCluster) -> Iterator[None]:
    shared.catch_up()
    yield
    shared.primary.execute("DROP SCHEMA IF EXISTS pgroute CASCADE")


async def test_sessions(shared: LocalCluster, table: str) -> None:
    shared.catch_up()
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        async with router.writer() as conn:
            assert type(conn).__name__ == "Traced"
            await conn.execute(f"INSERT INTO {table} VALUES (1)")
            pid = conn.info.backend_pid
        with pytest.raises(KeyError):
            async with router.writer() as conn:
                await conn.execute(f"INSERT INTO {table} VALUES (2)")
                raise KeyError
        async with router.writer() as conn:
            await conn.set_autocommit(True)
            conn.row_factory = psycopg.rows.dict_row  # type: ignore[assignment]
            await conn.execute("SELECT 1")
        async with router.writer() as conn:
            assert not conn.autocommit
            assert await (await conn.execute(f"SELECT * FROM {table}")).fetchall() == [(1,)]
            assert conn.info.backend_pid == pid
        async with router.reader() as conn:
            await conn.execute("SELECT 1")


async def test_connections_taken_by_hand(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        conn = await router.getconn("writer", key="mine")
        assert await router.getconn("writer", key="mine") is conn
        await conn.execute("SELECT 1")
        await router.putconn(conn)
        async with router.writer(5.0) as conn:
            await conn.execute("SELECT 1")


async def test_one_whose_cursor_alone_is_kept_is_not_lost(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        cursor = (await router.getconn("writer")).cursor()
        await cursor.execute("SELECT 1")
        assert await cursor.fetchone() == (1,)
        await router.putconn(cursor.connection)
        assert not router.stats().writer.totals.get("connections_lost")


@pytest.mark.usefixtures("installed")
async def test_transactions(shared: LocalCluster, table: str) -> None:
    async def insert(conn: psycopg.AsyncConnection[Any], number: int) -> int:
        await conn.execute(f"INSERT INTO {table} VALUES (%s)", [number])
        return number

    async def fail(conn: psycopg.AsyncConnection[Any]) -> None:
        await insert(conn, 9)
        raise KeyError

    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        await router.install()
        assert await router.run(insert, 1) == 1
        for _ in range(2):
            assert await router.run(insert, 2, once=f"{table} 2") == 2
        with pytest.raises(KeyError):
            await router.run(fail)
        async for attempt in router.attempts(isolation="serializable"):
            async with attempt as conn:
                await insert(conn, 3)
        own = router.causal()
        async with own.writer() as conn:
            await insert(conn, 4)
        async with own.reader(wait=10.0) as conn:
            found = await (await conn.execute(f"SELECT * FROM {table} ORDER BY 1")).fetchall()
        assert found == [(1,), (2,), (3,), (4,)]


async def test_single_statements(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        assert await router.execute(f"INSERT INTO {table} VALUES (%s)", [1]) == "INSERT 0 1"
        assert await router.execute(f"INSERT INTO {table} VALUES (2);") == "INSERT 0 1"
        await router.executemany(f"INSERT INTO {table} VALUES (%s)", [[3], [4]])
        query = f"INSERT INTO {table} VALUES (%s) RETURNING number"
        assert await router.fetchmany(query, [[5], [6]], role="writer") == [(5,), (6,)]
        assert await router.fetch(f"SELECT * FROM {table} WHERE number < 3", role="writer") == [(1,), (2,)]
        assert await router.fetchval("SELECT 1") == 1


async def test_copy(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        assert await router.copy_to_table(table, [(number,) for number in range(9)]) == 9
        async with router.copy_rows(table, role="writer") as rows:
            count = 0
            async for _ in rows:
                count += 1
        assert count == 9


async def test_notifications(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router, router.listen("traced") as events:
        await router.execute("NOTIFY traced, 'a'")
        found = await events.next(10.0)
        assert isinstance(found, Notification)
        assert found.payload == "a"


async def test_a_callback_of_the_pool(shared: LocalCluster) -> None:
    async def callback(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute("SELECT 1")
        await conn.commit()

    options = PoolOptions(max_size=1, configure=callback, reset=callback, setup=callback)
    async with AsyncRouter(shared.dsn, writer=options) as router:
        for _ in range(2):
            async with router.writer() as conn:
                await conn.execute("SELECT 1")
        assert router.stats().writer.totals["connections_num"] == 1


# async-only: begin
@pytest.mark.usefixtures("patient")
async def test_an_interrupted_statement(shared: LocalCluster) -> None:
    running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%traced' AND wait_event = 'PgSleep'"
    pids: list[int] = []

    async def sleep() -> None:
        async with router.writer() as conn:
            pids.append(conn.info.backend_pid)
            await conn.execute("SELECT pg_sleep(60) -- traced")

    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        task = asyncio.get_running_loop().create_task(sleep())
        await async_eventually(lambda: shared.primary.execute(running))
        begun_at = time.monotonic()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert time.monotonic() - begun_at < within(3.0)
        await async_eventually(lambda: not shared.primary.execute(running))
        async with router.writer() as conn:
            assert [conn.info.backend_pid] == pids


# async-only: end
