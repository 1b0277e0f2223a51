"""More than one host claims to be the primary, or one server has two names, or belongs to another cluster."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pgroute import AsyncRouter, HostKey, HostState, NoHostAvailable, SplitBrainError
from pgroute.testing import LocalCluster, Node
from tests.aio.replicas import OFTEN
from tests.aio.workload import key, make_table, numbers, primary, read, state, write
from tests.support import async_call, async_eventually, dsn_at, dsn_with, within

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]


@pytest.fixture
def split(pgroute_cluster_factory) -> tuple[LocalCluster, Node, Node]:
    """Give a cluster with a dead primary, two standbys promoted independently, and one still a standby."""
    cluster = pgroute_cluster_factory(standbys=3)
    make_table(cluster)
    first, second, third, _ = cluster.nodes
    first.kill()
    second.promote()
    third.promote()
    return cluster, second, third


async def split_seen(router: AsyncRouter[Any]) -> None:
    await async_eventually(lambda: router.topology.split_brain)


async def test_writers_get_split_brain_error_naming_both_and_readers_the_standby_left(split) -> None:
    cluster, second, third = split
    async with AsyncRouter(cluster.dsn) as router:
        await split_seen(router)
        assert router.topology.primary is None
        asked_at = time.monotonic()
        with pytest.raises(SplitBrainError) as caught:
            await write(router, 1, timeout=0.5)
        assert 0.5 <= time.monotonic() - asked_at < within(0.6)
        reader_ports = {(await read(router)).port for _ in range(20)}
    assert reader_ports == {cluster.nodes[3].port}
    assert str(key(second)) in str(caught.value)
    assert str(key(third)) in str(caught.value)
    assert caught.value.topology is not None
    assert caught.value.topology.split_brain == {key(second), key(third)}
    assert await numbers(second) == await numbers(third) == []


async def test_a_promotion_beside_the_primary_in_use_stops_the_writers(pgroute_cluster_factory) -> None:
    cluster = pgroute_cluster_factory(standbys=2)
    make_table(cluster)
    first, second, third = cluster.nodes
    async with AsyncRouter(cluster.dsn, probe=OFTEN) as router:
        await router.wait()
        await async_call(first.kill)
        await async_call(cluster.promote, second, repoint=False)
        assert (await write(router, 0)).port == second.port
        await async_call(third.promote)
        await split_seen(router)
        for number in range(1, 201):
            with pytest.raises(SplitBrainError):
                await write(router, number, timeout=0)
    assert await numbers(second) == [0]
    assert await numbers(third) == []


async def test_a_split_brain_goes_on_while_one_of_the_two_refuses_logins(split) -> None:
    cluster, second, third = split
    for node in (second, third):
        node.execute(f"CREATE ROLE app LOGIN PASSWORD '{cluster.password}'")
    async with AsyncRouter(dsn_with(cluster.dsn, user="app")) as router:
        await split_seen(router)
        await async_call(third.execute, "ALTER ROLE app NOLOGIN")
        router._manager.watch.kick(key(third), fresh=True)  # as the renewal of the probe connection does
        await async_eventually(lambda: state(router, third) is HostState.REJECTED)
        with pytest.raises(SplitBrainError):
            await write(router, 1, timeout=2.0)
        assert router.topology.split_brain == {key(second), key(third)}
    assert await numbers(second) == []


async def test_a_split_brain_ends_when_one_of_the_two_goes_away(split) -> None:
    cluster, second, third = split
    async with AsyncRouter(cluster.dsn) as router:
        await split_seen(router)
        await async_call(third.kill)
        assert (await write(router, 1, timeout=5.0)).port == second.port


async def test_a_split_brain_ends_when_one_of_the_two_rejoins_the_other(split) -> None:
    cluster, second, third = split
    async with AsyncRouter(cluster.dsn) as router:
        await split_seen(router)
        # A copy: both are on the same timeline, so pg_rewind sees nothing to take back.
        await async_call(third._copy_from, second, timeout=30.0)
        assert (await write(router, 1, timeout=5.0)).port == second.port
        await async_eventually(lambda: state(router, third) is HostState.UP)
        assert not router.topology.split_brain


async def test_a_standby_promoted_beside_a_live_primary_takes_over_all_writes(
    any_cluster: LocalCluster,
) -> None:
    make_table(any_cluster)
    old, new, _ = any_cluster.nodes
    async with AsyncRouter(any_cluster.dsn, probe=OFTEN) as router:
        await router.wait()
        await async_call(any_cluster.promote, new, repoint=False)
        await async_eventually(lambda: primary(router) == key(new))
        ports = {(await write(router, number)).port for number in range(200)}
        assert state(router, old) is HostState.STALE
    assert ports == {new.port}
    assert await numbers(old) == []


async def test_a_crashed_primary_that_restarts_as_one_is_stale(any_cluster: LocalCluster) -> None:
    make_table(any_cluster)
    old = any_cluster.primary
    async with AsyncRouter(any_cluster.dsn) as router:
        await router.wait()
        await async_call(old.kill)
        new = await async_call(any_cluster.promote, repoint=False)
        await async_eventually(lambda: primary(router) == key(new))
        await async_call(old.start)
        await async_eventually(lambda: state(router, old) is HostState.STALE)
        ports = {(await write(router, number)).port for number in range(200)}
    assert ports == {new.port}
    assert await numbers(old) == []


async def test_forgetting_the_timeline_admits_an_older_primary(any_cluster: LocalCluster) -> None:
    make_table(any_cluster)
    old, new, other = any_cluster.nodes
    async with AsyncRouter(any_cluster.dsn, probe=OFTEN) as router:
        await router.wait()
        await async_call(any_cluster.promote, new, repoint=False)
        await async_eventually(lambda: state(router, old) is HostState.STALE)
        await async_call(new.kill)
        await async_eventually(lambda: state(router, new) is HostState.DOWN)
        assert primary(router) is None
        router.forget_timeline()
        assert (await write(router, 1)).port == old.port
    assert other.running


async def test_a_restored_backup_is_written_to_once_no_host_is_on_a_higher_timeline(
    pgroute_cluster_factory,
) -> None:
    cluster = pgroute_cluster_factory(standbys=1)
    make_table(cluster)
    backup, lost = cluster.nodes
    async with AsyncRouter(cluster.dsn, probe=OFTEN) as router:
        await router.wait()
        await async_call(backup.kill)
        await async_call(cluster.promote, lost)
        assert (await write(router, 1)).port == lost.port
        await async_call(lost.kill)
        await async_call(backup.start)
        await async_eventually(lambda: state(router, backup) is HostState.STALE)
        with pytest.raises(NoHostAvailable):
            await write(router, 2, timeout=0.2)
        await async_call(lost._copy_from, backup, timeout=30.0)
        assert (await write(router, 3, timeout=5.0)).port == backup.port
    assert await numbers(backup) == [3]


async def test_a_host_of_another_cluster_is_never_used(pgroute_cluster_factory) -> None:
    ours = pgroute_cluster_factory(standbys=1)
    theirs = pgroute_cluster_factory(standbys=0, password=ours.password)
    make_table(ours)
    make_table(theirs)
    stranger = theirs.nodes[0]
    dsn = ours.dsn.replace("@", f"@{stranger.host}:{stranger.port},")
    async with AsyncRouter(dsn) as router:
        ports = {(await write(router, number)).port for number in range(50)}
        ports |= {(await read(router)).port for _ in range(50)}
        host = router.topology.host(key(stranger))
        assert host is not None
        assert host.state is HostState.FOREIGN
        assert "another cluster" in host.reason
    assert ports == {node.port for node in ours.nodes}
    assert await numbers(stranger) == []


async def test_another_cluster_in_the_place_of_the_primary_is_not_written_to(pgroute_cluster_factory) -> None:
    ours = pgroute_cluster_factory(standbys=1)
    theirs = pgroute_cluster_factory(standbys=0, password=ours.password)
    make_table(ours)
    make_table(theirs)
    first, second = ours.nodes
    [stranger] = theirs.nodes
    stranger.stop()
    async with AsyncRouter(ours.dsn, probe=OFTEN) as router:
        assert (await write(router, 0)).port == first.port
        await async_call(ours.catch_up)
        await async_call(first.kill)
        stranger.port = first.port
        await async_call(stranger.start)
        await async_eventually(lambda: state(router, first) is HostState.FOREIGN)
        for number in range(1, 201):
            with pytest.raises(NoHostAvailable):
                await write(router, number, timeout=0)
        await async_call(second.promote)
        assert (await write(router, 201)).port == second.port
    assert await numbers(stranger) == []
    assert await numbers(second) == [0, 201]


async def test_one_server_under_two_names_is_no_split_brain(pgroute_cluster_factory) -> None:
    cluster = pgroute_cluster_factory(standbys=1)
    make_table(cluster)
    first, second = cluster.nodes
    dsn = dsn_at(f"127.0.0.1:{first.port},localhost:{first.port},127.0.0.1:{second.port}", cluster)
    async with AsyncRouter(dsn) as router:
        ports = {(await write(router, number)).port for number in range(20)}
        states = [host.state for host in router.topology.hosts]
        alias = router.topology.host(HostKey("localhost", first.port))
        await async_call(first.kill)
        await async_call(cluster.promote, second)
        assert (await write(router, 20)).port == second.port
    assert ports == {first.port}
    assert sorted(s.value for s in states) == ["alias", "up", "up"]
    assert alias is not None
    assert alias.system_id is not None


REVOKED = [
    ["pg_control_system()", "pg_control_checkpoint()", "pg_control_recovery()"],
    ["pg_walfile_name(pg_lsn)", "pg_current_wal_lsn()", "pg_last_wal_replay_lsn()"],
    ["pg_postmaster_start_time()"],
]
"""What a role may call no more, bit by bit."""


async def test_one_server_under_two_names_is_no_split_brain_for_a_role_without_rights(
    pgroute_cluster_factory,
) -> None:
    cluster = pgroute_cluster_factory(standbys=0)
    make_table(cluster)
    [node] = cluster.nodes
    node.execute(f"CREATE ROLE plain LOGIN PASSWORD '{cluster.password}'")
    node.execute("GRANT ALL ON written TO plain")
    dsn = dsn_at(f"127.0.0.1:{node.port},localhost:{node.port}", cluster, user="plain")
    known: list[list[bool]] = []
    for revoked in REVOKED:
        for function in revoked:
            await async_call(node.execute, f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        async with AsyncRouter(dsn) as router:
            await write(router, len(known), timeout=5.0)
            first, second = router.topology.hosts
            assert {first.state, second.state} == {HostState.UP, HostState.ALIAS}
            known.append([v is not None for v in (first.system_id, first.timeline, first.started_at)])
    assert known == [[False, True, True], [False, False, True], [False, False, False]]
