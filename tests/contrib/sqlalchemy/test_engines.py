"""Engines of threads: where their connections come from, and how they come back."""

from __future__ import annotations

import gc
import os
import threading
import warnings
from ipaddress import IPv4Address
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types import TypeInfo
from psycopg.types.numeric import FloatLoader
from psycopg.types.string import StrDumper, TextLoader
from sqlalchemy import JSON, cast, create_engine, event, exc, insert, literal, select, text
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

import pgroute
from pgroute import PoolOptions, Router
from pgroute._sync.router import manager_of
from pgroute.contrib.sqlalchemy import router_engine, router_of
from pgroute.testing import LocalCluster
from tests.contrib.sqlalchemy.conftest import Number, url_of
from tests.support import eventually

pytestmark = pytest.mark.cluster

RECOVERY = text("SELECT pg_is_in_recovery()")
PID = text("SELECT pg_backend_pid()")


@pytest.fixture
def router(shared: LocalCluster):
    with Router(shared.dsn, writer=PoolOptions(max_size=1), reader=PoolOptions(max_size=1)) as router:
        yield router


def test_connections_are_psycopgs_own(engine):
    with engine.connect() as conn:
        assert type(conn.connection.driver_connection) is psycopg.Connection
        assert not conn.scalar(RECOVERY)
    assert isinstance(engine.pool, NullPool)
    assert isinstance(router_of(engine), Router)


def test_a_connection_comes_back_to_the_pool_of_the_router(router):
    engine = router_engine(router)
    pids = set()
    for _ in range(3):
        with engine.begin() as conn:
            pids.add(conn.scalar(PID))
    with router.writer() as conn:
        pids.add(conn.info.backend_pid)
    assert len(pids) == 1


def test_a_transaction_is_committed_or_rolled_back(engine, numbers):
    with engine.begin() as conn:
        conn.execute(text("INSERT INTO sqlalchemy_numbers VALUES (1)"))
    with pytest.raises(ZeroDivisionError), engine.begin() as conn:
        conn.execute(text("INSERT INTO sqlalchemy_numbers VALUES (2)"))
        raise ZeroDivisionError
    with engine.connect() as conn:
        conn.execute(text("INSERT INTO sqlalchemy_numbers VALUES (3)"))
    with engine.connect() as conn:
        assert conn.scalars(select(Number.number)).all() == [1]


def test_reads_are_asked_for_by_an_option_of_the_engine(engine):
    with engine.execution_options(postgresql_readonly=True).connect() as conn:
        assert conn.scalar(RECOVERY)
        assert conn.scalar(text("SHOW transaction_read_only")) == "on"
    with engine.connect() as conn:
        assert not conn.scalar(RECOVERY)
        assert conn.scalar(text("SHOW transaction_read_only")) == "off"


def test_reads_are_asked_for_by_an_option_of_the_connection(engine):
    with engine.connect() as conn:
        reader = conn.execution_options(postgresql_readonly=True)
        assert reader.scalar(RECOVERY)
        reader.rollback()
        assert not conn.execution_options(postgresql_readonly=False).scalar(RECOVERY)
    assert [pool.in_use for pool in manager_of(router_of(engine)).pools.values()] == [0, 0]


@pytest.mark.parametrize(
    "option", [{"isolation_level": "REPEATABLE READ"}, {"schema_translate_map": {"a": "public"}}], ids=str
)
def test_an_engine_made_from_a_reading_one_reads_too(engine, option):
    reading = engine.execution_options(postgresql_readonly=True).execution_options(**option)
    with reading.connect() as conn:
        assert conn.scalar(RECOVERY)
    with reading.execution_options(postgresql_readonly=False).connect() as conn:
        assert not conn.scalar(RECOVERY)


def test_what_was_set_on_a_connection_is_set_on_the_one_for_reading(engine):
    shown = text("SELECT current_setting('transaction_isolation'), current_setting('transaction_deferrable')")
    first = {"isolation_level": "REPEATABLE READ", "postgresql_deferrable": True}
    with engine.connect() as conn:
        reader = conn.execution_options(**first).execution_options(postgresql_readonly=True)
        assert reader.scalar(RECOVERY)
        assert reader.execute(shown).one() == ("repeatable read", "on")
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as conn:
        reader = conn.execution_options(postgresql_readonly=True)
        assert reader.connection.driver_connection.autocommit
    with engine.connect() as conn:
        assert not conn.connection.driver_connection.autocommit


