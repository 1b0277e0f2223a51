"""Lookups: what name servers do, and what the watch makes of it; one monitor serves both faces."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from dnslib import DNSLabel

from pgroute import AsyncRouter, HostState, NoHostAvailable, ProbeOptions
from pgroute.testing import LocalCluster
from tests.aio.naming import (
    ADDRESSES,
    CLIENTS,
    FAST,
    router_of,
    where,
)
from tests.names.nameserver import NXDOMAIN, SERVFAIL, SILENCE, TRUNCATED, NameServer
from tests.names.relay import relay
from tests.support import async_call, async_eventually, dsn_at

pytestmark = pytest.mark.cluster

GATE = "127.0.0.10"
"""An address at which somebody accepts connections and says nothing."""


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


async def test_where_nobody_is_at_the_new_address_the_old_one_serves(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["db.test"] = [ADDRESSES[0]]
    async with router_of(trio, server, "db.test") as router:
        assert await where(router) == ADDRESSES[0]
        server.zone["db.test"] = ["127.0.0.9"]
        asked = server.count("db.test")
        await async_eventually(lambda: server.count("db.test") >= asked + 6)
        assert await where(router) == ADDRESSES[0]
        assert [host.state for host in router.topology.hosts] == [HostState.UP]


async def test_an_outage_asks_again_at_once_and_not_in_a_storm(server: NameServer) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.ttl = 300
        server.zone["db.test"] = [old.host]
        slow = ProbeOptions(interval=0.3, max_ttl=300)
        async with router_of(cluster, server, "db.test", probe=slow) as router:
            assert await where(router) == old.host
            asked = server.count()
            begun_at = time.monotonic()
            await async_call(old.kill)
            await async_call(new.promote)
            server.zone["db.test"] = [new.host]
            assert await where(router, timeout=10.0) == new.host
            # A and AAAA each time, one second apart at least.
            assert server.count() - asked <= 2 * (2 + time.monotonic() - begun_at)


@pytest.mark.parametrize("trouble", [SERVFAIL, NXDOMAIN, SILENCE, []])
async def test_the_last_good_answer_serves_while_the_name_server_fails(
    trio: LocalCluster, server: NameServer, trouble: Any
) -> None:
    server.zone["db.test"] = [ADDRESSES[0]]
    server.zone["set.test"] = [*ADDRESSES[1:]]
    async with router_of(trio, server, "db.test", "set.test", addresses="expand") as router:
        await async_eventually(lambda: len(router.topology.standbys) == 2)
        before = router.topology.hosts
        server.zone["db.test"] = server.zone["set.test"] = trouble
        asked = server.count("db.test")
        await async_eventually(lambda: server.count("db.test") > asked)
        for node in trio.nodes:
            # New connections are made all the same.
            await async_call(node.execute, f"SELECT pg_terminate_backend(pid) {CLIENTS}")
        assert await where(router) == ADDRESSES[0]
        assert await where(router, "reader") in ADDRESSES[1:]
        assert [host.key for host in router.topology.hosts] == [host.key for host in before]


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (NXDOMAIN, "the name does not exist (NXDOMAIN)"),
        (SERVFAIL, "SERVFAIL"),
        (SILENCE, "no answer in 0.5 s"),
        ([], "it has no A records"),
        (
            # No more than the name server of these tests can write in time on a busy machine.
            [f"10.1.0.{n}" for n in range(100)],
            "an answer of 100 records, more than the 64 accepted",
        ),
    ],
    ids=["NXDOMAIN", "SERVFAIL", "silence", "empty", "a hundred"],
)
@pytest.mark.parametrize("mode", ["one-host", "expand"])
async def test_a_name_that_never_resolves_has_a_reason_and_disturbs_nobody(
    trio: LocalCluster, server: NameServer, records: Any, told: str, mode: str
) -> None:
    server.zone["bad.test"] = [TRUNCATED, *records] if isinstance(records, list) and records else records
    server.zone["db.test"] = [ADDRESSES[0]]
    async with router_of(trio, server, "bad.test", "db.test", addresses=mode) as router:
        assert await where(router) == ADDRESSES[0]
        bad = router.topology.hosts[0]
        await async_eventually(lambda: told in router.topology.hosts[0].reason)
        assert (bad.host, bad.state) == ("bad.test", HostState.DOWN)
    async with router_of(trio, server, "bad.test", addresses=mode) as router:
        await async_eventually(lambda: told in router.topology.hosts[0].reason)
        with pytest.raises(NoHostAvailable, match=r"bad\.test") as caught:
            await where(router, timeout=1.0)
        assert told in str(caught.value)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (NXDOMAIN, "no SRV records of '_pg._tcp.test': the name does not exist (NXDOMAIN)"),
        (["127.0.0.2"], "no SRV records of '_pg._tcp.test': it has no SRV records"),
        ([(0, 0, 0, ".")], "the service is not offered: its SRV record has the target '.'"),
    ],
    ids=["NXDOMAIN", "no SRV", "not offered"],
)
async def test_a_service_without_hosts_has_a_reason_and_disturbs_nobody(
    trio: LocalCluster, server: NameServer, records: Any, told: str
) -> None:
    server.zone["_pg._tcp.test"] = records
    server.zone["db.test"] = [ADDRESSES[0]]
    async with router_of(trio, server, "_pg._tcp.test", "db.test") as router:
        assert await where(router) == ADDRESSES[0]
        assert (router.topology.hosts[0].state, router.topology.hosts[0].reason) == (HostState.DOWN, told)
        server.zone["_pg._tcp.test"] = [(0, 0, trio.nodes[1].port, "n2.test")]
        server.zone["n2.test"] = [ADDRESSES[1]]
        await async_eventually(lambda: router.topology.hosts[0].state is HostState.UP)
        assert await where(router, "reader") == ADDRESSES[1]


async def test_long_answers_come_over_tcp(trio: LocalCluster, server: NameServer) -> None:
    server.zone["set.test"] = [TRUNCATED, *ADDRESSES]
    async with router_of(trio, server, "set.test", addresses="expand") as router:
        assert await where(router) == ADDRESSES[0]
        assert server.tcp >= 1


async def test_a_name_with_both_families_is_tried_at_each_address(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["both.test"] = ["::1", "127.0.0.99", ADDRESSES[0]]
    async with router_of(trio, server, "both.test") as router:
        assert await where(router) == ADDRESSES[0]
    async with router_of(trio, server, "both.test", addresses="expand") as router:
        assert await where(router) == ADDRESSES[0]
        states = {host.key.hostaddr: host.state for host in router.topology.hosts}
        assert states == {"127.0.0.2": HostState.UP, "127.0.0.99": HostState.DOWN, "::1": HostState.DOWN}


async def test_search_domains_are_tried(trio: LocalCluster, server: NameServer) -> None:
    import dns.name

    server.zone["db.shop.test"] = [ADDRESSES[0]]
    resolver = server.resolver
    resolver.search = [dns.name.from_text("shop.test.")]
    dsn = dsn_at(f"db:{trio.nodes[0].port}", trio)
    async with AsyncRouter(dsn, resolver=resolver, probe=FAST) as router:
        assert await where(router) == ADDRESSES[0]


async def test_routers_with_one_resolver_share_its_questions(trio: LocalCluster, server: NameServer) -> None:
    server.ttl = 60
    server.zone["db.test"] = [ADDRESSES[0]]
    resolver = server.resolver
    dsn = dsn_at(f"db.test:{trio.nodes[0].port}", trio)
    async with AsyncRouter(dsn, resolver=resolver) as one, AsyncRouter(dsn, resolver=resolver) as other:
        assert [await where(one), await where(other)] == [ADDRESSES[0]] * 2
        assert server.count() == 2


@pytest.mark.parametrize("mode", ["one-host", "expand", "SRV"])
async def test_an_old_primary_that_a_name_brings_back_stays_stale(server: NameServer, mode: str) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone |= {"n0.test": [old.host], "n1.test": [new.host]}

        def lead_to(*nodes: int) -> None:
            server.zone["_pg._tcp.test"] = [(0, 0, old.port, f"n{n}.test") for n in nodes]
            server.zone["db.test"] = [cluster.nodes[n].host for n in nodes]

        name = "_pg._tcp.test" if mode == "SRV" else "db.test"
        # With "one-host" the name flips to and fro, otherwise the old primary is listed beside the new one.
        lead_to(*((0,) if mode == "one-host" else (0, 1)))
        addresses_ = "expand" if mode == "expand" else "one-host"
        async with router_of(cluster, server, name, addresses=addresses_) as router:
            assert await where(router) == old.host
            await async_call(new.promote)
            lead_to(*((1,) if mode == "one-host" else (0, 1)))
            await async_eventually(lambda: (p := router.topology.primary) is not None and p.timeline == 2)
            assert await where(router) == new.host
            lead_to(0)
            await async_eventually(lambda: [h.state for h in router.topology.hosts] == [HostState.STALE])
            with pytest.raises(NoHostAvailable, match="stale primary"):
                await where(router, timeout=0.5)


async def test_members_that_join_before_there_is_a_primary_are_all_asked_first(server: NameServer) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        await async_call(new.promote)
        server.zone["db.test"] = SERVFAIL
        async with router_of(cluster, server, "db.test", addresses="expand") as router:
            await async_eventually(lambda: router.topology.initial_scan_done)
            server.zone["db.test"] = [old.host, new.host]
            seen = []
            router.subscribe(lambda event: seen.append(event.text))
            assert await where(router, timeout=15.0) == new.host
        assert f"primary is db.test:{old.port} ({old.host}), timeline 1" not in seen


@pytest.mark.parametrize("mode", ["one-host", "expand", "SRV"])
async def test_in_a_long_outage_names_are_asked_on_and_on(server: NameServer, mode: str) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.ttl = 300
        server.zone |= {"n0.test": [old.host], "n1.test": [new.host]}
        server.zone["_pg._tcp.test"] = [(0, 0, old.port, "n0.test")]
        server.zone["db.test"] = [old.host]
        name = "_pg._tcp.test" if mode == "SRV" else "db.test"
        slow = ProbeOptions(interval=0.3, max_ttl=300)
        addresses_ = "expand" if mode == "expand" else "one-host"
        async with router_of(cluster, server, name, addresses=addresses_, probe=slow) as router:
            assert await where(router) == old.host
            asked = server.count(name)
            await async_call(old.kill)
            await async_call(new.promote)
            each = 1 if mode == "SRV" else 2
            await async_eventually(lambda: server.count(name) >= asked + 4 * each)
            server.zone["_pg._tcp.test"] = [(0, 0, old.port, "n1.test")]
            server.zone["db.test"] = [new.host]
            assert await where(router, timeout=5.0) == new.host


async def test_a_new_address_that_refuses_logins_is_asked_rarely_and_told(
    trio: LocalCluster, server: NameServer
) -> None:
    refuser = trio.nodes[2]
    rules = refuser.data_dir / "pg_hba.conf"
    allowed = rules.read_text()
    server.zone["db.test"] = [ADDRESSES[0]]
    try:
        rules.write_text("host all app 0.0.0.0/0 reject\n" + allowed)
        await async_call(trio.primary.execute, f"CREATE ROLE app LOGIN PASSWORD '{trio.password}'")
        await async_call(refuser.execute, "SELECT pg_reload_conf()")
        dsn = dsn_at(f"db.test:{refuser.port}", trio, user="app")
        async with AsyncRouter(dsn, resolver=server.resolver, probe=FAST) as router:
            assert await where(router) == ADDRESSES[0]
            server.zone["db.test"] = [ADDRESSES[2]]
            await async_eventually(lambda: "pg_hba.conf rejects" in router.topology.hosts[0].reason)
            begun_at, refused = time.monotonic(), refuser.log().count("pg_hba.conf rejects")
            assert await where(router) == ADDRESSES[0]
            asked = server.count()
            await async_eventually(lambda: server.count() >= asked + 10)
            more = refuser.log().count("pg_hba.conf rejects") - refused
            assert more <= 1 + (time.monotonic() - begun_at) / 5
            server.zone["db.test"] = [ADDRESSES[0]]
            await async_eventually(lambda: router.topology.hosts[0].reason == "")
    finally:
        rules.write_text(allowed)
        await async_call(refuser.execute, "SELECT pg_reload_conf()")
        await async_call(trio.primary.execute, "DROP ROLE app")


async def test_a_new_address_of_another_cluster_is_not_moved_to(
    trio: LocalCluster, server: NameServer
) -> None:
    with LocalCluster(standbys=0, password=trio.password) as other:
        port = other.primary.port
        server.zone["db.test"] = ["127.0.0.1"]
        dsn = dsn_at(f"db.test:{port}", other)
        async with AsyncRouter(dsn, resolver=server.resolver, probe=FAST) as router:
            assert await where(router) == "127.0.0.1"
            with relay((ADDRESSES[1], port), (trio.primary.host, trio.primary.port)):
                server.zone["db.test"] = [ADDRESSES[1]]
                await async_eventually(lambda: "another cluster" in router.topology.hosts[0].reason)
                assert await where(router) == "127.0.0.1"
                assert router.topology.hosts[0].state is HostState.UP


@pytest.mark.parametrize("timeout", [1.0, 15.0])
async def test_a_new_address_that_hangs_does_not_blind_the_watch_on_the_old_one(
    trio: LocalCluster, server: NameServer, timeout: float
) -> None:
    port, gate = trio.nodes[0].port, threading.Event()
    probe = ProbeOptions(interval=0.3, timeout=timeout, min_ttl=0.3, lookup_timeout=0.5, share=False)
    server.zone["db.test"] = [ADDRESSES[0]]
    with relay((GATE, port), (ADDRESSES[0], port), gate=gate) as links:
        async with router_of(trio, server, "db.test", probe=probe) as router:
            assert await where(router) == ADDRESSES[0]
            server.zone["db.test"] = [GATE]
            await async_eventually(lambda: links)
            if timeout == 1.0:  # it is told after each attempt
                await async_eventually(lambda: GATE in router.topology.hosts[0].reason)
            hung_at = time.monotonic()
            # Far from the 15 s that the new address may take.
            await async_eventually(
                lambda: (router.topology.hosts[0].last_seen or 0.0) > hung_at + 0.5, timeout=7.0
            )
            assert await where(router) == ADDRESSES[0]


async def test_a_family_that_cannot_be_looked_up_keeps_its_addresses(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["set.test"] = [*ADDRESSES, "::1"]
    async with router_of(trio, server, "set.test", addresses="expand") as router:
        await async_eventually(lambda: len(router.topology.hosts) == 4)
        asked = server.count("set.test")
        server.zone["set.test", "A"] = SERVFAIL
        await async_eventually(lambda: server.count("set.test") >= asked + 4)
        assert len(router.topology.hosts) == 4
        assert await where(router) == ADDRESSES[0]
        assert "SERVFAIL" in router.topology.hosts[0].reason


async def test_a_resolver_that_is_itself_at_fault_is_a_reason_and_disturbs_nobody(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["db.test"] = [ADDRESSES[0]]
    resolver = server.resolver
    resolver.search = "no list of names"  # type: ignore[assignment]
    port = trio.nodes[0].port
    async with AsyncRouter(
        dsn_at(f"db:{port},{ADDRESSES[0]}:{port}", trio), resolver=resolver, probe=FAST
    ) as router:
        async with router.writer(5.0) as conn:
            assert conn.info.host == ADDRESSES[0]
        assert "could not resolve 'db'" in router.topology.hosts[0].reason


async def test_a_target_that_is_a_directory_is_no_way_around_tls(
    shared: LocalCluster, server: NameServer
) -> None:
    node = shared.primary
    server.zone["_pg._tcp.test"] = [(0, 0, node.port, DNSLabel([str(node.socket_dir).encode()]))]
    dsn = "postgresql://postgres@_pg._tcp.test/postgres?sslmode=verify-full&sslrootcert=system"
    async with AsyncRouter(dsn, resolver=server.resolver, probe=FAST) as router:
        with pytest.raises(NoHostAvailable, match=r"SRV record with the target '/.*is invalid"):
            await where(router, timeout=1.0)


async def test_the_shortest_time_of_all_routers_counts(trio: LocalCluster, server: NameServer) -> None:
    server.ttl = 600
    server.zone["db.test"] = [ADDRESSES[0]]
    resolver = server.resolver
    dsn = dsn_at(f"db.test:{trio.nodes[0].port}", trio)
    patient = ProbeOptions(max_ttl=600)
    async with AsyncRouter(dsn, resolver=resolver, probe=patient) as one:
        assert await where(one) == ADDRESSES[0]
        async with AsyncRouter(dsn, resolver=resolver, probe=ProbeOptions(max_ttl=0.3, min_ttl=0.1)):
            asked = server.count()
            await async_eventually(lambda: server.count() >= asked + 6, timeout=5.0)
