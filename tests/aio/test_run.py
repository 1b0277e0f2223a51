"""Whole transactions: which are run again, which never, and what the caller is told."""

from __future__ import annotations

import asyncio  # async-only
import contextlib
import threading
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
    ProbeOptions,
    RetryPolicy,
    RouterClosed,
)
from pgroute.testing import FaultProxy, LocalCluster
from tests.support import AsyncBackground, async_call, async_eventually, coroutine_function, within

pytestmark = pytest.mark.cluster

AsyncConnection = psycopg.AsyncConnection[Any]

DIE = "SELECT pg_terminate_backend(pg_backend_pid())"
THRICE = RetryPolicy(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(0.01))


async def one(conn: AsyncConnection, sql: str, *args: Any) -> Any:
    """Return the first value of the first row."""
    row = await (await conn.execute(sql, args)).fetchone()
    assert row is not None
    return row[0]


class Body:
    """A body that does one thing in its first runs, and writes in every one.

    Attributes:
        runs: how often it was called.
    """

    def __init__(self, table: str, first: Any, times: int = 1) -> None:
        self.runs = 0
        self._table = table
        self._first = first
        self._times = times

    async def __call__(self, conn: AsyncConnection) -> int:
        self.runs += 1
        await conn.execute(f"INSERT INTO {self._table} VALUES (%s)", (self.runs,))
        if self.runs <= self._times:
            await self._first(conn)
        return self.runs


def numbers(cluster: LocalCluster, table: str) -> list[int]:
    """Return what is in a table."""
    return [row[0] for row in cluster.primary.execute(f"SELECT number FROM {table} ORDER BY number")]


async def die(conn: AsyncConnection) -> None:
    await conn.execute(DIE)


async def die_unnoticed(conn: AsyncConnection) -> None:
    with contextlib.suppress(psycopg.OperationalError):
        await conn.execute(DIE)


async def fail_unnoticed(conn: AsyncConnection) -> None:
    with contextlib.suppress(psycopg.DataError):
        await conn.execute("SELECT 1/0")


async def test_the_result_of_the_body_comes_back_and_its_work_is_there(
    shared: LocalCluster, table: str
) -> None:
    async def insert(conn: AsyncConnection, number: int, *, port: str = "inet_server_port()") -> int:
        await conn.execute(f"INSERT INTO {table} VALUES (%s)", (number,))
        port_there: int = await one(conn, f"SELECT {port}")
        return port_there

    async with AsyncRouter(shared.dsn) as router:
        assert await router.run(insert, 7) == shared.primary.port
        assert await router.run(one, "SELECT pg_is_in_recovery()", role="reader") is True
    assert numbers(shared, table) == [7]


@pytest.mark.parametrize("lost", [die, die_unnoticed], ids=["told", "unnoticed"])
async def test_a_connection_lost_in_the_body_costs_a_run(shared: LocalCluster, table: str, lost: Any) -> None:
    body = Body(table, lost, times=2)
    async with AsyncRouter(shared.dsn) as router:
        assert await router.run(body) == 3
    assert numbers(shared, table) == [3]


async def test_serialization_failures_and_deadlocks_are_run_again(shared: LocalCluster, table: str) -> None:
    shared.primary.execute(f"INSERT INTO {table} VALUES (0), (1000)")
    met = threading.Barrier(4)
    runs: list[int] = []

    async def count_up(conn: AsyncConnection) -> None:
        runs.append(1)
        number = await one(conn, f"SELECT min(number) FROM {table}")
        if len(runs) <= 4:
            await async_call(met.wait, 10)
        await conn.execute(f"UPDATE {table} SET number = %s WHERE number = %s", (number + 1, number))

    async def many(router: AsyncRouter[Any]) -> None:
        for _ in range(10):
            await router.run(count_up, isolation="serializable")

    async with AsyncRouter(shared.dsn) as router, AsyncBackground() as background:
        handles = [background.start(many, router) for _ in range(4)]
        for handle in handles:
            await handle.result()
    assert numbers(shared, table) == [40, 1000]
    assert len(runs) >= 43, "all four have read the same number, which one of them could count up"


