"""Transactions that the server ends because they take too long: not run again, which would take as long."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, PoolOptions, SessionLost
from pgroute.testing import LocalCluster
from tests.support import async_eventually

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

    async def idle(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self.calls += 1
        pid = conn.info.backend_pid
        alive = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
        await async_eventually(lambda: not self.cluster.primary.execute(alive, [pid]))

    async def idle_and_go_on(self, conn: psycopg.AsyncConnection[Any]) -> None:
        await self.idle(conn)
        await conn.execute("SELECT 1")

    async def sleep(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self.calls += 1
        await conn.execute("SELECT pg_sleep(60)")


@pytest.mark.parametrize("setting", ["idle_in_transaction_session_timeout", "transaction_timeout"])
async def test_a_body_that_idles_and_goes_on(shared: LocalCluster, setting: str) -> None:
    slow = Slow(shared)
    async with AsyncRouter(shared.dsn, writer=limited(setting)) as router:
        await router.wait()
        with pytest.raises(psycopg.Error) as caught:
            await router.run(slow.idle_and_go_on)
    assert caught.value.sqlstate == ("25P03" if setting.startswith("idle") else "25P04")
    assert WHY + setting in str(caught.value.__notes__)
    assert slow.calls == 1


@pytest.mark.parametrize("setting", ["idle_in_transaction_session_timeout", "transaction_timeout"])
async def test_a_body_that_idles_and_returns(shared: LocalCluster, setting: str) -> None:
    slow = Slow(shared)
    async with AsyncRouter(shared.dsn, writer=limited(setting)) as router:
        await router.wait()
        with pytest.raises(SessionLost, match=setting) as caught:
            await router.run(slow.idle)
    assert WHY + setting in str(caught.value.__notes__)
    assert caught.value.rerun_safe
    assert slow.calls == 1


async def test_a_body_whose_statement_takes_too_long(shared: LocalCluster) -> None:
    slow = Slow(shared)
    async with AsyncRouter(shared.dsn, writer=limited("transaction_timeout")) as router:
        await router.wait()
        with pytest.raises(psycopg.errors.TransactionTimeout) as caught:
            await router.run(slow.sleep)
    assert WHY in str(caught.value.__notes__)
    assert slow.calls == 1


async def test_a_single_statement_of_a_reader(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, reader=limited("transaction_timeout")) as router:
        await router.wait("reader")
        with pytest.raises(psycopg.Error) as caught:
            await router.fetch("SELECT pg_sleep(60)")
    assert caught.value.sqlstate == "25P04"
    assert WHY in str(caught.value.__notes__)


@pytest.mark.parametrize("setting", ["idle_in_transaction_session_timeout", "transaction_timeout"])
async def test_a_copy_out_whose_taker_is_slow(shared: LocalCluster, table: str, setting: str) -> None:
    alive = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
    delete = f"DELETE FROM {table} RETURNING pg_backend_pid()"
    taken: list[int] = []

    async def take(data: bytes) -> None:
        taken.append(int(data))
        await async_eventually(lambda: not shared.primary.execute(alive, [int(data)]))

    async def copy(router: AsyncRouter[Any]) -> None:
        await router.copy_from(delete, take, role="writer")

    async def iterate(router: AsyncRouter[Any]) -> None:
        async with router.copy_chunks(delete, role="writer") as chunks:
            async for chunk in chunks:
                await take(chunk)

    shared.primary.execute(f"INSERT INTO {table} VALUES (1)")
    async with AsyncRouter(shared.dsn, writer=limited(setting)) as router:
        await router.wait()
        for call in (copy, iterate):
            with pytest.raises(psycopg.Error, match="before COMMIT") as caught:
                await call(router)
            assert caught.value.sqlstate == ("25P03" if setting.startswith("idle") else "25P04")
            assert WHY + setting in str(caught.value.__notes__)
    assert shared.primary.execute(f"SELECT count(*) FROM {table}") == [(1,)], "nothing was committed"
    assert len(taken) == 2


async def test_a_copy_out_whose_connection_somebody_ends_before_its_commit(
    shared: LocalCluster, table: str
) -> None:
    delete = f"DELETE FROM {table} RETURNING pg_backend_pid()"
    alive = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"

    async def take(data: bytes) -> None:
        shared.primary.execute("SELECT pg_terminate_backend(%s)", [int(data)])
        await async_eventually(lambda: not shared.primary.execute(alive, [int(data)]))

    shared.primary.execute(f"INSERT INTO {table} VALUES (1)")
    async with AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        with pytest.raises(SessionLost) as caught:
            await router.copy_from(delete, take, role="writer")
    assert caught.value.rerun_safe
    assert shared.primary.execute(f"SELECT count(*) FROM {table}") == [(1,)]


async def test_a_connection_that_somebody_ends_is_run_again_as_ever(shared: LocalCluster) -> None:
    calls: list[int] = []

    async def body(conn: psycopg.AsyncConnection[Any]) -> None:
        calls.append(conn.info.backend_pid)
        await conn.execute("SELECT 1")
        if len(calls) == 1:
            shared.primary.execute("SELECT pg_terminate_backend(%s)", [calls[0]])
        await conn.execute("SELECT 1")

    async with AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        await router.run(body)
    assert len(calls) == 2
