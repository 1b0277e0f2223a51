"""Single statements without a session of their own: results, errors, and what is run again."""

from __future__ import annotations

import asyncio  # async-only
import itertools
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import class_row, dict_row, scalar_row

from pgroute import (
    AsyncRouter,
    CommitUnknown,
    ConfigError,
    PoolOptions,
    RetryPolicy,
    RouterClosed,
    SessionLost,
)
from pgroute.testing import LocalCluster
from tests.aio.conftest import Proxied
from tests.aio.replicas import dsn_of
from tests.support import AsyncBackground, async_call, async_eventually
from tests.wiretap import Wiretap

pytestmark = pytest.mark.cluster

ONCE_ONLY = RetryPolicy(stop=lambda _: True)
ONE_CONNECTION = PoolOptions(max_size=1)
DIE = "SELECT pg_terminate_backend(pg_backend_pid())"


async def _first(conn: psycopg.AsyncConnection[Any]) -> Any:
    return await (await conn.execute("SELECT 1 AS n")).fetchone()


def numbers(cluster: LocalCluster, table: str) -> list[int]:
    return [row[0] for row in cluster.nodes[0].execute(f"SELECT number FROM {table} ORDER BY number")]


async def test_what_comes_back(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn) as router:
        insert = f"INSERT INTO {table} VALUES (%s)"
        assert await router.execute(insert, [1]) == "INSERT 0 1"
        assert await router.execute(insert, (2,), timeout=5.0) == "INSERT 0 1"
        await router.executemany(insert, iter([(3,), (4,)]))
        query = f"SELECT number, 'x' FROM {table} WHERE number > %(least)s ORDER BY number"
        assert await router.fetch(query, {"least": 2}, role="writer") == [(3, "x"), (4, "x")]
        assert await router.fetchrow(query, {"least": 2}, role="writer") == (3, "x")
        assert await router.fetchval(query, {"least": 2}, role="writer", column=1) == "x"
        assert await router.fetch(query, {"least": 9}, role="writer") == []
        assert await router.fetchrow(query, {"least": 9}, role="writer") is None
        assert await router.fetchval(query, {"least": 9}, role="writer") is None
        assert await router.fetchval(f"INSERT INTO {table} VALUES (5) RETURNING number", role="writer") == 5
        assert await router.fetch(f"DELETE FROM {table} WHERE number = 5", role="writer") == []
        assert await router.fetchval("SELECT pg_is_in_recovery()") is True
        assert await router.fetchval("SELECT pg_is_in_recovery()", role="writer") is False
    assert numbers(shared, table) == [1, 2, 3, 4]


QUERIES = (
    "SELECT '100%', ';'",
    "SELECT '100%', ';';",
    """
                        SELECT '100%', -- a comment; with a semicolon
                               ';' /* another; one */
    """,
    b"SELECT '100%', ';'",
    sql.SQL("SELECT {}, ';'").format("100%"),
)


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
async def test_query_without_values_is_taken_as_it_is(shared: LocalCluster, query: Any) -> None:
    async with AsyncRouter(shared.dsn) as router:
        assert await router.fetch(query) == [("100%", ";")]


async def test_rows_are_as_the_router_makes_them(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, row_factory=dict_row) as router:
        assert await router.fetch("SELECT 1 AS n") == [{"n": 1}]
        assert await router.fetchrow("SELECT 1 AS n") == {"n": 1}
        assert await router.fetchval("SELECT 1 AS n") == 1
        assert await router.run(_first) == {"n": 1}
        assert await router.causal().run(_first, role="reader") == {"n": 1}


async def test_rows_are_as_the_call_makes_them(shared: LocalCluster, table: str) -> None:
    insert = f"INSERT INTO {table} VALUES (1) RETURNING number"
    async with AsyncRouter(shared.dsn, writer=ONE_CONNECTION) as router:
        assert await router.fetch(insert, role="writer", row_factory=dict_row) == [{"number": 1}]
        assert await router.fetchrow(
            "SELECT 1 AS n", role="writer", row_factory=class_row(SimpleNamespace)
        ) == (SimpleNamespace(n=1))
        assert await router.fetchrow("SELECT 1", role="writer", row_factory=scalar_row) == 1
        assert await router.fetchrow("SELECT WHERE false", role="writer", row_factory=dict_row) is None
        assert await router.fetch("SELECT 1 AS n", role="writer") == [(1,)], "not as the call before"


