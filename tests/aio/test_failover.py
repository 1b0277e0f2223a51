"""The primary crashes and a standby is promoted."""

from __future__ import annotations

import asyncio  # async-only
import threading
import time
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, NoHostAvailable, PoolExhausted, PoolOptions
from pgroute.core.schedule import CONNECT_GAP
from pgroute.testing import FaultProxy, LocalCluster, Node
from tests.aio.workload import (
    Account,
    keep_reading,
    keep_writing,
    key,
    make_table,
    numbers,
    read,
    write,
)
from tests.support import AsyncBackground, async_call, async_eventually, within

pytestmark = pytest.mark.cluster

OUTAGE = 0.4
"""Seconds from the crash to the promotion."""


def crash_and_promote(cluster: LocalCluster, crash: str = "kill") -> tuple[Node, float]:
    """Crash the primary, promote a standby after the outage; return it and when its promotion was seen."""
    old = cluster.primary
    if crash == "kill":
        old.kill()
    else:
        old.stop("immediate")
    time.sleep(OUTAGE)  # its length is what the test gives, as an operator would
    new = cluster.promote(repoint=False)
    return new, time.monotonic()


async def test_twenty_writers_that_wait_all_write_after_the_promotion(cluster: LocalCluster) -> None:
    make_table(cluster)
    async with AsyncRouter(cluster.dsn) as router, AsyncBackground() as background:
        await write(router, 0)
        await async_call(cluster.catch_up)
        await async_call(cluster.primary.kill)
        writers = [background.start(write, router, number) for number in range(1, 21)]
        await asyncio.sleep(OUTAGE)  # as above
        new = await async_call(cluster.promote, repoint=False)
        promoted_at = time.monotonic()
        sessions = [await writer.result() for writer in writers]
    assert {session.port for session in sessions} == {new.port}
    assert max(session.ended for session in sessions) - promoted_at < within(1.0)
    assert await numbers(new) == [*range(21)]


@pytest.mark.parametrize(
    ("crash", "outage"), [("immediate", 0.2), pytest.param("kill", 5.0, marks=pytest.mark.long)]
)
async def test_a_writer_waits_for_the_promotion_and_little_longer(
    any_cluster: LocalCluster, crash: str, outage: float
) -> None:
    make_table(any_cluster)
    old = any_cluster.primary
    async with AsyncRouter(any_cluster.dsn) as router, AsyncBackground() as background:
        await write(router, 0)
        await async_call(any_cluster.catch_up)
        await async_call(*((old.kill,) if crash == "kill" else (old.stop, crash)))
        writer = background.start(write, router, 1)
        await asyncio.sleep(outage)
        new = await async_call(any_cluster.promote, repoint=False)
        promoted_at = time.monotonic()
        session = await writer.result()
    assert session.port == new.port
    assert session.ended - promoted_at < within(1.0)


@pytest.mark.parametrize("crash", ["kill", "immediate"])
async def test_a_session_in_flight_gets_its_error_once_and_the_next_one_works(
    any_cluster: LocalCluster, crash: str
) -> None:
    make_table(any_cluster)
    begun, gone = threading.Event(), threading.Event()
    errors: list[psycopg.Error] = []

    async def work(router: AsyncRouter[Any]) -> int:
        with pytest.raises(psycopg.OperationalError) as caught:
            async with router.writer() as conn:
                await conn.execute("INSERT INTO written VALUES (1)")
                begun.set()
                await async_eventually(gone.is_set)
                await conn.execute("INSERT INTO written VALUES (2)")
        errors.append(caught.value)
        return (await write(router, 3)).port

    async with AsyncRouter(any_cluster.dsn) as router, AsyncBackground() as background:
        worker = background.start(work, router)
        await async_eventually(begun.is_set)
        new, _ = await async_call(crash_and_promote, any_cluster, crash)
        gone.set()
        assert await worker.result() == new.port
    assert type(errors[0]).__module__.startswith("psycopg"), "the body's own error passes untouched"
    assert await numbers(new) == [3]


async def test_writers_at_work_lose_only_sessions_in_flight(any_cluster: LocalCluster) -> None:
    make_table(any_cluster)
    stop = threading.Event()
    accounts = [Account() for _ in range(5)]
    async with AsyncRouter(any_cluster.dsn) as router, AsyncBackground() as background:
        for index, account in enumerate(accounts):
            background.start(keep_writing, router, stop, account, index * 1_000_000)
        await async_eventually(lambda: all(account.sessions for account in accounts))
        await async_call(any_cluster.primary.kill)  # one process after the other: it takes some milliseconds
        killed_at = time.monotonic()
        await asyncio.sleep(OUTAGE)
        new, promoted_at = await async_call(promote, any_cluster)
        await async_eventually(lambda: all(account.since(promoted_at) for account in accounts))
        stop.set()
    for account in accounts:
        assert account.errors_since(killed_at) == []
        assert {session.port for session in account.since(promoted_at)} == {new.port}


