"""Functions under @router.transaction: each call is a transaction, as with run()."""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, PoolOptions, RouterClosed
from pgroute.testing import LocalCluster
from tests.aio.conftest import Proxied
from tests.aio.counting import INCREMENT, counted

pytestmark = pytest.mark.cluster

AsyncConnection = psycopg.AsyncConnection[Any]

DIE = "SELECT pg_terminate_backend(pg_backend_pid())"
ROUTER = AsyncRouter("host=127.0.0.1 port=1")


@ROUTER.transaction
async def at_the_top(conn: AsyncConnection, number: int) -> int:
    """Return the number."""
    return number


async def one(conn: AsyncConnection, sql: str) -> Any:
    row = await (await conn.execute(sql)).fetchone()
    assert row is not None
    return row[0]


def numbers(cluster: LocalCluster, table: str) -> list[int]:
    return [row[0] for row in cluster.primary.execute(f"SELECT number FROM {table} ORDER BY number")]


async def test_each_call_is_a_transaction(shared: LocalCluster, table: str) -> None:
    router = AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1))

    @router.transaction
    async def insert(conn: AsyncConnection, number: int, *more: int, fail: bool = False) -> int:
        for each in (number, *more):
            await conn.execute(f"INSERT INTO {table} VALUES (%s)", [each])
        return 1 // (not fail)

    class Numbers:
        def __init__(self, low: int) -> None:
            self.low = low

        @router.transaction(role="reader")
        async def count(self, conn: AsyncConnection, *, above: int) -> Any:
            assert await one(conn, "SELECT pg_is_in_recovery()")
            return await one(conn, f"SELECT {self.low} + {above}")

        @classmethod
        @router.transaction(isolation="serializable", read_only=True)
        async def kind(cls, conn: AsyncConnection, what: str) -> tuple[Any, ...]:
            return (cls, await one(conn, f"SHOW {what}"))

        @staticmethod
        @router.transaction()
        async def total(conn: AsyncConnection) -> Any:
            return await one(conn, f"SELECT sum(number) FROM {table}")

    async with router:
        assert await insert(1) == 1
        assert await insert(number=2) == 1
        assert await insert(3, 4) == 1
        with pytest.raises(ZeroDivisionError):
            await insert(5, fail=True)
        with pytest.raises(psycopg.errors.UniqueViolation):
            await insert(6, 6)
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'number'"):
            await insert()  # type: ignore[call-arg]
        assert await Numbers(3).count(above=4) == 7
        assert await Numbers.kind("transaction_isolation") == (Numbers, "serializable")
        assert await Numbers(0).kind("transaction_read_only") == (Numbers, "on")
        assert await Numbers.total() == await Numbers(0).total() == 10
    assert numbers(shared, table) == [1, 2, 3, 4]


async def test_a_call_is_run_again_and_with_its_key_applied_once(pair: Proxied) -> None:
    router = AsyncRouter(pair.dsn)
    runs: list[str] = []

    @router.transaction(once=lambda order, item="tea": f"order {order} {item}")
    async def pay(conn: AsyncConnection, order: int, amount: int, *, die: bool = False) -> str:
        runs.append(f"{order} {amount}")
        await conn.execute(INCREMENT.replace("+ 1", f"+ {amount}"))
        if die and len(runs) == 1:
            with contextlib.suppress(psycopg.OperationalError):
                await conn.execute(DIE)
        return f"paid {amount}"

    @router.transaction(once="once for all")
    async def set_up(conn: AsyncConnection) -> bool:
        runs.append("set up")
        return True

    async with router:
        assert await pay(7, 100, die=True) == "paid 100"
        assert await pay(order=7, amount=100) == await pay(7, 300) == "paid 100", "the stored result"
        assert await pay(8, 1) == "paid 1"
        assert await set_up() is await set_up() is True
    assert runs == ["7 100", "7 100", "8 1", "set up"]
    assert await counted(pair.cluster.nodes[0]) == (101, 3)


async def test_a_call_within_another_is_refused_as_within_run(shared: LocalCluster, table: str) -> None:
    router = AsyncRouter(shared.dsn)

    @router.transaction
    async def inner(conn: AsyncConnection) -> None:
        await conn.execute(f"INSERT INTO {table} VALUES (1)")

    @router.transaction
    async def outer(conn: AsyncConnection) -> None:
        await conn.execute(f"INSERT INTO {table} VALUES (2)")
        await inner()

    async with router:
        with pytest.raises(psycopg.ProgrammingError, match="within"):
            await outer()
    assert numbers(shared, table) == []


async def test_a_router_that_is_not_open_says_so_at_the_call(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn)

    @router.transaction()
    async def nothing(conn: AsyncConnection) -> None: ...

    with pytest.raises(RouterClosed, match="was never opened"):
        await nothing()
    async with router:
        await nothing()
    with pytest.raises(RouterClosed, match="is closed"):
        await nothing()


async def test_a_decorated_function_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(at_the_top)) is at_the_top  # noqa: S301
    assert at_the_top.__doc__ == "Return the number."