async def test_fetchmany_returns_the_rows_of_all(shared: LocalCluster, table: str) -> None:
    insert = f"INSERT INTO {table} VALUES (%s) RETURNING number"
    async with AsyncRouter(shared.dsn) as router:
        assert await router.fetchmany(insert, iter([(1,), (2,)]), role="writer") == [(1,), (2,)]
        query = f"SELECT number FROM {table} WHERE number >= %(least)s ORDER BY number"
        rows = await router.fetchmany(
            query, [{"least": 2}, {"least": 9}, {"least": 1}], role="writer", row_factory=scalar_row
        )
        assert rows == [2, 1, 2]
        assert await router.fetchmany(insert, [], role="writer") == []
        assert await router.fetchmany(f"DELETE FROM {table} WHERE number = %s", [[1]], role="writer") == []
        assert await router.fetchmany("SELECT pg_is_in_recovery(), %s::int", [[1]]) == [(True, 1)]
        with pytest.raises(psycopg.errors.UniqueViolation):
            await router.fetchmany(insert, [(3,), (2,)], role="writer")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await router.fetchmany(insert, [(3,)])
        with pytest.raises(ConfigError, match="invalid row_factory 1"):
            await router.fetchmany(insert, [(3,)], row_factory=1)  # type: ignore[call-overload]
    assert numbers(shared, table) == [2]


async def test_session_after_it_begins_its_transaction_as_ever(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE_CONNECTION) as router:
        await router.execute(f"INSERT INTO {table} VALUES (1)")
        with pytest.raises(ZeroDivisionError):
            async with router.writer() as conn:
                assert not conn.autocommit
                await conn.execute(f"INSERT INTO {table} VALUES (2)")
                raise ZeroDivisionError
        assert await router.execute("VACUUM") == "VACUUM", "it is not in a transaction block"
    assert numbers(shared, table) == [1]


@pytest.mark.parametrize(
    "query",
    ["INSERT INTO {} VALUES (8); INSERT INTO {} VALUES (9)", "SELECT 1; BEGIN; INSERT INTO {} VALUES (9)"],
)
async def test_several_statements_are_refused(shared: LocalCluster, table: str, query: str) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE_CONNECTION) as router:
        for call in (router.execute, router.fetch, router.fetchrow, router.fetchval):
            with pytest.raises(psycopg.errors.SyntaxError, match="multiple commands"):
                await call(query.format(table, table), role="writer")
            with pytest.raises(psycopg.errors.SyntaxError, match="multiple commands"):
                await call(query.format(table, table), (), role="writer")
        assert await router.execute("SELECT %s, ';'", [1]) == "SELECT 1"
    assert numbers(shared, table) == []


@pytest.mark.parametrize("query", ["BEGIN", "START TRANSACTION READ ONLY"])
async def test_transaction_that_is_begun_is_refused(shared: LocalCluster, query: str) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE_CONNECTION) as router:
        with pytest.raises(psycopg.ProgrammingError, match="the query began a transaction"):
            await router.execute(query)
        assert (
            await router.fetchval("SELECT count(*) FROM pg_database WHERE datname = 'nobody'", role="writer")
            == 0
        )