async def test_a_deadlock_is_run_again(shared: LocalCluster, table: str) -> None:
    shared.primary.execute(f"INSERT INTO {table} VALUES (1), (2)")
    met = threading.Barrier(2)
    runs: list[int] = []

    async def lock(conn: AsyncConnection, first: int, second: int) -> None:
        runs.append(first)
        await conn.execute(f"SELECT FROM {table} WHERE number = %s FOR UPDATE", (first,))
        if len(runs) <= 2:
            await async_call(met.wait, 10)
        await conn.execute(f"SELECT FROM {table} WHERE number = %s FOR UPDATE", (second,))

    async with AsyncRouter(shared.dsn) as router, AsyncBackground() as background:
        handles = [background.start(router.run, lock, *pair) for pair in ((1, 2), (2, 1))]
        for handle in handles:
            await handle.result()
    # Which of them loses is PostgreSQL's choice, and the loser may be back first and meet the winner once more.
    assert len(runs) >= 3
    assert set(runs) == {1, 2}


async def test_run_survives_a_failover_without_an_error(cluster: LocalCluster) -> None:
    cluster.primary.execute("CREATE TABLE counted (n int)")
    cluster.primary.execute("INSERT INTO counted VALUES (0)")
    cluster.catch_up()
    stop = threading.Event()
    told: list[int] = []

    async def count_up(conn: AsyncConnection) -> int:
        number: int = await one(conn, "UPDATE counted SET n = n + 1 RETURNING n")
        return number

    async def keep_counting(router: AsyncRouter[Any]) -> None:
        while not stop.is_set():
            try:
                told.append(await router.run(count_up))
            except CommitUnknown:
                told.append(told[-1])

    async with AsyncRouter(cluster.dsn) as router, AsyncBackground() as background:
        handle = background.start(keep_counting, router)
        await async_eventually(lambda: len(told) > 10)
        await async_call(cluster.primary.kill)
        await async_call(cluster.promote)
        before = len(told)
        await async_eventually(lambda: len(told) > before + 10)
        stop.set()
        await handle.result()
    assert cluster.primary.execute("SELECT n FROM counted") == [(told[-1],)]


async def test_a_host_that_turns_read_only_and_back_costs_time_only(mended: LocalCluster) -> None:
    primary = mended.primary
    primary.execute("CREATE TABLE written (number int PRIMARY KEY)")

    async def write(conn: AsyncConnection) -> None:
        await conn.execute("INSERT INTO written VALUES (1)")

    def read_only(value: str) -> None:
        primary.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        primary.execute("SELECT pg_reload_conf()")

    async with (
        AsyncRouter(mended.dsn, probe=ProbeOptions(interval=0.1)) as router,
        AsyncBackground() as background,
    ):
        await router.wait()
        try:
            await async_call(read_only, "on")
            handle = background.start(router.run, write)
            await async_eventually(lambda: router.topology.primary and router.topology.primary.read_only)
        finally:
            await async_call(read_only, "off")
        await handle.result()
    assert primary.execute("SELECT number FROM written") == [(1,)]


async def test_an_error_of_the_application_rolls_back_and_is_let_out_untouched(
    shared: LocalCluster, table: str
) -> None:
    async def refuse(_: AsyncConnection) -> None:
        raise KeyError("mine")

    body = Body(table, refuse)
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(KeyError, match="mine") as caught:
            await router.run(body)
    assert not hasattr(caught.value, "__notes__")
    assert (body.runs, numbers(shared, table)) == (1, [])


async def test_an_error_in_the_data_is_not_run_again(shared: LocalCluster, table: str) -> None:
    async def insert_twice(conn: AsyncConnection) -> None:
        await conn.execute(f"INSERT INTO {table} VALUES (1)")

    body = Body(table, insert_twice)
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(psycopg.errors.UniqueViolation) as caught:
            await router.run(body)
    assert "1 attempt in" in caught.value.__notes__[0]
    assert (body.runs, numbers(shared, table)) == (1, [])


