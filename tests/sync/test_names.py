# Generated from tests/aio/test_names.py by .ci/unasync.py: edit that file, not this one.
"""Names that move: endpoints that flip, sets that grow and shrink, services, and name servers that fail."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from dnslib import DNSLabel

from pgroute import Router, HostRole, HostState, NoHostAvailable, ProbeOptions
from pgroute.testing import LocalCluster
from tests.names.nameserver import NXDOMAIN, SERVFAIL, SILENCE, TRUNCATED, NameServer
from tests.names.relay import relay
from tests.support import Background, call, eventually

pytestmark = pytest.mark.cluster

ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
FAST = ProbeOptions(interval=0.3, min_ttl=0.3, lookup_timeout=0.5)


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


def router_of(cluster: LocalCluster, server: NameServer, *names: str, **options: Any) -> Router:
    """Return a router to a cluster under these names."""
    hosts = ",".join(f"{name}:{cluster.nodes[0].port}" for name in names)
    options = {"probe": FAST, **options}
    return Router(f"postgresql://postgres@{hosts}/postgres", resolver=server.resolver, **options)


def where(router: Router, role: str = "writer", timeout: float = 5.0) -> str:
    """Return the address that a session is given at."""
    session = router.writer(timeout) if role == "writer" else router.reader(timeout)
    with session as conn:
        assert conn.info.host != conn.info.hostaddr, "the name is what TLS and the password file see"
        return conn.info.hostaddr


def addresses(router: Router) -> list[str | None]:
    return [host.address for host in router.topology.hosts]


def keep_going(router: Router, role: str, stop: threading.Event, seen: list[Any]) -> None:
    """Ask for sessions until told to stop, and note when each was had, and where, or its error."""
    while not stop.is_set():
        try:
            address: str | None = None
            session = router.writer() if role == "writer" else router.reader()
            with session as conn:
                address = conn.info.hostaddr
                conn.execute("SELECT 1")
            seen.append((time.monotonic(), address, None))
        except psycopg.Error as exc:
            seen.append((time.monotonic(), address, exc))


@pytest.mark.parametrize("ttl", [1, 300])
def test_a_flipped_endpoint_is_followed_and_the_old_sessions_are_retired(
    server: NameServer, ttl: int
) -> None:
    server.ttl = ttl
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone["db.test"] = ["-> a.test"]
        server.zone["a.test"], server.zone["b.test"] = [old.host], [new.host]
        with router_of(cluster, server, "db.test") as router:
            assert where(router) == old.host
            # A switchover in which the old primary goes on as a standby: nothing is lost but the role.
            call(old.stop, "fast")
            call(new.promote)
            call(old.rejoin, new)
            eventually(lambda: router.topology.hosts[0].role is HostRole.STANDBY)
            server.zone["db.test"] = ["-> b.test"]
            assert where(router, timeout=10.0) == new.host
            assert addresses(router) == [new.host]
            eventually(lambda: sessions_at(old) == 0)


def sessions_at(node: Any) -> int:
    return int(node.execute(f"SELECT count(*) {CLIENTS}")[0][0])


CLIENTS = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


def test_a_name_that_flips_between_two_standbys_gives_readers_no_error(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["ro.test"] = [ADDRESSES[1]]
    stop = threading.Event()
    seen: list[Any] = []
    with (
        router_of(trio, server, "ro.test", reader_attrs="standby") as router,
        Background() as background,
    ):
        for _ in range(3):
            background.start(keep_going, router, "reader", stop, seen)
        eventually(lambda: len(seen) > 20)
        server.zone["ro.test"] = [ADDRESSES[2]]
        eventually(lambda: [address for _, address, _ in seen[-20:]] == [ADDRESSES[2]] * 20)
        stop.set()
    assert {address for _, address, _ in seen} == {ADDRESSES[1], ADDRESSES[2]}
    assert [error for _, _, error in seen if error] == []


def test_where_nobody_is_at_the_new_address_the_old_one_serves(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["db.test"] = [ADDRESSES[0]]
    with router_of(trio, server, "db.test") as router:
        assert where(router) == ADDRESSES[0]
        server.zone["db.test"] = ["127.0.0.9"]
        asked = server.count("db.test")
        eventually(lambda: server.count("db.test") >= asked + 6)
        assert where(router) == ADDRESSES[0]
        assert [host.state for host in router.topology.hosts] == [HostState.UP]


def test_an_outage_asks_again_at_once_and_not_in_a_storm(server: NameServer) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.ttl = 300
        server.zone["db.test"] = [old.host]
        slow = ProbeOptions(interval=0.3, max_ttl=300)
        with router_of(cluster, server, "db.test", probe=slow) as router:
            assert where(router) == old.host
            asked = server.count()
            begun_at = time.monotonic()
            call(old.kill)
            call(new.promote)
            server.zone["db.test"] = [new.host]
            assert where(router, timeout=10.0) == new.host
            # A and AAAA each time, one second apart at least.
            assert server.count() - asked <= 2 * (2 + time.monotonic() - begun_at)


def test_a_set_of_addresses_grows_and_shrinks_under_load_without_an_error(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["set.test"] = [*ADDRESSES[:2]]
    stop = threading.Event()
    seen: list[Any] = []
    events: list[str] = []
    with (
        router_of(trio, server, "set.test", addresses="all") as router,
        Background() as background,
    ):
        router.subscribe(lambda event: events.append(event.text))
        for _ in range(4):
            background.start(keep_going, router, "reader", stop, seen)
        eventually(lambda: len(seen) > 20)
        assert {address for _, address, _ in seen} == {ADDRESSES[1]}
        server.zone["set.test"] = [*ADDRESSES]
        eventually(lambda: {a for _, a, _ in seen[-50:]} == {ADDRESSES[1], ADDRESSES[2]})
        server.zone["set.test"] = [ADDRESSES[0]]
        eventually(lambda: {a for _, a, _ in seen[-50:]} == {ADDRESSES[0]})
        eventually(lambda: sessions_at(trio.nodes[2]) == 0)
        stop.set()
        assert [host.key.hostaddr for host in router.topology.hosts] == [ADDRESSES[0]]
        assert [host.origin for host in router.topology.hosts] == ["name set.test"]
    assert [error for _, _, error in seen if error] == []
    port = trio.nodes[0].port
    assert f"set.test:{port} ({ADDRESSES[2]}) joined" in events
    assert f"set.test:{port} ({ADDRESSES[2]}) left" in events


def test_services_give_ports_priorities_and_weights(trio: LocalCluster, server: NameServer) -> None:
    port = trio.nodes[0].port
    server.zone |= {f"n{n}.test": [address] for n, address in enumerate(ADDRESSES, 1)}
    server.zone["_pg._tcp.test"] = [(0, 1, port, "n2.test"), (0, 3, port, "n3.test"), (1, 0, port, "n1.test")]
    with Router(
        "postgresql://postgres@_pg._tcp.test:1/postgres", resolver=server.resolver, probe=FAST
    ) as router:
        assert where(router) == ADDRESSES[0]
        assert [host.host for host in router.topology.hosts] == ["n3.test", "n2.test", "n1.test"]
        assert {host.origin for host in router.topology.hosts} == {"SRV _pg._tcp.test"}
        eventually(lambda: len(router.topology.standbys) == 2)
        counts = Counter([where(router, "reader") for _ in range(800)])
        # A share of 3/4 of 800: five standard deviations are 61.
        assert abs(counts[ADDRESSES[2]] - 600) <= 61, counts
        assert counts.keys() == {ADDRESSES[1], ADDRESSES[2]}
        server.zone["_pg._tcp.test"] = [
            (5, 1, port, "n3.test"),
            (2, 1, port, "n2.test"),
            (0, 1, port, "n1.test"),
        ]
        eventually(lambda: router.topology.hosts[0].host == "n1.test")
        # The lowest priority of those that can serve: the first one is no standby.
        assert {where(router, "reader") for _ in range(50)} == {ADDRESSES[1]}
        server.zone["_pg._tcp.test"] = [(0, 0, port, "n1.test")]
        eventually(lambda: len(router.topology.hosts) == 1)
        assert where(router, "reader") == ADDRESSES[0]


@pytest.mark.parametrize("trouble", [SERVFAIL, NXDOMAIN, SILENCE, []])
def test_the_last_good_answer_serves_while_the_name_server_fails(
    trio: LocalCluster, server: NameServer, trouble: Any
) -> None:
    server.zone["db.test"] = [ADDRESSES[0]]
    server.zone["set.test"] = [*ADDRESSES[1:]]
    with router_of(trio, server, "db.test", "set.test", addresses="all") as router:
        eventually(lambda: len(router.topology.standbys) == 2)
        before = router.topology.hosts
        server.zone["db.test"] = server.zone["set.test"] = trouble
        asked = server.count("db.test")
        eventually(lambda: server.count("db.test") > asked)
        for node in trio.nodes:
            # New connections are made all the same.
            call(node.execute, f"SELECT pg_terminate_backend(pid) {CLIENTS}")
        assert where(router) == ADDRESSES[0]
        assert where(router, "reader") in ADDRESSES[1:]
        assert [host.key for host in router.topology.hosts] == [host.key for host in before]


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (NXDOMAIN, "the name does not exist (NXDOMAIN)"),
        (SERVFAIL, "SERVFAIL"),
        (SILENCE, "no answer in 0.5 s"),
        ([], "it has no A records"),
        (
            [f"10.1.{n // 250}.{n % 250}" for n in range(1000)],
            "an answer of 1000 records, more than the 64 accepted",
        ),
    ],
    ids=["NXDOMAIN", "SERVFAIL", "silence", "empty", "a thousand"],
)
@pytest.mark.parametrize("mode", ["first", "all"])
def test_a_name_that_never_resolves_has_a_reason_and_disturbs_nobody(
    trio: LocalCluster, server: NameServer, records: Any, told: str, mode: str
) -> None:
    server.zone["bad.test"] = [TRUNCATED, *records] if isinstance(records, list) and records else records
    server.zone["db.test"] = [ADDRESSES[0]]
    with router_of(trio, server, "bad.test", "db.test", addresses=mode) as router:
        assert where(router) == ADDRESSES[0]
        bad = router.topology.hosts[0]
        eventually(lambda: told in router.topology.hosts[0].reason)
        assert (bad.host, bad.state) == ("bad.test", HostState.DOWN)
    with router_of(trio, server, "bad.test", addresses=mode) as router:
        with pytest.raises(NoHostAvailable, match=r"bad\.test") as caught:
            where(router, timeout=1.0)
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
def test_a_service_without_hosts_has_a_reason_and_disturbs_nobody(
    trio: LocalCluster, server: NameServer, records: Any, told: str
) -> None:
    server.zone["_pg._tcp.test"] = records
    server.zone["db.test"] = [ADDRESSES[0]]
    with router_of(trio, server, "_pg._tcp.test", "db.test") as router:
        assert where(router) == ADDRESSES[0]
        assert (router.topology.hosts[0].state, router.topology.hosts[0].reason) == (HostState.DOWN, told)
        server.zone["_pg._tcp.test"] = [(0, 0, trio.nodes[1].port, "n2.test")]
        server.zone["n2.test"] = [ADDRESSES[1]]
        eventually(lambda: router.topology.hosts[0].state is HostState.UP)
        assert where(router, "reader") == ADDRESSES[1]


def test_long_answers_come_over_tcp(trio: LocalCluster, server: NameServer) -> None:
    server.zone["set.test"] = [TRUNCATED, *ADDRESSES]
    with router_of(trio, server, "set.test", addresses="all") as router:
        assert where(router) == ADDRESSES[0]
        assert server.tcp >= 1


def test_a_name_with_both_families_is_tried_at_each_address(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["both.test"] = ["::1", "127.0.0.99", ADDRESSES[0]]
    with router_of(trio, server, "both.test") as router:
        assert where(router) == ADDRESSES[0]
    with router_of(trio, server, "both.test", addresses="all") as router:
        assert where(router) == ADDRESSES[0]
        states = {host.key.hostaddr: host.state for host in router.topology.hosts}
        assert states == {"127.0.0.2": HostState.UP, "127.0.0.99": HostState.DOWN, "::1": HostState.DOWN}


def test_search_domains_are_tried(trio: LocalCluster, server: NameServer) -> None:
    import dns.name

    server.zone["db.shop.test"] = [ADDRESSES[0]]
    resolver = server.resolver
    resolver.search = [dns.name.from_text("shop.test.")]
    dsn = f"postgresql://postgres@db:{trio.nodes[0].port}/postgres"
    with Router(dsn, resolver=resolver, probe=FAST) as router:
        assert where(router) == ADDRESSES[0]


def test_routers_with_one_resolver_share_its_questions(trio: LocalCluster, server: NameServer) -> None:
    server.ttl = 60
    server.zone["db.test"] = [ADDRESSES[0]]
    resolver = server.resolver
    dsn = f"postgresql://postgres@db.test:{trio.nodes[0].port}/postgres"
    with Router(dsn, resolver=resolver) as one, Router(dsn, resolver=resolver) as other:
        assert [where(one), where(other)] == [ADDRESSES[0]] * 2
        assert server.count() == 2


def hold(router: Router, entered: threading.Event, release: threading.Event) -> None:
    """Keep a session in the middle of a statement until it ends."""
    with router.writer() as conn:
        entered.set()
        conn.execute("SELECT pg_sleep(60)")


@pytest.mark.parametrize("mode", ["first", "all", "SRV"])
def test_an_old_primary_that_a_name_brings_back_stays_stale(server: NameServer, mode: str) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone |= {"n0.test": [old.host], "n1.test": [new.host]}

        def lead_to(*nodes: int) -> None:
            server.zone["_pg._tcp.test"] = [(0, 0, old.port, f"n{n}.test") for n in nodes]
            server.zone["db.test"] = [cluster.nodes[n].host for n in nodes]

        name = "_pg._tcp.test" if mode == "SRV" else "db.test"
        # With "first" the name flips to and fro, otherwise the old primary is listed beside the new one.
        lead_to(*((0,) if mode == "first" else (0, 1)))
        addresses_ = "all" if mode == "all" else "first"
        with router_of(cluster, server, name, addresses=addresses_) as router:
            assert where(router) == old.host
            call(new.promote)
            lead_to(*((1,) if mode == "first" else (0, 1)))
            eventually(lambda: (p := router.topology.primary) is not None and p.timeline == 2)
            assert where(router) == new.host
            lead_to(0)
            eventually(lambda: [h.state for h in router.topology.hosts] == [HostState.STALE])
            with pytest.raises(NoHostAvailable, match="stale primary"):
                where(router, timeout=0.5)


def test_members_that_join_before_there_is_a_primary_are_all_asked_first(server: NameServer) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        call(new.promote)
        server.zone["db.test"] = SERVFAIL
        with router_of(cluster, server, "db.test", addresses="all") as router:
            eventually(lambda: router.topology.round_done)
            server.zone["db.test"] = [old.host, new.host]
            seen = []
            router.subscribe(lambda event: seen.append(event.text))
            assert where(router, timeout=15.0) == new.host
        assert f"primary is db.test:{old.port} ({old.host}), timeline 1" not in seen


@pytest.mark.parametrize("mode", ["first", "all", "SRV"])
def test_in_a_long_outage_names_are_asked_on_and_on(server: NameServer, mode: str) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.ttl = 300
        server.zone |= {"n0.test": [old.host], "n1.test": [new.host]}
        server.zone["_pg._tcp.test"] = [(0, 0, old.port, "n0.test")]
        server.zone["db.test"] = [old.host]
        name = "_pg._tcp.test" if mode == "SRV" else "db.test"
        slow = ProbeOptions(interval=0.3, max_ttl=300)
        addresses_ = "all" if mode == "all" else "first"
        with router_of(cluster, server, name, addresses=addresses_, probe=slow) as router:
            assert where(router) == old.host
            asked = server.count(name)
            call(old.kill)
            call(new.promote)
            each = 1 if mode == "SRV" else 2
            eventually(lambda: server.count(name) >= asked + 4 * each)
            server.zone["_pg._tcp.test"] = [(0, 0, old.port, "n1.test")]
            server.zone["db.test"] = [new.host]
            assert where(router, timeout=5.0) == new.host


def test_sessions_at_a_frozen_primary_are_released_when_its_name_moves_away(server: NameServer) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone["db.test"] = [old.host]
        entered, release = threading.Event(), threading.Event()
        with router_of(cluster, server, "db.test") as router, Background() as background:
            session = background.start(hold, router, entered, release)
            eventually(entered.is_set)
            call(old.freeze)
            call(new.promote)
            server.zone["db.test"] = [new.host]
            assert where(router, timeout=15.0) == new.host
            with pytest.raises(psycopg.OperationalError):
                session.result(5)


def test_sessions_at_a_frozen_host_are_released_when_it_leaves(server: NameServer) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone["db.test"] = [old.host, new.host]
        entered, release = threading.Event(), threading.Event()
        lasting = ProbeOptions(interval=0.3, min_ttl=0.3, lookup_timeout=0.5, abort_after=None)
        with (
            router_of(cluster, server, "db.test", addresses="all", probe=lasting) as router,
            Background() as background,
        ):
            session = background.start(hold, router, entered, release)
            eventually(entered.is_set)
            call(old.freeze)
            eventually(lambda: router.topology.hosts[0].state is HostState.DOWN)
            server.zone["db.test"] = [new.host]
            with pytest.raises(psycopg.OperationalError):
                session.result(10)


def test_a_new_address_that_refuses_logins_is_asked_rarely_and_told(
    trio: LocalCluster, server: NameServer
) -> None:
    refuser = trio.nodes[2]
    rules = refuser.data_dir / "pg_hba.conf"
    allowed = rules.read_text()
    server.zone["db.test"] = [ADDRESSES[0]]
    try:
        rules.write_text("host all app 0.0.0.0/0 reject\n" + allowed)
        call(trio.primary.execute, "CREATE ROLE app LOGIN")
        call(refuser.execute, "SELECT pg_reload_conf()")
        dsn = f"postgresql://app@db.test:{refuser.port}/postgres"
        with Router(dsn, resolver=server.resolver, probe=FAST) as router:
            assert where(router) == ADDRESSES[0]
            server.zone["db.test"] = [ADDRESSES[2]]
            eventually(lambda: "pg_hba.conf rejects" in router.topology.hosts[0].reason)
            begun_at, refused = time.monotonic(), refuser.log().count("pg_hba.conf rejects")
            assert where(router) == ADDRESSES[0]
            asked = server.count()
            eventually(lambda: server.count() >= asked + 10)
            more = refuser.log().count("pg_hba.conf rejects") - refused
            assert more <= 1 + (time.monotonic() - begun_at) / 5
            server.zone["db.test"] = [ADDRESSES[0]]
            eventually(lambda: router.topology.hosts[0].reason == "")
    finally:
        rules.write_text(allowed)
        call(refuser.execute, "SELECT pg_reload_conf()")
        call(trio.primary.execute, "DROP ROLE app")


def test_a_new_address_of_another_cluster_is_not_moved_to(
    trio: LocalCluster, server: NameServer
) -> None:
    with LocalCluster(standbys=0) as other:
        port = other.primary.port
        server.zone["db.test"] = ["127.0.0.1"]
        dsn = f"postgresql://postgres@db.test:{port}/postgres"
        with Router(dsn, resolver=server.resolver, probe=FAST) as router:
            assert where(router) == "127.0.0.1"
            with relay((ADDRESSES[1], port), (trio.primary.host, trio.primary.port)):
                server.zone["db.test"] = [ADDRESSES[1]]
                eventually(lambda: "another cluster" in router.topology.hosts[0].reason)
                assert where(router) == "127.0.0.1"
                assert router.topology.hosts[0].state is HostState.UP


def test_a_new_address_that_hangs_does_not_blind_the_watch_on_the_old_one(server: NameServer) -> None:
    with LocalCluster(addresses=ADDRESSES[:2]) as cluster:
        old, new = cluster.nodes
        server.zone["db.test"] = [old.host]
        with router_of(cluster, server, "db.test") as router:
            assert where(router) == old.host
            call(new.freeze)
            server.zone["db.test"] = [new.host]
            eventually(lambda: new.host in router.topology.hosts[0].reason)
            seen = router.topology.hosts[0].last_seen or 0.0
            eventually(lambda: (router.topology.hosts[0].last_seen or 0.0) > seen, timeout=0.9)
            call(new.thaw)


def test_a_family_that_cannot_be_looked_up_keeps_its_addresses(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["set.test"] = [*ADDRESSES, "::1"]
    with router_of(trio, server, "set.test", addresses="all") as router:
        eventually(lambda: len(router.topology.hosts) == 4)
        asked = server.count("set.test")
        server.zone["set.test", "A"] = SERVFAIL
        eventually(lambda: server.count("set.test") >= asked + 4)
        assert len(router.topology.hosts) == 4
        assert where(router) == ADDRESSES[0]
        assert "SERVFAIL" in router.topology.hosts[0].reason


def test_a_resolver_that_is_itself_at_fault_is_a_reason_and_disturbs_nobody(
    trio: LocalCluster, server: NameServer
) -> None:
    server.zone["db.test"] = [ADDRESSES[0]]
    resolver = server.resolver
    resolver.search = "no list of names"  # type: ignore[assignment]
    port = trio.nodes[0].port
    with Router(
        f"postgresql://postgres@db:{port},{ADDRESSES[0]}:{port}/postgres", resolver=resolver, probe=FAST
    ) as router:
        with router.writer(5.0) as conn:
            assert conn.info.host == ADDRESSES[0]
        assert "could not resolve 'db'" in router.topology.hosts[0].reason


def test_a_target_that_is_a_directory_is_no_way_around_tls(
    shared: LocalCluster, server: NameServer
) -> None:
    node = shared.primary
    server.zone["_pg._tcp.test"] = [(0, 0, node.port, DNSLabel([str(node.socket_dir).encode()]))]
    dsn = "postgresql://postgres@_pg._tcp.test/postgres?sslmode=verify-full&sslrootcert=system"
    with Router(dsn, resolver=server.resolver, probe=FAST) as router:
        with pytest.raises(NoHostAvailable, match="none of a host"):
            where(router, timeout=1.0)


def test_the_shortest_time_of_all_routers_counts(trio: LocalCluster, server: NameServer) -> None:
    server.ttl = 600
    server.zone["db.test"] = [ADDRESSES[0]]
    resolver = server.resolver
    dsn = f"postgresql://postgres@db.test:{trio.nodes[0].port}/postgres"
    patient = ProbeOptions(max_ttl=600)
    with Router(dsn, resolver=resolver, probe=patient) as one:
        assert where(one) == ADDRESSES[0]
        with Router(dsn, resolver=resolver, probe=ProbeOptions(max_ttl=0.3, min_ttl=0.1)):
            asked = server.count()
            eventually(lambda: server.count() >= asked + 6, timeout=5.0)