def test_a_connection_in_a_transaction_stays_where_it_is(engine):
    with engine.connect() as conn:
        conn.scalar(RECOVERY)
        with pytest.raises(exc.InvalidRequestError, match="postgresql_readonly may not be altered"):
            conn.execution_options(postgresql_readonly=True)


def test_an_engine_of_role_reader_reads_and_says_how_to_write(url, numbers):
    engine = create_engine(url + "&role=reader")
    with engine.connect() as conn:
        assert conn.scalar(RECOVERY)
        with pytest.raises(
            exc.InternalError, match="this session is a reader's: write through an engine of role wr"
        ) as c:
            conn.execute(text("INSERT INTO sqlalchemy_numbers VALUES (1)"))
        assert isinstance(c.value.orig, psycopg.errors.ReadOnlySqlTransaction)
        assert not c.value.connection_invalidated
    with engine.execution_options(postgresql_readonly=False).begin() as conn:
        conn.execute(text("INSERT INTO sqlalchemy_numbers VALUES (1)"))
    engine.dispose()


@pytest.mark.parametrize(
    "change",
    [
        {"isolation_level": "AUTOCOMMIT"},
        {"isolation_level": "SERIALIZABLE"},
        {"postgresql_deferrable": True},
    ],
    ids=str,
)
def test_settings_of_sqlalchemys_do_not_reach_other_users_of_the_pool(router, change):
    def settings(conn):
        return (conn.autocommit, conn.isolation_level, conn.read_only, conn.deferrable, conn.info.backend_pid)

    with router.writer() as conn:
        before = settings(conn)
    with router_engine(router, execution_options=change).connect() as conn:
        assert settings(conn.connection.driver_connection) != before
        assert conn.scalar(PID) == before[-1]
    with router.writer() as conn:
        assert settings(conn) == before


def test_the_isolation_level_of_an_engine_is_set_each_time(router):
    engine = router_engine(router, isolation_level="REPEATABLE READ")
    for _ in range(2):
        with engine.connect() as conn:
            assert conn.scalar(text("SHOW transaction_isolation")) == "repeatable read"
    with router.writer() as conn:
        assert conn.execute("SHOW transaction_isolation").fetchone() == ("read committed",)


def test_types_are_sqlalchemys_in_an_engine_and_psycopgs_beside_it(router):
    engine = router_engine(
        router,
        json_deserializer=lambda _: "by the engine",
        native_inet_types=False,
        json_serializer=lambda _: "7",
    )
    statement = select(cast(literal({"a": 1}, JSON), JSONB), cast("127.0.0.1", INET))
    with engine.connect() as conn:
        assert conn.execute(statement).one() == ("by the engine", "127.0.0.1")
    with router.writer() as conn:
        row = conn.execute("SELECT '7'::jsonb, '127.0.0.1'::inet").fetchone()
        assert row is not None
        assert (row[0], str(row[1]), type(row[1])) == (7, "127.0.0.1", IPv4Address)


def test_types_that_the_router_has_configured_are_known_in_an_engine(url):
    class Shout(StrDumper):
        def dump(self, obj):
            return super().dump(f"{obj}!")

    class Word(str):
        __slots__ = ()

    def configure(conn):
        conn.adapters.register_loader("numeric", FloatLoader)
        conn.adapters.register_loader("jsonb", TextLoader)
        conn.adapters.register_dumper(Word, Shout)
        conn.adapters.types.add(TypeInfo("ours", 999_999, 999_998))

    engine = create_engine(
        url, connect_args={"configure": configure}, json_deserializer=lambda _: "the engine's"
    )
    for _ in range(2):
        with engine.connect() as conn:
            found = conn.exec_driver_sql("SELECT 1.5, '1'::jsonb, %s::text", (Word("loud"),)).one()
            assert found == (1.5, "the engine's", "loud!")
            assert type(found[0]) is float
            driver: Any = conn.connection.driver_connection
            assert driver.adapters.types["ours"].oid == 999_999
    engine.dispose()


def test_notices_are_logged_once_for_each_use(router, caplog):
    caplog.set_level("INFO", "sqlalchemy.dialects.postgresql")
    engine = router_engine(router)
    for _ in range(3):
        caplog.clear()
        with engine.connect() as conn:
            conn.execute(text("DO $$BEGIN RAISE NOTICE 'heard'; END$$"))
        assert [record.getMessage() for record in caplog.records] == ["NOTICE: heard"]
    caplog.clear()
    with router.writer() as conn:
        conn.execute("DO $$BEGIN RAISE NOTICE 'heard'; END$$")
    assert caplog.records == []


