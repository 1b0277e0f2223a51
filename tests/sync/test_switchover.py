# Generated from tests/aio/test_switchover.py by .ci/unasync.py: edit that file, not this one.
"""A planned switchover: the primary is stopped, a standby promoted, the old one comes back as a standby."""

from __future__ import annotations

import threading
import time

import pytest

from pgroute import Router, HostKey, PoolOptions
from pgroute.testing import FaultProxy, LocalCluster, Node
from tests.sync.workload import Account, keep_reading, keep_writing, make_table, numbers, primary, write
from tests.support import Background, call, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.long]


def switch_over(cluster: LocalCluster) -> tuple[Node, Node, float]:
    """Return the old primary, a standby now, the new one, and when the old one had stopped."""
    old = cluster.primary
    old.stop("fast")
    stopped_at = time.monotonic()
    new = cluster.promote()
    old.rejoin(new)
    return old, new, stopped_at


def test_writes_go_to_the_new_primary_alone(cluster: LocalCluster) -> None:
    make_table(cluster)
    stop = threading.Event()
    writes, reads = Account(), Account()
    with Router(cluster.dsn) as router, Background() as background:
        background.start(keep_writing, router, stop, writes)
        background.start(keep_reading, router, stop, reads)
        eventually(lambda: writes.sessions and reads.sessions)
        old, new, stopped_at = call(switch_over, cluster)
        done_at = time.monotonic()
        eventually(lambda: len(writes.since(done_at)) > 20)
        eventually(lambda: old.port in [session.port for session in reads.since(done_at)])
        stop.set()
    after = writes.ports[writes.ports.index(new.port) :]
    assert set(after) == {new.port}
    assert writes.errors_since(stopped_at) == []
    assert reads.errors == []


def test_idle_connections_to_the_old_primary_are_never_handed_out_again(
    any_cluster: LocalCluster,
) -> None:
    make_table(any_cluster)
    with Router(any_cluster.dsn, writer=PoolOptions(min_size=5)) as router:
        conns = [router.getconn("writer") for _ in range(5)]
        before = {(conn.info.port, conn.info.backend_pid) for conn in conns}
        for conn in conns:
            router.putconn(conn)
        _, new, _ = call(switch_over, any_cluster)
        conns = [router.getconn("writer") for _ in range(5)]
        after = {(conn.info.port, conn.info.backend_pid) for conn in conns}
        for conn in conns:
            router.putconn(conn)
    assert len(before) == len(after) == 5
    assert {port for port, _ in after} == {new.port}
    assert before.isdisjoint(after)


def test_connections_that_never_saw_their_end_are_not_handed_out_after_a_switchover_and_back(
    any_cluster: LocalCluster, pgroute_proxy_factory
) -> None:
    make_table(any_cluster)
    proxies = [pgroute_proxy_factory(node) for node in any_cluster.nodes]
    with Router(FaultProxy.dsn(proxies), writer=PoolOptions(min_size=3)) as router:
        before = [router.getconn("writer") for _ in range(3)]
        for conn in before:
            router.putconn(conn)
        # The ends of its connections get lost on the way; new ones reach it as soon as it is back.
        proxies[0].blackhole("to_client", "existing")
        old, new, _ = call(switch_over, any_cluster)
        leader = HostKey(new.host, proxies[any_cluster.nodes.index(new)].port)
        eventually(lambda: primary(router) == leader)
        ports = {(write(router, number)).port for number in range(20)}
        eventually(lambda: len(router.topology.standbys) == 2)
        call(any_cluster.catch_up)
        call(new.stop, "fast")
        call(any_cluster.promote, old, repoint=False)
        assert (write(router, 20, timeout=5.0)).port == old.port
        after = [router.getconn("writer", timeout=5.0) for _ in range(3)]
        for conn in after:
            router.putconn(conn)
    assert ports == {new.port}
    assert not set(before) & set(after)
    assert numbers(old) == [*range(21)]
