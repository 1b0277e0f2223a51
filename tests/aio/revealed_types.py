"""What type checkers tell of the router; read by mypy and pyright, never run.

A call with a ``type: ignore`` is one that both must refuse: where one of them accepts it, it reports the comment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar, assert_type

import psycopg
from psycopg.rows import (
    BaseRowFactory,
    DictRow,
    Row,
    TupleRow,
    class_row,
    dict_row,
    namedtuple_row,
    scalar_row,
    tuple_row,
)

from pgroute import (
    AsyncAttempt,
    AsyncCausal,
    AsyncCopyStream,
    AsyncRouter,
    AsyncSession,
    PoolOptions,
    from_config,
)
from pgroute.batch import AsyncBatchJob, Chunk

T = TypeVar("T")

Tuples = psycopg.AsyncConnection[TupleRow]
Dicts = psycopg.AsyncConnection[DictRow]


@dataclass
class Item:
    number: int


class DictConnection(psycopg.AsyncConnection[DictRow]):
    """A class of one's own that says what its rows are."""


class Traced(psycopg.AsyncConnection[Row]):
    """A class of one's own for any rows."""


async def nothing(conn: Tuples) -> None: ...


async def transfer(conn: Tuples, source: int, target: str = "", *, fee: bool = False) -> float:
    raise NotImplementedError


async def strict(conn: Tuples, *, fee: bool) -> float:
    raise NotImplementedError


async def totals(conn: Tuples, *numbers: int) -> int:
    raise NotImplementedError


async def same(conn: psycopg.AsyncConnection[Any], value: T) -> T:
    raise NotImplementedError


async def with_dicts(conn: Dicts, number: int) -> str:
    raise NotImplementedError


async def own(conn: DictConnection, number: int) -> str:
    raise NotImplementedError


async def ready(conn: Tuples) -> None: ...


async def first(conn: psycopg.AsyncConnection[Row]) -> Row | None:
    return await (await conn.execute("SELECT 1")).fetchone()


def key(source: int) -> str:
    raise NotImplementedError


def no_key(source: int) -> int:
    raise NotImplementedError


def takes_tuples(router: AsyncRouter) -> None: ...


class Teller:
    async def book(self, conn: Tuples, number: int) -> str:
        raise NotImplementedError

    async def __call__(self, conn: Tuples, number: int) -> str:
        raise NotImplementedError


async def rows_are_tuples_without_a_row_factory(options: PoolOptions) -> None:
    router = AsyncRouter("dbname=shop", writer=options)
    assert_type(router, AsyncRouter[Tuples])
    assert_type(await router.fetch("SELECT 1"), list[TupleRow])
    assert_type(await router.fetchrow("SELECT 1"), TupleRow | None)
    assert_type(await router.fetchmany("SELECT %s", [[1]]), list[TupleRow])
    assert_type(await router.fetchval("SELECT 1"), Any)
    assert_type(await router.execute("SELECT 1"), str)
    assert_type(await router.getconn("writer"), Tuples)
    assert_type(router.writer(), AsyncSession[Tuples])
    async with router as entered, entered.writer() as conn:
        assert_type(entered, AsyncRouter[Tuples])
        assert_type(conn, Tuples)


async def row_factory_of_the_router_gives_the_type_of_the_rows() -> None:
    dicts = AsyncRouter("dbname=shop", row_factory=dict_row, acquire_timeout=5.0)
    assert_type(dicts, AsyncRouter[Dicts])
    assert_type(await dicts.fetch("SELECT 1"), list[DictRow])
    assert_type(await dicts.fetchrow("SELECT 1"), DictRow | None)
    assert_type(dicts.causal(), AsyncCausal[Dicts])
    async with dicts.causal().reader() as conn:
        assert_type(conn, Dicts)
    async for attempt in dicts.attempts():
        assert_type(attempt, AsyncAttempt[Dicts])
        async with attempt as conn:
            assert_type(conn, Dicts)

    items = AsyncRouter("dbname=shop", row_factory=class_row(Item))
    assert_type(await items.fetch("SELECT 1"), list[Item])
    assert_type(await items.fetchrow("SELECT 1"), Item | None)
    assert_type(await AsyncRouter(row_factory=namedtuple_row).fetch("SELECT 1"), list[NamedTuple])
    assert_type(await AsyncRouter(row_factory=tuple_row).fetch("SELECT 1"), list[TupleRow])
    assert_type(await AsyncRouter(row_factory=scalar_row).fetch("SELECT 1"), list[Any])
    assert_type(AsyncRouter(row_factory=None), AsyncRouter[Tuples])


