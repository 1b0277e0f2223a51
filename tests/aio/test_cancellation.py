"""Tasks cancelled at every await of a session: no connection is lost to the pool, none is left at the server."""

from __future__ import annotations

# async-only: begin
import asyncio
import contextlib
import os
import signal
import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import psycopg
import pytest
import tenacity

from pgroute import AsyncRouter, PoolOptions, ProbeOptions, RetryPolicy
from pgroute.testing import FaultProxy, LocalCluster, Node
from tests.aio.conftest import Proxied
from tests.support import async_call, async_eventually, within

pytestmark = pytest.mark.cluster

SIZE = 2
ACTIVE = psycopg.pq.TransactionStatus.ACTIVE
RUNNING = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%of the body%' AND wait_event = 'PgSleep'"
OPTIONS = PoolOptions(max_size=SIZE, kwargs={"application_name": "pooled"})


Step = Callable[[], Coroutine[Any, Any, Any]]
Body = Callable[[psycopg.AsyncConnection[Any]], Coroutine[Any, Any, Any]]


@types.coroutine
def closed_once(work: Coroutine[Any, Any, Any], ready: Callable[[], Any]) -> Generator[Any, Any, None]:
    """Run a coroutine until it waits and something is true; then close it, as the collector does."""
    while True:
        future = work.send(None)
        if ready():
            work.close()
            return
        yield future


@types.coroutine
def interrupted(work: Coroutine[Any, Any, Any], at: int, late: bool) -> Generator[Any, Any, bool]:
    """Run a coroutine and cancel its task at its suspension number *at*; return whether it got that far.

    The cancellation comes at once or, if *late*, when what was waited for is there already and would be lost.
    """
    task = asyncio.current_task()
    assert task is not None
    count, send, value = 0, work.send, None
    while True:
        try:
            future = send(value)
        except StopIteration:
            return count > at
        if count == at:
            if late and future is not None:
                future.add_done_callback(lambda _: task.cancel())
            else:
                asyncio.get_running_loop().call_soon(task.cancel)
        count += 1
        try:
            value, send = (yield future), work.send
        except BaseException as exc:  # noqa: BLE001  (the coroutine decides)
            value, send = exc, work.throw


async def at_each_await(
    work: Step, late: bool, *, before: Step, after: Step, during: Step | None = None
) -> None:
    """Run a coroutine again and again, cancelled at its first await, its second, ... until it ends before that."""

    async def run() -> bool:
        return await interrupted(work(), at, late)

    for at in range(1000):
        await before()
        task = asyncio.get_running_loop().create_task(run())
        if during is not None:
            await during()
        done, _ = await asyncio.wait({task}, timeout=5.0)
        assert done, f"it does not end when cancelled at await {at}"
        await after()
        if not task.cancelled() and not task.result():
            break
        assert task.cancelled(), f"it swallows the cancellation at await {at}"
    assert at > 0, "it awaits nothing"


async def nothing() -> None:
    pass


async def assert_whole(router: AsyncRouter[Any]) -> None:
    """Assert that the pool still gives as many sessions as it may, and counts none as in use after."""
    held = [await router.getconn("writer", timeout=3.0) for _ in range(SIZE)]
    for conn in held:
        assert conn.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
        await router.putconn(conn)
    assert router.stats().writer.totals["pool_size"] <= SIZE
    assert all(host["in_use"] == 0 for host in router.stats().writer.hosts.values())


async def session(router: AsyncRouter[Any], table: str) -> None:
    async with router.writer() as conn:
        await conn.execute(f"INSERT INTO {table} VALUES (1) ON CONFLICT DO NOTHING")
        conn.row_factory = psycopg.rows.dict_row


at_once_and_late = pytest.mark.parametrize("late", [False, True], ids=["at-once", "late"])


@at_once_and_late
async def test_a_session_of_a_warm_pool(shared: LocalCluster, table: str, late: bool) -> None:
    async with AsyncRouter(shared.dsn, writer=OPTIONS) as router:
        await at_each_await(
            lambda: session(router, table), late, before=router.wait, after=lambda: assert_whole(router)
        )


