"""BEGIN goes along with the first statement of a transaction, and nothing else changes by it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import psycopg
import pytest
from sqlalchemy import bindparam, create_engine, event, exc, func, insert, literal, select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from pgroute import PoolOptions, Router
from pgroute.contrib.sqlalchemy import router_engine
from pgroute.testing import LocalCluster
from tests.contrib.sqlalchemy.conftest import Number
from tests.support import passfile_of
from tests.test_interrupts_at_each_line import InterruptAt
from tests.wiretap import Wiretap

pytestmark = pytest.mark.cluster

ONE = select(literal(1))


@pytest.fixture
def tap(shared: LocalCluster):
    with Wiretap(shared.primary) as tap:
        yield tap


def tapped(tap: Wiretap) -> str:
    return f"postgresql+pgroute://postgres@{tap.host}:{tap.port}/postgres?passfile={passfile_of(tap)}"


def sent(tap: Wiretap) -> list[str]:
    """Return what was sent, one text for each round trip."""
    trips, trip = [], ""
    for message in tap.take():
        if message.kind in b"QP":
            trip += message.body.split(b"\0")[message.kind == b"P"].decode() + ";"
        if message.kind in b"QS":
            trips.append(trip)
            trip = ""
    return trips


def test_a_write_and_a_read_take_two_round_trips(tap, numbers):
    engine = create_engine(tapped(tap))
    with Session(engine) as session:
        session.get(Number, 1)
    sent(tap)
    with Session(engine) as session, session.begin():
        session.add(Number(number=1))
    first, second = sent(tap)
    assert first.startswith("BEGIN;INSERT INTO sqlalchemy_numbers")
    assert second == "COMMIT;"
    with Session(engine) as session:
        assert session.scalars(select(Number)).one().number == 1
    first, second = sent(tap)
    assert first.startswith("BEGIN;SELECT sqlalchemy_numbers")
    assert second == "ROLLBACK;"
    engine.dispose()


async def test_an_async_write_and_read_take_two_round_trips(tap, numbers):
    engine = create_async_engine(tapped(tap))
    async with engine.connect() as conn:
        await conn.execute(ONE)
    sent(tap)
    async with engine.begin() as conn:
        inserted = await conn.execute(insert(Number).values(number=1).returning(Number.number))
        assert inserted.all() == [(1,)]
    first, second = sent(tap)
    assert first.startswith("BEGIN;INSERT INTO sqlalchemy_numbers")
    assert second == "COMMIT;"
    async with engine.connect() as conn:
        result = await conn.execute(select(Number.number, Number.note))
        assert result.keys() == ["number", "note"]
        assert result.all() == [(1, None)]
    assert sent(tap)[0].startswith("BEGIN;SELECT sqlalchemy_numbers")
    await engine.dispose()


@pytest.mark.parametrize(
    "options",
    [{}, {"isolation_level": "SERIALIZABLE"}, {"postgresql_readonly": False, "postgresql_deferrable": True}],
)
def test_the_transaction_is_begun_as_psycopg_begins_it(tap, options):
    engine = create_engine(tapped(tap))
    begun = []
    for statement in (ONE, text("SELECT 1")):
        with engine.connect().execution_options(**options) as conn:
            sent(tap)
            conn.execute(statement)
        begun.append(sent(tap)[0].partition(";")[0])
    assert begun[0] == begun[1]
    assert begun[0].startswith("BEGIN")
    engine.dispose()


def test_nothing_is_begun_in_autocommit(tap):
    engine = create_engine(tapped(tap), isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        sent(tap)
        assert conn.scalar(ONE) == 1
        assert sent(tap) == ["SELECT %(param_1)s::INTEGER AS anon_1;".replace("%(param_1)s", "$1")]
    engine.dispose()


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        (text("SELECT 1; SELECT 2"), None),
        (text("SELECT 1; SELECT 2").columns(), None),
        (ONE.execution_options(stream_results=True), None),
        (insert(Number), [{"number": 1}, {"number": 2}]),
        (text("CREATE TEMPORARY TABLE mine (number int) ON COMMIT DROP"), None),
    ],
    ids=["several", "several with columns", "server-side cursor", "many rows", "DDL"],
)
def test_other_statements_come_first_as_they_did(engine, numbers, statement, parameters):
    with engine.connect() as conn:
        result = conn.execute(statement, parameters)
        assert conn.connection.driver_connection.info.transaction_status == 2
        result.close()
        assert conn.scalar(ONE) == 1


def test_sql_of_the_driver_comes_first_as_it_did(engine):
    with engine.connect() as conn:
        conn.exec_driver_sql("SELECT 1; SELECT 2", {"unused": 1})
        assert conn.scalar(ONE) == 1


def test_what_a_listener_puts_before_a_statement_comes_first_as_it_did(engine, numbers):
    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def prefix(*told):
        _, _, statement, parameters, context, _ = told
        before = "SET LOCAL application_name = 'prefixed'; " if context.compiled else ""
        return before + statement, parameters

    with engine.connect() as conn:
        conn.execute(select(Number.number))
        assert conn.exec_driver_sql("SHOW application_name").fetchall() == [("prefixed",)]


def test_a_savepoint_may_come_first(engine, numbers):
    with engine.begin() as conn:
        with contextlib.suppress(ZeroDivisionError), conn.begin_nested():
            conn.execute(insert(Number).values(number=1))
            raise ZeroDivisionError
        conn.execute(insert(Number).values(number=2))
    with engine.connect() as conn:
        assert conn.scalars(select(Number.number)).all() == [2]


def test_an_error_leaves_the_transaction_in_error(engine, numbers):
    with engine.connect() as conn:
        for _ in range(8):  # beyond the number of times after which psycopg prepares a statement
            with pytest.raises(exc.DataError, match="division by zero"):
                conn.execute(select(literal(1) / bindparam("by", 0)))
            with pytest.raises(exc.InternalError, match="transaction is aborted"):
                conn.execute(ONE)
            conn.rollback()
        assert conn.scalar(ONE) == 1


def test_a_value_that_cannot_be_sent_is_told_and_nothing_is_begun(engine):
    with engine.connect() as conn:
        with pytest.raises(exc.ProgrammingError, match="cannot adapt"):
            conn.execute(text("SELECT :value"), {"value": object()})
        assert conn.connection.driver_connection.info.transaction_status == 0
        assert conn.scalar(ONE) == 1


def test_a_refused_begin_is_told_by_its_own_error(engine):
    reading = engine.execution_options(postgresql_readonly=True)
    with reading.connect().execution_options(isolation_level="SERIALIZABLE") as conn:
        with pytest.raises(exc.DBAPIError, match="cannot use serializable mode in a hot standby") as told:
            conn.execute(ONE)
        assert isinstance(told.value.orig, psycopg.errors.FeatureNotSupported)
        conn.rollback()
    with reading.connect() as conn:
        assert conn.scalar(ONE) == 1


def prepared(conn: Any) -> list[str]:
    return list(conn.scalars(text("SELECT statement FROM pg_prepared_statements")))


def test_a_statement_is_prepared_when_it_would_have_been(engine, numbers):
    by_hand = create_engine(engine.url.set(drivername="postgresql+psycopg", query=first_host(engine.url)))
    counts: list[list[int]] = []
    for each in (by_hand, engine):
        with each.connect() as conn:
            counts.append([])
            for number in range(10):
                conn.execute(select(Number).where(Number.number == number))
                counts[-1].append(len(prepared(conn)))
                conn.commit()
    by_hand.dispose()
    assert counts[0] == counts[1]
    assert counts[0][0] == 0
    assert counts[0][-1] > 0


def first_host(url: Any) -> dict[str, Any]:
    return {**url.query, "host": url.query["host"][0]}


def test_a_statement_that_cannot_be_prepared_any_more_is_told_and_forgotten(engine, numbers, inspector):
    statement = select(Number.number).where(Number.number == 1)
    with engine.connect() as conn:
        for _ in range(5):
            conn.execute(statement)
            conn.commit()
        inspector.execute(inspector.cluster.nodes[0], "ALTER TABLE sqlalchemy_numbers RENAME TO away")
        try:
            with pytest.raises(exc.ProgrammingError, match="does not exist"):
                conn.execute(statement)
        finally:
            inspector.execute(inspector.cluster.nodes[0], "ALTER TABLE away RENAME TO sqlalchemy_numbers")
        conn.rollback()
        for _ in range(8):
            assert conn.scalars(statement).all() == []
            conn.commit()


def test_statements_beyond_the_most_are_deallocated(engine):
    with engine.connect() as conn:
        raw = conn.connection.driver_connection
        raw.prepare_threshold, raw.prepared_max = 0, 2
        for number in range(6):
            conn.execute(select(literal(1).label(f"column_{number}")))
            conn.commit()
        assert len(prepared(conn)) <= 3


def test_a_connection_that_is_lost_with_the_first_statement_is_replaced(engine):
    with engine.connect() as conn:
        with pytest.raises(exc.OperationalError, match="terminating connection") as told:
            conn.execute(select(func.pg_terminate_backend(func.pg_backend_pid())))
        assert told.value.connection_invalidated
        assert isinstance(told.value.orig, psycopg.errors.AdminShutdown)
        conn.rollback()
        assert conn.scalar(ONE) == 1


async def test_a_cancelled_first_statement_gives_its_connection_back(shared: LocalCluster, url):
    engine = create_async_engine(url + "&max_size=1")
    async with engine.connect() as conn:
        pid = await conn.scalar(text("SELECT pg_backend_pid()"))

    async def sleep() -> None:
        async with engine.connect() as conn:
            await conn.execute(select(func.pg_sleep(literal(60))))

    task = asyncio.create_task(sleep())
    asleep = f"SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = {pid}"
    while await asyncio.to_thread(shared.primary.execute, asleep) != [(True,)]:
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with engine.connect() as conn:
        assert await conn.scalar(ONE) == 1
    await engine.dispose()


@pytest.mark.long
def test_an_interrupt_at_any_line_keeps_no_connection_and_commits_nothing_alone(shared, numbers):
    stored: set[int] = set()
    with Router(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        engine = router_engine(router)
        for number in range(1, 1000):
            interrupt = InterruptAt(number)
            with contextlib.suppress(KeyboardInterrupt), interrupt:
                with engine.begin() as conn:
                    conn.execute(insert(Number).values(number=number))
                stored.add(number)
            gc.collect()  # SQLAlchemy's objects of a connection refer to each other
            with engine.connect() as conn:
                found = set(conn.scalars(select(Number.number)))
            assert found >= stored, interrupt.where
            stored = found
            if not interrupt.where:
                break
        else:
            pytest.fail("it grows with each interrupt")
        with router.writer(5) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
