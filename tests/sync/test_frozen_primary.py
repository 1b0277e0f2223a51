# Generated from tests/aio/test_frozen_primary.py by .ci/unasync.py: edit that file, not this one.
"""The primary is stopped by a signal: the kernel keeps its connections, nobody answers on them."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

from pgroute import Router, ProbeOptions
from pgroute.core.model.host import HostState
from pgroute.testing import LocalCluster, Node
from tests.sync.replicas import OFTEN
from tests.sync.workload import QUICK, key, make_table, numbers, primary, read, state, write
from tests.support import Background, call, eventually, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]


def freeze_and_promote(cluster: LocalCluster) -> tuple[Node, Node, float]:
    """Return the frozen primary, the new one, and when its promotion was seen."""
    old = cluster.primary
    old.freeze()
    new = cluster.promote(repoint=False)
    return old, new, time.monotonic()


def test_the_router_moves_on_the_promotion(any_cluster: LocalCluster) -> None:
    make_table(any_cluster)
    with Router(any_cluster.dsn) as router, Background() as background:
        old, new, promoted_at = call(freeze_and_promote, any_cluster)
        writer = background.start(write, router, 1)
        session = writer.result()
    assert session.port == new.port
    assert old.frozen
    assert session.ended - promoted_at < within(2.0)


def test_a_caller_that_queued_for_the_frozen_primary_is_routed_to_the_new_one(
    any_cluster: LocalCluster,
) -> None:
    make_table(any_cluster)
    with Router(any_cluster.dsn, probe=QUICK) as router, Background() as background:
        router.wait()
        call(any_cluster.primary.freeze)
        # The first takes the idle connection and hangs on it; the others wait for a new one.
        writers = [background.start(write, router, number) for number in range(5)]
        new = call(any_cluster.promote, repoint=False)
        ports = []
        failed = 0
        for writer in writers:
            try:
                ports.append((writer.result()).port)
            except psycopg.OperationalError:
                failed += 1
    assert failed <= 1
    assert set(ports) == {new.port}


def test_a_session_stuck_on_the_frozen_host_is_released(any_cluster: LocalCluster) -> None:
    make_table(any_cluster)
    begun, frozen = threading.Event(), threading.Event()

    def stuck(router: Router[Any]) -> float:
        with pytest.raises(psycopg.OperationalError):
            with router.writer() as conn:
                begun.set()
                eventually(frozen.is_set)
                conn.execute("INSERT INTO written VALUES (1)")
        return time.monotonic()

    probe = ProbeOptions(timeout=5.0)  # not what releases it
    with Router(any_cluster.dsn, probe=probe) as router, Background() as background:
        worker = background.start(stuck, router)
        eventually(begun.is_set)
        call(any_cluster.primary.freeze)
        frozen.set()
        new = call(any_cluster.promote, repoint=False)
        promoted_at = time.monotonic()
        released_at = worker.result()
        assert released_at - promoted_at < within(2.5)
        assert (write(router, 2)).port == new.port
    assert numbers(new) == [2]


def test_thawed_it_is_a_stale_primary_and_never_written_to(any_cluster: LocalCluster) -> None:
    make_table(any_cluster)
    with Router(any_cluster.dsn, probe=OFTEN) as router:
        write(router, 0)
        call(any_cluster.catch_up)
        old, new, _ = call(freeze_and_promote, any_cluster)
        eventually(lambda: primary(router) == key(new))
        call(old.thaw)
        eventually(lambda: state(router, old) is HostState.STALE)
        ports = {(write(router, number)).port for number in range(1, 201)}
        reader_ports = {(read(router)).port for _ in range(50)}
        eventually(lambda: state(router, old) is HostState.STALE)
    assert ports == {new.port}
    assert old.port not in reader_ports
    assert numbers(old) == [0]


def test_a_router_opened_while_both_live_never_writes_to_the_stale_one(
    any_cluster: LocalCluster,
) -> None:
    make_table(any_cluster)
    old = any_cluster.primary
    new = call(any_cluster.promote, any_cluster.nodes[2], repoint=False)
    with Router(any_cluster.dsn, balance="ordered") as router:
        ports = {(write(router, number)).port for number in range(200)}
        host = router.topology.host(key(old))
        assert host is not None
        assert host.state is HostState.STALE
        assert "stale primary" in host.reason
    assert ports == {new.port}
    assert numbers(old) == []


def test_the_stale_one_that_answers_first_is_not_written_to(any_cluster: LocalCluster) -> None:
    make_table(any_cluster)
    old = any_cluster.primary
    new = call(any_cluster.promote, repoint=False)

    def write_200(router: Router[Any]) -> set[int]:
        return {(write(router, number)).port for number in range(200)}

    call(new.freeze)
    slow = ProbeOptions(timeout=10.0)
    with Router(any_cluster.dsn, probe=slow) as router, Background() as background:
        writer = background.start(write_200, router)
        eventually(lambda: [host.role for host in router.topology.hosts].count(None) == 1)
        assert primary(router) is None
        call(new.thaw)
        assert writer.result() == {new.port}
        assert state(router, old) is HostState.STALE
    assert numbers(old) == []


def test_with_its_postmaster_alone_frozen_writers_move_on_the_promotion(
    any_cluster: LocalCluster,
) -> None:
    make_table(any_cluster)
    old = any_cluster.primary
    with Router(any_cluster.dsn) as router, Background() as background:
        write(router, 0)
        with router.writer() as held:
            call(old.freeze, postmaster_only=True)
            # The one connection is taken, and a new one hangs.
            writers = [background.start(write, router, number) for number in range(1, 6)]
            new = call(any_cluster.promote, repoint=False)
            promoted_at = time.monotonic()
            sessions = [writer.result() for writer in writers]
            assert state(router, old) is HostState.STALE
            held.execute("SELECT 1")  # it still answers, so its sessions are left alone
        ports = {(write(router, number)).port for number in range(6, 106)}
        call(old.thaw)
        ports |= {(write(router, number)).port for number in range(106, 206)}
    assert {session.port for session in sessions} | ports == {new.port}
    assert max(session.ended for session in sessions) - promoted_at < within(3.0), (
        "not at the end of a timeout of 5 s"
    )
    assert numbers(old) == [0]