async def test_a_swallowed_error_is_no_success_and_not_run_again(shared: LocalCluster, table: str) -> None:
    body = Body(table, fail_unnoticed)
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            await router.run(body)
        await router.wait(timeout=5.0)
    assert (body.runs, numbers(shared, table)) == (1, [])


async def test_rollback_rolls_back_and_is_no_error(shared: LocalCluster, table: str) -> None:
    async def give_up(_: AsyncConnection) -> None:
        raise psycopg.Rollback

    body = Body(table, give_up)
    async with AsyncRouter(shared.dsn) as router:
        assert await router.run(body) is None
    assert (body.runs, numbers(shared, table)) == (1, [])


async def test_the_body_cannot_commit(shared: LocalCluster, table: str) -> None:
    async def commit(conn: AsyncConnection) -> None:
        await conn.commit()

    body = Body(table, commit)
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(psycopg.ProgrammingError, match="forbidden"):
            await router.run(body)
    assert (body.runs, numbers(shared, table)) == (1, [])


async def commit_by_itself(conn: AsyncConnection) -> None:
    await conn.execute("COMMIT")


async def commit_and_go_on(conn: AsyncConnection) -> None:
    await conn.execute("COMMIT")
    await conn.execute("SELECT 1")


@pytest.mark.parametrize("ended", [commit_by_itself, commit_and_go_on])
async def test_a_body_that_commits_by_itself_is_told_so(shared: LocalCluster, table: str, ended: Any) -> None:
    body = Body(table, ended)
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(psycopg.ProgrammingError, match="by a COMMIT or ROLLBACK of its own"):
            await router.run(body)
        await router.wait(timeout=5.0)
    assert (body.runs, numbers(shared, table)) == (1, [1])


async def test_a_body_that_committed_by_itself_is_never_run_again(shared: LocalCluster, table: str) -> None:
    async def commit_and_die(conn: AsyncConnection) -> None:
        await conn.execute("COMMIT")
        await conn.execute(DIE)

    body = Body(table, commit_and_die)
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(psycopg.OperationalError) as caught:
            await router.run(body)
    assert "not run again" in caught.value.__notes__[0]
    assert (body.runs, numbers(shared, table)) == (1, [1])


async def test_a_body_that_closes_its_connection_is_not_run_again(shared: LocalCluster, table: str) -> None:
    async def close(conn: AsyncConnection) -> None:
        await conn.close()

    body = Body(table, close)
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(psycopg.ProgrammingError, match="closed its connection"):
            await router.run(body)
    assert (body.runs, numbers(shared, table)) == (1, [])


async def test_a_transaction_of_the_body_left_open_is_an_error(shared: LocalCluster, table: str) -> None:
    left: list[Any] = []

    async def leave_open(conn: AsyncConnection) -> None:
        left.append(conn.transaction())
        await left[0].__aenter__()

    body = Body(table, leave_open)
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(psycopg.ProgrammingError, match=r"transaction\(\) of its own open"):
            await router.run(body)
        await router.wait(timeout=5.0)
    assert numbers(shared, table) == []


async def test_lost_during_commit_is_unknown_and_not_run_again(proxied: Any) -> None:
    proxied.cluster.primary.execute("CREATE TABLE written (number int PRIMARY KEY)")
    body = Body("written", one_more)
    async with AsyncRouter(proxied.dsn) as router:
        await router.wait()
        proxied.proxies[0].when(b"COMMIT", action="reset")
        with pytest.raises(CommitUnknown) as caught:
            await router.run(body)
    assert not caught.value.rerun_safe
    assert "1 attempt in" in caught.value.__notes__[0]
    assert body.runs == 1
    # The server may still be at it.
    await async_eventually(lambda: proxied.cluster.primary.execute("SELECT number FROM written") == [(1,)])


async def one_more(conn: AsyncConnection) -> None:
    await conn.execute("SELECT 1")


