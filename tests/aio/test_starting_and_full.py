"""Hosts that answer, but let nobody in for now: 57P03 while they start or recover, 53300 while they are full."""

from __future__ import annotations

import asyncio  # async-only
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any, Self

import psycopg
import psycopg_pool
import pytest

from pgroute import AsyncRouter, Event, HostState, NoHostAvailable, PoolOptions
from pgroute.testing import LocalCluster, Node
from tests import support
from tests.aio.workload import key, make_table, read, reason, state, write
from tests.support import AsyncBackground, async_call, async_eventually, dsn_with, within

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]


class Hold:
    """Makes a server stop in the middle of its next start or crash recovery, where it reads one of its files.

    That file is a pipe until `release`, or until the block is left.
    """

    def __init__(self, node: Node) -> None:
        self._path = node.data_dir / "pg_logical" / "replorigin_checkpoint"

    def __enter__(self) -> Self:
        self._file = self._path.rename(self._path.with_suffix(".kept"))
        owner = self._file.stat()
        os.mkfifo(self._path)
        shutil.chown(self._path, owner.st_uid, owner.st_gid)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file.exists() and not self._let_go():
            self._file.replace(self._path)

    def release(self) -> None:
        """Let the server go on."""
        support.eventually(self._let_go)

    def _let_go(self) -> bool:
        try:
            pipe = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet
            return False
        os.write(pipe, self._file.read_bytes())
        self._file.replace(self._path)
        os.close(pipe)
        return True


async def test_a_primary_that_starts_for_a_while_is_tried_soon_again_and_serves(mended: LocalCluster) -> None:
    def refusals() -> int:
        return node.log().count("FATAL:  the database system is starting up")

    make_table(mended)
    node, *standbys = mended.nodes
    for standby in standbys:
        standby.stop("fast")  # they, too, would try to connect
    before = refusals()
    async with AsyncRouter(mended.dsn) as router, AsyncBackground() as background:
        await write(router, 0)
        begun_at = time.monotonic()
        await async_call(node.stop, "fast")
        with Hold(node) as hold:
            await async_call(node.start, wait=False)
            # It may have been asked while it shut down, too.
            await async_eventually(lambda: "the database system is starting up" in reason(router, node))
            assert state(router, node) is HostState.STARTING
            writers = [background.start(write, router, number) for number in range(1, 11)]
            await asyncio.sleep(1.0)
            assert state(router, node) is HostState.STARTING
            assert not any(writer.done() for writer in writers)
            await async_call(hold.release)
            await async_call(node.wait_ready)
        ready_at = time.monotonic()
        late = max([(await writer.result()).ended for writer in writers]) - ready_at
        tried = refusals() - before
    print(
        f"served {late * 1000:.0f} ms after it was ready, tried {tried} times in {ready_at - begun_at:.1f} s"
    )
    assert late < within(1.0)
    assert 3 <= tried <= 5 * (ready_at - begun_at) + 1, "at least 200 ms apart, ten waiting or not"


async def test_a_primary_in_crash_recovery_is_waited_for_while_readers_go_on(mended: LocalCluster) -> None:
    make_table(mended)
    node, *standbys = mended.nodes
    events: list[Event] = []
    async with AsyncRouter(mended.dsn) as router, AsyncBackground() as background:
        pid = (await write(router, 0)).pid
        await async_eventually(lambda: all(host.usable for host in router.topology.hosts))
        unsubscribe = router.subscribe(events.append)
        with Hold(node) as hold:
            os.kill(pid, signal.SIGKILL)  # PostgreSQL then ends all sessions and recovers
            await async_eventually(lambda: state(router, node) is HostState.STARTING)
            host = router.topology.host(key(node))
            assert host is not None
            assert "FATAL:  the database system is in recovery mode" in host.reason
            writers = [background.start(write, router, number) for number in range(1, 11)]
            assert {(await read(router)).port for _ in range(10)} <= {standby.port for standby in standbys}
            assert not any(writer.done() for writer in writers)
            await async_call(hold.release)
        released_at = time.monotonic()
        late = max([(await writer.result()).ended for writer in writers]) - released_at
        unsubscribe()
    print(f"served {late * 1000:.0f} ms after the recovery was let go on")
    assert late < within(2.0)
    assert not any(event.after and event.after.state is HostState.REJECTED for event in events)


# Full hosts.


