# Generated from tests/aio/test_routing.py by .ci/unasync.py: edit that file, not this one.
"""Which host serves which session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from pgroute import Router, Candidate, HostKey, HostOptions, NoHostAvailable
from pgroute.testing import LocalCluster
from tests.sync.workload import key
from tests.conftest import EACH_VERSION, assert_no_backends
from tests.support import call, eventually, dsn_with

pytestmark = pytest.mark.cluster

READ_ONLY = {
    "system": "ALTER SYSTEM SET default_transaction_read_only = on",
    # An open session never shows this one.
    "database": "ALTER DATABASE postgres SET default_transaction_read_only = on",
}


@pytest.fixture(scope="module", params=EACH_VERSION, ids=lambda major: f"pg{major}")
def made(request) -> Iterator[LocalCluster]:
    with LocalCluster(version=request.param) as cluster:
        yield cluster


@pytest.fixture
def steady(made: LocalCluster) -> Iterator[LocalCluster]:
    """A cluster of each version, whose nodes are left as they are."""
    yield made
    assert_no_backends(made)


def all_known(router: Router[Any]) -> None:
    """Wait until every host may be chosen."""
    eventually(lambda: all(host.usable for host in router.topology.hosts))


def served_by(
    router: Router[Any], cluster: LocalCluster, attrs: str | None, sessions: int = 40
) -> set[int]:
    """Return which nodes, by number, gave sessions; of three equal ones each does but once in ten million."""
    ports = [node.port for node in cluster.nodes]
    found = set()
    for _ in range(sessions):
        with router.connection(attrs, timeout=5.0) as conn:
            found.add(ports.index(conn.info.port))
    return found


def refusal(router: Router[Any], attrs: str) -> str:
    """Return the text that says why no host serves such a session."""
    with pytest.raises(NoHostAvailable) as caught:
        with router.connection(attrs, timeout=0.05):
            pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("attrs", "nodes"),
    [
        ("any", {0, 1, 2}),
        ("read-write", {0}),
        ("primary", {0}),
        ("read-only", {1, 2}),
        ("standby", {1, 2}),
        ("prefer-standby", {1, 2}),
    ],
)
def test_session_attributes_choose_the_hosts(steady: LocalCluster, attrs: str, nodes: set[int]) -> None:
    with Router(steady.dsn) as router:
        all_known(router)
        assert served_by(router, steady, attrs) == nodes


def test_a_writer_is_on_the_primary_and_a_reader_on_the_standbys(steady: LocalCluster) -> None:
    found: dict[str, set[bool]] = {"writer": set(), "reader": set()}
    with Router(steady.dsn) as router:
        all_known(router)
        for _ in range(10):
            with router.writer() as conn:
                cursor = conn.execute("SELECT pg_is_in_recovery()")
                found["writer"].update(cursor.fetchone() or ())
            with router.reader() as conn:
                cursor = conn.execute("SELECT pg_is_in_recovery()")
                found["reader"].update(cursor.fetchone() or ())
    assert found == {"writer": {False}, "reader": {True}}


@pytest.mark.parametrize("level", READ_ONLY)
def test_a_primary_that_is_read_only_serves_all_but_read_write(any_cluster, level) -> None:
    any_cluster.primary.execute(READ_ONLY[level])
    any_cluster.primary.execute("SELECT pg_reload_conf()")
    any_cluster.catch_up()
    with Router(any_cluster.dsn) as router:
        all_known(router)
        served = {
            attrs: served_by(router, any_cluster, attrs)
            for attrs in ("any", "primary", "read-only", "standby", "prefer-standby")
        }
        text = refusal(router, "read-write")
    assert served == {
        "any": {0, 1, 2},
        "primary": {0},
        "read-only": {0, 1, 2},
        "standby": {1, 2},
        "prefer-standby": {1, 2},
    }
    assert "read-write" in text
    assert str(key(any_cluster.nodes[0])) in text


def test_without_a_standby_the_primary_serves_all_but_standby_and_read_only(
    pgroute_cluster_factory: Callable[..., LocalCluster],
) -> None:
    cluster = call(pgroute_cluster_factory, standbys=0)
    with Router(cluster.dsn) as router:
        for attrs in ("any", "read-write", "primary", "prefer-standby"):
            assert served_by(router, cluster, attrs, 2) == {0}
        for attrs in ("standby", "read-only"):
            assert str(key(cluster.primary)) in refusal(router, attrs)
        with router.reader() as conn:
            assert conn.info.port == cluster.primary.port


def test_without_a_primary_there_is_a_reader_but_no_writer(mended: LocalCluster) -> None:
    mended.nodes[0].stop()
    with Router(mended.dsn) as router:
        with router.reader() as conn:
            assert conn.info.port != mended.nodes[0].port
        text = refusal(router, "read-write")
    for node in mended.nodes:
        assert str(key(node)) in text
    assert "refused" in text


def test_one_of_three_hosts_down_at_opening_is_no_hindrance(mended: LocalCluster) -> None:
    mended.nodes[2].stop()
    with Router(mended.dsn) as router:
        router.open(wait=True, timeout=5.0)
        assert served_by(router, mended, "read-write", 3) == {0}
        assert served_by(router, mended, "standby", 3) == {1}


def test_connection_takes_the_attributes_of_the_dsn(shared: LocalCluster) -> None:
    with Router(dsn_with(shared.dsn, target_session_attrs="standby")) as router:
        all_known(router)
        assert served_by(router, shared, None) == {1, 2}


@pytest.mark.parametrize(("attrs", "nodes"), [("any", {0, 1, 2}), ("primary", {0}), ("standby", {1, 2})])
def test_reader_attributes_choose_the_readers_hosts(
    shared: LocalCluster, attrs: str, nodes: set[int]
) -> None:
    ports = [node.port for node in shared.nodes]
    with Router(shared.dsn, reader_attrs=attrs) as router:
        all_known(router)
        found = set()
        for _ in range(40):
            with router.reader() as conn:
                found.add(ports.index(conn.info.port))
    assert found == nodes


def test_ordered_takes_the_first_listed(shared: LocalCluster) -> None:
    with Router(shared.dsn, balance="ordered") as router:
        all_known(router)
        assert served_by(router, shared, "standby") == {1}
        assert served_by(router, shared, "any") == {0}


def test_the_dsn_may_ask_for_the_order_of_its_hosts(shared: LocalCluster) -> None:
    with Router(dsn_with(shared.dsn, load_balance_hosts="disable")) as router:
        all_known(router)
        assert served_by(router, shared, "standby") == {1}


def test_the_balance_argument_wins_over_the_dsn(shared: LocalCluster) -> None:
    with Router(dsn_with(shared.dsn, load_balance_hosts="disable"), balance="random") as router:
        all_known(router)
        assert served_by(router, shared, "standby") == {1, 2}


def test_a_policy_of_the_users_own_sees_candidates_and_load(shared: LocalCluster) -> None:
    seen: list[tuple[Candidate, ...]] = []

    class LeastUsed:
        def pick(
            self, candidates: tuple[Candidate, ...], load: Callable[[HostKey], int], rng: Random
        ) -> Candidate:
            seen.append(candidates)
            return min(candidates, key=lambda candidate: load(candidate.key))

    with Router(shared.dsn, balance=LeastUsed()) as router:
        all_known(router)
        held = [router.getconn("reader") for _ in range(8)]
        ports = Counter(conn.info.port for conn in held)
        for conn in held:
            router.putconn(conn)
    assert ports == {shared.nodes[1].port: 4, shared.nodes[2].port: 4}
    assert {tuple(candidate.key for candidate in candidates) for candidates in seen} == {
        (key(shared.nodes[1]), key(shared.nodes[2]))
    }


def test_weights_share_the_sessions_out(shared: LocalCluster) -> None:
    options = {str(key(shared.nodes[1])): HostOptions(weight=9)}
    with Router(shared.dsn, host_options=options) as router:
        all_known(router)
        ports: Counter[int] = Counter()
        for _ in range(300):
            with router.reader() as conn:
                ports[conn.info.port] += 1
    # 270 expected, with a deviation of 5.2.
    assert 235 < ports[shared.nodes[1].port] < 298


def test_a_host_of_weight_0_serves_only_when_no_other_does(mended: LocalCluster) -> None:
    options = {str(key(mended.nodes[1])): HostOptions(weight=0)}
    with Router(mended.dsn, host_options=options) as router:
        all_known(router)
        assert served_by(router, mended, "standby") == {2}
        call(mended.nodes[2].stop)
        eventually(lambda: not router.topology.hosts[2].usable)
        assert served_by(router, mended, "standby", 3) == {1}


def test_the_topology_tells_roles_and_states(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        all_known(router)
        topology = router.topology
    first, *others = shared.nodes
    assert topology.primary is not None
    assert topology.primary.key == key(first)
    assert [host.key for host in topology.standbys] == [key(node) for node in others]
    assert all(host.address == "127.0.0.1" and host.timeline == 1 for host in topology.hosts)


def test_the_topology_as_text_is_a_table(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        all_known(router)
        head, *lines = str(router.topology).splitlines()
    assert head.split() == ["host", "role", "state", "timeline", "lag", "rtt", "reason"]
    assert [line.split()[:3] for line in lines] == [
        [str(key(node)), role, "up"]
        for node, role in zip(shared.nodes, ("primary", "standby", "standby"), strict=True)
    ]
