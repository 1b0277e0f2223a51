"""Bodies, loops and policies that go wrong in ways that are easily overlooked."""

from __future__ import annotations

import asyncio  # async-only
import contextlib
import logging  # async-only
import math
import time
from typing import Any

import psycopg
import pytest
import tenacity

from pgroute import (
    AsyncRouter,
    CommitUnknown,
    ConfigError,
    NoHostAvailable,
    PoolOptions,
    RetryPolicy,
    SessionLost,
)
from pgroute.testing import LocalCluster
from tests.aio.conftest import Proxied
from tests.aio.counting import Increment, waiting
from tests.support import AsyncBackground, async_call, async_eventually, within

pytestmark = pytest.mark.cluster

AsyncConnection = psycopg.AsyncConnection[Any]

DIE = "SELECT pg_terminate_backend(pg_backend_pid())"
ONE_CONNECTION = PoolOptions(max_size=1)


async def die_unnoticed(conn: AsyncConnection) -> None:
    with contextlib.suppress(psycopg.OperationalError):
        await conn.execute(DIE)


async def one(conn: AsyncConnection, sql: str) -> Any:
    row = await (await conn.execute(sql)).fetchone()
    assert row is not None
    return row[0]


def numbers(cluster: LocalCluster, table: str) -> list[int]:
    return [row[0] for row in cluster.primary.execute(f"SELECT number FROM {table} ORDER BY number")]


@pytest.fixture
def written(proxied: Proxied) -> Proxied:
    """A cluster behind proxies, with a table."""
    proxied.cluster.primary.execute("CREATE TABLE written (number int)")
    return proxied


# The end of a transaction.


async def test_a_serialization_failure_at_commit_is_run_again(shared: LocalCluster, table: str) -> None:
    runs: list[int] = []

    async def write(conn: AsyncConnection, other: AsyncConnection) -> None:
        runs.append(len(runs))
        await one(conn, f"SELECT count(*) FROM {table}")
        await conn.execute(f"INSERT INTO {table} VALUES (%s)", (len(runs),))
        if len(runs) == 1:
            await one(other, f"SELECT count(*) FROM {table}")
            await other.execute(f"INSERT INTO {table} VALUES (10)")
            await other.commit()

    conn = await psycopg.AsyncConnection.connect(shared.primary.conninfo)
    async with conn as other, AsyncRouter(shared.dsn) as router:
        await other.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        await router.run(write, other, isolation="serializable")
    assert runs == [0, 1]
    assert numbers(shared, table) == [2, 10]


async def test_rollback_of_a_transaction_around_the_body_is_let_out(shared: LocalCluster) -> None:
    async def leave(_: AsyncConnection, around: Any) -> None:
        raise psycopg.Rollback(around)

    async with AsyncRouter(shared.dsn) as router, AsyncRouter(shared.dsn) as other, other.writer() as conn:
        with pytest.raises(psycopg.Rollback):
            await router.run(leave, conn.transaction())


@pytest.mark.parametrize("once", [None, "rolled back in the end"])
async def test_the_result_of_an_attempt_that_failed_is_not_reported(
    written: Proxied, once: str | None
) -> None:
    runs: list[int] = []

    async def charge(conn: AsyncConnection) -> str:
        runs.append(1)
        if len(runs) > 1:
            raise psycopg.Rollback
        await conn.execute("INSERT INTO written VALUES (1)")
        await die_unnoticed(conn)
        return "charged"

    async with AsyncRouter(written.dsn) as router:
        await router.install()
        assert await router.run(charge, once=once) is None
    assert len(runs) == 2
    assert numbers(written.cluster, "written") == []


@pytest.mark.parametrize(
    "sql", ["\n        -- now\n        /* really */ COMMIT", "SELECT 1; END", "ROLLBACK"]
)
async def test_an_end_of_the_bodys_own_is_noticed_however_it_is_written(
    shared: LocalCluster, table: str, sql: str
) -> None:
    runs: list[int] = []

    async def body(conn: AsyncConnection) -> None:
        runs.append(1)
        await conn.execute(f"INSERT INTO {table} VALUES (%s)", (len(runs),))
        await conn.execute(sql.encode())
        if len(runs) == 1:
            await conn.execute(DIE)

    async with AsyncRouter(shared.dsn, writer=ONE_CONNECTION) as router:
        with pytest.raises(psycopg.OperationalError) as caught:
            await router.run(body)
        assert "not run again" in str(caught.value.__notes__)
        with pytest.raises(psycopg.ProgrammingError, match="of its own"):
            await router.run(body)
        assert await router.run(one, "SELECT 1") == 1
    assert numbers(shared, table) == ([] if sql == "ROLLBACK" else [1, 2])


