# Generated from tests/aio/test_balancing.py by .ci/unasync.py: edit that file, not this one.
"""How sessions are shared out among real hosts: policies, zones, hosts that refuse or hang, hosts that return."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from pgroute import (
    Router,
    Candidate,
    HostKey,
    HostOptions,
    HostState,
    NoHostAvailable,
    PoolOptions,
    Role,
)
from pgroute._sync.router import manager_of
from pgroute.testing import LocalCluster, Node
from tests.sync.conftest import Proxied
from tests.sync.workload import key, state
from tests.support import call, eventually, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]


class Recorder:
    """Takes a random host, and keeps what it was offered and told."""

    def __init__(self) -> None:
        self.offered: list[dict[HostKey, float]] = []
        self.told: list[tuple[HostKey, float]] = []

    def pick(
        self, candidates: tuple[Candidate, ...], load: Callable[[HostKey], int], rng: Random
    ) -> Candidate:
        self.offered.append({candidate.key: candidate.weight for candidate in candidates})
        return rng.choice(candidates)

    def acquired(self, candidate: Candidate, seconds: float) -> None:
        self.told.append((candidate.key, seconds))


def all_known(router: Router[Any]) -> None:
    eventually(lambda: all(host.usable for host in router.topology.hosts))


def read_from(router: Router[Any], cluster: Any) -> int:
    """Return the number of the node that gives a reader's session."""
    with router.reader() as conn:
        conn.execute("SELECT 1")
        return [node.port for node in cluster.nodes].index(conn.info.port)


def zones(cluster: LocalCluster, *names: str) -> dict[str, HostOptions]:
    return {str(key(node)): HostOptions(zone=name) for node, name in zip(cluster.nodes, names, strict=True)}


# Policies.


def test_round_robin_shares_exactly(shared: LocalCluster) -> None:
    with Router(shared.dsn, balance="round-robin") as router:
        all_known(router)
        found = Counter([read_from(router, shared) for _ in range(40)])
    assert found == {1: 20, 2: 20}


def where_eight_are_held(router: Router[Any]) -> Counter[int]:
    """Return how many of eight sessions that are held at the same time are at which port."""
    held = [router.getconn("reader") for _ in range(8)]
    ports = Counter(conn.info.port for conn in held)
    for conn in held:
        router.putconn(conn)
    return ports


@pytest.mark.parametrize("balance", ["least-busy", "adaptive"])
def test_sessions_that_are_held_are_spread(shared: LocalCluster, balance: str) -> None:
    even = {node.port: 4 for node in shared.nodes[1:]}
    with Router(shared.dsn, balance=balance) as router:
        all_known(router)
        ports = where_eight_are_held(router)
        # "adaptive" may think for a moment that one of them is far away.
        until = time.monotonic() + (0.0 if balance == "least-busy" else 10.0)
        while ports != even and time.monotonic() < until:
            time.sleep(0.05)  # what it thinks is forgotten with time
            ports = where_eight_are_held(router)
    assert ports == even


@pytest.mark.parametrize("balance", ["ordered", "random", "round-robin", "least-busy", "adaptive"])
def test_every_policy_gives_writers_the_primary_and_readers_what_is_left(
    mended: LocalCluster, balance: str
) -> None:
    with Router(mended.dsn, balance=balance) as router:
        all_known(router)
        with router.writer() as conn:
            assert conn.info.port == mended.nodes[0].port
        call(mended.nodes[1].stop, "immediate")
        assert {read_from(router, mended) for _ in range(6)} <= {1, 2}
        eventually(lambda: not router.topology.hosts[1].usable)
        assert {read_from(router, mended) for _ in range(6)} == {2}


def test_policy_is_told_how_long_sessions_waited(shared: LocalCluster) -> None:
    policy = Recorder()
    with Router(shared.dsn, balance=policy, reader=PoolOptions(max_size=1)) as router:
        all_known(router)
        with router.writer():
            served = [key(shared.nodes[0])]
        served += [key(shared.nodes[read_from(router, shared)]) for _ in range(6)]
    assert [host for host, _ in policy.told] == served
    assert all(0 < seconds < within(1.0) for _, seconds in policy.told)


# Zones.


def test_readers_stay_in_their_zone_until_its_host_dies_and_come_back(mended: LocalCluster) -> None:
    options = zones(mended, "west", "east", "west")
    with Router(mended.dsn, host_options=options, zone="east") as router:
        all_known(router)
        assert {read_from(router, mended) for _ in range(10)} == {1}
        call(mended.nodes[1].stop, "immediate")
        assert {read_from(router, mended) for _ in range(10)} == {2}
        call(mended.nodes[1].start)
        eventually(lambda: state(router, mended.nodes[1]) is HostState.UP)
        assert {read_from(router, mended) for _ in range(10)} == {1}


def test_readers_spill_when_the_pool_of_their_zone_is_exhausted(shared: LocalCluster) -> None:
    options = zones(shared, "west", "east", "west")
    reader = PoolOptions(max_size=2)
    with Router(shared.dsn, host_options=options, zone="east", reader=reader) as router:
        all_known(router)
        held = [router.getconn("reader") for _ in range(3)]
        ports = [shared.nodes[number].port for number in (1, 1, 2)]
        assert [conn.info.port for conn in held] == ports
        for conn in held:
            router.putconn(conn)
        assert read_from(router, shared) == 1


