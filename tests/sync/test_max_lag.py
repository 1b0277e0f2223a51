# Generated from tests/aio/test_max_lag.py by .ci/unasync.py: edit that file, not this one.
"""Readers that are told how much a standby may miss at most."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from pgroute import Router, ConfigError, NoHostAvailable, PoolExhausted, PoolOptions, ProbeOptions
from pgroute.testing import LocalCluster
from tests.sync.replicas import OFTEN, configure, dsn_of, of, old, staleness, standbys_as_they_were
from tests.sync.workload import read
from tests.commits import Commits
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


def select(session: Any) -> int:
    """Run one statement in a session; return the port of its host."""
    with session as conn:
        conn.execute("SELECT 1")
        return int(conn.info.port)


def all_known(router: Router[Any]) -> None:
    """Wait until all ages are known: a standby that falls behind before the first probe is of unknown age."""
    eventually(lambda: len(router.topology.standbys) == 2)
    eventually(lambda: all(host.staleness is not None for host in router.topology.standbys))


def test_replica_that_lags_is_left_out(lagging: LocalCluster) -> None:
    first, paused, other = lagging.nodes
    with Router(lagging.dsn, probe=OFTEN) as router:
        all_known(router)
        assert {(read(router)).port for _ in range(20)} == {paused.port, other.port}
        with Commits(first):
            call(paused.pause_replay)
            eventually(lambda: old(router, [paused], 0.5))
            ports = {select(router.reader(max_lag=0.5)) for _ in range(30)}
            # On a busy machine the other one may be late too, for a moment.
            assert {other.port} <= ports <= {other.port, first.port}
            call(other.pause_replay)
            eventually(lambda: old(router, [other], 0.5))
            for _ in range(10):
                assert select(router.reader(max_lag=0.5)) == first.port
            assert select(router.reader(max_lag=60)) in (paused.port, other.port)
            assert select(router.reader()) in (paused.port, other.port)
            call(other.resume_replay)
            eventually(lambda: staleness(router, other) < 0.4)
            assert select(router.reader(max_lag=0.5)) == other.port


def test_the_routers_max_lag_holds_for_readers_of_all_kinds(lagging: LocalCluster) -> None:
    first, *standbys = lagging.nodes

    def port(conn: psycopg.Connection[Any]) -> int:
        return conn.info.port

    with Router(lagging.dsn, probe=OFTEN, max_lag=0.4) as router:
        all_known(router)
        with Commits(first):
            for node in standbys:
                call(node.pause_replay)
            eventually(lambda: old(router, standbys, 0.4))
            assert select(router.reader()) == first.port
            assert select(router.connection("prefer-standby")) == first.port
            assert select(router.causal().reader()) == first.port
            assert router.run(port, role="reader") == first.port
            assert router.causal().run(port, role="reader") == first.port
            conn = router.getconn("reader")
            assert conn.info.port == first.port
            router.putconn(conn)
            for attempt in router.attempts("reader"):
                with attempt as conn:
                    assert conn.info.port == first.port
            assert select(router.reader(max_lag=60)) != first.port, "the call's own comes first"


def test_writers_need_no_fresh_standby(lagging: LocalCluster) -> None:
    with Router(lagging.dsn, max_lag=0.1, probe=OFTEN) as router:
        assert select(router.writer()) == lagging.nodes[0].port
        assert select(router.connection("any")) in {node.port for node in lagging.nodes}


def test_proven_replicas_cost_no_round_trip(lagging: LocalCluster, tapped: tuple[Wiretap, ...]) -> None:
    unprepared = {"prepare_threshold": None}  # preparing a statement takes a round trip
    with Router(dsn_of(tapped), probe=OFTEN, kwargs=unprepared) as router:
        standbys = tapped[1:]
        warm: set[int] = set()
        while warm != {tap.port for tap in standbys}:  # so that no connection is opened any more
            warm.add(select(router.reader(max_lag=10)))
        for tap in tapped:
            tap.take()
        for _ in range(20):
            assert select(router.reader(max_lag=10)) in {tap.port for tap in standbys}
        assert sum(tap.round_trips() for tap in tapped) == 3 * 20, "BEGIN, SELECT, COMMIT"


def test_replica_whose_last_probe_is_too_old_is_asked_once(
    lagging: LocalCluster, tapped: tuple[Wiretap, ...]
) -> None:
    """A lag of 200 ms and the intervals of the probes are too much for max_lag; a question often is not."""
    first, *standbys = lagging.nodes
    for node in standbys:
        call(configure, node, recovery_min_apply_delay="200ms")
    with Router(dsn_of(tapped), probe=OFTEN) as router:
        with Commits(first, 0.001):
            eventually(lambda: all(staleness(router, tap) < 1.0 for tap in tapped[1:]))
            asked: set[int] = set()
            served: set[int] = set()
            for _ in range(100):
                for tap in tapped:
                    tap.take()
                served.add(select(router.reader(max_lag=0.3)))
                questions = [sum(PROGRESS in m.body for m in tap.take()) for tap in tapped]
                assert max(questions) <= 1, "each is asked at most once"
                asked.add(sum(questions))
                time.sleep(0.007)
    assert max(asked) >= 1
    assert served & {tap.port for tap in tapped[1:]}


def test_first_max_lag_of_a_router_that_probes_seldom_is_kept(lagging: LocalCluster) -> None:
    """Nothing is known that is new enough: the primary serves, and probes come often from then on."""
    first, *standbys = lagging.nodes
    with Router(lagging.dsn, probe=SELDOM) as router:
        eventually(lambda: all(of(router, node).current_as_of for node in standbys))
        known_at = time.monotonic()
        eventually(lambda: time.monotonic() > known_at + 0.5)
        ports = [select(router.reader(max_lag=0.3))]
        assert ports == [first.port]
        for node in standbys:
            eventually(lambda: staleness(router, node) < 0.3)  # noqa: B023
        assert select(router.reader(max_lag=0.3)) in {node.port for node in standbys}


def test_strict_reader_waits_for_the_first_probes_that_are_frequent_enough(
    lagging: LocalCluster,
) -> None:
    standbys = lagging.nodes[1:]
    with Router(lagging.dsn, probe=SELDOM, reader_attrs="standby") as router:
        eventually(lambda: all(of(router, node).current_as_of for node in standbys))
        known_at = time.monotonic()
        eventually(lambda: time.monotonic() > known_at + 0.5)
        begun_at = time.monotonic()
        assert select(router.reader(5.0, max_lag=0.2)) in {node.port for node in standbys}
        assert time.monotonic() - begun_at < within(0.3)


def test_strict_readers_are_told_how_old_each_replica_is(lagging: LocalCluster) -> None:
    first, *standbys = lagging.nodes
    with Router(lagging.dsn, probe=OFTEN, reader_attrs="standby") as router:
        all_known(router)
        with Commits(first):
            for node in standbys:
                call(node.pause_replay)
            eventually(lambda: old(router, standbys, 0.5))
            begun_at = time.monotonic()
            with pytest.raises(NoHostAvailable) as caught:
                with router.reader(0.4, max_lag=0.5):
                    pass
            assert 0.4 <= time.monotonic() - begun_at < within(0.6)
    lines = str(caught.value).splitlines()
    assert lines[0] == "no reader session (standby, max_lag 0.5 s) within 0.4 s"
    for node in standbys:
        [line] = [line for line in lines if f":{node.port}:" in line]
        told = float(line.partition("may miss the last ")[2].partition(" s")[0])
        assert 0.5 < told < within(3.0)
    [line] = [line for line in lines if f":{first.port}:" in line]
    assert "miss" not in line


def test_a_replica_that_catches_up_serves_the_waiting_reader(lagging: LocalCluster) -> None:
    first, standby, other = lagging.nodes
    with (
        Router(lagging.dsn, probe=OFTEN, reader_attrs="standby") as router,
        Background() as background,
    ):
        all_known(router)
        with Commits(first):
            for node in (standby, other):
                call(node.pause_replay)
            eventually(lambda: old(router, (standby, other), 0.4))
            reader = background.start(select, router.reader(10.0, max_lag=0.4))
            call(standby.resume_replay)
            assert reader.result() == standby.port


def test_probes_come_often_while_a_max_lag_is_in_use(lagging: LocalCluster) -> None:
    first = lagging.nodes[0]
    with Router(lagging.dsn, probe=SELDOM) as router:
        eventually(lambda: of(router, first).last_seen)

        def probes(seconds: float) -> int:
            seen: set[float] = set()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                seen.add(of(router, first).last_seen or 0.0)
                time.sleep(0.002)
            return len(seen) - 1

        while probes(0.5):
            pass  # those of the beginning
        select(router.reader(max_lag=0.3))
        seen = [of(router, first).last_seen or 0.0]

        def seen_often() -> bool:
            if (last := of(router, first).last_seen or 0.0) != seen[-1]:
                seen.append(last)
            return len(seen) > 7

        eventually(seen_often)
        gaps = [later - earlier for earlier, later in pairwise(seen)]
        assert 0.05 < statistics.median(gaps) < 0.5, "0.1 s, while the machine lets it"


# The primary is not overrun.


def hold(router: Router[Any], max_lag: float, ports: list[int], release: Any) -> None:
    try:
        with router.reader(20.0, max_lag=max_lag) as conn:
            ports.append(conn.info.port)
            eventually(release, 20.0)
    except PoolExhausted:
        ports.append(0)


def test_readers_that_spill_over_are_limited_and_standbys_take_them_back(
    lagging: LocalCluster,
) -> None:
    first, *standbys = lagging.nodes
    ports: list[int] = []
    released: list[bool] = []
    options = PoolOptions(min_size=2, max_size=10, max_size_on_primary=1)
    with (
        Router(dsn_with(lagging.dsn, application_name="spilled"), probe=OFTEN, reader=options) as router,
        Background() as background,
    ):
        all_known(router)
        with Commits(first):
            for node in standbys:
                call(node.pause_replay)
            eventually(lambda: old(router, standbys, 0.5))
            work = [background.start(hold, router, 0.5, ports, lambda: bool(released)) for _ in range(8)]
            eventually(lambda: ports)
            with pytest.raises(PoolExhausted, match="1 of max_size_on_primary 1 connections in use"):
                with router.reader(0.3, max_lag=0.5):
                    pass
            assert ports == [first.port]
            for node in standbys:
                call(node.resume_replay)
            eventually(lambda: len(ports) == 8)
            assert ports.count(first.port) == 1
            assert set(ports) - {first.port} <= {node.port for node in standbys}
            released.append(True)
            for reader in work:
                reader.result()
            [(sessions,)] = call(
                first.execute,
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'spilled'",
            )
            assert sessions <= 1


# Bad input.


@pytest.mark.parametrize("value", [-1, 0, 0.05, "1", True, float("nan"), float("inf"), [], 2e9])
def test_max_lag_that_cannot_be_proven_is_refused(shared: LocalCluster, value: Any) -> None:
    with pytest.raises(ConfigError, match="max_lag"):
        Router(shared.dsn, max_lag=value)
    with Router(shared.dsn) as router:
        with pytest.raises(ConfigError, match="max_lag"):
            router.reader(max_lag=value)
        with pytest.raises(ConfigError, match="max_lag"):
            router.causal().reader(max_lag=value)


@pytest.mark.parametrize("value", [-1, "1", True, float("nan"), float("inf"), None])
def test_wait_that_is_no_time_is_refused(shared: LocalCluster, value: Any) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(ConfigError, match="wait"):
            router.reader(wait=value)
        with pytest.raises(ConfigError, match="wait"):
            router.causal().reader(wait=value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True])
def test_size_on_the_primary_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="max_size_on_primary"):
        PoolOptions(max_size_on_primary=value)


def test_size_on_the_primary_is_for_readers() -> None:
    with pytest.raises(ConfigError, match="max_size_on_primary"):
        Router("host=127.0.0.1", writer=PoolOptions(max_size_on_primary=1))
