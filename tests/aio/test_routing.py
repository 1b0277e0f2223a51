"""Which host serves which session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from pgroute import AsyncRouter, Candidate, HostKey, HostOptions, NoHostAvailable
from pgroute.testing import LocalCluster
from tests.aio.workload import key
from tests.conftest import EACH_VERSION, assert_no_backends
from tests.support import async_call, async_eventually, dsn_with

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


async def all_known(router: AsyncRouter[Any]) -> None:
    """Wait until every host may be chosen."""
    await async_eventually(lambda: all(host.usable for host in router.topology.hosts))


async def served_by(
    router: AsyncRouter[Any], cluster: LocalCluster, attrs: str | None, sessions: int = 40
) -> set[int]:
    """Return which nodes, by number, gave sessions; of three equal ones each does but once in ten million."""
    ports = [node.port for node in cluster.nodes]
    found = set()
    for _ in range(sessions):
        async with router.connection(attrs, timeout=5.0) as conn:
            found.add(ports.index(conn.info.port))
    return found


async def refusal(router: AsyncRouter[Any], attrs: str) -> str:
    """Return the text that says why no host serves such a session."""
    with pytest.raises(NoHostAvailable) as caught:
        async with router.connection(attrs, timeout=0.05):
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
async def test_session_attributes_choose_the_hosts(steady: LocalCluster, attrs: str, nodes: set[int]) -> None:
    async with AsyncRouter(steady.dsn) as router:
        await all_known(router)
        assert await served_by(router, steady, attrs) == nodes


async def test_a_writer_is_on_the_primary_and_a_reader_on_the_standbys(steady: LocalCluster) -> None:
    found: dict[str, set[bool]] = {"writer": set(), "reader": set()}
    async with AsyncRouter(steady.dsn) as router:
        await all_known(router)
        for _ in range(10):
            async with router.writer() as conn:
                cursor = await conn.execute("SELECT pg_is_in_recovery()")
                found["writer"].update(await cursor.fetchone() or ())
            async with router.reader() as conn:
                cursor = await conn.execute("SELECT pg_is_in_recovery()")
                found["reader"].update(await cursor.fetchone() or ())
    assert found == {"writer": {False}, "reader": {True}}


@pytest.mark.parametrize("level", READ_ONLY)
async def test_a_primary_that_is_read_only_serves_all_but_read_write(any_cluster, level) -> None:
    any_cluster.primary.execute(READ_ONLY[level])
    any_cluster.primary.execute("SELECT pg_reload_conf()")
    any_cluster.catch_up()
    async with AsyncRouter(any_cluster.dsn) as router:
        await all_known(router)
        served = {
            attrs: await served_by(router, any_cluster, attrs)
            for attrs in ("any", "primary", "read-only", "standby", "prefer-standby")
        }
        text = await refusal(router, "read-write")
    assert served == {
        "any": {0, 1, 2},
        "primary": {0},
        "read-only": {0, 1, 2},
        "standby": {1, 2},
        "prefer-standby": {1, 2},
    }
    assert "read-write" in text
    assert str(key(any_cluster.nodes[0])) in text


async def test_without_a_standby_the_primary_serves_all_but_standby_and_read_only(
    pgroute_cluster_factory: Callable[..., LocalCluster],
) -> None:
    cluster = await async_call(pgroute_cluster_factory, standbys=0)
    async with AsyncRouter(cluster.dsn) as router:
        for attrs in ("any", "read-write", "primary", "prefer-standby"):
            assert await served_by(router, cluster, attrs, 2) == {0}
        for attrs in ("standby", "read-only"):
            assert str(key(cluster.primary)) in await refusal(router, attrs)
        async with router.reader() as conn:
            assert conn.info.port == cluster.primary.port


async def test_without_a_primary_there_is_a_reader_but_no_writer(mended: LocalCluster) -> None:
    mended.nodes[0].stop()
    async with AsyncRouter(mended.dsn) as router:
        async with router.reader() as conn:
            assert conn.info.port != mended.nodes[0].port
        text = await refusal(router, "read-write")
    for node in mended.nodes:
        assert str(key(node)) in text
    assert "refused" in text


async def test_one_of_three_hosts_down_at_opening_is_no_hindrance(mended: LocalCluster) -> None:
    mended.nodes[2].stop()
    async with AsyncRouter(mended.dsn) as router:
        await router.open(wait=True, timeout=5.0)
        assert await served_by(router, mended, "read-write", 3) == {0}
        assert await served_by(router, mended, "standby", 3) == {1}


async def test_connection_takes_the_attributes_of_the_dsn(shared: LocalCluster) -> None:
    async with AsyncRouter(dsn_with(shared.dsn, target_session_attrs="standby")) as router:
        await all_known(router)
        assert await served_by(router, shared, None) == {1, 2}


@pytest.mark.parametrize(("attrs", "nodes"), [("any", {0, 1, 2}), ("primary", {0}), ("standby", {1, 2})])
async def test_reader_attributes_choose_the_readers_hosts(
    shared: LocalCluster, attrs: str, nodes: set[int]
) -> None:
    ports = [node.port for node in shared.nodes]
    async with AsyncRouter(shared.dsn, reader_attrs=attrs) as router:
        await all_known(router)
        found = set()
        for _ in range(40):
            async with router.reader() as conn:
                found.add(ports.index(conn.info.port))
    assert found == nodes


async def test_ordered_takes_the_first_listed(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn, balance="ordered") as router:
        await all_known(router)
        assert await served_by(router, shared, "standby") == {1}
        assert await served_by(router, shared, "any") == {0}


async def test_the_dsn_may_ask_for_the_order_of_its_hosts(shared: LocalCluster) -> None:
    async with AsyncRouter(dsn_with(shared.dsn, load_balance_hosts="disable")) as router:
        await all_known(router)
        assert await served_by(router, shared, "standby") == {1}


async def test_the_balance_argument_wins_over_the_dsn(shared: LocalCluster) -> None:
    async with AsyncRouter(dsn_with(shared.dsn, load_balance_hosts="disable"), balance="random") as router:
        await all_known(router)
        assert await served_by(router, shared, "standby") == {1, 2}


async def test_a_policy_of_the_users_own_sees_candidates_and_load(shared: LocalCluster) -> None:
    seen: list[tuple[Candidate, ...]] = []

    class LeastUsed:
        def pick(
            self, candidates: tuple[Candidate, ...], load: Callable[[HostKey], int], rng: Random
        ) -> Candidate:
            seen.append(candidates)
            return min(candidates, key=lambda candidate: load(candidate.key))

    async with AsyncRouter(shared.dsn, balance=LeastUsed()) as router:
        await all_known(router)
        held = [await router.getconn("reader") for _ in range(8)]
        ports = Counter(conn.info.port for conn in held)
        for conn in held:
            await router.putconn(conn)
    assert ports == {shared.nodes[1].port: 4, shared.nodes[2].port: 4}
    assert {tuple(candidate.key for candidate in candidates) for candidates in seen} == {
        (key(shared.nodes[1]), key(shared.nodes[2]))
    }


async def test_weights_share_the_sessions_out(shared: LocalCluster) -> None:
    options = {str(key(shared.nodes[1])): HostOptions(weight=9)}
    async with AsyncRouter(shared.dsn, host_options=options) as router:
        await all_known(router)
        ports: Counter[int] = Counter()
        for _ in range(300):
            async with router.reader() as conn:
                ports[conn.info.port] += 1
    # 270 expected, with a deviation of 5.2.
    assert 235 < ports[shared.nodes[1].port] < 298


async def test_a_host_of_weight_0_serves_only_when_no_other_does(mended: LocalCluster) -> None:
    options = {str(key(mended.nodes[1])): HostOptions(weight=0)}
    async with AsyncRouter(mended.dsn, host_options=options) as router:
        await all_known(router)
        assert await served_by(router, mended, "standby") == {2}
        await async_call(mended.nodes[2].stop)
        await async_eventually(lambda: not router.topology.hosts[2].usable)
        assert await served_by(router, mended, "standby", 3) == {1}


async def test_the_topology_tells_roles_and_states(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        await all_known(router)
        topology = router.topology
    first, *others = shared.nodes
    assert topology.primary is not None
    assert topology.primary.key == key(first)
    assert [host.key for host in topology.standbys] == [key(node) for node in others]
    assert all(host.address == "127.0.0.1" and host.timeline == 1 for host in topology.hosts)


async def test_the_topology_as_text_is_a_table(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        await all_known(router)
        head, *lines = str(router.topology).splitlines()
    assert head.split() == ["host", "role", "state", "timeline", "lag", "rtt", "reason"]
    assert [line.split()[:3] for line in lines] == [
        [str(key(node)), role, "up"]
        for node, role in zip(shared.nodes, ("primary", "standby", "standby"), strict=True)
    ]
