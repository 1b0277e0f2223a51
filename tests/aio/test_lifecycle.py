"""Opening, closing, and what is left after it: nothing."""

from __future__ import annotations

import asyncio  # async-only
import gc
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgroute import (
    AsyncRouter,
    CommitUnknown,
    ConfigError,
    NoHostAvailable,
    PoolOptions,
    RouteError,
    RouterClosed,
)
from pgroute.core.model.roles import Role
from pgroute.testing import LocalCluster, Node
from tests.aio.workload import key
from tests.support import AsyncBackground, async_call, async_eventually, within

pytestmark = pytest.mark.cluster

ONE = PoolOptions(max_size=1)
ROOT = Path(__file__).parents[2]


def probes(node: Node) -> int:
    """Return the number of probe connections that a server sees."""
    [(count,)] = node.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%pgroute-monitor'"
    )
    return int(count)


def monitors() -> int:
    return sum(thread.name == "pgroute-monitor" for thread in threading.enumerate())


async def session(router: AsyncRouter[Any]) -> None:
    async with router.writer() as conn:
        await conn.execute("SELECT 1")


async def test_the_constructor_contacts_nobody() -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        router: AsyncRouter[Any] = AsyncRouter(f"host=127.0.0.1 port={server.getsockname()[1]}")
        assert router.topology.primary is None
        assert threading.active_count() == before
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_a_router_that_was_never_opened_says_so(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn)
    assert router.closed
    with pytest.raises(RouterClosed, match="never opened"):
        await session(router)
    with pytest.raises(RouterClosed, match="never opened"):
        router.forget_timeline()
    await router.close()
    with pytest.raises(RouterClosed, match="is closed"):
        await session(router)


async def test_a_closed_router_gives_no_session_and_cannot_be_opened_again(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        told = [router.closed]
        await session(router)
    assert [*told, router.closed] == [False, True]
    for use in (session(router), router.wait(), router.open()):  # async-only
        with pytest.raises(RouterClosed, match="is closed"):  # async-only
            await use  # async-only
    # sync-only: for use in (lambda: session(router), router.wait, router.open):
    # sync-only:     with pytest.raises(RouterClosed, match="is closed"):
    # sync-only:         use()
    assert "closed" in repr(router)


@pytest.mark.parametrize(
    "arguments",
    [{"wait": "no"}, {"wait": 1}, {"timeout": -5}, {"timeout": "1"}, {"wait": True, "timeout": None}],
)
async def test_arguments_that_cannot_be_used_open_no_router(arguments: dict[str, Any]) -> None:
    router = AsyncRouter("host=127.0.0.1 port=1")
    with pytest.raises(ConfigError, match="expected"):
        await router.open(**arguments)
    assert router.closed
    assert "new" in repr(router)
    await router.close()


async def test_opening_and_closing_twice_is_once(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn)
    await router.open()
    await router.open()
    await async_eventually(lambda: router.topology.primary)
    assert probes(shared.primary) == 1
    await router.close()
    await router.close()


async def test_close_waits_for_the_sessions_in_flight(shared: LocalCluster, table: str) -> None:
    begun = threading.Event()

    async def work(router: AsyncRouter[Any]) -> None:
        async with router.writer() as conn:
            begun.set()
            await conn.execute(f"INSERT INTO {table} SELECT 1 FROM pg_sleep(0.3)")
            assert router.closed  # from the beginning of the close

    router = AsyncRouter(shared.dsn)
    await router.open()
    async with AsyncBackground() as background:
        worker = background.start(work, router)
        await async_eventually(begun.is_set)
        await router.close()
        assert shared.primary.execute(f"SELECT count(*) FROM {table}") == [(1,)]
        await worker.result()


async def test_close_aborts_sessions_that_outlast_its_timeout(shared: LocalCluster) -> None:
    begun = threading.Event()

    async def work(router: AsyncRouter[Any]) -> None:
        async with router.writer() as conn:
            begun.set()
            await conn.execute("SELECT pg_sleep(60)")

    router = AsyncRouter(shared.dsn)
    await router.open()
    async with AsyncBackground() as background:
        worker = background.start(work, router)
        await async_eventually(begun.is_set)
        closed_at = time.monotonic()
        await router.close(timeout=0.2)
        assert 0.2 <= time.monotonic() - closed_at < within(1.0)
        with pytest.raises(psycopg.OperationalError):
            await worker.result(1.0)
    await async_call(end_sleepers, shared.primary)


async def test_with_a_connection_check_the_server_ends_what_close_has_aborted(
    shared: LocalCluster, table: str
) -> None:
    begun = threading.Event()

    async def work(router: AsyncRouter[Any]) -> None:
        async with router.writer() as conn:
            await conn.execute(f"INSERT INTO {table} VALUES (1)")
            begun.set()
            await conn.execute("SELECT pg_sleep(60)")

    checking = PoolOptions(kwargs={"options": "-c client_connection_check_interval=50ms"})
    router = AsyncRouter(shared.dsn, writer=checking)
    await router.open()
    async with AsyncBackground() as background:
        worker = background.start(work, router)
        await async_eventually(begun.is_set)
        await router.close(timeout=0)
        with pytest.raises(psycopg.OperationalError):
            await worker.result(1.0)
    closed_at = time.monotonic()
    await async_call(
        shared.primary.execute, f"INSERT INTO {table} VALUES (1)"
    )  # waits for the lock of the first
    assert time.monotonic() - closed_at < within(5.0)


def end_sleepers(node: Node) -> None:
    """The server does not notice that a client is gone while it sleeps."""
    node.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
    )