async def test_what_cannot_write_is_run_again_even_if_lost_during_commit(proxied: Any) -> None:
    runs: list[int] = []

    async def read(conn: AsyncConnection) -> int:
        runs.append(await one(conn, "SELECT 1"))
        return len(runs)

    async with AsyncRouter(proxied.dsn, probe=ProbeOptions(interval=0.1)) as router:
        await router.wait()
        proxied.proxies[0].when(b"COMMIT", action="reset")
        assert await router.run(read, read_only=True) == 2


async def test_lost_at_begin_costs_an_attempt(proxied: Any) -> None:
    proxied.cluster.primary.execute("CREATE TABLE written (number int PRIMARY KEY)")
    async with AsyncRouter(proxied.dsn) as router:
        await router.wait()
        lost = proxied.proxies[0].when(b"BEGIN", action="reset", after_forwarding=False)
        async for attempt in router.attempts():
            async with attempt as conn:
                number = attempt.number
                await conn.execute("INSERT INTO written VALUES (1)")
        assert (lost.hits, number) == (1, 2)


async def test_the_last_error_is_raised_with_attempts_and_time(shared: LocalCluster, table: str) -> None:
    body = Body(table, die, times=9)
    async with AsyncRouter(shared.dsn, retry=THRICE) as router:
        with pytest.raises(psycopg.OperationalError) as caught:
            await router.run(body)
        assert "pgroute: 3 attempts in " in caught.value.__notes__[0]
        body = Body(table, die, times=9)
        with pytest.raises(psycopg.OperationalError):
            await router.run(body, retry=RetryPolicy(stop=tenacity.stop_after_attempt(1)))
        assert body.runs == 1


async def test_with_the_retry_budget_spent_errors_are_raised_at_once(
    shared: LocalCluster, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = RetryPolicy(budget=0.0, budget_floor=0.5, wait=tenacity.wait_none())
    runs = []
    async with AsyncRouter(shared.dsn, retry=narrow) as router:
        for _ in range(2):
            body = Body(table, die, times=9)
            with pytest.raises(psycopg.OperationalError) as caught:
                await router.run(body)
            told = "pgroute: not run again: the retry budget is spent: "
            assert caught.value.__notes__[-1].startswith(told)
            runs.append(body.runs)
        assert runs[0] >= 6
        assert runs[1] < 6
        told = "transactions are not run again: the retry budget is spent: "
        assert [r.message.startswith(told) for r in caplog.records if "retry budget" in r.message] == [True]
        body = Body(table, die, times=9)
        with pytest.raises(psycopg.OperationalError):
            await router.run(body, retry=RetryPolicy(stop=tenacity.stop_after_attempt(8), budget=None))
        assert body.runs == 8
        with pytest.raises(psycopg.OperationalError):
            await router.execute("SELECT pg_terminate_backend(pg_backend_pid())")


async def test_a_deadline_bounds_sessions_attempts_and_pauses(shared: LocalCluster, table: str) -> None:
    patient = RetryPolicy(stop=tenacity.stop_never, wait=tenacity.wait_fixed(0.05))
    body = Body(table, die, times=1000)
    async with AsyncRouter(shared.dsn) as router:
        await router.wait()
        begun = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            await router.run(body, timeout=1.0, retry=patient)
        assert time.monotonic() - begun < within(5.0)
        assert body.runs > 1
        async with router.writer() as first:
            await first.execute("SELECT 1")


async def test_no_host_is_told_in_time_and_safe_to_try_again(shared: LocalCluster) -> None:
    proxies = [FaultProxy(node) for node in shared.nodes]
    with proxies[0], proxies[1], proxies[2]:
        dsn = FaultProxy.dsn(proxies)
        for proxy in proxies:
            proxy.refuse(existing="reset")
        async with AsyncRouter(dsn) as router:
            begun = time.monotonic()
            with pytest.raises(NoHostAvailable) as caught:
                await router.run(one, "SELECT 1", timeout=0.5)
            assert 0.4 < time.monotonic() - begun < within(5.0)
    assert caught.value.rerun_safe
    assert "1 attempt in" in caught.value.__notes__[0]


async def test_closing_the_router_ends_the_pause_between_attempts(shared: LocalCluster, table: str) -> None:
    endless = RetryPolicy(stop=tenacity.stop_never, wait=tenacity.wait_fixed(60))
    body = Body(table, die, times=9)
    async with AsyncRouter(shared.dsn) as router, AsyncBackground() as background:
        handle = background.start(lambda: router.run(body, retry=endless))
        await async_eventually(lambda: body.runs == 1)
        await router.close()
        with pytest.raises(RouterClosed) as caught:
            await handle.result()
    assert caught.value.rerun_safe


async def test_isolation_and_the_like_are_for_this_transaction_only(shared: LocalCluster) -> None:
    async def settings(conn: AsyncConnection) -> tuple[str, ...]:
        names = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
        return tuple([await one(conn, f"SHOW {name}") for name in names])

    async with AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        before = await router.run(settings)
        assert before == ("read committed", "off", "off")
        strict = await router.run(settings, isolation="serializable", read_only=True, deferrable=True)
        assert strict == ("serializable", "on", "on")
        assert await router.run(settings) == before


async def test_attributes_that_configure_and_setup_have_set_are_those_of_the_transaction(
    shared: LocalCluster,
) -> None:
    levels = iter(("SERIALIZABLE", "READ_COMMITTED"))

    async def configure(conn: AsyncConnection) -> None:
        await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)

    async def setup(conn: AsyncConnection) -> None:
        await conn.set_isolation_level(psycopg.IsolationLevel[next(levels)])

    async def shown(conn: AsyncConnection) -> Any:
        return await one(conn, "SHOW transaction_isolation")

    async with AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1, configure=configure)) as router:
        assert await router.run(shown) == "repeatable read"
        async with router.writer() as conn:
            await conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        assert await router.run(shown) == "repeatable read"
    options = PoolOptions(max_size=1, configure=configure, setup=setup)
    async with AsyncRouter(shared.dsn, writer=options) as router:
        assert [await router.run(shown) for _ in range(2)] == ["serializable", "read committed"]


