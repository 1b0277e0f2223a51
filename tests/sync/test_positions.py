# Generated from tests/aio/test_positions.py by .ci/unasync.py: edit that file, not this one.
"""Readers after a position: what was written there is seen, or the reader is told that it was lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pgroute import (
    Router,
    ConfigError,
    NoHostAvailable,
    PoolOptions,
    Position,
    PositionLost,
    ProbeOptions,
    RouteError,
)
from pgroute.testing import FaultProxy, LocalCluster
from tests.sync.replicas import OFTEN, configure, cut_off, dsn_of, of, standbys_as_they_were
from tests.sync.workload import make_table, primary
from tests.support import Background, call, eventually, dsn_with, within
from tests.wiretap import Wiretap

pytestmark = [pytest.mark.cluster, pytest.mark.long]

SELDOM = ProbeOptions(interval=30.0)
PROGRESS = b"pg_last_wal_replay_lsn"


@pytest.fixture
def lagging(mended: LocalCluster) -> Iterator[LocalCluster]:
    """Give a cluster whose standbys may be held back."""
    with standbys_as_they_were(mended) as cluster:
        yield cluster


@pytest.fixture
def tapped(lagging: LocalCluster) -> Iterator[tuple[Wiretap, ...]]:
    """Give a tap in front of each node of that cluster."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(Wiretap(node)) for node in lagging.nodes)


def insert(router: Router[Any], number: int) -> Position:
    """Write a number and return its position."""
    causal = router.causal()
    with causal.writer() as conn:
        conn.execute("INSERT INTO written VALUES (%s)", [number])
    assert causal.position is not None
    return causal.position


def find(session: Any, number: int) -> tuple[int, bool]:
    """Look for a number; return the port of the session's host, and whether it is there."""
    with session as conn:
        cursor = psycopg.ClientCursor(conn)
        cursor.execute("SELECT FROM written WHERE number = %s", [number])
        return int(conn.info.port), bool(cursor.rowcount)


def test_position_that_the_probes_have_seen_replayed_costs_no_round_trip(
    lagging: LocalCluster, tapped: tuple[Wiretap, ...]
) -> None:
    standbys = {tap.port for tap in tapped[1:]}
    with Router(dsn_of(tapped), probe=OFTEN) as router:
        after = insert(router, 1)
        eventually(lambda: all((of(router, tap).lsn or 0) >= after.lsn for tap in tapped[1:]))
        warm: set[int] = set()
        while warm != standbys:  # so that no connection is opened any more
            warm.add((find(router.reader(after=after), 1))[0])
        for tap in tapped:
            tap.take()
        for given in (after, str(after)):
            for _ in range(10):
                port, there = find(router.reader(after=given), 1)
                assert there
                assert port in standbys
        assert sum(tap.round_trips() for tap in tapped) == 3 * 20, "BEGIN, SELECT, COMMIT"


def test_replica_that_the_probes_have_not_seen_there_is_asked(
    lagging: LocalCluster, tapped: tuple[Wiretap, ...]
) -> None:
    standbys = {tap.port for tap in tapped[1:]}
    with Router(dsn_of(tapped), probe=SELDOM) as router:
        eventually(lambda: all(of(router, tap).lsn for tap in tapped))
        asked = []
        for number in range(20):
            after = insert(router, number)
            call(lagging.catch_up)
            for tap in tapped:
                tap.take()
            port, there = find(router.reader(after=after), number)
            assert there
            assert port in standbys
            asked.append(sum(PROGRESS in message.body for tap in tapped for message in tap.take()))
        # A probe that comes in between leaves nothing to ask.
        assert asked.count(1) > 10


def test_replica_that_gets_there_within_the_wait_serves(lagging: LocalCluster) -> None:
    first, *standbys = lagging.nodes
    for node in standbys:
        call(configure, node, recovery_min_apply_delay="300ms")
    with Router(lagging.dsn, probe=SELDOM) as router:
        eventually(lambda: all(of(router, node).lsn for node in lagging.nodes))
        for number in range(3):
            after = insert(router, number)
            port, there = find(router.reader(after=after, wait=5.0), number)
            assert there
            assert port in {node.port for node in standbys}
        for node in standbys:  # they do not get to the rest, however busy the machine is
            call(configure, node, recovery_min_apply_delay="10s")
        after = insert(router, 10)
        begun_at = time.monotonic()
        assert find(router.reader(after=after), 10) == (first.port, True)
        assert 0.1 <= time.monotonic() - begun_at < within(0.25)
        after = insert(router, 11)
        begun_at = time.monotonic()
        assert find(router.reader(after=after, wait=0), 11) == (first.port, True)
        assert time.monotonic() - begun_at < within(0.1)