async def test_bad_arguments_are_refused(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(ConfigError, match="invalid role 'both'"):
            await router.execute("SELECT 1", role="both")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="invalid timeout -1"):
            await router.fetch("SELECT 1", timeout=-1)
        with pytest.raises(ConfigError, match="invalid column 1: expected a number below 1"):
            await router.fetchval("SELECT 1", column=1)
        with pytest.raises(ConfigError, match="invalid column 1") as caught:
            await router.fetchval("SELECT 1", column=1, role="writer")
        assert caught.value.__notes__ == ["the statement was committed"]
        with pytest.raises(ConfigError, match="invalid row_factory 'dict_row'"):
            await router.fetch("SELECT 1", row_factory="dict_row")  # type: ignore[call-overload]
        with pytest.raises(ConfigError, match="invalid row_factory 1"):
            await router.fetchrow("SELECT 1", row_factory=1)  # type: ignore[call-overload]
        with pytest.raises(ConfigError, match="invalid column -1"):
            await router.fetchval("SELECT 1", column=-1)
        with pytest.raises(ConfigError, match="invalid once"):
            await router.execute("SELECT 1", once=b"key")  # type: ignore[arg-type]
        anything: Any = router
        for query in (5, None, ["SELECT 1"]):
            for method in (anything.execute, anything.fetch, anything.fetchrow, anything.fetchval):
                with pytest.raises(ConfigError, match="invalid query"):
                    await method(query)
            for method in (anything.executemany, anything.fetchmany):
                with pytest.raises(ConfigError, match="invalid query"):
                    await method(query, [])
        with pytest.raises(ConfigError, match="invalid query 'int'"):
            await anything.execute(5, once="key")
        for params in (5, "ab", b"ab", {1}):
            with pytest.raises(ConfigError, match="invalid params"):
                await anything.fetch("SELECT %s", params)
        for params_seq in (5, None, [5], ["ab"], {"a": 1}):
            for method in (anything.executemany, anything.fetchmany):
                with pytest.raises(ConfigError, match="invalid params_seq"):
                    await method("SELECT %s", params_seq)
        with pytest.raises(psycopg.ProgrammingError, match="COPY"):
            await router.execute("COPY pg_database TO STDOUT", role="reader")
        with pytest.raises(psycopg.ProgrammingError):
            await router.execute("SELECT %s", [object()])
        assert await router.fetchval("SELECT 1") == 1
    with pytest.raises(RouterClosed):
        await router.execute("SELECT 1")