async def test_a_session_returned_after_the_close_is_closed_too(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn)
    await router.open()
    conn = await router.getconn("writer")
    await router.close(timeout=0)
    await router.putconn(conn)
    assert conn.closed


async def test_close_waits_for_all_that_hangs_at_the_same_time(shared: LocalCluster) -> None:
    release = threading.Event()
    configuring: list[object] = []
    told: list[object] = []

    async def configure(conn: Any) -> None:
        configuring.append(conn)
        await async_call(release.wait, 60.0)

    def subscriber(event: object) -> None:
        told.append(event)
        release.wait(60.0)

    async def refused(role: Any) -> None:
        with pytest.raises(RouterClosed):
            await router.getconn(role)

    router = AsyncRouter(shared.dsn, configure=configure)
    router.subscribe(subscriber)
    await router.open()
    async with AsyncBackground() as background:
        waiters = [background.start(refused, role) for role in ("writer", "reader")]
        await async_eventually(lambda: told and len(configuring) >= 2)
        begun = time.monotonic()
        await router.close(timeout=0)
        taken = time.monotonic() - begun
        release.set()
        for waiter in waiters:
            await waiter.result()
    assert taken < within(3.2), "2 s in all"


@pytest.mark.parametrize("when", ["before", "during"])
async def test_close_does_not_wait_for_connections_that_were_lost(shared: LocalCluster, when: str) -> None:
    router = AsyncRouter(shared.dsn)
    await router.open()
    lent = [await router.getconn("writer")]
    begun = time.monotonic()
    if when == "before":
        lent.clear()
        gc.collect()
        await router.close(timeout=30)
    else:
        async with AsyncBackground() as background:
            closing = background.start(router.close, 30.0)
            retired = router._manager.pools[Role.WRITER]._retired
            await async_eventually(lambda: [pool for pool in retired if pool.closed])
            lent.clear()
            gc.collect()
            await closing.result()
    assert time.monotonic() - begun < within(5.0)


async def test_an_idle_transaction_aborted_by_close_is_lost(shared: LocalCluster, table: str) -> None:
    router = AsyncRouter(shared.dsn)
    await router.open()
    with pytest.raises(RouteError) as caught:
        async with router.writer() as conn:
            await conn.execute(f"INSERT INTO {table} VALUES (1)")
            await router.close(timeout=0)
    assert not isinstance(caught.value, CommitUnknown)
    assert shared.primary.execute(f"SELECT count(*) FROM {table}") == [(0,)]


