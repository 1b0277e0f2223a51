"""Readers that are told how much a standby may miss at most."""

from __future__ import annotations

import asyncio  # async-only
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, ConfigError, NoHostAvailable, PoolExhausted, PoolOptions, ProbeOptions
from pgroute.testing import LocalCluster
from tests.aio.replicas import OFTEN, configure, dsn_of, of, old, staleness, standbys_as_they_were
from tests.aio.workload import read
from tests.commits import Commits
from tests.support import AsyncBackground, async_call, async_eventually, dsn_with, within
from tests.wiretap import Wiretap

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]

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


async def select(session: Any) -> int:
    """Run one statement in a session; return the port of its host."""
    async with session as conn:
        await conn.execute("SELECT 1")
        return int(conn.info.port)


async def all_known(router: AsyncRouter[Any]) -> None:
    """Wait until all ages are known: a standby that falls behind before the first probe is of unknown age."""
    await async_eventually(lambda: len(router.topology.standbys) == 2)
    await async_eventually(lambda: all(host.staleness is not None for host in router.topology.standbys))


async def test_replica_that_lags_is_left_out(lagging: LocalCluster) -> None:
    first, paused, other = lagging.nodes
    async with AsyncRouter(lagging.dsn, probe=OFTEN) as router:
        await all_known(router)
        assert {(await read(router)).port for _ in range(20)} == {paused.port, other.port}
        with Commits(first):
            await async_call(paused.pause_replay)
            await async_eventually(lambda: old(router, [paused], 0.5))
            ports = {await select(router.reader(max_lag=0.5)) for _ in range(30)}
            # On a busy machine the other one may be late too, for a moment.
            assert {other.port} <= ports <= {other.port, first.port}
            await async_call(other.pause_replay)
            await async_eventually(lambda: old(router, [other], 0.5))
            for _ in range(10):
                assert await select(router.reader(max_lag=0.5)) == first.port
            assert await select(router.reader(max_lag=60)) in (paused.port, other.port)
            assert await select(router.reader()) in (paused.port, other.port)
            await async_call(other.resume_replay)
            await async_eventually(lambda: staleness(router, other) < 0.4)
            assert await select(router.reader(max_lag=0.5)) == other.port


async def test_the_routers_max_lag_holds_for_readers_of_all_kinds(lagging: LocalCluster) -> None:
    first, *standbys = lagging.nodes

    async def port(conn: psycopg.AsyncConnection[Any]) -> int:
        return conn.info.port

    async with AsyncRouter(lagging.dsn, probe=OFTEN, max_lag=0.4) as router:
        await all_known(router)
        with Commits(first):
            for node in standbys:
                await async_call(node.pause_replay)
            await async_eventually(lambda: old(router, standbys, 0.4))
            assert await select(router.reader()) == first.port
            assert await select(router.connection("prefer-standby")) == first.port
            assert await select(router.causal().reader()) == first.port
            assert await router.run(port, role="reader") == first.port
            assert await router.causal().run(port, role="reader") == first.port
            conn = await router.getconn("reader")
            assert conn.info.port == first.port
            await router.putconn(conn)
            async for attempt in router.attempts("reader"):
                async with attempt as conn:
                    assert conn.info.port == first.port
            assert await select(router.reader(max_lag=60)) != first.port, "the call's own comes first"


async def test_writers_need_no_fresh_standby(lagging: LocalCluster) -> None:
    async with AsyncRouter(lagging.dsn, max_lag=0.1, probe=OFTEN) as router:
        assert await select(router.writer()) == lagging.nodes[0].port
        assert await select(router.connection("any")) in {node.port for node in lagging.nodes}