def test_the_second_replica_is_asked_while_the_first_stands_still(lagging: LocalCluster) -> None:
    _, paused, other = lagging.nodes
    call(paused.pause_replay)
    with Router(lagging.dsn, probe=SELDOM, balance="ordered") as router:
        eventually(lambda: all(of(router, node).lsn for node in lagging.nodes))
        after = insert(router, 1)
        assert find(router.reader(after=after, wait=4.0), 1) == (other.port, True)


def test_strict_reader_is_told_that_no_replica_is_there_yet(lagging: LocalCluster) -> None:
    _, *standbys = lagging.nodes
    for node in standbys:
        call(node.pause_replay)
    with Router(lagging.dsn, probe=OFTEN, reader_attrs="standby") as router:
        after = insert(router, 1)
        begun_at = time.monotonic()
        with pytest.raises(NoHostAvailable) as caught:
            with router.reader(after=after, wait=0.3):
                pass
        assert 0.3 <= time.monotonic() - begun_at < within(0.5)
        lines = str(caught.value).splitlines()
        assert lines[0] == f"no reader session (standby, after {after})"
        for node in standbys:
            [line] = [line for line in lines if f":{node.port}:" in line]
            assert "was last seen at 0/" in line
        for node in standbys:
            call(node.resume_replay)
        assert (find(router.reader(after=after, wait=5.0), 1))[1]


def test_strict_readers_wait_ends_at_the_timeout(lagging: LocalCluster) -> None:
    for node in lagging.nodes[1:]:
        call(node.pause_replay)
    with Router(lagging.dsn, probe=OFTEN, reader_attrs="standby") as router:
        after = insert(router, 1)
        router.wait("reader")
        for timeout in (0.3, 0.0):
            begun_at = time.monotonic()
            with pytest.raises(NoHostAvailable):
                with router.reader(timeout, after=after, wait=20.0):
                    pass
            assert timeout <= time.monotonic() - begun_at < within(timeout + 0.2)


def test_a_waiting_reader_can_be_given_up(lagging: LocalCluster) -> None:
    """Closing the router ends the wait, and no connection is lost."""
    for node in lagging.nodes[1:]:
        call(node.pause_replay)
    with Background() as background:
        router = Router(lagging.dsn, probe=OFTEN, reader_attrs="standby")
        with router:
            after = insert(router, 1)
            reader = background.start(find, router.reader(after=after, wait=20.0), 1)
            eventually(lambda: router.stats().reader.totals.get("requests_num"))
            router.close()
        with pytest.raises(RouteError):
            reader.result()


def test_replica_lost_while_it_is_waited_for(lagging: LocalCluster) -> None:
    first, standby, other = lagging.nodes
    call(other.stop)
    call(standby.pause_replay)
    with Router(lagging.dsn, probe=OFTEN) as router, Background() as background:
        after = insert(router, 1)
        reader = background.start(find, router.reader(after=after, wait=20.0), 1)
        eventually(lambda: router.stats().reader.totals.get("requests_num"))
        call(standby.kill)
        assert reader.result() == (first.port, True)


def test_position_of_a_commit_that_does_not_wait_for_the_disk(lagging: LocalCluster) -> None:
    first = lagging.nodes[0]
    writer = PoolOptions(settings={"synchronous_commit": "off"})
    served: set[int] = set()
    with Router(lagging.dsn, probe=OFTEN, writer=writer) as router:
        for number in range(10):
            after = insert(router, number)
            port, there = find(router.reader(after=after, wait=2.0), number)
            assert there
            served.add(port)
    assert served - {first.port}


# Positions of others.


