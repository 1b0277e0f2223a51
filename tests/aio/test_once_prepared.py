"""Statements for keys are prepared where psycopg would prepare them, and nothing depends on that."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
import tenacity

from pgroute import AsyncRouter, PoolOptions, RetryPolicy
from tests.aio.conftest import Proxied
from tests.aio.counting import INCREMENT, Increment, counted, start_after
from tests.aio.test_pooler import PROGRAM, pooler
from tests.support import AsyncBackground, async_call, eventually

pytestmark = pytest.mark.cluster

AT_ONCE = {"prepare_threshold": 0}
ONE = PoolOptions(max_size=1)
OURS = "SELECT count(*)::int FROM pg_prepared_statements WHERE name LIKE 'pgroute%'"


async def ours(router: AsyncRouter[Any]) -> int:
    """Return how many statements of ours are prepared on the only connection."""
    async with router.writer() as conn:
        [count] = await (await conn.execute(OURS, prepare=False)).fetchone() or (-1,)
    return int(count)


def remove(conn: psycopg.AsyncConnection[Any]) -> None:
    """Remove our statements without psycopg's knowledge."""
    names = conn.pgconn.exec_(b"SELECT name FROM pg_prepared_statements WHERE name LIKE 'pgroute%'")
    for row in range(names.ntuples):
        conn.pgconn.exec_(b"DEALLOCATE %b" % (names.get_value(row, 0) or b""))


async def removing(conn: psycopg.AsyncConnection[Any]) -> int:
    """Increment the counter, and remove our statements."""
    [value] = await (await conn.execute(INCREMENT)).fetchone() or (0,)
    remove(conn)
    return int(value)


async def test_they_are_prepared_after_as_many_keys_as_psycopg_would_wait_for(pair: Proxied) -> None:
    async with AsyncRouter(pair.dsn, writer=ONE, kwargs={"prepare_threshold": 2}) as router:
        prepared = []
        for number in range(4):
            assert await router.run(Increment(), once=f"key {number}") == number + 1
            prepared.append(await ours(router))
        assert prepared == [0, 0, 2, 2]
        assert [await router.run(Increment(), once=f"key {number}") for number in range(4)] == [1, 2, 3, 4]
    assert await counted(pair.cluster.primary) == (4, 4)


