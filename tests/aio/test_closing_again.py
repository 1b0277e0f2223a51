"""Closing a router that is being closed, that was interrupted in it, or that nobody closes at all."""

from __future__ import annotations

import asyncio  # async-only
import contextlib
import gc  # async-only
import logging
import threading
import time
from typing import Any

import pytest

import pgroute  # async-only
from pgroute import AsyncRouter, Event, EventKind, Role, RouterClosed
from pgroute._async.pool.lease import lease_of
from pgroute.monitor.thread import Monitor  # async-only
from pgroute.testing import LocalCluster
from tests.support import AsyncBackground, async_eventually

pytestmark = pytest.mark.cluster


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pgroute-")]


async def test_who_closes_a_router_that_is_being_closed_waits_for_that(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn)
    await router.open()
    conn = await router.getconn("writer")
    async with AsyncBackground() as background:
        first = background.start(router.close)
        await async_eventually(lambda: "closing" in repr(router))
        second = background.start(router.close)
        until = time.monotonic() + 0.1
        await async_eventually(lambda: second.done() or time.monotonic() > until)
        await router.putconn(conn)
        await second.result()
        assert "closed" in repr(router), "the second returned before the first"
        await first.result()


async def test_who_has_less_patience_ends_the_wait_of_the_first(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn)
    await router.open()
    conn = await router.getconn("writer")
    async with AsyncBackground() as background:
        begun = time.monotonic()
        first = background.start(router.close, 60.0)
        await async_eventually(lambda: "closing" in repr(router))
        await router.close(timeout=0.0)
        await first.result()
        assert time.monotonic() - begun < 10.0
    await router.putconn(conn)


async def test_a_router_closed_while_it_is_opened_is_closed_in_the_end(shared: LocalCluster) -> None:
    async def open_it(router: AsyncRouter[Any]) -> None:
        with contextlib.suppress(RouterClosed):
            await router.open()

    for _ in range(20):
        router = AsyncRouter(shared.dsn)
        async with AsyncBackground() as background:
            opening = background.start(open_it, router)
            await router.close()
            await opening.result()
        await router.close()
        assert "closed" in repr(router)
        await async_eventually(lambda: ours() == [])


async def test_a_router_that_was_never_opened_ends_its_subscribers(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn)
    router.subscribe(print)
    await router.close()
    await async_eventually(lambda: ours() == [])


