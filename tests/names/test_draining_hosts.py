"""Sessions in flight at an address that its name has left: it is watched until they end, and no longer."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, EventKind, ProbeOptions
from pgroute.testing import LocalCluster
from tests.aio.naming import ADDRESSES, addresses, router_of, sessions_at, where
from tests.names.nameserver import NameServer
from tests.names.relay import relay
from tests.support import AsyncBackground, async_call, async_eventually

pytestmark = pytest.mark.cluster

QUICK = ProbeOptions(interval=0.2, timeout=0.5, min_ttl=0.2, lookup_timeout=0.5, abort_after=1.0)
GATE = "127.0.0.5"
PROBES = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%pgroute-monitor'"


@pytest.fixture
def server() -> Iterator[NameServer]:
    """Give a name server without names, whose answers hold for no time."""
    with NameServer() as server:
        server.ttl = 0
        yield server


async def sleep_at(router: AsyncRouter, role: str, seconds: float, entered: threading.Event) -> str:
    async with router.writer() if role == "writer" else router.reader() as conn:
        entered.set()
        await conn.execute(f"SELECT pg_sleep({seconds})")
        return str(conn.info.hostaddr)


async def read_on(router: AsyncRouter, entered: threading.Event, over: threading.Event) -> str:
    async with router.reader() as conn:
        entered.set()
        while not over.is_set():
            await conn.execute("SELECT pg_sleep(0.05)")
        return str(conn.info.hostaddr)


def draining(router: AsyncRouter) -> int:
    """Return the number of addresses that names have left and the router still watches."""
    membership = router._manager.watch._membership
    assert membership is not None
    return len(membership.draining)


def probes_at(node: Any) -> int:
    return int(node.execute(PROBES)[0][0])


async def test_sessions_at_an_old_primary_that_freezes_after_its_name_moved_are_released(
    server: NameServer,
) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone["db.test"] = [old.host]
        entered = threading.Event()
        async with (
            router_of(cluster, server, "db.test", probe=QUICK) as router,
            AsyncBackground() as background,
        ):
            events = []
            router.subscribe(lambda event: events.append(event.kind))
            session = background.start(sleep_at, router, "writer", 60, entered)
            await async_eventually(entered.is_set)
            await async_call(new.promote)
            server.zone["db.test"] = [new.host]
            await async_eventually(lambda: addresses(router) == [new.host])
            assert await where(router) == new.host
            assert not session.done(), "it answers yet"
            await async_call(old.freeze)
            with pytest.raises(psycopg.OperationalError):
                await session.result(5)
            await async_eventually(lambda: EventKind.SESSIONS_ABORTED in events)


@pytest.mark.parametrize("mode", ["one-host", "expand"])
async def test_sessions_at_a_stale_primary_that_its_name_left_are_aborted_where_that_is_asked_for(
    server: NameServer, mode: str
) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone["db.test"] = [old.host]
        entered = threading.Event()
        strict = dataclasses.replace(QUICK, abort_stale=True)
        async with (
            router_of(cluster, server, "db.test", probe=strict, addresses=mode) as router,
            AsyncBackground() as background,
        ):
            session = background.start(sleep_at, router, "writer", 60, entered)
            await async_eventually(entered.is_set)
            await async_call(new.promote)
            server.zone["db.test"] = [new.host]
            with pytest.raises(psycopg.OperationalError):
                await session.result(5)
            assert await where(router) == new.host


@pytest.mark.parametrize("mode", ["expand", "SRV"])
async def test_sessions_at_a_host_that_freezes_after_it_left_are_released(
    server: NameServer, mode: str
) -> None:
    with LocalCluster(addresses=ADDRESSES) as cluster:
        port = cluster.nodes[0].port

        def lead_to(*nodes: int) -> None:
            server.zone["db.test"] = [ADDRESSES[n] for n in nodes]
            server.zone["_pg._tcp.test"] = [(0, 0, port, f"n{n}.test") for n in nodes]

        server.zone |= {f"n{n}.test": [address] for n, address in enumerate(ADDRESSES)}
        lead_to(0, 1)
        name = "_pg._tcp.test" if mode == "SRV" else "db.test"
        options = {"addresses": "expand"} if mode == "expand" else {}
        entered = threading.Event()
        async with (
            router_of(cluster, server, name, probe=QUICK, reader_attrs="standby", **options) as router,
            AsyncBackground() as background,
        ):
            session = background.start(sleep_at, router, "reader", 60, entered)
            await async_eventually(entered.is_set)
            lead_to(0, 2)
            await async_eventually(lambda: [h.address for h in router.topology.standbys] == [ADDRESSES[2]])
            assert await where(router, "reader") == ADDRESSES[2]
            assert not session.done(), "it answers yet"
            await async_call(cluster.nodes[1].freeze)
            with pytest.raises(psycopg.OperationalError):
                await session.result(8)
            await async_call(cluster.nodes[1].thaw)
            await async_eventually(lambda: probes_at(cluster.nodes[1]) == 0)


@pytest.mark.parametrize("mode", ["one-host", "expand"])
async def test_sessions_at_an_address_that_another_server_has_now_are_released(
    server: NameServer, mode: str
) -> None:
    with LocalCluster(addresses=ADDRESSES) as cluster:
        _, old, other = cluster.nodes
        behind = [old]
        server.zone["ro.test"] = [GATE]
        entered = threading.Event()
        # More than two probes take until a new connection shows who is there.
        patient = dataclasses.replace(QUICK, abort_after=5.0)
        with relay((GATE, old.port), lambda: (behind[-1].host, old.port)):
            async with (
                router_of(
                    cluster, server, "ro.test", probe=patient, reader_attrs="standby", addresses=mode
                ) as router,
                AsyncBackground() as background,
            ):
                events = []
                router.subscribe(lambda event: events.append(event.text))
                session = background.start(sleep_at, router, "reader", 60, entered)
                await async_eventually(entered.is_set)
                server.zone["ro.test"] = [other.host]
                await async_eventually(lambda: addresses(router) == [other.host] and draining(router))
                await async_eventually(lambda: probes_at(old) == 1)
                assert not session.done(), "it answers yet"
                behind.append(other)
                await async_call(old.freeze)
                with pytest.raises(psycopg.OperationalError):
                    await session.result(15)
                await async_eventually(lambda: any("the server that was ro.test" in text for text in events))
                await async_eventually(lambda: not draining(router))


async def test_an_address_is_left_alone_once_its_last_session_has_ended(server: NameServer) -> None:
    with LocalCluster(addresses=ADDRESSES) as cluster:
        server.zone["ro.test"] = [ADDRESSES[1]]
        entered, over = threading.Event(), threading.Event()
        async with (
            router_of(cluster, server, "ro.test", probe=QUICK, reader_attrs="standby") as router,
            AsyncBackground() as background,
        ):
            session = background.start(read_on, router, entered, over)
            await async_eventually(entered.is_set)
            server.zone["ro.test"] = [ADDRESSES[2]]
            await async_eventually(lambda: addresses(router) == [ADDRESSES[2]] and draining(router))
            await async_eventually(lambda: probes_at(cluster.nodes[1]) == 1)
            over.set()
            assert await session.result() == ADDRESSES[1]
            await async_eventually(lambda: sessions_at(cluster.nodes[1]) == 0)
            await async_eventually(lambda: not draining(router))


async def test_a_router_that_closes_stops_watching_draining_hosts(server: NameServer) -> None:
    with LocalCluster(addresses=ADDRESSES) as cluster:
        server.zone["ro.test"] = [ADDRESSES[1]]
        entered = threading.Event()
        async with AsyncBackground() as background:
            async with router_of(cluster, server, "ro.test", probe=QUICK, reader_attrs="standby") as router:
                session = background.start(sleep_at, router, "reader", 60, entered)
                await async_eventually(entered.is_set)
                server.zone["ro.test"] = [ADDRESSES[2]]
                await async_eventually(lambda: probes_at(cluster.nodes[1]) == 1 and draining(router))
                await router.close(timeout=0.1)
            with pytest.raises(psycopg.OperationalError):
                await session.result(5)
        await async_eventually(lambda: probes_at(cluster.nodes[1]) == 0)
