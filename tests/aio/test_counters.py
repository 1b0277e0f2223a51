"""What a router counts of its sessions and hosts: `stats().counts`."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, CommitUnknown, NoHostAvailable, PoolExhausted, PoolOptions, ProbeOptions
from pgroute.testing import LocalCluster
from tests.aio.replicas import OFTEN, standbys_as_they_were
from tests.support import AsyncBackground, async_call, async_eventually

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)
SELDOM = ProbeOptions(interval=60.0)


def failing(sqlstate: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'as asked for' USING ERRCODE = '{sqlstate}'; END $$"


async def test_sessions_are_counted_by_role(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        for _ in range(3):
            async with router.writer():
                pass
        await router.fetch("SELECT 1")
        await router.putconn(await router.getconn("reader"))
        counts = router.stats().counts
    assert counts.sessions == {"writer": 3, "reader": 2}
    assert sum(sum(errors.values()) for errors in counts.session_errors.values()) == 0
    assert (counts.failovers, counts.outages, counts.without_writer_seconds) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("sqlstate", "cause"), [("40001", "serialization"), ("40P01", "deadlock"), ("25006", "read-only")]
)
async def test_retries_are_counted_by_cause(shared: LocalCluster, sqlstate: str, cause: str) -> None:
    attempts = []

    async def body(conn: psycopg.AsyncConnection[Any]) -> None:
        attempts.append(conn)
        if len(attempts) < 3:
            await conn.execute(failing(sqlstate))

    async with AsyncRouter(shared.dsn) as router:
        await router.run(body)
        counts = router.stats().counts
    assert {name for name, count in counts.retries.items() if count} == {cause}
    assert counts.retries[cause] == 2
    assert counts.sessions["writer"] == 3


async def test_a_lost_connection_is_a_cause_of_retries(shared: LocalCluster) -> None:
    attempts = []

    async def body(conn: psycopg.AsyncConnection[Any]) -> None:
        attempts.append(conn)
        if len(attempts) < 2:
            await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    async with AsyncRouter(shared.dsn) as router:
        await router.run(body)
        retries = router.stats().counts.retries
    assert retries["lost"] == sum(retries.values()) == 1


async def test_an_unknown_outcome_is_counted_once(shared: LocalCluster, table: str) -> None:
    shared.primary.execute(
        f"""CREATE FUNCTION {table}_f() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"""
    )
    shared.primary.execute(
        f"""CREATE CONSTRAINT TRIGGER suicide AFTER INSERT ON {table} INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION {table}_f()"""
    )
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(CommitUnknown):
            async with router.writer() as conn:
                await conn.execute(f"INSERT INTO {table} VALUES (1)")
        assert router.stats().counts.commits_unknown == 1
        with pytest.raises(CommitUnknown):
            await router.execute(f"INSERT INTO {table} VALUES (2)")
        assert router.stats().counts.commits_unknown == 2


async def test_readers_that_the_primary_serves_are_counted(shared: LocalCluster) -> None:
    primary, *standbys = shared.nodes
    async with AsyncRouter(shared.dsn) as router:
        for node in standbys:
            await router.drain(f"{node.host}:{node.port}")
        async with router.reader() as conn:
            assert conn.info.port == primary.port
        async with router.writer(), router.connection("any"):
            pass
        assert router.stats().counts.readers_on_primary == 1
        await router.readmit(f"{standbys[0].host}:{standbys[0].port}")
        async with router.reader() as conn:
            assert conn.info.port == standbys[0].port, router.topology
        assert router.stats().counts.readers_on_primary == 1


async def test_waits_for_a_position_are_counted_by_their_outcome(mended: LocalCluster) -> None:
    with standbys_as_they_were(mended) as cluster:
        primary, *standbys = cluster.nodes
        async with AsyncRouter(cluster.dsn, probe=SELDOM) as router:
            await async_eventually(lambda: all(host.usable for host in router.topology.hosts))
            causal = router.causal()
            async with causal.writer() as conn:
                await conn.execute("INSERT INTO written VALUES (1)")
            await async_call(cluster.catch_up)
            async with causal.reader(wait=5.0) as conn:
                assert conn.info.port != primary.port
            assert router.stats().counts.position_waits == {"met": 1, "behind": 0}
            for node in standbys:
                await async_call(node.pause_replay)
            async with causal.writer() as conn:
                await conn.execute("INSERT INTO written VALUES (2)")
            async with causal.reader(wait=0.1) as conn:
                assert conn.info.port == primary.port
            counts = router.stats().counts
    assert counts.position_waits["met"] == 1
    # The second one is not asked if the first question has taken the whole time.
    assert counts.position_waits["behind"] in (1, 2)
    assert counts.position_wait_seconds > 0.0
    assert counts.readers_on_primary == 1


async def test_an_outage_is_counted_while_it_goes_on(mended: LocalCluster) -> None:
    async with AsyncRouter(mended.dsn, probe=OFTEN) as router:
        await router.wait()
        # On a busy machine the primary may have been lost for a moment already.
        before, begun = router.stats().counts, time.monotonic()
        await async_call(mended.nodes[0].stop, "immediate")
        await async_eventually(lambda: not router.topology.writable)
        with pytest.raises(NoHostAvailable):
            async with router.writer(timeout=0.1):
                pass

        def without() -> float:
            return router.stats().counts.without_writer_seconds - before.without_writer_seconds

        first = without()
        await async_eventually(lambda: without() > first)
        second = without()
        assert 0.0 < first < second < time.monotonic() - begun
        assert router.stats().counts.outages == before.outages
        await async_call(mended.nodes[0].start)
        await router.wait()
        counts = router.stats().counts
    assert counts.outages > before.outages
    assert counts.failovers == 0
    assert counts.without_writer_seconds - before.without_writer_seconds > second
    assert counts.session_errors["writer"]["NoHostAvailable"] == 1
    assert counts.events["primary-lost"] > before.events["primary-lost"]
    assert router.stats().counts.without_writer_seconds == counts.without_writer_seconds


async def test_a_failover_is_counted_with_its_time(any_cluster: LocalCluster) -> None:
    async with AsyncRouter(any_cluster.dsn, probe=OFTEN) as router:
        async with router.writer():
            pass
        begun = time.monotonic()
        old = any_cluster.primary
        await async_call(old.kill)
        await async_eventually(lambda: not router.topology.writable)
        new = await async_call(any_cluster.promote)
        async with router.writer() as conn:
            assert conn.info.port == new.port
        elapsed = time.monotonic() - begun
        counts = router.stats().counts
    assert (counts.failovers, counts.outages) == (1, 1)
    assert 0.0 < counts.failover_seconds < elapsed
    assert counts.failover_seconds == counts.without_writer_seconds
    assert counts.sessions["writer"] == 2


async def test_a_full_pool_is_counted(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, writer=ONE) as router, router.writer():
        with pytest.raises(PoolExhausted):
            async with router.writer(timeout=0.05):
                pass
        errors = router.stats().counts.session_errors
    assert errors["writer"]["PoolExhausted"] == sum(errors["writer"].values()) == 1


async def test_a_router_that_is_not_open_counts_no_errors(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn)
    with pytest.raises(psycopg.OperationalError):
        async with router.writer():
            pass
    assert sum(router.stats().counts.session_errors["writer"].values()) == 0


async def test_callers_that_wait_for_a_host_are_told(mended: LocalCluster) -> None:
    async def write(router: AsyncRouter[Any]) -> None:
        async with router.writer():
            pass

    async with AsyncRouter(mended.dsn, probe=OFTEN) as router, AsyncBackground() as background:
        await router.wait()
        waiting = router._manager.meter.waiting
        assert sum(waiting.values()) == 0
        await async_call(mended.nodes[0].stop, "immediate")
        workers = [background.start(write, router) for _ in range(3)]
        await async_eventually(lambda: sum(waiting.values()) == 3)
        await async_call(mended.nodes[0].start)
        for worker in workers:
            await worker.result()
        assert sum(waiting.values()) == 0


async def test_counters_of_a_host_survive_its_generations(mended: LocalCluster) -> None:
    async with AsyncRouter(mended.dsn, probe=OFTEN, writer=ONE) as router:
        for _ in range(2):
            async with router.writer():
                pass
            await async_call(mended.nodes[0].stop, "fast")
            await async_eventually(lambda: not router.topology.writable)
            await async_call(mended.nodes[0].start)
        async with router.writer():
            pass
        [counts] = [pool.by_host() for role, pool in router._manager.pools.items() if role.value == "writer"]
    [(key, found)] = counts.items()
    assert key.port == mended.nodes[0].port
    assert found.used.count == 3
    assert found.created.count >= 3
    assert found.sizes["pool_max"] == 1