async def test_errors_of_the_server_pass_through(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn) as router:
        await router.execute(f"INSERT INTO {table} VALUES (1)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            await router.execute(f"INSERT INTO {table} VALUES (1)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            await router.executemany(f"INSERT INTO {table} VALUES (%s)", [(2,), (1,)])
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await router.fetch(f"INSERT INTO {table} VALUES (3) RETURNING number")
    assert numbers(shared, table) == [1]


async def test_deadlocks_and_serialization_failures_are_run_again(shared: LocalCluster, table: str) -> None:
    shared.nodes[0].execute(f"INSERT INTO {table} VALUES (0)")
    settings = PoolOptions(settings={"default_transaction_isolation": "repeatable read"})

    async def count(router: AsyncRouter[Any]) -> None:
        for _ in range(20):
            await router.execute(f"UPDATE {table} SET number = number + 1")

    async with AsyncRouter(shared.dsn, writer=settings) as router, AsyncBackground() as background:
        for handle in [background.start(count, router) for _ in range(4)]:
            await handle.result()
    assert numbers(shared, table) == [80]


@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_procedure_that_has_committed_a_part_is_not_run_again(
    shared: LocalCluster, table: str, code: str
) -> None:
    insert = f"INSERT INTO {table} SELECT count(*) FROM {table}"
    block = f"DO $$ BEGIN {insert}; COMMIT; RAISE EXCEPTION USING ERRCODE = '{code}'; END $$"
    async with AsyncRouter(shared.dsn, writer=ONE_CONNECTION) as router:
        for query in (block, block.encode(), sql.SQL("/* ; */") + sql.SQL(block)):
            with pytest.raises(psycopg.errors.lookup(code)) as caught:
                await router.execute(query)
            assert "not run again: it may have committed a part of its work" in caught.value.__notes__[0]
    assert numbers(shared, table) == [0, 1, 2]


async def test_writes_beside_the_transaction_that_surrounds_them_are_refused(
    shared: LocalCluster, table: str
) -> None:
    insert = f"INSERT INTO {table} VALUES (1)"
    async with AsyncRouter(shared.dsn) as router:

        async def body(conn: psycopg.AsyncConnection[Any]) -> None:
            calls: list[Any] = [
                lambda: router.execute(insert),
                lambda: router.executemany(insert, [()]),
                lambda: router.fetch(f"{insert} RETURNING number", role="writer"),
                lambda: router.copy_to_table(table, [(1,)]),
                lambda: router.copy_rows(f"{insert} RETURNING number", role="writer").__aenter__(),
            ]
            for call in calls:
                with pytest.raises(psycopg.ProgrammingError, match="within the body of another"):
                    await call()
            assert await router.fetchval("SELECT 1") == 1, "a reader's do not matter"

        await router.run(body)
        assert await router.execute(insert) == "INSERT 0 1"


async def test_isolation_level_of_the_connection_applies(shared: LocalCluster, table: str) -> None:
    async def configure(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)

    def broken(cursor: Any) -> Any:
        raise ZeroDivisionError

    async with AsyncRouter(shared.dsn, configure=configure, writer=ONE_CONNECTION, retry=ONCE_ONLY) as router:
        assert await router.fetchval("SHOW transaction_isolation", role="writer") == "serializable"
        assert await router.execute(f"INSERT INTO {table} VALUES (1)") == "INSERT 0 1"
        insert = f"INSERT INTO {table} VALUES (2) RETURNING number"
        with pytest.raises(ZeroDivisionError) as caught:
            await router.fetch(insert, role="writer", row_factory=broken)
        assert not hasattr(caught.value, "__notes__")
        with pytest.raises(SessionLost, match="was lost"):
            await router.execute(DIE.replace("SELECT", f"INSERT INTO {table} SELECT 3 WHERE"))
    assert numbers(shared, table) == [1]


# Round trips.


async def _writer(router: AsyncRouter[Any]) -> None:
    async with router.writer() as conn:
        await conn.execute("SELECT 1")


async def _body(conn: psycopg.AsyncConnection[Any]) -> None:
    await conn.execute("SELECT 1")


KEYS = itertools.count()
TRIPS: dict[str, tuple[int, Any]] = {
    "execute": (1, lambda router: router.execute("SELECT 1")),
    "execute with values": (1, lambda router: router.execute("SELECT %s", [1])),
    "fetchval": (1, lambda router: router.fetchval("SELECT 1")),
    "execute with a key": (3, lambda router: router.execute("SELECT 1", once=f"key {next(KEYS)}")),
    "writer": (3, _writer),
    "run": (3, lambda router: router.run(_body)),
    "run with a key": (3, lambda router: router.run(_body, once=f"key {next(KEYS)}")),
    "causal run": (3, lambda router: router.causal().run(_body)),
    "causal run with a key": (3, lambda router: router.causal().run(_body, once=f"key {next(KEYS)}")),
}


@pytest.mark.parametrize("kind", TRIPS)
async def test_round_trips_are_a_contract(pair: Proxied, kind: str) -> None:
    trips, call = TRIPS[kind]
    with ExitStack() as stack:
        taps = [stack.enter_context(Wiretap(node)) for node in pair.cluster.nodes]
        dsn = dsn_of(tuple(taps))
        options = PoolOptions(max_size=1)
        unprepared = {"prepare_threshold": None}  # preparing a statement takes a round trip
        async with AsyncRouter(dsn, writer=options, reader=options, kwargs=unprepared) as router:
            await call(router)  # opens connections, and looks at the tables of the keys once
            for tap in taps:
                tap.take()
            await call(router)
            assert sum(tap.round_trips() for tap in taps) == trips


# Lost connections.


async def test_read_that_is_lost_is_run_again(proxied: Proxied) -> None:
    async with AsyncRouter(proxied.dsn) as router:
        for proxy in proxied.proxies:
            proxy.when(b"SELECT 'lost'", action="reset")
        assert await router.fetchval("SELECT 'lost'") == "lost"


async def test_read_that_is_lost_each_time_is_a_lost_session(proxied: Proxied) -> None:
    async with AsyncRouter(proxied.dsn, retry=ONCE_ONLY) as router:
        with pytest.raises(SessionLost) as caught:
            await router.fetch(DIE)
    assert caught.value.rerun_safe


async def test_write_that_is_lost_may_have_been_committed(proxied: Proxied) -> None:
    proxied.cluster.nodes[0].execute("CREATE TABLE written (number int)")
    async with AsyncRouter(proxied.dsn) as router:
        proxied.proxies[0].when(b"INSERT INTO written", action="reset")
        with pytest.raises(
            CommitUnknown, match="lost during the statement: it may have been committed"
        ) as caught:
            await router.execute("INSERT INTO written VALUES (1)")
        assert caught.value.may_have_committed
        assert not caught.value.rerun_safe
        with pytest.raises(CommitUnknown):
            await router.fetch(DIE, role="writer")
        assert await router.execute("INSERT INTO written VALUES (2)") == "INSERT 0 1"


async def test_write_with_a_key_is_applied_once(pair: Proxied) -> None:
    node = pair.cluster.nodes[0]
    async with AsyncRouter(pair.dsn) as router:
        pair.proxies[0].when(b"COMMIT", action="reset")
        tag = await router.execute("UPDATE counter SET value = value + 1", once="direct")
        assert (
            tag == await router.execute("UPDATE counter SET value = value + 1", once="direct") == "UPDATE 1"
        )
    assert node.execute("SELECT value FROM counter") == [(1,)]


async def test_commit_that_no_standby_confirms_is_unknown(pair: Proxied) -> None:
    primary, standby = pair.cluster.nodes
    async with AsyncRouter(pair.cluster.dsn) as router, AsyncBackground() as background:
        await router.wait()
        await async_call(standby.freeze)
        handle = background.start(router.execute, "UPDATE counter SET value = value + 1")
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        [(pid,)] = await async_eventually(lambda: primary.execute(waiting))
        primary.execute("SELECT pg_cancel_backend(%s)", [pid])
        with pytest.raises(CommitUnknown, match="committed locally"):
            await handle.result()
        query = "UPDATE counter SET value = value + 1 RETURNING 'infinity'::date"
        handle = background.start(_fetch_from_writer, router, query)
        [(pid,)] = await async_eventually(lambda: primary.execute(waiting))
        primary.execute("SELECT pg_cancel_backend(%s)", [pid])
        with pytest.raises(psycopg.DataError) as caught:
            await handle.result()
        told = "the statement was committed, but no synchronous standby has confirmed it"
        assert caught.value.__notes__ == [told]


async def _fetch_from_writer(router: AsyncRouter[Any], query: str) -> Any:
    return await router.fetch(query, role="writer")


async def test_statements_go_on_through_a_failover(breakable: Proxied) -> None:
    breakable.cluster.nodes[0].execute("CREATE TABLE written (number int)")
    breakable.cluster.catch_up()
    async with AsyncRouter(breakable.dsn) as router:
        assert await router.execute("INSERT INTO written VALUES (1)") == "INSERT 0 1"
        await async_call(breakable.cluster.nodes[0].kill)
        await async_call(breakable.cluster.promote)
        assert await router.execute("INSERT INTO written VALUES (2)") == "INSERT 0 1"
        assert await router.fetchval("SELECT count(*) FROM written", role="writer") in (1, 2)


async def test_error_of_the_row_factory_tells_that_the_statement_was_committed(
    shared: LocalCluster, table: str
) -> None:
    def broken(cursor: Any) -> Any:
        raise ZeroDivisionError

    async with AsyncRouter(shared.dsn, kwargs={"row_factory": broken}, writer=ONE_CONNECTION) as router:
        with pytest.raises(ZeroDivisionError) as caught:
            await router.fetch(f"INSERT INTO {table} VALUES (1) RETURNING number", role="writer")
        assert caught.value.__notes__ == ["the statement was committed"]
        assert await router.fetchval("SELECT 1", role="writer") == 1
    assert numbers(shared, table) == [1]


async def test_value_that_cannot_be_loaded_tells_that_the_statement_was_committed(
    shared: LocalCluster, table: str
) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE_CONNECTION) as router:
        query = f"INSERT INTO {table} SELECT count(*) FROM {table} RETURNING 'infinity'::date"
        for call in (router.fetch, router.fetchrow, router.fetchval):
            with pytest.raises(psycopg.DataError) as caught:
                await call(query, role="writer")
            assert caught.value.__notes__ == ["the statement was committed"]
    assert numbers(shared, table) == [0, 1, 2]


async def test_statement_that_cannot_be_sent_is_not_said_to_be_committed(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE_CONNECTION) as router:
        for query, params in (
            ("SELECT '\udc80'", None),
            ("SELECT %s", ["\udc80"]),
            ("SELECT %s", [object()]),
        ):
            with pytest.raises((UnicodeEncodeError, psycopg.ProgrammingError)) as caught:
                await router.execute(query, params)
            assert "committed" not in str(getattr(caught.value, "__notes__", ""))
        assert await router.fetchval("SELECT 1", role="writer") == 1


# async-only: begin
async def test_cancelled_statement_tells_that_it_may_have_been_committed(
    shared: LocalCluster, table: str
) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE_CONNECTION) as router:
        task = asyncio.create_task(
            router.fetch(f"INSERT INTO {table} SELECT 1 FROM pg_sleep(30)", role="writer")
        )
        await async_eventually(
            lambda: shared.nodes[0].execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        )
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.__notes__ == ["interrupted during the statement: it may have been committed"]
        assert await router.fetchval("SELECT 1", role="writer") == 1
    assert numbers(shared, table) == []


# async-only: end