def test_position_of_another_cluster_is_refused(lagging: LocalCluster) -> None:
    with Router(lagging.dsn, probe=OFTEN) as router:
        after = insert(router, 1)
        foreign = Position(after.system_id + 1, after.timeline, after.lsn)
        for make in (
            lambda: router.reader(after=foreign),
            lambda: router.reader(after=str(foreign)),
            lambda: router.causal(foreign).reader(),
            lambda: router.causal(foreign).writer(),
        ):
            with pytest.raises(ConfigError, match="after") as caught:
                with make():
                    pass
            assert str(foreign) in str(caught.value)
            assert str(after.system_id) in str(caught.value)
        with pytest.raises(ConfigError, match="after"):
            router.causal(foreign).run(select_one)
        assert (find(router.reader(after=after), 1))[1]


def test_position_of_another_cluster_is_refused_as_soon_as_the_cluster_is_known(
    lagging: LocalCluster,
) -> None:
    foreign = Position(1, 1, 1)
    router = Router(lagging.dsn, probe=OFTEN)
    causal = router.causal(foreign)
    for number, session in enumerate((causal.reader(), causal.writer(), router.reader(after=foreign))):
        if number == 0:
            router.open()
        with pytest.raises(ConfigError, match="after"):
            with session:
                pass
    with pytest.raises(ConfigError, match="after"):
        causal.run(select_one)
    router.close()


def select_one(conn: psycopg.Connection[Any]) -> None:
    conn.execute("SELECT 1")


@pytest.mark.parametrize("text", ["", "1-1", "0/3000148", "' OR 1", 5, b"1-1-1", "1-1-1 "])
def test_garbled_position_is_refused(shared: LocalCluster, text: Any) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(ConfigError, match="after"):
            router.reader(after=text)
        with pytest.raises(ConfigError, match="after"):
            router.causal(text)


def test_position_far_ahead_on_the_same_timeline_is_the_primarys_to_serve(
    lagging: LocalCluster,
) -> None:
    first = lagging.nodes[0]
    with Router(lagging.dsn, probe=OFTEN) as router:
        after = insert(router, 1)
        ahead = Position(after.system_id, after.timeline, after.lsn + 2**40)
        assert (find(router.reader(after=ahead), 1))[0] == first.port


def test_position_of_a_timeline_that_never_was_waits_and_is_told(lagging: LocalCluster) -> None:
    with Router(lagging.dsn, probe=OFTEN) as router:
        after = insert(router, 1)
        ahead = Position(after.system_id, after.timeline + 1, after.lsn)
        with pytest.raises(NoHostAvailable, match=f"after {ahead}"):
            with router.reader(0.5, after=ahead):
                pass


# Failovers.


def test_position_that_a_crash_of_an_asynchronous_primary_has_lost(any_cluster: LocalCluster) -> None:
    old, new, _ = any_cluster.nodes
    make_table(any_cluster)
    with FaultProxy(old) as wire:
        call(cut_off, any_cluster, wire)
        with Router(any_cluster.dsn, probe=OFTEN) as watching:
            kept = insert(watching, 1)
            call(any_cluster.catch_up)
            # The new primary's last known position proves that it has this.
            eventually(
                lambda: all((of(watching, node).lsn or 0) >= kept.lsn for node in any_cluster.nodes[1:])
            )
            wire.blackhole()
            lost = insert(watching, 2)
            causal = watching.causal(lost)
            call(old.kill)
            call(any_cluster.promote, new)
            after = insert(watching, 3)
            assert after.timeline == lost.timeline + 1
            with Router(any_cluster.dsn, probe=OFTEN) as later:
                later.wait()
                for router in (watching, later):
                    for session in (
                        router.reader(after=lost),
                        router.causal(lost).writer(),
                        router.causal(lost).reader(),
                    ):
                        with pytest.raises(PositionLost, match="was lost") as caught:
                            with session:
                                pass
                        assert caught.value.position == lost
                        assert caught.value.topology is not None
                    with pytest.raises(PositionLost):
                        router.causal(lost).run(select_one)
                    assert (find(router.reader(after=after, wait=10.0), 3))[1]
                with pytest.raises(PositionLost):
                    with causal.reader():
                        pass
                assert (find(watching.reader(after=kept, wait=10.0), 1))[1]
                with pytest.raises(PositionLost, match="cannot be proven to be kept"):
                    with later.reader(after=kept):
                        pass