def test_standby_of_another_zone_comes_before_the_primary_of_the_own(shared: LocalCluster) -> None:
    options = zones(shared, "east", "west", "west")
    with Router(shared.dsn, host_options=options, zone="east") as router:
        all_known(router)
        assert {read_from(router, shared) for _ in range(30)} == {1, 2}
        assert [host.zone for host in router.topology.hosts] == ["east", "west", "west"]
        assert str(router.topology).split()[:3] == ["host", "zone", "role"]


# Hosts that cannot be connected to.


def refusals(node: Node) -> int:
    return node.log().count('pg_hba.conf rejects connection for host "127.0.0.1", user "picky"')


def test_replica_that_refuses_the_readers_login_is_set_aside_and_comes_back(
    mended: LocalCluster,
) -> None:
    """The probes log in as another user, and find the host in order all the time."""
    first, refusing, _ = mended.nodes
    first.execute(f"CREATE ROLE picky LOGIN PASSWORD '{mended.password}'")
    mended.catch_up()
    hba = refusing.data_dir / "pg_hba.conf"
    rules = hba.read_text()
    before = refusals(refusing)
    hba.write_text(f"host all picky all reject\n{rules}")
    refusing.execute("SELECT pg_reload_conf()")
    policy = Recorder()
    reader = PoolOptions(kwargs={"user": "picky"}, min_size=0)  # so no pool connects for its own sake
    try:
        with Router(mended.dsn, balance=policy, reader=reader) as router:
            all_known(router)
            while not refusals(refusing) - before:
                assert read_from(router, mended) == 2
            policy.offered.clear()
            assert {read_from(router, mended) for _ in range(100)} == {2}
            assert {key(refusing)} not in [set(offer) for offer in policy.offered]
            assert sum(key(refusing) in offer for offer in policy.offered) <= 1
            assert refusals(refusing) - before <= 2
            assert state(router, refusing) is HostState.UP
            hba.write_text(rules)
            refusing.execute("SELECT pg_reload_conf()")
            until = time.monotonic() + within(10.0)
            while read_from(router, mended) != 1:
                assert time.monotonic() < until
                time.sleep(
                    0.01
                )  # how often it reads: nothing else tells that the host is offered again
    finally:
        hba.write_text(rules)
        refusing.execute("SELECT pg_reload_conf()")
        first.execute("DROP ROLE picky")


def test_replica_where_connecting_hangs_costs_one_session_a_second_and_no_other(
    proxied: Proxied,
) -> None:
    """Its probes go on over the connection that was open before."""
    hanging = proxied.cluster.nodes[1]
    policy = Recorder()
    with Router(proxied.dsn, balance=policy) as router:
        all_known(router)
        proxied.proxy(hanging).hang()
        waits: list[float] = []
        ports: list[int] = []
        while len(waits) < 60:
            begun = time.monotonic()
            with router.reader() as conn:
                ports.append(conn.info.port)
            waits.append(time.monotonic() - begun)
    assert set(ports) == {proxied.proxy(proxied.cluster.nodes[2]).port}
    assert sum(wait > 0.5 for wait in waits) <= 1


def test_caller_in_a_hurry_says_nothing_about_the_host(shared: LocalCluster) -> None:
    with Router(shared.dsn, reader=PoolOptions(min_size=0)) as router:
        all_known(router)
        with pytest.raises(NoHostAvailable, match="no reader session"):
            router.getconn("reader", timeout=0)
        assert not manager_of(router).pools[Role.READER].aside


def test_only_replica_is_never_set_aside(mended: LocalCluster) -> None:
    """With reader_attrs="standby" there is nobody else, so it is asked each time, and serves as soon as it can."""
    first, refusing, other = mended.nodes
    first.execute(f"CREATE ROLE picky LOGIN PASSWORD '{mended.password}'")
    mended.catch_up()
    other.stop("immediate")
    hba = refusing.data_dir / "pg_hba.conf"
    rules = hba.read_text()
    hba.write_text(f"host all picky all reject\n{rules}")
    refusing.execute("SELECT pg_reload_conf()")
    reader = PoolOptions(kwargs={"user": "picky"})
    try:
        with Router(mended.dsn, reader_attrs="standby", reader=reader) as router:
            eventually(lambda: state(router, refusing) is HostState.UP)
            with pytest.raises(NoHostAvailable, match=r"pg_hba.conf rejects"):
                router.getconn("reader", timeout=0.3)
            hba.write_text(rules)
            refusing.execute("SELECT pg_reload_conf()")
            assert read_from(router, mended) == 1
    finally:
        hba.write_text(rules)
        refusing.execute("SELECT pg_reload_conf()")
        first.execute("DROP ROLE picky")


# Hosts that return.


def test_replica_that_restarted_warms_up(mended: LocalCluster) -> None:
    policy = Recorder()
    node = mended.nodes[1]
    with Router(mended.dsn, balance=policy) as router:
        all_known(router)
        read_from(router, mended)
        assert policy.offered == [{key(node): 1.0, key(mended.nodes[2]): 1.0}]
        assert [host.returned_at for host in router.topology.hosts] == [None, None, None]
        call(node.stop)
        call(node.start)
        eventually(
            lambda: router.topology.hosts[1].returned_at is not None and router.topology.hosts[1].usable
        )
        weights: list[float] = []
        while len(set(weights)) < 20:
            read_from(router, mended)
            weights.append(policy.offered[-1][key(node)])
    assert 0.1 <= weights[0] < 0.6
    assert weights == sorted(weights)
    assert {offer[key(mended.nodes[2])] for offer in policy.offered if key(mended.nodes[2]) in offer} == {1.0}