async def test_sessions_that_are_aborted_during_the_close_are_told_in_the_log(
    mended: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pgroute")
    told: list[Any] = []
    router = AsyncRouter(mended.dsn)
    router.subscribe(told.append)
    await router.open(wait=True)
    conn: Any = await router.getconn("writer")
    key = router.topology.primary.key  # type: ignore[union-attr]
    reconciler = router._manager.lifecycle.reconciler
    assert reconciler is not None
    stop = router._manager.watch.stop

    def abort_and_stop() -> None:
        # As the watch does at the last moment.
        reconciler.abort(key, lease_of(conn).pool.address, "too late")
        stop()

    router._manager.watch.stop = abort_and_stop  # type: ignore[method-assign]
    router._manager.pools[Role.WRITER].abort_all = lambda: 0  # type: ignore[method-assign]
    await router.close(timeout=0.0)
    assert [event for event in told if event.kind is EventKind.SESSIONS_ABORTED]
    assert "aborted 1 sessions: too late" in caplog.text
    await router.putconn(conn)


async def test_a_function_that_subscribed_twice_is_told_until_both_have_ended(shared: LocalCluster) -> None:
    told: list[Any] = []
    router = AsyncRouter(shared.dsn)
    first = router.subscribe(told.append)
    router.subscribe(told.append)
    first()
    first()
    async with router:
        await async_eventually(lambda: told)
    assert len({id(event) for event in told}) == len(told)


async def test_a_stuck_subscriber_is_not_waited_for_for_ever(shared: LocalCluster) -> None:
    release = threading.Event()

    def stick(_: object) -> None:
        release.wait(30)

    router = AsyncRouter(shared.dsn)
    router.subscribe(stick)
    await router.open(wait=True)
    event = Event(EventKind.NO_PRIMARY, 0.0, None, "made up")
    router._manager.dispatcher.put((event,) * 2000)
    assert router.stats().events_dropped > 0
    begun = time.monotonic()
    await router.close()
    assert time.monotonic() - begun < 6.0
    release.set()
    await async_eventually(lambda: ours() == [])


# async-only: begin
QUICK = pgroute.ProbeOptions(interval=0.05)


@pytest.mark.parametrize("kept", [True, False])
async def test_a_router_that_is_not_closed_is_not_watched_for_when_its_loop_has_ended(
    shared: LocalCluster, kept: bool
) -> None:
    routers: list[AsyncRouter[Any]] = []

    async def leave_open() -> None:
        router = AsyncRouter(shared.dsn, probe=QUICK)
        await router.open(wait=True)
        async with router.writer() as conn:
            await conn.execute("SELECT 1")
        if kept:
            routers.append(router)

    await asyncio.to_thread(asyncio.run, leave_open())
    gc.collect()
    await async_eventually(lambda: Monitor._current is None)
    await async_eventually(lambda: ours() == [])
    routers.clear()
    gc.collect()


@pytest.mark.parametrize("kept", [True, False])
async def test_nor_when_its_hosts_go_on_refusing_and_nothing_changes(kept: bool) -> None:
    routers: list[AsyncRouter[Any]] = []

    async def leave_open() -> None:
        with pgroute.testing.FaultProxy(("127.0.0.1", 1)) as proxy:
            router = AsyncRouter(f"host=127.0.0.1 port={proxy.port}", probe=QUICK)
            await router.open()
            await async_eventually(lambda: router.topology.initial_scan_done)
            probes = proxy.attempts
            await async_eventually(lambda: proxy.attempts >= probes + 3)  # they change nothing
            if kept:
                routers.append(router)

    await asyncio.to_thread(asyncio.run, leave_open())
    gc.collect()
    await async_eventually(lambda: Monitor._current is None)
    await async_eventually(lambda: ours() == [])
    routers.clear()
    gc.collect()


@pytest.mark.parametrize("awaits", range(6))
async def test_a_close_that_is_cancelled_at_any_await_leaves_nothing(
    shared: LocalCluster, awaits: int
) -> None:
    router = AsyncRouter(shared.dsn, writer=pgroute.PoolOptions(min_size=2))
    await router.open(wait=True)
    await router.wait("reader")
    conn = await router.getconn("writer")
    closer = asyncio.create_task(router.close())
    for _ in range(awaits):
        await asyncio.sleep(0)  # to its next await
    closer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await closer
    await router.close(timeout=0.0)
    assert "closed" in repr(router)
    assert all(pool.closed for role in router._manager.pools.values() for pool in role._retired)
    assert not [pool for role in router._manager.pools.values() for pool in role._pools]
    await router.putconn(conn)
    await async_eventually(lambda: ours() == [])


async def test_a_close_that_is_cancelled_twice_is_finished_by_the_next(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = AsyncRouter(shared.dsn)
    await router.open(wait=True)
    stop, stopping, go_on = router._manager.watch.stop, threading.Event(), threading.Event()

    def slowly() -> None:
        stopping.set()
        assert go_on.wait(10)
        stop()

    monkeypatch.setattr(router._manager.watch, "stop", slowly)
    closer = asyncio.create_task(router.close())
    await async_eventually(stopping.is_set)
    for _ in range(3):
        closer.cancel()
        await asyncio.sleep(0)  # the cancellation reaches it
    with pytest.raises(asyncio.CancelledError):
        await closer
    go_on.set()
    await router.close()
    assert "closed" in repr(router)
    await async_eventually(lambda: ours() == [])


# async-only: end
