# Generated from tests/aio/test_asking_standbys.py by .ci/unasync.py: edit that file, not this one.
"""Standbys are asked how far they are: frozen ones, ones that are behind, over connections of a user's class."""

from __future__ import annotations

import gc
import time
from typing import Any

import psycopg
import pytest

from pgroute import Router, HostState, NoHostAvailable, PoolOptions, PositionLost
from pgroute.testing import LocalCluster
from tests.sync.replicas import OFTEN
from tests.sync.workload import state
from tests.support import Background, call, eventually, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]


def warm_up(router: Router[Any]) -> None:
    """Have a connection opened to each standby."""
    ports: set[int] = set()
    while len(ports) < 2:
        with router.reader() as conn:
            ports.add(conn.info.port)


def test_reader_keeps_its_timeout_while_the_standbys_that_it_asks_are_frozen(
    mended: LocalCluster,
) -> None:
    _, second, third = mended.nodes
    with Router(mended.dsn, reader_attrs="standby") as router:
        warm_up(router)
        for node in (second, third):
            call(node.freeze)
        causal = router.causal()
        with causal.writer() as conn:
            conn.execute("CREATE TABLE written AS SELECT 1")
        begun = time.monotonic()
        with pytest.raises(NoHostAvailable, match="was last seen at"):
            with causal.reader(timeout=0.5):
                pass
        assert time.monotonic() - begun < within(2.0)


def test_reader_goes_to_the_primary_if_the_standbys_that_it_asks_are_frozen(
    mended: LocalCluster,
) -> None:
    first, second, third = mended.nodes
    with Router(mended.dsn) as router:
        warm_up(router)
        for node in (second, third):
            call(node.freeze)
        causal = router.causal()
        with causal.writer() as conn:
            conn.execute("CREATE TABLE written AS SELECT 1")
        begun = time.monotonic()
        with causal.reader() as conn:
            assert conn.info.port == first.port
        assert time.monotonic() - begun < within(5.0)


def test_frozen_standbys_leave_a_reader_in_a_hurry_time_for_the_primary(mended: LocalCluster) -> None:
    first, second, third = mended.nodes
    with Router(mended.dsn) as router:
        warm_up(router)
        for node in (second, third):
            call(node.freeze)
        causal = router.causal()
        with causal.writer() as conn:
            conn.execute("CREATE TABLE written AS SELECT 1")
        with causal.reader(timeout=2.0) as conn:
            assert conn.info.port == first.port


def test_queue_for_a_standby_that_is_behind_ends_with_the_time_to_wait(mended: LocalCluster) -> None:
    first, second, third = mended.nodes
    options = PoolOptions(max_size=1)
    with Router(mended.dsn, reader=options) as router, Background() as background:
        warm_up(router)
        for node in (second, third):
            node.execute("SELECT pg_wal_replay_pause()")
        try:
            causal = router.causal()
            with causal.writer() as conn:
                conn.execute("CREATE TABLE written AS SELECT 1")

            def read() -> tuple[int, float]:
                begun = time.monotonic()
                with router.reader(after=causal.position) as conn:
                    return conn.info.port, time.monotonic() - begun

            readers = [background.start(read) for _ in range(20)]
            served = [reader.result() for reader in readers]
        finally:
            for node in (second, third):
                node.execute("SELECT pg_wal_replay_resume()")
        assert {port for port, _ in served} == {first.port}
        assert max(seconds for _, seconds in served) < within(0.6)


def test_commit_on_an_old_primary_that_was_given_up_is_told_as_lost(any_cluster: LocalCluster) -> None:
    old, new, _ = any_cluster.nodes
    with Router(any_cluster.dsn, probe=OFTEN) as router:
        with router.writer() as conn:
            conn.execute("CREATE TABLE written (i int)")
        causal = router.causal()
        with causal.writer() as conn:
            assert conn.info.port == old.port
            call(new.promote)
            eventually(lambda: state(router, old) is HostState.STALE)
            conn.execute("INSERT INTO written VALUES (1)")
        with pytest.raises(PositionLost, match="was lost"):
            with causal.reader():
                pass


class Logged(psycopg.Connection[Any]):
    """A user's class that counts its transactions."""

    begun = 0

    def transaction(self, *args: Any, **kwargs: Any) -> Any:
        Logged.begun += 1
        return super().transaction(*args, **kwargs)


def test_transaction_of_a_users_class_is_used_in_causal_runs_too(mended: LocalCluster) -> None:
    def write(conn: Logged) -> None:
        conn.execute("CREATE TABLE IF NOT EXISTS written AS SELECT 1")

    with Router(mended.dsn, connection_class=Logged) as router:
        causal = router.causal()
        before = Logged.begun
        causal.run(write)
        gc.collect()
        assert Logged.begun == before + 1
        assert causal.position is not None
        with causal.reader() as conn:
            assert (conn.execute("SELECT count(*) FROM written")).fetchone() == (1,)
