"""Where callers, connections and their pool part in unusual ways: cancelled, dropped, used too late, spoilt."""

from __future__ import annotations

import asyncio  # async-only
import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, NoHostAvailable, PoolExhausted, PoolOptions, SessionLost
from pgroute._async.pool.lease import lease_of
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.roles import Role
from pgroute.core.topology.observations import Failure
from pgroute.testing import LocalCluster
from tests.support import AsyncBackground, async_call, async_eventually, dsn_with

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)
TWO = PoolOptions(max_size=2)


async def assert_lends(router: AsyncRouter[Any], count: int) -> None:
    """Assert that a pool of so many connections lends them all at once."""
    held = [await router.getconn("writer", timeout=5.0) for _ in range(count)]
    for conn in held:
        await router.putconn(conn)


# Callers that leave the queue.

# async-only: begin


@pytest.mark.parametrize("depth", range(6))
async def test_a_caller_cancelled_as_it_is_served_is_cancelled(shared: LocalCluster, depth: int) -> None:
    async def work(router: AsyncRouter[Any]) -> None:
        async with router.writer(timeout=3.0):
            await asyncio.sleep(30)

    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        for _ in range(20):
            conn = await router.getconn("writer")
            waiting = asyncio.create_task(work(router))
            await async_eventually(lambda: router.get_stats()["writer"].get("requests_waiting"))
            returning = asyncio.create_task(router.putconn(conn))
            for _ in range(depth):
                await asyncio.sleep(0)
            waiting.cancel()
            await returning
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await assert_lends(router, 1)


async def test_wait_for_around_getconn_loses_no_slot(shared: LocalCluster) -> None:
    async def hold(router: AsyncRouter[Any], pause: float) -> None:
        try:
            conn = await asyncio.wait_for(router.getconn("writer", timeout=5.0), pause)
        except TimeoutError:
            return
        await asyncio.sleep(0)
        await router.putconn(conn)

    async with AsyncRouter(shared.dsn, writer=TWO) as router:
        await router.wait()
        for number in range(40):
            await asyncio.gather(*(hold(router, 0.0001 * (number + place)) for place in range(10)))
        await assert_lends(router, 2)


# async-only: end


async def test_a_saturated_pool_is_exhausted_at_each_deadline(shared: LocalCluster) -> None:
    errors: list[Exception] = []
    until = time.monotonic() + 20.0

    async def work(router: AsyncRouter[Any], timeout: float) -> None:
        while len(errors) <= 20 and time.monotonic() < until:
            try:
                async with router.writer(timeout) as conn:
                    await conn.execute("SELECT pg_sleep(0.002)")
            except (PoolExhausted, NoHostAvailable) as exc:
                errors.append(exc)

    async with AsyncRouter(shared.dsn, writer=ONE) as router, AsyncBackground() as background:
        await router.wait()
        workers = [background.start(work, router, 0.003 + 0.001 * place) for place in range(8)]
        for worker in workers:
            await worker.result()
    assert len(errors) > 20
    assert {type(error) for error in errors} == {PoolExhausted}


