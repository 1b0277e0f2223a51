"""Replicas go away and come back while readers go on."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, HostState, NoHostAvailable, PoolOptions
from pgroute.testing import FaultProxy, LocalCluster
from tests.aio.replicas import OFTEN
from tests.aio.workload import Account, keep_reading, read, state
from tests.support import AsyncBackground, async_call, async_eventually, within

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]

FLAPS = 6
POOL = 10
"""The default max_size."""


@pytest.mark.parametrize("crash", ["kill", "fast"])
async def test_a_replica_lost_and_back_gives_new_readers_no_error(mended: LocalCluster, crash: str) -> None:
    _, lost, left = mended.nodes
    stop = threading.Event()
    accounts = [Account() for _ in range(3)]
    async with AsyncRouter(mended.dsn) as router, AsyncBackground() as background:
        for account in accounts:
            background.start(keep_reading, router, stop, account)
        await async_eventually(lambda: {p for a in accounts for p in a.ports} == {lost.port, left.port})
        await async_call(*((lost.kill,) if crash == "kill" else (lost.stop, "fast")))
        gone_at = time.monotonic()
        await async_eventually(lambda: all(len(account.since(gone_at)) > 10 for account in accounts))
        assert {s.port for account in accounts for s in account.since(gone_at)} == {left.port}
        await async_call(lost.start)
        back_at = time.monotonic()
        await async_eventually(lambda: lost.port in {s.port for a in accounts for s in a.since(back_at)})
        stop.set()
    assert [error for account in accounts for error in account.errors_since(gone_at)] == []


async def test_a_frozen_replica_is_left_out_after_a_probe(mended: LocalCluster) -> None:
    _, frozen, left = mended.nodes
    async with AsyncRouter(mended.dsn, probe=replace(OFTEN, share=False)) as router:
        await router.wait("reader")
        await async_call(frozen.freeze)
        await async_eventually(lambda: state(router, frozen) in (HostState.SUSPECT, HostState.DOWN))
        assert {(await read(router)).port for _ in range(20)} == {left.port}
        await async_eventually(lambda: state(router, frozen) is HostState.DOWN)
        await async_call(frozen.thaw)
        await async_eventually(lambda: state(router, frozen) is HostState.UP)
        assert {(await read(router)).port for _ in range(50)} == {left.port, frozen.port}


async def test_with_no_replica_left_readers_fall_back_to_the_primary(mended: LocalCluster) -> None:
    first, second, third = mended.nodes
    async with AsyncRouter(mended.dsn) as router:
        assert (await read(router)).port != first.port
        await async_call(second.kill)
        await async_call(third.kill)
        assert {(await read(router)).port for _ in range(20)} == {first.port}
        await async_eventually(lambda: state(router, third) is HostState.DOWN)
        await async_call(third.start)
        await async_eventually(lambda: state(router, third) is HostState.UP)
        assert (await read(router)).port == third.port


async def test_with_no_replica_left_strict_readers_get_no_host_available(mended: LocalCluster) -> None:
    _, second, third = mended.nodes
    async with AsyncRouter(mended.dsn, reader_attrs="standby") as router:
        await read(router)
        await async_call(second.kill)
        await async_call(third.kill)
        asked_at = time.monotonic()
        with pytest.raises(NoHostAvailable, match="standby") as caught:
            await read(router, timeout=0.5)
        assert 0.5 <= time.monotonic() - asked_at < within(0.6)
        assert str(second.port) in str(caught.value)
        assert "Connection refused" in str(caught.value)
        await async_call(third.start)
        assert (await read(router)).port == third.port


async def test_a_reader_waits_for_a_replica_to_come_back(mended: LocalCluster) -> None:
    _, second, third = mended.nodes
    async with (
        AsyncRouter(mended.dsn, reader_attrs="standby") as router,
        AsyncBackground() as background,
    ):
        await read(router)
        await async_call(second.kill)
        await async_call(third.kill)
        reader = background.start(read, router)
        await async_call(second.start)
        assert (await reader.result()).port == second.port


async def test_a_flapping_replica_gives_new_readers_no_error_and_gets_no_storm(
    shared: LocalCluster, pgroute_proxy_factory
) -> None:
    proxies = [pgroute_proxy_factory(node) for node in shared.nodes]
    flapping = proxies[1]
    refused: list[psycopg.Error] = []
    served: list[int] = []
    stop = threading.Event()

    async def keep_asking(router: AsyncRouter[Any]) -> None:
        while not stop.is_set():
            try:
                conn = await router.getconn("reader", timeout=5.0)
            except psycopg.Error as error:
                refused.append(error)
                continue
            served.append(conn.info.port)
            try:
                await conn.execute("SELECT 1")
            except psycopg.OperationalError:
                pass  # that session was in flight
            finally:
                await router.putconn(conn)

    def flap() -> None:
        for _ in range(FLAPS):
            flapping.reset("all")  # unlike a refused attempt, one that is reset is counted
            time.sleep(0.2)
            flapping.clear_faults()
            time.sleep(0.2)

    dsn = FaultProxy.dsn(proxies)
    # A connection for each, so that nobody is sent on to the primary for want of one.
    readers = PoolOptions(max_size=20)
    async with (
        AsyncRouter(dsn, probe=OFTEN, reader=readers) as router,
        AsyncBackground() as background,
    ):
        for _ in range(20):
            background.start(keep_asking, router)
        await async_eventually(lambda: {proxies[1].port, proxies[2].port} <= set(served))
        before = flapping.attempts
        await async_call(flap)
        made = flapping.attempts - before
        stop.set()
    assert refused == []
    assert proxies[0].port not in served
    assert 0 < made <= FLAPS * (POOL + 4), "each time few for the probe, and at most one pool"


async def test_standbys_of_a_stale_primary_serve_readers_only_if_no_other_can(
    any_cluster: LocalCluster,
) -> None:
    old, new, left = any_cluster.nodes
    async with (
        AsyncRouter(any_cluster.dsn, probe=OFTEN) as router,
        AsyncRouter(any_cluster.dsn, probe=OFTEN, reader_attrs="standby") as strict,
    ):
        await router.wait()
        await async_call(any_cluster.promote, new, repoint=False)
        await async_eventually(lambda: state(router, old) is HostState.STALE)
        assert {(await read(router)).port for _ in range(50)} == {new.port}
        await async_eventually(lambda: state(strict, old) is HostState.STALE)
        assert (await read(strict)).port == left.port, "no other standby can"
        # It goes over to the new primary, without what the old one wrote since (hint bits are enough), and its control
        # file tells so from the next restartpoint on.
        await async_call(left.rejoin, new)
        await async_call(new.execute, "CHECKPOINT")
        await async_call(any_cluster.catch_up)
        await async_call(left.execute, "CHECKPOINT")
        await async_eventually(lambda: [host.timeline for host in router.topology.standbys] == [2])
        assert {(await read(router)).port for _ in range(50)} == {left.port}
        await async_eventually(lambda: state(router, old) is HostState.STALE)