@contextlib.contextmanager
def filled(node: Node, user: str = "app") -> Iterator[None]:
    """Take every connection that is left for *user* at a server."""
    with contextlib.ExitStack() as stack:
        with pytest.raises(
            psycopg.OperationalError, match=r"too many connections for|remaining connection slots"
        ):
            while True:
                stack.enter_context(psycopg.connect(node.conninfo, user=user))
        yield


@pytest.fixture
def app_dsn(mended: LocalCluster) -> Iterator[str]:
    """Give the DSN of a role that is not a superuser and has no limit but the server's."""
    mended.primary.execute(f"CREATE ROLE app LOGIN PASSWORD '{mended.password}'")
    mended.catch_up()
    yield dsn_with(mended.dsn, user="app")
    mended.primary.execute("DROP ROLE app")


@pytest.fixture
def limited(mended: LocalCluster, app_dsn: str) -> None:
    """Let that role have five connections at each server."""
    mended.primary.execute("ALTER ROLE app CONNECTION LIMIT 5")
    mended.catch_up()


async def pids_of(router: AsyncRouter[Any], role: Any, count: int) -> list[tuple[int, int]]:
    """Return port and backend of sessions that are open at the same time."""
    conns = [await router.getconn(role, timeout=5.0) for _ in range(count)]
    for conn in conns:
        await router.putconn(conn)
    return [(conn.info.port, conn.info.backend_pid) for conn in conns]


async def test_a_standby_that_is_full_keeps_its_sessions_while_another_takes_the_new_ones(
    mended: LocalCluster, app_dsn: str, limited: None
) -> None:
    _, full, other = mended.nodes

    def refusals() -> int:
        return full.log().count('FATAL:  too many connections for role "app"')

    async with AsyncRouter(app_dsn, reader_attrs="standby", balance="ordered") as router:
        await async_eventually(lambda: all(host.usable for host in router.topology.hosts))
        [first] = await pids_of(router, "reader", 1)
        with filled(full):
            before, begun_at = refusals(), time.monotonic()
            served = await pids_of(router, "reader", 4)
            assert served[0] == first, "the idle connection still serves"
            assert {port for port, _ in served[1:]} == {other.port}
            host = router.topology.host(key(full))
            assert host is not None
            assert (host.state, host.usable, host.generation) == (HostState.BUSY, True, 0)
            assert "too many connections for role" in host.reason
            assert {(await read(router)).port for _ in range(10)} == {other.port}
            tried, took = refusals() - before, time.monotonic() - begun_at
            assert router.stats().reader.hosts[key(full)]["pool_available"] == 1, "kept for later"
        print(f"refused {tried} times in {took:.1f} s")
        await async_eventually(lambda: state(router, full) is HostState.UP)
        assert (await pids_of(router, "reader", 1)) == [first]
    assert tried <= 5 * took + 2


async def test_a_full_primary_serves_through_the_connections_that_it_let_in(
    mended: LocalCluster, app_dsn: str
) -> None:
    node = mended.nodes[0]
    options = PoolOptions(max_size=3)
    async with AsyncRouter(app_dsn, writer=options) as router, AsyncBackground() as background:
        [first] = await pids_of(router, "writer", 1)
        with filled(node):
            held = await router.getconn("writer")
            waiters = [background.start(pids_of, router, "writer", 1) for _ in range(3)]
            await async_eventually(lambda: state(router, node) is HostState.BUSY)
            with pytest.raises(psycopg_pool.PoolTimeout) as caught:
                await router.getconn("writer", timeout=0.5)
            assert "remaining connection slots are reserved" in str(caught.value)
            await router.putconn(held)
            for waiter in waiters:
                assert await waiter.result() == [first]
            host = router.topology.host(key(node))
            assert host is not None
            assert (host.state, host.generation) == (HostState.BUSY, 0)
            assert host is router.topology.primary
        assert len(set(await pids_of(router, "writer", 3))) == 3, "room again"


async def test_a_router_opens_while_the_primary_is_full_and_serves_when_it_is_not(
    mended: LocalCluster, app_dsn: str, limited: None
) -> None:
    node, *standbys = mended.nodes
    with filled(node):
        router = AsyncRouter(app_dsn)
        await router.open()
        assert (await read(router)).port in {standby.port for standby in standbys}
        with pytest.raises(NoHostAvailable, match=r"busy .*too many connections for role"):
            await router.wait(timeout=0.1)
    emptied_at = time.monotonic()
    await router.wait()
    assert time.monotonic() - emptied_at < within(2.0), "the next attempt, one interval after the last"
    await router.close()
