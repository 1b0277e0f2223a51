"""The pools: what they hold at the servers, what they do when they are full, and what they tell."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.pq import TransactionStatus

from pgroute import (
    AsyncRouter,
    ConfigError,
    Event,
    EventKind,
    HostKey,
    NoHostAvailable,
    PoolExhausted,
    PoolOptions,
    Role,
)
from pgroute.testing import LocalCluster, Node
from tests.aio.workload import key
from tests.support import AsyncBackground, async_call, async_eventually, within

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)
LATE = 0.1
"""Seconds by which a deadline may be passed on a busy machine."""


def names(node: Node) -> list[str]:
    """Return the application names of the clients' sessions at a server."""
    rows = node.execute(
        "SELECT application_name FROM pg_stat_activity WHERE backend_type = 'client backend'"
        " AND application_name <> 'pgroute-testing'"
    )
    return sorted(name for (name,) in rows)


async def pid_of(router: AsyncRouter[Any], timeout: float | None = None) -> int:
    async with router.writer(timeout) as conn:
        return int(conn.info.backend_pid)


# Connections at the servers.


async def test_a_process_that_only_writes_has_one_probe_connection_at_each_standby(
    shared: LocalCluster,
) -> None:
    async with AsyncRouter(shared.dsn, kwargs={"application_name": "shop"}) as router:
        for _ in range(20):
            await pid_of(router)
        await async_eventually(lambda: all(host.usable for host in router.topology.hosts))
        primary, *standbys = shared.nodes
        assert names(primary) == ["shop", "shop pgroute-monitor"]
        assert [names(node) for node in standbys] == [["shop pgroute-monitor"]] * 2


async def test_a_new_pool_opens_one_connection_and_min_size_follows(shared: LocalCluster) -> None:
    options = PoolOptions(min_size=4, kwargs={"application_name": "pooled"})
    async with AsyncRouter(shared.dsn, writer=options) as router:
        await pid_of(router)
        await async_eventually(lambda: names(shared.primary).count("pooled") == 4)


async def test_a_pool_with_min_size_0_serves(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=PoolOptions(min_size=0)) as router:
        assert await pid_of(router) == await pid_of(router)


async def test_a_pool_grows_no_further_than_max_size(shared: LocalCluster) -> None:
    options = PoolOptions(max_size=3, kwargs={"application_name": "pooled"})
    done = threading.Event()

    async def hold(router: AsyncRouter[Any]) -> None:
        async with router.writer():
            await async_eventually(done.is_set)

    async with AsyncRouter(shared.dsn, writer=options) as router, AsyncBackground() as background:
        holders = [background.start(hold, router) for _ in range(8)]

        def asked_and_waiting() -> tuple[Any, Any]:
            stats = router.get_stats()["writer"]
            return stats.get("requests_num"), stats.get("requests_waiting")

        await async_eventually(lambda: asked_and_waiting() == (8, 5))
        assert names(shared.primary).count("pooled") == 3
        done.set()
        for holder in holders:
            await holder.result()


# Full pools.


async def test_a_full_pool_is_told_at_the_deadline_with_sizes_users_and_waiters(
    shared: LocalCluster,
) -> None:
    async def late(router: AsyncRouter[Any]) -> tuple[float, str]:
        asked_at = time.monotonic()
        with pytest.raises(PoolExhausted) as caught:
            await pid_of(router, 0.3)
        assert isinstance(caught.value, psycopg_pool.PoolTimeout)
        return time.monotonic() - asked_at, str(caught.value)

    async with (
        AsyncRouter(shared.dsn, writer=PoolOptions(max_size=2)) as router,
        router.writer(),
        router.writer(),
        AsyncBackground() as background,
    ):
        callers = [background.start(late, router) for _ in range(3)]
        results = [await caller.result() for caller in callers]
    assert all(0.3 <= waited < within(0.3 + LATE) for waited, _ in results)
    assert all(str(key(shared.nodes[0])) in text for _, text in results)
    assert all("2 of max_size 2 connections in use, " in text for _, text in results)
    assert all("waiting" in text for _, text in results)