async def test_a_reader_that_is_routed_anew_does_not_lose_its_turn(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[str] = []

    async def read(router: AsyncRouter[Any], name: str) -> None:
        async with router.reader(timeout=20.0):
            served.append(name)

    def queued() -> int:
        return router.get_stats()["reader"].get("requests_queued", 0)

    monkeypatch.setattr("pgroute.core.routing.acquisition.PATIENCE", 0.4)
    async with AsyncRouter(shared.nodes[1].conninfo, reader=ONE) as router, AsyncBackground() as background:
        async with router.reader():
            before = queued()
            old = background.start(read, router, "old")
            await async_eventually(lambda: queued() == before + 1)
            half = time.monotonic() + 0.2
            await async_eventually(lambda: time.monotonic() > half)
            new = background.start(read, router, "new")
            await async_eventually(lambda: queued() >= before + 3)  # the old one waits anew
        await old.result()
        await new.result()
    assert served == ["old", "new"]


# Connections that do not come back, or too late.


async def test_a_connection_that_its_caller_dropped_gives_its_place_back(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncRouter(shared.dsn, writer=TWO, name="shop") as router:
        for _ in range(5):
            conn = await router.getconn("writer")
            del conn
        gc.collect()
        await assert_lends(router, 2)
    assert "was lost by its caller" in caplog.text
    assert "pgroute-writer" in caplog.text


async def test_close_does_not_wait_for_a_connection_that_its_caller_dropped(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn, writer=ONE)
    await router.open()
    conn = await router.getconn("writer")
    del conn
    gc.collect()
    begun = time.monotonic()
    await router.close(timeout=30)
    assert time.monotonic() < begun + 20


async def test_a_return_that_is_interrupted_is_finished_and_no_connection_is_said_to_be_lost(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> bool:
        raise KeyboardInterrupt

    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        conn = await router.getconn("writer")
        with monkeypatch.context() as patch:
            patch.setattr("pgroute._async.pool.exchange.contradicts", interrupt)
            with pytest.raises(KeyboardInterrupt):
                await router.putconn(conn)
        await assert_lends(router, 1)
        assert router.get_stats()["writer"].get("connections_lost", 0) == 0
    assert "was lost by its caller" not in caplog.text


async def test_a_statement_after_the_block_is_not_committed_by_the_next_session(
    shared: LocalCluster, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        async with router.writer() as late:
            await late.execute(f"INSERT INTO {table} VALUES (1)")
        await late.execute(f"INSERT INTO {table} VALUES (2)")
        async with router.writer() as conn:
            assert conn is not late
            await conn.execute(f"INSERT INTO {table} VALUES (3)")
        async with router.writer() as conn:
            rows = await (await conn.execute(f"SELECT number FROM {table} ORDER BY 1")).fetchall()
    assert rows == [(1,), (3,)]
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "pgroute-writer" in warning
    assert "INTRANS" in warning


async def test_putconn_refuses_the_connection_of_a_session(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        async with router.writer() as conn:
            await conn.execute(f"INSERT INTO {table} VALUES (1)")
            with pytest.raises(ValueError, match="a session has this connection"):
                await router.putconn(conn)
            with pytest.raises(PoolExhausted):
                await router.getconn("writer", timeout=0.05)

        async def body(conn: psycopg.AsyncConnection[Any]) -> None:
            with pytest.raises(ValueError, match="a session has this connection"):
                await router.putconn(conn)

        await router.run(body)
        await assert_lends(router, 1)
    assert shared.primary.execute(f"SELECT number FROM {table}") == [(1,)]


async def enter_pipeline(conn: psycopg.AsyncConnection[Any]) -> object:
    pipeline = conn.pipeline()
    await pipeline.__aenter__()
    return pipeline


async def enter_transaction(conn: psycopg.AsyncConnection[Any]) -> object:
    transaction = conn.transaction()
    await transaction.__aenter__()
    await conn.execute("ROLLBACK")
    return transaction


@pytest.mark.parametrize("enter", [enter_pipeline, enter_transaction])
async def test_what_a_caller_entered_and_never_left_is_not_the_next_ones(
    shared: LocalCluster, enter: Callable[..., Any]
) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        conn = await router.getconn("writer")
        left_open = await enter(conn)
        await router.putconn(conn)
        assert conn.closed
        async with router.writer() as again:
            assert again.info.pipeline_status == psycopg.pq.PipelineStatus.OFF
            await again.execute("SELECT 1")
    del left_open


# Callbacks and classes of the user's.

# sync-only: STRAY: type[BaseException] = SystemExit
STRAY: type[BaseException] = asyncio.CancelledError  # async-only


async def test_a_configure_that_is_cancelled_or_exits_does_not_end_its_pool(shared: LocalCluster) -> None:
    calls = 0

    async def configure(_: psycopg.AsyncConnection[Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise STRAY  # as of a task that was cancelled elsewhere, and is awaited here

    options = PoolOptions(max_size=2, configure=configure)
    async with AsyncRouter(shared.dsn, writer=options) as router:
        await assert_lends(router, 2)
    assert calls == 3


class Unclosable(psycopg.AsyncConnection[Any]):
    """Its close() does its work, and fails."""

    async def close(self) -> None:
        await super().close()
        raise ValueError("not mine")


async def test_a_close_that_fails_is_told_in_the_log_alone(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    options = PoolOptions(min_size=3)
    async with AsyncRouter(shared.dsn, writer=options, connection_class=Unclosable) as router:
        with pytest.raises(SessionLost):
            async with router.writer() as conn:
                with pytest.raises(psycopg.errors.AdminShutdown):
                    await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        await async_eventually(lambda: router.get_stats()["writer"]["pool_available"] == 3)
        held = [await router.getconn("writer") for _ in range(3)]
        for conn in held:
            await router.putconn(conn)
    assert all(conn.closed for conn in held)
    assert "Unclosable.close() failed: ValueError: not mine" in caplog.text


async def test_a_log_handler_that_asks_for_a_session_is_no_deadlock(shared: LocalCluster) -> None:
    class Handler(logging.Handler):
        free = True

        def emit(self, record: logging.LogRecord) -> None:
            if "lost by its caller" in record.getMessage():
                Handler.free = Handler.free and pools._lock.acquire(blocking=False)
                if Handler.free:
                    pools._lock.release()
                told.set()

    told = threading.Event()
    handler = Handler()
    logging.getLogger("pgroute").addHandler(handler)
    try:
        async with AsyncRouter(shared.dsn, writer=TWO) as router:
            pools = router._manager.pools[Role.WRITER]
            conn = await router.getconn("writer")
            pool: Any = lease_of(conn).pool
            await pool.close()
            await pool.join(5.0)
            async with router.writer():
                pass
            del conn  # its pool has no worker any more: it is found by whoever looks for pools that are gone
            gc.collect()
            router._manager.lifecycle.check_open().changes.notify()
            await async_eventually(told.is_set)
    finally:
        logging.getLogger("pgroute").removeHandler(handler)
    assert Handler.free


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_pool_whose_worker_is_ended_is_replaced(shared: LocalCluster) -> None:
    async def end() -> bool:
        raise STRAY

    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        async with router.writer() as conn:
            pool: Any = lease_of(conn).pool
            pool._worker._turn = end
            pool._worker.wake()
            await async_eventually(lambda: pool.closed)
        async with router.writer() as conn:
            assert lease_of(conn).pool is not pool


# Sessions that differ from what their pool is for.


async def set_default(cluster: LocalCluster, role: str, value: str) -> None:
    await async_call(cluster.primary.execute, f"ALTER ROLE {role} {value}")


async def test_what_connected_while_the_role_was_read_only_is_lent_to_nobody_else(
    shared: LocalCluster, table: str
) -> None:
    role = f"app_{table}"
    await async_call(
        shared.primary.execute, f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{shared.password}'"
    )
    try:
        dsn = dsn_with(shared.dsn, user=role)
        async with AsyncRouter(dsn, writer=PoolOptions(max_size=3)) as router:
            held = [await router.getconn("writer")]
            await set_default(shared, role, "SET default_transaction_read_only = on")
            held += [await router.getconn("writer"), await router.getconn("writer")]
            await set_default(shared, role, "RESET default_transaction_read_only")
            said = [conn.info.parameter_status("default_transaction_read_only") for conn in held]
            assert said == ["off", "on", "on"]
            for conn in held:
                await router.putconn(conn)
            for number in range(30):
                async with router.writer() as conn:
                    await conn.execute(f"INSERT INTO {table} VALUES ({number})")
    finally:
        await async_call(shared.primary.execute, f"DROP ROLE {role}")


async def test_a_default_that_a_body_has_set_reaches_nobody_else(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        async with router.writer() as conn:
            await conn.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        async with router.writer() as conn:
            await conn.execute(f"INSERT INTO {table} VALUES (1)")


async def test_discard_leaves_nothing_of_a_session_to_the_next(shared: LocalCluster) -> None:
    async def configure(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute("SET application_name = 'configured'")
        await conn.commit()

    options = PoolOptions(max_size=1, reset="discard", configure=configure, settings={"work_mem": "7MB"})
    async with AsyncRouter(shared.dsn, writer=options) as router:
        async with router.writer() as conn:
            first = conn.info.backend_pid
            await conn.execute("SET search_path = nowhere")
            await conn.execute("SET work_mem = '9MB'")
            await conn.execute("CREATE TEMP TABLE pgroute_left (number int)")
            await conn.execute("LISTEN pgroute_left")
            await conn.execute("SELECT pg_advisory_lock(4711)")
            for _ in range(10):
                await conn.execute("SELECT 1 WHERE 1 = %s", (1,))
        async with router.writer() as conn:
            assert conn.info.backend_pid == first
            left = await conn.execute(
                "SELECT current_setting('search_path'), current_setting('work_mem'),"
                " current_setting('application_name'), to_regclass('pg_temp.pgroute_left'),"
                " (SELECT count(*) FROM pg_listening_channels()),"
                " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),"
                " (SELECT count(*) FROM pg_prepared_statements)"
            )
            assert await left.fetchone() == ('"$user", public', "7MB", "configured", None, 0, 0, 0)
            for _ in range(10):
                await conn.execute("SELECT 1 WHERE 1 = %s", (1,))


async def test_an_interrupt_after_commit_says_that_it_was_committed(shared: LocalCluster, table: str) -> None:
    class Stop(BaseException):
        pass

    async def reset(conn: psycopg.AsyncConnection[Any]) -> None:
        raise Stop

    async with AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1, reset=reset)) as router:
        for number in range(3):
            with pytest.raises(Stop) as caught:
                async with router.writer() as conn:
                    await conn.execute(f"INSERT INTO {table} VALUES ({number})")
            assert any("was committed" in note for note in caught.value.__notes__)
        with pytest.raises(Stop) as caught:
            async with router.writer() as conn:
                pass
        assert not getattr(caught.value, "__notes__", [])
    assert shared.primary.execute(f"SELECT count(*) FROM {table}") == [(3,)]


# Failovers.


async def test_a_caller_held_up_at_a_failover_opens_no_pool_to_the_old_primary(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        await async_eventually(lambda: router.topology.primary)
        before = router.topology
        candidate = before.candidates[router._manager.config.default_attrs][0][0]
        fault = Fault(FaultKind.REFUSED, reason="gone")
        watch = router._manager.watch
        watch._monitor.call(watch.observe, Failure(candidate.key, fault, time.monotonic()))  # type: ignore[union-attr]
        # Not by the version: another host may have become known meanwhile.
        await async_eventually(
            lambda: (
                {host.key: host.generation for host in router.topology.hosts}[candidate.key]
                > candidate.generation
            )
        )
        pools = next(iter(router._manager.pools.values()))
        with pytest.raises(psycopg.OperationalError, match="no longer serves"):
            await pools.open(candidate)