async def test_callers_who_queue_are_told_at_once_when_the_router_closes(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn, writer=ONE)
    await router.open()
    conn = await router.getconn("writer")

    async def refused(role: str) -> float:
        with pytest.raises(RouterClosed, match="is closed"):
            await router.getconn("writer")
        return time.monotonic()

    async with AsyncBackground() as background:
        waiters = [background.start(refused, "writer") for _ in range(5)]
        await async_eventually(lambda: router.get_stats()["writer"].get("requests_waiting") == 5)
        closed_at = time.monotonic()
        closing = background.start(router.close)
        told_at = [await waiter.result() for waiter in waiters]
        assert max(told_at) - closed_at < within(0.3)
        await router.putconn(conn)
        await closing.result()
        assert time.monotonic() - closed_at < within(1.0)


async def test_callers_who_wait_for_a_host_are_told_at_once_when_the_router_closes() -> None:
    router: AsyncRouter[Any] = AsyncRouter("host=127.0.0.1 port=1")
    await router.open()

    async def refused() -> float:
        with pytest.raises(RouterClosed, match="is closed"):
            await router.getconn("writer")
        return time.monotonic()

    async with AsyncBackground() as background:
        waiters = [background.start(refused) for _ in range(5)]
        with pytest.raises(NoHostAvailable):
            await router.wait(timeout=0.2)
        closed_at = time.monotonic()
        await router.close()
        told_at = [await waiter.result() for waiter in waiters]
    assert max(told_at) - closed_at < within(0.3)


