"""Names that move: endpoints that flip, sets that grow and shrink, services."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, HostRole, HostState, ProbeOptions
from pgroute.testing import LocalCluster
from tests.aio.naming import (
    ADDRESSES,
    FAST,
    addresses,
    hold,
    keep_going,
    router_of,
    sessions_at,
    where,
)
from tests.names.nameserver import NameServer
from tests.support import AsyncBackground, async_call, async_eventually, dsn_at

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]


@pytest.fixture
def server() -> Iterator[NameServer]:
    """Give a name server without names."""
    with NameServer() as server:
        yield server


@pytest.fixture(scope="module")
def trio() -> Iterator[LocalCluster]:
    """Give a cluster that nobody breaks, each node at an address of its own, all at one port."""
    with LocalCluster(addresses=ADDRESSES) as cluster:
        yield cluster


@pytest.mark.parametrize("ttl", [1, 300])
async def test_a_flipped_endpoint_is_followed_and_the_old_sessions_are_retired(
    server: NameServer, ttl: int
) -> None:
    server.ttl = ttl
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone["db.test"] = ["-> a.test"]
        server.zone["a.test"], server.zone["b.test"] = [old.host], [new.host]
        async with router_of(cluster, server, "db.test") as router:
            assert await where(router) == old.host
            # A switchover in which the old primary goes on as a standby: nothing is lost but the role.
            await async_call(old.stop, "fast")
            await async_call(new.promote)
            await async_call(old.rejoin, new)
            await async_eventually(lambda: router.topology.hosts[0].role is HostRole.STANDBY)
            server.zone["db.test"] = ["-> b.test"]
            assert await where(router, timeout=10.0) == new.host
            assert addresses(router) == [new.host]
            await async_eventually(lambda: sessions_at(old) == 0)


async def test_a_name_that_flips_between_two_standbys_gives_readers_no_error(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["ro.test"] = [ADDRESSES[1]]
    stop = threading.Event()
    seen: list[Any] = []
    async with (
        router_of(trio, server, "ro.test", reader_attrs="standby") as router,
        AsyncBackground() as background,
    ):
        for _ in range(3):
            background.start(keep_going, router, "reader", stop, seen)
        await async_eventually(lambda: len(seen) > 20)
        server.zone["ro.test"] = [ADDRESSES[2]]
        await async_eventually(lambda: [address for _, address, _ in seen[-20:]] == [ADDRESSES[2]] * 20)
        stop.set()
    assert {address for _, address, _ in seen} == {ADDRESSES[1], ADDRESSES[2]}
    assert [error for _, _, error in seen if error] == []


async def test_a_set_of_addresses_grows_and_shrinks_under_load_without_an_error(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["set.test"] = [*ADDRESSES[:2]]
    stop = threading.Event()
    seen: list[Any] = []
    events: list[str] = []
    async with (
        router_of(trio, server, "set.test", addresses="expand") as router,
        AsyncBackground() as background,
    ):
        router.subscribe(lambda event: events.append(event.text))
        for _ in range(4):
            background.start(keep_going, router, "reader", stop, seen)
        await async_eventually(lambda: len(seen) > 20)
        assert {address for _, address, _ in seen} == {ADDRESSES[1]}
        server.zone["set.test"] = [*ADDRESSES]
        await async_eventually(lambda: {a for _, a, _ in seen[-50:]} == {ADDRESSES[1], ADDRESSES[2]})
        server.zone["set.test"] = [ADDRESSES[0]]
        await async_eventually(lambda: {a for _, a, _ in seen[-50:]} == {ADDRESSES[0]})
        await async_eventually(lambda: sessions_at(trio.nodes[2]) == 0)
        stop.set()
        assert [host.key.hostaddr for host in router.topology.hosts] == [ADDRESSES[0]]
        assert [host.origin for host in router.topology.hosts] == ["name set.test"]
    assert [error for _, _, error in seen if error] == []
    port = trio.nodes[0].port
    assert f"set.test:{port} ({ADDRESSES[2]}) joined" in events
    assert f"set.test:{port} ({ADDRESSES[2]}) left" in events


async def test_services_give_ports_priorities_and_weights(trio: LocalCluster, server: NameServer) -> None:
    port = trio.nodes[0].port
    server.zone |= {f"n{n}.test": [address] for n, address in enumerate(ADDRESSES, 1)}
    server.zone["_pg._tcp.test"] = [(0, 1, port, "n2.test"), (0, 3, port, "n3.test"), (1, 0, port, "n1.test")]
    async with AsyncRouter(dsn_at("_pg._tcp.test:1", trio), resolver=server.resolver, probe=FAST) as router:
        assert await where(router) == ADDRESSES[0]
        assert [host.host for host in router.topology.hosts] == ["n3.test", "n2.test", "n1.test"]
        assert {host.origin for host in router.topology.hosts} == {"SRV _pg._tcp.test"}
        await async_eventually(lambda: len(router.topology.standbys) == 2)
        counts = Counter([await where(router, "reader") for _ in range(800)])
        # A share of 3/4 of 800: five standard deviations are 61.
        assert abs(counts[ADDRESSES[2]] - 600) <= 61, counts
        assert counts.keys() == {ADDRESSES[1], ADDRESSES[2]}
        server.zone["_pg._tcp.test"] = [
            (5, 1, port, "n3.test"),
            (2, 1, port, "n2.test"),
            (0, 1, port, "n1.test"),
        ]
        await async_eventually(lambda: router.topology.hosts[0].host == "n1.test")
        # The lowest priority of those that can serve: the first one is no standby.
        assert {await where(router, "reader") for _ in range(50)} == {ADDRESSES[1]}
        server.zone["_pg._tcp.test"] = [(0, 0, port, "n1.test")]
        await async_eventually(lambda: len(router.topology.hosts) == 1)
        assert await where(router, "reader") == ADDRESSES[0]


async def test_sessions_at_a_frozen_primary_are_released_when_its_name_moves_away(server: NameServer) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone["db.test"] = [old.host]
        entered, release = threading.Event(), threading.Event()
        async with router_of(cluster, server, "db.test") as router, AsyncBackground() as background:
            session = background.start(hold, router, entered, release)
            await async_eventually(entered.is_set)
            await async_call(old.freeze)
            await async_call(new.promote)
            server.zone["db.test"] = [new.host]
            assert await where(router, timeout=15.0) == new.host
            with pytest.raises(psycopg.OperationalError):
                await session.result(5)


async def test_sessions_at_a_frozen_host_are_released_when_it_leaves(server: NameServer) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone["db.test"] = [old.host, new.host]
        entered, release = threading.Event(), threading.Event()
        lasting = ProbeOptions(interval=0.3, min_ttl=0.3, lookup_timeout=0.5, abort_after=None)
        async with (
            router_of(cluster, server, "db.test", addresses="expand", probe=lasting) as router,
            AsyncBackground() as background,
        ):
            session = background.start(hold, router, entered, release)
            await async_eventually(entered.is_set)
            await async_call(old.freeze)
            await async_eventually(lambda: router.topology.hosts[0].state is HostState.DOWN)
            server.zone["db.test"] = [new.host]
            with pytest.raises(psycopg.OperationalError):
                await session.result(10)