async def test_proven_replicas_cost_no_round_trip(lagging: LocalCluster, tapped: tuple[Wiretap, ...]) -> None:
    unprepared = {"prepare_threshold": None}  # preparing a statement takes a round trip
    async with AsyncRouter(dsn_of(tapped), probe=OFTEN, kwargs=unprepared) as router:
        standbys = tapped[1:]
        warm: set[int] = set()
        while warm != {tap.port for tap in standbys}:  # so that no connection is opened any more
            warm.add(await select(router.reader(max_lag=10)))
        for tap in tapped:
            tap.take()
        for _ in range(20):
            assert await select(router.reader(max_lag=10)) in {tap.port for tap in standbys}
        assert sum(tap.round_trips() for tap in tapped) == 3 * 20, "BEGIN, SELECT, COMMIT"


async def test_replica_whose_last_probe_is_too_old_is_asked_once(
    lagging: LocalCluster, tapped: tuple[Wiretap, ...]
) -> None:
    """A lag of 200 ms and the intervals of the probes are too much for max_lag; a question often is not."""
    first, *standbys = lagging.nodes
    for node in standbys:
        await async_call(configure, node, recovery_min_apply_delay="200ms")
    async with AsyncRouter(dsn_of(tapped), probe=OFTEN) as router:
        with Commits(first, 0.001):
            await async_eventually(lambda: all(staleness(router, tap) < 1.0 for tap in tapped[1:]))
            asked: set[int] = set()
            served: set[int] = set()
            for _ in range(100):
                for tap in tapped:
                    tap.take()
                served.add(await select(router.reader(max_lag=0.3)))
                questions = [sum(PROGRESS in m.body for m in tap.take()) for tap in tapped]
                assert max(questions) <= 1, "each is asked at most once"
                asked.add(sum(questions))
                await asyncio.sleep(0.007)
    assert max(asked) >= 1
    assert served & {tap.port for tap in tapped[1:]}


async def test_first_max_lag_of_a_router_that_probes_seldom_is_kept(lagging: LocalCluster) -> None:
    """Nothing is known that is new enough: the primary serves, and probes come often from then on."""
    first, *standbys = lagging.nodes
    async with AsyncRouter(lagging.dsn, probe=SELDOM) as router:
        await async_eventually(lambda: all(of(router, node).current_as_of for node in standbys))
        known_at = time.monotonic()
        await async_eventually(lambda: time.monotonic() > known_at + 0.5)
        ports = [await select(router.reader(max_lag=0.3))]
        assert ports == [first.port]
        for node in standbys:
            await async_eventually(lambda: staleness(router, node) < 0.3)  # noqa: B023
        assert await select(router.reader(max_lag=0.3)) in {node.port for node in standbys}


async def test_strict_reader_waits_for_the_first_probes_that_are_frequent_enough(
    lagging: LocalCluster,
) -> None:
    standbys = lagging.nodes[1:]
    async with AsyncRouter(lagging.dsn, probe=SELDOM, reader_attrs="standby") as router:
        await async_eventually(lambda: all(of(router, node).current_as_of for node in standbys))
        known_at = time.monotonic()
        await async_eventually(lambda: time.monotonic() > known_at + 0.5)
        begun_at = time.monotonic()
        assert await select(router.reader(5.0, max_lag=0.2)) in {node.port for node in standbys}
        assert time.monotonic() - begun_at < within(0.3)


async def test_strict_readers_are_told_how_old_each_replica_is(lagging: LocalCluster) -> None:
    first, *standbys = lagging.nodes
    async with AsyncRouter(lagging.dsn, probe=OFTEN, reader_attrs="standby") as router:
        await all_known(router)
        with Commits(first):
            for node in standbys:
                await async_call(node.pause_replay)
            await async_eventually(lambda: old(router, standbys, 0.5))
            begun_at = time.monotonic()
            with pytest.raises(NoHostAvailable) as caught:
                async with router.reader(0.4, max_lag=0.5):
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


async def test_a_replica_that_catches_up_serves_the_waiting_reader(lagging: LocalCluster) -> None:
    first, standby, other = lagging.nodes
    async with (
        AsyncRouter(lagging.dsn, probe=OFTEN, reader_attrs="standby") as router,
        AsyncBackground() as background,
    ):
        await all_known(router)
        with Commits(first):
            for node in (standby, other):
                await async_call(node.pause_replay)
            await async_eventually(lambda: old(router, (standby, other), 0.4))
            reader = background.start(select, router.reader(10.0, max_lag=0.4))
            await async_call(standby.resume_replay)
            assert await reader.result() == standby.port


