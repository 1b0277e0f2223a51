# Generated from tests/aio/revealed_types.py by .ci/unasync.py: edit that file, not this one.
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
    Attempt,
    Causal,
    CopyStream,
    Router,
    Session,
    PoolOptions,
    from_config,
)
from pgroute.batch import BatchJob, Chunk

T = TypeVar("T")

Tuples = psycopg.Connection[TupleRow]
Dicts = psycopg.Connection[DictRow]


@dataclass
class Item:
    number: int


class DictConnection(psycopg.Connection[DictRow]):
    """A class of one's own that says what its rows are."""


class Traced(psycopg.Connection[Row]):
    """A class of one's own for any rows."""


def nothing(conn: Tuples) -> None: ...


def transfer(conn: Tuples, source: int, target: str = "", *, fee: bool = False) -> float:
    raise NotImplementedError


def strict(conn: Tuples, *, fee: bool) -> float:
    raise NotImplementedError


def totals(conn: Tuples, *numbers: int) -> int:
    raise NotImplementedError


def same(conn: psycopg.Connection[Any], value: T) -> T:
    raise NotImplementedError


def with_dicts(conn: Dicts, number: int) -> str:
    raise NotImplementedError


def own(conn: DictConnection, number: int) -> str:
    raise NotImplementedError


def ready(conn: Tuples) -> None: ...


def first(conn: psycopg.Connection[Row]) -> Row | None:
    return (conn.execute("SELECT 1")).fetchone()


def key(source: int) -> str:
    raise NotImplementedError


def no_key(source: int) -> int:
    raise NotImplementedError


def takes_tuples(router: Router) -> None: ...


class Teller:
    def book(self, conn: Tuples, number: int) -> str:
        raise NotImplementedError

    def __call__(self, conn: Tuples, number: int) -> str:
        raise NotImplementedError


def rows_are_tuples_without_a_row_factory(options: PoolOptions) -> None:
    router = Router("dbname=shop", writer=options)
    assert_type(router, Router[Tuples])
    assert_type(router.fetch("SELECT 1"), list[TupleRow])
    assert_type(router.fetchrow("SELECT 1"), TupleRow | None)
    assert_type(router.fetchmany("SELECT %s", [[1]]), list[TupleRow])
    assert_type(router.fetchval("SELECT 1"), Any)
    assert_type(router.execute("SELECT 1"), str)
    assert_type(router.getconn("writer"), Tuples)
    assert_type(router.writer(), Session[Tuples])
    with router as entered, entered.writer() as conn:
        assert_type(entered, Router[Tuples])
        assert_type(conn, Tuples)


def row_factory_of_the_router_gives_the_type_of_the_rows() -> None:
    dicts = Router("dbname=shop", row_factory=dict_row, acquire_timeout=5.0)
    assert_type(dicts, Router[Dicts])
    assert_type(dicts.fetch("SELECT 1"), list[DictRow])
    assert_type(dicts.fetchrow("SELECT 1"), DictRow | None)
    assert_type(dicts.causal(), Causal[Dicts])
    with dicts.causal().reader() as conn:
        assert_type(conn, Dicts)
    for attempt in dicts.attempts():
        assert_type(attempt, Attempt[Dicts])
        with attempt as conn:
            assert_type(conn, Dicts)

    items = Router("dbname=shop", row_factory=class_row(Item))
    assert_type(items.fetch("SELECT 1"), list[Item])
    assert_type(items.fetchrow("SELECT 1"), Item | None)
    assert_type(Router(row_factory=namedtuple_row).fetch("SELECT 1"), list[NamedTuple])
    assert_type(Router(row_factory=tuple_row).fetch("SELECT 1"), list[TupleRow])
    assert_type(Router(row_factory=scalar_row).fetch("SELECT 1"), list[Any])
    assert_type(Router(row_factory=None), Router[Tuples])


def row_factory_of_a_call_gives_the_type_of_its_rows(
    router: Router, dicts: Router[Dicts], mine: Router[DictConnection]
) -> None:
    assert_type(router.fetch("SELECT 1", row_factory=class_row(Item)), list[Item])
    assert_type(router.fetchrow("SELECT 1", role="writer", row_factory=dict_row), DictRow | None)
    assert_type(dicts.fetch("SELECT 1", row_factory=tuple_row), list[TupleRow])
    assert_type(dicts.fetchmany("SELECT %s", [[1]]), list[DictRow])
    assert_type(router.fetchmany("SELECT %s", [[1]], row_factory=class_row(Item)), list[Item])
    assert_type(mine.fetch("SELECT 1", row_factory=tuple_row), list[TupleRow])
    assert_type(mine.fetch("SELECT 1", row_factory=None), list[DictRow])
    router.fetch("SELECT 1", row_factory=3)  # type: ignore[call-overload]
    router.fetchrow("SELECT 1", row_factory=3)  # type: ignore[call-overload]