async def test_autocommit_connections_have_a_transaction_too(shared: LocalCluster, table: str) -> None:
    async def insert_and_fail(conn: AsyncConnection) -> None:
        await conn.execute(f"INSERT INTO {table} VALUES (1)")
        raise KeyError("mine")

    async with AsyncRouter(shared.dsn, kwargs={"autocommit": True}) as router:
        with pytest.raises(KeyError):
            await router.run(insert_and_fail)
    assert numbers(shared, table) == []


async def test_a_writer_within_a_body_is_refused(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn) as router:

        async def nested(_: AsyncConnection) -> None:
            await router.run(one, "SELECT 1")

        async def nested_attempts(_: AsyncConnection) -> None:
            async for attempt in router.attempts():
                async with attempt:
                    pass

        for body in (nested, nested_attempts):
            with pytest.raises(psycopg.ProgrammingError, match="within the body of another"):
                await router.run(body)
            with pytest.raises(psycopg.ProgrammingError, match="within the body of another"):
                await router.run(body, role="reader")

        async def savepoint(conn: AsyncConnection) -> None:
            async with conn.transaction():
                await conn.execute(f"INSERT INTO {table} VALUES (1)")

        await router.run(savepoint)
    assert numbers(shared, table) == [1]


async def test_what_may_be_run_within_a_body(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router, AsyncRouter(shared.dsn) as other:

        async def body(_: AsyncConnection) -> list[bool]:
            answers = [await router.run(one, "SELECT pg_is_in_recovery()", role="reader")]
            answers.append(await router.run(one, "SELECT pg_is_in_recovery()", read_only=True))
            answers.append(await other.run(one, "SELECT pg_is_in_recovery()"))
            return answers

        assert await router.run(body) == [True, False, False]
        assert await router.run(one, "SELECT 1") == 1


# async-only: begin
async def test_a_task_that_outlives_the_body_that_started_it_may_run_on_its_own(shared: LocalCluster) -> None:
    go_on = asyncio.Event()

    async with AsyncRouter(shared.dsn) as router:

        async def later() -> int:
            await go_on.wait()
            number: int = await router.run(one, "SELECT 1")
            return number

        async def start(_: AsyncConnection) -> None:
            tasks.append(asyncio.get_running_loop().create_task(later()))

        tasks: list[asyncio.Task[int]] = []
        await router.run(start)
        go_on.set()
        assert await tasks[0] == 1


# async-only: end


def a_generator(_: AsyncConnection) -> Any:
    yield 1


def returns_a_generator(conn: AsyncConnection) -> Any:
    return a_generator(conn)


def plain(_: AsyncConnection) -> int:
    return 1


async def an_async_generator(_: AsyncConnection) -> Any:
    yield 1


async def unawaited(conn: AsyncConnection) -> Any:
    await conn.execute("CREATE TABLE nothing_of_this ()")
    return coroutine_function(conn)


MISTAKES = [
    a_generator,
    returns_a_generator,
    unawaited,
    None,
    "SELECT 1",
    # sync-only: coroutine_function,
    an_async_generator,  # async-only
    plain,  # async-only
]


@pytest.mark.parametrize("body", MISTAKES)
async def test_a_body_that_would_do_its_work_later_is_refused(shared: LocalCluster, body: Any) -> None:
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(ConfigError, match="invalid fn "):
            await router.run(body)
        assert await router.run(one, "SELECT to_regclass('nothing_of_this')") is None


async def test_a_coroutine_in_place_of_a_function_is_refused(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(ConfigError, match="expected the function: run"):
            await router.run(coroutine_function())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"role": "primary"}, "role"),
        ({"isolation": "snapshot"}, "isolation"),
        ({"once": ""}, "once"),
        ({"once": "k" * 513}, "once"),
        ({"once": 7}, "once"),
        ({"once": "k", "role": "reader"}, "once"),
        ({"once": "k", "read_only": True}, "once"),
        ({"retry": 3}, "retry"),
        ({"timeout": -1}, "timeout"),
    ],
)
async def test_what_cannot_be_used_is_refused_before_a_session_is_asked_for(
    given: dict[str, Any], named: str
) -> None:
    async with AsyncRouter("host=127.0.0.1 port=1 dbname=postgres") as router:
        with pytest.raises(ConfigError, match=f"invalid {named} "):
            await router.run(one, "SELECT 1", **given)


