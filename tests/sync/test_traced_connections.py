# Generated from tests/aio/test_traced_connections.py by .ci/unasync.py: edit that file, not this one.
"""Connections behind a proxy: what the agents of Datadog and New Relic make psycopg's connect() return."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import Router, Notification, PoolOptions
from pgroute.testing import LocalCluster

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

    def __enter__(self) -> Any:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, *exc: object) -> Any:
        return self.__wrapped__.__exit__(*exc)


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each connection traced, as an agent does."""
    actual: Any = psycopg.Connection.connect

    def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return Traced(actual.__func__(cls, *args, **kwargs))

    monkeypatch.setattr(psycopg.Connection, "connect", classmethod(connect))


@pytest.fixture
def installed(shared: LocalCluster) -> Iterator[None]:
    shared.catch_up()
    yield
    shared.primary.execute("DROP SCHEMA IF EXISTS pgroute CASCADE")


def test_sessions(shared: LocalCluster, table: str) -> None:
    shared.catch_up()
    with Router(shared.dsn, writer=ONE) as router:
        with router.writer() as conn:
            assert type(conn).__name__ == "Traced"
            conn.execute(f"INSERT INTO {table} VALUES (1)")
            pid = conn.info.backend_pid
        with pytest.raises(KeyError):
            with router.writer() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (2)")
                raise KeyError
        with router.writer() as conn:
            conn.set_autocommit(True)
            conn.row_factory = psycopg.rows.dict_row  # type: ignore[assignment]
            conn.execute("SELECT 1")
        with router.writer() as conn:
            assert not conn.autocommit
            assert (conn.execute(f"SELECT * FROM {table}")).fetchall() == [(1,)]
            assert conn.info.backend_pid == pid
        with router.reader() as conn:
            conn.execute("SELECT 1")


def test_connections_taken_by_hand(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        conn = router.getconn("writer", key="mine")
        assert router.getconn("writer", key="mine") is conn
        conn.execute("SELECT 1")
        router.putconn(conn)
        with router.writer(5.0) as conn:
            conn.execute("SELECT 1")


def test_one_whose_cursor_alone_is_kept_is_not_lost(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        cursor = (router.getconn("writer")).cursor()
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        router.putconn(cursor.connection)
        assert not router.stats().writer.totals.get("connections_lost")


@pytest.mark.usefixtures("installed")
def test_transactions(shared: LocalCluster, table: str) -> None:
    def insert(conn: psycopg.Connection[Any], number: int) -> int:
        conn.execute(f"INSERT INTO {table} VALUES (%s)", [number])
        return number

    def fail(conn: psycopg.Connection[Any]) -> None:
        insert(conn, 9)
        raise KeyError

    with Router(shared.dsn, writer=ONE) as router:
        router.install()
        assert router.run(insert, 1) == 1
        for _ in range(2):
            assert router.run(insert, 2, once=f"{table} 2") == 2
        with pytest.raises(KeyError):
            router.run(fail)
        for attempt in router.attempts(isolation="serializable"):
            with attempt as conn:
                insert(conn, 3)
        own = router.causal()
        with own.writer() as conn:
            insert(conn, 4)
        with own.reader(wait=10.0) as conn:
            found = (conn.execute(f"SELECT * FROM {table} ORDER BY 1")).fetchall()
        assert found == [(1,), (2,), (3,), (4,)]


def test_single_statements(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        assert router.execute(f"INSERT INTO {table} VALUES (%s)", [1]) == "INSERT 0 1"
        assert router.execute(f"INSERT INTO {table} VALUES (2);") == "INSERT 0 1"
        router.executemany(f"INSERT INTO {table} VALUES (%s)", [[3], [4]])
        query = f"INSERT INTO {table} VALUES (%s) RETURNING number"
        assert router.fetchmany(query, [[5], [6]], role="writer") == [(5,), (6,)]
        assert router.fetch(f"SELECT * FROM {table} WHERE number < 3", role="writer") == [(1,), (2,)]
        assert router.fetchval("SELECT 1") == 1


def test_copy(shared: LocalCluster, table: str) -> None:
    with Router(shared.dsn, writer=ONE) as router:
        assert router.copy_to_table(table, [(number,) for number in range(9)]) == 9
        with router.copy_rows(table, role="writer") as rows:
            count = 0
            for _ in rows:
                count += 1
        assert count == 9


def test_notifications(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=ONE) as router, router.listen("traced") as events:
        router.execute("NOTIFY traced, 'a'")
        found = events.next(10.0)
        assert isinstance(found, Notification)
        assert found.payload == "a"


def test_a_callback_of_the_pool(shared: LocalCluster) -> None:
    def callback(conn: psycopg.Connection[Any]) -> None:
        conn.execute("SELECT 1")
        conn.commit()

    options = PoolOptions(max_size=1, configure=callback, reset=callback, setup=callback)
    with Router(shared.dsn, writer=options) as router:
        for _ in range(2):
            with router.writer() as conn:
                conn.execute("SELECT 1")
        assert router.stats().writer.totals["connections_num"] == 1