def connection_class_gives_the_type_of_the_connections() -> None:
    router = Router("dbname=shop", connection_class=DictConnection, kwargs={"row_factory": dict_row})
    assert_type(router, Router[DictConnection])
    assert_type(router.fetch("SELECT 1"), list[DictRow])
    assert_type(router.fetchrow("SELECT 1"), DictRow | None)
    with router.writer() as conn:
        assert_type(conn, DictConnection)
    assert_type(Router(connection_class=psycopg.Connection[DictRow]), Router[Dicts])
    traced = Router(connection_class=Traced[DictRow], row_factory=dict_row)
    assert_type(traced, Router[Traced[DictRow]])


def arguments_of_the_router_are_checked(dicts: Router[Dicts]) -> None:
    Router("dbname=shop", acquire_timeout="5")  # type: ignore[call-overload]
    Router("dbname=shop", row_factory=dict_row, acquire_timeout="5")  # type: ignore[call-overload]
    Router("dbname=shop", row_factory=3)  # type: ignore[call-overload]
    Router("dbname=shop", row_factory=dict_row, configure=ready)  # type: ignore[arg-type]
    Router("dbname=shop", connection_class=int)  # type: ignore[type-var]
    Router("dbname=shop", colour="green")  # type: ignore[call-overload]
    takes_tuples(dicts)  # type: ignore[arg-type]


def run_checks_the_arguments_of_the_body(
    router: Router, dicts: Router[Dicts], mine: Router[DictConnection]
) -> None:
    assert_type(router.run(nothing), None)
    assert_type(router.run(transfer, 1, "x"), float)
    assert_type(router.run(transfer, 1, once="key", role="writer"), float)
    assert_type(router.run(partial(strict, fee=True)), float)
    assert_type(router.run(totals), int)
    assert_type(router.run(totals, 1, 2, 3), int)
    assert_type(router.run(same, 1), int)
    assert_type(router.run(same, "x"), str)
    assert_type(router.run(Teller().book, 1), str)
    assert_type(router.run(Teller(), 1), str)
    assert_type(router.run(first), TupleRow | None)
    assert_type(dicts.run(first), DictRow | None)
    assert_type(dicts.run(lambda conn: first(conn)), DictRow | None)  # noqa: PLW0108
    assert_type(dicts.run(with_dicts, 1), str)
    assert_type(mine.run(with_dicts, 1), str)
    assert_type(mine.run(own, 1), str)
    assert_type(router.causal().run(transfer, 1), float)

    router.run(transfer, "bad")  # type: ignore[arg-type]
    router.run(transfer, 1, 2)  # type: ignore[arg-type]
    router.run(transfer)  # type: ignore[arg-type]
    router.run(transfer, 1, "x", True)  # type: ignore[arg-type]
    router.run(nothing, 1)  # type: ignore[arg-type]
    router.run(totals, "x")  # type: ignore[arg-type]
    router.run(strict)  # type: ignore[arg-type]
    router.run(transfer, 1, fee=True)  # type: ignore[call-arg]
    router.run(Teller().book, "bad")  # type: ignore[arg-type]
    router.run(with_dicts, 1)  # type: ignore[arg-type]
    dicts.run(transfer, 1)  # type: ignore[arg-type]
    router.run(own, 1)  # type: ignore[arg-type]
    router.run(nothing, role="primary")  # type: ignore[arg-type]
    router.causal().run(transfer, "bad")  # type: ignore[arg-type]


def transaction_keeps_the_type(router: Router, dicts: Router[Dicts]) -> None:
    @router.transaction
    def bare(conn: Tuples, number: int) -> str:
        return same(conn, str(number))

    @router.transaction(once=key, role="writer", timeout=3.0)
    def decorated(conn: Tuples, source: int, target: str = "", *, fee: bool = False) -> float:
        return transfer(conn, source, target, fee=fee)

    @router.transaction(once="number {number}".format)
    def formatted(conn: Tuples, number: int) -> str:
        return same(conn, str(number))

    class Bank:
        @router.transaction
        def book(self, conn: Tuples, number: int) -> str:
            return same(conn, str(number))

        @router.transaction()
        def book_all(self, conn: Tuples, *numbers: int) -> str:
            return same(conn, str(numbers))

        @staticmethod
        @router.transaction()
        def static(conn: Tuples, number: int) -> str:
            return same(conn, str(number))

        @classmethod
        @router.transaction()
        def of_class(cls, conn: Tuples, number: int) -> str:
            return same(conn, str(number))

    assert_type(bare(1), str)
    assert_type(bare(number=1), str)
    assert_type(decorated(1), float)
    assert_type(decorated(1, target="x", fee=True), float)
    assert_type(formatted(1), str)
    assert_type(Bank().book(1), str)
    assert_type(Bank().book_all(1, 2), str)
    assert_type(Bank.static(1), str)
    assert_type(Bank.of_class(1), str)
    assert_type(router.transaction()(transfer)(1, fee=True), float)
    assert_type(dicts.transaction(isolation="serializable")(first)(), DictRow | None)

    bare("bad")  # type: ignore[arg-type]
    bare()  # type: ignore[call-arg]
    bare(1, 2)  # type: ignore[call-arg]
    decorated(1, colour="green")  # type: ignore[call-arg]
    Bank().book("bad")  # type: ignore[arg-type]
    Bank().book_all("bad")  # type: ignore[arg-type]
    Bank.static("bad")  # type: ignore[arg-type]
    router.transaction(1)  # type: ignore[call-overload]
    router.transaction(colour="green")  # type: ignore[call-overload]
    router.transaction(once=no_key)  # type: ignore[arg-type]
    router.transaction()(with_dicts)  # type: ignore[arg-type]
    router.transaction()(Item)  # type: ignore[arg-type]


