# Generated from tests/aio/test_counters.py by .ci/unasync.py: edit that file, not this one.
"""What a router counts of its sessions and hosts: `stats().counts`."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from pgroute import Router, CommitUnknown, NoHostAvailable, PoolExhausted, PoolOptions, ProbeOptions
from pgroute.testing import LocalCluster
from tests.sync.replicas import OFTEN, standbys_as_they_were
from tests.support import Background, call, eventually

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)
SELDOM = ProbeOptions(interval=60.0)


def failing(sqlstate: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'as asked for' USING ERRCODE = '{sqlstate}'; END $$"


def test_sessions_are_counted_by_role(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        for _ in range(3):
            with router.writer():
                pass
        router.fetch("SELECT 1")
        router.putconn(router.getconn("reader"))
        counts = router.stats().counts
    assert counts.sessions == {"writer": 3, "reader": 2}
    assert sum(sum(errors.values()) for errors in counts.session_errors.values()) == 0
    assert (counts.failovers, counts.outages, counts.without_writer_seconds) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("sqlstate", "cause"), [("40001", "serialization"), ("40P01", "deadlock"), ("25006", "read-only")]
)
def test_retries_are_counted_by_cause(shared: LocalCluster, sqlstate: str, cause: str) -> None:
    attempts = []

    def body(conn: psycopg.Connection[Any]) -> None:
        attempts.append(conn)
        if len(attempts) < 3:
            conn.execute(failing(sqlstate))

    with Router(shared.dsn) as router:
        router.run(body)
        counts = router.stats().counts
    assert {name for name, count in counts.retries.items() if count} == {cause}
    assert counts.retries[cause] == 2
    assert counts.sessions["writer"] == 3


def test_a_lost_connection_is_a_cause_of_retries(shared: LocalCluster) -> None:
    attempts = []

    def body(conn: psycopg.Connection[Any]) -> None:
        attempts.append(conn)
        if len(attempts) < 2:
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with Router(shared.dsn) as router:
        router.run(body)
        retries = router.stats().counts.retries
    assert retries["lost"] == sum(retries.values()) == 1


def test_an_unknown_outcome_is_counted_once(shared: LocalCluster, table: str) -> None:
    shared.primary.execute(
        f"""CREATE FUNCTION {table}_f() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"""
    )
    shared.primary.execute(
        f"""CREATE CONSTRAINT TRIGGER suicide AFTER INSERT ON {table} INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION {table}_f()"""
    )
    with Router(shared.dsn) as router:
        with pytest.raises(CommitUnknown):
            with router.writer() as conn:
                conn.execute(f"INSERT INTO {table} VALUES (1)")
        assert router.stats().counts.commits_unknown == 1
        with pytest.raises(CommitUnknown):
            router.execute(f"INSERT INTO {table} VALUES (2)")
        assert router.stats().counts.commits_unknown == 2


def test_readers_that_the_primary_serves_are_counted(shared: LocalCluster) -> None:
    primary, *standbys = shared.nodes
    with Router(shared.dsn) as router:
        for node in standbys:
            router.drain(f"{node.host}:{node.port}")
        with router.reader() as conn:
            assert conn.info.port == primary.port
        with router.writer(), router.connection("any"):
            pass
        assert router.stats().counts.readers_on_primary == 1
        router.readmit(f"{standbys[0].host}:{standbys[0].port}")
        with router.reader() as conn:
            assert conn.info.port == standbys[0].port, router.topology
        assert router.stats().counts.readers_on_primary == 1


def test_waits_for_a_position_are_counted_by_their_outcome(mended: LocalCluster) -> None:
    with standbys_as_they_were(mended) as cluster:
        primary, *standbys = cluster.nodes
        with Router(cluster.dsn, probe=SELDOM) as router:
            eventually(lambda: all(host.usable for host in router.topology.hosts))
            causal = router.causal()
            with causal.writer() as conn:
                conn.execute("INSERT INTO written VALUES (1)")
            call(cluster.catch_up)
            with causal.reader(wait=5.0) as conn:
                assert conn.info.port != primary.port
            assert router.stats().counts.position_waits == {"met": 1, "behind": 0}
            for node in standbys:
                call(node.pause_replay)
            with causal.writer() as conn:
                conn.execute("INSERT INTO written VALUES (2)")
            with causal.reader(wait=0.1) as conn:
                assert conn.info.port == primary.port
            counts = router.stats().counts
    assert counts.position_waits["met"] == 1
    # The second one is not asked if the first question has taken the whole time.
    assert counts.position_waits["behind"] in (1, 2)
    assert counts.position_wait_seconds > 0.0
    assert counts.readers_on_primary == 1


def test_an_outage_is_counted_while_it_goes_on(mended: LocalCluster) -> None:
    with Router(mended.dsn, probe=OFTEN) as router:
        router.wait()
        # On a busy machine the primary may have been lost for a moment already.
        before, begun = router.stats().counts, time.monotonic()
        call(mended.nodes[0].stop, "immediate")
        eventually(lambda: not router.topology.writable)
        with pytest.raises(NoHostAvailable):
            with router.writer(timeout=0.1):
                pass

        def without() -> float:
            return router.stats().counts.without_writer_seconds - before.without_writer_seconds

        first = without()
        eventually(lambda: without() > first)
        second = without()
        assert 0.0 < first < second < time.monotonic() - begun
        assert router.stats().counts.outages == before.outages
        call(mended.nodes[0].start)
        router.wait()
        counts = router.stats().counts
    assert counts.outages > before.outages
    assert counts.failovers == 0
    assert counts.without_writer_seconds - before.without_writer_seconds > second
    assert counts.session_errors["writer"]["NoHostAvailable"] == 1
    assert counts.events["primary-lost"] > before.events["primary-lost"]
    assert router.stats().counts.without_writer_seconds == counts.without_writer_seconds


def test_a_failover_is_counted_with_its_time(any_cluster: LocalCluster) -> None:
    with Router(any_cluster.dsn, probe=OFTEN) as router:
        with router.writer():
            pass
        begun = time.monotonic()
        old = any_cluster.primary
        call(old.kill)
        eventually(lambda: not router.topology.writable)
        new = call(any_cluster.promote)
        with router.writer() as conn:
            assert conn.info.port == new.port
        elapsed = time.monotonic() - begun
        counts = router.stats().counts
    assert (counts.failovers, counts.outages) == (1, 1)
    assert 0.0 < counts.failover_seconds < elapsed
    assert counts.failover_seconds == counts.without_writer_seconds
    assert counts.sessions["writer"] == 2


def test_a_full_pool_is_counted(shared: LocalCluster) -> None:
    with Router(shared.dsn, writer=ONE) as router, router.writer():
        with pytest.raises(PoolExhausted):
            with router.writer(timeout=0.05):
                pass
        errors = router.stats().counts.session_errors
    assert errors["writer"]["PoolExhausted"] == sum(errors["writer"].values()) == 1


def test_a_router_that_is_not_open_counts_no_errors(shared: LocalCluster) -> None:
    router = Router(shared.dsn)
    with pytest.raises(psycopg.OperationalError):
        with router.writer():
            pass
    assert sum(router.stats().counts.session_errors["writer"].values()) == 0


def test_callers_that_wait_for_a_host_are_told(mended: LocalCluster) -> None:
    def write(router: Router[Any]) -> None:
        with router.writer():
            pass

    with Router(mended.dsn, probe=OFTEN) as router, Background() as background:
        router.wait()
        waiting = router._manager.meter.waiting
        assert sum(waiting.values()) == 0
        call(mended.nodes[0].stop, "immediate")
        workers = [background.start(write, router) for _ in range(3)]
        eventually(lambda: sum(waiting.values()) == 3)
        call(mended.nodes[0].start)
        for worker in workers:
            worker.result()
        assert sum(waiting.values()) == 0


def test_counters_of_a_host_survive_its_generations(mended: LocalCluster) -> None:
    with Router(mended.dsn, probe=OFTEN, writer=ONE) as router:
        for _ in range(2):
            with router.writer():
                pass
            call(mended.nodes[0].stop, "fast")
            eventually(lambda: not router.topology.writable)
            call(mended.nodes[0].start)
        with router.writer():
            pass
        [counts] = [pool.by_host() for role, pool in router._manager.pools.items() if role.value == "writer"]
    [(key, found)] = counts.items()
    assert key.port == mended.nodes[0].port
    assert found.used.count == 3
    assert found.created.count >= 3
    assert found.sizes["pool_max"] == 1
