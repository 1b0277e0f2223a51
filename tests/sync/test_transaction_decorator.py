# Generated from tests/aio/test_transaction_decorator.py by .ci/unasync.py: edit that file, not this one.
"""Functions under @router.transaction: each call is a transaction, as with run()."""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

import psycopg
import pytest

from pgroute import Router, PoolOptions, RouterClosed
from pgroute.testing import LocalCluster
from tests.sync.conftest import Proxied
from tests.sync.counting import INCREMENT, counted

pytestmark = pytest.mark.cluster

Connection = psycopg.Connection[Any]

DIE = "SELECT pg_terminate_backend(pg_backend_pid())"
ROUTER = Router("host=127.0.0.1 port=1")


@ROUTER.transaction
def at_the_top(conn: Connection, number: int) -> int:
    """Return the number."""
    return number


def one(conn: Connection, sql: str) -> Any:
    row = (conn.execute(sql)).fetchone()
    assert row is not None
    return row[0]


def numbers(cluster: LocalCluster, table: str) -> list[int]:
    return [row[0] for row in cluster.primary.execute(f"SELECT number FROM {table} ORDER BY number")]


def test_each_call_is_a_transaction(shared: LocalCluster, table: str) -> None:
    router = Router(shared.dsn, writer=PoolOptions(max_size=1))

    @router.transaction
    def insert(conn: Connection, number: int, *more: int, fail: bool = False) -> int:
        for each in (number, *more):
            conn.execute(f"INSERT INTO {table} VALUES (%s)", [each])
        return 1 // (not fail)

    class Numbers:
        def __init__(self, low: int) -> None:
            self.low = low

        @router.transaction(role="reader")
        def count(self, conn: Connection, *, above: int) -> Any:
            assert one(conn, "SELECT pg_is_in_recovery()")
            return one(conn, f"SELECT {self.low} + {above}")

        @classmethod
        @router.transaction(isolation="serializable", read_only=True)
        def kind(cls, conn: Connection, what: str) -> tuple[Any, ...]:
            return (cls, one(conn, f"SHOW {what}"))

        @staticmethod
        @router.transaction()
        def total(conn: Connection) -> Any:
            return one(conn, f"SELECT sum(number) FROM {table}")

    with router:
        assert insert(1) == 1
        assert insert(number=2) == 1
        assert insert(3, 4) == 1
        with pytest.raises(ZeroDivisionError):
            insert(5, fail=True)
        with pytest.raises(psycopg.errors.UniqueViolation):
            insert(6, 6)
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'number'"):
            insert()  # type: ignore[call-arg]
        assert Numbers(3).count(above=4) == 7
        assert Numbers.kind("transaction_isolation") == (Numbers, "serializable")
        assert Numbers(0).kind("transaction_read_only") == (Numbers, "on")
        assert Numbers.total() == Numbers(0).total() == 10
    assert numbers(shared, table) == [1, 2, 3, 4]


def test_a_call_is_run_again_and_with_its_key_applied_once(pair: Proxied) -> None:
    router = Router(pair.dsn)
    runs: list[str] = []

    @router.transaction(once=lambda order, item="tea": f"order {order} {item}")
    def pay(conn: Connection, order: int, amount: int, *, die: bool = False) -> str:
        runs.append(f"{order} {amount}")
        conn.execute(INCREMENT.replace("+ 1", f"+ {amount}"))
        if die and len(runs) == 1:
            with contextlib.suppress(psycopg.OperationalError):
                conn.execute(DIE)
        return f"paid {amount}"

    @router.transaction(once="once for all")
    def set_up(conn: Connection) -> bool:
        runs.append("set up")
        return True

    with router:
        assert pay(7, 100, die=True) == "paid 100"
        assert pay(order=7, amount=100) == pay(7, 300) == "paid 100", "the stored result"
        assert pay(8, 1) == "paid 1"
        assert set_up() is set_up() is True
    assert runs == ["7 100", "7 100", "8 1", "set up"]
    assert counted(pair.cluster.nodes[0]) == (101, 3)


def test_a_call_within_another_is_refused_as_within_run(shared: LocalCluster, table: str) -> None:
    router = Router(shared.dsn)

    @router.transaction
    def inner(conn: Connection) -> None:
        conn.execute(f"INSERT INTO {table} VALUES (1)")

    @router.transaction
    def outer(conn: Connection) -> None:
        conn.execute(f"INSERT INTO {table} VALUES (2)")
        inner()

    with router:
        with pytest.raises(psycopg.ProgrammingError, match="within"):
            outer()
    assert numbers(shared, table) == []


def test_a_router_that_is_not_open_says_so_at_the_call(shared: LocalCluster) -> None:
    router = Router(shared.dsn)

    @router.transaction()
    def nothing(conn: Connection) -> None: ...

    with pytest.raises(RouterClosed, match="was never opened"):
        nothing()
    with router:
        nothing()
    with pytest.raises(RouterClosed, match="is closed"):
        nothing()


def test_a_decorated_function_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(at_the_top)) is at_the_top  # noqa: S301
    assert at_the_top.__doc__ == "Return the number."