@at_once_and_late
@pytest.mark.parametrize("once", [None, "key"])
async def test_a_transaction_of_run(shared: LocalCluster, table: str, late: bool, once: str | None) -> None:
    async def insert(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute(f"INSERT INTO {table} VALUES (1) ON CONFLICT DO NOTHING")

    async def transaction() -> None:
        await router.run(insert, isolation="serializable", once=once and f"{table} {late}")

    async with AsyncRouter(shared.dsn, writer=OPTIONS) as router:
        await router.install()
        await at_each_await(transaction, late, before=router.wait, after=lambda: assert_whole(router))


@at_once_and_late
async def test_the_pause_between_two_attempts(shared: LocalCluster, late: bool) -> None:
    async def fail(_: psycopg.AsyncConnection[Any]) -> None:
        raise psycopg.errors.SerializationFailure

    async def transaction() -> None:
        with contextlib.suppress(psycopg.errors.SerializationFailure):
            await router.run(fail)

    retry = RetryPolicy(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(0.01))
    async with AsyncRouter(shared.dsn, writer=OPTIONS, retry=retry) as router:
        await at_each_await(transaction, late, before=router.wait, after=lambda: assert_whole(router))


@at_once_and_late
async def test_a_session_that_changed_its_attributes(shared: LocalCluster, late: bool) -> None:
    async def changing() -> None:
        async with router.writer() as conn:
            await conn.set_autocommit(True)
            await conn.execute("SELECT 1")

    async def unchanged() -> None:
        async with router.writer(3.0) as conn:
            assert not conn.autocommit
        await assert_whole(router)

    async with AsyncRouter(shared.dsn, writer=OPTIONS) as router:
        await at_each_await(changing, late, before=router.wait, after=unchanged)


@at_once_and_late
async def test_the_callbacks_of_a_pool(shared: LocalCluster, table: str, late: bool) -> None:
    async def callback(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute("SELECT 1")
        await conn.commit()

    options = PoolOptions(max_size=SIZE, configure=callback, reset=callback)
    async with AsyncRouter(shared.dsn, writer=options) as router:
        await at_each_await(
            lambda: session(router, table), late, before=nothing, after=lambda: assert_whole(router)
        )


@at_once_and_late
async def test_a_body_that_raises(shared: LocalCluster, late: bool) -> None:
    async def raising() -> None:
        with contextlib.suppress(KeyError):
            async with router.writer() as conn:
                await conn.execute("SELECT 1")
                raise KeyError

    async with AsyncRouter(shared.dsn, writer=OPTIONS) as router:
        await at_each_await(raising, late, before=router.wait, after=lambda: assert_whole(router))


@at_once_and_late
async def test_getconn_and_putconn(shared: LocalCluster, late: bool) -> None:
    async def work() -> None:
        conn = await router.getconn("writer")
        try:
            await conn.execute("SELECT 1")
        finally:
            await router.putconn(conn)

    async with AsyncRouter(shared.dsn, writer=OPTIONS) as router:
        await at_each_await(work, late, before=router.wait, after=lambda: assert_whole(router))


class Cold:
    """A new router for each attempt."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.router: AsyncRouter[Any]

    async def open(self) -> None:
        self.router = AsyncRouter(self.dsn, writer=OPTIONS)
        await self.router.open()

    async def close(self) -> None:
        try:
            await assert_whole(self.router)
        finally:
            await self.router.close()


@at_once_and_late
async def test_the_first_session_of_a_router(shared: LocalCluster, table: str, late: bool) -> None:
    cold = Cold(shared.dsn)
    await at_each_await(lambda: session(cold.router, table), late, before=cold.open, after=cold.close)


@at_once_and_late
async def test_the_first_session_of_a_pool(shared: LocalCluster, table: str, late: bool) -> None:
    async def opened() -> None:
        await cold.open()
        await async_eventually(lambda: cold.router.topology.primary)

    cold = Cold(shared.dsn)
    await at_each_await(lambda: session(cold.router, table), late, before=opened, after=cold.close)


@at_once_and_late
async def test_opening_with_wait(shared: LocalCluster, late: bool) -> None:
    async def new() -> None:
        cold.router = AsyncRouter(shared.dsn, writer=OPTIONS)

    cold = Cold(shared.dsn)
    await at_each_await(lambda: cold.router.open(wait=True), late, before=new, after=cold.close)


@at_once_and_late
async def test_closing(shared: LocalCluster, late: bool) -> None:
    async def opened() -> None:
        await cold.open()
        await cold.router.wait()
        await cold.router.wait("reader")

    async def close() -> None:
        await cold.router.close()

    cold = Cold(shared.dsn)
    await at_each_await(close, late, before=opened, after=close)


@at_once_and_late
async def test_who_queues_at_a_full_pool(shared: LocalCluster, table: str, late: bool) -> None:
    held: list[psycopg.AsyncConnection[Any]] = []

    async def fill() -> None:
        held.extend([await router.getconn("writer") for _ in range(SIZE)])

    async def drain() -> None:
        for _ in range(3):
            await asyncio.sleep(0)  # turns of the loop, in which the caller joins the queue
        while held:
            await router.putconn(held.pop())

    async with AsyncRouter(shared.dsn, writer=OPTIONS) as router:
        await at_each_await(
            lambda: session(router, table),
            late,
            before=fill,
            during=drain,
            after=lambda: assert_whole(router),
        )


async def test_an_interrupted_commit_says_that_it_may_be_committed(
    pgroute_cluster_factory: Callable[..., LocalCluster],
) -> None:
    cluster = await asyncio.to_thread(pgroute_cluster_factory, standbys=1, synchronous=True)
    primary, standby = cluster.nodes
    primary.execute("CREATE TABLE t (number int PRIMARY KEY)")
    async with AsyncRouter(cluster.dsn, writer=OPTIONS) as router:
        await router.wait()
        standby.freeze()
        task = asyncio.get_running_loop().create_task(session(router, "t"))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        await async_eventually(lambda: primary.execute(waiting))
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        standby.thaw()
        assert "it may have been committed" in str(caught.value.__notes__)
        await assert_whole(router)


async def test_a_deadline_of_asyncio_around_a_session(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=OPTIONS) as router:
        await router.wait()
        begun_at = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), router.writer() as conn:
                await conn.execute("SELECT pg_sleep(60)")
        assert time.monotonic() - begun_at < within(1.0)
        await assert_whole(router)


# A statement that is interrupted: psycopg alone waits up to 10 s for a frozen server's answers.


async def in_writer(router: AsyncRouter[Any], body: Body) -> None:
    async with router.writer() as conn:
        await body(conn)


async def in_run(router: AsyncRouter[Any], body: Body) -> None:
    await router.run(body)


async def in_attempts(router: AsyncRouter[Any], body: Body) -> None:
    async for attempt in router.attempts():
        async with attempt as conn:
            await body(conn)


async def asking(conn: psycopg.AsyncConnection[Any]) -> None:
    await conn.execute("SELECT 1")


async def streaming(conn: psycopg.AsyncConnection[Any]) -> None:
    async for _ in conn.cursor().stream("SELECT 1"):
        pass


async def copying(conn: psycopg.AsyncConnection[Any]) -> None:
    async with conn.cursor().copy("COPY (SELECT 1) TO STDOUT") as copy:
        await copy.read()


async def idling(_: psycopg.AsyncConnection[Any]) -> None:
    await asyncio.Event().wait()  # until it is cancelled


@pytest.mark.parametrize(
    ("session_of", "statement"),
    [
        (in_writer, asking),
        (in_run, asking),
        (in_attempts, asking),
        (in_writer, streaming),
        (in_writer, copying),
        (in_writer, idling),
        (in_run, idling),
    ],
)
async def test_a_deadline_on_a_frozen_only_host_is_kept(
    mended: LocalCluster, session_of: Callable[..., Any], statement: Body
) -> None:
    async def body(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute("SELECT 1")
        mended.nodes[0].freeze()
        await statement(conn)

    async with AsyncRouter(mended.nodes[0].conninfo) as router:
        await router.wait()
        begun_at = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await session_of(router, body)
        assert time.monotonic() - begun_at < 3.0
        mended.nodes[0].thaw()
        await router.wait()


async def test_a_connection_class_with_a_wait_of_its_own_is_not_waited_for_either(
    mended: LocalCluster,
) -> None:
    class Waiting(psycopg.AsyncConnection[Any]):
        waits = 0

        async def wait(self, *args: Any, **kwargs: Any) -> Any:
            Waiting.waits += 1
            return await super().wait(*args, **kwargs)

    async with AsyncRouter(mended.nodes[0].conninfo, connection_class=Waiting) as router:
        await router.wait()
        begun_at = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), router.writer() as conn:
                mended.nodes[0].freeze()
                await conn.execute("SELECT 1")
        assert time.monotonic() - begun_at < 3.0
    assert Waiting.waits


ASLEEP = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"


async def assert_cancelled(conn: psycopg.AsyncConnection[Any], primary: Node) -> None:
    """Assert that a statement which is interrupted is cancelled, and its connection goes on."""
    pid = conn.info.backend_pid
    task = asyncio.get_running_loop().create_task(sleeping(conn))
    await async_eventually(lambda: primary.execute(ASLEEP, [pid]))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not conn.closed
    await conn.rollback()
    await conn.execute("SELECT 1")
    assert primary.execute(ASLEEP, [pid]) == []


@pytest.mark.usefixtures("patient")
async def test_a_server_that_answers_cancels_the_statement_and_its_connection_goes_on(
    shared: LocalCluster,
) -> None:
    async with AsyncRouter(shared.dsn) as router, router.writer() as conn:
        await assert_cancelled(conn, shared.primary)


async def test_a_server_far_away_has_the_time_for_that(proxied: Proxied) -> None:
    proxy = proxied.proxies[0]
    proxy.delay(0.1)
    probe = ProbeOptions(timeout=10.0)
    async with AsyncRouter(FaultProxy.dsn([proxy]), probe=probe) as router:
        await async_eventually(lambda: (router.topology.hosts[0].rtt or 0.0) > 0.1)
        async with router.writer() as conn:
            await assert_cancelled(conn, proxied.cluster.primary)
            # The bound was of that statement: the next one may take longer, here than any bound.
            await conn.execute("SELECT pg_sleep(2.2)")


async def test_a_statement_is_cancelled_also_where_its_answer_is_not_waited_for(proxied: Proxied) -> None:
    primary = proxied.cluster.primary
    (proxy, *_) = proxied.proxies
    used: list[psycopg.AsyncConnection[Any]] = []

    async def body(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute("SELECT 1")
        used.append(conn)
        proxy.delay(0.5)  # what the probe has measured says nothing of it
        await sleeping(conn)

    async with AsyncRouter(FaultProxy.dsn([proxy])) as router:
        task = asyncio.get_running_loop().create_task(in_writer(router, body))
        await async_eventually(lambda: used)
        pid = used[0].info.backend_pid
        await async_eventually(lambda: primary.execute(ASLEEP, [pid]))
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert used[0].closed
        proxy.clear_faults()
        await async_eventually(lambda: not primary.execute(ASLEEP, [pid]))


async def test_a_coroutine_that_is_closed_amid_a_statement_closes_its_connection(
    shared: LocalCluster,
) -> None:
    used: list[psycopg.AsyncConnection[Any]] = []
    pids: list[int] = []

    async def body(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute("SELECT 1")
        pids.append(conn.info.backend_pid)
        used.append(conn)
        await sleeping(conn)

    def under_way() -> bool:
        return bool(used) and used[0].pgconn.transaction_status == ACTIVE

    async with AsyncRouter(shared.dsn, writer=OPTIONS) as router:
        await router.wait()
        await closed_once(in_writer(router, body), under_way)
        assert used[0].closed
        await assert_whole(router)
    shared.primary.execute(f"SELECT pg_terminate_backend({pids[0]}, 10000)")


@pytest.mark.parametrize("turns", range(6))
async def test_a_statement_is_cancelled_also_where_the_loop_stands_still_meanwhile(
    shared: LocalCluster, turns: int
) -> None:
    async with AsyncRouter(shared.dsn, writer=OPTIONS) as router:
        task = asyncio.get_running_loop().create_task(in_writer(router, sleeping))
        await async_eventually(lambda: shared.primary.execute(RUNNING))
        task.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)  # a turn of the loop, in which the cancellation goes one step further
        time.sleep(0.5)  # as an application that blocks its loop
        await asyncio.wait({task})
        await async_eventually(lambda: not shared.primary.execute(RUNNING))


async def test_a_statement_is_cancelled_as_soon_as_the_server_takes_the_request(proxied: Proxied) -> None:
    primary = proxied.cluster.primary
    (proxy, *_) = proxied.proxies
    async with AsyncRouter(FaultProxy.dsn([proxy])) as router:
        task = asyncio.get_running_loop().create_task(in_writer(router, sleeping))
        await async_eventually(lambda: primary.execute(RUNNING))
        proxy.refuse()
        task.cancel()
        await asyncio.wait({task})
        assert primary.execute(RUNNING)
        proxy.clear_faults()
        await async_eventually(lambda: not primary.execute(RUNNING))


async def sleeping(conn: psycopg.AsyncConnection[Any]) -> None:
    await conn.execute("SELECT pg_sleep(60) /* of the body */")


async def sleeping_in_a_block(conn: psycopg.AsyncConnection[Any]) -> None:
    async with conn.transaction():
        await sleeping(conn)


async def sleeping_in_copy(conn: psycopg.AsyncConnection[Any]) -> None:
    async with conn.cursor().copy("COPY (SELECT pg_sleep(60) /* of the body */) TO STDOUT") as copy:
        await copy.read()


async def in_fetch(router: AsyncRouter[Any], _: Body) -> None:
    await router.fetch("SELECT pg_sleep(60) /* of the body */", role="writer")


async def in_getconn(router: AsyncRouter[Any], body: Body) -> None:
    conn = await router.getconn("writer")
    try:
        await body(conn)
    finally:
        await router.putconn(conn)


def cancel_in_each_turn(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it ends, as anyio does, and so each framework that is built on it."""
    if not task.done():
        waits_for = getattr(task, "_fut_waiter", None)
        if waits_for is not None and not waits_for.done():
            task.cancel()
        asyncio.get_running_loop().call_soon(cancel_in_each_turn, task)


@pytest.mark.parametrize(
    ("session_of", "statement"),
    [
        (in_writer, sleeping),
        (in_writer, sleeping_in_a_block),
        (in_writer, sleeping_in_copy),
        (in_run, sleeping),
        (in_attempts, sleeping),
        (in_getconn, sleeping),
        (in_fetch, sleeping),
    ],
)
async def test_a_task_that_is_cancelled_in_each_turn_leaves_no_statement_at_the_server(
    shared: LocalCluster, session_of: Callable[..., Any], statement: Body
) -> None:
    async with AsyncRouter(shared.dsn, writer=OPTIONS) as router:
        await router.wait()
        task = asyncio.get_running_loop().create_task(session_of(router, statement))
        await async_eventually(lambda: shared.primary.execute(RUNNING))
        begun_at = time.monotonic()
        cancel_in_each_turn(task)
        await asyncio.wait({task})
        assert task.cancelled()
        assert time.monotonic() - begun_at < within(3.0)
        await async_eventually(lambda: not shared.primary.execute(RUNNING))
        await assert_whole(router)


@pytest.mark.parametrize("session_of", [in_writer, in_run, in_getconn])
@pytest.mark.usefixtures("patient")
async def test_a_cancelled_statement_that_the_server_begins_late_is_cancelled_there(
    shared: LocalCluster, session_of: Callable[..., Any]
) -> None:
    used: list[psycopg.AsyncConnection[Any]] = []
    pids: list[int] = []

    async def body(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute("SELECT 1")
        pids.append(conn.info.backend_pid)
        os.kill(pids[0], signal.SIGSTOP)
        used.append(conn)
        await sleeping(conn)

    async with AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        loop = asyncio.get_running_loop()
        task = loop.create_task(session_of(router, body))
        try:
            await async_eventually(lambda: used and used[0].pgconn.transaction_status == ACTIVE)
            task.cancel()
            # The server has ignored the first request by then.
            loop.call_later(0.3, os.kill, pids[0], signal.SIGCONT)
            await asyncio.wait({task})
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        assert task.cancelled()
        async with router.writer() as conn:
            assert [conn.info.backend_pid] == pids


@pytest.mark.parametrize("session_of", [in_writer, in_run, in_attempts, in_getconn])
@pytest.mark.usefixtures("patient")
async def test_a_task_that_is_cancelled_in_each_turn_keeps_its_connection_if_no_statement_runs(
    shared: LocalCluster, session_of: Callable[..., Any]
) -> None:
    pids: list[int] = []

    async def body(conn: psycopg.AsyncConnection[Any]) -> None:
        await conn.execute("SELECT 1")
        pids.append(conn.info.backend_pid)
        await idling(conn)

    async with AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        await router.wait()
        task = asyncio.get_running_loop().create_task(session_of(router, body))
        await async_eventually(lambda: pids)
        cancel_in_each_turn(task)
        await asyncio.wait({task})
        assert task.cancelled()
        async with router.writer() as conn:
            assert [conn.info.backend_pid] == pids


async def test_a_task_that_is_cancelled_in_each_turn_waits_no_longer_for_a_frozen_host(
    mended: LocalCluster,
) -> None:
    async with AsyncRouter(mended.nodes[0].conninfo) as router:
        await router.wait()
        used: list[psycopg.AsyncConnection[Any]] = []

        async def body(conn: psycopg.AsyncConnection[Any]) -> None:
            await conn.execute("SELECT 1")
            mended.nodes[0].freeze()
            used.append(conn)
            await conn.execute("SELECT 1")

        task = asyncio.get_running_loop().create_task(in_writer(router, body))
        await async_eventually(lambda: used and used[0].pgconn.transaction_status == ACTIVE)
        begun_at = time.monotonic()
        cancel_in_each_turn(task)
        await asyncio.wait({task})
        assert time.monotonic() - begun_at < 3.0
        assert not [each for each in asyncio.all_tasks() if "end_statement" in repr(each)]
        mended.nodes[0].thaw()
        await router.wait()


@pytest.mark.parametrize("interrupted", [False, True])
async def test_a_cancel_request_of_the_callers_own_closes_nothing(
    shared: LocalCluster, interrupted: bool
) -> None:
    async with AsyncRouter(shared.dsn, writer=OPTIONS) as router, router.writer() as conn:
        task = asyncio.get_running_loop().create_task(conn.execute("SELECT pg_sleep(60)"))
        await async_eventually(lambda: shared.primary.execute(ASLEEP, [conn.info.backend_pid]))
        try:
            raise asyncio.CancelledError if interrupted else KeyError
        except (asyncio.CancelledError, KeyError):
            await conn.cancel_safe(timeout=30.0)
        with pytest.raises(psycopg.errors.QueryCanceled):
            await task
        await conn.rollback()
        await conn.execute("SELECT 1")


async def test_hundreds_of_tasks_cancelled_at_random(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn, writer=OPTIONS) as router:
        await router.wait()
        loop = asyncio.get_running_loop()
        tasks = []
        for number in range(300):
            task = loop.create_task(session(router, table))
            loop.call_later(number % 37 / 500, task.cancel)
            tasks.append(task)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        await assert_whole(router)


async def test_an_application_that_cancels_all_tasks_has_its_callers_served_after_a_failover(
    any_cluster: LocalCluster,
) -> None:
    options = PoolOptions(max_size=1)
    async with AsyncRouter(any_cluster.dsn, writer=options, probe=ProbeOptions(interval=0.2)) as router:
        await router.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)  # a turn of the loop, in which they end
        held = await router.getconn("writer")
        old = held.info.port

        async def queue() -> int:
            async with router.writer(timeout=20.0) as conn:
                return conn.info.port

        waiter = asyncio.create_task(queue())
        await async_eventually(lambda: router.get_stats()["writer"]["requests_waiting"])
        await async_call(any_cluster.primary.kill)
        await async_call(any_cluster.promote)
        begun = time.monotonic()
        assert await waiter != old
        assert time.monotonic() - begun < within(5.0)
        await router.putconn(held)


@pytest.mark.parametrize("amid", [False, True], ids=["before its rows", "amid its rows"])
@pytest.mark.usefixtures("patient")
async def test_a_stream_that_is_cancelled_keeps_its_connection(shared: LocalCluster, amid: bool) -> None:
    query = "SELECT repeat('x', 1000), generate_series(1, 20000000)" if amid else "SELECT pg_sleep(60)"
    pids: list[int] = []
    received = False

    async def read(conn: psycopg.AsyncConnection[Any]) -> None:
        nonlocal received
        pids.append(conn.info.backend_pid)
        async for _ in conn.cursor().stream(query):
            received = True

    def under_way() -> Any:
        return received if amid else shared.primary.execute(ASLEEP, pids[-1:] or [0])

    async with AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1)) as router:
        for _ in range(2):
            received = False
            task = asyncio.get_running_loop().create_task(in_writer(router, read))
            await async_eventually(under_way)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
    assert len(pids) == 2
    assert len(set(pids)) == 1


# async-only: end