async def row_factory_of_a_call_gives_the_type_of_its_rows(
    router: AsyncRouter, dicts: AsyncRouter[Dicts], mine: AsyncRouter[DictConnection]
) -> None:
    assert_type(await router.fetch("SELECT 1", row_factory=class_row(Item)), list[Item])
    assert_type(await router.fetchrow("SELECT 1", role="writer", row_factory=dict_row), DictRow | None)
    assert_type(await dicts.fetch("SELECT 1", row_factory=tuple_row), list[TupleRow])
    assert_type(await dicts.fetchmany("SELECT %s", [[1]]), list[DictRow])
    assert_type(await router.fetchmany("SELECT %s", [[1]], row_factory=class_row(Item)), list[Item])
    assert_type(await mine.fetch("SELECT 1", row_factory=tuple_row), list[TupleRow])
    assert_type(await mine.fetch("SELECT 1", row_factory=None), list[DictRow])
    await router.fetch("SELECT 1", row_factory=3)  # type: ignore[call-overload]
    await router.fetchrow("SELECT 1", row_factory=3)  # type: ignore[call-overload]


async def connection_class_gives_the_type_of_the_connections() -> None:
    router = AsyncRouter("dbname=shop", connection_class=DictConnection, kwargs={"row_factory": dict_row})
    assert_type(router, AsyncRouter[DictConnection])
    assert_type(await router.fetch("SELECT 1"), list[DictRow])
    assert_type(await router.fetchrow("SELECT 1"), DictRow | None)
    async with router.writer() as conn:
        assert_type(conn, DictConnection)
    assert_type(AsyncRouter(connection_class=psycopg.AsyncConnection[DictRow]), AsyncRouter[Dicts])
    traced = AsyncRouter(connection_class=Traced[DictRow], row_factory=dict_row)
    assert_type(traced, AsyncRouter[Traced[DictRow]])


def arguments_of_the_router_are_checked(dicts: AsyncRouter[Dicts]) -> None:
    AsyncRouter("dbname=shop", acquire_timeout="5")  # type: ignore[call-overload]
    AsyncRouter("dbname=shop", row_factory=dict_row, acquire_timeout="5")  # type: ignore[call-overload]
    AsyncRouter("dbname=shop", row_factory=3)  # type: ignore[call-overload]
    AsyncRouter("dbname=shop", row_factory=dict_row, configure=ready)  # type: ignore[arg-type]
    AsyncRouter("dbname=shop", connection_class=int)  # type: ignore[type-var]
    AsyncRouter("dbname=shop", colour="green")  # type: ignore[call-overload]
    takes_tuples(dicts)  # type: ignore[arg-type]


async def run_checks_the_arguments_of_the_body(
    router: AsyncRouter, dicts: AsyncRouter[Dicts], mine: AsyncRouter[DictConnection]
) -> None:
    assert_type(await router.run(nothing), None)
    assert_type(await router.run(transfer, 1, "x"), float)
    assert_type(await router.run(transfer, 1, once="key", role="writer"), float)
    assert_type(await router.run(partial(strict, fee=True)), float)
    assert_type(await router.run(totals), int)
    assert_type(await router.run(totals, 1, 2, 3), int)
    assert_type(await router.run(same, 1), int)
    assert_type(await router.run(same, "x"), str)
    assert_type(await router.run(Teller().book, 1), str)
    assert_type(await router.run(Teller(), 1), str)
    assert_type(await router.run(first), TupleRow | None)
    assert_type(await dicts.run(first), DictRow | None)
    assert_type(await dicts.run(lambda conn: first(conn)), DictRow | None)  # noqa: PLW0108
    assert_type(await dicts.run(with_dicts, 1), str)
    assert_type(await mine.run(with_dicts, 1), str)
    assert_type(await mine.run(own, 1), str)
    assert_type(await router.causal().run(transfer, 1), float)

    await router.run(transfer, "bad")  # type: ignore[arg-type]
    await router.run(transfer, 1, 2)  # type: ignore[arg-type]
    await router.run(transfer)  # type: ignore[arg-type]
    await router.run(transfer, 1, "x", True)  # type: ignore[arg-type]
    await router.run(nothing, 1)  # type: ignore[arg-type]
    await router.run(totals, "x")  # type: ignore[arg-type]
    await router.run(strict)  # type: ignore[arg-type]
    await router.run(transfer, 1, fee=True)  # type: ignore[call-arg]
    await router.run(Teller().book, "bad")  # type: ignore[arg-type]
    await router.run(with_dicts, 1)  # type: ignore[arg-type]
    await dicts.run(transfer, 1)  # type: ignore[arg-type]
    await router.run(own, 1)  # type: ignore[arg-type]
    await router.run(nothing, role="primary")  # type: ignore[arg-type]
    await router.causal().run(transfer, "bad")  # type: ignore[arg-type]


