# Generated from tests/aio/test_replicas.py by .ci/unasync.py: edit that file, not this one.
"""Replicas go away and come back while readers go on."""

from __future__ import annotations

import threading
import time

import pytest

from pgroute import Router, HostState, NoHostAvailable
from pgroute.testing import LocalCluster
from tests.sync.workload import QUICK, Account, keep_reading, read, state
from tests.support import Background, call, eventually

pytestmark = pytest.mark.cluster


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
    with Router(mended.dsn, probe=QUICK) as router:
        router.wait("reader")
        call(frozen.freeze)
        eventually(lambda: state(router, frozen) is HostState.SUSPECT)
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
        assert 0.5 <= time.monotonic() - asked_at < 0.6
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