async def test_routers_share_one_thread_and_one_probe_connection_for_each_host(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as one:
        await one.wait()
        async with AsyncRouter(shared.dsn) as two:
            await two.wait()
            await async_eventually(lambda: all(host.usable for host in two.topology.hosts))
            assert [probes(node) for node in shared.nodes] == [1, 1, 1]
            assert monitors() == 1
        await session(one)
        assert [probes(node) for node in shared.nodes] == [1, 1, 1]
    assert monitors() == 0


async def test_routers_opened_and_closed_in_numbers_leave_nothing(shared: LocalCluster) -> None:
    for _ in range(10):
        async with AsyncRouter(shared.dsn) as router:
            await session(router)
    async with AsyncBackground() as background:
        workers = [background.start(once, shared.dsn) for _ in range(10)]
        for worker in workers:
            await worker.result()


async def once(dsn: str) -> None:
    async with AsyncRouter(dsn) as router:
        await session(router)


async def test_a_router_closed_at_once_leaves_nothing(shared: LocalCluster) -> None:
    for _ in range(20):
        async with AsyncRouter(shared.dsn):
            pass


async def test_a_router_closed_while_it_connects_leaves_nothing(shared: LocalCluster) -> None:
    for delay in range(20):
        router = AsyncRouter(shared.dsn, writer=PoolOptions(min_size=3))
        await router.open()
        async with AsyncBackground() as background:
            worker = background.start(router.wait)
            await asyncio.sleep(delay / 1000)
            await router.close()
            try:
                await worker.result()
            except RouterClosed:
                continue


@pytest.mark.parametrize("phase", ["login", "check"])
async def test_a_router_closed_while_it_connects_to_a_frozen_host_leaves_nothing(
    mended: LocalCluster, phase: str
) -> None:
    old = mended.nodes[0]
    connected: list[float] = []

    async def configure(conn: Any) -> None:
        connected.append(time.monotonic())
        await async_call(old.freeze)
        await conn.execute("SELECT 1")

    router = AsyncRouter(mended.dsn, configure=configure if phase == "check" else None)
    await router.open()
    async with AsyncBackground() as background:
        await async_eventually(lambda: all(host.usable for host in router.topology.hosts))
        if phase == "login":
            await async_call(old.freeze)
        waiter = background.start(router.wait)
        if phase == "check":
            await async_eventually(lambda: connected)
        else:
            await async_eventually(lambda: router._manager.pools[Role.WRITER].pool(key(old)))
        begun = time.monotonic()
        await router.close()
        with pytest.raises(RouterClosed):
            await waiter.result()
        await async_eventually(lambda: not [t for t in threading.enumerate() if "writer" in t.name])
    assert time.monotonic() - begun < within(1.5), "psycopg's timeouts are of 2 s at least, ours of 5 s"


# async-only: begin
async def test_a_connection_passed_on_just_before_the_close_becomes_no_session(shared: LocalCluster) -> None:
    router = AsyncRouter(shared.dsn, writer=ONE)
    await router.open()
    async with router.writer():
        waiter = asyncio.create_task(session(router))
        await async_eventually(lambda: router.get_stats()["writer"]["requests_waiting"])
    await router.close(timeout=0)
    with pytest.raises(RouterClosed, match="is closed"):
        await waiter


async def test_a_close_that_is_cancelled_leaves_nothing(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = AsyncRouter(shared.dsn)
    await router.open()
    await session(router)
    stop, stopping, cancelled = router._manager.watch.stop, threading.Event(), threading.Event()

    def slowly() -> None:
        stopping.set()
        assert cancelled.wait(10)
        stop()

    monkeypatch.setattr(router._manager.watch, "stop", slowly)
    closer = asyncio.create_task(router.close())
    await async_eventually(stopping.is_set)
    closer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closer
    cancelled.set()


# async-only: end
# The end of the interpreter.

SCRIPT = """
import asyncio, sys
import pgroute

async def main():
    router = pgroute.AsyncRouter(sys.argv[1])
    await router.open()
    async with router.writer() as conn:
        await conn.execute("SELECT 1")
    conn = await router.getconn("reader")
    {end}

asyncio.run(main())  # async-only
# sync-only: main()
"""


@pytest.mark.parametrize(
    "end",
    [
        "await router.putconn(conn); await router.close()",
        "await router.putconn(conn)",
        "pass",
        "globals().update(router=router, conn=conn)",
    ],
    ids=["closed", "open", "session-open", "kept"],
)
async def test_the_interpreter_ends_quietly_and_soon(shared: LocalCluster, end: str) -> None:
    def run() -> tuple[float, str]:
        began_at = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SCRIPT).format(end=end), shared.dsn],
            capture_output=True,
            text=True,
            timeout=30,
            cwd=ROOT,
            check=True,
        )
        return time.monotonic() - began_at, done.stdout + done.stderr

    taken, said = await async_call(run)
    lost = end == "pass" and said.endswith(" was lost by its caller, and is closed\n")
    assert said == "" or (lost and said.count("\n") == 1)
    assert taken < within(5.0)


# async-only: begin
async def test_another_event_loop_is_told_to_open_its_own(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        await session(router)
        with pytest.raises(RouteError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, session(router))
        await session(router)


async def test_a_close_in_another_event_loop_is_told_to_close_there(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        await session(router)
        with pytest.raises(RouteError, match="another event loop: close it there"):
            await asyncio.to_thread(asyncio.run, router.close())
        await session(router)


@pytest.mark.parametrize("tasks", ["cancelled", "forgotten"])
async def test_a_router_whose_event_loop_is_closed_can_be_closed(shared: LocalCluster, tasks: str) -> None:
    router = AsyncRouter(shared.dsn)
    lent: list[Any] = []

    async def use() -> None:
        await router.open(wait=True)
        lent.append(await router.getconn("writer"))

    def run() -> float:
        if tasks == "cancelled":
            asyncio.run(use())
        else:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(use())
            loop.close()
        begun = time.monotonic()
        asyncio.run(router.close())
        asyncio.run(router.close())
        return time.monotonic() - begun

    assert await async_call(run) < within(1.5)
    assert "closed" in repr(router)
    with pytest.raises(RouterClosed, match="is closed"):
        await session(router)
    with pytest.raises(psycopg.OperationalError):
        await lent[0].execute("SELECT 1")


async def test_a_router_in_each_event_loop(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        await asyncio.gather(
            session(router), *(asyncio.to_thread(asyncio.run, once(shared.dsn)) for _ in range(5))
        )


# async-only: end