def test_position_of_a_timeline_that_the_router_has_not_seen_yet(any_cluster: LocalCluster) -> None:
    """The old primary hangs, and a router that probes seldom does not know it yet."""
    old, new, _ = any_cluster.nodes
    make_table(any_cluster)
    slow = ProbeOptions(interval=30.0, timeout=0.5)
    with Router(any_cluster.dsn, probe=slow) as behind:
        eventually(lambda: all(of(behind, node).lsn for node in any_cluster.nodes))
        before = insert(behind, 1)
        call(any_cluster.catch_up)
        call(old.freeze)
        call(any_cluster.promote, new)
        # Its own probes: routers share them otherwise.
        other = dsn_with(any_cluster.dsn, application_name="other")
        with Router(other, probe=replace(OFTEN, share=False)) as ahead:
            after = insert(ahead, 2)
        assert primary(behind) == behind.topology.hosts[0].key, "it does not know it yet"
        begun_at = time.monotonic()
        assert (find(behind.reader(after=after, wait=5.0), 2))[1]
        assert time.monotonic() - begun_at < within(2.0)
        assert (find(behind.reader(after=before, wait=5.0), 1))[1]
        call(old.kill)


def test_a_role_without_rights_reads_its_writes_after_a_failover(any_cluster: LocalCluster) -> None:
    """It learns minutes late that a standby follows, and does not wait for it each time."""
    old, new, _ = any_cluster.nodes
    make_table(any_cluster)
    any_cluster.primary.execute(
        f"CREATE ROLE plain LOGIN PASSWORD '{any_cluster.password}'; GRANT ALL ON written TO plain"
    )
    any_cluster.catch_up()
    with Router(dsn_with(any_cluster.dsn, user="plain"), probe=OFTEN) as router:
        eventually(lambda: all(of(router, node).lsn for node in any_cluster.nodes))
        insert(router, 0)
        call(old.kill)
        call(any_cluster.promote, new)
        call(any_cluster.catch_up)
        times = []
        for number in range(1, 20):
            after = insert(router, number)
            begun_at = time.monotonic()
            assert (find(router.reader(after=after), number))[1]
            times.append(time.monotonic() - begun_at)
        print(f"median {sorted(times)[len(times) // 2] * 1000:.1f} ms")
        assert sorted(times)[len(times) // 2] < within(0.05)


# Settings of users.


class Mine(psycopg.Connection[Any]):
    """A connection class with a commit() of its own."""

    commits = 0

    def commit(self) -> None:
        type(self).commits += 1
        super().commit()


class Unusable(psycopg.Cursor[Any]):
    """A cursor that nothing of the router's may go through."""

    def execute(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the router has used a cursor of the user's")


def write_and_read(router: Router[Any], standbys: set[int]) -> None:
    """Fail unless what causal sessions write is seen by their readers at a standby."""
    for number in range(10):
        causal = router.causal()
        with causal.writer() as conn:
            psycopg.ClientCursor(conn).execute("INSERT INTO written VALUES (%s)", [number])
        assert causal.position is not None
        assert find(causal.reader(wait=10.0), number) in {(port, True) for port in standbys}
        assert (find(router.reader(after=str(causal.position), wait=10.0), number))[1]


@pytest.mark.parametrize(
    "options",
    [
        {"kwargs": {"autocommit": True}},
        {"kwargs": {"row_factory": dict_row, "cursor_factory": Unusable}},
        {"reader": PoolOptions(read_only=False)},
        {"connection_class": Mine},
        {"kwargs": {"options": "-c default_transaction_isolation=serializable"}},
        {"kwargs": {"options": "-c default_transaction_deferrable=on"}},
        {"kwargs": {"client_encoding": "SQL_ASCII"}},
        {"kwargs": {"prepare_threshold": 0}},
        {"reset": "discard"},
    ],
    ids=lambda options: "-".join(str(value)[:40] for value in options.values()),
)
def test_writes_are_read_whatever_the_program_sets(
    lagging: LocalCluster, options: dict[str, Any]
) -> None:
    if "serializable" in str(options):
        # Standbys refuse each of the readers' own statements.
        options = {"writer": PoolOptions(kwargs=options["kwargs"])}
    standbys = {node.port for node in lagging.nodes[1:]}
    with Router(lagging.dsn, probe=OFTEN, **options) as router:
        eventually(lambda: all(of(router, node).lsn for node in lagging.nodes))
        write_and_read(router, standbys)
    if options.get("connection_class") is Mine:
        assert Mine.commits >= 10