async def test_two_hundred_waiters_at_a_full_pool_cause_one_discovery(
    pgroute_cluster_factory, pgroute_proxy_factory
) -> None:
    cluster = pgroute_cluster_factory(standbys=1)
    make_table(cluster)
    old, new = cluster.nodes
    proxies = [pgroute_proxy_factory(node) for node in cluster.nodes]
    patience = 0.3

    async def told(router: AsyncRouter[Any], number: int) -> float:
        asked_at = time.monotonic()
        with pytest.raises((PoolExhausted, NoHostAvailable)):
            await write(router, number, timeout=patience)
        return time.monotonic() - asked_at - patience

    dsn = FaultProxy.dsn(proxies)
    async with AsyncRouter(dsn, writer=PoolOptions(max_size=4)) as router, AsyncBackground() as background:
        held = [await router.getconn("writer") for _ in range(4)]
        waiters = [background.start(write, router, number) for number in range(100, 200)]
        impatient = [background.start(told, router, number) for number in range(100)]
        # On a busy machine the first of the impatient have given up before the last has asked.
        await async_eventually(lambda: router.get_stats()["writer"]["requests_queued"] >= 200)
        before = [proxy.attempts for proxy in proxies]
        begun_at = time.monotonic()
        await async_call(old.kill)
        overrun = [await waiter.result() for waiter in impatient]
        await async_call(new.promote)
        sessions = [await waiter.result() for waiter in waiters]
        seconds = time.monotonic() - begun_at
        made = [proxy.attempts - count for proxy, count in zip(proxies, before, strict=True)]
        for conn in held:
            await router.putconn(conn)
    assert min(overrun) >= 0
    assert max(overrun) < within(1.0)
    assert {session.port for session in sessions} == {new.port}
    assert made[0] <= seconds / CONNECT_GAP + 2, "the probe's, and the pool's before it was closed"
    assert made[1] <= 4 + 2, "the pool's, and one to ask anew"
    assert await numbers(new) == [*range(100, 200)]


async def test_every_acknowledged_row_is_there_after_the_failover(pgroute_cluster_factory) -> None:
    cluster = pgroute_cluster_factory(synchronous=True)
    make_table(cluster)
    stop = threading.Event()
    accounts = [Account() for _ in range(4)]
    async with AsyncRouter(cluster.dsn) as router, AsyncBackground() as background:
        for index, account in enumerate(accounts):
            background.start(keep_writing, router, stop, account, index * 1_000_000)
        await async_eventually(lambda: all(len(account.written) > 20 for account in accounts))
        await async_call(cluster.primary.kill)
        new = await async_call(cluster.promote)
        promoted_at = time.monotonic()
        await async_eventually(lambda: all(account.since(promoted_at) for account in accounts))
        stop.set()
    found = set(await numbers(new))
    acknowledged = {number for account in accounts for number in account.written}
    unknown = {number for account in accounts for number in account.unknown}
    assert acknowledged - found == set()
    assert found - acknowledged - unknown == set()


async def test_readers_go_on_through_a_crash_of_the_primary(any_cluster: LocalCluster) -> None:
    stop = threading.Event()
    account = Account()
    async with AsyncRouter(any_cluster.dsn) as router, AsyncBackground() as background:
        background.start(keep_reading, router, stop, account)
        await async_eventually(lambda: account.sessions)
        crashed_at = time.monotonic()
        await async_call(any_cluster.primary.kill)
        await asyncio.sleep(OUTAGE)
        assert account.since(crashed_at), "reads go on while there is no primary"
        _, promoted_at = await async_call(promote, any_cluster)
        await async_eventually(lambda: account.since(promoted_at))
        stop.set()
    assert account.errors == []
    longest = max(b.ended - a.ended for a, b in zip(account.sessions, account.sessions[1:], strict=False))
    assert longest < within(1.0)


async def test_a_promoted_host_leaves_the_reader_pool(any_cluster: LocalCluster) -> None:
    async with AsyncRouter(any_cluster.dsn) as router:
        await async_eventually(lambda: len(router.topology.standbys) == 2)
        ports = {(await read(router)).port for _ in range(50)}
        assert len(ports) == 2, "there is a pool with idle connections to each standby"
        await async_call(any_cluster.primary.kill)
        new, _ = await async_call(promote, any_cluster)
        await router.wait("writer")
        assert router.topology.primary is not None
        assert router.topology.primary.key == key(new)
        ports = {(await read(router)).port for _ in range(20)}
        await async_eventually(lambda: key(new) not in router.stats().reader.hosts)
    assert ports == {node.port for node in any_cluster.nodes if node.running and node is not new}


async def test_a_reader_whose_host_is_promoted_stays_read_only_to_the_end(
    pgroute_cluster_factory,
) -> None:
    cluster = pgroute_cluster_factory(standbys=1)
    make_table(cluster)
    async with AsyncRouter(cluster.dsn) as router:
        async with router.reader() as conn:
            assert conn.info.port == cluster.nodes[1].port
            await conn.execute("SELECT 1")
            await conn.commit()
            await async_call(cluster.primary.kill)
            await async_call(promote, cluster)
            await router.wait("writer")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await conn.execute("INSERT INTO written VALUES (1)")
            await conn.rollback()
        await write(router, 2)
    assert await numbers(cluster.nodes[1]) == [2]


def promote(cluster: LocalCluster) -> tuple[Node, float]:
    """Promote a standby; return it and when its promotion was seen."""
    return cluster.promote(repoint=False), time.monotonic()
