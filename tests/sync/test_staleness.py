# Generated from tests/aio/test_staleness.py by .ci/unasync.py: edit that file, not this one.
"""How old a standby's data is at most: never less than it is, and little more."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from pgroute import Router, HostInfo, HostRole, HostState, NoHostAvailable
from pgroute.testing import FaultProxy, LocalCluster, Node
from tests.sync.replicas import (
    ALLOWED,
    INTERVAL,
    OFTEN,
    configure,
    of,
    old,
    staleness,
    standbys_as_they_were,
    watched,
)
from tests.sync.workload import make_table, state
from tests.commits import Commits, seen
from tests.support import call, eventually, dsn_with, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]


@pytest.fixture
def lagging(mended: LocalCluster) -> Iterator[LocalCluster]:
    """Give a cluster whose standbys may be held back."""
    with standbys_as_they_were(mended) as cluster:
        yield cluster


@pytest.fixture
def plain(lagging: LocalCluster) -> Iterator[str]:
    """Give the DSN of a role that may do nothing but log in."""
    primary = lagging.primary
    primary.execute(
        f"CREATE ROLE plain LOGIN PASSWORD '{lagging.password}'; GRANT SELECT ON written TO plain"
    )
    lagging.catch_up()
    yield dsn_with(lagging.dsn, user="plain")
    primary.execute("REVOKE SELECT ON written FROM plain; DROP ROLE plain")


class Bounds:
    """What a router said of a standby, compared with the first commit that the standby misses.

    Args:
        commits: the truth.
        first_missing: its number.
        exact_since: from when on the staleness must not be too large either.
    """

    def __init__(self, commits: Commits, first_missing: int, exact_since: float) -> None:
        self.commits = commits
        self.first_missing = first_missing
        self.exact_since = exact_since
        self.counted = 0
        self.excess = 0.0

    def __call__(self, host: HostInfo, at: float) -> None:
        assert host.role is HostRole.STANDBY
        missing = at - self.commits.acknowledged[self.first_missing]
        if missing > 0:
            assert host.staleness is None or host.staleness >= missing
        if at > self.exact_since:
            assert host.staleness is not None
            self.excess = max(self.excess, host.staleness - (at - self.commits.begun[self.first_missing]))
            self.counted += 1


def test_paused_replica_is_as_old_as_the_first_commit_that_it_misses(lagging: LocalCluster) -> None:
    _, paused, other = lagging.nodes
    with Router(lagging.dsn, probe=OFTEN) as router:
        with Commits(lagging.primary) as commits:
            eventually(lambda: staleness(router, paused) < within(ALLOWED))
            eventually(lambda: len(commits.acknowledged) > 50)
            call(paused.pause_replay)
            first_missing = max(call(seen, paused)) + 1
            eventually(lambda: first_missing in commits.acknowledged)
            bounds = Bounds(commits, first_missing, time.monotonic() + 3 * INTERVAL)
            watched(router, (paused,), 2.0, bounds, lambda: bounds.counted > 10)
            assert staleness(router, other) < within(ALLOWED)
            print(f"at most {bounds.excess * 1000:.0f} ms above the truth")
            assert bounds.excess < within(ALLOWED)
            call(paused.resume_replay)
            eventually(lambda: staleness(router, paused) < within(ALLOWED))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="synchronous"),
        pytest.param({"synchronous_commit": "off"}, id="asynchronous"),
    ],
)
def test_what_is_claimed_of_a_delayed_replica_is_there(
    lagging: LocalCluster, settings: dict[str, str]
) -> None:
    _, delayed, _ = lagging.nodes
    call(configure, delayed, recovery_min_apply_delay="200ms")
    with Router(lagging.dsn, probe=OFTEN) as router:
        with ExitStack() as stack:
            writers = [
                stack.enter_context(Commits(lagging.primary, 0.001, first=1_000_000 * n, **settings))
                for n in range(3)
            ]
            eventually(lambda: all(len(w.acknowledged) > 20 for w in writers))
            claims = 0
            until = time.monotonic() + 2.0
            while time.monotonic() < until:
                as_of = of(router, delayed).current_as_of
                there = call(seen, delayed)
                if as_of is not None:
                    claimed = {number for w in writers for number in w.before(as_of)}
                    claims += len(claimed)
                    assert claimed <= there
            assert claims > 200
            assert staleness(router, delayed) < within(0.2 + ALLOWED + 0.6)


def nothing(_: Node) -> None: ...


def switch_wal(node: Node) -> None:
    call(node.execute, "SELECT pg_switch_wal()")


def checkpoint(node: Node) -> None:
    call(node.execute, "CHECKPOINT")


def commit_without_waiting(node: Node) -> None:
    with psycopg.connect(node.conninfo, options="-c synchronous_commit=off") as conn:
        conn.execute("INSERT INTO written VALUES (1)")


def log_standbys(node: Node) -> None:
    call(node.execute, "SELECT pg_log_standby_snapshot()")


@pytest.mark.parametrize(
    "before",
    [nothing, switch_wal, checkpoint, commit_without_waiting, log_standbys],
    ids=lambda f: f.__name__,
)
def test_idle_primary_makes_no_replica_look_old(lagging: LocalCluster, before: Any) -> None:
    first, *standbys = lagging.nodes
    found: list[float] = []

    def note(host: HostInfo, _: float) -> None:
        assert host.staleness is not None
        found.append(host.staleness)

    with Router(lagging.dsn, probe=OFTEN) as router:
        before(first)
        call(lagging.catch_up)
        caught_up_at = time.monotonic()
        eventually(
            lambda: all((of(router, node).last_seen or 0) > caught_up_at + INTERVAL for node in standbys)
        )
        eventually(lambda: all(staleness(router, node) < within(ALLOWED) for node in standbys))
        watched(router, (standbys[0], standbys[1]), 2.0, note, lambda: len(found) > 10)
    assert statistics.median(found) < within(ALLOWED)
    assert max(found) < within(1.5), "one late probe is no age that grows, which would be 2 s by now"


def test_open_transaction_that_has_written_makes_no_replica_look_old_for_long(
    lagging: LocalCluster,
) -> None:
    first, *standbys = lagging.nodes
    found: list[float] = []

    def note(host: HostInfo, _: float) -> None:
        assert host.staleness is not None
        found.append(host.staleness)

    with Router(lagging.dsn, probe=OFTEN) as router:
        with psycopg.connect(first.conninfo) as conn:
            conn.execute("INSERT INTO written VALUES (1)")
            # What was inserted just now may be a commit that did not wait for the disk, for 3 x 200 ms.
            written_at = time.monotonic()
            eventually(lambda: time.monotonic() > written_at + 0.6 + 2 * INTERVAL)
            watched(router, (standbys[0],), 2.0, note)
            conn.rollback()
    print(f"at most {max(found) * 1000:.0f} ms")
    assert max(found) < within(ALLOWED)


def test_staleness_grows_while_the_primary_is_gone(lagging: LocalCluster) -> None:
    first, *standbys = lagging.nodes
    with (
        Router(lagging.dsn, probe=OFTEN, reader_attrs="standby") as router,
        Router(lagging.dsn, probe=OFTEN) as preferring,
    ):
        for each in (router, preferring):
            with each.reader(max_lag=1.0) as conn:
                assert conn.info.port in {node.port for node in standbys}
        call(first.kill)
        gone_at = time.monotonic()
        eventually(lambda: old(router, standbys, 1.0))
        assert time.monotonic() - gone_at < within(1.5)
        eventually(lambda: all((of(router, node).staleness or 0) > 1.0 for node in standbys))
        with pytest.raises(NoHostAvailable) as caught:
            with router.reader(0.3, max_lag=1.0):
                pass
        text = str(caught.value)
        for node in standbys:
            assert f"{node.port}: standby, up" in text
        assert text.count("may miss the last ") == 2
        assert "max_lag 1 s" in text
        with pytest.raises(NoHostAvailable):
            with preferring.reader(0.3, max_lag=1.0):
                pass
        with router.reader() as conn:
            assert conn.info.port in {node.port for node in standbys}, "nobody asked for a max_lag"
        call(first.start)
        for each in (router, preferring):
            with each.reader(max_lag=1.0) as conn:
                assert conn.info.port in {node.port for node in lagging.nodes}


def test_staleness_grows_while_the_primary_is_frozen(lagging: LocalCluster) -> None:
    first, standby, _ = lagging.nodes
    with Router(lagging.dsn, probe=OFTEN, reader_attrs="standby") as router:
        with router.reader(max_lag=0.5):
            pass
        call(first.freeze)
        frozen_at = time.monotonic()
        eventually(lambda: time.monotonic() - frozen_at > 0.5 + INTERVAL)
        with pytest.raises(NoHostAvailable, match="may miss the last"):
            with router.reader(0.2, max_lag=0.5):
                pass
        assert staleness(router, standby) > 0.5
        call(first.thaw)
        with router.reader(max_lag=0.5):
            pass


def test_cascading_replica_is_as_old_as_what_it_misses(lagging: LocalCluster) -> None:
    first, between, last = lagging.nodes
    call(last.follow, between)
    with Router(lagging.dsn, probe=OFTEN) as router:
        with Commits(first) as commits:
            eventually(lambda: len(commits.acknowledged) > 50)
            eventually(lambda: staleness(router, last) < within(ALLOWED))
            call(between.stop, "immediate")
            missing = max(call(seen, last)) + 1
            eventually(lambda: missing in commits.acknowledged)
            bounds = Bounds(commits, missing, time.monotonic() + 3 * INTERVAL)
            watched(router, (last,), 1.0, bounds, lambda: bounds.counted > 0)
            assert bounds.excess < within(ALLOWED)
            assert of(router, between).state is HostState.DOWN
            call(between.start)
            eventually(
                lambda: all(staleness(router, node) < within(ALLOWED) for node in (between, last)), 30.0
            )


def test_replica_cut_off_from_the_primary_is_as_old_as_what_it_misses(lagging: LocalCluster) -> None:
    first, standby, _ = lagging.nodes
    with FaultProxy(first) as wire:
        source: Any = wire  # a host and a port
        call(standby.follow, source, wait=False)
        eventually(lambda: wire.connected)
        with Router(lagging.dsn, probe=OFTEN) as router:
            with Commits(first) as commits:
                eventually(lambda: staleness(router, standby) < within(ALLOWED))
                eventually(lambda: seen(standby))
                wire.blackhole()
                eventually(lambda: staleness(router, standby) > 0.5 + within(ALLOWED))
                missing = max(call(seen, standby)) + 1
                bounds = Bounds(commits, missing, time.monotonic())
                watched(router, (standby,), 1.0, bounds, lambda: bounds.counted > 0)
                assert bounds.excess < within(ALLOWED)
                wire.clear_faults()
                eventually(lambda: staleness(router, standby) < within(ALLOWED))
        call(standby.follow, first)


def test_restarted_replica_is_known_again(lagging: LocalCluster) -> None:
    first, standby, _ = lagging.nodes
    with Router(lagging.dsn, probe=OFTEN) as router:
        with Commits(first) as commits:
            eventually(lambda: staleness(router, standby) < within(ALLOWED))
            for stop in ("fast", "immediate"):
                call(standby.stop, stop)
                eventually(lambda: state(router, standby) is HostState.DOWN)
                call(standby.start)
                eventually(lambda: state(router, standby) is HostState.UP)
                for _ in range(20):
                    as_of = of(router, standby).current_as_of
                    there = call(seen, standby)
                    assert as_of is None or commits.before(as_of) <= there
                eventually(lambda: staleness(router, standby) < within(ALLOWED))


def test_a_role_without_rights_sees_the_same(lagging: LocalCluster, plain: str) -> None:
    _, paused, other = lagging.nodes
    with Router(plain, probe=OFTEN) as router:
        with Commits(lagging.primary) as commits:
            eventually(lambda: staleness(router, paused) < within(ALLOWED))
            call(paused.pause_replay)
            missing = max(call(seen, paused), default=0) + 1
            eventually(lambda: missing in commits.acknowledged)
            bounds = Bounds(commits, missing, time.monotonic() + 3 * INTERVAL)
            watched(router, (paused,), 1.0, bounds, lambda: bounds.counted > 0)
            assert staleness(router, other) < within(ALLOWED)
            assert bounds.excess < within(ALLOWED)


# Failovers.


def test_replica_that_follows_the_new_primary_is_fresh_again(any_cluster: LocalCluster) -> None:
    first, second, third = any_cluster.nodes
    make_table(any_cluster)
    with Router(any_cluster.dsn, probe=OFTEN) as router:
        eventually(lambda: all(staleness(router, n) < within(ALLOWED) for n in (second, third)))
        call(first.kill)
        call(any_cluster.promote, second)
        with Commits(second) as commits:
            eventually(
                lambda: commits.acknowledged and staleness(router, third) < within(ALLOWED)
            )
            for _ in range(20):
                as_of = of(router, third).current_as_of
                there = call(seen, third)
                assert as_of is not None
                assert commits.before(as_of) <= there


def test_lost_end_of_an_old_timeline_never_counts(any_cluster: LocalCluster) -> None:
    """The old primary goes on, and a standby follows it: that is not what the new one has."""
    old, new, misled = any_cluster.nodes
    make_table(any_cluster)
    any_cluster.primary.execute(f"CREATE ROLE plain LOGIN PASSWORD '{any_cluster.password}'")
    any_cluster.catch_up()
    dsns = (any_cluster.dsn, dsn_with(any_cluster.dsn, user="plain"))
    with Router(dsns[0], probe=OFTEN) as router, Router(dsns[1], probe=OFTEN) as plain:
        for each in (router, plain):
            eventually(lambda: staleness(each, misled) < within(ALLOWED))  # noqa: B023
        call(any_cluster.promote, new, repoint=False)
        with Commits(old, first=1) as lost, Commits(new, first=1_000_000) as kept:
            eventually(lambda: len(lost.acknowledged) > 200 and len(kept.acknowledged) > 20)
            eventually(lambda: {1, 2, 3} <= seen(misled))
            for each in (router, plain):
                eventually(lambda: state(each, old) is HostState.STALE)  # noqa: B023
                first_kept = kept.acknowledged[1_000_000]

                def bound(host: HostInfo, _: float) -> None:
                    assert host.current_as_of is None or host.current_as_of < first_kept  # noqa: B023

                watched(each, (misled,), 0.5, bound)
                with each.reader(max_lag=0.3) as conn:
                    assert conn.info.port == new.port