async def transaction_keeps_the_type(router: AsyncRouter, dicts: AsyncRouter[Dicts]) -> None:
    @router.transaction
    async def bare(conn: Tuples, number: int) -> str:
        return await same(conn, str(number))

    @router.transaction(once=key, role="writer", timeout=3.0)
    async def decorated(conn: Tuples, source: int, target: str = "", *, fee: bool = False) -> float:
        return await transfer(conn, source, target, fee=fee)

    @router.transaction(once="number {number}".format)
    async def formatted(conn: Tuples, number: int) -> str:
        return await same(conn, str(number))

    class Bank:
        @router.transaction
        async def book(self, conn: Tuples, number: int) -> str:
            return await same(conn, str(number))

        @router.transaction()
        async def book_all(self, conn: Tuples, *numbers: int) -> str:
            return await same(conn, str(numbers))

        @staticmethod
        @router.transaction()
        async def static(conn: Tuples, number: int) -> str:
            return await same(conn, str(number))

        @classmethod
        @router.transaction()
        async def of_class(cls, conn: Tuples, number: int) -> str:
            return await same(conn, str(number))

    assert_type(await bare(1), str)
    assert_type(await bare(number=1), str)
    assert_type(await decorated(1), float)
    assert_type(await decorated(1, target="x", fee=True), float)
    assert_type(await formatted(1), str)
    assert_type(await Bank().book(1), str)
    assert_type(await Bank().book_all(1, 2), str)
    assert_type(await Bank.static(1), str)
    assert_type(await Bank.of_class(1), str)
    assert_type(await router.transaction()(transfer)(1, fee=True), float)
    assert_type(await dicts.transaction(isolation="serializable")(first)(), DictRow | None)

    await bare("bad")  # type: ignore[arg-type]
    await bare()  # type: ignore[call-arg]
    await bare(1, 2)  # type: ignore[call-arg]
    await decorated(1, colour="green")  # type: ignore[call-arg]
    await Bank().book("bad")  # type: ignore[arg-type]
    await Bank().book_all("bad")  # type: ignore[arg-type]
    await Bank.static("bad")  # type: ignore[arg-type]
    router.transaction(1)  # type: ignore[call-overload]
    router.transaction(colour="green")  # type: ignore[call-overload]
    router.transaction(once=no_key)  # type: ignore[arg-type]
    router.transaction()(with_dicts)  # type: ignore[arg-type]
    router.transaction()(Item)  # type: ignore[arg-type]


