# Generated from tests/aio/test_run_begin.py by .ci/unasync.py: edit that file, not this one.
"""The transaction of run() has begun before the body's first statement, whatever that is."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from pgroute import Router, PoolOptions
from pgroute.testing import LocalCluster
from tests.support import call

pytestmark = pytest.mark.cluster

INSERT = "INSERT INTO {} VALUES (1)"
ONE = PoolOptions(max_size=1)


def by_execute(conn: Any, table: str) -> None:
    conn.execute(INSERT.format(table))


def by_many(conn: Any, table: str) -> None:
    conn.cursor().executemany(f"INSERT INTO {table} VALUES (%s)", [(1,), (2,)])


def by_copy(conn: Any, table: str) -> None:
    with conn.cursor().copy(f"COPY {table} FROM STDIN") as copy:
        copy.write_row((1,))


def by_stream(conn: Any, table: str) -> None:
    rows = conn.cursor().stream(INSERT.format(table) + " RETURNING 1")
    assert [(*row,) for row in rows] == [(1,)]


def by_pipeline(conn: Any, table: str) -> None:
    with conn.pipeline():
        conn.execute(INSERT.format(table))


def by_savepoint(conn: Any, table: str) -> None:
    with conn.transaction():
        conn.execute(INSERT.format(table))


def by_rolled_back_savepoint(conn: Any, table: str) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute(INSERT.format(table))
    conn.execute(INSERT.format(table))


def by_server_cursor(conn: Any, table: str) -> None:
    with conn.cursor("c") as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]
    conn.execute(INSERT.format(table))


def by_notifies(conn: Any, table: str) -> None:
    for _ in conn.notifies(timeout=0):
        raise AssertionError
    conn.execute(INSERT.format(table))


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


def stored(shared: LocalCluster, table: str) -> bool:
    return bool(call(shared.nodes[0].execute, f"SELECT 1 FROM {table}"))


def usable(router: Router[Any], table: str) -> None:
    """The next session finds nothing of a transaction of run()."""
    with router.writer() as conn:
        assert conn.info.transaction_status == TransactionStatus.IDLE
        conn.execute("SELECT 1")
        conn.commit()
        assert conn.info.transaction_status == TransactionStatus.IDLE
        conn.execute(f"DELETE FROM {table}")


@pytest.mark.parametrize("way", WAYS)
def test_whatever_comes_first_is_in_the_transaction(shared: LocalCluster, table: str, way: Any) -> None:
    def fails(conn: Any) -> None:
        way(conn, table)
        assert conn.info.transaction_status == TransactionStatus.INTRANS
        raise ValueError

    with Router(shared.dsn, writer=ONE) as router:
        with pytest.raises(ValueError, match=r"^$"):
            router.run(fails)
        assert not stored(shared, table)
        router.run(way, table)
        assert stored(shared, table)
        usable(router, table)


def test_a_body_without_a_statement_leaves_nothing(shared: LocalCluster, table: str) -> None:
    def nothing(_: Any) -> str:
        return "nothing"

    def fails(_: Any) -> None:
        raise ValueError

    with Router(shared.dsn, writer=ONE) as router:
        assert router.run(nothing) == "nothing"
        usable(router, table)
        with pytest.raises(ValueError, match=r"^$"):
            router.run(fails)
        usable(router, table)
        for attempt in router.attempts():
            with attempt:
                raise psycopg.Rollback
        usable(router, table)
        assert router.stats().writer.totals["connections_num"] == 1


def test_what_a_body_may_not_do_is_refused_before_its_first_statement_too(
    shared: LocalCluster, table: str
) -> None:
    def commits(conn: Any) -> None:
        conn.commit()

    def changes(conn: Any) -> None:
        conn.set_autocommit(True)

    with Router(shared.dsn, writer=ONE) as router:
        for body in (commits, changes):
            with pytest.raises(psycopg.ProgrammingError):
                router.run(body)
            usable(router, table)


def test_a_begin_that_the_server_refuses_is_the_servers_error(shared: LocalCluster) -> None:
    def serializable(conn: Any) -> None:
        conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)

    def reads(conn: Any) -> None:
        conn.execute("SELECT 1")

    options = PoolOptions(max_size=1, configure=serializable)
    with Router(shared.dsn, reader=options) as router:
        router.wait()
        for _ in range(2):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="serializable mode"):
                router.run(reads, role="reader")


def test_a_statement_that_fails_at_once_is_no_end_of_the_transaction(
    shared: LocalCluster, table: str
) -> None:
    def fails(conn: Any) -> None:
        conn.execute("SELECT 1/0")

    with Router(shared.dsn, writer=ONE) as router:
        with pytest.raises(psycopg.errors.DivisionByZero) as caught:
            router.run(fails)
        assert not any("of its own" in note for note in getattr(caught.value, "__notes__", ()))
        usable(router, table)
        assert router.stats().writer.totals["connections_num"] == 1
