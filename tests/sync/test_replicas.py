# Generated from tests/aio/test_replicas.py by .ci/unasync.py: edit that file, not this one.
"""Replicas go away and come back while readers go on."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pgroute import Router, HostState, NoHostAvailable, PoolOptions
from pgroute.testing import FaultProxy, LocalCluster
from tests.sync.replicas import OFTEN
from tests.sync.workload import Account, keep_reading, read, state
from tests.support import Background, call, eventually, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]

FLAPS = 6
POOL = 10
"""The default max_size."""


@pytest.mark.parametrize("crash", ["kill", "fast"])
def test_a_replica_lost_and_back_gives_new_readers_no_error(mended: LocalCluster, crash: str) -> None:
    _, lost, left = mended.nodes
    stop = threading.Event()
    accounts = [Account() for _ in range(3)]
    with Router(mended.dsn) as router, Background() as background:
        for account in accounts:
            background.start(keep_reading, router, stop, account)
        eventually(lambda: {p for a in accounts for p in a.ports} == {lost.port, left.port})
        call(*((lost.kill,) if crash == "kill" else (lost.stop, "fast")))
        gone_at = time.monotonic()
        eventually(lambda: all(len(account.since(gone_at)) > 10 for account in accounts))
        assert {s.port for account in accounts for s in account.since(gone_at)} == {left.port}
        call(lost.start)
        back_at = time.monotonic()
        eventually(lambda: lost.port in {s.port for a in accounts for s in a.since(back_at)})
        stop.set()
    assert [error for account in accounts for error in account.errors_since(gone_at)] == []


def test_a_frozen_replica_is_left_out_after_a_probe(mended: LocalCluster) -> None:
    _, frozen, left = mended.nodes
    with Router(mended.dsn, probe=replace(OFTEN, share=False)) as router:
        router.wait("reader")
        call(frozen.freeze)
        eventually(lambda: state(router, frozen) in (HostState.SUSPECT, HostState.DOWN))
        assert {(read(router)).port for _ in range(20)} == {left.port}
        eventually(lambda: state(router, frozen) is HostState.DOWN)
        call(frozen.thaw)
        eventually(lambda: state(router, frozen) is HostState.UP)
        assert {(read(router)).port for _ in range(50)} == {left.port, frozen.port}


def test_with_no_replica_left_readers_fall_back_to_the_primary(mended: LocalCluster) -> None:
    first, second, third = mended.nodes
    with Router(mended.dsn) as router:
        assert (read(router)).port != first.port
        call(second.kill)
        call(third.kill)
        assert {(read(router)).port for _ in range(20)} == {first.port}
        eventually(lambda: state(router, third) is HostState.DOWN)
        call(third.start)
        eventually(lambda: state(router, third) is HostState.UP)
        assert (read(router)).port == third.port


def test_with_no_replica_left_strict_readers_get_no_host_available(mended: LocalCluster) -> None:
    _, second, third = mended.nodes
    with Router(mended.dsn, reader_attrs="standby") as router:
        read(router)
        call(second.kill)
        call(third.kill)
        asked_at = time.monotonic()
        with pytest.raises(NoHostAvailable, match="standby") as caught:
            read(router, timeout=0.5)
        assert 0.5 <= time.monotonic() - asked_at < within(0.6)
        assert str(second.port) in str(caught.value)
        assert "Connection refused" in str(caught.value)
        call(third.start)
        assert (read(router)).port == third.port


def test_a_reader_waits_for_a_replica_to_come_back(mended: LocalCluster) -> None:
    _, second, third = mended.nodes
    with (
        Router(mended.dsn, reader_attrs="standby") as router,
        Background() as background,
    ):
        read(router)
        call(second.kill)
        call(third.kill)
        reader = background.start(read, router)
        call(second.start)
        assert (reader.result()).port == second.port


def test_a_flapping_replica_gives_new_readers_no_error_and_gets_no_storm(
    shared: LocalCluster, pgroute_proxy_factory
) -> None:
    proxies = [pgroute_proxy_factory(node) for node in shared.nodes]
    flapping = proxies[1]
    refused: list[psycopg.Error] = []
    served: list[int] = []
    stop = threading.Event()

    def keep_asking(router: Router[Any]) -> None:
        while not stop.is_set():
            try:
                conn = router.getconn("reader", timeout=5.0)
            except psycopg.Error as error:
                refused.append(error)
                continue
            served.append(conn.info.port)
            try:
                conn.execute("SELECT 1")
            except psycopg.OperationalError:
                pass  # that session was in flight
            finally:
                router.putconn(conn)

    def flap() -> None:
        for _ in range(FLAPS):
            flapping.reset("all")  # unlike a refused attempt, one that is reset is counted
            time.sleep(0.2)
            flapping.clear_faults()
            time.sleep(0.2)

    dsn = FaultProxy.dsn(proxies)
    # A connection for each, so that nobody is sent on to the primary for want of one.
    readers = PoolOptions(max_size=20)
    with (
        Router(dsn, probe=OFTEN, reader=readers) as router,
        Background() as background,
    ):
        for _ in range(20):
            background.start(keep_asking, router)
        eventually(lambda: {proxies[1].port, proxies[2].port} <= set(served))
        before = flapping.attempts
        call(flap)
        made = flapping.attempts - before
        stop.set()
    assert refused == []
    assert proxies[0].port not in served
    assert 0 < made <= FLAPS * (POOL + 4), "each time few for the probe, and at most one pool"


def test_standbys_of_a_stale_primary_serve_readers_only_if_no_other_can(
    any_cluster: LocalCluster,
) -> None:
    old, new, left = any_cluster.nodes
    with (
        Router(any_cluster.dsn, probe=OFTEN) as router,
        Router(any_cluster.dsn, probe=OFTEN, reader_attrs="standby") as strict,
    ):
        router.wait()
        call(any_cluster.promote, new, repoint=False)
        eventually(lambda: state(router, old) is HostState.STALE)
        assert {(read(router)).port for _ in range(50)} == {new.port}
        eventually(lambda: state(strict, old) is HostState.STALE)
        assert (read(strict)).port == left.port, "no other standby can"
        # It goes over to the new primary, without what the old one wrote since (hint bits are enough), and its control
        # file tells so from the next restartpoint on.
        call(left.rejoin, new)
        call(new.execute, "CHECKPOINT")
        call(any_cluster.catch_up)
        call(left.execute, "CHECKPOINT")
        eventually(lambda: [host.timeline for host in router.topology.standbys] == [2])
        assert {(read(router)).port for _ in range(50)} == {left.port}
        eventually(lambda: state(router, old) is HostState.STALE)