async def test_savepoints_of_the_body_are_no_end(shared: LocalCluster, table: str) -> None:
    async def body(conn: AsyncConnection) -> None:
        await conn.execute("SAVEPOINT s")
        await conn.execute(f"INSERT INTO {table} VALUES (1)")
        await conn.execute("ROLLBACK TO SAVEPOINT s")
        await conn.execute("ROLLBACK WORK TO s")
        with contextlib.suppress(psycopg.DataError):
            async with conn.transaction():
                await conn.execute("SELECT 1/0")
        await conn.execute(f"INSERT INTO {table} VALUES (2)")

    async with AsyncRouter(shared.dsn) as router:
        await router.run(body)
    assert numbers(shared, table) == [2]


async def test_a_pipeline_left_open_is_no_success(shared: LocalCluster, table: str) -> None:
    left: list[Any] = []

    async def body(conn: AsyncConnection) -> str:
        left.append(conn.pipeline())
        pipeline = await left[0].__aenter__()
        await conn.execute(f"INSERT INTO {table} VALUES (1)")
        await pipeline.sync()
        return "done"

    async with AsyncRouter(shared.dsn, writer=ONE_CONNECTION) as router:
        with pytest.raises(psycopg.ProgrammingError, match="pipeline"):
            await router.run(body)
        assert await router.run(one, "SELECT 1") == 1
    assert numbers(shared, table) == []


async def test_a_pipeline_within_the_body_is_fine(shared: LocalCluster, table: str) -> None:
    async def body(conn: AsyncConnection) -> None:
        async with conn.pipeline():
            for number in range(3):
                await conn.execute(f"INSERT INTO {table} VALUES (%s)", (number,))

    async with AsyncRouter(shared.dsn) as router:
        await router.run(body)
    assert numbers(shared, table) == [0, 1, 2]


async def test_what_a_body_left_open_is_not_the_next_ones(shared: LocalCluster, table: str) -> None:
    left: list[Any] = []

    async def leave_open(conn: AsyncConnection) -> None:
        await conn.execute(f"INSERT INTO {table} VALUES (1)")
        left.append(conn.transaction())
        await left[0].__aenter__()

    async with AsyncRouter(shared.dsn, writer=ONE_CONNECTION) as router:
        with pytest.raises(psycopg.ProgrammingError, match=r"transaction\(\) of its own open"):
            await router.run(leave_open)
        assert await router.run(one, "SELECT 1") == 1
    assert numbers(shared, table) == []


async def test_unconfirmed_by_the_standby_is_unknown(pair: Proxied) -> None:
    primary, standby = pair.cluster.nodes
    # A server that is told to keep warnings to itself would not say so.
    options = PoolOptions(settings={"client_min_messages": "error"})
    async with AsyncRouter(pair.cluster.dsn, writer=options) as router, AsyncBackground() as background:
        await router.wait()
        await async_call(standby.freeze)
        handle = background.start(router.run, Increment())
        [(pid, _)] = await async_eventually(lambda: waiting(primary, "SyncRep"))
        primary.execute("SELECT pg_cancel_backend(%s)", [pid])
        with pytest.raises(CommitUnknown, match="committed locally"):
            await handle.result()


# Whose error it is.


async def test_the_advice_to_call_again_is_only_for_the_transaction_with_that_key(written: Proxied) -> None:
    async def pay(conn: AsyncConnection) -> None:
        await conn.execute("INSERT INTO written VALUES (1)")

    async with AsyncRouter(written.dsn) as inner, AsyncRouter(written.cluster.dsn) as outer:
        await outer.install()
        await inner.wait()
        written.proxies[0].when(b"COMMIT", action="reset")
        with pytest.raises(CommitUnknown) as caught:
            await outer.run(lambda _: inner.run(pay), once="outer")
    assert not any("outer" in note for note in caught.value.__notes__)


async def test_an_unknown_commit_of_another_session_is_never_swallowed(written: Proxied) -> None:
    runs: list[int] = []

    async def pay(conn: AsyncConnection) -> None:
        await conn.execute("INSERT INTO written VALUES (1)")

    async with AsyncRouter(written.dsn) as inner, AsyncRouter(written.cluster.dsn) as outer:
        await inner.wait()
        written.proxies[0].when(b"COMMIT", action="reset")

        async def body(conn: AsyncConnection) -> None:
            runs.append(1)
            await die_unnoticed(conn)
            await inner.run(pay)

        with pytest.raises(CommitUnknown):
            await outer.run(body)
    assert len(runs) == 1


