"""A thread that is late with a snapshot closes no pool that was opened since."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pgroute import Router
from pgroute._sync.pool.role_pool import RolePool
from pgroute._sync.router import manager_of
from pgroute.core.model.roles import Role
from pgroute.testing import LocalCluster

pytestmark = pytest.mark.cluster


@pytest.fixture
def router(shared: LocalCluster) -> Iterator[Router[Any]]:
    with Router(shared.dsn) as router:
        router.wait("reader")
        yield router


def test_a_pool_opened_while_the_reconciler_was_late_stays_open(
    router: Router[Any], shared: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins its round as the host is drained, and goes on once the host was readmitted and has served."""
    there = shared.nodes[1]
    name = f"{there.host}:{there.port}"
    router.drain(f"{shared.nodes[2].host}:{shared.nodes[2].port}")
    manager = manager_of(router)
    pools, reconcile, here = manager.pools[Role.READER], RolePool.reconcile, threading.get_ident()
    begun, served, done = threading.Event(), threading.Event(), threading.Event()

    def late(self: RolePool[Any]) -> None:
        halted = threading.get_ident() != here and self is pools and name in map(str, router.topology.drained)
        if halted and not begun.is_set():
            begun.set()
            served.wait(10.0)
        reconcile(self)
        if halted:
            done.set()

    monkeypatch.setattr(RolePool, "reconcile", late)
    router.drain(name)
    assert begun.wait(10.0)
    router.readmit(name)
    with router.reader() as conn:
        assert conn.info.port == there.port
        served.set()
        assert done.wait(10.0)
        assert [str(host) for host, counts in router.stats().reader.hosts.items()] == [name]