async def test_attempts_follow_each_other_until_one_commits(shared: LocalCluster, table: str) -> None:
    seen: list[int] = []
    async with AsyncRouter(shared.dsn) as router:
        async for attempt in router.attempts():
            async with attempt as conn:
                seen.append(attempt.number)
                await conn.execute(f"INSERT INTO {table} VALUES (%s)", (attempt.number,))
                if attempt.number < 3:
                    await conn.execute(DIE)
    assert seen == [1, 2, 3]
    assert numbers(shared, table) == [3]


async def test_an_attempt_that_was_not_entered_or_twice_is_a_mistake(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(RuntimeError, match="was not used"):
            async for _ in router.attempts():
                pass
        async for attempt in router.attempts():
            async with attempt:
                with pytest.raises(RuntimeError, match="used once"):
                    async with attempt:
                        pass
        with pytest.raises(RuntimeError, match="used once"):
            async with attempt:
                pass


async def test_attempts_let_out_what_is_not_run_again(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(KeyError):
            async for attempt in router.attempts():
                async with attempt as conn:
                    await conn.execute(f"INSERT INTO {table} VALUES (1)")
                    raise KeyError("mine")
    assert numbers(shared, table) == []


async def test_a_router_that_is_not_open_refuses(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn)
    with pytest.raises(RouterClosed):
        await router.run(one, "SELECT 1")