async def transaction_of_any_router_keeps_the_type(router: AsyncRouter[Any]) -> None:
    @router.transaction
    async def bare(conn: Tuples, number: int) -> str:
        return await same(conn, str(number))

    @router.transaction()
    async def of_own_class(conn: DictConnection, number: int) -> str:
        return await own(conn, number)

    @router.transaction(once=key)
    async def of_any(conn: Any, source: int) -> int:
        return source

    class Bank:
        @router.transaction
        async def book(self, conn: Tuples, number: int) -> str:
            return await same(conn, str(number))

        @router.transaction(role="writer")
        async def book_all(self, conn: Dicts, *numbers: int) -> str:
            return await same(conn, str(numbers))

        @router.transaction()
        async def of_own_class(self, conn: DictConnection) -> str:
            return await own(conn, 1)

        @router.transaction
        async def of_any(self, conn: Any, number: int) -> int:
            return number

        @staticmethod
        @router.transaction
        async def static(conn: Tuples, number: int) -> str:
            return await same(conn, str(number))

        @classmethod
        @router.transaction
        async def of_class(cls, conn: Tuples, number: int) -> str:
            return await same(conn, str(number))

    assert_type(await bare(1), str)
    assert_type(await of_own_class(number=1), str)
    assert_type(await router.transaction(nothing)(), None)
    assert_type(await router.transaction()(transfer)(1, fee=True), float)
    assert_type(await Bank().book(1), str)
    assert_type(await Bank().book_all(1, 2), str)
    # Not refused; one of the checkers does not keep what they return.
    await of_any(1)
    await Bank().of_own_class()
    await Bank().of_any(number=1)
    assert_type(await Bank.static(1), str)
    assert_type(await Bank.of_class(1), str)

    await bare("bad")  # type: ignore[arg-type]
    await bare()  # type: ignore[call-arg]
    await of_own_class("bad")  # type: ignore[arg-type]
    await Bank().book("bad")  # type: ignore[arg-type]
    await Bank().book_all("bad")  # type: ignore[arg-type]
    await Bank.static("bad")  # type: ignore[arg-type]
    await Bank.of_class("bad")  # type: ignore[arg-type]


async def copies_check_their_options(router: AsyncRouter) -> None:
    rows: list[tuple[int, str]] = []
    assert_type(await router.copy_to_table("items", rows), int)
    assert_type(
        await router.copy_to_table(("shop", "items"), lambda: rows, format="csv", header="match"), int
    )
    assert_type(await router.copy_from("items", "items.csv", format="csv", header=True), int)
    assert_type(router.copy_rows("items", types=["int4", 25]), AsyncCopyStream[tuple[Any, ...]])
    assert_type(router.copy_chunks("items", delimiter="|"), AsyncCopyStream[bytes])
    async with router.copy_chunks("items") as chunks:
        async for chunk in chunks:
            assert_type(chunk, bytes)

    await router.copy_to_table("items", 5)  # type: ignore[arg-type]
    await router.copy_to_table("items", rows, format="json")  # type: ignore[arg-type]
    await router.copy_to_table("items", rows, colour="green")  # type: ignore[call-arg]
    await router.copy_to_table("items", rows, force_quote=True)  # type: ignore[call-arg]
    await router.copy_from("items", 5)  # type: ignore[arg-type]
    await router.copy_from("items", "items.csv", header="match")  # type: ignore[arg-type]
    router.copy_rows("items", format="csv")  # type: ignore[arg-type]


async def batch_checks_the_body(router: AsyncRouter, mine: AsyncRouter[DictConnection]) -> None:
    async def body(conn: Tuples, chunk: Chunk) -> None: ...

    async def own_body(conn: DictConnection, chunk: Chunk) -> None: ...

    job = AsyncBatchJob(router, "job", [1, 2])
    assert_type(job, AsyncBatchJob[Tuples])
    await job.run(body)
    await AsyncBatchJob(mine, "job", [1, 2]).run(own_body)
    await job.run(own_body)  # type: ignore[arg-type]
    await job.run(nothing)  # type: ignore[arg-type]


async def file_says_what_the_rows_are_unless_the_call_does(factory: BaseRowFactory[Item]) -> None:
    kind: Final = "async_pool"  # async-only
    # sync-only: kind: Final = "pool"
    router = from_config("pgroute.toml", kind=kind)
    assert_type(router, AsyncRouter[psycopg.AsyncConnection[Any]])
    assert_type(await router.fetch("SELECT 1"), list[Any])
    takes_tuples(router)
    assert_type(from_config("pgroute.toml", kind=kind, row_factory=dict_row), AsyncRouter[Dicts])
    items = from_config("pgroute.toml", "shop", kind=kind, row_factory=factory)
    assert_type(await items.fetchrow("SELECT 1"), Item | None)