def transaction_of_any_router_keeps_the_type(router: Router[Any]) -> None:
    @router.transaction
    def bare(conn: Tuples, number: int) -> str:
        return same(conn, str(number))

    @router.transaction()
    def of_own_class(conn: DictConnection, number: int) -> str:
        return own(conn, number)

    @router.transaction(once=key)
    def of_any(conn: Any, source: int) -> int:
        return source

    class Bank:
        @router.transaction
        def book(self, conn: Tuples, number: int) -> str:
            return same(conn, str(number))

        @router.transaction(role="writer")
        def book_all(self, conn: Dicts, *numbers: int) -> str:
            return same(conn, str(numbers))

        @router.transaction()
        def of_own_class(self, conn: DictConnection) -> str:
            return own(conn, 1)

        @router.transaction
        def of_any(self, conn: Any, number: int) -> int:
            return number

        @staticmethod
        @router.transaction
        def static(conn: Tuples, number: int) -> str:
            return same(conn, str(number))

        @classmethod
        @router.transaction
        def of_class(cls, conn: Tuples, number: int) -> str:
            return same(conn, str(number))

    assert_type(bare(1), str)
    assert_type(of_own_class(number=1), str)
    assert_type(router.transaction(nothing)(), None)
    assert_type(router.transaction()(transfer)(1, fee=True), float)
    assert_type(Bank().book(1), str)
    assert_type(Bank().book_all(1, 2), str)
    # Not refused; one of the checkers does not keep what they return.
    of_any(1)
    Bank().of_own_class()
    Bank().of_any(number=1)
    assert_type(Bank.static(1), str)
    assert_type(Bank.of_class(1), str)

    bare("bad")  # type: ignore[arg-type]
    bare()  # type: ignore[call-arg]
    of_own_class("bad")  # type: ignore[arg-type]
    Bank().book("bad")  # type: ignore[arg-type]
    Bank().book_all("bad")  # type: ignore[arg-type]
    Bank.static("bad")  # type: ignore[arg-type]
    Bank.of_class("bad")  # type: ignore[arg-type]


def copies_check_their_options(router: Router) -> None:
    rows: list[tuple[int, str]] = []
    assert_type(router.copy_to_table("items", rows), int)
    assert_type(
        router.copy_to_table(("shop", "items"), lambda: rows, format="csv", header="match"), int
    )
    assert_type(router.copy_from("items", "items.csv", format="csv", header=True), int)
    assert_type(router.copy_rows("items", types=["int4", 25]), CopyStream[tuple[Any, ...]])
    assert_type(router.copy_chunks("items", delimiter="|"), CopyStream[bytes])
    with router.copy_chunks("items") as chunks:
        for chunk in chunks:
            assert_type(chunk, bytes)

    router.copy_to_table("items", 5)  # type: ignore[arg-type]
    router.copy_to_table("items", rows, format="json")  # type: ignore[arg-type]
    router.copy_to_table("items", rows, colour="green")  # type: ignore[call-arg]
    router.copy_to_table("items", rows, force_quote=True)  # type: ignore[call-arg]
    router.copy_from("items", 5)  # type: ignore[arg-type]
    router.copy_from("items", "items.csv", header="match")  # type: ignore[arg-type]
    router.copy_rows("items", format="csv")  # type: ignore[arg-type]


def batch_checks_the_body(router: Router, mine: Router[DictConnection]) -> None:
    def body(conn: Tuples, chunk: Chunk) -> None: ...

    def own_body(conn: DictConnection, chunk: Chunk) -> None: ...

    job = BatchJob(router, "job", [1, 2])
    assert_type(job, BatchJob[Tuples])
    job.run(body)
    BatchJob(mine, "job", [1, 2]).run(own_body)
    job.run(own_body)  # type: ignore[arg-type]
    job.run(nothing)  # type: ignore[arg-type]


def file_says_what_the_rows_are_unless_the_call_does(factory: BaseRowFactory[Item]) -> None:
    kind: Final = "pool"
    router = from_config("pgroute.toml", kind=kind)
    assert_type(router, Router[psycopg.Connection[Any]])
    assert_type(router.fetch("SELECT 1"), list[Any])
    takes_tuples(router)
    assert_type(from_config("pgroute.toml", kind=kind, row_factory=dict_row), Router[Dicts])
    items = from_config("pgroute.toml", "shop", kind=kind, row_factory=factory)
    assert_type(items.fetchrow("SELECT 1"), Item | None)
