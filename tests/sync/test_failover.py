# Generated from tests/aio/test_failover.py by .ci/unasync.py: edit that file, not this one.
"""The primary crashes and a standby is promoted."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

from pgroute import Router
from pgroute.testing import LocalCluster, Node
from tests.sync.workload import (
    Account,
    keep_reading,
    keep_writing,
    key,
    make_table,
    numbers,
    read,
    write,
)
from tests.support import Background, call, eventually

pytestmark = pytest.mark.cluster

OUTAGE = 0.4
"""Seconds from the crash to the promotion."""


def crash_and_promote(cluster: LocalCluster, crash: str = "kill") -> tuple[Node, float]:
    """Crash the primary, promote a standby after the outage; return it and when its promotion was seen."""
    old = cluster.primary
    if crash == "kill":
        old.kill()
    else:
        old.stop("immediate")
    time.sleep(OUTAGE)
    new = cluster.promote(repoint=False)
    return new, time.monotonic()


def test_twenty_writers_that_wait_all_write_after_the_promotion(cluster: LocalCluster) -> None:
    make_table(cluster)
    with Router(cluster.dsn) as router, Background() as background:
        write(router, 0)
        call(cluster.catch_up)
        call(cluster.primary.kill)
        writers = [background.start(write, router, number) for number in range(1, 21)]
        time.sleep(OUTAGE)
        new = call(cluster.promote, repoint=False)
        promoted_at = time.monotonic()
        sessions = [writer.result() for writer in writers]
    assert {session.port for session in sessions} == {new.port}
    assert max(session.ended for session in sessions) - promoted_at < 1.0
    assert numbers(new) == [*range(21)]


def test_a_writer_waits_through_an_immediate_shutdown(any_cluster: LocalCluster) -> None:
    make_table(any_cluster)
    with Router(any_cluster.dsn) as router, Background() as background:
        write(router, 0)
        call(any_cluster.catch_up)
        call(any_cluster.primary.stop, "immediate")
        writer = background.start(write, router, 1)
        time.sleep(OUTAGE)
        new = call(any_cluster.promote, repoint=False)
        promoted_at = time.monotonic()
        session = writer.result()
    assert session.port == new.port
    assert session.ended - promoted_at < 1.0


@pytest.mark.parametrize("crash", ["kill", "immediate"])
def test_a_session_in_flight_gets_its_error_once_and_the_next_one_works(
    any_cluster: LocalCluster, crash: str
) -> None:
    make_table(any_cluster)
    begun, gone = threading.Event(), threading.Event()
    errors: list[psycopg.Error] = []

    def work(router: Router[Any]) -> int:
        with pytest.raises(psycopg.OperationalError) as caught:
            with router.writer() as conn:
                conn.execute("INSERT INTO written VALUES (1)")
                begun.set()
                eventually(gone.is_set)
                conn.execute("INSERT INTO written VALUES (2)")
        errors.append(caught.value)
        return (write(router, 3)).port

    with Router(any_cluster.dsn) as router, Background() as background:
        worker = background.start(work, router)
        eventually(begun.is_set)
        new, _ = call(crash_and_promote, any_cluster, crash)
        gone.set()
        assert worker.result() == new.port
    assert type(errors[0]).__module__.startswith("psycopg"), "the body's own error passes untouched"
    assert numbers(new) == [3]


def test_writers_at_work_lose_only_sessions_in_flight(any_cluster: LocalCluster) -> None:
    make_table(any_cluster)
    stop = threading.Event()
    accounts = [Account() for _ in range(5)]
    with Router(any_cluster.dsn) as router, Background() as background:
        for index, account in enumerate(accounts):
            background.start(keep_writing, router, stop, account, index * 1_000_000)
        eventually(lambda: all(account.sessions for account in accounts))
        call(any_cluster.primary.kill)  # one process after the other: it takes some milliseconds
        killed_at = time.monotonic()
        time.sleep(OUTAGE)
        new, promoted_at = call(promote, any_cluster)
        eventually(lambda: all(account.since(promoted_at) for account in accounts))
        stop.set()
    for account in accounts:
        assert account.errors_since(killed_at) == []
        assert {session.port for session in account.since(promoted_at)} == {new.port}


def test_every_acknowledged_row_is_there_after_the_failover(pgroute_cluster_factory) -> None:
    cluster = pgroute_cluster_factory(synchronous=True)
    make_table(cluster)
    stop = threading.Event()
    accounts = [Account() for _ in range(4)]
    with Router(cluster.dsn) as router, Background() as background:
        for index, account in enumerate(accounts):
            background.start(keep_writing, router, stop, account, index * 1_000_000)
        eventually(lambda: all(len(account.written) > 20 for account in accounts))
        call(cluster.primary.kill)
        new = call(cluster.promote)
        promoted_at = time.monotonic()
        eventually(lambda: all(account.since(promoted_at) for account in accounts))
        stop.set()
    found = set(numbers(new))
    acknowledged = {number for account in accounts for number in account.written}
    unknown = {number for account in accounts for number in account.unknown}
    assert acknowledged - found == set()
    assert found - acknowledged - unknown == set()


def test_readers_go_on_through_a_crash_of_the_primary(any_cluster: LocalCluster) -> None:
    stop = threading.Event()
    account = Account()
    with Router(any_cluster.dsn) as router, Background() as background:
        background.start(keep_reading, router, stop, account)
        eventually(lambda: account.sessions)
        crashed_at = time.monotonic()
        call(any_cluster.primary.kill)
        time.sleep(OUTAGE)
        assert account.since(crashed_at), "reads go on while there is no primary"
        _, promoted_at = call(promote, any_cluster)
        eventually(lambda: account.since(promoted_at))
        stop.set()
    assert account.errors == []
    longest = max(b.ended - a.ended for a, b in zip(account.sessions, account.sessions[1:], strict=False))
    assert longest < 1.0


def test_a_promoted_host_leaves_the_reader_pool(any_cluster: LocalCluster) -> None:
    with Router(any_cluster.dsn) as router:
        router.wait("reader")
        call(any_cluster.primary.kill)
        new, _ = call(promote, any_cluster)
        router.wait("writer")
        assert router.topology.primary is not None
        assert router.topology.primary.key == key(new)
        ports = {(read(router)).port for _ in range(20)}
    assert ports == {node.port for node in any_cluster.nodes if node.running and node is not new}


def test_a_reader_whose_host_is_promoted_stays_read_only_to_the_end(
    pgroute_cluster_factory,
) -> None:
    cluster = pgroute_cluster_factory(standbys=1)
    make_table(cluster)
    with Router(cluster.dsn) as router:
        with router.reader() as conn:
            assert conn.info.port == cluster.nodes[1].port
            conn.execute("SELECT 1")
            conn.commit()
            call(cluster.primary.kill)
            call(promote, cluster)
            router.wait("writer")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                conn.execute("INSERT INTO written VALUES (1)")
            conn.rollback()
        write(router, 2)
    assert numbers(cluster.nodes[1]) == [2]


def promote(cluster: LocalCluster) -> tuple[Node, float]:
    """Promote a standby; return it and when its promotion was seen."""
    return cluster.promote(repoint=False), time.monotonic()