async def test_a_deadline_beyond_the_next_routing_is_kept_too(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router, router.writer():
        asked_at = time.monotonic()
        with pytest.raises(PoolExhausted):
            await pid_of(router, 1.3)
        assert 1.3 <= time.monotonic() - asked_at < within(1.3 + LATE)


async def test_who_waits_is_served_when_a_session_ends(shared: LocalCluster) -> None:
    async with (
        AsyncRouter(shared.dsn, writer=ONE) as router,
        AsyncBackground() as background,
    ):
        conn = await router.getconn("writer")
        waiters = [background.start(pid_of, router) for _ in range(5)]
        await async_eventually(lambda: router.get_stats()["writer"].get("requests_waiting") == 5)
        returned_at = time.monotonic()
        await router.putconn(conn)
        pids = {await waiter.result() for waiter in waiters}
        assert time.monotonic() - returned_at < within(0.2)
        assert len(pids) == 1


async def test_who_would_queue_beyond_max_waiting_is_told_at_once(shared: LocalCluster) -> None:
    options = PoolOptions(max_size=1, max_waiting=1)
    async with AsyncRouter(shared.dsn, writer=options) as router, AsyncBackground() as background:
        conn = await router.getconn("writer")
        waiter = background.start(pid_of, router)
        await async_eventually(lambda: router.get_stats()["writer"].get("requests_waiting") == 1)
        asked_at = time.monotonic()
        with pytest.raises(PoolExhausted):
            await pid_of(router, 5.0)
        assert time.monotonic() - asked_at < within(LATE)
        await router.putconn(conn)
        await waiter.result()


async def test_timeout_0_takes_what_is_idle(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        pid = await pid_of(router)
        assert await pid_of(router, 0) == pid


async def test_timeout_0_does_not_wait_for_a_full_pool(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router, router.writer():
        asked_at = time.monotonic()
        with pytest.raises(PoolExhausted):
            await pid_of(router, 0)
        assert time.monotonic() - asked_at < within(LATE)


async def test_full_reader_pools_do_not_keep_a_writer_waiting(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, reader=ONE) as router:
        await async_eventually(lambda: all(host.usable for host in router.topology.hosts))
        held = [await router.getconn("reader") for _ in range(2)]
        asked_at = time.monotonic()
        await pid_of(router)
        assert time.monotonic() - asked_at < within(0.5)
        for conn in held:
            await router.putconn(conn)


async def test_a_reader_goes_to_the_other_standby_when_one_is_full(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, reader=ONE, reader_attrs="standby") as router:
        await async_eventually(lambda: all(host.usable for host in router.topology.hosts))
        held = [await router.getconn("reader", timeout=2.0) for _ in range(2)]
        assert {conn.info.port for conn in held} == {node.port for node in shared.nodes[1:]}
        for conn in held:
            await router.putconn(conn)


# The primitives.


async def test_getconn_and_putconn_are_a_session_without_its_end(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        conn = await router.getconn("writer")
        await conn.execute(f"INSERT INTO {table} VALUES (1)")
        await conn.commit()
        await router.putconn(conn)
        assert await router.getconn("writer") is conn
        await router.putconn(conn)
    assert shared.primary.execute(f"SELECT number FROM {table}") == [(1,)]


async def test_putconn_rolls_an_open_transaction_back(shared: LocalCluster, table: str) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        conn = await router.getconn("writer")
        await conn.execute(f"INSERT INTO {table} VALUES (1)")
        await router.putconn(conn)
        async with router.writer() as again:
            assert again is conn
            assert conn.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert shared.primary.execute(f"SELECT number FROM {table}") == []


async def test_putconn_takes_a_broken_connection(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router:
        conn = await router.getconn("writer")
        with pytest.raises(psycopg.errors.AdminShutdown):
            await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        await router.putconn(conn)
        await pid_of(router, 2.0)


async def test_getconn_knows_two_roles(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        conn = await router.getconn("reader")
        assert conn.info.port in {node.port for node in shared.nodes[1:]}
        await router.putconn(conn)
        with pytest.raises(ConfigError, match="'writer' or 'reader'"):
            await router.getconn("primary")  # type: ignore[arg-type]


async def test_putconn_refuses_a_connection_that_is_not_ours(shared: LocalCluster) -> None:
    async with (
        AsyncRouter(shared.dsn) as router,
        AsyncRouter(shared.dsn) as other,
        await psycopg.AsyncConnection.connect(shared.primary.conninfo) as strange,
        other.writer() as theirs,
    ):
        for conn in (strange, theirs):
            with pytest.raises(ValueError, match="not a connection taken from"):
                await router.putconn(conn)
        await theirs.execute("SELECT 1")


async def test_putconn_repeats_no_password(shared: LocalCluster) -> None:
    given: Any = "postgresql://app:hunter2@db1/shop"
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(ValueError, match="not a connection taken from") as caught:
            await router.putconn(given)
    assert "hunter2" not in str(caught.value)


async def test_putconn_refuses_a_connection_that_is_back_already(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        conn = await router.getconn("writer")
        await router.putconn(conn)
        with pytest.raises(ValueError, match="not a connection taken from"):
            await router.putconn(conn)
        assert await pid_of(router, 1.0) == conn.info.backend_pid


async def test_a_connection_is_put_back_though_a_statement_of_another_is_running(
    shared: LocalCluster,
) -> None:
    async with (
        AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1)) as router,
        AsyncBackground() as background,
    ):
        conn = await router.getconn("writer")
        pid, asked_at = conn.info.backend_pid, time.monotonic()
        sleep = background.start(conn.execute, "SELECT pg_sleep(20)")
        await async_eventually(lambda: conn.pgconn.transaction_status == TransactionStatus.ACTIVE)
        await router.putconn(conn)
        with pytest.raises(psycopg.OperationalError):
            await sleep.result()
        assert time.monotonic() - asked_at < within(10.0)
        await async_call(shared.primary.execute, f"SELECT pg_terminate_backend({pid})")
        async with router.writer() as conn:
            await conn.execute("SELECT 1")


def is_free(lock: Any) -> bool:
    if not lock.acquire(timeout=5.0):
        return False
    lock.release()
    return True


@pytest.mark.parametrize("change", ["expire", "resize"])
async def test_all_pools_are_changed_without_the_lock_that_close_takes(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    async with AsyncRouter(shared.dsn) as router, AsyncBackground() as background:
        async with router.writer():
            pass
        role_pool = router._manager.pools[Role.WRITER]
        [pool] = role_pool._pools.values()
        begun, real = threading.Event(), getattr(pool, change)

        def noted(*args: Any) -> None:
            begun.set()
            real(*args)

        monkeypatch.setattr(pool, change, noted)
        arguments = (1, 2) if change == "resize" else ()
        with pool._lock:
            work = background.start(async_call, getattr(role_pool, change), *arguments)
            await async_eventually(begun.is_set)
            assert await async_call(is_free, role_pool._lock)
        await work.result()


async def test_of_two_that_put_a_connection_back_at_the_same_time_one_is_refused(
    shared: LocalCluster,
) -> None:
    async def put(router: AsyncRouter[Any], conn: Any) -> bool:
        try:
            await router.putconn(conn)
        except ValueError:
            return False
        return True

    async with (
        AsyncRouter(shared.dsn, writer=PoolOptions(max_size=1)) as router,
        AsyncBackground() as background,
    ):
        for _ in range(20):
            conn = await router.getconn("writer")
            await conn.execute("SELECT 1")  # a ROLLBACK follows, for whose answer the other does not wait
            works = [background.start(put, router, conn) for _ in range(2)]
            assert sorted([await work.result() for work in works]) == [False, True]
            conn = await router.getconn("writer")
            assert await put(router, conn)
            assert router.stats().writer.totals["pool_available"] == 1


# Waiting for a role.


async def test_wait_returns_when_a_session_could_be_had(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        await router.wait()
        await router.wait("reader")
        assert router.get_stats()["writer"]["pool_available"] == 1


async def test_wait_raises_as_a_session_would_and_closes_nothing(mended: LocalCluster) -> None:
    for node in mended.nodes:
        node.stop()
    async with AsyncRouter(mended.dsn) as router:
        with pytest.raises(NoHostAvailable):
            await router.wait(timeout=0.1)
        await async_call(mended.nodes[0].start)
        await router.wait(timeout=5.0)
        await pid_of(router)


async def test_opening_may_wait_for_a_writer(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn)
    await router.open(wait=True)
    assert router.topology.primary is not None
    await pid_of(router, 0)
    await router.close()


async def test_opening_needs_no_host(mended: LocalCluster) -> None:
    for node in mended.nodes:
        node.stop()
    router = AsyncRouter(mended.dsn)
    opened_at = time.monotonic()
    await router.open()
    assert time.monotonic() - opened_at < within(0.5)
    with pytest.raises(NoHostAvailable):
        await router.open(wait=True, timeout=0.1)
    await async_call(mended.nodes[0].start)
    await pid_of(router, 5.0)
    await router.close()


# What is counted and told.


async def test_statistics_have_the_keys_of_psycopg_pool(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        async with router.writer():
            stats = router.get_stats()
        assert stats["writer"]["pool_min"] == 1
        assert stats["writer"]["pool_max"] == 10
        assert stats["writer"]["pool_size"] == 1
        assert stats["writer"]["pool_available"] == 0
        assert stats["writer"]["requests_num"] == 1
        assert stats["writer"]["connections_num"] == 1
        assert stats["reader"]["requests_waiting"] == 0
        await pid_of(router)
        assert router.get_stats()["writer"]["requests_num"] == 2


async def test_statistics_by_role_and_host(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        async with router.writer():
            stats = router.stats()
        assert list(stats.writer.hosts) == [key(shared.nodes[0])]
        assert stats.writer.hosts[key(shared.nodes[0])]["in_use"] == 1
        assert stats.reader.hosts == {}
        assert router.stats().writer.hosts[key(shared.nodes[0])]["in_use"] == 0


async def test_counters_outlive_the_pool_they_were_counted_in(any_cluster: LocalCluster) -> None:
    async with AsyncRouter(any_cluster.dsn) as router:
        for _ in range(5):
            await pid_of(router)
        await async_call(any_cluster.primary.kill)
        await async_call(any_cluster.promote, repoint=False)
        await pid_of(router)
        assert router.get_stats()["writer"]["requests_num"] >= 6
        await async_eventually(lambda: len(router.stats().writer.hosts) == 1)


async def test_a_subscriber_is_told_the_events_in_order(shared: LocalCluster) -> None:
    events: list[Event] = []
    threads: set[str] = set()

    def note(event: Event) -> None:
        events.append(event)
        threads.add(threading.current_thread().name)

    router = AsyncRouter(shared.dsn)
    router.subscribe(note)
    await router.open(wait=True)
    await async_eventually(lambda: all(host.usable for host in router.topology.hosts))
    await router.close()
    assert threads == {"pgroute-events"}
    assert [event.at for event in events] == sorted(event.at for event in events)
    changed = {event.host for event in events if event.kind is EventKind.HOST_CHANGED}
    assert changed == {key(node) for node in shared.nodes}
    [primary] = [event for event in events if event.kind is EventKind.PRIMARY_CHANGED]
    assert primary.host == key(shared.nodes[0])
    assert str(primary) == f"primary is {primary.host}, timeline 1"


def an_event(number: int) -> Event:
    return Event(EventKind.HOST_CHANGED, float(number), HostKey("h", 1), f"event {number}")


async def test_a_subscriber_that_unsubscribed_is_told_no_more(shared: LocalCluster) -> None:
    first: list[Event] = []
    second: list[Event] = []
    async with AsyncRouter(shared.dsn) as router:
        leave = router.subscribe(first.append)
        router.subscribe(second.append)
        router._manager.dispatcher.put((an_event(1),))
        await async_eventually(lambda: any(event.text == "event 1" for event in second))
        leave()
        leave()
        router._manager.dispatcher.put((an_event(2),))
        await async_eventually(lambda: any(event.text == "event 2" for event in second))
    assert any(event.text == "event 1" for event in first)
    assert not any(event.text == "event 2" for event in first)


@pytest.mark.parametrize("error", [KeyError, SystemExit])
async def test_a_subscriber_that_fails_does_not_keep_others_from_hearing(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    heard: list[Event] = []

    def fail(event: Event) -> None:
        raise error(event.text)

    async with AsyncRouter(shared.dsn) as router:
        router.subscribe(fail)
        router.subscribe(heard.append)
        router._manager.dispatcher.put((an_event(1),))
        await async_eventually(lambda: any(event.text == "event 1" for event in heard))
    assert "a subscriber failed on event 1" in caplog.text


async def test_a_slow_subscriber_holds_nothing_up_and_misses_events(shared: LocalCluster) -> None:
    go_on = threading.Event()
    heard: list[Event] = []

    def slow(event: Event) -> None:
        go_on.wait(30)
        heard.append(event)

    async with AsyncRouter(shared.dsn) as router:
        router.subscribe(slow)
        for number in range(1500):
            router._manager.dispatcher.put((an_event(number),))
        await pid_of(router)
        assert router.stats().events_dropped >= 499
        go_on.set()
        await async_eventually(lambda: len(heard) >= 1000)
    numbers = [event.at for event in heard if event.host == HostKey("h", 1)]
    assert numbers == sorted(numbers)


def test_a_subscriber_must_be_callable() -> None:
    with pytest.raises(ConfigError, match="fn"):
        AsyncRouter("host=localhost").subscribe("print")  # type: ignore[arg-type]