async def test_nothing_is_called_safe_to_run_again_once_the_body_has_committed(shared: LocalCluster) -> None:
    async with AsyncRouter("host=127.0.0.1 port=1") as nowhere, AsyncRouter(shared.dsn) as router:

        async def body(conn: AsyncConnection) -> None:
            await conn.execute("COMMIT")
            await nowhere.run(one, "SELECT 1", timeout=0.1)

        with pytest.raises(NoHostAvailable) as caught:
            await router.run(body)
    assert not caught.value.rerun_safe


async def test_a_writer_is_refused_within_a_body_also_by_way_of_another_router(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router, AsyncRouter(shared.dsn) as other:

        async def middle(_: AsyncConnection) -> None:
            await router.run(one, "SELECT 1")

        async def body(_: AsyncConnection) -> None:
            await other.run(middle)

        with pytest.raises(psycopg.ProgrammingError, match="within the body of another"):
            await router.run(body)


async def test_a_key_within_its_own_body_is_refused_at_once(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        await router.install()

        async def body(_: AsyncConnection) -> None:
            await router.run(one, "SELECT 1", once="the same")

        begun = time.monotonic()
        with pytest.raises(psycopg.ProgrammingError, match="within its own body"):
            await router.run(body, once="the same")
        assert time.monotonic() - begun < within(5.0)


# Deadlines.


async def test_a_lock_of_the_table_of_keys_is_not_waited_for_longer_than_the_deadline(
    shared: LocalCluster,
) -> None:
    async with AsyncRouter(shared.dsn) as router:
        await router.install()
        conn = await psycopg.AsyncConnection.connect(shared.primary.conninfo)
        async with conn as other:
            await other.execute("LOCK TABLE pgroute.once IN SHARE ROW EXCLUSIVE MODE")
            begun = time.monotonic()
            with pytest.raises(CommitUnknown):
                await router.run(one, "SELECT 1", once="fresh", timeout=1.0)
            assert time.monotonic() - begun < within(10.0)


@pytest.mark.parametrize("once", [None, "frozen"])
async def test_a_frozen_only_host_does_not_hold_a_call_beyond_its_timeout(
    mended: LocalCluster, once: str | None
) -> None:
    primary = mended.primary
    async with AsyncRouter(primary.conninfo, probe=None) as router:
        await router.install()
        await async_call(primary.freeze)
        begun = time.monotonic()
        try:
            with pytest.raises(SessionLost, match="nothing was committed") as caught:
                await router.run(one, "SELECT 1", timeout=0.5, once=once)
            assert caught.value.rerun_safe
            assert "1 attempt in" in caught.value.__notes__[0]
            assert time.monotonic() - begun < within(10.0)
        finally:
            await async_call(primary.thaw)


async def test_a_wait_that_is_cancelled_from_outside_is_told_so(shared: LocalCluster) -> None:
    options = PoolOptions(settings={"statement_timeout": "200ms"})
    async with AsyncRouter(shared.dsn) as holder, AsyncRouter(shared.dsn, writer=options) as router:
        await holder.install()

        async def hold(_: AsyncConnection) -> None:
            with pytest.raises(CommitUnknown, match=r"statement timeout") as caught:
                await router.run(one, "SELECT 1", once="held")
            assert "call again with once='held'" in "".join(caught.value.__notes__)

        await holder.run(hold, once="held")


@pytest.mark.parametrize(
    "policy",
    [
        RetryPolicy(wait=lambda _: math.nan),
        RetryPolicy(wait=lambda _: math.inf),
        RetryPolicy(wait=lambda _: None),  # type: ignore[arg-type,return-value]
        RetryPolicy(wait=lambda _: 1 / 0),
        RetryPolicy(stop=tenacity.stop_after_attempt("x")),  # type: ignore[arg-type]
    ],
)
async def test_a_policy_that_makes_no_sense_ends_the_attempts_with_the_real_error(
    shared: LocalCluster, policy: RetryPolicy
) -> None:
    async with AsyncRouter(shared.dsn, retry=policy) as router:
        with pytest.raises(psycopg.OperationalError) as caught:
            await router.run(one, DIE)
    assert "the retry policy failed: " in caught.value.__notes__[0]


# Loops and bodies.


async def leave_by_return(router: AsyncRouter[Any], table: str) -> str:
    async for attempt in router.attempts():
        async with attempt as conn:
            await conn.execute(f"INSERT INTO {table} VALUES (1)")
            await die_unnoticed(conn)
            return "done"
    return "not reached"


async def test_a_loop_left_in_an_attempt_that_failed_is_told_aloud(
    shared: LocalCluster, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncRouter(shared.dsn) as router:
        with pytest.warns(ResourceWarning, match="NOTHING of it was committed"):
            await leave_by_return(router, table)
    assert "NOTHING of it was committed" in caplog.text
    assert numbers(shared, table) == []


async def test_attempts_serve_for_one_loop(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        attempts = router.attempts()
        async for attempt in attempts:
            async with attempt:
                pass
        with pytest.raises(RuntimeError, match="one loop"):
            async for _ in attempts:
                pass


async def test_an_attempt_is_left_only_after_it_was_entered(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        async for attempt in router.attempts():
            with pytest.raises(RuntimeError, match="not entered"):
                await attempt.__aexit__(None, None, None)
            async with attempt:
                with pytest.raises(RuntimeError, match="can be used once"):
                    await attempt.__aenter__()
            with pytest.raises(RuntimeError, match="ended already"):
                await attempt.__aexit__(None, None, None)


async def test_attempts_take_a_policy_and_a_timeout(shared: LocalCluster) -> None:
    twice = RetryPolicy(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_none())
    for given, most in (({"retry": twice}, 2), ({"timeout": 0.2}, 50)):
        runs = 0
        async with AsyncRouter(shared.dsn) as router:
            await router.wait()
            with pytest.raises(psycopg.OperationalError):
                async for attempt in router.attempts(**given):
                    async with attempt as conn:
                        runs += 1
                        await conn.execute(DIE)
        assert 1 <= runs <= most


async def test_the_connection_of_a_body_may_have_a_wait_of_its_own(shared: LocalCluster) -> None:
    async def configure(conn: AsyncConnection) -> None:
        conn.wait = conn.wait  # type: ignore[method-assign]

    async with AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1, configure=configure)) as router:
        async with router.writer() as conn:
            before = vars(conn)["wait"]
        await router.run(one, "SELECT 1")
        async with router.writer() as conn:
            assert vars(conn)["wait"] is before


@pytest.mark.parametrize("lazy", [map, filter])
async def test_lazy_iterators_are_refused(shared: LocalCluster, table: str, lazy: Any) -> None:
    async def body(conn: AsyncConnection) -> Any:
        return lazy(conn.execute, [f"INSERT INTO {table} VALUES (1)"])

    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(ConfigError, match="was rolled back"):
            await router.run(body)


async def test_a_key_that_the_connection_cannot_send_is_refused(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, kwargs={"client_encoding": "latin1"}) as router:
        await router.install()
        with pytest.raises(ConfigError, match="can send"):
            await router.run(one, "SELECT 1", once="snow \N{SNOWMAN}")


# async-only: begin
async def test_a_task_that_a_body_returns_writes_nothing_later(shared: LocalCluster, table: str) -> None:
    async def later(conn: AsyncConnection) -> None:
        await asyncio.sleep(0.05)
        await conn.execute(f"INSERT INTO {table} VALUES (1)")

    tasks: list[asyncio.Task[None]] = []

    async def body(conn: AsyncConnection) -> asyncio.Task[None]:
        tasks.append(asyncio.get_running_loop().create_task(later(conn)))
        return tasks[0]

    async def wait(_: AsyncConnection) -> None:
        await asyncio.wait(tasks)  # it would write in this transaction

    async with AsyncRouter(shared.dsn, writer=ONE_CONNECTION) as router:
        with pytest.raises(ConfigError, match="returned a Task"):
            await router.run(body)
        await router.run(wait)
        assert tasks[0].cancelled()
    assert numbers(shared, table) == []


async def test_interrupted_in_the_pause_after_an_unknown_commit_it_says_so(
    written: Proxied, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="pgroute")
    slow = RetryPolicy(stop=tenacity.stop_never, wait=tenacity.wait_fixed(60))

    async def pay(conn: AsyncConnection) -> None:
        await conn.execute("INSERT INTO written VALUES (1)")

    async with AsyncRouter(written.dsn, retry=slow) as router:
        await router.install()
        written.proxies[0].when(b"COMMIT", action="reset")
        task = asyncio.get_running_loop().create_task(router.run(pay, once=True))
        await async_eventually(lambda: "attempt 1 failed in commit" in caplog.text)
        # The server may still be at it: its answer is not waited for.
        await async_eventually(lambda: numbers(written.cluster, "written") == [1])
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    notes = "\n".join(caught.value.__notes__)
    assert "may have been committed" in notes
    assert "call again with once='pgroute-" in notes


# async-only: end
