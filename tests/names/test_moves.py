"""Names that move at an awkward moment: while the watch connects, twice in a probe, to where nobody listens yet."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pgroute import AsyncRouter, HostState, NoHostAvailable, ProbeOptions
from pgroute.monitor.host_watcher import HostWatcher
from pgroute.monitor.probe import ProbeConnection
from pgroute.testing import LocalCluster
from tests.aio.naming import ADDRESSES, CLIENTS, addresses, router_of, where
from tests.names.nameserver import NameServer
from tests.names.relay import relay
from tests.support import async_call, async_eventually, dsn_at

pytestmark = pytest.mark.cluster

PATIENT = ProbeOptions(interval=0.3, timeout=3.0, min_ttl=0.2, lookup_timeout=0.5)
NOWHERE, GATE = "127.0.0.9", "127.0.0.10"


@pytest.fixture
def server() -> Iterator[NameServer]:
    """Give a name server without names, whose answers hold for no time."""
    with NameServer() as server:
        server.ttl = 0
        yield server


@pytest.fixture(scope="module")
def trio() -> Iterator[LocalCluster]:
    """Give a cluster that nobody breaks, each node at an address of its own, all at one port."""
    with LocalCluster(addresses=ADDRESSES) as cluster:
        yield cluster


async def looked_up(server: NameServer, times: int = 2) -> None:
    """Wait until that many lookups have begun and ended."""
    asked = server.count()
    await async_eventually(lambda: server.count() >= asked + 2 * times + 2)


async def test_a_name_that_flips_while_its_host_is_connected_to_is_followed(
    trio: LocalCluster, server: NameServer
) -> None:
    port, gate = trio.nodes[0].port, threading.Event()
    server.zone["db.test"] = [GATE]
    with relay((GATE, port), (ADDRESSES[0], port), gate=gate) as links:
        async with router_of(trio, server, "db.test", probe=PATIENT) as router:
            await async_eventually(lambda: links)
            server.zone["db.test"] = [ADDRESSES[0]]
            await looked_up(server)
            gate.set()
            await async_eventually(lambda: addresses(router) == [ADDRESSES[0]], timeout=5.0)
            assert await where(router) == ADDRESSES[0]


async def test_a_name_that_flips_to_and_fro_within_a_probe_stays_where_it_is(
    trio: LocalCluster, server: NameServer
) -> None:
    port, gate = trio.nodes[0].port, threading.Event()
    gate.set()
    server.zone["db.test"] = [GATE]
    with relay((GATE, port), (ADDRESSES[0], port), gate=gate):
        async with router_of(trio, server, "db.test", probe=PATIENT) as router:
            assert await where(router) == GATE
            gate.clear()
            seen = router.topology.hosts[0].last_seen or 0.0
            await async_eventually(lambda: time.monotonic() - seen > 0.6)  # a probe is under way
            server.zone["db.test"] = [ADDRESSES[0]]
            await looked_up(server, 3)
            server.zone["db.test"] = [GATE]
            await looked_up(server, 3)
            opened_at = time.monotonic()
            gate.set()
            await async_eventually(lambda: (router.topology.hosts[0].last_seen or 0.0) > opened_at + 0.5)
            assert addresses(router) == [GATE]
            assert await where(router) == GATE


async def test_a_name_that_is_corrected_while_its_addresses_hang_is_followed_at_once(
    trio: LocalCluster, server: NameServer
) -> None:
    port, gate = trio.nodes[0].port, threading.Event()
    server.zone["db.test"] = [ADDRESSES[0]]
    with relay((GATE, port), (ADDRESSES[0], port), gate=gate) as links:
        patient = ProbeOptions(interval=0.3, timeout=15.0, min_ttl=0.2, lookup_timeout=0.5, share=False)
        async with router_of(trio, server, "db.test", probe=patient) as router:
            assert await where(router) == ADDRESSES[0]
            server.zone["db.test"] = [GATE]
            await async_eventually(lambda: links)
            server.zone["db.test"] = [ADDRESSES[1]]
            # One time to live and a few lookups at most, far from the 15 s that the hanging one may take.
            await async_eventually(lambda: addresses(router) == [ADDRESSES[1]], timeout=7.0)


async def test_the_old_address_serves_on_though_the_probe_connection_to_it_is_cut(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["db.test"] = [ADDRESSES[0]]
    async with router_of(trio, server, "db.test", probe=PATIENT) as router:
        assert await where(router) == ADDRESSES[0]
        server.zone["db.test"] = [NOWHERE]
        await async_eventually(lambda: NOWHERE in router.topology.hosts[0].reason)
        await async_call(trio.nodes[0].execute, f"SELECT pg_terminate_backend(pid) {CLIENTS}")
        cut_at = time.monotonic()
        await async_eventually(lambda: (router.topology.hosts[0].last_seen or 0.0) > cut_at + 0.5)
        assert router.topology.hosts[0].state is HostState.UP
        assert await where(router) == ADDRESSES[0]


async def test_in_an_outage_the_new_address_is_tried_often(server: NameServer) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone["db.test"] = [old.host]
        rarely = ProbeOptions(interval=30.0, min_ttl=0.2, max_ttl=0.2)
        async with router_of(cluster, server, "db.test", probe=rarely) as router:
            assert await where(router) == old.host
            await async_call(new.promote)
            await async_call(new.stop, "fast")
            # The old primary goes on as a standby, as in a switchover of a managed service.
            await async_call(old.stop, "fast")
            (old.data_dir / "standby.signal").touch()
            await async_call(old.start)
            await async_eventually(lambda: router.topology.primary is None and router.topology.standbys)
            server.zone["db.test"] = [new.host]
            await async_eventually(lambda: new.host in router.topology.hosts[0].reason)
            await async_call(new.start)
            assert await where(router, timeout=3.0) == new.host


async def test_a_fault_of_ours_on_the_way_to_a_new_address_is_a_reason_and_no_end(
    trio: LocalCluster, server: NameServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.zone["db.test"] = [ADDRESSES[0]]
    connect = ProbeConnection.connect
    faults: list[str] = []

    async def stumble(*args: Any, address: str | None, **kwargs: Any) -> Any:
        if address == ADDRESSES[1] and len(faults) < 2:
            faults.append(address)
            raise RuntimeError("out of luck")
        return await connect(*args, address=address, **kwargs)

    async with router_of(trio, server, "db.test", probe=PATIENT) as router:
        assert await where(router) == ADDRESSES[0]
        monkeypatch.setattr(ProbeConnection, "connect", stumble)
        server.zone["db.test"] = [ADDRESSES[1]]
        await async_eventually(lambda: addresses(router) == [ADDRESSES[1]])
        assert len(faults) == 2
        assert "out of luck" in caplog.text


async def test_a_host_out_of_reach_is_connected_to_as_soon_as_its_name_leads_elsewhere(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone |= {"db.test": [ADDRESSES[0]], "ro.test": [NOWHERE]}
    rarely = ProbeOptions(interval=30.0, min_ttl=0.2)
    async with router_of(trio, server, "db.test", "ro.test", probe=rarely) as router:
        await async_eventually(lambda: router.topology.hosts[1].state is HostState.DOWN)
        await asyncio.sleep(0.5)
        server.zone["ro.test"] = [ADDRESSES[1]]
        await async_eventually(lambda: router.topology.hosts[1].state is HostState.UP, timeout=8.0)


async def test_routers_that_close_amid_a_move_leave_neither_words_nor_tasks(
    trio: LocalCluster, server: NameServer, caplog: pytest.LogCaptureFixture
) -> None:
    port, gate = trio.nodes[0].port, threading.Event()
    with relay((GATE, port), (ADDRESSES[0], port), gate=gate):
        for _ in range(5):
            server.zone["db.test"] = [ADDRESSES[0]]
            dsn = dsn_at(f"db.test:{port}", trio)
            async with AsyncRouter(dsn, resolver=server.resolver, probe=PATIENT) as router:
                assert await where(router) == ADDRESSES[0]
                server.zone["db.test"] = [GATE]
                await looked_up(server, 1)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_the_primary_and_a_host_out_of_reach_leave_together_without_a_fault(
    trio: LocalCluster, server: NameServer, caplog: pytest.LogCaptureFixture
) -> None:
    port = trio.nodes[0].port
    server.zone |= {"a.test": [ADDRESSES[0]], "b.test": [NOWHERE], "c.test": [ADDRESSES[1]]}
    server.zone["_pg._tcp.test"] = [(0, 0, port, "a.test"), (0, 0, port, "b.test")]
    rarely = ProbeOptions(interval=5.0, min_ttl=0.2)
    dsn = dsn_at("_pg._tcp.test", trio)
    async with AsyncRouter(dsn, resolver=server.resolver, probe=rarely) as router:
        assert await where(router) == ADDRESSES[0]
        await looked_up(server)
        server.zone["_pg._tcp.test"] = [(0, 0, port, "c.test")]
        await async_eventually(lambda: [host.host for host in router.topology.hosts] == ["c.test"])
        assert await where(router, "reader") == ADDRESSES[1]
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


@pytest.fixture
def elsewhere(trio: LocalCluster) -> Iterator[LocalCluster]:
    """Give a server of another cluster, at the address NOWHERE and the port of the trio."""
    with (
        LocalCluster(standbys=0, password=trio.password) as other,
        relay((NOWHERE, trio.nodes[0].port), (other.primary.host, other.primary.port)),
    ):
        yield other


@pytest.mark.parametrize("pinned", [False, True], ids=["learned", "pinned"])
async def test_a_name_that_led_to_another_cluster_is_followed_once_it_is_corrected(
    trio: LocalCluster, elsewhere: LocalCluster, server: NameServer, pinned: bool
) -> None:
    server.zone |= {f"db{n}.test": [ADDRESSES[n]] for n in range(2)}
    [[system_id]] = trio.primary.execute("SELECT system_identifier FROM pg_control_system()")
    quick = ProbeOptions(interval=0.3, min_ttl=0.2, system_id=int(system_id) if pinned else None)
    names = ["db2.test"] if pinned else ["db0.test", "db1.test", "db2.test"]
    async with router_of(trio, server, *names, probe=quick) as router:
        # Otherwise the other cluster may be the first one that is known.
        await async_eventually(lambda: all(host.usable for host in router.topology.hosts[:-1]))
        server.zone["db2.test"] = [NOWHERE]
        await async_eventually(lambda: router.topology.hosts[-1].state is HostState.FOREIGN)
        server.zone["db2.test"] = [ADDRESSES[2]]
        await async_eventually(lambda: router.topology.hosts[-1].state is HostState.UP, 20.0)
        assert addresses(router)[-1] == ADDRESSES[2]


async def test_where_clusters_are_not_told_apart_a_name_is_followed_to_another_one(
    trio: LocalCluster, elsewhere: LocalCluster, server: NameServer
) -> None:
    server.zone["db.test"] = [ADDRESSES[0]]
    unchecked = ProbeOptions(interval=0.3, min_ttl=0.2, check_system_id=False)
    async with router_of(trio, server, "db.test", probe=unchecked) as router:
        assert await where(router) == ADDRESSES[0]
        server.zone["db.test"] = [NOWHERE]
        await async_eventually(lambda: addresses(router) == [NOWHERE])
        assert await where(router) == NOWHERE


async def test_an_old_address_that_takes_no_new_connection_is_not_left_for_another_cluster(
    trio: LocalCluster, elsewhere: LocalCluster, server: NameServer
) -> None:
    port = trio.nodes[0].port
    rarely = ProbeOptions(interval=30.0, timeout=0.5, min_ttl=0.2, share=False)
    leads_to = (ADDRESSES[0], port)
    server.zone["db.test"] = [GATE]
    with socket.create_server(("127.0.0.1", 0)) as silent, relay((GATE, port), lambda: leads_to):
        async with router_of(trio, server, "db.test", probe=rarely) as router:
            assert await where(router) == GATE
            leads_to = silent.getsockname()
            router._manager.watch.kick(router.topology.hosts[0].key, fresh=True)
            await async_eventually(lambda: router.topology.hosts[0].state is HostState.BUSY)
            server.zone["db.test"] = [NOWHERE]
            membership = router._manager.watch._membership
            assert membership is not None
            [watcher] = membership._watchers.values()
            await async_eventually(lambda: "another cluster" in watcher.subscribers.noted)
            assert (router.topology.hosts[0].state, addresses(router)) == (HostState.BUSY, [GATE])


def waits_for_an_answer(watcher: HostWatcher) -> bool:
    """Whether a probe was sent for which an answer would be there by now."""
    conn = watcher._conn
    return conn is not None and conn._pending is not None and time.monotonic() - watcher._asked_at > 0.2


@pytest.mark.parametrize("asked", [False, True], ids=["idle", "asked"])
async def test_the_loss_of_the_old_address_is_noticed_at_once_though_the_new_one_hangs(
    server: NameServer, asked: bool
) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone["db.test"] = [old.host]
        patient = ProbeOptions(interval=0.3, timeout=15.0, min_ttl=0.2, lookup_timeout=0.5, share=False)
        async with router_of(cluster, server, "db.test", probe=patient) as router:
            assert await where(router) == old.host
            await async_call(new.freeze)
            server.zone["db.test"] = [new.host]
            await looked_up(server)
            if asked:  # the probe finds the connection dead while it waits for its answer
                [[pid]] = old.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE '%pgroute-monitor%'"
                )
                os.kill(pid, signal.SIGSTOP)
                membership = router._manager.watch._membership
                assert membership is not None
                [watcher] = membership._watchers.values()
                assert isinstance(watcher, HostWatcher)
                await async_eventually(lambda: waits_for_an_answer(watcher))
            await async_call(old.kill)
            # Far from the 15 s that the new one may take.
            await async_eventually(lambda: router.topology.hosts[0].state is HostState.DOWN, timeout=7.0)
            await async_call(new.thaw)
            await async_eventually(lambda: addresses(router) == [new.host])


async def test_a_name_of_several_servers_says_that_one_of_them_is_taken(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["db.test"] = [*ADDRESSES[1:], ADDRESSES[0]]
    async with router_of(trio, server, "db.test", probe=PATIENT) as router:
        assert await where(router, "reader") == ADDRESSES[1]
        with pytest.raises(NoHostAvailable, match=r"one of the 3 addresses of its name; addresses='expand'"):
            await where(router, timeout=0.2)


@pytest.mark.parametrize("leads_to", ["another cluster", "nowhere"])
async def test_an_old_address_that_hangs_for_a_while_serves_again_where_the_new_one_does_not(
    trio: LocalCluster, server: NameServer, leads_to: str, request: pytest.FixtureRequest
) -> None:
    if leads_to == "another cluster":
        request.getfixturevalue("elsewhere")
    port, gate = trio.nodes[0].port, threading.Event()
    gate.set()
    quick = ProbeOptions(interval=0.2, timeout=0.5, min_ttl=0.2, lookup_timeout=0.5)
    server.zone["db.test"] = [GATE]
    with relay((GATE, port), (ADDRESSES[0], port), gate=gate):
        async with router_of(trio, server, "db.test", probe=quick) as router:
            assert await where(router) == GATE
            server.zone["db.test"] = [NOWHERE]
            await async_eventually(lambda: NOWHERE in router.topology.hosts[0].reason)
            gate.clear()
            state = HostState.DOWN if leads_to == "nowhere" else HostState.FOREIGN
            await async_eventually(lambda: router.topology.hosts[0].state is state)
            gate.set()
            assert await where(router, timeout=10.0) == GATE
            await async_eventually(lambda: NOWHERE in router.topology.hosts[0].reason)
            server.zone["db.test"] = [ADDRESSES[0]]
            await async_eventually(lambda: addresses(router) == [ADDRESSES[0]])
            await async_eventually(lambda: router.topology.hosts[0].reason == "")