async def test_probes_come_often_while_a_max_lag_is_in_use(lagging: LocalCluster) -> None:
    first = lagging.nodes[0]
    async with AsyncRouter(lagging.dsn, probe=SELDOM) as router:
        await async_eventually(lambda: of(router, first).last_seen)

        async def probes(seconds: float) -> int:
            seen: set[float] = set()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                seen.add(of(router, first).last_seen or 0.0)
                await asyncio.sleep(0.002)
            return len(seen) - 1

        while await probes(0.5):
            pass  # those of the beginning
        await select(router.reader(max_lag=0.3))
        seen = [of(router, first).last_seen or 0.0]

        def seen_often() -> bool:
            if (last := of(router, first).last_seen or 0.0) != seen[-1]:
                seen.append(last)
            return len(seen) > 7

        await async_eventually(seen_often)
        gaps = [later - earlier for earlier, later in pairwise(seen)]
        assert 0.05 < statistics.median(gaps) < 0.5, "0.1 s, while the machine lets it"


# The primary is not overrun.


async def hold(router: AsyncRouter[Any], max_lag: float, ports: list[int], release: Any) -> None:
    try:
        async with router.reader(20.0, max_lag=max_lag) as conn:
            ports.append(conn.info.port)
            await async_eventually(release, 20.0)
    except PoolExhausted:
        ports.append(0)


async def test_readers_that_spill_over_are_limited_and_standbys_take_them_back(
    lagging: LocalCluster,
) -> None:
    first, *standbys = lagging.nodes
    ports: list[int] = []
    released: list[bool] = []
    options = PoolOptions(min_size=2, max_size=10, max_size_on_primary=1)
    async with (
        AsyncRouter(dsn_with(lagging.dsn, application_name="spilled"), probe=OFTEN, reader=options) as router,
        AsyncBackground() as background,
    ):
        await all_known(router)
        with Commits(first):
            for node in standbys:
                await async_call(node.pause_replay)
            await async_eventually(lambda: old(router, standbys, 0.5))
            work = [background.start(hold, router, 0.5, ports, lambda: bool(released)) for _ in range(8)]
            await async_eventually(lambda: ports)
            with pytest.raises(PoolExhausted, match="1 of max_size_on_primary 1 connections in use"):
                async with router.reader(0.3, max_lag=0.5):
                    pass
            assert ports == [first.port]
            for node in standbys:
                await async_call(node.resume_replay)
            await async_eventually(lambda: len(ports) == 8)
            assert ports.count(first.port) == 1
            assert set(ports) - {first.port} <= {node.port for node in standbys}
            released.append(True)
            for reader in work:
                await reader.result()
            [(sessions,)] = await async_call(
                first.execute,
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'spilled'",
            )
            assert sessions <= 1


# Bad input.


@pytest.mark.parametrize("value", [-1, 0, 0.05, "1", True, float("nan"), float("inf"), [], 2e9])
async def test_max_lag_that_cannot_be_proven_is_refused(shared: LocalCluster, value: Any) -> None:
    with pytest.raises(ConfigError, match="max_lag"):
        AsyncRouter(shared.dsn, max_lag=value)
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(ConfigError, match="max_lag"):
            router.reader(max_lag=value)
        with pytest.raises(ConfigError, match="max_lag"):
            router.causal().reader(max_lag=value)


@pytest.mark.parametrize("value", [-1, "1", True, float("nan"), float("inf"), None])
async def test_wait_that_is_no_time_is_refused(shared: LocalCluster, value: Any) -> None:
    async with AsyncRouter(shared.dsn) as router:
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
        AsyncRouter("host=127.0.0.1", writer=PoolOptions(max_size_on_primary=1))
