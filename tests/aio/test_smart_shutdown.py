"""A server that is told to stop when its sessions have gone (a smart shutdown): nobody may hold it up."""

from __future__ import annotations

import asyncio  # async-only
import threading
import time
from typing import Any

import pytest

from pgroute import AsyncRouter, Event, EventKind, HostState, PoolOptions
from pgroute.monitor import host_watcher
from pgroute.testing import LocalCluster
from tests.aio.workload import key, make_table, numbers, read, refused_until, state, write
from tests.support import AsyncBackground, async_call, async_eventually, within

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]

LATE = 5.0
"""Seconds within which a server stops that nobody holds up."""


@pytest.fixture
def renewed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renew probe connections much more often than every 60 s."""
    monkeypatch.setattr(host_watcher, "RENEW_AFTER", 0.5)


async def hold(router: AsyncRouter[Any], role: Any, begun: threading.Event, over: threading.Event) -> int:
    """Have a session until that is over; return where it was."""
    conn = await router.getconn(role)
    try:
        begun.set()
        while not over.is_set():
            await conn.execute("SELECT 1")
            await asyncio.sleep(0.1)
        await conn.commit()
        return int(conn.info.port)
    finally:
        await router.putconn(conn)


async def test_idle_connections_do_not_hold_up_a_smart_shutdown(
    mended: LocalCluster, renewed_soon: None
) -> None:
    node = mended.nodes[0]
    options = PoolOptions(min_size=3)
    async with AsyncRouter(mended.dsn, writer=options, reader=options, reader_attrs="any") as router:
        for role in ("writer", "reader"):
            await router.wait(role)
        await async_eventually(lambda: all(h.state is HostState.UP for h in router.topology.hosts))
        await async_eventually(lambda: router.stats().writer.totals["pool_available"] == 3)
        await async_call(node.stop, "smart", timeout=LATE)
        await async_eventually(lambda: state(router, node) is HostState.DOWN)
        assert (await read(router)).port != node.port
        await async_call(node.start)
        await router.wait()


async def test_a_session_in_flight_ends_in_peace_and_the_shutdown_follows(mended: LocalCluster) -> None:
    def requests() -> int:
        return node.log().count("received smart shutdown request")

    node = mended.nodes[0]
    before = requests()
    begun, over = threading.Event(), threading.Event()
    events: list[Event] = []
    async with AsyncRouter(mended.dsn) as router, AsyncBackground() as background:
        await router.wait()
        await async_eventually(lambda: all(h.state is HostState.UP for h in router.topology.hosts))
        router.subscribe(events.append)
        holder = background.start(hold, router, "writer", begun, over)
        await async_eventually(begun.is_set)
        stopping = background.start(async_call, node.stop, "smart")
        await async_eventually(lambda: requests() > before)
        # The pool has to grow for it, and that tells: no renewal is due.
        await refused_until(lambda text: "the database system is shutting down" in text, router, "writer")
        await async_eventually(lambda: state(router, node) is HostState.STARTING)
        assert (await read(router)).port != node.port
        assert not holder.done()
        over.set()
        assert await holder.result() == node.port
        ended_at = time.monotonic()
        await stopping.result()
        assert time.monotonic() - ended_at < within(LATE)
        await async_eventually(lambda: state(router, node) is HostState.DOWN)
    assert EventKind.SESSIONS_ABORTED not in {event.kind for event in events}


async def test_readers_leave_a_standby_that_is_shutting_down(
    mended: LocalCluster, renewed_soon: None
) -> None:
    _, leaving, other = mended.nodes
    begun, over = threading.Event(), threading.Event()
    async with (
        AsyncRouter(mended.dsn, reader_attrs="standby", balance="ordered") as router,
        AsyncBackground() as background,
    ):
        await async_eventually(lambda: all(h.state is HostState.UP for h in router.topology.hosts))
        holder = background.start(hold, router, "reader", begun, over)
        await async_eventually(begun.is_set)
        stopping = background.start(async_call, leaving.stop, "smart")
        await async_eventually(lambda: state(router, leaving) is HostState.STARTING)
        assert {(await read(router)).port for _ in range(10)} == {other.port}
        assert not holder.done()
        over.set()
        assert await holder.result() == leaving.port
        await stopping.result()
        await async_call(leaving.start)
        await async_eventually(lambda: state(router, leaving) is HostState.UP)
        assert (await read(router)).port == leaving.port


async def test_writers_go_on_where_a_standby_is_promoted_after_a_smart_shutdown(
    any_cluster: LocalCluster, renewed_soon: None
) -> None:
    make_table(any_cluster)
    node = any_cluster.primary
    async with AsyncRouter(any_cluster.dsn) as router:
        await write(router, 1)
        await async_call(node.stop, "smart", timeout=LATE)
        new = await async_call(any_cluster.promote)
        assert (await write(router, 2)).port == new.port
        assert await numbers(new) == [1, 2]
        host = router.topology.host(key(node))
        assert host is not None
        assert not host.usable