def test_rows_are_tuples_whatever_the_router_makes_of_them(shared):
    with Router(shared.dsn, kwargs={"row_factory": dict_row}) as router:
        with router_engine(router).connect() as conn:
            assert conn.execute(text("SELECT 1 AS one, 2 AS two")).one() == (1, 2)
        with router.writer() as conn:
            row: Any = conn.execute("SELECT 1 AS one").fetchone()
            assert row == {"one": 1}


def test_a_detached_connection_is_not_used_by_others(router):
    engine = router_engine(router)
    with engine.connect() as conn:
        conn.detach()
        pid = conn.scalar(PID)
        conn.execute(text("SET application_name = 'mine'"))
        conn.commit()
    with router.writer() as conn:
        assert conn.info.backend_pid != pid


def test_a_lost_connection_is_told_and_replaced(engine, numbers, inspector):
    with engine.connect() as conn:
        pid = conn.scalar(PID)
        inspector.execute(inspector.cluster.nodes[0], f"SELECT pg_terminate_backend({pid}, 5000)")
        with pytest.raises(exc.OperationalError) as caught:
            conn.execute(text("INSERT INTO sqlalchemy_numbers VALUES (1)"))
        assert caught.value.connection_invalidated
        with pytest.raises(exc.PendingRollbackError):
            conn.scalar(PID)
        conn.rollback()
        assert conn.scalar(PID) != pid


def test_a_commit_on_a_lost_connection_is_session_lost(engine, numbers, inspector):
    with engine.connect() as conn:
        conn.execute(text("INSERT INTO sqlalchemy_numbers VALUES (1)"))
        pid = conn.connection.driver_connection.info.backend_pid
        inspector.execute(inspector.cluster.nodes[0], f"SELECT pg_terminate_backend({pid}, 5000)")
        with pytest.raises(exc.OperationalError) as caught:
            conn.commit()
    assert isinstance(caught.value.orig, pgroute.SessionLost)
    assert caught.value.connection_invalidated


def test_a_reader_that_is_lost_after_its_reads_is_no_error(engine, inspector):
    with engine.execution_options(postgresql_readonly=True).connect() as conn:
        pid = conn.scalar(PID)
        for node in inspector.cluster.nodes[1:]:
            inspector.execute(node, f"SELECT pg_terminate_backend({pid}, 5000)")
        conn.commit()


def test_a_hidden_error_is_told_by_the_commit(engine):
    with engine.connect() as conn:
        with pytest.raises(exc.DataError):
            conn.execute(text("SELECT 1/0"))
        with pytest.raises(exc.InternalError, match="it was rolled back, nothing was committed"):
            conn.commit()
        conn.rollback()
        assert conn.scalar(text("SELECT 1")) == 1


def test_no_session_in_time_is_an_operational_error_that_says_why(url):
    engine = create_engine(url + "&max_size=1&acquire_timeout=2")
    with engine.connect(), pytest.raises(exc.OperationalError, match="connections in use") as caught:
        engine.connect()
    assert isinstance(caught.value.orig, pgroute.PoolExhausted)
    engine.dispose()


@pytest.mark.long
def test_two_phase_transactions_are_prepared_and_committed():
    with LocalCluster(0, settings={"max_prepared_transactions": "2"}) as cluster:
        engine = create_engine(url_of(cluster))
        with engine.begin() as conn:
            conn.execute(text("CREATE TABLE sqlalchemy_numbers (number int)"))
        with engine.connect() as conn:
            transaction = conn.begin_twophase()
            conn.execute(text("INSERT INTO sqlalchemy_numbers VALUES (1)"))
            transaction.prepare()
            with engine.connect() as other:
                assert other.recover_twophase() == [transaction.xid]
            transaction.commit()
            assert conn.scalar(text("SELECT count(*) FROM sqlalchemy_numbers")) == 1
        engine.dispose()


def test_rows_are_streamed_by_a_cursor_of_the_server(engine):
    with engine.connect() as conn:
        result = conn.execution_options(yield_per=10).execute(text("SELECT generate_series(1, 100)"))
        assert isinstance(result.cursor, psycopg.ServerCursor)
        assert sum(result.scalars()) == 5050


def test_many_rows_are_inserted_at_once_and_come_back(engine, numbers):
    with Session(engine) as session:
        rows = session.scalars(
            insert(Number).returning(Number.number, sort_by_parameter_order=True),
            [{"number": n, "note": str(n)} for n in range(1500)],
        ).all()
        assert rows == list(range(1500))