@pytest.mark.parametrize("result", [None, True, "it's", 1.5, ["ü", None], {"a": {"b": 1}}])
async def test_results_are_stored_as_ever(pair: Proxied, result: Any) -> None:
    async with AsyncRouter(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:

        async def body(conn: psycopg.AsyncConnection[Any]) -> Any:
            await conn.execute(INCREMENT)
            return result

        assert [await router.run(body, once="it's a \\ key ü") for _ in range(2)] == [result, result]
        assert await ours(router) == 2
    assert await counted(pair.cluster.primary) == (1, 1)


@pytest.mark.parametrize(
    ("kwargs", "writer"),
    [({"prepare_threshold": None}, ONE), (AT_ONCE, PoolOptions(max_size=1, reset="discard"))],
    ids=["without a threshold", "where each session ends with DISCARD ALL"],
)
async def test_none_are_prepared(pair: Proxied, kwargs: dict[str, Any], writer: PoolOptions) -> None:
    async with AsyncRouter(pair.dsn, writer=writer, kwargs=kwargs) as router:
        for number in range(8):
            assert await router.run(Increment(), once=f"key {number}") == number + 1
            assert await ours(router) == 0


async def fail(router: AsyncRouter[Any]) -> None:
    """Have a session roll back, after which psycopg removes all that is prepared."""
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with router.writer() as conn:
            await conn.execute("SELECT 1")
            await conn.execute("SELECT 1/0")


async def deallocate(router: AsyncRouter[Any]) -> None:
    async with router.writer() as conn:
        await conn.execute("DEALLOCATE ALL")


async def drop(router: AsyncRouter[Any]) -> None:
    async with router.writer() as conn:
        await conn.execute("CREATE TEMP TABLE short_lived ()")
        await conn.execute("DROP TABLE short_lived")


@pytest.mark.parametrize("end", [fail, deallocate, drop])
async def test_what_a_session_has_removed_is_prepared_anew(pair: Proxied, end: Any) -> None:
    async with AsyncRouter(pair.dsn, writer=ONE, kwargs={"prepare_threshold": 1}) as router:
        for number in range(4):
            assert await router.run(Increment(), once=f"key {number}") == number + 1
        assert await ours(router) == 2
        await end(router)
        assert await ours(router) == 0
        prepared = []
        for number in range(4, 7):
            body = Increment()
            assert await router.run(body, once=f"key {number}") == number + 1
            assert body.runs == 1
            prepared.append(await ours(router))
        assert prepared == [0, 2, 2]
    assert await counted(pair.cluster.primary) == (7, 7)


STATEMENTS = ["SAVEPOINT a; ROLLBACK TO a", "CREATE TEMP TABLE w (); DROP TABLE w", "DEALLOCATE ALL"]


@pytest.mark.parametrize("statements", STATEMENTS)
async def test_a_body_after_which_psycopg_removes_them_is_run_once(pair: Proxied, statements: str) -> None:
    async def body(conn: psycopg.AsyncConnection[Any]) -> int:
        [value] = await (await conn.execute(INCREMENT)).fetchone() or (0,)
        for statement in statements.split("; "):
            await conn.execute(statement)
        runs.append(conn)
        return int(value)

    runs: list[object] = []
    once = RetryPolicy(stop=tenacity.stop_after_attempt(1))
    async with AsyncRouter(pair.dsn, writer=ONE, kwargs=AT_ONCE, retry=once) as router:
        for number in range(3):
            assert await router.run(body, once=f"key {number}") == number + 1
    assert len(runs) == 3
    assert await counted(pair.cluster.primary) == (3, 3)


async def test_what_is_gone_without_a_word_is_missed_at_the_next_key(pair: Proxied) -> None:
    async with AsyncRouter(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:
        assert await router.run(Increment(), once="first") == 1
        async with router.writer() as conn:
            remove(conn)
        body = Increment()
        assert await router.run(body, once="second") == 2
        assert body.runs == 1
        assert await ours(router) == 0
    assert await counted(pair.cluster.primary) == (2, 2)


async def test_a_body_that_removes_them_without_a_word_is_run_again_once(pair: Proxied) -> None:
    async with AsyncRouter(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:
        runs = []

        async def body(conn: psycopg.AsyncConnection[Any]) -> int:
            runs.append(conn)
            return await removing(conn)

        assert await router.run(body, once="first") == 1
        assert len(runs) == 2
        assert await router.run(body, once="second") == 2
        assert len(runs) == 3
    assert await counted(pair.cluster.primary) == (2, 2)


async def test_a_router_that_misses_them_often_prepares_no_more(pair: Proxied) -> None:
    async with AsyncRouter(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:
        for number in range(5):
            assert await router.run(removing, once=f"key {number}") == number + 1
            await router.expire("writer")
        assert await router.run(Increment(), once="last") == 6
        assert await ours(router) == 0


async def test_one_that_psycopg_has_removed_to_make_room_is_prepared_anew(pair: Proxied) -> None:
    async with AsyncRouter(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:
        assert await router.run(Increment(), once="first") == 1
        async with router.writer() as conn:
            conn.prepared_max = 4
            for number in range(4):
                await conn.execute(f"SELECT {number}")
            conn.prepared_max = 100
        for number in range(2, 4):
            body = Increment()
            assert await router.run(body, once=f"key {number}") == number
            assert body.runs == 1
        assert await ours(router) == 2
        assert router._manager.unprepared == 0
    assert await counted(pair.cluster.primary) == (3, 3)


async def test_an_error_of_that_kind_from_the_users_own_trigger_is_raised(pair: Proxied) -> None:
    node = pair.cluster.primary
    trigger = """
        CREATE FUNCTION pg_temp_like() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = '26000'; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON counter DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION pg_temp_like()"""
    await async_call(node.execute, trigger)
    try:
        async with AsyncRouter(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:
            body = Increment()
            with pytest.raises(psycopg.errors.InvalidSqlStatementName, match="mine"):
                await router.run(body, once="key")
            assert body.runs == 1
    finally:
        await async_call(node.execute, "DROP FUNCTION pg_temp_like CASCADE")
    assert await counted(node) == (0, 0)


async def test_without_another_attempt_a_body_that_removes_them_without_a_word_leaves_nothing(
    pair: Proxied,
) -> None:
    async with AsyncRouter(
        pair.dsn, writer=ONE, kwargs=AT_ONCE, retry=RetryPolicy(stop=tenacity.stop_after_attempt(1))
    ) as router:
        with pytest.raises(psycopg.errors.InvalidSqlStatementName) as caught:
            await router.run(removing, once="key")
        assert any("set prepare_threshold=None" in note for note in caught.value.__notes__)
        assert await counted(pair.cluster.primary) == (0, 0)
        assert await router.run(removing, once="key") == 1
    assert await counted(pair.cluster.primary) == (1, 1)


async def test_a_name_that_is_taken_is_left_alone(pair: Proxied) -> None:
    async with AsyncRouter(pair.dsn, writer=PoolOptions(max_size=2), kwargs=AT_ONCE) as router:
        await router.run(Increment(), once="first")
        async with router.writer() as conn, router.writer() as other:
            names = await (await conn.execute("SELECT name FROM pg_prepared_statements")).fetchall()
            names += await (await other.execute("SELECT name FROM pg_prepared_statements")).fetchall()
        [name] = [name for (name,) in names if name.startswith("pgroute_keep")]
    async with AsyncRouter(pair.dsn, writer=ONE, kwargs=AT_ONCE) as router:
        async with router.writer() as conn:
            await conn.execute(f"PREPARE {name} AS SELECT 1", prepare=False)
        body = Increment()
        assert await router.run(body, once="second") == 2
        assert body.runs == 1
    assert await counted(pair.cluster.primary) == (2, 2)


async def test_a_wait_for_another_transaction_is_cancelled_and_begun_again(pair: Proxied) -> None:
    async with AsyncRouter(pair.dsn, kwargs=AT_ONCE) as router, AsyncBackground() as background:
        before, after = await start_after(pair.cluster.primary, router, background)
        await async_call(_until_bounded, pair)
        before.over.set()
        assert await after.result() == 1
        assert await router.run(Increment(), once="another") == 2
    assert await counted(pair.cluster.primary) == (2, 2)


def _until_bounded(pair: Proxied) -> None:
    sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%lock_timeout%' AND wait_event = 'transactionid'"
    eventually(lambda: pair.cluster.primary.execute(sql))


@pytest.mark.skipif(PROGRAM is None, reason="the pgbouncer program is not installed")
async def test_behind_a_pooler_that_does_not_keep_them_each_key_is_applied_once(pair: Proxied) -> None:
    async def body(conn: psycopg.AsyncConnection[Any]) -> int:
        cursor = await conn.execute(INCREMENT, prepare=False)
        [value] = await cursor.fetchone() or (0,)
        return int(value)

    async def call(router: AsyncRouter[Any], key: str) -> int:
        value: int = await router.run(body, once=key)
        return value

    with ExitStack() as stack:
        port = stack.enter_context(pooler(pair.cluster.primary))
        dsn = f"host={pair.cluster.primary.host} port={port} dbname={pair.cluster.dbname} user=postgres"
        for _ in range(2):  # the second one finds what the first has left on the server's connections
            async with (
                AsyncRouter(dsn, writer=PoolOptions(max_size=4), kwargs=AT_ONCE) as router,
                AsyncBackground() as background,
            ):
                calls = [background.start(call, router, f"key {number % 10}") for number in range(40)]
                values = [await call.result() for call in calls]
        assert sorted(set(values)) == list(range(1, 11))
    assert await counted(pair.cluster.primary) == (10, 10)
