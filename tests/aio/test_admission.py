"""Connecting to a host that has just come back: rounds that double from one, and patience where there is no room."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from pgroute import AsyncRouter, HostState, NoHostAvailable, PoolOptions
from pgroute._async.pool import role_pool
from pgroute.core.routing.admission import ROUND
from pgroute.core.schedule import LONGEST_SPREAD, login_spread
from pgroute.testing import LocalCluster, Node
from tests.aio.workload import Account, keep_reading, key, make_table, state, write
from tests.support import AsyncBackground, async_call, async_eventually

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]

SLOTS = 20
NO_ROOM = r"too many clients|remaining connection slots"


@pytest.fixture
def small() -> Iterator[LocalCluster]:
    """A cluster whose servers have few connections."""
    with LocalCluster(standbys=1, settings={"max_connections": str(SLOTS)}) as cluster:
        yield cluster


@contextlib.contextmanager
def filled(node: Node) -> Iterator[None]:
    """Take every connection that is left at a server."""
    with contextlib.ExitStack() as stack:
        with pytest.raises(psycopg.OperationalError, match=NO_ROOM):
            while True:
                stack.enter_context(psycopg.connect(node.conninfo))
        yield


def started(node: Node) -> list[float]:
    """Return when the connections of the pools were opened, in seconds from the first one."""
    sql = (
        "SELECT extract(epoch FROM backend_start - min(backend_start) OVER ())::float8 FROM pg_stat_activity"
        " WHERE application_name = 'fleet' ORDER BY 1"
    )
    return [at for (at,) in node.execute(sql)]


async def test_a_new_primary_gets_connections_in_rounds_that_double(small: LocalCluster) -> None:
    """A busy machine makes the pauses longer, never shorter."""
    options = PoolOptions(max_size=7, kwargs={"application_name": "fleet"})
    async with AsyncRouter(small.dsn, writer=options) as router:
        async with router.writer() as conn:
            await conn.execute("SELECT 1")
        assert router._manager.watch.slots == SLOTS
        await async_eventually(lambda: state(router, small.nodes[1]) is HostState.UP)
        await async_call(small.primary.stop, "immediate")
        new = await async_call(small.promote)
        conns = [await router.getconn("writer") for _ in range(7)]
        times = await async_call(started, new)
        for conn in conns:
            await router.putconn(conn)
    print("opened after", " ".join(f"{1000 * at:.0f}" for at in times), "ms")
    assert len(times) == 7
    # 1, 2, 4: after each round a pause of at least half a round.
    assert times[1] - times[0] >= 0.45 * ROUND
    assert times[3] - times[2] >= 0.45 * ROUND


async def test_a_fleet_shares_a_primary_that_has_not_enough_connections(small: LocalCluster) -> None:
    make_table(small)

    def refusals() -> int:
        return len(re.findall(rf"FATAL:  (sorry, )?({NO_ROOM})", new.log()))

    fleet = [AsyncRouter(small.dsn, writer=PoolOptions(max_size=4)) for _ in range(6)]
    numbers = itertools.count()
    try:
        for router in fleet:
            await router.open()
            await write(router, next(numbers))
        await async_call(small.primary.stop, "immediate")
        begun_at = time.monotonic()
        new = await async_call(small.promote)
        async with AsyncBackground() as background:
            with filled(new):
                waiting = [background.start(write, router, next(numbers)) for router in fleet * 4]
                await async_eventually(lambda: refusals() > len(fleet))
                with pytest.raises(NoHostAvailable, match=NO_ROOM):
                    await write(fleet[0], next(numbers), timeout=0.5)
            for writer in waiting:
                assert (await writer.result()).port == new.port
        took, tried = time.monotonic() - begun_at, refusals()
    finally:
        for router in fleet:
            await router.close()
    print(f"refused {tried} times in {took:.1f} s")
    # A process tries once, then after 0.1 to 0.3 s, and later ones are longer; one more has filled the server.
    assert tried <= len(fleet) * (1 + took / 0.1) + 1


@pytest.mark.long
async def test_no_reader_waits_for_a_standby_whose_turn_to_be_connected_to_has_not_come(
    mended: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role_pool, "SOON", 0.0)  # a turn in a tenth of a second would be waited for
    make_table(mended)
    _, gone, other = mended.nodes
    stop, reads = threading.Event(), Account()
    async with (
        AsyncRouter(mended.dsn, reader_attrs="standby", balance="round-robin") as router,
        AsyncBackground() as background,
    ):
        await async_eventually(lambda: len(router.topology.standbys) == 2)
        await async_call(gone.stop, "immediate")
        await async_eventually(lambda: state(router, gone) is HostState.DOWN)
        background.start(keep_reading, router, stop, reads)
        await async_eventually(lambda: reads.sessions)
        router._manager.watch.note_slots(20_000)
        assert login_spread(router._manager.watch.slots) == LONGEST_SPREAD
        await async_call(gone.start)
        await async_eventually(lambda: gone.port in reads.ports, timeout=20.0)
        stop.set()
        queued = router.stats().reader.hosts[key(gone)].get("requests_queued", 0)
    assert reads.errors == []
    assert other.port in reads.ports
    assert queued == 0