def test_an_engine_may_be_disposed_of_twice_and_used_again(url):
    engine = create_engine(url)
    with engine.connect() as conn:
        first = router_of(engine)
        conn.scalar(PID)
    engine.dispose()
    engine.dispose()
    assert "closed" in repr(first)
    with engine.connect() as conn:
        conn.scalar(PID)
        assert router_of(engine) is not first
    engine.dispose()


def test_a_connection_in_use_outlives_its_engine(url):
    engine = create_engine(url)
    with engine.begin() as conn:
        router = router_of(engine)
        engine.dispose()
        assert conn.scalar(text("SELECT 1")) == 1
        assert "open" in repr(router)
    assert "closed" in repr(router)


def test_a_connection_that_outlives_its_engine_and_is_collected_closes_the_router(url):
    engine = create_engine(url)
    conn = engine.connect()
    conn.scalar(PID)
    router = router_of(engine)
    engine.dispose()
    assert "closed" not in repr(router)
    conn.me = conn  # type: ignore[attr-defined]  # for the collector
    del conn
    gc.collect()
    eventually(lambda: "closed" in repr(router))


def test_who_waits_for_a_connection_when_the_engine_is_disposed_of_gets_one(url, monkeypatch):
    engine = create_engine(url)
    with engine.connect() as conn:
        conn.scalar(PID)
    first = router_of(engine)
    acquire = type(manager_of(first)).acquire

    def disposed_meanwhile(manager, *args, **options):
        if manager is manager_of(first):
            engine.dispose()
        return acquire(manager, *args, **options)

    monkeypatch.setattr(type(manager_of(first)), "acquire", disposed_meanwhile)
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT 1")) == 1
    assert "closed" in repr(first)
    engine.dispose()


def test_the_router_that_was_handed_over_is_not_closed(router):
    engine = router_engine(router)
    with engine.connect() as conn:
        conn.scalar(PID)
    engine.dispose()
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT 1")) == 1
    assert router_of(engine) is router


def test_an_engine_that_is_collected_closes_its_router(url):
    engine = create_engine(url)
    with engine.connect() as conn:
        conn.scalar(PID)
    router = router_of(engine)
    del engine, conn
    gc.collect()
    eventually(lambda: "closed" in repr(router))


def test_a_connection_that_is_collected_is_closed_and_told(router, caplog):
    engine = router_engine(router)
    conn = engine.connect()
    pid = conn.scalar(PID)
    conn.me = conn  # type: ignore[attr-defined]  # for the collector
    del conn
    gc.collect()
    with router.writer(timeout=5) as conn:
        assert conn.info.backend_pid != pid
    assert "lost by its caller" in caplog.text


def test_a_connect_event_comes_with_each_use(router):
    engine = router_engine(router)
    seen = []
    event.listen(engine, "connect", lambda conn, _: seen.append(conn.info.backend_pid))
    for _ in range(3):
        with engine.connect():
            pass
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_connect_args_that_change_are_told_to_be_credentials(url):
    engine = create_engine(url)
    number = iter(range(10))
    event.listen(engine, "do_connect", lambda *args: args[3].update(application_name=f"secret{next(number)}"))
    with engine.connect():
        pass
    with pytest.raises(exc.ProgrammingError, match="credentials that change are for connect_args") as caught:
        engine.connect()
    assert "secret" not in str(caught.value)
    engine.dispose()


@pytest.mark.parametrize("owned", [True, False])
def test_a_forked_child_is_told_in_a_sentence_what_to_do(url, router, owned):
    engine = create_engine(url) if owned else router_engine(router)
    with engine.connect() as conn:
        assert conn.scalar(RECOVERY) is False
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        try:
            try:
                engine.connect()
            except exc.OperationalError as error:
                told = str(error)
            if owned:
                engine.dispose(close=False)
                with engine.connect() as conn:
                    told += f" then {conn.scalar(RECOVERY)}"
                engine.dispose()
            os.write(write, told.encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    assert "RouterClosed" in told
    if owned:
        assert "call engine.dispose(close=False) in the child" in told
        assert told.endswith("then False")
    else:
        assert "make a router in the child, after the fork" in told
    with engine.connect() as conn:
        assert conn.scalar(RECOVERY) is False
    engine.dispose()


def test_threads_share_an_engine(engine):
    failures = []

    def work():
        try:
            for _ in range(5):
                with engine.connect() as conn:
                    assert conn.scalar(text("SELECT 1")) == 1
        except Exception as failure:  # noqa: BLE001
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_pre_ping_does_no_harm(url):
    engine = create_engine(url, pool_pre_ping=True)
    for _ in range(2):
        with engine.connect() as conn:
            assert conn.scalar(text("SELECT 1")) == 1
    engine.dispose()
